"""The folders whose files an agent may use, and no others."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Final

from ..nearest import nearest
from .answers import CallRefused

#: The most workflows that are listed, and the most other files.
MOST_WORKFLOWS: Final = 200
MOST_LISTED: Final = 50
#: The most entries of folders that are looked at to find them.
_MOST_ENTRIES: Final = 10_000


class Roots:
    """Folders, named when the server starts.

    Links are resolved before a path is compared with the folders, so none leads out of them.
    """

    def __init__(self, folders: Iterable[str | os.PathLike[str]]) -> None:
        self.folders: tuple[Path, ...] = tuple(Path(one).resolve(strict=True) for one in folders)

    def workflows(self) -> dict[str, Path]:
        """Return the JSON files of the folders and of their subfolders, by name.

        A name that two folders have is that of the first.
        """
        found: dict[str, Path] = {}
        for folder in self.folders:
            for pattern in ("*.json", "*/*.json"):
                for path in sorted(islice(folder.glob(pattern), _MOST_ENTRIES)):
                    real = self._real(path)
                    if real is not None:
                        found.setdefault(path.relative_to(folder).as_posix(), real)
        return dict(islice(found.items(), MOST_WORKFLOWS))

    def workflow(self, name: str) -> Path:
        """Return the path of a workflow by its name.

        Raises:
            CallRefused: The folders have no such workflow.
        """
        for folder in self.folders:
            for path in (folder / name, folder / f"{name}.json"):
                if path.suffix == ".json" and (real := self._real(path)) is not None:
                    return real
        near = nearest(name, list(self.workflows()), 3)
        hint = f"; nearest: {', '.join(map(repr, near))}" if near else ""
        raise CallRefused(
            "unknown_workflow",
            f"the folders have no workflow {name!r:.200}{hint}",
            "inputs() without arguments lists the workflows; API JSON works, too",
        )

    def file(self, path: str) -> Path:
        """Return a file of the folders, by its path: absolute, or relative to one of them.

        Raises:
            CallRefused: There is no such file in the folders.
        """
        real = self._first(path)
        if real is not None:
            return real
        files = self.files() or []
        near = nearest(path, files, 3)
        hint = f"; nearest: {', '.join(map(repr, near))}" if near else ""
        step = "use one of data.files; upload of another folder lists its files"
        raise CallRefused(
            "file_not_allowed",
            f"{path!r:.200} is no file in the folders of this server{hint}",
            step if self.folders else "tell the user: this server was started without folders",
            {"files": files},
        )

    def files(self, path: str = ".") -> list[str] | None:
        """Return the newest files of a folder and its subfolders, named as for :meth:`file`.

        ``.`` stands for all folders; None if ``path`` is no folder in them.  JSON and hidden files
        are left out.
        """
        parents = [self._real(folder / path, Path.is_dir) for folder in self.folders]
        inside = dict.fromkeys(filter(None, parents))
        found = {
            real: real.stat().st_mtime
            for parent in inside
            for pattern in ("*", "*/*")
            for one in islice(parent.glob(pattern), _MOST_ENTRIES)
            if not _is_left_out(one.relative_to(parent)) and (real := self._real(one)) is not None
        }
        newest = sorted(found, key=lambda real: found[real], reverse=True)
        return list(map(self._name, newest[:MOST_LISTED])) if inside else None

    def _name(self, real: Path) -> str:
        """Return the short name of a file of the folders, or its path if another one has that."""
        [folder, *_] = filter(real.is_relative_to, self.folders)
        name = real.relative_to(folder).as_posix()
        return name if self._first(name) == real else str(real)

    def _first(self, path: str) -> Path | None:
        """Return the file of a path in the first folder that has one."""
        return next(filter(None, (self._real(folder / path) for folder in self.folders)), None)

    @contextmanager
    def opened(self, real: Path) -> Iterator[BinaryIO]:
        """Context manager: open a file that these methods have found.

        Raises:
            CallRefused: A folder above it, or the file, has become a link meanwhile.
        """
        with real.open("rb") as file:
            opened = os.fstat(file.fileno())
            if self._real(real) != real or not os.path.samestat(opened, real.lstat()):
                said = f"{os.fspath(real)!r:.200} was replaced while it was opened"
                raise CallRefused("file_not_allowed", said, "call it again, or tell the user")
            yield file

    def _real(self, path: Path, is_wanted: Callable[[Path], bool] = Path.is_file) -> Path | None:
        """Resolve the links of a path; None unless it is a plain file in one of the folders.

        Open the answer with :meth:`opened`, as links may change meanwhile.
        """
        try:
            real = path.resolve(strict=True)
            return real if is_wanted(real) and any(map(real.is_relative_to, self.folders)) else None
        except (OSError, ValueError, RuntimeError):  # no such file, a null byte, a circle of links
            return None


def _is_left_out(path: Path) -> bool:
    return path.suffix.lower() == ".json" or any(part.startswith(".") for part in path.parts)
