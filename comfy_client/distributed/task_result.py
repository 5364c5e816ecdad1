"""Results of tasks, small and without clients or secrets."""

from __future__ import annotations

import io
import math
import os
import sys
from pathlib import Path
from typing import BinaryIO

import attrs

from ..client import ComfyApi
from ..errors import OutputsTooLarge
from ..jobs.output import Output
from ..jobs.result import Result
from ..transport.deadline import Deadline
from ..transport.local_files import IfExists, target_path, write_atomically


@attrs.frozen
class TaskFile:
    """An output file of a prompt: a reference to it on its server, or its content.

    ``api.get_image``, ``download_image`` and similar methods accept it as it is, on a client of the
    server that has it.

    Attributes:
        filename: The name on the server, without folders.
        subfolder: The folder below that of ``type``; empty: none.
        type: ``output``, or ``temp`` for files that the server deletes at its next restart, or
            ``websocket`` for an image that is on no server.
        node_id: The id of the node that made it.
        url: The URL for a browser, without credentials, as the worker reaches the server;
            ``None``: it is on no server.
        data: The content; ``None``: it is on the server.
    """

    filename: str
    subfolder: str
    type: str
    node_id: str
    url: str | None
    data: bytes | None = attrs.field(repr=False)

    def open(self, api: ComfyApi | None = None) -> BinaryIO:
        """Open the file in binary mode; only the parts that are read are fetched.

        Args:
            api: A client of the server that has it, for ``GET /view``; not needed if ``data`` is
                there.

        Raises:
            ValueError: There is neither ``data`` nor a client.
            NotFound: The file has been deleted.

        Other errors are those of :meth:`ComfyApi.open_image`.
        """
        if self.data is not None:
            return io.BytesIO(self.data)
        return self._client(api).open_image(self)

    def save(
        self,
        path: str | os.PathLike[str] = "./",
        api: ComfyApi | None = None,
        *,
        if_exists: IfExists | None = None,
    ) -> Path:
        """Save the file, and return its path.

        Args:
            path: A folder if it ends in ``/`` or exists as one, else the exact path of the file.
            api: As for :meth:`open`.
            if_exists: As for :meth:`ComfyApi.download_image`.
        """
        if self.data is None:
            return self._client(api).download_image(self, path, if_exists=if_exists)
        target, rule = target_path(path, self.filename, if_exists)
        return write_atomically(target, [self.data], if_exists=rule)

    def _client(self, api: ComfyApi | None) -> ComfyApi:
        if api is None:
            raise ValueError(f"{self.filename!r} is on its server: pass a client of that server")
        return api


@attrs.frozen
class TaskResult:
    """The result of :func:`run_workflow`.

    Attributes:
        prompt_id: The id of the prompt on its server.
        host: The URL of the server, as the worker reaches it.
        seconds: Its execution time, by the server's clock; ``None``: not known.
        files: Its files and images, as in :attr:`Result.files`.
        texts: The texts that nodes show.
        attached: Whether an earlier run of the task, whose worker was lost, sent the prompt.
    """

    prompt_id: str
    host: str
    seconds: float | None
    files: tuple[TaskFile, ...]
    texts: tuple[str, ...]
    attached: bool

    def __sizeof__(self) -> int:
        """Return the size with all content, by which Dask decides what to keep in memory."""
        contents = [*self.texts, *(file.data for file in self.files if file.data is not None)]
        return object.__sizeof__(self) + sum(map(sys.getsizeof, contents)) + 500 * len(self.files)


def task_result(
    result: Result,
    host: str,
    *,
    with_bytes: bool,
    max_bytes: int,
    deadline: Deadline,
    attached: bool,
) -> TaskResult:
    """Return a result for the holder of the future; download its files if ``with_bytes``.

    A file without a URL always comes with its content.

    Raises:
        OutputsTooLarge: The files have more than ``max_bytes``.
        RequestTimeout: The files have not arrived by the deadline.
    """
    files, room = [], max_bytes
    for output in result.files:
        data = None
        if with_bytes or output.url is None:
            data = _content(output, room, deadline, result.prompt_id, host)
        room -= len(data or b"")
        named = (output.filename, output.subfolder, output.type, output.node_id, output.url)
        files.append(TaskFile(*named, data))
    seconds, texts = result.seconds, result.texts
    return TaskResult(result.prompt_id, host, seconds, tuple(files), texts, attached)


def _content(output: Output, room: int, deadline: Deadline, prompt_id: str, host: str) -> bytes:
    """Download a file, and return its content; raise if it is larger than ``room`` bytes."""
    found, left = bytearray(), deadline.left()
    with output.stream(timeout=None if left == math.inf else left) as download:
        for chunk in download:
            found += chunk
            if len(found) > room:
                advice = f'or take outputs="references"; the files are on {host}'
                if output.url is None:
                    advice = "or use SaveImage instead of SaveImageWebsocket"
                raise OutputsTooLarge(
                    f"the files of prompt {prompt_id} have more than max_bytes in all: raise it, "
                    f"{advice}",
                    prompt_id=prompt_id,
                )
    return bytes(found)
