"""A prompt is attached to by its id: by another client, before its answer, after its end."""

from __future__ import annotations

import contextlib
import gc
import threading
import time
import uuid
import weakref

import pytest

from comfy_client import ComfyApi, Upload
from comfy_client.errors import (
    ApiError,
    ClientClosed,
    JobInterrupted,
    JobLost,
    JobNotFound,
    PromptRejected,
)
from comfy_client.testing import ComfyServer
from tests.conftest import load_workflow
from tests.helpers.clients import (
    LIMIT,
    Heard,
    client,
    exception_of,
    flush,
    outstanding,
    until,
)
from tests.helpers.gates import held, shows
from tests.helpers.march_2024 import March2024
from tests.helpers.recordings import recording
from tests.helpers.scripted import (
    GRAPH,
    START,
    WELL,
    check,
)


def test_a_refused_submission_ends_for_whoever_attached_to_it(comfy, fast):
    """Another thread knew the id that it was given."""
    entered, go = threading.Event(), threading.Event()
    failures = []

    def refuse(request):
        entered.set()
        go.wait(LIMIT)
        return 400, {}, {"error": {"type": "prompt_no_outputs"}}

    def submit():
        try:
            fast.submit(GRAPH, prompt_id=mine)
        except PromptRejected as exc:
            failures.append(exc)

    comfy.on("POST", "/prompt", refuse)
    mine = str(uuid.uuid4())
    thread = threading.Thread(target=submit)
    thread.start()
    assert entered.wait(LIMIT)
    job = fast.job(mine)
    go.set()
    thread.join()
    assert str(job.exception(LIMIT)) == str(failures[0])


def test_a_prompt_attached_by_both_ids_ends_once_for_both_jobs(comfy, fast):
    """By the id that we chose and by that of the server: both end, with one end event."""
    told = Heard(fast)
    go = threading.Event()
    comfy.faults.other_prompt_ids()
    comfy.script(START, go, *WELL[1:])
    mine = str(uuid.uuid4())
    job = fast.submit(GRAPH, prompt_id=mine)
    twin = fast.job(mine)
    events = twin.events()
    comfy.until(lambda: twin.prompt_id == job.prompt_id, LIMIT)
    assert twin.status == job.status
    go.set()
    check(job.result(LIMIT))
    check(twin.result(LIMIT))
    assert [e.name for e in events][-1] == "execution_success"
    assert [e.name for e in told.ends()] == ["execution_success"]


def test_a_prompt_that_ends_before_its_id_is_known_is_not_outstanding(comfy, fast):
    """Though somebody has attached to it, whose job ends too, with an error of its own."""
    comfy.faults.other_prompt_ids()
    mine = str(uuid.uuid4())
    go, answered = threading.Event(), threading.Event()
    end = {"type": "execution_interrupted", "data": {"prompt_id": mine, "node_id": "1"}}
    comfy.script(START, go, end)

    def late(request):
        answer = comfy.answer(request)
        comfy.until(answered.is_set, LIMIT)
        return answer

    comfy.on("POST", "/prompt", late)
    sent = []
    sender = threading.Thread(target=lambda: sent.append(fast.submit(GRAPH, prompt_id=mine)))
    sender.start()
    comfy.until(lambda: comfy.running, LIMIT)
    taken = fast.job(fast.get_queue().running[0].prompt_id)
    told = Heard(fast)
    go.set()
    comfy.until(lambda: told.ends(mine), LIMIT)
    answered.set()
    sender.join(LIMIT)
    assert isinstance(taken.exception(LIMIT), JobInterrupted)
    assert taken.exception() is not sent[0].exception()
    assert outstanding(fast) == []


@pytest.mark.parametrize("is_early", [True, False], ids=["events first", "answer first"])
def test_a_job_attached_before_its_submission_is_answered_ends_with_it(comfy, fast, is_early):
    """By the id of a server that chooses its own, as seen in the queue; nothing is missing."""
    told = Heard(fast)
    go, answered = threading.Event(), threading.Event()
    comfy.faults.other_prompt_ids()
    steps = recording("2024-03", "save_image_websocket").steps
    comfy.script(*steps[:2], go, *steps[2:])

    def late(request):
        answer = comfy.answer(request)
        comfy.until(answered.is_set, LIMIT)
        return answer

    comfy.on("POST", "/prompt", late)
    got = []
    graph = load_workflow("txt2img_websocket")
    sender = threading.Thread(target=lambda: got.append(fast.submit(graph)))
    sender.start()
    comfy.until(lambda: comfy.running, LIMIT)
    taken = fast.job(fast.get_queue().running[0].prompt_id)
    events = taken.events()
    if is_early:
        go.set()
        comfy.until(lambda: taken.handle.state.ended, LIMIT)
    answered.set()
    sender.join()
    go.set()
    [job] = got
    assert job.prompt_id == taken.prompt_id
    assert len(job.result(LIMIT).images) == 2
    assert taken.result(LIMIT).images
    assert [e.name for e in events if e.is_end] == ["execution_success"]
    assert [e.name for e in told.ends()] == ["execution_success"]
    assert outstanding(fast) == []


