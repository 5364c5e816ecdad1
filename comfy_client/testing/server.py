"""The embedded server: start, stop, and what its routes share."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hmac
import itertools
import logging
import os
import re
import shutil
import socket
import ssl
import tempfile
import threading
import time
import weakref
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Iterator
from concurrent.futures import Future
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import web

from .execution import Executor, Item, Queue
from .faults import OF_ONE_LIFE, Fault, intruder, is_meant, watch
from .folders import Folders
from .hosts import ANY, check_hosts, door, names_of
from .nodes import Nodes, definition_of
from .replay import Player
from .routes import application
from .script import Stage, play
from .traffic import Link, Ran, Request, exchange, hang_up, made
from .versions import Version, check_version

_LOG_LINES = 300
_PATIENCE = 10.0  # seconds that a node gets to notice that the server stops
_PREFIX = re.compile(r"(/(?!\.{1,2}(/|$))[A-Za-z0-9._~-]+)+")  # what no client writes otherwise
_LOOK = 0.05  # seconds between two looks at something that nobody tells of
_UPLOAD_SIZE = 100 * 2**20

_Class = TypeVar("_Class", bound=type)
_T = TypeVar("_T")
_Tls = ssl.SSLContext | tuple[str | Path, str | Path]


class ComfyServer(Stage):
    """A ComfyUI in threads of this process; ``with`` starts and stops it.

    It has ComfyUI's HTTP routes and WebSocket messages, and executes workflows of the nodes
    that ``GET /object_info`` lists (see :mod:`comfy_client.testing.nodes`).  The sampler and
    the nodes around it are simulated: images are drawn from seed and prompt, and say so.

    Its ``faults`` make it fail in every way that ComfyUI and the network do: see
    :class:`Faults`.  A test can script its answers, and read what it received: see
    :mod:`comfy_client.testing.script`.  It keeps the last 10,000 requests (64 MiB of bodies)
    and the last 100,000 of everything else, over restarts too.  Any thread may read them.

    Its files are in a temporary folder, ``root``, with ComfyUI's layout: put images into
    ``root / "input"``, and any file into ``root / "models/checkpoints"`` to have a checkpoint
    of that name.  :meth:`stop` deletes the folder.

    Example::

        from comfy_client import ComfyApi, Workflow
        from comfy_client.testing import ComfyServer

        with ComfyServer() as server, ComfyApi(server.url) as api:
            result = api.run(Workflow.example())
            assert result.images
            assert len(server.ran) == 1

    Args:
        port: The port to listen on; 0: any free one.
        host: The address to listen on.
        credentials: What every request must have: a pair for basic authentication, a text
            for a bearer token; ``None``: nothing (as ComfyUI itself).
        multi_user: As ``--multi-user``: settings and files belong to the ``Comfy-User``.
        tls: An SSL context, or the paths of certificate and key (PEM), for https and wss.
        prefix: The path of all routes, such as ``"/comfy"``: letters, digits and ``-._~``.
        previews: Whether the sampler sends previews, as with ``--preview-method``.
        max_upload_size: Largest request body in bytes; the answer to larger ones is 413.
        step_seconds: How many seconds the simulated sampler takes for a step.
        version: Which ComfyUI it is like: ``"0.3.75"``, or one of these two.
            ``"0.8"`` has the jobs API (``/api/jobs``), takes ``preview_method`` from
            ``extra_data``, and checks the choices of ``COMBO`` inputs.
            ``"new"`` is like 0.28.1 of July 2026: a ``prompt_id`` must be a UUID, jobs can be
            cancelled and texts stand for them, other words for unknown classes and for circles,
            outputs of cached runs in history for everybody, times of user data in milliseconds,
            names of ``/internal/files`` with their folder, and assets that are switched off.

        allowed_hosts: Further values of ``Host`` that requests may have, beside loopback and
            ``host``, such as the name of a proxy in front of it.  ``None``: no others while it
            listens on loopback, else any.  ``["*"]`` allows all that ComfyUI allows, web pages
            included.

    Attributes:
        requests: All requests, oldest first, WebSocket handshakes included.
        connections: How many TCP connections were accepted.
        handshakes: The headers of each WebSocket handshake.
        hellos: The client id of each WebSocket that was opened, oldest first.
        first_messages: The first message of each WebSocket from its client, decoded.
        messages: All messages from clients on WebSockets, decoded.
        pings: How many pings came from clients.
        ran: The prompts that have started to run or to play, oldest first.
        errors: Exceptions of handlers and scripts, and messages that could not be sent; of nodes
            only what is no ``Exception``, such as ``pytest.fail`` raises.  The first one is raised
            again when the ``with`` block ends without another.
        faults: Everything that can go wrong, by name: see :class:`Faults`.
        version: Which ComfyUI it behaves like.

    Raises:
        ValueError: A certificate that cannot be loaded, a prefix that is no path, an invalid
            host, an unknown version, a number out of range.
        TypeError: An argument of another type.
    """

    # For those who ask what failed to be made: repr() is in tracebacks.
    _core: Core | None = None
    _reserved: socket.socket | None = None

    def __init__(
        self,
        port: int = 0,
        *,
        host: str = "127.0.0.1",
        credentials: tuple[str, str] | str | None = None,
        multi_user: bool = False,
        tls: _Tls | None = None,
        prefix: str = "",
        previews: bool = True,
        max_upload_size: int = _UPLOAD_SIZE,
        step_seconds: float = 0.02,
        version: Version = "0.3.75",
        allowed_hosts: Collection[str] | None = None,
    ) -> None:
        check_version(version)
        check_hosts(allowed_hosts)
        for what, value in (("host", host), ("prefix", prefix)):
            if not isinstance(value, str):
                raise TypeError(f"{what} is a text, not {value!r}")
        if prefix and not _PREFIX.fullmatch(prefix):
            raise ValueError(f"a prefix looks like '/comfy', not {prefix!r}")
        _check_host(host)
        _check_number("port", port, 65535)
        _check_number("max_upload_size", max_upload_size)
        _check_number("step_seconds", step_seconds, whole=False)
        _check_credentials(credentials)
        super().__init__(prefix)
        self.version: Version = version
        self._address = (host, port)
        self._credentials = credentials
        self._multi_user = multi_user
        self._tls = _tls_context(tls)
        #: What a client may trust; ``None`` if that is not known.
        self._certificate = tls[0] if isinstance(tls, tuple) else None
        self._prefix = prefix
        self._allowed_hosts = allowed_hosts
        self._previews = previews
        self._max_upload_size = max_upload_size
        self._step_seconds = step_seconds
        self._added: dict[str, type] = {}
        self._port = port
        self._root: Path | None = None
        self._threads: list[threading.Thread] = []
        self._lock = threading.RLock()  # guards the above; held while it starts or stops

    def __enter__(self) -> ComfyServer:
        self.errors.clear()  # those of the use before
        return self.start()

    def __exit__(self, kind: object, *_: object) -> None:
        self.stop()
        if kind is None and self.errors:
            raise self.errors[0]

    def __repr__(self) -> str:
        where = self.url if self._core or self._reserved else "stopped"
        return f"<ComfyServer {where}>"

    @property
    def url(self) -> str:
        """The URL for clients, with the prefix."""
        scheme = "https" if self._tls else "http"
        host = f"[{self._address[0]}]" if ":" in self._address[0] else self._address[0]
        return f"{scheme}://{host}:{self.port}{self._prefix}"

    @property
    def port(self) -> int:
        """The port that it listens on, or did last; RuntimeError if it never ran."""
        if not self._port:
            self._running()
        return self._port

    @property
    def root(self) -> Path:
        """The folder of its files; RuntimeError if it is not running."""
        return self._running().folders.root

    def add_node(self, cls: _Class, name: str | None = None) -> _Class:
        """Add a node class of your own, or replace the one of that name.

        Works before and after :meth:`start`, also as a decorator.

        Args:
            cls: A class with ComfyUI's conventions, see :mod:`comfy_client.testing.nodes`.
            name: Its ``class_type`` in workflows; ``None``: the name of the class.

        Raises:
            TypeError: The class is no node; the message says what is missing.
        """
        if not isinstance(cls, type) or not isinstance(name, str | None):
            raise TypeError(f"a node is a class, and its name a text: not {cls!r}, {name!r}")
        name = name or cls.__name__
        definition_of(name, cls)
        self._added[name] = cls
        if self._core:
            self._core.nodes.add(name, cls)
        return cls

    @classmethod
    def replay(
        cls,
        path: str | os.PathLike[str],
        *,
        pace: float = 0.0,
        port: int = 0,
        host: str = "127.0.0.1",
        tls: _Tls | None = None,
        prefix: str = "",
        allowed_hosts: Collection[str] | None = None,
    ) -> ComfyServer:
        """A server that repeats a recording, for a client that repeats its requests.

        It executes nothing.  :mod:`comfy_client.testing.replay` explains the answers.
        ``server.on`` and ``server.faults`` take precedence, and ``faults.clear()`` ends it.

        Args:
            path: A file of ``ComfyApi(record=...)``.
            pace: The factor for recorded pauses: 0: none, 1: all.
            port: As for any server, as are ``host``, ``tls``, ``prefix`` and ``allowed_hosts``.

        Raises:
            ValueError: The file is no recording; the message names the line.
            OSError: The file cannot be read.
        """
        player = Player(path, pace)
        server = cls(port, host=host, tls=tls, prefix=prefix, allowed_hosts=allowed_hosts)
        player.join(server)
        return server

    def start(self) -> ComfyServer:
        """Listen and return; prompts are executed from now on.

        After :meth:`kill`, it listens on the same port.

        Raises:
            OSError: The address is in use, or does not belong to this machine.
            RuntimeError: It is running already.
        """
        with self._alone():
            if self._core:
                raise RuntimeError(f"already running at {self.url}")
            return self._start(self._address[1] if self._reserved is None else self._port)

    def _start(self, port: int) -> ComfyServer:
        listener = _listen(self._address[0], port)
        self._release()
        try:
            core, app = self._built(listener.getsockname()[0])
        except BaseException:
            listener.close()
            raise
        started: Future[None] = Future()
        serving = core.serve(app, listener, self._tls, started)
        self._threads = [
            threading.Thread(target=asyncio.run, args=(serving,), name="ComfyServer"),
            threading.Thread(target=core.executor.work, name="ComfyServer worker"),
        ]
        self._port = listener.getsockname()[1]
        self._core = core
        for thread in self._threads:
            thread.daemon = True
            thread.start()
        try:
            started.result()
        except BaseException:
            self.stop()
            raise
        return self

    def _built(self, address: str) -> tuple[Core, web.Application]:
        if self._root is None:
            self._root = Path(tempfile.mkdtemp(prefix="comfy-server-")).resolve()
            # Also for a server that nobody stops, when its process ends.
            self._remove_root = weakref.finalize(self, _remove, self._root, os.getpid())
        is_newest = self.version == "new"
        folders = Folders(self._root, newest=is_newest)
        settings = {"previews": self._previews, "step_seconds": self._step_seconds}
        nodes = Nodes(folders, settings, newest=is_newest)
        for name, cls in self._added.items():
            nodes.add(name, cls)
        core = Core(
            folders,
            nodes,
            self._max_upload_size,
            multi_user=self._multi_user,
            version=self.version,
            stage=self,
        )
        app = _below(self._prefix, application(core), self._max_upload_size)
        if self._credentials is not None:
            app.middlewares.append(_guard(self._credentials))
        app.middlewares.insert(0, watch(core))
        if ANY not in (self._allowed_hosts or ()):
            names = names_of(self._address[0], address, self._allowed_hosts)
            app.middlewares.insert(0, door(names))
        return core, app

    def stop(self) -> None:
        """Close all connections, stop the running prompt and delete all files; idempotent.

        A running node has 10 seconds to end.
        """
        with self._alone():
            self._halt()
            self._release()
            if self._root is not None:
                self._root = None
                self._remove_root()

    def restart(self) -> None:
        """Stop and start it on the same port: queue and history are lost, files are kept."""
        with self._alone():
            if self._reserved is None:
                self._running()
                self._reserve()
                self._halt()
            self._start(self._port)

    def kill(self) -> None:
        """Crash: connections are reset and answers cut; :meth:`start` starts it again.

        Queue and history are lost; files and port are kept.  Until then, the port refuses
        connections.
        """
        with self._alone():
            self._running()
            self._reserve()
            self._halt(reset=True)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """One start or stop at a time.

        Whoever stops a server waits for its threads: one of these cannot wait in turn, and
        gets a RuntimeError.
        """
        is_ours = threading.current_thread() in self._threads
        while not self._lock.acquire(timeout=_LOOK if is_ours else -1):
            if self._core is None:
                raise RuntimeError("another thread stops the server")
        try:
            yield
        finally:
            self._lock.release()

    def _reserve(self) -> None:
        """Bound, and not listening: nobody else gets the port, and dials are refused."""
        family = socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET
        reserved = socket.socket(family, socket.SOCK_STREAM)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reserved = reserved

    def _release(self) -> None:
        reserved, self._reserved = self._reserved, None
        if reserved is not None:
            reserved.close()

    def _halt(self, *, reset: bool = False) -> None:
        core = self._core
        if core is None:
            return
        core.stop(reset=reset)  # first: what misses the server then knows why
        self._core = None
        for fault in self.faults.active(*OF_ONE_LIFE):
            fault.end()
        for thread in self._threads:
            if thread is not threading.current_thread():  # a node or a script ends its server
                thread.join(_PATIENCE)
        if self._reserved is not None:
            self._reserved.bind((self._address[0], self._port))
        shutil.rmtree(core.folders.root / "temp", ignore_errors=True)

    def _running(self) -> Core:
        if self._core is None:
            raise RuntimeError("the server does not run: use `with ComfyServer()`, or start() it")
        return self._core


class Core:
    """What the routes of one server share; the executor's outlet.

    All but :meth:`send`, :meth:`log`, :meth:`stop` and what is below "for other threads" are for
    the server's own thread.
    """

    def __init__(
        self,
        folders: Folders,
        nodes: Nodes,
        max_upload_size: int,
        *,
        multi_user: bool,
        version: Version,
        stage: Stage,
    ) -> None:
        #: What tests look at, and its faults.
        self.stage = stage
        self.version: Version = version
        self.is_newer: bool = version in ("0.8", "new")
        self.is_newest: bool = version == "new"
        self.folders = folders
        self.nodes = nodes
        self.max_upload_size = max_upload_size
        self.multi_user = multi_user
        self.features: dict[str, Any] = {
            "supports_preview_metadata": True,
            # A number of megabytes with a fraction there, if one gives it.
            "max_upload_size": max_upload_size
            if max_upload_size == _UPLOAD_SIZE
            else float(max_upload_size),
        }
        if self.is_newer:
            self.features["extension"] = {"manager": {"supports_v4": True}}
        if self.is_newest:
            self.features |= {"supports_model_type_tags": True, "node_replacements": True}
            self.features["assets"] = False
        self.queue: Queue = Queue(self._queue_changed)
        self.executor: Executor = Executor(
            nodes,
            self.queue,
            self,
            preview_methods=self.is_newer,
            newest=self.is_newest,
        )
        self._numbers = itertools.count()
        self.executor.director = self
        self._table: dict[str, Link] = {}  # by client id: who gets messages
        self._links: list[Link] = []  # all that are open
        self._flags: dict[str, Any] = {}
        self._messages: asyncio.Queue[Callable[[], Awaitable[None]]] = asyncio.Queue()
        self._server: web.Server | None = None
        self._private: dict[asyncio.BaseTransport, list[Fault]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._frozen: set[threading.Event] = set()
        self._lost: set[str] = set()  # prompts of which nothing more is to be heard
        self._stale: dict[str, list[asyncio.Event]] = {}  # handlers that have yet to notice
        self._reset = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end = asyncio.Event()
        self._log: deque[dict[str, str]] = deque(maxlen=_LOG_LINES)
        self._log_readers: set[str] = set()

    # -- life ---------------------------------------------------------------------------

    async def serve(
        self,
        app: web.Application,
        listener: socket.socket,
        tls: ssl.SSLContext | None,
        started: Future[None],
    ) -> None:
        """Serve until :meth:`stop`."""
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(lambda _, context: self.log(str(context["message"])))
        logger = logging.Logger("comfy_client.testing")
        logger.addHandler(_LogHandler(self))
        runner = web.AppRunner(app, access_log=None, logger=logger, shutdown_timeout=1.0)
        publishing = asyncio.create_task(self._publish())
        listening = None
        try:
            await runner.setup()
            self._server = runner.server
            listening = await self._loop.create_server(
                self._accept, sock=listener, ssl=tls, backlog=128
            )
            self.log("Starting server\n")
            started.set_result(None)
            await self._end.wait()
        except BaseException as exc:
            if not started.done():
                started.set_exception(exc)
            raise
        finally:
            with contextlib.suppress(NotImplementedError):  # Windows
                self._loop.remove_reader(listener)
            self._hang_up()
            for task in self._tasks:
                task.cancel()
            await _turns()
            self._hang_up()  # on those that were just being accepted
            if listening is not None:
                listening.close()  # not before: asyncio would leave them open
            await runner.cleanup()
            await _turns()
            publishing.cancel()
            listener.close()

    def _accept(self) -> asyncio.Protocol:
        """For a new connection."""
        assert self._server is not None  # noqa: S101  for the type checker
        self.stage._count("connections")
        return self._server()

    def _transports(self) -> list[asyncio.Transport]:
        found = [one.transport for one in self._server.connections] if self._server else []
        return [transport for transport in found if isinstance(transport, asyncio.Transport)]

    def _hang_up(self) -> None:
        for transport in self._transports():
            hang_up(transport, reset=self._reset)

    def stop(self, *, reset: bool = False) -> None:
        """From any thread; with resets for connections, if wanted."""
        self._reset = reset
        self.queue.close()
        for frozen in list(self._frozen):
            frozen.set()
        self.later(self._end.set)

    def later(self, callback: Callable[..., object], *args: Any) -> None:
        """Call it in the server's thread, and do not wait; nothing if that has ended."""
        with contextlib.suppress(RuntimeError):
            if self._loop is not None:
                self._loop.call_soon_threadsafe(callback, *args)

    # -- prompts ------------------------------------------------------------------------

    def take_number(self) -> int:
        """The next prompt's number."""
        return next(self._numbers)

    def queue_info(self) -> dict[str, Any]:
        """The answer to ``GET /prompt``, and the content of ``status``."""
        return {"exec_info": {"queue_remaining": self.queue.remaining()}}

    def _queue_changed(self) -> None:
        self.send("status", {"status": self.queue_info()})

    # -- sockets ------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def connected(self, link: Link) -> AsyncIterator[None]:
        """The life of one socket; a newer one of the same id takes its place."""
        client_id = link.client_id
        self._table.pop(client_id, None)
        self._table[client_id] = link
        self._flags[client_id] = {}
        self._links.append(link)
        try:
            yield
        finally:
            self._links.remove(link)
            await self._until_dialled_again(client_id)
            # Whichever socket of the id ends, the id is gone: ComfyUI's own trap.
            self._table.pop(client_id, None)
            self._flags.pop(client_id, None)

    async def _until_dialled_again(self, client_id: str) -> None:
        dialled = asyncio.Event()
        waiting = self._stale.setdefault(client_id, [])
        waiting.append(dialled)
        while self.stage.faults.active("stale_handlers") and not dialled.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(dialled.wait(), 0.02)
        if not dialled.is_set():
            waiting.remove(dialled)

    def greeted(self, client_id: str) -> None:
        """A socket is in use: now the stale handlers of its id wake up, and forget the id."""
        for dialled in self._stale.pop(client_id, ()):
            dialled.set()
            self._table.pop(client_id, None)

    def set_flags(self, client_id: str, flags: Any) -> None:
        """What a client says that it can do."""
        self._flags[client_id] = flags

    def knows_metadata(self, client_id: str | None) -> bool:
        """Whether a client said that it takes previews with metadata.

        Of flags that are no object an AttributeError, which ends the prompt there, too.
        """
        flags = self._flags.get(client_id or "", {})
        return flags.get("supports_preview_metadata") is True

    def send(self, event: str | int, data: Any, client_id: str | None = None) -> None:
        """Queue a message, from any thread; to all clients without a `client_id`."""
        self._later(partial(self.deliver, event, data, client_id))

    def _later(self, sending: Callable[[], Awaitable[None]]) -> None:
        self.later(self._messages.put_nowait, sending)

    async def _publish(self) -> None:
        while True:
            sending = await self._messages.get()
            try:
                await sending()
            except Exception as exc:  # noqa: BLE001  ComfyUI would end here; told at the end of ours
                self.stage._keep(self.stage.errors, exc)

    async def deliver(self, event: str | int, data: Any, client_id: str | None) -> None:
        """Send now; who is not connected misses it."""
        if self.queue.closed:
            return  # a process that ends says nothing of the prompt that ran
        if isinstance(data, dict) and data.get("prompt_id") in self._lost:
            return
        if self._is_kept_back(event, data, client_id):
            return
        links = self._hearing(client_id)
        if not links:
            return
        faults = self.stage.faults
        for fault in faults.active("junk", "foreign_traffic"):
            extra = intruder(fault)
            fault.hits += 1
            for link in links:
                if isinstance(extra, bytes):
                    await link.send_raw(extra)
                else:
                    await link.send(extra, faults)
        message = made(event, data)
        for link in links:
            await link.send(message, faults)

    def _hearing(self, client_id: str | None) -> list[Link]:
        if client_id is None:
            links = list(self._table.values())
        else:
            links = [self._table[client_id]] if client_id in self._table else []
        return [link for link in links if link.hears]

    def _is_kept_back(self, event: str | int, data: Any, client_id: str | None) -> bool:
        for fault in self.stage.faults.active("lose", "withhold"):
            if fault.name == "lose":
                patterns, kept = fault._settings, None
            else:
                patterns, kept = fault._settings
            if any(is_meant(one, event, data) for one in patterns):
                fault.hits += 1
                if kept is not None:
                    kept.append((event, data, client_id))
                return True
        return False

    # -- requests -----------------------------------------------------------------------

    @contextlib.contextmanager
    def handling(self) -> Iterator[None]:
        """Around each request: what is still at it when the server stops is cancelled."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  for the type checker
        self._tasks.add(task)
        try:
            yield
        finally:
            self._tasks.discard(task)

    async def loopback(self, request: Request) -> bytes:
        """What a request brings over a connection of our own, which no test sees.

        Only the faults that the request has yet to meet are in its way.
        """
        assert self._server is not None  # noqa: S101  for the type checker
        ours, theirs = socket.socketpair()
        loop = asyncio.get_running_loop()
        try:
            transport, _ = await loop.connect_accepted_socket(self._server, theirs)
        except BaseException:
            ours.close()
            theirs.close()
            raise
        self._private[transport] = list(request.rest)
        try:
            return await exchange(ours, request)
        finally:
            transport.close()
            del self._private[transport]

    def private(self, request: web.Request) -> list[Fault] | None:
        """The faults for a request that came over a connection of our own; else ``None``."""
        transport = request.transport
        return None if transport is None else self._private.get(transport)

    # -- for other threads --------------------------------------------------------------

    @property
    def links(self) -> list[Link]:
        """The sockets that are open."""
        return list(self._links)

    @property
    def open_connections(self) -> int:
        """How many clients are connected."""
        return sum(transport not in self._private for transport in self._transports())

    def wait(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        """Run it in the server's thread; RuntimeError if the server stops meanwhile."""
        if self._loop is None or self._loop.is_closed() or self._frozen:
            coroutine.close()
            raise RuntimeError("the server is frozen" if self._frozen else "the server has stopped")
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        while True:
            try:
                return future.result(0.1)
            except TimeoutError:
                if self.queue.closed:
                    raise RuntimeError("the server has stopped") from None

    def call(self, function: Callable[..., object], *args: Any) -> None:
        """Call it in the server's thread, and wait."""

        async def calling() -> None:
            function(*args)

        self.wait(calling())

    def flush(self) -> None:
        """Wait until all messages so far have been sent."""
        if self._frozen:
            return
        done = Future[None]()

        async def sent() -> None:
            done.set_result(None)

        self._later(sent)
        while not (done.done() or self.queue.closed or self._frozen):
            with contextlib.suppress(TimeoutError):
                done.result(0.1)

    def push(self, data: bytes, to: str | None = None, *, everybody: bool = False) -> None:
        """Send bytes as they are behind all messages so far; to the deaf only if `everybody`."""

        async def write() -> None:
            for link in self.links if everybody else self._hearing(to):
                await link.send_raw(data)

        self._later(write)
        self.flush()

    def freeze(self) -> Callable[[], None]:
        """Stop the server's thread; returns what lets it go on."""
        thaw, frozen = threading.Event(), threading.Event()

        def sleep() -> None:
            frozen.set()
            thaw.wait()

        self.later(sleep)
        if not self._frozen:  # else its turn comes when the other ends
            frozen.wait(_PATIENCE)
        self._frozen.add(thaw)

        def wake() -> None:
            self._frozen.discard(thaw)
            thaw.set()

        return wake

    def lose_queue(self) -> None:
        """Nothing waits or runs any more, and nobody hears of it."""
        running = self.queue.lose()
        if running is not None:
            self._lost.add(running)
            self.executor.interrupt()

    # -- for the worker -----------------------------------------------------------------

    def plays(self, item: Item) -> bool:
        """Whether a prompt was for a script, which then has played it."""
        prompt_id, extra_data = item[1], item[3]
        if prompt_id in self._lost:  # and was sent again
            self.flush()
            self._lost.discard(prompt_id)
        ran = Ran(prompt_id, extra_data.get("client_id"), extra_data)
        self.stage._keep(self.stage.ran, ran)
        script = next(iter(self.stage.faults.active("script")), None)
        if script is None:
            return False
        try:
            play(self.stage, self, script._settings, prompt_id, ran.client_id)
        except BaseException as exc:  # noqa: BLE001  told at the end of the server
            self.keep(exc)
        return True

    def keep(self, error: BaseException) -> None:
        """Raise an error at the end of the server's ``with``; not one that comes of the end.

        May be what is no Exception, such as of ``pytest.fail``: no thread ends over it.
        """
        if not self.queue.closed:
            self.stage._keep(self.stage.errors, error)

    def before_step(self) -> None:
        """Wait while the worker is to hang."""
        while self.stage.faults.active("hang_worker") and not self.queue.closed:
            time.sleep(0.005)

    def before_history(self) -> None:
        """Wait while history is to come late."""
        start = time.monotonic()
        self.before_step()
        while not self.queue.closed:
            late = self.stage.faults.active("late_history")
            seconds = late[0]._settings if late else 0
            if seconds is not None and time.monotonic() >= start + seconds:
                return
            time.sleep(0.005)

    @property
    def keeps_history(self) -> bool:
        """Whether prompts that end are to be remembered."""
        return not self.stage.faults.active("no_history")

    def ended(self, prompt_id: str, status: str | None) -> None:
        """A prompt leaves the queue; if the server dies, it has no end."""
        if self.queue.closed:
            return
        ran = next((r for r in reversed(self.stage.ran) if r.prompt_id == prompt_id), None)
        if ran is not None and prompt_id not in self._lost:
            ran.status = status

    # -- log ----------------------------------------------------------------------------

    def log(self, text: str) -> None:
        """Add a line to the log, from any thread."""
        self.later(self._add_to_log, text)

    def _add_to_log(self, text: str) -> None:
        entry = {"t": datetime.now().isoformat(), "m": f"{text.rstrip()}\n"}
        self._log.append(entry)
        self._log_readers &= self._table.keys()
        for client_id in self._log_readers:
            self.send("logs", {"entries": [entry], "size": None}, client_id)

    def log_entries(self) -> list[dict[str, str]]:
        """The last lines."""
        return list(self._log)

    def subscribe(self, client_id: Any, enabled: Any) -> None:
        """Send new lines to a client, or no more."""
        (self._log_readers.add if enabled else self._log_readers.discard)(client_id)


