"""The routes of Manager 4, of its legacy page, and of Manager 3, behind one interface.

A dialect knows how work is asked for and where its result is told.  It decides nothing: see
:mod:`.task_outcomes`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final
from urllib.parse import urlsplit

import attrs

from ..errors import (
    ApiError,
    AuthenticationError,
    ComfyError,
    NotFound,
    NotSupported,
)
from ..models.packs import ImportFailure, InstalledPack, KnownPack
from ..transport.http import SMALL, Http
from ..transport.response import Response
from ..values import flag, list_at, mapping, table_at, text, whole
from .pack_names import folder_of, is_readable

#: Where the Manager looks for packs and models: its cache, which it renews by itself.
_MODE: Final = "cache"
_CHANNEL: Final = "default"
_UNKNOWN: Final = "unknown"
_NIGHTLY: Final = "nightly"
#: How to get an extension that the server lacks.
MISSING: Final = (
    "this server has no ComfyUI-Manager: install it there (pip install comfyui-manager), and start "
    "ComfyUI 0.4 or newer with --enable-manager"
)
#: The most characters of the result of a task.
_MOST_RESULT: Final = 2000


@attrs.frozen
class Work:
    """Work for the Manager.

    Attributes:
        id: The id of the task.
        kind: ``install``, ``uninstall``, ``enable``, ``disable``, ``update``, ``fix``,
            ``install-model``, ``install-git``, ``install-pip`` or ``update-comfyui``.
        name: The pack's id, the folder of a repository, the file name of a model, or the names of
            Python packages; empty for ComfyUI itself.
        version: The version to install; ``None``: the newest.
        url: Where a git repository or a model is; ``None``: the registry has the pack.
        folder: The folder of a model, such as ``loras``; empty for packs.
        base: The base model of a model, such as ``SDXL``; empty: unknown.
        is_git: Whether the pack is a git repository that the registry lacks.
        stable: Whether ComfyUI is updated to its newest release, not to the newest commit.
    """

    id: str
    kind: str
    name: str
    version: str | None = None
    url: str | None = None
    folder: str = ""
    base: str = ""
    is_git: bool = False
    stable: bool = True


@attrs.frozen
class WorkQueue:
    """The state of the Manager's queue.

    Attributes:
        waiting: How many tasks wait.
        running: How many tasks run.
        is_processing: Whether its worker is alive.
    """

    waiting: int
    running: int
    is_processing: bool


class ManagerRoutes:
    """The routes that all Managers have, below a prefix.

    Attributes:
        version: The Manager's version, such as ``"V4.3"``.
        http: The HTTP layer of the client.
        client_id: Returns the id of the client whose socket gets the events.
        name: ``"manager4"``, ``"manager4-legacy"`` or ``"manager3"``.
        prefix: What the paths of its routes begin with.
    """

    name: str
    prefix: str

    def __init__(self, http: Http, version: str, client_id: Callable[[], str]) -> None:
        self.version = version
        self.http = http
        self.client_id = client_id

    # -- reading -------------------------------------------------------------------------

    def installed(self, *, at_start: bool = False) -> dict[str, InstalledPack]:
        """Return the installed packs by id, now or as they were when the server started."""
        params = {"mode": "imported"} if at_start else None
        found = self.get("/customnode/installed", params)
        packs = [
            InstalledPack.from_json(key, data)
            for key, data in mapping(found, "GET /customnode/installed").items()
        ]
        # Of a pack that is there twice, the enabled one counts.
        return {pack.id: pack for pack in sorted(packs, key=lambda pack: pack.enabled)}

    def mappings(self, mode: str) -> dict[str, KnownPack]:
        """Return all packs that the Manager knows, with their node classes."""
        found = self.get("/customnode/getmappings", {"mode": mode})
        known = mapping(found, "GET /customnode/getmappings").items()
        return {key: KnownPack.from_json(key, data) for key, data in known if is_readable(key)}

    def queue(self) -> WorkQueue:
        """Return the state of the queue."""
        found = mapping(self.get("/manager/queue/status"), "GET /manager/queue/status")
        running = whole(found.get("in_progress_count")) or 0
        if "pending_count" in found:
            waiting = whole(found["pending_count"]) or 0
        else:
            done = whole(found.get("done_count")) or 0
            waiting = max(0, (whole(found.get("total_count")) or 0) - done - running)
        return WorkQueue(waiting, running, flag(found.get("is_processing")) is True)

    def has_own(self) -> bool:
        """Return whether tasks of this client may wait or run."""
        return True

    def result(self, work: Work) -> str | None:
        """Return the result that a route tells of a task; None: none yet, or none is kept."""
        return None

    def failed_imports(self, by_key: Mapping[str, InstalledPack]) -> list[ImportFailure]:
        """Return which packs failed to import; the keys are ids and URLs, at least one."""
        urls = [key for key in by_key if "://" in key]
        ids = [key for key in by_key if "://" not in key]
        found = self.post(
            "/customnode/import_fail_info_bulk", json={"cnr_ids": ids, "urls": urls}
        ).json()
        told = {key: table_at(found, key) for key in by_key}
        return [
            ImportFailure(by_key[key].id, text(about.get("error") or about.get("msg")) or "")
            for key, about in told.items()
            if about
        ]

    # -- work ----------------------------------------------------------------------------

    def send(self, work: Work) -> None:
        """Queue a task, and start the worker."""
        raise NotImplementedError

    def start(self) -> None:
        """Start the worker, unless it runs."""
        self.post("/manager/queue/start")

    def start_queued(self) -> None:
        """Start the worker for a task that is queued, so an error must not say that it is not.

        Whoever watches the task starts the worker again.
        """
        with suppress(ComfyError):
            self.start()

    # -- requests ------------------------------------------------------------------------

    def get(self, route: str, params: Mapping[str, str] | None = None) -> Any:
        """Request JSON below the prefix."""
        return self.http.json("GET", self.prefix + route, params=params)

    def text(self, route: str) -> str:
        """Request a text below the prefix."""
        return self.http.request("GET", self.prefix + route, max_bytes=SMALL).text.strip()

    def post(self, route: str, *, params: Mapping[str, str] | None = None, **body: Any) -> Response:
        """Send a command below the prefix, and return the answer."""
        return self.http.request(
            "POST", self.prefix + route, params=params, max_bytes=SMALL, **body
        )


class Manager4Routes(ManagerRoutes):
    """The package ``comfyui-manager``, with its new page."""

    name = "manager4"
    prefix = "/v2"

    def has_own(self) -> bool:
        """Return whether tasks of this client wait or run."""
        params = {"client_id": self.client_id()}
        found = table_at(self.get("/manager/queue/status", params))
        return bool(found.get("pending_count") or found.get("in_progress_count"))

    def result(self, work: Work) -> str | None:
        """Return the result in the history, which a restart of the server empties."""
        found = self.get("/manager/queue/history", {"ui_id": work.id})
        item = table_at(found, "history")
        return as_result(item.get("result")) if item.get("ui_id") == work.id else None

    def send(self, work: Work) -> None:
        """Queue a task with complete parameters: an incomplete one ends the server's worker."""
        asked = work
        if work.kind == "enable" and not work.is_git and "." in (work.version or ""):
            # Its task for that does nothing while the server is offline, and says "success".
            asked = attrs.evolve(work, kind="install")
        body = {"ui_id": work.id, "client_id": self.client_id(), "kind": asked.kind}
        self.post("/manager/queue/task", json={**body, "params": _params(asked)})
        self.start_queued()


