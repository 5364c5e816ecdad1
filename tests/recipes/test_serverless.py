"""The recipe of a serverless function: one event, one answer, both of them JSON."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from io import BytesIO
from typing import Any

import pytest
from PIL import Image

from comfy_client.testing import ComfyServer
from tests.helpers.recipes import painting
from tests.recipes.conftest import Load


def call(names: dict[str, Any], **event: Any) -> dict[str, Any]:
    """As a platform does."""
    answer: dict[str, Any] = json.loads(json.dumps(names["handler"](event, None)))
    return answer


def picture(colour: str) -> bytes:
    file = BytesIO()
    Image.new("RGB", (64, 64), colour).save(file, "PNG")
    return file.getvalue()


def test_a_picture_comes_back_as_base64(comfy: ComfyServer, load: Load) -> None:
    """In one call, if there is time."""
    answer = call(load("Serverless"), prompt="a mill")
    assert answer["status"] == "done"
    [image] = answer["images"]
    assert Image.open(BytesIO(b64decode(image))).size == (64, 64)


def test_a_picture_goes_in_as_base64(comfy: ComfyServer, load: Load) -> None:
    """And is what the workflow works on."""
    graph = painting()
    loads = {"class_type": "LoadImage", "inputs": {"image": "none.png"}}
    graph["1"] = {**loads, "_meta": {"title": "Load Image"}}
    image = b64encode(picture("red")).decode()
    answer = call(load("Serverless", graph), prompt="a mill", image=image)
    [made] = answer["images"]
    assert Image.open(BytesIO(b64decode(made))).convert("RGB").getpixel((0, 0)) == (255, 0, 0)


def test_a_call_that_runs_out_of_time_is_continued_by_its_id_elsewhere(
    comfy: ComfyServer, load: Load
) -> None:
    """By another instance, which has never heard of it; it renders once."""
    answer = call(load("Serverless", painting(steps=40)), prompt="a mill", wait=0.01)
    assert answer["status"] == "running"
    other = load("Serverless")
    answer = call(other, id=answer["id"])
    assert answer["status"] == "done"
    assert answer["images"]
    assert call(other, id=answer["id"]) == answer
    assert len(comfy.ran) == 1


@pytest.mark.parametrize(
    ("event", "code"),
    [
        ({"id": "00000000-0000-4000-8000-000000000000"}, "job_not_found"),
        ({"prompt": "fail"}, "job_failed"),
    ],
)
def test_errors_are_answers(
    comfy: ComfyServer, load: Load, event: dict[str, str], code: str
) -> None:
    """With a code for programs."""
    answer = call(load("Serverless"), **event)
    assert (answer["status"], answer["code"]) == ("failed", code)
