"""The life of a client: connecting, closing, forgetting, forking, pickling, exiting."""

from __future__ import annotations

import contextlib
import copy
import gc
import inspect
import io
import logging
import multiprocessing
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import blinker
import pytest
import requests

from comfy_client import (
    AuthenticationError,
    BearerCredentials,
    ClientClosed,
    ComfyApi,
    EnvCredentials,
    HeaderCredentials,
    QueryCredentials,
    RequestTimeout,
    ServerUnreachable,
    State,
    SubmitUncertain,
    UnexpectedResponse,
    WorkflowError,
)
from comfy_client.testing import PROMPT_ID, Answer, ComfyServer, Finish, Request, never_answer
from tests.comfyui import ComfyUI
from tests.helpers.clients import Heard, Quick, open_sockets, threads, until

#: How a prompt ends that does nothing: in the history, and told.
END = (
    Finish(),
    {"type": "executing", "data": {"node": None, "prompt_id": PROMPT_ID}},
)
GRAPH = {"1": {"class_type": "SaveImage", "inputs": {"filename_prefix": "x"}}}
PICTURE = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 255},
    },
    "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
}


@pytest.fixture
def refused() -> Iterator[str]:
    """The URL of a port where nobody listens, and nobody else can."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # a test may come to listen
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def _raised(call: Callable[[], object], timeout: float = 5.0) -> BaseException | None:
    """What a call in a thread of its own raises; it must end in time."""
    caught: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as exc:
            caught.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(timeout)
    assert not thread.is_alive()
    return caught[0] if caught else None


# -- the handshake ----------------------------------------------------------------------


@pytest.fixture
def comfy(comfy: ComfyServer) -> ComfyServer:
    """Prompts, whatever they are, run until they are told to end."""
    comfy.script()
    return comfy


def test_the_socket_introduces_itself_as_http_does(comfy: ComfyServer) -> None:
    """Credentials, user, headers and cookies; no Origin; the hello comes first."""
    session = requests.Session()
    session.cookies.set("sid", "c00kie", domain="127.0.0.1")
    with (
        session,
        ComfyApi(
            comfy.url,
            client_id="my-id",
            credentials=BearerCredentials("t0ken"),
            user="ann",
            headers={"X-Team": "blue", "Origin": comfy.url},
            session=session,
        ),
    ):
        comfy.until(lambda: comfy.first_messages)
    headers = comfy.handshakes[0]
    assert headers["Authorization"] == "Bearer t0ken"
    assert headers["Comfy-User"] == "ann"
    assert headers["X-Team"] == "blue"
    assert headers["Cookie"] == "sid=c00kie"
    assert headers.getall("Host") == [f"127.0.0.1:{comfy.port}"]
    assert "Origin" not in headers
    assert comfy.hellos == ["my-id"]
    assert comfy.first_messages[0]["type"] == "feature_flags"


def test_user_and_password_in_the_host_reach_the_handshake(comfy: ComfyServer) -> None:
    """As Basic; the address that is shown has neither."""
    with ComfyApi(f"ann:s%3Acret@127.0.0.1:{comfy.port}") as api:
        assert comfy.handshakes[0]["Authorization"] == "Basic YW5uOnM6Y3JldA=="
        assert api.host == comfy.url
        assert "cret" not in repr(api)


def test_a_token_goes_into_the_query_of_the_handshake(comfy: ComfyServer) -> None:
    """Beside the client id, encoded."""
    with ComfyApi(comfy.url, credentials=QueryCredentials("token", "a&b")) as api:
        (request,) = [r for r in comfy.requests if r.path == "/ws"]
        assert request.query == {"clientId": api.client_id, "token": "a&b"}
        assert request.target.startswith("/ws?")


def test_a_path_before_the_server_is_kept() -> None:
    """For HTTP and the socket alike."""
    with ComfyServer(prefix="/comfy") as server, ComfyApi(f"{server.url}/") as api:
        assert api.connected
        assert api.get_queue().pending == ()
        targets = [r.target for r in server.requests]
    assert any(target.startswith("/comfy/ws?clientId=") for target in targets)


def test_credentials_are_asked_anew_at_each_dial(comfy: ComfyServer) -> None:
    """A token that changed is the next handshake's; one that cannot be had is a refusal."""
    current: list[Any] = [BearerCredentials("one")]
    with Quick(comfy.url, credentials=lambda: current[0]) as api:
        heard = Heard(api)
        current[0] = BearerCredentials("two")
        comfy.faults.drop()
        until(lambda: heard("reconnected"))
        assert [h["Authorization"] for h in comfy.handshakes] == ["Bearer one", "Bearer two"]
        for nonsense in (5, ("a", "b", "c"), BearerCredentials("line\nbreak"), lambda: None):
            count = len(heard("reconnected"))
            current[0] = nonsense
            comfy.faults.drop()
            until(lambda: heard("auth_error"))
            assert "line" not in str(heard("auth_error")[-1].error)
            heard.events[:] = [e for e in heard.events if e.name != "auth_error"]
            current[0] = BearerCredentials("three")
            until(lambda count=count: len(heard("reconnected")) > count)  # type: ignore[misc]
        assert comfy.handshakes[-1]["Authorization"] == "Bearer three"


# -- construction -----------------------------------------------------------------------


def test_construction_asks_nothing_of_anybody(monkeypatch: pytest.MonkeyPatch) -> None:
    """No socket, no name look-up, no thread, no call for credentials."""

    def fail(*args: object, **kw: object) -> Any:
        raise AssertionError("I/O at construction")

    before = threads()
    with monkeypatch.context() as patch:
        patch.setattr(socket, "socket", fail)
        patch.setattr(socket, "getaddrinfo", fail)
        patch.setattr(socket, "create_connection", fail)
        api = ComfyApi("https://gpu.example/comfy", credentials=fail)
        assert api.state is State.IDLE
        assert not api.connected
        repr(api)
        api.get_path_image  # noqa: B018
        api.close()
    assert threads() == before


