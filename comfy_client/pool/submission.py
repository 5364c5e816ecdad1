"""Submission of workflows, and of the points of a sweep, to a pool.

It runs a workflow on any server that can run it.  :meth:`ComfyPool.sweep` gives each server the
next of its own points, and records the server in the journal before it sends anything.  Prompts
that an earlier process left open are sought on that server.
"""

from __future__ import annotations

import copy
import json
import logging
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cache, partial
from typing import Any, Final

from .. import runtime
from ..batch.grid import Grid, Split
from ..batch.map_loop import InFlight, is_about_one
from ..batch.row import SweepRow
from ..batch.runner import (
    EarlierPrompt,
    Flight,
    Options,
    Recovery,
    Runner,
    Sent,
    Verdict,
    ended_on,
    known_graph,
    never_arrived,
)
from ..client import ComfyApi
from ..errors import (
    AuthenticationError,
    ClientClosed,
    ComfyError,
    JobLost,
    JobTimeout,
    ServerUnreachable,
    WorkflowError,
)
from ..jobs.handle import SLICE
from ..jobs.job import Callbacks, Job, cancel_in_time
from ..jobs.outcomes import lost_error
from ..jobs.poller import Poller
from ..jobs.result import Result
from ..recording.secrets import Secrets
from ..transport.deadline import LONGEST, Deadline, limited_silence, read_timeout
from ..workflow.address import Inputs
from ..workflow.definition_source import DefinitionSource
from ..workflow.edit import AnyWorkflow, Workflow, as_workflow, graph_of, with_inputs
from ..workflow.graph import as_link, files_in
from .availability import cannot_run, is_hopeless, lacks, out_of_reach
from .membership import SPARE, Sending, Servers, Terms, connect_once, sending_of
from .needs import Need, Needs, is_model, models_of, needs_of
from .pool_state import Entry, Member
from .pooled_job import PooledHandle, PooledJob
from .schedule import Server, Waiting

log: logging.Logger = logging.getLogger("comfy_client")


def read_workflow(
    workflow: AnyWorkflow, definitions: DefinitionSource, inputs: Inputs | None = None
) -> Workflow:
    """Return a copy of a workflow with these inputs; raise TypeError for a function."""
    if callable(workflow) and not isinstance(workflow, Workflow | Job):
        raise TypeError(f"a pool executes workflows, not functions: {workflow!r:.80}")
    known = as_workflow(workflow, definitions)
    return known.copy() if inputs is None else with_inputs(known, inputs)


def submit(
    servers: Servers, workflow: Workflow, callbacks: Callbacks, terms: Terms, sending: Sending
) -> PooledJob:
    """Queue a workflow in the pool, and return its job; cancel it if the call is interrupted."""
    jobs: list[PooledJob] = []
    try:
        return enqueue(servers, workflow, callbacks, terms, sending, jobs.append)
    except BaseException as exc:
        for job in jobs if not isinstance(exc, ComfyError) else ():
            _cancel(job)
        raise


def _cancel(job: PooledJob) -> None:
    """Cancel the job of an interrupted submission, which its user never got."""
    extra = {**job.handle.state.named, "server": job.server}
    log.warning("cancelling prompt %s: its submission was interrupted", job.prompt_id, extra=extra)
    said: list[bool] = []
    try:
        said = cancel_in_time([job])
    finally:  # a second Ctrl-C, too
        if not said:
            where = f" on {job.server}" if job.server else ""
            log.warning("prompt %s may keep running%s", job.prompt_id, where, extra=extra)


