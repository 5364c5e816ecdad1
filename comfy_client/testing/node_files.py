"""Files and packs with node classes, as ComfyUI loads them from ``custom_nodes``.

A file, or the ``__init__.py`` of a pack's folder, has ``NODE_CLASS_MAPPINGS``, or else a function
``comfy_entrypoint`` that returns a ``ComfyExtension``.  Only what needs no torch can be loaded.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import json
import os
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import attrs

from .nodes import node_class
from .v3.adapter import finished, is_v3_class
from .v3.latest import registered
from .v3.offered import offer_comfy_api

#: What comes with torch, and what comes with ComfyUI, which needs torch.
_OF_TORCH: Final = ("torch", "torchaudio", "torchvision", "torchsde")
_OF_COMFYUI: Final = (
    *("comfy", "comfy_api", "comfy_execution", "comfy_extras", "execution", "folder_paths"),
    *("latent_preview", "node_helpers", "nodes", "server"),
)


@attrs.frozen
class LoadedNodes:
    """The nodes and the page files of a file or a pack.

    Attributes:
        classes: The node classes as the executor runs them, by name.
        folder: The folder of a pack; ``None`` for a file.
        web: Its folder with scripts for the page, as it names it; empty: none.
    """

    classes: dict[str, Any]
    folder: Path | None
    web: str


def load(path: str | os.PathLike[str]) -> LoadedNodes:
    """Load the node classes of a file, or of a pack's folder; its code runs in this process.

    Raises:
        ImportError: It cannot be loaded; the message says where and why in one line.
    """
    place = Path(path).absolute()
    is_pack = place.is_dir()
    file = place / "__init__.py" if is_pack else place
    if not file.is_file():
        raise ImportError(f"{path}: there is no {'__init__.py' if is_pack else 'such file'}")
    try:
        name = _module_name(place, file)
        with offer_comfy_api(), registered() as replaced, _loaded_anew(name):
            module = _imported(name, file)
            classes = dict(_classes_of(module, place.name if is_pack else place.stem))
            _add_replacements(classes, [one.as_dict() for one in replaced])
            web = _attribute(module, "WEB_DIRECTORY", str | os.PathLike, "a path") or ""
    except (Exception, SystemExit) as exc:
        raise ImportError(_explained(exc, place, file), path=str(file)) from exc
    return LoadedNodes(classes, place if is_pack else None, os.fspath(web))


def _module_name(place: Path, file: Path) -> str:
    """Return the name that ComfyUI gives to the module of a file or pack."""
    return str(place.with_suffix("")) if place == file else str(place).replace(".", "_x_")


@contextlib.contextmanager
def _loaded_anew(name: str) -> Iterator[None]:
    """Context manager: forget a module and those below it; have them back if the block raises."""
    before = _take_modules(name)
    try:
        yield
    except BaseException:
        _take_modules(name)
        sys.modules.update(before)
        raise


def _take_modules(name: str) -> dict[str, ModuleType]:
    """Remove a module and those below it from the loaded ones, and return them."""
    known = [one for one in list(sys.modules) if one == name or one.startswith(f"{name}.")]
    return {one: sys.modules.pop(one) for one in known}


def _imported(name: str, file: Path) -> ModuleType:
    """Import a file as a module of this name."""
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError("it is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _classes_of(module: ModuleType, pack: str) -> Iterator[tuple[str, Any]]:
    """Yield the node classes of a module and their names."""
    named = _attribute(module, "NODE_CLASS_MAPPINGS", Mapping, "a dict")
    titles = _attribute(module, "NODE_DISPLAY_NAME_MAPPINGS", Mapping, "a dict") or {}
    entrypoint = _attribute(module, "comfy_entrypoint", Callable, "a function")
    if named is not None:
        for name, cls in named.items():
            title = titles.get(name, "")
            _check(name, str, "a string", "a name in NODE_CLASS_MAPPINGS")
            _check(title, str, "a string", f"NODE_DISPLAY_NAME_MAPPINGS[{name!r:.100}]")
            yield _of_pack(cls, pack, f"NODE_CLASS_MAPPINGS[{name!r:.100}]", name, title)
    elif entrypoint is not None:
        extension = entrypoint()
        extension = finished(extension) if inspect.isawaitable(extension) else extension
        base = importlib.import_module("comfy_api.latest").ComfyExtension
        _check(extension, base, "a ComfyExtension", "the result of comfy_entrypoint")
        _awaited(extension.on_load(), "on_load")
        classes = _awaited(extension.get_node_list(), "get_node_list")
        _check(classes, list, "a list", "the result of get_node_list")
        for cls in classes:
            yield _of_pack(cls, pack, "an item of get_node_list")
    else:
        raise ImportError("it has neither NODE_CLASS_MAPPINGS nor comfy_entrypoint")


def _of_pack(
    cls: Any, pack: str, where: str, name: str | None = None, title: str = ""
) -> tuple[str, Any]:
    """Return the name of a pack's class, and the class as the executor runs it."""
    _check(cls, type, "a class", where)
    with contextlib.suppress(TypeError):  # of a class of Python's own, which is no node
        cls.RELATIVE_PYTHON_MODULE = f"custom_nodes.{pack}"
    return node_class(_titled(cls, title) if title else cls, name)


