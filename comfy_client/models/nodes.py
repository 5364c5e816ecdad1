"""Answers about node classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from ..values import sequence, text
from ._base import build, mapping


def combo_options(spec: Any) -> list[Any] | None:
    """The choices of a combo input, or ``None`` when the input is no combo.

    ``spec`` is an input as ``/object_info`` gives it, in either shape:
    ``[["a", "b"], {...}]`` or ``["COMBO", {"options": ["a", "b"]}]``.  A combo whose
    choices come from elsewhere (``remote``) has an empty list.
    """
    if not isinstance(spec, (list, tuple)) or not spec:
        return None
    kind = spec[0]
    if isinstance(kind, (list, tuple)):
        return list(kind)
    if kind == "COMBO":
        settings = spec[1] if len(spec) > 1 and isinstance(spec[1], Mapping) else {}
        return list(sequence(settings.get("options")) or ())
    return None


@attrs.frozen(eq=False)
class NodeDef:
    """What a node class takes and gives, from ``GET /object_info``."""

    name: str  #: The ``class_type``.
    display_name: str | None = None
    category: str | None = None
    description: str | None = attrs.field(default=None, repr=False)
    python_module: str | None = None
    #: ``required``, ``optional`` and ``hidden``, each input name -> ``[type, settings]``.
    input: Mapping[str, Any] = attrs.field(factory=dict, repr=False)
    #: Input names in the order of the node's widgets; since August 2024.
    input_order: Mapping[str, Any] | None = attrs.field(default=None, repr=False)
    output: tuple[Any, ...] = ()  #: Type of each output slot.
    output_is_list: tuple[bool, ...] = attrs.field(default=(), repr=False)
    output_name: tuple[str, ...] = attrs.field(default=(), repr=False)
    #: Whether it takes the lists of its inputs whole.  Since ComfyUI 0.12, ``None`` before.
    is_input_list: bool | None = attrs.field(default=None, repr=False)
    output_node: bool = False  #: Whether a prompt may end in it (it saves or shows).
    deprecated: bool = attrs.field(default=False, repr=False)
    experimental: bool = attrs.field(default=False, repr=False)
    api_node: bool = attrs.field(default=False, repr=False)  #: Calls a paid service.
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False)

    @classmethod
    def from_json(cls, name: str, data: object) -> NodeDef:
        """From one value of the answer."""
        source = mapping(data, f"NodeDef {name}")
        # Their places count, so that nothing may be left out.
        is_list = tuple(item is True for item in sequence(source.get("output_is_list")) or ())
        names = tuple(text(item) or "" for item in sequence(source.get("output_name")) or ())
        return build(cls, source, name=name, output_is_list=is_list, output_name=names)

    def inputs(self) -> dict[str, Any]:
        """Required, then optional inputs: name -> ``[type, settings]``."""
        groups = (self.input.get("required"), self.input.get("optional"))
        return {
            name: spec
            for group in groups
            if isinstance(group, Mapping)
            for name, spec in group.items()
        }

    def options(self, input_name: str) -> list[Any] | None:
        """The choices of a combo input; ``None`` when it is no combo.

        Raises ``KeyError`` when the node has no such input.
        """
        return combo_options(self.inputs()[input_name])


@attrs.frozen
class NodeReplacement:
    """Which node class takes the place of one that is gone, from ``GET /node_replacements``."""

    old_node_id: str  #: The ``class_type`` that is gone.
    new_node_id: str  #: The ``class_type`` in its place.
    #: Inputs of the old class in the order in which a UI workflow has their values.
    old_widget_ids: tuple[str, ...] | None = attrs.field(default=None, repr=False)
    #: Each input of the new class that gets a value: ``new_id``, and ``old_id`` (an input of the
    #: old class) or ``set_value``.  ``None``: it gets none.
    input_mapping: tuple[Mapping[str, Any], ...] | None = attrs.field(default=None, repr=False)
    #: Each output that has another slot now: ``old_idx``, ``new_idx``.  ``None``: none has.
    output_mapping: tuple[Mapping[str, Any], ...] | None = attrs.field(default=None, repr=False)
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False, eq=False)

    @classmethod
    def from_json(cls, data: object) -> NodeReplacement:
        """From one item of the answer."""
        return build(cls, data)


@attrs.frozen
class SamplerInfo:
    """What ``KSampler`` offers on this server."""

    samplers: tuple[str, ...]
    schedulers: tuple[str, ...]


@attrs.frozen
class GlobalSubgraph:
    """A subgraph that a node pack brings along, from ``GET /global_subgraphs``."""

    id: str
    name: str
    source: str | None = None  #: ``custom_node``, ...
    info: Mapping[str, Any] = attrs.field(factory=dict)  #: ``node_pack``: who brings it.
    #: The subgraph, as JSON text; only in :meth:`get_global_subgraph` answers.
    data: str | None = attrs.field(default=None, repr=False)
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False, eq=False)

    @classmethod
    def from_json(cls, subgraph_id: str, data: object) -> GlobalSubgraph:
        """From one value of the list, or from one subgraph."""
        return build(cls, data, id=subgraph_id)
