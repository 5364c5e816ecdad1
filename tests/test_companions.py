"""The library beside others in one environment, as pip resolves it: run with ``--index``.

Nothing is installed.  The package index is asked for the newest releases of the day.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.test_package import WORK, settings

pytestmark = pytest.mark.index
#: Packages that programs use with pictures and services, some of which limit Pillow or urllib3.
COMPANIONS = ("gradio", "moviepy", "streamlit", "boto3", "diffusers")
#: Seconds for pip, which may try many releases if the newest ones do not fit.
LIMIT = 1200


def ours() -> list[str]:
    """All that users can install, with every extra."""
    config = settings()
    extras = config["options.extras_require"]
    texts = [config["options"]["install_requires"]]
    texts += [extras[name] for name in extras if name not in WORK]
    lines = "\n".join(texts).split("\n")
    return sorted({line.replace(" ", "") for line in lines if line and line[0] != "#"})


def resolved(*requirements: str) -> dict[str, str]:
    """The releases that pip would install in an empty environment, by the names of packages."""
    pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
    command = [*pip, "--dry-run", "--ignore-installed", "--report", "-", *requirements]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    assert ran.returncode == 0, ran.stderr
    installed = [one["metadata"] for one in json.loads(ran.stdout)["install"]]
    return {one["name"].lower(): one["version"] for one in installed}


@pytest.mark.timeout(2 * LIMIT)
@pytest.mark.parametrize("companion", COMPANIONS)
def test_a_companion_stays_at_the_release_that_it_has_alone(companion: str) -> None:
    """Whoever installs both gets today's, not the last one before ours raised a floor."""
    alone = resolved(companion)[companion]
    beside = resolved(companion, *ours())[companion]
    assert beside == alone
