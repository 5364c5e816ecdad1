"""A grid: a workflow, and the values that some of its inputs take."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

import attrs

from ..errors import WorkflowError
from .edit import Node, Source, Workflow
from .graph import brief, links_of

#: Points in a grid; more is a mistake, such as an iterable without end.
MOST: Final = 100_000


@attrs.frozen
class Axis:
    """One input and the values that it takes."""

    name: str  #: As the caller wrote it.
    node_id: str
    input: str
    values: tuple[Any, ...]


class Grid:
    """A workflow with the values of some of its inputs: all combinations of them.

    Points are numbered as :func:`itertools.product` gives them.

    Raises:
        WorkflowError: A name that is unknown or ambiguous, a value that cannot be sent.
        ValueError: Nothing to vary, no values, one input twice, too many points.
    """

    def __init__(self, workflow: Source, axes: Mapping[str, Iterable[Any]]) -> None:
        if not isinstance(axes, Mapping):
            raise TypeError(f"a grid is a dict of values by input, not {brief(axes)}")
        if not axes:
            raise ValueError("a grid without an input to vary")
        self._base = Workflow(workflow)
        self.axes = tuple(self._axis(name, values) for name, values in axes.items())
        named: dict[tuple[str, str], str] = {}
        for axis in self.axes:
            other = named.setdefault((axis.node_id, axis.input), axis.name)
            if other != axis.name:
                raise ValueError(f"{other!r} and {axis.name!r} are the same input")
        self._sizes = [len(axis.values) for axis in self.axes]
        if len(self) > MOST:
            raise ValueError(f"a grid of {len(self)} points, and at most {MOST} make sense")

    def __len__(self) -> int:
        return math.prod(self._sizes)

    def params(self, point: int) -> dict[str, Any]:
        """The values at one point, by the names that the caller gave."""
        values = {}
        for axis in reversed(self.axes):
            point, digit = divmod(point, len(axis.values))
            values[axis.name] = axis.values[digit]
        return dict(reversed(values.items()))

    def workflow(self, point: int) -> Workflow:
        """The workflow with the values of one point."""
        return with_params(self._base, self.params(point))

    def order(self) -> list[int]:
        """The points in the order in which the server has the least to do.

        The input with the most nodes behind it is the outermost loop, and every other time a
        loop runs backwards: from one point to the next a single value changes.
        """
        graph = self._base.to_dict()
        behind = [len(downstream(graph, axis.node_id)) for axis in self.axes]
        loops = sorted(range(len(self.axes)), key=lambda index: behind[index])  # inner first
        strides = [math.prod(self._sizes[index + 1 :]) for index in range(len(self.axes))]
        order = [0]
        for index in loops:
            order = [
                value * strides[index] + rest
                for value in range(self._sizes[index])
                for rest in (reversed(order) if value % 2 else order)
            ]
        return order

    def digest(self) -> str:
        """Equal for equal grids; what an input had before it was varied does not count."""
        what = [self.workflow(0).to_dict(), [[a.node_id, a.input, a.values] for a in self.axes]]
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()

    def _axis(self, name: str, values: Iterable[Any]) -> Axis:
        node, field = find_input(self._base, name)
        if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
            raise TypeError(f"{name!r} takes a list of values, not {brief(values)}")
        taken = list(itertools.islice(values, MOST + 1))
        if not taken:
            raise ValueError(f"{name!r} has no values")
        trial = self._base.copy()[node.id]
        plain = []
        for value in taken:
            trial.set(field, value)
            plain.append(trial[field])
        return Axis(name, node.id, field, tuple(plain))


def find_input(workflow: Workflow, name: str) -> tuple[Node, str]:
    """The node and the input that ``"KSampler.seed"`` means; titles may have dots, too.

    Raises:
        WorkflowError: No such node or input, or several such nodes.
    """
    if not isinstance(name, str):
        raise TypeError(f"an input is named as in 'KSampler.seed', not {brief(name)}")
    parts = name.split(".")
    splits = [(".".join(parts[:n]), ".".join(parts[n:])) for n in range(len(parts) - 1, 0, -1)]
    if not splits:
        raise WorkflowError(f"{brief(name)} names no input; write node and input: 'KSampler.seed'")
    known = [split for split in splits if split[0] in workflow]
    for node_name, field in known:
        if field in workflow[node_name]:
            return workflow[node_name], field
    node_name, field = (known or splits)[0]
    node = workflow[node_name]
    node[field]  # one of the two raises, and says what there is
    return node, field


def downstream(graph: Mapping[str, Any], node_id: str) -> set[str]:
    """A node and all that take anything from it, through however many others."""
    behind: dict[str, list[str]] = {}
    for other in graph:
        for _, source, _ in links_of(graph, other):
            behind.setdefault(source, []).append(other)
    found: set[str] = set()
    waiting = [node_id]
    while waiting:
        node_id = waiting.pop()
        if node_id not in found:
            found.add(node_id)
            waiting += behind.get(node_id, ())
    return found


def with_params(workflow: Workflow, params: Mapping[str, Any]) -> Workflow:
    """A copy with other values: ``{"KSampler.seed": 7}``.

    Raises:
        WorkflowError: An unknown or ambiguous name, a value that cannot be sent.
    """
    if not isinstance(params, Mapping):
        what = brief(params)
        raise TypeError(f"params are a dict for each prompt, as {{'KSampler.seed': 7}}: {what}")
    copy = workflow.copy()
    for name, value in params.items():
        node, field = find_input(copy, name)
        node.set(field, value)
    return copy
