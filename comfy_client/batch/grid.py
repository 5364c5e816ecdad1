"""A grid: a workflow, and the values that some of its inputs take."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

import attrs

from ..errors import ComfyError, PromptRejected, WorkflowError
from ..upload import Upload
from ..workflow.address import checked_value, input_named
from ..workflow.edit import Source, Workflow, with_inputs
from ..workflow.explain import unknown_class
from ..workflow.graph import as_link, brief, downstream

#: Points in a grid; more is a mistake, such as an iterable without end.
MOST: Final = 100_000

#: What the server finds wrong with one input, whatever stands in others.
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
    """An input and the values that it takes."""

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
        #: Nodes that have to do with each axis.
        self._behind = [len(downstream(self._graph, [axis.node_id])) for axis in self.axes]
        if len(self) > MOST:
            raise ValueError(f"a grid of {len(self)} points, and at most {MOST} make sense")

    def __len__(self) -> int:
        return math.prod(self._sizes)

    def params(self, point: int) -> dict[str, Any]:
        """Return the values at one point, by the names that the caller gave."""
        values = {}
        for axis in reversed(self.axes):
            point, digit = divmod(point, len(axis.values))
            values[axis.name] = axis.values[digit]
        return dict(reversed(values.items()))

    def workflow(self, point: int) -> Workflow:
        """Return the workflow with the values of one point."""
        return with_inputs(self._base, self.params(point))

    def order(self) -> list[int]:
        """Return the points in the order in which the server has the least to do.

        The input with the most nodes behind it is the outermost loop, and every other time a
        loop runs backwards: from one point to the next a single value changes.
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
        """Estimate how many nodes run again at a point after another one."""
        changed = 0
        for size, behind in zip(reversed(self._sizes), reversed(self._behind), strict=True):
            one, before = divmod(one, size)
            other, after = divmod(other, size)
            if before != after:
                changed = max(changed, behind)
        return changed

    def digest(self, point: int) -> str:
        """Return a digest of the graph at a point without titles: equal where the same is run."""
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
        """Return whether the server might take the prompt with other values; in doubt, yes.

        No: what it refused would be refused at each point, since no axis has anything to do
        with it.
        """
        # With another link, another part of the graph counts.
        relinks = any(as_link(value) for axis in self.axes for value in axis.values)
        if isinstance(error, WorkflowError):
            return relinks  # the values themselves were checked when they were given
        if not isinstance(error, PromptRejected):
            return True
        kind = error.error.get("type")
        if kind in ("missing_node_type", "prompt_no_outputs"):
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
        """Return whether an axis may have to do with one entry of ``node_errors[id]["errors"]``."""
        ours = [axis for axis in self.axes if axis.node_id == node_id]
        kind, info = fault.get("type"), fault.get("extra_info")
        if kind in _OF_ONE_INPUT:
            name = info.get("input_name") if isinstance(info, Mapping) else None
            # What is nested in an input ("mode.width") is there by its value.
            return any(
                not isinstance(name, str) or name.split(".")[0] == axis.input.split(".")[0]
                for axis in ours
            )
        if kind == "custom_validation_failed":  # knows all inputs of its node, and no other
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
    """Return a node as one text, its title left out."""
    known = {name: node[name] for name in node if name != "_meta"}
    return json.dumps(known, sort_keys=True, default=_identity)


def _identity(value: object) -> Any:
    """Return a key for a file that depends on its content only."""
    if isinstance(value, Upload):
        return value.identity()
    raise TypeError(f"JSON cannot represent {brief(value)}")


def _faults(report: object) -> list[Mapping[str, Any]]:
    """Return the errors of a node; one empty error if they are unreadable."""
    errors = report.get("errors") if isinstance(report, Mapping) else None
    return [
        fault if isinstance(fault, Mapping) else {}
        for fault in (errors if isinstance(errors, list) and errors else [{}])
    ]
