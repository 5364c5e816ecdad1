"""What can be sent to a server, and what it is called there."""

from __future__ import annotations

import contextlib
import copy
import errno
import gc
import hashlib
import io
import os
import pickle
import posixpath
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from comfy_client import Upload
from comfy_client.reading import CHUNK
from comfy_client.upload import FileChanged, escapes, facts_of, is_file, opened

PNG = b"\x89PNG\r\n\x1a\n and so on"
NAMES = st.text() | st.text(alphabet="./\\: \x00aN\u202e\ud800[]", max_size=12)


def content_of(upload: Upload) -> bytes:
    with upload.opened() as content:
        return b"".join(content)


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    ("content", "ending"),
    [
        (PNG, ".png"),
        (b"\xff\xd8\xff\xe0", ".jpg"),
        (b"RIFF\0\0\0\0WEBPVP8L", ".webp"),
        (b"RIFF\0\0\0\0WAVEfmt ", ".wav"),
        (b"RIFF\0\0\0\0what", ""),
        (b"\0\0\0\x20ftypisom", ".mp4"),
        (b"\0\0\0\x20ftypavif", ".avif"),
        (b"\0\0\0\x14ftypqt  ", ".mov"),
        (b"\x1aE\xdf\xa3webm", ".webm"),
        (b"fLaC", ".flac"),
        (b"OggS", ".ogg"),
        (b"ID3\x04", ".mp3"),
        (b"glTF\x02", ".glb"),
        (b"II*\0", ".tiff"),
        (b"text", ""),
    ],
)
def test_an_upload_without_a_name_is_named_by_its_content(content: bytes, ending: str) -> None:
    """With the ending of its kind."""
    name = digest(content)[:32] + ending
    for source in (content, bytearray(content), memoryview(content), io.BytesIO(content)):
        state = Upload(source).state()
        assert state is not None
        assert (state.name, state.size) == (name, len(content))


def test_a_file_keeps_its_name_and_a_given_one_wins(tmp_path: Path) -> None:
    """Of a path and of an open file."""
    path = tmp_path / "photo.png"
    path.write_bytes(PNG)
    with path.open("rb") as file:
        for source in (path, str(path), file):
            assert Upload(source).name == "photo.png"
            assert Upload(source, "me.png").name == "me.png"
    assert Upload(Upload(path, "a", subfolder="b"), "c") == Upload(path, "c", subfolder="b")


def test_a_name_that_is_no_text_is_refused() -> None:
    """Most likely the arguments are in the wrong order."""
    with pytest.raises(TypeError, match="a name must be a str, not 5"):
        Upload(b"png", 5)  # type: ignore[arg-type]


@pytest.mark.posix("names that are no text")
def test_file_names_that_are_no_text_are_changed(tmp_path: Path) -> None:
    """File systems have names that are no text."""
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/a\xff\nb.png"))
    path.write_bytes(PNG)
    assert Upload(path).name == "a__b.png"


@given(NAMES)
@example("")
@example("..")
def test_a_name_is_taken_as_it_is_or_refused(name: str) -> None:
    """One that is taken has no folder in it, and can be sent."""
    try:
        taken = Upload(b"", name).name
    except ValueError:
        assert name in ("", ".", "..") or set(name) & {"/", "\\"} or not name.isprintable()
    else:
        assert taken == name
        assert name.encode()
        assert not set(name) & set("/\\\0\r\n")


@given(NAMES)
def test_a_subfolder_never_leads_out(folder: str) -> None:
    """However it is written."""
    leads_out = escapes(folder)
    inner = posixpath.normpath(
        posixpath.join("/input", folder.replace("\\", "/").replace("\0", ""))
    )
    if "\0" not in folder:
        assert leads_out or inner == "/input" or inner.startswith("/input/")


@pytest.mark.parametrize(
    ("url", "content"),
    [
        ("data:image/png;base64,aGVsbG8=", b"hello"),
        ("DATA:;BASE64,aGVsbG8", b"hello"),
        ("data:image/png;name=a.png;base64,aGVs\nbG8%3D", b"hello"),
        ("data:,a%20b", b"a b"),
    ],
)
def test_a_data_url_is_its_content(url: str, content: bytes) -> None:
    """With or without base64, padding and a type."""
    assert Upload(url).source == content


