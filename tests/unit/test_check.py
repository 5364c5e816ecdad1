"""Workflow.check names all that is wrong, each with its place and what would be right."""

from __future__ import annotations

import copy
import functools
import gzip
import json
import math
import pickle
import random
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from comfy_client import CheckReport, Problem, Workflow
from comfy_client.errors import NotSupported, WorkflowError
from comfy_client.workflow.check import check
from tests.conftest import examples
from tests.helpers.mutants import WAYS, fitted, mutants

CONFORMANCE = Path(__file__).parents[1] / "conformance"


@functools.cache
def definitions_of(version: str) -> dict[str, Any]:
    path = CONFORMANCE / f"object_info_{version}.json.gz"
    found: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))
    return found


def with_files(**files: list[str]) -> dict[str, Any]:
    """The definitions of 0.3.75, with files to choose from."""
    found = copy.deepcopy(
        {name: definitions_of("0.3.75")[name] for name in (*GRAPH_CLASSES, *MORE_CLASSES)}
    )
    places = {
        "ckpt_name": "CheckpointLoaderSimple",
        "lora_name": "LoraLoader",
        "image": "LoadImage",
    }
    for name, choices in {"ckpt_name": ["tiny.ckpt"], **files}.items():
        found[places[name]]["input"]["required"][name][0] = choices
    return found


def node(class_type: str, title: str | None = None, **inputs: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"class_type": class_type, "inputs": inputs}
    return made if title is None else {**made, "_meta": {"title": title}}


