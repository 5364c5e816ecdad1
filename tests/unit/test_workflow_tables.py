"""How a workflow shows itself: in print, in a notebook, and to the Tab key."""

from __future__ import annotations

import html.parser
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comfy_client import Workflow
from tests.helpers.graphs import node, txt2img

TITLED = {"_meta": {"title": "Positive prompt"}}


def a_workflow() -> Workflow:
    graph = txt2img()
    graph["6"] |= TITLED
    return Workflow.load(graph)


class _Page(html.parser.HTMLParser):
    """The tags of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_print_shows_each_node_and_each_input() -> None:
    """Links by the node that they lead to."""
    text = str(a_workflow())
    lines = text.splitlines()
    assert "6  Positive prompt (CLIPTextEncode)" in lines
    assert "3  KSampler" in lines
    assert "    positive      <- Positive prompt" in lines
    assert "    vae      <- CheckpointLoaderSimple.VAE" in lines
    assert "    seed          1" in lines
    assert len(lines) == sum(1 + len(each.inputs) for each in a_workflow())


def test_print_of_a_node_shows_that_one() -> None:
    """With where its links lead."""
    text = str(a_workflow()["6"])
    assert text.splitlines() == [
        "6  Positive prompt (CLIPTextEncode)",
        "    text  'a lighthouse'",
        "    clip  <- CheckpointLoaderSimple.CLIP",
    ]


def test_a_link_names_a_node_that_others_are_called_like_by_its_id() -> None:
    """And a slot without a name by its number; a link to nowhere by what it says."""
    graph = {
        "1": node("CLIPTextEncode"),
        "2": node("CLIPTextEncode"),
        "3": node("Split", a=["1", 0], b=["2", 0]),
        "4": node("Show", first=["3", 0], second=["3", 1], lost=["9", 2]),
    }
    lines = [line.strip() for line in str(Workflow.load(graph)).splitlines()]
    assert "a  <- 1 (CLIPTextEncode)" in lines
    assert "b  <- 2 (CLIPTextEncode)" in lines
    assert "first   <- Split" in lines
    assert "second  <- Split, slot 1" in lines
    assert "lost    <- 9, slot 2" in lines


def test_a_notebook_shows_a_table_with_a_row_for_each_input() -> None:
    """Each node stands beside its inputs once."""
    page = a_workflow()._repr_mimebundle_()["text/html"]
    assert page.count("<tr ") == 1 + sum(len(each.inputs) for each in a_workflow())
    assert _Page(page).texts.count("Positive prompt") == 1


def page(workflow: Workflow) -> str:
    return workflow._repr_mimebundle_()["text/html"]


def test_repr_stays_short() -> None:
    """For tracebacks and logs."""
    assert repr(a_workflow()).startswith("<Workflow 7 nodes: KSampler,")


EVIL = "<script>alert(1)</script>&\"'\x1b[2J\n"


@pytest.mark.parametrize("show", [str, page])
def test_names_and_values_are_data(show: Any) -> None:
    """Neither a page nor a terminal obeys them."""
    graph = {f"1{EVIL}": {**node(EVIL, **{EVIL: EVIL}), "_meta": {"title": EVIL}}}
    shown = show(Workflow.load(graph))
    assert "\x1b" not in shown
    if show is not str:
        assert "script" not in _Page(shown).tags
        assert any("<script>" in text for text in _Page(shown).texts)


@pytest.mark.parametrize("show", [str, page])
def test_keys_are_not_shown(show: Any) -> None:
    """At any depth."""
    shown = show(Workflow.load({"1": node("A", api_key="hush1", options={"token": "hush2"})}))
    assert "hush" not in shown
    assert "***" in shown


@pytest.mark.parametrize("show", [str, page])
@pytest.mark.parametrize(
    "graph",
    [
        {str(n): node("A" * 1000, **{f"x{i}": "y" * 1000 for i in range(60)}) for n in range(1000)},
        {"1": node("A", **{"n" * 100_000: "y" * 1_000_000})},
        {"1": node("A", x={"a": [[{"b": ["y" * 500] * 500}] * 500]})},
    ],
    ids=["nodes", "texts", "nested"],
)
def test_a_table_is_bounded(show: Any, graph: dict[str, Any]) -> None:
    """Whatever the graph, and it says what is left out."""
    shown = show(Workflow.load(graph))
    assert len(shown) < 3_000_000
    assert ("1000 nodes in all" in shown) == (len(graph) > 1)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(deadline=None)
@given(
    st.dictionaries(
        st.text(max_size=5), st.dictionaries(st.text(max_size=5), JSON, max_size=3), min_size=1
    )
)
def test_any_workflow_can_be_shown(graph: dict[str, Any]) -> None:
    """As one printable text, line by line, and as a page."""
    workflow = Workflow.load({key: node("A", **inputs) for key, inputs in graph.items()})
    assert all(line.isprintable() for line in str(workflow).split("\n"))
    assert _Page(workflow._repr_mimebundle_()["text/html"]).tags >= {"table"}
    assert repr(workflow)


# -- completion ----------------------------------------------------------------------------


def test_tab_completes_the_names_that_mean_one_node() -> None:
    """Titles first, then classes and ids; each leads to a node."""
    workflow = a_workflow()
    names = workflow._ipython_key_completions_()
    assert names[0] == "Positive prompt"
    assert {"KSampler", "6", "7"} <= set(names)
    assert all(workflow[name] for name in names)
    assert "CLIPTextEncode" not in names


def test_tab_completes_the_inputs_of_a_node() -> None:
    """By name."""
    assert a_workflow()["6"]._ipython_key_completions_() == ["text", "clip"]


@pytest.mark.parametrize(
    ("typed", "completed"), [('wf["Pos', "Positive prompt"), ('wf["6"]["te', "text")]
)
def test_ipython_asks_a_workflow_for_its_names(typed: str, completed: str) -> None:
    """At the first bracket and at the second."""
    from IPython.core import completer

    shell = completer.IPCompleter(namespace={"wf": a_workflow()})
    shell.use_jedi = False
    shell.evaluation = "unsafe"  # as %config IPCompleter.evaluation, to look into wf["6"]
    with completer.provisionalcompleter():
        found = list(shell.completions(typed, len(typed)))
    assert any(completed in one.text for one in found)
