"""The server's rules for each node of a graph, from node definitions of any shape.

Node classes check their own inputs, too, which definitions do not mention.  Such a check replaces
the server's check of its parameters, or of all inputs if it has ``**others``: the server then
accepts any choice and any number there.  The classes were found by posting a wrong value for each
choice of each class to ComfyUI 0.28.1 and 0.33.0.
"""

from __future__ import annotations

import inspect
import math
import posixpath
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final

import attrs

from ..values import list_at, table_at
from .graph import class_of, inputs_of
from .input_specs import Autogrow, InputSpec, walk
from .model_files import folder_of, is_file_name
from .validate import ExtraCheck, ServerVersion, is_v3

#: A function that lists the files at the top of a server folder; None if unknown.
Listed = Callable[[str], Collection[str] | None]

#: File inputs that the server checks itself, by option: its word for such a file.
_UPLOADS: Final = {"image_upload": "image", "video_upload": "video", "audio_upload": "audio"}
#: The same, for inputs whose definition has no such option.
_LOOKED_FOR: Final = {("LoadLatent", "latent"): "latent", ("WebcamCapture", "image"): "image"}
#: V3 classes that look for a 3D model, and check no other input.
_TAKE_ALL: Final = frozenset(("Load3D", "Load3DAdvanced", "Load3DAnimation"))
_TASKS: Final = ("MODEL_TASK_ID", "RIG_TASK_ID", "RETARGET_TASK_ID")
_MISSING: Final = object()
_CHECKS: Final[dict[str, ExtraCheck]] = {}


@attrs.frozen
class FileInput:
    """An input whose value must name a file that the server can find.

    Attributes:
        what: The server's word for such a file.
        choices: The files that the server offers, at the top of its input folder or below;
            ``None``: unknown.
    """

    what: str
    choices: list[Any] | None


def own_check(
    class_type: str,
    files: Mapping[str, FileInput],
    free: Iterable[str],
    listed: Listed,
    *,
    stays_inside: bool,
) -> ExtraCheck | None:
    """Return the check that a class makes of its own inputs, or None.

    Args:
        class_type: The class.
        files: The inputs that take files, by name.
        free: The names of inputs that the class accepts unchecked.
        listed: The files in the folders of the server.
        stays_inside: Whether the server finds no files outside of its folders (ComfyUI 0.28).
    """
    if class_type in _CHECKS:
        return _CHECKS[class_type]
    names = [name for name in files if name.isidentifier()]
    more = [name for name in free if name.isidentifier()]
    if not names and not more:
        return None

    def check(**given: Any) -> bool | str:
        for name in names:
            if name not in given:  # in the words of Python
                raise TypeError(f"missing 1 required positional argument: {name!r}")
            if not _may_exist(given[name], files[name].choices, listed, stays_inside):
                return f"Invalid {files[name].what} file: {given[name]}"
        return True

    kind = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter(name, kind) for name in [*names, *more]]
    if class_type in _TAKE_ALL:
        parameters.append(inspect.Parameter("others", inspect.Parameter.VAR_KEYWORD))
    vars(check)["__signature__"] = inspect.Signature(parameters)
    return check


def file_input(definition: Mapping[str, Any], class_type: str, spec: InputSpec) -> FileInput | None:
    """Return the kind of file that an input must name, or None if the input names no file."""
    is_combo = isinstance(spec.kind, list) or spec.kind == "COMBO"
    whats = [what for option, what in _UPLOADS.items() if spec.options.get(option) and is_combo]
    whats += [_LOOKED_FOR[one] for one in [(class_type, spec.name)] if one in _LOOKED_FOR]
    if class_type in _TAKE_ALL and spec.name == "model_file" and is_v3(definition):
        whats.append("3D model")
    if not whats:
        return None
    is_remote = any(name.startswith("remote") for name in spec.options)
    return FileInput(whats[0], None if is_remote else spec.choices)


