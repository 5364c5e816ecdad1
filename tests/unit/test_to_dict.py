"""``to_dict()``: what JSON comes of which value, its limits, and what it never shows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import comfy_client
from comfy_client import (
    ComfyError,
    ConnectionEvent,
    ErrorEvent,
    ExecutionError,
    JobFailed,
    PreviewEvent,
    ServerUnreachable,
    SweepRow,
    TransportError,
    UnknownEvent,
    Upload,
    WorkflowError,
)
from comfy_client.events import FROM_SERVER
from comfy_client.jobs.result import make_result
from comfy_client.redaction import Sealed
from comfy_client.to_dict import MAX_CHARACTERS, MAX_DEPTH, MAX_TEXT, MAX_VALUES, AsDict
from comfy_client.transport.decode import decode_text
from comfy_client.transport.dial import Lost
from tests.conftest import examples
from tests.helpers import hostile_values
from tests.json_schema import check_to_dict


@attrs.frozen
class Holder(AsDict):
    value: Any


def told(value: Any) -> Any:
    return Holder(value).to_dict()["value"]


def data(value: Any) -> dict[str, Any]:
    """Of an event of a custom node, which may hold anything."""
    return check_to_dict(UnknownEvent(name="mine", data=value, raw={"data": value}))


# -- values -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (7, 7),
        (0.5, 0.5),
        (float("nan"), None),
        (float("inf"), None),
        ("a", "a"),
        ("half \ud800", "half ?"),
        ((1, [2]), [1, [2]]),
        ({"b"}, ["b"]),
        (range(2), [0, 1]),
        ({("KSampler", "seed"): 1, 2: 3}, {"KSampler.seed": 1, "2": 3}),
        (Path("out/a.png"), str(Path("out/a.png"))),
        (datetime(2026, 11, 26, tzinfo=UTC), "2026-11-26T00:00:00+00:00"),
        (comfy_client.State.CONNECTED, "connected"),
        (b"abc", {"type": "bytes", "size": 3}),
        (memoryview(bytes(8)), {"type": "bytes", "size": 8}),
        (np.int64(3), 3),
        (np.float32(0.5), 0.5),
        (np.zeros((2, 2), "uint8"), {"type": "ndarray", "size": 4}),
        (Image.new("RGB", (1, 1)), {"type": "Image", "size": None}),
        (Upload(b"abc", "a.png"), {"type": "Upload", "size": None}),
        (Holder(1), {"value": 1}),
        (KeyError("a"), {"code": "key_error", "message": "'a'", "hint": None, "retryable": False}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_json_form_of_a_value(value: Any, expected: Any) -> None:
    assert told(value) == expected


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner),
)


@given(JSON)
def test_any_value_goes_into_json_and_back(value: Any) -> None:
    """Without ``NaN``, which is no JSON, and encoded as UTF-8."""
    data(value)


@given(st.sampled_from(sorted(FROM_SERVER)), hostile_values.JSON)
def test_any_message_of_a_known_name(name: str, message: Any) -> None:
    """Whatever a server sends under it."""
    text = json.dumps({"type": name, "data": message})
    for event in decode_text(text.encode()):
        check_to_dict(event)


@settings(max_examples=examples(40))
@given(st.dictionaries(st.text(), st.dictionaries(st.text(), hostile_values.JSON)))
def test_any_outputs_of_nodes(outputs: dict[str, dict[str, Any]]) -> None:
    """As a history may have them."""
    check_to_dict(make_result("p", {}, outputs))


RECORDED = sorted((Path(__file__).parents[1] / "recordings").glob("*/*.jsonl"))


@pytest.mark.parametrize("path", RECORDED, ids=[f"{p.parent.name}-{p.stem}" for p in RECORDED])
def test_every_message_that_a_real_server_sent(path: Path) -> None:
    """Is told as the schema of its event says."""
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["kind"] == "json":
            for event in decode_text(json.dumps(row["msg"]).encode()):
                check_to_dict(event)


# -- limits -------------------------------------------------------------------------------


def counted(value: Any) -> tuple[int, int]:
    """How many values there are, and how many characters."""
    values = characters = 0
    todo = [value]
    while todo:
        one = todo.pop()
        values += 1
        if isinstance(one, str):
            characters += len(one)
        elif isinstance(one, dict):
            characters += sum(map(len, one))
            todo += one.values()
        elif isinstance(one, list):
            todo += one
    return values, characters


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"a": [value]}
    return value


def circle() -> Any:
    value: list[Any] = []
    value += [value, value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        "x" * (MAX_TEXT + 1),
        ["x" * MAX_TEXT] * 1000,
        [0] * (MAX_VALUES + 1),
        {str(n): n for n in range(MAX_VALUES + 1)},
        {"x" * MAX_TEXT + str(n): n for n in range(100)},
        [[[0] * 1000] * 1000] * 1000,
        deep(MAX_DEPTH),
        circle(),
        10**5000,
    ],
    ids=["text", "texts", "list", "object", "keys", "lists", "depth", "circle", "number"],
)
def test_large_values_are_cut_and_marked_truncated(value: Any) -> None:
    """At the outermost place, whatever is inside; what is whole does not say so."""
    found = data(value)
    assert found["truncated"] is True
    values, characters = counted(found)
    assert values <= MAX_VALUES + 100
    assert characters <= MAX_CHARACTERS + MAX_TEXT


@pytest.mark.parametrize(
    "value", ["x" * MAX_TEXT, [0] * (MAX_VALUES - 100), deep(MAX_DEPTH // 2 - 2), 10**300]
)
def test_values_within_the_limits_are_whole(value: Any) -> None:
    found = data(value)
    assert "truncated" not in found
    assert found["data"] == value


def test_a_text_that_is_cut_ends_in_dots() -> None:
    found = data("x" * (MAX_TEXT + 1))["data"]
    assert found == "x" * (MAX_TEXT - 3) + "..."


def test_a_result_that_is_cut_is_still_of_its_schema() -> None:
    """Lists in it are shorter, and its other names are there."""
    files = [{"filename": f"{n:0200}.png"} for n in range(MAX_VALUES // 5)]
    found = check_to_dict(make_result("p", {}, {"9": {"images": files}}, seconds=1.5))
    assert found["truncated"] is True
    assert 1000 < len(found["files"]) < len(files)
    assert (found["complete"], found["seconds"]) == (True, 1.5)


# -- secrets, bytes, and what is of the server ---------------------------------------------


def test_values_of_secret_names_are_hidden() -> None:
    """At any depth; flags, numbers and links to nodes are no secrets."""
    secret = {"api_key": "abc", "auth": {"password": ["x", {"a": "y"}]}, "token": Sealed("t")}
    plain = {"max_tokens": 7, "token": True, "api_key": ["4", 0], "prompt": "a mill"}
    assert data(secret)["data"] == {
        "api_key": "***",
        "auth": {"password": ["x", {"a": "y"}]},
        "token": "***",
    }
    assert data(plain)["data"] == plain


def test_a_sealed_text_is_hidden_wherever_it_stands() -> None:
    assert "hunter2" not in json.dumps(told([Sealed("hunter2"), {"a": Sealed("hunter2")}]))


def test_inputs_of_a_sweep_are_hidden_by_the_names_of_their_inputs() -> None:
    """Whether they are named by node and input or as one text."""
    row = SweepRow(0, {("API", "api_key"): "abc", "API.api_key": "abc", "K.cfg": 5.0}, "p")
    assert check_to_dict(row)["params"] == {"API.api_key": "***", "K.cfg": 5.0}


def test_a_failed_node_shows_no_key_and_an_event_none_of_its_inputs() -> None:
    """Hidden inputs hold the user's key, and the whole graph."""
    error = JobFailed("m", prompt_id="p", inputs={"api_key_comfy_org": "abc", "steps": 3})
    assert check_to_dict(error)["inputs"] == {"api_key_comfy_org": "***", "steps": 3}
    event = ExecutionError(name="execution_error", current_inputs={"a": "abc"}, traceback="t")
    assert "abc" not in json.dumps(check_to_dict(event))


