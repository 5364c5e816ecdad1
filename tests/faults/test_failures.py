"""One test at least per failure that a client must survive, on the embedded server.

The numbers are those of a list of failures seen in the wild: F1 to F28 and F34 to F37 are the
server's or the network's, the rest the client's own.  Prompts are really executed wherever the
failure needs no script, and the server's own record says what ran, and how often.
"""

from __future__ import annotations

import _thread
import contextlib
import gc
import io
import logging
import os
import struct
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import blinker
import pytest

from comfy_client import ComfyApi, State, models
from comfy_client.errors import (
    AuthenticationError,
    ClientClosed,
    ComfyError,
    JobInterrupted,
    JobLost,
    JobTimeout,
    NotFound,
    NotSupported,
    PromptRejected,
    RequestTimeout,
    SubmitUncertain,
    TransportError,
    UnexpectedResponse,
    UploadTooLarge,
    WorkflowError,
)
from comfy_client.jobs.job import state_of
from comfy_client.testing import (
    ComfyServer,
    Request,
    check_interrupted,
)
from comfy_client.timing import Timing
from tests.conftest import load_workflow
from tests.helpers.clients import threads
from tests.helpers.march_2024 import March2024

LIMIT = 30.0  # seconds that anything may take on a busy machine
ENDS = {"execution_success", "execution_error", "execution_interrupted", "job_lost"}
pytestmark = pytest.mark.timing(
    silence=0.3,
    silence_cap=0.6,
    job_poll_cap=0.2,
    lost=0.2,
    question_pause=0.05,
    history=1.0,
    deaf=1.0,
    settle=2.0,
)
FAST = Timing(dial=2.0, ping=0.2, dead=1.0, poll=0.2, pause=0.05, cap=0.3)


class Quick(ComfyApi):
    """Finds out soon that a connection is dead, and dials again soon."""

    timing = FAST


class Hasty(ComfyApi):
    """Pings all the time."""

    timing = Timing(ping=0.04, dead=1.0)


class Calm(ComfyApi):
    """Dials again soon, and is slow to believe that a connection is dead."""

    timing = Timing(ping=0.2, dead=60.0, poll=0.2, pause=0.05, cap=0.3)


