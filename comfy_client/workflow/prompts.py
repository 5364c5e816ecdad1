"""Resolve the dynamic prompts of a graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .convert import Chooser, chooser, is_dynamic, resolve_prompt
from .convert.specs import grouped
from .definitions import Definitions, as_mapping
from .graph import class_of, inputs_of


def resolve_prompts(
    graph: dict[str, Any],
    rng: int | Chooser | None,
    known: Mapping[tuple[str, str], str | None] | None,
    definitions: Definitions | None,
) -> None:
    """See :meth:`Workflow.resolve_prompts`; ``known`` are the prompts that a conversion found."""
    found: list[tuple[str, str, str | None]]
    if definitions is not None:
        found = [*_defined(graph, definitions)]
    elif known is not None:
        found = [(*key, kept) for key, kept in known.items()]
    else:
        found = [
            (node_id, name, None)
            for node_id in graph
            for name, value in inputs_of(graph, node_id).items()
            if isinstance(value, str) and "{" in value
        ]
    choose = chooser(rng)
    texts = {}
    for node_id, name, kept in found:
        text = inputs_of(graph, node_id).get(name)
        if isinstance(text, str) and text != kept and is_dynamic(text):
            texts[node_id, name] = resolve_prompt(text, choose)
    for (node_id, name), text in texts.items():  # all of them, or none
        graph[node_id]["inputs"][name] = text


def _defined(graph: Mapping[str, Any], definitions: Definitions) -> Iterator[tuple[str, str, None]]:
    classes = {node_id: class_of(graph, node_id) or "" for node_id in graph}
    known = as_mapping(definitions, {*classes.values()})
    for node_id, class_type in classes.items():
        for one in grouped(known.get(class_type, {}).get("input")):
            if one.options.get("dynamicPrompts") is True:
                yield node_id, one.name, None
