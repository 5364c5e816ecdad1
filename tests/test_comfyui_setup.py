"""The real ComfyUI of the tests: found, set up, started, and gone with the test run."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import websocket

from comfy_client.testing import ComfyServer
from tests.comfy_api_proxy import ComfyApiProxy
from tests.comfyui import ComfyUI, _copy, _requirements, free_port, locked, python311
from tests.helpers.march_2024 import March2024
from tests.helpers.running_comfyui import Running, asked_version, tree_of
from tests.helpers.servers import add_test_content

Run = Callable[..., list[Any]]


def test_finds_a_python_311_whichever_runs_the_tests() -> None:
    """The environment of ComfyUI is of one Python always."""
    code = "import sys; print(sys.version_info[:2])"
    out = subprocess.run([python311(), "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "(3, 11)"


def test_says_what_is_missing_without_a_python_311(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One clear line where there is none."""
    monkeypatch.setattr(sys, "executable", "/bin/false")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    with pytest.raises(RuntimeError, match=r"needs Python 3\.11"):
        python311()


def test_reads_requirements_by_name() -> None:
    """Versions, extras, markers and comments do not belong to the name."""
    text = "# a\ntorch\nComfyUI-x==1.2 # why\n\nnumpy>=1.25\nkornia[x]~=0.7\npywin32; os_name=='nt'"
    assert list(_requirements(text)) == ["torch", "comfyui-x", "numpy", "kornia", "pywin32"]


def test_two_set_ups_wait_for_each_other(tmp_path: Path) -> None:
    """The second begins when the first has ended."""
    order: list[str] = []

    def second() -> None:
        with locked(tmp_path / "lock"):
            order.append("second")

    thread = threading.Thread(target=second)
    with locked(tmp_path / "lock"):
        thread.start()
        thread.join(0.1)
        order.append("first")
    thread.join(60)
    assert order == ["first", "second"]


def test_only_what_is_at_the_top_of_a_tree_is_left_out(tmp_path: Path) -> None:
    """Below it such names are ComfyUI's own packages."""
    tree, copy = tmp_path / "tree", tmp_path / "copy"
    for folder in ("input", "comfy_api/input", "comfy_api/output"):
        (tree / folder).mkdir(parents=True)
        (tree / folder / "a.py").touch()
    _copy(tree, copy, {"input", "output"})
    assert sorted(str(path.relative_to(copy)) for path in copy.rglob("*.py")) == [
        "comfy_api/input/a.py",
        "comfy_api/output/a.py",
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a port cannot be held for another")
def test_the_port_of_a_server_that_has_yet_to_start_is_given_to_nobody_else() -> None:
    """Only who names it, as servers do, may have it; until then it refuses connections."""
    port = free_port()
    with socket.socket() as client:
        assert client.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", port))
    with socket.create_server(("127.0.0.1", port)) as server, socket.socket() as client:
        client.connect(server.getsockname())


@pytest.mark.long
def test_any_comfyui_that_runs_can_be_tested() -> None:
    """Here the embedded one, like one that is newer than those that are set up."""
    with ComfyServer(version="0.28") as server:
        add_test_content(server)
        wanted = ("--real", f"--comfyui={server.url}", "-p", "no:cacheprovider")
        cases = (
            "test_a_normal_run or test_any_id_finds or test_system_stats or kept_in or large_file"
        )
        run = subprocess.run(
            [sys.executable, "-m", "pytest", *wanted, "tests/contract/test_routes.py", "-k", cases],
            cwd=Path(__file__).parents[1],
            capture_output=True,
            text=True,
        )
    assert run.returncode == 0, run.stdout
    assert re.search(r"\b1\d passed, 1 skipped", run.stdout), run.stdout


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_command_of_the_guide_keeps_the_tests_of_the_contract_only() -> None:
    """It names no file, so it meets parameters of any kind, as here those of pixels."""
    wanted = ("--real", "--comfyui=http://127.0.0.1:9", "-p", "no:cacheprovider")
    run = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", *wanted, "--collect-only", "-q"),
            *("tests/contract", "tests/behaviour/test_pixels.py", "tests/unit/test_pictures.py"),
        ],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-5000:]
    cases = [line for line in run.stdout.splitlines() if "::" in line]
    assert len(cases) > 500
    assert not [line for line in cases if not line.startswith("tests/contract/")]


@pytest.mark.parametrize(
    ("told", "known_as"),
    [("0.3.64", "0.3.64"), ("v0.3.10-4-gabc", "0.3.10"), ("unknown", "2024-12")],
)
def test_a_server_that_does_not_say_its_version_is_known_by_what_it_has(
    comfy: ComfyServer, told: str, known_as: str
) -> None:
    """As those of 2024."""
    comfy.on("GET", "/system_stats", (200, {}, {"system": {"comfyui_version": told}}))
    assert asked_version(comfy.url) == known_as


def test_the_oldest_servers_are_known_by_what_they_lack() -> None:
    """Nothing below ``/api``."""
    with March2024() as server:
        assert asked_version(server.url) == "2024-03"


def test_a_value_that_is_neither_url_nor_tree_is_a_usage_error(tmp_path: Path) -> None:
    """Before anything is started."""
    with pytest.raises(pytest.UsageError, match="neither a URL nor a source tree"):
        tree_of(str(tmp_path))
    with pytest.raises(pytest.UsageError, match="ssh -L"):
        Running("http://gpu-box:8188")


