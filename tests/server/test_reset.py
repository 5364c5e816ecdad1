"""``server.reset()`` and ``POST /reset``: a running server returns to its start."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from comfy_client import ComfyApi, HostedApi, JobLost, Workflow
from comfy_client.testing import ComfyServer, HostedTraps, check_interrupted, send_event
from tests.helpers.bare import (
    LIMIT,
    Socket,
    asking,
    ended,
    get,
    heard,
    post,
    raw,
    submit,
    upload,
)
from tests.helpers.control import call
from tests.helpers.graphs import picture, txt2img
from tests.helpers.patches import denied
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
    error: BaseException | None = None
    worker = threading.current_thread()

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {}}

    def run(self) -> dict[str, Any]:
        Deaf.worker = threading.current_thread()
        self.begun.set()
        self.go_on.wait(LIMIT)
        if self.error:
            raise self.error
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


WRONG = ["models", ["model"], 5, 0, "", False, [[]], [{}], [None], {"models": True}]


@pytest.mark.parametrize("keep", WRONG, ids=repr)
def test_keep_names_models_and_nodes_only(server: ComfyServer, keep: Any) -> None:
    """Errors are still to be told after a call that is refused."""
    server.errors.append(LookupError("of a handler"))
    with pytest.raises(ValueError, match="models and nodes"):
        server.reset(keep)
    status, answer = call(server, "POST", "/reset", {"keep": keep})
    assert (status, answer["error"]["type"]) == (400, "invalid")
    assert "keep is a list of models and nodes" in answer["error"]["message"]
    told = call(server, "POST", "/reset", {"keep": None})
    assert (told[0], told[1]["errors"]) == (200, ["LookupError: of a handler"])


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


def test_events_are_withheld_from_the_start_on_again() -> None:
    """Those of before the reset are forgotten, as all that was sent."""

    class Telling(Deaf):
        def run(self) -> dict[str, Any]:
            send_event("mine", told.pop())
            return {}

    told = [2, 1]
    server = ComfyServer()
    server.add_node(Telling)
    withheld = server.faults.withhold("mine")
    with server, Socket(server, "me") as ws:
        for number in (1, 2):
            graph = {"1": {"class_type": "Telling", "inputs": {}}}
            ended(server, post(server, "/prompt", {"prompt": graph}).json()["prompt_id"])
            server.until(lambda: withheld.hits == 1, LIMIT)
            if number == 1:
                server.reset()
                assert (server.faults.active(), withheld.hits) == ([withheld], 0)
        withheld.end()
        assert [one["data"] for one in ws.until("mine") if one["type"] == "mine"] == [2]


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


def test_a_folder_that_cannot_be_read_at_the_start_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if it can be read later.  The others are not, and the server starts."""
    for name in ("input/a/locked/mine.png", "output/mine.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    scan = os.scandir

    def locked(path: Any) -> Any:
        if os.fspath(path).endswith("locked"):
            raise denied(path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", locked)
    with ComfyServer(root=tmp_path) as server:
        ended(server, submit(server))
        server.reset()
        monkeypatch.undo()
        upload(server, b"x")
        (tmp_path / "input/a/locked/theirs.png").touch()
        server.reset()
        assert [path.name for path in (tmp_path / "output").iterdir()] == ["mine.png"]
        assert [path.name for path in (tmp_path / "input").iterdir()] == ["a"]
        locked_names = {path.name for path in (tmp_path / "input/a/locked").iterdir()}
        assert locked_names == {"mine.png", "theirs.png"}


def test_a_file_that_cannot_be_deleted_is_an_error_after_all_else(
    server: ComfyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlink = os.unlink

    def stuck(path: Any) -> None:
        if os.fspath(path).endswith("stuck.png"):
            raise denied(path)
        unlink(path)

    for name in ("a.png", "stuck.png", "z.png"):
        upload(server, b"x", name)
    ended(server, submit(server))
    monkeypatch.setattr(os, "unlink", stuck)
    with pytest.raises(PermissionError, match=r"stuck\.png"):
        server.reset()
    status, answer = call(server, "POST", "/reset")
    assert (status, answer["error"]["type"]) == (409, "not_possible_now")
    monkeypatch.undo()
    assert [path.name for path in (server.root / "input").iterdir()] == ["stuck.png"]
    assert server.history == {}
    ended(server, submit(server))
    server.reset()
    assert [*(server.root / "input").iterdir()] == []


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
def test_a_node_that_notices_no_interrupt_is_reported(server: ComfyServer, dial: Dial) -> None:
    """After ten seconds; the next prompts do not wait for it, and nobody hears how it ends.

    Nor does it end a step of theirs.
    """
    ws = dial()
    server.add_node(Deaf)
    post(server, "/prompt", {"prompt": DEAF, "client_id": "me"})
    assert Deaf.begun.wait(LIMIT)
    worker = Deaf.worker
    with pytest.raises(RuntimeError, match="still runs"):
        server.reset()
    ended(server, submit(server))
    server.pause()
    sampled = post(server, "/prompt", {"prompt": txt2img(steps=9)}).json()["prompt_id"]
    assert server.step(5) == 5
    Deaf.error = pytest.fail.Exception("too late")
    Deaf.go_on.set()
    worker.join(LIMIT)
    assert server.step() == 1
    assert [item[1] for item in server.running] == [sampled]
    server.push({"type": "after it", "data": {}})
    names = heard(ws, "after it")
    assert names.count("executing null") == 1
    assert "execution_error" not in names
    assert server.errors == []


def test_an_error_of_a_handler_from_before_a_reset_is_none_of_the_next_test(
    server: ComfyServer,
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    threads: list[threading.Thread] = []

    def late(request: object) -> None:
        threads.append(threading.current_thread())
        begun.set()
        go_on.wait(LIMIT)
        raise LookupError

    server.on("GET", "/queue", late)
    with raw(server, asking("/queue")):
        assert begun.wait(LIMIT)
        server.reset()
    go_on.set()
    threads[0].join(LIMIT)
    assert server.errors == []


def test_a_handler_of_a_route_may_reset_its_server(server: ComfyServer) -> None:
    done = threading.Event()

    def again(request: object) -> None:
        server.reset()
        done.set()

    server.on("GET", "/queue", again)
    with pytest.raises(requests.ConnectionError):
        get(server, "/queue")
    assert done.wait(LIMIT)
    assert (get(server, "/queue").status_code, server.errors) == (200, [])


def test_a_node_or_a_script_cannot_reset_its_own_server(server: ComfyServer) -> None:
    server.script(lambda _: server.reset())
    submit(server)
    server.until(lambda: server.errors)
    with pytest.raises(RuntimeError, match="cannot reset its own server"):
        server.reset()


def test_a_node_cannot_wait_for_the_reset_that_waits_for_it(server: ComfyServer) -> None:
    """It is told at once, whatever it calls, so that the reset goes on."""
    begun, told = threading.Event(), list[str]()

    class Calling(Deaf):
        def run(self) -> dict[str, Any]:
            begun.set()
            with contextlib.suppress(BaseException):
                while not time.sleep(0.005):
                    check_interrupted()
            for method in (server.reset, server.restart, server.kill, server.stop):
                try:
                    method()
                except RuntimeError as exc:
                    told.append(str(exc))
            return {}

    server.add_node(Calling)
    post(server, "/prompt", {"prompt": {"1": {"class_type": "Calling", "inputs": {}}}})
    assert begun.wait(LIMIT)
    server.reset()
    assert told == ["another thread stops or resets the server"] * 4
    ended(server, submit(server))


def functions_of(thread: threading.Thread) -> list[str]:
    """The functions that a thread is in."""
    frame = sys._current_frames().get(thread.ident or 0)
    return [one.f_code.co_name for one, _ in traceback.walk_stack(frame)] if frame else []


def test_a_crash_that_has_ended_does_not_follow_another_call(server: ComfyServer) -> None:
    """Though its time came while a reset waited for a node."""
    begun, go_on = threading.Event(), threading.Event()

    class Slow(Deaf):
        def run(self) -> dict[str, Any]:
            begun.set()
            go_on.wait(LIMIT)
            return {}

    server.add_node(Slow)
    post(server, "/prompt", {"prompt": {"1": {"class_type": "Slow", "inputs": {}}}})
    assert begun.wait(LIMIT)
    before = server.faults.no_history()
    resetting = threading.Thread(target=server.reset)
    resetting.start()
    server.until(lambda: not before.active, LIMIT)
    crash = server.faults.crash()
    [timer] = [one for one in threading.enumerate() if isinstance(one, threading.Timer)]
    server.until(lambda: "die" in functions_of(timer), LIMIT)
    crash.end()
    go_on.set()
    resetting.join(LIMIT)
    timer.join(LIMIT)
    assert get(server, "/queue").status_code == 200


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
