"""A program that ``comfy-client serve`` runs beside its server, and that signals are sent on to."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from .exits import Mistake
from .stop_signals import passed_on

#: Seconds between two looks at what else may end the program.
_PAUSE: Final = 0.1
#: What shells add to the number of the signal that ended a program.
_SIGNALLED: Final = 128


def found(words: Sequence[str]) -> list[str]:
    """Return the words of a command with the path of its program; raise Mistake if it is none."""
    path = shutil.which(words[0])
    if path is None:
        raise Mistake(f"there is no program {words[0]!r} to run")
    return [path, *words[1:]]


def run(words: Sequence[str], variables: Mapping[str, str], is_over: Callable[[], bool]) -> int:
    """Run a program with more variables in its environment; return its status as shells have it.

    Signals that would stop this process go to the program, which may take its time.  So does
    SIGTERM once ``is_over()``.
    """
    pending: list[int] = []
    process: subprocess.Popen[bytes] | None = None

    def hand_on(number: int) -> None:
        if process is None:
            pending.append(number)  # it is being started
        elif not _came_to_all(number):
            process.send_signal(number)

    with passed_on(hand_on):
        process = subprocess.Popen(words, env={**os.environ, **variables})  # noqa: S603  # asked for
        for number in pending:
            process.send_signal(number)
        is_told = False
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                status = process.wait(_PAUSE)
                return _SIGNALLED - status if status < 0 else status
            if not is_told and is_over():
                process.terminate()
                is_told = True


def _came_to_all(number: int) -> bool:
    """Return whether a terminal sent a signal, which the program has got as well then."""
    if number != signal.SIGINT or sys.platform == "win32":
        return sys.platform == "win32"  # all programs of a console get them
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:  # it has none
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    finally:
        os.close(terminal)
