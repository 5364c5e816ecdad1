"""For tests of programs that use ComfyUI: a server like it, in a thread of this process.

:class:`ComfyServer` speaks ComfyUI's protocol and really executes simple workflows with
Pillow; what needs a model is simulated.  Needs the extra ``[testing]`` (aiohttp, Pillow),
which is imported when one of these names is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .execution import (
        ExecutionBlocker,
        ProgressBar,
        check_interrupted,
        send_event,
        send_text,
    )
    from .images import Pictures
    from .server import ComfyServer

__all__ = [
    "ComfyServer",
    "ExecutionBlocker",
    "Pictures",
    "ProgressBar",
    "check_interrupted",
    "send_event",
    "send_text",
]

_HOMES = {"ComfyServer": ".server", "Pictures": ".images"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(_HOMES.get(name, ".execution"), __name__), name)
    except ModuleNotFoundError as exc:
        if exc.name not in ("aiohttp", "PIL"):
            raise
        raise ModuleNotFoundError(
            f"comfy_client.testing needs {exc.name}: pip install 'comfy-client-blocking[testing]'",
            name=exc.name,
        ) from exc
