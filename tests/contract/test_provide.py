"""``Workflow.provide`` with a real ComfyUI-Manager 4, with either page: a pack and a model.

The server has no network: the pack is cloned, and the model downloaded, from this machine.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from comfy_client import ComfyApi, ConversionWarning, Workflow
from comfy_client.ext import ProvideStep
from tests.helpers.git_server import GitRepositories, git_repositories
from tests.real_manager import ManagedComfyUI

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]
PACK, MODEL = "contract-pack", "provided.safetensors"
CODE = """\
class Node:
    RETURN_TYPES, FUNCTION, CATEGORY, OUTPUT_NODE = (), "run", "tests", True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"number": ("INT", {})}}

    def run(self, number):
        return {"ui": {"text": [str(number)]}}

NODE_CLASS_MAPPINGS = {"ContractPack": Node}
"""


class Killed(BaseException):
    """The end of the process, as far as the server can tell."""


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GitRepositories]:
    folder = tmp_path_factory.mktemp("git") / "repositories"
    with git_repositories(folder) as found:
        found.commit(PACK, {"__init__.py": CODE})
        (folder / "served" / MODEL).write_bytes(bytes(1000))
        yield found


def page(repositories: GitRepositories) -> dict[str, Any]:
    """A file of the frontend that needs the pack, and says that it needs the model."""
    model = {"name": MODEL, "url": f"{repositories.url}/{MODEL}", "directory": "checkpoints"}
    node = {
        "id": 1,
        "type": "ContractPack",
        "mode": 0,
        "inputs": [{"name": "number", "type": "INT", "widget": {"name": "number"}}],
        "widgets_values": [7],
        "properties": {"models": [model]},
    }
    return {"version": 0.4, "nodes": [node], "links": []}


def load(source: dict[str, Any], api: ComfyApi) -> Workflow:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConversionWarning)
        return Workflow.load(source, api)


@pytest.mark.parametrize("is_legacy", [False, True], ids=["new page", "legacy page"])
def test_a_pack_and_a_model_are_provided_though_a_process_was_killed_before_the_restart(
    repositories: GitRepositories, is_legacy: bool
) -> None:
    """The legacy page downloads models of its list only, and this one is not in it."""
    steps: list[str] = []

    def tell(step: ProvideStep) -> None:
        steps.append(step.kind)
        if steps.count("restart") == 1:
            raise Killed

    packs = {f"{repositories.url}/{PACK}": ["ContractPack"]}
    source = page(repositories)
    with ManagedComfyUI(packs, legacy_page=is_legacy) as server:
        with ComfyApi(server.url) as api:
            workflow = load(source, api)
            impossible = [one.cause for one in api.ext.plan(workflow).impossible]
            with pytest.raises(Killed):
                workflow.provide(api, yes=True, on_progress=tell, timeout=300)
        with ComfyApi(server.url) as api:
            workflow = load(source, api)
            assert workflow.provide(api, yes=True, on_progress=tell, timeout=300).ok
            result = api.run(workflow, timeout=60)
            files = api.get_models("checkpoints")
    assert result.texts == ("7",)
    assert (MODEL in files) is not is_legacy
    assert impossible == (["not_listed"] if is_legacy else [])
    assert steps == ["install", *([] if is_legacy else ["download"]), "restart", "restart"]
