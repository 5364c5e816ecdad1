"""Login pages, bad gateways and refusals, before and in the middle of a job."""

from __future__ import annotations

import contextlib
import logging
import threading
import traceback
import uuid
from collections.abc import Callable
from typing import Any

import blinker
import pytest

from comfy_client import ApiError, ComfyApi
from comfy_client.errors import (
    AuthenticationError,
    ComfyError,
    JobLost,
    PromptRejected,
    UnexpectedResponse,
)
from comfy_client.jobs import poller
from comfy_client.testing import ComfyServer, Finish, cut
from tests.helpers.clients import (
    LIMIT,
    Fast,
    Heard,
    client,
    quickly,
    until,
)
from tests.helpers.gates import Gates, check_once, held, saves, shows, until_it_runs
from tests.helpers.scripted import (
    ALL_CACHED,
    CACHED,
    ENTRY,
    GRAPH,
    LEFT,
    LOGIN,
    OUTPUT,
    OVER,
    QUEUE_ROUTES,
    RUNS,
    START,
    SUCCESS,
    WELL,
    answer_queue,
    asked,
    check,
    restore_queue,
    with_and_without_jobs_api,
)


@with_and_without_jobs_api
def test_a_login_page_ends_a_wait_that_has_no_socket(comfy):
    """A typed error, after a few tries, and one end event."""
    comfy.script(START)
    with Fast(comfy.url, transport="poll", namespace=blinker.Namespace()) as api:
        told = Heard(api)
        job = api.submit(GRAPH)
        answer_queue(comfy, LOGIN)
        comfy.on("GET", "/history/*", LOGIN)
        with pytest.raises(UnexpectedResponse):
            job.result(LIMIT)
        assert [e.name for e in told.ends(job.prompt_id)] == ["job_lost"]
        restore_queue(comfy)
        comfy.off("GET", "/history/*")
        comfy.finish(job.prompt_id, {"9": OUTPUT})
        check(api.job(job.prompt_id).result(LIMIT))  # it refused to tell, and may be asked again


@with_and_without_jobs_api
@pytest.mark.parametrize("transport", ["auto", "poll"])
def test_a_queue_that_is_refused_ends_no_wait_while_the_history_answers(comfy, transport):
    """It will have the prompt when that has ended; nor does a gap of the socket change this."""
    go = threading.Event()
    comfy.script(START, CACHED, RUNS, go, LEFT, SUCCESS, Finish(ENTRY), OVER)
    answer_queue(comfy, (403, {}, "not for you"))
    with Fast(comfy.url, transport=transport, namespace=blinker.Namespace()) as api:
        job = api.submit(GRAPH)
        for _ in range(2):
            before = len(asked(comfy, "/queue"))
            comfy.until(lambda: len(asked(comfy, "/queue")) > before + poller.MAX_REFUSALS, LIMIT)  # noqa: B023
            comfy.faults.drop()
        assert not job.done()
        go.set()
        check(job.result(LIMIT))


@with_and_without_jobs_api
def test_a_prompt_is_lost_though_the_queue_is_refused(comfy):
    """How many prompts there are is told by another route: none."""
    comfy.script(START)
    with Fast(comfy.url, transport="poll", namespace=blinker.Namespace()) as api:
        job = api.submit(GRAPH)
        answer_queue(comfy, (403, {}, "not for you"))
        comfy.until(lambda: len(asked(comfy, "/queue")) > poller.MAX_REFUSALS, LIMIT)
        assert not job.done()
        comfy.forget()
        assert isinstance(job.exception(LIMIT), JobLost)


@pytest.mark.parametrize(
    ("comfy_version", "what"),
    [("0.28", "get_history"), ("0.28", "get_jobs"), ("0.3.75", "get_queue")],
)
def test_an_answer_that_our_code_stumbles_over_stops_no_thread(comfy, monkeypatch, caplog, what):
    """A record is the trouble of its own job, and a queue that makes no sense is one refused."""
    hold = threading.Event()
    comfy.script(START, hold, Finish(ENTRY))
    with Fast(comfy.url, transport="poll", namespace=blinker.Namespace()) as api:
        read = getattr(api, what)
        bad = api.submit(GRAPH)

        def stumble(*asked, **options):
            if what == "get_history" and asked != (bad.prompt_id,):
                return read(*asked)
            raise TypeError("a defect of ours")

        monkeypatch.setattr(api, what, stumble)
        good = api.submit(GRAPH)
        hold.set()
        check(good.result(LIMIT))
        if what == "get_history":
            with pytest.raises(UnexpectedResponse, match="makes no sense: TypeError"):
                bad.result(LIMIT)
        else:
            check(bad.result(LIMIT))
    assert "defect" not in caplog.text