def _version_of(work: Work) -> str:
    """Return the version of a pack as the Manager wants it; a repository has none."""
    return _UNKNOWN if work.is_git else work.version or "latest"


def _params(work: Work) -> dict[str, Any]:
    """Return all parameters of a task, also those that the Manager calls optional."""
    match work.kind:
        case "install":
            version = _version_of(work)
            return {
                "id": work.name,
                "version": version,
                "selected_version": version,
                "mode": _MODE,
                "channel": _CHANNEL,
                "repository": work.url,
                "pip": [],
                "skip_post_install": False,
            }
        case "enable":
            return {"cnr_id": work.name}
        case "update" | "fix":
            return {"node_name": work.name, "node_ver": _version_of(work)}
        case "uninstall" | "disable":
            return {"node_name": work.name, "is_unknown": work.is_git}
        case "install-model":
            return _model(work)
        case _:
            return {"is_stable": work.stable, "target_version": work.version}


def _model(work: Work) -> dict[str, Any]:
    return {
        "name": work.name,
        "type": work.folder,
        "base": work.base,
        "save_path": work.folder,
        "url": work.url,
        "filename": work.name,
        "ui_id": work.id,
    }


class _Listed(ManagerRoutes):
    """The Managers that want whole entries of their lists."""

    def listing(self, work: Work) -> dict[str, Any]:
        """Return a pack as the Manager's own page sends it."""
        version = _version_of(work)
        url = work.url
        if url is None and work.is_git and work.kind in ("install", "enable"):
            # Of a repository by name alone, the Manager believes that no list has it.
            known = (key for key in self.mappings(_MODE) if folder_of(key) == work.name)
            url = next(known, None)
        # The last part of a URL is the folder of a repository; that alone will do, too.
        repository = url or (self._repository(work.name) if version == _NIGHTLY else "")
        return {
            "id": work.name,
            "version": version,
            "selected_version": version,
            "files": [url or work.name] if work.is_git else [],
            "repository": repository,
            "channel": _CHANNEL,
            "mode": _MODE,
            "ui_id": work.id,
            "install_type": "git-clone",
            "title": work.name,
            "skip_post_install": False,
        }

    def listed(self) -> Mapping[str, Any]:
        """Return the packs of the Manager's list by id."""
        asked = {"mode": _MODE, "skip_update": "true"}  # or it looks for news of all packs
        return table_at(self.get("/customnode/getlist", asked), "node_packs")

    def _repository(self, name: str) -> str:
        """Return the repository of a pack of the registry: its security settings ask for that."""
        return text(table_at(self.listed(), name).get("repository")) or ""

    def model(self, work: Work) -> dict[str, Any]:
        """Return the entry of the Manager's list for the URL of a model."""
        found = list_at(self.get("/externalmodel/getlist", {"mode": _MODE}), "models")
        entries = [one for one in found if isinstance(one, dict) and one.get("url") == work.url]
        entries.sort(key=lambda one: one.get("save_path") != work.folder)
        if entries:  # one file may be listed for several folders
            return {**entries[0], "ui_id": work.id}
        raise NotFound(
            f"install-model: this Manager downloads models of its own list only, which lacks "
            f"{work.name:.200} from {urlsplit(work.url or '').hostname}"
        )


