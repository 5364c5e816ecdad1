"""The nodes of an embedded server: some of ComfyUI's, a simulated sampler, and those you add.

A node is a class that follows ComfyUI's V1 conventions::

    class Blur:
        RETURN_TYPES = ("IMAGE",)
        FUNCTION = "run"

        @classmethod
        def INPUT_TYPES(cls):
            return {"required": {"image": ("IMAGE",)}}

        def run(self, image):
            return ([picture.filter(ImageFilter.BLUR) for picture in image],)

    server.add_node(Blur)

An ``IMAGE`` is a sequence of Pillow images: a :class:`~comfy_client.testing.Pictures` from the
server's own nodes, or what your nodes returned.  ``OUTPUT_NODE``, ``RETURN_NAMES``,
``INPUT_IS_LIST``, ``OUTPUT_IS_LIST``, ``IS_CHANGED``, ``VALIDATE_INPUTS``, hidden inputs,
coroutines (one after the other), lazy inputs (``{"lazy": True}`` and ``check_lazy_status``)
and expansion work as in ComfyUI, and ``HAS_INTERMEDIATE_OUTPUT`` with
``version="new"``.  A node expands when it returns ``{"expand": nodes, "result": outputs}``: nodes
as in a workflow, whose ids begin with its own (hidden ``UNIQUE_ID``), and outputs that may be
links to them.
"""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from ..workflow.validate import Check
from .builtin_nodes import CLASSES, Simulated
from .folders import Folders

_NAMED = 40  # the most classes in a hint
_SIMULATED = "Simulated by comfy_client.testing: no model is run."


class NodeRegistry:
    """The node classes of one server, and their definitions."""

    def __init__(self, folders: Folders, settings: Mapping[str, Any], *, newest: bool) -> None:
        name = "definitions_0.28" if newest else "definitions"
        self._newest = newest
        self._definitions: dict[str, Any] = shipped(name)
        self._folders = folders
        #: The command line of the server.
        self.argv: list[str] = ["main.py", "--cpu"]
        if settings.get("previews"):
            self.argv += ["--preview-method", "auto"]
        bound = {"folders": folders, **settings}
        self.classes: dict[str, Any] = {
            name: type(name, (CLASSES[name],), bound) for name in self._definitions
        }
        #: How often a class replaced another, whose cached outputs are invalid then.
        self.replaced: int = 0
        for name, cls in self.classes.items():
            cls.OUTPUT_NODE = self._definitions[name]["output_node"]
            cls.RETURN_TYPES = self._definitions[name]["output"]
            if issubclass(cls, Simulated):
                self._definitions[name]["description"] = _SIMULATED

    def add(self, name: str, cls: type) -> None:
        """Add a user's node class, or replace the class that already has this name."""
        is_known = name in self.classes
        self.classes = {**self.classes, name: cls}  # other threads may be reading the old one
        self._definitions.pop(name, None)
        self.replaced += is_known  # last, as this invalidates cached outputs

    def definition(self, name: str) -> dict[str, Any]:
        """Return the definition of a node class by its name, as in ``GET /object_info``."""
        known: dict[str, Any] | None = self._definitions.get(name)
        if known is None:
            return definition_of(name, self.classes[name], newest=self._newest)
        choices = self._choices(name)
        if choices is None:
            return known
        definition = copy.deepcopy(known)
        next(iter(definition["input"]["required"].values()))[0] = choices
        return definition

    def definitions(self, graph: Any = None) -> dict[str, Any]:
        """Return the definitions of the classes that a graph uses, or of all if ``graph`` is None.

        Leave out classes that are unknown or have no valid definition.
        """
        nodes = graph.values() if isinstance(graph, dict) else ()
        used: list[Any] = [node.get("class_type") for node in nodes if isinstance(node, dict)]
        found: dict[str, Any] = {}
        for name in self.classes if graph is None else used:
            with contextlib.suppress(TypeError, KeyError):  # None if missing
                found[name] = self.definition(name)
        return found

    def hint(self) -> str:
        """Return a hint for prompts with an unknown node class; a real server gives none."""
        names = sorted(self.classes)
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        return (
            f"this is the embedded server, which has {', '.join(names[:_NAMED])}{more}; "
            "server.add_node(cls) gives it a class of your own"
        )

    def checks(self) -> dict[str, Check]:
        """Return the ``VALIDATE_INPUTS`` of each class that has it, by the name of the class."""
        found = {name: getattr(c, "VALIDATE_INPUTS", None) for name, c in self.classes.items()}
        return {name: check for name, check in found.items() if check is not None}

    def _choices(self, name: str) -> list[str] | None:
        """Return the files that a loader class offers, or None for any other class."""
        if name in ("LoadImage", "LoadImageMask"):
            return self._folders.inputs(images=name == "LoadImage")
        return (
            self._folders.model_names("checkpoints") if name == "CheckpointLoaderSimple" else None
        )


def shipped(name: str) -> Any:
    """Return the decoded content of the package's JSON file with this name."""
    return json.loads(files(__package__).joinpath(f"{name}.json").read_text(encoding="utf-8"))


def definition_of(name: str, cls: Any, *, newest: bool = False) -> dict[str, Any]:
    """Return the definition of a node class; raise TypeError if the class is not one."""
    try:
        inputs = cls.INPUT_TYPES()
        types = cls.RETURN_TYPES
        getattr(cls, cls.FUNCTION)
        definition = {
            "input": inputs,
            "input_order": {kind: list(of_kind) for kind, of_kind in inputs.items()},
            "output": types,
            "output_is_list": getattr(cls, "OUTPUT_IS_LIST", [False] * len(types)),
            "output_name": getattr(cls, "RETURN_NAMES", types),
            "name": name,
            "display_name": getattr(cls, "DISPLAY_NAME", name),
            "description": getattr(cls, "DESCRIPTION", ""),
            "python_module": getattr(
                cls, "RELATIVE_PYTHON_MODULE", f"custom_nodes.{cls.__module__}"
            ),
            "category": getattr(cls, "CATEGORY", "sd"),
            "output_node": getattr(cls, "OUTPUT_NODE", False) is True,
        }
        # As in ComfyUI, only if the class has them.
        if hasattr(cls, "OUTPUT_TOOLTIPS"):
            definition["output_tooltips"] = cls.OUTPUT_TOOLTIPS
        for name_there in ("DEPRECATED", "EXPERIMENTAL"):
            if getattr(cls, name_there, False):
                definition[name_there.lower()] = True
        if hasattr(cls, "API_NODE"):
            definition["api_node"] = cls.API_NODE
        if newest:
            definition["is_input_list"] = getattr(cls, "INPUT_IS_LIST", False)
            definition["has_intermediate_output"] = getattr(cls, "HAS_INTERMEDIATE_OUTPUT", False)
            definition["search_aliases"] = getattr(cls, "SEARCH_ALIASES", [])
            if hasattr(cls, "ESSENTIALS_CATEGORY"):
                definition["essentials_category"] = cls.ESSENTIALS_CATEGORY
        # Turn tuples into lists, as JSON does.
        decoded: dict[str, Any] = json.loads(json.dumps(definition))
    except Exception as exc:
        raise TypeError(f"{name} is not a node class: {exc}") from exc
    return decoded
