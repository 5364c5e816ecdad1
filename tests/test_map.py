"""Many prompts, one after the other."""

from __future__ import annotations

import _thread
import itertools
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from comfy_client import (
    ApiError,
    AuthenticationError,
    ClientClosed,
    ComfyApi,
    JobFailed,
    PromptRejected,
    Result,
    ServerUnreachable,
    UnexpectedResponse,
    Workflow,
    WorkflowError,
)
from comfy_client.testing import ComfyServer
from tests.grids import LIMIT, WORKFLOW, Record, furnish
from tests.heard import until


@pytest.fixture
def server() -> Iterator[ComfyServer]:
    with ComfyServer() as server:
        yield server


@pytest.fixture
def record(server: ComfyServer) -> Record:
    return furnish(server)


@pytest.fixture
def api(server: ComfyServer) -> Iterator[ComfyApi]:
    with ComfyApi(server.url) as api:
        yield api


def seeds(numbers: Any) -> Iterator[dict[str, Any]]:
    return ({"Make.seed": number} for number in numbers)


def texts(results: Any) -> list[Any]:
    return [each.texts[0] if isinstance(each, Result) else type(each) for each in results]


def test_one_workflow_with_params_gives_a_result_for_each_in_their_order(api, record) -> None:
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


def test_nothing_is_submitted_before_the_first_next(api, record) -> None:
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
    until(lambda: api.poll_status().queue_remaining == 0)
    assert max(lengths) <= in_flight


def test_in_flight_prompts_stand_in_the_queue_while_it_waits(api, record) -> None:
    """The server is never idle for want of the next one."""
    record.gate = threading.Semaphore(0)
    results = api.map(WORKFLOW, seeds(itertools.count()), in_flight=3)
    found: list[Result] = []
    thread = threading.Thread(target=lambda: found.append(next(results)))
    thread.start()
    until(lambda: api.poll_status().queue_remaining == 3)
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
    until(lambda: api.poll_status().queue_remaining == 3)
    for number in range(3):
        until(lambda number=number: len(found) == number)
        record.gate.release()
    thread.join(LIMIT)
    assert texts(found) == record.values()
    assert set(texts(found)) == {"ax0", "ax1", "ax2"}
    assert texts(found)[-1] != "ax2"


def test_an_error_is_raised_after_the_results_before_it_and_the_rest_is_taken_back(
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
    until(lambda: api.poll_status().queue_remaining == 0)
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
def test_ctrl_c_leaves_at_once_and_takes_back_what_waits(api, record, ordered) -> None:
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
    assert time.monotonic() - pressed[0] < 5
    thread.join(LIMIT)
    assert api.get_queue().pending == ()
    assert len(api.get_queue().running) == 1
    record.gate = None


def test_a_server_that_goes_away_is_waited_for(server, api, record, caplog) -> None:
    """Between two prompts of one map, not before the first."""
    results = api.map(WORKFLOW, seeds(range(3)), in_flight=1)
    found = [next(results)]
    port = server.port
    server.stop()
    thread = threading.Thread(target=lambda: found.extend(results))
    thread.start()
    until(lambda: "waiting for the server to come back" in caplog.text)
    again = ComfyServer(port=port)
    furnish(again)
    with again:
        thread.join(LIMIT)
        assert texts(found) == ["ax0", "ax1", "ax2"]
    with pytest.raises(ServerUnreachable):
        next(api.map(WORKFLOW, seeds(range(3))))


def test_a_client_that_is_closed_ends_the_wait(server, api, record) -> None:
    """Also the one for a server that went away."""
    results = api.map(WORKFLOW, seeds(range(3)), in_flight=1)
    next(results)
    server.stop()
    threading.Timer(0.3, api.close).start()
    with pytest.raises(ClientClosed):
        next(results)


def test_wrong_arguments_are_told_at_once(api) -> None:
    """Before anything is asked for."""
    with pytest.raises(ValueError, match="in_flight is a number"):
        api.map(WORKFLOW, [], in_flight=0)
    with pytest.raises(ValueError, match="'raise' or 'keep'"):
        api.map(WORKFLOW, [], on_error="ignore")
    with pytest.raises(TypeError, match="one workflow needs params="):
        api.map(WORKFLOW)
    with pytest.raises(TypeError, match="a workflow is a path"):
        api.map([WORKFLOW], [{}])


def test_params_that_are_no_list_of_dicts_are_told_with_the_first(server, api) -> None:
    """A grid is for sweep; nothing was sent, so nothing is taken back."""
    with pytest.raises(TypeError, match=r"params are a dict .*: 'Make.seed'"):
        next(api.map(WORKFLOW, {"Make.seed": range(8)}))
    assert not [request for request in server.requests if request.method == "POST"]


def test_what_the_iterable_raises_comes_through(api, record) -> None:
    """Once the results before it were had."""

    def params() -> Iterator[dict[str, Any]]:
        yield from seeds(range(2))
        raise LookupError("no more")

    results = []
    with pytest.raises(LookupError):
        results += api.map(WORKFLOW, params(), in_flight=8)
    assert [result.texts for result in results] == [("ax0",), ("ax1",)]


@pytest.mark.parametrize(
    ("error", "is_kept"),
    [
        (ApiError("500", status=500), True),  # it stumbled over this graph
        (ApiError("507", status=507), False),
        (AuthenticationError("401", status=401), False),
        (UnexpectedResponse("a login page"), False),
    ],
    ids=["stumbled", "full", "login", "page"],
)
def test_what_is_no_fault_of_one_prompt_is_raised_also_when_errors_are_kept(
    api, record, monkeypatch, error, is_kept
) -> None:
    """After the results before it."""
    submit = ComfyApi.submit

    def submitted(self: ComfyApi, workflow: Any, **kw: Any) -> Any:
        if workflow["Make"]["seed"] == 1:
            raise error
        return submit(self, workflow, **kw)

    monkeypatch.setattr(ComfyApi, "submit", submitted)
    results = api.map(WORKFLOW, seeds(range(3)), on_error="keep")
    assert texts([next(results)]) == ["ax0"]
    if is_kept:
        kept, last = results
        assert kept is error
        assert texts([last]) == ["ax2"]
    else:
        with pytest.raises(type(error)):
            next(results)


def test_what_cannot_be_taken_back_is_told_in_the_log(server, api, record, caplog) -> None:
    """The server is gone, or the client was closed before."""
    record.gate = threading.Semaphore(2)
    results = api.map(WORKFLOW, seeds(range(9)), in_flight=3)
    next(results)
    next(results)
    record.gate = None
    server.stop()
    results.close()
    assert "prompts may stay in the queue" in caplog.text
