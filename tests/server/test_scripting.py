"""What a test reads of the embedded server; its own answers, messages and scripts."""

from __future__ import annotations

import json
import re
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import trustme
import websocket

from comfy_client import ComfyApi
from comfy_client.testing import (
    PROMPT_ID,
    Answer,
    ComfyServer,
    Finish,
    Request,
    Step,
    cut,
    drip,
    encode,
    frame,
    never_answer,
)
from comfy_client.testing.received import Records
from tests.helpers.bare import (
    LIMIT,
    asking,
    ended,
    everything,
    get,
    heard,
    post,
    raw,
    submit,
    upload,
)
from tests.helpers.graphs import picture
from tests.server.conftest import Dial


@pytest.fixture
def server() -> Iterator[ComfyServer]:
    with ComfyServer() as running:
        yield running


# -- what clients sent ------------------------------------------------------------------


def test_requests_are_recorded(server: ComfyServer) -> None:
    """Method, path, query, headers and body, uploads too; the server itself is not disturbed."""
    post(server, "/api/queue?a=1&b=", {"clear": True}, headers={"X-Me": "you"})
    upload(server, b"some data")
    queue, uploading = server.requests
    assert (queue.method, queue.path, queue.full_path) == ("POST", "/queue", "/api/queue")
    assert (queue.target, queue.query) == ("/api/queue?a=1&b=", {"a": "1", "b": ""})
    assert (queue.headers["x-me"], queue.json()) == ("you", {"clear": True})
    assert b"some data" in uploading.body
    assert (server.root / "input" / "a.png").read_bytes() == b"some data"
    assert "some data" not in repr(uploading)


def test_a_body_that_was_cut_off_is_recorded_as_far_as_it_came(server: ComfyServer) -> None:
    """It takes no effect."""
    with raw(
        server, b"POST /queue HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{"
    ) as one:
        one.shutdown(socket.SHUT_WR)
        everything(one)
    server.until(lambda: server.requests)
    assert server.requests[0].body == b"{"


def test_bodies_of_any_kind_are_read_once_more_by_the_server(server: ComfyServer) -> None:
    """In chunks, empty, large, too large."""
    chunks = iter([b'{"clear"', b": true}"])
    url = f"{server.url}/queue"
    assert requests.post(url, data=chunks, timeout=LIMIT).status_code == 200
    assert server.requests[-1].json() == {"clear": True}
    data = bytes(3 * 2**20)
    answer = requests.post(f"{server.url}/userdata/a.bin", data=data, timeout=LIMIT)
    assert answer.status_code == 200
    assert get(server, "/userdata/a.bin").content == data
    with ComfyServer(max_upload_size=1000) as small:
        assert upload(small, bytes(5000)).status_code == 413
        assert post(small, "/prompt", {"x": "y" * 5000}).status_code == 413


def test_records_are_bounded(server: ComfyServer) -> None:
    """The oldest go first; the last request is always there."""
    for number in range(5):
        get(server, f"/nope/{number}")
    post(server, "/queue", {"x": "y" * 80})
    post(server, "/queue", {"x": "y" * 200})
    records = Records(max_requests=3, max_bytes=100, max_others=10)
    kept = []
    for request in server.requests:
        records.keep_request(request)
        kept.append([each.path for each in records.requests])
    assert kept[3:5] == [["/nope/1", "/nope/2", "/nope/3"], ["/nope/2", "/nope/3", "/nope/4"]]
    assert kept[5:] == [["/nope/3", "/nope/4", "/queue"], ["/queue"]]
    for number in range(15):
        records.keep(records.messages, number)
    assert len(records.messages) <= 10
    assert records.messages[-1] == 14


def test_sockets_and_connections_are_recorded(server: ComfyServer, dial: Dial) -> None:
    """What clients said, and how they introduced themselves."""
    ws = dial("me")
    ws.send('{"type": "feature_flags", "data": {"a": 1}}')
    assert json.loads(ws.recv())["type"] == "feature_flags"
    ws.send("no json")
    ws.send("[1]")
    ws.ping()
    server.until(lambda: len(server.messages) == 2 and server.pings == 1)
    assert server.first_messages == [{"type": "feature_flags", "data": {"a": 1}}]
    assert server.messages[1] == [1]
    assert server.handshakes[0]["Upgrade"] == "websocket"
    assert (server.connections, server.open_connections) == (1, 1)
    with requests.Session() as session:
        for _ in range(3):
            session.get(f"{server.url}/queue", timeout=LIMIT)
        assert (server.connections, server.open_connections) == (2, 2)
    server.until(lambda: server.open_connections == 1)


