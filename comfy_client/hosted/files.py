"""Downloads and uploads of files as assets of Comfy API v2, and requests to the storages.

A server names the storage of a file.  It could otherwise make its clients read what only they can
reach: other programs of their machine, their network, or the metadata service of their cloud.  The
peer of each connection is judged, as a name may lead elsewhere by the time of the connection.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import attrs

from .. import runtime
from ..errors import (
    ApiError,
    AuthenticationError,
    ComfyError,
    NotFound,
    NotSupported,
    TransportError,
    UnexpectedResponse,
)
from ..reading import reading_until
from ..redaction import Sealed
from ..routes._base import facts_of
from ..routes.files import Channel, FileInfo, FileRoutes, FolderType
from ..transport.deadline import Deadline
from ..transport.http import MAX_ANSWER, MAX_TRANSFER, Http, segment
from ..transport.peers import Peer, PeerKind, is_address, named_peer, peer_of
from ..transport.response import Asker, Dialect, Download, Response, reason_of
from ..transport.resume import RemoteFile, resumed
from ..transport.url import Address
from ..workflow.graph import brief
from .assets import AssetUploader, KnownAssets, UploadedAsset, new_hasher
from .dialect import HOSTED
from .file_urls import FileAddress, place_of, redirected
from .models import asset_id, size_of_file, time_of, url_of
from .routes import HostedRoutes

if TYPE_CHECKING:
    from ..transport.multipart import OnProgress
    from ..upload import AnyFile

#: The kinds that are refused, in words.
_WORDS: Final[dict[PeerKind, str]] = {
    "loopback": "this machine",
    "link-local": "an address of the local link, where clouds tell a machine's secrets",
    "private": "an address of a private network",
    "shared": "an address of a carrier's network or a VPN",
    "benchmark": "an address of a test network",
    "metadata": "a cloud's metadata service",
    "other": "no address of the internet",
}
#: The kinds that a server of the same kind may name.
_OF_NEIGHBOURS: Final = frozenset({"loopback", "private", "shared", "benchmark"})


def is_acceptable(storage: Peer, host: str, server: Address, peers: Collection[Peer]) -> bool:
    """Return whether a server may send its clients to a storage.

    The storage must be public, the host of the server itself, or of the same kind as that.  A
    server on this machine must have been called so by the user: any name may lead here.

    Args:
        storage: The peer of the storage.
        host: The name by which the server calls the storage.
        server: The address of the server, as the user gave it.
        peers: All peers that the server has had.
    """
    if storage.kind == "public":
        return True
    if not peers or any(peer.kind == "public" for peer in peers):
        return False
    if storage in peers and host.lower() == server.host.lower():
        return True
    if storage.kind == "loopback" and not server.is_loopback:
        return False
    return storage.kind in _OF_NEIGHBOURS and {peer.kind for peer in peers} == {storage.kind}


class Storages:
    """Requests for one file to the storages that a server names, and to which they redirect.

    A redirect by a storage leads to a public address, or to the same host.

    Args:
        own: The requests to the server.
        ask: Sends any request to the server, so that its peer is known.
        dialect: The dialect of storages.
        allow_private: Whether the server may name any address.
    """

    def __init__(
        self, own: Http, ask: Callable[[], object], dialect: Dialect, *, allow_private: bool
    ) -> None:
        self._own = own
        self._ask = ask
        self._dialect = dialect
        self._allow_private = allow_private
        self._last: Peer | None = None

    def at(self, place: FileAddress, *, redirected_by_storage: bool) -> Http:
        """Return the requests to a storage; raise UnexpectedResponse if a proxy would reach it.

        If there is no proxy, the requests themselves raise the error, once the peer is known.
        """
        before = self._last if redirected_by_storage else None

        def judge(peer: Peer) -> None:
            self._last = peer
            if not self._is_acceptable(peer, place, before):
                raise self._refusal(peer, place, before)

        here = self._own.at(
            place.address, self._dialect, on_connected=lambda ip: judge(peer_of(ip))
        )
        if here.endpoint.proxy is not None:
            judge(named_peer(place.address.host))
        return here

    def _is_acceptable(self, peer: Peer, place: FileAddress, before: Peer | None) -> bool:
        if before is not None:
            return peer.kind == "public" or peer == before
        host, server = place.address.host, self._own.address
        return self._allow_private or is_acceptable(peer, host, server, self._peers_of_server(peer))

    def _peers_of_server(self, storage: Peer) -> Collection[Peer]:
        """Return the peers that the server has had; connect to it if they are not known yet."""
        endpoint = self._own.endpoint
        named, is_ip = named_peer(endpoint.address.host), is_address(endpoint.address.host)
        if endpoint.proxy is not None or is_ip or named.kind == "loopback":
            return {named}
        if not endpoint.peers and storage.kind != "public":
            with contextlib.suppress(ComfyError):  # a refusal, too, tells the peer
                self._ask()
        return frozenset(endpoint.peers)

    def _refusal(self, peer: Peer, place: FileAddress, before: Peer | None) -> UnexpectedResponse:
        host = place.address.netloc
        where = host if peer.host == place.address.host else f"{host} ({peer.host})"
        what = f"GET {place.address.http_url}{place.path}: not sent"
        if before is not None:
            said = f"a storage redirects to {where}, {_WORDS[peer.kind]}"
        else:
            said = (
                f"{self._own.address.http_url} names {where}, {_WORDS[peer.kind]}, as the storage "
                "of a file; if it may, pass allow_private_storage=True"
            )
        return UnexpectedResponse(f"{what}, since {said}", method="GET", path=place.path)


#: The most redirects of one request for a file.
MAX_REDIRECTS: Final = 5
#: The statuses of redirects.
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
#: Statuses after which another URL of the file is tried.
_MAY_BE_STALE: Final = frozenset({403, 404, 410})
#: Statuses that mean that a file is gone.
_GONE: Final = frozenset({404, 410})
#: Statuses of servers that cannot send the requested range; the proxy answers 502.
_NO_RANGE: Final = frozenset({416, 502})
#: Seconds before its end at which a URL counts as expired.
_MARGIN: Final = 5.0
#: The number of bytes that are compared when a download is resumed.
_OVERLAP: Final = 1 << 16
#: The buffer size of :meth:`AssetFiles.open_image`, in bytes.
_BUFFER: Final = 1 << 16


def storage_refusal(answer: Response, size: int | None, asker: Asker) -> ComfyError:
    """Return the typed error for a refusal by the storage to which a file's URL leads."""
    facts = answer.facts()
    what = f"{answer.method} {answer.url}: {answer.status}"
    said = "" if "xml" in answer.kind else reason_of(answer, facts["body"])
    if answer.status in _GONE:
        return NotFound(f"{what}, the storage does not have the file{said}", **facts)
    if answer.status in (401, 403):
        return AuthenticationError(
            f"{what}, the storage refuses the link to the file, which may have expired{said}",
            **facts,
        )
    if answer.status < 400:
        return UnexpectedResponse(f"{what}, no file", **facts)
    error = ApiError(f"{what}{said}", **facts)
    error.retryable = answer.status >= 500
    return error


