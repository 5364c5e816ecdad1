"""What proves who we are is shown by no error and no log."""

from __future__ import annotations

import contextlib
import json
import logging
import signal
from collections.abc import Callable
from typing import Any

import pytest
import requests
from requests.auth import HTTPBasicAuth

from comfy_client import ComfyApi
from comfy_client.credentials import (
    BearerCredentials,
    EnvCredentials,
    QueryCredentials,
)
from comfy_client.errors import (
    ApiError,
    ComfyError,
    ServerUnreachable,
    UnexpectedResponse,
)
from comfy_client.recording.secrets import Secrets
from comfy_client.testing import ComfyServer, Request, cut, never_answer
from comfy_client.transport.http import Http
from comfy_client.transport.url import parse_host
from tests.helpers.ctrl_c import ALARM
from tests.helpers.graphs import picture
from tests.helpers.http import (
    HTML,
    SECRET,
    basic,
    opened,
    raw,
    texts,
)


def refuse(comfy: ComfyServer) -> None:
    comfy.__exit__(None)


FAILURES: dict[str, Callable[[ComfyServer], object]] = {
    "401": lambda comfy: comfy.on("*", "*", (401, {}, "no")),
    "403": lambda comfy: comfy.on("*", "*", (403, {}, "no")),
    "404": lambda comfy: comfy.on("*", "*", (404, {}, None)),
    "500": lambda comfy: comfy.on("*", "*", (500, {}, {"error": "boom"})),
    "echo": lambda comfy: comfy.on("*", "*", echo),
    "echoed page": lambda comfy: comfy.on("*", "*", lambda r: (200, HTML, echo(r)[2])),
    "echoed JSON": lambda comfy: comfy.on("*", "*", lambda r: (400, {}, {"error": echo(r)[2]})),
    "decoded": lambda comfy: comfy.on("*", "*", (401, {}, f"user me, password {SECRET}")),
    "at the end of what is kept": lambda comfy: comfy.on("*", "*", lambda r: (500, {}, late(r))),
    "redirect": lambda comfy: comfy.on(
        "*", "*", lambda r: (302, {"Location": f"http://me:{SECRET}@x/l?next={r.target}"}, None)
    ),
    "silence": lambda comfy: comfy.on("*", "*", never_answer),
    "cut": lambda comfy: comfy.on("*", "*", cut((200, {}, "12345"), 2)),
    "hung up": lambda comfy: comfy.on("*", "*", lambda request: None),
    "no HTTP": lambda comfy: comfy.on("*", "*", lambda r: r.socket.sendall(b"SSH-2.0-x\r\n\r\n")),
    "bad headers": lambda comfy: comfy.on("*", "*", raw(b"Content-Length: 5\r\nnonsense\r\n", b"")),
    "bad gzip": lambda comfy: comfy.on("*", "*", (200, {"Content-Encoding": "gzip"}, "no gzip")),
    "refused": refuse,
}


def echo(request: Request) -> tuple[int, dict[str, str], Any]:
    return 502, {}, f"cannot serve {request.target} for\n{request.headers}"


