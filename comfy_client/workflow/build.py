"""Build a workflow from code, node by node; choices of inputs are attributes, with completion."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Final, Generic, Literal, TypeVar, overload

import attrs

from ..errors import ComfyError, WorkflowError
from ..nearest import nearest
from ..upload import Upload
from .codegen import is_identifier
from .definition_source import Definitions, as_mapping, names_of
from .edit import Workflow
from .fill import fill
from .graph import as_file, brief, copied, describe, free_id, json_value, listing
from .input_specs import Autogrow, InputSpec, OutputSpec, positional, walk

_ENDING: Final = re.compile(r"\.[A-Za-z][A-Za-z0-9]{1,11}$")
#: The most choices that get a name.
_MOST_NAMED: Final = 10_000
_LONGEST_NAME: Final = 100


class UnknownName(WorkflowError, AttributeError):
    """Error for a name that the server lacks; an AttributeError, so that ``hasattr`` works."""


def unknown(what: str, name: str, names: Iterable[str]) -> UnknownName:
    """Return the error for a name that is not among ``names``, with the nearest of them."""
    known = tuple(names)
    near = nearest(name, known)
    hint = f"nearest: {listing(near)}" if near else f"there are {listing(known) or 'none'}"
    return UnknownName(f"{what} {brief(name)}; {hint}", candidates=near or known)


@attrs.frozen(eq=False, repr=False)
class Choices:
    """The choices of one input, as attributes; see :attr:`Graph.choices`.

    They can also be iterated, and looked up by their text in brackets.

    A choice that is a Python identifier is an attribute unchanged.  In other names, each run of
    characters other than ASCII letters and digits becomes ``_``.  A file extension is dropped
    unless two names would then be equal: ``tiny.ckpt`` is ``tiny``, ``sd/v1-5.safetensors`` is
    ``sd_v1_5``, and ``2x.pth`` is ``n2x``.
    """

    _where: str
    _values: tuple[Any, ...]
    _names: dict[str, Any] = attrs.field(init=False, factory=dict)

    def __attrs_post_init__(self) -> None:
        texts = [one for one in islice(self._values, _MOST_NAMED) if isinstance(one, str)]
        taken: dict[str, list[str]] = {}
        for text in texts:
            taken.setdefault(_name(_ENDING.sub("", text)), []).append(text)
        for short, some in taken.items():
            for text in some:
                name = text if is_identifier(text) else short if len(some) == 1 else _name(text)
                if name:
                    self._names.setdefault(name, text)

    def __getattr__(self, name: str) -> Any:
        try:
            return self._names[name]
        except KeyError:
            if name.startswith("_"):
                raise AttributeError(name) from None
            raise unknown(f"{self._where} has no choice", name, self._names) from None

    def __getitem__(self, choice: str) -> Any:
        if choice in self._values:
            return choice
        known = [one for one in self._values if isinstance(one, str)]
        raise unknown(f"{self._where} has no choice", str(choice), known)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, choice: object) -> bool:
        return choice in self._values

    def __dir__(self) -> Iterable[str]:
        return list(self._names)

    def _ipython_key_completions_(self) -> list[str]:
        return [one for one in self._values if isinstance(one, str)]

    def __repr__(self) -> str:
        return f"<{len(self)} choices: {listing(self._values, 6)}>"


def _name(text: str) -> str:
    """Make an identifier from a text; return ``""`` if that is impossible."""
    name = re.sub(r"[^A-Za-z0-9]+", "_", text[:_LONGEST_NAME]).strip("_")
    name = f"n{name}" if name[:1].isdigit() else name
    return name if is_identifier(name) else f"{name}_" if is_identifier(f"{name}_") else ""


@attrs.frozen(eq=False, repr=False)
class ClassChoices:
    """The inputs of a node class that have choices, as attributes."""

    _class_type: str
    _inputs: Mapping[str, Choices]

    def __getattr__(self, name: str) -> Choices:
        if name.startswith("_"):
            raise AttributeError(name)
        return self[name]

    def __getitem__(self, name: str) -> Choices:
        if name in self._inputs:
            return self._inputs[name]
        raise unknown(f"{self._class_type} has no choices for", name, self._inputs)

    def __dir__(self) -> Iterable[str]:
        return filter(is_identifier, self._inputs)

    def _ipython_key_completions_(self) -> list[str]:
        return list(self._inputs)

    def __repr__(self) -> str:
        return f"<choices of {self._class_type}: {listing(self._inputs)}>"


@attrs.frozen(eq=False, repr=False)
class AllChoices:
    """The choices of all node classes; see :attr:`Graph.choices`.

    ``choices.KSampler.sampler_name.euler`` is the text ``"euler"``.  Each step completes with Tab,
    and takes other names in brackets: ``choices["A class"]["model.size"]["1:1"]``.
    """

    _definition: Callable[[str], Mapping[str, Any] | None]
    _classes: Callable[[], Iterable[str]]

    def __getattr__(self, class_type: str) -> ClassChoices:
        if class_type.startswith("_"):
            raise AttributeError(class_type)
        try:
            return self[class_type]
        except UnknownName:
            raise
        except WorkflowError as exc:
            raise UnknownName(str(exc), candidates=exc.candidates) from None

    def __getitem__(self, class_type: str) -> ClassChoices:
        definition = self._definition(class_type)
        if definition is None:
            raise UnknownName("choices are unknown without definitions: make it with Graph(api)")
        specs = (one for one in walk(definition, {}) if isinstance(one, InputSpec))
        found = {
            one.name: Choices(f"{class_type}.{one.name}", tuple(one.choices))
            for one in specs
            if one.choices is not None
        }
        return ClassChoices(class_type, found)

    def __dir__(self) -> Iterable[str]:
        return filter(is_identifier, self._classes())

    def _ipython_key_completions_(self) -> list[str]:
        return list(self._classes())

    def __repr__(self) -> str:
        return "<choices of all node classes>"


#: The type of an output, such as ``Literal["MODEL"]``.
Kind = TypeVar("Kind", covariant=True)

#: The most parameters that a signature shows.
_MOST_SHOWN = 300


@attrs.frozen(order=False)
class Link(Generic[Kind]):
    """An output of a node of a :class:`Graph`, to pass to other nodes as an input.

    Attributes:
        node_id: The id of the node.
        slot: The index of the output, from 0.
        type: The type of the output, such as ``MODEL``; ``*`` for any; ``None`` if the graph has
            no definitions.
    """

    node_id: str
    slot: int = 0
    type: str | None = None
    _graph: object = attrs.field(default=None, eq=False, repr=False)


@attrs.frozen(eq=False, repr=False)
class GraphNode(Link[Kind]):
    """A node of a :class:`Graph`, as returned by the call that added it, with its outputs as links.

    Passed as an input, it stands for its first output.  Several outputs can be unpacked, or taken
    by slot or by name::

        model, clip, vae = g.CheckpointLoaderSimple(ckpt_name="tiny.safetensors")
        loader = g.CheckpointLoaderSimple(ckpt_name="tiny.safetensors")
        loader[1], loader["CLIP"], loader.CLIP  # all the same

    Without definitions the graph does not know the outputs of a node: there only ``loader[1]``
    works.
    """

    _outputs: tuple[OutputSpec, ...] | None = None

    @overload
    def __getitem__(self, output: Literal[0]) -> Link[Kind]: ...
    @overload
    def __getitem__(self, output: int | str) -> Link[Any]: ...
    def __getitem__(self, output: int | str) -> Link[Any]:
        slot = self._slot(output) if isinstance(output, str) else output
        if isinstance(slot, bool) or not isinstance(slot, int):
            raise TypeError(f"an output is addressed by slot or name, not by {brief(output)}")
        if slot < 0 or (self._outputs is not None and slot >= len(self._outputs)):
            raise WorkflowError(f"{self!r} has no output {brief(slot)}")
        kind = None if self._outputs is None else self._outputs[slot].kind
        return Link(self.node_id, slot, kind, self._graph)

    def __iter__(self) -> Iterator[Link[Any]]:
        if self._outputs is None:
            raise WorkflowError(
                f"how many outputs {self!r} has is unknown without definitions: "
                "take them by slot, as in node[0], or make the graph with Graph(api)"
            )
        return (self[slot] for slot in range(len(self._outputs)))

    def __getattr__(self, name: str) -> Link[Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self[name]
        except WorkflowError as exc:
            raise UnknownName(str(exc), candidates=exc.candidates) from None

    def __dir__(self) -> Iterable[str]:
        names = [one.name for one in self._outputs or ()]
        return [*super().__dir__(), *filter(is_identifier, names)]

    def __repr__(self) -> str:
        return f"<GraphNode {brief(self.node_id)}: {self._listing()}>"

    def _slot(self, name: str) -> int:
        outputs = self._outputs or ()
        for key in ("name", "kind"):
            slots = [slot for slot, one in enumerate(outputs) if getattr(one, key) == name]
            if len(slots) > 1:
                raise WorkflowError(
                    f"{self!r} has several outputs {brief(name)}; take one by its slot, "
                    f"one of {listing(slots)}"
                )
            if slots:
                return slots[0]
        names = tuple(one.name for one in outputs)
        near = nearest(name, names)
        hint = f"; nearest: {listing(near)}" if near else ""
        raise WorkflowError(f"{self!r} has no output {brief(name)}{hint}", candidates=near or names)

    def _listing(self) -> str:
        if self._outputs is None:
            return "its outputs are not known"
        return listing(one.name for one in self._outputs) or "no outputs"


def workflow_of(link: Link[Any]) -> Workflow:
    """Return the workflow of the graph that a link belongs to, as :meth:`Graph.workflow`.

    Raises:
        TypeError: The link was made by hand, and belongs to none.
    """
    if not isinstance(link._graph, BaseGraph):
        raise TypeError(f"{link!r} belongs to no Graph")
    return link._graph.workflow()


#: A function that adds a node of one class: see :meth:`Graph.node`.
MakeNode = Callable[..., GraphNode[Any]]


class BaseGraph:
    """The base class of :class:`Graph` and of the graphs in typed stubs."""

    choices: AllChoices

    def __init__(self, definitions: Definitions | None = None) -> None:
        if not (definitions is None or hasattr(definitions, "node_definitions")):
            as_mapping(definitions, ())  # raises WorkflowError if invalid
        self._definitions = definitions
        self._graph: dict[str, Any] = {}
        self._outputs: dict[str, tuple[OutputSpec, ...]] = {}
        self._last = 0
        # An attribute, as IPython completes behind no property.
        self.choices = AllChoices(self._definition, self._ipython_key_completions_)

    def node(
        self,
        class_type: str,
        /,
        *args: Any,
        _id: str | int | None = None,
        _title: str | None = None,
        _meta: Mapping[str, Any] | None = None,
        _extra: Mapping[str, Any] | None = None,
        _check: bool = True,
        **values: Any,
    ) -> GraphNode[Any]:
        """Add a node; ``g.KSampler(...)`` is short for ``g.node("KSampler", ...)``.

        Inputs take values and links.  A link is an earlier node, one of its outputs, or
        ``[node id, slot]``.  An input with a variable number of parts takes a list
        (``images=[a, b]``), or a dict by the names of the parts.  Names that are no Python
        identifiers go into a dict: ``g.ResizeImageMaskNode({"resize_type.width": 512}, ...)``.

        With definitions, omitted inputs get the frontend's defaults.  All inputs are checked as the
        server would check them, and a little more strictly: an INT is an ``int``, not a text that
        can be converted.  A value that is neither a link nor of the input's type is given as
        ``{"__value__": ...}``, which servers since 0.3.27 unwrap.

        Args:
            class_type: The class of the node, a key of ``GET /object_info``.
            *args: Inputs in the order of the definition: required ones first, then optional ones,
                values and links as they come, without the inputs that a choice adds.  A dict as the
                first of them has inputs by name.
            _id: The id of the node.  ``None``: the next number.
            _title: Its title.  ``None``: none.
            _meta: Further entries of its ``_meta``.
            _extra: Other keys of the node than ``class_type`` and ``inputs``.
            _check: Whether inputs are checked.  ``False`` is for the few nodes of packs that accept
                more than their definition says; links are checked even so.
            **values: Inputs by name.

        Raises:
            WorkflowError: The server has no such class, or would refuse the input; a required input
                is missing; the id is taken.  The message names the node, the input, the value and
                what would be right; ``candidates`` are similar names, or choices.
            TypeError: More ``args`` than inputs, which the message names; or ``args`` without
                definitions, as their order is unknown.
            ApiError: The server refused to give the definition; :class:`TransportError`: it gave
                no answer.
        """
        if not isinstance(class_type, str) or not class_type:
            raise TypeError(f"the class of a node must be a str, not {brief(class_type)}")
        definition = self._definition(class_type)
        node_id = str(free_id(self._graph, self._last)) if _id is None else str(_id)
        if node_id in self._graph:
            raise WorkflowError(f"there is a {describe(self._graph, node_id)} already")
        given = _by_name(class_type, definition, args)
        twice = next((name for name in given if name in values), None)
        if twice is not None:
            raise WorkflowError(f"{class_type}: input {brief(twice)} is given twice")
        node: dict[str, Any] = {"inputs": {}, "class_type": class_type}
        if _title is not None or _meta is not None:
            title = {} if _title is None else {"title": _title}
            node["_meta"] = {**title, **copied(_meta or {})}
        self._graph[node_id] = {**node, **copied(_extra or {}), **node}
        try:
            outputs = self._fill_in(node_id, {**given, **values}, definition, _check)
        except BaseException:
            del self._graph[node_id]
            raise
        if _id is None:
            self._last = int(node_id)
        return GraphNode(node_id, 0, outputs[0].kind if outputs else None, self, outputs)

    def workflow(self, *, order: Iterable[str] | None = None) -> Workflow:
        """Return the workflow so far, as a copy; more nodes can be added to the graph.

        Args:
            order: The ids of all nodes in the wanted order.  ``None``: the order in which they
                were made.

        Raises:
            WorkflowError: There is no node, or ``order`` lacks some or names others.
        """
        graph = self._graph
        if order is not None:
            ids = list(order)
            if sorted(ids) != sorted(graph):
                odd = listing(sorted(set(ids) ^ graph.keys())) or "one is named twice"
                raise WorkflowError(f"order must name each node of the graph once: {odd}")
            graph = {node_id: graph[node_id] for node_id in ids}
        if not graph:
            raise WorkflowError("the graph has no nodes yet")
        return Workflow(graph)

    def __getitem__(self, class_type: str) -> MakeNode:
        if not isinstance(class_type, str):
            raise TypeError(f"a node class is addressed by its name, not by {brief(class_type)}")
        return NodeClass(self.node, class_type, self._definition(class_type) or {})

    def __dir__(self) -> Iterable[str]:
        return [*super().__dir__(), *filter(is_identifier, self._ipython_key_completions_())]

    def _ipython_key_completions_(self) -> list[str]:
        try:
            return list(self._names())
        except ComfyError:  # no error during completion
            return []

    def __repr__(self) -> str:
        noun = "node" if len(self._graph) == 1 else "nodes"
        return f"<{type(self).__name__} {len(self._graph)} {noun}>"

    def _names(self) -> Collection[str]:
        return () if self._definitions is None else names_of(self._definitions)

    def _definition(self, class_type: str) -> Mapping[str, Any] | None:
        """Return the definition of a class; ``None`` if the graph has no definitions."""
        if self._definitions is None:
            return None
        found = as_mapping(self._definitions, [class_type]).get(class_type)
        if isinstance(found, Mapping):
            return found
        near = nearest(class_type, self._names())
        hint = f"nearest: {listing(near)}" if near else "is a custom node missing?"
        raise WorkflowError(
            f"the server has no node class {brief(class_type)}; {hint}", candidates=near
        )

    def _fill_in(
        self,
        node_id: str,
        given: Mapping[str, Any],
        definition: Mapping[str, Any] | None,
        check: bool,
    ) -> tuple[OutputSpec, ...] | None:
        """Fill in a node's inputs, and return its outputs; None if they are unknown."""
        node = self._graph[node_id]
        for name, value in given.items():
            fault: object = "the name is not a string"
            if isinstance(name, str):
                try:
                    known = definition is not None
                    node["inputs"][name] = self._value(node_id, name, value, parts=known)
                    continue
                except (ValueError, RecursionError) as exc:
                    fault = exc
            raise WorkflowError(f"{describe(self._graph, node_id)}, input {brief(name)}: {fault}")
        if definition is None:
            return None
        try:
            found = fill(self._graph, node_id, definition, self._outputs, check=check)
        except WorkflowError:
            newer = self._fetch_again(node["class_type"])
            if newer is None or newer == definition:
                raise
            # A model may have been added since.
            found = fill(self._graph, node_id, newer, self._outputs)
        node["inputs"], self._outputs[node_id] = found
        return found[1]

    def _fetch_again(self, class_type: str) -> Mapping[str, Any] | None:
        if self._definitions is None or isinstance(self._definitions, Mapping):
            return None
        newer = self._definitions.node_definitions([class_type], refresh=True)
        found = as_mapping(newer, [class_type]).get(class_type)
        return found if isinstance(found, Mapping) else None

    def _value(self, node_id: str, name: str, value: Any, *, parts: bool) -> Any:
        """Convert the value of an input: a file to an upload, others with :meth:`_json`."""
        if not isinstance(value, Link):
            value = as_file(self._graph, node_id, name, value)
        return value if isinstance(value, Upload) else self._json(value, parts=parts)

    def _json(self, value: Any, *, parts: bool) -> Any:
        """Convert a value to plain JSON, and a node or an output to ``[node id, slot]``."""
        if isinstance(value, Link):
            return self._link(value)
        if isinstance(value, (list, tuple)) and any(isinstance(one, Link) for one in value):
            if parts:
                return [self._json(one, parts=False) for one in value]
            raise ValueError(_ONE_BY_ONE)
        if isinstance(value, Mapping) and any(isinstance(one, Link) for one in value.values()):
            if parts:
                return {name: self._json(one, parts=False) for name, one in value.items()}
            raise ValueError(_ONE_BY_ONE)
        return json_value(value)

    def _link(self, link: Link[Any]) -> list[Any]:
        if link._graph is not self:
            raise ValueError(f"{link!r} belongs to another Graph")
        if self._outputs.get(link.node_id) == ():
            raise ValueError(f"{describe(self._graph, link.node_id)} has no outputs")
        return [link.node_id, link.slot]


