"""Profiles: named servers in the user's ``comfy-client/config.toml``."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from ..nearest import nearest
from ..user_folder import user_folder
from .exits import Mistake, line

#: The keys of a profile, and their types.
KEYS: Final[Mapping[str, type]] = {
    "host": str,
    "token": str,
    "login": str,
    "token-file": str,
    "login-file": str,
    "ca": str,
    "insecure": bool,
    "hosted": bool,
    "private-storage": bool,
    "partner-key": bool,
    "user": str,
    "max-json": str,
    "no-cache": bool,
}
_SECRETS: Final = ("token", "login")
#: The most bytes that are read of a file.
_MOST_OF_CONFIG: Final = 1 << 20


def config_path() -> Path:
    """Return the path of the config file."""
    return user_folder("config") / "comfy-client" / "config.toml"


@attrs.frozen
class Config:
    """The content of the config file.

    Attributes:
        path: The path of the file, whether it exists or not.
        profiles: The settings of each profile, by the name of the profile.
        default: The name of the profile that is used unless another one is named; ``None``: none.
    """

    path: Path
    profiles: Mapping[str, Mapping[str, Any]] = attrs.field(factory=dict, repr=False)
    default: str | None = None

    def profile(self, name: str) -> Mapping[str, Any]:
        """Return a profile's settings; raise :class:`Mistake` with the nearest names if unknown."""
        if name in self.profiles:
            return self.profiles[name]
        near = nearest(name, self.profiles) or tuple(self.profiles)
        there = ", ".join(near) if near else "none"
        raise Mistake(f"no profile {name!r} in {self.path}; there is {there}")


def load_config() -> Config:
    """Read the config file, if it exists.

    Raises:
        Mistake: It is not TOML, has unknown settings, other users may write it, or may read the
            secrets in it.
    """
    path = config_path()
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(_MOST_OF_CONFIG)
    except (FileNotFoundError, NotADirectoryError):
        return Config(path)
    except OSError as exc:  # a folder, or another user's file
        raise Mistake(f"{path}: {exc.strerror}") from None
    if os.name == "posix" and mode & (stat.S_IWGRP | stat.S_IWOTH):
        # Others could redirect the environment's secrets to their own host.
        raise Mistake(f"{path} says where secrets go, and others may write it: {_closed(path)}")
    config = _parsed(path, content)
    if _has_secrets(config) and is_open_to_others(mode):
        raise Mistake(f"{path} holds secrets, and others may read it: {_closed(path)}")
    return config


def _closed(path: Path) -> str:
    """Return the command that takes a file from others."""
    return line("chmod", "600", str(path))


def is_open_to_others(mode: int) -> bool:
    """Return whether a file mode lets other users read or write (POSIX only)."""
    return os.name == "posix" and bool(mode & (stat.S_IRWXG | stat.S_IRWXO))


def _parsed(path: Path, content: bytes) -> Config:
    import tomllib

    try:
        data = tomllib.loads(content.decode())
    except ValueError as exc:
        raise Mistake(f"{path}: {exc}") from None
    except RecursionError:
        raise Mistake(f"{path}: it is nested too deeply") from None
    for name in data:
        if name not in ("default", "profiles"):
            raise Mistake(f"{path}: {name!r} is neither 'default' nor a table [profiles.NAME]")
    profiles, default = data.get("profiles", {}), data.get("default")
    if not isinstance(profiles, dict) or not all(isinstance(p, dict) for p in profiles.values()):
        raise Mistake(f"{path}: a profile is a table [profiles.NAME]")
    if not isinstance(default, str | None):
        raise Mistake(f"{path}: default must be a string, the name of a profile")
    for name, profile in profiles.items():
        _check(path, name, profile)
    config = Config(path, profiles, default)
    if default is not None:
        config.profile(default)
    return config


def _check(path: Path, name: str, profile: Mapping[str, Any]) -> None:
    for key, value in profile.items():
        if key not in KEYS:
            near = nearest(key, KEYS) or tuple(KEYS)
            raise Mistake(f"{path}, profile {name!r}: no key {key!r}; there is {', '.join(near)}")
        if type(value) is not KEYS[key]:
            wanted = "true or false" if KEYS[key] is bool else "a string"
            raise Mistake(f"{path}, profile {name!r}: {key} must be {wanted}")
    if not profile.get("host", "-").strip():
        raise Mistake(f"{path}, profile {name!r}: host is empty")
    has_server = "host" in profile or profile.get("hosted")
    if not has_server and any(key.startswith(_SECRETS) for key in profile):
        raise Mistake(f"{path}, profile {name!r}: a login or token needs a host, and there is none")


def _has_secrets(config: Config) -> bool:
    return any(
        any(key in profile for key in _SECRETS) or "@" in profile.get("host", "")
        for profile in config.profiles.values()
    )
