"""Ctrl-C at bad moments: it leaves at once, and what goes on can be found again."""

from __future__ import annotations

import _thread
import contextlib
import logging
import signal
import threading
import time
from typing import Any

import pytest

from comfy_client import ComfyApi
from comfy_client.errors import (
    JobLost,
)
from comfy_client.jobs.job import Job
from comfy_client.testing import ComfyServer, Request, never_answer
from tests.helpers.clients import (
    LIMIT,
    Fast,
    Heard,
    client,
    outstanding,
    paths_asked,
    threads,
    until,
)
from tests.helpers.gates import Gates, check_once, held, saves, shows, until_it_runs
from tests.helpers.interrupts import (
    fail_next_start,
    in_time,
    interrupt_next_start,
    press_ctrl_c,
    press_ctrl_c_in_a_call,
    press_ctrl_c_in_submissions,
)


@pytest.mark.parametrize("policy", ["leave", "cancel"])
def test_ctrl_c_leaves_at_once(
    comfy: ComfyServer, fast: ComfyApi, gate: Any, caplog: pytest.LogCaptureFixture, policy: Any
) -> None:
    """Leaves promptly; the prompt goes on, or is stopped; the client is of use afterwards."""
    gate("a")
    told = Heard(fast)
    at: list[float] = []

    def press() -> None:
        until_it_runs(comfy)
        at.append(time.monotonic())
        _thread.interrupt_main()

    pressing = threading.Thread(target=press)
    pressing.start()
    with pytest.raises(KeyboardInterrupt):
        fast.run(held("a"), on_interrupt=policy, timeout=2 * LIMIT)
    assert time.monotonic() - at[0] < LIMIT
    pressing.join(LIMIT)
    [ran] = comfy.ran
    if policy == "leave":
        assert ran.status is None
        assert f"api.job('{ran.prompt_id}')" in caplog.text  # how to go on
        gate("a").set()
        assert fast.job(ran.prompt_id).result(LIMIT).images
    comfy.until(lambda: ran.status is not None, LIMIT)
    assert ran.status == ("success" if policy == "leave" else "error")
    check_once(comfy, told, fast.run(saves(7), timeout=LIMIT))


def _asked_about_prompts(server: ComfyServer) -> list[Request]:
    """Return the requests that look for prompts, or stop them."""
    return [
        request
        for request in server.requests
        if request.path.startswith(("/queue", "/history", "/interrupt", "/api/jobs"))
    ]


@pytest.mark.timing(dial=10 * LIMIT, settle=10 * LIMIT)
@pytest.mark.parametrize("policy", ["leave", "cancel"])
def test_ctrl_c_before_the_submission_leaves_nothing_to_attach_to_or_to_cancel(
    comfy: ComfyServer, caplog: pytest.LogCaptureFixture, policy: Any
) -> None:
    """It waited for the socket: the server has never heard of the prompt."""

    def press(request: Request) -> None:
        press_ctrl_c()
        never_answer(request)

    comfy.on("GET", "/ws", press)
    with contextlib.closing(Fast(comfy.url)) as api, pytest.raises(KeyboardInterrupt):
        api.run(saves(7), timeout=LIMIT, on_interrupt=policy)
    assert not caplog.records
    assert not _asked_about_prompts(comfy)
    assert not comfy.ran


@pytest.mark.parametrize("policy", ["leave", "cancel"])
def test_ctrl_c_while_the_server_takes_no_prompts_cancels_none(
    comfy: ComfyServer,
    fast: ComfyApi,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    policy: Any,
) -> None:
    """It comes with the line that says what the client waits for."""
    comfy.on("POST", "/prompt", (429, {"Retry-After": "5"}, None))

    def press(record: logging.LogRecord) -> bool:
        waits.append(record.getMessage())
        press_ctrl_c()
        return False

    waits: list[str] = []
    before = len(_asked_about_prompts(comfy))
    monkeypatch.setattr(caplog.handler, "filters", [press])
    with pytest.raises(KeyboardInterrupt):
        fast.run(saves(7), timeout=LIMIT, on_interrupt=policy)
    [said] = waits
    assert said.startswith("waiting until the server takes more requests")
    assert len(_asked_about_prompts(comfy)) == before


def test_ctrl_c_while_a_submission_waits_for_its_answer_cancels_the_prompt(
    comfy: ComfyServer, fast: ComfyApi, caplog: pytest.LogCaptureFixture
) -> None:
    """With ``on_interrupt="cancel"``, as the server may have the prompt."""
    press_ctrl_c_in_submissions(comfy, arrives=True)
    with pytest.raises(KeyboardInterrupt):
        fast.run(held("a"), timeout=LIMIT, on_interrupt="cancel")
    [ran] = comfy.ran
    comfy.until(lambda: ran.status == "error", LIMIT)
    assert "may keep running" not in caplog.text


