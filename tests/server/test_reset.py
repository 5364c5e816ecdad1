"""``server.reset()`` and ``POST /reset``: a running server returns to its start."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from comfy_client import ComfyApi, HostedApi, JobLost, Workflow
from comfy_client.testing import ComfyServer, HostedTraps
from tests.helpers.bare import LIMIT, ended, get, heard, post, submit, upload
from tests.helpers.control import call
from tests.helpers.graphs import picture, txt2img
from tests.helpers.work import lines
from tests.server.conftest import Dial


@pytest.fixture
def server() -> Iterator[ComfyServer]:
    with ComfyServer(control=True) as running:
        yield running


class Deaf:
    """A node that runs until ``go_on`` is set, and notices no interrupt."""

    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True
    begun, go_on = threading.Event(), threading.Event()

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {}}

    def run(self) -> dict[str, Any]:
        self.begun.set()
        self.go_on.wait(LIMIT)
        return {}


DEAF = {"1": {"class_type": "Deaf", "inputs": {}}}


def test_an_open_socket_gets_status_and_nothing_more_of_its_prompts(
    server: ComfyServer, dial: Dial
) -> None:
    """It stays open for those that come then, whose numbers begin with 0 again."""
    ws = dial()
    for _ in range(2):
        post(server, "/prompt", {"prompt": txt2img(steps=10_000), "client_id": "me"})
    heard(ws, "progress")
    server.reset()
    server.push({"type": "after it", "data": {}})
    names = heard(ws, "after it")
    assert names[-2] == "status"
    assert not {"execution_interrupted", "executing null"} & {*names}
    assert (server.running, server.pending, server.history) == ([], [], {})
    assert post(server, "/prompt", {"prompt": picture(), "client_id": "me"}).json()["number"] == 0
    assert heard(ws, "executing null")[:3] == ["status", "status", "execution_start"]


@pytest.mark.timing(silence=0.2, silence_cap=0.2, lost=0.2)
def test_the_job_of_a_client_is_lost(server: ComfyServer) -> None:
    with ComfyApi(server.url) as api:
        job = api.submit(txt2img(steps=10_000))
        server.until(lambda: server.running)
        server.reset()
        with pytest.raises(JobLost):
            job.result(timeout=LIMIT)
        assert api.run(Workflow.example()).images


def test_models_and_node_classes_can_be_kept(server: ComfyServer) -> None:
    (server.root / "models/loras/a.safetensors").touch()
    server.add_node(Deaf)
    upload(server, b"x")
    server.reset(keep={"models", "nodes"})
    assert get(server, "/models/loras").json() == ["a.safetensors"]
    assert "Deaf" in get(server, "/object_info").json()
    assert not (server.root / "input/a.png").exists()
    server.reset(keep=["models"])
    assert get(server, "/models/loras").json() == ["a.safetensors"]
    assert get(server, "/object_info/Deaf").json() == {}
    server.reset()
    assert get(server, "/models/loras").json() == []


@pytest.mark.parametrize("keep", ["models", ["model"], 5], ids=repr)
def test_keep_names_models_and_nodes_only(server: ComfyServer, keep: Any) -> None:
    with pytest.raises(ValueError, match="models and nodes"):
        server.reset(keep)
    assert call(server, "POST", "/reset", {"keep": keep})[0] == 400


def test_the_start_is_where_a_test_marks_it(server: ComfyServer) -> None:
    """Files, node classes and faults; by default those of the start itself."""
    upload(server, b"x")
    server.add_node(Deaf)
    fault = server.faults.bad_gateway(path="/queue", times=2)
    get(server, "/queue")
    server.mark_start()
    upload(server, b"y", "b.png")
    server.faults.no_history()
    assert [get(server, "/queue").status_code for _ in range(2)] == [502, 200]
    server.reset()
    assert [path.name for path in (server.root / "input").iterdir()] == ["a.png"]
    assert "Deaf" in get(server, "/object_info").json()
    assert (server.faults.active(), fault.hits) == ([fault], 0)
    assert [get(server, "/queue").status_code for _ in range(3)] == [502, 502, 200]


def test_files_and_faults_from_before_the_start_belong_to_it(tmp_path: Path) -> None:
    (tmp_path / "output").mkdir()
    for name in ("output/mine.png", "notes.txt"):
        (tmp_path / name).touch()
    server = ComfyServer(root=tmp_path)
    server.add_node(Deaf)
    server.faults.missing("GET", "/queue")
    with server:
        ended(server, submit(server))
        (tmp_path / "later.txt").touch()  # no folder of ComfyUI
        server.kill()
        server.reset()
        assert [path.name for path in (tmp_path / "output").iterdir()] == ["mine.png"]
        assert {"notes.txt", "later.txt"} <= {path.name for path in tmp_path.iterdir()}
        assert get(server, "/object_info/Deaf").json()
        assert get(server, "/queue").status_code == 404


def test_files_behind_links_are_left_alone(server: ComfyServer, tmp_path: Path) -> None:
    (tmp_path / "mine.safetensors").touch()
    loras = server.root / "models/loras"
    (loras / "linked").symlink_to(tmp_path)
    (loras / "one.safetensors").symlink_to(tmp_path / "mine.safetensors")
    (server.root / "output").rmdir()
    (server.root / "output").symlink_to(tmp_path)
    ended(server, submit(server))
    server.reset()
    assert [*loras.iterdir()] == []
    assert {path.name for path in tmp_path.iterdir()} == {"mine.safetensors", "a_00001_.png"}


def test_folders_that_a_test_deleted_are_there_again(server: ComfyServer) -> None:
    (server.root / "input").rmdir()
    server.reset()
    assert upload(server, b"x").status_code == 200


def test_a_killed_server_is_started_again_on_its_port(server: ComfyServer) -> None:
    port = server.port
    assert call(server, "POST", "/kill", {"seconds": 3600})[0] == 200
    assert call(server, "POST", "/reset") == (
        200,
        {"status": "ready", "url": server.url, "errors": []},
    )
    assert (server.port, get(server, "/queue").status_code) == (port, 200)


def test_a_server_that_does_not_run_cannot_be_reset() -> None:
    server = ComfyServer()
    with pytest.raises(RuntimeError, match="not running"):
        server.reset()
    with server:
        pass
    with pytest.raises(RuntimeError, match="not running"):
        server.reset()


def test_errors_are_raised_after_the_reset_and_told_over_http(server: ComfyServer) -> None:
    def fail(request: object) -> None:
        raise LookupError("of a handler")

    def failed() -> None:
        server.on("GET", "/queue", fail)
        with pytest.raises(requests.ConnectionError):
            get(server, "/queue")
        server.until(lambda: server.errors)

    failed()
    with pytest.raises(LookupError, match="of a handler"):
        server.reset()
    assert get(server, "/queue").status_code == 200
    failed()
    assert call(server, "POST", "/reset")[1]["errors"] == ["LookupError: of a handler"]
    assert server.errors == []


def test_numbers_of_requests_and_faults_begin_again_over_http(server: ComfyServer) -> None:
    for _ in range(2):
        get(server, "/queue")
        assert call(server, "POST", "/faults", {"name": "no_history"})[1]["id"] == "1"
        assert [r["id"] for r in call(server, "GET", "/requests")[1]["requests"]] == [1]
        assert call(server, "POST", "/reset")[0] == 200
        assert call(server, "GET", "/faults")[1] == {"faults": []}


def test_a_fault_that_was_to_end_later_ends_none_of_the_next_test(server: ComfyServer) -> None:
    """Though its id is the same."""
    call(server, "POST", "/faults", {"name": "no_history", "seconds": 0.05})
    call(server, "POST", "/reset")
    fault = server.faults.bad_gateway()
    call(server, "GET", "/faults")
    with pytest.raises(AssertionError, match="did not come true"):
        server.until(lambda: not fault.active, timeout=0.1)


@pytest.mark.long
def test_a_node_that_notices_no_interrupt_is_reported(server: ComfyServer) -> None:
    """After ten seconds; the next prompts do not wait for it."""
    server.add_node(Deaf)
    post(server, "/prompt", {"prompt": DEAF})
    assert Deaf.begun.wait(LIMIT)
    with pytest.raises(RuntimeError, match="still runs"):
        server.reset()
    ended(server, submit(server))
    Deaf.go_on.set()


def test_a_node_or_a_script_cannot_reset_its_own_server(server: ComfyServer) -> None:
    server.script(lambda _: server.reset())
    submit(server)
    server.until(lambda: server.errors)
    with pytest.raises(RuntimeError, match="cannot reset its own server"):
        server.reset()


def test_users_are_forgotten() -> None:
    with ComfyServer(multi_user=True) as server:
        post(server, "/users", {"username": "Ann"})
        server.reset()
        assert get(server, "/users").json()["users"] == {}


def test_a_hosted_surface_forgets_its_jobs_and_its_traps() -> None:
    traps = HostedTraps(v1_seconds=True)
    with ComfyServer(hosted="proxy", traps=traps) as server, HostedApi(server.url) as api:
        api.run(picture())
        server.gateway.traps = HostedTraps(upstream="down")
        server.reset()
        assert server.gateway.traps == traps
        assert get(server, "/api/v2/jobs").json()["jobs"] == []
        server.gateway.kill()
        server.reset()
        assert api.run(picture()).images


def test_a_replay_begins_again(server: ComfyServer, tmp_path: Path) -> None:
    path = tmp_path / "one.jsonl"
    with ComfyApi(server.url, record=path) as api:
        api.run(picture())
    with ComfyServer.replay(path) as other:
        for _ in range(2):
            with ComfyApi(other.url) as api:
                assert api.run(picture()).images
            other.reset()


def test_the_work_of_a_reset_does_not_grow_with_the_node_classes() -> None:
    """Nor does it begin anew what a start makes; ``python -m tests.bench`` tells its time."""
    with ComfyServer(object_info="0.28.1") as server:
        many = lines(server.reset)
        started = lines(lambda: (server.restart(), server.reset()))
    with ComfyServer() as server:
        few = lines(server.reset)
    assert many < 1.2 * few
    assert started > 5 * many
