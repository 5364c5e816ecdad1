"""Frames that are slow, huge, broken or random cost no more than their connection."""

from __future__ import annotations

import os
import random
import struct
import time
from typing import Any

import pytest

from comfy_client import ComfyApi
from comfy_client.testing import ComfyServer, Finish, frame
from comfy_client.transport.websocket import State
from tests.helpers.clients import (
    FAST,
    LIMIT,
    Fast,
    Heard,
    Quick,
    client,
    connected,
    open_sockets,
    threads,
    until,
    until_connected,
)
from tests.helpers.connections import Make
from tests.helpers.gates import check_once, saves
from tests.helpers.scripted import (
    CACHED,
    ENTRY,
    GRAPH,
    OUTPUT,
    OVER,
    RUNS,
    START,
    SUCCESS,
    check,
    custom,
    say,
)


def test_broken_messages_are_dropped(comfy: ComfyServer, fast: ComfyApi) -> None:
    """Each kind of them is dropped; the thread lives, and the connection."""
    told = Heard(fast)
    with comfy.faults.junk() as fault:
        for number in range(4):
            check_once(comfy, told, fast.run(saves(number), timeout=LIMIT), recovered=False)
    assert fault.hits > 40
    assert told.links == []
    assert len(comfy.hellos) == 1


def test_an_output_that_cannot_be_read_is_taken_from_history(
    comfy: ComfyServer, fast: ComfyApi
) -> None:
    """The socket no longer knows all outputs, so it does not decide alone."""
    deep: list[Any] = []
    for _ in range(200):
        deep = [deep]
    too_deep = say("executed", node="9", display_node="9", output={**OUTPUT, "deep": deep})
    comfy.script(START, CACHED, RUNS, too_deep, SUCCESS, Finish(ENTRY), OVER)
    check(fast.run(GRAPH, timeout=LIMIT))


@pytest.mark.timing(ping=0.04, dead=5.0)
def test_fragments_and_pauses_in_frames_cost_no_message(comfy: ComfyServer) -> None:
    """Every message is whole, though each pauses for longer than it takes to ping."""
    with client(comfy) as api:
        told = Heard(api)
        with comfy.faults.fragments(4):
            check_once(comfy, told, api.run(saves(1), timeout=LIMIT))
        with comfy.faults.pause_in_frames(0.1), comfy.faults.lose("progress_state"):
            check_once(comfy, told, api.run(saves(2), timeout=LIMIT))
        assert told.links == []


def test_a_frame_that_is_too_large_costs_the_connection_and_not_the_job(
    comfy: ComfyServer, fast: ComfyApi
) -> None:
    """Costs that connection, not the job."""
    told = Heard(fast)
    comfy.faults.oversized_frame(2**50)
    comfy.until(lambda: told("reconnected"), LIMIT)
    check_once(comfy, told, fast.run(saves(), timeout=LIMIT))


def test_fragments_are_joined_with_pings_between_them(comfy: ComfyServer, quick: Quick) -> None:
    """Control frames may come in the middle of a message."""
    heard = Heard(quick)
    comfy.push(custom("ä" * 1000), fragments=7)
    first, second = b'{"type": "custom", ', b'"data": 2}'
    comfy.push_raw(frame(1, first, fin=False) + frame(9, b"hi") + frame(0, second))
    until(lambda: len(heard("custom")) == 2)
    assert [e.data for e in heard("custom")] == ["ä" * 1000, 2]


@pytest.mark.long
def test_a_frame_of_a_hundred_megabytes_arrives(comfy: ComfyServer) -> None:
    """Whole, and the next one too."""
    picture = os.urandom(1 << 20) * 100
    with connected(comfy, ComfyApi) as api:  # it may take a busy machine longer than Quick has
        heard = Heard(api)
        comfy.push_binary(struct.pack(">II", 1, 2) + picture)
        comfy.push(custom())
        until(lambda: heard("custom"))
        (event,) = heard("b_preview")
        assert event.mime == "image/png"
        assert event.image == picture
        assert heard.links == []


@pytest.mark.parametrize("at", [1, 3, 8, 2000])
def test_a_pause_in_the_middle_of_a_frame_harms_nothing(
    comfy: ComfyServer, quick: Quick, at: int
) -> None:
    """What had come survives several timeouts of the reader."""
    heard = Heard(quick)
    comfy.faults.swallow_pings()  # nobody can answer in the middle of a frame
    data = frame(1, b'{"type": "custom", "data": "' + b"y" * 70000 + b'"}')
    comfy.push_raw(data[:at])
    time.sleep(2.5 * FAST.ping)
    comfy.push_raw(data[at:])
    until(lambda: heard("custom"))
    assert heard("custom")[0].data == "y" * 70000
    assert heard.links == []


def test_a_slow_frame_is_no_silence(comfy: ComfyServer, quick: Quick) -> None:
    """Bytes keep a connection alive, although no frame is whole for longer than the limit."""
    heard = Heard(quick)
    comfy.faults.swallow_pings()
    data = frame(1, b'{"type": "custom", "data": "slow"}')
    for byte in data:
        comfy.push_raw(bytes([byte]))
        time.sleep(2 * FAST.dead / len(data))
    until(lambda: heard("custom"))
    assert heard.links == []


