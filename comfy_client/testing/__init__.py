"""An embedded ComfyUI server for tests, which runs in threads of this process.

:class:`ComfyServer` speaks ComfyUI's protocol and really executes simple workflows with Pillow;
what needs a model is simulated.  It can fail in every way that the network and ComfyUI do
(:class:`Faults`), a test can script it, and it records what clients send.  It needs the extra
``[testing]`` (aiohttp, Pillow), which is imported when one of these names is first used.

Each module imports only modules below it in this list.

Modules:
    server: :class:`ComfyServer`: options, start and stop.
    control: The control of a server over HTTP, by tests in any language.
    scripting: The part of a server that a test reads and sets; scripts, which replace prompts.
    replay: Playback of a recording to a client: its steps, and the state of its prompts at each.
    hosted: Comfy API v2 in front of the server: a proxy, a serverless deployment, Comfy Cloud.
    routes: All routes, the event socket, and the middleware.
    prompt_routes: Routes for prompts, and of the jobs API.
    server_routes: Routes for node definitions and models, the system, its log and its folders.
    files: Routes for uploads, downloads, users and the files of node packs.
    hosts: Filter of requests by ``Host`` and ``Origin``.
    packs: Node packs with routes of their own, such as ComfyUI-Manager.
    faults: :class:`Faults`: everything that goes wrong on command.
    exchange: A request, and the faults that apply to it.
    server_state: The parts of a running server; all open event sockets, and what goes to them.
    node_files: Files and packs with node classes.
    prompt_check: The answer to a prompt, by the definitions of its classes.
    page: The official page with its templates and its help, and settings with which it starts.
    prompt_queue: The queue and the history; the executor, which runs prompts one after the other.
    prompt_run: The execution of one prompt.
    beginning: What a server begins with and returns to: files, node classes, faults.
    declared_nodes: Node classes that a test declares by a definition.
    nodes: The node classes of a server, their definitions, their cached outputs; the graph of a
        prompt, with the nodes that its nodes expand into.
    node_answers: Answers of a test for nodes, in place of running them.
    v3: Nodes with ComfyUI's V3 conventions.
    stubs: Stand-ins for classes of which only the definition is known.
    output_files: The files that stand-ins of output nodes write, and what they tell the client.
    media_files: Small valid pictures, 3D models and weights, which say that they are simulated.
    video_files: Videos without an encoder: MP4, WebM and Matroska.
    audio_files: Silent FLAC, MP3 and Opus files.
    definitions: Node definitions that a server is given.
    builtin_nodes: ComfyUI's own nodes for pictures, and a simulated sampler.
    node_faults: Faults of single nodes.
    node_api: Functions for running nodes.
    images: Batches of pictures, as they pass between nodes; pictures of the simulated sampler.
    folders: The folders of a server.
    server_clock: The time of a server's prompts: its speed, pauses and steps; and its ids.
    server_loop: The event loop, the TCP connections, and the address of a server, whose port stays
        reserved while it is down.
    verifying: Which requests fit, and the nearest of those that do not.
    active_faults: Faults that are active, the effects of those that concern messages, and checks of
        what a test passes to the server.
    received: Records of what a server has received and run, for tests to read.
    versions: The versions of ComfyUI that a server can be like.
    wire: Requests of clients, the bytes of answers, WebSocket frames, an open event socket.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .active_faults import Fault
    from .declared_nodes import declare_node
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
    from .packs.fake_packs import Crystools, Manager3, Manager4, Manager4Legacy
    from .packs.listed import ListedModel, ListedPack
    from .received import Ran
    from .scripting import PROMPT_ID, Fail, Finish, Step
    from .server import ComfyServer
    from .v3.offered import offer_comfy_api
    from .wire import Answer, Handler, Request, cut, drip, encode, frame, never_answer

__all__ = [
    "PROMPT_ID",
    "Answer",
    "ComfyServer",
    "Crystools",
    "ExecutionBlocker",
    "Fail",
    "Fault",
    "Faults",
    "Finish",
    "Gateway",
    "Handler",
    "HostedTraps",
    "ListedModel",
    "ListedPack",
    "Manager3",
    "Manager4",
    "Manager4Legacy",
    "Pictures",
    "ProgressBar",
    "Ran",
    "Request",
    "Step",
    "check_interrupted",
    "cut",
    "declare_node",
    "drip",
    "encode",
    "frame",
    "hosted_error",
    "never_answer",
    "offer_comfy_api",
    "send_event",
    "send_text",
]

#: The modules that define or import these names.
_MODULES = (
    ".server",
    ".faults",
    ".active_faults",
    ".declared_nodes",
    ".scripting",
    ".node_api",
    ".images",
    ".received",
    ".wire",
    ".hosted.gateway",
    ".hosted.v2_errors",
    ".packs.listed",
    ".packs.fake_packs",
    ".v3.offered",
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
