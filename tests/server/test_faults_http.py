"""Faults of answers."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
import websocket

from comfy_client.testing import (
    ComfyServer,
)
from tests.helpers.bare import (
    LIMIT,
    asking,
    ended,
    everything,
    get,
    pong,
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


def test_answers_are_delayed(server: ComfyServer) -> None:
    """Before or after the request took effect."""
    with server.faults.delay("POST", "/prompt", 0.2):
        start = time.perf_counter()
        submit(server)
        assert time.perf_counter() - start >= 0.2
    server.until(lambda: server.ran and server.ran[-1].status)
    for ran in (False, True):
        server.ran.clear()
        with server.faults.delay("POST", "/prompt", ran=ran) as fault:
            with pytest.raises(requests.ReadTimeout):
                requests.post(f"{server.url}/prompt", json={"prompt": picture()}, timeout=0.3)
            assert fault.hits == 1
            server.until(lambda: server.open_connections == 0)
        if not ran:
            submit(server)
        server.until(lambda: server.ran and server.ran[-1].status)
        assert len(server.ran) == 1


def test_a_delay_ends_with_its_fault(server: ComfyServer) -> None:
    """Also one for a number of times."""
    for times in (None, 1):
        fault = server.faults.delay("GET", "/queue", times=times)
        with raw(server, asking("/queue")) as connection:
            server.until(lambda fault=fault: fault.hits == 1)  # type: ignore[misc]
            fault.end()
            assert connection.recv(12) == b"HTTP/1.1 200"


@pytest.mark.parametrize("reset", [True, False])
@pytest.mark.parametrize("ran", [True, False])
def test_answers_are_cut(server: ComfyServer, ran: bool, reset: bool) -> None:
    """Before anything came of them."""
    body = json.dumps({"prompt": picture()}).encode()
    with (
        server.faults.cut("POST", "/prompt", ran=ran, reset=reset, times=1),
        raw(server, asking("/prompt", "POST", body)) as connection,
    ):
        if reset:
            with pytest.raises(ConnectionResetError):
                connection.recv(1)
        else:
            assert connection.recv(1) == b""
        other = submit(server)  # only once
    ended(server, other)
    assert len(server.ran) == 1 + ran


def test_bodies_are_cut(server: ComfyServer) -> None:
    """The head announces all of them; the request takes effect."""
    with (
        server.faults.cut("GET", "/queue", sent=5),
        raw(server, asking("/queue")) as connection,
    ):
        head, _, body = everything(connection).partition(b"\r\n\r\n")
    whole = b'{"queue_running": [], "queue_pending": []}'
    assert body == whole[:5]
    assert f"Content-Length: {len(whole)}".encode() in head
    body = json.dumps({"prompt": picture()}).encode()
    with (
        server.faults.cut("POST", "/prompt", sent=0),
        raw(server, asking("/prompt", "POST", body)) as connection,
    ):
        assert everything(connection).startswith(b"HTTP/1.1 200 OK")
    server.until(lambda: len(server.ran) == 1)


def test_files_are_cut_and_dripped(server: ComfyServer) -> None:
    """They are sent in another way than other answers."""
    data = bytes(range(256)) * 300
    (server.root / "output" / "a.bin").write_bytes(data)
    path = "/view?filename=a.bin"
    with server.faults.cut("GET", "/view", sent=1000), raw(server, asking(path)) as connection:
        head, _, body = everything(connection).partition(b"\r\n\r\n")
        assert (body, b"Content-Length: 76800" in head) == (data[:1000], True)
    with server.faults.drip("GET", "/view", size=10000, pause=0.01):
        assert get(server, path).content == data
        assert get(server, path, headers={"Range": "bytes=1-3"}).content == data[1:4]


def test_faults_of_an_answer_can_be_combined(server: ComfyServer) -> None:
    """It comes no further than the faults behind let it, and nothing is an error."""
    with server.faults.cut("POST", "/prompt", ran=True), server.faults.cut("*", "*", sent=10):
        with pytest.raises(requests.ConnectionError):
            submit(server)
        server.until(lambda: len(server.ran) == 1)
    with server.faults.cut("GET", "/object_info", sent=10) as fault:
        with server.faults.drip("GET", "*", size=100, pause=0):
            with raw(server, asking("/object_info")) as connection:
                head, _, body = everything(connection).partition(b"\r\n\r\n")
            assert (head[:12], len(body)) == (b"HTTP/1.1 200", 10)
        server.on("GET", "*", server.answer)
        with raw(server, asking("/object_info")) as connection:
            assert everything(connection) == b""
        assert fault.hits == 2


def test_handshakes_are_cut_and_do_not_drip(server: ComfyServer, dial: Dial) -> None:
    """The right answer to one opens a socket."""
    with server.faults.cut("GET", "/ws", sent=0):
        ws = websocket.create_connection(f"ws://127.0.0.1:{server.port}/ws", timeout=LIMIT)
        with pytest.raises(websocket.WebSocketConnectionClosedException):
            ws.recv()
        ws.shutdown()
    with server.faults.drip("*", "*"):
        assert pong(dial()) == b"there?"


def test_a_socket_is_cut_behind_the_answer_to_its_handshake(server: ComfyServer) -> None:
    """That the request takes effect is told by the answer; nothing else comes."""
    with server.faults.cut("GET", "/ws", ran=True) as fault:
        ws = websocket.create_connection(f"ws://127.0.0.1:{server.port}/ws", timeout=LIMIT)
        with pytest.raises(websocket.WebSocketConnectionClosedException):
            ws.recv()
        ws.shutdown()
    assert fault.hits == 1
    assert server.hellos == []


def test_a_handshake_waits_also_if_it_is_to_have_run(server: ComfyServer, dial: Dial) -> None:
    """It takes effect with its answer."""
    with ThreadPoolExecutor() as pool, server.faults.delay("GET", "/ws", ran=True) as fault:
        dialled = pool.submit(dial)
        server.until(lambda: fault.hits)
        assert get(server, "/queue").status_code == 200  # later than what the fault lets through
        assert server.hellos == []
        fault.end()
        assert pong(dialled.result(LIMIT)) == b"there?"


def test_answers_drip(server: ComfyServer) -> None:
    """Byte by byte."""
    with server.faults.drip("GET", "/queue", pause=LIMIT), raw(server, asking("/queue")) as slow:
        assert slow.recv(1000) == b"H"
    with server.faults.drip("GET", "/queue", pause=0.001), raw(server, asking("/queue")) as quick:
        assert everything(quick).endswith(b'"queue_pending": []}')


def test_a_gateway_is_bad_for_a_while(server: ComfyServer) -> None:
    """For a number of requests, or until it ends."""
    with server.faults.bad_gateway(503, path="/queue", times=2) as fault:
        codes = [get(server, "/queue").status_code for _ in range(3)]
        assert codes == [503, 503, 200]
        assert (fault.hits, fault.active) == (2, False)
        assert get(server, "/prompt").status_code == 200
    with server.faults.bad_gateway(524):
        for path in ("/queue", "/ws", "/nope"):
            answer = get(server, path)
            assert (answer.status_code, "<h1>524" in answer.text) == (524, True)
            assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert get(server, "/queue").status_code == 200


@pytest.mark.parametrize("status", [200, 302, 401])
def test_a_login_page_is_everywhere(server: ComfyServer, status: int) -> None:
    """As a page, or as the way to it."""
    with server.faults.login_page(status):
        for path in ("/queue", "/ws", "/api/nope", "/"):
            answer = get(server, path)
            assert (answer.status_code, "Please log in" in answer.text) == (status, True)
            assert (answer.headers.get("Location") == "/login") is (status == 302)
        assert post(server, "/prompt", {}, allow_redirects=False).status_code == status


def test_requests_are_redirected(server: ComfyServer) -> None:
    """To https by themselves, or wherever."""
    with server.faults.redirect(method="POST"):
        answer = post(server, "/prompt?x=1", {}, allow_redirects=False)
        assert answer.status_code == 301
        there = f"https://127.0.0.1:{server.port}/prompt?x=1"
        assert answer.headers["Location"] == there
        assert get(server, "/queue").status_code == 200
    with server.faults.redirect(307, "http://other.test/", path="/q*"):
        answer = get(server, "/queue")
        assert (answer.status_code, answer.headers["Location"]) == (307, "http://other.test/")
    assert server.ran == []


def test_bodies_come_under_a_wrong_type(server: ComfyServer) -> None:
    """JSON and files."""
    (server.root / "output" / "a.png").write_bytes(b"x")
    with server.faults.wrong_mime():
        for path in ("/queue", "/view?filename=a.png"):
            assert get(server, path).headers["Content-Type"] == "text/html"
        assert get(server, "/queue").json()["queue_running"] == []
    assert get(server, "/queue").headers["Content-Type"].startswith("application/json")


def test_routes_are_missing(server: ComfyServer) -> None:
    """As the server itself says it; with the prefix alone, if so told."""
    unknown = [get(server, "/nope"), post(server, "/nope", {})]
    with server.faults.missing("*", "/queue"):
        for path in ("/queue", "/api/queue"):
            answers = [get(server, path), post(server, path, {})]
            for answer, known in zip(answers, unknown, strict=True):
                assert (answer.status_code, answer.text) == (known.status_code, known.text)
                assert answer.headers["Content-Type"] == known.headers["Content-Type"]
                assert answer.headers.get("Allow") == known.headers.get("Allow")
        assert get(server, "/prompt").status_code == 200
    with server.faults.missing("*", "/api/*"):
        assert get(server, "/api/queue").status_code == 404
        assert get(server, "/queue").status_code == 200


def test_uploads_are_too_large(server: ComfyServer) -> None:
    """For a proxy, above its limit."""
    with server.faults.too_large(limit=1000):
        assert upload(server, bytes(100)).status_code == 200
        assert upload(server, bytes(2000)).status_code == 413
    assert upload(server, bytes(2000), "b.png").status_code == 200


def test_stop_reading_leaves_an_upload_unread_until_the_fault_ends(server: ComfyServer) -> None:
    """The client cannot send it all; requests without a body are answered."""
    head = b"POST /upload/image HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
    size = 64 * 2**20
    with server.faults.stop_reading("/upload/*", 1000) as fault, raw(server) as connection:
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.sendall(head % size + bytes(size))
        assert fault.hits == 1
        assert get(server, "/queue").status_code == 200
        assert post(server, "/interrupt", {}).status_code == 200
    with server.faults.stop_reading(times=1) as fault, ThreadPoolExecutor() as pool:
        unread = pool.submit(submit, server)
        server.until(lambda: fault.hits)
        ended(server, submit(server))  # the fault is used up
        assert not unread.done()
        fault.end()
        ended(server, unread.result(LIMIT))
    assert len(server.ran) == 2


def test_uploads_get_another_name(server: ComfyServer) -> None:
    """And are there under it."""
    with server.faults.rename_uploads("other.png"):
        answer = upload(server, b"data").json()
    assert answer == {"name": "other.png", "subfolder": "", "type": "input"}
    assert (server.root / "input" / "other.png").read_bytes() == b"data"
    assert not (server.root / "input" / "a.png").exists()


def test_answers_are_rewritten(server: ComfyServer) -> None:
    """If they are JSON, and no errors."""
    with server.faults.rewrite("GET", "*", lambda answer: [answer]) as fault:
        assert get(server, "/prompt").json() == [{"exec_info": {"queue_remaining": 0}}]
        assert get(server, "/nope").status_code == 404
    assert fault.hits == 2


def test_an_error_in_what_rewrites_is_kept(server: ComfyServer) -> None:
    """As one in a handler; the client gets a 500."""
    server.faults.rewrite("GET", "/queue", lambda answer: 1 / 0)
    assert get(server, "/queue").status_code == 500
    assert [type(error) for error in server.errors] == [ZeroDivisionError]
    server.errors.clear()


def test_a_fault_ends_after_its_number_of_times(server: ComfyServer) -> None:
    """Whom it struck last may wait for its end all the same."""
    fault = server.faults.delay("GET", "/queue", times=1)
    with raw(server, asking("/queue")) as connection:
        server.until(lambda: fault.hits)
        assert get(server, "/queue").status_code == 200
        assert (fault.active, server.faults.active()) == (False, [])
        assert repr(server.faults) == "<Faults: none>"
        connection.settimeout(0.15)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        server.faults.clear()
        connection.settimeout(LIMIT)
        assert connection.recv(12) == b"HTTP/1.1 200"


def test_the_last_fault_acts_first_and_others_behind_it(server: ComfyServer) -> None:
    """Those that change an answer act together; of those that stand in for it, one."""
    server.faults.rewrite("GET", "/prompt", lambda _: "one")
    server.faults.rewrite("GET", "/prompt", lambda answer: [answer, "two"])
    assert get(server, "/prompt").json() == ["one", "two"]
    server.on("GET", "/prompt", (200, {}, "three"))
    with server.faults.bad_gateway():
        assert get(server, "/prompt").status_code == 502
    assert get(server, "/prompt").text == "three"
    server.on("GET", "/prompt", server.answer)
    assert get(server, "/prompt").json() == ["one", "two"]


def test_requests_that_wait_side_by_side_share_the_times_of_a_fault(server: ComfyServer) -> None:
    """The one of two that is late is answered as usual."""
    failing = server.faults.answer("GET", "/queue", (500, {}, b""), times=1)
    with server.faults.delay("GET", "/queue") as delay, ThreadPoolExecutor() as pool:
        answers = [pool.submit(get, server, "/queue") for _ in range(2)]
        server.until(lambda: delay.hits == 2)
        delay.end()
        statuses = sorted(answer.result(LIMIT).status_code for answer in answers)
    assert statuses == [200, 500]
    assert failing.hits == 1
