"""Check of a workflow before it is sent, which reports all problems, as a compiler does.

:mod:`~comfy_client.workflow.validate` computes the server's answer.  The server stops at the first
errors, so a copy of the workflow is mended there, and checked again.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Final

import attrs

from ..errors import ComfyError, WorkflowError
from ..nearest import nearest
from ..showing.cells import Shown
from ..to_dict import AsDict
from ..upload import Upload
from ..values import table_at
from .definition_source import Definitions, FromDisk, as_mapping, names_of
from .explain import (
    Known,
    circle_in,
    cycle,
    missing_class,
    no_class,
    no_outputs,
    problems_in,
    unknown_class,
    unselected,
)
from .graph import (
    as_link,
    brief,
    class_of,
    describe,
    json_value,
    link_fault,
    links_of,
    listing,
    needed,
    shorten,
    sinks,
)
from .input_specs import InputSpec
from .missing_packs import packs_of
from .problems import Problem, node_of, problem_at, shown
from .replacements import Replaced, not_replaced, replace_classes
from .rules import STUB, Listed, Rules, replaces_classes, rules_for
from .validate import ValidationResult, validate

#: The most lines of a printed report.
_MAX_LINES: Final = 100
#: The most cycles that are reported.
_MAX_CIRCLES: Final = 10
#: The value that replaces null, by the type of the input; numbers must not be null.
_OF_NULL: Final = {"STRING": "the text 'None'", "BOOLEAN": "false"}
#: The classes that begin and end a loop, since ComfyUI 0.36; the most ends that are followed.
_LOOPS: Final = ("StartLoop", "EndLoop")
_MAX_LOOPS: Final = 100
#: Errors that outdated definitions can cause.
_OF_FILES: Final = frozenset({"value_not_in_list", "custom_validation_failed"})


@attrs.frozen
class CheckReport(Shown, AsDict):
    """The report of :meth:`Workflow.check`; ``print(report)`` shows a line for each problem.

    A report without errors is true.

    Attributes:
        problems: All problems: errors first, each kind in the order of the nodes.
        accepted: Whether the server would queue the workflow: at least one of its outputs can
            run.  With errors, it then runs only in part.
    """

    _in_dict = ("ok", "accepted")

    problems: tuple[Problem, ...]
    accepted: bool

    @property
    def ok(self) -> bool:
        """Whether there is no error; warnings do not count."""
        return not self.errors

    @property
    def errors(self) -> tuple[Problem, ...]:
        """The problems that are errors."""
        return tuple(problem for problem in self.problems if problem.severity == "error")

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """The problems that are warnings."""
        return tuple(problem for problem in self.problems if problem.severity == "warning")

    def __bool__(self) -> bool:
        return self.ok

    def __iter__(self) -> Iterator[Problem]:
        return iter(self.problems)

    def __repr__(self) -> str:
        return f"<CheckReport {self._summary}>"

    def __str__(self) -> str:
        return "\n".join([*_lines(self.problems), self._summary])

    def _html(self) -> str:
        from ..showing.tables import Table

        rows = [
            (one.severity, _node(one), one.input or "", one.message, one.hint or "")
            for one in self.problems[:_MAX_LINES]
        ]
        more = f"; the first {_MAX_LINES}" if len(self.problems) > _MAX_LINES else ""
        head = ("", "node", "input", "what is wrong", "what would be right") if rows else ()
        moods = {"error": "bad", "warning": "doubtful"}
        return Table(head, rows, moods, below=[f"{self._summary}{more}"]).html()

    @property
    def _summary(self) -> str:
        counts = ((len(self.errors), "error"), (len(self.warnings), "warning"))
        words = [f"{n} {noun}{'' if n == 1 else 's'}" for n, noun in counts if n]
        return ", ".join(words) or "no problems"

    def raise_for_errors(self) -> None:
        """Raise WorkflowError if there are errors.

        Raises:
            WorkflowError: The message names all errors; they are in ``problems`` too.
        """
        if self.errors:
            lines = "\n".join(_lines(self.errors))
            raise WorkflowError(
                f"the workflow does not pass the check:\n{lines}",
                candidates=self.errors[0].candidates,
                problems=self.errors,
            )


def _node(problem: Problem) -> str:
    return node_of(problem).removeprefix("node ")


def _lines(problems: tuple[Problem, ...]) -> list[str]:
    lines = [str(problem) for problem in islice(problems, _MAX_LINES)]
    if len(problems) > _MAX_LINES:
        lines.append(f"... ({len(problems)} problems in all)")
    return lines


def check(graph: Any, definitions: Definitions, *, targets: Any = None) -> CheckReport:
    """Check a graph; see :meth:`Workflow.check`.

    Args:
        graph: A graph in API format.
        definitions: Node definitions, or what can be asked for them.
        targets: ``partial_execution_targets`` of the request; ``None``: all outputs.

    Raises:
        WorkflowError: ``graph`` is not a mapping, or ``definitions`` are not definitions.
        ComfyError: ``definitions`` could not be asked for.
    """
    if not isinstance(graph, Mapping):
        raise WorkflowError(f"a workflow must be a dict of nodes by id, not {brief(graph)}")
    sent = Sendable(graph)
    report, may_be_old = _check(sent, definitions, targets, refresh=False)
    if isinstance(definitions, Mapping):
        return report
    if (may_be_old and report.problems) or any(p.type in _OF_FILES for p in report.problems):
        report, _ = _check(sent, definitions, targets, refresh=True)
    return report


def _check(
    sent: Sendable, definitions: Definitions, targets: Any, *, refresh: bool
) -> tuple[CheckReport, bool]:
    """Check a graph; return the report, and whether it rests on definitions from a file."""
    graph = sent.graph
    classes = [name for name in {class_of(graph, node_id) for node_id in graph} if name]
    there = as_mapping(definitions, classes, refresh=refresh)
    found = {name: there[name] for name in classes if name in there}
    missing = {name for name in classes if name not in found}
    replaced = Replaced(graph)
    names = names_of(definitions) if missing else ()
    if missing or replaces_classes(found):
        replaced = replace_classes(graph, missing, _replacements(definitions))
        found = {**found, **as_mapping(definitions, replaced.classes)}
    rules = rules_for(replaced.graph, found, _listing_of(definitions))
    lacking = {class_of(replaced.graph, node_id) for node_id in replaced.graph} - found.keys()
    packs = packs_of(definitions, {name for name in lacking if name})
    known = Known(graph, node_names=names, definitions=rules.by_node, packs=packs)
    may_be_old = any(isinstance(one, FromDisk) for one in found.values())
    return _Checker(sent, replaced, rules, known, targets).report(), may_be_old


def _replacements(definitions: Definitions) -> Mapping[str, Any]:
    """Return the server's replacements for removed classes; empty if they cannot be fetched."""
    ask = getattr(definitions, "get_node_replacements", None)
    try:
        found = ask() if callable(ask) else {}
    except ComfyError:
        return {}  # only a hint depends on it
    return table_at(found)


