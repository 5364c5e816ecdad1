"""The versions of ComfyUI that a server can be like, and what each of them requires.

A server of a version behaves like the release in :data:`RELEASES`.  The code of a behaviour asks
:func:`since` which version it came with.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal, get_args

import attrs

#: Versions, oldest first: 0.3.75 of November 2025; 0.28.1 of July 2026; 0.33.0 of August 2026.
Version = Literal["0.3.75", "0.28", "0.33"]
DEFAULT_VERSION: Final[Version] = "0.28"
_FORMER_NAMES = {"0.8": "0.28", "new": "0.28"}


@attrs.frozen
class Release:
    """A release of ComfyUI, and the releases of the packages that it requires."""

    comfyui: str
    page: str
    templates: str
    docs: str


RELEASES: Final[Mapping[Version, Release]] = MappingProxyType(
    {
        "0.3.75": Release("0.3.75", page="1.32.9", templates="0.7.25", docs="0.3.1"),
        "0.28": Release("0.28.1", page="1.45.21", templates="0.11.11", docs="0.5.8"),
        "0.33": Release("0.33.0", page="1.49.6", templates="0.11.44", docs="0.5.10"),
    }
)


def check_version(version: str) -> None:
    """Raise ValueError unless the version is one of those in :data:`Version`."""
    if version not in get_args(Version):
        wanted, former = ", ".join(get_args(Version)), _FORMER_NAMES.get(str(version))
        hint = f"; {former!r} has taken its place" if former else ""
        raise ValueError(f"version must be one of {wanted}, not {version!r}{hint}")


def since(version: Version, first: Version) -> bool:
    """Return whether a version behaves like another one or came after it."""
    versions = get_args(Version)
    return versions.index(version) >= versions.index(first)


def version_with(object_info: object) -> Version:
    """Return the version that has the node definitions of ``ComfyServer(object_info=...)``.

    This is the default version for definitions that are not those of a release.
    """
    for version, release in RELEASES.items():
        if release.comfyui == object_info:
            return version
    return DEFAULT_VERSION
