"""The parts of a running server: files, nodes, queue, executor, log, and the event sockets."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, Protocol, TypeVar

import attrs
from aiohttp import web

from ..workflow.validate import ServerVersion
from .active_faults import ActiveFaults
from .folders import Folders
from .nodes import NodeRegistry
from .page import Page
from .prompt_queue import Executor, PromptQueue
from .received import Records
from .server_clock import ServerClock, ServerIds
from .server_loop import Connections, ServerLoop
from .versions import Version, since
from .wire import EventSocket, encode_message

_MANY_NODES = 100


class Receiver(Protocol):
    """A receiver of the messages for one client id, such as its open socket."""

    @property
    def client_id(self) -> str:
        """The client id."""

    @property
    def receives(self) -> bool:
        """Whether messages are sent to it."""

    async def send(self, message: str | bytes, parts: int = 1, pause: float = 0.0) -> None:
        """Send a message."""

    async def send_raw(self, data: bytes) -> None:
        """Send raw bytes."""


class EventSockets:
    """The open event sockets, and the queue of messages to them.

    Any thread may use :meth:`send`, :meth:`flush`, :meth:`push` and :attr:`open`; the rest is for
    the server's own thread.
    """

    def __init__(self, loop: ServerLoop, faults: ActiveFaults, records: Records) -> None:
        self._loop = loop
        self._faults = faults
        self._records = records
        #: Prompts whose messages are dropped.
        self.silenced: set[str] = set()
        self._by_id: dict[str, Receiver] = {}  # the recipients of messages
        self._open: list[EventSocket] = []
        self._flags: dict[str, Any] = {}
        self._outgoing: asyncio.Queue[Callable[[], Awaitable[None]]] = asyncio.Queue()
        self._stale: dict[str, list[asyncio.Event]] = {}  # handlers whose socket has ended
        self._newest: dict[str | None, Any] = {}  # the last long message, by client id
        self._is_quiet = False

    @property
    def open(self) -> list[EventSocket]:
        """The sockets that are open."""
        return list(self._open)

    @contextlib.asynccontextmanager
    async def connected(self, link: EventSocket) -> AsyncIterator[None]:
        """Context manager: register a socket, in place of an older one with the same client id."""
        client_id = link.client_id
        self._register(link, {})
        self._open.append(link)
        try:
            yield
        finally:
            self._open.remove(link)
            await self._until_reconnected(client_id)
            self._forget(client_id)

    @contextlib.contextmanager
    def subscribed(self, receiver: Receiver) -> Iterator[None]:
        """Context manager: send the messages for a client id to a receiver without a socket.

        It replaces the socket with this id, as another socket would.
        """
        self._register(receiver, {"supports_preview_metadata": True})
        try:
            yield
        finally:
            self._forget(receiver.client_id)

    def _register(self, receiver: Receiver, flags: dict[str, Any]) -> None:
        self._by_id.pop(receiver.client_id, None)
        self._by_id[receiver.client_id] = receiver
        self._flags[receiver.client_id] = flags

    def _forget(self, client_id: str) -> None:
        """Remove a client id; as in ComfyUI, the end of any socket with this id does so."""
        self._by_id.pop(client_id, None)
        self._flags.pop(client_id, None)

    async def _until_reconnected(self, client_id: str) -> None:
        reconnected = asyncio.Event()
        waiting = self._stale.setdefault(client_id, [])
        waiting.append(reconnected)
        while self._faults.first("stale_handlers") and not reconnected.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(reconnected.wait(), 0.02)
        if not reconnected.is_set():
            waiting.remove(reconnected)

    def wake_stale_handlers(self, client_id: str) -> None:
        """Wake handlers of ended sockets that wait for this client id, and unregister the id."""
        for reconnected in self._stale.pop(client_id, ()):
            reconnected.set()
            self._by_id.pop(client_id, None)

    def is_connected(self, client_id: str) -> bool:
        """Return whether a client has an open socket."""
        return client_id in self._by_id

    def set_flags(self, client_id: str, flags: Any) -> None:
        """Set the feature flags of a client."""
        self._flags[client_id] = flags

    def knows_metadata(self, client_id: str | None) -> bool:
        """Return whether a client wants previews with metadata.

        Raises AttributeError for flags that are not an object, which ends the prompt on a real
        server, too.
        """
        return self._flags.get(client_id or "", {}).get("supports_preview_metadata") is True

    # -- messages -----------------------------------------------------------------------

    def send(self, event: str | int, data: Any, client_id: str | None = None) -> None:
        """Queue a message for one client, or for all clients if ``client_id`` is None.

        The progress of very many nodes is dropped if a newer one is queued before it is sent.
        """
        if event == "progress_state" and len(data["nodes"]) > _MANY_NODES:
            self._newest[client_id] = data
            self._later(partial(self._deliver_newest, event, data, client_id))
        else:
            self._later(partial(self.deliver, event, data, client_id))

    async def _deliver_newest(self, event: str | int, data: Any, client_id: str | None) -> None:
        if self._newest.get(client_id) is data:
            del self._newest[client_id]
            await self.deliver(event, data, client_id)

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """Context manager: send nobody what is queued now and until its end."""
        self._is_quiet = True
        try:
            yield
        finally:
            self.flush()
            self._is_quiet = False

    def _later(self, sending: Callable[[], Awaitable[None]]) -> None:
        self._loop.later(self._outgoing.put_nowait, sending)

    async def publish(self) -> None:
        """Send queued messages until the server stops."""
        while True:
            sending = await self._outgoing.get()
            try:
                await sending()
            except Exception as exc:  # noqa: BLE001  ComfyUI would end here
                self._records.keep(self._records.errors, exc)

    async def deliver(self, event: str | int, data: Any, client_id: str | None) -> None:
        """Send a message to a connected client, or to all, unless a fault prevents it."""
        if self._loop.is_stopping or self._is_quiet:
            return  # an ending process sends nothing
        if isinstance(data, dict) and data.get("prompt_id") in self.silenced:
            return
        if self._faults.keep_back(event, data, client_id):
            return
        links = self._receiving(client_id)
        if not links:
            return
        for extra in self._faults.take_intruders():
            for link in links:
                if isinstance(extra, bytes):
                    await link.send_raw(extra)
                else:
                    await link.send(extra, *self._faults.framing())
        message = encode_message(event, data)
        for link in links:
            await link.send(message, *self._faults.framing())

    def _receiving(self, client_id: str | None) -> list[Receiver]:
        if client_id is None:
            links = list(self._by_id.values())
        else:
            links = [self._by_id[client_id]] if client_id in self._by_id else []
        return [link for link in links if link.receives]

    def flush(self) -> None:
        """Wait until all queued messages have been sent, or the server is stopping or frozen."""
        if self._loop.is_frozen:
            return
        done = Future[None]()

        async def sent() -> None:
            done.set_result(None)

        self._later(sent)
        while not (done.done() or self._loop.is_stopping or self._loop.is_frozen):
            with contextlib.suppress(TimeoutError):
                done.result(0.1)

    def push(self, data: bytes, to: str | None = None, *, everybody: bool = False) -> None:
        """Send raw bytes to one client or all, and wait; ``everybody`` includes muted sockets."""

        async def write() -> None:
            links: Sequence[Receiver] = self.open if everybody else self._receiving(to)
            for link in links:
                await link.send_raw(data)

        self._later(write)
        self.flush()


# -- server -----------------------------------------------------------------------------

_RouteSource = TypeVar("_RouteSource")
_From = TypeVar("_From", contravariant=True)


class RouteHandler(Protocol[_From]):
    """A function that answers a request, given the part of the server it needs."""

    def __call__(self, source: _From, request: web.Request, /) -> Awaitable[web.StreamResponse]:
        """Answer a request."""


#: A table of routes: method, path, and handler.
RouteTable = Sequence[tuple[str, str, RouteHandler[_RouteSource]]]
UPLOAD_SIZE = 100 * 2**20
MEMORY = 16 * 2**30  # bytes that the simulated device says it has
_LOG_LINES = 300


@attrs.frozen(kw_only=True)
class ServerSettings:
    """The options of a server that its routes need."""

    version: Version
    multi_user: bool
    max_upload_size: int
    prefix: str
    #: Of other pages that may use the server.
    origins: frozenset[str]
    #: The official page, if it is served.
    page: Page | None
    #: The settings of the page with which users begin.
    settings: Mapping[str, Any]
    clock: ServerClock
    ids: ServerIds

    def since(self, version: Version) -> bool:
        """Return whether the server behaves like this version of ComfyUI or a later one."""
        return since(self.version, version)

    @property
    def rules(self) -> ServerVersion:
        """The rules by which prompts are checked."""
        return "0.28" if self.since("0.28") else "0.3.75"


class ServerState:
    """The state that a server's routes share, from its start to its stop."""

    def __init__(
        self,
        options: ServerSettings,
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
        self._log: deque[dict[str, str]] = deque(maxlen=_LOG_LINES)
        self._log_readers: set[str] = set()
        #: What forgets, called in the server's own thread by :meth:`forget`.
        self.forgetting: list[Callable[[], object]] = [
            self._log.clear,
            self.sockets.silenced.clear,
        ]
        self.begin()

    def begin(self) -> None:
        """Have an empty queue and a new executor, which remembers nothing."""
        self.queue: PromptQueue = PromptQueue(
            lambda: self.send("status", {"status": self.queue_info()})
        )
        self.executor: Executor = Executor(
            self.nodes,
            self.queue,
            self.faults,
            QueueMessages(self, self.queue),
            self.options.clock,
            newer=self.options.since("0.28"),
        )
        self.numbers: itertools.count[int] = itertools.count()  # numbers of prompts

    def end_work(self, timeout: float) -> bool:
        """End the running prompt, and cut off the requests that are being answered.

        Return whether the prompt has ended within ``timeout`` seconds.
        """

        async def cut_off() -> None:
            for port in (self.connections, *self.ports):
                await port.cut_off()

        self.queue.close()
        self.loop.wait(cut_off(), outlasts_freeze=False)
        return self.executor.has_ended(timeout)

    def forget(self) -> None:
        """Forget users, the log, and lost prompts."""
        for forget in self.forgetting:
            self.loop.call(forget)

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

    # -- messages -----------------------------------------------------------------------

    def send(self, event: str | int, data: Any, client_id: str | None = None) -> None:
        """Queue a message for one client, or for all if ``client_id`` is None; from any thread."""
        self.sockets.send(event, data, client_id)

    def log(self, text: str) -> None:
        """Add a line to the log, from any thread."""
        self.loop.later(self._add_to_log, text)

    # -- log ----------------------------------------------------------------------------

    def _add_to_log(self, text: str) -> None:
        entry = {"t": self.options.clock.local().isoformat(), "m": f"{text.rstrip()}\n"}
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


class QueueMessages:
    """The messages about prompts of a queue; none is sent once the queue is closed.

    Otherwise a node that runs on after a reset would be heard by the next test.
    """

    def __init__(self, state: ServerState, queue: PromptQueue) -> None:
        self._state = state
        self._queue = queue

    def send(self, event: str | int, data: Any, client_id: str | None = None) -> None:
        """Queue a message for one client, or for all if ``client_id`` is None."""
        if not self._queue.closed:
            self._state.send(event, data, client_id)

    def knows_metadata(self, client_id: str | None) -> bool:
        """Return whether a client wants previews with metadata."""
        return self._state.sockets.knows_metadata(client_id)

    def log(self, text: str) -> None:
        """Add a line to the log."""
        if not self._queue.closed:
            self._state.log(text)

    def keep_error(self, error: BaseException) -> None:
        """Record an error to raise at the end of the ``with`` block."""
        if not self._queue.closed:
            self._state.keep_error(error)


class _LogHandler(logging.Handler):
    def __init__(self, state: ServerState) -> None:
        super().__init__()
        self._state = state

    def emit(self, record: logging.LogRecord) -> None:
        self._state.log(self.format(record))


def _features(options: ServerSettings) -> dict[str, Any]:
    """Return the answer to ``GET /features``."""
    size = options.max_upload_size
    features: dict[str, Any] = {
        "supports_preview_metadata": True,
        # ComfyUI computes it from megabytes: a float unless default.
        "max_upload_size": size if size == UPLOAD_SIZE else float(size),
    }
    if options.since("0.28"):
        features["extension"] = {"manager": {"supports_v4": True}}
        features |= {"supports_model_type_tags": True, "node_replacements": True, "assets": False}
    return features
