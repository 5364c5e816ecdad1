"""``api.ext.manager``: node packs, models and the life of the server, by ComfyUI-Manager."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import PurePosixPath
from typing import Any, Final, Literal
from urllib.parse import unquote, urlsplit

import attrs

from ..attributes import KnownAttributes
from ..connecting import wait_until_ready
from ..errors import (
    ApiError,
    ComfyError,
    NotFound,
    NotSupported,
    RequestTimeout,
    ServerUnreachable,
    TaskFailed,
)
from ..jobs.execute import Parts
from ..models.packs import (
    ComfyUIVersions,
    ImportFailure,
    InstalledPack,
    KnownModel,
    KnownPack,
    packs_with,
)
from ..routes import Routes
from ..subscriptions import call_back
from ..transport.deadline import Deadline
from ..transport.failures import is_away
from ..transport.http import segment
from ..values import T, list_at, table_at, text, texts
from .dialects import Manager4Routes, ManagerRoutes, Work, find
from .pack_names import (
    AnyPack,
    check_path,
    folder_of,
    kinds_of,
    name_of,
    packs_like,
    repositories,
    repository_key,
)
from .snapshots import Snapshots
from .task_outcomes import WITHOUT_GIT, failure, refusal, without_secrets
from .tasks import Task, TaskWatcher, new_id, parts_of

#: Seconds after which no answer comes any more of work that the Manager answers when it is over.
_LONGEST_WORK: Final = 3600.0
#: The name among what the parts of a client remember.
_NAME: Final = "ComfyUI-Manager"
#: Why prompts are lost by a restart.
_RESTARTED: Final = (
    "in no queue and no history: this client restarted the server (api.ext.manager.reboot)"
)
#: The events that tell of tasks.
_EVENTS: Final = ("cm-queue-status", "cm-task-completed")


@attrs.define(eq=False)
class _Known:
    """Memory of the Manager, shared by the parts of a client; it does not keep the client alive."""

    parts: Parts
    dialect: ManagerRoutes | None = None
    link: int | None = None
    tasks: TaskWatcher = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        timing = self.parts.tracker.timing
        self.tasks = TaskWatcher(self.find, self._has_model, self._subscribe, timing)
        self.parts.on_fork.append(self.tasks.after_fork)

    def find(self, anew: bool | None = None) -> ManagerRoutes:
        """Return the routes of this server's Manager; ask which it is.

        The server may have been restarted with another one, so that is asked once for each
        connection of the socket, and each time if there is none: nothing else would tell.

        Args:
            anew: Whether to ask; None: if there is no connection.
        """
        self.parts.check_open()
        found, link = self.dialect, self.parts.tracker.link
        is_unsure = link is None if anew is None else anew
        if found is None or is_unsure or link != self.link:
            connection = self.parts.connection
            found = find(self.parts.http, lambda: connection.client_id)
            self.dialect, self.link = found, link
        return found

    def settle(self) -> None:
        """Wait for the socket, which brings the results of tasks, or for its failure."""
        self.parts.connection.start()
        timing = self.parts.tracker.timing
        self.parts.connection.wait_settled(timing.settle, or_failed=False)

    def _has_model(self, work: Work) -> bool:
        kind, _, below = work.folder.partition("/")
        wanted = f"{below}/{work.name}" if below else work.name
        return any(wanted in self._models(one) for one in kinds_of(kind))

    def _models(self, kind: str) -> list[str]:
        route = f"/models/{segment(kind)}"
        try:
            names = texts(self.parts.http.json("GET", route), f"GET {route}")
        except NotFound:  # the server has no such kind of models
            return []
        return [name.replace("\\", "/") for name in names]

    def _subscribe(self, callback: Callable[[Any], object]) -> Callable[[], None]:
        ends = [call_back(self.parts, name, callback, once=False) for name in _EVENTS]

        def unsubscribe() -> None:
            for end in ends:
                end()

        return unsubscribe


class Manager(KnownAttributes):
    """ComfyUI-Manager on the server: version 4 with either page, or version 3.

    Install the package ``comfyui-manager`` on the server, and start ComfyUI 0.4 or newer with
    ``--enable-manager``.  The first call asks which Manager there is; without one, every method
    raises :class:`NotSupported`.

    Work on packs and models returns a :class:`Task` immediately.  A new or changed pack takes
    effect once the server has restarted: see :meth:`reboot`.

    Example::

        from comfy_client import ComfyApi, NotSupported

        with ComfyApi("http://127.0.0.1:8188") as api:
            manager = api.ext.manager
            try:
                pack = manager.pack_of("ImpactWildcardProcessor")
                if pack is not None:
                    manager.install(pack).result(timeout=600)
                    manager.reboot()
            except NotSupported as exc:
                print(exc)

    Attributes:
        snapshots: Snapshots of all packs: list, save, restore and remove them.
    """

    snapshots: Snapshots

    def __init__(self, owner: Routes, parts: Parts) -> None:
        self._owner = owner
        self._first_parts = parts
        self.snapshots = Snapshots(self._dialect)

    def __repr__(self) -> str:
        return f"<Manager of {self._owner.host}>"

    @property
    def _parts(self) -> Parts:
        return self._first_parts.of_this_process()

    @property
    def _known(self) -> _Known:
        parts = self._parts
        known: _Known | None = parts.remembered.get(_NAME)
        return known or parts.remembered.setdefault(_NAME, _Known(parts))

    def _dialect(self) -> ManagerRoutes:
        return self._known.find()

    # -- reading -------------------------------------------------------------------------

    def available(self) -> bool:
        """Return whether the server has a Manager.

        ``GET /v2/manager/version``, then ``GET /manager/version``; once for each connection of the
        event socket, if it has one.
        """
        try:
            self._dialect()
        except NotSupported:
            return False
        return True

    @property
    def version(self) -> str:
        """The Manager's version, such as ``"V4.3"``; asks the server the first time.

        ``GET /v2/manager/version``, or ``GET /manager/version`` of Manager 3.
        """
        return self._dialect().version

    @property
    def dialect(self) -> str:
        """``"manager4"``, ``"manager4-legacy"`` or ``"manager3"``; asks the server at first."""
        return self._dialect().name

    def installed(self, *, at_start: bool = False) -> dict[str, InstalledPack]:
        """Return the installed packs by id, disabled ones too.

        ``GET /v2/customnode/installed``; Manager 3: ``/customnode/installed``.  A folder that is
        neither a git repository nor from the registry is not listed.

        Args:
            at_start: Whether to list what was installed when the server started, instead of now.
        """
        return self._dialect().installed(at_start=at_start)

    def mappings(self, mode: Literal["cache", "local", "remote"] = "cache") -> dict[str, KnownPack]:
        """Return all packs that the Manager knows, with their node classes, by id or URL.

        ``GET /v2/customnode/getmappings``; Manager 3: ``/customnode/getmappings``.  About 5,600
        entries.

        Args:
            mode: ``cache`` for lists of the last day, ``local`` for those that came with the
                Manager, ``remote`` to download them now.
        """
        return self._dialect().mappings(mode)

    def packs_of(self, class_type: str) -> list[KnownPack]:
        """Return the packs that have a node class, those that name it first; may be empty."""
        return packs_with(class_type, self.mappings().values())

    def pack_of(self, class_type: str) -> KnownPack | None:
        """Return a pack that has a node class, or None: see :meth:`packs_of` for all."""
        return next(iter(self.packs_of(class_type)), None)

    def failed_imports(self) -> list[ImportFailure]:
        """Return the installed packs that the server could not import when it started.

        ``POST /v2/customnode/import_fail_info_bulk``; one by one with
        ``POST /customnode/import_fail_info`` of Manager 3.  The Manager knows a pack from a git
        repository by its URL only, so one that its lists lack is left out.
        """
        dialect = self._dialect()
        packs = [pack for pack in dialect.installed().values() if pack.enabled]
        by_key = {pack.cnr_id: pack for pack in packs if pack.cnr_id}
        if any(pack.is_git for pack in packs):
            urls = {folder_of(url): url for url in dialect.mappings("cache") if "://" in url}
            by_key.update(
                {urls[pack.id]: pack for pack in packs if pack.is_git and pack.id in urls}
            )
        return dialect.failed_imports(by_key) if by_key else []

    def models(self) -> list[KnownModel]:
        """Return the model files in the Manager's list; empty with the new page of Manager 4.

        ``GET /externalmodel/getlist`` of Manager 3, ``/v2/externalmodel/getlist`` of Manager 4's
        legacy page.
        """
        dialect = self._dialect()
        if isinstance(dialect, Manager4Routes):
            return []
        found = table_at(dialect.get("/externalmodel/getlist", {"mode": "cache"}))
        models = map(KnownModel.from_json, list_at(found, "models"))
        return [model for model in models if model is not None]

    def is_working(self) -> bool:
        """Return whether the Manager does any work now, also that of others."""
        queue = self._dialect().queue()
        return bool(queue.running or (queue.waiting and queue.is_processing))

    def comfyui_versions(self) -> ComfyUIVersions:
        """Return the versions of ComfyUI that the Manager can switch to.

        ``GET /v2/comfyui_manager/comfyui_versions``; Manager 3: without ``/v2``.

        Raises:
            NotSupported: ComfyUI was not installed with git there; the message says what to do.
        """
        route = "/comfyui_manager/comfyui_versions"
        try:
            found = table_at(self._dialect().get(route))
        except ApiError as exc:
            if exc.status not in (400, 500):  # it is one or the other by the version of the Manager
                raise
            said = f"the Manager cannot list versions: most likely {WITHOUT_GIT}"
            raise NotSupported(said, method="GET", path=exc.path) from None
        versions = tuple(name for item in list_at(found, "versions") if (name := text(item)))
        return ComfyUIVersions(versions, text(found.get("current")))

    # -- settings ------------------------------------------------------------------------

    def channels(self) -> dict[str, str]:
        """Return the URLs of the channels, which are lists of packs, by name.

        ``GET /v2/manager/channel_url_list``; Manager 3: without ``/v2``.
        """
        listed = texts(self._channels().get("list"), "GET /manager/channel_url_list")
        return {name: url for name, _, url in (entry.partition("::") for entry in listed)}

    def _channels(self) -> Mapping[str, Any]:
        return table_at(self._dialect().get("/manager/channel_url_list"))

    def settings(self) -> dict[str, str]:
        """Return the settings ``db_mode``, ``update_policy`` and ``channel``.

        ``GET /v2/manager/db_mode``, ``policy/update`` and ``channel_url_list``; Manager 3: without
        ``/v2``.
        """
        dialect = self._dialect()
        return {
            "db_mode": dialect.text("/manager/db_mode"),
            "update_policy": dialect.text("/manager/policy/update"),
            "channel": text(self._channels().get("selected")) or "",
        }

    def set(
        self,
        *,
        db_mode: str | None = None,
        update_policy: str | None = None,
        channel: str | None = None,
    ) -> None:
        """Change settings of the Manager, for everybody; ``None`` leaves one as it is.

        ``POST`` to the routes of :meth:`settings`, one after another: if one is refused, those
        before it are changed.

        Args:
            db_mode: Where lists come from: ``cache``, ``channel``, ``local`` or ``remote``.
            update_policy: ``stable``, ``stable-comfyui``, ``nightly`` or ``nightly-comfyui``.
            channel: The name of a channel.

        Raises:
            ApiError: The server has no such value (400); the message lists those that it has.
            ManagerRefused: The security settings forbid it.
        """
        given = {
            "/manager/db_mode": db_mode,
            "/manager/policy/update": update_policy,
            "/manager/channel_url_list": channel,
        }
        for route, value in given.items():
            if value is not None:
                self._ask("set", "", partial(self._dialect().post, route, json={"value": value}))

    # -- work ----------------------------------------------------------------------------

    def install(self, pack: AnyPack, version: str | None = None) -> Task:
        """Install a pack, or enable it if it is disabled.

        Args:
            pack: Its id in the registry, the URL of its git repository, or an answer of
                :meth:`pack_of` or :meth:`installed`.  The Manager installs repositories of its own
                lists only; for others, see :meth:`install_git`.
            version: A version in the registry, ``"latest"`` or ``"nightly"``; ``None``: the
                newest.

        Raises:
            NotFound: The lists lack the repository, or have several of its name: the Manager would
                install another one.
            ManagerRefused: The security settings forbid it; the task may also raise this.
        """
        known = name_of(pack)
        is_git = "://" in known
        if is_git:
            known = self._listed(known)
        work = self._work("install", folder_of(known) if is_git else known, version=version)
        if isinstance(pack, InstalledPack):
            is_git = pack.is_git
        return self._start(attrs.evolve(work, url=known if "://" in known else None, is_git=is_git))

    def _listed(self, url: str) -> str:
        """Return the URL of a repository as the Manager's lists have it."""
        known = self.mappings()
        found = repositories(known).get(repository_key(url))
        if found is None:
            like = packs_like(folder_of(url), known)
            nearest = f"; the nearest known packs are: {', '.join(like):.500}" if like else ""
            raise NotFound(
                f"install: the Manager's lists lack the repository {without_secrets(url):.300}, or "
                f"have several named {folder_of(url):.100}: install the pack by its id in the "
                f"registry, or by install_git{nearest}"
            )
        return found

    def uninstall(self, pack: AnyPack) -> Task:
        """Remove a pack and its folder.  Raises :class:`NotFound` if it is not installed."""
        return self._change("uninstall", pack)

    def enable(self, pack: AnyPack) -> Task:
        """Enable a disabled pack.  Raises :class:`NotFound` if it is not installed."""
        return self._change("enable", pack)

    def disable(self, pack: AnyPack) -> Task:
        """Disable a pack; its folder stays.  Raises :class:`NotFound` if it is not installed."""
        return self._change("disable", pack)

    def update(self, pack: AnyPack) -> Task:
        """Update a pack to its newest version.  Raises :class:`NotFound` if it is not installed."""
        return self._change("update", pack)

    def update_all(self) -> list[Task]:
        """Update all enabled packs; return a task for each, failed ones for requests that fail."""
        packs = [pack for pack in self.installed().values() if pack.enabled]
        return [self._try_to_start(self._work_on("update", pack)) for pack in packs]

    def fix(self, pack: AnyPack) -> Task:
        """Install a pack's requirements again.  Raises :class:`NotFound` without the pack."""
        return self._change("fix", pack)

    def install_model(
        self, url: str, folder: str, filename: str | None = None, *, base: str = ""
    ) -> Task:
        """Download a model file to the server.

        Manager 3 and the legacy page of Manager 4 download only models of their list, and raise
        :class:`NotFound` for others.

        Args:
            url: Where the file is, with http or https; the server downloads it.
            folder: The folder of models, such as ``"loras"``: see
                :meth:`ComfyApi.get_model_folders`.
            filename: The name of the file there; ``None``: the last part of the URL.
            base: The base model, such as ``"SDXL"``; the Manager only notes it.
        """
        parts = urlsplit(url)
        name = filename or PurePosixPath(unquote(parts.path)).name
        if not name:
            raise ValueError(
                f"the URL has no file name; give filename=: {without_secrets(url)!r:.200}"
            )
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"url= must have http or https, not {without_secrets(url)!r:.200}")
        check_path("folder", folder)
        check_path("filename", name)
        return self._start(self._work("install-model", name, url=url, folder=folder, base=base))

    def update_comfyui(self, version: str | None = None, *, stable: bool = True) -> Task:
        """Update ComfyUI itself.

        Where it was not installed with git, the task ends in :class:`TaskFailed`, which says so.

        Args:
            version: A version of :meth:`comfyui_versions`; ``None``: the newest.
            stable: Whether the newest release is meant, not the newest commit.  Manager 3 and the
                legacy page of Manager 4 go by their setting ``update_policy`` instead.

        Raises:
            NotSupported: A version is given, and it is Manager 3 or the legacy page.
        """
        if version is not None and not isinstance(self._dialect(), Manager4Routes):
            raise NotSupported(
                "update_comfyui(version=...): only Manager 4 with its new page can do that; "
                "without a version, this Manager updates to the newest"
            )
        return self._start(self._work("update-comfyui", "", version=version, stable=stable))

    def install_git(self, url: str) -> Task:
        """Install a pack from any git repository.

        ``POST /customnode/install/git_url`` of Manager 3, ``/v2/customnode/install/git_url`` of
        Manager 4's legacy page.  The task ends in :class:`ManagerRefused` unless the Manager's
        ``config.ini`` has ``allow_git_url_install = true``.

        Raises:
            NotSupported: Manager 4 with its new page, which installs packs of its lists only.
            ValueError: The URL has no last part, which names the folder.
        """
        name = folder_of(url)
        if not name:
            raise ValueError(f"not the URL of a repository: {without_secrets(url)!r:.200}")
        work = self._work("install-git", name, url=url, is_git=True)
        return self._post_for_long(work, "/customnode/install/git_url", url)

    def install_pip(self, *packages: str) -> Task:
        """Have Python packages installed at the next start of the server: see :meth:`reboot`.

        ``POST /customnode/install/pip`` of Manager 3, ``/v2/customnode/install/pip`` of Manager
        4's legacy page.  The task ends in :class:`ManagerRefused` unless the Manager's
        ``config.ini`` has ``allow_pip_install = true``; else once the Manager has noted them.
        ``snapshots.current()["pips"]`` lists what there is after the restart.

        Raises:
            NotSupported: Manager 4 with its new page.
            ValueError: No package is given.
        """
        if not packages:
            raise ValueError("no package is given")
        asked = " ".join(packages)
        work = self._work("install-pip", without_secrets(asked))
        return self._post_for_long(work, "/customnode/install/pip", asked)

    def _post_for_long(self, work: Work, route: str, body: str) -> Task:
        """Start work that the Manager answers when it is over."""
        dialect = self._dialect()
        if isinstance(dialect, Manager4Routes):
            raise NotSupported(
                f"POST {route}: Manager 4 has it on its legacy page only: start the server with "
                "--enable-manager-legacy-ui"
            )

        def post() -> None:
            try:
                dialect.post(route, data=body.encode(), timeout=_LONGEST_WORK)
            except ApiError as exc:
                if exc.status != 400:
                    raise
                raise failure(work, "the Manager could not do it; its log says why") from None

        task = Task(work, self._owner)
        do = partial(self._ask, work.kind, work.name, post)
        return self._known.tasks.watch_answer(task, work, do)

    def task(self, task_id: str) -> Task:
        """Return a task by its id, in any process, also after a restart of the server.

        Where the Manager has forgotten the task, what is installed tells its result.  Of ``fix``,
        ``update_comfyui`` and ``install_pip``, and of an update that brought no other version,
        nothing shows: then it ends in :class:`TaskFailed`.

        Raises:
            ValueError: It is not the id of a task of this library.
        """
        kind, name, version = parts_of(task_id)
        folder, rest = "", name
        if kind == "install-model":
            check_path("task_id", name)
            folder, _, rest = name.partition("/")
        dialect = self._dialect()
        pack = dialect.installed().get(name)
        is_git = pack is None or pack.is_git  # the registry may know a repository by another id
        return self._watch(Work(task_id, kind, rest, version, folder=folder, is_git=is_git))

    def _change(self, kind: str, pack: AnyPack) -> Task:
        """Start work on a pack that must be installed."""
        name = name_of(pack)
        name = folder_of(name) if "://" in name else name
        installed = self.installed()
        found = installed.get(name)
        if found is None:
            there = ", ".join(sorted(installed)) or "none"
            raise NotFound(f"{kind}: no pack {name!r} is installed; there are: {there:.1000}")
        return self._start(self._work_on(kind, found))

    def _work_on(self, kind: str, pack: InstalledPack) -> Work:
        return self._work(kind, pack.id, version=pack.ver, is_git=pack.is_git)

    def _work(self, kind: str, name: str, **facts: Any) -> Work:
        folder = facts.get("folder")
        id = new_id(kind, f"{folder}/{name}" if folder else name, facts.get("version"))
        return Work(id, kind, name, **facts)

    def _start(self, work: Work) -> Task:
        dialect = self._dialect()

        def send() -> None:
            self._known.settle()
            dialect.send(work)

        return self._ask(work.kind, work.name, lambda: self._watch(work, send))

    def _try_to_start(self, work: Work) -> Task:
        try:
            return self._start(work)
        except ComfyError as exc:
            task = Task(work, self._owner)
            task.set_exception(exc)
            return task

    def _watch(self, work: Work, send: Callable[[], object] | None = None) -> Task:
        # The task has the client, or one that nobody else refers to would be closed.
        return self._known.tasks.watch(Task(work, self._owner), work, send)

    def _ask(self, kind: str, name: str, ask: Callable[[], T]) -> T:
        """Return what ``ask`` does; a 403 of the Manager is an error that says what to set."""
        try:
            return ask()
        except ApiError as exc:
            if exc.status != 403:
                raise
            refused = refusal(kind, name)
        raise refused

    # -- the server ----------------------------------------------------------------------

    def reboot(self, wait: float | None = 120.0) -> None:
        """Restart the server, and wait until it can run prompts again.

        ``POST /v2/manager/reboot``; Manager 3: ``/manager/reboot``.  The server ends the
        connection without an answer.  Prompts that waited or ran are lost: their jobs end in
        :class:`JobLost`, which says why.  Node definitions are asked for again.

        Args:
            wait: Seconds to wait until the server is back; 0: do not wait; ``None``: no limit.

        Raises:
            ManagerRefused: The security settings forbid it; nothing was restarted.
            TaskFailed: The server goes on answering, so it was not restarted.
            ServerUnreachable: It was away before, or is not back in time.  It may be back later.
            RequestTimeout: It is back, but does not answer, or its Manager does not, in time.
        """
        deadline = Deadline.after(wait)
        has_ended = self._ask("reboot", "", self._ends)
        self._explain_losses(_RESTARTED)
        self._known.dialect = None
        self._parts.definitions.forget()  # without a socket, nothing else tells of the restart
        if wait == 0:
            return
        timing = self._parts.tracker.timing
        begins = Deadline.after(min(timing.reboot, deadline.left()))
        while not has_ended and not begins.expired:
            self._pause(begins)
            has_ended = not self._answers()
        if not has_ended:
            self._explain_losses(None)
            said = "the server was asked to restart, but goes on answering"
            raise TaskFailed(said, task_id="", kind="reboot", name="")
        left = None if wait is None else deadline.left()
        wait_until_ready(self._owner, self._parts, left, is_restarting=True)
        while not self._answers():
            if deadline.expired:
                raise RequestTimeout(
                    f"the server is back, but its Manager did not answer within {wait or 0:g} s"
                )
            self._pause(deadline)
        self._parts.definitions.forget()  # others may have asked meanwhile

    def _ends(self) -> bool:
        """Ask the server to restart; return whether it has ended the connection."""
        timing = self._parts.tracker.timing
        try:
            self._dialect().post("/manager/reboot", timeout=timing.reboot)
        except ServerUnreachable:
            raise  # nothing was sent
        except ComfyError as exc:
            if not is_away(exc):
                raise
            # A proxy says the same of a server that it could not reach for a moment.
            return not isinstance(exc, RequestTimeout | ApiError)
        return False

    def _explain_losses(self, reason: str | None) -> None:
        """Note why prompts that have not ended are lost if the server has them no more."""
        tracker = self._parts.tracker
        prompts = tracker.outstanding
        with tracker.lock:
            for prompt in prompts:
                prompt.state.loss = reason

    def _pause(self, deadline: Deadline) -> None:
        self._parts.tracker.wake.wait_stopped(deadline.left(self._parts.tracker.timing.task))

    def _answers(self) -> bool:
        """Return whether the server has a Manager now; its routes may come late."""
        try:
            self._known.find(anew=True)
        except (NotSupported, NotFound):
            return False
        except ComfyError as exc:
            if not is_away(exc):
                raise
            return False
        return True
