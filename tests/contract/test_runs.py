"""Prompts on a real server: submitted in every way, ended in every way."""

from __future__ import annotations

import random
import re
import struct
import zlib
from collections.abc import Callable, Iterator

import pytest

from comfy_client import ComfyApi, Workflow
from comfy_client.errors import (
    JobInterrupted,
    JobLost,
    PromptRejected,
)
from tests.helpers.clients import Impatient, flush, until
from tests.helpers.graphs import fresh_color
from tests.helpers.proxy import Proxy
from tests.versions import has

LIMIT = 180.0
ENDS = {"execution_success", "execution_error", "execution_interrupted", "job_lost"}


def a_seed() -> int:
    """One that no server has in its cache."""
    return random.randrange(1 << 40)


def picture(prefix="runs/a", **inputs):
    """A workflow of two nodes that no server has in its cache."""
    color = fresh_color()
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


# -- failures ----------------------------------------------------------------------------


REFUSED = {
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
    "slot out of range": (
        {**picture(), "9": {"class_type": "PreviewImage", "inputs": {"images": ["1", 7]}}},
        r"7",
    ),
}


@pytest.mark.parametrize(("graph", "words"), REFUSED.values(), ids=REFUSED)
def test_a_refusal_says_what_is_wrong_and_what_would_be_right(api, graph, words):
    """What is wrong, where, and what would be right."""
    with pytest.raises(PromptRejected) as caught:
        api.run(graph, timeout=LIMIT)
    text = str(caught.value)
    assert re.search(words, text, re.DOTALL), text
    assert caught.value.status == 400
    with pytest.raises(PromptRejected):
        api.queue_prompt(None, graph)


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


def test_a_server_without_previews_is_logged_once(other, workflow, caplog):
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


# -- other things that nodes say ---------------------------------------------------------


def test_events_of_custom_nodes_come_by_name(api, workflow):
    """Under whatever name they chose."""
    got = []
    api.on("test.event", got.append)
    api.run(workflow("custom_event"), timeout=LIMIT)
    until(lambda: got)
    assert [e.data for e in got] == [{"answer": 42}]


# -- waiting -----------------------------------------------------------------------------


def test_a_workflow_object_runs_like_a_dict(api):
    """And is not changed by it."""
    graph = picture()
    workflow = Workflow.load(graph)
    assert len(api.run(workflow, timeout=LIMIT).images) == 1
    assert workflow == Workflow.load(graph)
