"""What a conversion from UI format says, refuses and survives."""

from __future__ import annotations

import copy
import functools
import json
import pickle
import time
import warnings
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comfy_client import ConversionWarning, Workflow, WorkflowError
from comfy_client.workflow.convert import Conversion, classes_in, convert
from tests.conftest import examples
from tests.helpers.conformance import First, definitions, pair, pairs
from tests.helpers.work import check_growth, lines


def spec(
    display_name: str | None = None, output: tuple[str, ...] = ("IMAGE",), **inputs: Any
) -> dict[str, Any]:
    """A definition, as a server since 0.12 gives it."""
    given = {"input": {"required": inputs}, "output": list(output), "is_input_list": False}
    return {**given, "display_name": display_name}


DEFINITIONS: dict[str, Any] = {
    "Source": spec(width=["INT", {"default": 8, "min": 1, "max": 4096}], name=["STRING", {}]),
    "Sampler": spec(seed=["INT", {}], mode=[["fast", "good"], {}], image=["IMAGE"]),
    "Prompt": spec(text=["STRING", {"multiline": True, "dynamicPrompts": True}]),
    "SaveImage": spec("Save Image", (), images=["IMAGE"], filename_prefix=["STRING", {}]),
}


def node(
    node_id: int, kind: str, values: Any = (), links: dict[str, int] | None = None, **more: Any
) -> dict[str, Any]:
    slots = [{"name": name, "type": "*", "link": link} for name, link in (links or {}).items()]
    outputs = [{"name": "out", "type": "IMAGE"}]
    values = list(values) if isinstance(values, tuple) else values
    about = {"id": node_id, "type": kind, "inputs": slots, "outputs": outputs}
    return {**about, "widgets_values": values, **more}


def ui(*nodes: dict[str, Any], links: Any = (), **more: Any) -> dict[str, Any]:
    """A file; a link is given as number, source and target, from output 0 to input 0."""
    lists = [[number, source, 0, target, 0, "*"] for number, source, target in links]
    return {"nodes": list(nodes), "links": lists, "version": 0.4, **more}


def converted(file: dict[str, Any], **options: Any) -> Conversion:
    return convert(file, DEFINITIONS, **options)


def only_warning(file: dict[str, Any], **options: Any) -> ConversionWarning:
    (warning,) = converted(file, **options).warnings
    return warning


# -- warnings ---------------------------------------------------------------------------------


def test_a_class_that_the_server_lacks_is_named_with_its_pack() -> None:
    """It stays in the graph, with its links and what the file has by name."""
    file = ui(
        node(1, "Source", (64, "a")),
        node(
            2,
            "FancyBlur",
            (5,),
            {"image": 7},
            title="Blur",
            properties={"cnr_id": "fancy-pack", "ver": "1.2.0"},
            widgets_values_named={"radius": 5},
        ),
        links=[(7, 1, 2)],
    )
    warning = only_warning(file)
    assert (warning.kind, warning.node_id, warning.class_type) == (
        "not_installed",
        "2",
        "FancyBlur",
    )
    assert "node 2 'Blur' (FancyBlur)" in str(warning)
    assert "'fancy-pack'" in str(warning)
    assert converted(file).graph["2"] == {
        "class_type": "FancyBlur",
        "inputs": {"radius": 5, "image": ["1", 0]},
        "_meta": {"title": "Blur", "cnr_id": "fancy-pack", "ver": "1.2.0"},
    }
    assert "'by-manager'" in str(only_warning(file, packs={"FancyBlur": "by-manager"}))
    file["nodes"][1]["properties"] = {"cnr_id": "comfy-core"}  # not so, as the server lacks it
    assert "this server's ComfyUI is too old or too new for it, or the file is wrong" in str(
        only_warning(file)
    )


@pytest.mark.parametrize("kind", ["Reroute (rgthree)", "ReroutePrimitive|pysssss"])
def test_nodes_that_rewire_in_the_browser_are_said_and_left_out(kind: str) -> None:
    """What they feed is not guessed."""
    file = ui(
        node(1, "Source", (64, "a")),
        node(2, kind, ("x",), {"value": 7}),
        node(3, "SaveImage", ("p",), {"images": 8}),
        links=[(7, 1, 2), (8, 2, 3)],
    )
    warning = only_warning(file)
    assert (warning.kind, warning.node_id) == ("browser", "2")
    assert converted(file).graph.keys() == {"1", "3"}
    assert "images" not in converted(file).graph["3"]["inputs"]


def test_a_link_that_the_file_does_not_have_is_said() -> None:
    """As left by an editor that lost it."""
    warning = only_warning(ui(node(2, "SaveImage", ("p",), {"images": 7})))
    assert str(warning).endswith("its link is left out: the file has no link 7 to it")
    assert (warning.kind, warning.input) == ("link", "images")


KJ, EASY = ("SetNode", "GetNode"), ("easy setNode", "easy getNode")


def set_get(
    pair: tuple[str, str] = KJ, name: Any = "x", wanted: Any = "x", **more: Any
) -> dict[str, Any]:
    """A picture that goes through a Set node, and from a Get node to SaveImage."""
    return ui(
        node(1, "Source", (64, "a")),
        node(2, pair[0], (name,), {"IMAGE": 7}),
        node(3, pair[1], (wanted,)),
        node(4, "SaveImage", ("p",), {"images": 8}),
        **{"links": [(7, 1, 2), (8, 3, 4)], **more},
    )


def with_inside(*around: dict[str, Any], links: Any = ()) -> dict[str, Any]:
    """A file whose SaveImage gets what a Get node in a subgraph gets; with nodes around it."""
    inner = {
        "id": "sub",
        "nodes": [node(50, "GetNode", ("x",))],
        "links": [{"id": 1, "origin_id": 50, "origin_slot": 0, "target_id": -20, "target_slot": 0}],
        "inputs": [],
        "outputs": [{"name": "out", "type": "IMAGE", "linkIds": [1]}],
    }
    nodes = [*around, node(8, "sub"), node(9, "SaveImage", ("p",), {"images": 90})]
    return ui(*nodes, links=[*links, (90, 8, 9)], definitions={"subgraphs": [inner]})


