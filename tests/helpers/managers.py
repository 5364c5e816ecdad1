"""Servers with a ComfyUI-Manager, its packs, and a client that is not patient with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from comfy_client import ComfyApi
from comfy_client.testing import ListedModel, ListedPack, Manager3, Manager4, Manager4Legacy
from tests.helpers.clients import FAST

URL = "https://git.example.com/my-pack"
MINE = ListedPack(
    name="my-pack",
    url=URL,
    classes={"Mine": {"output": ["INT"], "input": {"required": {"a": ["INT"]}}}},
    update="newer",
)
MODEL = "https://models.example.com/tiny.safetensors"
TINY = ListedModel(filename="tiny.safetensors", url=MODEL, save_path="loras", type="lora")
KINDS: dict[str, Callable[..., Any]] = {
    "manager4": Manager4,
    "manager4-legacy": Manager4Legacy,
    "manager3": Manager3,
}


class Hasty(ComfyApi):
    """Does not wait long for anything of the Manager."""

    timing = attrs.evolve(FAST, task=0.02, task_worker=0.2, task_forgotten=0.3)
