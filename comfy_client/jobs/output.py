"""Outputs of a prompt: files on the server, and images that came over the socket.

Outputs can be read, saved and shown; pictures need Pillow, NumPy or IPython.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar, Final, SupportsIndex, overload

import attrs

from ..errors import UnexpectedResponse, WorkflowError, needs_extra
from ..routes.files import IN_MEMORY, FileRoutes
from ..showing.cells import Shown
from ..showing.transfers import shown_transfer, told
from ..to_dict import AsDict
from ..transport.deadline import Deadline, in_parallel
from ..transport.local_files import IfExists, rule_for, safe_name, target_path, write_atomically
from ..transport.response import Download
from ..workflow import Workflow, class_of, title_of
from ..workflow.graph import as_link, brief, inputs_of
from ..workflow.seeds import seed_before

if TYPE_CHECKING:
    import numpy.typing as npt
    from PIL import Image

    from ..upload import Upload
    from .names import Values

log: logging.Logger = logging.getLogger("comfy_client")

_MEDIA: Final = {
    "image": "png jpg jpeg webp gif bmp tif tiff avif jxl",
    "video": "mp4 webm mov mkv avi m4v",
    "audio": "flac mp3 wav ogg opus m4a aac",
}
_BY_ENDING: Final = {ending: kind for kind, text in _MEDIA.items() for ending in text.split()}
#: Modes of Pillow whose pixels become an array without conversion.
_PLAIN: Final = frozenset({"L", "RGB", "RGBA", "I;16", "I", "F"})
#: The chunk size for an image in memory, in bytes.
_CHUNK: Final = 1 << 19
#: The most outputs that the ``repr`` of several shows.
_MOST_IN_REPR: Final = 8


@attrs.frozen(eq=False, repr=False)
class Output(Shown, AsDict, ABC):
    """An output of a node: a file on the server, or an image that came over the socket.

    All methods and fields work for both, also after the client was closed: then each request has a
    connection of its own, with the same credentials, proxies and limits.

    Attributes:
        filename: The name on the server, without folders; for an :class:`OutputFrame`, a name that
            the client made.
        subfolder: The folder below that of ``type``; empty if there is none.
        type: ``output``: a file that is kept; ``temp`` (of preview nodes): a file that the server
            deletes at its next restart; ``websocket``: an image in memory, in no folder of the
            server.
        node_id: The id of the node that made it.
    """

    _in_dict: ClassVar[tuple[str, ...]] = ("filename", "media", "seed", "url", "path")

    filename: str
    subfolder: str = ""
    type: str = "output"
    node_id: str = ""
    _graph: Mapping[str, Any] = attrs.field(factory=dict, kw_only=True)
    _seeds: dict[str, int | None] = attrs.field(factory=dict, kw_only=True)  # shared by all outputs
    _saved: list[Path] = attrs.field(factory=list, init=False)

    def __repr__(self) -> str:
        where = "" if self.type in ("output", IN_MEMORY) else f", {brief(self.type)[1:-1]}"
        seed = "" if self.seed is None else f", seed {self.seed}"
        return f"<{type(self).__name__} {brief(self.filename)}{where}{seed}>"

    def _html(self) -> str:
        from .gallery import gallery

        return gallery((self,))

    @property
    def path(self) -> Path | None:
        """The path of the last :meth:`save`; ``None`` if the output was not saved yet."""
        return self._saved[-1] if self._saved else None

    @property
    def media(self) -> str:
        """``"image"``, ``"video"``, ``"audio"`` or ``"other"``, by the file name extension."""
        return _BY_ENDING.get(os.path.splitext(self.filename)[1][1:].lower(), "other")

    @property
    def seed(self) -> int | None:
        """The seed that the output was made with; ``None`` if there is none, or it is unclear.

        It is the number in an input ``seed`` or ``noise_seed``, of the node before this output
        that is nearest along the links; several different ones at the same distance give
        ``None``.  All images of one batch have the same.  Sends no request.
        """
        if self.node_id not in self._seeds:
            self._seeds[self.node_id] = seed_before(self._graph, self.node_id)
        return self._seeds[self.node_id]

    @abstractmethod
    def workflow(self, *, timeout: float | None = None) -> Workflow:
        """Return the workflow that made the output.

        For a file, this is the one that ComfyUI saved in it: ``GET /view``, reading only as much
        as is needed, which is little of most images.  An output from the cache has the workflow of
        the earlier prompt, and may lack nodes that were not part of it.  For an
        :class:`OutputFrame`, it is the workflow of the prompt.

        Args:
            timeout: Seconds; ``None``: an hour.

        Raises:
            WorkflowError: The file has no workflow: the server runs with ``--disable-metadata``,
                the node writes none, or the file is damaged.  ``Workflow.load(result)`` loads that
                of the prompt.
            NotFound: The file has been deleted.
        """

    @property
    @abstractmethod
    def url(self) -> str | None:
        """The URL for a browser, without credentials; None for an image that is on no server."""

    @abstractmethod
    def bytes(self, *, timeout: float | None = None) -> bytes:
        """Return the content of the output as bytes.

        A file is read by ``GET /view``, which raises :class:`NotFound` if it has been deleted,
        and the errors of any request.  ``timeout`` is in seconds; ``None``: an hour.  It ends
        earlier if the server sends nothing for the client's own ``timeout``.
        """

    def as_input(self) -> Upload:
        """Return the output as an input: ``wf["Load Image"]["image"] = image.as_input()``.

        Setting the output itself does the same.  On its own server, a file is used where it is, and
        nothing is sent.  On another server, and for an :class:`OutputFrame`, it is copied when the
        workflow is submitted.  A custom loader that only looks into the server's input folder needs
        a copy there: ``Upload(image, "name.png")``.
        """
        from ..upload import Upload

        return Upload(self)

    @abstractmethod
    def exists(self, *, timeout: float | None = None) -> bool:
        """Return whether the server still has the file: ``HEAD /view``; True if it is in memory.

        ``timeout`` is in seconds; ``None``: the client's.  Errors are those of
        :meth:`ComfyApi.has_image`.
        """

    @abstractmethod
    def stream(
        self, *, preview: str | None = None, timeout: float | None = None
    ) -> AbstractContextManager[Download]:
        """Stream the content with constant memory: see :meth:`ComfyApi.stream_image`.

        ::

            with result.videos[0].stream() as download:
                for chunk in download:
                    ...

        An :class:`OutputFrame` comes as it is, also with ``preview``.
        """

    @abstractmethod
    def open(self, *, timeout: float | None = None) -> BinaryIO:
        """Open the output as a binary file; only the parts that are read are fetched.

        See :meth:`ComfyApi.open_image`.  To look at it, use :meth:`show`.
        """

    def pil(self, *, timeout: float | None = None) -> Image.Image:
        """Return a loaded Pillow image of the output (extra ``[image]``), with texts in ``info``.

        An animated image shows its first frame; ``seek`` goes to later frames.

        Raises:
            ValueError: It is not an image.
            UnexpectedResponse: Pillow cannot read it, or it has more than twice
                ``PIL.Image.MAX_IMAGE_PIXELS``, which is 178 million pixels and 700 MB of memory
                unless you change it.
            MissingExtra: Pillow is not installed.

        Other errors are those of :meth:`bytes`.
        """
        self._check_image("pil")
        return pillow_image(self.bytes(timeout=timeout), self.filename)

    def array(self, *, timeout: float | None = None) -> npt.NDArray[Any]:
        """Return the pixels of an image as a new NumPy array (extras ``[image]`` and ``[numpy]``).

        Its shape is (height, width, 3), or (height, width, 4) with alpha: RGB from 0 to 255
        (``uint8``).  A grey image is (height, width), with 16 bits as ``uint16``.  Palettes become
        colours; of colours with 16 bits Pillow keeps 8.  It takes as much memory as :meth:`pil`,
        whose errors it has, and the array.
        """
        self._check_image("array")
        return pixels(self.bytes(timeout=timeout), self.filename)

    def show(self, *, timeout: float | None = None) -> None:
        """Show an image, or play a video or audio file.

        In a notebook it appears below the cell, and is stored in the notebook as it is.
        Elsewhere a copy in the folder for temporary files is opened in the browser, which shows
        all three kinds.

        Raises:
            ValueError: It is something else.

        Other errors are those of :meth:`bytes`.
        """
        if self.media == "other":
            raise ValueError(f"{brief(self.filename)} is not an image, video or audio file")
        show(self.bytes(timeout=timeout), safe_name(self.filename), self.media)

    def _check_image(self, method: str) -> None:
        if self.media in ("video", "audio"):
            raise ValueError(
                f"{brief(self.filename)} is not an image but {self.media}: it has no {method}()"
            )

    def save(
        self,
        path: str | os.PathLike[str] = "./",
        *,
        if_exists: IfExists | None = None,
        timeout: float | None = None,
    ) -> Path:
        """Save the output to a local file and return its path; the content is streamed.

        Args:
            path: A folder if it ends in ``/`` or exists as one: the file keeps its name there.
                Otherwise the exact path of the file, with an extension or without.  A
                :class:`Path` loses a ``/`` at its end: use ``"out/"``, or create the folder
                before.  With braces, a template as for :meth:`Result.save`, but without
                ``{index}``.
            if_exists: ``"number"`` (``None`` in a folder, or with a template), ``"overwrite"``
                (``None`` for an exact file) or ``"skip"``.
            timeout: As for :meth:`bytes`.

        The file appears only when it is complete, byte for byte as the server has it.  If the
        connection is cut, the rest is fetched once more, provided that the file is the same.
        """
        from .names import is_template, local_paths

        if is_template(path):
            rule = rule_for(if_exists, "number")
            [target] = local_paths(path, [(name_values(self), self.filename)])
        else:
            target, rule = target_path(path, self.filename, if_exists)
        return self._write(target, rule, timeout)

    def _write(self, target: Path, if_exists: IfExists, timeout: float | None = None) -> Path:
        """Write the output to exactly this path, without checking whether it is a folder."""
        if if_exists == "skip" and os.path.lexists(target):
            written = target  # without asking the server
        else:
            shown = shown_transfer("download", self.filename)
            with self.stream(timeout=timeout) as download, shown as on_moved:
                chunks = told(download.views(), download.length, on_moved)
                written = write_atomically(target, chunks, if_exists=if_exists)
        self._saved[:] = [written]
        return written


class Outputs(Shown, tuple[Output, ...]):
    """Several outputs: a tuple that notebooks show as a gallery."""

    __slots__ = ()

    @overload
    def __getitem__(self, index: SupportsIndex) -> Output: ...

    @overload
    def __getitem__(self, index: slice) -> Outputs: ...

    def __getitem__(self, index: SupportsIndex | slice) -> Output | Outputs:
        """Return the output at an index, or the outputs of a slice as :class:`Outputs`."""
        found = super().__getitem__(index)
        return Outputs(found) if isinstance(found, tuple) else found

    def __repr__(self) -> str:
        shown = [repr(one) for one in self[:_MOST_IN_REPR]]
        more = [f"... ({len(self)} in all)"] if len(self) > len(shown) else []
        return f"({', '.join([*shown, *more])}{',' * (len(self) == 1)})"

    def _html(self) -> str:
        from .gallery import gallery

        return gallery(self, facts=() if self else ("no outputs",))


@attrs.frozen(eq=False, repr=False)
class OutputFile(Output):
    """A file on the server.  Nothing is downloaded until you ask for it.

    Attributes:
        key: The key under which the node listed it; it says little about the kind of file.
        raw: The JSON object as received.
    """

    key: str = "images"
    raw: Mapping[str, Any] = attrs.field(factory=dict)
    _files: FileRoutes | None = attrs.field(default=None)

    @property
    def url(self) -> str:
        """The URL for a browser, without credentials."""
        return self._routes.get_path_image(self)

    @property
    def _routes(self) -> FileRoutes:
        if self._files is None:
            raise ValueError(
                f"{self.filename!r} belongs to no client: ask one of the server that has it, by "
                "get_image or download_image"
            )
        return self._files.lasting()

    # help() shows the docstrings of Output.
    def workflow(self, *, timeout: float | None = None) -> Workflow:  # noqa: D102  # Output says it
        with self._routes.open_image(self, timeout=timeout) as file:
            return Workflow.load(file)

    def bytes(self, *, timeout: float | None = None) -> bytes:  # noqa: D102  # Output says it
        return self._routes.get_image(self, timeout=timeout)

    def exists(self, *, timeout: float | None = None) -> bool:  # noqa: D102  # Output says it
        return self._routes.has_image(self, timeout=timeout)

    def stream(  # noqa: D102  # Output says it
        self, *, preview: str | None = None, timeout: float | None = None
    ) -> AbstractContextManager[Download]:
        return self._routes.stream_image(self, preview=preview, timeout=timeout)

    def open(self, *, timeout: float | None = None) -> BinaryIO:  # noqa: D102  # Output says it
        return self._routes.open_image(self, timeout=timeout)


@attrs.frozen(eq=False, repr=False)
class OutputFrame(Output):
    """A finished image of ``SaveImageWebsocket``, which came over the socket and is in memory.

    Attributes:
        mime: The type of the image, such as ``image/png``.
    """

    _in_dict = ("size",)

    type: str = attrs.field(default=IN_MEMORY, init=False)
    mime: str = attrs.field(kw_only=True)
    _data: memoryview = attrs.field(kw_only=True)

    def __reduce__(self) -> tuple[Any, ...]:
        return _frame, (self.filename, self.node_id, self.mime, self.bytes(), self._graph)

    @property
    def url(self) -> None:
        """Always None, as the image is on no server."""

    @property
    def size(self) -> int:
        """The size of the encoded image in bytes."""
        return len(self._data)

    def workflow(self, *, timeout: float | None = None) -> Workflow:  # noqa: D102  # Output says it
        return Workflow.load(self._graph)

    def bytes(self, *, timeout: float | None = None) -> bytes:  # noqa: D102  # Output says it
        return bytes(self._data)

    def exists(self, *, timeout: float | None = None) -> bool:  # noqa: D102  # Output says it
        return True

    def stream(  # noqa: D102  # Output says it
        self, *, preview: str | None = None, timeout: float | None = None
    ) -> AbstractContextManager[Download]:
        size = len(self._data)
        chunks = (bytes(self._data[at : at + _CHUNK]) for at in range(0, size, _CHUNK))
        return contextlib.nullcontext(Download(200, {"content-type": self.mime}, size, chunks))

    def open(self, *, timeout: float | None = None) -> BinaryIO:  # noqa: D102  # Output says it
        return io.BytesIO(self._data)


def _frame(
    filename: str, node_id: str, mime: str, data: bytes, graph: Mapping[str, Any]
) -> OutputFrame:
    """Restore a frame from a pickle, which cannot contain a memoryview."""
    return OutputFrame(filename, node_id=node_id, mime=mime, data=memoryview(data), graph=graph)


# -- names and many files ---------------------------------------------------------------------


def name_values(output: Output, **more: object) -> Values:
    """Return a function that returns the value of a template field; ``more`` adds fields."""
    stem, ending = os.path.splitext(safe_name(output.filename))
    graph, node_id = output._graph, output.node_id
    facts = {
        "seed": output.seed,
        "node": title_of(graph, node_id) or class_of(graph, node_id) or node_id,
        "name": stem,
        "ext": ending,
        **more,
    }

    def value(name: str) -> object:
        if name in facts:
            return facts[name]
        if "." not in name:
            known = ", ".join(f"{{{fact}}}" for fact in facts)
            raise ValueError(
                f"{{{name:.100}}} is not one of {known}, or an input: {{KSampler.cfg}}"
            )
        return _input_value(graph, name)

    return value


def _input_value(graph: Mapping[str, Any], name: str) -> object:
    from ..workflow.address import input_named

    node_id, field = input_named(graph, name)
    value = inputs_of(graph, node_id)[field]
    if as_link(value):
        raise WorkflowError(f"{brief(name)} is linked to another node, so it has no value here")
    return value


def save_all(outputs: Sequence[Output], targets: Sequence[Path], if_exists: IfExists) -> list[Path]:
    """Write each output to its path, several at a time; the first error ends all other writes."""
    todo = list(zip(outputs, targets, strict=True))
    return in_parallel(lambda one: one[0]._write(one[1], if_exists), todo)


def missing(outputs: Sequence[Output], timeout: float | None) -> list[Output]:
    """Return the outputs that the server no longer has, checking each file once."""
    deadline = Deadline.after(timeout)
    by_place: dict[object, list[Output]] = {}
    for one in outputs:
        by_place.setdefault((one.filename, one.subfolder, one.type), []).append(one)

    def exists(same: list[Output]) -> bool:
        left = deadline.left()
        return same[0].exists(timeout=None if left == math.inf else left)

    groups = list(by_place.values())
    found = in_parallel(exists, groups)
    gone = {
        id(one)
        for same, is_there in zip(groups, found, strict=True)
        if not is_there
        for one in same
    }
    return [one for one in outputs if id(one) in gone]


# -- pictures ----------------------------------------------------------------------------


def pillow_image(data: bytes, name: str) -> Image.Image:
    """Return a loaded image; raise :class:`UnexpectedResponse` if Pillow cannot read it."""
    from ..showing.thumbnails import FORMATS

    with needs_extra("image", "pil()"):
        from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        image.load()
    except UnidentifiedImageError:  # its message only names the buffer
        raise UnexpectedResponse(f"Pillow cannot read {brief(name)}: it is not an image") from None
    except Image.DecompressionBombError as exc:
        raise UnexpectedResponse(
            f"Pillow cannot read {brief(name)}: {exc}  If it is meant to be so large, raise "
            "PIL.Image.MAX_IMAGE_PIXELS, or save() it"
        ) from None
    except Exception as exc:  # noqa: BLE001  # Pillow raises whatever it comes across
        raise UnexpectedResponse(f"Pillow cannot read {brief(name)}: {exc}") from None
    return image


def pixels(data: bytes, name: str, *, strip: int = 1 << 20) -> npt.NDArray[Any]:
    """Return the pixels of an image: grey, or RGB, perhaps with alpha.

    They are copied in strips of about ``strip`` pixels, since Pillow makes two more copies of the
    data that it exports.
    """
    with needs_extra("numpy", "array()"):
        import numpy as np

    image = pillow_image(data, name)
    mode = image.mode
    if mode not in _PLAIN:
        mode = "L" if mode == "1" else "RGBA" if image.has_transparency_data else "RGB"
    width, height = image.size
    rows = max(1, strip // width)

    def copied(top: int) -> npt.NDArray[Any]:
        box = (0, top, width, min(top + rows, height))
        return np.asarray(image.crop(box).convert(mode))

    first = copied(0)
    array = np.empty((height, *first.shape[1:]), first.dtype)
    for top in range(0, height, rows):
        array[top : top + rows] = copied(top)
    return array


def show(data: bytes, name: str, media: str) -> None:
    """Show a file below the cell of a notebook, or in the browser."""
    from ..showing.screen import is_notebook

    if is_notebook():
        _display(data, name, media)
        return
    import tempfile
    import webbrowser

    path = Path(tempfile.mkdtemp(prefix="comfy-client-")) / name
    path.write_bytes(data)  # not deleted, as the browser may read it later
    if not webbrowser.open(path.as_uri()):
        log.warning("there is no browser to show it: see %s", path)


def _display(data: bytes, name: str, media: str) -> None:
    from IPython import display

    ending = os.path.splitext(name)[1][1:].lower()
    if media == "image":
        kind = {"jpg": "jpeg"}.get(ending, ending)
        shown: object = (
            display.Image(data, format=kind) if kind in _DISPLAYABLE else pillow_image(data, name)
        )
    elif media == "video":
        shown = display.Video(data, embed=True, mimetype=_MIME.get(ending, "video/mp4"))
    else:
        shown = display.Audio(data)
    display.display(shown)


#: The formats that :class:`IPython.display.Image` embeds; others are converted.
_DISPLAYABLE: Final = frozenset({"png", "jpeg", "gif", "webp"})
_MIME: Final = {"webm": "video/webm", "mov": "video/quicktime", "mkv": "video/x-matroska"}
