"""The commands about workflows, the same on an embedded and on a real server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from comfy_client import ComfyApi, Workflow
from comfy_client.testing import ComfyServer
from tests.comfyui import ComfyUI
from tests.conftest import load_workflow
from tests.helpers.clients import until
from tests.helpers.command_line import CommandLine

Server = ComfyServer | ComfyUI


@pytest.fixture
def comfy_client(comfyui: Server, tmp_path: Path) -> CommandLine:
    """The command, for that server."""
    return CommandLine(tmp_path, comfyui.url)


@pytest.fixture
def short(tmp_path: Path) -> str:
    """The name of a workflow that makes a small picture."""
    (tmp_path / "short.json").write_text(json.dumps(load_workflow("txt2img_tiny", steps=2)))
    return "short.json"


# -- inputs -------------------------------------------------------------------------------


def test_inputs_lists_addresses_that_set_takes_with_types_choices_and_roles(comfy_client, short):
    found = {one["address"]: one for one in comfy_client.json("inputs", short)}
    steps, sampler = found["Sampler.steps"], found["Sampler.sampler_name"]
    assert (steps["type"], steps["value"], steps["min"], steps["role"]) == ("INT", 2, 1, None)
    assert (sampler["type"], sampler["value"]) == ("COMBO", "euler")
    assert "dpmpp_2m" in sampler["choices"]
    roles = {one["role"]: one["name"] for one in found.values() if one["role"]}
    assert roles == {
        "positive": "text",
        "negative": "text",
        "seed": "seed",
        "size": "height",
        "checkpoint": "ckpt_name",
    }
    values = [("--set", f"{name}={one['value']}") for name, one in found.items()]
    ran = comfy_client("run", short, "-q", *(part for pair in values for part in pair))
    assert ran.status == 0, ran


def test_inputs_prints_a_table(comfy_client, short):
    ended = comfy_client("inputs", short)
    assert ended.status == 0
    head, *rows = ended.lines
    assert head.split() == ["INPUT", "TYPE", "VALUE", "ROLE", "CHOICES", "OR", "RANGE"]
    [steps] = [row for row in rows if row.startswith("Sampler.steps ")]
    assert steps.split() == ["Sampler.steps", "INT", "2", "1", "to", "10000"]
    [seed] = [row for row in rows if row.startswith("Sampler.seed ")]
    assert seed.split()[3] == "seed"


def test_a_workflow_saved_in_the_frontend_comes_through_a_pipe(comfy_client):
    with ComfyApi(comfy_client.host) as api:
        content = json.dumps(load_workflow("txt2img_ui")).encode()
        api.store_user_data("workflows/my flow.json", content, overwrite=True)
    names = comfy_client("api", "/userdata?dir=workflows")
    assert "my flow.json" in json.loads(names.out)
    found = comfy_client("api", "/userdata/workflows%2Fmy%20flow.json")
    listed = comfy_client("inputs", "-", stdin=found.out)
    assert listed.status == 0, listed
    assert "Sampler.seed" in listed.out


def test_inputs_reads_definitions_from_a_file_without_a_server(comfy_client, comfyui, tmp_path):
    with ComfyApi(comfyui.url) as api:
        (tmp_path / "nodes.json").write_text(json.dumps(api.node_definitions()))
    (tmp_path / "ui.json").write_text(json.dumps(load_workflow("txt2img_ui")))
    away = CommandLine(tmp_path, "http://127.0.0.1:9")
    ended = away.json("inputs", "ui.json", "--definitions", "nodes.json")
    assert ended == comfy_client.json("inputs", "ui.json")
    assert any(one["type"] == "COMBO" for one in ended)


def test_inputs_without_a_server_has_the_types_of_the_values(comfy_client, short, tmp_path):
    ended = CommandLine(tmp_path, "http://127.0.0.1:9")("inputs", short, "--json")
    assert ended.status == 0
    assert "no node definitions" in ended.err
    found = {one["address"]: one for one in map(json.loads, ended.lines)}
    assert found.keys() == {one["address"] for one in comfy_client.json("inputs", short)}
    assert found["Sampler.steps"]["type"] == "INT"
    assert found["Sampler.sampler_name"]["choices"] is None


def test_an_address_with_an_equals_sign_names_the_node_by_its_id(comfy_client, tmp_path):
    graph = load_workflow("txt2img_tiny")
    [sampler] = [one for one, node in graph.items() if node["class_type"] == "KSampler"]
    graph[sampler]["_meta"] = {"title": "cfg = 5"}
    Workflow(graph).save(tmp_path / "odd.json")
    [cfg] = [one for one in comfy_client.json("inputs", "odd.json") if one["name"] == "cfg"]
    assert cfg["address"] == f"{sampler}.cfg"
    assert comfy_client("convert", "odd.json").status == 0


# -- prompts by their id ------------------------------------------------------------------


@pytest.fixture
def past(comfy_client, short) -> str:
    """The id of a prompt that has ended, with its own seed and the frontend's workflow."""
    ui = {"nodes": [], "links": [], "version": 0.4, "extra": {"from": "the frontend"}}
    with ComfyApi(comfy_client.host) as api:
        workflow = Workflow.load(comfy_client.home / short)
        workflow.randomize_seeds()
        prompt_id = api.run(workflow, workflow_ui=ui).prompt_id
        until(lambda: api.get_history(prompt_id))  # its record follows the end event
        return prompt_id


