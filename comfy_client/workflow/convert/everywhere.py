"""Anything Everywhere: links that the extension of cg-use-everywhere adds in the browser.

A node of that pack feeds the inputs of its own graph that have no link, and the type of what it
gets, as far as its restrictions allow.  Of several nodes, the one of the highest priority feeds an
input; of several with the same one, none does.

The rules are those of version 7.8, which also reads files of earlier versions.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Set
from typing import Any, Final

from attrs import define, evolve, frozen

from ...values import list_at, number, plain_text, table_at
from ..graph import brief, shorten
from .open_file import OpenFile, OpenGraph
from .open_nodes import InputBudget, OpenNode, Slot
from .saved_file import BYPASSED, INSIDE_IN, INSIDE_OUT, MUTED, SavedLink

#: The most comparisons of inputs with what could feed them.
_MOST_STEPS: Final = 5_000_000
_SEED: Final = "Seed Everywhere"
_PROMPTS: Final = "Prompts Everywhere"
#: Priorities: of any node, and what a kind of node or a restriction adds.
_PRIORITY, _MORE, _REGEX, _GROUP, _COLOR = 10, 10, 20, 3, 6
#: How the labels of several outputs of one type are compared with inputs; else they must be equal.
_BY_BEGINNING, _BY_END, _BY_TITLE, _BY_PATTERN = 1, 2, 3, 4
_EXPRESSIONS: Final = ("title", "input", "prompt", "negative", "group")
_SETTINGS: Final = "ue_properties"
_FLAG: Final = "widget_ue_connectable"


@define(eq=False)
class _Target:
    """An input without a link, or an output of a subgraph without one.

    Attributes:
        shown: The label of the input, or else its name.
        searched: The label, or else the translated name.
    """

    node: OpenNode | None
    slot: Slot | None
    place: int
    type: str
    shown: str
    searched: str

    @property
    def node_id(self) -> str:
        return INSIDE_OUT if self.node is None else self.node.id

    @property
    def title(self) -> str:
        return "" if self.node is None else self.node.title


@frozen(eq=False)
class _Broadcast:
    """An output that is offered to all inputs that may have it.

    Attributes:
        nodes: The ids of the nodes that it is restricted to.
        label: What an input must be named, or its node, by ``rule``; ``None``: anything.
        named: What the name of an input must match.
        unclear: Why only the browser knows the restrictions.
    """

    sender: OpenNode
    type: str
    source: str
    slot: int
    priority: float
    to_any: bool = False
    title: Pattern | None = None
    input: Pattern | None = None
    nodes: frozenset[str] | None = None
    label: str | None = None
    rule: Any = 0
    named: Pattern | None = None
    unclear: str = ""

    def takes(self, target: _Target, budget: InputBudget) -> bool:
        """Return whether an input may have it."""
        budget.spend(1)
        return (
            (target.type == self.type or (self.to_any and target.type == "*"))
            and self.source != target.node_id
            and (self.nodes is None or target.node_id in self.nodes)
            and (self.title is None or self.title.accepts(target.title, budget))
            and (self.input is None or self.input.accepts(target.searched, budget))
            and (self.named is None or self.named.accepts(target.shown, budget))
            and (self.label is None or self._is_like(self.label, target))
        )

    def _is_like(self, label: str, target: _Target) -> bool:
        """Return whether an input, or its node, is called like a label."""
        shown = target.shown
        length = min(len(label), len(shown))
        if self.rule == _BY_BEGINNING:
            return shown[:length] == label[:length]
        if self.rule == _BY_END:
            return shown[len(shown) - length :] == label[len(label) - length :]
        return label == (target.title if self.rule == _BY_TITLE else shown)


def is_everywhere(node_type: str) -> bool:
    """Return whether a class is one of the pack's that feed inputs of other nodes."""
    return node_type.startswith("Anything Everywhere") or node_type in (_SEED, _PROMPTS)


def spread(file: OpenFile) -> None:
    """Add the links that the extension adds, and notes on inputs that it cannot decide about.

    Raises:
        TooMuch: The nodes offer too much to too many inputs.
    """
    budget = InputBudget(_MOST_STEPS)
    for graph in (file.root, *file.subgraphs.values()):
        senders = [
            node
            for node in graph.nodes.values()
            if node.saved.mode not in (MUTED, BYPASSED)
            and (is_everywhere(node.type) or node.saved.properties.get("ue_convert"))
        ]
        offers: dict[str, list[_Broadcast]] = {}
        for sender in senders:
            for one in _broadcasts(graph, sender, graph is file.root, budget):
                for kind in {one.type, "*"} if one.to_any else {one.type}:
                    offers.setdefault(kind, []).append(one)
        found = [(each, _best(each, offers, budget)) for each in _targets(file, graph, offers)]
        for target, best in found:
            if best is not None:
                _feed(graph, target, best)


