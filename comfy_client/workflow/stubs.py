"""A module with a typed :class:`Graph`, for completion in editors and for mypy.

All names in the module come from a server.  Plain identifiers become methods and parameters; others
become string literals, or are left out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Final

from .input_specs import (
    Autogrow,
    InputSpec,
    OutputSpec,
    outputs_of,
    positional,
    types_of,
    walk,
)
from .literals import is_identifier, quoted
from .seeds import NAMES as SEEDS

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
_TAKEN: Final = frozenset(
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


def _is_free(name: str, taken: Collection[str] = _TAKEN) -> bool:
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
    text = definition.get("description")
    text = " ".join(text[: 10 * _LONGEST_TEXT].split()) if isinstance(text, str) else ""
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
    return " | ".join([*values, _link(kinds)])


def _link(kinds: Iterable[str]) -> str:
    return f"Link[Literal[{', '.join(map(quoted, sorted(kinds)))}]]"


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
