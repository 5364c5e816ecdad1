"""A grid of values for some inputs of a workflow, and its split between servers.  Pure."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import attrs

from ..errors import ComfyError, PromptRejected, WorkflowError
from ..upload import Upload
from ..values import list_at, table_at
from ..workflow.address import checked_value, input_named
from ..workflow.edit import AnyWorkflow, Workflow, with_inputs
from ..workflow.explain import unknown_class
from ..workflow.graph import as_link, brief, downstream

#: The most points in a grid; more is a mistake, such as an endless iterable.
MOST: Final = 100_000

#: Returns how much has to run for the second of two points right after the first.
Cost = Callable[[int, int], int]
#: Returns whether a server can run a point.
Fits = Callable[[str, int], bool]

#: Faults that the server finds in one input, whatever the values of other inputs.
_OF_ONE_INPUT: Final = frozenset(
    {
        "bad_linked_input",
        "invalid_input_type",
        "required_input_missing",
        "value_bigger_than_max",
        "value_not_in_list",
        "value_smaller_than_min",
    }
)


@attrs.frozen
class Axis:
    """An input of a node, and the values that it has in a grid."""

    name: str  #: The input's name as the caller wrote it.
    node_id: str
    input: str
    values: tuple[Any, ...]


class Grid:
    """A workflow with values for some of its inputs, in all combinations.

    Points are numbered in the order of :func:`itertools.product`.

    Raises:
        WorkflowError: A name that is unknown or ambiguous, a value that cannot be sent.
        ValueError: Nothing to vary, no values, one input twice, too many points.
    """

    def __init__(self, workflow: AnyWorkflow, axes: Mapping[str, Iterable[Any]]) -> None:
        if not isinstance(axes, Mapping):
            raise TypeError(f"a grid must be a dict of values by input, not {brief(axes)}")
        if not axes:
            raise ValueError("the grid has no input to vary")
        self._base = Workflow(workflow)
        self._graph = self._base.to_dict()
        self._canonical = {node: canonical(self._graph[node]) for node in sorted(self._graph)}
        self.axes: tuple[Axis, ...] = tuple(
            self._axis(name, values) for name, values in axes.items()
        )
        named: dict[tuple[str, str], str] = {}
        for axis in self.axes:
            other = named.setdefault((axis.node_id, axis.input), axis.name)
            if other != axis.name:
                raise ValueError(f"{other!r} and {axis.name!r} are the same input")
        self._sizes = [len(axis.values) for axis in self.axes]
        #: The numbers of nodes that depend on each axis.
        self._behind = [len(downstream(self._graph, [axis.node_id])) for axis in self.axes]
        if len(self) > MOST:
            raise ValueError(f"a grid of {len(self)} points, and {MOST} are the limit")

    def __len__(self) -> int:
        return math.prod(self._sizes)

    def params(self, point: int) -> dict[str, Any]:
        """Return the values of the inputs at one point, by the names that the caller gave."""
        values = {}
        for axis in reversed(self.axes):
            point, digit = divmod(point, len(axis.values))
            values[axis.name] = axis.values[digit]
        return dict(reversed(values.items()))

    def workflow(self, point: int) -> Workflow:
        """Return the workflow with the values of one point."""
        return with_inputs(self._base, self.params(point))

    def order(self) -> list[int]:
        """Return the points in the order that lets the server reuse the most cached outputs.

        The input on which the most nodes depend is the outermost loop, and every other time a loop
        runs backwards: from one point to the next a single value changes.
        """
        behind = self._behind
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

    def cost(self, one: int, other: int) -> int:
        """Estimate how many nodes must run again when point ``other`` follows point ``one``."""
        changed = 0
        for size, behind in zip(reversed(self._sizes), reversed(self._behind), strict=True):
            one, before = divmod(one, size)
            other, after = divmod(other, size)
            if before != after:
                changed = max(changed, behind)
        return changed

    def digest(self, point: int) -> str:
        """Return a digest of a point's graph without titles; equal prompts have equal digests."""
        inputs: dict[str, dict[str, Any]] = {}
        for axis, value in zip(self.axes, self.params(point).values(), strict=True):
            inputs.setdefault(axis.node_id, {})[axis.input] = value
        nodes = dict(self._canonical)
        for node_id, values in inputs.items():
            node = self._graph[node_id]
            nodes[node_id] = canonical({**node, "inputs": {**node["inputs"], **values}})
        whole = "".join(f"{json.dumps(node_id)}:{node}" for node_id, node in nodes.items())
        return hashlib.sha256(whole.encode()).hexdigest()

    def may_cause(self, error: ComfyError) -> bool:
        """Return whether a refusal may be due to the values at a point; in doubt, True.

        If False, the server would refuse each point, as the reason has nothing to do with the axes.
        """
        # A different link may bring a different part of the graph into play.
        relinks = any(as_link(value) for axis in self.axes for value in axis.values)
        if isinstance(error, WorkflowError):
            return relinks  # the values themselves were checked when they were given
        if not isinstance(error, PromptRejected):
            return True
        if error.error.get("type") in ("missing_node_type", "prompt_no_outputs"):
            return False
        if unknown_class({"error": error.error}, self._graph) is not None:
            return False
        if relinks or not error.node_errors:
            return True
        return any(
            self._may_cause(str(node_id), fault)
            for node_id, report in error.node_errors.items()
            for fault in _faults(report)
        )

    def _may_cause(self, node_id: str, fault: Mapping[str, Any]) -> bool:
        """Return whether an axis may have caused one entry of ``node_errors[id]["errors"]``."""
        ours = [axis for axis in self.axes if axis.node_id == node_id]
        kind, info = fault.get("type"), fault.get("extra_info")
        if kind in _OF_ONE_INPUT:
            name = info.get("input_name") if isinstance(info, Mapping) else None
            # A nested input ("mode.width") only exists for some values of the outer one.
            return any(
                not isinstance(name, str) or name.split(".")[0] == axis.input.split(".")[0]
                for axis in ours
            )
        if kind == "custom_validation_failed":  # the node checks all its inputs
            return bool(ours)
        return any(node_id in downstream(self._graph, [axis.node_id]) for axis in self.axes)

    def _axis(self, name: str, values: Iterable[Any]) -> Axis:
        node_id, field = input_named(self._graph, name)
        if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
            raise TypeError(f"{name!r} takes a list of values, not {brief(values)}")
        taken = list(itertools.islice(values, MOST + 1))
        if not taken:
            raise ValueError(f"{name!r} has no values")
        plain = tuple(checked_value(self._graph, node_id, field, value) for value in taken)
        return Axis(name, node_id, field, plain)