#: The dialect for files at the server's own address, below any path.
_OWN: Final = HOSTED._replace(check_route=None, has_api_prefix=False)
#: The dialect for files at any other address, and after a redirect.
_STORAGE: Final = Dialect(
    refusal=storage_refusal, has_api_prefix=False, refused="the storage of the file is away"
)


@attrs.frozen(eq=False)
class AssetFile:
    """A file to download, as an output, upload or asset describes it.

    Attributes:
        name: The file's name without folders, for messages and local files.
        id: The id of the asset; ``None``: only its URL is known.
        url: The URL of its content; ``None``: only its id is known.
        expires_at: When the URL expires, in seconds since 1970; ``None``: unknown.
        size: Its size in bytes; ``None``: unknown.
        hash: Its hash, with the name of the algorithm; ``None``: unknown.
    """

    name: str
    id: str | None
    url: str | None = attrs.field(repr=False)
    expires_at: float | None
    size: int | None
    hash: str | None

    @classmethod
    def of(cls, info: object) -> AssetFile:
        """Return the file that an output, an upload or a mapping of Comfy API v2 describes.

        Raises ``TypeError`` for any other object, and ``ValueError`` if id and URL are missing.
        """
        raw = info if isinstance(info, Mapping) else getattr(info, "raw", None)
        if not isinstance(raw, Mapping):
            raise TypeError(
                "a file must be an output, an upload, or a mapping as in a job of Comfy API v2, "
                f"not {info!r:.200}"
            )
        names = [raw.get(key) for key in ("filename", "name", "file_path")]
        name = next((name for name in names if isinstance(name, str) and name), "file")
        found = asset_id(raw.get("id"))
        url = url_of(raw.get("url"))
        if found is None and url is None:
            raise ValueError(
                f"{brief(name)} is no file of this server, as it has neither an id nor a URL of "
                "Comfy API v2"
            )
        given = raw.get("hash")
        return cls(
            name.rpartition("/")[2] or "file",
            found,
            url,
            time_of(raw.get("url_expires_at")),
            size_of_file(raw.get("size_bytes")),
            given if isinstance(given, str) else None,
        )