def txt2img(**nodes: Any) -> dict[str, Any]:
    """A workflow without faults, with other nodes."""
    sampler = {"seed": 1, "steps": 8, "cfg": 7.0, "sampler_name": "euler", "scheduler": "normal"}
    links = {"model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0]}
    graph = {
        "3": node("KSampler", "Sampler", **sampler, denoise=1.0, latent_image=["5", 0], **links),
        "4": node("CheckpointLoaderSimple", "Checkpoint", ckpt_name="tiny.ckpt"),
        "5": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "6": node("CLIPTextEncode", "Positive", text="a mill", clip=["4", 1]),
        "7": node("CLIPTextEncode", "Negative", text="", clip=["4", 1]),
        "8": node("VAEDecode", samples=["3", 0], vae=["4", 2]),
        "9": node("SaveImage", images=["8", 0], filename_prefix="x"),
    }
    return {**graph, **nodes}


GRAPH_CLASSES = {each["class_type"] for each in txt2img().values()}
MORE_CLASSES = ("EmptyImage", "ImageInvert", "LoadImage", "LoraLoader", "PreviewImage")


def changed(node_id: str, **inputs: Any) -> dict[str, Any]:
    """The workflow with other inputs of one node."""
    graph = txt2img()
    graph[node_id]["inputs"] |= inputs
    return graph


def checked(graph: Any, **files: list[str]) -> CheckReport:
    return check(graph, with_files(**files))


def only(graph: Any, **files: list[str]) -> Problem:
    """The one error."""
    (problem,) = checked(graph, **files).errors
    return problem


# -- reports ------------------------------------------------------------------------------


def test_a_workflow_without_faults_passes() -> None:
    report = Workflow(txt2img()).check(with_files())
    assert (report.ok, report.accepted, report.problems) == (True, True, ())
    assert str(report) == "no problems"
    report.raise_for_errors()


def test_a_report_reads_like_a_compiler() -> None:
    """A line for each problem, errors first, then how many there are."""
    graph = changed("3", steps=0, sampler_name="eular")
    graph["20"] = node("EmptyImage", width=64, height=64, batch_size=1, color=0)
    report = checked(graph)
    assert str(report).splitlines() == [
        "error: node 3 'Sampler' (KSampler): steps = 0 is too small; it takes INT (1 to 10000)",
        (
            "error: node 3 'Sampler' (KSampler): sampler_name = 'eular' is not one of the choices; "
            "nearest: 'euler'"
        ),
        "warning: node 20 (EmptyImage): the node does not run: no output node depends on it",
        "2 errors, 1 warning",
    ]
    assert not report
    assert [*report] == [*report.errors, *report.warnings]
    assert json.loads(json.dumps(report.to_dict()))["problems"][1]["candidates"] == ["euler"]
    with pytest.raises(WorkflowError, match="too small") as caught:
        report.raise_for_errors()
    assert caught.value.problems == report.errors
    assert pickle.loads(pickle.dumps(caught.value)).problems == report.errors


def test_a_report_of_many_problems_is_cut_short() -> None:
    graph = {str(n): node("SaveImage", images=["x", 0]) for n in range(500)}
    lines = str(checked(graph)).splitlines()
    assert len(lines) == 102
    assert lines[-2] == "... (1000 problems in all)"


def test_check_changes_neither_workflow_nor_definitions() -> None:
    graph, definitions = changed("3", steps="8", cfg={"__value__": 7}), with_files()
    before = copy.deepcopy((graph, definitions))
    workflow = Workflow(graph)
    assert workflow.check(definitions).ok
    assert (graph, definitions) == before
    assert workflow == Workflow(graph)


def test_seeds_that_are_to_be_drawn_are_right() -> None:
    assert Workflow(changed("3", seed=-1)).check(with_files()).ok
    assert Workflow(changed("3", seed="random")).check(with_files()).ok


def test_a_problem_shows_no_secret() -> None:
    graph = changed("3", api_key="hush", steps=0)
    definitions = with_files()
    definitions["KSampler"]["input"]["required"]["api_key"] = [["a"], {}]
    (_, problem) = check(graph, definitions).errors
    assert problem.value == "***"
    assert "hush" not in str(problem)


# -- loops ----------------------------------------------------------------------------------

#: Of ComfyUI 0.36: a loop is closed by links alone, which go in no circle.
LOOPS = {
    "StartLoop": {
        "input": {
            "required": {
                "mode": [
                    "COMFY_DYNAMICCOMBO_V3",
                    {
                        "options": [
                            {
                                "key": "simple",
                                "inputs": {"required": {"num_iterations": ["INT", {"min": 0}]}},
                            }
                        ]
                    },
                ],
            },
            "optional": {"initial_iteration_value": ["COMFY_MATCHTYPE_V3", {}]},
        },
        "output": ["INT", "BOOLEAN", "BOOLEAN", "COMFY_MATCHTYPE_V3", "COMFY_MATCHTYPE_V3"],
        "output_node": False,
    },
    "EndLoop": {
        "input": {
            "required": {"accumulate": ["BOOLEAN", {}]},
            "optional": {"next_iteration_value": ["COMFY_MATCHTYPE_V3", {}]},
        },
        "output": ["COMFY_MATCHTYPE_V3"],
        "output_node": False,
    },
}


def loop(**more: Any) -> dict[str, Any]:
    """Turn a picture over four times, and save it each time and at the end."""
    begin = {"mode": "simple", "mode.num_iterations": 4, "initial_iteration_value": ["1", 0]}
    return {
        "1": node("EmptyImage", width=8, height=8, batch_size=1, color=0),
        "2": node("StartLoop", **begin),
        "3": node("ImageInvert", image=["2", 4]),
        "4": node("EndLoop", accumulate=False, next_iteration_value=["3", 0]),
        "5": node("PreviewImage", images=["4", 0]),
        **more,
    }


def checked_loop(graph: dict[str, Any]) -> tuple[Problem, ...]:
    return Workflow(graph).check({**with_files(), **LOOPS}).problems


def test_a_loop_that_is_closed_is_no_problem() -> None:
    """Nor is one whose end nothing depends on, if its body has an output."""
    assert checked_loop(loop()) == ()
    inside = loop()
    inside["5"]["inputs"]["images"] = ["3", 0]
    assert checked_loop(inside) == ()


def test_half_a_loop_is_a_warning() -> None:
    """Only the server knows all of its rules."""
    open_loop = loop()
    del open_loop["4"]
    open_loop["5"]["inputs"]["images"] = ["3", 0]
    (problem,) = checked_loop(open_loop)
    assert (problem.severity, problem.type, problem.node_id) == ("warning", "loop_not_closed", "2")
    assert problem.message == "no EndLoop node depends on this loop"
    endless = loop()
    del endless["2"]
    endless["3"]["inputs"]["image"] = ["1", 0]
    (problem,) = checked_loop(endless)
    assert (problem.severity, problem.type, problem.node_id) == ("warning", "loop_not_closed", "4")
    assert problem.message == "no StartLoop node leads to the end of this loop"


def test_a_circle_through_a_loop_is_an_error_as_any_other() -> None:
    """The value goes back to the start without a link; the server refuses a circle before."""
    graph = loop()
    graph["2"]["inputs"]["initial_iteration_value"] = ["4", 0]
    del graph["1"]
    assert [problem.type for problem in checked_loop(graph)] == ["dependency_cycle"]


def test_more_ends_than_are_followed_are_not_judged() -> None:
    """Each is followed back through the whole graph."""
    many = {f"e{n}": node("EndLoop", accumulate=False) for n in range(101)}
    found = [problem for problem in checked_loop(loop(**many)) if problem.type == "loop_not_closed"]
    assert {problem.node_id for problem in found} <= many.keys()
    assert len(found) == 99  # and the one that closes the loop


# -- each kind ------------------------------------------------------------------------------


def test_a_missing_class_is_named_with_the_nearest_and_its_pack() -> None:
    """All of them: the server stops at the first."""
    graph = txt2img()
    graph["3"]["class_type"] = "KSamplr"
    graph["8"] |= {"class_type": "FancyDecode", "_meta": {"cnr_id": "fancy-pack"}}
    first, second = checked(graph).errors
    assert (first.type, first.node_id, first.title) == ("missing_node_type", "3", "Sampler")
    assert first.candidates[0] == "KSampler"
    assert first.named_by_server
    assert str(second).endswith("; it belongs to the node pack 'fancy-pack': install it")
    assert not second.named_by_server


def test_a_missing_model_is_named_with_the_nearest_three_and_its_folder() -> None:
    """A file of the same name in another folder comes first."""
    files = ["sdxl/base_v1.0.safetensors", "base_v1.1.safetensors", "base_v2.safetensors", "x.ckpt"]
    graph = changed("4", ckpt_name="models\\Base_v1.0.safetensors")
    problem = only(graph, ckpt_name=[*files, "base_v3.safetensors"])
    assert (problem.type, problem.input) == ("value_not_in_list", "ckpt_name")
    assert problem.candidates[0] == "sdxl/base_v1.0.safetensors"
    assert len(problem.candidates) == 3
    assert str(problem).endswith("; the server looks in models/checkpoints")
    problem = only(graph, ckpt_name=[])
    assert problem.hint == "the server has none at all; it looks in models/checkpoints"


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        ("there.png", None),
        ("there.png [input]", None),
        ("gone.png", "custom_validation_failed"),
        ("gone.png [input]", "custom_validation_failed"),
        ("gone.png [output]", None),  # of other folders nothing is known
        ("clipspace/gone.png", None),
    ],
)
def test_a_missing_picture_is_what_the_server_does_not_find(image: str, kind: str | None) -> None:
    graph = {"1": node("LoadImage", image=image), "2": node("PreviewImage", images=["1", 0])}
    problems = checked(graph, image=["there.png", "gone_.png"]).problems
    assert [problem.type for problem in problems] == [kind] * (kind is not None)
    assert all(problem.candidates[0] == "gone_.png" for problem in problems)


