"""The future of one prompt, without any server."""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import as_completed
from types import SimpleNamespace

import pytest

from comfy_client.connection import State
from comfy_client.errors import JobError, JobFailed, JobInterrupted, JobTimeout
from comfy_client.events import (
    Executing,
    PreviewEvent,
    Progress,
    execution_error,
    execution_interrupted,
    execution_success,
)
from comfy_client.job import Job, wait
from comfy_client.outputs import make_result
from comfy_client.verdicts import error_of, with_finality

GRAPH = {
    "3": {"class_type": "KSampler", "inputs": {}, "_meta": {"title": "Sampler"}},
    "9": {"class_type": "SaveImageWebsocket", "inputs": {}},
}
RESULT = make_result("the-id", GRAPH, {})


class Client:
    """What a job needs of its client."""

    flushed = 0
    _connection = SimpleNamespace(error=None, state=State.CONNECTED, generation=1)
    _queue_remaining = 3
    _advanced_at = 0.0
    _jobs = SimpleNamespace(
        running=lambda job: None,
        behind=lambda job: 1,
        cancel=lambda job, force: False,
        trouble=None,
    )

    def _flush(self):
        self.flushed += 1


@pytest.fixture
def job():
    return Job(Client(), "the-id", GRAPH)


def progress(value):
    return Progress(name="progress", prompt_id="the-id", value=value, max=3, node="3")


def preview(node, **kw):
    return PreviewEvent(
        name="b_preview", prompt_id="the-id", node_id=node, view=memoryview(b"x"), **kw
    )


SUCCESS = execution_success({"prompt_id": "the-id"})


# -- the future --------------------------------------------------------------------------


def test_a_job_that_has_not_ended_says_so(job):
    """``timeout=0`` looks once; both ways of asking."""
    for ask in (job.result, job.exception):
        with pytest.raises(JobTimeout, match="goes on") as caught:
            ask(0)
        assert caught.value.prompt_id == "the-id"
    assert not job.done()
    assert job.running()
    assert not job.cancelled()
    assert "pending" in repr(job)


def test_a_job_that_has_ended_has_its_result(job):
    """Receivers are waited for before."""
    job._settle(RESULT)
    assert job.result(0) is RESULT
    assert job.exception(0) is None
    assert job._api.flushed == 1
    assert "succeeded" in repr(job)


def test_a_job_that_failed_raises(job):
    """Each time."""
    job._settle(JobFailed("broken", prompt_id="the-id"))
    for _ in range(2):
        with pytest.raises(JobFailed, match="broken"):
            job.result()
    assert isinstance(job.exception(), JobFailed)


def test_an_error_that_is_a_timeout_is_no_timeout_of_the_wait(job):
    """What the job ended in comes through as it is."""
    job._settle(JobTimeout("its own", prompt_id="the-id"))
    with pytest.raises(JobTimeout, match="its own"):
        job.result(5)
    assert isinstance(job.exception(5), JobTimeout)


def test_a_wait_ends_with_the_job(job):
    """Not with the next slice of waiting."""
    threading.Timer(0.05, job._settle, (RESULT,)).start()
    assert job.result(30) is RESULT
    assert list(as_completed([job], 5)) == [job]


def test_callbacks_run_in_order_in_their_own_thread(job, caplog):
    """One that raises is logged, and the others run; who comes late is called at once."""
    seen = []
    done = threading.Event()

    def broken(_):
        raise RuntimeError("mine")

    job.add_done_callback(lambda j: seen.append((j, threading.current_thread().name)))
    job.add_done_callback(broken)
    job.add_done_callback(lambda _: done.set())
    with caplog.at_level(logging.ERROR):
        job._settle(RESULT)
        assert done.wait(10)
    assert seen == [(job, "comfy-callbacks")]
    assert "mine" in caplog.text
    job.add_done_callback(lambda j: seen.append((j, threading.current_thread().name)))
    assert seen[1] == (job, threading.current_thread().name)


def test_after_a_fork_a_job_begins_anew(job):
    """Whatever lock was held when the process was copied."""
    job._condition.acquire()
    job._gate.acquire()
    job._begin()
    job._settle(RESULT)
    assert job.result(0) is RESULT


