"""Loading, editing and checking graphs."""

from __future__ import annotations

import copy
import json
import math
import os
import pickle
import re
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comfy_client import ComfyApi
from comfy_client.errors import WorkflowError
from comfy_client.testing import ComfyServer
from comfy_client.workflow import (
    Node,
    Workflow,
    check_graph,
    check_parts,
    class_of,
    sinks,
    title_of,
)
from comfy_client.workflow.explain import explain_rejection
from tests.conftest import examples

GRAPH: dict[str, Any] = {
    "3": {
        "class_type": "KSampler",
        "inputs": {"seed": 1, "cfg": 7.0, "model": ["4", 0], "positive": ["6", 0]},
        "_meta": {"title": "Sampler"},
    },
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "tiny.ckpt"}},
    "6": {
        "class_type": "CLIPTextEncode",
        "inputs": {"text": "a lighthouse", "clip": ["4", 1]},
        "_meta": {"title": "Positive prompt"},
    },
    "7": {
        "class_type": "CLIPTextEncode",
        "inputs": {"text": "blurry", "clip": ["4", 1]},
        "_meta": {"title": "Negative prompt"},
    },
    "406:12": {"class_type": "SaveImage", "inputs": {"images": ["3", 0]}},
}


@pytest.fixture
def graph() -> dict[str, Any]:
    return copy.deepcopy(GRAPH)


@pytest.fixture
def wf(graph: dict[str, Any]) -> Workflow:
    return Workflow.load(graph)


class Scalar:
    """What a number of numpy looks like from outside."""

    def __init__(self, value: object, shape: tuple[int, ...] = ()) -> None:
        self.value, self.shape = value, shape

    def item(self) -> object:
        return self.value


def refusal(call: Any, *args: Any, **kw: Any) -> WorkflowError:
    """The error of a call, which is one line and not a dump."""
    with pytest.raises(WorkflowError) as caught:
        call(*args, **kw)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 700
    return caught.value


# -- loading ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", ["str path", "path", "text", "indented text", "bytes", "bom", "wf"]
)
def test_every_kind_of_source_gives_the_same_workflow(kind: str, tmp_path: Path) -> None:
    """Path, text, bytes, dict and workflow are read alike."""
    text = json.dumps(GRAPH)
    path = tmp_path / "wf.json"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    source: Any = {
        "str path": str(path),
        "path": path,
        "text": text,
        "indented text": "\n\t " + text,
        "bytes": text.encode(),
        "bom": "\ufeff" + text,
        "wf": Workflow.load(GRAPH),
    }[kind]
    assert Workflow.load(source) == Workflow(GRAPH)


def test_the_example_runs_on_the_embedded_server_as_it_is() -> None:
    """And whoever changes it changes a copy."""
    example = Workflow.example()
    with ComfyServer(step_seconds=0) as server, ComfyApi(server.url) as api:
        assert api.run(example).images
    example["KSampler"]["seed"] = 1
    assert Workflow.example() != example


def test_a_file_in_utf_16_is_read(tmp_path: Path) -> None:
    """Shells of Windows write it."""
    path = tmp_path / "wf.json"
    path.write_text(json.dumps(GRAPH), encoding="utf-16")
    assert Workflow.load(path) == Workflow(GRAPH)


@pytest.mark.parametrize("wrapper", ["prompt", "output", "workflow"])
def test_wrappers_are_taken_off(wrapper: str) -> None:
    """The body of a POST, and what pages hand out."""
    assert Workflow.load({wrapper: GRAPH, "client_id": "x"}) == Workflow(GRAPH)


def test_a_node_may_have_the_name_of_a_wrapper() -> None:
    """Ids are free text."""
    wf = Workflow.load({"prompt": {"class_type": "A", "inputs": {}}})
    assert wf["prompt"].class_type == "A"


def test_the_api_graph_is_found_beside_a_ui_graph() -> None:
    """Both travel together in pictures and in what the page computes."""
    both = {"workflow": {"nodes": [], "links": []}, "prompt": GRAPH}
    assert Workflow.load(both) == Workflow(GRAPH)


UI = {"last_node_id": 9, "nodes": [{"id": 4, "type": "KSampler"}], "links": []}


