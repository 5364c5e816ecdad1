"""The thread that delivers events: its queue, ``flush``, its start and its end."""

from __future__ import annotations

import gc
import math
import queue
import threading
import time
import weakref
from typing import Any

import pytest

from comfy_client import ComfyApi
from comfy_client.event_queue import HIGH_WATER, MAX_QUEUED
from comfy_client.events import (
    Event,
    ExecutionSuccess,
)
from comfy_client.testing import ComfyServer
from tests.helpers.clients import until
from tests.helpers.events import drained, mine, note, progress
from tests.helpers.interrupts import fail_next_start
from tests.helpers.station import LIMIT, Station
from tests.helpers.work import check_growth


class Gate:
    """A callback that waits until it is let go, so that events gather behind it."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.free = threading.Event()

    def __call__(self, *_: object) -> None:
        self.entered.set()
        assert self.free.wait(LIMIT)


# -- the queue under pressure --------------------------------------------------------------


def test_drops_of_an_unread_iterator_are_counted(station: Station) -> None:
    """Beside what receivers were too slow for, and when it is gone, too."""
    events = station.receivers.events(station.receivers.subscribe("notification"))
    station.publish(note())
    next(events)
    for value in range(MAX_QUEUED + 5):
        station.publish(note(value))
    assert station.receivers.dropped == 5
    del events
    gc.collect()
    assert station.receivers.dropped == 5


def test_the_cost_of_an_event_grows_with_the_number_of_callbacks_only(station: Station) -> None:
    """Not with its square."""
    calls: list[Event] = []

    def with_more(count: int) -> int:
        added.extend(station.on("mine", calls.append) for _ in range(count - len(added)))
        return count

    def deliver(count: int) -> None:
        calls.clear()
        station.receivers.deliver(mine(0))
        assert len(calls) == count

    added: list[object] = []
    check_growth(deliver, with_more, 500)


def test_a_slow_receiver_never_delays_the_publisher(station: Station) -> None:
    """Publishing goes on while it sleeps; afterwards the newest and all ends come."""
    gate = Gate()
    got: list[Any] = []
    station.on("notification", gate)
    station.on("all", got.append)
    station.publish(note())
    assert gate.entered.wait(LIMIT)
    put: list[Any] = []
    start = time.monotonic()
    for value in range(20_000):
        put.append(progress(value))
        station.publish(put[-1])
        if value % 1000 == 0:
            put.append(ExecutionSuccess(name="execution_success", prompt_id=str(value)))
            station.publish(put[-1])
    assert time.monotonic() - start < LIMIT
    assert not gate.free.is_set()
    assert station.receivers.dropped > 19_000
    gate.free.set()
    station.flush()
    assert put[-1] in got
    ends = [event.prompt_id for event in got if event.name == "execution_success"]
    assert ends == [str(value) for value in range(0, 20_000, 1000)]
    assert len(got) + station.receivers.dropped == len(put) + 1


# -- flush ---------------------------------------------------------------------------------


def test_flush_returns_when_all_before_has_been_delivered(station: Station) -> None:
    """Also when that gave way to newer events meanwhile."""
    gate = Gate()
    got: list[Any] = []
    station.on("progress", got.append)
    station.on("notification", gate)
    station.publish(note())
    assert gate.entered.wait(LIMIT)
    for value in range(HIGH_WATER - 1):
        station.publish(progress(value))
    flushed = threading.Event()

    def flush() -> None:
        station.flush()
        flushed.set()

    thread = threading.Thread(target=flush)
    thread.start()
    for value in range(1000):
        station.publish(progress(value))
    assert not flushed.is_set()
    gate.free.set()
    assert flushed.wait(LIMIT)
    thread.join(LIMIT)
    station.flush()
    assert got[-1].value == 999


def test_flush_is_bounded_and_ends_with_the_client(station: Station) -> None:
    """A receiver that never returns costs the given time, and nothing after close."""
    gate = Gate()
    station.on("notification", gate)
    station.publish(note())
    assert gate.entered.wait(LIMIT)
    start = time.monotonic()
    station.receivers.flush(0.05)
    assert time.monotonic() - start < LIMIT
    station.receivers.close()
    station.flush()
    assert not gate.free.is_set()
    gate.free.set()


def test_flush_from_inside_a_receiver_returns_at_once(station: Station) -> None:
    """It would wait for itself."""
    took: list[float] = []

    def callback(event: Any) -> None:
        start = time.monotonic()
        station.flush()
        took.append(time.monotonic() - start)

    station.on("notification", callback)
    for _ in range(3):
        station.publish(note())
    station.flush()
    assert len(took) == 3
    assert max(took) < LIMIT / 2


# -- the thread ----------------------------------------------------------------------------


def test_no_thread_starts_and_nothing_is_kept_while_nobody_listens(station: Station) -> None:
    """The first receiver starts it; before, an event costs two look-ups."""
    station.on("status", print)
    for value in range(100):
        station.publish(note(value))
    assert station.receivers.thread is None
    got: list[Any] = []
    station.on("notification", got.append)
    station.publish(note("heard"))
    station.flush()
    assert [event.value for event in got] == ["heard"]
    assert station.receivers.thread is not None
    assert station.receivers.thread.daemon


def test_a_thread_that_could_not_start_is_started_by_the_next_event(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for it until then, and the events that came before are not lost."""
    got: list[Any] = []
    station.on("notification", got.append)
    fail_next_start(monkeypatch, RuntimeError("can't start new thread"))
    station.publish(note("before"))
    begun = time.monotonic()
    station.flush()
    assert time.monotonic() - begun < LIMIT / 2
    station.publish(note("after"))
    station.flush()
    assert [event.value for event in got] == ["before", "after"]


