"""The server's validation as a pure function, against what real servers answered."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import comfy_client
from comfy_client.workflow.validate import ServerVersion, no_prompt, validate
from tests.helpers.long import few
from tests.hostile.test_bounds import within

RECORDINGS = Path(__file__).parents[1] / "recordings" / "validation"
RECORDED: dict[str, Any] = json.loads((RECORDINGS / "0.3.75.json").read_text(encoding="utf-8"))
OLD: dict[str, Any] = json.loads((RECORDINGS / "2024-03.json").read_text(encoding="utf-8"))
PACKAGE = Path(comfy_client.__file__).parent
SHIPPED = PACKAGE / "testing" / "definitions.json"
FILES = ["testbed.png", "testbed_broken.png"]


def load_definitions() -> dict[str, Any]:
    """The shipped definitions with files, as on the server that was recorded."""
    definitions: dict[str, Any] = json.loads(SHIPPED.read_text(encoding="utf-8"))
    definitions["LoadImage"]["input"]["required"]["image"][0] = FILES
    definitions["LoadImageMask"]["input"]["required"]["image"][0] = FILES
    definitions["CheckpointLoaderSimple"]["input"]["required"]["ckpt_name"][0] = ["tiny.ckpt"]
    return definitions


class LoadImage:
    """The check of LoadImage and LoadImageMask, as ComfyUI has it."""

    @classmethod
    def VALIDATE_INPUTS(cls, image: str) -> bool | str:
        name = image.removesuffix("[input]").strip() if image.endswith("[input]") else image
        return name in FILES or f"Invalid image file: {image}"


DEFINITIONS = load_definitions()
CHECKS = {"LoadImage": LoadImage.VALIDATE_INPUTS}
SCALE = {"upscale_method": "bilinear", "width": 32, "height": 32, "crop": "disabled"}


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def canvas(**inputs: Any) -> dict[str, Any]:
    return node("EmptyImage", **{"width": 64, "height": 64, "batch_size": 1, "color": 0} | inputs)


def save(source: Any) -> dict[str, Any]:
    return node("SaveImage", images=source, filename_prefix="x")


def scale(source: Any, **inputs: Any) -> dict[str, Any]:
    return node("ImageScale", image=source, **SCALE | inputs)


def definition(output: list[Any], output_node: bool = False, **inputs: Any) -> dict[str, Any]:
    return {"input": {"required": inputs}, "output": output, "output_node": output_node}


def errors_of(graph: Any, node_id: str, **options: Any) -> list[dict[str, Any]]:
    """The errors of the one node that is blamed."""
    result = validate(graph, options.pop("definitions", DEFINITIONS), **options)
    assert list(result.node_errors) == [node_id]
    assert isinstance(result.node_errors, dict)
    errors: list[dict[str, Any]] = result.node_errors[node_id]["errors"]
    return errors


def normal(body: Any) -> Any:
    """A body without tracebacks, and the errors of a node in a fixed order."""
    body = copy.deepcopy(body)
    if isinstance(body["node_errors"], dict):
        for entry in body["node_errors"].values():
            entry["errors"].sort(key=lambda error: (error["type"], error["details"]))
            for error in entry["errors"]:
                frames = error["extra_info"].pop("traceback", [])
                assert all(isinstance(frame, str) for frame in frames)
    return body


# -- what real servers said -------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(RECORDED))
def test_says_what_0_3_75_said(name: str) -> None:
    """Status, error and node_errors of every recorded refusal are the same."""
    recorded = RECORDED[name]
    if "workflow" in recorded:
        result = validate(recorded["workflow"], DEFINITIONS, extra_checks=CHECKS)
    else:
        result = no_prompt()
    body = {"error": result.error, "node_errors": result.node_errors}
    assert result.status == recorded["status"]
    assert normal(body) == normal(recorded["body"])
    json.dumps(body)


@pytest.mark.parametrize("name", ["invalid_values", "no_outputs", "no_prompt", "unknown_class"])
def test_says_what_the_server_of_march_2024_said(name: str) -> None:
    """The oldest server quotes inputs as they are written, answers lists, and can crash."""
    definitions = json.loads(json.dumps(DEFINITIONS))
    for each in definitions.values():
        for spec in each["input"]["required"].values():
            if len(spec) > 1:
                spec[1].pop("control_after_generate", None)
                if not spec[1]:
                    del spec[1:]
    recorded = OLD[name]
    if name == "no_prompt":
        result = no_prompt("2024-03")
    else:
        result = validate(RECORDED[name]["workflow"], definitions, version="2024-03")
    assert result.status == recorded["status"]
    if result.status == 500:
        assert result.crash == "KeyError: 'EmptyImageX'"
    else:
        body = {"error": result.error, "node_errors": result.node_errors}
        assert normal(body) == normal(recorded["body"])


# -- answers that are not refusals ------------------------------------------------------


def test_a_valid_graph_has_no_errors() -> None:
    """A graph without faults runs all its outputs."""
    graph = {"1": canvas(), "2": save(["1", 0]), "3": node("PreviewAny", source=["1", 0])}
    result = validate(graph, DEFINITIONS)
    assert (result.ok, result.status, result.error) == (True, 200, None)
    assert result.node_errors == {}
    assert result.outputs_to_execute == ["2", "3"]


def test_a_single_valid_output_is_enough() -> None:
    """The bad output is reported beside a 200, and left out of what is executed."""
    graph = {
        "1": canvas(),
        "2": save(["1", 0]),
        "3": scale(["1", 0], width=-5),
        "4": save(["3", 0]),
    }
    result = validate(graph, DEFINITIONS)
    assert result.status == 200
    assert result.outputs_to_execute == ["2"]
    assert isinstance(result.node_errors, dict)
    assert result.node_errors["3"]["dependent_outputs"] == ["4"]
    assert result.node_errors["3"]["class_type"] == "ImageScale"


def test_numeric_strings_are_converted_in_the_answer_only() -> None:
    """The queued graph has numbers, texts and plain values; the caller's graph is untouched."""
    graph = {
        "1": canvas(width="64", height=64.9, color=True),
        "2": scale(["1", 0], width={"__value__": "8"}),
        "3": node("SaveImage", images=["2", 0], filename_prefix={"__value__": [1, 2]}),
    }
    before = copy.deepcopy(graph)
    result = validate(graph, DEFINITIONS)
    assert result.ok
    assert graph == before
    assert result.graph["1"]["inputs"] == canvas(color=1)["inputs"]
    assert result.graph["2"]["inputs"]["width"] == 8
    assert result.graph["3"]["inputs"]["filename_prefix"] == "[1, 2]"


