"""Problems of workflows, as data and as lines of text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

import attrs

from ..errors import printable
from ..redaction import is_secret_value
from ..to_dict import AsDict
from .graph import brief, class_of, shorten, title_of

#: The pack that files name for ComfyUI's own classes, and what to say of one that is not there.
CORE: Final = "comfy-core"
NOT_CORE: Final = (
    "the file counts it among ComfyUI's own: this server's ComfyUI is too old or too new for it, "
    "or the file is wrong and a node pack is missing"
)

Severity = Literal["error", "warning"]


@attrs.frozen
class Problem(AsDict):
    """A problem of a workflow; ``str()`` gives one line, as from a compiler.

    Attributes:
        severity: ``"error"``: the server refuses the workflow, or runs it only in part.
            A node that the server queues although it certainly fails is an error, too.
            ``"warning"``: it runs, but probably not as it was meant.
        type: What kind of problem.  It is the server's ``type``, by the name that the newest
            server has for it: ``missing_node_type``, ``required_input_missing``,
            ``value_not_in_list``, ``value_bigger_than_max``, ``invalid_input_type``,
            ``return_type_mismatch``, ``dependency_cycle``, ``prompt_no_outputs``, ...  Only
            :meth:`Workflow.check` finds ``not_sendable``, ``malformed_node``, ``node_not_run``,
            ``node_replaced``, ``node_deprecated``, ``loop_not_closed`` and ``unknown_input``.
        message: What is wrong, without the node.
        node_id: The id of the node; ``None``: the problem is one of the whole workflow.
        title: The title of the node; ``None``: it has none.
        class_type: The class of the node; ``None``: it has none.
        input: The name of the input; ``None``: the problem is one of the whole node.
        value: The value of the input; ``None``: it has none.  A link is ``[node id, slot]``, and
            ``"***"`` stands for a secret.
        hint: What would be right; ``None``: nothing is known.
        candidates: Names or values that would be right, nearest first; empty: none is near.
        pack: The id of the node pack that has the missing class, as the workflow or the server's
            ComfyUI-Manager says; ``None``: unknown.
        named_by_server: Whether the answer of the server names it, too.  The server stops at
            the first unknown class, a bad link hides what else is wrong with a node, and it looks
            at no options of a combo that bring inputs of their own.
    """

    severity: Severity
    type: str
    message: str
    node_id: str | None = None
    title: str | None = None
    class_type: str | None = None
    input: str | None = None
    value: Any = attrs.field(default=None, hash=False)
    hint: str | None = None
    candidates: tuple[str, ...] = ()
    pack: str | None = None
    named_by_server: bool = True

    @property
    def text(self) -> str:
        """The node, its fault and a hint, in one line."""
        where = f"{node}: " if (node := node_of(self)) else ""
        said = where + "; ".join(filter(None, (self.message, self.hint)))
        return printable(said).translate({ord("\n"): " ", ord("\t"): " "})

    def __str__(self) -> str:
        return f"{self.severity}: {self.text}"


def node_of(problem: Problem) -> str:
    """Return the node of a problem in words; empty if the problem is one of the whole workflow."""
    if problem.node_id is None:
        return ""
    return (
        f"node {shorten(problem.node_id, 60)}"
        + (f" {brief(problem.title)}" if problem.title else "")
        + (f" ({shorten(problem.class_type, 60)})" if problem.class_type else "")
    )


def problem_at(
    graph: Mapping[str, Any],
    node_id: object,
    kind: str,
    message: str,
    *,
    severity: Severity = "error",
    class_type: object = None,
    **more: Any,
) -> Problem:
    """Return a problem of one node, with the title and class that the graph has.

    ``class_type`` is used if the graph has none.
    """
    known = class_type if isinstance(class_type, str) else None
    return Problem(
        severity,
        kind,
        message,
        node_id=str(node_id),
        title=title_of(graph, node_id),
        class_type=class_of(graph, node_id) or known,
        **more,
    )


def shown(name: object, value: Any) -> Any:
    """Return the value of an input for display, or ``***`` if its name suggests a secret."""
    return "***" if value is not None and is_secret_value(str(name), value) else value
