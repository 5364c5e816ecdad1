"""How commands end when something is wrong: exit status, words, JSON."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import FrameType, ModuleType, SimpleNamespace

import pytest

from comfy_client import ClientClosed, ComfyApi, JobLost, JobTimeout, SubmitUncertain
from comfy_client.__main__ import main as start
from comfy_client.cli.exits import Exit, error_object
from comfy_client.cli.main import main
from comfy_client.cli.printing import report
from comfy_client.cli.results import wait_for
from comfy_client.jobs.job import cancel_in_time
from comfy_client.showing.screen import surface
from comfy_client.testing import ComfyServer
from tests.conftest import load_workflow
from tests.helpers.clients import until
from tests.helpers.command_line import COMMAND, LIMIT, CommandLine, commands_in_schema, lines_of
from tests.helpers.long import few

NOWHERE = "http://127.0.0.1:1"
#: Every command that asks a server, with arguments that it takes.
ASKING = {
    "run": ["w.json"],
    "rerun": ["00000000-0000-4000-8000-000000000000"],
    "sweep": ["w.json", "--axis", "KSampler.seed=1,2"],
    "check": ["w.json"],
    "watch": [],
    "queue": [],
    "history": [],
    "job": ["00000000-0000-4000-8000-000000000000"],
    "cancel": ["00000000-0000-4000-8000-000000000000"],
    "download": ["00000000-0000-4000-8000-000000000000"],
    "info": [],
    "packs": [],
    "snapshot": [],
    "restart": [],
    "models": [],
    "nodes": [],
    "upload": ["w.json"],
    "free": [],
    "logs": [],
    "api": ["/queue"],
    "object-info": [],
}


@pytest.fixture
def comfy_client(tmp_path: Path) -> CommandLine:
    """The command, in a folder with a workflow."""
    graph = load_workflow("txt2img_tiny", ckpt_name="simulated.safetensors")
    (tmp_path / "w.json").write_text(json.dumps(graph))
    return CommandLine(tmp_path)


@pytest.mark.parametrize("command", ASKING)
def test_a_server_that_is_down_is_status_3(comfy_client, command):
    """At once."""
    [error] = comfy_client.json(command, *ASKING[command], "--host", NOWHERE, status=3)
    assert error["code"] == "server_unreachable"
    assert "comfy-client doctor" in error["hint"]


@pytest.mark.parametrize("command", ASKING)
def test_wrong_credentials_are_status_8(comfy_client, command):
    """With what to set."""
    with ComfyServer(credentials=("me", "pass")) as server:
        options = ("--host", server.url)
        for env in ({}, {"COMFYUI_LOGIN": "me:wrong"}):
            [error] = comfy_client.json(command, *ASKING[command], *options, status=8, **env)
            assert error["code"] == "authentication_error"
            assert "COMFYUI_LOGIN" in error["hint"]


def test_logs_that_are_followed_name_what_keeps_them_away(comfy_client):
    """And not that there is no socket."""
    [error] = comfy_client.json("logs", "--follow", "--host", NOWHERE, status=3)
    assert error["code"] == "server_unreachable"
    with ComfyServer(credentials="token") as server:
        [error] = comfy_client.json("logs", "--follow", "--host", server.url, status=8)
        assert error["code"] == "authentication_error"


def test_logs_that_are_followed_say_when_the_connection_is_lost(comfy_client):
    """And when it is there again."""
    with (
        ComfyServer() as server,
        comfy_client.started("logs", "--follow", "--host", server.url) as process,
    ):
        assert process.stderr is not None
        until(lambda: any(one.path.endswith("/raw") for one in server.requests))
        server.restart()
        assert next(line for line in process.stderr if line.startswith("disconnected: "))
        assert next(line for line in process.stderr if line == "reconnected\n")


@pytest.mark.posix("/dev/full")
def test_a_full_stdout_is_reported_on_stderr(comfy_client):
    """As on a full disk; there is no traceback."""
    with open("/dev/full", "w") as full:
        command = [COMMAND, "where", "--json"]
        env = {**os.environ, "HOME": str(comfy_client.home)}
        ran = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=env)
    assert ran.returncode == 1, ran
    assert ran.stderr == "Error: No space left on device\n"


def test_ctrl_c_while_the_command_starts_is_quiet(monkeypatch):
    """Even before a handler is installed."""

    class Pressed(ModuleType):
        def __getattr__(self, name: str) -> object:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "comfy_client.cli.stop_signals", Pressed("stop_signals"))
    with pytest.raises(SystemExit) as caught:
        start()
    assert caught.value.code == 130


def test_every_command_is_asked_and_is_in_the_schema():
    """But those that need no server, or say all by themselves."""
    alone = {"convert", "demo", "doctor", "example", "inputs", "serve", "stubs", "wait", "where"}
    alone |= {"help", "mcp", "schema", "skill"}
    assert main.commands.keys() == ASKING.keys() | alone
    assert main.commands.keys() - {"demo", "help", "mcp", "skill", "stubs"} <= commands_in_schema()


@pytest.mark.parametrize(
    ("args", "status"),
    [
        (["run", "w.json", "--host", NOWHERE], 3),
        (["run", "missing.json"], 2),
        (["queue", "--nothing"], 2),
    ],
)
def test_as_installed_errors_are_words_on_stderr_or_json_on_stdout(comfy_client, args, status):
    """Never a traceback, and the other one is empty."""
    host = {} if "--host" in args else {"COMFYUI_HOST": NOWHERE}
    with ComfyServer() as server:
        host = host and {"COMFYUI_HOST": server.url}
        text = comfy_client.installed(*args, **host)
        assert (text.status, text.out) == (status, "")
        assert "Error: " in text.err
        assert "Traceback" not in text.err
        found = comfy_client.installed(*args, "--json", **host)
        assert (found.status, found.err) == (status, "")
        [error] = lines_of(args[0], found)
        assert error["exit"] == status


@pytest.mark.long
def test_as_installed_wrong_credentials_and_refusals_have_their_status(comfy_client):
    """8 and 4."""
    with ComfyServer(credentials="token") as server:
        host = ("--host", server.url)
        assert comfy_client.installed("run", "w.json", *host).status == 8
        missing = ("--set", "CheckpointLoaderSimple.ckpt_name=simulated.safetensors")
        path = comfy_client.home / "bad.json"
        path.write_text(json.dumps(load_workflow("txt2img_tiny", ckpt_name="gone")))
        refused = comfy_client.installed("run", "bad.json", *host, COMFYUI_TOKEN="token")
        assert refused.status == 4
        assert "gone" in refused.err
        right = comfy_client.installed("run", "bad.json", *host, *missing, COMFYUI_TOKEN="token")
        assert right.status == 0, right


def test_a_prompt_that_a_server_of_several_may_run_yet_is_looked_for_before_it_runs_again():
    error = JobLost("http://gpu:8188 has not answered", prompt_id="an-id", retryable=False)
    told = error_object(error)
    assert "comfy-client job an-id says what became of it" in told["hint"]
    assert told["exit"] == 6


def test_a_prompt_that_may_have_arrived_is_no_server_out_of_reach():
    told = error_object(SubmitUncertain("no answer came", prompt_id="an-id"))
    assert "show whether it arrived" in told["hint"]
    assert told["exit"] == 6


@pytest.mark.posix("signals between processes")
@pytest.mark.parametrize("number", few([signal.SIGTERM, signal.SIGINT], 1))
def test_as_installed_the_first_signal_cancels_and_says_so(comfy_client, number):
    """Status 130, whether it is Ctrl-C or SIGTERM."""
    with ComfyServer(step_seconds=0.5) as server, ComfyApi(server.url) as api:
        with comfy_client.started("run", "w.json", "--host", server.url) as process:
            [item] = until(lambda: api.get_queue().running)
            process.send_signal(number)
            out, err = process.communicate(timeout=LIMIT)
        assert (process.returncode, out) == (130, "")
        assert f"Cancelling prompt {item.prompt_id}" in err
        until(lambda: api.poll_status(LIMIT).queue_remaining == 0)


@pytest.mark.posix("signals between processes")
def test_as_installed_the_second_signal_leaves(comfy_client):
    """Though the server does not answer; the id is there to come back to."""
    with ComfyServer(step_seconds=0.5) as server, ComfyApi(server.url) as api:
        with comfy_client.started("run", "w.json", "--host", server.url) as process:
            assert process.stderr is not None
            [item] = until(lambda: api.get_queue().running)
            frozen = server.faults.delay("*", "*")
            process.send_signal(signal.SIGINT)
            assert next(line for line in process.stderr if "Cancelling" in line)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=LIMIT)
            frozen.end()
        assert process.returncode == 130
        assert f"comfy-client cancel {item.prompt_id}" in err
        assert "could not be cancelled" not in err
        assert item.prompt_id in api.get_queue()
        api.job(item.prompt_id).cancel()


@pytest.mark.posix("signals to a thread")
def test_once_ctrl_c_ends_the_wait_for_a_cancel_its_failure_is_not_logged(caplog):
    """Whoever pressed it has read that the prompt may keep running; the client is closed then."""
    left = threading.Event()

    class Stuck:
        prompt_id = "p"
        handle = SimpleNamespace(timing=SimpleNamespace(cancel_timeout=LIMIT))

        def cancel(self) -> bool:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            left.wait(LIMIT)
            raise ClientClosed

    with pytest.raises(KeyboardInterrupt):
        cancel_in_time([Stuck()])
    [thread] = [one for one in threading.enumerate() if one.name == "comfy-cancel"]
    left.set()
    thread.join(LIMIT)
    assert "could not be cancelled" not in caplog.text


def test_after_a_timeout_the_progress_says_so_in_short(comfy_client):
    """The error that follows has the rest."""
    with ComfyServer(step_seconds=2) as server:
        ran = comfy_client("run", "w.json", "--host", server.url, "--timeout", 1.5)
    assert ran.status == 7
    assert "not ended in time; it keeps running, " in ran.err
    assert "has not ended within" not in ran.err


@pytest.mark.posix("signals between processes")
def test_a_run_in_a_pipe_says_that_it_waits_and_that_it_begins(comfy_client):
    """One line each; otherwise it would be silent until a tenth is done."""
    with ComfyServer(step_seconds=0.5) as server, ComfyApi(server.url) as api:
        endless = ("w.json", "--set", "KSampler.steps=1000")
        first = api.submit(comfy_client.home / "w.json", {"KSampler.steps": 1000})
        until(lambda: server.running)
        with comfy_client.started("run", *endless, "--host", server.url) as process:
            assert process.stderr is not None
            assert process.stderr.readline().startswith("waiting, 1 ahead, ")
            first.cancel()
            assert "waiting" not in process.stderr.readline()
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=LIMIT)
        assert process.returncode == 130, err


@pytest.mark.parametrize("function", [wait_for, surface])
def test_ctrl_c_between_the_submission_and_the_wait_cancels_too(comfy_client, function):
    """Ctrl-C comes at the first moment of a function that is called in between."""

    def look(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code is function.__code__:
            sys.setprofile(None)
            signal.raise_signal(signal.SIGINT)

    with ComfyServer(step_seconds=0.5) as server, ComfyApi(server.url) as api:
        sys.setprofile(look)
        try:
            ran = comfy_client("run", "w.json", "--host", server.url)
        finally:
            sys.setprofile(None)
        assert ran.status == 130
        assert "Cancelling prompt" in ran.err
        until(lambda: api.poll_status(LIMIT).queue_remaining == 0)


def test_a_restart_of_the_server_is_status_6(comfy_client):
    """The prompt is lost with its queue."""
    with ComfyServer(step_seconds=0.5) as server, ComfyApi(server.url) as api:
        with comfy_client.started("run", "w.json", "--host", server.url, "--json") as process:
            until(lambda: api.get_queue().running)
            server.restart()
            out, err = process.communicate(timeout=LIMIT)
        assert process.returncode == 6, err
        assert json.loads(out)["code"] == "job_lost"


def test_watch_outlives_a_restart_of_the_server(comfy_client):
    """What was in the queue is gone, and what comes then is seen."""
    with ComfyServer(step_seconds=0.5) as server, ComfyApi(server.url) as api:
        endless = comfy_client.home / "w.json", {"KSampler.steps": 1000}
        lost = api.submit(*endless)
        with comfy_client.started("watch", "--host", server.url, "--json") as process:
            assert process.stdout is not None
            lines = map(json.loads, process.stdout)

            def wait_until(prompt_id: str, status: str) -> None:
                wanted = {"prompt_id": prompt_id, "status": status}
                assert any(wanted.items() <= line.items() for line in lines)

            wait_until(lost.prompt_id, "running")
            server.restart()
            wait_until(lost.prompt_id, "gone")
            job = api.submit(*endless)
            wait_until(job.prompt_id, "running")
            job.cancel()
            wait_until(job.prompt_id, "interrupted")


def test_watch_reports_an_absent_server_and_then_its_prompts(comfy_client):
    """Once, in a line on stderr; each prompt is a line on stdout."""
    with ComfyServer(step_seconds=0.5) as server, ComfyApi(server.url) as api:
        job = api.submit(comfy_client.home / "w.json", {"KSampler.steps": 1000})
        with comfy_client.started("watch", "--host", server.url) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            lines = process.stdout
            told = f"running     {job.prompt_id}  7 nodes\n"
            assert any(line.endswith(told) for line in lines)
            assert "Prompts in the queue of " in process.stderr.readline()
            server.kill()
            assert server.url in process.stderr.readline()
            server.start()
            job = api.submit(comfy_client.home / "w.json", {"KSampler.steps": 1000})
            assert any(f"running     {job.prompt_id}  7 nodes" in line for line in lines)
            job.cancel()
            assert any(f"interrupted {job.prompt_id}  " in line for line in lines)


@pytest.mark.posix("signals between processes")
@pytest.mark.parametrize("journal", few([["--journal", "rows.db"], []], 1))
def test_ctrl_c_in_a_sweep_cancels_what_runs_or_leaves_it_to_the_journal(comfy_client, journal):
    """What waits is taken out of the queue in any case."""
    with ComfyServer(step_seconds=10 * LIMIT) as server, ComfyApi(server.url) as api:
        sweep = ("sweep", "w.json", "--axis", "KSampler.seed=1..9", "--host", server.url)
        with comfy_client.started(*sweep, *journal) as process:
            until(lambda: api.get_queue().running and len(api.get_queue().pending) == 3)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=LIMIT)
        assert process.returncode == 130, err
        assert "api." not in err
        assert "runs on" not in err  # it is said once, by the sweep itself
        assert ("keeps running" in err) is bool(journal)
        assert not api.get_queue().pending
        if journal:
            assert api.get_queue().running
        else:
            server.until(lambda: server.ran[-1].status == "error", LIMIT)
        api.interrupt()


def test_a_sweep_waits_for_its_server_as_long_as_its_option_says(comfy_client):
    """Then it is status 3; what it has printed until then, it has."""
    with ComfyServer(step_seconds=0.5) as server:
        sweep = ("sweep", "w.json", "--axis", "KSampler.seed=1..9", "--host", server.url)
        with comfy_client.started(*sweep, "--patience", 0.5) as process:
            assert process.stdout is not None
            assert process.stdout.readline()
            server.kill()
            _, err = process.communicate(timeout=LIMIT)
        assert process.returncode == 3, err
        assert "(patience: 0.5 s)" in err


@pytest.mark.parametrize(
    "args",
    [
        ["queue", "--login-file", "missing"],
        ["queue", "--token-file", "missing"],
        ["queue", "--profile", "missing-file"],
        ["check", ".config"],
        ["run", "."],
        ["run", "missing.json"],
        ["run", "w.json", "--set", "Nothing.seed=1"],
        ["sweep", "missing.json", "--axis", "KSampler.seed=1"],
        ["run", "w.json", "--timeout", "nan"],
        ["run", "w.json", "--timeout", "inf"],
        ["sweep", "w.json", "--axis", "KSampler.seed=1", "--timeout", "nan"],
        ["sweep", "w.json", "--axis", "KSampler.seed=1", "--retry-failed"],
        ["job", ""],
        ["job", " "],
        ["cancel", ""],
        ["download", ""],
        ["doctor", "--timeout", "nan"],
        ["free", "--timeout", "nan"],
        ["free", "--wait-vram", "nan"],
        ["upload", "w.json", "."],
        ["run", "w.json", "--detach", "--out", "o/"],
        ["job", *ASKING["job"], "--out", "o/"],
        ["cancel"],
        ["cancel", *ASKING["cancel"], "--all-mine"],
        ["cancel", *ASKING["cancel"], "--all", "--yes"],
        ["cancel", "--all-mine", "--all", "--yes"],
    ],
)
def test_wrong_usage_is_status_2_and_sends_nothing(comfy_client, args):
    """Files that are not there, folders in their place, numbers without an end, empty ids."""
    config = comfy_client.home / ".config/comfy-client/config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(f'[profiles.missing-file]\nhost = "{NOWHERE}"\nlogin-file = "missing"')
    config.chmod(0o600)
    ended = comfy_client(*args, "--host", NOWHERE)
    assert ended.status == 2, ended


@pytest.mark.parametrize(
    "args",
    [
        ["--json", "demo"],
        ["--json", "stubs"],
        ["convert", "w.json", "--python", "--json"],
    ],
)
def test_commands_that_print_text_take_no_json(comfy_client, args):
    """So that every line on stdout is an object, or nothing is done."""
    ended = comfy_client(*args)
    assert ended.status == 2
    [line] = ended.lines
    assert json.loads(line)["code"] == "usage"


def test_lines_that_say_that_something_failed_have_no_error_behind_them(comfy_client):
    """Those of ``check``, ``cancel`` and ``doctor``: the exit status says it, too."""
    with ComfyServer() as server:
        host = ("--host", server.url)
        wrong = load_workflow("txt2img_tiny", ckpt_name="missing.safetensors")
        (comfy_client.home / "wrong.json").write_text(json.dumps(wrong))
        [report] = comfy_client.json("check", "wrong.json", *host, status=4)
        assert not report["ok"]
        [line] = comfy_client.json("cancel", *ASKING["cancel"], *host, status=6)
        assert line["cancelled"] is False
    [report] = comfy_client.json("doctor", "--host", NOWHERE, status=1)
    assert "checks" in report


@pytest.mark.parametrize(("text", "words"), [("{", "not JSON"), ("[]", "not node definitions")])
def test_a_file_that_has_no_node_definitions_is_status_2(comfy_client, text, words):
    """It is named."""
    (comfy_client.home / "nodes.json").write_text(text)
    ended = comfy_client("convert", "w.json", "--definitions", "nodes.json")
    assert ended.status == 2
    assert f"nodes.json: {words}" in ended.err


def test_a_prompt_that_runs_out_of_memory_has_a_way_on(comfy_client):
    """A smaller picture."""

    class Greedy:
        INPUT_TYPES = classmethod(lambda cls: {"required": {}})
        RETURN_TYPES = ()
        FUNCTION = "run"
        OUTPUT_NODE = True

        def run(self) -> None:
            raise type("OutOfMemoryError", (RuntimeError,), {})("Allocation on device")

    graph = {"1": {"class_type": "Greedy", "inputs": {}}}
    (comfy_client.home / "greedy.json").write_text(json.dumps(graph))
    with ComfyServer() as server:
        server.add_node(Greedy)
        [error] = comfy_client.json("run", "greedy.json", "--host", server.url, status=5)
        ended = comfy_client("download", error["prompt_id"], "--host", server.url)
    assert "failed, and left no files." in ended.err
    assert error["hint"] == f"use a smaller picture, or comfy-client free --host {server.url}"


def test_an_empty_history_says_so(comfy_client):
    """In JSON it is no line."""
    with ComfyServer() as server:
        assert comfy_client("history", "--host", server.url).lines == ["The history is empty."]
        assert comfy_client.json("history", "--host", server.url) == []


def test_a_prompt_that_has_not_ended_has_nothing_to_download(comfy_client):
    """What to do instead is told."""
    with ComfyServer() as server, server.faults.hang_worker(), ComfyApi(server.url) as api:
        job = api.submit(comfy_client.home / "w.json")
        ended = comfy_client("download", job.prompt_id, "--host", server.url)
        assert ended.status == 2
        assert f"has not ended: comfy-client job {job.prompt_id} --wait" in ended.err


def test_a_folder_is_no_workflow(comfy_client):
    """And nothing runs."""
    with ComfyServer() as server:
        for command in (["run", "."], ["sweep", ".", "--axis", "KSampler.seed=1"]):
            ended = comfy_client(*command, "--host", server.url)
            assert (ended.status, "Is a directory" in ended.err) == (2, True)


def test_a_folder_in_the_place_of_the_config_file_is_status_2(comfy_client):
    """Whatever the command."""
    (comfy_client.home / ".config/comfy-client/config.toml").mkdir(parents=True)
    assert comfy_client("where").status == 2


@pytest.mark.parametrize(
    "options",
    [
        ["--input", "LoadImage=w.json"],
        ["--input", "KSampler.seed=."],
        ["--axis", "3.seed=2"],
        ["--axis", "KSampler.seed=2"],
        ["--journal", "w.json"],
        ["--journal", "."],
        ["--journal", "missing/rows.db"],
    ],
)
def test_a_sweep_with_a_mistake_is_status_2_and_sends_nothing(comfy_client, options):
    """The same input in two axes, a file that is no journal."""
    with ComfyServer() as server, ComfyApi(server.url) as api:
        sweep = ("sweep", "w.json", "--axis", "KSampler.seed=1", "--host", server.url)
        [error] = comfy_client.json(*sweep, *options, status=2)
        assert error["code"] == "usage"
        assert not api.get_histories()
        assert not api.get_queue().running


def test_a_sheet_without_pillow_is_refused_before_the_sweep(comfy_client, monkeypatch):
    """And not when all rows are there."""
    sweep = ("sweep", "w.json", "--axis", "KSampler.seed=1,2", "--host", NOWHERE)
    [error] = comfy_client.json(*sweep, "--sheet", "x.txt", status=2)
    assert ".png" in error["message"]
    monkeypatch.setitem(sys.modules, "PIL", None)
    [error] = comfy_client.json(*sweep, "--sheet", "x.png", status=2)
    assert "[image]" in error["message"]


def test_a_broken_pipe_is_quiet(comfy_client):
    """As of ``head``."""
    with ComfyServer() as server, comfy_client.started("nodes", "--host", server.url) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait(LIMIT) == 141
        assert "Traceback" not in process.stderr.read()


def test_memory_that_does_not_become_free_is_status_7(comfy_client):
    """And so much that there never is, is an error of its own."""

    def with_a_gpu(stats: dict) -> dict:
        stats["devices"][0] |= {"type": "cuda", "name": "cuda:0 x", "vram_free": 2 << 30}
        return stats

    with ComfyServer() as server:
        server.faults.rewrite("GET", "/system_stats", with_a_gpu)
        host = ("--host", server.url)
        [found] = comfy_client.json("free", "--wait-vram", 1, *host)
        assert found["vram_free"] == 2 << 30
        [error] = comfy_client.json("free", "--wait-vram", 3, "--timeout", 0.2, *host, status=7)
        assert error["code"] == "vram_timeout"
        [error] = comfy_client.json("free", "--wait-vram", 1000, *host, status=1)
        assert error["code"] == "error"


def test_the_help_of_each_command_has_an_example_and_that_of_all_the_statuses():
    """And how to complete by Tab."""
    for name, command in main.commands.items():
        assert f"  comfy-client {name}" in (command.epilog or ""), name
        assert command.help, name
    text = CommandLine(Path())("--help").out
    for status in Exit:
        assert f" {status.value} " in " ".join(text.split())
    assert "_COMFY_CLIENT_COMPLETE=zsh_source" in text
    assert "-v, --verbose" in text


def test_the_help_of_a_command_names_common_options_and_says_where_they_are_explained():
    text = re.sub(r"-\s+", "-", CommandLine(Path())("queue", "--help").out)  # however it is wrapped
    text = " ".join(text.split())
    assert "-v, --record: see comfy-client --help." in text
    assert "--verbose" not in text
    assert "--hosted" in text


@pytest.mark.parametrize("shell", few(["fish", "bash", "zsh"], 1))
def test_a_shell_completes_commands_options_and_profiles(comfy_client, shell):
    """By click; nothing is asked of a server."""
    folder = comfy_client.home / ".config" / "comfy-client"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text("[profiles.studio]\n[profiles.home]\n")
    (folder / "config.toml").chmod(0o600)

    def completed(*words: str) -> str:
        env = {"_COMFY_CLIENT_COMPLETE": f"{shell}_complete"}
        env |= {"COMP_WORDS": " ".join(["comfy-client", *words]), "COMP_CWORD": str(len(words))}
        if shell == "fish":
            env["COMP_CWORD"] = words[-1]
        return comfy_client.installed(**env).out

    assert "sweep" in completed("sw")
    assert "--detach" in completed("run", "--de")
    assert "studio" in completed("run", "--profile", "st")


def test_advice_does_not_control_the_terminal(capsys):
    """An abbreviated id is completed to one that the server made."""
    error = JobTimeout("late", prompt_id="beef\x1b]0;title\x07")
    assert report(error, as_json=False) is Exit.TIMEOUT
    quote = '"' if os.name == "nt" else "'"
    assert f"job {quote}beef ]0;title {quote} --wait" in capsys.readouterr().err