def test_targets_choose_the_outputs() -> None:
    """Of two outputs only the wanted one is looked at, and a target that is none is an error."""
    graph = {"1": canvas(), "2": save(["1", 0]), "3": save(["99", 0])}
    assert validate(graph, DEFINITIONS, targets=["2"]).node_errors == {}
    assert validate(graph, DEFINITIONS, targets=["3"]).status == 400
    result = validate(graph, DEFINITIONS, targets=["1"])
    assert isinstance(result.error, dict)
    assert result.error["type"] == "prompt_no_outputs"


# -- single rules -----------------------------------------------------------------------


def test_details_name_the_reasons_of_outputs_only() -> None:
    """The summary joins what is wrong at output nodes, one to a line."""
    graph = {"1": canvas(), "2": save(["99", 0]), "3": node("SaveImage", images=["1", 0])}
    result = validate(graph, DEFINITIONS)
    assert isinstance(result.error, dict)
    assert result.error["details"] == (
        "Exception when validating node: '99'\nRequired input is missing: filename_prefix"
    )


def test_blame_spreads_to_outputs_looked_at_later() -> None:
    """As on the server, a node's dependent_outputs hold each bad output that came after it."""
    graph = {"1": save(["98", 0]), "2": save(["99", 0])}
    node_errors = validate(graph, DEFINITIONS).node_errors
    assert isinstance(node_errors, dict)
    assert node_errors["1"]["dependent_outputs"] == ["1", "2"]
    assert node_errors["2"]["dependent_outputs"] == ["2"]


