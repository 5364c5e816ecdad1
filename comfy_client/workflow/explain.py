"""Why the server refused a workflow, in words.

Bodies differ between versions: ``error`` may be a string, ``node_errors`` a list, and
from a proxy anything may come.  Nothing here raises on what a server may send.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from ..nearest import nearest
from .graph import brief, class_of, describe, inputs_of, links_of, listing, shorten

_MAX_LINES = 20
#: Choices of an input among which the nearest are looked for.
_MOST_CHOICES = 200
#: Characters that are looked at of a text of the server.
_READ = 2000
_NODE_ID = re.compile(r"Node ID '#(.*)'")
_UNKNOWN = re.compile(r"because node (.+) does not exist", re.DOTALL)
#: The folders of an absolute path, POSIX, Windows or UNC, in front of the file's name.
_FOLDERS = re.compile(
    r"(?<![\w.\-/\\])(?:/|[A-Za-z]:[\\/]+|\\\\)"
    r"(?:[^\\/:*?\"'<>|\s]+(?: [^\\/:*?\"'<>|\s]+)*[\\/]+)+"
)


def explain_rejection(
    body: object, graph: Mapping[str, Any], *, node_names: Collection[str] = ()
) -> str:
    """The body of a refusal by ``POST /prompt`` in words, one line for each problem.

    Each line names the node by id, title and class, the input, what it was given, and the
    allowed range or the nearest choices.  Tracebacks and folders of the server are left out.
    It also explains the ``node_errors`` of an answer 200: some outputs were dropped.

    Args:
        body: Decoded JSON, or text, of any shape.
        graph: The workflow that was sent.
        node_names: Classes that the server has, to suggest those that resemble an unknown one.
    """
    if not isinstance(body, Mapping):
        text = _clean(body) if isinstance(body, str) else ""
        return f"the server says: {text}" if text else "the server gave no reason"
    unknown = unknown_class(body, graph)
    if unknown is not None:
        hint = _clean(_mapping(_mapping(body.get("error")).get("extra_info")).get("hint"), 1200)
        found = _unknown_classes(unknown, _refused_node(body), graph, set(node_names))
        found_lines, count = _unknown_lines(found, graph, node_names, hint), len(found)
    else:
        reports = _mapping(body.get("node_errors"))
        found_lines, count = (
            _node_lines(reports, graph),
            sum(map(len, map(_faults, reports.values()))),
        )
    lines = list(islice(found_lines, _MAX_LINES + 1)) or [_summary(body, graph)]
    if len(lines) > _MAX_LINES:
        lines[_MAX_LINES:] = [f"... ({count} problems in all)"]
    return "\n".join(lines)


def unknown_class(body: object, graph: Mapping[str, Any]) -> str | None:
    """The ``class_type`` that the server does not have, if that is why it refused.

    ``None`` for other reasons, and for servers before 2024-05-20: they answer 500 in
    plain text.  A server names only the first unknown class.
    """
    error = _mapping(_mapping(body).get("error"))
    if error.get("type") not in ("invalid_prompt", "missing_node_type"):
        return None
    named = _mapping(error.get("extra_info")).get("class_type")
    if isinstance(named, str) and named:
        return named
    found = _UNKNOWN.search(_text(error.get("message"))[:_READ])
    if found:
        return found[1]
    return class_of(graph, _refused_node(body))


def _refused_node(body: object) -> str:
    """Id of the node that an error about the whole prompt means, or ``""``."""
    error = _mapping(_mapping(body).get("error"))
    node_id = _mapping(error.get("extra_info")).get("node_id")
    if isinstance(node_id, (str, int)):
        return str(node_id)
    found = _NODE_ID.search(_text(error.get("details"))[:_READ])
    return found[1] if found else ""


def _unknown_classes(
    unknown: str, node_id: str, graph: Mapping[str, Any], names: set[str]
) -> dict[str, str]:
    """By node, the class that the server named, then the others that it would name next."""
    found = {node_id: unknown}
    if names:
        classes = {str(key): class_of(graph, key) for key in graph}
        found |= {key: name for key, name in classes.items() if name and name not in names}
    return found


def _unknown_lines(
    found: Mapping[str, str], graph: Mapping[str, Any], names: Iterable[str], hint: str
) -> Iterator[str]:
    """A line for each, and the hint of the embedded server."""
    for key, name in found.items():
        near = nearest(name, names)
        why = "" if hint else "; is a custom node missing, or not loaded?"
        why = f"; nearest: {listing(near)}" if near else why
        who = f"{describe(graph, key, name)}: " if key else ""
        yield f"{who}the server has no node class {brief(name)}{why}"
    if hint:
        yield hint


def _faults(report: object) -> list[Any]:
    faults = _mapping(report).get("errors")
    return faults if isinstance(faults, list) else [report]


def _node_lines(reports: Mapping[str, Any], graph: Mapping[str, Any]) -> Iterator[str]:
    circles: set[str] = set()
    for node_id, report in reports.items():
        checked = _mapping(report).get("class_type")
        who = describe(graph, node_id, checked)
        sent = _mapping(graph.get(node_id)).get("class_type")
        if isinstance(checked, str) and isinstance(sent, str) and checked != sent:
            # With a map of inputs that it may not have: servers since 0.14 do so by themselves.
            who += f", in whose place the server put {brief(checked)}"
        for fault in _faults(report):
            text = "" if isinstance(fault, Mapping) else _clean(fault)
            text = text or _describe_fault(_mapping(fault), graph, str(node_id))
            if _mapping(fault).get("type") == "dependency_cycle":
                if text in circles:
                    continue  # each of its nodes says the same
                circles.add(text)
            yield f"{who}: {text or 'no reason given'}"


def _describe_fault(fault: Mapping[str, Any], graph: Mapping[str, Any], node_id: str) -> str:
    """One entry of ``node_errors[id]["errors"]`` in words."""
    info = _mapping(fault.get("extra_info"))
    config = info.get("input_config")
    details = _clean(fault.get("details"))
    name = shorten(_text(info.get("input_name")), 60) or "an input"
    given = f"{name} = {brief(info.get('received_value'))}"
    match fault.get("type"):
        case "required_input_missing":
            return f"input {brief(info.get('input_name') or details)} is missing"
        case "value_smaller_than_min":
            return f"{given} is too small{_range(config)}"
        case "value_bigger_than_max":
            return f"{given} is too big{_range(config)}"
        case "value_not_in_list":
            choices = _choices(info, details, class_of(graph, node_id))
            if isinstance(info.get("received_value"), list):  # of an input that takes several
                wrong = details.removeprefix(f"{name}: ").rpartition(" not in ")[0]
                return f"{name}: {wrong or 'some'} not among the choices; {choices}"
            return f"{given} is not one of the choices; {choices}"
        case "invalid_input_type":
            return f"{given} cannot be converted to {_type(config)}{_range(config)}"
        case "bad_linked_input":
            return (
                f"{given} is no link, which is [node id, slot]; "
                'a literal list is sent as {"__value__": [...]}'
            )
        case "return_type_mismatch":
            return f"input {brief(name)} takes {_type(config)}, but {_giver(info, graph)}"
        case "custom_validation_failed":
            # "image - Invalid image file: x.png", or the name alone.
            reason = details.removeprefix(name).lstrip(" -")
            what = f"input {brief(name)}" if info.get("input_name") else "its inputs"
            return f"the node refuses {what}" + (f": {reason}" if reason else "")
        case "invalid_dynamic_input":
            inputs = inputs_of(graph, node_id)
            value = f" = {brief(inputs[name])}" if name in inputs else ""
            reason = details.removeprefix(name).lstrip(" :-")
            return f"{name}{value} does not fit this node" + (f": {reason}" if reason else "")
        case "dependency_cycle":
            return _cycle(info, details, graph)
        case "exception_during_validation" | "exception_during_inner_validation":
            return _exception(info, details, graph, node_id)
    return ": ".join(filter(None, (_clean(fault.get("message")), details)))


def _range(config: object) -> str:
    low, high = _option(config, "min"), _option(config, "max")
    if low is None and high is None:
        return ""
    if high is None:
        return f" (at least {brief(low)})"
    return f" (at most {brief(high)})" if low is None else f" ({brief(low)} to {brief(high)})"


def _choices(info: Mapping[str, Any], details: str, class_type: str | None) -> str:
    config = info.get("input_config")
    first = config[0] if isinstance(config, list) and config else None
    # ["a", "b"] in place of the type, or "COMBO" with options.
    choices = first if isinstance(first, list) else _option(config, "options")
    if not isinstance(choices, list):
        length = re.search(r"\(list of length (\d{1,18})\)", details)
        count = f"the server has {length[1]}, too many to list" if length else "they are not listed"
        return count + (f"; see get_node_defs({brief(class_type)})" if class_type else "")
    if not choices:
        return "the server has none at all"
    given = info.get("received_value")
    # Servers name 20 at the most.
    names = (choice for choice in choices[:_MOST_CHOICES] if isinstance(choice, str))
    near = nearest(given if isinstance(given, str) else brief(given), names)
    return f"nearest: {listing(near)}" if near else f"the choices are: {listing(choices)}"


def _giver(info: Mapping[str, Any], graph: Mapping[str, Any]) -> str:
    link = info.get("linked_node")
    received = _type([info.get("received_type")])
    if isinstance(link, list) and len(link) == 2:
        source = link[0] if isinstance(link[0], str) else brief(link[0])
        return f"{describe(graph, source)}, slot {brief(link[1])}, gives {received}"
    return f"it is linked to {received}"


def _exception(
    info: Mapping[str, Any], details: str, graph: Mapping[str, Any], node_id: str
) -> str:
    """What an exception in the server's check meant: nearly always a bad link."""
    links = list(links_of(graph, node_id))
    kind = _clean(info.get("exception_type"))
    if kind == "KeyError":
        missing = details.strip("'\"")
        names = [name for name, source, _ in links if source == missing]
        if names:
            return f"input {listing(names)} links to node {brief(missing)}, which is not there"
        if missing in ("inputs", "class_type"):
            return f"the node has no {missing}"
    if kind == "IndexError" and links:
        taken = ", ".join(
            f"{shorten(name, 60)}: slot {slot} of {describe(graph, source)}"
            for name, source, slot in links[:8]
        )
        return f"a link asks for an output slot that is not there ({taken})"
    reason = ": ".join(filter(None, (kind, details)))
    return f"the server failed while it checked the node: {reason or 'no reason given'}"