def canonical(node: Mapping[str, Any]) -> str:
    """Return JSON that is the same for equal nodes, by which equal points of a grid are found.

    The keys are sorted, ``_meta`` (the title) is left out, and an upload is named by its content.
    """
    known = {name: node[name] for name in node if name != "_meta"}
    return json.dumps(known, sort_keys=True, default=_identity)


def _identity(value: object) -> Any:
    """Return a key for an upload that depends only on its content."""
    if isinstance(value, Upload):
        return value.identity()
    raise TypeError(f"JSON cannot represent {brief(value)}")


def _faults(report: object) -> list[Mapping[str, Any]]:
    """Return the errors in the report on a node; one empty error if they are unreadable."""
    return [table_at(fault) for fault in list_at(report, "errors") or [{}]]


class Split:
    """The points that have not begun, each assigned to a server.

    The order of the points makes each differ little from the one before.  Each server has a run of
    points and takes the next from its front; a server with none left takes over the rear half of
    the longest run.  So slow servers run few points, and fast ones run many.

    Args:
        points: The points in their best order.
        weights: How fast each server is, compared to the other servers, by name.
        cost: Returns how many nodes must run again when one point follows another; a run is best
            cut where these are many.
    """

    def __init__(self, points: Sequence[int], weights: Mapping[str, float], cost: Cost) -> None:
        self._cost = cost
        self._runs: dict[str, list[int]] = {}
        rest, left, name = list(points), sum(weights.values()), ""
        for name, weight in weights.items():
            at = _cut(rest, weight / left, cost)
            self._runs[name], rest = rest[:at], rest[at:]
            left = max(left - weight, weight)
        self._runs.setdefault(name, []).extend(rest)  # the rest after rounding, or all

    def __len__(self) -> int:
        return sum(map(len, self._runs.values()))

    def __iter__(self) -> Iterator[int]:
        return (point for run in self._runs.values() for point in run)

    def take(
        self, name: str, fits: Fits = lambda _name, _point: True, *, may_steal: bool = True
    ) -> int | None:
        """Remove and return the next point of a server, or None if there is none that it can run.

        With ``may_steal``, a server that has finished its own points takes over points of another.
        """
        own = self._runs.setdefault(name, [])
        found = self._first(own, name, fits)
        if found is None and may_steal:
            self._take_over(name, fits)
            found = self._first(own, name, fits)
        return None if found is None else own.pop(found)

    def put_back(self, point: int, name: str) -> None:
        """Put a point back, as the next one for a server."""
        self._runs.setdefault(name, []).insert(0, point)

    def drop(self, points: Collection[int]) -> None:
        """Remove points that are not to run."""
        for name, run in self._runs.items():
            self._runs[name] = [point for point in run if point not in points]

    @staticmethod
    def _first(run: list[int], name: str, fits: Fits) -> int | None:
        return next((at for at, point in enumerate(run) if fits(name, point)), None)

    def _take_over(self, name: str, fits: Fits) -> None:
        """Give a server the rear half of the longest run of another server."""
        found = [
            (other, [point for point in run if fits(name, point)])
            for other, run in self._runs.items()
            if other != name
        ]
        if not found:
            return
        other, points = max(found, key=lambda one: len(one[1]))
        taken = points[_cut(points, 0.5, self._cost) :]
        gone = frozenset(taken)
        self._runs[other] = [point for point in self._runs[other] if point not in gone]
        self._runs[name] += taken


def _cut(points: Sequence[int], share: float, cost: Cost) -> int:
    """Return the index at which to cut a run: near this share, between points that differ most."""
    ideal = min(len(points), int(len(points) * share))
    slack = min(ideal, len(points) - ideal) // 4
    near = range(max(1, ideal - slack), min(len(points) - 1, ideal + slack) + 1)
    return max(
        near,
        key=lambda at: (cost(points[at - 1], points[at]), -abs(at - ideal)),
        default=ideal,
    )
