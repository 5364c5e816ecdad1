"""Answers about files that were sent to the server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from ._base import build


@attrs.frozen
class UploadedImage:
    """Where the server put an upload; the name may differ from the one that was asked for."""

    name: str
    subfolder: str = ""
    type: str = "input"  #: ``input``, ``temp`` or ``output``.
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False, eq=False)

    @classmethod
    def from_json(cls, data: object) -> UploadedImage:
        """From ``{"name", "subfolder", "type"}``."""
        return build(cls, data)

    @property
    def filename(self) -> str:
        """The name under which ``/view`` and outputs know it."""
        return self.name

    @property
    def ref(self) -> str:
        """What the ``image`` input of ``LoadImage`` takes: ``subfolder/name [type]``."""
        folder = self.subfolder.replace("\\", "/").strip("/")
        path = f"{folder}/{self.name}" if folder else self.name
        return path if self.type == "input" else f"{path} [{self.type}]"