def _best(
    target: _Target, offers: Mapping[str, list[_Broadcast]], budget: InputBudget
) -> _Broadcast | None:
    """Return what an input gets; note on its node if that is not clear."""
    kinds = dict.fromkeys((target.type, "*"))
    fitting = [one for kind in kinds for one in offers.get(kind, ()) if one.takes(target, budget)]
    highest = max((one.priority for one in fitting), default=0.0)
    first = [one for one in fitting if one.priority == highest]
    if not first:
        return None
    unclear = next((one for one in first if one.unclear), None)
    if unclear is None and len(first) == 1:
        return first[0]
    if target.node is not None and target.slot is not None:
        name = target.slot.name
        if unclear is not None:
            who = f"{shorten(unclear.sender.id, 60)} {brief(unclear.sender.title)}"
            text = f"only the browser knows whether node {who} feeds it: {unclear.unclear}"
            target.node.notes.append(("browser", name, f"{text}; link it"))
        else:
            who = ", ".join(shorten(one.sender.id, 60) for one in first[:5])
            text = (
                f"nodes {who} offer it their output with the same priority, so that none feeds it"
            )
            target.node.notes.append(("link", target.shown, f"{text}; link it"))
    return None


def _feed(graph: OpenGraph, target: _Target, best: _Broadcast) -> None:
    if target.node is not None and target.slot is not None:
        graph.link((best.source, best.slot, best.type), target.node, target.slot)
    else:
        graph.link_output((best.source, best.slot, best.type), target.place)


# -- inputs -----------------------------------------------------------------------------


def _targets(
    file: OpenFile, graph: OpenGraph, offers: Mapping[str, list[_Broadcast]]
) -> Iterator[_Target]:
    """Yield the inputs of a graph that may be fed, if there is anything to feed them with."""
    for node in graph.nodes.values() if offers else ():
        if is_everywhere(node.type) or node.saved.properties.get("rejects_ue_links"):
            continue
        saved = {each.name: each for each in reversed(node.saved.inputs)}
        for place, slot in enumerate(node.inputs):
            if graph.link_of(slot) is not None or not _is_open(node, slot, graph is file.root):
                continue
            raw = saved[slot.name].raw if slot.name in saved else {}
            label, translated = raw.get("label"), raw.get("localized_name")
            shown = plain_text(label) or slot.name
            searched = plain_text(label) or plain_text(translated) or slot.name
            yield _Target(node, slot, place, slot.type, shown, searched)
    for place, port in enumerate(graph.saved.outputs if offers else ()):
        if not port.links:
            yield _Target(None, None, place, port.type, port.name, port.name)


def _is_open(node: OpenNode, slot: Slot, in_root: bool) -> bool:
    """Return whether an input takes what is offered; one with a widget does so on request."""
    properties = node.saved.properties
    settings = table_at(properties, _SETTINGS)
    if slot.widget is None:
        return not table_at(settings, "input_ue_unconnectable").get(slot.name)
    for chosen in (settings.get(_FLAG), properties.get(_FLAG)):
        if isinstance(chosen, Mapping):
            return bool(chosen.get(slot.name))
    # Before there was such a setting, only an input that replaced its widget was in the file.
    return in_root and any(each.name == slot.name for each in node.saved.inputs)


# -- what is offered --------------------------------------------------------------------


def _broadcasts(
    graph: OpenGraph, sender: OpenNode, in_root: bool, budget: InputBudget
) -> Iterator[_Broadcast]:
    """Yield what a node offers."""
    settings = _settings(sender)
    offered = [*_offered(graph, sender, settings, budget)]
    budget.spend(len(offered))
    times = Counter(kind for kind, _, _, _ in offered)
    repeated = {kind for kind, count in times.items() if count > 1}
    base = _restricted(graph, sender, settings, in_root, bool(repeated), budget)
    for kind, source, slot, label in offered:
        upstream = graph.nodes.get(source)
        if source != INSIDE_IN and (upstream is None or upstream.saved.mode in (MUTED, BYPASSED)):
            continue
        one = evolve(base, type=kind, source=source, slot=slot)
        if kind in repeated or settings.get("apply_to_unrepeated"):
            one = _labelled(one, label, settings.get("repeated_type_rule") or 0)
        yield one


def _settings(sender: OpenNode) -> Mapping[str, Any]:
    """Return the settings of a node; those of before version 7 have other places."""
    properties = sender.saved.properties
    settings = dict(table_at(properties, _SETTINGS))
    version = settings.get("version")
    if not (isinstance(version, str) and "." in version) and is_everywhere(sender.type):
        values = sender.saved.values
        given = values if isinstance(values, list) and sender.type == "Anything Everywhere?" else []
        settings = {
            "group_restricted": properties.get("group_restricted"),
            "color_restricted": properties.get("color_restricted"),
            **dict(zip(("title_regex", "input_regex", "group_regex"), given, strict=False)),
        }
    if sender.type == _SEED:
        settings["seed_inputs"] = True
        settings["input_regex"] = settings.get("input_regex") or "seed"
    return settings


