"""What ``comfy_api.latest`` has besides ``io`` and ``ui``: progress, extensions, videos, types.

A pack may import it by the name of a version, too.  What reads or makes tensors needs torch, and
raises an error that says so.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from enum import Enum
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import attrs
from PIL import Image

from ..node_api import PREVIEW_SIZE, PreviewTuple, context
from .inputs import LACKING
from .schema import NodeReplace


class ComfyExtension:
    """The base class of what ``comfy_entrypoint`` of a file returns."""

    async def on_load(self) -> None:
        """Prepare what the nodes need."""

    async def get_node_list(self) -> list[Any]:
        """Return the node classes."""
        raise NotImplementedError


# -- replacements ------------------------------------------------------------------------

#: Those of the file that is being loaded.
_registered: ContextVar[list[NodeReplace]] = ContextVar("the replacements of a file")


@contextlib.contextmanager
def registered() -> Iterator[list[NodeReplace]]:
    """Context manager: collect the replacements that are registered in the block."""
    found: list[NodeReplace] = []
    token = _registered.set(found)
    try:
        yield found
    finally:
        _registered.reset(token)


def _register(node_replace: NodeReplace) -> None:
    found = _registered.get(None)
    if found is None:
        raise RuntimeError("replacements are registered while a file is loaded, as in on_load")
    found.append(node_replace)


class _NodeReplacement:
    async def register(self, node_replace: NodeReplace) -> None:
        _register(node_replace)


class _NodeReplacementSync:
    register = staticmethod(_register)


# -- progress ----------------------------------------------------------------------------


def _set_progress(
    value: float,
    max_value: float,
    node_id: str | None = None,
    preview_image: Any = None,
    ignore_size_limit: bool = False,
) -> None:
    """Report the progress of a node, the running one by default, with a picture or a batch.

    Raises:
        ValueError: No node runs in this thread.
    """
    run = context.get(None)
    if run is None:
        raise ValueError("set_progress works only in the thread of a running node")
    picture = preview_image
    if picture is not None and not isinstance(picture, Image.Image):
        picture = picture[0]
    preview: PreviewTuple | None = None
    if picture is not None:
        box = None if ignore_size_limit else PREVIEW_SIZE
        preview = picture.format or "JPEG", picture, box
    run.show_progress(value, max_value, preview, node_id)


class _Execution:
    async def set_progress(self, *args: Any, **kwargs: Any) -> None:
        _set_progress(*args, **kwargs)


class _ExecutionSync:
    set_progress = staticmethod(_set_progress)


# -- videos ------------------------------------------------------------------------------


class _Chosen(str, Enum):  # noqa: UP042  as in ComfyUI
    @classmethod
    def as_input(cls) -> list[str]:
        """Return the choices of an input."""
        return [one.value for one in cls]


class VideoCodec(_Chosen):
    """The codec of a video."""

    AUTO = "auto"
    H264 = "h264"


class VideoContainer(_Chosen):
    """The format of a video's file."""

    AUTO = "auto"
    MP4 = "mp4"

    @classmethod
    def get_extension(cls, value: str) -> str:
        """Return the extension of files, without the dot."""
        return {cls.AUTO: "mp4", cls.MP4: "mp4"}[cls(value)]


@attrs.define
class VideoComponents:
    """The pictures of a video, its pictures per second, its sound, and what else it says."""

    images: Any
    frame_rate: Fraction
    audio: Any = None
    metadata: dict[str, Any] | None = None


class VideoInput(ABC):
    """A ``VIDEO``."""

    @abstractmethod
    def get_components(self) -> VideoComponents:
        """Return pictures and sound."""

    @abstractmethod
    def save_to(
        self, path: str | BinaryIO, format: Any = "auto", codec: Any = "auto", metadata: Any = None
    ) -> None:
        """Write the video to a file."""

    def get_stream_source(self) -> str | BytesIO:
        """Return the name or the content of a file with the video."""
        buffer = BytesIO()
        self.save_to(buffer)
        buffer.seek(0)
        return buffer


class VideoFromFile(VideoInput):
    """A video that is in a file, or in memory as the content of one."""

    def __init__(self, file: str | BytesIO) -> None:
        self._file = file

    def get_stream_source(self) -> str | BytesIO:
        """Return the name or the content of the file."""
        if isinstance(self._file, BytesIO):
            self._file.seek(0)
        return self._file

    def get_components(self) -> VideoComponents:
        """Raise ModuleNotFoundError."""
        text = "VideoFromFile.get_components needs torch, which the embedded server lacks"
        raise ModuleNotFoundError(text, name="torch")

    def save_to(
        self, path: str | BinaryIO, format: Any = "auto", codec: Any = "auto", metadata: Any = None
    ) -> None:
        """Copy the file as it is, whatever format, codec and metadata are."""
        source = self.get_stream_source()
        data = source.getvalue() if isinstance(source, BytesIO) else Path(source).read_bytes()
        if isinstance(path, str | Path):
            Path(path).write_bytes(data)
        else:
            path.write(data)


# -- the server -------------------------------------------------------------------------


class ComfyAPI:
    """The server as a node sees it, with coroutines."""

    VERSION: str = "latest"
    STABLE: bool = False
    execution: Any = _Execution()
    node_replacement: Any = _NodeReplacement()


class ComfyAPISync(ComfyAPI):
    """The server as a node sees it, with functions."""

    execution: Any = _ExecutionSync()
    node_replacement: Any = _NodeReplacementSync()


# -- groups of names ---------------------------------------------------------------------


class _Group:
    """Some names; another one raises AttributeError."""

    def __init__(self, name: str, **members: Any) -> None:
        self._name = name
        vars(self).update(members)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(LACKING.format(f"{self._name}.{name}"))


Input: Any = _Group(
    "Input", Image=Sequence, Mask=Sequence, Audio=dict, Latent=dict, Video=VideoInput
)
InputImpl: Any = _Group("InputImpl", VideoFromFile=VideoFromFile)
Types: Any = _Group(
    "Types", VideoCodec=VideoCodec, VideoContainer=VideoContainer, VideoComponents=VideoComponents
)

#: What older packs import from modules of their own.
OLDER: Mapping[str, Mapping[str, Any]] = {
    "input": {
        f"{name}Input": getattr(Input, name)
        for name in ("Image", "Mask", "Audio", "Latent", "Video")
    },
    "input_impl": {"VideoFromFile": VideoFromFile},
    "util": {one.__name__: one for one in (VideoCodec, VideoContainer, VideoComponents)},
}