def _listing_of(definitions: Definitions) -> Listed:
    """Return a function that lists a folder's files, asking the server once per folder."""
    ask = getattr(definitions, "get_internal_files", None)

    @functools.cache
    def listed(folder: str) -> Collection[str] | None:
        try:
            return frozenset(ask(folder)) if callable(ask) else None
        except ComfyError:
            return None  # servers before 0.3.15 lack the route

    return listed


@attrs.define(eq=False)
class _Checker:
    """The state of the check of one graph."""

    sent: Sendable
    replaced: Replaced
    rules: Rules
    known: Known
    targets: Any
    errors: list[Problem] = attrs.field(factory=list, init=False)
    blamed: set[tuple[str | None, ...]] = attrs.field(factory=set, init=False)

    @property
    def graph(self) -> Mapping[str, Any]:
        return self.sent.graph

    def report(self) -> CheckReport:
        result = self._validate(self.replaced.graph, self.rules, self.targets)
        if self.replaced.absent:  # the server stops here
            result = attrs.evolve(result, ok=False, crash="KeyError")
        self._add(not_replaced(self.graph, self.replaced))
        self.errors += self._reworded(self._named(result))
        self.blamed |= {_place(problem) for problem in self.errors}
        self._add(self.sent.problems)
        if self.errors or not self._runs_all(result):
            self._add(self._hidden())
        self._add(self._not_sent())
        self._add(self._unselected())
        if result.crash and not self.errors:
            text = f"the server fails while it checks the workflow: {result.crash:.200}"
            self.errors.append(Problem("error", "unknown", text))
        order = {node_id: at for at, node_id in enumerate(self.graph)}
        problems = [*self.errors, *self._warnings()]
        problems.sort(key=lambda one: (one.severity, order.get(one.node_id or "", -1)))
        return CheckReport(tuple(problems), result.ok)

    def _add(self, problems: Iterable[Problem]) -> None:
        """Add errors that the server does not report; skip inputs that already have an error."""
        for problem in problems:
            if _place(problem) not in self.blamed:
                self.blamed.add(_place(problem))
                self.errors.append(attrs.evolve(problem, named_by_server=False))

    def _reworded(self, named: Iterable[Problem]) -> Iterator[Problem]:
        """Yield the server's problems, some reworded, without those about left-out inputs."""
        malformed = {p.node_id: p for p in self.sent.problems if p.type == "malformed_node"}
        for problem in named:
            if (problem.node_id, problem.input) in self.sent.left_out:
                continue
            is_malformed = problem.input is None and problem.node_id in malformed
            text = malformed[problem.node_id].message if is_malformed else problem.message
            yield attrs.evolve(problem, message=text)

    def _runs_all(self, result: ValidationResult) -> bool:
        """Return whether the server runs all outputs; it silently drops outputs after a cycle."""
        return result.ok and len(result.outputs_to_execute) == len(self._outputs())

    def _validate(
        self, graph: Mapping[str, Any], rules: Rules, targets: Any = None
    ) -> ValidationResult:
        return validate(
            rules.graph(graph),
            rules.definitions,
            targets=targets,
            extra_checks=rules.checks,
            version=rules.version,
            dependents=False,
        )

    # -- errors ---------------------------------------------------------------------------

    def _named(self, result: ValidationResult) -> Iterator[Problem]:
        """Yield the problems that the server would name."""
        if result.crash or (result.ok and not result.node_errors):
            return
        body = {"error": result.error, "node_errors": _blamed(result)}
        kind = result.error.get("type") if isinstance(result.error, dict) else None
        if kind == "prompt_no_outputs" and self.targets is not None:
            yield attrs.evolve(no_outputs(), message="none of the targets is an output node")
        elif unknown_class(body, self.graph) is None:
            yield from problems_in(body, self.known)
        else:
            first = next(iter(self._unknown()), None)
            yield from [] if first is None else [first]

    def _unknown(self) -> Iterator[Problem]:
        """Yield a problem for each node without a class, or with one that the server lacks."""
        for node_id in self.replaced.graph:
            if node_id not in self.rules.by_node and isinstance(self.graph[node_id], dict):
                name = class_of(self.graph, node_id)
                known = self.known
                yield (
                    missing_class(known, node_id, name) if name else no_class(self.graph, node_id)
                )

    def _hidden(self) -> Iterator[Problem]:
        """Yield the problems that the server would name once the first ones are fixed."""
        yield from self._unknown()
        graph, bad_links = self.rules.mended(self.replaced.graph)
        ends = self._ends(graph)
        run = needed(graph, ends, ())
        problems = self._problems(graph, ends)
        yield from (one for one in problems if one.node_id not in self.replaced.absent)
        # The server does not follow a link of the wrong type.
        apart = {(p.node_id, p.input) for p in problems if p.type == "return_type_mismatch"}
        named = {p.node_id for p in self.errors if p.type == "dependency_cycle"}
        circles = 0
        while circles < _MAX_CIRCLES:
            circle = circle_in(_followed(graph, run, apart))
            if not circle:
                break
            circles += 1
            if named.isdisjoint(circle):
                yield cycle(self.graph, circle)
            _cut(graph, circle)
            ends.add(circle[0])
        if circles:
            yield from self._problems(graph, ends)
        for node_id, name in bad_links:
            if node_id in run:
                yield self._bad_link(node_id, name)

    def _problems(self, graph: Mapping[str, Any], ends: set[str]) -> list[Problem]:
        """Return the problems that the server would name in a mended graph."""
        result = self._validate(graph, self.rules.with_outputs(ends), ends)
        if not result.node_errors:
            return []
        return [*problems_in({"error": None, "node_errors": _blamed(result)}, self.known)]

    def _ends(self, graph: Mapping[str, Any]) -> set[str]:
        """Return the ids of the nodes of a mended graph from which the check starts.

        These are the output nodes, and the sources of nodes that mending has removed.
        """
        whole = self.replaced.graph
        last, outputs = sinks(whole), self._outputs()
        wanted = {*outputs, *(last - graph.keys())} if outputs else set(last)
        lost = needed(whole, wanted, ()) - graph.keys()
        sources = {source for node_id in lost for _, source, _ in links_of(whole, node_id)}
        return (wanted | sources) & graph.keys()

    def _outputs(self) -> list[str]:
        """Return the ids of the output nodes that the server would run."""
        outputs = [node_id for node_id in self.replaced.graph if self.rules.is_output(node_id)]
        return outputs if self.targets is None else [n for n in outputs if n in self.targets]

    def _bad_link(self, node_id: str, name: str) -> Problem:
        """Return the problem of a link that makes the server raise an exception."""
        value = self.replaced.graph[node_id]["inputs"][name]
        link, hint = as_link(value), None
        text = f"input {brief(name)} links to {brief(value[0])}, which does not exist"
        if link and link[0] in self.graph:
            outputs = (self.rules.by_node.get(link[0]) or {}).get("output", [])
            where = describe(self.graph, link[0])
            text = f"input {brief(name)} links to slot {link[1]} of {where}, which does not exist"
            hint = f"its outputs are: {listing(outputs)}" if outputs else "it has no outputs"
        kind = "exception_during_validation"
        return problem_at(self.graph, node_id, kind, text, input=name, value=value, hint=hint)

    def _not_sent(self) -> Iterator[Problem]:
        """Yield a problem for each link that the client refuses to send; servers accept some."""
        for node_id, node in self.graph.items():
            for name, value in table_at(node, "inputs").items():
                fault = link_fault(self.graph, node_id, value) if type(value) is list else None
                if fault:
                    yield problem_at(
                        self.graph,
                        node_id,
                        "not_sendable",
                        f"{name} = {fault}",
                        input=name,
                        value=value,
                    )

    def _unselected(self) -> Iterator[Problem]:
        """Yield a problem for each dynamic combo without a valid choice whose node will fail."""
        graph = self.replaced.graph
        run = needed(graph, self._outputs() or graph, ())
        for node_id, specs in self.rules.selectors.items():
            for spec in specs if node_id in run else ():
                if _is_fatal(spec):
                    yield unselected(self.known, graph, node_id, spec, fails=True)

    # -- warnings -------------------------------------------------------------------------

    def _warnings(self) -> Iterator[Problem]:
        graph, rules = self.replaced.graph, self.rules
        for node_id, text in self.replaced.notes.items():
            yield self._warning(node_id, "node_replaced", text)
        outputs = [node_id for node_id in graph if rules.is_output(node_id)]
        begins, ends = ([key for key in graph if class_of(graph, key) == one] for one in _LOOPS)
        yield from self._loops(begins, ends)
        run = needed(graph, [*outputs, *ends], ())  # what a loop ends with runs in each iteration
        for node_id in graph:
            definition = rules.by_node.get(node_id)
            if definition is None:
                continue
            if outputs and node_id not in run:
                text = "the node does not run: no output node depends on it"
                yield self._warning(node_id, "node_not_run", text)
                continue
            newer = self.replaced.newer.get(class_of(graph, node_id) or "")
            if definition.get("deprecated") is True:
                text = "this node class is deprecated"
                hint = f"{brief(newer)} replaces it" if newer else None
                yield self._warning(node_id, "node_deprecated", text, hint=hint)
            elif newer:
                text = f"servers without this node class use {brief(newer)} instead"
                yield self._warning(node_id, "node_replaced", text)
            yield from self._input_warnings(node_id, definition)

    def _loops(self, begins: list[str], ends: list[str]) -> Iterator[Problem]:
        """Yield a warning for each end of a loop without the other; a server refuses more."""
        closed: set[str] = set()
        kind = "loop_not_closed"
        for end in ends[:_MAX_LOOPS]:
            before = needed(self.replaced.graph, [end], ()).intersection(begins)
            closed |= before
            if not before:
                yield self._warning(end, kind, f"no {_LOOPS[0]} node leads to the end of this loop")
        for begin in begins if len(ends) <= _MAX_LOOPS else ():
            if begin not in closed:
                yield self._warning(begin, kind, f"no {_LOOPS[1]} node depends on this loop")

    def _input_warnings(self, node_id: str, definition: Mapping[str, Any]) -> Iterator[Problem]:
        given = self.replaced.graph[node_id].get("inputs")
        if not isinstance(given, Mapping):
            return
        yield from self._nulls(node_id, definition, given)
        for spec in self.rules.selectors.get(node_id, ()):
            # A missing input may have another name in an older version of the node.
            is_odd = spec.name in given or (spec.required and _last(spec.name) not in given)
            if is_odd and not _is_fatal(spec):
                problem = unselected(self.known, self.replaced.graph, node_id, spec, fails=False)
                yield attrs.evolve(problem, severity="warning", named_by_server=False)
        for name, choices in self.rules.unchecked.get(node_id, {}).items():
            value = given.get(name)
            if value is None or type(value) is list:
                continue
            if choices and value not in choices:
                text = f"{name} = {brief(shown(name, value))} is not one of the choices"
                hint = f"the choices are: {listing(choices)}; the server does not check this one"
                yield self._warning(
                    node_id,
                    "value_not_in_list",
                    text,
                    input=name,
                    value=shown(name, value),
                    hint=hint,
                )
        known = {
            name
            for group in ("required", "optional", "hidden")
            for name in definition["input"].get(group, ())
        }
        absent = known - given.keys()
        for name in given.keys() - known if absent and node_id not in self.rules.open_nodes else ():
            near = self.known.nearest(nearest, name, absent, 1)
            if near:
                text = f"the node has no input {brief(name)}, which the server ignores"
                yield self._warning(
                    node_id,
                    "unknown_input",
                    text,
                    input=name,
                    value=shown(name, given[name]),
                    hint=f"nearest: {listing(near)}",
                    candidates=near,
                )

    def _nulls(
        self, node_id: str, definition: Mapping[str, Any], given: Mapping[str, Any]
    ) -> Iterator[Problem]:
        """Yield a warning for each null that the server replaces by another value."""
        inputs = definition["input"]
        for name, config in {**inputs["required"], **inputs["optional"]}.items():
            becomes = _OF_NULL.get(config[0]) if isinstance(config[0], str) else None
            if name in self.rules.unchecked.get(node_id, {}):
                becomes = "no choice"
            if becomes and given.get(name, "") is None:
                text = f"{shorten(name, 60)} is null, which becomes {becomes}"
                yield self._warning(node_id, "invalid_input_type", text, input=name)

    def _warning(self, node_id: str, kind: str, text: str, **more: Any) -> Problem:
        more = {"severity": "warning", "named_by_server": False, **more}
        return problem_at(self.graph, node_id, kind, text, **more)


