"""Files to upload: local ones, pictures in memory, URLs, and outputs of other prompts."""

from __future__ import annotations

import base64
import errno
import hashlib
import io
import json
import os
import posixpath
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple, Protocol, Self, TypeAlias, cast
from urllib.parse import unquote_to_bytes, urlsplit
from weakref import WeakKeyDictionary

import attrs

from . import runtime
from .reading import CHUNK, TemporaryCopy, copy_rest, in_time, open_path

#: The length of a name that is made from the content, in hexadecimal digits: 128 bits.
_DIGITS: Final = 32
#: The first bytes of files, and the extension for each kind.
_BEGINNINGS: Final = {
    b"\x89PNG\r\n\x1a\n": ".png",
    b"\xff\xd8\xff": ".jpg",
    b"GIF8": ".gif",
    b"BM": ".bmp",
    b"II*\0": ".tiff",
    b"MM\0*": ".tiff",
    b"\x1aE\xdf\xa3": ".webm",
    b"fLaC": ".flac",
    b"OggS": ".ogg",
    b"ID3": ".mp3",
    b"\xff\xfb": ".mp3",
    b"glTF": ".glb",
}
_RIFF: Final = {b"WEBP": ".webp", b"WAVE": ".wav", b"AVI ": ".avi"}
_ISO: Final = {b"avif": ".avif", b"heic": ".heic", b"M4A ": ".m4a", b"qt  ": ".mov"}


#: Characters that no name can have: control characters, and halves of surrogate pairs.
_CONTROLS: Final = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")

#: An alias of ``bytes`` for classes that have a method of that name.
Piece: TypeAlias = bytes


class Picture(Protocol):
    """A Pillow image or a NumPy array."""

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """The array interface of the pixels."""


class Tensor(Protocol):
    """An array of another library, such as a torch tensor."""

    def __array__(self, *args: Any, **named: Any) -> Any:
        """Return a NumPy array of the pixels."""


class ServerFile(Protocol):
    """An output of a prompt: a file of a server, or a picture in memory."""

    @property
    def filename(self) -> str:
        """The file's name, without folders."""

    @property
    def subfolder(self) -> str:
        """The path below the folder of the file's type; empty if there is no subfolder."""

    @property
    def type(self) -> str:
        """The folder of the server: ``output``, ``input`` or ``temp``."""

    @property
    def url(self) -> str | None:
        """The file's URL; None for a picture in memory."""

    def bytes(self) -> bytes:
        """Return the content of the file."""

    def stream(self, *, timeout: float | None = None) -> AbstractContextManager[Iterable[Piece]]:
        """Stream the content of the file."""


#: The content, sent unchanged.
Content: TypeAlias = Path | bytes | BinaryIO
#: A bytes-like object.
View: TypeAlias = bytes | memoryview


class Facts(NamedTuple):
    """Facts about content that was read: its digest, size and file name extension."""

    digest: str  #: SHA-256, in hexadecimal digits.
    size: int
    ending: str  #: The extension for its name; empty: unknown.

    @property
    def name(self) -> str:
        """A name that is unique to the content."""
        return self.digest[:_DIGITS] + self.ending


class FileState(NamedTuple):
    """The state of a file at one moment."""

    name: str  #: The name on the server, unless that is taken.
    version: object  #: Changes when the content does; ``None``: it is not known.
    size: int


