"""Sweeps with a journal on modelled servers: killed at any moment, each point runs once."""

from __future__ import annotations

import itertools
import math
import random
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from comfy_client.batch import journal
from comfy_client.errors import ComfyError, JobLost
from tests.helpers.long import few
from tests.model.fleet import (
    FAULTS,
    OUTAGES,
    UNSURE,
    Client,
    Pool,
    Task,
    Witness,
    World,
    check_ids,
    drawn_faults,
    graph,
    may_run_again,
    no_defects,
    outages,
)
from tests.model.kernel import START
from tests.model.schedule import Fault, data, replayable
from tests.model.server import Taken

#: Default lane: so many plans, in so many tests.
PLANS, BLOCKS = 80, 4


@data
class Life:
    """How a process ends.

    Attributes:
        step: At which step: before or after a write to the journal or a POST; 0: it does not.
        how: ``kill`` it; or press Ctrl-C (``interrupt``).
        pause: Seconds until the next process begins.
    """

    step: int
    how: str = "kill"
    pause: float = 0.0


@data
class SweepPlan:
    """A sweep of one client, or of a pool, and what befalls it."""

    seed: int
    servers: int = 1
    points: int = 3
    seconds: float = 0.5
    lives: tuple[Life, ...] = ()
    faults: tuple[Fault, ...] = ()
    in_flight: int = 2
    on_lost: str = "raise"
    on_failed: str = "raise"
    patience: float = 8.0


def drawn(seed: int) -> SweepPlan:
    """Draw a plan."""
    chance = random.Random(seed)
    servers = chance.choice((1, 1, 2, 3))
    kinds = chance.choice(((), (), OUTAGES, UNSURE, FAULTS if servers > 1 else OUTAGES))
    patience = chance.choice((0.5, 8.0))
    lives = (
        Life(
            step=chance.randint(1, 40),
            how=chance.choice(("kill", "kill", "interrupt")),
            pause=chance.choice((0.0, 0.3, 3.0, 30.0)),
        )
        for _ in range(chance.randint(0, 3))
    )
    return SweepPlan(
        seed=seed,
        servers=servers,
        points=chance.randint(1, 5),
        seconds=chance.choice((0.0, 0.5, 4.0)),
        lives=tuple(lives),
        faults=drawn_faults(chance, kinds, servers, patience) if kinds else (),
        in_flight=chance.choice((1, 2, 4)),
        on_lost=chance.choice(("raise", "retry")),
        on_failed=chance.choice(("raise", "move")),
        patience=patience,
    )


