"""Values of no form that a ComfyUI gives: none ends a thread, a wait or a queue."""

from __future__ import annotations

import ast
import contextlib
import logging
import socket
import threading
import uuid
from pathlib import Path
from reprlib import repr as brief
from typing import Any

import pytest

import comfy_client
from comfy_client import ComfyApi, ComfyError, JobLost, JobTimeout, State
from comfy_client.errors import UnexpectedResponse
from comfy_client.transport import websocket
from comfy_client.transport.decode import decode_text
from comfy_client.transport.frames import FrameError, Frames
from tests.helpers.clients import FAST, Heard, Quick, until
from tests.helpers.work import lines
from tests.hostile.server import GRAPH, Comfy, answer, event, frame, greet, hold, status
from tests.hostile.test_bounds import within

HUGE = 10**400


def poll(server: Comfy) -> ComfyApi:
    api = ComfyApi(server.url, transport="poll")
    api.timing = FAST
    return api


# -- the event thread ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "remaining", ["3", None, True, [], {}, 1e400, HUGE, -HUGE, "\ud800"], ids=brief
)
def test_a_number_of_the_queue_of_any_type_does_not_end_the_polls(remaining: Any) -> None:
    """Once the server tells the truth again, so do the events."""
    said: list[Any] = [0]
    with Comfy() as server:
        server.lies["GET /prompt"] = lambda _: answer(
            body={"exec_info": {"queue_remaining": said[0]}}
        )
        with Quick(server.url, transport="poll") as api:
            heard = Heard(api)
            api.on("status", lambda _: None)  # starts the event thread
            said[0], asked = remaining, len(server.requests)
            until(lambda: len(server.requests) > asked + 2)
            said[0] = 5
            until(lambda: [e for e in heard("status") if e.queue_remaining == 5])
            assert api.state is State.POLLING


def test_an_unexpected_decoding_error_closes_the_socket_and_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As when memory is out while a message is decoded: the next socket may bring smaller ones."""
    failing = [True]

    def decode_or_not(*args: Any) -> Any:
        if failing[0]:
            raise MemoryError
        return decode_text(*args)

    monkeypatch.setattr(websocket, "decode_text", decode_or_not)
    with Comfy() as server, Quick(server.url) as api:
        server.ws = greet
        heard = Heard(api)
        api.on("status", lambda _: None)  # starts the event thread
        until(lambda: len([1 for r in server.requests if r.path.endswith("/ws")]) >= 4)
        failing[0] = False
        until(lambda: heard("status"))
        assert api.run(GRAPH, timeout=20).images
        (gone, *_) = heard("disconnected")
        assert "MemoryError" in str(gone.error)
    logged = [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert ["bug in comfy_client" in r.getMessage() for r in logged] == [True]


def test_a_node_id_of_dots_holds_nobody_up() -> None:
    """An id has no more characters than 256, before anything is looked up by it."""

    def send_dots(conn: socket.socket, server: Comfy) -> None:
        conn.sendall(status())
        until(lambda: server.prompts)
        (prompt_id,) = server.prompts
        for kind in ("progress", "executing", "executed"):
            conn.sendall(event(kind, prompt_id=prompt_id, node="." * 400_000, value=1, max=2))
        hold(conn)

    with Comfy() as server:
        server.ws, server.ended = send_dots, False
        api = ComfyApi(server.url)
        heard = Heard(api)
        job = api.submit(GRAPH)
        until(lambda: heard("executed"))
        with within(1.0):
            assert job.progress.fraction < 1
            assert len(job.why()) < 2000
            api.close()


def test_a_text_has_another_limit_than_a_picture() -> None:
    """Of 32 MiB, told by the head of the frame; decoded it would take many times that."""
    for opcode, size, is_refused in ((1, 33, True), (2, 33, False), (1, 31, False), (2, 513, True)):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            frames = Frames(ours, 512 << 20, max_text=32 << 20)
            theirs.sendall(frame(opcode, final=False) + frame(0, size=size << 20))
            frames.read()
            with pytest.raises(FrameError) if is_refused else contextlib.nullcontext():
                assert frames.next() is None


def test_a_client_gives_up_a_socket_that_brings_a_text_beyond_measure() -> None:
    """And dials again."""
    sent: list[int] = []

    def send_much(conn: socket.socket, _: Comfy) -> None:
        sent.append(1)
        conn.sendall(status() + frame(1, size=33 << 20))
        hold(conn)

    with Comfy() as server, Quick(server.url) as api:
        server.ws = send_much
        heard = Heard(api)
        api.on("status", lambda _: None)  # starts the event thread
        until(lambda: len(sent) > 1 and heard("disconnected"))
        assert "a text of more than the 33554432 bytes" in str(heard("disconnected")[0].error)


# -- waits -----------------------------------------------------------------------------------


def run_on(server: Comfy, seconds: float = 25.0) -> Any:
    """What a run ends in, that is not the caller's patience."""
    with poll(server) as api:
        try:
            return api.run(GRAPH, timeout=seconds)
        except JobTimeout:
            raise
        except ComfyError as exc:
            return exc


