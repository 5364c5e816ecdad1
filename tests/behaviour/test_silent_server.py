"""``timeout`` of ``map`` and ``sweep`` on a server that accepts connections and never answers.

Waits that a defect would add last a minute or more here, so the time is no close call.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from comfy_client import ComfyApi, HostedApi, JobTimeout, SubmitUncertain
from comfy_client.errors import ApiError, RequestTimeout
from comfy_client.testing import ComfyServer
from comfy_client.transport.http import Http
from tests.conftest import WORKFLOWS
from tests.helpers.clients import outstanding, quickly, until
from tests.helpers.graphs import canvas, node
from tests.helpers.http import opened, raw_server

pytestmark = pytest.mark.timing(cancel_timeout=0.5, question=0.5, look_up=1.0, settle=0.2)

GRAPH = {"1": canvas(0), "2": node("PreviewImage", images=["1", 0])}
COLOR = "EmptyImage.color"
PLACES = ["ComfyUI", "hosted"]


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest) -> Iterator[ComfyServer]:
    """A server whose prompts run until they are told to end."""
    with ComfyServer(hosted="proxy" if request.param == "hosted" else None) as server:
        server.script()
        yield server


@pytest.fixture
def api(place: ComfyServer) -> Iterator[ComfyApi]:
    """A client that has reached the server."""
    kind = HostedApi if place.url != place.comfyui_url else ComfyApi
    with kind(place.url) as client:
        client.init()
        yield client


def errors_of(api: ComfyApi, call: str, number: int, **how: Any) -> list[Any]:
    """What the prompts of a call end in."""
    how = {"timeout": 0.5, "in_flight": number, "progress": False, **how}
    if call == "map":
        prompts = ({COLOR: n} for n in range(1, number + 1))
        return list(api.map(GRAPH, prompts, on_error="keep", **how))
    return [row.error for row in api.sweep(GRAPH, {COLOR: range(1, number + 1)}, **how)]


def frozen_with(server: ComfyServer, api: ComfyApi, number: int, doing: Callable[[], Any]) -> Any:
    """Freeze the server once it has a number of prompts of a call; return what the call does."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(doing()), daemon=True)
    thread.start()

    def has_them() -> bool:
        accepted = [job for job in outstanding(api) if job.handle.state.accepted_at is not None]
        return len(accepted) == number

    until(has_them)
    server.faults.freeze()
    with quickly():
        thread.join(60.0)
    return found[0]


def asked(server: ComfyServer, method: str, path: str) -> int:
    """How many requests of a kind the server gets, as far as it knows when it is back."""
    server.faults.clear()
    with ComfyApi(server.comfyui_url) as other:
        other.poll_status(60.0)  # behind those that were waiting
    return sum(each.method == method and path in each.path for each in server.requests)


@pytest.mark.parametrize("call", ["map", "sweep"])
@pytest.mark.parametrize("number", [1, 8])
def test_prompts_under_way_on_a_silent_server_time_out_together(place, api, call, number) -> None:
    """One is cancelled in vain; the others are not asked for while the server is silent."""
    how = {"timeout": 2.0}  # longer than it takes to submit them
    errors = frozen_with(place, api, number, lambda: errors_of(api, call, number, **how))
    assert [type(error) for error in errors] == [JobTimeout] * number
    assert all("could not be cancelled, and may keep running" in str(error) for error in errors)
    assert asked(place, "POST", "/cancel") == 1


@pytest.mark.parametrize("call", ["map", "sweep"])
def test_prompts_for_a_silent_server_time_out_together(place, api, call) -> None:
    """The first gets no answer in its time; the others are not sent."""
    place.faults.freeze()
    with quickly():
        errors = errors_of(api, call, 6)
    unsent = [error for error in errors if "was not sent within 0.5 s" in str(error)]
    assert len(unsent) == 5
    assert {type(error) for error in unsent} == {JobTimeout}
    assert type(errors[0]) is (SubmitUncertain if isinstance(api, HostedApi) else JobTimeout)
    asked(place, "GET", "/")
    sent = [each for each in place.requests if each.method == "POST" and "cancel" not in each.path]
    assert len({each.body for each in sent if each.path.endswith(("/prompt", "/jobs"))}) == 1


