"""A hosted place as member of a pool, alone and beside normal servers."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest

from comfy_client import ComfyPool, HostedApi
from comfy_client.errors import (
    AuthenticationError,
    JobFailed,
    JobInterrupted,
    PaymentRequired,
    PromptRejected,
    ServerUnreachable,
    SubmitUncertain,
)
from comfy_client.pool.pool_state import PoolTiming
from comfy_client.pool.server_thread import ServerThread
from comfy_client.testing import ComfyServer
from comfy_client.transport.websocket import State
from tests.helpers.clients import outstanding, until
from tests.helpers.graphs import node
from tests.helpers.hosted import Hosted, embedded, picture
from tests.helpers.middle import Middle, answer
from tests.helpers.patches import tell_time
from tests.helpers.pools import pooled
from tests.helpers.servers import add_test_content

JOBS = "/api/v2/jobs"


@pytest.fixture
def place() -> Iterator[Hosted]:
    with embedded() as one:
        yield one


@pytest.fixture
def normal() -> Iterator[Hosted]:
    with ComfyServer(step_seconds=0.05) as server:
        add_test_content(server)
        yield Hosted(server.url, server)


@contextlib.contextmanager
def gateway(place: Hosted, **options: Any) -> Iterator[tuple[HostedApi, Middle]]:
    """A client of a place by way of a gateway that may refuse."""
    with (
        Middle(int(place.url.rpartition(":")[2])) as middle,
        HostedApi(middle.url, **options) as api,
    ):
        yield api, middle


def name() -> str:
    return uuid.uuid4().hex[:8]


def refused(status: int, code: str, **headers: str) -> Any:
    return answer(status, {"error": {"code": code, "message": "no"}}, headers)


def test_a_pool_of_hosted_places_does_what_any_pool_does(hosted: Hosted) -> None:
    """It is ready without node definitions, which Comfy API v2 does not have."""
    values = [name() for _ in range(4)]
    heard: list[Any] = []
    with HostedApi(hosted.url) as api, pooled([api]) as pool:
        pool.on("have_job", lambda _, event: heard.append(event))
        results = list(pool.map([picture(value) for value in values], timeout=60, ordered=True))
        assert [one.images[0].filename for one in results] == [f"{v}_00001_.png" for v in values]
        started: list[Any] = []
        outputs: list[Any] = []
        result = pool.run(
            picture(name(), 0.4),
            on_start=started.append,
            on_output=lambda node_id, _: outputs.append(node_id),
            timeout=60,
        )
        assert result.images
        assert len(started) == 1
        assert "9" in outputs
        [status] = pool.status().servers
        assert (status.done, status.failed, status.others) == (5, 0, 0)
        with pytest.raises(JobFailed):
            pool.run({"1": node("TestFail", message="as told")}, timeout=60)
        until(lambda: len(heard) == 6)


def test_a_normal_server_takes_over_what_the_hosted_place_has_no_room_for(place, normal) -> None:
    values = [name() for _ in range(6)]
    with HostedApi(place.url) as api, pooled([api, normal.url]) as pool:
        results = list(pool.map([picture(value, 0.2) for value in values], timeout=60))
        assert len(results) == 6
        done = [one.done for one in pool.status().servers]
    assert sum(done) == 6
    assert all(done)
    assert all(place.runs(value) + normal.runs(value) == 1 for value in values)


def test_jobs_whose_nodes_the_hosted_place_lacks_go_to_the_other_server(place, normal) -> None:
    class OnlyHere:
        RETURN_TYPES = ()
        FUNCTION = "run"
        OUTPUT_NODE = True

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:
            return {"required": {}}

        def run(self) -> dict[str, Any]:
            return {"ui": {"text": ["here"]}}

    normal.behind.add_node(OnlyHere)
    with HostedApi(place.url) as api, pooled([api, normal.url], mode="round_robin") as pool:
        for _ in range(3):
            assert pool.run({"1": node("OnlyHere")}, timeout=60).texts == ("here",)


def test_a_class_that_nobody_has_is_an_error(place) -> None:
    with (
        HostedApi(place.url) as api,
        pooled([api]) as pool,
        pytest.raises(PromptRejected) as caught,
    ):
        pool.run({"1": node("Nowhere")}, timeout=60)
    assert "Nowhere" in str(caught.value)


def test_a_throttled_place_is_left_alone_and_asked_again(place) -> None:
    """As long as the server says; the job waits for it."""
    value = name()
    with gateway(place) as (api, middle), pooled([api]) as pool:
        busy = refused(429, "queue_full", **{"Retry-After": "0.2"})
        with middle.rule("POST", JOBS, busy, times=3):
            assert pool.run(picture(value), timeout=60).images
        assert pool.status().failed == 0
    assert place.runs(value) == 1


def test_a_job_moves_away_from_a_throttled_place(place, normal) -> None:
    values = [name() for _ in range(4)]
    busy = refused(429, "rate_limited", **{"Retry-After": "600"})
    with (
        gateway(place) as (api, middle),
        pooled([api, normal.url]) as pool,
        middle.rule("POST", JOBS, busy),
    ):
        assert len(list(pool.map([picture(value) for value in values], timeout=60))) == 4
        assert len(middle.posted(JOBS)) <= 4
    assert [normal.runs(value) for value in values] == [1] * 4


def test_jobs_move_away_from_a_place_without_credits(place, normal) -> None:
    values = [name() for _ in range(8)]
    with gateway(place) as (api, middle), pooled([api, normal.url]) as pool:
        with middle.rule("POST", JOBS, refused(402, "insufficient_credits")):
            assert len(list(pool.map([picture(value) for value in values], timeout=60))) == 8
        assert len(middle.posted(JOBS)) < 8  # it gets less after some failures
    assert [normal.runs(value) for value in values] == [1] * 8


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [(402, "insufficient_credits", PaymentRequired), (401, "unauthorized", AuthenticationError)],
)
def test_a_pool_of_one_hosted_place_raises_its_refusal(place, status, code, error) -> None:
    with gateway(place) as (api, middle), pooled([api]) as pool:
        refusal = middle.rule("POST", JOBS, refused(status, code))
        with refusal, pytest.raises(error):
            pool.run(picture(name()), timeout=60)


def test_an_uncertain_submission_is_final_and_moves_nowhere(place, normal) -> None:
    value = name()
    with (
        HostedApi(place.url, patience=0.3) as api,
        pooled([api, normal.url]) as pool,
        place.gateway.trap(upstream="lost"),
        pytest.raises(SubmitUncertain),
    ):
        pool.run(picture(value), include=[api], timeout=60)
    until(lambda: place.runs(value) == 1)
    assert normal.runs(value) == 0


def test_a_place_that_has_stopped_gives_its_jobs_away(place, normal) -> None:
    """Those that it never got."""
    values = [name() for _ in range(4)]
    with HostedApi(place.url) as api, pooled([api, normal.url]) as pool:
        place.gateway.kill()
        assert len(list(pool.map([picture(value) for value in values], timeout=60))) == 4
        until(lambda: pool.status().servers[0].state != "ready")
        place.gateway.start()
        until(lambda: pool.status().servers[0].state == "ready")
    assert [normal.runs(value) for value in values] == [1] * 4


def test_a_job_on_a_place_that_is_away_for_a_while_ends_there(place) -> None:
    value = name()
    with HostedApi(place.url) as api, pooled([api]) as pool:
        job = pool.submit(picture(value, 1.0))
        until(lambda: job.status == "running")
        place.gateway.restart()
        assert job.result(60).images
    assert place.runs(value) == 1


def test_a_pool_of_places_that_refuse_the_key_is_unreachable_at_once() -> None:
    with (
        embedded(credentials="right") as place,
        closing(HostedApi(place.url, "wrong")) as api,
        pytest.raises(ServerUnreachable, match="401"),
        ComfyPool([api]),
    ):
        pass


def test_cancel_and_close_leave_nothing_behind(place) -> None:
    with HostedApi(place.url) as api:
        with ComfyPool([api]) as pool:
            with place.gateway.trap(cancel_lies=False):
                job = pool.submit(picture(name(), 30.0))
                until(lambda: job.status == "running")
                assert job.cancel()
                with pytest.raises(JobInterrupted):
                    job.result(60)
            late = pool.submit(picture(name(), 0.3))
            until(lambda: late.done() or late.status in ("pending", "running"))
        until(late.done)
        until(lambda: not outstanding(api))


# -- how often an idle place is asked -------------------------------------------------------------


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("check_every", "in_flight", "trouble", "asked"),
    [
        (1.0, 0, None, 60),
        (30.0, 0, None, 2),
        (30.0, 1, None, 2),
        (30.0, 1, ServerUnreachable("gone"), 60),
        (30.0, 0, ServerUnreachable("an old one"), 2),
    ],
)
def test_an_idle_hosted_place_is_asked_rarely(
    monkeypatch, check_every, in_flight, trouble, asked
) -> None:
    """Each request may count; while there is trouble with a job, it is asked as any other."""
    clock, times = Clock(), []
    tell_time(monkeypatch, clock.monotonic)
    poller = SimpleNamespace(check_every=check_every, trouble=trouble)
    api = SimpleNamespace(
        state=State.POLLING,
        parts=SimpleNamespace(poller=poller),
        poll_status=lambda _: times.append(clock.now),
    )
    member: Any = SimpleNamespace(
        api=api,
        in_flight=dict.fromkeys(range(in_flight)),
        leaving=False,
        unwanted=[],
        stopped=False,
        server=SimpleNamespace(ready=True),
    )
    owner: Any = SimpleNamespace(take=lambda _: None)
    thread = ServerThread(member, owner, PoolTiming(), lambda _: None)
    while clock.now < 1060.0:
        pause = thread.work()
        assert pause is not None
        assert 0 < pause <= 5.0
        clock.now += pause
    assert len(times) == asked
