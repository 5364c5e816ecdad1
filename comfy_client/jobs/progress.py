"""The progress of a prompt by the costs of its nodes: sampler steps, and earlier times.

Pure, except for the record of those times.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from typing import Any, Final

from ..events import Progress, ProgressState
from ..locks import shared_lock
from ..values import MAX_ID_LENGTH
from ..workflow import class_of, sinks
from ..workflow.graph import links_of, needed, origin
from .state import PromptState

#: The most nodes, and the most classes, whose times are remembered.
REMEMBERED: Final = 1000
#: The lowest cost of a node in seconds, to avoid a division by zero.
LEAST: Final = 0.001
#: The steps of a sampler after which its pace is known; the first one may have loaded a model.
TELLING: Final = 2
#: The most steps of a sampler.
MOST: Final = 10_000


class NodeTimes:
    """The last execution time of each node, by the client's own clock."""

    def __init__(self) -> None:
        self._lock = shared_lock()  # guards everything; no other lock is taken while it is held
        # Ended prompts, evaluated on demand: few callers ask, and many prompts are short.
        self._later: deque[tuple[Mapping[str, Any], Mapping[str, float]]] = deque(maxlen=16)
        self._of_nodes: dict[tuple[str, str], float] = {}  # seconds per unit
        self._of_classes: dict[str, float] = {}

    def learn_later(self, graph: Mapping[str, Any], spent: Mapping[str, float]) -> None:
        """Store the times of a prompt's nodes; they are evaluated on demand."""
        if graph and spent:
            self._later.append((graph, spent))

    def _learn(self) -> None:
        while self._later:
            graph, spent = self._later.popleft()
            seconds: dict[str, float] = {}
            for node_id, each in spent.items():
                source = origin(graph, node_id)  # for nodes that others expanded into
                if source is not None:
                    seconds[source] = seconds.get(source, 0.0) + each
            for node_id, each in seconds.items():
                self.learn(graph, node_id, each)

    def learn(self, graph: Mapping[str, Any], node_id: str, seconds: float) -> None:
        """Record the seconds that a node took."""
        class_type = class_of(graph, node_id)
        if class_type is None or len(class_type) + len(node_id) > 2 * MAX_ID_LENGTH:
            return  # the server may have sent any graph
        for_one = max(LEAST, seconds) / units(graph, node_id)
        _remember(self._of_nodes, (class_type, node_id), for_one)
        _remember(self._of_classes, class_type, for_one)

    def seconds(self, graph: Mapping[str, Any], node_id: str) -> float | None:
        """Return a node's probable execution time, by earlier runs of it or its class, or None."""
        with self._lock:
            self._learn()
        class_type = class_of(graph, node_id) or ""
        for_one = self._of_nodes.get((class_type, node_id), self._of_classes.get(class_type))
        return None if for_one is None else for_one * units(graph, node_id)


def _remember(known: dict[Any, float], key: object, value: float) -> None:
    known.pop(key, None)  # so that the newest is last
    known[key] = value
    if len(known) > REMEMBERED:
        del known[next(iter(known))]


def units(graph: Mapping[str, Any], node_id: str) -> int:
    """Return the cost of a node without known times: the steps of a sampler, else 1.

    The steps are in the sampler, or in the scheduler that provides its sigmas.
    """
    if "Scheduler" in (class_of(graph, node_id) or ""):
        return 1
    givers = (source for _, source, _ in links_of(graph, node_id))
    schedulers = (one for one in givers if "Scheduler" in (class_of(graph, one) or ""))
    given = (_steps(graph, one) for one in schedulers)
    return max(1, _steps(graph, node_id) or max(given, default=1))


def targets(
    graph: Mapping[str, Any], only: Collection[str] | None, node_errors: Mapping[str, Any]
) -> set[str]:
    """Return the output nodes that run: the requested ones that the server has not dropped."""
    dropped: set[str] = set()
    for entry in node_errors.values():
        outputs = entry.get("dependent_outputs") if isinstance(entry, Mapping) else None
        dropped.update(one for one in outputs or () if isinstance(one, str))
    return set(sinks(graph) if only is None else only) - dropped


