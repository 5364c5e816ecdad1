"""Jobs as they end."""

from __future__ import annotations

import time

import pytest

from comfy_client import ComfyApi, JobTimeout
from comfy_client.testing import ComfyServer
from tests.helpers.clients import quick_once, quickly
from tests.helpers.interrupts import press_ctrl_c_in_a_call
from tests.helpers.scripted import GRAPH

pytestmark = pytest.mark.usefixtures("prompts_wait")


def test_as_completed_refuses_values_that_are_no_job(comfy: ComfyServer) -> None:
    with ComfyApi(comfy.url) as api, pytest.raises(TypeError, match="as_completed takes jobs"):
        api.as_completed([api.generate_id()])  # type: ignore[list-item]


def test_jobs_come_as_they_end_each_once(comfy: ComfyServer) -> None:
    """Of several clients, with those that had ended first."""
    clients = (ComfyApi(comfy.url, transport="poll") for _ in range(2))
    with next(clients) as api, next(clients) as other:
        first, second, third = api.submit(GRAPH), other.submit(GRAPH), api.submit(GRAPH)
        comfy.finish(first.prompt_id)
        first.result(60)
        ended = api.as_completed({first: 1, second: 2, third: 3}, timeout=20)
        assert next(ended) is first
        for job in (second, third):
            comfy.finish(job.prompt_id)
            assert next(ended) is job
        assert list(ended) == []
        assert list(api.as_completed([third, third], timeout=0)) == [third]


def test_jobs_that_do_not_end_in_time_are_a_timeout(comfy: ComfyServer) -> None:
    """Seconds from the call; they go on, and what cannot be a time is told at once."""
    with ComfyApi(comfy.url) as api:
        job = api.submit(GRAPH)

        def late() -> None:
            with pytest.raises(JobTimeout, match="1 of 1 prompts have not ended") as caught:
                next(iterators.pop())
            assert "within 1 s" in str(caught.value)
            assert caught.value.prompt_id == job.prompt_id
            assert isinstance(caught.value, TimeoutError)

        iterators = [api.as_completed([job], timeout=1.0) for _ in range(5)]
        time.sleep(1.0)
        quick_once(late, 0.8)
        assert not job.done()
        with pytest.raises(ValueError, match="seconds"):
            api.as_completed([job], timeout=-1)


def test_ctrl_c_ends_it_at_once(comfy: ComfyServer) -> None:
    """The prompts keep running."""
    with ComfyApi(comfy.url) as api:
        job = api.submit(GRAPH)
        thread = press_ctrl_c_in_a_call()
        with quickly(), pytest.raises(KeyboardInterrupt):
            next(api.as_completed([job]))
        thread.join()
        assert not job.done()
