"""Upload of a file, unless the server has it already."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Final, TypeAlias

import attrs

from ..errors import ApiError
from ..models.files import UploadedImage, unambiguous
from ..reading import bounded
from ..showing.transfers import shown_transfer
from ..transport.deadline import Deadline
from ..transport.http import Http
from ..transport.multipart import OnProgress
from ..upload import FileChanged, FileState, OpenContent, Upload, opened

#: The most uploads that are remembered.
MOST_REMEMBERED_UPLOADS: Final = 1000
#: How often a file is sent in all if it changes meanwhile.
_TRIES: Final = 3
#: Earlier uploads: maps name, subfolder and type to the content and its place on the server.
KnownUploads: TypeAlias = dict[tuple[str, str, str], tuple[object, UploadedImage]]


@attrs.frozen(eq=False)
class Uploader:
    """Uploads files to one folder of the server, with the same options."""

    http: Http
    sent: KnownUploads
    type: str = "input"
    overwrite: bool = False
    deadline: Deadline = attrs.field(factory=Deadline)
    on_progress: OnProgress | None = None

    @property
    def timeout(self) -> float | None:
        """The seconds that are left; None if only the limit of a single transfer applies."""
        return None if math.isinf(self.deadline.at) else self.deadline.left()

    def send(self, upload: Upload) -> UploadedImage:
        """Upload a file unless the server has it already; return its reference on the server.

        Raises:
            FileChanged: The file changed during each attempt to send it; the server has no part.
        """
        for _ in range(_TRIES - 1):
            with suppress(FileChanged):
                return self._send(upload)
        return self._send(upload)

    def _send(self, upload: Upload) -> UploadedImage:
        # What was fetched before need not be fetched again if the server still has it.
        state = None if upload.remote is None else upload.state()
        found = state and self._existing(upload, state)
        if found:
            return found
        with self.content_of(upload) as content:
            if self.overwrite and upload.name is not None:
                state = FileState(upload.name, None, content.size)  # is compared with nothing
            else:
                state = upload.state_of(content)
            found = self._existing(upload, state)
            if found:
                return found
            self.sent.pop(self._key(upload, state), None)
            answer = self.post("/upload/image", self.fields(upload), content, state.name)
        self._remember(upload, state, answer)
        return answer

    def fields(self, upload: Upload) -> dict[str, str]:
        """Return the form fields of an upload, except the file itself."""
        return {
            "subfolder": upload.subfolder,
            "type": self.type,
            "overwrite": str(self.overwrite).lower(),
        }

    def post(
        self, route: str, fields: dict[str, str], content: OpenContent, name: str
    ) -> UploadedImage:
        """Upload content under a name."""
        shown = shown_transfer("upload", name, self.http.show)
        with nullcontext(self.on_progress) if self.on_progress else shown as on_progress:
            answer = self.http.upload(
                route, fields, content, name, timeout=self.timeout, on_progress=on_progress
            )
        return UploadedImage.from_json(answer)

    def _existing(self, upload: Upload, state: FileState) -> UploadedImage | None:
        """Return the server's file with this name and content, or None if none is known."""
        if self.overwrite:
            return None
        version, answer = self.sent.get(self._key(upload, state), (None, None))
        if version is None or version != state.version:
            # A name made from the content is the same for all clients.
            is_sure = upload.name is None
            answer = UploadedImage(state.name, upload.subfolder, self.type) if is_sure else None
        return answer if answer and self.has(answer, state.size) else None

    def _key(self, upload: Upload, state: FileState) -> tuple[str, str, str]:
        return state.name, upload.subfolder, self.type

    def has(self, file: UploadedImage, size: int | None = None) -> bool:
        """Return whether the server has a file of that name, and of that size if given."""
        try:
            answer = self.http.request(
                "HEAD",
                "/view",
                params={
                    "filename": unambiguous(file.name, file.type),
                    "subfolder": file.subfolder,
                    "type": file.type,
                },
                timeout=min(self.http.total_timeout, self.deadline.left()),
            )
        except ApiError:  # no such file, or a proxy refuses HEAD
            return False
        return size is None or answer.headers.get("content-length") == str(size)

    def _remember(self, upload: Upload, state: FileState, answer: UploadedImage) -> None:
        key = self._key(upload, state)
        self.sent.pop(key, None)
        if state.version is not None:
            while len(self.sent) >= MOST_REMEMBERED_UPLOADS:
                self.sent.pop(next(iter(self.sent)), None)
            self.sent[key] = state.version, answer

    @contextmanager
    def content_of(self, upload: Upload) -> Iterator[OpenContent]:
        """Context manager: yield the content to send, downloading it first if it is remote."""
        source = upload.remote
        if source is None:
            with upload.opened() as content:
                yield content
        elif isinstance(source, str):
            from ..transport.fetch import fetch  # few programs need it

            with tempfile.TemporaryFile() as file:
                fetch(source, file, self.deadline)
                with opened(file, 0) as content:
                    yield content
        else:
            with (
                tempfile.TemporaryFile() as file,
                source.stream(timeout=self.timeout) as download,
            ):
                file.writelines(bounded(download))
                with opened(file, 0) as content:
                    yield content