def test_a_job_whose_submission_ctrl_c_ended_goes_on_for_others(
    comfy: ComfyServer, fast: ComfyApi
) -> None:
    """Another thread has attached to it by its id."""
    prompt_id = fast.generate_id()
    taken: list[Job] = []
    press_ctrl_c_in_submissions(
        comfy, arrives=True, before=lambda: taken.append(fast.job(prompt_id))
    )
    with pytest.raises(KeyboardInterrupt):
        fast.submit(shows(), prompt_id=prompt_id)
    assert taken[0].result(LIMIT).texts == ("x",)


@pytest.mark.timing(look_up=1.0)
def test_a_job_whose_submission_ctrl_c_kept_from_the_server_is_lost(
    comfy: ComfyServer, fast: ComfyApi
) -> None:
    """When it has had the time to get there."""
    prompt_id = fast.generate_id()
    taken: list[Job] = []
    press_ctrl_c_in_submissions(
        comfy, arrives=False, before=lambda: taken.append(fast.job(prompt_id))
    )
    start = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        fast.submit(shows(), prompt_id=prompt_id)
    assert isinstance(taken[0].exception(LIMIT), JobLost)
    assert time.perf_counter() - start >= 1.0


@pytest.mark.timing(look_up=4.0, deaf=0.5, redial=0.5)
def test_a_submission_cut_by_ctrl_c_is_searched_for_without_cutting_the_socket(
    comfy: ComfyServer,
) -> None:
    """That nothing shows on the socket does not make it deaf."""
    press_ctrl_c_in_submissions(comfy, arrives=False)
    with client(comfy, ComfyApi) as api:
        with pytest.raises(KeyboardInterrupt):
            api.submit(shows())
        [job] = outstanding(api)
        asked = paths_asked(comfy, lambda: job.exception(LIMIT))
        assert isinstance(job.exception(), JobLost)
        assert len(asked) < 24
    assert len(comfy.hellos) == 1


def test_a_submission_that_ctrl_c_cut_off_is_found_by_its_mark_when_it_comes_late(
    comfy: ComfyServer, fast: ComfyApi
) -> None:
    """On a server that chooses its own ids, after a first look that missed it."""
    comfy.faults.other_prompt_ids()
    cut_off = press_ctrl_c_in_submissions(comfy, arrives=False)
    with pytest.raises(KeyboardInterrupt):
        fast.submit(shows())
    [job] = outstanding(fast)
    until(lambda: job.handle.state.missed_at)
    theirs = comfy.answer(cut_off[0])[2]["prompt_id"]
    assert job.result(LIMIT).texts == ("x",)
    assert job.prompt_id == theirs


# In the middle of urllib3's connect, it leaves the socket to the collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_while_init_waits_leaves_a_client_that_can_be_closed(
    comfy: ComfyServer,
) -> None:
    """In a pause between two attempts."""
    comfy.on("GET", "/prompt", (503, {}, None))
    api = client(comfy)
    thread = press_ctrl_c_in_a_call()
    with pytest.raises(KeyboardInterrupt):
        api.init(LIMIT)
    thread.join()
    in_time(api.close)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError("can't start new thread")])
def test_a_thread_that_could_not_be_started_is_started_for_the_next_job(
    fast: ComfyApi, gate: Gates, monkeypatch: pytest.MonkeyPatch, error: Any
) -> None:
    """Which may need somebody who asks."""
    with monkeypatch.context() as patch:
        fail_next_start(patch, error, "comfy-jobs")
        with pytest.raises((KeyboardInterrupt, RuntimeError)):
            fast.submit(shows("a", waits=True))
    job = fast.submit(shows("b", waits=True))
    assert any(thread.name == "comfy-jobs" for thread in threads())
    gate.set()
    assert job.result(LIMIT).texts == ("b",)


@pytest.mark.timing(linger=60.0)
@pytest.mark.parametrize("name", ["comfy-events", "comfy-jobs"])
def test_a_thread_whose_start_ctrl_c_interrupts_is_the_only_one_and_ends(
    comfy: ComfyServer, gate: Gates, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """As a Ctrl-C at the beginning of a cell."""
    with client(comfy) as api:
        api.on("all", lambda event: None)
        with monkeypatch.context() as patch:
            interrupt_next_start(patch, name)
            with contextlib.suppress(KeyboardInterrupt):
                api.submit(shows("a", waits=True))
        job = api.submit(shows("b", waits=True))
        assert [thread.name for thread in threads()].count(name) == 1
        gate.set()
        assert job.result(LIMIT).texts == ("b",)
    until(lambda: not [thread for thread in threads() if thread.name == name])


@pytest.mark.posix("alarms")
def test_a_handler_of_a_signal_may_make_requests_at_any_moment(comfy: ComfyServer) -> None:
    """Also while the main thread takes a connection, or gives it back."""
    answers = []
    with client(comfy) as api:
        before = signal.signal(signal.SIGALRM, lambda *_: answers.append(api.fetch_api("/prompt")))
        try:
            for number in range(2000):
                signal.setitimer(signal.ITIMER_REAL, 1e-4 + number % 200 * 5e-6)
                api.fetch_api("/features")
                if len(answers) >= 300:
                    break
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
    assert answers
