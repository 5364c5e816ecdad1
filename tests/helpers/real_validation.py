"""A real server that validates prompts, and runs none of them."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
from collections.abc import Iterator
from typing import Any

from tests.comfyui import ComfyUI
from tests.conftest import load_workflow
from tests.helpers.running_comfyui import Running


class Real:
    """The real server, whose queue waits behind a prompt that sleeps."""

    def __init__(self, server: ComfyUI | Running) -> None:
        self.server = server
        self.version: Any = server.version
        self.connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        self.definitions = self.call("GET", "/object_info")[1]

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        self.connection.request(method, path, None if body is None else json.dumps(body))
        answer = self.connection.getresponse()
        text = answer.read().decode()
        try:
            return answer.status, json.loads(text)
        except ValueError:
            return answer.status, text

    def accepts(self, request: dict[str, Any]) -> bool:
        """Whether it queues a prompt."""
        status, body = self.call("POST", "/prompt", request)
        if status == 200:
            self.call("POST", "/queue", {"delete": [body["prompt_id"]]})
        return status == 200

    def prompt(self, request: dict[str, Any]) -> tuple[int, Any, Any, list[str]]:
        """What it answers, the graph that it queued, and the outputs that it would execute."""
        status, body = self.call("POST", "/prompt", request)
        if status != 200:
            return status, body, None, []
        ((_, prompt_id, graph, _, outputs),) = self.call("GET", "/queue")[1]["queue_pending"]
        assert prompt_id == body["prompt_id"]
        self.call("POST", "/queue", {"clear": True})
        return status, body, graph, outputs

    def in_its_order(self, definitions: dict[str, Any]) -> dict[str, Any]:
        """Definitions with inputs in the order in which this process looks at them."""
        if self.version == "2024-03":
            return definitions  # there it is the order of the definitions
        ordered = {}
        for name, each in definitions.items():
            probe = {
                "1": {"class_type": name, "inputs": {}},
                "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
            }
            body = self.prompt({"prompt": probe})[1]
            required = each["input"].get("required", {})
            errors = body["node_errors"].get("1", {"errors": []})["errors"]
            seen = [
                error["extra_info"]["input_name"]
                for error in errors
                if error["type"] == "required_input_missing"
            ]
            falls_over = any(error["type"].startswith("exception") for error in errors)
            assert set(seen) == set(required) or falls_over  # in the node's own check
            required = {**{n: required[n] for n in seen}, **required}
            ordered[name] = {**each, "input": {**each["input"], "required": required}}
        return ordered

    def exists(self, name: str) -> bool:
        """Whether LoadImage finds a file: the server's rules for ``name [folder]``."""
        folder = "input"
        for suffix in ("output", "input", "temp"):
            if name.endswith(f"[{suffix}]"):
                folder, name = suffix, name[: -len(suffix) - 3]
                break
        return os.path.exists(os.path.join(self.server.root / folder, name))

    def checks(self) -> dict[str, Any]:
        exists = self.exists

        def check(cls: type, image: Any) -> bool | str:
            return exists(image) or f"Invalid image file: {image}"

        checks = {}
        for name in ("LoadImage", "LoadImageMask"):
            check.__qualname__ = f"{name}.VALIDATE_INPUTS"  # Python's messages name it
            checks[name] = classmethod(copy_function(check)).__get__(None, Real)
        return checks


def copy_function(function: Any) -> Any:
    twin = type(function)(
        *(function.__code__, function.__globals__, function.__name__, None, function.__closure__)
    )
    twin.__qualname__ = function.__qualname__
    return twin


@contextlib.contextmanager
def validating(comfyui: ComfyUI | Running) -> Iterator[Real]:
    """A server that is busy for as long as this lasts."""
    server = Real(comfyui)
    server.call("POST", "/prompt", {"prompt": load_workflow("sleep", seconds=3000.0)})
    try:
        yield server
    finally:
        server.call("POST", "/queue", {"clear": True})
        server.call("POST", "/interrupt")
        server.connection.close()
