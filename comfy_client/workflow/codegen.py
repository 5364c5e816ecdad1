"""Python code that builds a workflow with :class:`Graph`, and a module with a typed :class:`Graph`.

The module is for completion in editors and for mypy.  All names and values come from servers and
files.  A name becomes an identifier only if it is plain ASCII and means nothing else; everything
else stays a string literal, which cannot end early, or is left out.
"""

from __future__ import annotations

import builtins
import keyword
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Final

from ..errors import WorkflowError
from ..values import MAX_LEVELS, is_shallow, plain_text, table_at
from .graph import as_link, check_graph, describe, free_id, inputs_of
from .input_specs import (
    Autogrow,
    InputSpec,
    OutputSpec,
    outputs_of,
    positional,
    types_of,
    walk,
)
from .seeds import NAMES as SEEDS

#: The longest name that may become an identifier.
_LONGEST_NAME: Final = 100
#: The longest variable name, without its number.
_LONGEST_VARIABLE: Final = 40
_WIDTH: Final = 96
_DEEPEST: Final = 40  # the deepest indentation, in columns
_BUILTINS: Final = frozenset(dir(builtins))


def is_identifier(name: str) -> bool:
    """Return whether a name from outside can be used in code as an attribute or a keyword.

    Python normalizes some letters to others (``ﬁ`` to ``fi``), so only ASCII is allowed; a leading
    underscore is reserved for this library and for Python.
    """
    return (
        len(name) <= _LONGEST_NAME
        and name.isascii()
        and name.isidentifier()
        and not name.startswith("_")
        and not keyword.iskeyword(name)
    )


def variable(text: str) -> str:
    """Make a lower-case variable name from a title or a class; return ``""`` if impossible."""
    text = text[:200].replace("LoRA", "Lora")  # to become one word, as for KSampler
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z]{2})(?=[A-Z][a-z])", "_", text)
    name = re.sub(r"[^a-z0-9]+", "_", words.lower())[:_LONGEST_VARIABLE].strip("_")
    if not name or not re.search("[a-z]", name):
        return ""
    if name[0].isdigit():
        name = f"node_{name}"
    return f"{name}_" if keyword.iskeyword(name) or name in _BUILTINS else name


def quoted(text: str) -> str:
    """Return a string literal, in double quotes unless that needs escapes.

    ``repr`` escapes invisible characters, such as those that change the direction of text.
    """
    literal = str.__repr__(text)  # the repr of a sealed text hides it
    return literal if '"' in literal else f'"{literal[1:-1]}"'


def literal(value: Any, column: int = 0, indent: int = 0) -> str:
    """Format a JSON value as a Python expression, over several lines if it is long.

    Args:
        value: As JSON carries it: no NaN, and keys that are strings.
        column: The columns of the first line that are taken already.
        indent: The indentation of that line.

    Raises:
        ValueError: An ``int`` of more digits than Python writes.
    """
    if isinstance(value, str):
        return _text(value, column, indent)
    if not isinstance(value, (dict, list)):
        return _scalar(value)
    if _fits(value, _WIDTH - column):
        return _flat(value)
    inside = min(indent + 4, _DEEPEST)
    lines = []
    for key, inner in value.items() if isinstance(value, dict) else (("", one) for one in value):
        name = f"{quoted(key)}: " if isinstance(value, dict) else ""
        lines.append(f"{' ' * inside}{name}{literal(inner, inside + len(name), inside)},\n")
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return f"{opening}\n{''.join(lines)}{' ' * indent}{closing}"


def _scalar(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return repr(value)
    return (int if isinstance(value, int) else float).__repr__(value)  # numpy's own repr differs


def _flat(value: Any) -> str:
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, dict):
        return f"{{{', '.join(f'{quoted(k)}: {_flat(inner)}' for k, inner in value.items())}}}"
    return f"[{', '.join(map(_flat, value))}]" if isinstance(value, list) else _scalar(value)


def _fits(value: Any, width: int) -> bool:
    """Return whether a value fits on one line of ``width`` columns; stop once it does not."""
    ahead = [value]
    while ahead and width > 0:
        one = ahead.pop()
        if isinstance(one, dict):
            width -= 2 + sum(len(key) + 6 for key, _ in zip(one, range(width), strict=False))
            ahead += islice(one.values(), max(width, 0))
        elif isinstance(one, list):
            width -= 2 + 2 * len(one)
            ahead += one[: max(width, 0)]
        else:
            width -= len(one) + 2 if isinstance(one, str) else len(_scalar(one))
    return width > 0


