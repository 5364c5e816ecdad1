"""The future of one prompt, without any server."""

from __future__ import annotations

import gc
import logging
import pickle
import threading
import time
import weakref
from concurrent.futures import as_completed
from types import SimpleNamespace

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comfy_client.errors import ClientClosed, JobFailed, JobTimeout, ServerUnreachable
from comfy_client.event_queue import HIGH_WATER, MAX_BYTES, Budget, Share
from comfy_client.events import (
    Executed,
    Executing,
    PreviewEvent,
    Progress,
    ProgressState,
    execution_error,
    execution_success,
)
from comfy_client.jobs.handle import JobHandle, Limits
from comfy_client.jobs.job import Callbacks, Job, cancelling, wait
from comfy_client.jobs.outcomes import lost
from comfy_client.jobs.progress import NodeTimes, fraction_of
from comfy_client.jobs.prompt import Ending, JobEvents, Prompt
from comfy_client.jobs.result import make_result
from comfy_client.jobs.state import PromptState
from comfy_client.jobs.tracker import Order
from comfy_client.pool.pooled_job import PooledHandle, PooledJob
from comfy_client.timing import Timing
from comfy_client.transport.websocket import State
from tests.helpers.clients import until
from tests.helpers.events import drained
from tests.walks import traced

GRAPH = {
    "3": {"class_type": "KSampler", "inputs": {}, "_meta": {"title": "Sampler"}},
    "9": {"class_type": "SaveImageWebsocket", "inputs": {}},
}
RESULT = make_result("the-id", GRAPH, {})


class Tracker:
    """What a job needs of the tracker."""

    def __init__(self):
        self.timing = Timing()
        self.budget = Budget(MAX_BYTES)
        self.connection = SimpleNamespace(state=State.CONNECTED, generation=1, quiet_for=0.0)
        self.link = 1
        self.outstanding = ()
        self.ledger = SimpleNamespace(changes=0, order=Order.of((), 0))
        self.monitor = SimpleNamespace(remaining=3, advanced_at=0.0, status_at=0.0)
        self.times = NodeTimes()
        self.flushed = 0

    def flush(self, seconds):
        self.flushed += 1


def tracked(prompt_id="the-id", graph=GRAPH, tracker=None):
    """A prompt, and the job of it."""
    tracker = tracker or Tracker()
    budget = tracker.budget
    one = Prompt(PromptState(prompt_id, graph, budget, tracker.timing), JobEvents(budget))
    never = {"answered_at": 0.0, "troubled_at": 0.0}
    poller = SimpleNamespace(tracker=tracker, timing=tracker.timing, trouble=None, **never)
    return one, Job(JobHandle(one, None, poller))


@pytest.fixture
def tracker():
    return Tracker()


@pytest.fixture
def one(tracker):
    return tracked(tracker=tracker)[0]


@pytest.fixture
def job(one):
    return one.waiters[0].job


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
        with pytest.raises(JobTimeout, match="keeps running") as caught:
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


def test_a_job_that_has_ended_has_its_result(tracker, one, job):
    """Receivers are waited for before."""
    one.end(RESULT)
    assert job.result(0) is RESULT
    assert job.exception(0) is None
    assert tracker.flushed == 1
    assert "succeeded" in repr(job)


def test_a_job_that_failed_raises(one, job):
    """Each time."""
    one.end(JobFailed("broken", prompt_id="the-id"))
    for _ in range(2):
        with pytest.raises(JobFailed, match="broken"):
            job.result()
    assert isinstance(job.exception(), JobFailed)


def test_an_error_that_is_a_timeout_is_no_timeout_of_the_wait(one, job):
    """What the job ended in comes through as it is."""
    one.end(JobTimeout("its own", prompt_id="the-id"))
    with pytest.raises(JobTimeout, match="its own"):
        job.result(5)
    assert isinstance(job.exception(5), JobTimeout)


def test_a_wait_ends_with_the_job(one, job):
    """Not with the next slice of waiting."""
    threading.Timer(0.05, one.end, (RESULT,)).start()
    assert job.result(30) is RESULT
    assert list(as_completed([job], 5)) == [job]


def test_a_result_is_made_once_and_by_the_thread_that_asks(one, job):
    """The socket's thread has other things to do."""
    made = []

    def make():
        made.append(threading.get_ident())
        return make_result("the-id", GRAPH, {})

    one.end(Ending("succeeded", make))
    assert (job.done(), job.status, job.progress.fraction) == (True, "succeeded", 1.0)
    assert made == []
    assert job.result(0) is job.result(0) is next(as_completed([job], 5)).result()
    assert job.exception(0) is None
    assert made == [threading.get_ident()]


