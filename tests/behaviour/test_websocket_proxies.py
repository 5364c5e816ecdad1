"""The socket through a proxy."""

from __future__ import annotations

import contextlib
import socket
import threading

import pytest

from comfy_client.testing import ComfyServer, never_answer
from comfy_client.timing import Timing
from comfy_client.transport.dial import DialPlan
from comfy_client.transport.websocket import State
from tests.helpers.clients import LIMIT, until
from tests.helpers.connections import PATIENT, Make, drips, stops_quickly


def test_the_socket_goes_through_an_http_proxy(make: Make, comfy: ComfyServer) -> None:
    """CONNECT with the proxy's own credentials; the server sees an ordinary handshake."""
    asked: list[bytes] = []

    def serve(listener: socket.socket) -> None:
        client, _ = listener.accept()
        with client, socket.create_connection(("127.0.0.1", comfy.port)) as server:
            asked.append(client.recv(4096))
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=_pump, args=(server, client))
            back.start()
            _pump(client, server)
            back.join()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        relay = threading.Thread(target=serve, args=(listener,))
        relay.start()
        owner, link = make("http://x", start=False)
        owner.plan = DialPlan(
            "ws://gpu.example:8188/ws?clientId=me", {}, proxy=f"http://u:p%40ss@127.0.0.1:{port}"
        )
        link.start()
        comfy.until(lambda: link.state is State.CONNECTED)
        link.stop()
        link.join(LIMIT)
        relay.join(LIMIT)
    assert asked[0].startswith(b"CONNECT gpu.example:8188 HTTP/1.")
    assert b"Proxy-Authorization: Basic dTpwQHNz" in asked[0]
    assert comfy.handshakes[0]["Host"] == "gpu.example:8188"


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


def test_a_proxy_that_refuses_leaves_nothing_open(make: Make, comfy: ComfyServer) -> None:
    """407 for each CONNECT: failed dials."""
    comfy.on("CONNECT", "*", (407, {}, None))
    owner, link = make("http://x", start=False)
    owner.plan = DialPlan(
        "ws://gpu.example:8188/ws", {}, proxy=f"http://u:secret@127.0.0.1:{comfy.port}"
    )
    link.start()
    until(lambda: len(owner.names("reconnecting")) >= 2)
    assert "407" in str(link.error)
    assert "secret" not in str(link.error)


@pytest.mark.parametrize("proxy", ["http://u:secret@[x", "http://u:secret@proxy:port"])
def test_a_proxy_that_is_no_url_is_refused_in_words(make: Make, proxy: str) -> None:
    """The thread lives on, and nothing of the URL is told."""
    owner, link = make("http://x", start=False)
    owner.plan = DialPlan("ws://gpu.example:8188/ws", {}, proxy=proxy)
    link.start()
    until(lambda: link.error is not None)
    assert link.failed_for_good
    assert "proxies=" in str(link.error)
    assert "secret" not in str(link.error)


def test_a_proxy_of_another_kind_is_refused_in_words(make: Make) -> None:
    """Only http proxies carry the socket; what will not mend is hopeless."""
    owner, link = make("http://x", start=False)
    owner.plan = DialPlan("ws://gpu.example:8188/ws", {}, proxy="socks5://127.0.0.1:1")
    link.start()
    until(lambda: link.error is not None)
    assert link.failed_for_good
    assert "transport='poll'" in str(link.error)


def test_a_proxy_whose_answer_drips_is_given_up(make: Make, comfy: ComfyServer) -> None:
    """Its CONNECT is part of the dial, and has no more time than that."""
    comfy.on("CONNECT", "*", drips(b"HTTP/1.1 200 Connection established\r\nX-Drip: "))
    owner, link = make("http://x", start=False, timing=Timing(dial=0.3, pause=0.05, cap=0.1))
    owner.plan = DialPlan("ws://gpu.example:8188/ws", {}, proxy=comfy.url)
    link.start()
    until(lambda: len(owner.names("reconnecting")) >= 2)
    assert "the proxy 127.0.0.1 on the way" in str(link.error)
    comfy.faults.clear()


def test_stop_while_a_proxy_says_nothing(make: Make, comfy: ComfyServer) -> None:
    """Its socket is ended, too."""
    comfy.on("CONNECT", "*", never_answer)
    owner, link = make("http://x", start=False, timing=PATIENT)
    owner.plan = DialPlan("ws://gpu.example:8188/ws", {}, proxy=comfy.url)
    link.start()
    comfy.until(lambda: comfy.requests)
    stops_quickly(link)


def test_a_tunnel_to_an_ipv6_address_is_asked_for_in_brackets(
    make: Make, comfy: ComfyServer
) -> None:
    """As a URL has it: its own colons are no port's."""
    comfy.on("CONNECT", "*", (403, {}, None))
    owner, link = make("http://x", start=False)
    owner.plan = DialPlan("ws://[fd00::5]:8188/ws", {}, proxy=comfy.url)
    link.start()
    until(lambda: link.error is not None)
    assert comfy.requests[0].target == "[fd00::5]:8188"
    assert comfy.requests[0].headers["Host"] == "[fd00::5]:8188"
