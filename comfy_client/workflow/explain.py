"""Explanations of a server's refusal.

Bodies differ between versions: ``error`` may be a string, ``node_errors`` a list, and a proxy may
send anything.  No function here raises on any body.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cached_property
from itertools import islice
from types import MappingProxyType
from typing import Any, Final, TypedDict

import attrs

from ..nearest import misspelt, nearest
from ..values import list_at, plain_text, table_at
from .graph import as_link, brief, class_of, describe, inputs_of, links_of, listing, shorten
from .input_specs import InputSpec
from .missing_packs import Packs, pack_and_hint
from .model_files import is_file_name, nearest_files, source_of
from .problems import CORE, NOT_CORE, Problem, problem_at, shown

_MAX_LINES = 20
_MOST_PROBLEMS = 1000
#: The most choices that are searched for near ones; servers send up to 20.
_MOST_CHOICES = 200
#: The most problems of a workflow for which near names are searched, which is slow.
_MOST_GUESSES = 50
#: The most characters read of a server's text.
_READ = 2000
_NODE_ID = re.compile(r"Node ID '#(.*)'")
_UNKNOWN = re.compile(r"because node (.+) does not exist", re.DOTALL)
_ABSENT = re.compile(r"missing 1 required positional argument: '([^']+)'")
#: Messages of loaders about a file name.
_NO_FILE = re.compile(r"Invalid [\w ]{1,20} file\b")
#: The folders of an absolute path, POSIX, Windows or UNC, in front of the file's name.
_FOLDERS = re.compile(
    r"(?<![\w.\-/\\])(?:/|[A-Za-z]:[\\/]+|\\\\)"
    r"(?:[^\\/:*?\"'<>|\s]+(?: [^\\/:*?\"'<>|\s]+)*[\\/]+)+"
)


class Hints(TypedDict, total=False):
    """Knowledge of the server, as arguments of :func:`explain_rejection`."""

    node_names: Collection[str]
    definitions: Mapping[str, Any]
    packs: Packs


def explain_rejection(
    body: object,
    graph: Mapping[str, Any],
    *,
    node_names: Collection[str] = (),
    definitions: Mapping[str, Any] = MappingProxyType({}),
    packs: Packs = MappingProxyType({}),
) -> str:
    """Explain the body of a refusal by ``POST /prompt``, with one line for each problem.

    Each line names the node by id, title and class, the input, its value, and the allowed range or
    the nearest options.  Tracebacks and folders of the server are left out. ``node_errors`` of an
    answer 200, which mean dropped outputs, are explained as well.

    Args:
        body: Decoded JSON, or text, of any shape.
        graph: The workflow that was sent.
        node_names: Classes that the server has, to suggest those that resemble an unknown one.
        definitions: Definitions of the classes in :func:`classes_with_unlisted_choices`, by class.
        packs: The node packs that have classes, as the server's Manager lists them.
    """
    if not isinstance(body, Mapping):
        text = _clean(body) if isinstance(body, str) else ""
        return f"the server says: {text}" if text else _NO_REASON
    known = Known(graph, node_names, _by_node(graph, definitions), packs)
    lines = [problem.text for problem in islice(problems_in(body, known), _MAX_LINES + 1)]
    if len(lines) > _MAX_LINES:
        lines[_MAX_LINES:] = [f"... ({_count(body, known)} problems in all)"]
    elif unknown_class(body, graph) is not None:
        # The embedded server's hint.
        hint = _clean(table_at(body, "error", "extra_info").get("hint"), 1200)
        lines += [hint] if hint else []
    return "\n".join(lines)


def problems_of_rejection(
    body: object,
    graph: Mapping[str, Any],
    *,
    node_names: Collection[str] = (),
    definitions: Mapping[str, Any] = MappingProxyType({}),
    packs: Packs = MappingProxyType({}),
    hide: Callable[[Any], Any] = lambda value: value,
) -> tuple[Problem, ...]:
    """Return the problems of :func:`explain_rejection` as data, 1,000 at most.

    ``hide`` redacts secrets in a text or in the texts of a JSON value.
    """
    if not isinstance(body, Mapping):
        return ()
    known = Known(graph, node_names, _by_node(graph, definitions), packs)
    found = islice(problems_in(body, known), _MOST_PROBLEMS)
    return tuple(
        attrs.evolve(
            problem,
            message=hide(problem.message),
            hint=hide(problem.hint),
            value=hide(problem.value),
        )
        for problem in found
    )


def _by_node(graph: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    if not definitions:
        return {}
    classes = {node_id: class_of(graph, node_id) or "" for node_id in graph}
    return {key: definitions[name] for key, name in classes.items() if name in definitions}


def classes_with_unlisted_choices(body: object, graph: Mapping[str, Any]) -> list[str]:
    """Return the classes of nodes with a wrong choice, if a refusal does not list the choices."""
    found: dict[str, None] = {}
    for node_id, report in table_at(body, "node_errors").items():
        for fault in _faults(report):
            info = table_at(fault, "extra_info")
            name = class_of(graph, node_id)
            if (
                table_at(fault).get("type") == "value_not_in_list"
                and not info.get("input_config")
                and name
            ):
                found.setdefault(name)
    return list(found)


def unknown_class(body: object, graph: Mapping[str, Any]) -> str | None:
    """Return the unknown ``class_type`` for which the server refused a workflow, or None.

    Returns None for other reasons, and for servers before 2024-05-20: they answer 500 in plain
    text.  A server names only the first unknown class.
    """
    error = table_at(body, "error")
    if error.get("type") not in ("invalid_prompt", "missing_node_type"):
        return None
    named = table_at(error, "extra_info").get("class_type")
    if isinstance(named, str) and named:
        return named
    found = _UNKNOWN.search(plain_text(error.get("message"))[:_READ])
    if found:
        return found[1]
    return class_of(graph, _refused_node(body))


@attrs.define(eq=False, slots=False)
class Known:
    """The workflow and definitions for an explanation.

    Attributes:
        graph: The workflow that was sent.
        node_names: Classes that the server has; empty: unknown.
        definitions: By node id, the definition of its class; empty: unknown.
        packs: The node packs that have classes, as the server's Manager lists them.
    """

    graph: Mapping[str, Any]
    node_names: Collection[str] = ()
    definitions: Mapping[str, Any] = attrs.field(factory=dict)
    packs: Packs = attrs.field(factory=dict)
    _guesses: int = attrs.field(default=0, init=False)

    def nearest(
        self, find: Callable[..., tuple[str, ...]], name: str, names: Any, limit: int
    ) -> tuple[str, ...]:
        """Return similar names; an empty tuple once many names have been looked up."""
        self._guesses += 1
        return find(name, names, limit) if self._guesses <= _MOST_GUESSES else ()

    def input_config(self, node_id: str, name: str | None) -> Any:
        """Return ``[type, options]`` of an input, or None if unknown."""
        for group in ("required", "optional"):
            config = table_at(self.definitions, node_id, "input", group).get(name or "")
            if isinstance(config, list) and config:
                return config
        return None

    @cached_property
    def circle(self) -> list[str]:
        """The ids of nodes in a cycle, as from :func:`circle_in`; empty without one."""
        return circle_in(self.graph)

    @cached_property
    def givers(self) -> dict[str, list[str]]:
        """For each type, descriptions of up to three outputs in the workflow that have it."""
        found: dict[str, list[str]] = {}
        for node_id in self.graph:
            for slot, kind in enumerate(list_at(self.definitions, node_id, "output")):
                if isinstance(kind, str) and len(found.setdefault(kind, [])) < 3:
                    found[kind].append(f"{describe(self.graph, node_id)}, slot {slot}")
        return found


# -- the whole answer ---------------------------------------------------------------------


def problems_in(body: Mapping[str, Any], known: Known) -> Iterator[Problem]:
    """Yield the problems in an answer of ``POST /prompt``; at least one."""
    unknown = unknown_class(body, known.graph)
    if unknown is not None:
        yield from _unknown_classes(body, unknown, known)
        return
    is_empty = True
    for problem in _node_problems(table_at(body, "node_errors"), known):
        is_empty = False
        yield problem
    if is_empty:
        yield _summary(body, known.graph)


def missing_class(
    known: Known, node_id: str, class_type: str, *, has_reason: bool = False
) -> Problem:
    """Return the problem of a node whose class the server lacks.

    Names are suggested for a typing mistake only, and so never for a class of a pack.
    """
    meta = table_at(known.graph, node_id, "_meta")
    pack, hint = pack_and_hint(meta, known.packs.get(class_type, ()))
    near = () if pack else known.nearest(misspelt, class_type, known.node_names, 5)
    if hint is None and near:
        hint = f"nearest: {listing(near)}"
    elif hint is None and meta.get("cnr_id") == CORE:
        hint = NOT_CORE
    elif hint is None and not has_reason:
        hint = "is a custom node missing, or not loaded?"
    return problem_at(
        known.graph,
        node_id,
        "missing_node_type",
        f"the server has no node class {brief(class_type)}",
        class_type=class_type,
        hint=hint,
        candidates=near,
        pack=pack,
    )


def _unknown_classes(body: Mapping[str, Any], unknown: str, known: Known) -> Iterator[Problem]:
    """Yield a problem for the class that the server named, then for other unknown classes."""
    has_hint = bool(table_at(body, "error", "extra_info").get("hint"))
    for node_id, name in _unknown_by_node(body, unknown, known).items():
        problem = missing_class(known, node_id, name, has_reason=has_hint)
        yield problem if node_id else attrs.evolve(problem, node_id=None)


def _unknown_by_node(body: Mapping[str, Any], unknown: str, known: Known) -> dict[str, str]:
    found = {_refused_node(body): unknown}
    names = frozenset(known.node_names)
    if names:
        classes = {str(key): class_of(known.graph, key) for key in known.graph}
        found |= {key: name for key, name in classes.items() if name and name not in names}
    return found


def _count(body: Mapping[str, Any], known: Known) -> int:
    unknown = unknown_class(body, known.graph)
    if unknown is not None:
        return len(_unknown_by_node(body, unknown, known))
    return sum(map(len, map(_faults, table_at(body, "node_errors").values())))


def _refused_node(body: object) -> str:
    """Return the id of the node in an error about the whole prompt, or ``""``."""
    error = table_at(body, "error")
    node_id = table_at(error, "extra_info").get("node_id")
    if isinstance(node_id, (str, int)):
        return str(node_id)
    found = _NODE_ID.search(plain_text(error.get("details"))[:_READ])
    return found[1] if found else ""


def _faults(report: object) -> list[Any]:
    faults = table_at(report).get("errors")
    return faults if isinstance(faults, list) else [report]


def _node_problems(reports: Mapping[str, Any], known: Known) -> Iterator[Problem]:
    circles: set[str] = set()
    for node_id, report in reports.items():
        checked = table_at(report).get("class_type")
        sent = table_at(known.graph, node_id).get("class_type")
        for fault in _faults(report):
            problem = _problem(fault, known, node_id, checked)
            if _ran_out_of_stack(fault) and known.circle:
                # Servers before 0.28 follow a cycle until the stack is full, and blame any of its
                # nodes.
                problem = cycle(known.graph, known.circle)
            if problem.type == "dependency_cycle":
                if problem.message in circles:
                    continue  # each node of the cycle repeats it
                circles.add(problem.message)
            if isinstance(checked, str) and isinstance(sent, str) and checked != sent:
                # ``extra_info`` may be missing; servers since 0.14 add it.
                replaced = f"the server put {brief(checked)} in its place"
                hint = "; ".join(filter(None, (problem.hint, replaced)))
                problem = attrs.evolve(problem, hint=hint)
            yield problem


def _summary(body: Mapping[str, Any], graph: Mapping[str, Any]) -> Problem:
    """Return the problem of a rejected prompt whose response blames no node.

    The problem may: a missing class, or a cycle, is looked for in the graph.
    """
    error = body.get("error")
    message = _clean(error if isinstance(error, str) else table_at(error).get("message"))
    details = _clean(table_at(error).get("details"))
    kind = plain_text(table_at(error).get("type"))
    if kind == "no_prompt" or error == "no prompt":
        return Problem("error", "no_prompt", "the request holds no workflow")
    if kind == "prompt_no_outputs":
        return no_outputs()
    info = table_at(table_at(error).get("extra_info"))
    is_bare = kind == "missing_node_type" and info.get("class_type", "") is None
    if is_bare or (kind == "invalid_prompt" and "class_type" in message):
        return no_class(graph, _refused_node(body) or "?")
    circle = circle_in(graph)
    if circle:
        return cycle(graph, circle)
    said = f"{message}: {details}" if message and details != message else details or message
    said = (said if details else message) or ""
    text = f"the server says: {said}" if said else _NO_REASON
    return Problem("error", kind or "unknown", text)


def no_outputs() -> Problem:
    """Return the problem of a workflow without output nodes to run."""
    text = "the workflow has no output node to run: add one, such as SaveImage or PreviewImage"
    return Problem("error", "prompt_no_outputs", text)


def no_class(graph: Mapping[str, Any], node_id: str) -> Problem:
    """Return the problem of a node without a class."""
    return problem_at(graph, node_id, "missing_node_type", "the node has no class_type")


def cycle(graph: Mapping[str, Any], nodes: list[str]) -> Problem:
    """Return the problem that reports a cycle, given its node ids as from :func:`circle_in`."""
    first, last = nodes[0], nodes[-2]
    names = [name for name, source, _ in links_of(graph, first) if source == last]
    text = _in_a_circle(graph, nodes)
    inputs = {"input": names[0], "value": inputs_of(graph, first)[names[0]]} if names else {}
    return problem_at(graph, first, "dependency_cycle", text, **inputs)


def _in_a_circle(graph: Mapping[str, Any], nodes: list[str]) -> str:
    most = nodes if len(nodes) <= _MAX_LINES else [*nodes[: _MAX_LINES - 1], nodes[-1]]
    way = " -> ".join(describe(graph, node) for node in most)
    more = "" if most is nodes else f" ({len(nodes) - 1} nodes in all)"
    return f"the links go in a circle: {way}{more}"


_NO_REASON = "the server gave no reason"


def circle_in(graph: Mapping[str, Any]) -> list[str]:
    """Return the ids of nodes in a cycle, the first repeated at the end; empty without one."""
    from graphlib import CycleError, TopologicalSorter  # needed for errors only

    sources = {node: [source for _, source, _ in links_of(graph, node)] for node in graph}
    try:
        TopologicalSorter(sources).prepare()
    except CycleError as exc:
        found: list[str] = exc.args[1]
        return found
    return []


# -- one fault ------------------------------------------------------------------------------


@attrs.frozen(eq=False)
class _Fault:
    """An entry of ``node_errors[id]["errors"]``, and where it was found."""

    known: Known
    node_id: str
    kind: str
    message: str
    details: str
    info: Mapping[str, Any]

    @property
    def input(self) -> str | None:
        """The name of the input that the server blames; None if it blames none."""
        name = self.info.get("input_name")
        return name if isinstance(name, str) and name else None

    @property
    def name(self) -> str:
        return shorten(self.input or "", 60) or "an input"

    @property
    def value(self) -> Any:
        return shown(self.input, self.info.get("received_value"))

    @property
    def given(self) -> str:
        return f"{self.name} = {brief(self.value)}"

    @property
    def config(self) -> Any:
        """``[type, options]`` of the input, as the server quotes it or as it is known."""
        config = self.info.get("input_config")
        return config if config else self.known.input_config(self.node_id, self.input)


#: The explanation of a fault, as fields of :class:`Problem`.
_Said = dict[str, Any]


def _problem(fault: object, known: Known, node_id: str, class_type: object) -> Problem:
    if not isinstance(fault, Mapping):
        said: _Said = {"message": _clean(fault) or "no reason given"}
        kind = "unknown"
    else:
        kind = plain_text(fault.get("type")) or "unknown"
        info = table_at(fault, "extra_info")
        details, message = _clean(fault.get("details")), _clean(fault.get("message"))
        one = _Fault(known, str(node_id), kind, message, details, info)
        said = {"input": one.input, "value": one.value, **_WORDS.get(kind, _as_it_says)(one)}
        kind = said.pop("type", kind)
    return problem_at(known.graph, node_id, kind, class_type=class_type, **said)


def _ran_out_of_stack(fault: object) -> bool:
    return table_at(fault, "extra_info").get("exception_type") == "RecursionError"


def _as_it_says(fault: _Fault) -> _Said:
    return {"message": ": ".join(filter(None, (fault.message, fault.details))) or "no reason given"}


def _missing(fault: _Fault) -> _Said:
    name = fault.info.get("input_name") or fault.details
    config = fault.config if fault.known.definitions else None
    return {"message": f"input {brief(name)} is missing", "hint": what_it_takes(config)}


def _too_small(fault: _Fault) -> _Said:
    return {"message": f"{fault.given} is too small", "hint": _in_range(fault.config)}


def _too_big(fault: _Fault) -> _Said:
    return {"message": f"{fault.given} is too big", "hint": _in_range(fault.config)}


def _not_convertible(fault: _Fault) -> _Said:
    config = fault.config
    message = f"{fault.given} cannot be converted to {_type(config)}"
    return {"message": message, "hint": _in_range(config)}


def _bad_link(fault: _Fault) -> _Said:
    return {
        "message": f"{fault.given} is not a link: [node id, slot]",
        "hint": 'a literal list is sent as {"__value__": [...]}',
    }


def _mismatch(fault: _Fault) -> _Said:
    takes = _type(fault.config)
    there = fault.known.givers.get(takes) if fault.known.definitions else None
    return {
        "message": f"input {brief(fault.name)} takes {takes}, but {_giver(fault)}",
        "value": fault.info.get("linked_node"),
        "hint": f"{takes} comes from {' or '.join(there)}" if there else None,
    }


def _refused(fault: _Fault) -> _Said:
    # "image - Invalid image file: x.png", or the name alone.
    reason = fault.details.removeprefix(fault.name).lstrip(" -")
    what = f"input {brief(fault.name)}" if fault.info.get("input_name") else "its inputs"
    value = inputs_of(fault.known.graph, fault.node_id).get(fault.input or "")
    said: _Said = {"message": f"the node refuses {what}" + (f": {reason}" if reason else "")}
    more = _files(fault, value)
    if not more and isinstance(value, str) and _NO_FILE.match(reason):
        here = f"set Path({brief(value)}), or give --input to the command"
        more = {"hint": f"to upload a file of this machine, {here}"}
    return {**said, "value": shown(fault.input, value), **more}


def _files(fault: _Fault, value: object) -> _Said:
    """Return a hint with the names of files that resemble a value; empty if there is none."""
    if not fault.known.definitions or not isinstance(value, str):
        return {}
    choices = choices_of(fault.config)
    near = fault.known.nearest(nearest_files, value, choices, 3) if choices else ()
    return {"hint": f"nearest: {listing(near)}", "candidates": near} if near else {}


def _dynamic(fault: _Fault) -> _Said:
    inputs = inputs_of(fault.known.graph, fault.node_id)
    value = shown(fault.name, inputs.get(fault.name))
    given = f" = {brief(value)}" if fault.name in inputs else ""
    reason = fault.details.removeprefix(fault.name).lstrip(" :-")
    text = f"{fault.name}{given} does not fit this node" + (f": {reason}" if reason else "")
    return {"message": text, "value": value}


def _cycle(fault: _Fault) -> _Said:
    """Describe a cycle of nodes, in the order of its links."""
    named = list_at(fault.info, "cycle_nodes")[:_MAX_LINES]
    nodes = [node if isinstance(node, str) else brief(node) for node in named]
    if nodes:
        return {"message": _in_a_circle(fault.known.graph, [*nodes, nodes[0]])}
    text = "the links go in a circle"
    return {"message": f"{text}: {fault.details}" if fault.details else text}


# -- choices --------------------------------------------------------------------------------


def _not_in_list(fault: _Fault) -> _Said:
    hint, near = _choices(fault)
    message = f"{fault.given} is not one of the choices"
    if isinstance(fault.info.get("received_value"), list):  # for an input with several values
        wrong = fault.details.removeprefix(f"{fault.name}: ").rpartition(" not in ")[0]
        message = f"{fault.name}: {wrong or 'some'} not among the choices"
    return {"message": message, "hint": hint, "candidates": near}


def _choices(fault: _Fault) -> tuple[str, tuple[str, ...]]:
    """Return a description of the valid options, and the nearest ones."""
    class_type = class_of(fault.known.graph, fault.node_id)
    choices = choices_of(fault.config)
    if choices is None:
        length = re.search(r"\(list of length (\d{1,18})\)", fault.details)
        count = f"the server has {length[1]}, too many to list" if length else "they are not listed"
        return count + (f"; see get_node_defs({brief(class_type)})" if class_type else ""), ()
    given = fault.info.get("received_value")
    given = given if isinstance(given, str) else brief(given)
    where = _where_it_is(fault, given) if is_file_name(given) else ""
    if not choices:
        return "the server has none at all" + where.replace("the server", "it", 1), ()
    looked_at = choices if fault.known.definitions else choices[:_MOST_CHOICES]
    names = (choice for choice in looked_at if isinstance(choice, str))
    if is_file_name(given):
        near = fault.known.nearest(nearest_files, given, names, 3)
    else:
        near = fault.known.nearest(nearest, given, names, 5)
    hint = f"nearest: {listing(near)}" if near else f"the choices are: {listing(choices)}"
    return hint + where, near


def _where_it_is(fault: _Fault, file: str) -> str:
    """Say where to get a model file, or in which folder it belongs; return ``""`` if unknown."""
    url, folder = source_of(fault.known.graph, fault.node_id, fault.input, file)
    if url:
        return f"; the workflow says: {url}" + (f", into models/{folder}" if folder else "")
    return f"; the server looks in models/{folder}" if folder else ""


def unselected(
    known: Known, graph: Mapping[str, Any], node_id: str, spec: InputSpec, *, fails: bool
) -> Problem:
    """Return the problem of a dynamic combo whose value is not one of its choices.

    Args:
        known: What is known of the workflow.
        graph: The workflow with the classes that the server puts in the place of others.
        node_id: The node.
        spec: The dynamic combo.
        fails: Whether the node certainly fails when it runs; else it may.
    """
    given = inputs_of(graph, node_id)
    value = given.get(spec.name)
    near = known.nearest(nearest, value, spec.kind, 5) if isinstance(value, str) else ()
    hint = f"nearest: {listing(near)}" if near else f"the choices are: {listing(spec.kind)}"
    value = shown(spec.name, value)
    if spec.name not in given:
        kind, text = "required_input_missing", f"input {brief(spec.name)} is missing"
    elif as_link(value):
        kind, text = "bad_linked_input", f"input {brief(spec.name)} takes no link"
    else:
        text = f"{shorten(spec.name, 60)} = {brief(value)} is not one of the choices"
        kind = "value_not_in_list"
    end = "fails" if fails else "may fail"
    return problem_at(
        known.graph,
        node_id,
        kind,
        f"{text}, which the server does not check: the node {end} when it runs",
        input=spec.name,
        value=value,
        hint=hint,
        candidates=near,
    )


def choices_of(config: object) -> list[Any] | None:
    """Return the choices of an input from its ``[type, options]``, or None if it has no choices.

    The choices of a dynamic combo are the keys of its options.
    """
    first = config[0] if isinstance(config, list) and config else None
    choices = first if isinstance(first, list) else _option(config, "options")
    if not isinstance(choices, list):
        return None
    return [one.get("key") if isinstance(one, Mapping) else one for one in choices]


# -- links ----------------------------------------------------------------------------------


def _giver(fault: _Fault) -> str:
    link, graph = fault.info.get("linked_node"), fault.known.graph
    received = _type([fault.info.get("received_type")])
    if isinstance(link, list) and len(link) == 2:
        source = link[0] if isinstance(link[0], str) else brief(link[0])
        return f"{describe(graph, source)}, slot {brief(link[1])}, gives {received}"
    return f"it is linked to {received}"


def _exception(fault: _Fault) -> _Said:
    """Explain an exception in the server's check; a bad link is the usual cause."""
    graph, node_id = fault.known.graph, fault.node_id
    links = list(links_of(graph, node_id))
    kind = _clean(fault.info.get("exception_type"))
    if kind == "KeyError":
        missing = fault.details.strip("'\"")
        names = [name for name, source, _ in links if source == missing]
        if names:
            return {
                "message": f"input {listing(names)} links to node {brief(missing)}, "
                "which does not exist",
                "input": names[0],
                "value": inputs_of(graph, node_id).get(names[0]),
            }
        if missing in ("inputs", "class_type"):
            return {"message": f"the node has no {missing}", "input": None}
    if kind in ("KeyError", "TypeError", "IndexError"):
        for name, value in inputs_of(graph, node_id).items():
            if _is_odd_link(value):
                text = f"{shorten(name, 60)} = {brief(value)} is not a link: [node id, slot]"
                return {"message": text, "input": name, "value": value}
    if kind == "IndexError" and links:
        return _bad_slot(fault, links)
    absent = _ABSENT.search(fault.details) if kind == "TypeError" else None
    if absent and absent[1] not in inputs_of(graph, node_id):
        # The TypeError is about the node's own check, which lacks the missing input.
        return {
            "type": "required_input_missing",
            "message": f"input {brief(absent[1])} is missing",
            "input": absent[1],
        }
    if kind == "AttributeError" and "no attribute 'endswith'" in fault.details:
        # The error is from the function that looks for a file.
        names = [n for n, value in inputs_of(graph, node_id).items() if not isinstance(value, str)]
        if len(names) == 1:
            value = shown(names[0], inputs_of(graph, node_id)[names[0]])
            text = f"{shorten(names[0], 60)} = {brief(value)} is not the name of a file"
            return {"message": text, "input": names[0], "value": value}
    reason = ": ".join(filter(None, (kind, fault.details)))
    text = f"the server failed while it checked the node: {reason or 'no reason given'}"
    return {"message": text, "input": None}


