"""The outputs of a prompt: files on the server, images from the socket, and texts."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from ..errors import WorkflowError
from ..nearest import nearest
from ..routes.files import IN_MEMORY, FileRoutes
from ..transport.files import IfExists, distinct_names, rule_for, target_path, write_atomically
from ..values import MAX_ID_LENGTH, exact, identifier, text
from ..workflow import Workflow, class_of, title_of
from ..workflow.seeds import seed_before

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
    """One output of a node: a file on the server, or an image that came over the socket.

    All methods and fields work for both.

    Attributes:
        filename: The name on the server, without folders; for an :class:`OutputFrame`, a name that
            the client made.
        subfolder: The folder below that of ``type``; empty: none.
        type: ``output``: a file that is kept; ``temp`` (of preview nodes): a file that the server
            deletes at its next restart; ``websocket``: an image in memory, in no folder of the
            server.
        node_id: The id of the node that made it.
    """

    filename: str
    subfolder: str = ""
    type: str = "output"
    node_id: str = ""
    _graph: Mapping[str, Any] = attrs.field(factory=dict, repr=False, kw_only=True)

    @property
    def media(self) -> str:
        """``"image"``, ``"video"``, ``"audio"`` or ``"other"``, by the file name extension."""
        return _BY_ENDING.get(os.path.splitext(self.filename)[1][1:].lower(), "other")

    @property
    def seed(self) -> int | None:
        """The seed that it was made with; ``None``: there is none, or it is not clear which.

        It is the number in an input ``seed`` or ``noise_seed``, of the node before this output
        that is nearest along the links; several different ones at the same distance give
        ``None``.  All images of one batch have the same.  Sends no request.
        """
        return seed_before(self._graph, self.node_id)

    @abstractmethod
    def workflow(self, *, timeout: float | None = None) -> Workflow:
        """The workflow that made it.

        Of a file, it is the one that ComfyUI saved in it: ``GET /view``, of which no more is read
        than is needed, little of most images.  An output that came from the cache has that of
        the earlier prompt, and may lack nodes that were not part of it.  Of an
        :class:`OutputFrame`, it is that of the prompt.

        Args:
            timeout: Seconds; ``None``: an hour.

        Raises:
            WorkflowError: There is none in it: the server runs with ``--disable-metadata``, the
                node that saved it writes none, or the file is damaged.  ``Workflow.load(result)``
                is that of the prompt.
            NotFound: The file has been deleted.
        """

    @property
    @abstractmethod
    def url(self) -> str | None:
        """The URL for a browser, without credentials; ``None``: it is on no server."""

    @abstractmethod
    def bytes(self, *, timeout: float | None = None) -> bytes:
        """The content, in memory.

        A file is read by ``GET /view``, which raises :class:`NotFound` if it has been deleted,
        and the errors of any request.  ``timeout`` is in seconds; ``None``: an hour.  It ends
        earlier if the server sends nothing for the client's own ``timeout``.
        """

    @abstractmethod
    def save(
        self,
        path: str | os.PathLike[str] = "./",
        *,
        if_exists: IfExists | None = None,
        timeout: float | None = None,
    ) -> Path:
        """Write it to the disk and return the path; a file's ``GET /view`` is streamed.

        Args:
            path: A folder if it ends in ``/`` or exists as one: the file keeps its name there.
                Otherwise the exact path of the file, with an extension or without.  A
                :class:`Path` loses a ``/`` at its end: use ``"out/"``, or create the folder
                before.
            if_exists: ``"number"`` (``None`` in a folder), ``"overwrite"`` (``None`` for an
                exact file) or ``"skip"``.
            timeout: As for :meth:`bytes`.

        The file appears only when it is complete.
        """

    @abstractmethod
    def _write(self, target: Path, if_exists: IfExists) -> Path:
        """Write exactly this file: what lies there is not asked whether it is a folder."""


@attrs.frozen(eq=False)
class OutputFile(Output):
    """A file on the server.  Nothing is downloaded until you ask for it.

    Attributes:
        key: The key under which the node listed it; it says little about the kind of file.
        raw: The JSON object as received.
    """

    key: str = "images"
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False)
    _files: FileRoutes | None = attrs.field(default=None, repr=False)

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
        return self._files

    # help() shows the texts of Output.
    def workflow(self, *, timeout: float | None = None) -> Workflow:  # noqa: D102
        with self._routes.open_image(self, timeout=timeout) as file:
            return Workflow.load(file)

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
    """A finished image of ``SaveImageWebsocket``, which came over the socket and is in memory.

    Attributes:
        mime: The type of the image, such as ``image/png``.
    """

    type: str = attrs.field(default=IN_MEMORY, init=False)
    mime: str = attrs.field(kw_only=True)
    _data: memoryview = attrs.field(kw_only=True, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return _frame, (self.filename, self.node_id, self.mime, self.bytes(), self._graph)

    @property
    def url(self) -> None:
        """``None``: it is on no server."""

    def workflow(self, *, timeout: float | None = None) -> Workflow:  # noqa: D102
        return Workflow.load(self._graph)

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


def _frame(
    filename: str, node_id: str, mime: str, data: bytes, graph: Mapping[str, Any]
) -> OutputFrame:
    """Out of a pickle, which carries no memoryview."""
    return OutputFrame(filename, node_id=node_id, mime=mime, data=memoryview(data), graph=graph)


@attrs.frozen(eq=False)
class _Outputs:
    """The common base of results and their nodes, which explain the fields."""

    files: tuple[Output, ...] = ()
    texts: tuple[str, ...] = ()

    def _of(self, media: str) -> tuple[Output, ...]:
        return tuple(item for item in self.files if item.media == media)

    @property
    def images(self) -> tuple[Output, ...]:
        """The images, animated ones included."""
        return self._of("image")

    @property
    def videos(self) -> tuple[Output, ...]:
        """The videos, under any key of the node's output."""
        return self._of("video")

    @property
    def audio(self) -> tuple[Output, ...]:
        """The audio files."""
        return self._of("audio")

    def save(
        self, folder: str | os.PathLike[str], *, if_exists: IfExists | None = None
    ) -> list[Path]:
        """Write all files into a folder, which is created if missing; return their paths.

        Unlike the path of :meth:`Output.save`, ``folder`` need not end in ``/``.  ``if_exists``
        is about older files; the default is ``"number"``.  Files are numbered if they have the
        same name in different folders of the server, if only some file systems distinguish
        their names, or if a folder has their name.
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
    """The outputs of one node.

    Attributes:
        files: The files and images of the node, in the server's order.
        texts: The texts that the node shows.
        node_id: The id of the node.
        title: The title of the node; ``None``: it has none.
        class_type: The class of the node; ``None``: unknown.
        raw: The JSON object as received.
    """

    node_id: str = ""
    title: str | None = None
    class_type: str | None = None
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False)


def _find(nodes: Mapping[str, NodeOutput], name: str) -> NodeOutput:
    """The outputs of a node, by id, title or class."""
    if name in nodes:
        return nodes[name]
    for attribute in ("title", "class_type"):
        found = [node for node in nodes.values() if getattr(node, attribute) == name]
        if len(found) == 1:
            return found[0]
        if found:
            ids = tuple(node.node_id for node in found)
            raise WorkflowError(
                f"{name!r} means the nodes {', '.join(ids)}; say which by id", candidates=ids
            )
    names = tuple(node.title or node.class_type or node.node_id for node in nodes.values())
    raise WorkflowError(
        f"no output of a node {name!r}; there are outputs of: {', '.join(names) or 'none'}",
        candidates=nearest(name, names) or names,
    )


class NamedOutputs(dict[str, NodeOutput]):
    """Outputs by the names of a template, or by node id; any node also by id, title or class."""

    def __init__(self, nodes: Mapping[str, NodeOutput], names: Mapping[str, str]) -> None:
        self._nodes, self._names = nodes, names
        keys = names or dict(zip(nodes, nodes, strict=True))
        super().__init__({name: nodes[key] for name, key in keys.items() if key in nodes})

    def __reduce__(self) -> tuple[Any, ...]:
        return NamedOutputs, (self._nodes, self._names)

    def __missing__(self, name: object) -> NodeOutput:
        return _find(self._nodes, self._names.get(str(name), str(name)))


@attrs.frozen(eq=False)
class Result(_Outputs):
    """The outputs of a prompt: files on the server, images from the socket, and texts.

    Example::

        from comfy_client import ComfyApi

        with ComfyApi("http://127.0.0.1:8188") as api:
            result = api.run("txt2img.json")
            for image in result.images:
                image.save("out/")
            print(result["SaveImage"].files, result.seeds, result.fully_cached)

    Attributes:
        files: All files and images in the server's order, but those of type ``temp`` last.
        texts: The texts that nodes show.
        prompt_id: The id of the prompt.
        nodes: The outputs of each node, by node id.
        cached_nodes: The ids of the nodes that did not run again.
        fully_cached: True if no node ran, since nothing had changed: for another image change the
            seed.
        seeds: The numbers in the inputs ``seed`` and ``noise_seed``, by node id; for ``"random"``
            and -1, those that were drawn.  A linked input is missing here: another node has or
            makes its value.
        node_errors: Why some outputs did not run, by node id; empty: all ran.
        complete: False if outputs may be missing: the history was deleted before it was read, or
            the socket was down, which alone delivers images of ``SaveImageWebsocket``.
        outputs: The outputs of nodes by the names that a :class:`Template` gave them; without
            one, by node id.  ``outputs["Save"]`` also finds a node by id, title or class, as
            ``result["Save"]``.
        graph: The graph of the prompt, in API format; empty: not known.  In a pickle, passwords and
            keys in it (by the names of their inputs) are ``***``.
    """

    prompt_id: str = ""
    nodes: Mapping[str, NodeOutput] = attrs.field(factory=dict, repr=False)
    cached_nodes: tuple[str, ...] = ()
    fully_cached: bool = False
    seeds: Mapping[str, int] = attrs.field(factory=dict)
    node_errors: Mapping[str, Any] = attrs.field(factory=dict)
    complete: bool = True
    outputs: Mapping[str, NodeOutput] = attrs.field(factory=dict, repr=False)
    graph: Mapping[str, Any] = attrs.field(factory=dict, repr=False)

    def __getitem__(self, name: str) -> NodeOutput:
        """The outputs of a node, by id, title or class.

        Raises :class:`WorkflowError` if the name is ambiguous, or the node has no output; the
        message names the nodes that have some.
        """
        return _find(self.nodes, str(name))

    def __iter__(self) -> Iterator[NodeOutput]:
        """The nodes that have outputs."""
        return iter(self.nodes.values())

    def __contains__(self, name: object) -> bool:
        """Whether a node of that id, title or class has outputs."""
        return any(str(name) in (node.node_id, node.title, node.class_type) for node in self)


def make_result(
    prompt_id: str,
    graph: Mapping[str, Any],
    outputs: Mapping[str, Mapping[str, Any]],
    *,
    frames: Sequence[tuple[str, str, memoryview]] = (),
    files: FileRoutes | None = None,
    output_names: Mapping[str, str] | None = None,
    **facts: Any,
) -> Result:
    """From what history or events say; ``frames`` are (node id, MIME type, picture)."""
    by_node: dict[str, list[Output]] = {node_id: [] for node_id in outputs}
    texts: dict[str, list[str]] = {}
    for node_id, output in outputs.items():
        found, said = _walk(node_id, output, files, graph)
        by_node[node_id] += found
        texts[node_id] = said
    for index, (node_id, mime, picture) in enumerate(frames, 1):
        name = f"{title_of(graph, node_id) or class_of(graph, node_id) or 'image'}_{index:05d}_"
        name = f"{name}.{_ENDINGS.get(mime, 'jpg')}"
        frame = OutputFrame(name, node_id=node_id, mime=mime, data=picture, graph=graph)
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
        outputs=NamedOutputs(nodes, output_names or {}),
        graph=graph,
        **facts,
    )


def _walk(
    node_id: str, output: Mapping[str, Any], files: FileRoutes | None, graph: Mapping[str, Any]
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
                        type=text(value.get("type"), MAX_ID_LENGTH) or "output",
                        node_id=node_id,
                        key=identifier(key) or "",
                        raw=value,
                        files=files,
                        graph=graph,
                    )
                )
    return found, texts
