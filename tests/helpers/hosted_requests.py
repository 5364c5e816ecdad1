"""Plain requests to an embedded server that plays Comfy API v2."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import requests

from comfy_client.testing import ComfyServer
from tests.helpers.clients import until
from tests.helpers.records import graph

TERMINAL = {"succeeded", "failed", "canceled", "expired"}
Frame = tuple[str, Any]


def submit(server: ComfyServer, workflow: Any = None, key: str | None = None, **more: Any) -> Any:
    """Submit a job; return the whole answer."""
    headers = {} if key is None else {"Idempotency-Key": key}
    body = {"workflow": graph() if workflow is None else workflow, **more}
    return requests.post(f"{server.url}/api/v2/jobs", json=body, headers=headers, timeout=60)


def get(server: ComfyServer, path: str, **options: Any) -> requests.Response:
    return requests.get(f"{server.url}/api/v2{path}", timeout=60, **options)


def ended(server: ComfyServer, job_id: str) -> dict[str, Any]:
    """The job once it has ended."""
    found: list[dict[str, Any]] = []

    def has_ended() -> bool:
        found.append(get(server, f"/jobs/{job_id}").json())
        return found[-1]["status"] in TERMINAL

    until(has_ended)
    return found[-1]


def run(server: ComfyServer, **more: Any) -> dict[str, Any]:
    """Submit a job and wait for its end."""
    return ended(server, submit(server, **more).json()["id"])


def code(answer: requests.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def stream(server: ComfyServer, job_id: str) -> list[Frame]:
    """All frames of a job's events, comments included."""
    with get(server, f"/jobs/{job_id}/events", stream=True) as answer:
        assert answer.headers["Content-Type"] == "text/event-stream"
        return list(frames(answer))


def frames(answer: requests.Response) -> Iterator[Frame]:
    name = ""
    for line in answer.iter_lines(1):
        kind, _, value = line.decode().partition(": ")
        if kind == "event":
            name = value
        elif kind == "data":
            yield name, json.loads(value)
        elif not kind and value:
            yield "comment", value


def upload(server: ComfyServer, name: str, content: bytes = b"bytes") -> requests.Response:
    """Upload a file; return the whole answer."""
    files = {"file": (name, content, "image/png")}
    data = {"file_path": name}
    return requests.post(f"{server.url}/api/v2/assets", files=files, data=data, timeout=60)
