"""Answers about files that were sent to the server, and about files of models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from ..to_dict import AsDict
from ..values import Seconds, build, mapping, texts, whole


@attrs.frozen
class UploadedImage(AsDict):
    """An upload on the server; its name may differ from the one you asked for.

    Attributes:
        name: The file name.
        subfolder: The folder below that of ``type``; empty if there is none.
        type: The folder of the server: ``input``, ``temp`` or ``output``.
        raw: The JSON object as received.
    """

    _in_dict = ("name", "subfolder", "type", "ref")

    name: str
    subfolder: str = ""
    type: str = "input"
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False, eq=False)

    @classmethod
    def from_json(cls, data: object) -> UploadedImage:
        """Read ``{"name", "subfolder", "type"}``."""
        return build(cls, data)

    @property
    def filename(self) -> str:
        """The file name, under the key that ``/view`` and outputs use."""
        return self.name

    @property
    def ref(self) -> str:
        """The value for ``LoadImage``'s ``image`` input: ``sub/name`` or ``sub/name [type]``."""
        folder = self.subfolder.replace("\\", "/").strip("/")
        path = f"{folder}/{self.name}" if folder else self.name
        return unambiguous(path, self.type) if self.type == "input" else f"{path} [{self.type}]"


def unambiguous(name: str, type: str) -> str:
    """Return a file name, with its type appended if a server would misread a final ``[temp]``."""
    is_odd = name.endswith(("[input]", "[output]", "[temp]"))
    return f"{name} [{type}]" if is_odd else name


@attrs.frozen
class ModelFolder(AsDict):
    """A kind of model and the folders of its files, from ``GET /experiment/models``.

    Attributes:
        name: The kind of model: ``checkpoints``, ``loras``, ...
        folders: Paths on the server; ``path_index`` of a :class:`ModelFile` is an index into these.
        extensions: File name extensions of such models; empty: any.  Since ComfyUI 0.28, ``None``
            before.
        raw: The JSON object as received.
    """

    name: str
    folders: tuple[str, ...]
    extensions: tuple[str, ...] | None = attrs.field(default=None, repr=False)
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False, eq=False)

    @classmethod
    def from_json(cls, data: object) -> ModelFolder:
        """Parse one kind of model in the answer of ``GET /experiment/models``."""
        folders = texts(mapping(data, "ModelFolder").get("folders") or [], "ModelFolder.folders")
        return build(cls, data, folders=tuple(folders))


@attrs.frozen
class ModelFile(AsDict):
    """A model file, from ``GET /experiment/models/{folder}``.

    Attributes:
        name: The path relative to its folder, with the server's own separators.
        path_index: The index of its folder in ``folders`` of the :class:`ModelFolder`.
        size: Size in bytes.
        created: When it was created, in seconds since 1970.
        modified: When it was modified, in seconds since 1970.
        raw: The JSON object as received.
    """

    name: str
    path_index: int | None = None
    size: int | None = None
    created: Seconds | None = None
    modified: Seconds | None = None
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False, eq=False)

    @classmethod
    def from_json(cls, data: object) -> ModelFile:
        """Parse one file in the answer of ``GET /experiment/models/{folder}``."""
        return build(cls, data, path_index=whole(mapping(data, "ModelFile").get("pathIndex")))
