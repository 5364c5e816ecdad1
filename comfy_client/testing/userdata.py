"""Routes for users, their settings and their files."""

from __future__ import annotations

import glob
import json
import os
import re
import shutil
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from aiohttp import web

from .folders import is_inside
from .server_state import Routes

_SYSTEM = "__"  # the beginning of names that no user may have
_SETTINGS = "comfy.settings.json"


class Users:
    """The users of a server, and the folders of their files."""

    def __init__(self, root: Path, *, multi: bool, newest: bool) -> None:
        self.root = root
        self.multi = multi
        #: Whether to send times in whole milliseconds, and downloads as attachments.
        self.newest = newest
        self.names: dict[str, str] = {} if multi else {"default": "default"}

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
        return {}
    return settings


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
    settings = _load(users, request)
    return _save(users, request, {**settings, **await request.json()})


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
        return web.json_response([_info(file, path, users.newest) for file in files])
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
        return web.json_response(_info(path, home, users.newest))
    return web.json_response(os.path.relpath(path, home))


@_answers
async def _get_file(users: Users, request: web.Request) -> web.StreamResponse:
    path, headers = _find_existing(users, request), {}
    if users.newest:
        headers["X-Content-Type-Options"] = "nosniff"
        if path != users.home(request) / "user.css":  # which pages link to
            headers["Content-Disposition"] = "attachment"
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


USER_ROUTES: Routes[Users] = (
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


def _info(path: Path, base: Path, newest: bool) -> dict[str, Any]:
    stat = path.stat()
    modified, created = stat.st_mtime, stat.st_ctime
    return {
        "path": path.relative_to(base).as_posix(),
        "size": stat.st_size,
        "modified": int(modified * 1000) if newest else modified,
        "created": int(created * 1000) if newest else created,
    }


def _entry(path: Path, home: Path) -> dict[str, Any]:
    entry = {"name": path.name, "path": path.relative_to(home).as_posix()}
    if path.is_dir():
        return {**entry, "type": "directory"}
    stat = path.stat()
    return {**entry, "type": "file", "size": stat.st_size, "modified": stat.st_mtime}
