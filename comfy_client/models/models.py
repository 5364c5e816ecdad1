"""Answers about model files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from ..values import whole
from ._base import Seconds, build, mapping, texts


@attrs.frozen
class ModelFolder:
    """A kind of model and where its files lie, from ``GET /experiment/models``."""

    name: str  #: ``checkpoints``, ``loras``, ...
    folders: tuple[str, ...]  #: Paths on the server; ``path_index`` counts them.
    #: Of the files that count as such models; empty: all.  Since ComfyUI 0.28, ``None`` before.
    extensions: tuple[str, ...] | None = attrs.field(default=None, repr=False)
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False, eq=False)

    @classmethod
    def from_json(cls, data: object) -> ModelFolder:
        """From one item of the answer."""
        folders = texts(mapping(data, "ModelFolder").get("folders") or [], "ModelFolder.folders")
        return build(cls, data, folders=tuple(folders))


@attrs.frozen
class ModelFile:
    """One model file, from ``GET /experiment/models/{folder}``."""

    name: str  #: Relative to its folder, with the server's own separators.
    path_index: int | None = None  #: Which of the :class:`ModelFolder`'s ``folders``.
    size: int | None = None  #: Bytes.
    created: Seconds | None = None  #: Seconds since 1970.
    modified: Seconds | None = None  #: Seconds since 1970.
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False, eq=False)

    @classmethod
    def from_json(cls, data: object) -> ModelFile:
        """From one item of the answer."""
        return build(cls, data, path_index=whole(mapping(data, "ModelFile").get("pathIndex")))
