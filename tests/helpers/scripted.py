"""A prompt that a server only plays: its messages, its outputs, its record."""

from __future__ import annotations

from typing import Any

import pytest

from comfy_client.testing import PROMPT_ID, ComfyServer, Finish, Request
from tests.versions import has

GRAPH = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64}},
    "9": {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}, "_meta": {"title": "Save"}},
}
OUTPUT = {"images": [{"filename": "a.png", "subfolder": "sub", "type": "output"}]}


def say(kind: str, **data: Any) -> dict[str, Any]:
    """A message about the prompt of the script."""
    return {"type": kind, "data": {**data, "prompt_id": PROMPT_ID}}


def custom(data: Any = "x") -> dict[str, Any]:
    """A message of somebody's extension."""
    return {"type": "custom", "data": data}


START = say("execution_start")
CACHED = say("execution_cached", nodes=[])
ALL_CACHED = say("execution_cached", nodes=["1", "9"])
RUNS = say("executing", node="1", display_node="1")
LEFT = say("executed", node="9", display_node="9", output=OUTPUT)
SUCCESS = say("execution_success")
FAILED = say("execution_error", node_id="1", exception_type="ValueError", exception_message="no")
STOPPED = say("execution_interrupted", node_id="1")
OVER = say("executing", node=None)
ENTRY = {
    "prompt": [0, PROMPT_ID, {}, {}, []],
    "outputs": {"9": OUTPUT},
    "status": {"status_str": "success", "completed": True, "messages": [["execution_success", {}]]},
}
WELL = (START, CACHED, RUNS, LEFT, SUCCESS, Finish(), OVER)
#: How a prompt ends that did nothing.
END = (Finish(), OVER)
LOGIN = (200, {"Content-Type": "text/html"}, "<html>please log in</html>")


def check(result: Any) -> None:
    """The one picture of ``WELL`` or ``ENTRY`` is there."""
    assert [(f.filename, f.subfolder) for f in result["Save"].images] == [("a.png", "sub")]


def posts(server: ComfyServer) -> list[Request]:
    """The submissions."""
    return [r for r in server.requests if (r.method, r.path) == ("POST", "/prompt")]


def asked(server: ComfyServer, path: str) -> list[Request]:
    """The questions whose path begins so."""
    return [r for r in server.requests if r.method == "GET" and r.path.startswith(path)]


#: A test of what clients do otherwise on a server without a jobs API.
with_and_without_jobs_api = pytest.mark.parametrize("comfy_version", ["0.3.75", "0.28"])
#: A test of what clients do on a server without a jobs API.
without_jobs_api = pytest.mark.parametrize("comfy_version", ["0.3.75"])

#: Where a client looks at the queue: in the list of jobs, or for graphs and in older servers.
QUEUE_ROUTES = ("/jobs", "/queue")


def looks(server: ComfyServer) -> list[Request]:
    """The questions for the queue, on the routes that the server has."""
    routes = QUEUE_ROUTES if has(server.version, "get_jobs") else ("/queue",)
    return [r for r in server.requests if r.method == "GET" and r.path in routes]


def answer_queue(server: ComfyServer, answer: Any) -> None:
    """Answer questions for the queue so, on either route."""
    for path in QUEUE_ROUTES:
        server.on("GET", path, answer)


def restore_queue(server: ComfyServer) -> None:
    """End what ``answer_queue`` did."""
    for path in QUEUE_ROUTES:
        server.off("GET", path)


def stops(server: ComfyServer) -> int:
    """How often it was asked to stop what runs."""
    return sum(r.path == "/interrupt" or r.path.endswith("/cancel") for r in server.requests)


def answer_late(server: ComfyServer, **more: Any) -> None:
    """Have submissions answered when their prompt is over."""

    def handler(request: Request) -> Any:
        status, headers, answer = server.answer(request)
        server.until(lambda: answer["prompt_id"] in server.history, 20.0)
        return status, headers, answer | more

    server.on("POST", "/prompt", handler)
