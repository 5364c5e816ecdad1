"""Node definitions: where the parts of this package that need them get them from.

A definition says what inputs a node class has, with types, ranges and choices, and what it
gives, as one value of ``GET /object_info``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Protocol

from ..errors import WorkflowError


class DefinitionSource(Protocol):
    """Whatever can be asked for node definitions; a :class:`ComfyApi` is one."""

    def node_definitions(
        self, classes: Collection[str] | None = None, *, refresh: bool = False
    ) -> Mapping[str, Any]:
        """Definitions by class, without those that there are not.

        Args:
            classes: The classes that are needed; ``None``: all.
            refresh: Whether to ask the server even for what is known already.
        """


#: Node definitions as ``GET /object_info`` gives them, by class, or what can be asked for them.
Definitions = Mapping[str, Any] | DefinitionSource


def as_mapping(
    source: Definitions, classes: Collection[str] | None = None, *, refresh: bool = False
) -> Mapping[str, Any]:
    """Definitions by class, each an object of JSON; there may be more than was asked for.

    Args:
        source: A mapping, or what can be asked for one.  Its values may also be the
            :class:`NodeDef` that ``get_node_defs()`` returns.
        classes: The classes that are needed; ``None``: all.
        refresh: Whether a source that can be asked is to ask its server again.

    Raises:
        WorkflowError: ``source`` is neither, or gave something else than a mapping.
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