def _text(text: str, column: int, indent: int) -> str:
    """Return a text as one literal, or as one for each of its lines."""
    if column + len(text) + 2 < _WIDTH or "\n" not in text:
        return quoted(text)
    inside = " " * min(indent + 4, _DEEPEST)
    lines = "".join(f"{inside}{quoted(line)}\n" for line in text.splitlines(keepends=True))
    return f"(\n{lines}{' ' * indent})"


def packed(texts: Iterable[str], indent: int = 0) -> str:
    """Return short strings as a list literal of Python, several to a line."""
    lines = [""]
    for text in map(quoted, texts):
        if lines[-1] and indent + 4 + len(lines[-1]) + len(text) > _WIDTH:
            lines.append("")
        lines[-1] += f"{' ' if lines[-1] else ''}{text},"
    if len(lines) == 1:
        return f"[{lines[0].removesuffix(',')}]"
    inside = " " * (indent + 4)
    return "[\n" + "".join(f"{inside}{line}\n" for line in lines) + " " * indent + "]"


def call(head: str, arguments: list[str], indent: int = 0) -> str:
    """Format a call as Python source, on one line if it fits, else with one argument per line."""
    flat = f"{head}({', '.join(arguments)})"
    if "\n" not in flat and indent + len(flat) <= _WIDTH:
        return flat
    inside = " " * (indent + 4)
    return f"{head}(\n" + "".join(f"{inside}{one},\n" for one in arguments) + " " * indent + ")"


#: Names used by the code itself or likely used around it.
_TAKEN = ("api", "g", "graph", "result", "wf", "workflow")
#: Keywords of Graph.node() that are not inputs.
RESERVED = frozenset({"_id", "_title", "_meta", "_extra", "_check"})


def to_code(graph: Mapping[str, Any]) -> str:
    """Return Python code that builds a graph: one statement per node, sources first.

    Raises:
        WorkflowError: A value that JSON cannot represent, or that is nested too deeply.
    """
    graph = check_graph(graph, links=False)
    for node_id, node in graph.items():
        if not is_shallow(node):
            what = f"{describe(graph, node_id)}: a value has more than {MAX_LEVELS} levels"
            raise WorkflowError(f"{what}, which Python code cannot hold")
    try:
        return "\n".join(_CodeWriter(graph).lines())
    except ValueError as exc:  # an int with too many digits
        raise WorkflowError(f"the workflow cannot be written as Python code: {exc}") from None


class _CodeWriter:
    """Writer of the code for one graph."""

    def __init__(self, graph: Mapping[str, Any]) -> None:
        self._graph = graph
        self._order = _sources_first(graph)
        self._uses: dict[str, set[int]] = defaultdict(set)
        done: set[str] = set()
        for node_id in self._order:
            for source, slot in _written_links(graph, node_id, done):
                self._uses[source].add(slot)
            done.add(node_id)
        self._variables: dict[str, str] = {}  # for the nodes written so far
        self._numbers: dict[str, int] = dict.fromkeys(_TAKEN, 1)

    def lines(self) -> Iterator[str]:
        yield from ("from comfy_client import Graph", "")
        yield "g = Graph()  # Graph(api) also checks each node against the server's definitions"
        yield ""
        written: dict[str, None] = {}
        last = 0
        for node_id in self._order:
            last = free_id(written, last)
            is_next = str(last) == node_id
            yield self._statement(node_id, with_id=not is_next)
            written[node_id] = None
            last -= not is_next
        order: list[str] = []
        if list(self._graph) != self._order:
            order = [f"order={packed(self._graph, 4)}"]
        yield from ("", call("workflow = g.workflow", order), "")

    def _statement(self, node_id: str, *, with_id: bool) -> str:
        node = self._graph[node_id]
        class_type = node["class_type"]
        named = is_identifier(class_type) and class_type not in ("choices", "node", "workflow")
        head = f"g.{class_type}" if named else f"g[{quoted(class_type)}]"
        arguments = self._inputs(node["inputs"])
        if with_id:
            arguments.append(f"_id={quoted(node_id)}")
        extra = {key: one for key, one in node.items() if key not in ("class_type", "inputs")}
        meta = extra.get("_meta")
        if isinstance(meta, dict):
            del extra["_meta"]
            if next(iter(meta), None) == "title" and isinstance(meta["title"], str):
                arguments.append(f"_title={literal(meta['title'], 11, 4)}")
                meta = {key: value for key, value in meta.items() if key != "title"}
                arguments += [f"_meta={literal(meta, 10, 4)}"] if meta else []
            else:
                arguments.append(f"_meta={literal(meta, 10, 4)}")
        if extra:
            arguments.append(f"_extra={literal(extra, 11, 4)}")
        name = self._name(node_id) if node_id in self._uses else ""
        return call(f"{name} = {head}" if name else head, arguments)

    def _inputs(self, inputs: Mapping[str, Any]) -> list[str]:
        """Return a node's inputs as keyword arguments, in order; put odd names into a dict."""
        if not RESERVED.isdisjoint(inputs):  # in a leading dict, which allows any name
            items = [f"{quoted(name)}: {self._value(one, 8)}" for name, one in inputs.items()]
            return ["{" + ", ".join(items) + "}"]
        arguments: list[str] = []
        others: list[str] = []
        for name, value in inputs.items():
            if not is_identifier(name):
                others.append(f"{quoted(name)}: {self._value(value, 8 + len(name))}")
                continue
            if others:
                arguments.append("**{" + ", ".join(others) + "}")
                others = []
            arguments.append(f"{name}={self._value(value, 5 + len(name))}")
        return [*arguments, "**{" + ", ".join(others) + "}"] if others else arguments

    def _value(self, value: Any, column: int) -> str:
        link = _as_written_link(value)
        if link and link[0] in self._variables:
            name = self._variables[link[0]]
            return name if self._uses[link[0]] == {0} else f"{name}[{link[1]}]"
        return literal(value, column, 4)

    def _name(self, node_id: str) -> str:
        """Choose an unused variable name for a node, made from its title or its class."""
        node = self._graph[node_id]
        title = plain_text(table_at(node, "_meta").get("title"))
        base = variable(title) or variable(node["class_type"]) or "node"
        number = self._numbers.get(base, 0) + 1
        while number > 1 and f"{base}_{number}" in self._numbers:  # taken
            number += 1
        self._numbers[base] = number
        name = base if number == 1 else f"{base}_{number}"
        self._numbers.setdefault(name, 1)
        self._variables[node_id] = name
        return name


