"""Jobs by Comfy API v2, on the real proxy and on the embedded one: how they are sent and end."""

from __future__ import annotations

import asyncio
import io
import json
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import blinker
import pytest
from PIL import Image

from comfy_client import (
    ComfyApi,
    ComfyPool,
    HostedApi,
    JobFailed,
    JobInterrupted,
    JobLost,
    JobNotFound,
    JobTimeout,
    NodeOutput,
    NotSupported,
    PromptRejected,
    Result,
    SweepRow,
    aio,
)
from tests.helpers.clients import Heard, flush, until
from tests.helpers.graphs import fresh_color, node
from tests.helpers.hosted import Hosted, embedded, picture

LIMIT = 180.0
ENDS = {"execution_success", "execution_error", "execution_interrupted", "job_lost"}


@pytest.fixture
def api(hosted: Hosted) -> Iterator[HostedApi]:
    """A client with signals of its own, closed after the test."""
    with HostedApi(hosted.url, namespace=blinker.Namespace()) as client:
        yield client


@pytest.fixture
def direct(hosted: Hosted) -> Iterator[ComfyApi]:
    """A client of the ComfyUI itself, past the proxy."""
    with ComfyApi(hosted.comfyui_url, namespace=blinker.Namespace()) as client:
        yield client


@pytest.fixture
def name() -> str:
    """A file name that no other test uses."""
    return f"hosted_{uuid.uuid4().hex[:12]}"


def sleeper(seconds: float, text: str = "a", ticks: int = 20) -> dict[str, Any]:
    return {"1": node("TestSleepOutput", seconds=seconds, ticks=ticks, text=text)}


def failing() -> dict[str, Any]:
    return {"5": node("TestFail", message="as told")}


def color_of(data: bytes) -> int:
    """Return the colour of a picture of one colour, as EmptyImage has it."""
    with Image.open(io.BytesIO(data)) as image:
        [(_, color)] = image.convert("RGB").getcolors() or []
    red, green, blue = color
    return red << 16 | green << 8 | blue


# -- results ------------------------------------------------------------------------------


def test_a_run_returns_the_very_bytes_that_the_server_saved(
    api: HostedApi, hosted: Hosted, name: str, tmp_path: Path
) -> None:
    """In memory, as a stream, and as a file."""
    result = api.run(picture(name), timeout=LIMIT)
    [made] = hosted.made(name)
    data = made.read_bytes()
    assert result.image.filename == made.name
    assert result.image.bytes() == data
    with result.image.open() as stream:
        assert stream.read() == data
    [saved] = result.save(tmp_path)
    assert saved.read_bytes() == data
    assert result["9"].image.bytes() == data
    assert result.complete


def test_outputs_outlive_the_client(hosted: Hosted, name: str) -> None:
    """As those of ComfyUI's own API."""
    with HostedApi(hosted.url) as api:
        result = api.run(picture(name), timeout=LIMIT)
    [made] = hosted.made(name)
    assert result.image.bytes() == made.read_bytes()
    assert result.image.exists()


def test_a_folder_in_the_prefix_is_no_obstacle(api: HostedApi, hosted: Hosted, name: str) -> None:
    """The proxy tells the name without it."""
    result = api.run(picture(f"sub folder/{name}"), timeout=LIMIT)
    [made] = hosted.made(name)
    assert result.image.bytes() == made.read_bytes()


def test_a_batch_comes_in_its_order(api: HostedApi, hosted: Hosted, name: str) -> None:
    """Three pictures of one node."""
    graph = picture(name)
    graph["1"]["inputs"]["batch_size"] = 3
    result = api.run(graph, timeout=LIMIT)
    assert [image.filename for image in result.images] == [p.name for p in hosted.made(name)]


def test_a_job_is_known_by_the_servers_id(api: HostedApi, direct: ComfyApi, name: str) -> None:
    """Which is ComfyUI's own."""
    job = api.submit(picture(name))
    result = job.result(LIMIT)
    assert result.prompt_id == job.prompt_id
    until(lambda: direct.get_history(job.prompt_id) is not None)
    assert job.done()
    assert job.status == "succeeded"
    assert job.queue_position is None


