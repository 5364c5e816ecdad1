"""Servers on which a sweep runs its prompts: one here, several in :mod:`comfy_client.pool`.

When a sweep is run again after its process died, its journal (``journal.py``) lists the prompts
that were sent.  Those that the server still knows are followed, not sent twice.
"""

from __future__ import annotations

import contextlib
import logging
import math
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any, Protocol

import attrs

from .. import runtime
from ..errors import ComfyError, JobLost, JobTimeout, SubmitUncertain
from ..jobs.execute import Parts, ServerDefinitions, attach_job, submit_workflow
from ..jobs.job import Job
from ..jobs.poller import Poller
from ..jobs.result import Result
from ..jobs.submit import attach
from ..log_records import AnyLog, Tags, prompt_facts
from ..models import HistoryEntry, QueueItem
from ..recording.secrets import Secrets
from ..routes import Routes
from ..routes.prompts import EXTRA_DATA_KEY, with_files_sent
from ..transport.deadline import Deadline, limited_silence
from ..values import T, is_shallow
from ..workflow import Workflow
from ..workflow.edit import AnyWorkflow, as_workflow
from ..workflow.graph import files_in, is_upload
from ..workflow.seeds import NAMES, is_wanted, wants_seeds
from .grid import Split, canonical
from .map_loop import ATTEMPTS, InFlight
from .outage import Outage, got_nothing, is_full, went_away
from .row import SweepRow


class NeverArrived(JobLost):
    """The server never got an earlier process's prompt, so it may be sent again under its id."""


def never_arrived(poller: Poller, job: object, outcome: object) -> bool:
    """Return whether a lost prompt never arrived, so that it may be sent again under its id."""
    if isinstance(outcome, NeverArrived):
        return True
    if not isinstance(outcome, JobLost) or not isinstance(job, Job) or poller.finds_lost_prompts:
        return False
    return job.handle.state.search_by_mark  # its submission never got an answer


@attrs.frozen
class EarlierPrompt:
    """A prompt that an earlier process may have submitted, and how to recognize it."""

    workflow: Callable[[], Workflow]  #: Makes the workflow that was submitted.
    #: The id in the journal.  If the server chose it, the prompt must have our mark, as the
    #: journal may come from a stranger, and the prompt may belong to somebody else.
    known_as: str | None = None

    def other_id(self, ours: str) -> str | None:
        """Return the id that the server chose in place of ``ours``, or None if none is known."""
        return None if self.known_as == ours else self.known_as

    def is_there(self, ours: str, record: QueueItem | HistoryEntry) -> bool:
        """Return whether a server's record marked with the id ``ours`` belongs to this prompt.

        Anybody can read and send such marks, but nobody can choose the ids on servers that assign
        their own.  If the process was killed before it learned the id, the graphs must agree.
        """
        other = self.other_id(ours)
        if other is not None:
            return record.prompt_id == other
        return _is_part(record.workflow, self.workflow().to_dict())


class Recovery:
    """The search for an earlier process's prompts on one server.

    Even if a journal has lost entries, nothing runs twice: each prompt is sought before it is sent.
    A prompt that was neither in the queue at the start nor in the history later never arrived.

    Args:
        client: The client of the server.
        poller: Its poller.
        sought: The prompts to look for, by the id that the earlier process chose.
        ended: The ids of prompts in the journal that had ended on this server.
    """

    def __init__(
        self,
        client: Routes,
        poller: Poller,
        sought: Mapping[str, EarlierPrompt],
        ended: Collection[str] = (),
    ) -> None:
        self._client = client
        self._poller = poller
        self._ids: dict[str, str] = {}  # the server's ids by ours
        found = poller.find_earlier({ours: one.known_as for ours, one in sought.items()}, ended)
        self._doubts = found.doubts
        records = found.records
        for record in records:
            mark = record.extra_data.get(EXTRA_DATA_KEY)
            if isinstance(mark, str) and mark in sought and sought[mark].is_there(mark, record):
                self._ids[mark] = record.prompt_id
        for record in records:  # an id takes precedence over a mark
            if record.prompt_id in sought:
                self._ids[record.prompt_id] = record.prompt_id

    def find(self, prompt_id: str) -> str | None:
        """Return the server's id of a prompt, or None; ``prompt_id`` if the server cannot tell."""
        if prompt_id in self._ids or prompt_id in self._doubts:
            return self._ids.get(prompt_id, prompt_id)
        return prompt_id if self._poller.has_record(prompt_id) else None

    def attach(
        self, prompt_id: str, workflow: Workflow, lost_delay: float | None, tags: Tags | None
    ) -> Job:
        """Attach to a prompt that an earlier process submitted, and return its job.

        Raises:
            SubmitUncertain: The server cannot tell whether it has the prompt.
            NeverArrived: It never got the prompt.
        """
        if prompt_id not in self._ids and prompt_id not in self._ids.values():
            if (why := self._doubts.get(prompt_id)) is not None:
                raise SubmitUncertain(
                    f"an earlier process may have submitted prompt {prompt_id}, and {why}; it may "
                    f"run.  Its Idempotency-Key and the mark in its workflow are {prompt_id}",
                    prompt_id=prompt_id,
                )
            is_open = self._poller.tracker.get(prompt_id) is not None  # in this process
            if not (self._poller.finds_lost_prompts or is_open):
                raise NeverArrived(f"prompt {prompt_id} never arrived", prompt_id=prompt_id)
        return attach(
            self._client,
            self._poller,
            self._ids.get(prompt_id, prompt_id),
            known_graph(workflow),
            output_names=workflow.output_names,
            lost_delay=lost_delay,
            tags=tags,
        )


