"""The registry of prompts, without any server."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from functools import partial
from types import CodeType, SimpleNamespace
from typing import Any

import attrs
import blinker
import pytest

from comfy_client import ComfyApi, JobLost, SubmitUncertain, UnexpectedResponse
from comfy_client.errors import ClientClosed
from comfy_client.event_queue import EventQueue
from comfy_client.events import (
    FROM_SERVER,
    ConnectionEvent,
    EndEvent,
    Event,
    PreviewEvent,
    StatusEvent,
)
from comfy_client.jobs.handle import JobHandle, Limits
from comfy_client.jobs.job import Job
from comfy_client.jobs.outcomes import lost, success
from comfy_client.jobs.prompt import ORPHANS, Prompt
from comfy_client.jobs.state import Outcome
from comfy_client.jobs.tracker import Tracker
from comfy_client.models import QueuedPrompt, QueueStatus
from comfy_client.transport.websocket import State
from tests.helpers.clients import LIMIT, quickly, until
from tests.helpers.ctrl_c import points_of
from tests.helpers.work import lines


@pytest.fixture
def api() -> Iterator[ComfyApi]:
    """A client that has started nothing."""
    made = ComfyApi("http://127.0.0.1:9", namespace=blinker.Namespace())
    yield made
    made.close()


@pytest.fixture
def tracker(api: ComfyApi) -> Tracker:
    """What the client knows of its prompts; its socket is connected, and stays so."""
    found = api.parts.poller.tracker
    found.connection = SimpleNamespace(state=State.CONNECTED, generation=1)  # type: ignore[assignment]
    return found


def posted(api: ComfyApi, tracker: Tracker, prompt_id: str) -> tuple[Prompt, Job]:
    """A prompt whose submission has no answer yet, and its job."""
    one = tracker.new(prompt_id, {})
    one.state.generation = tracker.link
    job = Job(JobHandle(one, api, api.parts.poller))
    tracker.add(one, posting=True)
    return one, job


def event(name: str, prompt_id: str, **data: Any) -> Event:
    return FROM_SERVER[name]({"prompt_id": prompt_id, **data})


def test_the_end_of_a_prompt_that_has_become_one_with_another_is_reported_once() -> None:
    """Evidence may be about the one while the answer to the other says that they are the same."""
    ends = []
    api = ComfyApi("http://127.0.0.1:9", namespace=blinker.Namespace())
    api.on("execution_success", ends.append)
    poller = api.parts.poller
    tracker = poller.tracker
    attached, submitted = tracker.new("theirs", {}), tracker.new("ours", {})
    jobs = [Job(JobHandle(one, api, poller)) for one in (attached, submitted)]
    tracker.add(attached)
    tracker.add(submitted, posting=True)
    tracker.accept(submitted, QueuedPrompt("theirs"))
    tracker.end(attached, Outcome(success("theirs")))
    until(lambda: ends, LIMIT)
    assert [job.result(LIMIT).prompt_id for job in jobs] == ["theirs"] * 2
    api.close()
    assert len(ends) == 1


def test_events_that_nobody_reads_go_into_no_queue(api: ComfyApi, tracker: Tracker) -> None:
    """Nor is any asked more than once whether it ends the prompt."""
    one, job = posted(api, tracker, "ours")
    tracker.accept(one, QueuedPrompt("ours"))
    of_steps = [event("progress", "ours", node="1", value=step, max=200) for step in range(200)]
    of_prompt = [
        event("execution_start", "ours"),
        event("execution_cached", "ours", nodes=[]),
        event("executing", "ours", node="1"),
        *of_steps,
        event("executed", "ours", node="1", output={"images": []}),
        event("execution_success", "ours"),
        event("executing", "ours", node=None),
    ]
    called: Counter[CodeType] = Counter()
    sys.setprofile(lambda frame, what, _: called.update([frame.f_code] * (what == "call")))
    try:
        for each in of_prompt:
            tracker.handle(each)
    finally:
        sys.setprofile(None)
    assert job.result(LIMIT).prompt_id == "ours"
    assert called[Tracker.handle.__code__] == len(of_prompt)
    assert called[EventQueue.put.__code__] == 0
    assert called[EndEvent.is_end.fget.__code__] == 1  # type: ignore[attr-defined]  # a property


def test_of_two_verdicts_the_first_ends_a_prompt(api: ComfyApi, tracker: Tracker) -> None:
    """The socket and HTTP may both have reached one before either is written down."""
    one, job = posted(api, tracker, "ours")
    tracker.accept(one, QueuedPrompt("ours"))
    tracker.end(one, Outcome(success("ours")))
    tracker.end(one, Outcome(*lost("ours")))
    assert job.result(LIMIT).prompt_id == "ours"
    assert (api.stats().succeeded, api.stats().lost) == (1, 0)


def test_verdicts_of_two_threads_come_one_after_the_other(api: ComfyApi, tracker: Tracker) -> None:
    """The second finds the first written down."""
    one, job = posted(api, tracker, "ours")
    tracker.accept(one, QueuedPrompt("ours"))
    second = threading.Thread(target=lambda: tracker.end(one, Outcome(*lost("ours"))))

    def let_the_second_try(_: Event) -> None:
        second.start()
        second.join(0.2)

    one.events.sinks = (let_the_second_try,)
    tracker.end(one, Outcome(success("ours")))
    second.join(LIMIT)
    assert job.result(LIMIT).prompt_id == "ours"
    assert (api.stats().succeeded, api.stats().lost) == (1, 0)


def test_a_job_attached_to_an_ending_prompt_gets_its_end_after_receivers(
    api: ComfyApi, tracker: Tracker
) -> None:
    one, _ = posted(api, tracker, "ours")
    tracker.accept(one, QueuedPrompt("ours"))
    one.waiters.clear()  # nobody keeps the job
    early: list[bool] = []

    def attach_meanwhile(_: Event) -> None:
        attaching.start()
        attaching.join(0.1)
        early.append(not attaching.is_alive())

    ends: list[BaseException | None] = []
    line = SimpleNamespace(state=State.IDLE, start=lambda: None, client_id="ours", generation=0)
    tracker.connection = line  # type: ignore[assignment]
    attaching = threading.Thread(target=lambda: ends.append(api.job("ours").exception(LIMIT)))
    tracker.publish = attach_meanwhile
    tracker.end(one, Outcome(*lost("ours"), has_record=False))
    attaching.join(LIMIT)
    assert early == [False]
    assert isinstance(ends[0], JobLost)


def test_a_prompt_that_is_outstanding_keeps_its_id(tracker: Tracker) -> None:
    """Another one by the same id is refused."""
    one = tracker.new("ours", {})
    tracker.add(one)
    with pytest.raises(ValueError, match="outstanding already"):
        tracker.add(tracker.new("ours", {}))
    assert tracker.get("ours") is one


def test_events_under_an_id_that_is_not_known_yet_wait_for_all_answers(
    api: ComfyApi, tracker: Tracker
) -> None:
    """That one of two submissions is answered says nothing of the other."""
    first, _ = posted(api, tracker, "first")
    second, job = posted(api, tracker, "second")
    for name in ("execution_start", "execution_cached", "execution_success"):
        tracker.handle(event(name, "theirs"))
    tracker.accept(first, QueuedPrompt("first"))
    tracker.answered(first)
    tracker.accept(second, QueuedPrompt("theirs"))
    assert job.result(0).prompt_id == "theirs"


def test_events_wait_for_a_prompt_that_is_searched_for(api: ComfyApi, tracker: Tracker) -> None:
    """As its submission was interrupted, the server may have it under another id."""
    one, _ = posted(api, tracker, "ours")
    one.state.may_have_arrived(1.0)
    tracker.answered(one)
    for name in ("execution_start", "execution_cached", "execution_success"):
        tracker.handle(event(name, "theirs"))
    tracker.merge(one, "theirs")
    assert one.state.end_event is not None
    assert one.state.end_event.prompt_id == "theirs"


def test_no_event_waits_for_a_prompt_that_is_given_up(api: ComfyApi, tracker: Tracker) -> None:
    """Before its submission ends, or later."""
    for is_early in (True, False):
        one, _ = posted(api, tracker, "ours")
        one.state.may_have_arrived(1.0)
        for end in (
            (tracker.remove, tracker.answered) if is_early else (tracker.answered, tracker.remove)
        ):
            end(one)
    tracker.handle(event("execution_success", "later"))  # which is about none of them
    third, _ = posted(api, tracker, "third")
    tracker.accept(third, QueuedPrompt("later"))
    assert third.state.end_event is None


def test_an_event_of_another_client_costs_the_same_with_any_number_of_prompts(
    api: ComfyApi, tracker: Tracker
) -> None:
    """Those that wait for their ends are not looked at one by one."""
    costs = []
    for number in range(3):
        for each in range(number * 500):
            one, _ = posted(api, tracker, f"{number}.{each}")
            tracker.accept(one, QueuedPrompt(one.state.prompt_id))
            tracker.answered(one)
        tracker.handle(event("executing", "theirs", node="1"))
        handle = partial(tracker.handle, event("executing", "theirs", node="1"))
        costs.append(points_of(handle, everywhere=True))
    assert len(tracker.outstanding) == 1500
    assert costs[1:] == costs[1:2] * 2


def test_more_events_than_are_kept_for_an_unknown_id_leave_the_end_to_the_record(
    api: ComfyApi, tracker: Tracker
) -> None:
    """One that was dropped may have been an output."""
    one, job = posted(api, tracker, "ours")
    tracker.handle(event("executed", "theirs", node="9", output={"text": ["dropped"]}))
    for _ in range(ORPHANS):
        tracker.handle(event("progress", "theirs", value=1, max=2, node="1"))
    for name in ("execution_start", "execution_cached", "execution_success"):
        tracker.handle(event(name, "theirs"))
    tracker.accept(one, QueuedPrompt("theirs"))
    assert one.state.awaits_history
    assert not job.done()


def test_prompts_of_an_older_client_id_are_asked_about_when_the_queue_moves(
    api: ComfyApi, tracker: Tracker
) -> None:
    """Their events go nowhere, so a change of its length is all that the socket says."""
    one, _ = posted(api, tracker, "ours")
    tracker.accept(one, QueuedPrompt("ours"))
    tracker.client_id_changed()
    before = one.state.check_at
    tracker.handle(StatusEvent(name="status", raw={}, queue_remaining=1))
    assert one.state.check_at < before


def test_a_prompt_that_has_ended_becomes_one_with_no_other(api: ComfyApi, tracker: Tracker) -> None:
    """A look-up may find its other id when it is over."""
    one, _ = posted(api, tracker, "ours")
    tracker.accept(one, QueuedPrompt("ours"))
    tracker.end(one, Outcome(success("ours")))
    other = tracker.new("theirs", {})
    tracker.add(other)
    tracker.merge(one, "theirs")
    assert one.state is not other.state
    assert api.stats().submitted == 1


def test_the_end_of_a_prompt_waits_for_the_answer_to_its_submission(
    api: ComfyApi, tracker: Tracker
) -> None:
    """Which says what of it does not run."""
    one, job = posted(api, tracker, "ours")
    tracker.end(one, Outcome(success("ours")))
    assert not job.done()
    tracker.accept(one, QueuedPrompt("ours", node_errors={"7": {"errors": []}}))
    assert job.result(0).node_errors == {"7": {"errors": []}}


@pytest.mark.parametrize(
    "failure", [SubmitUncertain("no answer", prompt_id="ours"), UnexpectedResponse("a page")]
)
def test_a_prompt_that_has_begun_is_not_refused(
    api: ComfyApi, tracker: Tracker, failure: Exception
) -> None:
    """Neither silence nor a proxy's page says that the server has not taken it."""
    one, _ = posted(api, tracker, "ours")
    tracker.handle(event("execution_start", "ours"))
    assert not tracker.refuse(one, failure)
    assert tracker.outstanding == (one,)
    assert api.stats().refused == 0


