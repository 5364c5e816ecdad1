"""Inputs of a new node: defaults filled in, values checked as the server would check them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import WorkflowError
from ..nearest import nearest
from ..upload import Upload
from .explain import explain_rejection
from .graph import as_link, brief, check_graph, class_of, describe, listing, shorten
from .input_specs import Autogrow, InputSpec, OutputSpec, outputs_of, types_of, walk
from .problems import shown
from .rules import has_hidden_choices, is_hidden_choice, takes_any, takes_more
from .seeds import NAMES as SEEDS
from .seeds import is_wanted
from .validate import validate

#: Outputs by node id.
OutputSpecs = Mapping[str, tuple[OutputSpec, ...]]

_PYTHON: Mapping[str, str] = {"INT": "int", "FLOAT": "float", "STRING": "str", "BOOLEAN": "bool"}


def fill(
    graph: Mapping[str, Any],
    node_id: str,
    definition: Mapping[str, Any],
    outputs: OutputSpecs,
    *,
    check: bool = True,
) -> tuple[dict[str, Any], tuple[OutputSpec, ...]]:
    """Return a node's inputs in the order of its definition, and its outputs.

    Args:
        graph: The graph with the node in it, whose inputs are what it was given: values,
            ``[node id, slot]``, and lists or dicts of these for an autogrow input.
        node_id: The node.
        definition: The definition of its class.
        outputs: The outputs of the other nodes.
        check: Whether names and values are checked; links always are.

    Raises:
        WorkflowError: The server would refuse an input, or a value is not of the input's type.
    """
    node = _Filling(graph, node_id, outputs, checks=check)
    node.read(definition)
    if check:
        node.refuse_unknown()
    inputs = dict(node.values())
    if check:
        node.check(inputs)
    return inputs, tuple(node.outputs(definition, inputs))


class _Filling:
    """A node whose inputs are being filled in."""

    def __init__(
        self, graph: Mapping[str, Any], node_id: str, outputs: OutputSpecs, *, checks: bool
    ) -> None:
        self._checks = checks
        self._graph = graph
        self._id = node_id
        self._sources = outputs
        self._given: dict[str, Any] = dict(graph[node_id]["inputs"])
        self._specs: dict[str, InputSpec] = {}
        self._groups: list[str] = []  # prefixes of inputs that are not known one by one
        self._definition: Mapping[str, Any] = {}

    def read(self, definition: Mapping[str, Any]) -> None:
        """Read the definition's inputs, and expand those that have several parts."""
        self._definition = definition
        for one in walk(definition, self._given):
            if isinstance(one, InputSpec):
                self._specs[one.name] = one
            elif isinstance(one, Autogrow):
                self._spread(one)
                self._specs |= {spec.name: spec for spec in one.parts(self._given)}
            else:
                self._groups.append(one)

    def _spread(self, group: Autogrow) -> None:
        if group.name not in self._given:
            return
        value = self._given.pop(group.name)
        if isinstance(value, dict):
            parts = {f"{group.name}.{name}": one for name, one in value.items()}
        else:
            parts = {}
            # Two numbers are two values; the id of a node is a text.
            is_one = not isinstance(value, list) or (as_link(value) and isinstance(value[0], str))
            listed = [value] if is_one else value
            if len(listed) > group.most:
                raise self._error(group.name, f"takes at most {group.most}, not {len(listed)}")
            for index, one in enumerate(listed):
                parts[group.part_name(index)] = one
        twice = parts.keys() & self._given
        if twice:
            raise self._error(min(twice), f"is given twice, also by {brief(group.name)}")
        self._given |= parts

    def refuse_unknown(self) -> None:
        """Raise WorkflowError for the first input that the class does not have."""
        for name in () if takes_more(self._class) else self._given:
            if name in self._specs or any(f"{name}.".startswith(f"{g}.") for g in self._groups):
                continue
            near = nearest(name, self._specs)
            hint = f"nearest: {listing(near)}" if near else f"it has {listing(self._specs) or None}"
            raise WorkflowError(
                f"{self._who} has no input {brief(name)}; {hint}",
                candidates=near or tuple(self._specs),
            )

    def values(self) -> Iterator[tuple[str, Any]]:
        """Yield the given value or the default of each input, then the values of unknown inputs."""
        for name, spec in self._specs.items():
            if name in self._given:
                yield name, self._value(spec, self._given[name])
                continue
            try:
                yield name, _sent(spec, spec.default())
            except LookupError:
                if spec.required and self._checks:
                    raise self._error(name, f"is missing: {_wanted(spec)}") from None
        for name, value in self._given.items():
            if name not in self._specs:
                yield name, value

    def _value(self, spec: InputSpec, value: Any) -> Any:
        """Convert a value to the right Python type, or check a link; raise if neither fits."""
        link = as_link(value)
        if link:
            if spec.is_selector:
                raise self._error(spec.name, f"takes no link, but {_wanted(spec)}")
            source, slot = link
            if source not in self._sources:
                near = nearest(source, self._sources)
                hint = f"; nearest: {listing(near)}" if near else ""
                raise WorkflowError(
                    f"{self._where(spec.name)}: {brief(value)} links to node {brief(source)}, "
                    f"which does not exist{hint}",
                    candidates=near,
                )
            gives = self._sources[source]
            if not 0 <= slot < len(gives):
                has = f"outputs 0 to {len(gives) - 1}" if gives else "no outputs"
                who = describe(self._graph, source)
                raise self._error(spec.name, f"takes output {slot} of {who}, which has {has}")
            return [source, slot]
        is_wrapped = isinstance(value, dict) and "__value__" in value
        if is_wrapped or not self._checks or _is_drawn(spec.name, value):
            return value
        wanted = _PYTHON.get(spec.kind) if isinstance(spec.kind, str) else None
        if spec.takes_link_only:
            raise self._error(spec.name, f"{_refusal(spec, value)}; {_WRAP}")
        if isinstance(value, Upload):  # uploaded, it becomes a text
            if spec.has_open_choices or (spec.choices is None and wanted in (None, "str")):
                return value
            raise self._error(spec.name, _refusal(spec, value))
        if wanted and not _is_a(value, wanted):
            raise self._error(spec.name, _refusal(spec, value))
        return _sent(spec, value)

    def check(self, inputs: Mapping[str, Any]) -> None:
        """Raise WorkflowError for a value or a type of link that the server would refuse."""
        known: dict[str, Any] = {}
        inputs = {name: one for name, one in inputs.items() if not isinstance(one, Upload)}
        sources = {link[0] for value in inputs.values() if (link := as_link(value))}
        for name, spec in self._specs.items():
            if self._takes_any_choice(spec, inputs.get(name)):
                known[name] = ["*", {}]
            else:
                is_free = takes_any(self._definition, self._class, spec)
                known[name] = [spec.kind, {} if is_free else dict(spec.options)]
        # Give each node a class named after it; only this node's class has inputs.
        definitions: dict[str, Any] = {
            one: {"input": {}, "output": [out.kind for out in self._sources[one]]}
            for one in sources
        }
        definitions[self._id] = {"input": {"optional": known}, "output": [], "output_node": True}
        parts: dict[str, Any] = {one: {"class_type": one, "inputs": {}} for one in sources}
        parts[self._id] = {"class_type": self._id, "inputs": inputs}
        errors = validate(check_graph(parts, links=False), definitions, version="0.28").node_errors
        report = errors.get(self._id) if isinstance(errors, dict) else None
        if report:
            hints, candidates = self._hints(report["errors"], inputs)
            report["class_type"] = self._graph[self._id]["class_type"]
            text = explain_rejection({"node_errors": {self._id: report}}, self._graph)
            raise WorkflowError("; ".join([text, *hints]), candidates=candidates)

    def _takes_any_choice(self, spec: InputSpec, value: Any) -> bool:
        """Return whether a value is compared neither with choices nor with a range."""
        if spec.has_open_choices or _is_drawn(spec.name, value):
            return True
        if spec.choices is None:
            return False
        has_hidden = has_hidden_choices(self._definition, self._class, spec)
        is_hidden = has_hidden and is_hidden_choice(value)
        return is_hidden or takes_any(self._definition, self._class, spec)

    def _hints(
        self, errors: list[dict[str, Any]], inputs: Mapping[str, Any]
    ) -> tuple[list[str], tuple[str, ...]]:
        """Return suggestions for the errors of a node, in words and as candidate names."""
        hints: list[str] = []
        candidates: list[str] = []
        for error in errors:
            spec = self._specs.get(error["extra_info"].get("input_name", ""))
            value = inputs[spec.name] if spec else None
            if spec and error["type"] == "value_not_in_list":
                choices = [one for one in spec.choices or () if isinstance(one, str)]
                near = nearest(value, choices) if isinstance(value, str) else ()
                candidates += near or choices
                # The near choices go first, since only the beginning of a long list is read.
                error["extra_info"]["input_config"] = [[*near, *(spec.choices or ())], {}]
                if spec.name not in self._given:
                    hints.append(f"{spec.name} has its default")
            link = as_link(value)
            if spec and link and error["type"] == "return_type_mismatch":
                for slot, output in enumerate(self._sources[link[0]]):
                    if types_of(output.kind) & types_of(str(spec.kind)):
                        hints.append(f"its output {slot}, {brief(output.name)}, would fit")
                        candidates.append(output.name)
        return hints, tuple(candidates)

    def outputs(
        self, definition: Mapping[str, Any], inputs: Mapping[str, Any]
    ) -> Iterator[OutputSpec]:
        """Yield the outputs of the node, with the types that its links determine."""
        brought: dict[str, set[str]] = {}
        for name, value in inputs.items():
            link, spec = as_link(value), self._specs.get(name)
            if link and spec and spec.template:
                kind = self._sources[link[0]][link[1]].kind
                brought.setdefault(spec.template, set()).add(kind)
        for output in outputs_of(definition):
            kinds = brought.get(output.template)
            kind = ",".join(sorted(kinds)) if kinds and output.kind == "*" else output.kind
            yield OutputSpec(output.name, kind)

    @property
    def _class(self) -> str:
        return class_of(self._graph, self._id) or ""

    @property
    def _who(self) -> str:
        return describe(self._graph, self._id)

    def _where(self, name: str) -> str:
        return f"{self._who}, input {brief(name)}"

    def _error(self, name: str, text: str) -> WorkflowError:
        return WorkflowError(f"{self._where(name)} {text}")


