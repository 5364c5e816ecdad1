"""What tests of several modules need."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.helpers.station import Station


@pytest.fixture
def station() -> Iterator[Station]:
    made = Station()
    yield made
    made.receivers.close()
