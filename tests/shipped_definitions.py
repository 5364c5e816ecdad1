"""The node definitions that the package contains, made of what ComfyUI answers.

``GET /object_info`` of a ComfyUI, saved in a file (also ``.json.gz``), loses its tooltips and
descriptions and is packed, the same bytes each time::

    python -m tests.shipped_definitions VERSION FILE
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import comfy_client.testing
from tests.helpers.prose import content, without_prose

FOLDER = Path(comfy_client.testing.__file__).parent


def path_of(version: str) -> Path:
    """Where the package has the definitions of a version."""
    return FOLDER / f"object_info_{version}.json.gz"


def packed(definitions: Any) -> bytes:
    """Return the file for definitions: no prose, no spaces, no time, no name of a system."""
    text = json.dumps(without_prose(definitions), separators=(",", ":"), ensure_ascii=False)
    data = bytearray(gzip.compress(text.encode(), 9, mtime=0))
    data[9] = 255  # Python 3.11 writes another system than later ones
    return bytes(data)


if __name__ == "__main__":
    version, source = sys.argv[1:]
    path_of(version).write_bytes(packed(json.loads(content(Path(source)))))
    print(path_of(version))
