"""What comfy_client is measured against: http.client and the low-level websocket-client."""

from __future__ import annotations

import http.client
import json
import uuid
from typing import Any
from urllib.parse import urlencode, urlsplit

import websocket


class Reference:
    """Submits, waits for the end marker, reads history, downloads; no more than that."""

    def __init__(self, url: str) -> None:
        where = urlsplit(url)
        self.client_id = uuid.uuid4().hex
        self.http = http.client.HTTPConnection(where.hostname or "", where.port)
        # Without the check of UTF-8 in pure Python, which costs more than all the rest.
        self.ws = websocket.WebSocket(skip_utf8_validation=True)
        self.ws.connect(f"ws://{where.netloc}/ws?clientId={self.client_id}", suppress_origin=True)
        self.ws.recv_data()

    def ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        self.http.request(method, path, body)
        return self.http.getresponse().read()

    def queue(self, graph: dict[str, Any]) -> str:
        body = json.dumps({"prompt": graph, "client_id": self.client_id}).encode()
        return str(json.loads(self.ask("POST", "/prompt", body))["prompt_id"])

    def wait(self, prompt_id: str) -> None:
        message: dict[str, Any] = {}
        end = {"node": None, "prompt_id": prompt_id}
        while not (message.get("type") == "executing" and message["data"] == end):
            opcode, data = self.ws.recv_data()
            message = json.loads(data) if opcode == websocket.ABNF.OPCODE_TEXT else {}

    def fetch(self, prompt_id: str) -> bytes:
        entry = json.loads(self.ask("GET", f"/history/{prompt_id}"))[prompt_id]
        (image,) = (i for output in entry["outputs"].values() for i in output["images"])
        return self.ask("GET", "/view?" + urlencode(image))

    def run(self, graph: dict[str, Any]) -> bytes:
        prompt_id = self.queue(graph)
        self.wait(prompt_id)
        return self.fetch(prompt_id)

    def close(self) -> None:
        self.http.close()
        self.ws.shutdown()
