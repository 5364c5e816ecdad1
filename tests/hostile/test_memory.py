"""Floods: whatever a server sends, and however much of it, memory has a limit in sum.

``COMFY_FLOOD_SECONDS``   for how long ``--soak`` floods each; 60
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import os
import socket
import struct
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from PIL import Image

from comfy_client import ComfyApi, Job, OutputsTooLarge, parts
from comfy_client.doctor import context
from comfy_client.event_queue import MAX_QUEUED, EventQueue
from comfy_client.events import (
    PreviewEvent,
    Progress,
)
from comfy_client.recording.secrets import Secrets
from comfy_client.redaction import is_secret_name
from comfy_client.testing import ComfyServer
from comfy_client.transport import dial
from comfy_client.transport.decode import decode_binary, decode_text
from tests.helpers.clients import Heard, Quick, until
from tests.hostile.server import GRAPH, Comfy, answer, event, frame, hold, status, text

MIB = 1 << 20
PAD = "x" * 200_000
PNG = b"\x89PNG\r\n\x1a\n" + bytes(MIB // 2)
IMAGE = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0},
    },
    "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
}
#: How many prompts wait: what a server says last.
OVER = 77


def picture(node: str, prompt_id: str, **more: Any) -> bytes:
    about = json.dumps(
        {"node_id": node, "prompt_id": prompt_id, "image_type": "image/png", **more}
    ).encode()
    return frame(2, struct.pack(">II", 4, len(about)) + about + PNG)


def same(make: Callable[[str], bytes]) -> Callable[[str], Iterator[bytes]]:
    return lambda prompt_id: itertools.repeat(make(prompt_id))


def each(make: Callable[[str, int], bytes]) -> Callable[[str], Iterator[bytes]]:
    return lambda prompt_id: (make(prompt_id, number) for number in itertools.count())


#: By a client, its jobs and a receiver that waits; what is returned is kept.
Listen = Callable[[ComfyApi, list[Job], Callable[[Any], object]], Any]


@attrs.frozen
class Flood:
    """Frames for a prompt of ours, by its id, and who listens to them."""

    frames: Callable[[str], Iterator[bytes]]
    listen: Listen = lambda api, jobs, wait: None
    jobs: int = 0
    too_large: bool = False
    while_posting: bool = False
    most: int = 16 * MIB  #: Bytes that are sent, in the short lane ...
    json: int = MIB  #: ... to a client with three times as much memory.


def slow(name: str) -> Listen:
    return lambda api, jobs, wait: api.on(name, wait)


WEBSOCKET = {**GRAPH, "8": {"class_type": "SaveImageWebsocket", "inputs": {"images": ["3", 0]}}}

FLOODS = {
    "events for a slow receiver": Flood(same(lambda _: event("mine", pad=PAD)), slow("all")),
    "starts of others' prompts for a slow receiver": Flood(
        same(lambda _: event("execution_start", prompt_id="x", pad=PAD)), slow("all"), jobs=1
    ),
    "starts of our prompt for a slow receiver": Flood(
        same(lambda id: event("execution_start", prompt_id=id, pad=PAD)), slow("all"), jobs=1
    ),
    "logs for a slow receiver": Flood(
        same(lambda _: event("logs", entries=[{"t": "now", "m": "", "pad": PAD}] * 2)),
        slow("terminal"),
    ),
    "events for iterators that nobody reads": Flood(
        same(lambda _: event("mine", pad=PAD)),
        lambda api, jobs, wait: [api.events() for _ in range(5)],
    ),
    "events of jobs that nobody reads": Flood(
        same(lambda id: event("mine", prompt_id=id, pad=PAD)),
        lambda api, jobs, wait: [job.events() for job in jobs for _ in range(5)],
        jobs=3,
    ),
    "outputs without an end": Flood(
        each(lambda id, n: event("executed", prompt_id=id, node=f"{n}", output={"text": [PAD]})),
        jobs=1,
        too_large=True,
    ),
    "nodes without an end": Flood(
        each(lambda id, n: event("executing", prompt_id=id, node=f"3.{n:0250}")),
        jobs=1,
        too_large=True,
        most=MIB // 4,
        json=MIB // 16,
    ),
    "final pictures without an end": Flood(
        same(lambda id: picture("8", id)), slow("b_preview"), jobs=1, too_large=True
    ),
    "events while a submission is not answered": Flood(
        same(lambda _: event("executed", prompt_id="y", node="9", output={"text": [PAD]})),
        jobs=1,
        while_posting=True,
    ),
    "states of nodes for a slow receiver": Flood(
        same(
            lambda id: event(
                "progress_state", prompt_id=id, nodes={str(n): {"pad": "x"} for n in range(999)}
            )
        ),
        slow("all"),
        jobs=1,
        most=2 * MIB,
    ),
    "prompts of others without an end": Flood(
        each(
            lambda _, n: event(
                "progress_state", prompt_id=f"{n}", nodes={"1": {"pad": PAD[:12_000]}}
            )
        ),
        slow("all"),
        jobs=1,
    ),
    "pings that nobody wants answered": Flood(
        same(lambda _: frame(9, b"x" * 125) * 100), most=MIB // 4
    ),
    "metadata of pictures": Flood(
        same(lambda _: picture("8", "x", pad=PAD)), slow("b_preview_with_metadata")
    ),
    "texts that take a multiple": Flood(
        same(lambda _: text('{"type": "mine", "data": [' + "[]," * 30_000 + "0]}")),
        slow("all"),
        most=MIB,
    ),
}


def play(flood: Flood, more: Callable[[int, list[Job]], bool], **options: Any) -> None:
    """Have a client hear it all."""
    gate, ready, over = threading.Event(), threading.Event(), threading.Event()
    jobs: list[Job] = []

    def ws(conn: socket.socket, server: Comfy) -> None:
        conn.sendall(status())
        ready.wait()
        conn.sendall(status(flood.jobs))
        sent = 0
        for data in flood.frames(next(iter(server.prompts), "")):
            conn.sendall(data)
            sent += len(data)
            if not more(sent, jobs):
                break
        conn.sendall(status(OVER))
        hold(conn)

    def watch() -> None:
        if any(one.queue_remaining == OVER for one in news):
            over.set()

    def queue(_: object) -> bytes:
        running = [[n, id, WEBSOCKET, {}, []] for n, id in enumerate(server.prompts)]
        return answer(body={"queue_running": running, "queue_pending": []})

    def posted(_: object) -> bool:
        if flood.while_posting:
            ready.set()
            assert over.wait(600.0)
        return False

    with Comfy() as server:
        server.ws, server.ended = ws, False
        server.lies = {"GET /queue": queue, "POST /prompt": posted}
        with ComfyApi(server.url, timeout=600.0, **options) as api:
            news = api.events("status")
            watcher = threading.Thread(target=watch)
            watcher.start()
            jobs += [api.submit(WEBSOCKET) for _ in range(flood.jobs)]
            kept = flood.listen(api, jobs, lambda _: gate.wait())
            ready.set()
            assert over.wait(600.0)
            if flood.too_large:
                error = jobs[0].exception(60.0)
                assert isinstance(error, OutputsTooLarge)
                assert "max_json=" in str(error)
            assert [job.done() for job in jobs] == [flood.too_large] * len(jobs)
            gate.set()
            del kept
        watcher.join(60.0)


@contextlib.contextmanager
def within(memory: int) -> Iterator[None]:
    """No more than so many bytes are taken at any time."""
    gc.collect()
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < memory
    finally:
        tracemalloc.stop()


def little_memory(monkeypatch: pytest.MonkeyPatch, max_json: int = MIB) -> None:
    """Clients from now on keep three times as much, not the usual 192 MiB."""
    monkeypatch.setattr(parts, "MAX_JSON", max_json)


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_takes_no_more_memory_than_a_client_has(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is sent is many times as much."""
    flood = FLOODS[name]
    little_memory(monkeypatch, flood.json)
    with within(12 * MIB):
        play(flood, lambda sent, _: sent < flood.most, max_json=flood.json)


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", FLOODS)
def test_a_process_stays_below_400_mb_above_its_start(name: str) -> None:
    """Each flood goes on for a minute; Linux tells what the process takes."""
    seconds = float(os.environ.get("COMFY_FLOOD_SECONDS", "60"))
    flood = FLOODS[name]
    start, end = rss(), time.monotonic() + seconds
    highest = start

    def more(_: int, jobs: list[Job]) -> bool:
        nonlocal highest
        highest = max(highest, rss())
        is_too_early = flood.too_large and not all(job.done() for job in jobs)
        return time.monotonic() < end or (is_too_early and time.monotonic() < end + 300.0)

    play(flood, more)
    highest = max(highest, rss())
    print(f"{name}: {(highest - start) / 1e6:.0f} MB")
    assert highest - start < 400e6


