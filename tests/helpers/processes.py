"""Work in the child of a fork."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from typing import Final

#: End this process at once, with a status; nothing is cleaned up.
leave: Final = os._exit


def in_child(work: Callable[[], object]) -> str:
    """What `work` returns or raises in a forked child, as text; it must end in four minutes."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        text = "nothing"
        try:
            try:
                text = str(work())
            except BaseException as exc:
                text = f"{type(exc).__name__}: {exc}"
            gc.collect()
            os.write(write, text.encode())
        finally:
            leave(0)
    os.close(write)
    try:
        end = time.monotonic() + 240
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            if time.monotonic() > end:
                os.kill(child, 9)
                os.waitpid(child, 0)
                return "hung"
            time.sleep(0.01)
        return os.read(read, 65536).decode()
    finally:
        os.close(read)