@pytest.mark.parametrize("pair", [KJ, EASY])
@pytest.mark.parametrize("values", [{}, {"widgets_values": {"Constant": "x"}}])
def test_a_get_node_is_the_link_of_the_set_node_of_its_name(
    pair: tuple[str, str], values: dict[str, Any]
) -> None:
    """As their extension follows it in the browser; no server needs the pack."""
    file = set_get(pair)
    file["nodes"][1].update(values)
    found = converted(file)
    assert found.graph["4"]["inputs"]["images"] == ["1", 0]
    assert (found.graph.keys(), found.warnings) == ({"1", "4"}, ())
    assert classes_in(file) == {"Source", "SaveImage"}


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (set_get(wanted="X"), "there is no Set node 'X' for its Get node"),
        (set_get(wanted=" x"), "there is no Set node ' x' for its Get node"),
        (set_get(EASY, wanted="other"), "there is no Set node 'other' for its Get node"),
        (set_get((KJ[0], EASY[1])), "there is no Set node 'x' for its Get node"),
        (set_get(name="", wanted=""), "its Get node has no name"),
        (set_get(wanted=None), "its Get node has no name"),
        (set_get(links=[(8, 3, 4)]), "nothing is linked to its Set node 'x'"),
        (
            set_get(links=[(7, 3, 2), (8, 3, 4)]),
            "its Set and Get nodes feed each other in a circle",
        ),
        (with_inside(), "there is no Set node 'x' for its Get node"),
        (
            with_inside(
                node(1, "Source", (64, "a")),
                node(2, "SetNode", ("x",), {"IMAGE": 7}),
                node(3, "SetNode", ("x",), {"IMAGE": 8}),
                links=[(7, 1, 2), (8, 1, 3)],
            ),
            "the graphs around its subgraph have several Set nodes 'x'",
        ),
    ],
)
def test_a_get_node_without_an_answer_is_warned_of(file: dict[str, Any], reason: str) -> None:
    """Where the browser sends nothing, or gives up; the input is left out."""
    warning = only_warning(file)
    save = max(converted(file).graph)
    assert str(warning).endswith(f"input 'images': {reason}")
    assert (warning.kind, warning.node_id, warning.input) == ("link", save, "images")
    assert "images" not in converted(file).graph[save]["inputs"]


def test_a_set_node_in_a_subgraph_that_is_left_out_feeds_nothing() -> None:
    """The subgraph of the Get node counts as a part of the first graph that has an instance."""
    file = with_inside()
    outer = {
        "id": "outer",
        "nodes": [
            node(60, "Source", (64, "a")),
            node(61, "SetNode", ("x",), {"IMAGE": 1}),
            node(62, "sub"),
        ],
        "links": [{"id": 1, "origin_id": 60, "origin_slot": 0, "target_id": 61, "target_slot": 0}],
    }
    middle = {
        "id": "middle",
        "nodes": [node(70, "sub"), node(71, "SaveImage", ("p",), {"images": 1})],
        "links": [{"id": 1, "origin_id": 70, "origin_slot": 0, "target_id": 71, "target_slot": 0}],
    }
    file["nodes"] = [node(5, "outer", mode=2), node(6, "middle")]
    file["definitions"]["subgraphs"] += [outer, middle]
    assert str(only_warning(file)).endswith("its Set node is in a subgraph that is left out")


@pytest.mark.parametrize("kind", ["Fast Groups Bypasser (rgthree)", "Fast Muter (rgthree)"])
def test_nodes_that_only_switch_others_are_left_out(kind: str) -> None:
    """The modes that they have set are in the file; the server has no such class."""
    switch = node(2, kind, (), {"a": 7}, outputs=[{"name": "OPT_CONNECTION", "type": "*"}])
    file = ui(node(1, "Source", (64, "a")), switch, links=[(7, 1, 2)])
    assert converted(file).graph.keys() == {"1"}
    assert not converted(file).warnings


def test_nodes_without_any_slot_and_notes_are_left_out() -> None:
    """They are for people who read the graph."""
    note = {"id": 9, "type": "Bookmark (rgthree)"}
    file = ui(node(1, "Source", (64, "a")), {"id": 2, "type": "Note"}, note)
    assert converted(file).graph.keys() == {"1"}
    assert not converted(file).warnings


def test_a_value_by_name_counts_where_the_position_does_not_fit() -> None:
    """The file was saved for another version of the node."""
    named = {"seed": 7, "control_after_generate": "fixed", "mode": "good"}
    file = ui(node(1, "Sampler", ("auto", "fixed", "good"), widgets_values_named=named))
    warning = only_warning(file)
    assert (warning.kind, warning.input) == ("value", "seed")
    assert converted(file).graph["1"]["inputs"] == {"seed": 7, "mode": "good"}


def test_a_value_by_name_counts_also_where_it_is_the_default() -> None:
    """What stands in the position would be sent in its place."""
    named = {"seed": 0, "mode": "fast"}
    file = ui(node(1, "Sampler", ("auto", "fixed", 1.5), widgets_values_named=named))
    assert converted(file).graph["1"]["inputs"] == named
    assert [one.input for one in converted(file).warnings] == ["seed", "mode"]
    unsaid = ui(node(1, "Sampler", (), widgets_values_named=named))
    assert converted(unsaid).graph["1"]["inputs"] == named
    assert not converted(unsaid).warnings


def test_values_are_taken_by_position_where_they_fit() -> None:
    """As the page takes them, whatever the names say."""
    named = {"seed": 7, "mode": "fast"}
    file = ui(node(1, "Sampler", (5, "fixed", "good"), widgets_values_named=named))
    assert converted(file).graph["1"]["inputs"] == {"seed": 5, "mode": "good"}
    assert not converted(file).warnings


def test_a_value_that_cannot_be_meant_is_said() -> None:
    """The page would send it; it is sent, and the warning says where."""
    file = ui(node(4, "Sampler", ("auto", "fixed", "good")))
    warning = only_warning(file)
    assert str(warning).startswith("node 4 (Sampler), input 'seed': 'auto' is not of type INT")
    assert converted(file).graph["4"]["inputs"]["seed"] == "auto"


def test_a_warning_shows_no_secret() -> None:
    """A key in the place of another value stays out of logs."""
    known = {"Api": spec(api_key=["INT", {}])}
    (warning,) = convert(ui(node(1, "Api", ("sk-12345",))), known).warnings
    assert "sk-12345" not in str(warning)
    assert "'api_key'" in str(warning)


def test_a_model_that_this_server_does_not_have_is_no_warning() -> None:
    """That is for the check before a run."""
    assert not converted(ui(node(1, "Sampler", (5, "fixed", "best")))).warnings


