"""Other values for one run: ``api.run(workflow, {"KSampler.seed": 7})``."""

from __future__ import annotations

from typing import Any

import pytest

from comfy_client import ComfyApi, Workflow, WorkflowError
from comfy_client.testing import ComfyServer
from tests.helpers.graphs import txt2img


@pytest.mark.parametrize("kind", [Workflow, dict])
def test_run_and_submit_take_other_values_and_leave_the_workflow_as_it_is(api, kind) -> None:
    """The result has the seed that was run, whatever the workflow came as."""
    workflow = kind(txt2img())
    assert api.run(workflow, {"KSampler.seed": 7}).seeds == {"3": 7}
    job = api.submit(workflow, {"KSampler.seed": 8, "6.text": "a fox"})
    assert job.result(30).seeds == {"3": 8}
    assert job.graph["6"]["inputs"]["text"] == "a fox"
    assert workflow == kind(txt2img())


def test_a_wrong_name_is_raised_before_anything_is_sent(server: ComfyServer, api: ComfyApi) -> None:
    """With the nearest, and as an event."""
    events: list[Any] = []
    api.on("queue_error", events.append)
    for call in (api.run, api.submit):
        with pytest.raises(WorkflowError, match="no input 'sed'") as caught:
            call(txt2img(), {"KSampler.seed": 1, "KSampler.sed": 7})
        assert caught.value.candidates == ("seed",)
    assert not [
        one for one in server.requests if one.path.endswith("/prompt") and one.method == "POST"
    ]


def test_a_link_is_not_replaced_by_a_value(api: ComfyApi) -> None:
    """That is for Workflow.set and force=True."""
    with pytest.raises(WorkflowError, match="force=True"):
        api.run(txt2img(), {"KSampler.model": "x"})
