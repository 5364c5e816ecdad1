"""LoRAs: find those that a graph loads, and add one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from ..errors import WorkflowError
from .address import checked_value
from .bypass import NodeInput, takers, takers_of_each
from .graph import as_link, class_of, describe, free_id, inputs_of, needed

#: An output: the id of a node and the slot.
OutputSlot: TypeAlias = tuple[str, int]

#: The inputs that are linked to each output.
Takers: TypeAlias = Mapping[OutputSlot, list[NodeInput]]

#: Loaders of models with a CLIP: the slots of both.
_CHECKPOINTS: Final[Mapping[str, tuple[int, int | None]]] = {
    "CheckpointLoader": (0, 1),
    "CheckpointLoaderSimple": (0, 1),
    "unCLIPCheckpointLoader": (0, 1),
    "DiffusersLoader": (0, 1),
    "CheckpointLoaderNF4": (0, 1),
}
#: Loaders of models alone.
_MODELS: Final[Mapping[str, tuple[int, int | None]]] = dict.fromkeys(
    ("ImageOnlyCheckpointLoader", "UNETLoader", "UnetLoaderGGUF", "UnetLoaderGGUFAdvanced"),
    (0, None),
)
#: Loaders of a model, a CLIP and a VAE: the slot of the VAE.
CHECKPOINT_VAES: Final[Mapping[str, int]] = dict.fromkeys(_CHECKPOINTS, 2)
LOADERS: Final[Mapping[str, tuple[int, int | None]]] = {**_CHECKPOINTS, **_MODELS}
_LORA: Final = "LoraLoader"
_LORA_MODEL: Final = "LoraLoaderModelOnly"


def loras(graph: Mapping[str, Any]) -> list[str]:
    """Return the ids of nodes that load LoRAs, by the names of their inputs.

    The inputs are ``lora_name`` in ComfyUI's own nodes, ``lora_name_1`` and ``lora_1 = {"lora":
    ...}`` in packs.
    """
    return [
        node_id
        for node_id in graph
        if any(
            name.startswith("lora_name") or (isinstance(value, Mapping) and "lora" in value)
            for name, value in inputs_of(graph, node_id).items()
        )
    ]


def add_lora(
    graph: dict[str, Any],
    name: str,
    strength: float,
    clip_strength: float | None,
    loader: str | None,
) -> str:
    """Insert a LoRA after a loader and its other LoRAs; return the new node's id.

    Raises:
        WorkflowError: No loader of models, or several; a value that JSON cannot represent.
    """
    users = takers_of_each(graph)
    loader = _loader(graph, users) if loader is None else loader
    model, clip = _tips(graph, users, *_outputs(graph, users, loader))
    inputs: dict[str, Any] = {"lora_name": name, "strength_model": strength, "model": [*model]}
    if clip:
        strength = strength if clip_strength is None else clip_strength
        inputs |= {"strength_clip": strength, "clip": [*clip]}
    # Choose a number that no id begins with, as composite ids begin with that of their node.
    lora = str(free_id({re.split("[.:]", key, maxsplit=1)[0] for key in graph}, len(graph)))
    node = {"class_type": _LORA if clip else _LORA_MODEL, "inputs": inputs}
    trial = {**graph, lora: node}
    node["inputs"] = {
        field: checked_value(trial, lora, field, value, force=True)
        for field, value in inputs.items()
    }
    # Sources of the LoRA keep their links, or there would be a cycle.
    before = needed(graph, [model[0], *([clip[0]] if clip else [])], ())
    places = [
        (slot, place)
        for slot, tip in enumerate((model, clip))
        for place in (users.get(tip, ()) if tip else ())
        if place[0] not in before
    ]
    for slot, (taker, field) in places:
        graph[taker]["inputs"][field] = [lora, slot]
    graph[lora] = node
    return lora


def _loader(graph: Mapping[str, Any], users: Takers) -> str:
    """Find the only known loader whose model is used; raise WorkflowError for none or several."""
    found = [
        node_id
        for node_id in graph
        if class_of(graph, node_id) in LOADERS and _outputs(graph, users, node_id)[0] in users
    ]
    if len(found) == 1:
        return found[0]
    if found:
        raise WorkflowError(
            "several nodes load a model; choose one with loader=: "
            + "; ".join(describe(graph, node_id) for node_id in found[:8]),
            candidates=tuple(found),
        )
    known = tuple(_sources(graph))
    raise WorkflowError(
        "no known model loader is in use; name the node with loader="
        + "".join(f"; maybe {describe(graph, node_id)}" for node_id in known[:8]),
        candidates=known,
    )


def _sources(graph: Mapping[str, Any]) -> dict[str, None]:
    """Return the ids of nodes that give other nodes a model, but have no input ``model``."""
    linked = [as_link(inputs_of(graph, node_id).get("model")) for node_id in graph]
    sources = dict.fromkeys(link[0] for link in linked if link and link[0] in graph)
    return {key: None for key in sources if "model" not in inputs_of(graph, key)}


def _outputs(
    graph: Mapping[str, Any], users: Takers, loader: str
) -> tuple[OutputSlot, OutputSlot | None]:
    """Return a loader's model output, and its CLIP output, or None if that is not used."""
    known = LOADERS.get(class_of(graph, loader) or "")
    if known:
        model, clip = known
    else:  # by the names of linked inputs
        slots = {name: slot for (_, name), slot in takers(graph, loader).items()}
        if "model" not in slots:
            raise WorkflowError(f"no node takes a model from {describe(graph, loader)}")
        model, clip = slots["model"], slots.get("clip")
    is_used = clip is not None and (loader, clip) in users
    return (loader, model), (loader, clip) if clip is not None and is_used else None


def _tips(
    graph: Mapping[str, Any], users: Takers, model: OutputSlot, clip: OutputSlot | None
) -> tuple[OutputSlot, OutputSlot | None]:
    """Return the model and CLIP outputs at the end of a chain of LoRAs; None for an unused CLIP.

    Each LoRA of the chain is the only user of the one before it.
    """
    passed: set[str] = set()
    while True:
        places = users.get(model, [])
        if len(places) != 1 or places[0][1] != "model" or places[0][0] in passed:
            return model, clip
        lora = places[0][0]
        if class_of(graph, lora) == _LORA:
            if clip and users.get(clip) != [(lora, "clip")]:
                return model, clip
            clip = (lora, 1) if clip else None
        elif class_of(graph, lora) != _LORA_MODEL:
            return model, clip
        passed.add(lora)
        model = (lora, 0)
