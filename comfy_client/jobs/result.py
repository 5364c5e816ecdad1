"""What a prompt left: files on the server, pictures that came over the socket, and texts."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from ..errors import WorkflowError
from ..routes.files import IN_MEMORY, FileRoutes
from ..values import MOST_ID, exact, identifier, text
from ..workflow import class_of, title_of
from ..workflow.graph import nearest
from .files import IfExists, distinct_names, rule_for, target_path, write_atomically

#: Characters of a file's name, and of its folders': no system has longer ones.
MOST_NAME: Final = 4096

_MEDIA: Final = {
    "image": "png jpg jpeg webp gif bmp tif tiff avif jxl",
    "video": "mp4 webm mov mkv avi m4v",
    "audio": "flac mp3 wav ogg opus m4a aac",
}
_BY_ENDING: Final = {ending: kind for kind, text in _MEDIA.items() for ending in text.split()}
_ENDINGS: Final = {"image/png": "png", "image/webp": "webp", "image/gif": "gif"}


@attrs.frozen(eq=False)
class Output(ABC):
    """What a node left: a file on the server, or a picture that came over the socket.

    All of it works for both, so nobody has to ask which it is.
    """

    filename: str  #: Its name on the server, without folders; made up here for an OutputFrame.
    subfolder: str = ""  #: Folders below the type's own; empty for none.
    #: ``output`` is kept; ``temp`` (of preview nodes) goes at the server's next restart;
    #: ``websocket`` is no folder of the server, the picture is in memory here.
    type: str = "output"
    node_id: str = ""  #: The node that left it.

    @property
    def media(self) -> str:
        """``"image"``, ``"video"``, ``"audio"`` or ``"other"``, by the name's ending."""
        return _BY_ENDING.get(os.path.splitext(self.filename)[1][1:].lower(), "other")

    @property
    @abstractmethod
    def url(self) -> str | None:
        """Where a browser finds it, without credentials; ``None``: it is on no server."""

    @abstractmethod
    def bytes(self, *, timeout: float | None = None) -> bytes:
        """The content, in memory.

        Of a file by ``GET /view``, which raises :class:`NotFound` when it was deleted meanwhile,
        and what any request may.  ``timeout`` is in seconds; ``None``: an hour.  A server that
        is silent for the client's own ``timeout`` ends it, too.
        """

    @abstractmethod
    def save(
        self,
        path: str | os.PathLike[str] = "./",
        *,
        if_exists: IfExists | None = None,
        timeout: float | None = None,
    ) -> Path:
        """Write it to the disk, and return where it is; a file's ``GET /view`` in pieces.

        Args:
            path: A folder, if it ends in ``/`` or there is one of that name: the file keeps its
                name there.  Else exactly that file, with an ending or without.  A :class:`Path`
                drops the ``/`` at its end: give ``"out/"``, or make the folder before.
            if_exists: ``"number"`` (``None`` in a folder), ``"overwrite"`` (``None`` for an
                exact file) or ``"skip"``.
            timeout: As for :meth:`bytes`.

        The file appears complete or not at all.
        """

    @abstractmethod
    def _write(self, target: Path, if_exists: IfExists) -> Path:
        """Write exactly this file: what lies there is not asked whether it is a folder."""


@attrs.frozen(eq=False)
class OutputFile(Output):
    """A file on the server.  Nothing is downloaded before you ask for it."""

    key: str = "images"  #: Under which the node listed it; says little about what it is.
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False)  #: As the server gave it.
    _files: FileRoutes | None = attrs.field(default=None, repr=False)

    @property
    def url(self) -> str:
        """Where a browser finds it; without credentials."""
        return self._routes.get_path_image(self)

    @property
    def _routes(self) -> FileRoutes:
        if self._files is None:
            raise ValueError(
                f"{self.filename!r} belongs to no client: ask one of the server that has it, by "
                "get_image or download_image"
            )
        return self._files

    # help() shows the texts of Output.
    def bytes(self, *, timeout: float | None = None) -> bytes:  # noqa: D102
        return self._routes.get_image(self, timeout=timeout)

    def save(  # noqa: D102
        self,
        path: str | os.PathLike[str] = "./",
        *,
        if_exists: IfExists | None = None,
        timeout: float | None = None,
    ) -> Path:
        return self._routes.download_image(self, path, if_exists=if_exists, timeout=timeout)

    def _write(self, target: Path, if_exists: IfExists) -> Path:
        if if_exists == "skip" and os.path.lexists(target):
            return target  # the server is not asked
        with self._routes.stream_image(self) as download:
            return write_atomically(target, download, if_exists=if_exists)


