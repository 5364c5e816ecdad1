"""Downloads that are cut: they go on where they were, with the same file or not at all."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from comfy_client import ComfyApi, OutputFile, Workflow
from comfy_client.errors import ComfyError, NotFound, RequestTimeout, TransportError
from comfy_client.testing import ComfyServer, Request, cut, never_answer
from tests.helpers.clients import LIMIT, quickly

KIB = 1 << 10
CONTENT = os.urandom(300 * KIB)
WHOLE = {"ETag": '"one"'}


@pytest.fixture
def api(comfy: ComfyServer) -> Any:
    with ComfyApi(comfy.url, transport="poll") as api:
        yield api


def file_on(comfy: ComfyServer, api: ComfyApi) -> OutputFile:
    (comfy.root / "output" / "a.png").write_bytes(CONTENT)
    return OutputFile("a.png", files=api)


def ranges(comfy: ComfyServer) -> list[str | None]:
    return [r.headers.get("Range") for r in comfy.requests if r.path == "/view"]


def opened(file: OutputFile) -> bytes:
    with file.open() as stream:
        return stream.read()


def streamed(file: OutputFile) -> bytes:
    with file.stream() as download:
        return b"".join(download)


@pytest.mark.parametrize(
    "read",
    [
        lambda file, path: file.save(path / "b.png").read_bytes(),
        lambda file, path: file.bytes(),
        lambda file, path: streamed(file),
        lambda file, path: opened(file),
    ],
    ids=["save", "bytes", "stream", "open"],
)
def test_a_download_that_is_cut_five_times_is_whole(
    comfy: ComfyServer, api: ComfyApi, tmp_path: Path, read: Callable[[OutputFile, Path], bytes]
) -> None:
    """Each time the rest is asked for, and no byte comes twice."""
    file = file_on(comfy, api)
    with comfy.faults.cut("GET", "/view", sent=40 * KIB, reset=False, times=5):
        assert read(file, tmp_path) == CONTENT
    starts = [40 * KIB * cuts for cuts in range(1, 6)]
    assert ranges(comfy) == [None, *(f"bytes={start}-" for start in starts)]


def test_a_cut_before_the_first_byte_asks_for_all_of_it(comfy: ComfyServer, api: ComfyApi) -> None:
    """The answer had begun, so it is known which file it is."""
    file = file_on(comfy, api)
    with comfy.faults.cut("GET", "/view", sent=0, times=1):
        assert file.bytes() == CONTENT
    assert ranges(comfy) == [None, None]


def test_a_proxy_that_says_the_server_is_away_is_waited_for(
    comfy: ComfyServer, api: ComfyApi
) -> None:
    """As in an outage of a second."""
    file = file_on(comfy, api)
    with (
        comfy.faults.bad_gateway(502, path="/view", times=2),
        comfy.faults.cut("GET", "/view", sent=40 * KIB, times=1),
    ):
        assert file.bytes() == CONTENT


# -- which file it is -----------------------------------------------------------------------


def read_and(api: ComfyApi, file: OutputFile, act: Callable[[], object]) -> None:
    """Reads it to the end, and does something after the first piece of it."""
    with api.stream_image(file) as download:
        for number, _ in enumerate(download):
            if number == 0:
                act()


def test_a_file_that_changed_meanwhile_is_not_mixed(
    comfy: ComfyServer, api: ComfyApi, tmp_path: Path
) -> None:
    """Even if it has the same size; aiohttp does not look at the ETag in If-Range."""
    file = file_on(comfy, api)

    def change() -> None:
        (comfy.root / "output" / "a.png").write_bytes(CONTENT[::-1])

    error = pytest.raises(TransportError, match=f"changed after {40 * KIB} bytes")
    with comfy.faults.cut("GET", "/view", sent=40 * KIB, times=1), error:
        read_and(api, file, change)
    assert ranges(comfy)[1:] == [f"bytes={40 * KIB}-"]


def test_a_file_that_is_shorter_meanwhile_or_gone_says_so(
    comfy: ComfyServer, api: ComfyApi
) -> None:
    """416 and 404."""
    path = comfy.root / "output" / "a.png"
    for change, error in (
        (lambda: path.write_bytes(b"short"), TransportError),
        (path.unlink, NotFound),
    ):
        file = file_on(comfy, api)
        with comfy.faults.cut("GET", "/view", sent=40 * KIB, times=1), pytest.raises(error):
            read_and(api, file, change)


def cutting(comfy: ComfyServer, first: dict[str, str], *then: Any) -> None:
    """The first answer is cut after 100 bytes."""
    calls: list[Request] = []

    def answer(request: Request) -> Any:
        calls.append(request)
        if len(calls) == 1:
            return cut((200, first, CONTENT), 100)(request)
        later = then[min(len(calls) - 2, len(then) - 1)]
        return later(request) if callable(later) else later

    comfy.on("GET", "/view", answer)


def rest(start: int, size: int = len(CONTENT), **headers: str) -> Any:
    given = {"Content-Range": f"bytes {start}-{size - 1}/{size}"}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return 206, given | named, CONTENT[start:]


def in_chunks(status: int, headers: dict[str, str], content: bytes) -> Callable[[Request], None]:
    """The same, without a word of how long it is."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"HTTP/1.1 {status} OK\r\nTransfer-Encoding: chunked\r\n{lines}\r\n{len(content):x}\r\n"
    return lambda request: request.socket.sendall(head.encode() + content + b"\r\n0\r\n\r\n")


