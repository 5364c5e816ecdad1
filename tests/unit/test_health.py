"""Which servers of a pool are suspect, on a virtual clock."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from comfy_client.pool.health import Health

SERVERS = ["a", "b", "c"]
WHY = "CUDA error"


def health() -> Health:
    return Health(3, rest=5.0, longest_rest=300.0)


def fail(one: Health, server: str, kind: str = "k", now: float = 0.0, times: int = 1) -> None:
    for _ in range(times):
        one.record_failure(server, kind, WHY, SERVERS, now)


def test_three_failures_in_a_row_make_a_server_suspect() -> None:
    one = health()
    fail(one, "a", times=2)
    assert one.suspects(SERVERS) == frozenset()
    fail(one, "a")
    assert one.suspects(SERVERS) == {"a"}
    assert one.describe("a") == "3 jobs failed in a row: CUDA error"


def test_a_success_ends_the_suspicion() -> None:
    one = health()
    fail(one, "a", times=9)
    one.record_success("a", "k")
    assert one.suspects(SERVERS) == frozenset()
    fail(one, "a", times=2)
    assert one.suspects(SERVERS) == frozenset()


def test_a_success_between_failures_begins_the_count_anew() -> None:
    one = health()
    for _ in range(5):
        fail(one, "a", times=2)
        one.record_success("a", "k")
    assert one.suspects(SERVERS) == frozenset()


def test_a_suspect_rests_twice_as_long_after_each_failure() -> None:
    one, now, rests = health(), 100.0, []
    fail(one, "a", now=now, times=2)
    assert not one.rests("a", now)
    for _ in range(9):
        fail(one, "a", now=now)
        began = now
        while one.rests("a", now):
            now += 1.0
        rests.append(now - began)
    assert rests == [5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0, 300.0]


def test_a_suspect_that_was_away_may_try_at_once() -> None:
    """A restart may have mended it; if not, it rests for longer."""
    one = health()
    fail(one, "a", now=100.0, times=3)
    assert one.rests("a", 104.0)
    one.record_return("a")
    assert one.suspects(SERVERS) == {"a"}
    assert not one.rests("a", 104.0)
    fail(one, "a", now=104.0)
    assert one.rests("a", 113.0)
    assert not one.rests("a", 114.0)


def test_a_server_that_returns_and_never_failed_is_well() -> None:
    one = health()
    one.record_return("a")
    assert one.suspects(SERVERS) == frozenset()


def test_jobs_in_hand_do_not_make_a_rest_longer() -> None:
    one = health()
    fail(one, "a", now=0.0, times=5)
    assert one.rests("a", 4.9)
    assert not one.rests("a", 5.0)


def test_if_all_fail_it_is_the_workflow() -> None:
    one = health()
    for server in SERVERS:
        fail(one, server, times=9)
    assert one.suspects(SERVERS) == frozenset()


def test_two_of_three_may_be_sick() -> None:
    one = health()
    fail(one, "a", times=3)
    fail(one, "b", times=3)
    assert one.suspects(SERVERS) == {"a", "b"}


def test_a_server_that_is_alone_is_never_suspect() -> None:
    one = health()
    fail(one, "a", times=9)
    assert one.suspects(["a"]) == frozenset()


def test_a_kind_of_job_that_fails_everywhere_is_held_against_nobody() -> None:
    """Though other jobs succeed; a kind that has succeeded is not one."""
    one = health()
    for server in SERVERS:
        fail(one, server, "bad", times=3)
        one.record_success(server, "good")
        fail(one, server, "bad", times=3)
    one.record_success("b", "good")
    assert one.suspects(SERVERS) == frozenset()
    fail(one, "a", "good", times=3)
    assert one.suspects(SERVERS) == {"a"}


def test_after_a_bad_workflow_a_good_one_finds_all_servers_well() -> None:
    one = health()
    for server in SERVERS:
        fail(one, server, "bad", times=20)
    one.record_success("a", "good")
    assert one.suspects(SERVERS) == frozenset()


def test_a_server_that_has_left_is_forgotten() -> None:
    one = health()
    fail(one, "a", times=3)
    one.forget("a")
    assert one.suspects(SERVERS) == frozenset()


@given(st.lists(st.tuples(st.sampled_from(SERVERS), st.sampled_from("kl"), st.booleans())))
def test_at_least_one_server_is_never_suspect(steps: list[tuple[str, str, bool]]) -> None:
    """One at least; and never one whose last job succeeded."""
    one, now = health(), 0.0
    for server, kind, succeeds in steps:
        now += 1.0
        if succeeds:
            one.record_success(server, kind)
            assert server not in one.suspects(SERVERS)
            assert not one.rests(server, now)
        else:
            fail(one, server, kind, now)
        assert len(one.suspects(SERVERS)) < len(SERVERS)
