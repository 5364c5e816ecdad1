"""The recipe for Docker Compose: its two programs and its files, without Docker.

``compose.yaml`` is valid by the schema of the Compose specification (December 2026), by hand.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
import requests
import yaml  # of distributed

from comfy_client import ComfyApi, SubmitUncertain
from comfy_client.testing import ComfyServer
from tests.guide import section_of
from tests.helpers.clients import LIMIT, until
from tests.helpers.recipes import codes, painting, recipe, served
from tests.recipes.conftest import Load

SECTION = "Docker Compose"


def file_of(name: str) -> str:
    """A file of the section that is not in Python."""
    text = section_of("service-recipes", SECTION)
    begins = rf"^``{re.escape(name)}``.*::\n\n((?:    .*\n|\n)+)"
    [found] = re.findall(begins, text + "\n", re.MULTILINE)
    return textwrap.dedent(found)


@pytest.fixture
def worker(load: Load) -> dict[str, Any]:
    """The names of ``worker.py``; its folder is in the current one."""
    return load(SECTION, which=0)


@pytest.fixture
def web(worker: dict[str, Any]) -> dict[str, Any]:
    """The names of ``app.py``."""
    names: dict[str, Any] = {"__name__": "app"}
    exec(compile(codes(SECTION)[1], "app.py", "exec"), names)
    return names


def asked(web: dict[str, Any], task_id: str) -> dict[str, Any]:
    answer: dict[str, Any] = web["task"](UUID(task_id))
    return answer


def test_a_task_waits_and_then_has_a_picture(
    comfy: ComfyServer, worker: dict[str, Any], web: dict[str, Any]
) -> None:
    """The prompt has its id."""
    task_id = web["create"]("a mill")["id"]
    assert asked(web, task_id) == {"status": "waiting"}
    worker["work"]()
    answer = asked(web, task_id)
    assert answer == {"status": "done", "files": [f"{task_id}-0.png"]}
    picture = web["picture"](UUID(task_id), 0)
    assert Path(picture.path).read_bytes().startswith(b"\x89PNG")
    assert [ran.prompt_id for ran in comfy.ran] == [task_id]
    worker["work"]()
    assert len(comfy.ran) == 1


def test_a_task_that_a_dead_worker_has_submitted_is_not_rendered_again(
    comfy: ComfyServer, worker: dict[str, Any], web: dict[str, Any]
) -> None:
    """The next worker finds its prompt."""
    task_id = web["create"]("a mill")["id"]
    with ComfyApi(comfy.url) as api:
        api.submit("txt2img.json", prompt_id=task_id)
    worker["work"]()
    assert asked(web, task_id)["status"] == "done"
    assert len(comfy.ran) == 1


def test_a_task_outlives_a_comfyui_that_is_away(
    comfy: ComfyServer, worker: dict[str, Any], web: dict[str, Any]
) -> None:
    """Also one that forgets it."""
    task_id = web["create"]("a mill")["id"]
    comfy.kill()
    worker["work"]()
    assert asked(web, task_id) == {"status": "waiting"}
    comfy.start()
    worker["work"]()
    assert asked(web, task_id)["status"] == "done"


def test_an_uncertain_submission_is_looked_for_and_not_repeated(
    comfy: ComfyServer,
    worker: dict[str, Any],
    web: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It has arrived, but nobody said so."""
    api = worker["api"]

    def submit(*args: Any, prompt_id: str) -> None:
        api.submit(*args, prompt_id=prompt_id)
        raise SubmitUncertain("no answer", prompt_id=prompt_id)

    task_id = web["create"]("a mill")["id"]
    with monkeypatch.context() as patched:
        client = SimpleNamespace(job=api.job, submit=submit)
        patched.setitem(worker["render"].__globals__, "api", client)
        worker["work"]()
        assert asked(web, task_id) == {"status": "waiting"}
    worker["work"]()
    assert asked(web, task_id)["status"] == "done"
    assert len(comfy.ran) == 1


