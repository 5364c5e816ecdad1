"""Packs of the embedded server say what the real ones said: see ``tests/fidelity/packs.py``."""

from __future__ import annotations

import re

import pytest

from tests.fidelity.packs import KINDS, LEFT, Case, cases, play, recorded


@pytest.mark.parametrize("case", [*cases()], ids=str)
def test_a_manager_answers_as_was_recorded(case: Case) -> None:
    played = play(case)
    assert played.differences == []
    assert played.compared


def test_each_recording_of_a_manager_is_played() -> None:
    played = [(case.folder, name) for case in cases() for name in case.names]
    folders = {folder for folder, _ in played}
    assert sorted(played) == sorted((one, name) for one in folders for name in recorded(one))


@pytest.mark.parametrize("pattern", [*LEFT, *KINDS])
def test_each_exception_from_the_recordings_is_needed(pattern: str) -> None:
    lines = [
        f"{name} {row['method']} {row['path']}"
        for folder in {case.folder for case in cases()}
        for name, rows in recorded(folder).items()
        for row in rows
        if row["kind"] == "http"
    ]
    assert any(re.fullmatch(pattern, line) for line in lines)
