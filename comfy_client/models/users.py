"""Answers about users and their files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from ..to_dict import AsDict
from ..values import Seconds, build


@attrs.frozen
class UserConfig(AsDict):
    """The server's users and how it stores them, from ``GET /users``.

    Attributes:
        storage: Where settings are stored: ``server``.
        migrated: Whether any data of the user exists; ``None`` with ``--multi-user``.
        users: User names by user id; ``None`` without ``--multi-user``.
        raw: The JSON object as received.
    """

    storage: str | None = None
    migrated: bool | None = None
    users: Mapping[str, str] | None = None
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False, eq=False)

    @classmethod
    def from_json(cls, data: object) -> UserConfig:
        """Parse the answer of a server with or without ``--multi-user``."""
        return build(cls, data)


@attrs.frozen
class UserDataInfo(AsDict):
    """A file of the user, from ``/userdata`` with ``full_info``.

    Attributes:
        path: The path with ``/``, relative to the listed folder if the file is in a list, and else
            to the user's root.
        size: Size in bytes.
        modified: When it was modified, in seconds since 1970.
        created: When it was created, in seconds since 1970.
        raw: The JSON object as received.
    """

    path: str
    size: int | None = None
    modified: Seconds | None = None
    created: Seconds | None = None
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False, eq=False)

    @classmethod
    def from_json(cls, data: object) -> UserDataInfo:
        """Parse one file of a list, or the answer to a store or a move.

        Since ComfyUI 0.21 the times come in milliseconds there.
        """
        return build(cls, data)


@attrs.frozen
class UserDataEntry(AsDict):
    """A file or folder of the user, from ``GET /v2/userdata``.

    Attributes:
        name: The last part of the path.
        path: The path with ``/``, relative to the user's root.
        type: ``file`` or ``directory``.
        size: Size in bytes; ``None`` for a directory.
        modified: When it was modified, in seconds since 1970; ``None`` for a directory.
        raw: The JSON object as received.
    """

    name: str
    path: str
    type: str
    size: int | None = None
    modified: Seconds | None = None
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False, eq=False)

    @classmethod
    def from_json(cls, data: object) -> UserDataEntry:
        """Parse one file or folder in the answer of ``GET /v2/userdata``."""
        return build(cls, data)