def known_graph(workflow: Workflow) -> Mapping[str, Any]:
    """Return the graph that was submitted; empty if it has seeds or files that are unknown here."""
    graph = workflow.to_dict()
    return {} if wants_seeds(graph) or files_in(graph) else graph


def _is_part(sent: Mapping[str, Any], graph: Mapping[str, Any]) -> bool:
    """Return whether the graph ``sent`` is the workflow ``graph`` or a part of it."""
    return (
        bool(sent)
        and is_shallow(sent)
        and all(
            node_id in graph
            and _known(node, graph[node_id]) == _known(graph[node_id], graph[node_id])
            for node_id, node in sent.items()
        )
    )


def _known(node: Any, ours: Mapping[str, Any]) -> str:
    """Return a node as text, without drawn seeds and uploaded files; empty if it is malformed."""
    if not isinstance(node, Mapping) or not isinstance(node.get("inputs"), Mapping):
        return ""
    left_out = {
        name
        for name, value in ours["inputs"].items()
        if is_upload(value) or (name in NAMES and is_wanted(value))
    }
    kept = {name: value for name, value in node["inputs"].items() if name not in left_out}
    return canonical({**node, "inputs": kept})


log: logging.Logger = logging.getLogger("comfy_client")

#: Errors of :meth:`ComfyApi.submit`.  Any other error comes from elsewhere and interrupts it, and
#: the prompt may have arrived already.
NOT_SENT: tuple[type[Exception], ...] = (ComfyError, TypeError, ValueError)


@attrs.define(eq=False)
class Flight:
    """A prompt of a sweep that is in progress.

    Attributes:
        prompt_id: Its key among the prompts in flight; servers before 0.3.45 choose another id.
        point: Its point of the grid.
        host: The URL of the server that has it, or is to have it.
        tries: The number of this submission of the point; 0: an earlier call has sent it.
        begun: When it was sent (monotonic); ``None``: not sent yet, or sent by another process.
        was_taken_back: Whether an earlier call deleted it; it may have run nevertheless.
    """

    prompt_id: str
    point: int
    host: str
    tries: int = 0
    begun: float | None = None
    was_taken_back: bool = False


#: The options of a submission.
Options = Mapping[str, Any]
#: Called before a prompt is sent, maybe in another thread.
Sent = Callable[[Flight], object]


def do_nothing() -> None:
    """Do nothing."""


@attrs.frozen
class Verdict:
    """The consequences of a prompt's end for its point; the defaults are for a single server.

    Attributes:
        keeps_id: Whether the point is to run under the same id, which its server accepts once.
        moves: Whether a server, maybe another one, is to run the point, without a try being
            counted: the server never got it, refused it, never began it, or is to blame for its
            failure.
        may_move: Whether other servers can run it after an error that is about its server.
        is_poison: Whether so many servers have died with the point that none is to run it again.
        was_forgotten: Whether its own server said that it does not know the prompt.
        cancel: Cancels the prompt when its server is back, as its point is about to run again.
    """

    moves: bool = False
    keeps_id: bool = False
    may_move: bool = False
    is_poison: bool = False
    was_forgotten: bool = True
    cancel: Callable[[], object] = do_nothing


