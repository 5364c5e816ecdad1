"""What Ctrl-C, or a machine without threads to spare, must not leave half done."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable


def in_full(calls: Iterable[Callable[[], object]]) -> None:
    """All of them, in order, though Ctrl-C come in between or one raise."""
    with contextlib.ExitStack() as todo:
        for call in reversed(list(calls)):
            todo.callback(call)


def was_started(thread: threading.Thread | None) -> bool:
    """Whether there is one and it was started, which either may have prevented."""
    return thread is not None and thread.ident is not None