@pytest.mark.parametrize("source", [UI, {"workflow": UI}, {"prompt": UI}, json.dumps(UI)])
def test_ui_format_without_definitions_says_what_it_takes(source: Any) -> None:
    """The ways to have it converted, and the export that needs no conversion."""
    text = str(refusal(Workflow.load, source))
    assert "Workflow.load(..., api)" in text
    assert "give api.run() the file itself" in text
    assert "Workflow > Export (API)" in text


@pytest.mark.parametrize("name", ["none.json", "x" * 5000])
def test_a_missing_file_is_named_in_one_line(name: str, tmp_path: Path) -> None:
    """``FileNotFoundError`` as everywhere in Python, also for text that is no path."""
    with pytest.raises(FileNotFoundError, match="no such workflow file") as caught:
        Workflow.load(tmp_path / name)
    assert len(str(caught.value)) < 300


def test_broken_json_is_an_error_with_file_line_and_column(tmp_path: Path) -> None:
    """So that an editor finds the place."""
    path = tmp_path / "broken.json"
    path.write_text('{\n  "3": {,}\n}')
    assert "broken.json, line 2, column 9: not valid JSON" in str(refusal(Workflow.load, path))


def test_binary_files_without_a_workflow_are_refused() -> None:
    """It may be of a kind that carries no workflow."""
    said = str(refusal(Workflow.load, b"GIF89a\xff"))
    assert "neither JSON nor a picture, video" in said


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (b"[]", "not a list"),
        (b"3", "not 3"),
        ({}, "no nodes"),
        ({"prompt": {}}, "no nodes"),
        ({"3": {"inputs": {}}}, "node 3 has no class_type"),
        ({"3": {"class_type": "", "inputs": {}}}, "node 3 has no class_type"),
        ({"3": {"class_type": 5, "_meta": {"title": "T"}}}, "node 3 'T' has no class_type"),
        ({"3": {"class_type": "A", "inputs": []}}, r"node 3 \(A\): inputs is not an object: \[\]"),
        ({"3": {"class_type": "A", "inputs": None}}, "inputs is not an object: None"),
        ({"3": ["A"]}, r"node '3' is not an object: \['A'\]"),
        ({"3": {"class_type": "A"}, "version": 0.4}, "node 'version' is not an object: 0.4"),
        ({3: {"class_type": "A"}, "3": {"class_type": "B"}}, "two nodes have the id '3'"),
        ({(1, 2): {"class_type": "A"}}, "is not a string"),
        ({True: {"class_type": "A"}}, "is not a string"),
        (b'{"3": ' + b"[" * 100_000, "cannot be read|nested too deeply"),
    ],
)
def test_malformed_graphs_are_refused_with_the_node_named(source: Any, says: str) -> None:
    """One clear line each."""
    assert re.search(says, str(refusal(Workflow.load, source)))


def test_a_graph_that_contains_itself_is_refused(graph: dict[str, Any]) -> None:
    """There is no end to it."""
    graph["3"]["inputs"]["seed"] = graph
    assert "nested too deeply" in str(refusal(Workflow.load, graph))


@pytest.mark.parametrize("source", [None, 3, ["wf.json"], object()])
def test_a_source_of_another_type_is_a_type_error(source: Any) -> None:
    """Wrong arguments raise as everywhere in Python."""
    with pytest.raises(TypeError, match="a path, JSON text, a dict, an open file"):
        Workflow.load(source)


def test_ids_that_are_numbers_become_strings_in_links_too() -> None:
    """The server looks up strings only."""
    wf = Workflow.load({1: {"class_type": "A"}, 2: {"class_type": "B", "inputs": {"x": (1, 0)}}})
    assert wf.to_dict() == {
        "1": {"class_type": "A", "inputs": {}},
        "2": {"class_type": "B", "inputs": {"x": ["1", 0]}},
    }


def test_the_dict_of_the_caller_never_changes(graph: dict[str, Any]) -> None:
    """Loading copies all of it, and so does ``to_dict``."""
    wf = Workflow.load(graph)
    wf["3"]["seed"] = 2
    wf["3"]["model"] = wf["6"].output(1)
    wf["4"].title = "Loader"
    wf.to_dict()["6"]["inputs"]["clip"].append("x")
    wf["6"]["clip"].append("x")
    assert graph == GRAPH
    assert wf["6"]["clip"] == ["4", 1]


