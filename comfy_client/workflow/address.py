"""Addresses of nodes and inputs as people write them, such as ``"Positive prompt.text"``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, TypeAlias

from ..errors import WorkflowError
from .graph import (
    as_file,
    as_link,
    brief,
    class_of,
    describe,
    inputs_of,
    is_upload,
    json_link,
    json_value,
    link_fault,
    links_of,
    listing,
    title_of,
)

#: An input: ``"KSampler.seed"``, or ``("KSampler", "seed")`` if dots make that ambiguous.
InputAddress: TypeAlias = "str | tuple[str, str]"
#: Values by input.
Inputs: TypeAlias = "Mapping[str, Any] | Mapping[tuple[str, str], Any]"


def nodes_named(graph: Mapping[str, Any], name: str) -> list[str]:
    """Return the ids of the nodes that a name identifies: by id, else by title, else by class."""
    if name in graph:
        return [name]
    return [node_id for node_id in graph if title_of(graph, node_id) == name] or [
        node_id for node_id in graph if class_of(graph, node_id) == name
    ]


def node_named(graph: Mapping[str, Any], name: str) -> str:
    """Return the id of the only node that a name identifies.

    Raises:
        WorkflowError: No such node, or several.
    """
    found = nodes_named(graph, name)
    if len(found) == 1:
        return found[0]
    if found:
        raise WorkflowError(
            f"{brief(name)} is ambiguous, {_address_by(graph, found)}: {_each(graph, found)}",
            candidates=tuple(found),
        )
    from ..nearest import nearest  # for errors

    names_of = (of for key in graph for of in (title_of(graph, key), class_of(graph, key), key))
    known = tuple(dict.fromkeys(of for of in names_of if of))
    near = nearest(name, known)
    available = f"nearest: {listing(near)}" if near else f"there are {listing(known)}"
    raise WorkflowError(
        f"no node has the id, title or class {brief(name)}; {available}", candidates=near or known
    )


def input_named(
    graph: Mapping[str, Any], address: InputAddress, *, add: bool = False
) -> tuple[str, str]:
    """Return the node id and the input name that an address such as ``"KSampler.seed"`` means.

    Names of nodes and of inputs may contain dots.  If several ways to split the text lead to an
    input, the address is ambiguous; a pair ``("KSampler", "seed")`` never is.

    Args:
        graph: The nodes.
        address: The node by id, title or class, and the input.
        add: Whether the node may lack the input.

    Raises:
        WorkflowError: No such node or input, or several.
    """
    named = [(nodes_named(graph, node), node, name) for node, name in _splits(graph, address)]
    found = [
        (node_id, name)
        for ids, _, name in named
        for node_id in ids
        if name in inputs_of(graph, node_id)
    ]
    if not found and add:
        found = [(node_id, name) for ids, _, name in named for node_id in ids]
    if len(found) == 1:
        return found[0]
    if found:
        nodes = dict.fromkeys(node_id for node_id, _ in found)
        is_split = len({name for _, name in found}) > 1
        raise WorkflowError(
            f"{brief(address)} is ambiguous, {_address_by(graph, nodes)}: {_each(graph, nodes)}"
            + ("; or write a pair: (node, input)" if is_split else ""),
            candidates=tuple(f"{node_id}.{name}" for node_id, name in found),
        )
    known = next((one for one in named if one[0]), named[0])
    raise no_input(graph, node_named(graph, known[1]), known[2])


def _splits(graph: Mapping[str, Any], address: InputAddress) -> list[tuple[str, str]]:
    """Return all splits of an address into node and input, the longest node name first."""
    if isinstance(address, tuple) and [type(part) for part in address] == [str, str]:
        return [address]
    if not isinstance(address, str):
        raise TypeError(f"an input is named like 'KSampler.seed', not {brief(address)}")
    dots = [at for at, char in enumerate(address) if char == "."]
    if not dots:
        whole = tuple(dict.fromkeys(islice(_with_node(graph, address), 8)))
        raise WorkflowError(
            f"{brief(address)} names no input; write node and input: "
            + (listing(whole) if whole else "'KSampler.seed'"),
            candidates=whole,
        )
    return [(address[:at], address[at + 1 :]) for at in reversed(dots)]


def _address_by(graph: Mapping[str, Any], node_ids: Iterable[str]) -> str:
    """Explain how to address one of several nodes: by id or, if all titles differ, by title."""
    titles = [title_of(graph, node_id) or "" for node_id in node_ids]
    is_own = all(title and len(nodes_named(graph, title)) == 1 for title in titles)
    return f"address the node by its id{' or title' if is_own else ''}"


def _with_node(graph: Mapping[str, Any], name: str) -> Iterator[str]:
    """Yield the addresses of the values of all inputs with this name.

    For a linked input, this is the only value of the node that it is linked to: the text of a
    prompt for ``positive``.
    """
    for node_id in graph:
        places = [(node_id, name)]
        link = as_link(inputs_of(graph, node_id).get(name))
        if link:
            inputs = inputs_of(graph, link[0])
            places = [(link[0], one) for one, value in inputs.items() if not as_link(value)]
        elif name not in inputs_of(graph, node_id):
            continue
        if len(places) == 1:
            ((place, key),) = places
            names = (title_of(graph, place), class_of(graph, place))
            own = (one for one in names if one and nodes_named(graph, one) == [place])
            yield f"{next(own, place)}.{key}"


def _each(graph: Mapping[str, Any], node_ids: Iterable[str]) -> str:
    """Describe each of several nodes, and name the input that it is for: ``for 'positive'``."""
    found = list(node_ids)
    more = f"; ... ({len(found)} in all)" if len(found) > 8 else ""
    uses: dict[str, set[str]] = {}
    for taker in graph:
        for name, source, _ in links_of(graph, taker):
            uses.setdefault(source, set()).add(name)
    only = {source: min(names) for source, names in uses.items() if len(names) == 1}
    return (
        "; ".join(
            describe(graph, node_id) + (f" for {brief(only[node_id])}" if node_id in only else "")
            for node_id in found[:8]
        )
        + more
    )


def no_input(graph: Mapping[str, Any], node_id: str, name: str, *, hint: str = "") -> WorkflowError:
    """Return the error for an input that a node lacks."""
    from ..nearest import nearest  # for errors

    inputs = inputs_of(graph, node_id)
    near = nearest(name, inputs)
    if name == "inputs":
        hint = "inputs are addressed directly, as in node['seed']"
    available = f"nearest: {listing(near)}" if near else f"it has {listing(inputs) or 'none'}"
    return WorkflowError(
        f"{describe(graph, node_id)} has no input {brief(name)}; {available}"
        + (f"; {hint}" if hint else ""),
        candidates=near or tuple(inputs),
    )


def checked_value(
    graph: Mapping[str, Any], node_id: str, name: str, value: Any, *, force: bool = False
) -> Any:
    """Check a new value for an input; return it as a JSON copy, a link, or a file to upload.

    Raises:
        WorkflowError: JSON cannot represent it, it is a bad link, or without ``force`` it would
            take the place of a link.
    """
    where = f"{describe(graph, node_id)}, input {brief(name)}"
    try:
        value = as_file(graph, node_id, name, value)
        value = value if is_upload(value) else json_value(value)
    except (ValueError, RecursionError) as exc:
        raise WorkflowError(f"{where}: {exc}") from None
    if isinstance(value, list):
        fault = link_fault(graph, node_id, value)
        if fault:
            raise WorkflowError(f"{where}: {fault}")
        value = json_link(graph, value)
    old = as_link(inputs_of(graph, node_id).get(name))
    if old and not as_link(value) and not force:
        raise WorkflowError(
            f"{where} is linked to {describe(graph, old[0])}, slot {old[1]}; "
            f"set(..., force=True) replaces the link by a value"
        )
    return value


def set_inputs(graph: dict[str, Any], inputs: Inputs, *, force: bool = False) -> None:
    """Set inputs by address: all of them, or none if one is wrong.

    Raises:
        WorkflowError: An unknown or ambiguous address, two for one input, or a value as in
            :func:`checked_value`.
    """
    if not isinstance(inputs, Mapping):
        raise TypeError(f"inputs must be a dict, such as {{'KSampler.seed': 7}}: {brief(inputs)}")
    values: dict[tuple[str, str], Any] = {}
    for address, value in inputs.items():
        found = node_id, name = input_named(graph, address, add=force)
        if found in values:
            raise WorkflowError(f"{brief(address)}: another of these names means the same input")
        values[found] = checked_value(graph, node_id, name, value, force=force)
    for (node_id, name), value in values.items():
        graph[node_id]["inputs"][name] = value
