"""What the server holds each node of one graph to, from node definitions of any shape."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any, Final

import attrs

from .graph import class_of, inputs_of
from .inputs import Autogrow, InputSpec, walk
from .validate import Check, Version

#: Id and class of a node that stands in for what is missing: its output fits everywhere.
STUB: Final = "\0anything"
_STUB_DEFINITION: Final = {"input": {}, "output": ["*"], "output_node": False}
#: Inputs of files that the server looks for itself, whatever the choices: what it calls a file.
_UPLOADS: Final = {"image_upload": "image", "video_upload": "video", "audio_upload": "audio"}
#: The same for inputs whose definition does not show it.
_LOOKED_FOR: Final = {("LoadLatent", "latent"): "latent"}
#: What the server writes into the definition of each V3 class.
_V3: Final = ("api_node", "deprecated", "experimental", "output_tooltips")

#: A definition of known shape.
Definition = dict[str, Any]


@attrs.frozen(eq=False)
class Rules:
    """Definitions for :func:`~comfy_client.workflow.validate.validate`, by node.

    A class whose inputs depend on what they are given has a definition for each node.

    Attributes:
        by_node: The definition of each node, by id; a node whose class is unknown has none.
        classes: The name of that definition, by node id.
        definitions: All of them by name.
        checks: The nodes' own checks of files, by name.
        version: Which server it seems to be.
        unchecked: Choices that this server does not check, by node id and input.
        open_nodes: Ids of nodes that may have further inputs.
    """

    by_node: dict[str, Definition]
    classes: dict[str, str]
    definitions: dict[str, Definition]
    checks: dict[str, Check]
    version: Version
    unchecked: dict[str, dict[str, list[Any]]]
    open_nodes: set[str]

    def graph(self, graph: Mapping[str, Any]) -> dict[str, Any]:
        """A graph whose classes are the names of definitions."""
        return {
            node_id: node
            if self.classes.get(node_id, class_of(graph, node_id)) == class_of(graph, node_id)
            else {**node, "class_type": self.classes[node_id]}
            for node_id, node in graph.items()
        }

    def is_output(self, node_id: str) -> bool:
        """Whether the server runs a node for its own sake."""
        return node_id in self.by_node and bool(self.by_node[node_id]["output_node"])

    def mended(self, graph: Mapping[str, Any]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
        """A graph without what the server stumbles over, and where it does: (node id, input)."""
        kept = [n for n in graph if n in self.by_node and type(graph[n].get("inputs")) is dict]
        made: dict[str, Any] = {STUB: {"class_type": STUB, "inputs": {}}}
        made |= {node_id: graph[node_id] for node_id in kept}
        bad: list[tuple[str, str]] = []
        for node_id in kept:
            inputs = dict(graph[node_id]["inputs"])
            for name in _declared(self.by_node[node_id]):
                value = inputs.get(name)
                if type(value) is not list or len(value) != 2 or self._gives(value, made):
                    continue
                if not (isinstance(value[0], str) and value[0] in graph and value[0] not in made):
                    bad.append((node_id, name))
                inputs[name] = [STUB, 0]
            made[node_id] = {**graph[node_id], "inputs": inputs}
        return made, bad

    def _gives(self, link: list[Any], graph: Mapping[str, Any]) -> bool:
        """Whether a link ends at an output."""
        source, slot = link
        if not isinstance(source, str) or source not in graph or source == STUB:
            return bool(source == STUB)
        try:
            _ = self.by_node[source]["output"][slot]
        except (IndexError, TypeError):
            return False
        return True

    def with_outputs(self, node_ids: Iterable[str]) -> Rules:
        """Rules by which these nodes are outputs, too."""
        ends = [n for n in node_ids if n != STUB and not self.is_output(n)]
        names = {n: f"{self.classes[n]}\n{n}\n" for n in ends}
        made = {n: {**self.by_node[n], "output_node": True} for n in ends}
        checks = {
            names[n]: self.checks[self.classes[n]] for n in ends if self.classes[n] in self.checks
        }
        return attrs.evolve(
            self,
            by_node={**self.by_node, **made},
            classes={**self.classes, **names},
            definitions={**self.definitions, **{names[n]: made[n] for n in ends}},
            checks={**self.checks, **checks},
        )


def rules_for(graph: Mapping[str, Any], found: Mapping[str, Any]) -> Rules:
    """The rules for a graph.

    Args:
        graph: A graph as JSON carries it.
        found: Definitions by class, as JSON of any shape.
    """
    rules = Rules({}, {}, {STUB: _STUB_DEFINITION}, {}, _version(found), {}, set())
    made: dict[str, _Made] = {}
    dynamic = {name for name, definition in found.items() if _is_dynamic(definition)}
    for node_id, node in graph.items():
        name = node.get("class_type") if isinstance(node, Mapping) else None
        if not isinstance(name, str) or name not in found:
            continue
        key = f"{name}\n{node_id}" if name in dynamic else name
        if key not in made:
            made[key] = one = _make(found[name], name, inputs_of(graph, node_id), rules.version)
            rules.definitions[key] = one.definition
            if one.check is not None:
                rules.checks[key] = one.check
        one = made[key]
        rules.classes[node_id], rules.by_node[node_id] = key, one.definition
        if one.unchecked:
            rules.unchecked[node_id] = one.unchecked
        if one.is_open:
            rules.open_nodes.add(node_id)
    return rules


def _version(found: Mapping[str, Any]) -> Version:
    """The rules of which server definitions point to."""
    keys = {key for one in found.values() if isinstance(one, Mapping) for key in one}
    return "new" if "search_aliases" in keys else "0.8" if "is_input_list" in keys else "0.3.75"


def replaces_classes(found: Mapping[str, Any]) -> bool:
    """Whether definitions are of a server that replaces classes that it lacks."""
    return _version(found) == "new"


@attrs.frozen(eq=False)
class _Made:
    """What is made of one definition."""

    definition: Definition
    check: Check | None
    unchecked: dict[str, list[Any]]
    is_open: bool


def _declared(definition: Definition) -> list[str]:
    return [*definition["input"]["required"], *definition["input"]["optional"]]


def _is_dynamic(definition: Mapping[str, Any]) -> bool:
    """Whether inputs depend on what is given."""
    groups = definition.get("input")
    for group in groups.values() if isinstance(groups, Mapping) else ():
        for config in group.values() if isinstance(group, Mapping) else ():
            kind = config[0] if isinstance(config, list) and config else None
            if isinstance(kind, str) and kind.startswith("COMFY_"):
                return True
    return False


def _make(
    source: Mapping[str, Any], class_type: str, given: Mapping[str, Any], version: Version
) -> _Made:
    required: dict[str, Any] = {}
    optional: dict[str, Any] = {}
    unchecked: dict[str, list[Any]] = {}
    looked_for: dict[str, tuple[str, list[Any] | None]] = {}
    is_open = False
    for spec in walk(source, given):
        match spec:
            case str():
                is_open = True
            case Autogrow():
                part = [spec.part.kind, spec.part.options]
                optional |= {name: part for name in given if spec.has(name)}
                required |= {spec.part_name(index): part for index in range(spec.least)}
            case InputSpec():
                kind = spec.kind
                file = _file(class_type, spec)
                if file:
                    is_remote = any(name.startswith("remote") for name in spec.options)
                    looked_for[spec.name] = file, None if is_remote else spec.choices
                elif _is_unchecked(spec, version):
                    unchecked[spec.name] = spec.choices or []
                    kind = "COMBO_UNCHECKED"
                (required if spec.required else optional)[spec.name] = [kind, spec.options]
    groups = source.get("input")
    hidden = groups.get("hidden") if isinstance(groups, Mapping) else None
    outputs = source.get("output")
    outputs = outputs if isinstance(outputs, list) else []
    definition = {
        "input": {
            "required": required,
            "optional": optional,
            "hidden": hidden if isinstance(hidden, Mapping) else {},
        },
        "output": ["*" if one == "COMFY_MATCHTYPE_V3" else one for one in outputs],
        "output_node": source.get("output_node") is True,
        **{name: source[name] for name in _V3 if name in source},
    }
    return _Made(definition, _check_of(looked_for), unchecked, is_open)


def _is_unchecked(spec: InputSpec, version: Version) -> bool:
    """Whether the server takes any value of a choice."""
    choices, options = spec.choices, spec.options
    if not choices or any(name.startswith("remote") for name in options):
        return False
    listed = options.get("options")
    if isinstance(spec.kind, list):  # of a dynamic combo, each choice brings inputs
        return isinstance(listed, list) and any(isinstance(one, Mapping) for one in listed)
    return version == "0.3.75" and not options.get("multiselect")


def _file(class_type: str, spec: InputSpec) -> str | None:
    """What the server calls the files that it looks for itself; ``None``: it does not."""
    for option, what in _UPLOADS.items():
        if spec.options.get(option) and (isinstance(spec.kind, list) or spec.kind == "COMBO"):
            return what
    return _LOOKED_FOR.get((class_type, spec.name))


def _check_of(inputs: Mapping[str, tuple[str, list[Any] | None]]) -> Check | None:
    """The check of a node that looks for files: its parameters name the inputs."""
    names = [name for name in inputs if name.isidentifier()]
    if not names:
        return None

    def check(**given: Any) -> bool | str:
        for name in names:
            if name not in given:  # as Python says it of the server's function
                raise TypeError(f"missing 1 required positional argument: {name!r}")
            what, choices = inputs[name]
            if not _may_exist(given[name], choices):
                return f"Invalid {what} file: {given[name]}"
        return True

    kind = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter(name, kind) for name in names]
    vars(check)["__signature__"] = inspect.Signature(parameters)
    return check


def _may_exist(value: Any, choices: list[Any] | None) -> bool:
    """Whether the server may find a file; only those at the top of its input folder are known."""
    if value.endswith(("[output]", "[temp]")):
        return True
    name = value[: -len("[input]") - 1] if value.endswith("[input]") else value
    if choices is None or "/" in name or "\\" in name:
        return True
    return name in choices or name in ("", ".")
