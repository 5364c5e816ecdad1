"""Creating a client asks nothing of anybody; ``init`` waits for a server, or says why not."""

from __future__ import annotations

import contextlib
import io
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import blinker
import pytest

from comfy_client import (
    AuthenticationError,
    ClientClosed,
    ComfyApi,
    RequestTimeout,
    ServerUnreachable,
    State,
    UnexpectedResponse,
    WorkflowError,
)
from comfy_client.models import QueueStatus
from comfy_client.testing import ComfyServer, Request, never_answer
from tests.comfyui import ComfyUI
from tests.helpers.clients import (
    LIMIT,
    Heard,
    exception_of,
    flush,
    open_sockets,
    quickly,
    threads,
    until,
)
from tests.helpers.scripted import GRAPH

pytestmark = pytest.mark.usefixtures("prompts_wait")

# -- construction --------------------------------------------------------------------------


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
        lambda api: exception_of(lambda: api.run(GRAPH, timeout=0.1)),
        lambda api: exception_of(lambda: api.wait_for("progress", timeout=0.1)),
        lambda api: api.init(),
    ],
    ids=["on", "events", "submit", "run", "wait_for", "init"],
)
def test_calls_that_need_events_start_the_thread(
    comfy: ComfyServer, use: Callable[[ComfyApi], object]
) -> None:
    """Without init."""
    with contextlib.closing(ComfyApi(comfy.url)) as api:
        use(api)
        comfy.until(lambda: api.connected)
        assert len(comfy.handshakes) == 1


# -- init ----------------------------------------------------------------------------------


def test_init_returns_the_client_and_may_be_repeated(comfy: ComfyServer) -> None:
    """One socket, however often and from however many threads."""
    with contextlib.closing(ComfyApi(comfy.url)) as api:
        assert api.init(float("inf")) is api
        assert api.init() is api
        assert [exception_of(api.init) for _ in range(3)] == [None] * 3
        assert api.connected
        assert len(comfy.handshakes) == 1


@pytest.mark.parametrize(
    ("host", "kind", "words"),
    [
        ("http://no-such-host.invalid:8188", ServerUnreachable, "unknown host"),
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
    with quickly(), contextlib.closing(api), pytest.raises(kind, match=words):
        api.init(60)
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
        (lambda request: request.socket.sendall(b"SSH-2.0-OpenSSH_9.7\r\n"), UnexpectedResponse),
    ],
    ids=["401", "403", "login", "json", "redirect", "another program"],
)
def test_init_fails_at_once_on_another_answer(
    comfy: ComfyServer, answer: Any, kind: type[Exception]
) -> None:
    """``connection_error`` fires, ``auth_error`` where it is one, and no thread stays."""
    comfy.on("GET", "*", answer)
    api = ComfyApi(comfy.url)
    heard = Heard(api)
    with quickly(), pytest.raises(kind):
        api.init(60)
    until(lambda: heard("connection_error"))
    assert isinstance(heard("connection_error")[0].error, kind)
    assert len(heard("auth_error")) == (kind is AuthenticationError)
    api.close()


@pytest.mark.parametrize("status", [401, 403])
def test_init_fails_at_once_when_the_handshake_is_refused(comfy: ComfyServer, status: int) -> None:
    """HTTP lets us in, the socket does not; once mended, the same client connects."""
    comfy.faults.refuse_sockets(status)
    with contextlib.closing(ComfyApi(comfy.url)) as api:
        with quickly(), pytest.raises(AuthenticationError, match=str(status)) as info:
            api.init(60)
        with pytest.raises(AuthenticationError) as again:
            api.init(60)
        assert again.value is not info.value
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
    with contextlib.closing(ComfyApi(comfy.url)) as api:
        assert api.init(30).connected
    waits = [r.message for r in caplog.records if r.levelname == "WARNING"]
    assert [text.startswith("waiting 30 s for the server to come up: ") for text in waits] == [True]


