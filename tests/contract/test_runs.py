"""Prompts on a real server: submitted in every way, ended in every way."""

from __future__ import annotations

import logging
import os
import random
import re
import signal
import struct
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed

import pytest

from comfy_client import ComfyApi, Workflow
from comfy_client.errors import (
    JobFailed,
    JobInterrupted,
    JobLost,
    JobTimeout,
    PromptRejected,
    WorkflowError,
)
from tests.contract.conftest import a_while, forgot
from tests.helpers.clients import Impatient, flush, outstanding, until
from tests.helpers.proxy import Proxy
from tests.versions import has

LIMIT = 180.0
ENDS = {"execution_success", "execution_error", "execution_interrupted", "job_lost"}


def a_seed() -> int:
    """One that no server has in its cache."""
    return random.randrange(1 << 40)


def picture(prefix="runs/a", **inputs):
    """A workflow of two nodes that no server has in its cache."""
    color = random.randrange(1 << 24)
    return {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": 32, "height": 32, "batch_size": 1, "color": color, **inputs},
            "_meta": {"title": "Colour"},
        },
        "9": {
            "class_type": "SaveImage",
            "inputs": {"filename_prefix": prefix, "images": ["1", 0]},
            "_meta": {"title": "Save"},
        },
    }


def sleeper(seconds=60.0, ticks=100):
    return {
        "1": {
            "class_type": "TestSleepOutput",
            "inputs": {"seconds": seconds, "ticks": ticks, "text": str(random.random())},
        }
    }


def png_texts(data: bytes) -> dict[str, str]:
    """The text chunks of a PNG."""
    texts, at = {}, 8
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + size]
        if kind == b"tEXt":
            key, _, text = body.partition(b"\0")
            texts[key.decode()] = text.decode("latin-1")
        at += size + 12
    return texts


def first_pixel(data: bytes) -> tuple[int, ...]:
    """Of an RGB picture as ComfyUI saves it; its first pixel needs no filter's undoing."""
    at, packed = 8, b""
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        if kind == b"IDAT":
            packed += data[at + 8 : at + 8 + size]
        at += size + 12
    return tuple(zlib.decompress(packed)[1:4])


@pytest.fixture
def held(api) -> Iterator[Callable[[], None]]:
    """The server is busy until this is called."""
    job = api.submit(sleeper())
    until(lambda: job.handle.state.started)
    flush(api)  # who listens from now on does not hear of it

    def let_go():
        api.interrupt(job.prompt_id)
        with pytest.raises(JobInterrupted):
            job.result(LIMIT)

    yield let_go
    if not job.done():
        let_go()


# -- what a prompt may be submitted with -------------------------------------------------


def test_prompts_run_in_the_order_of_their_numbers(api, held):
    """Low first; -1 and ``front`` go before all that wait.

    Without a number, a prompt has the next one of the server, which counts all that it had; at
    the front, the negative of that.
    """
    order = []
    api.on("execution_start", lambda event: order.append(event.prompt_id))
    later = api.queue_prompt(2_000_000, picture())
    last = api.queue_prompt(3_000_000, picture())
    sooner = api.queue_prompt(1_000_000.5, picture())
    appended = api.append_prompt(picture())
    front = api.queue_prompt(None, picture(), front=True)
    foremost = api.queue_prompt(-1, picture())
    assert front.number == -(appended.number + 1)
    assert foremost.number == -(appended.number + 2)
    wanted = [p.prompt_id for p in (foremost, front, appended, sooner, later, last)]
    assert [item.prompt_id for item in api.get_queue().pending] == wanted
    held()
    until(lambda: len(order) == 6)
    assert order == wanted


@pytest.mark.needs("own prompt_id")
def test_the_id_may_be_ours(api):
    """And it is the same in the answer, the queue and the history."""
    mine = str(uuid.uuid4())
    queued = api.queue_prompt(None, picture(), prompt_id=mine)
    assert queued.prompt_id == mine
    assert not queued.node_errors
    until(lambda: api.get_history(mine) is not None)


