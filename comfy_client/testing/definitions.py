"""Node definitions that a server is given: of a version, in a file, or as a dict.

The package contains the definitions of all classes of ComfyUI 0.3.75, 0.28.1 and 0.33.0, without
tooltips and descriptions.  Inputs that offer files are found by their options, by the files that
were recorded, or by their names.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args

import attrs

from ..workflow.input_specs import Autogrow, InputSpec, walk
from ..workflow.model_files import folder_of
from ..workflow.rules import file_input
from .active_faults import check_seconds
from .folders import MODEL_ENDINGS, Folders

#: The definitions of a version, a path of a JSON file (or ``.json.gz``), or the definitions.
ObjectInfo = str | os.PathLike[str] | Mapping[str, Any]
#: Which names of model files a server accepts.
ModelNames = Literal["any", "recorded", "touched"]
#: What a server does with names of missing input files.
InputFiles = Literal["placeholder", "real"]
#: Which node classes a server accepts.
KnownNodes = Literal["known", "any"]

#: Versions whose definitions the package contains.
SHIPPED = ("0.3.75", "0.28.1", "0.33.0")
_ENDINGS = (*MODEL_ENDINGS, ".gguf", ".onnx", ".yaml")
#: Choices among the names of models that a ComfyUI offers though they are no files.
_WITHOUT_FILE = ("pixel_space",)
_GROUPS = ("required", "optional")
_GZIP = b"\x1f\x8b"


@attrs.frozen(kw_only=True)
class NodeSettings:
    """The options of a server that concern its nodes."""

    previews: bool
    step_seconds: float
    definitions: Mapping[str, Any]  # beside those of the nodes that the package plays
    models: ModelNames
    inputs: InputFiles
    nodes: KnownNodes
    seconds: Mapping[str, float]  # how long each node of a class takes

    @classmethod
    def of(
        cls,
        previews: bool,
        step_seconds: float,
        object_info: ObjectInfo | None,
        models: ModelNames | None,
        inputs: InputFiles | None,
        nodes: KnownNodes,
        node_seconds: Mapping[str, float] | None,
    ) -> NodeSettings:
        """Return checked settings; read the definitions.

        Raises:
            ValueError: An unknown word, a number out of range, or a file without definitions.
            TypeError: An argument of another type.
            OSError: The file cannot be read.
        """
        is_given = object_info is not None
        words = (
            ("models", models or ("any" if is_given else "touched"), ModelNames),
            ("inputs", inputs or ("placeholder" if is_given else "real"), InputFiles),
            ("nodes", nodes, KnownNodes),
        )
        for name, word, known in words:
            if word not in get_args(known):
                raise ValueError(f"{name} must be one of {', '.join(get_args(known))}: {word!r}")
        chosen: dict[str, Any] = {name: word for name, word, _ in words}
        return cls(
            previews=previews,
            step_seconds=check_seconds(step_seconds, "step_seconds must be"),
            definitions=read_definitions(object_info) if object_info is not None else {},
            seconds=_checked_seconds(node_seconds or {}),
            **chosen,
        )


def _checked_seconds(seconds: Mapping[str, float]) -> dict[str, float]:
    if not isinstance(seconds, Mapping):
        raise TypeError(f"node_seconds must be a dict of seconds by class, not {seconds!r}")
    for name, value in seconds.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"node_seconds[{name!r}] must be a number, not {value!r}")
        check_seconds(value, f"node_seconds[{name!r}] must be")
    return dict(seconds)


# -- reading -----------------------------------------------------------------------------


def read_definitions(source: ObjectInfo) -> dict[str, Any]:
    """Return the definitions of node classes by name.

    Raises:
        ValueError: They are not what ``GET /object_info`` answers; the message names the class.
        TypeError: The argument is something else.
        OSError: The file cannot be read.
    """
    if isinstance(source, Mapping):
        found: Any = json.loads(json.dumps(dict(source)))  # a copy
        where = "object_info"
    elif isinstance(source, str | os.PathLike):
        where = os.fspath(source)
        data = _shipped(where) if where in SHIPPED else _from_file(where)
        try:
            found = json.loads(gzip.decompress(data) if data.startswith(_GZIP) else data)
        except (ValueError, EOFError, gzip.BadGzipFile) as exc:
            raise ValueError(f"{where} contains no JSON: {exc}") from exc
    else:
        raise TypeError(f"object_info must be a version, a path or a dict, not {source!r}")
    if not isinstance(found, dict) or not found:
        raise ValueError(f"{where} must contain an object of node definitions by class")
    for name, definition in found.items():
        if (wrong := _fault_of(definition)) is not None:
            raise ValueError(f"{where}: the definition of {name} {wrong}")
        definition.setdefault("name", name)
        definition.setdefault("output_node", False)
    return found


def _shipped(version: str) -> bytes:
    return files(__package__).joinpath(f"object_info_{version}.json.gz").read_bytes()


def _from_file(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as exc:
        exc.add_note(f"object_info may be a file, or one of the versions {', '.join(SHIPPED)}")
        raise


def _fault_of(definition: Any) -> str | None:
    """Return why a value is not a node definition, or None if it is one."""
    if not isinstance(definition, dict):
        return "is not an object"
    if not isinstance(definition.get("output"), list):
        return "has no list of outputs"
    groups = definition.get("input")
    if not isinstance(groups, dict):
        return "has no inputs"
    for group in _GROUPS:
        inputs = groups.get(group, {})
        if not isinstance(inputs, dict) or not all(map(_is_config, inputs.values())):
            return f"has malformed {group} inputs"
    return None if isinstance(groups.get("hidden", {}), dict) else "has malformed hidden inputs"


def _is_config(config: Any) -> bool:
    return (
        isinstance(config, list)
        and bool(config)
        and isinstance(config[0], str | list)
        and all(isinstance(options, dict) for options in config[1:2])
    )


# -- inputs ------------------------------------------------------------------------------


def hidden_inputs(definition: Mapping[str, Any]) -> dict[str, str]:
    """Return the kind of each hidden input by name; V3 classes have it in a list."""
    hidden = definition["input"].get("hidden", {})
    kinds = {name: kind[0] if isinstance(kind, list) else kind for name, kind in hidden.items()}
    return {name: kind for name, kind in kinds.items() if isinstance(kind, str)}


def specs_of(definition: Mapping[str, Any]) -> Iterator[InputSpec]:
    """Yield the inputs of a class as its definition has them, required ones first."""
    for group in _GROUPS:
        for name, config in definition["input"].get(group, {}).items():
            options = config[1] if len(config) > 1 else {}
            yield InputSpec(name, config[0], options, group == "required")


def inputs_of_node(definition: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return type and options of a node's inputs by name; some depend on what it is given."""
    groups = definition["input"]
    known = {**groups.get("optional", {}), **groups.get("required", {})}
    if not any(isinstance(config[0], str) and "_V3" in config[0] for config in known.values()):
        return known
    opened: dict[str, list[Any]] = {}
    for spec in walk(definition, given, defaults=False):
        if isinstance(spec, Autogrow):
            opened |= {part.name: [part.kind, part.options] for part in spec.parts(given)}
        elif isinstance(spec, InputSpec) and (
            # The server drops a choice that a dynamic combo does not have.
            not spec.is_selector or given.get(spec.name) in spec.kind
        ):
            opened[spec.name] = [spec.kind, spec.options]
    return opened


