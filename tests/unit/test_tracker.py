"""The registry of prompts, without any server."""

from __future__ import annotations

import blinker

from comfy_client import ComfyApi
from comfy_client.jobs.job import Job
from comfy_client.jobs.outcomes import lost, success
from comfy_client.jobs.state import Outcome
from comfy_client.models import QueuedPrompt
from tests.helpers.clients import LIMIT, until


def test_the_end_of_a_prompt_that_has_become_one_with_another_is_reported_once() -> None:
    """Evidence may be about the one while the answer to the other says that they are the same."""
    ends = []
    api = ComfyApi("http://127.0.0.1:9", namespace=blinker.Namespace())
    api.on("execution_success", ends.append)
    poller = api._poller
    tracker = poller.tracker
    attached, submitted = tracker.new("theirs", {}), tracker.new("ours", {})
    jobs = [Job(api, one, poller) for one in (attached, submitted)]
    tracker.add(attached)
    tracker.add(submitted, posting=True)
    tracker.accept(submitted, QueuedPrompt("theirs"))
    tracker.resolve(attached, Outcome(success("theirs")))
    until(lambda: ends, LIMIT)
    assert [job.result(LIMIT).prompt_id for job in jobs] == ["theirs"] * 2
    api.close()
    assert len(ends) == 1


def test_of_two_verdicts_the_first_ends_a_prompt() -> None:
    """The socket and HTTP may both have reached one before either is written down."""
    api = ComfyApi("http://127.0.0.1:9", namespace=blinker.Namespace())
    poller = api._poller
    tracker = poller.tracker
    one = tracker.new("ours", {})
    job = Job(api, one, poller)
    tracker.add(one, posting=True)
    tracker.accept(one, QueuedPrompt("ours"))
    tracker.resolve(one, Outcome(success("ours")))
    tracker.resolve(one, Outcome(*lost("ours")))
    assert job.result(LIMIT).prompt_id == "ours"
    api.close()
    assert (api.stats().succeeded, api.stats().lost) == (1, 0)
