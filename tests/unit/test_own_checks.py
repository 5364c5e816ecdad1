"""Checks that node classes of ComfyUI make of their own inputs, in the words of the server."""

from __future__ import annotations

from typing import Any

import pytest

from comfy_client.workflow.rules import own_check

STILL = dict.fromkeys(
    ("horizontal_movement", "vertical_movement", "pan", "tilt", "roll", "zoom"), 0.0
)
SWITCH, CAMERA, TRIPO = "ComfySoftSwitchNode", "KlingCameraControls", "TripoConversionNode"


@pytest.mark.parametrize(
    ("class_type", "inputs", "says"),
    [
        (SWITCH, {"switch": True, "on_true": 1}, None),
        (SWITCH, {"switch": True}, "At least one of on_false or on_true must be connected"),
        (CAMERA, {**STILL, "pan": 0.1}, None),
        (CAMERA, STILL, "at least one of the values must be non-zero"),
        (TRIPO, {"input_types": {"original_model_task_id": "RIG_TASK_ID"}}, None),
        (
            TRIPO,
            {"input_types": {"original_model_task_id": "IMAGE"}},
            "must be MODEL_TASK_ID, RIG_TASK_ID or RETARGET_TASK_ID type",
        ),
    ],
)
def test_a_class_refuses_what_it_cannot_use(
    class_type: str, inputs: dict[str, Any], says: str | None
) -> None:
    check = own_check(class_type, {}, (), lambda _: None, stays_inside=True)
    assert check is not None
    answer = check(**inputs)
    if says is None:
        assert answer is True
    else:
        assert says in str(answer)
