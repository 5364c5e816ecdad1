"""The embedded server: its options, start and stop."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
import os
import re
import shutil
import socket
import ssl
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future
from datetime import datetime
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar, cast

from aiohttp import web

from .active_faults import OF_ONE_LIFE, Fault
from .beginning import Beginning, Kept, checked_kept
from .control.control_service import ControlService
from .definitions import InputFiles, KnownNodes, ModelNames, NodeSettings, ObjectInfo
from .exchange import Rule, fault_middleware, note_status
from .folders import Folders
from .hosted.gateway import Gateway
from .hosted.traps import HostedKind, HostedTraps
from .hosts import ANY, accepted_names, allowed_origins, check_hosts, host_filter, is_loopback
from .node_files import load
from .nodes import NodeRegistry, node_class
from .packs.fake_packs import OfferedPack
from .packs.pack import AllPacks, PackServer
from .packs.registry import packs_of
from .page import checked_settings, find_page
from .received import Records
from .replay import Player
from .routes import application
from .scripting import PromptHooks, ScriptedServer
from .server_clock import IdKind, ServerClock, ServerIds
from .server_loop import ListenAddress, ReservedPort
from .server_state import UPLOAD_SIZE, ServerSettings, ServerState
from .versions import Version, check_version, version_with
from .wire import Next

_STOP_TIMEOUT = 10.0  # seconds that a node gets to notice that the server stops
_PREFIX = re.compile(r"(/(?!\.{1,2}(/|$))[A-Za-z0-9._~-]+)+")  # without . and .. as folders
_POLL = 0.05  # seconds between two attempts to acquire the lock

_Class = TypeVar("_Class", bound=type)
_Tls = ssl.SSLContext | tuple[str | Path, str | Path]


class ComfyServer(ScriptedServer):
    """An embedded ComfyUI server in threads of this process; ``with`` starts and stops it.

    It has ComfyUI's HTTP routes and WebSocket messages, and executes workflows of the nodes
    that ``GET /object_info`` lists (see :mod:`comfy_client.testing.nodes`).  The sampler and
    the nodes around it are simulated: images are drawn from seed and prompt, and say so.

    Its ``faults`` make it fail in every way that ComfyUI and the network do: see
    :class:`Faults`.  A test can script its answers, and read what it received: see
    :mod:`comfy_client.testing.scripting`.  It keeps the last 10,000 requests (64 MiB of bodies)
    and the last 100,000 of everything else, over restarts too.  Any thread may read them.

    Its files are in a temporary folder, ``root``, with ComfyUI's layout: put images into
    ``root / "input"``, and any file into ``root / "models/checkpoints"`` to have a checkpoint
    of that name.  :meth:`stop` deletes the folder, unless it was given.

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
        credentials: The credentials that every request must have: a pair for basic
            authentication, a text for a bearer token; ``None``: none (as ComfyUI itself).
        multi_user: As ``--multi-user``: settings and files belong to the ``Comfy-User``.
        tls: An SSL context, or the paths of certificate and key (PEM), for https and wss.
        prefix: The path of all routes, such as ``"/comfy"``: letters, digits and ``-._~``.
        previews: Whether the sampler sends previews, as with ``--preview-method``.
        max_upload_size: Largest request body in bytes; the answer to larger ones is 413.
        step_seconds: How many seconds the simulated sampler takes for a step.
        object_info: Further node classes: the definitions of a version that the package contains
            (``"0.3.75"``, ``"0.28.1"``, ``"0.33.0"``), a JSON file of what ``GET /object_info``
            answers (also ``.json.gz``), or that as a dict.  Their nodes are stand-ins, which run no
            model: outputs have values of their types, and pictures say that they are simulated.
            Output nodes write small files of their kind, which say so, too.
        models: Which names of model files are accepted: ``"any"``; ``"recorded"``: those in the
            definitions; ``"touched"``: those of files below ``root / "models"``.  ``None``:
            ``"any"`` with ``object_info``, else ``"touched"``.
        inputs: ``"placeholder"``: any name of an input file is accepted, and a picture is drawn in
            place of a missing file; ``"real"``: the file must exist.  ``None``: ``"placeholder"``
            with ``object_info``, else ``"real"``.
        nodes: ``"known"``: prompts with unknown node classes are refused; ``"any"``: they are
            accepted, with inputs and outputs as the workflow links them.  The answer to such a
            prompt has a ``hint``, and the log a warning.
        node_seconds: How many seconds each node of a class takes, by class.
        speed: The factor by which simulated times are shorter: ``lead``, those of steps, of nodes
            and of ``faults.slow_node``.  The attribute ``speed`` can change it later.
        lead: How many seconds a prompt runs, for the queue, before its ``execution_start``.
        clock: The time of day at the start, with a time zone, such as ``"2026-12-01T09:30:00Z"``:
            times in events, in history and in names of files depend on it and on simulated times
            alone, and each event is a millisecond after the one before.  ``None``: real time.
        ids: ``"counter"``: ids that the server chooses are the same in each run; that of the n-th
            prompt without one is ``uuid5(NAMESPACE_OID, "n")``.  ``"random"``: they differ.  Those
            of users and of a hosted surface always do.
        version: The version of ComfyUI that it imitates: ``"0.3.75"`` of November 2025, or one of
            these two.  ``None``: the one whose definitions ``object_info`` names, else ``"0.28"``.
            ``"0.28"`` is like 0.28.1 of July 2026: it has the jobs API (``/api/jobs``), takes
            ``preview_method`` from ``extra_data``, and checks the choices of ``COMBO`` inputs; a
            ``prompt_id`` must be a UUID, errors about unknown classes and cycles are worded
            differently, fewer ``progress`` events are sent, the history has the outputs of cached
            runs even for prompts without a client, times of user data are in milliseconds, names
            in ``/internal/files`` have their folder, and assets are switched off.
            ``"0.33"`` is like 0.33.0 of August 2026: jobs also tell how many of their outputs can
            be shown (``previewable_outputs_count``), pictures represent a job rather than texts,
            an ``<img>`` may show an SVG, and pages may use ``user.css``.
        allowed_hosts: Further values of ``Host`` that requests may have, besides loopback and
            ``host``, such as the name of a proxy in front of the server.  ``None``: no others
            while it listens on loopback, else any.  ``["*"]`` allows all that ComfyUI allows, web
            pages included.
        cors: The origins of other pages that may use it, such as ``["http://localhost:5173"]`` of a
            page in development; ``["*"]``: all, as with ``--enable-cors-header``.  Socket, uploads
            and pictures are included; a hosted surface is not.
        frontend: ``True``: serve ComfyUI's own page, as the extra ``[frontend]`` installs it, with
            the workflow templates and the help on nodes that are installed; or the folder of
            another page, which is only read.  A warning tells if the page is not the one that
            this version of ComfyUI comes with.
        settings: Settings of the page, such as ``{"Comfy.TutorialCompleted": True}``, which count
            until a user changes them.
        hosted: Serve Comfy API v2 at ``url``, as ``"proxy"`` (comfy-api-proxy 0.1.6 in front of the
            ComfyUI of ``version``), ``"serverless"`` or ``"cloud"``, and ComfyUI itself at
            ``comfyui_url``, without credentials.  ``None``: ComfyUI is at ``url``.
        traps: The peculiarities and traps of the hosted surface, see :class:`HostedTraps`;
            ``None``: those of the real one.
        control: Let programs control the server over HTTP at ``control_url``, see
            :mod:`comfy_client.testing.control`: ``True`` on any free port, a number on that port.
            It is for programs on this machine, and not for web pages.
        control_token: The bearer token that each call of the control must have; it then listens
            on ``host``.  ``None``: no token, and it listens on loopback.
        packs: Node packs with routes of their own, by name or as objects: ``"manager4"``,
            ``"manager4-legacy"`` (with its old page) and ``"manager3"``, which are versions of
            ComfyUI-Manager, or ``"crystools"``.  A server has one Manager at most, and an object
            is of one server.

    Attributes:
        requests: All requests, oldest first, WebSocket handshakes included.
        handshakes: The headers of each WebSocket handshake.
        hellos: The client id of each WebSocket that was opened, oldest first.
        first_messages: The first message that the client sent on each WebSocket, decoded.
        messages: All messages that clients sent on WebSockets, decoded.
        ran: The prompts that have started to run, or whose scripts have, oldest first.
        errors: Exceptions of handlers and scripts, and of messages that could not be sent.  An
            error of a node is included only if it is not an ``Exception``, as from
            ``pytest.fail``.  The first one is raised again when the ``with`` block ends without
            another.
        faults: Faults that can be switched on: see :class:`Faults`.
        version: The version of ComfyUI that it imitates.
        hosted: The hosted surface that it serves, or ``None``.
        packs: The packs with routes of their own, by name.

    Raises:
        ValueError: A certificate that cannot be loaded, a prefix that is not a path, an invalid
            host, an unknown version, hosted surface or pack, a number out of range, ``traps``
            without ``hosted``, user and password with it, ``object_info`` that contains no
            definitions, or a folder without a page.
        TypeError: An argument of another type.
        OSError: ``object_info`` cannot be read.
        ModuleNotFoundError: ``frontend=True``, but no page is installed.
    """

    # repr() must work although __init__ failed: tracebacks show it.
    _state: ServerState | None = None
    _beginning: Beginning | None = None
    _player: Player | None = None
    _root: Path | None = None
    _replaced: ServerState | None = None  # whose process replaces itself

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
        max_upload_size: int = UPLOAD_SIZE,
        step_seconds: float = 0.02,
        object_info: ObjectInfo | None = None,
        models: ModelNames | None = None,
        inputs: InputFiles | None = None,
        nodes: KnownNodes = "known",
        node_seconds: Mapping[str, float] | None = None,
        speed: float = 1.0,
        lead: float = 0.0,
        clock: datetime | str | None = None,
        ids: IdKind = "random",
        version: Version | None = None,
        allowed_hosts: Collection[str] | None = None,
        cors: Collection[str] = (),
        frontend: bool | str | os.PathLike[str] = False,
        settings: Mapping[str, Any] = MappingProxyType({}),
        root: str | os.PathLike[str] | None = None,
        hosted: HostedKind | None = None,
        traps: HostedTraps | None = None,
        control: bool | int = False,
        control_token: str | None = None,
        packs: Iterable[str | OfferedPack] = (),
    ) -> None:
        version = version_with(object_info) if version is None else version
        check_version(version)
        check_hosts(allowed_hosts)
        _check_host(host)
        _check_prefix(prefix)
        _check_hosted(hosted, traps, credentials)
        _check_number("port", port, 65535)
        _check_number("max_upload_size", max_upload_size)
        _check_number("step_seconds", step_seconds, whole=False)
        _check_credentials(credentials)
        timing = ServerClock(speed, lead, clock)
        super().__init__(timing)
        self.version: Version = version
        self.hosted: HostedKind | None = hosted
        self._options = ServerSettings(
            version=version,
            multi_user=multi_user,
            max_upload_size=max_upload_size,
            prefix="" if hosted else prefix,
            origins=allowed_origins(cors),
            page=find_page(frontend, version),
            settings=checked_settings(settings),
            clock=timing,
            ids=ServerIds(ids),
        )
        self._credentials = credentials
        #: The address that clients use, and that of ComfyUI itself.
        self._front = self._own = ListenAddress(ReservedPort(host, port), _tls_context(tls), prefix)
        self._gateway: Gateway | None = None
        if hosted:
            self._own = ListenAddress(ReservedPort("127.0.0.1", 0))
            token = cast(str | None, credentials)
            self._gateway = Gateway(hosted, traps, self._front, token, self._host_filters)
        #: A certificate file that clients may trust, if known.
        self._certificate = tls[0] if isinstance(tls, tuple) else None
        self._allowed_hosts = allowed_hosts
        self._control = _control(self, control, host, control_token)
        self._node_settings = NodeSettings.of(
            previews, step_seconds, object_info, models, inputs, nodes, node_seconds
        )
        self._added, self._packs = dict[str, type](), dict[Path, str]()
        self.packs: dict[str, OfferedPack] = packs_of(packs)
        self._all_packs = AllPacks(one.pack for one in self.packs.values())
        self._kept_root = None if root is None else Path(root)
        self._threads: list[threading.Thread] = []
        self._lock = threading.RLock()  # guards the above; held while it starts or stops

    def __enter__(self) -> ComfyServer:
        self.errors.clear()  # errors of an earlier use
        return self.start()

    def __exit__(self, kind: object, *_: object) -> None:
        self.stop()
        if kind is None and self.errors:
            raise self.errors[0]

    def __repr__(self) -> str:
        address: ListenAddress | None = vars(self).get("_front")
        where = address.url if address and (self._state or address.port.is_reserved) else "stopped"
        return f"<ComfyServer {where}>"

    @property
    def url(self) -> str:
        """The URL that clients use, with the prefix."""
        self._check_port()
        return self._front.url

    @property
    def comfyui_url(self) -> str:
        """The URL of ComfyUI itself, which differs from ``url`` only on a hosted server."""
        self._check_port()
        return self._own.url

    @property
    def gateway(self) -> Gateway:
        """The surface of a hosted server; raises RuntimeError if the server is not hosted."""
        if self._gateway is None:
            raise RuntimeError("the server is not hosted: use ComfyServer(hosted='proxy')")
        return self._gateway

    @property
    def control_url(self) -> str:
        """The URL below which programs control the server; RuntimeError without ``control``."""
        if self._control is None:
            raise RuntimeError("the server has no control: use ComfyServer(control=True)")
        self._check_port()
        return self._control.url

    @property
    def port(self) -> int:
        """The port that the server listens on, or last listened on.

        Before the first start, it is the argument ``port``; if that is 0, RuntimeError is raised.
        """
        self._check_port()
        return self._front.port.number

    @property
    def added_nodes(self) -> list[str]:
        """The names of the node classes that :meth:`add_node` has added."""
        return list(self._added)

    def remove_node(self, name: str) -> None:
        """Remove a class that :meth:`add_node` has added; one that it replaced is there again.

        Raises:
            LookupError: No class of this name was added.
        """
        if name not in self._added:
            raise LookupError(f"no node class {name!r} was added")
        del self._added[name]
        if self._state:
            self._state.nodes.restore(self._added)
            self._all_packs.add_nodes()

    @property
    def models(self) -> dict[str, list[str]]:
        """The names of the model files, by folder; RuntimeError if the server is not running."""
        folders = self._running().folders
        return {kind: folders.model_names(kind) for kind in folders.models}

    def add_models(self, folder: str, *names: str) -> None:
        """Have model files of these names, such as ``add_models("loras", "a.safetensors")``.

        Raises:
            ValueError: An unknown folder, or a name that is none of a model file.
            RuntimeError: The server is not running.
        """
        self._running().folders.add_models(folder, names)

    @property
    def root(self) -> Path:
        """The folder of the server's files; raises RuntimeError if the server is not running."""
        return self._running().folders.root

    def add_node(self, cls: _Class, name: str | None = None) -> _Class:
        """Add a node class of your own, or replace the class that has its name.

        Works before and after :meth:`start`, also as a decorator.

        Args:
            cls: A class with ComfyUI's conventions, see :mod:`comfy_client.testing.nodes`.
            name: Its ``class_type`` in workflows; ``None``: the name of the class, or the
                ``node_id`` of its V3 schema.

        Raises:
            TypeError: The class is not a node; the message says what is missing.
        """
        if not isinstance(cls, type) or not isinstance(name, str | None):
            raise TypeError(f"a node must be a class, and its name a string, not {cls!r}, {name!r}")
        name, played = node_class(cls, name)
        self._added[name] = played
        if self._state:
            self._state.nodes.add(name, played)
        return cls

    def load_nodes(self, path: str | os.PathLike[str]) -> list[str]:
        """Load node classes from a Python file or a pack's folder, and return their names.

        The file, or ``__init__.py`` of the folder, has ``NODE_CLASS_MAPPINGS`` or
        ``comfy_entrypoint``, as in ComfyUI's ``custom_nodes``.  Its code runs in this process; if
        it imports torch, it cannot be loaded.  Of ``comfy_api.latest`` there is what needs no
        torch.  The ``WEB_DIRECTORY`` of a pack is served for the page below ``/extensions``, unless
        it is outside of the pack's folder.

        Works before and after :meth:`start`.

        Args:
            path: A file, or a folder with ``__init__.py``.

        Raises:
            ImportError: It cannot be loaded; the message says in one line where and why.
        """
        loaded = load(path)
        self._added |= loaded.classes
        if loaded.folder is not None:
            self._packs[loaded.folder] = loaded.web
        if self._state:
            self._state.folders.packs.update(self._packs)
            for name, cls in loaded.classes.items():
                self._state.nodes.add(name, cls)
        return list(loaded.classes)

    @classmethod
    def replay(
        cls,
        path: str | os.PathLike[str],
        *,
        pace: float = 0.0,
        skip_after: float = 2.0,
        port: int = 0,
        host: str = "127.0.0.1",
        tls: _Tls | None = None,
        prefix: str = "",
        allowed_hosts: Collection[str] | None = None,
        control: bool | int = False,
        control_token: str | None = None,
    ) -> ComfyServer:
        """Make a server that repeats a recording, for a client that repeats its requests.

        It executes nothing.  :mod:`comfy_client.testing.replay` explains the answers.
        ``server.on`` and ``server.faults`` take precedence, and ``faults.clear()`` ends it.

        Args:
            path: A file of ``ComfyApi(record=...)``.
            pace: The factor for recorded pauses: 0: none, 1: all.
            skip_after: Seconds that a request waits for the recorded requests before it; after
                that, these count as left out by the client.
            port: As for any server, as are ``host``, ``tls``, ``prefix``, ``allowed_hosts``,
                ``control`` and ``control_token``.

        Raises:
            ValueError: The file is not a recording; the message names the line.  Or a number that
                is below 0.
            OSError: The file cannot be read.
        """
        server = cls(
            port,
            host=host,
            tls=tls,
            prefix=prefix,
            allowed_hosts=allowed_hosts,
            control=control,
            control_token=control_token,
        )
        player = Player(path, pace, skip_after, lambda: server._state is not None)
        server._player = player
        server.on("*", "*", player.answer)
        server._active.add("answer", Rule("*", "/ws", player.socket))
        return server

    def start(self) -> ComfyServer:
        """Start to listen and to execute prompts; return the server.

        After :meth:`kill`, it listens on the same port.

        Raises:
            OSError: The address is in use, or does not belong to this machine.
            RuntimeError: It is running already.
        """
        with self._alone():
            if self._state:
                raise RuntimeError(f"already running at {self.url}")
            return self._start()

    def _start(self, *, again: bool = False) -> ComfyServer:
        self._replaced = None
        listener = self._own.port.listen(again=again)
        try:
            state, app = self._built(listener.getsockname()[0])
            if self._beginning is None:
                self._mark(state)
        except BaseException:
            listener.close()
            raise
        started: Future[None] = Future()
        serving = _serve(state, app, listener, self._own.tls, started)
        server = threading.Thread(target=asyncio.run, args=(serving,), name="ComfyServer")
        server.daemon = True
        self._threads = [server, _worker(state)]
        self._state = state
        for thread in self._threads:
            thread.start()
        try:
            started.result()
            if self._gateway:
                self._gateway.attach(state, self._own.url, again=again)
            if self._control:
                self._control.open()
        except BaseException:
            self.stop()
            raise
        return self

    def _built(self, address: str) -> tuple[ServerState, web.Application]:
        if self._root is None and self._kept_root is not None:
            self._kept_root.mkdir(parents=True, exist_ok=True)
            self._root = self._kept_root.resolve()
        elif self._root is None:
            self._root = Path(tempfile.mkdtemp(prefix=f"comfy-server-{os.getpid()}-")).resolve()
            # Also at the end of the process, if the server is never stopped.
            self._remove_root = weakref.finalize(self, _remove, self._root, os.getpid())
        options = self._options
        web_folder = options.page.folder if options.page else None
        folders = Folders(self._root, options.version, options.clock, options.ids, web=web_folder)
        nodes = NodeRegistry(folders, self._node_settings, options.version)
        folders.packs.update(self._packs)
        for name, cls in self._added.items():
            nodes.add(name, cls)
        state = ServerState(options, folders, nodes, self._active, self._records)
        is_local = is_loopback(self._own.port.host)
        pack_server = PackServer(state, partial(self._reboot, state), is_local)
        app = _below(options, application(state, self._all_packs, pack_server))
        if self._credentials is not None and not self._gateway:
            app.middlewares.append(_guard(self._credentials))
        faults = fault_middleware(state, self._records, state.connections, options.prefix)
        app.middlewares.insert(0, faults)
        app.on_response_prepare.append(note_status)
        app.middlewares[:0] = self._host_filters(address, self._own)
        return state, app

    def _host_filters(self, address: str, own: ListenAddress | None = None) -> list[Any]:
        """Return the middleware that refuses other host names, for ComfyUI or its hosted surface.

        ``own`` is the address of ComfyUI; without it, the middleware is for the surface, which
        refuses web pages itself.
        """
        if ANY in (self._allowed_hosts or ()):
            return []
        names = accepted_names((own or self._front).port.host, address, self._allowed_hosts)
        origins = self._options.origins
        return [host_filter(names, pages=own is not None, origins=origins)]

    def stop(self) -> None:
        """Close all connections, stop the running prompt and delete the server's files; idempotent.

        A running node has 10 seconds to end.
        """
        if self._control:
            self._control.close()  # first, as one of its calls may be restarting the server
        with self._alone():
            self._halt()
            self._own.port.release()
            if self._gateway:
                self._gateway.release()
            self._beginning = self._replaced = None
            self._all_packs.forget()
            if self._root is not None:
                self._root = None
                if self._kept_root is None:
                    self._remove_root()

    def restart(self) -> None:
        """Stop and restart the server on its port: queue and history are lost, files are kept."""
        with self._alone():
            if not self._own.port.is_reserved:
                self._running()
                self._halt(reserve=True)
            self._start(again=True)

    def _reboot(self, state: ServerState, seconds: float) -> None:
        """Stop soon, as a process that replaces itself, and start after simulated seconds."""

        def replace() -> None:
            with contextlib.suppress(RuntimeError), self._alone():
                if self._state is not state:
                    return
                self._halt(reserve=True)
                self._replaced = state
            for pause in state.options.clock.pauses(seconds):
                if self._replaced is not state:
                    return
                time.sleep(pause)
            with self._alone():
                if self._replaced is state:
                    self._start(again=True)

        caught = partial(_keep_error, replace, self._records)
        threading.Thread(target=caught, name="ComfyServer reboot", daemon=True).start()

    def mark_start(self) -> None:
        """Have :meth:`reset` return to the files, node classes and faults of now.

        Without it, they are those of the start.
        """
        self._mark(self._running())

    def _mark(self, state: ServerState) -> None:
        self._beginning = Beginning.of(state.folders.root, self._added, self._packs, self._active)
        self._all_packs.mark()

    def reset(self, keep: Collection[Kept] = ()) -> None:
        """Return to the start, in milliseconds, so that one server serves many tests.

        Queue, history, outputs, uploads, files and settings of users, the log, faults, answers,
        scripts and all records are forgotten, numbers begin again, and time passes as it did then.
        Files that are newer than the start are deleted; those that were changed since stay so, and
        so does what is behind a link, or in a folder that could not be read at the start.  A killed
        server is started again.

        Sockets stay open, as do idle connections.  A client sees ``status`` with an empty queue,
        and no further event of its prompts, which are neither in queue nor history any more.
        Requests that are still being answered are cut off.  A running node is interrupted and
        waited for.

        Args:
            keep: What stays as it is: ``"models"``, the model files, ``"nodes"``, the node classes.

        Raises:
            ValueError: ``keep`` names something else.
            RuntimeError: The server is not running, or a node or a script of it calls this.
            BaseException: All else is done before: RuntimeError if a node does not end within 10
                seconds, which can still write files; OSError if a file cannot be deleted; or the
                first one of ``errors``, as at the end of the ``with`` block.
        """
        kept = checked_kept(keep)
        with self._alone():
            if threading.current_thread() in self._threads:
                raise RuntimeError("a node or a script cannot reset its own server")
            if self._state is None and self._own.port.is_reserved:  # it was killed
                self._start()
            state = self._running()
            try:
                with state.sockets.quiet():
                    errors = self._begin_again(state, kept)
            finally:
                state.begin()
                state.send("status", {"status": state.queue_info()})
                self._threads[1:] = [_worker(state)]
                self._threads[1].start()
        if errors:
            raise errors[0]

    def _begin_again(self, state: ServerState, keep: Collection[Kept]) -> list[BaseException]:
        """Reset all parts of a running server; return the errors to raise, the gravest first."""
        beginning, failures = cast(Beginning, self._beginning), list[BaseException]()
        self._active.restore(beginning.faults)
        if not state.end_work(_STOP_TIMEOUT):
            failures.append(RuntimeError("a node of a prompt before the reset still runs"))
        self._options.clock.reset()  # not before, as the work took its time
        self._options.ids.reset()
        state.forget()
        if "nodes" not in keep:
            self._added = {**beginning.nodes}
            state.nodes.restore(self._added)
            self._packs = {**beginning.packs}
            state.folders.packs = {**self._packs}
        state.loop.call(self._all_packs.reset, keep)
        if self._player:
            self._player.rewind()
        if self._gateway:
            self._gateway.reset()
        if self._control:
            self._control.reset()
        failures += [*beginning.clean(keep), *self.errors]
        self._records.clear()
        state.folders.make()
        return failures

    def kill(self) -> None:
        """Crash the server: reset connections and cut off answers; :meth:`start` starts it again.

        Queue and history are lost; files and port are kept.  Until the next start, the port refuses
        connections.
        """
        self._crash()

    def _crash(self, fault: Fault | None = None) -> None:
        with self._alone():
            self._running()
            if fault is None or fault.active:  # it may have ended while another call was under way
                self._halt(reset=True, reserve=True)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Context manager: allow one start or stop at a time.

        A stop or a reset waits for the server's threads.  A thread of the server cannot wait for it
        in turn, and gets a RuntimeError.
        """
        is_ours = threading.current_thread() in self._threads
        while not self._lock.acquire(timeout=_POLL if is_ours else -1):
            if self._state is None or self._state.queue.closed:
                raise RuntimeError("another thread stops or resets the server")
        try:
            yield
        finally:
            self._lock.release()

    def _halt(self, *, reset: bool = False, reserve: bool = False) -> None:
        state = self._state
        if state is None:
            return
        if reserve:
            self._own.port.reserve()
        if self._gateway:
            self._gateway.detach(reserve=reserve)
        state.stop(reset=reset)  # before the rest, so that waiting threads know why
        self._state = None
        self._active.clear(*OF_ONE_LIFE)
        for thread in self._threads:
            if thread is not threading.current_thread():  # a node or a script may stop its server
                thread.join(_STOP_TIMEOUT)
        self._own.port.refuse()
        if self._gateway:
            self._gateway.refuse()
        shutil.rmtree(state.folders.root / "temp", ignore_errors=True)

    def _check_port(self) -> None:
        """Raise RuntimeError if the port is not known yet."""
        if not self._front.port.number:
            self._running()

    def _running(self) -> ServerState:
        if self._state is None:
            raise RuntimeError("the server is not running: use `with ComfyServer()`, or start() it")
        return self._state


def _keep_error(work: Callable[[], object], records: Records) -> None:
    """Call a function; record that another program has taken the server's port."""
    try:
        work()
    except OSError as exc:
        records.keep(records.errors, exc)


