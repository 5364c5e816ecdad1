"""Local files that block, or never end: ``timeout`` holds, and no copy fills the disk."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import pytest

from comfy_client import ComfyApi, ComfyPool, HostedApi
from comfy_client.errors import RequestTimeout
from comfy_client.testing import ComfyServer
from tests.helpers.clients import quickly
from tests.helpers.graphs import node
from tests.helpers.http import MIB
from tests.helpers.interrupts import press_ctrl_c_in_a_call

pytestmark = pytest.mark.posix("pipes with names")

PLACES = ["ComfyUI", "hosted"]


def served(server: ComfyServer, kind: type[ComfyApi]) -> Any:
    """A client whose attribute ``server`` is its server."""
    return type("Served", (kind,), {"server": server})(server.url)


@pytest.fixture(scope="module", params=PLACES)
def api(request: pytest.FixtureRequest) -> Iterator[ComfyApi]:
    """A client of an embedded server, which is its attribute ``server``."""
    hosted = request.param == "hosted"
    kind = HostedApi if hosted else ComfyApi
    with ComfyServer(hosted="proxy" if hosted else None) as server, served(server, kind) as client:
        yield client


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    """A pipe with a name and nobody at either end."""
    os.mkfifo(tmp_path / "pipe.png")
    return tmp_path / "pipe.png"


@contextlib.contextmanager
def dripping(write: Callable[[bytes], object]) -> Iterator[None]:
    """Write a byte again and again."""
    over = threading.Event()

    def drip() -> None:
        with contextlib.suppress(OSError):
            while not over.wait(0.01):
                write(b"x")

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextlib.contextmanager
def pipe_that_drips() -> Iterator[BinaryIO]:
    reading, writing = os.pipe()
    pipe, end = os.fdopen(reading, "rb"), os.fdopen(writing, "wb", buffering=0)
    with pipe, end, dripping(end.write):
        yield pipe


@contextlib.contextmanager
def fifo_that_drips(fifo: Path) -> Iterator[Path]:
    descriptor = os.open(fifo, os.O_RDWR)  # does not wait for the other end
    try:
        with dripping(lambda data: os.write(descriptor, data)):
            yield fifo
    finally:
        os.close(descriptor)


def sent(api: Any) -> list[str]:
    """The files that the server got, but for the one that follows a Ctrl-C."""
    posts = (each for each in api.server.requests if each.method == "POST")
    return [each.path for each in posts if b"after.png" not in each.body]


def check_in_time(api: ComfyApi, file: Any, timeout: float = 0.3) -> None:
    with quickly(), pytest.raises(RequestTimeout, match="could not be read within the timeout"):
        api.upload_image(file, timeout=timeout)
    assert sent(api) == []


def test_a_pipe_without_a_writer_is_waited_for_as_long_as_there_is_time(api, fifo) -> None:
    """So is one that is an input of a workflow."""
    check_in_time(api, fifo)
    graph = {
        "1": node("LoadImage", image=fifo),
        "2": node("PreviewImage", images=["1", 0]),
    }
    with quickly(), pytest.raises(RequestTimeout, match="could not be read"):
        api.run(graph, timeout=0.3)
    with quickly(), pytest.raises(RequestTimeout, match="could not be read"):
        list(api.map([graph], timeout=0.3, on_error="keep"))
    assert sent(api) == []


def test_a_pipe_that_drips_is_read_as_long_as_there_is_time(api, fifo) -> None:
    """By its name, or open."""
    with fifo_that_drips(fifo):
        check_in_time(api, fifo)
    with pipe_that_drips() as pipe:
        check_in_time(api, pipe)


def run_on(api: Any, graph: Any, pipe: Any) -> None:
    api.run(graph, {"LoadImage.image": pipe}, timeout=0.3)


def map_on(api: Any, graph: Any, pipe: Any) -> None:
    list(api.map(graph, [{"LoadImage.image": pipe}], timeout=0.3, on_error="keep"))


@pytest.mark.parametrize("of_a_pool", [False, True])
@pytest.mark.parametrize("call", [run_on, map_on])
def test_an_open_pipe_as_an_input_is_read_as_long_as_there_is_time(api, call, of_a_pool) -> None:
    """It is copied when it is set."""
    graph = {"1": node("LoadImage", image="a.png"), "2": node("PreviewImage", images=["1", 0])}
    error = pytest.raises(RequestTimeout, match="could not be read")
    with contextlib.ExitStack() as stack:
        runner = stack.enter_context(ComfyPool([api])) if of_a_pool else api
        pipe = stack.enter_context(pipe_that_drips())
        with quickly(), error:
            call(runner, graph, pipe)
    assert sent(api) == []


def test_a_pipe_with_a_late_writer_is_sent_whole(fifo) -> None:
    """It is opened before there is one, and read to its end."""
    content = os.urandom(3 * MIB)

    def write() -> None:
        with fifo.open("wb") as end:
            for at in range(0, len(content), MIB):
                end.write(content[at : at + MIB])

    writer = threading.Thread(target=write)
    with ComfyServer() as server, ComfyApi(server.url) as client:
        writer.start()
        name = client.upload_image(fifo, timeout=60.0).name
        writer.join()
        assert (server.root / "input" / name).read_bytes() == content


@pytest.mark.parametrize("device", ["zero", "random", "full", "null", "tty"])
def test_a_device_is_no_file(api, device) -> None:
    """It has no end, or nothing in it."""
    path = Path("/dev", device)
    if not path.exists():
        pytest.skip("the machine has no such device")
    with pytest.raises(ValueError, match="is a device, and no file"):
        api.upload_image(path, timeout=0.3)
    assert sent(api) == []


def test_a_socket_is_no_file(api, tmp_path) -> None:
    """Nothing can be read from its name."""
    with socket.socket(socket.AF_UNIX) as listener, contextlib.chdir(tmp_path):
        listener.bind("s")
        with pytest.raises(ValueError, match="is a socket, and no file"):
            api.upload_image(Path("s"), timeout=0.3)


class Endless(io.RawIOBase):
    """A stream that does not end, and does not say where it stands."""

    name = None

    def __init__(self) -> None:
        self.given = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self.given += len(buffer)
        return len(buffer)


def test_a_stream_that_does_not_end_is_read_as_long_as_there_is_time(api) -> None:
    """If the disk has space."""
    check_in_time(api, Endless(), timeout=0.05)


def test_a_copy_takes_no_more_than_half_of_the_free_space(api, monkeypatch) -> None:
    """Without a timeout, too."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=8 * MIB))
    stream = Endless()
    with pytest.raises(OSError, match="it does not end: more than"):
        api.upload_image(stream)
    assert stream.given < 12 * MIB
    assert sent(api) == []


