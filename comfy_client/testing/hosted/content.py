"""The URLs of files' contents, and the bytes there."""

from __future__ import annotations

import mimetypes
import os
import re
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

from aiohttp import web

from ..folders import Folders, is_inside
from .hosted_state import HostedState
from .memory import MODELS, StoredFile, now

_RANGE = re.compile(r"bytes=([0-9]{0,19})-([0-9]{0,19})", re.IGNORECASE)


def content_url(hosted: HostedState, asset_id: str, base: str) -> tuple[str, str]:
    """Return the URL of a file's content, and the time at which it expires."""
    traps = hosted.traps
    if not traps.storage:
        until = now() + timedelta(seconds=24 * 3600)
        return f"{base}/api/v2/assets/{asset_id}/content", until.isoformat()
    return storage_url(hosted, asset_id)


def storage_url(hosted: HostedState, asset_id: str) -> tuple[str, str]:
    """Return a signed URL of the storage, and the time at which it expires."""
    expires = time.time() + hosted.traps.url_seconds
    signature = hosted.memory.sign(f"{asset_id} {expires}")
    url = f"{hosted.storage_url}/storage/{quote(asset_id)}?expires={expires}&signature={signature}"
    return url, datetime.fromtimestamp(expires, UTC).isoformat()


def path_of(folders: Folders, ref: StoredFile | None) -> Path | None:
    """Return the path of a file in ComfyUI's folders, or None if there is no such file."""
    if ref is None:
        return None
    root = folders.root / "models" if ref.type == MODELS else folders.of_type(ref.type)
    if root is None:
        return None
    found = root / ref.subfolder / os.path.basename(ref.filename)
    # Unlike Path.is_file(), isfile() accepts a name that is too long.
    return found if is_inside(found, root) and os.path.isfile(found) else None


def content_type(name: str) -> str:
    """Return the MIME type of a file by its name."""
    return mimetypes.guess_type(name)[0] or "application/octet-stream"


def parse_range(header: str, size: int) -> tuple[int, int] | None:
    """Return the first byte of a range and the one after its end, or None for any other header."""
    found = _RANGE.fullmatch(header)
    if not found or not any(found.groups()):
        return None
    first, last = found.groups()
    if not first:  # the last 0 bytes are the whole file, as for aiohttp
        start, end = max(0, size - (int(last) or size)), size
    else:
        start, end = int(first), min(int(last) + 1, size) if last else size
    return (start, end) if start < end else None


def content(request: web.Request, path: Path, kind: str) -> web.Response | None:
    """Return the content of a file, or a range of it; None if the range cannot be satisfied."""
    size = path.stat().st_size
    headers = {"Accept-Ranges": "bytes", "Content-Type": kind}
    wanted = request.headers.get("Range")
    if wanted is None:
        return web.Response(body=path.read_bytes(), headers=headers)
    part = parse_range(wanted, size)
    if part is None:
        return None
    start, end = part
    with path.open("rb") as file:
        file.seek(start)
        data = file.read(end - start)
    headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    return web.Response(status=206, body=data, headers=headers)
