"""Callbacks of ``run`` and ``submit`` while the socket is down, on old servers, and at the end.

What they get when all goes well is in ``tests/contract/test_callbacks.py``.
"""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import pytest

from comfy_client import ClientClosed, ComfyApi, JobLost
from tests.contract.test_callbacks import Calls, run_by
from tests.helpers.clients import LIMIT, client, threads, until
from tests.helpers.gates import held, saves
from tests.helpers.scripted import ALL_CACHED, END, GRAPH, START, SUCCESS, WELL, check

WAYS = pytest.mark.parametrize("way", ["run", "submit"])


@WAYS
def test_without_a_socket_callbacks_get_start_place_and_outputs_by_http(comfy, gate, way):
    """No progress; each of the others once."""
    with client(comfy, transport="poll") as api:
        first = api.submit(held("first"))
        calls = Calls()
        results = []
        waiting = threading.Thread(
            target=lambda: results.append(run_by(way, api)(held("a"), **calls.all))
        )
        waiting.start()
        until(lambda: ("on_queue", 1) in calls)
        gate("first").set()
        until(lambda: calls.of("on_start"))
        gate("a").set()
        waiting.join(LIMIT)
        first.result(LIMIT)
    [result] = results
    [(node_id, output)] = calls.of("on_output")
    assert (node_id, output.image.filename) == ("9", result["9"].image.filename)
    assert [job.prompt_id for job in calls.of("on_start")] == [result.prompt_id]
    assert [event.is_end for event in calls.of("on_event")] == [True]
    assert calls.of("on_queue")[0] == 1
    assert len(calls.of("on_queue")) <= 2


@WAYS
def test_a_prompt_that_is_over_before_http_asks_has_begun(comfy, way):
    """Its start comes before its outputs."""
    with client(comfy, transport="poll") as api:
        calls = Calls()
        run_by(way, api)(saves(), **calls.all)
    assert [name for name, *_ in calls if name != "on_queue"] == [
        *("on_start", "on_event", "on_output"),
    ]


@WAYS
def test_outputs_that_no_event_brought_come_at_the_end(comfy, fast, way):
    """The history has them: of a server that does not tell of cached nodes."""
    comfy.script(START, ALL_CACHED, SUCCESS, *END)
    comfy.on("GET", "/history/*", lambda request: with_outputs(comfy.answer(request)))
    calls = Calls()
    check(run_by(way, fast)(GRAPH, **calls.all))
    [(node_id, output)] = calls.of("on_output")
    assert (node_id, output.image.filename) == ("9", "a.png")
    assert calls[-1][0] == "on_output"


def with_outputs(answer: Any) -> Any:
    """As the history of a server that has them."""
    status, headers, found = answer
    output = {"images": [{"filename": "a.png", "subfolder": "sub", "type": "output"}]}
    return (
        status,
        headers,
        {key: {**entry, "outputs": {"9": output}} for key, entry in found.items()},
    )


@WAYS
def test_events_that_come_before_the_id_is_known_are_called(comfy, fast, way):
    """A server that chooses its own, and answers when all is over."""
    comfy.faults.other_prompt_ids()
    comfy.faults.events_before_reply()
    comfy.script(*WELL)
    calls = Calls()
    check(run_by(way, fast)(GRAPH, **calls.all))
    assert [event.name for event in calls.of("on_event")][:2] == [
        "execution_start",
        "execution_cached",
    ]
    assert len(calls.of("on_start")) == 1
    assert [node for node, _ in calls.of("on_output")] == ["9"]


@WAYS
def test_a_cut_in_the_middle_calls_nothing_twice(comfy, fast, gate, way):
    """Start and outputs come once."""
    calls = Calls()
    results = []
    waiting = threading.Thread(
        target=lambda: results.append(run_by(way, fast)(held("a"), **calls.all))
    )
    waiting.start()
    until(lambda: calls.of("on_start"))
    comfy.faults.drop()
    until(lambda: len(comfy.handshakes) == 2)
    gate("a").set()
    waiting.join(LIMIT)
    assert len(calls.of("on_start")) == len(calls.of("on_output")) == 1
    assert results[0].images


@WAYS
def test_a_prompt_that_is_lost_while_it_waits_never_begins(comfy, fast, gate, way):
    """Its end is called."""
    first = fast.submit(held("a"))
    comfy.until(lambda: comfy.running)
    calls = Calls()
    errors = []

    def run():
        try:
            run_by(way, fast)(saves(), **calls.all)
        except JobLost as exc:
            errors.append(exc)

    waiting = threading.Thread(target=run)
    waiting.start()
    until(lambda: calls.of("on_queue"))
    comfy.faults.lose_queue()
    gate("a").set()
    waiting.join(LIMIT)
    assert errors
    assert [event.name for event in calls.of("on_event")] == ["job_lost"]
    assert not calls.of("on_start")
    assert not calls.of("on_output")
    first.exception(LIMIT)


