"""The parts of a running hosted surface, which its routes share, and its memory.

A restart empties the memory unless the surface keeps its state.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import os
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib import import_module
from typing import Any

import attrs
from aiohttp import web

from ..server_state import ServerState
from .traps import HostedKind, HostedTraps
from .v2_errors import Refusal


def digest(data: bytes) -> str:
    """Return ``blake3:`` and the BLAKE3 digest of the data in hexadecimal.

    Without the library ``blake3``, it is a digest of BLAKE2s, as no client here can check it then.
    """
    try:
        blake3: Any = import_module("blake3").blake3
    except ModuleNotFoundError:
        return f"blake3:{hashlib.blake2s(data).hexdigest()}"
    return f"blake3:{blake3(data).hexdigest()}"


#: The type of files in the folders of models.
MODELS = "models"
_KEYS = 10_000  # keys of submissions that are remembered


def now() -> datetime:
    """Return the time, in UTC."""
    return datetime.now(UTC)


@attrs.frozen
class StoredFile:
    """A file of the ComfyUI behind the surface, and the id of the job that made it, if any."""

    filename: str
    subfolder: str
    type: str
    job_id: str | None = None

    @property
    def in_workflow(self) -> str:
        """The name of the file in a workflow; a model's name lacks the folder of its kind."""
        _, _, inner = self.subfolder.partition("/")
        subfolder = inner if self.type == MODELS else self.subfolder
        return f"{subfolder}/{self.filename}" if subfolder else self.filename


@attrs.define
class JobRecord:
    """A job that was submitted through the surface."""

    id: str
    workflow: Mapping[str, Any]
    metadata: Any = None
    priority: int | None = None
    #: How often its state was requested.
    looks: int = 0
    created_at: datetime = attrs.field(factory=now)


@attrs.frozen
class AssetRecord:
    """An asset that was uploaded."""

    id: str
    hash: str
    size_bytes: int
    content_type: str
    file_path: str
    ref: StoredFile
    created_at: datetime = attrs.field(factory=now)


class Memory:
    """The jobs, keys, assets and ids of outputs of a surface, for the server's own thread only."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Forget everything; ids made before are not accepted any more."""
        self.jobs: dict[str, JobRecord] = {}
        self.assets: dict[str, AssetRecord] = {}
        #: Jobs that were cancelled through the surface.
        self.cancelled: set[str] = set()
        #: How often each job that was seen to have ended is still falsely reported as unknown.
        self.ended: dict[str, int] = {}
        self._keys: dict[str, None] = {}
        self._asset_ids: dict[str, str] = {}  # by hash
        self._outputs: dict[str, StoredFile] = {}  # by UUID
        self._secret = os.urandom(32)

    # -- keys ---------------------------------------------------------------------------

    def claim(self, key: str) -> bool:
        """Remember the key of a submission; return False if it was used before."""
        if key in self._keys:
            return False
        self._keys[key] = None
        if len(self._keys) > _KEYS:
            del self._keys[next(iter(self._keys))]
        return True

    def free(self, key: str | None) -> None:
        """Allow a key to be used again, after its submission was refused."""
        self._keys.pop(key or "", None)

    # -- assets -------------------------------------------------------------------------

    def add(self, asset: AssetRecord) -> None:
        """Add an asset; :meth:`by_hash` returns the first one with the same bytes."""
        self.assets[asset.id] = asset
        self._asset_ids.setdefault(asset.hash, asset.id)

    def by_hash(self, digest: Any) -> AssetRecord | None:
        """Return the first asset with this hash, or None."""
        return self.assets.get(self._asset_ids.get(digest, "")) if isinstance(digest, str) else None

    def delete(self, asset_id: str) -> bool:
        """Delete an asset; return False if there is none."""
        asset = self.assets.pop(asset_id, None)
        if asset is None:
            return False
        if self._asset_ids.get(asset.hash) == asset_id:
            del self._asset_ids[asset.hash]
        return True

    # -- outputs ------------------------------------------------------------------------

    def output_id(self, ref: StoredFile, *, is_uuid: bool) -> str:
        """Return the id of an output: a UUID, or a token that only this memory accepts."""
        fields = {"j": ref.job_id, "f": ref.filename, "s": ref.subfolder, "t": ref.type}
        raw = json.dumps(fields).encode()
        if is_uuid:
            made = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{self._secret.hex()}{raw!r}"))
            self._outputs[made] = ref
            return made
        payload = _base64(raw)
        return f"{payload}.{self.sign(payload)}"

    def output(self, output_id: str) -> StoredFile | None:
        """Return the file of an output, or None if this memory did not make its id."""
        known = self._outputs.get(output_id)
        if known is not None:
            return known
        payload, _, signature = output_id.partition(".")
        if not is_same(signature, self.sign(payload)):
            return None
        ref = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return StoredFile(ref["f"], ref["s"], ref["t"], ref["j"])

    def sign(self, text: str) -> str:
        """Return the signature of a text, which only this memory can make."""
        data = text.encode(errors="surrogateescape")
        return _base64(hmac.new(self._secret, data, hashlib.sha256).digest())


def is_same(given: str, wanted: str) -> bool:
    """Return whether a text in a request equals a secret one, in constant time."""
    return hmac.compare_digest(given.encode(errors="surrogateescape"), wanted.encode())


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


_POLL = 0.01  # seconds between two looks at a ComfyUI that does not answer


@attrs.define(eq=False)
class HostedState:
    """A hosted surface, and the ComfyUI behind it."""

    place: HostedKind
    memory: Memory
    comfy: ServerState
    prefix: str
    token: str | None
    #: The URL of ComfyUI, as the surface reports it.
    upstream_url: str
    storage_url: str
    _traps: Callable[[], HostedTraps]
    #: The number of open event streams.
    streams: int = 0

    @property
    def traps(self) -> HostedTraps:
        """The traps that are set now."""
        return self._traps()

    def base(self, request: web.Request) -> str:
        """Return the beginning of the URLs in the answer to a request."""
        if self.traps.relative_urls:
            return self.prefix
        return f"{request.scheme}://{request.host}{self.prefix}"

    async def reach(
        self,
        request: web.Request,
        code: str = "upstream_unreachable",
        message: str | None = None,
    ) -> None:
        """Wait until the ComfyUI behind the surface answers; raise Refusal if it is unreachable.

        Raises:
            ConnectionResetError: The client has disconnected before ComfyUI answers.
        """
        while self.traps.upstream == "dark":
            if request.transport is None or request.transport.is_closing():
                raise ConnectionResetError("the client has left")
            await asyncio.sleep(_POLL)
        if self.traps.upstream == "down":
            raise Refusal(code, message)

    def file_of(self, asset_id: str) -> StoredFile | None:
        """Return the file of an asset or an output by its id, or None."""
        asset: AssetRecord | None = self.memory.assets.get(asset_id)
        return asset.ref if asset else self.memory.output(asset_id)


def job_id_of(request: web.Request) -> str:
    """Return the job id in a request's path; raise Refusal if it is not a UUID."""
    job_id = request.match_info["id"]
    try:
        uuid.UUID(job_id)
    except ValueError:
        raise no_job(job_id) from None
    return job_id


def no_job(job_id: str) -> Refusal:
    """Return the refusal for a job that the surface does not know."""
    return Refusal("not_found", f"No job {job_id}.")
