"""All requests about prompts (submit, look up, stop), and a thread that polls without events.

The thread asks for the queue and the history after each (re)connect, while there is no WebSocket,
and whenever a prompt has been silent for a few seconds.  One pass serves all prompts; the thread
exists while there are any.
"""

from __future__ import annotations

import contextlib
import copy
import math
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

from .. import models, runtime
from ..errors import (
    ApiError,
    AuthenticationError,
    ClientClosed,
    ComfyError,
    PromptRejected,
    ServerUnreachable,
    SubmitUncertain,
    Throttled,
    TransportError,
    UnexpectedResponse,
)
from ..routes import Routes
from ..routes.definitions import NodeDefinitions
from ..routes.prompts import post_prompt
from ..timing import Timing
from ..transport.deadline import LONGEST, Backoff, Deadline, limited_silence, read_timeout
from ..transport.failures import is_away
from ..transport.http import Http
from .lookup import EarlierPrompts, KnownIds, find, find_earlier
from .prompt import Prompt
from .state import Outcome, PromptState, QueueSnapshot
from .stopping import Stops, stop_by_id
from .tracker import Tracker, WakeUp

#: The refusals in a row after which known facts decide: for login pages and 401, and for others.
MAX_REFUSALS: Final = 3
MAX_OTHER_ERRORS: Final = 8
#: The number of empty look-ups in a row, over some seconds, that prove that a prompt is missing.
EMPTY_LOOKUPS: Final = 3
#: How often ``resubmit=True`` repeats a submission that left no trace.
REPEATS: Final = 2
#: The longest time in seconds that a server's ``Retry-After`` delays the next question.
LONGEST_PAUSE: Final = 30.0
#: The unfinished prompts in queue order after which later ones count as unfinished, too.
AHEAD: Final = 4