def _offered(
    graph: OpenGraph, sender: OpenNode, settings: Mapping[str, Any], budget: InputBudget
) -> Iterator[tuple[str, str, int, str]]:
    """Yield the type, source and slot of what a node offers, and the label that it has there."""
    saved = sender.saved
    if settings.get("seed_inputs"):
        yield "INT", sender.id, 0, ""
    elif saved.properties.get("ue_convert"):
        silent = table_at(settings, "output_not_broadcasting")
        for place, (kind, output) in enumerate(zip(sender.outputs, saved.outputs, strict=False)):
            if not silent.get(output.name):
                yield kind, sender.id, place, plain_text(output.raw.get("label")) or output.name
    else:
        labels = {each.name: plain_text(each.raw.get("label")) for each in reversed(saved.inputs)}
        if sender.type == _PROMPTS:
            labels |= dict(
                zip((each.name for each in sender.inputs), ("positive", "negative"), strict=False)
            )
        for slot in sender.inputs:
            link = graph.link_of(slot)
            if link is not None:
                link = _before_bypassed(graph, link, budget)
                yield link.type, link.source, link.slot, labels.get(slot.name) or slot.name


def _before_bypassed(graph: OpenGraph, first: SavedLink, budget: InputBudget) -> SavedLink:
    """Return the link before a chain of bypassed nodes; the link itself if the chain has none."""
    link = first
    for _ in graph.nodes:
        budget.spend(1)
        node = graph.nodes.get(link.source)
        if node is None or node.saved.mode != BYPASSED:
            return link
        inputs = node.inputs
        straight = inputs[link.slot : link.slot + 1]
        fitting = [each for each in (*straight, *inputs) if each.type == first.type]
        before = graph.link_of(fitting[0]) if fitting else None
        if before is None:
            break
        link = before
    return first


def _restricted(
    graph: OpenGraph,
    sender: OpenNode,
    settings: Mapping[str, Any],
    in_root: bool,
    repeats: bool,
    budget: InputBudget,
) -> _Broadcast:
    """Return a broadcast of nothing with the restrictions and the priority of its node."""
    given = {name: settings.get(f"{name}_regex") for name in _EXPRESSIONS}
    has_regex = any(isinstance(each, str) and each not in ("", ".*") for each in given.values())
    group, color = settings.get("group_restricted") or 0, settings.get("color_restricted") or 0
    own = number(settings.get("priority")) or (
        _PRIORITY
        + _MORE * (sender.type == _PROMPTS)
        + _REGEX * (has_regex or repeats)
        + _GROUP * bool(group)
        + _COLOR * bool(color)
    )
    base = _Broadcast(sender, "", "", 0, own, to_any=bool(settings.get("send_to_any")))
    try:
        return evolve(
            base,
            title=pattern(given["title"], bool(settings.get("title_regex_invert"))),
            input=pattern(given["input"], bool(settings.get("input_regex_invert"))),
            nodes=_nodes(graph, sender, settings, in_root, budget),
        )
    except Unclear as exc:
        return evolve(base, unclear=str(exc))


def _nodes(
    graph: OpenGraph,
    sender: OpenNode,
    settings: Mapping[str, Any],
    in_root: bool,
    budget: InputBudget,
) -> frozenset[str] | None:
    """Return the ids of the nodes that groups and colors restrict a sender to; None: of all."""
    group, color = settings.get("group_restricted"), settings.get("color_restricted")
    titled = pattern(settings.get("group_regex"), bool(settings.get("group_regex_invert")))
    if titled is not None and not in_root:
        raise Unclear("it is restricted to groups from within a subgraph")
    found = None
    if group:
        mine = members(graph, lambda inside, _: sender.id in inside, budget)
        found = mine if group == 1 else graph.nodes.keys() - mine
    if color:
        budget.spend(len(graph.nodes))
        same = {
            node.id
            for node in graph.nodes.values()
            if node.saved.raw.get("color") == sender.saved.raw.get("color")
        }
        chosen = same if color == 1 else graph.nodes.keys() - same
        found = chosen if found is None else found & chosen
    if titled is not None:
        named = members(graph, lambda _, title: titled.accepts(title, budget), budget)
        found = named if found is None else found & named
    return None if found is None else frozenset(found)


