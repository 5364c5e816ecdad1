"""``close``, from wherever it is called; and a client that is closed."""

from __future__ import annotations

import contextlib
import inspect
import threading
import time
from collections.abc import Callable

import blinker
import pytest

from comfy_client import (
    ApiError,
    ClientClosed,
    ComfyApi,
    State,
)
from comfy_client.jobs.prompt import Waiter
from comfy_client.testing import ComfyServer
from tests.helpers.calls import arguments_for, exhaust
from tests.helpers.clients import (
    LIMIT,
    Fast,
    client,
    exception_of,
    outstanding,
    quick_once,
    quickly,
    threads,
    until,
)
from tests.helpers.gates import shows
from tests.helpers.interrupts import press_ctrl_c
from tests.helpers.scripted import (
    END,
    GRAPH,
    START,
)

pytestmark = pytest.mark.usefixtures("prompts_wait")


def _closes_quickly(api: ComfyApi) -> None:
    """Close the client, which waits for nothing, and see its threads end."""
    with quickly():
        api.close()
    api.close()
    until(lambda: threads() == [])
    assert api.state is State.CLOSED


# -- close ---------------------------------------------------------------------------------


def test_close_with_a_silent_peer(comfy: ComfyServer) -> None:
    """Nothing is waited for."""
    clients = [ComfyApi(comfy.url).init() for _ in range(5)]
    comfy.faults.go_dark()
    quick_once(lambda: clients.pop().close(), 2.0)
    while clients:
        clients.pop().close()
    until(lambda: threads() == [])


def test_close_before_anything(refused: str) -> None:
    """Nothing to let go of."""
    _closes_quickly(ComfyApi(refused))


@pytest.mark.parametrize("how", ["on", "signal"])
def test_close_from_a_receiver(comfy: ComfyServer, how: str) -> None:
    """In the delivery thread."""
    namespace = blinker.Namespace()
    api = ComfyApi(comfy.url, namespace=namespace)
    took: list[float] = []

    def close(*_: object) -> None:
        start = time.monotonic()
        api.close()
        took.append(time.monotonic() - start)

    if how == "on":
        api.on("status", close)
    else:
        namespace.signal("status").connect(close)
        api.on("connected", print)  # starts the event thread
    until(lambda: took)
    assert took[0] < LIMIT
    _closes_quickly(api)


def test_close_from_a_done_callback(comfy: ComfyServer) -> None:
    """In the thread that watches over jobs, or in the socket's."""
    api = ComfyApi(comfy.url)
    closed, gate = threading.Event(), threading.Event()
    comfy.script(gate, *END)
    job = api.submit(GRAPH)
    job.add_done_callback(lambda _: (api.close(), closed.set()))
    gate.set()
    assert closed.wait(LIMIT)
    _closes_quickly(api)


