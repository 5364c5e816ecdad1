"""The lists of a Manager: packs and models that it can install, some of them made up."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Final

import attrs

from ..declared_nodes import declare_node

_OWN: Final = "https://git.example.com"


def _definitions(
    classes: Mapping[str, Mapping[str, Any] | None] | Iterable[str],
) -> Mapping[str, Mapping[str, Any] | None]:
    if isinstance(classes, Mapping):
        return {**classes}
    if isinstance(classes, str):
        raise TypeError(f"classes is a list of names, or a dict, not {classes!r:.100}")
    return dict.fromkeys(classes)


@attrs.frozen(kw_only=True, eq=False)
class ListedPack:
    """A node pack in the list of a Manager, which the Manager can install.

    Attributes:
        name: Its id in the registry, or of a pack without ``version`` the folder that it gets.
        url: The address of its repository.  One that is not http or https is refused.
        version: Its newest version in the registry; ``None``: it is installed from its repository.
        classes: The node classes that it brings: their names, or a dict of a definition by name, as
            ``GET /object_info`` has it; ``None``: no inputs and no outputs.
        title: Its name for people; ``""``: ``name``.
        update: The version, or the commit, that an update brings; ``None``: there is nothing newer.
        import_error: The message with which it fails to import after the restart; ``""``: it does
            not fail.

    Raises:
        ValueError: A definition is none.
        TypeError: ``classes`` is something else.
    """

    name: str
    url: str
    version: str | None = None
    classes: Mapping[str, Mapping[str, Any] | None] = attrs.field(
        factory=dict, converter=_definitions
    )
    title: str = ""
    update: str | None = None
    import_error: str = ""

    def __attrs_post_init__(self) -> None:
        self.node_types()

    def node_types(self) -> dict[str, type]:
        """Return its node classes, by name; none if it fails to import."""
        module = {"python_module": f"custom_nodes.{self.name}"}
        return {
            name: declare_node(name, {**module, **(definition or {})})
            for name, definition in self.classes.items()
            if not self.import_error
        }

    @property
    def first_version(self) -> str:
        """The version that is installed, or the commit of the repository."""
        return self.version or hashlib.sha1(self.url.encode()).hexdigest()  # noqa: S324  no secret


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

    filename: str
    url: str
    save_path: str = "default"
    type: str = "checkpoint"
    base: str = "SD1.x"
    name: str = ""
    size: str = "1KB"


#: The packs and the models that each Manager lists.  Nobody has made them.
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
