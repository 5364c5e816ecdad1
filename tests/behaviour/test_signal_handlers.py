"""A wait in a handler of a signal that could never end raises at once, and says what to do."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest

from comfy_client import ComfyApi, ComfyError, ComfyPool, JobTimeout, Result
from comfy_client.event_queue import EventQueue
from comfy_client.interrupts import in_full
from comfy_client.jobs.handle import first_end
from comfy_client.jobs.job import Job
from comfy_client.locks import check_may_wait
from comfy_client.testing import ComfyServer
from tests.helpers.clients import LIMIT, outstanding
from tests.helpers.ctrl_c import ALARM, at_each_point, points_of
from tests.helpers.gates import Gates, shows
from tests.helpers.pools import pooled

SWEPT = {"Gated.text": ["a", "b"]}


@attrs.frozen
class World:
    """What may be waited for."""

    api: ComfyApi
    job: Job  #: Of the client; it has not ended.
    pool: ComfyPool
    pooled: Job  #: The same of a pool.


@pytest.fixture
def world(comfy: ComfyServer, fast: ComfyApi, gate: Gates) -> Iterator[World]:
    with pooled([comfy.url]) as pool:
        job = fast.submit(shows(waits=True))
        yield World(fast, job, pool, pool.submit(shows(waits=True)))
        gate.set()


WAITS: dict[str, Callable[[World], object]] = {
    "run": lambda w: w.api.run(shows()),
    "run with a callback": lambda w: w.api.run(shows(), on_event=print),
    "result": lambda w: w.job.result(),
    "exception": lambda w: w.job.exception(),
    "events of a job": lambda w: list(w.job.events()),
    "as_completed": lambda w: list(w.api.as_completed([w.job])),
    "map": lambda w: list(w.api.map([shows()])),
    "sweep": lambda w: w.api.sweep(shows(), SWEPT),
    "wait_for": lambda w: w.api.wait_for("status"),
    "events": lambda w: next(iter(w.api.events("status"))),
    "wait_until_ready": lambda w: w.api.wait_until_ready(),
    "init": lambda w: w.api.init(),
    "run of a pool": lambda w: w.pool.run(shows()),
    "result of a pool": lambda w: w.pooled.result(),
    "events of a pool": lambda w: list(w.pooled.events()),
    "as_completed of a pool": lambda w: list(w.pool.as_completed([w.pooled])),
    "map of a pool": lambda w: list(w.pool.map([shows()])),
    "sweep of a pool": lambda w: w.pool.sweep(shows(), SWEPT),
    "init of a pool": lambda w: w.pool.init(),
    "shutdown of a pool": lambda w: w.pool.shutdown(),
}

#: Locks without which no event reaches a job.
LOCKS: dict[str, Callable[[ComfyApi], Any]] = {
    "jobs": lambda api: api.parts.tracker.lock,
    "connection": lambda api: api.parts.connection._lock,
    "receivers": lambda api: api.parts.receivers._lock,
}


def in_handler(call: Callable[[], object], lock: Any) -> BaseException | None:
    """What a call raises in a handler of a signal, whose thread owns a lock by then."""
    raised: list[BaseException] = []

    def handler(*_: object) -> None:
        try:
            call()
        except Exception as exc:
            raised.append(exc)

    def owning() -> None:
        with lock:
            signal.raise_signal(ALARM)

    before = signal.signal(ALARM, handler)
    try:
        in_full([owning])  # only calls of the client own its locks
    finally:
        signal.signal(ALARM, before)
    return raised[0] if raised else None


@pytest.mark.parametrize("wait", WAITS)
def test_a_wait_that_could_never_end_raises_at_once(world: World, wait: str) -> None:
    """Since the code that it interrupts owns the lock that the client's threads need."""
    api = world.api
    before = len(outstanding(api))
    error = in_handler(lambda: WAITS[wait](world), api.parts.tracker.lock)
    assert isinstance(error, ComfyError)
    assert "return from the handler first, or wait in a thread" in str(error)
    assert len(outstanding(api)) == before  # nothing was submitted


@pytest.mark.parametrize("lock", LOCKS)
def test_result_in_a_handler_is_refused_whichever_lock_is_held(world: World, lock: str) -> None:
    error = in_handler(world.job.result, LOCKS[lock](world.api))
    assert "return from the handler" in str(error)


def test_afterwards_the_client_works(world: World, gate: Gates) -> None:
    """The handler has left nothing behind."""
    assert in_handler(world.job.result, world.api.parts.tracker.lock) is not None
    gate.set()
    assert world.job.result(LIMIT).texts == ("x",)
    assert world.api.run(shows("y"), timeout=LIMIT).texts == ("y",)


@pytest.mark.posix("signals to a thread")
def test_a_handler_that_interrupts_a_wait_may_wait(world: World, gate: Gates) -> None:
    """No lock is owned there."""
    results: list[Result] = []

    def handler(*_: object) -> None:
        gate.set()
        results.append(world.api.run(shows("from the handler"), timeout=LIMIT))

    before = signal.signal(ALARM, handler)
    main = threading.main_thread().ident or 0
    timer = threading.Timer(0.1, signal.pthread_kill, [main, ALARM])
    timer.start()
    try:
        assert world.job.result(LIMIT).texts == ("x",)
        timer.join()
    finally:
        signal.signal(ALARM, before)
    assert [result.texts for result in results] == [("from the handler",)]


def test_close_in_a_handler_ends(world: World) -> None:
    """It waits for no thread without a limit."""
    assert in_handler(world.api.close, world.api.parts.tracker.lock) is None
    assert world.job.done()


def test_waiting_in_other_threads_is_allowed_while_a_lock_is_held(world: World) -> None:
    """What one thread owns concerns no other."""

    def owning() -> None:
        with world.api.parts.tracker.lock:
            waiting = threading.Thread(target=check_may_wait)
            waiting.start()
            waiting.join()
            with pytest.raises(ComfyError, match="handler"):
                check_may_wait()

    in_full([owning])
    check_may_wait()


def test_a_wait_costs_the_same_however_many_clients_there_are(world: World) -> None:
    """It looks at no lock of any client, unless it interrupts a call of one."""
    queue = EventQueue()
    waits: list[Callable[[], object]] = [
        check_may_wait,
        lambda: first_end([world.job.handle], 0.0),
        lambda: queue.get(1e-6),
    ]
    alone = [points_of(one, everywhere=True) for one in waits]
    others = [ComfyApi("http://127.0.0.1:9") for _ in range(200)]
    assert [points_of(one, everywhere=True) for one in waits] == alone
    for other in others:
        other.close()


WORKS: dict[str, Callable[[World], object]] = {
    "iterator of a job": lambda w: w.job.events(),
    "iterator of events": lambda w: w.api.events("status"),
    "waking the thread that asks": lambda w: w.api.parts.tracker.wake.set(),
    "dropping what waits": lambda w: w.job.handle.events.subscribe().close(),
}


@pytest.mark.parametrize("work", WORKS)
def test_at_no_moment_does_a_wait_of_a_handler_hang(world: World, gate: Gates, work: str) -> None:
    """It either is refused, or ends."""
    gate.set()
    world.pooled.result(LIMIT)
    ended = 0

    def between() -> None:
        nonlocal ended
        try:
            ended += world.api.run(shows(), timeout=LIMIT).complete
        except JobTimeout:
            raise
        except ComfyError:
            pass  # refused

    at_each_point(lambda: WORKS[work](world), between)
    assert ended
