"""Frames become events, and no frame raises."""

from __future__ import annotations

import base64
import json
import random
import struct
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfy_client import ComfyApi, State
from comfy_client.event_queue import LEAST
from comfy_client.events import (
    FROM_SERVER,
    NAMES,
    PreviewEvent,
    ProgressText,
    TerminalEvent,
    UnknownEvent,
)
from comfy_client.signals import signal_names
from comfy_client.testing import ComfyServer, frame
from comfy_client.transport.decode import HELLO, SKIPPED, decode_binary, decode_text
from comfy_client.values import MAX_LEVELS
from tests.conftest import examples

#: Names that only this library fires.
FROM_CLIENT = NAMES - {read({}).name for read in FROM_SERVER.values()}
RECORDINGS = Path(__file__).parents[1] / "recordings"
JPEG = b"\xff\xd8\xff\xe0\x00\x10JFIF"
PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
WEBP = b"RIFF\x24\x00\x00\x00WEBPVP8 "
ABOUT = {
    "node_id": "7.0.0.3",
    "prompt_id": "b9c33d3c-ac68-4b79-8afa-c678bde7a445",
    "display_node_id": "7",
    "parent_node_id": None,
    "real_node_id": "3",
    "image_type": "image/png",
}


def recorded(kind: str) -> list[Any]:
    """Version, scenario and row of all recorded messages of that kind."""
    found = []
    for path in sorted(RECORDINGS.glob("*/*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if row["kind"] == kind:
                found.append((path.parent.name, path.stem, row))
    assert found
    return found


def frame_of(row: dict[str, Any]) -> bytes:
    """A recorded frame: its first bytes, and zeros up to the length that it had."""
    head = base64.b64decode(row["head_b64"])
    if row["event"] != 4:
        return head.ljust(row["len"], b"\0")
    about = json.dumps(row["metadata"]).encode()
    assert len(about) == row["metadata_len"]
    assert (struct.pack(">II", 4, len(about)) + about).startswith(head)
    picture = JPEG if row["body"] == "JPEG" else PNG
    return (struct.pack(">II", 4, len(about)) + about + picture).ljust(row["len"], b"\0")


def prefixed(kind: int, header: bytes, rest: bytes) -> bytes:
    return struct.pack(">II", kind, len(header)) + header + rest


def text_frame(message: object) -> bytes:
    return json.dumps(message).encode()


# -- binary ------------------------------------------------------------------------------


def test_every_recorded_frame_becomes_its_picture() -> None:
    """Bytes of real servers: the MIME type of the header, and all bytes behind it; or its text."""
    kinds = set()
    for _, _, row in recorded("binary"):
        events = decode_binary(frame_of(row))
        if row["event"] == 3:
            (text,) = events
            assert (text.name, text.node, text.text) == ("progress_text", row["node"], row["text"])
            kinds.add((3, "TEXT"))
            continue
        mime = {"JPEG": "image/jpeg", "PNG": "image/png"}[row["body"]]
        head = 8 + row.get("metadata_len", 0)
        assert {event.mime for event in events} == {mime}
        assert {len(event.image) for event in events} == {row["len"] - head}
        if row["event"] == 4:
            with_metadata, plain = events
            assert (with_metadata.name, plain.name) == ("b_preview_with_metadata", "b_preview")
            for event in events:
                assert event.raw == row["metadata"]
                assert event.prompt_id == row["metadata"]["prompt_id"]
                assert event.node_id == row["metadata"]["node_id"]
        else:
            (plain,) = events
            assert (plain.name, plain.raw, plain.prompt_id) == ("b_preview", None, None)
        kinds.add((row["event"], row["body"]))
    assert kinds == {(1, "JPEG"), (1, "PNG"), (4, "JPEG"), (4, "PNG"), (3, "TEXT")}


@pytest.mark.parametrize("kind", [1, 2])
@pytest.mark.parametrize(
    ("number", "picture", "mime"),
    [
        (1, JPEG, "image/jpeg"),
        (2, PNG, "image/png"),
        (1, PNG, "image/jpeg"),  # the header counts
        (3, WEBP, "image/webp"),
        (0, PNG, "image/png"),
        (9, b"GIF89a", "image/gif"),
        (9, b"?", "image/jpeg"),
    ],
)
def test_the_type_of_a_bare_picture_is_named_or_seen(
    kind: int, number: int, picture: bytes, mime: str
) -> None:
    """The format number decides; of an unknown one the picture's first bytes."""
    (event,) = decode_binary(struct.pack(">II", kind, number) + picture)
    assert isinstance(event, PreviewEvent)
    assert (event.name, event.mime, event.image) == ("b_preview", mime, picture)
    assert not event.final


def test_a_text_frame_of_a_node_names_the_node() -> None:
    """Type 3: node and text, in any script; an empty node is none."""
    (event,) = decode_binary(prefixed(3, b"12", "schön 🐈".encode()))
    assert isinstance(event, ProgressText)
    assert (event.name, event.node, event.text) == ("progress_text", "12", "schön 🐈")
    (event,) = decode_binary(prefixed(3, b"", b"hello"))
    assert (event.node, event.text) == (None, "hello")
    (event,) = decode_binary(prefixed(3, b"1", b"\xff"))
    assert event.text == "\ufffd"


def test_the_bytes_of_the_protocol_paper_are_read() -> None:
    """A type 3 frame as a real server sent it."""
    (event,) = decode_binary(bytes.fromhex("00000003000000013168656c6c6f"))
    assert (event.node, event.text) == ("1", "hello")


def test_a_picture_with_metadata_feeds_two_names_and_all_once() -> None:
    """Type 4 is one message: ``all`` gets it once, each of the two names once."""
    events = decode_binary(prefixed(4, text_frame(ABOUT), PNG))
    assert [name for event in events for name in signal_names(event)] == [
        "all",
        "b_preview_with_metadata",
        "b_preview",
    ]
    for event in events:
        assert (event.mime, event.image, event.raw) == ("image/png", PNG, ABOUT)
        assert (event.node_id, event.display_node_id) == ("7.0.0.3", "7")
        assert (event.parent_node_id, event.real_node_id) == (None, "3")
        assert event.prompt_id == ABOUT["prompt_id"]


def test_a_bare_picture_is_in_all_once() -> None:
    """Type 1 has no other name under which ``all`` could have had it."""
    (event,) = decode_binary(struct.pack(">II", 1, 1) + JPEG)
    assert signal_names(event) == ("all", "b_preview")


def test_metadata_may_lack_everything() -> None:
    """Missing and odd fields are None, and the picture tells its type."""
    for about in ({}, dict.fromkeys(ABOUT), dict.fromkeys(ABOUT, True), {"node_id": [], "x": {}}):
        for event in decode_binary(prefixed(4, text_frame(about), PNG)):
            assert (event.prompt_id, event.node_id, event.real_node_id) == (None, None, None)
            assert event.mime == "image/png"
            assert event.raw == about


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\0\0",
        b"\0\0\0\1\0\0\0",
        struct.pack(">II", 1, 1),  # no picture
        struct.pack(">II", 0, 1) + JPEG,
        struct.pack(">II", 5, 1) + JPEG,
        struct.pack(">II", 0xFFFFFFFF, 1) + JPEG,
        struct.pack(">II", 3, 4) + b"abc",
        struct.pack(">II", 3, 0xFFFFFFFF) + b"abc",
        struct.pack(">II", 4, 0xFFFFFFFF) + b"{}",
        prefixed(4, b"{}", b""),
        prefixed(4, b"[]", PNG),
        prefixed(4, b"{", PNG),
        prefixed(4, b"\xff\xfe", PNG),
        prefixed(4, b"[" * 100_000, PNG),
    ],
)
def test_broken_and_unknown_frames_are_skipped(data: bytes) -> None:
    """Nothing comes of them, and nothing is raised."""
    assert decode_binary(data) == ()