def _as_written_link(value: Any) -> tuple[str, int] | None:
    """Return a link that ``node[slot]`` reproduces exactly, or None."""
    link = as_link(value)
    return link if link and isinstance(value[0], str) and link[1] >= 0 else None


def _written_links(
    graph: Mapping[str, Any], node_id: str, done: set[str]
) -> Iterator[tuple[str, int]]:
    for value in inputs_of(graph, node_id).values():
        link = _as_written_link(value)
        if link and link[0] in done:
            yield link


def _sources_first(graph: Mapping[str, Any]) -> list[str]:
    """Return the ids of all nodes, each after its sources, except where the links form a cycle."""
    order: list[str] = []
    seen: set[str] = set()
    for first in graph:
        ahead = [(first, _sources(graph, first))] if first not in seen else []
        seen.add(first)
        while ahead:
            node_id, sources = ahead[-1]
            source = next((one for one in sources if one not in seen), None)
            if source is None:
                order.append(node_id)
                ahead.pop()
            else:
                seen.add(source)
                ahead.append((source, _sources(graph, source)))
    return order


def _sources(graph: Mapping[str, Any], node_id: str) -> Iterator[str]:
    for value in inputs_of(graph, node_id).values():
        link = _as_written_link(value)
        if link and link[0] in graph:
            yield link[0]


#: The most choices in a ``Literal``, and their length; beyond, any ``str`` is accepted.
_MOST_CHOICES: Final = 100
_LONGEST_CHOICE: Final = 200
#: The most classes, inputs and outputs of a class, and overloads for names that are no identifier,
#: whose checks in mypy take quadratic time.
_MOST_CLASSES: Final = 50_000
_MOST_INPUTS: Final = 250
_MOST_OUTPUTS: Final = 100
_MOST_BY_KEY: Final = 100
_LONGEST_TEXT: Final = 300
#: Names that no method or attribute may have, since annotations or Graph use them.
_TAKEN_BY_STUBS: Final = frozenset(
    {
        *("Any", "BaseGraph", "Callable", "Graph", "GraphNode", "Link", "Literal", "Mapping"),
        *("Protocol", "Sequence", "overload", "bool", "float", "int", "str", "tuple"),
        *("choices", "node", "workflow", "node_id", "slot", "type", "count", "index"),
    }
)
_PARAMETERS: Final = frozenset({"self", "inputs"})
_PYTHON: Final = {"INT": "int", "FLOAT": "float", "STRING": "str", "BOOLEAN": "bool"}
_NO_BODY: Final = "            ..."
_HEAD: Final = '''\
"""The node classes of a ComfyUI, {count} of them, for editors and type checkers.

Written by ``comfy-client stubs``; run it again when the server gets other nodes or models::

    from {module} import Graph

    g = Graph(api)

At run time it is the Graph of comfy_client; the rest is for editors and mypy only.
"""

from typing import TYPE_CHECKING

from comfy_client import Graph as _Graph

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, Literal, Protocol, overload

    from comfy_client import GraphNode, Link
    from comfy_client.workflow.build import BaseGraph

'''
_TAIL: Final = """
else:
    Graph = _Graph
"""


