"""The common part of all Managers: packs, settings, snapshots, failed imports and reboot.

Subclasses add how work is given to a Manager; their ``prefix`` is that of its routes.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Final

import attrs
from aiohttp import web

from ..beginning import Kept
from .installed import InstalledPacks, PackFolder, answer_of
from .listed import ListedModel, ListedPack, node_types
from .manager_security import ActionNeed, SecurityLevel, allows
from .pack import Pack, PackRoutes, PackServer

_CHANNELS: Final[Mapping[str, str]] = {
    "default": "",
    "recent": "/node_db/new",
    "legacy": "/node_db/legacy",
    "forked": "/node_db/forked",
    "dev": "/node_db/dev",
    "tutorial": "/node_db/tutorial",
}
CHANNELS: Final = tuple(_CHANNELS)
SOURCES: Final = ("cache", "channel", "local", "remote")
_POLICIES: Final = ("stable", "stable-comfyui", "nightly", "nightly-comfyui")
_DEFAULTS: Final[Mapping[str, str]] = {
    "db_mode": "cache",
    "policy/update": "stable-comfyui",
    "channel_url_list": "",
}
#: How many tasks wait at most, how many of the newest results are kept, and how many snapshots.
MOST: Final = 1_000
#: How many of the newest batches are kept.
MOST_BATCHES: Final = 100
_LARGEST: Final = 2**20  # bytes of a body
_NO_BODY: Final = ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data")
_REFUSED: Final = "Invalid Content-Type for this endpoint. Use application/json or omit body."


@attrs.frozen(kw_only=True)
class ManagerOptions:
    """The arguments with which a Manager was made; the lists have all that it lists."""

    packs: Sequence[ListedPack]
    models: Sequence[ListedModel]
    installed: Sequence[str]
    disabled: Sequence[str]
    security_level: SecurityLevel
    allow_git_url: bool
    allow_pip: bool
    online: bool
    unreachable: frozenset[str]
    seconds: float
    reboot_seconds: float


@attrs.frozen
class ManagerState:
    """The state of a Manager over restarts: installed packs, settings, and snapshots by name."""

    installed: Mapping[str, PackFolder]
    settings: Mapping[str, str]
    snapshots: Mapping[str, Mapping[str, PackFolder]]


@attrs.define(eq=False)
class TaskWorker:
    """The worker of a Manager, from a start or a reset to the next.

    Attributes:
        lives: Whether it does tasks, waits for more, or is closing down.
        runs: Whether it does a task now.
    """

    lives: bool = False
    runs: bool = False

    async def work(self, process: Callable[[], Awaitable[None]]) -> None:
        """Do tasks.  However that ends, there is no worker afterwards."""
        try:
            await process()
        finally:
            self.lives = self.runs = False


class ManagerBase(Pack):
    """The base class of the Managers.

    Attributes:
        version: What it says of its version.
        prefix: What is before the paths of its routes.
        repository: Where its lists come from.
        channel: The channel that is selected at first.
    """

    version = ""
    prefix = ""
    repository = ""
    channel = "custom"

    def __init__(self, options: ManagerOptions) -> None:
        super().__init__()
        self._options = options
        self._packs = InstalledPacks(
            options.packs,
            options.installed,
            disabled=options.disabled,
            online=options.online,
            unreachable=options.unreachable,
        )
        self._batches: dict[str, dict[str, Any]] = {}
        self._worker = TaskWorker()
        self._settings: Mapping[str, str] = {**_DEFAULTS, "channel_url_list": self.channel}
        self._snapshots: Mapping[str, Mapping[str, PackFolder]] = {}
        self._restoring: Mapping[str, PackFolder] | None = None
        #: The packs that the running process has imported, or failed to import.
        self._imported: Mapping[str, PackFolder] = {}
        self._marked = self._first = self._state()

    @property
    def options(self) -> ManagerOptions:
        """The arguments with which the Manager was made."""
        return self._options

    @property
    def packs(self) -> InstalledPacks:
        """The installed packs, and the list of those that can be installed."""
        return self._packs

    @property
    def batches(self) -> dict[str, dict[str, Any]]:
        """The batches that are kept as files, over restarts too; the oldest first."""
        return self._batches

    # -- life ---------------------------------------------------------------------------

    def start(self, server: PackServer) -> None:
        """Begin with a process of the server: what was installed takes effect."""
        super().start(server)
        if self._restoring is not None:
            self.packs.restore(self._restoring)
            self._restoring = None
        self._imported = self.packs.now
        self.add_nodes()
        self.begin()

    def mark(self) -> None:
        """Keep the state to which :meth:`reset` returns."""
        self._marked = self._state()

    def reset(self, keep: Collection[Kept]) -> None:
        """Return to the state that was marked; ``"nodes"`` keeps the installed packs."""
        super().reset(keep)
        packs = self.packs.now
        self._return_to(self._marked)
        if "nodes" in keep:
            self.packs.now = packs  # the classes are those of before, too
        else:
            self._imported = self.packs.now
            self.add_nodes()
        self.begin()

    def forget(self) -> None:
        """Return to the state of a new Manager."""
        self._return_to(self._first)
        self._marked = self._first

    def _state(self) -> ManagerState:
        return ManagerState(self.packs.now, self._settings, self._snapshots)

    def _return_to(self, state: ManagerState) -> None:
        self.packs.now, self._settings = state.installed, state.settings
        self._snapshots, self._restoring = state.snapshots, None
        self._batches.clear()

    def add_nodes(self) -> None:
        """Add the node classes of the imported packs, unless others have their names."""
        nodes = self.server.state.nodes
        for pack in self._imported.values():
            for name, cls in node_types(pack.listed).items():
                if pack.enabled and name not in nodes.classes:
                    nodes.add(name, cls)

    # -- work ---------------------------------------------------------------------------

    @property
    def worker(self) -> TaskWorker:
        """The worker."""
        return self._worker

    def begin(self) -> None:
        """Begin without work, in a new process or after a reset."""
        self._worker = TaskWorker()

    def start_worker(self) -> bool:
        """Start the worker; return False if there is one, which may be closing down."""
        if self.worker.lives:
            return False
        self.worker.lives = True
        self.run(self.worker.work(self.process))
        return True

    async def process(self) -> None:
        """Do all work that waits."""

    def forget_pending(self) -> None:
        """Forget the work that has not begun."""

    async def start_work(self, request: web.Request) -> web.Response:
        """Answer ``queue/start``."""
        if (refusal := self.refusal(request)) is not None:
            return refusal
        return web.Response(status=200 if self.start_worker() else 201)

    async def _forget_work(self, request: web.Request) -> web.Response:
        if (refusal := self.refusal(request)) is None:
            self.forget_pending()
        return refusal or web.Response()

    # -- routes -------------------------------------------------------------------------

    def routes(self) -> PackRoutes:
        """Return the routes that all Managers have."""
        settings = [
            (method, f"/manager/{name}", handler)
            for name in _DEFAULTS
            for method, handler in (("GET", self._setting), ("POST", self._set))
        ]
        routes: PackRoutes = (
            ("GET", "/manager/version", self._version),
            *settings,
            ("GET", "/manager/share_option", self._share_option),
            ("POST", "/manager/reboot", self._reboot),
            ("POST", "/manager/queue/reset", self._forget_work),
            ("GET", "/customnode/installed", self._installed),
            ("GET", "/customnode/getmappings", self._mappings),
            ("POST", "/customnode/import_fail_info", self._import_fail_info),
            ("GET", "/snapshot/getlist", self._snapshot_list),
            ("GET", "/snapshot/get_current", self._current_snapshot),
            ("POST", "/snapshot/save", self._save_snapshot),
            ("POST", "/snapshot/remove", self._remove_snapshot),
            ("POST", "/snapshot/restore", self._restore_snapshot),
        )
        return [(method, f"{self.prefix}{path}", handler) for method, path, handler in routes]

    def allows(self, need: ActionNeed) -> bool:
        """Return whether the security level allows an action."""
        return allows(self.options.security_level, need, is_local=self.server.is_local)

    def refusal(self, request: web.Request, need: ActionNeed = "none") -> web.Response | None:
        """Return the refusal of a request without a body; None if it is allowed."""
        if request.headers.get("Content-Type", "").partition(";")[0].strip() in _NO_BODY:
            return web.Response(status=400, text=_REFUSED)
        return None if self.allows(need) else web.Response(status=403)

    async def _version(self, request: web.Request) -> web.Response:
        return web.Response(text=self.version)

    async def _share_option(self, request: web.Request) -> web.Response:
        return web.Response(text="all")

    async def _setting(self, request: web.Request) -> web.Response:
        name = request.path.partition("/manager/")[2]
        if name != "channel_url_list":
            return web.Response(text=self._settings[name])
        channels = [f"{one}::{self.repository}{path}" for one, path in _CHANNELS.items()]
        return web.json_response({"selected": self._settings[name], "list": channels})

    async def _set(self, request: web.Request) -> web.Response:
        if not self.allows("middle"):
            return web.Response(status=403)
        name = request.path.partition("/manager/")[2]
        body = await json_of(request)
        if not isinstance(body, dict) or "value" not in body:
            return web.Response(status=400, text="Invalid request")
        value = body["value"]
        what, known = {
            "db_mode": ("db_mode", SOURCES),
            "policy/update": ("update_policy", _POLICIES),
            "channel_url_list": ("channel name", sorted(CHANNELS)),
        }[name]
        if value not in known:
            text = f"Invalid {what} {value!r}; must be one of {known}"
            return web.Response(status=400, text=text)
        self._settings = {**self._settings, name: value}
        return web.Response()

    async def _reboot(self, request: web.Request) -> web.Response:
        refusal = self.refusal(request, "middle")
        if refusal is None:
            self.server.reboot(self.options.reboot_seconds)
            await asyncio.Event().wait()  # there is no answer
        return refusal or web.Response()

    async def _installed(self, request: web.Request) -> web.Response:
        is_old = request.query.get("mode") == "imported"
        return web.json_response(answer_of(self._imported if is_old else self.packs.now))

    async def _mappings(self, request: web.Request) -> web.Response:
        _ = request.query["mode"]  # without it, the handler fails
        return web.json_response(
            {
                one.url if one.version is None else one.name: [
                    sorted(one.classes),
                    {"title_aux": one.title or one.name},
                ]
                for one in self.packs.listed.values()
            }
        )

    # -- failed imports -----------------------------------------------------------------

    def failed(self, *, url: Any = None, cnr_id: Any = None) -> PackFolder | None:
        """Return the pack that has failed to import; one of a repository is found by its URL."""
        for pack in self._imported.values():
            listed = pack.listed
            asked = listed.url == url if pack.is_git else listed.name == cnr_id
            if asked and pack.enabled and listed.import_error:
                return pack
        return None

    def traceback(self, pack: PackFolder) -> str:
        """Return the traceback of a failed import."""
        file = f"{self._folder(pack)}/__init__.py"
        where = f'  File "{file}", line 1, in <module>\n'
        return f"Traceback (most recent call last):\n{where}ImportError: {pack.listed.import_error}"

    def _folder(self, pack: PackFolder) -> str:
        return str(self.server.state.folders.root / "custom_nodes" / pack.listed.name)

    async def _import_fail_info(self, request: web.Request) -> web.Response:
        body = await json_of(request)
        if not isinstance(body, dict) or not body.keys() & {"url", "cnr_id"}:
            return self.without_pack()
        pack = self.failed(url=body.get("url"), cnr_id=body.get("cnr_id"))
        if pack is None:
            return web.Response(status=400)
        told = {"name": pack.listed.name, "path": self._folder(pack), "msg": self.traceback(pack)}
        return web.json_response(told)

    def without_pack(self) -> web.Response:
        """Return the answer to the question for a failed import that names no pack."""
        raise KeyError("url")  # the handler fails

    # -- snapshots ----------------------------------------------------------------------

    async def _snapshot_list(self, request: web.Request) -> web.Response:
        return web.json_response({"items": sorted(self._snapshots, reverse=True)})

    async def _current_snapshot(self, request: web.Request) -> web.Response:
        packs = self.packs.now.values()
        return web.json_response(
            {
                "comfyui": None,
                "git_custom_nodes": {
                    pack.listed.url: {"hash": pack.version, "disabled": not pack.enabled}
                    for pack in packs
                    if pack.is_git
                },
                "cnr_custom_nodes": {
                    pack.listed.name: pack.version
                    for pack in packs
                    if pack.enabled and not pack.is_git
                },
                "file_custom_nodes": [],
                "pips": {},
            }
        )

    async def _save_snapshot(self, request: web.Request) -> web.Response:
        refusal = self.refusal(request)
        if refusal is None:
            now = self.server.state.options.clock.local()
            name = f"{now:%Y-%m-%d_%H-%M-%S}_snapshot"
            snapshots = {**self._snapshots, name: self.packs.now}
            self._snapshots = dict([*snapshots.items()][-MOST:])
        return refusal or web.Response()

    async def snapshot_target(self, request: web.Request) -> Any:
        """Return the name of the snapshot that a request is about."""
        return request.query.get("target")

    async def _remove_snapshot(self, request: web.Request) -> web.Response:
        if (refusal := self.refusal(request, "middle")) is not None:
            return refusal
        if not isinstance(target := await self.snapshot_target(request), str):
            return web.Response(status=400)
        self._snapshots = {one: kept for one, kept in self._snapshots.items() if one != target}
        return web.Response()

    async def _restore_snapshot(self, request: web.Request) -> web.Response:
        if (refusal := self.refusal(request, "middle+")) is not None:
            return refusal
        target = await self.snapshot_target(request)
        if not isinstance(target, str) or target not in self._snapshots:
            return web.Response(status=400)
        self._restoring = self._snapshots[target]  # at the next start
        return web.Response()


async def read_json(request: web.Request) -> Any:
    """Return the JSON of a request's body, whatever its type.

    Raises:
        ValueError: It is not JSON.
        HTTPRequestEntityTooLarge: It is too large for the embedded server.
    """
    body = await request.read()
    if len(body) > _LARGEST:
        raise web.HTTPRequestEntityTooLarge(_LARGEST, len(body))
    try:
        return json.loads(body)
    except RecursionError as exc:
        raise ValueError("too deep") from exc


async def json_of(request: web.Request) -> Any:
    """Return the JSON of a request's body; None if it is something else."""
    try:
        return await read_json(request)
    except ValueError:
        return None


def check_room(count: int) -> None:
    """Refuse work if so many tasks would wait.

    Raises:
        HTTPServiceUnavailable: They are more than the embedded server keeps.
    """
    if count > MOST:
        text = f"the embedded server keeps {MOST:,} tasks at most"
        raise web.HTTPServiceUnavailable(text=text)


def remember(kept: dict[str, Any], key: str, value: Any, most: int) -> None:
    """Put a value into a mapping, and drop the oldest ones beyond a number."""
    kept[key] = value
    while len(kept) > most:
        del kept[next(iter(kept))]