def test_jobs_of_one_prompt_share_its_result_and_not_its_error(tracker):
    """Raising an error adds a traceback to it."""
    for end in (RESULT, JobFailed("no", prompt_id="the-id")):
        one, job = tracked(tracker=tracker)
        other, second = tracked(tracker=tracker)
        other.join(one)
        one.end(end)
        ends = [item.handle.result or item.handle.error for item in (job, second)]
        assert ends[0] is end
        assert (ends[1] is end) == (end is RESULT)
        assert str(ends[1]) == str(end)


def test_a_result_that_cannot_be_made_is_an_error_for_who_asks(one, job):
    """Nobody hangs, and where memory was short, the next one who asks may have more."""
    made = [MemoryError("too little"), MemoryError("too little"), RESULT]

    def make():
        found = made.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    one.end(Ending("succeeded", make))
    with pytest.raises(MemoryError):
        job.result(5)
    assert isinstance(job.exception(5), MemoryError)
    assert job.result(5) is job.result(5) is RESULT
    assert job.status == "succeeded"


@pytest.mark.parametrize(("posted_at", "ended", "said"), [(0.0, 0, 0), (7.0, 0, 1), (7.0, 1, 0)])
def test_an_interrupt_names_a_job_that_runs_on_and_no_other(one, job, posted_at, ended, said):
    """Neither one that was not sent yet, nor one that has ended."""
    named = []
    job.handle.warn_that_it_runs = lambda: named.append(job)
    one.state.posted_at = posted_at
    if ended:
        one.end(RESULT)
    with pytest.raises(KeyboardInterrupt), cancelling("leave", job):
        raise KeyboardInterrupt
    assert named == [job] * said


def test_an_interrupted_wait_of_concurrent_futures_keeps_no_job_from_its_end(one, job):
    """``wait`` of concurrent.futures may leave its lock to nobody, which only then comes out."""
    told = threading.Event()
    job.add_done_callback(lambda _: told.set())

    def add_result(_):
        raise RuntimeError("release unlocked lock")

    job._waiters.append(SimpleNamespace(add_result=add_result))  # as ``wait`` does
    waiter = threading.Thread(target=job.result)
    waiter.start()
    until(lambda: job.handle.on_end)
    one.end(RESULT)
    assert told.wait(30)
    waiter.join(30)
    assert not waiter.is_alive()


def test_callbacks_run_in_order_in_their_own_thread(one, job, caplog):
    """One that raises is logged, and the others run; who comes late is called at once."""
    seen = []
    done = threading.Event()

    def broken(_):
        raise RuntimeError("mine")

    job.add_done_callback(lambda j: seen.append((j, threading.current_thread().name)))
    job.add_done_callback(broken)
    job.add_done_callback(lambda _: done.set())
    with caplog.at_level(logging.ERROR):
        one.end(RESULT)
        assert done.wait(30)
    assert seen == [(job, "comfy-callbacks")]
    assert "mine" in caplog.text
    job.add_done_callback(lambda j: seen.append((j, threading.current_thread().name)))
    assert seen[1] == (job, threading.current_thread().name)


def test_a_callback_that_adds_others_has_each_called_once(one, job):
    """At once, as the job has ended, while the thread goes on with those that were there."""
    seen = []
    done = threading.Event()

    def adding(_):
        job.add_done_callback(lambda _: seen.append("added"))
        seen.append("adding")

    job.add_done_callback(adding)
    job.add_done_callback(lambda _: done.set())
    one.end(RESULT)
    assert done.wait(30)
    assert seen == ["added", "adding"]


def test_callbacks_that_are_equal_are_each_called_once(one, job):
    """Also where one of them is added while those before it are called."""
    seen, ready, done = [], threading.Event(), threading.Event()

    class Equal:
        def __init__(self, name):
            self.name = name

        def __eq__(self, other):
            return isinstance(other, Equal)

        __hash__ = None

        def __call__(self, _):
            seen.append(self.name)

    def slow(_):
        ready.wait(30)
        job.add_done_callback(Equal("added"))

    job.add_done_callback(slow)
    job.add_done_callback(Equal("first"))
    job.add_done_callback(lambda _: done.set())
    one.end(RESULT)
    ready.set()
    assert done.wait(30)
    assert seen == ["added", "first"]