def _worker(state: ServerState) -> threading.Thread:
    """Return the thread in which prompts run; it has not started."""
    state.executor.hooks = PromptHooks(state)
    return threading.Thread(target=state.executor.work, name="ComfyServer worker", daemon=True)


async def _serve(
    state: ServerState,
    app: web.Application,
    listener: socket.socket,
    tls: ssl.SSLContext | None,
    started: Future[None],
) -> None:
    """Serve requests from the server's start to its stop, in the server's thread."""
    state.loop.begin().set_exception_handler(lambda _, context: state.log(str(context["message"])))
    publishing = asyncio.create_task(state.sockets.publish())

    def ready() -> None:
        state.log("Starting server\n")
        started.set_result(None)

    try:
        await state.connections.serve(app, listener, tls, state.logger(), ready)
    except BaseException as exc:
        if not started.done():
            started.set_exception(exc)
        raise
    finally:
        publishing.cancel()
        await asyncio.gather(*state.ports.values(), return_exceptions=True)


def client_options(server: ComfyServer) -> dict[str, Any]:
    """Return the arguments that a client of the server needs besides the URL, by name."""
    return {"credentials": server._credentials, "verify": server._certificate or True}


def _check_number(name: str, value: Any, most: float = float("inf"), *, whole: bool = True) -> None:
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        raise TypeError(f"{name} must be a {'whole ' if whole else ''}number, not {value!r}")
    if value == float("inf"):
        raise ValueError(f"{name} must be finite, not {value!r}")
    if not 0 <= value <= most:
        limit = "0 or more" if most == float("inf") else f"from 0 to {most}"
        raise ValueError(f"{name} must be {limit}, not {value!r}")


