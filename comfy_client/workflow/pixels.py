"""Build a workflow that previews one output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ..errors import WorkflowError
from .build import Link, workflow_of
from .definition_source import Definitions, as_mapping
from .edit import AnyWorkflow, Workflow
from .graph import class_of, describe, free_id, links_of, listing, needed
from .input_specs import outputs_of, types_of
from .loras import CHECKPOINT_VAES
from .node import Node

#: Classes that turn a type into an IMAGE: the class and the input.
_TO_IMAGE: Final = {"MASK": ("MaskToImage", "mask"), "LATENT": ("VAEDecode", "samples")}


def previewing(
    source: Link[Any] | AnyWorkflow,
    node: Node | str | int | None,
    slot: int | None,
    definitions: Definitions,
) -> Workflow:
    """Return a workflow with the nodes that an output depends on and a node that previews it.

    Args:
        source: A link of a :class:`Graph`, or a workflow.
        node: The node of the workflow; ``None`` for a link.
        slot: Which of its outputs; ``None``: the one of the link, else the first that is a picture.
        definitions: Where the types of outputs come from.

    Raises:
        WorkflowError: No such node, its output is not a picture, or a latent with no clear VAE.
        TypeError: A link with a node, or a workflow without one.
    """
    if isinstance(source, Link):
        if node is not None:
            raise TypeError("a link names its node; give a workflow and a node, or a link alone")
        workflow, node_id = workflow_of(source), source.node_id
        slot = source.slot if slot is None else slot
    else:
        if node is None:
            raise TypeError('name the node whose output is wanted: pixels(workflow, "VAEDecode")')
        workflow = Workflow(source, definitions)
        node_id = workflow[node.id if isinstance(node, Node) else node].id
    whole = workflow.to_dict()
    slot, kind = _output(whole, node_id, slot, definitions)
    graph = {key: whole[key] for key in whole if key in needed(whole, [node_id], ())}
    link: list[Any] = [node_id, slot]
    if kind in _TO_IMAGE:
        class_type, name = _TO_IMAGE[kind]
        more = {"vae": _vae(whole, graph, node_id)} if kind == "LATENT" else {}
        link = [_add(graph, class_type, {name: link, **more}), 0]
    _add(graph, "PreviewImage", {"images": link})
    return Workflow(graph)


def _add(graph: dict[str, Any], class_type: str, inputs: Mapping[str, Any]) -> str:
    node_id = str(free_id({key.split(":")[0].split(".")[0] for key in graph}, len(graph)))
    graph[node_id] = {"class_type": class_type, "inputs": dict(inputs)}
    return node_id


def _output(
    graph: Mapping[str, Any], node_id: str, slot: int | None, definitions: Definitions
) -> tuple[int, str]:
    """Return the slot of the output to preview, and its type, or IMAGE if not to be converted."""
    class_type = class_of(graph, node_id) or ""
    definition = as_mapping(definitions, [class_type]).get(class_type)
    kinds = [one.kind for one in outputs_of(definition or {})]
    known = {*_TO_IMAGE, "IMAGE"}
    if slot is None:
        slot = next((kinds.index(kind) for kind in ("IMAGE", "*", *_TO_IMAGE) if kind in kinds), 0)
    if definition is None:
        return slot, "IMAGE"  # the server will say what is missing
    if not 0 <= slot < len(kinds):
        has = f"outputs {listing(kinds)}" if kinds else "no outputs"
        raise WorkflowError(f"{describe(graph, node_id)} has no output {slot}; it has {has}")
    found = types_of(kinds[slot])
    if "*" in found or "IMAGE" in found:
        return slot, "IMAGE"
    if found & known:
        return slot, sorted(found & known)[0]
    raise WorkflowError(
        f"output {slot} of {describe(graph, node_id)} is {kinds[slot]}, and no picture: name one "
        "that is an IMAGE, a MASK or a LATENT"
    )


def _vae(whole: Mapping[str, Any], graph: dict[str, Any], node_id: str) -> list[Any]:
    """Return a link to the only VAE of a workflow, and add the nodes that it needs to the graph."""
    found = {
        (source, slot)
        for key in whole
        for name, source, slot in links_of(whole, key)
        if name == "vae"
    } or {
        (key, CHECKPOINT_VAES[kind])
        for key in whole
        if (kind := class_of(whole, key) or "") in CHECKPOINT_VAES
    }
    if len(found) != 1:
        raise WorkflowError(
            f"{describe(whole, node_id)} gives a latent, and the workflow has "
            f"{'several VAEs' if found else 'no VAE'} to decode it: name the output of a VAEDecode"
        )
    source, slot = found.pop()
    graph |= {key: whole[key] for key in needed(whole, [source], ()) if key not in graph}
    return [source, slot]
