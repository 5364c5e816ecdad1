"""Each line of the table of exit statuses in the guide, by commands on a server with faults."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from comfy_client import ComfyApi
from comfy_client.testing import ComfyServer
from tests.behaviour.test_cli_errors import ASKING
from tests.conftest import load_workflow
from tests.helpers.clients import until
from tests.helpers.command_line import LIMIT, CommandLine

#: Statuses by which a proxy says that the server behind it is away.
GATEWAY = (502, 503, 504, *range(520, 528))
TOO_MANY = (429, {"Retry-After": "1"}, {"error": "slow down"})
UNKNOWN = "00000000-0000-4000-8000-000000000000"


class Failing:
    """A node that raises an exception."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {}})
    RETURN_TYPES = ()
    FUNCTION = "fail"
    OUTPUT_NODE = True

    def fail(self) -> None:
        raise ValueError("on purpose")


@pytest.fixture
def comfy_client(tmp_path: Path) -> CommandLine:
    """The command, in a folder with workflows."""
    graph = load_workflow("txt2img_tiny", ckpt_name="simulated.safetensors")
    (tmp_path / "w.json").write_text(json.dumps(graph))
    unknown = load_workflow("txt2img_tiny", ckpt_name="gone.safetensors")
    (tmp_path / "bad.json").write_text(json.dumps(unknown))
    failing = {"1": {"class_type": "Failing", "inputs": {}}}
    (tmp_path / "failing.json").write_text(json.dumps(failing))
    return CommandLine(tmp_path)


@pytest.fixture
def server() -> Any:
    """A server with a node that fails."""
    with ComfyServer() as server:
        server.add_node(Failing)
        yield server


def ended(comfy_client: CommandLine, server: ComfyServer, status: int, *args: object) -> Any:
    """Run a command with text and with JSON output, check both statuses, return the last object."""
    host = ("--host", server.url)
    text = comfy_client(*args, *host)
    assert text.status == status, text
    *_, last = comfy_client.json(*args, *host, status=status)
    if status != 0 and "exit" in last:
        assert text.err.splitlines()[-1].startswith(("Error: ", "Try: "))
        assert last["exit"] == status
    return last


# -- 0 to 2 -----------------------------------------------------------------------------


def test_0_is_done(comfy_client, server):
    """The workflow has run to its end."""
    assert ended(comfy_client, server, 0, "run", "w.json")["files"]


@pytest.mark.parametrize("status", [400, 413, 500, 501])
def test_1_is_a_lasting_refusal(comfy_client, server, status):
    """The same command will fail again."""
    with server.faults.answer("GET", "/system_stats", (status, {}, {"error": "no"})):
        assert not ended(comfy_client, server, 1, "info")["retryable"]


def test_1_is_a_folder_that_cannot_be_written(comfy_client, server):
    """Although the prompt has run."""
    with server.faults.missing("GET", "/view"):
        assert ended(comfy_client, server, 1, "run", "w.json", "--out", "out/")["code"]


def test_1_is_a_failed_check_of_the_doctor(comfy_client, server):
    """Its report is the last line."""
    with server.faults.bad_gateway():
        assert not ended(comfy_client, server, 1, "doctor")["ok"]


@pytest.mark.parametrize(
    "args",
    [
        ("run", "missing.json"),
        ("run", "w.json", "--set", "KSampler.stepz=1"),
        ("queue", "--nothing"),
        ("info", "--request-timeout", "soon"),
    ],
    ids=" ".join,
)
def test_2_is_wrong_usage(comfy_client, server, args):
    """Nothing is run."""
    assert ended(comfy_client, server, 2, *args)["code"] == "usage"
    assert not any(request.method == "POST" for request in server.requests)


# -- 3 ----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", GATEWAY)
def test_3_is_a_gateway_without_its_server(comfy_client, server, status):
    """A script that retries on 3 succeeds as soon as the server is back."""
    with server.faults.bad_gateway(status):
        error = ended(comfy_client, server, 3, "info")
    assert (error["code"], error["status"], error["retryable"]) == ("api_error", status, True)
    assert "later" in error["hint"]


@pytest.mark.parametrize("command", ASKING)
def test_3_is_a_gateway_without_its_server_for_every_command(comfy_client, server, command):
    """Whatever the command asks for."""
    with server.faults.bad_gateway():
        assert ended(comfy_client, server, 3, command, *ASKING[command])["retryable"]


