"""The commands ``api``, ``object-info``, ``help`` and ``schema``."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import click
import pytest

import comfy_client as package
from comfy_client.testing import Answer, ComfyServer, Request
from tests.helpers.command_line import COMMAND, LIMIT, CommandLine, check, open_terminal


@pytest.fixture
def server() -> Iterator[ComfyServer]:
    with ComfyServer(credentials=("me", "secret")) as server:
        yield server


@pytest.fixture
def comfy_client(tmp_path: Path, server: ComfyServer) -> CommandLine:
    return CommandLine(tmp_path, server.url, {"COMFYUI_LOGIN": "me:secret"})


@pytest.fixture
def asked(server: ComfyServer) -> list[Request]:
    """The requests to ``/thing``, which answers with what was sent."""
    requests: list[Request] = []

    def answer(request: Request) -> Answer:
        requests.append(request)
        return 201, {}, request.body or b"{}"

    for method in ("GET", "POST", "PUT", "DELETE"):
        server.on(method, "/thing", answer)
    return requests


@pytest.mark.parametrize(
    ("args", "method", "body"),
    [
        (["/thing"], "GET", b""),
        (["/api/thing"], "GET", b""),
        (["delete", "/thing"], "DELETE", b""),
        (["POST", "/thing"], "POST", b""),
        (["/thing", "--data", "some text"], "POST", b"some text"),
        (["PUT", "/thing", "--data", "@body.bin"], "PUT", b"\x00\xff"),
        (["POST", "/thing", "--data", "-"], "POST", b"piped"),
        (["POST", "/thing", "--data", "@-"], "POST", b"piped"),
        (["PUT", "/thing", "--data", "@~/body.bin"], "PUT", b"\x00\xff"),
        (
            ["PUT", "/thing", "--field", "a=1", "--field", "b=x=y", "--field", "c=@text.txt"],
            "PUT",
            {"a": 1, "b": "x=y", "c": "long text"},
        ),
        (
            ["POST", "/thing", "--field", "a=@-", "--field", "b=@@me"],
            "POST",
            {"a": "piped", "b": "@me"},
        ),
        (
            ["POST", "/thing", "--field", 'd={"e": [null, true]}'],
            "POST",
            {"d": {"e": [None, True]}},
        ),
    ],
)
def test_a_request_is_sent_as_it_is_written(comfy_client, asked, args, method, body):
    """With the login, and below /api."""
    (comfy_client.home / "body.bin").write_bytes(b"\x00\xff")
    (comfy_client.home / "text.txt").write_text("long text")
    ran = comfy_client("api", *args, stdin="piped")
    assert ran.status == 0, ran
    [request] = asked
    assert (request.method, request.full_path) == (method, "/api/thing")
    sent = json.loads(request.body) if isinstance(body, dict) else request.body
    assert sent == body


def test_fields_of_a_get_request_go_into_its_query(comfy_client, asked):
    """They are added to the query in the path."""
    assert comfy_client("api", "/thing?a=1&b=", "--field", "c=x y", "--field", "d=2").status == 0
    [request] = asked
    assert dict(request.query) == {"a": "1", "b": "", "c": "x y", "d": "2"}


@pytest.mark.parametrize(
    "args",
    [
        ["queue"],
        ["http://elsewhere.example/queue"],
        ["//elsewhere.example/queue"],
        ["FETCH", "/queue"],
        ["GET", "/queue", "/history"],
        ["POST", "/queue", "--data", "{}", "--field", "a=1"],
        ["POST", "/queue", "--field", "a"],
        ["POST", "/queue", "--data", "@missing.json"],
        ["POST", "/queue", "--data", "-", "--token-file", "-"],
    ],
)
def test_a_path_that_names_another_server_is_refused(comfy_client, server, args):
    """Nothing is sent there, with or without the login."""
    [error] = comfy_client.json("api", *args, status=2)
    assert error["code"] == "usage"
    assert not server.requests


def test_errors_have_the_same_statuses_as_in_other_commands(comfy_client):
    """The message contains the server's answer."""
    assert comfy_client("api", "/queue", COMFYUI_LOGIN="me:wrong").status == 8
    assert comfy_client("api", "/queue", "--host", "http://127.0.0.1:1").status == 3
    [error] = comfy_client.json("api", "/no/such/route", status=1)
    assert error["status"] == 404


def in_a_terminal(comfy_client: CommandLine, *args: str) -> tuple[int, str]:
    """Return the status of a command and what it writes to a terminal."""
    here, there = open_terminal()
    env = {**os.environ, "HOME": str(comfy_client.home), **comfy_client.variables}
    with subprocess.Popen(
        [COMMAND, *args, "--host", str(comfy_client.host)], stdout=there, stderr=there, env=env
    ) as process:
        os.close(there)
        shown = b""
        while True:
            try:
                data = os.read(here, 4096)
            except OSError:  # Linux's way to say that the other end is closed
                break
            shown += data
        os.close(here)
        return process.wait(LIMIT), shown.decode()


@pytest.mark.posix("terminals as files")
def test_a_terminal_gets_indented_json_and_no_control_characters(comfy_client, server):
    """Nor the bytes of a picture."""
    assert in_a_terminal(comfy_client, "api", "/queue")[1].startswith('{\r\n  "queue_running": [')
    server.on("GET", "/text", lambda _: (200, {}, b"a\x1b[2Jb\n\x07c"))
    assert in_a_terminal(comfy_client, "api", "/text") == (0, "a [2Jb\r\n c\r\n")
    server.on("GET", "/picture", lambda _: (200, {}, b"\x89PNG\r\n\x1a\n\0\0"))
    status, said = in_a_terminal(comfy_client, "api", "/picture")
    assert status == 1
    assert "are not for a terminal: use -o FILE" in said


def test_help_prints_the_same_as_the_option(comfy_client):
    """For one command, or for all."""
    assert comfy_client("help").out == comfy_client("--help").out
    listed = comfy_client("help", COLUMNS="80").out.replace("[ARGS]...", "")
    assert "..." not in listed  # no line is cut short
    assert comfy_client("help", "run").out == comfy_client("run", "--help").out
    unknown = comfy_client("help", "rum")
    assert unknown.status == 2
    assert "No such command 'rum'" in unknown.err
    # The nearest, where click names it.
    assert ("'run'" in unknown.err) == hasattr(click.exceptions, "NoSuchCommand")
    assert comfy_client("rum").err.splitlines()[-1] == unknown.err.splitlines()[-1]


@pytest.mark.parametrize(("args", "name"), [([], "commands.json"), (["--classes"], "schema.json")])
def test_the_schema_is_the_file_in_the_package(comfy_client, args, name):
    """As text, or as JSON in one line."""
    text = (resources.files(package) / name).read_text("utf-8")
    assert comfy_client("schema", *args).out == text
    [found] = comfy_client.json("schema", *args)
    assert found == json.loads(text)
    check("schema", found)