def test_without_an_id_the_server_chooses(api):
    """Not ``None`` as text."""
    uuid.UUID(api.queue_prompt(None, picture()).prompt_id)


@pytest.mark.needs("own prompt_id")
def test_extra_data_is_kept(api, held):
    """In queue and history, beside our own; a key for partner nodes is not shown."""
    queued = api.queue_prompt(
        None, picture(), extra_data={"note": {"a": [1]}}, comfy_api_key="secret-key"
    )
    [item] = api.get_queue().pending
    assert item.extra_data["note"] == {"a": [1]}
    assert item.extra_data["client_id"] == api.client_id
    held()
    until(lambda: api.get_history(queued.prompt_id) is not None)
    entry = api.get_history(queued.prompt_id)
    assert entry.extra_data["note"] == {"a": [1]}
    assert "secret-key" not in str(entry.raw)


def test_the_editors_graph_is_embedded_in_the_picture(api):
    """As text chunks of the PNG, beside what else was to be embedded."""
    result = api.run(
        picture(),
        timeout=LIMIT,
        workflow_ui={"nodes": [], "id": "ui-1"},
        extra_data={"extra_pnginfo": {"author": "me"}},
    )
    texts = png_texts(result.images[0].bytes())
    assert texts["workflow"] == '{"nodes": [], "id": "ui-1"}'
    assert texts["author"] == '"me"'
    assert "EmptyImage" in texts["prompt"]


@pytest.mark.needs("targets")
def test_only_the_targets_run(api, workflow):
    """Ids of output nodes; the other outputs stay away."""
    graph = workflow("image_ops", width=random.randrange(8, 200))
    result = api.run(graph, timeout=LIMIT, partial_execution_targets=["5"])
    assert set(result.nodes) == {"5"}
    assert [f.type for f in result.images] == ["temp"]


@pytest.mark.parametrize(
    ("options", "has_listener", "sent"),
    [
        ({}, False, None),
        ({}, True, "auto"),
        ({"preview_method": "none"}, True, "none"),
        ({"extra_data": {"preview_method": "taesd"}}, True, "taesd"),
        ({"extra_data": {"preview_method": "taesd"}, "preview_method": "auto"}, False, "auto"),
    ],
)
def test_previews_are_asked_for_when_someone_listens(api, options, has_listener, sent):
    """In extra_data, where newer servers look; what the caller says goes first."""
    if has_listener:
        api.on("b_preview", lambda event: None)
    result = api.run(picture(), timeout=LIMIT, **options)
    until(lambda: api.get_history(result.prompt_id) is not None)
    assert api.get_history(result.prompt_id).extra_data.get("preview_method") == sent


# -- results -----------------------------------------------------------------------------


def test_a_picture_is_sampled_with_previews_and_progress(api, workflow, tmp_path):
    """All eight steps, a preview with node and prompt for each, and the file."""
    previews, steps, events = [], [], []
    result = api.run(
        workflow("txt2img_tiny", seed=a_seed()),
        timeout=LIMIT,
        on_preview=previews.append,
        on_progress=steps.append,
        on_event=events.append,
    )
    assert [(e.value, e.max) for e in steps if e.node == "3"] == [(n, 8) for n in range(1, 9)]
    assert len(previews) >= 7
    for event in previews:
        assert (event.prompt_id, event.node_id) == (result.prompt_id, "3")
        assert event.mime == "image/jpeg"
        assert event.image.startswith(b"\xff\xd8\xff")
        assert not event.final
    assert {e.prompt_id for e in events} == {result.prompt_id}
    assert [e.name for e in events if e.name in ENDS] == ["execution_success"]
    [image] = result["Save"].images
    assert result["SaveImage"] is result["9"] is result["Save"]
    path = image.save(f"{tmp_path}/")
    assert path.read_bytes() == image.bytes()
    assert image.bytes().startswith(b"\x89PNG")
    assert result.complete


