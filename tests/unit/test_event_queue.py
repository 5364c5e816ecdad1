"""What waits for another thread: its order, what gives way, and when it is done with."""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Callable

import pytest

from comfy_client.event_queue import (
    HIGH_WATER,
    MAX_BYTES,
    MAX_QUEUED,
    Addressed,
    Budget,
    EventQueue,
    Share,
)
from comfy_client.events import (
    ConnectionEvent,
    Event,
    Executed,
    ExecutionSuccess,
    PreviewEvent,
    ProgressState,
    StatusEvent,
)
from tests.helpers.clients import until
from tests.helpers.events import drained, mine, note, progress

LIMIT = 60.0  # seconds that any wait in here may take


def test_without_pressure_nothing_is_left_out() -> None:
    """A burst is delivered whole."""
    events = EventQueue()
    put = [progress(value) for value in range(HIGH_WATER)]
    for event in put:
        events.put(event)
    assert drained(events) == put
    assert events.dropped == 0


@pytest.mark.parametrize(
    "make",
    [
        progress,
        lambda value: PreviewEvent(name="b_preview", node_id="3", raw=value),
        lambda value: PreviewEvent(name="b_preview_with_metadata", node_id="3", raw=value),
        lambda value: ProgressState(name="progress_state", prompt_id="p", raw=value),
        lambda value: StatusEvent(name="status", queue_remaining=value),
    ],
)
def test_under_pressure_the_newest_of_a_kind_wins(make: Callable[[int], Event]) -> None:
    """At most a crowd waits, the last one is always there, and the rest is counted."""
    events = EventQueue()
    put = [make(value) for value in range(1000)]
    for event in put:
        events.put(event)
    got = drained(events)
    assert len(got) <= HIGH_WATER
    assert got == put[-len(got) :]
    assert events.dropped == 1000 - len(got)


def test_under_pressure_each_node_keeps_its_newest() -> None:
    """Nodes, names and prompts do not displace each other; the order never changes."""
    events = EventQueue()
    put: list[Event] = []
    for value in range(500):
        put += [progress(value, node) for node in ("1", "2")]
        put += [progress(value, "1", "other")]
        put += [PreviewEvent(name="b_preview", node_id=node, raw=value) for node in ("1", "2")]
        put += [PreviewEvent(name="b_preview_with_metadata", node_id="1", raw=value)]
    for event in put:
        events.put(event)
    got = drained(events)
    assert set(map(id, put[-6:])) <= set(map(id, got))
    numbers = [put.index(event) for event in got]
    assert numbers == sorted(numbers)
    assert len(got) + events.dropped == len(put)