def test_a_submission_that_fails_as_its_client_closes_counts_once(
    api: ComfyApi, tracker: Tracker
) -> None:
    one, _ = posted(api, tracker, "ours")
    tracker.end(one, ClientClosed())
    assert tracker.refuse(one, ClientClosed())
    stats = api.stats()
    assert (stats.submitted, stats.unknown, stats.refused) == (1, 1, 0)


def test_a_client_that_closes_as_a_submission_fails_counts_it_once(
    api: ComfyApi, tracker: Tracker
) -> None:
    one, _ = posted(api, tracker, "ours")
    assert tracker.refuse(one, ClientClosed())
    tracker.end(one, ClientClosed())
    stats = api.stats()
    assert (stats.submitted, stats.unknown, stats.refused) == (0, 0, 1)


def test_a_preview_without_an_id_is_of_no_prompt_that_an_older_socket_named(
    api: ComfyApi, tracker: Tracker
) -> None:
    """That one may have ended while there was no socket."""
    heard: list[Any] = []
    tracker.publish = heard.append
    posted(api, tracker, "ours")
    preview = PreviewEvent(name="b_preview", mime="image/png", view=memoryview(b"..."))
    tracker.handle(event("executing", "ours", node="1"))
    tracker.handle(preview)
    tracker.connection_changed(ConnectionEvent(name="reconnected"))
    tracker.handle(preview)
    previews = [one for one in heard if isinstance(one, PreviewEvent)]
    assert [one.prompt_id for one in previews] == ["ours", None]