@pytest.mark.parametrize("is_secure", [False, True], ids=["http", "https"])
def test_a_connection_counts_until_its_socket_is_closed(
    is_secure: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then, its client could send a request that gets lost."""
    context, ca = None, trustme.CA()
    if is_secure:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        ca.issue_cert("127.0.0.1").configure_cert(context)
    usual, seen = socket.socket.close, []
    with ComfyServer(tls=context) as server:

        def close(sock: socket.socket) -> None:
            if sock.fileno() >= 0 and sock.getsockname()[1] == server.port:
                seen.append(server.open_connections)
            usual(sock)

        with monkeypatch.context() as patch, ca.cert_pem.tempfile() as bundle:
            patch.setattr(socket.socket, "close", close)
            with requests.Session() as session:
                session.get(f"{server.url}/queue", timeout=LIMIT, verify=bundle)
            server.until(lambda: not server.open_connections)
    assert seen == [1]


def test_a_connection_counts_while_its_socket_is_being_closed(
    server: ComfyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python forgets the number of a socket a moment before it closes it."""
    usual, seen = socket.socket.close, []
    is_closed = threading.Event()

    def count() -> None:
        seen.append((server.open_connections, is_closed.is_set()))

    counting = threading.Thread(target=count)

    def close(sock: socket.socket) -> None:
        if not (sock.fileno() >= 0 and sock.getsockname()[1] == server.port):
            return usual(sock)
        number = sock.detach()
        counting.start()
        counting.join(0.2)  # a wrong count would be there by then
        is_closed.set()
        return socket.close(number)

    with monkeypatch.context() as patch:
        patch.setattr(socket.socket, "close", close)
        with requests.Session() as session:
            session.get(f"{server.url}/queue", timeout=LIMIT)
        assert is_closed.wait(LIMIT)
    counting.join(LIMIT)
    assert seen == [(0, True)]


def test_prompts_that_ran_are_recorded(server: ComfyServer) -> None:
    """Each start, with its end; not what was refused, deleted, or still waits."""
    with ComfyApi(server.url) as api:
        result = api.run(picture(), timeout=LIMIT)
        post(server, "/prompt", {"prompt": {}})
        with server.faults.hang_worker():
            waiting = api.submit(picture(6))
            server.until(lambda: len(server.ran) == 2)
            deleted = submit(server)
            post(server, "/queue", {"delete": [deleted]})
            assert server.ran[-1].status is None
        waiting.result(LIMIT)
        server.until(lambda: server.ran[-1].status)  # the client has heard of the end before
        assert [(ran.prompt_id, ran.mark, ran.client_id, ran.status) for ran in server.ran] == [
            (one, one, api.client_id, "success") for one in (result.prompt_id, waiting.prompt_id)
        ]


def test_to_wait_in_vain_is_an_assertion_error(server: ComfyServer) -> None:
    """After the time."""
    with pytest.raises(AssertionError, match=r"did not come true within 0\.05 s"):
        server.until(lambda: False, 0.05)


# -- answers of one's own ---------------------------------------------------------------


def test_handlers_replace_answers_and_hand_on(server: ComfyServer) -> None:
    """The last handler wins, may ask for the usual answer, and can be taken back."""
    server.on("*", "*", (503, {"Retry-After": "1"}, "busy"))
    server.on("GET", "/queue", lambda request: server.answer(request))
    assert get(server, "/history/1").headers["Retry-After"] == "1"
    assert get(server, "/api/queue").json()["queue_running"] == []
    server.off("*", "*")
    assert get(server, "/history/1").json() == {}
    assert [request.path for request in server.requests] == ["/history/1", "/queue", "/history/1"]
    assert server.connections == 3


def test_a_handler_may_be_decorated(server: ComfyServer) -> None:
    """It stays the function that it was, and is checked as any other."""

    @server.on("GET", "/queue")
    def queue(request: Request) -> Answer:
        return 503, {}, request.path

    assert get(server, "/queue").text == "/queue"
    server.off("GET", "/queue")
    assert get(server, "/queue").status_code == 200
    assert callable(queue)
    with pytest.raises(ValueError, match="plain function"):

        @server.on("GET", "/queue")
        async def later(request: Request) -> Answer:
            return 200, {}, ""


def test_broken_answers(server: ComfyServer) -> None:
    """Cut short, dripping, none at all, and odd ones."""
    server.on("GET", "/view", cut((200, {}, bytes(100)), 10))
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        get(server, "/view")
    server.on("GET", "/view", drip((200, {}, b"slow"), size=20, pause=0.01))
    assert get(server, "/view").content == b"slow"
    server.on("GET", "/view", never_answer)
    with pytest.raises(requests.ReadTimeout):
        requests.get(f"{server.url}/view", timeout=0.1)
    server.on("*", "/view", (799, {"Content-Length": "3"}, "abc"))
    assert get(server, "/view").status_code == 799
    assert requests.head(f"{server.url}/view", timeout=LIMIT).headers["Content-Length"] == "3"


def test_fixed_answers_keep_the_connection(server: ComfyServer) -> None:
    """As usual ones do."""
    server.on("GET", "/queue", (200, {}, {"a": 1}))
    with requests.Session() as session:
        for _ in range(3):
            assert session.get(f"{server.url}/queue", timeout=LIMIT).json() == {"a": 1}
            session.get(f"{server.url}/prompt", timeout=LIMIT)
    assert server.connections == 1


def test_a_handler_may_read_and_write_the_connection_itself(server: ComfyServer) -> None:
    """Also large amounts, with no more memory than the other side reads."""
    got: list[bytes] = []

    def talk(request: Request) -> None:
        request.socket.sendall(b"HTTP/1.1 200 OK\r\n\r\nname?")
        got.append(request.socket.recv(3))
        got.append(request.socket.recv(100))
        for _ in range(20):
            request.socket.sendall(bytes(2**20))

    server.on("GET", "/talk", talk)
    with raw(server, asking("/talk")) as connection:
        assert connection.recv(1000).endswith(b"name?")
        connection.sendall(b"Ann Other")
        assert len(everything(connection)) == 20 * 2**20
    assert got == [b"Ann", b" Other"]


def test_an_error_in_a_handler_is_raised_at_the_end() -> None:
    """The client gets no answer; an error of the test itself comes first."""
    with pytest.raises(json.JSONDecodeError), ComfyServer() as other:
        _provoke(other)
    with pytest.raises(KeyError), ComfyServer() as third:
        {}[_provoke(third)]


def _provoke(server: ComfyServer) -> None:
    server.on("POST", "/x", lambda request: request.json())
    with pytest.raises(requests.ConnectionError):
        requests.post(f"{server.url}/x", data=b"{", timeout=LIMIT)


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ("junk", r"an answer must be \(status, headers, body\), not 'junk'"),
        ((200, {}), r"an answer must be \(status, headers, body\)"),
        ((99, {}, None), "status must be 100 to 999, not 99"),
        ((200, {"A": "b\r\nC: d"}, None), "a header is a name and a string of one line"),
        ((200, {}, object()), "not JSON serializable"),
        ((200, {}, "\ud800"), "surrogates not allowed"),
    ],
    ids=["no tuple", "two", "status", "header", "body", "text"],
)
def test_a_wrong_result_of_a_handler_is_kept(server: ComfyServer, result: Any, words: str) -> None:
    """As an error of it: the client gets no answer."""
    server.on("GET", "/queue", lambda request: result)
    with pytest.raises(requests.ConnectionError):
        get(server, "/queue")
    [error] = server.errors
    assert re.search(f"a handler returned .*: .*{words}", str(error)), error
    assert isinstance(error, TypeError)
    server.errors.clear()


