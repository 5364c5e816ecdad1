"""Subscriptions: ``on`` and ``off``, ``wait_for`` and ``events``."""

from __future__ import annotations

import contextlib
import gc
import threading
from typing import Any

import pytest

from comfy_client import ClientClosed, ComfyApi
from comfy_client.events import (
    StatusEvent,
)
from comfy_client.testing import ComfyServer
from tests.helpers.clients import threads
from tests.helpers.events import note
from tests.helpers.interrupts import in_time
from tests.helpers.station import LIMIT, Box, Station

# -- on and off ----------------------------------------------------------------------------


def test_off_removes_exactly_one_subscription_of_that_pair(station: Station) -> None:
    """The oldest of that name and callback; others stay."""
    box = Box()
    got = box.got

    def callback(event: Any) -> None:
        got.append(event)

    for name in ("notification", "notification", "status"):
        station.on(name, callback)
    off = station.receivers.off
    assert off("notification", callback)
    station.publish(note())
    station.flush()
    assert len(got) == 1
    assert off("notification", callback)
    assert not off("notification", callback)
    assert not off("notification", print)
    assert not off("never", callback)
    station.publish(note())
    station.publish(StatusEvent(name="status"))
    station.flush()
    assert [event.name for event in got] == ["notification", "status"]


def test_off_knows_a_bound_method_again(station: Station) -> None:
    """Each access to a method makes a new object, equal to the last."""
    got: list[Any] = []
    station.on("notification", got.append)
    assert station.receivers.off("notification", got.append)
    assert not station.receivers.listens(("notification",))


def test_an_unsubscriber_removes_its_own_subscription_once(station: Station) -> None:
    """Called again it does nothing, also when the same callback is there once more."""
    got: list[Any] = []
    offs = [station.on("notification", got.append) for _ in range(3)]
    for _ in range(3):
        offs[1]()
    station.publish(note())
    station.flush()
    assert len(got) == 2
    for off in offs:
        off()
    assert not station.receivers.listens(("notification",))


