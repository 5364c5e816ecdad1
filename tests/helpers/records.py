"""What a recording says."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def graph(color: int = 255, **inputs: Any) -> dict[str, Any]:
    """A small picture."""
    size = {"width": 16, "height": 16, "batch_size": 1, "color": color}
    return {
        "1": {"class_type": "EmptyImage", "inputs": size, "_meta": {}},
        "2": {
            "class_type": "SaveImage",
            "inputs": {"images": ["1", 0], "filename_prefix": "blue", **inputs},
            "_meta": {},
        },
    }


def rows(path: Path) -> list[dict[str, Any]]:
    """The lines of a recording."""
    return [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]


def so_far(path: Path) -> list[dict[str, Any]]:
    """The lines of a recording that goes on: the last may be half written."""
    whole = path.read_text(encoding="ascii").rpartition("\n")[0]
    return [json.loads(line) for line in whole.splitlines()]


def texts(value: Any) -> Iterator[str]:
    """Every text in a JSON value, also what is in Base64."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, each in value.items():
            yield key
            if key.endswith("_b64"):
                yield base64.b64decode(each).decode("utf-8", "replace")
            yield from texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from texts(each)