@given(st.text())
def test_any_data_url_is_read_or_refused(text: str) -> None:
    """Without another error."""
    for url in (f"data:{text}", f"data:;base64,{text}"):
        try:
            assert isinstance(Upload(url).source, bytes)
        except ValueError as exc:
            assert "data URL" in str(exc) or "empty" in str(exc)  # noqa: PT017  # some are read


def test_a_url_is_refused_unless_it_is_asked_for() -> None:
    """The message hides what may be secret in it."""
    url = "https://me:pass@example.org/a.png?token=1"
    with pytest.raises(ValueError, match=r"https://example.org/a.png is a URL, .*pass fetch=True"):
        Upload(url)
    assert repr(Upload(url, fetch=True)) == "<Upload https://example.org/a.png>"
    assert Upload(url, fetch=True).state() is None


def test_an_upload_of_a_wrong_file_is_refused_at_once(tmp_path: Path) -> None:
    """When it is given, rather than when the workflow is submitted."""
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        Upload(tmp_path / "none.png")
    with pytest.raises(IsADirectoryError):
        Upload(tmp_path)
    with pytest.raises(TypeError, match="not int"):
        Upload(7)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="not StringIO"):
        Upload(io.StringIO("x"))  # type: ignore[arg-type]
    (tmp_path / "a.png").touch()
    text = (tmp_path / "a.png").open()
    with text, pytest.raises(TypeError, match="open it with 'rb'"):
        Upload(text)  # type: ignore[arg-type]
    for empty in (b"", bytearray(), "data:image/png;base64,", io.BytesIO()):
        with pytest.raises(ValueError, match="is empty: check where it comes from, or give a name"):
            Upload(empty)
    assert Upload(b"", "empty.txt").source == b""
    ended = io.BytesIO(b"x")
    ended.read()
    with pytest.raises(ValueError, match="rewind"):
        Upload(ended)
    with pytest.raises(ValueError, match="leads out"):
        Upload(b"x", subfolder="../a")


def test_an_open_file_is_sent_from_where_it_stood_again_and_again() -> None:
    """As it is at that moment."""
    file = io.BytesIO(b"skip" + PNG)
    file.seek(4)
    upload = Upload(file)
    for content in (PNG, PNG, PNG.upper()):
        file.seek(4)
        file.write(content)
        state = upload.state()
        assert state is not None
        assert state.version == digest(content)
        assert content_of(upload) == content


class Bare:
    """A file that nothing can refer to weakly."""

    __slots__ = ("file", "tell")

    def __init__(self, content: bytes, told: int | None = 0) -> None:
        self.file, self.tell = io.BytesIO(content), lambda: told and self.file.tell()

    def read(self, size: int = -1) -> bytes:
        return self.file.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self.file.seek(offset, whence)


def test_a_file_that_does_not_say_where_it_stands_is_copied() -> None:
    """As one that can be read only once."""
    assert content_of(Upload(Bare(PNG, None))) == PNG


def test_a_pipe_is_copied_since_it_can_be_read_only_once() -> None:
    """The copy is gone with the last who has it."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as end:
        end.write(PNG)
    with os.fdopen(reading, "rb") as pipe:
        upload = Upload(pipe)
    twin = Upload(upload)
    del upload
    gc.collect()
    for _ in range(2):
        assert content_of(twin) == PNG
    del twin
    gc.collect()  # a warning about an unclosed file would fail this test


@pytest.mark.parametrize("name", [None, "a.png"])
def test_a_pipe_that_was_read_says_so_instead_of_being_sent_empty(name: str | None) -> None:
    """Its first Upload can be used on."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as end:
        end.write(PNG)
    with os.fdopen(reading, "rb") as pipe:
        upload = Upload(pipe, name)
        with pytest.raises(ValueError, match="can be read only once: make one Upload of it"):
            Upload(pipe, name)
        assert content_of(Upload(upload, name)) == PNG


