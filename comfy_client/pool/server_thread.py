"""The thread of one server of a pool, which connects to it and submits."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError
from typing import Protocol

from .. import runtime
from ..errors import (
    ApiError,
    ClientClosed,
    ComfyError,
    NotSupported,
    PromptRejected,
    ServerUnreachable,
    SubmitUncertain,
    UnexpectedResponse,
)
from ..interrupts import was_started
from ..jobs.execute import submit_workflow
from ..jobs.job import Job
from ..transport.deadline import LONGEST, Abandoned, Backoff, Deadline, endable, limited_silence
from ..transport.failures import is_away
from ..transport.websocket import State
from .availability import is_live
from .needs import Offer, model_files
from .pool_state import Entry, Member, PoolTiming


class MemberOwner(Protocol):
    """The pool, as the threads of its servers know it."""

    def mark_ready(self, member: Member, offer: Offer | None) -> None:
        """Have a server that answers take jobs; ``offer`` is None if its classes are unknown.

        Jobs that no server can run fail now.
        """

    def mark_unreachable(self, member: Member, error: Exception) -> None:
        """Give a server that does not answer no more jobs, and take back those not sent."""

    def begin_asking(self, member: Member) -> bool:
        """Note that a server is asked for definitions; return False if it was asked just now."""

    def set_offer(self, member: Member, offer: Offer | None) -> None:
        """Note which node classes and models a server has now."""

    def mark_silent(self, member: Member, error: Exception) -> None:
        """Note that a server that has been silent does not answer over HTTP, either."""

    def mark_answering(self, member: Member) -> None:
        """Note that a removed server answers."""

    def take(self, member: Member) -> Entry | None:
        """Take the next job for a server, which is to be submitted now; None if there is none."""

    def mark_submitted(self, member: Member, entry: Entry, inner: Job) -> None:
        """Follow a job that a server has, or may have, to its end.

        If it was cancelled meanwhile, have its server stop it.
        """

    def mark_unsent(self, member: Member, entry: Entry, error: Exception) -> None:
        """Note that a server certainly does not have a job."""


class ServerThread:
    """A thread that connects to a server and submits the jobs in its inbox.

    Args:
        member: The server.
        owner: The pool, which is told of what happens.
        timing: The times of the pool.
        on_status: Called whenever the server reports its queue length; must not keep the pool
            alive.
    """

    def __init__(
        self,
        member: Member,
        owner: MemberOwner,
        timing: PoolTiming,
        on_status: Callable[[object], object],
    ) -> None:
        self.member: Member = member
        self.timing: PoolTiming = timing
        self._owner = owner
        self._on_status = on_status
        self._thread: runtime.Thread | None = None
        self._pauses = Backoff(timing.reconnect, timing.reconnect_cap, factor=1.6)
        self._asked_at = float("-inf")
        self._cancel_at = 0.0
        self._off: Callable[[], object] | None = None

    def start(self) -> None:
        """Start the thread and connect; repeated calls do nothing."""
        if was_started(self._thread):
            return
        self._thread = runtime.Thread(
            target=_work,
            args=(weakref.ref(self), self.member.has_work),
            name="comfy-pool",
            daemon=True,
        )
        self._thread.start()
        self.member.wake()

    def stop(self) -> None:
        """Stop connecting and submitting; close the client if the pool made it."""
        member = self.member
        member.stopped = True
        member.wake()
        if self._off is not None:
            self._off()
        member.end_relays()
        if member.is_own:
            member.api.close()

    def reset(self) -> None:
        """Reset the thread's state in the child of a fork, where locks may stay held for ever."""
        self._off = None
        member = self.member
        member.has_work = runtime.Event()
        member.inbox.clear()
        member.in_flight.clear()
        member.server.own = 0

    def watch_queue(self) -> None:
        """Register ``on_status`` for the server's reports of its queue length; do so only once."""
        if self._off is None:
            self._off = self.member.api.on("status", self._on_status)

    def ask_again(self) -> None:
        """Ask the server for its node definitions again, and tell the pool what it has now."""
        try:
            with limited_silence(self.timing.definitions):
                offer = _ask_for_offer(self.member)
        except ComfyError as exc:
            self.member.log.debug(
                "%s does not return its node definitions: %s", self.member.name, exc
            )
        else:
            self._owner.set_offer(self.member, offer)

    def ask_if_there(self) -> None:
        """Ask a silent server over HTTP whether it is there, and tell the pool if it is not."""
        member = self.member
        try:
            member.api.poll_status(member.api.timing.question)
        except ComfyError as exc:
            member.log.debug("%s does not answer: %s", member.name, exc)
            if is_away(exc):
                self._owner.mark_silent(member, exc)
        finally:
            member.answered_at = runtime.monotonic()
            member.is_asked = False

    # -- in the thread -------------------------------------------------------------------------

    def work(self) -> float | None:
        """Do all work that is due; return the seconds to the next time, or None once stopped."""
        member = self.member
        while not member.stopped:
            if member.unwanted and is_live(member):
                self._cancel_unwanted()
            if member.leaving:
                return self._check_alive()
            if not member.server.ready:
                left = member.retry_at - runtime.monotonic()
                if left > 0:
                    return left
                self._connect()
                continue
            entry = self._owner.take(member)
            if entry is None:
                return self._check_alive()
            self._submit(entry)
        return None

    def _cancel_unwanted(self) -> None:
        """Cancel the unwanted prompts on the server; try again later if it does not answer."""
        if runtime.monotonic() < self._cancel_at:
            return
        member = self.member
        # What runs comes last, as the next one would begin in its place.  News of its beginning may
        # still be on the way, so those that were sent later come first.
        latest_first = member.unwanted[::-1]
        for job in sorted(latest_first, key=lambda job: job.handle.has_begun):
            try:
                job.cancel(force=job in member.forced)
            except ComfyError as exc:
                if is_away(exc):
                    self._cancel_at = runtime.monotonic() + self.timing.doubt
                    return
                said, named = "prompt %s on %s runs on: %s", job.handle.state.named
                self.member.log.warning(said, job.prompt_id, member.name, exc, extra=named)
            member.unwanted.remove(job)
            member.forced.discard(job)

    def _check_alive(self) -> float:
        """If there is no socket, ask whether the server is up; return seconds to the next check."""
        member, timing = self.member, self.timing
        is_lost = member.leaving and not is_live(member)  # nothing else asks it any more
        if member.api.state is not State.POLLING and not is_lost:
            self._count_again()
            return timing.doubt if member.unwanted else timing.reconnect_cap
        poller = member.api.parts.poller
        is_in_doubt = bool(member.in_flight) and poller.trouble is not None
        interval = timing.doubt if is_in_doubt else poller.check_every
        left = self._asked_at + interval - runtime.monotonic()
        if left > 0:
            return min(left, timing.reconnect_cap)
        self._asked_at = runtime.monotonic()
        try:
            member.api.poll_status(self.timing.question)
        except ComfyError as exc:
            self.member.log.debug("%s does not answer: %s", member.name, exc)
            self._owner.mark_unreachable(member, exc)
            return timing.reconnect
        if member.leaving:
            self._owner.mark_answering(member)
        return min(interval, timing.reconnect_cap)

    def _count_again(self) -> None:
        """Ask for the length of the queue if the last one, with prompts of others, is old.

        A deaf socket does not report that they have ended, and no job of the pool would find out.
        """
        tracker, now = self.member.api.parts.tracker, runtime.monotonic()
        age = now - max(tracker.monitor.status_at, self._asked_at)
        if not self.member.server.others or age < tracker.timing.queue:
            return
        self._asked_at = now
        try:
            tracker.poll_queue()
        except ComfyError as exc:
            self.member.log.debug("%s does not answer: %s", self.member.name, exc)

    def _connect(self) -> None:
        member = self.member
        member.retry_at = runtime.monotonic() + self._pauses.next()
        try:
            member.api.poll_status(self.timing.question)
            member.api.init(timeout=self.timing.question)
            offer = _ask_for_offer(member)
        except Exception as exc:  # the next attempt may succeed
            is_foreseen = isinstance(exc, ComfyError | OSError | ValueError)
            member.log.log(
                logging.DEBUG if is_foreseen else logging.ERROR,
                "%s is not ready: %s",
                member.name,
                exc,
                exc_info=None if is_foreseen else exc,
            )
            self._owner.mark_unreachable(member, exc)
            return
        self._pauses.reset()
        self._owner.mark_ready(member, offer)
        if not member.leaving:
            self.watch_queue()

    def _submit(self, entry: Entry) -> None:
        member, job = self.member, entry.job

        def begun(inner: Job) -> None:
            if entry.cancelled:
                raise CancelledError  # during the upload of its files, so nothing more is sent
            job.handle.follow_on(inner, member.name)
            entry.look()

        try:
            if entry.found is not None:
                self._follow(entry, entry.found(member.api))
                return
            if entry.chosen is not None:
                entry.chosen(member.name)
            with endable() as entry.sending:
                inner = submit_workflow(
                    member.api,
                    member.api.parts,
                    entry.workflow,
                    None,
                    prompt_id=job.prompt_id,
                    begun=begun,
                    waits=False,  # another server may take it
                    **entry.options,
                )
        except Abandoned:  # the server is silent, or nobody wants the job any more
            self._leave_unfinished(entry)
        except SubmitUncertain as exc:
            if not member.api.parts.poller.finds_lost_prompts:
                self._owner.mark_unsent(member, entry, exc)
                return
            said, named = "%s; waiting until %s can tell", job.handle.state.named
            self.member.log.warning(said, exc, member.name, extra=named)
            self._attach(entry)
        except UnexpectedResponse as exc:
            if exc.status >= 300 or not job.handle.state.posted_at:
                self._owner.mark_unsent(member, entry, exc)
                return
            entry.refusal = exc  # the server may have the job all the same
            self._attach(entry)
        except Exception as exc:  # noqa: BLE001  # the owner of the job gets it
            if isinstance(exc, PromptRejected) and self._owner.begin_asking(member):
                self.ask_again()
            self._owner.mark_unsent(member, entry, exc)
        else:
            self._owner.mark_submitted(member, entry, inner)

    def _leave_unfinished(self, entry: Entry) -> None:
        """Note that a submission was ended before its answer came."""
        member, given = self.member, entry.job.handle.given
        if given is None or not given.handle.state.posted_at:
            error = ServerUnreachable(f"{member.name} got nothing, as the submission was ended")
            self._owner.mark_unsent(member, entry, error)
        else:
            self._owner.mark_submitted(member, entry, given)

    def _attach(self, entry: Entry) -> None:
        """Attach to a prompt that the server may have, and let its job follow it."""
        try:
            inner = self.member.api.job(entry.job.prompt_id, entry.workflow)
        except Exception as exc:  # noqa: BLE001  # the owner of the job gets it
            self._owner.mark_unsent(self.member, entry, exc)
        else:
            self._follow(entry, inner)

    def _follow(self, entry: Entry, inner: Job) -> None:
        """Let a job follow a prompt that its server has."""
        entry.job.handle.follow_on(inner, self.member.name)
        entry.look()
        self._owner.mark_submitted(self.member, entry, inner)


