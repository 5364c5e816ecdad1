"""A large file up and down, in a process of its own whose peak of memory can be read."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import multiprocessing
import shutil
import tempfile
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from urllib.parse import urlsplit

from comfy_client import ComfyApi

from .measure import spent, timed
from .servers import FILE_SIZE

_PIECE = 1 << 20
#: What is uploaded, and whether it has to be hashed, for its name or to be compared.
SOURCES = {
    "a path": False,
    "an open file": False,
    "bytes": False,
    "a BytesIO": False,
    "an open file, compared": True,
    "bytes without a name": True,
}
#: Asks for the processor time of a download to a file.
DOWN = "down to a file"
_INFO = {"filename": "file.bin", "type": "output"}


@contextlib.contextmanager
def worker(side: str, url: str) -> Iterator[Callable[[str], float]]:
    """Does ``"up"`` and ``"down"`` (seconds), and tells ``"peak"``.

    For one of the SOURCES, it tells the processor time (seconds) of an upload from there, and for
    :data:`DOWN` that of a download to a file.
    The peak is in MB (of 10**6 bytes), above the one before the first transfer.
    """
    folder = tempfile.mkdtemp(prefix="comfy-bench-")
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, side, url, Path(folder)), daemon=True)
    process.start()

    def tell(what: str) -> float:
        ours.send(what)
        return float(ours.recv())

    try:
        yield tell
    finally:
        process.kill()
        process.join()
        ours.close()
        shutil.rmtree(folder)


def _work(pipe: Connection, side: str, url: str, folder: Path) -> None:
    make, sources = (
        (_client, _client_sources) if side == "client" else (_reference, _reference_sources)
    )
    with (folder / "file.bin").open("wb") as file:
        for _ in range(FILE_SIZE // _PIECE):
            file.write(bytes(_PIECE))
    up, down = make(url, folder)
    before = _peak()
    while True:
        what = pipe.recv()
        if what == "peak":
            pipe.send((_peak() - before) / 1e6)
        elif what in SOURCES:
            with sources(what, url, folder) as upload:
                upload()  # connects
                pipe.send(spent(upload, 1))
        else:
            # Both sides make a new file, which takes longer than to write over an old one.
            (folder / "down.bin").unlink(missing_ok=True)
            pipe.send(spent(down, 1) if what == DOWN else timed(up if what == "up" else down))


def _peak() -> int:
    """Bytes; getrusage would count what the process was before it became a Python."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def _client(url: str, folder: Path) -> tuple[Callable[[], object], Callable[[], object]]:
    api = ComfyApi(url)
    api.poll_status()  # so that the first connection and lazy imports are not counted
    return (
        lambda: api.upload_image(folder / "file.bin", overwrite=True),
        lambda: api.download_image(_INFO, folder / "down.bin"),
    )


@contextlib.contextmanager
def _client_sources(what: str, url: str, folder: Path) -> Iterator[Callable[[], object]]:
    path = folder / "file.bin"
    with ComfyApi(url) as api, path.open("rb") as file:
        if what == "a path":
            yield lambda: api.upload_image(path, overwrite=True)
        elif what.startswith("an open file"):
            yield lambda: api.upload_image(file, overwrite="compared" not in what)
        else:
            content = path.read_bytes()
            source = io.BytesIO(content) if what == "a BytesIO" else content
            name = None if "without" in what else "file.bin"
            yield lambda: api.upload_image(source, name, overwrite=True)


@contextlib.contextmanager
def _reference_sources(what: str, url: str, folder: Path) -> Iterator[Callable[[], object]]:
    """Yield what sends the file, and reads it for one SHA-256 before that if need be."""
    up, _ = _reference(url, folder)

    def upload() -> None:
        if SOURCES[what]:
            with (folder / "file.bin").open("rb") as file:
                hashlib.file_digest(file, "sha256")
        up()

    yield upload


def _reference(url: str, folder: Path) -> tuple[Callable[[], object], Callable[[], object]]:
    where = urlsplit(url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port)
    buffer = memoryview(bytearray(_PIECE))

    def up() -> None:
        head = (
            b'--bench\r\nContent-Disposition: form-data; name="overwrite"\r\n\r\ntrue\r\n'
            b'--bench\r\nContent-Disposition: form-data; name="image"; filename="file.bin"\r\n\r\n'
        )
        tail = b"\r\n--bench--\r\n"

        def pieces() -> Iterator[bytes]:
            yield head
            with (folder / "file.bin").open("rb") as file:
                while piece := file.read(_PIECE):
                    yield piece
            yield tail

        headers = {
            "Content-Type": "multipart/form-data; boundary=bench",
            "Content-Length": str(len(head) + FILE_SIZE + len(tail)),
        }
        connection.request("POST", "/upload/image", pieces(), headers)
        connection.getresponse().read()

    def down() -> None:
        connection.request("GET", "/view?filename=file.bin&type=output")
        answer = connection.getresponse()
        with (folder / "down.bin").open("wb") as file:
            while size := answer.readinto(buffer):
                file.write(buffer[:size])

    connection.request("GET", "/prompt")
    connection.getresponse().read()
    return up, down