@attrs.frozen(init=False, repr=False)
class Upload:
    """A file that is sent to the server when a workflow is submitted.

    A path, bytes, an open file, a picture or an output becomes an ``Upload`` by itself when it is
    set as an input: ``wf["Load Image"]["image"] = Path("photo.png")``.  Make one yourself for a
    path as ``str`` or a URL, which would be taken as text, and to choose the name.

    Files on the disk and open files are read when they are sent, with constant memory.  A picture
    is encoded immediately, so later changes have no effect.  Two are equal if they have the same
    source, name and subfolder.

    An open file may be the input of any number of jobs, of any servers and threads.  Each job gets
    all of it, from its position when it was given, and the position does not change.

    Example::

        from comfy_client import ComfyApi, Upload

        with ComfyApi("http://127.0.0.1:8188") as api:
            photo = Upload("photo.png", "me.png")
            api.run({
                "1": {"class_type": "LoadImage", "inputs": {"image": photo}},
                "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
            })

    Args:
        file: As for :meth:`ComfyApi.upload_image`.
        name: Its name on the server, without folders.  ``None``: that of the local file; anything
            else is named by its content.
        subfolder: The folder below the server's ``input``; some loaders want one (``"3d"``).
        fetch: Whether the client downloads an ``http(s)`` URL, when the workflow is submitted.

    Raises:
        FileNotFoundError: There is no such local file.
        ValueError: The name has folders or control characters in it, the subfolder leads out of the
            folder, ``file`` is a URL and ``fetch`` is false, it is empty and has no name, an open
            file stands at its end, a pipe was read before (keep its ``Upload``), or a picture has
            another shape or range than :meth:`ComfyApi.upload_image` says.
        MissingExtra: It is a picture, and Pillow or NumPy is not installed.

    Attributes:
        source: The source: a path, bytes, an open file, a URL or an output.
        name: The name that was given, or that of the local file; ``None``: made from the content.
        subfolder: The folder below the server's ``input``; empty: none.
    """

    source: Path | bytes | BinaryIO | str | ServerFile
    name: str | None
    subfolder: str
    _start: int
    _known: dict[object, Facts] = attrs.field(eq=False)

    def __init__(
        self,
        file: AnyFile,
        name: str | None = None,
        *,
        subfolder: str = "",
        fetch: bool = False,
    ) -> None:
        if isinstance(file, Upload):
            name = file.name if name is None else name
            subfolder = subfolder or file.subfolder
            source, start, known = file.source, file._start, file._known
        else:
            (source, own_name, start), known = _source(file, fetch=fetch), {}
            name = own_name if name is None else name
        if name is not None:
            _check_name(name)
        elif not isinstance(file, Upload) and _is_empty(source):
            raise ValueError(
                "the file to upload is empty: check where it comes from, or give a name to send it "
                "all the same"
            )
        if escapes(subfolder):
            raise ValueError(f"subfolder: {subfolder!r} leads out of the folder")
        self.__attrs_init__(source, name, subfolder, start, known)

    def __repr__(self) -> str:
        source = self.source
        what = self.name
        if isinstance(source, str):
            what = f"{what or ''} {without_secrets(source)}".strip()
        elif isinstance(source, bytes):
            what = f"{what or ''} {len(source)} bytes".strip()
        elif what is None and self.remote is not None:
            what = f"{getattr(source, 'filename', '')} [{getattr(source, 'type', '')}]"
        return f"<Upload {_shown(what or 'of an open file')}>"

    def __str__(self) -> str:
        """Return a text for tables, which differs between files as far as possible."""
        source = self.source
        if isinstance(source, bytes):
            state = self.state()
            return state.name if state else ""
        if isinstance(source, Path):
            return os.fspath(source)
        if isinstance(source, str):
            return _shown(without_secrets(source))
        return _shown(getattr(source, "filename", None) or self.name or "an open file")

    def __deepcopy__(self, memo: object) -> Self:
        return self  # immutable, and an open file cannot be copied

    @property
    def remote(self) -> str | ServerFile | None:
        """The URL or output that must be fetched first; None if the content is at hand."""
        is_here = isinstance(self.source, (bytes, Path)) or hasattr(self.source, "read")
        return None if is_here else cast("str | ServerFile", self.source)

    def opened(self) -> AbstractContextManager[OpenContent]:
        """Context manager: yield the content at hand, opened only once.

        Raises:
            FileChanged: An open file became shorter while it was copied.
        """
        return opened(cast("Content", self.source), self._start)

    def state(self) -> FileState | None:
        """Return the file's current state, or None if it was not fetched yet.

        A file on the disk is opened for it, but not read.
        """
        if self.remote is None:
            with self.opened() as content:
                return self.state_of(content)
        facts = self.facts()
        return None if facts is None else self._named(facts)

    def state_of(self, content: OpenContent) -> FileState:
        """Return the file's state when its content was opened."""
        if isinstance(self.source, Path):
            return FileState(self.name or "file", content.version, content.size)
        return self._named(self._facts_of(content))

    def _named(self, facts: Facts) -> FileState:
        return FileState(self.name or facts.name, facts.digest, facts.size)

    def facts(self) -> Facts | None:
        """Return the content's digest and size, reading it; None if it was not fetched yet."""
        if self.remote is not None:
            return self._known.get(())
        with self.opened() as content:
            return self._facts_of(content)

    def _facts_of(self, content: OpenContent) -> Facts:
        """Return the facts of its opened content, and remember them if possible."""
        is_remote = self.remote is not None
        version = () if is_remote or isinstance(self.source, bytes) else content.version
        if version is None:
            return facts_of(content)
        if is_remote or version not in self._known:
            self._known[version] = facts_of(content)
        return self._known[version]

    def identity(self) -> dict[str, Any]:
        """Return JSON that identifies the file; reads a local file, fetches no URL."""
        source = self.remote
        if source is None:
            found = self.facts()
            what = "" if found is None else found.digest
        elif isinstance(source, str):
            what = source
        else:
            what = f"{source.type}/{source.subfolder}/{source.filename}"
        return {"upload": what, "name": self.name, "subfolder": self.subfolder}


