"""Inputs that Anything Everywhere feeds: what is unclear, and what the server lacks.

``test_convert_pairs`` compares what is clear with what the frontend sends.
"""

from __future__ import annotations

from typing import Any

import pytest

from comfy_client import ConversionWarning, WorkflowError
from comfy_client.workflow.convert import Conversion, convert
from tests.helpers.conformance import definitions

IMAGE = {"name": "image", "type": "IMAGE", "link": None}


def source(node_id: int, **more: Any) -> dict[str, Any]:
    outputs = [{"name": "IMAGE", "type": "IMAGE"}]
    return {
        "id": node_id,
        "type": "EmptyImage",
        "widgets_values": [64, 64, 1, 0],
        "outputs": outputs,
        **more,
    }


def everywhere(node_id: int, *links: int, **settings: Any) -> dict[str, Any]:
    names = ["anything", *(f"anything{n}" for n in range(1, len(links)))]
    inputs = [
        {"name": name, "type": "IMAGE", "label": "IMAGE", "link": link}
        for name, link in zip(names, links, strict=True)
    ]
    properties = {"ue_properties": {"version": "7.8", **settings}}
    return {
        "id": node_id,
        "type": "Anything Everywhere",
        "inputs": inputs,
        "properties": properties,
    }


def invert(node_id: int = 9, **more: Any) -> dict[str, Any]:
    return {"id": node_id, "type": "ImageInvert", "inputs": [IMAGE], **more}


def ui(*nodes: dict[str, Any], links: Any, **more: Any) -> dict[str, Any]:
    lists = [[number, source, 0, target, slot, "IMAGE"] for number, source, target, slot in links]
    return {"nodes": list(nodes), "links": lists, "version": 0.4, **more}


def one(*targets: dict[str, Any], more: Any = None, **settings: Any) -> dict[str, Any]:
    """A file with one picture that goes everywhere."""
    nodes = [source(1), everywhere(2, 7, **settings), *(targets or [invert()])]
    return ui(*nodes, links=[(7, 1, 2, 0)], **(more or {}))


def converted(file: dict[str, Any], version: str = "0.28.1") -> Conversion:
    """By a server that lacks the pack, but for ``packs``."""
    return convert(file, definitions(version))


def fed(file: dict[str, Any], node_id: str = "9") -> Any:
    return converted(file).graph[node_id]["inputs"].get("image")


def only_warning(file: dict[str, Any]) -> ConversionWarning:
    (warning,) = converted(file).warnings
    return warning


def test_the_server_needs_no_pack_for_it() -> None:
    """A node of the pack does nothing on the server; it is left out where its class is absent."""
    file = one()
    without, with_pack = converted(file), converted(file, "packs")
    assert without.graph.keys() == {"1", "9"}
    assert with_pack.graph == {**without.graph, "2": with_pack.graph["2"]}
    assert with_pack.graph["2"]["inputs"] == {"anything": ["1", 0]}
    assert without.graph["9"]["inputs"] == {"image": ["1", 0]}
    assert (without.warnings, with_pack.warnings) == ((), ())


def test_of_nodes_with_one_priority_none_feeds_an_input() -> None:
    """The warning names them."""
    file = ui(
        source(1),
        source(3),
        everywhere(2, 7),
        everywhere(4, 8),
        invert(),
        links=[(7, 1, 2, 0), (8, 3, 4, 0)],
    )
    warning = only_warning(file)
    assert (warning.kind, warning.node_id, warning.input) == ("link", "9", "image")
    assert "nodes 2, 4 offer it their output with the same priority" in str(warning)
    assert fed(file) is None
    file["nodes"][2]["properties"]["ue_properties"]["priority"] = 60
    assert (fed(file), converted(file).warnings) == (["1", 0], ())