@pytest.mark.parametrize(
    ("value", "kind", "words"),
    [
        (0, "value_smaller_than_min", "steps = 0 is too small; it takes INT (1 to 10000)"),
        (
            10**9,
            "value_bigger_than_max",
            "steps = 1000000000 is too big; it takes INT (1 to 10000)",
        ),
        (
            "many",
            "invalid_input_type",
            "steps = 'many' cannot be converted to INT; it takes INT (1 to 10000)",
        ),
        (
            math.inf,
            "invalid_input_type",
            "steps = inf cannot be converted to INT; it takes INT (1 to 10000)",
        ),
    ],
)
def test_a_value_that_does_not_fit_is_named_with_its_range(
    value: Any, kind: str, words: str
) -> None:
    problem = only(changed("3", steps=value))
    assert (problem.type, problem.input) == (kind, "steps")
    assert f"{problem.message}; {problem.hint}" == words
    assert problem.hint == "it takes INT (1 to 10000)"  # in a notebook, under what would be right
    assert problem.value == value


@pytest.mark.parametrize("digits", [None, 5000])
@pytest.mark.parametrize("value", [math.nan, Path("x"), {1}, [[1], {2: 3}]])
def test_values_that_json_cannot_carry_are_named(value: Any, digits: int | None) -> None:
    """The server never gets to see it."""
    value = 10**digits if digits else value
    problem = only(changed("3", cfg=value))
    assert (problem.type, problem.node_id, problem.input) == ("not_sendable", "3", "cfg")
    assert not problem.named_by_server


def test_names_that_json_cannot_carry_are_named() -> None:
    """It has text for names only; and it does not go on for ever."""
    deep: Any = None
    for _ in range(5000):
        deep = [deep]
    graph = txt2img()
    graph["3"]["inputs"] |= {5: 1, "cfg": deep}
    graph["5"][7] = 1
    graph["9"]["_meta"] = {"title": {1}}
    problems = {(one.node_id, one.type, one.message) for one in checked(graph).errors}
    assert {message for _, kind, message in problems if kind == "not_sendable"} >= {
        "the input name 5 is not a string",
        "cfg: the value is nested too deeply",
        "the key 7 is not a string",
    }
    assert {"3", "5", "9"} <= {node_id for node_id, _, _ in problems}


@pytest.mark.parametrize("inputs", [[], None, 5, "text"])
def test_inputs_that_are_no_object_are_named(inputs: Any) -> None:
    graph = txt2img(x={"class_type": "EmptyImage", "inputs": inputs})
    problem = next(one for one in checked(graph).errors if one.node_id == "x")
    assert (problem.type, "inputs is not an object" in problem.message) == ("malformed_node", True)


def test_a_missing_input_is_named_with_what_it_takes() -> None:
    graph = txt2img()
    del graph["3"]["inputs"]["steps"]
    problem = only(graph)
    assert str(problem).endswith(
        "input 'steps' is missing; it takes INT (1 to 10000), by default 20"
    )
    del graph["3"]["inputs"]["model"]
    assert "input 'model' is missing; it takes MODEL" in str(checked(graph))


def test_a_link_of_the_wrong_type_is_named_with_who_gives_the_right_one() -> None:
    problem = only(changed("3", model=["4", 1]))
    assert (problem.type, problem.input, problem.value) == (
        *("return_type_mismatch", "model"),
        ["4", 1],
    )
    assert problem.hint == "MODEL comes from node 4 'Checkpoint' (CheckpointLoaderSimple), slot 0"