@pytest.mark.parametrize(
    ("received", "wanted", "fits"),
    [
        ("INT", "INT,FLOAT", True),
        ("INT, STRING", "STRING", True),
        ("INT,STRING", "FLOAT,BOOLEAN", False),
        ("*", "IMAGE", True),
        ("IMAGE", "*", True),
        (["a", "b"], ["a", "b"], True),
        (["a", "b"], ["a"], False),
        ("COMBO", ["a"], False),
    ],
)
def test_types_of_a_link_must_overlap(received: Any, wanted: Any, fits: bool) -> None:
    """Unions fit when they share a type, and ``*`` fits all."""
    definitions = {"Give": definition([received]), "Take": definition([], True, x=[wanted])}
    graph = {"1": node("Give"), "2": node("Take", x=["1", 0])}
    assert validate(graph, definitions).ok is fits


@pytest.mark.parametrize(
    ("link", "kind", "text"),
    [
        (["99", 0], "KeyError", "'99'"),
        ([1, 0], "KeyError", "1"),
        (["1", 1], "IndexError", "tuple index out of range"),
        (["v3", 1], "IndexError", "list index out of range"),
        (["1", "0"], "TypeError", "tuple indices must be integers or slices, not str"),
        ([["1"], 0], "TypeError", "unhashable type: 'list'"),
    ],
)
def test_a_bad_link_is_an_exception(link: list[Any], kind: str, text: str) -> None:
    """The exception that Python raises in the server is the answer."""
    graph = {"1": canvas(), "v3": node("PrimitiveInt", value=1), "2": save(link)}
    (error,) = errors_of(graph, "2")
    assert error["type"] == "exception_during_validation"
    assert error["details"] == text
    assert error["extra_info"]["exception_type"] == kind


def test_an_exception_upstream_is_blamed_on_the_node_that_was_asked() -> None:
    """The node with the bad link is blamed, with the words of the node that takes from it."""
    graph = {"1": node("ImageInvert", image=["99", 0]), "2": save(["1", 0])}
    (error,) = errors_of(graph, "1")
    assert error["type"] == "exception_during_inner_validation"
    assert error["extra_info"]["input_name"] == "images"
    assert error["extra_info"]["linked_node"] == ["1", 0]


def test_a_circle_is_invalid_without_a_message_and_keeps_other_errors() -> None:
    """Nodes in a circle are blamed only for what else is wrong with them."""
    graph = {"1": scale(["2", 0]), "2": scale(["1", 0], width=-1), "3": save(["1", 0])}
    assert [error["type"] for error in errors_of(graph, "2")] == ["value_smaller_than_min"]
    assert validate({"1": scale(["1", 0]), "3": save(["1", 0])}, DEFINITIONS).node_errors == {}


def test_in_a_circle_an_unwrapped_list_becomes_a_link() -> None:
    """Going round, the server meets the list that it has unwrapped, and takes it for a link."""
    graph = {"1": scale(["1", 0], width={"__value__": [1, 2]}), "3": save(["1", 0])}
    (error,) = errors_of(graph, "1")
    assert (error["type"], error["details"]) == ("exception_during_inner_validation", "1")


def test_a_long_chain_is_no_problem() -> None:
    """5,000 nodes in a row do not fill the stack."""
    graph: dict[str, Any] = {"0": canvas()}
    for number in range(1, 5000):
        graph[str(number)] = node("ImageInvert", image=[str(number - 1), 0])
    graph["out"] = save(["4999", 0])
    assert validate(graph, DEFINITIONS).ok
    graph["0"] = canvas(width=0)
    assert [error["type"] for error in errors_of(graph, "0")] == ["value_smaller_than_min"]