def test_init_waits_for_a_port_that_opens_late(comfy: ComfyServer) -> None:
    """Refused, refused, and there it is."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    tries: list[float | None] = []

    class Counting(ComfyApi):
        def poll_status(self, timeout: float | None = None) -> Any:
            tries.append(timeout)
            return super().poll_status(timeout)

    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with listener, contextlib.closing(Counting(url)) as api:
        caught: list[Any] = []
        thread = threading.Thread(
            target=lambda: caught.append(exception_of(lambda: api.init(30), 40))
        )
        thread.start()
        until(lambda: len(tries) > 2)
        assert thread.is_alive()
        listener.listen()
        relay = threading.Thread(target=_relay, args=(listener, comfy.port))
        relay.start()
        thread.join(40)
        assert caught == [None]
        assert api.connected
        api.close()
        _end(listener)
        listener.close()
        relay.join(30)


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
    start = time.perf_counter()
    with pytest.raises(ServerUnreachable, match="refused"):
        ComfyApi(refused).init(0.6)
    assert 0.3 < time.perf_counter() - start < LIMIT


@pytest.mark.parametrize("wait", [ComfyApi.init, ComfyApi.wait_until_ready])
@pytest.mark.parametrize("timeout", [0, 0.01])
def test_a_wait_without_time_asks_once_and_says_why(
    refused: str, wait: Callable[..., object], timeout: float
) -> None:
    """With time enough for a busy machine to send the request and to be refused."""
    given: list[float] = []

    class Watched(ComfyApi):
        def poll_status(self, timeout: float = 1.0) -> QueueStatus:
            given.append(timeout)
            return super().poll_status(LIMIT)

    with (
        contextlib.closing(Watched(refused)) as api,
        pytest.raises(ServerUnreachable, match="refused"),
    ):
        wait(api, timeout)
    assert given == [1.0]


@pytest.mark.parametrize(
    ("timeout", "error"),
    [(float("nan"), ValueError), (-1, ValueError), ("5", TypeError), ((5, 60), TypeError)],
)
def test_a_timeout_that_is_no_number_is_refused_at_once(
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
            raised = exception_of(wait, 30)
            assert isinstance(raised, error)
            assert "timeout must be" in str(raised)


def test_init_may_wait_as_long_as_it_takes(comfy: ComfyServer) -> None:
    """Without a time it ends with the answer."""
    comfy.kill()
    threading.Timer(0.5, comfy.start).start()
    with contextlib.closing(ComfyApi(comfy.url)) as api:
        assert api.init(None).connected


@pytest.mark.timing(dial=2 * LIMIT, settle=2 * LIMIT)
def test_init_is_done_in_time_although_the_handshake_stalls(
    comfy: ComfyServer, caplog: pytest.LogCaptureFixture
) -> None:
    """HTTP works, so the client does; it says that the socket is not up yet."""
    comfy.faults.stall_handshakes()
    start = time.monotonic()
    with contextlib.closing(ComfyApi(comfy.url)) as api:
        assert api.init(0.5) is api
        assert time.monotonic() - start < LIMIT
        assert "the event socket is not up yet" in caplog.text


def test_init_is_done_in_time_although_http_stalls(comfy: ComfyServer) -> None:
    """A server that accepts and never answers."""
    comfy.on("GET", "*", never_answer)
    with quickly(), contextlib.closing(ComfyApi(comfy.url)) as api, pytest.raises(RequestTimeout):
        api.init(0.5)


def test_auth_success_fires_once_per_init(comfy: ComfyServer) -> None:
    """Only where there are credentials."""
    with contextlib.closing(ComfyApi(comfy.url, credentials=("ann", "x"))) as api:
        heard = Heard(api)
        api.init()
        until(lambda: heard("connected"))
        flush(api)
        assert len(heard("auth_success")) == 1
    with contextlib.closing(ComfyApi(comfy.url)) as api:
        heard = Heard(api)
        api.init()
        until(lambda: heard("connected"))
        flush(api)
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


# -- the real server -----------------------------------------------------------------------


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
