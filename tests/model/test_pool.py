"""Pools of modelled servers that die, freeze, refuse and come back.

Whatever befalls them, in simulated time:

* Each job ends once, within a bound once faults cease, and is told once.
* It runs once, unless its server failed it, or was away and the options of the pool say so.
* What moved, or was cancelled, is ended on its former server as soon as that can be told.
* As long as one server is well, no job fails for what others do.
* No server that could run a waiting job is idle for long, and each gets some when all is well.
* No lock is held while anything is sent, no defect is logged, no thread is left.
"""

from __future__ import annotations

import contextlib
import math
from typing import Any

import pytest

from comfy_client.errors import (
    ApiError,
    ComfyError,
    JobFailed,
    JobInterrupted,
    JobLost,
    PromptRejected,
    ServerUnreachable,
    UnexpectedResponse,
)
from comfy_client.events import Event
from comfy_client.jobs.result import Result
from comfy_client.pool.pool_state import Tries
from tests.helpers.long import few
from tests.model.fleet import (
    DEAD,
    DIAL,
    MOMENT,
    OUTAGES,
    REFUSALS,
    TOLD,
    UNSURE,
    Client,
    CtrlC,
    Pool,
    PoolPlan,
    Task,
    World,
    check_ids,
    drawn,
    graph,
    may_run_again,
    no_defects,
    number_of,
)
from tests.model.schedule import Fault, replayable
from tests.model.server import Taken

#: Default lane: so many plans, in so many tests.
PLANS, BLOCKS = 160, 8

#: Of a job that surely did not run.
_REFUSED = (ApiError, UnexpectedResponse, ServerUnreachable, PromptRejected)


def play(plan: PoolPlan) -> World:
    """Run a plan, and check all that must hold."""
    world = World(plan)
    with no_defects(world.kernel), world.network:
        try:
            world.kernel.run(lambda: _main(world))
        finally:
            world.let_go()
    assert not world.network.violations, world.network.violations[0]
    return world


def _main(world: World) -> None:
    plan, kernel = world.plan, world.kernel
    world.apis = [Client(f"http://{server.host}") for server in world.servers]
    left_at = None
    try:
        with Pool(
            world.apis,
            plan.mode,
            in_flight=plan.in_flight,
            patience=plan.patience,
            on_lost=plan.on_lost,
            on_failed=plan.on_failed,
        ) as world.pool:
            try:
                _use(world)
                _check_ends(world)
                if plan.goes_on:
                    _check_afterwards(world)
            finally:
                left_at = kernel.now()
    except (CtrlC, *_REFUSED) as exc:
        world.has_left = True
        if isinstance(exc, CtrlC):
            assert plan.stop is not None
        else:  # a map ends if all servers that are left refuse its prompts
            assert plan.way != "submit"
            assert any(fault.kind in (*REFUSALS, *UNSURE) for fault in plan.faults)
            assert all(map(world.faults, range(plan.servers)))
        assert kernel.now() - left_at < 12, f"it took {kernel.now() - left_at:.0f} s to leave"
        left_at = kernel.now()
        world.wait(60, lambda: world.ceased)
        kernel.sleep(plan.patience + 3 * DEAD)  # what was sent late has come
        _check_left(world, left_at)
    world.has_left = True
    for api in world.apis:
        api.close()
    gone = world.wait(60, lambda: not [one for one in kernel.living() if "comfy" in one])
    assert gone, f"threads are left: {kernel.living()}"


