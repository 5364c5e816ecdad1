"""What the log says: a line when a prompt is submitted, starts and ends; one for each request."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from comfy_client import (
    BasicCredentials,
    ComfyApi,
    ComfyPool,
    JobFailed,
    QueryCredentials,
    SweepRow,
    Workflow,
    signal,
)
from comfy_client.testing import ComfyServer
from tests.helpers.clients import Quick, flush, until
from tests.helpers.sweeps import WORKFLOW, Record

STEPS = ["submitted", "started", "ended"]


@pytest.fixture
def info(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.INFO, "comfy_client"):
        yield caplog


def lines(log: pytest.LogCaptureFixture, *steps: str) -> list[dict[str, Any]]:
    """The facts of the lines of prompts."""
    wanted = steps or STEPS
    return [vars(one) for one in log.records if vars(one).get("prompt_event") in wanted]


@pytest.mark.parametrize("transport", ["auto", "poll"])
def test_a_run_leaves_three_lines_before_it_returns(
    server: ComfyServer, record: Record, info: pytest.LogCaptureFixture, transport: Any
) -> None:
    """In their order, with facts for programs."""
    with Quick(server.url, transport=transport) as api:
        result = api.run(WORKFLOW, progress=False)
    found = lines(info)
    if transport == "poll":  # it may have ended before anybody asked
        found = [one for one in found if one["prompt_event"] != "started"]
        assert [one["prompt_event"] for one in found] == ["submitted", "ended"]
    else:
        assert [one["prompt_event"] for one in found] == STEPS
        assert found[1]["waited"] >= 0
        assert "started, 0." in found[1]["message"]
    assert {one["prompt_id"] for one in found} == {result.prompt_id}
    assert {one["levelname"] for one in found} == {"INFO"}
    end = found[-1]
    assert (end["status"], end["cached_nodes"], end["pictures"]) == ("succeeded", 0, 0)
    assert end["seconds"] == result.seconds
    assert "0 nodes cached, 0 pictures" in end["message"]


def test_cached_nodes_are_counted(
    api: ComfyApi, record: Record, info: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        result = api.run(WORKFLOW, progress=False)
    assert lines(info, "ended")[-1]["cached_nodes"] == len(result.cached_nodes) > 0


def test_a_failure_says_why_in_one_line(
    api: ComfyApi, record: Record, info: pytest.LogCaptureFixture
) -> None:
    """With the code of the error."""
    record.failing.add(0)
    with pytest.raises(JobFailed) as caught:
        api.run(WORKFLOW, progress=False)
    [end] = lines(info, "ended")
    assert (end["status"], end["error_code"]) == ("failed", "job_failed")
    assert end["message"].endswith(str(caught.value).partition("\n")[0])


def test_a_job_that_nobody_waits_for_is_logged_too(
    server: ComfyServer, api: ComfyApi, record: Record, info: pytest.LogCaptureFixture
) -> None:
    api.submit(WORKFLOW)
    server.until(lambda: len(lines(info)) == 3)
    assert [one["prompt_event"] for one in lines(info)] == STEPS


def test_lines_keep_their_order_if_the_submission_is_slow_to_be_logged(
    api: ComfyApi, record: Record, info: pytest.LogCaptureFixture
) -> None:
    """A prompt may end meanwhile; the line about its end comes after the first line."""

    class Slow(logging.Filter):
        def filter(self, line: logging.LogRecord) -> bool:
            if vars(line).get("prompt_event") == "submitted":
                until(lambda: api.stats().succeeded)
                flush(api)
            return True

    logger, slow = logging.getLogger("comfy_client"), Slow()
    logger.addFilter(slow)
    try:
        api.run(WORKFLOW, progress=False)
    finally:
        logger.removeFilter(slow)
    assert [one["prompt_event"] for one in lines(info)] == STEPS


def test_the_end_of_a_prompt_is_logged_if_ctrl_c_comes_before_its_submission_is(
    api: ComfyApi, record: Record, info: pytest.LogCaptureFixture
) -> None:
    """It has ended by then."""

    def interrupt(line: logging.LogRecord) -> bool:
        if vars(line).get("prompt_event") == "submitted":
            until(lambda: api.stats().succeeded)
            raise KeyboardInterrupt
        return True

    logger = logging.getLogger("comfy_client")
    logger.addFilter(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            api.submit(WORKFLOW)
    finally:
        logger.removeFilter(interrupt)
    until(lambda: lines(info, "ended"))


def test_a_closed_client_does_not_end_its_prompts(
    server: ComfyServer, record: Record, info: pytest.LogCaptureFixture
) -> None:
    server.faults.hang_worker()
    with ComfyApi(server.url) as api:
        api.submit(WORKFLOW)
    assert not lines(info, "ended")


def test_a_handler_runs_in_no_thread_that_reads_the_socket(
    api: ComfyApi, record: Record, info: pytest.LogCaptureFixture
) -> None:
    """A slow one delays nothing but itself; it may even ask the client."""
    threads = []

    class Curious(logging.Handler):
        def emit(self, line: logging.LogRecord) -> None:
            if vars(line).get("prompt_event") in STEPS:
                threads.append(threading.current_thread().name)
                api.get_queue()

    logger, handler = logging.getLogger("comfy_client"), Curious()
    logger.addHandler(handler)
    try:
        api.run(WORKFLOW, progress=False)
    finally:
        logger.removeHandler(handler)
    assert threads == [threading.current_thread().name, "comfy-delivery", "comfy-delivery"]


def test_logging_above_info_starts_no_thread(
    api: ComfyApi, record: Record, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "comfy_client"):
        api.run(WORKFLOW)
    assert not lines(caplog)
    assert "comfy-delivery" not in {thread.name for thread in threading.enumerate()}


def test_each_request_is_a_line_at_the_level_debug(
    api: ComfyApi, caplog: pytest.LogCaptureFixture
) -> None:
    """Method, path without its query, status, time and bytes."""
    with caplog.at_level(logging.DEBUG, "comfy_client"):
        api.get_histories(max_items=3)
    [line] = [vars(one) for one in caplog.records if "http_method" in vars(one)]
    facts = (line["http_method"], line["http_path"], line["http_status"])
    assert facts == ("GET", "/api/history", 200)
    assert 0 < line["seconds"] < 30
    assert line["bytes_sent"] > 50
    assert line["bytes_received"] > 50
    assert line["message"].startswith("GET /api/history: 200, ")
    assert "max_items" not in line["message"]


@pytest.mark.parametrize(
    "credentials",
    [BasicCredentials("user", "hunter2-secret"), QueryCredentials("token", "hunter2-secret")],
    ids=["header", "query"],
)
def test_no_line_shows_credentials(
    record: Record, caplog: pytest.LogCaptureFixture, credentials: Any
) -> None:
    """Nor an API key, at any level."""
    pair = ("user", "hunter2-secret") if isinstance(credentials, BasicCredentials) else None
    with (
        ComfyServer(credentials=pair) as server,
        caplog.at_level(logging.DEBUG, "comfy_client"),
        ComfyApi(server.url, credentials=credentials) as api,
    ):
        api.submit(Workflow.example(), comfy_api_key="hunter2-key").exception()
    assert "hunter2" not in "".join(f"{vars(one)}" for one in caplog.records)


def test_a_record_that_cannot_be_formatted_stops_nobody(
    record: Record, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of a library that formats wrongly; it shows none of its arguments."""
    with ComfyServer() as server, ComfyApi(server.url), caplog.at_level(logging.DEBUG, "urllib3"):
        logging.getLogger("urllib3.connectionpool").debug("%d of", "hunter2-secret")
    [told] = [one.getMessage() for one in caplog.records if "formatted" in one.getMessage()]
    assert told == "a record that cannot be formatted: TypeError"
    assert "hunter2" not in capfd.readouterr().err


