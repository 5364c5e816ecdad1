"""The command on a hosted server: which server it is, and what each command does there."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import re
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.shell_completion import get_completion_class

from comfy_client import (
    AuthenticationError,
    CloudApi,
    ComfyError,
    JobFailed,
    JobLost,
    JobNotFound,
    JobTimeout,
    PromptRejected,
    ServerUnreachable,
    SubmitUncertain,
    UnexpectedResponse,
    Workflow,
)
from comfy_client.cli import shells
from comfy_client.cli.exits import hint_of, in_commands, known_server, remember
from comfy_client.cli.main import main
from comfy_client.cli.server_options import ServerOptions
from comfy_client.cli.target import Target
from comfy_client.testing import ComfyServer
from tests.helpers.clients import LIMIT, until
from tests.helpers.command_line import CommandLine, runner
from tests.helpers.graphs import fresh_color
from tests.helpers.records import graph

KEY = "a-key-of-42-letters"
UNKNOWN = "00000000-0000-4000-8000-000000000000"
#: The arguments of each command, and the exit status that it ends with; 1 is for what is not
#: supported.  ``ID`` stands for a job that has ended.
COMMANDS: dict[str, tuple[list[str], int]] = {
    "run": (["w.json", "--set", "1.width=32"], 0),
    "rerun": (["ID"], 0),
    "sweep": (["w.json", "--axis", "1.color=1,2"], 0),
    "inputs": (["w.json"], 0),
    "check": (["w.json"], 1),
    "convert": (["w.json"], 0),
    "watch": (["ID"], 0),
    "queue": ([], 1),
    "history": ([], 1),
    "job": (["ID"], 0),
    "cancel": (["ID"], 6),
    "download": (["ID", "--out", "got/"], 0),
    "info": ([], 1),
    "wait": (["--timeout", "60"], 0),
    "models": ([], 1),
    "packs": ([], 1),
    "snapshot": ([], 1),
    "restart": ([], 1),
    "nodes": ([], 1),
    "upload": (["w.json"], 0),
    "free": ([], 1),
    "logs": ([], 1),
    "api": (["/api/v2/jobs/ID"], 0),
    "stubs": ([], 1),
    "object-info": ([], 1),
}
#: What Comfy Cloud's older API makes work.
READ = ("check", "models", "nodes", "stubs", "object-info", "info", "queue")
#: Commands that ask no server, or have tests of their own.
OTHERS = {"where", "doctor", "demo", "example", "mcp", "serve", "schema", "help"}


@pytest.fixture(params=["proxy", "serverless", "cloud"])
def server(request: pytest.FixtureRequest) -> Iterator[ComfyServer]:
    with ComfyServer(hosted=request.param, credentials=KEY) as running:
        yield running


@pytest.fixture
def proxy() -> Iterator[ComfyServer]:
    with ComfyServer(hosted="proxy", credentials=KEY) as running:
        yield running


@pytest.fixture
def comfy_client(tmp_path: Path) -> CommandLine:
    """The command, in a folder with a workflow, without a server."""
    (tmp_path / "w.json").write_text(json.dumps(graph()))
    return CommandLine(tmp_path)


def named(server: ComfyServer) -> dict[str, str]:
    """Return the variables for a server."""
    return {"COMFY_BASE_URL": f" {server.url}\n", "COMFY_API_KEY": f"{KEY}\n"}


def test_the_table_has_every_command() -> None:
    asking = {
        name
        for name, command in main.commands.items()
        if any(one.name == "hosted" for one in command.params)
    }
    assert asking <= COMMANDS.keys() | OTHERS
    assert COMMANDS.keys() <= main.commands.keys()


def test_every_command_works_or_says_that_it_is_not_supported(
    comfy_client: CommandLine, server: ComfyServer
) -> None:
    variables = named(server)
    [ran] = comfy_client.json("run", "w.json", **variables)
    for name, (args, status) in COMMANDS.items():
        words = [word.replace("ID", ran["prompt_id"]) for word in args]
        ended = comfy_client(name, *words, **variables)
        assert ended.status == status, (name, ended)
        assert KEY not in ended.out + ended.err, name
        if status == 1:
            [line] = ended.err.splitlines()
            assert line.startswith("Error: Comfy API v2 "), (name, line)
        if any(one.name == "json" for one in main.commands[name].params):
            *_, last = comfy_client.json(name, *words, status=status, **variables)
            assert status != 1 or last["code"] == "not_supported", (name, last)
    assert (comfy_client.home / "got" / "blue_00001_.png").exists()


class OnCloud(ServerOptions):
    """Options that name Comfy Cloud, which an embedded server plays."""

    def client_of(self, *_: Any, **__: Any) -> CloudApi:
        return CloudApi(KEY, base_url=os.environ["PLAYED"])


@pytest.mark.parametrize("name", READ)
def test_reading_commands_work_on_comfy_cloud(
    comfy_client: CommandLine, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    args, _ = COMMANDS[name]
    with (
        ComfyServer(hosted="cloud", credentials=KEY) as server,
        contextlib.chdir(comfy_client.home),
    ):
        monkeypatch.setenv("PLAYED", server.url)
        ran = runner().invoke(main, [name, *args], obj=OnCloud())
    assert ran.exit_code == 0, ran.output
    assert KEY not in ran.output


@pytest.mark.parametrize(
    "args", [("watch",), ("cancel", "--all"), ("cancel", "--all-mine"), ("logs", "-f")]
)
def test_commands_that_need_a_queue_or_socket_are_refused_in_one_sentence(
    comfy_client: CommandLine, proxy: ComfyServer, args: tuple[str, ...]
) -> None:
    ended = comfy_client(*args, **named(proxy))
    assert ended.status == 1
    assert ended.err.startswith("Error: Comfy API v2 ")
    assert len(ended.err.splitlines()) == 1
    assert not ended.out


def test_a_detached_job_is_watched_by_its_id(comfy_client: CommandLine, proxy: ComfyServer) -> None:
    with proxy.faults.hang_worker():
        job_id = comfy_client("run", "w.json", "--detach", **named(proxy)).out.strip()
        until(lambda: comfy_client("job", job_id, **named(proxy)).out.startswith("running"))
        ended = comfy_client("download", job_id, **named(proxy))
        assert (ended.status, "has not ended" in ended.err) == (2, True)
    [*events, result] = comfy_client.json("watch", job_id, **named(proxy))
    assert events[-1]["name"] == "execution_success"
    assert result["prompt_id"] == job_id
    assert comfy_client("job", job_id[:8], "--wait", **named(proxy)).status == 0


def test_a_waiting_job_is_cancelled(comfy_client: CommandLine) -> None:
    with ComfyServer(hosted="cloud", credentials=KEY) as server, server.faults.hang_worker():
        variables = named(server)
        ids = [comfy_client("run", "w.json", "--detach", **variables).out.strip() for _ in "12"]
        assert comfy_client("cancel", ids[1], **variables).out == f"{ids[1]} cancelled\n"
        ended = comfy_client("cancel", UNKNOWN, **variables)
        assert (ended.status, ended.out) == (6, f"{UNKNOWN} is not in the queue\n")


def test_advice_names_the_server_and_works_there(comfy_client: CommandLine) -> None:
    """Each command that it names, as it stands."""
    with ComfyServer(hosted="serverless") as server, server.faults.hang_worker():
        place = ("--hosted", "--host", f"{server.url}/api/v2")
        comfy_client("run", "w.json", "--detach", *place)
        [error] = comfy_client.json("run", "w.json", "--timeout", 1, *place, status=7)
        for command in error["hint"].split("; or "):
            assert command.endswith(f" --host {server.url} --hosted")
        ended = comfy_client(*shlex.split(command)[1:])
        assert (ended.status, ended.out) == (0, f"{error['prompt_id']} cancelled\n")
        running = comfy_client("run", "w.json", "--detach", *place).out.strip()
        ended = comfy_client("download", running, *place)
        assert f"comfy-client job {running} --wait --host {server.url} --hosted" in ended.err


def test_advice_names_no_command_that_a_hosted_server_lacks() -> None:
    errors: list[ComfyError] = [
        JobLost("m", prompt_id="i"),
        JobNotFound("m", prompt_id="i"),
        JobFailed("m", prompt_id="i"),
        JobFailed("m", prompt_id="i", exception_type="OOMError"),
        SubmitUncertain("m", prompt_id="i"),
        JobTimeout("m", prompt_id="i"),
        PromptRejected("m"),
        AuthenticationError("m", status=403),
        UnexpectedResponse("m"),
        ServerUnreachable("m"),
    ]
    lacking = {name for name, (_, status) in COMMANDS.items() if status == 1}
    with click.Context(main):
        remember(PROXY, {"host": PROXY, "hosted": True}, is_hosted=True)
        for error in errors:
            hint = hint_of(error) or ""
            hint = hint.replace("comfy-client check --definitions FILE", "")  # needs no server
            named = {*re.findall(r"comfy-client ([a-z-]+)", hint)}
            assert not named & lacking, hint
            assert hint.count("comfy-client") == hint.count(f" --host {PROXY} --hosted"), hint
            assert "LOGIN" not in hint


def test_advice_names_no_file_that_can_be_read_only_once() -> None:
    """Nor the id of a client in a URL."""
    with click.Context(main):
        for file in ("-", "/dev/fd/63"):
            options = {"host": f"{PROXY}/ws?clientId=secret", "token-file": file}
            remember(PROXY, options, is_hosted=False)
            assert known_server(PROXY).options == f" --host {PROXY} --token-file FILE"


@pytest.mark.posix("signals between processes")
def test_ctrl_c_in_a_sweep_cancels_what_runs(comfy_client: CommandLine) -> None:
    with ComfyServer(hosted="proxy", version="0.28", step_seconds=0.5) as server:
        Workflow.example().save(comfy_client.home / "w.json")
        place = ("--hosted", "--host", server.url)
        sweep = ("sweep", "w.json", "--axis", "KSampler.seed=1..9", *place)
        with comfy_client.started(*sweep) as process:
            server.until(lambda: server.running, LIMIT)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=LIMIT)
        assert process.returncode == 130, err
        assert "Cancelling prompt " in err
        server.until(lambda: {run.status for run in server.ran} == {"error"}, LIMIT)


@pytest.mark.parametrize("place", [None, "proxy"])
def test_the_option_is_named_if_it_is_missing_or_wrong(
    comfy_client: CommandLine, place: Any
) -> None:
    with ComfyServer(hosted=place) as server:
        options = ("--host", server.url) if place else ("--host", server.url, "--hosted")
        [error] = comfy_client.json("job", UNKNOWN, "--wait", *options, status=3 if place else 1)
    assert "needs --hosted" in error["message"] or "needs no --hosted" in error["message"]
    assert "Api" not in error["message"].replace("Comfy API", "")


def test_an_abbreviated_id_needs_a_list_of_jobs(comfy_client: CommandLine) -> None:
    with ComfyServer(hosted="cloud", credentials=KEY) as server:
        [error] = comfy_client.json("job", "1234abcd", status=2, **named(server))
    assert "give the whole ID" in error["message"]


def test_an_uploaded_file_is_an_object_for_an_input(
    comfy_client: CommandLine, proxy: ComfyServer
) -> None:
    [sent] = comfy_client.json("upload", "w.json", **named(proxy))
    assert json.loads(sent["ref"])["__type"] == "core/ASSET"


def test_a_recording_has_no_key(comfy_client: CommandLine, server: ComfyServer) -> None:
    args = ("run", "w.json", "--set", f"1.color={fresh_color()}", "--record", "run.jsonl")
    assert comfy_client(*args, **named(server)).status == 0
    recorded = (comfy_client.home / "run.jsonl").read_text()
    assert "/api/v2/jobs" in recorded
    assert KEY not in recorded


def test_completion_is_silent_and_offers_what_there_is(
    comfy_client: CommandLine,
    server: ComfyServer,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    [ran] = comfy_client.json("run", "w.json", **named(server))
    shells.register()
    for name in [one for one in os.environ if one.startswith(("COMFY", "XDG_", "COMP_"))]:
        monkeypatch.delenv(name)
    variables = {"HOME": str(comfy_client.home), "COMFY_COMPLETION_TIMEOUT": "60", **named(server)}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    said = {}
    with contextlib.chdir(comfy_client.home):
        for line in ("job ", "cancel ", "nodes ", "models ", "run w.json --set ", "run w"):
            whole = f"comfy-client {line}"
            given = {"COMP_LINE": whole, "COMP_POINT": str(len(whole)), "COMP_WORDS": whole}
            for name, value in given.items():
                monkeypatch.setenv(name, value)
            bash = get_completion_class("bash")
            assert bash is not None
            said[line] = bash(main, {}, "comfy-client", "_COMFY_CLIENT_COMPLETE").complete()
    assert capfd.readouterr() == ("", "")
    assert not said["nodes "]
    assert "EmptyImage" in said["run w.json --set "]
    assert (ran["prompt_id"] in said["job "]) == (server.gateway.place != "cloud")


# -- which server -----------------------------------------------------------------------


def where(comfy_client: CommandLine, *args: str, **variables: str) -> tuple[Any, ...]:
    [found] = comfy_client.json("where", *args, **variables)
    return found["host"], found["hosted"], found["credentials"]


CLOUD = "https://cloud.comfy.org"
PROXY = "http://127.0.0.1:8189"


def test_an_address_of_comfy_is_hosted_by_itself(comfy_client: CommandLine) -> None:
    assert where(comfy_client, "--host", CLOUD) == (CLOUD, True, None)
    deployment = "https://mine.run.comfy.app"
    assert where(comfy_client, "--host", deployment, COMFY_API_KEY="k") == (
        deployment,
        True,
        "token",
    )
    assert where(comfy_client, COMFYUI_HOST=CLOUD, COMFYUI_TOKEN="k") == (CLOUD, True, "token")
    assert where(comfy_client, "--host", "https://comfy.org.example") == (
        "https://comfy.org.example",
        False,
        None,
    )


def test_an_option_says_that_a_server_is_hosted(comfy_client: CommandLine) -> None:
    assert where(comfy_client, "--hosted") == (CLOUD, True, None)
    assert where(comfy_client, "--hosted", COMFYUI_HOST="gpu:8188") == (CLOUD, True, None)
    assert where(comfy_client, "--hosted", "--host", PROXY) == (PROXY, True, None)
    assert where(comfy_client, "--hosted", COMFY_BASE_URL=PROXY) == (PROXY, True, None)


def test_the_variable_of_a_comfyui_counts_before_that_of_a_hosted_server(
    comfy_client: CommandLine,
) -> None:
    both = {"COMFYUI_HOST": "http://gpu:8188", "COMFY_BASE_URL": PROXY, "COMFY_API_KEY": "k"}
    assert where(comfy_client, **both) == ("http://gpu:8188", False, None)
    assert where(comfy_client, "--hosted", **both) == (PROXY, True, "token")


def test_a_key_goes_only_to_the_server_that_it_is_for(comfy_client: CommandLine) -> None:
    elsewhere = {"COMFY_BASE_URL": PROXY, "COMFY_API_KEY": "k"}
    ended = comfy_client("where", "--host", "https://a.run.comfy.app", **elsewhere)
    assert "credentials" not in ended.out
    assert "COMFY_API_KEY is not sent" in ended.err
    for base_url, whose in (("", "Comfy Cloud"), (CLOUD, "the server that COMFY_BASE_URL names")):
        variables = {"COMFY_BASE_URL": base_url, "COMFY_API_KEY": "k"}
        ended = comfy_client("where", "--hosted", "--host", PROXY, **variables)
        assert "credentials" not in ended.out
        assert ended.err == f"COMFY_API_KEY is not sent: it is for {whose}.\n"
    assert where(comfy_client, COMFY_BASE_URL=PROXY, COMFY_API_KEY="k") == (PROXY, True, "token")
    assert where(comfy_client, "--host", CLOUD, COMFYUI_TOKEN="t") == (CLOUD, True, None)
    assert where(comfy_client, "--host", "http://gpu:8188", COMFY_API_KEY="k")[2] is None


def test_a_key_for_another_server_stays_here(comfy_client: CommandLine) -> None:
    with ComfyServer(hosted="proxy") as server:
        args = ("job", UNKNOWN, "--hosted", "--host", server.url)
        ended = comfy_client(*args, COMFY_BASE_URL=PROXY, COMFY_API_KEY=KEY)
        assert ended.status == 6
        assert server.requests
        for request in server.requests:
            assert "authorization" not in {name.lower() for name in request.headers}


def profiles(comfy_client: CommandLine, text: str) -> None:
    folder = comfy_client.home / ".config" / "comfy-client"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(text)
    os.chmod(folder / "config.toml", 0o600)


def test_profiles_of_hosted_servers(comfy_client: CommandLine, proxy: ComfyServer) -> None:
    profiles(
        comfy_client,
        f"""
        default = "gpu"
        [profiles.gpu]
        host = "gpu:8188"
        [profiles.cloud]
        hosted = true
        token-file = "key"
        [profiles.proxy]
        hosted = true
        host = "{proxy.url}"
        token = "{KEY}"
        """,
    )
    (comfy_client.home / "key").write_text("k\n")
    os.chmod(comfy_client.home / "key", 0o600)
    assert where(comfy_client) == ("http://gpu:8188", False, None)
    assert where(comfy_client, "--profile", "cloud") == (CLOUD, True, "token")
    assert where(comfy_client, "--hosted") == (CLOUD, True, None)
    assert where(comfy_client, "--hosted", "--profile", "gpu") == ("http://gpu:8188", True, None)
    assert comfy_client("run", "w.json", "--profile", "proxy").status == 0


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--user", "me"), "no users"),
        (("--login-file", "login"), "no login"),
    ],
)
def test_options_that_a_hosted_server_does_not_take_are_wrong_usage(
    comfy_client: CommandLine, args: tuple[str, ...], words: str
) -> None:
    (comfy_client.home / "login").write_text("me:secret")
    ended = comfy_client("info", "--hosted", "--host", PROXY, *args)
    assert ended.status == 2
    assert words in ended.err
    assert "secret" not in ended.err


def test_files_come_from_private_addresses_only_if_allowed(
    comfy_client: CommandLine,
) -> None:
    """By an option or a profile; the advice of the error names the option."""
    profile = comfy_client.home / ".config" / "comfy-client" / "config.toml"
    profile.parent.mkdir(parents=True)
    profile.write_text("[profiles.near]\nhosted = true\nprivate-storage = true\n")
    for args in (("--hosted", "--private-storage"), ("--profile", "near")):
        [found] = comfy_client.json("where", *args)
        assert found["private_storage"] is True
        assert "storage" in comfy_client("where", *args).out
    assert comfy_client.json("where", "--hosted")[0]["private_storage"] is False
    target = Target(PROXY, hosted=True, private_storage=True)
    with contextlib.closing(target.client(5.0)) as api:
        assert copy.copy(api).__reduce__() == api.__reduce__()
        assert "'allow_private_storage': True" in repr(api.__reduce__())
    assert "give --private-storage" in in_commands("if it may, pass allow_private_storage=True")


@pytest.mark.filterwarnings("always:credentials go to")
def test_a_key_goes_over_plain_http_only_if_allowed(comfy_client: CommandLine) -> None:
    args = ("job", UNKNOWN, "--hosted", "--host", "http://open.invalid", "--request-timeout", "9")
    variables = {"COMFY_BASE_URL": "http://open.invalid", "COMFY_API_KEY": "k"}
    [error] = comfy_client.json(*args, status=2, **variables)
    assert "--insecure" in error["message"]
    ended = comfy_client(*args, "--insecure", **variables)
    assert ended.status in (3, 7)
    assert "credentials go to http://open.invalid unencrypted" in ended.err


def test_cloud_without_a_key_is_not_authorised(comfy_client: CommandLine) -> None:
    [error] = comfy_client.json("info", "--hosted", status=8)
    assert "COMFY_API_KEY" in error["message"]
    assert "api_key=" not in error["message"]
    assert "LOGIN" not in (error["hint"] or "")


def test_a_wrong_key_is_not_authorised(comfy_client: CommandLine, server: ComfyServer) -> None:
    variables = named(server) | {"COMFY_API_KEY": "another"}
    [error] = comfy_client.json("run", "w.json", status=8, **variables)
    assert "another" not in json.dumps(error)
    assert "COMFY_API_KEY" in error["message"]


def test_several_servers_may_be_hosted_or_not(
    comfy_client: CommandLine, proxy: ComfyServer
) -> None:
    with ComfyServer() as other:
        profiles(
            comfy_client,
            f"""
            [profiles.proxy]
            hosted = true
            host = "{proxy.url}"
            token = "{KEY}"
            [profiles.other]
            host = "{other.url}"
            """,
        )
        both = ("--profile", "proxy", "--profile", "other")
        ended = comfy_client("sweep", "w.json", "--axis", "1.color=1..20", "--out", "out/", *both)
        assert ended.status == 0, ended
        assert len(list((comfy_client.home / "out").iterdir())) == 20
        assert len(proxy.ran) + len(other.ran) == 20
