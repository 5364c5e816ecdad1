"""Routes for files: uploads, downloads, those of users with their settings, and of node packs.

The files of a node pack are below ``custom_nodes/<pack>/``, or where ``load_nodes`` found it.  No
code of a pack is run here.  Its files for the frontend are in the folder that its ``__init__.py``
names with ``WEB_DIRECTORY = "..."``, or its ``pyproject.toml`` as ``tool.comfy.web``.
"""

from __future__ import annotations

import ast
import glob
import hashlib
import io
import json
import mimetypes
import os
import re
import shutil
import tomllib
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from aiohttp import web
from PIL import Image

from ..workflow.metadata.png import copy_texts
from .folders import Folders, is_inside
from .server_state import RouteTable, ServerState
from .versions import Version, since

Save = Callable[[bytes, Path], object]
_BYTES = "application/octet-stream"
# A real server registers these types globally.
_CONTENT_TYPES = {".js": "application/javascript; charset=utf-8", ".webp": "image/webp"}
#: Types that Python knows on some systems only.
_MEDIA_TYPES = {
    ".flac": "audio/flac",
    ".glb": "model/gltf-binary",
    ".md": "text/markdown",
    ".mkv": "video/x-matroska",
    ".opus": "audio/ogg",
}
_NOT_SHOWN = frozenset(
    {
        "text/html",
        "text/html-sandboxed",
        "application/xhtml+xml",
        "text/javascript",
        "text/css",
    }
)
#: Further types that servers since 2026 send as attachments, beside all those of XML.
_NOT_SHOWN_NOW = frozenset(
    {
        "application/javascript",
        "application/x-javascript",
        "application/ecmascript",
        "message/rfc822",
    }
)


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
    is_for_image = request.headers.get("Sec-Fetch-Dest") == "image"
    headers = _headers(found, state.options.version, is_for_image=is_for_image)
    return web.FileResponse(found, headers=headers)


def _headers(path: Path, version: Version, *, is_for_image: bool) -> dict[str, str]:
    """Return the headers for a file, which keep browsers from showing HTML and similar types.

    An ``<img>`` runs no scripts of an SVG, so the newest version lets it have that.
    """
    kind = _CONTENT_TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0]
    kind = kind or _MEDIA_TYPES.get(path.suffix, _BYTES)
    if not since(version, "0.28"):
        kind = _BYTES if kind in _NOT_SHOWN else kind
        return {"Content-Disposition": f'filename="{path.name}"', "Content-Type": kind}
    name = path.name.replace("\\", "\\\\").replace('"', '\\"')
    disposition, headers = f'filename="{name}"', {"X-Content-Type-Options": "nosniff"}
    if _may_run_scripts(kind):
        depends = since(version, "0.33")
        if depends:
            headers |= {"Vary": "Sec-Fetch-Dest", "Cache-Control": "no-store"}
        if not (depends and is_for_image and kind == "image/svg+xml"):
            kind, disposition = _BYTES, f"attachment; {disposition}"
    return headers | {"Content-Disposition": disposition, "Content-Type": kind}


def _may_run_scripts(kind: str) -> bool:
    """Return whether servers since 2026 send a type as attachment."""
    bare = kind.partition(";")[0].strip().lower()
    return bare in _NOT_SHOWN | _NOT_SHOWN_NOW or bare.endswith(("+xml", "/xml"))


