"""A list of results in a notebook: ``list(api.map(...))`` shows its pictures."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from IPython.core.formatters import DisplayFormatter

from comfy_client import ComfyApi, ComfyError, ComfyPool, Result
from comfy_client.testing import ComfyServer
from tests.helpers.gates import gated, saves, shows
from tests.helpers.notebooks import NUMBERS

SEEDS = [saves(color) for color in range(3)]


class Own(list[Any]):
    """A list of another library, which shows itself."""

    def _repr_html_(self) -> str:
        return "<p>own</p>"


@pytest.fixture
def formatter(monkeypatch: pytest.MonkeyPatch) -> DisplayFormatter:
    """IPython's own, in a kernel."""
    formatter = DisplayFormatter()
    shell = SimpleNamespace(
        kernel=object(), execution_count=next(NUMBERS), display_formatter=formatter
    )
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    return formatter


@pytest.fixture(scope="module")
def server() -> Iterator[ComfyServer]:
    with gated() as server:
        yield server


@pytest.fixture
def api(server: ComfyServer) -> Iterator[ComfyApi]:
    with ComfyApi(server.url) as api:
        yield api


def shown(formatter: DisplayFormatter, value: object) -> str | None:
    """The HTML with which a cell would show a value."""
    html: str | None = formatter.format(value)[0].get("text/html")
    return html


def test_the_list_of_a_map_shows_pictures(formatter: DisplayFormatter, api: ComfyApi) -> None:
    """And stays a list."""
    results = list(api.map(SEEDS, progress=False))
    page = shown(formatter, results)
    assert page is not None
    assert page.count("<img") == 3
    assert "3 results" in page
    assert type(results) is list
    assert formatter.format(results)[0]["text/plain"].startswith("[<Result ")
    assert "2 results" in str(shown(formatter, results[1:]))


def test_the_list_of_a_pools_map_does_too(formatter: DisplayFormatter, api: ComfyApi) -> None:
    with ComfyPool([api]) as pool:
        assert str(shown(formatter, list(pool.map(SEEDS, progress=False)))).count("<img") == 3


def test_kept_errors_stand_below(formatter: DisplayFormatter, api: ComfyApi) -> None:
    bad = {"1": {"class_type": "NoSuchClass", "inputs": {}}}
    found = list(api.map([shows("hello"), bad], on_error="keep", progress=False))
    page = str(shown(formatter, found))
    assert "hello" in page
    assert "1 result, 1 failed" in page
    assert "NoSuchClass" in page


def test_lists_of_other_values_are_shown_as_ever(
    formatter: DisplayFormatter, api: ComfyApi
) -> None:
    (result,) = api.map([shows()], progress=False)
    assert isinstance(result, Result)
    for other in ([], [1], [result, 1], [ComfyError("x")], (result,)):
        assert shown(formatter, other) is None
    assert shown(formatter, Own([result])) == "<p>own</p>"


class Lazy:
    """An element that notes whether somebody asks for its class."""

    asked = 0

    @property
    def __class__(self) -> Any:
        Lazy.asked += 1
        return int


class Answering(list[Any]):
    """A list that has every attribute, and counts the elements that are looked at."""

    looks = 0

    def __getattr__(self, name: str) -> str:
        return f"field {name}"

    def __iter__(self) -> Iterator[Any]:
        for one in super().__iter__():
            self.looks += 1
            yield one


def test_lists_of_other_values_are_hardly_looked_at(
    formatter: DisplayFormatter, api: ComfyApi, capsys: pytest.CaptureFixture[str]
) -> None:
    """They may be long, of lazy elements, or of classes that have any attribute."""
    list(api.map([], progress=False))
    html = formatter.formatters["text/html"]
    numbers = Answering(range(1000))
    assert html(numbers) is None
    assert capsys.readouterr() == ("", "")
    assert numbers.looks == 1
    assert html([Lazy()]) is None
    assert Lazy.asked == 0


def test_list_formatters_of_other_programs_stay(formatter: DisplayFormatter, api: ComfyApi) -> None:
    formatter.formatters["text/html"].for_type(list, lambda values: "theirs")
    assert shown(formatter, list(api.map([shows()], progress=False))) == "theirs"
