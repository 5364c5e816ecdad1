"""Which prompt of a call is given up when the time of several is up, without any server."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from comfy_client.batch.map_loop import InFlight
from comfy_client.errors import JobTimeout
from tests.unit.test_job import tracked


@pytest.mark.parametrize("limit", ["timeout", "stall_timeout"])
def test_of_prompts_whose_time_is_up_the_one_that_runs_is_given_up(limit: str) -> None:
    """The others waited for it, and may still get their turn."""
    cancelled: list[str] = []

    def cancel(one: Any, **_: Any) -> bool:
        cancelled.append(one.state.prompt_id)
        return True

    flight = InFlight(lambda _: (), **{limit: 0.0})
    tracker: Any = None
    for name in ("waits", "runs", "waits too"):
        one, job = tracked(name, tracker=tracker)
        tracker = job.handle.poller.tracker
        job.handle.poller.cancel = cancel
        job.handle.poller.stops = SimpleNamespace(has=lambda _: False)
        one.state.posted_at, one.state.running_since = 1.0, 1.0 if name == "runs" else None
        flight.put(name, job)
    key, error = flight.look() or ("", None)
    assert isinstance(error, JobTimeout)
    assert (key, error.prompt_id, cancelled) == ("runs", "runs", ["runs"])