@pytest.mark.posix("/proc")
def test_reading_an_open_file_leaves_no_descriptor_and_no_other_position(tmp_path: Path) -> None:
    """Nor does it need the file's own while it reads."""
    path = tmp_path / "a.bin"
    path.write_bytes(PNG)

    def descriptors() -> int:
        found = 0
        for link in Path("/proc/self/fd").glob("*"):
            with contextlib.suppress(OSError):
                found += os.readlink(link) == str(path)
        return found

    with path.open("rb") as file:
        file.seek(3)
        upload = Upload(file)
        before = descriptors()
        for _ in range(20):
            assert upload.facts() == facts_of(PNG[3:])
        with upload.opened() as content:
            assert file.read() == b"".join(content) == PNG[3:]
        assert descriptors() == before


@pytest.mark.parametrize("number", [1, 2])
def test_a_file_that_cannot_be_looked_at_leaves_no_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(PNG)
    opened, dup, fstat, calls = [], os.dup, os.fstat, iter(range(1, 9))

    def noted(descriptor: int) -> int:
        opened.append(dup(descriptor))
        return opened[-1]

    def failing(descriptor: int) -> os.stat_result:
        if next(calls) == number:
            raise OSError(errno.EIO, "broken")
        return fstat(descriptor)

    with path.open("rb") as file:
        upload = Upload(file)
        monkeypatch.setattr(os, "dup", noted)
        monkeypatch.setattr(os, "fstat", failing)
        with pytest.raises(OSError, match="broken"), upload.opened():
            pass
    [descriptor] = opened
    with pytest.raises(OSError, match=r"Bad file descriptor|handle"):
        fstat(descriptor)


def test_a_file_on_the_disk_has_another_state_when_it_has_changed(tmp_path: Path) -> None:
    """It is not read for that; and is read again for its digest."""
    path = tmp_path / "a.png"
    path.write_bytes(b"1")
    upload = Upload(path)
    states, digests = [], []
    for content in (b"1", b"2"):
        path.write_bytes(content)
        os.utime(path, ns=(content[0] * 10**9, content[0] * 10**9))
        states.append(upload.state())
        digests.append(upload.identity()["upload"])
    assert states[0] != states[1]
    assert digests == [digest(b"1"), digest(b"2")]


def test_without_pread_a_file_keeps_its_position_and_nothing_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows, where reading at a position moves the file's own, also in several threads."""
    path, content = tmp_path / "a.bin", os.urandom(2 * CHUNK + 5)
    path.write_bytes(content)
    monkeypatch.delattr(os, "pread", raising=False)
    monkeypatch.setattr(tempfile, "TemporaryFile", None)  # for copies
    with path.open("rb") as file, ThreadPoolExecutor(4) as threads:
        file.seek(3)
        upload = Upload(file)
        file.seek(4)
        found = threads.map(lambda _: (content_of(upload), Upload(file).facts()), range(20))
        assert set(found) == {(content[3:], facts_of(content[4:]))}
        assert file.tell() == 4
        assert file.read(5) == content[4:9]
    upload = Upload(path)
    with upload.opened() as opened_once:
        assert upload.facts() == facts_of(opened_once) == facts_of(content)
        assert b"".join(opened_once) == content


