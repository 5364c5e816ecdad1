"""Many prompts, one after the other."""

from __future__ import annotations

import _thread
import contextlib
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterable, Iterator, Sized
from pathlib import Path
from typing import Any

import pytest

from comfy_client import (
    ApiError,
    AuthenticationError,
    ClientClosed,
    ComfyApi,
    JobFailed,
    JobLost,
    JobTimeout,
    PromptRejected,
    Result,
    ServerUnreachable,
    UnexpectedResponse,
    Workflow,
    WorkflowError,
)
from comfy_client.batch.map_loop import ATTEMPTS
from comfy_client.testing import ComfyServer, Request
from comfy_client.transport.websocket import Connection
from tests.conftest import load_workflow
from tests.helpers.clients import exception_of, outstanding, until
from tests.helpers.scripted import stops
from tests.helpers.sweeps import HOW, LIMIT, WORKFLOW, away

# What can be cancelled is cancelled, however long a busy machine takes.
pytestmark = pytest.mark.timing(cancel_timeout=LIMIT)


def seeds(numbers: Any) -> Iterable[dict[str, Any]]:
    """Return points; a list if there is an end to them, so that no slow thread iterates them."""
    points = ({"Make.seed": number} for number in numbers)
    return list(points) if isinstance(numbers, Sized) else points


def send(url: str, body: bytes) -> bytes:
    """Send what a client wanted to send; return the answer."""
    head = {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, body, head), timeout=LIMIT) as answer:
        return bytes(answer.read())


def texts(results: Any) -> list[Any]:
    return [each.texts[0] if isinstance(each, Result) else type(each) for each in results]


def test_map_gives_a_result_for_each_params_in_their_order(api, record) -> None:
    """The workflow itself stays as it was."""
    workflow = Workflow.load(WORKFLOW)
    found = list(api.map(workflow, seeds(range(6))))
    assert texts(found) == [f"ax{n}" for n in range(6)]
    assert workflow == Workflow.load(WORKFLOW)
    assert record.values() == texts(found)


def test_several_workflows_are_run_as_they_are(api, record) -> None:
    """Dicts and Workflows alike."""
    workflows = []
    for number in range(3):
        workflow = Workflow.load(WORKFLOW)
        workflow["Make"]["seed"] = number
        workflows += [workflow, workflow.to_dict()]
    assert texts(api.map(workflows)) == ["ax0", "ax0", "ax1", "ax1", "ax2", "ax2"]


def test_map_submits_nothing_before_the_first_next(api, record) -> None:
    """A generator that nobody asks does nothing."""
    taken = []
    results = api.map(WORKFLOW, map(taken.append, range(3)))  # None would fail
    results.close()
    assert taken == []
    assert api.get_histories() == {}


@pytest.mark.parametrize("in_flight", [1, 3])
def test_an_endless_iterable_is_read_no_further_than_in_flight(api, record, in_flight) -> None:
    """And the queue holds no more than that."""
    taken: list[int] = []
    lengths = []
    api.on("status", lambda event: lengths.append(event.queue_remaining))

    def params() -> Iterator[dict[str, Any]]:
        for number in itertools.count():
            taken.append(number)
            yield {"Make.seed": number}

    results = api.map(WORKFLOW, params(), in_flight=in_flight)
    for done in range(1, 8):
        next(results)
        assert len(taken) <= done + in_flight - 1
    results.close()
    until(lambda: api.poll_status(LIMIT).queue_remaining == 0)
    assert max(lengths) <= in_flight + 1  # one that has just ended is counted a moment longer


def test_in_flight_prompts_stand_in_the_queue_while_it_waits(api, record) -> None:
    """The server is never idle for want of the next one."""
    record.gate = threading.Semaphore(0)
    results = api.map(WORKFLOW, seeds(itertools.count()), in_flight=3)
    found: list[Result] = []
    thread = threading.Thread(target=lambda: found.append(next(results)))
    thread.start()
    until(lambda: api.poll_status(LIMIT).queue_remaining == 3)
    record.gate.release()
    thread.join(LIMIT)
    assert texts(found) == ["ax0"]
    record.gate = None
    results.close()