def test_a_random_seed_is_drawn_and_is_in_the_result(
    api: HostedApi, workflow: Callable[..., Any]
) -> None:
    """Each run has another."""
    graph = workflow("txt2img_tiny", seed="random", steps=1)
    first, second = (api.run(graph, timeout=LIMIT) for _ in range(2))
    assert first.seeds.keys() == second.seeds.keys()
    assert list(first.seeds.values()) != list(second.seeds.values())
    assert first.images[0].seed in first.seeds.values()


def test_inputs_of_a_run_leave_the_workflow_alone(
    api: HostedApi, hosted: Hosted, name: str
) -> None:
    """As for ComfyUI's own API."""
    graph = picture(name)
    before = json.dumps(graph)
    color = fresh_color()
    result = api.run(graph, {"EmptyImage.color": color}, timeout=LIMIT)
    assert color_of(result.image.bytes()) == color
    assert json.dumps(graph) == before


def test_result_job_and_error_can_be_written_as_json(api: HostedApi, name: str) -> None:
    """Result, job and error."""
    job = api.submit(picture(name))
    result = job.result(LIMIT)
    assert json.loads(json.dumps(result.to_dict()))["prompt_id"] == job.prompt_id
    assert json.loads(json.dumps(job.to_dict()))["status"] == "succeeded"
    with pytest.raises(JobFailed) as failed:
        api.run(failing(), timeout=LIMIT)
    assert json.loads(json.dumps(failed.value.to_dict()))["node_id"] == "5"


# -- callbacks and events -------------------------------------------------------------------


class Calls(list[tuple[Any, ...]]):
    """What was called, in which order, and in which threads."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: set[str] = set()

    def named(self, name: str) -> Callable[..., None]:
        """Return a callback of that name."""

        def call(*args: Any) -> None:
            self.threads.add(threading.current_thread().name)
            self.append((name, *args))

        return call

    def all(self) -> dict[str, Any]:
        kinds = ("on_event", "on_progress", "on_preview", "on_start", "on_output", "on_queue")
        return {kind: self.named(kind) for kind in kinds}

    def of(self, name: str) -> list[Any]:
        return [args[0] if len(args) == 1 else args for found, *args in self if found == name]


def run_by(way: str, api: HostedApi, graph: Any, **calls: Any) -> Result:
    if way == "run":
        return api.run(graph, timeout=LIMIT, **calls)
    return api.submit(graph, **calls).result(LIMIT)


@pytest.mark.parametrize("way", ["run", "submit"])
def test_each_callback_gets_what_it_is_for(
    api: HostedApi, workflow: Callable[..., Any], way: str
) -> None:
    """Start, progress, previews, each node's output once, and one end, the last of all."""
    for _ in range(5):  # a busy machine may be late for the events of one job, not of all
        calls = Calls()
        graph = workflow("txt2img_slow", seed=fresh_color(), steps=40)
        result = run_by(way, api, graph, **calls.all())
        if calls.of("on_preview") and calls.of("on_progress"):
            break
    assert calls.threads == {"comfy-delivery" if way == "submit" else "MainThread"}
    [job] = calls.of("on_start")
    assert job.prompt_id == result.prompt_id
    outputs = calls.of("on_output")
    assert [node_id for node_id, _ in outputs] == list(result.nodes)
    for node_id, output in outputs:
        assert isinstance(output, NodeOutput)
        assert output.image.bytes() == result[node_id].image.bytes()
    assert calls.of("on_progress")
    previews = calls.of("on_preview")
    assert previews
    for preview in previews:
        with Image.open(io.BytesIO(preview.image)) as image:
            image.load()
    events = calls.of("on_event")
    assert [event.name for event in events if event.is_end] == ["execution_success"]
    assert events[-1].is_end
    assert {event.prompt_id for event in events} == {result.prompt_id}