def test_getters_start_no_thread(comfy: ComfyServer) -> None:
    """HTTP alone serves them."""
    with contextlib.closing(ComfyApi(comfy.url)) as api:
        api.get_queue()
        api.get_histories()
        api.get_system_stats()
        api.poll_status()
        api.ping()
        api.interrupt()
        assert api.state is State.IDLE
        assert threads() == []
    assert comfy.handshakes == []


@pytest.mark.parametrize(
    "use",
    [
        lambda api: api.on("progress", print),
        lambda api: api.events(),
        lambda api: api.submit(GRAPH),
        lambda api: _raised(lambda: api.run(GRAPH, timeout=0.1)),
        lambda api: _raised(lambda: api.wait_for("progress", timeout=0.1)),
        lambda api: api.init(),
    ],
    ids=["on", "events", "submit", "run", "wait_for", "init"],
)
def test_what_needs_events_starts_the_thread(
    comfy: ComfyServer, use: Callable[[ComfyApi], object]
) -> None:
    """Without init."""
    with contextlib.closing(ComfyApi(comfy.url)) as api:
        use(api)
        comfy.until(lambda: api.connected)
        assert len(comfy.handshakes) == 1


# -- init -------------------------------------------------------------------------------


def test_init_returns_the_client_and_may_be_repeated(comfy: ComfyServer) -> None:
    """One socket, however often and from however many threads."""
    with contextlib.closing(ComfyApi(comfy.url)) as api:
        assert api.init(float("inf")) is api
        assert api.init() is api
        assert [_raised(api.init) for _ in range(3)] == [None] * 3
        assert api.connected
        assert len(comfy.handshakes) == 1


@pytest.mark.parametrize(
    ("host", "kind", "words"),
    [
        ("http://no-such-host.invalid:8188", ServerUnreachable, "not known"),
        ("https://{netloc}", ServerUnreachable, "http://"),
    ],
    ids=["name", "tls"],
)
def test_init_fails_at_once_on_what_will_not_mend(
    comfy: ComfyServer, host: str, kind: type[Exception], words: str
) -> None:
    """An unknown name, TLS where there is none."""
    api = ComfyApi(host.format(netloc=f"127.0.0.1:{comfy.port}"))
    heard = Heard(api)
    start = time.monotonic()
    with contextlib.closing(api), pytest.raises(kind, match=words):
        api.init(60)
    assert time.monotonic() - start < 20
    assert comfy.handshakes == []
    assert heard.links == []


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ((401, {}, "who?"), AuthenticationError),
        ((403, {}, None), AuthenticationError),
        ((200, {"Content-Type": "text/html"}, "<html>login</html>"), UnexpectedResponse),
        ((200, {}, {"hello": "world"}), UnexpectedResponse),
        ((302, {"Location": "/login"}, None), UnexpectedResponse),
    ],
    ids=["401", "403", "login", "json", "redirect"],
)
def test_init_fails_at_once_on_another_answer(
    comfy: ComfyServer, answer: Any, kind: type[Exception]
) -> None:
    """``connection_error`` fires, ``auth_error`` where it is one, and no thread stays."""
    comfy.on("GET", "*", answer)
    api = ComfyApi(comfy.url)
    heard = Heard(api)
    start = time.monotonic()
    with pytest.raises(kind):
        api.init(60)
    assert time.monotonic() - start < 20
    until(lambda: heard("connection_error"))
    assert isinstance(heard("connection_error")[0].error, kind)
    assert len(heard("auth_error")) == (kind is AuthenticationError)
    api.close()


def test_init_fails_at_once_on_another_program() -> None:
    """Something that does not speak HTTP listens on the port."""

    def serve(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = listener.accept()
                with peer:
                    peer.sendall(b"SSH-2.0-OpenSSH_9.7\r\n")
                    peer.recv(1000)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=serve, args=(listener,), daemon=True)
        server.start()
        start = time.monotonic()
        with (
            pytest.raises(UnexpectedResponse, match="another program"),
            ComfyApi(f"127.0.0.1:{listener.getsockname()[1]}"),
        ):
            pass
        assert time.monotonic() - start < 8
        listener.shutdown(socket.SHUT_RDWR)
        server.join(5)


@pytest.mark.parametrize("status", [401, 403])
def test_init_fails_at_once_when_the_handshake_is_refused(comfy: ComfyServer, status: int) -> None:
    """HTTP lets us in, the socket does not; once mended, the same client connects."""
    comfy.faults.refuse_sockets(status)
    with contextlib.closing(ComfyApi(comfy.url)) as api:
        start = time.monotonic()
        with pytest.raises(AuthenticationError, match=str(status)) as info:
            api.init(60)
        assert time.monotonic() - start < 20
        assert info.value is not api._connection.error
        with pytest.raises(AuthenticationError):
            api.init(60)
        comfy.faults.clear()
        assert api.init(20).connected


def test_init_waits_for_a_server_that_starts(
    comfy: ComfyServer, caplog: pytest.LogCaptureFixture
) -> None:
    """502 to 504 from a proxy, then ComfyUI itself; it says once what it waits for."""
    left = iter([502, 503, 504])

    def starting(request: Request) -> Any:
        status = next(left, None)
        return comfy.answer(request) if status is None else (status, {}, "starting")

    comfy.on("GET", "/prompt", starting)
    with ComfyApi(comfy.url) as api:
        assert api.connected
    waits = [r.message for r in caplog.records if r.levelname == "WARNING"]
    assert [text.startswith("waiting 10 s for the server to come up: ") for text in waits] == [True]