class LegacyRoutes(_Listed):
    """The package ``comfyui-manager`` with ``--enable-manager-legacy-ui``."""

    name = "manager4-legacy"
    prefix = "/v2"

    def result(self, work: Work) -> str | None:
        """Return the result in the file of its batch, which the Manager writes at the end."""
        try:
            found = self.get("/manager/queue/history", {"id": _batch_of(work)})
        except ApiError as exc:
            if exc.status != 400:
                raise
            return None
        # It forgets the id of an update of ComfyUI.
        return results_in(found).get("comfyui" if work.kind == "update-comfyui" else work.id)

    def send(self, work: Work) -> None:
        """Queue a batch of one task; the worker starts by itself.

        The Manager keeps a file of each batch, by its id.
        """
        if work.kind == "install-model":
            # A refused one is told by its id, which the list does not give.
            key, entry = "install_model", {"id": work.name, **self.model(work)}
        elif work.kind == "update-comfyui":
            key, entry = "update_comfyui", {}
        else:  # a pack that is disabled is enabled by installing it
            key, entry = "install" if work.kind == "enable" else work.kind, self.listing(work)
        body = {key: [entry] if key != "update_comfyui" else True, "batch_id": _batch_of(work)}
        answer = self.post("/manager/queue/batch", json=body)
        if work.name in list_at(answer.json(), "failed"):
            raise AuthenticationError(
                f"POST /v2/manager/queue/batch: the Manager refused {work.kind} {work.name}",
                method="POST",
                path="/v2/manager/queue/batch",
                status=403,
            )