def test_two_nodes_of_one_id_are_both_kept() -> None:
    """The second one gets a new id; links go to the first."""
    file = ui(
        node(1, "Source", (1, "a")),
        node(1, "Source", (2, "b")),
        node(3, "SaveImage", ("p",), {"images": 7}),
        links=[(7, 1, 3)],
        last_node_id=8,
    )
    graph = converted(file).graph
    assert [graph[key]["inputs"]["width"] for key in ("1", "9")] == [1, 2]
    assert graph["3"]["inputs"]["images"] == ["1", 0]


def test_an_object_of_values_goes_by_name() -> None:
    """Some packs save one."""
    file = ui(node(1, "Sampler", {"mode": "good", "seed": 3, "preview": True}))
    assert converted(file).graph["1"]["inputs"] == {"seed": 3, "mode": "good"}


def test_widgets_that_only_an_extension_knows_are_said() -> None:
    """Rows of LoRAs, as one pack saves them: its extension sends each as an input."""
    row = {"on": True, "lora": "a.safetensors", "strength": 1}
    warning = only_warning(ui(node(1, "Source", (64, "a", {}, row, ""))))
    assert (warning.kind, warning.node_id, warning.input) == ("browser", "1", None)
    assert not converted(ui(node(1, "Source", (64, "a", "image", None, {})))).warnings


def test_a_link_that_leads_nowhere_is_said() -> None:
    """Nothing is lost silently."""
    file = ui(node(1, "SaveImage", ("p",), {"images": 77}))
    warning = only_warning(file)
    assert (warning.kind, warning.input) == ("link", "images")


def test_an_output_of_a_subgraph_that_leads_nowhere_is_said() -> None:
    """Some published files are so."""
    inner = {**subgraph("s", node(2, "Source", (1, "a"))), "outputs": [{"linkIds": [5]}]}
    file = ui(
        node(1, "s"),
        node(3, "SaveImage", ("p",), {"images": 7}),
        links=[(7, 1, 3)],
        definitions={"subgraphs": [inner]},
    )
    warning = only_warning(file)
    assert (warning.kind, warning.node_id, warning.input) == ("link", "3", "images")


def test_a_primitive_before_a_promoted_input_is_ignored_and_said() -> None:
    """As the page does, without a word."""
    source = node(2, "Source", (512, "a"), {"width": 5})
    source["inputs"][0]["widget"] = {"name": "width"}
    inner = {
        **subgraph("s", source),
        "inputs": [{"name": "width", "type": "INT", "linkIds": [5]}],
        "links": [
            {
                "id": 5,
                "origin_id": -10,
                "origin_slot": 0,
                "target_id": 2,
                "target_slot": 0,
                "type": "INT",
            }
        ],
    }
    file = ui(
        node(3, "PrimitiveNode", (960, "fixed"), outputs=[{"name": "INT", "type": "INT"}]),
        node(1, "s", (128,), {"width": 7}),
        links=[(7, 3, 1)],
        definitions={"subgraphs": [inner]},
    )
    found = converted(file)
    assert found.graph["1:2"]["inputs"]["width"] == 512
    (warning,) = found.warnings
    assert (warning.kind, warning.node_id, warning.input) == ("link", "1:2", "width")


def test_a_bypassed_loader_leaves_the_input_out() -> None:
    """That is what people bypass it for."""
    file = ui(
        node(1, "Source", (1, "a"), mode=4),
        node(3, "Sampler", (1, "fixed", "fast"), {"image": 7}),
        links=[(7, 1, 3)],
    )
    assert converted(file).graph == {
        "3": {
            "class_type": "Sampler",
            "inputs": {"seed": 1, "mode": "fast"},
            "_meta": {"title": "Sampler"},
        }
    }
    assert not converted(file).warnings


@pytest.mark.parametrize(("mode", "image"), [(0, ["1", 0]), (4, ["1", 0]), (2, None)])
def test_only_a_muted_reroute_leads_nowhere(mode: int, image: Any) -> None:
    file = ui(
        node(1, "Source", (1, "a")),
        node(2, "Reroute", (), {"": 7}, mode=mode),
        node(3, "Sampler", (1, "fixed", "fast"), {"image": 8}),
        links=[(7, 1, 2), (8, 2, 3)],
    )
    assert converted(file).graph["3"]["inputs"].get("image") == image


def test_strict_makes_each_warning_an_error() -> None:
    """All of them in one message, by node."""
    file = ui(node(1, "Gone"), node(2, "Sampler", ("auto",)))
    with pytest.raises(WorkflowError, match=r"(?s)node 1 \(Gone\).*node 2 \(Sampler\)"):
        converted(file, strict=True)
    converted(ui(node(1, "Source", (1, "a"))), strict=True)


def test_a_warning_survives_a_pickle() -> None:
    """As errors do."""
    warning = only_warning(ui(node(1, "Gone")))
    again = pickle.loads(pickle.dumps(warning))
    assert (str(again), vars(again)) == (str(warning), vars(warning))


@pytest.mark.parametrize(
    ("properties", "kept"),
    [
        (
            {"cnr_id": "a-pack", "aux_id": "me/a.pack", "ver": "v1.2.3-rc.1"},
            {"cnr_id": "a-pack", "aux_id": "me/a.pack", "ver": "1.2.3-rc.1"},
        ),
        ({"ver": "0a1b2c3d"}, {"ver": "0a1b2c3d"}),
        ({"ver": "unknown"}, {"ver": "unknown"}),
        ({"cnr_id": "-x", "aux_id": "a--b/c", "ver": "nightly"}, {}),
        ({"cnr_id": 5, "aux_id": "", "ver": None}, {}),
    ],
)
def test_packs_are_named_in_the_form_that_the_page_accepts(
    properties: dict[str, Any], kept: dict[str, str]
) -> None:
    """Anything else is left out, as on the page."""
    file = ui(node(1, "Source", (1, "a"), title="S", properties=properties))
    assert converted(file).graph["1"]["_meta"] == {"title": "S", **kept}


# -- file names and time ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("%Source.width%/%date:yyyy-MM-dd_hhmmss%", "64/2026-02-03_040506"),
        ("%My source.name%", "a_b"),
        ("%date:yy-M-d% %width% %Source.none% %No.x%", "26-2-3 %width% %Source.none% %No.x%"),
    ],
)
def test_file_names_are_filled_in(prefix: str, expected: str) -> None:
    """Before the server sees them: it knows these patterns not."""
    file = ui(
        node(1, "Source", (64, "a/b"), title="My source"),
        node(2, "SaveImage", (prefix,)),
    )
    graph = converted(file, now=datetime(2026, 2, 3, 4, 5, 6)).graph
    assert graph["2"]["inputs"]["filename_prefix"] == expected