def _check_prefix(prefix: Any) -> None:
    if not isinstance(prefix, str):
        raise TypeError(f"prefix must be a string, not {prefix!r}")
    if prefix and not _PREFIX.fullmatch(prefix):
        raise ValueError(f"a prefix looks like '/comfy', not {prefix!r}")


def _check_hosted(hosted: Any, traps: Any, credentials: Any) -> None:
    if hosted is None:
        if traps is not None:
            raise ValueError("traps are for a hosted server: give hosted='proxy' too")
    elif isinstance(credentials, tuple):
        raise ValueError("a hosted server takes a token, not a pair of user and password")


def _control(server: ComfyServer, control: Any, host: str, token: Any) -> ControlService | None:
    """Return the control of a server; None: it has none."""
    if not isinstance(control, bool):
        _check_number("control", control, 65535)
    if not isinstance(token, str | None):
        raise TypeError("control_token must be a string")  # not quoted: it is a secret
    if token is not None and (control is False or not re.fullmatch(r"[!-~]+", token)):
        raise ValueError("control_token is for control=True, and has no spaces or odd characters")
    if control is False:
        return None
    return ControlService(server, 0 if control is True else control, host, token)


def _check_host(host: Any) -> None:
    if not isinstance(host, str):
        raise TypeError(f"host must be a string, not {host!r}")
    try:
        usable = bool(host.encode("idna"))
    except UnicodeError:
        usable = False
    if not usable or "\0" in host:
        raise ValueError(f"host must be a name or an address to listen on, not {host!r}")


