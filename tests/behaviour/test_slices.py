"""Waits for a socket where neither Ctrl-C nor ``shutdown`` ends them, as on Windows.

Here, a system that ends none is played: what ends is the wait of a slice.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import requests
import trustme
import urllib3

from comfy_client import runtime
from comfy_client.errors import ClientClosed, ComfyError, ServerUnreachable
from comfy_client.transport.connections import keep_to_deadlines
from comfy_client.transport.deadline import Deadline
from comfy_client.transport.dial import DialPlan, connect_socket, dial
from comfy_client.transport.sockets import connect, shaking_hands_in_slices, shut, sliced
from tests.helpers.clients import LIMIT, until
from tests.helpers.ctrl_c import ALARM, Moment, handled, interrupted, points_of
from tests.helpers.http import head_of, opened, raw_server
from tests.helpers.patches import slices

LookUp = Callable[[Callable[..., Any]], None]

#: More than the buffers of a connection hold.
LARGE = bytes(range(256)) * (1 << 15)


@pytest.fixture(autouse=True)
def windows() -> Iterator[None]:
    """Waits are sliced, and the end of a socket wakes nobody."""
    usual = socket.socket.shutdown

    def shutdown(sock: socket.socket, how: int) -> None:
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):  # a server stops listening
            usual(sock, how)

    with slices(), mock.patch.object(socket.socket, "shutdown", shutdown):
        yield


@pytest.fixture(scope="module")
def server_side(ca: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
def client_side(ca: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    ca.configure_trust(context)
    return context


@contextlib.contextmanager
def silent(context: ssl.SSLContext | None = None) -> Iterator[tuple[int, threading.Event]]:
    """A server that reads the head of a request and nothing more; its port, and when it has."""
    has_read, is_over = threading.Event(), threading.Event()

    def serve(connection: socket.socket) -> None:
        head_of(connection)
        has_read.set()
        is_over.wait(3 * LIMIT)

    with raw_server(serve, context) as port:
        try:
            yield port, has_read
        finally:
            is_over.set()


@contextlib.contextmanager
def in_thread(call: Callable[..., Any], *args: Any) -> Iterator[Future[Any]]:
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(call, *args)


def plan_for(port: int, context: ssl.SSLContext | None = None) -> DialPlan:
    return DialPlan(f"{'ws' if context is None else 'wss'}://127.0.0.1:{port}/ws", {}, context)


@pytest.mark.parametrize("data", [None, LARGE], ids=["reading", "sending"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_close_ends_a_request_of_another_thread(
    server_side: ssl.SSLContext, bundle: Path, scheme: str, data: bytes | None
) -> None:
    """The server reads no more, and does not answer."""
    context = server_side if scheme == "https" else None
    with silent(context) as (port, has_read):
        url = f"{scheme}://127.0.0.1:{port}"
        with opened(url, verify=bundle, timeout=3 * LIMIT) as http:
            options: dict[str, Any] = {} if data is None else {"data": data}
            with in_thread(partial(http.json, "POST", "/upload", **options)) as asking:
                assert has_read.wait(LIMIT)
                http.close()
                assert isinstance(asking.exception(LIMIT), ClientClosed)


@pytest.mark.parametrize("is_secure", [False, True], ids=["plain", "tls"])
def test_the_event_socket_ends_when_it_is_shut(
    server_side: ssl.SSLContext, client_side: ssl.SSLContext, is_secure: bool
) -> None:
    """During a handshake of TLS or of the WebSocket that is not answered."""
    held: list[socket.socket] = []
    with silent(None) as (port, has_read):
        plan = plan_for(port, client_side if is_secure else None)
        with in_thread(dial, plan, 3 * LIMIT, held.append) as dialling:
            until(lambda: len(held) == 2 if is_secure else has_read.is_set(), LIMIT)
            shut(held[-1])
            assert isinstance(dialling.exception(LIMIT), ComfyError)


def test_a_connect_ends_when_its_socket_is_shut(black_hole: str) -> None:
    held: list[socket.socket] = []
    port = int(black_hole.rpartition(":")[2])
    with in_thread(connect, "127.0.0.1", port, Deadline(), held.append) as connecting:
        until(lambda: held, LIMIT)
        shut(held[0])
        assert isinstance(connecting.exception(LIMIT), ConnectionAbortedError)


@pytest.mark.parametrize("is_secure", [False, True], ids=["plain", "tls"])
def test_large_data_passes_in_slices(
    server_side: ssl.SSLContext, client_side: ssl.SSLContext, is_secure: bool
) -> None:
    """Also when some of them pass in vain, on the way there and back."""
    tls = (server_side, client_side) if is_secure else (None, None)

    def echo(connection: socket.socket) -> None:
        got = bytearray()
        for half in (len(LARGE) // 2, len(LARGE)):
            runtime.sleep(1.5 * runtime.SLICE)  # longer than a slice, so that one is in vain
            while len(got) < half:
                if not (piece := connection.recv(1 << 16)):
                    return  # the client has failed
                got += piece
        runtime.sleep(1.5 * runtime.SLICE)
        connection.sendall(got)
        connection.recv(1)

    with raw_server(echo, tls[0]) as port:
        plan = plan_for(port, tls[1])
        with connect_socket(plan, LIMIT, lambda sock: None) as sock:
            sock.settimeout(LIMIT)
            sock.sendall(LARGE)
            got = bytearray()
            while len(got) < len(LARGE):
                piece = sock.recv(1 << 16)
                assert piece
                got += piece
            assert got == LARGE
            sock.setblocking(False)
            with pytest.raises((BlockingIOError, ssl.SSLWantReadError)):
                sock.recv(1)
            sock.settimeout(0.3)
            assert sock.gettimeout() == 0.3
            with pytest.raises(TimeoutError):
                sock.recv(1)


@pytest.mark.parametrize("host", ["127.0.0.1", "gpu.example"])
def test_a_context_that_was_given_still_checks_hosts_for_others(
    server_side: ssl.SSLContext, client_side: ssl.SSLContext, host: str
) -> None:
    """The user's own sockets shake hands when they connect."""
    shaking_hands_in_slices(client_side)
    with (
        silent(server_side) as (port, _),
        client_side.wrap_socket(socket.socket(), server_hostname=host) as sock,
    ):
        if host == "127.0.0.1":
            sock.connect(("127.0.0.1", port))
            assert sock.getpeercert()
        else:
            with pytest.raises(ssl.SSLCertVerificationError):
                sock.connect(("127.0.0.1", port))