FILE_ROUTES: RouteTable[ServerState] = (
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


_SYSTEM = "__"  # the beginning of names that no user may have
_SETTINGS = "comfy.settings.json"


class Users:
    """The users of a server, and the folders of their files."""

    def __init__(
        self, root: Path, version: Version, *, multi: bool, settings: Mapping[str, Any]
    ) -> None:
        self.root = root
        #: What counts until a user sets it otherwise.
        self.settings = settings
        self.multi = multi
        self.version: Version = version
        self.names: dict[str, str] = {}
        self.reset()

    def reset(self) -> None:
        """Forget all users but the one that every server has."""
        self.names = {} if self.multi else {"default": "default"}

    def add(self, name: str) -> str:
        """Add a user and return the id; raise ValueError with the server's text if that fails."""
        name = name.strip()
        if not name:
            raise ValueError("username not provided")
        user_id = re.sub("[^a-zA-Z0-9-_]+", "-", name)
        if name.startswith(_SYSTEM) or user_id.startswith(_SYSTEM):
            raise ValueError("System User prefix not allowed")
        user_id = f"{user_id}_{uuid.uuid4()}"
        self.names[user_id] = name
        (self.root / "users.json").write_text(json.dumps(self.names), encoding="utf-8")
        return user_id

    def home(self, request: web.Request) -> Path:
        """Return the folder of the user who sent a request; raise KeyError for an unknown user."""
        user = request.headers.get("Comfy-User", "default") if self.multi else "default"
        if user not in self.names or user.startswith(_SYSTEM):
            raise KeyError(f"Unknown user: {user}")
        return self.root / user

    def path(self, request: web.Request, file: str, *, create: bool = True) -> Path | None:
        """Return the path of a file in the user's folder, or None if it leads out of the folder.

        Unless ``create`` is false, create the folder that contains the file.
        """
        home = self.home(request)
        # As in ComfyUI, decode twice.
        path = Path(os.path.abspath(home / unquote(file)))
        if not is_inside(path, home):
            return None
        if create and not path.parent.exists():  # a file may be in the way
            path.parent.mkdir(parents=True, exist_ok=True)
        return path


# -- users and settings -----------------------------------------------------------------


async def _get_users(users: Users, request: web.Request) -> web.Response:
    if users.multi:
        return web.json_response({"storage": "server", "users": users.names})
    migrated = users.home(request).exists()
    return web.json_response({"storage": "server", "migrated": migrated})


async def _post_users(users: Users, request: web.Request) -> web.Response:
    name = (await request.json())["username"]
    if name in users.names.values():
        return web.json_response({"error": "Duplicate username."}, status=400)
    try:
        return web.json_response(users.add(name))
    except ValueError as exc:
        return web.json_response({"error": str(exc)}, status=400)


def _load(users: Users, request: web.Request) -> dict[str, Any]:
    try:
        path = users.path(request, _SETTINGS)  # also creates the user's folder
        text = "" if path is None else path.read_text(encoding="utf-8")
        settings: dict[str, Any] = json.loads(text)
    except KeyError:
        raise web.HTTPUnauthorized from None
    except (OSError, ValueError):
        return dict(users.settings)
    # A list, which a user can write, is returned as it is: real servers do not look at it either.
    return {**users.settings, **settings} if isinstance(settings, dict) else settings


def _save(users: Users, request: web.Request, settings: dict[str, Any]) -> web.Response:
    path = users.path(request, _SETTINGS)
    if path is None:
        return web.Response(status=403)
    path.write_text(json.dumps(settings, indent=4), encoding="utf-8")
    return web.Response()


async def _get_settings(users: Users, request: web.Request) -> web.Response:
    return web.json_response(_load(users, request))


async def _get_setting(users: Users, request: web.Request) -> web.Response:
    settings, name = _load(users, request), request.match_info["id"]
    if name not in settings:  # any JSON, as users can write the file
        return web.json_response(None)
    return web.json_response(settings[name])


async def _post_settings(users: Users, request: web.Request) -> web.Response:
    return _save(users, request, {**_load(users, request), **await request.json()})


async def _post_setting(users: Users, request: web.Request) -> web.Response:
    settings = _load(users, request)
    return _save(users, request, {**settings, request.match_info["id"]: await request.json()})


# -- lists of files -----------------------------------------------------------------------


async def _list_files(users: Users, request: web.Request) -> web.Response:
    folder = request.query.get("dir", "")
    if not folder:
        return web.Response(status=400, text="Directory not provided")
    path = users.path(request, folder)
    if path is None:
        return web.Response(status=403, text="Invalid directory")
    if not os.path.exists(path):
        return web.Response(status=404, text="Directory not found")

    def asked(name: str) -> bool:
        return request.query.get(name, "").lower() == "true"

    # Not rglob(): the server's way leaves out what begins with a dot.
    pattern = os.path.join(glob.escape(str(path)), *(["**"] if asked("recurse") else []), "*")
    found = [Path(name) for name in glob.glob(pattern, recursive=asked("recurse"))]
    files = [file for file in found if file.is_file() and is_inside(file, path)]
    if asked("full_info"):
        return web.json_response([_info(file, path, users.version) for file in files])
    names = [file.relative_to(path).as_posix() for file in files]
    if asked("split"):
        return web.json_response([[name, *name.split("/")] for name in names])
    return web.json_response(names)


async def _list_all(users: Users, request: web.Request) -> web.Response:
    asked = unquote(request.query.get("path", ""))
    try:
        home = users.home(request)
    except KeyError:
        return web.Response(status=403, text="Invalid user specified in request")
    folder = users.path(request, asked, create=False)
    if folder is None:
        return web.Response(status=400, text="Invalid path requested")
    if not os.path.exists(folder):
        if folder == home:
            return web.json_response([])
        return web.Response(status=404, text="Requested path not found")
    if not folder.is_dir():
        return web.Response(status=400, text="Requested path is not a directory")
    entries = []
    for at, folders, names in os.walk(folder):
        entries += [_entry(Path(at, name), home) for name in (*folders, *names)]
    entries.sort(key=lambda entry: (entry["type"] != "directory", entry["name"].lower()))
    return web.json_response(entries)


# -- files ------------------------------------------------------------------------------


class _Refusal(Exception):
    """A refusal of a request: a status without a body, or with a text."""

    def __init__(self, status: int, text: str | None = None) -> None:
        super().__init__(status)
        self.status = status
        self.text = text


def _answers(
    handler: Callable[[Users, web.Request], Awaitable[web.StreamResponse]],
) -> Callable[[Users, web.Request], Awaitable[web.StreamResponse]]:
    """Wrap a handler so that a :class:`_Refusal` becomes an answer."""

    async def answering(users: Users, request: web.Request) -> web.StreamResponse:
        try:
            return await handler(users, request)
        except _Refusal as exc:
            return web.Response(status=exc.status, text=exc.text)

    return answering


def _find(users: Users, request: web.Request, part: str = "file") -> Path:
    path = users.path(request, request.match_info[part])
    if path is None:
        raise _Refusal(403)
    return path


def _find_existing(users: Users, request: web.Request) -> Path:
    path = _find(users, request)
    if not os.path.exists(path):  # unlike Path.exists(), accepts a name that is too long
        raise _Refusal(404)
    return path


def _check_overwrite(request: web.Request, path: Path) -> None:
    if request.query.get("overwrite", "true") == "false" and os.path.exists(path):
        raise _Refusal(409, "File already exists")


def _stored(users: Users, request: web.Request, path: Path) -> web.Response:
    home = users.home(request)
    if request.query.get("full_info", "false").lower() == "true":
        return web.json_response(_info(path, home, users.version))
    return web.json_response(os.path.relpath(path, home))


@_answers
async def _get_file(users: Users, request: web.Request) -> web.StreamResponse:
    path = _find_existing(users, request)
    if not since(users.version, "0.28"):
        return web.FileResponse(path)
    headers = {"X-Content-Type-Options": "nosniff", "Content-Disposition": "attachment"}
    if since(users.version, "0.33") and path == users.home(request) / "user.css":
        headers |= {"Content-Type": "text/css", "Content-Disposition": "inline"}  # pages link to it
    else:
        kind = mimetypes.guess_type(path.name)[0] or _BYTES
        headers["Content-Type"] = _BYTES if _may_run_scripts(kind) else kind
    return web.FileResponse(path, headers=headers)


@_answers
async def _post_file(users: Users, request: web.Request) -> web.StreamResponse:
    path = _find(users, request)
    data = await request.read()
    _check_overwrite(request, path)
    try:
        path.write_bytes(data)
    except OSError:
        reason = 'Invalid filename. Please avoid special characters like :\\/*?"<>|'
        return web.Response(status=400, reason=reason)
    return _stored(users, request, path)


@_answers
async def _delete_file(users: Users, request: web.Request) -> web.StreamResponse:
    _find_existing(users, request).unlink()
    return web.Response(status=204)


@_answers
async def _move_file(users: Users, request: web.Request) -> web.StreamResponse:
    source, target = _find_existing(users, request), _find(users, request, "dest")
    _check_overwrite(request, target)
    shutil.move(source, target)
    return _stored(users, request, target)


USER_ROUTES: RouteTable[Users] = (
    ("GET", "/users", _get_users),
    ("POST", "/users", _post_users),
    ("GET", "/settings", _get_settings),
    ("GET", "/settings/{id}", _get_setting),
    ("POST", "/settings", _post_settings),
    ("POST", "/settings/{id}", _post_setting),
    ("GET", "/userdata", _list_files),
    ("GET", "/v2/userdata", _list_all),
    ("GET", "/userdata/{file}", _get_file),
    ("POST", "/userdata/{file}", _post_file),
    ("DELETE", "/userdata/{file}", _delete_file),
    ("POST", "/userdata/{file}/move/{dest}", _move_file),
)


def _info(path: Path, base: Path, version: Version) -> dict[str, Any]:
    is_whole = since(version, "0.28")  # milliseconds
    stat = path.stat()
    modified, created = stat.st_mtime, stat.st_ctime
    return {
        "path": path.relative_to(base).as_posix(),
        "size": stat.st_size,
        "modified": int(modified * 1000) if is_whole else modified,
        "created": int(created * 1000) if is_whole else created,
    }


def _entry(path: Path, home: Path) -> dict[str, Any]:
    entry = {"name": path.name, "path": path.relative_to(home).as_posix()}
    if path.is_dir():
        return {**entry, "type": "directory"}
    stat = path.stat()
    return {**entry, "type": "file", "size": stat.st_size, "modified": stat.st_mtime}


_TEMPLATES = "example_workflows"


async def _templates(state: ServerState, request: web.Request) -> web.Response:
    found: dict[str, list[str]] = {}
    for file in _files(state, _TEMPLATES):
        found.setdefault(file.parent.parent.name, []).append(file.stem)
    return web.json_response(found)


async def _template(state: ServerState, request: web.Request) -> web.StreamResponse:
    wanted = (request.match_info["pack"], request.match_info["name"])
    for file in _files(state, _TEMPLATES):
        if (file.parent.parent.name, file.name) == wanted:
            return web.FileResponse(file)
    return web.Response(status=404, content_type="application/octet-stream")


async def _translations(state: ServerState, request: web.Request) -> web.Response:
    found: dict[str, Any] = {}
    for file in _files(state, "locales/*"):
        words = json.loads(file.read_text(encoding="utf-8"))
        of_language = found.setdefault(file.parent.name, {})
        of_language |= words if file.stem == "main" else {file.stem: words}
    return web.json_response(found)


def _subgraphs(state: ServerState) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Return the file and the list entry of each subgraph of the node packs, by its id."""
    return {
        hashlib.sha256(f"custom_node{file}".encode()).hexdigest(): (
            file,
            {
                "source": "custom_node",
                "name": file.stem,
                "info": {"node_pack": f"custom_nodes.{file.parent.parent.name}"},
            },
        )
        for file in _files(state, "subgraphs")
    }


async def _all_subgraphs(state: ServerState, request: web.Request) -> web.Response:
    return web.json_response({key: entry for key, (_, entry) in _subgraphs(state).items()})


async def _subgraph(state: ServerState, request: web.Request) -> web.Response:
    found = _subgraphs(state).get(request.match_info["id"])
    if found is None:
        return web.json_response(None)
    file, entry = found
    return web.json_response({**entry, "data": file.read_text(encoding="utf-8")})


async def _extensions(state: ServerState, request: web.Request) -> web.Response:
    """List the scripts of the frontend and of node packs."""
    web_folder = state.folders.web
    own = sorted((web_folder / "extensions").glob("**/*.js"))
    found = [f"/{script.relative_to(web_folder).as_posix()}" for script in own]
    for name, folder in _web_folders(state).items():
        scripts = sorted(one for one in folder.glob("**/*.js") if is_inside(one, folder))
        paths = [script.relative_to(folder).as_posix() for script in scripts]
        found += [f"/extensions/{quote(name)}/{path}" for path in paths]
    return web.json_response(found)


async def extension(state: ServerState, request: web.Request) -> web.FileResponse:
    """Serve a frontend file of ComfyUI or of a node pack from below ``/extensions``."""
    pack, file = request.match_info["pack"], request.match_info["file"]
    folder = _web_folders(state).get(pack)
    if folder is None:  # one of the frontend's own
        folder, file = state.folders.web / "extensions", f"{pack}/{file}"
    path = folder / file
    if not is_inside(path, folder):
        raise web.HTTPNotFound
    if path.is_dir():
        raise web.HTTPForbidden
    return web.FileResponse(path)


EXTENSION_FILE = "/extensions/{pack}/{file:.+}"
PACK_ROUTES: RouteTable[ServerState] = (
    ("GET", "/workflow_templates", _templates),
    ("GET", "/i18n", _translations),
    ("GET", "/global_subgraphs", _all_subgraphs),
    ("GET", "/global_subgraphs/{id}", _subgraph),
    ("GET", "/extensions", _extensions),
)
#: A single template is served below ``/api`` only.
TEMPLATE: RouteTable[ServerState] = (("GET", "/api/workflow_templates/{pack}/{name}", _template),)


def _packs(state: ServerState) -> list[Path]:
    """Return the folders of the server's packs, and of those that were loaded from elsewhere."""
    root = state.folders.root / "custom_nodes"
    own = sorted(path for path in root.iterdir() if path.is_dir())
    return [*own, *(path for path in list(state.folders.packs) if path not in own)]


def _web_folders(state: ServerState) -> dict[str, Path]:
    """Return the packs' folders of frontend files, by the names under which they are served."""
    found = {}
    for pack in _packs(state):
        loaded = state.folders.packs.get(pack)
        folder_of_module = _of_module(pack) if loaded is None else loaded
        for name, folder in (_of_project(pack), (pack.name, folder_of_module)):
            if folder and (pack / folder).is_dir() and is_inside(pack / folder, pack):
                found[name] = Path(os.path.abspath(pack / folder))
    return found


def _of_project(pack: Path) -> tuple[str, str]:
    """Return a pack's name and web folder from ``pyproject.toml``, or two empty strings."""
    try:
        project = tomllib.loads((pack / "pyproject.toml").read_text(encoding="utf-8"))
        return str(project["project"]["name"]), str(project["tool"]["comfy"]["web"])
    except (OSError, ValueError, KeyError, TypeError):
        return "", ""


def _of_module(pack: Path) -> str:
    """Return ``WEB_DIRECTORY`` from ``__init__.py`` if it is a string literal, else ``""``."""
    try:
        module = ast.parse((pack / "__init__.py").read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError):
        return ""
    folder = ""
    for line in module.body:
        if isinstance(line, ast.Assign) and isinstance(line.value, ast.Constant):
            names = [target.id for target in line.targets if isinstance(target, ast.Name)]
            if "WEB_DIRECTORY" in names and isinstance(line.value.value, str):
                folder = line.value.value
    return folder


def _files(state: ServerState, folder: str) -> Iterator[Path]:
    """Yield the JSON files in a folder of each pack, except links that lead out of the pack."""
    for pack in _packs(state):
        for file in sorted(pack.glob(f"{folder}/*.json")):
            if is_inside(file, pack):
                yield file