def test_close_from_many_threads(comfy: ComfyServer) -> None:
    """Concurrently, and none of them raises."""
    api = ComfyApi(comfy.url).init()
    together = threading.Barrier(4)
    caught: list[BaseException | None] = []

    def close() -> None:
        together.wait()
        caught.append(exception_of(api.close))

    callers = [threading.Thread(target=close) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert caught == [None] * 4
    _closes_quickly(api)


@pytest.mark.parametrize(
    "wait",
    [
        lambda api: api.wait_for("progress"),
        lambda api: api.run(GRAPH),
        lambda api: api.submit(GRAPH).result(),
        lambda api: api.run(GRAPH, on_event=print),
    ],
    ids=["wait_for", "run", "result", "run with callback"],
)
def test_close_ends_every_wait(comfy: ComfyServer, wait: Callable[[ComfyApi], object]) -> None:
    """With ClientClosed, at once."""
    api = ComfyApi(comfy.url).init()
    closer = threading.Timer(0.3, api.close)
    closer.start()
    with quickly(), pytest.raises(ClientClosed):
        wait(api)
    closer.join()


def test_close_ends_iteration(comfy: ComfyServer) -> None:
    """``events()`` is exhausted, not raised from."""
    api = ComfyApi(comfy.url).init()
    events = api.events("progress")
    closer = threading.Timer(0.2, api.close)
    closer.start()
    assert list(events) == []
    closer.join()


@pytest.mark.parametrize("phase", ["http", "handshake"])
def test_close_ends_init(comfy: ComfyServer, refused: str, phase: str) -> None:
    """Another thread waits in init: ClientClosed, promptly."""
    comfy.faults.stall_handshakes()
    api = ComfyApi(refused if phase == "http" else comfy.url)
    closer = threading.Timer(0.5, api.close)
    closer.start()
    assert isinstance(exception_of(lambda: api.init(2 * LIMIT)), ClientClosed)
    closer.join()


#: What a closed client still does: none of it needs the server, all of it cleans up.
HARMLESS = {"as_completed", "close", "off", "generate_id", "get_path_image", "lasting", "stats"}

#: ping() never raises; it answers with the reason.
ANSWERS = {"ping"}

PUBLIC = sorted(
    name
    for name, member in inspect.getmembers(ComfyApi, callable)
    if not name.startswith("_") and name not in HARMLESS | ANSWERS and name != "timing"
)

# -- use after close -----------------------------------------------------------------------


@pytest.mark.parametrize("name", PUBLIC)
def test_a_closed_client_says_so(refused: str, name: str) -> None:
    """Every public method raises ClientClosed, whatever the server would say."""
    api = ComfyApi(refused)
    api.close()
    method = getattr(api, name)
    with pytest.raises(ClientClosed):
        exhaust(method(*arguments_for(method)))


def test_a_closed_client_still_cleans_up_and_describes_itself(refused: str) -> None:
    """Clean up, and say who it was and what it has done."""
    api = ComfyApi(refused)
    unsubscribe = api.on("status", print)
    api.close()
    unsubscribe()
    assert api.off("status", print) is False
    assert isinstance(api.ping().error, ClientClosed)
    assert api.stats().connections == 0
    assert api.host == refused
    assert repr(api) == f"<ComfyApi {refused} closed>"
    assert threads() == []


def test_close_with_a_frozen_server(comfy: ComfyServer) -> None:
    """It answers nothing any more."""
    clients = [ComfyApi(comfy.url).init() for _ in range(5)]
    comfy.faults.freeze()
    quick_once(lambda: clients.pop().close(), 2.0)
    while clients:
        clients.pop().close()
    until(lambda: threads() == [])


def test_closing_the_client_during_a_submission_ends_it(comfy, fast):
    """No job is left without a verdict."""

    def handler(request):
        answer = comfy.answer(request)
        fast.close()
        return answer

    comfy.on("POST", "/prompt", handler)
    comfy.script(START)
    with pytest.raises(ClientClosed):
        fast.run(GRAPH, timeout=LIMIT)
    assert outstanding(fast) == []


def test_ctrl_c_while_the_client_is_closed_leaves_no_wait_without_an_end(comfy):
    """It comes while one of its jobs is ended."""
    comfy.script(START)

    def interrupted(ending):
        raise KeyboardInterrupt

    with contextlib.closing(Fast(comfy.url)) as api:
        work = [api.submit(GRAPH) for _ in range(3)]
        work[1].handle.source.prompt.waiters[:] = [Waiter(work[1], interrupted)]
        with pytest.raises(KeyboardInterrupt):
            api.close()
        for job in (work[0], work[2]):
            assert isinstance(job.exception(LIMIT), ClientClosed)


def test_close_is_done_in_full_though_ctrl_c_come_in_between(
    comfy: ComfyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And may be called again."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    for step in ("connection.stop", "tracker.close", "receivers.close", "http.close"):
        api = client(comfy)
        api.init()
        job = api.submit(shows(waits=True))
        part, _, method = step.partition(".")
        owner = getattr(api.parts, part)
        do = getattr(owner, method)
        with monkeypatch.context() as patch:
            patch.setattr(owner, method, interrupt)
            with pytest.raises(KeyboardInterrupt):
                api.close()
        if part != "tracker":
            assert job.done()
        api.close()
        assert job.done()
        assert api.state is State.CLOSED
        do()


def test_ctrl_c_while_the_last_events_are_delivered_closes_the_client_all_the_same(
    comfy: ComfyServer,
) -> None:
    """At the end of a ``with`` that an error ends."""
    entered, release = threading.Event(), threading.Event()
    timer = threading.Timer(0.3, press_ctrl_c)
    with pytest.raises(KeyboardInterrupt), client(comfy) as api:  # noqa: PT012
        api.on("status", lambda event: (entered.set(), release.wait(LIMIT)))
        comfy.push_status()
        assert entered.wait(LIMIT)
        timer.start()
        raise ApiError("an error")
    assert api.state is State.CLOSED
    timer.join()
    release.set()