def test_init_waits_for_a_port_that_opens_late(
    comfy: ComfyServer, refused: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused, refused, and there it is."""
    port = int(refused.rpartition(":")[2])
    with contextlib.closing(ComfyApi(refused)) as api:
        caught: list[Any] = []
        tries: list[float] = []
        ask = api.poll_status
        monkeypatch.setattr(
            api, "poll_status", lambda timeout: (tries.append(timeout), ask(timeout))[1]
        )
        thread = threading.Thread(target=lambda: caught.append(_raised(lambda: api.init(30), 40)))
        thread.start()
        until(lambda: len(tries) > 2)
        assert thread.is_alive()
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind(("127.0.0.1", port))
            listener.listen()
            relay = threading.Thread(target=_relay, args=(listener, comfy.port))
            relay.start()
            thread.join(40)
            assert caught == [None]
            assert api.connected
            api.close()
            listener.shutdown(socket.SHUT_RDWR)
            relay.join(10)


def _relay(listener: socket.socket, port: int) -> None:
    """Pass connections on to another port, until the listener ends."""
    with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
        while True:
            ours = stack.enter_context(listener.accept()[0])
            theirs = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            for pair in ((ours, theirs), (theirs, ours)):
                pump = threading.Thread(target=_pump, args=pair)
                pump.start()
                stack.callback(pump.join)
                stack.callback(_end, pair[0])


def _end(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


def test_init_gives_up_in_time(refused: str) -> None:
    """A port where nobody comes to listen: the last reason is raised."""
    start = time.monotonic()
    with pytest.raises(ServerUnreachable, match="refused"):
        ComfyApi(refused).init(0.6)
    assert 0.3 < time.monotonic() - start < 5


@pytest.mark.parametrize(
    ("timeout", "error"),
    [(float("nan"), ValueError), (-1, ValueError), ("5", TypeError), ((5, 60), TypeError)],
)
def test_what_is_no_time_to_wait_is_told_at_once(
    refused: str, timeout: Any, error: type[Exception]
) -> None:
    """By whatever waits; ``nan`` would have no end."""
    with contextlib.closing(ComfyApi(refused)) as api:
        for wait in (
            lambda: api.init(timeout),
            lambda: api.run(GRAPH, timeout=timeout),
            lambda: api.run(GRAPH, stall_timeout=timeout),
            lambda: api.wait_for("progress", timeout=timeout),
            lambda: api.job("x").result(timeout),
            lambda: api.job("x").exception(timeout),
        ):
            raised = _raised(wait, 30)
            assert isinstance(raised, error)
            assert "timeout is" in str(raised)


def test_init_may_wait_as_long_as_it_takes(comfy: ComfyServer) -> None:
    """Without a time it ends with the answer."""
    comfy.kill()
    threading.Timer(0.5, comfy.start).start()
    with contextlib.closing(ComfyApi(comfy.url)) as api:
        assert api.init(None).connected


def test_init_is_done_in_time_although_the_handshake_stalls(
    comfy: ComfyServer, caplog: pytest.LogCaptureFixture
) -> None:
    """HTTP works, so the client does; it says that the socket is not up yet."""
    comfy.faults.stall_handshakes()
    start = time.monotonic()
    with contextlib.closing(ComfyApi(comfy.url)) as api:
        assert api.init(0.5) is api
        assert time.monotonic() - start < 5
        assert "the event socket is not up yet" in caplog.text


def test_init_is_done_in_time_although_http_stalls(comfy: ComfyServer) -> None:
    """A server that accepts and never answers."""
    comfy.on("GET", "*", never_answer)
    start = time.monotonic()
    with contextlib.closing(ComfyApi(comfy.url)) as api, pytest.raises(RequestTimeout):
        api.init(0.5)
    assert time.monotonic() - start < 5


def test_auth_success_fires_once_per_init(comfy: ComfyServer) -> None:
    """Only where there are credentials."""
    with contextlib.closing(ComfyApi(comfy.url, credentials=("ann", "x"))) as api:
        heard = Heard(api)
        api.init()
        until(lambda: heard("connected"))
        assert len(heard("auth_success")) == 1
    with contextlib.closing(ComfyApi(comfy.url)) as api:
        heard = Heard(api)
        api.init()
        until(lambda: heard("connected"))
        assert not heard("auth_success")


def test_with_closes_on_failure(refused: str) -> None:
    """Neither thread nor socket outlives a ``with`` that could not begin."""

    class Impatient(ComfyApi):
        def init(self, timeout: float = 0.3) -> Any:
            return super().init(timeout)

    api = Impatient(refused)
    with pytest.raises(ServerUnreachable), api:
        pass
    with pytest.raises(ClientClosed):
        api.get_queue()
    assert threads() == []


def test_with_closes_when_its_body_raises(comfy: ComfyServer) -> None:
    """And leaves nothing."""
    with pytest.raises(KeyError), ComfyApi(comfy.url) as api:
        raise KeyError
    with pytest.raises(ClientClosed):
        api.get_queue()
    until(lambda: threads() == [] and not open_sockets(comfy.port))


def test_with_ends_when_receivers_have_heard_why(comfy: ComfyServer) -> None:
    """Even one that is busy: of a failure to begin, and of a submission that fails."""
    namespace = blinker.Namespace()
    heard: list[str] = []

    def slow(api: ComfyApi, event: Any) -> None:
        time.sleep(0.3)
        heard.append(event.name)

    for name in ("auth_error", "connection_error", "queue_error"):
        namespace.signal(name).connect(slow)
    broken = {"1": {"class_type": "X", "inputs": {"a": ["2", 0]}}}
    with contextlib.suppress(WorkflowError), ComfyApi(comfy.url, namespace=namespace) as api:
        with contextlib.suppress(WorkflowError):
            api.run(broken)
        api.run(broken)
    assert heard == ["queue_error", "queue_error"]
    heard.clear()
    comfy.on("GET", "/prompt", (401, {}, ""))
    with pytest.raises(AuthenticationError), ComfyApi(comfy.url, namespace=namespace):
        pass
    assert heard == ["auth_error", "connection_error"]


def test_only_what_can_be_sent_whole_is_uploaded(comfy: ComfyServer) -> None:
    """Any bytes can; a text file, a picture of Pillow and the like cannot."""
    bodies: list[bytes] = []

    def store(request: Request) -> Any:
        bodies.append(request.body)
        return 200, {}, {"name": "a.png", "subfolder": "", "type": "input"}

    comfy.on("POST", "/upload/image", store)
    with contextlib.closing(ComfyApi(comfy.url)) as api:
        for content in (b"picture", bytearray(b"picture"), memoryview(b"picture")):
            api.upload_image(content, "a.png")
        for odd in (io.StringIO("picture"), object(), 7):
            with pytest.raises(TypeError, match="binary file"):
                api.upload_image(odd, "a.png")  # type: ignore[arg-type]
    assert ["picture" in str(body) for body in bodies] == [True] * 3


# -- close ------------------------------------------------------------------------------


def _closes_quickly(api: ComfyApi) -> None:
    start = time.monotonic()
    api.close()
    assert time.monotonic() - start < 2.0  # a tenth of that, but the machine may be busy
    api.close()
    until(lambda: threads() == [])
    assert api.state is State.CLOSED


def test_close_with_a_silent_peer(comfy: ComfyServer) -> None:
    """F33."""
    api = ComfyApi(comfy.url).init()
    comfy.faults.go_dark()
    _closes_quickly(api)


def test_close_during_a_pause(refused: str) -> None:
    """F33: back-off."""
    api = ComfyApi(refused)
    api._connection.backoff.uniform = lambda low, high: 30.0
    api._connection.start()
    until(lambda: api.state is State.WAITING)
    _closes_quickly(api)


def test_close_during_the_handshake(comfy: ComfyServer) -> None:
    """F33: nobody answers it."""
    comfy.faults.stall_handshakes()
    api = ComfyApi(comfy.url)
    api._connection.start()
    comfy.until(lambda: comfy.handshakes)
    _closes_quickly(api)


def test_close_before_anything(refused: str) -> None:
    """Nothing to let go of."""
    _closes_quickly(ComfyApi(refused))


@pytest.mark.parametrize("how", ["on", "signal"])
def test_close_from_a_receiver(comfy: ComfyServer, how: str) -> None:
    """F29, F33: in the delivery thread."""
    namespace = blinker.Namespace()
    api = ComfyApi(comfy.url, namespace=namespace)
    took: list[float] = []

    def close(*_: object) -> None:
        start = time.monotonic()
        api.close()
        took.append(time.monotonic() - start)

    if how == "on":
        api.on("status", close)
    else:
        namespace.signal("status").connect(close)
        api._connection.start()
    until(lambda: took)
    assert took[0] < 2.0
    _closes_quickly(api)


def test_close_from_a_done_callback(comfy: ComfyServer) -> None:
    """In the thread that watches over jobs, or in the socket's."""
    api = ComfyApi(comfy.url)
    closed, gate = threading.Event(), threading.Event()
    comfy.script(gate, *END)
    job = api.submit(GRAPH)
    job.add_done_callback(lambda _: (api.close(), closed.set()))
    gate.set()
    assert closed.wait(15)
    _closes_quickly(api)


def test_close_from_many_threads(comfy: ComfyServer) -> None:
    """Concurrently, and none of them raises."""
    api = ComfyApi(comfy.url).init()
    together = threading.Barrier(4)
    caught: list[BaseException | None] = []

    def close() -> None:
        together.wait()
        caught.append(_raised(api.close))

    callers = [threading.Thread(target=close) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert caught == [None] * 4
    _closes_quickly(api)


@pytest.mark.parametrize(
    "wait",
    [
        lambda api: api.wait_for("progress"),
        lambda api: api.run(GRAPH),
        lambda api: api.submit(GRAPH).result(),
        lambda api: api.run(GRAPH, on_event=print),
    ],
    ids=["wait_for", "run", "result", "run with callback"],
)
def test_close_ends_every_wait(comfy: ComfyServer, wait: Callable[[ComfyApi], object]) -> None:
    """With ClientClosed, at once."""
    api = ComfyApi(comfy.url).init()
    closer = threading.Timer(0.3, api.close)
    closer.start()
    start = time.monotonic()
    with pytest.raises(ClientClosed):
        wait(api)
    assert time.monotonic() - start < 5
    closer.join()


def test_close_ends_iteration(comfy: ComfyServer) -> None:
    """``events()`` is exhausted, not raised from."""
    api = ComfyApi(comfy.url).init()
    events = api.events("progress")
    closer = threading.Timer(0.2, api.close)
    closer.start()
    assert list(events) == []
    closer.join()


@pytest.mark.parametrize("phase", ["http", "handshake"])
def test_close_ends_init(comfy: ComfyServer, refused: str, phase: str) -> None:
    """Another thread waits in init: ClientClosed, promptly."""
    comfy.faults.stall_handshakes()
    api = ComfyApi(refused if phase == "http" else comfy.url)
    closer = threading.Timer(0.5, api.close)
    closer.start()
    start = time.monotonic()
    assert isinstance(_raised(lambda: api.init(30), 20), ClientClosed)
    assert time.monotonic() - start < 5
    closer.join()


# -- use after close --------------------------------------------------------------------

#: What a closed client still does: none of it needs the server, all of it cleans up.
HARMLESS = {"as_completed", "close", "off", "generate_id", "get_path_image"}
#: ping() never raises; it answers with the reason.
ANSWERS = {"ping"}

PUBLIC = sorted(
    name
    for name, member in inspect.getmembers(ComfyApi, callable)
    if not name.startswith("_") and name not in HARMLESS | ANSWERS and name != "timing"
)

ARGUMENTS: dict[str, Any] = {
    "workflow": GRAPH,
    "name": "status",
    "callback": print,
    "file_name": "x.png",
    "number": 0,
    "prompt_id": "8a9f3c1e-0000-4000-8000-000000000000",
    "settings": {},
    "path_index": 0,
    "route": "/prompt",
    "enabled": True,
}


def _arguments(method: Callable[..., object]) -> list[Any]:
    info = {"filename": "x.png", "subfolder": "", "type": "output"}
    given = []
    for p in inspect.signature(method).parameters.values():
        if p.kind is p.KEYWORD_ONLY or (p.default is not p.empty and p.name not in ARGUMENTS):
            break
        if "FileInfo" in str(p.annotation):
            given.append(info)
        elif "bytes" in str(p.annotation):
            given.append(b"x")
        elif p.kind is not p.VAR_KEYWORD:
            given.append(ARGUMENTS.get(p.name, "x"))
    return given


def _exhaust(answer: Any) -> None:
    """Some methods only begin when their answer is used."""
    if hasattr(answer, "__enter__"):
        with answer:
            pass
    elif inspect.isgenerator(answer):
        next(answer)


@pytest.mark.parametrize("name", PUBLIC)
def test_a_closed_client_says_so(refused: str, name: str) -> None:
    """Every public method raises ClientClosed, whatever the server would say."""
    api = ComfyApi(refused)
    api.close()
    method = getattr(api, name)
    with pytest.raises(ClientClosed):
        _exhaust(method(*_arguments(method)))


def test_what_a_closed_client_still_does(refused: str) -> None:
    """Clean up, and say who it was."""
    api = ComfyApi(refused)
    unsubscribe = api.on("status", print)
    api.close()
    unsubscribe()
    assert api.off("status", print) is False
    assert isinstance(api.ping().error, ClientClosed)
    assert api.host == refused
    assert repr(api) == f"<ComfyApi {refused} closed>"
    assert threads() == []


# -- a client id that the server refuses --------------------------------------------------


@contextlib.contextmanager
def let_in_no_more(comfy: ComfyServer) -> Iterator[None]:
    """Whoever dials in here is closed with 1008, once, so that its client_id is renewed."""
    refusal = b"\x88\x02" + (1008).to_bytes(2, "big")

    def refuse(request: Request) -> None:
        status, headers, _ = comfy.answer(request)
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        request.socket.sendall(f"HTTP/1.1 {status} Ok\r\n{lines}\r\n".encode() + refusal)
        fault.end()

    refused = comfy.hellos[-1]
    fault = comfy.on("GET", "/ws", refuse)
    comfy.faults.drop()
    yield
    until(lambda: comfy.hellos[-1] != refused)


def test_a_client_that_is_let_in_no_more_goes_on_under_a_fresh_id(
    comfy: ComfyServer, caplog: pytest.LogCaptureFixture
) -> None:
    """What was under way ends over HTTP, once; what comes then has its events again."""
    comfy.script({"type": "execution_success", "data": {"prompt_id": PROMPT_ID}}, *END)
    script = comfy.script()
    with Quick(comfy.url, client_id="mine").init() as api:
        ends: list[Any] = []
        api.on("all", lambda event: ends.append(event) if event.is_end else None)
        running, waiting = api.submit(GRAPH), api.submit(GRAPH)
        with let_in_no_more(comfy):
            pass
        assert api.client_id == comfy.hellos[-1]
        assert caplog.text.count("code 1008") == 1
        for job in (running, waiting):
            comfy.finish(job.prompt_id)
            job.result(20)
        script.end()
        last = api.submit(GRAPH)
        last.result(20)
        assert [(event.prompt_id, event.recovered) for event in ends] == [
            (running.prompt_id, True),
            (waiting.prompt_id, True),
            (last.prompt_id, False),
        ]
        posted = [r.json() for r in comfy.requests if (r.method, r.path) == ("POST", "/prompt")]
        assert [body["client_id"] for body in posted] == ["mine", "mine", api.client_id]


def test_a_submission_is_found_by_its_mark_although_the_client_id_was_renewed(
    comfy: ComfyServer,
) -> None:
    """On a server that chooses the ids: while it is looked up, and when it is attached to later."""
    comfy.faults.other_prompt_ids()
    with Quick(comfy.url, client_id="mine").init() as api:

        def late(request: Request) -> Answer | None:
            if api.client_id == "mine":
                with let_in_no_more(comfy):
                    pass
            return comfy.answer(request)

        comfy.faults.cut("POST", "/prompt", ran=True, times=1)
        queue = comfy.on("GET", "/queue", late)
        job = api.submit(GRAPH)
        assert api.client_id != "mine"
        comfy.finish(job.prompt_id)
        job.result(20)
        queue.end()

        comfy.faults.cut("POST", "/prompt", ran=True, times=1)
        queue = comfy.faults.missing("GET", "/queue")
        with pytest.raises(SubmitUncertain) as caught:
            api.run(GRAPH, timeout=0.1)
        queue.end()
        with let_in_no_more(comfy):
            pass
        job = api.job(caught.value.prompt_id)
        assert job.prompt_id != caught.value.prompt_id
        comfy.finish(job.prompt_id)
        job.result(20)


# -- jobs as they end -------------------------------------------------------------------


def test_what_is_no_job_is_not_waited_for(comfy: ComfyServer) -> None:
    with ComfyApi(comfy.url) as api, pytest.raises(TypeError, match="as_completed takes jobs"):
        api.as_completed([api.generate_id()])  # type: ignore[list-item]


def test_jobs_come_as_they_end_each_once(comfy: ComfyServer) -> None:
    """Of several clients, with those that had ended first."""
    clients = (ComfyApi(comfy.url, transport="poll") for _ in range(2))
    with next(clients) as api, next(clients) as other:
        first, second, third = api.submit(GRAPH), other.submit(GRAPH), api.submit(GRAPH)
        comfy.finish(first.prompt_id)
        first.result(20)
        ended = api.as_completed({first: 1, second: 2, third: 3}, timeout=20)
        assert next(ended) is first
        for job in (second, third):
            comfy.finish(job.prompt_id)
            assert next(ended) is job
        assert list(ended) == []
        assert list(api.as_completed([third, third], timeout=0)) == [third]


def test_jobs_that_do_not_end_in_time_are_a_timeout(comfy: ComfyServer) -> None:
    """Seconds from the call; they go on, and what cannot be a time is told at once."""
    with ComfyApi(comfy.url) as api:
        job = api.submit(GRAPH)
        ended = api.as_completed([job], timeout=1.0)
        time.sleep(1.0)
        start = time.monotonic()
        with pytest.raises(TimeoutError):
            next(ended)
        assert time.monotonic() - start < 0.8
        assert not job.done()
        with pytest.raises(ValueError, match="seconds"):
            api.as_completed([job], timeout=-1)


# -- forgotten --------------------------------------------------------------------------


@pytest.mark.parametrize("closure", [False, True], ids=["plain", "closing over it"])
def test_forgotten_clients_leave_nothing(comfy: ComfyServer, closure: bool) -> None:
    """F31: a notebook cell that is run twenty times."""
    namespace = blinker.Namespace()
    for _ in range(20):
        api = ComfyApi(comfy.url, namespace=namespace)
        if closure:
            api.on("all", lambda event, api=api: api.state)
            namespace.signal("status").connect(lambda sender, event: None, sender=api, weak=False)
        api.init()
        comfy.push_status()
        api.get_queue()
        del api
        gc.collect()
    until(lambda: gc.collect() >= 0 and threads() == [])
    until(lambda: not open_sockets(comfy.port))
    comfy.until(lambda: not comfy.sockets)


def test_a_forgotten_client_that_could_not_connect_is_gone_too(comfy: ComfyServer) -> None:
    """Neither its last error nor init()'s hold it."""
    comfy.faults.refuse_sockets(403)
    api = ComfyApi(comfy.url)
    with pytest.raises(AuthenticationError):
        api.init()
    gone = weakref.ref(api)
    del api
    gc.collect()
    sys.exc_info()
    until(lambda: gc.collect() >= 0 and gone() is None and threads() == [])


def test_an_iterator_keeps_its_client(comfy: ComfyServer) -> None:
    """``for event in ComfyApi(...).events()`` is no deadlock."""
    events = ComfyApi(comfy.url).events("status")
    gc.collect()
    assert next(events).queue_remaining == 0
    events.close()
    del events
    until(lambda: gc.collect() >= 0 and threads() == [])


# -- the end of the interpreter ---------------------------------------------------------


SCRIPTS = {
    "connected": "api.init()",
    "receivers": "api.on('all', lambda event: api.state); api.init(); api.get_queue()",
    "job": "job = api.submit(GRAPH)",
    "busy receiver": "import time; api.on('status', lambda e: time.sleep(60)); api.init()",
    "poll": "api._connection._poll_only = True; api.init()",
    "refused": "api._http.address.__class__; api.on('status', print)",
    "iterating": (
        "import threading;"
        "threading.Thread(target=lambda: list(api.events()), daemon=True).start(); api.init()"
    ),
}


@pytest.mark.parametrize("what", SCRIPTS)
def test_a_script_without_close_ends(comfy: ComfyServer, what: str) -> None:
    """F32: promptly, and without a word."""
    port = comfy.port if what != "refused" else 1
    script = (
        f"import time\nfrom comfy_client import ComfyApi\nGRAPH = {GRAPH!r}\n"
        f"api = ComfyApi('127.0.0.1:{port}')\n{SCRIPTS[what]}\n"
        "print(time.time())\n"
    )
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", script],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    ended = time.time()
    assert done.stderr == ""
    assert done.returncode == 0
    assert ended - float(done.stdout) < 3.0  # measured 0.1 s; the machine may be busy


# -- processes --------------------------------------------------------------------------


def _in_child(work: Callable[[], object]) -> str:
    """What `work` returns or raises in a forked child, as text; it must end in 20 s."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        text = "nothing"
        try:
            try:
                text = str(work())
            except BaseException as exc:
                text = f"{type(exc).__name__}: {exc}"
            gc.collect()
            os.write(write, text.encode())
        finally:
            os._exit(0)
    os.close(write)
    try:
        end = time.monotonic() + 20
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            if time.monotonic() > end:
                os.kill(child, 9)
                os.waitpid(child, 0)
                return "hung"
            time.sleep(0.01)
        return os.read(read, 65536).decode()
    finally:
        os.close(read)


@pytest.fixture
def quiet_fork() -> Iterator[None]:
    """Newer Pythons warn of forks beside threads, which is what is tested."""
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        yield


@pytest.mark.usefixtures("quiet_fork")
def test_after_a_fork_both_work(comfy: ComfyServer) -> None:
    """The child has an id and a socket of its own; the parent's outlive the child."""
    with ComfyApi(comfy.url) as api:
        heard = Heard(api)
        api.on("progress", print)
        gate = threading.Event()
        comfy.script(gate, *END)
        job = api.submit(GRAPH)
        parent = api.client_id

        def work() -> object:
            child = api.client_id
            assert child != parent
            assert api.state is State.IDLE
            api.get_queue()
            with pytest.raises(ClientClosed):
                job.result(5)
            api.init()
            assert api.connected
            assert api.submit(GRAPH).prompt_id != job.prompt_id
            api.close()
            return child

        answer = _in_child(work)
        assert len(answer) == 36, answer
        assert answer != parent
        comfy.until(lambda: comfy.hellos == [parent, answer])
        gate.set()
        job.result(15)
        comfy.until(lambda: len(comfy.history) == 2)
        assert api.client_id == parent
        assert api.connected
        assert heard.links == []
        assert len(comfy.handshakes) == 2


@pytest.mark.usefixtures("quiet_fork")
def test_forking_in_the_middle_of_traffic_never_hangs_the_child(comfy: ComfyServer) -> None:
    """Whatever lock another thread of the parent holds at that moment."""
    stop = threading.Event()

    def chatter() -> None:
        while not stop.is_set():
            comfy.push_status()
            api.get_queue()

    with ComfyApi(comfy.url) as api:
        api.on("status", lambda event: None)
        busy = threading.Thread(target=chatter)
        busy.start()
        try:
            for _ in range(8):
                assert _in_child(lambda: api.init(10).get_queue().pending) == "()"
        finally:
            stop.set()
            busy.join()
        assert api.connected


@pytest.mark.usefixtures("quiet_fork")
def test_a_closed_client_is_closed_in_the_child(comfy: ComfyServer) -> None:
    """And one that was never used can be."""
    closed, fresh = ComfyApi(comfy.url), ComfyApi(comfy.url)
    closed.close()
    assert _in_child(closed.get_queue).startswith("ClientClosed")
    assert _in_child(lambda: closed.on("status", print)).startswith("ClientClosed")
    assert _in_child(lambda: fresh.get_queue().pending) == "()"
    fresh.close()


@pytest.mark.usefixtures("quiet_fork")
def test_a_fork_shares_no_connection_of_a_given_session(comfy: ComfyServer) -> None:
    """Both ask at the same time over what was one pool, and get their own answers."""
    with (
        requests.Session() as session,
        contextlib.closing(ComfyApi(comfy.url, session=session)) as api,
    ):
        api.get_queue()
        before = comfy.connections
        assert _in_child(lambda: api.get_queue().pending) == "()"
        assert comfy.connections == before + 1
        api.get_queue()
        assert comfy.connections == before + 1


def _ask(api: ComfyApi) -> tuple[str, int]:
    with api:
        return api.client_id, api.poll_status(10).queue_remaining


@pytest.mark.usefixtures("quiet_fork")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_pool_of_processes_may_be_given_a_client(comfy: ComfyServer, method: str) -> None:
    """By pickle, with an id of its own each."""
    with ComfyApi(comfy.url) as api:
        with multiprocessing.get_context(method).Pool(2) as pool:
            answers = pool.map(_ask, [api, api])
            pool.close()
            pool.join()
        assert [left for _, left in answers] == [0, 0]
        assert len({api.client_id, *(client_id for client_id, _ in answers)}) == 3
        assert api.connected


# -- pickles ----------------------------------------------------------------------------


def test_a_pickle_carries_the_configuration() -> None:
    """Not the id, which no two clients may share."""
    api = Quick(
        "https://gpu.example/comfy",
        user="ann",
        timeout=(1.0, 2.0),
        verify=False,
        cert="client.pem",
        proxies={"https": "http://proxy:3128"},
        transport="poll",
        credentials=EnvCredentials("COMFY_TOKEN", kind="query", key="token"),
    )
    twin = pickle.loads(pickle.dumps(api))
    assert type(twin) is Quick
    assert twin.host == api.host
    assert twin.__reduce__() == api.__reduce__()
    assert twin.client_id != api.client_id
    assert twin.state is State.IDLE
    assert twin._http.identity.credentials == EnvCredentials(
        "COMFY_TOKEN", kind="query", key="token"
    )
    api.close()
    twin.close()


@pytest.mark.parametrize(
    ("given", "lost"),
    [
        ({"credentials": ("ann", "s3cret")}, "credentials"),
        ({"proxies": {"http": "http://ann:s3cret@proxy:3128"}}, "proxies"),
        ({"headers": {"X-Tenant": "blue"}}, "headers"),
        ({"session": requests.Session(), "namespace": blinker.Namespace()}, "session, namespace"),
        ({"credentials": EnvCredentials("COMFY_TOKEN"), "proxies": {"http": None}}, None),
    ],
)
def test_what_stays_behind_of_a_pickle_is_warned_about_once(
    given: dict[str, Any], lost: str | None, caplog: pytest.LogCaptureFixture, refused: str
) -> None:
    """By name, where it is read; many results of one client may come."""
    data = pickle.dumps(ComfyApi(refused, **given))
    assert caplog.text == ""
    for _ in range(3):
        pickle.loads(data)
    assert [f"without its {lost}:" in record.getMessage() for record in caplog.records] == (
        [True] if lost else []
    )


@pytest.mark.parametrize(
    "how", [{"host": "http://ann:s3cret@127.0.0.1:{port}"}, {"credentials": ("ann", "s3cret")}]
)
def test_a_copy_of_a_client_is_another_one_with_the_same_configuration(how: dict[str, Any]) -> None:
    """Credentials, headers, namespace and all; but no id, which no two clients may share."""
    namespace = blinker.Namespace()
    with ComfyServer(credentials=("ann", "s3cret")) as server:
        host = how.get("host", server.url).format(port=server.port)
        rest = {name: value for name, value in how.items() if name != "host"}
        first = Quick(host, headers={"X-Tenant": "blue"}, namespace=namespace, **rest)
        with contextlib.closing(first), copy.copy(first) as twin:
            assert type(twin) is Quick
            assert twin.client_id != first.client_id
            assert twin.__reduce__() == first.__reduce__()
            assert server.handshakes[-1]["X-Tenant"] == "blue"
            assert twin._receivers._namespace is namespace
        assert "s3cret" not in repr(vars(first))


def test_a_deep_copy_of_a_result_keeps_the_very_client() -> None:
    """With its credentials and its connections."""
    with (
        ComfyServer(credentials=("ann", "s3cret")) as server,
        ComfyApi(server.url, credentials=("ann", "s3cret")) as api,
    ):
        result = copy.deepcopy(api.run(PICTURE))
        assert result.images[0].bytes().startswith(b"\x89PNG")
        assert result.images[0]._files is api
        assert copy.deepcopy(api) is api


@pytest.mark.parametrize(
    "given",
    [
        {"credentials": ("ann", "s3cret")},
        {"credentials": BearerCredentials("s3cret")},
        {"credentials": HeaderCredentials({"X-API-Key": "s3cret"})},
        {"credentials": QueryCredentials("token", "s3cret")},
        {"credentials": lambda: ("ann", "s3cret")},
        {"headers": {"X-API-Key": "s3cret"}},
        {"proxies": {"http": "http://ann:s3cret@proxy:3128"}},
        {"host": "http://ann:s3cret@127.0.0.1:{port}"},
        {"session": "with cookie"},
    ],
    ids=["basic", "bearer", "header", "query", "callable", "headers", "proxy", "host", "session"],
)
def test_nothing_secret_is_in_a_pickle_a_repr_or_a_log(
    comfy: ComfyServer, given: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Searched for in the bytes, after use, and after a refusal."""
    caplog.set_level(logging.DEBUG)
    host = given.pop("host", comfy.url).format(port=comfy.port)
    if "session" in given:
        given["session"] = requests.Session()
        given["session"].cookies.set("sid", "s3cret", domain="127.0.0.1")
    shown = []
    with contextlib.closing(Quick(host, **given)) as api:
        heard = Heard(api)
        api.init()
        comfy.faults.refuse_sockets(401)
        comfy.on("GET", "/prompt", (401, {}, None))
        comfy.faults.drop()
        until(lambda: heard("auth_error") and heard("reconnecting"))
        with pytest.raises(AuthenticationError) as info:
            api.poll_status()
        shown += [str(info.value), repr(info.value), repr(api), repr(vars(api)), api.host]
        shown += [repr(event) for event in heard.events]
        shown.append(pickle.dumps(api).decode("latin-1"))
        answer = api.fetch_api("/queue")
        assert pickle.loads(pickle.dumps(answer)) == answer
        shown.append(pickle.dumps(answer).decode("latin-1"))
        shown.append(pickle.dumps(info.value).decode("latin-1"))
        with (
            contextlib.closing(pickle.loads(pickle.dumps(api))) as twin,
            pytest.raises(AuthenticationError) as info,
        ):
            twin.poll_status()
        shown += [str(info.value)]
    shown.append(caplog.text)
    for text in shown:
        for secret in ("s3cret", "YW5uOnMzY3JldA"):
            assert secret not in text
    if isinstance(given.get("session"), requests.Session):
        given["session"].close()


# -- threads ----------------------------------------------------------------------------


def test_one_client_serves_many_threads(comfy: ComfyServer) -> None:
    """Getters, jobs and receivers at once."""
    comfy.script(*END)
    with ComfyApi(comfy.url) as api:

        def work() -> None:
            for _ in range(3):
                api.on("status", print)()
                api.get_queue()
                api.run(GRAPH, timeout=30)

        caught: list[BaseException | None] = []
        workers = [
            threading.Thread(target=lambda: caught.append(_raised(work, 60))) for _ in range(6)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(60)
        assert caught == [None] * 6
        assert len(comfy.handshakes) == 1


# -- the real server --------------------------------------------------------------------


@pytest.mark.real
def test_the_real_server_greets_and_lets_go(comfyui: ComfyUI) -> None:
    """init, flags, close; twenty times, and the server's log has no traceback of it."""
    for _ in range(20):
        with ComfyApi(comfyui.url) as api:
            assert api.connected
    api = ComfyApi(comfyui.url)
    flags = []
    api.on("feature_flags", flags.append)
    until(lambda: flags)
    assert flags[0].flags["supports_preview_metadata"] is True
    api.close()


@pytest.mark.real
@pytest.mark.usefixtures("quiet_fork")
def test_a_fork_beside_the_real_server(comfyui: ComfyUI) -> None:
    """Parent and child each with a socket of their own."""
    with ComfyApi(comfyui.url) as api:
        heard = Heard(api)
        assert _in_child(lambda: api.init(20).connected) == "True"
        assert api.poll_status(10).queue_remaining == 0
        assert api.connected
        assert heard.links == []
