"""Routes for the server's files: upload, view and download."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Literal, Protocol
from urllib.parse import parse_qsl, urlsplit

import attrs

from .. import models
from ..errors import NotFound, NotSupported
from ..reading import reading_until
from ..showing.transfers import shown_transfer, told
from ..transport.deadline import Deadline
from ..transport.http import MAX_TRANSFER, Download, Http, Response
from ..transport.local_files import IfExists, target_path, write_atomically
from ..transport.url import parse_host
from ..workflow.graph import shorten
from ._base import facts_of

if TYPE_CHECKING:
    from ..transport.multipart import OnProgress
    from ..upload import AnyFile, Upload
    from .uploads import KnownUploads, Uploader

FolderType = Literal["input", "output", "temp"]
Channel = Literal["rgba", "rgb", "a"]


#: The type of a picture that came over the socket and is in no folder of the server.
IN_MEMORY: Final = "websocket"
#: The buffer size of :meth:`FileRoutes.open_image`, in bytes.
_BUFFER: Final = 1 << 16
#: Parameters of ``/view`` that name a file.
_NAMING: Final = frozenset({"filename", "subfolder", "type"})
#: Headers whose values change when the file changes.
_VERSION: Final = ("etag", "last-modified", "content-length")
#: The most parameters in a URL of ``/view``.
_MOST_PARAMETERS: Final = 100


class FileRef(Protocol):
    """An object that names a file of the server, such as an output or an upload."""

    @property
    def filename(self) -> str:
        """The file's name, without folders."""

    @property
    def subfolder(self) -> str | None:
        """The path below the folder of ``type``; empty or None if there is no subfolder."""

    @property
    def type(self) -> str | None:
        """The server's folder: ``output``, ``input`` or ``temp``; None means ``output``."""


#: A file of the server: an object, or a mapping as in outputs.
FileInfo = FileRef | Mapping[str, Any]


