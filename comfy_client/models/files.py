"""Answers about files that were sent to the server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from ..to_dict import AsDict
from ..values import build


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