# -- what is refused --------------------------------------------------------------------------


def test_a_file_name_does_not_grow_without_bound() -> None:
    """Some kilobytes could ask for gigabytes."""
    texts = node(1, "Source", (8, "x" * 100_000), title="a")
    file = ui(texts, node(2, "SaveImage", ("%a.name%" * 10_000,)))
    with pytest.raises(WorkflowError, match="too long"):
        converted(file)


def test_classes_without_a_name_are_called_as_the_page_calls_them() -> None:
    """Its translations have names for them, and those of 2025 come before what a server says."""
    file = ui(node(1, "CFGGuider"), node(2, "Load3D"))
    new = {"CFGGuider": spec(), "Load3D": spec("Load 3D & Animation")}
    titles = [each["_meta"]["title"] for each in convert(file, new).graph.values()]
    assert titles == ["CFG Guider", "Load 3D & Animation"]
    old = {name: {"input": {}, "display_name": one["display_name"]} for name, one in new.items()}
    titles = [each["_meta"]["title"] for each in convert(file, old).graph.values()]
    assert titles == ["CFGGuider", "Load 3D"]


def subgraph(key: str, *nodes: dict[str, Any]) -> dict[str, Any]:
    return {"id": key, "name": f"{key} graph", "nodes": list(nodes), "links": []}


def nested(levels: int, width: int) -> dict[str, Any]:
    """Each level has so many of the next one."""
    graphs = [
        subgraph(f"s{i}", *(node(width * i + 10 + at, f"s{i + 1}") for at in range(width)))
        for i in range(levels)
    ]
    graphs.append(subgraph(f"s{levels}", node(9999, "Source")))
    return ui(node(1, "s0"), definitions={"subgraphs": graphs})


def deep(levels: int) -> Any:
    return functools.reduce(lambda inner, _: [inner], range(levels), None)


def itself() -> dict[str, Any]:
    file: dict[str, Any] = ui()
    file["nodes"].append(file)
    return file


CIRCLE = ui(
    node(1, "Reroute", (), {"": 1}),
    node(2, "Reroute", (), {"": 2}),
    node(3, "SaveImage", (), {"images": 3}),
    links=[(1, 2, 1), (2, 1, 2), (3, 1, 3)],
)
REFUSED = {
    "of a newer editor": (ui(version=2), "newer than this client"),
    "of a newer editor, as a text": (ui(version="2.0"), "newer than this client"),
    "subgraph of a newer editor": (
        ui(definitions={"subgraphs": [{**subgraph("s"), "version": 2}]}),
        "the subgraph s has version 2",
    ),
    "subgraph in itself": (
        ui(node(1, "s"), definitions={"subgraphs": [subgraph("s", node(2, "s"))]}),
        "contains itself: s graph in s graph",
    ),
    "links in a circle": (CIRCLE, "go round in a circle"),
    "2 ** 60 nodes": (nested(60, 2), "more than 100000 nodes"),
    "5000 levels": (nested(5000, 1), "or 100 levels"),
    "an object in itself": (itself(), "contains itself"),
    "nested too deeply": (ui(node(1, "Source", deep(5000))), "nested too deeply"),
    "nodes are no objects": (ui(7), "not a list of objects"),  # type: ignore[arg-type]
    "a node without a type": (ui({"id": 1}), "node 1 of the workflow has no type"),
    "a link that is none": ({**ui(), "links": [[1, 2]]}, "this is not a link"),
    "60000 nodes": (ui(*({"id": i, "type": "Source"} for i in range(60_000))), "50000 nodes"),
    "10000 inputs": (ui(node(1, "Source", (), dict.fromkeys(map(str, range(10_000)), 1))), "5000"),
}


@pytest.mark.parametrize(("file", "words"), REFUSED.values(), ids=REFUSED)
def test_bad_files_are_refused_in_one_line(file: Any, words: str) -> None:
    """At once, in bounded memory."""
    begun = time.thread_time()
    with pytest.raises(WorkflowError, match=words) as caught:
        converted(file)
    assert time.thread_time() - begun < 20
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


def test_a_definition_that_asks_for_endless_inputs_is_refused() -> None:
    """A server's definitions are not trusted either."""
    template = {"input": {"required": {"i": ["IMAGE"]}}, "min": 10**9, "max": 10**9, "prefix": "p"}
    known = {"Grow": spec(g=["COMFY_AUTOGROW_V3", {"template": template}])}
    with pytest.raises(WorkflowError, match="too many inputs"):
        convert(ui(node(1, "Grow")), known)


def page_of_reroutes(count: int) -> dict[str, Any]:
    """So many inputs at the end of so many reroutes."""
    chain = [node(i, "Reroute", (), {"": i}) for i in range(1, count)]
    takers = [node(count + i, "SaveImage", (), {"images": count + i}) for i in range(count)]
    links = [(i, i - 1, i) for i in range(1, count)]
    links += [(count + i, count - 1, count + i) for i in range(count)]
    return ui(node(0, "Source", (1, "a")), *chain, *takers, links=links)


def test_a_long_chain_takes_no_square_of_its_length() -> None:
    """Also where as many inputs are at its end."""
    check_growth(converted, page_of_reroutes, 200)
    graph = converted(page_of_reroutes(1000)).graph
    assert graph["1999"]["inputs"]["images"] == ["0", 0]


# -- damage -----------------------------------------------------------------------------------

SCALARS = st.sampled_from([None, True, 0, -1, -10, -20, 3, 1e308, float("nan"), 10**30, "", "1"])
VALUES = st.one_of(SCALARS, st.sampled_from([[], {}, [[]], [1, 1, 0, 1, 0, "*"], {"a": 1}]))


@functools.cache
def small() -> list[dict[str, Any]]:
    """Files that are quick to damage: those that were made to be hard."""
    return [ui_ for name, ui_, _ in pairs("0.28.1") if "(crafted)" in name]