class Journaled:
    """A connection of a journal, in which the process may die before, within and after a write."""

    def __init__(self, real: sqlite3.Connection, step: Callable[..., None]) -> None:
        self._real, self._step = real, step

    def execute(self, statement: str, values: tuple[Any, ...] = ()) -> sqlite3.Cursor:
        """Execute a statement."""
        if statement.startswith(("PRAGMA", "SELECT")):
            return self._real.execute(statement, values)
        self._step()
        if not statement.startswith(("BEGIN", "COMMIT")):
            self._step(partial(self._begin, statement, values))
        cursor = self._real.execute(statement, values)
        self._step()
        return cursor

    def _begin(self, statement: str, values: tuple[Any, ...]) -> None:
        """Write more than SQLite keeps in memory: the file is changed, and not to its end."""
        self._real.execute("PRAGMA cache_size = 1")
        self._real.execute("BEGIN")
        self._real.execute(statement, values)
        self._real.execute("CREATE TABLE torn AS SELECT randomblob(20000) FROM journal")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class SweepWorld(World):
    """Servers, and processes that sweep one after the other."""

    servers: list[Witness]

    def __init__(self, plan: SweepPlan, folder: Path) -> None:
        super().__init__(plan, Witness)
        for server in self.servers:
            server.step = self.step
        self.journal = folder / "0.db"
        self.life = Life(step=0)
        self.steps = 0  #: Of this process.
        self.is_over = False  #: Whether it was killed, or has ended.
        self.told: list[list[int]] = []  #: The rows that ``on_row`` had, by process.
        self.rows: Any = None
        self.over_at = math.inf  #: When the last process had its rows.
        self.error: BaseException | None = None  #: Of the last process that failed.

    def step(self, half: Callable[[], object] = lambda: None) -> None:
        """Come to a point at which the process may end; ``half``: having done half of it."""
        name = self.kernel.current.name
        if not is_of_process(name):
            return
        self.steps += 1
        if not 0 < self.life.step <= self.steps:
            return
        if self.life.how == "kill":
            half()
            self._kill()
        elif name == "process":
            self.life = Life(step=0)
            raise KeyboardInterrupt

    def _kill(self) -> None:
        """End all threads of the process; its journal is what is on the disk."""
        self.life = Life(step=0)  # it ends once
        while any(server.handling for server in self.servers):  # a server does not end with it
            self.kernel.sleep(0.001)
        following = self.journal.with_name(f"{len(self.told)}.db")
        for ending in ("", "-journal"):
            path = Path(f"{self.journal}{ending}")
            if path.exists():
                shutil.copy(path, f"{following}{ending}")
        self.journal, self.is_over, self.pool = following, True, None
        self.kernel.kill(is_of_process)

    def was_forgotten(self, server: int, one: Taken, at: float) -> bool:
        """Whether a server has forgotten a prompt by then, so that it may run again."""
        return any(one.at <= START + fault.at <= at for fault in self.faults(server, "kill"))

    def main(self) -> None:
        """Run the processes, one after the other, until the sweep is done."""
        self.kernel.spawn(self.befall, "faults")
        for life in (*self.plan.lives, *[Life(step=0, pause=10.0)] * 8):
            self.life, self.steps, self.is_over = life, 0, False
            self.told.append([])
            self.kernel.spawn(self._process, "process")
            assert self.wait(600, lambda: self.is_over), "the sweep does not end"
            for server in self.servers:
                for peer in list(server.peers):  # the system ends the sockets of a dead process
                    server.disconnect(peer)
            if self.rows is not None:
                return
            self.kernel.sleep(life.pause)
        raise AssertionError(f"each process fails: {self.error!r}")

    def _process(self) -> None:
        apis = [Client(f"http://{server.host}") for server in self.servers]
        self.apis += apis
        plan, what = self.plan, graph(0, Task(seconds=self.plan.seconds))
        grid = {"1.number": range(plan.points)}
        options: dict[str, Any] = {"journal": self.journal, "on_row": self._tell, "progress": False}
        try:
            if len(apis) == 1:
                with apis[0] as api:
                    self.rows = api.sweep(what, grid, in_flight=plan.in_flight, **options)
            else:
                with Pool(
                    apis,
                    in_flight=plan.in_flight,
                    patience=plan.patience,
                    on_lost=plan.on_lost,
                    on_failed=plan.on_failed,
                ) as pool:
                    self.pool = pool
                    self.rows = pool.sweep(what, grid, **options)
        except (KeyboardInterrupt, ComfyError) as exc:
            self.error = exc
        finally:
            self.over_at = self.kernel.now()
            for api in apis:
                api.close()
        self.is_over = True

    def _tell(self, row: Any) -> None:
        if not isinstance(row.error, JobLost):  # of which the next call asks again
            self.told[-1].append(row.index)


def is_of_process(name: str) -> bool:
    """Whether a thread is one of the client's process."""
    return name.startswith(("comfy", "process")) or name == "executor"


def play(plan: SweepPlan) -> SweepWorld:
    """Run a plan, and check all that must hold."""
    with tempfile.TemporaryDirectory() as folder:
        return _play(SweepWorld(plan, Path(folder)))


def _play(world: SweepWorld) -> SweepWorld:
    connect = journal.connect

    def connected(path: Path) -> Any:
        return Journaled(connect(path), world.step)

    with (
        no_defects(world.kernel),
        world.network,
        mock.patch.object(journal, "connect", connected),
    ):
        try:
            world.kernel.run(world.main)
        finally:
            world.let_go()
    assert not world.network.violations, world.network.violations[0]
    _check(world)
    return world


