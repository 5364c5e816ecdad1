"""Pictures of any output, without a node that saves them."""

from __future__ import annotations

from typing import Any

import pytest

from comfy_client import ComfyApi, Graph, Link, Workflow, WorkflowError
from comfy_client.testing import ComfyServer
from tests.helpers.clients import LIMIT
from tests.helpers.graphs import node, txt2img
from tests.helpers.scripted import posts


def sent(comfy: ComfyServer) -> list[str]:
    """The classes of the nodes that were sent last."""
    graph = posts(comfy)[-1].json()["prompt"]
    return sorted(one["class_type"] for one in graph.values())


def size(api: ComfyApi, *args: Any, **options: Any) -> tuple[int, int]:
    image = api.pixels(*args, timeout=LIMIT, **options).image
    assert image is not None
    return image.pil().size


def test_a_link_of_a_graph_becomes_a_picture(comfy: ComfyServer, fast: ComfyApi) -> None:
    """Only what it needs is sent; the graph goes on without the added node."""
    g = Graph(fast)
    picture = g.ImageInvert(g.EmptyImage(64, 32))
    g.SaveImage(picture)
    assert size(fast, picture) == (64, 32)
    assert sent(comfy) == ["EmptyImage", "ImageInvert", "PreviewImage"]
    assert size(fast, picture[0]) == (64, 32)
    assert len(g.workflow()) == 3


def passing(takes: str, gives: str, name: str) -> type:
    """A node class that passes on what it takes, as another type."""
    inputs = classmethod(lambda cls: {"required": {name: (takes,)}})
    run = {"RETURN_TYPES": (gives,), "FUNCTION": "run", "INPUT_TYPES": inputs}
    return type("Passing", (), {**run, "run": lambda self, **given: (given[name],)})


def test_a_mask_becomes_a_picture(comfy: ComfyServer, fast: ComfyApi) -> None:
    comfy.add_node(passing("IMAGE", "MASK", "image"), name="ImageToMask")
    comfy.add_node(passing("MASK", "IMAGE", "mask"), name="MaskToImage")
    g = Graph(fast)
    assert size(fast, g.ImageToMask(g.EmptyImage(16, 24))) == (16, 24)
    assert sent(comfy) == ["EmptyImage", "ImageToMask", "MaskToImage", "PreviewImage"]


def test_a_latent_is_decoded_with_the_vae_of_the_workflow(
    comfy: ComfyServer, fast: ComfyApi
) -> None:
    """Of the decoder that is there, or of the only checkpoint."""
    assert size(fast, txt2img(), "KSampler") == (128, 64)
    assert "VAEDecode" in sent(comfy)
    assert "SaveImage" not in sent(comfy)
    bare = {key: one for key, one in txt2img().items() if key not in "89"}
    assert size(fast, bare, "KSampler") == (128, 64)


@pytest.mark.parametrize("name", ["VAEDecode", "8", 8, "Decoded"])
def test_a_workflow_is_asked_by_the_name_of_a_node(
    comfy: ComfyServer, fast: ComfyApi, name: str | int
) -> None:
    workflow = Workflow(txt2img())
    workflow["8"].title = "Decoded"
    assert size(fast, workflow, name, inputs={"EmptyLatentImage.width": 64}) == (64, 64)
    assert size(fast, workflow, workflow["8"]) == (128, 64)
    assert len(workflow) == 7
    assert workflow["5"]["width"] == 128


def test_the_first_picture_of_a_node_or_another_slot(fast: ComfyApi, comfy: ComfyServer) -> None:
    workflow = Workflow(
        {"1": node("EmptyImage", width=8, height=8, batch_size=2, color=0), "2": node("Two")}
    )

    class Two:
        RETURN_TYPES = ("INT", "IMAGE", "MASK")
        FUNCTION = "run"

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:
            return {"required": {"image": ("IMAGE",)}}

        def run(self, image: Any) -> tuple[Any, ...]:
            return 1, image, image

    comfy.add_node(Two)
    workflow["2"].set("image", ["1", 0], force=True)
    result = fast.pixels(workflow, "Two", timeout=LIMIT)
    assert len(result.images) == 2
    assert posts(comfy)[-1].json()["prompt"]["3"]["inputs"] == {"images": ["2", 1]}
    with pytest.raises(WorkflowError, match=r"output 0 of node 2 \(Two\) is INT, and no picture"):
        fast.pixels(workflow, "Two", slot=0)


def test_links_without_pixels_are_refused_before_anything_is_sent(
    comfy: ComfyServer, fast: ComfyApi
) -> None:
    g = Graph(fast)
    loader = g.CheckpointLoaderSimple()
    link: Link[Any] = Link("1", 0)
    refused: list[tuple[tuple[Any, ...], type[Exception], str]] = [
        ((loader,), WorkflowError, "is MODEL, and no picture"),
        ((txt2img(),), TypeError, 'pixels(workflow, "VAEDecode")'),
        ((loader, "1"), TypeError, "a link names its node"),
        ((link,), TypeError, "belongs to no Graph"),
        ((txt2img(), "Nope"), WorkflowError, "no node has the id"),
    ]
    for args, error, says in refused:
        with pytest.raises(error) as caught:
            fast.pixels(*args)
        assert says in str(caught.value)
    with pytest.raises(WorkflowError, match="has no output 3; it has outputs 'IMAGE'"):
        fast.pixels(txt2img(), "VAEDecode", slot=3)
    lonely = {"5": txt2img()["5"]}
    with pytest.raises(WorkflowError, match="gives a latent, and the workflow has no VAE"):
        fast.pixels(lonely, "5")
    assert not posts(comfy)