class FileRoutes:
    """Upload and download of images and all other files.

    ``info`` is any object with ``filename``, ``subfolder`` and ``type``, or a mapping with
    these keys, so that a file of a node's output can be passed as it is.
    """

    _http: Http
    _sent: KnownUploads

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
    ) -> models.UploadedImage:
        """Upload a file of any kind, with constant memory, unless the server already has it.

        ``POST /upload/image``.  Use the ``name`` that comes back, or its ``ref`` for
        ``LoadImage``: if another file has the name, the server adds a number.

        A file without a name gets one that is made from its content, so nothing is overwritten,
        and a ``HEAD /view`` shows whether the server has it.  A file with a name is sent again
        only if it has changed since this client sent it, or if the server no longer has it.

        Example::

            from comfy_client import ComfyApi

            with ComfyApi("http://127.0.0.1:8188") as api:
                photo = api.upload_image("photo.png")
                api.run({
                    "1": {"class_type": "LoadImage", "inputs": {"image": photo.ref}},
                    "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
                })

        Args:
            file: One of these:

                * a path, bytes, or a binary file, whatever it contains.  A binary file is sent
                  from its position, which does not change.  A stream that is not
                  a plain file, such as a pipe, is copied first (beyond 1 MiB to a temporary file);
                * a Pillow image (extra ``[image]``): its current frame as PNG, with alpha,
                  without metadata;
                * a NumPy array or a torch tensor (extras ``[image,numpy]``): ``[H, W, C]`` or
                  ``[H, W]``, or as in ComfyUI ``[B, H, W, C]`` or ``[B, H, W]``, with C 1, 3 or 4;
                  integers from 0 to 255 (``uint16``: 65535), booleans, or floats from 0 to 1.
                  It becomes a PNG; if it has several pictures, an animated one, of which
                  ``LoadImage`` makes a batch.  Pictures in memory have 8 bits a channel then, as
                  ``LoadImage`` reads no more;
                * a data URL, or with ``fetch`` an ``http(s)`` URL;
                * an output of a prompt.  One of this server is not sent: its ``ref`` names it
                  where it is.  With ``file_name``, ``subfolder`` or ``overwrite``, and from
                  another server, it is copied.
            file_name: Its name on the server, without folders; ``None``: its local name, or one
                that is made from the content.
            subfolder: The folder below that of ``type``; it is created if missing.
            type: The folder of the server.
            overwrite: Whether to replace a file of that name; if so, it is always sent.
            timeout: Seconds for the whole upload; ``None``: an hour.  It ends earlier if no data
                moves for the client's own ``timeout``, or if the server has all data and does not
                answer in that time (plus one second for each 10 MB, which it has to store).
            fetch: Whether to download a URL: 256 MiB, 2 minutes and 5 redirects at most, without
                any login of this client.  Only for URLs that you trust: this machine may reach
                hosts that other machines cannot.
            on_progress: Called in this thread with the number of bytes sent and the file's size, in
                place of the bar that files of more than 8 MB have in a notebook or a terminal;
                not if nothing is sent.  An exception that it raises ends the upload.

        Raises:
            FileNotFoundError: There is no such local file.
            OSError: The local file changed each of the three times that it was sent, or a stream is
                too large to be copied (half of the free space, or 16 GiB).  The server has nothing
                of it: send it when it is complete.
            UploadTooLarge: The file is larger than the server, or a proxy before it, accepts.
            ValueError: ``subfolder`` leaves the folder; the name contains folders or control
                characters; an array has another shape or range; a URL without ``fetch``; an empty
                file without a name; an open file that stands at its end, or a pipe that was read;
                a device or a socket.
            MissingExtra: Pillow or NumPy is not installed.
            ApiError: The server does not accept the name (400).
            RequestTimeout: See ``timeout``; the server may or may not have stored the file, but
                certainly not if the message says that the local file could not be read.
            UnexpectedResponse: The URL leads to no file, or exceeds one of the limits of ``fetch``.
        """
        from ..upload import Upload  # many programs upload no files

        uploader = self._uploader(type, overwrite, timeout, on_progress)
        with reading_until(uploader.deadline.at):
            upload = Upload(file, file_name, subfolder=subfolder, fetch=fetch)
            return self._own(upload, uploader) or uploader.send(upload)

    def upload_mask(
        self,
        file: AnyFile,
        original_ref: FileInfo,
        file_name: str | None = None,
        *,
        subfolder: str = "",
        type: FolderType = "input",
        overwrite: bool = False,
        timeout: float | None = None,
        fetch: bool = False,
        on_progress: OnProgress | None = None,
    ) -> models.UploadedImage:
        """Store a copy of an image on the server with the alpha channel of ``file``.

        ``POST /upload/mask``.  Both must have the same size.  The server answers 200
        even if it has no original and writes nothing, so a ``HEAD`` for each file checks that.
        Without ``file_name``, the name is made from the mask and the state of the original, so
        that the same mask for the same original is sent only once.

        Args:
            file: The mask, as for :meth:`upload_image`.  Only its alpha channel is used: its
                transparent parts are masked.  A picture in memory without alpha is itself the
                mask, as in ComfyUI: its white (1.0) parts are masked.
            original_ref: The image on the server.  A missing ``type`` is ``output``, as in all
                methods.
            file_name: The name of the result on the server.  For all other arguments see
                :meth:`upload_image`.

        Raises:
            NotFound: The server has no such original; nothing was written.
            ApiError: One of the two is not an image, or their sizes differ (500).
        """
        from ..pictures import encoded, is_picture  # few programs send pictures from memory
        from ..upload import Upload, named_by
        from ..upload import facts_of as content_facts

        uploader = self._uploader(type, overwrite, timeout, on_progress)
        mask = encoded(file, as_mask=True) if is_picture(file) else file
        with reading_until(uploader.deadline.at):
            upload = Upload(mask, file_name, subfolder=subfolder, fetch=fetch)
        original = self._check_exists(original_ref, "the server has no original")
        place = _view_params(original_ref)
        with reading_until(uploader.deadline.at), uploader.content_of(upload) as content:
            name = upload.name
            if name is None:
                version = [original.headers.get(key) for key in _VERSION]
                name = named_by(content_facts(content).digest, [place, version], ".png")
                result = models.UploadedImage(name, subfolder, type)
                if not overwrite and uploader.has(result):
                    return result
            fields = {"original_ref": json.dumps(place), **uploader.fields(upload)}
            uploaded = uploader.post("/upload/mask", fields, content, name)
        self._check_exists(uploaded, "the server did not write")
        return uploaded

    def get_path_image(
        self, info: FileInfo, *, preview: str | None = None, channel: Channel | None = None
    ) -> str:
        """Return the URL of a file, without credentials; no request is sent.

        ``GET /view``; for the arguments see :meth:`get_image`.
        """
        return self._http.url("/view", _view_params(info, preview, channel))

    def get_image(
        self,
        info: FileInfo,
        *,
        preview: str | None = None,
        channel: Channel | None = None,
        timeout: float | None = None,
    ) -> bytes:
        """Return the content of a file of any kind.

        ``GET /view``.  All of it is in memory, 1 GiB at most; for large files see
        :meth:`stream_image` and :meth:`download_image`.

        Args:
            info: The file; see the class.
            preview: Re-encode an image at full size: ``"webp"`` or ``"jpeg"``, with a
                quality as in ``"jpeg;50"``.  ``None``: the file itself, with its metadata.
            channel: ``"rgb"``: a PNG without alpha; ``"a"``: a PNG of the alpha alone.
            timeout: Seconds for the whole file; ``None``: an hour.  It ends earlier if the server
                sends nothing for the client's own ``timeout``.

        Raises:
            NotFound: There is no such file (each restart deletes files of type ``temp``).
            AuthenticationError: ``subfolder`` leaves the folder (403).
            ApiError: The name contains ``..``, or the type is unknown (400); a preview of
                a file that is not an image (500).
            UnexpectedResponse: More than 1 GiB; or only a part of the file (206), or an encoded
                file, although the request allowed neither.
            RequestTimeout: See ``timeout``.
        """
        params = _view_params(info, preview, channel)
        try:
            return self._http.content("/view", params=params, timeout=timeout)
        except NotFound as exc:
            raise _named(exc, params) from None

    def stream_image(
        self,
        info: FileInfo,
        *,
        preview: str | None = None,
        channel: Channel | None = None,
        timeout: float | None = None,
    ) -> AbstractContextManager[Download]:
        """Stream the content of a file, with constant memory.

        ``GET /view``::

            with api.stream_image(info) as download:
                for chunk in download:
                    ...

        ``download.length`` is the size in bytes, or ``None``.  Arguments and errors are those
        of :meth:`get_image`.  If the connection breaks, the client requests the rest, for up to 30
        seconds after the last byte.  This needs a server that says which version of the file it
        sends (by ``ETag``, as every ComfyUI does, or by a ``Last-Modified`` of more than a second
        ago), and no ``preview`` or ``channel``.  Otherwise, or if the file has changed, the
        iteration ends in a :class:`TransportError`.
        """
        return self._download(_view_params(info, preview, channel), timeout)

    def has_image(self, info: FileInfo, *, timeout: float | None = None) -> bool:
        """Return whether the server has a file of any kind; its content is not read.

        ``HEAD /view``; if a proxy refuses that, ``GET /view``, which is ended immediately.

        Args:
            info: The file; see the class.
            timeout: Seconds; ``None``: the client's.

        Raises:
            AuthenticationError: ``subfolder`` leaves the folder (403).
            ApiError: The name contains ``..``, or the type is unknown (400).
        """
        params = _view_params(info)
        deadline = Deadline.after(self._http.total_timeout if timeout is None else timeout)
        try:
            try:
                self._http.request("HEAD", "/view", params=params, timeout=deadline.left())
            except NotSupported:
                with self._http.download("/view", params=params, timeout=deadline.left()):
                    pass
        except NotFound:
            return False
        return True

    def open_image(self, info: FileInfo | str, *, timeout: float | None = None) -> BinaryIO:
        """Open a file of any kind like a local one; only the parts that are read are fetched.

        ``GET /view``; after ``seek``, again with a ``Range``.  Close it, or use ``with``::

            with api.open_image(result.images[0]) as file:
                print(file.read(8))

        Args:
            info: The file; see the class.  Or the URL of one on this server's ``/view``, as
                :meth:`get_path_image` returns it; ``preview`` and ``channel`` in it do not count.
            timeout: Seconds for all reads together; ``None``: an hour.

        Raises:
            ValueError: The URL is not this server's ``/view``; no request is sent elsewhere.
            TransportError: While it is read: the file was replaced on the server; or you go back in
                it, and the server identifies its version neither by ``ETag``, as every ComfyUI
                does, nor by a ``Last-Modified`` of more than a second ago.

        Other errors are those of :meth:`get_image`; they may also come while the file is read.
        """
        from ..transport.resume import RemoteFile

        params = _view_params(self._named_by(info) if isinstance(info, str) else info)
        deadline = Deadline.after(MAX_TRANSFER if timeout is None else timeout)

        def download(start: int) -> AbstractContextManager[Download]:
            return self._download(params, deadline.left(), start)

        return io.BufferedReader(RemoteFile(params["filename"] or "", download), _BUFFER)

    def _named_by(self, url: str) -> dict[str, str]:
        """Parse the URL of a file on this server's ``/view``; raise ValueError for other URLs."""
        own = self._http.address
        foreign = ValueError(
            f"not the URL of a file on {own.http_url}/view, and this client downloads from nowhere "
            "else: download it yourself, and pass the file"
        )
        try:
            parts = urlsplit(url)
            address, login = parse_host(f"{parts.scheme}://{parts.netloc}{parts.path}")
            query = dict(parse_qsl(parts.query, max_num_fields=_MOST_PARAMETERS))
        except ValueError:
            raise foreign from None
        paths = (f"{own.prefix}/view", f"{own.prefix}/api/view")
        if login or attrs.evolve(address, prefix=own.prefix) != own or address.prefix not in paths:
            raise foreign
        return {name: query[name] for name in _NAMING & query.keys()}

    def download_image(
        self,
        info: FileInfo,
        path: str | os.PathLike[str],
        *,
        if_exists: IfExists | None = None,
        preview: str | None = None,
        channel: Channel | None = None,
        timeout: float | None = None,
    ) -> Path:
        """Download a file to the disk, and return its local path.

        ``GET /view``; for a hosted server see :meth:`stream_image`.  The file appears only when it
        is complete.  An interrupted download resumes, as in :meth:`stream_image`.

        Args:
            path: A folder, where the file keeps the server's name, or the exact path of the
                file.  A path is a folder if it exists as one, or ends in ``/``; then it is
                created.
            if_exists: ``"number"`` adds a number to the name (the default in a folder),
                ``"overwrite"`` replaces the file (the default for an exact path), ``"skip"``
                leaves the file and sends no request.

        For ``info``, ``preview``, ``channel``, ``timeout`` and errors see :meth:`stream_image`.
        """
        name = self._local_name(info, preview, channel)
        target, rule = target_path(path, name, if_exists)
        if rule == "skip" and os.path.lexists(target):
            return target
        stream = self.stream_image(info, preview=preview, channel=channel, timeout=timeout)
        shown = shown_transfer("download", name, self._http.show)
        with stream as download, shown as on_moved:
            chunks = told(download.views(), download.length, on_moved)
            return write_atomically(target, chunks, if_exists=rule)

    def _local_name(self, info: FileInfo, preview: str | None, channel: str | None) -> str:
        """Return the name for a download, with another extension if the server re-encodes it."""
        name = _view_params(info, preview, channel)["filename"] or ""
        for kind in ("input", "output", "temp"):
            name = name.removesuffix(f" [{kind}]")
        if preview is not None:
            # The server sends WebP for formats that it does not know or that have no alpha.
            jpeg = preview.split(";")[0] == "jpeg" and "a" not in (channel or "")
            return f"{os.path.splitext(name)[0]}{'.jpg' if jpeg else '.webp'}"
        return f"{os.path.splitext(name)[0]}.png" if channel in ("rgb", "a") else name

    def lasting(self) -> FileRoutes:
        """Return routes for the same files that work even after the client is closed.

        Each of their requests opens a connection of its own, with the same credentials, proxies and
        limits.
        """
        return LastingFiles(self._http)

    @contextlib.contextmanager
    def _download(
        self, params: Mapping[str, str | None], timeout: float | None, start: int = 0
    ) -> Iterator[Download]:
        with contextlib.ExitStack() as stack:
            try:
                download = stack.enter_context(
                    self._http.download("/view", params=params, timeout=timeout, start=start)
                )
            except NotFound as exc:
                raise _named(exc, params) from None
            yield download

    def _uploader(
        self, type: str, overwrite: bool, timeout: float | None, on_progress: OnProgress | None
    ) -> Uploader:
        from .uploads import Uploader  # slow to import, and many scripts do not need it

        if type not in ("input", "output", "temp"):
            raise ValueError(f"type: {type!r} is not 'input', 'output' or 'temp'")
        self._http.check_open()
        deadline = Deadline.after(timeout)
        return Uploader(self._http, self._sent, type, overwrite, deadline, on_progress)

    def _own(self, upload: Upload, uploader: Uploader) -> models.UploadedImage | None:
        """Return the reference of an output that this server has; None if it must be uploaded."""
        file = upload.remote
        is_copy = uploader.overwrite or upload.name is not None or upload.subfolder
        if file is None or isinstance(file, str) or is_copy:
            return None
        try:
            self._named_by(file.url or "")
        except ValueError:  # it is another server's
            return None
        return models.UploadedImage(file.filename, file.subfolder, file.type)

    def _check_exists(self, info: FileInfo, trouble: str) -> Response:
        params = _view_params(info)
        try:
            return self._http.request("HEAD", "/view", params=params)
        except NotFound as exc:
            raise NotFound(f"{trouble} {_place(params)}", **facts_of(exc)) from None