class Hold:
    """A node that hands a picture on when it may."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {"image": ("IMAGE",), "gate": ("STRING",)}})
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "hold"
    CATEGORY = "test"
    gates: dict[str, threading.Event] = {}  # noqa: RUF012  filled by a test

    def hold(self, image: Any, gate: str) -> tuple[Any]:
        while not self.gates.setdefault(gate, threading.Event()).wait(0.01):
            check_interrupted()
        return (image,)


class Told:
    """What a client announces, in order."""

    def __init__(self, api: ComfyApi) -> None:
        self.events: list[Any] = []
        api.on("all", self.events.append)

    def __call__(self, *names: str) -> list[Any]:
        return [event for event in list(self.events) if event.name in names]

    @property
    def links(self) -> list[str]:
        return [event.name for event in self("disconnected", "reconnected")]

    def end(self, prompt_id: str) -> Any:
        """The one end event of a prompt."""
        [event] = [event for event in self(*ENDS) if event.prompt_id == prompt_id]
        return event


@pytest.fixture
def server() -> Iterator[ComfyServer]:
    with ComfyServer() as running:
        running.add_node(Hold)
        yield running


@pytest.fixture
def api(server: ComfyServer) -> Iterator[ComfyApi]:
    with Calm(server.url, namespace=blinker.Namespace()) as client:
        yield client


@pytest.fixture
def gate() -> Iterator[Callable[[str], threading.Event]]:
    """What a prompt with ``held(name)`` waits for."""

    def make(name: str) -> threading.Event:
        return Hold.gates.setdefault(name, threading.Event())

    yield make
    for event in Hold.gates.values():
        event.set()
    Hold.gates.clear()


def picture(color: int = 5) -> dict[str, Any]:
    return {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": 16, "height": 16, "batch_size": 1, "color": color},
        },
        "9": {
            "class_type": "SaveImage",
            "inputs": {"images": ["1", 0], "filename_prefix": "x"},
            "_meta": {"title": "Save"},
        },
    }


def held(name: str) -> dict[str, Any]:
    """Saves its picture when the gate of this name opens."""
    graph = picture()
    graph["2"] = {"class_type": "Hold", "inputs": {"image": ["1", 0], "gate": name}}
    graph["9"]["inputs"]["images"] = ["2", 0]
    return graph


def runs(server: ComfyServer) -> None:
    """Wait until a prompt runs."""
    server.until(lambda: server.ran and server.running and server.ran[-1].status is None, LIMIT)


def once(server: ComfyServer, told: Told, result: Any, *, recovered: bool | None = None) -> None:
    """One run, one picture, one end event."""
    [ran] = [ran for ran in server.ran if result.prompt_id == ran.prompt_id]
    server.until(lambda: ran.status == "success", LIMIT)
    assert len(result["Save"].images) == 1
    assert result["Save"].images[0].bytes().startswith(b"\x89PNG")
    event = told.end(result.prompt_id)
    assert event.name == "execution_success"
    if recovered is not None:
        assert event.recovered is recovered


def posts(server: ComfyServer) -> list[Request]:
    return [r for r in server.requests if (r.method, r.path) == ("POST", "/prompt")]


@contextlib.contextmanager
def quickly(seconds: float) -> Iterator[None]:
    start = time.monotonic()
    yield
    assert time.monotonic() - start < seconds


# -- F1 to F11: the socket is silent, late, or gone --------------------------------------


@pytest.mark.timing(deaf=0.3)
def test_f01_a_stale_handler_makes_a_socket_deaf(server: ComfyServer) -> None:
    """The job ends by asking; the missing ``status`` gives the deaf one away, once."""
    with Calm(server.url) as api:
        told = Told(api)
        with server.faults.stale_handlers():
            server.faults.drop()
            server.until(lambda: len(server.hellos) == 2 and api.connected, LIMIT)
        once(server, told, api.run(picture(1), timeout=LIMIT), recovered=True)
        server.until(lambda: len(server.hellos) == 3 and api.connected, LIMIT)
        once(server, told, api.run(picture(2), timeout=LIMIT), recovered=False)
        assert len(server.hellos) == 3
        assert set(server.hellos) == {api.client_id}


def test_f01_a_deaf_socket_that_answers_pings_is_no_obstacle(
    server: ComfyServer, api: ComfyApi
) -> None:
    """A job that was under way ends as well."""
    told = Told(api)
    with server.faults.deaf():
        once(server, told, api.run(picture(), timeout=LIMIT), recovered=True)
    assert told.links == []


def test_f02_a_half_open_connection(server: ComfyServer, gate: Any) -> None:
    """The job ends by asking meanwhile; the connection is replaced within its limit."""
    with Quick(server.url) as api:
        told = Told(api)
        job = api.submit(held("a"))
        runs(server)
        server.faults.go_dark()
        start = time.monotonic()
        gate("a").set()
        once(server, told, job.result(LIMIT), recovered=True)
        server.until(lambda: told("reconnected"), LIMIT)
        assert time.monotonic() - start >= FAST.dead - FAST.ping
        assert told.links == ["disconnected", "reconnected"]
        assert "nothing came for 1 s" in str(told("disconnected")[0].error)


def test_f03_a_job_ends_in_a_gap(server: ComfyServer, api: ComfyApi, gate: Any) -> None:
    """Its result comes, no second prompt, one ``disconnected`` and one ``reconnected``."""
    told = Told(api)
    job = api.submit(held("a"))
    runs(server)
    with server.faults.refuse_sockets(502):
        server.faults.drop()
        server.until(lambda: told("disconnected"), LIMIT)
        gate("a").set()
        server.until(lambda: job.prompt_id in server.history, LIMIT)
    once(server, told, job.result(LIMIT), recovered=True)
    server.until(lambda: told("reconnected"), LIMIT)
    assert told.links == ["disconnected", "reconnected"]
    assert len(posts(server)) == len(server.ran) == 1


@pytest.mark.parametrize("reset", [True, False])
def test_f04_dropped_five_times(server: ComfyServer, api: ComfyApi, gate: Any, reset: bool) -> None:
    """Each time it comes back, and the job ends over the last socket or by asking."""
    told = Told(api)
    job = api.submit(held("a"))
    runs(server)
    for count in range(5):
        server.faults.drop(reset=reset)
        server.until(lambda count=count: len(told("reconnected")) == count + 1, LIMIT)
    gate("a").set()
    once(server, told, job.result(LIMIT))
    assert told.links == ["disconnected", "reconnected"] * 5
    assert len(posts(server)) == len(server.ran) == 1


def test_f05_no_storm_of_dials() -> None:
    """Refused at once or by 403: a handful in three seconds, later and later; close is quick."""
    with ComfyServer() as forbidding, ComfyServer() as gone:
        forbidding.faults.refuse_sockets(403)
        with contextlib.ExitStack() as stack:
            refused = stack.enter_context(contextlib.closing(ComfyApi(forbidding.url)))
            told = Told(refused)
            refused._connection.start()
            alone = stack.enter_context(ComfyApi(gone.url))
            alone._connection.backoff.uniform = lambda low, high: (low + high) / 2
            heard = Told(alone)
            gone.kill()
            time.sleep(3.0)
            assert len(forbidding.handshakes) == 1
            assert told("auth_error")
            delays = [event.delay for event in heard("reconnecting")]
            assert 2 <= len(delays) <= 6
            assert delays == sorted(delays)
            for api in (refused, alone):
                with quickly(2.0):
                    api.close()


def test_f06_a_server_that_is_busy_is_not_dead(
    server: ComfyServer, gate: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """No disconnection within the limit; what it did not answer in time is asked again."""
    with Calm(server.url, timeout=(2.0, 0.5)) as api:
        told = Told(api)
        job = api.submit(held("a"))
        runs(server)
        with server.faults.freeze():
            gate("a").set()
            time.sleep(2.5)  # several times as long as an answer may take
            assert not job.done()
        once(server, told, job.result(LIMIT))
        assert told.links == []
        assert len(server.hellos) == 1


def test_f07_history_comes_late(server: ComfyServer, api: ComfyApi) -> None:
    """``execution_success`` is there, and the outputs of cached nodes are not: it waits."""
    told = Told(api)
    with server.faults.late_history(1.0):
        once(server, told, api.run(picture(), timeout=LIMIT))
        again = api.run(picture(), timeout=LIMIT)
        once(server, told, again)
        assert again.fully_cached


def test_f07_history_comes_late_for_a_job_that_asks(server: ComfyServer) -> None:
    """No "no outputs": what has just ended is not lost."""
    with (
        server.faults.late_history(0.5),
        contextlib.closing(Calm(server.url, transport="poll")) as api,
    ):
        told = Told(api)
        once(server, told, api.run(picture(), timeout=LIMIT), recovered=True)


def test_f08_events_come_before_the_reply(server: ComfyServer, api: ComfyApi) -> None:
    """None of them is lost."""
    told = Told(api)
    events: list[str] = []
    with server.faults.events_before_reply():
        result = api.run(picture(), timeout=LIMIT, on_event=lambda e: events.append(e.name))
    once(server, told, result, recovered=False)
    assert events[0] == "execution_start"
    assert events[-1] == "execution_success"
    assert {"executing", "executed"} <= set(events)


@pytest.mark.timing(settle=0.1)
def test_f09_a_job_is_over_before_the_socket_is_up(server: ComfyServer) -> None:
    """History has its result."""
    with server.faults.stall_handshakes(), contextlib.closing(Calm(server.url)) as api:
        told = Told(api)
        once(server, told, api.run(picture(), timeout=LIMIT), recovered=True)
        assert server.hellos == []


def test_f10_everything_is_cached(server: ComfyServer, api: ComfyApi) -> None:
    """The same picture again, and it says why it was quick."""
    first = api.run(picture(), timeout=LIMIT)
    told = Told(api)
    second = api.run(picture(), timeout=LIMIT)
    once(server, told, second)
    assert (first.fully_cached, second.fully_cached) == (False, True)
    assert set(second.cached_nodes) == {"1", "9"}
    assert second.images[0].filename == first.images[0].filename


def test_f11_history_has_no_outputs(server: ComfyServer, api: ComfyApi) -> None:
    """Those of ``executed`` count; where there were none, to ask for them is a clear error."""

    def emptied(answer: Any) -> Any:
        return {key: {**entry, "outputs": {}} for key, entry in answer.items()}

    api.run(picture(), timeout=LIMIT)
    server.faults.rewrite("GET", "/history*", emptied)
    told = Told(api)
    once(server, told, api.run(picture(), timeout=LIMIT))
    for fault in (server.faults.lose("executed"), server.faults.deaf()):
        with fault, quickly(LIMIT / 2):
            result = api.run(picture(), timeout=LIMIT)
        assert result.files == ()
        with pytest.raises(WorkflowError, match="no output of a node 'Save'"):
            result["Save"]


# -- F12 to F16: the prompt is stopped, deleted, lost ------------------------------------


@pytest.mark.parametrize("is_deaf", [False, True])
def test_f12_someone_else_interrupts(
    server: ComfyServer, api: ComfyApi, gate: Any, is_deaf: bool
) -> None:
    """``JobInterrupted``, whether the socket or only history tells."""
    gate("a")
    told = Told(api)
    with server.faults.deaf() if is_deaf else contextlib.nullcontext(), Quick(server.url) as other:
        job = api.submit(held("a"))
        runs(server)
        other.interrupt()
        with pytest.raises(JobInterrupted, match="was interrupted at"):
            job.result(LIMIT)
    assert (told.end(job.prompt_id).name, job.status) == ("execution_interrupted", "interrupted")
    assert told.end(job.prompt_id).recovered is is_deaf


def test_f13_deleted_while_it_waits(server: ComfyServer, api: ComfyApi, gate: Any) -> None:
    """It ends as lost, by asking; the one before it is not disturbed."""
    told = Told(api)
    first = api.submit(held("a"))
    runs(server)
    second = api.submit(picture())
    with Quick(server.url) as other:
        other.delete_from_queue(second.prompt_id)
    with pytest.raises(JobLost, match="in no queue and no history"):
        second.result(LIMIT)
    assert told.end(second.prompt_id).name == "job_lost"
    gate("a").set()
    once(server, told, first.result(LIMIT))
    assert len(server.ran) == 1


@pytest.mark.parametrize("waits", [False, True])
def test_f14_killed_and_back_with_nothing(
    server: ComfyServer, api: ComfyApi, gate: Any, waits: bool
) -> None:
    """``JobLost`` within a few questions; the next job runs."""
    gate("a")
    told = Told(api)
    job = api.submit(held("a"))
    runs(server)
    if waits:
        job = api.submit(picture())
    server.kill()
    server.until(lambda: told("disconnected"), LIMIT)
    assert not job.done()
    server.start()
    asked = len(server.requests)
    with pytest.raises(JobLost):
        job.result(LIMIT)
    about = f"/history/{job.prompt_id}"
    questions = [r for r in server.requests[asked:] if r.path == about]
    assert len(questions) <= 5
    assert (told.end(job.prompt_id).name, job.status) == ("job_lost", "lost")
    server.until(lambda: told("reconnected"), LIMIT)
    once(server, told, api.run(picture(7), timeout=LIMIT))


def test_f14_a_lost_queue_without_a_restart(server: ComfyServer, api: ComfyApi, gate: Any) -> None:
    """What waits and what runs."""
    gate("a")
    told = Told(api)
    both = [api.submit(held("a")), api.submit(picture())]
    runs(server)
    server.faults.lose_queue()
    for job in both:
        with pytest.raises(JobLost):
            job.result(LIMIT)
        assert told.end(job.prompt_id).name == "job_lost"
    assert told.links == []


def test_f15_the_worker_died(server: ComfyServer, api: ComfyApi) -> None:
    """No end without ``stall_timeout``; with it an error that says so, and the wait may go on."""
    told = Told(api)
    with server.faults.hang_worker():
        job = api.submit(picture())
        runs(server)
        with pytest.raises(JobTimeout, match=r"has not ended within 0\.5 s") as caught:
            job.result(0.5)
        assert not caught.value.stalled
        with quickly(LIMIT), pytest.raises(JobTimeout, match="no news of prompt") as caught:
            job.result(stall_timeout=0.5)
        assert caught.value.stalled
        assert "last news" in job.why()
        with pytest.raises(JobTimeout) as caught:
            api.run(picture(2), stall_timeout=0.5)
        assert caught.value.stalled
        assert job.status == "running"
    once(server, told, job.result(LIMIT))


def test_f16_history_is_gone_when_it_is_fetched(
    server: ComfyServer, api: ComfyApi, gate: Any
) -> None:
    """The outputs that events told are used; what a gap may have cost is said."""
    told = Told(api)
    graph = held("a")
    graph["8"] = {
        "class_type": "SaveImage",
        "inputs": {"images": ["1", 0], "filename_prefix": "y"},
        "_meta": {"title": "Early"},
    }
    server.faults.no_history()
    whole = api.run(picture(), timeout=LIMIT)
    assert (len(whole.images), whole.complete) == (1, True)
    job = api.submit(graph)
    server.until(lambda: told("executed") and told("executed")[-1].node == "8", LIMIT)
    server.faults.drop()
    server.until(lambda: told("reconnected"), LIMIT)
    gate("a").set()
    result = job.result(LIMIT)
    assert not result.complete
    assert [f.node_id for f in result.images] == ["8", "9"]
    assert told.end(job.prompt_id).name == "execution_success"


# -- F17 to F23: what the server answers -------------------------------------------------


def half_valid() -> dict[str, Any]:
    graph = picture()
    graph["7"] = {
        "class_type": "SaveImage",
        "inputs": {"images": ["6", 0], "filename_prefix": "z"},
        "_meta": {"title": "Broken"},
    }
    graph["6"] = {
        "class_type": "EmptyImage",
        "inputs": {"width": -5, "height": 16, "batch_size": 1, "color": 0},
    }
    return graph


def test_f17_a_part_of_the_workflow_is_refused(
    server: ComfyServer, api: ComfyApi, caplog: pytest.LogCaptureFixture
) -> None:
    """A warning once, and told; the rest runs."""
    told = Told(api)
    result = api.run(half_valid(), timeout=LIMIT)
    once(server, told, result)
    assert set(result.node_errors) == {"6"}
    assert caplog.text.count("without some of its outputs") == 1


def test_f17_strict_refuses_a_part(server: ComfyServer, api: ComfyApi, gate: Any) -> None:
    """And does not let it run."""
    first = api.submit(held("a"))
    runs(server)
    with pytest.raises(PromptRejected, match="strict=True") as caught:
        api.run(half_valid(), strict=True, timeout=LIMIT)
    assert set(caught.value.node_errors) == {"6"}
    gate("a").set()
    first.result(LIMIT)
    assert [ran.prompt_id for ran in server.ran] == [first.prompt_id]
    server.until(lambda: (server.pending, server.running) == ([], []), LIMIT)


@pytest.mark.parametrize("status", [200, 302, 401, 403])
def test_f18_a_login_page_is_everywhere(server: ComfyServer, status: int) -> None:
    """A typed error with status, type and the beginning of the page, never a bad JSON."""
    with contextlib.closing(Calm(server.url)) as api:
        api.init(LIMIT)
        server.faults.login_page(status)
        calls: list[Callable[[], object]] = [
            lambda: api.run(picture(), timeout=LIMIT),
            api.get_queue,
            api.get_system_stats,
            lambda: api.get_history("x"),
            lambda: api.upload_image(b"x", "a.png"),
        ]
        for call in calls:
            with quickly(LIMIT), pytest.raises(ComfyError) as caught:
                call()
            error: Any = caught.value
            kind = AuthenticationError if status in (401, 403) else UnexpectedResponse
            assert isinstance(error, kind), error
            assert error.status == status
            assert "Please log in" in str(error.body)
            if status == 200:
                assert "text/html" in str(error)
        with quickly(LIMIT), pytest.raises((UnexpectedResponse, AuthenticationError)):
            Calm(server.url).init(LIMIT)
    assert server.ran == []


def test_f18_a_login_page_is_no_empty_answer(server: ComfyServer, api: ComfyApi) -> None:
    """Where a server has nothing to say, a page says that nothing was done."""
    with server.faults.login_page():
        for call in (api.interrupt, api.clear_queue, api.clear_history, api.free_memory):
            with pytest.raises(UnexpectedResponse, match="text/html"):
                call()


@pytest.mark.parametrize("status", [200, 302])
def test_f18_a_login_page_in_the_middle_of_a_job(
    server: ComfyServer, api: ComfyApi, gate: Any, status: int
) -> None:
    """It goes away again, and nothing was lost."""
    told = Told(api)
    job = api.submit(held("a"))
    runs(server)
    with server.faults.deaf(), server.faults.login_page(status, times=1) as page:
        server.until(lambda: page.hits, LIMIT)
        gate("a").set()
        once(server, told, job.result(LIMIT))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_f19_a_post_is_redirected(server: ComfyServer, api: ComfyApi, status: int) -> None:
    """An error that names the URL to use; nothing is queued, not by a GET either."""
    before = len(server.requests)
    with (
        server.faults.redirect(status, method="POST"),
        pytest.raises(
            UnexpectedResponse, match=r"redirected to https://127\.0\.0\.1:\d+"
        ) as caught,
    ):
        api.run(picture(), timeout=LIMIT)
    assert caught.value.status == status
    assert [(r.method, r.path) for r in server.requests[before:]] == [("POST", "/prompt")]
    assert server.ran == []


@pytest.mark.parametrize(
    ("status", "transport"), [(502, "auto"), (503, "poll"), (504, "auto"), (524, "poll")]
)
def test_f20_a_gateway_is_bad_in_between(
    server: ComfyServer, gate: Any, caplog: pytest.LogCaptureFixture, status: int, transport: Any
) -> None:
    """It keeps waiting, and says so once."""
    with contextlib.closing(Calm(server.url, transport=transport)) as api:
        told = Told(api)
        job = api.submit(held("a"))
        runs(server)
        server.faults.deaf()
        with server.faults.bad_gateway(status, method="GET", times=5) as bad:
            server.until(lambda: bad.hits == 5, LIMIT)
            gate("a").set()
            once(server, told, job.result(LIMIT))
    warned = [
        r for r in caplog.records if r.levelno >= logging.WARNING and str(status) in r.message
    ]
    assert len(warned) <= 1


@pytest.mark.parametrize("transport", ["auto", "poll"])
@pytest.mark.parametrize("how", ["reset", "fin", "half", "502", "silence"])
def test_f21_the_reply_is_cut_behind_a_queued_prompt(
    server: ComfyServer, how: str, transport: Any
) -> None:
    """It is found by its id, and runs once."""
    with contextlib.closing(Calm(server.url, transport=transport, timeout=(2.0, 1.0))) as api:
        told = Told(api)
        if how == "502":

            def lost(request: Request) -> Any:
                server.answer(request)
                return 502, {}, "bad gateway"

            server.on("POST", "/prompt", lost)
        elif how == "silence":
            server.faults.delay("POST", "/prompt", ran=True)
        else:
            sent = 10 if how == "half" else None
            server.faults.cut("POST", "/prompt", ran=True, reset=how == "reset", sent=sent)
        once(server, told, api.run(picture(), timeout=LIMIT))
        assert len(posts(server)) == len(server.ran) == 1


@pytest.mark.timing(look_up=0.5)
def test_f21_a_prompt_that_never_arrived(server: ComfyServer, api: ComfyApi) -> None:
    """``SubmitUncertain`` with its id, or sent again if so wished; one run at most."""
    told = Told(api)
    with (
        server.faults.cut("POST", "/prompt", reset=True, times=1),
        pytest.raises(SubmitUncertain) as caught,
    ):
        api.run(picture(), timeout=LIMIT)
    assert posts(server)[0].json()["prompt_id"] == caught.value.prompt_id
    assert server.ran == []
    with server.faults.cut("POST", "/prompt", reset=True, times=1):
        result = api.run(picture(), timeout=LIMIT, resubmit=True)
    once(server, told, result)
    ids = [request.json()["prompt_id"] for request in posts(server)]
    assert ids[1:] == [result.prompt_id] * 2
    assert len(server.ran) == 1


@pytest.mark.parametrize("cut", [False, True])
def test_f22_the_server_chooses_the_id(server: ComfyServer, api: ComfyApi, cut: bool) -> None:
    """The replied one counts; without a reply our mark tells which it is."""
    told = Told(api)
    server.faults.other_prompt_ids()
    if cut:
        server.faults.cut("POST", "/prompt", ran=True)
    result = api.run(picture(), timeout=LIMIT)
    once(server, told, result)
    [ran] = server.ran
    assert ran.prompt_id == result.prompt_id
    assert ran.mark == posts(server)[0].json()["prompt_id"] != result.prompt_id


def test_f23_ids_are_canonical() -> None:
    """So that no server refuses them; an odd one of the caller's never leaves."""
    with ComfyServer(version="new") as server, Calm(server.url) as api:
        told = Told(api)
        once(server, told, api.run(picture(), timeout=LIMIT))
        sent = posts(server)[0].json()["prompt_id"]
        assert sent == str(uuid.UUID(sent))
        for odd in (sent.upper(), "x", sent.replace("-", ""), f"{{{sent}}}"):
            with pytest.raises(ValueError, match="canonical UUID"):
                api.submit(picture(), prompt_id=odd)
        assert len(posts(server)) == 1


