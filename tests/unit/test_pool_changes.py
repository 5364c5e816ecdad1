"""Changes of a pool's state that users ask for, and Ctrl-C in the middle of them."""

from __future__ import annotations

import signal
import threading
import uuid
from collections.abc import Callable, Iterator
from functools import partial

import attrs
import pytest

from comfy_client import ComfyPool
from comfy_client.errors import ComfyError, ServerUnreachable
from comfy_client.jobs.job import Callbacks
from comfy_client.pool.dispatcher import Dispatcher
from comfy_client.pool.pool_state import Entry
from comfy_client.pool.pooled_job import PooledHandle, PooledJob
from comfy_client.pool.schedule import Waiting
from comfy_client.workflow import Workflow
from tests.helpers.clients import until
from tests.helpers.ctrl_c import handled, points_of
from tests.helpers.gates import shows

press = partial(signal.raise_signal, signal.SIGINT)


@pytest.fixture
def pool() -> Iterator[ComfyPool]:
    """A pool that has not connected."""
    made = ComfyPool(["http://127.0.0.1:9"])
    with handled():
        yield made
    made.shutdown(wait=False, cancel_futures=True)


def entry_in(pool: ComfyPool) -> Entry:
    [client], dispatcher = pool.servers, pool._dispatcher
    handle = PooledHandle(client, client.parts.poller, str(uuid.uuid4()), {}, dispatcher)
    job = PooledJob(handle)
    return Entry(job, Workflow(shows()), Waiting(job, next(pool._servers.numbers)), Callbacks(), {})


def interrupted_at(point: int, call: Callable[[], object], *, everywhere: bool = True) -> bool:
    """Press Ctrl-C at a point of a call; return whether the call has so many."""
    try:
        return points_of(call, point, press, everywhere=everywhere) >= point
    except KeyboardInterrupt:
        return True


def check_free(dispatcher: Dispatcher) -> None:
    """Another thread gets the lock, and nothing is left to publish."""
    assert not dispatcher.has_lock()
    thread = threading.Thread(target=dispatcher.status)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    state = dispatcher.state
    assert (state.publishing, state.ends, state.events, state.log_lines) == (0, [], [], [])


def test_ctrl_c_at_any_point_of_a_submission_leaves_the_job_in_the_pool_or_out_of_it(
    pool: ComfyPool,
) -> None:
    dispatcher, heard = pool._dispatcher, []
    pool.on("have_job", lambda _, event: heard.append(event))
    dispatcher.submit(entry_in(pool))  # imports what is imported late
    point, admitted, is_there = 1, 1, []
    while interrupted_at(point, partial(dispatcher.submit, entry := entry_in(pool))):
        is_there.append(dispatcher.has(entry.job))
        admitted += is_there[-1]
        assert (dispatcher.position(entry.job) is not None) is is_there[-1]
        check_free(dispatcher)
        point += 1
    assert is_there == sorted(is_there)
    assert set(is_there) == {False, True}
    until(lambda: len(heard) == admitted + 1)  # and the last, which was not interrupted


def test_ctrl_c_at_any_point_of_a_cancellation_leaves_the_job_waiting_or_ended(
    pool: ComfyPool,
) -> None:
    dispatcher, point, has_ended = pool._dispatcher, 1, []
    is_over = False
    while not is_over:
        dispatcher.submit(entry := entry_in(pool))
        is_over = not interrupted_at(point, partial(dispatcher.withdraw, entry.job))
        has_ended.append(entry.job.done())
        assert dispatcher.has(entry.job) is not has_ended[-1]
        assert (entry.job.status == "waiting") is not has_ended[-1]
        check_free(dispatcher)
        point += 1
    assert has_ended == sorted(has_ended)
    assert set(has_ended) == {False, True}


def test_ctrl_c_at_any_point_of_the_first_call_starts_all_threads_or_none() -> None:
    point, is_over = 1, False
    while not is_over:
        pool = ComfyPool(["http://127.0.0.1:9"])
        threads_before = set(threading.enumerate())
        is_over = not interrupted_at(point, pool._dispatcher.start, everywhere=False)
        names = sorted(thread.name for thread in set(threading.enumerate()) - threads_before)
        assert names in ([], ["comfy-pool", "comfy-pool-dispatcher"]), point
        pool.shutdown(wait=False)
        point += 1


def test_a_refused_submission_changes_nothing(pool: ComfyPool) -> None:
    dispatcher, entry = pool._dispatcher, entry_in(pool)
    pool.shutdown()
    with pytest.raises(ComfyError):
        dispatcher.submit(entry)
    assert not dispatcher.has(entry.job)
    check_free(dispatcher)


def test_a_subclass_sets_how_long_a_pool_waits_and_how_often_it_tries() -> None:
    class Impatient(ComfyPool):
        intervals = attrs.evolve(ComfyPool.intervals, ready=0.0)
        tries = attrs.evolve(ComfyPool.tries, moves=0)

    assert repr(Impatient.intervals) == "PoolTiming(ready=0.0)"
    pool = Impatient(["http://127.0.0.1:9"])
    with pytest.raises(ServerUnreachable):
        pool.submit(shows())
    assert pool._dispatcher.state.policy.tries.moves == 0
    pool.shutdown(wait=False)
