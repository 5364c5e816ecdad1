"""The contract tests of the real ComfyUI, on the embedded one.

Each test is the same function; only what it runs on is another.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from comfy_client import ComfyApi
from comfy_client.testing import ComfyServer, ExecutionBlocker, ProgressBar, execution
from tests.comfyui import _make_inputs, free_port
from tests.contract import test_event_order, test_routes, test_runs

SUITES = {"routes": test_routes, "order": test_event_order, "runs": test_runs}
FIXTURES = ("heard", "held", "idle", "crowd")
# About ComfyUI's process or what is installed there, not about the protocol.
LEFT_OUT = {
    "test_node_definitions_of_all_and_of_one",  # that there are more than 300
    "test_system_stats",  # its Python, its options
    "test_templates_subgraphs_and_translations_of_a_pack",
    "test_templates_and_subgraphs_that_are_not_there",
}

for _label, _suite in SUITES.items():
    for _name, _value in vars(_suite).items():
        if _name in FIXTURES:
            globals()[_name] = _value
        elif _name.startswith("test_") and _name not in LEFT_OUT:
            globals()[f"test_{_label}{_name.removeprefix('test')}"] = _value


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


def stand_ins() -> dict[str, ModuleType]:
    """What nodes import from ComfyUI, with the embedded server behind it."""

    def module(name: str, **members: Any) -> ModuleType:
        made = ModuleType(name)
        vars(made).update(members)
        return made

    def send_sync(event: str, data: Any, client_id: str | None = None) -> None:
        execution.send_event(event, data)

    def send_progress_text(text: str, node_id: str, client_id: str | None = None) -> None:
        execution.send_text(text)

    prompt_server = SimpleNamespace(
        send_sync=send_sync, send_progress_text=send_progress_text, client_id=None
    )
    utils = module("comfy.utils", ProgressBar=ProgressBar)
    management = module(
        "comfy.model_management",
        throw_exception_if_processing_interrupted=execution.check_interrupted,
    )
    return {
        "comfy": module("comfy", utils=utils, model_management=management),
        "comfy.utils": utils,
        "comfy.model_management": management,
        "server": module("server", PromptServer=SimpleNamespace(instance=prompt_server)),
        "comfy_execution": module("comfy_execution"),
        "comfy_execution.graph_utils": module(
            "comfy_execution.graph_utils", ExecutionBlocker=ExecutionBlocker
        ),
    }


@pytest.fixture(scope="module")
def node_classes() -> Iterator[list[type]]:
    """The nodes for tests that the real ComfyUI has, too."""
    with pytest.MonkeyPatch.context() as patch:
        for name, module in stand_ins().items():
            patch.setitem(sys.modules, name, module)
        nodes = importlib.import_module("tests.comfyui_nodes")
        yield [*nodes.NODE_CLASS_MAPPINGS.values(), VAESave]
    del sys.modules["tests.comfyui_nodes"]


class Killable(ComfyServer):
    """With the names that the real one has."""

    kill = ComfyServer._halt


def furnished(server: ComfyServer, classes: list[type]) -> None:
    """Give a server what the real one for tests has."""
    (server.root / "models" / "checkpoints" / "simulated.safetensors").unlink()
    (server.root / "models" / "checkpoints" / "tiny.ckpt").write_bytes(b"no weights")
    (server.root / "input").rmdir()
    _make_inputs(server.root / "input")
    for cls in classes:
        server.add_node(cls)


@pytest.fixture(scope="module")
def comfyui(node_classes: list[type]) -> Iterator[ComfyServer]:
    with ComfyServer(step_seconds=0.05) as server:
        furnished(server, node_classes)
        loras = {"folder": server.root / "models" / "loras"}
        server.add_node(type("LoraLoader", (LoraLoader,), loras))
        yield server


@pytest.fixture(scope="module")
def crowded() -> Iterator[ComfyServer]:
    with ComfyServer(multi_user=True, max_upload_size=1 << 20) as server:
        yield server


@pytest.fixture(scope="module")
def other(node_classes: list[type]) -> Iterator[ComfyServer]:
    with Killable(free_port(), previews=False) as server:
        furnished(server, node_classes)
        yield server


def test_definitions_of_all_and_of_one(api: ComfyApi) -> None:
    everything = api.get_node_defs()
    one = api.get_node_defs("KSampler")
    assert list(one) == ["KSampler"]
    assert one["KSampler"].raw == everything["KSampler"].raw
    assert one["KSampler"].inputs()["steps"][0] == "INT"
    assert everything["SaveImage"].output_node
    assert "bilinear" in (everything["ImageScale"].options("upscale_method") or ())
    assert "multiply" in (everything["ImageBlend"].options("blend_mode") or ())


def test_system_says_what_it_is(api: ComfyApi, comfyui: ComfyServer) -> None:
    stats = api.get_system_stats()
    assert stats.comfyui_version == comfyui.version == "0.3.75"
    assert 0 < stats.ram_free <= stats.ram_total
    [device] = stats.devices
    assert (device.type, device.index) == ("cpu", None)
    assert device.name.startswith("simulated")