def weights(
    graph: Mapping[str, Any],
    *,
    cached: Collection[str] = (),
    targets: Collection[str],
    times: NodeTimes | None = None,
) -> dict[str, float]:
    """Return the costs of the nodes that run, by node id, in seconds or units.

    Args:
        graph: The workflow.
        cached: Nodes whose outputs the server has; they do not run, nor do nodes only for them.
        targets: The outputs that are to run; nodes that they do not need do not run.
        times: Times of earlier runs.  A node of an unknown class is assumed to take the average
            time per unit.
    """
    to_run = {node_id: units(graph, node_id) for node_id in needed(graph, targets, cached)}
    timed = {node_id: times.seconds(graph, node_id) for node_id in to_run} if times else {}
    known = {node_id: seconds for node_id, seconds in timed.items() if seconds is not None}
    count = sum(to_run[node_id] for node_id in known)
    for_one = sum(known.values()) / count if count else 1.0
    return {node_id: known.get(node_id, for_one * count) for node_id, count in to_run.items()}


def fraction(
    graph: Mapping[str, Any],
    costs: Mapping[str, float],
    *,
    visited: Collection[str] = (),
    node_id: str | None = None,
    step: Progress | None = None,
    states: ProgressState | None = None,
) -> float:
    """Return the completed fraction of the nodes' costs, from 0 to 1.

    Args:
        graph: The workflow.
        costs: Costs of its nodes that are to run.
        visited: Nodes that have begun, including those into which other nodes have expanded.
        node_id: The node that began last.
        step: The last report of a node on its steps.
        states: The last report on all nodes that have begun.
    """
    total = sum(costs.values())
    if not total:
        return 0.0
    nodes = {} if states is None else states.nodes
    finished = {key for key, node in nodes.items() if node.state == "finished"}
    # A node that expanded into others runs until they end.
    running = {node_id, origin(graph, node_id), *nodes} - finished
    through = set(visited) - running | finished
    parts = {key: _part(node.value, node.max) for key, node in nodes.items()}
    if step is not None and step.node is not None:
        parts[step.node] = max(parts.get(step.node, 0.0), _part(step.value, step.max))
    done = sum(
        cost if key in through else cost * parts.get(key, 0.0) if key in running else 0.0
        for key, cost in costs.items()
    )
    return min(1.0, done / total)


def _part(value: float | None, most: float | None) -> float:
    """Return the completed fraction of a node's steps; 0 if the server's numbers make no sense."""
    if value is None or most is None or not (value > 0 and most > 0):
        return 0.0
    try:
        return 1.0 if value >= most else value / most
    except OverflowError:  # an integer too large for a float
        return 0.0


def _steps(graph: Mapping[str, Any], node_id: str) -> int:
    node = graph.get(node_id)
    inputs = node.get("inputs") if isinstance(node, Mapping) else None
    steps = inputs.get("steps") if isinstance(inputs, Mapping) else None
    return min(steps, MOST) if isinstance(steps, int) else 0


def fraction_of(state: PromptState, times: NodeTimes) -> float:
    """Return the completed fraction of a prompt, 0 to 1; it never falls."""
    done = fraction(
        state.graph,
        _weights_of(state, times),
        visited=state.visited,
        node_id=state.node,
        step=state.step,
        states=state.states,
    )
    state.fraction = max(state.fraction, min(0.99, done))
    return state.fraction


def seconds_left(state: PromptState, times: NodeTimes, now: float, ran_for: float) -> float | None:
    """Estimate the remaining seconds of a prompt; None if unknown.

    The estimate starts from earlier times of its nodes, and gives the prompt's own pace more weight
    the further it is.  If some nodes have not run before, the pace of the sampler's steps is used.
    """
    costs = _weights_of(state, times)
    known = {node_id: times.seconds(state.graph, node_id) for node_id in costs}
    if costs and None not in known.values():
        done = state.fraction
        by_pace = ran_for / done if done > 0 else 0.0
        return max(0.0, sum(costs.values()) * (1 - done) + by_pace * done - ran_for)
    step = state.step
    if step is None or step.node != state.node or not _part(step.value, step.max):
        return None
    if step.value is None or step.max is None or not TELLING <= step.value <= MOST:
        return None
    for_one = (now - state.node_since) / step.value
    left = for_one * max(0.0, min(step.max, MOST) - step.value)
    for node_id in costs.keys() - state.visited - {state.node}:
        steps = units(state.graph, node_id)
        # Nodes without steps are mostly quick.
        left += known[node_id] or (for_one * steps if steps > 1 else 0.0)
    return left


def _weights_of(state: PromptState, times: NodeTimes) -> Mapping[str, float]:
    """Return the costs of the nodes that run, computed again when the known facts change."""
    known = (state.graph, state.cached, state.targets, state.node_errors)
    if any(one is not other for one, other in zip(known, state.weighed[0], strict=True)):
        found = weights(
            state.graph,
            cached=state.cached or (),
            targets=targets(state.graph, state.targets, state.node_errors),
            times=times,
        )
        state.weighed = known, found
    return state.weighed[1]