def rss() -> int:
    """Bytes of memory that this process takes now."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


# -- what waits, and what jobs have left ---------------------------------------------------


def test_events_that_a_slow_reader_misses_are_counted() -> None:
    """Of the iterator of a job, too; not what nobody has asked for."""
    go = threading.Event()

    def ws(conn: socket.socket, server: Comfy) -> None:
        conn.sendall(status())
        go.wait()
        for prompt_id in server.prompts:
            for value in range(200):
                conn.sendall(event("progress", prompt_id=prompt_id, node="3", value=value, max=200))
        conn.sendall(status(OVER))
        hold(conn)

    with Comfy() as server:
        server.ws, server.ended = ws, False
        with ComfyApi(server.url) as api:
            followed, _ = api.submit(GRAPH), api.submit(GRAPH)
            news, events = api.events("status"), followed.events()
            go.set()
            seen = [next(events)]
            any(one.queue_remaining == OVER for one in news)
            assert isinstance(seen[0], Progress)
            while not (isinstance(seen[-1], Progress) and seen[-1].value == 199):
                seen.append(next(events))
            assert len(seen) < 200
            assert 0 < api.dropped_events <= 200 - len(seen)


def test_a_job_that_left_too_much_ends_once_and_is_not_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It lets go of what it held, others go on, and what became of it can be asked for."""
    little_memory(monkeypatch)
    leave, end = threading.Event(), threading.Event()

    def ws(conn: socket.socket, server: Comfy) -> None:
        conn.sendall(status())
        leave.wait()
        conn.sendall(event("execution_start", prompt_id=small.prompt_id))
        conn.sendall(picture("8", small.prompt_id))
        for _ in range(10):
            conn.sendall(picture("8", large.prompt_id))
        end.wait()
        for job in (large, small):
            conn.sendall(event("execution_success", prompt_id=job.prompt_id))
        conn.sendall(status(OVER))
        hold(conn)

    with Comfy() as server:
        server.ws, server.ended = ws, False
        with ComfyApi(server.url, max_json=MIB) as api:
            heard, news = Heard(api), api.events("status")
            small, large = api.submit(WEBSOCKET), api.submit(WEBSOCKET)
            leave.set()
            error = large.exception(60.0)
            assert isinstance(error, OutputsTooLarge)
            assert f"max_json={2 * MIB}" in str(error)
            assert large.status == "unknown"
            server.ended = True
            end.set()
            assert any(one.queue_remaining == OVER for one in news)
            again = api.job(large.prompt_id)
            assert again is not large
            assert again.result(60.0).prompt_id == large.prompt_id
            assert len(small.result(60.0).images) == 2
            ends = [one for one in heard.events if one.is_end]
            assert [one.name for one in ends if one.prompt_id == large.prompt_id] == ["job_lost"]


