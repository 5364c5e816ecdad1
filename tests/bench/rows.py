"""The rows of the table; each measures comfy_client beside the reference and gives its lines."""

from __future__ import annotations

import contextlib
import functools
import gzip
import itertools
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import urlencode, urlsplit

from comfy_client import ComfyApi, Workflow, signal
from comfy_client.events import Event
from tests.helpers.large_server import in_another_process

from . import transfers
from .measure import (
    Figure,
    Round,
    Row,
    estimate,
    interleave,
    least_ratio_of,
    median_of,
    pooled,
    ratio_of,
    spent,
    timed,
)
from .reference import Reference
from .servers import delaying_proxy, many_definitions, previewing, running

#: Seconds, one way, that the proxy adds.
DELAY = 0.05
#: Jobs at once.
IN_FLIGHT = 20


@dataclass(frozen=True)
class Bench:
    """Where and how long to measure."""

    url: str  #: A real ComfyUI.
    stub: str  #: The server of servers.stub.
    pairs: int  #: Measurements of each side, at least.

    def rounds(self, block: int) -> int:
        return math.ceil(self.pairs / block)


_numbers = itertools.count(random.randrange(1 << 23))


def graphs(count: int) -> list[dict[str, Any]]:
    """Trivial workflows, each of a colour that was not there before.

    They save into a folder of their own: the server lists the folder for each picture.
    """
    folder = f"bench/{random.randrange(1 << 32):08x}"
    return [
        {
            "1": {
                "class_type": "EmptyImage",
                "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": next(_numbers)},
                "_meta": {"title": "Colour"},
            },
            "2": {
                "class_type": "SaveImage",
                "inputs": {"images": ["1", 0], "filename_prefix": f"{folder}/x"},
                "_meta": {"title": "Save"},
            },
        }
        for _ in range(count)
    ]


def runs(run: Callable[[dict[str, Any]], object], count: int) -> list[float]:
    """Seconds of each run; a first one, which warms up, is not counted."""
    first, *rest = graphs(count + 1)
    run(first)
    return [timed(functools.partial(run, graph)) for graph in rest]


def reference_runs(url: str, count: int) -> list[float]:
    with contextlib.closing(Reference(url)) as reference:
        return runs(reference.run, count)


def client_runs(url: str, count: int, *receivers: str) -> list[float]:
    with ComfyApi(url) as api, _listening(_ignore, *receivers):
        return runs(lambda graph: api.run(graph).images[0].bytes(), count)


def _ignore(sender: object, event: object) -> None:
    """A receiver that does nothing."""


@contextlib.contextmanager
def _listening(receiver: Callable[..., object], *names: str) -> Iterator[None]:
    for name in names:
        signal(name).connect(receiver)
    try:
        yield
    finally:
        for name in names:
            signal(name).disconnect(receiver)


# -- the rows ---------------------------------------------------------------------------


def trivial(bench: Bench) -> list[Row]:
    """Queue to the bytes of the picture; one client at a time, since all hear of each prompt."""
    block = 8
    rounds = interleave(
        bench.rounds(block),
        {
            "reference": lambda: reference_runs(bench.url, block),
            "with": lambda: client_runs(bench.url, block, "all"),
            "without": lambda: client_runs(bench.url, block),
        },
    )
    note = f"reference {_ms(rounds, 'reference')}"
    return [
        Row(
            f"trivial prompt, queue to image bytes, {side} a receiver",
            _ratio(rounds, side),
            "x",
            aim,
            *_n(rounds),
            note=note,
        )
        for side, aim in (("with", 1.05), ("without", 1.00))
    ]


def trivial_cpu(bench: Bench) -> list[Row]:
    """CPU of all threads of the process for the same."""
    block = 8

    def bare() -> list[float]:
        with contextlib.closing(Reference(bench.url)) as reference:
            return [_cpu_of_runs(reference.run, block)]

    def ours(*receivers: str) -> list[float]:
        with ComfyApi(bench.url) as api, _listening(_ignore, *receivers):
            return [_cpu_of_runs(lambda graph: api.run(graph).images[0].bytes(), block)]

    sides = {"reference": bare, "with": lambda: ours("all"), "without": ours}
    rounds = interleave(bench.rounds(3), sides)
    note = f"reference {_least_us(rounds):.0f} us"
    return [
        Row(
            f"trivial prompt, CPU of all threads, {side} a receiver",
            estimate(rounds, least_ratio_of(side, "reference")),
            "x",
            1.4,
            *_n(rounds),
            note=note,
        )
        for side in ("with", "without")
    ]


