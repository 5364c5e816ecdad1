"""What is called when, by a clock that the test sets: the order, and how often."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfy_client.events import (
    Executed,
    Executing,
    JobLostEvent,
    PreviewEvent,
    Progress,
    execution_error,
    execution_success,
)
from comfy_client.jobs.job import Callbacks, Caller
from tests.helpers.patches import tell_time
from tests.unit.test_job import RESULT, tracked

EVERY = 1.0
SUCCESS = execution_success({"prompt_id": "the-id"})


class Clock:
    """Goes on when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    tell_time(monkeypatch, made.monotonic)
    return made


class Called:
    """A caller of one prompt, and what it has called, with the time of each call."""

    def __init__(self, clock: Clock, *names: str, **more: Any) -> None:
        self.clock = clock
        self.one, self.job = tracked()
        self.calls: list[tuple[str, float, Any]] = []
        kept = {name: self._keeping(name) for name in names}
        self.caller = Caller(self.job, Callbacks(**kept, **more), lambda call, *args: call(*args))

    def _keeping(self, name: str) -> Any:
        return lambda *args: self.calls.append((name, self.clock.now, args[-1]))

    def of(self, name: str) -> list[tuple[float, Any]]:
        return [(at, value) for found, at, value in self.calls if found == name]

    def begin(self) -> None:
        self.one.state.running_since = self.clock.now

    def end(self, outcome: Any = RESULT) -> None:
        self.one.end(outcome)
        self.caller.end()


def step(value: float) -> Progress:
    return Progress(name="progress", prompt_id="the-id", value=value, max=99, node="3")


def picture(value: object, *, final: bool = False) -> PreviewEvent:
    return PreviewEvent(name="b_preview", prompt_id="the-id", raw=value, final=final)


#: Seconds before each event, and which kind it is.
COURSE = st.lists(
    st.tuples(st.floats(0.0, 3.0, allow_subnormal=False), st.sampled_from(["p", "i", "f"]))
)


@given(COURSE)
def test_however_events_come_calls_keep_their_distance_and_the_last_one_comes(course):
    """As long as ticks come when they are due; each kind has a clock of its own."""
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        tell_time(patch, clock.monotonic)
        called = Called(clock, "on_progress", "on_preview", every=EVERY)
        sent: dict[str, list[Any]] = {"p": [], "i": [], "f": []}
        due = math.inf
        for value, (pause, kind) in enumerate(course):
            until = clock.now + pause
            while due <= until:
                clock.now = max(due, clock.now)
                due = clock.now + called.caller.tick()
            clock.now = until
            event = step(value) if kind == "p" else picture(value, final=kind == "f")
            sent[kind].append(event)
            due = clock.now + called.caller.take(event)
        called.caller.take(SUCCESS)
    steps = called.of("on_progress")
    pictures = [event for _, event in called.of("on_preview")]
    assert [event for _, event in steps][-1:] == sent["p"][-1:]
    assert [event for event in pictures if not event.final][-1:] == sent["i"][-1:]
    assert [event for event in pictures if event.final] == sent["f"]
    assert [event.raw for event in pictures] == sorted(event.raw for event in pictures)
    gaps = [later - sooner for (sooner, _), (later, _) in pairwise(steps)]
    assert all(gap >= EVERY - 1e-6 for gap in gaps[:-1])


def test_a_throttled_event_is_delivered_at_its_time(clock):
    """Though no other event comes."""
    called = Called(clock, "on_progress", every=EVERY)
    assert called.caller.take(step(1)) == math.inf
    clock.now += 0.4
    assert called.caller.take(step(2)) == pytest.approx(0.6)
    assert called.caller.take(step(3)) == pytest.approx(0.6)
    clock.now += 0.6
    assert called.caller.tick() == math.inf
    assert [event.value for _, event in called.of("on_progress")] == [1, 3]


