"""Uploads of files as assets of Comfy API v2."""

from __future__ import annotations

import hashlib
import math
import mimetypes
import os
import re
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import attrs

from ..errors import ApiError, Conflict, NotFound, NotSupported
from ..models.files import UploadedImage
from ..reading import in_time
from ..routes.uploads import MOST_REMEMBERED_UPLOADS, Uploader
from ..showing.transfers import shown_transfer
from ..transport.deadline import Deadline
from ..upload import Content, FileChanged, FileState, OpenContent, Upload, opened
from .models import Asset
from .routes import HostedRoutes

if TYPE_CHECKING:
    from ..transport.multipart import OnProgress

#: The most attempts to send a file that changes meanwhile.
_TRIES: Final = 3
#: The length of the digest in a name, in hexadecimal digits: 128 bits.
_DIGITS: Final = 32
#: The form of a hash in Comfy API v2.
_BLAKE3: Final = "blake3:[0-9a-f]{64}"
#: The most bytes of a file's own name, and the most characters of its extension, in a name.
_STEM: Final = 130
_ENDING: Final = 20


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


class Digests(NamedTuple):
    """The digest of some content, by one of two hash functions."""

    sha256: str  #: Empty with the extra ``[hosted]``.
    hash: str | None  #: ``blake3:...``; None without the extra.


def digests_of(content: Content | OpenContent, version: object = None) -> Digests:
    """Return the digest of some content, which is read once at most.

    ``version`` is the content's SHA-256, if it is a ``str``.
    """
    blake3 = new_hasher()
    if blake3 is None and isinstance(version, str):
        return Digests(version, None)
    hasher = blake3 or hashlib.sha256()
    with opened(content) as found:
        for piece in in_time(found):
            hasher.update(piece)
    digits = hasher.hexdigest()
    return Digests(digits, None) if blake3 is None else Digests("", f"blake3:{digits}")


@attrs.frozen
class UploadedAsset(UploadedImage):
    """An uploaded file, which is an asset of Comfy API v2.

    Attributes:
        name: The file's name on the server, with a digest of the content, unless the caller chose
            another name than that of the local file; perhaps the name of an earlier upload of the
            same bytes.
        subfolder: The folder below ``input`` that the caller asked for.
        type: ``input``.
        raw: The JSON object of the asset as received.
    """

    @property
    def ref(self) -> Any:
        """The value for an input of a workflow: a reference to the asset."""
        return Asset.from_json(self.raw).reference


