"""``run(retry_oom=True)``: what is asked of the server between the two tries, and what ends it.

What a real server makes of it is in ``tests/contract/test_out_of_memory.py``.
"""

from __future__ import annotations

import logging
import time
from typing import Any

import pytest

from comfy_client import JobFailed, JobTimeout, NotSupported, PromptRejected, SubmitUncertain
from comfy_client.testing import Finish
from tests.helpers.clients import LIMIT, quickly
from tests.helpers.scripted import CACHED, ENTRY, GRAPH, RUNS, START, WELL, check, posts, say

OUT_OF_MEMORY = say(
    "execution_error",
    node_id="1",
    exception_type="torch.OutOfMemoryError",
    exception_message="Allocation on device",
)
FAILED_ENTRY = {
    **ENTRY,
    "outputs": {},
    "status": {
        "status_str": "error",
        "completed": False,
        "messages": [["execution_error", OUT_OF_MEMORY["data"]]],
    },
}
FAILS = (START, CACHED, RUNS, OUT_OF_MEMORY, Finish(FAILED_ENTRY))


@pytest.fixture
def memory(comfy):
    """Free bytes, as the server says them one after the other; the last one again and again."""
    free = [100]

    def stats(request):
        first = free.pop(0) if len(free) > 1 else free[0]
        device = {"name": "cuda:0", "type": "cuda", "vram_total": 10**6, "vram_free": first}
        return 200, {}, {"system": {}, "devices": [device]}

    comfy.on("GET", "/system_stats", stats)
    return free


@pytest.fixture
def fails_first(comfy):
    """The first prompt runs out of memory, others run well."""
    comfy.script(*FAILS)

    def free(request):
        comfy.script(*WELL)
        return 200, {}, None

    comfy.on("POST", "/free", free)


def paths(comfy):
    return [f"{r.method} {r.path}" for r in comfy.requests if r.path in WATCHED]


WATCHED = ("/prompt", "/api/prompt", "/free", "/api/free", "/system_stats", "/api/system_stats")


@pytest.mark.timing(freed=LIMIT)
def test_the_memory_is_freed_before_the_second_try(comfy, fast, memory, fails_first):
    """Until what is free grows no more."""
    memory[:] = [100, 100, 300, 900, 900, 0]
    check(fast.run(GRAPH, retry_oom=True, timeout=LIMIT))
    asked = [path.replace("/api", "") for path in paths(comfy)]
    first, second = (n for n, path in enumerate(asked) if path == "POST /prompt")
    assert asked[first + 1 : second] == [
        "GET /system_stats",
        *["POST /free"] * 3,  # a server may not hear the first
        *["GET /system_stats"] * 4,
    ]
    freed = [r.json() for r in comfy.requests if r.path.endswith("/free")]
    assert freed == [{"unload_models": True, "free_memory": True}] * 3
    ids = [request.json()["prompt_id"] for request in posts(comfy)]
    assert len(set(ids)) == 2


@pytest.mark.timing(freed=0.3)
def test_memory_that_is_free_already_is_waited_for_a_moment(comfy, fast, memory, fails_first):
    """A server unloads its models itself when a node runs out of memory."""
    with quickly(LIMIT):
        check(fast.run(GRAPH, retry_oom=True))


def test_random_seeds_are_the_same_in_both(comfy, fast, memory, fails_first):
    """Your own workflow keeps its word."""
    graph = {**GRAPH, "2": {"class_type": "KSampler", "inputs": {"seed": "random"}}}
    fast.run(graph, retry_oom=True, timeout=LIMIT)
    first, second = (request.json()["prompt"] for request in posts(comfy))
    assert first == second
    assert first["2"]["inputs"]["seed"] not in ("random", -1)
    assert graph["2"]["inputs"]["seed"] == "random"


@pytest.mark.timing(freed=1.0)
def test_the_timeout_holds_over_both(comfy, fast, memory):
    """The second prompt keeps running, and the error is about that one."""
    comfy.script(*FAILS)

    def free(request):
        comfy.script(START)
        return 200, {}, None

    comfy.on("POST", "/free", free)
    start = time.perf_counter()
    with pytest.raises(JobTimeout) as caught:
        fast.run(GRAPH, retry_oom=True, timeout=4)
    assert 2.5 < time.perf_counter() - start < LIMIT
    assert caught.value.prompt_id == posts(comfy)[1].json()["prompt_id"]
    first = caught.value.__cause__
    assert isinstance(first, JobFailed)
    assert first.prompt_id == posts(comfy)[0].json()["prompt_id"]


def test_there_is_no_second_try_without_time(comfy, fast, memory):
    """The error is the first one."""
    comfy.script(*FAILS)
    comfy.faults.delay("POST", "/free", 2 * LIMIT)
    with quickly(), pytest.raises(JobFailed, match="Allocation") as caught:
        fast.run(GRAPH, retry_oom=True, timeout=3)
    assert any("not tried again" in note for note in caught.value.__notes__)
    assert len(posts(comfy)) == 1


@pytest.mark.timing(freed=2 * LIMIT)
def test_there_is_no_second_try_if_freeing_takes_all_the_time(comfy, fast, memory, fails_first):
    """Of a server whose memory does not grow."""
    with quickly(), pytest.raises(JobFailed, match="Allocation") as caught:
        fast.run(GRAPH, retry_oom=True, timeout=3)
    assert any("the timeout has passed" in note for note in caught.value.__notes__)
    assert len(posts(comfy)) == 1


@pytest.mark.parametrize(
    ("answer", "kind"), [((404, {}, None), Exception), ((405, {}, None), NotSupported)]
)
def test_there_is_no_second_try_without_memory(comfy, fast, memory, answer: Any, kind):
    """The error is the first one, and says why; its cause is that of the other request."""
    comfy.script(*FAILS)
    comfy.on("POST", "/free", answer)
    with pytest.raises(JobFailed, match="Allocation") as caught:
        fast.run(GRAPH, retry_oom=True, timeout=LIMIT)
    assert isinstance(caught.value.__cause__, kind)
    assert any("could not be freed" in note for note in caught.value.__notes__)
    assert len(posts(comfy)) == 1


def test_a_second_try_that_cannot_be_submitted_is_the_error(comfy, fast, memory):
    """With the first as its cause."""
    comfy.script(*FAILS)

    def free(request):
        comfy.on("POST", "/prompt", (400, {}, {"error": {"type": "x", "message": "full"}}))
        return 200, {}, None

    comfy.on("POST", "/free", free)
    with pytest.raises(PromptRejected, match="full") as caught:
        fast.run(GRAPH, retry_oom=True, timeout=LIMIT)
    assert isinstance(caught.value.__cause__, JobFailed)


@pytest.mark.timing(look_up=0.5, look_up_sure=0.2)
def test_a_submission_that_is_uncertain_is_not_tried_again(comfy, fast, memory):
    """Only what surely ended is."""
    comfy.faults.cut("POST", "/prompt")
    with pytest.raises(SubmitUncertain):
        fast.run(GRAPH, retry_oom=True, timeout=LIMIT)
    assert not [r for r in comfy.requests if r.path.endswith("/free")]


def test_retry_oom_is_logged(comfy, fast, memory, fails_first, caplog):
    """In one line."""
    with caplog.at_level(logging.WARNING, "comfy_client"):
        fast.run(GRAPH, retry_oom=True, timeout=LIMIT)
    [line] = [r.getMessage() for r in caplog.records if "out of memory" in r.getMessage()]
    assert posts(comfy)[0].json()["prompt_id"] in line
    assert "node 1 (EmptyImage)" in line
