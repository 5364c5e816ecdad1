"""The changes that ``comfy-client watch`` shows, and how much it reads to find them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from comfy_client import ComfyApi
from comfy_client.cli.watch_command import LiveQueue
from comfy_client.testing import ComfyServer
from tests.conftest import load_workflow
from tests.helpers.clients import LIMIT, until
from tests.helpers.servers import add_test_content

FAILS = load_workflow("fail")


@pytest.fixture(scope="module")
def server() -> Iterator[ComfyServer]:
    with ComfyServer(step_seconds=0.0) as server:
        add_test_content(server)
        yield server


@pytest.fixture
def api(server: ComfyServer) -> Iterator[ComfyApi]:
    with ComfyApi(server.url) as api:
        api.clear_history()
        yield api


def run(api: ComfyApi, number: int) -> list[str]:
    """Run prompts that fail immediately; return their ids."""
    jobs = [api.submit(FAILS) for _ in range(number)]
    await_records(api)
    return [job.prompt_id for job in jobs]


def await_records(api: ComfyApi) -> None:
    """Wait until the history has all prompts, a moment after their end events."""
    until(lambda: api.poll_status(LIMIT).queue_remaining == 0)


def seen(queue: LiveQueue) -> list[tuple[str, str]]:
    return [(change["prompt_id"], change["status"]) for change in queue.look()]


def test_prompts_that_come_and_end_between_two_looks_are_shown_once(api):
    """In the order of their ends; prompts that had ended before are not shown."""
    run(api, 3)
    queue = LiveQueue(api)
    assert seen(queue) == []
    for number in (1, 40, 2):
        ended = run(api, number)
        assert seen(queue) == [(one, "failed") for one in ended]
        assert seen(queue) == []


def test_no_more_of_the_history_is_read_than_shows_that_nothing_is_missing(server, api):
    """Two entries while nothing ends, however long the history is."""
    run(api, 100)
    queue = LiveQueue(api)
    assert seen(queue) == []

    def asked_for() -> list[int]:
        found = [one for one in server.requests if (one.method, one.path) == ("GET", "/history")]
        return [int(one.query["max_items"]) for one in found]

    before = len(asked_for())
    assert seen(queue) == []
    run(api, 20)
    assert len(seen(queue)) == 20
    run(api, 20)
    assert len(seen(queue)) == 20
    assert asked_for()[before:] == [2, 2, 8, 32, 22]


def test_after_the_history_was_cleared_only_new_prompts_are_shown(api):
    """Prompts that had ended are not shown again."""
    run(api, 5)
    queue = LiveQueue(api)
    assert seen(queue) == []
    api.clear_history()
    assert seen(queue) == []
    ended = run(api, 3)
    assert seen(queue) == [(one, "failed") for one in ended]


def test_of_more_prompts_than_may_be_read_the_latest_are_shown(api, capsys):
    """A note says that there were more."""
    run(api, 1)
    queue = LiveQueue(api, most=10)
    assert seen(queue) == []
    ended = run(api, 15)
    assert seen(queue) == [(one, "failed") for one in ended[-10:]]
    assert "Some prompts have ended that are not shown" in capsys.readouterr().err
    assert seen(queue) == []


def test_a_history_that_is_too_large_to_read_does_not_end_the_watching(server, capsys):
    """Prompts in the queue are still shown."""
    big = load_workflow("fail", message="x" * 40_000)
    with ComfyApi(server.url, max_json=60_000) as small:
        small.clear_history()
        queue = LiveQueue(small)
        assert seen(queue) == []
        [first] = run(small, 1)
        assert seen(queue) == [(first, "failed")]
        for _ in range(2):
            small.submit(big)
        await_records(small)
        assert seen(queue) == []
        assert "too large" in capsys.readouterr().err
        small.clear_history()
        assert seen(queue) == []


def test_prompts_that_were_deleted_while_they_waited_are_shown_as_gone(server, api):
    """No request is made for each of them."""
    graph: dict[str, Any] = load_workflow("sleep", seconds=60.0, ticks=600)
    runs = api.submit(graph)
    # Not as jobs, of which the client would ask what became of them.
    posted = [api.fetch_api("/prompt", "POST", json={"prompt": FAILS}) for _ in range(5)]
    waiting = [answer.json()["prompt_id"] for answer in posted]
    server.until(lambda: server.running, 60)
    queue = LiveQueue(api)
    assert seen(queue) == [(runs.prompt_id, "running"), *((one, "pending") for one in waiting)]
    api.clear_queue()
    before = len(server.requests)
    assert seen(queue) == [(one, "gone") for one in waiting]
    about = [one for one in server.requests[before:] if one.path.startswith("/history/")]
    assert not [one for one in about if one.path.rpartition("/")[2] in waiting]
    runs.cancel()
    await_records(api)
    assert seen(queue) == [(runs.prompt_id, "interrupted")]
