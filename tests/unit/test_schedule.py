"""Which job of a pool goes to which server."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comfy_client.pool.needs import Need
from comfy_client.pool.schedule import MODES, Assignment, Schedule, Server, Waiting
from tests.conftest import examples
from tests.helpers.work import lines


def schedule(*servers: Server, mode: Any = "shortest") -> Schedule:
    made = Schedule(mode)
    for server in servers:
        made.add_server(server)
    return made


def ready(name: str, **more: Any) -> Server:
    return Server(name, ready=True, **more)


def job(order: int, **more: Any) -> Waiting:
    return Waiting(order, order, **more)


def drain(made: Schedule) -> list[tuple[Any, str]]:
    """All that can be given away now."""
    return [(found.job.key, found.server.name) for found in iter(made.assign_next, None)]


def give(made: Schedule, *jobs: Waiting) -> list[tuple[Any, str]]:
    for each in jobs:
        made.add(each)
    return drain(made)


def test_the_shortest_queue_counts_the_prompts_of_others() -> None:
    made = schedule(ready("a", others=1), ready("b"))
    assert give(made, job(0), job(1), job(2)) == [(0, "b"), (1, "a"), (2, "b")]


def test_a_server_of_twice_the_weight_gets_twice_as_many() -> None:
    made = schedule(ready("a", most=99), ready("b", weight=2, most=99))
    found = give(made, *map(job, range(30)))
    assert Counter(name for _, name in found) == {"a": 10, "b": 20}


def test_of_equal_queues_the_one_that_ran_the_same_models_is_taken() -> None:
    made = schedule(ready("a", model=("x",)), ready("b", model=("y",)))
    assert give(made, job(0, model=("y",)), job(1, model=("x",))) == [(0, "b"), (1, "a")]


def test_a_job_without_models_leaves_those_of_its_server_loaded() -> None:
    made = schedule(ready("a", model=("x",)), ready("b", model=("y",)))
    assert give(made, job(0)) == [(0, "a")]
    made.servers["a"].own -= 1
    assert give(made, job(1, model=("x",))) == [(1, "a")]


def test_jobs_avoid_a_long_foreign_queue_while_another_server_is_nearly_done() -> None:
    made = schedule(ready("a"), ready("b", others=50))
    assert give(made, *map(job, range(4))) == [(0, "a"), (1, "a")]
    made.servers["a"].own -= 1
    assert drain(made) == [(2, "a")]


def test_round_robin_goes_to_each_in_turn_by_weight() -> None:
    made = schedule(
        ready("a", others=9), ready("b"), ready("c", weight=2, most=9), mode="round_robin"
    )
    names = [name for _, name in give(made, *map(job, range(7)))]
    assert Counter(names) == {"a": 2, "b": 2, "c": 3}
    assert names[:3] == ["a", "b", "c"]


def test_a_server_that_is_back_has_no_turns_to_make_up_for() -> None:
    made = schedule(ready("a"), Server("b"), mode="round_robin")
    for number in range(9):
        give(made, job(number))
        made.servers["a"].own -= 1
    made.welcome(made.servers["b"])
    assert Counter(name for _, name in give(made, job(10), job(11))) == {"a": 1, "b": 1}


def test_a_server_that_takes_long_to_take_one_gets_no_more_meanwhile() -> None:
    made = schedule(ready("a", is_slow=True))
    assert give(made, job(0)) == []
    made.servers["a"].is_slow = False
    assert drain(made) == [(0, "a")]


def test_jobs_avoid_a_server_that_is_slow_to_accept() -> None:
    made = schedule(ready("a", own=1, is_slow=True), ready("b", others=50))
    assert give(made, job(0)) == [(0, "b")]


@pytest.mark.parametrize("mode", MODES)
def test_a_suspect_gets_one_job_at_a_time_and_none_while_it_rests(mode: Any) -> None:
    made = schedule(ready("a", is_suspect=True), ready("b", most=3), mode=mode)
    names = [name for _, name in give(made, *map(job, range(6)))]
    assert names.count("a") == 1
    made.servers["a"].own, made.servers["a"].is_resting = 0, True
    made.servers["b"].own = 0
    assert {name for _, name in drain(made)} <= {"b"}


def test_a_suspect_gets_what_no_other_can_run() -> None:
    """It fails as soon as on a single server; nobody waits behind it."""
    made = schedule(ready("a", is_suspect=True, is_resting=True, most=9), ready("b", most=9))
    only_a = [job(n, include=frozenset("a")) for n in range(3)]
    assert [name for _, name in give(made, *only_a, job(3))] == ["a", "a", "a", "b"]


def test_a_job_that_its_owner_takes_back_waits_while_its_server_rests() -> None:
    """Those of others that only this server can run do not wait behind it."""
    made = schedule(ready("a", is_suspect=True, is_resting=True), ready("b"))
    bound = job(0, include=frozenset("a"), is_bound=True)
    assert give(made, bound, job(1, include=frozenset("a"))) == [(1, "a")]


def test_a_suspect_has_others_beside_it_only_if_they_are_expected() -> None:
    made = schedule(ready("a", is_suspect=True, is_resting=True), Server("b", is_expected=False))
    assert give(made, job(0)) == [(0, "a")]
    made.servers["b"].is_expected = True
    assert give(made, job(1)) == []


def test_first_free_takes_the_first_that_has_nothing_to_do() -> None:
    made = schedule(ready("a", others=1), ready("b"), ready("c"), mode="first_free")
    assert give(made, *map(job, range(3))) == [(0, "b"), (1, "c")]
    made.servers["a"].others = 0
    assert drain(made) == [(2, "a")]


def test_a_mode_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(
        ValueError, match="mode must be one of 'shortest', 'round_robin', 'first_free'"
    ):
        Schedule("fastest")  # type: ignore[arg-type]


def test_higher_priorities_go_first() -> None:
    made = schedule(ready("a", most=3))
    found = give(made, job(0), job(1, priority=2), job(2, priority=1))
    assert [key for key, _ in found] == [1, 2, 0]


def test_callers_take_turns() -> None:
    """Whoever comes later does not wait behind all that others have submitted."""
    made = schedule(ready("a", most=1))
    for order in range(100):
        made.add(job(order, caller="many"))
    found = []
    for step in range(8):
        if step == 3:
            made.add(job(100, caller="few"))
            made.add(job(101, caller="few"))
        found += drain(made)
        made.servers["a"].own = 0
    assert found.index((100, "a")) <= 4
    assert found.index((101, "a")) <= 6


def test_include_and_exclude_are_kept() -> None:
    made = schedule(ready("a"), ready("b"), ready("c"))
    only_c = job(0, include=frozenset("bc"), exclude=frozenset("b"))
    assert give(made, only_c) == [(0, "c")]


def test_a_job_that_no_server_can_take_now_holds_up_nobody() -> None:
    made = schedule(ready("a", has=lambda needs: not needs), Server("b"))
    stuck = job(0, needs=frozenset({Need("Rare")}))
    assert give(made, stuck, job(1), job(2, include=frozenset("b")), job(3)) == [(1, "a"), (3, "a")]
    assert made.able(stuck) == {"b"}
    made.servers["b"].ready = True
    assert drain(made) == [(0, "b"), (2, "b")]


def test_a_job_that_comes_back_has_its_place_again() -> None:
    made = schedule(ready("a", most=1))
    first = job(0)
    assert give(made, first, job(1)) == [(0, "a")]
    made.servers["a"].own = 0
    made.add(first)
    assert made.position(1) == 1
    assert drain(made) == [(0, "a")]


def test_a_job_that_was_taken_back_goes_nowhere() -> None:
    made = schedule(Server("a"))
    give(made, job(0), job(1))
    assert made.remove(0)
    assert not made.remove(0)
    assert made.position(0) is None
    made.servers["a"].ready = True
    assert drain(made) == [(1, "a")]


SERVERS = "abcd"
JOBS = st.builds(
    dict,
    priority=st.integers(0, 2),
    caller=st.integers(0, 3),
    include=st.none() | st.frozensets(st.sampled_from(SERVERS)),
    exclude=st.frozensets(st.sampled_from(SERVERS), max_size=2),
    needs=st.frozensets(st.sampled_from([Need("x"), Need("y")]), max_size=1),
    model=st.sampled_from([(), ("m",), ("n",)]),
)
STEPS = st.lists(
    JOBS
    | st.tuples(
        st.sampled_from(["end", "toggle", "leave", "join", "others", "drop"]), st.integers(0, 9)
    ),
    max_size=60,
)


@settings(max_examples=examples(300), deadline=None)
@given(mode=st.sampled_from(MODES), steps=STEPS)
def test_every_job_goes_once_to_a_server_that_may_have_it(mode: Any, steps: list[Any]) -> None:
    """Whatever happens meanwhile; and nothing waits that could go."""
    made = schedule(*(ready(name, has=_has(name)) for name in SERVERS), mode=mode)
    there: list[Assignment] = []
    gone: set[Any] = set()
    waits: dict[Any, Waiting] = {}
    for order, step in enumerate(steps):
        if isinstance(step, dict):
            waits[order] = job(order, **step)
            made.add(waits[order])
        else:
            _do(made, there, waits, *step)
        while (found := made.assign_next()) is not None:
            server, one = found.server, found.job
            assert made.servers[server.name] is server
            assert server.ready
            assert server.own <= server.most
            assert one.include is None or server.name in one.include
            assert server.name not in one.exclude
            assert server.has(one.needs)
            assert waits.pop(one.key) is one
            assert one.key not in gone
            gone.add(one.key)
            there.append(found)
        assert {one.key for one in made.waiting()} == waits.keys()
        assert len(made) == len(waits)
        if mode == "round_robin":
            for one in waits.values():
                names = made.able(one)
                assert not any(made.servers[n].ready and made.servers[n].own < 2 for n in names)


def _has(name: str) -> Any:
    return lambda needs: needs <= {Need("x")} or name in "ab"


def _do(
    made: Schedule, there: list[Assignment], waits: dict[Any, Waiting], what: str, at: int
) -> None:
    name = SERVERS[at % 4]
    if what == "end" and there:
        there.pop(at % len(there)).server.own -= 1
    elif what == "leave" and name in made.servers:
        made.remove_server(name)
    elif what == "join" and name not in made.servers:
        made.add_server(ready(name, has=_has(name)))
    elif what == "toggle" and name in made.servers:
        made.servers[name].ready ^= True
    elif what == "others" and name in made.servers:
        made.servers[name].others = at
    elif what == "drop" and waits:
        key = sorted(waits)[at % len(waits)]
        del waits[key]
        assert made.remove(key)


@pytest.mark.long
def test_a_hundred_servers_and_twenty_thousand_jobs() -> None:
    """On a virtual clock: all run, nobody starves, and the servers are busy."""
    rng = random.Random(7)
    servers = [ready(f"s{n}", has=_every_tenth(n)) for n in range(100)]
    made = schedule(*servers)
    rare = frozenset({Need("Rare")})
    count = 20_000
    for order in range(count):
        one = job(
            order,
            caller=0 if order < count // 2 else 1 + order % 7,
            needs=rare if order % 50 == 0 else frozenset(),
            model=(f"m{order % 5}",),
            exclude=frozenset({f"s{order % 3}"}) if order % 11 == 0 else frozenset(),
        )
        made.add(one)
    now, work = 0.0, 0.0
    running: list[tuple[float, int, Server]] = []
    free_at = dict.fromkeys(made.servers, 0.0)
    begun: dict[int, list[int]] = {}
    given_away = 0
    while len(made) or running:
        while (found := made.assign_next()) is not None:
            seconds = rng.uniform(0.5, 1.5)
            work += seconds
            start = max(now, free_at[found.server.name])
            free_at[found.server.name] = start + seconds
            heapq.heappush(running, (start + seconds, given_away, found.server))
            begun.setdefault(found.job.caller, []).append(given_away)  # type: ignore[call-overload]
            given_away += 1
        now, _, server = heapq.heappop(running)
        server.own -= 1
    assert given_away == count
    # Eight callers take turns: of the first thousand jobs, each has its part.
    for caller in range(8):
        assert sum(at < 1000 for at in begun[caller]) >= 100
    # The last of each of them comes when all that there is of him has had its turn.
    assert all(begun[caller][-1] < 12_000 for caller in range(1, 8))
    assert work / 100 / now > 0.97


def test_a_choice_takes_no_longer_however_many_jobs_wait() -> None:
    """Of each caller and kind, only the next one counts."""

    def choose(made: Schedule) -> None:
        for _ in range(50):
            assert made.assign_next()

    work = []
    for count in (500, 8_000):
        made = schedule(*(ready(f"s{n}") for n in range(100)))
        for order in range(count):
            made.add(job(order, caller=order % 7, model=(f"m{order % 5}",)))
        work.append(lines(lambda made=made: choose(made)))
    assert work[1] < 1.5 * work[0], work


def _every_tenth(n: int) -> Any:
    return lambda needs: not needs or n % 10 == 0


def test_a_job_that_runs_alone_has_a_server_to_itself() -> None:
    made = schedule(ready("a"), ready("b"))
    assert give(made, job(0, runs_alone=True), *map(job, range(1, 5))) == [
        (0, "a"),
        (1, "b"),
        (2, "b"),
    ]
    made.servers["a"].own -= 1
    assert drain(made) == [(3, "a"), (4, "a")]


def test_a_job_that_runs_alone_gets_the_first_server_that_is_done() -> None:
    """Busy ones get no more jobs meanwhile, unless they cannot run it."""
    made = schedule(ready("a"), ready("b"), ready("c"))
    assert len(give(made, *map(job, range(6)))) == 6
    for server in made.servers.values():
        server.own -= 1
    assert give(made, job(6, runs_alone=True, exclude=frozenset("c")), job(7), job(8)) == [(7, "c")]
    made.servers["b"].own -= 1
    assert drain(made) == [(6, "b"), (8, "a")]


def test_a_job_that_runs_alone_holds_up_none_before_it_and_none_if_its_servers_are_away() -> None:
    made = schedule(ready("a"), Server("b"))
    made.servers["a"].own = 1
    before = job(1, runs_alone=True, priority=-1)
    assert give(made, before, job(2, runs_alone=True, include=frozenset("b")), job(3)) == [(3, "a")]
    assert made.position(1) == 1


@settings(max_examples=examples(60))
@given(st.randoms(use_true_random=False), st.sampled_from(MODES), st.integers(1, 3))
def test_jobs_that_run_alone_all_run_and_alone(chance: Any, mode: Any, servers: int) -> None:
    """However busy servers are, and even if they come and go."""
    made = schedule(*(ready(f"s{n}", most=chance.randint(1, 3)) for n in range(servers)), mode=mode)
    there: dict[str, list[Waiting]] = {name: [] for name in made.servers}
    left = 30
    for number in range(left):
        allowed = chance.choice([None, frozenset({chance.choice([*there])})])
        made.add(
            job(number, caller=chance.randint(0, 2), priority=chance.randint(0, 1),
                include=allowed, runs_alone=chance.random() < 0.4)
        )  # fmt: skip
    while left:
        for found in iter(made.assign_next, None):
            there[found.server.name].append(found.job)
        for running in there.values():
            assert len(running) == 1 or not any(one.runs_alone for one in running)
        busy = [name for name, running in there.items() if running]
        assert busy or not all(one.ready for one in made.servers.values())
        for server in made.servers.values():
            server.ready = chance.random() < 0.9
        if busy:
            name = chance.choice(busy)
            there[name].pop(0)
            made.servers[name].own -= 1
            left -= 1
