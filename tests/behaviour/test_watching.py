"""What is shown while runs and sweeps go on, and at their end."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from comfy_client import ComfyApi, JobFailed, SweepRow
from comfy_client.jobs.handle import Limits
from comfy_client.jobs.job import Callbacks, wait_and_show
from comfy_client.showing import cells
from comfy_client.testing import ComfyServer
from tests.helpers.clients import until
from tests.helpers.graphs import txt2img
from tests.helpers.interrupts import in_time
from tests.helpers.notebooks import Notebook
from tests.helpers.sweeps import GRID, WORKFLOW, Record, add_recorded_nodes

pytestmark = pytest.mark.timing(show=0.0)


@pytest.fixture
def api(comfy: ComfyServer) -> Iterator[ComfyApi]:
    with ComfyApi(comfy.url) as api:
        yield api


@pytest.fixture
def record(comfy: ComfyServer) -> Record:
    return add_recorded_nodes(comfy)


def test_a_pipe_gets_lines_on_stderr(
    api: ComfyApi, record: Record, capfd: pytest.CaptureFixture[str]
) -> None:
    """Results go to stdout, which stays clean."""
    api.run(WORKFLOW)
    api.sweep(WORKFLOW, GRID)
    out, err = capfd.readouterr()
    assert not out
    assert err.splitlines()[-1].startswith("4 of 4: done, 0:0")
    assert any(line.startswith("done, 0:0") for line in err.splitlines())


@pytest.mark.parametrize("how", ["argument", "environment", "callback", "thread"])
def test_a_pipe_gets_nothing_if_nobody_wants_it(
    api: ComfyApi,
    record: Record,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    """Nor does a library that calls from a thread of its own."""
    if how == "environment":
        monkeypatch.setenv("COMFY_PROGRESS", "0")
    options: dict[str, Any] = {
        "argument": {"progress": False},
        "callback": {"on_progress": lambda event: None},
    }.get(how, {})

    def run() -> None:
        api.run(WORKFLOW, **options)

    if how == "thread":
        in_time(run)
    else:
        run()
    assert capfd.readouterr() == ("", "")


def test_a_command_that_shows_nothing_logs_no_progress(
    api: ComfyApi, record: Record, caplog: pytest.LogCaptureFixture
) -> None:
    """Start and end of the prompt are in the log all the same."""
    job = api.submit(WORKFLOW)
    with caplog.at_level(logging.INFO, "comfy_client"):
        wait_and_show(job, Limits(), "none", Callbacks(), on_interrupt="leave")
    assert "progress" not in [vars(one).get("prompt_event") for one in caplog.records]


@pytest.mark.parametrize("raised", [ZeroDivisionError(), KeyboardInterrupt()])
def test_an_error_while_a_result_is_shown_loses_no_result(
    notebook: Notebook,
    api: ComfyApi,
    record: Record,
    monkeypatch: pytest.MonkeyPatch,
    raised: BaseException,
) -> None:
    """A fault of the display says nothing; after Ctrl-C a note says where the result is."""

    def render_outcome(*_: object) -> None:
        raise raised

    monkeypatch.setattr(cells, "render_outcome", render_outcome)
    if isinstance(raised, Exception):
        assert api.run(WORKFLOW).texts
        return
    with pytest.raises(KeyboardInterrupt) as caught:
        api.run(WORKFLOW)
    [note] = caught.value.__notes__
    prompt_id = note.split("'")[1]
    assert note == f"the prompt had ended: api.job({prompt_id!r}).result() has its result"
    assert api.job(prompt_id).result().texts


@pytest.mark.timing(show=60.0)
def test_a_script_writes_nothing_of_what_is_over_in_a_moment(
    api: ComfyApi, record: Record, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nor does it ask for previews."""
    api.run(WORKFLOW)
    assert capfd.readouterr() == ("", "")