# -- addressing -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "node_id"),
    [("3", "3"), (3, "3"), ("Sampler", "3"), ("KSampler", "3"), ("SaveImage", "406:12")],
)
def test_a_node_is_found_by_id_title_or_class(wf: Workflow, name: Any, node_id: str) -> None:
    """All three lead to the same node."""
    assert wf[name].id == node_id
    assert name in wf


def test_id_goes_before_title_and_title_before_class() -> None:
    """So that a name can always be made sure by the id."""
    wf = Workflow.load(
        {
            "KSampler": {"class_type": "A"},
            "2": {"class_type": "B", "_meta": {"title": "KSampler"}},
            "3": {"class_type": "KSampler"},
            "4": {"class_type": "C", "_meta": {"title": "B"}},
        }
    )
    assert wf["KSampler"].class_type == "A"
    assert wf["B"].id == "4"


def test_an_ambiguous_name_lists_the_candidates(wf: Workflow) -> None:
    """With id, title and class of each."""
    error = refusal(wf.__getitem__, "CLIPTextEncode")
    assert "ambiguous" in str(error)
    assert "node 6 'Positive prompt' (CLIPTextEncode)" in str(error)
    assert "node 7 'Negative prompt' (CLIPTextEncode)" in str(error)
    assert error.candidates == ("6", "7")
    assert "CLIPTextEncode" in wf


def test_many_candidates_are_cut_short_in_the_message() -> None:
    """But all stand in ``candidates``."""
    wf = Workflow.load({n: {"class_type": "A"} for n in range(300)})
    error = refusal(wf.__getitem__, "A")
    assert "(300 in all)" in str(error)
    assert len(error.candidates) == 300


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("KSamplr", "KSampler"), ("sampler", "Sampler"), ("positive promt", "Positive prompt")],
)
def test_an_unknown_name_suggests_the_nearest(wf: Workflow, name: str, nearest: str) -> None:
    """Case does not count for what is near."""
    error = refusal(wf.__getitem__, name)
    assert error.candidates[0] == nearest
    assert repr(nearest) in str(error)
    assert name not in wf


def test_a_name_like_no_other_lists_all_names(wf: Workflow) -> None:
    """Candidates are never empty."""
    error = refusal(wf.__getitem__, "?")
    assert "Sampler" in error.candidates
    assert "'Sampler'" in str(error)


@pytest.mark.parametrize("name", [None, 1.5, ("3",)])
def test_a_name_of_another_type_is_a_type_error(wf: Workflow, name: Any) -> None:
    """``in`` is just false."""
    with pytest.raises(TypeError, match="by id, title or class"):
        wf[name]
    assert name not in wf


def test_find_gives_all_that_match(wf: Workflow) -> None:
    """None, one or many, by class, title or both."""
    assert [node.id for node in wf.find("CLIPTextEncode")] == ["6", "7"]
    assert [node.id for node in wf.find("CLIPTextEncode", "Negative prompt")] == ["7"]
    assert wf.find(title="nobody") == []
    assert [node.id for node in wf.find(input="text")] == ["6", "7"]
    assert wf.find() == list(wf)


def test_a_workflow_is_a_collection_of_its_nodes(wf: Workflow) -> None:
    """Length, order, ``in``, and a mapping by id."""
    assert len(wf) == 5
    assert [node.id for node in wf] == list(GRAPH) == list(wf.nodes)
    assert wf.nodes["3"] is wf["Sampler"]
    assert wf["3"] in wf
    assert wf.copy()["3"] not in wf


def test_repr_is_short(wf: Workflow) -> None:
    """No dumps of graphs in notebooks and logs."""
    assert repr(wf) == ("<Workflow 5 nodes: KSampler, CheckpointLoaderSimple, CLIPTextEncode, ...>")
    assert repr(Workflow.load({1: {"class_type": "A"}})) == "<Workflow 1 node: A>"
    assert repr(wf["3"]) == "<Node 3 'Sampler' KSampler>"
    assert repr(wf["4"]) == "<Node 4 CheckpointLoaderSimple>"


# -- editing ----------------------------------------------------------------------------