def test_a_link_to_what_is_not_there_is_named() -> None:
    """And hides nothing: the server would tell the rest after that is mended."""
    graph = changed("3", model=["99", 0], steps=0)
    graph["6"]["inputs"]["clip"] = ["4", 7]
    found = {(p.node_id, p.input): str(p) for p in checked(graph).errors}
    assert found.keys() == {("3", "model"), ("3", "steps"), ("6", "clip")}
    assert "links to '99', which does not exist" in found["3", "model"].replace("node ", "")
    assert "slot 7 of node 4 'Checkpoint'" in found["6", "clip"]
    assert "its outputs are: 'MODEL', 'CLIP', 'VAE'" in found["6", "clip"]


def test_links_that_are_never_sent_are_named() -> None:
    """Servers accept a slot below 0 and a link in an input that they do not know."""
    graph = changed("3", model=["4", -3], speed=["99", 0])
    report = checked(graph)
    assert report.accepted
    assert [(p.type, p.input) for p in report.errors] == [
        ("not_sendable", "model"),
        ("not_sendable", "speed"),
    ]


@pytest.mark.parametrize("version", ["0.3.75", "0.28.1"])
def test_a_circle_is_named_once_with_its_way(version: str) -> None:
    """Old servers refuse it without a word, or run the other outputs."""
    graph = {
        "1": node("ImageInvert", "A", image=["2", 0]),
        "2": node("ImageInvert", "B", image=["1", 0]),
        "3": node("PreviewImage", images=["2", 0]),
    }
    report = check(graph, definitions_of(version))
    (problem,) = report.errors
    assert (problem.type, report.accepted) == ("dependency_cycle", False)
    assert "the links go in a circle: node " in problem.message
    assert "node 1 'A' (ImageInvert) -> " in problem.message or "-> node 1 'A'" in problem.message
    graph["4"] = node("EmptyImage", width=64, height=64, batch_size=1, color=0)
    graph["5"] = node("PreviewImage", images=["4", 0])
    report = check(graph, definitions_of(version))
    assert [one.type for one in report.errors] == ["dependency_cycle"]
    assert report.accepted


def test_several_circles_are_all_named() -> None:
    graph = {}
    for n in range(3):
        graph[f"a{n}"] = node("ImageInvert", image=[f"b{n}", 0])
        graph[f"b{n}"] = node("ImageInvert", image=[f"a{n}", 0])
        graph[f"c{n}"] = node("PreviewImage", images=[f"a{n}", 0])
    assert [p.type for p in checked(graph).errors] == ["dependency_cycle"] * 3


def test_of_very_many_circles_ten_are_named() -> None:
    """Each has to be looked for in all of the graph."""
    graph = {}
    for n in range(15):
        graph[f"a{n}"] = node("ImageInvert", image=[f"b{n}", 0])
        graph[f"b{n}"] = node("ImageInvert", image=[f"a{n}", 0])
        graph[f"c{n}"] = node("PreviewImage", images=[f"a{n}", 0])
    named = [p.type for p in checked(graph).errors].count("dependency_cycle")
    assert 10 <= named <= 11  # the server itself names one


def test_no_output_node_hides_nothing() -> None:
    graph = changed("3", steps=0)
    del graph["9"]
    first, second = checked(graph).errors
    assert (first.type, first.node_id) == ("prompt_no_outputs", None)
    assert (second.type, second.named_by_server) == ("value_smaller_than_min", False)


def test_a_part_that_cannot_run_is_an_error_though_the_server_accepts_the_rest() -> None:
    graph = txt2img(a=node("ImageInvert"), b=node("PreviewImage", images=["a", 0]))
    report = checked(graph)
    assert (report.accepted, report.ok) == (True, False)
    assert report.errors[0].input == "image"
    assert checked(txt2img()).accepted


def test_targets_choose_what_counts() -> None:
    graph = Workflow(txt2img(a=node("ImageInvert"), b=node("PreviewImage", images=["a", 0])))
    assert graph.check(with_files(), targets=["9"]).ok
    assert not graph.check(with_files(), targets=["b"]).accepted
    (problem,) = graph.check(with_files(), targets=["3"]).errors[:1]
    assert problem.message == "none of the targets is an output node"


def test_a_misspelt_optional_input_is_a_warning() -> None:
    definitions = with_files()
    definitions["ImageInvert"]["input"]["optional"] = {"strength": ["FLOAT", {}]}
    image = node("EmptyImage", width=64, height=64, batch_size=1, color=0)
    invert = node("ImageInvert", image=["1", 0], strenght=1, upload="image")
    graph = {"1": image, "2": invert, "3": node("PreviewImage", images=["2", 0])}
    (problem,) = check(graph, definitions).problems
    assert (problem.severity, problem.type, problem.input) == (
        *("warning", "unknown_input"),
        "strenght",
    )
    assert problem.candidates == ("strength",)