class Poller:
    """The part of a client that sends, finds, stops and asks about its prompts over HTTP.

    The client owns it; its thread holds it weakly.

    Attributes:
        tracker: The tracker of the prompts.
        timing: The intervals and timeouts of the client.
        trouble: The error of the last HTTP requests; ``None`` while they succeed.
        troubled_at: When that error came, on the monotonic clock.
        answered_at: When the server last answered a request about prompts, on that clock.
        stops: The prompts that were told to stop, and have not ended.
        least_pause: The shortest pause between two passes, in seconds.
        check_every: Seconds between two checks of whether an idle server without a socket answers.
        without_socket: A clause for :meth:`Job.why` while there is no socket.
        finds_lost_prompts: Whether a server can say for certain that it never got a prompt.
    """

    finds_lost_prompts: bool = True
    least_pause: float = 0.01
    check_every: float = 1.0
    without_socket: str = "; no socket, asking over HTTP"

    def __init__(self, tracker: Tracker, definitions: NodeDefinitions | None = None) -> None:
        self.tracker = tracker
        self._definitions = definitions or NodeDefinitions(tracker.http, lambda: tracker.link)
        timing = tracker.timing
        self.timing: Timing = timing
        self.trouble: ComfyError | None = None
        self.troubled_at: float = float("-inf")
        self.answered_at: float = float("-inf")
        self.stops: Stops = Stops(tracker)
        self._backoff = Backoff(timing.question_pause, timing.silence_cap, jitter=0.3)
        self._thread: runtime.Thread | None = None
        self._idle_since = 0.0

    def start(self) -> None:
        """Start the thread, unless it is running."""
        with self.tracker.lock:
            thread = self._thread  # maybe not started, after a Ctrl-C
            if (thread is None or thread.ident is None) and not self.tracker.wake.stopped:
                # Daemon, so that a script may end while prompts run.
                self._thread = runtime.Thread(
                    target=_poll,
                    args=(weakref.ref(self), self.tracker.wake),
                    name="comfy-jobs",
                    daemon=True,
                )
                self._thread.start()

    def is_this_thread(self) -> bool:
        """Return whether the caller is the poller's thread."""
        return runtime.current_thread() is self._thread

    def awaits_record(self, prompt_id: str) -> bool:
        """Return whether a prompt has just ended and its history record may still follow."""
        ending = self.tracker.ended.get(prompt_id)
        # The poller's own thread checks again by itself.
        return ending is not None and runtime.monotonic() < ending.due and not self.is_this_thread()

    def records_deleted(self, prompt_ids: Iterable[str] | None) -> None:
        """Stop awaiting the records of these prompts, or of all prompts if None."""
        ended = self.tracker.ended
        found = ended.values() if prompt_ids is None else map(ended.get, prompt_ids)
        for ending in found:
            if ending is not None:
                ending.due = 0.0

    def wait_until(self, happened: Callable[[], bool], seconds: float) -> None:
        """Wait up to ``seconds`` until ``happened()``; return immediately in the poller's thread.

        This takes no lock, as a Ctrl-C could leave it held.
        """
        deadline = Deadline.after(seconds)
        while not self.is_this_thread() and not deadline.expired:
            if happened():
                return
            runtime.sleep(0.002)

    # -- what differs between the APIs of servers --------------------------------------------

    def free_by(self, deadline: Deadline) -> Deadline:
        """Return until when a call with a deadline waits for a server that takes no requests."""
        return Deadline.after(self.timing.throttled) if math.isinf(deadline.at) else deadline

    def post(
        self, prompt: Prompt, body: Mapping[str, Any], deadline: Deadline, *, resubmit: bool
    ) -> models.QueuedPrompt:
        """Send a prompt; if no answer comes, find out whether the server has it."""
        return post(
            self.tracker, self._definitions, prompt.state, body, deadline, resubmit=resubmit
        )

    def search(self, prompt_id: str, client_id: str, deadline: Deadline) -> str | None:
        """Return the server's id of a prompt, found by its id or mark; None if it is not there.

        The mark counts only with the ``client_id`` of the submission.
        """
        return find(self.tracker.http, prompt_id, client_id, deadline)

    def find_earlier(self, known_ids: KnownIds, ended: Collection[str]) -> EarlierPrompts:
        """Look for an earlier process's prompts; ``ended`` are the ids of some that had ended."""
        return find_earlier(self.tracker.routes(), known_ids)

    def has_record(self, prompt_id: str) -> bool:
        """Return whether the history has a prompt that was not found in the queue before."""
        return self.tracker.routes().get_history(prompt_id) is not None

    def cancel(self, prompt: Prompt, *, force: bool) -> bool:
        """Stop one prompt and no other; return False if it was neither pending nor running."""
        tracker = self.tracker
        deadline = Deadline.after(self.timing.look_up)
        while tracker.is_posting(prompt) and not deadline.expired:
            runtime.sleep(0.01)  # another thread is submitting it
        if prompt.state.search_by_mark:  # submitted without an answer, or just attached
            self.find(prompt)
        state = prompt.state  # it may have been merged with another
        with tracker.lock:
            # Set before the request, as Ctrl-C may come right after the answer.  A running prompt
            # reports its end itself.
            before, state.cancelled = state.cancelled, state.running_since is None
        try:
            was_there = stop_by_id(tracker, state.prompt_id, force=force)
        except (ApiError, ServerUnreachable):  # certainly not cancelled; after others, unknown
            state.cancelled = before
            raise
        if not was_there:
            state.cancelled = before
            return False
        tracker.monitor.forget()
        self.stops.watch(prompt, force=force)
        tracker.poll_now(prompt)
        return True

    def delete_pending(self, prompt_ids: Collection[str], seconds: float = math.inf) -> bool:
        """Delete pending prompts from the queue; return whether the server has done so in time."""
        return self.stops.delete_pending(prompt_ids, seconds)

    # -- the thread --------------------------------------------------------------------------

    def tick(self) -> float | None:
        """Send due requests; return the seconds until the next one, or None to end the thread."""
        if not self.is_this_thread():
            return None  # after a Ctrl-C during the start, another thread was started
        tracker, timing = self.tracker, self.timing
        now = runtime.monotonic()
        known = [prompt for prompt in tracker.outstanding if prompt.state.accepted_at is not None]
        self._redial_if_deaf(known, now)
        stops_at = self.stops.repeat()
        with tracker.lock:
            if not tracker.outstanding:
                self._idle_since = self._idle_since or now
                if now - self._idle_since > timing.linger:
                    self._thread = None
                    return None
                return min(timing.silence, timing.deaf)
            self._idle_since = 0.0
        due = [prompt for prompt in known if prompt.state.check_at <= now]
        if due and now >= self.tracker.not_before:
            due.sort(key=lambda each: each.state.check_at)  # those that failed last time come last
            self.ask(known, due)
            for prompt in known:
                if prompt.state.wanted_at >= now:  # wanted since, so the answers may be too old
                    self.tracker.poll_soon(prompt.state)
        states = [prompt.state for prompt in tracker.outstanding]
        times = [state.check_at for state in states if state.accepted_at is not None]
        soon = max(self.tracker.not_before, min(times, default=now + timing.deaf))
        return min(timing.deaf, max(self.least_pause, min(soon, stops_at) - runtime.monotonic()))

    def _redial_if_deaf(self, known: Sequence[Prompt], now: float) -> None:
        """Reconnect a socket that did not report this client's own submissions."""
        generation = self.tracker.connection.generation
        changes = [
            (prompt.state.posted_at, prompt.state.accepted_at or now)
            for prompt in known
            if prompt.state.generation == generation
        ]
        self.tracker.deafness.redial_if_deaf(changes, now)

    def ask(self, known: Sequence[Prompt], due: Sequence[Prompt]) -> None:
        """Make the requests for due prompts; a failure counts only for prompts that it concerns."""
        about: Sequence[Prompt] = due
        try:
            for each in self._questions(self.tracker.routes(), known, due):
                about = each
        except ClientClosed:
            return
        except ComfyError as exc:
            self._put_off(about, exc)
        except Exception as exc:  # no answer may stop this thread
            self.tracker.log.debug("an answer that makes no sense", exc_info=True)
            self._put_off(about, UnexpectedResponse(_nonsense(exc)))

    def _questions(
        self, routes: Routes, known: Sequence[Prompt], due: Sequence[Prompt]
    ) -> Iterator[Sequence[Prompt]]:
        """Make the requests of a pass; before each, yield the prompts that it is about."""
        for prompt in due:
            yield [prompt]
            if prompt.state.attached and not prompt.state.http_checked:
                # Many of these have ended, which the history shows without the queue's graphs.
                self._look_for_end(routes, prompt)
        due = [prompt for prompt in due if not prompt.state.decided]
        yield due
        followed = {prompt for prompt in due if self._is_followed(prompt)}
        unseen = [prompt for prompt in due if prompt not in followed]
        snapshot: QueueSnapshot | None = None
        trouble: ComfyError | None = None
        stale = self.tracker.monitor.stale()
        if stale is not None and unseen and all(map(_may_wait, unseen)):
            yield from self._use_stale_snapshot(routes, unseen, stale)
            due = [prompt for prompt in due if prompt in followed]
        elif unseen:
            snapshot, trouble = self._look_at_queue(routes, known, unseen)
        # The snapshot shows other prompts, too, which need no request of their own soon.
        others = [prompt for prompt in known if snapshot and self._is_concerned(prompt, snapshot)]
        followed -= set(others)
        unsure: list[Prompt] = []  # not in the history, while the queue cannot be read
        try:
            for prompt in dict.fromkeys([*due, *others]):
                yield [prompt]  # only its own record may be unreadable
                if not self._ask_history(routes, prompt, snapshot, followed=prompt in followed):
                    unsure.append(prompt)
            self.trouble = None
        finally:
            if trouble is not None and unsure:
                # The history can be read, and will have it after its end.
                self._put_off(unsure, trouble, counts=False)

    def _look_at_queue(
        self, routes: Routes, known: Sequence[Prompt], unseen: Sequence[Prompt]
    ) -> tuple[QueueSnapshot | None, ComfyError | None]:
        """Return a snapshot of the queue or None, and the error of requesting the queue or None."""
        try:
            return self._snapshot(routes, known, unseen), None
        except Exception as exc:
            trouble = _refusal(exc)
            if trouble is None:
                raise
        with contextlib.suppress(ComfyError):  # ``GET /prompt`` may show that it is empty
            if routes.poll_status(self.timing.question).queue_remaining == 0:
                return QueueSnapshot(running=(), pending=()), trouble
        return None, trouble

    def _snapshot(
        self, routes: Routes, known: Sequence[Prompt], unseen: Sequence[Prompt]
    ) -> QueueSnapshot:
        """Return a snapshot of the queue; it is the last one if that is still valid."""
        monitor = self.tracker.monitor
        snapshot = monitor.cached()
        if snapshot is not None and all(
            prompt.state.prompt_id in snapshot and (prompt.state.graph or prompt.state.http_checked)
            for prompt in unseen
        ):
            first = snapshot.first_of({prompt.state.prompt_id for prompt in known})
            if first is None or routes.get_history(first) is None:
                return snapshot
            if self.tracker.link is not None:
                self.tracker.deafness.expect(monitor.at, runtime.monotonic())
        unread = [prompt.state.prompt_id for prompt in known if not prompt.state.graph]
        return monitor.refresh(routes, unread)

    def _ask_history(
        self, routes: Routes, prompt: Prompt, snapshot: QueueSnapshot | None, *, followed: bool
    ) -> bool:
        """Ask for a prompt's record unless it is queued; return False if its state stays unknown.

        With ``followed``, the socket reports the prompt's state, so the queue is not needed.
        """
        state = prompt.state
        asked = state.prompt_id
        waits = not followed and snapshot is not None and asked in snapshot
        entry = None if waits else routes.get_history(asked)
        if snapshot is None and entry is None and not followed:
            return False
        if entry is None and not waits and state.search_by_mark and self.find(prompt):
            state = prompt.state
            asked = state.prompt_id
            entry = routes.get_history(asked)
            waits = entry is None and snapshot is not None and asked in snapshot
        if entry is None and followed and not state.awaits_history:
            self.apply(prompt, state.asked)
        elif waits and snapshot is not None:
            self.apply(prompt, partial(state.apply_queue, snapshot))
        else:
            self._apply_history(prompt, entry, asked)
        self._backoff.reset()
        return True

    def _look_for_end(self, routes: Routes, prompt: Prompt) -> None:
        asked = prompt.state.prompt_id
        entry = routes.get_history(asked)
        if entry is not None:
            self._apply_history(prompt, entry, asked)
            self._backoff.reset()

    def _use_stale_snapshot(
        self, routes: Routes, unseen: Sequence[Prompt], stale: QueueSnapshot
    ) -> Iterator[Sequence[Prompt]]:
        """Check prompts without a new queue request; yield each before its history request.

        The history is asked for the prompts next in the queue, until :data:`AHEAD` of them are
        unfinished.  The old snapshot tells the state of the others; prompts that it does not list
        are checked again later.
        """
        running = 0

        def place(prompt: Prompt) -> tuple[float, float]:
            return stale.place(prompt.state.prompt_id), prompt.state.posted_at

        for prompt in sorted(unseen, key=place):  # in the order of their ends
            yield [prompt]
            self._look_for_end(routes, prompt)
            running += not prompt.state.decided
            if running == AHEAD:
                break
        for prompt in unseen:
            state = prompt.state
            if state.decided:
                continue
            if state.prompt_id in stale:
                self.apply(
                    prompt, lambda now, link, state=state: state.apply_queue(stale, now, link)
                )
            else:
                soon = runtime.monotonic() + self.timing.silence_cap
                state.check_at = min(self.tracker.monitor.rests_until, soon)

    def _is_followed(self, prompt: Prompt) -> bool:
        """Return whether the socket reports a prompt's state, so that the queue is not needed."""
        state = prompt.state
        if state.awaits_history or state.missed_at is not None:
            return state.awaits_history
        is_recent = runtime.monotonic() - self.tracker.monitor.at < self.timing.follow
        return state.started and is_recent and state.is_whole(self.tracker.link)

    def _is_concerned(self, prompt: Prompt, snapshot: QueueSnapshot) -> bool:
        """Return whether a queue snapshot lists a prompt, or no longer lists one that started."""
        state = prompt.state
        if state.decided or state.awaits_history:
            return False
        ran = state.started and not state.cancelled
        return state.prompt_id in snapshot or (ran and state.posted_at < self.tracker.monitor.at)

    # -- evidence ----------------------------------------------------------------------------

    def apply(
        self,
        prompt: Prompt,
        change: Callable[[float, int | None], Outcome | None] | Callable[[float, int | None], None],
    ) -> Outcome | None:
        """Apply a change to the state of a prompt, and end the prompt if there is an outcome."""
        tracker = self.tracker
        self.answered_at = runtime.monotonic()
        with tracker.lock:
            if tracker.get(prompt.state.prompt_id) is not prompt:
                return None  # it has ended meanwhile, or was merged with another
            outcome = change(runtime.monotonic(), tracker.link)
        tracker.ledger.log_start(prompt.state)
        if outcome is not None:
            tracker.end(prompt, outcome)
        return outcome

    def _apply_history(self, prompt: Prompt, entry: models.HistoryEntry | None, asked: str) -> None:
        """Apply the history record that was found under the id ``asked``, or None if none was."""
        state, tracker = prompt.state, self.tracker

        def change(now: float, link: int | None) -> Outcome | None:
            if entry is None and state.prompt_id != asked:
                state.check_at = now  # another thread has found it under another id
                return None
            quiet_for = tracker.connection.quiet_for
            outcome = state.apply_history(entry, now, link, quiet_for)
            if entry is not None and outcome is not None:
                if not state.ended and state.is_whole(link):
                    tracker.deafness.expect(state.posted_at, now)
                if (ending := tracker.ended.get(state.prompt_id)) is not None:
                    ending.due = 0.0
            return outcome

        self.apply(prompt, change)

    def find(self, prompt: Prompt) -> bool:
        """Look for a prompt under another id, by its mark; return whether its id has changed.

        The search ends unless the prompt may still be on its way.
        """
        state = prompt.state
        before = state.prompt_id
        deadline = Deadline.after(self.timing.look_up)
        found = self.search(before, state.client_id, deadline)
        if found is not None and found != before:
            self.tracker.merge(prompt, found)
        with self.tracker.lock:
            state.search_by_mark = found is None and state.lost_delay is not None
        return prompt.state.prompt_id != before

    def _put_off(self, some: Sequence[Prompt], exc: ComfyError, *, counts: bool = True) -> None:
        """Postpone requests about prompts after a failed one, for longer after each failure.

        Only prompts that HTTP keeps refusing, and without any other source of news, are given up.
        """
        tracker = self.tracker
        self.trouble = copy.copy(exc)  # without its traceback, which holds frames
        self.troubled_at = runtime.monotonic()
        pause = self._backoff.next()
        if isinstance(exc, Throttled):
            counts = False  # unless there is no news for long
            pause = max(pause, min(exc.retry_after or 0.0, LONGEST_PAUSE))
        until = runtime.monotonic() + pause
        if is_away(exc) or isinstance(exc, Throttled):
            self.tracker.not_before = until
        tracker.log.debug("asking about %d jobs failed: %s", len(some), exc)
        # Errors of an overloaded server may be temporary.
        is_final = isinstance(exc, AuthenticationError | UnexpectedResponse)
        most = MAX_REFUSALS if is_final else MAX_OTHER_ERRORS
        if is_away(exc):
            most = 0
        monitor, now = tracker.monitor, runtime.monotonic()
        self._note_who_is_heard()
        for prompt in some:
            state = prompt.state
            if most and now - max(state.heard_at, monitor.status_at) > self.timing.mute:
                tracker.deafness.expect(now - self.timing.mute, now)  # there is no other sign
            # By then, a new socket would have reported running prompts.
            is_mute = now - state.heard_at > self.timing.give_up
            with tracker.lock:
                is_gone = not state.search_by_mark and monitor.lacks(
                    state.prompt_id, state.accepted_at or now
                )
                outcome = state.apply_refusal(
                    exc,
                    until,
                    tracker.link,
                    most=most if counts or is_mute else 0,
                    is_over=monitor.remaining == 0 or is_gone or is_mute,
                )
            if outcome is not None:
                tracker.end(prompt, outcome)

    def _note_who_is_heard(self) -> None:
        """Record when news of each prompt came; news of a prompt also counts for those after it."""
        with self.tracker.lock:
            latest = 0.0
            for prompt in sorted(self.tracker.outstanding, key=lambda each: each.state.posted_at):
                state = prompt.state
                if state.news_by == "socket":
                    latest = max(latest, state.news_at)
                state.heard_at = max(state.heard_at, state.news_at, latest)

    def give_up(self, exc: Exception) -> None:
        """Count a bug in this library as a refusal for all prompts."""
        self._put_off(self.tracker.outstanding, UnexpectedResponse(_nonsense(exc)))