def test_an_input_is_set_and_read_by_name(wf: Workflow) -> None:
    """The design's own example."""
    wf["KSampler"]["seed"] = 7
    assert wf["KSampler"]["seed"] == 7
    assert wf.to_dict()["3"]["inputs"]["seed"] == 7
    assert wf["3"].inputs == {"seed": 7, "cfg": 7.0, "model": ["4", 0], "positive": ["6", 0]}
    assert list(wf["3"]) == ["seed", "cfg", "model", "positive"]
    assert "seed" in wf["3"]


def test_inputs_are_for_reading(wf: Workflow) -> None:
    """Writing goes through the node, which checks."""
    with pytest.raises(TypeError):
        wf["3"].inputs["seed"] = 1  # type: ignore[index]


def test_an_unknown_input_suggests_the_nearest(wf: Workflow) -> None:
    """Setting also says how an input is added."""
    for call in (wf["3"].__getitem__, wf["3"].__delitem__):
        error = refusal(call, "sed")
        assert error.candidates[0] == "seed"
        assert "node 3 'Sampler' (KSampler) has no input 'sed'; nearest: 'seed'" in str(error)
    assert "node.set('sed', value, force=True)" in str(refusal(wf["3"].set, "sed", 7))


def test_the_habit_of_raw_dicts_gets_a_hint(wf: Workflow) -> None:
    """``wf["3"]["inputs"]["seed"]`` is how plain JSON is edited."""
    assert "node['seed']" in str(refusal(wf["3"].__getitem__, "inputs"))


def test_force_adds_an_input_and_del_removes_it(wf: Workflow) -> None:
    """Optional inputs are often not in the file."""
    wf["3"].set("denoise", 0.5, force=True)
    assert wf["3"]["denoise"] == 0.5
    del wf["3"]["denoise"]
    assert "denoise" not in wf["3"]


def test_a_link_is_not_lost_by_accident(wf: Workflow) -> None:
    """A value in place of a link needs force; the message says what is linked."""
    text = str(refusal(wf["3"].set, "model", "x"))
    assert "input 'model' is linked to node 4 (CheckpointLoaderSimple), slot 0" in text
    assert "force=True" in text
    wf["3"].set("model", "x", force=True)
    assert wf["3"]["model"] == "x"


def test_an_input_is_linked_to_an_output(wf: Workflow) -> None:
    """By the other node, or by its id, which may be a number."""
    wf["3"]["positive"] = wf["Negative prompt"].output()
    assert wf["3"]["positive"] == ["7", 0]
    wf["3"]["model"] = (4, 2)
    assert wf["3"]["model"] == ["4", 2]
    wf["3"]["seed"] = ["7", 1]
    assert wf["3"]["seed"] == ["7", 1]


@pytest.mark.parametrize(
    ("link", "says"),
    [
        (["99", 0], "links to node '99', which does not exist"),
        ([512, 512], '"__value__"'),
        (["3", 0], "links the node to itself"),
        (["4", -1], "slot below 0"),
        (["4", True], "must be an int"),
    ],
)
def test_a_bad_link_is_refused(wf: Workflow, link: Any, says: str) -> None:
    """Also with force."""
    assert says in str(refusal(wf["3"].set, "model", link, force=True))
    assert wf == Workflow(GRAPH)


def test_a_node_is_not_a_link() -> None:
    """Which of its outputs is meant must be said."""
    wf = Workflow.load(GRAPH)
    with pytest.raises(TypeError, match=r"\.output\(0\)"):
        wf["3"]["model"] = wf["4"]


def test_a_name_of_an_input_is_a_string(wf: Workflow) -> None:
    """Also with force."""
    with pytest.raises(TypeError, match="must be a str"):
        wf["3"].set(5, 1, force=True)  # type: ignore[arg-type]


def test_a_value_that_json_lacks_is_refused_when_set(wf: Workflow) -> None:
    """At the line that is wrong, not at the POST; numbers of numpy are converted."""
    assert "node 3 'Sampler' (KSampler), input 'cfg': nan" in str(
        refusal(wf["3"].set, "cfg", math.nan)
    )
    wf["3"]["seed"] = Scalar(9)
    assert wf["3"]["seed"] == 9


def test_a_list_that_was_set_is_copied(wf: Workflow) -> None:
    """Later changes to it stay outside."""
    value = {"__value__": [1, 2]}
    wf["4"]["ckpt_name"] = value
    value["__value__"].append(3)
    assert wf["4"]["ckpt_name"] == {"__value__": [1, 2]}