#: Types of content that can be sent.
AnyFile: TypeAlias = (
    str
    | os.PathLike[str]
    | bytes
    | bytearray
    | memoryview
    | BinaryIO
    | Picture
    | Tensor
    | ServerFile
    | Upload
)


def is_file(value: object) -> bool:
    """Return whether a value is not JSON but can be sent as a file."""
    from .pictures import is_picture  # most programs send none

    return (
        isinstance(value, (Upload, bytes, bytearray, memoryview, os.PathLike))
        or is_picture(value)
        or _is_output(value)
        or only_output(value) is not None
        or (callable(getattr(value, "read", None)) and not isinstance(value, type))
    )


def only_output(value: Any) -> ServerFile | None:
    """Return the only file of a result or of a node's outputs; None for any other value.

    Files of preview nodes (``temp``) count only if there are no others.
    """
    if not _has_outputs(value):
        return None
    files = [file for file in value.files if file.type != "temp"] or list(value.files)
    return files[0] if len(files) == 1 else None


def _has_outputs(value: object) -> bool:
    return hasattr(type(value), "images") and hasattr(type(value), "files")


def instead_of(value: object) -> str:
    """Return advice on what to upload instead of a result or a job; empty for other values."""
    kind = type(value)
    if _has_outputs(value):
        return f"{value!r} has not one output; set one of its files, such as result.images[0]"
    if hasattr(kind, "result") and hasattr(kind, "prompt_id"):
        return f"{value!r} is a job; set one of its outputs, such as job.result().image"
    return ""


def escapes(path: str) -> bool:
    """Return whether a path below one of the server's folders would leave it."""
    plain = posixpath.normpath(path.replace("\\", "/")) if path else ""
    return plain.startswith(("../", "/")) or plain == ".."


