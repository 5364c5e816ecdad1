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
``version="0.28"`` and newer.  A node expands when it returns
``{"expand": nodes, "result": outputs}``: nodes as in a workflow, whose ids begin with its own
(hidden ``UNIQUE_ID``), and outputs that may be links to them.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import itertools
import json
import math
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.resources import files
from typing import Any

import attrs

from ..workflow.validate import ExtraCheck, is_link
from .builtin_nodes import CLASSES, BuiltinNode, Simulated
from .definitions import (
    FileChoices,
    NodeSettings,
    file_choices,
    hidden_inputs,
    specs_of,
    with_choices,
)
from .folders import Folders
from .stubs import Stub, guessed_definitions, stub_class
from .v3.adapter import V3Node, adapted, is_v3_class
from .versions import Version, since

# -- the graph of a prompt ---------------------------------------------------------------


class NodeNotFoundError(Exception):
    """A link or a node refers to a node that does not exist."""


class NodeInputError(Exception):
    """A node requests an input that it does not have, or that is not linked."""


class DependencyCycleError(Exception):
    """The nodes of a prompt depend on each other in a cycle."""


# Clients receive these names.
NodeNotFoundError.__module__ = NodeInputError.__module__ = "comfy_execution.graph"
DependencyCycleError.__module__ = "graph"


class DynamicPrompt:
    """A prompt and the nodes that its nodes expanded into, which nodes get as ``DYNPROMPT``.

    It has the methods of ``comfy_execution.graph.DynamicPrompt``.
    """

    def __init__(self, prompt: dict[str, Any]) -> None:
        self._prompt = prompt
        self._added: dict[str, dict[str, Any]] = {}
        self._parents: dict[str, str] = {}
        self._shown_as: dict[str, str] = {}

    def add(self, node_id: str, node: dict[str, Any], parent: str) -> None:
        """Add a node that the node ``parent`` expanded into."""
        self._added[node_id] = node
        self._parents[node_id] = parent
        self._shown_as[node_id] = node.get("override_display_id", parent)

    def get_node(self, node_id: str) -> dict[str, Any]:
        """Return the node with this id; raise :class:`NodeNotFoundError` if there is none."""
        found = self._added.get(node_id, self._prompt.get(node_id))
        if found is None:
            raise NodeNotFoundError(f"Node {node_id} not found")
        return found

    def has_node(self, node_id: str) -> bool:
        """Return whether the prompt or an expansion of it has a node with this id."""
        return node_id in self._added or node_id in self._prompt

    def get_parent_node_id(self, node_id: str) -> str | None:
        """Return the id of the node that expanded into this one; None for a node of the prompt."""
        return self._parents.get(node_id)

    def get_real_node_id(self, node_id: str) -> str:
        """Return the id of the prompt's own node from which this node originates."""
        while node_id in self._parents:
            node_id = self._parents[node_id]
        return node_id

    def get_display_node_id(self, node_id: str) -> str:
        """Return the id of the node that displays this node's progress in the frontend."""
        while node_id in self._shown_as:
            node_id = self._shown_as[node_id]
        return node_id

    def all_node_ids(self) -> set[str]:
        """Return the ids of all nodes, including those that were added by expansion."""
        return {*self._prompt, *self._added}

    def get_original_prompt(self) -> dict[str, Any]:
        """Return the prompt without the nodes that were added by expansion."""
        return self._prompt


