"""Every official template is converted, or the warnings name the nodes that are in the way."""

from __future__ import annotations

import json
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from comfy_client import ComfyApi, ConversionWarning, Workflow
from comfy_client.testing import ComfyServer
from comfy_client.testing.definitions import read_definitions
from comfy_client.workflow.convert import Conversion, convert
from tests.comfyui import ComfyUI, templates
from tests.guide import GUIDE
from tests.helpers.bare import end_of
from tests.helpers.conformance import First, definitions
from tests.helpers.real_validation import validating
from tests.helpers.running_comfyui import Running

pytestmark = pytest.mark.real  # it downloads them once
OWN = {"PrimitiveNode", "Reroute", "Note", "MarkdownNote"}
MUTED, BYPASSED = 2, 4
BROKEN = "lack a link inside a subgraph"


@pytest.fixture(scope="module")
def files() -> dict[str, dict[str, Any]]:
    """Of October 2026: some are for nodes that are newer than the definitions."""
    found = {}
    with zipfile.ZipFile(templates()) as wheel:
        for name in wheel.namelist():
            if name.endswith(".json"):
                file = json.loads(wheel.read(name))
                if isinstance(file, dict) and isinstance(file.get("nodes"), list):
                    found[name.rpartition("/")[2]] = file
    return found


def active(file: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The nodes that the server is to run, by their id in the prompt.

    Those in instances are counted by the ends of their ids only, which are unique in a file.
    """
    graphs = {one["id"]: one for one in file.get("definitions", {}).get("subgraphs", [])}
    ahead = [(file, "")]
    while ahead:
        graph, before = ahead.pop()
        for node in graph["nodes"]:
            if before == "" and node["mode"] in (MUTED, BYPASSED):
                continue
            if node["type"] in graphs:
                ahead.append((graphs[node["type"]], f"{before}{node['id']}:"))
            elif node["mode"] not in (MUTED, BYPASSED) and node["type"] not in OWN:
                yield f"{before}{node['id']}", node


def said(done: Conversion) -> set[str | None]:
    return {warning.kind for warning in done.warnings}


def test_all_templates_are_converted_and_no_node_is_lost(files: dict[str, Any]) -> None:
    """As many nodes, of the same classes, as are active; what is missing is in a warning."""
    known, kinds = definitions("0.28.1"), Counter[str]()
    for name, file in files.items():
        done = convert(file, known, dynamic_prompts=First())
        classes = Counter(node["class_type"] for node in done.graph.values())
        wanted = Counter(node["type"] for _, node in active(file))
        assert classes == wanted, name
        missing = {one for one in wanted if one not in known}
        warned = {one.class_type for one in done.warnings if one.kind == "not_installed"}
        assert missing == warned, name
        kinds.update(said(done) or {"none"})
    assert len(files) == 644
    assert kinds == {"none": 417, "not_installed": 184, "value": 43, "browser": 18, "link": 18}


def test_templates_that_the_page_misreads_are_warned_about(files: dict[str, Any]) -> None:
    """They were written for newer nodes: a seed is "auto", an option does not exist."""
    known = definitions("0.28.1")
    wrong = [
        name
        for name, file in files.items()
        if "value" in said(convert(file, known, dynamic_prompts=First()))
    ]
    assert len(wrong) == 43
    assert "api_meshy_image_to_model.json" in wrong
    assert "video_ltx2_3_t2v.json" in wrong


def test_an_older_server_has_them_converted_too(files: dict[str, Any]) -> None:
    """By the definitions of 0.3.75, which lack most of the newer classes."""
    known = definitions("0.3.75")
    for file in files.values():
        done = convert(file, known, dynamic_prompts=First())
        warned = {one.class_type for one in done.warnings if one.kind == "not_installed"}
        assert warned == {node["class_type"] for node in done.graph.values()} - known.keys()


@pytest.mark.timeout(600)  # half a minute on an idle machine
def test_check_accepts_those_that_the_server_accepts(
    files: dict[str, Any], comfyui: ComfyUI | Running, api: ComfyApi
) -> None:
    """No false alarm, and none missed: models that it lacks, newer classes, choices of packs."""
    different = []
    with validating(comfyui) as real, warnings.catch_warnings():
        warnings.simplefilter("ignore", ConversionWarning)
        for name, file in files.items():
            workflow = Workflow.load(file, api)
            accepts = real.accepts({"prompt": workflow.to_dict()})
            if workflow.check(api).accepted is not accepts:
                different.append(name)
    assert different == []


def cause(how: str, done: Conversion) -> str:
    """How a template ended, or why it was refused, in the words of the guide."""
    if how == "success":
        return "run to the end"
    if "not_installed" in said(done):
        return "need node classes that this version lacks"
    return "have values for other versions of their nodes" if "value" in said(done) else BROKEN


def in_the_guide(version: str) -> dict[str, int]:
    """What the guide says of the templates with the definitions of a version."""
    with (GUIDE / "testing.rst").open(encoding="utf-8") as lines:
        rows = [re.split("  +", line.strip()) for line in lines]
    [start] = [at for at, row in enumerate(rows) if row[0] == "templates"]
    column = rows[start].index(version)
    return {
        row[0]: int(row[column]) for row in rows[start + 2 : rows.index(rows[start + 1], start + 2)]
    }


@pytest.mark.timeout(600)  # a minute on an idle machine
@pytest.mark.parametrize("version", ["0.28.1", "0.33.0"])
def test_the_embedded_server_runs_as_many_templates_as_the_guide_says(
    files: dict[str, Any], version: str
) -> None:
    """It refuses what its definitions do not fit, as a real one does."""
    ends, known = Counter[str](), read_definitions(version)
    with ComfyServer(object_info=version, step_seconds=0, previews=False) as server:
        for name, file in files.items():
            done = convert(file, known, dynamic_prompts=First())
            how = end_of(server, done.graph)
            assert how in ("success", "refused"), (name, how)
            ends[cause(how, done)] += 1
    assert ends == in_the_guide(version)
    assert sum(ends.values()) == 644


@pytest.mark.timeout(600)  # a minute on an idle machine
def test_unknown_classes_of_templates_are_accepted_if_any_is(files: dict[str, Any]) -> None:
    """Left are those whose values the page puts into wrong inputs, or whose links it loses."""
    known, ends = definitions("0.28.1"), Counter[str]()
    with ComfyServer(object_info="0.28.1", nodes="any", step_seconds=0, previews=False) as server:
        for name, file in files.items():
            done = convert(file, known, dynamic_prompts=First())
            how = end_of(server, done.graph)
            assert how == "success" or said(done) & {"value", "link"}, (name, how)
            ends[how] += 1
    assert ends == {"success": 627, "refused": 17}