def test_a_picture_is_not_copied_until_it_is_asked_for() -> None:
    """``view`` is a part of the frame; ``image`` is one copy, made once."""
    frame = struct.pack(">II", 1, 1) + JPEG
    (event,) = decode_binary(frame)
    assert event.view.obj is frame
    assert event.image is event.image


def test_bytes_in_any_dress_are_decoded() -> None:
    """bytes, bytearray and memoryview alike."""
    frame = prefixed(4, text_frame(ABOUT), PNG)
    for dressed in (frame, bytearray(frame), memoryview(frame)):
        assert [event.image for event in decode_binary(dressed)] == [PNG, PNG]


# -- text --------------------------------------------------------------------------------


def test_every_recorded_message_of_every_version_is_known() -> None:
    """Each has the class of its name, and keeps the data as it came."""
    seen: dict[str, set[str]] = {}
    for version, _, row in recorded("json"):
        message = row["msg"]
        event, *parts = decode_text(text_frame(message))
        assert event.name == message["type"].removeprefix("crystools.")
        assert {part.name for part in parts} == ({"terminal"} if event.name == "logs" else set())
        if event.name.startswith("assets."):  # of a server that scans its folders; no type of ours
            assert isinstance(event, UnknownEvent)
            assert event.raw == message
            continue
        assert event.raw == message["data"]
        assert not isinstance(event, UnknownEvent)
        assert signal_names(event) == ("all", event.name)
        seen.setdefault(version, set()).add(event.name)
    common = {
        "status",
        "execution_start",
        "execution_cached",
        "executing",
        "progress",
        "executed",
        "execution_error",
        "execution_interrupted",
    }
    assert seen["2024-03"] == common
    assert seen["0.3.52"] >= common | {"execution_success", "progress_state"}
    newer = {"execution_success", "progress_state", "feature_flags"}
    assert seen["0.3.75"] == common | newer
    assert seen["0.28.1"] == common | newer | {"logs"}


