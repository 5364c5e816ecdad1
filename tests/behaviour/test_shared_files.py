"""One source of bytes for several jobs, threads and servers: each gets all of it, and only it."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import random
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from comfy_client import ComfyApi, ComfyPool, Upload, Workflow
from comfy_client.testing import ComfyServer
from comfy_client.upload import facts_of
from tests.conftest import examples
from tests.helpers.clients import LIMIT, client, until
from tests.helpers.http import MIB
from tests.helpers.long import few


class Bare:
    """A stream that can do no more than it must."""

    def __init__(self, content: bytes) -> None:
        self._file = io.BytesIO(content)

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)


class Slotted(Bare):
    """One to which nothing can refer weakly."""

    __slots__ = ()


class OwnBytes(io.BytesIO):
    """One whose memory is not all of it."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(size)


class Files(contextlib.ExitStack):
    """Files in a folder, which are closed at its end."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def stored(self, content: bytes) -> Path:
        path = self.folder / f"{random.randbytes(8).hex()}.bin"
        path.write_bytes(content)
        return path

    def opened(self, content: bytes, **how: Any) -> Any:
        return self.enter_context(self.stored(content).open("rb", **how))

    def temporary(self, content: bytes, make: Callable[..., Any], *args: Any, **how: Any) -> Any:
        file = self.enter_context(make(*args, dir=self.folder, **how))
        file.write(content)
        file.seek(0)
        return file

    def just_written(self, content: bytes) -> Any:
        how = {"buffering": 2 * len(content) + 1}
        file = self.temporary(content, tempfile.TemporaryFile, **how)
        file.write(content[:1])
        return file

    def unzipped(self, content: bytes) -> Any:
        raw = self.opened(gzip.compress(content, 1))
        return self.enter_context(gzip.GzipFile(fileobj=raw))


BEFORE = b"before it"
SOURCES: dict[str, Callable[[bytes, Files], Any]] = {
    "bytes": lambda content, _: content,
    "bytearray": lambda content, _: bytearray(content),
    "memoryview": lambda content, _: memoryview(content),
    "BytesIO": lambda content, _: io.BytesIO(content),
    "BytesIO, further on": lambda content, _: moved(io.BytesIO(BEFORE + content)),
    "subclass of BytesIO": lambda content, _: OwnBytes(content),
    "open file": lambda content, files: files.opened(content),
    "open file, further on": lambda content, files: moved(files.opened(BEFORE + content)),
    "unbuffered": lambda content, files: files.opened(content, buffering=0),
    "just written": lambda content, files: moved(files.just_written(BEFORE + content)),
    "named": lambda content, files: files.temporary(content, tempfile.NamedTemporaryFile),
    "in memory": lambda content, files: files.temporary(
        content, tempfile.SpooledTemporaryFile, 1 << 30
    ),
    "spooled": lambda content, files: files.temporary(content, tempfile.SpooledTemporaryFile, 1),
    "read and seek": lambda content, _: Bare(content),
    "slots": lambda content, _: Slotted(content),
    "GzipFile": lambda content, files: files.unzipped(content),
    "Path": lambda content, files: files.stored(content),
}


def moved(file: Any) -> Any:
    file.seek(len(BEFORE))
    return file


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Files]:
    with Files(tmp_path) as files:
        yield files


@pytest.fixture
def servers(comfy: ComfyServer) -> Iterator[list[ComfyServer]]:
    with ComfyServer() as other:
        yield [comfy, other]


@pytest.fixture
def apis(servers: list[ComfyServer]) -> Iterator[list[ComfyApi]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(client(server)) for server in servers]


def at_once(work: Callable[[int], Any], jobs: int) -> list[Any]:
    """What each thread makes of its number; they begin together."""
    barrier = threading.Barrier(jobs)

    def begin(number: int) -> Any:
        barrier.wait(LIMIT)
        return work(number)

    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(begin, range(jobs)))


def position(source: Any) -> int | None:
    return source.seek(0, os.SEEK_CUR) if hasattr(source, "seek") else None


@settings(
    max_examples=examples(40),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    kind=st.sampled_from(sorted(SOURCES)),
    size=st.sampled_from([1, 5000, MIB, 2 * MIB + 17]),
    jobs=st.integers(1, 4),
    members=st.integers(1, 2),
    wrapped=st.booleans(),
    name=st.sampled_from([None, "a.bin"]),
    overwrite=st.booleans(),
)
def test_the_same_bytes_arrive_everywhere(
    apis: list[ComfyApi],
    files: Files,
    kind: str,
    size: int,
    jobs: int,
    members: int,
    wrapped: bool,
    name: str | None,
    overwrite: bool,
) -> None:
    """From any source, in any number of threads, at any number of servers; and again."""
    content = random.randbytes(size)
    source = SOURCES[kind](content, files)
    stood = position(source)
    file = Upload(source, name) if wrapped else source

    def send(number: int) -> Any:
        return apis[number % members].upload_image(file, name, overwrite=overwrite)

    for _ in range(2):
        for number, uploaded in enumerate(at_once(send, jobs)):
            assert apis[number % members].get_image(uploaded) == content
    assert position(source) == stood


PIXELS = np.random.default_rng(5).integers(0, 256, (32, 32, 3), dtype=np.uint8)
PICTURES: dict[str, Callable[[bytes, Files], Any]] = {
    "Pillow": lambda _, __: Image.fromarray(PIXELS),
    "NumPy": lambda _, __: PIXELS.copy(),
    **{
        kind: SOURCES[kind]
        for kind in ("BytesIO", "BytesIO, further on", "open file", "spooled", "GzipFile")
    },
}


@pytest.mark.parametrize("as_dict", few([False, True], 1), ids=["Workflow", "dict"])
@pytest.mark.parametrize("kind", PICTURES)
def test_a_file_is_the_input_of_any_number_of_jobs(
    servers: list[ComfyServer], apis: list[ComfyApi], files: Files, kind: str, as_dict: bool
) -> None:
    """Of ``run``, ``submit``, ``map`` and ``sweep``, of a client and of a pool."""
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "PNG")
    source = PICTURES[kind](file.getvalue(), files)
    graph: Any = {
        "1": {"class_type": "LoadImage", "inputs": {"image": source}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
    }
    graph = graph if as_dict else Workflow(graph)
    params = [{"SaveImage.filename_prefix": prefix} for prefix in "abc"]
    grid = {"SaveImage.filename_prefix": list("de")}
    api = apis[0]
    results = [api.run(graph, each, timeout=LIMIT) for each in params]
    results += [job.result(LIMIT) for job in [api.submit(graph, each) for each in params]]
    results += api.map(graph, params)
    results += [row.result for row in api.sweep(graph, grid)]
    with ComfyPool([server.url for server in servers]) as pool:
        results += [job.result(LIMIT) for job in [pool.submit(graph, one) for one in params * 2]]
        results += [pool.run(graph, params[0], timeout=LIMIT)]
        results += pool.map(graph, params)
        results += [row.result for row in pool.sweep(graph, grid)]
        assert len(results) == 3 + 3 + 3 + 2 + 6 + 1 + 3 + 2
        for result in results:
            assert np.array_equal(result.image.array(), PIXELS)


# -- what changes meanwhile -----------------------------------------------------------------


class Changing(Bare):
    """Each time that it is read from its beginning, another content, until the last one."""

    def __init__(self, *contents: bytes) -> None:
        super().__init__(contents[0])
        self._next = iter(contents)

    def read(self, size: int = -1) -> bytes:
        if not self._file.tell():
            self._file = io.BytesIO(next(self._next, self._file.getvalue()))
        return super().read(size)


def stored(server: ComfyServer) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (server.root / "input").iterdir()}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("size", [5000, 2 * MIB])
def test_a_stream_that_differs_each_time_is_stored_under_the_name_of_what_was_sent(
    comfy: ComfyServer, fast: ComfyApi, size: int, overwrite: bool
) -> None:
    """It is read once, both for its name and to be sent."""
    contents = [random.randbytes(size) for _ in range(3)]
    uploaded = fast.upload_image(Changing(*contents), overwrite=overwrite)  # type: ignore[arg-type]
    assert stored(comfy) == {uploaded.name: contents[0]}
    assert uploaded.name == fast.upload_image(contents[0]).name


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("kind", ["Path", "open file", "unbuffered", "without a name"])
def test_a_file_that_is_written_while_it_is_sent_is_sent_again_or_an_error(
    comfy: ComfyServer, fast: ComfyApi, tmp_path: Path, kind: str, overwrite: bool
) -> None:
    """No mixture of two contents is ever stored, nor one under the name of another."""
    old, new = bytes(3 * MIB), b"1" * 3 * MIB
    path = tmp_path / "a.bin"
    writes = 0

    def write(sent: int, size: int) -> None:
        nonlocal writes
        if writes < most and sent < size:
            writes += 1
            path.write_bytes(new)
            os.utime(path, (writes, writes))

    path.write_bytes(old)
    os.utime(path, (0, 0))
    how = {"buffering": 0} if kind == "unbuffered" else {}
    place: Any = os.open(path, os.O_RDONLY) if kind == "without a name" else path
    with open(place, "rb", **how) as file:
        source: Any = path if kind == "Path" else file
        most = 1
        uploaded = fast.upload_image(source, on_progress=write, overwrite=overwrite)
        assert stored(comfy) == {uploaded.name: new}
        assert kind != "without a name" or uploaded.name == facts_of(new).name
        most, writes = 1000, 100
        with pytest.raises(OSError, match="changed"):
            fast.upload_image(source, "b.bin", on_progress=write, overwrite=overwrite)
        assert stored(comfy) == {uploaded.name: new}


def removed(path: Path) -> bool:
    """Remove a file, unless Windows says that the server still has it open."""
    try:
        path.unlink()
    except PermissionError:
        return False
    return True


@pytest.mark.parametrize("name", [None, "a.bin"])
def test_changed_content_of_a_url_is_sent_under_a_new_name(
    comfy: ComfyServer, fast: ComfyApi, name: str | None
) -> None:
    """Though another content was fetched from there before."""
    contents = [random.randbytes(5000) for _ in range(2)]
    comfy.on("GET", "/file.bin", lambda _: (200, {}, contents[0]))
    upload = Upload(f"{comfy.url}/file.bin", name, fetch=True)
    first = fast.upload_image(upload)
    assert fast.get_image(first) == contents[0]
    until(lambda: removed(comfy.root / "input" / first.name))
    del contents[0]
    second = fast.upload_image(upload)
    assert stored(comfy) == {second.name: contents[0]}
    assert (second.name == first.name) is bool(name)
