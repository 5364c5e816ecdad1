"""Routes of Comfy API v2 for assets: the files that a client uploads, and the outputs of jobs.

The URLs of files' contents, too, and the bytes there.
"""

from __future__ import annotations

import io
import json
import mimetypes
import os
import posixpath
import re
import time
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

import attrs
from aiohttp import BodyPartReader, web

from ..files import store_upload
from ..folders import MODEL_FOLDERS, NEW_MODEL_FOLDERS, Folders, is_inside
from ..server_state import RouteTable
from .hosted_state import MODELS, AssetRecord, HostedState, StoredFile, digest, now
from .v2_errors import Refusal, invalid, json_body

_RANGE = re.compile(r"bytes=([0-9]{0,19})-([0-9]{0,19})", re.IGNORECASE)


def content_url(hosted: HostedState, asset_id: str, base: str) -> tuple[str, str]:
    """Return the URL of a file's content, and the time at which it expires."""
    if not hosted.traps.storage:
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


_BYTES = "application/octet-stream"
#: The folders of models that the proxy knows: those of ComfyUI but three.
_ROOTS = {*MODEL_FOLDERS, *NEW_MODEL_FOLDERS} - {"configs", "custom_nodes", "detection"}


@attrs.define
class _Upload:
    """The parts of a multipart upload."""

    data: bytes | None = None
    content_type: str = _BYTES
    fields: dict[str, str] = attrs.field(factory=dict)


@attrs.frozen
class _Image:
    """An uploaded file in the form that ComfyUI's upload route reads."""

    filename: str
    file: io.BytesIO


async def _post_asset(hosted: HostedState, request: web.Request) -> web.Response:
    if not request.content_type.startswith("multipart/"):
        raise invalid("Expected multipart/form-data.")
    upload = await _parts(request, hosted.comfy.options.max_upload_size)
    if upload.data is None:
        raise invalid("Missing 'file' part.")
    wanted = upload.fields.get("file_path")
    if not wanted:
        raise invalid("Missing 'file_path'.")
    model, place = _place(wanted)
    found = digest(upload.data)
    if (upload.fields.get("expected_hash") or found).lower() != found:
        raise Refusal("hash_mismatch")
    known = hosted.memory.by_hash(found)
    if known is not None and hosted.traps.shares_records:
        return _answer(hosted, request, known, 200)
    if known is not None:
        ref = known.ref
    elif model:
        ref = _placed_model(hosted, place, upload.data)
    else:
        await hosted.reach(request, "upstream_error", "Failed to reach ComfyUI for upload.")
        ref = _uploaded(hosted, place, upload.data)
    asset = AssetRecord(
        id=str(uuid.uuid4()),
        hash=found,
        size_bytes=len(upload.data),
        content_type=upload.fields.get("content_type") or upload.content_type,
        file_path=ref.in_workflow if model else wanted,
        ref=ref,
    )
    hosted.memory.add(asset)
    return _answer(hosted, request, asset, 201)


async def _parts(request: web.Request, most: int) -> _Upload:
    upload = _Upload()
    try:
        reader = await request.multipart()
    except (ValueError, AssertionError):
        raise invalid("Malformed multipart body.") from None
    async for part in reader:  # an error in a part is answered with 500, as by the proxy
        if not isinstance(part, BodyPartReader) or part.name is None:
            continue
        if part.name != "file":
            try:
                upload.fields[part.name] = (await part.text()).strip()
            except (ValueError, LookupError):
                raise Refusal("invalid_request", f"{part.name!r} is no text.") from None
            continue
        upload.content_type = part.headers.get("Content-Type", _BYTES)
        content = bytearray()
        while piece := await part.read_chunk(2**16):
            content += piece
            if len(content) > most:
                raise Refusal("payload_too_large", f"Upload exceeds {most} bytes.")
        upload.data = bytes(content)
    return upload


