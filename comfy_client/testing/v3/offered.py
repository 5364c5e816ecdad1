"""The module ``comfy_api.latest``, which files with V3 nodes import.

It is there while such a file is loaded or its nodes run, unless a real one can be imported.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from . import io, ui

_PACKAGE = "comfy_api"
_lock = threading.Lock()  # guards what follows, and is held while these modules appear or go
_users: list[object] = []


class ComfyExtension:
    """The base class of what ``comfy_entrypoint`` of a file returns."""

    async def on_load(self) -> None:
        """Prepare what the nodes need."""

    async def get_node_list(self) -> list[Any]:
        """Return the node classes."""
        raise NotImplementedError


def _made() -> dict[str, ModuleType]:
    """Return the modules by name."""
    package, latest = ModuleType(_PACKAGE), ModuleType(f"{_PACKAGE}.latest")
    package.__path__ = []
    vars(package)["latest"] = latest
    vars(latest).update(ComfyExtension=ComfyExtension, io=io, IO=io, _io=io, ui=ui, UI=ui)
    return {package.__name__: package, latest.__name__: latest}


_OURS = _made()


@contextlib.contextmanager
def offer_comfy_api() -> Iterator[None]:
    """Context manager: let ``import comfy_api.latest`` find a small one, if there is no real one.

    It has what nodes need that work without torch: ``io``, ``ui`` and ``ComfyExtension``.  Import
    your module with such nodes in this block, and pass its classes to ``server.add_node``.
    """
    key = object()
    with _lock:
        if not _users and not _has_real_one():
            sys.modules.update(_OURS)
        _users.append(key)
    try:
        yield
    finally:
        with _lock:
            _users.remove(key)
            for name in () if _users else _OURS:
                if sys.modules.get(name) is _OURS[name]:
                    del sys.modules[name]


def _has_real_one() -> bool:
    """Return whether a real ``comfy_api.latest`` can be imported, which needs torch."""
    with contextlib.suppress(Exception):
        if find_spec(_PACKAGE) is not None:
            importlib.import_module(f"{_PACKAGE}.latest")
            return True
    for name in [one for one in sys.modules if one.partition(".")[0] == _PACKAGE]:
        del sys.modules[name]
    return False