def spots(value: Any) -> Iterator[tuple[Any, Any]]:
    """Each place in a JSON value: what holds it, and its key."""
    ahead = [value]
    while ahead:
        holder = ahead.pop()
        keys = holder if isinstance(holder, dict) else range(len(holder))
        for key in keys:
            yield holder, key
            if isinstance(holder[key], (dict, list)):
                ahead.append(holder[key])


@settings(max_examples=examples(60))
@given(data=st.data())
def test_any_damage_gives_a_graph_or_a_workflow_error(data: st.DataObject) -> None:
    """And nothing else: a graph has what the server needs of each node."""
    file = copy.deepcopy(data.draw(st.sampled_from(small())))
    for _ in range(data.draw(st.integers(1, 4))):
        holder, key = data.draw(st.sampled_from([*spots(file)]))
        if data.draw(st.booleans()):
            holder[key] = copy.deepcopy(data.draw(VALUES))
        else:
            del holder[key]
    try:
        classes_in(file)
        graph = convert(file, definitions("0.28.1"), dynamic_prompts=First()).graph
    except WorkflowError:
        return
    json.dumps(graph)
    for one in graph.values():
        assert isinstance(one["class_type"], str)
        assert isinstance(one["inputs"], dict)
        assert isinstance(one["_meta"]["title"], str)


# -- by Workflow ------------------------------------------------------------------------------


class Server:
    """Gives definitions, and notes what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[set[str]] = []

    def node_definitions(self, classes: Any = None, *, refresh: bool = False) -> dict[str, Any]:
        self.asked.append(set(classes))
        return {name: DEFINITIONS[name] for name in classes if name in DEFINITIONS}


def test_load_asks_for_the_classes_in_the_file_only() -> None:
    """Once; those of subgraphs count, the page's own nodes do not."""
    server = Server()
    inner = subgraph("s", node(2, "Sampler", (1, "fixed", "fast")))
    notes = {"id": 5, "type": "Note"}
    file = ui(node(1, "s"), node(3, "Source"), notes, definitions={"subgraphs": [inner]})
    workflow = Workflow.load(file, server)
    assert server.asked == [{"Sampler", "Source"}]
    assert workflow["1:2"].class_type == "Sampler"


def test_load_warns_where_the_caller_stands(tmp_path: Path) -> None:
    """One warning for each, with this file as its place; strict raises."""
    path = tmp_path / "saved.json"
    path.write_text(json.dumps(ui(node(1, "Source", (1, "a")), node(2, "Gone"))))
    with pytest.warns(ConversionWarning, match="Gone") as caught:
        Workflow.load(path, DEFINITIONS)
    assert [one.filename for one in caught] == [__file__]
    with pytest.raises(WorkflowError, match=r"saved\.json: .*(?s:.*)Gone"):
        Workflow.load(path, DEFINITIONS, strict=True)


def test_the_largest_file_is_loaded_in_three_lines_a_character() -> None:
    """From its text, with the definitions at hand: 30 ms of a common processor."""
    file, prompt = pair("templates-1_click_multiple_character_angles")
    known, text = definitions("0.28.1"), json.dumps(file)
    loaded: list[Workflow] = []
    work = lines(lambda: loaded.append(Workflow.load(text, known)))
    assert loaded[0].nodes.keys() == prompt.keys()
    assert work < 3 * len(text)


def test_rows_of_a_group_come_with_their_number() -> None:
    """As many as were saved; the number itself is no input."""
    fields = {"required": {"name": ["STRING", {}], "seed": ["INT", {}]}}
    rows = ["COMFY_DYNAMICGROUP_V3", {"min": 1, "max": 9, "template": fields}]
    known = {"Rows": spec(group=rows, after=["INT", {}])}
    file = ui(node(1, "Rows", (2, "a", 5, "b", 6, 7)), node(2, "Rows"))
    graph = convert(file, known).graph
    assert graph["1"]["inputs"] == {
        "group.0.name": "a",
        "group.0.seed": 5,
        "group.1.name": "b",
        "group.1.seed": 6,
        "after": 7,
    }
    assert graph["2"]["inputs"] == {"group.0.name": "", "group.0.seed": 0, "after": 0}


# -- widgets ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("saved", "text"),
    [
        (None, ""),
        (True, "true"),
        (False, "false"),
        (5.0, "5"),
        (0.25, "0.25"),
        ([1, "a"], "1,a"),
        ({"a": 1}, "[object Object]"),
    ],
)
def test_a_field_of_text_makes_text_of_any_value(saved: Any, text: str) -> None:
    """As JavaScript does, when a file was saved for another version of the node."""
    assert converted(ui(node(1, "Prompt", (saved,)))).graph["1"]["inputs"] == {"text": text}


MANY = {"options": ["x", "y"], "multi_select": True}
FAR = {"remote": {"route": "/far"}}


@pytest.mark.parametrize(
    ("kind", "values", "sent"),
    [
        ([["a", "b"], {"control_after_generate": True}], ("b", "fixed", ""), "b"),
        (["COMBO", MANY], (["x"],), {"__value__": ["x"]}),
        (["COMBO", FAR], ("there", False), "there"),
        (["BOUNDING_BOX", {}], ({"x": 1}, "", "", "", ""), {"x": 1}),
        (["COLOR", {}], ("#ffffff",), "#ffffff"),
        (["IMAGEUPLOAD", {}], ("image",), None),
        (["CURVE", {}], ({"points": []},), {"__type__": "CURVE", "__value__": {"points": []}}),
        (["AUDIO_UI", {}], (), None),
    ],
    ids=["drawn", "several", "remote", "box", "colour", "button", "curve", "player"],
)
def test_a_widget_takes_as_many_values_as_the_page_saves(
    kind: list[Any], values: tuple[Any, ...], sent: Any
) -> None:
    """Those of its buttons and of what follows each run, too: the next widget gets its own."""
    known = {"Pick": spec(it=kind, after=["INT", {}])}
    found = convert(ui(node(1, "Pick", (*values, 7))), known)
    it = {} if sent is None else {"it": sent}
    assert found.graph["1"]["inputs"] == {**it, "after": 7}
    assert not found.warnings


def test_widgets_drawn_in_the_browser_are_warned_about() -> None:
    """It is sent as it was saved, and so are the buttons that the page puts before it."""
    buttons = {"upload 3d model": "up", "upload extra resources": "more", "clear": "clear"}
    known = {"Load": spec(model_file=[["a.glb"], {}], image=["LOAD_3D", {}], after=["INT", {}])}
    found = convert(ui(node(1, "Load", ("a.glb", *buttons.values(), "scene", 7))), known)
    inputs = {"model_file": "a.glb", **buttons, "image": "scene", "after": 7}
    assert found.graph["1"]["inputs"] == inputs
    (warning,) = found.warnings
    assert (warning.kind, warning.input) == ("browser", "image")