def test_each_job_has_an_error_of_its_own(comfy, monkeypatch):
    """Whoever raises it adds a traceback to it, maybe in another thread."""
    comfy.script(START)
    with Fast(comfy.url, transport="poll", namespace=blinker.Namespace()) as api:
        running = [api.submit(GRAPH) for _ in range(2)]
        monkeypatch.setattr(api.parts.tracker.deafness, "redial_if_deaf", lambda *_: 1 / 0)
        first, second = (job.exception(LIMIT) for job in running)
        assert str(first) == str(second)
        assert first is not second


def test_failures_that_a_client_keeps_hold_no_frames(comfy, fast):
    """Nor, through them, what somebody has let go of."""
    answer_queue(comfy, LOGIN)
    comfy.script(START)
    fast.job(str(uuid.uuid4()))
    comfy.until(lambda: fast.parts.poller.trouble, LIMIT)
    assert traceback.format_tb(fast.parts.poller.trouble.__traceback__) == []


def test_a_login_page_ends_what_is_over_though_nobody_said_how(comfy, fast):
    """On a server without ``execution_success``, and the history cannot be read."""
    told = Heard(fast)
    comfy.on("GET", "/history/*", LOGIN)
    comfy.script(START, ALL_CACHED, OVER)
    with pytest.raises(UnexpectedResponse):
        fast.run(GRAPH, timeout=LIMIT)
    assert [e.name for e in told.ends()] == ["job_lost"]


def test_an_unreadable_record_does_not_hold_up_other_jobs(comfy):
    """Each job is asked about for itself."""
    comfy.script(*WELL)
    with Fast(comfy.url, transport="poll") as api:
        hold = threading.Event()
        comfy.script(START, hold, Finish())
        bad, good = api.submit(GRAPH), api.submit(GRAPH)
        comfy.on("GET", f"/history/{bad.prompt_id}", LOGIN)
        hold.set()
        good.result(LIMIT)
        with pytest.raises(UnexpectedResponse):
            bad.result(LIMIT)


def test_a_cut_answer_of_the_history_is_asked_for_again(comfy, fast):
    """A broken body is no verdict."""
    comfy.script(START, ALL_CACHED, SUCCESS, Finish(ENTRY), OVER)
    asked_twice = []

    def handler(request):
        asked_twice.append(request)
        answer = comfy.answer(request)
        return cut(answer, 5)(request) if len(asked_twice) == 1 else answer

    comfy.on("GET", "/history/*", handler)
    check(fast.run(GRAPH, timeout=LIMIT))


def half_valid() -> dict[str, Any]:
    graph = saves()
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


def test_strict_refuses_a_partly_valid_workflow(
    comfy: ComfyServer, fast: ComfyApi, gate: Any
) -> None:
    """And does not let it run."""
    first = fast.submit(held("a"))
    until_it_runs(comfy)
    with pytest.raises(PromptRejected, match="strict=True") as caught:
        fast.run(half_valid(), strict=True, timeout=LIMIT)
    assert set(caught.value.node_errors) == {"6"}
    gate("a").set()
    first.result(LIMIT)
    assert [ran.prompt_id for ran in comfy.ran] == [first.prompt_id]
    comfy.until(lambda: (comfy.pending, comfy.running) == ([], []), LIMIT)


