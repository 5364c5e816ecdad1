"""The order in which the nodes of a prompt run."""

from __future__ import annotations

from collections import defaultdict

from ..workflow.validate import is_link
from .graph import DependencyCycleError, NodeInputError, inputs_of, links_of
from .run import NodeFailure, PromptRun


class Plan:
    """The order of nodes: what is ready, and nearest to an output."""

    def __init__(self, run: PromptRun) -> None:
        self._run = run
        self.pending: dict[str, set[str]] = {}  # what each still waits for
        #: The sources of each; of its lazy inputs, only those that it asked for.
        self.sources: defaultdict[str, set[str]] = defaultdict(set)
        self._behind: defaultdict[str, dict[str, None]] = defaultdict(dict)

    def add(self, node_id: str) -> None:
        """Add a node, and the nodes that it needs in any case and that are not cached."""
        waiting = [node_id]
        links = []
        while waiting:
            node_id = waiting.pop()
            if node_id in self.pending:
                continue
            self.pending[node_id] = set()
            for name, source in links_of(self._run.graph, node_id):
                if not self._run.config(node_id, name).get("lazy"):
                    if not self._run.cached(source):
                        waiting.append(source)
                    links.append((source, node_id))
        for source, target in links:
            self.link(source, target)

    def link(self, source: str, target: str) -> None:
        """Have one node wait for another."""
        if not self._run.cached(source):
            self.add(source)
            self._behind[source][target] = None
            self.pending[target].add(source)
        self.sources[target].add(source)

    def need(self, node_id: str, name: str) -> None:
        """Have a node wait for one of its lazy inputs."""
        inputs = inputs_of(self._run.graph.get_node(node_id))
        asks = f"Node {node_id} says it needs input {name}, but"
        if name not in inputs:
            raise NodeInputError(f"{asks} there is no input to that node at all")
        if not is_link(inputs[name]):
            raise NodeInputError(f"{asks} that value is a constant")
        self.link(inputs[name][0], node_id)

    def pick(self) -> str:
        """The next node; fails if all wait for each other."""
        ready = [node_id for node_id, needed in self.pending.items() if not needed]
        if not ready:
            raise self._cycle()
        run, behind = self._run, self._behind
        for node_id in ready:
            if run.goes_first(node_id):
                return node_id
        for node_id in ready:
            if any(map(run.is_output, behind[node_id])):
                return node_id
        for node_id in ready:
            if any(run.is_output(b) for a in behind[node_id] for b in list(behind[a])):
                return node_id
        return ready[0]

    def _cycle(self) -> NodeFailure:
        display_id = self._run.graph.get_display_node_id
        blamed = next(iter(self.pending))
        # Nodes displayed as others come from an expansion: the rest were validated.
        blamed = next((display_id(n) for n in self.pending if display_id(n) != n), blamed)
        return NodeFailure(blamed, DependencyCycleError("Dependency cycle detected"), [])

    def complete(self, node_id: str) -> None:
        """A node has run."""
        del self.pending[node_id]
        for other in self._behind.pop(node_id, ()):
            self.pending[other].discard(node_id)
