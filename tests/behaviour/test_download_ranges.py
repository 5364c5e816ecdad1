"""The rest of a file in whatever ranges: all of it arrives, or an error, and no file is left."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from comfy_client import ComfyApi
from comfy_client.errors import ComfyError, TransportError, UnexpectedResponse
from comfy_client.testing import ComfyServer, Request, cut, encode
from tests.conftest import examples
from tests.helpers.long import few

KIB = 1 << 10
CONTENT = os.urandom(300 * KIB)
SIZE = len(CONTENT)
ETAG = {"ETag": '"one"'}
FILE = {"filename": "a.png"}

#: What a server may answer to a request for the bytes from one on: ``(start, how many)``.
Part = Callable[[int, int], Any]


@pytest.fixture
def api(comfy: ComfyServer) -> Iterator[ComfyApi]:
    with ComfyApi(comfy.url, transport="poll") as api:
        yield api


def part(said: str, body: bytes, **headers: str) -> Any:
    return 206, {"Content-Range": said, **ETAG, **headers}, body


def right(start: int, size: int) -> Any:
    end = min(start + size, SIZE)
    return part(f"bytes {start}-{end - 1}/{SIZE}", CONTENT[start:end])


def chunked(start: int, size: int, *, more: bytes = b"", less: int = 0) -> Any:
    """Without a length of its own; the connection is kept open."""
    status, headers, body = right(start, size)
    body = body[: len(body) - less] + more
    head = encode((status, {**headers, "Transfer-Encoding": "chunked"}, b""))
    head = head.replace(b"Content-Length: 0\r\n", b"")
    chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
    return lambda request: request.socket.sendall(head + chunk + b"0\r\n\r\n")


HONEST: dict[str, Part] = {
    "a range": right,
    "in chunks": chunked,
    "all of it": lambda start, size: (200, ETAG, CONTENT),
    # After fewer bytes there is a pause.
    "cut": lambda start, size: cut(right(start, SIZE), min(max(size, 64 * KIB), SIZE - start - 1)),
}
LIES: dict[str, Part] = {
    "longer than its range": lambda start, size: part(
        right(start, size)[1]["Content-Range"], CONTENT[start:] + b"more"
    ),
    "shorter than its range": lambda start, size: part(
        f"bytes {start}-{SIZE - 1}/{SIZE}", CONTENT[start : start + size - 1]
    ),
    "longer in chunks": lambda start, size: chunked(start, size, more=b"more"),
    "from before": lambda start, size: part(
        f"bytes {start - 1}-{SIZE - 1}/{SIZE}", CONTENT[start - 1 :]
    ),
    "from behind": lambda start, size: part(
        f"bytes {start + 1}-{SIZE}/{SIZE + 1}", CONTENT[start + 1 :] + b"+"
    ),
    "beyond the end": lambda start, size: part(
        f"bytes {start}-{SIZE}/{SIZE}", CONTENT[start:] + b"+"
    ),
    "a larger file": lambda start, size: part(
        f"bytes {start}-{SIZE + 3}/{SIZE + 4}", CONTENT[start:] + b"more"
    ),
    "a smaller file": lambda start, size: part(
        f"bytes {start}-{SIZE - 2}/{SIZE - 1}", CONTENT[start:-1]
    ),
    "of unknown size": lambda start, size: part(
        f"bytes {start}-{min(start + size, SIZE) - 1}/*", CONTENT[start : start + size]
    ),
    "no bytes": lambda start, size: part(f"bytes {start}-{start - 1}/{SIZE}", b""),
    "other words": lambda start, size: part(f"bytes {start}-", CONTENT[start:]),
    "digits": lambda start, size: part(f"bytes {start}-{'9' * 5000}/{SIZE}", CONTENT[start:]),
    "no range": lambda start, size: (206, ETAG, CONTENT[start:]),
    "several ranges": lambda start, size: part(
        f"bytes {start}-{SIZE - 1}/{SIZE}",
        CONTENT[start:],
        **{"Content-Type": "multipart/byteranges; boundary=b"},
    ),
    "encoded": lambda start, size: part(
        f"bytes {start}-{SIZE - 1}/{SIZE}", CONTENT[start:], **{"Content-Encoding": "gzip"}
    ),
    "another version": lambda start, size: (
        206,
        {"Content-Range": f"bytes {start}-{SIZE - 1}/{SIZE}", "ETag": '"two"'},
        b"x" * (SIZE - start),
    ),
    "all of another": lambda start, size: (200, {"ETag": '"two"'}, CONTENT[::-1]),
    "nothing": lambda start, size: (416, ETAG, b""),
    "gone": lambda start, size: (404, {}, b""),
}
assert not HONEST.keys() & LIES.keys()


def answering(comfy: ComfyServer, first: Any, then: list[tuple[str, int]]) -> list[str | None]:
    """Answer with this, then with these parts, and then as asked; which ranges are asked for."""
    asked: list[str | None] = []

    def answer(request: Request) -> Any:
        given = request.headers.get("Range")
        asked.append(given)
        if given is None:
            made = first if len(asked) == 1 else (200, ETAG, CONTENT)
        else:
            start = int(given.removeprefix("bytes=").removesuffix("-"))
            kind, size = then.pop(0) if then else ("a range", SIZE)
            made = {**HONEST, **LIES}[kind](start, size)
        return made(request) if callable(made) else made

    comfy.on("GET", "/view", answer)
    return asked


def saved(api: ComfyApi, folder: Path) -> bytes:
    path = folder / "a.png"
    try:
        return api.download_image(FILE, path).read_bytes()
    finally:
        there = [(one.name, one.read_bytes() == CONTENT) for one in folder.iterdir()]
        assert there in ([], [("a.png", True)])
        path.unlink(missing_ok=True)


def opened(api: ComfyApi, folder: Path) -> bytes:
    with api.open_image(FILE) as file:
        return file.read()


READ = {"save": saved, "bytes": lambda api, _: api.get_image(FILE), "open": opened}
PARTS = st.tuples(
    st.sampled_from(sorted(HONEST)), st.one_of(st.integers(1, 5), st.integers(64 * KIB, SIZE))
)
A_LIE = st.tuples(st.sampled_from(sorted(LIES)), st.integers(1, SIZE))


@settings(
    max_examples=examples(60),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.sampled_from(sorted(READ)), st.integers(64 * KIB, SIZE - 10), st.lists(PARTS, max_size=6))
@example("save", 200_000, [("a range", 10_000)] * 6)
@example("open", 200_000, [("in chunks", 10_000)] * 6)
def test_any_split_of_ranges_is_the_whole_file(
    comfy: ComfyServer,
    api: ComfyApi,
    tmp_path: Path,
    how: str,
    first: int,
    then: list[tuple[str, int]],
) -> None:
    """A server may answer with fewer bytes than it is asked for (RFC 9110), as some caches do."""
    asked = answering(comfy, cut((200, ETAG, CONTENT), first), then)
    assert READ[how](api, tmp_path) == CONTENT
    starts = [int(str(one)[6:-1]) for one in asked[1:]]
    assert starts == sorted(starts)  # no byte comes twice


@pytest.mark.parametrize("how", READ)
@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("honest", few([[], [("a range", 7), ("in chunks", 70 * KIB)]], 1))
def test_a_lie_about_a_range_is_an_error_or_mended(
    comfy: ComfyServer,
    api: ComfyApi,
    tmp_path: Path,
    how: str,
    lie: str,
    honest: list[tuple[str, int]],
) -> None:
    """Never a part of the file, and never more than it."""
    answering(comfy, cut((200, ETAG, CONTENT), 100 * KIB), [*honest, (lie, 70 * KIB), *honest])
    try:
        found = READ[how](api, tmp_path)
    except ComfyError:
        found = CONTENT
    assert found == CONTENT


@pytest.mark.parametrize("how", READ)
@pytest.mark.parametrize(("start", "end"), [(0, SIZE - 1), (1, SIZE), (9, 10), (0, SIZE)])
def test_a_first_answer_that_is_a_range_is_the_whole_file_or_an_error(
    comfy: ComfyServer, api: ComfyApi, tmp_path: Path, how: str, start: int, end: int
) -> None:
    """A cache may answer so, with status 200, though nobody asked for a range."""
    said = {"Content-Range": f"bytes {start}-{end - 1}/{SIZE}", **ETAG}
    answering(comfy, (200, said, CONTENT[start:end]), [])
    if end - start == SIZE:
        assert READ[how](api, tmp_path) == CONTENT
    else:
        with pytest.raises(UnexpectedResponse, match="other bytes of the file"):
            READ[how](api, tmp_path)


def test_an_opened_file_is_whole_after_a_seek(comfy: ComfyServer, api: ComfyApi) -> None:
    """Also where the server answers with a few bytes each time."""
    answering(comfy, (200, ETAG, CONTENT), [("a range", 1000)] * 20)
    with api.open_image(FILE) as file:
        file.seek(290 * KIB)
        assert file.read() == CONTENT[290 * KIB :]


def test_an_opened_file_is_a_file_of_python(comfy: ComfyServer, api: ComfyApi) -> None:
    """It raises what others raise for a place before its start, and after it was closed."""
    answering(comfy, (200, ETAG, CONTENT), [])
    with api.open_image(FILE) as file:
        assert file.seekable()
        with pytest.raises(ValueError, match="negative"):
            file.seek(-1)
        assert file.read(10) == CONTENT[:10]
    with pytest.raises(ValueError, match="closed"):
        file.read(1)


def test_an_opened_file_of_unknown_length_has_no_end_to_seek_from(
    comfy: ComfyServer, api: ComfyApi
) -> None:
    """It can be read to its end."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (SIZE, CONTENT)
    comfy.on("GET", "/view", lambda request: request.socket.sendall(head + chunks))
    with api.open_image(FILE) as file:
        assert not file.seekable()
        with pytest.raises(io.UnsupportedOperation, match="not seekable"):
            file.seek(0, os.SEEK_END)
        assert file.read() == CONTENT


