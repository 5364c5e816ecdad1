"""The outputs of a prompt: files on the server, images from the socket, and texts."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

import attrs

from ..errors import WorkflowError
from ..routes.files import FileRoutes
from ..showing.cells import Shown
from ..to_dict import AsDict
from ..transport.local_files import IfExists, distinct_names, rule_for
from ..values import MAX_ID_LENGTH, exact, identifier, text
from ..workflow import class_of, title_of
from ..workflow.graph import brief
from .output import Output, OutputFile, OutputFrame, Outputs, missing, name_values, save_all

#: The most characters of a file's name, and of its folders'; no system allows more.
MOST_NAME: Final = 4096

_ENDINGS: Final = {"image/png": "png", "image/webp": "webp", "image/gif": "gif"}


def _gathered(files: Iterable[Output]) -> Outputs:
    """Return outputs as a tuple that notebooks show; attrs would inspect a class for long."""
    return Outputs(files)


@attrs.frozen(eq=False, repr=False)
class _Outputs(Shown, AsDict):
    """The base class of results and node outputs, which document the fields."""

    files: tuple[Output, ...] = attrs.field(default=(), converter=_gathered)
    texts: tuple[str, ...] = ()

    def _of(self, media: str) -> tuple[Output, ...]:
        return Outputs([item for item in self.files if item.media == media])

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

    @property
    def image(self) -> Output:
        """The only image; preview nodes' images (``temp``) count only if there are no other images.

        Raises :class:`WorkflowError` with the number of images if there is not exactly one.
        """
        return self._only("images", self.images)

    @property
    def video(self) -> Output:
        """The only video, by the same rules as :attr:`image`."""
        return self._only("videos", self.videos)

    def _only(self, name: str, outputs: Sequence[Output]) -> Output:
        found = [item for item in outputs if item.type != "temp"] or outputs
        if len(found) != 1:
            first = f"; the first is {name}[0]" if found else ""
            kind = name if len(found) == len(outputs) else f"saved {name}"
            raise WorkflowError(f"{self!r} has {len(found)} {kind}, not one{first}")
        return found[0]

    def __len__(self) -> int:
        """Return the number of files and images."""
        return len(self.files)

    def __iter__(self) -> Iterator[Output]:
        """Return an iterator over the files and images."""
        return iter(self.files)

    def __bool__(self) -> bool:
        """Return True, even without any output."""
        return True

    def save(
        self, path: str | os.PathLike[str], *, if_exists: IfExists | None = None
    ) -> list[Path]:
        """Write all files, four at a time, and return their paths in the order of ``files``.

        Args:
            path: A folder, which is created if missing; unlike the path of :meth:`Output.save`,
                it need not end in ``/``.  With braces, a template for each file::

                    result.save("out/{seed}_{node}_{index:03}{ext}")

                ``{seed}`` is the seed of the output, or ``none``; ``{node}`` the title of its
                node, or its class; ``{index}`` the position in ``files``, from 0; ``{name}`` and
                ``{ext}`` the name on the server, and its extension with the dot;
                ``{KSampler.cfg}`` the value of an input.  ``{index:03}`` has three digits at
                least.  ``{{`` and ``}}`` are braces.
            if_exists: ``"number"`` (the default), ``"overwrite"`` or ``"skip"``; this is about
                older files.

        Files of one call never share a path: they are numbered if they have the same name, if
        only some file systems distinguish their names, or if a folder has their name.  Nothing is
        written outside the folder, or outside the part of a template before the first field,
        whatever servers and workflows have in names and values.

        Raises:
            ValueError: A field that does not exist, a brace alone, or ``..`` after a field.
            WorkflowError: No such input, or an ambiguous one; it is linked.  Both are raised
                before anything is fetched.

        Other errors are those of :meth:`Output.bytes`; files that are complete by then stay.
        """
        from .names import is_template, local_paths

        rule = rule_for(if_exists, "number")
        if is_template(path):
            named = [(name_values(item, index=n), item.filename) for n, item in enumerate(self)]
            return save_all(self.files, local_paths(path, named), rule)
        into = Path(path)
        names = distinct_names(
            (item.filename for item in self.files), lambda name: (into / name).is_dir()
        )
        return save_all(self.files, [into / name for name in names], rule)

    def check_files(self, *, timeout: float | None = None) -> list[Output]:
        """Return the files that are no longer on the server; empty if it has all of them.

        ``HEAD /view`` for each, four at a time.  Outputs from the cache name the files of an
        earlier prompt, which may have been deleted since; a restart of the server deletes those of
        type ``temp``.  To make them again, change an input, such as the seed, or call
        ``api.free_memory(free_memory=True, wait=1)``, which empties the cache.

        Args:
            timeout: Seconds for all of them; ``None``: no limit but the client's for each.

        Raises:
            RequestTimeout: Not in time.
            ApiError: The server refused to say.
        """
        return missing(self.files, timeout)


def _counted(outputs: _Outputs) -> str:
    """Return the numbers of outputs in words: ``2 images, 1 text``."""
    kinds = Counter(item.media for item in outputs.files)
    counts = {
        "image": kinds["image"],
        "video": kinds["video"],
        "audio file": kinds["audio"],
        "other file": kinds["other"],
        "text": len(outputs.texts),
    }
    found = [f"{n} {kind}{'s' * (n > 1)}" for kind, n in counts.items() if n]
    return ", ".join(found) or "no outputs"


@attrs.frozen(eq=False, repr=False)
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

    _in_dict: ClassVar[tuple[str, ...]] = ("node_id", "title", "class_type")

    node_id: str = ""
    title: str | None = None
    class_type: str | None = None
    raw: Mapping[str, Any] = attrs.field(factory=dict)

    def __repr__(self) -> str:
        name = self.title or self.class_type or self.node_id
        return f"<{type(self).__name__} {brief(name)}, {_counted(self)}>"

    def _html(self) -> str:
        from .gallery import gallery

        return gallery(self.files, self.texts)


def _find(nodes: Mapping[str, NodeOutput], name: str) -> NodeOutput:
    """Return a node's outputs by id, title or class; raise WorkflowError unless one matches."""
    if name in nodes:
        return nodes[name]
    for attribute in ("title", "class_type"):
        found = [node for node in nodes.values() if getattr(node, attribute) == name]
        if len(found) == 1:
            return found[0]
        if found:
            ids = tuple(node.node_id for node in found)
            raise WorkflowError(
                f"{name!r} means several nodes: {', '.join(ids)}; choose one by id", candidates=ids
            )
    from ..nearest import nearest  # for errors

    names = tuple(node.title or node.class_type or node.node_id for node in nodes.values())
    raise WorkflowError(
        f"no output of a node {name!r}; there are outputs of: {', '.join(names) or 'none'}",
        candidates=nearest(name, names) or names,
    )


