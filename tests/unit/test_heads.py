"""The heads of requests and answers are those of ``http.client`` and urllib3, only quicker."""

from __future__ import annotations

import http.client
import io
import re
from typing import Any

import pytest
import urllib3
from hypothesis import example, given
from hypothesis import strategies as st
from requests.structures import CaseInsensitiveDict
from urllib3 import HTTPConnectionPool, HTTPHeaderDict
from urllib3.connection import HTTPConnection

from comfy_client.transport.connections import QuickResponse, read_fields, request_head
from tests.hostile.test_bounds import within


class Arrived(io.BytesIO):
    """As much of a socket as a response needs, with what has arrived on it."""

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)  # type: ignore[arg-type]


def arrived(head: bytes) -> io.BufferedReader:
    return io.BufferedReader(io.BytesIO(head))


def facts(kind: type[http.client.HTTPResponse], method: str, head: bytes) -> tuple[Any, ...]:
    """What an answer with a head is taken for, or how reading it fails."""
    answer = kind(Arrived(head + b"the body"), method=method)  # type: ignore[arg-type]
    try:
        answer.begin()
    except (http.client.HTTPException, ConnectionError) as exc:
        return type(exc), str(exc)
    fields = HTTPHeaderDict((name, unfolded(value)) for name, value in answer.msg.items())
    first = answer.status, answer.version, answer.reason
    length = answer.chunked, answer.length, answer.will_close
    return *first, *length, [*fields.items()], answer.fp.read(8)


def unfolded(value: str) -> str:
    return re.sub(r"[ \t]*\r?\n[ \t]+", " ", value)


STATUS_LINES = st.sampled_from(
    [
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.0 200 OK\r\n",
        "HTTP/0.9 200 OK\n",
        "HTTP/1.2 200\r\n",
        "HTTP/2 200 OK\r\n",
        "HTTP/1.1 204 No Content\r\n",
        "HTTP/1.1 304 Not Modified\r\n",
        "HTTP/1.1 101 Switching Protocols\r\n",
        "HTTP/1.1 100 Continue\r\nA: b\r\n\r\nHTTP/1.1 404 \xe9\r\n",
        "HTTP/1.1 99 Low\r\n",
        "HTTP/1.1 2x0 Odd\r\n",
        "ICY 200 OK\r\n",
        "\r\n",
        "",
    ]
)
NAMES = st.sampled_from(
    ["Content-Length", "Transfer-Encoding", "Connection", "Keep-Alive", "Set-Cookie", "ETag", "X"]
) | st.text("aA-_!~:;\x7f\xe9 \t\0\v", max_size=4)
VALUES = (
    st.sampled_from(
        ["5", "05", "+5", "-1", "5, 5", "9" * 5000, "chunked", "Chunked", "gzip, chunked", ""]
    )
    | st.sampled_from(
        ["keep-alive", "Keep-Alive, close", "a=b; path=/", '"etag"', "\xfc\xe9", " x ", "a:b"]
    )
    | st.text("a \t\r\n\x0b\x0c\x1c\x85\xa0:", max_size=6)
)
LINES = st.tuples(
    st.sampled_from(["", "", "", "", " ", "\t"]),
    NAMES,
    st.sampled_from([":", ":", ": ", ":\t ", " : ", ""]),
    VALUES,
    st.sampled_from(["\r\n", "\r\n", "\r\n", "\n", "\r", "\r\n "]),
).map("".join)
HEADS = st.tuples(
    STATUS_LINES,
    st.lists(LINES, max_size=6).map("".join),
    st.sampled_from(["\r\n", "\r\n", "\n", ""]),
).map(lambda parts: "".join(parts).encode("latin-1"))


