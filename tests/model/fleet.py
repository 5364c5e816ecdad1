"""Several modelled servers behind a pool: what is asked of them, and what befalls them.

A :class:`PoolPlan` is data, drawn from a seed.  ``test_pool`` runs the real pool through it, and
``test_sweep`` takes servers, faults and excuses from here.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import random
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final
from unittest import mock

import attrs

from comfy_client import ComfyApi, ComfyPool
from comfy_client.errors import (
    ComfyError,
)
from comfy_client.pool.pooled_job import PooledJob
from tests.model.kernel import START, Kernel
from tests.model.schedule import Fault, data
from tests.model.server import Answer, Server, Taken, graph_of
from tests.model.wire import Network

#: Seconds without a byte after which a client gives up its socket.
DEAD: Final = 20.0
#: Seconds after an outage in which a server has been told what it should know.
TOLD: Final = 12.0
#: Seconds for which an attempt to reach a server that does not answer goes on behind its end.
DIAL: Final = 10.0
#: Seconds that a message, or a pause of the server between two steps, may take.
MOMENT: Final = 1.0


class Client(ComfyApi):
    """A client that notices soon that a server is silent."""

    timing = attrs.evolve(ComfyApi.timing, dead=DEAD)


class Pool(ComfyPool):
    """A pool in which suspects do not rest for long."""

    intervals = attrs.evolve(ComfyPool.intervals, rest=1.0, longest_rest=8.0)


# -- what happens ---------------------------------------------------------------------------


@data
class Task:
    """A job: when it is submitted, for how long it runs, whether it fails, when it is cancelled."""

    at: float = 0.0
    seconds: float = 1.0
    fails: bool = False
    cancel: float | None = None


#: Requests that submit a prompt.
POST: Final = "POST /api/prompt"
#: Faults after which a client does not know what its server has run: the process dies or stands
#: still, the socket is cut, or nobody reaches the server.
OUTAGES: Final = ("kill", "freeze", "break", "away")
#: What may become of a submission, of which the client cannot tell whether it arrived.
UNSURE: Final = ("cut", "lose", "drop", "half", "proxy", "late", "unavailable")
#: A server says something else instead of taking a prompt.
REFUSALS: Final = ("refuse", "nonsense")
#: All that a server runs fails; it leaves the pool for a while; others use it; it is slow.
MORE: Final = ("sick", "leave", "crowd", "slow")
FAULTS: Final = (*OUTAGES, *UNSURE, *REFUSALS, *MORE)

_STATUSES: Final = (400, 401, 403, 404, 413, 429, 500)


@data
class PoolPlan:
    """Everything that happens to a pool in one run."""

    seed: int
    servers: int = 2
    tasks: tuple[Task, ...] = ()
    faults: tuple[Fault, ...] = ()
    way: str = "submit"  #: By threads that submit, or by a ``map``, maybe ``unordered``.
    stop: float | None = None  #: When the user presses Ctrl-C.
    mode: str = "shortest"
    on_lost: str = "raise"
    on_failed: str = "raise"
    patience: float = 8.0
    in_flight: int = 2
    goes_on: bool = False  #: Whether more jobs come when all faults are over.


def drawn(seed: int) -> PoolPlan:
    """Draw a plan."""
    chance = random.Random(seed)
    servers = chance.randint(2, 4)
    patience = chance.choice((0.5, 4.0, 4.0, 60.0))
    kinds = chance.choice((FAULTS, OUTAGES, OUTAGES, REFUSALS, UNSURE, ("kill",), ("sick",), ()))
    longest = chance.choice((1.0, 6.0, 25.0))
    count = chance.randint(1, 8)
    if kinds == ("sick",):
        longest, count = 1.0, 20
    return PoolPlan(
        seed=seed,
        servers=servers,
        tasks=tuple(_task(chance, longest) for _ in range(count)),
        faults=drawn_faults(chance, kinds, servers, patience) if kinds else (),
        way=chance.choice(("submit", "submit", "submit", "map", "unordered")),
        stop=_moment(chance, 10.0) if chance.random() < 0.15 else None,
        mode=chance.choice(("shortest", "shortest", "round_robin", "first_free")),
        on_lost=chance.choice(("raise", "retry")),
        on_failed=chance.choice(("raise", "move")),
        patience=patience,
        in_flight=chance.choice((1, 2, 2, 3)),
        goes_on=chance.random() < 0.3,
    )


def _moment(chance: random.Random, most: float) -> float:
    return round(chance.uniform(0.0, most), 2)


def _task(chance: random.Random, longest: float) -> Task:
    at = chance.choice((0.0, 0.0, _moment(chance, 12.0)))
    cancels = (None,) * 8 + (at + round(chance.uniform(0.0, 0.03), 3), at + _moment(chance, 6.0))
    return Task(
        at=at,
        seconds=chance.choice((0.0, 0.5, _moment(chance, longest))),
        fails=chance.random() < 0.1,
        cancel=chance.choice(cancels),
    )


def drawn_faults(
    chance: random.Random, kinds: tuple[str, ...], servers: int, patience: float
) -> tuple[Fault, ...]:
    """Draw some faults, of some of these kinds."""

    def fault() -> Fault:
        kind = chance.choice(kinds)
        late = patience + chance.uniform(0.0, 5.0) + chance.choice((0.0, DEAD))
        lasts = round(min(50.0, chance.choice((0.2, 1.0, late))), 2)
        return Fault(
            at=_moment(chance, 8.0),
            kind=kind,
            lasts=lasts,
            route=POST if kind in (*UNSURE, *REFUSALS, "slow") else "",
            value=chance.choice(_STATUSES) if kind == "refuse" else lasts,
            server=chance.randrange(servers),
        )

    return tuple(fault() for _ in range(chance.randint(1, 4)))


# -- the world ------------------------------------------------------------------------------


class CtrlC(BaseException):
    """The user has had enough."""


def graph(number: int, task: Task) -> dict[str, Any]:
    """A workflow that is known by its number."""
    found = graph_of(task.seconds, ticks=1 + int(task.seconds), fails=task.fails)
    found["1"]["inputs"]["number"] = number
    return found


def number_of(one: Taken) -> Any:
    """The number of a prompt; ``None``: it is somebody else's."""
    return one.graph["1"]["inputs"].get("number")


