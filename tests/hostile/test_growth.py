"""Files of strangers: twice the file takes twice the work, whatever it repeats.

Work is counted in lines of the package that run, never in seconds, so that a busy machine changes
nothing.  What runs in C is not seen that way: for that, files are so large that a square would
take minutes of CPU, and are read in a few seconds.
"""

from __future__ import annotations

import functools
import io
import json
import struct
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from comfy_client import Workflow, models
from comfy_client.errors import WorkflowError
from comfy_client.workflow.codegen import stubs
from comfy_client.workflow.convert import convert
from comfy_client.workflow.explain import explain_rejection
from comfy_client.workflow.graph import check_graph
from comfy_client.workflow.seeds import seed_before
from comfy_client.workflow.validate import validate
from tests.helpers.long import but
from tests.helpers.work import check_growth
from tests.hostile.test_bounds import within

TEXT = ["STRING", {"multiline": True, "dynamicPrompts": True}]
GROUP = {"input": {"required": {"x": ["IMAGE", {}]}}, "prefix": "x", "min": 1, "max": 100}


def known(required: dict[str, Any], output: tuple[str, ...] = (), **more: Any) -> dict[str, Any]:
    return {
        "input": {"required": required},
        "output": [*output],
        "output_name": [*output],
        "is_input_list": False,
        **more,
    }


DEFINITIONS: dict[str, Any] = {
    "Text": known({"text": TEXT}, ("CONDITIONING",)),
    "Join": known({"a": ["CONDITIONING"], "b": ["CONDITIONING"]}, ("CONDITIONING",)),
    "Save": known({"images": ["IMAGE"]}, output_node=True),
    "SaveImage": known(
        {"images": ["IMAGE"], "filename_prefix": ["STRING", {"default": "x"}]}, output_node=True
    ),
    "CustomCombo": known({"choice": ["COMBO", {"options": []}]}, ("STRING",)),
    "Grow": known({"group": ["COMFY_AUTOGROW_V3", {"template": GROUP}]}, ("IMAGE",)),
    "Choose": known(
        {
            "how": [
                "COMFY_DYNAMICCOMBO_V3",
                {
                    "options": [
                        {
                            "key": "a",
                            "inputs": {
                                "required": {"group": ["COMFY_AUTOGROW_V3", {"template": GROUP}]}
                            },
                        },
                        {"key": "b", "inputs": {"required": {"y": ["INT", {}]}}},
                    ]
                },
            ]
        },
        ("IMAGE",),
    ),
    "Rows": known(
        {
            "rows": [
                "COMFY_DYNAMICGROUP_V3",
                {"template": {"required": {"t": ["STRING", {}]}}, "min": 0},
            ]
        }
    ),
}


OLD_DEFINITIONS = {
    name: {key: value for key, value in one.items() if key != "is_input_list"}
    for name, one in DEFINITIONS.items()
}


# -- pages ----------------------------------------------------------------------------------


def page(nodes: list[Any], links: list[Any] | None = None, *subgraphs: Any) -> dict[str, Any]:
    return {
        "nodes": nodes,
        "links": links or [],
        "version": 0.4,
        "definitions": {"subgraphs": [*subgraphs]},
    }


def sub(nodes: list[Any], links: list[Any] | None = None, **more: Any) -> dict[str, Any]:
    return {
        "id": "s",
        "name": "s",
        "nodes": nodes,
        "links": links or [],
        "inputs": [],
        "outputs": [],
        "version": 1,
        **more,
    }


def text_node(node_id: object, text: object = "x", **more: Any) -> dict[str, Any]:
    return {
        "id": node_id,
        "type": "Text",
        "inputs": [{"name": "text", "type": "STRING", "widget": {"name": "text"}, "link": None}],
        "outputs": [{"name": "CONDITIONING", "type": "CONDITIONING"}],
        "widgets_values": [text],
        **more,
    }


def slot(name: str, kind: str = "IMAGE", link: int | None = None) -> dict[str, Any]:
    return {"name": name, "type": kind, "link": link}


def instances(n: int, **more: Any) -> list[Any]:
    return [{"id": i + 1, "type": "s", **more} for i in range(n)]


def links_of_one_port(n: int, links: int = 0) -> Any:
    inner = sub(
        [{"id": 1, "type": "Odd", "inputs": [slot("a", "X", 1)]}],
        [[1, -10, 0, 1, 0, "X"]],
        inputs=[{"name": "p", "type": "X", "linkIds": [1] * (links or n)}],
    )
    return page(instances(n), [], inner)


def page_of_hidden_targets(n: int) -> Any:
    """A port that is linked to instances, which show no widget."""
    deeper = sub([], id="t", inputs=[{"name": "a", "type": "X"}])
    nodes = [{"id": i, "type": "t", "inputs": [slot("a", "X", i)]} for i in range(1, n)]
    inner = sub(
        nodes,
        [[i, -10, 0, i, 0, "X"] for i in range(1, n)],
        inputs=[{"name": "p", "type": "X", "linkIds": [*range(1, n)]}],
    )
    return page(instances(n, mode=2), [], inner, deeper)


