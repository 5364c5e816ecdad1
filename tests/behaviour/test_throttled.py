"""A server, or a proxy before it, that takes no more requests at the moment (429)."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from comfy_client import ComfyApi, ComfyPool, HostedApi
from comfy_client.errors import ApiError, ClientClosed, JobTimeout, Throttled
from comfy_client.testing import ComfyServer, Request
from tests.helpers.clients import Heard, outstanding, quickly, until
from tests.helpers.graphs import canvas, node, picture
from tests.helpers.interrupts import press_ctrl_c_in_a_call
from tests.helpers.scripted import QUEUE_ROUTES

COLOR = "EmptyImage.color"
PLACES = ["ComfyUI", "hosted"]
_colors = itertools.count(1)

Call = Callable[..., Any]
CALLS: dict[str, Call] = {
    "run": lambda api, graph, **how: api.run(graph, **how),
    "submit": lambda api, graph, **how: api.submit(graph).result(60.0),
    "map": lambda api, graph, **how: list(api.map([graph], **how)),
    "sweep": lambda api, graph, **how: list(api.sweep(graph, {COLOR: [next(_colors)]}, **how)),
}


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest) -> Iterator[ComfyServer]:
    with ComfyServer(hosted="proxy" if request.param == "hosted" else None) as server:
        yield server


def client_of(place: ComfyServer, **options: Any) -> ComfyApi:
    is_hosted = place.url != place.comfyui_url
    return HostedApi(place.url, **options) if is_hosted else ComfyApi(place.url, **options)


@pytest.fixture
def api(place: ComfyServer) -> Iterator[ComfyApi]:
    with client_of(place) as client:
        yield client


def submissions(server: ComfyServer) -> str:
    """The route of submissions."""
    return "/prompt" if server.url == server.comfyui_url else "/v2/jobs"


def busy(server: ComfyServer, after: str | None = None, route: str = "", **options: Any) -> Any:
    """Answer submissions with 429."""
    headers = {} if after is None else {"Retry-After": after}
    route = route or submissions(server)
    return server.faults.answer("POST", route, (429, headers, {"error": "slow down"}), **options)


def fresh() -> dict[str, Any]:
    return picture(next(_colors))


def made(server: ComfyServer) -> int:
    """How many pictures the server has saved."""
    return len(list(Path(server.root, "output").rglob("*.png")))


@pytest.mark.parametrize("call", CALLS)
def test_a_busy_server_is_waited_for_and_runs_it_once(place, api, call) -> None:
    """As long as it says: nothing ran when it said so."""
    heard = Heard(api)
    with busy(place, "0.3", times=2) as fault:
        assert CALLS[call](api, fresh())
    assert fault.hits == 2
    assert made(place) == 1
    stats = api.stats()
    assert stats.submitted == 1
    if call in ("run", "submit"):
        assert stats.refused == 0
    assert heard("queue_error") == []


@pytest.mark.parametrize("call", ["run", "submit", "map", "sweep"])
def test_a_map_that_is_under_way_waits_for_a_busy_server_too(place, api, call) -> None:
    """For prompts after the first."""
    assert api.run(fresh()).complete
    with busy(place, "0.1", times=3):
        assert CALLS[call](api, fresh())
    assert made(place) == 2


@pytest.mark.parametrize("call", ["run", "submit", "map"])
def test_the_uploads_of_a_run_wait_for_a_busy_server(place, api, call) -> None:
    """As its submission does."""
    first = api.run(fresh())
    graph = {
        "1": node("LoadImage", image=first.image.bytes()),
        "9": node("SaveImage", images=["1", 0], filename_prefix="b"),
    }
    route = "/upload/image" if submissions(place) == "/prompt" else "/v2/assets"
    with busy(place, "0.1", route, times=2) as fault:
        assert CALLS[call](api, graph)
    assert fault.hits == 2
    assert made(place) == 2


@pytest.mark.parametrize("call", ["run", "sweep", "map"])
def test_retry_after_is_not_waited_for_beyond_the_timeout(place, api, call) -> None:
    """The error says how long the server wants it to last, within an hour."""
    with busy(place, "999999999"), quickly():
        if call == "run":
            with pytest.raises(Throttled, match="429") as caught:
                api.run(fresh(), timeout=20.0)
            assert caught.value.retry_after == 3600.0
            assert caught.value.retryable
        elif call == "map":
            with pytest.raises(JobTimeout, match="429"):
                list(api.map([fresh()], timeout=0.5))
        else:
            (row,) = api.sweep(fresh(), {COLOR: [next(_colors)]}, timeout=0.5, progress=False)
            assert isinstance(row.error, JobTimeout)
    assert made(place) == 0


@pytest.mark.timing(throttled=1.0, retry=0.05, retry_cap=0.1)
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("after", [None, "-1", "nan", "soon", "0"])
def test_without_a_timeout_a_busy_server_is_waited_for_for_a_while(call, after) -> None:
    """A hosted one for ``patience``; the server need not say for how long."""
    with ComfyServer() as server, ComfyApi(server.url) as api, busy(server, after) as fault:
        with quickly(), pytest.raises(Throttled) as caught:
            CALLS[call](api, fresh())
        assert caught.value.retry_after == (0.0 if after == "0" else None)
        assert fault.hits > 1
        assert api.stats().refused == 1


@pytest.mark.timing(retry=0.05, retry_cap=0.1)
@pytest.mark.parametrize("timeout", [None, 600.0])
def test_a_busy_hosted_server_is_waited_for_for_its_patience(timeout) -> None:
    """Whatever the timeout."""
    with ComfyServer(hosted="proxy") as server, busy(server) as fault:
        with HostedApi(server.url, patience=1.0) as api, quickly(), pytest.raises(Throttled):
            api.run(fresh(), timeout=timeout)
        assert fault.hits > 1


def test_close_ends_the_wait_for_a_busy_server(place) -> None:
    """And the job, which nobody sent."""
    jobs: list[Any] = []
    errors: list[BaseException] = []
    api = client_of(place)

    def run() -> None:
        try:
            api.submit(fresh(), on_queue=print)
        except ClientClosed as exc:
            errors.append(exc)

    with busy(place, "30") as fault:
        thread = threading.Thread(target=run)
        thread.start()
        until(lambda: jobs.extend(outstanding(api)) or fault.hits)
        api.close()
        thread.join(60.0)
    assert len(errors) == 1
    assert all(job.done() for job in jobs)


def test_ctrl_c_ends_the_wait_for_a_busy_server(place, api, caplog) -> None:
    """Nothing was sent, so nothing runs, and no job is left."""
    with busy(place, "30"):
        press_ctrl_c_in_a_call(after=1.0)
        with quickly(), pytest.raises(KeyboardInterrupt):
            api.run(fresh(), timeout=600.0)
    assert outstanding(api) == []
    assert "keeps running" not in caplog.text
    assert made(place) == 0


@pytest.mark.timing(silence_cap=0.2)
def test_questions_about_a_job_wait_for_a_busy_server(server) -> None:
    """However often it refuses to say how the job is doing."""
    answer = (429, {"Retry-After": "0.02"}, "slow down")
    with ComfyApi(server.url, transport="poll") as api:
        routes = (*QUEUE_ROUTES, "/history/*")
        faults = [server.faults.answer("GET", path, answer) for path in routes]
        job = api.submit({"1": canvas(7), "2": node("PreviewImage", images=["1", 0])})
        until(lambda: faults[-1].hits > 12)
        assert not job.done()
        for fault in faults:
            fault.end()
        assert job.result(60.0).complete


def test_a_server_of_a_pool_is_left_alone_for_as_long_as_it_says(server) -> None:
    """The pool gives it the job again afterwards, and not before."""
    times: list[float] = []

    @server.on("POST", "/prompt")
    def refuse_once(request: Request) -> Any:
        times.append(time.perf_counter())
        first = len(times) == 1
        return (429, {"Retry-After": "1"}, "slow down") if first else server.answer(request)

    with ComfyPool([server.url]) as pool:
        assert pool.run(fresh(), timeout=60.0)
    refused, sent = times
    assert sent - refused >= 1.0
    assert made(server) == 1


def test_any_request_that_is_refused_so_says_when_to_come_back(place, api) -> None:
    """Of any route, and of a proxy that speaks HTML."""
    route = "/queue" if submissions(place) == "/prompt" else "/v2/jobs/*"
    page = (429, {"Retry-After": "7", "Content-Type": "text/html"}, "<title>429 Slow</title>")
    with place.faults.answer("GET", route, page), pytest.raises(Throttled, match="Slow") as caught:
        api.get_queue() if route == "/queue" else api.job("0" * 8, must_exist=True)
    assert caught.value.retry_after == 7.0


@pytest.mark.parametrize("status", [408, 425])
def test_a_request_that_was_late_or_early_is_worth_another_try(server, status) -> None:
    """But a prompt may have arrived with the late one."""
    with ComfyApi(server.url) as api:
        with server.faults.bad_gateway(status, path="/queue"), pytest.raises(ApiError) as caught:
            api.get_queue()
        assert caught.value.retryable
        with (
            server.faults.answer("POST", "/prompt", (status, {}, "")),
            pytest.raises(ApiError) as caught,
        ):
            api.queue_prompt(None, fresh())
        assert caught.value.retryable is (status == 425)
