"""ComfyUI-Manager 3, a folder of custom_nodes: routes without prefix, results in events alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from aiohttp import web

from ..beginning import Kept
from .manager import json_of
from .manager_models import is_listed
from .manager_old import OldManager
from .manager_security import ActionNeed
from .pack import PackRoutes, PackServer

_KINDS: Final = ("install", "uninstall", "update", "fix", "disable")
_MODEL: Final = "install_model"


class Manager3(OldManager):
    """ComfyUI-Manager 3.41 for ``ComfyServer(packs=...)``; it is made as ``Manager4`` is."""

    name = "manager3"
    version = "V3.41"
    repository = "https://raw.githubusercontent.com/ltdrdata/ComfyUI-Manager/main"
    channel = "default"
    reason = "error"

    def need(self, kind: str, params: Mapping[str, Any]) -> ActionNeed:
        """Return what a kind of work on a pack needs."""
        return "middle" if kind in ("update", "fix") else super().need(kind, params)

    def start(self, server: PackServer) -> None:
        """Begin with a process of the server, which has nothing to do."""
        super().start(server)
        self._begin()

    def reset(self, keep: Collection[Kept]) -> None:
        """Return to the state that was marked."""
        super().reset(keep)
        self._begin()

    def _begin(self) -> None:
        self._pending: list[tuple[str, dict[str, Any]]] = []
        self._results: dict[str, dict[str, str]] = {"nodepack_result": {}, "model_result": {}}
        self._runs = self._has_worker = False
        self._preview_method = "none"

    # -- worker -------------------------------------------------------------------------

    def _counts(self) -> dict[str, int]:
        done = sum(map(len, self._results.values()))
        return {"total_count": len(self._pending) + self._runs + done, "done_count": done}

    def _tell(self, status: str, told: Mapping[str, Any]) -> None:
        data = {"status": status, **told, **self._counts()}
        self.server.state.send("cm-queue-status", data)

    async def _process(self) -> None:
        """Do all tasks.  There is one result for all tasks with one ``ui_id``."""
        while self._pending:
            kind, params = self._pending.pop(0)
            self._runs = True
            await self.server.sleep(self.options.seconds)
            result = self.work(kind, params)
            ui_id = params.get("ui_id")
            is_model = kind == _MODEL
            target = "model_manager" if is_model else "nodepack_manager"
            self._tell("in_progress", {"target": ui_id, "ui_target": target})
            results = self._results["model_result" if is_model else "nodepack_result"]
            results[str(ui_id)] = result
            self._runs = False
        self._tell("done", {name: {**found} for name, found in self._results.items()})
        for found in self._results.values():
            found.clear()
        self._has_worker = False

    # -- routes -------------------------------------------------------------------------

    def routes(self) -> PackRoutes:
        """Return the routes."""
        return (
            *super().routes(),
            *(("POST", f"/manager/queue/{kind}", self._add) for kind in (*_KINDS, _MODEL)),
            ("POST", "/manager/queue/reinstall", self._reinstall),
            ("POST", "/manager/queue/update_all", self._update_all),
            ("POST", "/manager/queue/start", self._start),
            ("POST", "/manager/queue/reset", self._reset),
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
        if kind == _MODEL and not is_listed(params, self.options.models):
            text = "Invalid model install request is detected"
            return web.Response(status=400, text=text)
        self._pending.append((kind, {**params}))
        return web.Response()

    async def _reinstall(self, request: web.Request) -> web.Response:
        params = await json_of(request)
        for kind in ("uninstall", "install"):
            if self.allows(self.need(kind, params)):
                self._pending.append((kind, {**params}))
        raise web.HTTPInternalServerError  # though both are queued

    async def _update_all(self, request: web.Request) -> web.Response:
        if (refusal := self.refusal(request, "middle")) is None:
            self._pending += [("update", pack) for pack in self.all_packs()]
        return refusal or web.Response()

    async def _start(self, request: web.Request) -> web.Response:
        if (refusal := self.refusal(request)) is not None:
            return refusal
        if self._has_worker:
            return web.Response(status=201)
        self._has_worker = True
        self.run(self._process())
        return web.Response()

    async def _reset(self, request: web.Request) -> web.Response:
        if (refusal := self.refusal(request)) is None:
            self._pending.clear()
        return refusal or web.Response()

    async def _status(self, request: web.Request) -> web.Response:
        state = {"in_progress_count": int(self._runs), "is_processing": self._has_worker}
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
