"""Makes ``comfy_client/schema.json`` of the classes that have ``to_dict()``, and checks by it.

``python -m tests.json_schema`` writes it anew.  Types are those of the annotations, texts those of
the docstrings.
"""

from __future__ import annotations

import inspect
import json
import re
import types
import typing
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema

import comfy_client
from comfy_client import models
from comfy_client.errors import ConversionWarning
from comfy_client.events import NodeProgress
from comfy_client.jobs.describe import JobSnapshot
from comfy_client.to_dict import AsDict, names_in_dict
from comfy_client.workflow.problems import Problem

PATH = Path(comfy_client.__file__).with_name("schema.json")

#: By name in the schema.
CLASSES: dict[str, type[AsDict]] = {
    name: value
    for module in (comfy_client, models)
    for name in module.__all__
    if inspect.isclass(value := getattr(module, name)) and issubclass(value, AsDict)
} | {"Job": JobSnapshot, "ConversionWarning": ConversionWarning}
NAMES = {kind: name for name, kind in CLASSES.items()}

#: What the annotations do not say.
TYPES: dict[tuple[str, str], Any] = {
    ("ProgressState", "nodes"): Mapping[str, NodeProgress],
    ("OutputFile", "url"): str | None,
    ("PromptRejected", "problems"): tuple[Problem, ...],
    ("WorkflowError", "problems"): tuple[Problem, ...],
}
_SIMPLE = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
_TRUNCATED = {
    "const": True,
    "description": "Only if it is too large: texts, lists or objects in it are cut.",
}


def schema() -> dict[str, Any]:
    """The whole schema."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "What to_dict() of comfy_client returns, by class",
        "$defs": {name: described(name) for name in sorted(CLASSES)},
    }


def described(name: str) -> dict[str, Any]:
    """One class."""
    cls = CLASSES[name]
    names = names_in_dict(cls)
    texts = explained(cls)
    properties = {
        each: {**schema_of(type_of(name, each)), "description": texts[each]} for each in names
    }
    return {
        "type": "object",
        "description": plain((inspect.getdoc(cls) or "").partition("\n\n")[0]),
        "properties": {**properties, "truncated": _TRUNCATED},
        "required": list(names),
    }


def type_of(class_name: str, name: str) -> Any:
    """The annotation of a field, or of what a property returns."""
    if (class_name, name) in TYPES:
        return TYPES[class_name, name]
    for base in CLASSES[class_name].__mro__:
        found = vars(base).get(name)
        if isinstance(found, property):
            return typing.get_type_hints(found.fget)["return"]
        if name in inspect.get_annotations(base):
            return typing.get_type_hints(base)[name]
    raise KeyError(name)


def schema_of(hint: Any) -> dict[str, Any]:
    """What JSON Schema says of a type."""
    kind, args = typing.get_origin(hint), typing.get_args(hint)
    if hint in _SIMPLE:
        return {"type": _SIMPLE[hint]}
    if hint in NAMES:
        return {"$ref": f"#/$defs/{NAMES[hint]}"}
    if kind in (typing.Union, types.UnionType):
        each = [schema_of(arg) for arg in args]
        if all(one.keys() == {"type"} for one in each):
            return {"type": [one["type"] for one in each]}
        return {"anyOf": each}
    if kind is typing.Literal:
        return {"enum": list(args)}
    if kind in (tuple, Sequence) or hint is tuple:
        return {"type": "array", "items": schema_of(args[0]) if args else {}}
    if kind in (Mapping, dict):
        return {"type": "object", "additionalProperties": schema_of(args[1])}
    if hint is datetime:
        return {"type": "string", "format": "date-time"}
    if hint is Path:
        return {"type": "string"}
    if inspect.isclass(hint) and issubclass(hint, BaseException):
        return {"$ref": "#/$defs/ComfyError"}
    assert hint in (Any, object), hint
    return {}


def explained(cls: type) -> dict[str, str]:
    """By name, the text of ``Attributes:`` or of the property."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        text = inspect.cleandoc(base.__doc__ or "")
        for section in re.findall(r"^Attributes:\n((?:    .*\n?|\n)+)", text, re.MULTILINE):
            for name, words in re.findall(r"^    (\w+): (.*(?:\n     .*)*)", section, re.MULTILINE):
                found[name] = plain(words)
        for name, value in vars(base).items():
            if isinstance(value, property):
                found[name] = plain((value.__doc__ or "").partition("\n\n")[0])
    return found


def plain(text: str) -> str:
    """Without markup and line ends."""
    text = re.sub(r":\w+:`~?\.?([^`]+)`", r"\1", text).replace("``", "")
    return " ".join(text.split())


@cache
def shipped() -> dict[str, Any]:
    """The schema of the package."""
    found: dict[str, Any] = json.loads(PATH.read_text(encoding="utf-8"))
    return found


@cache
def validator(name: str) -> jsonschema.Draft202012Validator:
    """What checks a dict of that class."""
    assert name in shipped()["$defs"]
    one = {**shipped(), "$ref": f"#/$defs/{name}"}
    return jsonschema.Draft202012Validator(one, format_checker=jsonschema.FormatChecker())


def check(value: dict[str, Any], name: str) -> None:
    """A dict is what the shipped schema says, and has no other names."""
    validator(name).validate(value)
    assert value.keys() - {"truncated"} == set(shipped()["$defs"][name]["required"])


def check_to_dict(value: Any) -> dict[str, Any]:
    """What ``to_dict()`` says: as its schema has it, and whole after a way through JSON."""
    found: dict[str, Any] = value.to_dict()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    json.dumps(found, ensure_ascii=False).encode()
    check(found, NAMES.get(type(value)) or type(value).__name__)
    return found


if __name__ == "__main__":
    PATH.write_text(json.dumps(schema(), indent=1) + "\n", encoding="utf-8")
