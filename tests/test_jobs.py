"""The future of one prompt, without any server."""

from __future__ import annotations

import logging
import pickle
import threading
import time
from concurrent.futures import as_completed
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comfy_client.budget import Budget
from comfy_client.errors import ClientClosed, JobFailed, JobTimeout
from comfy_client.event_queue import MAX_BYTES
from comfy_client.events import (
    Executing,
    PreviewEvent,
    Progress,
    ProgressState,
    execution_error,
    execution_success,
)
from comfy_client.jobs.job import Job, Limits, wait, wait_for_one
from comfy_client.jobs.progress import NodeTimes
from comfy_client.jobs.result import make_result
from comfy_client.transport.websocket import State
from tests.helpers.clients import until
from tests.helpers.interrupts import at_each_step, in_time

GRAPH = {
    "3": {"class_type": "KSampler", "inputs": {}, "_meta": {"title": "Sampler"}},
    "9": {"class_type": "SaveImageWebsocket", "inputs": {}},
}
RESULT = make_result("the-id", GRAPH, {})


class Client:
    """What a job needs of its client."""

    flushed = 0
    _connection = SimpleNamespace(error=None, state=State.CONNECTED, generation=1)
    _budget = Budget(MAX_BYTES)
    _jobs = SimpleNamespace(
        running=lambda job: None,
        around=lambda job: (0, 1),
        cancel=lambda job, force: False,
        trouble=None,
        times=NodeTimes(),
        lookout=SimpleNamespace(remaining=3, advanced_at=0.0),
    )

    def __init__(self):
        self._receivers = self

    def flush(self, seconds):
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


def test_a_job_does_not_travel(job):
    """But its id does."""
    with pytest.raises(TypeError, match=r"api\.job\(prompt_id\)"):
        pickle.dumps(job)


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


def test_an_alarm_at_any_step_of_a_wait_comes_out_and_leaves_nothing_locked(job):
    """Were it to come inside a ``Condition``, that would let go of the lock of another thread."""
    mine = TimeoutError("mine")

    def alarm():
        raise mine

    within = lambda frame: frame.f_code.co_filename.endswith(  # noqa: E731
        ("/job.py", "/threading.py", "/_base.py")
    )
    raised = list(at_each_step(lambda: wait_for_one([job], 0.001), alarm, within))
    assert len(raised) > 20
    assert set(raised) == {mine}
    in_time(lambda: job._settle(RESULT))
    assert job.result(0) is RESULT


def test_whoever_waits_by_other_means_and_is_interrupted_keeps_no_job_from_its_end(job):
    """``wait`` of concurrent.futures may leave its lock to nobody, which only then comes out."""
    told = threading.Event()
    job.add_done_callback(lambda _: told.set())

    def add_result(_):
        raise RuntimeError("release unlocked lock")

    job._waiters.append(SimpleNamespace(add_result=add_result))  # as ``wait`` does
    waiter = threading.Thread(target=job.result)
    waiter.start()
    until(lambda: job._bells)
    job._settle(RESULT)
    assert told.wait(10)
    waiter.join(10)
    assert not waiter.is_alive()


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


def test_a_job_ends_with_a_fork(job):
    """Whatever lock another thread held when the process was copied."""
    twin = Job(Client(), "by-another-id", {})
    twin._join(job)
    events = job.events()
    locks = [job._condition, job._gate, job._taps[0]()._changed, twin._condition]
    held = threading.Thread(target=lambda: [lock.acquire() for lock in locks])
    held.start()
    held.join()  # and they stay so
    job._orphan()
    assert list(events) == []
    for one in (job, twin):
        assert isinstance(one.exception(0), ClientClosed)
    assert job.status == "unknown"


def test_a_job_by_another_id_ends_with_it(job):
    """Both hear what comes from now on, and know the same."""
    twin = Job(Client(), "by-another-id", {})
    events = twin.events()
    job._hear(progress(1))
    twin._join(job)
    job._known.told = SUCCESS
    job._hear(SUCCESS)
    late = Job(Client(), "by-a-third", {})
    late._join(job)
    job._settle(RESULT)
    assert (twin.prompt_id, twin.graph) == ("the-id", GRAPH)
    assert twin.result(0) is late.result(0) is RESULT
    assert list(events) == list(late.events()) == [SUCCESS]


# -- how far it is -----------------------------------------------------------------------


def wide(*node_ids):
    return Job(Client(), "the-id", {node_id: {"class_type": "A"} for node_id in node_ids})


def runs(job, node_id):
    """What ``Jobs`` notes of an ``executing`` event."""
    job._known.runs()
    job._known.node = node_id
    job._known.visited.add(node_id)