def _summary(body: Mapping[str, Any], graph: Mapping[str, Any]) -> str:
    """The error about the whole prompt, when no node is blamed."""
    error = body.get("error")
    message = _clean(error if isinstance(error, str) else _mapping(error).get("message"))
    details = _clean(_mapping(error).get("details"))
    kind = _mapping(error).get("type")
    if kind == "no_prompt" or error == "no prompt":
        return "the request holds no workflow"
    if kind == "prompt_no_outputs":
        return "the workflow has no output node to run: add one, such as SaveImage or PreviewImage"
    info = _mapping(_mapping(error).get("extra_info"))
    is_bare = kind == "missing_node_type" and info.get("class_type", "") is None
    if is_bare or (kind == "invalid_prompt" and "class_type" in message):
        return f"{describe(graph, _refused_node(body) or '?')} has no class_type"
    circle = _circle(graph)
    if circle:
        return _in_a_circle(circle, graph)
    if message and details and details != message:
        return f"the server says: {message}: {details}"
    return f"the server says: {message or details}" if message or details else _NO_REASON


def _cycle(info: Mapping[str, Any], details: str, graph: Mapping[str, Any]) -> str:
    """What the server says of each node of a circle, in the order of its links."""
    named = info.get("cycle_nodes")
    named = named[:_MAX_LINES] if isinstance(named, list) else []
    nodes = [node if isinstance(node, str) else brief(node) for node in named]
    if nodes:
        return _in_a_circle([*nodes, nodes[0]], graph)
    return f"the links go in a circle: {details}" if details else "the links go in a circle"