def test_a_failed_task_says_why_and_the_next_one_is_done(
    worker: dict[str, Any], web: dict[str, Any]
) -> None:
    """It is not tried again."""
    failed, done = (web["create"](prompt)["id"] for prompt in ("fail", "a mill"))
    worker["work"]()
    assert (asked(web, failed)["status"], asked(web, failed)["code"]) == ("failed", "job_failed")
    assert asked(web, done)["status"] == "done"
    assert [*Path("tasks/new").iterdir()] == []


def test_unknown_tasks_and_pictures_are_not_found(
    worker: dict[str, Any], web: dict[str, Any]
) -> None:
    """404, also while it waits."""
    waiting = web["create"]("a mill")["id"]
    for call, args in (
        (web["task"], [uuid4()]),
        (web["picture"], [uuid4(), 0]),
        (web["picture"], [UUID(waiting), 0]),
    ):
        with pytest.raises(web["HTTPException"]) as caught:
            call(*args)
        assert caught.value.status_code == 404


def test_there_is_a_limit_of_waiting_tasks(web: dict[str, Any]) -> None:
    for _ in range(100):
        web["create"]("a mill")
    with pytest.raises(web["HTTPException"]) as caught:
        web["create"]("a mill")
    assert caught.value.status_code == 503


def test_the_files_name_programs_and_variables_that_exist() -> None:
    """Each variable that a service sets is read, and each file that is copied is of the page."""
    services = yaml.safe_load(file_of("compose.yaml"))["services"]
    assert services.keys() == {"comfyui", "worker", "web"}
    worker, web = codes(SECTION)
    assert services["worker"]["command"] == ["python", "-c", "import worker; worker.main()"]
    assert "\ndef main() -> None:" in worker
    assert services["web"]["command"][:2] == ["uvicorn", "app:app"]
    assert "\napp = FastAPI()" in web
    assert "ports" not in services["comfyui"]
    image = file_of("Dockerfile")
    [copied] = re.findall(r"^COPY (.*) \./$", image, re.MULTILINE)
    assert copied.split() == ["app.py", "worker.py", "txt2img.json"]
    for name in services["worker"]["environment"]:
        assert f'os.environ.get("{name}"' in worker
    [folder] = re.findall(r"^ENV TASKS=(\S+)", image, re.MULTILINE)
    for service in ("worker", "web"):
        assert services[service]["volumes"] == [f"tasks:{folder}"]


@pytest.mark.long
def test_a_picture_comes_though_the_worker_is_killed(comfy: ComfyServer, tmp_path: Path) -> None:
    """Both services by their commands, over HTTP; it is rendered once."""
    command = yaml.safe_load(file_of("compose.yaml"))["services"]["worker"]["command"]
    (tmp_path / "worker.py").write_text(recipe(SECTION, comfy.url, 0), "utf-8")
    env = {**os.environ, "TASKS": str(tmp_path / "tasks"), "COMFYUI_HOST": comfy.url}

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, *command[1:]], cwd=tmp_path, env=env)

    with served(tmp_path, codes(SECTION)[1], painting(steps=40)) as service:
        sent = requests.post(f"{service.url}/tasks", json={"prompt": "a mill"}, timeout=LIMIT)
        assert sent.status_code == 202
        task = f"{service.url}/tasks/{sent.json()['id']}"
        with comfy.faults.hang_worker(), start() as first:
            comfy.until(lambda: comfy.running, LIMIT)
            first.kill()
        with start() as second:
            until(lambda: requests.get(task, timeout=LIMIT).json()["status"] == "done")
            second.kill()
        picture = requests.get(task.replace("/tasks/", "/pictures/") + "/0", timeout=LIMIT)
        assert picture.headers["Content-Type"] == "image/png"
        assert picture.content.startswith(b"\x89PNG")
        assert requests.get(f"{service.url}/tasks/{uuid4()}", timeout=LIMIT).status_code == 404
        long = requests.post(f"{service.url}/tasks", json={"prompt": 2001 * "x"}, timeout=LIMIT)
        assert long.status_code == 422
    assert len(comfy.ran) == 1
