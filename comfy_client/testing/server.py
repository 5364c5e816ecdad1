"""The embedded server: start, stop, and all that its routes share."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hmac
import itertools
import json
import logging
import shutil
import socket
import ssl
import struct
import tempfile
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import aiohttp
from aiohttp import web

from .execution import Executor, Queue
from .folders import Folders
from .nodes import Nodes, definition_of
from .routes import application

#: Which ComfyUI a server is like.
Version = Literal["0.3.75", "0.8", "new"]

_LOG_LINES = 300
_PATIENCE = 10.0  # seconds that a node gets to notice that the server stops

_Class = TypeVar("_Class", bound=type)
_Tls = ssl.SSLContext | tuple[str | Path, str | Path]


class ComfyServer:
    """A ComfyUI in threads of this process; ``with`` starts and stops it::

        with ComfyServer() as server, ComfyApi(server.url) as api:
            result = api.run("workflow.json")

    It speaks HTTP and WebSocket as ComfyUI does and executes workflows of the nodes
    that ``GET /object_info`` lists (see :mod:`comfy_client.testing.nodes`).  The sampler
    and what belongs to it are simulated: pictures are drawn from seed and prompt, and say so.

    Its files lie in a temporary folder, ``root``, laid out as ComfyUI's: put pictures into
    ``root / "input"``, and any file into ``root / "models/checkpoints"`` to have a checkpoint
    of that name.  Nothing of it is left after :meth:`stop`.

    Args:
        port: To listen on; 0 takes a free one.
        host: Address to listen on.
        credentials: What every request must bring: a pair for basic authentication, a text
            for a bearer token, ``None`` for nothing (as ComfyUI itself).
        multi_user: As ``--multi-user``: settings and files belong to the ``Comfy-User``.
        tls: An SSL context, or the paths of certificate and key (PEM), for https and wss.
        prefix: Path below which everything is, such as ``"/comfy"``.
        previews: Whether the sampler sends them; as ``--preview-method``.
        max_upload_size: Bytes that a request may bring; larger ones get a 413.
        step_seconds: How long the simulated sampler takes for a step.
        version: ``"0.8"`` has the jobs API (``/api/jobs``), takes ``preview_method`` from
            ``extra_data``, and checks the choices of ``COMBO`` inputs.  ``"new"`` is like the
            newest sources of 2026: a ``prompt_id`` must be a UUID, jobs can be cancelled,
            other words for unknown classes and for circles, outputs of cached runs in
            history for everybody, and no requests from other sites.

    Raises:
        ValueError: A certificate that cannot be loaded, a prefix that is no path, an
            unknown version.
    """

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
        max_upload_size: int = 100 * 2**20,
        step_seconds: float = 0.02,
        version: Version = "0.3.75",
    ) -> None:
        if version not in get_args(Version):
            raise ValueError(f"version is one of {', '.join(get_args(Version))}, not {version!r}")
        if prefix and (not prefix.startswith("/") or prefix.endswith("/")):
            raise ValueError(f"a prefix looks like '/comfy', not {prefix!r}")
        #: Which ComfyUI it is like.
        self.version: Version = version
        self._address = (host, port)
        self._credentials = credentials
        self._multi_user = multi_user
        self._tls = _tls_context(tls)
        self._prefix = prefix
        self._previews = previews
        self._max_upload_size = max_upload_size
        self._step_seconds = step_seconds
        self._added: dict[str, type] = {}
        self._core: Core | None = None
        self._port = port
        self._root: Path | None = None
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> ComfyServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        where = self.url if self._core else "stopped"
        return f"<ComfyServer {where}>"

    @property
    def url(self) -> str:
        """What a client connects to, with the prefix."""
        scheme = "https" if self._tls else "http"
        host = f"[{self._address[0]}]" if ":" in self._address[0] else self._address[0]
        return f"{scheme}://{host}:{self.port}{self._prefix}"

    @property
    def port(self) -> int:
        """The port that it listens on; RuntimeError if it does not run."""
        self._running()
        return self._port

    @property
    def root(self) -> Path:
        """The folder of its files; RuntimeError if it does not run."""
        return self._running().folders.root

    def add_node(self, cls: _Class, name: str | None = None) -> _Class:
        """Add a node class of your own, or put it in the place of another of that name.

        Works before and after :meth:`start`, also as a decorator.

        Args:
            cls: A class after ComfyUI's conventions, see :mod:`comfy_client.testing.nodes`.
            name: Its ``class_type`` in workflows; ``None`` takes the class's own.

        Raises:
            TypeError: It lacks what makes a class a node; the message says what.
        """
        name = name or cls.__name__
        definition_of(name, cls)
        self._added[name] = cls
        if self._core:
            self._core.nodes.add(name, cls)
        return cls

    def start(self) -> ComfyServer:
        """Listen, and return at once; prompts run from now on.

        Raises:
            OSError: The address cannot be listened on, since it is in use or not ours.
            RuntimeError: It runs already.
        """
        if self._core:
            raise RuntimeError(f"already running at {self.url}")
        return self._start(self._address[1])

    def _start(self, port: int) -> ComfyServer:
        listener = _listen(self._address[0], port)
        try:
            core, app = self._built()
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

    def _built(self) -> tuple[Core, web.Application]:
        if self._root is None:
            self._root = Path(tempfile.mkdtemp(prefix="comfy-server-")).resolve()
        folders = Folders(self._root)
        settings = {"previews": self._previews, "step_seconds": self._step_seconds}
        nodes = Nodes(folders, settings)
        for name, cls in self._added.items():
            nodes.add(name, cls)
        core = Core(
            folders,
            nodes,
            self._max_upload_size,
            multi_user=self._multi_user,
            version=self.version,
        )
        app = _below(self._prefix, application(core), self._max_upload_size)
        if self._credentials is not None:
            app.middlewares.append(_guard(self._credentials))
        return core, app

    def stop(self) -> None:
        """Drop all connections, stop what runs, and remove all files; idempotent.

        A node that runs gets 10 seconds to notice.
        """
        self._halt()
        root, self._root = self._root, None
        if root is not None:
            shutil.rmtree(root, ignore_errors=True)

    def restart(self) -> None:
        """Stop and start it on the same port: queue and history are lost, files are kept."""
        port = self.port
        self._halt()
        self._start(port)

    def _halt(self) -> None:
        core, self._core = self._core, None
        if core is None:
            return
        core.stop()
        for thread in self._threads:
            thread.join(_PATIENCE)
        shutil.rmtree(core.folders.root / "temp", ignore_errors=True)

    def _running(self) -> Core:
        if self._core is None:
            raise RuntimeError("the server does not run: use `with ComfyServer()`, or start() it")
        return self._core


class Core:
    """What the routes of one server share; the executor's outlet.

    All but :meth:`send`, :meth:`log` and :meth:`stop` are for the server's own thread.
    """

    def __init__(
        self,
        folders: Folders,
        nodes: Nodes,
        max_upload_size: int,
        *,
        multi_user: bool,
        version: Version,
    ) -> None:
        self.version: Version = version
        self.is_newer = version != "0.3.75"
        self.is_newest = version == "new"
        self.folders = folders
        self.nodes = nodes
        self.max_upload_size = max_upload_size
        self.multi_user = multi_user
        self.features: dict[str, Any] = {
            "supports_preview_metadata": True,
            "max_upload_size": max_upload_size,
        }
        if self.is_newer:
            self.features["extension"] = {"manager": {"supports_v4": True}}
        self.queue = Queue(self._queue_changed)
        self.executor = Executor(
            nodes,
            self.queue,
            self,
            preview_methods=self.is_newer,
            tells_cached=self.is_newest,
        )
        self._numbers = itertools.count()
        self._sockets: dict[str, web.WebSocketResponse] = {}
        self._flags: dict[str, Any] = {}
        self._transports: set[asyncio.Transport] = set()
        self._messages: asyncio.Queue[tuple[str | int, Any, str | None]] = asyncio.Queue()
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
        try:
            await runner.setup()
            await web.SockSite(runner, listener, ssl_context=tls).start()
            self.log("Starting server\n")
            started.set_result(None)
            await self._end.wait()
        except BaseException as exc:
            if not started.done():
                started.set_exception(exc)
            raise
        finally:
            for transport in self._transports:
                transport.close()
            await runner.cleanup()
            publishing.cancel()
            listener.close()

    def stop(self) -> None:
        """From any thread."""
        self.queue.close()
        self._soon(self._end.set)

    def _soon(self, callback: Callable[..., object], *args: Any) -> None:
        """Call in the server's thread; nothing if that has ended."""
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

    @contextlib.contextmanager
    def connected(
        self, client_id: str, ws: web.WebSocketResponse, transport: asyncio.Transport | None
    ) -> Iterator[None]:
        """The life of one socket; a newer one of the same id takes its place."""
        self._sockets.pop(client_id, None)
        self._sockets[client_id] = ws
        self._flags[client_id] = {}
        if transport is not None:
            self._transports.add(transport)
        try:
            yield
        finally:
            # Whichever socket of the id ends, the id is gone: ComfyUI's own trap.
            self._sockets.pop(client_id, None)
            self._flags.pop(client_id, None)
            if transport is not None:
                self._transports.discard(transport)

    def set_flags(self, client_id: str, flags: Any) -> None:
        """What a client says that it can do."""
        self._flags[client_id] = flags

    def knows_metadata(self, client_id: str | None) -> bool:
        """Whether a client said that it takes previews with metadata."""
        flags = self._flags.get(client_id or "")
        return isinstance(flags, dict) and flags.get("supports_preview_metadata") is True

    def send(self, event: str | int, data: Any, client_id: str | None = None) -> None:
        """Queue a message, from any thread; to all clients without a `client_id`."""
        self._soon(self._messages.put_nowait, (event, data, client_id))

    async def _publish(self) -> None:
        while True:
            await self.deliver(*await self._messages.get())

    async def deliver(self, event: str | int, data: Any, client_id: str | None) -> None:
        """Send now; who is not connected misses it."""
        if client_id is None:
            sockets = list(self._sockets.values())
        else:
            sockets = [self._sockets[client_id]] if client_id in self._sockets else []
        if not sockets:
            return
        if isinstance(event, int):
            frame = struct.pack(">I", event) + data
            for ws in sockets:
                await _unless_gone(ws.send_bytes(frame))
        else:
            text = json.dumps({"type": event, "data": data})
            for ws in sockets:
                await _unless_gone(ws.send_str(text))

    # -- log ----------------------------------------------------------------------------

    def log(self, text: str) -> None:
        """Add a line to the log, from any thread."""
        self._soon(self._add_to_log, text)

    def _add_to_log(self, text: str) -> None:
        entry = {"t": datetime.now().isoformat(), "m": f"{text.rstrip()}\n"}
        self._log.append(entry)
        self._log_readers &= self._sockets.keys()
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


async def _unless_gone(sending: Awaitable[None]) -> None:
    with contextlib.suppress(aiohttp.ClientError, ConnectionError):
        await sending


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