def enqueue(
    servers: Servers,
    workflow: Workflow,
    callbacks: Callbacks,
    terms: Terms,
    sending: Sending,
    begun: Callable[[PooledJob], object],
    *,
    ready_in: float | None = None,
) -> PooledJob:
    """Queue a workflow until a server is chosen for it, and return its job.

    ``begun`` is called with the job before any server has it, so that the caller can end the job if
    Ctrl-C interrupts this call.
    """
    dispatcher = servers.dispatcher
    connect_once(dispatcher, ready_in)
    graph = graph_of(workflow)
    known = {} if files_in(graph) else graph
    client, prompt_id = servers.any_client(), str(uuid.uuid4())
    handle = PooledHandle(client, client.parts.poller, prompt_id, known, dispatcher)
    handle.state.tags = sending["options"].get("tags") or {}
    job = PooledJob(handle)
    needs = needs_of(graph)
    waiting = Waiting(
        job,
        next(servers.numbers),
        priority=terms.priority,
        caller=terms.caller,
        needs=needs,
        model=models_of(needs),
        include=terms.include,
        exclude=terms.exclude,
    )
    entry = Entry(job, workflow, waiting, callbacks, sending)
    begun(job)
    try:
        dispatcher.submit(entry)
    except WorkflowError:  # a model file may have been added since
        dispatcher.refresh(read_timeout.get())
        dispatcher.submit(entry)
    if dispatcher.waits_for_away(job):  # or a server that answers may have got the file
        dispatcher.refresh(read_timeout.get())
        dispatcher.warn_of_wait(job)
    return job


#: Errors of a submission whose server has just left the pool.
_IS_GONE: Final = (WorkflowError, ValueError, ServerUnreachable)