def _is_fatal(spec: InputSpec) -> bool:
    """Return whether the node of a dynamic combo fails if none of its options is chosen."""
    return spec.required and "." not in spec.name


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _place(problem: Problem) -> tuple[str | None, ...]:
    """Return the key under which a report has at most one error."""
    if problem.node_id is None:
        return None, problem.type, problem.message
    return problem.node_id, problem.input


def _blamed(result: ValidationResult) -> dict[str, Any]:
    """Return ``node_errors`` without class names, which are internal names in this check."""
    errors = result.node_errors if isinstance(result.node_errors, dict) else {}
    return {node_id: {**entry, "class_type": None} for node_id, entry in errors.items()}


def _followed(
    graph: Mapping[str, Any], run: set[str], apart: set[tuple[str | None, str | None]]
) -> dict[str, Any]:
    """Return copies of the nodes in ``run``, without the inputs in ``apart``."""
    made = {}
    for node_id in graph:
        if node_id in run:
            inputs = graph[node_id]["inputs"].items()
            kept = {name: value for name, value in inputs if (node_id, name) not in apart}
            made[node_id] = {**graph[node_id], "inputs": kept}
    return made


def _cut(graph: dict[str, Any], circle: list[str]) -> None:
    """Cut a cycle of a graph at its first link, by linking that input to a stand-in."""
    source, node_id = circle[0], circle[1]
    node = graph[node_id]
    inputs = {
        name: [STUB, 0] if (as_link(value) or ("", 0))[0] == source else value
        for name, value in node["inputs"].items()
    }
    graph[node_id] = {**node, "inputs": inputs}


