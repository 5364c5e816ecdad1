"""The floor of the coverage, which ``python -m tests.coverage`` holds."""

from __future__ import annotations

import configparser
from pathlib import Path

import pytest

import comfy_client
from tests.coverage import MARGIN, verdict
from tests.guide import README


@pytest.mark.parametrize(
    ("total", "words"),
    [(97.89, "below 97.90 %"), (97.9, None), (97.9 + MARGIN, None), (98.91, "raise fail_under")],
)
def test_a_total_must_be_at_the_floor_or_a_little_above(total: float, words: str | None) -> None:
    said = verdict(total, 97.9)
    assert said is None if words is None else said is not None and words in said


def test_coverage_leaves_out_no_code() -> None:
    """No pragma, no file, no kind of line but those that coverage leaves out by itself."""
    config = configparser.ConfigParser()
    config.read(README.with_name("setup.cfg"), encoding="utf-8")
    run, report = config["coverage:run"], config["coverage:report"]
    assert run.getboolean("branch")
    assert not {"omit", "include", "exclude_lines", "exclude_also"} & {*run, *report}
    package = Path(comfy_client.__file__).parent
    assert not [path for path in package.rglob("*.py") if "pragma: no" in path.read_text("utf-8")]