class PoolRunner(Runner):
    """Runs the prompts of a sweep on the servers of a pool."""

    def __init__(self, grid: Grid, prompts: InFlight, servers: Servers, terms: Terms) -> None:
        dispatcher = servers.dispatcher
        policy = dispatcher.state.policy
        self.prompts: InFlight = prompts
        self.reruns: bool = policy.on_lost == "retry"
        self.fallback_host: str | None = None
        self._terms = terms
        self._numbers = servers.numbers
        self._patience = policy.patience
        self._dispatcher = dispatcher
        self._needs = needs_by_point(grid)
        # The clients of all servers that have been in the pool.
        self._clients = {name: one.api for name, one in dispatcher.members.items()}
        self._recoveries: dict[str, Recovery] = {}
        self._sought: Mapping[str, EarlierPrompt] = {}
        self._ended: Collection[SweepRow] = ()  # the rows of an earlier call that had ended
        self._entries: dict[str, Entry] = {}  # the prompts in flight
        self._hosts: dict[str, str] = {}  # their servers
        self._avoided: dict[int, set[str]] = {}  # servers that refused or failed a point
        self._failed: set[int] = set()  # points that failed once, and moved
        self._deaths: Counter[int] = Counter()  # how many servers died with a point
        self._refusing: dict[str, ComfyError] = {}  # servers that refuse us, and why
        self._away_since: dict[str, float] = {}  # since when servers with earlier prompts are away
        self._idle_since: float | None = None  # since when points wait and none is in flight
        self._rest: Needs = frozenset()  # the needs of the first of them

    # -- servers ---------------------------------------------------------------------------

    @property
    def _members(self) -> dict[str, Member]:
        found = dict(self._dispatcher.members)
        self._clients |= {name: member.api for name, member in found.items()}
        return found

    @property
    def _ready(self) -> dict[str, Member]:
        return {name: one for name, one in self._members.items() if one.server.ready}

    @property
    def _allowed(self) -> dict[str, Member]:
        """The servers that the caller allows."""
        include, exclude = self._terms.include, self._terms.exclude
        return {
            name: member
            for name, member in self._members.items()
            if (include is None or name in include) and name not in exclude
        }

    @property
    def _usable(self) -> dict[str, Member]:
        """The servers that the caller allows, except those that refuse all requests."""
        return {name: one for name, one in self._allowed.items() if name not in self._refusing}

    @property
    def poller(self) -> Poller:
        """The poller of the first server; if the pool is empty, of a former server."""
        first = next((member.api for member in self._members.values()), None)
        return (first or next(iter(self.clients.values()))).parts.poller

    @property
    def clients(self) -> Mapping[str, ComfyApi]:
        """The clients by URL, those of servers that were removed from the pool included."""
        if not self._members and not self._clients:
            raise ServerUnreachable("the pool has no servers: add one")
        return self._clients

    def add_secrets_to(self, secrets: Secrets) -> None:
        """Add the credentials of all clients to ``secrets``."""
        for api in self.clients.values():
            api.parts.http.identity.add_secrets_to(secrets)

    # -- the next points -------------------------------------------------------------------

    @property
    def weights(self) -> Mapping[str, float]:
        """The weights of the allowed servers that answer, or of all allowed ones if none does."""
        members = self._allowed
        found = {name: one for name, one in members.items() if one.error is None} or members
        return {name: member.server.weight for name, member in found.items()}

    def choose(self, todo: Split) -> tuple[int, str] | None:
        """Take a point for the least busy server that can run one; return both, or None.

        A suspect server takes over no points of other servers.
        """
        for server in self._free():
            point = todo.take(server.name, self._fits, may_steal=not server.is_suspect)
            if point is not None:
                return point, server.name
        return None

    def _free(self) -> list[Server]:
        """Return the servers with room for a prompt, the least busy first.

        Servers with a long queue of other clients' prompts are left out.
        """
        own = Counter(self._hosts.values())
        servers = [one.server for one in self._usable.values() if one.server.ready]
        least = min((server.load for server in servers), default=0.0)
        found = [
            server
            for server in servers
            if own[server.name] < SPARE * server.most
            and server.others / server.weight < least + server.most
        ]
        return sorted(found, key=lambda one: own[one.name] / one.weight)

    def _fits(self, host: str, point: int) -> bool:
        """Return whether a server can run a point, and is to do so now.

        A suspect server that rests or has a job is to do so only if no other can run the point.  A
        server that refused or failed it before is to do so only if no other server may come.
        """
        member = self._dispatcher.members.get(host)
        if member is None or not member.server.has(self._needs(point)):
            return False
        if host in self._avoided.get(point, ()):  # if no other can come, its error ends the point
            return not self._may_another_come(point)
        return member.server.may_be_tried or not self._has_other(host, point)

    def _may_another_come(self, point: int) -> bool:
        """Return whether a server that has neither refused nor failed a point may still run it."""
        return any(
            self._can_run(one, point) and self._dispatcher.may_come(one)
            for one in self._usable.values()
        )

    def _can_run(self, member: Member, point: int) -> bool:
        """Return whether a server can run a point and has neither refused nor failed it."""
        is_avoided = member.name in self._avoided.get(point, ())
        return not is_avoided and member.server.has(self._needs(point))

    def _has_other(self, host: str, point: int) -> bool:
        """Return whether another healthy server can run a point, now or soon."""
        return any(
            one.server.is_expected and not one.server.is_suspect and self._can_run(one, point)
            for name, one in self._usable.items()
            if name != host
        )

    def find_impossible(self, points: Iterable[int]) -> Mapping[int, ComfyError]:
        """Return an error for each point that no server can run, not even one that is away now.

        If no server has answered in time, the error of each point is a :class:`JobTimeout`.

        Raises:
            ComfyError: For each point, all servers that could run it refuse us or never answered.
        """
        found = list(points)
        self._rest = self._needs(found[0]) if found else frozenset()
        if (late := self._timeout_error()) is not None:
            return {point: copy.copy(late) for point in found}
        kinds = set(map(self._needs, found))
        if any(self._lacking(needs) or not self._is_there(needs) for needs in kinds):
            self._dispatcher.refresh(LONGEST)  # a model file may have been added since
        lacking = {needs: self._lacking(needs) for needs in kinds}
        refusals = [error for needs in kinds if (error := self._refusal(needs)) is not None]
        if refusals and len(refusals) == len(kinds):
            raise refusals[0]
        return {point: error for point in found if (error := lacking[self._needs(point)])}

    def _lacking(self, needs: Needs) -> ComfyError | None:
        """Return a WorkflowError if no server meets these needs, or None; raise other errors."""
        members = self._allowed
        if any(member.server.has(needs) for member in members.values()):
            return None
        error = cannot_run(Waiting("", 0, needs=needs), members)
        if isinstance(error, WorkflowError):
            return error
        raise error

    def _is_there(self, needs: Needs) -> bool:
        """Return whether any server that answers meets these needs."""
        return any(one.server.has(needs) for one in self._allowed.values() if one.error is None)

    def _refusal(self, needs: Needs) -> ComfyError | None:
        """Return an error if all servers that meet these needs have failed for good, or None."""
        members = self._allowed
        able = {name: one for name, one in members.items() if one.server.has(needs)}
        left = {name: one for name, one in able.items() if name not in self._refusing}
        if not able or any(one.offer is not None for one in left.values()) or not is_hopeless(left):
            return None
        refusing = [self._refusing[name] for name in able if name in self._refusing]
        if refusing:
            # A copy, as raising adds a traceback, which would keep this runner alive.
            return copy.copy(refusing[0])
        return out_of_reach(left, "that can run it", lacks(Waiting("", 0, needs=needs), members))

    def recall(self, *, needed: bool) -> Collection[str]:
        """Take back unsent prompts that other servers are to run; return their ids.

        Their server is away, or is suspect while another one could run them.  If ``needed``, one
        prompt of a busy server is taken back, too, for a server that is idle.
        """
        jobs = {
            name: job
            for name, job in self.prompts.jobs.items()
            if isinstance(job, PooledJob) and job.status == "waiting"
        }
        ready, hosts = self._ready, self._hosts
        self._lose_earlier(jobs, ready)
        ours = [name for name in jobs if name not in self.prompts.earlier]
        found = [name for name in ours if hosts[name] not in ready or self._is_held_up(name)]
        if needed and (self._usable.keys() & ready.keys()) - set(hosts.values()):
            found += [name for name in ours if hosts[name] in ready][-1:]
        found = [name for name in found if self._dispatcher.withdraw(jobs[name], if_unsent=True)]
        for name in found:
            self._forget(name)
        return found

    def _forget(self, prompt_id: str) -> Entry | None:
        """Forget a prompt that is no longer in flight; return its entry, or None."""
        self._hosts.pop(prompt_id, None)
        return self._entries.pop(prompt_id, None)

    def _is_held_up(self, prompt_id: str) -> bool:
        """Return whether a prompt waits for a suspect server although another could run it."""
        member = self._dispatcher.members.get(self._hosts[prompt_id])
        entry = self._entries.get(prompt_id)
        is_bound = entry is not None and entry.waiting.is_bound
        return is_bound and member is not None and member.server.is_suspect

    def _lose_earlier(self, jobs: Mapping[str, PooledJob], ready: Collection[str]) -> None:
        """Give up prompts that an earlier process sent to a server that is away for too long."""
        now = runtime.monotonic()
        for host in ready:
            self._away_since.pop(host, None)
        for name in self.prompts.earlier & jobs.keys():
            host = self._hosts[name]
            since = now if host in ready else self._away_since.setdefault(host, now)
            if now - since > self._patience and self._dispatcher.withdraw(
                jobs[name], if_unsent=True
            ):
                silence = f"{host} has not answered for {self._patience:g} s"
                self.prompts.put(name, lost_error(name, f"lost: {silence}, and may have run it"))

    def _timeout_error(self) -> ComfyError | None:
        """Return a JobTimeout if rows have waited too long for a server to answer, else None."""
        limits = [n for n in (self.prompts.timeout, self.prompts.stall_timeout) if n is not None]
        if self._idle_since is None or not limits:
            return None
        if runtime.monotonic() - self._idle_since < min(limits):
            return None
        why = f"no server that can run it answered for {min(limits):g} s; it was not sent"
        return JobTimeout(why, prompt_id="")

    def pause(self) -> None:
        """Wait a moment for a change in the pool, while no prompt is in progress."""
        self._dispatcher.check_open()
        if self._idle_since is None:
            self._idle_since = runtime.monotonic()
            names = ", ".join(self._allowed.keys() - self._ready.keys())
            if words := lacks(Waiting("", 0, needs=self._rest), self._allowed):
                names += f"; {words}"
            log.warning("the sweep waits for a server that can run the rest: %s", names)
        tick = self.prompts.tick
        self._dispatcher.wait(lambda: False, SLICE if tick is None else min(SLICE, tick()))

    def submit(
        self, flight: Flight, workflow: Workflow, options: Options, sent: Sent
    ) -> Job | None:
        """Queue a prompt for its server; return its job, or None if the server cannot have it."""
        graph = graph_of(workflow)
        known = {} if files_in(graph) else graph
        return self._wait(flight, workflow, known, options, chosen=lambda _: sent(flight))

    def _wait(
        self,
        flight: Flight,
        workflow: Workflow,
        graph: Mapping[str, Any],
        options: Options,
        *,
        chosen: Callable[[str], object] | None = None,
        found: Callable[[ComfyApi], Job] | None = None,
    ) -> Job | None:
        host, prompt_id = flight.host, flight.prompt_id
        client = self._clients[host]
        handle = PooledHandle(client, client.parts.poller, prompt_id, graph, self._dispatcher)
        handle.state.tags = options.get("tags") or {}
        job = PooledJob(handle)
        # An earlier prompt is sought on its server, whichever models that server has now.
        needs = needs_of(graph_of(workflow)) if found is None else frozenset[Need]()
        has_other = self._has_other(host, flight.point)
        waiting = Waiting(
            job,
            next(self._numbers),
            priority=self._terms.priority,
            caller=self._terms.caller,
            needs=needs,
            model=models_of(needs),
            include=frozenset({host}),
            is_bound=has_other and found is None,
            runs_alone=self._deaths[flight.point] > 0,
        )
        entry = Entry(job, workflow, waiting, Callbacks(), sending_of(options))
        entry.chosen, entry.found, entry.is_swept = chosen, found, True
        entry.has_other, entry.deaths = has_other, self._deaths[flight.point]
        self._idle_since = None
        self._entries[prompt_id] = entry
        self._hosts[prompt_id] = host
        self.prompts.put(prompt_id, job)
        try:
            self._dispatcher.submit(entry)
        except (ComfyError, ValueError) as exc:
            self._forget(prompt_id)
            self.prompts.drop(prompt_id)
            if isinstance(exc, _IS_GONE):
                return None
            raise
        return job

    def judge(self, flight: Flight, outcome: Result | ComfyError) -> Verdict:
        """Note what a prompt's end says about its server and its point; return the verdict."""
        entry, point = self._forget(flight.prompt_id), flight.point
        if isinstance(outcome, Result):
            return Verdict()
        if entry is not None:
            self._deaths[point] = entry.deaths
            if self._let_move(flight, entry):
                return Verdict(moves=True)
        job = self.prompts.get(flight.prompt_id)
        inner = job.handle.given if isinstance(job, PooledJob) else None
        if never_arrived(self._clients[flight.host].parts.poller, inner, outcome):
            return Verdict(moves=True, keeps_id=True)
        # Only its own server can say so; a silent server may know the prompt when it is back.
        was_forgotten = (
            inner is not None and inner.done() and isinstance(inner.exception(0), JobLost)
        )
        return Verdict(
            may_move=not is_about_one(outcome) and self._note_refusal(flight.host, outcome),
            is_poison=self._deaths[point] >= self._dispatcher.state.policy.tries.deaths,
            was_forgotten=was_forgotten,
            cancel=partial(self._cancel_later, inner, job),
        )

    def _let_move(self, flight: Flight, entry: Entry) -> bool:
        """Let another server run a point whose prompt has ended; return False if none may."""
        point = flight.point
        if not entry.goes_on or (entry.failed and point in self._failed):
            return False
        if entry.failed:
            self._failed.add(point)
        if entry.refusal is not None:
            self._avoided.setdefault(point, set()).add(flight.host)
        return True

    def _note_refusal(self, host: str, error: ComfyError) -> bool:
        """Note a server that refuses all requests; return whether other servers are left.

        For an error of another kind, return False.
        """
        self._dispatcher.check_open()
        if not isinstance(error, AuthenticationError | ClientClosed):
            return False
        self._refusing[host] = error
        return bool(self._usable)

    # -- prompts of an earlier call --------------------------------------------------------

    def recover(self, sought: Mapping[str, EarlierPrompt], ended: Collection[SweepRow]) -> None:
        """Set the earlier prompts to look for, and wait until each server has answered or failed.

        The wait takes as long as ``PoolTiming.continuing`` at most.
        """
        self._sought, self._ended = sought, ended
        deadline = Deadline.after(self._dispatcher.timing.continuing)
        while not deadline.expired and not self._dispatcher.wait(self._is_settled, SLICE):
            self._dispatcher.check_open()

    def _is_settled(self) -> bool:
        return all(one.server.ready or one.error for one in self._members.values())

    def _recovery(self, host: str) -> Recovery:
        if host not in self._recoveries:
            client = self._clients[host]
            known = ended_on(host, self._ended)
            self._recoveries[host] = Recovery(client, client.parts.poller, self._sought, known)
        return self._recoveries[host]

    def find(self, prompt_id: str, home: str | None = None) -> tuple[str, str] | None:
        """Find the server that has an earlier prompt, and its id there; return None if none has it.

        If ``home`` does not answer, the prompt is taken to be there.
        """
        if not self._sought:
            return None
        asked = set()
        for host in self._ready:
            try:
                with limited_silence(self.poller.timing.question):
                    known = self._recovery(host).find(prompt_id)
            except ComfyError as exc:
                said, extra = "%s does not say whether it has prompt %s: %s", {"server": host}
                log.debug(said, host, prompt_id, exc, extra=extra)
                continue
            asked.add(host)
            if known is not None:
                return host, known
        return None if home is None or home in asked else (home, prompt_id)

    def attach(
        self, flight: Flight, workflow: Workflow, options: Options, lost_delay: float | None
    ) -> None:
        """Attach to an earlier prompt, in the server's thread as soon as the server answers."""
        host, prompt_id = flight.host, flight.prompt_id

        def attach_to(_: ComfyApi) -> Job:
            return self._recovery(host).attach(prompt_id, workflow, lost_delay, options.get("tags"))

        self.prompts.earlier.add(prompt_id)
        if self._wait(flight, workflow, known_graph(workflow), options, found=attach_to) is None:
            why = f"lost: {host} may have run it, and is not in the pool, or refuses us"
            self.prompts.put(prompt_id, lost_error(prompt_id, why))

    def _cancel_later(self, inner: Job | None, job: Job | ComfyError | None) -> None:
        """Cancel a job as soon as its server is back."""
        member = self._members.get(job.server or "") if isinstance(job, PooledJob) else None
        if inner is not None and member is not None:
            member.unwanted.append(inner)
            member.wake()


def needs_by_point(grid: Grid) -> Callable[[int], Needs]:
    """Return a function from a point of the grid to the needs of its workflow, with a cache."""
    varying = [
        axis.name
        for axis in grid.axes
        if any(is_model(value) or as_link(value) for value in axis.values)
    ]
    kinds: dict[str, Needs] = {}

    @cache
    def needs(point: int) -> Needs:
        params = grid.params(point) if varying else {}
        kind = json.dumps([params[name] for name in varying], default=repr)
        if kind not in kinds:
            kinds[kind] = needs_of(graph_of(grid.workflow(point)))
        return kinds[kind]

    return needs