def _labelled(one: _Broadcast, label: str, rule: Any) -> _Broadcast:
    """Return a broadcast for inputs whose name, or the title of whose node, is like a label."""
    if rule != _BY_PATTERN:
        return evolve(one, label=label, rule=rule)
    try:
        return evolve(one, named=pattern(label))
    except Unclear as exc:
        return evolve(one, unclear=str(exc))


# -- regular expressions ----------------------------------------------------------------

#: The longest expression, and how much of a text it is tried on.
_LONGEST_EXPRESSION: Final = 200
#: What JavaScript and Python read alike: no repeated groups, no look-around, no references.
_CHARACTER: Final = r"[^\\()\[\]{}*+?|]|\\[bBdDwWs.^$()\[\]{}*+?|/-]|\[\^?[^\\\[\]^]+\]"
_PLAIN: Final = re.compile(rf"(?:\(\?:|\((?!\?)|\)(?![*+?{{])|\||(?:{_CHARACTER})[*+?]?)*")
_REPEAT: Final = re.compile(r"(?<!\\)[*+]")
_MOST_REPEATS: Final = 2
#: Optional characters, and alternatives in groups: each may double the work.
_CHOICE: Final = re.compile(r"(?<!\\)(?<!\()[?|]")
_MOST_CHOICES: Final = 6


class Unclear(Exception):
    """An expression or a rule that only the browser can judge; the text says why."""


@frozen
class Pattern:
    """A regular expression that a text must match, or must not if it is inverted."""

    regex: re.Pattern[str]
    inverted: bool
    _repeats: int
    _choices: int

    def accepts(self, text: str, budget: InputBudget) -> bool:
        """Return whether the beginning of a text matches, or does not if inverted.

        Raises:
            TooMuch: Too many texts were tried.
        """
        text = text[:_LONGEST_EXPRESSION]
        budget.spend(len(text) ** self._repeats << self._choices)
        return (self.regex.search(text) is None) == self.inverted


def pattern(value: Any, inverted: bool = False) -> Pattern | None:
    """Read a regular expression; return None if it is empty, takes everything, or is no good.

    Raises:
        Unclear: It is longer or more involved than those that are tried here.
    """
    if not isinstance(value, str) or value in ("", ".*"):
        return None
    repeats, choices = len(_REPEAT.findall(value)), len(_CHOICE.findall(value))
    is_short = (
        len(value) <= _LONGEST_EXPRESSION and repeats <= _MOST_REPEATS and choices <= _MOST_CHOICES
    )
    if not is_short or not _PLAIN.fullmatch(value):
        raise Unclear("its regular expression is too involved")
    try:
        return Pattern(re.compile(value, re.ASCII), inverted, repeats, choices)
    except re.error:
        return None


# -- groups -----------------------------------------------------------------------------

_TITLE_HEIGHT: Final = 30.0
#: A collapsed node is as wide as its title in the browser's font: between these.
_NARROW, _WIDE = 60.0, 500.0


def members(
    graph: OpenGraph, wanted: Callable[[Set[str], str], bool], budget: InputBudget
) -> Set[str]:
    """Return the ids of the nodes in all groups that are wanted, by their nodes and their title.

    Raises:
        Unclear: A node lies at the border of a group, and only the browser knows its width.
    """
    found: set[str] = set()
    for each in list_at(graph.saved.raw, "groups"):
        budget.spend(len(graph.nodes))
        group = table_at(each)
        bounds = _numbers(group.get("bounding"), 4)
        inside = {node.id for node in graph.nodes.values() if _is_inside(node, bounds)}
        if wanted(inside, plain_text(group.get("title"))):
            found |= inside
    return found


def _is_inside(node: OpenNode, bounds: list[float]) -> bool:
    """Return whether the middle of a node is in a group."""
    raw = node.saved.raw
    (left, top), (width, height) = _numbers(raw.get("pos"), 2), _numbers(raw.get("size"), 2)
    collapsed = bool(table_at(raw, "flags").get("collapsed"))
    widths = (_NARROW, _WIDE) if collapsed else (width, width)
    full = _TITLE_HEIGHT + (0 if collapsed else height)
    middle = top - _TITLE_HEIGHT + full / 2
    narrow, wide = (
        bounds[0] <= left + each / 2 < bounds[0] + bounds[2]
        and bounds[1] <= middle < bounds[1] + bounds[3]
        for each in widths
    )
    if narrow != wide:
        raise Unclear("it is restricted to groups, and a collapsed node lies at a group's border")
    return narrow


def _numbers(value: Any, count: int) -> list[float]:
    """Read coordinates, from a list or from an object with the indexes as names."""
    pairs = table_at(value)
    items = value if isinstance(value, list) else [pairs.get(str(at)) for at in range(count)]
    found = [float(number(each) or 0) for each in items[:count]]
    return found + [0.0] * (count - len(found))
