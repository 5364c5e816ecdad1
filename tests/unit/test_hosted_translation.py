"""Jobs of Comfy API v2 in ComfyUI's words, and whatever their servers may send."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfy_client.event_queue import Budget
from comfy_client.events import ExecutionError, ExecutionInterrupted, ExecutionSuccess
from comfy_client.hosted.models import (
    FrameTranslator,
    HostedJob,
    ServerEvent,
    failure,
    files_by_node,
    has_mark,
    marked,
    outcome,
    output_of,
    unmarked,
)
from comfy_client.jobs.state import PromptState
from comfy_client.timing import Timing

GRAPH: dict[str, Any] = {
    "1": {"class_type": "EmptyImage", "inputs": {}},
    "8": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    "9": {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}, "_meta": {"title": "Save"}},
}


def translator(graph: dict[str, Any] | None = None) -> FrameTranslator:
    return FrameTranslator("p", GRAPH if graph is None else graph)


def taken(one: FrameTranslator, *frames: tuple[str, Any]) -> list[Any]:
    """What a stream's frames stand for, to its end."""
    events = [event for name, data in frames for event in one.take(ServerEvent(name, data))]
    return [*events, *one.rest()]


def output(node: str, name: str, **more: Any) -> dict[str, Any]:
    return {"node_id": node, "name": name, "type": "image", "id": f"id-{name}", **more}


def ended(**facts: Any) -> HostedJob:
    return HostedJob.from_json({"id": "j", "status": "succeeded", **facts})


def state(graph: dict[str, Any] = GRAPH) -> PromptState:
    return PromptState("p", graph, Budget(1 << 20), Timing())


# -- marks ----------------------------------------------------------------------------------------


def test_a_mark_is_put_beside_the_title_of_one_output_node() -> None:
    graph = {key: node for key, node in GRAPH.items() if key != "8"}
    found = marked(graph, "key")
    assert found["9"]["_meta"] == {"title": "Save", "comfy_client": "key"}
    assert found["1"] == graph["1"]
    assert "comfy_client" not in graph["9"]["_meta"]
    assert has_mark(found, "key")
    assert not has_mark(found, "other")
    assert unmarked(found) == graph


@pytest.mark.parametrize("meta", [{}, {"_meta": None}, {"_meta": "x"}, {"_meta": [1]}])
def test_a_malformed_meta_is_replaced_by_the_mark(meta) -> None:
    graph = {"1": {"class_type": "A", "inputs": {}, **meta}}
    found = marked(graph, "key")
    assert found["1"]["_meta"] == {"comfy_client": "key"}
    assert unmarked(found) == {"1": {"class_type": "A", "inputs": {}}}


@pytest.mark.parametrize(
    "graph",
    [{}, {"1": None}, {"1": {"inputs": {"a": ["1", 0]}}, "2": {"inputs": {"a": ["2", 0]}}}],
)
def test_a_graph_without_output_nodes_is_left_to_the_server(graph) -> None:
    assert unmarked(marked(graph, "key")) == graph


def test_rubbish_has_no_mark() -> None:
    graph = {"1": None, "2": {"_meta": []}, "3": {"_meta": {"comfy_client": ["key"]}}}
    assert not has_mark(graph, "key")


# -- outputs --------------------------------------------------------------------------------------


def test_files_stand_under_their_nodes_and_keys() -> None:
    said = [
        output("9", "a.png"),
        output("9", "b.flac", type="audio"),
        output("9", "c.txt", type="text"),
        output("9", "d.latent", type="latent"),
        {"name": "e.mp4", "type": "video"},
    ]
    found = files_by_node([one for one in map(output_of, said) if one], GRAPH)
    assert {node: sorted(keys) for node, keys in found.items()} == {
        "9": ["audio", "files", "images", "latents"],
        "": ["images"],
    }
    assert found["9"]["images"][0]["filename"] == "a.png"
    assert found["9"]["images"][0]["subfolder"] == ""
    assert found["9"]["images"][0]["id"] == "id-a.png"


def test_files_of_preview_nodes_are_temporary() -> None:
    """Comfy API v2 does not tell them apart, but the class of the node does."""
    outputs = [one for node in "89" if (one := output_of(output(node, f"{node}.png")))]
    found = files_by_node(outputs, GRAPH)
    assert found["8"]["images"][0]["type"] == "temp"
    assert found["9"]["images"][0]["type"] == "output"
    unknown = files_by_node(outputs)
    assert unknown["8"]["images"][0]["type"] == "output"


# -- ends -----------------------------------------------------------------------------------------


def test_a_success_has_its_files_and_whether_all_was_cached() -> None:
    found = outcome(ended(outputs=[output("9", "a.png")], outputs_reused=True), state())
    assert found is not None
    assert isinstance(found.event, ExecutionSuccess)
    assert found.event.recovered
    assert found.complete
    assert not found.fully_cached  # a proxy also says so if a single node was cached
    assert found.outputs["9"]["images"][0]["filename"] == "a.png"


def test_pictures_for_the_socket_are_missing_and_the_result_says_so() -> None:
    one = state({"1": {"class_type": "SaveImageWebsocket", "inputs": {}}})
    found = outcome(ended(), one)
    assert found is not None
    assert not found.complete
    assert "use SaveImage" in one.remarks[0]


def test_times_of_the_server_give_the_running_time() -> None:
    one = state()
    outcome(ended(started_at="2026-01-01T00:00:01Z", completed_at="2026-01-01T00:00:03Z"), one)
    assert one.took == 2.0
    backwards = {"started_at": 9.0, "completed_at": 5.0}
    outcome(ended(**backwards), one)
    assert one.took == 0.0


