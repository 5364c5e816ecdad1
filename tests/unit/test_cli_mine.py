"""Prompts of an installation are found again by the id that they carry."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from comfy_client.cli.mine import is_mine, mark, state_path


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)


def test_the_id_is_made_when_something_is_submitted_and_stays():
    """Only its owner can read it; looking at a queue makes none."""
    assert not is_mine()({"comfy_client_cli": None})
    assert not state_path().exists()
    marked = mark()
    assert mark() == marked
    assert is_mine()(marked)
    assert not is_mine()({})
    assert stat.S_IMODE(state_path().stat().st_mode) == 0o600
    assert [path.name for path in state_path().parent.iterdir()] == ["id"]


def test_a_file_that_holds_no_id_is_replaced():
    """As after a full disk."""
    state_path().parent.mkdir(parents=True)
    state_path().write_text("nonsense")
    marked = mark()
    assert is_mine()(marked)


def test_without_a_place_for_it_prompts_are_marked_all_the_same(monkeypatch):
    """They are nobody's later."""
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/nowhere")
    assert mark() != mark()
    assert not is_mine()(mark())


def test_the_place_is_that_of_the_standard(tmp_path, monkeypatch):
    """A relative one does not count."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert state_path() == tmp_path / "state" / "comfy-client" / "id"
    monkeypatch.setenv("XDG_STATE_HOME", "state")
    assert state_path() == tmp_path / ".local" / "state" / "comfy-client" / "id"
