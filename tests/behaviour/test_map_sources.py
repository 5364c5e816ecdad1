"""What ``map`` gets its prompts from: iterables that block, raise, or are left."""

from __future__ import annotations

import _thread
import contextvars
import itertools
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from comfy_client import ClientClosed, ComfyApi, ComfyPool, Upload
from comfy_client.batch.items import Items
from comfy_client.testing import ComfyServer
from tests.helpers.clients import until
from tests.helpers.interrupts import fail_next_start
from tests.helpers.sweeps import LIMIT, WORKFLOW, add_recorded_nodes

Map = Callable[..., Any]


@pytest.fixture(params=["client", "pool"])
def run_map(request: pytest.FixtureRequest, server: ComfyServer, record: Any) -> Iterator[Map]:
    """``map`` of a client, or of a pool of two servers."""
    if request.param == "client":
        with ComfyApi(server.url) as api:
            yield api.map
        return
    with ComfyServer() as other:
        add_recorded_nodes(other)
        with ComfyPool([server.url, other.url]) as pool:
            until(lambda: all(one.state == "ready" for one in pool.status().servers))
            yield pool.map


def point(number: int) -> dict[str, Any]:
    return {"Make.seed": number}


def threads() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name == "comfy-source"]


@pytest.mark.parametrize("ordered", [True, False])
def test_results_come_while_the_source_has_nothing(run_map, ordered) -> None:
    """As those of requests that come now and then: each is answered before the next comes."""
    requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
    requests.put(point(0))
    found = []
    for result in run_map(WORKFLOW, iter(requests.get, None), ordered=ordered):
        found.append(result.texts[0])
        requests.put(point(len(found)) if len(found) < 4 else None)
    assert found == ["ax0", "ax1", "ax2", "ax3"]


def test_a_source_needs_no_thread_where_there_are_no_more(run_map, monkeypatch) -> None:
    """It is read by whoever asks for results."""
    fail_next_start(monkeypatch, RuntimeError("can't start new thread"), "comfy-source")
    found = run_map(WORKFLOW, map(point, range(4)))
    assert [result.texts[0] for result in found] == ["ax0", "ax1", "ax2", "ax3"]
    assert threads() == []


def test_results_come_while_a_generator_waits(run_map) -> None:
    """For what is made of the results before, say."""
    had: list[str] = []

    def source() -> Iterator[dict[str, Any]]:
        for number in range(4):
            until(lambda number=number: len(had) >= number)
            yield point(number)

    had.extend(result.texts[0] for result in run_map(WORKFLOW, source(), in_flight=3))
    assert had == ["ax0", "ax1", "ax2", "ax3"]


def test_several_workflows_may_block_too(run_map) -> None:
    """Not only the inputs of one."""
    workflows: queue.SimpleQueue[Any] = queue.SimpleQueue()
    workflows.put(WORKFLOW)
    found = 0
    for _ in run_map(iter(workflows.get, None)):
        found += 1
        workflows.put(WORKFLOW if found < 3 else None)
    assert found == 3


def test_lists_need_no_thread(run_map) -> None:
    """Nor do other containers: their iterators never block."""
    for source in ([point(0)] * 2, (point(1),) * 2):
        assert len([threads() for _ in run_map(WORKFLOW, source)]) == 2
        assert not threads()


def test_a_source_is_iterated_in_one_thread_in_the_context_of_the_caller(run_map) -> None:
    """What is bound to a thread, or to a context, works in it if it was made there."""
    who: contextvars.ContextVar[str] = contextvars.ContextVar("who")
    who.set("caller")
    seen = set()

    def source() -> Iterator[dict[str, Any]]:
        for number in range(4):
            seen.add((threading.current_thread().name, threading.get_ident(), who.get()))
            yield point(number)

    assert len(list(run_map(WORKFLOW, source(), in_flight=2))) == 4
    [(name, ident, whose)] = seen
    assert (name, whose) == ("comfy-source", "caller")
    assert ident != threading.get_ident()


