"""The folders whose files an agent may use, and no others."""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Final

from ..nearest import nearest
from .answers import CallRefused

#: The most workflows that are listed.
MOST_WORKFLOWS: Final = 200
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
        for folder in self.folders:
            real = self._real(folder / path)
            if real is not None:
                return real
        raise CallRefused(
            "file_not_allowed",
            f"{path!r:.200} is no file in the folders of this server",
            f"use a file in {', '.join(map(str, self.folders)) or 'none: no folder was given'}",
        )

    def _real(self, path: Path) -> Path | None:
        """Resolve the links of a path; None unless it is a plain file in one of the folders.

        Use the answer and not the path, whose links may change meanwhile.
        """
        try:
            real = path.resolve(strict=True)
            return real if real.is_file() and any(map(real.is_relative_to, self.folders)) else None
        except (OSError, ValueError, RuntimeError):  # no such file, a null byte, a circle of links
            return None