def _place(wanted: str) -> tuple[bool, str]:
    """Return whether a path is a model's, and the path below its root; refuse an invalid path."""
    path = wanted.removeprefix("models/")
    parts = PurePosixPath(path).parts
    if wanted.startswith(("/", "\\")):
        message = f"file_path must be relative: {wanted!r}"
    elif not parts:
        message = f"file_path must include a filename: {wanted!r}"
    elif ".." in parts:
        message = f"file_path must not contain '..': {wanted!r}"
    elif len(parts) > 1 and parts[0] not in {"input", *_ROOTS}:
        allowed = sorted({"input", *_ROOTS})
        message = f"'{parts[0]}' is not an allowlisted placement root (allowed: {allowed})"
    elif len(parts) > 1 and parts[0] in _ROOTS:
        return True, path
    else:
        return False, posixpath.join(*parts[1:]) if len(parts) > 1 else path
    raise invalid(message)


def _uploaded(hosted: HostedState, place: str, data: bytes) -> StoredFile:
    post = {
        "image": _Image(posixpath.basename(place), io.BytesIO(data)),
        "subfolder": posixpath.dirname(place),
    }
    rejected = Refusal("upstream_error", "ComfyUI rejected the upload.")
    try:
        answer = store_upload(hosted.comfy.folders, post, lambda raw, path: path.write_bytes(raw))
    except (OSError, ValueError):
        raise rejected from None
    if answer.status != 200:
        raise rejected
    stored = json.loads(answer.text or "{}")
    return StoredFile(stored["name"], stored["subfolder"], "input")


def _placed_model(hosted: HostedState, place: str, data: bytes) -> StoredFile:
    if not hosted.traps.places_models:
        raise invalid(
            "Model-directory placement requires the proxy to run co-located "
            "with ComfyUI (start it with --comfyui-base-dir)."
        )
    if not _is_safetensors(data):
        raise invalid("Model uploads must be valid safetensors files (header check failed).")
    root = hosted.comfy.folders.root / "models"
    path = root / place
    if not is_inside(path, root):  # a link leads away
        raise invalid(f"path escapes the allowed root {str(root)!r}")
    if path.exists():
        raise invalid(f"refusing to overwrite existing file: {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return StoredFile(posixpath.basename(place), posixpath.dirname(place), MODELS)


def _is_safetensors(data: bytes) -> bool:
    size = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + size])
    except ValueError:
        return False
    return 0 < size <= len(data) - 8 and isinstance(header, dict)


def _answer(
    hosted: HostedState, request: web.Request, asset: AssetRecord, status: int
) -> web.Response:
    body = _described(hosted, asset, hosted.base(request)) | {"created_new": status == 201}
    return web.json_response(body, status=status)


def _described(hosted: HostedState, asset: AssetRecord, base: str) -> dict[str, Any]:
    url, expires = content_url(hosted, asset.id, base)
    return {
        "id": asset.id,
        "hash": asset.hash,
        "size_bytes": asset.size_bytes,
        "content_type": asset.content_type,
        "file_path": asset.file_path,
        "created_at": asset.created_at.isoformat(),
        "url": url,
        "url_expires_at": expires,
    }


async def _from_hash(hosted: HostedState, request: web.Request) -> web.Response:
    body = await json_body(request)
    if not isinstance(body.get("hash"), str):
        raise invalid("Missing 'hash'.")
    known = hosted.memory.by_hash(body["hash"])
    if known is None:
        raise Refusal("blob_not_found")
    if hosted.traps.shares_records:
        return _answer(hosted, request, known, 200)
    given = body.get("file_path") or known.file_path
    asset = attrs.evolve(known, id=str(uuid.uuid4()), file_path=given, created_at=now())
    hosted.memory.add(asset)
    return _answer(hosted, request, asset, 201)


async def _head_hash(hosted: HostedState, request: web.Request) -> web.Response:
    known = hosted.memory.by_hash(request.match_info["hash"])
    return web.Response(status=404 if known is None else 200)