def test_unordered_yields_what_ends_first(api, record) -> None:
    """Here what is put at the front, behind the one that runs."""
    record.gate = threading.Semaphore(0)
    results = api.map(WORKFLOW, seeds(range(3)), in_flight=3, ordered=False, front=True)
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.extend(results))
    thread.start()
    until(lambda: api.poll_status(LIMIT).queue_remaining == 3)
    for number in range(3):
        until(lambda number=number: len(found) == number)
        record.gate.release()
    thread.join(LIMIT)
    assert texts(found) == record.values()
    assert set(texts(found)) == {"ax0", "ax1", "ax2"}
    assert texts(found)[-1] != "ax2"


def test_an_error_is_raised_after_the_results_before_it_and_the_rest_is_cancelled(
    api, record
) -> None:
    """Nothing of it stays in the queue, and no more is taken from the iterable."""
    record.failing = {2}
    record.gate = threading.Semaphore(2)
    found = []
    taken = []
    params = ({"Make.seed": taken.append(n) or n} for n in itertools.count())
    with pytest.raises(JobFailed) as caught:
        found.extend(api.map(WORKFLOW, params, in_flight=4))
    assert texts(found) == ["ax0", "ax1"]
    assert caught.value.node_id == "3"
    assert len(taken) <= 6
    assert api.get_queue().pending == ()
    record.gate = None
    until(lambda: api.poll_status(LIMIT).queue_remaining == 0)
    # The fourth may have begun; behind it nothing ran.
    assert set(record.values()) <= {"ax0", "ax1", "ax3"}


def test_kept_errors_stand_in_the_place_of_the_result(api, record) -> None:
    """Those of the run, of the server's check, and of the names."""
    record.failing = {1}
    params = [
        {"Make.seed": 0},
        {"Make.seed": 1},
        {"Make.seed": "many"},
        {"Make.sed": 1},
        {"Make.seed": 4},
    ]
    found = list(api.map(WORKFLOW, params, on_error="keep", in_flight=2))
    assert texts(found) == ["ax0", JobFailed, PromptRejected, WorkflowError, "ax4"]
    assert found[3].candidates == ("seed",)


@pytest.mark.parametrize("ordered", [True, False])
def test_a_refusal_stops_the_submitting_at_once(api, record, ordered) -> None:
    """In order, what was submitted before it comes first."""
    taken = []
    params = ({"Make.seed": taken.append(n) or (n if n < 2 else "many")} for n in range(9))
    found = []
    with pytest.raises(PromptRejected):
        found.extend(api.map(WORKFLOW, params, in_flight=4, ordered=ordered))
    assert taken == [0, 1, 2]
    assert texts(found) == ["ax0", "ax1"] or not ordered


def test_a_loop_that_breaks_leaves_only_what_runs(api, record) -> None:
    """What waited is deleted; what runs goes on to its end; the jobs end for those who listen."""
    record.gate = threading.Semaphore(1)
    ends = []
    for name in ("execution_success", "execution_interrupted", "job_lost"):
        api.on(name, lambda event: ends.append(event.name))
    for _ in api.map(WORKFLOW, seeds(range(9)), in_flight=4):
        until(lambda: api.get_queue().running)
        break
    assert len(api.get_queue().running) == 1
    assert api.get_queue().pending == ()
    record.gate.release()
    until(lambda: len(api.get_histories()) == 2)
    assert record.values() == ["ax0", "ax1"]
    until(lambda: len(ends) == 4)
    assert sorted(ends) == ["execution_interrupted"] * 2 + ["execution_success"] * 2