COLLAPSED = {"pos": [0, 100], "size": [300, 200], "flags": {"collapsed": True}}
GROUP = {"groups": [{"title": "Corner", "bounding": [-50, 0, 150, 400]}]}


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (one(title_regex="(a+)+b"), "its regular expression is too involved"),
        (one(input_regex=r"(?<=x)image"), "its regular expression is too involved"),
        (one(title_regex="a*b*c*"), "its regular expression is too involved"),
        (one(title_regex="a?" * 7 + "[bc]"), "its regular expression is too involved"),
        (one(title_regex="(a.|.)" * 7), "its regular expression is too involved"),
        (one(title_regex="x" * 201), "its regular expression is too involved"),
        (
            one(invert(**COLLAPSED), group_regex="Corner", more=GROUP),
            "it is restricted to groups, and a collapsed node lies at a group's border",
        ),
    ],
)
def test_values_that_only_the_browser_knows_are_warned_about(
    file: dict[str, Any], reason: str
) -> None:
    """The input is left out, and the warning says what to do."""
    warning = only_warning(file)
    assert (warning.kind, warning.node_id, warning.input) == ("browser", "9", "image")
    text = f"only the browser knows whether node 2 'Anything Everywhere' feeds it: {reason}; link"
    assert text in str(warning)
    assert fed(file) is None


def test_a_clear_offer_of_higher_priority_is_taken_all_the_same() -> None:
    """An unclear one matters only if it could win."""
    file = ui(
        source(1),
        source(3),
        everywhere(2, 7, title_regex="(a+)+b", priority=5),
        everywhere(4, 8),
        invert(),
        links=[(7, 1, 2, 0), (8, 3, 4, 0)],
    )
    assert (fed(file), converted(file).warnings) == (["3", 0], ())


def test_a_label_that_is_too_involved_is_unclear() -> None:
    """With rule 4, the labels of several inputs of one type are regular expressions."""
    nodes = [source(1), everywhere(2, 7, 8, repeated_type_rule=4), invert()]
    nodes[1]["inputs"][0]["label"] = "(im+)*age"
    nodes[1]["inputs"][1]["label"] = "mask"
    warning = only_warning(ui(*nodes, links=[(7, 1, 2, 0), (8, 1, 2, 1)]))
    assert "its regular expression is too involved" in str(warning)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"title_regex": "(Invert"}, ["1", 0]),  # no expression in a browser either
        ({"title_regex": 5}, ["1", 0]),
        ({"title_regex": r"\bInvert\b"}, ["1", 0]),
        ({"title_regex": "Invert|Other", "title_regex_invert": True}, None),
        ({"input_regex": "^(image|mask)$"}, ["1", 0]),
        ({"color_restricted": 1, "group_restricted": 1}, None),
    ],
)
def test_restrictions_are_read_as_in_the_browser(settings: dict[str, Any], expected: Any) -> None:
    """Plain regular expressions mean the same to JavaScript and Python."""
    assert fed(one(**settings)) == expected
    assert not converted(one(**settings)).warnings


@pytest.mark.parametrize(
    ("place", "inside"),
    [
        ({"pos": {"0": 0, "1": 100}, "size": {"0": 100, "1": 200}}, True),  # of old files
        ({"pos": [90, 100], "size": [100, 200]}, False),  # its middle is outside
        ({"pos": [-20, 380], "size": [100, 40], "flags": {"collapsed": True}}, True),
        ({"pos": [-40, 800], "size": [10, 20], "flags": {"collapsed": True}}, False),
        ({"pos": "damaged"}, True),
    ],
)
def test_a_node_is_in_a_group_with_its_middle(place: dict[str, Any], inside: bool) -> None:
    """The title bar counts for its height."""
    groups = {"groups": [{"bounding": [-50, -50, 160, 450]}, {"title": "x", "bounding": [900]}]}
    if "flags" in place:  # as narrow and as wide as it may be, it lies on the same side
        groups["groups"][0]["bounding"] = [-500, 0, 2000, 420]
    file = one(invert(**place), group_regex="^$", more=groups)
    assert fed(file) == (["1", 0] if inside else None)


@pytest.mark.parametrize("version", [None, "7"])
@pytest.mark.parametrize("restricted", [True, False])
def test_settings_of_before_version_7_are_found(version: str | None, restricted: bool) -> None:
    """They are properties of the node, and expressions its widgets."""
    file = one(invert(color="#322"))
    sender = file["nodes"][1]
    sender["type"] = "Anything Everywhere?"
    sender["properties"] = {"color_restricted": restricted, "ue_properties": {"version": version}}
    sender["widgets_values"] = ["Invert", ".*", None]
    assert fed(file) == (None if restricted else ["1", 0])
    sender["widgets_values"] = {"title_regex": "Other"}  # never so in such a file
    assert fed(file) == (None if restricted else ["1", 0])


