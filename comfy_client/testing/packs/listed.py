"""Packs and models in the lists of a Manager, which it can install; a few are made up."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import attrs
from attrs.validators import optional

from ..declared_nodes import declare_node
from ..stubs import guessed_definitions

_OWN: Final = "https://git.example.com"


#: A folder, as a pack gets it.
_NAME: Final = re.compile(r"(?!\.)[\w .-]{1,200}")


def _definitions(
    classes: Mapping[str, Mapping[str, Any] | None] | Iterable[str],
) -> Mapping[str, Mapping[str, Any] | None]:
    """Return a copy of definitions by class, each checked."""
    if isinstance(classes, str) or not isinstance(classes, Iterable):
        raise TypeError(f"classes is a list of names, or a dict, not {classes!r:.100}")
    found = {**classes} if isinstance(classes, Mapping) else dict.fromkeys(classes)
    for name, definition in found.items():
        if not isinstance(name, str) or not isinstance(definition, Mapping | None):
            raise TypeError(f"classes has dicts by name, not {definition!r:.100} by {name!r:.100}")
        if definition is not None:
            declare_node(name, definition)
    return found


def _check_texts(of: object, attribute: Any, value: object) -> None:
    """Check a field of a pack or a model that is a text."""
    if not isinstance(value, str):
        raise TypeError(f"{attribute.name} is a text, not {value!r:.100}")


_TEXT: Final[Any] = _check_texts


@attrs.frozen(kw_only=True, eq=False)
class ListedPack:
    """A node pack in the list of a Manager, which the Manager can install.

    Attributes:
        name: Its id in the registry, or of a pack without ``version`` the folder that it gets.
        url: The address of its repository.  One that is not http or https is refused.
        version: Its newest version in the registry; ``None``: it is installed from its repository.
        classes: The node classes that it brings: their names, or a dict of a definition by name, as
            ``GET /object_info`` has it; ``None``: one that takes any inputs, and whose outputs fit
            any input.
        title: Its name for people; ``""``: ``name``.
        update: The version, or the commit, that an update brings; ``None``: there is nothing newer.
        import_error: The message with which it fails to import after the restart; ``""``: it does
            not fail.

    Raises:
        ValueError: A definition is invalid, or ``name`` is not the name of a folder.
        TypeError: An argument of another type.
    """

    name: str = attrs.field(validator=_TEXT)
    url: str = attrs.field(validator=_TEXT)
    version: str | None = attrs.field(default=None, validator=optional(_TEXT))
    classes: Mapping[str, Mapping[str, Any] | None] = attrs.field(
        factory=dict, converter=_definitions
    )
    title: str = attrs.field(default="", validator=_TEXT)
    update: str | None = attrs.field(default=None, validator=optional(_TEXT))
    import_error: str = attrs.field(default="", validator=_TEXT)

    def __attrs_post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"name is a folder below custom_nodes, not {self.name!r:.100}")


def node_types(pack: ListedPack) -> dict[str, type]:
    """Return the node classes of a pack, by name; none if it fails to import."""
    module = {"python_module": f"custom_nodes.{pack.name}"}
    definitions = guessed_definitions(pack.classes, {})
    definitions |= {name: given for name, given in pack.classes.items() if given is not None}
    return {
        name: declare_node(name, {**module, **definition})
        for name, definition in definitions.items()
        if not pack.import_error
    }


def first_version(pack: ListedPack) -> str:
    """Return the version that is installed, or the commit of the repository."""
    return pack.version or hashlib.sha1(pack.url.encode()).hexdigest()  # noqa: S324  no secret


@attrs.frozen(kw_only=True)
class ListedModel:
    """A model file in the list of a Manager, which the Manager can download.

    Attributes:
        filename: The name of the file.
        url: The address of the file.  Nothing is downloaded; the file has no weights.
        save_path: The folder below ``models``; ``"default"``: that of the type.
        type: What kind of model it is, such as ``"lora"``.
        base: The model that it is for, such as ``"SDXL"``.
        name: Its name for people; ``""``: ``filename``.
        size: Its size for people, such as ``"144MB"``.
    """

    filename: str = attrs.field(validator=_TEXT)
    url: str = attrs.field(validator=_TEXT)
    save_path: str = attrs.field(default="default", validator=_TEXT)
    type: str = attrs.field(default="checkpoint", validator=_TEXT)
    base: str = attrs.field(default="SD1.x", validator=_TEXT)
    name: str = attrs.field(default="", validator=_TEXT)
    size: str = attrs.field(default="1KB", validator=_TEXT)


#: The made-up packs and models that each Manager lists.
PACKS: Final = (
    ListedPack(
        name="example-upscalers",
        url=f"{_OWN}/example-upscalers",
        classes={
            "ExampleUpscale": {
                "input": {"required": {"image": ["IMAGE"], "factor": ["INT", {"default": 2}]}},
                "output": ["IMAGE"],
                "output_node": False,
            }
        },
        title="Upscalers (example)",
    ),
    ListedPack(
        name="example-styles",
        url=f"{_OWN}/example-styles",
        version="1.0.0",
        classes={
            "ExampleStyle": {
                "input": {"required": {"text": ["STRING", {"default": ""}]}},
                "output": ["STRING"],
                "output_node": False,
            }
        },
        title="Styles (example)",
    ),
    ListedPack(
        name="example-broken",
        url=f"{_OWN}/example-broken",
        classes=["ExampleBroken"],
        title="A pack that fails to import (example)",
        import_error="No module named 'example_library'",
    ),
)
MODELS: Final = (
    ListedModel(
        filename="example_style.safetensors",
        url="https://models.example.com/example_style.safetensors",
        save_path="loras",
        type="lora",
        name="Style (example)",
    ),
    ListedModel(
        filename="example_xl.safetensors",
        url="https://models.example.com/example_xl.safetensors",
        save_path="checkpoints/XL",
        base="SDXL",
        name="XL (example)",
    ),
)
