"""Roles of inputs: prompts, seed, size and checkpoint, found by the structure of a graph.

The search begins at the samplers and follows the links back: through ControlNets, guiders, LoRAs
and reroutes to the text encoders, the noise, the empty latent and the loader of the model, and
further to the node that holds the value if an input is linked.  The search goes by the names of
inputs, not by classes; the one exception is ``ConditioningZeroOut``, which cancels a prompt.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import attrs

from ..errors import WorkflowError
from ..redaction import is_secret_value
from ..values import is_real
from .address import set_inputs
from .bypass import NodeInput, takers_of_each
from .graph import (
    as_link,
    brief,
    class_of,
    describe,
    downstream,
    inputs_of,
    links_of,
    listing,
    needed,
    sinks,
)
from .seeds import NAMES as SEEDS
from .seeds import is_wanted

#: A role: an attribute of a workflow.
Role: TypeAlias = Literal["positive", "negative", "seed", "size", "checkpoint"]


class _Words(NamedTuple):
    """The words of error messages about a role."""

    name: str
    source: str  #: Before a node from which its value comes.
    without: str  #: After a node that has none.


_WORDS: Final[Mapping[Role, _Words]] = {
    "positive": _Words("positive prompt", "the text comes from", "takes no text"),
    "negative": _Words("negative prompt", "the text comes from", "makes it void or takes none"),
    "seed": _Words("seed", "it comes from", "adds no noise"),
    "size": _Words("size", "it depends on", "works on the picture of another sampler"),
    "checkpoint": _Words("checkpoint", "the model comes from", "has none"),
}
#: Inputs of text encoders that hold a prompt; all that an encoder has form one group.
_TEXTS: Final = (
    *("text", "prompt", "user_prompt", "text_g", "text_l", "clip_g", "clip_l", "t5xxl", "llama"),
    *("bert", "mt5xl", "tags"),
)
_OWN_TEXTS: Final[Mapping[str, tuple[str, ...]]] = {
    "positive": ("positive", "positive_prompt", "prompt_positive"),
    "negative": ("negative", "negative_prompt", "prompt_negative"),
}
_MODELS: Final = ("ckpt_name", "unet_name", "model_name", "gguf_name", "model_path", "checkpoint")
#: Inputs to try on a linked node, after one with the same name as the input that is linked.
_HOLDERS: Final = ("value", "text", "string", "prompt", "seed", "noise_seed", "int", "number")
#: Classes that cancel a prompt.
_ZEROED: Final = frozenset({"ConditioningZeroOut"})
#: Prefixes of the linked inputs of nodes that make a conditioning without any text.
_PICTURES: Final = ("clip_vision", "image", "init_image", "pixels", "vae", "mask")
_MOST_STEPS: Final = 10_000
_MOST_SHOWN: Final = 8


class UnclearRole(WorkflowError, AttributeError):
    """Error for a role with no input or several inputs; an AttributeError, so ``hasattr`` works."""

    def __init__(self, message: str, **more: Any) -> None:
        super().__init__(message, **more)
        self.name: str = ""  # or Python suggests another role, and keeps the workflow


@attrs.define(eq=False, slots=False)
class _Search:
    """A search for the inputs of one role.

    Attributes:
        graph: The graph.
        role: The role.
        found: The inputs; each tuple is a group, such as the texts of one encoder.
        ends: Nodes where the search ended, as they compute the value and no input holds it.
        void: Nodes that cancel the role's value, or do not use one.
    """

    graph: Mapping[str, Any]
    role: Role
    found: dict[tuple[NodeInput, ...], None] = attrs.field(factory=dict)
    ends: dict[str, None] = attrs.field(factory=dict)
    void: dict[str, None] = attrs.field(factory=dict)
    _seen: set[tuple[str, int]] = attrs.field(factory=set)

    @cached_property
    def _takers(self) -> dict[tuple[str, int], list[NodeInput]]:
        return takers_of_each(self.graph)

    @cached_property
    def _sampled(self) -> set[str]:
        """The samplers, and all nodes that depend on a sampler's output."""
        return downstream(self.graph, [one for one in self.graph if is_sampler(self.graph, one)])

    def walk(self, links: Iterable[tuple[str, int]]) -> None:
        """Follow links back until nothing new is reached."""
        step: Callable[[str, int], Iterable[tuple[str, int]]] = {
            "positive": self._prompt,
            "negative": self._prompt,
            "size": self._latent,
            "checkpoint": self._model,
        }.get(self.role, self._noise)
        ahead = deque(links)
        while ahead:
            link = ahead.popleft()
            if link in self._seen or link[0] not in self.graph:
                continue
            if len(self._seen) >= _MOST_STEPS:
                self.ends[link[0]] = None
                break
            self._seen.add(link)
            ahead += step(*link)

    def links(self, node_id: str, *names: str) -> list[tuple[str, int]]:
        """Return the sources of a node's links whose input name begins with one of these names."""
        return [
            (source, slot)
            for name, source, slot in links_of(self.graph, node_id)
            if name.startswith(names) and name != "model_patch"
        ]

    def add(self, node_id: str, *names: str) -> None:
        """Record the inputs that hold the values of these inputs of a node, as one group."""
        places = [self._holder(node_id, name) for name in names]
        settled = [place for place in places if place is not None]
        if self.role != "size":  # an empty text beside another is not used
            settled = [p for p in settled if self.value(p) != ""] or settled
        if settled and (self.role != "size" or len(settled) == len(names)):
            self.found[tuple(settled)] = None

    def value(self, place: NodeInput) -> Any:
        """Return the value of an input."""
        return inputs_of(self.graph, place[0])[place[1]]

    def _holder(self, node_id: str, name: str) -> NodeInput | None:
        """Return the input that holds a value: this one, or one of a linked node; or else None."""
        for _ in range(_MOST_SHOWN * 4):
            inputs = inputs_of(self.graph, node_id)
            value = inputs.get(name)
            link = as_link(value)
            if link is None:
                if self.fits(value):
                    return node_id, name
                break
            node_id = link[0]
            inputs = inputs_of(self.graph, node_id)
            chosen = _chosen(self.graph, node_id)
            if chosen is not None:
                name = chosen
                continue
            held = [key for key in dict.fromkeys((name, *_HOLDERS)) if self.fits(inputs.get(key))]
            links = list(links_of(self.graph, node_id))
            if held:
                name = held[0]
                # A text that is joined with other texts cannot be set on its own.
                others = [key for key, one in inputs.items() if type(one) is str and key != name]
                if links and (not self._is_text or others):
                    break
                return node_id, name
            if len(links) != 1 or (self._is_text and len(inputs) > 1):
                break
            name = links[0][0]
        self.ends[node_id] = None
        return None

    def near(self) -> Iterator[NodeInput]:
        """Yield inputs that may contribute to the value, near the nodes where the search ended."""
        names = {*_TEXTS, *_HOLDERS, "string_a", "string_b"}
        ends = needed(self.graph, self.ends, ()) if self._is_text else self.ends
        for node_id in self.graph if ends else ():
            if node_id not in ends:
                continue
            for name, value in inputs_of(self.graph, node_id).items():
                if self.fits(value) and (name in names or self.role == "size"):
                    yield node_id, name

    @property
    def _is_text(self) -> bool:
        return self.role in ("positive", "negative", "checkpoint")

    def fits(self, value: object) -> bool:
        """Return whether a value is of the right type for the role."""
        if self._is_text:
            return isinstance(value, str)
        if self.role == "seed" and is_wanted(value):
            return True
        return _is_number(value)

    # -- steps back -----------------------------------------------------------------------

    def _prompt(self, node_id: str, slot: int) -> list[tuple[str, int]]:
        inputs = inputs_of(self.graph, node_id)
        if class_of(self.graph, node_id) in _ZEROED:
            self.void[node_id] = None
            return []
        own = [
            name
            for name in _OWN_TEXTS[self.role]
            if isinstance(inputs.get(name), str) or (name in inputs and name != self.role)
        ]
        if own:
            self.add(node_id, *own)
            return []
        if any(as_link(inputs.get(name)) for name in ("positive", "negative")):
            link = as_link(inputs.get(self._side(node_id, slot)))
            if link is None:
                self.void[node_id] = None
            return [] if link is None else [link]
        before = self.links(node_id, "cond")
        if before:
            return before
        texts = [
            name
            for name in _TEXTS
            if isinstance(inputs.get(name), str) or as_link(inputs.get(name))
        ]
        if texts:
            self.add(node_id, *texts)
            return []
        if all(name.startswith(_PICTURES) for name, _, _ in links_of(self.graph, node_id)):
            self.void[node_id] = None
            return []
        return self._only_way(node_id)

    def _side(self, node_id: str, slot: int) -> str:
        """Return which of a node's two prompts an output carries: ``"positive"`` or ``"negative"``.

        The names of the inputs linked to it decide, not the slot, as a model output may come first.
        """
        names = {name for _, name in self._takers.get((node_id, slot), ())}
        sides = names & {"positive", "negative"}
        if len(sides) == 1:
            return sides.pop()
        return "positive" if sides or slot == 0 else "negative"

    def _latent(self, node_id: str, _: int) -> list[tuple[str, int]]:
        inputs = inputs_of(self.graph, node_id)
        if is_sampler(self.graph, node_id):
            return []  # another sampler, whose latent has a size of its own
        before = self.links(node_id, "video_latent") or self.links(node_id, "latent", "samples")
        if not before and "width" in inputs and "height" in inputs:
            self.add(node_id, "width", "height")
            return []
        if not before and self.links(node_id, "pixels"):
            (self.void if node_id in self._sampled else self.ends)[node_id] = None
            return []
        return before or self._only_way(node_id)

    def _model(self, node_id: str, _: int) -> list[tuple[str, int]]:
        before = self.links(node_id, "model")
        names = [name for name in _MODELS if name in inputs_of(self.graph, node_id)]
        if names and not before:
            self.add(node_id, names[0])
            return []
        return before or self._only_way(node_id)

    def _noise(self, node_id: str, _: int) -> list[tuple[str, int]]:
        names = [name for name in SEEDS if name in inputs_of(self.graph, node_id)]
        if names:
            self.add(node_id, names[0])
            return []
        links = self.links(node_id, "noise")
        if not (links or inputs_of(self.graph, node_id)):
            self.void[node_id] = None  # no noise
            return []
        return links or self._only_way(node_id)

    def _only_way(self, node_id: str) -> list[tuple[str, int]]:
        """Return the link that a reroute or a switch passes on; end the search at other nodes."""
        chosen = _chosen(self.graph, node_id)
        links = [
            (source, slot)
            for name, source, slot in links_of(self.graph, node_id)
            if chosen in (None, name)
        ]
        if chosen is not None:
            return links
        if len(inputs_of(self.graph, node_id)) == len(links) == 1:
            return links
        self.ends[node_id] = None
        return []


