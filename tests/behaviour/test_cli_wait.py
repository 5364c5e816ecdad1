"""``comfy-client wait``: servers that are starting, and servers that will never be ready."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from comfy_client.testing import ComfyServer
from tests.helpers.command_line import LIMIT, CommandLine
from tests.helpers.long import few

NOWHERE = "http://127.0.0.1:1"
ELSEWHERE = "http://127.0.0.1:2"
STARTING = "<html><title>The server is starting</title></html>"


@pytest.fixture
def comfy_client(tmp_path: Path) -> CommandLine:
    """The command, for no server in particular."""
    return CommandLine(tmp_path)


def test_a_server_that_is_ready_is_not_waited_for(comfy_client):
    """Its version is printed."""
    with ComfyServer() as server:
        [found] = comfy_client.json("wait", "--host", server.url)
        assert found["host"] == server.url
        assert found["comfyui_version"]
        assert found["seconds"] >= 0
        text = comfy_client("wait", "--host", server.url)
        assert text.out == f"{server.url} is ready: ComfyUI {found['comfyui_version']}\n"
        assert text.err == ""


def test_the_command_waits_for_a_server_that_starts(comfy_client):
    """Stderr gives the reason, once."""
    with ComfyServer() as server:
        server.kill()
        with comfy_client.started("wait", "--host", server.url) as process:
            assert process.stderr is not None
            told = process.stderr.readline()
            assert "waiting for the server to come up" in told
            assert "connection refused" in told
            server.start()
            out, err = process.communicate(timeout=LIMIT)
        assert process.returncode == 0, err
        assert "waiting" not in err
        assert "is ready" in out


@pytest.mark.parametrize("status", [202, 429, 502, 527])
def test_a_proxy_that_says_the_server_is_away_is_asked_again(comfy_client, status):
    """Until the server behind it answers."""
    with ComfyServer() as server, server.faults.bad_gateway(status, times=2):
        ran = comfy_client("wait", "--host", server.url, "--timeout", LIMIT)
        assert ran.status == 0, ran
        assert f"waiting {LIMIT:g} s for the server to come up" in ran.err


@pytest.mark.parametrize("fault", ["freeze", "bad_gateway", "429", "page"])
def test_a_server_that_is_not_ready_in_time_is_status_7(comfy_client, fault):
    """The error names the reason."""
    with ComfyServer() as server:
        match fault:
            case "429":
                server.faults.answer("*", "*", (429, {}, {"error": "slow down"}))
            case "page":
                server.faults.answer("*", "*", (200, {"Content-Type": "text/html"}, STARTING))
            case _:
                getattr(server.faults, fault)()
        options = ("--host", server.url, "--timeout", 0.4)
        [error] = comfy_client.json("wait", *options, status=7)
        server.faults.clear()
    assert error["code"] == "timeout"
    assert error["message"].startswith(f"not ready within 0.4 s: GET {server.url}/api/prompt")


def test_a_server_that_is_not_there_in_time_is_status_7(comfy_client):
    """It may have been started too late."""
    [error] = comfy_client.json("wait", "--host", NOWHERE, "--timeout", 0.1, status=7)
    assert "connection refused" in error["message"]


def test_a_server_that_will_never_be_ready_is_not_waited_for(comfy_client):
    """Even if there is no timeout."""
    with ComfyServer(credentials="token") as server:
        [error] = comfy_client.json("wait", "--host", server.url, status=8)
        assert error["code"] == "authentication_error"
    with ComfyServer() as server, server.faults.login_page():
        [error] = comfy_client.json("wait", "--host", server.url, status=3)
        assert error["code"] == "unexpected_response"


def test_the_command_waits_for_each_of_several_servers(comfy_client):
    """A server that will never be ready does not hide the others."""
    with ComfyServer() as one, ComfyServer() as two:
        hosts = ("--host", one.url, "--host", two.url)
        found = comfy_client.json("wait", *hosts)
        assert [row["host"] for row in found] == [one.url, two.url]
        two.faults.login_page()
        first, error = comfy_client.json("wait", *hosts, status=3)
        assert first["host"] == one.url
        assert error["server"] == two.url
        text = comfy_client("wait", *hosts)
        assert text.lines == [f"{one.url} is ready: ComfyUI {first['comfyui_version']}"]
        assert text.err.startswith(f"Error: GET {two.url}/")


@pytest.mark.posix("signals between processes")
@pytest.mark.parametrize("hosts", few([[NOWHERE, ELSEWHERE], [NOWHERE]], 1), ids=len)
def test_ctrl_c_ends_the_waiting(comfy_client, hosts):
    """Immediately."""
    options = [part for host in hosts for part in ("--host", host)]
    with comfy_client.started("wait", *options) as process:
        assert process.stderr is not None
        for _ in hosts:
            assert "waiting for the server to come up" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=LIMIT)
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in err