def test_inputs_may_reject_what_is_offered() -> None:
    """A node may reject all; an input with a widget takes what it is set to take."""
    picture = {"name": "width", "type": "INT", "widget": {"name": "width"}, "link": None}
    old = source(5, inputs=[picture], properties={"widget_ue_connectable": {}})
    nodes = [
        {"id": 1, "type": "PrimitiveInt", "widgets_values": [8, "fixed"]},
        everywhere(2, 7),
        source(3, inputs=[picture]),  # an input in place of its widget, in an old file
        old,
        source(6, properties={"ue_properties": {"widget_ue_connectable": {"width": True}}}),
        source(8, inputs=[picture], properties={"rejects_ue_links": True}),
    ]
    file = ui(*nodes, links=[])
    file["links"] = [[7, 1, 0, 2, 0, "INT"]]
    graph = converted(file).graph
    assert {key: node["inputs"]["width"] for key, node in graph.items() if key != "1"} == {
        "3": ["1", 0],
        "5": 64,
        "6": ["1", 0],
        "8": 64,
    }


def test_a_sender_without_a_source_offers_nothing() -> None:
    """Its source is muted, bypassed without an input, absent, or in a circle of such nodes."""
    for node in (source(1, mode=2), source(1, mode=4), source(5)):
        file = one()
        file["nodes"][0] = node
        assert fed(file) is None
    loop = [
        {**invert(each, mode=4), "inputs": [{**IMAGE, "link": link}]}
        for each, link in ((1, 21), (3, 22))
    ]
    file = ui(*loop, everywhere(2, 7), invert(), links=[(7, 1, 2, 0), (21, 3, 1, 0), (22, 1, 3, 0)])
    assert fed(file) is None


def test_groups_do_not_reach_from_a_subgraph() -> None:
    """The extension compares the ids of other nodes there."""
    inner = {
        "id": "sub",
        "nodes": [source(1), everywhere(2, 7, group_regex="x"), invert()],
        "links": [
            {
                "id": 7,
                "origin_id": 1,
                "origin_slot": 0,
                "target_id": 2,
                "target_slot": 0,
                "type": "IMAGE",
            }
        ],
    }
    file = {"nodes": [{"id": 5, "type": "sub"}], "definitions": {"subgraphs": [inner]}}
    warning = only_warning({**file, "links": [], "version": 0.4})
    assert (warning.node_id, warning.kind) == ("5:9", "browser")
    assert "it is restricted to groups from within a subgraph" in str(warning)


def test_a_subgraphs_output_with_several_offers_gets_none() -> None:
    """Without a warning: the node that it would feed says what it lacks."""
    inner = {
        "id": "sub",
        "nodes": [source(1), source(3), everywhere(2, 7), everywhere(4, 8)],
        "links": [
            {
                "id": 6 + one // 2 + 1,
                "origin_id": one,
                "origin_slot": 0,
                "target_id": one + 1,
                "target_slot": 0,
                "type": "IMAGE",
            }
            for one in (1, 3)
        ],
        "outputs": [{"name": "out", "type": "IMAGE"}],
    }
    target = {**invert(), "inputs": [{**IMAGE, "link": 9}]}
    file = ui({"id": 5, "type": "sub"}, target, links=[(9, 5, 9, 0)])
    file["definitions"] = {"subgraphs": [inner]}
    assert fed(file) is None


@pytest.mark.long
def test_too_many_offers_are_an_error() -> None:
    """Each is compared with each input, so a small file could take hours."""
    many = 2300
    nodes = [source(1), *(everywhere(n, 10_000 + n) for n in range(2, many))]
    nodes += [{"id": 20_000 + n, "type": "x", "inputs": [IMAGE]} for n in range(many)]
    links = [(10_000 + n, 1, n, 0) for n in range(2, many)]
    with pytest.raises(WorkflowError, match="too many inputs could be fed by Anything Everywhere"):
        converted(ui(*nodes, links=links))
