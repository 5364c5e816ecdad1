"""The parts of a running server: files, nodes, queue, executor, sockets, log."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Awaitable, Sequence
from datetime import datetime
from typing import Any, Protocol, TypeVar

import attrs
from aiohttp import web

from .active_faults import ActiveFaults
from .argument_checks import Version
from .event_sockets import EventSockets
from .folders import Folders
from .nodes import NodeRegistry
from .prompt_queue import Executor, PromptQueue
from .received import Records
from .server_loop import Connections, ServerLoop

_Source = TypeVar("_Source")
_From = TypeVar("_From", contravariant=True)


class RouteHandler(Protocol[_From]):
    """A function that answers a request, given the part of the server it needs."""

    def __call__(self, source: _From, request: web.Request, /) -> Awaitable[web.StreamResponse]:
        """Answer a request."""


#: A table of routes: method, path, and handler.
Routes = Sequence[tuple[str, str, RouteHandler[_Source]]]
UPLOAD_SIZE = 100 * 2**20
_LOG_LINES = 300


@attrs.frozen(kw_only=True)
class Options:
    """The options of a server that its routes need."""

    version: Version
    multi_user: bool
    max_upload_size: int
    prefix: str

    @property
    def is_newer(self) -> bool:
        """Whether the server behaves like ComfyUI 0.8.0 or newer."""
        return self.version in ("0.8", "new")

    @property
    def is_newest(self) -> bool:
        """Whether the server behaves like ComfyUI 0.28.1."""
        return self.version == "new"


class ServerState:
    """The state that a server's routes share, from its start to its stop."""

    def __init__(
        self,
        options: Options,
        folders: Folders,
        nodes: NodeRegistry,
        faults: ActiveFaults,
        records: Records,
    ) -> None:
        self.options = options
        self.folders = folders
        self.nodes = nodes
        self.faults = faults
        self.records = records
        self.features: dict[str, Any] = _features(options)
        self.loop: ServerLoop = ServerLoop()
        self.connections: Connections = self.new_connections()
        #: Further ports that are open, each with the task that serves it.
        self.ports: dict[Connections, asyncio.Task[None]] = {}
        self.sockets: EventSockets = EventSockets(self.loop, faults, records)
        self.queue: PromptQueue = PromptQueue(
            lambda: self.send("status", {"status": self.queue_info()})
        )
        self.executor: Executor = Executor(
            nodes,
            self.queue,
            self,
            preview_methods=options.is_newer,
            newest=options.is_newest,
        )
        self.numbers: itertools.count[int] = itertools.count()  # numbers of prompts
        self._log: deque[dict[str, str]] = deque(maxlen=_LOG_LINES)
        self._log_readers: set[str] = set()

    def new_connections(self) -> Connections:
        """Return the connections of a port that is not open yet."""
        return Connections(self.loop, lambda: self.records.count("connections"))

    def stop(self, *, reset: bool = False) -> None:
        """Stop the server, from any thread; ``reset`` resets all connections."""
        for port in (self.connections, *self.ports):
            port.reset = reset
        self.queue.close()
        self.loop.stop()

    def keep_error(self, error: BaseException) -> None:
        """Record an error to raise at the end of the ``with`` block, unless the server is stopping.

        It may be a BaseException, such as that of ``pytest.fail``.
        """
        if not self.queue.closed:
            self.records.keep(self.records.errors, error)

    # -- prompts ------------------------------------------------------------------------

    def queue_info(self) -> dict[str, Any]:
        """Return the answer to ``GET /prompt``, which is also the content of ``status``."""
        return {"exec_info": {"queue_remaining": self.queue.remaining()}}

    def lose_queue(self) -> None:
        """Drop all pending and running prompts without a message to clients."""
        running = self.queue.lose()
        if running is not None:
            self.sockets.silenced.add(running)
            self.executor.interrupt()

    def interrupt(self) -> None:
        """Stop the running prompt, unless a fault ignores interrupts."""
        fault = self.faults.first("forget_interrupts")
        if fault is None:
            self.executor.interrupt()
        else:
            fault.hits += 1

    # -- the executor's messages ----------------------------------------------------------

    def send(self, event: str | int, data: Any, client_id: str | None = None) -> None:
        """Queue a message for one client, or for all if ``client_id`` is None; from any thread."""
        self.sockets.send(event, data, client_id)

    def knows_metadata(self, client_id: str | None) -> bool:
        """Return whether a client wants previews with metadata."""
        return self.sockets.knows_metadata(client_id)

    def log(self, text: str) -> None:
        """Add a line to the log, from any thread."""
        self.loop.later(self._add_to_log, text)

    # -- log ----------------------------------------------------------------------------

    def _add_to_log(self, text: str) -> None:
        entry = {"t": datetime.now().isoformat(), "m": f"{text.rstrip()}\n"}
        self._log.append(entry)
        self._log_readers = set(filter(self.sockets.is_connected, self._log_readers))
        for client_id in self._log_readers:
            self.send("logs", {"entries": [entry], "size": None}, client_id)

    def log_entries(self) -> list[dict[str, str]]:
        """Return the last lines of the log."""
        return list(self._log)

    def subscribe(self, client_id: Any, enabled: Any) -> None:
        """Start or stop sending new log lines to a client."""
        (self._log_readers.add if enabled else self._log_readers.discard)(client_id)

    def logger(self) -> logging.Logger:
        """Return a logger whose messages go to the log."""
        logger = logging.Logger("comfy_client.testing")
        logger.addHandler(_LogHandler(self))
        return logger


class _LogHandler(logging.Handler):
    def __init__(self, state: ServerState) -> None:
        super().__init__()
        self._state = state

    def emit(self, record: logging.LogRecord) -> None:
        self._state.log(self.format(record))


def _features(options: Options) -> dict[str, Any]:
    """Return the answer to ``GET /features``."""
    size = options.max_upload_size
    features: dict[str, Any] = {
        "supports_preview_metadata": True,
        # ComfyUI computes it from megabytes: a float unless default.
        "max_upload_size": size if size == UPLOAD_SIZE else float(size),
    }
    if options.is_newer:
        features["extension"] = {"manager": {"supports_v4": True}}
    if options.is_newest:
        features |= {"supports_model_type_tags": True, "node_replacements": True, "assets": False}
    return features