def _check_credentials(value: Any) -> None:
    texts = value if isinstance(value, tuple) and len(value) == 2 else (value,)
    if value is not None and not all(isinstance(text, str) for text in texts):
        # The value is not quoted: it may be a secret.
        raise TypeError("credentials must be a pair of user and password, or a token")


def _remove(folder: Path, process: int) -> None:
    """Remove a folder, except in a forked child, as the parent still uses it."""
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)


def _tls_context(tls: _Tls | None) -> ssl.SSLContext | None:
    if tls is None or isinstance(tls, ssl.SSLContext):
        return tls
    are_paths = isinstance(tls, tuple) and all(isinstance(p, str | os.PathLike) for p in tls)
    if not are_paths or len(tls) != 2:
        raise TypeError("tls must be an SSL context, or the paths of certificate and key")
    certificate, key = tls
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ValueError) as exc:
        raise ValueError(f"no certificate and key in {certificate} and {key}: {exc}") from exc
    return context


def _below(options: ServerSettings, app: web.Application) -> web.Application:
    if not options.prefix:
        return app
    outer = web.Application(client_max_size=options.max_upload_size)
    outer.add_subapp(options.prefix, app)
    return outer


def _guard(credentials: tuple[str, str] | str) -> Any:
    """Return middleware that requires these credentials of each request, as a proxy would."""
    if isinstance(credentials, str):
        scheme, wanted = "Bearer", credentials
    else:
        scheme, wanted = "Basic", base64.b64encode(":".join(credentials).encode()).decode()

    @web.middleware
    async def guard(request: web.Request, handler: Next) -> web.StreamResponse:
        given, _, value = request.headers.get("Authorization", "").partition(" ")
        if given.lower() == scheme.lower() and hmac.compare_digest(value.encode(), wanted.encode()):
            return await handler(request)
        raise web.HTTPUnauthorized(headers={"WWW-Authenticate": f'{scheme} realm="ComfyUI"'})

    return guard