def test_outputs_ends_and_final_pictures_come_whatever_else_waits() -> None:
    """In their order; what matters less makes room for them, and is counted."""
    events = EventQueue()
    must: list[Event] = []
    for value in range(MAX_QUEUED // 4):
        group: list[Event] = [
            PreviewEvent(name="b_preview", node_id="9", final=True),
            Executed(name="executed", prompt_id=str(value)),
            ExecutionSuccess(name="execution_success", prompt_id=str(value)),
        ]
        must += group
        for event in group:
            events.put(event)
        events.put(progress(value))
        for _ in range(3):
            events.put(mine(value))
    must.append(ConnectionEvent(name="disconnected"))
    events.put(must[-1])
    got = drained(events)
    kept = set(map(id, must))
    assert [event for event in got if id(event) in kept] == must
    assert len(got) <= MAX_QUEUED
    assert len(got) + events.dropped == len(must) + MAX_QUEUED


def test_an_unread_queue_is_bounded_and_keeps_the_newest() -> None:
    """Of outputs too; the end of a prompt goes last of all."""
    events = EventQueue()
    ends, outputs = [], []
    for value in range(MAX_QUEUED // 2):
        ends.append(ExecutionSuccess(name="execution_success", prompt_id=str(value)))
        outputs += [Executed(name="executed", prompt_id=str(value)) for _ in range(5)]
        for event in (*outputs[-5:], ends[-1]):
            events.put(event)
    got = drained(events)
    assert len(got) <= MAX_QUEUED
    assert [event for event in got if isinstance(event, ExecutionSuccess)] == ends
    left = [event for event in got if isinstance(event, Executed)]
    assert left == outputs[-len(left) :]
    assert left
    assert len(got) + events.dropped == 3 * MAX_QUEUED
    for _ in range(3 * MAX_QUEUED):
        events.put(ends[0])
    assert len(drained(events)) <= MAX_QUEUED


def test_the_bytes_that_wait_are_bounded_too() -> None:
    """The oldest go, and one that is larger than all that may wait."""

    def picture(value: int, nbytes: int) -> Event:
        return PreviewEvent(name="b_preview", final=True, raw=value, nbytes=nbytes)

    events = EventQueue()
    put = [picture(value, MAX_BYTES // 50) for value in range(500)]
    for event in put:
        events.put(event)
    got = drained(events)
    assert 25 < len(got) <= 50
    assert got == put[-len(got) :]
    assert events.dropped == 500 - len(got)
    events.put(picture(0, 2 * MAX_BYTES))
    events.put(put[0])
    assert drained(events) == put[:1]


def test_made_up_events_are_bounded() -> None:
    """Unknown names, names in a wrong form, and nodes without end."""
    events = EventQueue()
    for value in range(MAX_QUEUED):
        events.put(mine(value))
        events.put(mine(value, "execution_success"))
        events.put(mine(value, "status"))
        events.put(progress(value, node=str(value)))
    assert events.dropped == 3 * MAX_QUEUED
    assert len(drained(events)) == MAX_QUEUED
    assert not events._of_kind


def test_a_message_in_a_wrong_form_displaces_no_real_one() -> None:
    """A ``status`` that is no status is not its newest."""
    events = EventQueue()
    for value in range(HIGH_WATER + 1):
        events.put(note(value))
    status = StatusEvent(name="status", queue_remaining=1)
    events.put(status)
    events.put(mine(0, "status"))
    assert status in drained(events)


def test_flush_does_not_wait_for_what_comes_later() -> None:
    """It ends as soon as the older events are done with, though newer ones wait."""
    events = EventQueue()
    events.put(note(1))
    assert events.get() is not None
    done: queue.Queue[bool] = queue.Queue()
    thread = threading.Thread(target=lambda: done.put(events.flush(LIMIT)))
    thread.start()
    until(lambda: events._changed._waiters)  # type: ignore[attr-defined]
    events.put(note(2))
    assert done.empty()
    assert events.get() is not None  # the first is done with, the second in hand
    assert done.get(timeout=LIMIT)
    thread.join(LIMIT)
    assert not events.flush(0.01)
    events.get(0)
    assert events.flush(0)


class Reader:
    """One of those who share a queue."""

    def tick(self) -> float:
        raise AssertionError("nobody reads here")


def addressed(to: Reader, event: Event | None) -> Addressed:
    nbytes = 0 if event is None else event.nbytes
    return Addressed(name="", nbytes=nbytes, to=to, call=to.tick, event=event)


def test_addressed_events_give_way_to_newer_ones_for_the_same_reader() -> None:
    """As the event itself would; words without an event stay, whatever else waits."""
    events = EventQueue()
    one, other = Reader(), Reader()
    words = [addressed(one, None) for _ in range(50)]
    for word in words:
        events.put(word)
    put = [addressed(to, progress(value)) for value in range(1000) for to in (one, other)]
    for event in put:
        events.put(event)
    for value in range(MAX_QUEUED):
        events.put(note(value))
    got = drained(events)
    assert got[: len(words)] == words
    kept = [event for event in got if event in put]
    assert kept[-2:] == put[-2:]
    assert len(kept) <= 2 * HIGH_WATER


def test_an_event_that_is_addressed_to_many_counts_once() -> None:
    """Its bytes are shared."""
    budget = Budget(MAX_BYTES)
    events = EventQueue(budget=budget)
    picture = memoryview(bytes(1 << 20))
    event = PreviewEvent(name="b_preview", view=picture, nbytes=1 << 20, final=True)
    for _ in range(20):
        events.put(addressed(Reader(), event))
    assert budget.used < 2 << 20


def test_a_holder_that_is_collected_is_forgotten_without_a_call_of_python() -> None:
    """A Ctrl-C in a callback of a weak reference would be swallowed."""
    budget = Budget(1 << 20)
    share = Share(budget)
    calls: list[str] = []
    sys.setprofile(lambda frame, event, _: calls.append(f"{event} {frame.f_code.co_name}"))
    try:
        del share
    finally:
        sys.setprofile(None)
    assert [call for call in calls if call.startswith("call")] == []
    assert budget.relieve()


def test_putting_an_event_notifies_no_condition_while_none_waits() -> None:
    """An event that nobody waits for takes no call of the condition, nor does its reader."""
    events = EventQueue()
    calls: list[str] = []
    sys.setprofile(lambda frame, event, _: calls.append(f"{event} {frame.f_code.co_name}"))
    try:
        for value in range(10):
            events.put(progress(value))
        while events.get(0) is not None:
            pass
    finally:
        sys.setprofile(None)
    assert calls.count("call put") == 10
    assert "call notify_all" not in calls