def test_a_job_ends_with_a_fork(one, job):
    """Whatever lock another thread held when the process was copied."""
    other, twin = tracked("by-another-id", {})
    other.join(one)
    events = job.events()
    locks = [each._condition for each in (job, twin)]
    held = threading.Thread(target=lambda: [lock.acquire() for lock in locks])
    held.start()
    held.join()  # and they stay so
    one.events.reset()
    for end in one.on_fork:
        end()
    assert list(events) == []
    for each in (job, twin):
        assert isinstance(each.exception(0), ClientClosed)
    assert job.status == "unknown"
    assert "background:#808080" in job._repr_mimebundle_()["text/html"]  # nothing goes on there


def test_a_job_by_another_id_ends_with_it(one):
    """Both hear what comes from now on, and know the same."""
    other, twin = tracked("by-another-id", {})
    events = twin.events()
    one.events.receive(progress(1))
    other.join(one)
    one.state.end_event = SUCCESS
    one.events.receive(SUCCESS)
    third, late = tracked("by-a-third", {})
    third.join(one)
    one.end(RESULT)
    assert (twin.prompt_id, twin.graph) == ("the-id", GRAPH)
    assert twin.result(0) is late.result(0) is RESULT
    assert list(events) == list(late.events()) == [SUCCESS]


def test_a_job_by_another_id_hears_of_the_course_too(one):
    other, twin = tracked("by-another-id", {})
    other.join(one)
    one.events.receive(progress(1))
    one.events.receive(SUCCESS)
    heard = [event.name for event in twin.handle.follow(Limits(5))]
    assert heard == ["progress", "execution_success"]


def test_tags_and_output_names_given_under_another_id_stay(tracker, one, job):
    """Of its tags and the names of its outputs, if the other has none."""
    other, twin = tracked("by-another-id", {}, tracker)
    other.state.tags, other.state.output_names = {"user": "ann"}, {"final": "9"}
    other.join(one)
    assert job.tags == twin.tags == {"user": "ann"}
    assert one.state.output_names == {"final": "9"}


def test_each_of_two_jobs_of_one_prompt_has_an_error_of_its_own(one, job):
    """Whoever raises it adds a traceback to it, maybe in another thread."""
    other, twin = tracked("by-another-id", {})
    other.join(one)
    one.end(JobFailed("broken", prompt_id="the-id"))
    assert str(job.exception(0)) == str(twin.exception(0))
    assert job.exception(0) is not twin.exception(0)


def test_a_job_that_has_ended_is_gone_with_its_user():
    """Its result may be large, and nobody should have to wait for the collector."""
    one, job = tracked()
    other, twin = tracked("by-another-id", {})
    other.join(one)
    one.end(RESULT)
    gone = [weakref.ref(job), weakref.ref(twin)]
    gc.disable()
    try:
        del one, job, other, twin
        assert [ref() for ref in gone] == [None, None]
    finally:
        gc.enable()


# -- how far it is -----------------------------------------------------------------------


def wide(*node_ids):
    return tracked("the-id", {node_id: {"class_type": "A"} for node_id in node_ids})[1]


def runs(job, node_id):
    """An ``executing`` event comes."""
    event = Executing(name="executing", prompt_id="the-id", node=node_id)
    job.handle.state.apply_event(event, time.monotonic(), 1)


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
    job.handle.state.step = Progress(name="progress", node="1.0.0.1", value=3, max=3)
    assert (job.progress.fraction, job.progress.step) == (0.0, 3)
    runs(job, "1.0.0.2")
    job.handle.state.states = states(_1="running", **{"1.0.0.1": "finished", "1.0.0.2": "running"})
    assert job.progress.fraction == 0.0
    job.handle.state.states = states(_1="finished")
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
def test_progress_of_a_job_never_falls(course):
    """Also when it turns out late what is cached, or that less is to run; 1 is the end alone."""
    graph = {**GRAPH, "4": {"class_type": "A", "inputs": {"x": ["3", 0]}}}
    one, job = tracked("the-id", graph)
    seen = []
    for what, value in course:
        if what == "runs":
            runs(job, value)
        elif what == "dropped":
            one.state.node_errors = value
        else:
            setattr(job.handle.state, what, value)
        seen.append(job.progress.fraction)
    assert seen == sorted(seen)
    assert all(0 <= fraction < 1 for fraction in seen)
    one.end(RESULT)
    assert job.progress.fraction == 1.0