def _attribute(module: ModuleType, name: str, kind: Any, what: str) -> Any:
    """Return an attribute of a module, or None; raise ImportError if it is of another kind."""
    value = getattr(module, name, None)
    if value is not None:
        _check(value, kind, what, name)
    return value


def _check(value: Any, kind: Any, what: str, where: str) -> None:
    if not isinstance(value, kind):
        raise ImportError(f"{where} is {value!r:.100}, not {what}")


def _awaited(result: Any, where: str) -> Any:
    """Return what a coroutine of an extension returns."""
    _check(result, Awaitable, "a coroutine", f"the result of {where}")
    return finished(result)


def _add_replacements(classes: Mapping[str, Any], replacements: list[dict[str, Any]]) -> None:
    """Let a class have the replacements of its file, which come and go with it."""
    if replacements:
        if not classes:
            raise ImportError("it registers replacements, but has no node class")
        next(iter(classes.values())).REPLACES = json.loads(json.dumps(replacements))


def _titled(cls: Any, title: str) -> Any:
    """Return a class that is shown under a title; those of V3 have one in their schema."""
    if is_v3_class(cls):
        return cls
    own = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "DISPLAY_NAME": title}
    return type(cls.__name__, (cls,), own)


# -- errors ------------------------------------------------------------------------------


def _explained(exc: BaseException, place: Path, file: Path) -> str:
    """Return in one line where a file failed, and why."""
    where, line = file, 0
    if isinstance(exc, SyntaxError) and exc.filename:
        where, line = Path(exc.filename), exc.lineno or 0
    else:
        for frame in traceback.extract_tb(exc.__traceback__):
            if Path(frame.filename).is_relative_to(place):
                where, line = Path(frame.filename), frame.lineno or 0
    shown = where.relative_to(place.parent) if where.is_relative_to(place.parent) else where
    return f"{shown}{f':{line}' if line else ''}: {_reason(exc)}"


def _reason(exc: BaseException) -> str:
    text = " ".join((exc.msg if isinstance(exc, SyntaxError) else str(exc)).split())
    missing = exc.name or "" if isinstance(exc, ImportError) else ""
    root = missing.partition(".")[0]
    if root in _OF_TORCH:
        return (
            f"import of {missing!r} failed: nodes that need torch do not run in the embedded "
            "server; object_info= (serve --object-info) has stand-ins for them"
        )
    if root in _OF_COMFYUI:
        return (
            f"import of {missing!r} failed: it is a part of ComfyUI, which needs torch; of it, "
            f"the embedded server has only comfy_api.latest without tensors ({text})"
        )
    if isinstance(exc, ImportError) and not missing and type(exc) is ImportError:
        return text
    return f"{type(exc).__name__}: {text}"