def _chosen(graph: Mapping[str, Any], node_id: str) -> str | None:
    """Return the input that a switch passes on; None for other nodes."""
    inputs = inputs_of(graph, node_id)
    if not {"switch", "on_true", "on_false"} <= inputs.keys():
        return None
    value = inputs["switch"]
    link = as_link(value)
    value = inputs_of(graph, link[0]).get("value") if link else value
    return ("on_true" if value else "on_false") if isinstance(value, bool) else None


# -- where it begins ------------------------------------------------------------------------


def is_sampler(graph: Mapping[str, Any], node_id: str) -> bool:
    """Return whether a node is a sampler, with a conditioning or a guider, and noise or a seed."""
    inputs = inputs_of(graph, node_id)
    takes = any(as_link(inputs.get(name)) for name in ("positive", "guider"))
    return takes and any(name in inputs for name in (*SEEDS, "noise"))


def _samplers(graph: Mapping[str, Any]) -> list[str]:
    """Return the ids of the samplers whose output is used or, if none is, of all samplers."""
    unused = sinks(graph)
    found = [node_id for node_id in graph if is_sampler(graph, node_id)]
    return [node_id for node_id in found if node_id not in unused] or found


def _search(graph: Mapping[str, Any], role: Role) -> _Search:
    search = _Search(graph, role)
    samplers = _samplers(graph)
    for sampler in samplers:
        search.walk(_starts(search, sampler))
    if not samplers:
        _search_anywhere(search)
    if role == "negative" and search.found:  # linked to the encoder of the positive prompt
        for places in _search(graph, "positive").found:
            if search.found.pop(places, places) is None:
                search.void[places[0][0]] = None
    return search