class Witness(Server):
    """A server whose clients may end before and after each request that changes something."""

    step: Callable[[], None]
    handling = 0  #: Requests, which it handles in threads of clients.

    def handle(
        self, method: str, path: str, query: str, body: bytes, headers: Mapping[str, str]
    ) -> Answer:
        """Answer a request, unless its client ends first."""
        if method == "POST":
            self.step()
        self.handling += 1
        try:
            answer = super().handle(method, path, query, body, headers)
        finally:
            self.handling -= 1
        if method == "POST":
            self.step()
        return answer


@contextlib.contextmanager
def no_defects(kernel: Kernel) -> Iterator[None]:
    """In here the client must log no defect of its own, until the kernel ends its threads."""
    said: list[Any] = []

    def note(*args: Any, **_: Any) -> None:
        if not kernel.is_over:
            said.append((args, traceback.format_exc()))

    log = logging.getLogger("comfy_client")
    with mock.patch.object(log, "exception", note), mock.patch.object(log, "error", note):
        yield
    assert not said, f"a defect was logged: {said[0][0]} {said[0][1]}"


class World:
    """The servers of a plan, and a pool that has them."""

    def __init__(self, plan: Any, make: type[Server] = Server) -> None:
        self.plan = plan
        self.kernel = Kernel(plan.seed)
        self.servers = [
            make(self.kernel, f"127.0.0.1:{8188 + number}") for number in range(plan.servers)
        ]
        self.network = Network(self.kernel, *self.servers)
        self.apis: list[ComfyApi] = []
        self.pool: ComfyPool | None = None
        self.jobs: dict[int, PooledJob] = {}
        self.ends: Counter[int] = Counter()  #: Events that told of an end, by job.
        self.errors: dict[int, ComfyError] = {}  #: Of jobs that could not be submitted.
        self.results: list[Any] = []  #: Of ``map``, in order.
        #: When a job was cancelled, and whether no server had it.
        self.cancelled: dict[int, tuple[float, bool]] = {}
        self.ceased = False  #: Whether all faults are over.
        self.has_left = False  #: Whether the user has left the pool.

    # -- faults ----------------------------------------------------------------------------

    def befall(self) -> None:
        """Have all faults happen; when they are over, all servers are well."""
        begun = self.kernel.now()
        for fault in sorted(self.plan.faults, key=lambda fault: fault.at):
            self.kernel.sleep(begun + fault.at - self.kernel.now())
            self._begin(fault)
        for fault in sorted(self.plan.faults, key=lambda fault: fault.over):
            self.kernel.sleep(begun + fault.over - self.kernel.now())
            self._end(fault)
        for server in self.servers:
            server.revive()
            server.is_sick = False
        self.ceased = True

    def _begin(self, fault: Fault) -> None:
        server = self.servers[fault.server]
        if fault.kind == "away":
            self.network.befall(server, attrs.evolve(fault, kind="break"))
            self.network.befall(server, attrs.evolve(fault, kind="vanish"))
        elif fault.kind == "unavailable":
            self.network.befall(server, attrs.evolve(fault, kind="refuse", value=502))
        elif fault.kind == "sick":
            server.is_sick = True
        elif fault.kind == "leave":
            if self.pool is not None:
                with contextlib.suppress(ValueError, ComfyError):
                    self.pool.remove(f"http://{server.host}")
        elif fault.kind == "crowd":
            body = json.dumps({"prompt": graph_of(fault.lasts), "client_id": "another"})
            server.handle("POST", "/prompt", "", body.encode(), {})
        else:
            self.network.befall(server, fault)

    def _end(self, fault: Fault) -> None:
        if fault.kind == "sick":
            self.servers[fault.server].is_sick = False
        elif fault.kind == "leave":
            self.join(fault.server)

    def join(self, number: int) -> None:
        """Have a server in the pool again."""
        if self.pool is not None:
            with contextlib.suppress(ValueError, ComfyError):
                # Of the living process: clients of those before it are dead.
                self.pool.add(self.apis[number - len(self.servers)])

    # -- what servers say ------------------------------------------------------------------

    def taken(self, number: int) -> list[tuple[int, Taken]]:
        """The prompts of a job, with the servers that took them."""
        return [
            (index, one)
            for index, server in enumerate(self.servers)
            for one in server.taken
            if number_of(one) == number
        ]

    def faults(self, server: int, *kinds: str) -> list[Fault]:
        """What has befallen a server."""
        return [
            one
            for one in self.plan.faults
            if one.server == server and (not kinds or one.kind in kinds)
        ]

    def back_at(self, server: int, since: float) -> float:
        """When a server could be told something that it should know since then."""
        told = [
            START + one.over + TOLD + (DIAL if one.kind == "away" else 0.0)
            for one in self.faults(server, *OUTAGES)
        ]
        return max([since + 2 * MOMENT, *told])

    def let_go(self) -> None:
        """Have nothing close clients at the end of Python that a run has left open."""
        for api in self.apis:
            api._finalizer.detach()

    def wait(self, seconds: float, until: Callable[[], object]) -> bool:
        """Let time pass until something is so; whether it is."""
        deadline = self.kernel.now() + seconds
        while not until():
            if self.kernel.now() >= deadline:
                return False
            self.kernel.sleep(0.1)
        return True


