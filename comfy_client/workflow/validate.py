"""The server's answer to ``POST /prompt``, computed without a server.

One pure function, :func:`validate`, turns graph and node definitions (``GET /object_info``) into
the server's answer.  It makes the same check as a real server, step by step, so that errors have
the server's types, messages, details and order, including the surprising ones: a link to nowhere
raises an exception that hides the node's other errors, a cycle is refused without a reason, and a
node that is valid for one output but not for another gets a 200 with ``node_errors``.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from typing import Any, Literal, get_args

import attrs

#: Server versions: March 2024; 0.3.52 to 0.3.75; 0.8; 0.28.1 of July 2026.
ServerVersion = Literal["2024-03", "0.3.75", "0.8", "0.28"]
#: A node's own check: it takes inputs by name, and returns True, False or a message.
ExtraCheck = Callable[..., object]

#: Limits of lists in an answer: dependent outputs, and nodes of cycles, which a server repeats for
#: each node.  A cycle of 1,000 nodes exceeds a server's stack.
_MOST_IDS = 1_000_000
_LONG_LIST = 20  # choices; for more, the server sends their number only
_CONVERTERS: Mapping[object, Callable[[Any], object]] = {
    "INT": int,
    "FLOAT": float,
    "STRING": str,
    "BOOLEAN": bool,
}
_TRACEBACK = ('  File "execution.py", line 802, in validate_inputs\n',)


@attrs.frozen
class ValidationResult:
    """The server's answer to one ``POST /prompt``, except id and number.

    Attributes:
        ok: Whether at least one output may run; then the server queues the prompt.
        error: The server's summary (``type``, ``message``, ``details``, ``extra_info``); ``None``
            if it is ok or crashed.  ``2024-03`` has a plain text for a body without a workflow.
        node_errors: What is wrong, by node id; may be filled although it is ok.  ``2024-03`` has
            an empty list if it did not get to the nodes.
        outputs_to_execute: Ids of the output nodes that passed: what the server will execute.
        graph: The graph as it would be queued: numbers in strings converted, ``__value__``
            unwrapped.
        crash: The failure, where a real server answers 500 with a page of text; else ``None``.
    """

    ok: bool
    error: dict[str, Any] | str | None
    node_errors: dict[str, Any] | list[Any]
    outputs_to_execute: list[str]
    graph: Any
    crash: str | None = None

    @property
    def status(self) -> int:
        """The HTTP status: 200, 400 or 500."""
        return 200 if self.ok else 400 if self.crash is None else 500


def validate(
    graph: Any,
    definitions: Mapping[str, Any],
    *,
    targets: Any = None,
    extra_checks: Mapping[str, ExtraCheck] | None = None,
    version: ServerVersion = "0.3.75",
    dependents: bool = True,
) -> ValidationResult:
    """Validate a graph as the server would; the arguments are not changed.

    Real servers go through the inputs of a node and through the outputs of a graph in
    random order, and their answer can depend on it.  Here the order is that of the
    definitions and of the graph.  Three things differ on purpose: chains of any length
    are checked to their end (a real server's stack overflows after some 980 nodes);
    nodes beside a cycle never get the ``RecursionError`` that a real server may raise
    there; and the ``traceback`` of an exception is a stand-in without paths.

    Args:
        graph: The value of ``prompt`` in the request: any JSON value.
        definitions: Definitions by class_type, as ``GET /object_info`` gives them.
        targets: ``partial_execution_targets`` of the request (0.3.48+): only these output
            nodes count.  ``None``: all.
        extra_checks: By class_type, a node's own check (``VALIDATE_INPUTS``).  As on the
            server, its parameters name the inputs that it gets and whose range and choices
            it takes over (``**kwargs``: all), a linked input comes as ``None``, and with a
            parameter ``input_types`` it takes over the types of links.  It returns
            ``True``, or ``False``, or a text that says what is wrong.
        version: The server version; see :data:`ServerVersion`.  ``0.28`` supports neither loops nor
            inputs that depend on others.
        dependents: Whether to name the outputs that depend on each wrong node.  There may be
            as many as the square of the number of nodes; a million are named at most.

    Raises:
        ValueError: Unknown version.
    """
    rules = _rules(version)
    graph = _copy(graph)
    validator = _Validator(graph, definitions, extra_checks or {}, rules)
    try:
        if rules.new:
            _check_replaceable(graph)
        outputs = validator.outputs(None if rules.old else targets)
        if isinstance(outputs, list):
            return validator.result(outputs, dependents=dependents)
    except Exception as exc:  # noqa: BLE001  the server has no net here, and answers 500
        return ValidationResult(False, None, {}, [], graph, f"{type(exc).__name__}: {exc}")
    return ValidationResult(False, outputs, [] if rules.old else {}, [], graph)


def no_prompt(version: ServerVersion = "0.3.75") -> ValidationResult:
    """Return the answer to a request without ``prompt``."""
    if _rules(version).old:
        return ValidationResult(False, "no prompt", [], [], None)
    text = "No prompt provided"
    return ValidationResult(False, _error("no_prompt", text, text), {}, [], None)


@attrs.frozen
class _Rules:
    """The differences between server versions, as flags."""

    old: bool  # 2024-03: checks required inputs only, and fails on an unknown class
    combo: bool  # the options of ("COMBO", {"options": [...]}) are checked, too
    new: bool  # newer messages; cycles are reported


def check_version(version: str) -> None:
    """Raise ValueError unless the value is a :data:`ServerVersion`."""
    if version not in get_args(ServerVersion):
        raise ValueError(
            f"version must be one of {', '.join(get_args(ServerVersion))}, not {version!r}"
        )


def _rules(version: str) -> _Rules:
    check_version(version)
    return _Rules(version == "2024-03", version in ("0.8", "0.28"), version == "0.28")


@attrs.frozen
class _Input:
    """An input of a class, as in its definition."""

    name: str
    required: bool
    type: Any  # a name, or a list of options
    options: Mapping[str, Any]
    config: list[Any]  # type and options as errors quote them

    def info(self, **more: Any) -> dict[str, Any]:
        """Return ``extra_info`` for an error of this input."""
        return {"input_name": self.name, "input_config": self.config, **more}


@attrs.frozen
class _OwnCheck:
    """A node's own check, and the inputs that it checks in place of the general check."""

    call: ExtraCheck
    names: frozenset[str] = frozenset()
    takes_all: bool = False

    def covers(self, name: str) -> bool:
        return self.takes_all or name in self.names


_NO_CHECK = _OwnCheck(lambda: True)


@attrs.frozen
class _Finding:
    """The errors of a node, and whether it is valid, which also depends on its sources."""

    valid: bool
    errors: list[dict[str, Any]]


_Visit = Generator[str, bool, bool]  # yields nodes to visit, returns the finding


@attrs.define
class _Validator:
    """The validation of one graph; the server answers 500 to an exception in it."""

    graph: Any
    definitions: Mapping[str, Any]
    checks: Mapping[str, ExtraCheck]
    rules: _Rules
    found: dict[str, _Finding] = attrs.field(factory=dict, init=False)
    wrong: list[str] = attrs.field(factory=list, init=False)  # nodes with errors, as found
    path: list[str] = attrs.field(factory=list, init=False)  # nodes that wait for others
    waiting: Counter[str] = attrs.field(factory=Counter, init=False)  # how often each is in it
    ids_left: int = attrs.field(default=_MOST_IDS, init=False)

    # -- the whole graph ----------------------------------------------------------------

    def outputs(self, targets: Any) -> list[str] | dict[str, Any]:
        """Return the ids of output nodes, or the error that ends the validation."""
        outputs = []
        if isinstance(targets, list):
            targets = {each for each in targets if isinstance(each, str)}
        for node_id in self.graph:
            node = self.graph[node_id]
            if "class_type" not in node and not self.rules.old:
                return self._classless(node_id, node)
            definition = self.definitions.get(node["class_type"])
            if definition is None:
                if self.rules.old:
                    raise KeyError(node["class_type"])
                return self._unknown(node_id, node)
            if definition.get("output_node") is True and (targets is None or node_id in targets):
                outputs.append(node_id)
        return outputs or _error("prompt_no_outputs", "Prompt has no outputs")

    def _classless(self, node_id: str, node: Any) -> dict[str, Any]:
        where = f"Node ID '#{node_id}'"
        if not self.rules.new:
            text = "Cannot execute because a node is missing the class_type property."
            return _error("invalid_prompt", text, where)
        title = node.get("_meta", {}).get("title")
        text = (
            f"Node '{title or f'ID #{node_id}'}' has no class_type. "
            "The workflow may be corrupted or a custom node is missing."
        )
        info = {"node_id": node_id, "class_type": None, "node_title": title}
        return _error("missing_node_type", text, where, info)

    def _unknown(self, node_id: str, node: Any) -> dict[str, Any]:
        where, class_type = f"Node ID '#{node_id}'", node["class_type"]
        if not self.rules.new:
            text = f"Cannot execute because node {class_type} does not exist."
            return _error("invalid_prompt", text, where)
        title = node.get("_meta", {}).get("title", class_type)
        text = f"Node '{title}' not found. The custom node may not be installed."
        info = {"node_id": node_id, "class_type": class_type, "node_title": title}
        return _error("missing_node_type", text, where, info)

    def result(self, outputs: list[str], *, dependents: bool) -> ValidationResult:
        """Validate the graph with these outputs, and return the answer."""
        seen = 0
        good: list[str] = []
        reasons: list[str] = []
        blamed: dict[str, Any] = {}
        for output in outputs:
            finding = self._look_at(output)
            if finding.valid:
                good.append(output)
                continue
            reasons += [f"{error['message']}: {error['details']}" for error in finding.errors]
            # The server reports all errors so far, whatever output they are for.
            for node_id in self.wrong[seen:]:
                other = self.found[node_id]
                if other.errors and node_id not in blamed:
                    class_type = self.graph[node_id]["class_type"]
                    blamed[node_id] = {
                        "errors": other.errors,
                        "dependent_outputs": [],
                        "class_type": class_type,
                    }
            seen = len(self.wrong)
            self.ids_left -= len(blamed) if dependents else 0
            for entry in blamed.values() if dependents and self.ids_left >= 0 else ():
                entry["dependent_outputs"].append(output)
        if good:
            return ValidationResult(True, None, blamed, good, self.graph)
        text = "Prompt outputs failed validation"
        error = _error("prompt_outputs_failed_validation", text, "\n".join(reasons))
        return ValidationResult(False, error, blamed, [], self.graph)

    def note(self, node_id: str, finding: _Finding) -> None:
        """Record the finding on a node."""
        self.found[node_id] = finding
        if finding.errors:
            self.wrong.append(node_id)

    def _look_at(self, output: str) -> _Finding:
        """Validate an output node and its sources, without recursion, so that any depth works."""
        if output in self.found:
            return self.found[output]
        visits = [self._visit(output)]
        self.path = [output]
        self.waiting = Counter(self.path)
        answer: Any = None  # the answer to the visit's last question; None at first
        failure: Exception | None = None
        while visits:
            try:
                visit = visits[-1]
                source = visit.throw(failure) if failure else visit.send(answer)
            except StopIteration as end:
                answer, failure = end.value, None
            except Exception as exc:  # noqa: BLE001  for the visit that waits for this one
                failure = exc
            else:
                answer = failure = None
                if source in self.found:
                    answer = self.found[source].valid
                elif self.waiting[source] > (0 if self.rules.new else 1):
                    answer = self._circle(source)
                else:
                    visits.append(self._visit(source))
                    self.path.append(source)
                    self.waiting[source] += 1
                continue
            visits.pop()
            self.waiting[self.path.pop()] -= 1
        if failure:
            self.note(output, _Finding(False, [_exception(failure)]))
        return self.found[output]

    def _circle(self, node_id: str) -> bool:
        """Handle a cycle: record its errors if the server reports cycles, and return False."""
        # Older servers recurse until Python's stack overflows, and overwrite inner findings on
        # the way back, so all nodes of the cycle are invalid, without errors.  Here one round is
        # enough; a value that was unwrapped inside appears as a list outside.
        if self.rules.new:
            way = [*self.path[self.path.index(node_id) :], node_id]
            self.ids_left -= len(way) ** 2
            if self.ids_left < 0:  # the list is cut off: the previous node, and an ellipsis
                way = [node_id, self.path[-1], node_id]
            nodes = list(dict.fromkeys(way))
            details = " -> ".join(f"{node} ({self.graph[node]['class_type']})" for node in way)
            for node in nodes:
                info = {"node_id": node, "cycle_nodes": nodes}
                error = _error("dependency_cycle", "Dependency cycle detected", details, info)
                self.note(node, _Finding(False, [error]))
        return False

    # -- one node -----------------------------------------------------------------------

    def _visit(self, node_id: str) -> _Visit:
        inputs = self.graph[node_id]["inputs"]
        class_type = self.graph[node_id]["class_type"]
        definition = self.definitions[class_type]
        own = self._own_check(class_type)
        errors: list[dict[str, Any] | None] = []
        valid = True
        types: dict[str, Any] = {}  # types of links
        seen: dict[str, Any] = {}
        for spec in _inputs(definition, self.rules.old):
            if spec.name not in inputs:
                if spec.required:
                    info = {"input_name": spec.name}
                    text = "Required input is missing"
                    # Of an input that belongs to a dynamic one, only the last part is told.
                    is_part = self.rules.new and is_v3(definition)
                    shown = spec.name.rpartition(".")[2] if is_part else spec.name
                    errors.append(_error("required_input_missing", text, shown, info))
                continue
            value = inputs[spec.name]
            if isinstance(value, list):
                error = self._link(spec, value, types, any_type="input_types" in own.names)
                if not error:
                    valid = (yield from self._source(spec, value)) and valid
            else:
                error = self._value(spec, inputs, covered=own.covers(spec.name))
            errors.append(error)
            seen = spec.info(received_value=inputs[spec.name])
        if own is not _NO_CHECK:
            arguments = _arguments(node_id, inputs, definition, self.rules.old)
            arguments = {name: value for name, value in arguments.items() if own.covers(name)}
            if "input_types" in own.names:
                arguments["input_types"] = types
            errors += self._complaints(own.call(**arguments), list(arguments), seen)
        noted = self.found[node_id].errors if self.rules.new and node_id in self.found else []
        found = [*noted, *(error for error in errors if error and error not in noted)]
        valid = valid and not found
        self.note(node_id, _Finding(valid, found))
        return valid

    def _link(
        self, spec: _Input, link: list[Any], types: dict[str, Any], *, any_type: bool
    ) -> dict[str, Any] | None:
        """Check a link, record the type of its source in ``types``, and return an error or None."""
        if len(link) != 2:
            text = "Bad linked input, must be a length-2 list of [node_id, slot_index]"
            return _error("bad_linked_input", text, spec.name, spec.info(received_value=link))
        source, slot = link
        received = _output_types(self.definitions[self.graph[source]["class_type"]])[slot]
        types[spec.name] = received
        if self.rules.old:
            fits = received == spec.type or "*" in (received, spec.type)
            details = f"{spec.name}, {received} != {spec.type}"
        else:
            fits = any_type or _fits(received, spec.type)
            details = f"{spec.name}, received_type({received}) mismatch input_type({spec.type})"
        if fits:
            return None
        text = "Return type mismatch between linked nodes"
        info = spec.info(received_type=received, linked_node=link)
        return _error("return_type_mismatch", text, details, info)

    def _source(self, spec: _Input, link: list[Any]) -> Generator[str, bool, bool]:
        """Visit the node at the other end of a link; return whether it is valid."""
        source: str = link[0]
        try:
            return (yield source)
        except Exception as exc:  # noqa: BLE001  whatever it is, the server reports it
            self.note(source, _Finding(False, [_exception(exc, spec, link)]))
            return False

    def _value(
        self, spec: _Input, inputs: dict[str, Any], *, covered: bool
    ) -> dict[str, Any] | None:
        """Check a value, convert it in place, and return an error or None."""
        name, value, options = spec.name, inputs[spec.name], spec.options
        try:
            if isinstance(value, dict) and "__value__" in value and not self.rules.old:
                value = inputs[name] = value["__value__"]
            convert = _CONVERTERS.get(spec.type) if isinstance(spec.type, str) else None
            if convert and not (convert is bool and self.rules.old):
                value = inputs[name] = convert(value)
        except Exception as exc:  # noqa: BLE001  whatever it is, the server reports it
            text = f"Failed to convert an input value to a {spec.type} value"
            info = spec.info(received_value=value, exception_message=str(exc))
            return _error("invalid_input_type", text, f"{name}, {value}, {exc}", info)
        info = spec.info(received_value=value)
        if not covered or self.rules.old:
            if "min" in options and value < options["min"]:
                text = f"Value {value} smaller than min of {options['min']}"
                return _error("value_smaller_than_min", text, name, info)
            if "max" in options and value > options["max"]:
                text = f"Value {value} bigger than max of {options['max']}"
                return _error("value_bigger_than_max", text, name, info)
        return None if covered else self._choice(spec, value)

    def _choice(self, spec: _Input, value: Any) -> dict[str, Any] | None:
        """Check a value against the choices of a combo; return an error or None."""
        choices = spec.type
        if choices == "COMBO" and self.rules.combo:
            if self.rules.new and spec.options.get("remote_combo"):
                return None  # only the frontend knows the options
            choices = spec.options.get("options", [])
        if not isinstance(choices, list):
            return None
        several = self.rules.new and spec.options.get("multiselect") and isinstance(value, list)
        wrong = [one for one in (value if several else [value]) if one not in choices]
        if not wrong:
            return None
        info = spec.info(received_value=value)
        if len(choices) > _LONG_LIST:
            known, info["input_config"] = f"(list of length {len(choices)})", None
        else:
            known = str(choices)
        quoted = ", ".join(map(repr, wrong)) if self.rules.new else f"'{value}'"
        details = f"{spec.name}: {quoted} not in {known}"
        return _error("value_not_in_list", "Value not in list", details, info)

    # -- a node's own check -------------------------------------------------------------

    def _own_check(self, class_type: str) -> _OwnCheck:
        check = self.checks.get(class_type)
        if check is None:
            return _NO_CHECK
        parameters = inspect.signature(check).parameters.values()
        takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
        names = frozenset(p.name for p in parameters)
        if self.rules.old:
            return _OwnCheck(check, names - {"input_types"})
        return _OwnCheck(check, names, takes_all)

    def _complaints(
        self, result: object, names: list[str], seen: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """Return errors for the result of a node's own check, one for each input it was given."""
        if result is True:
            return []
        kind, text = "custom_validation_failed", "Custom validation failed for node"
        if not names and self.rules.new:
            return [_error(kind, text, "" if result is False else str(result))]
        errors = []
        for name in names:
            details = name if result is False else f"{name} - {result}"
            # 2024-03 quotes the input that it looked at last, whichever it was.
            info = {**(seen if self.rules.old else {}), "input_name": name}
            errors.append(_error(kind, text, details, info))
        return errors


def _arguments(
    node_id: str, inputs: Mapping[str, Any], definition: Mapping[str, Any], old: bool
) -> dict[str, Any]:
    """Return the arguments for a node's own check: values, None for links, hidden inputs."""
    known = {**definition["input"].get("required", {}), **definition["input"].get("optional", {})}
    hidden = definition["input"].get("hidden", {})
    arguments: dict[str, Any] = {}
    for name in inputs:
        value, config = inputs[name], known.get(name)
        raw = bool(config and len(config) > 1 and config[1].get("rawLink"))
        if _is_link(value, old) and not raw:
            arguments[name] = None  # not computed yet
        elif config is not None or (name in hidden and not old):
            arguments[name] = value
    if not is_v3(definition):
        values: dict[str, Any] = {"UNIQUE_ID": node_id, "PROMPT": {}}
        arguments |= {name: values.get(kind) for name, kind in hidden.items()}
    return arguments


def is_link(value: Any) -> bool:
    """Return whether the server treats a value as a link ``[node_id, slot]``."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], int | float)
    )


def _is_link(value: Any, old: bool) -> bool:
    if not (old and isinstance(value, list)):
        return is_link(value)
    _ = value[0], value[1]  # any list counts as a link, and a short one makes the server fail
    return True


# -- reading definitions ----------------------------------------------------------------


def _inputs(definition: Mapping[str, Any], old: bool) -> list[_Input]:
    """Return the inputs of a definition that the server checks."""
    given = definition["input"]
    required = given["required"] if old else given.get("required", {})
    optional = {} if old else given.get("optional", {})
    specs = []
    more = {name: config for name, config in optional.items() if name not in required}
    for name, config in {**required, **more}.items():
        kind, options = config[0], config[1] if len(config) > 1 else {}
        quoted = config if old else [kind, options]
        specs.append(_Input(name, name in required, kind, options, quoted))
    return specs


def _check_replaceable(graph: Any) -> None:
    """Raise the exception of a server that replaces classes first, if a node is malformed."""
    for node in graph.values():
        node.get("inputs", {}).items()


def _output_types(definition: Mapping[str, Any]) -> Any:
    """Return the output types in the server's own container, which errors name."""
    types = definition["output"]
    return list(types) if is_v3(definition) else tuple(types)


def is_v3(definition: Mapping[str, Any]) -> bool:
    """Return whether a class has the V3 schema."""
    # The server writes all of these for each V3 class, and only when set for others.
    return {"api_node", "deprecated", "experimental", "output_tooltips"} <= definition.keys()


def _fits(received: Any, wanted: Any) -> bool:
    """Return whether a received type fits an input; unions such as ``"INT,FLOAT"`` must overlap."""
    # A few classes have a "*" that only matches itself, which definitions do not show.
    if received == wanted or "*" in (received, wanted):
        return True
    if not isinstance(received, str) or not isinstance(wanted, str):
        return False
    return not {t.strip() for t in received.split(",")}.isdisjoint(
        t.strip() for t in wanted.split(",")
    )


# -- wording ----------------------------------------------------------------------------


def _error(
    kind: str, message: str, details: str = "", info: dict[str, Any] | None = None
) -> dict[str, Any]:
    return {"type": kind, "message": message, "details": details, "extra_info": info or {}}


def type_of(exc: BaseException) -> str:
    """Return the name of an exception's class, as a server reports it."""
    cls = type(exc)
    name = cls.__qualname__
    return name if cls.__module__ == "builtins" else f"{cls.__module__}.{name}"


def _exception(
    exc: Exception, spec: _Input | None = None, link: list[Any] | None = None
) -> dict[str, Any]:
    """Return the error for an exception while checking a node.

    With ``spec``, the node is one that is linked to this input.
    """
    raised = {"exception_type": type_of(exc), "traceback": [*_TRACEBACK]}
    if spec is None:
        text = "Exception when validating node"
        return _error("exception_during_validation", text, str(exc), raised)
    text = "Exception when validating inner node"
    info = spec.info(exception_message=str(exc), **raised, linked_node=link)
    return _error("exception_during_inner_validation", text, str(exc), info)


def _copy(graph: Any) -> Any:
    """Copy a graph and the inputs of its nodes, whose values are converted in place."""
    if not isinstance(graph, dict):
        return graph
    copied = dict(graph)
    for node_id, node in graph.items():
        if isinstance(node, dict) and isinstance(node.get("inputs"), dict):
            copied[node_id] = {**node, "inputs": dict(node["inputs"])}
    return copied
