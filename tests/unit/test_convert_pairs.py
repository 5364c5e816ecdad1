"""UI format to API format: identical with what ComfyUI's own page makes of the same file."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from comfy_client.workflow.convert import convert
from tests.helpers.conformance import First, definitions, pairs


def comparable(graph: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    """All that is compared: ids, classes, inputs, values, links and what the page says of them."""
    return {
        node_id: {
            "class_type": node["class_type"],
            "inputs": node["inputs"],
            "_meta": {key: node["_meta"].get(key) for key in keys},
        }
        for node_id, node in graph.items()
    }


@pytest.mark.parametrize(
    ("version", "count", "keys"),
    [
        ("0.3.75", 147, ("title",)),  # its page says no more
        ("0.28.1", 304, ("title", "cnr_id", "aux_id", "ver")),
        ("nulls", 10, ()),  # its page has other titles
        ("packs", 104, ("title",)),
    ],
)
def test_all_prompts_are_those_of_the_page(version: str, count: int, keys: tuple[str, ...]) -> None:
    """Templates as they are published, files that the page saved, and graphs made to be hard."""
    known, seen = definitions("0.28.1" if version == "nulls" else version), 0
    different = []
    for name, ui, prompt in pairs(version):
        seen += 1
        before = copy.deepcopy(ui)
        graph = convert(ui, known, dynamic_prompts=First()).graph
        if comparable(graph, keys) != comparable(prompt, keys):
            different.append(name)
        assert ui == before, f"{name} was changed"
    assert (different, seen) == ([], count)


def test_files_that_the_page_reads_well_have_few_warnings() -> None:
    """A file that the page reads well gives no cause; only what it does in the browser does."""
    warned = {
        (name.partition(".")[0], warning.class_type, warning.kind)
        for name, ui, _ in [*pairs("0.28.1"), *pairs("nulls")]
        for warning in convert(ui, definitions("0.28.1"), dynamic_prompts=First()).warnings
    }
    crafted = ("crafted145_mute_upstream", "crafted158_mute_upstream")
    crafted += ("crafted145_optional_left_out", "crafted158_optional_left_out")
    assert warned == {
        *((name, "ControlNetLoader", "value") for name in crafted),  # null: there is no file
        ("video_wan2_1_infinitetalk", "Painter", "browser"),
        ("api_flux2", "Flux2ImageNode", "link"),  # the page loses it when it opens the file
    }
