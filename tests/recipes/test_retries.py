"""The recipe of retries: what makes sense is tried again, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import stamina
from stamina.instrumentation import RetryDetails, set_on_retry_hooks

from comfy_client import ComfyApi, JobFailed, PromptRejected, ServerUnreachable
from comfy_client.testing import ComfyServer
from tests.helpers.recipes import painting
from tests.recipes.conftest import Load


@pytest.fixture
def retries() -> Iterator[list[RetryDetails]]:
    """Each further try of stamina, which does not wait before it."""
    made: list[RetryDetails] = []
    set_on_retry_hooks([made.append])
    with stamina.set_testing(True, attempts=3):
        yield made
    set_on_retry_hooks(None)


def test_a_server_that_comes_up_meanwhile_gets_the_prompt(
    comfy: ComfyServer, load: Load, retries: list[RetryDetails]
) -> None:
    """Once."""
    names = load("Retries")
    comfy.ran.clear()
    comfy.kill()

    def start(_: RetryDetails) -> None:
        comfy.start()

    set_on_retry_hooks([retries.append, start])
    with closing(ComfyApi(comfy.url)) as api:
        assert names["render"](api, "a mill").images
    assert [type(one.caused_by) for one in retries] == [ServerUnreachable]
    assert len(comfy.ran) == 1


def test_permanent_failures_are_not_tried_again(
    comfy: ComfyServer, load: Load, retries: list[RetryDetails]
) -> None:
    """A refused workflow, and a prompt that fails while it runs."""
    names = load("Retries")
    with ComfyApi(comfy.url) as api:
        with pytest.raises(JobFailed):
            names["render"](api, "fail")
        Path("txt2img.json").write_text(json.dumps(painting(steps=0)))
        with pytest.raises(PromptRejected):
            names["render"](api, "a mill")
    assert not retries
