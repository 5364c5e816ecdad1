"""What a server begins with, and returns to: its files, its node classes and its faults.

Files are compared by name alone, and only in ComfyUI's folders, as a given root may have others.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, get_args

import attrs

from .active_faults import ActiveFault, ActiveFaults

#: What a reset may leave as it is: model files, or node classes.
Kept = Literal["models", "nodes"]

_FOLDERS: Final = ("custom_nodes", "input", "models", "output", "temp", "user", "web")
#: The folders that belong to each of :data:`Kept`.
_OF: Final[Mapping[str, str]] = {"models": "models", "nodes": "custom_nodes"}


@attrs.frozen
class Beginning:
    """The files, node classes and faults of a server at one time.

    Attributes:
        nodes: The classes that a user had added, by name.
        packs: The packs that a user had loaded: what each calls its folder for the page.
        faults: The faults that were active, the newest first.
    """

    nodes: Mapping[str, type]
    packs: Mapping[Path, str]
    faults: Sequence[ActiveFault]
    _root: Path
    _files: frozenset[str]

    @classmethod
    def of(
        cls,
        root: Path,
        nodes: Mapping[str, type],
        packs: Mapping[Path, str],
        active: ActiveFaults,
    ) -> Beginning:
        """Return what a server has now; faults of open sockets and the like are left out."""
        faults = [fault for fault in active.find() if fault.undo is None]
        return cls({**nodes}, {**packs}, faults, root, frozenset(_entries(root)))

    def clean(self, keep: Collection[Kept]) -> None:
        """Delete files and folders that came later; neither folders to keep nor what links name.

        Raises:
            OSError: One cannot be deleted.
        """
        kept = {_OF[name] for name in keep}
        for name in [*_entries(self._root)]:
            path = self._root / name
            if name in self._files or name.split(os.sep)[0] in kept or not os.path.lexists(path):
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def checked_kept(keep: Any) -> Collection[Kept]:
    """Return the argument unchanged; raise ValueError unless it is a collection of ``Kept``."""
    known = get_args(Kept)
    if isinstance(keep, str) or not isinstance(keep, Collection) or not {*keep} <= {*known}:
        raise ValueError(f"keep is a list of {' and '.join(known)}, not {keep!r:.100}")
    return keep


def _entries(root: Path) -> Iterator[str]:
    """Yield what is in ComfyUI's folders: paths below the root, folders before what is in them."""
    waiting = [*_FOLDERS]
    while waiting:
        folder = waiting.pop()
        path = root / folder
        if path.is_symlink() or not path.is_dir():
            continue
        with os.scandir(path) as found:
            for entry in found:
                name = os.path.join(folder, entry.name)
                yield name
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(name)