# -- open_image() and versions --------------------------------------------------------------


def two_versions(comfy: ComfyServer, headers: dict[str, str]) -> None:
    """Each request gets another file of the same size, which begins where it is asked for."""
    versions = iter([b"A" * SIZE, b"B" * SIZE, b"C" * SIZE])

    def answer(request: Request) -> Any:
        content = next(versions)
        given = request.headers.get("Range")
        if given is None:
            return 200, headers, content
        start = int(given[6:-1])
        said = {"Content-Range": f"bytes {start}-{SIZE - 1}/{SIZE}"}
        return 206, headers | said, content[start:]

    comfy.on("GET", "/view", answer)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"ETag": 'W/"weak"'},
        {
            "Last-Modified": "Wed, 25 Nov 2026 10:00:00 GMT",
            "Date": "Wed, 25 Nov 2026 10:00:01 GMT",
        },
    ],
    ids=["nothing", "a weak ETag", "changed just now"],
)
def test_an_opened_file_without_a_version_is_read_from_one_answer(
    comfy: ComfyServer, api: ComfyApi, headers: dict[str, str]
) -> None:
    """Forwards, however far; going back is an error, and not the bytes of another file."""
    two_versions(comfy, headers)
    with api.open_image(FILE) as file:
        assert file.read(10) == b"A" * 10
        file.seek(-10, os.SEEK_END)
        assert file.read() == b"A" * 10
        file.seek(0)
        with pytest.raises(TransportError, match=r"which version .* read it in order"):
            file.read(1)
    assert len([one for one in comfy.requests if one.path == "/view"]) == 1
