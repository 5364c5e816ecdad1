"""Prompt ids as workflows, and second runs after a lack of memory, with several servers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from comfy_client import ComfyApi
from comfy_client.testing import ComfyServer
from tests.helpers.command_line import CommandLine

KEY = "comfyui-0123456789-secret"


class Hungry:
    """A node that runs out of memory once, and then reports the length of the API key."""

    tries: ClassVar[list[int]] = []

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {"text": ("STRING", {})},
            "hidden": {"secret": "API_KEY_COMFY_ORG"},
        }

    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True

    def run(self, text: str, secret: str | None = None) -> dict[str, Any]:
        self.tries.append(1)
        if text == "much" and len(self.tries) == 1:
            raise MemoryError("out of memory")
        return {"ui": {"text": [f"{text} {len(secret or '')}"]}}


@pytest.fixture
def servers() -> Iterator[list[ComfyServer]]:
    with ComfyServer() as one, ComfyServer() as two:
        Hungry.tries.clear()
        two.add_node(Hungry)
        yield [one, two]


@pytest.fixture
def comfy_client(tmp_path: Path, servers: list[ComfyServer]) -> CommandLine:
    (tmp_path / "w.json").write_text(json.dumps(hungry("much")))
    return CommandLine(tmp_path, variables={"COMFY_API_KEY": KEY})


def hungry(text: str) -> dict[str, Any]:
    return {"1": {"class_type": "Hungry", "inputs": {"text": text}}}


def hosts(servers: list[ComfyServer]) -> list[str]:
    words = [word for server in servers for word in ("--host", server.url)]
    return [*words, "--partner-key"]


def test_a_prompt_known_to_any_of_the_servers_runs_again(comfy_client, servers) -> None:
    with ComfyApi(servers[1].url) as api:
        past = api.run(hungry("little")).prompt_id
    for command in ("run", "rerun"):
        [result] = comfy_client.json(command, past[:12], "--set", "1.text=few", *hosts(servers))
        assert result["texts"] == [f"few {len(KEY)}"]
        assert result["server"] == servers[1].url
    [error] = comfy_client.json("run", "unknown", *hosts(servers), status=2)
    assert f"no such prompt on {servers[0].url}, {servers[1].url}: 'unknown'" in error["message"]


def test_a_prompt_that_runs_out_of_memory_is_run_once_more(comfy_client, servers) -> None:
    ended = comfy_client("run", "w.json", "--retry-oom", "--timeout", 60, *hosts(servers))
    assert (ended.status, ended.lines) == (0, [f"much {len(KEY)}"]), ended
    assert "runs once more" in ended.err
    assert [request.path for request in servers[1].requests if request.path.endswith("/free")]
    assert len(Hungry.tries) == 2