def test_a_late_error_of_the_source_comes_after_the_results(run_map) -> None:
    """In its turn, with the frames of the source."""
    had: list[str] = []

    def source() -> Iterator[dict[str, Any]]:
        yield from map(point, range(2))
        until(lambda: had)
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more") as caught:
        had.extend(result.texts[0] for result in run_map(WORKFLOW, source(), in_flight=8))
    assert had == ["ax0", "ax1"]
    assert "source" in [entry.name for entry in caught.traceback]


def test_a_missing_file_is_raised_after_the_results_before_it(run_map, tmp_path) -> None:
    """In its turn, as the docstring of ``map`` says."""
    path = tmp_path / "text.txt"
    path.write_text("x")
    params = [point(0), {"Write.text": Upload(path)}]
    path.unlink()
    had: list[str] = []
    with pytest.raises(FileNotFoundError):
        had.extend(result.texts[0] for result in run_map(WORKFLOW, params, in_flight=2))
    assert had == ["ax0"]


def test_system_exit_of_the_source_is_raised_at_once(run_map) -> None:
    """Such as SystemExit, which has no turn."""

    def source() -> Iterator[dict[str, Any]]:
        yield point(0)
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        list(run_map(WORKFLOW, source()))


def test_a_source_is_closed_with_the_loop(run_map) -> None:
    """Its ``finally`` runs when the loop is left, as that of any generator that nobody keeps."""
    closed = []

    def source() -> Iterator[dict[str, Any]]:
        try:
            yield from map(point, itertools.count())
        finally:
            closed.append(True)

    results = run_map(WORKFLOW, source(), in_flight=2)
    next(results)
    until(lambda: threads())
    results.close()
    until(lambda: closed and not threads())


def test_a_source_that_somebody_keeps_is_not_closed(run_map) -> None:
    """They may go on with it."""
    source = map(point, itertools.count())
    kept = (each for each in source)
    results = run_map(WORKFLOW, kept, in_flight=1)
    next(results)
    results.close()
    assert next(kept)["Make.seed"] in (1, 2)


def test_a_loop_is_left_at_once_though_its_source_blocks(run_map) -> None:
    """The thread ends with what it waits for, and closes the source."""
    requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
    requests.put(point(0))
    closed = []

    def source() -> Iterator[dict[str, Any]]:
        try:
            yield from iter(requests.get, None)
        finally:
            closed.append(True)

    for _ in run_map(WORKFLOW, source(), in_flight=2):
        break
    assert not closed
    requests.put(point(1))
    until(lambda: closed and not threads())


def test_ctrl_c_ends_the_wait_for_a_source(run_map) -> None:
    """With nothing under way, too."""
    requests: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def press() -> None:
        until(threads)
        _thread.interrupt_main()

    thread = threading.Thread(target=press)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        next(run_map(WORKFLOW, iter(requests.get, None)))
    thread.join(LIMIT)
    requests.put(None)


def test_a_client_that_is_closed_ends_the_wait_for_a_source(server, record) -> None:
    """Though the source never come up with anything."""
    requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
    with ComfyApi(server.url) as api:
        threading.Thread(target=lambda: (until(threads), api.close())).start()
        with pytest.raises(ClientClosed):
            next(api.map(WORKFLOW, iter(requests.get, None)))
    requests.put(None)


def test_a_source_may_be_closed_while_its_thread_is_being_started(monkeypatch) -> None:
    """By another thread, as when a client is closed: the thread ends, and takes no item."""
    taken: list[int] = []
    source = Items(map(taken.append, range(3)))

    start = threading.Thread.start

    def start_late(thread: threading.Thread) -> None:
        if thread.name.startswith("comfy-"):
            closing = threading.Thread(target=source.close)
            closing.start()
            closing.join()
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_late)
    assert not source.has_next()
    until(lambda: not threads())
    assert taken == []
    with pytest.raises(ClientClosed):
        source.has_next()


def test_a_pool_that_ends_lets_go_of_the_sources_of_maps_that_were_not_finished(server, record):
    """Though somebody keep the map, as a traceback does."""
    with ComfyPool([server.url]) as pool:
        kept = pool.map(WORKFLOW, map(point, itertools.count()), in_flight=2)
        next(kept)
        assert threads()
    until(lambda: not threads())
    with pytest.raises(ClientClosed):
        list(kept)
