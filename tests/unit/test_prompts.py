"""Dynamic prompts: what the page makes of ``{a|b}`` and comments."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfy_client import Workflow, WorkflowError
from comfy_client.workflow.convert import resolve_prompt
from tests.helpers.conformance import First


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("a {red|green} fox", "a red fox"),
        ("{a|b}{c|d}", "ac"),
        ("{{a|b}|c} d", "a d"),
        ("{|a}b", "b"),
        ("{alone}", "alone"),
        (r"\{a|b\} {c\|d|e}", "{a|b} c|d"),
        ("a // b\nc", "a \nc"),
        ("a /* b\n {x|y} */ c", "a  c"),
        ("{a|b", "a"),
        ("a } b | c", "a } b | c"),
        (r"a \( b", r"a \( b"),
        ("", ""),
    ],
)
def test_the_first_option_is_chosen(text: str, first: str) -> None:
    """Nested, empty, escaped, unclosed; comments go first."""
    assert resolve_prompt(text, First()) == first


def test_each_option_is_chosen_about_as_often() -> None:
    """By the generator of the caller."""
    rng = random.Random(5)
    texts = [resolve_prompt("{a|b|c}", rng) for _ in range(600)]
    assert all(150 < texts.count(each) < 250 for each in "abc")


@given(st.text(alphabet="ab{}|\\/*\n ", max_size=60))
def test_any_text_can_be_resolved(text: str) -> None:
    """No sign of it is too much."""
    assert isinstance(resolve_prompt(text, First()), str)


@pytest.mark.parametrize("text", ["{" * 5000, ("{" * 90 + "}" * 90) * 5000])
def test_endless_nesting_is_refused(text: str) -> None:
    """Before any work is done on it."""
    with pytest.raises(WorkflowError, match="nested too deeply"):
        resolve_prompt(text, First())


GRAPH: dict[str, Any] = {
    "1": {"class_type": "CLIPTextEncode", "inputs": {"text": "a {b|c} // d"}},
    "2": {"class_type": "Load", "inputs": {"url": "https://x/y", "name": "no choice // here"}},
}


def test_a_graph_in_api_format_has_each_text_with_a_brace_resolved() -> None:
    """Which inputs are prompts, it does not say; addresses survive."""
    workflow = Workflow(GRAPH)
    workflow.resolve_prompts(First())
    assert workflow["1"]["text"] == "a b "
    assert dict(workflow["2"].inputs) == GRAPH["2"]["inputs"]


def test_definitions_say_which_inputs_are_prompts() -> None:
    """Those only, and comments without choices, too."""
    name = ["STRING", {"dynamicPrompts": True}]
    known = {"Load": {"input": {"required": {"name": name, "url": ["STRING", {}]}}}}
    workflow = Workflow(GRAPH)
    workflow.resolve_prompts(First(), known)
    assert workflow["2"]["name"] == "no choice "
    assert workflow["2"]["url"] == "https://x/y"
    assert workflow["1"]["text"] == "a {b|c} // d"
