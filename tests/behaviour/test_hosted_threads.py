"""The threads of a hosted client: its poller, its streams, and those of its callers."""

from __future__ import annotations

import contextlib
import gc
import threading
import uuid
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import blinker
import pytest

from comfy_client import HostedApi
from comfy_client.errors import ComfyError
from comfy_client.hosted.assets import KnownAssets
from comfy_client.hosted.job_poller import HostedPoller
from comfy_client.hosted.models import HostedJob, ServerEvent
from comfy_client.jobs.prompt import JobEvents, Prompt
from comfy_client.jobs.state import PromptState
from tests.helpers.clients import LIMIT, threads, until
from tests.helpers.hosted import embedded, picture

ID = "01234567-89ab-4def-8123-456789abcdef"


@pytest.fixture
def api() -> Iterator[HostedApi]:
    """A client that asks nothing by itself."""
    with contextlib.closing(HostedApi("http://127.0.0.1:9", "")) as client:
        yield client


class LateRoutes:
    """The routes of a server whose event stream ends while it answers a question."""

    def __init__(self) -> None:
        self.told = threading.Event()

    def job(self, job_id: str) -> HostedJob:
        assert self.told.wait(LIMIT)
        return HostedJob(job_id, "running")

    @contextlib.contextmanager
    def events(self, job_id: str, **_: Any) -> Iterator[Iterator[ServerEvent]]:
        yield self._events()

    def _events(self) -> Iterator[ServerEvent]:
        yield ServerEvent("status", {"status": "succeeded"})
        self.told.set()


def poller_of(api: HostedApi, routes: object) -> HostedPoller:
    submission: Any = SimpleNamespace()
    given: Any = routes
    return HostedPoller(api.parts.tracker, given, submission, 40.0)


def test_an_end_streamed_during_a_question_is_asked_about_again(api: HostedApi) -> None:
    """The answer to that question is older than the end."""
    tracker = api.parts.tracker
    one = tracker.new(ID, {"1": {}})
    one.state.accepted_at = -1.0
    tracker.add(one)
    poller_of(api, LateRoutes()).ask([one], [one])
    assert one.state.wanted_at > 0.0


class WatchedState(PromptState):
    """A state that calls a function when it is asked whether its prompt has ended."""

    call: Callable[[], object] | None = None

    @property
    def decided(self) -> bool:
        call, self.call = self.call, None
        if call is not None:
            call()
        return False

    @decided.setter
    def decided(self, value: bool) -> None:
        pass


def test_cancel_from_another_thread_while_the_poller_looks_is_safe(api: HostedApi) -> None:
    """Which adds to what is known of jobs."""
    tracker = api.parts.tracker
    poller = poller_of(api, LateRoutes())
    state = WatchedState(ID, {}, tracker.budget, tracker.timing)
    tracker.add(Prompt(state, JobEvents(tracker.budget)))
    poller.give_up(ComfyError("no answer"))

    def add() -> None:
        tracker.add(tracker.new(ID[::-1], {}))
        poller.give_up(ComfyError("no answer"))

    state.call = add
    poller.ask([], [])
    assert state.call is None


class SlowName(str):
    """A name of which another thread is computing the hash."""

    hashing = threading.Event()
    go_on = threading.Event()

    def __hash__(self) -> int:
        self.hashing.set()
        self.go_on.wait(LIMIT)
        return super().__hash__()


def test_uploads_hold_no_lock_that_a_fork_could_leave_held() -> None:
    """What one thread looks up keeps no other waiting."""
    known = KnownAssets()
    slow = threading.Thread(target=known.get, args=((SlowName("a"), ""), 1), daemon=True)
    quick = threading.Thread(target=known.get, args=(("b", ""), 1), daemon=True)
    slow.start()
    try:
        assert SlowName.hashing.wait(LIMIT)
        quick.start()
        quick.join(LIMIT / 2)
        assert not quick.is_alive()
    finally:
        SlowName.go_on.set()
        slow.join(LIMIT)


def test_a_forgotten_client_takes_its_streams_along() -> None:
    """Though its job goes on, and its stream is open."""
    with embedded() as place:
        api = HostedApi(place.url, namespace=blinker.Namespace())
        job = api.submit(picture(uuid.uuid4().hex, LIMIT))
        until(lambda: "comfy-stream" in [thread.name for thread in threads()])
        del api, job
        until(lambda: gc.collect() >= 0 and threads() == [])