@pytest.mark.parametrize("ordered", [True, False])
def test_ctrl_c_leaves_at_once_and_cancels_what_is_queued(server, api, record, ordered) -> None:
    """As a break does."""
    record.gate = threading.Semaphore(0)
    pressed: list[float] = []

    def press() -> None:
        until(lambda: len(api.get_queue().pending) == 2 and api.get_queue().running)
        pressed.append(time.monotonic())
        _thread.interrupt_main()

    thread = threading.Thread(target=press)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        next(api.map(WORKFLOW, seeds(range(9)), in_flight=3, ordered=ordered))
    assert time.monotonic() - pressed[0] < LIMIT
    thread.join(LIMIT)
    assert api.get_queue().pending == ()
    assert len(api.get_queue().running) == 1
    assert not stops(server)
    record.gate = None


@pytest.mark.posix("alarms")
def test_a_prompt_whose_submission_an_alarm_cuts_is_taken_back(server, api, record) -> None:
    """The server has it, and nobody would learn how it ends."""

    def alarm(*_: Any) -> None:
        raise TimeoutError("mine")

    def cut_in(request: Request) -> Any:
        answer = server.answer(request)
        os.kill(os.getpid(), signal.SIGUSR1)  # SIGALRM is the limit of this test
        left.wait(LIMIT)
        return answer

    left = threading.Event()
    record.gate = threading.Semaphore(0)
    api.submit(WORKFLOW)
    until(lambda: api.get_queue().running)
    server.on("POST", "/prompt", cut_in)
    old = signal.signal(signal.SIGUSR1, alarm)
    try:
        with pytest.raises(TimeoutError, match="mine"):
            next(api.map(WORKFLOW, seeds([1])))
    finally:
        signal.signal(signal.SIGUSR1, old)
        left.set()
    until(lambda: not server.pending)
    record.gate = None


@pytest.mark.parametrize("how", HOW)
@pytest.mark.timing(look_up=0.5, lost=0.5)
def test_a_server_that_goes_away_is_waited_for(how, record, server, caplog) -> None:
    """Between two prompts of one map, not before the first."""
    with ComfyApi(f"http://localhost:{server.port}") as api:
        results = api.map(WORKFLOW, seeds(range(3)), in_flight=1)
        found = [next(results)]
        with away(server, how):
            thread = threading.Thread(target=lambda: found.extend(results))
            thread.start()
            until(lambda: "waiting" in caplog.text)
        thread.join(LIMIT)
        assert texts(found) == ["ax0", "ax1", "ax2"]
        assert record.values() == ["ax0", "ax1", "ax2"]


def test_map_raises_unreachable_with_the_first_prompt() -> None:
    """Only a server that was there is waited for."""
    with (
        contextlib.closing(ComfyApi("http://127.0.0.1:9")) as api,
        pytest.raises(ServerUnreachable),
    ):
        next(api.map(WORKFLOW, seeds(range(3))))


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.timing(look_up=0.5)
def test_a_submission_without_an_answer_is_attached(server, api, record, ordered) -> None:
    """Once the server can tell: it came, and runs once."""
    results = api.map(WORKFLOW, seeds(range(4)), in_flight=2, ordered=ordered)
    found = [next(results)]
    with server.faults.bad_gateway(method="GET"):
        with server.faults.cut("POST", "/prompt", ran=True, times=1):
            thread = threading.Thread(target=lambda: found.extend(results))
            thread.start()
            # Unless the socket has told of it before.
            asked = lambda: any(each.method == "GET" for each in server.requests[-3:])  # noqa: E731
            until(lambda: asked() or not thread.is_alive())
        time.sleep(1.0)
    thread.join(LIMIT)
    assert sorted(texts(found)) == ["ax0", "ax1", "ax2", "ax3"]
    assert sorted(record.values()) == ["ax0", "ax1", "ax2", "ax3"]


def test_a_client_that_is_closed_ends_the_wait(server, api, record) -> None:
    """Also the one for a server that went away."""
    results = api.map(WORKFLOW, seeds(range(3)), in_flight=1)
    next(results)
    server.stop()
    threading.Timer(0.3, api.close).start()
    with pytest.raises(ClientClosed):
        next(results)