def late(request: Request) -> str:
    """What was sent, where an error may cut its text in two."""
    sent = request.target + str(request.headers)
    return " " * (2000 - sent.index(SECRET) - 5) + sent if SECRET in sent else sent


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize(
    "credentials", [QueryCredentials("token", SECRET), BearerCredentials(SECRET), ("me", SECRET)]
)
def test_no_failure_shows_a_secret(
    failure: str, credentials: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Message, arguments, attributes, causes, pickle and log are free of it."""
    caplog.set_level(logging.DEBUG)
    errors: list[ComfyError] = []
    with ComfyServer() as comfy, contextlib.ExitStack() as stack:
        stack.callback(comfy.errors.clear)
        http = stack.enter_context(opened(comfy.url, credentials=credentials, timeout=(5, 0.2)))
        http.json("GET", "/prompt", timeout=30)  # learns where the routes are
        FAILURES[failure](comfy)
        for method in ("GET", "POST"):
            with pytest.raises(ComfyError) as caught:
                http.json(method, "/queue", params={"a": 1})
            errors.append(caught.value)
        with pytest.raises(ComfyError) as caught, http.download("/view") as download:
            list(download)
        errors.append(caught.value)
        seen = [repr(http) + repr(http.__dict__), caplog.text, *map(texts, errors)]
    seen += [repr(record.__dict__) for record in caplog.records]
    for text in seen:
        assert SECRET not in text
        assert SECRET[:5] not in text
        assert basic("me", SECRET).split()[1] not in text
    assert not any("\n" in str(error) for error in errors)


def test_secrets_of_a_request_are_hidden_when_the_answer_repeats_them(comfy: ComfyServer) -> None:
    """A cookie of the caller's, and a key in the body."""
    comfy.on("*", "*", lambda r: (400, {}, f"{r.headers} {r.body!r}"))
    headers = {"Cookie": f"session={SECRET}", "X-Colour": "magenta"}
    body = {"extra_data": {"api_key_comfy_org": SECRET[::-1]}}
    with (
        opened(comfy.url, headers=headers) as http,
        pytest.raises(ApiError) as caught,
    ):
        http.json("POST", "/prompt", json=body)
    for shown in (texts(caught.value), repr(caught.value.body)):
        assert SECRET not in shown
        assert SECRET[::-1] not in shown
    assert "magenta" in caught.value.body


@pytest.mark.parametrize("way", ["auth", "headers", "credentials"])
def test_a_password_is_hidden_wherever_it_was_given(comfy: ComfyServer, way: str) -> None:
    """Where a node repeats it, say."""
    session = requests.Session()
    options: dict[str, Any] = {"session": session}
    if way == "auth":
        session.auth = ("me", SECRET)
    elif way == "headers":
        session.headers["Authorization"] = f"Bearer {SECRET}"
    else:
        options = {"credentials": ("me", SECRET)}
    with opened(comfy.url, **options) as http:
        http.json("GET", "/prompt")
        assert SECRET not in http.identity.hide(f"the node says {SECRET}")


@pytest.mark.parametrize("secret", ["1234", "node", "true", "null", "rror", "Value"])
def test_a_secret_that_is_a_common_word_leaves_the_facts_of_a_refusal(
    comfy: ComfyServer, secret: str
) -> None:
    """It is hidden in texts only, where it stands alone: names and numbers are facts."""
    said = {
        "error": {"type": "invalid", "message": f"Value {secret}56 > 0.{secret}, not {secret}"},
        "node_errors": {"1234": {"received": 123456, "true": True, "none": None}},
    }
    comfy.on("POST", "/prompt", (400, {}, said))
    with (
        opened(comfy.url, credentials=("me", secret)) as http,
        pytest.raises(ApiError) as caught,
    ):
        http.json("POST", "/prompt", json={})
    assert caught.value.body["node_errors"] == said["node_errors"]
    shown = caught.value.body["error"]["message"]
    is_number = secret.isdigit()
    value = "***" if secret == "Value" else "Value"
    assert shown == f"{value} {secret}56 > 0.{secret if is_number else '***'}, not ***"


@pytest.mark.parametrize("outer", [KeyboardInterrupt(), TimeoutError("of an alarm")])
def test_exceptions_being_handled_are_no_cause_of_a_failure(outer: BaseException) -> None:
    """Whoever tidies up behind a Ctrl-C, or an alarm, is told what the server says then."""

    def alarm(*_: object) -> None:
        raise outer

    old = signal.signal(ALARM, alarm)
    try:
        with contextlib.closing(ComfyApi("http://127.0.0.1:9")) as api:
            try:
                alarm()
            except type(outer):
                with pytest.raises(ServerUnreachable, match="refused"):
                    api.get_queue()
    finally:
        signal.signal(ALARM, old)


def test_secrets_of_the_settings_are_hidden(
    comfy: ComfyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """User names and passwords of any kind, of proxies in the environment too."""
    monkeypatch.setenv("COMFY_PASSWORD", "bob:env-password")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxyuser:proxy%2Fpassword@proxy:1")
    session = requests.Session()
    session.auth = HTTPBasicAuth("session-user", "session-password")
    http = Http(
        parse_host(comfy.url)[0],
        credentials=EnvCredentials("COMFY_PASSWORD", "basic"),
        user="comfy-user",
        headers={"X-Anything": "header-value"},
        session=session,
    )
    secrets = Secrets()
    http.identity.add_words_to(secrets)
    words = ["env-password", "proxyuser", "proxy/password", "session-user", "session-password"]
    for word in (*words, "comfy-user", "header-value"):
        assert secrets.hide_words(word) == "***"
    assert secrets.hide_words("COMFY_PASSWORD") == "COMFY_PASSWORD"
    http.close()


@pytest.mark.parametrize("told", [SECRET, f"job-{SECRET}"])
def test_a_receipt_whose_id_is_a_secret_is_none(comfy: ComfyServer, told: str) -> None:
    """Ids are shown everywhere; nor is a prompt with such an id in the queue taken for ours."""
    marks: list[Any] = []

    def queue(request: Request) -> Any:
        return 200, {}, {"queue_running": [[1, told, {}, marks[-1], []]], "queue_pending": []}

    @comfy.on("POST", "/prompt")
    def post(request: Request) -> Any:
        marks.append(json.loads(request.body)["extra_data"])
        return 200, {}, {"prompt_id": told, "number": 1, "node_errors": {}}

    comfy.on("GET", "/queue", queue)
    with ComfyApi(comfy.url, credentials=("me", SECRET)) as api:
        with pytest.raises(UnexpectedResponse) as caught:
            api.submit(picture())
        assert SECRET not in texts(caught.value)


def test_an_id_in_which_a_weak_password_is_a_word_is_one(comfy: ComfyServer) -> None:
    """A UUID is no secret."""
    told = "a0b1c2d3-beef-4000-8000-000000000000"
    comfy.on("POST", "/prompt", (200, {}, {"prompt_id": told, "number": 1, "node_errors": {}}))
    with ComfyApi(comfy.url, credentials=("me", "beef")) as api:
        assert api.submit(picture()).prompt_id == told