# -- waiting with callbacks --------------------------------------------------------------


def test_events_are_handed_to_the_one_that_waits(job):
    """By kind; what came before the end is not lost, also when the end is there already."""
    events = [
        Executing(name="executing", prompt_id="the-id", node="3"),
        progress(1),
        preview("3"),
        preview("3", final=True),
        SUCCESS,
    ]
    job._tap_all()
    for event in events:
        job._hear(event)
    job._settle(RESULT)
    all_of_them, steps, pictures = [], [], []
    result = wait(
        job,
        5,
        on_event=all_of_them.append,
        on_progress=steps.append,
        on_preview=pictures.append,
    )
    assert result is RESULT
    assert all_of_them == events
    assert steps == [events[1]]
    assert pictures == events[2:4]


def test_a_verdict_without_an_event_ends_the_wait(job):
    """As when the client is closed."""
    threading.Timer(0.05, job._settle, (JobFailed("no", prompt_id="the-id"),)).start()
    with pytest.raises(JobFailed):
        wait(job, 30, on_event=lambda event: None)


def test_a_blocked_node_does_not_end_the_wait(job):
    """Events after it still come."""
    blocked = execution_error({"prompt_id": "the-id", "exception_type": "ExecutionBlocked"})
    for event in (blocked, progress(2), SUCCESS):
        job._hear(event)
    job._settle(RESULT)
    got = []
    wait(job, 5, on_event=got.append)
    assert [e.name for e in got] == ["execution_error", "progress", "execution_success"]


@pytest.mark.parametrize("timeout", [0, 0.1])
def test_a_wait_with_callbacks_ends_in_time(job, timeout):
    """Also when events come all the time."""
    stop = threading.Event()

    def chatter():
        while not stop.wait(0.01):
            job._hear(progress(1))

    thread = threading.Thread(target=chatter)
    thread.start()
    start = time.monotonic()
    with pytest.raises(JobTimeout):
        wait(job, timeout, on_event=lambda event: None)
    assert time.monotonic() - start < 5
    stop.set()
    thread.join()


def test_whoever_leaves_leaves_no_growing_queue(job):
    """Events of a job that nobody waits for are not kept."""

    def leave(event):
        raise KeyError("mine")

    job._hear(progress(1))
    with pytest.raises(KeyError) as caught:
        wait(job, 5, on_progress=leave)
    assert "goes on" in caught.value.__notes__[0]
    assert not job._taps


# -- small parts -------------------------------------------------------------------------


def test_a_failure_says_where_and_what():
    """Title and class come from the workflow."""
    said = {
        "prompt_id": "the-id",
        "node_id": "3",
        "exception_type": "torch.OutOfMemoryError",
        "exception_message": "CUDA out of memory\n",
        "traceback": ["a\n", "b\n"],
        "current_inputs": {"seed": [1]},
    }
    error = error_of(execution_error(said), "the-id", GRAPH)
    assert isinstance(error, JobFailed)
    assert "node 3 'Sampler' (KSampler)" in str(error)
    assert (error.title, error.class_type, error.traceback) == ("Sampler", "KSampler", "a\nb\n")
    assert error.is_oom
    assert "free_memory" in error.__notes__[0]


@pytest.mark.parametrize(
    "said",
    [{}, {"node_id": None}, {"node_id": 7, "traceback": "text", "current_inputs": []}],
)
@pytest.mark.parametrize("make", [execution_error, execution_interrupted])
def test_a_failure_that_says_little_is_one_all_the_same(make, said):
    """Whatever is missing."""
    error = error_of(make(said), "the-id", GRAPH)
    assert isinstance(error, JobError)
    assert isinstance(error, JobFailed if make is execution_error else JobInterrupted)
    assert str(error)


@pytest.mark.parametrize(
    ("event", "final"),
    [
        (preview("9"), True),
        (preview("3"), False),
        (preview("9.0.1"), True),
        (preview("77"), False),
        (preview("3", real_node_id="9"), True),
        (preview(None), False),
    ],
)
def test_a_picture_is_final_by_the_class_of_its_node(event, final):
    """Not by its kind."""
    assert with_finality(event, GRAPH).final is final
