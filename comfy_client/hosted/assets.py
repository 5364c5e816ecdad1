"""Uploads of files as assets of Comfy API v2."""

from __future__ import annotations

import math
import mimetypes
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any, Final, Protocol

import attrs

from ..errors import Conflict, NotFound, NotSupported
from ..models.files import UploadedImage
from ..reading import in_time
from ..routes.uploads import Uploader
from ..showing.transfers import shown_transfer
from ..transport.deadline import Deadline
from ..upload import Content, FileChanged, FileState, OpenContent, Upload, opened
from .models import Asset
from .routes import HostedRoutes

if TYPE_CHECKING:
    from ..transport.multipart import OnProgress

#: The most uploads that are remembered.
_MOST: Final = 1000
#: The most attempts to send a file that changes meanwhile.
_TRIES: Final = 3


class Hasher(Protocol):
    """A hash function that gets its input piece by piece."""

    def update(self, data: bytes | memoryview, /) -> object:
        """Add bytes to the input."""

    def hexdigest(self) -> str:
        """Return the hash of the input so far, in hexadecimal digits."""


def new_hasher() -> Hasher | None:
    """Return a new BLAKE3 hasher; None if the extra ``[hosted]`` is not installed."""
    try:
        from blake3 import blake3
    except ImportError:
        return None
    hasher: Hasher = blake3()
    return hasher


def hash_of(content: Content | OpenContent) -> str | None:
    """Return the hash of some content as ``blake3:...``; None without the extra ``[hosted]``."""
    hasher = new_hasher()
    if hasher is None:
        return None
    with opened(content) as found:
        for piece in in_time(found):
            hasher.update(piece)
    return f"blake3:{hasher.hexdigest()}"


@attrs.frozen
class UploadedAsset(UploadedImage):
    """An uploaded file, which is an asset of Comfy API v2.

    Attributes:
        name: The file's name on the server; perhaps that of an earlier upload of the same bytes.
        subfolder: The folder below ``input`` that the caller asked for.
        type: ``input``.
        raw: The JSON object of the asset as received.
    """

    @property
    def ref(self) -> Any:
        """The value for an input of a workflow: a reference to the asset."""
        return Asset.from_json(self.raw).reference


class KnownAssets:
    """The assets that a client has uploaded, by file name and folder, with the file's version."""

    def __init__(self) -> None:
        # Needs no lock, which a fork could leave held, as each change of a dict is atomic.
        self._known: dict[tuple[str, str], tuple[object, Asset]] = {}

    def get(self, key: tuple[str, str], version: object) -> Asset | None:
        """Return the asset for a name and folder if its file has this version; else None."""
        known, asset = self._known.get(key, (None, None))
        return asset if known is not None and known == version else None

    def put(self, key: tuple[str, str], version: object, asset: Asset) -> None:
        """Remember the asset for a name and folder; forget it if ``version`` is None (unknown)."""
        self._known.pop(key, None)
        if version is None:
            return
        self._known[key] = version, asset
        for oldest in [*self._known][:-_MOST]:
            self._known.pop(oldest, None)


@attrs.frozen(eq=False)
class AssetUploader:
    """An uploader of files as assets, with one deadline for all its requests."""

    routes: HostedRoutes
    known: KnownAssets
    deadline: Deadline = attrs.field(factory=Deadline)
    on_progress: OnProgress | None = None

    def send(self, upload: Upload) -> UploadedAsset:
        """Upload a file, unless the server already has its bytes, and return the asset.

        Raises:
            FileChanged: The file changed during each attempt to send it.
        """
        for _ in range(_TRIES - 1):
            with suppress(FileChanged):
                return self._send(upload)
        return self._send(upload)

    def _send(self, upload: Upload) -> UploadedAsset:
        asset = None
        if upload.remote is not None:
            state = upload.state()  # of what was fetched before
            if state is None:
                asset = self._by_hash(upload, *_told(upload))
            else:
                asset = self._existing(upload, state)
        if asset is None:
            asset = self._sent(upload)
        name = (asset.file_path or upload.name or "file").rpartition("/")[2]
        return UploadedAsset(name, upload.subfolder, "input", asset.raw)

    def _sent(self, upload: Upload) -> Asset:
        """Read a file, send it unless the server has its bytes, and return the asset."""
        fetcher = Uploader(self.routes.http, {}, deadline=self.deadline)
        with fetcher.content_of(upload) as content:
            state = upload.state_of(content)
            asset = self._existing(upload, state)
            if asset is not None:
                return asset
            found = hash_of(content)
            asset = self._by_hash(upload, found, state.name)
            if asset is None:
                asset = self._post(upload, content, state.name, found)
            if content.has_changed():
                raise FileChanged("the file changed while it was sent")
        self.known.put((state.name, upload.subfolder), state.version, asset)
        return asset

    def _existing(self, upload: Upload, state: FileState) -> Asset | None:
        """Return the asset of an earlier upload of the file; None if the server has none."""
        asset = self.known.get((state.name, upload.subfolder), state.version)
        if asset is None:
            return None
        try:
            return self.routes.asset(asset.id, timeout=self._short)
        except NotFound:
            return None

    def _by_hash(self, upload: Upload, hash: str | None, name: str) -> Asset | None:
        """Return an asset for the bytes with a hash; None if the server lacks them or cannot tell.

        None also if ``hash`` is None.
        """
        if hash is None:
            return None
        path = _file_path(upload, name)
        try:
            return self.routes.from_hash(hash, path, timeout=self._short)
        except (NotFound, NotSupported):
            return None

    def _post(self, upload: Upload, content: OpenContent, name: str, hash: str | None) -> Asset:
        shown = shown_transfer("upload", name, self.routes.http.show)
        left = None if math.isinf(self.deadline.at) else self.deadline.left()
        with nullcontext(self.on_progress) if self.on_progress else shown as on_progress:
            try:
                return self.routes.upload(
                    content,
                    _file_path(upload, name),
                    content_type=mimetypes.guess_type(name)[0] or "application/octet-stream",
                    expected_hash=hash,
                    timeout=left,
                    on_progress=on_progress,
                )
            except Conflict as exc:
                if exc.reason != "hash_mismatch":
                    raise
                raise FileChanged("the file changed before it was sent") from exc

    @property
    def _short(self) -> float:
        """The timeout of a request that sends no file, in seconds."""
        return self.deadline.left(self.routes.http.total_timeout)


def _told(upload: Upload) -> tuple[str | None, str]:
    """Return the hash that a server reported for an output, or None, and the file's name."""
    source = upload.remote
    raw = getattr(source, "raw", None)
    told = raw.get("hash") if isinstance(raw, Mapping) else None
    is_one = isinstance(told, str) and told.startswith("blake3:")
    return told if is_one else None, upload.name or getattr(source, "filename", None) or "file"


def _file_path(upload: Upload, name: str) -> str:
    """Return the path to ask for in an upload; if it has a folder, it begins with ``input/``.

    Servers interpret any other first folder as a folder of models.
    """
    folder = upload.subfolder.replace("\\", "/").strip("/")
    return f"input/{folder}/{name}" if folder else name
