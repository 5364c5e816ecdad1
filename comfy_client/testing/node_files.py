"""Files and packs with node classes, as ComfyUI loads them from ``custom_nodes``.

A file, or the ``__init__.py`` of a pack's folder, has ``NODE_CLASS_MAPPINGS``, or else a function
``comfy_entrypoint`` that returns a ``ComfyExtension``.  Only what needs no torch can be loaded.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import attrs

from .nodes import node_class
from .v3.adapter import finished, is_v3_class
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
    with offer_comfy_api():
        try:
            module = _imported(place, file)
            classes = dict(_classes_of(module, place.name if is_pack else place.stem))
        except (Exception, SystemExit) as exc:
            raise ImportError(_explained(exc, place, file), path=str(file)) from exc
    web = getattr(module, "WEB_DIRECTORY", None) if is_pack else None
    return LoadedNodes(classes, place if is_pack else None, web if isinstance(web, str) else "")


def _imported(place: Path, file: Path) -> ModuleType:
    """Import a file under the name that ComfyUI gives it, anew each time."""
    is_pack = place != file
    name = str(place).replace(".", "_x_") if is_pack else str(place.with_suffix(""))
    for known in [one for one in sys.modules if one == name or one.startswith(f"{name}.")]:
        del sys.modules[known]
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError("it is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def _classes_of(module: ModuleType, pack: str) -> Iterator[tuple[str, Any]]:
    """Yield the node classes of a module and their names."""
    mappings = getattr(module, "NODE_CLASS_MAPPINGS", None)
    entrypoint = getattr(module, "comfy_entrypoint", None)
    if mappings is not None:
        shown = getattr(module, "NODE_DISPLAY_NAME_MAPPINGS", None) or {}
        for name, cls in mappings.items():
            cls.RELATIVE_PYTHON_MODULE = f"custom_nodes.{pack}"
            yield node_class(_titled(cls, shown[name]) if name in shown else cls, name)
    elif entrypoint is not None:
        extension = entrypoint()
        extension = finished(extension) if inspect.isawaitable(extension) else extension
        if not hasattr(extension, "get_node_list"):
            raise TypeError(f"comfy_entrypoint returns {extension!r}, and no ComfyExtension")
        finished(extension.on_load())
        for cls in finished(extension.get_node_list()):
            cls.RELATIVE_PYTHON_MODULE = f"custom_nodes.{pack}"
            yield node_class(cls)
    else:
        raise ImportError("it has neither NODE_CLASS_MAPPINGS nor comfy_entrypoint")


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
            f"the embedded server has only io, ui and ComfyExtension of comfy_api.latest ({text})"
        )
    if isinstance(exc, ImportError) and not missing and type(exc) is ImportError:
        return text
    return f"{type(exc).__name__}: {text}"