@pytest.mark.parametrize("odd", [{}, [], None, 1.5, HUGE, True, "\ud800", "x" * 300], ids=brief)
def test_an_id_of_any_type_in_the_jobs_list_keeps_no_job_from_its_end(odd: Any) -> None:
    """Nor one in the queue."""
    with Comfy() as server:
        jobs = {"jobs": [{"id": odd, "status": "pending"}]}
        server.lies["GET /jobs"] = lambda _: answer(body=jobs)
        assert run_on(server).images
        server.lies["GET /queue"] = lambda _: answer(
            body={"queue_running": [], "queue_pending": [[odd, odd, odd, odd, odd]]}
        )
        assert run_on(server).images


@pytest.mark.parametrize("route", ["GET /jobs", "GET /queue"])
def test_thousands_of_strange_prompts_keep_no_job_from_its_end(route: str) -> None:
    """In the queue or the list of jobs, and beside ours in the history; they take no square."""
    odd = ["", "\ud800", "x" * 300, "../..", "\n", "{}", "\u00e9"]
    work = []
    for count in (1000, 4000):
        records = [[n, f"{odd[n % len(odd)]}{n}", {}, {}, []] for n in range(count)]
        lists = {
            "GET /jobs": {"jobs": [{"id": record[1], "status": "pending"} for record in records]},
            "GET /queue": {"queue_running": records[:9], "queue_pending": records[9:]},
        }
        others = {str(record[1]): {"prompt": record, "outputs": {}} for record in records}
        with Comfy() as server:

            def history(request: Any, server: Comfy = server, others: Any = others) -> bytes:
                prompt_id = request.path.rpartition("/")[2]
                has_ours = prompt_id in server.prompts
                return answer(
                    body=others | ({prompt_id: server.entry(prompt_id)} if has_ours else {})
                )

            server.lies = {route: lambda _, body=lists[route]: answer(body=body)}
            server.lies["GET /history"] = history
            ended: list[Any] = []
            ran = lines(lambda server=server, ended=ended: ended.append(run_on(server)))
            assert ended[0].images
            work.append(ran / len(server.requests))
    # Kinds of requests vary a little, and only the large answer is decoded in pieces.
    assert work[1] < 12 * work[0], work


@pytest.mark.parametrize("stamp", [HUGE, "x", {}, [], None, True, 1e400], ids=brief)
def test_a_time_of_any_type_in_a_record_is_none(stamp: Any) -> None:
    """And the result is there."""

    def lie(request: Any) -> bytes:
        prompt_id = request.path.rpartition("/")[2]
        entry = server.entry(prompt_id)
        for _, data in entry["status"]["messages"]:
            data["timestamp"] = stamp
        return answer(body={prompt_id: entry} if prompt_id in server.prompts else {})

    with Comfy() as server:
        server.lies["GET /history/"] = lie
        assert run_on(server).images


@pytest.mark.parametrize("prompt_id", ["\ud800", {}, 7, None, "x" * 300, ""], ids=brief)
def test_a_receipt_for_what_is_no_id_is_no_receipt(prompt_id: Any) -> None:
    """The submission is looked for, and ends in an error that says what came."""
    with Comfy() as server:
        server.lies["POST /prompt"] = lambda _: answer(body={"prompt_id": prompt_id, "number": 1})
        assert isinstance(run_on(server), ComfyError)


