"""Whatever a server says: no error, log or command shows what a terminal obeys."""

from __future__ import annotations

import contextlib
import inspect
import json
import logging
import socket
import struct
import time
import types
import typing
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import pytest

import comfy_client
from comfy_client import (
    BasicCredentials,
    BearerCredentials,
    CheckReport,
    ClientStats,
    CloudApi,
    ComfyApi,
    ComfyError,
    ComfyPool,
    ConversionWarning,
    Credentials,
    DoctorReport,
    EnvCredentials,
    Graph,
    HeaderCredentials,
    HostedApi,
    Job,
    MissingExtra,
    Node,
    Output,
    OutputFile,
    PooledJob,
    PoolStatus,
    PromptOptions,
    QueryCredentials,
    ServerStatus,
    State,
    Sweep,
    SweepRow,
    Template,
    Timing,
    UnexpectedResponse,
    Upload,
    Workflow,
    distributed,
    models,
)
from comfy_client.cli.main import main
from comfy_client.distributed import ComfyPlugin
from comfy_client.testing import ComfyServer
from tests.helpers.command_line import runner
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
        run = runner().invoke(
            main, ["demo", "--host", server.url, "--output", str(tmp_path), "--timeout", "10"]
        )
    assert "checkpoint:" in run.output
    assert "without some of its outputs" in run.stderr
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
        run = runner().invoke(main, ["doctor", "--host", server.url, "--timeout", "5"])
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
                ran = runner().invoke(main, [*args, *more], env=env)
                said = ran.stdout + ran.stderr
                assert said, args
                assert all(c.isprintable() or c == "\n" for c in said), args
                is_forged = any(line.startswith("forged") for line in said.splitlines())
                assert not is_forged or args == ["logs"], args  # which has lines of its own


# -- values ---------------------------------------------------------------------------------

#: OSC 52, CSI, C1, turned directions, line breaks of all kinds.
EVIL = "x\x1b]52;c;AAAA\x07\x9b31m\u202e\u2066\u2028\u2029\x85\x0b\x7f\r\nforged\nforged\t"
#: The same, and markup.
MARKUP = f"{EVIL}<script>\"'>"
PUBLIC = {
    f"{module.__name__}.{name}": kind
    for module in (comfy_client, distributed, models)
    for name in module.__all__
    if inspect.isclass(kind := getattr(module, name))
}
#: Those whose text has several lines.
TABLES = (
    *(CheckReport, ClientStats, DoctorReport, PoolStatus, Workflow, Node),
    *(models.Histories, models.HistoryEntry, models.NodeDef, models.NodeDefs),
    *(models.Queue, models.SystemStats),
)


#: Facts of a pool and of the doctor that no server tells.
HAVE_OWN = (PoolStatus, ServerStatus, DoctorReport)
USERS_OWN = {"host": "http://127.0.0.1:1", "mode": "balanced", "state": "ready"}


def evil(hint: Any) -> Any:
    """A value of a type, made of hostile texts wherever there can be one."""
    kind, args = typing.get_origin(hint), typing.get_args(hint)
    if kind is typing.Annotated:
        return evil(args[0])
    if kind is typing.Literal:
        return args[0]
    if kind in (typing.Union, types.UnionType):
        return evil(next((one for one in args if one is str), args[0]))
    if kind is tuple:
        return tuple(evil(one) for one in args if one is not ...)
    if kind in (Mapping, dict, MutableMapping):
        return {evil(args[0]): evil(args[1])}
    if kind in (list, Sequence, Iterable):
        return [evil(args[0])]
    if kind is type:
        return ComfyError
    if hint in (Any, object):
        return {EVIL: [EVIL]}
    if hint in (int, float, bool):
        return hint(3)
    if hint is memoryview:
        return memoryview(EVIL.encode())
    if hint is datetime:
        return datetime.now(UTC)
    if inspect.isclass(hint) and issubclass(hint, BaseException):
        return ComfyError(EVIL)
    if attrs.has(hint):
        return made(hint)
    return EVIL