@pytest.mark.hypothesis
@given(st.sampled_from(["GET", "HEAD", "POST"]), HEADS)
@example("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 7\r\n\r\n")
@example("GET", b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nX: y\r\nset-cookie: c=d\r\n\r\n")
@example("GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked \r\n\r\n5\r\nhello\r\n0\r\n\r\n")
@example("GET", b"HTTP/1.1 200 OK\r\nFolded: a\r\n b\r\n\tc\r\nAfter: d\r\n\r\n")
@example("GET", b"HTTP/1.1 200 OK\r\nNo colon\r\nAfter: d\r\n\r\n")
@example("GET", b"HTTP/1.1 200 OK\r\nBlank : a\r\nAfter: d\r\n\r\n")
def test_a_head_is_read_as_http_client_does(method: str, head: bytes) -> None:
    """Whatever it is: status, headers, length, end of the connection, or error."""
    assert facts(QuickResponse, method, head) == facts(http.client.HTTPResponse, method, head)


@pytest.mark.parametrize("head", [b"X: %b\r\n\r\n" % (b"x" * (1 << 16)), b"X: y\r\n" * 100 + b"\n"])
def test_a_head_has_the_limits_of_http_client(head: bytes) -> None:
    """Of a line, and of lines."""
    with pytest.raises(http.client.HTTPException) as expected:
        http.client.parse_headers(io.BytesIO(head))
    with pytest.raises(type(expected.value), match=re.escape(str(expected.value))):
        read_fields(arrived(head))
    fewer = head.replace(b"X: y\r\n", b"", 1).replace(b"xxxxx", b"", 1)
    assert read_fields(arrived(fewer)) == http.client.parse_headers(io.BytesIO(fewer)).items()


@pytest.mark.parametrize(
    "head",
    [
        b"X: %b\r\n\r\n",
        b"X: a%b\r\n\r\n",
        b"X: a%bb\r\nY: c \r\n\r\n",
        b"X: a%b\r\n b\r\nY: c \r\n\r\n",
    ],
    ids=["alone", "at the end", "within", "before a fold"],
)
def test_a_run_of_blanks_in_a_head_takes_no_time(head: bytes) -> None:
    """The square of its length would take most of a minute, in which no other thread runs."""
    with within(4):
        assert read_fields(arrived(head % (b" " * 65_000)))[0][0] == "X"


class Sent(HTTPConnection):
    """A connection that keeps what is sent, and gets no answer."""

    bytes_sent = b""

    def connect(self) -> None:
        pass

    def send(self, data: Any) -> None:
        Sent.bytes_sent += data

    def getresponse(self) -> Any:
        raise ConnectionResetError


def sent_by_urllib3(method: str, target: str, headers: dict[str, Any], body: bytes | None) -> bytes:
    pool = HTTPConnectionPool("127.0.0.1", 8188)
    pool.ConnectionCls = Sent
    Sent.bytes_sent = b""
    with pytest.raises(urllib3.exceptions.ProtocolError):
        pool.urlopen(method, target, body, headers, retries=False)
    return Sent.bytes_sent


FIELDS = st.dictionaries(
    st.sampled_from(["Accept", "Host", "hOST", "X-A", "a b", "c:", "", "Accept-Encoding", "\xe9"])
    | st.sampled_from(["Content-Type", "Content-Length", "Transfer-Encoding", "X-B", "X-C"]),
    st.sampled_from(["", "*/*", "1", "a: b", "\xe9", "€", b"\xe2\x82\xac", "a\r\nE: b", "a\n b"]),
    max_size=5,
)
TARGETS = st.text("aZ09-._~!$&'()*+,;=:@/?%2fF \xe9€#\\^|<>\"{}`[]\0", max_size=8).map("/".__add__)


@pytest.mark.hypothesis
@given(
    st.sampled_from(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PURGE", "a b"]),
    TARGETS,
    FIELDS,
    st.sampled_from([None, b"", b"12345"]),
)
@example("GET", "/%2f", {}, None)
@example("GET", "/a?b=c?d/e", {}, None)
@example("POST", "/prompt", {"Content-Length": "5"}, b"12345")
def test_a_head_is_sent_as_urllib3_does(
    method: str, target: str, fields: dict[str, Any], body: bytes | None
) -> None:
    """Or else left to it."""
    headers = {"User-Agent": "comfy-client/1", **fields}
    has_body = body is not None
    given = CaseInsensitiveDict(headers)
    head = request_head(method, target, "127.0.0.1:8188", given, has_body=has_body)
    if head is not None:
        assert head + (body or b"") == sent_by_urllib3(method, target, headers, body)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_usual_head_is_not_left_to_urllib3(method: str) -> None:
    headers = {"User-Agent": "comfy-client/1", "Comfy-User": "it's me", "Accept": "*/*"}
    headers |= {"Content-Length": "2"} if method == "POST" else {}
    target = "/api/view?filename=a%20%C3%BC.png&subfolder=&type=output"
    given = CaseInsensitiveDict(headers)
    assert request_head(method, target, "h", given, has_body=method == "POST")


def test_a_usual_head_is_not_left_to_the_parser_of_mail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http.client, "parse_headers", None)
    head = b"Content-Type: application/json; charset=utf-8\r\nServer:x\nEmpty:\r\n\r\n"
    assert read_fields(arrived(head)) == [
        ("Content-Type", "application/json; charset=utf-8"),
        ("Server", "x"),
        ("Empty", ""),
    ]