def test_the_second_of_two_equal_runs_has_the_outputs(api, comfyui):
    """All nodes cached, nothing executed, the same file."""
    graph = picture()
    first, second = api.run(graph, timeout=LIMIT), api.run(graph, timeout=LIMIT)
    assert second.complete
    if not forgot(comfyui, second, *graph):
        assert second.cached_nodes == ("1", "9")
        assert [f.filename for f in second.files] == [f.filename for f in first.files]
    assert second.images[0].bytes() == first.images[0].bytes()


def test_a_batch_comes_in_order(api, workflow):
    """Eight pictures with rising numbers."""
    names = [f.filename for f in api.run(workflow("batch8", seed=a_seed()), timeout=LIMIT).images]
    assert len(names) == 8
    assert names == sorted(names)


def test_the_picture_is_that_of_the_run(api):
    """Each run has its own."""
    for color in (0x102030, 0xFFEE01):
        graph = picture(color=color, width=random.randrange(8, 400))
        [image] = api.run(graph, timeout=LIMIT).images
        assert first_pixel(image.bytes()) == tuple(color.to_bytes(3, "big"))


def test_texts_are_outputs(api, workflow):
    """Of the nodes that show some."""
    result = api.run(workflow("sleep", seconds=0.0), timeout=LIMIT)
    assert result.texts == ("slept",)
    assert result["Sleep"].texts == ("slept",)
    assert result.files == ()


def test_pictures_over_the_socket_are_outputs_and_previews_are_not(api, workflow, tmp_path):
    """SaveImageWebsocket: both pictures of the batch, as PNG; they can be saved."""
    previews = []
    result = api.run(
        workflow("txt2img_websocket", seed=a_seed()), timeout=LIMIT, on_preview=previews.append
    )
    node = result["Send over the websocket"]
    assert [f.mime for f in node.images] == ["image/png"] * 2
    assert all(f.bytes().startswith(b"\x89PNG") for f in node.images)
    assert [e.node_id for e in previews if e.final] == ["9", "9"]
    assert {e.node_id for e in previews if not e.final} == {"3"}
    assert result.complete
    paths = result.save(tmp_path)
    assert [p.read_bytes() for p in paths] == [f.bytes() for f in node.images]


def test_a_partly_valid_workflow_runs_with_a_warning(api, caplog):
    """What the server dropped is told once, and kept."""
    graph = picture()
    graph["8"] = {"class_type": "PreviewImage", "inputs": {}, "_meta": {"title": "Loose"}}
    result = api.run(graph, timeout=LIMIT)
    assert set(result.nodes) == {"9"}
    assert set(result.node_errors) == {"8"}
    [record] = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert "Loose" in record.getMessage()
    assert "images" in record.getMessage()


# -- failures ----------------------------------------------------------------------------


def test_a_node_that_raises_is_a_failure_with_all_there_is_to_know(api, workflow):
    """Node, title, class, exception, traceback, inputs."""
    with pytest.raises(JobFailed, match=r"node 2 'Fail' \(TestFail\).*told") as caught:
        api.run(workflow("fail"), timeout=LIMIT)
    error = caught.value
    assert (error.node_id, error.title, error.class_type) == ("2", "Fail", "TestFail")
    assert error.exception_type == "ValueError"
    assert error.exception_message == "failed as told"
    assert "raise ValueError(message)" in error.traceback
    assert error.inputs["message"] == ["failed as told"]
    assert not error.is_oom