def _in_a_circle(nodes: list[str], graph: Mapping[str, Any]) -> str:
    return f"the links go in a circle: {' -> '.join(describe(graph, node) for node in nodes)}"


_NO_REASON = "the server gave no reason"


def _circle(graph: Mapping[str, Any]) -> list[str]:
    """Ids of nodes that feed each other, the first of them again at the end."""
    from graphlib import CycleError, TopologicalSorter  # for mistakes only

    sources = {node: [source for _, source, _ in links_of(graph, node)] for node in graph}
    try:
        TopologicalSorter(sources).prepare()
    except CycleError as exc:
        found: list[str] = exc.args[1]
        return found
    return []


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _option(config: object, name: str) -> Any:
    return _mapping(config[1]).get(name) if isinstance(config, list) and len(config) > 1 else None


def _type(config: object) -> str:
    """The type that an input takes; a list of choices is a COMBO."""
    kind = config[0] if isinstance(config, list) and config else None
    return shorten(kind, 60) if isinstance(kind, str) else "COMBO" if kind else "another type"


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _clean(value: object, most: int = 200) -> str:
    """Text of the server in one short line, without tracebacks and folders."""
    text = value if isinstance(value, str) else "" if value is None else brief(value)
    if "Traceback (most recent call last)" in text:
        text = text.strip().rpartition("\n")[2]
    return shorten(_FOLDERS.sub("", text[:_READ]), most)