def test_a_request_without_an_answer_is_a_line_too(
    refused: str, caplog: pytest.LogCaptureFixture
) -> None:
    api = ComfyApi(refused)
    with caplog.at_level(logging.DEBUG, "comfy_client"):
        assert not api.ping()
    [line] = [vars(one) for one in caplog.records if "http_method" in vars(one)]
    assert (line["http_status"], line["bytes_received"]) == (None, 0)
    assert ": no answer, " in line["message"]
    api.close()


def test_each_record_names_its_server_and_the_tags_of_its_prompt(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Two clients in one process, at every level; only records about a prompt have tags."""
    workflow = Workflow.example()
    with (
        ComfyServer() as one,
        ComfyServer() as other,
        caplog.at_level(logging.DEBUG, "comfy_client"),
        ComfyApi(one.url) as first,
        ComfyApi(other.url) as second,
    ):
        told = first.submit(workflow, tags={"tenant": "a", "try": 2})
        bare = second.submit(workflow)
        bare.result()
        told.result()
        jobs = {first.host: told, second.host: bare}
    ours = [vars(it) for it in caplog.records if it.name == "comfy_client"]
    for host, job in jobs.items():
        of_it = [it for it in ours if it["server"] == host]
        assert any("http_method" in it for it in of_it)
        assert any("event thread: connected" in it["message"] for it in of_it)
        about = [it for it in ours if it.get("prompt_id") == job.prompt_id]
        assert {"submitted", "ended"} <= {it.get("prompt_event") for it in about}
        assert {it["server"] for it in about} == {host}
        assert all(it["tags"] == job.tags for it in about)
    assert told.tags == {"tenant": "a", "try": 2}
    assert bare.tags == {}


def test_a_record_about_no_server_has_the_attributes_too(
    server: ComfyServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A formatter may thus name them."""
    with ComfyApi(server.url):
        signal("progres")
    [line] = [vars(one) for one in caplog.records if "did you mean" in one.getMessage()]
    assert (line["server"], line["tags"]) == (None, {})


@pytest.mark.parametrize("way", ["run", "map", "sweep", "pool"])
def test_tags_reach_the_log_by_every_way_of_submitting(
    server: ComfyServer, record: Record, info: pytest.LogCaptureFixture, way: str
) -> None:
    with ComfyApi(server.url) as api:
        if way == "run":
            api.run(WORKFLOW, progress=False, tags={"tenant": "a"})
        elif way == "map":
            list(api.map([WORKFLOW], progress=False, tags={"tenant": "a"}))
        elif way == "sweep":
            api.sweep(WORKFLOW, {"Make.seed": [1]}, progress=False, tags={"tenant": "a"})
        else:
            with ComfyPool([api]) as pool:
                job = pool.submit(WORKFLOW, tags={"tenant": "a"})
                assert job.tags == {"tenant": "a"}
                job.result()
                assert job.tags == {"tenant": "a"}
                # The thread that submitted it may be about to write the first line.
                until(lambda: lines(info, "ended"))
    found = lines(info)
    assert {"submitted", "ended"} <= {one["prompt_event"] for one in found}
    assert all(one["tags"] == {"tenant": "a"} for one in found)
    assert {one["server"] for one in found} == {api.host}


def test_tags_stay_with_the_client(server: ComfyServer, api: ComfyApi, record: Record) -> None:
    """The server never gets them, and later changes of the mapping change nothing."""
    tags = {"tenant": "hunter2"}
    job = api.submit(WORKFLOW, tags=tags)
    tags["tenant"] = "changed"
    job.result()
    assert job.tags == {"tenant": "hunter2"}
    assert not any("hunter2" in f"{request.body!r}" for request in server.requests)


@pytest.mark.parametrize("name", ["submit", "queue_prompt", "map", "sweep"])
def test_wrong_tags_are_refused_before_anything_is_sent(refused: str, name: str) -> None:
    wrong: Any = ["tenant"]
    api = ComfyApi(refused)
    calls: dict[str, Callable[[], object]] = {
        "submit": lambda: api.submit(WORKFLOW, tags=wrong),
        "queue_prompt": lambda: api.queue_prompt(None, WORKFLOW, tags=wrong),
        "map": lambda: list(api.map([WORKFLOW], tags=wrong)),
        "sweep": lambda: api.sweep(WORKFLOW, {"Make.seed": [1]}, tags=wrong),
    }
    with pytest.raises(TypeError, match="tags must be a mapping"):
        calls[name]()


@pytest.mark.parametrize("runs", [ComfyApi, ComfyPool])
def test_a_sweep_that_is_carried_on_gives_its_tags_to_a_prompt_that_it_finds(
    server: ComfyServer, record: Record, info: pytest.LogCaptureFixture, tmp_path: Path, runs: Any
) -> None:
    """The journal keeps no tags; the prompt runs, or has ended meanwhile."""
    record.gate = threading.Semaphore(1)
    sweep: dict[str, Any] = {"journal": tmp_path / "journal", "progress": False}
    found: list[str] = []

    def stop(row: SweepRow) -> None:
        until(lambda: [one for one in server.running if one[1] != row.prompt_id])
        found.append(server.running[0][1])
        raise KeyboardInterrupt

    with ComfyApi(server.url) as api, pytest.raises(KeyboardInterrupt):
        api.sweep(WORKFLOW, {"Make.seed": [1, 2]}, on_row=stop, **sweep)
    record.gate = None
    with runs(server.url) if runs is ComfyApi else runs([server.url]) as again:
        rows = again.sweep(WORKFLOW, {"Make.seed": [1, 2]}, tags={"tenant": "a"}, **sweep)
        assert [row.prompt_id for row in rows][1:] == found
        until(lambda: [one["prompt_id"] for one in lines(info, "ended")][-1:] == found)
    assert lines(info, "ended")[-1]["tags"] == {"tenant": "a"}