REFUSED = {
    "unknown class": ({"1": {"class_type": "EmptyImag", "inputs": {}}}, r"EmptyImag\b.*EmptyImage"),
    "too small": (picture(width=0), r"node 1 'Colour' \(EmptyImage\).*width.*0.*1.*16384"),
    "not a number": (picture(width="wide"), r"width.*wide"),
    "missing input": (
        {"9": {"class_type": "SaveImage", "inputs": {"filename_prefix": "a"}}},
        r"node 9.*images.*missing|missing.*images",
    ),
    "bad choice": (
        {
            **picture(),
            "9": {
                "class_type": "SaveImage",
                "inputs": {"filename_prefix": "a", "images": ["5", 0]},
            },
            "5": {
                "class_type": "ImageScale",
                "inputs": {
                    "image": ["1", 0],
                    "upscale_method": "bilinaer",
                    "width": 8,
                    "height": 8,
                    "crop": "disabled",
                },
            },
        },
        r"upscale_method.*bilinaer.*bilinear",
    ),
    "wrong type of link": (
        {
            "1": {
                "class_type": "EmptyLatentImage",
                "inputs": {"width": 64, "height": 64, "batch_size": 1},
            },
            "9": {
                "class_type": "SaveImage",
                "inputs": {"filename_prefix": "a", "images": ["1", 0]},
            },
        },
        r"images.*LATENT|LATENT.*images",
    ),
    "slot out of range": (
        {**picture(), "9": {"class_type": "PreviewImage", "inputs": {"images": ["1", 7]}}},
        r"7",
    ),
    "no outputs": (
        {"1": {"class_type": "EmptyImage", "inputs": picture()["1"]["inputs"]}},
        r"output",
    ),
}


@pytest.mark.parametrize(("graph", "words"), REFUSED.values(), ids=REFUSED)
def test_a_refusal_is_told_in_words(api, graph, words):
    """What is wrong, where, and what would be right."""
    with pytest.raises(PromptRejected) as caught:
        api.run(graph, timeout=LIMIT)
    text = str(caught.value)
    assert re.search(words, text, re.DOTALL), text
    assert caught.value.status == 400
    with pytest.raises(PromptRejected):
        api.queue_prompt(None, graph)


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        (picture(width=float("nan")), r"node 1.*width"),
        ({**picture(), "9": {"class_type": "SaveImage", "inputs": {"images": ["77", 0]}}}, "77"),
        ({"nodes": [], "links": [], "version": 0.4}, r"no nodes"),
    ],
    ids=["NaN", "dangling link", "empty UI format"],
)
def test_what_cannot_be_sent_is_not_sent(api, graph, words):
    """A WorkflowError that names the place."""
    with pytest.raises(WorkflowError, match=words):
        api.run(graph, timeout=LIMIT)
    with pytest.raises(WorkflowError, match=words):
        api.append_prompt(graph)


def test_a_failed_submission_fires_queue_error(api):
    """With the exception, from run and from queue_prompt."""
    errors = []
    api.on("queue_error", lambda event: errors.append(event.error))
    raised = []
    for attempt in (api.run, api.append_prompt, api.submit):
        with pytest.raises(PromptRejected) as caught:
            attempt(picture(width=0))
        raised.append(caught.value)
    until(lambda: len(errors) == 3)
    assert errors == raised


def test_an_interrupt_in_the_middle_of_sampling(api, workflow):
    """JobInterrupted that names the sampler; the rest of the queue runs."""
    job = api.submit(workflow("txt2img_slow", seed=a_seed()))
    after = api.submit(picture())
    api.wait_for("progress", lambda event: event.prompt_id == job.prompt_id, LIMIT)
    api.interrupt(job.prompt_id)
    with pytest.raises(JobInterrupted, match="Sampler") as caught:
        job.result(LIMIT)
    assert caught.value.node_id == "3"
    assert len(after.result(LIMIT).images) == 1


def test_a_job_whose_server_is_killed_is_lost(other):
    """SIGKILL in the middle, and a restart that knows nothing."""
    with Impatient(other.url) as api:
        told = []
        api.on("all", told.append)
        job = api.submit(sleeper())
        waiting = api.submit(picture())
        until(lambda: job.handle.state.started)
        other.kill()
        other.start()
        for lost in (job, waiting):
            with pytest.raises(JobLost, match="restarted"):
                lost.result(LIMIT)
        until(lambda: "reconnected" in [e.name for e in told])
        ended = [e.prompt_id for e in told if e.name in ENDS]
        assert sorted(ended) == sorted([job.prompt_id, waiting.prompt_id])
        assert len(api.run(picture(), timeout=LIMIT).images) == 1


