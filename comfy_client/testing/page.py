"""The official page of ComfyUI, its workflow templates and its help, as pip installed them.

The page has 50 to 120 MB, so it is served where it is.  Nothing of these packages is imported or
changed, and only files that are really inside their folders are sent.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import attrs
from aiohttp import web

from .folders import is_inside
from .versions import RELEASES, Version

_PACKAGE = "comfyui-frontend-package"
_TEMPLATES = "comfyui_workflow_templates"
#: Packages of templates: the whole of them before autumn 2025; workflows, and their pictures.
_BUNDLES = (
    "",
    "_json",
    "_media_api",
    "_media_image",
    "_media_other",
    "_media_video",
    "_media_assets_01",
    "_media_assets_02",
)


@attrs.frozen
class Page:
    """The folders of the official page, of its templates, and of its help on node classes."""

    folder: Path
    templates: tuple[Path, ...] = ()
    docs: Path | None = None

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Add the routes of templates and help; those of the page are the server's last ones."""
        router.add_get("/templates/{file:.+}", self._template)
        if self.docs:
            router.add_static("/docs", self.docs)

    async def _template(self, request: web.Request) -> web.FileResponse:
        """Send a template, its picture, or the list of templates."""
        for folder in self.templates:
            path = folder / request.match_info["file"]
            if is_inside(path, folder) and os.path.isfile(path):
                return web.FileResponse(path)
        raise web.HTTPNotFound


def find_page(frontend: Any, version: Version) -> Page | None:
    """Find the page to serve, with the templates and the help that are installed.

    Warns if the page is of another release than the version of ComfyUI requires.

    Args:
        frontend: Whether to serve the installed page, or the folder of one.
        version: The version of ComfyUI that the server imitates.

    Raises:
        ModuleNotFoundError: No page is installed.
        ValueError: The folder has no ``index.html``.
        TypeError: It is neither a bool nor a path.
    """
    if not isinstance(frontend, bool | str | os.PathLike):
        raise TypeError(f"frontend must be True, False or a path, not {frontend!r}")
    if frontend is False:
        return None
    wanted = RELEASES[version].page
    if frontend is True:
        installed = _part_of("comfyui_frontend_package", "static")
        if installed is None:
            raise ModuleNotFoundError(
                f"the page is not installed: pip install {_pinned(wanted)}",
                name="comfyui_frontend_package",
            )
        folder = installed
    else:
        folder = Path(frontend).resolve()
    if not (folder / "index.html").is_file():
        raise ValueError(f"no page: {folder} has no index.html")
    found = _version_of(folder)
    if found and wanted and found.split(".")[:2] != wanted.split(".")[:2]:
        note = f"the page is {found}, but ComfyUI {version} comes with {wanted}"
        # The caller of ComfyServer.
        warnings.warn(f"{note}: pip install {_pinned(wanted)}", stacklevel=3)
    templates = [_part_of(f"{_TEMPLATES}{bundle}", "templates") for bundle in _BUNDLES]
    docs = _part_of("comfyui_embedded_docs", "docs")
    return Page(folder, tuple(filter(None, templates)), docs)


def checked_settings(settings: Any) -> dict[str, Any]:
    """Return a copy of the settings of the page that users begin with.

    Raises TypeError unless they are a mapping of names.
    """
    if not isinstance(settings, Mapping) or not all(isinstance(name, str) for name in settings):
        raise TypeError(f"settings must be a mapping of names, not {settings!r}")
    return dict(settings)


def _pinned(version: str | None) -> str:
    return f"{_PACKAGE}=={version}" if version else _PACKAGE


def _part_of(package: str, name: str) -> Path | None:
    """Return a folder of an installed package, which is not imported; None if there is none."""
    spec = find_spec(package)
    for place in (spec and spec.submodule_search_locations) or ():
        folder = Path(place, name).resolve()
        if folder.is_dir():
            return folder
    return None


def _version_of(folder: Path) -> str | None:
    """Return the version of a page in a folder of its package; None if pip did not install it."""
    for record in folder.parent.parent.glob("comfyui_frontend_package-*.dist-info"):
        return record.name.removesuffix(".dist-info").rpartition("-")[2]
    return None
