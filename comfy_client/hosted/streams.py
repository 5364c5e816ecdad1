"""The event streams of jobs, which bring progress and previews, and wake the poller."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import attrs

from .. import runtime
from ..errors import ClientClosed, ComfyError, NotSupported, Throttled
from ..events import Executed, ExecutionStart, JobEvent
from ..jobs.prompt import TrackedPrompt
from ..jobs.state import JobState
from ..jobs.tracker import Tracker
from ..transport.backoff import Backoff
from .models import ENDED, HostedProgress, ServerEvent
from .routes import HostedRoutes
from .translation import FrameTranslator

#: The most streams at a time; the proxy allows eight in all.
MOST_STREAMS: Final = 6
#: The age in seconds from which a job gets a stream; shorter ones end without.
_AGE: Final = 0.15
#: The pauses before a stream is opened again, in seconds: the first, and the longest.
_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 10.0


@attrs.define(eq=False)
class _Stream:
    """The stream of one job, over all attempts to read it."""

    translator: FrameTranslator
    pauses: Backoff = attrs.field(factory=lambda: Backoff(_PAUSE, _LONGEST_PAUSE))
    is_open: bool = False
    not_before: float = 0.0
    is_over: bool = False  # nothing more will come


class Streams:
    """The event streams of one client; one for each job, and six at a time.

    Args:
        tracker: The tracker of the prompts, which gets the events.
        routes: The routes of the server.

    Attributes:
        turn: The lock that is held while an event or the end of a job is published, as each stream
            and the poller publish in threads of their own.
    """

    def __init__(self, tracker: Tracker, routes: HostedRoutes) -> None:
        self.turn: runtime.RLock = runtime.RLock()
        self._tracker = tracker
        self._routes = routes
        self._streams: dict[TrackedPrompt, _Stream] = {}
        self._has_events = True  # False once the server says that it has no streams

    def open_for(self, known: Sequence[TrackedPrompt]) -> None:
        """Open streams for the jobs that need one most: those that run, then the oldest."""
        now = runtime.monotonic()
        for one in [one for one in self._streams if one.state.decided]:
            if not self._streams[one].is_open:
                del self._streams[one]
        free = MOST_STREAMS - sum(stream.is_open for stream in self._streams.values())
        if free <= 0 or not self._has_events:
            return
        waiting = [one for one in known if self._is_due(one, now)]
        waiting.sort(key=lambda one: (one.state.running_since is None, one.state.posted_at))
        for one in waiting[:free]:
            stream = self._stream(one)
            stream.is_open = True
            thread = runtime.Thread(
                target=self._follow, args=(one, stream), name="comfy-stream", daemon=True
            )
            try:
                thread.start()
            except RuntimeError:  # no more threads on this machine
                stream.is_open, stream.not_before = False, now + _LONGEST_PAUSE

    def take_polled(self, one: TrackedPrompt, progress: HostedProgress) -> None:
        """Publish the progress that a poll has shown, unless a stream brings it."""
        stream = self._stream(one)
        if not stream.is_open:
            self.publish(one, stream.translator.take(ServerEvent("progress", progress.raw)))

    def _stream(self, one: TrackedPrompt) -> _Stream:
        found = self._streams.get(one)
        if found is None:
            fresh = _Stream(FrameTranslator(one.state.prompt_id, one.state.graph))
            found = self._streams.setdefault(one, fresh)
        return found

    def publish(self, one: TrackedPrompt, events: Iterable[JobEvent]) -> None:
        """Publish events of a job that are news, unless it has ended."""
        state = one.state
        for event in events:
            with self.turn:
                if state.decided:
                    return
                if _is_news(state, event):
                    due = state.check_at
                    self._tracker.handle(event)
                    state.news_by = "event stream"
                    state.check_at = min(due, state.check_at)  # events only add to polling

    def _is_due(self, one: TrackedPrompt, now: float) -> bool:
        state, stream = one.state, self._streams.get(one)
        if state.decided or state.search_by_mark or now - (state.accepted_at or now) < _AGE:
            return False
        return stream is None or not (stream.is_open or stream.is_over or now < stream.not_before)

    def _follow(self, one: TrackedPrompt, stream: _Stream) -> None:
        """Read a stream until it ends, in a thread of its own."""
        pause = 0.0
        try:
            stream.is_over = self._read(one, stream.translator)
        except ClientClosed:
            stream.is_over = True
        except NotSupported:
            self._has_events = False
        except Throttled as exc:
            pause = exc.retry_after or _LONGEST_PAUSE
        except Exception as exc:  # polling brings the end all the same
            said = "prompt %s: its event stream ended: %s"
            self._tracker.log.debug(said, one.state.prompt_id, exc, exc_info=_bug(exc))
        finally:
            stream.not_before = runtime.monotonic() + max(pause, stream.pauses.next())
            stream.is_open = False
        self._tracker.poll_now(one)

    def _read(self, one: TrackedPrompt, translator: FrameTranslator) -> bool:
        """Publish the events of a stream; return whether the job has ended."""
        tracker, state = self._tracker, one.state
        has_ended = False

        def is_over() -> bool:
            return state.decided or tracker.wake.stopped

        with self._routes.events(state.prompt_id, is_over=is_over) as frames:
            for frame in frames:
                if is_over():
                    return True
                self.publish(one, translator.take(frame))
                if frame.status in ENDED:
                    has_ended = True
                    tracker.poll_now(one)  # also if an older answer is on its way
            self.publish(one, translator.rest())
        return has_ended


def _is_news(state: JobState, event: JobEvent) -> bool:
    """Return whether an event says more than was published; polls and streams say the same."""
    if isinstance(event, ExecutionStart):
        return not state.started
    return not (isinstance(event, Executed) and event.node in state.reported)


def _bug(exc: Exception) -> Exception | None:
    """Return an exception if it shows a bug, so that its traceback is logged; else None."""
    return None if isinstance(exc, ComfyError) else exc