def test_a_job_that_failed_stays_where_it_was():
    """Also if nobody looked before."""
    job = wide("1", "2")
    runs(job, "1")
    runs(job, "2")
    fraction_of(job.handle.state, NodeTimes())
    job.handle.state.release()
    job.set_exception(JobFailed("broken", prompt_id="the-id"))
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
        for _ in range(1000):
            assert job.progress.title in (None, "Sampler")
    finally:
        stop.set()
        thread.join()


def test_the_queue_that_moves_is_news_only_while_it_waits(tracker, job):
    """What runs is not helped by others that end."""
    moved_at = tracker.monitor.advanced_at = time.monotonic() + 100
    assert job.handle.news_at() == moved_at
    job.handle.state.running_since = job.handle.state.news_at = 7.0
    assert job.handle.news_at() == 7.0


# -- waiting with callbacks --------------------------------------------------------------


@pytest.mark.parametrize(("ago", "is_silent"), [(60.0, False), (1.0, True)])
def test_an_error_from_before_the_last_answer_says_nothing_of_the_server(
    tracker, job, ago, is_silent
):
    """No request may have followed it, as events alone have ended the prompts since."""
    now, state, poller = time.monotonic(), job.handle.state, job.handle.poller
    state.posted_at = state.accepted_at = now - 4.0
    tracker.connection.quiet_for = 4.0
    poller.trouble, poller.troubled_at = ServerUnreachable("refused"), now - ago
    assert (job.handle.silent_for() is not None) == is_silent
    assert ("does not answer" in job.why()) == is_silent


def test_news_that_come_while_it_is_described_are_not_of_the_future(job):
    """The clock may be read before them."""
    state = job.handle.state
    state.news_at = state.running_since = time.monotonic() + 3.0
    state.news_by = "socket"
    assert "last news 0.0 s ago by socket" in job.why()
    state.news_by = ""
    assert "no news for 0.0 s" in job.why()


def test_events_are_handed_to_the_one_that_waits(one, job):
    """By kind; what came before the end is not lost, also when the end is there already."""
    events = [
        Executing(name="executing", prompt_id="the-id", node="3"),
        progress(1),
        preview("3"),
        preview("3", final=True),
        SUCCESS,
    ]
    one.events.keep_all()
    for event in events:
        one.events.receive(event)
    one.end(RESULT)
    all_of_them, steps, pictures = [], [], []
    result = wait(
        job,
        Limits(5),
        Callbacks(all_of_them.append, steps.append, pictures.append),
    )
    assert result is RESULT
    assert all_of_them == events
    assert steps == [events[1]]
    assert pictures == events[2:4]


def executed(number, nbytes=900):
    raw = {"number": number}
    return Executed(
        name="executed", prompt_id="the-id", node=str(number), nbytes=nbytes, raw=raw, output=raw
    )


def test_no_queue_is_made_for_events_that_nobody_reads(one):
    """Most jobs have no reader: of each event, only its kind is asked, and its bytes count."""
    one.events.receive(executed(1))  # the first one makes the account
    walk = traced(lambda: [one.events.receive(event) for event in (progress(2), executed(3))])
    assert walk.files.count("event_queue.py") == 3  # two kinds, and the key of progress
    kept = [type(event) for event in drained(one.events.subscribe())]
    assert kept == [Executed, Progress, Executed]


@pytest.mark.parametrize("count", [3, HIGH_WATER - 1, HIGH_WATER, 3 * HIGH_WATER])
def test_the_first_reader_gets_all_earlier_events_but_old_progress(one, count):
    """However many there are, and in order; any other reader gets what comes from then on."""
    outputs = [executed(number) for number in range(count)]
    other = one.events.subscribe(from_start=False)
    for number, event in enumerate(outputs):
        one.events.receive(progress(number))
        one.events.receive(event)
    *before, newest, last = drained(one.events.subscribe())
    assert [*before, last] == outputs
    assert newest.value == count - 1
    assert [event for event in drained(other) if isinstance(event, Executed)] == outputs
    one.events.receive(SUCCESS)
    assert drained(other) == [SUCCESS]


def test_earlier_events_count_until_they_are_released_or_read(tracker, one):
    """Old progress does not count; a large output counts once, whoever holds it."""
    budget = tracker.budget
    for value in range(3):
        one.events.receive(attrs.evolve(progress(value), nbytes=1000))
    one.events.receive(executed(1))
    assert budget.used == 1900
    large = executed(2, 1 << 20)
    holder = Share(budget)
    holder.keep("output", large.nbytes, large.raw)
    one.events.receive(large)
    assert budget.used == 1900 + (1 << 20)
    queue = one.events.subscribe()
    assert len(drained(queue)) == 3
    holder.free()
    del holder, large
    queue.close()
    assert budget.used == 0