@pytest.mark.parametrize(
    "graph", [None, 5, [{}], "text", {"1": 5}, {"1": None}, {"1": {"class_type": []}}]
)
def test_json_that_breaks_validation_is_a_500(graph: Any) -> None:
    """JSON that the server does not expect is not its 400."""
    result = validate(graph, DEFINITIONS)
    assert (result.ok, result.status, result.error) == (False, 500, None)
    assert result.crash


def test_an_unknown_version_is_refused() -> None:
    """The error names the known ones."""
    with pytest.raises(ValueError, match=r"2024-03, 0\.3\.75"):
        validate({}, DEFINITIONS, version="0.3.99")  # type: ignore[arg-type]


# -- a node's own check -----------------------------------------------------------------


def test_validate_inputs_that_raises_hides_the_other_errors() -> None:
    """LoadImage without its image says what Python says about the missing argument."""
    graph = {"1": node("LoadImage"), "2": save(["1", 0])}
    (error,) = errors_of(graph, "1", extra_checks=CHECKS)
    assert error["details"] == (
        "LoadImage.VALIDATE_INPUTS() missing 1 required positional argument: 'image'"
    )


def test_validate_inputs_takes_over_range_and_choices() -> None:
    """The inputs it names are not checked for range and choices, others are."""
    definitions = {
        "A": definition(
            [], True, a=["INT", {"min": 5}], b=["INT", {"min": 5}], c=[["x"]], link=["IMAGE"]
        ),
        "B": definition(["IMAGE"]),
    }
    graph = {"0": node("B"), "1": node("A", a=1, b=1, c="y", link=["0", 0])}
    (error,) = errors_of(
        graph, "1", definitions=definitions, extra_checks={"A": lambda a, c: (a, c) == (1, "y")}
    )
    assert error["details"] == "b"

    def complain(**inputs: Any) -> str:
        return f"seen {inputs}"

    errors = errors_of(graph, "1", definitions=definitions, extra_checks={"A": complain})
    seen = "seen {'a': 1, 'b': 1, 'c': 'y', 'link': None}"
    assert [error["details"] for error in errors] == [
        f"{name} - {seen}" for name in ("a", "b", "c", "link")
    ]


def test_validate_inputs_can_judge_the_types_of_links() -> None:
    """With a parameter ``input_types`` no link is a mismatch in itself."""
    definitions = {"Take": definition([], True, x=["MASK"]), "Give": definition(["IMAGE"])}
    graph = {"1": node("Give"), "2": node("Take", x=["1", 0])}
    good = {"Take": lambda input_types: input_types == {"x": "IMAGE"}}
    assert validate(graph, definitions, extra_checks=good).ok
    bad = {"Take": lambda input_types: "no images here"}
    (error,) = errors_of(graph, "2", definitions=definitions, extra_checks=bad)
    assert error["details"] == "input_types - no images here"


# -- versions ---------------------------------------------------------------------------


def test_march_2024_looks_at_required_inputs_only() -> None:
    """Optional inputs pass unseen, and types must be equal."""
    definitions = {
        "Give": definition(["INT"]),
        "Take": definition([], True, x=["INT,FLOAT"]),
    }
    definitions["Take"]["input"]["optional"] = {"y": ["INT", {"min": 5}]}
    graph = {"1": node("Give"), "2": node("Take", x=["1", 0], y=1)}
    (error,) = errors_of(graph, "2", definitions=definitions, version="2024-03")
    assert error["details"] == "x, INT != INT,FLOAT"
    (error,) = errors_of(graph, "2", definitions=definitions)
    assert error["details"] == "y"