def _batch_of(work: Work) -> str:
    """Return the unique part of the id of a task: the id of its batch, and the name of a file."""
    return work.id.split(":")[1]


class Manager3Routes(_Listed):
    """ComfyUI-Manager 3, a folder of ``custom_nodes``.

    Without a network, it looks for the installed packs only when it is asked for its list, or
    installs one.  Until then it removes and disables none, and calls that a success.
    """

    name = "manager3"
    prefix = ""

    def post(self, route: str, *, params: Mapping[str, str] | None = None, **body: Any) -> Response:
        """Send a command as later releases want it, or as those before April 2026 did.

        They have ``GET`` for all commands but those that queue work.
        """
        try:
            return super().post(route, params=params, **body)
        except NotSupported as exc:
            if exc.status != 405:
                raise
        query = {**(params or {}), **body.get("json", {})}
        return self.http.request(
            "GET", self.prefix + route, params=query, max_bytes=SMALL, is_command=True
        )

    def failed_imports(self, by_key: Mapping[str, InstalledPack]) -> list[ImportFailure]:
        """Return which packs failed to import, asking about each."""
        self.listed()  # it may not know yet which packs are installed
        found = []
        for key, pack in by_key.items():
            try:
                name = "url" if "://" in key else "cnr_id"
                answer = self.post("/customnode/import_fail_info", json={name: key})
            except ApiError as exc:
                if exc.status != 400:  # it did not fail, or is unknown
                    raise
                continue
            found.append(ImportFailure(pack.id, text(table_at(answer.json()).get("msg")) or ""))
        return found

    def send(self, work: Work) -> None:
        """Queue a task, and start the worker."""
        if work.kind == "install-model":
            self.post("/manager/queue/install_model", json=self.model(work))
        elif work.kind == "update-comfyui":
            self.post("/manager/queue/update_comfyui")
        else:
            kind = "install" if work.kind == "enable" else work.kind
            if kind != "install" and work.name.lower() not in map(str.lower, self.listed()):
                work = attrs.evolve(work, is_git=True)  # what it calls unknown
            self.post(f"/manager/queue/{kind}", json=self.listing(work))
        self.start_queued()


def results_in(data: object) -> dict[str, str]:
    """Return the results by task in the data of a ``cm-queue-status`` event."""
    told = {**table_at(data, "nodepack_result"), **table_at(data, "model_result")}
    return {id: as_result(result) for id, result in told.items()}


def as_result(value: object) -> str:
    """Return the result of a task as a text of limited length."""
    if isinstance(value, Mapping):  # Manager 3 tells more of an update
        value = value.get("msg") or value.get("result")
    return text(value, _MOST_RESULT) or ""


def find(http: Http, client_id: Callable[[], str]) -> ManagerRoutes:
    """Ask the server which Manager it has; raise NotSupported if it has none."""
    version = _version(http, "/v2")
    if version is not None:
        found = http.json("GET", "/v2/manager/is_legacy_manager_ui", max_bytes=SMALL)
        is_legacy = table_at(found).get("is_legacy_manager_ui") is True
        return (LegacyRoutes if is_legacy else Manager4Routes)(http, version, client_id)
    version = _version(http, "")
    if version is not None:
        return Manager3Routes(http, version, client_id)
    raise NotSupported(MISSING, method="GET", path="/v2/manager/version")


def _version(http: Http, prefix: str) -> str | None:
    try:
        answer = http.request("GET", f"{prefix}/manager/version", max_bytes=SMALL)
    except (NotFound, NotSupported) as exc:
        if not exc.status:  # no request was sent, as this is not ComfyUI's own API
            raise
        return None
    return None if answer.is_page else answer.text.strip()[:100]
