"""The thread that asks over HTTP, with answers that a test makes up."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import attrs
import blinker
import pytest

from comfy_client import ComfyApi
from comfy_client.errors import (
    ApiError,
    AuthenticationError,
    ComfyError,
    JobInterrupted,
    JobLost,
    NotSupported,
    RequestTimeout,
    ServerUnreachable,
    Throttled,
    TransportError,
)
from comfy_client.jobs.handle import JobHandle
from comfy_client.jobs.job import Job
from comfy_client.jobs.outcomes import success
from comfy_client.jobs.poller import LONGEST_PAUSE
from comfy_client.jobs.prompt import Prompt
from comfy_client.jobs.state import Outcome
from comfy_client.models import HistoryEntry, JobPage, Queue, QueuedPrompt, QueueStatus
from comfy_client.transport.websocket import State
from tests.helpers.clients import FAST, LIMIT, flush, until

GRAPH = {"1": {"class_type": "KSampler", "inputs": {}}}
ITEM = [1, "ours", GRAPH, {}, []]
RUNNING = Queue.from_json({"queue_running": [ITEM], "queue_pending": []})
EMPTY = Queue.from_json({"queue_running": [], "queue_pending": []})
RECORD = HistoryEntry.from_json({"prompt": ITEM, "outputs": {"1": {"text": ["a"]}}})


class Asked(ComfyApi):
    """A client of a server that exists in two functions."""

    timing = attrs.evolve(FAST, question_pause=0.001, silence_cap=0.002, queue=1000.0)

    queue: Callable[[], Queue]
    history: Callable[[str], HistoryEntry | None]
    cancelled: Callable[[str], bool]

    def get_queue(self, **_: Any) -> Queue:
        return self.queue()

    def get_history(self, prompt_id: str) -> HistoryEntry | None:
        return self.history(prompt_id)

    def cancel_job(self, prompt_id: str) -> bool:
        return self.cancelled(prompt_id)

    def get_jobs(self, *_: Any, **__: Any) -> JobPage:
        raise NotSupported("an older server")

    def poll_status(self, timeout: float = 1.0) -> QueueStatus:
        return QueueStatus(queue_remaining=1)

    def follow(self, prompt_id: str) -> tuple[Prompt, Job]:
        """A prompt that the server has taken, and its job."""
        tracker = self.parts.poller.tracker
        one = tracker.new(prompt_id, {})
        one.state.posted_at = time.monotonic()
        job = Job(JobHandle(one, self, self.parts.poller))
        tracker.add(one, posting=True)
        tracker.accept(one, QueuedPrompt(prompt_id))
        return one, job

    def ask(self, *prompts: Prompt) -> None:
        """Have the thread ask about these."""
        for one in prompts:
            self.parts.poller.tracker.poll_now(one)
        self.parts.poller.start()


@pytest.fixture
def api() -> Iterator[Asked]:
    made = Asked("http://127.0.0.1:9", namespace=blinker.Namespace())
    yield made
    made.close()


@pytest.mark.parametrize(
    ("error", "most"),
    [(AuthenticationError("who?", status=401), 3), (ApiError("overloaded", status=500), 8)],
)
def test_errors_that_may_pass_end_a_job_later_than_refusals(
    api: Asked, error: ApiError, most: int
) -> None:
    asked = []

    def refuse() -> Any:
        raise error

    def refuse_record(prompt_id: str) -> Any:
        asked.append(prompt_id)
        raise error

    api.queue, api.history = refuse, refuse_record
    one, job = api.follow("ours")
    api.ask(one)
    with pytest.raises(type(error)):
        job.result(LIMIT)
    assert len(asked) == most


def test_a_server_that_wants_to_be_left_alone_for_hours_is_asked_within_seconds(
    api: Asked,
) -> None:
    """Its ``Retry-After`` may be a mistake, and the job may have ended long before."""
    poller = api.parts.poller

    def refuse(*_: Any) -> Any:
        raise Throttled("too many", status=429, retry_after=3600.0)

    api.queue = api.history = refuse
    one, _ = api.follow("ours")
    poller.ask([one], [one])
    limit = time.monotonic() + LONGEST_PAUSE
    assert poller.tracker.not_before <= limit
    assert one.state.check_at <= limit


@pytest.mark.timing(look_up=LIMIT)
def test_a_cancel_right_before_the_submission_waits_for_it(api: Asked) -> None:
    """Another thread may have attached to the prompt by its id."""
    tracker = api.parts.poller.tracker
    one = tracker.new("ours", {})
    job = Job(JobHandle(one, api, api.parts.poller))
    tracker.add(one, posting=True)
    api.cancelled, api.queue, api.history = lambda _: True, lambda: EMPTY, lambda _: None
    told: list[bool] = []
    thread = threading.Thread(target=lambda: told.append(job.cancel()))
    thread.start()
    one.state.posted_at = time.monotonic()
    tracker.accept(one, QueuedPrompt("ours"))
    tracker.answered(one)
    api.ask(one)
    thread.join(LIMIT)
    assert told == [True]


@pytest.mark.timing(look_up=0.2)
@pytest.mark.parametrize(
    ("error", "end"),
    [
        (RequestTimeout("silence"), JobInterrupted),
        (TransportError("cut"), JobInterrupted),
        (ApiError("no", status=500), JobLost),
        (ServerUnreachable("refused"), JobLost),
    ],
)
def test_a_cancel_without_an_answer_may_have_worked(
    api: Asked, error: ComfyError, end: type[ComfyError]
) -> None:
    """A prompt that is gone then was cancelled; after a refusal, it is lost."""
    one, job = api.follow("ours")

    def fail(_: str) -> bool:
        raise error

    api.cancelled = fail
    with pytest.raises(type(error)):
        job.cancel()
    api.queue, api.history = lambda: EMPTY, lambda _: None
    api.ask(one)
    with pytest.raises(end):
        job.result(LIMIT)


def test_a_queue_answer_from_before_the_end_is_not_published_after_it(
    api: Asked, caplog: pytest.LogCaptureFixture
) -> None:
    """The socket may end a prompt while the queue, which still has it, is on its way."""
    one, job = api.follow("ours")
    next_one, _ = api.follow("next")  # asked about in the same pass, once the other is done with
    asked = []

    def end_meanwhile() -> Queue:
        api.parts.poller.tracker.end(one, Outcome(success("ours")))
        return RUNNING

    api.queue, api.history = end_meanwhile, asked.append
    with caplog.at_level(logging.INFO, "comfy_client"):
        api.ask(one, next_one)
        job.result(LIMIT)
        until(lambda: asked, LIMIT)
        flush(api)
    assert "succeeded" in caplog.text
    assert "started" not in caplog.text


def test_the_first_in_a_queue_that_was_looked_at_before_may_have_ended(api: Asked) -> None:
    """A deaf socket would not say so."""
    tracker = api.parts.poller.tracker
    state, log = State.CONNECTED, tracker.log
    connection = SimpleNamespace(state=state, generation=1, error=None, quiet_for=0.0, log=log)
    tracker.connection = tracker.monitor.connection = connection  # type: ignore[assignment]
    one, job = api.follow("ours")
    looks: list[Queue] = []

    def look() -> Queue:
        looks.append(EMPTY if looks else RUNNING)
        return looks[-1]

    api.queue, api.history = look, lambda _: RECORD if looks else None
    api.ask(one)
    until(lambda: looks, LIMIT)
    api.ask(one)
    assert job.result(LIMIT).prompt_id == "ours"


def test_an_older_list_says_nothing_of_a_newer_prompt(api: Asked) -> None:
    """A slow server is left alone for a while, so what was submitted since is not in its list."""
    poller = api.parts.poller
    api.queue, api.history = lambda: EMPTY, lambda _: None
    monitor = poller.tracker.monitor
    monitor.refresh(api, [])
    monitor.rests_until = time.monotonic() + 10 * LIMIT
    one, _ = api.follow("new")
    for _ in range(3):
        poller.ask([one], [one])
    assert one.state.missed_at is None
    assert one.state.running_since is None
    assert not one.state.decided


def test_a_poll_wanted_during_a_question_is_asked_again(
    api: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer may be from before."""
    poller = api.parts.poller
    monkeypatch.setattr(poller, "is_this_thread", lambda: True)
    one, _ = api.follow("ours")

    def look() -> Queue:
        poller.tracker.poll_now(one)
        return RUNNING

    api.queue, api.history = look, lambda _: None
    one.state.check_at = 0.0
    poller.tick()
    assert one.state.check_at == 0.0
