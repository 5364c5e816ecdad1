"""The graph of a prompt, including the nodes that its nodes expand into."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..workflow.validate import is_link


class NodeNotFoundError(Exception):
    """A link or a node refers to a node that does not exist."""


class NodeInputError(Exception):
    """A node requests an input that it does not have, or that is not linked."""


class DependencyCycleError(Exception):
    """The nodes of a prompt depend on each other in a cycle."""


# Clients receive these names.
NodeNotFoundError.__module__ = NodeInputError.__module__ = "comfy_execution.graph"
DependencyCycleError.__module__ = "graph"


class DynamicPrompt:
    """A prompt and the nodes that its nodes expanded into, which nodes get as ``DYNPROMPT``.

    It has the methods of ``comfy_execution.graph.DynamicPrompt``.
    """

    def __init__(self, prompt: dict[str, Any]) -> None:
        self._prompt = prompt
        self._added: dict[str, dict[str, Any]] = {}
        self._parents: dict[str, str] = {}
        self._shown_as: dict[str, str] = {}

    def add(self, node_id: str, node: dict[str, Any], parent: str) -> None:
        """Add a node that the node ``parent`` expanded into."""
        self._added[node_id] = node
        self._parents[node_id] = parent
        self._shown_as[node_id] = node.get("override_display_id", parent)

    def get_node(self, node_id: str) -> dict[str, Any]:
        """Return the node with this id; raise :class:`NodeNotFoundError` if there is none."""
        found = self._added.get(node_id, self._prompt.get(node_id))
        if found is None:
            raise NodeNotFoundError(f"Node {node_id} not found")
        return found

    def has_node(self, node_id: str) -> bool:
        """Return whether the prompt or an expansion of it has a node with this id."""
        return node_id in self._added or node_id in self._prompt

    def get_parent_node_id(self, node_id: str) -> str | None:
        """Return the id of the node that expanded into this one; None for a node of the prompt."""
        return self._parents.get(node_id)

    def get_real_node_id(self, node_id: str) -> str:
        """Return the id of the prompt's own node from which this node originates."""
        while node_id in self._parents:
            node_id = self._parents[node_id]
        return node_id

    def get_display_node_id(self, node_id: str) -> str:
        """Return the id of the node that displays this node's progress in the frontend."""
        while node_id in self._shown_as:
            node_id = self._shown_as[node_id]
        return node_id

    def all_node_ids(self) -> set[str]:
        """Return the ids of all nodes, including those that were added by expansion."""
        return {*self._prompt, *self._added}

    def get_original_prompt(self) -> dict[str, Any]:
        """Return the prompt without the nodes that were added by expansion."""
        return self._prompt


def inputs_in(node: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inputs of a node, or an empty dict if the node has no ``inputs``."""
    inputs: dict[str, Any] = node.get("inputs", {})
    return inputs


def linked_inputs(graph: DynamicPrompt, node_id: str) -> list[tuple[str, str]]:
    """Return the name and the source node's id of each linked input of a node."""
    inputs = inputs_in(graph.get_node(node_id)).items()
    return [(name, value[0]) for name, value in inputs if is_link(value)]