# -- F24 to F28: what comes over the socket ----------------------------------------------


def test_f24_two_clients_share_an_id(server: ComfyServer, caplog: pytest.LogCaptureFixture) -> None:
    """Both have their results, and neither drives the other away again and again."""
    with Calm(server.url, client_id="same") as one, Calm(server.url, client_id="same") as two:
        told = [Told(one), Told(two)]
        for number in range(3):
            results = [
                job.result(LIMIT) for job in [api.submit(picture(number)) for api in (one, two)]
            ]
            for result, each in zip(results, told, strict=True):
                once(server, each, result)
        server.until(lambda: len(server.hellos) == 3, LIMIT)  # one of them has noticed, and said so
        assert "'same'" in caplog.text
        for number in range(3, 6):
            for each, api in zip(told, (one, two), strict=True):
                once(server, each, api.run(picture(number), timeout=LIMIT))
        assert len(server.hellos) <= 4
    with Calm(server.url) as one, Calm(server.url) as two:
        assert one.client_id != two.client_id


def test_f25_foreign_traffic(server: ComfyServer, api: ComfyApi) -> None:
    """Other prompts, other extensions, odd data: told to who asks for them, and no harm."""
    told = Told(api)
    seen: list[Any] = []
    with server.faults.foreign_traffic() as fault:
        for number in range(3):
            result = api.run(picture(number), timeout=LIMIT, on_event=seen.append)
            once(server, told, result, recovered=False)
    assert fault.hits > 20
    assert {event.prompt_id for event in seen} == {ran.prompt_id for ran in server.ran}
    assert told("crystools.monitor")
    assert told.links == []


