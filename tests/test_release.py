"""What ``.ci/release`` changes, and what it refuses."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from configparser import ConfigParser
from datetime import date
from pathlib import Path

import pytest

from tests.release import CHANGES, PAGES, ROOT, SETTINGS, VERSION_FILE, main, order, problems

DAY = date(2027, 1, 31)
TEXTS = {
    "README.rst": "A client.\n",
    "comfy_client/guide/start.rst": "Install it.\n",
    VERSION_FILE: '__version__ = "0.9.0"\n',
    SETTINGS: (ROOT / SETTINGS).read_text("utf-8").partition("\n[options]")[0],
    CHANGES: "Changes\n=======\n\nUnreleased\n----------\n\n* New.\n\n0.9.0 (2026-12-01)\n---\n",
}

URLS = {
    "SOURCE_URL": "https://github.com/somebody/client",
    "SITE_URL": "https://client.readthedocs.io",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in TEXTS.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_a_release_sets_the_version_and_dates_the_changes(root: Path) -> None:
    assert main(root, "0.10.0", DAY, URLS) == 0
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
def test_a_release_that_is_not_ready_is_refused_and_nothing_changes(
    root: Path,
    capsys: pytest.CaptureFixture[str],
    version: str,
    changed: dict[str, str],
    words: str,
) -> None:
    for name, text in changed.items():
        (root / name).write_text(text)
    assert main(root, version, DAY, URLS) == 1
    assert words in capsys.readouterr().err
    assert {name: (root / name).read_text() for name in TEXTS} == {**TEXTS, **changed}


def test_the_first_release_needs_links_and_the_next_ones_keep_them(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Links of the package that lead nowhere are none: somebody has to name them."""
    for given in ({}, {**URLS, "SITE_URL": "client.readthedocs.io"}):
        assert main(root, "0.10.0", DAY, given) == 1
        assert "set SITE_URL=https://... to one that exists" in capsys.readouterr().err
        assert (root / SETTINGS).read_text() == TEXTS[SETTINGS]
    assert main(root, "0.10.0", DAY, URLS) == 0
    config = ConfigParser()
    config.read(root / SETTINGS)
    links = config["metadata"]["project_urls"].split("\n")[1:]
    assert [link.partition(" = ")[0] for link in links] == [
        *("Documentation", "Changes", "Source", "Issues")
    ]
    assert f"Source = {URLS['SOURCE_URL']}" in links
    assert f"Documentation = {URLS['SITE_URL']}" in links
    (root / CHANGES).write_text(TEXTS[CHANGES])
    written = (root / SETTINGS).read_text()
    assert main(root, "0.11.0", DAY, {}) == 0
    assert (root / SETTINGS).read_text() == written


def test_versions_have_an_order() -> None:
    versions = ["1.0.0", "0.10.0rc1", "0.10.0", "0.10.0b1", "0.10.0a2", "0.9.0", "0.10.0a10"]
    ordered = ["0.9.0", "0.10.0a2", "0.10.0a10", "0.10.0b1", "0.10.0rc1", "0.10.0", "1.0.0"]
    assert sorted(versions, key=order) == ordered


def test_the_files_of_this_checkout_are_understood() -> None:
    """All that may be wrong now is that nothing has been released."""
    if not (ROOT / VERSION_FILE).exists():
        pytest.skip("only the installed package is here")
    texts = {name: (ROOT / name).read_text("utf-8") for name in (VERSION_FILE, SETTINGS, *PAGES)}
    assert all("nothing has been released" in line for line in problems(texts, "999.0.0", URLS))


# -- the command ------------------------------------------------------------------------

#: In place of building and trying the package.
PACKAGE = """#!/usr/bin/env bash
cp comfy_client/_version.py "$1/built"
exit ${PACKAGE_STATUS:-0}
"""


class Checkout:
    """A checkout that has all that ``.ci/release`` needs, and little more."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.index = root.parent / "index"
        own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        self.env = {**own, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}

    def git(self, *args: str) -> str:
        command = ["git", *args]
        ran = subprocess.run(
            command, cwd=self.root, env=self.env, capture_output=True, text=True, timeout=60
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout.strip()

    def release(self, version: str, **variables: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", ".ci/release", version, str(self.index)]
        env = {**self.env, **URLS, **variables}
        return subprocess.run(
            command, cwd=self.root, env=env, capture_output=True, text=True, timeout=120
        )

    def state(self) -> tuple[str, str, str]:
        """The commits, the tags, and what is not committed."""
        return self.git("log", "--format=%s"), self.git("tag"), self.git("status", "--porcelain")


@pytest.fixture
def checkout(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    if shutil.which("git") is None or shutil.which("bash") is None:
        pytest.skip("needs git and bash")
    made = Checkout(root)
    made.index = tmp_path_factory.mktemp("index")
    for folder in (".ci", "tests"):
        (root / folder).mkdir()
    shutil.copy(ROOT / ".ci" / "release", root / ".ci")
    for name in ("__init__.py", "release.py"):
        shutil.copy(ROOT / "tests" / name, root / "tests")
    scripts = {"find-python": f"#!/bin/sh\necho {sys.executable}\n", "package": PACKAGE}
    for name, text in scripts.items():
        (root / ".ci" / name).write_text(text)
        (root / ".ci" / name).chmod(0o755)
    made.git("init", "--quiet", "--initial-branch=main")
    for key, value in {"user.name": "Somebody", "user.email": "somebody@example.org"}.items():
        made.git("config", key, value)
    made.git("add", "--all")
    made.git("commit", "--quiet", "--message=Begin")
    return made


def test_a_release_is_committed_and_tagged_once_the_package_is_good(checkout: Checkout) -> None:
    ran = checkout.release("1.0.0")
    assert ran.returncode == 0, ran.stderr
    assert "git push origin main v1.0.0" in ran.stdout
    assert checkout.state() == ("Release 1.0.0\nBegin", "v1.0.0", "")
    assert checkout.git("rev-parse", "v1.0.0^{commit}") == checkout.git("rev-parse", "HEAD")
    assert '"1.0.0"' in (checkout.root / VERSION_FILE).read_text()
    assert '"1.0.0"' in (checkout.index / "built").read_text()
    again = checkout.release("1.0.0")
    assert again.returncode == 1
    assert "there is a tag v1.0.0" in again.stderr


def test_a_release_that_fails_changes_nothing(checkout: Checkout) -> None:
    """Neither a bad package nor an old version, nor a checkout with changes."""
    before = checkout.state()
    assert checkout.release("1.0.0", PACKAGE_STATUS="3").returncode == 3
    assert checkout.state() == before
    ran = checkout.release("0.0.1")
    assert ran.returncode == 1
    assert "0.0.1 is older than 0.9.0" in ran.stderr
    assert checkout.state() == before
    (checkout.root / "new.txt").write_text("")
    ran = checkout.release("1.0.0")
    assert ran.returncode == 1
    assert "git status" in ran.stderr
    assert checkout.state() == (*before[:2], "?? new.txt")