def test_terminal_lines_come_out_of_logs_one_by_one() -> None:
    """One message, one ``all``: the ``terminal`` events are parts of it."""
    entries = [{"t": "2026-01-01T00:00:00", "m": "one\n"}, "odd", {"m": 5}]
    message = {"type": "logs", "data": {"entries": entries, "size": {"cols": 80, "rows": 24}}}
    logs, *lines = decode_text(text_frame(message))
    assert logs.raw == message["data"]
    assert [(line.time, line.text) for line in lines] == [
        ("2026-01-01T00:00:00", "one\n"),
        (None, ""),
    ]
    assert all(isinstance(line, TerminalEvent) for line in lines)
    assert [name for event in (logs, *lines) for name in signal_names(event)].count("all") == 1


def test_an_unknown_name_keeps_the_whole_message() -> None:
    """Whatever JSON a custom node sends is in ``data``, and the prompt if it names one."""
    message = {"type": "impact-node-feedback", "data": {"prompt_id": "p", "cpu": 3}, "more": 1}
    (event,) = decode_text(text_frame(message))
    assert isinstance(event, UnknownEvent)
    assert (event.name, event.data, event.raw) == (message["type"], message["data"], message)
    assert event.prompt_id == "p"
    for data in (None, 5, "x", [1], True):
        (event,) = decode_text(text_frame({"type": "mine", "data": data}))
        assert (event.data, event.prompt_id) == (data, None)
    (event,) = decode_text(text_frame({"type": "mine"}))
    assert event.data is None


def test_events_know_about_how_much_memory_they_take() -> None:
    """JSON some times its text, pictures as many bytes as they have, entries of logs their own."""
    for kind in ("executed", "somebodys.event"):
        frame = text_frame({"type": kind, "data": {"output": {"text": ["x" * 1000]}}})
        (event,) = decode_text(frame)
        assert len(frame) < event.nbytes < 3 * len(frame)
    frame = text_frame({"type": "logs", "data": {"entries": [{"t": "now", "m": "x" * 100}] * 50}})
    event, *entries = decode_text(frame)
    assert event.nbytes > len(frame)
    assert sum(entry.nbytes for entry in entries) > 5000
    assert {entry.raw for entry in entries} == {None}  # or each would keep all of them
    for binary in (struct.pack(">II", 1, 1) + JPEG, prefixed(4, json.dumps(ABOUT).encode(), JPEG)):
        for event in decode_binary(binary):
            assert len(binary) <= event.nbytes <= len(binary) + LEAST + 24 * len(json.dumps(ABOUT))


