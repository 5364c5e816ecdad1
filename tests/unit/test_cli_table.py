"""How a table is cut to a number of characters."""

from __future__ import annotations

import unicodedata

import pytest

from comfy_client.cli.printing import table

ACCENT = "e\u0301"
UUIDS = ["01234567-89ab-4def-8123-456789abcdef", "01234567-89ac-4def-8123-456789abcdef"]
OWN = "fedcba98-7654-4210-8123-456789abcdef*"
NAMED = "project-2026-12-001-the-first-night-of-all"


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Prints a table on a terminal of some columns, and returns its lines."""

    def show(rows, head, columns: int) -> list[str]:
        monkeypatch.setattr("sys.stdout.isatty", lambda: True)
        monkeypatch.setenv("COLUMNS", str(columns))
        table(rows, head)
        return capsys.readouterr().out.splitlines()

    return show


def test_the_widest_column_is_cut_and_the_first_one_last(shown) -> None:
    rows = [("a" * 20, "b" * 30, "c" * 10), ("a", "b", "c")]
    assert shown(rows, ("A", "B", "C"), 50) == [
        "A" + " " * 21 + "B" + " " * 17 + "C",
        f"{'a' * 20}  {'b' * 13}...  {'c' * 10}",
        f"a{' ' * 21}b{' ' * 17}c",
    ]
    assert shown(rows, ("A", "B", "C"), 36)[1] == f"{'a' * 11}...  {'b' * 6}...  {'c' * 6}..."


def test_columns_without_room_are_left_out_and_marked(shown) -> None:
    rows = [("a" * 20, "b" * 30, "c" * 10)]
    assert shown(rows, ("A", "B", "C"), 30) == [
        f"A{' ' * 15}B{' ' * 10}...",
        f"{'a' * 11}...  {'b' * 6}...",
    ]
    assert shown(rows, ("A", "B", "C"), 15)[1] == f"{'a' * 7}..."


def test_wide_characters_take_two_columns_and_combining_ones_none(shown) -> None:
    rows = [("長い詩は、とても", ACCENT * 10), ("x", "y")]
    assert shown(rows, ("A", "B"), 28) == [
        f"A{' ' * 17}B",
        f"長い詩は、とても  {ACCENT * 10}",
        f"x{' ' * 17}y",
    ]
    assert shown(rows, ("A", "B"), 20)[1] == f"長い詩...  {ACCENT * 6}..."


def ids(shown, *ids: str) -> list[str]:
    """Return ids as a column shows them."""
    return shown([(one,) for one in ids], ("ID",), 80)[1:]


def test_uuids_are_as_long_as_it_takes_to_tell_them_apart(shown) -> None:
    """Eight characters at least; the mark of one's own stays."""
    assert ids(shown, *UUIDS, OWN) == ["01234567-89ab", "01234567-89ac", "fedcba98-7654*"]
    assert ids(shown, UUIDS[0], OWN) == ["01234567", "fedcba98*"]
    assert ids(shown, UUIDS[0], UUIDS[0][:8]) == ["01234567-", "01234567"]


def test_ids_that_are_no_uuids_stay_whole(shown) -> None:
    """``prompt-1`` would be another prompt than ``prompt-10``."""
    for one in ("prompt-10", "prompt-10*", "0123456789abcdef", UUIDS[0].upper(), "a"):
        assert ids(shown, one) == [one]


def test_ids_are_neither_cut_nor_left_out(shown) -> None:
    """However narrow the window is."""
    head, row = ("STATUS", "ID", "NODES", "SINCE"), ("interrupted", NAMED, "123456", "3 minutes")
    for columns in (5, 20, 40, 60):
        assert NAMED in shown([row], head, columns)[1]
    assert shown([row], head, 40) == [
        f"STATUS{' ' * 5}ID{' ' * len(NAMED)}...",
        f"interr...  {NAMED}",
    ]


def test_a_table_may_have_whole_ids(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    table([(UUIDS[0],)], ("ID",), is_short=False)
    assert capsys.readouterr().out.split() == ["ID", UUIDS[0]]


def test_a_long_cell_is_cut_in_one_pass(monkeypatch: pytest.MonkeyPatch, shown) -> None:
    """Combining characters take no room, so that a cell may have any number of them."""
    looked = []
    combining = unicodedata.combining
    monkeypatch.setattr("unicodedata.combining", lambda char: looked.append(1) or combining(char))
    cell = ACCENT[1] * 1000 + "a" * 100
    assert shown([(cell,)], ("A",), 20)[1] == ACCENT[1] * 1000 + "a" * 17 + "..."
    assert len(looked) < 10 * len(cell)
