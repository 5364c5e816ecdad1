"""Faults of single nodes: which of the active ones concern a node, and what they do to it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Any, Final

import attrs

from .active_faults import ActiveFault, ActiveFaults
from .node_api import wait

_NAME: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
_LONGEST: Final = 10_000  # characters of a name or a message
_FAILING: Final = ("node_fails", "out_of_memory")
_ALL: Final = (*_FAILING, "slow_node", "node_answer")


@attrs.frozen
class NodeFault:
    """The settings of a fault of nodes.

    Attributes:
        node: The class of the nodes, or the id of one.
        effect: What the kind of fault needs.
    """

    node: str
    effect: Any


def node_fault(node: Any, effect: Any) -> NodeFault:
    """Return the settings of a fault; raise ValueError unless ``node`` can name nodes."""
    if not isinstance(node, str) or not 0 < len(node) <= _LONGEST:
        raise ValueError(f"a node is named by its class or its id, a string, not {node!r:.100}")
    return NodeFault(node, effect)


def error_class(name: Any, message: Any) -> type[Exception]:
    """Return a class of exceptions with this name, such as ``"torch.OutOfMemoryError"``.

    Raises:
        ValueError: Name or message cannot be those of an exception.
    """
    if not isinstance(name, str) or len(name) > _LONGEST or not _NAME.fullmatch(name):
        raise ValueError(f"an exception type is a name such as 'ValueError', not {name!r:.100}")
    if not isinstance(message, str) or len(message) > _LONGEST:
        raise ValueError(f"a message is a string of up to {_LONGEST} characters")
    module, _, plain = name.rpartition(".")
    return type(plain, (Exception,), {"__module__": module or "builtins", "__qualname__": plain})


def marks(faults: ActiveFaults, names: Collection[str]) -> list[int]:
    """Return a mark for each fault that concerns a node; ``names`` are its class and its ids.

    A cached output counts for the same marks only, so that a node with a fault runs.
    """
    return [fault.number for fault in concerning(faults, _ALL, names)]


def affect(faults: ActiveFaults, names: Collection[str]) -> None:
    """Delay a node that is about to run, and raise its error, if faults say so."""
    for slow in concerning(faults, ("slow_node",), names)[:1]:
        slow.hits += 1
        wait(slow.settings.effect)
    for failing in concerning(faults, _FAILING, names)[:1]:
        failing.hits += 1
        cls, message = failing.settings.effect
        raise cls(message)


def concerning(
    faults: ActiveFaults, kinds: Iterable[str], names: Collection[str]
) -> list[ActiveFault]:
    """Return the active faults of these kinds for a node, the newest first."""
    return [fault for fault in faults.find(*kinds) if fault.settings.node in names]