def made(kind: type) -> Any:
    """One of a public class, as a server, a file or a journal could have it made."""
    if kind in (Job, PooledJob):
        handle = types.SimpleNamespace(place=str, server=None)
        facts = {"prompt_id": EVIL, "status": "pending", "handle": handle}
        return type(kind.__name__, (kind,), {**facts, "__init__": lambda self: None})()
    graph = {EVIL: {"class_type": EVIL, "inputs": {EVIL: EVIL}, "_meta": {"title": EVIL}}}
    if kind is Workflow:
        return Workflow(graph)
    if kind is Node:
        return Workflow(graph)[EVIL]
    if kind is Graph:
        return Graph()
    if kind is Template:
        return Template(graph, inputs={EVIL: (EVIL, EVIL)}, outputs={EVIL: EVIL})
    if kind is models.Histories:
        return models.Histories({EVIL: made(models.HistoryEntry)})
    if kind is models.NodeDefs:
        return models.NodeDefs({EVIL: made(models.NodeDef), "b": made(models.NodeDef)})
    if kind is Sweep:
        return Sweep([made(SweepRow)])
    if kind is ComfyPlugin:
        return ComfyPlugin("http://127.0.0.1:1")
    if kind is Output:
        return made(OutputFile)
    if kind is ConversionWarning:
        return ConversionWarning(EVIL)
    if issubclass(kind, MissingExtra):
        return MissingExtra(EVIL, extra=EVIL, name=EVIL)
    if issubclass(kind, BaseException):
        value = kind.__new__(kind)
        ComfyError.__init__(value, EVIL)
        return value
    value = kind.__new__(kind)
    names = {**vars(comfy_client.events), **PUBLIC, "Mapping": Mapping, "Sequence": Sequence}
    short = {name.rpartition(".")[2]: one for name, one in names.items()}
    hints = typing.get_type_hints(kind, localns=short)
    for field in attrs.fields(kind):
        of_user = USERS_OWN.get(field.name) if kind in HAVE_OWN else None
        object.__setattr__(value, field.name, of_user or evil(hints[field.name]))
    if kind is OutputFile:
        object.__setattr__(value, "_files", None)  # it belongs to no client
    return value


#: What a user alone makes, with words of their own.
OWN = {
    *(CloudApi, ComfyApi, ComfyPool, Credentials, HostedApi, PromptOptions),
    *(State, Timing, Upload),
    *(BasicCredentials, BearerCredentials, EnvCredentials, HeaderCredentials, QueryCredentials),
}


@pytest.mark.parametrize("name", [name for name in PUBLIC if PUBLIC[name] not in OWN])
def test_no_public_value_shows_what_a_terminal_obeys(name: str) -> None:
    """Neither its ``repr`` nor its ``str``, nor what IPython shows; no line is forged."""
    value = made(PUBLIC[name])
    shown = [repr(value), str(value), f"{value}", ascii(value)]
    if hasattr(value, "_repr_mimebundle_") and not isinstance(value, Job):
        shown.append(value._repr_mimebundle_()["text/plain"])
    for text in shown:
        lines = text.split("\n") if isinstance(value, TABLES) else [text]
        if isinstance(value, ComfyError | ConversionWarning) and text == str(value):
            lines = text.expandtabs().split("\n")  # they keep the lines of what they tell
        else:
            assert not any(line.startswith("forged") for line in lines), text
        assert all(line.isprintable() for line in lines), text