def _check(world: SweepWorld) -> None:
    plan = world.plan
    check_ids(world)
    _check_told(world)
    assert [row.index for row in world.rows] == list(range(plan.points))
    for number, row in enumerate(world.rows):
        taken = world.taken(number)
        words = f"point {number}: {row.error!r} on {row.host}; " + "; ".join(
            f"{index}: {one.prompt_id[:4]} {one.began_at or 0.0:.2f} {one.end} {one.ended_at:.2f}"
            for index, one in taken
        )
        if row.error is None:
            names = {f"{one.prompt_id}.png" for _, one in taken if one.end == "execution_success"}
            assert row.result.images[0].filename in names, words
        else:
            assert plan.faults, words
        last = max((one.at for _, one in taken), default=0.0)
        paid = [
            one
            for index, one in taken
            if one.began_at
            and not world.was_forgotten(index, one, last)
            and not may_run_again(world, index, one)
            and not was_lost_later(world, index, one, last)
        ]
        assert len(paid) <= 1, f"it ran {len(paid)} times: {words}"
        if not plan.faults:
            ran = [one for _, one in taken if one.end not in ("deleted",)]
            assert len(ran) == 1, f"it was sent {len(ran)} times: {words}"
        lives = [life for life, told in enumerate(world.told) for one in told if one == number]
        assert lives or row.error, f"no process had the row of {words}"
        for life, following in itertools.pairwise(lives):
            # The process was killed before the journal could note that on_row had returned.
            assert following > life, f"one process had a row twice: {words}"
            assert world.told[life][-1] == number, f"told twice, {world.told}: {words}"


def _check_told(world: SweepWorld) -> None:
    """A server ends what runs elsewhere as soon as it can be told."""
    if world.plan.lives:
        return  # a process that ended cannot tell
    for number in range(world.plan.points):
        taken = sorted(world.taken(number), key=lambda each: each[1].at)
        for (index, one), (_, following) in itertools.pairwise(taken):
            told_by = world.back_at(index, following.at)
            unable = world.faults(index, "leave", *UNSURE) or told_by > world.over_at
            until = one.ended_at if one.end else world.kernel.now()
            assert unable or until <= told_by, (
                f"point {number}: {one.prompt_id} runs elsewhere, and goes on"
            )


def was_lost_later(world: SweepWorld, index: int, one: Taken, sent_again: float) -> bool:
    """Return whether a later process may have asked for a prompt that had ended, in vain."""
    is_pool = world.plan.servers > 1
    return (
        is_pool
        and world.plan.on_lost == "retry"
        and bool(outages(world, index, one.at, sent_again))
    )


@pytest.mark.parametrize("servers", few([1, 2], 1))
@pytest.mark.parametrize("how", ["kill", "interrupt"])
def test_a_sweep_that_ends_at_any_step_is_carried_on(how: str, servers: int) -> None:
    """Before, within and after each write to the journal, before and after each POST."""
    steps = play(SweepPlan(seed=1, servers=servers)).steps
    assert steps >= 40
    for step in range(1, steps + 1):
        plan = SweepPlan(seed=step, servers=servers, lives=(Life(step=step, how=how),))
        with replayable(plan):
            play(plan)


@pytest.mark.parametrize("block", few(range(BLOCKS), 1))
def test_points_of_a_sweep_run_once_in_any_schedule(block: int) -> None:
    for seed in range(block, PLANS, BLOCKS):
        plan = drawn(seed)
        with replayable(plan):
            play(plan)


@pytest.mark.parametrize("on_lost", ["raise", "retry"])
def test_a_point_whose_server_leaves_before_it_is_carried_on(on_lost: str) -> None:
    """Its prompt has ended, but nobody can say so: it is lost, or may run once more."""
    play(
        SweepPlan(
            seed=30206,
            servers=2,
            points=4,
            seconds=0.0,
            lives=(Life(step=20, how="interrupt"), Life(step=17, pause=3.0)),
            faults=(
                Fault(at=3.43, kind="freeze", lasts=3.21, server=1),
                Fault(at=3.72, kind="leave", server=1),
            ),
            in_flight=1,
            on_lost=on_lost,
        )
    )


def test_a_server_handles_a_request_whose_client_is_killed() -> None:
    """In the model it does so in a thread of the client."""
    play(SweepPlan(seed=885, servers=2, points=4, seconds=0.0, lives=(Life(step=22),), in_flight=1))


@pytest.mark.parametrize(
    "fault",
    [Fault(at=1.47, kind="away", lasts=3.75), Fault(at=1.5, kind="freeze", lasts=30.0)],
    ids=["away", "frozen"],
)
def test_a_point_that_runs_again_is_cancelled_where_it_may_run_yet(fault: Fault) -> None:
    """As soon as its server is back."""
    play(
        SweepPlan(
            seed=27,
            servers=2,
            points=7,
            seconds=30.0,
            faults=(fault,),
            in_flight=1,
            on_lost="retry",
            patience=0.5,
        )
    )