class KnownAssets:
    """The assets that a client has uploaded, by file name and folder, with the file's version.

    And their names on the server, as far as no other content can have them.
    """

    def __init__(self) -> None:
        # Needs no lock, which a fork could leave held, as each change of a dict is atomic.
        self._known: dict[tuple[str, str], tuple[object, Asset]] = {}
        self._names: dict[str, str] = {}

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
        for oldest in [*self._known][:-MOST_REMEMBERED_UPLOADS]:
            self._known.pop(oldest, None)

    def name_of(self, asset_id: str) -> str | None:
        """Return the name of an asset for an input; None if another file may have that name."""
        return self._names.get(asset_id)

    def put_name(self, asset: Asset, digests: Digests) -> None:
        """Remember the name of an asset, if it contains a digest of the asset's content.

        Any other name may be that of another file: a server stores a second ``photo.png`` as
        ``photo (1).png``, and does not tell.
        """
        folder, _, name = (asset.file_path or "").rpartition("/")
        own = (_digits(digest) for digest in (digests.sha256, digests.hash, asset.hash))
        if not any(digits and digits in name for digits in own):
            return
        if folder.partition("/")[0] not in ("", "input"):
            return  # a model
        self._names.pop(asset.id, None)
        self._names[asset.id] = UploadedImage(name, folder.removeprefix("input")).ref
        for oldest in [*self._names][:-MOST_REMEMBERED_UPLOADS]:
            self._names.pop(oldest, None)


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
            asset = self._told(upload) if state is None else self._existing(upload, state)
        if asset is None:
            asset = self._sent(upload)
        name = (asset.file_path or upload.name or "file").rpartition("/")[2]
        return UploadedAsset(name, upload.subfolder, "input", asset.raw)

    def _told(self, upload: Upload) -> Asset | None:
        """Return an asset for an output whose hash the server has told; None for any other file."""
        source = upload.remote
        raw = getattr(source, "raw", None)
        told = raw.get("hash") if isinstance(raw, Mapping) else None
        if not isinstance(told, str) or not re.fullmatch(_BLAKE3, told):
            return None
        name = upload.name or getattr(source, "filename", None) or "file"
        try:
            return self._by_hash(upload, name, Digests("", told))
        except ApiError as exc:
            if exc.status not in (400, 422):
                raise
            return None  # the server tells hashes that it does not take

    def _sent(self, upload: Upload) -> Asset:
        """Read a file, send it unless the server has its bytes, and return the asset."""
        with Uploader(self.routes.http, {}, deadline=self.deadline).content_of(upload) as content:
            state = upload.state_of(content)
            asset = self._existing(upload, state)
            if asset is not None:
                return asset
            digests = digests_of(content, state.version)
            asset = self._by_hash(upload, state.name, digests)
            if asset is None:
                asset = self._post(upload, content, state.name, digests)
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

    def _by_hash(self, upload: Upload, name: str, digests: Digests) -> Asset | None:
        """Return an asset for the bytes with a hash; None if the server lacks them or cannot tell.

        None also if the hash is not known.
        """
        if digests.hash is None:
            return None
        path = self._file_path(upload, name, digests)
        try:
            asset = self.routes.from_hash(digests.hash, path, timeout=self._short)
        except (NotFound, NotSupported):
            return None
        self.known.put_name(asset, digests)
        return asset

    def _post(self, upload: Upload, content: OpenContent, name: str, digests: Digests) -> Asset:
        shown = shown_transfer("upload", name, self.routes.http.show)
        left = None if math.isinf(self.deadline.at) else self.deadline.left()
        with nullcontext(self.on_progress) if self.on_progress else shown as on_progress:
            try:
                asset = self.routes.upload(
                    content,
                    self._file_path(upload, name, digests),
                    content_type=mimetypes.guess_type(name)[0] or "application/octet-stream",
                    expected_hash=digests.hash,
                    timeout=left,
                    on_progress=on_progress,
                )
            except Conflict as exc:
                if exc.reason != "hash_mismatch":
                    raise
                raise FileChanged("the file changed before it was sent") from exc
        self.known.put_name(asset, digests)
        return asset

    def _file_path(self, upload: Upload, name: str, digests: Digests) -> str:
        """Return the path to ask for in an upload; if it has a folder, it begins with ``input/``.

        Servers interpret any other first folder as a folder of models.
        """
        if not _is_chosen(upload):
            name = unique_name(name, _digits(digests.sha256) or _digits(digests.hash) or "")
        folder = upload.subfolder.replace("\\", "/").strip("/")
        return f"input/{folder}/{name}" if folder else name

    @property
    def _short(self) -> float:
        """The timeout of a request that sends no file, in seconds."""
        return self.deadline.left(self.routes.http.total_timeout)


def unique_name(name: str, digits: str) -> str:
    """Return a file name that contains the digits of a digest of the content."""
    if digits in name:
        return name
    stem, ending = os.path.splitext(name)
    if len(ending) > _ENDING:
        stem, ending = name, ""
    return f"{stem.encode()[:_STEM].decode(errors='ignore')}-{digits}{ending}"


def _is_chosen(upload: Upload) -> bool:
    """Return whether the caller has chosen another name than the file's own."""
    own = getattr(upload.source, "name", None)
    is_own = isinstance(own, str) and os.path.basename(own) == upload.name
    return upload.name is not None and not is_own


def _digits(digest: str | None) -> str | None:
    """Return the digits of a digest for a name; None if it is no digest."""
    found = re.match(rf"(?:blake3:)?([0-9a-f]{{{_DIGITS}}})", digest or "")
    return found and found[1]
