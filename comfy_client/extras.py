"""Late imports of optional libraries; a missing one raises an error that names the extra."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .errors import MissingExtra


@contextmanager
def needs_extra(extra: str, what: str) -> Iterator[None]:
    """Context manager: turn a failing import into :class:`MissingExtra`.

    ::

        with needs_extra("image", "a Pillow image"):
            from PIL import Image

    Args:
        extra: The name of the extra in ``setup.cfg``, without brackets.
        what: The feature that needs it, with which the message begins: ``"result.grid()"``.
    """
    try:
        yield
    except ImportError as exc:
        raise MissingExtra(
            f"{what} needs {exc.name or 'a library'}, of the extra [{extra}]: "
            f'pip install "comfy-client-blocking[{extra}]" ({exc})',
            extra=extra,
            name=exc.name,
        ) from exc