@pytest.mark.parametrize("on_error", ["raise", "keep"])
def test_prompts_that_close_cancels_are_not_passed_over(
    server, api, record, monkeypatch, on_error
) -> None:
    """That its prompts are deleted is told before the rest of the client has ended."""
    record.gate = threading.Semaphore(0)
    blocking = api.submit(WORKFLOW)
    until(lambda: blocking.status == "running")
    stop = Connection.stop

    def late(self: Connection) -> None:
        time.sleep(0.5)  # as when another thread has its turn
        stop(self)

    with ComfyApi(server.url) as closed:
        monkeypatch.setattr(Connection, "stop", late)
        results = closed.map(WORKFLOW, seeds(range(3)), in_flight=3, on_error=on_error)
        waiting = threading.Timer(0.5, closed.close)
        waiting.start()
        with pytest.raises(ClientClosed):
            list(results)
        waiting.join()
    record.gate = None


def test_a_prompt_that_is_being_sent_as_its_client_is_closed_does_not_run(
    server, api, record
) -> None:
    """It arrives after a first request to delete it."""
    record.gate = threading.Semaphore(0)
    blocking = api.submit(WORKFLOW)
    until(lambda: blocking.status == "running")

    def has(path: str) -> bool:
        return any((one.method, one.path) == ("POST", path) for one in server.requests[before:])

    def take_late(request: Request) -> tuple[int, dict[str, str], bytes]:
        until(lambda: has("/queue"))
        return 200, {}, send(f"{server.url}/prompt", request.body)

    before = len(server.requests)
    closed = ComfyApi(server.url).init()
    caught: list[BaseException | None] = []
    results = closed.map(WORKFLOW, list(seeds([1])))
    caller = threading.Thread(target=lambda: caught.append(exception_of(lambda: list(results))))
    with server.faults.answer("POST", "/prompt", take_late, times=1):
        caller.start()
        until(lambda: has("/prompt"))
        closed.close()
        caller.join()
    assert type(caught[0]) is ClientClosed
    record.gate = None
    until(lambda: not (server.running or server.pending))
    assert record.values() == ["ax0"]


@pytest.mark.timing(cancel_timeout=0.5)
def test_a_client_that_is_being_closed_has_not_had_all_results(server, record) -> None:
    """Nothing is under way any more, while the server is still asked to delete what waited."""
    record.gate = threading.Semaphore(0)
    with ComfyApi(server.url) as closed:
        results = closed.map(WORKFLOW, list(seeds(range(2))), in_flight=2)

        def close_with_all_sent() -> None:
            until(lambda: len(outstanding(closed)) == 2)
            time.sleep(0.2)  # the loop waits for an end by then
            closed.close()

        closing = threading.Thread(target=close_with_all_sent)
        with server.faults.delay("POST", "/queue"):
            closing.start()
            with pytest.raises(ClientClosed):
                list(results)
        closing.join()
    record.gate = None


def test_a_result_that_comes_as_its_time_is_up_counts(server, api, record) -> None:
    """It ended before it could be cancelled."""
    record.gate = threading.Semaphore(0)

    def end_first(request: Request) -> Any:
        record.gate = None
        until(lambda: not outstanding(api))
        return server.answer(request)

    server.on("POST", "/jobs/*/cancel", end_first)
    assert texts(api.map([WORKFLOW], timeout=2.0)) == ["ax0"]


@pytest.mark.timing(look_up=0.3, look_up_sure=0.05, lost=0.1, job_poll_cap=0.1)
def test_a_prompt_that_never_arrives_is_sent_so_often_and_no_more(server, api, record) -> None:
    with server.faults.cut("POST", "/prompt") as cut:
        assert texts(api.map([WORKFLOW], on_error="keep")) == [JobLost]
    assert cut.hits == ATTEMPTS


