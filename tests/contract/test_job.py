"""What a job tells and does: the same on the embedded server and on real ones, old and new."""

from __future__ import annotations

import _thread
import random
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import as_completed

import blinker
import pytest

from comfy_client import ComfyApi
from comfy_client.errors import (
    ClientClosed,
    JobFailed,
    JobInterrupted,
    JobLost,
    JobNotFound,
    JobTimeout,
    NotSupported,
    PromptRejected,
)
from tests.comfyui import DEFAULT
from tests.contract.conftest import Server, a_while, forgot, running
from tests.contract.test_runs import ENDS, picture, sleeper, until
from tests.helpers.clients import goes_on
from tests.helpers.running_comfyui import GIVEN
from tests.versions import has

LIMIT = 180.0


@pytest.fixture(scope="session")
def server(request) -> Iterator[Server]:
    """One that runs, with the nodes for tests."""
    if request.param in (DEFAULT, GIVEN):
        yield request.getfixturevalue("real_comfyui")
    else:
        with running(request.param) as server:
            yield server


@pytest.fixture
def stops_one(server) -> bool:
    """Whether its interrupt heeds the prompt_id."""
    return has(server.version, "interrupt by id")


@pytest.fixture
def api(server) -> Iterator[ComfyApi]:
    """A client whose signals are its own, on a server that is idle before and after."""
    with ComfyApi(server.url, namespace=blinker.Namespace()) as client:
        yield client

        def is_idle() -> bool:
            client.clear_queue()
            client.interrupt()  # which a prompt that is about to begin does not heed
            return not client.poll_status(LIMIT).queue_remaining

        until(is_idle)


@pytest.fixture
def stranger(server) -> Iterator[ComfyApi]:
    """A client in another place, with an id of its own."""
    with ComfyApi(server.url, namespace=blinker.Namespace()) as client:
        yield client


def failing():
    return {"5": {"class_type": "TestFail", "inputs": {"message": "as told"}}}


def ends_of(api) -> list:
    """The end events that receivers get from now on."""
    ends: list = []
    for name in ENDS:
        api.on(name, ends.append)
    return ends


# -- how it is doing ---------------------------------------------------------------------


def test_a_job_knows_where_it_is(api, stops_one):
    """Running, or with how many before it; and says so in a sentence."""
    first, second, third = (api.submit(sleeper(ticks=1000)) for _ in range(3))
    assert [job.queue_position for job in (second, third)] == [1, 2]
    until(lambda: first.status == "running" and first.progress.step)
    assert second.status == third.status == "pending"
    assert first.queue_position == 0
    until(lambda: (second.queue_position, third.queue_position) == (1, 2))
    assert first.why().startswith("running: TestSleepOutput ")
    assert "/1000, for " in first.why()
    assert "last news" in first.why()
    assert third.why().startswith("pending, 2 ahead; running: TestSleepOutput ")
    assert second.cancel()
    assert second.status == "interrupted"
    until(lambda: third.queue_position == 1)
    assert first.cancel(force=not stops_one)
    until(lambda: third.status == "running")
    assert third.queue_position == 0
    assert third.cancel(force=not stops_one)
    assert isinstance(third.exception(LIMIT), JobInterrupted)
    assert third.queue_position is None
    assert third.why().startswith("interrupted after ")


def test_progress_is_one_fraction_that_never_falls(api, stranger, server, stops_one):
    """From the first node to the result, with node, title and steps."""
    seconds = a_while(server, 1.0)
    graph = {
        "1": {"class_type": "TestSleep", "inputs": {"seconds": seconds, "ticks": 5, "text": "a"}},
        "2": {
            "class_type": "TestSleepOutput",
            "inputs": {"seconds": seconds, "ticks": 10, "text": ["1", 0]},
            "_meta": {"title": "The second"},
        },
    }
    busy = stranger.submit(sleeper())
    until(lambda: busy.status == "running")
    job = api.submit(graph)
    events = job.events()
    assert busy.cancel(force=not stops_one)
    seen = [job.progress for _ in events]
    job.result(LIMIT)
    seen.append(job.progress)
    fractions = [progress.fraction for progress in seen]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert max(progress.fraction for progress in seen if progress.node_id) < 1.0
    assert any(0.5 < fraction < 1.0 for fraction in fractions)
    titles = {progress.title for progress in seen}
    assert {"TestSleep", "The second"} <= titles
    assert any(p.node_id == "2" and p.steps == 10 and (p.step or 0) > 0 for p in seen)
    assert seen[-1].elapsed is not None
    assert seconds < seen[-1].elapsed < LIMIT