async def _get_asset(hosted: HostedState, request: web.Request) -> web.Response:
    asset_id, base = request.match_info["id"], hosted.base(request)
    asset = hosted.memory.assets.get(asset_id)
    if asset is not None:
        return web.json_response(_described(hosted, asset, base))
    ref = hosted.memory.output(asset_id)
    if ref is None:
        raise Refusal("not_found")
    path, traps = path_of(hosted.comfy.folders, ref), hosted.traps
    url, expires = content_url(hosted, asset_id, base)
    return web.json_response(
        {
            "id": asset_id,
            "hash": digest(path.read_bytes()) if path and traps.true_hashes else None,
            "size_bytes": path.stat().st_size if path and traps.true_sizes else 0,
            "content_type": content_type(ref.filename),
            "file_path": ref.filename,
            "created_at": now().isoformat(),
            "url": url,
            "url_expires_at": expires,
            "job_id": ref.job_id,
        }
    )


async def _get_content(hosted: HostedState, request: web.Request) -> web.StreamResponse:
    asset_id = request.match_info["id"]
    ref = hosted.file_of(asset_id)
    if ref is None:
        raise Refusal("not_found")
    if hosted.traps.storage:
        return web.Response(status=302, headers={"Location": storage_url(hosted, asset_id)[0]})
    await hosted.reach(request, "upstream_error", "Failed to reach ComfyUI for content.")
    path = path_of(hosted.comfy.folders, ref)
    if path is None:
        raise Refusal("output_unavailable")
    found = content(request, path, content_type(ref.filename))
    if found is None:
        message = "ComfyUI returned an unexpected status for the output."
        raise Refusal("upstream_error", message, status=hosted.traps.bad_range)
    return found


async def _delete_asset(hosted: HostedState, request: web.Request) -> web.Response:
    if not hosted.memory.delete(request.match_info["id"]):
        raise Refusal("not_found")
    return web.Response(status=204)


async def _from_path(hosted: HostedState, request: web.Request) -> web.Response:
    """Make an asset of a file on the server's disk, in one of ComfyUI's folders."""
    if not hosted.traps.places_models:
        raise invalid(
            "Host-path registration requires --comfyui-base-dir "
            "(the proxy must share a filesystem with ComfyUI)."
        )
    body = await json_body(request)
    given = body.get("path")
    if not isinstance(given, str) or not given:
        raise invalid("Missing 'path' (absolute host path).")
    path = Path(given.partition("\0")[0]).resolve()
    if "\0" in given or not path.is_file():
        raise Refusal("blob_not_found", "Host path does not exist.")
    root = hosted.comfy.folders.root.resolve()
    if not path.is_relative_to(root):
        raise invalid("Host path must resolve under --comfyui-base-dir.")
    kind, *parts = path.relative_to(root).parts
    if kind not in ("input", "output", "temp") or not parts:
        raise invalid("Host path must be under input/, output/, temp/, or models/.")
    data = path.read_bytes()
    known = hosted.memory.by_hash(digest(data))
    if known is not None:
        return _answer(hosted, request, known, 200)
    ref = StoredFile(parts[-1], "/".join(parts[:-1]), kind)
    asset = AssetRecord(
        id=str(uuid.uuid4()),
        hash=digest(data),
        size_bytes=len(data),
        content_type=body.get("content_type") or content_type(path.name),
        file_path=body.get("file_path") or "/".join((kind, *parts)),
        ref=ref,
    )
    hosted.memory.add(asset)
    return _answer(hosted, request, asset, 201)


ASSET_V2_ROUTES: RouteTable[HostedState] = (
    ("POST", "/assets", _post_asset),
    ("POST", "/assets/from-hash", _from_hash),
    ("POST", "/assets/from-path", _from_path),
    ("HEAD", "/assets/by-hash/{hash}", _head_hash),
    ("GET", "/assets/{id}", _get_asset),
    ("GET", "/assets/{id}/content", _get_content),
    ("DELETE", "/assets/{id}", _delete_asset),
)