def test_a_preview_has_its_size_and_its_type_in_place_of_its_bytes() -> None:
    found = check_to_dict(PreviewEvent(name="b_preview", view=memoryview(b"12345")))
    assert (found["size"], found["mime"]) == (5, "image/jpeg")
    assert found.keys() == {
        *("name", "is_end", "prompt_id", "size", "mime", "node_id", "display_node_id"),
        *("parent_node_id", "real_node_id", "final"),
    }


def test_a_file_of_no_client_has_no_url() -> None:
    found = check_to_dict(make_result("p", {}, {"9": {"images": [{"filename": "a.png"}]}}))
    assert found["files"][0]["url"] is None


# -- errors -------------------------------------------------------------------------------


class Mine(ServerUnreachable):
    """An error of a user's own."""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ComfyError("m"), "comfy_error"),
        (ServerUnreachable("m"), "server_unreachable"),
        (Mine("m"), "server_unreachable"),
        (Lost("m"), "transport_error"),
    ],
    ids=repr,
)
def test_a_code_is_that_of_the_public_class(error: ComfyError, code: str) -> None:
    assert (error.code, error.message) == (code, "m")
    assert error.to_dict().items() >= {"code": code, "message": "m"}.items()


@pytest.mark.parametrize(
    "event",
    [
        ConnectionEvent(name="disconnected", error=Lost("m")),
        ConnectionEvent(name="disconnected", error=OSError("m")),
        ErrorEvent(name="auth_error", error=WorkflowError("m", candidates=("KSampler",))),
        ErrorEvent(name="auth_success"),
    ],
    ids=repr,
)
def test_errors_of_events_become_errors_in_to_dict(event: ErrorEvent | ConnectionEvent) -> None:
    error = check_to_dict(event)["error"]
    assert (error is None) is (event.error is None)
    assert error is None or error["message"] == "m"


def test_the_cause_of_an_error_is_not_in_to_dict() -> None:
    """It may be of a library, and hold anything."""
    error = TransportError("m")
    error.__cause__ = OSError("cause")
    assert "cause" not in json.dumps(check_to_dict(error))


def test_a_mapping_in_a_frozen_value_becomes_a_copied_dict() -> None:
    """So that changing it changes nothing else."""
    inner: Mapping[str, Any] = {"a": [1]}
    found = told(inner)
    found["a"].append(2)
    assert inner == {"a": [1]}