def _by_name(
    class_type: str, definition: Mapping[str, Any] | None, args: tuple[Any, ...]
) -> dict[str, Any]:
    """Return the positional arguments of a call by input name; a leading dict has names already."""
    given: dict[str, Any] = {}
    if args and isinstance(args[0], Mapping) and "__value__" not in args[0]:
        given, args = dict(args[0]), args[1:]
    if args and definition is None:
        raise TypeError(
            f"{class_type} takes its inputs by name, not {brief(args[0])}: their order is unknown "
            "without definitions, so make the graph with Graph(api)"
        )
    names = positional(definition or {}) if args else []
    if len(args) > len(names):
        raise TypeError(
            f"{class_type} takes {len(names)} inputs, {listing(names, 30) or 'none'}; "
            f"{len(args)} were given"
        )
    for name, value in zip(names, args, strict=False):
        if name in given:
            raise WorkflowError(f"{class_type}: input {brief(name)} is given twice")
        given[name] = value
    return given


_ONE_BY_ONE = (
    "how an input takes several links is unknown without definitions: give each by its full "
    'name, such as {"images.image0": ...}, or make the graph with Graph(api)'
)


class Graph(BaseGraph):
    """A workflow that is built from code, and checked while it is built.

    Each node class of the server is a method.  Its call returns the node, which other calls take as
    an input; :meth:`node` describes the arguments, which are given by name or in the definition's
    order.  :attr:`choices` has the choices of inputs as attributes.  A class whose name is no
    Python identifier is ``g["Epsilon Scaling"](...)``.  ``dir(g)``, and Tab in a notebook, list the
    classes, and ``comfy-client stubs`` writes a module from which an editor and mypy know them all.

    Example::

        from comfy_client import ComfyApi, Graph

        with ComfyApi("http://127.0.0.1:8188") as api:
            g = Graph(api)
            model, clip, vae = g.CheckpointLoaderSimple()  # the first of the server
            latent = g.KSampler(
                model=model,
                positive=g.CLIPTextEncode("a fox in the snow", clip),
                negative=g.CLIPTextEncode("blurry", clip),
                latent_image=g.EmptyLatentImage(width=256, height=256),
                seed=7,
                steps=4,
            )
            save = g.SaveImage(images=g.VAEDecode(samples=latent, vae=vae), _title="The fox")
            result = api.run(g.workflow())
            print(result[save.node_id].files[0].filename)

    Args:
        definitions: A :class:`ComfyApi`, which is asked for the classes that are used, or a dict
            as ``GET /object_info`` gives it.  ``None``: nothing is checked and no default filled
            in, as in the code that :meth:`Workflow.to_code` writes.

    Attributes:
        choices: The choices of inputs as attributes: ``g.choices.KSampler.sampler_name.euler``.
            Each step completes with Tab in a notebook.  Files have their names without the ending:
            ``g.choices.CheckpointLoaderSimple.ckpt_name.tiny`` is ``"tiny.ckpt"``.
    """

    def __getattr__(self, name: str) -> MakeNode:
        if name.startswith("_"):  # private names of Python and notebooks
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        try:
            return self[name]
        except WorkflowError as exc:
            raise UnknownName(str(exc), candidates=exc.candidates) from None