def test_no_job_is_given_up_for_the_memory_that_receivers_hold(
    api: ComfyApi, tracker: Tracker
) -> None:
    one, job = posted(api, tracker, "ours")
    tracker.accept(one, QueuedPrompt("ours"))
    queue = EventQueue(budget=tracker.budget)
    queue.put(attrs.evolve(event("execution_start", "theirs"), nbytes=2000))
    queue.get(0)  # in hand, it does not give way
    tracker.budget.most = 1000
    tracker.handle(event("execution_start", "ours"))
    assert not job.done()
    assert tracker.outstanding == (one,)


def test_a_closed_client_follows_no_prompt(api: ComfyApi, tracker: Tracker) -> None:
    """One that another thread attaches to at that moment would never end."""
    api.close()
    with pytest.raises(ClientClosed):
        posted(api, tracker, "late")


def test_a_prompt_that_has_ended_is_stopped_no_more(api: ComfyApi, tracker: Tracker) -> None:
    """Nor is it kept."""
    one, _ = posted(api, tracker, "ours")
    stops = api.parts.poller.stops
    stops.watch(one)
    stops.repeat()
    assert stops.has(one)
    tracker.end(one, Outcome(success("ours")))
    stops.repeat()
    assert not stops.has(one)


def test_a_prompt_that_ended_before_it_was_renamed_is_followed_no_more(
    api: ComfyApi, tracker: Tracker
) -> None:
    """By neither id."""
    one, job = posted(api, tracker, "ours")
    tracker.end(one, Outcome(success("ours")))
    tracker.accept(one, QueuedPrompt("theirs"))
    assert tracker.outstanding == ()
    assert job.done()