@pytest.mark.parametrize("number", [{}, [], "x", HUGE, 1e400, True], ids=brief)
def test_a_place_of_any_type_in_a_receipt_is_none(number: Any) -> None:
    """Whatever is asked of the job."""
    with Comfy() as server, poll(server) as api:
        server.ended = False
        server.lies["POST /prompt"] = lambda r: answer(
            body={"prompt_id": r.json()["prompt_id"], "number": number}
        )
        jobs = [api.submit(GRAPH) for _ in range(2)]
        for job in jobs:
            assert job.why()
            assert job.queue_position in (None, 0, 1)


@pytest.mark.parametrize("value", [HUGE, -HUGE, 1e400, 10**308, "x", {}], ids=brief)
def test_a_step_of_any_size_leaves_the_wait_to_its_time(value: Any) -> None:
    """What is not a finite number is None."""

    def send(conn: socket.socket, server: Comfy) -> None:
        conn.sendall(status())
        until(lambda: server.prompts)
        for prompt_id in server.prompts:
            conn.sendall(event("executing", prompt_id=prompt_id, node="3"))
            conn.sendall(event("progress", prompt_id=prompt_id, node="3", value=value, max=value))
        hold(conn)

    with Comfy() as server, ComfyApi(server.url) as api:
        server.ws, server.ended = send, False
        heard = Heard(api)
        job = api.submit(GRAPH)
        until(lambda: heard("progress"))
        with pytest.raises(JobTimeout):
            job.result(0.1)
        assert 0 <= job.progress.fraction < 1


def test_the_first_of_several_end_events_counts() -> None:
    """Receivers hear of one, and the job ends so."""
    ends = ("execution_success", "execution_error", "execution_interrupted")
    submitted = threading.Event()

    def send(conn: socket.socket, server: Comfy) -> None:
        conn.sendall(status())
        assert submitted.wait(30)
        for prompt_id in server.prompts:
            # Of node 9 nothing is told, so history has to be asked.
            conn.sendall(event("execution_start", prompt_id=prompt_id))
            conn.sendall(b"".join(event(end, prompt_id=prompt_id) for end in ends * 3))
            conn.sendall(event("custom.last", prompt_id=prompt_id))
        hold(conn)

    with Comfy() as server, ComfyApi(server.url) as api:
        heard = Heard(api)
        server.ws = send
        server.lies["GET /history/"] = lambda _: until(lambda: heard("custom.last")) and False
        job = api.submit(GRAPH)
        submitted.set()
        assert [file.filename for file in job.result(30).files] == ["a.png"]
        assert [e.name for e in heard.events if e.name in ends] == ["execution_success"]


# -- other users ------------------------------------------------------------------------------


def test_a_prompt_of_another_user_with_our_mark_is_not_ours() -> None:
    """Anybody sees our ids in the queue, and can send them along."""
    ours = "00000000-0000-4000-8000-0000000000aa"
    extra = {"comfy_client_prompt_id": ours, "client_id": "them"}
    with Comfy() as server, poll(server) as api:
        server.lies["GET /queue"] = lambda _: answer(
            body={"queue_running": [], "queue_pending": [[1, "theirs", GRAPH, extra, []]]}
        )
        job = api.job(ours)
        with pytest.raises(JobLost):
            job.result(60)
        assert job.prompt_id == ours


def test_ids_of_clients_and_prompts_cannot_be_guessed() -> None:
    """Of a client or a prompt: all of it is random, but for what says that it is."""
    with Comfy() as server:
        ids = []
        for _ in range(2):
            with poll(server) as api:
                ids += [api.client_id, api.submit(GRAPH).prompt_id]
    assert len(set(ids)) == 4
    assert {uuid.UUID(one).version for one in ids} == {4}


