"""A socket that drops, falls silent or goes deaf is connected again, and says so once."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import attrs
import blinker
import pytest

from comfy_client import ComfyApi
from comfy_client.errors import (
    TransportError,
)
from comfy_client.testing import ComfyServer
from comfy_client.transport.websocket import State
from tests.comfyui import ComfyUI
from tests.helpers.clients import (
    FAST,
    LIMIT,
    Fast,
    Heard,
    Impatient,
    Quick,
    open_sockets,
    until,
    until_connected,
)
from tests.helpers.connections import Make
from tests.helpers.gates import check_once, held, saves, until_it_runs
from tests.helpers.graphs import txt2img
from tests.helpers.proxy import Proxy
from tests.helpers.scripted import (
    GRAPH,
    START,
    WELL,
    asked,
    check,
    custom,
    looks,
    posts,
)


@pytest.mark.timing(deaf=0.2)
def test_a_deaf_socket_is_reconnected_once_a_minute(comfy, fast):
    """The server forgot our route, so our own submission brings no status."""
    heard = threading.Event()
    comfy.faults.deaf()
    comfy.script(START, heard, *WELL[1:])
    job = fast.submit(GRAPH)
    comfy.until(lambda: len(comfy.hellos) == 2, LIMIT)
    comfy.faults.deaf()
    second = fast.submit(GRAPH)
    heard.set()
    check(job.result(LIMIT))
    check(second.result(LIMIT))
    assert len(comfy.hellos) == 2


@pytest.mark.timing(deaf=1.5)
def test_a_socket_that_hears_is_not_reconnected(comfy, fast):
    """A job that is silent for long is no reason to dial."""
    go = threading.Event()
    comfy.script(START, go, *WELL[1:])
    job = fast.submit(GRAPH)
    comfy.until(lambda: len(asked(comfy, "/history")) >= 5, LIMIT)
    assert len(looks(comfy)) <= 2  # nothing says that it has changed
    go.set()
    check(job.result(LIMIT))
    assert len(comfy.hellos) == 1


@pytest.mark.timing(deaf=0.3)
def test_a_socket_that_the_server_forgot_is_deaf_and_reconnected(comfy: ComfyServer) -> None:
    """The job ends by asking; the missing ``status`` gives the deaf one away, once."""
    with Fast(comfy.url) as api:
        told = Heard(api)
        with comfy.faults.stale_handlers():
            comfy.faults.drop()
            comfy.until(lambda: len(comfy.hellos) == 2 and api.connected, LIMIT)
        check_once(comfy, told, api.run(saves(1), timeout=LIMIT), recovered=True)
        comfy.until(lambda: len(comfy.hellos) == 3 and api.connected, LIMIT)
        check_once(comfy, told, api.run(saves(2), timeout=LIMIT), recovered=False)
        assert len(comfy.hellos) == 3
        assert set(comfy.hellos) == {api.client_id}


def test_a_job_on_a_deaf_socket_ends_over_http(comfy: ComfyServer, fast: ComfyApi) -> None:
    """A job that was under way ends as well."""
    told = Heard(fast)
    with comfy.faults.deaf():
        check_once(comfy, told, fast.run(saves(), timeout=LIMIT), recovered=True)
    assert told.links == []


def test_a_half_open_connection_is_reconnected(comfy: ComfyServer, gate: Any) -> None:
    """The job ends by asking meanwhile; the connection is replaced within its limit."""
    with Quick(comfy.url) as api:
        told = Heard(api)
        job = api.submit(held("a"))
        until_it_runs(comfy)
        comfy.faults.go_dark()
        start = time.perf_counter()
        gate("a").set()
        check_once(comfy, told, job.result(LIMIT), recovered=True)
        comfy.until(lambda: told("reconnected"), LIMIT)
        assert time.perf_counter() - start >= FAST.dead - FAST.ping
        assert told.links == ["disconnected", "reconnected"]
        assert "nothing came for 2 s" in str(told("disconnected")[0].error)


def test_a_job_that_ends_during_a_reconnect_has_its_result(
    comfy: ComfyServer, fast: ComfyApi, gate: Any
) -> None:
    """Its result comes, no second prompt, one ``disconnected`` and one ``reconnected``."""
    told = Heard(fast)
    job = fast.submit(held("a"))
    until_it_runs(comfy)
    with comfy.faults.refuse_sockets(502):
        comfy.faults.drop()
        comfy.until(lambda: told("disconnected"), LIMIT)
        gate("a").set()
        comfy.until(lambda: job.prompt_id in comfy.history, LIMIT)
    check_once(comfy, told, job.result(LIMIT), recovered=True)
    comfy.until(lambda: told("reconnected"), LIMIT)
    assert told.links == ["disconnected", "reconnected"]
    assert len(posts(comfy)) == len(comfy.ran) == 1


@pytest.mark.parametrize("reset", [True, False])
def test_a_job_survives_five_reconnects(
    comfy: ComfyServer, fast: ComfyApi, gate: Any, reset: bool
) -> None:
    """Each time it comes back, and the job ends over the last socket or by asking."""
    told = Heard(fast)
    job = fast.submit(held("a"))
    until_it_runs(comfy)
    for count in range(5):
        comfy.faults.drop(reset=reset)
        comfy.until(lambda count=count: len(told("reconnected")) == count + 1, LIMIT)
    gate("a").set()
    check_once(comfy, told, job.result(LIMIT))
    assert told.links == ["disconnected", "reconnected"] * 5
    assert len(posts(comfy)) == len(comfy.ran) == 1


def test_a_server_that_is_busy_is_not_dead(
    comfy: ComfyServer, gate: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """No disconnection within the limit; what it did not answer in time is asked again."""
    with Fast(comfy.url, timeout=(2.0, 1.0)) as api:
        told = Heard(api)
        job = api.submit(held("a"))
        until_it_runs(comfy)
        with comfy.faults.freeze():
            gate("a").set()
            time.sleep(2.5)  # several times as long as an answer may take
            assert not job.done()
        check_once(comfy, told, job.result(LIMIT))
        assert told.links == []
        assert len(comfy.hellos) == 1


@pytest.mark.timing(deaf=1.0)
def test_two_clients_of_one_id_have_their_results_and_reconnect_no_more(
    comfy: ComfyServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Both have their results, and neither drives the other away again and again."""
    with Fast(comfy.url, client_id="same") as one, Fast(comfy.url, client_id="same") as two:
        told = [Heard(one), Heard(two)]
        for number in range(3):
            results = [
                job.result(LIMIT) for job in [api.submit(saves(number)) for api in (one, two)]
            ]
            for result, each in zip(results, told, strict=True):
                check_once(comfy, each, result)
        comfy.until(lambda: len(comfy.hellos) == 3, LIMIT)  # one of them has noticed, and said so
        assert "'same'" in caplog.text
        for number in range(3, 6):
            for each, api in zip(told, (one, two), strict=True):
                check_once(comfy, each, api.run(saves(number), timeout=LIMIT))
        assert len(comfy.hellos) <= 4
    with Fast(comfy.url) as one, Fast(comfy.url) as two:
        assert one.client_id != two.client_id


