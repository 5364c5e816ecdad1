"""Local files with content from a server.

Names from a server are not trusted: only the last component is used, and made safe for every
system, so nothing is written outside the caller's folder.  A file appears under its final name
only when it is complete.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final, Literal

from ..replacing import discard, replace
from .deadline import ended_by

IfExists = Literal["number", "skip", "overwrite"]

#: The longest result of :func:`safe_name` in bytes: file systems allow 255, and a number may be
#: added.
MAX_NAME: Final = 200

#: A path of this length may be too long for Windows while its file has a temporary name.
_LONG_PATH: Final = 236

# Control characters, halves of surrogate pairs (which file systems refuse), line ends, and
# invisible characters: marks that change the writing direction show "gnp.exe" as "exe.png".
_INVISIBLE: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# Two of these are needed to join or separate letters in many scripts, and parts of emoji.
_JOINERS: Final = "\u200c\u200d"
_FORBIDDEN: Final = r'[<>:"|?*]'
# Windows opens a device by these names, whatever the extension.
_DEVICE: Final = r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9\u00b9\u00b2\u00b3]) *(\.|$)"


def safe_name(name: str) -> str:
    r"""Return a file name for a name that a server sent.

    It is the component after the last ``/`` or ``\``, without leading dots, trailing dots or
    spaces, control and other invisible characters, and characters that Windows forbids.  It has
    at most :data:`MAX_NAME` bytes and keeps its extension.  If nothing is left, it is ``file``.
    """
    name = re.split(r"[/\\]", name)[-1]
    name = "".join(c for c in name if c in _JOINERS or unicodedata.category(c) not in _INVISIBLE)
    name = re.sub(_FORBIDDEN, "_", name)
    name = _shortened(name.lstrip(". ").rstrip(". "))
    if re.match(_DEVICE, name, re.IGNORECASE):
        name = f"_{name}"
    return name or "file"


def _shortened(name: str) -> str:
    if len(name.encode()) <= MAX_NAME:
        return name
    stem, suffix = os.path.splitext(name)
    if len(suffix.encode()) > MAX_NAME // 4:
        stem, suffix = name, ""
    # Leave one byte for the "_" before a device name.
    room = MAX_NAME - 1 - len(suffix.encode())
    return stem.encode()[:room].decode("utf-8", "ignore").rstrip(". ") + suffix


def distinct_names(names: Iterable[str], is_folder: Callable[[str], bool]) -> list[str]:
    """Return a :func:`safe_name` for each name, with a number if it is taken.

    A name is taken if a folder has it, or if some file system treats an earlier name as equal:
    ignoring case (Windows, macOS) or with other code points (macOS).
    """
    taken: set[str] = set()
    numbers: dict[str, int] = {}
    found = []
    for wanted in names:
        name = safe_name(wanted)
        stem, ending = os.path.splitext(name)
        first = key = folded(name)
        while key in taken or is_folder(name):
            # Continue from the last number, as a server may give thousands of files one name.
            number = numbers[first] = numbers.get(first, 0) + 1
            name = f"{stem} ({number}){ending}"
            key = folded(name)
        taken.add(key)
        found.append(name)
    return found


def folded(name: str) -> str:
    """Return a key that is equal for names that some file system treats as equal."""
    # Fold both ways: upper case alone misses the capital sharp s, lower case the dotless i.
    key = unicodedata.normalize("NFD", name).casefold().upper()
    return unicodedata.normalize("NFD", key)


def rule_for(if_exists: IfExists | None, default: IfExists) -> IfExists:
    """Return ``if_exists``, or ``default`` if it is None; raise ValueError for an unknown rule."""
    if if_exists not in (None, "number", "skip", "overwrite"):
        raise ValueError(f"if_exists: {if_exists!r} is not 'number', 'skip' or 'overwrite'")
    return if_exists or default


def path_text(path: str | os.PathLike[str]) -> str:
    """Return a path as text; raise ``TypeError`` for any other value."""
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"a path must be a string or a Path, not {path!r:.80}")
    return os.fspath(path)


def target_path(
    path: str | os.PathLike[str], name: str, if_exists: IfExists | None = None
) -> tuple[Path, IfExists]:
    """Return the path to write to, and the rule for a file that exists there.

    Args:
        path: A folder, when it ends in a separator (which a ``Path`` drops) or is an existing
            one; else the exact file.
        name: The server's name for the file; within a folder, its :func:`safe_name` is used.
        if_exists: ``None`` means ``"number"`` in a folder and ``"overwrite"`` for an exact file.

    Raises:
        ValueError: ``if_exists`` is none of ``number``, ``skip`` and ``overwrite``.
    """
    text = path_text(path)
    target = Path(text)
    if text.endswith(("/", os.sep)) or target.is_dir():
        return target / safe_name(name), rule_for(if_exists, "number")
    return target, rule_for(if_exists, "overwrite")


def write_atomically(
    target: Path,
    chunks: Iterable[bytes | memoryview],
    *,
    if_exists: IfExists,
    through: bool = False,
) -> Path:
    """Write a file that appears only when it is complete, and return its path.

    Missing folders are created.  If the name is taken, ``"number"`` writes ``name (1).png``,
    ``"skip"`` keeps the old file (and reads no ``chunks`` if it was there from the start), and
    ``"overwrite"`` replaces it (a symbolic link itself, not its target).  If two writers use the
    same name at the same time, each gets its own number, or the first file stays.

    ``through`` is for names from the user, never for names from a server: with ``"overwrite"``,
    ``chunks`` are written into a pipe or a device instead of replacing it.

    Errors of ``chunks`` or of the file system are raised, and leave no file behind.
    """
    if if_exists == "skip" and os.path.lexists(target):
        return target
    if if_exists == "overwrite" and target.is_dir():
        raise IsADirectoryError(f"{os.fspath(target)!r} is a folder")
    if through and if_exists == "overwrite" and _is_stream(target):
        with target.open("ab") as stream:  # /dev/stdout may be a file that is not empty
            stream.writelines(chunks)
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    import secrets  # only needed to write a file

    part = target.parent / f".{secrets.token_hex(8)}.part"

    def drop() -> None:
        with contextlib.suppress(OSError):  # Windows cannot remove an open file
            part.unlink()

    try:
        with ended_by(drop), part.open("xb") as file:
            file.writelines(chunks)
        if if_exists == "overwrite":
            replace(part, target)
            return target
        for candidate in _numbered(target):
            if place(part, candidate):
                return candidate
            if if_exists == "skip":
                return target
        raise AssertionError("numbers do not end")
    except OSError as exc:
        if exc.filename == str(part):  # the caller does not know that name
            exc.filename = os.fspath(target)
            del exc.filename2  # or the text would be "a.png -> a.png"
        if _is_too_long(target, exc):
            text = "the path is too long for Windows: shorten it, or enable long paths there"
            raise OSError(errno.ENAMETOOLONG, text, os.fspath(target)) from exc
        raise
    finally:
        discard(part)


def _is_too_long(target: Path, error: OSError) -> bool:
    """Return whether Windows refused a path for its length: it says that there is no such path."""
    is_refused = getattr(error, "winerror", None) in (2, 3, 206)
    return is_refused and len(os.path.abspath(target)) >= _LONG_PATH


def _is_stream(target: Path) -> bool:
    """Return whether a path is a pipe, a device, or a system's link to an open file.

    Such a link, like ``/dev/stdout`` or ``/dev/fd/1``, may lead to an ordinary file.
    """
    try:
        mode = target.stat().st_mode
    except OSError:
        return False
    if target.is_symlink():
        folder = target.parent.resolve()
        if folder == Path("/dev") or folder.parts[:2] == ("/", "proc"):
            return True
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _numbered(target: Path) -> Iterator[Path]:
    def numbered(number: int) -> Path:
        return target.with_name(f"{target.stem} ({number}){target.suffix}")

    yield target
    taken, free = 0, 1
    while True:
        # Search by doubling and halving, as trying 10,000 names in turn would be slow.
        while os.path.lexists(numbered(free)):
            taken, free = free, 2 * free
        while free - taken > 1:
            middle = (taken + free) // 2
            taken, free = (middle, free) if os.path.lexists(numbered(middle)) else (taken, middle)
        yield numbered(free)
        taken, free = free, free + 1  # another process was faster


def place(part: Path, target: Path) -> bool:
    """Give a complete file its final name, unless that is taken; return whether it was free."""
    try:
        os.link(part, target)
    except FileExistsError:
        return False
    except OSError:
        # Without hard links (FAT, some network drives), claim the name, then fill the file.
        try:
            claim = target.open("xb")
        except FileExistsError:
            return False
        try:
            claim.close()
            replace(part, target)
        except BaseException:
            discard(target)
            raise
    return True