_WRAP = 'a list that is not a link is given as {"__value__": ...}'


def _sent(spec: InputSpec, value: Any) -> Any:
    """Wrap the value of a curve, and any list, which the server could mistake for a link."""
    if spec.kind == "CURVE":
        return {"__type__": "CURVE", "__value__": value}
    return {"__value__": value} if isinstance(value, list) else value


def _is_drawn(name: str, value: object) -> bool:
    """Return whether an input is a seed whose value is to be drawn at random on submission."""
    return name in SEEDS and is_wanted(value)


def _refusal(spec: InputSpec, value: object) -> str:
    return f"takes {_wanted(spec)}, not {brief(shown(spec.name, value))}"


def _wanted(spec: InputSpec) -> str:
    """Describe what an input accepts."""
    if spec.choices is not None:
        return "the server has nothing to choose from" if not spec.choices else "one of the choices"
    kind = shorten(spec.kind, 60) if isinstance(spec.kind, str) else "COMBO"
    return kind if spec.is_widget else f"a link to an output of type {kind}"


def _is_a(value: object, wanted: str) -> bool:
    """Return whether a value is of a type, rather than one that the server would convert to it."""
    match wanted:
        case "bool":
            return isinstance(value, bool)
        case "str":
            return isinstance(value, str)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return wanted == "float" or value == int(value)