@attrs.frozen(eq=False)
class OutputFrame(Output):
    """A finished picture of ``SaveImageWebsocket``: it came over the socket and is in memory."""

    type: str = attrs.field(default=IN_MEMORY, init=False)
    mime: str = attrs.field(kw_only=True)  #: Such as ``image/png``.
    _data: memoryview = attrs.field(kw_only=True, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return _frame, (self.filename, self.node_id, self.mime, self.bytes())

    @property
    def url(self) -> None:
        """``None``: it is on no server."""

    def bytes(self, *, timeout: float | None = None) -> bytes:  # noqa: D102
        return bytes(self._data)

    def save(  # noqa: D102
        self,
        path: str | os.PathLike[str] = "./",
        *,
        if_exists: IfExists | None = None,
        timeout: float | None = None,
    ) -> Path:
        return self._write(*target_path(path, self.filename, if_exists))

    def _write(self, target: Path, if_exists: IfExists) -> Path:
        return write_atomically(target, [self._data], if_exists=if_exists)


def _frame(filename: str, node_id: str, mime: str, data: bytes) -> OutputFrame:
    """Out of a pickle, which carries no memoryview."""
    return OutputFrame(filename, node_id=node_id, mime=mime, data=memoryview(data))


@attrs.frozen(eq=False)
class _Outputs:
    """What results and their nodes have in common."""

    #: All files and pictures in the server's order, those that are kept before ``temp`` ones.
    files: tuple[Output, ...] = ()
    texts: tuple[str, ...] = ()  #: What text nodes show.

    def _of(self, media: str) -> tuple[Output, ...]:
        return tuple(item for item in self.files if item.media == media)

    @property
    def images(self) -> tuple[Output, ...]:
        """Pictures, animated ones too."""
        return self._of("image")

    @property
    def videos(self) -> tuple[Output, ...]:
        """Videos, under whatever key the node listed them."""
        return self._of("video")

    @property
    def audio(self) -> tuple[Output, ...]:
        """Sound files."""
        return self._of("audio")

    def save(
        self, folder: str | os.PathLike[str], *, if_exists: IfExists | None = None
    ) -> list[Path]:
        """Write all files into a folder, which is made when missing; where they are.

        ``folder`` is one whether it ends in ``/`` or not, unlike the path of :meth:`Output.save`.
        ``if_exists`` is about what was there before, and ``"number"`` unless given.  Files that
        have one name on the server (in different folders of it), or names that only some file
        systems tell apart, are numbered; so are those that have the name of a folder here.
        """
        into, rule = Path(folder), rule_for(if_exists, "number")
        names = distinct_names(
            (item.filename for item in self.files), lambda name: (into / name).is_dir()
        )
        return [
            item._write(into / name, rule) for item, name in zip(self.files, names, strict=True)
        ]


@attrs.frozen(eq=False)
class NodeOutput(_Outputs):
    """What one node left."""

    node_id: str = ""
    title: str | None = None
    class_type: str | None = None
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False)  #: As the server gave it.