def test_all_receivers_run_in_one_thread_that_is_not_the_publishers(station: Station) -> None:
    """One after the other: receivers need no locks among themselves."""
    seen: set[threading.Thread] = set()

    def receiver(*args: Any) -> None:
        seen.add(threading.current_thread())

    station.on("all", receiver)
    station.connect("notification", receiver)
    threads = [threading.Thread(target=station.publish, args=(note(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    station.flush()
    assert seen == {station.receivers.thread}


def test_close_ends_delivery(station: Station) -> None:
    """What still waited is dropped, and the thread ends, also when a callback closes."""
    got: list[Any] = []

    def callback(event: Any) -> None:
        got.append(event.value)
        station.receivers.close()

    station.on("notification", callback)
    for value in range(10):
        station.publish(note(value))
    thread = station.receivers.thread
    assert thread is not None
    thread.join(LIMIT)
    assert not thread.is_alive()
    station.publish(note())
    assert got == ["0"]


def test_a_forgotten_client_ends_its_delivery_thread(comfy: ComfyServer) -> None:
    """Though a callback closes over it: no thread holds it strongly."""

    def forget() -> tuple[weakref.ref[ComfyApi], threading.Thread]:
        api = ComfyApi(comfy.url)
        called: queue.Queue[threading.Thread] = queue.Queue()
        api.on("status", lambda event: (api.client_id, called.put(threading.current_thread())))
        return weakref.ref(api), called.get(timeout=LIMIT)

    watched, thread = forget()
    until(lambda: (gc.collect(), watched() is None)[1])
    thread.join(LIMIT)
    assert not thread.is_alive()


def test_the_child_of_a_fork_has_its_own_queue_and_locks(station: Station) -> None:
    """Those of the parent may be held for ever; who listens still listens."""
    got: list[Any] = []
    station.on("notification", got.append)
    tap = station.receivers.subscribe("notification")
    station.publish(note("before"))
    station.flush()
    parent, lock = station.receivers._queue, station.receivers._lock
    with lock, parent._changed, tap._changed:
        # As in the child of a fork during which another thread was in the middle of it all.
        child = threading.Thread(target=station.receivers.reset)
        child.start()
        child.join(LIMIT)
        assert not child.is_alive()
        publisher = threading.Thread(target=station.publish, args=(note("after"),))
        publisher.start()
        publisher.join(LIMIT)
        assert not publisher.is_alive()
    station.flush()
    parent.close()
    assert [event.value for event in got] == ["before", "after"]
    assert [event.value for event in drained(tap)] == ["after"]


# -- those who are called by time ----------------------------------------------------------


class Ticking:
    """Is called again after each of these pauses."""

    def __init__(self, *pauses: float) -> None:
        self.pauses = list(pauses)
        self.at: list[float] = []

    def tick(self) -> float:
        self.at.append(time.monotonic())
        return self.pauses.pop(0) if self.pauses else math.inf


def test_handed_over_events_are_called_in_their_turn(station: Station) -> None:
    """Between receivers; ``flush`` waits for it."""
    calls: list[Any] = []
    station.on("mine", calls.append)
    to = Ticking()
    first, last = mine(1), mine(2)
    station.publish(first)
    station.receivers.hand(to, lambda: calls.append("handed") or math.inf)
    station.publish(last)
    station.flush()
    assert calls == [first, "handed", last]
    assert to.at == []


def test_ticks_come_in_time_and_no_more_often(station: Station) -> None:
    """Also while no event comes; each at its own time."""
    often, seldom = Ticking(*[0.02] * 5), Ticking(0.3)
    start = time.monotonic()
    station.receivers.hand(often, lambda: 0.02)
    station.receivers.hand(seldom, lambda: 0.1)
    until(lambda: len(often.at) == 6 and len(seldom.at) == 2, LIMIT)
    assert seldom.at[0] - start >= 0.1
    assert seldom.at[1] - seldom.at[0] >= 0.3
    assert often.at[-1] - often.at[0] >= 0.1
    station.publish(mine(1))
    station.flush()
    assert (len(often.at), len(seldom.at)) == (6, 2)


def test_a_tick_that_raises_is_logged_once(
    station: Station, caplog: pytest.LogCaptureFixture
) -> None:
    """A defect of ours harms nobody else."""

    class Broken:
        def tick(self) -> float:
            raise ValueError("broken")

    calls: list[Event] = []
    station.on("mine", calls.append)
    station.receivers.hand(Broken(), lambda: 0.0)
    until(lambda: "broken" in caplog.text, LIMIT)
    station.publish(mine(1))
    station.flush()
    assert len(calls) == 1
    assert caplog.text.count("ValueError: broken") == 1