def test_a_server_without_previews_is_told_of_once(other, workflow, caplog):
    """When someone wants previews; newer ones make some for each prompt that does."""
    with ComfyApi(other.url) as api:
        api.run(workflow("txt2img_tiny", seed=a_seed()), timeout=LIMIT)
        assert "--preview-method" not in caplog.text
        for _ in range(2):
            graph = workflow("txt2img_tiny", seed=a_seed())
            api.run(graph, timeout=LIMIT, on_preview=lambda event: None)
    told = caplog.text.count("--preview-method auto")
    assert told == (0 if has(other.version, "preview method") else 1)


# -- broken links ------------------------------------------------------------------------


def test_a_link_that_is_cut_in_the_middle_costs_nothing_but_previews(comfyui, workflow):
    """Socket and HTTP are cut while it samples; all outputs are there."""
    with Proxy(comfyui.port) as proxy, Impatient(proxy.url) as api:
        told = []
        api.on("all", told.append)
        job = api.submit(workflow("txt2img_slow", seed=a_seed(), steps=40))

        def count(name):
            return [e.name for e in told].count(name)

        for cuts, step in enumerate((3, 12, 24), 1):
            until(lambda s=step: (job.progress.step or 0) >= s or job.done(), LIMIT)
            proxy.cut()
            until(lambda n=cuts: count("reconnected") == n, LIMIT)
        result = job.result(LIMIT)
        assert len(result["Save"].images) == 1
        assert result.images[0].bytes().startswith(b"\x89PNG")
        assert count("disconnected") == count("reconnected") == 3
        assert [e.prompt_id for e in told if e.name in ENDS] == [job.prompt_id]


def test_a_job_that_ends_while_the_link_is_down_has_its_result(comfyui):
    """It ended in the gap; history knows."""
    with Proxy(comfyui.port) as proxy, Impatient(proxy.url) as api, ComfyApi(comfyui.url) as sure:
        ends = []
        api.on("execution_success", ends.append)
        busy = sure.submit(sleeper())
        until(lambda: busy.handle.state.started)
        job = api.submit(sleeper(seconds=0.1, ticks=1))
        proxy.dark()
        sure.interrupt(busy.prompt_id)
        until(lambda: sure.get_history(job.prompt_id) is not None)
        proxy.cut()
        proxy.light()
        assert len(job.result(LIMIT).texts) == 1
        assert [e.recovered for e in ends] == [True]


def test_a_long_way_costs_no_events(comfyui):
    """50 ms on each way."""
    with Proxy(comfyui.port, delay=0.05) as proxy, ComfyApi(proxy.url) as api:
        events = []
        result = api.run(picture(), timeout=LIMIT, on_event=events.append)
        assert len(result.images) == 1
        assert [e.name for e in events if e.name in ENDS] == ["execution_success"]


# -- several at once ---------------------------------------------------------------------


def test_two_clients_get_their_own_events_only(comfyui, workflow):
    """Both run at the same time; pictures and steps do not cross."""
    owned = has(comfyui.version, "progress_state for its owner alone")
    with ComfyApi(comfyui.url) as one, ComfyApi(comfyui.url) as two:
        heard = {one: [], two: []}
        for client in heard:
            client.on("all", heard[client].append)
            client.on("b_preview", heard[client].append)
        work = {
            client: [client.submit(workflow("txt2img_tiny", seed=a_seed())) for _ in range(2)]
            for client in heard
        }
        for client, mine in work.items():
            ids = {job.prompt_id for job in mine}
            assert all(len(job.result(LIMIT).images) == 1 for job in mine)
            states = () if owned else ("progress_state",)
            told = [e for e in heard[client] if e.name not in states]
            named = {getattr(e, "prompt_id", None) for e in told}
            assert named - {None} == ids
            previews = [e for e in heard[client] if e.name == "b_preview"]
            assert {e.prompt_id for e in previews} == ids
            assert len([e for e in heard[client] if e.name in ENDS]) == 2


