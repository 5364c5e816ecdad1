"""Conversion of a loaded workflow in UI format: fetch definitions, convert, warn."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Final, TypeAlias

import attrs

from ..errors import ConversionWarning, WorkflowError
from .convert import Chooser, Conversion, classes_in, convert
from .definition_source import Definitions, as_mapping

#: Inputs that are prompts, by node and name: see :class:`Conversion`.
Prompts: TypeAlias = Mapping[tuple[str, str], str | None]

_PACKAGE: Final = str(Path(__file__).parents[1])
#: The most warnings that are given one by one.
_MOST_WARNINGS: Final = 100


def to_api(
    ui: Mapping[str, Any],
    where: str,
    definitions: Definitions | None,
    *,
    strict: bool = False,
    dynamic_prompts: int | Chooser | None = None,
    packs: Mapping[str, str] | None = None,
) -> Conversion:
    """Convert a workflow to API format, with warnings at the user's own line.

    Args:
        ui: The graph in UI format.
        where: What to call it in messages.
        definitions: The server's node definitions; ``None``: there are none.
        strict: Whether a warning is an error.
        dynamic_prompts: The seed or the generator by which prompts are resolved; ``None``: they
            stay as they are.
        packs: Node packs by class; ``None``: what the file says.

    Raises:
        WorkflowError: There are no definitions, or it cannot be converted.
    """
    if definitions is None:
        raise WorkflowError(
            f"{where} is in UI format: converting it takes the server's node definitions; load it "
            "with the client, as in Workflow.load(..., api), or give api.run() the file itself; "
            "or export it with Workflow > Export (API)"
        )
    done = _converted(ui, where, definitions, strict, dynamic_prompts, packs)
    _warn(done.warnings)
    return done


def _converted(
    ui: Mapping[str, Any],
    where: str,
    definitions: Definitions,
    strict: bool,
    dynamic_prompts: int | Chooser | None,
    packs: Mapping[str, str] | None,
) -> Conversion:
    try:
        known = as_mapping(definitions, classes_in(ui))
        return convert(ui, known, strict=strict, dynamic_prompts=dynamic_prompts, packs=packs)
    except WorkflowError as exc:
        raise WorkflowError(f"{where}: {exc}") from None


def _warn(told: Iterable[ConversionWarning]) -> None:
    for warning in islice(told, _MOST_WARNINGS):
        warnings.warn(warning, stacklevel=_level())


@attrs.frozen(eq=False)
class Unread:
    """The part of a file in UI format that takes the definitions of classes the server lacked.

    Attributes:
        ui: The file.
        where: What to call it in messages.
        classes: The classes.
        dynamic_prompts: As for :func:`to_api`.
    """

    ui: Mapping[str, Any]
    where: str
    classes: frozenset[str | None]
    dynamic_prompts: int | Chooser | None


def unread_in(
    ui: Mapping[str, Any], where: str, done: Conversion, dynamic_prompts: int | Chooser | None
) -> Unread | None:
    """Return what a conversion could not read; None if it has read all."""
    missing = (one.class_type for one in done.warnings if one.kind == "not_installed")
    classes = frozenset(missing)
    return Unread(copy.deepcopy(ui), where, classes, dynamic_prompts) if classes else None


def read_rest(
    graph: dict[str, Any], prompts: Prompts | None, unread: Unread, definitions: Definitions
) -> tuple[Prompts, Unread | None]:
    """Fill in the inputs of nodes that could not be read; inputs that they have stay.

    Return the prompts of the file, and what still cannot be read.

    Raises:
        WorkflowError: As :func:`to_api`.
    """
    where, rng = unread.where, unread.dynamic_prompts
    done = _converted(unread.ui, where, definitions, False, rng, None)
    for node_id, node in done.graph.items():
        own = graph.get(node_id)
        kind = node["class_type"]
        if own is not None and kind in unread.classes and own["class_type"] == kind:
            own["inputs"] = {**node["inputs"], **own["inputs"]}
    new = (one for one in done.warnings if one.class_type in unread.classes)
    _warn(one for one in new if one.kind != "not_installed")  # of which the first reading told
    return {**done.prompts, **(prompts or {})}, unread_in(unread.ui, where, done, rng)


def _level() -> int:
    """Return the stack level of the user's own line, for warnings."""
    frame, level = inspect.currentframe(), 0
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame, level = frame.f_back, level + 1
    return level