def test_a_title_is_set_and_removed(wf: Workflow) -> None:
    """Addressing follows."""
    wf["4"].title = "Loader"
    assert wf["Loader"].id == "4"
    wf["4"].title = None
    assert wf["4"].title is None
    assert "Loader" not in wf


# -- copies and files -------------------------------------------------------------------


@pytest.mark.parametrize(
    "duplicate",
    [Workflow.copy, copy.copy, copy.deepcopy, lambda wf: pickle.loads(pickle.dumps(wf))],
)
def test_a_copy_is_equal_and_independent(wf: Workflow, duplicate: Any) -> None:
    """However it was made."""
    other = duplicate(wf)
    assert other == wf
    other["3"]["seed"] = 99
    assert other != wf
    assert wf["3"]["seed"] == 1
    assert other.to_dict()["3"]["inputs"]["seed"] == 99


def test_a_workflow_equals_workflows_only(wf: Workflow) -> None:
    """It can change, so it has no hash."""
    assert wf != GRAPH
    with pytest.raises(TypeError, match="unhashable"):
        hash(wf)


def test_save_writes_readable_utf_8_and_load_reads_it(wf: Workflow, tmp_path: Path) -> None:
    """In the order of the nodes, the same bytes each time, nothing left beside it."""
    wf["6"]["text"] = "灯台 ☀"
    path = wf.save(tmp_path / "wf.json")
    first = path.read_bytes()
    assert '      "text": "灯台 ☀",'.encode() in first
    assert wf.save(str(path)) == path
    assert path.read_bytes() == first
    assert Workflow.load(path) == wf
    assert list(json.loads(first)) == list(GRAPH)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.posix("pipes with names")
def test_save_writes_into_a_pipe(wf: Workflow, tmp_path: Path) -> None:
    """And leaves it there; a device is no different."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert wf.save(pipe) == pipe
        assert json.loads(os.read(reader, 1 << 16)) == wf.to_dict()
    finally:
        os.close(reader)
    assert pipe.is_fifo()


def test_a_failed_save_leaves_the_old_file(
    wf: Workflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file appears complete or not at all."""
    path = wf.save(tmp_path / "wf.json")
    before = path.read_bytes()
    wf["3"]["seed"] = 2

    def full(*args: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="disk full"):
        wf.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_nan_is_not_written_to_a_file(tmp_path: Path) -> None:
    """Python's JSON reads it, no other does."""
    wf = Workflow.load('{"3": {"class_type": "A", "inputs": {"cfg": NaN}}}')
    assert "node 3 (A), input 'cfg': nan" in str(refusal(wf.save, tmp_path / "wf.json"))
    assert list(tmp_path.iterdir()) == []


def test_a_workflow_with_a_dangling_link_can_be_saved(graph: dict[str, Any]) -> None:
    """Work in progress is not sent yet."""
    graph["3"]["inputs"]["model"] = ["99", 0]
    assert Workflow.load(Workflow.load(graph).to_json()) == Workflow(graph)


# -- plain functions --------------------------------------------------------------------


def test_sinks_are_the_nodes_from_which_no_other_takes(graph: dict[str, Any]) -> None:
    """Links by number count, links to oneself do not."""
    assert sinks(graph) == {"406:12", "7"}
    graph["406:12"]["inputs"] = {"images": [7, 0], "x": ["406:12", 0]}
    assert sinks(graph) == {"406:12", "3"}
    assert sinks({"1": None, "2": {"inputs": []}}) == {"1", "2"}


def test_title_and_class_are_found_by_the_longest_known_prefix(graph: dict[str, Any]) -> None:
    """Servers name nodes inside of others by composite ids."""
    assert title_of(graph, "3") == title_of(graph, "3.0.0.1") == title_of(graph, 3) == "Sampler"
    assert title_of(graph, "4") is None
    assert class_of(graph, "406:12:5.1") == "SaveImage"
    assert class_of(graph, "406") is None
    assert title_of(graph, "99.1") is class_of(graph, "") is None