@pytest.mark.parametrize(
    "name", [name for name, kind in PUBLIC.items() if hasattr(kind, "_repr_mimebundle_")]
)
def test_no_public_value_is_markup_in_a_notebook(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All texts of its HTML are escaped, and their number and size is bounded."""
    if PUBLIC[name] in (*OWN, Job, PooledJob):
        return
    monkeypatch.setattr(f"{__name__}.EVIL", MARKUP)
    page = made(PUBLIC[name])._repr_mimebundle_()["text/html"]
    assert "<script" not in page
    assert all(line.expandtabs().isprintable() for line in page.split("\n"))
    assert len(page) < 100_000


def test_no_upload_shows_what_a_terminal_obeys(tmp_path: Path) -> None:
    """It may be an output, a URL, or a file of a stranger."""
    file = tmp_path / EVIL.replace("/", "")
    file.write_bytes(b"x")
    output: Any = types.SimpleNamespace(
        filename=EVIL, subfolder=EVIL, type=EVIL, url="http://127.0.0.1:1/view", bytes=bytes
    )
    with file.open("rb") as stream:
        values = [
            Upload(output),
            Upload(f"http://127.0.0.1:1/{EVIL}", fetch=True),
            Upload(stream),
            Upload(file),
        ]
        assert all(repr(value).isprintable() for value in values)
        # The last one is the path as the user gave it.
        assert all(str(value).isprintable() for value in values[:-1])


@pytest.mark.parametrize(
    "use",
    [
        lambda flow, node: flow[node],
        lambda flow, node: node.set("a", node, force=True),
        lambda flow, node: node.set(node, 1),
        lambda flow, node: flow.set({node: 1}),
        lambda flow, node: Workflow(node),
        lambda flow, node: ComfyApi("http://127.0.0.1:1").submit(node),
        lambda flow, node: ComfyApi("http://127.0.0.1:1").sweep(flow, {node: [1]}),
        lambda flow, node: ComfyApi("http://127.0.0.1:1").sweep(flow, {EVIL: [1]}),
        lambda flow, node: flow["none"],
        lambda flow, node: node["none"],
        lambda flow, node: Template(flow, inputs={"a": node}),
    ],
)
def test_no_error_that_quotes_a_value_shows_what_a_terminal_obeys(use: Any) -> None:
    """Errors of Python, too, which know nothing of terminals."""
    flow = made(Workflow)
    with pytest.raises((TypeError, ValueError, LookupError, AttributeError, ComfyError)) as caught:
        use(flow, flow[EVIL])
    assert all(sign.isprintable() or sign == "\n" for sign in str(caught.value))
    assert not any(line.startswith("forged") for line in str(caught.value).splitlines())


@pytest.mark.parametrize(
    "arguments",
    [
        ("prompt %s: submitted", EVIL),
        ("prompt %s: %s", EVIL, ComfyError(EVIL)),
        ("%s and %r", ValueError(EVIL), EVIL),
        ("%s", [EVIL, {EVIL: EVIL}]),
        ("%s", {EVIL: EVIL}),
        ("%s", made(Workflow)),
        ("%s", made(Job)),
    ],
    ids=["id", "error", "other error", "list", "dict", "workflow", "job"],
)
def test_no_line_of_a_log_is_made_by_a_server(
    arguments: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever is logged of its words, ids and errors."""
    with contextlib.closing(ComfyApi("http://127.0.0.1:1")):
        logging.getLogger("comfy_client").warning(*arguments)
    (said,) = [text for text in caplog.messages if "52;c;AAAA" in text]
    assert all(sign.isprintable() or sign == "\n" for sign in said)
    assert not any(line.strip().startswith("forged") for line in said.splitlines())


@pytest.mark.parametrize("kind", [ComfyError, RuntimeError, SyntaxError])
def test_no_line_of_a_traceback_in_a_log_is_made_by_a_server(
    kind: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    """Of an error, of its cause and of the notes on it."""
    with contextlib.closing(ComfyApi("http://127.0.0.1:1")):
        try:
            try:
                raise ValueError(EVIL)
            except ValueError as exc:
                error = kind(EVIL)
                error.add_note(EVIL)
                raise error from exc
        except kind:
            logging.getLogger("comfy_client").exception("receiver failed")
    (record,) = [one for one in caplog.records if one.getMessage() == "receiver failed"]
    said = logging.Formatter().format(record)
    assert said.count("52;c;AAAA") == 3
    assert all(sign.isprintable() or sign in "\n\t" for sign in said)
    assert not any(line.startswith("forged") for line in said.splitlines())


@pytest.mark.parametrize("sign", [*"\n\r\t\x07\x1b\x7f\x85\x9b\u2028\u2029\u202e\u2066\u061c"])
def test_a_receipt_with_an_id_that_is_not_printable_is_none(
    sign: str, caplog: pytest.LogCaptureFixture
) -> None:
    """No server makes such ids, and they would stand in every message about the prompt."""
    caplog.set_level(logging.DEBUG, "comfy_client")
    answer = (200, {}, {"prompt_id": f"p{sign}2026 INFO app: forged", "number": 1})
    with ComfyServer() as server, ComfyApi(server.url, transport="poll") as api:
        with server.on("POST", "/prompt", answer), pytest.raises(UnexpectedResponse) as caught:
            api.submit(GRAPH)
        assert sign not in str(caught.value)
    assert not [text for text in caplog.messages if sign in text]
    assert str(caught.value).isprintable()