def test_a_prompt_that_was_attached_before_its_answer_counts_once(
    api: ComfyApi, tracker: Tracker
) -> None:
    """By an id that the server chose, which another thread found in the queue."""
    found = tracker.new("theirs", {})
    tracker.ledger.count(found.state, "attached")
    tracker.add(found)
    one, _ = posted(api, tracker, "ours")
    tracker.accept(one, QueuedPrompt("theirs"))
    stats = api.stats()
    assert (stats.submitted, stats.attached, stats.outstanding) == (1, 0, 1)


@pytest.mark.parametrize("ends_first", [True, False])
def test_a_second_end_of_a_prompt_is_not_published(
    api: ComfyApi, tracker: Tracker, ends_first: bool
) -> None:
    """Whether its id is known yet, or only once its submission is answered."""
    ends: list[Event] = []
    api.on("execution_success", ends.append)
    one, _ = posted(api, tracker, "ours")
    if not ends_first:
        tracker.accept(one, QueuedPrompt("theirs"))
    for _ in range(2):
        tracker.handle(event("execution_success", "theirs"))
    if ends_first:
        tracker.accept(one, QueuedPrompt("theirs"))
    until(lambda: ends, LIMIT)
    api.parts.receivers.flush(LIMIT)
    assert len(ends) == 1


