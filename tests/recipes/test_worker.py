"""The recipe of a worker: a task that is delivered again finds its prompt, whatever happened.

Celery itself is not run: a process has the task, is killed, and another one gets it.  With Celery
5.7, by hand: the child of a prefork worker was killed, and the next one attached to the prompt.
"""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from comfy_client.testing import ComfyServer, Request
from tests.helpers.clients import LIMIT
from tests.helpers.long import few
from tests.helpers.recipes import painting, recipe, written

#: What Celery's worker does with a task.
WORK = "import json, sys; from recipe import render; print(json.dumps(render(*sys.argv[1:])))"


class Deliveries:
    """Delivers one task to workers, one after the other."""

    def __init__(self, folder: Path) -> None:
        self.task_id = str(uuid.uuid4())
        self._folder = folder

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", WORK, self.task_id, "a mill"],
            cwd=self._folder,
            stdout=subprocess.PIPE,
            text=True,
        )

    def until_done(self) -> list[Path]:
        with self.start() as worker:
            said, _ = worker.communicate(timeout=LIMIT)
            assert worker.returncode == 0
        return [self._folder / path for path in json.loads(said)]


@pytest.fixture
def task(comfy: ComfyServer, tmp_path: Path) -> Deliveries:
    written(tmp_path, recipe("A worker", comfy.url), painting(steps=20))
    return Deliveries(tmp_path)


def is_saved_once(comfy: ComfyServer, task: Deliveries) -> None:
    [path] = task.until_done()
    assert path.read_bytes().startswith(b"\x89PNG")
    assert list(path.parent.iterdir()) == [path]
    assert [ran.prompt_id for ran in comfy.ran] == [task.task_id]


@pytest.mark.parametrize(
    ("method", "path"),
    few([("POST", "/prompt"), ("GET", "/view")], 1),
    ids=["the submission has not been answered", "the picture is being fetched"],
)
def test_killed_while(comfy: ComfyServer, task: Deliveries, method: str, path: str) -> None:
    """It renders once, and its picture is there."""

    def last(request: Request) -> Any:
        comfy.off(method, path)
        answer = comfy.answer(request)
        worker.kill()
        return answer

    comfy.on(method, path, last)
    with task.start() as worker:
        assert worker.wait(LIMIT) == -9
    is_saved_once(comfy, task)


@pytest.mark.long
def test_killed_again_and_again_while_it_runs(comfy: ComfyServer, task: Deliveries) -> None:
    """Each worker finds the same prompt, which goes on."""
    with comfy.faults.hang_worker():
        for _ in range(3):
            before = len(comfy.requests)
            with task.start() as worker:
                comfy.until(lambda: comfy.running and len(comfy.requests) > before, LIMIT)  # noqa: B023
                worker.kill()
    is_saved_once(comfy, task)


def test_a_task_that_is_done_is_done_again_without_rendering(
    comfy: ComfyServer, task: Deliveries
) -> None:
    """As if only the acknowledgement had been lost."""
    is_saved_once(comfy, task)
    is_saved_once(comfy, task)
