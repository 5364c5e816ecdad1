"""Faults of prompts and whole servers, and what all faults have in common."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest
import requests
import trustme
import websocket

from comfy_client import ComfyApi
from comfy_client.testing import (
    ComfyServer,
    Fault,
    Finish,
    Request,
    faults,
)
from tests.helpers.bare import (
    LIMIT,
    all_end,
    asking,
    ended,
    everything,
    get,
    heard,
    post,
    raw,
    server_threads,
    submit,
)
from tests.helpers.graphs import picture
from tests.server.conftest import Dial


@pytest.fixture
def server() -> Iterator[ComfyServer]:
    with ComfyServer() as running:
        yield running


# -- prompts -------------------------------------------------------------------------------


def test_history_comes_late(server: ComfyServer, dial: Dial) -> None:
    """Meanwhile the prompt has said that it succeeded, and is in the queue."""
    ws = dial()
    with server.faults.late_history():
        prompt_id = submit(server)
        assert "executing null" not in heard(ws, "execution_success")
        assert get(server, f"/history/{prompt_id}").json() == {}
        assert [item[1] for item in server.running] == [prompt_id]
    assert heard(ws, "executing null")
    assert prompt_id in get(server, f"/history/{prompt_id}").json()
    with server.faults.late_history(0.2):
        prompt_id = submit(server)
        heard(ws, "execution_success")
        start = time.perf_counter()
        heard(ws, "executing null")
        assert time.perf_counter() - start > 0.1


def test_history_never_comes_or_is_evicted(server: ComfyServer, dial: Dial) -> None:
    """The prompt has run, all the same."""
    ws = dial()
    with server.faults.no_history():
        submit(server)
        heard(ws, "executing null")
        assert server.history == {}
    kept, gone = submit(server), submit(server)
    ended(server, gone)
    server.faults.evict(gone)
    assert list(server.history) == [kept]
    server.faults.evict()
    assert server.history == {}
    assert [ran.status for ran in server.ran] == ["success"] * 3


def test_the_queue_is_lost(server: ComfyServer, dial: Dial) -> None:
    """What waits and what runs, without a word; the next prompt runs, also under the same id."""
    ws = dial()
    with server.faults.hang_worker():
        first, second = submit(server), submit(server)
        server.until(lambda: server.running)
        server.faults.lose_queue()
        assert (server.running, server.pending, server.history) == ([], [], {})
    server.push({"type": "over"})
    assert not {"execution_success", "executing null"} & set(heard(ws, "over"))
    submit(server, prompt_id=first)
    assert "execution_success" in heard(ws, "executing null")
    assert list(server.history) == [first]
    assert [(ran.prompt_id, ran.status) for ran in server.ran] == [
        (first, None),
        (first, "success"),
    ]
    assert second not in server.history


def test_a_prompt_that_is_cached_hangs_as_well(server: ComfyServer, dial: Dial) -> None:
    """No node of it runs, and yet it does not end."""
    ws = dial()
    submit(server)
    heard(ws, "executing null")
    with server.faults.hang_worker():
        submit(server)
        heard(ws, "execution_cached")
        server.push({"type": "over"})
        assert "execution_success" not in heard(ws, "over")
    assert "execution_success" in heard(ws, "executing null")


def test_the_worker_hangs(server: ComfyServer, dial: Dial) -> None:
    """An interrupt changes nothing, HTTP works; when it ends, the prompt goes on."""
    ws = dial()
    with server.faults.hang_worker():
        prompt_id = submit(server)
        heard(ws, "execution_start")
        post(server, "/interrupt", {})
        assert [item[1] for item in get(server, "/queue").json()["queue_running"]] == [prompt_id]
        assert server.history == {}
    heard(ws, "executing null")
    assert prompt_id in server.history


def test_the_server_chooses_its_own_ids(server: ComfyServer) -> None:
    """Whatever it is sent; the mark of the client tells them apart."""
    ours = "00000000-0000-4000-8000-0000000000aa"
    mark = {"comfy_client_prompt_id": ours}
    with server.faults.other_prompt_ids():
        other = submit(server, prompt_id=ours, extra_data=mark)
    assert other != ours
    assert submit(server, prompt_id=ours) == ours
    ended(server, ours)
    assert [(ran.prompt_id, ran.mark) for ran in server.ran] == [(other, ours), (ours, None)]


def test_prompts_are_accepted_with_node_errors(server: ComfyServer) -> None:
    """And run."""
    errors = {"3": {"errors": [], "class_type": "X", "dependent_outputs": ["9"]}}
    with server.faults.node_errors(errors):
        answer = post(server, "/prompt", {"prompt": picture()})
    assert (answer.status_code, answer.json()["node_errors"]) == (200, errors)
    ended(server, answer.json()["prompt_id"])


def test_events_come_before_the_reply(server: ComfyServer, dial: Dial) -> None:
    """All of them, to the end marker."""
    ws = dial()
    order: list[str] = []
    with server.faults.events_before_reply(), server.faults.late_history() as late:
        posting = threading.Thread(target=lambda: (submit(server), order.append("reply")))
        posting.start()
        heard(ws, "execution_success")
        order.append("success")
        late.end()
        posting.join(LIMIT)
    assert order == ["success", "reply"]


# -- all of them ---------------------------------------------------------------------------


def test_an_unknown_fault_is_one_clear_error(server: ComfyServer) -> None:
    """With the nearest names, or all."""
    with pytest.raises(AttributeError, match=r"no fault 'dropp': did you mean drop"):
        server.faults.dropp()  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match=r"no fault 'qqqqq': there are .*bad_gateway, .*"):
        server.faults.qqqqq()  # type: ignore[attr-defined]
    assert not hasattr(server.faults, "_nope")


async def a_coroutine(request: Request) -> None:
    """No handler."""


@pytest.mark.parametrize(
    ("use", "match"),
    [
        (lambda f: f.delay("FETCH", "/x"), "method must be one of"),
        (lambda f: f.delay("GET", "queue"), "a path must begin with"),
        (lambda f: f.delay("GET", "/x", -1), "seconds are 0 or more"),
        (lambda f: f.delay("GET", "/x", float("nan")), "seconds are 0 or more"),
        (lambda f: f.delay("GET", "/x", float("inf")), "seconds are [0-9]+ at most, not inf"),
        (lambda f: f.delay("GET", "/x", 10**400), "seconds are [0-9]+ at most, not 1000"),
        (lambda f: f.delay("GET", "/x", 10**5000), "not a number of very many digits"),
        (lambda f: f.crash(1e300), r"after is [0-9]+ at most, not 1e\+300"),
        (lambda f: f.delay("GET", "/x", times=0), "times must be 1 or more"),
        (lambda f: f.delay("GET", "/x", "1"), "seconds are 0 or more, not '1'"),
        (lambda f: f.delay("GET", "/x", times=1.5), "times must be a whole number, not 1.5"),
        (lambda f: f.delay("GET", "/x", times="1"), "times must be a whole number, not '1'"),
        (lambda f: f.cut("GET", "/x", sent=-1), "sent must be 0 or more, not -1"),
        (lambda f: f.drip("GET", "/x", size=0), "size must be 1 or more, not 0"),
        (lambda f: f.drip("GET", "/x", size=1.5), "size must be a whole number, not 1.5"),
        (lambda f: f.drip("GET", "/x", size="1"), "size must be a whole number, not '1'"),
        (lambda f: f.refuse_sockets(99), "status must be 100 to 999, not 99"),
        (lambda f: f.refuse_sockets(403, object()), "not JSON serializable"),
        (lambda f: f.bad_gateway(1000), "status must be 100 to 999, not 1000"),
        (lambda f: f.bad_gateway("502"), "status must be a whole number, not '502'"),
        (lambda f: f.login_page(404), "200, 302, 401 or 403"),
        (lambda f: f.redirect(200), "a redirect has status"),
        (
            lambda f: f.redirect(location="/a\r\nX: y"),
            "a header is a name and a string of one line",
        ),
        (lambda f: f.wrong_mime(content_type=5), "a header is a name and a string of one line"),
        (lambda f: f.too_large(limit=-1), "limit must be 0 or more, not -1"),
        (lambda f: f.rename_uploads("a/b"), "name is one of a file"),
        (lambda f: f.rename_uploads(".."), "name is one of a file"),
        (lambda f: f.rename_uploads("a\0"), "name is one of a file"),
        (lambda f: f.node_errors({"a": object()}), "node errors: .* not JSON serializable"),
        (lambda f: f.node_errors(5), "node errors must be a mapping by node id, not 5"),
        (lambda f: f.lose(5), "an event is chosen by its name or by a function, not 5"),
        (lambda f: f.lose(["x"]), r"an event is chosen by its name or by a function, not \['x'\]"),
        (lambda f: f.withhold(5), "an event is chosen by its name or by a function, not 5"),
        (lambda f: f.rewrite("GET", "/x", 5), "needs a function"),
        (lambda f: f.answer("GET", "/x", "text"), "an answer must be"),
        (lambda f: f.answer("GET", "/x", (200, {"A": "b\nC: d"}, None)), "a string of one line"),
        (lambda f: f.answer("GET", "/x", (200, {"A": 5}, None)), "a string of one line"),
        (lambda f: f.answer("GET", "/x", (200, 5, None)), "headers must be a mapping, not 5"),
        (lambda f: f.answer("GET", "/x", a_coroutine), "a handler must be a plain function"),
        (lambda f: f.fragments(1), "parts must be 2 or more, not 1"),
        (lambda f: f.fragments(2.5), "parts must be a whole number, not 2.5"),
        (lambda f: f.pause_in_frames(-1), "seconds are 0 or more"),
        (lambda f: f.late_history(-1), "seconds are 0 or more"),
        (lambda f: f.late_history("1"), "seconds are 0 or more, not '1'"),
        (lambda f: f.oversized_frame(-1), "size must be 0 to 9223372036854775807, not -1"),
        (lambda f: f.oversized_frame(1.5), "size must be a whole number, not 1.5"),
        (lambda f: f.oversized_frame(2**70), "size must be 0 to 9223372036854775807"),
        (lambda f: f.close_politely(5), "code must be 1000 to 4999, not 5"),
        (
            lambda f: f.close_politely(1001, "x" * 124),
            "a reason must be a string of at most 123 bytes",
        ),
    ],
)
def test_nonsense_is_a_value_error_at_once(
    server: ComfyServer, use: Callable[[Any], object], match: str
) -> None:
    """And brings nothing into force."""
    with pytest.raises(ValueError, match=match):
        use(server.faults)
    assert server.faults.active() == []


@pytest.mark.parametrize(
    ("use", "match"),
    [
        (lambda s: s.script({"type": object()}), "a step of a script: .* not JSON serializable"),
        (lambda s: s.script(Finish({"a": object()})), "a step of a script: .* not JSON"),
        (lambda s: s.script(float("inf")), "a pause is [0-9]+ at most, not inf"),
        (lambda s: s.script(10**400), "a pause is [0-9]+ at most, not 1000"),
        (lambda s: s.script(timeout=float("inf")), "seconds are [0-9]+ at most, not inf"),
        (lambda s: s.push_raw("x"), "raw data must be bytes, not 'x'"),
        (lambda s: s.push({}, fragments=0), "fragments must be 1 or more, not 0"),
        (lambda s: s.push_binary(b"", fragments="2"), "fragments must be a whole number, not '2'"),
    ],
)
def test_nonsense_to_say_is_a_value_error_at_once(
    server: ComfyServer, use: Callable[[Any], object], match: str
) -> None:
    """As with faults."""
    with pytest.raises(ValueError, match=match):
        use(server)
    assert server.faults.active() == []


LASTING: dict[str, Callable[[Any], Fault]] = {
    "deaf": lambda f: f.deaf(),
    "stale_handlers": lambda f: f.stale_handlers(),
    "go_dark": lambda f: f.go_dark(),
    "freeze": lambda f: f.freeze(),
    "swallow_pings": lambda f: f.swallow_pings(),
    "refuse_sockets": lambda f: f.refuse_sockets(),
    "stall_handshakes": lambda f: f.stall_handshakes(),
    "slow_handshakes": lambda f: f.slow_handshakes(1),
    "lose": lambda f: f.lose("x"),
    "withhold": lambda f: f.withhold("x"),
    "no_feature_flags": lambda f: f.no_feature_flags(),
    "junk": lambda f: f.junk(),
    "foreign_traffic": lambda f: f.foreign_traffic(),
    "fragments": lambda f: f.fragments(),
    "pause_in_frames": lambda f: f.pause_in_frames(1),
    "late_history": lambda f: f.late_history(),
    "no_history": lambda f: f.no_history(),
    "hang_worker": lambda f: f.hang_worker(),
    "forget_interrupts": lambda f: f.forget_interrupts(),
    "other_prompt_ids": lambda f: f.other_prompt_ids(),
    "node_errors": lambda f: f.node_errors({}),
    "events_before_reply": lambda f: f.events_before_reply(),
    "delay": lambda f: f.delay("*", "*"),
    "cut": lambda f: f.cut("*", "*"),
    "drip": lambda f: f.drip("*", "*"),
    "bad_gateway": lambda f: f.bad_gateway(),
    "login_page": lambda f: f.login_page(),
    "redirect": lambda f: f.redirect(),
    "wrong_mime": lambda f: f.wrong_mime(),
    "missing": lambda f: f.missing("*", "*"),
    "too_large": lambda f: f.too_large("*"),
    "rename_uploads": lambda f: f.rename_uploads(),
    "rewrite": lambda f: f.rewrite("*", "*", lambda answer: 5),
    "answer": lambda f: f.answer("*", "*", (500, {}, None)),
    "stop_reading": lambda f: f.stop_reading(),
    "node_fails": lambda f: f.node_fails("SaveImage"),
    "out_of_memory": lambda f: f.out_of_memory("SaveImage"),
    "slow_node": lambda f: f.slow_node("SaveImage", 0.5),
    "vram": lambda f: f.vram(0),
    "crash": lambda f: f.crash(60),
}

#: Those that keep the server from reading a whole request.
UNREAD = {"freeze", "stop_reading"}
AT_ONCE = {"drop", "close_politely", "oversized_frame", "evict", "lose_queue", "clear", "active"}


def test_each_fault_is_undone_in_a_test() -> None:
    """All that the class offers."""
    assert {n for n in dir(faults.Faults) if not n.startswith("_")} == set(LASTING) | AT_ONCE


@pytest.mark.parametrize("name", LASTING)
def test_a_fault_is_undone(server: ComfyServer, name: str) -> None:
    """By leaving it, by its end, by clear; then all is as before."""

    def leave(fault: Fault) -> None:
        with fault:
            pass

    with ComfyApi(server.url) as api:
        api.poll_status(LIMIT)
        for undo in (leave, Fault.end, lambda fault: server.faults.clear()):
            fault = LASTING[name](server.faults)
            assert (fault.name, fault.active) == (name, True)
            assert repr(server.faults) == f"<Faults: {name}>"
            undo(fault)
            fault.end()
            assert not fault.active
            assert repr(server.faults) == "<Faults: none>"
        result = api.run(picture(), timeout=LIMIT)
        assert len(result.images) == 1
        assert result.images[0].bytes()
    with ComfyApi(server.url) as api:
        assert api.get_queue().pending == ()
        server.until(lambda: api.client_id in server.hellos)


@pytest.mark.parametrize("name", LASTING)
def test_no_fault_holds_up_the_end(name: str) -> None:
    """Whatever waits for whatever."""
    before = server_threads()  # servers of other tests may run on
    with ComfyServer() as server:
        LASTING[name](server.faults)
        with contextlib.ExitStack() as stack:
            for path in ("/queue", "/ws"):
                stack.enter_context(raw(server, asking(path)))
            body = json.dumps({"prompt": picture()}).encode()
            stack.enter_context(raw(server, asking("/prompt", "POST", body)))
            if name not in UNREAD:
                server.until(lambda: len(server.requests) == 3)
            with all_end(server_threads() - before):
                server.stop()


# -- restarts ------------------------------------------------------------------------------


def test_faults_of_sockets_and_threads_end_with_a_restart(server: ComfyServer, dial: Dial) -> None:
    """Deaf and dark sockets, and a thread that stands still; the rest stays in force."""
    dial()
    server.faults.lose("x")
    ended = [server.faults.deaf(), server.faults.go_dark(), server.faults.freeze()]
    server.restart()
    assert repr(server.faults) == "<Faults: lose>"
    assert not any(fault.active for fault in ended)
    assert get(server, "/queue").status_code == 200


def test_a_killed_server_resets_everything_and_comes_back(server: ComfyServer, dial: Dial) -> None:
    """On its port; queue and history are lost, files, faults and records are kept."""
    ws = dial()
    ended(server, submit(server))
    (server.root / "input" / "a.png").write_bytes(b"x")
    url, root = server.url, server.root
    server.faults.delay("GET", "/queue")
    server.faults.rewrite("GET", "/prompt", lambda _: "still")
    with raw(server, asking("/queue")) as connection:
        server.until(lambda: server.requests[-1].path == "/queue")
        server.kill()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
        with pytest.raises(ConnectionResetError):
            heard(ws, "never")
        assert server.url == url
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port), LIMIT)
        for ask in (lambda: server.root, lambda: server.faults.drop(), lambda: server.history):
            with pytest.raises(RuntimeError, match="is not running"):
                ask()
    server.start()
    assert (server.url, server.root) == (url, root)
    assert (server.root / "input" / "a.png").read_bytes() == b"x"
    assert get(server, "/history").json() == {}
    assert get(server, "/prompt").json() == "still"
    assert (server.hellos, len(server.ran)) == (["me"], 1)
    server.faults.clear()
    assert get(server, "/queue").status_code == 200


class Last:
    """A node that ends its server, or whatever `end` does."""

    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True
    end: ClassVar[Callable[[], object]]

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {}}

    def run(self) -> dict[str, Any]:
        type(self).end()
        return {}


@pytest.mark.parametrize("scripted", [True, False])
@pytest.mark.parametrize("how", ["kill", "restart"])
def test_a_node_or_a_script_may_end_its_server(
    server: ComfyServer, how: str, scripted: bool
) -> None:
    """In the middle of a prompt, which has no end then."""
    done = threading.Event()

    def end() -> None:
        getattr(server, how)()
        done.set()

    if scripted:
        server.script(lambda _: end())
    else:
        server.add_node(Last)
        Last.end = end
    with contextlib.suppress(requests.ConnectionError):
        post(server, "/prompt", {"prompt": {"1": {"class_type": "Last", "inputs": {}}}})
    assert done.wait(LIMIT)
    if how == "kill":
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port), LIMIT)
        server.start()
    assert get(server, "/history").json() == {}
    assert [ran.status for ran in server.ran] == [None]
    assert server.errors == []


def test_a_prompt_that_ran_when_its_server_died_has_no_end(server: ComfyServer) -> None:
    """Though its node was told to stop."""
    with server.faults.hang_worker():
        submit(server)
        server.until(lambda: server.ran)
        server.kill()
    assert [ran.status for ran in server.ran] == [None]


def test_a_killed_server_can_be_stopped_or_restarted() -> None:
    """Its port is free then."""
    with ComfyServer() as server:
        server.kill()
        assert str(server.port) in repr(server)
        server.restart()
        assert get(server, "/queue").status_code == 200
        server.kill()
    with ComfyServer(server.port) as other:
        assert other.port == server.port
    assert repr(server) == "<ComfyServer stopped>"


# -- other servers -------------------------------------------------------------------------


def test_faults_work_below_a_prefix() -> None:
    """Paths are told without it."""
    with ComfyServer(prefix="/deep") as server:
        with server.faults.bad_gateway(path="/queue"):
            assert get(server, "/api/queue").status_code == 502
        server.on("GET", "/queue", server.answer)
        assert get(server, "/queue").json()["queue_running"] == []
        assert server.requests[-1].target == "/deep/queue"


@pytest.mark.parametrize("path", ["/queue", "/deeper/queue", "/deep%2Fqueue"])
def test_no_fault_is_met_outside_of_the_prefix(path: str) -> None:
    """There is nothing there."""
    with ComfyServer(prefix="/deep") as server:
        server.on("*", "*", (200, {}, "mine"))
        outside = server.url.removesuffix("/deep") + path
        assert requests.get(outside, timeout=LIMIT).status_code == 404
        assert get(server, "/queue").text == "mine"
        assert get(server, "").text == "mine"


def test_faults_work_over_tls() -> None:
    """Bytes of one's own, cuts and drops."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    with ComfyServer(tls=context) as server:
        server.on("GET", "/a", lambda r: r.socket.sendall(b"HTTP/1.1 200 OK\r\n\r\nmine"))
        server.faults.cut("GET", "/b", reset=True)
        server.on("GET", "/c", server.answer)

        def ask(path: str) -> bytes:
            plain = socket.create_connection(("127.0.0.1", server.port), LIMIT)
            with trust.wrap_socket(plain, server_hostname="127.0.0.1") as connection:
                connection.sendall(
                    asking(path).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
                )
                return everything(connection)

        assert ask("/a").endswith(b"\r\n\r\nmine")
        with contextlib.suppress(OSError):
            assert ask("/b") == b""
        assert ask("/c").startswith(b"HTTP/1.1 404")
        url = server.url.replace("https", "wss") + "/ws"
        ws = websocket.create_connection(url, timeout=LIMIT, sslopt={"context": trust})
        ws.recv()
        server.faults.drop()
        with pytest.raises((OSError, websocket.WebSocketException)):
            ws.recv()
        ws.shutdown()


def test_faults_meet_who_has_no_password() -> None:
    """A proxy's own trouble comes before its question for it; both are recorded."""
    with ComfyServer(credentials=("me", "secret")) as server:
        with server.faults.bad_gateway():
            assert get(server, "/queue").status_code == 502
        assert get(server, "/queue").status_code == 401
        assert len(server.requests) == 2
        server.on("GET", "/queue", server.answer)
        assert get(server, "/queue").status_code == 401
        assert get(server, "/queue", auth=("me", "secret")).status_code == 200