def states(**nodes):
    data = {node_id.strip("_"): {"state": state} for node_id, state in nodes.items()}
    return ProgressState(name="progress_state", raw={"nodes": data})


def test_a_node_that_runs_again_is_the_one_that_runs():
    """As one that asked for an input which was not worked out yet."""
    job = wide("1", "2")
    for node_id in ("2", "1", "2"):
        runs(job, node_id)
    assert job.progress.node_id == "2"
    assert job.progress.fraction == 0.5


def test_a_node_is_not_through_before_those_that_it_expanded_into():
    """Whether or not the server tells states; steps inside count for nothing."""
    job = wide("1", "2")
    runs(job, "1")
    runs(job, "1.0.0.1")
    job._known.step = Progress(name="progress", node="1.0.0.1", value=3, max=3)
    assert (job.progress.fraction, job.progress.step) == (0.0, 3)
    runs(job, "1.0.0.2")
    job._known.states = states(_1="running", **{"1.0.0.1": "finished", "1.0.0.2": "running"})
    assert job.progress.fraction == 0.0
    job._known.states = states(_1="finished")
    assert job.progress.fraction == 0.5


HAPPENS = st.one_of(
    st.builds(lambda *nodes: ("cached", frozenset(nodes)), *[st.sampled_from("345679")] * 3),
    st.tuples(st.just("runs"), st.sampled_from(["3", "4", "9", "3.0.0.1", "x"])),
    st.tuples(st.just("step"), st.builds(progress, st.integers(-1, 4))),
    st.tuples(
        st.just("states"),
        st.dictionaries(
            st.sampled_from(["_3", "_4", "_9", "_x"]), st.sampled_from(["running", "finished"])
        ).map(lambda told: states(**told)),
    ),
    st.tuples(
        st.just("dropped"), st.builds(lambda key: {key: {"dependent_outputs": [key]}}, st.just("9"))
    ),
)


@settings(deadline=None)
@given(st.lists(HAPPENS))
def test_how_far_it_is_never_falls_whatever_comes(course):
    """Also when it turns out late what is cached, or that less is to run; 1 is the end alone."""
    job = Job(Client(), "the-id", {**GRAPH, "4": {"class_type": "A", "inputs": {"x": ["3", 0]}}})
    seen = []
    for what, value in course:
        if what == "runs":
            runs(job, value)
        elif what == "dropped":
            job.node_errors = value
        else:
            setattr(job._known, what, value)
        seen.append(job.progress.fraction)
    assert seen == sorted(seen)
    assert all(0 <= fraction < 1 for fraction in seen)
    job._settle(RESULT)
    assert job.progress.fraction == 1.0


def test_a_job_that_failed_stays_where_it_was():
    """Also if nobody looked before."""
    job = wide("1", "2")
    runs(job, "1")
    runs(job, "2")
    job._settle(JobFailed("broken", prompt_id="the-id"))
    assert job.progress.fraction == 0.5


def test_progress_may_be_read_while_it_is_written(job):
    """By any thread, at any moment."""
    stop = threading.Event()

    def write():
        number = 0
        while not stop.is_set():
            runs(job, f"3.{number % 5000}")
            number += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(3000):
            assert job.progress.title in (None, "Sampler")
    finally:
        stop.set()
        thread.join()


def test_the_queue_that_moves_is_news_only_while_it_waits(job):
    """What runs is not helped by others that end."""
    job._api._jobs.lookout.advanced_at = time.monotonic() + 100
    assert job._slice(Limits(stall_timeout=5.0)) > 0
    job._known.news_at -= 10
    assert job._slice(Limits(stall_timeout=5.0)) > 0
    job._known.runs()
    assert job._slice(Limits(stall_timeout=5.0)) <= 0


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
        Limits(5),
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
        wait(job, Limits(30), on_event=lambda event: None)


def test_a_blocked_node_does_not_end_the_wait(job):
    """Events after it still come."""
    blocked = execution_error({"prompt_id": "the-id", "exception_type": "ExecutionBlocked"})
    for event in (blocked, progress(2), SUCCESS):
        job._hear(event)
    job._settle(RESULT)
    got = []
    wait(job, Limits(5), on_event=got.append)
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
        wait(job, Limits(timeout), on_event=lambda event: None)
    assert time.monotonic() - start < 5
    stop.set()
    thread.join()


def test_whoever_leaves_leaves_no_growing_queue(job):
    """Events of a job that nobody waits for are not kept."""

    def leave(event):
        raise KeyError("mine")

    job._hear(progress(1))
    with pytest.raises(KeyError) as caught:
        wait(job, Limits(5), on_progress=leave)
    assert "goes on" in caught.value.__notes__[0]
    assert not job._taps
