"""Workflow.check against a real server: workflows that are broken in every way, one at a time.

Compared are whether the server accepts a workflow, and each error by node, input and type.  The
server's answer goes through the same words as a rejection does, which put the error of a bad link
at that link: the server names whichever input it came from.

A real server looks at inputs and outputs in the random order of Python's sets, and a bad link
hides what would have been found after it.  It tells the order of inputs by the order of its
errors for a node without any; of outputs, other orders are tried.  In a circle it goes round
until Python's stack is full, and blames whatever node that happens at, or none: circles are
only looked for in the report.
"""

from __future__ import annotations

import gzip
import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from comfy_client import ComfyApi, Workflow
from comfy_client.workflow.check import CheckReport, check
from comfy_client.workflow.explain import Known, problems_in
from comfy_client.workflow.problems import Problem
from comfy_client.workflow.rules import rules_for
from tests.comfyui import ComfyUI
from tests.conftest import load_workflow
from tests.helpers.conformance import pairs
from tests.helpers.mutants import WAYS, Mutant, add_files, fitted, in_other_orders, mutants
from tests.helpers.real_validation import Real, validating
from tests.helpers.running_comfyui import Running
from tests.helpers.v3_mutants import changed, request
from tests.helpers.wrong_choices import wrong_choices

pytestmark = pytest.mark.real

EACH = 70  # of each kind
SEED = 20261126
HERE = Path(__file__).parents[1]

#: What is said: accepted or not, and (node id, input, type) of each error.
Said = tuple[bool, frozenset[tuple[str | None, str | None, str]]]


def workflows() -> list[dict[str, Any]]:
    """Some of all sizes: those of the tests, and what the page made of templates."""
    found = [json.loads(path.read_text("utf-8")) for path in (HERE / "workflows").glob("*.json")]
    lines = gzip.decompress((HERE / "conformance" / "ui_to_api.jsonl.gz").read_bytes())
    found += [json.loads(line)["api"] for line in lines.splitlines()]
    return [graph for graph in found if "nodes" not in graph]


@pytest.fixture(scope="module")
def real() -> Iterator[Real]:
    """A server of its own, with a file by each name that is in the workflows."""
    with ComfyUI() as server, validating(server) as asked:
        graphs = [graph for graph in workflows() if is_known(graph, asked.definitions)]
        add_files(graphs, asked.definitions, server.root)
        found = asked.call("GET", "/object_info")[1]
        used = {node["class_type"] for graph in graphs for node in graph.values()}
        asked.definitions = found | asked.in_its_order({name: found[name] for name in used})
        yield asked


def is_known(graph: dict[str, Any], definitions: dict[str, Any]) -> bool:
    return all(node["class_type"] in definitions for node in graph.values())


def said(accepted: bool, problems: Iterable[Problem]) -> Said:
    found = (problem for problem in problems if problem.type != "dependency_cycle")
    return accepted, frozenset((one.node_id, one.input, one.type) for one in found)


def ours(report: CheckReport) -> Said:
    return said(report.accepted, (one for one in report.errors if one.named_by_server))


def theirs(real: Real, graph: dict[str, Any]) -> Said:
    status, body = real.call("POST", "/prompt", {"prompt": graph})
    if status == 200:
        real.call("POST", "/queue", {"clear": True})
    if status == 500 or (status == 200 and not body["node_errors"]):
        return status == 200, frozenset()
    known = Known(graph, definitions=rules_for(graph, real.definitions).by_node)
    return said(status == 200, problems_in(body, known))


def agrees(mutant: Mutant, report: CheckReport, answer: Said, definitions: dict[str, Any]) -> bool:
    others = in_other_orders(mutant.graph, definitions)
    return ours(report) == answer or any(
        ours(check(graph, definitions)) == answer for graph in others
    )


def explanation(mutant: Mutant) -> str | None:
    """Why check cannot know what the server says."""
    if mutant.kind == "missing_file":
        node_id, name = mutant.place
        if "/" in mutant.graph[node_id]["inputs"][name]:
            return "definitions name no files in folders below the server's input folder"
    if mutant.kind == "node_removed":
        return "of several bad links, one hides others; of optional inputs, the order is unknown"
    if mutant.kind == "circle":
        return "whether outputs beside a circle pass depends on what is left of the server's stack"
    return None


