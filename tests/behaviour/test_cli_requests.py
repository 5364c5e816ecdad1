"""Options for the requests of a command: time limits, logging and recording."""

from __future__ import annotations

import json
import logging
import math
import os
import stat
import sys
import threading
from pathlib import Path

import pytest
from tqdm import tqdm

from comfy_client import ComfyApi, Workflow
from comfy_client.cli.printing import plain_logs
from comfy_client.cli.server_options import REQUEST_LIMIT, RUN_LIMIT, ServerOptions
from comfy_client.testing import ComfyServer
from comfy_client.transport.deadline import read_timeout
from tests.behaviour.test_cli_errors import ASKING
from tests.conftest import load_workflow
from tests.helpers.command_line import CommandLine

#: A limit for what would take forever without one.
SHORT = "0.3"


@pytest.fixture
def comfy_client(tmp_path: Path) -> CommandLine:
    """The command, in a folder with a workflow."""
    graph = load_workflow("txt2img_tiny", ckpt_name="simulated.safetensors")
    (tmp_path / "w.json").write_text(json.dumps(graph))
    return CommandLine(tmp_path)


# -- how long ---------------------------------------------------------------------------


@pytest.mark.parametrize("command", ASKING)
def test_a_command_with_a_frozen_server_ends_after_the_request_timeout(comfy_client, command):
    """The exit status is 7, with advice."""
    with ComfyServer() as server, server.faults.freeze():
        options = ("--host", server.url, "--request-timeout", SHORT)
        [error] = comfy_client.json(command, *ASKING[command], *options, status=7)
        assert error["code"] == "request_timeout"
        assert "--request-timeout" in error["hint"]


@pytest.mark.parametrize("command", ["run", "sweep"])
def test_a_command_with_several_frozen_servers_ends_after_one_timeout(comfy_client, command):
    """The first server's error is printed last."""
    with ComfyServer() as one, ComfyServer() as two, one.faults.freeze(), two.faults.freeze():
        hosts = ("--host", one.url, "--host", two.url, "--request-timeout", SHORT)
        [error] = comfy_client.json(command, *ASKING[command], *hosts, status=7)
        assert error["code"] == "request_timeout"


@pytest.mark.parametrize("command", [["stubs"], ["convert", "ui.json"]], ids=" ".join)
def test_a_frozen_server_asked_for_node_definitions_ends_a_command_in_time(comfy_client, command):
    """Some commands ask a server for nothing else."""
    (comfy_client.home / "ui.json").write_text(json.dumps(load_workflow("txt2img_ui")))
    with ComfyServer() as server, server.faults.freeze():
        ran = comfy_client(*command, "--host", server.url, "--request-timeout", SHORT)
        assert ran.status == 7, ran


def test_the_limit_also_applies_to_requests_with_a_longer_default():
    """Requests for all node definitions have one, for example."""
    given = ServerOptions(hosts=("http://a",), request_timeout=2.0)
    for made in (given.client(), given.clients()):
        with made:
            assert read_timeout.get() == 2.0
        assert read_timeout.get() == math.inf
    with ServerOptions(hosts=("http://a",)).client():
        assert read_timeout.get() == math.inf


def test_a_demo_on_a_frozen_server_ends_too(comfy_client):
    """It connects as ``with ComfyApi(...)`` does."""
    with ComfyServer() as server, server.faults.freeze():
        ran = comfy_client("--request-timeout", SHORT, "demo", "--host", server.url)
        assert ran.status == 7, ran


def test_without_the_option_requests_have_a_limit_too():
    """Commands that run prompts are more patient."""
    options = ServerOptions(hosts=("http://a", "http://b"))
    with options.clients() as several:
        assert [api.parts.http.total_timeout for api in several] == [REQUEST_LIMIT] * 2
    with ServerOptions(hosts=("http://a",)).client(RUN_LIMIT) as api:
        assert api.parts.http.total_timeout == RUN_LIMIT
        assert api.parts.http.connect_timeout == 5.0
    given = ServerOptions(hosts=("http://a",), request_timeout=2.0)
    with given.client(RUN_LIMIT) as api:
        assert (api.parts.http.total_timeout, api.parts.http.connect_timeout) == (2.0, 2.0)
        assert given.answer_limit == 2.0


@pytest.mark.parametrize(
    "command", [["nodes"], ["stubs"], ["check", "w.json"], ["convert", "ui.json"]], ids=" ".join
)
def test_a_short_request_precedes_that_for_all_node_definitions(comfy_client, command):
    """A busy server may take minutes for the definitions; a frozen one never answers."""
    (comfy_client.home / "ui.json").write_text(json.dumps(load_workflow("txt2img_ui")))
    with ComfyServer() as server:
        ran = comfy_client(*command, "--host", server.url)
        assert ran.status in (0, 4), ran
        assert server.requests[0].path == "/prompt"
        assert any("/object_info" in request.path for request in server.requests)


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "soon"])
def test_an_invalid_limit_is_wrong_usage(comfy_client, seconds):
    """Nothing is sent."""
    [error] = comfy_client.json("info", "--request-timeout", seconds, status=2)
    assert "--request-timeout" in error["message"]


