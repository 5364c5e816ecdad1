"""What ``.ci/release`` changes, and what it refuses."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from tests.release import CHANGES, PAGES, ROOT, VERSION_FILE, main, order, problems

DAY = date(2027, 1, 31)
TEXTS = {
    "README.rst": "A client.\n",
    "comfy_client/guide/start.rst": "Install it.\n",
    VERSION_FILE: '__version__ = "0.9.0"\n',
    CHANGES: "Changes\n=======\n\nUnreleased\n----------\n\n* New.\n\n0.9.0 (2026-12-01)\n---\n",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in TEXTS.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_a_release_sets_the_version_and_dates_the_changes(root: Path) -> None:
    assert main(root, "0.10.0", DAY) == 0
    assert (root / VERSION_FILE).read_text() == '__version__ = "0.10.0"\n'
    title = "0.10.0 (2027-01-31)"
    expected = TEXTS[CHANGES].replace("Unreleased\n----------\n", f"{title}\n{'-' * len(title)}\n")
    assert (root / CHANGES).read_text() == expected
    assert (root / "README.rst").read_text() == TEXTS["README.rst"]


@pytest.mark.parametrize(
    ("version", "changed", "words"),
    [
        ("0.8.9", {}, "0.8.9 is older than 0.9.0"),
        ("0.9.0rc1", {}, "0.9.0rc1 is older than 0.9.0"),
        ("1", {}, "'1' is no version"),
        ("v1.0.0", {}, "'v1.0.0' is no version"),
        ("0.9.0", {}, "has 0.9.0 already"),
        ("1.0.0", {CHANGES: "Changes\n=======\n"}, "no part 'Unreleased' with changes"),
        ("1.0.0", {CHANGES: "Unreleased\n----------\n\n"}, "no part 'Unreleased' with changes"),
        ("1.0.0", {"README.rst": "Nothing has\nbeen released yet."}, "README.rst says that"),
        ("1.0.0", {PAGES[1]: "once it is released"}, "start.rst says that"),
    ],
)
def test_what_is_not_ready_is_refused_and_nothing_changes(
    root: Path,
    capsys: pytest.CaptureFixture[str],
    version: str,
    changed: dict[str, str],
    words: str,
) -> None:
    for name, text in changed.items():
        (root / name).write_text(text)
    assert main(root, version, DAY) == 1
    assert words in capsys.readouterr().err
    assert {name: (root / name).read_text() for name in TEXTS} == {**TEXTS, **changed}


def test_versions_have_an_order() -> None:
    versions = ["1.0.0", "0.10.0rc1", "0.10.0", "0.10.0b1", "0.10.0a2", "0.9.0", "0.10.0a10"]
    ordered = ["0.9.0", "0.10.0a2", "0.10.0a10", "0.10.0b1", "0.10.0rc1", "0.10.0", "1.0.0"]
    assert sorted(versions, key=order) == ordered


def test_the_files_of_this_checkout_are_understood() -> None:
    """All that may be wrong now is that nothing has been released."""
    if not (ROOT / VERSION_FILE).exists():
        pytest.skip("only the installed package is here")
    texts = {name: (ROOT / name).read_text("utf-8") for name in (VERSION_FILE, *PAGES)}
    assert all("nothing has been released" in line for line in problems(texts, "999.0.0"))