def _use(world: World) -> None:
    """Submit all jobs, and wait for their ends."""
    plan, kernel = world.plan, world.kernel
    kernel.spawn(world.befall, "faults")
    kernel.spawn(lambda: _watch(world), "watch")
    if plan.stop is not None:
        kernel.spawn(lambda: _stop(world), "user")
    if plan.way == "submit":
        users = [
            kernel.spawn(lambda n=n, t=t: _submit(world, n, t), f"user {n}")
            for n, t in enumerate(plan.tasks)
        ]
        are_back = world.wait(300, lambda: not any(user.is_alive() for user in users))
        assert are_back, "a call of submit() or cancel() does not return"
    else:
        graphs = [graph(number, task) for number, task in enumerate(plan.tasks)]
        ordered = plan.way == "map"
        world.results.extend(world.pool.map(graphs, ordered=ordered, on_error="keep"))
    world.wait(100, lambda: world.ceased)
    bound = plan.patience + 2 * DEAD + 3 * sum(task.seconds for task in plan.tasks) + 60
    if not world.wait(bound, lambda: all(job.done() for job in world.jobs.values())):
        open_ones = {n: job.why() for n, job in world.jobs.items() if not job.done()}
        raise AssertionError(f"no end within {bound:g} s: {open_ones}")
    kernel.sleep(MOMENT)  # callbacks have had all
    own = [one for server in world.servers for one in server.taken if number_of(one) is not None]
    world.wait(TOLD + DIAL, lambda: all(one.end for one in own))  # also what is wanted no more


def _stop(world: World) -> None:
    world.kernel.sleep(world.plan.stop or 0.0)
    if not world.has_left:
        world.kernel.interrupt(CtrlC())


def _submit(world: World, number: int, task: Task) -> None:
    """Be a user in a thread of its own."""

    def count(event: Event) -> None:
        world.ends[number] += event.is_end

    world.kernel.sleep(task.at)
    try:
        job = world.pool.submit(graph(number, task), on_event=count)
    except ComfyError as exc:
        world.errors[number] = exc
        return
    world.jobs[number] = job
    if task.cancel is not None:
        world.kernel.sleep(task.cancel - task.at)
        waits, at = not world.taken(number), world.kernel.now()
        with contextlib.suppress(ComfyError):
            if job.cancel():
                world.cancelled[number] = at, waits and job.server is None


def _watch(world: World) -> None:
    """No server that is ready has nothing to do while jobs wait that it can run."""
    plan, kernel = world.plan, world.kernel
    may_avoid = {"sick", "leave", *REFUSALS, *UNSURE}  # jobs that may not go anywhere
    if any(fault.kind in may_avoid for fault in plan.faults) or plan.on_failed == "move":
        return
    if any(task.fails for task in plan.tasks):
        return
    idle_since: dict[str, float] = {}
    while True:
        kernel.sleep(0.25)
        status = world.pool.status()
        for one in status.servers:
            is_idle = one.state == "ready" and not one.own and not one.others and not one.suspect
            if status.waiting and is_idle:
                since = idle_since.setdefault(one.host, kernel.now())
                assert kernel.now() - since < 2, f"{one.host} starves: {status}"
            else:
                idle_since.pop(one.host, None)


# -- what must hold -------------------------------------------------------------------------


def _check_ends(world: World) -> None:
    plan = world.plan
    check_ids(world)
    _check_sick(world)
    own = {one.host: one.own for one in world.pool.status().servers}
    assert not any(own.values()), f"jobs that have ended are counted: {own}"
    if plan.way == "submit":
        for number, job in world.jobs.items():
            _check_job(world, number, job.exception(0) or job.result(0), job.server)
        status = world.pool.status()
        assert status.waiting == status.running == 0, status
        assert status.done + status.failed == len(world.jobs), status
        assert len(world.jobs) + len(world.errors) == len(plan.tasks)
        return
    assert len(world.results) == len(plan.tasks), "a prompt was not told, or twice"
    numbers = [_number(world, one) for one in world.results]
    told = [number for number in numbers if number is not None]
    assert len(set(told)) == len(told), f"a prompt was told twice: {numbers}"
    for number, result in enumerate(world.results):
        if plan.way == "map":
            assert numbers[number] in (None, number), f"{numbers}: not in order"
            _check_job(world, number, result, None)


def _number(world: World, result: Any) -> int | None:
    """The number of the prompt that has made the picture of a result."""
    if not isinstance(result, Result):
        return None
    name = result.images[0].filename
    return next(
        number
        for number in range(len(world.plan.tasks))
        if any(f"{one.prompt_id}.png" == name for _, one in world.taken(number))
    )