# -- what must hold ---------------------------------------------------------------------------


def outages(world: World, index: int, since: float, until: float) -> list[Fault]:
    """What may have kept clients from hearing of a server between two moments."""
    kinds = (*OUTAGES, *UNSURE, "nonsense", "leave")
    return [
        fault
        for fault in world.faults(index, *kinds)
        if START + fault.at <= until and since <= START + fault.over + DEAD
    ]


def check_ids(world: World) -> None:
    """No server has taken a prompt under an id that was taken before."""
    counts = Counter(one.prompt_id for server in world.servers for one in server.taken)
    again = [prompt_id for prompt_id, count in counts.items() if count > 1]
    assert not again, f"sent twice: {again}"


def may_run_again(world: World, index: int, one: Taken) -> bool:
    """Whether a job may run once more, though this prompt of it ran on that server."""
    plan, began = world.plan, one.began_at or 0.0
    if one.end == "execution_error":
        may_be_suspect = any(fault.kind in ("sick", *REFUSALS) for fault in plan.faults)
        if plan.on_failed == "move" or may_be_suspect:
            return True
        # Else only if the pool did not hear that it began, or failed.
    until = one.ended_at + 3 * MOMENT if one.end else math.inf
    shaken = outages(world, index, began - MOMENT, until)
    if shaken and (plan.on_lost == "retry" or any(it.lasts > plan.patience for it in shaken)):
        return True
    # A prompt counts as waiting if its start was not heard.
    return bool(shaken and outages(world, index, began - MOMENT, began + MOMENT))
