"""Pauses grow: between attempts to reconnect (backoff, jitter), and between questions that fail."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Any

import attrs
import blinker
import pytest

from comfy_client import ComfyApi
from comfy_client.errors import (
    AuthenticationError,
    ServerUnreachable,
)
from comfy_client.testing import ComfyServer, Finish, Request, frame
from comfy_client.timing import Timing
from comfy_client.transport.websocket import State
from tests.helpers.clients import (
    LIMIT,
    Fast,
    Heard,
    client,
    paths_asked,
    until,
)
from tests.helpers.connections import PATIENT, Make, upgraded
from tests.helpers.gates import shows
from tests.helpers.scripted import (
    ALL_CACHED,
    ENTRY,
    GRAPH,
    OVER,
    START,
    SUCCESS,
    WELL,
    answer_queue,
    check,
    restore_queue,
)


def test_the_backoff_of_dials_has_full_jitter_and_doubles_to_the_cap(
    make: Make, refused: str
) -> None:
    """Each pause is drawn between nothing and a limit that doubles."""
    drawn: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        drawn.append((low, high))
        return 0.0

    timing = Timing(pause=0.5, cap=30.0)
    owner, _ = make(refused, timing=timing, uniform=uniform)
    until(lambda: len(drawn) >= 20)
    assert {low for low, _ in drawn} == {0.0}
    assert [high for _, high in drawn[:8]] == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    told = [e for e in owner.events if e.name == "reconnecting"][:3]
    assert [(e.attempt, e.delay) for e in told] == [(2, 0.0), (3, 0.0), (4, 0.0)]
    assert isinstance(told[0].error, ServerUnreachable)


def test_the_backoff_is_reset_by_a_connection_that_lasts(make: Make, comfy: ComfyServer) -> None:
    """Longer than the longest pause; not with a port that upgrades, or greets, and drops."""
    drawn: list[float] = []

    def uniform(low: float, high: float) -> float:
        drawn.append(high)
        return 0.0

    def greet_and_drop(request: Request) -> None:
        upgraded(comfy, request, frame(1, b"{}"))

    fault = comfy.on("GET", "/ws", lambda request: upgraded(comfy, request))
    owner, link = make(comfy.url, timing=Timing(pause=0.1, cap=0.8), uniform=uniform)
    comfy.until(lambda: len(drawn) >= 4)
    assert drawn[:4] == [0.1, 0.2, 0.4, 0.8]
    comfy.on("GET", "/ws", greet_and_drop)
    fault.end()
    comfy.until(lambda: len(owner.names("reconnected")) >= 3)
    assert set(drawn[3:]) == {0.8}
    # A drop and the next greeting are two dials apart at most, whatever the pauses.
    assert {e.attempt for e in owner.events if e.name == "reconnected"} == {1}
    comfy.faults.clear()
    comfy.until(lambda: len(comfy.hellos) == 1 and link.state is State.CONNECTED)
    time.sleep(0.8)
    del drawn[:]
    comfy.faults.drop()
    comfy.until(lambda: len(comfy.hellos) == 2)
    assert drawn == [0.1]


@pytest.mark.parametrize("greeting", [b"", frame(1, b"{}")], ids=["at once", "after a greeting"])
def test_a_client_id_that_is_refused_at_a_reconnect_is_renewed(
    make: Make, comfy: ComfyServer, greeting: bytes
) -> None:
    """By the close code 1008 at a re-dial; the first socket of the new one may be closed so."""
    owner, link = make(comfy.url, timing=Timing(pause=0.05, cap=0.1))
    comfy.until(lambda: link.state is State.CONNECTED)
    refusal = greeting + frame(8, (1008).to_bytes(2, "big"))

    def refuse(request: Request) -> Any:
        return comfy.answer(request) if owner.renewals else upgraded(comfy, request, refusal)

    comfy.on("GET", "/ws", refuse)
    comfy.faults.drop()
    comfy.until(lambda: len(comfy.hellos) == 2 and link.state is State.CONNECTED)
    comfy.faults.close_politely(1008)
    comfy.until(lambda: len(comfy.hellos) == 3)
    assert owner.renewals == 1


def test_a_socket_that_was_up_for_long_is_no_refused_client_id(
    make: Make, comfy: ComfyServer
) -> None:
    """Whatever close code ends it: the server had accepted the id."""
    dial = 0.5
    owner, link = make(comfy.url, timing=Timing(dial=dial, pause=0.05, cap=0.1))
    comfy.until(lambda: link.state is State.CONNECTED)
    comfy.faults.drop()
    comfy.until(lambda: len(comfy.hellos) >= 2 and link.state is State.CONNECTED)
    time.sleep(dial)
    before = len(comfy.hellos)
    comfy.faults.close_politely(1008)
    comfy.until(lambda: len(comfy.hellos) > before)
    assert owner.renewals == 0


def test_a_nudge_ends_a_pause(make: Make, comfy: ComfyServer) -> None:
    """The server has answered over HTTP, so it is there again."""
    comfy.faults.refuse_sockets(502)
    _, link = make(comfy.url, timing=Timing(), uniform=lambda low, high: 60.0)
    comfy.until(lambda: link.state is State.WAITING)
    comfy.faults.clear()
    link.nudge()
    comfy.until(lambda: link.state is State.CONNECTED)


@pytest.mark.parametrize("status", [401, 502])
def test_a_connection_leaves_no_error_of_the_dials_before_it(
    make: Make, comfy: ComfyServer, status: int
) -> None:
    """Nobody who waits for the socket is told of a refusal that is over."""
    comfy.faults.refuse_sockets(status)
    _, link = make(comfy.url)
    comfy.until(lambda: link.error is not None)
    comfy.faults.clear()
    comfy.until(lambda: link.state is State.CONNECTED)
    assert link.error is None
    assert not link.failed_for_good


def test_no_nudge_ends_the_pause_after_a_refusal(make: Make, comfy: ComfyServer) -> None:
    """A 403 stays at the cap however much is submitted; retry() is a person's wish."""
    comfy.faults.refuse_sockets(403)
    _, link = make(comfy.url, timing=Timing())
    comfy.until(lambda: link.state is State.WAITING)
    for _ in range(100):
        link.nudge()
    comfy.faults.clear()
    link.retry()
    comfy.until(lambda: link.state is State.CONNECTED)
    assert len(comfy.handshakes) == 2