def test_outputs_come_in_the_order_of_their_nodes(api: HostedApi, name: str) -> None:
    """One early, one late; each once."""
    graph = picture(name) | {
        "20": node("TestSleep", seconds=0.6, ticks=5, text=f"{name}late"),
        "21": node("TestSleep", seconds=0.6, ticks=5, text=["20", 0]),
        "22": node("SaveImage", images=["1", 0], filename_prefix=["21", 0]),
    }
    order: list[str] = []
    result = api.run(graph, timeout=LIMIT, on_output=lambda node_id, _: order.append(node_id))
    assert order == ["9", "22"]
    assert result.nodes.keys() == {"9", "22"}


def test_the_place_in_the_queue_reaches_on_queue(
    api: HostedApi, direct: ComfyApi, name: str
) -> None:
    """While somebody else's job runs."""
    before = direct.submit(sleeper(60.0))
    until(lambda: before.handle.state.started)
    calls = Calls()
    job = api.submit(picture(name), on_queue=calls.named("on_queue"))
    until(lambda: calls.of("on_queue"))
    assert calls.of("on_queue")[0] == 1
    assert job.status == "pending"
    assert job.queue_position == 1
    before.cancel(force=True)
    job.result(LIMIT)


@pytest.mark.parametrize("kind", ["success", "failure"])
def test_each_job_has_one_end_event(api: HostedApi, kind: str) -> None:
    """Whoever is told of it: receivers, callbacks, iterators."""
    heard = Heard(api)
    graphs = [failing() if kind == "failure" else sleeper(0.0, uuid.uuid4().hex) for _ in range(10)]
    jobs = [api.submit(graph) for graph in graphs]
    told = [[event.name for event in job.events() if event.is_end] for job in jobs]
    for job in jobs:
        job.exception(LIMIT)
    flush(api)
    ends = [[event.name for event in heard.ends(job.prompt_id)] for job in jobs]
    expected = ["execution_success" if kind == "success" else "execution_error"]
    assert told == ends == [expected] * 10


# -- errors ---------------------------------------------------------------------------------


def test_a_wrong_value_has_the_node_errors_of_comfyui(
    api: HostedApi, direct: ComfyApi, hosted: Hosted, name: str
) -> None:
    """The same node errors, word for word."""
    graph = picture(name)
    graph["1"]["inputs"]["width"] = -5
    with pytest.raises(PromptRejected) as ours:
        api.run(graph, timeout=LIMIT)
    with pytest.raises(PromptRejected) as theirs:
        direct.run(graph, timeout=LIMIT)
    assert ours.value.node_errors == theirs.value.node_errors
    assert "1" in ours.value.node_errors
    assert hosted.runs(name) == 0


@pytest.mark.parametrize(
    "graph",
    [
        {"1": {"class_type": "NoSuchNode", "inputs": {}}},
        {"1": node("EmptyImage", width=8, height=8, batch_size=1, color=0)},
    ],
    ids=["unknown class", "no output"],
)
def test_graphs_that_comfyui_refuses_are_rejected(api: HostedApi, graph: Any) -> None:
    """With its message."""
    with pytest.raises(PromptRejected) as caught:
        api.run(graph, timeout=LIMIT)
    assert str(caught.value)


def test_a_failure_names_its_node(api: HostedApi) -> None:
    """And the reason."""
    with pytest.raises(JobFailed, match="as told") as caught:
        api.run(failing(), timeout=LIMIT)
    assert (caught.value.node_id, caught.value.class_type) == ("5", "TestFail")