def test_a_widget_that_only_an_extension_has_is_said_by_its_type() -> None:
    """It stands in the file as an input that is a widget, and has no link."""
    known = {"Knob": spec(turn=["KNOB", {}])}
    file = ui(node(1, "Knob"))
    file["nodes"][0]["inputs"] = [{"name": "turn", "type": "KNOB", "widget": {"name": "turn"}}]
    found = convert(file, known)
    assert [str(one) for one in found.warnings] == [
        "node 1 (Knob), input 'turn': only an extension in the browser knows its widget (KNOB)"
    ]


def primitive(value: Any, kind: str) -> dict[str, Any]:
    outputs = [{"name": kind, "type": kind}]
    return node(1, "PrimitiveNode", (value, "fixed"), outputs=outputs)


@pytest.mark.parametrize(
    ("kind", "options", "value", "sent"),
    [
        ("INT", {}, 2.6, 3),
        ("INT", {"step": 8, "min": 4}, 21, 20),
        ("INT", {"step": 0.5}, 2, 2),
        ("FLOAT", {"step": 0.1}, 0.26, 0.3),
        ("FLOAT", {"step": 10}, 123.4, 123.4),
        ("FLOAT", {"round": 0.25, "max": 1}, 7.3, 1),
        ("FLOAT", {"step": 0.1, "max": "much"}, 9999.96, 10000),
        ("FLOAT", {"step": 0.1}, float("inf"), float("inf")),
        ("INT", {"step": 2}, float("inf"), float("inf")),
        ("INT", {}, True, True),
        ("STRING", {}, "a", "a"),
        ("STRING", {}, 5, 5),
    ],
)
def test_a_primitive_sends_a_value_that_its_target_can_have(
    kind: str, options: dict[str, Any], value: Any, sent: Any
) -> None:
    """In steps and digits of the widget, and within its range."""
    target = node(2, "Target", (None,), {"it": 7})
    target["inputs"][0]["widget"] = {"name": "it"}
    file = ui(primitive(value, kind), target, links=[(7, 1, 2)])
    graph = convert(file, {"Target": spec(it=[kind, options])}).graph
    assert graph["2"]["inputs"] == {"it": sent}


def test_a_primitive_of_another_type_sends_nothing() -> None:
    """It was linked elsewhere before: its value is of that time."""
    target = node(2, "Source", (64, "a"), {"width": 7})
    target["inputs"][0]["widget"] = {"name": "width"}
    graph = converted(ui(primitive("text", "STRING"), target, links=[(7, 1, 2)])).graph
    assert graph["2"]["inputs"] == {"width": 64, "name": "a"}


@pytest.mark.parametrize(("is_filled", "name"), [(True, "a is 64"), (False, "a is %Wide.width%")])
def test_a_primitive_runs_widget_replace_only_where_set(is_filled: bool, name: str) -> None:
    target = node(2, "Source", (64, "?"), {"name": 7}, title="Wide")
    target["inputs"][0]["widget"] = {"name": "name"}
    first = primitive("a is %Wide.width%", "STRING")
    first["properties"] = {"Run widget replace on values": is_filled}
    graph = converted(ui(first, target, links=[(7, 1, 2)])).graph
    assert graph["2"]["inputs"] == {"width": 64, "name": name}


GROWS = {"input": {"required": {"image": ["IMAGE"]}}}


@pytest.mark.parametrize(
    ("template", "names"),
    [
        ({**GROWS, "prefix": "image", "min": 1, "max": 4}, ["image0", "image1"]),
        ({**GROWS, "names": ["left", "right", "top"], "min": 1}, ["left", "right"]),
        ({"input": {"required": {"image": ["IMAGE"], "mask": ["MASK"]}}}, ["image0", "mask1"]),
    ],
    ids=["numbers", "names", "pairs"],
)
def test_a_group_of_inputs_that_grows_keeps_its_links(
    template: dict[str, Any], names: list[str]
) -> None:
    """Also in an option of a widget that chooses, as far as the page itself does."""
    group = {"images": ["COMFY_AUTOGROW_V3", {"template": template}]}
    choice = {"options": [{"key": "many", "inputs": {"required": group}}, {"no": "key"}]}
    known = {
        **DEFINITIONS,
        "Grow": spec(**group),
        "Choose": spec(how=["COMFY_DYNAMICCOMBO_V3", choice]),
    }
    for kind, before in (("Grow", ""), ("Choose", "how.")):
        links = {f"{before}images.{name}": 7 + at for at, name in enumerate(names)}
        values = ("many",) if before else ()
        file = ui(
            node(1, "Source", (8, "a")),
            node(2, kind, values, links),
            links=[(7, 1, 2), (8, 1, 2)],
        )
        inputs = convert(file, known).graph["2"]["inputs"]
        assert {name for name in inputs if name != "how"} == set(links)


def test_damaged_definitions_cost_their_input_only() -> None:
    """A node pack may send anything for one."""
    known = {
        "Odd": {
            **spec(nothing=[], number=[5], text="STRING", choice=[["a"], None], after=["INT"]),
            "input_order": {"required": ["after", 5, "gone"], "optional": "choice"},
            "output": None,
        }
    }
    graph = convert(ui(node(1, "Odd", (7, "a"))), known).graph
    assert graph["1"]["inputs"] == {"after": 7, "choice": "a"}


# -- links ------------------------------------------------------------------------------------


def test_links_are_read_as_old_and_new_files_have_them() -> None:
    """As lists or objects, with numbers or texts, and with holes where one was deleted."""
    file = ui(
        node("1", "Source", (1, "a")),  # type: ignore[arg-type]
        node(2, "SaveImage", ("p",), {"images": 7}),
        node(3, "SaveImage", ("p",), {"images": 8}),
    )
    ends = {"origin_id": "1", "origin_slot": 0, "target_id": 3, "target_slot": "0"}
    file["links"] = [None, ["7", 1.0, 0, "2", 0, 0], {"id": 8, "type": 0, **ends}]
    graph = converted(file).graph
    assert [graph[key]["inputs"]["images"] for key in "23"] == [["1", 0]] * 2


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ({"links": {"1": []}}, "links is not a list"),
        ({"links": [[1, None, 0, 2, 0]]}, "this is not a link"),
        ({"nodes": [{"id": 1.5, "type": "A"}]}, "a node has no id"),
        ({"definitions": {"subgraphs": [{"id": "", "nodes": []}]}}, "has no id"),
    ],
)
def test_damage_to_the_whole_is_refused(damage: dict[str, Any], words: str) -> None:
    """Nothing could be made of the rest."""
    with pytest.raises(WorkflowError, match=words):
        converted({**ui(), **damage})


