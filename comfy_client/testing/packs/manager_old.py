"""The common part of Manager 3 and the old page of Manager 4: lists, and the shape of packs.

A pack is posted as ``{"id", "version", "files", "channel", "mode", "ui_id", "selected_version"}``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from aiohttp import web

from .installed import PackFolder
from .listed import ListedPack
from .manager import ManagerBase
from .manager_models import install_model, models_answer
from .manager_security import ActionNeed, need_to_install
from .pack import PackRoutes

#: The kind of work that installs a model.
MODEL: Final = "install_model"
#: The kind of work that updates ComfyUI itself.
COMFYUI: Final = "update_comfyui"
#: Which list the answer names, by the mode that is asked for.
_LISTS: Final = {"local": "local"}


class OldManager(ManagerBase):
    """The base class of Manager 3 and of Manager 4 with its old page.

    Attributes:
        reason: The key under which a refusal names the setting that it depends on.
    """

    reason = ""

    def need(self, kind: str, params: Mapping[str, Any]) -> ActionNeed:
        """Return what a kind of work on a pack needs, of those that need the same everywhere."""
        if kind == "install":
            return need_to_install(version_of(params))
        needs: Mapping[str, ActionNeed] = {"uninstall": "middle", MODEL: "middle+"}
        return needs.get(kind, "none")

    async def do(self, kind: str, params: Mapping[str, Any]) -> str:
        """Begin work, take its time and do it; return the result, which may be an exception."""
        self.worker.runs = True
        await self.server.sleep(self.options.seconds)
        try:
            return self.work(kind, params)
        except Exception:  # noqa: BLE001  it is the result
            return f"Exception: {(kind, params)!r:.1000}"

    def work(self, kind: str, params: Mapping[str, Any]) -> str:
        """Do work at once; return the result."""
        if kind == COMFYUI:
            return "fail"  # it is no git repository
        if kind == MODEL:
            folders = self.server.state.folders
            return install_model(params, folders, self.options.unreachable)
        name = name_of(params)
        if kind == "install":
            where = f"{params.get('channel')}, {params.get('mode')}"
            return self.packs.install(name, version_of(params), where)
        if kind == "fix":
            return self.packs.fix(name, params.get("version"))
        simple: Mapping[str, Callable[[str], str]] = {
            "uninstall": self.packs.uninstall,
            "update": self.packs.update,
            "disable": self.packs.disable,
        }
        return simple[kind](name)

    def all_packs(self) -> Iterator[dict[str, Any]]:
        """Yield the installed packs in the shape in which they are posted."""
        for name, pack in self.packs.now.items():
            version = "unknown" if pack.is_git else pack.version
            yield {"id": name, "version": version, "files": [pack.listed.url], "ui_id": name}

    # -- routes -------------------------------------------------------------------------

    def routes(self) -> PackRoutes:
        """Return the routes."""
        old: PackRoutes = (
            ("GET", "/customnode/getlist", self._list_packs),
            ("GET", "/externalmodel/getlist", self._list_models),
            ("GET", "/customnode/versions/{name}", self._fail),
            ("GET", "/customnode/disabled_versions/{name}", self._bad),
            ("GET", "/comfyui_manager/comfyui_versions", self._fail),
            ("GET", "/manager/notice", self._fail),
            ("POST", "/customnode/install/git_url", self._install_url),
            ("POST", "/customnode/install/pip", self._install_pip),
        )
        below = [(method, f"{self.prefix}{path}", handler) for method, path, handler in old]
        return (
            *super().routes(),
            *below,
            ("GET", "/customnode/alternatives", self._alternatives),
        )

    async def _fail(self, request: web.Request) -> web.Response:
        raise RuntimeError("the registry cannot be reached, or ComfyUI is no git repository")

    async def _bad(self, request: web.Request) -> web.Response:
        return web.Response(status=400)

    async def _alternatives(self, request: web.Request) -> web.Response:
        _ = request.query["mode"]
        return web.json_response({})

    async def _list_packs(self, request: web.Request) -> web.Response:
        channel = _LISTS.get(request.query["mode"], "default")
        packs = {name: _told(one, self.packs.now.get(name)) for name, one in self.listed().items()}
        return web.json_response({"channel": channel, "node_packs": packs})

    def listed(self) -> Mapping[str, ListedPack]:
        """Return the packs of the list."""
        return self.packs.listed

    async def _list_models(self, request: web.Request) -> web.Response:
        _ = request.query["mode"]
        told = models_answer(self.options.models, self.server.state.folders)
        return web.json_response(told)

    async def _install_url(self, request: web.Request) -> web.Response:
        if not self.options.allow_git_url:
            told = {self.reason: "allow_git_url_install"}
            return web.json_response(told, status=403)
        url = (await request.text()).strip()
        if not url.startswith(("http://", "https://")) or url in self.options.unreachable:
            return web.Response(status=400)
        try:
            self.packs.install_url(url)
        except ValueError:
            return web.Response(status=400)
        return web.Response()

    async def _install_pip(self, request: web.Request) -> web.Response:
        if not self.options.allow_pip:
            return web.json_response({self.reason: "allow_pip_install"}, status=403)
        return web.Response()  # whatever the names of the packages are


def new_results() -> dict[str, dict[str, str]]:
    """Return a place for results by ``ui_id``: those of packs, and those of models."""
    return {"nodepack_result": {}, "model_result": {}}


def places_of(kind: str) -> tuple[str, str]:
    """Return how events name the page of a kind of work, and among which results its own is."""
    if kind == MODEL:
        return "model_manager", "model_result"
    return "nodepack_manager", "nodepack_result"


def check_posted(kind: str, params: Any) -> None:
    """Fail as the handler does that reads what work needs.

    Raises:
        KeyError: Something is missing.
        TypeError: It is no dict, or has no list of addresses.
        IndexError: The list of addresses is empty.
    """
    if not isinstance(params, dict):
        raise TypeError(f"{kind} of {params!r:.100}")
    if kind == MODEL:
        _ = params["filename"], params["save_path"], params["type"], params["url"]
    else:
        name_of(params)


def name_of(params: Mapping[str, Any]) -> str:
    """Return the name of a posted pack: of one without version, the last part of its address."""
    if params["version"] != "unknown":
        return str(params["id"])
    return str(params["files"][0]).rstrip("/").rpartition("/")[2].removesuffix(".git")


def version_of(params: Mapping[str, Any]) -> str:
    """Return the version of a posted pack that is to be installed."""
    if params["version"] == "unknown":
        return "unknown"
    return str(params.get("selected_version") or "latest")


def _told(listed: ListedPack, pack: PackFolder | None) -> dict[str, Any]:
    """Return what the list of packs tells of one."""
    state = "not-installed" if pack is None else "enabled" if pack.enabled else "disabled"
    return {
        "author": "",
        "title": listed.title or listed.name,
        "id": listed.name,
        "reference": listed.url,
        "files": [listed.url],
        "install_type": "git-clone",
        "description": "",
        "repository": listed.url,
        "version": listed.version or "unknown",
        "state": state,
        "stars": -1,
        "last_update": -1,
        "trust": False,
    }
