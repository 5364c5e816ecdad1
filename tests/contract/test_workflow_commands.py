"""The commands about workflows, the same on an embedded and on a real server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from comfy_client import ComfyApi, Workflow
from comfy_client.testing import ComfyServer
from tests.comfyui import ComfyUI
from tests.conftest import load_workflow
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
    assert head.split() == ["INPUT", "TYPE", "VALUE", "CHOICES", "OR", "RANGE", "ROLE"]
    [steps] = [row for row in rows if row.startswith("Sampler.steps ")]
    assert steps.split() == ["Sampler.steps", "INT", "2", "1", "to", "10000"]
    [seed] = [row for row in rows if row.startswith("Sampler.seed ")]
    assert seed.endswith("  seed")


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
