"""Servers of a sweep: one here, several in :mod:`comfy_client.pool`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any, Protocol

from ..errors import ComfyError
from ..jobs.job import Job
from ..jobs.poller import Poller
from ..jobs.running import Running
from ..jobs.submit import attach
from ..transport.deadline import Deadline
from ..workflow import Workflow
from ..workflow.file_inputs import files_in
from ..workflow.seeds import wants_seeds
from .map import ClientWindow
from .outage import went_away
from .recovery import Recovery, Sought
from .window import Window


class Runner(Protocol):
    """Interface of a sweep to its servers, which have their URLs as names.

    Attributes:
        reruns: Whether prompts run again that may have run where nobody can be asked now.
    """

    reruns: bool

    @property
    def window(self) -> Window:
        """The prompts that are under way."""

    @property
    def poller(self) -> Poller:
        """The poller whose ``Timing`` holds for the sweep."""

    @property
    def clients(self) -> Collection[Running]:
        """The clients of all servers."""

    def client(self, host: str | None) -> Running | None:
        """Return the client of a server, or None if the server is not ours."""

    # -- what is to be run -----------------------------------------------------------------

    def weights(self) -> Mapping[str, float]:
        """Return the relative speeds of the servers to which points are assigned at first."""

    def free(self) -> Iterable[str]:
        """Return the servers that could take one more prompt, the idlest first."""

    def fits(self, host: str, point: int) -> bool:
        """Return whether it can run a point."""

    def may_steal(self, host: str) -> bool:
        """Return whether it takes over points of others, once it has done its own."""

    def impossible(self, points: Iterable[int]) -> Mapping[int, ComfyError]:
        """Return why no server can run some points; :class:`JobTimeout` if none could in time."""

    def recall(self, *, needed: bool) -> Collection[str]:
        """Prompts that have been taken back, as others are to have them.

        ``needed``: nothing else is left for those that have nothing to do.
        """

    def pause(self) -> None:
        """Wait for a moment; nothing is under way."""

    def submit(
        self,
        host: str,
        prompt_id: str,
        point: int,
        workflow: Workflow,
        options: Mapping[str, Any],
        sent: Callable[[str], object],
    ) -> Job | None:
        """Submit one more; ``None``: that server cannot have it.

        ``sent`` is called before anything is sent, maybe in another thread.
        """

    def may_move(self, host: str, error: ComfyError) -> bool:
        """Return whether others can have a prompt after an error that is about its server."""

    def goes_on(self, prompt_id: str, point: int) -> bool:
        """Return whether another server is to run a point whose prompt has ended without a result.

        That is no try: its server refused it, never began it, or is to blame for its failure.
        """

    def was_poison(self, point: int) -> bool:
        """Return whether two servers have died while they ran a point."""

    # -- what ran before -------------------------------------------------------------------

    def home(self, host: str) -> str | None:
        """Return the server to ask for what was sent to ``host``, or None if it is not ours."""

    def recover(self, sought: Mapping[str, Sought]) -> None:
        """Look for prompts of an earlier call."""

    def find(self, prompt_id: str, home: str | None = None) -> tuple[str, str] | None:
        """Return the server that has a prompt, and its id there; ``home`` is the likely one."""

    def attach(
        self,
        host: str,
        prompt_id: str,
        point: int,
        workflow: Workflow,
        lost_delay: float | None,
    ) -> None:
        """Have it in the window, wherever it is by now."""

    def was_forgotten(self, job: Job | None) -> bool:
        """Return whether the server said that it does not know a lost job."""

    def let_go(self, job: Job | None) -> None:
        """Have a job cancelled when its server is back, as its prompt is about to run again."""


class OneServer:
    """A :class:`Runner` of one client."""

    def __init__(self, window: ClientWindow) -> None:
        self.reruns: bool = False
        self.window: ClientWindow = window
        self.poller: Poller = window.poller
        self._client = window.client
        self._recovery: Recovery | None = None

    @property
    def clients(self) -> Collection[Running]:
        """The client of the server."""
        return (self._client,)

    def client(self, host: str | None) -> Running | None:
        """Return the client for ``host``, or None if it is not this server."""
        return self._client if host == self._client.host else None

    def weights(self) -> Mapping[str, float]:
        """Return the relative speed of the only server."""
        return {self._client.host: 1.0}

    def free(self) -> Iterable[str]:
        """Return the servers that can take a prompt now."""
        return (self._client.host,)

    def fits(self, host: str, point: int) -> bool:
        """Return True; the server itself refuses what it cannot run."""
        return True

    def may_steal(self, host: str) -> bool:
        """Return True; there is no other server."""
        return True

    def impossible(self, points: Iterable[int]) -> Mapping[int, ComfyError]:
        """Return an error for all points once the server has been away for too long."""
        limit, seconds = self.window.limit, self.window.outage.seconds
        if limit is None or not seconds or seconds < limit:
            return {}
        why = f"{self._client.host} has not answered for {seconds:.3g} s"
        return {point: self.window.late("", why) for point in points}

    def recall(self, *, needed: bool) -> Collection[str]:
        """Return nothing; no other server could take them."""
        return ()

    def pause(self) -> None:
        """Do nothing; there is always something under way to wait for."""

    def submit(
        self,
        host: str,
        prompt_id: str,
        point: int,
        workflow: Workflow,
        options: Mapping[str, Any],
        sent: Callable[[str], object],
    ) -> Job | None:
        """Submit a prompt in this thread."""
        sent(host)
        return self.window.submit(prompt_id, workflow, options)

    def may_move(self, host: str, error: ComfyError) -> bool:
        """Return False; there is no other server."""
        return False

    def goes_on(self, prompt_id: str, point: int) -> bool:
        """Return False; there is no other server."""
        return False

    def was_poison(self, point: int) -> bool:
        """Return False; there is no other server."""
        return False

    def home(self, host: str) -> str | None:
        """Return this server, whose URL may be another one by now."""
        return self._client.host

    def recover(self, sought: Mapping[str, Sought]) -> None:
        """Look at its queue."""
        self._recovery = Recovery(self._client, sought)
        self.window.is_patient = True

    def find(self, prompt_id: str, home: str | None = None) -> tuple[str, str] | None:
        """Wait until it answers."""
        recovery = self._recovery
        if recovery is None:
            return None
        deadline = Deadline.after(self.window.limit)
        find = partial(recovery.find, prompt_id)
        found = self.window.patiently(prompt_id, deadline, find, went_away)
        return None if found is None else (self._client.host, found)

    def attach(
        self,
        host: str,
        prompt_id: str,
        point: int,
        workflow: Workflow,
        lost_delay: float | None,
    ) -> None:
        """Attach to a prompt in this thread."""
        recovery = self._recovery
        found = prompt_id if recovery is None else recovery.queued.get(prompt_id, prompt_id)
        job = attached(self._client, self.poller, found, workflow, lost_delay)
        self.window.put(prompt_id, job)

    def was_forgotten(self, job: Job | None) -> bool:
        """Return True; only the server itself says that a job is lost."""
        return True

    def let_go(self, job: Job | None) -> None:
        """Do nothing; the server always knows its prompts."""


def attached(
    client: Running, poller: Poller, prompt_id: str, workflow: Workflow, lost_delay: float | None
) -> Job:
    """Return a job for a prompt of an earlier process."""
    graph = known_graph(workflow)
    names = workflow.output_names
    return attach(client, poller, prompt_id, graph, output_names=names, lost_delay=lost_delay)


def known_graph(workflow: Workflow) -> Mapping[str, Any]:
    """Return the submitted graph; empty if only the server knows drawn seeds and file names."""
    graph = workflow.to_dict()
    return {} if wants_seeds(graph) or files_in(graph) else graph
