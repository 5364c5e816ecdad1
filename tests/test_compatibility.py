"""The table of what the contract tests found on each version."""

from __future__ import annotations

import json

import pytest

from tests.compatibility import DATA, TOPICS, VERSIONS, cell, read, rst, version_of
from tests.guide import text_of

REPORT = """<?xml version="1.0" encoding="utf-8"?>
<testsuites><testsuite name="pytest" timestamp="2026-11-29T20:00:00.000000+00:00">
<testcase classname="tests.contract.test_job" name="test_a[2024-03-x]" />
<testcase classname="tests.contract.test_job" name="test_b[2024-03-x]"><failure /></testcase>
<testcase classname="tests.contract.test_job" name="test_b[given]"><skipped /></testcase>
<testcase classname="tests.contract.test_job" name="test_a[embedded-0.3.75]" />
<testcase classname="tests.contract.test_runs" name="test_a[given]" />
<testcase classname="tests.behaviour.test_cli" name="test_a[0.3.75]" />
</testsuite></testsuites>
"""


def test_the_guide_shows_the_results_that_were_kept() -> None:
    """``python -m tests.compatibility REPORT --write`` keeps them, and rewrites the table."""
    results = json.loads(DATA.read_text("utf-8"))
    assert rst(results) in text_of("compatibility")
    assert results.keys() == set(VERSIONS)


def test_the_topics_name_modules_that_there_are() -> None:
    modules = {path.stem.removeprefix("test_") for path in DATA.parent.glob("contract/test_*.py")}
    named = [module for topic in TOPICS.values() for module in topic]
    assert len(set(named)) == len(named)
    assert set(named) <= modules


def test_a_report_has_the_outcomes_on_each_real_server() -> None:
    """Embedded servers and other tests do not count."""
    found = read(REPORT, given="0.33.0")
    assert found == {
        "2024-03": {"on": "2026-11-29", "tests": {"job": {"passed": 1, "failed": 1}}},
        "0.33.0": {
            "on": "2026-11-29",
            "tests": {"job": {"skipped": 1}, "runs": {"passed": 1}},
        },
    }
    (row,) = [line for line in rst(found).splitlines() if line.startswith("prompts, jobs")]
    cells = ["1, 1 failed", *["none"] * 5, "1, 1 skipped"]
    assert row.removeprefix("prompts, jobs and results").split("  ")[-1].strip() == cells[-1]
    assert [part.strip() for part in row.split("  ") if part.strip()][1:] == cells


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("test_a[0.3.52]", "0.3.52"),
        ("test_a[2024-03-get_queue]", "2024-03"),
        ("test_a[x-0.3.75]", "0.3.75"),
        ("test_a[embedded-0.3.75]", None),
        ("test_a[given-1]", "0.28.1"),
        ("test_a", None),
    ],
)
def test_a_parameter_names_the_real_server(name: str, version: str | None) -> None:
    assert version_of(name, "0.28.1") == version


def test_a_cell_says_what_did_not_pass() -> None:
    assert cell({}) == "none"
    assert cell({"passed": 3}) == "3"
    assert cell({"passed": 3, "skipped": 2, "failed": 1}) == "3, 1 failed, 2 skipped"