def test_without_pread_another_upload_of_an_open_file_does_not_move_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Python flushes it then, which moves the position of a file that is also written."""
    content, reads = os.urandom(2 * CHUNK + 5), 0
    monkeypatch.delattr(os, "pread", raising=False)
    with tempfile.TemporaryFile() as file, ThreadPoolExecutor(1) as threads:
        file.write(content)
        file.seek(0)
        upload = Upload(file, "a.bin")
        with upload.opened() as opened_once:
            file.read(10)
            file.seek(0)
            read = os.read

            def slowly(descriptor: int, size: int) -> bytes:
                nonlocal reads
                reads += 1
                if reads == 2:  # of the second piece
                    with contextlib.suppress(TimeoutError):  # it waits for this read
                        threads.submit(content_of, upload).result(0.2)
                return read(descriptor, size)

            monkeypatch.setattr(os, "read", slowly)
            assert b"".join(opened_once) == content
    assert reads > 2


def test_equal_ones_have_the_same_source_name_and_subfolder(tmp_path: Path) -> None:
    """Copies are the same object; a pickle is equal."""
    path = tmp_path / "a"
    path.write_bytes(PNG)
    different = [
        *(
            Upload(PNG),
            Upload(PNG, "a"),
            Upload(PNG, subfolder="a"),
            Upload(path),
            Upload(b"", "b"),
        ),
        Upload("http://a/b", fetch=True),
    ]
    assert len({*different, *map(Upload, different)}) == len(different)
    for upload in different:
        assert copy.deepcopy(upload) is upload
        assert pickle.loads(pickle.dumps(upload)) == upload


@pytest.mark.parametrize(
    ("upload", "shown"),
    [
        (Upload(b"abc"), "<Upload 3 bytes>"),
        (Upload(b"abc", "a.png"), "<Upload a.png 3 bytes>"),
        (Upload(io.BytesIO(b"abc")), "<Upload of an open file>"),
        (Upload(__file__), "<Upload test_upload.py>"),
    ],
)
def test_the_repr_of_an_upload_is_short(upload: Upload, shown: str) -> None:
    """Whatever is in it."""
    assert repr(upload) == shown


def test_the_str_of_an_upload_differs_from_those_of_others() -> None:
    """As a label of a row in a table."""
    assert str(Upload(b"abc")) != str(Upload(b"abd"))
    assert str(Upload(__file__)) == __file__
    assert str(Upload("http://a:b@c/d?e", fetch=True)) == "http://c/d"
    assert str(Upload(io.BytesIO(b"x"))) == "an open file"


@pytest.mark.parametrize(
    ("value", "can_be_sent"),
    [
        *((b"", True), (Path("x"), True), (io.BytesIO(), True), (Upload(b"x"), True)),
        *(("x", False), (7, False), (None, False), ([1], False), ({}, False), (io.BytesIO, False)),
        (SimpleNamespace(filename="a"), False),
    ],
)
def test_values_that_are_uploaded_and_values_that_are_json(value: Any, can_be_sent: bool) -> None:
    """A text is one only where it is asked for."""
    assert is_file(value) is can_be_sent


def test_an_open_file_that_becomes_shorter_while_it_is_read_is_not_sent() -> None:
    class Shrinking(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            self.truncate(5)
            return super().read(size)

    upload = Upload(Shrinking(b"0123456789"), "a.png")
    with pytest.raises(FileChanged, match="became shorter"), upload.opened():
        pass


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(tempfile.TemporaryFile, id="plain"),
        pytest.param(io.BytesIO, id="in memory"),
        pytest.param(type("Own", (io.BytesIO,), {}), id="of another type, which is copied"),
    ],
)
@pytest.mark.parametrize("left", [5, 2])
def test_an_open_file_that_ends_before_its_position_is_not_sent(
    kind: Callable[[], BinaryIO], left: int
) -> None:
    """It had something left when it was given; it is not stored as an empty file."""
    with kind() as file:
        file.write(b"0123456789")
        file.seek(5)
        upload = Upload(file, "a.png")
        file.truncate(left)
        with pytest.raises(FileChanged, match="became shorter"), upload.opened():
            pass


def test_a_file_that_is_written_again_while_it_is_read_is_not_sent(tmp_path: Path) -> None:
    """Half of it would be of the one, half of the other, though the size is the same."""
    path = tmp_path / "a.bin"
    path.write_bytes(b"a" * 2 * CHUNK)
    with path.open("rb") as file, opened(file) as content:
        pieces = iter(content)
        next(pieces)
        path.write_bytes(b"b" * 2 * CHUNK)
        os.utime(path, ns=(1, 1))
        with pytest.raises(FileChanged):
            list(pieces)