def _cpu_of_runs(run: Callable[[dict[str, Any]], object], count: int) -> float:
    """Seconds of CPU for each run; a first one, which warms up, is not counted."""
    first, *rest = graphs(count + 1)
    run(first)
    return spent(lambda: [run(graph) for graph in rest], count)


def _least_us(rounds: Sequence[Round]) -> float:
    return 1e6 * min(pooled(rounds, "reference"))


def round_trips(bench: Bench) -> list[Row]:
    """What a delay on the way costs a warm run, in delays there and back."""
    block = 8
    where = urlsplit(bench.url)
    target = (where.hostname, where.port or 80)
    with (
        running(delaying_proxy, *target, 0.0) as near,
        running(delaying_proxy, *target, DELAY) as far,
    ):
        rounds = interleave(
            bench.rounds(block),
            {
                "near": lambda: client_runs(near, block),
                "far": lambda: client_runs(far, block),
            },
        )

    def trips(some: Sequence[Round]) -> float:
        return (median_of("far")(some) - median_of("near")(some)) / (2 * DELAY)

    note = f"{_ms(rounds, 'near')} without delay, {_ms(rounds, 'far')} with"
    name = f"round trips for it, {DELAY * 1000:.0f} ms one way added"
    return [Row(name, estimate(rounds, trips), "", 2.05, *_n(rounds), note=note)]


def requests(bench: Bench) -> list[Row]:
    """``GET /prompt`` on a kept connection, in blocks of 10 calls."""
    calls = 10
    rows = []
    for what, url, aim in (("stub", bench.stub, 68.0), ("real server", bench.url, 68.0)):
        with ComfyApi(url) as api, contextlib.closing(Reference(url)) as reference:

            def ours(api: ComfyApi = api) -> None:
                for _ in range(calls):
                    api.poll_status()

            def bare(reference: Reference = reference) -> None:
                for _ in range(calls):
                    json.loads(reference.ask("GET", "/prompt"))

            ours()
            bare()
            rounds = interleave(
                bench.pairs,
                {
                    "reference": lambda bare=bare: [timed(bare)],
                    "client": lambda ours=ours: [timed(ours)],
                    "reference, CPU": lambda bare=bare: [spent(bare, calls)],
                    "client, CPU": lambda ours=ours: [spent(ours, calls)],
                },
            )
        figure = estimate(rounds, lambda some: 100 * ratio_of("reference", "client")(some))
        per_second = calls / median_of("reference")(rounds)
        note = f"http.client: {per_second:.0f}/s"
        name = f"GET /prompt per second, of http.client's ({what})"
        rows.append(Row(name, figure, "%", aim, *_n(rounds), at_least=True, note=note))
        least = least_ratio_of("client, CPU", "reference, CPU")
        each = min(pooled(rounds, "reference, CPU")) * 1e6
        name, note = f"GET /prompt, CPU ({what})", f"http.client: {each:.0f} us"
        rows.append(Row(name, estimate(rounds, least), "x", 1.4, *_n(rounds), note=note))
    return rows


#: Kinds of frames of the stub, what they are, the signal that they fire, and how many there are.
_FRAMES = (
    ("json", "300 bytes of JSON", "executed", 2000),
    ("30 KB", "30 KB previews", "b_preview", 500),
    ("5 MB", "5 MB previews", "b_preview", 10),
)


def frames(bench: Bench) -> list[Row]:
    """From the server's first byte to the last receiver call, beside a bare recv_data loop."""
    block = 5
    rows = []
    for (kind, what, name, count), aim in zip(_FRAMES, (1.6, 1.3, 1.0), strict=True):

        def bare(kind: str = kind, count: int = count) -> list[float]:
            with contextlib.closing(Reference(bench.stub)) as reference:
                return [_bare_frames(reference, kind, count) for _ in range(block)]

        def ours(kind: str = kind, name: str = name, count: int = count) -> list[float]:
            with ComfyApi(bench.stub) as api:
                return [_client_frames(api, kind, name, count) for _ in range(block)]

        rounds = interleave(bench.rounds(block), {"reference": bare, "client": ours})
        each = median_of("reference")(rounds) / count * 1e6
        rows.append(
            Row(
                f"socket to receiver, {what}",
                _ratio(rounds, "client"),
                "x",
                aim,
                *_n(rounds),
                note=f"recv_data: {each:.0f} us a frame, {count} frames each time",
            )
        )
    return rows