MODIFIED = "Wed, 25 Nov 2026 10:00:00 GMT"
AT_REST = {"Last-Modified": MODIFIED, "Date": "Wed, 25 Nov 2026 10:00:02 GMT"}


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (WHOLE, rest(100, ETag='"one"')),
        (AT_REST, rest(100, Last_Modified=MODIFIED)),
        (WHOLE, in_chunks(*rest(100, ETag='"one"'))),
        (WHOLE, (200, WHOLE, CONTENT)),
        ({"ETag": 'W/"one"', **AT_REST}, rest(100, Last_Modified=MODIFIED)),
    ],
    ids=[
        "by ETag",
        "by time and size",
        "in chunks",
        "all of it again",
        "a weak ETag does not count",
    ],
)
def test_the_same_file_is_continued(
    comfy: ComfyServer, api: ComfyApi, first: dict[str, str], then: Any
) -> None:
    """What the server says of it is what counts."""
    cutting(comfy, first, then)
    assert api.get_image({"filename": "a.png"}) == CONTENT
    given = comfy.requests[-1].headers["If-Range"]
    assert given == (first.get("Last-Modified") or first["ETag"])


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (WHOLE, rest(100, ETag='"two"')),
        (WHOLE, rest(100)),
        (WHOLE, rest(100, len(CONTENT) + 1, ETag='"one"')),
        (WHOLE, rest(101, ETag='"one"')),
        (WHOLE, in_chunks(*rest(101, ETag='"one"'))),
        (WHOLE, in_chunks(*rest(100, ETag='"one"')[:2], CONTENT[100:] + b"more")),
        (WHOLE, (200, {"ETag": '"two"'}, CONTENT)),
        (WHOLE, (206, {"ETag": '"one"'}, CONTENT[100:])),
        (AT_REST, rest(100, len(CONTENT) + 1, Last_Modified=MODIFIED)),
        (WHOLE, (404, {}, b"")),
        (WHOLE, (200, {**WHOLE, "Content-Type": "text/html"}, b"<p>Log in")),
    ],
    ids=[
        "another ETag",
        "no ETag",
        "another size",
        "another place",
        "another place, in chunks",
        "more than it says, in chunks",
        "all of another",
        "no place",
        "another size at the same time",
        "gone",
        "a page",
    ],
)
def test_no_other_file_is_appended(
    comfy: ComfyServer, api: ComfyApi, tmp_path: Path, first: dict[str, str], then: Any
) -> None:
    """A typed error, after one more request, and nothing on the disk."""
    cutting(comfy, first, then)
    with pytest.raises(ComfyError):
        api.download_image({"filename": "a.png"}, tmp_path / "a.png")
    assert len(ranges(comfy)) == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"ETag": 'W/"weak"'},
        {"Last-Modified": MODIFIED, "Date": MODIFIED},
        {"ETag": 'W/"weak"', "Last-Modified": MODIFIED, "Date": "Wed, 25 Nov 2026 10:00:01 GMT"},
        {"Last-Modified": MODIFIED, "Date": "some day"},
        {"Last-Modified": MODIFIED, "Date": "Wed, 25 Nov 99999999999999999999 10:00:02 GMT"},
        {"Last-Modified": "some day"},
    ],
)
def test_without_a_sure_mark_nothing_is_continued(
    comfy: ComfyServer, api: ComfyApi, tmp_path: Path, headers: dict[str, str]
) -> None:
    """A file that was replaced within a second has the same time, and perhaps the same size."""
    other = 206, headers | {"Content-Range": f"bytes 100-{len(CONTENT) - 1}/{len(CONTENT)}"}
    cutting(comfy, headers, (*other, CONTENT[::-1][100:]))
    with pytest.raises(TransportError, match=f"after 100 of {len(CONTENT)} bytes"):
        api.download_image({"filename": "a.png"}, tmp_path / "a.png")
    assert len(ranges(comfy)) == 1
    assert list(tmp_path.iterdir()) == []


# -- when it ends ---------------------------------------------------------------------------


@pytest.mark.timing(resume=0.5)
def test_a_download_that_brings_nothing_more_ends(
    comfy: ComfyServer, api: ComfyApi, tmp_path: Path
) -> None:
    """It is tried for a while, with pauses, and leaves no file."""
    file = file_on(comfy, api)
    begun = time.perf_counter()
    with (
        comfy.faults.cut("GET", "/view", sent=1000, times=1),
        comfy.faults.cut("GET", "/view", sent=0),
        pytest.raises(TransportError),
    ):
        file.save(tmp_path / "a.png")
    assert 0.5 <= time.perf_counter() - begun < LIMIT
    assert 1 < len(ranges(comfy)) < 100
    assert list(tmp_path.iterdir()) == []


def test_the_timeout_of_a_download_holds_over_all_attempts(
    comfy: ComfyServer, api: ComfyApi
) -> None:
    """Not for each."""
    file = file_on(comfy, api)
    with quickly(), comfy.faults.cut("GET", "/view", sent=1), pytest.raises(RequestTimeout):
        file.bytes(timeout=1.0)


def test_a_server_that_falls_silent_is_not_asked_again(comfy: ComfyServer) -> None:
    """The timeout of the client ends it."""
    with ComfyApi(comfy.url, transport="poll", timeout=(5, 0.3)) as api:
        cutting(comfy, WHOLE, never_answer)
        with pytest.raises(RequestTimeout):
            api.get_image({"filename": "a.png"})
        assert len(ranges(comfy)) == 2


def test_workflow_of_an_output_survives_a_cut(comfy: ComfyServer, api: ComfyApi) -> None:
    """What is read of it piece by piece, too."""
    result = api.run(Workflow.example())
    with comfy.faults.cut("GET", "/view", sent=20, times=3):
        assert result.images[0].workflow().to_dict() == dict(result.graph)