class AssetFiles(FileRoutes):
    """Routes that upload and download files as assets of Comfy API v2.

    ``info`` is an output of a job, an upload, or a mapping with the fields of an output or asset.
    Credentials are sent to the server's own scheme, host and port only, and never after a redirect.

    Args:
        http: The requests to the server.
        most: The size in bytes up to which :meth:`get_image` returns a file.
        known: The assets that were uploaded; ``None``: none yet.
        allow_private_storage: Whether files may be at any address that the server names.
    """

    def __init__(
        self,
        http: Http,
        *,
        most: int = MAX_ANSWER,
        known: KnownAssets | None = None,
        allow_private_storage: bool = False,
    ) -> None:
        self._http = http
        self._most = most
        self._allow_private = allow_private_storage
        self._routes = HostedRoutes(http)
        self._known = KnownAssets() if known is None else known

    def lasting(self) -> AssetFiles:
        """Return routes for the same files that work even after the client is closed."""
        http = self._routes.http.lasting()
        return AssetFiles(http, most=self._most, allow_private_storage=self._allow_private)

    # -- uploads -------------------------------------------------------------------------

    def upload_image(
        self,
        file: AnyFile,
        file_name: str | None = None,
        *,
        subfolder: str = "",
        type: FolderType = "input",
        overwrite: bool = False,
        timeout: float | None = None,
        fetch: bool = False,
        on_progress: OnProgress | None = None,
    ) -> UploadedAsset:
        """Upload a file of any kind as an asset, unless the server already has it.

        ``POST /api/v2/assets``; with the extra ``[hosted]``, ``POST /api/v2/assets/from-hash``
        first, so that bytes which the server has are not sent.  The ``ref`` of the result is the
        value for an input of a workflow.  The name contains a digest of the content, unless you
        choose another name than the file's own.  The result may have the name of an earlier
        upload of the same bytes.

        Args:
            file: As for :meth:`ComfyApi.upload_image`.  An output of this server is copied.
            file_name: The asset's name, without folders; ``None``, or the local name: one that is
                made from the local name and the content.  A server that takes no references to
                assets can use the file only by a name of the latter kind, as another file may have
                any other name.
            subfolder: The folder below ``input``.
            type: Must be ``input``.
            overwrite: Has no effect, as each content is an asset of its own.
            timeout: Seconds for the whole upload; ``None``: an hour.
            fetch: Whether to download a URL.
            on_progress: Called with the number of bytes sent and the file's size.

        Raises:
            NotSupported: ``type`` is not ``input``; no request is sent.
            UploadTooLarge: The file is larger than the server accepts.

        Other errors are those of :meth:`ComfyApi.upload_image`.
        """
        from ..upload import Upload  # many programs upload no files

        if type != "input":
            raise NotSupported(f"Comfy API v2 keeps uploads as inputs, not in the folder {type!r}")
        self._routes.http.check_open()
        deadline = Deadline.after(timeout)
        uploader = AssetUploader(self._routes, self._known, deadline, on_progress)
        with reading_until(deadline.at):
            return uploader.send(Upload(file, file_name, subfolder=subfolder, fetch=fetch))

    def upload_mask(self, *args: Any, **kw: Any) -> Any:
        """Raise :class:`NotSupported`: upload an image with an alpha channel instead."""
        raise NotSupported(
            "Comfy API v2 adds no mask to an image: upload an image with an alpha channel"
        )

    # -- downloads -----------------------------------------------------------------------

    def get_path_image(
        self, info: FileInfo, *, preview: str | None = None, channel: Channel | None = None
    ) -> str:
        """Return the URL of a file, without credentials; no request is sent.

        That is ``GET /api/v2/assets/{id}/content``, which needs the client's credentials.  For a
        file without an id, it is the URL that the server gave, without its query.
        """
        _check_plain(preview, channel)
        file, http = AssetFile.of(info), self._routes.http
        if file.id is not None:
            return http.address.http_url + _content_route(file.id)
        place = place_of(file.url, http.address)
        if place is None:
            raise ValueError(f"{brief(file.name)}: its URL leads nowhere")
        return place.address.http_url + place.path

    def get_image(
        self,
        info: FileInfo,
        *,
        preview: str | None = None,
        channel: Channel | None = None,
        timeout: float | None = None,
    ) -> bytes:
        """Return the content of a file of any kind, of up to 1 GiB.

        For the requests, arguments and errors see :meth:`stream_image`.
        """
        body = io.BytesIO()  # grows in place
        with self.stream_image(info, preview=preview, channel=channel, timeout=timeout) as download:
            for chunk in download:
                body.write(chunk)
                if body.tell() > self._most:
                    raise UnexpectedResponse(
                        f"{brief(AssetFile.of(info).name)} exceeds the {self._most} bytes that are "
                        "allowed in memory: use stream_image or download_image"
                    )
        return body.getvalue()

    def stream_image(
        self,
        info: FileInfo,
        *,
        preview: str | None = None,
        channel: Channel | None = None,
        timeout: float | None = None,
    ) -> AbstractContextManager[Download]:
        """Stream the content of a file, with constant memory.

        The client requests the file's URL, which may lead to another server.  If that has expired
        or is refused, it tries a fresh one (``GET /api/v2/assets/{id}``).  If this is refused too,
        or the file has no URL, it tries ``GET /api/v2/assets/{id}/content``.  Up to 5 redirects are
        followed, but none from https to http.  Another server must have a public address, or one
        like the server's own: see ``allow_private_storage`` of :class:`HostedApi`.

        If the connection breaks, the client requests the rest, for up to 30 seconds after the last
        byte.  It makes sure that this is the same file: by the version, if the server identifies
        it, else by the size and the last 64 KiB.  In the end, the size is checked if it is known,
        and with the extra ``[hosted]`` the hash, too.

        Args:
            info: The file; see the class.
            preview: Not supported.
            channel: Not supported.
            timeout: Seconds for the whole file; ``None``: an hour.  It fails earlier if the server
                sends nothing for the client's own ``timeout``.

        Raises:
            NotFound: The file is gone, or the server was restarted and has forgotten it.
            NotSupported: ``preview`` or ``channel`` is given.
            TransportError: The connection broke and the file has changed, or its size or hash
                differs from what the server reported.
            UnexpectedResponse: A redirect is invalid or leads from https to http, there are too
                many redirects, the answer is a web page, or the file is at an address that the
                server may not name.
        """
        _check_plain(preview, channel)
        file = AssetFile.of(info)
        return self._stream(file, Deadline.after(MAX_TRANSFER if timeout is None else timeout))

    def has_image(self, info: FileInfo, *, timeout: float | None = None) -> bool:
        """Return whether the server has a file, without reading its content.

        The content is requested as in :meth:`stream_image`, but the answer is not read.
        """
        file, http = AssetFile.of(info), self._routes.http
        deadline = Deadline.after(http.total_timeout if timeout is None else timeout)
        try:
            with self._source(file, deadline).ask(0, {}):
                return True
        except NotFound:
            return False

    def open_image(self, info: FileInfo | str, *, timeout: float | None = None) -> BinaryIO:
        """Open a file of any kind like a local one; only the parts that are read are fetched.

        ``seek`` requests the rest from there.  Close the file, or use ``with``.  For the requests
        and errors see :meth:`stream_image`; hashes are not compared.

        Args:
            info: The file; see the class.  Not its URL.
            timeout: Seconds for all reads together; ``None``: an hour.
        """
        if isinstance(info, str):
            raise ValueError("give the output itself: a URL of Comfy API v2 does not last")
        file, http = AssetFile.of(info), self._routes.http
        source = self._source(file, Deadline.after(MAX_TRANSFER if timeout is None else timeout))

        def download(start: int) -> AbstractContextManager[Download]:
            return resumed(source.ask, start, http.resume, http.log, overlap=_OVERLAP)

        return io.BufferedReader(RemoteFile(file.name, download, is_fixed=True), _BUFFER)

    def _local_name(self, info: FileInfo, preview: str | None, channel: str | None) -> str:
        return AssetFile.of(info).name

    def _source(self, file: AssetFile, deadline: Deadline) -> _Source:
        return _Source(self._routes, file, deadline, self._allow_private)

    @contextlib.contextmanager
    def _stream(self, file: AssetFile, deadline: Deadline) -> Iterator[Download]:
        http = self._routes.http
        ask = self._source(file, deadline).ask
        with resumed(ask, 0, http.resume, http.log, overlap=_OVERLAP) as download:
            length = file.size if download.length is None else download.length
            chunks = checked(download, file)
            yield Download(download.status, download.headers, length, chunks, kind=download.kind)


