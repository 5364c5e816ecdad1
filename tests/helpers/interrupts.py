"""What comes in between, before any bytecode: a Ctrl-C, a finalizer, a handler of a signal."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from comfy_client.testing import ComfyServer, Request, never_answer

#: Whether to look into a frame.
Within = Callable[[FrameType], bool]


def at_each_step(
    work: Callable[[], object], between: Callable[[], object], within: Within
) -> Iterator[BaseException | None]:
    """Run ``work`` once for each bytecode of it, with ``between`` before that one.

    Gives what came out of each run.  ``work`` must be repeatable.
    """
    step = 0
    while True:
        step += 1
        came, raised = _at_step(step, work, between, within)
        if not came:
            return
        yield raised


def _at_step(
    step: int, work: Callable[[], object], between: Callable[[], object], within: Within
) -> tuple[bool, BaseException | None]:
    count = 0
    counts = sys.version_info < (3, 13)

    def enter(frame: FrameType, event: str, arg: Any) -> Any:
        if not within(frame):
            return None
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        return count_steps

    def count_steps(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal count
        if event == "opcode" and counts:
            count += 1
            if count == step:
                between()
        return count_steps

    raised = None
    before = sys.gettrace()
    sys._getframe().f_trace_opcodes = True  # Python 3.12 looks whether any frame wants it now
    sys.settrace(enter)
    try:
        if not counts:  # which tells of the steps of a function from its second run on
            work()
            counts = True
        work()
    except BaseException as exc:
        raised = exc
    finally:
        sys.settrace(before)
    return count >= step, raised


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
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


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
