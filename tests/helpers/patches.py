"""The few places where tests replace parts of the package or of the system."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from comfy_client import ComfyPool, connecting, runtime
from comfy_client.pool import membership
from comfy_client.transport import pieces
from tests.helpers.clients import LIMIT


def tell_time(
    patch: pytest.MonkeyPatch, clock: Callable[[], float], name: str = "monotonic"
) -> None:
    """Have the package ask a test for the time."""
    patch.setattr(runtime, name, clock)


@contextlib.contextmanager
def slices() -> Iterator[None]:
    """Context manager: let waits be sliced on this system, too, as on Windows."""
    names = ("SLICED", "Event", "Thread", "Condition")
    before = {name: getattr(runtime, name) for name in names}
    try:
        runtime.slice_waits()
        yield
    finally:
        vars(runtime).update(before)


def denied(*paths: Any) -> PermissionError:
    """Make the error of Windows for a file that is open."""
    error = PermissionError(errno.EACCES, "Access is denied", *map(str, paths))
    error.winerror = 5  # type: ignore[attr-defined]  # an attribute on Windows only
    return error


def wait_longer_by_default(patch: pytest.MonkeyPatch) -> None:
    """Have clients and pools wait up to a minute for a server, in place of ten seconds."""

    def longer(connect: Callable[..., None]) -> Callable[..., None]:
        def connect_in_time(*owned: Any) -> None:
            *parts, timeout = owned
            connect(*parts, LIMIT if timeout == ComfyPool.intervals.ready else timeout)

        return connect_in_time

    for module in (connecting, membership):
        patch.setattr(module, "connect", longer(module.connect))


def note_decoded(patch: pytest.MonkeyPatch) -> list[int]:
    """Note the lengths of the pieces of JSON that are decoded in one call of C."""
    lengths: list[int] = []
    decoder = json.JSONDecoder()

    def raw_decode(text: str, at: int) -> tuple[Any, int]:
        value, end = decoder.raw_decode(text, at)
        lengths.append(end - at)
        return value, end

    patch.setattr(pieces, "_decoder", SimpleNamespace(raw_decode=raw_decode))
    return lengths


def fill_disk(patch: pytest.MonkeyPatch) -> None:
    """Let no picture get its final name, as on a disk that is full."""

    def unless_full(move: Callable[..., Any]) -> Callable[..., Any]:
        def moved(source: Any, target: Any, **options: Any) -> Any:
            if os.fspath(target).endswith(".png"):
                raise OSError(errno.ENOSPC, "No space left on device")
            return move(source, target, **options)

        return moved

    patch.setattr(os, "replace", unless_full(os.replace))
    patch.setattr(os, "link", unless_full(os.link))