def test_a_length_of_the_queue_that_has_not_changed_is_no_event() -> None:
    lengths = [2, 2, 1, 1]
    heard: list[Event] = []

    class Told(ComfyApi):
        def poll_status(self, timeout: float = 1.0) -> QueueStatus:
            return QueueStatus(queue_remaining=lengths.pop(0))

    with contextlib.closing(Told("http://127.0.0.1:9", namespace=blinker.Namespace())) as api:
        api.parts.receivers.on("status", heard.append, once=False)
        while lengths:
            api.parts.tracker.poll_queue()
        api.parts.receivers.flush(LIMIT)
    assert [one.queue_remaining for one in heard if isinstance(one, StatusEvent)] == [2, 1]


def test_a_published_end_stays_when_another_job_of_the_prompt_ends(
    api: ComfyApi, tracker: Tracker
) -> None:
    """It was given up, as the server was out of reach, and then it ends well."""
    ends: list[Event] = []
    api.on("all", lambda event: ends.append(event) if event.is_end else None)
    one, _ = posted(api, tracker, "ours")
    tracker.accept(one, QueuedPrompt("ours"))
    told, error = lost("ours")
    tracker.end(one, Outcome(told, error, has_record=False, is_final=False))
    again = tracker.new("ours", {})
    again.state.attach(0.0, None, None)
    job = Job(JobHandle(again, api, api.parts.poller))
    tracker.add(again)
    tracker.end(again, Outcome(success("ours")))
    assert job.result(LIMIT).prompt_id == "ours"
    api.parts.receivers.flush(LIMIT)
    assert [event.name for event in ends] == ["job_lost"]


@pytest.mark.parametrize("way", ["ends", "is ours", "is given up"])
def test_a_prompt_that_was_attached_costs_no_work_afterwards(
    api: ComfyApi, tracker: Tracker, way: str
) -> None:
    """At each change of the queue, those that are attached are looked through."""

    def work() -> int:
        return lines(lambda: tracker.handle(StatusEvent(name="status", queue_remaining=1)))

    posted(api, tracker, "another")
    work()
    before = work()
    attached = tracker.new("theirs", {})
    attached.state.attached = True
    tracker.add(attached)
    assert work() > before
    if way == "ends":
        tracker.end(attached, Outcome(success("theirs")))
    elif way == "is ours":
        one, _ = posted(api, tracker, "ours")
        tracker.accept(one, QueuedPrompt("theirs"))
    else:
        tracker.remove(attached)
    assert work() == before


def test_a_job_of_a_closed_client_is_not_cancelled(api: ComfyApi, tracker: Tracker) -> None:
    """It says so, and asks nobody."""
    one, job = posted(api, tracker, "ours")
    one.state.posted_at = 1.0
    tracker.accept(one, QueuedPrompt("ours"))
    api.close()
    assert job.done()
    assert not job.cancel()


def test_when_ended_calls_back_after_the_end_too(api: ComfyApi, tracker: Tracker) -> None:
    """Whoever comes late, as between a look and the call, waits for nothing."""
    one, job = posted(api, tracker, "ours")
    tracker.accept(one, QueuedPrompt("ours"))
    called: list[str] = []
    job.handle.when_ended(lambda: called.append("before"))
    tracker.end(one, Outcome(success("ours")))
    assert called == ["before"]
    job.handle.when_ended(lambda: called.append("after"))
    assert called == ["before", "after"]


def test_the_wait_before_a_bar_is_drawn_is_no_longer_than_one_without_news(
    api: ComfyApi, tracker: Tracker
) -> None:
    _, job = posted(api, tracker, "ours")
    with quickly():
        assert not job.handle.ends_within(Limits(stall_timeout=0.01), 10 * LIMIT)
