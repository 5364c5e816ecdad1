"""The graph of a prompt, with the nodes that its nodes expand into."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..workflow.validate import is_link


class NodeNotFoundError(Exception):
    """A link or a node refers to a node that does not exist."""


class NodeInputError(Exception):
    """A node asks for an input that cannot be computed."""


class DependencyCycleError(Exception):
    """A circle of nodes that wait for each other."""


# Clients receive these names.
NodeNotFoundError.__module__ = NodeInputError.__module__ = "comfy_execution.graph"
DependencyCycleError.__module__ = "graph"


class DynamicPrompt:
    """A prompt, with the nodes that its nodes expanded into; the value of ``DYNPROMPT``.

    It has the methods of ``comfy_execution.graph.DynamicPrompt``.
    """

    def __init__(self, prompt: dict[str, Any]) -> None:
        self._prompt = prompt
        self._added: dict[str, dict[str, Any]] = {}
        self._parents: dict[str, str] = {}
        self._shown_as: dict[str, str] = {}

    def add(self, node_id: str, node: dict[str, Any], parent: str) -> None:
        """Add a node that `parent` expanded into."""
        self._added[node_id] = node
        self._parents[node_id] = parent
        self._shown_as[node_id] = node.get("override_display_id", parent)

    def get_node(self, node_id: str) -> dict[str, Any]:
        """Return class and inputs of a node."""
        found = self._added.get(node_id, self._prompt.get(node_id))
        if found is None:
            raise NodeNotFoundError(f"Node {node_id} not found")
        return found

    def has_node(self, node_id: str) -> bool:
        """Return whether a node exists."""
        return node_id in self._added or node_id in self._prompt

    def get_parent_node_id(self, node_id: str) -> str | None:
        """Return the node that expanded into this one, or None for a node of the prompt."""
        return self._parents.get(node_id)

    def get_real_node_id(self, node_id: str) -> str:
        """Return the node of the prompt from which a node originates."""
        while node_id in self._parents:
            node_id = self._parents[node_id]
        return node_id

    def get_display_node_id(self, node_id: str) -> str:
        """Return the node of the frontend that displays a node's progress."""
        while node_id in self._shown_as:
            node_id = self._shown_as[node_id]
        return node_id

    def all_node_ids(self) -> set[str]:
        """Return all nodes of the prompt, expanded ones included."""
        return {*self._prompt, *self._added}

    def get_original_prompt(self) -> dict[str, Any]:
        """Return the prompt without the nodes of expansions."""
        return self._prompt


def inputs_in(node: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inputs of a node; a node that no output needs may have none at all."""
    inputs: dict[str, Any] = node.get("inputs", {})
    return inputs


def linked_inputs(graph: DynamicPrompt, node_id: str) -> list[tuple[str, str]]:
    """Return name and source node of each input that is a link."""
    inputs = inputs_in(graph.get_node(node_id)).items()
    return [(name, value[0]) for name, value in inputs if is_link(value)]