JUNK = {
    "reserved bits": bytes([0x80 | 0x70 | 1, 1]) + b"x",
    "masked": bytes([0x81, 0x80 | 2]) + b"\1\2\3\4" + b"zz",
    "opcode 3": frame(3, b"x"),
    "opcode 15": frame(15, b"x"),
    "control in fragments": frame(9, b"x", fin=False),
    "long ping": frame(9, bytes(200)),
    "stray continuation": frame(0, b"x"),
    "message in a message": frame(1, b"a", fin=False) + frame(1, b"b"),
    "close with one byte": frame(8, b"x"),
    "close with code 1": frame(8, b"\0\1"),
    "too long": bytes([0x82, 127]) + struct.pack(">Q", 1 << 62) + bytes(2 << 20),
    "too long in pieces": frame(2, b"", fin=False) + frame(0, bytes(1 << 18), fin=False) * 8,
    "too long with pings": frame(2, b"", fin=False)
    + (frame(0, bytes(1 << 18), fin=False) + frame(9, b"")) * 8,
    "http": b"HTTP/1.1 400 Bad Request\r\n\r\n" + bytes(100),
}


def test_a_frame_of_600_mb_is_refused_by_its_header(comfy: ComfyServer, quick: Quick) -> None:
    """By the real limit, before any of it has come."""
    lost: list[Any] = []
    quick.on("disconnected", lost.append)
    comfy.push_raw(bytes([0x82, 127]) + (600 << 20).to_bytes(8, "big"))
    until_connected(comfy, quick, 2)
    until(lambda: lost)
    assert "more than the" in str(lost[0].error)


def test_thousands_of_random_frames_leave_the_thread_alive(comfy: ComfyServer) -> None:
    """Text, binary, pings and pongs with any content: skipped, and the next message counts."""
    with connected(comfy, Fast) as api:  # on a busy machine, they take longer than Quick waits
        check_random_frames(comfy, api)


def check_random_frames(comfy: ComfyServer, api: Fast) -> None:
    chance = random.Random(2024)
    heard = Heard(api)
    before = threads()
    for _ in range(30):
        batch = []
        for _ in range(1000):
            opcode = chance.choice((1, 1, 2, 2, 9, 10))
            data = chance.randbytes(chance.randrange(0, 60))
            if opcode == 2 and chance.random() < 0.7:
                data = struct.pack(">I", chance.randrange(6)) + data
            elif opcode == 1 and chance.random() < 0.5:
                data = b'{"type": "status", "data": ' + data + b"}"
            batch.append(frame(opcode, data))
        comfy.push_raw(b"".join(batch))
    comfy.push(custom("end"))
    until(lambda: heard("custom"))
    assert threads() == before
    assert heard.links == []


def test_random_bytes_leave_the_thread_alive(comfy: ComfyServer, quick: Quick) -> None:
    """Whole connections of them, twenty times."""
    chance = random.Random(7)
    before = threads()
    for count in range(20):
        # A close frame at the end: by chance, the bytes before are a frame that waits for more.
        comfy.push_raw(chance.randbytes(200) + frame(8, b"") * 20)
        comfy.faults.drop(reset=False)
        until_connected(comfy, quick, count + 2)
    assert threads() == before


@pytest.mark.parametrize("junk", JUNK.values(), ids=JUNK.keys())
def test_a_frame_that_none_should_send_costs_that_connection_only(
    make: Make, comfy: ComfyServer, junk: bytes
) -> None:
    """The thread lives and reconnects, and nothing is left open."""
    owner, link = make(comfy.url, max_frame=1 << 20)
    comfy.until(lambda: link.state is State.CONNECTED)
    comfy.push_raw(junk)
    comfy.until(lambda: len(comfy.hellos) == 2 and link.state is State.CONNECTED)
    comfy.push(custom())
    until(lambda: [event for event in owner.received if event.name == "custom"])
    assert owner.names("disconnected", "reconnected") == ["disconnected", "reconnected"]
    until(lambda: len(open_sockets(comfy.port)) == 1)


def test_the_largest_frame_is_a_limit_for_each_message(make: Make, comfy: ComfyServer) -> None:
    """Not for all that ever comes."""
    owner, link = make(comfy.url, max_frame=1 << 20)
    comfy.until(lambda: link.state is State.CONNECTED)
    for _ in range(6):
        comfy.push(custom("z" * (1 << 19)))
    until(lambda: len([event for event in owner.received if event.name == "custom"]) == 6)
    assert owner.names("disconnected") == []


def test_a_message_beyond_the_largest_frame_costs_its_connection(
    make: Make, comfy: ComfyServer
) -> None:
    owner, link = make(comfy.url, max_frame=1 << 20)
    comfy.until(lambda: link.state is State.CONNECTED)
    comfy.push(custom("z" * (1 << 20)))
    comfy.until(lambda: len(comfy.hellos) == 2 and link.state is State.CONNECTED)
    assert owner.names("custom") == []