def without_secrets(url: str) -> str:
    """Return a URL without login, query and fragment, which may be secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


class FileChanged(OSError):
    """A file changed while it was read or sent."""


@contextmanager
def opened(file: Content | OpenContent, start: int | None = None) -> Iterator[OpenContent]:
    """Context manager: yield the content, opened only once however often it is read.

    An open file is read from byte ``start``, or from its position, which does not change.
    """
    if isinstance(file, OpenContent):
        yield file  # closed by who opened it
        return
    if isinstance(file, bytes):
        content = OpenContent(file)
    elif isinstance(file, Path):
        content = _open_path(file)
    else:
        content = _open(*(_rewindable(file) if start is None else (file, start)))
    try:
        yield content
    finally:
        content.close()


def facts_of(file: Content | OpenContent) -> Facts:
    """Return the digest, size and extension of content, which is read with constant memory."""
    hasher, beginning = hashlib.sha256(), b""
    with opened(file) as content:
        for piece in in_time(content):
            beginning = beginning or bytes(piece[:16])
            hasher.update(piece)
        return Facts(hasher.hexdigest(), content.size, _ending(beginning))


def named_by(digest: str, others: object, ending: str) -> str:
    """Return a file name that is derived from a digest and another JSON value."""
    facts = f"{digest} {json.dumps(others, sort_keys=True)}"
    return hashlib.sha256(facts.encode()).hexdigest()[:_DIGITS] + ending


# -- sources ------------------------------------------------------------------------------


def _source(
    file: Any, *, fetch: bool
) -> tuple[Path | bytes | BinaryIO | str | ServerFile, str | None, int]:
    """Return the source to upload, its name or None, and the position where it starts."""
    if isinstance(file, (bytes, bytearray, memoryview)):
        return bytes(file), None, 0
    file = only_output(file) or file
    if isinstance(file, str) and file[:5].lower() == "data:":
        return _decoded(file), None, 0
    if isinstance(file, str) and re.match("https?://", file, re.IGNORECASE):
        if not fetch:
            raise ValueError(
                f"{without_secrets(file)} is a URL, which is downloaded only if you ask for it: "
                "pass fetch=True, or set Upload(url, fetch=True) as an input"
            )
        return str(file), None, 0
    if isinstance(file, (str, os.PathLike)):
        return _checked_path(Path(file))
    from .pictures import encoded, is_picture  # most programs send none

    if is_picture(file):
        return encoded(file), None, 0
    if _is_output(file):
        return (file, None, 0) if file.url is not None else (file.bytes(), None, 0)
    if isinstance(file, io.TextIOWrapper):
        raise TypeError("a file opened in text mode cannot be uploaded: open it with 'rb'")
    if isinstance(file, io.TextIOBase) or not callable(getattr(file, "read", None)):
        raise TypeError(
            instead_of(file)
            or "a path, bytes, a binary file, a Pillow image, an array, a data URL or an output is "
            f"uploaded, not {type(file).__name__}"
        )
    name = getattr(file, "name", None)
    stream, start = _rewindable(file)
    # An unnamed temporary file has a number for a name.
    return stream, _harmless(os.path.basename(name)) if isinstance(name, str) else None, start


def _checked_path(path: Path) -> tuple[Path, str | None, int]:
    if not path.exists():
        raise FileNotFoundError(errno.ENOENT, "no such file to upload", os.fspath(path))
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "cannot upload a folder", os.fspath(path))
    return path, _harmless(path.name), 0


def _is_empty(source: object) -> bool:
    """Return whether a source is in memory and empty."""
    return source == b"" or (isinstance(source, io.BytesIO) and not _size_of(source))


def _is_output(value: object) -> bool:
    return all(hasattr(value, name) for name in ("subfolder", "filename", "type", "url", "bytes"))


def _harmless(name: str) -> str | None:
    """Return a local file's name without characters that cannot be sent; None if it is empty."""
    return _CONTROLS.sub("_", name) or None