@pytest.mark.parametrize("server", [March2024, ComfyServer])
@pytest.mark.parametrize("spell", [str.upper, "{{{}}}".format, lambda one: one.replace("-", "")])
def test_a_prompt_is_found_by_any_spelling_of_its_id(server, spell):
    """Here and from elsewhere, while it runs and after; an id that is no UUID is as it is."""
    with server() as comfy:
        go = threading.Event()
        comfy.script(START, go, *WELL[1:])
        with ComfyApi(comfy.url) as api, ComfyApi(comfy.url) as other:
            job = api.submit(GRAPH)
            until(lambda: job.status == "running")
            assert api.job(spell(job.prompt_id)) is job
            comfy.until(lambda: api.get_queue().running)
            taken = other.job(spell(job.prompt_id))
            assert taken.status == "running"
            assert taken.prompt_id == job.prompt_id
            go.set()
            check(taken.result(LIMIT))
            check(api.job(spell(job.prompt_id)).result(LIMIT))
            with ComfyApi(comfy.url) as late:
                check(late.job(spell(job.prompt_id)).result(LIMIT))


def test_a_job_that_has_ended_is_given_again_while_it_is_kept(comfy, fast):
    """Without asking anybody; its result may be large, so it is not kept for that."""
    comfy.script(*WELL)
    job = fast.submit(GRAPH)
    check(job.result(LIMIT))
    before = len(comfy.requests)
    assert fast.job(job.prompt_id) is job
    assert len(comfy.requests) == before
    prompt_id = job.prompt_id
    result = weakref.ref(job)
    del job
    gc.collect()
    assert result() is None
    check(fast.job(prompt_id, GRAPH).result(LIMIT))


def test_attaching_to_an_ended_prompt_publishes_its_end_once(
    comfy: ComfyServer, fast: ComfyApi
) -> None:
    """Its own events() end all the same; another client is told once."""
    told = Heard(fast)
    prompt_id = fast.run(shows(), timeout=LIMIT).prompt_id
    for _ in range(2):
        job = fast.job(prompt_id)
        assert [event.name for event in job.events()] == ["execution_success"]
        assert job.result(LIMIT).texts == ("x",)
    flush(fast)
    assert [e.prompt_id for e in told.ends()] == [prompt_id]
    with client(comfy) as other:
        told = Heard(other)
        other.job(prompt_id).result(LIMIT)
        other.job(prompt_id).result(LIMIT)
        flush(other)
        assert [e.prompt_id for e in told.ends()] == [prompt_id]


def test_an_attached_job_does_not_make_up_its_progress(
    comfy: ComfyServer, fast: ComfyApi, gate: threading.Event
) -> None:
    """Where it is, its own client is told; how long it ran, the history says."""
    with client(comfy) as other:
        job = fast.submit(shows(waits=True))
        until(lambda: job.status == "running")
        taken = other.job(job.prompt_id)
        behind = fast.submit(shows("y"))
        waits = other.job(behind.prompt_id)
        assert taken.why().startswith(
            "running: no progress, as another client submitted it; last news"
        )
        assert (
            "pending, 1 ahead; running: no progress, as another client submitted it" in waits.why()
        )
        until(lambda: time.monotonic() - job.handle.state.running_since > 0.5)
        gate.set()
        taken.result(LIMIT)
        entry = other.get_history(job.prompt_id)
        assert entry is not None
        assert taken.progress.elapsed == entry.ended - entry.started >= 0.5


# -- one that must exist ------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["auto", "poll"])
def test_a_prompt_that_must_exist_is_found_where_it_is(comfy, gate, transport):
    """In the queue, running or waiting; in the history; by another client."""
    with client(comfy, transport=transport) as api, client(comfy, transport=transport) as other:
        running = api.submit(held("a"))
        waiting = api.submit(held("a"))
        for one in (running, waiting):
            assert other.job(one.prompt_id, must_exist=True).prompt_id == one.prompt_id
            assert api.job(one.prompt_id, must_exist=True) is one
        gate("a").set()
        waiting.result(LIMIT)
        assert client(comfy).job(running.prompt_id, must_exist=True).result(LIMIT).images


