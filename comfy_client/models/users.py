"""Answers about users and what the server keeps for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from ._base import Seconds, build


@attrs.frozen
class UserConfig:
    """How the server keeps users, from ``GET /users``."""

    storage: str | None = None  #: ``server``.
    migrated: bool | None = None  #: Only without ``--multi-user``: whether any data exists.
    users: Mapping[str, str] | None = None  #: Only with ``--multi-user``: names by user id.
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False, eq=False)

    @classmethod
    def from_json(cls, data: object) -> UserConfig:
        """From the answer of either mode."""
        return build(cls, data)


@attrs.frozen
class UserDataInfo:
    """One file of the user, from ``/userdata`` with ``full_info``."""

    path: str  #: With ``/``; in a list relative to the listed folder, else to the root.
    size: int | None = None  #: Bytes.
    modified: Seconds | None = None  #: Seconds since 1970.
    created: Seconds | None = None  #: Seconds since 1970.
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False, eq=False)

    @classmethod
    def from_json(cls, data: object) -> UserDataInfo:
        """From one item of a list, or the answer to a store or a move.

        Since ComfyUI 0.21 the times come in milliseconds there.
        """
        return build(cls, data)


@attrs.frozen
class UserDataEntry:
    """One file or folder of the user, from ``GET /v2/userdata``."""

    name: str
    path: str  #: With ``/``, relative to the user's root.
    type: str  #: ``file`` or ``directory``.
    size: int | None = None  #: Bytes; files only.
    modified: Seconds | None = None  #: Seconds since 1970; files only.
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False, eq=False)

    @classmethod
    def from_json(cls, data: object) -> UserDataEntry:
        """From one item of the answer."""
        return build(cls, data)
