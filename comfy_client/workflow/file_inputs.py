"""Files as values of inputs, which are uploaded on submission."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, TypeGuard

from .graph import JSON_TYPES, class_of, inputs_of

if TYPE_CHECKING:
    from ..upload import Upload

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
    """Return an :class:`Upload` for a local file, a name for an uploaded one, or the value itself.

    A text stays as it is, since it names a file on the server.  Only ComfyUI's own loaders take a
    data URL or web URL, which other nodes may use as a text.

    Raises:
        FileNotFoundError: A path that leads to nothing.
        ValueError: The file cannot be sent; or it is a model, which cannot be an input.
    """
    if isinstance(value, str):
        if _LOADERS.get(class_of(graph, node_id) or "") != name:
            return value
        if not re.match("data:|https?://", value, re.IGNORECASE):
            return value
        from ..upload import Upload  # most programs send no files

        return Upload(value)
    if type(value) in JSON_TYPES:
        return value
    ref = getattr(value, "ref", None)
    if isinstance(ref, str):
        return ref
    from ..upload import Upload, is_file

    if not is_file(value):
        return value
    if name.endswith("_name"):
        raise ValueError(f"{value!r:.100} is not the name of a model on the server")
    return Upload(value)


def is_upload(value: object) -> TypeGuard[Upload]:
    """Return whether a value is a file that is still to be uploaded."""
    if type(value) in JSON_TYPES:
        return False
    from ..upload import Upload  # most programs send no files

    return isinstance(value, Upload)


def files_in(graph: Mapping[str, Any]) -> dict[tuple[str, str], Upload]:
    """Return the files that are still to be uploaded, by node id and input."""
    return {
        (node_id, name): value
        for node_id in graph
        for name, value in inputs_of(graph, node_id).items()
        if type(value) not in JSON_TYPES and is_upload(value)
    }
