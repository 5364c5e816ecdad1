"""That every row of the benchmark runs; how fast is no matter of a test."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from .__main__ import as_rst, line
from .measure import Figure, Row
from .rows import ROWS, Bench
from .servers import running, stub

if TYPE_CHECKING:
    from tests.comfyui import ComfyUI

NEED_A_SERVER = {"trivial", "round_trips", "requests", "in_flight"}


@pytest.fixture(scope="module")
def stub_url() -> Iterator[str]:
    with running(stub) as url:
        yield url


def check(rows: list[Row]) -> None:
    assert rows
    for row in rows:
        figure = row.figure
        assert all(math.isfinite(value) for value in (figure.value, figure.low, figure.high))
        assert row.count >= 1
        assert row.name in line(row)


@pytest.mark.parametrize("row", [row for row in ROWS if row.__name__ not in NEED_A_SERVER])
def test_a_row_gives_finite_figures(row: Callable[[Bench], list[Row]], stub_url: str) -> None:
    """One measurement of each side yields figures."""
    check(row(Bench(url="", stub=stub_url, pairs=1)))


@pytest.mark.real
@pytest.mark.parametrize("row", [row for row in ROWS if row.__name__ in NEED_A_SERVER])
def test_a_row_on_a_real_server_gives_finite_figures(
    row: Callable[[Bench], list[Row]], stub_url: str, comfyui: ComfyUI
) -> None:
    """One measurement of each side yields figures."""
    check(row(Bench(url=comfyui.url, stub=stub_url, pairs=1)))


def test_the_table_says_which_aim_was_missed() -> None:
    """A figure counts as it is shown: 1.004 reaches 1.00."""
    near = Row("near", Figure(1.004, 1.0, 1.1), "x", 1.0, 300)
    far = Row("far", Figure(44.0, 43.0, 45.0), "%", 45.0, 300, at_least=True)
    table = as_rst([near, far], "a machine").splitlines()
    assert [("missed" in text) for text in table if text.startswith(("near", "far"))] == [
        False,
        True,
    ]