def test_a_log_gets_lines_at_the_level_info(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """With the id of the prompt, between its start and its end; stderr does not get them, too."""
    with (
        caplog.at_level(logging.INFO, "comfy_client"),
        ComfyServer(step_seconds=0.3) as server,
        ComfyApi(server.url) as api,
    ):
        result = api.run(txt2img(steps=4))
    lines = [one for one in caplog.records if "prompt_event" in vars(one)]
    assert {vars(one)["prompt_id"] for one in lines} == {result.prompt_id}
    said = [one.getMessage() for one in lines if vars(one)["prompt_event"] == "progress"]
    assert any(f"prompt {result.prompt_id}: " in one and "KSampler" in one for one in said)
    assert vars(lines[-1])["prompt_event"] == "ended"
    assert "done" not in caplog.text
    assert capfd.readouterr() == ("", "")


def test_a_notebook_shows_previews_and_at_the_end_the_gallery(notebook: Notebook) -> None:
    """In one display; and the result itself shows no second one in this cell."""
    with ComfyServer(step_seconds=0.3) as server, ComfyApi(server.url) as api:
        result = api.run(txt2img(steps=4))
        assert notebook.displays == 1
        assert any("data:image/jpeg;base64," in each["text/html"] for each in notebook.shown[:-1])
        drawn = "".join(each["text/html"] for each in notebook.shown[:-1])
        assert re.search("KSampler [1-3]/4", drawn)  # a busy machine may draw some steps only
        assert "data:image/webp;base64," in notebook.last
        assert list(result._repr_mimebundle_()) == ["text/plain"]


def test_a_notebook_keeps_what_there_was_when_it_fails(
    api: ComfyApi, record: Record, notebook: Notebook
) -> None:
    """With the reason below."""
    record.failing.add(0)
    with pytest.raises(JobFailed):
        api.run(WORKFLOW)
    assert "failed" in notebook.last
    assert notebook.displays == 1


def test_a_stopped_run_leaves_its_bar(api: ComfyApi, record: Record, notebook: Notebook) -> None:
    """And says that the prompt was left alone."""
    record.gate = threading.Semaphore(0)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        api.run(WORKFLOW, on_event=stop, progress=True)
    record.gate = None
    assert "stopped; it keeps running" in notebook.last


def test_a_sweep_counts_its_rows_and_failures_and_ends_as_a_sheet(
    api: ComfyApi, record: Record, notebook: Notebook
) -> None:
    """First of all, 0 of 4."""
    record.failing.add(1)
    rows = api.sweep(WORKFLOW, GRID)
    assert notebook.displays == 1
    assert "0 of 4" in notebook.shown[0]["text/html"]
    assert "4 rows, 2 failed" in notebook.last
    assert notebook.last.count(">seed 1<") == 1
    assert notebook.last.count(">name a<") == 1
    assert notebook.last.count("JobFailed") == 2
    assert list(rows._repr_mimebundle_()) == ["text/plain"]


def test_a_stopped_sweep_says_how_far_it_came(
    api: ComfyApi, record: Record, notebook: Notebook
) -> None:
    """Of all its rows."""

    def stop(row: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        api.sweep(WORKFLOW, GRID, on_row=stop)
    assert "1 of 4: stopped" in notebook.last


@pytest.mark.parametrize("in_flight", [1, 2])
@pytest.mark.timing(lost=0.5)
def test_a_sweep_says_that_its_server_is_away(
    comfy: ComfyServer, api: ComfyApi, record: Record, notebook: Notebook, in_flight: int
) -> None:
    """As long as it waits for it, whether prompts are under way or wait to be sent."""
    record.gate = threading.Semaphore(1)

    def start_again() -> None:
        until(lambda: "1 of 4, server away for" in notebook.last)
        record.gate = None
        comfy.start()

    def on_row(row: SweepRow) -> None:
        if record.gate is not None:
            comfy.kill()
            thread.start()

    thread = threading.Thread(target=start_again)
    rows = api.sweep(WORKFLOW, GRID, in_flight=in_flight, on_row=on_row, progress=True)
    thread.join()
    assert len(rows) == 4
    assert "away" not in notebook.last


@pytest.mark.timing(show=60.0)
def test_a_cell_shows_so_many_galleries_only(
    api: ComfyApi, record: Record, notebook: Notebook
) -> None:
    """A loop of runs does not swell the notebook; once it says so."""
    for _ in range(cells.MOST + 3):
        api.run(WORKFLOW)
    assert notebook.displays == cells.MOST + 1
    assert "not shown, because this cell shows 20 galleries already" in notebook.last


def test_the_time_that_is_left_comes_from_earlier_runs() -> None:
    """The first time it is not known before there were steps; then from the first step on."""
    with ComfyServer(step_seconds=0.03) as server, ComfyApi(server.url) as api:

        def left(seed: int) -> list[float | None]:
            job = api.submit(txt2img(seed=seed, steps=20))
            known = [job.progress.left]
            known += [job.progress.left for event in job.events() if event.name == "progress"]
            return known

        first, second = left(1), left(2)
    assert first[0] is None
    assert any(first)
    known = second[1:]
    while known[-1] is None:  # the end had come before the event was read
        known.pop()
    times = [seconds for seconds in known if seconds is not None]
    assert len(times) == len(known)
    assert 0 <= times[-1] < times[0]


# -- other values ---------------------------------------------------------------------------


def test_values_of_the_server_show_themselves_as_html(
    comfy: ComfyServer, api: ComfyApi, record: Record
) -> None:
    """As HTML beside its text; a report, memory, the queue, and a job at each stage."""
    record.gate = threading.Semaphore(0)
    job = api.submit(WORKFLOW)
    comfy.until(lambda: job.status == "running")
    queue = api.get_queue()
    assert job.prompt_id in html(queue)
    assert "1 running, 0 pending" in html(queue)
    assert "running" in html(job)
    record.gate.release()
    job.result()
    assert f"prompt {job.prompt_id}" in html(job)
    assert "GiB free" in html(api.get_system_stats())
    assert "websocket" in html(api.doctor())


def test_a_failed_job_says_why(api: ComfyApi, record: Record) -> None:
    """Escaped, as all that comes from a server."""
    record.failing.add(0)
    job = api.submit(WORKFLOW)
    job.exception()
    assert "seed 0 is one that fails" in html(job)


def html(value: Any) -> str:
    data = value._repr_mimebundle_()
    assert data["text/plain"] == repr(value)
    return str(data["text/html"])
