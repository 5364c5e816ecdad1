"""ComfyUI-Manager 4, as the package ``comfyui-manager`` brings it, without its old page."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, cast

from aiohttp import web

from .installed import answer_of
from .manager import ManagerBase, json_of, read_json
from .manager4_params import ManagerTask, read_model, read_task, task_of
from .manager4_queue import TaskQueue
from .manager_models import install_model
from .manager_security import need_to_install
from .pack import PackRoutes, PackServer

_FAILED: Final = "failed"


class Manager4Base(ManagerBase):
    """The part of Manager 4 that does not depend on its page."""

    version = "V4.3"
    prefix = "/v2"
    repository = "https://raw.githubusercontent.com/Comfy-Org/ComfyUI-Manager/main"
    is_legacy = False

    def start(self, server: PackServer) -> None:
        """Begin with a process of the server."""
        extension = server.state.features.setdefault("extension", {})
        extension["manager"] = {**extension.get("manager", {}), "supports_csrf_post": True}
        super().start(server)

    def routes(self) -> PackRoutes:
        """Return the routes."""
        return (
            *super().routes(),
            ("GET", "/v2/manager/is_legacy_manager_ui", self._is_legacy),
            ("GET", "/v2/manager/queue/history_list", self._list_batches),
            ("POST", "/v2/customnode/import_fail_info_bulk", self._failed_imports),
        )

    async def _list_batches(self, request: web.Request) -> web.Response:
        return web.json_response({"ids": [*reversed(self.batches)]})

    def batch_answer(self, batch_id: str | None) -> web.Response:
        """Return the answer to the question for a batch, which may be none."""
        if batch_id is not None and not re.fullmatch(r"[\w-]+", batch_id):
            return web.Response(status=400, text="Invalid history id")
        batch = self.batches.get(batch_id or "")
        return web.json_response(batch) if batch else web.Response(status=400)

    async def _is_legacy(self, request: web.Request) -> web.Response:
        return web.json_response({"is_legacy_manager_ui": self.is_legacy})

    async def _failed_imports(self, request: web.Request) -> web.Response:
        body = await json_of(request)
        given = body if isinstance(body, dict) else {}
        ids, urls = given.get("cnr_ids") or [], given.get("urls") or []
        if not ids and not urls:
            text = "Either 'cnr_ids' or 'urls' field is required"
            return web.Response(status=400, text=text)
        found = {one: self.failed(cnr_id=one) for one in ids}
        found |= {one: self.failed(url=one) for one in urls}
        return web.json_response(
            {
                one: pack and {"error": self.traceback(pack), "traceback": ""}
                for one, pack in found.items()
            }
        )


class Manager4Pack(Manager4Base):
    """ComfyUI-Manager 4.3, with its traps."""

    name = "manager4"
    _queue: TaskQueue | None = None

    def begin(self) -> None:
        """Begin without tasks and without history."""
        super().begin()
        self._queue = TaskQueue(
            self.server,
            self.worker,
            self.batches,
            self._work,
            lambda: answer_of(self.packs.now),
            self.options.seconds,
        )

    async def process(self) -> None:
        """Do the tasks."""
        await self._tasks_now.process()

    def forget_pending(self) -> None:
        """Forget the tasks that have not begun."""
        self._tasks_now.forget_pending()

    @property
    def _tasks_now(self) -> TaskQueue:
        return cast(TaskQueue, self._queue)

    # -- work ---------------------------------------------------------------------------

    def _work(self, task: ManagerTask) -> str:
        """Do a task, and return its result."""
        params, packs = task.params, self.packs
        name = params.get("node_name")
        match task.kind:
            case "install":
                version = params["selected_version"]
                if not self.allows(need_to_install(version)):
                    return _FAILED
                where = "ManagerChannel.{channel}, ManagerDatabaseSource.{mode}".format(**params)
                return packs.install(params["id"], version, where)
            case "install-model":
                if not self.allows("middle+"):
                    return _FAILED
                return install_model(params, self.server.state.folders, self.options.unreachable)
            case "uninstall":
                return packs.uninstall(str(name)) if self.allows("middle") else _FAILED
            case "fix":
                version = params.get("node_ver")
                return packs.fix(str(name), version) if self.allows("high+") else _FAILED
            case "update":
                return packs.update(str(name))
            case "disable":
                return packs.disable(str(name))
            case "enable":
                return packs.enable(params["cnr_id"])
        return "fail"  # ComfyUI is no git repository

    # -- routes -------------------------------------------------------------------------

    def routes(self) -> PackRoutes:
        """Return the routes."""
        return (
            *super().routes(),
            ("GET", "/v2/manager/queue/status", self._status),
            ("POST", "/v2/manager/queue/task", self._add_task),
            ("POST", "/v2/manager/queue/install_model", self._add_model),
            ("POST", "/v2/manager/queue/update_all", self._update_all),
            ("POST", "/v2/manager/queue/update_comfyui", self._update_comfyui),
            ("POST", "/v2/manager/queue/start", self.start_work),
            ("GET", "/v2/manager/queue/history", self._history),
            ("GET", "/v2/customnode/fetch_updates", self._fetch_updates),
            ("GET", "/v2/comfyui_manager/comfyui_versions", self._comfyui_versions),
            ("POST", "/v2/comfyui_manager/comfyui_switch_version", self._switch_version),
        )

    async def _status(self, request: web.Request) -> web.Response:
        return web.json_response(self._tasks_now.status(request.query.get("client_id")))

    async def _add_task(self, request: web.Request) -> web.Response:
        try:
            body = await read_json(request)
        except ValueError:
            return web.Response(status=500, text="Internal server error")
        return self._add(body, read_task)

    async def _add_model(self, request: web.Request) -> web.Response:
        return self._add(await json_of(request), read_model)

    def _add(self, body: Any, read: Callable[[Any], ManagerTask]) -> web.Response:
        try:
            self._tasks_now.add(read(body))
        except ValueError as exc:
            return web.Response(status=400, text=str(exc))
        return web.Response()

    async def _update_all(self, request: web.Request) -> web.Response:
        refusal = self.refusal(request, "middle+") or _missing(request)
        if refusal is not None:
            return refusal
        for pack in self.packs.now.values():
            version = "unknown" if pack.is_git else pack.version
            params = {"node_name": pack.listed.name, "node_ver": version}
            ui_id, client_id = f"upd_{pack.listed.name}", request.query["client_id"]
            self._tasks_now.add(task_of(ui_id, client_id, "update", params))
        return web.Response()

    async def _update_comfyui(self, request: web.Request) -> web.Response:
        refusal = self.refusal(request) or _missing(request)
        if refusal is None:
            asked = request.query
            params = {"is_stable": asked.get("stable", "true").lower() == "true"}
            task = task_of(asked["ui_id"], asked["client_id"], "update-comfyui", params)
            self._tasks_now.add(task)
        return refusal or web.Response()

    async def _history(self, request: web.Request) -> web.Response:
        asked, items = request.query, self._tasks_now.history
        if (batch_id := asked.get("id")) is not None:
            return self.batch_answer(batch_id)
        if (ui_id := asked.get("ui_id")) is not None:
            return web.json_response({"history": items.get(ui_id, {})})
        client_id = asked.get("client_id")
        found = [
            (one, item)
            for one, item in items.items()
            if client_id is None or item["client_id"] == client_id
        ]
        try:
            first = max(int(asked.get("offset", 0)), 0)
            most = int(asked.get("max_items", len(found)))
        except ValueError:
            return web.Response(status=400)
        return web.json_response({"history": dict(found[first : first + most])})

    async def _fetch_updates(self, request: web.Request) -> web.Response:
        told = {
            "error": "This endpoint has been deprecated",
            "message": "Repository fetching is no longer supported. "
            "Please use the update operations through the queue system.",
            "deprecated": True,
        }
        return web.json_response(told, status=410)

    async def _comfyui_versions(self, request: web.Request) -> web.Response:
        return web.Response(status=400)  # ComfyUI is no git repository

    async def _switch_version(self, request: web.Request) -> web.Response:
        if not self.allows("high+"):
            return web.Response(status=403)
        body = await json_of(request)
        given = body if isinstance(body, dict) else {}
        if not all(isinstance(given.get(name), str) for name in ("ver", "client_id", "ui_id")):
            return web.Response(status=400)
        params = {"is_stable": None, "target_version": given["ver"]}
        task = task_of(given["ui_id"], given["client_id"], "update-comfyui", params)
        self._tasks_now.add(task)
        return web.Response()

    def without_pack(self) -> web.Response:
        """Return the answer to the question for a failed import that names no pack."""
        return web.Response(status=400, text="Either 'cnr_id' or 'url' field is required")


def _missing(request: web.Request) -> web.Response | None:
    """Return the refusal of a query without both ids; None if it has them."""
    given = dict(request.query)
    wrong = [
        {
            "type": "missing",
            "loc": [name],
            "msg": "Field required",
            "input": given,
            "url": "https://errors.pydantic.dev/2.14/v/missing",
        }
        for name in ("client_id", "ui_id")
        if name not in given
    ]
    if not wrong:
        return None
    return web.json_response({"error": "Validation error", "details": wrong}, status=400)