class _LogHandler(logging.Handler):
    def __init__(self, core: Core) -> None:
        super().__init__()
        self._core = core

    def emit(self, record: logging.LogRecord) -> None:
        self._core.log(self.format(record))


async def _turns() -> None:
    """Let everything else in the loop have its turn, and what follows from that."""
    for _ in range(4):
        await asyncio.sleep(0)


def _check_number(name: str, value: Any, most: float = float("inf"), *, whole: bool = True) -> None:
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        raise TypeError(f"{name} is a {'whole ' if whole else ''}number, not {value!r}")
    if value == float("inf"):
        raise ValueError(f"{name} is finite, not {value!r}")
    if not 0 <= value <= most:
        limit = "0 or more" if most == float("inf") else f"from 0 to {most}"
        raise ValueError(f"{name} is {limit}, not {value!r}")


def _check_host(host: str) -> None:
    try:
        usable = bool(host.encode("idna"))
    except UnicodeError:
        usable = False
    if not usable or "\0" in host:
        raise ValueError(f"host is a name or an address to listen on, not {host!r}")


def _check_credentials(value: Any) -> None:
    texts = value if isinstance(value, tuple) and len(value) == 2 else (value,)
    if value is not None and not all(isinstance(text, str) for text in texts):
        # Not shown: it may be a secret all the same.
        raise TypeError("credentials are a pair of user and password, or the text of a token")


