"""An embedded ComfyUI for tests, in threads of this process.

:class:`ComfyServer` speaks ComfyUI's protocol and really executes simple workflows with Pillow;
what needs a model is simulated.  It can fail in every way that the network and ComfyUI do
(:class:`Faults`), a test can script it, and it records what clients send.  It needs the extra
``[testing]`` (aiohttp, Pillow), which is imported when one of these names is first used.

Its modules, from the top down; each imports only modules below it:

* ``server``: start and stop.  ``scripting``: what a test reads and sets.  ``replay``: recordings.
* ``routes``: all routes, from the tables of ``prompt_routes``, ``catalogue_routes``,
  ``system_routes``, ``files``, ``userdata``, ``node_packs`` and ``jobs_api``.
* ``faults``: what goes wrong on command.  ``exchange``: a request and its faults.  ``steps``:
  scripts that are played in place of prompts.
* ``state``: what a running server has.  ``event_sockets``, ``connections``, ``active_faults``,
  ``records``: its parts.
* ``executor``: runs prompts, with ``run``, ``node_cache``, ``graph``, ``prompt_queue``.
* ``nodes``: node classes and their definitions, with ``builtin_nodes``, ``node_api``, ``images``,
  ``placeholder_images``, ``folders``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .active_faults import Fault
    from .faults import Faults
    from .images import Pictures
    from .node_api import (
        ExecutionBlocker,
        ProgressBar,
        check_interrupted,
        send_event,
        send_text,
    )
    from .raw_http import Answer, Handler, Request, cut, drip, encode, never_answer
    from .received import Ran
    from .server import ComfyServer
    from .steps import PROMPT_ID, Finish, Step
    from .ws_frames import frame

__all__ = [
    "PROMPT_ID",
    "Answer",
    "ComfyServer",
    "ExecutionBlocker",
    "Fault",
    "Faults",
    "Finish",
    "Handler",
    "Pictures",
    "ProgressBar",
    "Ran",
    "Request",
    "Step",
    "check_interrupted",
    "cut",
    "drip",
    "encode",
    "frame",
    "never_answer",
    "send_event",
    "send_text",
]

#: Where these are, or have been imported to.
_MODULES = (
    ".server",
    ".faults",
    ".active_faults",
    ".steps",
    ".node_api",
    ".images",
    ".received",
    ".raw_http",
    ".ws_frames",
)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        homes = (vars(import_module(module, __name__)) for module in _MODULES)
        return next(home[name] for home in homes if name in home)
    except ModuleNotFoundError as exc:
        if exc.name not in ("aiohttp", "PIL"):
            raise
        raise ModuleNotFoundError(
            f"comfy_client.testing (extra [testing]) needs {exc.name}: pip install aiohttp Pillow",
            name=exc.name,
        ) from exc
