"""Whatever a server, a proxy or a log repeats of what proves who we are, nobody gets to see it."""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import socket
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from comfy_client import (
    BasicCredentials,
    BearerCredentials,
    ComfyApi,
    ComfyError,
    HeaderCredentials,
    QueryCredentials,
)
from comfy_client.redaction import MOST_WORDS, Secrets
from tests.hostile.server import Comfy, Request, Server, answer

SECRET = "S3cret-99/&x"


def shown(exc: BaseException | None) -> str:
    """All that an exception and its chain say, hold, and have in their frames of others' code."""
    seen: dict[int, BaseException] = {}
    todo = [exc]
    while todo:
        each = todo.pop()
        if each is not None and id(each) not in seen:
            seen[id(each)] = each
            todo += [each.__cause__, each.__context__]
    said = []
    for each in seen.values():
        said += [str(each), repr(each), repr(each.args), repr(vars(each))]
        said += getattr(each, "__notes__", ())
        step = each.__traceback__
        while step is not None:
            frame = step.tb_frame
            if not frame.f_globals.get("__name__", "").startswith(
                ("tests.", "_pytest.", "hypothesis")
            ):
                said += [f"{frame.f_code.co_name}: {n} = {v!r}" for n, v in frame.f_locals.items()]
            step = step.tb_next
    return "\n".join(said)


def spelled(secret: str) -> list[str]:
    """What a reader would know it by."""
    plain = secret.encode()
    ways = [
        secret,
        quote(secret, safe=""),
        json.dumps(secret)[1:-1],
        base64.b64encode(plain).decode(),
    ]
    return [*ways, base64.b64encode(b"me:" + plain).decode()]


def assert_nowhere(text: str, secret: str = SECRET) -> None:
    for way in spelled(secret):
        assert way not in text, text


@contextlib.contextmanager
def poller(url: str, **options: Any) -> Iterator[ComfyApi]:
    api = ComfyApi(url, transport="poll", **options)
    with contextlib.closing(api):
        yield api


def failure(url: str, do: Callable[[ComfyApi], object] | None = None, **options: Any) -> ComfyError:
    with poller(url, **options) as api, pytest.raises(ComfyError) as caught:
        (do or ComfyApi.get_queue)(api)
    return caught.value


