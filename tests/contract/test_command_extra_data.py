"""What the command line sends with prompts, the same on an embedded and on a real server."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from comfy_client import ComfyApi
from comfy_client.testing import ComfyServer
from tests.comfyui import ComfyUI
from tests.conftest import load_workflow
from tests.helpers.command_line import CommandLine

Server = ComfyServer | ComfyUI
KEY = "comfyui-0123456789abcdef-secret"


@pytest.fixture
def comfy_client(comfyui: Server, tmp_path: Path) -> CommandLine:
    """The command, for that server."""
    return CommandLine(tmp_path, comfyui.url)


def saved(folder: Path, graph: dict[str, Any]) -> str:
    (folder / "w.json").write_text(json.dumps(graph))
    return "w.json"


def keyed(folder: Path, *, fails: bool = False) -> str:
    """The name of a workflow with a node that takes the key and is not in the cache."""
    inputs = {"key": str(random.random()), "fails": fails}
    return saved(folder, {"1": {"class_type": "TestKey", "inputs": inputs}})


# -- the key of partner nodes -------------------------------------------------------------


def test_the_key_goes_to_nodes_that_take_it_and_nowhere_else(comfy_client, comfyui, tmp_path):
    name = keyed(tmp_path)
    [without] = comfy_client.json("run", name)
    assert without["texts"] == ["0 characters"]
    with ComfyApi(comfyui.url) as api:
        for args in (["run", keyed(tmp_path)], ["rerun", without["prompt_id"]]):
            options = (
                "--partner-key",
                "--set",
                f"1.key={random.random()}",
                "--record",
                f"{args[0]}.jsonl",
                "-v",
            )
            ended = comfy_client(*args, *options, "--json", COMFY_API_KEY=f" {KEY} ")
            assert ended.status == 0, ended
            result = json.loads(ended.out)
            assert result["texts"] == [f"{len(KEY)} characters"]
            entry = api.get_history(result["prompt_id"])
            said = (
                ended.out,
                ended.err,
                repr(entry.raw),
                (tmp_path / f"{args[0]}.jsonl").read_text(),
            )
            assert not any(KEY in text for text in said)


def test_an_error_that_repeats_the_key_does_not_show_it(comfy_client, tmp_path):
    for flags in ([], ["--json"]):
        ended = comfy_client(
            "run", keyed(tmp_path, fails=True), "--partner-key", *flags, COMFY_API_KEY=KEY
        )
        assert ended.status == 5
        assert KEY not in ended.out + ended.err
        assert "is not valid" in ended.out + ended.err


def test_a_sweep_sends_the_key_and_keeps_it_out_of_its_journal(comfy_client, tmp_path):
    args = ("sweep", keyed(tmp_path), "--axis", f"TestKey.key={random.random()}", "-q")
    args = (*args, "--partner-key")
    [row] = comfy_client.json(*args, "--journal", "sweep.db", COMFY_API_KEY=KEY)
    assert row["result"]["texts"] == [f"{len(KEY)} characters"]
    failing = ("sweep", keyed(tmp_path, fails=True), "--axis", f"TestKey.key={random.random()}")
    ended = comfy_client(
        *failing, "-q", "--partner-key", "--journal", "failed.db", COMFY_API_KEY=KEY
    )
    assert ended.status == 5
    assert KEY not in ended.out + ended.err
    for journal in tmp_path.glob("*.db*"):
        assert KEY.encode() not in journal.read_bytes()


def test_the_key_may_come_from_a_file_but_not_from_the_command_line(comfy_client, tmp_path):
    (tmp_path / "key").write_text(f"{KEY}\n")
    [result] = comfy_client.json("run", keyed(tmp_path), "--extra-data", "api_key_comfy_org=@key")
    assert result["texts"] == [f"{len(KEY)} characters"]
    ended = comfy_client("run", keyed(tmp_path), "--extra-data", f"api_key_comfy_org={KEY}")
    assert ended.status == 2
    assert "COMFY_API_KEY" in ended.err
    assert KEY not in ended.err


# -- --extra-data -------------------------------------------------------------------------


def test_extra_data_is_json_or_else_a_text(comfy_client, comfyui, tmp_path):
    name = saved(tmp_path, load_workflow("txt2img_tiny", steps=1))
    (tmp_path / "notes.json").write_text('{"by": ["me", 1]}')
    given = {"tag": "nightly", "n": "3", "quoted": '"3"', "notes": "@notes.json", "none": "null"}
    options = [part for key, value in given.items() for part in ("--extra-data", f"{key}={value}")]
    wanted = {"tag": "nightly", "n": 3, "quoted": "3", "notes": {"by": ["me", 1]}, "none": None}
    [result] = comfy_client.json("run", name, *options)
    [row] = comfy_client.json("sweep", name, "--axis", "Sampler.steps=1", *options, "-q")
    with ComfyApi(comfyui.url) as api:
        for prompt_id in (result["prompt_id"], row["prompt_id"]):
            stored = api.get_history(prompt_id).extra_data
            assert {key: stored[key] for key in wanted} == wanted
            assert "comfy_client_cli" in stored


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["tag"], "write KEY=VALUE"),
        (["a=1", "a=2"], "given twice"),
        (["a={"], "not valid JSON"),
        (["extra_pnginfo=1"], "must be an object"),
        (["extra_pnginfo=text"], "must be an object"),
        (['extra_pnginfo={"workflow": 1}'], "must be an object"),
        (["a=@missing"], "No such file"),
    ],
)
def test_extra_data_that_cannot_be_sent_is_status_2(comfy_client, tmp_path, given, words):
    name = saved(tmp_path, load_workflow("txt2img_tiny"))
    options = [part for one in given for part in ("--extra-data", one)]
    [error] = comfy_client.json("run", name, *options, status=2)
    assert words in error["message"]


# -- --retry-oom --------------------------------------------------------------------------


def hungry(folder: Path, times: int) -> str:
    """The name of a workflow that runs out of memory a given number of times."""
    key = str(random.random())
    inputs = {"key": key, "times": times, "text": key, "seed": "random"}
    return saved(folder, {"1": {"class_type": "TestOutOfMemory", "inputs": inputs}})


@pytest.mark.timeout(600)  # a real server is given time to free its memory
def test_retry_oom_runs_it_once_more_with_freed_memory(comfy_client, tmp_path):
    ended = comfy_client("run", hungry(tmp_path, 1), "--retry-oom", "--json")
    assert ended.status == 0, ended
    assert json.loads(ended.out)["texts"] == ["try 2"]
    assert "runs once more" in ended.err
    [error] = comfy_client.json("run", hungry(tmp_path, 9), "--retry-oom", status=5)
    assert "try 2" in error["message"]
    [error] = comfy_client.json("run", hungry(tmp_path, 1), status=5)
    [result] = comfy_client.json("rerun", error["prompt_id"], "--retry-oom")
    assert result["texts"] == ["try 2"]


def test_retry_oom_needs_the_command_to_wait(comfy_client, tmp_path):
    ended = comfy_client("run", hungry(tmp_path, 1), "--retry-oom", "--detach")
    assert ended.status == 2
