"""A server of 2,700 node classes, whose definitions have 102 MiB: model files, again and again.

It answers what a client asks about classes, refuses every prompt, and is made when a test starts.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from urllib.request import urlopen

CLASSES = 2700
#: The model files that most classes list; their definitions have 102 MiB with them.
FILES = [f"family-{n % 23}/version-{n % 7}/model_{n:05}.safetensors" for n in range(840)]
SAVER = "Class0000"


def name_of(number: int) -> str:
    return f"Class{number:04}"


def definition(number: int, files: str) -> str:
    """The definition of a class, as JSON; ``files`` is the JSON of the list of model files."""
    is_saver = json.dumps(number == 0)
    inputs = f'{{"model": [{files}, {{"tooltip": "The model of {number}."}}], "strength": '
    inputs += '["FLOAT", {"default": 1.0, "min": 0.0, "max": 2.0, "step": 0.01}]}'
    return (
        f'{{"input": {{"required": {inputs}, "optional": {{"image": ["IMAGE"]}}}}, '
        f'"input_order": {{"required": ["model", "strength"], "optional": ["image"]}}, '
        f'"output": ["IMAGE"], "output_is_list": [false], "output_name": ["IMAGE"], '
        f'"name": "{name_of(number)}", "display_name": "Class {number}", "description": "", '
        f'"python_module": "custom_nodes.pack{number % 40}", "category": "pack{number % 40}", '
        f'"output_node": {is_saver}}}'
    )


class LargeServer(ThreadingHTTPServer):
    """The server.

    Attributes:
        asked: The paths of all requests.
        files: The model files that its classes list.
        log: The lines in its memory; a restart empties it.
    """

    daemon_threads = True
    request_queue_size = 100

    def __init__(self, classes: int = CLASSES, files: list[str] = FILES) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.classes = {name_of(number): number for number in range(classes)}
        self.files = files
        self.asked: list[str] = []
        self.restart()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def restart(self) -> None:
        self.log: list[dict[str, str]] = []
        self.say("To see the GUI go to: http://127.0.0.1:8188")

    def say(self, text: str) -> None:
        self.log.append({"t": datetime.now().isoformat(timespec="microseconds"), "m": f"{text}\n"})

    def asked_for(self, start: str) -> list[str]:
        """The paths that were asked for, below this one."""
        return [path for path in self.asked if path.startswith(start)]

    def whole(self) -> Iterator[bytes]:
        """All definitions, class by class, so that the server needs no memory either."""
        files = json.dumps(self.files)
        for name, number in self.classes.items():
            head = "{" if number == 0 else ", "
            yield f"{head}{json.dumps(name)}: {definition(number, files)}".encode()
        yield b"}"

    def one(self, name: str) -> bytes:
        number = self.classes.get(name)
        if number is None:
            return b"{}"
        return f'{{"{name}": {definition(number, json.dumps(self.files))}}}'.encode()


class _Handler(BaseHTTPRequestHandler):
    server: LargeServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = unquote(self.path).partition("?")[0].removeprefix("/api")
        self.server.asked.append(path)
        if path == "/object_info":
            self._all()
        elif path.startswith("/object_info/"):
            self._answer(self.server.one(path.removeprefix("/object_info/")))
        elif path == "/internal/logs/raw":
            self._answer(json.dumps({"entries": self.server.log, "size": None}).encode())
        elif path == "/asked":  # of the tests, which run in another process
            del self.server.asked[-1]
            self._answer(json.dumps(self.server.asked).encode())
            self.server.asked.clear()
        elif path == "/prompt":
            self._answer(b'{"exec_info": {"queue_remaining": 0}}')
        else:
            self._answer(b"404: Not Found", 404, "text/plain")

    def do_POST(self) -> None:
        sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(self.path.removeprefix("/api"))
        self._answer(json.dumps(self._refusal(sent["prompt"])).encode(), 400)

    def _refusal(self, graph: dict[str, Any]) -> dict[str, Any]:
        for node_id, node in graph.items():
            if node["class_type"] not in self.server.classes:
                info = {"node_id": node_id, "class_type": node["class_type"], "node_title": None}
                error = {"type": "missing_node_type", "message": "Node not found", "details": ""}
                return {"error": {**error, "extra_info": info}, "node_errors": {}}
        node_id, node = next(iter(graph.items()))
        fault = {"type": "value_not_in_list", "message": "Value not in list", "details": ""}
        errors = {"errors": [fault], "dependent_outputs": [], "class_type": node["class_type"]}
        return {"error": {"type": "prompt_outputs_failed_validation", "message": "", "details": ""},
                "node_errors": {node_id: errors}}  # fmt: skip

    def _all(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(sum(map(len, self.server.whole()))))
        self.end_headers()
        try:
            for piece in self.server.whole():
                self.wfile.write(piece)
        except OSError:  # the client has enough of it
            self.close_connection = True

    def _answer(self, body: bytes, status: int = 200, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def large_server(classes: int = CLASSES, files: list[str] = FILES) -> Iterator[LargeServer]:
    with LargeServer(classes, files) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class OtherProcess:
    """The server in a process of its own, so that a client's memory and time are the client's."""

    def __init__(self, url: str) -> None:
        self.url = url

    def asked_for(self, start: str) -> list[str]:
        """The paths below this one that were asked for since the last call."""
        with urlopen(f"{self.url}/asked") as answer:
            return [path for path in json.load(answer) if path.startswith(start)]


@contextmanager
def in_another_process() -> Iterator[OtherProcess]:
    command = [sys.executable, "-m", "tests.helpers.large_server"]
    folder = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder) as process:
        try:
            assert process.stdout is not None
            yield OtherProcess(process.stdout.readline().strip())
        finally:
            process.kill()


def workflow(classes: int = 40, first: int = 0) -> dict[str, Any]:
    """A workflow of this many classes, each node after the one before it."""
    graph: dict[str, Any] = {}
    for number in range(first + classes - 1, first - 1, -1):
        inputs = {"model": FILES[number % len(FILES)], "strength": 1.0}
        if graph:
            inputs["image"] = [str(number + 1), 0]
        graph[str(number)] = {"class_type": name_of(number), "inputs": inputs}
    return graph


def main() -> None:
    """Serve until the process ends."""
    parser = argparse.ArgumentParser(prog="python -m tests.helpers.large_server")
    parser.parse_args()
    with LargeServer() as server:
        print(server.url, flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