def test_rerun_keeps_the_seed_and_the_workflow_of_the_frontend(comfy_client, past):
    [old] = comfy_client.json("download", past)
    [new] = comfy_client.json("rerun", past[:13], "--set", "Sampler.cfg=3", "--out", "new.png")
    assert new["seeds"] == old["seeds"]
    assert new["prompt_id"] != past
    with Image.open(comfy_client.home / "new.png") as picture:
        assert json.loads(picture.info["workflow"])["extra"] == {"from": "the frontend"}
        assert Workflow(json.loads(picture.info["prompt"]))["Sampler"]["cfg"] == 3
    [other] = comfy_client.json("rerun", past, "--seed", 77, "--detach")
    [ended] = comfy_client.json("job", other["prompt_id"], "--wait")
    assert list(ended["seeds"].values()) == [77]


def test_the_id_of_a_prompt_stands_for_its_workflow_in_all_commands(comfy_client, past):
    graph = comfy_client.json("convert", past)[0]
    with ComfyApi(comfy_client.host) as api:
        assert graph == Workflow.load(api.get_history(past)).to_dict()
    ended = comfy_client("convert", past[:8], "-o", "past.json")
    assert ended.status == 0, ended
    assert json.loads((comfy_client.home / "past.json").read_text()) == graph
    assert comfy_client("check", past).status == 0
    assert comfy_client.json("inputs", past) == comfy_client.json("inputs", "past.json")
    [ran] = comfy_client.json("run", past[:8])
    assert ran["seeds"] == {"3": Workflow(graph)["Sampler"]["seed"]}
    rows = comfy_client.json("sweep", past, "--axis", "Sampler.steps=1,2", "-q")
    assert {row["result"]["seeds"]["3"] for row in rows} == set(ran["seeds"].values())


def test_a_prompt_that_has_not_ended_can_run_again(comfy_client, comfyui):
    graph = load_workflow("sleep", seconds=60.0)
    with ComfyApi(comfyui.url) as api:
        job = api.submit(graph)
        try:
            assert comfy_client.json("convert", job.prompt_id) == [graph]
        finally:
            job.cancel()


def test_a_file_wins_over_the_prompt_of_that_id(comfy_client, past):
    name = past[:8]
    (comfy_client.home / name).write_text(json.dumps(load_workflow("sleep")))
    assert comfy_client.json("convert", name) == [load_workflow("sleep")]
    [ran] = comfy_client.json("rerun", name)  # takes no file
    assert ran["seeds"]


def test_a_name_that_is_neither_file_nor_prompt_is_an_error_that_says_so(comfy_client):
    for command in ("run", "check", "convert", "inputs"):
        [error] = comfy_client.json(command, "nothing", status=2)
        assert error["code"] == "usage"
        assert (
            f"no such workflow file, and no such prompt on {comfy_client.host}: 'nothing'"
            in (error["message"])
        )
    [error] = comfy_client.json("rerun", "nothing", status=6)
    assert error["code"] == "job_not_found"
    assert comfy_client.host in error["message"]


