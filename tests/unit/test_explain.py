"""Refusals of real servers in words; the recordings carry the server's version."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comfy_client.workflow.explain import explain_rejection, unknown_class

RECORDINGS = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted((Path(__file__).parents[1] / "recordings" / "validation").glob("*.json"))
}
REAL = RECORDINGS["0.3.75"]
#: The workflow of all recordings named "invalid_values".
INVALID = REAL["invalid_values"]["workflow"]
VERSIONS = sorted(RECORDINGS)


def told(case: str, **kw: Any) -> list[str]:
    """The lines for a case recorded from 0.3.75."""
    return explain_rejection(REAL[case]["body"], REAL[case]["workflow"], **kw).splitlines()


def node_error(kind: str, **info: Any) -> dict[str, Any]:
    """A body with one error, at the sampler."""
    fault = {"type": kind, "message": "Told", "details": "", "extra_info": info}
    return {
        "error": {"type": "prompt_outputs_failed_validation", "message": "", "details": ""},
        "node_errors": {
            "3": {"errors": [fault], "dependent_outputs": [], "class_type": "KSampler"}
        },
    }


def one(kind: str, **info: Any) -> str:
    """What is told about one error at the sampler."""
    who, _, text = explain_rejection(node_error(kind, **info), INVALID).partition(": ")
    assert who == "node 3 'Sampler' (KSampler)"
    return text


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_gets_the_same_words_for_the_same_faults(version: str) -> None:
    """One line a problem: node, title, class, input, value, and what is allowed."""
    assert explain_rejection(RECORDINGS[version]["invalid_values"]["body"], INVALID).split(
        "\n"
    ) == [
        (
            "node 4 'Checkpoint' (CheckpointLoaderSimple): ckpt_name = 'no_such_model.ckpt' is not "
            "one of the choices; the choices are: 'tiny.ckpt'; "
            "the server looks in models/checkpoints"
        ),
        "node 6 'Positive prompt' (CLIPTextEncode): input 'text' is missing",
        "node 3 'Sampler' (KSampler): steps = 0 is too small; it takes INT (1 to 10000)",
    ]


@pytest.mark.parametrize("version", VERSIONS)
def test_no_output_and_no_workflow_are_explained_for_every_version(version: str) -> None:
    """``error`` may be a string, ``node_errors`` a list."""
    recorded = RECORDINGS[version]
    assert "no output node" in explain_rejection(recorded["no_outputs"]["body"], INVALID)
    assert "holds no workflow" in explain_rejection(recorded["no_prompt"]["body"], INVALID)


@pytest.mark.parametrize("version", [v for v in VERSIONS if v != "0.3.75"])
def test_dropped_outputs_of_an_answer_200_are_explained(version: str) -> None:
    """The server runs the rest."""
    case = RECORDINGS[version]["one_good_output"]
    assert case["status"] == 200
    text = explain_rejection(case["body"], {})
    assert text.startswith("node 3 (ImageScale): width = -5 is too small; it takes INT (0 to ")


@pytest.mark.parametrize("version", [v for v in VERSIONS if v not in ("2024-03", "0.3.75")])
def test_an_unknown_class_is_named(version: str) -> None:
    """It is only in the message, its node only in the details."""
    body = RECORDINGS[version]["unknown_class"]["body"]
    graph = {"3": {"class_type": "NoSuchNode", "inputs": {}}}
    assert unknown_class(body, graph) == "NoSuchNode"
    assert explain_rejection(body, graph) == (
        "node 3 (NoSuchNode): the server has no node class 'NoSuchNode'; "
        "is a custom node missing, or not loaded?"
    )


def test_the_names_nearest_to_an_unknown_class_are_listed() -> None:
    """Out of the classes that the server has."""
    assert told("unknown_class", node_names=["EmptyImage", "SaveImage", "VAEDecode"])[0] == (
        "node 1 'Canvas' (EmptyImageX): the server has no node class 'EmptyImageX'; "
        "nearest: 'EmptyImage'"
    )


def test_further_unknown_classes_are_listed_when_the_names_are_known() -> None:
    """The server itself stops at the first."""
    lines = told("unknown_class", node_names=iter(["EmptyImage"]))
    assert len(lines) == 2
    assert lines[1].startswith(
        "node 3 'Save' (SaveImage): the server has no node class 'SaveImage'"
    )


def test_a_server_that_answers_500_in_text_names_no_class() -> None:
    """2024-03; its text is passed on in one line."""
    case = RECORDINGS["2024-03"]["unknown_class"]
    assert case["status"] == 500
    assert unknown_class(case["body"], INVALID) is None
    assert explain_rejection(case["body"], INVALID) == (
        "the server says: 500 Internal Server Error Server got itself in trouble"
    )


@pytest.mark.parametrize(
    ("pack", "hint"),
    [
        ({"cnr_id": "fancy-pack"}, "it belongs to the node pack 'fancy-pack': install it"),
        ({"aux_id": "me/fancy"}, "it belongs to the node pack 'me/fancy': install it"),
        (
            {"cnr_id": "comfy-core"},  # which cannot be true of this server's version
            "the file counts it among ComfyUI's own: this server's ComfyUI is too old or too new",
        ),
    ],
)
def test_the_pack_noted_for_an_unknown_class_is_named(pack: dict[str, str], hint: str) -> None:
    """It writes one to each node that it exports."""
    graph = {"1": {"class_type": "NoSuchNode", "inputs": {}, "_meta": {"title": "X", **pack}}}
    body = RECORDINGS["0.3.75"]["unknown_class"]["body"]
    body = json.loads(json.dumps(body).replace("EmptyImageX", "NoSuchNode"))
    assert hint in explain_rejection(body, graph)


@pytest.mark.parametrize(
    ("name", "names", "near"),
    [
        ("KSamplr", ["KSampler"], True),  # missing
        ("KSamplller", ["KSampler"], False),  # two added, in a short name
        ("kasmpler", ["KSampler"], True),  # swapped
        ("EmptyLatntImge", ["EmptyLatentImage"], True),
        ("EmptyLatntImg", ["EmptyLatentImage"], False),
        ("SAMLoader", ["VAELoader", "LoraLoader", "KSampler"], False),
        ("FancyNoteNode", ["ComfyNotNode"], False),
        ("LoadWanVideoT5TextEncoder", ["GrokVideoExtendNode"], False),
        ("DualCLIPLoaderGGUF", ["DualCLIPLoader"], False),
        ("x" * 200, ["x" * 199], False),
    ],
)
def test_a_class_is_suggested_for_a_typing_mistake_only(
    name: str, names: list[str], near: bool
) -> None:
    """And never for a class whose pack the file names."""
    for pack in ({}, {"cnr_id": "comfy-core"}, {"cnr_id": "some-pack"}, {"aux_id": "me/some"}):
        graph = {"1": {"class_type": name, "inputs": {}, "_meta": pack}}
        about = {"class_type": name, "node_id": "1"}
        body = {"error": {"type": "missing_node_type", "extra_info": about}, "node_errors": {}}
        said = explain_rejection(body, graph, node_names=names)
        is_of_pack = "some" in str(pack)
        assert said.endswith(f"nearest: '{names[0]}'") == (near and not is_of_pack)
        assert ("nearest" in said) == (near and not is_of_pack)


def test_a_stack_overflow_of_the_server_is_explained_as_a_circle() -> None:
    """Those before 0.28 blame whatever node ends it."""
    body = node_error("exception_during_inner_validation", exception_type="RecursionError")
    (fault,) = body["node_errors"]["3"]["errors"]
    fault["details"] = "maximum recursion depth exceeded in comparison"
    circle = {key: {"class_type": "A", "inputs": {"x": [way, 0]}} for key, way in ("34", "43")}
    assert "the links go in a circle" in explain_rejection(body, circle)
    assert "circle" not in explain_rejection(body, INVALID)


def test_the_newest_servers_give_class_and_node_as_fields() -> None:
    """``missing_node_type``; their message names the title, not the class."""
    error: dict[str, Any] = {
        "type": "missing_node_type",
        "message": "Node 'Fancy' not found. The custom node may not be installed.",
        "details": "Node ID '#5'",
        "extra_info": {"node_id": "5", "class_type": "FancyNode", "node_title": "Fancy"},
    }
    graph = {"5": {"class_type": "FancyNode", "inputs": {}, "_meta": {"title": "Fancy"}}}
    body = {"error": error, "node_errors": {}}
    assert unknown_class(body, graph) == "FancyNode"
    assert explain_rejection(body, graph, node_names=["FancyNodes"]) == (
        "node 5 'Fancy' (FancyNode): the server has no node class 'FancyNode'; "
        "nearest: 'FancyNodes'"
    )
    error["extra_info"] = {}
    assert unknown_class(body, graph) == "FancyNode"


def test_a_server_may_hint_at_what_to_do_about_an_unknown_class() -> None:
    """As the embedded one does; then nobody is asked for a custom node."""
    error: dict[str, Any] = {
        "type": "invalid_prompt",
        "message": "Cannot execute because node Fancy does not exist.",
        "details": "Node ID '#5'",
        "extra_info": {"hint": "have it made"},
    }
    graph = {"5": {"class_type": "Fancy", "inputs": {}}}
    assert explain_rejection({"error": error, "node_errors": {}}, graph) == (
        "node 5 (Fancy): the server has no node class 'Fancy'\nhave it made"
    )
    error["extra_info"]["hint"] = "x" * 5000
    assert len(explain_rejection({"error": error}, graph)) < 1500


@pytest.mark.parametrize(
    ("note", "told"),
    [
        (
            "the same with a title",
            (
                "node 1 'My gone node' (NoSuchNode): the server has no node class 'NoSuchNode'; "
                "is a custom node missing, or not loaded?"
            ),
        ),
        ("no class_type", "node 1: the node has no class_type"),
        ("class_type null", "node 1: the node has no class_type"),
        (
            "a ring of two nodes",
            (
                "node 2 (ImageInvert): the links go in a circle: node 2 (ImageInvert) -> "
                "node 1 (ImageInvert) -> node 2 (ImageInvert)"
            ),
        ),
        (
            "a ring beside a good output",
            (
                "node 1 (ImageInvert): the links go in a circle: "
                "node 1 (ImageInvert) -> node 1 (ImageInvert)"
            ),
        ),
        (
            "dynamic combo: no sub-input",
            "node 2 (ResizeImageMaskNode): input 'resize_type.multiplier' is missing",
        ),
        (
            "bad combos: old style list, V3 COMBO, too many choices",
            (
                "node 2 (ImageScale): crop = 5 is not one of the choices; the choices are: "
                "'disabled', 'center'\n"
                "node 2 (ImageScale): upscale_method = 'a' is not one of the choices; the choices "
                "are: 'nearest-exact', 'bilinear', 'area', 'bicubic', 'lanczos'\n"
                "node 1 (KSamplerSelect): sampler_name = 'nope' is not one of the choices; the "
                "server has 44, too many to list; see get_node_defs('KSamplerSelect')"
            ),
        ),
    ],
)
def test_refusals_of_a_server_of_2026_are_explained(note: str, told: str) -> None:
    """Each once, as recorded from 0.28.1."""
    path = Path(__file__).parents[1] / "recordings" / "0.28.1" / "validation_new.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    start = next(n for n, row in enumerate(rows) if row.get("text") == note)
    row = next(row for row in rows[start:] if row.get("path") == "/prompt")
    assert explain_rejection(row["response"], row["request"]["prompt"]) == told


def test_a_class_that_the_server_replaced_is_named() -> None:
    """Its list of replacements says nothing of the inputs of this one, so all of them are lost."""
    path = Path(__file__).parents[1] / "recordings" / "0.28.1" / "node_replacements.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    (body,) = [row["response"] for row in rows if row.get("status") == 400]
    graph = {"20": {"class_type": "ConditioningAverage ", "inputs": {"conditioning_from": 1}}}
    lines = explain_rejection(body, graph).splitlines()
    assert len(lines) == 3
    assert lines[1] == (
        "node 20 (ConditioningAverage): input 'conditioning_from' is missing; "
        "the server put 'ConditioningAverage' in its place"
    )


def test_wrong_choices_among_several_are_named() -> None:
    """Which are only in the details, one ``repr`` each; the value has the good ones too."""
    fault = node_error(
        "value_not_in_list",
        input_name="styles",
        input_config=["COMBO", {"options": ["a", "b"], "multiselect": True}],
        received_value=["a", "x", "y"],
    )
    (told,) = fault["node_errors"]["3"]["errors"]
    told["details"] = "styles: 'x', 'y' not in ['a', 'b']"
    assert explain_rejection(fault, INVALID).partition(": ")[2] == (
        "styles: 'x', 'y' not among the choices; the choices are: 'a', 'b'"
    )


def test_a_wrong_dynamic_input_is_explained_with_its_value() -> None:
    """From the workflow, for the server sends none."""
    fault = node_error("invalid_dynamic_input", input_name="steps")
    (told,) = fault["node_errors"]["3"]["errors"]
    told["details"] = "steps: no such option"
    assert explain_rejection(fault, INVALID).partition(": ")[2] == (
        "steps = 0 does not fit this node: no such option"
    )


def test_a_node_that_refuses_its_inputs_as_a_whole_names_none() -> None:
    """Its own check took none by name."""
    assert one("custom_validation_failed") == "the node refuses its inputs"


def test_refusals_for_other_reasons_have_no_unknown_class() -> None:
    """Neither a missing ``class_type`` nor a wrong value, nor anything odd."""
    for case in REAL.values():
        if case is not REAL["unknown_class"]:
            assert unknown_class(case["body"], case.get("workflow", {})) is None
    bodies: tuple[object, ...] = (
        None,
        "text",
        [],
        {"error": "no prompt"},
        {"error": {"type": ["x"]}},
    )
    for body in bodies:
        assert unknown_class(body, {}) is None


@pytest.mark.parametrize(
    ("case", "lines"),
    [
        (
            "three_in_two_nodes",
            [
                (
                    "node 1 'Canvas' (EmptyImage): height = 'abc' cannot be converted to INT; "
                    "it takes INT (1 to 16384)"
                ),
                "node 1 'Canvas' (EmptyImage): width = 0 is too small; it takes INT (1 to 16384)",
                (
                    "node 2 'Scale' (ImageScale): upscale_method = 'bilinaer' is not one of the "
                    "choices; nearest: 'bilinear'"
                ),
            ],
        ),
        (
            "too_big",
            ["node 1 'Canvas' (EmptyImage): width = 99999 is too big; it takes INT (1 to 16384)"],
        ),
        (
            "long_combo",
            [
                (
                    "node 3 'Sampler' (KSampler): sampler_name = 'eular' is not one of the "
                    "choices; the server has 42, too many to list; see get_node_defs('KSampler')"
                )
            ],
        ),
        (
            "bad_link",
            [
                (
                    "node 3 'Save' (SaveImage): images = ['1', 0, 0] is not a link: "
                    '[node id, slot]; a literal list is sent as {"__value__": [...]}'
                )
            ],
        ),
        (
            "type_mismatch",
            [
                (
                    "node 3 'Save' (SaveImage): input 'images' takes IMAGE, but node 5 'Size' "
                    "(EmptyLatentImage), slot 0, gives LATENT"
                )
            ],
        ),
        (
            "no_such_file",
            [
                (
                    "node 1 'Photo' (LoadImage): the node refuses input 'image': "
                    "Invalid image file: no_such.png; to upload a file of this machine, "
                    "set Path('no_such.png'), or give --input to the command"
                )
            ],
        ),
        (
            "dangling",
            ["node 3 'Save' (SaveImage): input 'images' links to node '99', which does not exist"],
        ),
        (
            "dangling_inner",
            ["node 2 'Scale' (ImageScale): input 'image' links to node '99', which does not exist"],
        ),
        (
            "slot_out_of_range",
            [
                (
                    "node 3 'Save' (SaveImage): a link asks for an output slot that does not exist "
                    "(images: slot 5 of node 1 'Canvas' (EmptyImage))"
                )
            ],
        ),
        ("no_inputs_key", ["node 3 (SaveImage): the node has no inputs"]),
        ("no_class_type", ["node 1: the node has no class_type"]),
        (
            "cycle",
            [
                (
                    "node 1 'Scale' (ImageScale): the links go in a circle: node 1 'Scale' "
                    "(ImageScale) -> node 2 'Scale' (ImageScale) -> node 1 'Scale' (ImageScale)"
                )
            ],
        ),
    ],
)
def test_every_kind_of_refusal_is_explained(case: str, lines: list[str]) -> None:
    """As recorded from a real server."""
    assert told(case) == lines


@pytest.mark.parametrize(
    "config", [[["euler", "ddim"], {}], ["COMBO", {"options": ["euler", "ddim"]}]]
)
def test_choices_are_found_in_both_shapes(config: Any) -> None:
    """A list in place of the type, or ``COMBO`` with options."""
    text = one("value_not_in_list", input_name="s", input_config=config, received_value="eulr")
    assert text == "s = 'eulr' is not one of the choices; nearest: 'euler'"


def test_an_empty_list_of_choices_is_explained() -> None:
    """No model of that kind is installed."""
    text = one("value_not_in_list", input_name="s", input_config=[[], {}], received_value="x")
    assert text == "s = 'x' is not one of the choices; the server has none at all"


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ({"min": 1}, "; it takes INT (at least 1)"),
        ({"max": 9}, "; it takes INT (at most 9)"),
        ({}, ""),
    ],
)
def test_a_range_with_one_end_is_explained(limits: dict[str, int], says: str) -> None:
    """Half a range is better than none."""
    config = ["INT", limits]
    text = one("value_bigger_than_max", input_name="n", input_config=config, received_value=99)
    assert text == "n = 99 is too big" + says


def test_long_values_and_long_lists_are_cut_short() -> None:
    """A message is for reading."""
    choices = [f"model-{n}" for n in range(5000)]
    config = [choices, {}]
    text = one("value_not_in_list", input_name="m", input_config=config, received_value="?" * 9000)
    assert "(5000 in all)" in text
    assert len(text) < 400


def test_many_problems_are_cut_short() -> None:
    """The first twenty are told, and how many there are."""
    body = node_error("required_input_missing", input_name="x")
    faults = body["node_errors"]["3"]["errors"]
    faults *= 500
    lines = explain_rejection(body, INVALID).splitlines()
    assert len(lines) == 21
    assert lines[-1] == "... (500 problems in all)"


@pytest.mark.parametrize(
    "path",
    [
        "/srv/comfy ui/custom_nodes/x/nodes.py",
        "C:\\Comfy UI\\models\\nodes.py",
        "C:\\\\Comfy\\\\models\\\\nodes.py",
        "\\\\nas\\share\\nodes.py",
    ],
)
def test_folders_and_tracebacks_of_the_server_are_not_shown(path: str) -> None:
    """Only the file's name is left, and the last line of a traceback."""
    text = (
        f"Traceback (most recent call last):\n  File \"{path}\", line 3\nOSError: '{path}' is bad"
    )
    for body in (
        text,
        {"error": text},
        {"error": {"type": "odd", "message": text, "details": text}},
        node_error("exception_during_validation", exception_type="OSError", traceback=[text]),
        {"node_errors": {"3": {"errors": [{"type": "odd", "message": "Odd", "details": text}]}}},
        {"node_errors": {"3": {"errors": [text]}}},
    ):
        words = explain_rejection(body, INVALID)
        for leak in ("srv", "omfy", "models", "nas", "share", "Traceback", "\n"):
            assert leak not in words
    assert explain_rejection(text, INVALID) == "the server says: OSError: 'nodes.py' is bad"