def test_wrong_arguments_of_map_are_refused_at_once(api) -> None:
    """Before anything is asked for."""
    with pytest.raises(ValueError, match="in_flight must be a number"):
        api.map(WORKFLOW, [], in_flight=0)
    with pytest.raises(ValueError, match="'raise' or 'keep'"):
        api.map(WORKFLOW, [], on_error="ignore")
    with pytest.raises(TypeError, match="one workflow needs params="):
        api.map(WORKFLOW)
    with pytest.raises(TypeError, match="a workflow must be a path"):
        api.map([WORKFLOW], [{}])


def test_params_that_are_no_list_of_dicts_are_refused_at_once(server, api) -> None:
    """A grid is for sweep; nothing was sent, so nothing is taken back."""
    with pytest.raises(TypeError, match=r"params is a list with a dict for each run"):
        next(api.map(WORKFLOW, {"Make.seed": range(8)}))
    assert not [request for request in server.requests if request.method == "POST"]


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("on_error", ["raise", "keep"])
@pytest.mark.parametrize(
    ("workflows", "params", "error"),
    [
        ([WORKFLOW, WORKFLOW, "missing.json"], None, FileNotFoundError),
        ([WORKFLOW, WORKFLOW, None], None, TypeError),
        (WORKFLOW, [{"Make.seed": 0}, {"Make.seed": 1}, "Make.seed"], TypeError),
        (WORKFLOW, [{"Make.seed": 0}, {"Make.seed": 1}, {7: 1}], TypeError),
    ],
    ids=["no file", "no workflow", "no params", "no name"],
)
def test_results_before_whatever_is_raised_are_had(
    api, record, ordered, on_error, workflows, params, error
) -> None:
    """Though it be no error of ours, which has no place among results."""
    found: list[Any] = []
    results = api.map(workflows, params, ordered=ordered, on_error=on_error)
    with pytest.raises(error):
        found.extend(results)
    assert len(texts(found)) == 2


def test_unordered_results_that_are_there_come_before_an_error_that_ends_it(api, record) -> None:
    """Whichever ended first."""
    record.failing = {1}
    results = api.map(WORKFLOW, seeds(range(3)), in_flight=3, ordered=False)
    ended: list[str] = []
    for name in ("execution_success", "execution_error"):
        api.on(name, lambda event: ended.append(event.prompt_id))
    assert texts([next(results)]) == ["ax0"]
    until(lambda: len(ended) == 3)
    assert texts([next(results)]) == ["ax2"]
    with pytest.raises(JobFailed):
        next(results)


def test_an_error_that_leaves_the_client_cancels_what_is_queued(server, record) -> None:
    """Though the results were left in a variable, which the traceback keeps."""
    record.gate = threading.Semaphore(1)

    def script() -> None:
        with ComfyApi(server.url) as api:
            results = api.map(WORKFLOW, seeds(range(9)), in_flight=4)
            next(results)
            until(lambda: api.get_queue().running)
            raise LookupError("in the loop's body")

    with pytest.raises(LookupError) as caught:
        script()
    assert caught.value.__traceback__ is not None
    with ComfyApi(server.url) as api:
        assert api.get_queue().pending == ()
        assert len(api.get_queue().running) == 1
        assert not stops(server)
        record.gate = None