@pytest.mark.skipif(not Path("/proc/self/pagemap").exists(), reason="no such file there")
def test_a_file_of_the_system_without_a_size_is_read_as_long_as_there_is_time(api) -> None:
    """It has hundreds of GiB."""
    check_in_time(api, Path("/proc/self/pagemap"), timeout=0.05)


def test_a_huge_file_is_hashed_as_long_as_there_is_time(tmp_path) -> None:
    """Comfy API v2 wants its hash before it is sent, and a mask is named by its own."""
    path = tmp_path / "huge.png"
    with path.open("wb") as file:
        file.truncate(64 << 30)  # no block of it is on the disk
    with ComfyServer(hosted="proxy") as server, served(server, HostedApi) as hosted:
        check_in_time(hosted, path)
    with ComfyServer() as server, ComfyApi(server.url) as client:
        original = client.upload_image(b"\x89PNG", "a.png")
        error = pytest.raises(RequestTimeout, match="could not be read")
        with open(os.open(path, os.O_RDONLY), "rb") as nameless, quickly(), error:
            client.upload_mask(nameless, original, timeout=0.3)


def test_ctrl_c_ends_the_wait_for_a_pipe(api, fifo) -> None:
    """At once, whatever the timeout."""
    press_ctrl_c_in_a_call()
    with quickly(), pytest.raises(KeyboardInterrupt):
        api.upload_image(fifo, timeout=600.0)
    assert api.upload_image(b"\x89PNG", "after.png").name  # no limit is left behind