@pytest.mark.parametrize("name", sorted(FROM_CLIENT))
def test_a_server_cannot_fire_the_names_of_the_client(name: str) -> None:
    """Such a message is in ``all`` and nowhere else."""
    for data in ({"prompt_id": "p"}, None):
        (event,) = decode_text(text_frame({"type": name, "data": data}))
        assert isinstance(event, UnknownEvent)
        assert signal_names(event) == ("all",)


@pytest.mark.parametrize("name", sorted(FROM_SERVER))
def test_a_known_name_without_its_form_is_in_all_only(name: str) -> None:
    """Receivers of a name get events of its class, or nothing."""
    for data in (None, 5, "x", [1], True):
        (event,) = decode_text(text_frame({"type": name, "data": data}))
        assert isinstance(event, UnknownEvent)
        assert signal_names(event) == ("all",)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b'"status"',
        b"{}",
        b'{"type": null}',
        b'{"type": 5, "data": {}}',
        b'{"type": "", "data": {}}',
        b'{"data": {}}',
        b'{"type": "status", "data"',
        b"[" * 1_000_000,
        b'{"type": "x", "data": ' + b"9" * 100_000 + b"}",
        b"\xff\xfe\x00",
    ],
)
def test_malformed_messages_are_skipped(data: bytes) -> None:
    """Nothing comes of it, and nothing is raised."""
    assert decode_text(data) == ()


def test_a_text_that_breaks_off_may_have_been_about_any_prompt() -> None:
    assert decode_text(b'{"type": "execution_interrupted", "da') is SKIPPED


def test_bytes_that_are_no_utf8_spoil_only_their_text() -> None:
    """A server that cuts a character in two is still understood."""
    (event,) = decode_text(b'{"type": "notification", "data": {"value": "a\xff"}}')
    assert event.value == "a\ufffd"


def test_the_hello_announces_previews_with_metadata() -> None:
    """The first message of each connection, as the server expects it."""
    assert json.loads(HELLO) == {
        "type": "feature_flags",
        "data": {"supports_preview_metadata": True},
    }


# -- anything ----------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=10,
)
FIELDS = (
    *("status", "exec_info", "sid", "prompt_id", "timestamp", "nodes", "node", "display_node"),
    *("value", "max", "output", "node_id", "node_type", "exception_type", "exception_message"),
    *("traceback", "executed", "current_inputs", "entries", "size"),
)
messages = st.fixed_dictionaries(
    {
        "type": st.sampled_from(sorted(NAMES)) | st.text(max_size=8),
        "data": json_values
        | st.dictionaries(st.sampled_from(FIELDS), json_values, max_size=len(FIELDS)),
    }
)


def look_at_all(event: Any) -> None:
    """Everything a receiver may read."""
    repr(event)
    for name in dir(event):
        if not name.startswith("_"):
            getattr(event, name)


@given(messages)
def test_any_json_becomes_events_whose_every_field_can_be_read(message: dict[str, Any]) -> None:
    """Missing, null and odd fields raise neither at once nor when they are looked at."""
    events = decode_text(text_frame(message))
    assert len(events) >= (1 if message["type"] else 0)
    fired = [name for event in events for name in signal_names(event)]
    assert fired.count("all") == bool(message["type"])
    for event in events:
        look_at_all(event)


@given(st.binary(max_size=64) | st.builds(prefixed, st.integers(0, 5), st.binary(), st.binary()))
def test_any_bytes_become_events_whose_every_field_can_be_read(data: bytes) -> None:
    """Text or binary, whatever the bytes say."""
    for event in (*decode_binary(data), *decode_text(data)):
        look_at_all(event)


