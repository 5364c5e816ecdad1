"""Whatever a server says: no error, log or command shows what a terminal obeys."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import struct
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from comfy_client import ComfyApi, ComfyError
from comfy_client.cli.main import main
from comfy_client.testing import ComfyServer
from tests.hostile.server import (
    GRAPH,
    Comfy,
    Request,
    answer,
    frame,
    hold,
    status,
)

#: Sets a terminal's title, clears it, and turns what stands behind it around.
OBEYED = "\x1b]0;owned\x07\x1b[2J\x9b2J\u202e\u2066\u061c"
ERROR = {"type": OBEYED, "message": OBEYED, "details": f"{OBEYED}\nline"}
REFUSED = {"errors": [ERROR], "class_type": OBEYED, "dependent_outputs": ["2"]}


@pytest.mark.parametrize(
    "said",
    [
        (200, {}, {"prompt_id": f"a{OBEYED}", "number": 1, "node_errors": {"2": REFUSED}}),
        (400, {}, {"error": ERROR, "node_errors": {"2": REFUSED, OBEYED: REFUSED}}),
        (400, {}, {"error": OBEYED}),
        (500, {"Content-Type": "text/plain"}, OBEYED),
        (200, {"Content-Type": "text/html"}, OBEYED),
    ],
)
def test_no_terminal_obeys_an_error_or_a_log(said: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever the server puts where."""
    caplog.set_level(logging.DEBUG)
    with ComfyServer() as server, ComfyApi(server.url, transport="poll") as api:
        server.on("POST", "/prompt", said)
        with contextlib.suppress(ComfyError):
            api.submit(GRAPH)
        with pytest.raises(ComfyError) as caught:
            api.submit(GRAPH, strict=True)
    logged = [record.getMessage() for record in caplog.records if record.name == "comfy_client"]
    for text_ in (str(caught.value), *logged):
        assert not set(OBEYED) - set("]0;ownedJ2[") & set(text_)
    assert "\\x1b" in str(caught.value)


def test_an_error_shows_letters_of_any_language_and_lines_as_they_are() -> None:
    """Only what a terminal obeys is spelt out."""
    said = "node \u00e4\u4f60\U0001f469\u200d\U0001f680\u00a0b:\n\tx"
    assert str(ComfyError(said)) == said
    assert str(ComfyError("a\r\nb\x7f")) == "a\nb\\x7f"


# -- the command line -----------------------------------------------------------------------


def test_the_command_line_prints_nothing_that_a_terminal_obeys(tmp_path: Path) -> None:
    """Nor does a preview get an ending that something opens as what it is not."""
    evil = "\x1b]52;c;AAAA\x07\x9b31m\u202e\r\nforged"
    told = {"9": {"class_type": evil, "errors": [{"message": evil, "details": evil}]}}

    def receipt(request: Request) -> Any:
        body = request.json()
        server.prompts[body["prompt_id"]] = body
        return answer(body={"prompt_id": body["prompt_id"], "number": 1, "node_errors": told})

    def ws(conn: socket.socket, server: Comfy) -> None:
        conn.sendall(status())
        until = time.monotonic() + 10
        while not server.prompts and time.monotonic() < until:
            time.sleep(0.01)
        about = {
            "prompt_id": next(iter(server.prompts)),
            "node_id": "3",
            "image_type": "text/html",
        }
        head = json.dumps(about).encode()
        conn.sendall(frame(2, struct.pack(">II", 4, len(head)) + head + b"<script>"))
        server.ended = True
        hold(conn)

    with Comfy() as server:
        server.ws, server.ended = ws, False
        server.lies = {
            "GET /models": lambda _: answer(body=[evil]),
            "GET /object_info": lambda _: answer(
                body={
                    "CheckpointLoaderSimple": {"input": {"required": {"ckpt_name": [[evil]]}}},
                }
            ),
            "POST /prompt": receipt,
        }
        run = CliRunner().invoke(
            main, ["demo", "--host", server.url, "--output", str(tmp_path), "--timeout", "10"]
        )
    assert "checkpoint:" in run.output
    assert "without some of its outputs" in run.output
    assert all(sign.isprintable() or sign == "\n" for sign in run.output)
    assert not any(line.startswith("forged") for line in run.output.splitlines())
    assert {path.suffix for path in tmp_path.iterdir()} <= {".png", ".jpg"}


def test_the_doctor_prints_nothing_that_a_terminal_obeys() -> None:
    """Whatever the server says of itself."""
    evil = "\x1b]52;c;AAAA\x07\x9b31m\u202e\r\nforged"
    told = {
        "system": {"comfyui_version": evil, "os": evil, "python_version": evil, "argv": [evil]},
        "devices": [{"name": evil, "type": evil, "vram_total": evil}],
    }
    with Comfy() as server:
        server.lies = {
            "GET /system_stats": lambda _: answer(body=told, headers=[("Server", "\x1b[2J")]),
            "GET /models": lambda _: answer(body=[evil]),
        }
        run = CliRunner().invoke(main, ["doctor", "--host", server.url, "--timeout", "5"])
    assert "52;c;AAAA" in run.output
    assert all(sign.isprintable() or sign == "\n" for sign in run.output)
    assert not any(line.startswith("forged") for line in run.output.splitlines())


def test_no_command_prints_what_a_terminal_obeys_of_lists_and_logs(tmp_path: Path) -> None:
    """Whatever names a server has; as JSON it is spelt out."""
    evil = "x\x1b]52;c;AAAA\x07\x9b31m\u202e\r\nforged"
    graph = {"1": {"class_type": evil, "inputs": {}, "_meta": {"title": evil}}}
    record = [1, f"a{evil}", graph, {}, ["1"]]
    failed = ["execution_error", {"exception_message": evil, "node_id": "1"}]
    files = {"1": {"images": [{"filename": evil, "subfolder": evil, "type": "output"}]}}
    status = {"status_str": "error", "completed": False, "messages": [failed]}
    node = {"input": {"required": {evil: [[evil], {}]}}, "output": [evil], "category": evil}
    entry = {"prompt": record, "outputs": files, "status": status}
    answers = {
        "/queue": {"queue_running": [record], "queue_pending": [record]},
        "/history": {"a": entry},
        "/history/*": {"a": entry},
        "/models": [evil],
        "/models/*": [evil],
        "/object_info": {evil: node},
        "/object_info/*": {"evil": {**node, "description": evil, "display_name": evil}},
        "/system_stats": {
            "system": {"comfyui_version": evil, "os": evil, "python_version": evil},
            "devices": [{"name": evil, "type": evil, "vram_total": 1, "vram_free": 1}],
        },
        "/internal/logs/raw": {"entries": [{"t": evil, "m": evil}], "size": {}},
        "/features": {evil: evil},
    }
    with ComfyServer() as server:
        for path, body in answers.items():
            server.on("GET", path, (200, {}, body))
        commands = "queue,history,models,models x,nodes,nodes evil,info,logs,free,nodes none"
        for args in map(str.split, [*commands.split(","), "download a", f"job {'a' * 36}"]):
            for more in ([], ["--json"]):
                env = {"COMFYUI_HOST": server.url, "HOME": str(tmp_path)}
                ran = CliRunner().invoke(main, [*args, *more], env=env)
                said = ran.stdout + ran.stderr
                assert said, args
                assert all(c.isprintable() or c == "\n" for c in said), args
                is_forged = any(line.startswith("forged") for line in said.splitlines())
                assert not is_forged or args == ["logs"], args  # which has lines of its own