@pytest.mark.timing(throttled=0.3)
def test_3_is_a_server_that_has_too_many_requests(comfy_client, server):
    """429, also for a prompt, which the server has not accepted then."""
    with server.faults.answer("GET", "/system_stats", TOO_MANY):
        assert ended(comfy_client, server, 3, "info")["retryable"]
    with server.faults.answer("POST", "/prompt", TOO_MANY):
        error = ended(comfy_client, server, 3, "run", "w.json")
    assert (error["status"], error["retryable"]) == (429, True)
    assert not server.ran


@pytest.mark.parametrize("fault", ["login_page", "redirect"])
def test_3_is_another_program_that_answers(comfy_client, server, fault):
    """A login page, for example; a retry does not help."""
    with getattr(server.faults, fault)():
        error = ended(comfy_client, server, 3, "info")
    assert (error["code"], error["retryable"]) == ("unexpected_response", False)


def test_3_is_a_server_that_is_not_there(comfy_client, server):
    """Nothing listens on its port, or the connection is cut."""
    with server.faults.cut("GET", "/system_stats"):
        assert ended(comfy_client, server, 3, "info")["code"] == "transport_error"
    server.kill()
    assert ended(comfy_client, server, 3, "info")["code"] == "server_unreachable"


# -- 4 to 130 ---------------------------------------------------------------------------


def test_4_is_a_workflow_that_the_server_rejects(comfy_client, server):
    """Or a workflow in which ``check`` or ``run --check`` finds errors."""
    assert ended(comfy_client, server, 4, "run", "bad.json")["code"] == "prompt_rejected"
    assert ended(comfy_client, server, 4, "run", "bad.json", "--check")["code"] == "workflow_error"
    assert not ended(comfy_client, server, 4, "check", "bad.json")["ok"]


def test_5_is_a_node_that_fails(comfy_client, server):
    """The message is that of the exception."""
    error = ended(comfy_client, server, 5, "run", "failing.json")
    assert (error["code"], error["exception_message"]) == ("job_failed", "on purpose")


@pytest.mark.parametrize("command", ["job", "cancel", "download"])
def test_6_is_a_prompt_that_the_server_does_not_know(comfy_client, server, command):
    """It is neither in the queue nor in the history."""
    ended(comfy_client, server, 6, command, UNKNOWN)


def test_6_is_a_prompt_that_a_gateway_may_have_passed_on(comfy_client, server):
    """A retry could run it twice, so the status is not 3."""
    with server.faults.bad_gateway(504, method="POST", path="/prompt"):
        [error] = comfy_client.json("run", "w.json", "--host", server.url, status=6)
    assert (error["code"], error["retryable"]) == ("submit_uncertain", False)


def test_7_is_a_server_that_does_not_answer(comfy_client, server):
    """Not within the timeout of a request."""
    with server.faults.delay("GET", "/system_stats"):
        error = ended(comfy_client, server, 7, "info", "--request-timeout", 0.3)
    assert (error["code"], error["retryable"]) == ("request_timeout", True)


def test_7_is_a_prompt_that_runs_longer_than_the_timeout(comfy_client, server):
    """It keeps running."""
    with server.faults.hang_worker():
        assert ended(comfy_client, server, 7, "run", "w.json", "--timeout", 0.3)["prompt_id"]


def test_8_is_a_server_that_refuses_the_credentials(comfy_client, server):
    """401 or 403."""
    for status in (401, 403):
        with server.faults.login_page(status):
            assert ended(comfy_client, server, 8, "info")["code"] == "authentication_error"


def test_130_is_a_prompt_that_somebody_stopped(comfy_client):
    """The status is the same as after Ctrl-C."""
    with ComfyServer(step_seconds=0.5) as server, ComfyApi(server.url) as api:
        args = ("run", "w.json", "--json", "--set", "KSampler.steps=1000", "--host", server.url)
        with comfy_client.started(*args) as process:
            [item] = until(lambda: api.get_queue().running)
            api.job(item.prompt_id).cancel()
            out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 130, (out, err)
    assert json.loads(out.splitlines()[-1])["code"] == "job_interrupted"
