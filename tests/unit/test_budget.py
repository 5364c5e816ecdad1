"""The budget of a client: who gives way when events and outputs need more memory than there is."""

from __future__ import annotations

import contextlib

import attrs
import pytest

from comfy_client import ComfyApi
from comfy_client.event_queue import LARGE, LEAST, Budget, EventQueue, Newest, Share
from comfy_client.events import (
    Event,
    Executed,
    ExecutionSuccess,
    PreviewEvent,
    UnknownEvent,
    body_of,
)
from tests.helpers.events import drained
from tests.helpers.processes import in_child

MIB = 1 << 20


def big(name: str, nbytes: int) -> UnknownEvent:
    return UnknownEvent(name=name, nbytes=nbytes)


def test_the_queue_that_holds_most_drops_and_a_reader_loses_nothing() -> None:
    """An iterator that nobody reads takes no room from a receiver that keeps up."""
    budget = Budget(1000)
    unread, read = EventQueue(budget=budget), EventQueue(budget=budget)
    for number in range(1000):
        unread.put(big("mine", 100))
        read.put(event := big(f"{number}", 50))
        assert read.get(0) is event
    assert read.dropped == 0
    assert unread.dropped > 900
    assert budget.used <= budget.most


def test_a_collected_or_closed_queue_gives_its_bytes_back() -> None:
    """As the next count finds out; an event in hand counts until the next one is asked for."""
    budget = Budget(1000)
    queue, other = EventQueue(budget=budget), EventQueue(budget=budget)
    queue.put(big("mine", 800))
    queue.get(0)
    assert budget.used == 800
    queue.get(0)
    assert budget.used == 0
    queue.put(big("mine", 800))
    del queue
    other.put(big("mine", 800))
    assert (other.dropped, budget.used) == (0, 800)
    other.close()
    assert budget.used == 0


def test_shares_of_jobs_come_before_queued_events() -> None:
    """They cannot give way, so it is told that it does not fit."""
    budget = Budget(1000)
    queue, share = EventQueue(budget=budget), Share(budget)
    queue.put(Executed(name="executed", nbytes=900))
    share.keep("9", 500)
    assert budget.relieve()
    assert queue.dropped == 1
    share.keep("7", 400)
    share.keep("8", 300)
    share.keep("8", 200)
    assert share.nbytes == 1100
    assert not budget.relieve()
    share.free()
    assert budget.used == 0


def final(nbytes: int) -> PreviewEvent:
    view = memoryview(b"x" * nbytes)
    return PreviewEvent(name="b_preview", final=True, view=view, nbytes=nbytes)


def test_a_shared_event_counts_once_until_its_last_holder_drops_it() -> None:
    """A copy of an event has the same bytes."""
    budget = Budget(MIB)
    one, other, share = EventQueue(budget=budget), EventQueue(budget=budget), Share(budget)
    event = final(4 * LARGE)
    one.put(event)
    other.put(attrs.evolve(event, name="b_preview_with_metadata"))
    share.keep(0, event.nbytes, body_of(event))
    assert budget.used == event.nbytes
    share.free()
    other.close()
    assert budget.used == event.nbytes
    one.get(0)
    assert budget.used == event.nbytes  # in hand
    one.get(0)
    assert budget.used == 0


def test_events_of_a_job_are_dropped_only_where_that_frees_memory() -> None:
    """What others hold gives way, in each of their queues alike."""
    budget = Budget(64 * LARGE)
    one, other, share = EventQueue(budget=budget), EventQueue(budget=budget), Share(budget)
    for number in range(100):
        event: Event = big("mine", LARGE)
        if number < 40:
            event = final(LARGE)
            share.keep(number, event.nbytes, body_of(event))
        one.put(event)
        other.put(event)
        assert budget.used <= budget.most
    for queue in (one, other):
        got = [queue.get(0) for _ in range(100 - queue.dropped)]
        assert sum(isinstance(event, PreviewEvent) for event in got) == 40
        assert got[-1] is event
    assert one.dropped == other.dropped >= 36


def test_of_equal_pictures_those_are_dropped_that_no_job_keeps() -> None:
    """Though they are newer."""
    budget = Budget(16 * LARGE)
    queue, share = EventQueue(budget=budget), Share(budget)
    kept = [final(LARGE) for _ in range(6)]
    for number, event in enumerate(kept):
        share.keep(number, event.nbytes, body_of(event))
        queue.put(event)
    for _ in range(20):
        queue.put(final(LARGE))
    assert queue.dropped
    assert [queue.get(0) for _ in kept] == kept


def test_of_what_is_remembered_the_oldest_is_forgotten() -> None:
    """By number, and by bytes."""
    known: Newest[str] = Newest(3, 10 * LEAST)
    for number in range(5):
        known.put(number, f"value {number}")
    assert known.values() == ["value 2", "value 3", "value 4"]
    known.put(2, "again")
    known.put(5, "large", 8 * LEAST)
    assert known.values() == ["again", "large"]
    assert known.get(2) == "again"
    known.append("no key")
    known.append("nor this")
    assert known.values() == ["no key", "nor this"]
    assert (known.nbytes, known.forgotten) == (2 * LEAST, 6)
    known.clear()
    assert (len(known), known.nbytes, known.forgotten) == (0, 0, 0)


def test_important_events_are_dropped_last_from_any_queue() -> None:
    """A small queue of news loses none while another has what nobody misses."""
    budget = Budget(100 * MIB)
    news, noise = EventQueue(budget=budget), EventQueue(budget=budget)
    share = Share(budget)
    share.keep("outputs", 95 * MIB)  # so that seven eighths are out of reach
    for number in range(10):
        news.put(ExecutionSuccess(name="execution_success", prompt_id=str(number), nbytes=MIB // 8))
        noise.put(UnknownEvent(name="other", nbytes=MIB // 2))
    assert news.dropped == 0
    assert 0 < noise.dropped < 10


# -- after a fork ---------------------------------------------------------------------------


class Stuck:
    """Holds something behind a lock that a thread of the parent has taken for ever."""

    nbytes = own = 1 << 30

    def give_way(self, nbytes: int, rank: int) -> int:
        raise AssertionError("asked in the child of a fork, where it would hang")


def test_after_a_fork_nobody_waits_for_what_the_parents_threads_held() -> None:
    """Their frames live on in the child, and so do queues with locks that nobody gives back."""
    budget, stuck = Budget(1 << 20), Stuck()
    budget.join(stuck)
    events = EventQueue(budget=budget)
    events.put(UnknownEvent(name="before", nbytes=900))
    budget.after_fork()
    assert budget.used == 0
    events.reset()
    after = UnknownEvent(name="after", nbytes=900)
    events.put(after)
    assert budget.relieve()
    assert budget.used >= 900  # of a queue that is used again
    assert drained(events) == [after]


@pytest.mark.posix("forks")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_child_of_a_fork_has_a_budget_of_its_own() -> None:
    """A client that was forked asks no holder of its parent."""
    with contextlib.closing(ComfyApi("http://127.0.0.1:1")) as api:
        stuck = Stuck()
        budget = api.parts.tracker.budget
        budget.join(stuck)
        assert in_child(budget.relieve) == "True"