def _shown(text: object) -> str:
    """Return a text on one line, with its control characters escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))


def _check_name(name: str) -> None:
    if not isinstance(name, str):
        raise TypeError(f"a name must be a str, not {name!r:.80}")
    if not name or name in (".", "..") or "/" in name or "\\" in name:
        raise ValueError(f"name: {name!r:.200} has folders in it; use subfolder for them")
    if _CONTROLS.search(name):
        raise ValueError(f"name: {name!r:.200} has control characters in it")


def _decoded(url: str) -> bytes:
    """Return the content of a data URL."""
    head, comma, data = url[5:].partition(",")
    if not comma:
        raise ValueError("a data URL needs a comma before its data")
    content = unquote_to_bytes(data)
    if not head.lower().endswith(";base64"):
        return content
    content = content.translate(None, b" \t\r\n").rstrip(b"=")
    try:
        return base64.b64decode(content + b"=" * (-len(content) % 4), validate=True)
    except ValueError:
        raise ValueError("a data URL whose data is not base64") from None


def _ending(beginning: bytes) -> str:
    if beginning[:4] == b"RIFF":
        return _RIFF.get(beginning[8:12], "")
    if beginning[4:8] == b"ftyp":
        return _ISO.get(beginning[8:12], ".mp4")
    return next((end for start, end in _BEGINNINGS.items() if beginning.startswith(start)), "")


# -- open files, which several jobs may read ----------------------------------------------

#: A lock for each stream with a single position, or for its class if the stream allows no weak
#: references.  It guards the position, and no other lock is taken while it is held.
_locks: Final[WeakKeyDictionary[object, runtime.RLock]] = WeakKeyDictionary()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_locks.clear)


def _lock_of(file: object) -> runtime.RLock:
    lock = runtime.RLock()  # re-entrant: code that interrupts this may send the same file
    try:
        return _locks.setdefault(file, lock)
    except TypeError:
        return _locks.setdefault(type(file), lock)


def _rewindable(file: BinaryIO) -> tuple[BinaryIO, int]:
    """Return the file, or a copy if it can be read only once, and its position.

    Raises:
        ValueError: No data follows the position.
    """
    with _lock_of(file):
        try:
            start, size = _position_of(file), _size_of(file)
        except (OSError, AttributeError):  # a pipe, as a shell's <(...) or standard input
            copy = copy_rest(file)
            if not _size_of(copy):
                raise ValueError(
                    "nothing is left in the file, which can be read only once: make one Upload of "
                    "it, and use that each time"
                ) from None
            return copy, 0
    if start and not size:
        raise ValueError("the file is at its end: rewind it first, file.seek(0)")
    return file, start


def _open_path(path: Path) -> OpenContent:
    stream = open_path(path)
    content = _Plain(stream)
    if content.state is None:
        with stream:
            return _copied(stream)
    content.version = content.state
    return content


def _open(file: BinaryIO, start: int) -> OpenContent:
    """Open the content of an open file from byte ``start`` on.

    Raises:
        FileChanged: The file became shorter.
    """
    if type(file) is io.BytesIO:
        return OpenContent(file.getvalue(), start)  # shares the memory until the file is changed
    with (lock := _lock_of(file)):
        twin = _twin(file)  # flushes, which moves the position of some files
        if twin is not None:
            return _Plain(twin, start, lock)
        before = _position_of(file)
        try:
            file.seek(start)
            size = _size_of(file)  # 0 for a file that does not know it, as in /proc
            copy = _copied(file)
        finally:
            file.seek(before)
    if copy.size < size or (start and not copy.size):
        copy.close()
        raise FileChanged("the file became shorter while it was read")
    return copy


def _copied(file: BinaryIO) -> OpenContent:
    """Copy the rest of a stream."""
    copy = copy_rest(file)
    return OpenContent(copy.getvalue()) if isinstance(copy, io.BytesIO) else _Plain(copy)


def _twin(file: BinaryIO) -> BinaryIO | None:
    """Return a plain file with a new descriptor; None if its bytes may differ from the stream's.

    A stream that decompresses, for example, has a descriptor, too.  Both have one position.
    """
    is_buffered = type(file) in (io.BufferedReader, io.BufferedRandom, TemporaryCopy)
    raw = cast("io.BufferedReader", file).raw if is_buffered else file
    if type(raw) is not io.FileIO or not raw.readable():
        return None
    file.flush()
    with ExitStack() as unless_kept:
        twin = unless_kept.enter_context(open(os.dup(raw.fileno()), "rb", buffering=0))
        # If another thread closed it meanwhile, the descriptor may belong to another file now.
        if _state_of(os.fstat(twin.fileno())) is not None and not raw.closed:
            unless_kept.pop_all()
            return twin
    return None


def _size_of(file: BinaryIO) -> int:
    """Return the number of bytes after the current position; 0 if the file cannot tell."""
    start = _position_of(file)
    file.seek(0, os.SEEK_END)
    size = _position_of(file) - start
    file.seek(start)
    return max(size, 0)


def _position_of(file: BinaryIO) -> int:
    found = file.tell() if hasattr(file, "tell") else file.seek(0, os.SEEK_CUR)
    if not isinstance(found, int):
        raise io.UnsupportedOperation("the file does not tell its position")
    return found


def _check_length(size: int, start: int) -> None:
    """Raise :class:`FileChanged` if nothing is left after ``start``, where there was something."""
    if start and size <= 0:
        raise FileChanged("the file became shorter")


def _state_of(found: os.stat_result) -> tuple[int, ...] | None:
    """Return numbers that change when a plain file does; None for any other file.

    A file without a size (as in ``/proc``) may have other content each time.
    """
    if not stat.S_ISREG(found.st_mode) or not found.st_size:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _read_at(descriptor: int, size: int, at: int, lock: AbstractContextManager[object]) -> bytes:
    """Read at a position, and leave that of the descriptor alone, which ``lock`` guards."""
    if hasattr(os, "pread"):
        return os.pread(descriptor, size, at)
    with lock:
        before = os.lseek(descriptor, 0, os.SEEK_CUR)
        try:
            os.lseek(descriptor, at, os.SEEK_SET)
            return os.read(descriptor, size)
        finally:
            os.lseek(descriptor, before, os.SEEK_SET)


class OpenContent:
    """Content that can be read any number of times: bytes, or a file that was opened.

    Iterate over it for its pieces, which are views of bytes.

    Attributes:
        size: The number of bytes.
        state: Changes when a plain file does; ``None``: it is no plain file.
        version: The state of a file on the disk; ``None``: it is not known without reading.
    """

    state: tuple[int, ...] | None = None
    version: tuple[int, ...] | None = None

    def __init__(self, content: bytes, start: int = 0) -> None:
        self._content = memoryview(content)[start:]
        self.size: int = len(self._content)
        _check_length(self.size, start)

    def __iter__(self) -> Iterator[View]:
        for at in range(0, self.size, CHUNK):
            yield self._content[at : at + CHUNK]

    def has_changed(self) -> bool:
        """Return whether it changed since it was opened."""
        return False

    def close(self) -> None:
        """Let the file go."""


class _Plain(OpenContent):
    """A plain file from a given byte on.

    ``lock`` guards its position, if another object uses that, too.
    Raises :class:`FileChanged` instead of returning its last bytes if it was written to meanwhile.
    """

    def __init__(self, file: BinaryIO, start: int = 0, lock: runtime.RLock | None = None) -> None:
        self._file, self._start = file, start
        self._lock = lock or _lock_of(file)
        try:
            found = os.fstat(file.fileno())
            _check_length(found.st_size - start, start)
        except BaseException:
            self.close()
            raise
        self.state = _state_of(found)
        self.size = found.st_size - start

    def __iter__(self) -> Iterator[View]:
        at, end = self._start, self._start + self.size
        while at < end:
            piece = _read_at(self._file.fileno(), min(CHUNK, end - at), at, self._lock)
            at += len(piece)
            if (at == end or not piece) and self.has_changed():
                raise FileChanged("the file changed while it was read")
            if not piece:
                raise FileChanged("the file is shorter than its size")
            yield piece

    def has_changed(self) -> bool:
        return _state_of(os.fstat(self._file.fileno())) != self.state

    def close(self) -> None:
        self._file.close()