def _poll(owner: weakref.ref[Poller], wake: WakeUp) -> None:
    """Run the poller's thread, which holds the poller only while it works."""
    logged: set[type[Exception]] = set()
    while not wake.stopped:
        poller = owner()
        if poller is None:
            return
        read_timeout.set(poller.timing.question)
        try:
            delay = poller.tick()
        except ClientClosed:
            return
        except Exception as exc:  # a bug must not leave endless waits
            if type(exc) not in logged:
                logged.add(type(exc))
                said = "asking about jobs failed because of a bug in comfy_client"
                poller.tracker.log.exception(said)
            delay = poller.timing.silence
            with contextlib.suppress(Exception):
                poller.give_up(exc)
        del poller
        if delay is None:
            return
        wake.wait(delay)


def _may_wait(prompt: Prompt) -> bool:
    """Return whether a prompt's first request is already done, or is not urgent."""
    return prompt.state.http_checked or not prompt.state.attached


def _refusal(exc: Exception) -> ComfyError | None:
    """Return the error if it is a refusal or an invalid answer, else None."""
    if not isinstance(exc, ComfyError):
        return UnexpectedResponse(_nonsense(exc))
    is_refusal = isinstance(exc, ApiError | UnexpectedResponse) and not is_away(exc)
    return exc if is_refusal else None


