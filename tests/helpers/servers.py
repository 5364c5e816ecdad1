"""Embedded servers with what the real ones for tests have: nodes, pictures, a checkpoint."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from comfy_client.testing import (
    ComfyServer,
    ExecutionBlocker,
    ProgressBar,
    check_interrupted,
    send_event,
    send_text,
)
from tests.comfyui import HERE, _make_inputs

NODES = HERE / "comfyui_nodes.py"


class VAESave:
    """An output node without outputs; the real one writes a file of weights."""

    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"vae": ("VAE",), "filename_prefix": ("STRING",)}}

    def run(self, vae: Any, filename_prefix: str) -> dict[str, Any]:
        return {}


class MaskToImage:
    """A mask, as the picture by which it can be looked at."""

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"mask": ("MASK",)}}

    def run(self, mask: Any) -> tuple[list[Any]]:
        gray = [page.point(lambda value: value * 255).convert("L") for page in mask]
        return ([page.convert("RGB") for page in gray],)


class LoraLoader:
    """As much of it as tells which files there are."""

    RETURN_TYPES = ("MODEL", "CLIP")
    FUNCTION = "run"
    folder: Path

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"lora_name": ([path.name for path in cls.folder.iterdir()],)}}

    def run(self, lora_name: str) -> tuple[None, None]:
        return None, None


def stand_ins(*, old: bool) -> dict[str, ModuleType]:
    """What nodes import from ComfyUI, with the embedded server behind it."""

    def module(name: str, **members: Any) -> ModuleType:
        made = ModuleType(name)
        vars(made).update(members)
        return made

    def send_sync(event: str, data: Any, client_id: str | None = None) -> None:
        send_event(event, data)

    def send_progress_text(text: str, node_id: str, client_id: str | None = None) -> None:
        send_text(text)

    server = SimpleNamespace(send_sync=send_sync, client_id=None)
    blocker = module("comfy_execution.graph_utils", ExecutionBlocker=ExecutionBlocker)
    later = {"comfy_execution": module("comfy_execution"), "comfy_execution.graph_utils": blocker}
    if not old:
        server.send_progress_text = send_progress_text
    utils = module("comfy.utils", ProgressBar=ProgressBar)
    management = module(
        "comfy.model_management",
        throw_exception_if_processing_interrupted=check_interrupted,
        OOM_EXCEPTION=type("OutOfMemoryError", (RuntimeError,), {"__module__": "torch"}),
    )
    return {
        "comfy": module("comfy", utils=utils, model_management=management),
        "comfy.utils": utils,
        "comfy.model_management": management,
        "server": module("server", PromptServer=SimpleNamespace(instance=server)),
        **({} if old else later),
    }


def node_classes(*, old: bool = False) -> list[type]:
    """The nodes for tests that the real servers have, too."""
    spec = importlib.util.spec_from_file_location("comfyui_nodes", NODES)
    assert spec is not None
    assert spec.loader is not None
    nodes = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        for name, module in stand_ins(old=old).items():
            patch.setitem(sys.modules, name, module)
        spec.loader.exec_module(nodes)
    return [*nodes.NODE_CLASS_MAPPINGS.values(), VAESave]


def add_test_content(server: ComfyServer) -> None:
    """Give a running server what the real one for tests has."""
    (server.root / "models" / "checkpoints" / "simulated.safetensors").unlink()
    (server.root / "models" / "checkpoints" / "tiny.ckpt").write_bytes(b"no weights")
    (server.root / "input").rmdir()
    _make_inputs(server.root / "input")
    loras = {"folder": server.root / "models" / "loras"}
    for cls in (
        *node_classes(old=server.version == "2024-03"),
        MaskToImage,
        type("LoraLoader", (LoraLoader,), loras),
    ):
        server.add_node(cls)
