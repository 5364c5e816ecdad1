"""Sources of node definitions.

A definition is one value of ``GET /object_info``: the inputs of a node class, with types, ranges
and choices, and its outputs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Protocol

from ..errors import ComfyError, WorkflowError


class DefinitionSource(Protocol):
    """An object that returns node definitions, such as a :class:`ComfyApi`."""

    def node_definitions(
        self, classes: Collection[str] | None = None, *, refresh: bool = False
    ) -> Mapping[str, Any]:
        """Return the definitions by class, without classes that the server lacks.

        Args:
            classes: The classes that are needed; ``None``: all.
            refresh: Whether to ask the server even for what is known already.
        """


class FromDisk(dict[str, Any]):
    """A definition that an earlier process got from the server, so that it may be old."""


#: Node definitions by class, as in ``GET /object_info``, or an object that provides them.
Definitions = Mapping[str, Any] | DefinitionSource


def as_mapping(
    source: Definitions, classes: Collection[str] | None = None, *, refresh: bool = False
) -> Mapping[str, Any]:
    """Return the definitions by class as JSON objects, possibly of more classes than were wanted.

    Args:
        source: A mapping, or an object that returns one.  Its values may also be
            :class:`NodeDef`, as from ``get_node_defs()``.
        classes: The classes that are needed; ``None``: all.
        refresh: Whether a source that can be asked is to ask its server again.

    Raises:
        WorkflowError: ``source`` is neither, or did not return a mapping.
    """
    found: Any = source
    if not isinstance(source, Mapping):
        ask = getattr(source, "node_definitions", None)
        if not callable(ask):
            raise WorkflowError(
                "node definitions must be a ComfyApi, or a dict as GET /object_info returns it, "
                f"not {type(source).__name__}"
            )
        found = ask(classes, refresh=True) if refresh else ask(classes)
    if not isinstance(found, Mapping):
        raise WorkflowError(
            f"node definitions must be a mapping by class, not {type(found).__name__}"
        )
    if classes is None or len(classes) > len(found):
        wanted = found
    else:
        wanted = {name: found[name] for name in classes if name in found}
    if all(isinstance(one, Mapping) for one in wanted.values()):
        return wanted
    raws = {name: getattr(one, "raw", one) for name, one in wanted.items()}
    return {name: raw for name, raw in raws.items() if isinstance(raw, Mapping)}


def names_of(source: Definitions) -> Collection[str]:
    """Return the names of all classes, for a hint.

    There are none if the source cannot be asked, or if the answer would be large.
    """
    if isinstance(source, Mapping):
        return source.keys()
    ask = getattr(source, "node_names", None)
    try:
        return ask(for_a_hint=True) if callable(ask) else as_mapping(source).keys()
    except ComfyError:
        return ()
