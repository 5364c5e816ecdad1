from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _no_finalizer_of_another_test_reads_the_simulated_clock() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
