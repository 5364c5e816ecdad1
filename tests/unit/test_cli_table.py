"""How a table is cut to a number of characters."""

from __future__ import annotations

import pytest

from comfy_client.cli import table_output

ACCENT = "e\u0301"
UUIDS = ["0123456789abcdef", "0123456789abcdee", "fedcba9876543210*"]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Prints a table on a terminal of some columns, and returns its lines."""

    def show(rows, head, columns: int) -> list[str]:
        monkeypatch.setattr("sys.stdout.isatty", lambda: True)
        monkeypatch.setenv("COLUMNS", str(columns))
        table_output.table(rows, head)
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


def test_ids_are_as_long_as_it_takes_to_tell_them_apart(shown) -> None:
    """Eight characters at least; the mark of one's own stays."""
    assert shown([(one,) for one in UUIDS], ("ID",), 80) == [
        "ID",
        "0123456789abcdef",
        "0123456789abcdee",
        "fedcba9876543210*",
    ]
    assert shown([(one,) for one in UUIDS[1:]], ("ID",), 80) == ["ID", "01234567", "fedcba98*"]
    assert shown([("a",), ("b",)], ("ID",), 80) == ["ID", "a", "b"]
