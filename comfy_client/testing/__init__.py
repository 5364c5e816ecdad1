"""An embedded ComfyUI server for tests, which runs in threads of this process.

:class:`ComfyServer` speaks ComfyUI's protocol and really executes simple workflows with Pillow;
what needs a model is simulated.  It can fail in every way that the network and ComfyUI do
(:class:`Faults`), a test can script it, and it records what clients send.  It needs the extra
``[testing]`` (aiohttp, Pillow), which is imported when one of these names is first used.

Each module imports only modules below it in this list.

Modules:
    server: :class:`ComfyServer`: options, start and stop.
    scripting: The part of a server that a test reads and sets.
    replay: Playback of a recording to a client.
    transcript: The steps of a recording, and the state of its prompts at each step.
    hosted: Comfy API v2 in front of the server: a proxy, a serverless deployment, Comfy Cloud.
    routes: All routes, the event socket, and the middleware.
    prompt_routes: Routes for prompts.
    jobs_api: Routes of the jobs API.
    catalogue_routes: Routes for node definitions and models.
    node_packs: Routes for the files of node packs.
    system_routes: Routes for the system, its log and its folders.
    userdata: Routes for users and their files.
    files: Routes for uploads and downloads.
    hosts: Filter of requests by ``Host`` and ``Origin``.
    faults: :class:`Faults`: everything that goes wrong on command.
    exchange: A request, and the faults that apply to it.
    steps: Scripts, which are played in place of prompts.
    server_state: The parts of a running server.
    listen_address: The address of a server, and its port, which stays reserved while it is down.
    executor: Runs prompts, one after the other.
    prompt_run: The execution of one prompt.
    node_cache: Cached outputs of nodes.
    dynamic_prompt: The graph of a prompt, with the nodes that its nodes expand into.
    prompt_queue: The queue and the history.
    nodes: The node classes of a server, and their definitions.
    builtin_nodes: ComfyUI's own nodes for pictures, and a simulated sampler.
    node_api: Functions for running nodes.
    images: Batches of pictures, as they pass between nodes.
    placeholder_images: Pictures of the simulated sampler.
    folders: The folders of a server.
    event_sockets: All open event sockets, and the messages that go to them.
    server_loop: The event loop, and the TCP connections.
    active_faults: Faults that are active, and the effects of those that concern messages.
    ws_frames: WebSocket frames, and one open event socket.
    received: Records of what a server has received and run, for tests to read.
    raw_http: Requests of clients, and the bytes of answers.
    argument_checks: Checks of what a test passes to the server, and the versions it can choose.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .active_faults import Fault
    from .faults import Faults
    from .hosted.gateway import Gateway
    from .hosted.traps import HostedTraps
    from .hosted.v2_errors import hosted_error
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
    "Gateway",
    "Handler",
    "HostedTraps",
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
    "hosted_error",
    "never_answer",
    "send_event",
    "send_text",
]

#: The modules that define or import these names.
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
    ".hosted.gateway",
    ".hosted.v2_errors",
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
            f"comfy_client.testing needs {exc.name}: pip install "
            '"comfy-client-blocking[testing]", or in a checkout: pip install ".[testing]"',
            name=exc.name,
        ) from exc