def test_slow_receivers_and_callbacks_get_all_pictures_of_a_prompt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Pictures that job, callbacks and receivers hold count once: here five sixths of all."""
    little_memory(monkeypatch)

    def ws(conn: socket.socket, server: Comfy) -> None:
        conn.sendall(status())
        until(lambda: server.prompts)
        prompt_id = next(iter(server.prompts))
        conn.sendall(event("execution_start", prompt_id=prompt_id))
        for _ in range(5):
            conn.sendall(picture("8", prompt_id))
        conn.sendall(event("execution_cached", prompt_id=prompt_id, nodes=[]))
        conn.sendall(event("execution_success", prompt_id=prompt_id))
        conn.sendall(status(OVER))
        hold(conn)

    def slowly(event: PreviewEvent) -> None:
        sent.wait(60.0)
        seen.append(event.name)

    seen: list[str] = []
    sent = threading.Event()
    with Comfy() as server:
        server.ws = ws
        with ComfyApi(server.url, max_json=MIB) as api:
            api.on("b_preview", slowly)
            api.on("b_preview_with_metadata", slowly)
            news = api.events("status")
            watch = threading.Thread(
                target=lambda: (any(one.queue_remaining == OVER for one in news), sent.set())
            )
            watch.start()
            result = api.run(WEBSOCKET, on_preview=slowly, timeout=60.0)
            assert len(result.images) == 5
            assert api.dropped_events == 0
        watch.join(60.0)
    assert sorted(seen) == ["b_preview"] * 10 + ["b_preview_with_metadata"] * 5


class Noise:
    """Pictures that PNG cannot make smaller: of 40 KB each."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {"count": ("INT",)}})
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "run"

    def run(self, count: int) -> tuple[Any]:
        return ([Image.effect_noise((128, 128), 100.0) for _ in range(count)],)


