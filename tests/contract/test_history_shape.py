"""The history of the embedded server has the shape of the real one's, for many workflows."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import attrs
import pytest

from comfy_client.testing import ComfyServer
from tests.comfyui import DEFAULT, MODEL_DIRS, ComfyUI, pictures
from tests.helpers.differential import Ask, Side
from tests.helpers.history_shape import recorded, refusal, saving, shape
from tests.helpers.running_comfyui import Running

pytestmark = pytest.mark.real
#: At least so many workflows end well on a real server without models.
FOUND = 90
LIMIT = 60.0  # seconds that the real one may take for a workflow
TEST_NODES = "custom_nodes.comfyui_nodes"


@pytest.fixture(scope="module")
def real(comfyui: ComfyUI | Running) -> Side:
    if comfyui.version != DEFAULT:
        pytest.skip(f"the embedded server is compared with ComfyUI {DEFAULT}")
    return Side("the real one", comfyui.port)


@pytest.fixture(scope="module")
def definitions(real: Side) -> dict[str, Any]:
    """Of the real server, without the nodes for tests, whose code stand-ins do not have."""
    told = real.json("/object_info").items()
    return {name: one for name, one in told if one["python_module"] != TEST_NODES}


@pytest.fixture(scope="module")
def embedded(comfyui: ComfyUI, definitions: dict[str, Any]) -> Iterator[Side]:
    """With the definitions and the files of the real one."""
    options: dict[str, Any] = {"models": "touched", "inputs": "real", "step_seconds": 0}
    with ComfyServer(object_info=definitions, version=DEFAULT, **options) as server:
        for folder in MODEL_DIRS:
            target = server.root / "models" / folder
            target.mkdir(parents=True, exist_ok=True)
            for file in (comfyui.root / "models" / folder).iterdir():
                (target / file.name).touch()
        for name, data in pictures().items():
            (server.root / "input" / name).write_bytes(data)
        yield Side("the embedded one", server.port)


@attrs.frozen
class Ran:
    """What a server said of a prompt."""

    status: int
    refused: Any
    entry: dict[str, Any] | None  # in its history, unless it refused all

    @property
    def is_success(self) -> bool:
        return self.entry is not None and self.entry["status"]["status_str"] == "success"


def run(side: Side, prompt: dict[str, Any]) -> Ran:
    body = json.dumps({"prompt": prompt}).encode()
    status, _, content = side.raw(Ask("POST", "/prompt", body))
    answer = json.loads(content)
    if status != 200:
        return Ran(status, refusal(answer), None)
    prompt_id = answer["prompt_id"]
    end = time.monotonic() + LIMIT
    while not (found := side.json(f"/history/{prompt_id}")):
        if time.monotonic() > end:
            side.raw(Ask("POST", "/interrupt"))
        time.sleep(0.01)
    return Ran(status, refusal(answer), found[prompt_id])


def in_order(prompt: dict[str, Any], outputs: list[str]) -> dict[str, Any]:
    """The same prompt with these nodes in this order: a real server has a random one."""
    places = iter(outputs)
    keys = [next(places) if key in outputs else key for key in prompt]
    return {key: prompt[key] for key in keys}


@pytest.mark.timeout(600)  # a minute on a busy machine
def test_the_history_of_each_workflow_has_the_shape_of_the_real_one(
    real: Side, embedded: Side, definitions: dict[str, Any]
) -> None:
    """Of all that the real server accepts and ends well; the embedded one refuses the others."""
    compared, different = [], []
    for name, prompt in (*recorded(definitions), *saving(definitions)):
        wanted = run(real, prompt)
        if wanted.entry is not None:
            if not wanted.is_success:
                continue  # for want of a model
            prompt = in_order(prompt, wanted.entry["prompt"][4])
            compared.append(name)
        found = run(embedded, prompt)
        if (found.status, found.refused) != (wanted.status, wanted.refused):
            different.append((name, wanted.refused, found.refused))
        elif wanted.entry and found.entry and shape(found.entry) != shape(wanted.entry):
            different.append((name, shape(wanted.entry), shape(found.entry)))
    assert different == []
    assert len(compared) >= FOUND
