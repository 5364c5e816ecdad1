"""Health routes, and what becomes of a prompt when the process that waits for it gets SIGTERM."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from comfy_client import ComfyApi, Job, JobInterrupted
from comfy_client.testing import ComfyServer
from tests.guide import section_of
from tests.helpers.clients import LIMIT, until
from tests.helpers.recipes import painting
from tests.recipes.conftest import Load

#: A program that does nothing about SIGTERM.
PLAIN = """
from comfy_client import ComfyApi
with ComfyApi() as api:
    api.submit("txt2img.json").result()
"""


def stopping() -> str:
    """The program of the page."""
    text = section_of("service", "Containers and SIGTERM")
    return textwrap.dedent(text.split("what it has begun::\n")[1].split("\nCelery (")[0])


def test_a_service_is_ready_as_long_as_its_server_answers(comfy: ComfyServer, load: Load) -> None:
    """Also without a socket; the process is healthy in any case."""
    names = load("Health routes")
    assert {"/healthz", "/readyz"} <= set(names["app"].openapi()["paths"])
    assert not names["api"].connected
    ready = names["readyz"]()
    assert (ready.status_code, json.loads(ready.body)) == (200, {"status": "ok", "queue": 0})
    comfy.faults.bad_gateway(502)
    unready = names["readyz"]()
    assert unready.status_code == 503
    assert json.loads(unready.body)["status"] == "unavailable"


def started(folder: Path, url: str, code: str) -> subprocess.Popen[str]:
    """Start a program in a folder with a workflow that never ends by itself."""
    workflow = painting()
    workflow["2"]["inputs"]["text"] = "forever"
    (folder / "txt2img.json").write_text(json.dumps(workflow), encoding="utf-8")
    env = {**os.environ, "COMFYUI_HOST": url}
    command = [sys.executable, "-c", code]
    return subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def job(comfy: ComfyServer) -> Iterator[Callable[[], Job]]:
    """Returns the job of the prompt that the program has submitted."""
    with ComfyApi(comfy.url) as api:
        yield lambda: api.job(comfy.running[0][1], must_exist=True)


def test_a_prompt_outlives_a_process_that_does_nothing_about_sigterm(
    comfy: ComfyServer, tmp_path: Path, job: Callable[[], Job]
) -> None:
    with started(tmp_path, comfy.url, PLAIN) as process:
        try:
            until(lambda: comfy.running)
            process.terminate()
            assert process.wait(LIMIT) == -signal.SIGTERM
        finally:
            process.kill()
    found = job()
    until(lambda: found.status == "running")
    assert found.cancel()
    with pytest.raises(JobInterrupted):
        found.result(LIMIT)


def test_a_process_that_handles_sigterm_cancels_its_prompt(
    comfy: ComfyServer, tmp_path: Path, job: Callable[[], Job]
) -> None:
    """It runs the program of the page, extended to print when it begins to wait."""
    [before, rest] = stopping().split("    try:\n")
    code = f"{before}    try:\n        print('waits', flush=True)\n{rest}"
    with started(tmp_path, comfy.url, code) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "waits\n"
            until(lambda: comfy.running)
            found = job()
            process.terminate()
            assert process.wait(LIMIT) == 128 + signal.SIGTERM
        finally:
            process.kill()
    with pytest.raises(JobInterrupted):
        found.result(LIMIT)
