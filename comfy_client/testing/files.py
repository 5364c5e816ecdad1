"""Routes for uploads and downloads."""

from __future__ import annotations

import io
import json
import mimetypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiohttp import web
from PIL import Image

from ..workflow.metadata.png import copy_texts
from .folders import Folders, is_inside
from .server_state import Routes, ServerState

Save = Callable[[bytes, Path], object]
_BYTES = "application/octet-stream"
# A real server registers these types globally.
_KINDS = {".js": "application/javascript; charset=utf-8", ".webp": "image/webp"}
_NOT_SHOWN = frozenset(
    {
        "text/html",
        "text/html-sandboxed",
        "application/xhtml+xml",
        "text/javascript",
        "text/css",
    }
)
#: Types that servers since 2026 send as attachments.
_NOT_SHOWN_NOW = frozenset({"image/svg+xml", "text/xml", "application/xml"})


async def _upload_image(state: ServerState, request: web.Request) -> web.Response:
    return store_upload(
        state.folders, await request.post(), lambda data, path: path.write_bytes(data)
    )


async def _upload_mask(state: ServerState, request: web.Request) -> web.Response:
    post: Any = await request.post()

    def save(data: bytes, path: Path) -> None:
        _save_masked(state.folders, json.loads(post.get("original_ref")), data, path)

    return store_upload(state.folders, post, save)


async def _view(state: ServerState, request: web.Request) -> web.StreamResponse:
    query = request.query
    if "filename" not in query:
        return web.Response(status=404)
    place = _place(state.folders, query["filename"], query.get("type", "output"), query)
    if isinstance(place, int):
        return web.Response(status=place)
    found = place[0] / os.path.basename(place[1])
    # Unlike Path.is_file(), isfile() accepts a name that is too long.
    if not os.path.isfile(found) or not is_inside(found, place[0]):
        return web.Response(status=404)
    if "preview" in query:
        wanted = query["preview"].split(";")
        channel = query.get("channel", "")
        kind = "jpeg" if wanted[0] == "jpeg" and "a" not in channel else "webp"
        quality = int(wanted[-1]) if wanted[-1].isdigit() else 90
        return converted(found, kind, quality, rgb=kind == "jpeg" or channel == "rgb")
    if query.get("channel") == "rgb":
        return converted(found, "png", rgb=True)
    if query.get("channel") == "a":
        return converted(found, "png", alpha_only=True)
    return web.FileResponse(found, headers=_headers(found, state.options.is_newest))


def _headers(path: Path, is_newest: bool) -> dict[str, str]:
    """Return the headers for a file, which keep browsers from showing HTML and similar types."""
    kind = _KINDS.get(path.suffix) or mimetypes.guess_type(path.name)[0] or _BYTES
    disposition = f'filename="{path.name}"'
    headers = {}
    if is_newest:
        headers["X-Content-Type-Options"] = "nosniff"
    if is_newest and kind in _NOT_SHOWN | _NOT_SHOWN_NOW:
        kind, disposition = _BYTES, f"attachment; {disposition}"
    elif kind in _NOT_SHOWN:
        kind = _BYTES
    return headers | {"Content-Disposition": disposition, "Content-Type": kind}


FILE_ROUTES: Routes[ServerState] = (
    ("POST", "/upload/image", _upload_image),
    ("POST", "/upload/mask", _upload_mask),
    ("GET", "/view", _view),
)


def converted(
    path: Path, kind: str, quality: int = 90, *, rgb: bool = False, alpha_only: bool = False
) -> web.Response:
    """Return a response with a picture as ``kind``, optionally only its RGB or alpha channels."""
    file = io.BytesIO()
    with Image.open(path) as picture:
        if alpha_only:
            alpha = picture.getchannel("A") if picture.mode == "RGBA" else 255
            result = Image.new("RGBA", picture.size)
            result.putalpha(alpha)
        else:
            result = picture.convert("RGB") if rgb else picture
        result.save(file, format=kind, quality=quality)
    headers = {"Content-Disposition": f'filename="{path.name}"'}
    return web.Response(body=file.getvalue(), content_type=f"image/{kind}", headers=headers)


def _place(folders: Folders, name: str, kind: str, query: Any) -> tuple[Path, str] | int:
    """Return the folder and name of a requested file, or the HTTP status of a refusal."""
    name, folder = folders.annotated(name)
    if not name or name.startswith("/") or ".." in name:
        return 400
    folder = folder or folders.of_type(kind)
    if folder is None:
        return 400
    inner = folder / query.get("subfolder", "")
    if not is_inside(inner, folder):
        return 403
    return inner, name


def store_upload(folders: Folders, post: Any, save: Save) -> web.Response:
    """Store an uploaded file under a free name, and return the answer, or a refusal."""
    kind = post.get("type", "input")
    root = folders.of_type(kind)
    if root is None:
        raise ValueError(f"no type {kind!r}")
    image = post.get("image")
    if not image:
        return web.Response(status=400)
    name = image.filename  # AttributeError for a text field: answered with 500, as on the server
    if not name:
        return web.Response(status=400)
    subfolder = post.get("subfolder", "")
    folder = root / os.path.normpath(subfolder)
    path = Path(os.path.abspath(folder / name))
    if not is_inside(path, root) or not is_inside(folder, root):
        return web.Response(status=400)
    folder.mkdir(parents=True, exist_ok=True)
    data = image.file.read()
    stem, ending = os.path.splitext(name)
    is_known = False
    if post.get("overwrite") not in ("true", "1"):
        number = 0
        while path.exists() and not is_known:
            is_known = path.read_bytes() == data
            if not is_known:
                number += 1
                name = f"{stem} ({number}){ending}"
                path = folder / name
    if not is_inside(path, root):  # another link
        return web.Response(status=400)
    if not is_known:
        save(data, path)
    return web.json_response({"name": name, "subfolder": subfolder, "type": kind})


def _save_masked(folders: Folders, ref: dict[str, Any], mask: bytes, path: Path) -> None:
    """Save the original picture with the mask's alpha; do nothing if there is no original."""
    place = _place(folders, ref["filename"], ref.get("type", "output"), ref)
    if isinstance(place, int) or not os.path.isfile(found := place[0] / place[1]):
        return
    if not is_inside(found, place[0]):
        return
    source = found.read_bytes()
    with Image.open(io.BytesIO(source)) as original, Image.open(io.BytesIO(mask)) as alpha:
        masked = original.convert("RGBA")
        masked.putalpha(alpha.convert("RGBA").getchannel("A"))
        masked.save(path, compress_level=4)
        has_texts = original.format == "PNG" and path.suffix.lower() in (".png", ".apng")
    if has_texts:
        path.write_bytes(copy_texts(source, path.read_bytes()))
