"""The event streams of jobs, which bring progress and previews, and wake the poller."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
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
#: The age in seconds from which a job gets a stream; shorter jobs end without one.
_AGE: Final = 0.15
#: The pauses before a stream is opened again, in seconds: the first, and the longest.
_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 10.0


@attrs.define(eq=False)
class _Stream:
    """The state of one job's event stream, over all attempts to read it."""

    translator: FrameTranslator
    pauses: Backoff = attrs.field(factory=lambda: Backoff(_PAUSE, _LONGEST_PAUSE))
    is_open: bool = False
    not_before: float = 0.0
    has_ended: bool = False  # it has said that its job has
    is_over: bool = False  # nothing more will come


class Streams:
    """The event streams of one client: one for each job, and at most six at a time.

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
        """Open streams up to the limit of six, for running jobs first, then for the oldest."""
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
            held = _held(weakref.ref(self), weakref.ref(one))
            thread = runtime.Thread(
                target=_follow,
                args=(self._routes, one.state.prompt_id, stream, held),
                name="comfy-stream",
                daemon=True,
            )
            try:
                thread.start()
            except RuntimeError:  # no more threads on this machine
                stream.is_open, stream.not_before = False, now + _LONGEST_PAUSE

    def take_polled(self, one: TrackedPrompt, progress: HostedProgress) -> None:
        """Publish the progress in the answer to a poll, unless the job has an open stream."""
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
        """Publish those events of a job that were not published yet; none after it has ended."""
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

    def wants(self, one: TrackedPrompt) -> bool:
        """Return whether more events of a job are wanted."""
        return not (one.state.decided or self._tracker.wake.stopped)

    def take(self, one: TrackedPrompt, stream: _Stream, frame: ServerEvent) -> None:
        """Publish the events in a stream's frame; poll the job if the frame reports its end."""
        self.publish(one, stream.translator.take(frame))
        if frame.status in ENDED:
            stream.has_ended = True
            self._tracker.poll_now(one)  # also if an older answer is on its way

    def end(self, one: TrackedPrompt, stream: _Stream, exc: Exception | None) -> None:
        """Record that a job's stream has ended, normally or with ``exc``, and poll the job."""
        pause = 0.0
        rest = [*stream.translator.rest()]  # if the stream broke, the next one repeats them all
        if exc is None:
            self.publish(one, rest)
            stream.is_over = stream.has_ended
        elif isinstance(exc, NotSupported):
            self._has_events = False
        elif isinstance(exc, Throttled):
            pause = exc.retry_after or _LONGEST_PAUSE
        elif isinstance(exc, ClientClosed):
            stream.is_over = True
        else:
            said = "prompt %s: its event stream ended: %s"
            self._tracker.log.debug(said, one.state.prompt_id, exc, exc_info=_bug(exc))
        stream.not_before = runtime.monotonic() + max(pause, stream.pauses.next())
        stream.is_open = False
        self._tracker.poll_now(one)


#: Returns the streams of a client and a job's prompt; None once either is no longer in use.
_Held = Callable[[], tuple[Streams, TrackedPrompt] | None]


def _held(owner: weakref.ref[Streams], prompt: weakref.ref[TrackedPrompt]) -> _Held:
    """Return a function that follows two weak references, so that it keeps nothing alive."""

    def get() -> tuple[Streams, TrackedPrompt] | None:
        streams, one = owner(), prompt()
        return None if streams is None or one is None else (streams, one)

    return get


def _follow(routes: HostedRoutes, prompt_id: str, stream: _Stream, held: _Held) -> None:
    """Read a job's stream to its end, in a thread that keeps no client alive while it waits."""

    def is_over() -> bool:
        found = held()
        return found is None or not found[0].wants(found[1])

    def end(exc: Exception | None) -> None:
        if (found := held()) is not None:
            found[0].end(found[1], stream, exc)

    def take(frame: ServerEvent) -> None:
        if (found := held()) is not None:
            found[0].take(found[1], stream, frame)

    try:
        with routes.events(prompt_id, is_over=is_over) as frames:
            for frame in frames:
                if is_over():
                    break
                take(frame)
    except Exception as exc:  # noqa: BLE001  # it is noted
        end(exc)
    else:
        end(None)


def _is_news(state: JobState, event: JobEvent) -> bool:
    """Return False for a start or outputs that were published already; True for other events."""
    if isinstance(event, ExecutionStart):
        return not state.started
    return not (isinstance(event, Executed) and event.node in state.reported)


def _bug(exc: Exception) -> Exception | None:
    """Return an exception if it shows a bug, so that its traceback is logged; else None."""
    return None if isinstance(exc, ComfyError) else exc