@pytest.mark.parametrize(
    ("slots", "outputs", "wanted", "link"),
    [
        (("MASK", "IMAGE"), ("IMAGE",), "IMAGE", ["1", 0]),
        (("MASK", "IMAGE"), ("IMAGE", "MASK"), "*", None),
        (("LATENT", "MASK"), ("IMAGE",), "IMAGE", None),
        (("MASK", "*"), ("IMAGE",), "IMAGE", ["1", 0]),
        (("MASK", "IMAGE"), (), "IMAGE", None),
    ],
    ids=["by type", "by place", "of no type", "of any type", "no output"],
)
def test_a_bypassed_node_hands_on_the_input_that_fits(
    slots: tuple[str, ...], outputs: tuple[str, ...], wanted: str, link: Any
) -> None:
    """Of the same place if it fits, else the first of the type; a link is at its second input."""
    known = {
        **DEFINITIONS,
        "Pass": spec(None, outputs, a=[slots[0]], b=[slots[1]]),
        "Take": spec(None, (), it=[wanted]),
    }
    file = ui(
        node(1, "Source", (8, "a")),
        node(2, "Pass", (), {"b": 7}, mode=4, outputs=[{"type": kind} for kind in outputs]),
        node(3, "Take", (), {"it": 8}),
        links=[(7, 1, 2), (8, 2, 3)],
    )
    assert convert(file, known).graph["3"]["inputs"].get("it") == link


@pytest.mark.parametrize("place", [0, 1])
def test_of_two_inputs_that_fit_a_bypassed_node_hands_on_the_one_of_the_same_place(
    place: int,
) -> None:
    known = {
        **DEFINITIONS,
        "Mix": spec(None, ("IMAGE", "IMAGE"), a=["IMAGE"], b=["IMAGE"]),
    }
    file = ui(
        node(1, "Source", (8, "a")),
        node(2, "Source", (8, "b")),
        node(3, "Mix", (), {"a": 6, "b": 7}, mode=4, outputs=[{"type": "IMAGE"}] * 2),
        node(4, "SaveImage", ("x",), {"images": 8}),
    )
    file["links"] = [
        [6, 1, 0, 3, 0, "IMAGE"],
        [7, 2, 0, 3, 1, "IMAGE"],
        [8, 3, place, 4, 0, "IMAGE"],
    ]
    assert convert(file, known).graph["4"]["inputs"]["images"] == [f"{place + 1}", 0]


# -- promoted widgets of 2025 -----------------------------------------------------------------


def widget_slot(name: str, kind: str = "INT", link: int | None = None) -> dict[str, Any]:
    return {"name": name, "type": kind, "link": link, "widget": {"name": name}}


def host(inner: dict[str, Any], entries: Any, values: Any = (), **more: Any) -> dict[str, Any]:
    """A file with an instance of a subgraph that shows widgets of the nodes inside."""
    shows = node(1, "s", values, properties={"proxyWidgets": entries}, **more)
    return ui(shows, definitions={"subgraphs": [inner]})


SAMPLER = node(2, "Sampler", (5, "fixed", "fast"), inputs=[widget_slot("seed")])


@pytest.mark.parametrize(
    ("entries", "seed"),
    [
        ([["2", "seed"]], 9),
        ([["2", "3: 4: seed"]], 9),
        ([["2", "seed"], ["2", "seed"]], 8),
        ([["2", "seed"], "damaged"], 5),
        ([["7", "seed"]], 5),
        ([["2", "$$canvas-image-preview"]], 5),
        ([["2", "nothing"]], 5),
        ("damaged", 5),
    ],
)
def test_an_instance_shows_widgets_of_the_nodes_inside(entries: Any, seed: int) -> None:
    """What it has for them counts; the page takes all entries or none."""
    file = host(subgraph("s", copy.deepcopy(SAMPLER)), entries, (9, 8))
    assert converted(file).graph["1:2"]["inputs"] == {"seed": seed, "mode": "fast"}


@pytest.mark.parametrize(
    ("entry", "seed"),
    [(["4", "seed"], 9), (["4", "seed", "2"], 9), (["4", "2: seed"], 9), (["4", "mode", "2"], 5)],
)
def test_an_instance_shows_widgets_of_an_instance_inside(entry: list[str], seed: int) -> None:
    """By the name that they have there, or by the node that they belong to."""
    inner = {
        **subgraph("t", {**copy.deepcopy(SAMPLER), "inputs": [widget_slot("seed", link=5)]}),
        "inputs": [{"name": "seed", "type": "INT", "linkIds": [5]}],
        "links": [[5, -10, 0, 2, 0, "INT"]],
    }
    outer = subgraph("s", node(4, "t"))
    file = host(outer, [entry], (9,))
    file["definitions"]["subgraphs"].append(inner)
    assert converted(file).graph["1:4:2"]["inputs"]["seed"] == seed


@pytest.mark.parametrize(
    ("more", "values", "entries", "width"),
    [
        ({}, (96,), [["3", "value"]], 96),
        ({"title": "Size"}, (), [["3", "value"]], 64),
        ({}, (96, 1), [["3", "value"], ["3", "control_after_generate"]], 64),
        ({"outputs": [{"name": "STRING", "type": "STRING"}]}, (96,), [["3", "value"]], 32),
        ({"outputs": []}, (96,), [["3", "value"]], 96),
    ],
    ids=["its value", "what it held", "of two widgets", "of another type", "of any type"],
)
def test_an_instance_shows_a_primitive_inside(
    more: dict[str, Any], values: Any, entries: Any, width: int
) -> None:
    """It feeds what the PrimitiveNode fed."""
    source = node(2, "Source", (32, "a"), inputs=[widget_slot("width", link=6)])
    primitive_ = {**primitive(64, "INT"), "id": 3, **more}
    inner = {**subgraph("s", source, primitive_), "links": [[6, 3, 0, 2, 0, "INT"]]}
    file = host(inner, entries, values)
    assert converted(file).graph["1:2"]["inputs"] == {"width": width, "name": "a"}


