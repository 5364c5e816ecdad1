"""A prompt that runs out of memory is run once more, with the memory that was freed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from comfy_client import ComfyApi, Job, JobEvent, JobFailed, Result
from comfy_client.timing import Timing
from tests.contract.conftest import Server, a_while

LIMIT = 180.0


def hungry(times: int) -> dict[str, Any]:
    """Runs out of memory so many times, behind a node that the server keeps in its cache."""
    key = str(random.random())
    out_of_memory = {"key": key, "times": times, "text": ["1", 0], "seed": "random"}
    return {
        "1": {"class_type": "TestSwitch", "inputs": {"choose": "a", "a": key}},
        "2": {"class_type": "TestOutOfMemory", "inputs": out_of_memory},
    }


@pytest.fixture
def any_api(any_comfyui: Server) -> Iterator[ComfyApi]:
    """A client that waits for a real server to collect its garbage, and then to free its memory."""

    class Patient(ComfyApi):
        timing = Timing(freed=a_while(any_comfyui, 3.0, 10.0))

    with Patient(any_comfyui.url) as client:
        yield client


@pytest.fixture
def started() -> list[Job]:
    return []


def run(api: ComfyApi, graph: dict[str, Any], started: list[Job], **kw: Any) -> Result:
    return api.run(graph, retry_oom=True, on_start=started.append, **{"timeout": LIMIT, **kw})


def test_retry_oom_runs_once_more_with_free_memory(any_api, started, caplog):
    """Under a new id, with the same seeds; what was cached runs again, and the log says so."""
    events: list[JobEvent] = []
    result = run(any_api, hungry(1), started, on_event=events.append, tags={"tenant": "a"})
    first, second = started
    assert result.texts == ("try 2",)
    assert result.cached_nodes == ()
    assert result.prompt_id == second.prompt_id != first.prompt_id
    assert first.graph["2"]["inputs"]["seed"] == result.seeds["2"]
    assert [(e.name, e.prompt_id) for e in events if e.is_end] == [
        ("execution_error", first.prompt_id),
        ("execution_success", second.prompt_id),
    ]
    [line] = [vars(one) for one in caplog.records if "runs once more" in one.getMessage()]
    assert (line["prompt_id"], line["tags"]) == (first.prompt_id, {"tenant": "a"})


def test_the_second_error_has_the_first_as_its_cause(any_api, started):
    """There is no third try."""
    with pytest.raises(JobFailed, match="try 2") as caught:
        run(any_api, hungry(9), started)
    first = caught.value.__cause__
    assert isinstance(first, JobFailed)
    assert "try 1" in str(first)
    assert caught.value.is_oom
    assert first.is_oom
    assert [first.prompt_id, caught.value.prompt_id] == [job.prompt_id for job in started]


def test_errors_other_than_out_of_memory_are_raised_at_once(api, started):
    """Nothing is freed for them."""
    graph = {"1": {"class_type": "TestFail", "inputs": {"message": "no"}}}
    with pytest.raises(JobFailed, match="no"):
        run(api, graph, started)
    assert len(started) == 1


def test_without_the_option_nothing_is_tried_again(api, started):
    """The note says what may help."""
    with pytest.raises(JobFailed, match="try 1") as caught:
        api.run(hungry(1), on_start=started.append, timeout=LIMIT)
    assert len(started) == 1
    assert "retry_oom" in "".join(caught.value.__notes__)