def test_a_good_graph_is_returned_as_it_is(graph: dict[str, Any]) -> None:
    """The usual case costs no copy."""
    assert check_graph(graph) == graph


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (math.nan, "nan is not a number that JSON can represent"),
        (-math.inf, "-inf is not"),
        ({"a": [1, math.nan]}, "nan is not"),
        (Scalar(math.nan), "nan is not"),
        (Path("x.png"), "a path on this machine; upload"),
        (b"\x89PNG", "(bytes)"),
        ({1, 2}, "(set)"),
        (Scalar(1, shape=(1,)), "(Scalar)"),
        (Scalar(object()), "(Scalar)"),
        ({5: 1}, "the key 5 is not a string"),
        (["99", 0], "['99', 0] links to node '99', which does not exist"),
        ([99, 0], "links to node '99'"),
        (["3", 0], "links the node to itself"),
        (["4", -1], "slot below 0"),
        (["4", 0.0], "must be an int"),
    ],
)
def test_values_that_cannot_be_sent_are_refused_with_node_and_input(
    graph: dict[str, Any], value: Any, says: str
) -> None:
    """In one line, before anything is sent."""
    graph["3"]["inputs"]["cfg"] = value
    text = str(refusal(check_graph, graph))
    assert text.startswith("node 3 'Sampler' (KSampler), input 'cfg': ")
    assert says in text


def forked(**more: Any) -> dict[str, Any]:
    """One output that is whole, and one that hangs on node 99, which does not exist."""
    return {
        "1": {"class_type": "EmptyImage", "inputs": {}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}},
        "3": {"class_type": "ImageBlend", "inputs": {"a": ["1", 0], "b": ["99", 0]}},
        "4": {"class_type": "SaveImage", "inputs": {"images": ["3", 0]}},
        "5": {"class_type": "PreviewImage", "inputs": {"images": ["3", 0]}},
        **more,
    }


def test_a_good_graph_is_sent_as_a_whole(graph: dict[str, Any]) -> None:
    """It is looked at once, and not copied."""
    whole, part, left_out = check_parts(graph)
    assert whole is part
    assert whole == graph
    assert left_out == {}


def test_nodes_behind_a_missing_node_are_left_out() -> None:
    """If it is not all that there is; told as the server tells what it drops."""
    graph = forked()
    whole, part, left_out = check_parts(graph)
    assert whole == graph == forked()
    assert list(part) == ["1", "2"]
    assert {key: entry["dependent_outputs"] for key, entry in left_out.items()} == {"3": ["4", "5"]}
    told = explain_rejection({"node_errors": left_out}, graph)
    assert told == "node 3 (ImageBlend): input 'b' links to node '99', which does not exist"
    del graph["2"]
    with pytest.raises(WorkflowError, match="links to node '99'"):
        check_parts(graph)


@pytest.mark.parametrize(
    ("node", "says"),
    [
        ({"a": [512, 512]}, "__value__"),
        ({"a": ["6", 0]}, "links the node to itself"),
        ({"a": math.nan}, "nan is not a number"),
        ({"a": math.nan, "b": ["99", 0]}, "nan is not a number"),
    ],
)
def test_faults_that_no_server_drops_are_refused(node: dict[str, Any], says: str) -> None:
    """No server drops these alone, and a list of two numbers is hardly meant as a link."""
    graph = forked(**{"6": {"class_type": "PreviewAny", "inputs": node}})
    assert says in str(refusal(check_parts, graph))


def test_keys_that_are_not_strings_are_refused_at_every_level(graph: dict[str, Any]) -> None:
    """JSON would turn them into strings in silence."""
    assert "node id 5" in str(refusal(check_graph, {**graph, 5: {}}))
    assert "key 5" in str(refusal(check_graph, {"3": {5: 1}}))
    assert "input name 5" in str(refusal(check_graph, {"3": {"inputs": {5: 1}}}))
    assert "key '_meta': the key 5" in str(refusal(check_graph, {"3": {"_meta": {5: 1}}}))


def test_values_in_place_of_a_node_are_checked_too() -> None:
    """The server may tell what it is, if JSON can carry it."""
    assert str(refusal(check_graph, {"3": math.nan})).startswith("node 3: nan")
    assert check_graph({"3": [1], "4": {"inputs": 5}}) == {"3": [1], "4": {"inputs": 5}}