def test_a_failure_says_where_and_why() -> None:
    error = {
        "code": "node_execution_error",
        "message": "boom",
        "node_id": "9",
        "class_type": "SaveImage",
        "traceback": "line 1",
    }
    found = outcome(ended(status="failed", error=error), state())
    assert found is not None
    assert isinstance(found.event, ExecutionError)
    assert (found.event.node_id, found.event.node_type) == ("9", "SaveImage")
    assert (found.event.exception_message, found.event.traceback) == ("boom", "line 1")


@pytest.mark.parametrize(
    ("error", "message"),
    [(None, None), ({}, None), ({"code": "odd"}, "odd"), ("text", None), ({"message": 3}, None)],
)
def test_a_failure_may_say_little(error, message) -> None:
    event = failure(ended(status="failed", error=error), "p")
    assert event.prompt_id == "p"
    assert event.exception_message == message


def test_a_cancelled_job_was_interrupted() -> None:
    found = outcome(ended(status="canceled"), state())
    assert found is not None
    assert isinstance(found.event, ExecutionInterrupted)


@pytest.mark.parametrize("status", ["queued", "running", "canceling", "expired", "new"])
def test_unfinished_statuses_are_no_end(status) -> None:
    assert outcome(ended(status=status), state()) is None


# -- frames ---------------------------------------------------------------------------------------


def test_a_stream_gives_the_events_of_a_socket() -> None:
    picture = base64.b64encode(b"picture").decode()
    events = taken(
        translator(),
        ("status", {"status": "queued", "queue_position": 2}),
        ("status", {"status": "running"}),
        ("progress", {"value": 0.1, "current_node": "1"}),
        ("progress", {"value": 0.2, "current_node": "1", "step": 1, "steps": 4}),
        ("preview", {"node_id": "1", "content_type": "image/png", "data_base64": picture}),
        ("output", output("8", "a.png")),
        ("output", output("8", "b.png")),
        ("output", output("9", "c.png")),
        ("status", {"status": "succeeded"}),
    )
    assert [event.name for event in events] == [
        "execution_start",
        "executing",
        "progress",
        "b_preview",
        "executed",
        "executed",
    ]
    assert all(event.prompt_id == "p" for event in events)
    assert (events[2].value, events[2].max) == (1, 4)
    assert bytes(events[3].image) == b"picture"
    assert [len(event.output["images"]) for event in events[4:]] == [2, 1]
    assert events[4].output["images"][0]["type"] == "temp"


def test_progress_or_a_preview_is_the_start_without_a_status() -> None:
    assert [event.name for event in taken(translator(), ("progress", {"current_node": "1"}))] == [
        "execution_start",
        "executing",
    ]
    data = {"content_type": "image/jpeg", "data_base64": "AAAA"}
    assert [event.name for event in taken(translator(), ("preview", data))] == [
        "execution_start",
        "b_preview",
    ]


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"content_type": "image/png"},
        {"content_type": "image/png", "data_base64": "?"},
        {"content_type": "image/png", "data_base64": "AAA"},
        {"content_type": "image/png", "data_base64": "ä"},
        {"content_type": "image/png", "data_base64": 7},
        {"content_type": "text/html", "data_base64": "AAAA"},
        {"content_type": "image/png\r\nX: y", "data_base64": "AAAA"},
        {"content_type": ["image/png"], "data_base64": "AAAA"},
    ],
)
def test_malformed_pictures_are_no_preview(data) -> None:
    assert taken(translator(), ("preview", data)) == []


def test_a_long_id_of_a_node_is_cut() -> None:
    data = {"content_type": "image/png", "data_base64": "AAAA", "node_id": "x" * 10**6}
    [_, preview] = taken(translator(), ("preview", data))
    assert len(preview.node_id) <= 256


def test_an_output_that_is_nested_too_deeply_is_left_out() -> None:
    deep: Any = []
    for _ in range(500):
        deep = [deep]
    assert taken(translator(), ("output", output("9", "a.png", more=deep))) == []


def test_a_node_with_very_many_files_takes_bounded_memory() -> None:
    one = translator()
    frame = ServerEvent("output", output("9", "a.png"))
    for _ in range(5000):
        assert list(one.take(frame)) == []
    [event] = one.rest()
    assert len(event.output["images"]) == 1000
    assert list(one.rest()) == []


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
NAMES = st.sampled_from(["status", "progress", "preview", "output", "log", ""])
KEYS = st.sampled_from(
    [
        *("status", "name", "node_id", "type", "value", "current_node", "step", "steps"),
        *("content_type", "data_base64", "id", "url", "url_expires_at", "nodes_total"),
    ]
)


@given(st.lists(st.tuples(NAMES, st.dictionaries(KEYS, JUNK)), max_size=12))
def test_no_frame_raises_whatever_it_has(frames) -> None:
    """And what comes of it can be written as JSON."""
    for event in taken(translator(), *frames):
        assert event.prompt_id == "p"
        json.dumps(event.to_dict(), default=str)


@given(st.dictionaries(KEYS, JUNK), st.sampled_from(["succeeded", "failed", "canceled"]))
def test_no_end_raises_whatever_it_has(facts, status) -> None:
    job = HostedJob.from_json(
        {**facts, "outputs": [facts], "error": facts, "id": "j"} | {"status": status}
    )
    assert outcome(job, state()) is not None


def test_outputs_of_a_node_are_published_when_those_of_another_come() -> None:
    """Not only at the next frame about something else, which may be the last."""
    one = translator()
    assert [*one.take(ServerEvent("output", output("8", "a")))] == []
    assert [*one.take(ServerEvent("output", output("8", "b")))] == []
    [told] = one.take(ServerEvent("output", output("9", "c")))
    assert told.node == "8"
    assert len(told.output["images"]) == 2