@pytest.mark.parametrize(("count", "is_whole"), [(8, True), (60, False)])
def test_pictures_before_a_late_answer_with_another_id_are_kept_up_to_a_limit(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, count: int, is_whole: bool
) -> None:
    """They may be of that prompt; what had to make room is said to be missing."""
    little_memory(monkeypatch)
    graph = {
        "1": {"class_type": "Noise", "inputs": {"count": count}},
        "2": {"class_type": "SaveImageWebsocket", "inputs": {"images": ["1", 0]}},
    }
    with ComfyServer() as server, ComfyApi(server.url, max_json=MIB) as api:
        server.add_node(Noise)
        server.faults.other_prompt_ids()
        with server.faults.events_before_reply():
            result = api.run(graph, timeout=60.0)
        sizes = [len(image.bytes()) for image in result.images]
        assert result.complete is is_whole
        assert ("some may be missing" in caplog.text) is not is_whole
    assert sizes
    assert sum(sizes) < 3 * MIB // 2
    assert (len(sizes) == count) is is_whole


def telling(
    *ends: tuple[str, dict[str, Any]], after: threading.Event
) -> Callable[[socket.socket, Comfy], None]:
    """Tells of all prompts that many nodes are cached, and then these events."""
    nodes = json.dumps([*range(1000, 16_000)])

    def ws(conn: socket.socket, server: Comfy) -> None:
        conn.sendall(status())
        after.wait()
        for prompt_id in list(server.prompts):
            conn.sendall(event("execution_start", prompt_id=prompt_id))
            about = f'{{"prompt_id": "{prompt_id}", "nodes": {nodes}}}'
            conn.sendall(text(f'{{"type": "execution_cached", "data": {about}}}'))
            for kind, data in ends:
                conn.sendall(event(kind, prompt_id=prompt_id, **data))
        conn.sendall(status(OVER))
        hold(conn)

    return ws


