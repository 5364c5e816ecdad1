"""The recipe of a webhook: the receiver hears of each end, once if all goes well."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from comfy_client import ComfyApi
from comfy_client.testing import ComfyServer
from tests.helpers.clients import until
from tests.helpers.receiver import Receiver, receiving
from tests.helpers.recipes import painting
from tests.recipes.conftest import Load

HOOK = "http://127.0.0.1:9000"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as server:
        yield server


def run(load: Load, receiver: Receiver, **inputs: Any) -> dict[str, Any]:
    """Run the recipe, whose workflow has other inputs of the node that reads the prompt."""
    graph = painting()
    graph["2"]["inputs"].update(inputs)
    return load("Webhook", graph, replaced={HOOK: receiver.url})


def test_the_receiver_gets_the_job_as_json(
    comfy: ComfyServer, load: Load, receiver: Receiver
) -> None:
    """With its id, its status and where its files are."""
    run(load, receiver)
    [request] = receiver.sent
    assert (request.method, request.path) == ("POST", "/done")
    job = json.loads(request.body)
    assert job["status"] == "succeeded"
    assert [job["prompt_id"]] == [ran.prompt_id for ran in comfy.ran]
    [file] = job["result"]["files"]
    assert file["url"].startswith(comfy.url)


def test_the_receiver_hears_of_a_failure(load: Load, receiver: Receiver) -> None:
    """With its code."""
    run(load, receiver, text="fail")
    [request] = receiver.sent
    job = json.loads(request.body)
    assert (job["status"], job["error"]["code"]) == ("failed", "job_failed")


def test_a_receiver_that_is_away_for_a_moment_is_told_again(load: Load, receiver: Receiver) -> None:
    """By the same request, which it knows by the id of the prompt."""
    receiver.statuses += [503, 502]
    run(load, receiver)
    first, *others = receiver.sent
    assert [one.body for one in others] == [first.body] * 2


def test_a_receiver_that_refuses_is_logged(
    comfy: ComfyServer, load: Load, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """It is asked once, as another try would be refused, too; the program goes on."""
    receiver.statuses += [403]
    with caplog.at_level(logging.ERROR):
        run(load, receiver)
    assert len(receiver.sent) == 1
    [record] = [one for one in caplog.records if one.name == "root"]
    assert comfy.ran[0].prompt_id in record.getMessage()
    assert "403" in record.getMessage()


def test_a_callback_of_a_later_process_is_called(
    comfy: ComfyServer, load: Load, receiver: Receiver
) -> None:
    """Of a job that has ended in the meantime, which it finds by its id."""
    names = run(load, receiver)
    [first] = receiver.sent
    with ComfyApi(comfy.url) as api:
        job = api.job(comfy.ran[0].prompt_id)
        job.add_done_callback(lambda _: names["tell"](job))
        until(lambda: len(receiver.sent) == 2)
    again = json.loads(receiver.sent[1].body)
    assert again["status"] == "succeeded"
    assert again["prompt_id"] == json.loads(first.body)["prompt_id"]


def test_the_end_of_the_client_is_no_end_of_the_job(
    comfy: ComfyServer, load: Load, receiver: Receiver
) -> None:
    """So nobody is told."""
    names = run(load, receiver)
    receiver.sent.clear()
    with comfy.faults.hang_worker():
        with ComfyApi(comfy.url) as api:
            job = api.submit("txt2img.json")
        names["tell"](job)
    assert receiver.sent == []