def test_an_error_of_rewrite_is_kept_and_answered_with_500(server: ComfyServer) -> None:
    """The client gets a 500."""
    server.faults.rewrite("GET", "/queue", lambda answer: object())
    assert get(server, "/queue").status_code == 500
    [error] = server.errors
    assert "not JSON serializable" in str(error)
    server.errors.clear()


@pytest.mark.parametrize("end", [pytest.fail, sys.exit])
def test_a_base_exception_in_a_handler_is_kept(server: ComfyServer, end: Any) -> None:
    """The client gets no answer, and the server goes on."""
    server.on("GET", "/system_stats", lambda request: end("wrong"))
    server.faults.rewrite("GET", "/queue", lambda answer: end("wrong, too"))
    with pytest.raises(requests.ConnectionError):
        get(server, "/system_stats")
    assert get(server, "/queue").status_code == 500
    assert [str(error) for error in server.errors] == ["wrong", "wrong, too"]
    server.errors.clear()
    assert get(server, "/prompt").status_code == 200


@pytest.mark.parametrize("end", [pytest.fail, sys.exit])
def test_a_base_exception_in_a_script_is_kept(server: ComfyServer, end: Any) -> None:
    """The next prompt runs."""
    with server.script(lambda prompt_id: end("wrong")):
        submit(server)
        server.until(lambda: server.errors)
    assert [str(error) for error in server.errors] == ["wrong"]
    server.errors.clear()
    ended(server, submit(server))


