"""Conversion of ``--set``, ``--input``, ``--seed`` and ``--axis`` to values for nodes.

Each text becomes what the input's definition says: a number, a boolean, one of the choices, or the
text itself.  An input without a definition keeps the type of its current value.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs
import click

from ..errors import ComfyError, NotSupported, WorkflowError
from ..nearest import nearest
from .exits import Mistake, message_of

if TYPE_CHECKING:
    from ..workflow import Workflow
    from ..workflow.definition_source import Definitions
    from ..workflow.input_specs import InputSpec
    from ..workflow.settable import SettableInput

#: The key of the click context that says that standard input has been read.
_KEY: Final = "comfy_client.standard_input"
#: The most bytes of a file.
_MOST_OF_FILE: Final = 64 << 20


def claim_standard_input() -> None:
    """Note that this command reads standard input; raise Mistake if it has done so already."""
    context = click.get_current_context(silent=True)
    if context is not None:
        if context.meta.setdefault(_KEY, False):
            raise Mistake("standard input can be read only once")
        context.meta[_KEY] = True


def read_standard_input(most: int | None = None) -> bytes:
    """Read standard input; raise Mistake if this command has read it already."""
    claim_standard_input()
    return sys.stdin.buffer.read(-1 if most is None else most)


def text_of(value: str) -> str:
    """Return the text that an option's value stands for.

    ``@FILE`` stands for the content of a file, and ``@-`` for that of standard input, without
    newlines at the end, as in ``$(cat FILE)``.  ``@@`` at the beginning stands for ``@``.

    Raises:
        OSError: The file cannot be read.
        ValueError: The content is not UTF-8 text, or is too large; or no name follows ``@``.
        Mistake: Standard input has been read already.
    """
    if not value.startswith("@"):
        return value
    name = value[1:]
    if name.startswith("@"):
        return name
    if not name:
        raise ValueError("a file name or - must follow @; @@ stands for @")
    if name == "-":
        content = read_standard_input(_MOST_OF_FILE + 1)
    else:
        with Path(name).expanduser().open("rb") as file:
            content = file.read(_MOST_OF_FILE + 1)
    if len(content) > _MOST_OF_FILE:
        raise ValueError(f"{value:.200}: larger than {_MOST_OF_FILE >> 20} MiB")
    try:
        return content.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError:
        raise ValueError(f"{value:.200}: not a text in UTF-8") from None


_TRUE: Final = frozenset({"true", "yes", "on", "1"})
_FALSE: Final = frozenset({"false", "no", "off", "0"})
_RANGE: Final = re.compile(r"(-?[0-9]+)\.\.(-?[0-9]+)")
#: Numbers as in JSON and in ComfyUI's frontend; Python itself also accepts ``1_0``.
_INT: Final = re.compile(r"[+-]?[0-9]+")
_FLOAT: Final = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
#: Advice for an input that was not found, or for a value that does not fit it.
INPUTS_HINT: Final = "comfy-client inputs WORKFLOW lists what can be set"
#: The most values of one axis; more are probably a typing mistake.
_MOST_VALUES: Final = 100_000
#: How the reference to an asset of a hosted server begins.
_ASSET: Final = '{"__type": "core/ASSET"'


def split_at_equals(text: str, option: str) -> tuple[str, str]:
    """Split ``NODE.input=VALUE`` at the first ``=``; raise Mistake if it or the name is missing."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise Mistake(f"{option} {text!r:.100}: write NAME=VALUE, as in KSampler.seed=7")
    return name, value