def test_a_value_that_contains_itself_is_refused(graph: dict[str, Any]) -> None:
    """There is no end to it."""
    value: list[Any] = []
    value.append(value)
    graph["3"]["inputs"]["cfg"] = value
    assert "input 'cfg': the value is nested too deeply" in str(refusal(check_graph, graph))


def test_a_list_is_no_workflow() -> None:
    """Not even an empty one."""
    assert "a dict of nodes by id" in str(refusal(check_graph, []))


def test_numbers_and_containers_are_converted_in_a_copy(graph: dict[str, Any]) -> None:
    """Those of numpy by ``item()``, tuples, read-only mappings, node ids in links."""
    graph["3"]["inputs"] |= {
        "seed": Scalar(7),
        "flag": Scalar(True),
        "model": (4, Scalar(0)),
        "points": [(1.5, 2), MappingProxyType({"a": Scalar(0.5)})],
    }
    before = dict(graph["3"]["inputs"])
    sent = check_graph(MappingProxyType(graph))
    assert sent["3"]["inputs"] == {
        "seed": 7,
        "cfg": 7.0,
        "flag": True,
        "model": ["4", 0],
        "positive": ["6", 0],
        "points": [[1.5, 2], {"a": 0.5}],
    }
    assert json.loads(json.dumps(sent)) == sent
    assert list(sent) == list(GRAPH)
    assert graph["3"]["inputs"] == before


@pytest.mark.parametrize(
    "value", [["a", "b"], [], ["4"], ["4", "0"], [1, 2, 3], {"__value__": [512, 512]}]
)
def test_lists_that_are_no_links_pass(graph: dict[str, Any], value: Any) -> None:
    """The server knows better what they are."""
    graph["3"]["inputs"]["cfg"] = value
    assert check_graph(graph) == graph


# -- properties -------------------------------------------------------------------------

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    # Half surrogate pairs are in file names that Python could not decode.
    | st.text(st.characters(exclude_categories=())),
    lambda inner: (
        st.lists(inner, max_size=5).filter(lambda items: len(items) != 2)
        | st.dictionaries(st.text(), inner, max_size=5)
    ),
    max_leaves=12,
)
NODES = st.builds(
    lambda class_type, inputs, meta: {"class_type": class_type, "inputs": inputs, "_meta": meta},
    st.text(min_size=1),
    st.dictionaries(st.text(), JSON, max_size=5),
    JSON,
)
GRAPHS = st.dictionaries(
    st.text().filter(lambda key: key not in ("prompt", "output", "workflow", "nodes")),
    NODES,
    min_size=1,
    max_size=5,
)


@settings(max_examples=examples(40), deadline=None)
@given(GRAPHS)
def test_a_workflow_written_as_json_is_read_back(graph: dict[str, Any]) -> None:
    """For every graph, also as bytes."""
    wf = Workflow.load(graph)
    assert Workflow.load(wf.to_json()) == wf
    assert Workflow.load(wf.to_json().encode()) == wf
    assert wf.to_dict() == graph


@settings(deadline=None)
@given(st.dictionaries(st.text(), NODES | JSON))
def test_every_finite_graph_without_links_passes_the_check(graph: dict[str, Any]) -> None:
    """Whether it makes sense is for the server to say."""
    assert check_graph(graph) == graph


@settings(max_examples=examples(40), deadline=None)
@given(GRAPHS, st.text())
def test_a_name_finds_a_node_or_raises_a_workflow_error(graph: dict[str, Any], name: str) -> None:
    """Never anything else."""
    wf = Workflow.load(graph)
    if name in wf.nodes or len(wf.find(title=name) or wf.find(name)) == 1:
        assert isinstance(wf[name], Node)
    else:
        assert refusal(wf.__getitem__, name).candidates


def test_a_node_is_no_attribute() -> None:
    """Which the error says where there is such a node; a copy and a pickle are as ever."""
    workflow = Workflow({"1": {"class_type": "KSampler", "inputs": {}}})
    with pytest.raises(AttributeError, match=r"'KSampler'; for the node, write workflow\['KSamp"):
        _ = workflow.KSampler  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match=r"has no attribute 'Nope'$"):
        _ = workflow.Nope  # type: ignore[attr-defined]
    assert copy.copy(workflow) == copy.deepcopy(workflow) == workflow
    assert pickle.loads(pickle.dumps(workflow)) == workflow