def test_a_client_learns_what_its_nodes_cost(api, server):
    """Before its first run all nodes that are no samplers count the same."""
    runs = []
    for _ in range(2):
        quick = {"seconds": 0.02, "ticks": 1, "text": str(random.random())}
        slow = {"seconds": a_while(server, 1.5, 5.0), "ticks": 10, "text": ["1", 0]}
        graph = {
            "1": {"class_type": "TestSleep", "inputs": quick},
            "2": {"class_type": "TestSleepOutput", "inputs": slow},
        }
        job = api.submit(graph)
        seen = [job.progress for _ in job.events()]
        runs.append([(p.step / 10, p.fraction) for p in seen if p.node_id == "2" and p.step])
        job.result(LIMIT)
    first, second = runs
    # What the server says of a step may be one ahead of the step itself.
    assert all(abs(fraction - (1 + part) / 2) < 0.06 for part, fraction in first)
    # On a busy machine the quick node takes longer, but hardly half as long as the slow one.
    assert min(second)[1] < 0.5 < max(second)[1]
    assert len(first) > 3 < len(second)


def test_a_job_gives_its_events_from_the_submission_to_the_end(api):
    """Also when it is over before anybody asks; then only the newest of progress is left."""
    job = api.submit(sleeper(0.2, 10))
    job.result(LIMIT)
    names = [event.name for event in job.events()]
    assert names[0] == "execution_start"
    assert names[-1] == "execution_success"
    assert names.count("progress") == 1
    assert [event.name for event in job.events()] == ["execution_success"]
    assert {event.prompt_id for event in job.events()} == {job.prompt_id}


