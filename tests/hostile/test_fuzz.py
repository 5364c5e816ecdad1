"""Events with any value in any place, and frames of any bytes, for the decoder and a client.

``COMFY_FAULT_SEED``      of the first round
``COMFY_SOAK_MINUTES``    for how long ``--soak`` plays rounds; 20

    COMFY_SOAK_MINUTES=30 COMFY_FAULT_SEED=1 python -m pytest --soak -s tests/hostile/test_fuzz.py
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pickle
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_type_hints

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comfy_client import ComfyError, Job
from comfy_client.events import CLASSES, FROM_SERVER, Event, ProgressState, UnknownEvent
from comfy_client.transport.decode import decode_binary, decode_text
from comfy_client.transport.frames import FrameError, Frames
from tests.conftest import examples
from tests.helpers.clients import Heard, Quick, threads, until
from tests.helpers.hostile_values import HOSTILE, JSON, fits, places, spoilt
from tests.helpers.long import but
from tests.hostile.server import GRAPH, Comfy, event, frame, hold, status, text

RECORDINGS = Path(__file__).parent.with_name("recordings")
JPEG = b"\xff\xd8\xff" + bytes(64)
OURS = "00000000-0000-4000-8000-0000000000aa"
#: Fields of events that are no ids or names.
LONG = {"text", "value", "exception_message", "traceback", "reason"}
#: What a seed of a client's round makes: so many events ...
EVENTS = 150
#: ... and so many random frames through the decoder.
FRAMES = 3000


def recorded() -> tuple[dict[str, Any], dict[str, Any]]:
    """The largest message of each type that real servers sent, and the metadata of a picture."""
    messages: dict[str, Any] = {}
    about: dict[str, Any] = {}
    for path in sorted(RECORDINGS.glob("*/*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if row["kind"] == "json":
                told = messages.setdefault(row["msg"]["type"], row["msg"])
                if len(line) > len(json.dumps(told)) + 60:
                    messages[row["msg"]["type"]] = row["msg"]
            about = row.get("metadata") or about
    return messages, about


MESSAGES, ABOUT = recorded()
#: Of which there is no recording.
MESSAGES["logs"] = {"type": "logs", "data": {"entries": [{"t": "2026-11-25", "m": "line\n"}]}}
MESSAGES["notification"] = {"type": "notification", "data": {"value": "text", "id": "1"}}


def with_metadata(about: object) -> bytes:
    header = json.dumps(about).encode()
    return struct.pack(">II", 4, len(header)) + header + JPEG


def check(found: Event) -> None:
    """Its fields are what its class says, can be written, and nothing of it raises."""
    if found.name in CLASSES and not isinstance(found, UnknownEvent):
        assert isinstance(found, CLASSES[found.name])
    hints = get_type_hints(type(found))
    for field in attrs.fields(type(found)):
        value = getattr(found, field.name)
        assert fits(value, hints[field.name]), (type(found).__name__, field.name, value)
        # An id, a name and a kind are short; what is text has a limit of its own.
        is_short = hints[field.name] is not Any and field.name not in LONG
        assert not (is_short and isinstance(value, str)) or len(value) <= 256
    repr(found)
    pickle.loads(pickle.dumps(found))
    if isinstance(found, ProgressState):
        for node_id, node in found.nodes.items():
            assert len(node_id) <= 256
            hints = get_type_hints(type(node))
            for field in attrs.fields(type(node)):
                assert fits(getattr(node, field.name), hints[field.name])


def test_events_of_every_type_are_recorded() -> None:
    """Or made up here, so that none is left out below."""
    assert FROM_SERVER.keys() - {"status"} <= MESSAGES.keys()
    for message in MESSAGES.values():
        for found in decode_text(json.dumps(message).encode()):
            check(found)


@pytest.mark.parametrize("kind", but(sorted(MESSAGES), "execution_error", "progress_state"))
def test_each_hostile_value_in_each_place_of_an_event_is_of_the_fields_type_or_none(
    kind: str,
) -> None:
    """None is left out; below, more of them are made up."""
    for place in places(MESSAGES[kind]):
        for value in HOSTILE:
            for found in decode_text(json.dumps(spoilt(MESSAGES[kind], place, value)).encode()):
                check(found)


@pytest.mark.parametrize("kind", sorted(MESSAGES))
@settings(max_examples=examples(20), deadline=None, derandomize=True)
@given(data=st.data())
def test_any_value_in_any_place_of_an_event_is_of_the_fields_type_or_none(
    kind: str, data: st.DataObject
) -> None:
    """Whatever it is, it is in raw."""
    place = data.draw(st.sampled_from(list(places(MESSAGES[kind]))))
    message = spoilt(MESSAGES[kind], place, data.draw(JSON))
    for found in decode_text(json.dumps(message).encode()):
        check(found)


@settings(max_examples=examples(60), deadline=None, derandomize=True)
@given(data=st.data())
def test_any_value_in_the_metadata_of_a_picture_is_text_or_none(data: st.DataObject) -> None:
    """And the picture comes, if they are an object at all."""
    place = data.draw(st.sampled_from(list(places(ABOUT))))
    about = spoilt(ABOUT, place, data.draw(JSON))
    events = decode_binary(with_metadata(about))
    for value in HOSTILE:
        for found in decode_binary(with_metadata(spoilt(ABOUT, place, value))):
            check(found)
    assert len(events) == (2 if isinstance(about, dict) else 0)
    for found in events:
        check(found)


# -- frames ----------------------------------------------------------------------------------


def random_frame(chance: random.Random) -> bytes:
    """Mostly whole, with something in it that is nearly an event; seldom one that none may send."""
    if chance.random() < 0.01:
        return chance.randbytes(chance.randrange(1, 40))
    kind = chance.choice((1, 1, 1, 2, 2, 2, 9, 10))
    data = chance.randbytes(chance.randrange(100 if kind < 3 else 126))
    if kind == 1 and chance.random() < 0.9:
        message = chance.choice(list(MESSAGES.values()))
        data = json.dumps(
            spoilt(message, chance.choice(list(places(message))), chance.choice(HOSTILE))
        ).encode()
        if chance.random() < 0.3:
            data = data[: chance.randrange(len(data) + 1)]
    elif kind == 2 and chance.random() < 0.8:
        data = struct.pack(">II", chance.randrange(6), chance.choice((0, 1, 2, 9, 60, 2**32 - 1)))
        data += chance.randbytes(chance.randrange(80))
    if kind > 2 or chance.random() < 0.8:
        return frame(kind, data)
    cut = chance.randrange(len(data) + 1)
    return frame(kind, data[:cut], final=False) + frame(9) + frame(0, data[cut:])


def decode(stream: bytes) -> int:
    """How many events come of it, until it ends or breaks the protocol."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sender = threading.Thread(target=lambda: (theirs.sendall(stream), theirs.close()))
        sender.start()
        frames, count = Frames(ours, 1 << 20), 0
        with contextlib.suppress(FrameError, ConnectionError):
            while True:
                while (message := frames.next()) is not None:
                    opcode, data = message
                    found = {1: decode_text, 2: decode_binary}.get(opcode, lambda _: ())(data)
                    for one in found:
                        check(one)
                    count += len(found)
                frames.read()
        ours.close()
        sender.join(60)
    return count