# -- before it is sent ------------------------------------------------------------------

#: The most bits of an int that Python converts to text and back.
_MOST_BITS: Final = 14_000


@attrs.frozen(eq=False)
class Sendable:
    """A graph as it would be sent: a copy as plain JSON, and a list of what cannot be sent.

    The copy keeps NaN and Infinity.  An upload becomes ``upload/NAME``, any other value that
    cannot be sent ``None``; whatever has a key that is not a string is left out.

    Attributes:
        graph: The graph, as an independent copy.
        problems: Values that cannot be sent, and nodes that no server accepts as such.
        left_out: The inputs, as (node id, name), whose value was replaced with ``None``.
    """

    _source: Mapping[Any, Any]
    graph: dict[str, Any] = attrs.field(factory=dict, init=False)
    problems: list[Problem] = attrs.field(factory=list, init=False)
    left_out: set[tuple[str, str]] = attrs.field(factory=set, init=False)

    def __attrs_post_init__(self) -> None:
        for node_id, node in self._source.items():
            if not isinstance(node_id, str):
                text = f"the node id {brief(node_id)} is not a string"
                self.problems.append(Problem("error", "not_sendable", text, named_by_server=False))
            elif isinstance(node, Mapping):
                self.graph[node_id] = self._node(node_id, node)
            else:
                self.graph[node_id] = _plain(node)[0]
                self._add(node_id, "malformed_node", f"the node is not an object: {brief(node)}")

    def _node(self, node_id: str, node: Mapping[Any, Any]) -> dict[str, Any]:
        copied: dict[str, Any] = {}
        for key, value in node.items():
            if not isinstance(key, str):
                self._add(node_id, "not_sendable", f"the key {brief(key)} is not a string")
            elif key == "inputs" and isinstance(value, Mapping):
                copied[key] = self._inputs(node_id, value)
            else:
                copied[key], fault = _plain(value)
                if fault:
                    self._add(node_id, "not_sendable", f"{brief(key)}: {fault}")
        if "inputs" not in copied:
            self._add(node_id, "malformed_node", "the node has no inputs")
        elif not isinstance(copied["inputs"], dict):
            text = f"inputs is not an object: {brief(copied['inputs'])}"
            self._add(node_id, "malformed_node", text)
        return copied

    def _inputs(self, node_id: str, inputs: Mapping[Any, Any]) -> dict[str, Any]:
        copied: dict[str, Any] = {}
        for name, value in inputs.items():
            if not isinstance(name, str):
                text = f"the input name {brief(name)} is not a string"
                self._add(node_id, "not_sendable", text)
                continue
            if isinstance(value, Upload):  # in a folder, so not among the server's choices
                copied[name] = f"upload/{value.name or 'content'}"
                continue
            copied[name], fault = _plain(value)
            if fault:
                if type(value) is not float:
                    self.left_out.add((node_id, name))
                text, short = f"{name}: {fault}", shown(name, copied[name])
                self._add(node_id, "not_sendable", text, input=name, value=short)
        return copied

    def _add(self, node_id: str, kind: str, text: str, **where: Any) -> None:
        problem = problem_at(self._source, node_id, kind, text, named_by_server=False, **where)
        self.problems.append(problem)


def _plain(value: Any) -> tuple[Any, str | None]:
    """Return a value as plain JSON, and why it cannot be sent, or None if it can."""
    if value is None or type(value) in (str, bool):
        return value, None
    if type(value) is float:
        is_finite = math.isfinite(value)
        return value, None if is_finite else f"{value} is not a number that JSON can represent"
    if isinstance(value, int):
        return (value, None) if value.bit_length() < _MOST_BITS else (None, "too many digits")
    try:
        return json_value(value), None
    except RecursionError:
        return None, "the value is nested too deeply"
    except ValueError as exc:
        return None, str(exc)