def frames_cpu(bench: Bench) -> list[Row]:
    """CPU of all threads of the process for each frame, up to the receiver's call."""
    rows = []
    for (kind, what, name, count), aim in zip(_FRAMES, (1.3, 1.3, 1.0), strict=True):

        def bare(kind: str = kind, count: int = count) -> list[float]:
            with contextlib.closing(Reference(bench.stub)) as reference:
                return [spent(lambda: _bare_frames(reference, kind, count), count)]

        def ours(kind: str = kind, name: str = name, count: int = count) -> list[float]:
            with ComfyApi(bench.stub) as api:
                api.init()
                return [spent(lambda: _client_frames(api, kind, name, count), count)]

        rounds = interleave(bench.rounds(3), {"reference": bare, "client": ours})
        rows.append(
            Row(
                f"socket to receiver, {what}, CPU of all threads",
                estimate(rounds, least_ratio_of("client", "reference")),
                "x",
                aim,
                *_n(rounds),
                note=f"recv_data: {_least_us(rounds):.1f} us a frame",
            )
        )
    return rows


def _bare_frames(reference: Reference, kind: str, count: int) -> float:
    wanted = urlencode({"client": reference.client_id, "kind": kind, "count": count})
    reference.ask("GET", f"/frames?{wanted}")
    for _ in range(count):
        reference.ws.recv_data()
    end = time.monotonic()
    return end - float(json.loads(reference.ask("GET", "/started"))["at"])


def _client_frames(api: ComfyApi, kind: str, name: str, count: int) -> float:
    done = threading.Event()
    calls = itertools.count(1)
    end = 0.0

    def receiver(sender: object, event: object) -> None:
        nonlocal end
        if next(calls) == count:
            end = time.monotonic()
            done.set()

    with _listening(receiver, name):
        api.fetch_api("/frames", params={"client": api.client_id, "kind": kind, "count": count})
        if not done.wait(60):
            raise RuntimeError(f"not all of {count} frames arrived, {api.dropped_events} dropped")
    return end - float(api.fetch_api("/started").json()["at"])


@contextlib.contextmanager
def _stamped() -> Iterator[list[float]]:
    """When each text was received, before it is decoded."""
    stamps: list[float] = []
    from comfy_client.transport import websocket  # an older version has another module

    decode = websocket.decode_text

    def stamped(*args: Any) -> tuple[Event, ...]:
        stamps.append(time.perf_counter())
        return decode(*args)

    with mock.patch.object(websocket, "decode_text", stamped):
        yield stamps


def latency(bench: Bench) -> list[Row]:
    """From the moment a frame is received to the call of the receiver, one frame each 2 ms."""
    count = 300

    def block() -> list[float]:
        calls: list[float] = []
        done = threading.Event()

        def receiver(sender: object, event: object) -> None:
            calls.append(time.perf_counter())
            if len(calls) == count:
                done.set()

        with _stamped() as stamps, ComfyApi(bench.stub) as api, _listening(receiver, "executed"):
            api.fetch_api(
                "/frames",
                params={"client": api.client_id, "kind": "json", "count": count, "pause": 0.002},
            )
            if not done.wait(60):
                raise RuntimeError(f"only {len(calls)} of {count} frames arrived")
        # Before the frames came the status with which every connection begins.
        return [call - at for call, at in zip(calls, stamps[1:], strict=True)]

    rounds = interleave(bench.rounds(30), {"client": block})

    def percentile(rank: int) -> Callable[[Sequence[Round]], float]:
        return lambda some: 1000 * statistics.quantiles(pooled(some, "client"), n=100)[rank - 1]

    name = "frame received to receiver called, p{}"
    return [
        Row(name.format(rank), estimate(rounds, percentile(rank)), "ms", aim, *_n(rounds))
        for rank, aim in ((50, 0.1), (99, 0.3))
    ]