def _is_odd_link(value: object) -> bool:
    """Return whether the server treats a value as a link, but raises an exception on it."""
    if not isinstance(value, list) or len(value) != 2:
        return False
    return not (isinstance(value[0], str) and type(value[1]) is int)


def _bad_slot(fault: _Fault, links: list[tuple[str, str, int]]) -> _Said:
    graph = fault.known.graph
    definitions = fault.known.definitions
    for name, source, slot in links if definitions else ():
        outputs = table_at(definitions, source).get("output")
        if isinstance(outputs, list) and not -len(outputs) <= slot < len(outputs):
            return {
                "message": f"input {brief(name)} links to slot {slot} of "
                f"{describe(graph, source)}, which does not exist",
                "input": name,
                "value": inputs_of(graph, fault.node_id).get(name),
                "hint": f"its outputs are: {listing(outputs)}" if outputs else "it has no outputs",
            }
    taken = ", ".join(
        f"{shorten(name, 60)}: slot {slot} of {describe(graph, source)}"
        for name, source, slot in links[:8]
    )
    return {
        "message": f"a link asks for an output slot that does not exist ({taken})",
        "input": links[0][0] if len(links) == 1 else None,
    }


_WORDS: Final[Mapping[str, Callable[[_Fault], _Said]]] = {
    "required_input_missing": _missing,
    "value_smaller_than_min": _too_small,
    "value_bigger_than_max": _too_big,
    "value_not_in_list": _not_in_list,
    "invalid_input_type": _not_convertible,
    "bad_linked_input": _bad_link,
    "return_type_mismatch": _mismatch,
    "custom_validation_failed": _refused,
    "invalid_dynamic_input": _dynamic,
    "dependency_cycle": _cycle,
    "exception_during_validation": _exception,
    "exception_during_inner_validation": _exception,
}


