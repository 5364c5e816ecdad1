"""What the workflows of continuous integration run, and on what."""

from __future__ import annotations

import os
import re
import shlex
from configparser import ConfigParser
from pathlib import Path

import pytest

from comfy_client.cli.main import main

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / ".github" / "workflows"


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


def commands(name: str) -> list[list[str]]:
    """The words of each command that a workflow runs."""
    text = (FOLDER / name).read_text("utf-8")
    return [shlex.split(line) for line in re.findall(r"\brun: (\S.*)", text)]


@pytest.mark.parametrize("name", ["ci.yml", "release.yml"])
def test_programs_that_a_ci_workflow_runs_exist(name: str) -> None:
    """Scripts, folders, extras and our own commands."""
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg", "utf-8")
    found = commands(name)
    assert found
    for program, *words in found:
        if program.startswith(".ci/"):
            assert os.access(ROOT / program, os.X_OK)
        if words[:2] == ["-m", "comfy_client"]:
            assert words[2] in main.commands
        for word in words:
            if extras := re.fullmatch(r"\.\[(.+)\]", word):
                assert {*extras[1].split(",")} <= {*setup["options.extras_require"]}
            elif "/" in word and not word.startswith("$") and " " not in word:
                assert (ROOT / word).exists(), word


def test_the_versions_of_python_are_those_that_the_package_names() -> None:
    """The oldest and the newest on other systems, and all on Linux."""
    named = re.findall(r"Python :: (3\.\d+)", (ROOT / "setup.cfg").read_text("utf-8"))
    text = (FOLDER / "ci.yml").read_text("utf-8")
    linux, others = text.split("  others:")
    assert {*re.findall(r"^ +(3\.\d+)$", linux, re.MULTILINE)} == {*named}
    assert f'python: ["{named[0]}", "{named[-1]}"]' in others


def test_git_changes_no_line_ends() -> None:
    """As it would on Windows, where tests would find other files than they were made with."""
    assert "* -text" in (ROOT / ".gitattributes").read_text("utf-8").splitlines()
