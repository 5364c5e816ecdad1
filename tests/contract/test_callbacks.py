"""Callbacks of ``run`` and ``submit``: what is called, in which order and thread, and how often."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from comfy_client import ComfyApi, JobFailed, JobInterrupted, NodeOutput, Progress, Result
from tests.contract.conftest import Server, a_while, forgot
from tests.contract.test_runs import picture, sleeper, until
from tests.versions import has

LIMIT = 180.0
#: Runs a workflow with callbacks, and waits for it.
Run = Callable[..., Result]


class Calls(list[tuple[Any, ...]]):
    """What was called, in which order."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: set[str] = set()

    def named(self, name: str) -> Callable[..., None]:
        """A callback of that name."""

        def call(*args: Any) -> None:
            self.threads.add(threading.current_thread().name)
            self.append((name, *args))

        return call

    @property
    def all(self) -> dict[str, Callable[..., None]]:
        """One callback of each kind."""
        kinds = ("on_event", "on_progress", "on_preview", "on_start", "on_output", "on_queue")
        return {kind: self.named(kind) for kind in kinds}

    def of(self, name: str) -> list[Any]:
        return [args[0] if len(args) == 1 else args for found, *args in self if found == name]


@pytest.fixture(params=["run", "submit"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def fewer(server: Server) -> bool:
    """Whether it may leave out what is between the first and the last step."""
    return has(server.version, "fewer progress events")


def run_by(way: str, api: ComfyApi) -> Run:
    if way == "run":
        return lambda workflow, **kw: api.run(workflow, timeout=LIMIT, **kw)
    return lambda workflow, **kw: api.submit(workflow, **kw).result(LIMIT)


def test_each_callback_gets_what_it_is_for(any_api, any_comfyui, way):
    """In the waiting thread, or in the delivery thread; all of it before the result is there."""
    calls = Calls()
    result = run_by(way, any_api)({**picture(), "2": sleeper(0.3, 3)["1"]}, **calls.all)
    assert calls.threads == {"comfy-delivery" if way == "submit" else "MainThread"}
    [job] = calls.of("on_start")
    assert job.prompt_id == result.prompt_id
    outputs = dict(calls.of("on_output"))
    assert outputs.keys() == result.nodes.keys() == {"9", "2"}
    assert isinstance(outputs["9"], NodeOutput)
    assert outputs["9"].title == "Save"
    assert outputs["9"].image.bytes() == result["Save"].image.bytes()
    steps = [event.value for event in calls.of("on_progress")]
    assert steps == ([1, 3] if fewer(any_comfyui) and 2 not in steps else [1, 2, 3])
    assert [event.is_end for event in calls.of("on_event")][-1]
    names = [name for name, *_ in calls if name not in ("on_event", "on_queue")]
    assert names[0] == "on_start"


def test_outputs_from_the_cache_are_called_too(any_api, any_comfyui, way):
    """Each once; with servers that send no event for them, at the end."""
    graph = picture()
    run = run_by(way, any_api)
    first = run(graph)
    calls = Calls()
    again = run(graph, **calls.all)
    if not forgot(any_comfyui, again, "1", "9"):
        assert again.fully_cached
    assert [(node, output.image.filename) for node, output in calls.of("on_output")] == [
        ("9", again["9"].image.filename)
    ]
    assert first["9"].files
    assert len(calls.of("on_start")) == 1


def test_the_place_in_the_queue_is_called_as_it_changes(api):
    """Until it begins: 0 is next."""
    running = api.submit(sleeper())
    until(lambda: running.handle.state.started)
    calls = Calls()
    first = api.submit(sleeper())
    second = api.submit(picture(), on_queue=calls.named("on_queue"), on_start=calls.named("begun"))
    until(lambda: calls)
    running.cancel()
    until(lambda: first.handle.state.started and len(calls) > 1)
    first.cancel()
    second.result(LIMIT)
    assert calls.of("on_queue")[:2] == [2, 1]
    assert calls[-1] == ("begun", second)
    assert len(calls) <= 4


@pytest.mark.parametrize(("kind", "pause"), [("on_progress", 0.4), ("on_preview", 20.0)])
def test_calls_are_as_rare_as_asked_for_and_the_last_one_comes(api, workflow, way, kind, pause):
    """The newest is kept meanwhile."""
    graph: Any = sleeper(1.0, 100)
    if kind == "on_preview":  # however long a step takes on a busy machine
        graph = workflow("txt2img_tiny", steps=20, seed=time.time_ns() % 2**40)
    at: list[float] = []
    seen: list[Any] = []
    every: list[Any] = []

    def call(event: Any) -> None:
        at.append(time.monotonic())
        seen.append(event)

    def keep(event: Any) -> None:
        if event.name == ("progress" if kind == "on_progress" else "b_preview"):
            every.append(event)

    begun = time.monotonic()
    run_by(way, api)(graph, every=pause, on_event=keep, **{kind: call})
    assert len(every) > len(seen) >= 2
    assert seen[-1] is every[-1]
    # The last one comes with the end; any of the others may be called late, but none early.
    assert (len(seen) - 2) * pause <= at[-1] - begun


def test_a_callback_that_raises_ends_run_and_not_the_prompt(api, comfyui):
    """The error says so."""
    jobs = []

    def fail(event: Progress) -> None:
        raise ValueError("mine")

    graph = sleeper(a_while(comfyui, 1.0, 5.0), 10)
    with pytest.raises(ValueError, match="mine") as caught:
        api.run(graph, on_start=jobs.append, on_progress=fail, timeout=LIMIT)
    assert any("keeps running" in note for note in caught.value.__notes__)
    assert jobs[0].result(LIMIT).texts


def test_a_callback_of_submit_that_raises_is_logged_and_the_others_run(api, caplog):
    """And called again."""
    calls = Calls()

    def fail(*args: object) -> None:
        raise ValueError("mine")

    with caplog.at_level(logging.ERROR, "comfy_client"):
        job = api.submit(
            sleeper(0.3, 3),
            on_event=calls.named("on_event"),
            on_output=calls.named("on_output"),
            on_progress=fail,
            on_start=fail,
            on_queue=fail,
        )
        result = job.result(LIMIT)
    assert [node for node, _ in calls.of("on_output")] == ["1"]
    assert calls.of("on_event")[-1].name == "execution_success"
    assert result.texts
    failures = [record for record in caplog.records if record.exc_info]
    assert len(failures) >= 3  # newer servers may leave out what is between the first and the last


def test_a_slow_callback_of_submit_delays_no_other_prompt(api):
    """The socket goes on; the result comes when receivers have had what was before."""
    entered, go = threading.Event(), threading.Event()

    def wait(event: Progress) -> None:
        entered.set()
        go.wait(LIMIT)

    slow = api.submit(sleeper(0.2, 2), on_progress=wait)
    assert entered.wait(LIMIT)
    until(lambda: slow.done())
    other = api.submit(picture())
    until(lambda: other.done())
    go.set()
    assert slow.result(LIMIT).texts
    assert other.result(LIMIT).images


def test_callbacks_of_a_prompt_that_fails_get_its_start_and_its_end(api, way):
    """Outputs until then count."""
    calls = Calls()
    graph = {
        "1": {"class_type": "TestFail", "inputs": {"message": "no", "text": ["2", 0]}},
        "2": sleeper(0.1, 2)["1"],
    }
    with pytest.raises(JobFailed, match="no"):
        run_by(way, api)(graph, every=10, **calls.all)
    assert len(calls.of("on_start")) == 1
    assert [node for node, _ in calls.of("on_output")] == ["2"]
    assert [event.value for event in calls.of("on_progress")] == [1, 2]
    assert calls.of("on_event")[-1].name == "execution_error"
    assert calls[-1][0] == "on_event"


def test_a_job_cancelled_while_it_waits_never_begins(api):
    """Its place is told, and its end."""
    running = api.submit(sleeper())
    until(lambda: running.handle.state.started)
    calls = Calls()
    job = api.submit(picture(), **calls.all)
    until(lambda: calls)
    job.cancel()
    with pytest.raises(JobInterrupted):
        job.result(LIMIT)
    running.cancel()
    assert {name for name, *_ in calls} == {"on_queue", "on_event"}