def takes_model(definition: Mapping[str, Any], class_type: str, spec: InputSpec) -> bool:
    """Return whether an input names a model: a file, one of a service, or the kind of a file.

    An empty list of choices counts as one of files.
    """
    if spec.name.rpartition(".")[2] in ("model", "model_name"):
        return True
    others = specs_of(definition) if spec.name == "type" else ()
    return _offers_models(class_type, spec) or any(_offers_models(class_type, s) for s in others)


def _offers_models(class_type: str, spec: InputSpec) -> bool:
    """Return whether the choices of an input are files of models."""
    choices = spec.choices
    if choices is None:
        return isinstance(spec.kind, str) and spec.kind == "COMBO"
    if not choices or folder_of(class_type, spec.name) is not None:
        return True
    return any(isinstance(one, str) and one.lower().endswith(_ENDINGS) for one in choices)


@attrs.frozen
class FileChoices:
    """The choices of an input that offers the files of a folder."""

    spec: InputSpec
    _folder: str | None  # of models; None: the input folder
    _media: str = ""  # image, video or audio; empty: any file

    def listed(self, folders: Folders, models: ModelNames) -> list[Any]:
        """Return the names of the files; ``"any"`` keeps the recorded ones of models, too.

        What a ComfyUI offers without a file is always among them.
        """
        if self._folder is None:
            return list(folders.inputs(self._media))
        if models == "recorded":
            return self.spec.choices or []
        recorded = self.spec.choices or []
        more = [one for one in recorded if models == "any" or one in _WITHOUT_FILE]
        return list(dict.fromkeys([*folders.model_names(self._folder), *more]))


