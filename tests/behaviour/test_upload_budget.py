"""What an upload may cost: each byte is read once, hashed at most once, and not copied."""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import os
import socket
import sys
import tempfile
import threading
import tracemalloc
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from comfy_client import ComfyApi, HostedApi, Upload
from comfy_client.testing import ComfyServer
from comfy_client.transport.multipart import Form
from tests.helpers.hashes import Hash
from tests.helpers.http import MIB

SIZE = 2 * MIB + 17
SOURCES = ["path", "open file", "bytes", "BytesIO", "array"]


class Counter:
    """The bytes that this thread hashes, reads from files, and sends."""

    def __init__(self, patch: pytest.MonkeyPatch, source: Any) -> None:
        self._thread = threading.get_ident()
        self._memory: list[object] = [source]  # kept, so that no other object gets its id
        self.hashed: dict[str, int] = {}
        self.read = self.reads = self.sent = self.copied = 0
        name = "pread" if hasattr(os, "pread") else "read"
        read, send = getattr(os, name), socket.socket.send

        def counted_read(descriptor: int, size: int, *at: int) -> bytes:
            found: bytes = read(descriptor, size, *at)
            if self.is_here:
                self._memory.append(found)
                self.read += len(found)
                self.reads += 1
            return found

        def counted_send(sock: socket.socket, data: Any, *flags: int) -> int:
            sent = send(sock, data, *flags)
            if self.is_here:
                self.sent += sent
                whose = memoryview(data).obj
                self.copied += sent * all(whose is not known for known in self._memory)
            return sent

        patch.setattr(os, name, counted_read)
        patch.setattr(socket.socket, "send", counted_send)
        patch.setattr(hashlib, "sha256", self.counting("sha256", hashlib.sha256))
        module = types.ModuleType("blake3")
        module.blake3 = self.counting("blake3", Hash)  # type: ignore[attr-defined]
        patch.setitem(sys.modules, "blake3", module)

    @property
    def is_here(self) -> bool:
        return threading.get_ident() == self._thread

    def counting(self, name: str, make: Any) -> Any:
        """Return a hash function that counts its input."""
        counter = self

        class Counting:
            def __init__(self, data: bytes = b"") -> None:
                self._hash = make()
                self.update(data)

            def update(self, data: Any) -> None:
                if counter.is_here and data:
                    counter.hashed[name] = counter.hashed.get(name, 0) + len(data)
                self._hash.update(data)

            def __getattr__(self, name: str) -> Any:
                return getattr(self._hash, name)

        return Counting


@contextlib.contextmanager
def source_of(kind: str, folder: Path) -> Iterator[Any]:
    """Yield something to upload, of about SIZE bytes."""
    content = os.urandom(SIZE)
    path = folder / "file.bin"
    path.write_bytes(content)
    with path.open("rb") as file:
        pixels = np.frombuffer(content[: 3 << 19], np.uint8).reshape(512, -1, 3)
        yield {
            "path": path,
            "open file": file,
            "bytes": content,
            "BytesIO": io.BytesIO(content),
            "array": pixels,
        }[kind]


def memory_of(upload: Upload) -> object:
    """Return the bytes that may be sent as they are."""
    source = upload.source
    return source.getvalue() if isinstance(source, io.BytesIO) else source


@pytest.fixture(scope="module", params=["ComfyUI", "hosted"])
def api(request: pytest.FixtureRequest) -> Iterator[ComfyApi]:
    kind = HostedApi if request.param == "hosted" else ComfyApi
    with (
        ComfyServer(hosted="proxy" if kind is HostedApi else None) as server,
        kind(server.url) as client,
    ):
        client.upload_image(b"\x89PNG", "before.png")  # connects
        yield client


@pytest.fixture(params=[*SOURCES, "path without pread", "open file without pread"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A kind of source, also where there is no ``os.pread``, as on Windows; copies are errors."""
    here, temporary = threading.get_ident(), tempfile.TemporaryFile

    def not_here(*args: Any, **options: Any) -> Any:
        assert threading.get_ident() != here, "the client copies the file"
        return temporary(*args, **options)

    monkeypatch.setattr(tempfile, "TemporaryFile", not_here)
    kind, without, _ = str(request.param).partition(" without")
    if without:
        monkeypatch.delattr(os, "pread", raising=False)
    return kind


@pytest.mark.parametrize("how", ["overwrite", "named", "unnamed"])
def test_an_upload_hashes_at_most_once_and_copies_nothing(
    api: ComfyApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, how: str
) -> None:
    """Only what is compared is hashed, and a path is compared by its state.

    A hosted server wants another hash of everything.
    """
    is_hosted = isinstance(api, HostedApi)
    with source_of(kind, tmp_path) as source:
        upload = Upload(source, None if how == "unnamed" else "a.bin")
        is_named = upload.name is not None
        overwrite = how == "overwrite" and not is_hosted
        size = len(upload.source) if isinstance(upload.source, bytes) else SIZE
        counter = Counter(monkeypatch, memory_of(upload))
        api.upload_image(upload, overwrite=overwrite)
    is_hashed = kind != "path" and not (overwrite and is_named)
    assert counter.hashed.get("sha256", 0) == size * is_hashed
    assert counter.hashed.get("blake3", 0) == size * is_hosted
    assert counter.copied < MIB + 5000  # what goes out with the head
    assert size < counter.sent < size + 5000
    is_file = kind in ("path", "open file")
    passes = 1 + is_hashed + is_hosted
    assert counter.read == is_file * passes * size
    assert counter.reads == is_file * passes * math.ceil(size / MIB)


def test_an_upload_holds_three_pieces_at_most(tmp_path: Path, kind: str) -> None:
    """However large the file is; the content itself is not counted."""
    with source_of(kind, tmp_path) as source, Upload(source).opened() as content:
        tracemalloc.start()
        try:
            for _ in Form({}, "image", "a.bin", content):
                pass
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 3.1 * MIB