def test_receivers_and_callbacks_take_turns_in_one_thread(comfy, fast):
    """In the order in which things happen."""
    calls = Calls()
    fast.on("execution_success", calls.named("receiver"))
    comfy.script(*WELL)
    fast.submit(GRAPH, on_event=calls.named("on_event")).result(LIMIT)
    assert calls.threads == {"comfy-delivery"}
    names = [name if name == "receiver" else args[0].name for name, *args in calls]
    assert names[:4] == ["execution_start", "execution_cached", "executing", "executed"]
    assert set(names[4:]) == {"receiver", "execution_success"}


def test_without_callbacks_there_is_no_delivery_thread(comfy, fast):
    """Nor with those of ``run``."""
    comfy.script(*WELL)
    fast.submit(GRAPH).result(LIMIT)
    fast.run(GRAPH, timeout=LIMIT, on_event=lambda event: None, every=1)
    assert "comfy-delivery" not in [thread.name for thread in threading.enumerate()]


def test_a_callback_may_ask_for_the_result(comfy, fast, gate):
    """It waits for no receiver, as it is one itself."""
    texts = []
    job = fast.submit(
        held("a"), on_start=lambda job: (gate("a").set(), texts.append(job.result(LIMIT)))
    )
    result = job.result(LIMIT)
    until(lambda: texts)
    assert texts == [result]


def test_a_wrong_callback_is_refused_before_anything_is_sent(comfy, fast):
    """By both."""

    async def lazy(event):
        raise AssertionError("never awaited")

    for way in (fast.run, fast.submit):
        for wrong, kind in (
            ({"on_start": 3}, TypeError),
            ({"on_event": lazy}, TypeError),
            ({"on_progress": lambda: None}, TypeError),
            ({"on_output": lambda output: None}, TypeError),
            ({"on_queue": "x"}, TypeError),
            ({"on_output": []}, TypeError),
            ({"every": "1"}, TypeError),
            ({"every": -1}, ValueError),
            ({"every": float("nan")}, ValueError),
        ):
            with pytest.raises(kind):
                way(GRAPH, **wrong)
    for limit in ("timeout", "stall_timeout"):
        with pytest.raises(TypeError, match="number of seconds"):
            fast.run(GRAPH, **{limit: "5"})
    assert not [request for request in comfy.requests if request.method == "POST"]


def test_a_submission_that_is_refused_calls_nothing(comfy, fast):
    """And leaves nothing that is called."""
    calls = Calls()
    comfy.on("POST", "/prompt", (400, {}, {"error": {"type": "no", "message": "no"}}))
    with pytest.raises(Exception, match="no"):
        fast.submit(GRAPH, **calls.all)
    comfy.off("POST", "/prompt")
    comfy.script(*WELL)
    fast.submit(GRAPH, on_queue=print).result(LIMIT)
    assert calls == []
    assert not fast.parts.receivers._due


def test_close_ends_the_calls(comfy, gate):
    """Also of what is kept for later."""
    calls = Calls()
    api = ComfyApi(comfy.url)
    job = api.submit(held("a"), every=0.2, **calls.all)
    until(lambda: calls.of("on_start"))
    api.close()
    assert isinstance(job.exception(LIMIT), ClientClosed)
    seen = len(calls)
    gate("a").set()
    until(lambda: not threads())  # which would call them
    assert len(calls) == seen


def test_a_job_and_its_callbacks_go_with_it(comfy, fast):
    """No circle keeps them, nor the delivery thread."""

    class Bound:
        def call(self, *args: object) -> None:
            pass

    comfy.script(*WELL)
    bound = Bound()
    kept = weakref.ref(bound)
    job = fast.submit(GRAPH, on_event=bound.call, on_queue=bound.call)
    job.result(LIMIT)
    until(lambda: not fast.parts.receivers._due)
    gc.disable()
    try:
        del job, bound
        until(lambda: kept() is None, 60)
    finally:
        gc.enable()


def test_each_of_many_jobs_gets_its_own_places(comfy, fast, gate):
    """They only fall once all are submitted, one after the other."""
    first = fast.submit(held("a"))
    places: dict[int, list[int]] = {}
    jobs = [
        fast.submit(saves(number), on_queue=places.setdefault(number, []).append)
        for number in range(60)
    ]
    until(lambda: all(places.values()), LIMIT)
    known = {number: len(one) for number, one in places.items()}
    gate("a").set()
    for job in jobs:
        job.result(LIMIT)
    first.result(LIMIT)
    for number, one in places.items():
        # The server may count the next prompt before it answers that one's submission.
        assert max(one) <= number + 2
        latest = one[known[number] - 1 :]
        assert latest == sorted(latest, reverse=True)
    assert places[59][0] == 60