@pytest.fixture(autouse=True)
def logs(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """All libraries log all that they can, and none of it is secret."""
    names = ("comfy_client", "urllib3", "requests", "websocket")
    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(caplog.at_level(logging.DEBUG, name))
        yield caplog
    assert_nowhere(caplog.text)


#: Answers that are none, and repeat what came.
JUNK: dict[str, Callable[[Request], bytes]] = {
    "status line": lambda r: r.head + b"\r\n\r\n",
    "status": lambda r: (
        b"HTTP/1.1 %s X\r\n\r\n" % r.head.replace(b"\r\n", b" ").replace(b" ", b"_")
    ),
    "chunk": lambda r: (
        b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n" + r.head.replace(b"\r\n", b" ")
    ),
    "header": lambda r: b"HTTP/1.1 200 X\r\n" + r.head + b"\r\n\r\nx",
    "nothing": lambda r: b"",
}


@pytest.mark.parametrize("junk", JUNK)
@pytest.mark.parametrize(
    "credentials", [QueryCredentials("token", SECRET), BearerCredentials(SECRET), ("me", SECRET)]
)
def test_an_answer_that_is_none_and_repeats_the_request(junk: str, credentials: Any) -> None:
    """Neither the error shows it, nor its cause, its frames, or a log."""

    def handle(request: Request) -> None:
        request.conn.sendall(JUNK[junk](request))

    with Server(handle) as server:
        exc = failure(server.url, credentials=credentials)
    assert_nowhere(shown(exc))
    assert exc.__cause__ is None or isinstance(exc.__cause__, OSError)


def in_every_way(secret: str) -> dict[str, str]:
    """As servers and pages write it, and as nobody does who does not mean to."""
    in_json = json.dumps(secret)[1:-1]
    return {
        "plain": secret,
        "PHP": in_json.replace("/", "\\/"),
        "Go": in_json.replace("&", "\\u0026"),
        "all escaped": "".join(f"\\u{ord(sign):04x}" for sign in secret),
        "percent": "".join(f"%{byte:02x}" for byte in secret.encode()),
        "lower": quote(secret, safe="").lower().replace("s3", "S3"),
        "twice": quote(quote(secret, safe=""), safe=""),
        "decimal": "".join(f"&#{ord(sign)};" for sign in secret),
        "zeros": "".join(f"&#{ord(sign):012};" for sign in secret),
        "hex": "".join(f"&#x{ord(sign):x};" for sign in secret),
        "named": secret.replace("/", "&sol;").replace("&x", "&amp;x"),
        "base64": base64.b64encode(secret.encode()).decode(),
        "pair": base64.b64encode(f"me:{secret}".encode()).decode(),
        "within": json.dumps(json.dumps(json.dumps(secret)))[1:-1],
        "mixed": quote(json.dumps(secret).replace("/", "\\/")),
    }


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        *(("application/json", status) for status in (400, 401, 413, 500)),
        *(("text/plain", status) for status in (200, 404)),
        *(("text/html", status) for status in (200, 403, 502)),
    ],
)
def test_a_repeated_password_is_hidden_however_it_is_written(kind: str, status: int) -> None:
    """What a reader can decode is as good as plain."""
    said = ""

    def handle(_: Request) -> bytes:
        body = f'{{"error": {{"message": "bad {said}", "details": ["{said}"]}}, "{said}": 1}}'
        if kind != "application/json":
            body = f"<title>bad {said}</title>"
        return answer(status, body, [("Content-Type", kind)])

    with Server(handle) as server:
        for said in in_every_way(SECRET).values():
            exc = failure(server.url, credentials=("me", SECRET))
            text = shown(exc)
            assert_nowhere(text)
            assert said not in text


def test_cookies_push_no_password_out(tmp_path: Any) -> None:
    """However many a server sets, in errors and in recordings."""

    def handle(request: Request) -> bytes:
        cookies = [("Set-Cookie", f"c{n}=value-{len(server.requests)}-{n:06}") for n in range(90)]
        status = 200 if len(server.requests) < 9 else 400
        return answer(status, {"error": f"bad {SECRET}"}, cookies)

    path = tmp_path / "recording.jsonl"
    with (
        Server(handle) as server,
        poller(server.url, credentials=("me", SECRET), record=path) as api,
    ):
        for _ in range(8):
            api.fetch_api("/x")
        with pytest.raises(ComfyError) as caught:
            api.fetch_api("/x")
    assert_nowhere(shown(caught.value))
    assert_nowhere(path.read_text())


def test_what_is_pinned_stays() -> None:
    """Of the rest the latest count, and credentials that are used again are the latest."""
    secrets = Secrets()
    secrets.add([SECRET], pinned=True)
    for number in range(2 * MOST_WORDS):
        secrets.add([f"a-cookie-{number}"])
    for number in range(2 * MOST_WORDS):
        secrets.add([f"a-token-{number}", SECRET], pinned=True)
    assert secrets.hide_words(f"{SECRET} a-token-0 a-cookie-0") == "*** a-token-0 a-cookie-0"


@pytest.mark.parametrize("status", [407, 403, 502])
def test_a_reason_phrase_is_not_shown(status: int) -> None:
    """Of a proxy, which knows its own password."""

    def handle(request: Request) -> bytes:
        return answer(status, reason=request.headers["proxy-authorization"])

    with Server(handle) as proxy:
        way = {"https": f"http://me:{quote(SECRET, safe='')}@127.0.0.1:{proxy.port}"}
        exc = failure("https://comfy.example", proxies=way)
        with poller("https://comfy.example", proxies=way) as api:
            report = str(api.doctor(timeout=5))
    assert str(status) in str(exc)
    assert_nowhere(shown(exc))
    assert_nowhere(report)