def test_help_of_on_explains_handlers(server: ComfyServer) -> None:
    """What a handler is given and returns, in the help of ``on`` itself."""
    told = ComfyServer.on.__doc__ or ""
    for words in ("(status, headers, body)", "Request", "request.socket", "ValueError"):
        assert words in told


def test_a_handshake_can_be_answered_with_more(server: ComfyServer, dial: Dial) -> None:
    """More headers, or more bytes behind it."""

    def with_cookie(request: Request) -> Any:
        status, headers, body = server.answer(request)
        return status, {**headers, "Set-Cookie": "a=b"}, body

    server.on("GET", "/ws", with_cookie)
    assert dial().headers["set-cookie"] == "a=b"

    def eager(request: Request) -> None:
        data = encode(server.answer(request)) + frame(1, b'{"data": {"sid": "me"}}')
        request.socket.sendall(data)
        while received := request.socket.recv(4096):
            request.socket.sendall(frame(2, received[:1]))

    server.on("GET", "/ws", eager)
    ws = websocket.create_connection(f"ws://127.0.0.1:{server.port}/ws", timeout=LIMIT)
    assert json.loads(ws.recv()) == {"data": {"sid": "me"}}
    ws.ping()
    assert ws.recv() == b"\x89"
    ws.shutdown()


# -- pushes -----------------------------------------------------------------------------


def test_pushes(server: ComfyServer, dial: Dial) -> None:
    """To one or all; text, binary, fragments, raw bytes, in order."""
    ws, other = dial("me"), dial("you")
    server.push({"type": "a"}, to="me")
    server.push({"type": "b", "data": "x" * 70000}, fragments=3)
    server.push_binary(b"\0" * 200)
    server.push_status()
    server.push_raw(frame(3, b"reserved"))
    assert json.loads(ws.recv()) == {"type": "a"}
    assert len(json.loads(ws.recv())["data"]) == 70000
    assert ws.recv() == b"\0" * 200
    assert json.loads(ws.recv())["data"] == {"status": {"exec_info": {"queue_remaining": 0}}}
    with pytest.raises(websocket.WebSocketException):
        ws.recv()
    assert json.loads(other.recv())["type"] == "b"


# -- scripts ----------------------------------------------------------------------------


def say(kind: str, **data: Any) -> dict[str, Any]:
    return {"type": kind, "data": {**data, "prompt_id": PROMPT_ID}}


def test_prompts_play_a_script(server: ComfyServer, dial: Dial) -> None:
    """Each in turn, with its own id, to its own client; nothing is validated."""
    ws, other = dial("me"), dial("you")
    go = threading.Event()
    called: list[str] = []
    server.script(
        say("execution_start"),
        b"\0\0\0\x01" + PROMPT_ID.encode(),
        go,
        say("executed", node="9", output={"images": []}),
        called.append,
        say("execution_success"),
        Finish(),
        say("executing", node=None),
    )
    body = {"prompt": {"9": {"class_type": "Unheard Of"}}, "client_id": "me"}
    first, second = (post(server, "/prompt", body).json()["prompt_id"] for _ in range(2))
    assert [name for name in heard(ws, "binary") if name != "status"] == [
        "execution_start",
        "binary",
    ]
    assert [item[1] for item in server.running] == [first]
    assert [item[1] for item in server.pending] == [second]
    go.set()
    assert heard(ws, "executing null").count("execution_success") == 1
    heard(ws, "executing null")
    assert called == [first, second]
    entry = server.history[first]
    assert entry["outputs"] == {"9": {"images": []}}
    assert entry["status"]["messages"][-1][0] == "execution_success"
    server.push({"type": "over"})
    assert set(heard(other, "over")) == {"status", "over"}
    assert [(ran.prompt_id, ran.status) for ran in server.ran] == [
        (first, "success"),
        (second, "success"),
    ]