def stubs(definitions: Mapping[str, Any], module: str = "comfy_nodes") -> str:
    """Return the source of a module with typed node classes for these definitions.

    Args:
        definitions: The definitions by class.
        module: The name of the module, for its docstring.
    """
    classes = {
        name: definition
        for name, definition in islice(definitions.items(), _MOST_CLASSES)
        if isinstance(name, str) and isinstance(definition, Mapping)
    }
    methods = [name for name in sorted(classes) if _is_free(name)]
    others = [name for name in sorted(classes) if not _is_free(name) and _is_plain(name)]
    results: dict[str, str] = {}  # classes for nodes with several outputs, by their fields
    body: list[str] = ["    class Graph(BaseGraph):"]
    protocols: list[str] = []
    for name in methods:
        body += _method(name, classes[name], results)
    by_key = others[:_MOST_BY_KEY]
    for number, name in enumerate(by_key):
        protocols.append(f"    class _Class{number}(Protocol):")
        protocols += _method("__call__", classes[name], results)
    body += _by_key(by_key)
    made = [line for each in results.values() for line in each.splitlines()]
    head = _HEAD.format(count=len(classes), module=module if is_identifier(module) else "...")
    return head + "\n".join([*made, *protocols, *body]) + "\n" + _TAIL


def _is_free(name: str, taken: Collection[str] = _TAKEN_BY_STUBS) -> bool:
    return is_identifier(name) and name not in taken


def _is_plain(text: str) -> bool:
    """Return whether a text can be a ``Literal``; mypy fails to parse some."""
    return len(text) <= _LONGEST_CHOICE and text.isprintable()


def _by_key(names: list[str]) -> Iterator[str]:
    """Yield overloads of ``g["A class"]`` for classes that cannot be methods."""
    if names:
        for number, name in enumerate(names):
            yield "        @overload"
            key = f"Literal[{quoted(name)}]"
            yield f"        def __getitem__(self, class_type: {key}) -> _Class{number}: ..."
        yield "        @overload"
        yield "        def __getitem__(self, class_type: str) -> Callable[..., Any]: ..."
    yield "        def __getitem__(self, class_type: str) -> Any: ..."


def _method(name: str, definition: Mapping[str, Any], results: dict[str, str]) -> Iterator[str]:
    specs = list(_shown(definition))
    result = _result(outputs_of(definition)[:_MOST_OUTPUTS], results)
    about = _about(definition)
    body = f"            {quoted(about)}" if about else _NO_BODY
    written = [f"{spec.name}: {_input_type(spec)}" for spec in specs]
    defaults = [_default(spec) for spec in specs]
    by_name = [*map("".join, zip(written, defaults, strict=True))]
    any_name = "inputs: Mapping[str, Any] = ..."
    first = [*written[: max(1, [*defaults, " = ..."].index(" = ..."))], "/"]
    by_position = [*first, *(f"{one} = ..." for one in written[len(first) - 1 :]), "*"]
    names = [one if isinstance(one, str) else one.name for one in walk(definition, {})]
    shown = [spec.name for spec in specs]
    if names == shown and defaults == sorted(defaults):  # required ones first
        forms = [[*by_name, "*"]]
    else:
        # A dict in front is for names that are not parameters.
        forms = [["*", *by_name] if names == shown else [any_name, "/", "*", *by_name]]
        if shown and shown == positional(definition):  # the same positions as in the call
            forms.append(by_position)
    for parameters in forms:
        if len(forms) > 1:
            yield "        @overload"
        yield from _signature(name, parameters, result, body if len(forms) == 1 else _NO_BODY)
    if len(forms) > 1:
        yield from _signature(name, ["*args: Any", "**values: Any"], "Any", body, has_more=False)


