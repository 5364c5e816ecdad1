"""A workflow that is built from code: what is accepted runs, what is refused the server refuses."""

from __future__ import annotations

import random
from typing import Any

import pytest

from comfy_client import ComfyApi, Graph, PromptRejected, Workflow, WorkflowError

LIMIT = 180.0


def text_to_image(g: Graph, api: ComfyApi, **sampler: Any) -> Workflow:
    model, clip, vae = g.CheckpointLoaderSimple(ckpt_name=api.get_checkpoints()[0])
    settings = {"seed": random.randrange(1 << 40), "steps": 2} | sampler
    sampled = g.KSampler(
        settings,
        model=model,
        positive=g.CLIPTextEncode(clip=clip, text="a fox", _title="Positive prompt"),
        negative=g.CLIPTextEncode(clip=clip),
        latent_image=g.EmptyLatentImage(width=64, height=64),
    )
    g.SaveImage(images=g.VAEDecode(samples=sampled, vae=vae), _id="save")
    return g.workflow()


def test_a_built_workflow_runs(any_api: ComfyApi) -> None:
    """With the defaults of the server's definitions."""
    workflow = text_to_image(Graph(any_api), any_api)
    assert any_api.run(workflow, timeout=LIMIT)["save"].files[0].bytes()
    names: dict[str, Any] = {}
    exec(workflow.to_code(), names)
    assert names["workflow"] == workflow


@pytest.mark.parametrize(
    "wrong",
    [{"sampler_name": "eular"}, {"steps": 0}, {"denoise": 1.5}, {"scheduler": "none"}],
    ids=str,
)
def test_inputs_refused_by_a_graph_are_refused_by_the_server(
    api: ComfyApi, wrong: dict[str, Any]
) -> None:
    with pytest.raises(WorkflowError) as caught:
        text_to_image(Graph(api), api, **wrong)
    unchecked = text_to_image(Graph(api), api)
    for name, value in wrong.items():
        unchecked["KSampler"][name] = value
    with pytest.raises(PromptRejected) as rejected:
        api.run(unchecked, timeout=LIMIT)
    given = next(f"{name} = {value!r}" for name, value in wrong.items())
    assert given in str(caught.value)
    assert given in str(rejected.value)