def test_a_script_without_an_end_runs_until_finish_or_forget(server: ComfyServer) -> None:
    """By ``finish``, which may say how, or ``forget``."""
    server.script()
    first, second, third = (submit(server) for _ in range(3))
    server.until(lambda: server.running)
    server.finish(first, {"9": {"text": ["a"]}})
    assert server.history[first]["outputs"] == {"9": {"text": ["a"]}}
    server.finish(third, messages=[["execution_interrupted", {}]])
    assert server.history[third]["status"]["status_str"] == "error"
    server.until(lambda: [item[1] for item in server.running] == [second])
    server.finish("unheard of", entry={"outputs": {}, "status": None, "prompt": []})
    assert server.history["unheard of"] == {"outputs": {}, "status": None, "prompt": []}
    server.forget()
    assert (server.running, server.pending, server.history) == ([], [], {})


def test_prompts_are_executed_again_when_the_script_ends(server: ComfyServer) -> None:
    """And the last script counts."""
    with server.script(Finish({"outputs": {"1": {}}})):
        with server.script(Finish({"outputs": {"2": {}}})):
            ended(server, last := submit(server))
        ended(server, first := submit(server))
    ended(server, really := submit(server))
    outputs = [list(server.history[one]["outputs"]) for one in (last, first, really)]
    assert outputs == [["2"], ["1"], ["9"]]


def test_a_script_that_fails_is_raised_at_the_end() -> None:
    """And what is no step is a ValueError at once."""
    with pytest.raises(ZeroDivisionError), ComfyServer() as server:
        _fail_with(server, lambda _: 1 / 0)
    with ComfyServer() as other, pytest.raises(ValueError, match="not a step of a script"):
        other.script("x")  # type: ignore[arg-type]


def _fail_with(server: ComfyServer, step: Step, **options: Any) -> None:
    server.script(step, **options)
    submit(server)
    server.until(lambda: server.errors)


def test_a_script_stops_with_its_server() -> None:
    """Whatever it waits for; to wait too long is an error."""
    with ComfyServer() as server:
        server.script(threading.Event())
        submit(server)
        server.until(lambda: server.running)
    with pytest.raises(TimeoutError, match=r"waited 0.1 s"), ComfyServer() as server:
        _fail_with(server, threading.Event(), timeout=0.1)


def test_prompts_that_wait_when_the_script_ends_are_executed(server: ComfyServer) -> None:
    """With its outputs; of an invalid one nothing is, and the next has its turn."""
    fault = server.script()
    playing = submit(server)
    bodies: list[Any] = [{}, {"9": {"class_type": "Unheard Of"}}, picture(), picture(7)]
    waiting = [post(server, "/prompt", {"prompt": one}).json()["prompt_id"] for one in bodies]
    server.until(lambda: server.running)
    fault.end()
    server.finish(playing)
    server.until(lambda: len(server.history) == 5, LIMIT)
    outputs = [list(server.history[one]["outputs"]) for one in waiting]
    assert outputs == [[], [], ["9"], ["9"]]
    assert server.history[waiting[1]]["status"]["status_str"] == "error"


def test_a_list_of_jobs_has_scripted_ones() -> None:
    """With what there is of them."""
    with ComfyServer(version="0.28") as server:
        server.script(
            say("execution_start", timestamp=1000),
            say("executed", node="9", output={"images": [{"filename": "a.png"}]}),
            say("execution_success", timestamp=3000),
            Finish(),
        )
        ended(server, played := submit(server))
        with server.script(Finish({"outputs": {"9": None}})):
            ended(server, given := submit(server))
        server.finish("unheard of")
        server.finish("no prompt", entry={"outputs": {}, "status": None, "prompt": []})
        jobs = {job["id"]: job for job in get(server, "/api/jobs").json()["jobs"]}
        assert jobs.keys() == {played, given, "unheard of"}
        duration = jobs[played]["execution_end_time"] - jobs[played]["execution_start_time"]
        assert (jobs[played]["outputs_count"], duration) == (1, 2000)
        assert jobs["unheard of"] == {
            "id": "unheard of",
            "status": "completed",
            "priority": 0,
            "outputs_count": 0,
        }
        assert get(server, f"/api/jobs/{given}").json()["status"] == "completed"


def test_a_script_that_the_end_cuts_off_has_not_failed() -> None:
    """Whatever it was about to do."""
    failed: list[RuntimeError] = []

    def late(_: str) -> None:
        while "stopped" not in repr(server):
            time.sleep(0.005)
        try:
            server.push({"type": "x"})
        except RuntimeError as exc:
            failed.append(exc)
            raise

    with ComfyServer() as server:
        server.script(late)
        submit(server)
        server.until(lambda: server.running)
    assert len(failed) == 1
    assert server.errors == []
