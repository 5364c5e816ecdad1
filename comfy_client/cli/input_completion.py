"""Completion of ``--set``, ``--axis`` and ``--input`` from the workflow on the command line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import attrs
import click
from click.shell_completion import CompletionItem

from ..errors import WorkflowError
from .completion import Completions, ask, known_definitions, starting
from .decorators import paths
from .input_options import addressable
from .loading import LazyServer, load

if TYPE_CHECKING:
    from ..workflow import Workflow
    from ..workflow.definition_source import DefinitionSource
    from ..workflow.settable import SettableInput

#: The names of inputs for files in loader nodes.
_FILE_INPUTS: Final = frozenset({"image", "audio", "file", "video"})
#: The most characters of a current value that is offered.
_LONGEST: Final = 100


def complete_settings(ctx: click.Context, param: click.Parameter, incomplete: str) -> Completions:
    """Complete ``NODE.input=``, then the input's values, or the files after ``@``."""
    name, equals, typed = incomplete.partition("=")
    if not equals:
        inputs = _inputs(ctx)
        return _starting(incomplete, inputs) or _starting(incomplete, _by_class(inputs))
    if typed.startswith("@"):
        return _prefixed(f"{name}=@", typed[1:], paths(typed[1:]))
    return _prefixed(f"{name}=", typed, _values(ctx, name))


def complete_axes(ctx: click.Context, param: click.Parameter, incomplete: str) -> Completions:
    """Complete ``NODE.input=``, then each value of the list that follows."""
    name, equals, typed = incomplete.partition("=")
    if not equals:
        return complete_settings(ctx, param, incomplete)
    listed, comma, last = typed.rpartition(",")
    before = listed.split(",")
    values = [one for one in _values(ctx, name) if not set(one) & {",", '"'} and one not in before]
    return _prefixed(f"{name}={listed}{comma}", last, values)


def complete_uploads(ctx: click.Context, param: click.Parameter, incomplete: str) -> Completions:
    """Complete ``NODE=`` for loader nodes, then file names."""
    name, equals, typed = incomplete.partition("=")
    if equals:
        return _prefixed(f"{name}=", typed, paths(typed))
    loaders = (one for one in _inputs(ctx) if one.name in _FILE_INPUTS)
    return starting(incomplete, (f"{one.address.removesuffix(f'.{one.name}')}=" for one in loaders))


def _starting(text: str, inputs: Iterable[SettableInput]) -> Completions:
    return starting(text, (f"{addressable(one).address}=" for one in inputs))


def _by_class(inputs: list[SettableInput]) -> Iterator[SettableInput]:
    """Yield the inputs of each node that is the only one of its class, addressed by the class."""
    nodes = {(one.class_type, one.node_id) for one in inputs}
    shared = Counter(class_type for class_type, _ in nodes)
    for one in inputs:
        if one.class_type and shared[one.class_type] == 1:
            yield attrs.evolve(one, address=f"{one.class_type}.{one.name}")


def _prefixed(before: str, typed: str, values: list[str]) -> Completions:
    return [CompletionItem(before + one.value) for one in starting(typed, values)]


def _inputs(ctx: click.Context) -> list[SettableInput]:
    workflow = _workflow(ctx)
    return [] if workflow is None else [*map(addressable, workflow.inputs())]


def _workflow(ctx: click.Context) -> Workflow | None:
    """Load the workflow on the command line, if need be with the server's help, or return None."""
    from ..workflow import Workflow

    source = ctx.params.get("workflow") or ctx.params.get("prompt_id")
    if not isinstance(source, str) or source == "-":
        return None
    known = known_definitions(ctx)
    try:
        return Workflow.load(source, known)
    except FileNotFoundError:
        pass  # maybe the id of a prompt
    except WorkflowError:
        if known is not None:
            return None
    return next(iter(ask(ctx, lambda api: [load(source, LazyServer(lambda: api))])), None)


def _values(ctx: click.Context, name: str) -> list[str]:
    """Return the values to offer for an input: its choices, or else its current value."""
    from ..workflow.address import input_named
    from ..workflow.settable import settable_inputs

    workflow = _workflow(ctx)
    if workflow is None:
        return []
    graph = workflow.to_dict()
    node_id, field = input_named(graph, name)

    def found(definitions: DefinitionSource | Mapping[str, Any] | None) -> list[SettableInput]:
        here = settable_inputs({node_id: graph[node_id]}, definitions)
        return [one for one in here if one.name == field]

    known = known_definitions(ctx)
    there = found(known) if known is not None else ask(ctx, found) or found(None)
    return [value for one in there for value in _offered(one)]


def _offered(one: SettableInput) -> list[str]:
    if one.choices is not None:
        return [*map(str, one.choices)]
    if one.type == "BOOLEAN":
        return ["true", "false"]
    now = [str(one.value)] if isinstance(one.value, str | int | float) else []
    random = ["random"] if one.name in ("seed", "noise_seed") else []
    return [value for value in now + random if len(value) <= _LONGEST]