class NamedOutputs(dict[str, NodeOutput]):
    """A dict of node outputs by template name or node id; lookups also accept title or class."""

    def __init__(self, nodes: Mapping[str, NodeOutput], names: Mapping[str, str]) -> None:
        self._nodes, self._names = nodes, names
        found = {name: nodes[key] for name, key in names.items() if key in nodes}
        super().__init__(found if names else nodes)

    def __reduce__(self) -> tuple[Any, ...]:
        return NamedOutputs, (self._nodes, self._names)

    def __missing__(self, name: object) -> NodeOutput:
        return _find(self._nodes, self._names.get(str(name), str(name)))


@attrs.frozen(eq=False, repr=False)
class Result(_Outputs):
    """The outputs of a prompt: files on the server, images from the socket, and texts.

    A result outlives its client: it can be shown, read and saved after the ``with`` block.

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
        node_errors: Why some outputs did not run, by node id; empty: all ran.  Since ComfyUI 0.36,
            a server may be asked in ``extra_data`` to go on after a failed node: then the nodes
            that failed are here.
        complete: False if outputs may be missing: the history was deleted before it was read, or
            the socket was down, which alone delivers images of ``SaveImageWebsocket``.
        outputs: The outputs of nodes by the names that a :class:`Template` gave them; without
            one, by node id.  ``outputs["Save"]`` also finds a node by id, title or class, as
            ``result["Save"]``.
        graph: The graph of the prompt, in API format; empty: not known.  In a pickle, passwords and
            keys in it (by the names of their inputs) are ``***``.
        seconds: How many seconds it ran, by the server's clock as far as that is known, without
            the wait in the queue; ``None``: not known.
    """

    _in_dict: ClassVar[tuple[str, ...]] = ("prompt_id",)
    _not_in_dict: ClassVar[tuple[str, ...]] = ("nodes", "graph")  # outputs have the files once more

    prompt_id: str = ""
    nodes: Mapping[str, NodeOutput] = attrs.field(factory=dict)
    cached_nodes: tuple[str, ...] = ()
    fully_cached: bool = False
    seeds: Mapping[str, int] = attrs.field(factory=dict)
    node_errors: Mapping[str, Any] = attrs.field(factory=dict)
    complete: bool = True
    outputs: Mapping[str, NodeOutput] = attrs.field(factory=dict)
    graph: Mapping[str, Any] = attrs.field(factory=dict)
    seconds: float | None = None

    def __getitem__(self, name: str) -> NodeOutput:
        """Return the outputs of a node, by id, title or class.

        Raises :class:`WorkflowError` if the name is ambiguous, or the node has no output; the
        message names the nodes that have some.
        """
        return _find(self.nodes, str(name))

    def __contains__(self, name: object) -> bool:
        """Return whether the result has an output, or outputs of a node by id, title or class."""
        if isinstance(name, Output):
            return name in self.files
        return any(
            str(name) in (node.node_id, node.title, node.class_type) for node in self.nodes.values()
        )

    def __repr__(self) -> str:
        facts = [_counted(self)]
        found = dict.fromkeys(item.seed for item in self.files if item.seed is not None)
        seeds = list(found or dict.fromkeys(self.seeds.values()))
        if seeds:
            more = f", ... ({len(seeds)})" if len(seeds) > 3 else ""
            facts.append(f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds[:3]))}{more}")
        facts += [] if self.seconds is None else [f"{self.seconds:.1f} s"]
        facts += ["from the cache"] if self.fully_cached else []
        facts += [] if self.complete else ["incomplete"]
        return f"<{type(self).__name__} {', '.join(facts)}>"

    def _html(self) -> str:
        return self.gallery()

    def gallery(self, timeout: float = 10.0) -> str:
        """Return HTML for a notebook: thumbnails, players and texts, limited in number and size.

        Args:
            timeout: Seconds to fetch the content; outputs that take longer are shown by name.
        """
        from .gallery import gallery

        nodes = self.nodes.values()
        titles = {node.node_id: node.title or node.class_type or "" for node in nodes}
        facts = [] if self.files or self.texts else ["no outputs"]
        facts += [] if self.seconds is None else [f"{self.seconds:.1f} s"]
        facts += ["from the cache"] if self.fully_cached else []
        facts += [] if self.complete else ["incomplete"]
        return gallery(self.files, self.texts, titles, facts, timeout)


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
    """Make a result from the outputs of nodes; ``frames`` are (node id, MIME type, picture)."""
    by_node: dict[str, list[Output]] = {}
    texts: dict[str, list[str]] = {}
    seeds: dict[str, int | None] = {}  # shared, as a node may have thousands of files
    for node_id, output in outputs.items():
        found, texts[node_id] = _walk(node_id, output, files, graph, seeds)
        by_node[node_id] = [*found]
    for index, (node_id, mime, picture) in enumerate(frames, 1):
        name = f"{title_of(graph, node_id) or class_of(graph, node_id) or 'image'}_{index:05d}_"
        name = f"{name}.{_ENDINGS.get(mime, 'jpg')}"
        frame = OutputFrame(
            name, node_id=node_id, mime=mime, data=picture, graph=graph, seeds=seeds
        )
        by_node.setdefault(node_id, []).append(frame)
    nodes = {
        node_id: _node_output(
            node_id, found, texts.get(node_id, ()), graph, outputs.get(node_id, {})
        )
        for node_id, found in by_node.items()
    }
    files_of_all = [item for node in nodes.values() for item in node.files]
    return Result(
        # The order of nodes, and the previews of intermediate ones, depend on the cache.  Sorting
        # keeps the saved picture first.
        files=tuple(sorted(files_of_all, key=lambda item: item.type == "temp")),
        texts=tuple(text for node in nodes.values() for text in node.texts),
        prompt_id=prompt_id,
        nodes=nodes,
        outputs=NamedOutputs(nodes, output_names or {}),
        graph=graph,
        **facts,
    )


