"""``cancel`` with several prompts, and confirmation before much is deleted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from comfy_client import ComfyApi
from comfy_client.testing import ComfyServer
from tests.helpers.clients import until
from tests.helpers.command_line import CommandLine
from tests.helpers.gates import gated, shows, until_it_runs

UNKNOWN = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def server() -> Iterator[ComfyServer]:
    with gated() as server:
        yield server


@pytest.fixture
def api(server: ComfyServer) -> Iterator[ComfyApi]:
    with ComfyApi(server.url) as api:
        yield api


@pytest.fixture
def comfy_client(server: ComfyServer, tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path, server.url)


def queued(server: ComfyServer, api: ComfyApi, number: int) -> list[str]:
    """Submit prompts; the first one runs, and the others wait in the queue."""
    ids = [api.submit(shows(f"{n}", waits=True)).prompt_id for n in range(number)]
    until_it_runs(server)
    return ids


def requests_of(server: ComfyServer, path: str) -> list[tuple[str, Any]]:
    """Return the method and the JSON of each request to a path."""
    found = [request for request in server.requests if request.path == path]
    return [(one.method, json.loads(one.body) if one.body else None) for one in found]


def test_waiting_prompts_are_removed_by_one_request(comfy_client, server, api):
    """The queue is read once before and once after it; unknown prompts are reported."""
    ids = queued(server, api, 4)
    server.requests.clear()
    lines = comfy_client.json("cancel", *ids, UNKNOWN, ids[2], status=6)
    assert [(line["prompt_id"], line["cancelled"]) for line in lines] == [
        *((one, True) for one in ids[1:]),
        (ids[0], True),
        (UNKNOWN, False),
    ]
    *_, deletion = [one for one in requests_of(server, "/queue") if one[0] == "POST"]
    assert deletion[1] == {"delete": ids[1:]}
    looks = requests_of(server, "/queue").index(deletion)
    assert looks == 1
    assert len(server.ran) == 1


def test_abbreviated_ids_need_one_request_for_the_history_and_no_more_for_the_queue(
    comfy_client, server, api
):
    """The number of ids does not matter."""
    ids = queued(server, api, 3)
    server.requests.clear()
    ended = comfy_client("cancel", ids[1][:13], ids[2][:13])
    assert ended.lines == [f"{one} cancelled" for one in ids[1:]]
    assert [method for method, _ in requests_of(server, "/queue")] == ["GET", "POST", "GET"]
    assert requests_of(server, "/history") == [("GET", None)]


def _moved(found: Any) -> Any:
    """Return the queue as it was while its running prompt still waited."""
    return {"queue_running": [], "queue_pending": found["queue_running"] + found["queue_pending"]}


def test_a_prompt_that_begins_before_its_removal_is_interrupted(comfy_client, server, api):
    """The second request for the queue shows that it runs."""
    ids = queued(server, api, 2)
    with server.faults.rewrite("GET", "/queue", _moved, times=1):
        lines = comfy_client.json("cancel", *ids)
    assert [(line["prompt_id"], line["cancelled"]) for line in lines] == [
        (ids[1], True),
        (ids[0], True),
    ]
    server.until(lambda: server.ran[0].status == "error", 30.0)


def test_a_prompt_that_ends_before_its_removal_is_not_reported_as_cancelled(
    comfy_client, server, api
):
    """Its history record says that it has run."""
    prompt_id = api.run(shows("a")).prompt_id
    until(lambda: api.get_history(prompt_id) is not None)  # it comes after the last event
    item = [0, prompt_id, {}, {}, []]

    def stale(found: Any) -> Any:
        return {"queue_running": [], "queue_pending": [item]}

    with server.faults.rewrite("GET", "/queue", stale, times=1):
        [line] = comfy_client.json("cancel", prompt_id, status=6)
    assert line == {"prompt_id": prompt_id, "cancelled": False}


@pytest.mark.parametrize("args", [["cancel", "--all"], ["history", "--clear"]])
def test_commands_that_affect_all_users_need_yes_without_a_terminal(comfy_client, server, args):
    """Otherwise, nothing is sent."""
    server.requests.clear()
    [error] = comfy_client.json(*args, status=2)
    assert "needs --yes" in error["message"]
    assert not server.requests


@pytest.mark.posix("terminals as files")
def test_cancel_all_asks_on_a_terminal(comfy_client, server, api):
    """Without a yes, nothing is cancelled."""
    ids = queued(server, api, 2)
    ended = comfy_client.on_terminal("cancel", "--all", typed="n\n")
    assert ended.status == 1, ended
    assert "the answer was no: nothing was changed" in ended.out
    assert f"Cancel all prompts in the queue of {server.url}, whoever submitted them?" in ended.out
    assert [item.prompt_id for item in api.get_queue().pending] == ids[1:]
    ended = comfy_client.on_terminal("cancel", "--all", typed="y\n")
    assert ended.status == 0, ended
    assert f"{ids[1]} cancelled\n{ids[0]} cancelled\n" in ended.out
    assert len(server.ran) == 1


def test_an_empty_queue_is_noted_on_stderr(comfy_client):
    """The status is 0, as for scripts that cancel in any case."""
    ended = comfy_client("cancel", "--all", "--yes")
    assert (ended.status, ended.out, ended.err) == (0, "", "The queue is empty.\n")
    ended = comfy_client("cancel", "--all-mine")
    assert (ended.status, ended.out) == (0, "")
    assert ended.err == "Nothing of yours is in the queue.\n"


def test_the_history_is_cleared(comfy_client, api):
    """``--clear`` takes no options that filter the list."""
    api.run(shows("a"))
    ended = comfy_client("history", "--clear", "--yes")
    assert (ended.status, ended.err) == (0, "")
    assert ended.out == f"The history of {comfy_client.host} is empty now.\n"
    assert not api.get_histories()
    assert comfy_client.json("history", "--clear", "--yes") == []
    assert comfy_client("history", "--clear", "--yes", "--limit", 3).status == 2