def levels(depth: int, letters: int) -> Any:
    """Each level has an instance of the next, with a long id, and nodes."""
    subgraphs = [
        sub([{"id": "x" * letters, "type": f"s{i + 1}"}, *map(text_node, range(50))], id=f"s{i}")
        for i in range(depth)
    ]
    return page(
        [{"id": i, "type": "s0"} for i in range(20)], [], *subgraphs, sub([], id=f"s{depth}")
    )


def list_types(n: int) -> Any:
    big = ",".join(f"A{i}" for i in range(n))
    inputs = [slot(f"i{j}", f"{big},B{j}") for j in range(n // 100)]
    middle = {
        "id": 1,
        "type": "Odd",
        "mode": 4,
        "inputs": inputs,
        "outputs": [{"name": "o", "type": "Z1,Z2"}],
    }
    users = [
        {"id": 10 + i, "type": "Save", "inputs": [slot("images", f"Q{i},R", i + 1)]}
        for i in range(n // 100)
    ]
    return page([middle, *users], [[i + 1, 1, 0, 10 + i, 0, "X"] for i in range(n // 100)])


def targets_of_one_port(n: int, kind: str = "Odd") -> Any:
    nodes = [{"id": i, "type": kind, "inputs": [slot("a", "X", i)]} for i in range(1, n)]
    inner = sub(
        nodes,
        [[i, -10, 0, i, 0, "X"] for i in range(1, n)],
        inputs=[{"name": "p", "type": "X", "linkIds": [*range(1, n)]}],
    )
    return page(instances(n, mode=2), [], inner)


def dangling_links_of_one_port(n: int) -> Any:
    return page(
        instances(n), [], sub([], inputs=[{"name": "p", "type": "X", "linkIds": [*range(n)]}])
    )


def links_of_one_output(n: int) -> Any:
    inner = sub([text_node(1)], outputs=[{"name": "o", "type": "X", "linkIds": [*range(n)]}])
    users = [{"id": i, "type": "Save", "inputs": [slot("images", link=i)]} for i in range(2, n + 2)]
    return page(
        [{"id": 1, "type": "s"}, *users], [[i, 1, 0, i, 0, "X"] for i in range(2, n + 2)], inner
    )


def promoted(n: int, count: int | None = None, **more: Any) -> Any:
    """One instance that promotes the widgets of many nodes."""
    names = [[str(10 + i), "text"] for i in range(n if count is None else count)]
    return page(
        [{"id": 9, "type": "s", "properties": {"proxyWidgets": names}, **more}],
        [],
        sub([text_node(10 + i) for i in range(n)], [[n + i, 1, 0, 2, 0, "X"] for i in range(n)]),
    )


def promoted_in_vain(n: int) -> Any:
    names = [["1", f"{i}"] for i in range(n)]
    inner = sub([{"id": 1, "type": "t"}])
    deeper = sub(
        [{"id": 1, "type": "Odd", "inputs": [slot(str(i), link=i) for i in range(1, n)]}],
        [[i, -10, i, 1, i - 1, "X"] for i in range(1, n)],
        id="t",
        inputs=[{"name": f"p{i}", "type": "X", "linkIds": [i]} for i in range(n)],
    )
    host = {"id": 9, "type": "s", "properties": {"proxyWidgets": names}}
    return page([host], [], inner, deeper)


def promoted_again(n: int) -> Any:
    """The ports that had these targets lose them one by one, the last first."""
    names = [[str(10 + i), "text"] for i in reversed(range(n))]
    nodes = [text_node(10 + i) for i in range(n)]
    for i, node in enumerate(nodes):
        node["inputs"][0]["link"] = i + 1
    inner = sub(
        nodes,
        [[i + 1, -10, 0, 10 + i, 0, "X"] for i in range(n)],
        inputs=[{"name": "p", "type": "STRING", "linkIds": [*range(1, n + 1)]}],
    )
    return page([{"id": 9, "type": "s", "properties": {"proxyWidgets": names}}], [], inner)


def promoted_primitives(n: int) -> Any:
    names = [[str(i), "value"] for i in range(n)]
    primitives = [
        {
            "id": i,
            "type": "PrimitiveNode",
            "title": f"p{i}",
            "outputs": [{"name": "STRING", "type": "STRING"}],
            "widgets_values": ["x"],
        }
        for i in range(n)
    ]
    fed = [text_node(n + i) for i in range(n)]
    for i, node in enumerate(fed):
        node["inputs"][0]["link"] = i + 1
    links = [[i + 1, i, 0, n + i, 0, "STRING"] for i in range(n)]
    host = {"id": 9, "type": "s", "properties": {"proxyWidgets": names}}
    return page([host], [], sub([*primitives, *fed], links))


def primitives(n: int) -> Any:
    sources = [
        {
            "id": i,
            "type": "PrimitiveNode",
            "outputs": [{"name": "STRING", "type": "STRING"}],
            "widgets_values": ["%Text.text%"],
            "properties": {"Run widget replace on values": True},
        }
        for i in range(n)
    ]
    fed = [text_node(n + i) for i in range(n)]
    for i, node in enumerate(fed):
        node["inputs"][0]["link"] = i + 1
    return page([*sources, *fed], [[i + 1, i, 0, n + i, 0, "STRING"] for i in range(n)])


def prefixes(n: int) -> Any:
    host = {"id": 9, "type": "s", "properties": {"proxyWidgets": [["1", "1:" * n + "x"]]}}
    return page([host], [], sub([{"id": 1, "type": "Odd"}]))


def entries_of_equal_names(n: int) -> Any:
    """All ports are named alike, and get a number."""
    names = [[str(10 + i), "text"] for i in range(n)]
    inner = sub([text_node(10 + i) for i in range(n)])
    return page([{"id": 9, "type": "s", "properties": {"proxyWidgets": names}}], [], inner)


def nested(n: int) -> Any:
    """Subgraphs in subgraphs, which all promote the same widget."""
    depth = 20
    levels = [
        sub(
            [{"id": 1, "type": f"s{i + 1}", "properties": {"proxyWidgets": [["1", "text"]] * n}}],
            id=f"s{i}",
        )
        for i in range(depth)
    ]
    levels.append(sub([text_node(1)], id=f"s{depth}"))
    host = {"id": 1, "type": "s0", "properties": {"proxyWidgets": [["1", "text"]] * n}}
    return page([host], [], *levels)


def bypassed(n: int, kinds: int = 1) -> Any:
    """A bypassed node with many inputs that do not fit, asked by many."""
    inputs = [slot(f"i{j}", f"A{j},B") for j in range(n)]
    middle = {
        "id": 1,
        "type": "Odd",
        "mode": 4,
        "inputs": inputs,
        "outputs": [{"name": "o", "type": "Z1,Z2"}],
    }
    users = [
        {"id": 10 + i, "type": "Odd", "inputs": [slot("images", f"Q{i % kinds},R", i + 1)]}
        for i in range(n)
    ]
    return page([middle, *users], [[i + 1, 1, 0, 10 + i, 0, "X"] for i in range(n)])


def chain(n: int, kind: str = "Reroute", **more: Any) -> Any:
    nodes = [
        {
            "id": i,
            "type": kind,
            "inputs": [slot("", "*", i)],
            "outputs": [{"name": "", "type": "*"}],
            **more,
        }
        for i in range(1, n)
    ]
    end = {"id": n, "type": "Save", "inputs": [slot("images", link=n)]}
    return page([text_node(0), *nodes, end], [[i, i - 1, 0, i, 0, "*"] for i in range(1, n + 1)])


def instances_of_many_nodes(n: int) -> Any:
    """As many as may be, of one that is large."""
    return page(instances(40), [], sub([text_node(i) for i in range(n)]))


def values_of_instances(n: int) -> Any:
    """One long value, which each instance would copy."""
    return page(instances(n), [], sub([text_node(1, [0] * n)]))


def names_of_instances(n: int) -> Any:
    named = {str(i): 0 for i in range(n)}
    odd = {"id": 1, "type": "Odd", "inputs": [slot("x")], "widgets_values_named": named}
    return page(instances(n), [], sub([odd]))


def lost_links_of_instances(n: int) -> Any:
    inputs = [slot(f"x{i}", link=i + 1) for i in range(n)]
    return page(instances(n), [], sub([{"id": 1, "type": "Save", "inputs": inputs}]))


def links_of_no_slot(n: int) -> Any:
    """Links of the list that no input has, each to another input of one node."""
    one = {"id": 1, "type": "Odd", "inputs": [slot(f"x{i}") for i in range(n)]}
    return page([one, text_node(2)], [[i + 1, 2, 0, 1, i, "X"] for i in range(n)])


def equal_ids(n: int) -> Any:
    subgraphs = [sub([text_node(i) for i in range(10)], id=f"s{k}") for k in range(n // 10)]
    return page([text_node(1) for _ in range(n)], [], *subgraphs)


def equal_titles(n: int) -> Any:
    prefix = {"widgets_values": ["%same.text%" * 3]}
    saves = [{"id": n + i, "type": "SaveImage", "title": "same", **prefix} for i in range(n)]
    return page([*(text_node(i, title="same") for i in range(n)), *saves])


def file_names(n: int) -> Any:
    """One name that asks for many widgets of a node with many inputs."""
    inputs = [slot(f"x{i}") for i in range(n)]
    big = {"id": 1, "type": "Odd", "title": "big", "inputs": inputs}
    save = {"id": 2, "type": "SaveImage", "widgets_values": ["%big.y%" * n]}
    return page([big, save])


def file_names_of_instances(n: int) -> Any:
    save = {"id": 2, "type": "SaveImage", "widgets_values": ["%big.y%" * n]}
    return page(instances(n), [], sub([save]))


def options(n: int) -> Any:
    return page([{"id": 1, "type": "CustomCombo", "widgets_values": ["a", 0, *("x" * n)]}])


def grown(n: int, kind: str = "Grow", prefix: str = "group.x") -> Any:
    inputs = [slot(f"{prefix}{i}", link=i + 1) for i in range(n)]
    node = {"id": 1, "type": kind, "inputs": inputs, "widgets_values": ["a"]}
    return page([node, text_node(2)], [[i + 1, 2, 0, 1, i, "X"] for i in range(n)])


def rows(n: int) -> Any:
    inputs = [
        {"name": f"rows.{i}.t", "type": "STRING", "widget": {"name": f"rows.{i}.t"}}
        for i in range(n)
    ]
    return page([{"id": 1, "type": "Rows", "inputs": inputs, "widgets_values": [n, *("x" * n)]}])


def odd_slots(n: int) -> Any:
    """Inputs that belong to widgets that the class has not."""
    inputs = [{"name": f"x{i}", "type": "X", "widget": {"name": f"x{i}"}} for i in range(n)]
    return page([{"id": 1, "type": "Text", "inputs": inputs}])


def quarantines(n: int) -> Any:
    entry = {"originalEntry": ["-1", "text"], "hostValue": 1}
    properties = {"proxyWidgetErrorQuarantine": [entry] * n}
    return page([{"id": 9, "type": "s", "properties": properties}], [], sub([text_node(1)]))


def nested_definitions(n: int) -> Any:
    one = sub([], id="s0")
    for i in range(1, 40):
        one = sub([], id=f"s{i}", definitions={"subgraphs": [one] + [sub([], id="s0")] * (n // 40)})
    return page([], [], one)


def getters(n: int) -> Any:
    nodes = [
        {"id": i, "type": ("SetNode", "GetNode")[i % 2], "title": "x" * 20, "widgets_values": ["x"]}
        for i in range(n)
    ]
    return page(nodes)


def straight_through(n: int) -> Any:
    """Instances in a row, each of which hands on what it gets."""
    inner = sub(
        [],
        [[1, -10, 0, -20, 0, "X"]],
        inputs=[{"name": "i", "type": "X", "linkIds": [1]}],
        outputs=[{"name": "o", "type": "X", "linkIds": [1]}],
    )
    nodes = [{"id": i, "type": "s", "inputs": [slot("i", "X", i)]} for i in range(1, n)]
    last = {"id": n, "type": "Save", "inputs": [slot("images", link=n)]}
    links = [[i, i - 1, 0, i, 0, "X"] for i in range(1, n + 1)]
    return page([text_node(0), *nodes, last], links, inner)


def deep_widgets(n: int) -> Any:
    """Many widgets that one value reaches through many levels."""
    port = {"name": "p", "type": "STRING", "linkIds": [1]}
    levels = [
        sub(
            [{"id": 1, "type": f"s{i + 1}", "inputs": [slot("p", "STRING", 1)]}],
            [[1, -10, 0, 1, 0, "STRING"]],
            id=f"s{i}",
            inputs=[port],
        )
        for i in range(20)
    ]
    nodes = [text_node(i) for i in range(1, n)]
    for i, node in enumerate(nodes):
        node["inputs"][0]["link"] = i + 1
    links = [[i, -10, 0, i, 0, "STRING"] for i in range(1, n)]
    inner = sub(nodes, links, id="s20", inputs=[{**port, "linkIds": [*range(1, n)]}])
    return page([{"id": 1, "type": "s0", "widgets_values": ["a"]}], [], *levels, inner)


def promoted_by_each(n: int) -> Any:
    """Each instance promotes the same widgets."""
    names = {"proxyWidgets": [["10", "text"], ["11", "text"], ["12", "no"]]}
    inner = sub([text_node(10 + i) for i in range(n)])
    return page(instances(n, mode=2, properties=names), [], inner)


def links_of_one_id(n: int) -> Any:
    users = [{"id": 10 + i, "type": "Save", "inputs": [slot("images", link=1)]} for i in range(n)]
    return page([text_node(2), *users], [[1, 2, 0, 10, 0, "X"]] * n)


def of_packs(n: int) -> Any:
    pack = {
        "cnr_id": "a-" * 90 + "a",
        "aux_id": "a" * 39 + "/" + "b" * 99,
        "ver": "1.1.1-" + "a" * 150,
    }
    names = [{**pack, "Node name for S&R": "z" * 50}, pack]
    known = [text_node(i, properties=names[i % 2]) for i in range(n)]
    return page([*known, *({"id": n + i, "type": "workflow>x"} for i in range(n))])


PAGES: dict[str, tuple[Callable[[int], Any], int]] = {
    "links of one port": (links_of_one_port, 150),
    "targets of one port": (targets_of_one_port, 200),
    "texts of one port": (lambda n: targets_of_one_port(n, "Text"), 200),
    "dangling links of one port": (dangling_links_of_one_port, 300),
    "links of one output": (links_of_one_output, 100),
    "promoted widgets": (promoted, 100),
    "promoted widgets of equal names": (entries_of_equal_names, 100),
    "promoted widgets that are not there": (promoted_in_vain, 100),
    "promoted widgets of a port": (promoted_again, 100),
    "promoted primitives": (promoted_primitives, 75),
    "promoted widgets in levels": (nested, 10),
    "primitives": (primitives, 75),
    "prefixes": (prefixes, 2000),
    "bypassed": (bypassed, 100),
    "reroutes": (chain, 100),
    "bypassed chain": (lambda n: chain(n, "Odd", mode=4), 100),
    "nodes of instances": (instances_of_many_nodes, 10),
    "links of no slot": (links_of_no_slot, 200),
    "equal ids": (equal_ids, 100),
    "equal titles": (equal_titles, 50),
    "file names": (file_names, 300),
    "options": (options, 200),
    "grown": (grown, 200),
    "grown in a choice": (lambda n: grown(n, "Choose", "how.group.x"), 200),
    "rows": (rows, 100),
    "slots of no widget": (odd_slots, 300),
    "kept back": (quarantines, 300),
    "nested definitions": (nested_definitions, 80),
    "set and get": (getters, 200),
    "texts with open comments": (lambda n: page([text_node(1, "/*x" * n)]), 500),
    "texts with comments": (lambda n: page([text_node(1, "/*x*/" * n)]), 500),
    "texts with choices": (lambda n: page([text_node(1, "{a|b}" * n)]), 200),
    "texts with open choices": (lambda n: page([text_node(1, "{" + "a|b" * n)]), 200),
    "straight through": (straight_through, 100),
    "deep widgets": (deep_widgets, 100),
    "promoted by each instance": (promoted_by_each, 100),
    "links of one id": (links_of_one_id, 100),
    "packs": (of_packs, 50),
    "many texts": (lambda n: page([text_node(i, "{a|b}") for i in range(n)]), 100),
}


#: Pages with many muted instances of what is large, all of whose nodes the page of 2025 sends.
MUTED = {"targets of one port", "texts of one port", "promoted by each instance"}


def converted(file: Any, known: Mapping[str, Any] = DEFINITIONS) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return convert(file, known, dynamic_prompts=1)


@pytest.mark.parametrize("name", PAGES)
def test_twice_the_page_is_twice_the_work(name: str) -> None:
    check_growth(converted, *PAGES[name])


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in PAGES if name not in MUTED])
def test_twice_the_page_is_twice_the_work_for_a_server_of_2025(name: str) -> None:
    """Whose page differs in what it follows."""
    check_growth(functools.partial(converted, known=OLD_DEFINITIONS), *PAGES[name])


#: As large as files are that one gets, or larger.
LARGE: dict[str, Callable[[], Any]] = {
    "300,000 links of one port": lambda: links_of_one_port(20_000, 300_000),
    "prefixes": lambda: prefixes(2_000_000),
    "open comments": lambda: page([text_node(1, "/*x" * 300_000)]),
    "open and closed comments": lambda: page([text_node(1, "/*x*/ //\n /*" * 100_000)]),
    "choices that are never closed": lambda: page([text_node(1, "{" + "a|" * 300_000)]),
    "types that are lists": lambda: list_types(20_000),
    "file names": lambda: page(
        [text_node(1), {"id": 2, "type": "SaveImage", "widgets_values": ["%" * 10**6]}]
    ),
}


@pytest.mark.long
@pytest.mark.parametrize("name", LARGE)
def test_a_large_page_takes_seconds(name: str) -> None:
    with within(40):
        converted(LARGE[name]())


#: What would be more than the file itself by any factor.
BOMBS: dict[str, Callable[[], Any]] = {
    "values": lambda: values_of_instances(4_000),
    "values by name": lambda: names_of_instances(4_000),
    "links": lambda: lost_links_of_instances(2_000),
    "file names": lambda: file_names_of_instances(5_000),
    "texts": lambda: page(instances(20_000), [], sub([text_node(1, "x" * 10**6)])),
    "choices": lambda: page(instances(20_000), [], sub([text_node(1, "{a|b}" * 5_000)])),
    "ids": lambda: page(instances(20_000), [], sub([text_node("x" * 10**6)])),
    "ids of levels": lambda: levels(90, 250),
    "bypassed nodes": lambda: bypassed(3_000, 3_000),
    "targets without a widget": lambda: page_of_hidden_targets(3_000),
    "escaped choices in each other": lambda: page([text_node(1, "{\\}" * 50_000)]),
    "choices in each other around comments": lambda: page([text_node(1, "{/*}*/" * 50_000)]),
}


#: Of the bombs, those that are refused soonest.
QUICK = (
    "texts",
    "ids",
    "targets without a widget",
    "escaped choices in each other",
    "choices in each other around comments",
)


@pytest.mark.parametrize("name", but(BOMBS, *(BOMBS.keys() - {*QUICK})))
def test_a_page_that_is_a_bomb_is_refused(name: str) -> None:
    memory = (512 << 20) if name in ("values", "values by name", "ids of levels") else None
    with within(40, memory), pytest.raises(WorkflowError):
        converted(BOMBS[name]())


# -- definitions of a server ----------------------------------------------------------------

SERVERS: dict[str, Callable[[int], dict[str, Any]]] = {
    "classes": lambda n: {f"Class{i}": DEFINITIONS["Join"] for i in range(n)},
    "classes that are no names": lambda n: {f"a class {i}": DEFINITIONS["Join"] for i in range(n)},
    "outputs": lambda n: {"A": known({}, ("IMAGE",) * n)},
    "names of outputs": lambda n: {"A": {**known({}), "output": [*map(str, range(n))]}},
    "inputs": lambda n: {"A": known({f"x{i}": ["INT"] for i in range(n)})},
    "choices": lambda n: {"A": known({"x": [[*map(str, range(n))]]})},
    "types": lambda n: {"A": known({"x": [",".join(map(str, range(n)))]})},
    "groups": lambda n: {
        "A": known({f"x{i}": ["COMFY_AUTOGROW_V3", {"template": GROUP}] for i in range(n)})
    },
}


@pytest.mark.parametrize("name", SERVERS)
def test_twice_the_definitions_are_twice_the_work(name: str) -> None:
    check_growth(stubs, SERVERS[name], 100)


# -- media files ----------------------------------------------------------------------------


def box(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


def png_chunk(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I", len(content)) + kind + content + bytes(4)


def element(kind: bytes, content: bytes = b"") -> bytes:
    return kind + struct.pack(">Q", (1 << 56) + len(content)) + content


def ogg_page(sizes: bytes, content: bytes = b"") -> bytes:
    return b"OggS" + bytes(22) + bytes([len(sizes)]) + sizes + content


def comments(count: int) -> bytes:
    return bytes(4) + struct.pack("<I", count) + bytes(4 * count)


def tiff(count: int) -> bytes:
    return b"MM\0*" + struct.pack(">IH", 8, count) + bytes(12 * count + 4)


def riff(kind: bytes, content: bytes = b"") -> bytes:
    return kind + struct.pack("<I", len(content)) + content


PNG = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", bytes(13))
FTYP = box(b"ftyp", bytes(8))
WEBM = element(b"\x1a\x45\xdf\xa3")
WEBP = b"RIFF" + bytes(4) + b"WEBP"
OPUS = b"OpusTags"
SEGMENT, TAGS, TAG, SIMPLE = b"\x18\x53\x80\x67", b"\x12\x54\xc3\x67", b"\x73\x73", b"\x67\xc8"
FLAC_COMMENTS = b"\x04" + (8 + 4 * 9_000).to_bytes(3, "big") + comments(9_000)
#: Files of more than 100,000 parts, on each level that has some, in as few bytes as may be.
PARTS: dict[str, bytes] = {
    "chunks of a PNG": PNG + png_chunk(b"teSt") * 100_001,
    "segments of a JPEG": b"\xff\xd8" + b"\xff\xe2\0\2" * 100_001,
    "signs of a JPEG": b"\xff\xd8" + b"\xff" * 100_001,
    "EXIF entries of a JPEG": b"\xff\xd8"
    + (b"\xff\xe1" + struct.pack(">H", 8 + len(tiff(5_000))) + b"Exif\0\0" + tiff(5_000)) * 21,
    "chunks of a WebP": WEBP + riff(b"VP8 ") * 100_001,
    "EXIF entries of a WebP": WEBP + riff(b"EXIF", tiff(9_000)) * 12,
    "blocks of a FLAC": b"fLaC" + bytes(4) * 100_001,
    "comments of a FLAC": b"fLaC" + FLAC_COMMENTS * 12,
    "pages of an Ogg": ogg_page(b"") * 100_001,
    "empty packets of an Ogg": ogg_page(bytes(255)) * 400,
    "comments of an Ogg": (ogg_page(b"\xff" * 128 + b"\0", OPUS + comments(8_156))) * 13,
    "boxes of an MP4": FTYP + box(b"free") * 100_001,
    "boxes of a movie": FTYP + box(b"moov", box(b"trak") * 100_001),
    "boxes of user data": FTYP + box(b"moov", box(b"udta", box(b"name") * 9_000) * 12),
    "keys of an MP4": FTYP
    + box(
        b"moov",
        box(b"meta", box(b"hdlr") + box(b"keys", bytes(8) + struct.pack(">II", 8, 0) * 9_000)) * 12,
    ),
    "elements of a WebM": WEBM + element(SEGMENT, element(b"\xec") * 100_001),
    "tags of a WebM": WEBM
    + element(SEGMENT, element(TAGS, element(TAG, element(SIMPLE) * 9_000) * 12)),
}


@pytest.mark.parametrize("name", PARTS)
def test_a_file_of_too_many_parts_is_refused(name: str) -> None:
    """However small they are, and on whatever level."""
    with within(20), pytest.raises(WorkflowError, match="more than 100000 parts"):
        Workflow.load(io.BytesIO(PARTS[name]))


# -- graphs in API format -------------------------------------------------------------------


def api_node(class_type: str, title: Any = None, /, **inputs: Any) -> dict[str, Any]:
    meta = {} if title is None else {"_meta": {"title": title}}
    return {"class_type": class_type, "inputs": inputs, **meta}


def numbered(nodes: list[dict[str, Any]]) -> dict[str, Any]:
    return {str(i): node for i, node in enumerate(nodes)}


def end(n: int) -> dict[str, Any]:
    return {"end": api_node("Save", images=[str(n - 1), 0])}


GRAPHS: dict[str, Callable[[int], dict[str, Any]]] = {
    "linked to themselves": lambda n: (
        numbered([api_node("Join", a=[str(i), 0], b=[str(i), 0]) for i in range(n)]) | end(n)
    ),
    "outputs linked to themselves": lambda n: numbered(
        [api_node("Save", images=[str(i), 0]) for i in range(n)]
    ),
    "chain": lambda n: (
        numbered([api_node("Join", a=[str(max(0, i - 1)), 0], b=["0", 0]) for i in range(n)])
        | end(n)
    ),
    "chain backwards": lambda n: (
        numbered([api_node("Join", a=[str(min(n - 1, i + 1)), 0], b=["0", 0]) for i in range(n)])
        | {"end": api_node("Save", images=["0", 0])}
    ),
    "circle": lambda n: (
        numbered(
            [api_node("Join", a=[str((i + 1) % n), 0], b=[str((i + 2) % n), 0]) for i in range(n)]
        )
        | end(n)
    ),
    "star": lambda n: (
        numbered([api_node("Text", text="x")])
        | {str(i): api_node("Save", images=["0", 0]) for i in range(1, n)}
    ),
    "many inputs": lambda n: {
        "0": api_node("Text", text="x"),
        "1": api_node("Join", **{f"x{i}": ["0", i] for i in range(n)}),
        "end": api_node("Save", images=["1", 0]),
    },
    "equal titles": lambda n: (
        numbered([api_node("Text", "same", text="x") for _ in range(n)]) | end(n)
    ),
    "titles with numbers": lambda n: (
        numbered(
            [
                api_node("Text", ("same", f"same_{i}", "same_2")[i % 3], text=["0", 0])
                for i in range(n)
            ]
        )
        | end(n)
    ),
    "unknown classes": lambda n: (
        numbered([api_node(f"Odd{i}", x=["0", 0]) for i in range(n)]) | end(n)
    ),
    "links to nowhere": lambda n: (
        numbered([api_node("Join", a=[f"no{i}", 0], b=["no", 3]) for i in range(n)]) | end(n)
    ),
    "missing inputs": lambda n: numbered([api_node("Save") for _ in range(n)]),
    "wrong values": lambda n: numbered([api_node("Number", n="x", c="no") for _ in range(n)]),
    "seeds": lambda n: numbered([api_node("Number", seed=-1, noise_seed=["0", 0])] * n) | end(n),
    "loras": lambda n: (
        numbered(
            [
                api_node("LoraLoader", model=[str(i - 1), 0], clip=[str(i - 1), 1], lora_name="x")
                for i in range(n)
            ]
        )
        | end(n)
    ),
    "long text": lambda n: {"0": api_node("Text", text="/*x" * n + "{a|b}" * n)},
    "long names": lambda n: numbered(
        [api_node("Text", "x" * n, **{"y" * n: ["0", 0]}) for _ in range(9)]
    ),
    "names with dots": lambda n: {
        "0": api_node("Text", **{"a." * n + "b": 1, ".".join("x" * n): 2})
    },
    "lists": lambda n: {"0": api_node("Number", n=[[0, 0]] * n, c=[["0", 0]] * n)},
    "grown": lambda n: {
        "0": api_node("Grow", **{f"group.x{i}": ["0", 0] for i in range(n)}),
        "1": api_node("Choose", how="a", **{f"how.group.x{i}": ["0", 0] for i in range(n)}),
        **end(2),
    },
}
GRAPH_DEFINITIONS = DEFINITIONS | {
    "Number": known(
        {"n": ["INT", {"min": 0, "max": 9}], "c": [["a", "b"], {}]}, ("INT",), output_node=True
    )
}


def rejection_of(graph: dict[str, Any]) -> dict[str, Any]:
    answer = validate(graph, GRAPH_DEFINITIONS, version="0.28", dependents=False)
    return {"error": answer.error, "node_errors": answer.node_errors}


CALLS: dict[str, Callable[[dict[str, Any]], object]] = {
    "load": lambda graph: Workflow.load(json.dumps(graph).encode()),
    "check": lambda graph: str(Workflow.load(graph).check(GRAPH_DEFINITIONS)),
    "validate 0.3.75": lambda graph: validate(graph, GRAPH_DEFINITIONS, dependents=False),
    "validate new": lambda graph: validate(
        graph, GRAPH_DEFINITIONS, version="0.28", dependents=False
    ),
    "explain": lambda graph: explain_rejection(rejection_of(graph), graph),
    "to_code": lambda graph: Workflow.load(graph).to_code(),
    "to_json": lambda graph: Workflow.load(graph).to_json(),
    "text": lambda graph: [str(Workflow.load(graph)), repr(Workflow.load(graph))],
    "page": lambda graph: Workflow.load(graph)._repr_mimebundle_(),
    "loras": lambda graph: [Workflow.load(graph).loras, Workflow.load(graph).randomize_seeds()],
    "add_lora": lambda graph: Workflow.load(graph).add_lora("x"),
    "resolve": lambda graph: Workflow.load(graph).resolve_prompts(1),
    "mute": lambda graph: Workflow.load(graph).mute(next(iter(graph))),
    "bypass": lambda graph: Workflow.load(graph).bypass(next(iter(graph)), GRAPH_DEFINITIONS),
    "check_graph": lambda graph: check_graph(graph),
    "seed before": lambda graph: seed_before(graph, [*graph][-1]),
    "copy": lambda graph: Workflow.load(graph).copy(),
}


def tried(call: Callable[[dict[str, Any]], object], graph: dict[str, Any]) -> object:
    try:
        return call(graph)
    except WorkflowError:
        return None


@pytest.mark.parametrize("name", but(CALLS, "check", "page", "to_code", "to_json", "text"))
def test_twice_the_graph_is_twice_the_work(name: str) -> None:
    for kind, make in GRAPHS.items():
        check_growth(functools.partial(tried, CALLS[name]), make, 60, kind)


# -- tables -----------------------------------------------------------------------------------


@pytest.mark.parametrize("show", [str, lambda flow: flow._repr_mimebundle_()])
@pytest.mark.parametrize("title", ["same", None], ids=["one title", "titles"])
def test_tables_of_workflows_take_work_in_proportion(show: Any, title: str | None) -> None:
    """Each link names the node that it leads to, which others may be called like."""

    def make(n: int) -> Workflow:
        return Workflow(
            {
                str(i): {
                    "class_type": "A",
                    "inputs": {"a": [str(i // 2), 0]} if i else {},
                    "_meta": {"title": title or f"node {i}"},
                }
                for i in range(n)
            }
        )

    check_growth(show, make, 400)


def test_settable_inputs_take_work_in_proportion() -> None:
    """Each address could begin with two names of nodes."""

    def make(n: int) -> Workflow:
        titles = {i: f"x.{i}" if i % 2 else "x" for i in range(n)}
        return Workflow(
            {
                str(i): {"class_type": "A", "inputs": {"a.b": 1}, "_meta": {"title": title}}
                for i, title in titles.items()
            }
        )

    check_growth(Workflow.inputs, make, 100)


def test_a_history_and_definitions_take_work_in_proportion() -> None:
    """Whatever their number; no more than the first are shown."""

    def histories(n: int) -> models.Histories:
        record = {
            "prompt": [1, "id", {}, {}, []],
            "outputs": {"1": {"images": [{"filename": "a"}]}},
        }
        return models.Histories({str(i): models.HistoryEntry.from_json(record) for i in range(n)})

    def definition(n: int) -> models.NodeDef:
        inputs = {f"x{i}": [[f"{j}" for j in range(n)]] for i in range(10)}
        return models.NodeDef.from_json("A", {"input": {"required": inputs}})

    for make in (histories, definition):
        check_growth(lambda value: value._repr_mimebundle_(), make, 50)
        check_growth(str, make, 50)