def test_the_executing_node_after_a_reconnect_belongs_to_no_other_job(
    comfy: ComfyServer, fast: ComfyApi, gate: Any
) -> None:
    """As the real server does; another job of ours does not take it for its own."""
    told = Heard(fast)
    first = fast.submit(held("a"))
    until_it_runs(comfy)
    comfy.until(lambda: first.handle.state.visited, LIMIT)
    second = fast.submit(saves(7))
    comfy.faults.drop()
    comfy.until(lambda: told("reconnected"), LIMIT)
    comfy.until(lambda: [e for e in told("executing") if e.prompt_id is None], LIMIT)
    assert (first.status, second.status) == ("running", "pending")
    gate("a").set()
    check_once(comfy, told, first.result(LIMIT))
    check_once(comfy, told, second.result(LIMIT))


@pytest.mark.parametrize("reset", [True, False], ids=["rst", "fin"])
def test_each_cut_is_one_disconnected_and_one_reconnected(
    comfy: ComfyServer, quick: Quick, reset: bool
) -> None:
    """Five in a row, and as many as there may be: twenty."""
    heard = Heard(quick)
    for count in range(20):
        comfy.faults.drop(reset=reset)
        until_connected(comfy, quick, count + 2)
        until(lambda count=count: len(heard("reconnected")) == count + 1)  # type: ignore[misc]
    assert heard.links == ["disconnected", "reconnected"] * 20
    assert set(comfy.hellos) == {quick.client_id}
    for event in heard("reconnecting"):
        assert event.attempt >= 1
        assert 0 <= event.delay <= FAST.cap
        assert isinstance(event.error, TransportError)
    assert len(heard("reconnecting")) == 20
    assert [e.attempt for e in heard("reconnected")] == [1] * 20


def test_a_close_frame_of_the_server_is_reconnected(comfy: ComfyServer, quick: Quick) -> None:
    """No descriptor is left behind, and the code is told."""
    heard = Heard(quick)
    for count in range(5):
        comfy.faults.close_politely(1001, "going away")
        until_connected(comfy, quick, count + 2)
    until(lambda: len(heard("reconnected")) == 5)
    assert heard.links == ["disconnected", "reconnected"] * 5
    assert "closed the socket (code 1001)" in str(heard("disconnected")[0].error)
    until(lambda: len(open_sockets(comfy.port)) <= 2)  # the socket, and a kept HTTP connection