def test_a_script_that_ends_cancels_what_is_queued_and_says_nothing(server, record, api) -> None:
    """It may have forgotten all about its results."""
    record.gate = threading.Semaphore(1)
    code = (
        "import sys\n"
        "from comfy_client import ComfyApi\n"
        "from tests.helpers.sweeps import WORKFLOW\n"
        "api = ComfyApi(sys.argv[1])\n"
        "results = api.map(WORKFLOW, [{'Make.seed': n} for n in range(9)], in_flight=4)\n"
        "print(next(results).texts[0])\n"
        "while not api.get_queue().running: pass\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, server.url],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert (done.stdout, done.stderr) == ("ax0\n", "")
    assert api.get_queue().pending == ()
    assert len(api.get_queue().running) == 1
    assert not stops(server)
    record.gate = None


# -- patience ---------------------------------------------------------------------------------


@pytest.mark.parametrize("stalls", [False, True])
@pytest.mark.parametrize("ordered", [True, False])
def test_a_prompt_whose_time_is_up_is_cancelled_and_the_next_one_runs(
    api, record, ordered, stalls
) -> None:
    """With errors kept; it says how long it was waited for."""
    record.gate = threading.Semaphore(0)
    patience: Any = {"stall_timeout" if stalls else "timeout": 2.0}
    found: list[Any] = []
    for each in api.map(
        WORKFLOW, seeds(range(3)), on_error="keep", in_flight=2, ordered=ordered, **patience
    ):
        found.append(each)
        record.gate = None
    assert texts(found) == [JobTimeout, "ax1", "ax2"]
    assert found[0].stalled == stalls
    assert "2 s (running" in str(found[0])
    assert "it was cancelled" in str(found[0])
    assert record.values() == ["ax1", "ax2"]


def test_a_prompt_was_cancelled_though_the_server_did_not_say_so(server, api, record) -> None:
    """Its end says it."""
    record.gate = threading.Semaphore(0)

    def cancel(request: Request) -> None:
        server.answer(request)
        until(lambda: not outstanding(api))

    server.on("POST", "/jobs/*/cancel", cancel)
    (error,) = api.map(WORKFLOW, seeds([0]), on_error="keep", timeout=2.5)
    assert isinstance(error, JobTimeout)
    assert str(error).endswith("; it was cancelled")


def test_a_prompt_that_the_server_no_longer_has_is_not_said_to_go_on(server, api, record) -> None:
    """Nor to be cancelled."""
    record.gate = threading.Semaphore(0)
    server.on("POST", "/jobs/*/cancel", (200, {}, {"cancelled": False}))
    (error,) = api.map(WORKFLOW, seeds([0]), on_error="keep", timeout=2.5)
    record.gate = None
    assert isinstance(error, JobTimeout)
    assert str(error).endswith("; the server knows nothing of it any more")


@pytest.mark.timing(cancel_timeout=0.5)
def test_a_prompt_that_cannot_be_cancelled_is_said_to_go_on(server, api, record) -> None:
    """The error is about the prompt all the same."""
    record.gate = threading.Semaphore(0)
    server.on("POST", "/jobs/*/cancel", (500, {}, b""))
    (error,) = api.map(WORKFLOW, seeds([0]), on_error="keep", timeout=2.5)
    record.gate = None
    assert isinstance(error, JobTimeout)
    assert str(error).endswith("; it could not be cancelled, and may keep running")


def test_a_worker_that_is_dead_hangs_nothing(server, api, record) -> None:
    """What waits behind is taken out of the queue, one by one; nothing is waited for in vain."""
    with server.faults.hang_worker():
        results = api.map(WORKFLOW, seeds(range(3)), on_error="keep", timeout=0.5)
        assert texts(results) == [JobTimeout] * 3
        assert api.get_queue().pending == ()
        with pytest.raises(JobTimeout):
            next(api.map(WORKFLOW, seeds(range(3)), stall_timeout=0.5))
        until(lambda: api.get_queue().pending == ())


@pytest.mark.parametrize("patience", ["timeout", "stall_timeout"])
def test_waiting_for_prompts_of_the_same_call_is_nobodys_delay(api, record, patience) -> None:
    """Each has its time from when the one before it ended."""
    record.gate = threading.Semaphore(0)

    def release() -> None:
        for done in range(5):
            until(lambda done=done: len(record.values()) == done)
            time.sleep(0.8)
            record.gate.release()

    thread = threading.Thread(target=release)
    thread.start()
    results: Any = api.map(WORKFLOW, seeds(range(5)), in_flight=5, **{patience: 3.8})
    assert texts(results) == ["ax0", "ax1", "ax2", "ax3", "ax4"]
    thread.join(LIMIT)


def test_news_of_the_prompt_that_runs_is_news_of_those_behind_it() -> None:
    """It may run for long, as its steps show."""
    graph = load_workflow("txt2img_tiny")
    graph["4"]["inputs"]["ckpt_name"] = "simulated.safetensors"
    graph["3"]["inputs"]["steps"] = 24
    with ComfyServer(step_seconds=0.15) as server, ComfyApi(server.url) as api:
        grid = ({"KSampler.seed": number} for number in range(2))
        assert len(list(api.map(graph, grid, stall_timeout=3.4, ordered=False))) == 2


@pytest.mark.parametrize("seconds", [-1, float("nan")])
def test_timeouts_of_map_that_are_no_number_are_refused_at_once(api, seconds) -> None:
    """Before anything is asked for."""
    for patience in ("timeout", "stall_timeout"):
        with pytest.raises(ValueError, match="a timeout must be 0 or more seconds"):
            api.map(WORKFLOW, [], **{patience: seconds})


@pytest.mark.posix("alarms")
@pytest.mark.parametrize("is_away", [False, True])
def test_an_alarm_ends_the_wait(server, api, record, is_away) -> None:
    """Also the one for a server that went away: what a signal handler raises is its own."""

    def alarm(*_: Any) -> None:
        raise TimeoutError("mine")

    results = api.map(WORKFLOW, seeds(range(9)), in_flight=2)
    next(results)
    if is_away:
        server.stop()
    else:
        record.gate = threading.Semaphore(0)
    old = signal.signal(signal.SIGUSR1, alarm)  # SIGALRM is the limit of this test
    try:
        threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        with pytest.raises(TimeoutError, match="mine"):
            list(results)
    finally:
        signal.signal(signal.SIGUSR1, old)
    record.gate = None


def test_an_error_of_the_iterable_comes_through_map(api, record) -> None:
    """Once the results before it were had."""

    def params() -> Iterator[dict[str, Any]]:
        yield from seeds(range(2))
        raise LookupError("no more")

    results = []
    with pytest.raises(LookupError):
        results += api.map(WORKFLOW, params(), in_flight=8)
    assert [result.texts for result in results] == [("ax0",), ("ax1",)]


@pytest.mark.parametrize(
    ("answer", "error", "is_kept"),
    [
        ((500, {}, "it stumbled over this graph"), ApiError, True),
        ((507, {}, "full"), ApiError, False),
        ((401, {}, "who are you?"), AuthenticationError, False),
        ((200, {"Content-Type": "text/html"}, "<html>login</html>"), UnexpectedResponse, False),
    ],
    ids=["stumbled", "full", "login", "page"],
)
def test_errors_of_the_server_are_raised_by_map_also_when_errors_are_kept(
    server, api, record, answer, error, is_kept
) -> None:
    """After the results before it."""

    def posted(request: Request) -> Any:
        is_second = request.json()["prompt"]["3"]["inputs"]["seed"] == 1
        return answer if is_second else server.answer(request)

    server.on("POST", "/prompt", posted)
    results = api.map(WORKFLOW, seeds(range(3)), on_error="keep")
    assert texts([next(results)]) == ["ax0"]
    if is_kept:
        kept, last = results
        assert type(kept) is error
        assert texts([last]) == ["ax2"]
    else:
        with pytest.raises(error):
            next(results)


def test_prompts_that_cannot_be_cancelled_are_logged(server, api, record, caplog) -> None:
    """The server is gone, or the client was closed before."""
    record.gate = threading.Semaphore(2)
    results = api.map(WORKFLOW, seeds(range(9)), in_flight=3)
    next(results)
    next(results)
    record.gate = None
    server.stop()
    results.close()
    assert "prompts may stay in the queue" in caplog.text