def test_an_output_that_comfyui_left_out_is_warned_about(
    api: HostedApi, hosted: Hosted, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its input is wrong, and the proxy does not tell; what is cached is not meant."""
    graph = picture(name)
    for _ in range(2):
        api.run(graph, timeout=LIMIT)
    assert "nothing came of" not in caplog.text
    graph |= {
        "20": node("EmptyImage", width=-5, height=8, batch_size=1, color=0),
        "21": node("SaveImage", images=["20", 0], filename_prefix=f"{name}bad"),
    }
    result = api.run(graph, timeout=LIMIT)
    assert result.nodes.keys() == {"9"}
    assert caplog.text.count("nothing came of node 21 (SaveImage)") == 1
    assert hosted.runs(f"{name}bad") == 0


def test_outputs_before_a_failure_are_delivered(api: HostedApi, hosted: Hosted, name: str) -> None:
    """They come after the status, at the end of the stream."""
    graph = picture(name) | {
        "29": node("TestSleep", seconds=0.3, ticks=5, text=name),
        "30": node("TestSleep", seconds=0.3, ticks=5, text=["29", 0]),
        "31": node("TestFail", message="as told", text=["30", 0]),
    }
    outputs: list[NodeOutput] = []
    with pytest.raises(JobFailed):
        api.run(graph, timeout=LIMIT, on_output=lambda _, output: outputs.append(output))
    [made] = hosted.made(name)
    assert [output.image.bytes() for output in outputs] == [made.read_bytes()]


def test_time_runs_out_and_the_job_goes_on(
    api: HostedApi, direct: ComfyApi, hosted: Hosted, name: str
) -> None:
    """A second wait has its result."""
    before = direct.submit(sleeper(60.0))
    job = api.submit(picture(name))
    with pytest.raises(JobTimeout):
        job.result(0.3)
    before.cancel(force=True)
    assert job.result(LIMIT).image.filename
    assert hosted.runs(name) == 1


def test_a_running_or_waiting_job_cannot_be_cancelled_behind_an_old_comfyui(
    api: HostedApi, direct: ComfyApi, hosted: Hosted, name: str
) -> None:
    """It says so, and they go on."""
    running = api.submit(sleeper(60.0, ticks=1200))
    waiting = api.submit(picture(name))
    until(lambda: running.status == "running")
    for job, status in ((waiting, "pending"), (running, "running")):
        with pytest.raises(NotSupported):
            job.cancel()
        assert job.status == status
    direct.interrupt()
    with pytest.raises(JobInterrupted):
        running.result(LIMIT)
    assert waiting.result(LIMIT).complete
    assert hosted.runs(name) == 1


def test_a_newer_comfyui_cancels_both(name: str) -> None:
    """And no other job."""
    with (
        embedded(version="0.28") as place,
        HostedApi(place.url, namespace=blinker.Namespace()) as api,
    ):
        running = api.submit(sleeper(60.0, ticks=1200))
        waiting, last = (api.submit(picture(f"{name}{one}")) for one in "ab")
        until(lambda: running.status == "running")
        for job in (waiting, running):
            assert job.cancel()
            with pytest.raises(JobInterrupted):
                job.result(LIMIT)
        assert last.result(LIMIT).complete
        assert place.runs(f"{name}a") == 0


def test_a_job_that_somebody_interrupts_is_interrupted(api: HostedApi, direct: ComfyApi) -> None:
    """At the ComfyUI itself."""
    job = api.submit(sleeper(60.0))
    until(lambda: job.status == "running")
    direct.interrupt()
    with pytest.raises(JobInterrupted):
        job.result(LIMIT)


def test_a_job_that_somebody_deletes_is_lost(api: HostedApi, direct: ComfyApi, name: str) -> None:
    """The proxy calls it expired, which is believed after two seconds."""
    before = direct.submit(sleeper(60.0))
    until(lambda: before.handle.state.started)
    job = api.submit(picture(name))
    direct.delete_from_queue(job.prompt_id)
    with pytest.raises(JobLost):
        job.result(LIMIT)
    before.cancel(force=True)


# -- finding jobs again ---------------------------------------------------------------------


def test_a_second_client_attaches_by_the_id(api: HostedApi, hosted: Hosted, name: str) -> None:
    """While it runs, and after its end."""
    job = api.submit(picture(name, 1.0))
    with HostedApi(hosted.url, namespace=blinker.Namespace()) as other:
        found = other.job(job.prompt_id)
        result = found.result(LIMIT)
        again = other.job(job.prompt_id, must_exist=True).result(LIMIT)
    [made] = hosted.made(name)
    assert result.image.bytes() == again.image.bytes() == made.read_bytes()
    assert job.result(LIMIT).image.filename == made.name


def test_a_job_that_went_past_the_proxy_is_found(
    api: HostedApi, direct: ComfyApi, hosted: Hosted, name: str
) -> None:
    """It knows any prompt of its ComfyUI."""
    foreign = direct.submit(picture(name, 1.0))
    result = api.job(foreign.prompt_id).result(LIMIT)
    [made] = hosted.made(name)
    assert result.image.bytes() == made.read_bytes()


def test_an_id_that_never_was_is_lost(api: HostedApi) -> None:
    """At once, if that is asked for."""
    with pytest.raises(JobNotFound):
        api.job(str(uuid.uuid4()), must_exist=True)
    with pytest.raises(JobLost):
        api.job(str(uuid.uuid4())).result(LIMIT)


# -- many -----------------------------------------------------------------------------------


def test_map_yields_in_order(api: HostedApi, hosted: Hosted, name: str) -> None:
    """Each runs once."""
    colors = [fresh_color() for _ in range(8)]
    params = [{"EmptyImage.color": color} for color in colors]
    results = list(api.map(picture(name), params))
    assert [color_of(result.image.bytes()) for result in results] == colors
    assert hosted.runs(name) == 8


def test_a_sweep_with_a_journal_goes_on(hosted: Hosted, name: str, tmp_path: Path) -> None:
    """After an error in the middle, by another client; nothing runs twice."""
    grid = {"EmptyImage.color": [fresh_color() for _ in range(6)]}
    seen: list[SweepRow] = []

    def third(row: SweepRow) -> None:
        seen.append(row)
        if len(seen) == 3:
            raise RuntimeError("enough for now")

    with (
        HostedApi(hosted.url) as api,
        pytest.raises(RuntimeError, match="enough"),
    ):
        api.sweep(picture(name), grid, journal=tmp_path / "journal", on_row=third)
    with HostedApi(hosted.url) as api:
        rows = api.sweep(picture(name), grid, journal=tmp_path / "journal")
        shown = [color_of(row.result.image.bytes()) for row in rows if row.result]
    assert shown == grid["EmptyImage.color"]
    assert hosted.runs(name) == 6


def test_threads_share_a_client(api: HostedApi, hosted: Hosted, name: str) -> None:
    """Each gets its own picture."""
    colors = [fresh_color() for _ in range(24)]

    def one(color: int) -> int:
        return color_of(api.run(picture(name, color=color), timeout=LIMIT).image.bytes())

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(one, colors)) == colors
    assert hosted.runs(name) == 24


def test_a_pool_has_hosted_members_beside_others(
    api: HostedApi, direct: ComfyApi, hosted: Hosted, name: str
) -> None:
    """Each job runs once, wherever."""
    with ComfyPool([api, direct]) as pool:
        params = [{"EmptyImage.color": fresh_color()} for _ in range(12)]
        results = list(pool.map(picture(name), params))
    assert len(results) == hosted.runs(name) == 12


def test_a_coroutine_waits_for_a_job(api: HostedApi, hosted: Hosted, name: str) -> None:
    """And iterates over its events."""

    async def work() -> tuple[Result, list[str]]:
        job = await asyncio.to_thread(api.submit, picture(name, 0.5))
        names = [event.name async for event in aio.events(job)]
        return await aio.result(job), names

    result, names = asyncio.run(work())
    [made] = hosted.made(name)
    assert result.image.filename == made.name
    assert [one for one in names if one in ENDS] == ["execution_success"]


def test_a_hundred_trivial_jobs_all_succeed(api: HostedApi, hosted: Hosted, name: str) -> None:
    """The proxy calls some of them expired for a moment."""
    params = [{"EmptyImage.color": fresh_color()} for _ in range(100)]
    heard = Heard(api)
    results = list(api.map(picture(name), params, in_flight=1))
    flush(api)
    assert len(results) == hosted.runs(name) == 100
    assert [event.name for event in heard.ends()] == ["execution_success"] * 100


def test_attributes_of_a_file_are_those_of_comfyui(api: HostedApi, name: str) -> None:
    """So that code for one serves the other."""
    image = api.run(picture(name), timeout=LIMIT).image
    assert (image.subfolder, image.type, image.node_id, image.media) == ("", "output", "9", "image")
    assert attrs.asdict(image)["key"] == "images"  # type: ignore[call-overload]