def files(bench: Bench) -> list[Row]:
    """90 MB to a sink and from a source; each side in a process of its own."""
    rows = []
    for direction in ("up", "down"):
        with (
            transfers.worker("reference", bench.stub) as bare,
            transfers.worker("client", bench.stub) as ours,
        ):
            blocks = {"reference": bare, "client": ours}
            rounds = interleave(
                bench.pairs, {side: _once(do, direction) for side, do in blocks.items()}
            )
            peak, bare_peak = ours("peak"), bare("peak")
        name = f"90 MB {direction}{' to a file' if direction == 'down' else ''}, "
        note = f"http.client {_ms(rounds, 'reference')}"
        aim = 1.05 if direction == "down" else 1.15
        rows += [
            Row(name + "time", _ratio(rounds, "client"), "x", aim, *_n(rounds), note=note),
            Row(
                name + "memory",
                Figure(peak, peak, peak),
                "MB",
                3.0,
                1,
                note=f"http.client {bare_peak:.1f} MB",
            ),
        ]
    return rows


def transfers_cpu(bench: Bench) -> list[Row]:
    """Processor time of 90 MB from each source, and to a file, beside http.client.

    What has to be hashed adds one SHA-256 to the reference.
    """
    rows = []
    with (
        transfers.worker("reference", bench.stub) as bare,
        transfers.worker("client", bench.stub) as ours,
    ):
        for what in (*transfers.SOURCES, transfers.DOWN):
            blocks = {"reference": _once(bare, what), "client": _once(ours, what)}
            rounds = interleave(bench.pairs, blocks)
            figure = estimate(rounds, least_ratio_of("client", "reference"))
            least = 1000 * min(pooled(rounds, "reference"))
            with_hash = " and one SHA-256" if transfers.SOURCES.get(what) else ""
            note = f"http.client{with_hash} {least:.1f} ms"
            way, aim = (what, 1.05) if what == transfers.DOWN else (f"up from {what}", 1.1)
            name = f"90 MB {way}, processor time"
            rows.append(Row(name, figure, "x", aim, *_n(rounds), note=note))
    return rows


def _once(do: Callable[[str], float], what: str) -> Callable[[], list[float]]:
    return lambda: [do(what)]


IMPORTS = {
    "reference": "import requests, websocket, attrs, blinker",
    "client": "import comfy_client; comfy_client.ComfyApi()",
}


def imports(bench: Bench) -> list[Row]:
    """A fresh Python that imports, and makes a client."""
    with tempfile.TemporaryDirectory(prefix="comfy-bench-") as folder:
        # Bytecode is there for both sides, also where writing it is switched off.
        env = {**os.environ, "PYTHONPYCACHEPREFIX": folder, "PYTHONDONTWRITEBYTECODE": ""}

        def once(code: str) -> list[float]:
            line = f"from time import perf_counter as t; at = t(); {code}; print(t() - at)"
            command = [sys.executable, "-c", line]
            return [float(subprocess.run(command, check=True, capture_output=True, env=env).stdout)]

        blocks = {name: functools.partial(once, code) for name, code in IMPORTS.items()}
        for warm_up in blocks.values():
            warm_up()
        rounds = interleave(bench.pairs, blocks)
    note = f"the four alone {_ms(rounds, 'reference')}"
    name = "import and a constructed ComfyApi, of the four dependencies' import"
    return [Row(name, _ratio(rounds, "client"), "x", 1.25, *_n(rounds), note=note)]


def definitions(bench: Bench) -> list[Row]:
    """20 MB of node definitions from the server, beside decoding them alone."""
    block = 2
    body = many_definitions()

    def bare() -> list[float]:
        return [timed(lambda: json.loads(body)) for _ in range(block)]

    def ours() -> list[float]:
        found = []
        for _ in range(block):  # each alone in memory: the garbage collector looks at all
            with ComfyApi(bench.stub) as api:
                found.append(timed(api.node_definitions))
        return found

    rounds = interleave(bench.rounds(10 * block), {"reference": bare, "client": ours})
    note = f"json.loads {_ms(rounds, 'reference')}"
    name = "node definitions, 20 MB, asked for and decoded"
    return [Row(name, _ratio(rounds, "client"), "x", 1.5, *_n(rounds), note=note)]


