"""Workflows from files, standard input or a server's prompts; node definitions on demand.

Completion of ``--set``, ``--axis`` and ``--input`` from the workflow on the command line.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Self

import attrs
import click
from click.shell_completion import CompletionItem

from ..errors import AuthenticationError, ComfyError, WorkflowError
from .completion import Completions, ask, complete_workflows, known_definitions, starting
from .decorators import Decorator, paths
from .exits import Mistake, message_of
from .input_options import addressable, mistakes, read_standard_input
from .printing import note
from .prompt_records import FileOrRecord, file_or_record
from .server_options import ANSWER_LIMIT, ServerOptions

if TYPE_CHECKING:
    from ..client import ComfyApi
    from ..workflow import Workflow
    from ..workflow.definition_source import Definitions, DefinitionSource
    from ..workflow.settable import SettableInput

#: The names of inputs for files in loader nodes.
_FILE_INPUTS: Final = frozenset({"image", "audio", "file", "video"})
#: The most characters of a current value that is offered.
_MOST_OF_VALUE: Final = 100
#: What to do if there is no such file.
_MAKES_ONE = "comfy-client example > txt2img.json makes one"
#: The argument of commands that take a workflow.
workflow_argument: Decorator = click.argument(
    "workflow", metavar="WORKFLOW", shell_complete=complete_workflows
)
definitions_option: Decorator = click.option(
    "--definitions",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Node definitions saved by comfy-client object-info, instead of a server's.",
)


def content_of(source: str) -> str | bytes:
    """Return the path of a workflow unchanged, or for ``-`` the content of standard input."""
    return read_standard_input() if source == "-" else source


def load(source: str, server: LazyServer, **options: Any) -> Workflow:
    """Load a workflow in API or UI format or in a picture, from a path, ``-``, or a prompt's id."""
    return load_from(file_or_record(content_of(source), server), server, **options)


def load_from(source: FileOrRecord, definitions: Definitions, **options: Any) -> Workflow:
    """Load a workflow from a path, its content, or a server's record of a prompt."""
    from ..workflow import Workflow

    with mistakes("the workflow"):
        try:
            return Workflow.load(source, definitions, **options)
        except FileNotFoundError as exc:
            raise Mistake(f"the workflow: {message_of(exc)}", _MAKES_ONE) from None


def read_definitions(path: Path) -> Mapping[str, Any]:
    """Read node definitions, as ``/object_info`` returns them, from a JSON file."""
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as exc:
        raise Mistake(f"{path}: not JSON ({exc})") from None
    if not isinstance(found, dict) or not all(map(_is_definition, found.values())):
        raise Mistake(f"{path}: not node definitions, as /object_info returns them")
    return found


def _is_definition(value: object) -> bool:
    """Return whether a value looks like the definition of a class, not like a node of a graph."""
    return isinstance(value, dict) and not {"input", "output"}.isdisjoint(value)


class LazyServer:
    """A server that is contacted only when it is needed.

    Mistakes in files are thus reported even if the server is away.
    """

    def __init__(self, client: Callable[[], ComfyApi]) -> None:
        self._find = client
        self._found: ComfyApi | None = None

    @property
    def client(self) -> ComfyApi:
        """The client, made on first use."""
        if self._found is None:
            self._found = self._find()
        return self._found

    def clients(self) -> Sequence[ComfyApi]:
        """Return the client, in a list."""
        return [self.client]

    def node_definitions(
        self, classes: Collection[str] | None = None, *, refresh: bool = False
    ) -> Mapping[str, Any]:
        """Return the definitions of node classes from the server, by class."""
        return self.client.node_definitions(classes, refresh=refresh)

    def node_names(self, *, for_a_hint: bool = False) -> Collection[str]:
        """Return the names of the server's node classes; for a hint, none if they are many."""
        return self.client.node_names(for_a_hint=for_a_hint)

    def packs_of_classes(self, classes: Collection[str]) -> Mapping[str, Sequence[str]]:
        """Return the node packs that have classes, by class, as far as the server knows them."""
        return self.client.packs_of_classes(classes)

    def get_node_replacements(self) -> Mapping[str, Any]:
        """Return the server's replacements of removed node classes."""
        return self.client.get_node_replacements()

    def open_image(self, info: str) -> BinaryIO:
        """Open a file of the server by its URL."""
        return self.client.open_image(info)


class LazyDefinitions(LazyServer):
    """Node definitions from a file, or from a server that is contacted only if they are needed."""

    def __init__(self, given: ServerOptions, path: Path | None) -> None:
        self._known = None if path is None else read_definitions(path)
        self._refreshed: set[str] = set()
        self._replacements: Mapping[str, Any] | None = None if path is None else {}
        self._stack = ExitStack()
        super().__init__(lambda: self._stack.enter_context(given.answering_client()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def node_definitions(
        self, classes: Collection[str] | None = None, *, refresh: bool = False
    ) -> Mapping[str, Any]:
        """Return all node definitions in the file, or those of ``classes`` from the server.

        For any number of workflows, the server is asked for a class a second time once at most.
        """
        if self._known is not None:
            return self._known
        if not refresh or classes is None:
            return super().node_definitions(classes, refresh=refresh)
        again = {*classes} - self._refreshed
        self._refreshed |= again
        found = super().node_definitions(again, refresh=True) if again else {}
        return {**super().node_definitions({*classes} - again), **found}

    def node_names(self, *, for_a_hint: bool = False) -> Collection[str]:
        """Return the names of the classes in the file, or on the server."""
        return self._known if self._known is not None else super().node_names(for_a_hint=for_a_hint)

    def packs_of_classes(self, classes: Collection[str]) -> Mapping[str, Sequence[str]]:
        """Return the node packs that have classes; none if a file was given."""
        return {} if self._known is not None else super().packs_of_classes(classes)

    def get_node_replacements(self) -> Mapping[str, Any]:
        """Return the server's replacements of removed node classes; none if a file was given."""
        if self._replacements is None:
            self._replacements = super().get_node_replacements()
        return self._replacements


class DefinitionsIfThere:
    """The node definitions of a source, or none if its server does not answer."""

    def __init__(self, source: LazyDefinitions) -> None:
        self._source = source
        self._is_away = False

    def node_definitions(
        self, classes: Collection[str] | None = None, *, refresh: bool = False
    ) -> Mapping[str, Any]:
        """Return the definitions; from the server's first error on, which is printed, return none.

        Raises:
            AuthenticationError: The server refused the credentials.
        """
        from ..transport.deadline import limited_silence

        if self._is_away:
            return {}
        try:
            with limited_silence(ANSWER_LIMIT):
                return self._source.node_definitions(classes, refresh=refresh)
        except AuthenticationError:
            raise
        except ComfyError as exc:
            self._is_away = True
            note(f"no node definitions, so types are those of the values: {message_of(exc)}")
            return {}


# -- completion -------------------------------------------------------------------------


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
    return [value for value in now + random if len(value) <= _MOST_OF_VALUE]
