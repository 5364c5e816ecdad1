"""Errors as notebooks show them: the user's lines and the message, without our frames.

IPython asks an exception that has ``_render_traceback_`` for its text.  ``__traceback__`` stays
whole, for ``%debug``, ``traceback`` and logs; with the logger ``comfy_client`` at ``DEBUG``,
IPython shows all of it, too.
"""

from __future__ import annotations

import copy
import logging
import sys
import traceback
from types import TracebackType
from typing import Final

_LIBRARIES: Final = sys.stdlib_module_names | {
    "requests",
    "urllib3",
    "websocket",
    "socks",
    "blinker",
}
#: The most characters of a cause that are shown.
_SHOWN: Final = 300


def rendered(exc: BaseException) -> list[str]:
    """Return IPython's text for an exception: a line for its cause, and no frame of ours."""
    if logging.getLogger("comfy_client").isEnabledFor(logging.DEBUG):
        return _formatted(exc, exc.__traceback__)
    shown = copy.copy(exc)  # without its chain, whose frames take most of the space
    cause = exc.__cause__
    if cause is not None and str(cause) not in str(exc):
        text = " ".join(str(cause).split())[:_SHOWN]
        text = "".join(sign if sign.isprintable() else "?" for sign in text)
        line = f"Caused by {type(cause).__name__}: {text}"
        shown.__notes__ = [*getattr(exc, "__notes__", ()), line]  # the copy shares the list
    return _formatted(shown, users(exc.__traceback__))


def _formatted(exc: BaseException, frames: TracebackType | None) -> list[str]:
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is None:
        return traceback.format_exception(type(exc), exc, frames)
    lines: list[str] = shell.InteractiveTB.structured_traceback(type(exc), exc, frames)
    return lines


def users(frames: TracebackType | None) -> TracebackType | None:
    """Return a traceback without our frames and those of libraries that we called.

    If nothing else is in it, return the whole traceback.
    """
    kept = []
    is_inside = False
    step = frames
    while step is not None:
        package = step.tb_frame.f_globals.get("__name__", "").partition(".")[0]
        is_ours = package == "comfy_client"
        is_inside = is_inside or is_ours
        if not (is_ours or (is_inside and package in _LIBRARIES)):
            kept.append(step)
        step = step.tb_next
    made: TracebackType | None = None
    for step in reversed(kept):
        made = TracebackType(made, step.tb_frame, step.tb_lasti, step.tb_lineno)
    return made or frames


def _rendered_now() -> list[str]:
    exc = sys.exception()
    if exc is None:
        raise RuntimeError("no exception is being handled")
    return rendered(exc)


def show_shortly(exc: BaseException | None) -> None:
    """Make IPython show a KeyboardInterrupt as briefly as an error of ours."""
    if isinstance(exc, KeyboardInterrupt):
        # Not a bound method: an exception that refers to itself would keep its frames alive.
        exc._render_traceback_ = _rendered_now  # type: ignore[attr-defined]


class _ShortInterrupts:
    """Context manager: apply :func:`show_shortly` to an exception of the block."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, exc: BaseException | None, frames: object) -> None:
        show_shortly(exc)


short_interrupts: Final = _ShortInterrupts()