def test_a_server_that_was_away_for_long_is_reconnected(comfy: ComfyServer, quick: Quick) -> None:
    """Refused dials in between are no further disconnections."""
    heard = Heard(quick)
    refusal = comfy.faults.refuse_sockets(502)
    comfy.on("GET", "/prompt", (502, {}, None))
    comfy.faults.drop()
    until(lambda: len(heard("reconnecting")) >= 6)
    refusal.end()
    until_connected(comfy, quick, 2)
    until(lambda: heard("reconnected"))
    assert heard.links == ["disconnected", "reconnected"]
    assert heard("reconnected")[0].attempt >= 6


def test_a_silent_server_that_answers_pings_stays_connected(
    comfy: ComfyServer, quick: Quick
) -> None:
    """Silence is not death: far longer than the limit for silence without pongs."""
    heard = Heard(quick)
    comfy.until(lambda: comfy.pings >= 25, 30)  # 25 times 0.2 s: more than twice the limit
    assert heard.links == []
    assert len(comfy.hellos) == 1


def test_messages_spare_the_pings(comfy: ComfyServer, quick: Quick) -> None:
    """Only quiet is asked about."""

    def are_few() -> bool:
        before, end = comfy.pings, time.monotonic() + 4 * FAST.ping
        while time.monotonic() < end:
            comfy.push_status()
            time.sleep(0.01)
        return comfy.pings - before <= 2

    assert any(are_few() for _ in range(5))  # a busy machine makes pauses of its own


@pytest.mark.parametrize("how", ["no pong", "dark"])
def test_a_dead_peer_is_reconnected_within_the_limit(
    comfy: ComfyServer, quick: Quick, how: str
) -> None:
    """Half-open, or a server that reads and never answers."""
    heard = Heard(quick)
    start = time.perf_counter()
    if how == "dark":
        comfy.faults.go_dark()
    else:
        silence = comfy.faults.swallow_pings()
    until(lambda: heard("disconnected"))
    assert time.perf_counter() - start >= FAST.dead - FAST.ping
    assert "nothing came for 2 s" in str(heard("disconnected")[0].error)
    if how == "no pong":
        silence.end()
    until_connected(comfy, quick, 2)


@pytest.mark.timing(dead=LIMIT)
def test_a_pause_shorter_than_the_limit_is_no_death(comfy: ComfyServer, quick: Quick) -> None:
    """A loop that is busy loading a model answers late."""
    heard = Heard(quick)
    with comfy.faults.swallow_pings():
        comfy.until(lambda: comfy.pings >= 10)
    comfy.until(lambda: comfy.pings >= 12)
    assert heard.links == []


def test_logs_are_subscribed_anew_after_each_reconnect(comfy: ComfyServer, quick: Quick) -> None:
    """The server forgets them with the socket; after subscribe_logs(False) it may."""
    comfy.on("PATCH", "/internal/logs/subscribe", (200, {}, None))

    def patches() -> list[Any]:
        return [r.json() for r in comfy.requests if r.method == "PATCH"]

    quick.subscribe_logs()
    for count in range(2, 4):
        comfy.faults.drop()
        comfy.until(lambda count=count: len(patches()) == count)  # type: ignore[misc]
    assert patches() == [{"clientId": quick.client_id, "enabled": True}] * 3
    quick.subscribe_logs(False)
    until_connected(comfy, quick, 3)
    comfy.faults.drop()
    until_connected(comfy, quick, 4)
    assert [p["enabled"] for p in patches()] == [True, True, True, False]


def test_logs_of_a_client_without_a_socket_are_an_error(comfy: ComfyServer) -> None:
    """Before the server is asked for what could not arrive."""
    with ComfyApi(comfy.url, transport="poll") as api:
        heard = Heard(api)
        with pytest.raises(TransportError, match="there is none"):
            api.subscribe_logs()
        until(lambda: heard("terminal_subscription_error"))
    assert not [request for request in comfy.requests if request.method == "PATCH"]


def test_a_failed_renewal_of_logs_fires_terminal_subscription_error(
    comfy: ComfyServer, quick: Quick
) -> None:
    """``terminal_subscription_error``, with the exception; the connection goes on."""
    heard = Heard(quick)
    comfy.on("PATCH", "/internal/logs/subscribe", (200, {}, None))
    quick.subscribe_logs()
    comfy.on("PATCH", "/internal/logs/subscribe", (500, {}, None))
    comfy.faults.drop()
    until(lambda: heard("terminal_subscription_error"))
    assert heard("terminal_subscription_error")[0].error.status == 500
    until_connected(comfy, quick, 2)