@pytest.mark.parametrize(("version", "ok"), [("0.3.75", True), ("0.8", False), ("0.28", False)])
def test_combo_choices_are_checked_since_0_8(version: ServerVersion, ok: bool) -> None:
    """The choices of the newer way to write a list count on newer servers."""
    definitions = {"A": definition([], True, x=["COMBO", {"options": ["a", "b"]}])}
    result = validate({"1": node("A", x="c")}, definitions, version=version)
    assert result.ok is ok
    if not ok:
        assert isinstance(result.error, dict)
        assert result.error["details"] == "Value not in list: x: 'c' not in ['a', 'b']"


def test_new_servers_have_other_words_for_unknown_classes() -> None:
    """``missing_node_type`` carries node id, class and title."""
    named = {"7": {"class_type": "Nope", "inputs": {}, "_meta": {"title": "My node"}}}
    error = validate(named, DEFINITIONS, version="0.28").error
    assert error == {
        "type": "missing_node_type",
        "message": "Node 'My node' not found. The custom node may not be installed.",
        "details": "Node ID '#7'",
        "extra_info": {"node_id": "7", "class_type": "Nope", "node_title": "My node"},
    }
    error = validate({"7": {"inputs": {}}}, DEFINITIONS, version="0.28").error
    assert isinstance(error, dict)
    assert error["type"] == "missing_node_type"
    assert error["message"].startswith("Node 'ID #7' has no class_type.")


def test_new_servers_report_circles() -> None:
    """Each node of the circle gets the way round, and keeps its own errors."""
    graph = {"1": scale(["2", 0]), "2": scale(["1", 0], width=-1), "3": save(["1", 0])}
    node_errors = validate(graph, DEFINITIONS, version="0.28").node_errors
    assert isinstance(node_errors, dict)
    assert {key: [e["type"] for e in value["errors"]] for key, value in node_errors.items()} == {
        "1": ["dependency_cycle"],
        "2": ["dependency_cycle", "value_smaller_than_min"],
    }
    error = node_errors["1"]["errors"][0]
    assert error["details"] == "1 (ImageScale) -> 2 (ImageScale) -> 1 (ImageScale)"
    assert error["extra_info"] == {"node_id": "1", "cycle_nodes": ["1", "2"]}


def test_needs_no_http_library() -> None:
    """The modules for workflows load neither requests nor websocket nor aiohttp."""
    code = (
        "import sys, types; package = types.ModuleType('comfy_client'); "
        f"package.__path__ = [{str(PACKAGE)!r}]; sys.modules['comfy_client'] = package; "
        "import comfy_client.workflow.validate, comfy_client.workflow.metadata; "
        "print({'requests', 'websocket', 'aiohttp'} & sys.modules.keys())"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "set()"


@pytest.mark.parametrize("version", few(["0.28", "2024-03", "0.3.75", "0.8"], 1))
def test_a_flood_of_wrong_nodes_is_answered_within_limits(version: ServerVersion) -> None:
    """Each names every output: a million names, and then no more, however many there are."""
    graph = {str(i): save([str(i), 0]) for i in range(20_000)}
    with within(30):
        result = validate(graph, DEFINITIONS, version=version)
        answer = json.dumps([result.error, result.node_errors])
    assert result.status == 400
    assert isinstance(result.node_errors, dict)
    assert len(result.node_errors) == 20_000
    assert len(answer) < 40_000_000


def test_a_circle_as_long_as_a_stack_is_named_and_a_longer_one_is_cut() -> None:
    """A real server has no room for it on its stack."""
    for length, named in ((999, 999), (5_000, 2)):
        graph = {str(i): scale([str((i + 1) % length), 0]) for i in range(length)}
        graph["end"] = save(["0", 0])
        result = validate(graph, DEFINITIONS, version="0.28")
        assert result.status == 400
        assert len(result.node_errors) == named


def test_targets_are_looked_up_and_not_searched() -> None:
    """Any number of outputs, any number of targets."""
    graph = {str(i): save([str(i), 0]) for i in range(20_000)}
    targets = [*map(str, range(20_000, 320_000)), ["1"], None, "7"]
    with within(20):
        result = validate(graph, DEFINITIONS, targets=targets)
    assert [*result.node_errors] == ["7"]
