"""The recipe of a serverless function that starts its own ComfyUI; an embedded server plays it.

With runpod 1.12, by hand: an event of its local test, and one that takes too long, a failure there.
"""

from __future__ import annotations

import importlib
import json
import socket
import sys
from base64 import b64decode
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

import pytest
from PIL import Image

from comfy_client import Workflow
from comfy_client.testing import ComfyServer
from tests.guide import STAND_INS
from tests.helpers.clients import LIMIT
from tests.recipes.conftest import Load

SECTION = "Serverless with ComfyUI inside"
#: A process that lives, and does nothing.
IDLE = [sys.executable, "-c", "import time; time.sleep(600)"]

Begin = Callable[..., dict[str, Any]]


@pytest.fixture
def begin(load: Load, monkeypatch: pytest.MonkeyPatch) -> Iterator[Begin]:
    """Returns the names of the recipe, which starts this program; its processes end, too."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(STAND_INS)])
    monkeypatch.delenv("BUCKET", raising=False)
    started: list[Any] = []

    def begin(program: list[str], *args: Any, **options: Any) -> dict[str, Any]:
        names = load(SECTION, *args, **options)
        names["handler"].__globals__["COMFYUI"] = program
        started.append(names["processes"])
        return names

    yield begin
    for process in (one for processes in started for one in processes):
        process.kill()
        process.wait()


def call(names: dict[str, Any], **asked: Any) -> dict[str, Any]:
    """As a platform does."""
    answer: dict[str, Any] = json.loads(json.dumps(names["handler"]({"id": "1", "input": asked})))
    return answer


def test_the_first_event_starts_comfyui_and_the_next_one_finds_it(
    begin: Begin, comfy: ComfyServer
) -> None:
    """One that has died is started again; no picture is lost to the next event."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    serve = [sys.executable, "-m", "comfy_client", "serve", "--port", str(port)]
    workflow = Workflow.example()
    workflow["KSampler"]["steps"] = 1
    url = f"http://127.0.0.1:{port}"
    names = begin(serve, workflow.to_dict(), replaced={comfy.url: url})
    for _ in range(2):
        [image] = call(names, prompt="a mill")["images"]
        assert Image.open(BytesIO(b64decode(image))).format == "PNG"
    [process] = names["processes"]
    process.kill()
    process.wait()
    assert call(names, prompt="a mill")["images"]
    assert len(names["processes"]) == 2


@pytest.mark.timeout(120)
def test_a_comfyui_that_ends_while_it_starts_is_an_error_at_once(
    begin: Begin, comfy: ComfyServer
) -> None:
    """And not after ten minutes."""
    comfy.stop()
    names = begin([sys.executable, "-c", "raise SystemExit(3)"])
    answer = call(names, prompt="a mill")
    assert answer["code"] == "server_unreachable"
    assert answer["error"]


def test_a_job_that_takes_too_long_is_cancelled(begin: Begin, comfy: ComfyServer) -> None:
    """Nobody could ask for it later."""
    answer = call(begin(IDLE), prompt="forever", seconds=0.2)
    assert answer["code"] == "job_timeout"
    comfy.until(lambda: not comfy.running, LIMIT)
    assert [ran.prompt_id for ran in comfy.ran] == [answer["prompt_id"]]


def test_a_failure_says_why(begin: Begin) -> None:
    """Under the name by which RunPod knows it."""
    answer = call(begin(IDLE), prompt="fail")
    assert answer["code"] == "job_failed"
    assert "no such mill" in answer["error"]


def test_with_a_bucket_pictures_are_links(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    """To objects below the id of the prompt."""
    monkeypatch.setenv("BUCKET", "pictures")
    objects = importlib.import_module("boto3").objects
    objects.clear()
    names = begin(IDLE)
    names["handler"].__globals__["BUCKET"] = "pictures"
    answer = call(names, prompt="a mill")
    [link] = answer["images"]
    [(bucket, key)] = objects
    assert (bucket, key) == ("pictures", f"{answer['id']}/0.png")
    assert key in link
