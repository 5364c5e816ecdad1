"""What ``--set``, ``--input``, ``--seed``, ``--axis`` and ``--out`` say, as values."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfy_client import Upload, Workflow
from comfy_client.cli.exits import Mistake, StillRunning, hint_of, in_commands, message_of
from comfy_client.cli.input_options import INPUTS_HINT, InputTypes, set_seeds
from comfy_client.cli.results import as_template, saving_to
from comfy_client.errors import JobTimeout

NODE = {
    "input": {
        "required": {
            "count": ["INT", {"default": 1}],
            "part": ["FLOAT", {"default": 1.0}],
            "either": ["INT,FLOAT", {}],
            "flag": ["BOOLEAN", {"default": False}],
            "text": ["STRING", {}],
            "old": [["a", "b", 3], {}],
            "new": ["COMBO", {"options": ["x", "y"]}],
            "image": [["there.png"], {"image_upload": True}],
            "seed": ["INT", {}],
            "link": ["MODEL"],
        }
    },
    "output": [],
}
DEFINITIONS = {"Known": NODE}
INPUTS = {
    "count": 1,
    "part": 1.0,
    "either": 1,
    "flag": False,
    "text": "",
    "old": "a",
    "new": "x",
    "image": "there.png",
    "seed": 1,
    "link": ["2", 0],
}


def workflow(class_type: str = "Known") -> Workflow:
    nodes: dict[str, Any] = {
        "1": {"class_type": class_type, "inputs": INPUTS},
        "2": {"class_type": "Other", "inputs": {"noise_seed": 5}},
    }
    return Workflow(nodes)


def set_to(text: str, class_type: str = "Known") -> Workflow:
    found = workflow(class_type)
    InputTypes(found, DEFINITIONS).set([text])
    return found


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("1.count=7", "count", 7),
        ("1.part=7", "part", 7.0),
        ("1.part=1e-3", "part", 0.001),
        ("1.either=7", "either", 7),
        ("1.either=7.5", "either", 7.5),
        ("1.flag=yes", "flag", True),
        ("1.flag=FALSE", "flag", False),
        ("1.text=7", "text", "7"),
        ("1.text=a=b", "text", "a=b"),
        ("1.text=", "text", ""),
        ("1.old=b", "old", "b"),
        ("1.old=3", "old", 3),
        ("1.new=y", "new", "y"),
        ("1.image=sub/elsewhere.png", "image", "sub/elsewhere.png"),
        ("1.seed=random", "seed", "random"),
        ("1.seed=-1", "seed", -1),
        ("Known.count=8", "count", 8),
    ],
)
def test_a_text_becomes_what_the_definition_of_the_input_says(text, name, value):
    """A number, true or false, a choice, a text."""
    found = set_to(text)["1"][name]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1.count=x", "1.count takes INT, not 'x'"),
        ("1.count=1.5", "takes INT"),
        ("1.part=x", "takes FLOAT"),
        ("1.flag=perhaps", "must be true or false"),
        ("1.old=z", "there is 'a', 'b', '3'"),
        ("1.new=yy", "nearest: y"),
        ("1.cuont=1", "nearest: 'count'"),
        ("Knwon.count=1", "nearest: 'Known'"),
        ("count", "write NAME=VALUE"),
        ("1.link=x", "is linked to"),
        ("1.count=1_0", "takes INT"),
        ("1.count=٣", "takes INT"),
        ("1.part=1_0.5", "takes FLOAT"),
        ("1.part=nan", "takes FLOAT"),
        ("1.either=1_0", "takes FLOAT"),
        ("=7", "write NAME=VALUE"),
    ],
)
def test_a_value_that_does_not_fit_is_a_mistake_that_says_what_would(text, words):
    """And which command lists the inputs; the workflow stays as it was."""
    with pytest.raises(Mistake, match="--set") as caught:
        set_to(text)
    assert words in caught.value.message
    assert hint_of(caught.value) == (None if words == "write NAME=VALUE" else INPUTS_HINT)


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [("1.count=7", "count", 7), ("1.part=2.5", "part", 2.5), ("1.flag=on", "flag", True)],
)
def test_an_unknown_input_takes_the_type_of_its_present_value(text, name, value):
    """Of the value in the workflow."""
    assert set_to(text, "Unknown")["1"][name] == value


def test_a_file_is_for_the_input_that_takes_files(tmp_path):
    """The only one of the node, or the one that is named; a URL is fetched when it is sent."""
    (tmp_path / "a.png").write_bytes(b"x")
    for text in (f"Known={tmp_path}/a.png", f"1.image={tmp_path}/a.png", "1=https://x.example/a"):
        found = workflow()
        InputTypes(found, DEFINITIONS).attach([text])
        assert isinstance(found.nodes["1"].inputs["image"], Upload)
    for texts, words in (
        (["2=a.png"], "no input for files"),
        (["1=missing.png"], "missing.png"),
        ([f"1={tmp_path}"], "upload a folder"),
        ([f"1={tmp_path}/a.png", f"1.image={tmp_path}/a.png"], "given twice"),
    ):
        with pytest.raises(Mistake, match="--input") as caught:
            InputTypes(workflow(), DEFINITIONS).attach(texts)
        assert words in caught.value.message


def test_all_seeds_are_set():
    """To a number, or to others each time."""
    found = workflow()
    set_seeds(found, "7")
    assert (found["1"]["seed"], found["2"]["noise_seed"]) == (7, 7)
    set_seeds(found, "random")
    assert {found["1"]["seed"], found["2"]["noise_seed"]} != {7}
    set_seeds(found, None)
    for wrong in ("-1", "x", "1.5", "٣"):
        with pytest.raises(Mistake):
            set_seeds(found, wrong)
    with pytest.raises(Mistake, match="no node has"):
        set_seeds(Workflow({"1": {"class_type": "A", "inputs": {}}}), "7")


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1.count=1,2", [1, 2]),
        ("1.count=1..4", [1, 2, 3, 4]),
        ("1.count=-1..1,9", [-1, 0, 1, 9]),
        ("1.part=0.5, 1", [0.5, 1.0]),
        ('1.text="a, b",c', ["a, b", "c"]),
        ("1.old=a,3", ["a", 3]),
        ("1.flag=true,false", [True, False]),
    ],
)
def test_the_values_of_an_axis_stand_between_commas(text, values):
    """Ranges of whole numbers with two dots, texts with commas in quotes."""
    name, found = InputTypes(workflow(), DEFINITIONS).axis(text)
    assert found == values
    assert name == text.partition("=")[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1.count=4..1", "not a range from a number to a larger one"),
        ("1.count=1..10000000", "more than 100,000 values"),
        ("1.count=٣..٤", "takes INT"),
        ("1.count=", "no values"),
        ("1.x=1", "'x'"),
    ],
)
def test_an_axis_without_values_is_a_mistake(text, words):
    """And so is one without end."""
    with pytest.raises(Mistake, match="--axis") as caught:
        InputTypes(workflow(), DEFINITIONS).axis(text)
    assert words in caught.value.message


def test_an_unknown_input_takes_only_plain_numbers():
    """Not all that Python reads as one."""
    assert set_to("1.text=x", "Unknown")["1"]["text"] == "x"
    assert set_to("1.count=1_0", "Unknown")["1"]["count"] == "1_0"


@pytest.mark.parametrize(
    "texts",
    [["1.count=1", "1.count=2"], ["1.count=1", "Known.count=1"]],
)
def test_an_input_is_set_once(texts):
    """However it is named; the later value does not win unsaid."""
    with pytest.raises(Mistake, match=r"'(1|Known).count'.* is given twice"):
        InputTypes(workflow(), DEFINITIONS).set(texts)


@given(st.text(max_size=60))
def test_any_text_of_set_is_a_value_or_a_mistake(text):
    """Nothing else comes of it."""
    types = InputTypes(workflow(), DEFINITIONS)
    for what in (text, f"1.count={text}", f"1.text={text}", f"1.old={text}"):
        for use in (lambda one: types.set([one]), types.axis):
            with contextlib.suppress(Mistake):
                use(what)


@pytest.mark.parametrize(
    ("out", "template"),
    [
        ("fox.png", "fox{ext}"),
        ("out/fox.mp4", str(Path("out/fox{ext}"))),
        ("out/", "out/"),
        ("out", "out"),
        ("run.2024", "run.2024"),
        ("{seed}.png", "{seed}.png"),
    ],
)
def test_the_name_of_a_picture_is_no_folder(out, template):
    """It keeps the extension that the server gave it."""
    assert as_template(out) == template


def test_an_existing_folder_stays_one(tmp_path: Path):
    """Whatever its name is."""
    (tmp_path / "a.png").mkdir()
    assert as_template(f"{tmp_path}/a.png") == f"{tmp_path}/a.png"


@pytest.mark.parametrize("out", [None, "out/", "{seed}_{index:03}{ext}", "{Known.count}{ext}"])
def test_a_template_that_files_can_be_saved_by_is_none_of_the_mistakes(out):
    """Also with the value of an input."""
    with saving_to(out, workflow().to_dict()):
        pass


@pytest.mark.parametrize("out", ["{sed}", "{", "{Known.cuont}", "{seed}/../x"])
def test_a_template_with_a_mistake_is_refused_before_anything_runs(out):
    """And what would be right."""
    with pytest.raises(Mistake, match="--out"), saving_to(out, workflow().to_dict()):
        pass


def test_a_timeout_says_that_a_prompt_keeps_running_only_if_its_server_answers():
    """Otherwise, it says for how long the server has been silent."""
    heard = JobTimeout("no end", prompt_id="p")
    assert message_of(heard) == "prompt p has not ended in time; it keeps running"
    silent = JobTimeout("no end", prompt_id="p", silent_for=20.4)
    for error in (silent, StillRunning(silent, "http://gpu:8188")):
        assert message_of(error) == (
            "prompt p has not ended in time; the server has not answered for 20 s; "
            "if it is not gone, the prompt keeps running"
        )


def test_library_messages_are_reworded_for_the_command_line():
    """Only what is different there."""
    assert in_commands("wait again, or attach to it by api.job('x-1')") == (
        "wait again, or comfy-client job x-1 --wait"
    )
    assert in_commands("keeps running on http://gpu:8188: attach to it by api.job('x-1')") == (
        "keeps running on http://gpu:8188: comfy-client job x-1 --wait --host http://gpu:8188"
    )
    assert in_commands("wants credentials; pass credentials=...") == "wants credentials"
    assert in_commands("no such thing") == "no such thing"
