"""The module ``comfy_api.latest``, which files with V3 nodes import.

It is there while such a file is loaded or its nodes run, unless a real one can be imported.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import threading
from collections.abc import Iterator
from importlib.machinery import PathFinder
from importlib.util import find_spec
from types import ModuleType

from . import io, latest, ui

_PACKAGE = "comfy_api"
_LATEST = f"{_PACKAGE}.latest"
_NAMES = ("ComfyAPI", "ComfyAPISync", "ComfyExtension", "Input", "InputImpl", "Types")
_lock = threading.Lock()  # guards what follows, and is held while these modules appear or go
_users: list[object] = []
_hidden: dict[str, ModuleType] = {}  # modules of the user's that ours hide
_failed: set[str | None] = set()  # the files of real ones that cannot be imported


def _made() -> dict[str, ModuleType]:
    """Return the modules by name."""
    own = {name: value for name, value in vars(latest).items() if name in _NAMES}
    own |= {"io": io, "IO": io, "_io": io, "ui": ui, "UI": ui, "_ui": ui}
    found: dict[str, ModuleType] = {}
    for name in (_PACKAGE, _LATEST, f"{_PACKAGE}.v0_0_2"):
        module = found[name] = ModuleType(name)
        module.__path__ = []
        if name != _PACKAGE:
            vars(module).update(own)
            vars(found[_PACKAGE])[name.rpartition(".")[2]] = module
    for name, members in latest.OLDER.items():
        module = found[f"{_PACKAGE}.{name}"] = ModuleType(f"{_PACKAGE}.{name}")
        vars(module).update(members)
        vars(found[_PACKAGE])[name] = module
    return {**found, f"{_LATEST}._io": io, f"{_LATEST}._ui": ui}


_OURS = _made()


@contextlib.contextmanager
def offer_comfy_api() -> Iterator[None]:
    """Context manager: let ``import comfy_api.latest`` find a small one, if there is no real one.

    It has what nodes need that work without torch.  Import your module with such nodes in this
    block, and pass its classes to ``server.add_node``.  Your own modules of that name, if there
    are any, are back after it.
    """
    key = object()
    with _lock:
        if not _users and not _has_real_one():
            _hidden.update({name: sys.modules[name] for name in _OURS if name in sys.modules})
            sys.modules.update(_OURS)
        _users.append(key)
    try:
        yield
    finally:
        with _lock:
            _users.remove(key)
            if not _users:
                _withdraw()


def _withdraw() -> None:
    """Remove our modules, and put back what they hid."""
    for name, module in _OURS.items():
        if sys.modules.get(name) is module:
            del sys.modules[name]
            if name in _hidden:
                sys.modules[name] = _hidden[name]
    _hidden.clear()


def _has_real_one() -> bool:
    """Return whether there is a real ``comfy_api.latest``, which needs torch; import it if new."""
    if _LATEST in sys.modules:
        return True
    with contextlib.suppress(ValueError):  # of a module that was made by hand
        package = find_spec(_PACKAGE)
        inside = package and PathFinder.find_spec(_LATEST, package.submodule_search_locations or [])
        if inside and inside.origin not in _failed:
            before = _modules()
            with contextlib.suppress(Exception, SystemExit):
                importlib.import_module(_LATEST)
                return True
            _failed.add(inside.origin)
            for name in _modules().keys() - before.keys():
                del sys.modules[name]
    return False


def _modules() -> dict[str, ModuleType]:
    """Return the loaded modules of the package."""
    return {
        name: module
        for name, module in [*sys.modules.items()]
        if name.partition(".")[0] == _PACKAGE
    }