def test_two_may_follow_one_job(api):
    """Each in a thread of its own; who comes later has the rest."""
    job = api.submit(sleeper(0.5, 20))
    early = job.events()
    next(early)
    late = job.events()
    found: list[list[str]] = [[], []]
    threads = [
        threading.Thread(target=lambda f=f, e=e: f.extend(event.name for event in e))
        for f, e in zip(found, (early, late), strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert found[0][-1] == found[1][-1] == "execution_success"


def test_a_result_has_seeds_and_whether_anything_ran(api, server):
    """The second run of one workflow runs nothing, and has its pictures all the same."""
    graph = picture()
    graph["1"]["inputs"]["seed"] = 5
    first, second = api.run(graph, timeout=LIMIT), api.run(graph, timeout=LIMIT)
    assert not first.fully_cached
    assert second.fully_cached or forgot(server, second, *graph)
    assert first.seeds == second.seeds == {"1": 5}
    assert first["Save"].images
    assert second["Save"].images


@pytest.mark.parametrize("transport", ["auto", "poll"])
def test_a_lazy_input_that_was_not_needed_does_not_count_as_run(server, transport):
    """Whether anything ran is the same by events and by history: an input that is lazy."""
    if not has(server.version, "progress_text"):
        return  # from before lazy inputs, or before PreviewAny
    switch = {"class_type": "TestSwitch"}
    graph = {
        "1": switch | {"inputs": {"choose": ""}},
        "2": switch | {"inputs": {"choose": " "}},
        "3": switch | {"inputs": {"choose": "a", "a": ["1", 0], "b": ["2", 0]}},
        "4": {"class_type": "PreviewAny", "inputs": {"source": ["3", 0]}},
    }
    with ComfyApi(server.url, namespace=blinker.Namespace(), transport=transport) as client:
        client.run(graph, timeout=LIMIT)
        again = client.run(graph, timeout=LIMIT)
    assert "2" not in again.cached_nodes
    assert again.fully_cached or forgot(server, again, *(graph.keys() - {"2"}))


# -- cancelling --------------------------------------------------------------------------


def test_cancelling_what_waits_hits_nothing_else(api, stops_one):
    """It never ran, ends at once in JobInterrupted, and with one end event."""
    ends = ends_of(api)
    busy = api.submit(sleeper(ticks=1000))
    until(lambda: busy.status == "running")
    waiting = api.submit(sleeper(0.01, 1))
    behind = api.submit(sleeper(0.01, 1))
    assert waiting.cancel()
    with pytest.raises(JobInterrupted, match="while it waited"):
        waiting.result(LIMIT)
    assert waiting.status == "interrupted"
    assert not waiting.cancel()
    assert goes_on(busy)
    assert busy.cancel(force=not stops_one)
    with pytest.raises(JobInterrupted):
        busy.result(LIMIT)
    behind.result(LIMIT)
    assert api.get_history(waiting.prompt_id) is None
    until(lambda: len(ends) == 3)
    assert sorted(e.prompt_id for e in ends) == sorted(
        job.prompt_id for job in (busy, waiting, behind)
    )


def test_cancelling_what_runs_leaves_the_next_alone(api, stops_one):
    """Where the server would stop whatever runs, it takes the caller's word."""
    runs, next_one = api.submit(sleeper(ticks=1000)), api.submit(sleeper(0.01, 1))
    until(lambda: runs.status == "running")
    if not stops_one:
        with pytest.raises(NotSupported, match="force=True"):
            runs.cancel()
        assert goes_on(runs)
    assert runs.cancel(force=not stops_one)
    with pytest.raises(JobInterrupted):
        runs.result(LIMIT)
    next_one.result(LIMIT)


def test_cancelling_what_is_over_does_nothing(api):
    """Nor does it disturb what runs now."""
    over = api.submit(sleeper(0.01, 1))
    over.result(LIMIT)
    other = api.submit(sleeper(0.3, 3))
    assert not over.cancel(force=True)
    other.result(LIMIT)
    assert over.status == "succeeded"
    assert not over.cancelled()


@pytest.mark.parametrize("callback", [None, lambda event: None])
def test_ctrl_c_may_cancel_the_prompt(api, stranger, stops_one, callback):
    """``on_interrupt="cancel"``; one that waits, on any server."""
    busy = stranger.submit(sleeper(ticks=1000))
    until(lambda: busy.status == "running")

    def interrupt():
        until(lambda: api.poll_status(LIMIT).queue_remaining == 2)
        _thread.interrupt_main()

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        api.run(sleeper(0.01, 1), on_interrupt="cancel", on_event=callback, timeout=LIMIT)
    thread.join()
    until(lambda: api.poll_status(LIMIT).queue_remaining == 1)
    assert goes_on(busy)
    assert busy.cancel(force=not stops_one)
    assert isinstance(busy.exception(LIMIT), JobInterrupted)


# -- patience ----------------------------------------------------------------------------


def test_no_news_within_stall_timeout_is_a_timeout(api, server, stops_one):
    """While news come it goes on, however long the job takes."""
    job = api.submit(sleeper(LIMIT, 1))
    until(lambda: job.status == "running")
    with pytest.raises(JobTimeout, match="no news") as caught:
        job.result(stall_timeout=0.5)
    assert caught.value.stalled
    assert "running" in str(caught.value)
    assert job.cancel(force=not stops_one)
    assert isinstance(job.exception(LIMIT), JobInterrupted)
    patience = a_while(server, 4.5, 10.0)
    assert api.run(sleeper(patience + 0.5, 50), stall_timeout=patience).texts


def test_a_timeout_says_how_to_go_on(api, stranger, server, stops_one):
    """And the prompt can be attached by its id."""
    busy = stranger.submit(sleeper())
    until(lambda: busy.status == "running")
    with pytest.raises(JobTimeout, match=r"api\.job") as caught:
        api.run(sleeper(0.1, 1), timeout=a_while(server, 1.5, 5.0))
    assert not caught.value.stalled
    assert busy.cancel(force=not stops_one)
    assert api.job(caught.value.prompt_id).result(LIMIT).texts


# -- attaching ---------------------------------------------------------------------------


def test_a_job_is_attached_by_its_id_alone(api, stranger, stops_one):
    """By another client, while it waits, with the same result."""
    busy, job = api.submit(sleeper()), api.submit(picture("runs/taken"))
    until(lambda: busy.status == "running")
    taken = stranger.job(job.prompt_id)
    assert taken.status in ("unknown", "pending")
    assert busy.cancel(force=not stops_one)
    mine, theirs = job.result(LIMIT), taken.result(LIMIT)
    assert [f.filename for f in mine.files] == [f.filename for f in theirs.files]
    assert theirs["Save"].images[0].bytes() == mine["Save"].images[0].bytes()
    assert taken.status == "succeeded"
    assert taken.graph.keys() == job.graph.keys()


def test_a_job_that_is_attached_knows_at_once_where_it_is(api, stranger, stops_one):
    """Running, waiting or over, before anybody waits for anything."""
    over = api.submit(sleeper(0.01, 1))
    over.result(LIMIT)
    until(lambda: not api.poll_status(LIMIT).queue_remaining)
    runs, waits = api.submit(sleeper()), api.submit(sleeper(0.01, 1))
    until(lambda: runs.status == "running")
    taken = [stranger.job(job.prompt_id) for job in (over, runs, waits)]
    assert [job.status for job in taken] == ["succeeded", "running", "pending"]
    assert taken[2].queue_position == 1
    assert runs.cancel(force=not stops_one)
    assert [type(job.exception(LIMIT)) for job in taken] == [type(None), JobInterrupted, type(None)]


def test_a_job_is_attached_after_its_client_is_gone(server, api, stops_one):
    """As after the restart of a kernel."""
    busy = api.submit(sleeper())
    until(lambda: busy.status == "running")
    with ComfyApi(server.url) as gone:
        job = gone.submit(sleeper(0.1, 1))
    with pytest.raises(ClientClosed):
        job.result(0)
    assert job.status == "unknown"
    assert busy.cancel(force=not stops_one)
    assert api.job(job.prompt_id).result(LIMIT).texts == (job.graph["1"]["inputs"]["text"],)


def test_a_failure_is_the_same_by_socket_and_by_history(api, stranger):
    """By the socket, from history, and again after the end."""
    job = api.submit(failing())
    told = job.exception(LIMIT)
    assert isinstance(told, JobFailed)
    for client in (api, stranger):
        read = client.job(job.prompt_id).exception(LIMIT)
        assert type(read) is JobFailed
        assert {**vars(read)} == {**vars(told)}
        assert str(read) == str(told)


def test_an_unknown_prompt_is_lost(api):
    """After two looks, apart in time."""
    ends = ends_of(api)
    job = api.job(str(uuid.uuid4()))
    with pytest.raises(JobLost):
        job.result(LIMIT)
    assert job.status == "lost"
    until(lambda: ends)
    assert [event.name for event in ends] == ["job_lost"]


def test_a_job_of_ours_is_one_object_while_it_is_outstanding(api):
    """Two of it would fire two ends."""
    job = api.submit(sleeper())
    assert api.job(job.prompt_id) is job


def test_a_chosen_prompt_id_finds_the_prompt(api):
    """Also where the server has chosen another one: by the mark, beside the same client_id."""
    mine = str(uuid.uuid4())
    job = api.submit(sleeper(0.3, 3), prompt_id=mine)
    with ComfyApi(api.host, client_id=api.client_id, transport="poll") as other:
        taken = other.job(mine)
        assert taken.result(LIMIT).texts == job.result(LIMIT).texts
        assert taken.prompt_id == job.prompt_id
        assert other.job(mine).result(LIMIT).texts


@pytest.mark.parametrize(
    "bad",
    [
        "1",
        "",
        7,
        "5F3C0B1E-8A0D-4C57-9D53-0A7D1B0C6E11",
        "5f3c0b1e8a0d4c579d530a7d1b0c6e11",
    ],
)
def test_an_id_that_new_servers_refuse_is_refused_here(api, bad):
    """On every server alike."""
    with pytest.raises(ValueError, match="canonical"):
        api.submit(failing(), prompt_id=bad)


def test_an_id_in_use_is_refused(api):
    """It would be the same prompt twice."""
    job = api.submit(sleeper(), prompt_id=str(uuid.uuid4()))
    with pytest.raises(ValueError, match="outstanding"):
        api.submit(sleeper(0.1, 1), prompt_id=job.prompt_id)


# -- partly valid ------------------------------------------------------------------------


def partly_valid():
    """One good output, and one that lacks an input."""
    graph = picture("runs/partly")
    loose = {"class_type": "SaveImage", "inputs": {"filename_prefix": "x"}}
    graph["7"] = {**loose, "_meta": {"title": "Loose"}}
    return graph


def test_the_valid_part_of_a_workflow_runs(api, caplog):
    """With one warning, and what is wrong on job and result."""
    job = api.submit(partly_valid())
    result = job.result(LIMIT)
    assert set(job.node_errors) == set(result.node_errors) == {"7"}
    assert set(result.nodes) == {"9"}
    (said,) = [text for text in caplog.messages if "without some of its outputs" in text]
    assert "Loose" in said
    assert "images" in said


def test_strict_refuses_what_is_partly_valid(api, stranger, stops_one):
    """It is cancelled: while it waits it never runs."""
    busy = stranger.submit(sleeper())
    until(lambda: busy.status == "running")
    with pytest.raises(PromptRejected, match="strict") as caught:
        api.submit(partly_valid(), strict=True)
    assert set(caught.value.node_errors) == {"7"}
    assert caught.value.status == 200
    assert busy.cancel(force=not stops_one)
    until(lambda: not api.poll_status(LIMIT).queue_remaining)
    assert api.run(picture(), strict=True, timeout=LIMIT)["Save"].images


# -- many --------------------------------------------------------------------------------


def test_jobs_are_futures_of_the_standard_library(api):
    """Waited for together, and calling back in the order in which they end."""
    ended = []
    threads = set()
    jobs = []
    for _ in range(5):
        jobs.append(api.submit(sleeper(0.05 + random.random() / 20, 1)))
        jobs[-1].add_done_callback(lambda _: threads.add(threading.current_thread().name))
        jobs[-1].add_done_callback(ended.append)
    assert set(as_completed(jobs, timeout=LIMIT)) == set(jobs)
    until(lambda: len(ended) == 5)
    assert ended == jobs
    assert threads <= {"comfy-callbacks", threading.current_thread().name}
    assert {job.status for job in jobs} == {"succeeded"}


# -- one that must exist -----------------------------------------------------------------


def test_job_with_must_exist_looks_in_queue_and_history(api, stranger, stops_one):
    """Running, waiting, ended; nothing else is."""
    running, waiting = api.submit(sleeper()), api.submit(picture())
    until(lambda: running.status == "running")
    for job in (running, waiting):
        found = stranger.job(job.prompt_id, must_exist=True)
        assert found.prompt_id == job.prompt_id
        assert found.status in ("pending", "running")
        assert api.job(job.prompt_id, must_exist=True) is job
    running.cancel(force=not stops_one)
    result = waiting.result(LIMIT)
    again = stranger.job(waiting.prompt_id, must_exist=True).result(LIMIT)
    assert again["Save"].image.filename == result["Save"].image.filename
    with ComfyApi(api.host, namespace=blinker.Namespace()) as third:
        third.delete_history(waiting.prompt_id)
        for prompt_id in (waiting.prompt_id, str(uuid.uuid4())):
            with pytest.raises(JobNotFound, match="in no queue and no history"):
                third.job(prompt_id, must_exist=True)


def test_as_completed_says_how_many_are_left(api, stops_one):
    """Of two servers' clients or one; what has ended comes first."""
    quick, slow = api.submit(picture()), api.submit(sleeper())
    quick.result(LIMIT)
    ended = api.as_completed([slow, quick, quick], timeout=1.0)
    assert next(ended) is quick
    with pytest.raises(JobTimeout, match="1 of 2 prompts") as caught:
        next(ended)
    assert caught.value.prompt_id == slow.prompt_id
    slow.cancel(force=not stops_one)
    assert list(api.as_completed([slow], timeout=LIMIT)) == [slow]