def test_a_handshake_over_https_is_made_in_slices() -> None:
    """Each try waits for a slice at most, until the connect timeout."""
    usual = ssl.SSLSocket.do_handshake
    waits: list[float | None] = []

    def do_handshake(sock: ssl.SSLSocket, block: bool = False) -> None:
        waits.append(socket.socket.gettimeout(sock))
        if len(waits) >= 3:  # again and again, as the request is tried twice
            raise ConnectionResetError
        usual(sock, block)

    with (
        silent() as (port, _),
        opened(f"https://127.0.0.1:{port}", timeout=LIMIT) as http,
        mock.patch.object(ssl.SSLSocket, "do_handshake", do_handshake),
        pytest.raises(ComfyError),
    ):
        http.json("GET", "/prompt")
    assert len(waits) >= 3
    assert all(each is not None and each <= runtime.SLICE for each in waits)


def test_tls_in_slices_is_verified_as_elsewhere(secure: str, bundle: Path) -> None:
    """By a bundle, by the usual authorities, or not at all; with a Session's pools, too."""
    for verify in (str(bundle), False):
        with requests.Session() as session, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # urllib3 says that this is unsafe
            session.verify = verify
            for options in ({"verify": verify}, {"session": session}):
                with opened(secure, **options) as http:
                    assert http.json("GET", "/prompt") == {"exec_info": {}}
    with opened(secure) as http, pytest.raises(ServerUnreachable, match="TLS failed"):
        http.json("GET", "/prompt")
    with urllib3.PoolManager() as manager:
        pool = manager.connection_from_url(secure)  # one without authorities of its own
        keep_to_deadlines(pool)
        with pytest.raises(urllib3.exceptions.MaxRetryError, match="CERTIFICATE_VERIFY_FAILED"):
            pool.request("GET", "/prompt", retries=0)


def _unknown(*_: Any, **__: Any) -> Any:
    raise socket.gaierror(-2, "Name or service not known")


def test_failures_to_connect_are_those_of_elsewhere(
    black_hole: str, refused: str, look_up: LookUp
) -> None:
    """At the connect timeout, and with the same advice."""

    def ask(url: str, seconds: float = LIMIT) -> str:
        with opened(url, timeout=(seconds, LIMIT)) as http, pytest.raises(ComfyError) as caught:
            http.json("GET", "/prompt")
        return str(caught.value)

    assert "no connection within 0.7 s" in ask(black_hole, 0.7)
    assert "is ComfyUI running" in ask(refused)
    look_up(_unknown)
    assert "unknown host 'gpu.invalid'" in ask("http://gpu.invalid")


def test_localhost_is_first_sought_where_comfyui_listens(look_up: LookUp) -> None:
    """Windows takes two seconds to refuse the other address."""
    held: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        found = [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)),
        ]
        look_up(lambda *_, **__: [*found])
        connect("localhost", port, Deadline.after(LIMIT), held.append).close()
    assert [each.family for each in held] == [socket.AF_INET]


def test_the_sockets_of_libraries_wait_in_slices_unless_they_are_their_own() -> None:
    """Those of a SOCKS proxy do; those that are no sockets of Python stay as they are."""
    ours, theirs = socket.socketpair()
    ours.settimeout(0.3)
    with sliced(ours) as made, theirs:
        assert ours.fileno() == -1
        assert sliced(made) is made
        assert made.gettimeout() == 0.3
        theirs.send(b"there")
        assert made.recv(100) == b"there"
        made.settimeout(None)
        theirs.send(b"again")
        assert made.recv(100) == b"again"
    own: Any = object()
    assert sliced(own) is own


def test_an_alarm_at_any_moment_of_a_wait_in_slices_comes_out_of_it() -> None:
    """The usual handler raises ``TimeoutError``, as the end of a slice does."""
    ours, theirs = socket.socketpair()
    with theirs, sliced(ours) as sock, handled():
        sock.settimeout(LIMIT)

        def exchange() -> None:
            theirs.sendall(b"x")
            assert sock.recv(1) == b"x"
            sock.sendall(b"y")

        for at in range(1, points_of(exchange) + 1):
            assert interrupted(exchange, Moment(at, ALARM)), at
