"""Upload of a file, unless the server has it already."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Final, TypeAlias

import attrs

from ..errors import ApiError
from ..models.files import UploadedImage, unambiguous
from ..reading import bounded
from ..showing.transfers import shown_transfer
from ..transport.deadline import Deadline
from ..transport.http import Http
from ..transport.multipart import OnProgress
from ..upload import Content, FileChanged, FileState, Upload, facts_of

#: The most uploads that are remembered.
_MOST: Final = 1000
#: How often a file is sent in all if it changes meanwhile.
_TRIES: Final = 3
#: Earlier uploads: maps name, subfolder and type to the content and its place on the server.
Sent: TypeAlias = dict[tuple[str, str, str], tuple[object, UploadedImage]]


@attrs.frozen(eq=False)
class Uploader:
    """Uploads files to one folder of the server, with the same options."""

    http: Http
    sent: Sent
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
        state, is_here = upload.state(), upload.remote is None
        found = state and self._existing(upload, state)
        if found:
            return found
        with self.content_of(upload) as content:
            if state is None or not is_here:  # the file may have changed since
                facts = facts_of(content)
                upload.remember(facts)
                state = FileState(upload.name or facts.name, facts.digest, facts.size)
                found = self._existing(upload, state)
                if found:
                    return found
            self.sent.pop(self._key(upload, state), None)
            digest = None if isinstance(content, Path) else str(state.version)
            answer = self.post("/upload/image", self.fields(upload), content, state.name, digest)
        if not self.overwrite or upload.name is None:
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
        self, route: str, fields: dict[str, str], content: Content, name: str, digest: str | None
    ) -> UploadedImage:
        """Upload content under a name; with ``digest``, abort if its SHA-256 differs."""
        shown = shown_transfer("upload", name, self.http.show)
        with nullcontext(self.on_progress) if self.on_progress else shown as on_progress:
            answer = self.http.upload(
                route,
                fields,
                content,
                name,
                digest=digest,
                timeout=self.timeout,
                on_progress=on_progress,
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
            while len(self.sent) >= _MOST:
                self.sent.pop(next(iter(self.sent)), None)
            self.sent[key] = state.version, answer

    @contextmanager
    def content_of(self, upload: Upload) -> Iterator[Content]:
        """Context manager: yield the content to send, downloading it first if it is remote."""
        source = upload.remote
        if source is None:
            content = upload.content
            with nullcontext() if isinstance(content, bytes | Path) else content:
                yield content
        elif isinstance(source, str):
            from ..transport.fetch import fetch  # few programs need it

            with tempfile.TemporaryFile() as file:
                fetch(source, file, self.deadline)
                file.seek(0)
                yield file
        else:
            with (
                tempfile.TemporaryFile() as file,
                source.stream(timeout=self.timeout) as download,
            ):
                file.writelines(bounded(download))
                file.seek(0)
                yield file
