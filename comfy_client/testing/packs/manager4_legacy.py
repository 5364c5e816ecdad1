"""ComfyUI-Manager 4 with its old page, which has batches in place of tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs
from aiohttp import web

from .manager import MOST_BATCHES, check_room, read_json, remember
from .manager4 import Manager4Base
from .manager_models import is_listed
from .manager_old import (
    COMFYUI,
    MODEL,
    OldManager,
    check_posted,
    new_results,
    places_of,
    version_of,
)
from .manager_security import ActionNeed
from .pack import PackRoutes

#: The work that a batch may hold, as lists of packs or models, in the order in which it is done.
_KINDS: Final = ("uninstall", "install", "reinstall", "update", "disable", "fix", MODEL)


@attrs.define(eq=False)
class _Batch:
    """Work that is done together, and its results by ``ui_id``."""

    batch_id: str
    tasks: list[tuple[str, dict[str, Any]]] = attrs.field(factory=list)
    results: dict[str, dict[str, str]] = attrs.field(factory=new_results)
    total: int = 0

    @property
    def done(self) -> int:
        """The number of results."""
        return sum(map(len, self.results.values()))


class LegacyPack(OldManager, Manager4Base):
    """ComfyUI-Manager 4.3 with its old page."""

    name = "manager4-legacy"
    is_legacy = True
    reason = "reason"

    def need(self, kind: str, params: Mapping[str, Any]) -> ActionNeed:
        """Return what a kind of work on a pack needs."""
        if kind == "reinstall":
            return super().need("install", params)
        return "high+" if kind == "fix" else super().need(kind, params)

    def begin(self) -> None:
        """Begin without batches."""
        super().begin()
        self._waiting: list[_Batch] = []

    def forget_pending(self) -> None:
        """Forget the work that has not begun."""
        del self._waiting[1:]
        for batch in self._waiting:
            batch.tasks.clear()

    # -- worker -------------------------------------------------------------------------

    async def process(self) -> None:
        """Do all batches, and send the results to all clients."""
        while self._waiting:
            batch = self._waiting[0]
            while batch.tasks:
                await self._next_task(batch)
            told = {
                **batch.results,
                "total_count": batch.total,
                "done_count": batch.done,
                "batch_id": batch.batch_id,
            }
            self.batches.pop(batch.batch_id, None)
            remember(self.batches, batch.batch_id, told, MOST_BATCHES)
            left = {"remaining_batch_count": len(self._waiting)}
            self._tell("batch-done", {**told, **left})
            self._waiting.pop(0)
        self._tell("all-done", {})

    async def _next_task(self, batch: _Batch) -> None:
        kind, params = batch.tasks.pop(0)
        result = await self.do(kind, params)
        ui_id, (page, results) = params.get("ui_id"), places_of(kind)
        batch.results[results][str(ui_id)] = result
        self.worker.runs = False
        told = {
            "target": ui_id,
            "batch_id": batch.batch_id,
            "ui_target": page,
            "total_count": batch.total,
            "done_count": batch.done,
        }
        self._tell("in_progress", told)

    def _tell(self, status: str, told: Mapping[str, Any]) -> None:
        self.server.state.send("cm-queue-status", {"status": status, **told})

    # -- routes -------------------------------------------------------------------------

    def routes(self) -> PackRoutes:
        """Return the routes."""
        return (
            *super().routes(),
            ("POST", "/v2/manager/queue/batch", self._add_batch),
            ("GET", "/v2/manager/queue/status", self._status),
            ("GET", "/v2/manager/queue/history", self._history),
            ("GET", "/v2/customnode/fetch_updates", self._fetch_updates),
        )

    async def _add_batch(self, request: web.Request) -> web.Response:
        body = await read_json(request)
        number = self.server.state.options.ids.new("batch").hex
        batch, failed = _Batch(str(body.get("batch_id") or number)), []
        for kind in _KINDS:
            for params in body.get(kind) or ():
                check_posted(kind, params)
                if not self.allows(self.need(kind, params)) or self._is_stranger(kind, params):
                    failed.append(params["id"])
                elif kind == "reinstall":
                    batch.tasks += [("uninstall", params), ("install", params)]
                else:
                    batch.tasks.append((kind, params))
        if body.get("update_all") and self.allows("middle+"):
            batch.tasks += [("update", pack) for pack in self.all_packs()]
        if body.get(COMFYUI):
            batch.tasks.append((COMFYUI, {"ui_id": "comfyui"}))
        batch.total = len(batch.tasks)
        check_room(sum(max(one.total, 1) for one in (*self._waiting, batch)))
        self._waiting.append(batch)
        self.start_worker()
        return web.json_response({"failed": failed})

    def _is_stranger(self, kind: str, params: Mapping[str, Any]) -> bool:
        """Whether something is to be installed that neither the lists nor a setting allow."""
        if kind == MODEL:
            return not is_listed(params, self.options.models)
        version = version_of(params)
        if kind not in ("install", "reinstall") or version not in ("unknown", "nightly"):
            return False
        urls = params["files"] if version == "unknown" else [params.get("repository")]
        listed = {one.url for one in self.packs.listed.values()}
        return not (self.options.allow_git_url or listed.issuperset(map(str, urls)))

    async def _status(self, request: web.Request) -> web.Response:
        told = {
            "total_count": sum(batch.total for batch in self._waiting),
            "done_count": sum(batch.done for batch in self._waiting),
            "in_progress_count": int(self.worker.runs),
            "is_processing": self.worker.lives,
        }
        return web.json_response(told)

    async def _history(self, request: web.Request) -> web.Response:
        return self.batch_answer(request.query.get("id"))

    async def _fetch_updates(self, request: web.Request) -> web.Response:
        return web.Response(status=400)
