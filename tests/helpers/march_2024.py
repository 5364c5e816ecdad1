"""An embedded server with the habits of a ComfyUI of March 2024, as far as a client meets them.

It is the usual server with faults.  What a real one of that time says, the real lane and the
recordings of ``tests/recordings/2024-03`` show.
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import attrs

from comfy_client.testing import Answer, ComfyServer, Request

#: What it has not, besides everything below ``/api``.
ABSENT = (
    ("*", "/features"),
    ("*", "/models*"),
    ("*", "/experiment/*"),
    ("*", "/internal/*"),
    ("*", "/i18n"),
    ("*", "/workflow_templates"),
    ("*", "/global_subgraphs*"),
    ("*", "/v2/*"),
    ("GET", "/userdata"),
    ("DELETE", "/userdata/*"),
    ("POST", "/userdata/*/move/*"),
)
_FELL_OVER: Answer = (500, {"Content-Type": "text/plain"}, "500 Internal Server Error")


class March2024(ComfyServer):
    """Starts as :class:`ComfyServer`, with nodes as of today; ``faults.clear()`` ends the rest."""

    def __init__(self, **options: Any) -> None:
        super().__init__(version="0.3.75", **options)
        self._cached: list[str] = []
        self.faults.lose("execution_success", "progress_state", self._is_of_cached)
        self.faults.no_feature_flags()
        self.faults.rewrite("GET", "/history*", _without_times)
        self.faults.rewrite("GET", "/system_stats", _without_version)
        self.faults.rewrite("GET", "/object_info*", _without_order)
        self.on("GET", "/history", self._all_history)
        self.on("POST", "/prompt", self._prompt)
        self.on("POST", "/interrupt", self._interrupt)
        self.on("POST", "/upload/image", self._upload)
        self.on("*", "/userdata/*", self._user_data)
        for method, path in ABSENT:
            self.faults.missing(method, path)
        self.faults.missing("*", "/api/*")

    def start(self) -> ComfyServer:
        super().start()
        self.version = "2024-03"  # for the tests, which ask for it
        return self

    def _is_of_cached(self, event: str | int, data: Any) -> bool:
        """Whether a message tells the output of a node that did not run: then, none did."""
        if event == "execution_cached":
            self._cached = data["nodes"]
        return event == "executed" and data["node"] in self._cached

    def _all_history(self, request: Request) -> Answer:
        """There are no offsets."""
        path, _, _ = request.target.partition("?")
        query = {name: value for name, value in request.query.items() if name != "offset"}
        return self.answer(attrs.evolve(request, target=f"{path}?{urlencode(query)}"))

    def _prompt(self, request: Request) -> Answer:
        """It chooses the ids, runs all outputs, and falls over an unknown class."""
        body = request.json()
        for name in ("prompt_id", "partial_execution_targets"):
            body.pop(name, None)
        answer = self.answer(attrs.evolve(request, body=json.dumps(body).encode()))
        error = answer[2].get("error") if isinstance(answer[2], Mapping) else None
        if answer[0] == 400 and "does not exist" in str(error):
            return _FELL_OVER
        return answer

    def _interrupt(self, request: Request) -> Answer:
        """Whatever runs is meant."""
        return self.answer(attrs.evolve(request, body=b""))

    def _upload(self, request: Request) -> Answer:
        """Also what it has already gets a number: nothing is compared."""
        there = set(self.root.rglob("*"))
        status, headers, stored = self.answer(request)
        if status != 200 or b'name="overwrite"\r\n\r\ntrue' in request.body:
            return status, headers, stored
        path = self.root / stored["type"] / stored["subfolder"] / stored["name"]
        if path not in there:
            return status, headers, stored
        numbered = (path.with_stem(f"{path.stem} ({number})") for number in itertools.count(1))
        free = next(one for one in numbered if not one.exists())
        shutil.copy(path, free)
        return status, headers, {**stored, "name": free.name}

    def _user_data(self, request: Request) -> Answer:
        """In one folder, with names as they come; files are replaced without a question."""
        if request.method == "POST" and "%2F" in request.path:
            return _FELL_OVER
        path, _, _ = request.target.partition("?")
        target = path.replace("%25", "%2525")
        answer = self.answer(attrs.evolve(request, target=target))
        return (200, {}, None) if request.method == "POST" else answer


def _without_times(history: Any) -> Any:
    for entry in history.values():
        entry.pop("meta", None)
        messages = entry["status"]["messages"]
        kept = [[name, data] for name, data in messages if name != "execution_success"]
        for _, data in kept:
            data.pop("timestamp", None)
        entry["status"]["messages"] = kept
        entry["prompt"][3].pop("create_time", None)
    return history


def _without_version(stats: Any) -> Any:
    known = ("os", "python_version", "embedded_python")
    return {**stats, "system": {name: stats["system"][name] for name in known}}


def _without_order(definitions: Any) -> Any:
    for definition in definitions.values():
        definition.pop("input_order", None)
    return definitions
