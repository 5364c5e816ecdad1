"""Each prompt has one end event, and the right one, whoever told of it first."""

from __future__ import annotations

import gc
import threading
from typing import Any

import blinker
import pytest

from comfy_client import ComfyApi
from comfy_client.errors import (
    JobFailed,
    JobInterrupted,
    JobLost,
)
from comfy_client.testing import ComfyServer, Finish
from tests.conftest import load_workflow
from tests.helpers.clients import (
    LIMIT,
    Fast,
    Heard,
    flush,
)
from tests.helpers.gates import check_once, saves
from tests.helpers.recordings import recording
from tests.helpers.scripted import (
    CACHED,
    ENTRY,
    FAILED,
    GRAPH,
    LEFT,
    OVER,
    RUNS,
    START,
    STOPPED,
    SUCCESS,
    WELL,
    answer_late,
    check,
    custom,
    say,
)


def test_fields_of_the_answer_are_kept_though_events_come_first(comfy, fast):
    """Nothing is lost, not even what only the answer says."""
    told = Heard(fast)
    answer_late(comfy, node_errors={"7": {"errors": [], "class_type": "SaveImage"}})
    comfy.script(*WELL)
    result = fast.run(GRAPH, timeout=LIMIT)
    check(result)
    assert set(result.node_errors) == {"7"}
    assert len(told.ends()) == 1


def test_a_prompt_may_succeed_though_a_node_has_failed(comfy, fast):
    """As since ComfyUI 0.36, if ``extra_data`` asks for it; a node may repeat a key, too."""
    told = Heard(fast)
    why = {"exception_type": "ValueError", "exception_message": "401 for comfyui-0123456789"}
    failed = say("execution_node_error", node_id="1", node_type="EmptyImage", **why)
    comfy.script(START, CACHED, RUNS, failed, LEFT, SUCCESS, Finish(), OVER)
    result = fast.run(GRAPH, timeout=LIMIT, comfy_api_key="comfyui-0123456789")
    check(result)
    (error,) = result.node_errors["1"]["errors"]
    assert (error["type"], error["details"]) == ("execution_node_error", "ValueError")
    assert error["message"] == "401 for ***"
    assert len(told.ends()) == 1


def test_http_decides_first_and_the_late_event_is_dropped(comfy, fast):
    """One end event, and it says that it is recovered."""
    told = Heard(fast)
    late = threading.Event()
    comfy.script(START, CACHED, RUNS, LEFT, Finish(), late, SUCCESS, OVER)
    result = fast.run(GRAPH, timeout=LIMIT)
    check(result)
    late.set()
    comfy.until(lambda: [e for e in told.events if e.name == "executing" and not e.node], LIMIT)
    assert [(e.name, e.recovered) for e in told.ends()] == [("execution_success", True)]


@pytest.mark.parametrize("second", [SUCCESS, FAILED], ids=["success", "failure"])
def test_a_second_end_before_the_record_is_dropped(comfy, fast, second):
    """The first one stands; here it waits for the record, as nothing was said of the cache."""
    told = Heard(fast)
    go = threading.Event()
    comfy.script(START, RUNS, LEFT, SUCCESS, second, custom(), go, Finish(ENTRY), OVER)
    job = fast.submit(GRAPH)
    comfy.until(lambda: told("custom"), LIMIT)
    assert not job.done()
    go.set()
    check(job.result(LIMIT))
    flush(fast)
    assert [e.name for e in told.ends()] == ["execution_success"]


@pytest.mark.parametrize(
    ("end", "error"),
    [
        (say("execution_error", node_id="9", exception_type="ValueError"), JobFailed),
        (say("execution_interrupted", node_id="9"), JobInterrupted),
    ],
)
def test_a_late_failure_is_published_once(comfy, fast, end, error):
    """HTTP knows first; what the socket brings later fires nothing."""
    told = Heard(fast)
    late = threading.Event()
    entry = {
        **ENTRY,
        "status": {
            "status_str": "error",
            "completed": False,
            "messages": [[end["type"], end["data"]]],
        },
    }
    comfy.script(START, CACHED, RUNS, Finish(entry), late, end, OVER)
    with pytest.raises(error) as caught:
        fast.run(GRAPH, timeout=LIMIT)
    late.set()
    comfy.until(lambda: [e for e in told.events if e.name == "executing" and not e.node], LIMIT)
    assert [(e.name, e.recovered) for e in told.ends()] == [(end["type"], True)]
    assert caught.value.node_id == "9"