def test_a_deprecated_class_is_a_warning() -> None:
    definitions = with_files()
    definitions["VAEDecode"]["deprecated"] = True
    (problem,) = check(txt2img(), definitions).problems
    assert (problem.severity, problem.type, problem.node_id) == ("warning", "node_deprecated", "8")


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        ({"1": None}, "node 1: the node is not an object: None"),
        ({"1": {"class_type": "PreviewImage"}}, "the node has no inputs"),
        ({"1": {"class_type": "PreviewImage", "inputs": 5}}, "inputs is not an object: 5"),
        ({"1": {"inputs": {}}}, "node 1: the node has no class_type"),
        ({"1": {"class_type": [], "inputs": {}}}, "node 1: the node has no class_type"),
        ({1: {"class_type": "PreviewImage", "inputs": {}}}, "the node id 1 is not a string"),
        ({}, "the workflow has no output node to run"),
    ],
)
def test_graphs_that_are_no_workflow_are_reported(graph: Any, words: str) -> None:
    report = checked(graph)
    assert not report.accepted
    assert words in str(report)


@pytest.mark.parametrize("graph", [None, [], 5, "text"])
def test_a_graph_without_nodes_is_an_error(graph: Any) -> None:
    with pytest.raises(WorkflowError, match="a dict of nodes by id"):
        checked(graph)


@pytest.mark.parametrize("definitions", [None, [], 5, "text"])
def test_wrong_definitions_are_an_error(definitions: Any) -> None:
    with pytest.raises(WorkflowError, match="GET /object_info"):
        Workflow(txt2img()).check(definitions)


# -- newer servers --------------------------------------------------------------------------


@functools.cache
def pairs() -> list[dict[str, Any]]:
    text = gzip.decompress((CONFORMANCE / "ui_to_api_0.28.1.jsonl.gz").read_bytes())
    return [json.loads(line) for line in text.splitlines()]


def resize(**inputs: Any) -> dict[str, Any]:
    """A node whose inputs depend on a choice, and one that takes any number of pictures."""
    return {
        "1": node("EmptyImage", width=64, height=64, batch_size=1, color=0),
        "2": node("ResizeImageMaskNode", input=["1", 0], scale_method="area", **inputs),
        "3": node("BatchImagesNode", **{"images.image0": ["1", 0], "images.image1": ["2", 0]}),
        "4": node("PreviewImage", images=["3", 0]),
    }


def test_inputs_that_depend_on_a_choice_are_checked() -> None:
    """They are there only with that choice."""
    definitions = definitions_of("0.28.1")
    factor = {"resize_type": "scale by multiplier", "resize_type.multiplier": 2.0}
    assert check(resize(**factor), definitions).problems == ()
    found = check(resize(**{**factor, "resize_type.multiplier": -1.0}), definitions).errors
    assert [(p.type, p.input) for p in found] == [
        ("value_smaller_than_min", "resize_type.multiplier")
    ]
    found = check(resize(resize_type="scale by multiplier"), definitions).errors
    assert [(p.type, p.input) for p in found] == [
        ("required_input_missing", "resize_type.multiplier")
    ]
    report = check(resize(resize_type="scale by luck"), definitions)
    assert report.accepted  # the server takes it, and fails later
    assert [(p.type, p.input) for p in report.problems] == [("value_not_in_list", "resize_type")]


def test_a_choice_that_the_server_does_not_check_is_a_warning() -> None:
    """Servers before 0.8 do not look at those of V3 nodes."""
    image = node("EmptyImage", width=64, height=64, batch_size=1, color=0)
    invert = node("ImageInvert", image=["1", 0], how="c")
    graph = {"1": image, "2": invert, "3": node("PreviewImage", images=["2", 0])}
    definitions = with_files()
    definitions["ImageInvert"]["input"]["required"]["how"] = ["COMBO", {"options": ["a", "b"]}]
    (problem,) = check(graph, definitions).problems
    assert (problem.severity, problem.type, problem.input) == (
        "warning",
        "value_not_in_list",
        "how",
    )
    definitions["ImageInvert"]["is_input_list"] = False  # as newer servers say
    (problem,) = check(graph, definitions).problems
    assert (problem.severity, problem.type, problem.input) == ("error", "value_not_in_list", "how")


def test_templates_that_the_page_converted_pass_on_a_newer_server() -> None:
    """But for files, which that server did not have, and two with an output that is gone."""
    definitions = definitions_of("0.28.1")
    of_files = {"value_not_in_list", "custom_validation_failed"}
    found = {
        (pair["name"], problem.type, problem.input)
        for pair in pairs()
        for problem in check(pair["api"], definitions).errors
        if pair["kind"] == "template" and problem.type not in of_files
    }
    assert found == {
        ("api_tripo3_0_text_to_model.json", "exception_during_validation", "mesh"),
        ("api_tripo_multiview_to_model.json", "exception_during_validation", "mesh"),
    }