def test_an_id_needs_the_server_but_a_file_name_does_not(comfy_client, short, tmp_path):
    away = CommandLine(tmp_path, "http://127.0.0.1:9")
    ended = away("run", "0123abcd")
    assert ended.status == 3
    assert "There is no file '0123abcd'" in ended.err
    assert away("run", "missing.json").status == 2
    (tmp_path / "abcd").write_text((tmp_path / short).read_text())
    assert away.json("convert", "abcd") == comfy_client.json("convert", short)


# -- values from files, and filled workflows ----------------------------------------------


def test_set_takes_the_text_of_a_file_or_of_standard_input(comfy_client, short, tmp_path):
    (tmp_path / "fox.txt").write_text("\ufeffa fox = red,\nin snow\n", "utf-8")
    options = ("--set", "Positive prompt.text=@fox.txt", "--set", "Negative prompt.text=@@home")
    [filled] = comfy_client.json("convert", short, *options)
    found = Workflow(filled)
    assert found.positive == "a fox = red,\nin snow"
    assert found.negative == "@home"
    ended = comfy_client(
        *("run", short, "--set", "Positive prompt.text=@-", "--set", "Negative prompt.text=-"),
        *("--out", "a.png", "-q"),
        stdin="an owl\n",
    )
    assert ended.status == 0, ended
    made = Workflow.load(tmp_path / "a.png")
    assert (made.positive, made.negative) == ("an owl", "-")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--set", "Sampler.steps=@missing.txt"], "No such file or directory: 'missing.txt'"),
        (["--set", "Sampler.steps=@"], "@@ stands for @"),
        (["--set", "Sampler.steps=@short.json"], "takes INT, not"),
        (["--set", "Sampler.steps=@a.bin"], "not a text in UTF-8"),
        (["--set", "Sampler.steps=@-", "--set", "Sampler.cfg=@-"], "can be read only once"),
    ],
)
def test_a_value_from_a_file_that_cannot_be_read_is_status_2(
    comfy_client, short, tmp_path, options, words
):
    (tmp_path / "a.bin").write_bytes(b"\xff\xfe\x00")
    [error] = comfy_client.json("run", short, *options, status=2)
    assert words in error["message"]


def test_convert_writes_what_run_would_send(comfy_client, short, tmp_path):
    Image.new("RGB", (40, 24), (200, 30, 90)).save(tmp_path / "mine.png")
    options = ("--set", "Sampler.steps=1", "--set", "Sampler.seed=random")
    [first], [second] = (comfy_client.json("convert", short, *options) for _ in range(2))
    steps, seed = Workflow(first)["Sampler"]["steps"], Workflow(first)["Sampler"]["seed"]
    assert (steps, type(seed)) == (1, int)
    assert seed != Workflow(second)["Sampler"]["seed"]
    assert comfy_client("convert", short, "--seed", 5, "--python").out.count("seed=5") == 1
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "nothing.png"}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }
    (tmp_path / "show.json").write_text(json.dumps(graph))
    ended = comfy_client("convert", "show.json", "--input", "LoadImage=mine.png", "-o", "full.json")
    assert ended.status == 0, ended
    assert f"uploading to {comfy_client.host}" in ended.err
    ran = comfy_client("run", "full.json", "--out", "o/", "-q")
    assert ran.status == 0, ran
    with Image.open(tmp_path / ran.lines[0]) as picture:
        assert picture.size == (40, 24)


def test_convert_fills_a_workflow_without_a_server(short, tmp_path):
    away = CommandLine(tmp_path, "http://127.0.0.1:9")
    ended = away("convert", short, "--set", "Sampler.steps=3", "--seed", 9)
    assert ended.status == 0
    assert "types are those of the values" in ended.err
    found = Workflow(json.loads(ended.out))["Sampler"]
    assert (found["steps"], found["seed"]) == (3, 9)
    graph = {"1": {"class_type": "LoadImage", "inputs": {"image": "nothing.png"}}}
    (tmp_path / "show.json").write_text(json.dumps(graph))
    (tmp_path / "mine.png").write_bytes(b"")
    assert away("convert", "show.json", "--input", "LoadImage=mine.png").status == 3


def test_a_sweep_prints_the_seeds_that_were_drawn(comfy_client, short):
    ended = comfy_client("sweep", short, "--axis", "Sampler.seed=random,random", "-q")
    assert ended.status == 0, ended
    seeds = {line.split()[1].rstrip(":") for line in ended.lines}
    assert len(seeds) == 2
    assert all(one.removeprefix("Sampler.seed=").isdecimal() for one in seeds)