def _nonsense(exc: Exception) -> str:
    return f"what the server says makes no sense: {exc!r:.200}"


# -- the submission ------------------------------------------------------------------------


def time_left(deadline: Deadline, most: float) -> float:
    """Return the seconds until the caller's deadline: at least 1, and at most ``most``."""
    return min(most, max(1.0, deadline.left(LONGEST)))


def post(
    tracker: Tracker,
    definitions: NodeDefinitions,
    state: PromptState,
    body: Mapping[str, Any],
    deadline: Deadline,
    *,
    resubmit: bool,
) -> models.QueuedPrompt:
    """Submit a prompt; if no answer comes, find out whether the server has it."""
    http, timing = tracker.http, tracker.timing
    total = http.total_timeout
    repeats = REPEATS if resubmit else 0
    was_sent = False
    cause: ComfyError
    while True:
        try:
            return post_prompt(http, body, definitions, timeout=time_left(deadline, total))
        except PromptRejected as exc:
            from ..routes.refusals import blame_what_was_left_out

            blame_what_was_left_out(exc, state.graph, state.node_errors)
            raise
        except ServerUnreachable as exc:
            if not was_sent:
                raise  # nothing was sent
            cause = exc
        except UnexpectedResponse as exc:
            found = _behind_a_page(http, state, timing) if exc.status < 300 else None
            if found is None:
                raise
            return models.QueuedPrompt(found)
        except (TransportError, ApiError) as exc:
            if not is_away(exc):
                if was_sent:  # perhaps accepted by a server that died afterwards
                    raise _uncertain(state.prompt_id, exc) from exc
                raise
            cause = exc
        # With ``resubmit``, also wait for a server that is away.
        seconds = time_left(deadline, max(timing.look_up, total) if repeats else timing.look_up)
        found, is_sure = _look_up(tracker, state, cause, seconds)
        if found is not None:
            return models.QueuedPrompt(found)
        if state.cancelled or not (is_sure and repeats):
            raise _uncertain(state.prompt_id, cause) from cause
        was_sent = True
        repeats -= 1
        said = "prompt %s left no trace; submitting it again"
        tracker.log.warning(said, state.prompt_id, extra=state.named)


