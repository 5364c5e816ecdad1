"""What the handshake of the socket carries: credentials, cookies, headers, the path."""

from __future__ import annotations

from typing import Any

import pytest
import requests

from comfy_client import (
    BearerCredentials,
    ComfyApi,
    QueryCredentials,
)
from comfy_client.testing import ComfyServer
from tests.helpers.clients import Heard, Quick, until

pytestmark = pytest.mark.usefixtures("prompts_wait")


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


def test_credentials_are_asked_anew_at_each_reconnect(comfy: ComfyServer) -> None:
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
