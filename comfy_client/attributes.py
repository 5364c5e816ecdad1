"""Attributes that clients, pools and jobs lack: to read or to set one is an error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any


class KnownAttributes:
    """Base of classes whose objects have the attributes of their class, and no others.

    Subclasses in other packages may set attributes of their own.
    """

    if not TYPE_CHECKING:  # or any name would pass a type checker

        def __getattr__(self, name: str) -> Any:
            """Raise AttributeError, with the nearest name or the way to do it here."""
            if hasattr(type(self), name):  # a property raised it, and does so again
                return object.__getattribute__(self, name)
            raise _error(self, name)

        def __setattr__(self, name: str, value: Any) -> None:
            """Set an attribute; raise AttributeError, with the nearest name, if there is none."""
            if name[:1] != "_" and not _has(type(self), name):
                raise _error(self, name)
            super().__setattr__(name, value)


def _has(cls: type, name: str) -> bool:
    """Return whether objects of a class may have an attribute of that name."""
    return (
        hasattr(cls, name)
        or not cls.__module__.startswith(f"{__package__}.")
        or any(name in getattr(each, "__annotations__", ()) for each in cls.__mro__)
    )


def _error(owner: object, name: str) -> AttributeError:
    from .typescript import about  # for mistakes only

    return AttributeError(about(name, type(owner)), name=name, obj=owner)