def test_events_of_others_and_odd_messages_belong_to_no_job(comfy, fast):
    """Other prompts, odd messages, and a replay that names no prompt."""

    def noise(_):
        other = {"prompt_id": "somebody-elses"}
        for message in [
            {"type": "execution_error", "data": {**other, "node_id": "1"}},
            {"type": "executing", "data": {**other, "node": None}},
            {"type": "execution_success", "data": other},
            {"type": "executing", "data": {"node": "1"}},
            {"type": "executing", "data": {"node": None}},
            {"type": "execution_success", "data": {}},
            {"type": "execution_error", "data": None},
            {"type": "executed", "data": [1]},
            {"type": "crystools.monitor", "data": {"cpu": 1}},
            {"type": "progress"},
            "text",
            [],
        ]:
            comfy.push(message)
        comfy.push_raw(b"\x81\x03{{{")

    steps = [part for step in WELL for part in (noise, step)]
    comfy.script(*steps)
    events = []
    result = fast.run(GRAPH, timeout=LIMIT, on_event=events.append)
    check(result)
    assert [e.name for e in events] == [
        "execution_start",
        "execution_cached",
        "executing",
        "executed",
        "execution_success",
    ]


@pytest.mark.parametrize(
    ("name", "workflow"), [("runtime_error", "failing_runtime"), ("interrupt", "txt2img_slow")]
)
@pytest.mark.parametrize("version", ["0.28.1", "0.3.75", "0.3.52", "2024-03"])
def test_polling_knows_as_much_of_an_error_as_the_socket(comfy, version, name, workflow):
    """The same class of exception, with the same facts."""
    comfy.script(*recording(version, name).steps)
    facts = []
    for transport in ("auto", "poll"):
        with Fast(comfy.url, transport=transport, namespace=blinker.Namespace()) as api:
            told = Heard(api)
            with pytest.raises((JobFailed, JobInterrupted)) as caught:
                api.run(load_workflow(workflow), timeout=LIMIT)
            assert len(told.ends()) == 1
            known = {k: v for k, v in vars(caught.value).items() if k != "prompt_id"}
            words = str(caught.value).replace(caught.value.prompt_id, "")
            facts.append((caught.type, words, known))
    assert facts[0] == facts[1]


def test_a_published_end_is_not_taken_back(comfy, fast):
    """By whom it is asked about, and how soon: here before the server has written its record."""
    go = threading.Event()
    seen = []
    fast.on("execution_success", lambda e: seen.append(fast.job(e.prompt_id).status))
    comfy.script(*WELL[:5], go, Finish(ENTRY), OVER)
    prompt_id = fast.run(GRAPH, timeout=LIMIT).prompt_id
    assert prompt_id not in comfy.history
    gc.collect()
    job = fast.job(prompt_id)
    assert seen == [job.status] == ["succeeded"]
    assert fast.job(prompt_id) is job
    go.set()
    assert job.result(LIMIT)["9"].images


@pytest.mark.parametrize(
    ("end", "error", "status"),
    [
        ((FAILED,), JobFailed, "failed"),
        ((STOPPED,), JobInterrupted, "interrupted"),
        ((lambda prompt: None,), JobLost, "lost"),
    ],
)
def test_a_published_error_stands_though_the_server_has_forgotten_it(
    comfy, fast, end, error, status
):
    """And is told to receivers once."""
    told = Heard(fast)
    comfy.script(START, CACHED, RUNS, *end)
    job = fast.submit(GRAPH)
    if error is JobLost:
        comfy.until(lambda: comfy.running, LIMIT)
        comfy.forget()
    assert isinstance(job.exception(LIMIT), error)
    prompt_id = job.prompt_id
    comfy.forget()
    del job
    gc.collect()
    again = fast.job(prompt_id)
    assert again.status == status
    assert [e.is_end for e in again.events()] == [True]
    assert isinstance(again.exception(LIMIT), error)
    assert again.exception().prompt_id == prompt_id
    flush(fast)
    assert len(told.ends()) == 1


def test_an_id_that_is_used_again_is_another_prompt(comfy):
    """Its end is told, too."""
    comfy.script(START, Finish(ENTRY))
    with Fast(comfy.url, transport="poll", namespace=blinker.Namespace()) as api:
        told = Heard(api)
        mine = api.generate_id()
        for count in (1, 2):
            check(api.submit(GRAPH, prompt_id=mine).result(LIMIT))
            assert len(told.ends()) == count


def test_events_before_the_answer_are_all_delivered(comfy: ComfyServer, fast: ComfyApi) -> None:
    """None of them is lost."""
    told = Heard(fast)
    events: list[str] = []
    with comfy.faults.events_before_reply():
        result = fast.run(saves(), timeout=LIMIT, on_event=lambda e: events.append(e.name))
    check_once(comfy, told, result, recovered=False)
    assert events[0] == "execution_start"
    assert events[-1] == "execution_success"
    assert {"executing", "executed"} <= set(events)


def test_foreign_traffic_reaches_all_receivers_and_no_job(
    comfy: ComfyServer, fast: ComfyApi
) -> None:
    """Other prompts, other extensions, odd data: told to who asks for them, and no harm."""
    told = Heard(fast)
    seen: list[Any] = []
    with comfy.faults.foreign_traffic() as fault:
        for number in range(3):
            result = fast.run(saves(number), timeout=LIMIT, on_event=seen.append)
            check_once(comfy, told, result, recovered=False)
    assert fault.hits > 20
    assert {event.prompt_id for event in seen} == {ran.prompt_id for ran in comfy.ran}
    assert told("monitor")
    assert told.links == []
