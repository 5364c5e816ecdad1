"""The bars of waits other than runs and sweeps: jobs, ``map``, ``as_completed`` and pools."""

from __future__ import annotations

import contextlib
import gc
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from comfy_client import ComfyApi, ComfyPool, JobFailed, JobTimeout, Result
from comfy_client.jobs.job import Job
from comfy_client.jobs.wait_bars import Count, shown_count
from comfy_client.testing import ComfyServer
from tests.helpers.clients import until
from tests.helpers.graphs import txt2img
from tests.helpers.interrupts import in_time
from tests.helpers.notebooks import Notebook
from tests.helpers.patches import tell_time
from tests.helpers.sweeps import WORKFLOW, Record, add_recorded_nodes

pytestmark = pytest.mark.timing(show=0.0)

Points = list[dict[str, Any]]


@pytest.fixture
def api(comfy: ComfyServer) -> Iterator[ComfyApi]:
    with ComfyApi(comfy.url) as api:
        yield api


@pytest.fixture
def record(comfy: ComfyServer) -> Record:
    return add_recorded_nodes(comfy)


def points(number: int) -> Points:
    return [{"Make.seed": seed} for seed in range(number)]


def held(api: ComfyApi, record: Record) -> Job:
    """A job that has begun, and does not end before the gate opens."""
    record.gate = threading.Semaphore(0)
    job = api.submit(WORKFLOW)
    until(lambda: job.progress.title == "Keep")
    return job


class opened_when:
    """Opens the gate of the nodes in another thread, as soon as something is true."""

    def __init__(self, record: Record, found: Callable[[], object]) -> None:
        def wait() -> None:
            until(found)
            record.gate = None

        self._thread = threading.Thread(target=wait)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._thread.join()


# -- one job --------------------------------------------------------------------------------


def test_the_result_of_a_job_is_waited_for_with_a_bar(
    api: ComfyApi, record: Record, notebook: Notebook
) -> None:
    """In one display, which ends as what came out; a job that has ended shows nothing."""
    job = held(api, record)
    with opened_when(record, lambda: notebook.shown):
        assert job.result().texts
    assert "Keep" in notebook.shown[0]["text/html"]
    assert "ax0" in notebook.last
    shown = len(notebook.shown)
    job.result(progress=True)
    assert (notebook.displays, len(notebook.shown)) == (1, shown)


def test_events_of_a_job_that_was_watched_are_all_there_for_its_user(
    api: ComfyApi, record: Record, notebook: Notebook
) -> None:
    """The bar reads them too, and takes none away."""
    job = held(api, record)
    with opened_when(record, lambda: notebook.shown):
        job.result()
    names = [event.name for event in job.events()]
    assert names[-1] == "execution_success"
    assert len(names) > 1