#: Checks a workflow of 40 classes; prints seconds, and how many bytes of memory that took.
_CHECK = """
import json, resource, sys
from comfy_client import ComfyApi, Workflow
from tests.bench.measure import timed
from tests.helpers.large_server import workflow
def peak():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
checked = Workflow(workflow())
with ComfyApi(sys.argv[1], transport="poll", definition_cache=sys.argv[2]) as api:
    api.init()
    before = peak()
    seconds = timed(lambda: checked.check(api))
print(json.dumps([seconds, peak() - before]))
"""


def large_installation(bench: Bench) -> list[Row]:
    """A check of 40 of the 2,700 classes of a server: the first one, and by the next process."""
    found: list[list[float]] = []
    with in_another_process() as server:
        for _ in range(bench.rounds(1)):
            with tempfile.TemporaryDirectory() as folder:
                command = [sys.executable, "-c", _CHECK, server.url, folder]
                both = [json.loads(subprocess.check_output(command)) for _ in range(2)]
            found.append([*both[0], both[1][0]])
    seconds, memory, again = ([one[n] for one in found] for n in range(3))
    name = "of 40 classes, of 2,700 with 102 MiB"
    count = len(found)
    return [
        Row(f"first check {name}", _middle(seconds), "s", 1.5, count),
        Row(f"memory of that check {name}", _middle([n / 1e6 for n in memory]), "MB", 80, count),
        Row(f"next process, check {name}", _middle([1000 * n for n in again]), "ms", 50, count),
    ]


def _middle(found: Sequence[float]) -> Figure:
    """Return the median, and between what all figures lie."""
    return Figure(statistics.median(found), min(found), max(found))


def checks(bench: Bench) -> list[Row]:
    """A workflow of 500 nodes without faults, with definitions at hand."""
    path = Path(__file__).parents[1] / "conformance" / "object_info_0.3.75.json.gz"
    known = json.loads(gzip.decompress(path.read_bytes()))
    known["CheckpointLoaderSimple"]["input"]["required"]["ckpt_name"][0] = ["example.safetensors"]
    one = Workflow.example()
    one["CheckpointLoaderSimple"]["ckpt_name"] = "example.safetensors"
    workflow = Workflow(many_of(one.to_dict(), 500))
    assert not workflow.check(known).problems
    block = 5

    def ours() -> list[float]:
        return [timed(lambda: workflow.check(known)) for _ in range(block)]

    rounds = interleave(bench.rounds(block), {"client": ours})
    figure = estimate(rounds, lambda some: 1000 * median_of("client")(some))
    name = f"check of a workflow of {len(workflow)} nodes"
    return [Row(name, figure, "ms", 50, *_n(rounds))]


def watching(bench: Bench) -> list[Row]:
    """A run that a notebook shows, beside one that it does not, with 100 previews a second."""
    graph = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "w"}},
    }
    begin = """
from comfy_client import ComfyApi
from tests.bench.measure import timed
api = ComfyApi({url!r})

def run(progress):
    print(timed(lambda: api.run({graph!r}, preview_method="auto", progress=progress)))
"""
    with running(previewing) as url, kernel() as execute:
        execute(begin.format(url=url, graph=graph))
        sides = {
            "shown": lambda: [float(execute("run(True)"))],
            "plain": lambda: [float(execute("run(False)"))],
        }
        rounds = interleave(bench.rounds(10), sides)
        dropped = execute("print(api.dropped_events)").strip()
    figure = estimate(rounds, lambda some: 100 * (ratio_of("shown", "plain")(some) - 1))
    note = f"{dropped} events dropped"
    return [Row("bar and preview in a notebook, added", figure, "%", 2, *_n(rounds), note=note)]


@contextlib.contextmanager
def kernel() -> Iterator[Callable[[str], str]]:
    """Runs cells in a kernel of IPython, and returns what they print; displays are received."""
    from jupyter_client.manager import start_new_kernel

    with tempfile.TemporaryDirectory() as folder:
        manager, client = start_new_kernel(
            env={**os.environ, "IPYTHONDIR": folder}, stderr=subprocess.DEVNULL
        )

        def execute(cell: str) -> str:
            printed: list[str] = []

            def receive(message: dict[str, Any]) -> None:
                if message["msg_type"] == "stream" and message["content"]["name"] == "stdout":
                    printed.append(message["content"]["text"])

            reply = client.execute_interactive(cell, timeout=60, output_hook=receive)
            assert reply["content"]["status"] == "ok", reply["content"]
            return "".join(printed)

        try:
            yield execute
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)


