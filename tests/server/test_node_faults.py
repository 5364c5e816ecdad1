"""Faults of single nodes, of the device that they run on, and crashes."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jsonschema
import pytest

from comfy_client import ComfyApi, JobFailed, JobLost, VramTimeout
from comfy_client.testing import ComfyServer
from tests.helpers.bare import LIMIT, heard, submit
from tests.helpers.control import call
from tests.helpers.graphs import picture, txt2img
from tests.server.conftest import Dial

GIB = 2**30


@pytest.fixture
def server() -> Iterator[ComfyServer]:
    with ComfyServer(control=True) as running:
        yield running


# -- nodes that fail ------------------------------------------------------------------------


def test_node_fails_by_its_class(server: ComfyServer, api: ComfyApi) -> None:
    """As an error of the node itself: nodes before it have run, those behind it have not."""
    fault = server.faults.node_fails("VAEDecode", "safetensors.SafetensorError", "bad header")
    with pytest.raises(JobFailed) as caught:
        api.run(txt2img(), timeout=LIMIT)
    assert caught.value.node_id == "8"
    server.until(lambda: server.history)  # it follows the end event
    [entry] = server.history.values()
    name, error = entry["status"]["messages"][-1]
    assert (name, error["node_type"]) == ("execution_error", "VAEDecode")
    assert error["exception_type"] == "safetensors.SafetensorError"
    assert error["exception_message"] == "bad header\n"
    assert {"3", "4", "5"} <= set(error["executed"])
    assert "9" not in error["executed"]
    assert fault.hits == 1


def test_node_fails_by_its_id_as_often_as_told(server: ComfyServer, api: ComfyApi) -> None:
    server.faults.node_fails("9", "ValueError", times=1)
    with pytest.raises(JobFailed, match="simulated failure") as caught:
        api.run(picture(), timeout=LIMIT)
    assert caught.value.exception_type == "ValueError"
    assert api.run(picture(), timeout=LIMIT).images
    assert not server.faults.active()


def test_cached_outputs_do_not_count_while_a_node_has_a_fault(
    server: ComfyServer, api: ComfyApi
) -> None:
    api.run(txt2img(), timeout=LIMIT)
    with server.faults.node_fails("CLIPTextEncode"), pytest.raises(JobFailed):
        api.run(txt2img(), timeout=LIMIT)
    assert api.run(txt2img(), timeout=LIMIT).images


def test_out_of_memory_is_what_the_client_takes_it_for(server: ComfyServer, api: ComfyApi) -> None:
    """``retry_oom`` runs the prompt once more."""
    server.faults.vram(GIB, 8 * GIB)
    server.faults.out_of_memory("KSampler")
    with pytest.raises(JobFailed, match=r"CUDA out of memory.*8\.00 GiB.*1\.00 GiB") as caught:
        api.run(txt2img(), timeout=LIMIT)
    assert caught.value.is_oom
    assert caught.value.exception_type == "torch.OutOfMemoryError"
    server.faults.clear()
    server.faults.out_of_memory("3", times=1)
    assert api.run(txt2img(), retry_oom=True, timeout=LIMIT).images
    wanted = ["error", "error", "success"]
    server.until(lambda: [ran.status for ran in server.ran] == wanted)


def test_slow_node_takes_longer_and_can_be_interrupted(server: ComfyServer, dial: Dial) -> None:
    ws = dial()
    start = time.monotonic()
    with server.faults.slow_node("EmptyImage", 0.3):
        submit(server)
        heard(ws, "executing null")
    assert time.monotonic() - start >= 0.3
    with server.faults.slow_node("1", 60.0) as slow:
        submit(server)
        server.until(lambda: slow.hits)
        call_to_interrupt(server)
        assert "execution_interrupted" in heard(ws, "executing null")
    assert time.monotonic() - start < LIMIT


def call_to_interrupt(server: ComfyServer) -> None:
    with ComfyApi(server.url) as api:
        api.interrupt(server.ran[-1].prompt_id)


@pytest.mark.parametrize(
    ("node", "kind", "message"),
    [("", "E", ""), (5, "E", ""), ("3", "not a name", ""), ("3", "a..b", ""), ("3", "E", 5)],
)
def test_node_fails_needs_a_node_a_name_and_a_text(
    server: ComfyServer, node: str, kind: str, message: str
) -> None:
    with pytest.raises(ValueError, match="is"):
        server.faults.node_fails(node, kind, message)


# -- memory and crashes ---------------------------------------------------------------------


def test_vram_is_what_wait_for_vram_waits_for(server: ComfyServer, api: ComfyApi) -> None:
    with server.faults.vram(GIB, 8 * GIB) as fault:
        with pytest.raises(VramTimeout):
            api.wait_for_vram(2 * GIB, 0.2)
        server.faults.vram(3 * GIB)
        device = api.wait_for_vram(2 * GIB, LIMIT)
        assert (device.type, device.vram_free, device.vram_total) == ("cuda", 3 * GIB, 16 * GIB)
        assert fault.hits
    server.faults.clear()
    assert api.get_system_stats().devices[0].type == "cpu"
    with pytest.raises(ValueError, match="total must be"):
        server.faults.vram(2, 1)


def test_crash_ends_the_server_after_some_seconds_as_a_killed_process_ends(
    server: ComfyServer, api: ComfyApi, dial: Dial
) -> None:
    """Sockets are reset, the port refuses, no file is written; it comes back without the prompt."""
    ws = dial()
    server.faults.slow_node("SaveImage", 60.0)
    job = api.submit(picture())
    server.until(lambda: server.ran)
    root, port = server.root, server.port
    fault = server.faults.crash(0.05)
    with pytest.raises(ConnectionResetError):
        heard(ws, "never")
    server.until(lambda: not fault.active and refuses(server))
    assert list((root / "output").rglob("*.png")) == []
    server.start()
    assert server.port == port
    assert server.history == {}
    assert isinstance(job.exception(timeout=LIMIT), JobLost)


def test_crash_that_has_been_ended_does_not_come(server: ComfyServer) -> None:
    """Nor does one that was for the life before this one."""
    server.faults.crash(0.3).end()
    server.faults.crash(0.3)
    server.restart()
    start = time.monotonic()
    server.until(lambda: time.monotonic() - start > 0.4)
    assert not refuses(server)


def refuses(server: ComfyServer) -> bool:
    try:
        socket.create_connection(("127.0.0.1", server.port), LIMIT).close()
    except OSError:
        return True
    return False


# -- over HTTP ------------------------------------------------------------------------------


def test_faults_of_nodes_are_in_the_catalogue_and_work_over_http(
    server: ComfyServer, api: ComfyApi
) -> None:
    listed = {one["name"]: one for one in call(server, "GET", "/faults/catalogue")[1]["faults"]}
    assert listed["node_fails"]["args"]["required"] == ["node"]
    assert listed["vram"]["args"]["properties"]["total"]["type"] == ["integer", "null"]
    wanted = (
        ("node_fails", {"node": "KSampler", "exception_type": "KeyError", "message": "no"}),
        ("out_of_memory", {"node": "8"}),
        ("slow_node", {"node": "4", "seconds": 0.01}),
    )
    for name, args in wanted:
        assert listed[name]["times"]
        made = call(server, "POST", "/faults", {"name": name, "args": args, "times": 1})
        assert made[0] == 201, made
    memory = {"name": "vram", "args": {"free": GIB}}
    assert call(server, "POST", "/faults", memory)[0] == 201
    kinds = []
    for _ in range(2):
        with pytest.raises(JobFailed) as caught:
            api.run(txt2img(), timeout=LIMIT)
        kinds.append(caught.value.exception_type)
    assert kinds == ["KeyError", "torch.OutOfMemoryError"]
    assert api.run(txt2img(), timeout=LIMIT).images
    assert [fault.name for fault in server.faults.active()] == ["vram"]


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("node_fails", {"node": "1"}),
        ("out_of_memory", {"node": "1"}),
        ("slow_node", {"node": "1", "seconds": 60}),
        ("vram", {"free": 1}),
        ("crash", {"after": 60}),
        ("stop_reading", {"path": "/upload/*", "after": 1}),
    ],
)
def test_new_faults_end_after_their_seconds_over_http(
    server: ComfyServer, name: str, args: dict[str, Any]
) -> None:
    """Wrong arguments are refused, and so are those that their schemas do not allow."""
    listed = {one["name"]: one for one in call(server, "GET", "/faults/catalogue")[1]["faults"]}
    jsonschema.validate(args, listed[name]["args"])
    wrong = {**args, "other": 1}
    assert call(server, "POST", "/faults", {"name": name, "args": wrong})[0] == 400
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, listed[name]["args"])
    data = {"name": name, "args": args, "seconds": 0.05}
    assert call(server, "POST", "/faults", data)[0] == 201
    server.until(lambda: not server.faults.active())
    assert call(server, "GET", "/health")[0] == 200


def test_a_crash_over_http_lasts_until_the_server_is_started_again(server: ComfyServer) -> None:
    for path in ("/start", "/restart"):
        port = server.port
        crash = {"name": "crash", "args": {"after": 0.01}}
        assert call(server, "POST", "/faults", crash)[0] == 201
        server.until(lambda: call(server, "GET", "/health")[0] == 503)
        assert call(server, "POST", path)[0] == 200
        assert (server.port, refuses(server)) == (port, False)


def test_stop_reading_over_http_holds_as_many_uploads_as_told(server: ComfyServer) -> None:
    data = {"name": "stop_reading", "args": {"path": "/prompt"}, "times": 1}
    assert call(server, "POST", "/faults", data)[0] == 201
    with ThreadPoolExecutor() as pool:
        unread = pool.submit(submit, server)
        server.until(lambda: not server.faults.active())
        submit(server)
        assert not unread.done()
        assert call(server, "DELETE", "/faults/1") == (200, {"hits": 1})
        assert unread.result(LIMIT)
