"""ComfyUI-Manager 3, a folder of custom_nodes: routes without prefix, results in events alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from aiohttp import web

from .installed import SUCCESS
from .listed import ListedPack
from .manager import check_room, json_of
from .manager_models import is_listed
from .manager_old import (
    COMFYUI,
    MODEL,
    OldManager,
    check_posted,
    name_of,
    new_results,
    places_of,
    version_of,
)
from .manager_security import ActionNeed
from .pack import PackRoutes

_ENDINGS: Final = {"update": "updating", "fix": "fixing"}
_KINDS: Final = ("install", "uninstall", "update", "fix", "disable")


class Manager3Pack(OldManager):
    """ComfyUI-Manager 3.41."""

    name = "manager3"
    version = "V3.41"
    repository = "https://raw.githubusercontent.com/ltdrdata/ComfyUI-Manager/main"
    channel = "default"
    reason = "error"

    def need(self, kind: str, params: Mapping[str, Any]) -> ActionNeed:
        """Return what a kind of work on a pack needs."""
        return "middle" if kind in ("update", "fix") else super().need(kind, params)

    def begin(self) -> None:
        """Begin without work."""
        super().begin()
        self._pending: list[tuple[str, dict[str, Any]]] = []
        self._results = new_results()
        self._preview_method = "none"
        #: Whether it has looked for the installed packs.
        self._has_looked = self.packs.online

    def forget_pending(self) -> None:
        """Forget the work that has not begun."""
        self._pending.clear()

    # -- work without the registry --------------------------------------------------------

    def work(self, kind: str, params: Mapping[str, Any]) -> str:
        """Do work.  Without the registry, all packs are unknown, once it has looked for them."""
        is_known = self.packs.online or (self._has_looked and version_of(params) == "unknown")
        if kind == "install":
            self._has_looked = True
        elif kind in ("uninstall", "disable") and not is_known:
            return SUCCESS
        elif kind in ("update", "fix") and not is_known:
            return f"An error occurred while {_ENDINGS[kind]} '{name_of(params)}'."
        return super().work(kind, params)

    def listed(self) -> Mapping[str, ListedPack]:
        """Return the packs of the list; those of the registry come from there."""
        listed = self.packs.listed
        if self.packs.online:
            return listed
        return {name: pack for name, pack in listed.items() if pack.version is None}

    async def _list_packs(self, request: web.Request) -> web.Response:
        self._has_looked = True
        return await super()._list_packs(request)

    async def _import_fail_info(self, request: web.Request) -> web.Response:
        answer = await super()._import_fail_info(request)
        return answer if self._has_looked else web.Response(status=400)

    # -- worker -------------------------------------------------------------------------

    def _counts(self) -> dict[str, int]:
        done = sum(map(len, self._results.values()))
        return {"total_count": len(self._pending) + self.worker.runs + done, "done_count": done}

    def _tell(self, status: str, told: Mapping[str, Any]) -> None:
        data = {"status": status, **told, **self._counts()}
        self.server.state.send("cm-queue-status", data)

    async def process(self) -> None:
        """Do all tasks.  There is one result for all tasks with one ``ui_id``."""
        while self._pending:
            kind, params = self._pending.pop(0)
            result = await self.do(kind, params)
            ui_id, (page, results) = params.get("ui_id"), places_of(kind)
            self._tell("in_progress", {"target": ui_id, "ui_target": page})
            self._results[results][str(ui_id)] = result
            self.worker.runs = False
        self._tell("done", {name: {**found} for name, found in self._results.items()})
        for found in self._results.values():
            found.clear()

    # -- routes -------------------------------------------------------------------------

    def routes(self) -> PackRoutes:
        """Return the routes."""
        return (
            *super().routes(),
            *(("POST", f"/manager/queue/{kind}", self._add) for kind in (*_KINDS, MODEL)),
            ("POST", "/manager/queue/reinstall", self._reinstall),
            ("POST", "/manager/queue/update_all", self._update_all),
            ("POST", "/manager/queue/update_comfyui", self._update_comfyui),
            ("POST", "/manager/queue/start", self.start_work),
            ("GET", "/manager/queue/status", self._status),
            ("GET", "/manager/policy/component", self._component_policy),
            ("GET", "/manager/preview_method", self._get_preview_method),
            ("POST", "/manager/preview_method", self._set_preview_method),
            ("GET", "/manager/startup_alerts", self._alerts),
            ("GET", "/customnode/get_node_types_in_workflows", self._no_types),
        )

    async def _add(self, request: web.Request) -> web.Response:
        kind = request.path.rpartition("/")[2]
        params = await json_of(request)
        if not self.allows(self.need(kind, params)):
            return web.Response(status=403)
        if kind == MODEL and not is_listed(params, self.options.models):
            text = "Invalid model install request is detected"
            return web.Response(status=400, text=text)
        check_posted(kind, params)
        self._add_all([(kind, params)])
        return web.Response()

    def _add_all(self, work: list[tuple[str, dict[str, Any]]]) -> None:
        check_room(self._counts()["total_count"] + len(work))
        self._pending += work

    async def _reinstall(self, request: web.Request) -> web.Response:
        params = await json_of(request)
        both = [one for one in ("uninstall", "install") if self.allows(self.need(one, params))]
        check_posted("reinstall", params)
        self._add_all([(kind, params) for kind in both])
        raise web.HTTPInternalServerError  # though both are queued

    async def _update_all(self, request: web.Request) -> web.Response:
        if (refusal := self.refusal(request, "middle")) is None:
            self._add_all([("update", pack) for pack in self.all_packs()])
        return refusal or web.Response()

    async def _update_comfyui(self, request: web.Request) -> web.Response:
        self._add_all([(COMFYUI, {"ui_id": "comfyui"})])
        return web.Response()

    async def _status(self, request: web.Request) -> web.Response:
        state = {"in_progress_count": int(self.worker.runs), "is_processing": self.worker.lives}
        return web.json_response({**self._counts(), **state})

    async def _component_policy(self, request: web.Request) -> web.Response:
        return web.Response(text="workflow")

    async def _get_preview_method(self, request: web.Request) -> web.Response:
        return web.Response(text=self._preview_method)

    async def _set_preview_method(self, request: web.Request) -> web.Response:
        body = await json_of(request)
        self._preview_method = str(body["value"])
        return web.Response()

    async def _alerts(self, request: web.Request) -> web.Response:
        return web.json_response([])

    async def _no_types(self, request: web.Request) -> web.Response:
        return web.Response(status=204)

    async def snapshot_target(self, request: web.Request) -> Any:
        """Return the name of the snapshot that the body names, not the query."""
        body = await json_of(request)
        return body.get("target") if isinstance(body, dict) else None
