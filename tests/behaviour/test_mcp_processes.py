"""``comfy-client mcp`` as a host starts it: its end, its door for HTTP, and many calls at once."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import StdioServerParameters
from mcp.client.stdio import stdio_client

from comfy_client import Workflow
from comfy_client.mcp.protocol import _cancelled_by_signals
from comfy_client.testing import ComfyServer
from tests.helpers.agents import (
    TOKEN,
    VARIABLES,
    Agent,
    agent_of,
    agent_on_stdio,
    agent_over_http,
    connected_agent,
    http_door,
)
from tests.helpers.clients import LIMIT
from tests.helpers.command_line import CommandLine
from tests.helpers.long import few
from tests.helpers.scripted import posts

SMALL = {"size": [64, 64], "Sampler.steps": 2}
#: Notes the id of its process, and becomes another program.
PROGRAM = """
import os, sys
open(sys.argv[1], "w").write(str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "workflows"
    folder.mkdir()
    Workflow.example().save(folder / "draw.json")
    return folder


@pytest.fixture
def command(comfy: ComfyServer, tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path, comfy.url)


@contextmanager
def mortal(command: CommandLine, *args: object) -> Iterator[tuple[Agent, Path]]:
    """An agent, and the file with the id of the process that serves it."""
    words, env = command.words_and_variables("mcp", *args, **VARIABLES)
    noted = command.home / "pid"
    parameters = StdioServerParameters(
        command=sys.executable, args=["-c", PROGRAM, str(noted), *words], env=env
    )
    with (
        (command.home / "mcp.log").open("a") as log,
        connected_agent(stdio_client(parameters, log)) as agent,
    ):
        yield agent, noted


def test_prompts_go_on_when_the_host_leaves(
    comfy: ComfyServer, command: CommandLine, folder: Path
) -> None:
    """In the middle of a call; the next session finds them, and what they made."""
    comfy.pause()
    with agent_on_stdio(command, folder) as agent:
        call = agent.begin("run", workflow="draw.json", inputs=SMALL)
        comfy.until(lambda: len(posts(comfy)) == 1 and comfy.running, LIMIT)
    assert call.exception(LIMIT) is not None
    with agent_of(comfy.url, folder) as agent:
        [own] = agent("server")["own_prompts"]
        assert own["prompt_id"] == posts(comfy)[0].json()["prompt_id"]
        comfy.resume()
        answer = agent("job", prompt_id=own["prompt_id"])
        assert (answer["status"], len(answer.links)) == ("succeeded", 1)


@pytest.mark.long
@pytest.mark.posix("SIGKILL")
@pytest.mark.parametrize("when", ["submitted", "checking", "running"])
def test_a_killed_process_leaves_no_prompt_that_nobody_finds(
    comfy: ComfyServer, command: CommandLine, folder: Path, when: str
) -> None:
    """Whenever it is; the same call with its key goes on with it."""
    call = {"workflow": "draw.json", "inputs": SMALL, "key": "k"}
    comfy.pause()
    fault = {
        "checking": lambda: comfy.faults.delay("GET", "/object_info*"),
        "submitted": lambda: comfy.faults.delay("POST", "/prompt", ran=True),
        "running": ExitStack,
    }[when]()
    with fault, mortal(command, folder) as (agent, noted):
        running = agent.begin("run", **call)
        path = "/object_info" if when == "checking" else "/prompt"
        comfy.until(lambda: any(one.path.startswith(path) for one in comfy.requests), LIMIT)
        if when == "running":
            comfy.until(lambda: comfy.running, LIMIT)
        os.kill(int(noted.read_text()), signal.SIGKILL)
        assert running.exception(LIMIT) is not None
    with agent_of(comfy.url, folder) as agent:
        own = [one["prompt_id"] for one in agent("server")["own_prompts"]]
        assert own == [one.json()["prompt_id"] for one in posts(comfy)]
        assert len(own) == (0 if when == "checking" else 1)
        comfy.resume()
        answer = agent("run", **call)
        assert answer["status"] == "succeeded"
        assert own in ([], [answer["prompt_id"]])
    assert len(posts(comfy)) == len(comfy.ran) == 1


@pytest.mark.posix("signals between processes")
@pytest.mark.parametrize("number", few(["SIGTERM", "SIGINT"], 1))
def test_a_signal_ends_the_command_though_its_host_says_nothing(
    command: CommandLine, folder: Path, number: str
) -> None:
    """It holds the standard input open; nothing is left behind."""
    words, env = command.words_and_variables("mcp", folder, **VARIABLES)
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        ask = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
        process.stdin.write(f"{json.dumps(ask)}\n".encode())
        process.stdin.flush()
        process.stdout.readline()  # it serves
        process.send_signal(getattr(signal, number))
        assert process.wait(LIMIT) == 130
        assert process.stderr is not None
        assert process.stderr.read() == b""


@pytest.mark.posix("signals to one thread")
def test_a_signal_in_another_thread_ends_the_wait_for_the_host() -> None:
    """Python notes it, and the system does not wake the main thread."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    at: list[float] = []

    def press() -> None:
        at.append(time.monotonic())
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

    async def idle() -> None:
        with _cancelled_by_signals():
            timer = threading.Timer(0.3, press)
            timer.start()
            await asyncio.sleep(2 * LIMIT)

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(idle())
    assert time.monotonic() - at[0] < LIMIT
    assert {number: signal.getsignal(number) for number in handlers} == handlers


def test_http_needs_the_token_and_names_of_this_machine(command: CommandLine, folder: Path) -> None:
    """A page in a browser gets in by no other name."""
    with http_door(command, folder) as url:
        host = url.split("/")[2]
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        said = {
            name: httpx2.post(url, json=body, headers=headers, trust_env=False).status_code
            for name, headers in {
                "no token": {},
                "wrong token": {"Authorization": "Bearer wrong"},
                "rebound name": {**bearer, "Host": "evil.example"},
                "foreign page": {**bearer, "Origin": "https://evil.example"},
            }.items()
        }
        assert host.startswith("127.0.0.1:")
        assert said == {
            "no token": 401,
            "wrong token": 401,
            "rebound name": 421,
            "foreign page": 403,
        }
        for mode in ("auto", "legacy"):
            with agent_over_http(url, mode) as agent:
                assert agent("inputs").data["workflows"] == ["draw.json"]


@pytest.mark.long
def test_a_token_is_made_up_and_printed_unless_it_is_given(
    command: CommandLine, folder: Path
) -> None:
    """On stderr, with the URL."""
    with command.started("mcp", folder, "--http", "0") as process:
        assert process.stderr is not None
        token, url = (process.stderr.readline().strip() for _ in range(2))
        name, _, value = token.partition("=")
        assert (name, len(value) > 40) == ("COMFY_MCP_TOKEN", True)
        headers = {"Authorization": f"Bearer {value}"}
        assert httpx2.get(url, headers=headers, trust_env=False).status_code != 401


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--http", "0.0.0.0:8190"], "addresses of this machine"),
        (["--http", "127.0.0.2:8190"], "127.0.0.1 or ::1"),
        (["--http", "evil.example:8190"], "addresses of this machine"),
        (["--http", "[::1]:65536"], "[HOST:]PORT"),
        (["--hosted"], "hosted"),
        (["no such folder"], "does not exist"),
    ],
)
def test_wrong_options_are_refused(command: CommandLine, args: list[str], said: str) -> None:
    """Before anything is served."""
    ended = command("mcp", *args, COMFY_API_KEY="key", COMFY_MCP_TOKEN=TOKEN)
    assert ended.status == 2
    assert said in ended.err


def test_a_short_token_is_refused(command: CommandLine) -> None:
    """It could be guessed."""
    ended = command("mcp", "--http", "0", COMFY_MCP_TOKEN="short")
    assert (ended.status, "COMFY_MCP_TOKEN" in ended.err) == (2, True)


def test_a_port_in_use_is_an_error_with_advice(command: CommandLine) -> None:
    """Nothing else is printed."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        ended = command("mcp", "--http", port, COMFY_MCP_TOKEN=TOKEN)
    assert ended.status == 1
    [line] = ended.err.splitlines()
    assert line.startswith(f"Error: cannot listen on 127.0.0.1:{port}: ")
    assert line.endswith("; name another port with --http, or end the program that uses it")


@pytest.mark.long
def test_two_hundred_calls_of_eight_agents_at_once(
    comfy: ComfyServer, command: CommandLine, folder: Path
) -> None:
    """Each is answered; each run has an id of its own, and is sent once."""
    with ExitStack() as stack:
        url = stack.enter_context(http_door(command, folder))
        agents = [stack.enter_context(agent_over_http(url)) for _ in range(8)]
        calls: list[Any] = []
        for n in range(200):
            agent, kind = agents[n % 8], n // 8 % 5
            if kind < 2:
                inputs = {**SMALL, "seed": n}
                calls.append(agent.begin("run", workflow="draw.json", inputs=inputs))
            else:
                tool = ("inputs", "nodes", "server")[kind - 2]
                given = {"nodes": {"search": "image"}}.get(tool, {})
                calls.append(agent.begin(tool, **given))
        answers = [one.result(LIMIT) for one in calls]
        errors = [one.facts for one in answers if one.is_error]
        assert errors == []
        runs = [one for one in answers if "prompt_id" in one.facts]
        waiting = [one for one in runs if one["status"] != "succeeded"]
        for one in waiting:
            assert agents[0]("job", prompt_id=one["prompt_id"])["status"] == "succeeded"
    assert len(runs) == 80
    ids = Counter(one["prompt_id"] for one in runs)
    assert set(ids.values()) == {1}
    assert len(posts(comfy)) == len(comfy.ran) == 80