def finds(report: CheckReport, mutant: Mutant) -> bool:
    """Whether a report has an error where the workflow was broken."""
    if mutant.kind == "circle":
        return any(problem.type == "dependency_cycle" for problem in report.errors)
    places = {(problem.node_id, problem.input) for problem in report.errors}
    return mutant.place in places or (None, None) in places


@pytest.mark.timeout(600)  # thousands of questions; a minute on an idle machine
def test_check_says_what_the_server_says(real: Real) -> None:
    """For 99 of 100 broken workflows the same; the reasons for the others are known."""
    definitions = real.definitions
    graphs = [fitted(graph, definitions) for graph in workflows() if is_known(graph, definitions)]
    graphs = [graph for graph in graphs if theirs(real, graph) == (True, frozenset())]
    assert len(graphs) > 100
    differing: list[Mutant] = []
    missed: list[Mutant] = []
    refused: Counter[str] = Counter()
    for mutant in mutants(random.Random(SEED), graphs, definitions, EACH):
        report = check(mutant.graph, definitions)
        answer = theirs(real, mutant.graph)
        refused[mutant.kind] += not answer[0]
        if not agrees(mutant, report, answer, definitions):
            differing.append(mutant)
        if not answer[0] and mutant.kind != "missing_file" and not finds(report, mutant):
            missed.append(mutant)
    unexplained = [mutant for mutant in differing if explanation(mutant) is None]
    assert not unexplained
    assert len(differing) <= len(WAYS) * EACH / 100
    assert sum(refused.values()) > len(WAYS) * EACH / 2
    assert not missed


@pytest.mark.timeout(900)  # 2,000 questions; two minutes on an idle machine
def test_check_accepts_what_the_server_accepts(comfyui: ComfyUI | Running, api: ComfyApi) -> None:
    """Also of V3 nodes and partner nodes, whose inputs depend on choices, and of old classes."""
    with validating(comfyui) as real:
        graphs = [graph for graph in workflows() if is_known(graph, real.definitions)]
        newest = [graph for _, _, graph in pairs("0.28.1")]
        graphs += [graph for graph in newest if is_known(graph, real.definitions)]
        graphs = [fitted(graph, real.definitions) for graph in graphs if 2 < len(graph) < 60]
        graphs = [graph for graph in graphs if theirs(real, graph) == (True, frozenset())]
        assert len(graphs) > 30
        rng = random.Random(SEED)
        made = [changed(rng, rng.choice(graphs)) for _ in range(2000)]
        differing = [
            one
            for one in made
            if real.accepts(request(one)) != check(one.graph, api, targets=one.targets).accepted
        ]
    assert len(differing) <= len(made) * 0.005, differing


@pytest.mark.timeout(900)  # a thousand questions; ten seconds on an idle machine
def test_check_knows_which_choices_the_server_checks(
    comfyui: ComfyUI | Running, api: ComfyApi
) -> None:
    """Classes with a check of their own take others; ``tests/conformance`` has which."""
    different = []
    with validating(comfyui) as real:
        for one in wrong_choices(real.definitions):
            accepted, errors = theirs(real, one.graph)
            report = check(one.graph, api)
            named = any(error[1] == one.input for error in errors)
            found = any(error.input == one.input for error in report.errors)
            if (accepted, named) != (report.accepted, found):
                different.append((one.class_type, one.input))
    assert different == []


@pytest.mark.parametrize("name", ["txt2img_tiny", "img2img_tiny", "image_ops", "batch8"])
def test_workflows_that_run_pass_on_every_version(any_api: ComfyApi, name: str) -> None:
    """Whatever the form of its definitions; and a value that is too small does not."""
    workflow = Workflow(load_workflow(name))
    assert workflow.check(any_api).errors == ()
    workflow.set({(node.id, "filename_prefix"): 5 for node in workflow.find("SaveImage")})
    assert workflow.check(any_api).ok  # a number becomes a text
    for node in workflow:
        if "batch_size" in node:
            workflow.set({(node.id, "batch_size"): 0})
            assert [one.type for one in workflow.check(any_api).errors] == [
                "value_smaller_than_min"
            ]
