"""What a server of 2026 said, played to our jobs: by its socket, and by polling alone."""

from __future__ import annotations

from typing import Any

import pytest

from comfy_client.testing import ComfyServer, Finish
from tests.helpers.clients import LIMIT, Heard, client
from tests.helpers.recordings import recording

#: Recordings of it, and which of their prompts.  ``ImageCropV2`` of the last two shows its crop,
#: though it is no output node; when it is cached, it is told after all others.
RUNS = [
    ("cached_rerun", 0),
    ("image_ops", 0),
    ("assets_on", 0),
    ("progress_text", 0),
    ("intermediate_output", 0),
    ("intermediate_output", 1),
    ("dangling_link", 0),
]


def graph_of(steps: list[Any]) -> dict[str, Any]:
    """A workflow with the nodes of a run, for the file has none of their inputs."""
    messages = [step for step in steps if isinstance(step, dict)]
    nodes = {m["data"].get("node") for m in messages} - {None}
    cached = {n for m in messages for n in m["data"].get("nodes", ()) if isinstance(n, str)}
    return {node: {"class_type": "Recorded", "inputs": {}} for node in sorted(nodes | cached)}


@pytest.mark.parametrize("transport", ["auto", "poll"])
@pytest.mark.parametrize(("name", "prompt"), RUNS)
def test_a_recorded_run_has_the_outputs_that_its_history_has(
    comfy: ComfyServer, transport: Any, name: str, prompt: int
) -> None:
    """And one end, whoever told it."""
    steps = recording("0.28.1", name, prompt).steps
    (entry,) = [step.entry for step in steps if isinstance(step, Finish)]
    kept = [
        (node_id, item["filename"] if isinstance(item, dict) else item)
        for node_id, output in entry["outputs"].items()
        for kind in ("images", "text")
        for item in output.get(kind, ())
    ]
    assert kept
    comfy.script(*steps)
    with client(comfy, transport=transport) as api:
        heard = Heard(api)
        result = api.run(graph_of(steps), timeout=LIMIT)
        found = [(file.node_id, file.filename) for file in result.files]
        texts = [(node.node_id, text) for node in result.nodes.values() for text in node.texts]
        assert sorted(found + texts) == sorted(kept)
        assert result.complete
        comfy.until(heard.ends, LIMIT)
        assert [e.name for e in heard.ends()] == ["execution_success"]
