"""The security levels of a Manager: what each allows, by whom the server can be reached."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, get_args

#: The setting ``security_level``, the strictest first.
SecurityLevel = Literal["strong", "normal", "normal-", "weak"]
#: What an action may need; the first ones are allowed more often.
ActionNeed = Literal["none", "middle", "middle+", "high+"]

#: The levels at which an action is allowed, for a server on loopback, and for any other.
_LEVELS: Final[Mapping[ActionNeed, tuple[tuple[SecurityLevel, ...], tuple[SecurityLevel, ...]]]] = {
    "none": (get_args(SecurityLevel),) * 2,
    "middle": (("normal", "normal-", "weak"),) * 2,
    "middle+": (("normal", "normal-", "weak"), ()),
    "high+": (("normal-", "weak"), ()),
}


def checked_level(level: SecurityLevel) -> SecurityLevel:
    """Return a security level unchanged.

    Raises:
        ValueError: There is no such level.
    """
    if level not in get_args(SecurityLevel):
        known = ", ".join(get_args(SecurityLevel))
        raise ValueError(f"security_level must be one of {known}, not {level!r:.100}")
    return level


def allows(level: SecurityLevel, need: ActionNeed, *, is_local: bool) -> bool:
    """Return whether a security level allows an action on a server, on loopback or not."""
    of_local, of_others = _LEVELS[need]
    return level in (of_local if is_local else of_others)


def need_to_install(version: str) -> ActionNeed:
    """Return what the installation of a version needs: less if it is one of the registry."""
    return "middle+" if version in ("unknown", "nightly") else "middle"