def output_of(
    node_id: str, output: Mapping[str, Any], files: FileRoutes, graph: Mapping[str, Any]
) -> NodeOutput:
    """Return the outputs of one node from the JSON in its ``executed`` event."""
    found, texts = _walk(node_id, output, files, graph, {})
    return _node_output(node_id, found, texts, graph, output)


def _node_output(
    node_id: str,
    files: Iterable[Output],
    texts: Iterable[str],
    graph: Mapping[str, Any],
    raw: Mapping[str, Any],
) -> NodeOutput:
    return NodeOutput(
        files=tuple(files),
        texts=tuple(texts),
        node_id=node_id,
        title=title_of(graph, node_id),
        class_type=class_of(graph, node_id),
        raw=raw,
    )


def _walk(
    node_id: str,
    output: Mapping[str, Any],
    files: FileRoutes | None,
    graph: Mapping[str, Any],
    seeds: dict[str, int | None],
) -> tuple[list[OutputFile], list[str]]:
    """Collect files and texts of a node's output; a dict with a filename, in any list, is a file.

    A file whose name cannot be requested is left out, and stays in ``raw``.
    """
    found: list[OutputFile] = []
    texts: list[str] = []
    for key, values in output.items():
        for value in values if isinstance(values, list) else [values]:
            if isinstance(value, str):
                texts.append(text(value, len(value)) or "")
            elif isinstance(value, (dict, Mapping)) and exact(value.get("filename"), MOST_NAME):
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
                        seeds=seeds,
                    )
                )
    return found, texts
