"""The lane under wine, without wine."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.windows import LEFT_OUT, OLDER, WITHOUT, main, requirements, summary

TESTS = Path(__file__).parent.parent
REPORT = """<testsuites><testsuite>
<testcase classname="tests.unit.test_a" name="one"/>
<testcase classname="tests.unit.test_a" name="two"><failure/></testcase>
<testcase classname="tests.unit.test_b" name="one"><error/></testcase>
<testcase classname="tests.unit.test_b" name="two"><skipped/></testcase>
</testsuite></testsuites>"""


@pytest.mark.posix("a PATH without wine")
def test_missing_programs_are_named(monkeypatch, capsys) -> None:
    """Nothing is set up or run."""
    monkeypatch.setenv("PATH", "")
    assert main([]) == 2
    assert capsys.readouterr().err != ""


def test_wine_gets_what_it_can_load() -> None:
    """The rest of what setup.cfg names."""
    found = requirements()
    assert {*OLDER.values()} <= {*found}
    assert not [one for one in found if one.startswith(tuple(WITHOUT))]
    assert [one for one in found if one.startswith("requests")]
    assert [one for one in found if one.startswith("pytest-xdist")]


def test_the_summary_has_counts_and_files(tmp_path: Path) -> None:
    """Of failures and errors alike."""
    report = tmp_path / "report.xml"
    report.write_text(REPORT)
    expected = "4 tests, 2 failed, 1 skipped\n    1  tests.unit.test_a\n    1  tests.unit.test_b"
    assert summary(report) == expected


@pytest.mark.parametrize("name", LEFT_OUT)
def test_left_out_test_files_exist(name: str) -> None:
    """Otherwise it has another name now."""
    assert (TESTS / name).exists()
