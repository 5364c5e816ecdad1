"""The GitHub action that starts an embedded server: its shell steps, run by bash."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.helpers.clients import until
from tests.helpers.command_line import COMMAND, LIMIT

TEXT = (
    Path(__file__).parents[2].joinpath(".github/actions/fake-comfyui/action.yml").read_text("utf-8")
)
#: A step: its id, the variables of its environment, and its script.
STEP = re.compile(
    r"^    - id: (?P<id>\w+)\n      shell: bash\n      env:\n(?P<env>(?: {8}\S.*\n)+)"
    r"      run: \|\n(?P<script>(?: {8}.*\n)+)",
    re.MULTILINE,
)
STEPS = {found["id"]: found for found in STEP.finditer(TEXT)}
#: What the runner gives to scripts.
OF_RUNNER = {"GITHUB_OUTPUT", "RUNNER_TEMP"}

pytestmark = [
    pytest.mark.posix("bash and signals"),
    pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash"),
]


def variables(step: str) -> dict[str, str]:
    return dict(re.findall(r"^ {8}(\w+): (.+)$", STEPS[step]["env"], re.MULTILINE))


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[Path]:
    """A runner's temporary folder with what the first step installs; its processes end, too."""
    (tmp_path / "fake-comfyui").mkdir()
    (tmp_path / "fake-comfyui" / "bin").symlink_to(COMMAND.parent)
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
    given = dict.fromkeys(variables("serve"), "") | {"COMFY_SERVE_PORT": "0", **inputs}
    env = {name: value for name, value in os.environ.items() if not name.startswith("COMFY")}
    env |= given | {"RUNNER_TEMP": str(runner), "GITHUB_OUTPUT": str(runner / "output")}
    script = textwrap.dedent(STEPS["serve"]["script"]) + 'echo $! > "$RUNNER_TEMP/pid"\n'
    (runner / "step.sh").write_text(script)
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(runner / "step.sh")],
        env=env,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )


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


def test_no_script_contains_what_others_may_write() -> None:
    """Inputs reach it as variables, so that none is code; each is declared and used."""
    assert [*STEPS] == ["install", "serve"]
    for step, found in STEPS.items():
        assert "${{" not in found["script"]
        used = {*re.findall(r"\$\{?([A-Z][A-Z_]+)", found["script"])} - OF_RUNNER
        own = {name for name in variables(step) if not name.startswith("COMFY_SERVE_")}
        assert used == own
    declared = {*re.findall(r"^  ([\w-]+):$", TEXT.partition("\noutputs:")[0], re.MULTILINE)}
    given = {*re.findall(r"inputs\.([\w-]+)", TEXT)}
    assert declared == given
    assert "value: ${{ steps.serve.outputs.url }}" in TEXT