@attrs.frozen(eq=False)
class Result(_Outputs):
    """What a prompt left: ``result.images[0].save("out/")``, ``result["Save Image"].files``."""

    prompt_id: str = ""
    nodes: Mapping[str, NodeOutput] = attrs.field(factory=dict, repr=False)  #: By node id.
    cached_nodes: tuple[str, ...] = ()  #: Node ids that did not run again.
    #: Nothing ran, since nothing had changed: for another picture change the seed.
    fully_cached: bool = False
    #: The numbers in the inputs ``seed`` and ``noise_seed``, by node id.  One that is linked to
    #: another node is not among them: it stands there under some other name, or is made there.
    seeds: Mapping[str, int] = attrs.field(factory=dict)
    node_errors: Mapping[str, Any] = attrs.field(factory=dict)  #: Outputs that were dropped.
    #: False when outputs may be missing: history was gone before it could be read, or the
    #: socket was away, over which alone pictures of ``SaveImageWebsocket`` come.
    complete: bool = True

    def __getitem__(self, name: str) -> NodeOutput:
        """The outputs of a node, by id, title or class.

        Raises :class:`WorkflowError` when the name is ambiguous, or the node left nothing;
        it says which did.
        """
        name = str(name)
        if name in self.nodes:
            return self.nodes[name]
        for attribute in ("title", "class_type"):
            found = [node for node in self.nodes.values() if getattr(node, attribute) == name]
            if len(found) == 1:
                return found[0]
            if found:
                ids = tuple(node.node_id for node in found)
                raise WorkflowError(
                    f"{name!r} means the nodes {', '.join(ids)}; say which by id", candidates=ids
                )
        names = tuple(node.title or node.class_type or node.node_id for node in self)
        raise WorkflowError(
            f"no output of a node {name!r}; there are outputs of: {', '.join(names) or 'none'}",
            candidates=nearest(name, names) or names,
        )

    def __iter__(self) -> Iterator[NodeOutput]:
        """The nodes that left something."""
        return iter(self.nodes.values())

    def __contains__(self, name: object) -> bool:
        """Whether a node of that id, title or class left something."""
        return any(str(name) in (node.node_id, node.title, node.class_type) for node in self)


def make_result(
    prompt_id: str,
    graph: Mapping[str, Any],
    outputs: Mapping[str, Mapping[str, Any]],
    *,
    frames: Sequence[tuple[str, str, memoryview]] = (),
    files: FileRoutes | None = None,
    **facts: Any,
) -> Result:
    """From what history or events say; ``frames`` are (node id, MIME type, picture)."""
    by_node: dict[str, list[Output]] = {node_id: [] for node_id in outputs}
    texts: dict[str, list[str]] = {}
    for node_id, output in outputs.items():
        found, said = _walk(node_id, output, files)
        by_node[node_id] += found
        texts[node_id] = said
    for index, (node_id, mime, picture) in enumerate(frames, 1):
        name = f"{title_of(graph, node_id) or class_of(graph, node_id) or 'image'}_{index:05d}_"
        name = f"{name}.{_ENDINGS.get(mime, 'jpg')}"
        frame = OutputFrame(name, node_id=node_id, mime=mime, data=picture)
        by_node.setdefault(node_id, []).append(frame)
    nodes = {
        node_id: NodeOutput(
            files=tuple(found),
            texts=tuple(texts.get(node_id, ())),
            node_id=node_id,
            title=title_of(graph, node_id),
            class_type=class_of(graph, node_id),
            raw=outputs.get(node_id, {}),
        )
        for node_id, found in by_node.items()
    }
    files_of_all = [item for node in nodes.values() for item in node.files]
    return Result(
        # What runs first depends on what is cached, and previews of nodes amid the graph come
        # and go with it: the picture that was saved stays the first.
        files=tuple(sorted(files_of_all, key=lambda item: item.type == "temp")),
        texts=tuple(text for node in nodes.values() for text in node.texts),
        prompt_id=prompt_id,
        nodes=nodes,
        **facts,
    )


def _walk(
    node_id: str, output: Mapping[str, Any], files: FileRoutes | None
) -> tuple[list[OutputFile], list[str]]:
    """Every list is looked at, whatever its key: a dict with a filename is a file.

    One that could not be asked for by its name is none, and stays in ``raw``.
    """
    found: list[OutputFile] = []
    texts: list[str] = []
    for key, values in output.items():
        for value in values if isinstance(values, list) else [values]:
            if isinstance(value, str):
                texts.append(text(value, len(value)) or "")
            elif isinstance(value, Mapping) and exact(value.get("filename"), MOST_NAME):
                subfolder = value.get("subfolder")
                if isinstance(subfolder, str) and exact(subfolder, MOST_NAME) is None:
                    continue
                found.append(
                    OutputFile(
                        filename=value["filename"],
                        subfolder=subfolder if isinstance(subfolder, str) else "",
                        type=text(value.get("type"), MOST_ID) or "output",
                        node_id=node_id,
                        key=identifier(key) or "",
                        raw=value,
                        files=files,
                    )
                )
    return found, texts
