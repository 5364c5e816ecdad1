"""Errors as notebooks and pytest show them: the user's own lines and the message.

``__traceback__`` stays whole, for ``%debug``, ``traceback`` and logs.  An error that the library
did not mean to raise is a bug, and is shown in full; so is everything with the logger
``comfy_client`` at ``DEBUG``, in IPython with ``%tb Verbose`` and ``%xmode Verbose``, and in pytest
with ``--full-trace``.
"""

from __future__ import annotations

import copy
import logging
import sys
import traceback
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, Final

_LIBRARIES: Final = sys.stdlib_module_names | {
    "requests",
    "urllib3",
    "websocket",
    "socks",
    "blinker",
}
#: The most characters of a cause that are shown.
_LONGEST_CAUSE: Final = 300


def rendered(exc: BaseException) -> list[str]:
    """Return an exception as IPython shows it: without this library's frames, by default."""
    shell, frames = _shell(), exc.__traceback__
    if not _in_full(shell):
        exc, frames = _without_chain(exc), users(frames)
    if shell is None:
        return traceback.format_exception(type(exc), exc, frames)
    lines: list[str] = shell.InteractiveTB.structured_traceback(type(exc), exc, frames)
    return lines


def shorten_in_notebook() -> None:
    """Make IPython show every error that the library raises as :func:`rendered` does.

    Its formatter is asked for all tracebacks, those of ``%tb`` and ``%run`` included.
    """
    shell = _shell()
    if not hasattr(shell, "InteractiveTB"):
        return
    formatted = shell.InteractiveTB.structured_traceback

    def structured_traceback(
        kind: type, exc: BaseException, frames: TracebackType | None = None, *args: Any, **kw: Any
    ) -> Any:
        whose = [is_users for _, is_users in _steps(frames)]
        if not all(whose) and not _in_full(shell) and _is_meant(exc, frames):
            if not whose[-1]:  # the user's own error keeps its chain
                exc = _without_chain(exc)
            frames = users(frames)
        return formatted(kind, exc, frames, *args, **kw)

    shell.InteractiveTB.structured_traceback = structured_traceback


def _shell() -> Any:
    get = getattr(sys.modules.get("IPython"), "get_ipython", None)  # while it is imported, none
    return None if get is None else get()


def _in_full(shell: Any) -> bool:
    """Return whether the user wants all frames."""
    if shell is not None and shell.InteractiveTB.mode == "Verbose":
        return True
    return logging.getLogger("comfy_client").isEnabledFor(logging.DEBUG)


def _without_chain(exc: BaseException) -> BaseException:
    """Return a copy of an exception without its chain of causes, whose tracebacks are long.

    A note names the direct cause.
    Return the exception itself if it cannot be copied.
    """
    try:
        shown = copy.copy(exc)
    except Exception:  # noqa: BLE001  # a class whose ``__init__`` does not allow copies
        return exc
    cause = exc.__cause__
    if cause is not None and str(cause) not in str(exc):
        text = " ".join(str(cause).split())[:_LONGEST_CAUSE]
        text = "".join(sign if sign.isprintable() else "?" for sign in text)
        line = f"Caused by {type(cause).__name__}: {text}"
        shown.__notes__ = [*getattr(exc, "__notes__", ()), line]  # the copy shares the list
    return shown


def hide_frames(exc: BaseException | None) -> None:
    """Mark the frames that pytest should not show, in an exception and its causes."""
    seen: set[int] = set()
    while exc is not None and id(exc) not in seen:
        seen.add(id(exc))
        if exc.__traceback__ is not None and _is_meant(exc, exc.__traceback__):
            for step, is_users in _steps(exc.__traceback__):
                if not is_users:
                    step.tb_frame.f_locals["__tracebackhide__"] = True
        exc = exc.__cause__ or (None if exc.__suppress_context__ else exc.__context__)


def users(frames: TracebackType | None) -> TracebackType | None:
    """Return a traceback without the frames of this library and of libraries that it called.

    If nothing else is in it, return the whole traceback.
    """
    return joined(step for step, is_users in _steps(frames) if is_users) or frames


def steps_of(frames: TracebackType | None) -> Iterator[TracebackType]:
    """Yield each step of a traceback, the outermost first."""
    while frames is not None:
        yield frames
        frames = frames.tb_next


def joined(steps: Iterable[TracebackType]) -> TracebackType | None:
    """Return a traceback of these steps alone; None if there are none."""
    made: TracebackType | None = None
    for step in reversed([*steps]):
        made = TracebackType(made, step.tb_frame, step.tb_lasti, step.tb_lineno)
    return made


def _steps(frames: TracebackType | None) -> Iterator[tuple[TracebackType, bool]]:
    """Yield each step of a traceback, and whether it is in the user's code."""
    is_inside = False
    for step in steps_of(frames):
        package = _package(step)
        is_inside = is_inside or package == "comfy_client"
        yield step, not (package == "comfy_client" or (is_inside and package in _LIBRARIES))


def module_of(step: TracebackType) -> str:
    """Return the name of the module whose code a step is in."""
    return step.tb_frame.f_globals.get("__name__") or ""


def _package(step: TracebackType) -> str:
    return module_of(step).partition(".")[0]


def _is_meant(exc: BaseException, frames: TracebackType | None) -> bool:
    """Return whether an exception was raised on purpose, rather than by a bug of this library.

    True for the library's own errors, for those of the system and of the user's code, for what is
    no error, and for all that a ``raise`` statement of the library raised.
    """
    is_error = isinstance(exc, Exception) and not isinstance(exc, OSError)
    if not is_error or hasattr(exc, "_render_traceback_"):
        return True
    *_, (last, is_users) = _steps(frames)
    return is_users or (_package(last) == "comfy_client" and _raises(last))


def _raises(step: TracebackType) -> bool:
    """Return whether a step is a ``raise`` statement, not a call or an operation that failed."""
    from opcode import opmap  # for errors only

    return step.tb_frame.f_code.co_code[step.tb_lasti] == opmap["RAISE_VARARGS"]
