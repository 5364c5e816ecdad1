"""The doctor on sockets that are refused, silent or deaf."""

from __future__ import annotations

import time

import pytest

from comfy_client import (
    ComfyApi,
    State,
)
from comfy_client.testing import ComfyServer, frame
from comfy_client.testing.wire import Request, encode, upgrade
from tests.helpers.clients import LIMIT
from tests.helpers.connections import upgraded
from tests.helpers.doctor import ask, blamed, failing, states


@pytest.mark.parametrize("status", [400, 404, 200, 502, 301])
def test_http_without_websocket_is_reported_as_such(server: ComfyServer, status: int) -> None:
    """A proxy that does not pass upgrades on."""
    with server.faults.refuse_sockets(status):
        report = ask(server.url, run=True)
    assert failing(report) == ["websocket"]
    assert blamed(report, "websocket") == ["greeting", "echo"]
    assert "Upgrade" in report["websocket"].advice
    assert "succeeded" in report["run"].found
    assert "nothing" in report["run"].found


def test_a_handshake_that_is_cut_leaves_results_to_polling(server: ComfyServer) -> None:
    """A proxy that takes it for an attack."""
    with server.faults.answer("GET", "/ws", lambda request: None):  # hangs up
        report = ask(server.url)
    assert failing(report) == ["websocket"]
    assert "results come by polling" in report["websocket"].advice


@pytest.mark.parametrize("status", [401, 403])
def test_a_socket_that_is_not_let_in_though_http_is(server: ComfyServer, status: int) -> None:
    """The login layer treats /ws in another way."""
    with server.faults.refuse_sockets(status):
        report = ask(server.url)
    assert failing(report) == ["websocket"]
    assert str(status) in report["websocket"].found


def test_a_handshake_that_is_not_answered_ends_within_the_timeout(server: ComfyServer) -> None:
    """As does all the rest."""
    begun = time.monotonic()
    with server.faults.stall_handshakes():
        report = ask(server.url, timeout=6.0)
    assert time.monotonic() - begun < LIMIT
    assert "websocket" in failing(report)


def test_a_deaf_socket_is_open_and_fails(server: ComfyServer) -> None:
    """No greeting comes."""

    def silent(request: Request) -> None:
        request.socket.sendall(encode(upgrade(request)))
        while request.socket.recv(1024):
            pass

    with server.faults.answer("GET", "/ws", silent):
        report = ask(server.url, timeout=6.0)
    assert failing(report)[0] == "greeting"
    assert "deaf" in report["greeting"].found


def test_a_socket_that_greets_and_answers_nothing_is_deaf_too(server: ComfyServer) -> None:
    """Pings are answered by the transport, messages by the server."""
    with server.faults.lose("feature_flags"):
        report = ask(server.url, timeout=6.0)
    assert failing(report) == ["echo"]
    assert "deaf" in report["echo"].found


def test_a_socket_that_the_server_closes_at_once_is_reported(server: ComfyServer) -> None:
    """As a proxy does that lets the handshake pass and nothing else."""
    refusal = frame(9, b"there?") + frame(8, (1008).to_bytes(2, "big"))
    with server.on("GET", "/ws", lambda request: upgraded(server, request, refusal)):
        report = ask(server.url)
    assert failing(report) == ["greeting"]
    assert report["greeting"].found == "the server closed the socket"


def test_a_ping_that_is_not_answered_fails(server: ComfyServer) -> None:
    """What we send does not arrive."""
    with server.faults.swallow_pings():
        report = ask(server.url, timeout=6.0)
    assert "echo" in failing(report)


def test_a_prompt_without_its_events_shows_a_deaf_socket(server: ComfyServer) -> None:
    """History knows how it ended; nothing came by socket."""
    with server.faults.lose("exec*", "progress*"):
        report = ask(server.url, run=True)
    assert failing(report) == ["run"]
    assert "succeeded" in report["run"].found
    assert "deaf" in report["run"].advice


def test_the_clients_own_deaf_socket_is_found_by_a_run(server: ComfyServer) -> None:
    """Beside the doctor's, which hears."""
    with ComfyApi(server.url) as api, server.faults.deaf():
        report = api.doctor(run=True)
        assert report["run"].state == "ok"
        assert report["client"].state == "warning"
        assert "client_id" in report["client"].advice


def test_the_clients_socket_that_is_down_is_reported(server: ComfyServer) -> None:
    """With its last failure, and that a fresh one works."""
    api = ComfyApi(server.url)
    with server.faults.refuse_sockets(404):
        api.init(timeout=10)
        server.until(lambda: api.state in (State.POLLING, State.WAITING), 20)
    report = api.doctor()
    api.close()
    if report["client"].state != "ok":  # unless it has dialled again just now
        assert "a fresh socket works now" in report["client"].advice
    assert report.ok


def test_no_socket_is_opened_by_who_wants_none(server: ComfyServer) -> None:
    """``transport="poll"`` means never."""
    report = ask(server.url, run=True, transport="poll")
    assert report.ok
    assert not server.handshakes
    assert states(report) == dict.fromkeys(("websocket", "greeting", "echo"), "unknown")