class Runner(Protocol):
    """Runs the prompts of a sweep on one or more servers, which are named by their URLs.

    Attributes:
        prompts: The prompts in progress.
        reruns: Whether to run prompts again that may have run on a server that cannot be asked now.
        fallback_host: The server to ask for prompts that were sent to a server unknown to the
            runner; ``None``: there is none.
        log: The log of the only server; with several servers, the logger itself.
    """

    prompts: InFlight
    reruns: bool
    fallback_host: str | None
    log: AnyLog = log

    @property
    def poller(self) -> Poller:
        """The poller whose ``Timing`` applies to the sweep."""

    @property
    def clients(self) -> Mapping[str, Routes]:
        """The clients of all servers, by URL."""

    def add_secrets_to(self, secrets: Secrets) -> None:
        """Add the credentials of all clients to ``secrets``."""

    @property
    def weights(self) -> Mapping[str, float]:
        """The relative speed of each server, by which the points are divided at first."""

    def choose(self, todo: Split) -> tuple[int, str] | None:
        """Take the next point for a free server; return the point and the server's URL, or None."""

    def find_impossible(self, points: Iterable[int]) -> Mapping[int, ComfyError]:
        """Return the points that no server can run, each with its error.

        The error is a :class:`JobTimeout` if no server answered in time.
        """

    def recall(self, *, needed: bool) -> Collection[str]:
        """Take back prompts that other servers are to run; return their ids.

        ``needed`` is true if no other work is left for idle servers.
        """
        return ()

    def pause(self) -> None:
        """Wait for a moment while no prompt is in progress."""
        return

    def submit(
        self, flight: Flight, workflow: Workflow, options: Options, sent: Sent
    ) -> Job | None:
        """Submit a prompt; return its job, or None if its server cannot have it."""

    def judge(self, flight: Flight, outcome: Result | ComfyError) -> Verdict:
        """Note what a prompt's end says about its server and its point; return the verdict."""
        return Verdict()

    # -- prompts of an earlier call --------------------------------------------------------

    def recover(self, sought: Mapping[str, EarlierPrompt], ended: Collection[SweepRow]) -> None:
        """Look for prompts of an earlier call; ``ended`` are the rows that had ended."""

    def find(self, prompt_id: str, home: str | None = None) -> tuple[str, str] | None:
        """Return the server that has a prompt, and the prompt's id there; None if none has it.

        ``home`` is the server to which it was sent, if known.
        """

    def attach(
        self, flight: Flight, workflow: Workflow, options: Options, lost_delay: float | None
    ) -> None:
        """Add a prompt of an earlier call to those in flight, even if it has ended since."""