def _starts(search: _Search, sampler: str) -> Iterator[tuple[str, int]]:
    inputs = inputs_of(search.graph, sampler)
    match search.role:
        case "seed":
            if inputs.get("add_noise") not in ("disable", False):
                names = [name for name in SEEDS if name in inputs]
                if names:
                    search.add(sampler, names[0])
                yield from search.links(sampler, "noise") if not names else ()
            else:
                search.void[sampler] = None
        case "size":
            yield from search.links(sampler, "latent")
        case "checkpoint":
            node_id = _guider(search.graph, sampler)
            yield from search.links(sampler, "model") or search.links(node_id, "model")
        case role:
            node_id = _guider(search.graph, sampler)
            links = [link] if (link := as_link(inputs_of(search.graph, node_id).get(role))) else []
            if not links and role == "positive":
                links = search.links(node_id, "cond1") or search.links(node_id, "cond")
            if not links:
                search.void[node_id] = None
            yield from links


def _guider(graph: Mapping[str, Any], sampler: str) -> str:
    """Return the id of the node that uses the conditioning: the sampler, or its guider."""
    node_id, seen = sampler, {sampler}
    while link := as_link(inputs_of(graph, node_id).get("guider")):
        if link[0] in seen or link[0] not in graph:
            break
        node_id = link[0]
        seen.add(node_id)
    return node_id


