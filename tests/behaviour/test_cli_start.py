"""The command line starts quickly: what asks nothing of a server imports no network library."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from comfy_client import ComfyApi, Workflow
from comfy_client.testing import ComfyServer
from tests.conftest import load_workflow

#: None of them is needed to read a workflow or to say what there is.
HEAVY = {
    "requests",
    "urllib3",
    "websocket",
    "blinker",
    "aiohttp",
    "PIL",
    "numpy",
    "tqdm",
    "asyncio",
    "ssl",
    "concurrent.futures",
    "comfy_client.client",
    "comfy_client.testing",
    "comfy_client.doctor",
    "comfy_client.batch",
}
SCRIPT = """
import atexit, sys
from comfy_client.__main__ import main
atexit.register(lambda: print("modules:", *sys.modules, file=sys.stderr))
main()
"""


def modules_after(*args: object, **variables: str) -> set[str]:
    """What a command has imported at its end, in a process of its own."""
    command = [sys.executable, "-c", SCRIPT, *map(str, args)]
    env = {**os.environ, **variables}
    ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, env=env)
    return set(ran.stderr.rpartition("modules:")[2].split())


@pytest.mark.parametrize(
    "args",
    [
        ["--version"],
        ["--help"],
        ["run", "--help"],
        ["serve", "--help"],
        ["example"],
        ["help"],
        ["schema"],
    ],
    ids=" ".join,
)
def test_offline_commands_import_no_network(args):
    """Nor the embedded server, nor Pillow."""
    assert modules_after(*args).isdisjoint(HEAVY)


def test_nor_does_a_conversion_without_a_server(tmp_path):
    """Of a file in API format, and of one in UI format with definitions in a file."""
    Workflow(load_workflow("txt2img_tiny")).save(tmp_path / "api.json")
    assert modules_after("convert", tmp_path / "api.json").isdisjoint(HEAVY)
    (tmp_path / "ui.json").write_text(json.dumps(load_workflow("txt2img_ui")))
    with ComfyServer() as server, ComfyApi(server.url) as api:
        (tmp_path / "nodes.json").write_text(json.dumps(api.node_definitions()))
    known = ("--definitions", tmp_path / "nodes.json")
    filled = (*known, "--set", "KSampler.steps=3", "--seed", "1")
    assert modules_after("convert", tmp_path / "ui.json", *filled).isdisjoint(HEAVY)
    assert modules_after("inputs", tmp_path / "ui.json", *known).isdisjoint(HEAVY)


def test_completion_from_files_imports_no_network_library(tmp_path):
    """For commands, options, files, and inputs of a workflow in API format."""
    file = tmp_path / "api.json"
    Workflow(load_workflow("txt2img_tiny")).save(file)
    for words in ("ru", "run --se", "run ap", f"run {file} --set "):
        line = f"comfy-client {words}"
        asked = {"COMP_LINE": line, "COMP_POINT": str(len(line))}
        found = modules_after(_COMFY_CLIENT_COMPLETE="bash_complete", **asked)
        assert "comfy_client.cli.shells" in found
        assert found.isdisjoint(HEAVY)


def modules_after_importing(name: str) -> set[str]:
    command = [sys.executable, "-c", f"import {name}, sys; print(*sys.modules)"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return set(ran.stdout.split())


def test_the_package_alone_imports_almost_nothing():
    """Each name of it is imported when it is first used."""
    assert modules_after_importing("comfy_client").isdisjoint(HEAVY)
    assert "requests" in modules_after_importing("comfy_client.client")