def file_choices(definition: Mapping[str, Any], folders: Folders) -> list[FileChoices]:
    """Return the inputs of a class that offer the files of a folder."""
    found = []
    class_type = definition["name"]
    for spec in specs_of(definition):
        media = file_input(definition, class_type, spec)
        folder = folder_of(class_type, spec.name)
        if media is not None:
            is_plain = class_type == "LoadImageMask" or media.what not in ("image", "video")
            found.append(FileChoices(spec, None, "" if is_plain else media.what))
        elif folder in folders.models and spec.choices is not None:
            found.append(FileChoices(spec, folder))
    return found


def with_choices(definition: dict[str, Any], choices: Mapping[str, list[Any]]) -> dict[str, Any]:
    """Return a definition in which some inputs have other choices."""
    groups = dict(definition["input"])
    for group in _GROUPS:
        for name in choices.keys() & groups.get(group, {}).keys():
            kind, *options = groups[group][name]
            config = [choices[name], *options]
            if not isinstance(kind, list):
                config = [kind, {**(options[0] if options else {}), "options": choices[name]}]
            groups[group] = {**groups[group], name: config}
    return {**definition, "input": groups}


def accepting(
    definitions: Mapping[str, Any],
    graph: Mapping[str, Any],
    is_free: Callable[[Mapping[str, Any], str, InputSpec], bool],
) -> dict[str, Any]:
    """Return definitions in which some inputs also offer what the nodes of a graph have there.

    ``is_free`` says of a definition, a class and an input whether any name is accepted.
    """
    more: dict[str, dict[str, dict[str, None]]] = {}  # by class and input
    for node in graph.values():
        name = node.get("class_type") if isinstance(node, dict) else None
        given = node.get("inputs") if isinstance(node, dict) else None
        if not isinstance(name, str) or name not in definitions or not isinstance(given, dict):
            continue
        class_type = name.partition("\n")[0]
        for spec in specs_of(definitions[name]):
            value = given.get(spec.name)
            value = value.get("__value__") if isinstance(value, dict) else value
            is_combo = isinstance(spec.kind, list) or spec.kind == "COMBO"
            if not isinstance(value, str) or not is_combo:
                continue
            is_known = value in (spec.choices or ())
            if not is_known and is_free(definitions[name], class_type, spec):
                more.setdefault(name, {}).setdefault(spec.name, {})[value] = None
    opened = {}
    for name, added in more.items():
        specs = [spec for spec in specs_of(definitions[name]) if spec.name in added]
        choices = {spec.name: [*(spec.choices or ()), *added[spec.name]] for spec in specs}
        opened[name] = with_choices(definitions[name], choices)
    return {**definitions, **opened}