def _check_job(world: World, number: int, end: Any, server: str | None) -> None:
    plan, taken = world.plan, world.taken(number)
    task = plan.tasks[number]
    words = f"job {number}: {end!r} on {server}; " + "; ".join(
        f"{index}: {one.prompt_id[:4]} {one.began_at or 0.0:.2f} {one.end} {one.ended_at:.2f}"
        for index, one in taken
    )
    untouched = [index for index in range(plan.servers) if not world.faults(index)]
    if plan.way == "submit":
        least = 0 if isinstance(end, _REFUSED) else 1
        assert least <= world.ends[number] <= 1, f"{world.ends[number]} ends were told: {words}"
    if isinstance(end, Result):
        name = end.images[0].filename
        found = [index for index, one in taken if f"{one.prompt_id}.png" == name]
        assert found, f"the result of another: {words}"
        assert server in (None, f"http://{world.servers[found[0]].host}"), words
    elif isinstance(end, JobFailed):
        failed = [index for index, one in taken if one.end == "execution_error"]
        assert failed, words
        sick = {fault.server for fault in plan.faults if fault.kind == "sick"}
        may_fail = plan.on_failed == "raise" or task.fails or len(sick) > 1
        may_fail |= task.cancel is not None
        assert may_fail or not untouched, f"a server that is well did not get it: {words}"
    elif isinstance(end, JobInterrupted):
        assert task.cancel is not None, words
    elif isinstance(end, JobLost):
        _check_lost(world, number, taken, untouched, words)
    else:
        assert isinstance(end, _REFUSED), words
        assert any(fault.kind in (*REFUSALS, *UNSURE) for fault in plan.faults), words
        assert not untouched or task.cancel is not None, words
    _check_told(world, number, taken, words)
    _check_deaths([(index, one) for index, one in taken if one.began_at is not None], words)
    ran = [(index, one) for index, one in taken if one.began_at is not None]
    paid = [one for index, one in ran if not may_run_again(world, index, one)]
    assert len(paid) <= 1, f"it ran {len(ran)} times: {words}"


def _check_told(world: World, number: int, taken: list[tuple[int, Taken]], words: str) -> None:
    """A server ends what was cancelled, or runs elsewhere, as soon as it can be told."""
    cancelled_at, waited = world.cancelled.get(number, (math.inf, False))
    assert not (waited and taken), f"it ran, though it was cancelled before: {words}"
    for index, one in taken:
        if world.faults(index, "leave", "late"):
            continue
        moved_at = min((other.at for _, other in taken if other.at > one.at), default=math.inf)
        since = min(moved_at, cancelled_at)
        until = one.ended_at if one.end else world.kernel.now()
        if since < math.inf and until > world.back_at(index, since):
            raise AssertionError(f"{one.prompt_id} is wanted no more, and goes on: {words}")


def _check_lost(
    world: World, number: int, taken: list[tuple[int, Taken]], untouched: list[int], words: str
) -> None:
    plan = world.plan
    may_lose = (*OUTAGES, *UNSURE, "nonsense", "slow")
    assert any(fault.kind in may_lose for fault in plan.faults), words
    moved = "execution_error" if plan.on_failed == "move" else None
    assert not any(index in untouched for index, one in taken if one.end != moved), words
    is_unsure = any(fault.kind in UNSURE for fault in plan.faults) or _fell_silent(world, number)
    if untouched and not is_unsure:
        assert any(_may_have_begun(world, index, one) for index, one in taken), words
    if untouched and plan.on_lost == "retry" and plan.tasks[number].cancel is None:
        # Three tries, or two servers that died.
        assert len(taken) >= 2 or is_unsure, words


def _fell_silent(world: World, number: int) -> bool:
    """Whether a server was silent for so long that a job which was being sent is given up."""
    plan, at = world.plan, world.plan.tasks[number].at
    spans = (
        (one.at, one.over + (DIAL if one.kind == "away" else 0.0))
        for one in plan.faults
        if one.kind in ("freeze", "away")
    )
    return any(end - begin >= plan.patience and end > at for begin, end in spans)


