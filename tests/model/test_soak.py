"""Random schedules of all scenarios, for as long as ``--soak-seconds`` says."""

from __future__ import annotations

import pytest

from tests.model.explore import SCENARIOS, explore, seeds_for


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_random_schedules_end_as_they_must(request: pytest.FixtureRequest) -> None:
    seeds = seeds_for(request.config.getoption("--soak-seconds"))
    for test in explore(SCENARIOS.values(), seeds):
        assert test is None, f"keep it in tests/model/test_kept.py:\n{test}"