def many_of(graph: dict[str, Any], count: int) -> dict[str, Any]:
    """A graph again and again, until there are so many nodes."""
    made: dict[str, Any] = {}
    for number in range(-(-count // len(graph))):
        for node_id, node in graph.items():
            inputs = {
                name: [f"{number}.{value[0]}", value[1]] if isinstance(value, list) else value
                for name, value in node["inputs"].items()
            }
            made[f"{number}.{node_id}"] = {**node, "inputs": inputs}
    return made


def in_flight(bench: Bench) -> list[Row]:
    """20 trivial prompts queued at once, until the bytes of all pictures are there."""
    block = 5

    def bare() -> list[float]:
        with contextlib.closing(Reference(bench.url)) as reference:

            def batch() -> None:
                ids = [reference.queue(graph) for graph in graphs(IN_FLIGHT)]
                for prompt_id in ids:
                    reference.wait(prompt_id)
                    reference.fetch(prompt_id)

            return [timed(batch) for _ in range(block)]

    def ours() -> list[float]:
        with ComfyApi(bench.url) as api:

            def batch() -> None:
                jobs = [api.submit(graph) for graph in graphs(IN_FLIGHT)]
                for job in jobs:
                    job.result().images[0].bytes()

            return [timed(batch) for _ in range(block)]

    rounds = interleave(bench.rounds(block), {"reference": bare, "client": ours})
    figure = estimate(rounds, ratio_of("reference", "client"))
    note = f"reference {IN_FLIGHT / median_of('reference')(rounds):.0f}/s"
    name = f"{IN_FLIGHT} jobs in flight, jobs per second"
    return [Row(name, figure, "x", 0.95, *_n(rounds), at_least=True, note=note)]


def embedded(bench: Bench) -> list[Row]:
    """The embedded server of the tests: its start, and a trivial prompt beside the real one."""
    from comfy_client.testing import ComfyServer

    def start() -> float:
        server = ComfyServer()
        seconds = timed(server.start)
        server.stop()
        return seconds

    block = 8
    starts = interleave(bench.rounds(block), {"start": lambda: [start() for _ in range(block)]})
    with ComfyServer() as server:
        rounds = interleave(
            bench.rounds(block),
            {
                "reference": lambda: reference_runs(bench.url, block),
                "embedded": lambda: reference_runs(server.url, block),
            },
        )
    return [
        Row(
            "embedded server, from nothing to listening",
            estimate(starts, lambda some: 1000 * median_of("start")(some)),
            "ms",
            500,
            *_n(starts),
        ),
        Row(
            "embedded server, trivial prompt, beside the real one",
            _ratio(rounds, "embedded"),
            "x",
            1.00,
            *_n(rounds),
            note=f"real {_ms(rounds, 'reference')}",
        ),
    ]


def resets(bench: Bench) -> list[Row]:
    """The return of the embedded server to its start, as between two tests."""
    from comfy_client.testing import ComfyServer

    block = 8
    with ComfyServer() as server:

        def after_a_prompt() -> float:
            reference_runs(server.url, 1)
            return timed(server.reset)

        found = {"reset": lambda: [after_a_prompt() for _ in range(block)]}
        rounds = interleave(bench.rounds(block), found)
    figure = estimate(rounds, lambda some: 1000 * median_of("reset")(some))
    return [Row("embedded server, reset after a trivial prompt", figure, "ms", 20, *_n(rounds))]


ROWS: tuple[Callable[[Bench], list[Row]], ...] = (
    trivial,
    trivial_cpu,
    round_trips,
    requests,
    frames,
    frames_cpu,
    latency,
    files,
    transfers_cpu,
    imports,
    definitions,
    large_installation,
    checks,
    watching,
    in_flight,
    embedded,
    resets,
)


def _ratio(rounds: Sequence[Round], name: str) -> Any:
    return estimate(rounds, ratio_of(name, "reference"))


def _ms(rounds: Sequence[Round], name: str) -> str:
    return f"{1000 * median_of(name)(rounds):.1f} ms"


def _n(rounds: Sequence[Round]) -> tuple[int]:
    return (len(pooled(rounds, next(iter(rounds[0])))),)
