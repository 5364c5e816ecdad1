"""What ``from comfy_api.latest import io`` gives to a node: types, schemas, and results."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

from .dynamic import DYNAMIC
from .inputs import (
    LACKING,
    TYPES,
    ComfyTypeI,
    ComfyTypeIO,
    RemoteOptions,
    SchemaInput,
    SchemaOutput,
    WidgetInput,
    comfytype,
    custom_type,
)
from .schema import (
    ComfyNode,
    Hidden,
    HiddenHolder,
    NodeReplace,
    NodeReturn,
    PriceBadge,
    PriceBadgeDepends,
    Schema,
)

__all__ = [
    "ComfyNode",
    "ComfyTypeI",
    "ComfyTypeIO",
    "ControlAfterGenerate",
    "FileFolder",
    "Hidden",
    "HiddenHolder",
    "NodeReplace",
    "NumberDisplay",
    "PriceBadge",
    "PriceBadgeDepends",
    "RemoteOptions",
    "Schema",
    "UploadType",
    "WidgetInput",
    "comfytype",
]


class FileFolder(str, Enum):  # noqa: UP042  as in ComfyUI
    """A folder of the server."""

    input = "input"
    output = "output"
    temp = "temp"


class UploadType(str, Enum):  # noqa: UP042  as in ComfyUI
    """The kind of file that the page uploads for a choice."""

    image = "image_upload"
    audio = "audio_upload"
    video = "video_upload"
    model = "file_upload"


class NumberDisplay(str, Enum):  # noqa: UP042  as in ComfyUI
    """The form in which the page shows a number."""

    number = "number"
    slider = "slider"
    gradient_slider = "gradientslider"


class ControlAfterGenerate(str, Enum):  # noqa: UP042  as in ComfyUI
    """The change that the page makes to a value after each run."""

    fixed = "fixed"
    increment = "increment"
    decrement = "decrement"
    randomize = "randomize"


#: What has another name here.
_NAMES: Mapping[str, Any] = {
    "Custom": custom_type,
    "FolderType": FileFolder,
    "Input": SchemaInput,
    "NodeOutput": NodeReturn,
    "Output": SchemaOutput,
}


def __getattr__(name: str) -> Any:
    """Return a type, or something else that has another name in the package, by its name."""
    for known in (TYPES, DYNAMIC, _NAMES):
        if name in known:
            return known[name]
    raise AttributeError(LACKING.format(f"io.{name}"))