def inputs_in(node: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inputs of a node, or an empty dict if the node has no ``inputs``."""
    inputs: dict[str, Any] = node.get("inputs", {})
    return inputs


def linked_inputs(graph: DynamicPrompt, node_id: str) -> list[tuple[str, str]]:
    """Return the name and the source node's id of each linked input of a node."""
    inputs = inputs_in(graph.get_node(node_id)).items()
    return [(name, value[0]) for name, value in inputs if is_link(value)]


# -- cached outputs ----------------------------------------------------------------------


@attrs.frozen
class Cached:
    """The cached outputs of a node, and the output that the client was shown, if any."""

    ui: dict[str, Any] | None
    outputs: list[Any]


@attrs.define
class NodeCache:
    """The cache of one graph, which is a prompt or the nodes that one node expanded into."""

    keys: dict[str, str] = attrs.field(factory=dict)  # by node id; see Keys
    outputs: dict[str, Cached] = attrs.field(factory=dict)  # by key
    objects: dict[tuple[str, str], Any] = attrs.field(factory=dict)  # by id and class
    inner: dict[tuple[str, str], NodeCache] = attrs.field(factory=dict)  # by id and class, too

    def retain(self, graph: DynamicPrompt, keys: dict[str, str]) -> None:
        """Set the cache keys of a graph's nodes; drop what is cached for other keys or nodes."""
        self.keys = keys
        used = set(keys.values())
        names = {(node_id, graph.get_node(node_id)["class_type"]) for node_id in keys}
        self.outputs = {key: kept for key, kept in self.outputs.items() if key in used}
        self.objects = {name: node for name, node in self.objects.items() if name in names}
        self.inner = {name: store for name, store in self.inner.items() if name in names}

    def node_ids(self) -> Iterator[str]:
        """Yield the ids of the nodes of this graph and of all graphs that they expanded into."""
        yield from self.keys
        for store in self.inner.values():
            yield from store.node_ids()


@attrs.define(eq=False)
class _Ancestry:
    """All nodes on which a node depends: those of one of its sources, and the others.

    Most nodes add little to their largest source, so that all ancestries of a chain share one dict.
    """

    key: str
    base: _Ancestry | None
    added: list[str]  # nodes beside those of the base, this one last
    size: int  # number of nodes, this one included
    _places: dict[str, int] | None = None

    def places(self) -> dict[str, int]:
        """Return the place of each node; those from ``size`` on belong to other ancestries."""
        if self._places is None:
            places: dict[str, int] = {} if self.base is None else self.base.places()
            start = 0 if self.base is None else self.base.size
            if len(places) > start:  # another node extends it
                places = dict(itertools.islice(places.items(), start))
            places.update(zip(self.added, itertools.count(start), strict=False))
            self._places = places
        return self._places


class CacheKeys:
    """The cache keys of a prompt's nodes: nodes with equal keys have equal outputs.

    A key is made of class, inputs, ``IS_CHANGED``, and the same for all sources.  Two equal sources
    differ from a single one: whether inputs come from the same node counts, too.
    """

    def __init__(
        self, graph: DynamicPrompt, nodes: NodeRegistry, changed: Callable[[str], Any]
    ) -> None:
        self._graph = graph
        self._nodes = nodes
        self._changed = changed
        self._known: dict[str, _Ancestry] = {}
        self._own: dict[str, tuple[list[Any], list[tuple[str, str, Any]]]] = {}

    def of(self, node_id: str) -> str:
        """Return the cache key of a node."""
        waiting, seen = [node_id], set[str]()
        while waiting:
            last = waiting[-1]
            if last in self._known:
                waiting.pop()
            elif last in seen:
                self._known[last] = self._ancestry(last)
            else:
                seen.add(last)
                waiting += [one for one in self._sources(last) if one not in seen]
        return self._known[node_id].key

    def _ancestry(self, node_id: str) -> _Ancestry:
        """Return the ancestry of a node; sources in a cycle have none yet."""
        known = [self._known[one] for one in self._sources(node_id) if one in self._known]
        base = max(known, key=lambda ancestry: ancestry.size, default=None)
        places, size = ({}, 0) if base is None else (base.places(), base.size)
        refs: dict[str, int] = {node_id: -1}  # by distance, for nodes that the base lacks
        entries = []
        waiting = [node_id]
        for one in waiting:
            for source in self._sources(one):
                if source not in refs:
                    refs[source] = places.get(source, size)
                    if refs[source] >= size:
                        refs[source] = -1 - len(waiting)
                        waiting.append(source)
            entries.append(self._of_itself(one, refs))
        key = _digest([entries, None if base is None else base.key])
        return _Ancestry(key, base, waiting[::-1], size + len(waiting))

    def _of_itself(self, node_id: str, refs: Mapping[str, int]) -> object:
        """Return a node without its sources, each of which is replaced by its reference."""
        if node_id not in self._own:
            self._own[node_id] = self._looked_at(node_id)
        own, links = self._own[node_id]
        return [own, [(name, refs[source], slot) for name, source, slot in links]]

    def _looked_at(self, node_id: str) -> tuple[list[Any], list[tuple[str, str, Any]]]:
        graph, nodes = self._graph, self._nodes
        if not graph.has_node(node_id):
            return [_nothing_like_it()], []
        node = graph.get_node(node_id)
        class_type = node["class_type"]
        personal = "UNIQUE_ID" in hidden_inputs(nodes.definition(class_type)).values()
        cls = nodes.classes[class_type]
        personal = personal or bool(getattr(cls, "NOT_IDEMPOTENT", False))
        links, values = [], []
        for name, value in sorted(inputs_in(node).items()):
            if is_link(value):
                links.append((name, value[0], _comparable(value[1])))
            else:
                values.append((name, _comparable(value)))
        changed = _comparable(self._changed(node_id))
        return [class_type, changed, node_id if personal else None, values], links

    def _sources(self, node_id: str) -> list[str]:
        if node_id not in self._own:
            self._own[node_id] = self._looked_at(node_id)
        return list(dict.fromkeys(source for _, source, _ in self._own[node_id][1]))


def _comparable(value: Any) -> object:
    """Return a JSON value that is equal for equal inputs; NaN and other objects equal nothing."""
    if isinstance(value, dict):
        return {str(key): _comparable(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_comparable(one) for one in value]
    if isinstance(value, bool) or (isinstance(value, float) and value.is_integer()):
        return int(value)
    if isinstance(value, float):
        return _nothing_like_it() if math.isnan(value) else value
    return value if value is None or isinstance(value, str | int) else _nothing_like_it()


def _nothing_like_it() -> str:
    return uuid.uuid4().hex


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


# -- the classes of a server -------------------------------------------------------------

_NAMED = 40  # the most classes in a hint
_MOST_GUESSED = 1000  # classes without definition that a server accepts
_SIMULATED = "Simulated by comfy_client.testing: no model is run."


class NodeRegistry:
    """The node classes of one server, and their definitions."""

    def __init__(self, folders: Folders, settings: NodeSettings, version: Version) -> None:
        self.settings = settings
        self._newer = since(version, "0.28")
        self.folders = folders
        #: The command line of the server.
        self.argv: list[str] = ["main.py", "--cpu"]
        if settings.previews:
            self.argv += ["--preview-method", "auto"]
        own = recorded("definitions_0.28" if self._newer else "definitions")
        known = {**own, **settings.definitions}
        # Copies, as they get a description, and other servers may have the same.
        self._definitions: dict[str, Any] = {name: {**one} for name, one in known.items()}
        self.classes: dict[str, Any] = {
            name: self._class(name, definition) for name, definition in self._definitions.items()
        }
        #: How often a class replaced another, whose cached outputs are invalid then.
        self.replaced: int = 0
        self._first = self.classes, {**self._definitions}
        self._guessed: set[str] = set()  # classes without definition
        self._files: dict[str, list[FileChoices]] = {}

    def _class(self, name: str, definition: dict[str, Any]) -> type:
        """Return the class that plays a node: one of the package if it fits, or a stub."""
        if not _plays(name, definition):
            definition["description"] = _SIMULATED
            return stub_class(name, definition, self.folders)
        if issubclass(CLASSES[name], Simulated):
            definition["description"] = _SIMULATED
        bound = {
            "folders": self.folders,
            "previews": self.settings.previews,
            "step_seconds": self.settings.step_seconds,
            "placeholders": self.settings.inputs == "placeholder",
            "OUTPUT_NODE": definition["output_node"],
            "RETURN_TYPES": definition["output"],
        }
        return type(name, (CLASSES[name],), bound)

    def add(self, name: str, cls: type) -> None:
        """Add a user's node class, or replace the class that already has this name."""
        is_known = name in self.classes
        self._definitions.pop(name, None)
        self._files.pop(name, None)
        if issubclass(cls, Stub):
            self._definitions[name] = {**cls.definition}
            cls = type(cls.__name__, (cls,), {"folders": self.folders})
        self.classes = {**self.classes, name: cls}  # other threads may be reading the old one
        self._guessed.discard(name)
        self.replaced += is_known  # last, as this invalidates cached outputs

    def restore(self, added: Mapping[str, type]) -> None:
        """Have the classes that it had first, and these of a user, by name."""
        self.classes, definitions = self._first
        self._definitions = {**definitions}
        self._guessed.clear()
        self._files.clear()
        for name, cls in added.items():
            self.add(name, cls)
        self.replaced += 1

    @property
    def replacements(self) -> dict[str, Any]:
        """The classes that take the place of others, as in ``GET /node_replacements``."""
        found: dict[str, Any] = shipped("replacements_0.28")
        lists = (getattr(cls, "REPLACES", []) for cls in self.classes.values())
        for one in {id(each): each for own in lists for each in own}.values():
            found.setdefault(one["old_node_id"], []).append(one)
        return found

    def definition(self, name: str) -> dict[str, Any]:
        """Return the definition of a node class by its name, as in ``GET /object_info``."""
        known: dict[str, Any] | None = self._definitions.get(name)
        if known is None:
            cls = self.classes[name]
            if issubclass(cls, V3Node):
                told: dict[str, Any] = cls.told(newer=self._newer)
                return told
            return definition_of(name, cls, newer=self._newer)
        if name not in self._files:
            self._files[name] = file_choices(known, self.folders)
        models = self.settings.models
        offered = {
            choices.spec.name: choices.listed(self.folders, models) for choices in self._files[name]
        }
        return with_choices(known, offered) if offered else known

    def definitions(self, graph: Any = None) -> dict[str, Any]:
        """Return the definitions of the classes that a graph uses, or of all if ``graph`` is None.

        Leave out classes that are unknown or have no valid definition.
        """
        nodes = graph.values() if isinstance(graph, dict) else ()
        used: list[Any] = [node.get("class_type") for node in nodes if isinstance(node, dict)]
        found: dict[str, Any] = {}
        for name in self.classes if graph is None else dict.fromkeys(filter(_is_text, used)):
            if name not in self._guessed:
                with contextlib.suppress(TypeError, KeyError):  # None if missing
                    found[name] = self.definition(name)
        return found

    def adaptable(self, names: Iterable[str]) -> list[str]:
        """Return those of these classes whose inputs may depend on values: stand-ins, and V3."""
        kinds = (Stub, V3Node)
        return [name for name in names if issubclass(self.classes.get(name, object), kinds)]

    def files_in(self, kind: str) -> list[str]:
        """Return the names of the files directly in a folder: input, output or temp."""
        folder = self.folders.of_type(kind)
        found = os.scandir(folder) if folder else ()
        return [entry.name for entry in found if entry.is_file()]

    def guess(self, graph: Mapping[str, Any]) -> dict[str, Any]:
        """Accept the classes of a graph that nothing knows; return definitions by its shape."""
        if any(not isinstance(node, dict) for node in graph.values()):
            return {}
        used = dict.fromkeys(filter(_is_text, (n.get("class_type") for n in graph.values())))
        new = [name for name in used if name not in self.classes]
        del new[_MOST_GUESSED - len(self._guessed) :]
        old = [name for name in used if name in self._guessed]
        found = guessed_definitions([*old, *new], graph)
        for name in new:
            self._definitions[name] = {**found[name], "input": {}}
            self._guessed.add(name)
        made = {name: stub_class(name, self._definitions[name], self.folders) for name in new}
        self.classes = {**self.classes, **made}
        return found

    def hint(self) -> str:
        """Return a hint for prompts with an unknown node class; a real server gives none."""
        names = sorted(self.classes.keys() - self._guessed)
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        return (
            f"this is the embedded server, which has {', '.join(names[:_NAMED])}{more}; "
            "server.add_node(cls) gives it a class of your own, object_info=FILE the classes of a "
            "ComfyUI (its GET /object_info), and nodes='any' all others; comfy-client serve has "
            "--object-info and --any-node for that"
        )

    def checks(self) -> dict[str, ExtraCheck]:
        """Return the ``VALIDATE_INPUTS`` of each class that has it, by the name of the class."""
        found = {name: getattr(c, "VALIDATE_INPUTS", None) for name, c in self.classes.items()}
        return {name: check for name, check in found.items() if check is not None}


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _plays(name: str, definition: Mapping[str, Any]) -> bool:
    """Return whether a class of the package takes the inputs of a definition."""
    if name not in CLASSES:
        return False
    parameters = inspect.signature(getattr(CLASSES[name], BuiltinNode.FUNCTION)).parameters.values()
    known = {one.name for one in parameters}
    needed = {one.name for one in parameters if one.default is one.empty} - {"self"}
    inputs = {spec.name for spec in specs_of(definition)}
    return inputs <= known and needed <= inputs | hidden_inputs(definition).keys()


def shipped(name: str) -> Any:
    """Return the decoded content of the package's JSON file with this name."""
    return json.loads(files(__package__).joinpath(f"{name}.json").read_text(encoding="utf-8"))


def recorded(name: str) -> dict[str, Any]:
    """Return the recorded definitions in a file; raise LookupError unless they fit the classes."""
    definitions: dict[str, Any] = shipped(name)
    if unmatched := sorted(CLASSES.keys() ^ definitions.keys()):
        raise LookupError(
            f"{', '.join(unmatched)} must be in both builtin_nodes.py and {name}.json; "
            "comfy_client/testing/README.rst says how to record a definition"
        )
    return definitions


def node_class(cls: Any, name: str | None = None) -> tuple[str, Any]:
    """Return the name of a user's class in workflows, and the class as the executor runs it.

    Raises:
        TypeError: The class is not a node; the message says what is missing.
    """
    if is_v3_class(cls):
        played = adapted(cls)
        return name or played.node_id, played
    name = name or cls.__name__
    definition_of(name, cls)
    return name, cls


def definition_of(name: str, cls: Any, *, newer: bool = False) -> dict[str, Any]:
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
        if newer:
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
