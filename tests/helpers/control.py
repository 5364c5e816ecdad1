"""Calls of the control of an embedded server over HTTP."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

import requests

from comfy_client.testing import ComfyServer

LIMIT = 10.0  # seconds for an answer
#: What a program in JavaScript does; its arguments are method, URL and body.
SCRIPT = """
const [method, url, body] = process.argv.slice(1);
const options = body ? {method, body, headers: {"Content-Type": "application/json"}} : {method};
fetch(url, options).then(async (answer) => {
  console.log(JSON.stringify([answer.status, await answer.json()]));
});
"""


def call(
    server: ComfyServer, method: str, path: str, data: Any = None, **headers: str
) -> tuple[int, Any]:
    """The status and the JSON of an answer."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = requests.request(
        method, f"{server.control_url}{path}", json=data, headers=named, timeout=LIMIT
    )
    return answer.status_code, answer.json()


def curl(method: str, url: str, data: Any = None, *options: str) -> tuple[int, Any]:
    """The same by curl."""
    body = [] if data is None else ["--json", json.dumps(data)]
    command = ["curl", "-sS", "-m", str(LIMIT), "-X", method, "-w", "%{http_code}", *body, *options]
    out = subprocess.run([*command, url], capture_output=True, text=True, check=True).stdout
    return int(out[-3:]), json.loads(out[:-3])


def node(method: str, url: str, data: Any = None) -> tuple[int, Any]:
    """The same by Node.js."""
    command = ["node", "-e", SCRIPT, "--", method, url]
    command += [] if data is None else [json.dumps(data)]
    out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=LIMIT).stdout
    status, content = json.loads(out)
    return status, content


def by_requests(method: str, url: str, data: Any = None) -> tuple[int, Any]:
    """The same by requests, for machines without one of the others."""
    answer = requests.request(method, url, json=data, timeout=LIMIT)
    return answer.status_code, answer.json()


#: The programs that this machine has.
PROGRAMS = [
    by_requests,
    *(program for program in (curl, node) if shutil.which(program.__name__)),
]
