"""What ends mean, whoever told them."""

from __future__ import annotations

import pickle

import pytest

from comfy_client.errors import JobError, JobFailed, JobInterrupted, JobLost
from comfy_client.events import (
    ExecutionError,
    ExecutionInterrupted,
    PreviewEvent,
    execution_error,
    execution_interrupted,
    execution_success,
)
from comfy_client.jobs.outcomes import (
    deleted,
    error_of,
    failure_event,
    lost,
    sends_pictures,
    success,
    with_finality,
)
from comfy_client.models import HistoryEntry

GRAPH = {
    "3": {"class_type": "KSampler", "inputs": {}, "_meta": {"title": "Sampler"}},
    "9": {"class_type": "SaveImageWebsocket", "inputs": {}},
}


def preview(node, **kw):
    return PreviewEvent(
        name="b_preview", prompt_id="the-id", node_id=node, view=memoryview(b"x"), **kw
    )


def entry(*messages):
    """A record of the history that is no success."""
    return HistoryEntry.from_json(
        {
            "prompt": [0, "the-id", GRAPH, {}, []],
            "outputs": {},
            "status": {"status_str": "error", "completed": False, "messages": list(messages)},
        }
    )


FAILED = {"prompt_id": "the-id", "node_id": "3", "exception_type": "ValueError"}
STOPPED = {"prompt_id": "the-id", "node_id": "3"}


@pytest.mark.parametrize(
    ("name", "said", "make"),
    [
        ("execution_error", FAILED, execution_error),
        ("execution_interrupted", STOPPED, execution_interrupted),
    ],
)
def test_history_and_event_give_the_same_error(name, said, make):
    """Class, words and facts; only ``recovered`` tells them apart."""
    event = failure_event(entry([name, said]), "the-id")
    error = error_of(event, "the-id", GRAPH)
    told = error_of(make(said), "the-id", GRAPH)
    assert type(error) is type(told)
    assert (str(error), vars(error)) == (str(told), vars(told))
    assert (event.name, event.recovered) == (name, True)


def test_a_record_without_any_reason_is_a_failure():
    """As a server leaves it whose messages were lost."""
    event = failure_event(entry(), "the-id")
    error = error_of(event, "the-id", GRAPH)
    assert isinstance(event, ExecutionError)
    assert isinstance(error, JobFailed)
    assert error.prompt_id == event.prompt_id == "the-id"


def test_the_id_in_the_record_is_ours_whatever_its_message_says():
    """Old servers name another one there."""
    event = failure_event(entry(["execution_error", {**FAILED, "prompt_id": "x"}]), "the-id")
    error = error_of(event, "the-id", {})
    assert error.prompt_id == event.prompt_id == "the-id"


def test_a_vanished_job_is_lost_unless_we_deleted_it():
    """With an end event of either kind."""
    event, error = lost("the-id")
    assert (event.name, event.recovered, type(error)) == ("job_lost", True, JobLost)
    assert event.reason in str(error)
    event, error = deleted("the-id")
    assert isinstance(event, ExecutionInterrupted)
    assert isinstance(error, JobInterrupted)
    assert "while it waited" in str(error)


@pytest.mark.parametrize(
    ("event", "is_end"),
    [
        (success("the-id"), True),
        (success("the-id", recovered=True), True),
        (execution_success({}), True),
        (execution_error(FAILED), True),
        (execution_error({"exception_type": "ExecutionBlocked"}), False),
        (execution_interrupted(STOPPED), True),
        (lost("the-id")[0], True),
        (preview("9"), False),
    ],
)
def test_an_end_is_known_by_its_class(event, is_end):
    """But a node that was blocked ends nothing."""
    assert event.is_end is is_end


def test_only_some_workflows_send_pictures():
    """Those with a node whose pictures are nowhere else."""
    assert sends_pictures(GRAPH)
    assert not sends_pictures({"3": GRAPH["3"]})
    assert not sends_pictures({"3": None, "4": {}})


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
    assert "retry_oom" in error.__notes__[0]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("torch.OutOfMemoryError", "CUDA out of memory. Tried to allocate 2.00 GiB"),
        ("torch.cuda.OutOfMemoryError", "Allocation on device 0 would exceed allowed memory."),
        ("RuntimeError", "MPS backend out of memory (MPS allocated: 8.00 GB)"),
        ("RuntimeError", "HIP out of memory."),
        ("RuntimeError", "[enforce fail] DefaultCPUAllocator: not enough memory: you tried"),
        ("RuntimeError", "Could not allocate tensor. There is not enough GPU video memory"),
        ("RuntimeError", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
        ("RuntimeError", "level_zero backend failed: UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY"),
        ("MemoryError", ""),
        ("numpy._core._exceptions._ArrayMemoryError", "Unable to allocate 3.00 GiB"),
        ("OOMError", None),
    ],
)
def test_a_failure_knows_that_memory_ran_out(kind, message):
    """By its class, or by the words of a plain error."""
    assert failure(kind, message).is_oom


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("ValueError", "failed as told"),
        ("RuntimeError", "CUDA error: an illegal memory access was encountered"),
        ("torch.AcceleratorError", "CUDA error: device-side assert triggered"),
        (None, None),
    ],
)
def test_a_failure_of_another_kind_is_not_one_of_memory(kind, message):
    """A broken device has to be started again."""
    assert not failure(kind, message).is_oom


def failure(kind, message):
    said = {"node_id": "3", "exception_type": kind, "exception_message": message}
    error = error_of(execution_error(said), "the-id", GRAPH)
    assert isinstance(error, JobFailed)
    return error


@pytest.mark.parametrize("node_id", ["3", "3.0.0.1"])
def test_a_failure_keeps_no_hidden_inputs(node_id):
    """An API key may be one; of a node that another has grown only names tell."""
    said = {"node_id": node_id, "current_inputs": {"seed": [1], "api_key": ["hunter2-geheim"]}}
    graph = {"3": {"class_type": "KSampler", "inputs": {"seed": 1}}}
    error = error_of(execution_error(said), "the-id", graph)
    assert isinstance(error, JobFailed)
    assert error.inputs == {"seed": [1]}
    assert b"hunter2" not in pickle.dumps(error)


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
