"""What the workflows of continuous integration run, and on what."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / ".github" / "workflows"


@pytest.mark.parametrize("name", ["ci.yml", "release.yml"])
def test_every_action_is_pinned(name: str) -> None:
    """By its commit, as a tag may be moved."""
    used = re.findall(r"uses: (\S+)", (FOLDER / name).read_text("utf-8"))
    assert used
    assert [one for one in used if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", one)] == []


def test_windows_and_macos_run_what_can_be_run_there() -> None:
    """``.ci/run`` is for Linux."""
    text = (FOLDER / "ci.yml").read_text("utf-8")
    job = text[text.index("  others:") :]
    assert "os: [windows-latest, macos-latest]" in job
    assert "python -m pytest tests/unit tests/behaviour" in job
    assert ".ci/run" not in job