def test_relative_names_and_urls_are_kept() -> None:
    """They are what the user typed."""
    text = "no file sub/dir/x.png and nothing at http://host/a/b"
    assert explain_rejection(text, {}) == f"the server says: {text}"


def test_an_unknown_kind_of_error_is_passed_on() -> None:
    """Servers grow new ones."""
    body = copy.deepcopy(node_error("a_new_kind"))
    assert explain_rejection(body, INVALID) == "node 3 'Sampler' (KSampler): Told"
    assert explain_rejection({"node_errors": {"3": {"errors": [{"type": "x"}]}}}, {}) == (
        "node 3: no reason given"
    )
    body = {"error": {"type": "invalid_prompt_id", "message": "Bad id", "details": "not a UUID"}}
    assert explain_rejection(body, INVALID) == "the server says: Bad id: not a UUID"


@pytest.mark.parametrize("body", [None, "", [], {}, {"error": None}, {"node_errors": {}}, 5])
def test_an_empty_body_is_explained_as_such(body: object) -> None:
    """A proxy may send an empty body."""
    assert explain_rejection(body, INVALID) == "the server gave no reason"


# -- properties -------------------------------------------------------------------------

_KINDS = sorted(
    {
        fault["type"]
        for case in REAL.values()
        for report in case["body"]["node_errors"].values()
        for fault in report["errors"]
    }
    | {"dependency_cycle", "invalid_dynamic_input"}
    | {case["body"]["error"]["type"] for case in REAL.values()}
    | {"missing_node_type"}
)
_KEYS = st.text(max_size=3) | st.sampled_from(
    [
        *("error", "node_errors", "errors", "type", "message", "details", "extra_info"),
        *("input_name", "input_config", "received_value", "linked_node", "exception_type"),
        *("min", "options", "class_type", "inputs", "_meta", "title", "node_id", "1", "2"),
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(_KINDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=5),
    max_leaves=30,
)
FAULTS = st.fixed_dictionaries(
    {"type": st.sampled_from(_KINDS)},
    optional={
        "message": JSON,
        "details": JSON,
        "extra_info": JSON
        | st.fixed_dictionaries(
            {},
            optional={
                "input_name": JSON,
                "input_config": JSON,
                "received_value": JSON,
                "received_type": JSON,
                "linked_node": JSON,
                "exception_type": st.sampled_from(["KeyError", "IndexError"]) | JSON,
                "class_type": JSON,
                "node_id": JSON,
            },
        ),
    },
)
BODIES = JSON | st.fixed_dictionaries(
    {"error": FAULTS | JSON},
    optional={
        "node_errors": st.dictionaries(_KEYS, st.fixed_dictionaries({"errors": st.lists(FAULTS)}))
        | JSON
    },
)
GRAPHS = st.dictionaries(_KEYS, JSON, max_size=5) | st.sampled_from(
    [case["workflow"] for case in REAL.values() if "workflow" in case]
)


@settings(deadline=None)
@given(BODIES, GRAPHS, st.lists(st.text(), max_size=3))
def test_explain_rejection_never_raises_whatever_the_server_sends(
    body: Any, graph: dict[str, Any], names: list[str]
) -> None:
    """Arbitrary JSON in, readable lines out."""
    text = explain_rejection(body, graph, node_names=names)
    assert text
    assert len(text.splitlines()) <= 21
    assert unknown_class(body, graph) is None or isinstance(unknown_class(body, graph), str)