def test_f26_broken_messages(server: ComfyServer, api: ComfyApi) -> None:
    """Each kind of them is dropped; the thread lives, and the connection."""
    told = Told(api)
    with server.faults.junk() as fault:
        for number in range(4):
            once(server, told, api.run(picture(number), timeout=LIMIT), recovered=False)
    assert fault.hits > 40
    assert told.links == []
    assert len(server.hellos) == 1


def test_f27_a_reconnected_socket_is_told_of_a_node_without_a_prompt(
    server: ComfyServer, api: ComfyApi, gate: Any
) -> None:
    """As the real server does; another job of ours does not take it for its own."""
    told = Told(api)
    first = api.submit(held("a"))
    runs(server)
    server.until(lambda: state_of(first).visited, LIMIT)
    second = api.submit(picture(7))
    server.faults.drop()
    server.until(lambda: told("reconnected"), LIMIT)
    server.until(lambda: [e for e in told("executing") if e.prompt_id is None], LIMIT)
    assert (first.status, second.status) == ("running", "pending")
    gate("a").set()
    once(server, told, first.result(LIMIT))
    once(server, told, second.result(LIMIT))


def test_f28_fragments_and_pauses_in_frames(server: ComfyServer) -> None:
    """Every message is whole, though each pauses for longer than it takes to ping."""
    with Hasty(server.url) as api:
        told = Told(api)
        with server.faults.fragments(4):
            once(server, told, api.run(picture(1), timeout=LIMIT))
        with server.faults.pause_in_frames(0.1), server.faults.lose("progress_state"):
            once(server, told, api.run(picture(2), timeout=LIMIT))
        assert told.links == []