def _behind_a_page(http: Http, state: PromptState, timing: Timing) -> str | None:
    """Return the id of a prompt that the server has although a proxy's page answered, or None."""
    deadline = Deadline.after(timing.question)
    try:
        with limited_silence(timing.question):
            found = find(http, state.prompt_id, state.client_id, deadline)
    except ComfyError:
        return None
    return None if found is None or http.identity.gives_away(found) else found


def _uncertain(prompt_id: str, cause: ComfyError) -> SubmitUncertain:
    return SubmitUncertain(
        f"prompt {prompt_id} was sent, but no answer came ({cause}), and then it was found "
        "neither in the queue nor in the history; it may still appear",
        prompt_id=prompt_id,
    )


def _look_up(
    tracker: Tracker, state: PromptState, cause: ComfyError, seconds: float
) -> tuple[str | None, bool]:
    """Find out whether the server has a prompt whose submission got no response.

    Return its id, or None, and whether a None is certain.
    """
    log, said = tracker.log, "prompt %s: no answer (%s); looking for it"
    log.warning(said, state.prompt_id, cause, extra=state.named)
    timing, wake = tracker.timing, tracker.wake
    deadline, sure = Deadline.after(seconds), Deadline()
    pauses = Backoff(0.2, 2.0, factor=1.6, jitter=0.0)
    looks = 0  # empty look-ups in a row
    while not deadline.expired:
        if state.was_taken:
            return state.prompt_id, True
        try:
            with limited_silence(timing.question):
                found = find(tracker.http, state.prompt_id, state.client_id, deadline)
        except ComfyError as exc:
            looks = 0
            log.debug("look-up failed: %s", exc, extra=state.named)
        else:
            if found is not None:
                return found, True
            sure = sure if looks else Deadline.after(timing.look_up_sure)
            looks += 1
            if looks >= EMPTY_LOOKUPS and sure.expired:
                return None, True
        if wake.wait_stopped(pauses.next()):
            raise ClientClosed
    return None, False  # silence, or a single empty look-up, proves nothing