def checked(download: Download, file: AssetFile) -> Iterator[bytes]:
    """Yield the chunks of a download; raise TransportError if size or hash differ from the file's.

    An unknown size or hash is not checked, nor is a hash without the extra ``[hosted]``.
    """
    size, hasher = 0, new_hasher() if (file.hash or "").startswith("blake3:") else None
    for chunk in download:
        size += len(chunk)
        if file.size is not None and size > file.size:
            break
        if hasher is not None:
            hasher.update(chunk)
        yield chunk
    if file.size not in (None, size):
        said = f"more than {file.size}" if size > (file.size or 0) else f"{size}"
        raise TransportError(
            f"{brief(file.name)}: {said} bytes arrived of the {file.size} that it is said to have"
        )
    if hasher is not None and f"blake3:{hasher.hexdigest()}" != (file.hash or "").lower():
        raise TransportError(f"{brief(file.name)}: other bytes arrived than its hash says")


@attrs.define(eq=False, repr=False)
class _Source:
    """The places where the content of one file may be, and the one where it was found.

    Attributes:
        routes: The routes of the server that described the file.
        file: The file.
        deadline: When all requests for the file must have ended.
        allow_private: Whether the file may be at any address that the server names.
        found: The place where the file was found; ``None``: it was not found yet.
    """

    routes: HostedRoutes
    file: AssetFile
    deadline: Deadline
    allow_private: bool
    found: FileAddress | None = attrs.field(default=None, init=False)

    @contextlib.contextmanager
    def ask(self, start: int, headers: Mapping[str, str]) -> Iterator[Download]:
        """Context manager: yield a download from the byte ``start`` on, or of the whole file.

        The status is 200 for the whole file.
        """
        with contextlib.ExitStack() as stack:
            try:
                download = self._first(stack, start, headers)
            except ApiError as exc:
                if not start or exc.status not in _NO_RANGE:
                    raise
                download = self._first(stack, 0, {})
            yield download

    def _first(
        self, stack: contextlib.ExitStack, start: int, headers: Mapping[str, str]
    ) -> Download:
        """Return a download from the first place that has the file; raise if none has it."""
        refused: ApiError | None = None
        for place in self._places():
            try:
                download = stack.enter_context(self._follow(place, start, headers))
            except ApiError as exc:
                if exc.status not in _MAY_BE_STALE or exc.reason == "output_unavailable":
                    raise self._named(exc) from None
                refused = exc
            else:
                self.found = place
                return download
        if refused is not None:
            raise self._named(refused) from None
        raise UnexpectedResponse(
            f"{brief(self.file.name)}: its URL leads nowhere, or from https to http"
        )

    def _named(self, exc: ApiError) -> ApiError:
        """Return a NotFound with the file's name for the status 404 or 410, else ``exc``."""
        if exc.status in _GONE:
            return NotFound(f"{exc}: {brief(self.file.name)}", **facts_of(exc))
        return exc

    def _places(self) -> Iterator[FileAddress]:
        """Yield the places where the file may be; request a fresh URL only once it is needed."""
        file, base = self.file, self.routes.http.address
        tried: list[FileAddress] = []
        for place in (self.found, None if self._is_expired else place_of(file.url, base)):
            if place is not None and place not in tried:
                tried.append(place)
                yield place
        if file.id is None:
            return
        if file.url is not None:
            place = place_of(self._fresh_url(file.id), base)
            if place is not None and place not in tried:
                tried.append(place)
                yield place
        place = FileAddress(
            attrs.evolve(base, prefix=""), base.prefix + _content_route(file.id), ""
        )
        if place not in tried:
            yield place

    @property
    def _is_expired(self) -> bool:
        until = self.file.expires_at
        return until is not None and until - runtime.wall_time() < _MARGIN

    def _fresh_url(self, id: str) -> str | None:
        left = self.deadline.left(self.routes.http.total_timeout)
        try:
            return self.routes.asset(id, timeout=left).url
        except (NotFound, NotSupported):
            return None

    def _ask_server(self) -> object:
        """Send a small request to the server."""
        return self.routes.jobs(limit=1, timeout=self.deadline.left(self.routes.http.total_timeout))

    @contextlib.contextmanager
    def _follow(
        self, place: FileAddress, start: int, headers: Mapping[str, str]
    ) -> Iterator[Download]:
        """Context manager: yield a download from a place, or from where its redirects lead."""
        own, is_storage = self.routes.http, False
        storages = Storages(own, self._ask_server, _STORAGE, allow_private=self.allow_private)
        here = own.at(place.address, _OWN, trusted=True)
        if here.identity is not own.identity:
            here, is_storage = storages.at(place, redirected_by_storage=False), True
        for _ in range(MAX_REDIRECTS + 1):
            here.identity.entrust_query(place.query)
            with here.download_once(
                place.path,
                params=place.query or None,
                headers=headers,
                deadline=self.deadline,
                start=start,
                allow=_REDIRECTS,
            ) as download:
                if download.status not in _REDIRECTS:
                    yield download
                    return
                location = Sealed(download.headers.get("location", ""))
            before, target = place, redirected(location, place)
            what = f"GET {before.address.http_url}{before.path}"
            if target is None:
                raise UnexpectedResponse(f"{what}: a redirect to nowhere, or from https to http")
            here = storages.at(target, redirected_by_storage=is_storage)
            place, is_storage = target, True
        raise UnexpectedResponse(f"{what}: more than {MAX_REDIRECTS} redirects")


def _content_route(id: str) -> str:
    return f"/api/v2/assets/{segment(id)}/content"


def _check_plain(preview: object, channel: object) -> None:
    if preview is not None or channel is not None:
        raise NotSupported("Comfy API v2 sends files as they are, without preview or channel")