def _named(exc: NotFound, params: Mapping[str, str | None]) -> NotFound:
    """Return the error for a file that the server does not have, with the file's name."""
    return NotFound(f"{exc}: {_place(params)}", **facts_of(exc))


def _place(params: Mapping[str, str | None]) -> str:
    """Return the type, subfolder and name of a file as one path, shortened if it is long."""
    parts = (params[key] for key in ("type", "subfolder", "filename"))
    return shorten("/".join(filter(None, parts)), 300)


class LastingFiles(FileRoutes):
    """Routes for the files of a client's server that work even after the client is closed."""

    def __init__(self, http: Http) -> None:
        self._http = http.lasting()


def _view_params(
    info: FileInfo, preview: str | None = None, channel: str | None = None
) -> dict[str, str | None]:
    """Return the query parameters of ``/view`` for a file."""
    if isinstance(info, Mapping):
        # An upload says "name" where an output says "filename".
        name = info.get("filename", info.get("name"))
        subfolder, kind = info.get("subfolder"), info.get("type")
    elif hasattr(info, "filename"):
        name, subfolder, kind = info.filename, info.subfolder, info.type
        if name.endswith("]") and isinstance(info, models.UploadedImage):
            from ..models.files import unambiguous

            name = unambiguous(name, info.type)  # the server must not misread its ending
    else:
        raise TypeError(
            "a file must be an output, an upload, or a mapping with filename, subfolder and type, "
            f"not {info!r:.200}"
        )
    if not name or not isinstance(name, str):
        raise ValueError(f"no filename in {info!r:.200}")
    if kind == IN_MEMORY:
        raise ValueError(
            f"{name!r} came over the socket and is in memory here, not on the server: take its "
            "bytes() or save()"
        )
    params: dict[str, str | None] = {
        "filename": name,
        "subfolder": (subfolder or "").replace("\\", "/"),  # from a Windows server
        "type": kind or "output",
    }
    if preview is not None:
        params["preview"] = preview
    if channel is not None:
        params["channel"] = channel
    return params