def test_a_message_nested_too_deep_becomes_no_event() -> None:
    """One level decides; what the decoder itself cannot take is none either."""

    def message(name: str, depth: int) -> bytes:
        deep = b"[" * depth + b"]" * depth
        fields = b",".join(b'"%s":%s' % (field.encode(), deep) for field in FIELDS)
        return b'{"type":"%s","data":{%s}}' % (name.encode(), fields)

    most = MAX_LEVELS - 2  # of the message and its data
    for name in (*FROM_SERVER, "mine"):
        assert decode_text(message(name, most))
        assert decode_text(message(name, most + 1)) == ()
    assert decode_text(message("mine", 100_000)) == ()


def test_ids_are_texts_whatever_stands_there() -> None:
    """Numbers are written out, what cannot be an id is left out."""
    nodes = b'{"type":"execution_cached","data":{"nodes":["1",[[]],2,null,{},true]}}'
    (event,) = decode_text(nodes)
    assert event.nodes == ("1", "2")


def random_frames(count: int, seed: int) -> list[tuple[bool, bytes]]:
    """Junk of every sort, from pure noise to real messages with a few bytes changed."""
    chance = random.Random(seed)
    texts = [text_frame(row["msg"]) for _, _, row in recorded("json")]
    binaries = [frame_of(row)[:200] for _, _, row in recorded("binary")]
    values = [None, True, -1, 1e999, "", "x", [], [None], {}, {"3": 5}, {"exec_info": 1}, "\ud800"]
    names = [*sorted(NAMES), "mine"]
    made = []
    for _ in range(count):
        is_text = chance.random() < 0.5
        sort = chance.randrange(4)
        if sort == 0:
            data = chance.randbytes(chance.randrange(64))
        elif sort == 1:
            data = bytearray(chance.choice(texts if is_text else binaries))
            for _ in range(chance.randrange(1, 5)):
                data[chance.randrange(len(data))] = chance.randrange(256)
            data = bytes(data)
        elif sort == 2:
            data = chance.choice(texts if is_text else binaries)
            data = data[: chance.randrange(len(data))]
        elif is_text:
            fields = {name: chance.choice(values) for name in chance.sample(FIELDS, 5)}
            data = text_frame({"type": chance.choice(names), "data": fields})
        else:
            about = text_frame({key: chance.choice(values) for key in ABOUT})
            data = prefixed(chance.randrange(6), about, chance.randbytes(20))
        made.append((is_text, data))
    return made


@pytest.mark.long
def test_decoding_survives_a_hundred_thousand_random_frames() -> None:
    """None raises, and it takes microseconds each."""
    frames = random_frames(100_000, seed=1)
    start = time.thread_time()
    count = sum(len(decode_text(data) if text else decode_binary(data)) for text, data in frames)
    assert time.thread_time() - start < 20
    assert count > 10_000


def test_the_event_thread_survives_random_frames(
    comfy: ComfyServer, caplog: pytest.LogCaptureFixture
) -> None:
    """After thousands of them it is the same connection, and the next real event comes."""
    came = threading.Event()
    unexpected: list[Any] = []
    with ComfyApi(comfy.url) as api:
        everything: list[Any] = []
        api.on("all", everything.append)
        api.on("all", look_at_all)
        for name in FROM_CLIENT - {"all", "b_preview", "b_preview_with_metadata"}:
            if name not in ("progress_text", "terminal"):  # these a frame may rightly bring
                api.on(name, unexpected.append)
        api.on("marker", lambda event: came.set())
        count = examples(8_000)
        for is_text, data in random_frames(count, seed=2):
            comfy.push_raw(frame(1 if is_text else 2, data))
        comfy.push({"type": "marker", "data": None})
        assert came.wait(30)
        assert api.state is State.CONNECTED
        assert len(everything) > count / 8
        assert unexpected == []
        assert comfy.hellos == [api.client_id]
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
