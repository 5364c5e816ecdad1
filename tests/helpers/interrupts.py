"""What comes in between, before any bytecode: a Ctrl-C, a finalizer, a handler of a signal."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import comfy_client
from comfy_client.testing import ComfyServer, Request, never_answer
from tests.helpers.clients import until

_OURS = Path(comfy_client.__file__).parent.as_posix()


def in_time(work: Callable[[], object], seconds: float = 60.0) -> None:
    """Run it in a thread, which must come to its end."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive()


def fail_next_start(patch: pytest.MonkeyPatch, error: Any, name: str = "comfy-") -> None:
    """The next thread of ours with such a name is not started: this is raised instead."""
    start = threading.Thread.start
    errors = [error]

    def fail(self: threading.Thread) -> None:
        if errors and self.name.startswith(name):
            raise errors.pop()
        start(self)

    patch.setattr(threading.Thread, "start", fail)


def interrupt_next_start(patch: pytest.MonkeyPatch, name: str) -> None:
    """Ctrl-C comes when the next thread with such a name has just been started."""
    start = threading.Thread.start
    errors = [KeyboardInterrupt()]

    def interrupted(self: threading.Thread) -> None:
        start(self)
        if errors and self.name == name:
            raise errors.pop()

    patch.setattr(threading.Thread, "start", interrupted)


def press_ctrl_c() -> None:
    """As at a terminal."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    else:  # the main thread heeds it, whichever raises it
        signal.raise_signal(signal.SIGINT)


def press_ctrl_c_in_a_call(
    after: float = 0.3, press: Callable[[], object] = press_ctrl_c
) -> threading.Thread:
    """Press Ctrl-C once the main thread has been in a call of the client for a while.

    A timer could fire before a busy machine lets the main thread call, outside of the test's care.
    """

    def is_in_a_call() -> bool:
        frame = sys._current_frames()[threading.main_thread().ident or 0]
        files = (each.f_code.co_filename for each, _ in traceback.walk_stack(frame))
        paths = [file.replace(os.sep, "/") for file in files]
        return any(path.startswith(_OURS) and "/testing/" not in path for path in paths)

    def press_in_time() -> None:
        until(is_in_a_call)
        time.sleep(after)
        press()

    thread = threading.Thread(target=press_in_time)
    thread.start()
    return thread


def press_ctrl_c_in_submissions(
    server: ComfyServer, *, arrives: bool, before: Callable[[], object] = lambda: None
) -> list[Request]:
    """Press Ctrl-C while a submission waits for its answer; gives those requests.

    ``arrives``: the server has the prompt by then.  ``before`` is called before that.
    """
    cut_off: list[Request] = []

    def handler(request: Request) -> None:
        cut_off.append(request)
        before()
        if arrives:
            server.answer(request)
        press_ctrl_c()
        never_answer(request)

    server.on("POST", "/prompt", handler)
    return cut_off
