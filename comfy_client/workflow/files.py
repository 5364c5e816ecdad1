"""Files as values of inputs: they are sent when the workflow is submitted."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from ..upload import Upload, is_file
from .graph import class_of, inputs_of

#: The inputs of ComfyUI's own loaders that name a file of the server.
_LOADERS: Final = {
    "LoadImage": "image",
    "LoadImageMask": "image",
    "LoadImageOutput": "image",
    "LoadAudio": "audio",
    "LoadVideo": "file",
    "Load3D": "model_file",
    "LoadLatent": "latent",
}


def as_file(graph: Mapping[str, Any], node_id: str, name: str, value: Any) -> Any:
    """An :class:`Upload` for what can only be a file, the name of one that was uploaded already,
    else the value.

    A text stays what it is, the name of a file on the server; only for ComfyUI's own loaders it is
    clear that a data URL is no name.

    Raises:
        FileNotFoundError: A path that leads to nothing.
        ValueError: A file that cannot be sent; or a model, which is no input.
    """
    if isinstance(value, str):
        if _LOADERS.get(class_of(graph, node_id) or "") != name:
            return value
        if re.match("data:|https?://", value, re.IGNORECASE):
            return Upload(value)
        return value
    ref = getattr(value, "ref", None)
    if isinstance(ref, str):
        return ref
    if not is_file(value):
        return value
    if name.endswith("_name"):
        raise ValueError(f"{value!r:.100} is no name of a model that the server has")
    return Upload(value)


def files_in(graph: Mapping[str, Any]) -> dict[tuple[str, str], Upload]:
    """The files that are still to be sent, by node id and input."""
    return {
        (node_id, name): value
        for node_id in graph
        for name, value in inputs_of(graph, node_id).items()
        if isinstance(value, Upload)
    }
