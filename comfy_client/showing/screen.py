"""The kind of screen that the program has: notebook, terminal, log or none."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from importlib.util import find_spec
from typing import Any, Final, Literal

log: logging.Logger = logging.getLogger("comfy_client")

#: The environment variable for the default: 0 or 1.
VARIABLE: Final = "COMFY_PROGRESS"
_NO: Final = frozenset({"0", "false", "no", "off"})

#: A notebook; a terminal with tqdm; lines on stderr; lines of the log; nothing at all.
Surface = Literal["notebook", "terminal", "lines", "log", "none"]


def shell() -> Any | None:
    """Return the running IPython shell, or None."""
    ipython: Any = sys.modules.get("IPython")  # always imported within IPython
    ask = getattr(ipython, "get_ipython", None)  # maybe partially imported
    return None if ask is None else ask()


def is_notebook() -> bool:
    """Return whether the program runs in a notebook, such as one of Jupyter, VS Code or Colab."""
    return hasattr(shell(), "kernel")


def shows_html() -> bool:
    """Return whether HTML can be displayed; False for IPython in a terminal."""
    return shell() is None or is_notebook()


def cell() -> tuple[object, object]:
    """Return a key that identifies the running cell, or the running callback of a widget."""
    running = shell()
    request = None
    ask = getattr(getattr(running, "kernel", None), "get_parent", None)
    with contextlib.suppress(Exception):  # kernels of other implementations
        request = ask()["header"]["msg_id"] if ask else None
    return getattr(running, "execution_count", 0), request


def surface(progress: bool | None, *, unasked_lines: bool = True) -> Surface:
    """Return where to show the progress of a run.

    Args:
        progress: The caller's choice.  ``None`` shows progress unless the environment variable is
            0, and only in the main thread, as a library that calls this one in another thread does
            not own the screen.  Lines go to the log if it accepts them and the variable is not 1,
            else to stderr.
        unasked_lines: Whether lines are shown to those who did not ask for them.
    """
    if progress is None:
        if threading.current_thread() is not threading.main_thread():
            return "none"
        wanted = os.environ.get(VARIABLE, "").strip().lower()
        if wanted:
            progress = wanted not in _NO
    if progress is False:
        return "none"
    if is_notebook():
        return "notebook"
    if _is_terminal() and find_spec("tqdm") is not None:
        return "terminal"
    if progress is None and not unasked_lines:
        return "none"
    return "log" if progress is None and log.isEnabledFor(logging.INFO) else "lines"


def is_watched() -> bool:
    """Return whether a notebook by default shows the progress of jobs from this thread."""
    return is_notebook() and surface(None) == "notebook"


def _is_terminal() -> bool:
    try:
        return sys.stderr is not None and sys.stderr.isatty()
    except (AttributeError, ValueError):  # closed, or not a real file
        return False