@attrs.frozen(eq=False, repr=False)
class NodeClass:
    """A callable that adds nodes of one class; its signature shows the inputs of the class."""

    _node: MakeNode
    _class_type: str
    _definition: Mapping[str, Any]

    def __call__(self, /, *args: Any, **values: Any) -> GraphNode[Any]:
        """Add a node of this class, as :meth:`Graph.node` does."""
        return self._node(self._class_type, *args, **values)

    def __repr__(self) -> str:
        return f"<node class {brief(self._class_type)}>"

    @property
    def __signature__(self) -> inspect.Signature:
        """The signature for completion in a notebook: the inputs whose names are identifiers."""
        some = inspect.Parameter
        made: list[inspect.Parameter] = []
        order, has_order, is_optional = positional(self._definition), True, False
        for spec in islice(walk(self._definition, {}), _MOST_SHOWN):
            name = spec if isinstance(spec, str) else spec.name
            if isinstance(spec, str) or not is_identifier(name) or name == "more":
                has_order = has_order and name not in order  # what follows has another position
                continue
            way = some.POSITIONAL_OR_KEYWORD if has_order else some.KEYWORD_ONLY
            kind = [spec.part.kind] if isinstance(spec, Autogrow) else spec.kind
            shown = kind if isinstance(kind, str) else brief(kind)
            default = _default(spec)
            is_optional = is_optional or default is not some.empty
            if is_optional and has_order and default is some.empty:
                default = _REQUIRED  # Python has no parameter without a default behind others
            made.append(some(name, way, default=default, annotation=shown))
        return inspect.Signature([*made, some("more", some.VAR_KEYWORD)])


class _Required:
    """The type of the default that a signature shows for a required input after optional ones."""

    def __repr__(self) -> str:
        return "<required>"


_REQUIRED = _Required()


def _default(spec: InputSpec | Autogrow) -> Any:
    """Return the default of an input for a signature."""
    if isinstance(spec, Autogrow):
        return inspect.Parameter.empty if spec.least else ()
    try:
        return spec.default()
    except LookupError:
        return inspect.Parameter.empty if spec.required else None