def test_two_clients_do_not_disturb_each_other(comfy: ComfyServer, quick: Quick) -> None:
    """One loses its socket again and again; the other hears only what is its own."""
    heard = Heard(quick)
    with Quick(comfy.url) as other:
        for count in range(3):
            for ws in comfy.sockets:
                if ws.client_id == other.client_id:
                    ws.hang_up(reset=True)
            comfy.until(lambda count=count: comfy.hellos.count(other.client_id) == count + 2)  # type: ignore[misc]
        comfy.push(custom("mine"), to=quick.client_id)
        until(lambda: heard("custom"))
    comfy.push(custom("after"), to=quick.client_id)
    until(lambda: len(heard("custom")) == 2)
    assert heard.links == []
    assert quick.connected


class Suspicious(Quick):
    """Gives a server that shares its machine with others a moment to answer."""

    timing = attrs.evolve(FAST, dead=6.0)


@pytest.mark.real
def test_a_restarted_server_is_reconnected(comfyui: ComfyUI) -> None:
    """One disconnected, one reconnected, and its own words again."""
    with Impatient(comfyui.url) as api:
        heard = Heard(api)
        comfyui.restart()
        until(lambda: heard("reconnected"), 60)
        until(lambda: heard("feature_flags"))
        assert heard.links.count("disconnected") == heard.links.count("reconnected") == 1
        assert api.poll_status(30).queue_remaining == 0


@pytest.mark.real
def test_a_quiet_server_answers_pings(comfyui: ComfyUI) -> None:
    """The real one, for several times the limit."""
    with Suspicious(comfyui.url) as api:
        heard = Heard(api)
        time.sleep(3 * Suspicious.timing.dead)
        assert heard.links == []
        assert api.connected


@pytest.mark.timing(silence=0.3, question=0.5)
def test_kept_connections_that_are_dead_hold_up_no_verdict(comfy: ComfyServer) -> None:
    """The socket is dead, and so is each HTTP connection that was kept; new ones work."""
    with Proxy(comfy.port) as link, ComfyApi(link.url, namespace=blinker.Namespace()) as api:
        heard = Heard(api)
        with ThreadPoolExecutor(6) as pool:  # as many connections
            list(pool.map(lambda _: api.get_queue(), range(24)))
        job = api.submit(txt2img(steps=40))
        until(lambda: job.progress.step)
        link.dark(old_only=True)
        until(lambda: any(ran.status for ran in list(comfy.ran)))
        over = time.monotonic()
        assert len(job.result(LIMIT).images) == 1
        assert time.monotonic() - over < LIMIT  # half a second each, and longer and longer pauses
        assert heard.links == []


def test_the_old_socket_ends_before_the_new_one_begins(make: Make, comfy: ComfyServer) -> None:
    """The server forgets a client id with whichever socket of it ends."""
    owner, link = make(comfy.url)
    comfy.until(lambda: link.state is State.CONNECTED)
    for count in range(3):
        link.redial("a test")
        comfy.until(
            lambda count=count: len(comfy.hellos) == count + 2 and link.state is State.CONNECTED
        )
        assert len(comfy.sockets) == 1
    assert owner.names("reconnected") == ["reconnected"] * 3
    [first, *_] = [event for event in owner.events if event.name == "disconnected"]
    assert str(first.error) == "a test"


def test_redial_without_a_socket_is_nothing(make: Make, comfy: ComfyServer) -> None:
    """While it dials or waits there is nothing to give up."""
    comfy.faults.refuse_sockets(502)
    _, link = make(comfy.url, start=False)
    link.redial("too early")
    link.start()
    until(lambda: len(comfy.handshakes) >= 2)
    link.redial("still too early")
    comfy.faults.clear()
    comfy.until(lambda: link.state is State.CONNECTED)


@pytest.mark.timing(question_pause=60.0, silence_cap=60.0)
def test_a_reconnect_asks_at_once_however_long_the_outage_was(
    comfy: ComfyServer, fast: ComfyApi, gate: Any
) -> None:
    """The pause after a question that failed is over when the server is back."""
    heard = Heard(fast)
    job = fast.submit(held("a"))
    until_it_runs(comfy)
    with comfy.faults.bad_gateway(), comfy.faults.refuse_sockets(502):
        comfy.faults.drop()
        gate("a").set()
        until(lambda: "the server does not answer" in job.why())
    check_once(comfy, heard, job.result(LIMIT))
