"""Cancelling prompts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from ..errors import ApiError, NotSupported, ServerUnreachable
from ..routes import Routes
from ..transport.deadline import Deadline
from ..transport.http import Http
from .poller import Poller
from .queue_monitor import heeds_id
from .state import JobState
from .tracked import Tracked


def cancel(one: Tracked, poller: Poller, done: Callable[[], bool], *, force: bool) -> bool:
    """See :meth:`Job.cancel`."""
    tracker, timing = poller.tracker, poller.timing
    routes = tracker.routes()
    deadline = Deadline.after(timing.look_up)
    while tracker.is_posting(one) and not deadline.expired:
        time.sleep(0.01)  # another thread submits it, and will know its id
    if one.state.search_by_mark:  # Ctrl-C came before the answer, or it was just attached
        poller.find(one)
    state = one.state  # it may be one with another now
    with tracker.lock:
        # Before it is: Ctrl-C may come between the server's yes and here.  What runs tells of
        # its end itself.
        before, state.cancelled = state.cancelled, state.running_since is None
    try:
        was_there = _cancel(routes, one, poller, force=force)
    except (ApiError, ServerUnreachable):  # surely not done; of others nobody knows
        state.cancelled = before
        raise
    if not was_there:
        state.cancelled = before
        return False
    tracker.monitor.forget()
    poller.ask_now(one)
    if state.cancelled:  # nobody will tell of its end, which is found out at once
        poller.wait_until(done, timing.silence)
    return True


def _cancel(routes: Routes, one: Tracked, poller: Poller, *, force: bool) -> bool:
    prompt_id = one.state.prompt_id
    if poller.tracker.cancels_jobs:
        try:
            return routes.cancel_job(prompt_id)
        except NotSupported:
            poller.tracker.cancels_jobs = False
    return stop(routes, poller.tracker.http, prompt_id, force=force)


def removing(poller: Poller, prompt_ids: Iterable[str] | None) -> Callable[[], None]:
    """Note which prompts the server is about to be asked to remove; ``None``: all that wait.

    The returned function says that it has done so: such a prompt that is in no queue and no
    history is interrupted, not lost, and HTTP is asked about it at once.
    """
    tracker = poller.tracker
    # Given ids are looked up without the lock: the collector may end a forgotten ``map`` while
    # this thread has the lock of a queue, for which whoever has this one may wait.
    known = tracker.outstanding if prompt_ids is None else map(tracker.get, prompt_ids)
    # Now: a look at the queue may miss them before the answer comes.
    there = [one for one in known if one is not None and _is_there(one.state)]

    def removed() -> None:
        tracker.monitor.forget()
        for one in there:
            one.state.cancelled = one.state.running_since is None
            poller.ask_now(one)

    return removed


def _is_there(state: JobState) -> bool:
    """Whether the server has it in its queue or runs it, as far as is known."""
    has_it = state.accepted_at is not None and not state.search_by_mark
    return has_it and state.missed_at is None and not state.decided


def stop(routes: Routes, http: Http, prompt_id: str, *, force: bool) -> bool:
    """Stop one prompt on a server without a jobs API; whether it was there to be stopped."""
    was_deleted = False
    for _ in range(3):  # it may begin between the look and the act
        queue = routes.get_queue()
        if any(item.prompt_id == prompt_id for item in queue.pending):
            routes.delete_from_queue(prompt_id)
            was_deleted = True
        elif any(item.prompt_id == prompt_id for item in queue.running):
            if not force and not heeds_id(routes):
                raise NotSupported(
                    f"prompt {prompt_id} runs, and this server's interrupt stops whatever "
                    "runs when it comes (ComfyUI before 0.3.57): "
                    f"api.job({prompt_id!r}).cancel(force=True) takes that risk",
                    method="POST",
                    path="/interrupt",
                )
            http.send_command("POST", "/interrupt", json={"prompt_id": prompt_id})
            return True
        else:
            break
    return was_deleted