def test_f28_a_huge_message_in_pieces(server: ComfyServer, api: ComfyApi) -> None:
    """A hundred megabytes, whole."""
    told = Told(api)
    data = os.urandom(1 << 20) * 100
    server.push_binary(struct.pack(">II", 1, 2) + data, fragments=7)
    server.until(lambda: told("b_preview"), LIMIT)
    assert told("b_preview")[0].image == data
    once(server, told, api.run(picture(), timeout=LIMIT), recovered=False)
    assert told.links == []


def test_f28_a_message_that_is_too_large(server: ComfyServer, api: ComfyApi) -> None:
    """Costs that connection, not the job."""
    told = Told(api)
    server.faults.oversized_frame(2**50)
    server.until(lambda: told("reconnected"), LIMIT)
    once(server, told, api.run(picture(), timeout=LIMIT))


# -- F29 to F33: the client's own --------------------------------------------------------


def test_f29_a_receiver_that_raises(
    server: ComfyServer, api: ComfyApi, caplog: pytest.LogCaptureFixture
) -> None:
    """The others still run; it is shown once."""

    def wrong(event: Any) -> None:
        raise RuntimeError("mine")

    api.on("execution_start", wrong)
    told = Told(api)
    once(server, told, api.run(picture(), timeout=LIMIT), recovered=False)
    assert told("execution_start")
    assert caplog.text.count("RuntimeError: mine") == 1