def _search_anywhere(search: _Search) -> None:
    """Search all nodes of a graph without samplers, such as one that uses an external service."""
    names: Mapping[Role, tuple[str, ...]] = {
        "positive": ("prompt", *_OWN_TEXTS["positive"]),
        "negative": _OWN_TEXTS["negative"],
        "seed": SEEDS,
        "checkpoint": ("ckpt_name", "unet_name"),
    }
    for node_id in search.graph:
        inputs = inputs_of(search.graph, node_id)
        found = [name for name in names.get(search.role, ()) if name in inputs]
        if found:
            search.add(node_id, found[0])


# -- answers --------------------------------------------------------------------------------


def get_role(graph: Mapping[str, Any], role: Role) -> Any:
    """Return the value of a role; the size as (width, height).

    Raises:
        WorkflowError: No input has the role, or several with different values;
            ``candidates`` are inputs by address.
    """
    return next(iter(_places(graph, role).values()))


def clear_roles(graph: Mapping[str, Any]) -> dict[NodeInput, Role]:
    """Return the role of each input that has one, by (node id, name); omit unclear roles."""
    found: dict[NodeInput, Role] = {}
    for role in _WORDS:
        with contextlib.suppress(UnclearRole):
            found |= {place: role for places in _places(graph, role) for place in places}
    return found


def set_role(graph: dict[str, Any], role: Role, value: Any) -> None:
    """Set all inputs of a role.

    Raises:
        TypeError: ``value`` is not of the role's type.
        WorkflowError: As :func:`get_role`.
    """
    values = _checked(role, value)
    found = _places(graph, role)
    if role == "seed" and is_wanted(value):
        _check_drawn(graph, [place for places in found for place in places])
    if role == "size":
        set_inputs(graph, {p: values[i] for places in found for i, p in enumerate(places)})
    else:
        set_inputs(graph, {place: values[0] for places in found for place in places})