def play_frames(seed: int, count: int) -> int:
    """Streams of a hundred random frames each."""
    chance = random.Random(seed)
    return sum(
        decode(b"".join(random_frame(chance) for _ in range(100))) for _ in range(count // 100)
    )


def test_random_frames_become_events_of_their_types_or_nothing() -> None:
    """Or break the protocol, which is the only error."""
    assert play_frames(_seed(), FRAMES) > FRAMES / 20


# -- a client --------------------------------------------------------------------------------


class Stage(Comfy):
    """A server whose socket sends what a test gives it."""

    def __init__(self) -> None:
        super().__init__()
        self.ws = self._send
        self.conn: socket.socket | None = None
        self.dials = 0

    def _send(self, conn: socket.socket, _: Comfy) -> None:
        conn.sendall(status())
        self.dials += 1
        self.conn = conn
        hold(conn)
        if self.conn is conn:
            self.conn = None

    def push(self, data: bytes) -> None:
        """Over the socket that there is; one that the client has given up takes nothing."""
        conn = until(lambda: self.conn)
        with contextlib.suppress(OSError):
            conn.sendall(data)


@pytest.fixture
def stage() -> Iterator[Stage]:
    with Stage() as server:
        yield server


def about_ours(chance: random.Random, prompt_id: str, node_id: str) -> bytes:
    """A frame about our prompt with one value that is not what it should be."""
    names = {OURS: prompt_id, "7": node_id}

    def ours(message: Any) -> Any:
        data = message["data"]
        if isinstance(data, dict) and "prompt_id" in data:
            data = {**data, "prompt_id": names[OURS]}
            data.update({key: names["7"] for key in ("node", "node_id") if data.get(key)})
        return {**message, "data": data}

    if chance.random() < 0.1:
        about = {**ABOUT, "prompt_id": prompt_id, "node_id": node_id}
        about[chance.choice(list(about))] = chance.choice(HOSTILE)
        return frame(2, with_metadata(about))
    message = ours(chance.choice([m for k, m in MESSAGES.items() if k not in ENDS]))
    place = chance.choice([place for place in places(message) if place != ("type",)])
    return text(json.dumps(spoilt(message, place, chance.choice(HOSTILE))))


ENDS = ("execution_success", "execution_error", "execution_interrupted")


def look_at(job: Job) -> None:
    """All that can be asked of a job that runs."""
    assert 0 <= job.progress.fraction <= 1
    assert len(job.why()) < 5000
    assert job.status
    assert job.queue_position is None or job.queue_position >= 0
    repr(job)


def play(stage: Stage, seed: int, count: int) -> None:
    """A round: events about a job, spoilt, and random frames; then its end, and another job."""
    chance = random.Random(seed)
    stage.ended = False
    with Quick(stage.url) as api:
        heard = Heard(api)
        job = api.submit(GRAPH)
        begun = threads()
        for _ in range(count):
            frame_of = about_ours if chance.random() < 0.7 else _any
            stage.push(frame_of(chance, job.prompt_id, chance.choice(list(GRAPH))))
            if chance.random() < 0.1:
                look_at(job)
        stage.ended = True
        stage.push(event("execution_success", prompt_id=job.prompt_id))
        stage.push(event("executing", prompt_id=job.prompt_id, node=None))
        with contextlib.suppress(ComfyError):
            job.result(30)
        assert job.done()
        look_at(job)
        until(lambda: (stage.push(event("over")), heard("over"))[1], 30)
        again = api.submit(GRAPH)
        stage.push(event("execution_success", prompt_id=again.prompt_id))
        assert again.result(30).images
        assert "comfy-events" in [thread.name for thread in begun if thread.is_alive()]
        ended = [one for one in heard.events if one.is_end and one.prompt_id == job.prompt_id]
        assert len(ended) == 1


def _any(chance: random.Random, *_: object) -> bytes:
    return random_frame(chance)


def _seed() -> int:
    return int(os.environ.get("COMFY_FAULT_SEED", "20261125"))


@pytest.mark.parametrize("number", range(3))
def test_a_job_ends_and_the_client_works_whatever_events_say(
    stage: Stage, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    """All threads live, nothing waits, and no defect is logged."""
    play(stage, _seed() + number, EVENTS)
    assert "defect" not in caplog.text


def _each(
    play_one: Callable[[int], object], seeds: Iterator[int], end: float, wrong: list[str]
) -> int:
    """How many seeds were played until time ran out; those that went wrong are kept."""
    for count, seed in enumerate(seeds):
        if time.monotonic() > end:
            return count
        try:
            play_one(seed)
        except Exception as exc:
            wrong.append(f"COMFY_FAULT_SEED={seed}: {exc!r}")
            print(wrong[-1], flush=True)
    return 0


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_rounds_of_events_and_a_hundred_thousand_frames(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """For as long as one likes."""
    wrong: list[str] = []
    seeds = itertools.count(_seed())
    assert play_frames(next(seeds), 100_000) > 5000
    end = time.monotonic() + 60.0 * float(os.environ.get("COMFY_SOAK_MINUTES", "20"))

    def both(seed: int) -> None:
        play_frames(seed, FRAMES)
        play(stage, seed, 4 * EVENTS)
        assert "defect" not in caplog.text
        caplog.clear()

    count = _each(both, seeds, end, wrong)
    print(f"{count} rounds; {len(wrong)} wrong")
    assert not wrong, "\n".join(wrong)