@pytest.fixture
def run(comfyui: ComfyUI, workflow: Callable[..., dict[str, Any]]) -> Iterator[Run]:
    """Runs a workflow of the test nodes; gives all messages up to its end, then its history."""
    address = comfyui.url.replace("http", "ws")
    ws = websocket.create_connection(f"{address}/ws?clientId=infra", timeout=30)

    def submit(name: str, interrupt: bool = False, **inputs: Any) -> list[Any]:
        body = {"prompt": workflow(name, **inputs), "client_id": "infra"}
        answer = requests.post(f"{comfyui.url}/prompt", json=body, timeout=30).json()
        messages: list[Any] = []
        while True:
            data = ws.recv()
            messages.append(json.loads(data) if isinstance(data, str) else data)
            if not isinstance(data, str):
                continue
            if interrupt and messages[-1]["type"] == "progress":
                requests.post(f"{comfyui.url}/interrupt", timeout=30)
            if messages[-1]["type"] == "executing" and messages[-1]["data"]["node"] is None:
                break
        url = f"{comfyui.url}/history/{answer['prompt_id']}"
        return [*messages, requests.get(url, timeout=30).json()[answer["prompt_id"]]]

    yield submit
    ws.close()


def of_type(messages: list[Any], name: str) -> list[Any]:
    return [m["data"] for m in messages if isinstance(m, dict) and m.get("type") == name]


@pytest.mark.real
def test_sleep_ticks_and_is_never_cached(run: Run) -> None:
    """One progress message a tick, a text output, and no shortcut the second time."""
    for _ in range(2):
        *messages, entry = run("sleep", seconds=0.2, ticks=4)
        assert [d["value"] for d in of_type(messages, "progress")] == [1, 2, 3, 4]
        assert entry["outputs"] == {"1": {"text": ["slept"]}}


@pytest.mark.real
def test_sleep_can_be_interrupted(run: Run) -> None:
    """Long before its time."""
    start = time.monotonic()
    *messages, entry = run("sleep", interrupt=True, seconds=100.0, ticks=1000)
    assert of_type(messages, "execution_interrupted")
    assert entry["status"]["completed"] is False
    assert time.monotonic() - start < 60


@pytest.mark.real
def test_fail_raises(run: Run) -> None:
    """With the text that it was given."""
    *messages, _ = run("fail", message="out of luck")
    (error,) = of_type(messages, "execution_error")
    assert (error["node_id"], error["exception_type"]) == ("2", "ValueError")
    assert error["exception_message"].startswith("out of luck")


@pytest.mark.real
def test_odd_messages(run: Run) -> None:
    """Progress text (binary 3), an event of any name, and a block that is told."""
    *messages, _ = run("progress_text", text="half way")
    assert b"\0\0\0\3\0\0\0\1" + b"1half way" in messages
    *messages, _ = run("custom_event", event="my.event", data='{"answer": 42}')
    assert of_type(messages, "my.event") == [{"answer": 42}]
    *messages, entry = run("blocked", message="not today")
    (error,) = of_type(messages, "execution_error")
    assert error["exception_type"] == "ExecutionBlocked"
    assert error["exception_message"].startswith("Execution Blocked: not today")
    assert entry["outputs"] == {"3": {"text": ["ran"]}}
    assert entry["status"]["completed"] is True


@pytest.mark.real
def test_server_lives_in_a_folder_of_its_own(comfyui: ComfyUI) -> None:
    """Files that the server names lie below ``root``."""
    folders = requests.get(f"{comfyui.url}/internal/folder_paths", timeout=30).json()
    root = os.path.realpath(comfyui.root)
    assert folders["checkpoints"][0] == os.path.join(root, "models", "checkpoints")
    assert (comfyui.root / "input" / "testbed.png").exists()


@pytest.mark.real
def test_server_dies_with_a_run_that_is_killed() -> None:
    """Also by SIGKILL, and its folder is removed."""
    code = (
        "from tests.comfyui import ComfyUI\n"
        "server = ComfyUI().__enter__()\n"
        "print(server.port, server.root, flush=True)\n"
        "input()\n"
    )
    top = Path(__file__).resolve().parent.parent
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(top)},
    ) as parent:
        assert parent.stdout is not None
        port, _, root = parent.stdout.readline().strip().partition(" ")
        parent.send_signal(signal.SIGKILL)
    end = time.monotonic() + 60
    while Path(root).parent.exists() or _listens(int(port)):
        assert time.monotonic() < end, "the server outlived its test run"
        time.sleep(0.05)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.real
def test_server_can_be_killed_and_started_again(comfyui: ComfyUI) -> None:
    """On the same port, with other options for one start."""
    comfyui.kill()
    assert comfyui.pid is None
    comfyui.start("--multi-user")
    assert "users" in requests.get(f"{comfyui.url}/users", timeout=30).json()
    comfyui.restart()
    assert "users" not in requests.get(f"{comfyui.url}/users", timeout=30).json()


@pytest.mark.real
def test_the_proxy_of_comfy_api_v2_keeps_its_port_and_with_a_folder_its_keys(
    comfyui: ComfyUI, tmp_path: Path
) -> None:
    """Killed and started again; its memory is all that it has without that folder."""

    def claims(proxy: ComfyApiProxy) -> int:
        headers = {"Authorization": "Bearer a token", "Idempotency-Key": "a key"}
        body = {"workflow": {"1": {"class_type": "TestSleepOutput", "inputs": inputs}}}
        url = f"{proxy.url}/api/v2/jobs"
        return requests.post(url, json=body, headers=headers, timeout=60).status_code

    inputs = {"seconds": 0.0, "ticks": 1}
    for folder, then in ((tmp_path, 422), (None, 201)):
        with ComfyApiProxy(comfyui.url, token="a token", state_dir=folder) as proxy:
            url = proxy.url
            assert claims(proxy) == 201
            proxy.kill()
            assert proxy.pid is None
            assert proxy.start().url == url
            assert claims(proxy) == then
            assert requests.get(f"{url}/api/v2/jobs", timeout=60).status_code == 401