def test_f29_a_receiver_that_sleeps(server: ComfyServer) -> None:
    """Pings are answered meanwhile, and the connection is kept."""
    with Quick(server.url) as api:
        told = Told(api)
        wake = threading.Event()
        api.on("execution_start", lambda e: wake.wait(LIMIT))
        job = api.submit(picture())
        server.until(lambda: job.prompt_id in server.history, LIMIT)
        before = server.pings
        server.until(lambda: server.pings >= before + 10, LIMIT)  # twice the limit for silence
        wake.set()
        once(server, told, job.result(LIMIT), recovered=False)
        assert told.links == []
        assert len(server.hellos) == 1


def test_f29_a_receiver_that_runs_another(server: ComfyServer, api: ComfyApi) -> None:
    """No deadlock."""
    inner: list[Any] = []
    told = Told(api)
    api.on("execution_success", lambda e: inner or inner.append(api.run(picture(8), timeout=LIMIT)))
    once(server, told, api.run(picture(), timeout=LIMIT))
    server.until(lambda: inner, LIMIT)
    server.until(lambda: [e for e in told(*ENDS) if e.prompt_id == inner[0].prompt_id], LIMIT)
    once(server, told, inner[0])


def test_f29_a_receiver_that_closes(server: ComfyServer, gate: Any) -> None:
    """The wait ends at once."""
    gate("a")
    api = Calm(server.url).init(LIMIT)
    api.on("executing", lambda e: api.close())
    with quickly(LIMIT / 2), pytest.raises(ClientClosed):
        api.run(held("a"), timeout=LIMIT)
    server.until(lambda: api.state is State.CLOSED, LIMIT)