def _may_have_begun(world: World, index: int, one: Taken) -> bool:
    """Whether a prompt began, or was the first one when its server went away."""
    others = [other for other in world.servers[index].taken if other is not one]
    return one.began_at is not None or not any(
        other.began_at is not None and other.began_at < one.ended_at <= other.ended_at
        for other in others
    )


def _check_deaths(taken: list[tuple[int, Taken]], words: str) -> None:
    """Three are enough."""
    deaths = sorted(one.ended_at for _, one in taken if one.end == "forgotten")
    if len(deaths) >= Tries().deaths:
        last = deaths[Tries().deaths - 1]
        later = [one for _, one in taken if one.at > last + MOMENT]
        assert not later, f"its servers died, and it went on: {words}"


def _check_sick(world: World) -> None:
    """A server on which all fails gets less, if the others are well."""
    plan = world.plan
    if not plan.faults or any(fault.kind != "sick" for fault in plan.faults):
        return
    if len({fault.server for fault in plan.faults}) > 1 or any(task.fails for task in plan.tasks):
        return
    server = world.servers[plan.faults[0].server]
    times = [one.at for one in server.taken if one.end == "execution_error"]
    seconds = max(times, default=0.0) - min(times, default=0.0)
    most = 3 + plan.in_flight + math.log2(2 + seconds) + seconds / 8
    assert len(times) <= most, f"{server.host} failed {len(times)} in {seconds:.1f} s"


def _check_afterwards(world: World) -> None:
    """All servers are in the pool again, have nothing of ours, and each of them gets some."""
    plan, kernel, pool = world.plan, world.kernel, world.pool
    for number in range(plan.servers):
        world.join(number)
    kernel.sleep(10)  # the longest rest

    def are_ready() -> bool:
        return all(one.state == "ready" for one in pool.status().servers)

    assert world.wait(60, are_ready), f"not ready again: {pool.status()}"
    assert world.wait(60, lambda: not any(server.remaining for server in world.servers)), "left"
    before = [len(server.taken) for server in world.servers]
    jobs = [pool.submit(graph(1000 + n, Task())) for n in range(4 * plan.servers)]
    assert world.wait(60, lambda: all(job.done() for job in jobs)), pool.status()
    assert all(job.exception(0) is None for job in jobs), [job.exception(0) for job in jobs]
    if plan.mode != "first_free":
        counts = [len(s.taken) - n for s, n in zip(world.servers, before, strict=True)]
        assert all(counts), f"a server starves: {counts}, {pool.status()}"


def _check_left(world: World, at: float) -> None:
    """What did not run when the user left, never does, but on servers that cannot be told."""
    for index, server in enumerate(world.servers):
        if world.faults(index):
            continue
        assert not server.remaining, f"{server.host} has something left"
        for one in server.taken:
            began = one.began_at or 0.0
            others = [other for _, other in world.taken(number_of(one)) if other is not one]
            if not any(other.began_at for other in others):  # it ran, and goes on elsewhere
                words = f"{one.prompt_id} began {began - at:.1f} s later"
                assert began <= at + MOMENT, words
    still = {number: job.why() for number, job in world.jobs.items() if not job.done()}
    assert not still, f"no end: {still}"


@pytest.mark.parametrize("block", few(range(BLOCKS), 2))
def test_jobs_of_a_pool_end_once_in_any_schedule(block: int) -> None:
    for seed in range(block, PLANS, BLOCKS):
        plan = drawn(seed)
        with replayable(plan):
            play(plan)


def test_a_prompt_that_runs_elsewhere_is_cancelled_when_its_server_is_back() -> None:
    """The call may be over before: then there is time to tell the server."""
    play(
        PoolPlan(
            seed=896,
            tasks=(Task(seconds=5.63), Task(), Task()),
            faults=(Fault(at=1.38, kind="away", lasts=4.89),),
            way="map",
            patience=0.5,
            in_flight=3,
        )
    )