def _remove(folder: Path, process: int) -> None:
    """Remove a folder; not in a fork, where others still use it."""
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as exc:
        text = f"cannot listen on {host}:{port}: {exc.strerror or exc}"
        raise OSError(exc.errno, text) from exc


def _tls_context(tls: _Tls | None) -> ssl.SSLContext | None:
    if tls is None or isinstance(tls, ssl.SSLContext):
        return tls
    are_paths = isinstance(tls, tuple) and all(isinstance(p, str | os.PathLike) for p in tls)
    if not are_paths or len(tls) != 2:
        raise TypeError("tls is an SSL context, or the paths of certificate and key")
    certificate, key = tls
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ValueError) as exc:
        raise ValueError(f"no certificate and key in {certificate} and {key}: {exc}") from exc
    return context


def _below(prefix: str, app: web.Application, max_upload_size: int) -> web.Application:
    if not prefix:
        return app
    outer = web.Application(client_max_size=max_upload_size)
    outer.add_subapp(prefix, app)
    return outer


def _guard(credentials: tuple[str, str] | str) -> Any:
    """What a proxy with a password does."""
    scheme = "Bearer" if isinstance(credentials, str) else "Basic"
    wanted = credentials if isinstance(credentials, str) else ":".join(credentials)

    @web.middleware
    async def guard(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        given, _, value = request.headers.get("Authorization", "").partition(" ")
        if scheme == "Basic":
            try:
                value = base64.b64decode(value, validate=True).decode("utf-8")
            except (binascii.Error, UnicodeDecodeError):
                value = ""
        if given.lower() == scheme.lower() and hmac.compare_digest(value.encode(), wanted.encode()):
            return await handler(request)
        challenge = {"WWW-Authenticate": f'{scheme} realm="ComfyUI"'}
        raise web.HTTPUnauthorized(headers=challenge)

    return guard
