"""What a server of 2026 said, played to our jobs: by its socket, and by polling alone."""

from __future__ import annotations

from typing import Any

import blinker
import pytest

from comfy_client import ComfyApi
from comfy_client.testing import ComfyServer, Finish
from comfy_client.timing import Timing
from tests.helpers.recordings import recording

LIMIT = 20.0
ENDS = {"execution_success", "execution_error", "execution_interrupted", "job_lost"}
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


class Impatient(ComfyApi):
    """Asks again soon."""

    timing = Timing(pause=0.02, cap=0.2, poll=0.2)


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
    with Impatient(comfy.url, transport=transport, namespace=blinker.Namespace()) as api:
        heard: list[Any] = []
        api.on("all", heard.append)
        result = api.run(graph_of(steps), timeout=LIMIT)
        found = [(file.node_id, file.filename) for file in result.files]
        texts = [(node.node_id, text) for node in result for text in node.texts]
        assert sorted(found + texts) == sorted(kept)
        assert result.complete
        comfy.until(lambda: [e for e in heard if e.name in ENDS], LIMIT)
        assert [e.name for e in heard if e.name in ENDS] == ["execution_success"]
