"""Node classes that a test declares by a definition: what they return, raise, write and take."""

from __future__ import annotations

import mimetypes
import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Final

from .active_faults import check_seconds
from .definitions import read_definitions
from .images import Pictures, decoded_picture
from .node_api import wait
from .nodes import definition_of
from .stubs import Stub

_MODELS: Final = (".glb", ".gltf", ".obj", ".fbx", ".stl", ".ply")
#: What a definition may leave out.
_LEAST: Final[Mapping[str, Any]] = MappingProxyType(
    {"input": {}, "output": [], "output_node": True}
)


class DeclaredNode(Stub):
    """The base class of the classes that :func:`declare_node` makes."""

    returns: ClassVar[Sequence[Any]]
    error: ClassVar[BaseException | None]
    seconds: ClassVar[float]
    files: ClassVar[Mapping[str, bytes]]

    @classmethod
    def INPUT_TYPES(cls) -> Mapping[str, Any]:
        """Return the inputs as in the definition."""
        inputs: Mapping[str, Any] = cls.definition["input"]
        return inputs

    def run(self, **given: Any) -> Any:
        """Take the time, and raise the error, or return the values and write the files."""
        wait(self.seconds)
        if self.error is not None:
            raise self.error.with_traceback(None)  # it is raised for each prompt
        made = super().run(**given)
        shown, outputs = (made["ui"], made["result"]) if isinstance(made, dict) else ({}, made)
        chosen = [_output(value) for value in self.returns[: len(outputs)]]
        both = zip(chosen, outputs, strict=False)
        result = (
            *(mine if mine is not None else own for mine, own in both),
            *outputs[len(chosen) :],
        )
        return {"ui": {**shown, **self._written()}, "result": result}

    def _written(self) -> dict[str, Any]:
        """Write the files; return what a client is told of them."""
        told: dict[str, list[Any]] = {}
        for name, data in self.files.items():
            stem, ending = os.path.splitext(name)
            folder, base, number, subfolder = self.folders.save_target("output", stem, 0, 0)
            file = f"{base}_{number:05}_{ending}"
            (folder / file).write_bytes(data)
            entry = {"filename": file, "subfolder": subfolder, "type": "output"}
            kind = (mimetypes.guess_type(name)[0] or "").partition("/")[0]
            key = {"image": "images", "video": "images", "audio": "audio"}.get(kind, "files")
            told.setdefault("3d" if ending.lower() in _MODELS else key, []).append(entry)
            if kind == "video":
                told["animated"] = [True]
        return told


def declare_node(
    name: str,
    definition: Mapping[str, Any] | None = None,
    *,
    returns: Sequence[Any] = (),
    error: str | BaseException | None = None,
    seconds: float = 0.0,
    files: Mapping[str, bytes] | None = None,
) -> type:
    """Return a node class for ``server.add_node``, which has a definition in place of code.

    Example::

        from comfy_client.testing import ComfyServer, declare_node

        with ComfyServer() as server:
            server.add_node(declare_node("Caption", {"output": ["STRING"]}, returns=["a cat"]))

    Args:
        name: The name of the class.
        definition: What ``GET /object_info`` has of it; ``None`` or what it lacks: no inputs, no
            outputs, an output node.
        returns: The outputs, in their order; the bytes of a picture for an ``IMAGE``.  ``None``, or
            one that is missing, stands for a value by the type of the output.
        error: What its nodes raise: an exception, or the message of a RuntimeError.
        seconds: How many seconds they take.
        files: What they write into the output folder, by name: ``"a.glb"`` is written as
            ``a_00001_.glb``.  Clients are told of it by its kind.

    Raises:
        ValueError: The definition is none, or another argument is invalid.
    """
    found = read_definitions({name: {**_LEAST, **(definition or {})}})[name]
    check_seconds(seconds)
    if len(returns) > len(found["output"]):
        raise ValueError(f"{name} has {len(found['output'])} outputs, not {len(returns)}")
    if not isinstance(error, str | BaseException | None):
        raise ValueError(f"an error is a message or an exception, not {error!r:.100}")
    for file, data in (files or {}).items():
        if not isinstance(data, bytes) or not _is_plain(file):
            raise ValueError(f"files are bytes by names without folders, not {file!r:.100}")
    for kind, value in zip(found["output"], returns, strict=False):
        if kind == "IMAGE" and value is not None:
            _output(value)
    members = {
        "definition": found,
        "returns": tuple(returns),
        "error": RuntimeError(error) if isinstance(error, str) else error,
        "seconds": seconds,
        "files": dict(files or {}),
        "RETURN_TYPES": found["output"],
        "OUTPUT_NODE": found["output_node"] is True,
        "INPUT_IS_LIST": found.get("is_input_list") is True,
    }
    if is_list := found.get("output_is_list"):
        members["OUTPUT_IS_LIST"] = is_list
    made: type[DeclaredNode] = type(name, (DeclaredNode,), members)
    made.definition = {**definition_of(name, made), **found}
    return made


def _is_plain(name: Any) -> bool:
    return isinstance(name, str) and os.path.basename(name) == name and name.strip(". ") == name


def _output(value: Any) -> Any:
    """Return an output for other nodes: the bytes of a picture are a batch of it."""
    return Pictures.of([decoded_picture(value)]) if isinstance(value, bytes) else value