def _signature(
    name: str, parameters: list[str], result: str, body: str, *, has_more: bool = True
) -> Iterator[str]:
    yield f"        def {name}("
    yield "            self,"
    yield from (f"            {one}," for one in parameters)
    if has_more:
        yield "            _id: str | int | None = ...,"
        yield "            _title: str | None = ...,"
        yield "            _meta: Mapping[str, Any] | None = ...,"
        yield "            _extra: Mapping[str, Any] | None = ...,"
        yield "            _check: bool = ...,"
    yield f"        ) -> {result}:"
    yield body


def _shown(definition: Mapping[str, Any]) -> Iterator[InputSpec | Autogrow]:
    """Yield the inputs that can be parameters; the inputs of a dynamic combo cannot."""
    for spec in islice(walk(definition, {}), _MOST_INPUTS):
        if not isinstance(spec, str) and _is_free(spec.name, _PARAMETERS):
            yield spec


def _about(definition: Mapping[str, Any]) -> str:
    text = " ".join(plain_text(definition.get("description"))[: 10 * _LONGEST_TEXT].split())
    return text if len(text) <= _LONGEST_TEXT else f"{text[: _LONGEST_TEXT - 3]}..."


def _default(spec: InputSpec | Autogrow) -> str:
    if isinstance(spec, Autogrow):
        return "" if spec.least else " = ..."
    try:
        spec.default()
    except LookupError:
        return "" if spec.required else " = ..."
    return " = ..."


def _input_type(spec: InputSpec | Autogrow) -> str:
    if isinstance(spec, Autogrow):
        part = _input_type(spec.part)
        return part if part == "Any" else f"Sequence[{part}] | Mapping[str, {part}]"
    if spec.choices is not None or spec.kind == "COMBO":
        one = "str" if spec.has_open_choices else _choices(spec.choices or [])
        several = f" | Sequence[{one}]" if spec.options.get("multiselect") else ""
        return f'{one}{several} | Link[Literal["COMBO"]]'
    if not isinstance(spec.kind, str):
        return "Any"
    kinds = types_of(spec.kind)
    values = [_PYTHON[kind] for kind in sorted(kinds) if kind in _PYTHON]
    values += ['Literal["random"]'] if spec.name in SEEDS and values else []
    if "*" in kinds or not (values or spec.takes_link_only) or not all(map(_is_plain, kinds)):
        return "Any"
    if spec.options.keys() & {"widgetType"}:
        return "Any"
    return " | ".join([*values, f"Link[Literal[{', '.join(map(quoted, sorted(kinds)))}]]"])


def _choices(choices: list[Any]) -> str:
    """Return the Python type for an input with these choices."""
    if any(isinstance(one, str) and not _is_plain(one) for one in choices):
        return "str"
    if not choices or len(choices) > _MOST_CHOICES:
        kinds = {type(one).__name__ for one in choices} & {"int", "float", "bool"}
        return " | ".join(["str", *sorted(kinds)])
    literals = []
    for one in choices:
        if isinstance(one, str):
            literals.append(quoted(one))
        elif isinstance(one, bool) or (isinstance(one, int) and abs(one) < 1 << 64):
            literals.append(repr(one))
        else:
            return "Any"
    return f"Literal[{', '.join(dict.fromkeys(literals))}]"


def _result(outputs: list[OutputSpec], results: dict[str, str]) -> str:
    """Return the type of a node with these outputs; with several, it is also a tuple of links."""
    if not outputs:
        return "GraphNode[None]"
    kinds = [_output_type(one) for one in outputs]
    names = {one.name: kind for one, kind in zip(outputs, kinds, strict=True)}
    twice = {one.name for one in outputs if sum(one.name == other.name for other in outputs) > 1}
    named = {name: kind for name, kind in names.items() if _is_free(name) and name not in twice}
    if len(outputs) == 1 and not named:
        return f"GraphNode[{kinds[0]}]"
    links = ", ".join(f"Link[{kind}]" for kind in kinds)
    base = f"GraphNode[{kinds[0]}]" if len(outputs) == 1 else f"Link[{kinds[0]}], tuple[{links}]"
    lines = [f"{name}: Link[{kind}]" for name, kind in named.items()] or ["..."]
    key = "\n".join([base, *lines])
    if key not in results:
        name = f"_Node{len(results)}"
        results[key] = "\n".join(
            [f"    class {name}({base}):", *(f"        {line}" for line in lines)]
        )
    return results[key].split("(", 1)[0].removeprefix("    class ")


def _output_type(output: OutputSpec) -> str:
    """Return the type of an output; Any for a union, one of whose types suffices on the server."""
    kinds = types_of(output.kind)
    if len(kinds) > 1 or "*" in kinds or not _is_plain(output.kind):
        return "Any"
    return f"Literal[{quoted(output.kind)}]"
