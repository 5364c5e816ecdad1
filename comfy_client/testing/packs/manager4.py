"""ComfyUI-Manager 4, as the package ``comfyui-manager`` brings it."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from .pack import Pack, PackRoutes, PackServer

VERSION: Final = "V4.3"


class Manager4(Pack):
    """ComfyUI-Manager 4.3 without its old page."""

    name = "manager4"

    def routes(self) -> PackRoutes:
        """Return the routes."""
        return (
            ("GET", "/v2/manager/version", self._version),
            ("GET", "/v2/manager/is_legacy_manager_ui", self._is_legacy),
        )

    def start(self, server: PackServer) -> None:
        """Begin with a process of the server."""
        super().start(server)
        extension = server.state.features.setdefault("extension", {})
        extension["manager"] = {**extension.get("manager", {}), "supports_csrf_post": True}

    async def _version(self, request: web.Request) -> web.Response:
        return web.Response(text=VERSION)

    async def _is_legacy(self, request: web.Request) -> web.Response:
        return web.json_response({"is_legacy_manager_ui": False})
