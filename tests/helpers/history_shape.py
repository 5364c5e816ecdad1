"""Workflows as a ComfyUI without models can run them, and the shape of what its history says.

Two servers never say the same of a prompt: ids, times and numbers of files are their own.  Clients
depend on the rest, which is the shape: keys, types, order, the names of messages, and how a file is
named.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from tests.helpers.conformance import PAIRS, pairs
from tests.helpers.graphs import canvas, node

#: The most of an input, by its name, so that a processor is done within seconds.
MOST = {"width": 64, "height": 64, "steps": 1, "megapixels": 0.01, "seconds": 1.0}
MOST |= dict.fromkeys(("left", "top", "right", "bottom"), 16)
#: Files that the servers for tests have, by the input that names one.
FILES = {"ckpt_name": "tiny.ckpt", "image": "testbed.png"}
#: What an input of a type is linked to, by nodes that need no file but the checkpoint.
SOURCES = {
    "IMAGE": {"1": canvas(0, width=32, height=16)},
    "MASK": {"1": node("SolidMask", value=1.0, width=32, height=16)},
    "LATENT": {"1": node("EmptyLatentImage", width=64, height=64, batch_size=1)},
    "AUDIO": {"1": node("EmptyAudio", duration=1.0, sample_rate=44100, channels=2)},
    "VIDEO": {"0": canvas(0), "1": node("CreateVideo", images=["0", 0], fps=6.0)},
}
CHECKPOINT = ("MODEL", "CLIP", "VAE")


def small(prompt: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    """A prompt with small pictures and few steps, and with files that the server has."""
    made = {}
    for node_id, each in prompt.items():
        inputs = specs(definitions.get(each["class_type"], {}))
        values = {
            name: fitting(name, value, inputs.get(name, ["", {}])[0])
            for name, value in each["inputs"].items()
        }
        made[node_id] = {**each, "inputs": values}
    return made


def fitting(name: str, value: Any, kind: Any) -> Any:
    if kind in ("INT", "FLOAT") and name in MOST and isinstance(value, int | float):
        return min(value, MOST[name])
    return FILES[name] if isinstance(kind, list) and FILES.get(name) in kind else value


def specs(definition: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs of a class but the hidden ones, by name."""
    inputs = definition.get("input", {})
    return {**inputs.get("required", {}), **inputs.get("optional", {})}


def recorded(definitions: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """All recorded prompts made small, each once, but those that ask a service in the network."""
    seen = set()
    for version in PAIRS:
        for name, _, prompt in pairs(version):
            found = small(prompt, definitions)
            text = json.dumps(found, sort_keys=True)
            classes = [definitions.get(each["class_type"], {}) for each in found.values()]
            if text not in seen and not any(one.get("api_node") for one in classes):
                seen.add(text)
                yield f"{version}: {name}", found


def saving(definitions: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """A prompt for each output node whose inputs are of types that need no model."""
    for class_type, definition in definitions.items():
        if definition["output_node"] and not definition.get("api_node"):
            graph: dict[str, Any] = {}
            inputs = {}
            for name, spec in definition["input"].get("required", {}).items():
                inputs[name] = source(name, spec, graph)
            if None not in inputs.values():
                yield f"{class_type} alone", {**graph, "9": node(class_type, **inputs)}


def source(name: str, spec: list[Any], graph: dict[str, Any]) -> Any:
    """A link to a node that it adds to a graph, or a default value; None if there is none."""
    kind, options = spec[0], spec[1] if len(spec) > 1 else {}
    if kind in CHECKPOINT:
        graph["1"] = node("CheckpointLoaderSimple", ckpt_name=FILES["ckpt_name"])
        return ["1", CHECKPOINT.index(kind)]
    for each in str(kind).split(",") if kind != "*" else ["IMAGE"]:
        if each in SOURCES:
            graph.update(SOURCES[each])
            return ["1", 0]
    choices = kind if isinstance(kind, list) else options.get("options")
    return options.get("default", choices[0] if choices else None)


# -- comparing --------------------------------------------------------------------------


def refusal(answer: Mapping[str, Any]) -> Any:
    """What a server says of the nodes that it does not run, if it runs others, too."""
    errors = answer.get("error") or {}
    nodes = {
        node_id: sorted((one["type"], input_of(one)) for one in each["errors"])
        for node_id, each in (answer.get("node_errors") or {}).items()
    }
    return errors.get("type"), nodes


def input_of(error: Mapping[str, Any]) -> str:
    return str((error.get("extra_info") or {}).get("input_name", ""))


def shape(entry: Mapping[str, Any]) -> Any:
    """What of an entry in the history two servers of a version say alike."""
    number, prompt_id, graph, extra, outputs = entry["prompt"]
    status = entry["status"]
    return {
        "keys": list(entry),
        "prompt": [type_of(number), type_of(prompt_id), graph, type_of(extra), sorted(outputs)],
        "outputs": [[node_id, output_of(shown)] for node_id, shown in entry["outputs"].items()],
        "status": [(key, str(status[key])) for key in status if key != "messages"],
        "messages": [message(*one) for one in status["messages"]],
        "meta": entry["meta"],
    }


def message(name: str, data: Mapping[str, Any]) -> Any:
    """Which nodes were cached depends on what the server ran before."""
    return [name, [[key, "nodes" if key == "nodes" else type_of(data[key])] for key in data]]


def output_of(value: Any, key: str = "") -> Any:
    """An output of a node: files by the pattern of their names, texts by their type."""
    if isinstance(value, dict):
        return [[name, output_of(one, name)] for name, one in value.items()]
    if isinstance(value, list | tuple):
        return [output_of(one, key) for one in value]
    if key == "filename":
        return re.sub(r"_temp_[a-z]{5}", "_temp_LETTERS", re.sub(r"\d{5}", "NUMBER", value))
    return value if key in ("subfolder", "type", "animated") else type_of(value)


def type_of(value: Any) -> Any:
    """The keys and types of JSON, in their order."""
    if isinstance(value, dict):
        return [[name, type_of(one)] for name, one in value.items()]
    if isinstance(value, list):
        return [type_of(one) for one in value]
    return type(value).__name__