# -- small parts ----------------------------------------------------------------------------


def what_it_takes(config: object) -> str | None:
    """Describe the values that an input accepts; return None if they are unknown."""
    choices = choices_of(config)
    if choices:
        return f"the choices are: {listing(choices)}"
    if not isinstance(config, list) or not config:
        return None
    default = _option(config, "default")
    default = "" if default is None else f", by default {brief(default)}"
    return f"it takes {_type(config)}{_range(config)}{default}"


def _in_range(config: object) -> str | None:
    """Return the range of an input in words, or None if it has none."""
    found = _range(config)
    return f"it takes {_type(config)}{found}" if found else None


def _range(config: object) -> str:
    low, high = _option(config, "min"), _option(config, "max")
    if low is None and high is None:
        return ""
    if high is None:
        return f" (at least {brief(low)})"
    return f" (at most {brief(high)})" if low is None else f" ({brief(low)} to {brief(high)})"


def _option(config: object, name: str) -> Any:
    return table_at(config[1]).get(name) if isinstance(config, list) and len(config) > 1 else None


def _type(config: object) -> str:
    """Return the type of an input; a list of options is a COMBO."""
    kind = config[0] if isinstance(config, list) and config else None
    return shorten(kind, 60) if isinstance(kind, str) else "COMBO" if kind else "another type"


def _clean(value: object, most: int = 200) -> str:
    """Shorten a server's text to one line, without tracebacks and folders."""
    text = value if isinstance(value, str) else "" if value is None else brief(value)
    if "Traceback (most recent call last)" in text:
        text = text.strip().rpartition("\n")[2]
    return shorten(_FOLDERS.sub("", text[:_READ]), most)