@pytest.mark.parametrize("form", [str, str.upper, lambda text: text.replace("-", "")])
def test_a_prompt_that_does_not_exist_is_an_error_at_once(comfy, fast, form):
    """No event tells of it, and nothing is left behind."""
    told = Heard(fast)
    unknown = form(str(uuid.uuid4()))
    with pytest.raises(JobNotFound, match="in no queue and no history") as caught:
        fast.job(unknown, must_exist=True)
    assert caught.value.prompt_id == unknown
    assert outstanding(fast) == []
    flush(fast)
    assert told.ends() == []


def test_a_prompt_that_was_deleted_exists_no_more(comfy, fast, gate):
    """Though this client had it, or waits to see whether it is lost."""
    other = client(comfy)
    gone, kept = fast.run(shows(), timeout=LIMIT), fast.run(shows("y"), timeout=LIMIT)
    fast.delete_history(gone.prompt_id)
    with pytest.raises(JobNotFound):
        other.job(gone.prompt_id, must_exist=True)
    assert fast.job(gone.prompt_id, must_exist=True).result(LIMIT).texts == ()  # it has ended here
    job = other.job(gone.prompt_id)
    with pytest.raises(JobNotFound):
        other.job(gone.prompt_id, must_exist=True)
    with pytest.raises(JobLost):
        job.result(LIMIT)
    with pytest.raises(JobNotFound):
        other.job(gone.prompt_id, must_exist=True)
    assert other.job(kept.prompt_id, must_exist=True).result(LIMIT).texts == ("y",)
    other.close()


def test_a_prompt_that_is_being_submitted_exists(comfy, fast):
    """From the call of ``submit`` on, though the server has not heard of it."""
    entered, go = threading.Event(), threading.Event()
    comfy.script(*WELL)

    def late(request):
        entered.set()
        go.wait(LIMIT)
        return comfy.answer(request)

    comfy.on("POST", "/prompt", late)
    mine = str(uuid.uuid4())
    sent = []
    sender = threading.Thread(target=lambda: sent.append(fast.submit(GRAPH, prompt_id=mine)))
    sender.start()
    assert entered.wait(LIMIT)
    job = fast.job(mine, must_exist=True)
    go.set()
    sender.join(LIMIT)
    assert sent == [job]
    check(job.result(LIMIT))


@contextlib.contextmanager
def sending_a_file(comfy, fast):
    """In here, a prompt's file is on its way, until it is let go and refused; its id, and that."""
    entered, go = threading.Event(), threading.Event()

    def late(request):
        entered.set()
        go.wait(LIMIT)
        return 413, {}, None

    comfy.on("POST", "/upload/image", late)
    mine = str(uuid.uuid4())
    graph = {"1": {"class_type": "LoadImage", "inputs": {"image": Upload(b"content")}}}
    sender = threading.Thread(
        target=lambda: exception_of(lambda: fast.submit(graph, prompt_id=mine), LIMIT)
    )
    sender.start()
    assert entered.wait(LIMIT)
    yield mine, go
    go.set()
    sender.join(LIMIT)


def test_a_prompt_whose_files_are_being_sent_is_waited_for(comfy, fast):
    """Until it is submitted; it does not exist if that fails."""
    with sending_a_file(comfy, fast) as (mine, go):
        threading.Timer(0.3, go.set).start()
        with pytest.raises(JobNotFound):
            fast.job(mine, must_exist=True)
        assert go.is_set()


def test_close_ends_the_wait_for_a_submission(comfy, fast):
    """Whose files are being sent."""
    with sending_a_file(comfy, fast) as (mine, _):
        threading.Timer(0.3, fast.close).start()
        error = exception_of(lambda: fast.job(mine, must_exist=True), LIMIT)
        assert isinstance(error, ClientClosed)


def test_a_prompt_is_found_by_our_id_on_servers_that_choose_ids(comfy, fast, gate):
    """By the mark, by whoever submitted it."""
    comfy.faults.other_prompt_ids()
    mine = str(uuid.uuid4())
    job = fast.submit(held("a"), prompt_id=mine)
    assert job.prompt_id != mine
    assert fast.job(mine, must_exist=True) is job
    gate("a").set()
    job.result(LIMIT)
    assert fast.job(mine, must_exist=True) is job


def test_a_failing_server_is_another_error_than_a_missing_prompt(comfy, fast):
    """Not one that the prompt does not exist."""
    comfy.on("GET", "/queue", (502, {}, None))
    with pytest.raises(ApiError, match="502"):
        fast.job(str(uuid.uuid4()), must_exist=True)
    with pytest.raises(ValueError, match="cannot be part of a path"):
        fast.job("..", must_exist=True)
    assert outstanding(fast) == []
