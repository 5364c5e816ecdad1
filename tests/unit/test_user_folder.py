"""Where the files of a user are, on each system."""

from __future__ import annotations

from pathlib import Path

import pytest

from comfy_client.user_folder import FolderKind, user_folder


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home, and no variables that name folders."""
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    for name in ("CONFIG", "STATE", "CACHE"):
        monkeypatch.delenv(f"XDG_{name}_HOME", raising=False)
    for name in ("APPDATA", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("platform", "config", "state", "cache"),
    [
        ("linux", ".config", ".local/state", ".cache"),
        ("darwin", "Library/Application Support", "Library/Application Support", "Library/Caches"),
        ("win32", "AppData/Roaming", "AppData/Local", "AppData/Local"),
    ],
)
def test_each_kind_of_file_is_where_the_system_has_it(
    platform: str, config: str, state: str, cache: str, home: Path
) -> None:
    """Below the user's home."""
    assert user_folder("config", platform) == home / config
    assert user_folder("state", platform) == home / state
    assert user_folder("cache", platform) == home / cache


@pytest.mark.parametrize(
    ("kind", "name"),
    [("config", "APPDATA"), ("state", "LOCALAPPDATA"), ("cache", "LOCALAPPDATA")],
)
def test_variables_of_windows_count_on_windows(
    kind: FolderKind, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A company may keep the profiles of its users on a network drive."""
    monkeypatch.setenv(name, str(tmp_path / "there"))
    assert user_folder(kind, "win32") == tmp_path / "there"
    assert user_folder(kind, "linux") != tmp_path / "there"


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
@pytest.mark.parametrize("kind", ["config", "state", "cache"])
def test_variables_of_xdg_count_everywhere(
    kind: FolderKind, platform: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They come first."""
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "windows"))
    monkeypatch.setenv(f"XDG_{kind.upper()}_HOME", str(tmp_path / "xdg"))
    assert user_folder(kind, platform) == tmp_path / "xdg"