@pytest.mark.parametrize("status", [200, 302, 401, 403])
def test_a_login_page_is_a_typed_error_everywhere(comfy: ComfyServer, status: int) -> None:
    """A typed error with status, type and the beginning of the page, never a bad JSON."""
    with contextlib.closing(Fast(comfy.url)) as api:
        api.init(LIMIT)
        comfy.faults.login_page(status)
        calls: list[Callable[[], object]] = [
            lambda: api.run(saves(), timeout=LIMIT),
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
            Fast(comfy.url).init(LIMIT)
    assert comfy.ran == []


def test_a_login_page_is_no_empty_answer(comfy: ComfyServer, fast: ComfyApi) -> None:
    """Where a server has nothing to say, a page says that nothing was done."""
    with comfy.faults.login_page():
        for call in (fast.interrupt, fast.clear_queue, fast.clear_history, fast.free_memory):
            with pytest.raises(UnexpectedResponse, match="text/html"):
                call()


@pytest.mark.parametrize("status", [200, 302])
def test_a_login_page_in_the_middle_of_a_job_costs_nothing(
    comfy: ComfyServer, fast: ComfyApi, gate: Any, status: int
) -> None:
    """It goes away again, and nothing was lost."""
    told = Heard(fast)
    job = fast.submit(held("a"))
    until_it_runs(comfy)
    with comfy.faults.deaf(), comfy.faults.login_page(status, times=1) as page:
        comfy.until(lambda: page.hits, LIMIT)
        gate("a").set()
        check_once(comfy, told, job.result(LIMIT))


@pytest.mark.parametrize(
    ("status", "transport"), [(502, "auto"), (503, "poll"), (504, "auto"), (524, "poll")]
)
def test_bad_gateways_in_the_middle_of_a_job_cost_nothing(
    comfy: ComfyServer, gate: Any, caplog: pytest.LogCaptureFixture, status: int, transport: Any
) -> None:
    """It keeps waiting, and says so once."""
    with contextlib.closing(Fast(comfy.url, transport=transport)) as api:
        told = Heard(api)
        job = api.submit(held("a"))
        until_it_runs(comfy)
        comfy.faults.deaf()
        with comfy.faults.bad_gateway(status, method="GET", times=5) as bad:
            comfy.until(lambda: bad.hits == 5, LIMIT)
            gate("a").set()
            check_once(comfy, told, job.result(LIMIT))
    warned = [
        r for r in caplog.records if r.levelno >= logging.WARNING and str(status) in r.message
    ]
    assert len(warned) <= 1


@pytest.mark.timing(question_pause=0.01, silence_cap=0.05)
def test_an_outage_is_no_refusal_however_long_it_lasts(comfy: ComfyServer, fast: ComfyApi) -> None:
    """The job goes on after more failed questions than refusals would end it."""
    go = threading.Event()
    comfy.script(START, CACHED, RUNS, go, LEFT, SUCCESS, Finish(ENTRY), OVER)
    job = fast.submit(GRAPH)
    comfy.until(lambda: comfy.running, LIMIT)
    sockets = comfy.faults.refuse_sockets(502)
    away = [comfy.faults.bad_gateway(502, method="GET", path=path) for path in QUEUE_ROUTES]
    comfy.faults.drop()
    comfy.until(lambda: sum(one.hits for one in away) > 2 * poller.MAX_OTHER_ERRORS, LIMIT)
    assert not job.done()
    for fault in (*away, sockets):
        fault.end()
    go.set()
    check(job.result(LIMIT))


@with_and_without_jobs_api
@pytest.mark.parametrize("status", [500, 404, 429])
def test_history_decides_although_the_queue_cannot_be_read(comfy: ComfyServer, status: int) -> None:
    """What is in there has ended."""
    answer_queue(comfy, (status, {}, "no"))
    with client(comfy, transport="poll") as api:
        assert api.run(shows(), timeout=LIMIT).texts == ("x",)


@pytest.mark.timing(silence_cap=0.2)
def test_a_server_that_only_stumbles_ends_a_wait_that_has_no_socket(comfy: ComfyServer) -> None:
    """In what it answered, after some tries."""
    with client(comfy, transport="poll") as api:
        job = api.submit(shows(waits=True))
        answer_queue(comfy, (500, {}, "no"))
        comfy.on("GET", "/history/*", (500, {}, "no"))
        assert isinstance(job.exception(LIMIT), ApiError)
        assert job.status == "unknown"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ((401, {}, None), AuthenticationError),
        ((200, {"Content-Type": "text/html"}, "<form>"), UnexpectedResponse),
        ((200, {}, []), UnexpectedResponse),
        ((500, {}, "no"), ApiError),
    ],
    ids=["401", "login page", "unreadable", "500"],
)
@pytest.mark.timing(silence_cap=0.2)
def test_an_attached_job_ends_in_the_refusal(
    comfy: ComfyServer, fast: ComfyApi, answer: Any, error: Any
) -> None:
    """Though the server is busy, and a socket is there, on which nothing of the job will come."""
    prompt_id = fast.run(shows(), timeout=LIMIT).prompt_id
    fast.submit(shows("another", waits=True))
    with client(comfy) as other:
        other.init(LIMIT)
        comfy.on("GET", "/history/*", answer)
        assert isinstance(other.job(prompt_id).exception(LIMIT), error)


def test_an_unreadable_record_ends_no_other_job(comfy: ComfyServer, gate: Gates) -> None:
    """Of prompts that are attached to while a good one runs."""
    with client(comfy, transport="poll") as api:
        good = api.submit(shows(waits=True))
        until(lambda: good.status == "running")
        for _ in range(4):
            prompt_id = api.generate_id()
            comfy.on("GET", f"/history/{prompt_id}", LOGIN)
            assert isinstance(api.job(prompt_id).exception(LIMIT), UnexpectedResponse)
            assert good.handle.state.refusals == 0
        gate.set()
        assert good.result(LIMIT).texts == ("x",)