@pytest.mark.parametrize("how", ["argument", "environment", "look", "thread"])
def test_a_wait_shows_nothing_if_nobody_wants_it(
    api: ComfyApi,
    record: Record,
    notebook: Notebook,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    """A short timeout is a look in a loop, and another thread does not own the screen."""
    if how == "environment":
        monkeypatch.setenv("COMFY_PROGRESS", "0")
    job = held(api, record)

    def look() -> None:
        with pytest.raises(JobTimeout):
            job.result(0.0, progress=False if how == "argument" else None)
        options: dict[str, Any] = {} if how != "argument" else {"progress": False}
        seconds = 10.0 if how == "look" else None
        record.gate = None
        with contextlib.suppress(JobTimeout):
            job.result(seconds, **options)

    if how == "thread":
        in_time(look)
    else:
        look()
    assert not notebook.shown


def test_a_look_is_shown_if_it_is_to_be(api: ComfyApi, record: Record, notebook: Notebook) -> None:
    """And says that the job goes on."""
    job = held(api, record)
    with pytest.raises(JobTimeout):
        job.result(0.05, progress=True)
    record.gate = None
    assert "not ended in time; it keeps running" in notebook.last


def test_a_pipe_gets_no_lines_unasked(
    api: ComfyApi, record: Record, capfd: pytest.CaptureFixture[str]
) -> None:
    """As ever; a run writes them."""
    api.submit(WORKFLOW).result()
    jobs = [api.submit(WORKFLOW) for _ in range(2)]
    assert len(list(api.as_completed(jobs))) == 2
    assert len(list(api.map(WORKFLOW, points(3)))) == 3
    assert capfd.readouterr() == ("", "")
    assert len(list(api.map(WORKFLOW, points(3), progress=True))) == 3
    out, err = capfd.readouterr()
    assert not out
    assert err.splitlines()[-1].startswith("3 of 3: done, ")


def test_a_failed_job_says_where_and_its_error_says_why(
    api: ComfyApi, record: Record, notebook: Notebook
) -> None:
    """Not the same sentence twice."""
    record.failing.add(0)
    with pytest.raises(JobFailed, match="seed 0 is one that fails"):
        api.run(WORKFLOW)
    assert "failed in Make" in notebook.last
    assert "seed 0 is one that fails" not in notebook.last


# -- a job below a cell ---------------------------------------------------------------------


def test_a_job_below_a_cell_is_drawn_until_its_end(
    api: ComfyApi, record: Record, notebook: Notebook
) -> None:
    """In the display that it began with, whatever its user does meanwhile."""
    job = held(api, record)
    job._ipython_display_()
    assert "Keep" in notebook.last
    until(lambda: len(notebook.shown) > 2)
    record.gate = None
    until(lambda: "ax0" in notebook.last)
    assert notebook.displays == 1
    with pytest.raises(NotImplementedError):  # its still form says all that there is
        job._ipython_display_()


def test_a_failed_job_below_a_cell_says_why(
    api: ComfyApi, record: Record, notebook: Notebook
) -> None:
    """As nothing is raised there."""
    job = held(api, record)
    job._ipython_display_()
    assert job.cancel()
    until(lambda: "interrupted: " in notebook.last)


def test_a_job_of_a_forgotten_client_is_drawn_no_longer(
    comfy: ComfyServer, record: Record, notebook: Notebook
) -> None:
    """The thread that draws it keeps neither alive."""
    api = ComfyApi(comfy.url).init()
    job = held(api, record)
    job._ipython_display_()
    del job, api
    until(lambda: gc.collect() >= 0 and "not followed any more" in notebook.last)
    record.gate = None


def test_a_job_stands_still_where_nobody_wants_a_bar(
    api: ComfyApi, record: Record, notebook: Notebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No thread is started."""
    monkeypatch.setenv("COMFY_PROGRESS", "0")
    job = held(api, record)
    with pytest.raises(NotImplementedError):
        job._ipython_display_()
    record.gate = None
    assert "comfy-display" not in [thread.name for thread in threading.enumerate()]


def test_a_job_is_drawn_once_below_a_cell(
    api: ComfyApi, record: Record, notebook: Notebook
) -> None:
    """A second display is its text."""
    job = held(api, record)
    job._ipython_display_()
    with pytest.raises(NotImplementedError):
        job._ipython_display_()
    assert list(job._repr_mimebundle_()) == ["text/plain"]
    record.gate = None
    job.result()


# -- many jobs ------------------------------------------------------------------------------


def test_a_map_counts_its_prompts(api: ComfyApi, record: Record, notebook: Notebook) -> None:
    """Of how many, and how many failed."""
    record.failing.add(1)
    found = list(api.map(WORKFLOW, points(3), on_error="keep"))
    assert [type(one) for one in found] == [Result, JobFailed, Result]
    assert notebook.displays == 1
    assert "of 3" in notebook.shown[0]["text/html"]
    assert "3 of 3, 1 failed: done" in notebook.last


def test_a_map_without_a_length_counts_what_is_done(
    api: ComfyApi, record: Record, notebook: Notebook
) -> None:
    """Without a meter, which would say nothing."""
    assert len(list(api.map(WORKFLOW, iter(points(3))))) == 3
    assert "3 done: done" in notebook.last
    assert "%" not in notebook.shown[-1]["text/plain"]


def test_a_map_shows_previews(notebook: Notebook) -> None:
    """Of the prompt that runs; none is left at the end, where it could pass for a picture."""
    with ComfyServer(step_seconds=0.3) as server, ComfyApi(server.url) as api:
        list(api.map([txt2img(steps=16)]))
    assert any("data:image/jpeg;base64," in one["text/html"] for one in notebook.shown)
    assert "<img" not in notebook.last


def test_a_map_that_is_left_says_so(api: ComfyApi, record: Record, notebook: Notebook) -> None:
    """By ``break``."""
    for _ in api.map(WORKFLOW, points(3), in_flight=1):
        break
    gc.collect()
    assert "1 of 3: stopped" in notebook.last


def test_a_call_is_not_lost_with_its_outcome_that_cannot_be_shown(notebook: Notebook) -> None:
    """As when no thread can be started any more, with which to fetch the pictures of a sweep."""

    def outcome() -> dict[str, str]:
        raise RuntimeError("can't start new thread")

    count = Count(total=2, ended=lambda: (2, 0), running=list)
    with shown_count("notebook", "sweep", 0.0, count) as screen:
        assert screen.tick is not None
        screen.tick()
        screen.end(outcome)
    assert "2 of 2: done" in notebook.last


def test_points_of_an_earlier_call_do_not_count_for_the_time_left(
    notebook: Notebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a sweep that goes on: five points took ten seconds, so five more take as long."""
    ended, now = 90, 1000.0
    tell_time(monkeypatch, lambda: now)
    count = Count(total=100, ended=lambda: (ended, 0), running=list)
    with shown_count("notebook", "sweep", 0.0, count) as screen:
        assert screen.tick is not None
        ended, now = 95, 1010.0
        screen.tick()
        assert "about 0:10 left" in notebook.last


def test_jobs_are_counted_as_they_end(api: ComfyApi, record: Record, notebook: Notebook) -> None:
    """By ``as_completed``."""
    record.failing.add(1)
    jobs = [api.submit(WORKFLOW, point) for point in points(3)]
    assert len(list(api.as_completed(jobs))) == 3
    assert notebook.displays == 1
    assert "3 of 3, 1 failed: done" in notebook.last


def test_a_wait_within_another_one_draws_no_second_bar(
    api: ComfyApi, record: Record, notebook: Notebook
) -> None:
    """What came out of it is shown all the same."""
    seen = []
    for _ in api.map(WORKFLOW, points(2), in_flight=1):
        job = held(api, record)
        with opened_when(record, lambda job=job: job.handle.on_end):  # somebody waits
            job.result()
        seen.append(notebook.last)
    assert all("ax0" in one for one in seen)
    assert sum("Keep" in one["text/html"] for one in notebook.shown) == 0
    assert "2 of 2: done" in notebook.last
    shown = len(notebook.shown)
    job = held(api, record)
    with opened_when(record, lambda: len(notebook.shown) > shown):
        job.result()  # after it, there is a bar again


def test_a_map_that_was_left_behind_holds_back_no_bar_of_a_later_cell(
    api: ComfyApi, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though its bar is still there."""
    Notebook(monkeypatch)
    results = api.map(WORKFLOW, points(2), in_flight=1)
    next(results)
    later = Notebook(monkeypatch)
    job = held(api, record)
    with opened_when(record, lambda: later.shown):
        job.result()
    results.close()


@pytest.mark.parametrize("raised", [KeyboardInterrupt, ValueError])
def test_ended_results_are_in_the_error_of_a_map(
    api: ComfyApi,
    record: Record,
    caplog: pytest.LogCaptureFixture,
    raised: type[BaseException],
) -> None:
    """Though ``list`` throws away what it had."""

    def some() -> Iterator[dict[str, Any]]:
        yield from points(2)
        raise raised

    with caplog.at_level(logging.WARNING), pytest.raises(raised) as caught:
        list(api.map(WORKFLOW, some(), in_flight=1))
    assert [result.texts for result in vars(caught.value)["results"]] == [("ax0",), ("ax1",)]
    said = "prompts that had ended: 2; the exception has their results as its results"
    assert (said in caplog.messages) == (raised is KeyboardInterrupt)


def test_a_map_keeps_no_results_that_its_user_has_thrown_away(
    api: ComfyApi, record: Record
) -> None:
    """An endless one would need endless memory."""

    def some() -> Iterator[dict[str, Any]]:
        yield from points(5)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        sum(gc.collect() for _ in api.map(WORKFLOW, some(), in_flight=1))
    assert len(vars(caught.value)["results"]) <= 1


# -- pools ----------------------------------------------------------------------------------


def test_a_pool_shows_its_servers(comfy: ComfyServer, record: Record, notebook: Notebook) -> None:
    """Below the bar: their names, their states, and how many jobs each has."""
    away, here = "127.0.0.1:1", comfy.url.partition("://")[2]
    with ComfyPool([comfy.url, f"http://{away}"]) as pool:
        until(lambda: pool.status().servers[1].state == "down")
        record.gate = threading.Semaphore(0)
        with opened_when(record, lambda: f"{here} ready, 2 jobs" in text(notebook)):
            assert len(list(pool.map(WORKFLOW, points(3)))) == 3
        assert f"{away} down" in text(notebook)
        assert "3 of 3: done" in notebook.last
        assert away not in notebook.last
        record.gate = threading.Semaphore(0)
        with opened_when(record, lambda: f"{here} ready, 1 job" in text(notebook, 1)):
            pool.run(WORKFLOW)
        record.gate = threading.Semaphore(0)
        job = pool.submit(WORKFLOW)
        with opened_when(record, lambda: f"{here} ready, 1 job" in text(notebook, 2)):
            job.result()
        assert notebook.displays == 3


def text(notebook: Notebook, after: int = 0) -> str:
    """What was shown since so many bars had ended."""
    texts = [one["text/plain"] for one in notebook.shown]
    ends = [at for at, one in enumerate(texts, 1) if "done" in one or "<Result" in one]
    return "\n".join(texts[ends[after - 1] if 0 < after <= len(ends) else 0 :])
