"""The ``map`` of a client on a modelled server: each prompt is told once, and none is left."""

from __future__ import annotations

import contextlib
import math
import random

import pytest

from comfy_client.errors import ClientClosed, JobLost, ServerUnreachable
from comfy_client.jobs.result import Result
from tests.model.fleet import (
    DEAD,
    MOMENT,
    OUTAGES,
    UNSURE,
    Client,
    Task,
    Witness,
    World,
    drawn_faults,
    graph,
    no_defects,
)
from tests.model.schedule import Fault, data, replayable

#: Default lane: so many plans, in so many tests.
PLANS, BLOCKS = 150, 3
#: Seconds in which a call ends whose client is closed.
_LEAVING = 12.0


@data
class MapPlan:
    """A ``map``, and what befalls it.

    Attributes:
        step: Before or after which POST the user presses Ctrl-C; 0: never.
        leave: After how many results the user leaves the loop; 0: after the last.
        close: When another thread closes the client.
    """

    seed: int
    tasks: tuple[Task, ...] = ()
    faults: tuple[Fault, ...] = ()
    in_flight: int = 2
    ordered: bool = True
    step: int = 0
    leave: int = 0
    close: float | None = None
    servers: int = 1


def drawn(seed: int) -> MapPlan:
    """Draw a plan."""
    chance = random.Random(seed)
    count = chance.randint(1, 6)
    kinds = chance.choice(((), (), OUTAGES, UNSURE))
    return MapPlan(
        seed=seed,
        tasks=tuple(
            Task(seconds=chance.choice((0.0, 0.5, 4.0)), fails=chance.random() < 0.1)
            for _ in range(count)
        ),
        faults=drawn_faults(chance, kinds, 1, 4.0) if kinds else (),
        in_flight=chance.choice((1, 2, 3)),
        ordered=chance.random() < 0.5,
        step=chance.choice((0, chance.randint(1, 2 * count))),
        leave=chance.choice((0, 0, chance.randint(1, count))),
        close=chance.choice((None, None, None, round(chance.uniform(0.0, 6.0), 2))),
    )


def play(plan: MapPlan) -> World:
    """Run a plan, and check all that must hold."""
    world = World(plan, Witness)
    with no_defects(world.kernel), world.network:
        try:
            world.kernel.run(lambda: _main(world))
        finally:
            world.let_go()
    assert not world.network.violations, world.network.violations[0]
    return world


def _main(world: World) -> None:
    plan, kernel, steps = world.plan, world.kernel, 0
    is_left = is_cut_off = False

    def step() -> None:
        nonlocal steps, is_cut_off
        if kernel.current.name == "main":
            steps += 1
            if steps == plan.step:
                is_cut_off = is_left  # it was taking back what does not run yet
                raise KeyboardInterrupt

    world.servers[0].step = step
    graphs = [graph(number, task) for number, task in enumerate(plan.tasks)]
    api = Client(f"http://{world.servers[0].host}")
    world.apis.append(api)
    kernel.spawn(world.befall, "faults")
    closed_at = math.inf

    def close() -> None:
        nonlocal closed_at
        kernel.sleep(plan.close)
        closed_at = kernel.now()
        api.close()

    if plan.close is not None:
        kernel.spawn(close, "another")
    try:
        with api:
            results = api.map(
                graphs, in_flight=plan.in_flight, ordered=plan.ordered, on_error="keep"
            )
            with contextlib.closing(results):
                for result in results:
                    world.results.append(result)
                    if len(world.results) == plan.leave:
                        is_left = True
                        break
    except KeyboardInterrupt:
        assert plan.step
        is_left = True
    except ServerUnreachable:  # before it had accepted anything
        assert any(fault.kind in OUTAGES for fault in plan.faults)
        is_left = True
    except ClientClosed:
        assert closed_at < math.inf
        is_left = True
    at = kernel.now()
    assert at < closed_at + _LEAVING, f"it took {at - closed_at:.0f} s to leave"
    assert world.wait(200, lambda: world.ceased)
    kernel.sleep(2 * DEAD)
    _check_results(world, is_left=is_left)
    if not (plan.faults or is_cut_off):
        _check_left(world, at)


def _check_results(world: World, *, is_left: bool) -> None:
    plan, told = world.plan, []
    for place, result in enumerate(world.results):
        if isinstance(result, Result):
            name = result.images[0].filename
            told.append(
                next(
                    number
                    for number in range(len(plan.tasks))
                    if any(f"{one.prompt_id}.png" == name for _, one in world.taken(number))
                )
            )
            assert not plan.ordered or told[-1] == place, f"not in order: {told}"
        else:
            is_lost = isinstance(result, JobLost)
            may_be = any(fault.kind in ("kill", *UNSURE) for fault in plan.faults)
            fails = any(task.fails for task in plan.tasks)
            assert may_be if is_lost else fails, f"without a reason: {result!r}"
    assert len(set(told)) == len(told), f"told twice: {told}"
    assert is_left or len(world.results) == len(plan.tasks), "not all were told"
    for number in range(len(plan.tasks)):
        ran = [one for _, one in world.taken(number) if one.began_at is not None]
        assert len(ran) <= 1 or plan.faults, f"prompt {number} ran {len(ran)} times"
        assert len(ran) <= 1 or _may_be_repeated(plan), f"prompt {number} ran {len(ran)} times"


def _may_be_repeated(plan: MapPlan) -> bool:
    """Whether the server may have forgotten, or taken late, what is sent again."""
    return any(fault.kind in ("kill", "late", "freeze") for fault in plan.faults)


def _check_left(world: World, at: float) -> None:
    """What did not run when the call ended, never does."""
    server = world.servers[0]
    assert not server.remaining, "something is left"
    late = [one for one in server.taken if (one.began_at or 0.0) > at + MOMENT]
    assert not late, f"began after the call had ended: {late}"


@pytest.mark.parametrize("block", range(BLOCKS))
def test_map_gives_each_result_once_in_any_schedule(block: int) -> None:
    for seed in range(block, PLANS, BLOCKS):
        plan = drawn(seed)
        with replayable(plan):
            play(plan)


def test_ctrl_c_at_any_request_leaves_nothing_in_the_queue() -> None:
    tasks = (Task(seconds=4.0),) * 4
    for step in range(1, 9):
        play(MapPlan(seed=step, tasks=tasks, in_flight=3, step=step))


def test_ctrl_c_while_a_map_that_was_left_takes_back_its_prompts_ends_that() -> None:
    """What it leaves in the queue runs: nobody holds a user up who wants to go at once."""
    tasks = (Task(), Task(seconds=4.0), Task())
    play(MapPlan(seed=6196, tasks=tasks, in_flight=3, step=7, leave=1))
