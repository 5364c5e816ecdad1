"""What real servers said, as steps for `ComfyServer.script`; see recordings/README.md."""

from __future__ import annotations

import base64
import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comfy_client.testing import PROMPT_ID, Finish, Step

RECORDINGS = Path(__file__).parents[1] / "recordings"


@dataclass
class Recording:
    """What one real server said: steps to play, and its HTTP answers as recorded."""

    steps: list[Step]
    http: list[dict[str, Any]]
    prompt_id: str | None


def recording(version: str, name: str, prompt: int = 0) -> Recording:
    """Read ``recordings/<version>/<name>.jsonl``: what socket ``ws1`` got about one prompt.

    `prompt` counts the accepted ones.  Greetings and ``status`` are left out: the server sends
    its own.  Pictures are zeros of the recorded length behind the recorded header.
    """
    text = (RECORDINGS / version / f"{name}.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    answers = [r for r in rows if r["kind"] == "http"]
    posts = [r for r in answers if r["path"] == "/prompt" and "prompt_id" in r["response"]]
    accepted = [r["response"]["prompt_id"] for r in posts if r["status"] == 200]
    prompt_id = accepted[prompt] if accepted else None
    if prompt_id:
        rows = [json.loads(line.replace(prompt_id, PROMPT_ID)) for line in text.splitlines()]
    entry = current = None
    for row in rows:
        if row["kind"] == "http" and row["path"] == f"/history/{PROMPT_ID}":
            entry = row["response"].get(PROMPT_ID)
    steps: list[Step] = []
    for row in rows:
        if row.get("ch") != "ws1" or row["kind"] not in ("json", "binary"):
            continue
        if row["kind"] == "json":
            current = row["msg"]["data"].get("prompt_id", current)
        if current != PROMPT_ID:
            continue
        if row["kind"] == "binary":
            steps.append(_binary(row))
        elif row["msg"]["type"] not in ("status", "feature_flags"):
            if row["msg"] == {"type": "executing", "data": {"node": None, "prompt_id": PROMPT_ID}}:
                steps.append(Finish(entry))  # a real server writes history just before this
            steps.append(row["msg"])
    return Recording(steps, answers, prompt_id)


def _binary(row: dict[str, Any]) -> bytes:
    head = bytes.fromhex(row["header_hex"])
    if "metadata" in row:
        metadata = json.dumps(row["metadata"]).encode()
        head = head[:4] + struct.pack(">I", len(metadata)) + metadata
        head += b"\xff\xd8\xff\xe0" if row["body"] == "JPEG" else b"\x89PNG\r\n\x1a\n"
    else:
        head = base64.b64decode(row["head_b64"])
    return head.ljust(row["len"], b"\0")
