"""Where the prompts of a sweep run: one server here, several in :mod:`comfy_client.pool`."""

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
from ..workflow.files import files_in
from ..workflow.seeds import wants_seeds
from .map import ClientWindow
from .outage import went_away
from .recovery import Recovery, Sought
from .window import Window


class Runner(Protocol):
    """What a sweep wants of its servers, which have their URLs as names.

    Attributes:
        reruns: Whether prompts run again that may have run where nobody can be asked now.
    """

    reruns: bool

    @property
    def window(self) -> Window:
        """What is under way."""

    @property
    def poller(self) -> Poller:
        """Whose times count."""

    @property
    def clients(self) -> Collection[Running]:
        """Those of all servers."""

    def client(self, host: str | None) -> Running | None:
        """Return the client of a server, or None if the server is not ours."""

    # -- what is to be run -----------------------------------------------------------------

    def weights(self) -> Mapping[str, float]:
        """How fast each is, compared to the others; those first that work."""

    def free(self) -> Iterable[str]:
        """Those that could have one more, the one first that has the least."""

    def fits(self, host: str, point: int) -> bool:
        """Whether it can run a point."""

    def may_steal(self, host: str) -> bool:
        """Whether it takes over points of others, once it has done its own."""

    def impossible(self, points: Iterable[int]) -> Mapping[int, ComfyError]:
        """Why none of them can run some points; :class:`JobTimeout`: none could in time."""

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
        """Whether others can have a prompt, though a server said this of more than that one."""

    def goes_on(self, prompt_id: str, point: int) -> bool:
        """Whether another server is to run a point whose prompt has ended without a result.

        That is no try: its server refused it, never began it, or is to blame for its failure.
        """

    def was_poison(self, point: int) -> bool:
        """Whether two servers have died while they ran a point."""

    # -- what ran before -------------------------------------------------------------------

    def home(self, host: str) -> str | None:
        """Which one to ask for what was sent to a server; ``None``: none of these."""

    def recover(self, sought: Mapping[str, Sought]) -> None:
        """Look for prompts of an earlier call."""

    def find(self, prompt_id: str, home: str | None = None) -> tuple[str, str] | None:
        """Which server has one of them, and under which id; ``home``: that may have it."""

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
        """Of a job that is lost: whether its server has said so; else nobody knows."""

    def let_go(self, job: Job | None) -> None:
        """Nobody knows of it, and it runs again."""


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
        """It."""
        return (self._client,)

    def client(self, host: str | None) -> Running | None:
        """By the same names another server has other files."""
        return self._client if host == self._client.host else None

    def weights(self) -> Mapping[str, float]:
        """Return the share of each server."""
        return {self._client.host: 1.0}

    def free(self) -> Iterable[str]:
        """Return the servers that can take a prompt now."""
        return (self._client.host,)

    def fits(self, host: str, point: int) -> bool:
        """Return True; the server itself refuses what it cannot run."""
        return True

    def may_steal(self, host: str) -> bool:
        """There are no others."""
        return True

    def impossible(self, points: Iterable[int]) -> Mapping[int, ComfyError]:
        """All of them, once it has been away for as long as a prompt may take."""
        limit, seconds = self.window.limit, self.window.outage.seconds
        if limit is None or not seconds or seconds < limit:
            return {}
        why = f"{self._client.host} has not answered for {seconds:.3g} s"
        return {point: self.window.late("", why) for point in points}

    def recall(self, *, needed: bool) -> Collection[str]:
        """Nobody else could have them."""
        return ()

    def pause(self) -> None:
        """There is always something under way."""

    def submit(
        self,
        host: str,
        prompt_id: str,
        point: int,
        workflow: Workflow,
        options: Mapping[str, Any],
        sent: Callable[[str], object],
    ) -> Job | None:
        """In this thread."""
        sent(host)
        return self.window.submit(prompt_id, workflow, options)

    def may_move(self, host: str, error: ComfyError) -> bool:
        """There is no other."""
        return False

    def goes_on(self, prompt_id: str, point: int) -> bool:
        """There is no other."""
        return False

    def was_poison(self, point: int) -> bool:
        """There is no other."""
        return False

    def home(self, host: str) -> str | None:
        """Its URL may be another one by now."""
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
        """In this thread."""
        recovery = self._recovery
        found = prompt_id if recovery is None else recovery.queued.get(prompt_id, prompt_id)
        job = attached(self._client, self.poller, found, workflow, lost_delay)
        self.window.put(prompt_id, job)

    def was_forgotten(self, job: Job | None) -> bool:
        """Nobody else says that it is lost."""
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
