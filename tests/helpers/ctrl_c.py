"""A Ctrl-C, or an alarm that a handler raises, at a random moment of a call.

A moment is in a function of the package.  With ``COMFY_CTRL_C=everywhere`` it may be in one of a
library.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import attrs

import comfy_client
from comfy_client.testing import ComfyServer

#: The signal of an alarm: Windows has no SIGUSR1.
ALARM = getattr(signal, "SIGUSR1", signal.SIGTERM)
_OURS = Path(comfy_client.__file__).parent.as_posix()
#: Code that is not interrupted: tests, the embedded server, and what runs them.
_SPARED = (
    Path(__file__).parent.parent.as_posix(),
    f"{_OURS}/testing/",
    *("/logging/", "/importlib", "<frozen", "/coverage/", "/hypothesis/", "/_pytest/"),
)
_EVERYWHERE = os.environ.get("COMFY_CTRL_C") == "everywhere"


class Alarm(TimeoutError):
    """What the handler of an alarm raises."""


def ring(*_: object) -> None:
    """Handle a signal as the usual alarm does."""
    raise Alarm("mine")


@attrs.frozen
class Moment:
    """When to interrupt a call, and by which signal."""

    at: int
    signum: signal.Signals

    @property
    def error(self) -> type[BaseException]:
        """What comes out of the call."""
        return Alarm if self.signum == ALARM else KeyboardInterrupt


class Points:
    """A profile function that counts the points at which Python looks for signals.

    Those are the beginning of a function and the end of a call of one that is written in C.
    """

    def __init__(self, at: int, handle: Callable[[], object], *, everywhere: bool) -> None:
        self.count = 0
        self._at = at
        self._handle = handle
        self._everywhere = everywhere

    def __call__(self, frame: FrameType, event: str, arg: object) -> None:
        """Count a point; at the one that is wanted, do what a handler of a signal would do."""
        if event not in ("call", "c_return"):
            return
        path = frame.f_code.co_filename.replace(os.sep, "/")
        is_wanted = self._everywhere or path.startswith(_OURS)
        if not is_wanted or any(part in path for part in _SPARED):
            return
        self.count += 1
        if self.count == self._at:
            self._handle()


def points_of(
    call: Callable[[], object],
    at: int = 0,
    handle: Callable[[], object] = bool,
    *,
    everywhere: bool = _EVERYWHERE,
) -> int:
    """Run a call in the main thread, with ``handle`` at one of its points; return their number."""
    points, before = Points(at, handle, everywhere=everywhere), sys.getprofile()
    sys.setprofile(points)
    try:
        call()
    finally:
        sys.setprofile(before)
    return points.count


def at_each_point(call: Callable[[], object], handle: Callable[[], object]) -> None:
    """Run a call once for each of its points, with ``handle`` there."""
    at = 1
    while points_of(call, at, handle) >= at:
        at += 1


def each_interrupt(call: Callable[[], object]) -> Iterator[KeyboardInterrupt]:
    """Press Ctrl-C at each point of a call, in libraries too; yield what comes out of it.

    Whoever keeps the errors keeps the frames that were left, as a notebook keeps the last one.
    """
    press = partial(signal.raise_signal, signal.SIGINT)
    for at in range(1, points_of(call, everywhere=True) + 1):
        try:
            points_of(call, at, press, everywhere=True)
        except KeyboardInterrupt as exc:
            yield exc


def interrupted(call: Callable[[], object], moment: Moment) -> bool:
    """Interrupt a call; return whether the interrupt came out of it, and nothing else."""
    try:
        points_of(call, moment.at, partial(signal.raise_signal, moment.signum))
    except moment.error:
        return True
    return False


def _is_ours(seen: sys.UnraisableHookArgs) -> bool:
    """Return whether code of the package failed in a finalizer, and not by the interrupt itself."""
    if isinstance(seen.exc_value, KeyboardInterrupt | Alarm):
        return False
    frames = [frame for frame, _ in traceback.walk_tb(seen.exc_traceback)]
    return bool(frames) and frames[-1].f_code.co_filename.replace(os.sep, "/").startswith(_OURS)


@contextmanager
def handled() -> Iterator[None]:
    """Context manager: alarms raise; failures of libraries' finalizers are not reported.

    Ctrl-C in a constructor leaves half an object, of which the finalizer of its base complains.
    """
    hook, before = sys.unraisablehook, signal.signal(ALARM, ring)
    sys.unraisablehook = lambda seen: hook(seen) if _is_ours(seen) else None
    try:
        with warnings.catch_warnings():
            # A Ctrl-C in urllib3's connect leaves the socket to the collector.
            warnings.simplefilter("ignore", ResourceWarning)
            yield
    finally:
        sys.unraisablehook = hook
        signal.signal(ALARM, before)


class Runs:
    """What nodes have run, by their texts."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.texts: list[str] = []

    def add_to(self, server: ComfyServer) -> None:
        """Give a server the node that notes its runs."""

        def run(_: object, text: str, image: object = None) -> dict[str, Any]:
            with self._lock:
                self.texts.append(text)
            return {"ui": {"text": [text]}}

        types = {"required": {"text": ("STRING", {})}, "optional": {"image": ("IMAGE", {})}}
        inputs = classmethod(lambda cls: types)
        members = {"INPUT_TYPES": inputs, "RETURN_TYPES": (), "OUTPUT_NODE": True}
        server.add_node(type("Noted", (), {**members, "FUNCTION": "run", "run": run}))


def noted(text: str) -> dict[str, Any]:
    """Return a workflow that notes a text."""
    return {"1": {"class_type": "Noted", "inputs": {"text": text}}}