def _checked(role: Role, value: Any) -> tuple[Any, ...]:
    if role == "size":
        if not isinstance(value, (tuple, list)) or len(value) != 2:
            raise TypeError(f"the size is a pair, (width, height), not {brief(value)}")
        if not all(map(_is_number, value)):
            raise TypeError(f"the size is two numbers, (width, height), not {brief(value)}")
        return tuple(value)
    if role == "seed":
        if not (_is_number(value) or is_wanted(value)):
            raise TypeError(f'the seed is a number or "random", not {brief(value)}')
    elif not isinstance(value, str):
        raise TypeError(f"the {_WORDS[role].name} is a text, not {brief(value)}")
    return (value,)


def _is_number(value: object) -> bool:
    return is_real(value) and not isinstance(value, bool)


def _check_drawn(graph: Mapping[str, Any], places: Iterable[NodeInput]) -> None:
    """Raise WorkflowError unless each of these inputs can be given a random seed."""
    for node_id, name in places:
        if name not in SEEDS:
            raise WorkflowError(
                f"no seed is drawn for input {brief(name)} of {describe(graph, node_id)}, only for "
                f"inputs {listing(SEEDS)}: set a number"
            )


def _places(graph: Mapping[str, Any], role: Role) -> dict[tuple[NodeInput, ...], Any]:
    """Return the inputs of a role with their values, which are all equal.

    Raises:
        WorkflowError: No input has the role, or the values differ.
    """
    search = _search(graph, role)
    values: dict[tuple[NodeInput, ...], Any] = {}
    different: dict[str, None] = {}
    for places in search.found:
        given = [search.value(place) for place in places]
        values[places] = tuple(given) if role == "size" else given[0]
        different.update(dict.fromkeys([repr(given)] if role == "size" else map(repr, given)))
    if not values:
        raise _nothing(search)
    if len(different) > 1 or search.ends:
        raise _unclear(search)
    return values


def _unclear(search: _Search) -> UnclearRole:
    graph, name = search.graph, _WORDS[search.role].name
    places = list(dict.fromkeys(place for found in search.found for place in found))
    lines = [_each(search, places)]
    lines += [f"the output of {describe(graph, one)}" for one in list(search.ends)[:_MOST_SHOWN]]
    more = "; ..." if len(places) > _MOST_SHOWN or len(search.ends) > _MOST_SHOWN else ""
    return UnclearRole(
        f"several inputs are the {name} of this workflow; set one by its address: "
        + "; ".join(lines)
        + more,
        candidates=tuple(map(".".join, places)),
    )


def _nothing(search: _Search) -> UnclearRole:
    graph, words = search.graph, _WORDS[search.role]
    reasons = [f"{words.source} {describe(graph, one)}" for one in list(search.ends)[:_MOST_SHOWN]]
    reasons += [
        f"{describe(graph, one)} {words.without}" for one in list(search.void)[:_MOST_SHOWN]
    ]
    if not reasons:
        reasons = ["no node samples" if not _samplers(graph) else "no input has it"]
    near = list(search.near())
    return UnclearRole(
        f"no input is the {words.name} of this workflow: {'; '.join(reasons)}"
        + (f"; perhaps {_each(search, near)}" if near else ""),
        candidates=tuple(map(".".join, near)),
    )


def _each(search: _Search, places: list[NodeInput]) -> str:
    return "; ".join(
        f"{brief('.'.join(place))} = {_shown(place[1], search.value(place))} of "
        f"{describe(search.graph, place[0])}"
        for place in places[:_MOST_SHOWN]
    )


def _shown(name: str, value: Any) -> str:
    return "'***'" if is_secret_value(name, value) else brief(value)
