"""One server of a pool, and the thread that connects to it and submits."""

from __future__ import annotations

import logging
import math
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

import attrs

from .. import runtime
from ..errors import (
    ApiError,
    ClientClosed,
    ComfyError,
    JobFailed,
    SubmitUncertain,
    UnexpectedResponse,
)
from ..events import EndEvent
from ..jobs.callbacks import Callbacks
from ..jobs.job import Job, state_of
from ..jobs.pooled import PooledJob, follow, queue_length
from ..jobs.running import submit_begun
from ..transport.backoff import Backoff
from ..transport.failures import is_away
from ..transport.websocket import State
from ..workflow import Workflow
from .needs import Offer
from .schedule import Server, Waiting, anything
from .status import ServerStatus

if TYPE_CHECKING:
    from ..client import ComfyApi

log: logging.Logger = logging.getLogger("comfy_client")

#: Seconds that a server may take to say how long its queue is.
_QUESTION: Final = 5.0
#: Seconds between two questions to a server without a socket, whether it is there.
_INTERVAL: Final = 1.0
#: Seconds between two attempts to reach a server that is down: the first, and at most.
_PAUSE: Final = 0.3
_LONGEST_PAUSE: Final = 5.0
#: Seconds in which a server says that a prompt which has ended is in its queue no more.
SETTLING: float = 1.0
#: States in which a client hears of its server.
_LIVE: Final = frozenset({State.CONNECTED, State.POLLING})


def _nothing() -> None:
    """Do nothing; nobody listens."""


@attrs.define(eq=False, repr=False)
class Entry:
    """A job that has not ended.

    Attributes:
        job: What its user has.
        workflow: What is to be run.
        waiting: What the schedule knows of it.
        callbacks: What is called as it goes on.
        options: The options of the submission.
        chosen: Called with the URL of the server that was chosen, in another thread, before
            anything is sent; what it raises is the error of the job.
        found: How to attach to a prompt that was submitted before; ``None``: it is a new one.
        look: Called when a server is about to get it: its callbacks want to know its place.
        member: The server that was chosen; ``None``: none is.
        inner: The prompt on that server; ``None``: it is not there yet.
        started: Whether it is being submitted, or was.
        cancelled: Whether it was cancelled after its submission had begun.
        refusal: Why it moved last: a server refused it, or failed it; ``None``: it has not.
        failed: How a server has failed it, after which another is to run it; ``None``: none has.
        moves: How often it moved on since a server was away while it was being sent.
        tries: How often it ran, or may have run.
        was_away: Whether its server has been away since it got it.
        was_first: Whether it ran when its server went away, or was the first of ours to run.
        began: Whether it may have begun by then.
        died: The servers that died while it was so.
        is_on_trust: Whether only servers that had not said what they have seemed able to run it.
        is_swept: Whether a sweep runs it, which itself submits it again, under another id.
        has_other: Of one that is swept: whether another server can run it.
        goes_on: Whether that is to do so, and it does not count as a try.
    """

    job: PooledJob
    workflow: Workflow
    waiting: Waiting
    callbacks: Callbacks
    options: Mapping[str, Any]
    chosen: Callable[[str], object] | None = None
    found: Callable[[ComfyApi], Job] | None = None
    look: Callable[[], object] = _nothing
    member: Member | None = None
    inner: Job | None = None
    started: bool = False
    cancelled: bool = False
    refusal: Exception | None = None
    failed: tuple[JobFailed, EndEvent | None] | None = None
    moves: int = 0
    tries: int = 1
    was_away: bool = False
    was_first: bool = False
    began: bool = False
    died: frozenset[str] = frozenset()
    is_on_trust: bool = False
    is_swept: bool = False
    has_other: bool = False
    goes_on: bool = False


class Owner(Protocol):
    """The pool, as its members tell it news."""

    def became_ready(self, member: Member, offer: Offer | None) -> None:
        """Note that a server answers, and what it has; ``None``: it does not say."""

    def became_unreachable(self, member: Member, error: Exception) -> None:
        """Note that a server does not answer."""

    def answers(self, member: Member) -> None:
        """Note that a server that was removed answers."""

    def take(self, member: Member) -> Entry | None:
        """Take the next job for a server, which counts as being submitted from now on."""

    def was_submitted(self, member: Member, entry: Entry, inner: Job) -> None:
        """Note that a server has a job, or may have it."""

    def was_not_submitted(self, member: Member, entry: Entry, error: Exception) -> None:
        """Note that a server surely does not have a job."""