def _ask_for_offer(member: Member) -> Offer | None:
    """Ask a server for its node classes and models; return None if it does not list them."""
    try:
        files = model_files(member.api.iter_node_definitions(refresh=member.offer is not None))
    except NotSupported:
        return None
    except UnexpectedResponse as exc:
        member.log.warning("%s does not say which node classes it has: %s", member.name, exc)
        return None
    try:
        replaced = member.api.get_node_replacements()
    except (ApiError, UnexpectedResponse):
        replaced = {}  # servers before 0.14
    return Offer(files, replaced)


def ask_all(servers: Iterable[ServerThread], seconds: float) -> None:
    """Ask servers for their definitions in parallel; wait up to ``seconds`` seconds."""
    deadline = Deadline.after(seconds)
    threads = [
        runtime.Thread(target=server.ask_again, name="comfy-pool-asking", daemon=True)
        for server in servers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(deadline.left(LONGEST))


def _work(ref: weakref.ref[ServerThread], has_work: runtime.Event) -> None:
    """Run the thread of a server, keeping its object alive only while there is work."""
    pause: float | None = 0.0
    while pause is not None:
        has_work.wait(pause)
        has_work.clear()
        thread = ref()
        if thread is None:
            return
        try:
            pause = thread.work()
        except ClientClosed:  # closed by its user or by the pool; the next turn finds out
            thread.member.clear_pending()
            pause = thread.timing.reconnect
        except Exception:
            thread.member.log.exception("a server of the pool could not be served")  # a defect
            thread.member.clear_pending()
            pause = thread.timing.reconnect
        del thread
