"""Cancellation of prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from .. import runtime
from ..errors import ApiError, ServerUnreachable
from ..transport.deadline import Deadline
from .poller import Poller
from .prompt import TrackedPrompt
from .state import JobState
from .stopping import stop_by_id


def cancel(one: TrackedPrompt, poller: Poller, done: Callable[[], bool], *, force: bool) -> bool:
    """Implement :meth:`Job.cancel`."""
    tracker, timing = poller.tracker, poller.timing
    deadline = Deadline.after(timing.look_up)
    while tracker.is_posting(one) and not deadline.expired:
        runtime.sleep(0.01)  # another thread submits it, and will know its id
    if one.state.search_by_mark:  # Ctrl-C came before the answer, or it was just attached
        poller.find(one)
    state = one.state  # it may be one with another now
    with tracker.lock:
        # Before it is: Ctrl-C may come between the server's yes and here.  What runs tells of
        # its end itself.
        before, state.cancelled = state.cancelled, state.running_since is None
    try:
        was_there = stop_by_id(tracker, state.prompt_id, force=force)
    except (ApiError, ServerUnreachable):  # surely not done; of others nobody knows
        state.cancelled = before
        raise
    if not was_there:
        state.cancelled = before
        return False
    tracker.monitor.forget()
    poller.stops.watch(one, force=force)
    poller.ask_now(one)
    if state.cancelled:  # nobody will tell of its end, which is found out at once
        poller.wait_until(done, timing.silence)
    return True


def removing(
    poller: Poller, prompt_ids: Iterable[str] | None, *, running: bool = False
) -> Callable[[], None]:
    """Note which prompts the server is about to be asked to remove; None means all that wait.

    Call the returned function once that is done: such a prompt that is in neither queue nor history
    counts as interrupted, not lost, and is asked about at once.  With ``running``, running prompts
    are stopped too, and again if the server forgets that.
    """
    tracker = poller.tracker
    # Given ids are looked up without the lock: the collector may end a forgotten ``map`` while
    # this thread has the lock of a queue, for which a thread with this lock may wait.
    known = tracker.outstanding if prompt_ids is None else map(tracker.get, prompt_ids)
    # Now: a look at the queue may miss them before the answer comes.  A server may also have a
    # prompt before it answers its submission.
    there = [
        one
        for one in known
        if one is not None
        and (_is_there(one.state) or (prompt_ids is not None and tracker.is_posting(one)))
    ]

    def removed() -> None:
        tracker.monitor.forget()
        for one in there:
            one.state.cancelled = one.state.running_since is None
            if running:
                poller.stops.watch(one)
            poller.ask_now(one)

    return removed


def _is_there(state: JobState) -> bool:
    """Return whether the server has a prompt in its queue or runs it, as far as is known."""
    has_it = state.accepted_at is not None and not state.search_by_mark
    return has_it and state.missed_at is None and not state.decided
