"""Answers about node classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from ..to_dict import AsDict
from ..values import build, mapping, sequence, text


def combo_options(spec: Any) -> list[Any] | None:
    """Return the options of a combo input, or None for another input.

    ``spec`` is an input of ``/object_info``, in either form:
    ``[["a", "b"], {...}]`` or ``["COMBO", {"options": ["a", "b"]}]``.  For a combo whose
    options come from elsewhere (``remote``), the list is empty.
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
class NodeDef(AsDict):
    """Inputs, outputs and description of a node class, from ``GET /object_info``.

    Attributes:
        name: The ``class_type``.
        display_name: The title in the frontend's menu.
        category: The path in the frontend's menu, such as ``image/upscaling``.
        description: A text about the node.
        python_module: The module that defines it: ``nodes``, ``custom_nodes.name``, ...
        input: The groups ``required``, ``optional`` and ``hidden``; each maps an input name to
            ``[type, settings]``.
        input_order: Input names by group, in the order of the node's widgets.  Since August 2024,
            ``None`` before.
        output: The type of each output slot.
        output_is_list: Whether each output slot is a list.
        output_name: The name of each output slot.
        is_input_list: Whether the node is called once with lists of its inputs.  Since ComfyUI
            0.12, ``None`` before.
        output_node: Whether it is an output node (it saves or shows something); a prompt needs at
            least one.
        deprecated: Whether it should no longer be used.
        experimental: Whether it may still change.
        api_node: Whether it calls a paid service.
        raw: The JSON object as received.
    """

    name: str
    display_name: str | None = None
    category: str | None = None
    description: str | None = attrs.field(default=None, repr=False)
    python_module: str | None = None
    input: Mapping[str, Any] = attrs.field(factory=dict, repr=False)
    input_order: Mapping[str, Any] | None = attrs.field(default=None, repr=False)
    output: tuple[Any, ...] = ()
    output_is_list: tuple[bool, ...] = attrs.field(default=(), repr=False)
    output_name: tuple[str, ...] = attrs.field(default=(), repr=False)
    is_input_list: bool | None = attrs.field(default=None, repr=False)
    output_node: bool = False
    deprecated: bool = attrs.field(default=False, repr=False)
    experimental: bool = attrs.field(default=False, repr=False)
    api_node: bool = attrs.field(default=False, repr=False)
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False)

    @classmethod
    def from_json(cls, name: str, data: object) -> NodeDef:
        """Read one value of the answer."""
        source = mapping(data, f"NodeDef {name!r:.80}")
        # Their positions matter, so none may be left out.
        is_list = tuple(item is True for item in sequence(source.get("output_is_list")) or ())
        names = tuple(text(item) or "" for item in sequence(source.get("output_name")) or ())
        return build(cls, source, name=name, output_is_list=is_list, output_name=names)

    def inputs(self) -> dict[str, Any]:
        """Return the required, then the optional inputs: name -> ``[type, settings]``."""
        groups = (self.input.get("required"), self.input.get("optional"))
        return {
            name: spec
            for group in groups
            if isinstance(group, Mapping)
            for name, spec in group.items()
        }

    def options(self, input_name: str) -> list[Any] | None:
        """Return the options of a combo input; ``None`` if it is no combo.

        Raises ``KeyError`` if the node has no such input.
        """
        return combo_options(self.inputs()[input_name])


@attrs.frozen
class NodeReplacement(AsDict):
    """The replacement for a node class that was removed, from ``GET /node_replacements``.

    Attributes:
        old_node_id: The ``class_type`` that was removed.
        new_node_id: The ``class_type`` that replaces it.
        old_widget_ids: Inputs of the old class, in the order in which UI format has their
            values.
        input_mapping: For each input of the new class that gets a value: ``new_id``, and ``old_id``
            (an input of the old class) or ``set_value``.  ``None``: no input does.
        output_mapping: For each output that moved to another slot: ``old_idx`` and ``new_idx``.
            ``None``: no output moved.
        raw: The JSON object as received.
    """

    old_node_id: str
    new_node_id: str
    old_widget_ids: tuple[str, ...] | None = attrs.field(default=None, repr=False)
    input_mapping: tuple[Mapping[str, Any], ...] | None = attrs.field(default=None, repr=False)
    output_mapping: tuple[Mapping[str, Any], ...] | None = attrs.field(default=None, repr=False)
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False, eq=False)

    @classmethod
    def from_json(cls, data: object) -> NodeReplacement:
        """Read one item of the answer."""
        return build(cls, data)


@attrs.frozen
class SamplerInfo(AsDict):
    """The choices of ``KSampler`` on this server.

    Attributes:
        samplers: The values of ``sampler_name``.
        schedulers: The values of ``scheduler``.
    """

    samplers: tuple[str, ...]
    schedulers: tuple[str, ...]


@attrs.frozen
class GlobalSubgraph(AsDict):
    """A subgraph that a node pack provides, from ``GET /global_subgraphs``.

    Attributes:
        id: The id of the subgraph.
        name: The name for people.
        source: Where it comes from: ``custom_node``, ...
        info: Details of the source, such as ``node_pack``.
        data: The subgraph as JSON text; ``None`` in lists, see :meth:`get_global_subgraph`.
        raw: The JSON object as received.
    """

    id: str
    name: str
    source: str | None = None
    info: Mapping[str, Any] = attrs.field(factory=dict)
    data: str | None = attrs.field(default=None, repr=False)
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False, eq=False)

    @classmethod
    def from_json(cls, subgraph_id: str, data: object) -> GlobalSubgraph:
        """Read one value of the list, or a single subgraph."""
        return build(cls, data, id=subgraph_id)
