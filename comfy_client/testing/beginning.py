"""What a server begins with, and returns to: its files, its node classes and its faults.

Files are compared by name alone, and only in ComfyUI's folders, as a given root may have others.
A folder that cannot be read at the start is left alone.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, get_args

import attrs

from .active_faults import OF_ONE_LIFE, ActiveFault, ActiveFaults

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
        faults: The faults that were active, newest first, but none of open sockets.
    """

    nodes: Mapping[str, type]
    packs: Mapping[Path, str]
    faults: Sequence[ActiveFault]
    _root: Path
    _files: frozenset[str]
    _unread: frozenset[str]  # folders

    @classmethod
    def of(
        cls,
        root: Path,
        nodes: Mapping[str, type],
        packs: Mapping[Path, str],
        active: ActiveFaults,
    ) -> Beginning:
        """Return what a server has now."""
        faults = [fault for fault in active.find() if fault.name not in OF_ONE_LIFE]
        files, unread = _entries(root)
        return cls({**nodes}, {**packs}, faults, root, frozenset(files), frozenset(unread))

    def clean(self, keep: Collection[Kept]) -> list[OSError]:
        """Delete files and folders that came later; neither folders to keep nor what links name.

        Return the errors about those that cannot be deleted.
        """
        kept = {_OF[name] for name in keep}
        failures = []
        for name in reversed(_entries(self._root, self._unread)[0]):  # folders after their content
            if name in self._files or name.split(os.sep)[0] in kept:
                continue
            path = self._root / name
            try:
                (os.rmdir if _is_folder(path) else os.unlink)(path)
            except FileNotFoundError:
                pass  # somebody else has deleted it
            except OSError as exc:
                failures.append(exc)
        return failures


def checked_kept(keep: Any) -> Collection[Kept]:
    """Return the argument unchanged; raise ValueError unless it is a collection of ``Kept``."""
    known = get_args(Kept)
    is_list = isinstance(keep, Collection) and not isinstance(keep, str | Mapping)
    if not is_list or not all(name in known for name in keep):
        raise ValueError(f"keep is a list of {' and '.join(known)}, not {keep!r:.100}")
    found: Collection[Kept] = keep
    return found


def _entries(root: Path, left_out: Collection[str] = ()) -> tuple[list[str], list[str]]:
    """Return what is in ComfyUI's folders, and the folders that cannot be read.

    Both are paths below the root, folders before what is in them; ``left_out`` are not looked into.
    """
    found: list[str] = []
    unread: list[str] = []
    waiting = [name for name in _FOLDERS if _is_folder(root / name)]
    while waiting:
        folder = waiting.pop()
        if folder in left_out:
            continue
        try:
            with os.scandir(root / folder) as entries:
                for entry in entries:
                    name = os.path.join(folder, entry.name)
                    found.append(name)
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(name)
        except OSError:
            unread.append(folder)
    return found, unread


def _is_folder(path: Path) -> bool:
    """Return whether a path is a folder, and no link to one."""
    return os.path.isdir(path) and not os.path.islink(path)