@attrs.frozen
class InputTypes:
    """The inputs of a workflow, which are set from texts, each converted to its input's type.

    The server is asked for definitions only if they are needed.
    """

    workflow: Workflow
    definitions: Definitions

    def set(self, texts: Sequence[str]) -> None:
        """Set the inputs given as ``NODE.input=VALUE`` by ``--set``; see :func:`text_of`."""
        given = [split_at_equals(text, "--set") for text in texts]
        with mistakes("--set", INPUTS_HINT):
            given = [(name, text_of(text)) for name, text in given]
            self.check_unique([name for name, _ in given])
            self.workflow.set({name: self._reader(name)(text) for name, text in given})

    def check_unique(self, names: Sequence[str]) -> None:
        """Raise WorkflowError if two names identify the same input."""
        from ..workflow.address import input_named

        graph = self.workflow.to_dict()
        seen: dict[tuple[str, str], str] = {}
        for name in names:
            found = input_named(graph, name)
            if found in seen:
                both = repr(name) if seen[found] == name else f"{seen[found]!r} and {name!r}"
                raise WorkflowError(f"{both:.200}: an input is given twice")
            seen[found] = name

    def _reader(self, name: str) -> Callable[[str], Any]:
        """Return a function that converts a text to the type of the named input."""
        from ..workflow.address import input_named

        graph = self.workflow.to_dict()
        node_id, field = input_named(graph, name)
        spec, old = self._specs(node_id).get(field), graph[node_id]["inputs"][field]

        def read(text: str) -> Any:
            if field in ("seed", "noise_seed") and text == "random":
                return text
            if (asset := _asset(text)) is not None:
                return asset
            return _like(old, name, text) if spec is None else _typed(spec, name, text)

        return read

    def attach(self, texts: Sequence[str]) -> None:
        """Set inputs to the files or URLs given by ``--input``, whose content is uploaded later."""
        seen: set[tuple[str, str]] = set()
        for text in texts:
            name, path = split_at_equals(text, "--input")
            with mistakes("--input", INPUTS_HINT):
                node, field = self._file_input(name)
                if (node, field) in seen:
                    raise WorkflowError(f"{name!r:.100}: an input is given twice")
                seen.add((node, field))
                self.workflow[node].set(field, _file(path))

    def _file_input(self, name: str) -> tuple[str, str]:
        """Return the node id and the input for a file; a bare node means its only file input."""
        from ..workflow.address import input_named, nodes_named

        graph = self.workflow.to_dict()
        if "." in name and not nodes_named(graph, name):
            return input_named(graph, name)
        node = self.workflow[name]
        fields = [one.name for one in self._specs(node.id).values() if one.has_open_choices]
        fields = fields or [one for one in ("image", "audio", "file", "video") if one in node]
        if len(fields) != 1:
            which = (
                f"several inputs for files: {', '.join(fields)}" if fields else "no input for files"
            )
            raise WorkflowError(f"{name!r} has {which}; write NODE.input=FILE")
        return node.id, fields[0]

    def _specs(self, node_id: str) -> Mapping[str, InputSpec]:
        from ..workflow.definition_source import as_mapping
        from ..workflow.input_specs import InputSpec, walk

        node = self.workflow.nodes[node_id]
        try:
            definition = as_mapping(self.definitions, [node.class_type]).get(node.class_type)
        except NotSupported:  # a hosted server that does not describe nodes
            definition = None
        found = walk(definition, node.inputs) if definition else ()
        return {one.name: one for one in found if isinstance(one, InputSpec)}

    def axis(self, text: str) -> tuple[str, list[Any]]:
        """Parse ``NODE.input=v1,v2,...`` into name and values; ``1..8`` is a range of integers."""
        name, listed = split_at_equals(text, "--axis")
        with mistakes("--axis", INPUTS_HINT):
            return name, [*map(self._reader(name), _listed(listed))]


def fill(
    workflow: Workflow,
    definitions: Definitions,
    *,
    sets: Sequence[str],
    inputs: Sequence[str],
    seed: str | None,
) -> None:
    """Apply ``--seed``, ``--set`` and ``--input`` to a workflow."""
    set_seeds(workflow, seed)
    types = InputTypes(workflow, definitions)
    types.set(sets)
    types.attach(inputs)


@contextlib.contextmanager
def mistakes(what: str, hint: str | None = None) -> Iterator[None]:
    """Context manager: turn errors of a workflow or a file into :class:`Mistake`, with a hint."""
    try:
        yield
    except (WorkflowError, OSError, ValueError) as exc:
        if isinstance(exc, ComfyError) and not isinstance(exc, WorkflowError):
            raise  # such as RequestTimeout, which is an OSError
        raise Mistake(f"{what}: {message_of(exc)}", hint) from None


def set_seeds(workflow: Workflow, seed: str | None) -> None:
    """Set all seeds of a workflow to the value of ``--seed``; do nothing if it is None."""
    if seed is None:
        return
    if seed == "random":
        found = bool(workflow.randomize_seeds())
    elif seed.isascii() and seed.isdecimal():
        found = _set_all(workflow, int(seed))
    else:
        raise Mistake(f"--seed must be random, or a number from 0 on: {seed!r:.40}")
    if not found:
        raise Mistake("--seed: no node has an input seed or noise_seed with a value")