def _with_port(values: Any, entries: Any = ()) -> dict[str, Any]:
    """An instance whose definition has an input of its own for the seed."""
    sampler = {**copy.deepcopy(SAMPLER), "inputs": [widget_slot("seed", link=5)]}
    inner = {
        **subgraph("s", sampler),
        "inputs": [{"name": "seed", "type": "INT", "linkIds": [5]}],
        "links": [[5, -10, 0, 2, 0, "INT"]],
    }
    return host(inner, list(entries), values)


def _with_nested(values: Any) -> dict[str, Any]:
    """An instance that shows a widget of an instance inside, which has a value for it."""
    inner = _with_port(())["definitions"]["subgraphs"][0]
    outer = subgraph("o", node(4, "s", (7,)))
    file = host(outer, [["4", "seed"]], values)
    file["nodes"][0]["type"] = "o"
    file["definitions"]["subgraphs"].append(inner)
    return file


def _with_primitive(values: Any) -> dict[str, Any]:
    """An instance that shows a PrimitiveNode inside."""
    sampler = {**copy.deepcopy(SAMPLER), "inputs": [widget_slot("seed", link=6)]}
    inner = subgraph("s", sampler, {**primitive(64, "INT"), "id": 3})
    inner["links"] = [[6, 3, 0, 2, 0, "INT"]]
    return host(inner, [["3", "value"]], values)


@pytest.mark.parametrize("version", ["1.38.0", "1.41.3", "1.58.1", None])
@pytest.mark.parametrize(
    ("make", "null", "given", "seed"),
    [
        (lambda v: host(subgraph("s", copy.deepcopy(SAMPLER)), [["2", "seed"]], v), (None,), 9, 5),
        (lambda v: _with_port(v), (None,), 9, 5),
        (lambda v: _with_port(v), {"seed": None}, 9, 5),
        (lambda v: _with_port(v, [["-1", "seed"]]), (None,), 9, 5),
        (lambda v: _with_port(v, [["2", "seed"]]), (None,), 9, 5),
        (_with_nested, (None,), 9, 7),
        (_with_primitive, (None,), 9, 64),
    ],
    ids=["widget", "port", "port by name", "entry of a port", "its widget", "nested", "primitive"],
)
def test_null_of_a_promoted_widget_is_the_value_inside(
    make: Any, null: Any, given: int, seed: int, version: str | None
) -> None:
    """Whatever page saved the file; pages 1.38 to 1.41 did so for what nobody had changed."""
    for values, wanted in ((null, seed), ((given,), given)):
        file = {**make(values), "extra": {"frontendVersion": version}}
        done = converted(file)
        (sampler,) = (one for one in done.graph.values() if one["class_type"] == "Sampler")
        assert (sampler["inputs"]["seed"], done.warnings) == (wanted, ())


@pytest.mark.parametrize("kind", ["STRING", "INT", "FLOAT", "BOOLEAN", "COMBO", "choices"])
@pytest.mark.parametrize("options", [{}, {"remote": {"route": "/x"}}])
def test_null_is_never_sent_unsaid(kind: str, options: dict[str, Any]) -> None:
    """In a widget, through a subgraph, and from a PrimitiveNode; with or without choices."""
    known: dict[str, Any] = {**DEFINITIONS}
    known["Take"] = spec(it=[["a"] if kind == "choices" else kind, options])
    slot = widget_slot("it", "COMBO" if kind == "choices" else kind, link=5)
    inner = {
        **subgraph("s", node(2, "Take", (None,), inputs=[slot])),
        "inputs": [{"name": "it", "type": slot["type"], "linkIds": [5]}],
        "links": [[5, -10, 0, 2, 0, slot["type"]]],
    }
    fed = ui(
        {**primitive(None, slot["type"]), "id": 1},
        node(2, "Take", ("a",), inputs=[slot]),
        links=[(5, 1, 2)],
    )
    for file in (ui(node(2, "Take", (None,))), host(inner, [], (None,)), fed):
        done = convert(file, known)
        (taken,) = (one for one in done.graph.values() if one["class_type"] == "Take")
        assert taken["inputs"] == {"it": None}
        assert [(one.kind, one.input) for one in done.warnings] == [("value", "it")]
        with pytest.raises(WorkflowError, match="null is no"):
            convert(file, known, strict=True)


# -- prompts ----------------------------------------------------------------------------------


def test_prompts_stay_as_they_are_and_one_warning_says_so() -> None:
    """However many there are."""
    file = ui(node(1, "Prompt", ("a {red|green} fox",)), node(2, "Prompt", ("b // c",)))
    warning = only_warning(file)
    assert (warning.kind, warning.node_id) == ("dynamic_prompt", None)
    assert converted(file).graph["1"]["inputs"]["text"] == "a {red|green} fox"


def test_a_seed_resolves_prompts_the_same_way_each_time() -> None:
    """And leaves no warning."""
    file = ui(node(1, "Prompt", ("{" + "|".join(map(str, range(1000))) + "}",)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = [Workflow.load(file, DEFINITIONS, dynamic_prompts=seed) for seed in (7, 7, 8)]
    texts = [workflow["Prompt"]["text"] for workflow in loaded]
    assert texts[0] == texts[1] != texts[2]
    assert texts[0].isdecimal()


def test_a_loaded_file_resolves_its_prompts_later() -> None:
    """Texts that are no prompts keep their braces; so do copies until they are resolved."""
    file = ui(node(1, "Prompt", ("{a|b} /* c */",)), node(2, "Source", (1, "{a|b}")))
    with pytest.warns(ConversionWarning, match="resolve_prompts"):
        workflow = Workflow.load(file, DEFINITIONS)
    other = workflow.copy()
    other.resolve_prompts(First())
    assert other["Prompt"]["text"] == "a "
    assert other["Source"]["name"] == "{a|b}"
    assert workflow["Prompt"]["text"] == "{a|b} /* c */"


def test_a_promoted_text_keeps_its_braces() -> None:
    """As the page leaves it."""
    file, prompt = pair("crafted145_colliding_ids")
    workflow = Workflow.load(file, definitions("0.28.1"))
    workflow.resolve_prompts(First())
    assert workflow["8:2"]["text"] == prompt["8:2"]["inputs"]["text"] == "blurry {a|b}"