def takes_any(definition: Mapping[str, Any], class_type: str, spec: InputSpec) -> bool:
    """Return whether the server accepts any value of the right type for an input."""
    if class_type in _TAKE_ALL:
        return is_v3(definition)
    own = _CHECKS.get(class_type)
    parameters = () if own is None else inspect.signature(own).parameters.values()
    return any(one.kind is one.VAR_KEYWORD or one.name == spec.name for one in parameters)


def takes_more(class_type: str) -> bool:
    """Return whether a class accepts inputs that its definition lacks."""
    return class_type == "CustomCombo"


def has_hidden_choices(definition: Mapping[str, Any], class_type: str, spec: InputSpec) -> bool:
    """Return whether a class of a node pack may accept choices that its definition does not list.

    An empty list usually means a check of the class's own, or else the server would refuse any
    value.  If it means that such files are missing, the value is a file name: see
    :func:`is_hidden_choice`.
    """
    module = definition.get("python_module")
    is_of_pack = isinstance(module, str) and module.startswith("custom_nodes")
    return is_of_pack and spec.choices == [] and folder_of(class_type, spec.name) is None


def is_hidden_choice(value: object) -> bool:
    """Return whether a value may be an unlisted choice, rather than the name of a missing file."""
    return not (isinstance(value, str) and is_file_name(value))


# -- files ------------------------------------------------------------------------------


def _may_exist(value: Any, choices: list[Any] | None, listed: Listed, stays_inside: bool) -> bool:
    """Return whether the server may find a file; files in subfolders are assumed to exist."""
    folder, name = "input", value
    for each in ("input", "output", "temp"):
        if value.endswith(f"[{each}]"):
            folder, name = each, value[: -len(each) - 3]
            break
    if stays_inside and _leaves(name, folder):
        return False
    known = listed(folder) if choices is None or folder != "input" else choices
    if known is None or name in known or name in ("", "."):
        return True
    if "/" not in name and "\\" not in name:
        return False
    # Most lists have only the top of a folder; that of 3D models includes one subfolder.
    below = f"{name.partition('/')[0]}/"
    return not any(isinstance(one, str) and one.startswith(below) for one in known)


def _leaves(name: str, folder: str) -> bool:
    """Return whether a name leads out of a folder."""
    parts = posixpath.normpath(name).split("/")
    return parts[0] in ("", "..") and folder not in parts


# -- classes ----------------------------------------------------------------------------


def _check_of(*classes: str) -> Callable[[ExtraCheck], ExtraCheck]:
    """Return a decorator that registers a function as the own check of some node classes.

    The function has the parameters that the check has on the server.
    """

    def register(check: ExtraCheck) -> ExtraCheck:
        check.__qualname__ = f"{classes[0]}.validate_inputs"  # appears in Python's messages
        _CHECKS.update(dict.fromkeys(classes, check))
        return check

    return register


@_check_of("CustomCombo")
def _choice(choice: Any, index: Any = 0, **others: Any) -> bool:
    return True  # the frontend alone knows the options


@_check_of("SelectModelDevice", "SelectCLIPDevice", "SelectVAEDevice")
def _device(device: Any = "default") -> bool:
    return True  # the node falls back to another one


@_check_of("ModelAttentionBackend")
def _attention(attention: Any) -> bool:
    return True  # the node falls back to another one


@_check_of("ComfySoftSwitchNode")
def _switch(switch: Any, on_false: Any = _MISSING, on_true: Any = _MISSING) -> bool | str:
    if on_false is _MISSING and on_true is _MISSING:
        return "At least one of on_false or on_true must be connected to Switch node"
    return True


@_check_of("KlingCameraControls")
def _camera(
    horizontal_movement: float,
    vertical_movement: float,
    pan: float,
    tilt: float,
    roll: float,
    zoom: float,
) -> bool | str:
    moves = (horizontal_movement, vertical_movement, pan, tilt, roll, zoom)
    if all(math.isclose(move, 0.0) for move in moves):
        return "Invalid camera control configs: at least one of the values must be non-zero"
    return True


@_check_of("TripoConversionNode")
def _task(input_types: Mapping[str, Any]) -> bool | str:
    if input_types["original_model_task_id"] not in _TASKS:
        return f"original_model_task_id must be {_TASKS[0]}, {_TASKS[1]} or {_TASKS[2]} type"
    return True