def test_many_prompts_from_many_threads_all_end(api):
    """200 from 8 threads, each with its own picture."""

    def one(number):
        result = api.run(picture(prefix=f"runs/many{number}"), timeout=LIMIT)
        [image] = result.images
        return number, image.filename, result.prompt_id

    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(one, range(200)))
    assert len({prompt_id for _, _, prompt_id in done}) == 200
    assert [name.partition("_")[0] for _, name, _ in done] == [f"many{n}" for n in range(200)]
    assert outstanding(api) == []


def test_jobs_are_futures(api):
    """``as_completed`` over several, callbacks in a thread of their own."""
    threads = []
    called = threading.Semaphore(0)

    def callback(job):
        threads.append(threading.current_thread().name)
        called.release()

    work = [api.submit(picture()) for _ in range(6)]
    for job in work:
        job.add_done_callback(callback)
    assert {job.result(0).prompt_id for job in as_completed(work, LIMIT)} == {
        job.prompt_id for job in work
    }
    for _ in work:
        assert called.acquire(timeout=LIMIT)
    assert set(threads) <= {"comfy-callbacks", threading.current_thread().name}


# -- other things that nodes say ---------------------------------------------------------


@pytest.mark.needs("progress_text")
def test_texts_on_the_way_belong_to_the_job(api, workflow):
    """The frame names a node only; it is of the prompt that runs."""
    events = []
    graph = workflow("progress_text", text=f"half way {random.random()}")
    result = api.run(graph, timeout=LIMIT, on_event=events.append)
    [event] = [e for e in events if e.name == "progress_text"]
    assert (event.node, event.text) == ("1", graph["1"]["inputs"]["text"])
    assert event.prompt_id == result.prompt_id


def test_events_of_custom_nodes_come_by_name(api, workflow):
    """Under whatever name they chose."""
    got = []
    api.on("test.event", got.append)
    api.run(workflow("custom_event"), timeout=LIMIT)
    until(lambda: got)
    assert [e.data for e in got] == [{"answer": 42}]


def test_a_blocked_node_is_no_end(api, workflow):
    """The server calls it an error, and goes on; so do we."""
    events = []
    graph = workflow("blocked")
    result = api.run(graph, timeout=LIMIT, on_event=events.append)
    assert result["Beside it"].texts == ("ran",)
    assert [e.name for e in events if e.name in ENDS] == ["execution_error", "execution_success"]
    assert "Behind the block" not in result


# -- waiting -----------------------------------------------------------------------------


def test_time_that_runs_out_leaves_the_prompt_alone(api, held):
    """It goes on, and can be waited for."""
    job = api.submit(sleeper(seconds=0.1, ticks=1))
    with pytest.raises(JobTimeout, match=job.prompt_id):
        job.result(0.1)
    held()
    assert len(job.result(LIMIT).texts) == 1


def test_run_with_a_timeout_leaves_the_prompt_alone(api, comfyui, held):
    """The id is in the exception."""
    with pytest.raises(JobTimeout) as caught:
        api.run(sleeper(seconds=0.1, ticks=1), timeout=a_while(comfyui))
    held()
    until(lambda: api.get_history(caught.value.prompt_id) is not None)
    assert api.get_history(caught.value.prompt_id).succeeded


@pytest.mark.parametrize("callback", [None, lambda event: None])
def test_ctrl_c_leaves_at_once_and_the_prompt_goes_on(api, callback):
    """The client can be used on."""
    graph = sleeper(seconds=6.0)
    pressed = []

    def press():
        until(lambda: [job for job in outstanding(api) if job.handle.state.started])
        pressed.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        api.run(graph, timeout=LIMIT, on_event=callback)
    assert time.monotonic() - pressed[0] < 5.0
    thread.join()
    [job] = outstanding(api)
    assert len(job.result(LIMIT).texts) == 1


def test_a_workflow_object_runs_like_a_dict(api):
    """And is not changed by it."""
    graph = picture()
    workflow = Workflow.load(graph)
    assert len(api.run(workflow, timeout=LIMIT).images) == 1
    assert workflow == Workflow.load(graph)
