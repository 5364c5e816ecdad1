"""Servers of early 2024."""

from __future__ import annotations

import blinker
import pytest

from tests.conftest import load_workflow
from tests.helpers.clients import (
    LIMIT,
    Fast,
    Heard,
)
from tests.helpers.recordings import recording


@pytest.mark.parametrize("name", ["normal_previews", "cached_rerun"])
@pytest.mark.parametrize("transport", ["auto", "poll"])
def test_a_server_of_early_2024_gives_results(comfy, name, transport):
    """It knows no ``execution_success``, and sends no ``executed`` for cached nodes."""
    comfy.faults.other_prompt_ids()
    comfy.script(*recording("2024-03", name).steps)
    with Fast(comfy.url, transport=transport, namespace=blinker.Namespace()) as api:
        told = Heard(api)
        result = api.run(load_workflow("txt2img_tiny"), timeout=LIMIT)
        assert len(result["Save"].images) == 1
        assert result.complete
        assert [e.name for e in told.ends()] == ["execution_success"]
