"""Schedules: what users, servers and the network do in one simulation, as data.

A schedule is a frozen attrs class whose ``repr`` is Python source, so a failure becomes a test by
copying a line.  Which thread goes first is drawn from its ``seed``.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, dataclass_transform

import attrs

from comfy_client import Timing

Class = TypeVar("Class")
Frozen = TypeVar("Frozen", bound=attrs.AttrsInstance)


def _source(self: Any) -> str:
    """As a call, without the arguments that are as usual."""
    fields = attrs.fields(type(self))
    given = [(field.name, getattr(self, field.name)) for field in fields]
    said = (
        f"{name}={value!r}"
        for field, (name, value) in zip(fields, given, strict=True)
        if field.default is attrs.NOTHING or value != field.default
    )
    return f"{type(self).__name__}({', '.join(said)})"


@contextlib.contextmanager
def replayable(schedule: object) -> Iterator[None]:
    """Context manager: note in an exception how to play this schedule again."""
    try:
        yield
    except BaseException as exc:
        exc.add_note(f"replay({schedule!r})")
        raise


@dataclass_transform(frozen_default=True, kw_only_default=True)
def data(cls: type[Class]) -> type[Class]:
    """A frozen attrs class whose ``repr`` is short source."""
    cls.__repr__ = _source  # type: ignore[assignment]  # as a method
    return attrs.frozen(cls, repr=False, kw_only=True)


@data
class Prompt:
    """One submission, by a thread of its own.

    Attributes:
        at: When, in seconds.
        client: By which client.
        how: ``submit``, ``run``, or ``follow`` (submit, and read its events).
        seconds: How long it runs; for the rest see ``server.graph_of``.
        resubmit: Whether it may be sent again, if it left no trace.
    """

    at: float = 0.0
    client: int = 0
    how: str = "submit"
    seconds: float = 0.5
    ticks: int = 1
    fails: bool = False
    cached: bool = False
    refused: bool = False
    partly: bool = False
    resubmit: bool = False


@data
class Act:
    """What somebody does to a prompt.

    Attributes:
        at: When, in seconds; not before its submission has begun.
        what: ``cancel`` it, ``attach`` to it, ``delete`` or ``interrupt`` it by its id, ``clear``
            the queue, ``close`` the client, or begin ``again``: close it, and attach to the
            prompt with a new one of the same name.
        prompt: Which of the prompts.
        client: By which client.
    """

    at: float
    what: str
    prompt: int = 0
    client: int = 0


@data
class Fault:
    """What goes wrong.

    Attributes:
        at: When, in seconds.
        kind: One of ``wire.FAULTS``.
        lasts: For how many seconds.
        route: Of which requests, as in ``wire.Trouble``.
        value: A status, a code, or seconds.
        server: At which of several servers.
    """

    at: float
    kind: str
    lasts: float = 0.0
    route: str = ""
    value: float = 0.0
    server: int = 0

    @property
    def stays(self) -> bool:
        """Whether it lasts for good."""
        return self.lasts >= FOR_GOOD

    @property
    def over(self) -> float:
        """When nothing is left of it."""
        return self.at + self.lasts + (self.value if self.kind in ("slow", "late") else 0.0)


@data
class Schedule:
    """One simulation of clients on one server."""

    seed: int
    preempt: float = 0.1  #: How often another thread goes on, where none waits.
    version: str = "0.3.75"
    clients: int = 1
    busy: bool = False  #: Whether others wait in the queue, all the time.
    long: bool = False  #: Whether its queue takes long to read, so that lists are old.
    polls: bool = False  #: Whether the first client opens no socket.
    prompts: tuple[Prompt, ...] = ()
    acts: tuple[Act, ...] = ()
    faults: tuple[Fault, ...] = ()
    goes_on: bool = False  #: Whether each client runs one more prompt when all is over.

    @property
    def calm(self) -> float:
        """When the last fault is over."""
        return max((fault.over for fault in self.faults), default=0.0)


#: Seconds of what never ends.
FOR_GOOD = 1e4
ROUTES = ("", "", "", "/api", "GET", "POST", "/prompt", "/queue", "/history", "/ws", "POST /prompt")
REFUSALS = (401, 403, 404, 429, 500)
STATUSES = (*REFUSALS, 502, 503)  # the others are said for a server that is away
#: How often a kind of fault is drawn.
WEIGHTS = {
    "lose": 3,
    "cut": 3,
    "drop": 4,
    "half": 2,
    "slow": 3,
    "late": 3,
    "refuse": 4,
    "nonsense": 2,
    "proxy": 2,
    "vanish": 1,
    "kill": 3,
    "freeze": 3,
    "break": 4,
    "close": 2,
    "expel": 2,
    "deafen": 3,
    "garble": 2,
    "repeat": 2,
    "lag": 5,
}


def make(seed: int) -> Schedule:
    """The schedule of a number."""
    rng = random.Random(seed)
    clients = rng.choice((1, 1, 1, 2))
    prompts = tuple(_prompt(rng, clients) for _ in range(rng.choice((1, 1, 2, 2, 3))))
    count = rng.choice((0, 0, 1, 1, 2))
    acts = tuple(_act(rng, clients, prompts) for _ in range(count))
    count = rng.choice((0, 1, 1, 2, 2, 3))
    faults = [draw_fault(rng, near(rng, prompts)) for _ in range(count)]
    if rng.random() < 0.15:
        moments = [*(one.at for one in prompts), *(act.at for act in acts)]
        faults += _troubled(rng, rng.choice(moments))
    return Schedule(
        seed=seed,
        preempt=rng.choice((0.02, 0.1, 0.5)),
        version=rng.choice(("0.3.75", "0.3.75", "0.28.1", "0.3.40", "2024-03")),
        clients=clients,
        busy=rng.random() < 0.3,
        polls=rng.random() < 0.1,
        prompts=prompts,
        acts=acts,
        faults=tuple(faults),
        goes_on=rng.random() < 0.2 and not any(fault.stays for fault in faults),
        long=rng.random() < 0.15,
    )


def near(rng: random.Random, prompts: Sequence[Prompt]) -> float:
    """A moment at which something may go wrong: soon after a submission, or about an end."""
    one = rng.choice(prompts)
    base = rng.choice((one.at, one.at, one.at + one.seconds))
    return round(max(0.0, base + rng.uniform(-0.3, 1.0) * rng.choice((0.03, 0.3, 3.0))), 3)


def _prompt(rng: random.Random, clients: int) -> Prompt:
    return Prompt(
        at=round(3.0 * rng.random() ** 2, 2),
        client=rng.randrange(clients),
        how=rng.choice(("submit", "submit", "run", "follow")),
        seconds=_seconds(rng),
        ticks=rng.choice((1, 1, 1, 3, 3, 30)),
        fails=rng.random() < 0.15,
        cached=rng.random() < 0.15,
        refused=rng.random() < 0.04,
        partly=rng.random() < 0.04,
        resubmit=rng.random() < 0.2,
    )


def _troubled(rng: random.Random, at: float) -> tuple[Fault, ...]:
    """Faults that matter together."""
    lost = Fault(at=at, kind=rng.choice(("drop", "half", "proxy")), lasts=0.2, route="POST")
    away = Fault(at=at, kind=rng.choice(("cut", "lose", "proxy")), lasts=120.0, route="GET")
    refused = Fault(at=at, kind="refuse", lasts=1.0, route="POST", value=rng.choice(REFUSALS))
    login = Fault(at=at, kind="refuse", lasts=FOR_GOOD, route="/api", value=401)
    gone = Fault(at=at + 2.0, kind="kill", lasts=1.0)
    down = Fault(at=at + 9.0, kind="kill", lasts=9.0)
    broken = Fault(at=at, kind=rng.choice(("break", "deafen")))
    return rng.choice(
        (
            (lost, away),
            (refused, gone),
            (login,),
            (login, broken),
            (lost, gone, down),
            (away, broken),
        )
    )


def _seconds(rng: random.Random) -> float:
    """Of any length, and such that it ends while HTTP is asked, as it was silent for so long."""
    if rng.random() < 0.25:
        return round(Timing().silence + rng.uniform(0.0, 0.1), 3)
    return round(rng.choice((0.05, 0.5, 2.0, 8.0)) * rng.uniform(0.5, 1.5), 2)


def _act(rng: random.Random, clients: int, prompts: Sequence[Prompt]) -> Act:
    kinds = ("cancel",) * 4 + ("attach",) * 5 + ("close", "close", "again", "again")
    kinds += ("delete", "interrupt", "clear")
    return Act(
        at=near(rng, prompts),
        what=rng.choice(kinds),
        prompt=rng.randrange(len(prompts)),
        client=rng.randrange(clients),
    )


def draw_fault(rng: random.Random, at: float, servers: int = 1) -> Fault:
    """A fault of any kind, at that moment."""
    kind = rng.choices([*WEIGHTS], [*WEIGHTS.values()])[0]
    lasts = round(rng.choice((0.1, 1.0, 5.0, 20.0, 90.0)) * rng.uniform(0.5, 1.5), 2)
    stays = kind in ("refuse", "nonsense") and rng.random() < 0.08
    values = {
        "refuse": lambda: rng.choice(REFUSALS if stays else STATUSES),
        "slow": lambda: rng.choice((0.5, 3.0, 8.0)),
        "late": lambda: rng.choice((0.5, 3.0, 8.0)),
        "close": lambda: rng.choice((1000, 1001, 1011)),
        "lag": lambda: rng.choice((0.05, 0.05, 0.3, 3.0)),
    }
    return Fault(
        at=at,
        kind=kind,
        lasts=FOR_GOOD if stays else lasts,
        route=rng.choice(ROUTES),
        value=values.get(kind, lambda: 0)(),
        server=rng.randrange(servers),
    )


# -- smaller ones -----------------------------------------------------------------------------


def reduced(schedule: Frozen, fails: Callable[[Frozen], bool], tries: int = 400) -> Frozen:
    """The smallest schedule found that still fails; ``tries``: at most so many are run."""
    found = True
    while found and tries:
        found = False
        for smaller in _smaller(schedule):
            if not tries:
                break
            tries -= 1
            if fails(smaller):
                schedule, found = smaller, True
                break
    return schedule


def _smaller(value: Any) -> Iterator[Any]:
    """The same with less in it: without one element, or with an argument as usual."""
    fields = attrs.fields(type(value))
    lists = [field.name for field in fields if isinstance(getattr(value, field.name), tuple)]
    for name in lists:
        items = getattr(value, name)
        for index in range(len(items)):
            yield attrs.evolve(value, **{name: (*items[:index], *items[index + 1 :])})
    for field in fields:
        now = getattr(value, field.name)
        if field.name not in lists and field.default is not attrs.NOTHING and now != field.default:
            yield attrs.evolve(value, **{field.name: field.default})
    for name in lists:
        items = getattr(value, name)
        for index, item in enumerate(items):
            for smaller in _smaller(item):
                yield attrs.evolve(value, **{name: (*items[:index], smaller, *items[index + 1 :])})