# -- what is said -----------------------------------------------------------------------


def test_verbose_logs_prompts_and_given_twice_also_requests(comfy_client):
    """On stderr, for the option before and after the command; stdout stays the same."""
    before = logging.getLogger("comfy_client").level
    with ComfyServer() as server:
        host = ("--host", server.url)
        quiet = comfy_client("run", "w.json", "-q", *host)
        assert quiet.err == ""
        for args in (("-v", "run", "w.json"), ("run", "w.json", "-v")):
            once = comfy_client(*args, "-q", *host)
            assert ": submitted" in once.err
            assert "GET /api/prompt" not in once.err
            assert len(once.lines) == len(quiet.lines)
        for args in (("-v", "run", "w.json", "-v"), ("run", "w.json", "-vv")):
            twice = comfy_client(*args, "-q", *host)
            assert ": submitted" in twice.err
            assert f" {server.url} GET /api/prompt: 200" in twice.err
        assert comfy_client("run", "w.json", "-q", *host).err == ""  # it does not last
        assert logging.getLogger("comfy_client").level == before


def test_a_log_line_does_not_break_a_progress_bar(capsys):
    """The bar is cleared first, and drawn again below the line."""
    with plain_logs(), tqdm(total=4, file=sys.stderr) as bar:
        bar.update(2)
        logging.getLogger("comfy_client").warning("the server is away")
        bar.update(2)
    drawn, _, again = capsys.readouterr().err.partition("the server is away\n")
    assert "0/4" in drawn
    assert drawn.endswith(" \r")  # spaces over the bar
    assert "2/4" in again


def test_a_log_line_needs_no_lock_of_bars_while_there_is_none():
    """A Ctrl-C in tqdm may have left its lock to the main thread."""
    warned = threading.Thread(target=logging.getLogger("comfy_client").warning, args=["a line"])
    tqdm._instances.clear()  # bars that other tests have dropped
    with plain_logs(), tqdm.get_lock():
        warned.start()
        warned.join(60)
        assert not warned.is_alive()


def test_verbose_output_contains_no_secrets(comfy_client):
    """Nor does a recording."""
    with ComfyServer(credentials=("me", "geheim")) as server:
        env = {"COMFYUI_HOST": server.url, "COMFYUI_LOGIN": "me:geheim"}
        ran = comfy_client("run", "w.json", "-vv", "--record", "r.jsonl", **env)
        assert ran.status == 0, ran
        assert "POST /api/prompt: 200" in ran.err
        recorded = (comfy_client.home / "r.jsonl").read_text()
        for text in (ran.out, ran.err, recorded):
            assert "geheim" not in text
            assert "bWU6Z2VoZWlt" not in text  # the same in base64


# -- what is recorded -------------------------------------------------------------------


def test_a_recorded_run_can_be_replayed(comfy_client):
    """Only the owner may read the file."""
    with ComfyServer() as server:
        ran = comfy_client("--record", "r.jsonl", "run", "w.json", "--host", server.url)
        assert ran.status == 0, ran
    path = comfy_client.home / "r.jsonl"
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with ComfyServer.replay(path) as server, ComfyApi(server.url) as api:
        assert api.run(Workflow.load(comfy_client.home / "w.json")).images


@pytest.mark.parametrize("command", ASKING)
def test_every_command_records(comfy_client, command):
    """Commands that fail, too."""
    with ComfyServer() as server, server.faults.bad_gateway():
        ran = comfy_client(command, *ASKING[command], "--host", server.url, "--record", "r.jsonl")
        assert ran.status == 3, ran
    lines = map(json.loads, (comfy_client.home / "r.jsonl").read_text().splitlines())
    assert any(line["kind"] == "http" and line["status"] == 502 for line in lines)


def test_each_of_several_servers_has_its_own_recording(comfy_client):
    """The file is named after the server."""
    with ComfyServer() as one, ComfyServer() as two:
        hosts = ("--host", one.url, "--host", two.url)
        ran = comfy_client("run", "w.json", *hosts, "--record", "r.jsonl")
        assert ran.status == 0, ran
        for server in (one, two):
            place = server.url.removeprefix("http://").replace(":", "_")
            assert "/prompt" in (comfy_client.home / f"r.{place}.jsonl").read_text()


@pytest.mark.parametrize(
    ("path", "words"), [("w.json", "it exists already"), ("no/r.jsonl", "cannot record there")]
)
def test_a_recording_that_cannot_be_made_is_wrong_usage(comfy_client, path, words):
    """An existing file is not overwritten."""
    before = (comfy_client.home / "w.json").read_text()
    [error] = comfy_client.json("info", "--host", "http://127.0.0.1:1", "--record", path, status=2)
    assert error["message"].startswith("--record: ")
    assert words in error["message"]
    assert (comfy_client.home / "w.json").read_text() == before