def test_off_in_many_threads_removes_as_many_as_it_says(station: Station) -> None:
    """Each ``True`` is one registration."""
    for _ in range(50):
        station.on("notification", print)
    answers: list[bool] = []
    threads = [
        threading.Thread(
            target=lambda: answers.extend(
                station.receivers.off("notification", print) for _ in range(20)
            )
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert (answers.count(True), answers.count(False)) == (50, 30)


def test_once_fires_once_under_concurrent_publishing(station: Station) -> None:
    """Also when events are waiting already, and from many threads."""
    got: list[Any] = []
    start = threading.Barrier(4)

    def publish() -> None:
        start.wait(LIMIT)
        for _ in range(50):
            station.publish(note())

    for _ in range(5):
        station.receivers.on("notification", got.append, once=True)
    threads = [threading.Thread(target=publish) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    station.flush()
    assert len(got) == 5
    assert not station.receivers.listens(("notification",))


def test_once_may_be_unsubscribed_before_it_fires(station: Station) -> None:
    """By its unsubscriber or by off."""
    got: list[Any] = []
    station.receivers.on("notification", got.append, once=True)()
    station.receivers.on("notification", got.append, once=True)
    station.receivers.off("notification", got.append)
    station.publish(note())
    station.flush()
    assert got == []


# -- waiting and iterating -----------------------------------------------------------------


def test_wait_for_gives_the_first_event_that_satisfies(comfy: ComfyServer) -> None:
    """Others of that name pass by."""
    with contextlib.closing(ComfyApi(comfy.url)) as api:

        def push() -> None:
            comfy.until(lambda: comfy.hellos, LIMIT)  # which the wait has opened
            for value in ("one", "two", "three"):
                comfy.push({"type": "notification", "data": {"value": value}})

        thread = threading.Thread(target=push)
        thread.start()
        event = api.wait_for("notification", lambda e: e.value != "one", timeout=LIMIT)
        thread.join(LIMIT)
        assert event.value == "two"
        assert [one.name for one in threads() if one.name == "comfy-delivery"] == []


def test_wrong_events_and_predicates_of_wait_for_are_refused(
    comfy: ComfyServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A timeout in the wrong place, no number of seconds, a typo in the name."""
    with ComfyApi(comfy.url) as api:
        with pytest.raises(TypeError, match="timeout is the third"):
            api.wait_for("executed", 0.5)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="a number of seconds"):
            api.wait_for("executed", None, "1")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="0 or more"):
            api.wait_for("executed", timeout=-1)
        with pytest.raises(TimeoutError):
            api.wait_for("exected", timeout=0)
        api.events("exected")
        assert caplog.text.count("did you mean 'executed'?") == 2


def test_wait_for_ends_with_the_time_or_the_client(comfy: ComfyServer) -> None:
    """TimeoutError, ClientClosed, or whatever the predicate raises."""
    with contextlib.closing(ComfyApi(comfy.url)) as api:
        closer = threading.Thread(
            target=lambda: (comfy.until(lambda: comfy.hellos, LIMIT), api.close())
        )
        closer.start()
        with pytest.raises(ClientClosed):
            api.wait_for("progress")
        closer.join(LIMIT)
        with pytest.raises(ClientClosed):
            api.wait_for("progress")
    with ComfyApi(comfy.url) as api:
        for timeout in (0, 0.05):
            with pytest.raises(TimeoutError, match="no event 'progress'"):
                api.wait_for("progress", timeout=timeout)


def test_a_predicate_that_raises_ends_the_wait(station: Station) -> None:
    """In the caller's thread, and the tap is gone."""
    tap = station.receivers.subscribe("notification")
    station.publish(note())
    with pytest.raises(ZeroDivisionError):
        station.receivers.wait_for(tap, lambda event: 1 / 0 > 0, None)
    assert station.receivers.subscriptions() == []


def test_a_callback_may_wait_for_an_event(station: Station) -> None:
    """The socket's thread feeds waiters itself, not through the delivery thread."""
    got: list[Any] = []
    waiting = threading.Event()

    def callback(event: Any) -> None:
        tap = station.receivers.subscribe("status")
        waiting.set()
        got.append(station.receivers.wait_for(tap, None, LIMIT))

    station.on("notification", callback)
    station.publish(note())
    assert waiting.wait(LIMIT)
    status = StatusEvent(name="status")
    station.publish(status)
    station.flush()
    assert got == [status]


def test_the_iterator_brings_events_from_its_making_to_the_clients_end(comfy: ComfyServer) -> None:
    """In order, and it ends when the client is closed."""
    with ComfyApi(comfy.url) as api:
        events = api.events("notification")
        for value in "abc":
            comfy.push({"type": "notification", "data": {"value": value}})
        assert [next(events).value for _ in range(3)] == ["a", "b", "c"]
        threading.Timer(0.05, api.close).start()
        assert list(events) == []
        with pytest.raises(ClientClosed):
            api.events()


def test_an_iterator_that_nobody_keeps_costs_nothing(station: Station) -> None:
    """Started or not: its tap goes with it."""
    for started in (False, True):
        events = station.receivers.events(station.receivers.subscribe("all"))
        if started:
            station.publish(note())
            next(events)
        del events
        gc.collect()
        assert station.receivers.subscriptions() == []


def test_an_iterator_may_end_while_the_lock_is_held(station: Station) -> None:
    """The collector may end one that nobody keeps in the middle of any call of this thread."""

    def end_within() -> None:
        tap = station.receivers.subscribe("all")
        events = station.receivers.events(tap)
        tap.put(note())
        next(events)
        with station.receivers._lock:
            del events
        ended.append(tap.closed)

    ended: list[bool] = []
    in_time(end_within)
    assert ended == [True]
    assert station.receivers.subscriptions() == []


def test_an_events_iterator_holds_the_client(comfy: ComfyServer) -> None:
    """``for event in ComfyApi(host).events()`` goes on, though nobody else holds it."""
    events = ComfyApi(comfy.url).events("notification")
    gc.collect()
    comfy.until(lambda: comfy.hellos, LIMIT)
    comfy.push({"type": "notification", "data": {"value": "still here"}})
    assert next(events).value == "still here"
    del events
    gc.collect()