def test_a_record_of_another_prompt_under_our_id_is_no_evidence() -> None:
    """It ends no job well."""

    def lie(request: Any) -> bytes:
        return answer(body={request.path.rpartition("/")[2]: server.entry("another")})

    with Comfy() as server:
        server.lies["GET /history/"] = lie
        with poll(server) as api, pytest.raises(UnexpectedResponse, match="about another"):
            api.get_history("mine")
        found = run_on(server)
        assert isinstance(found, UnexpectedResponse)


# -- programs ---------------------------------------------------------------------------------

#: What runs a text, or an object that it describes.
RUNS = {"eval", "exec", "compile", "__import__", "system", "popen"}
UNPICKLE = {"pickle", "marshal", "shelve", "dill", "yaml", "subprocess", "code", "runpy"}
#: Without a shell, ``--open`` starts the desktop's opener with a picture's absolute path or URL,
#: and ``serve`` the program that the user names.
STARTERS = (Path("cli", "printing.py"), Path("cli", "served_program.py"))


def test_no_module_of_the_client_runs_what_it_is_sent() -> None:
    """Nothing in it could: neither as Python, nor as a command, nor out of a pickle."""
    root = Path(comfy_client.__file__).parent
    found = []
    for path in (one for one in root.rglob("*.py") if "testing" not in one.parts):
        spared = {"subprocess"} if path.relative_to(root) in STARTERS else set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: set[str] = set()
            if isinstance(node, ast.Import):
                names = {alias.name.partition(".")[0] for alias in node.names} & UNPICKLE
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = {str(node.module).partition(".")[0]} & UNPICKLE
            elif isinstance(node, ast.Call):
                called = node.func
                name = called.attr if isinstance(called, ast.Attribute) else ast.unparse(called)
                of = ast.unparse(called.value) if isinstance(called, ast.Attribute) else ""
                names = {name} & RUNS if of in ("", "os", "builtins") else set()
            names -= spared
            found += [f"{path.relative_to(root)}:{node.lineno}: {name}" for name in names]
    assert not found


# -- what is left ------------------------------------------------------------------------------


def nested(levels: int) -> Any:
    value: Any = "end"
    for _ in range(levels):
        value = [value]
    return value


def test_outputs_that_nest_too_deep_do_not_end_a_sweep(tmp_path: Path) -> None:
    """They are left out, in what events say, too; the others are there."""
    with Comfy() as server, poll(server) as api:
        server.outputs["1"] = {"deep": nested(900)}
        rows = api.sweep(GRAPH, {"3.seed": [1, 2]}, journal=tmp_path / "journal")
        assert [row.error for row in rows] == [None, None]
        assert [[file.node_id for file in row.result.files] for row in rows] == [["9"], ["9"]]
        assert [row.result.prompt_id for row in rows] == list(server.prompts)


def test_a_name_that_cannot_be_asked_for_keeps_no_other_file_from_being_saved(
    tmp_path: Path,
) -> None:
    """It is in raw, and no file."""
    names = ["a.png", "\ud800.png", "x" * 5000, "b.png"]
    with Comfy() as server, poll(server) as api:
        server.outputs["9"]["images"] = [{"filename": name} for name in names]
        server.outputs["9"]["images"].append({"filename": "c.png", "subfolder": "\udfff"})
        server.outputs["9"]["text"] = ["half \ud800"]
        result = api.run(GRAPH, timeout=20)
        assert [path.name for path in result.save(tmp_path)] == ["a.png", "b.png"]
        assert len(result["9"].raw["images"]) == 5
        assert result.texts == ("half ?",)


@pytest.mark.parametrize(
    "version", ["9" * 10_000, "0." * 10_000, "\ud800", "", {}, HUGE], ids=brief
)
def test_a_version_of_any_form_says_something_or_nothing(version: Any) -> None:
    """Cancelling ends in an answer, or in what the server refuses."""
    with Comfy() as server, poll(server) as api:
        server.ended = False
        job = api.submit(GRAPH)
        server.lies["GET /system_stats"] = lambda _: answer(
            body={"system": {"comfyui_version": version}, "devices": []}
        )
        server.lies["GET /queue"] = lambda _: answer(
            body={
                "queue_running": [[1, job.prompt_id, GRAPH, {}, ["9"]]],
                "queue_pending": [],
            }
        )
        with contextlib.suppress(ComfyError):
            job.cancel()
