"""Prompts of an installation are found again by the id that they carry."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from comfy_client.cli.exits import Mistake
from comfy_client.cli.own_prompts import VARIABLE, is_mine, mark, state_path, why_unknown
from comfy_client.cli.profiles import Config, config_path, load_config


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    for name in ("XDG_STATE_HOME", "XDG_CONFIG_HOME", "APPDATA", "LOCALAPPDATA", VARIABLE):
        monkeypatch.delenv(name, raising=False)


def test_the_id_is_made_when_something_is_submitted_and_stays():
    """Only its owner can read it; looking at a queue makes none."""
    assert not is_mine()({"comfy_client_cli": None})
    assert not state_path().exists()
    marked = mark()
    assert mark() == marked
    assert is_mine()(marked)
    assert not is_mine()({})
    if os.name == "posix":
        assert stat.S_IMODE(state_path().stat().st_mode) == 0o600
    assert [path.name for path in state_path().parent.iterdir()] == ["id"]


def test_a_file_that_holds_no_id_is_replaced():
    """As after a full disk."""
    state_path().parent.mkdir(parents=True)
    state_path().write_text("nonsense")
    marked = mark()
    assert is_mine()(marked)


def test_without_a_place_for_it_prompts_are_marked_all_the_same(tmp_path, monkeypatch):
    """They are nobody's later."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file" / "nowhere"))
    assert mark() != mark()
    assert not is_mine()(mark())
    why = why_unknown()
    assert why is not None
    assert why.startswith(f"this installation has no id, as {state_path()} cannot")
    assert why.endswith(f"set {VARIABLE} to a name of your choice, or XDG_STATE_HOME to a folder")


def test_a_variable_sets_the_id_and_nothing_is_written(monkeypatch):
    """CI jobs or pods may share such an id."""
    monkeypatch.setenv(VARIABLE, "nightly/42")
    assert mark() == {"comfy_client_cli": "nightly/42"}
    assert is_mine()(mark())
    assert why_unknown() is None
    assert not state_path().exists()
    monkeypatch.setenv(VARIABLE, "")
    assert not is_mine()({"comfy_client_cli": ""})


@pytest.mark.parametrize("text", [" ", "a b", "\x1b[31m", "é", "x" * 201])
def test_an_id_that_is_no_single_printable_word_is_refused(monkeypatch, text):
    """Everybody sees it in the queue."""
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(Mistake, match=VARIABLE):
        mark()


@pytest.mark.posix("users with numbers")
@pytest.mark.parametrize("home", [None, "/dev/null", "/dev/null/home"])
def test_without_a_home_there_is_no_config_and_no_id(monkeypatch, home):
    """The user of a container, for example, may not even be known to the system."""
    import pwd  # Windows has none

    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.delenv("HOME") if home is None else monkeypatch.setenv("HOME", home)
    assert load_config() == Config(config_path())
    assert str(state_path()).startswith(os.devnull)
    assert not is_mine()(mark())
    assert why_unknown() is not None


def test_the_place_is_that_of_the_standard(tmp_path, monkeypatch):
    """A relative one does not count."""
    usual = state_path()
    assert usual.is_relative_to(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert state_path() == tmp_path / "state" / "comfy-client" / "id"
    monkeypatch.setenv("XDG_STATE_HOME", "state")
    assert state_path() == usual
