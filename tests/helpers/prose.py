"""Texts of others in recorded data: tooltips, descriptions, notes and price formulas.

Recordings keep the names, types, defaults, choices and values that ComfyUI told.  Its explanations
are not needed to test with, and not ours to copy.  This command removes them from new files::

    python -m tests.helpers.prose FILE...
"""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

_DEFINITION = {"input", "output", "category"}
_SUBGRAPH = {"nodes", "links"}
#: Also the last one of a text that a recording cuts off.
_TOOLTIP = re.compile(r'(, )?"tooltip": "(?:[^"\\]|\\.)*(?:"|\\?$)(?(1)|(?:, )?)')


def without_prose(value: Any) -> Any:
    """Return JSON data without tooltips, descriptions, texts of notes and price formulas."""
    if isinstance(value, str):
        return _text_without(value)
    if isinstance(value, list):
        return [without_prose(one) for one in value]
    if not isinstance(value, dict):
        return value
    found = {
        key: without_prose(each)
        for key, each in value.items()
        if not (key == "tooltip" and isinstance(each, str))
    }
    if found.keys() >= _DEFINITION or found.keys() >= _SUBGRAPH:
        if "description" in found:
            found["description"] = ""
        if found.get("output_tooltips"):
            found["output_tooltips"] = [None] * len(found["output_tooltips"])
        if "price_badge" in found:
            found["price_badge"] = None
    if found.get("type") in ("Note", "MarkdownNote"):
        texts = ("widgets_values", "widgets_values_named")
        found |= {key: _blank(found[key]) for key in texts if key in found}
    return found


def _text_without(text: str) -> str:
    if text.startswith(("{", "[")):
        with contextlib.suppress(ValueError):
            value = json.loads(text)
            found = without_prose(value)
            return text if found == value else json.dumps(found)
    return _TOOLTIP.sub("", text)


def _blank(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _blank(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_blank(one) for one in value]
    return "" if isinstance(value, str) else value


def content(path: Path) -> bytes:
    """Return what a file holds, unpacked if its name ends in ``.gz``."""
    data = path.read_bytes()
    return gzip.decompress(data) if path.suffix == ".gz" else data


def values(path: Path) -> Iterator[Any]:
    """Yield the JSON values of a file: one, or one for each line of JSON lines."""
    data = content(path)
    if ".jsonl" in path.suffixes:
        yield from map(json.loads, data.splitlines())
    else:
        yield json.loads(data)


def clean(path: Path) -> bool:
    """Remove these texts from a file, and keep its style; return whether there were any."""
    if all(without_prose(value) == value for value in values(path)):
        return False
    text = content(path).decode()
    if ".jsonl" in path.suffixes:
        text = "".join(f"{_cleaned(line)}\n" for line in text.rstrip("\n").split("\n"))
    else:
        text = _cleaned(text.rstrip("\n")) + "\n"
    data = text.encode()
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return True


def _cleaned(text: str) -> str:
    value = json.loads(text)
    found = without_prose(value)
    if found == value:
        return text
    style = next((style for style in STYLES if style(value) == text), json.dumps)
    return style(found)


def _line_for_each_key(value: Any) -> str:
    lines = (f" {json.dumps(key)}: {json.dumps(each)}" for key, each in value.items())
    return "{\n" + ",\n".join(lines) + "\n}"


_compact = partial(json.dumps, separators=(",", ":"))
STYLES: tuple[Callable[[Any], str], ...] = (
    *(json.dumps, partial(json.dumps, ensure_ascii=False), partial(json.dumps, indent=1)),
    *(_compact, partial(_compact, ensure_ascii=False), _line_for_each_key),
)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print("cleaned" if clean(Path(name)) else "nothing to remove", name)