#: Id and class of a stand-in for missing sources; its output fits everywhere.
STUB: Final = "\0anything"
_STUB_DEFINITION: Final = {"input": {}, "output": ["*"], "output_node": False}
#: Keys that the server puts into the definition of each V3 class.
_V3: Final = ("api_node", "deprecated", "experimental", "output_tooltips")

#: A definition of known shape.
Definition = dict[str, Any]


@attrs.frozen(eq=False)
class Rules:
    """Definitions for :func:`~comfy_client.workflow.validate.validate`, by node.

    A class whose inputs depend on their values has one definition for each node.

    Attributes:
        by_node: The definition of each node, by id; a node whose class is unknown has none.
        classes: The name of each node's definition, by node id.
        definitions: All definitions by name.
        checks: The nodes' own checks of files, by name.
        version: The server version that the definitions indicate.
        unchecked: Choices that this server does not check, by node id and input.
        selectors: Dynamic combos without one of their choices, by node id: the server checks
            neither them nor the inputs that they would add.
        open_nodes: Ids of nodes that may have further inputs.
    """

    by_node: dict[str, Definition]
    classes: dict[str, str]
    definitions: dict[str, Definition]
    checks: dict[str, ExtraCheck]
    version: ServerVersion
    unchecked: dict[str, dict[str, list[Any]]]
    selectors: dict[str, list[InputSpec]]
    open_nodes: set[str]

    def graph(self, graph: Mapping[str, Any]) -> dict[str, Any]:
        """Return a copy of a graph in which each class is the name of the node's definition."""
        return {
            node_id: node
            if self.classes.get(node_id, class_of(graph, node_id)) == class_of(graph, node_id)
            else {**node, "class_type": self.classes[node_id]}
            for node_id, node in graph.items()
        }

    def is_output(self, node_id: str) -> bool:
        """Return whether a node is an output node, which runs although nothing uses it."""
        return node_id in self.by_node and bool(self.by_node[node_id]["output_node"])

    def mended(self, graph: Mapping[str, Any]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
        """Return the graph without parts that make the server fail, and the places of bad links."""
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
        """Return whether a link leads to an existing output."""
        source, slot = link
        if not isinstance(source, str) or source not in graph or source == STUB:
            return bool(source == STUB)
        try:
            _ = self.by_node[source]["output"][slot]
        except (IndexError, TypeError):
            return False
        return True

    def with_outputs(self, node_ids: Iterable[str]) -> Rules:
        """Return rules in which these nodes are output nodes, too."""
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


def rules_for(
    graph: Mapping[str, Any], found: Mapping[str, Any], listed: Listed = lambda folder: None
) -> Rules:
    """Return the rules for a graph.

    Args:
        graph: A graph as JSON carries it.
        found: Definitions by class, as JSON of any shape.
        listed: Returns the names of the files in a folder of the server; see :data:`Listed`.
    """
    rules = Rules({}, {}, {STUB: _STUB_DEFINITION}, {}, _version(found), {}, {}, set())
    made: dict[str, _Made] = {}
    dynamic = {name for name, definition in found.items() if _is_dynamic(definition, name)}
    for node_id, node in graph.items():
        name = node.get("class_type") if isinstance(node, Mapping) else None
        if not isinstance(name, str) or name not in found:
            continue
        key = f"{name}\n{node_id}" if name in dynamic else name
        if key not in made:
            given = inputs_of(graph, node_id)
            made[key] = one = _make(found[name], name, given, rules.version, listed)
            rules.definitions[key] = one.definition
            if one.check is not None:
                rules.checks[key] = one.check
        one = made[key]
        rules.classes[node_id], rules.by_node[node_id] = key, one.definition
        if one.unchecked:
            rules.unchecked[node_id] = one.unchecked
        if one.selectors:
            rules.selectors[node_id] = one.selectors
        if one.is_open:
            rules.open_nodes.add(node_id)
    return rules


def _version(found: Mapping[str, Any]) -> ServerVersion:
    """Return the server version that definitions indicate."""
    keys = {key for one in found.values() if isinstance(one, Mapping) for key in one}
    return "0.28" if "search_aliases" in keys else "0.8" if "is_input_list" in keys else "0.3.75"


def replaces_classes(found: Mapping[str, Any]) -> bool:
    """Return whether a server with these definitions replaces removed classes."""
    return _version(found) == "0.28"


@attrs.frozen(eq=False)
class _Made:
    """Rules that result from one definition."""

    definition: Definition
    check: ExtraCheck | None
    unchecked: dict[str, list[Any]]
    selectors: list[InputSpec]
    is_open: bool


def _declared(definition: Definition) -> list[str]:
    return [*definition["input"]["required"], *definition["input"]["optional"]]


def _is_dynamic(definition: Mapping[str, Any], class_type: str) -> bool:
    """Return whether the rules for a node of this class depend on the node's values."""
    for group in table_at(definition, "input").values():
        for config in table_at(group).values():
            kind = config[0] if isinstance(config, list) and config else None
            if isinstance(kind, str) and kind.startswith("COMFY_"):
                return True
    specs = (one for one in walk(definition, {}) if isinstance(one, InputSpec))
    return any(has_hidden_choices(definition, class_type, one) for one in specs)


def _make(
    source: Mapping[str, Any],
    class_type: str,
    given: Mapping[str, Any],
    version: ServerVersion,
    listed: Listed,
) -> _Made:
    specs = [*walk(source, given, defaults=False)]
    is_open = takes_more(class_type) or any(isinstance(one, str) for one in specs)
    inputs = [one for one in specs if isinstance(one, InputSpec)]
    selectors = [one for one in inputs if one.is_selector and given.get(one.name) not in one.kind]
    free: list[str] = []
    files: dict[str, FileInput] = {}
    unchecked: dict[str, list[Any]] = {}
    for spec in inputs:
        file = file_input(source, class_type, spec)
        if has_hidden_choices(source, class_type, spec) and is_hidden_choice(given.get(spec.name)):
            free.append(spec.name)
        is_free = spec.name in free or takes_any(source, class_type, spec)
        if file:
            files[spec.name] = file
        elif spec.choices is not None and (is_free or _is_unchecked(spec, version)):
            unchecked[spec.name] = spec.choices
    left_out = {one.name for one in selectors}
    looked_at = [one for one in specs if getattr(one, "name", "") not in left_out]
    return _Made(
        _definition(source, looked_at, given),
        own_check(class_type, files, free, listed, stays_inside=version == "0.28"),
        unchecked,
        selectors,
        is_open or bool(selectors),
    )


def _definition(
    source: Mapping[str, Any],
    specs: Iterable[InputSpec | Autogrow | str],
    given: Mapping[str, Any],
) -> Definition:
    """Build a node definition with only these inputs; replace malformed parts by empty ones."""
    required: dict[str, Any] = {}
    optional: dict[str, Any] = {}
    for spec in specs:
        match spec:
            case Autogrow():
                part = [spec.part.kind, spec.part.options]
                optional |= {name: part for name in given if spec.has(name)}
                required |= {spec.part_name(index): part for index in range(spec.least)}
            case InputSpec():
                group = required if spec.required else optional
                group[spec.name] = [spec.kind, spec.options]
    outputs = list_at(source, "output")
    return {
        "input": {
            "required": required,
            "optional": optional,
            "hidden": table_at(source, "input", "hidden"),
        },
        "output": ["*" if one == "COMFY_MATCHTYPE_V3" else one for one in outputs],
        "output_node": source.get("output_node") is True,
        **{name: source[name] for name in _V3 if name in source},
    }


def _is_unchecked(spec: InputSpec, version: ServerVersion) -> bool:
    """Return whether a server of this version leaves the choices of an input unchecked."""
    options = spec.options
    is_list = isinstance(spec.kind, list) or any(name.startswith("remote") for name in options)
    return version == "0.3.75" and not is_list and not options.get("multiselect")