def _set_all(workflow: Workflow, seed: int) -> bool:
    """Set all seeds of a workflow that are not linked; return whether there were any."""
    found = [
        (node, name)
        for name in ("seed", "noise_seed")
        for node in workflow.find(input=name)
        if not isinstance(node[name], list)
    ]
    for node, name in found:
        node[name] = seed
    return bool(found)


def _asset(text: str) -> dict[str, Any] | None:
    """Return the reference to an asset that ``upload`` printed for a hosted server, or None."""
    if not text.startswith(_ASSET):
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _typed(spec: InputSpec, name: str, text: str) -> Any:
    """Convert a text to the type in an input's definition."""
    if spec.choices is not None:
        return _choice(spec, name, text)
    kinds = set(str(spec.kind).replace(" ", "").split(","))
    if "BOOLEAN" in kinds:
        return _boolean(name, text)
    wanted = [kind for kind in ("INT", "FLOAT") if kind in kinds]
    if not wanted:
        return text
    number = _number(text, wanted)
    if number is None:
        raise WorkflowError(f"{name} takes {wanted[-1]}, not {text!r:.60}")
    return number


def _number(text: str, kinds: Collection[str]) -> int | float | None:
    """Parse a text as an INT or FLOAT, if in ``kinds``; return None if it is not such a number."""
    text = text.strip()
    with contextlib.suppress(ValueError):  # too many digits for Python
        if "INT" in kinds and _INT.fullmatch(text):
            return int(text)
        if "FLOAT" in kinds and _FLOAT.fullmatch(text):
            return float(text)
    return None


def _choice(spec: InputSpec, name: str, text: str) -> Any:
    """Return the choice with this text; open choices accept any text."""
    from ..workflow.graph import listing

    choices = {str(choice): choice for choice in spec.choices or ()}
    if text in choices or spec.has_open_choices:
        return choices.get(text, text)
    near = nearest(text, choices)
    there = f"nearest: {', '.join(near)}" if near else f"there is {listing(choices) or 'none'}"
    raise WorkflowError(
        f"{name}: {text!r:.100} is not one of the choices; {there}", candidates=near
    )


def _boolean(name: str, text: str) -> bool:
    if text.lower() in _TRUE | _FALSE:
        return text.lower() in _TRUE
    raise WorkflowError(f"{name} must be true or false, not {text!r:.60}")


def _like(old: object, name: str, text: str) -> Any:
    """Convert a text to the type of an input's current value, if it can be."""
    if isinstance(old, bool):
        return _boolean(name, text)
    if isinstance(old, int | float):
        number = _number(text, ("INT", "FLOAT"))
        return text if number is None else number
    return text


def _file(path: str) -> Any:
    from ..upload import Upload

    if re.match("data:|https?://", path, re.IGNORECASE):
        return Upload(path, fetch=True)
    return Path(path).expanduser()


def _listed(text: str) -> list[str]:
    """Split a list of values at commas, unless quoted, and expand ranges such as ``1..8``."""
    import csv  # for sweeps only

    found: list[str] = []
    try:
        listed = next(csv.reader([text], skipinitialspace=True), [])
    except csv.Error as exc:
        raise WorkflowError(f"separate values by commas: {exc}") from None
    for one in listed:
        ends = _RANGE.fullmatch(one)
        if ends is None:
            found.append(one)
            continue
        first, last = int(ends[1]), int(ends[2])
        if last < first:
            raise WorkflowError(f"{one!r:.60} is not a range from a number to a larger one")
        if last - first >= _MOST_VALUES:
            raise WorkflowError(f"{one!r:.60} is more than {_MOST_VALUES:,} values")
        found += map(str, range(first, last + 1))
    if not found:
        raise WorkflowError("no values")
    return found


def addressable(one: SettableInput) -> SettableInput:
    """Return an input whose address ``--set`` can parse.

    A title with ``=`` or unprintable characters is replaced by the node id, as ``--set`` splits its
    text at the first ``=``.
    """
    if "=" not in one.address and one.address.isprintable():
        return one
    return attrs.evolve(one, address=f"{one.node_id}.{one.name}")
