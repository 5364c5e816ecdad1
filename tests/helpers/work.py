"""Work as the lines of the package that run, which no busy machine changes."""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import comfy_client

_PACKAGE = str(Path(comfy_client.__file__).parent)


def lines(call: Callable[[], object]) -> int:
    """Return how many lines of the package run, each turn of a loop among them.

    Those in threads that the call starts count, too.
    """
    count = 0

    def inside(frame: FrameType, event: str, _: object) -> Any:
        nonlocal count
        count += 1
        return inside

    def enter(frame: FrameType, event: str, _: object) -> Any:
        return inside if frame.f_code.co_filename.startswith(_PACKAGE) else None

    before, of_threads = sys.gettrace(), threading.gettrace()
    threading.settrace(enter)
    sys.settrace(enter)
    try:
        call()
    finally:
        sys.settrace(before)
        threading.settrace(of_threads)  # type: ignore[arg-type]  # None: none
    return count


def check_growth(
    call: Callable[[Any], object], make: Callable[[int], Any], least: int, name: str = ""
) -> None:
    """Four times the size may take little more than four times the work, where a square is 16."""
    work = [lines(functools.partial(call, make(least * times))) for times in (1, 4)]
    assert work[1] <= 5.5 * work[0], (name, work)
