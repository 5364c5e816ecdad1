"""The steps of an action in ``.github/actions``, each run by bash as GitHub does."""

from __future__ import annotations

import os
import re
import subprocess
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.helpers.command_line import COMMAND, LIMIT

FOLDER: Final = Path(__file__).parents[2] / ".github" / "actions"
#: A step: its id, the variables of its environment, and its script.
STEP: Final = re.compile(
    r"^    - id: (?P<id>\w+)\n      shell: bash\n      env:\n(?P<env>(?: {8}\S.*\n)+)"
    r"      run: \|\n(?P<script>(?: {8}.*\n)+)",
    re.MULTILINE,
)
#: What the runner gives to scripts.
OF_RUNNER: Final = {"GITHUB_OUTPUT", "RUNNER_TEMP"}


def text_of(action: str) -> str:
    """The file of an action."""
    return FOLDER.joinpath(action, "action.yml").read_text("utf-8")


def steps(action: str) -> dict[str, re.Match[str]]:
    """The steps of an action by id."""
    return {found["id"]: found for found in STEP.finditer(text_of(action))}


def variables(action: str, step: str) -> dict[str, str]:
    """The variables of a step, as they are written there."""
    found = steps(action)[step]["env"]
    return dict(re.findall(r"^ {8}(\w+): (.+)$", found, re.MULTILINE))


def installed(runner: Path, action: str) -> None:
    """Put our command where the first step of an action would install it."""
    (runner / action).mkdir()
    (runner / action / "bin").symlink_to(COMMAND.parent)


def run(
    runner: Path, action: str, step: str, inputs: Mapping[str, str], *, more: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a step in the folder of the runner, with ``more`` at the end of its script.

    ``inputs`` are by the names of the step's variables; the others are empty.
    """
    given = {**dict.fromkeys(variables(action, step), ""), **inputs}
    env = {name: value for name, value in os.environ.items() if not name.startswith("COMFY")}
    env |= given | {"RUNNER_TEMP": str(runner), "GITHUB_OUTPUT": str(runner / "output")}
    script = runner / "step.sh"
    script.write_text(textwrap.dedent(steps(action)[step]["script"]) + more)
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)],
        env=env,
        cwd=runner,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