def test_jobs_that_are_given_up_keep_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even what only their progress is made of."""
    little_memory(monkeypatch)
    submitted = threading.Event()
    with Comfy() as server:
        server.ws, server.ended = telling(after=submitted), False
        with ComfyApi(server.url, max_json=MIB) as api:
            jobs = [api.submit(GRAPH) for _ in range(6)]
            news = api.events("status")
            with within(7 * MIB):
                submitted.set()
                assert any(one.queue_remaining == OVER for one in news)
            assert {type(job.exception(60.0)) for job in jobs} == {OutputsTooLarge}


@pytest.mark.parametrize("end", ["error", "interrupted"])
def test_jobs_that_went_wrong_keep_nothing_of_their_course(end: str) -> None:
    """Users may keep thousands; how far they came is known all the same."""
    submitted = threading.Event()
    ran = [("executing", {"node": "3"}), ("executing", {"node": "9"}), (f"execution_{end}", {})]
    with Comfy() as server:
        server.ws = telling(*ran, after=submitted)
        with ComfyApi(server.url) as api:
            jobs = [api.submit(GRAPH) for _ in range(3)]
            news = api.events("status")
            with within(24 * MIB):
                submitted.set()
                assert any(one.queue_remaining == OVER for one in news)
                for job in jobs:
                    job.exception(60.0)
                    assert [*job.events()][-1].name == f"execution_{end}"
                gc.collect()
                assert tracemalloc.get_traced_memory()[0] < MIB
            assert [job.progress.fraction for job in jobs] == [0.5] * 3


@pytest.mark.parametrize(
    ("kind", "nodes", "made"),
    [
        ("execution_cached", [*range(1000, 11_000)], lambda told: frozenset(told.nodes)),
        ("progress_state", {str(n): {} for n in range(10_000)}, lambda told: told.nodes),
    ],
)
def test_objects_made_of_an_event_are_counted_with_it(
    kind: str, nodes: Any, made: Callable[[Any], Any]
) -> None:
    """Whether it is asked for or not."""
    content = json.dumps({"type": kind, "data": {"prompt_id": "x", "nodes": nodes}}).encode()
    gc.collect()
    tracemalloc.start()
    try:
        (told,) = decode_text(content)
        kept = made(told)
        assert len(kept) == 10_000
        assert tracemalloc.get_traced_memory()[0] < told.nbytes
    finally:
        tracemalloc.stop()


def test_max_json_raises_the_memory_for_jobs() -> None:
    """But nobody less than usual."""
    for max_json, most in ((MIB, 192 * MIB), (64 * MIB, 192 * MIB), (128 * MIB, 384 * MIB)):
        assert ComfyApi(max_json=max_json).parts.tracker.budget.most == most
    sent = struct.pack(">II", 1, 2) + bytes(MIB)
    with Comfy() as server:
        server.ws = lambda conn, _: (conn.sendall(status() + frame(2, sent)), hold(conn))[1]
        for max_json, name in ((MIB, "b_preview"), (MIB // 4, "disconnected")):
            with pytest.MonkeyPatch.context() as patched:
                little_memory(patched, MIB // 8)
                patched.setattr(dial, "MAX_FRAME", MIB // 4)
                api = Quick(server.url, max_json=max_json)
                events = api.events(name)
                with api:
                    assert next(events).name == name


@pytest.mark.parametrize(("max_json", "name"), [(65 * MIB, "mine"), (64 * MIB, "disconnected")])
def test_max_json_raises_the_limit_of_socket_texts(max_json: int, name: str) -> None:
    """As large as any message: twice as much; without that, 32 MiB."""
    long = text({"type": "mine", "data": "x" * (33 * MIB)})
    with Comfy() as server:
        server.ws = lambda conn, _: (conn.sendall(status()), conn.sendall(long), hold(conn))[2]
        api = Quick(server.url, max_json=max_json)
        events = api.events(name)
        with api:
            assert next(events).name == name


def test_a_text_of_the_socket_that_would_take_much_more_memory_is_skipped() -> None:
    """And the one behind it is heard."""
    long = frame(1, b'{"type": "mine", "data": [' + b"[]," * 1_500_000 + b"0]}")
    with Comfy() as server:
        server.ws = lambda conn, _: (conn.sendall(status() + long + event("mine")), hold(conn))[1]
        api = Quick(server.url)
        events = api.events("mine")
        with api:
            assert next(events).data == {}


def test_an_iterator_of_a_job_that_nobody_keeps_is_gone() -> None:
    """With all that it would have brought."""
    with Comfy() as server:
        server.ended = False
        with ComfyApi(server.url, transport="poll") as api:
            job = api.submit(GRAPH)
            before = queues()
            iterators = [job.events() for _ in range(5)]
            assert queues() == before + 5  # no event has come that the job would keep
            del iterators[1:]
            assert queues() == before + 1
            del iterators
            assert queues() == before


def queues() -> int:
    """Those of this process."""
    gc.collect()
    # Not gc.get_objects(), which also holds tuples that other threads are about to fill.
    return sum(isinstance(one, EventQueue) for one in gc.get_referrers(EventQueue))


def test_a_text_that_would_take_much_more_memory_is_not_decoded() -> None:
    """By what it consists of: a text that is as long is taken."""
    brackets = b'{"type": "mine", "data": [' + b"[]," * 1_500_000 + b"0]}"
    with within(16 * MIB):
        assert decode_text(brackets) == ()
    honest = json.dumps({"type": "mine", "data": "x" * len(brackets)}).encode()
    assert len(decode_text(honest)) == 1


def test_metadata_of_a_picture_are_small() -> None:
    """A mebibyte, and they count with it."""
    for size, count in ((100_000, 2), (MIB, 0)):
        about = json.dumps({"node_id": "8", "pad": "x" * size}).encode()
        found = decode_binary(struct.pack(">II", 4, len(about)) + about + b"x")
        assert len(found) == count
        assert all(one.nbytes > size for one in found)


def test_names_of_any_length_stay_in_no_cache() -> None:
    """Nor do words that a server would have us hide."""
    secrets = Secrets()
    with within(MIB):
        for number in range(100):
            assert is_secret_name(f"{number:0100000}_token")
            secrets.add([f"{number:016000}"])
    assert secrets.hide_text(f"it is {99:016000}") == "it is ***"


def test_the_doctor_keeps_little_of_a_flood(monkeypatch: pytest.MonkeyPatch) -> None:
    """And comes to an end."""
    monkeypatch.setattr(context, "MAX_EVENT_BYTES", MIB)
    data = event("mine", pad=PAD)
    sent = 0

    def ws(conn: socket.socket, server: Comfy) -> None:
        nonlocal sent
        conn.sendall(status())
        if len([one for one in server.requests if one.path == "/ws"]) == 1:
            hold(conn)  # of the client itself
        while True:
            conn.sendall(data)
            sent += len(data)

    with Comfy() as server:
        server.ws = ws
        with ComfyApi(server.url) as api, within(12 * MIB):
            for seconds in (1.0, 5.0, 25.0):  # a busy machine sends little in a second
                if sent <= 16 * MIB:
                    api.doctor(timeout=seconds)
    assert sent > 16 * MIB


def test_events_of_foreign_prompts_make_room_for_ours() -> None:
    """However much of it comes; ends of theirs, too."""
    submitted = threading.Event()

    def ws(conn: socket.socket, server: Comfy) -> None:
        conn.sendall(status())
        submitted.wait()
        for prompt_id in server.prompts:
            conn.sendall(event("executed", prompt_id=prompt_id, node="3", output={}))
        conn.sendall(event("execution_success", prompt_id="theirs") * (2 * MAX_QUEUED))
        conn.sendall(status(OVER))
        hold(conn)

    with Comfy() as server:
        server.ws, server.ended = ws, False
        with ComfyApi(server.url) as api:
            unread, news = api.events("all"), api.events("status")
            job = api.submit(GRAPH)
            submitted.set()
            assert any(one.queue_remaining == OVER for one in news)
            assert api.dropped_events > MAX_QUEUED
            seen = itertools.takewhile(lambda one: one.name != "execution_success", unread)
            assert job.prompt_id in [one.prompt_id for one in seen if one.name == "executed"]


def test_a_late_events_iterator_gets_the_end_at_least() -> None:
    """Though all that waited had to make room."""
    with ComfyServer() as server, ComfyApi(server.url) as api:
        job = api.submit(IMAGE)
        job.result(60)
        first = job.handle.events.first
        assert first is not None
        for rank in range(3):
            first.give_way(MIB, rank)
        assert [event.name for event in job.events()] == ["execution_success"]