def test_the_socket_shows_no_reason_phrase_either() -> None:
    """The tunnel for the event socket, whose answer is no HTTP."""
    from comfy_client.connection import Plan, dial  # what a client dials by

    for reply in (
        lambda r: answer(407, reason=r.headers["proxy-authorization"]),
        lambda r: r.headers["proxy-authorization"].encode() + b"\r\n\r\n",
    ):
        with Server(reply) as proxy:
            way = f"http://me:{quote(SECRET, safe='')}@127.0.0.1:{proxy.port}"
            opened: list[socket.socket] = []
            with pytest.raises(ComfyError) as caught:
                dial(
                    Plan("ws://comfy.example/ws", {"X-Key": SECRET}, proxy=way), 5.0, opened.append
                )
            for sock in opened:
                sock.close()
        assert_nowhere(shown(caught.value))


@pytest.mark.parametrize("kind", ["query", "header", "params"])
def test_no_library_logs_a_secret(kind: str, logs: pytest.LogCaptureFixture) -> None:
    """urllib3 warns of headers that it cannot read, and logs each URL."""
    how: dict[str, dict[str, Any]] = {
        "query": {"credentials": QueryCredentials("token", SECRET)},
        "header": {"credentials": HeaderCredentials({"X-Key": SECRET})},
        "params": {"session": requests.Session()},
    }
    if kind == "params":
        how[kind]["session"].params = {"any": SECRET}

    def handle(request: Request) -> None:
        echo = request.headers.get("x-key", request.query)
        request.conn.sendall(f"HTTP/1.1 200 X\r\n{echo} {SECRET}\r\n\r\n{{}}".encode())

    with Server(handle) as server, poller(server.url, **how[kind]) as api:
        with contextlib.suppress(ComfyError):
            api.fetch_api("/x")
        logging.getLogger("urllib3.connectionpool").warning("it said\n%s", SECRET)
        logging.getLogger("websocket").debug("Authorization: " + SECRET)  # noqa: G003
        try:
            raise RuntimeError(SECRET)
        except RuntimeError:
            logging.getLogger("comfy_client").exception("a receiver failed")
    assert "a receiver failed" in logs.text
    assert "Traceback" in logs.text
    assert "it said\\n***" in logs.text
    assert_nowhere("\n".join(logging.Formatter().format(each) for each in logs.records))


WORDS = st.text(
    st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=";,:"),
    min_size=8,
    max_size=24,
).filter(lambda text: len(set(text)) > 5 and any(sign.isalpha() for sign in text))


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(secret=WORDS, data=st.data())
def test_no_mixture_of_encodings_is_read(secret: str, data: st.DataObject) -> None:
    """Each letter in another way: decoded, nothing is left of it; texts without it stay."""
    ways: tuple[Callable[[str], str], ...] = (
        str,
        lambda sign: f"\\u{ord(sign):04x}",
        lambda sign: f"%{ord(sign):02X}",
        lambda sign: f"&#{ord(sign)};",
        lambda sign: f"%25{ord(sign):02x}",
    )
    said = "".join(data.draw(st.sampled_from(ways))(sign) for sign in secret)
    secrets = Secrets()
    secrets.add([secret], pinned=True)
    assert said not in secrets.hide_words(f"it said: {said}!")
    assert (
        secrets.hide_words(r"C:\models\x.png is 50% &amp; done")
        == r"C:\models\x.png is 50% &amp; done"
    )


def test_credentials_show_nothing_themselves() -> None:
    """So a frame that holds them does not."""
    assert_nowhere(repr(BasicCredentials("me", SECRET)))
    with Comfy() as server:
        api = ComfyApi(server.url, credentials=("me", SECRET))
        api.close()
        assert_nowhere(repr(api) + repr(api._http))