class Server:
    """A server that has replaced a class, and is asked as a client is."""

    def __init__(self, definitions: dict[str, Any], replacements: Any = None) -> None:
        self.definitions = definitions
        self.replacements = replacements
        self.asked: list[Any] = []

    def node_definitions(
        self, classes: Collection[str] | None = None, *, refresh: bool = False
    ) -> Mapping[str, Any]:
        self.asked.append((classes if classes is None else sorted(classes), refresh))
        names = self.definitions if classes is None else classes
        return {n: self.definitions[n] for n in names if n in self.definitions}

    def get_node_replacements(self) -> Any:
        if self.replacements is None:
            raise NotSupported("none")
        return self.replacements


RULE = {
    "new_node_id": "ImageInvert",
    "old_node_id": "OldInvert",
    "input_mapping": [{"new_id": "image", "old_id": "picture"}],
    "output_mapping": [{"old_idx": 1, "new_idx": 0}],
}


def test_a_class_that_the_server_replaces_is_a_warning() -> None:
    """The new one is checked in its place."""
    image = node("EmptyImage", width=64, height=64, batch_size=1, color=0)
    old = node("OldInvert", "Old", picture=["1", 0])
    graph = {"1": image, "2": old, "3": node("PreviewImage", images=["2", 1])}
    report = check(graph, Server(with_files(), {"OldInvert": [RULE]}))
    assert report.accepted
    (problem,) = report.problems
    assert (problem.severity, problem.type, problem.node_id) == ("warning", "node_replaced", "2")
    assert "puts 'ImageInvert' in its place" in problem.message
    report = check(graph, Server(with_files()))
    assert [problem.type for problem in report.errors] == ["missing_node_type"]


def test_a_replacement_brings_values_and_moves_links_as_its_rule_says() -> None:
    """What a rule of a node pack leaves out stays out, and so does what it gets wrong."""
    rule = {
        **RULE,
        "new_node_id": "EmptyImage",
        "input_mapping": [
            *({"new_id": name, "set_value": 64} for name in ("width", "height")),
            {"new_id": "batch_size", "old_id": "count"},
            {"new_id": "color", "old_id": "no such input"},
            {"new_id": 5, "set_value": 1},
        ],
        "output_mapping": [{"old_idx": 0, "new_idx": "1"}, {"old_idx": 1, "new_idx": 0}],
    }
    graph = {"1": node("OldInvert", count=2), "2": node("PreviewImage", images=["1", 1]), "3": 5}
    report = check(graph, Server(with_files(), {"OldInvert": [rule]}))
    found = {(one.node_id, one.type, one.input) for one in report.problems}
    assert ("1", "required_input_missing", "no such input") in found
    assert not report.accepted
    assert {kind for node_id, kind, _ in found if node_id == "2"} == set()
    graph["2"]["inputs"]["images"] = ["1", 0]  # which the rule does not move
    assert check(graph, Server(with_files(), {"OldInvert": [rule]})).problems == report.problems


def test_a_node_that_the_server_cannot_replace_is_one_error() -> None:
    """Without an input that the rule takes over, the server answers 500 to the whole prompt."""
    rules = {"OldInvert": [RULE]}
    graph = {"1": node("OldInvert", "Old"), "2": node("PreviewImage", images=["1", 1])}
    report = check(graph, Server(with_files(), rules))
    assert not report.accepted
    (problem,) = report.problems
    assert (problem.type, problem.node_id, problem.input) == (
        "required_input_missing",
        "1",
        "picture",
    )
    assert "cannot put 'ImageInvert' in its place" in problem.message
    assert not problem.named_by_server
    graph["3"] = node("PreviewImage", images=["9", 0])  # what else is wrong is told, too
    found = [one.node_id for one in check(graph, Server(with_files(), rules)).errors]
    assert found == ["1", "3"]


def test_a_class_that_newer_servers_replace_is_a_warning() -> None:
    """As far as the server lists them, which newer ones do."""
    definitions = copy.deepcopy(definitions_of("0.28.1"))
    graph = {
        "1": node("EmptyImage", width=64, height=64, batch_size=1, color=0),
        "2": node("ImageScaleBy", image=["1", 0], upscale_method="area", scale_by=2.0),
        "3": node("ImageBatch", image1=["2", 0], image2=["1", 0]),
        "4": node("PreviewImage", images=["3", 0]),
    }
    rules = {
        "ImageScaleBy": [{"new_node_id": "ResizeImageMaskNode"}],
        "ImageBatch": [{"new_node_id": "BatchImagesNode"}],
    }
    replaced, deprecated = check(graph, Server(definitions, rules)).problems
    assert (replaced.type, replaced.node_id) == ("node_replaced", "2")
    assert "'ResizeImageMaskNode'" in replaced.message
    assert (deprecated.type, deprecated.node_id) == ("node_deprecated", "3")
    assert deprecated.hint == "'BatchImagesNode' replaces it"
    assert [p.type for p in check(graph, definitions).problems] == ["node_deprecated"]


