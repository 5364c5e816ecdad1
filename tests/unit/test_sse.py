"""Frames of event streams: the same however the bytes arrive, and within limits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfy_client.errors import UnexpectedResponse
from comfy_client.hosted.sse import FrameReader, SseFrame


def frames(*chunks: bytes, **limits: int) -> list[SseFrame]:
    reader = FrameReader(**limits)
    return [frame for chunk in chunks for frame in reader.feed(chunk)]


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"event: status\ndata: {}\n\n", [("status", "{}")]),
        (b"event:status\r\ndata:{}\r\n\r\n", [("status", "{}")]),
        (b"event: status\rdata: {}\r\r", [("status", "{}")]),
        (b"data: a\ndata:  b\ndata\n\n", [("message", "a\n b\n")]),
        (b": keepalive\n\n: more\n\ndata: x\n\n", [("message", "x")]),
        (b"id: 7\nretry: 10\nunknown: y\ndata: x\n\n", [("message", "x")]),
        (b"event: status\n\ndata: x\n\n", [("message", "x")]),  # no data, so no event
        (b"data: x", []),  # without its end
        (b"data: x\n", []),
        (b"\xef\xbb\xbfdata: x\n\n", [("message", "x")]),
        (b"data: a: b\n\n", [("message", "a: b")]),
        ("data: größer\n\n".encode(), [("message", "größer")]),
        (b"data: \xff\n\n", [("message", "\ufffd")]),
        (b"\n\n\n\n", []),
        (b"", []),
    ],
)
def test_a_stream_has_frames(stream: bytes, expected: list[tuple[str, str]]) -> None:
    """By the rules of HTML: names, comments, several lines of data, all three ends of lines."""
    assert frames(stream) == expected


LINES = st.sampled_from(
    [
        b"event: status",
        b"event:",
        b"data: {}",
        b"data",
        b"data:x",
        b": note",
        b"id: 1",
        b"",
        "ä".encode(),
    ]
)
ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
STREAMS = st.lists(st.tuples(LINES, ENDS)).map(lambda pairs: b"".join(map(b"".join, pairs)))


@given(stream=STREAMS | st.binary(), cuts=st.lists(st.integers(0, 200)))
def test_any_division_of_the_bytes_gives_the_same_frames(stream: bytes, cuts: list[int]) -> None:
    """Between CR and LF, within a character, with empty chunks."""
    places = sorted(min(cut, len(stream)) for cut in cuts)
    pairs = zip([0, *places], [*places, len(stream)], strict=True)
    chunks = [stream[start:end] for start, end in pairs]
    whole = frames(stream)
    assert frames(*chunks) == whole
    assert frames(*(bytes([byte]) for byte in stream)) == whole


@given(
    st.lists(st.tuples(st.sampled_from(["status", "output"]), st.text("abc :", min_size=1))), ENDS
)
def test_written_server_sent_events_are_read(written: list[tuple[str, str]], end: bytes) -> None:
    """Whatever the ends of lines."""
    stream = b"".join(
        b"event: %s%sdata: %s%s%s" % (event.encode(), end, data.encode(), end, end)
        for event, data in written
    )
    assert frames(stream) == written


@pytest.mark.parametrize(
    "chunk", [b"data: " + b"x" * 20, b": " + b"x" * 20, b"data: xx\n", b"data\n", b"event: a\n"]
)
def test_a_frame_has_a_limit(chunk: bytes) -> None:
    """Of its lines together, whether or not they have ended; a comment is one, too."""
    with pytest.raises(UnexpectedResponse, match="a frame of over 100 bytes"):
        frames(*[chunk] * 100, max_frame=100)


def test_a_frame_may_be_as_large_as_the_limit() -> None:
    """The limit begins anew with each frame."""
    stream = b"data: " + b"x" * 50 + b"\n\n"
    assert frames(*[stream] * 100, max_frame=57) == [("message", "x" * 50)] * 100


def test_short_comments_have_no_limit_but_that_of_the_stream() -> None:
    """A keepalive every 15 seconds goes on for hours."""
    assert frames(*[b": keepalive\n\n"] * 1000, b"data: x\n\n", max_frame=100) == [("message", "x")]
    with pytest.raises(UnexpectedResponse, match="stream is larger"):
        frames(*[b": keepalive\n\n"] * 1000, max_stream=5000)
