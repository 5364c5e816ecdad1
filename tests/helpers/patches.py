"""The few places where tests replace parts of the package or of the system."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any

import pytest

from comfy_client import runtime


def tell_time(patch: pytest.MonkeyPatch, monotonic: Callable[[], float]) -> None:
    """Have the package ask a test for the time."""
    patch.setattr(runtime, "monotonic", monotonic)


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