class Member:
    """A server of a pool.

    Attributes:
        api: Its client.
        is_own: Whether the pool made the client, and closes it.
        server: What the schedule knows of it.
        offer: What it has; ``None``: it has not said.
        error: Why it is not ready; ``None``: it is, or has not been asked.
        down_since: Since when it does not answer; ``None``: it does, or has not been asked.
        leaving: Whether it was removed from the pool.
        inbox: Jobs that it is to have, of which nothing has been sent yet.
        in_flight: Jobs that it has, or may have.
        busy_since: Since when a job is on its way to it; ``None``: no job is.
        unwanted: Prompts that were cancelled while they were submitted, or run elsewhere now: they
            are cancelled as soon as it answers.
        done: Jobs that it has ended with a result.
        failed: Jobs that it has ended without one.
        suspect: How it fails job after job; ``None``: it does not.
        was_ready: Whether it has ever been ready.
        asked_at: When it was asked again what it has.
    """

    def __init__(self, api: ComfyApi, server: Server, owner: Owner, *, is_own: bool) -> None:
        self.api = api
        self.is_own = is_own
        self.server = server
        self.offer: Offer | None = None
        self.error: Exception | None = None
        self.down_since: float | None = None
        self.leaving = False
        self.inbox: deque[Entry] = deque()
        self.in_flight: dict[Entry, None] = {}
        self.busy_since: float | None = None
        self.unwanted: list[Job] = []
        self.done = 0
        self.failed = 0
        self.suspect: str | None = None
        self.was_ready = False
        self.asked_at: float = -math.inf
        self._owner = owner
        self._wake = runtime.Event()
        self._is_started = self._stopped = False
        self._pauses = Backoff(_PAUSE, _LONGEST_PAUSE, factor=1.6)
        self._retry_at = self._ask_at = self._cancel_at = 0.0
        self._off: Callable[[], object] | None = None
        self._relays: dict[object, Callable[[], object]] = {}
        self._ends: list[float] = []  # when ours ended, as long as it may still count them

    @property
    def name(self) -> str:
        """The URL of the server."""
        return self.server.name

    @property
    def is_live(self) -> bool:
        """Whether its client hears of it."""
        return self.api.state in _LIVE

    @property
    def is_connected(self) -> bool:
        """Whether its client hears of it by a socket, whose end is noticed."""
        return self.api.state is State.CONNECTED

    def start(self) -> None:
        """Begin to connect; once."""
        if self._is_started:
            return
        self._is_started = True
        thread = runtime.Thread(
            target=_work, args=(weakref.ref(self), self._wake), name="comfy-pool", daemon=True
        )
        thread.start()
        self.wake()

    def wake(self, *, again: bool = False) -> None:
        """Wake the thread to work; ``again``: the server may be reached by now."""
        if again:
            self._retry_at = min(self._retry_at, runtime.monotonic() + _PAUSE)
        self._wake.set()

    def stop(self) -> None:
        """Connect and submit no more; close the client, if the pool made it."""
        self._stopped = True
        self._wake.set()
        if self._off is not None:
            self._off()
        for key in list(self._relays):
            self.relay_no_more(key)
        if self.is_own:
            self.api.close()

    def after_fork(self) -> None:
        """Begin anew in the child of a fork: the event's lock may stay held, and no job is ours."""
        self._wake = runtime.Event()
        self._off = None
        self.inbox.clear()
        self.in_flight.clear()
        self.server.own = 0

    def is_through(self) -> None:
        """Note that no submission is on its way."""
        self.busy_since = None
        self.server.is_slow = False

    def has(self, offer: Offer | None) -> None:
        """Set what the server has; ``None``: that is not known."""
        self.offer = offer
        self.server.has = anything if offer is None else offer.has

    def look(self) -> None:
        """Count the prompts of others in its queue.

        Those of ours that are on their way, or have just ended, may be in what it said last, or
        not.  As far as that leaves it open, the number stays what it was.
        """
        length, said_at = queue_length(self.api)
        since = max(said_at, runtime.monotonic() - SETTLING)
        self._ends = [at for at in self._ends if at > since]
        ours = sum(entry.inner is not None and not entry.inner.done() for entry in self.in_flight)
        unsure = len(self.in_flight) - ours + len(self._ends)
        most = max(0, length - ours)
        self.server.others = min(max(self.server.others, most - unsure), most)

    def saw_end(self, at: float | None) -> None:
        """Note that a prompt of ours has ended on the server."""
        self._ends.append(at or runtime.monotonic())

    def on_status(self, call: Callable[[object], object]) -> None:
        """Have it called whenever the server says how long its queue is."""
        if self._off is None:
            self._off = self.api.on("status", call)

    def relay(self, key: object, name: str, callback: Callable[[Any, Any], object]) -> None:
        """Call back for events of its client, too; once for each key."""
        if key not in self._relays and not self._stopped:
            off = self.api.on(name, partial(callback, self.api))
            if self._relays.setdefault(key, off) is not off:  # another thread did
                off()

    def relay_no_more(self, key: object) -> None:
        """Call back no more."""
        self._relays.pop(key, _nothing)()

    # -- in its thread -----------------------------------------------------------------------

    def work(self) -> float | None:
        """Do what there is to do; in how many seconds to look again, ``None``: never."""
        while not self._stopped:
            if self.unwanted and self.is_live:
                self._cancel_unwanted()
            if self.leaving:
                return self._ask_whether_it_is_there()
            if not self.server.ready:
                left = self._retry_at - runtime.monotonic()
                if left > 0:
                    return left
                self._connect()
                continue
            entry = self._owner.take(self)
            if entry is not None:
                self._submit(entry)
            else:
                return self._ask_whether_it_is_there()
        return None

    def _cancel_unwanted(self) -> None:
        """Cancel unwanted jobs; try again later where the server does not answer."""
        if runtime.monotonic() < self._cancel_at:
            return
        for job in list(self.unwanted):
            try:
                job.cancel()
            except ComfyError as exc:
                if is_away(exc):
                    self._cancel_at = runtime.monotonic() + _INTERVAL
                    return
                log.warning("prompt %s on %s runs on: %s", job.prompt_id, self.name, exc)
            self.unwanted.remove(job)

    def _ask_whether_it_is_there(self) -> float:
        """Ask a server without a socket whether it is there; return when to ask again."""
        if self.api.state is not State.POLLING:
            return _INTERVAL if self.unwanted else _LONGEST_PAUSE
        left = self._ask_at - runtime.monotonic()
        if left > 0:
            return left
        self._ask_at = runtime.monotonic() + _INTERVAL
        try:
            self.api.poll_status(_QUESTION)
        except ComfyError as exc:
            log.debug("%s does not answer: %s", self.name, exc)
            self._owner.became_unreachable(self, exc)
            return _PAUSE
        if self.leaving:
            self._owner.answers(self)
        return _INTERVAL

    def _connect(self) -> None:
        self._retry_at = runtime.monotonic() + self._pauses.next()
        try:
            self.api.poll_status(_QUESTION)
            self.api.init(timeout=_QUESTION)
            offer = self.ask_for_offer()
        except Exception as exc:  # the next attempt may succeed
            is_foreseen = isinstance(exc, ComfyError | OSError | ValueError)
            log.log(
                logging.DEBUG if is_foreseen else logging.ERROR,
                "%s is not ready: %s",
                self.name,
                exc,
                exc_info=None if is_foreseen else exc,
            )
            self._owner.became_unreachable(self, exc)
            return
        self._pauses.reset()
        self._owner.became_ready(self, offer)

    def ask_for_offer(self) -> Offer | None:
        """Ask the server what it has; return None if it does not say."""
        try:
            definitions = self.api.node_definitions(refresh=self.offer is not None)
        except UnexpectedResponse as exc:
            log.warning("%s does not say which node classes it has: %s", self.name, exc)
            return None
        try:
            replaced = self.api.get_node_replacements()
        except (ApiError, UnexpectedResponse):
            replaced = {}  # servers before 0.14
        return Offer(definitions, replaced)

    def _submit(self, entry: Entry) -> None:
        job = entry.job

        def begun(inner: Job) -> None:
            if entry.cancelled:
                raise CancelledError  # while its files were uploaded: the rest is not sent
            follow(job, inner, self.name)
            entry.look()

        try:
            if entry.found is not None:
                self._has_found(entry, entry.found(self.api))
                return
            if entry.chosen is not None:
                entry.chosen(self.name)
            inner = submit_begun(
                self.api,
                entry.workflow,
                prompt_id=job.prompt_id,
                begun=begun,
                **entry.options,
            )
        except SubmitUncertain as exc:
            log.warning("%s; waiting until %s can tell", exc, self.name)
            self._attach(entry)
        except UnexpectedResponse as exc:
            if exc.status >= 300 or not state_of(job).posted_at:
                self._owner.was_not_submitted(self, entry, exc)
                return
            entry.refusal = exc  # it may have it all the same
            self._attach(entry)
        except Exception as exc:  # noqa: BLE001  # the owner of the job gets it
            self._owner.was_not_submitted(self, entry, exc)
        else:
            self._owner.was_submitted(self, entry, inner)

    def _attach(self, entry: Entry) -> None:
        """Look on the server for a job that it may have, as long as it takes."""
        try:
            inner = self.api.job(entry.job.prompt_id, entry.workflow)
        except Exception as exc:  # noqa: BLE001  # the owner of the job gets it
            self._owner.was_not_submitted(self, entry, exc)
        else:
            self._has_found(entry, inner)

    def _has_found(self, entry: Entry, inner: Job) -> None:
        follow(entry.job, inner, self.name)
        entry.look()
        self._owner.was_submitted(self, entry, inner)


def _work(ref: weakref.ref[Member], wake: runtime.Event) -> None:
    """Run the thread of a server, which holds its member only while it works."""
    pause: float | None = 0.0
    while pause is not None:
        wake.wait(pause)
        wake.clear()
        member = ref()
        if member is None:
            return
        try:
            pause = member.work()
        except ClientClosed:  # by its user, or by the end of the pool; the next turn tells which
            member.is_through()
            pause = _PAUSE
        except Exception:
            log.exception("a server of the pool could not be served")  # a defect
            member.is_through()
            pause = _PAUSE
        del member


def status_of(member: Member) -> ServerStatus:
    """Return the status of a server."""
    server = member.server
    state = "connecting" if member.error is None and member.down_since is None else "down"
    return ServerStatus(
        host=member.name,
        state="leaving" if member.leaving else "ready" if server.ready else state,
        weight=server.weight,
        own=server.own,
        others=server.others,
        done=member.done,
        failed=member.failed,
        models=server.model,
        error=None if server.ready else member.error,
        suspect=member.suspect,
    )
