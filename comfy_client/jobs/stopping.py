"""Stop or remove prompts, and repeat an interrupt that the server has forgotten.

ComfyUI clears the flag of an interrupt when it begins to execute a prompt, so an interrupt that
comes after the prompt has left the queue and before that does nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Final

import attrs

from .. import runtime
from ..errors import ClientClosed, ComfyError, NotSupported, UnexpectedResponse
from ..events import Event, Executing
from ..routes import Routes
from ..transport.http import Http
from .prompt import Prompt
from .queue_monitor import heeds_id
from .state import PromptState
from .tracker import Tracker

#: How often an interrupt is repeated.
_REPEATS: Final = 3


def stop_by_id(tracker: Tracker, prompt_id: str, *, force: bool) -> bool:
    """Stop one prompt and no other; return False if it was neither pending nor running."""
    routes = tracker.routes()
    if tracker.cancels_jobs:
        try:
            return routes.cancel_job(prompt_id)
        except NotSupported:
            tracker.cancels_jobs = False
    return stop(routes, tracker.http, prompt_id, force=force)


def stop(routes: Routes, http: Http, prompt_id: str, *, force: bool) -> bool:
    """Stop one prompt without the jobs API; return False if it was neither pending nor running."""
    was_deleted = False
    for _ in range(3):  # it may begin between the check and the request
        try:
            queue = routes.get_queue(workflows_of=())
        except UnexpectedResponse:  # such as one that is too large
            return _stop_unseen(routes, http, prompt_id) or was_deleted
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


def _stop_unseen(routes: Routes, http: Http, prompt_id: str) -> bool:
    """Stop one prompt while the queue cannot be read; return False if it has ended.

    Raises:
        NotSupported: It may run, and this server might stop another prompt instead.
    """
    if routes.get_history(prompt_id) is not None:
        return False
    routes.delete_from_queue(prompt_id)
    if not heeds_id(routes):
        raise NotSupported(
            f"prompt {prompt_id} was deleted if it was pending; whether it runs cannot be seen, as "
            "the answer about the queue is too large (max_json allows more), and this server's "
            "interrupt stops whatever runs (ComfyUI before 0.3.57)",
            method="POST",
            path="/interrupt",
        )
    http.send_command("POST", "/interrupt", json={"prompt_id": prompt_id})
    return True


@attrs.define(eq=False, repr=False)
class _Stop:
    """A request to stop a prompt, which the server has accepted.

    Attributes:
        force: Whether to repeat it even on a server that stops any running prompt.
        again_at: When the request may be repeated, if a node has begun by then.
        node_began: Whether a node of the prompt has begun since.
        left: How often it may still be repeated.
    """

    force: bool
    again_at: float
    node_began: bool = False
    left: int = _REPEATS


class Stops:
    """The prompts that were asked to stop and have not ended.

    If a node of such a prompt still begins, the request is repeated, up to :data:`_REPEATS` times.
    """

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._stops: dict[Prompt, _Stop] = {}

    def watch(self, prompt: Prompt, *, force: bool = False) -> None:
        """Watch a prompt that the server has agreed to stop; repeat the request if it runs on."""
        known = self._stops.get(prompt)
        if known is not None:
            known.force = known.force or force
            return
        self._stops[prompt] = stop = _Stop(force, self._next())

        def hear(event: Event) -> None:
            if isinstance(event, Executing) and event.node is not None and not stop.node_began:
                stop.node_began = True
                self._tracker.wake.set()

        prompt.events.sinks = (*prompt.events.sinks, hear)

    def has(self, prompt: Prompt) -> bool:
        """Return whether a prompt was told to stop and has not ended."""
        return prompt in self._stops

    def removing(
        self, prompt_ids: Iterable[str] | None, *, running: bool = False
    ) -> Callable[[], None]:
        """Note which prompts are about to be removed from the queue; None: all pending ones.

        Call the returned function once that is done: such a prompt that is in neither queue nor
        history counts as interrupted, not lost, and is asked about immediately.  With ``running``,
        running prompts are stopped too, and again if the server forgets that.
        """
        tracker = self._tracker
        # Look given ids up without the tracker's lock: the collector may end a forgotten ``map``
        # while this thread has the lock of a queue, for which one with the tracker's lock waits.
        known = tracker.outstanding if prompt_ids is None else map(tracker.get, prompt_ids)
        # Decide now, as the queue may lack them before the answer comes.  A server may also have a
        # prompt before it answers its submission.
        there = [
            prompt
            for prompt in known
            if prompt is not None
            and (_is_there(prompt.state) or (prompt_ids is not None and tracker.is_posting(prompt)))
        ]

        def removed() -> None:
            tracker.monitor.forget()
            for prompt in there:
                prompt.state.cancelled = prompt.state.running_since is None
                if running:
                    self.watch(prompt)
                tracker.poll_now(prompt)

        return removed

    def delete_pending(self, prompt_ids: Collection[str], seconds: float) -> bool:
        """Delete pending prompts from the queue; return whether the server has done so in time."""
        removed = self.removing(prompt_ids)
        http, timing = self._tracker.http, self._tracker.timing
        try:
            timeout = min(seconds, timing.cancel_timeout)
            http.send_command("POST", "/queue", json={"delete": [*prompt_ids]}, timeout=timeout)
        except ComfyError as exc:
            said = "prompts may stay in the queue, %s: %s"
            http.log.warning(said, ", ".join(prompt_ids), exc)
            return False
        removed()
        return True

    def repeat(self) -> float:
        """Send stop requests again for prompts that run on; return when the next may be due.

        A prompt gets another one only if a node has begun since the last, three times at most.
        Called in the poller's thread.
        """
        now = runtime.monotonic()
        for prompt, stop in list(self._stops.items()):
            if prompt.state.decided or not stop.left:
                self._stops.pop(prompt, None)
            elif stop.node_began and stop.again_at <= now:
                self._send(prompt, stop)
        stops = list(self._stops.values())  # a copy, as other threads add some
        began = [stop.again_at for stop in stops if stop.node_began]
        return min(began, default=float("inf"))

    def _send(self, prompt: Prompt, stop: _Stop) -> None:
        stop.node_began = False  # first, as a node that begins during the request counts again
        stop.left -= 1
        prompt_id = prompt.state.prompt_id
        log, named = self._tracker.log, prompt.state.named
        said = "prompt %s goes on after it was told to stop; telling it again"
        log.debug(said, prompt_id, extra=named)
        try:
            stop_by_id(self._tracker, prompt_id, force=stop.force)
        except ClientClosed:
            raise
        except ComfyError as exc:
            log.debug("prompt %s was not told again: %s", prompt_id, exc, extra=named)
        stop.again_at = self._next()

    def _next(self) -> float:
        return runtime.monotonic() + self._tracker.timing.stop_again


def _is_there(state: PromptState) -> bool:
    """Return whether a prompt is pending or running, as far as is known."""
    has_it = state.accepted_at is not None and not state.search_by_mark
    return has_it and state.missed_at is None and not state.decided
