"""Other people's clients on the embedded server, as ``comfy-client serve`` runs it: ``--clients``.

They install the clients' packages once; those in JavaScript are left out where ``npm`` or ``node``
is missing.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import attrs
import pytest
import requests

from comfy_client import Workflow
from comfy_client.cli.serve_options import VERSIONS
from tests.comfyui import pictures
from tests.foreign_clients import PYTHON, clients, command
from tests.helpers.command_line import LIMIT, CommandLine

pytestmark = [pytest.mark.clients, pytest.mark.posix("a lock of files between processes")]

PICTURE = pictures()["testbed.png"]
CLIENTS = clients()
#: All but one, which only submits and fetches.
LISTING = [client for client in CLIENTS if client != "comfyui-utils"]


@attrs.frozen
class Told:
    """What a client got of a server, and what the server has."""

    found: dict[str, Any]
    root: Path
    classes: set[str]
    #: The prompts that ended, by id, with their status.
    ended: dict[str, str]


@pytest.fixture(scope="module", params=(VERSIONS[0], VERSIONS[-1]))
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=CLIENTS)
def told(
    request: pytest.FixtureRequest, version: str, tmp_path_factory: pytest.TempPathFactory
) -> Told:
    """One client's script, run on a server of its own."""
    return run(request.param, version, tmp_path_factory.mktemp("client"))


def run(client: str, version: str, folder: Path) -> Told:
    words, variables = command(client)
    prompt, picture, root = folder / "prompt.json", folder / "picture.png", folder / "root"
    prompt.write_text(Workflow.example().to_json(), "utf-8")
    picture.write_bytes(PICTURE)
    options: list[object] = ["--version", version, "--object-info", "0.28.1", "--root", root]
    options += ["--checkpoint", "sd15.safetensors"]
    if client in PYTHON:  # one takes previews for pictures, the other fails on them
        options.append("--no-previews")
    with CommandLine(folder).started("serve", "--port", 0, "--json", *options) as process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        ran = subprocess.run(
            [*words, str(prompt), str(picture)],
            env={**os.environ, **variables, "COMFYUI_HOST": ready["url"]},
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
        assert ran.returncode == 0, ran
        classes = {*requests.get(f"{ready['url']}/object_info", timeout=LIMIT).json()}
        process.terminate()
        lines = [json.loads(line) for line in process.communicate(timeout=LIMIT)[0].splitlines()]
    prompts = {one["prompt_id"]: one["status"] for one in lines if one["event"] == "prompt"}
    found = json.loads(ran.stdout.splitlines()[-1])
    return Told(found, root, classes, prompts)


def test_the_picture_arrives(told: Told) -> None:
    files = [path.read_bytes() for path in (told.root / "output").glob("*.png")]
    assert told.found["pictures"] == [hashlib.sha256(file).hexdigest() for file in files]
    assert len(files) == 1


def test_the_prompt_is_the_only_one_and_succeeds(told: Told) -> None:
    [(prompt_id, status)] = told.ended.items()
    assert status == "success"
    assert told.found.get("ended", prompt_id) == prompt_id
    assert told.found.get("history", [prompt_id]) == [prompt_id]


def test_progress_and_previews_arrive(told: Told) -> None:
    """Where the client tells of them."""
    for name in told.found.keys() & {"progress", "previews"}:
        assert told.found[name] > 0, name


@pytest.mark.parametrize("told", LISTING, indirect=True, scope="module")
def test_classes_and_checkpoints_are_those_of_the_server(told: Told) -> None:
    assert {*told.found["classes"]} == told.classes
    assert {"simulated.safetensors", "sd15.safetensors"} <= {*told.found["checkpoints"]}


@pytest.mark.parametrize("told", LISTING, indirect=True, scope="module")
def test_an_upload_lies_in_the_input_folder(told: Told) -> None:
    assert (told.root / "input" / told.found["uploaded"]).read_bytes() == PICTURE


def test_a_wrong_prompt_is_refused(told: Told) -> None:
    assert told.found["refused"]
