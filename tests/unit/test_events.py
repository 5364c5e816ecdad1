"""The typed values: what real servers said, and what stands in for what they did not say."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import attrs
import pytest

import comfy_client
from comfy_client.errors import JobLost
from comfy_client.events import (
    CLASSES,
    FROM_SERVER,
    NAMES,
    Event,
    JobEvent,
    NodeProgress,
    PreviewEvent,
    UnknownEvent,
    execution_error,
    execution_interrupted,
    execution_success,
    queue_remaining,
)

RECORDINGS = Path(__file__).parents[1] / "recordings"
VERSIONS = ["2024-03", "0.3.52", "0.3.75", "0.28.1"]


def said(version: str, scenario: str, name: str) -> list[dict[str, Any]]:
    """The data of all messages of that name in a recording."""
    text = (RECORDINGS / version / f"{scenario}.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    return [r["msg"]["data"] for r in rows if r["kind"] == "json" and r["msg"]["type"] == name]


def events(version: str, scenario: str, name: str) -> list[Any]:
    """The events of all messages of that name in a recording, each with its data as raw."""
    found = said(version, scenario, name)
    made = [FROM_SERVER[name](data) for data in found]
    assert made
    assert [event.raw for event in made] == found
    assert {event.name for event in made} == {name}
    return made


def test_the_documented_names_are_these() -> None:
    """Those of the issue; a server's and the client's own do not overlap."""
    text = """
        auth_success auth_error connection_error connected reconnecting reconnected disconnected
        websocket_unavailable all status b_preview b_preview_with_metadata progress progress_state
        progress_text executing executed execution_start execution_cached execution_success
        execution_error execution_interrupted job_lost queue_error logs terminal
        terminal_subscription_error feature_flags notification monitor"""
    assert set(text.split()) == NAMES


def test_the_class_of_each_name_is_public() -> None:
    """So that callbacks can be annotated."""
    assert {getattr(comfy_client, kind.__name__, None) for kind in CLASSES.values()} == {
        *CLASSES.values()
    }


@pytest.mark.parametrize("version", VERSIONS)
def test_status_has_the_queue_and_the_first_one_our_id(version: str) -> None:
    """``sid`` is in the greeting only."""
    greeting, *later = events(version, "normal_previews", "status")
    assert greeting.queue_remaining == 0
    assert greeting.sid == greeting.raw["sid"]
    assert {event.queue_remaining for event in later} == {0, 1}
    assert {event.sid for event in later} == {None}


@pytest.mark.parametrize("version", VERSIONS)
def test_the_events_of_a_run_carry_prompt_node_and_time(version: str) -> None:
    """Times came in July 2024, display nodes in August 2024: before, they are None."""
    is_old = version == "2024-03"
    (start,) = events(version, "normal_previews", "execution_start")
    (cached,) = events(version, "normal_previews", "execution_cached")
    assert cached.prompt_id == start.prompt_id == start.raw["prompt_id"]
    assert cached.nodes == tuple(cached.raw["nodes"])
    for event in (start, cached):
        assert (event.timestamp is None) == is_old
    *nodes, end = events(version, "normal_previews", "executing")
    assert {event.prompt_id for event in (*nodes, end)} == {start.prompt_id}
    assert (end.node, end.display_node) == (None, None)
    assert all(isinstance(event.node, str) for event in nodes)
    assert [e.display_node for e in nodes] == [None if is_old else e.node for e in nodes]
    done = events(version, "normal_previews", "executed")
    for event in done:
        assert event.prompt_id == start.prompt_id
        assert event.output["images"][0]["filename"].endswith(".png")
        assert event.display_node == (None if is_old else event.node)
    if not is_old:
        (success,) = events(version, "normal_previews", "execution_success")
        assert (success.prompt_id, success.recovered) == (start.prompt_id, False)
        assert success.timestamp >= start.timestamp > 10**12


@pytest.mark.parametrize("version", VERSIONS)
def test_progress_counts_the_steps_of_a_node(version: str) -> None:
    """Value and maximum as numbers, node and prompt as texts."""
    made = events(version, "normal_previews", "progress")
    steps = [(e.value, e.max) for e in made if e.node == made[0].node]
    assert steps == sorted(steps)
    assert steps[-1][0] == steps[-1][1]
    assert {(type(e.node), type(e.prompt_id)) for e in made} == {(str, str)}


@pytest.mark.parametrize("version", ["0.3.52", "0.3.75"])
def test_progress_state_has_every_node_that_has_begun(version: str) -> None:
    """The map grows, and ends with all nodes finished."""
    made = events(version, "normal_previews", "progress_state")
    sizes = [len(event.nodes) for event in made]
    assert sizes == sorted(sizes)
    assert sizes[0] == 1
    (first,) = made[0].nodes.values()
    assert first.state == "running"
    assert {node.state for node in made[-1].nodes.values()} == {"finished"}
    for key, node in made[-1].nodes.items():
        assert isinstance(node, NodeProgress)
        assert (node.node_id, node.display_node_id) == (key, key)
        assert node.value == node.max
    assert made[-1].nodes is made[-1].nodes


@pytest.mark.parametrize("version", VERSIONS)
def test_a_runtime_error_names_node_exception_and_traceback(version: str) -> None:
    """The message stands without its line end, the traceback is one text."""
    event = events(version, "runtime_error", "execution_error")[0]
    assert (event.node_id, event.node_type) == ("3", "LoadImage")
    assert event.exception_type == event.raw["exception_type"]
    assert event.exception_message == event.raw["exception_message"].strip()
    assert event.traceback == "".join(event.raw["traceback"])
    assert "execution.py" in event.traceback
    assert event.executed == tuple(event.raw["executed"])
    assert event.current_inputs == event.raw["current_inputs"]
    assert event.is_end
    assert "execution.py" not in repr(event)


@pytest.mark.parametrize("version", VERSIONS)
def test_an_interruption_names_where_it_was(version: str) -> None:
    """The node that ran, and those that had."""
    event = events(version, "interrupt", "execution_interrupted")[0]
    assert (event.node_id, event.node_type) == ("3", "KSampler")
    assert set(event.executed) == {"4", "5", "6", "7"}
    assert (event.timestamp is None) == (version == "2024-03")


@pytest.mark.parametrize("version", VERSIONS)
def test_a_cached_run_names_the_nodes_that_will_not_run(version: str) -> None:
    """Servers since 2024 send ``executed`` for cached outputs, earlier ones do not."""
    event = events(version, "cached_rerun", "execution_cached")[-1]
    assert len(event.nodes) == len(event.raw["nodes"]) > 1


def test_cached_nodes_without_pictures_have_no_output() -> None:
    """``output`` null is None; the rest of the event is there."""
    data = {"node": "9", "display_node": "9", "output": None, "prompt_id": "p"}
    event: Any = FROM_SERVER["executed"](data)
    assert (event.node, event.display_node, event.output) == ("9", "9", None)
    assert event.raw is data


def test_the_replay_after_a_reconnect_has_no_prompt() -> None:
    """A server that greets us again names the running node only."""
    event: Any = FROM_SERVER["executing"]({"node": "3"})
    assert (event.node, event.display_node, event.prompt_id) == ("3", None, None)


def test_feature_flags_are_all_there() -> None:
    """As the server sent them."""
    event = events("0.3.75", "normal_feature_flags", "feature_flags")[0]
    assert event.flags["supports_preview_metadata"] is True
    assert event.flags == event.raw


def test_a_blocked_node_does_not_end_the_prompt() -> None:
    """``ExecutionBlocked`` is told as an error, and the prompt goes on."""
    event = execution_error(
        {
            "prompt_id": "p",
            "exception_type": "ExecutionBlocked",
            "current_inputs": [],
            "executed": [],
        }
    )
    assert not event.is_end
    assert event.current_inputs == {}
    assert event.timestamp is None


def test_history_messages_make_the_same_events() -> None:
    """Whoever reads it there marks them as recovered."""
    data = {"prompt_id": "p", "timestamp": 5}
    for read in (execution_success, execution_error, execution_interrupted):
        event = read(data, 77)
        assert (event.raw, event.nbytes, event.recovered) == (data, 77, False)


def test_the_queue_counts_only_when_it_is_a_number() -> None:
    """What is missing is None, never a made-up zero."""
    assert queue_remaining({"exec_info": {"queue_remaining": 0}}) == 0
    for odd in ({}, {"exec_info": None}, {"exec_info": {}}, {"exec_info": []}):
        assert queue_remaining(odd) is None
    for odd in (None, "1", True, float("nan"), 10**400, [1], -1, -1e9):
        assert queue_remaining({"exec_info": {"queue_remaining": odd}}) is None


@pytest.mark.parametrize("name", sorted(FROM_SERVER))
def test_an_empty_message_has_only_empty_fields(name: str) -> None:
    """None, or the empty text or collection that its type has; no zero."""
    event = FROM_SERVER[name]({})
    for field in attrs.fields(type(event)):
        if field.name not in ("name", "raw", "nbytes", "recovered"):
            assert getattr(event, field.name) in (None, (), {}, ""), field.name


@pytest.mark.parametrize("name", sorted(FROM_SERVER))
@pytest.mark.parametrize("odd", [None, True, 5, 1.5, "x", ["x", 1], {"x": 1}, float("nan")])
def test_odd_fields_become_none_or_the_nearest_text(name: str, odd: Any) -> None:
    """Whatever stands in a field, its type is the documented one."""
    fields = FROM_SERVER[name]({}).__class__.__attrs_attrs__
    names = {field.name for field in fields} | {"status", "nodes", "entries", "t", "m"}
    event = FROM_SERVER[name](dict.fromkeys(names, odd))
    allowed = {
        "prompt_id": str,
        "node": str,
        "node_id": str,
        "display_node": str,
        "node_type": str,
        "sid": str,
        "timestamp": int,
        "value": (int, float, str),
        "max": (int, float),
        "output": dict,
    }
    for field, kind in allowed.items():
        value = getattr(event, field, None)
        assert value is None or (isinstance(value, kind) and not isinstance(value, bool)), field
    assert isinstance(getattr(event, "traceback", ""), str)
    assert isinstance(getattr(event, "executed", ()), tuple)
    assert isinstance(getattr(event, "current_inputs", {}), dict)
    repr(event)


def test_numbers_for_ids_become_texts() -> None:
    """A node that sends its id as a number is still found by its text."""
    event: Any = FROM_SERVER["progress"]({"node": 3, "prompt_id": 7, "value": 1, "max": 2})
    assert (event.node, event.prompt_id) == ("3", "7")


def test_nodes_of_a_progress_state_may_be_odd() -> None:
    """A node that is no object is left out, its odd fields are None."""
    nodes = {"1": None, "2": 5, "3": {"value": "x", "max": None, "state": 1}, "4": []}
    event: Any = FROM_SERVER["progress_state"]({"nodes": nodes})
    assert list(event.nodes) == ["3"]
    node = event.nodes["3"]
    assert (node.value, node.max, node.state, node.display_node_id) == (None, None, None, None)
    for odd in (None, 5, "x", []):
        assert FROM_SERVER["progress_state"]({"nodes": odd}).nodes == {}  # type: ignore[attr-defined]


def test_events_are_frozen() -> None:
    """Receivers of one event cannot disturb each other through it."""
    event = FROM_SERVER["status"]({})
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        event.name = "other"  # type: ignore[misc]


def test_big_fields_are_not_in_the_repr() -> None:
    """An event can be printed: no picture, no raw data, no outputs."""
    big = "x" * 1000
    assert len(repr(PreviewEvent(name="b_preview", view=memoryview(bytes(10**6))))) < 300
    for name, make in FROM_SERVER.items():
        if name not in ("feature_flags", "notification"):  # which are nothing but that
            assert len(repr(make({"output": {"a": big}, "traceback": [big], "more": big}))) < 400
    assert isinstance(UnknownEvent(name="mine", data=5), Event)
    assert isinstance(UnknownEvent(name="mine"), JobEvent)


@pytest.mark.parametrize("kind", sorted(set(CLASSES.values()), key=lambda kind: kind.__name__))
def test_events_can_be_pickled_and_copied(kind: type[Event]) -> None:
    """Each class; of a picture its bytes."""
    given: dict[str, Any] = (
        {"error": JobLost("gone", prompt_id="p")} if hasattr(kind, "error") else {}
    )
    if kind is PreviewEvent:
        given = {"view": memoryview(b"..picture")[2:], "node_id": "3", "raw": {"a": 1}}
    event = kind(name="some", nbytes=5, **given)
    for twin in (pickle.loads(pickle.dumps(event)), copy.deepcopy(event), copy.copy(event)):
        assert type(twin) is kind
        assert repr(twin) == repr(event)
        assert (twin.raw, twin.nbytes) == (event.raw, 5)
        if isinstance(twin, PreviewEvent):
            assert twin.image == bytes(twin.view) == b"picture"