def test_the_first_error_on_a_silent_server_ends_a_map(place, api) -> None:
    """The others are deleted, if the server is back within a moment."""
    prompts = ({COLOR: n} for n in range(1, 5))

    def run() -> BaseException:
        with pytest.raises(JobTimeout) as caught:
            list(api.map(GRAPH, prompts, timeout=2.0, progress=False))
        return caught.value

    assert "has not ended within 2 s" in str(frozen_with(place, api, 4, run))


@pytest.mark.timing(retry_cap=0.0)
def test_a_map_goes_on_once_a_silent_server_is_back(server) -> None:
    """It is asked before the next prompt is given up."""
    back = threading.Event()

    def prompts() -> Iterator[dict[str, int]]:
        yield {COLOR: 1}
        yield {COLOR: 2}
        back.wait(60.0)
        yield {COLOR: 3}

    with ComfyApi(server.url) as api:
        api.init()
        server.faults.freeze()
        results = api.map(
            GRAPH, prompts(), timeout=2.0, on_error="keep", in_flight=1, progress=False
        )
        assert [type(next(results)) for _ in range(2)] == [JobTimeout] * 2
        server.faults.clear()
        back.set()
        assert next(results).complete


def test_definitions_for_a_map_or_a_sweep_come_in_time(server) -> None:
    """A workflow in UI format needs them."""
    ui = WORKFLOWS / "txt2img_ui.json"
    with ComfyApi(server.url) as api:
        api.init()
        server.faults.freeze()
        with quickly():
            for call in (api.map, api.sweep):
                with pytest.raises(RequestTimeout):
                    call(ui, {"KSampler.seed": [1]} if call == api.sweep else [{}], timeout=0.3)


def test_a_journal_is_carried_on_in_time(server, tmp_path) -> None:
    """Even if the server says nothing of the prompts that it had."""
    server.script()
    journal = tmp_path / "journal"
    with ComfyApi(server.url) as api:
        errors_of(api, "sweep", 2, timeout=0.1, journal=journal)
        server.faults.freeze()
        with quickly(), pytest.raises(RequestTimeout):
            errors_of(api, "sweep", 3, timeout=1.0, journal=journal)


# -- what the transport knows of it -----------------------------------------------------------


def test_a_server_is_silent_from_the_first_request_without_an_answer_to_the_next_answer(
    server,
) -> None:
    """The report of a proxy that it is away is no answer; a refusal is one."""
    with opened(server.url) as http:
        http.json("GET", "/prompt")
        assert http.silence is None
        server.faults.freeze()
        for _ in range(2):
            with pytest.raises(RequestTimeout):
                http.request("POST", "/free", json={}, timeout=0.1)
        first, latest = http.silence
        assert first < latest
        server.faults.clear()
        server.faults.answer("GET", "/prompt", (502, {}, "away"), times=1)
        with pytest.raises(ApiError, match="502"):
            http.json("GET", "/prompt")
        assert http.silence.since == first
        with pytest.raises(ApiError):
            http.json("GET", "/history/x/y")
        assert http.silence is None


def test_a_request_that_began_before_an_answer_to_another_shows_no_silence() -> None:
    """A slow route says nothing of a server that answers others."""
    begun, may_end = threading.Event(), threading.Event()

    def serve(connection: Any) -> None:
        if b"/slow" in connection.recv(9999):
            begun.set()
            may_end.wait(60.0)  # and then nothing
        else:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    def ask(http: Http) -> None:
        with pytest.raises(Exception, match="slow"):
            http.request("POST", "/slow")

    with raw_server(serve) as port, opened(f"127.0.0.1:{port}") as http:
        thread = threading.Thread(target=ask, args=(http,))
        thread.start()
        assert begun.wait(60.0)
        http.request("GET", "/quick")
        may_end.set()
        thread.join(60.0)
        assert http.silence is None
