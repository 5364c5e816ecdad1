"""The actions for GitHub: their shell steps, run by bash; the one that starts a server."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.helpers import actions
from tests.helpers.clients import until
from tests.helpers.command_line import LIMIT

ACTION = "fake-comfyui"

pytestmark = [
    pytest.mark.posix("bash and signals"),
    pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash"),
]


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[Path]:
    """A runner's temporary folder with what the first step installs; its processes end, too."""
    actions.installed(tmp_path, ACTION)
    yield tmp_path
    pid = tmp_path / "pid"
    if pid.exists():
        os.kill(int(pid.read_text()), signal.SIGTERM)
        until(lambda: not running(int(pid.read_text())))


def running(pid: int) -> bool:
    """Whether a process has not ended; one that nobody waits for counts as ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def serve(runner: Path, **inputs: str) -> subprocess.CompletedProcess[str]:
    """Run the step as GitHub does; the script also tells the id of what it leaves running."""
    more = 'echo $! > "$RUNNER_TEMP/pid"\n'
    return actions.run(runner, ACTION, "serve", {"COMFY_SERVE_PORT": "0", **inputs}, more=more)


def test_the_output_is_the_url_of_a_running_server(runner: Path) -> None:
    inputs = {"COMFY_SERVE_OBJECT_INFO": "0.3.75", "OPTIONS": "--prefix /comfy\n--multi-user\n"}
    ran = serve(runner, **inputs)
    assert ran.returncode == 0, ran
    [line] = (runner / "output").read_text().splitlines()
    name, _, url = line.partition("=")
    assert name == "url"
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/comfy", url)
    known = requests.get(f"{url}/object_info", timeout=LIMIT).json()
    assert len(known) > 500
    assert "users" in requests.get(f"{url}/users", timeout=LIMIT).json()


def test_the_step_fails_with_the_reason_if_the_server_cannot_start(runner: Path) -> None:
    ran = serve(runner, OPTIONS="--no-such-option")
    assert ran.returncode == 1
    assert "No such option" in ran.stdout
    assert not (runner / "output").exists()


@pytest.mark.parametrize(
    ("action", "ids"),
    [(ACTION, ["install", "serve"]), ("check-workflows", ["install", "check"])],
)
def test_no_script_contains_what_others_may_write(action: str, ids: list[str]) -> None:
    """Inputs reach it as variables, so that none is code; each is declared and used."""
    text, steps = actions.text_of(action), actions.steps(action)
    assert [*steps] == ids
    for step, found in steps.items():
        assert "${{" not in found["script"]
        used = {*re.findall(r"\$\{?([A-Z][A-Z_]+)", found["script"])} - actions.OF_RUNNER
        names = actions.variables(action, step)
        assert used == {name for name in names if not name.startswith("COMFY_SERVE_")}
    head = re.split(r"\n(?:outputs|runs):", text)[0]
    declared = {*re.findall(r"^  ([\w-]+):$", head, re.MULTILINE)}
    assert declared == {*re.findall(r"inputs\.([\w-]+)", text)}


def test_the_url_is_an_output_of_the_action() -> None:
    assert "value: ${{ steps.serve.outputs.url }}" in actions.text_of(ACTION)