@pytest.mark.parametrize("every", [None, 0])
def test_without_a_pace_all_are_called_at_once(clock, every):
    """In the order in which they come."""
    called = Called(clock, "on_event", "on_progress", every=every)
    for value in range(5):
        assert called.caller.take(step(value)) == math.inf
    assert [name for name, *_ in called.calls] == ["on_event", "on_progress"] * 5


def test_callbacks_without_a_time_need_no_ticks(clock):
    """So that nobody is woken for nothing."""
    assert not Callbacks(on_event=print, on_progress=print, on_output=print).are_timed
    for more in ({"on_start": print}, {"on_queue": print}, {"every": 1}):
        assert Callbacks(on_progress=print, **more).are_timed


@pytest.mark.parametrize(
    "event",
    [
        Executing(name="executing", prompt_id="the-id", node="3"),
        execution_error({"prompt_id": "the-id", "exception_type": "ValueError"}),
        SUCCESS,
    ],
)
def test_on_start_is_called_once_before_the_event_that_shows_it(clock, event):
    """An event, the socket's start of which was lost; the verdict; or what HTTP has seen."""
    called = Called(clock, "on_start", "on_event")
    if isinstance(event, Executing):
        called.begin()
    called.caller.take(event)
    called.caller.take(SUCCESS)
    called.caller.tick()
    called.end()
    assert [name for name, *_ in called.calls] == ["on_start", "on_event", "on_event"]
    assert called.of("on_start")[0][1] is called.job


def test_on_start_is_called_when_http_has_seen_the_job_run(clock):
    """At the next tick."""
    called = Called(clock, "on_start")
    assert called.caller.tick() < 1
    called.begin()
    assert called.caller.tick() == math.inf
    assert len(called.calls) == 1


def test_on_start_is_not_called_for_a_lost_job(clock):
    """Nor has what somebody deleted."""
    called = Called(clock, "on_start", "on_event", "on_queue")
    called.caller.take(JobLostEvent(name="job_lost", prompt_id="the-id"))
    called.end(ValueError("lost"))
    assert called.caller.tick() == math.inf
    assert [name for name, *_ in called.calls] == ["on_event"]


def test_places_are_called_as_they_change(clock, monkeypatch):
    """Not before something is known since the submission; not again after the start."""
    called = Called(clock, "on_queue", "on_start")
    place = [2]
    news = [None]
    monkeypatch.setattr(called.job.handle, "queue_news", lambda: news[0])
    monkeypatch.setattr(type(called.job), "queue_position", property(lambda job: place[0]))
    called.caller.tick()
    assert called.calls == []
    for news[0], place[0] in (((1,), 2), ((1,), 2), ((2,), 2), ((3,), 1), ((4,), 3), ((5,), None)):
        called.caller.tick()
    assert [value for _, value in called.of("on_queue")] == [2, 1, 3]
    place[0] = 0
    called.caller.tick()  # nothing seems to have changed ...
    assert len(called.calls) == 3
    clock.now += 5
    called.caller.tick()  # ... but it is counted again now and then
    assert [value for _, value in called.of("on_queue")] == [2, 1, 3, 0]
    called.begin()
    called.caller.tick()
    news[0], place[0] = (6,), 7
    called.caller.tick()
    assert [name for name, *_ in called.calls][4:] == ["on_start"]


def test_an_output_that_says_nothing_is_none(clock):
    """Of a node that was cached and has nothing to show, or of no node."""
    called = Called(clock, "on_output")
    said = {"text": ["hello"]}
    for node, output in (("3", None), (None, said), ("3", said)):
        event = Executed(name="executed", prompt_id="the-id", node=node, output=output)
        called.caller.take(event)
    [(_, output)] = called.of("on_output")
    assert (output.node_id, output.title, output.texts) == ("3", "Sampler", ("hello",))


@pytest.mark.parametrize("every", [True, False, "1"])
def test_the_option_every_is_a_number_of_seconds(every: Any) -> None:
    """True is none."""
    with pytest.raises(TypeError, match="every must be a number of seconds"):
        Callbacks(every=every)