class Files(Server):
    """A server that lists the files at the top of its folders."""

    def __init__(self, **files: list[str]) -> None:
        super().__init__(definitions_of("0.28.1"))
        self.files = files

    def get_internal_files(self, type: str) -> list[str]:
        self.asked.append(type)
        if type not in self.files:
            raise NotSupported("none")
        return self.files[type]


def picture(class_type: str, name: str) -> dict[str, Any]:
    """A workflow that shows a picture of the server."""
    return {
        "1": node(class_type, image=name),
        "2": node("PreviewImage", images=["1", 0]),
    }


@pytest.mark.parametrize(
    ("name", "is_there"),
    [
        ("a.png [output]", True),
        ("gone.png [output]", False),
        ("b.png [temp]", True),
        ("gone.png [temp]", False),
        ("c.png [input]", True),
        ("c.png", True),
        ("gone.png", False),
        ("sub/gone.png [output]", True),  # no server lists subfolders
    ],
)
def test_files_are_looked_for_in_the_folder_of_their_name(name: str, is_there: bool) -> None:
    """LoadImageOutput has a list that the browser asks for; other loaders take such names, too."""
    server = Files(output=["a.png"], temp=["b.png"], input=["c.png"])
    assert check(picture("LoadImageOutput", name), server).accepted is is_there
    if name.endswith(("[output]", "[temp]")):
        assert check(picture("LoadImage", name), server).accepted is is_there
    assert check(picture("LoadImageOutput", name), Files()).accepted  # it does not tell
    assert check(picture("LoadImageOutput", name), definitions_of("0.28.1")).accepted


def test_the_files_of_a_server_are_asked_for_when_a_workflow_names_one() -> None:
    """And once, though a missing file is looked for again."""
    server = Files(output=["a.png"])
    check(picture("LoadImage", "c.png"), server)
    assert "output" not in server.asked
    graph = {
        **picture("LoadImage", "a.png [output]"),
        "3": node("LoadImage", image="a.png [output]"),
    }
    check({**graph, "4": node("PreviewImage", images=["3", 0])}, server)
    assert server.asked.count("output") == 1


@pytest.mark.parametrize("suffix", ["", " [output]", " [input]"])
@pytest.mark.parametrize("name", ["../x.png", "../../etc/passwd", "sub/../../x.png", "/etc/passwd"])
def test_files_outside_of_the_folder_are_not_there(name: str, suffix: str) -> None:
    """Servers since 0.28 do not find them; older ones may."""
    graph = picture("LoadImage", name + suffix)
    assert not check(graph, definitions_of("0.28.1")).accepted
    assert check(graph, definitions_of("0.3.75")).accepted
    assert check(picture("LoadImage", "sub/../sub/x.png" + suffix), definitions_of("0.28.1")).ok


def test_null_that_the_server_takes_is_a_warning() -> None:
    """A text becomes "None", a switch false, and a node with its own check gets null."""
    definitions = {
        **definitions_of("0.28.1"),
        "Switch": {"input": {"required": {"on": ["BOOLEAN", {}]}}, "output": ["*"]},
    }
    for class_type, name in (
        ("CLIPTextEncode", "text"),
        ("Switch", "on"),
        ("CustomCombo", "choice"),
        ("SelectModelDevice", "device"),
    ):
        graph = {
            "1": node(class_type, **{name: None}),
            "2": node("PreviewAny", source=["1", 0]),
        }
        (problem,) = (one for one in check(graph, definitions) if one.input == name)
        assert (problem.severity, problem.type) == ("warning", "invalid_input_type")
        assert f"{name} is null" in problem.message
        graph["1"]["inputs"][name] = "x"
        found = [one for one in check(graph, definitions) if one.input == name]
        assert not [one for one in found if one.type == "invalid_input_type"]


@pytest.mark.parametrize(
    ("module", "name", "value", "accepted"),
    [
        ("custom_nodes.pack", "mood", "calm", True),
        ("custom_nodes.pack", "mood", "model.safetensors", False),
        ("custom_nodes.pack", "lora_name", "calm", False),
        ("comfy_extras.nodes_x", "mood", "calm", False),
        ("nodes", "mood", "calm", False),
    ],
)
@pytest.mark.parametrize("form", [[[], {}], ["COMBO", {"options": []}]])
def test_choices_of_a_node_pack_that_are_not_listed_are_taken(
    module: str, name: str, value: str, accepted: bool, form: Any
) -> None:
    """The pack checks them itself, or nobody could use it; files that are missing are missing."""
    definition = {"input": {"required": {name: form}}, "output": ["*"], "python_module": module}
    definitions = {**definitions_of("0.28.1"), "Pack": definition}
    graph = {"1": node("Pack", **{name: value}), "2": node("PreviewAny", source=["1", 0])}
    report = check(graph, definitions)
    assert (report.accepted, report.ok) == (accepted, accepted)


def test_only_what_is_needed_is_asked_for() -> None:
    """Classes of the workflow; all of them, to find similar names, only if one is missing."""
    server = Server(with_files())
    check(txt2img(), server)
    assert server.asked == [(sorted(GRAPH_CLASSES), False)]
    check(txt2img(x=node("Nothing")), server)
    assert server.asked[2] == (None, False)