def test_under_pressure_the_least_important_of_the_earlier_events_go_first(tracker, one):
    """Progress goes, an output and the end stay."""
    tracker.budget.most = 4000
    for event in (progress(1), executed(1), SUCCESS):
        one.events.receive(attrs.evolve(event, nbytes=1500))
    assert tracker.budget.used == 4500
    assert tracker.budget.relieve()
    assert [type(event) for event in drained(one.events.subscribe())] == [Executed, type(SUCCESS)]


def test_a_verdict_without_an_event_ends_the_wait(one, job):
    """As when the client is closed."""
    threading.Timer(0.05, one.end, (JobFailed("no", prompt_id="the-id"),)).start()
    with pytest.raises(JobFailed):
        wait(job, Limits(30), Callbacks(on_event=lambda event: None))


def test_a_blocked_node_does_not_end_the_wait(one, job):
    """Events after it still come."""
    blocked = execution_error({"prompt_id": "the-id", "exception_type": "ExecutionBlocked"})
    for event in (blocked, progress(2), SUCCESS):
        one.events.receive(event)
    one.end(RESULT)
    got = []
    wait(job, Limits(5), Callbacks(on_event=got.append))
    assert [e.name for e in got] == ["execution_error", "progress", "execution_success"]


@pytest.mark.parametrize("timeout", [0, 0.1])
def test_a_wait_with_callbacks_ends_in_time(one, job, timeout):
    """Also when events come all the time."""
    stop = threading.Event()

    def chatter():
        while not stop.wait(0.01):
            one.events.receive(progress(1))

    thread = threading.Thread(target=chatter)
    thread.start()
    start = time.monotonic()
    with pytest.raises(JobTimeout):
        wait(job, Limits(timeout), Callbacks(on_event=lambda event: None))
    assert time.monotonic() - start < 30
    stop.set()
    thread.join()


def test_an_abandoned_wait_leaves_no_growing_queue(one, job):
    """Events of a job that nobody waits for are not kept."""

    def leave(event):
        raise KeyError("mine")

    one.events.receive(progress(1))
    with pytest.raises(KeyError) as caught:
        wait(job, Limits(5), Callbacks(on_progress=leave))
    assert "keeps running" in caught.value.__notes__[0]
    one.events.receive(event := progress(2))
    kept = weakref.ref(event)
    del event
    gc.collect()
    assert kept() is None


def pooled_job(tracker):
    """A job that no server has yet."""
    tracker.new = lambda prompt_id, graph: tracked(prompt_id, graph, tracker)[0]
    poller = SimpleNamespace(tracker=tracker, timing=tracker.timing, trouble=None)
    return PooledJob(PooledHandle(None, poller, "the-id", GRAPH, SimpleNamespace()))


@pytest.mark.parametrize("what", ["failed", "lost"])
def test_a_pooled_job_that_may_move_has_no_end_yet(tracker, what):
    """Readers that come between a failure and the move are told of the run that counts."""
    job = pooled_job(tracker)
    one, inner = tracked(tracker=tracker)
    job.handle.follow_on(inner, "http://a")
    one.state.end_event = (
        execution_error({"prompt_id": "the-id"}) if what == "failed" else lost("the-id", "lost")[0]
    )
    one.events.receive(one.state.end_event)
    told = job.events()
    assert job.status == "pending"
    assert not job.done()
    job.handle.leave()
    two, again = tracked(tracker=tracker)
    job.handle.follow_on(again, "http://b")
    two.state.end_event = execution_success({"prompt_id": "the-id"})
    two.events.receive(two.state.end_event)
    job.handle.end(RESULT)
    assert [event.name for event in told] == ["execution_success"]
    assert [event.name for event in job.events()] == ["execution_success"]
    assert job.status == "succeeded"


def test_a_pooled_job_that_failed_for_good_ends_once(tracker):
    job = pooled_job(tracker)
    one, inner = tracked(tracker=tracker)
    job.handle.follow_on(inner, "http://a")
    one.state.end_event = execution_error({"prompt_id": "the-id"})
    one.events.receive(one.state.end_event)
    told = job.events()
    job.handle.end(JobFailed("no", prompt_id="the-id"))
    assert [event.name for event in told] == ["execution_error"]
    assert [event.name for event in job.events()] == ["execution_error"]
    assert job.status == "failed"