def test_a_server_that_is_away_is_asked_less_and_less(comfy, fast):
    """Requests while everything fails are bounded: pauses grow, whatever happens."""
    away = (503, {}, "away")
    times = []

    def handler(request):
        times.append(time.perf_counter())
        return away

    go = threading.Event()
    comfy.script(START, go, *WELL[1:])
    job = fast.submit(GRAPH)
    other = fast.submit(GRAPH)
    answer_queue(comfy, handler)
    comfy.on("GET", "/prompt", away)
    refusal = comfy.faults.refuse_sockets(503)
    comfy.faults.drop()
    comfy.until(lambda: len(times) >= 4, LIMIT)
    assert times[3] - times[0] > 0.4
    restore_queue(comfy)
    comfy.off("GET", "/prompt")
    refusal.end()
    go.set()
    check(job.result(LIMIT))
    check(other.result(LIMIT))


@pytest.mark.timing(silence_cap=5.0)
def test_many_jobs_ask_no_more_often_than_one_while_the_server_is_away(comfy, fast):
    """Forty have ended, says the socket, and HTTP answers 503: each would ask for its record."""
    away = comfy.faults.bad_gateway(503, method="GET", path="/*")
    comfy.script(START, ALL_CACHED, SUCCESS, Finish(ENTRY), OVER)
    work = [fast.submit(GRAPH) for _ in range(40)]
    comfy.until(lambda: len(comfy.history) == 40 and away.hits >= 4, LIMIT)
    assert away.hits < 10
    away.end()
    for job in work:
        check(job.result(LIMIT))


@pytest.mark.timing(silence_cap=10.0)
def test_a_busy_queue_does_not_hurry_what_fails(comfy, fast):
    """Of a prompt that was attached each change of the queue is news, but not at any price."""
    go = threading.Event()
    comfy.script(START, go, *WELL[1:])
    job = fast.submit(GRAPH)
    with Fast(comfy.url, namespace=blinker.Namespace()) as other:
        taken = other.job(job.prompt_id)
        comfy.until(lambda: taken.status == "running", LIMIT)
        away = comfy.faults.bad_gateway(503, method="GET", path="/*")
        for number in range(100):
            status = {"exec_info": {"queue_remaining": 2 - number % 2}}
            comfy.push({"type": "status", "data": {"status": status}})
            threading.Event().wait(0.02)
        assert away.hits < 50  # ten on an idle machine
        away.end()
        go.set()
        check(taken.result(LIMIT))


@pytest.mark.timing(link=10 * LIMIT, job_poll=10 * LIMIT, job_poll_cap=10 * LIMIT, pause=0.05)
@pytest.mark.parametrize("count", [1, 20])
def test_a_socket_that_reconnects_all_the_time_is_no_reason_to_ask_all_the_time(
    comfy: ComfyServer, gate: threading.Event, count: int
) -> None:
    """Not at each reconnect; without the polls of a client that has no socket."""
    with client(comfy, ComfyApi) as api:
        running = [api.submit(shows(str(number), waits=True)) for number in range(count)]

        def cut() -> None:
            for number in range(1, 9):
                comfy.faults.drop()
                comfy.until(lambda n=number: len(comfy.hellos) > n and api.connected, LIMIT)
                time.sleep(0.1)  # for what should not be asked

        asked = [path for path in paths_asked(comfy, cut) if not path.endswith("/prompt")]
        assert len(asked) <= 2
        gate.set()
        assert [job.result(LIMIT).texts for job in running] == [(str(n),) for n in range(count)]


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_is_an_auth_error_and_backs_off_to_the_cap(
    comfy: ComfyServer, status: int
) -> None:
    """With real patience, one dial, and the next one as late as may be."""
    comfy.faults.refuse_sockets(status)
    with contextlib.closing(ComfyApi(comfy.url)) as api:
        heard = Heard(api)
        api.on("all", lambda event: None)  # connects
        until(lambda: heard("reconnecting"))
        assert len(comfy.handshakes) == 1
        error = heard("auth_error")[0].error
        assert isinstance(error, AuthenticationError)
        assert error.status == status
        assert heard("reconnecting")[0].delay == Timing().cap
        assert api.state is State.WAITING


def test_a_submission_that_goes_well_dials_no_socket_that_was_refused(
    make: Make, comfy: ComfyServer
) -> None:
    """Only who asks for the connection itself does."""
    comfy.faults.refuse_sockets(401)
    owner, link = make(comfy.url, timing=attrs.evolve(PATIENT, cap=10 * LIMIT))
    until(lambda: link.state is State.WAITING)
    link.nudge()
    time.sleep(0.2)
    assert owner.plans == 1
    link.retry()
    until(lambda: owner.plans == 2)