def test_a_file_that_came_since_is_found() -> None:
    """Definitions may be older than an upload: the server is asked again before it is blamed."""
    old, new = with_files(ckpt_name=["other.ckpt"]), with_files()

    class Later(Server):
        def node_definitions(
            self, classes: Collection[str] | None = None, *, refresh: bool = False
        ) -> Mapping[str, Any]:
            self.definitions = new if refresh else self.definitions
            return super().node_definitions(classes, refresh=refresh)

    server = Later(old)
    assert check(txt2img(), server).ok
    assert [refresh for _, refresh in server.asked] == [False, True]


# -- bounds -----------------------------------------------------------------------------------


@functools.cache
def published() -> list[dict[str, Any]]:
    """Some workflows of templates, as a server takes them."""
    definitions = definitions_of("0.3.75")
    lines = gzip.decompress((CONFORMANCE / "ui_to_api.jsonl.gz").read_bytes()).splitlines()
    return [fitted(json.loads(line)["api"], definitions) for line in lines[::7]]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_an_unknown_class_hides_nothing(way: Callable[..., Any]) -> None:
    """What is wrong with a workflow is all there beside it, though the server stops there."""
    definitions = definitions_of("0.3.75")
    for mutant in mutants(random.Random(7), published(), definitions, examples(16), ways=[way]):
        alone = places(check(mutant.graph, definitions))
        beside = places(check({"new": node("NoSuchNodeAtAll"), **mutant.graph}, definitions))
        differing = alone ^ beside
        differing -= {(None, None), ("new", None)}  # it may be an output, for all that is known
        if mutant.kind == "no_inputs":  # of a list the server says what is not in it
            differing = {place for place in differing if place[0] != mutant.place[0]}
        assert not differing


def places(report: CheckReport) -> set[tuple[str | None, str | None]]:
    return {(problem.node_id, problem.input) for problem in report.errors}


def test_a_chain_of_any_length_is_checked() -> None:
    count = 5000
    graph = {str(n): node("ImageInvert", image=[str(n - 1), 0]) for n in range(1, count)}
    graph["0"] = node("EmptyImage", width=-1, height=64, batch_size=1, color=0)
    graph["end"] = node("PreviewImage", images=[str(count - 1), 0])
    assert only(graph).input == "width"


def test_many_faults_take_no_more_than_their_number() -> None:
    """Neither the outputs that depend on each, nor similar names, are looked for every time."""
    graph: dict[str, Any] = {}
    for n in range(3000):
        graph[f"a{n}"] = node("ImageInvert", image=["gone", 0])
        graph[f"b{n}"] = node("PreviewImage", images=[f"a{n}", 0])
        graph[f"c{n}"] = node(f"NoSuchNode{n}")
    assert len(checked(graph).errors) == 6000


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
names = st.sampled_from(["input", "required", "optional", "output", "output_node", "a", "b", "INT"])
shaped = st.recursive(
    json_values | st.sampled_from(["INT", "COMBO", "COMFY_DYNAMICCOMBO_V3", "COMFY_AUTOGROW_V3"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(names, inner)
        | st.fixed_dictionaries({"input": st.dictionaries(names, inner), "output": inner})
    ),
    max_leaves=12,
)
links = st.tuples(st.sampled_from("123"), st.integers(-2, 2)).map(list)
nodes = json_values | st.fixed_dictionaries(
    {"class_type": st.sampled_from("ABC") | json_values},
    optional={
        "inputs": st.dictionaries(names, links | json_values) | json_values,
        "_meta": json_values,
    },
)


@settings(max_examples=examples(100), suppress_health_check=[HealthCheck.too_slow])
@given(
    graph=json_values | st.dictionaries(st.sampled_from("1234"), nodes),
    definitions=json_values | st.dictionaries(st.sampled_from("ABC"), shaped),
    replacements=json_values | st.dictionaries(st.sampled_from("ABC"), st.lists(shaped)),
)
def test_any_json_gives_a_report_or_a_workflow_error(
    graph: Any, definitions: Any, replacements: Any
) -> None:
    """As workflow and as definitions."""
    sources = [definitions]
    if isinstance(definitions, dict):
        sources.append(Server(definitions, replacements))
    for source in sources:
        try:
            report = check(graph, source)
        except WorkflowError:
            continue
        assert str(report)
        assert all(attrs.asdict(problem) for problem in report)
        json.dumps(report.to_dict())


@settings(max_examples=examples(100), suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_value_in_a_real_workflow_gives_a_report(data: st.DataObject) -> None:
    graph = txt2img()
    for _ in range(data.draw(st.integers(1, 4))):
        where = graph[data.draw(st.sampled_from(sorted(graph)))]["inputs"]
        where[data.draw(st.sampled_from([*where, "a"]))] = data.draw(json_values | links)
    assert str(checked(graph))