@pytest.mark.parametrize("policy", ["leave", "cancel"])
def test_f30_ctrl_c_while_waiting(
    server: ComfyServer, api: ComfyApi, gate: Any, policy: Any
) -> None:
    """Leaves promptly; the prompt goes on, or is stopped; the client is of use afterwards."""
    gate("a")
    told = Told(api)
    at: list[float] = []

    def press() -> None:
        runs(server)
        at.append(time.monotonic())
        _thread.interrupt_main()

    pressing = threading.Thread(target=press)
    pressing.start()
    with pytest.raises(KeyboardInterrupt):
        api.run(held("a"), on_interrupt=policy, timeout=LIMIT)
    assert time.monotonic() - at[0] < (2 if policy == "leave" else 8)
    pressing.join(LIMIT)
    [ran] = server.ran
    if policy == "leave":
        assert ran.status is None
        gate("a").set()
    server.until(lambda: ran.status is not None, LIMIT)
    assert ran.status == ("success" if policy == "leave" else "error")
    once(server, told, api.run(picture(7), timeout=LIMIT))


def test_ctrl_c_before_the_submission_names_no_prompt_that_goes_on(
    server: ComfyServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It waited for the socket: the server has nothing to attach to."""

    def pressed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with Calm(server.url) as api:
        monkeypatch.setattr("comfy_client.transport.websocket.Connection.wait_settled", pressed)
        with pytest.raises(KeyboardInterrupt):
            api.run(picture(7), timeout=LIMIT)
    assert "keeps running" not in caplog.text
    assert not server.ran


def test_f31_twenty_forgotten_clients(server: ComfyServer) -> None:
    """Their threads end, and their connections."""
    for _ in range(20):
        api = Calm(server.url).init(LIMIT)
        Told(api)
        api.run(picture(), timeout=LIMIT)
        del api
    gc.collect()
    server.until(lambda: not threads(), LIMIT)
    server.until(lambda: not server.sockets, LIMIT)


_SCRIPT = """
import sys, time
from comfy_client import ComfyApi
api = ComfyApi(sys.argv[1]).init(30)
api.on("all", lambda event: None)
job = api.submit({graph!r})
print(time.time(), flush=True)
"""


def test_f32_the_interpreter_exits_with_a_live_client(server: ComfyServer) -> None:
    """At once, without a word."""
    server.faults.hang_worker()
    done = subprocess.run(
        [
            sys.executable,
            "-X",
            "dev",
            "-W",
            "error",
            "-c",
            _SCRIPT.format(graph=picture()),
            server.url,
        ],
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    left = time.time() - float(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert left < 3.0  # a tenth of that, but the machine may be busy


@pytest.mark.parametrize("when", ["silent", "frozen", "backing off", "handshake", "callback"])
def test_f33_close_is_quick(server: ComfyServer, when: str) -> None:
    """Whatever the other side does; twice, too."""
    api = ComfyApi(server.url)
    if when == "handshake":
        fault = server.faults.stall_handshakes()
        api._connection.start()
        server.until(lambda: fault.hits, LIMIT)
    else:
        api.init(LIMIT)
    if when == "silent":
        server.faults.go_dark()
    elif when == "frozen":
        server.faults.freeze()
    elif when == "backing off":
        told = Told(api)
        server.kill()
        server.until(lambda: told("reconnecting"), LIMIT)
    took: list[float] = []

    def close(event: Any = None) -> None:
        start = time.monotonic()
        api.close()
        took.append(time.monotonic() - start)

    if when == "callback":
        api.on("status", close)
        server.push_status()
        server.until(lambda: took, LIMIT)
    close()
    close()
    assert max(took) < 2.0  # a tenth of that, but the machine may be busy
    assert api.state is State.CLOSED


# -- F34 to F38 --------------------------------------------------------------------------


def test_f34_a_job_ends_between_the_look_and_the_interrupt(
    server: ComfyServer, api: ComfyApi, gate: Any
) -> None:
    """The next one, which runs by then, is not stopped."""
    told = Told(api)
    first, second = api.submit(held("a")), api.submit(held("b"))
    runs(server)

    def late(request: Request) -> Any:
        gate("a").set()
        server.until(lambda: [item[1] for item in server.running] == [second.prompt_id], LIMIT)
        return server.answer(request)

    server.on("POST", "/interrupt", late)
    first.cancel()
    gate("b").set()
    once(server, told, second.result(LIMIT))
    once(server, told, first.result(LIMIT))


def test_f34_an_old_server_would_stop_whatever_runs(gate: Any) -> None:
    """So it is not asked to, unless told so; what waits is deleted."""
    with March2024() as server, Calm(server.url) as api:
        server.add_node(Hold)
        told = Told(api)
        first, second = api.submit(held("a")), api.submit(picture())
        runs(server)
        with pytest.raises(NotSupported, match="stops whatever runs"):
            first.cancel()
        assert second.cancel()
        with pytest.raises(JobInterrupted):
            second.result(LIMIT)
        assert [r for r in server.requests if r.path == "/interrupt"] == []
        gate("a").set()
        once(server, told, first.result(LIMIT))
        assert len(server.ran) == 1


def test_f35_an_upload_gets_another_name(server: ComfyServer, api: ComfyApi) -> None:
    """The one that the server says is used."""
    told = Told(api)
    source = api.run(picture(3), timeout=LIMIT).images[0].bytes()
    with server.faults.rename_uploads("elsewhere.png"):
        uploaded = api.upload_image(source, "a.png")
    assert uploaded.name == "elsewhere.png"
    graph = picture()
    graph["1"] = {"class_type": "LoadImage", "inputs": {"image": uploaded.ref}}
    once(server, told, api.run(graph, timeout=LIMIT))


def test_f35_an_upload_is_too_large_or_cut(server: ComfyServer, api: ComfyApi) -> None:
    """Typed errors; it is not sent again by itself, since it may be there."""
    with server.faults.too_large(limit=1000), pytest.raises(UploadTooLarge) as large:
        api.upload_image(bytes(5000), "a.png")
    assert large.value.status == 413
    for ran in (False, True):
        before = len(server.requests)
        with (
            server.faults.cut("POST", "/upload/image", ran=ran, reset=True),
            pytest.raises(TransportError),
        ):
            api.upload_image(bytes(5000), f"{ran}.png")
        assert len(server.requests) == before + 1
        assert (server.root / "input" / f"{ran}.png").exists() is ran
    with server.faults.cut("POST", "/upload/image", sent=5), pytest.raises(TransportError):
        api.upload_image(bytes(5000), "c.png")


def test_f35_an_upload_is_cut_in_the_middle(server: ComfyServer, api: ComfyApi) -> None:
    """The server dies with half of it; nothing is there under its name."""

    class Deadly(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > 4 * 2**20 and server.sockets:
                server.kill()
            return super().read(size)

    with pytest.raises(TransportError):
        api.upload_image(Deadly(bytes(64 * 2**20)), "a.bin")
    server.start()
    assert list((server.root / "input").iterdir()) == []
    server.until(lambda: api.connected, LIMIT)
    assert api.upload_image(bytes(5000), "a.bin").name == "a.bin"


def test_f36_a_download_is_short_missing_or_slow(
    server: ComfyServer, api: ComfyApi, tmp_path: Any
) -> None:
    """Typed errors within the time, and no half of a file under its name, or any."""
    (server.root / "models" / "checkpoints" / "tiny.ckpt").touch()
    image: Any = api.run(load_workflow("txt2img_tiny", seed=1), timeout=LIMIT).images[0]
    with server.faults.cut("GET", "/view", sent=100), pytest.raises(TransportError):
        image.save(tmp_path / "short.png")
    with server.faults.cut("GET", "/view", sent=100), pytest.raises(TransportError):
        image.bytes()
    with (
        server.faults.drip("GET", "/view", size=10, pause=0.02),
        quickly(LIMIT / 2),
        pytest.raises(RequestTimeout),
    ):
        api.download_image(image, tmp_path / "slow.png", timeout=1.0)
    (server.root / "output" / image.subfolder / image.filename).unlink()
    with pytest.raises(NotFound):
        image.save(tmp_path / "gone.png")
    assert list(tmp_path.iterdir()) == []


def test_f37_a_server_from_before_the_prefix(server: ComfyServer) -> None:
    """Found out at once, and remembered; the jobs API has no other place."""
    server.faults.missing("*", "/api/*")
    server.faults.missing("*", "/features")
    with Calm(server.url) as api:
        told = Told(api)
        once(server, told, api.run(picture(1), timeout=LIMIT))
        once(server, told, api.run(picture(2), timeout=LIMIT))
        assert api.get_features() == models.Features()
        with pytest.raises(NotSupported):
            api.get_jobs()
        paths = [r.full_path for r in server.requests]
        first = next(n for n, path in enumerate(paths) if not path.startswith("/api/"))
        assert first <= 2
        assert [path for path in paths[first:] if path.startswith("/api/")] == ["/api/jobs"]


def test_f37_a_server_without_a_jobs_api(server: ComfyServer, api: ComfyApi, gate: Any) -> None:
    """To cancel falls back to what there is, and does not ask for more again."""
    gate("a")
    for _ in range(2):
        job = api.submit(held("a"))
        runs(server)
        assert job.cancel()
        with pytest.raises(JobInterrupted):
            job.result(LIMIT)
    assert len([r for r in server.requests if r.path.startswith("/jobs/")]) <= 1


def test_f38_the_clock_jumps(
    server: ComfyServer, gate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forth and back by weeks: no timeout, no disconnection, no early end."""
    true, offset = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: true() + offset[0])
    with Quick(server.url) as api:
        told = Told(api)
        job = api.submit(held("a"))
        runs(server)
        for jump in (3e6, -3e6, 0.0):
            offset[0] = jump
            before = server.pings
            server.until(lambda before=before: server.pings >= before + 3, LIMIT)
            with pytest.raises(JobTimeout):
                job.result(0.1)
        gate("a").set()
        once(server, told, job.result(LIMIT), recovered=False)
        assert told.links == []