class OneServer(Runner):
    """Runs ``map`` and ``sweep`` on the server of one client, and waits if it goes away.

    Args:
        routes: The client.
        parts: Its parts.
        timeout: Seconds for each prompt.
        stall_timeout: Seconds without any news of a prompt.
        patience: Seconds that the server may be away in one piece.
    """

    def __init__(
        self,
        routes: Routes,
        parts: Parts,
        *,
        timeout: float | None,
        stall_timeout: float | None,
        patience: float | None,
    ) -> None:
        self.reruns: bool = False
        self.log: AnyLog = parts.http.log
        poller = parts.poller
        self.fallback_host: str | None = routes.host  # the server's URL may have changed
        self._routes = routes
        self._parts = parts
        self._outage = Outage(poller, patience)
        self.prompts: InFlight = InFlight(
            partial(_take_back, poller),
            timeout=timeout,
            stall_timeout=stall_timeout,
            outage=self._outage,
            longest=poller.timing.cancel_timeout,
        )
        #: Seconds that an unsent prompt may wait for an absent server.
        self._limit: float | None = min(
            (n for n in (timeout, stall_timeout) if n is not None), default=None
        )
        self._is_patient = False  # True once it has answered: then wait for it if it goes away
        #: Submissions without an answer, and the number of tries of each.
        self._unsure: dict[str, tuple[Workflow, int]] = {}
        self._recovery: Recovery | None = None

    @property
    def poller(self) -> Poller:
        """The poller of the client."""
        return self._parts.poller

    @property
    def clients(self) -> Mapping[str, Routes]:
        """The client of the server, by its URL."""
        return {self._routes.host: self._routes}

    def add_secrets_to(self, secrets: Secrets) -> None:
        """Add the credentials of the client to ``secrets``."""
        self._parts.http.identity.add_secrets_to(secrets)

    @property
    def weights(self) -> Mapping[str, float]:
        """The relative speed of the only server."""
        return {self._routes.host: 1.0}

    def choose(self, todo: Split) -> tuple[int, str] | None:
        """Take the next point for the server; return both, or None if no point is left.

        The server itself refuses points that it cannot run.
        """
        host = self._routes.host
        point = todo.take(host)
        return None if point is None else (point, host)

    def find_impossible(self, points: Iterable[int]) -> Mapping[int, ComfyError]:
        """Return an error for each point if the server was away for too long, else nothing."""
        limit, seconds = self._limit, max(self._outage.seconds, self._outage.silent_for)
        if limit is None or not seconds or seconds < limit:
            return {}
        why = f"{self._routes.host} has not answered for {seconds:.3g} s"
        return {point: self._late("", why) for point in points}

    def judge(self, flight: Flight, outcome: Result | ComfyError) -> Verdict:
        """Return the verdict that a prompt which never arrived is sent again under its id."""
        is_new = never_arrived(self.poller, self.prompts.get(flight.prompt_id), outcome)
        return Verdict(moves=is_new, keeps_id=is_new)

    def submit(
        self, flight: Flight, workflow: Workflow, options: Options, sent: Sent
    ) -> Job | None:
        """Submit a prompt in this thread, and return its job."""
        sent(flight)
        return self.send(options, flight.prompt_id, workflow)

    # -- submissions -----------------------------------------------------------------------

    def send(self, options: Options, prompt_id: str, source: AnyWorkflow) -> Job:
        """Submit a prompt; if no answer comes, count it as sent until the server can be asked."""
        since = self._turn(prompt_id)
        workflow = as_workflow(source, self._definitions(since))
        self.prompts.begin(prompt_id)
        try:
            return self._send(prompt_id, workflow, options, since, tries=1)
        except NOT_SENT:
            if prompt_id not in self._unsure:
                self.prompts.drop(prompt_id)
            raise

    def resubmit(self, options: Options, prompt_id: str, error: JobLost) -> bool:
        """Submit a lost prompt again if it never arrived; return whether it was submitted."""
        workflow, tries = self._unsure.pop(prompt_id, (None, ATTEMPTS))
        if workflow is None or tries >= ATTEMPTS:
            return False
        named = prompt_facts(prompt_id, options.get("tags"))
        self.poller.tracker.log.warning("%s; submitting it again", error, extra=named)
        again = str(uuid.uuid4())
        self.prompts.rename(prompt_id, again)
        try:
            self._send(again, workflow, options, self._turn(again), tries=tries + 1)
        except ComfyError as exc:
            self.prompts.put(again, exc)
        return True

    def _turn(self, prompt_id: str) -> float:
        """Return when the time of the next prompt began: now, or when the server fell silent.

        Raises:
            JobTimeout: It has been silent for longer than a prompt has.
        """
        outage, limit = self._outage, self._limit
        if limit is not None and outage.is_over_after(limit):
            why = f"{self._routes.host} has not answered for {outage.silent_for:.3g} s"
            raise self._late(prompt_id, why)
        return runtime.monotonic() - outage.silent_for

    def _definitions(self, since: float) -> ServerDefinitions:
        return ServerDefinitions(self._routes, self._parts.definitions, self._deadline(since))

    def _deadline(self, since: float) -> Deadline:
        return Deadline() if self._limit is None else Deadline(since + self._limit)

    def _send(
        self, prompt_id: str, workflow: Workflow, options: Options, since: float, *, tries: int
    ) -> Job:
        uncertain_since: float | None = None
        try:
            job = self._submitted(prompt_id, workflow, options, self._deadline(since))
        except SubmitUncertain as exc:
            if not self.poller.finds_lost_prompts:
                raise
            tags = options.get("tags")
            said, named = "%s; waiting until the server can tell", prompt_facts(prompt_id, tags)
            self.poller.tracker.log.warning(said, exc, extra=named)
            open_ones = {key: one for key, one in self._unsure.items() if key in self.prompts}
            self._unsure = {**open_ones, prompt_id: (workflow, tries)}
            self._outage.begin_before(self.poller.timing.look_up)
            job = attach_job(self._routes, self._parts, prompt_id, workflow, tags=tags, waits=False)
            uncertain_since = since
        self._is_patient = True
        self.prompts.put(prompt_id, job, uncertain_since)
        return job

    def _submitted(
        self, prompt_id: str, workflow: Workflow, options: Options, deadline: Deadline
    ) -> Job:
        how: Any = {**options}
        strict, resubmit = how.pop("strict", False), how.pop("resubmit", False)

        def submit(it: Workflow, *, waits: bool = False) -> Job:
            return submit_workflow(
                self._routes,
                self._parts,
                it,
                None,
                how,
                prompt_id=prompt_id,
                strict=strict,
                check=False,
                resubmit=resubmit,
                deadline=deadline,
                waits=waits,
            )

        patiently = partial(self._patiently, prompt_id, deadline)
        if not self._is_patient and self._limit is None and self._outage.patience is None:
            return submit(workflow, waits=True)
        if not self._is_patient:
            return patiently(partial(submit, workflow), is_full)
        # An interrupted upload may be sent again.
        send_files = partial(with_files_sent, self._routes, workflow, deadline)
        sent = patiently(send_files, lambda exc: went_away(exc) or is_full(exc))
        return patiently(partial(submit, sent), lambda exc: got_nothing(exc) or is_full(exc))

    def _patiently(
        self,
        prompt_id: str,
        deadline: Deadline,
        ask: Callable[[], T],
        is_waited_for: Callable[[Exception], bool],
    ) -> T:
        """Call ``ask`` for a prompt that is not sent yet, and wait while the server is away.

        Raises:
            JobTimeout: The deadline has passed.
            ServerUnreachable: The server has been away for longer than ``patience``.
        """

        def late(exc: ComfyError) -> ComfyError:
            return self._late(prompt_id, str(exc))

        return self._outage.patiently(ask, is_waited_for, deadline, late, self.prompts.tick)

    def _late(self, prompt_id: str, why: str) -> JobTimeout:
        """Return the error for a prompt that could not be sent in time."""
        words = f"the prompt was not sent within {self._limit:g} s: {why}"
        stalled = self._limit != self.prompts.timeout
        return JobTimeout(words, prompt_id=prompt_id, stalled=stalled)

    def _limited_silence(self) -> contextlib.AbstractContextManager[object]:
        return limited_silence(math.inf if self._limit is None else max(1.0, self._limit))

    # -- prompts of an earlier call --------------------------------------------------------

    def recover(self, sought: Mapping[str, EarlierPrompt], ended: Collection[SweepRow]) -> None:
        """Ask the server for the prompts of an earlier call."""
        known = ended_on(self._routes.host, ended)
        with self._limited_silence():
            self._recovery = Recovery(self._routes, self.poller, sought, known)
        self._is_patient = True

    def find(self, prompt_id: str, home: str | None = None) -> tuple[str, str] | None:
        """Return the server and a prompt's id there, or None; wait until the server answers."""
        if self._recovery is None:
            return None
        deadline = self._deadline(self._turn(prompt_id))
        find = partial(self._recovery.find, prompt_id)
        with self._limited_silence():
            found = self._patiently(prompt_id, deadline, find, went_away)
        return None if found is None else (self._routes.host, found)

    def attach(
        self, flight: Flight, workflow: Workflow, options: Options, lost_delay: float | None
    ) -> None:
        """Attach to a prompt of an earlier call, in this thread."""
        assert self._recovery is not None  # noqa: S101  # only what find() found is attached to
        tags = options.get("tags")
        try:
            job = self._recovery.attach(flight.prompt_id, workflow, lost_delay, tags)
        except (NeverArrived, SubmitUncertain) as exc:
            self.prompts.put(flight.prompt_id, exc)
        else:
            self.prompts.put(flight.prompt_id, job)


def ended_on(host: str, rows: Iterable[SweepRow]) -> list[str]:
    """Return the ids of the prompts that a server certainly had, as their rows have results."""
    return [row.prompt_id for row in rows if row.host == host and row.result is not None]


def _take_back(poller: Poller, prompts: Mapping[str, Job | None]) -> Iterable[str]:
    """Delete prompts from the queue; return all keys, or none on failure.

    Those that another thread is sending, as the client is closed, are deleted once they are there.
    """
    tracker, timing = poller.tracker, poller.timing
    ids = [key if job is None else job.prompt_id for key, job in prompts.items()]
    sending = [one for one in map(tracker.get, ids) if one is not None and tracker.is_posting(one)]
    limit = timing.cancel_timeout if tracker.http.silence is None else timing.cancel_silent
    deadline = Deadline.after(limit)
    is_done = poller.delete_pending(ids, limit)
    if is_done and sending:
        poller.wait_until(lambda: not any(map(tracker.is_posting, sending)), deadline.left())
        is_done = not deadline.expired and poller.delete_pending(ids, deadline.left())
    return prompts if is_done else ()
