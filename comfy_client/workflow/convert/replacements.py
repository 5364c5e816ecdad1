"""``%KSampler.seed%`` and ``%date:yyyy-MM-dd%`` in file names, which the page fills in."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

from .nodes import Node
from .widgets import MISSING, text_of

#: The classes whose ``filename_prefix`` the page fills in.
SAVING: Final = frozenset(
    (
        "CLIPSave",
        "LoraSave",
        "ModelSave",
        "Save3DAdvanced",
        "SaveAnimatedPNG",
        "SaveAnimatedWEBP",
        "SaveAudio",
        "SaveAudioAdvanced",
        "SaveAudioMP3",
        "SaveAudioOpus",
        "SaveGLB",
        "SaveGaussianSplat",
        "SaveImage",
        "SaveImageAdvanced",
        "SaveLatent",
        "SavePointCloud",
        "SaveSVGNode",
        "SaveVideo",
        "SaveWEBM",
        "VAESave",
    )
)
_PATTERN: Final = re.compile(r"%([^%]+)%")
_UNSAFE: Final = re.compile(r'[/?<>\\:*|"\x00-\x1f\x7f]')
_DATE: Final = re.compile(r"dd?|MM?|hh?|mm?|ss?|yyyy?")


def fill_in(text: str, nodes: Iterable[Node], now: datetime) -> str:
    """A text with the values of widgets and the date in it; what is unknown stays."""
    if "%" not in text:
        return text
    known = [*nodes]

    def replace(found: re.Match[str]) -> str:
        name, *rest = found[1].split(".")
        if not rest:
            is_date = name.startswith("date:")
            return _date(name.removeprefix("date:"), now) if is_date else found[0]
        value = _value(known, name, rest[0]) if len(rest) == 1 else MISSING
        return found[0] if value is MISSING else _UNSAFE.sub("_", text_of(value))

    return _PATTERN.sub(replace, text)


def _value(nodes: list[Node], name: str, widget: str) -> Any:
    named = [one for one in nodes if _alias(one) == name]
    node = next(iter(named or [one for one in nodes if one.title == name]), None)
    found = None if node is None else node.widget(widget)
    return MISSING if found is None else found.value


def _alias(node: Node) -> object:
    """The name of a node for this; without one, its class, but for those that save files."""
    default = None if node.type in SAVING or node.definition is None else node.type
    return node.saved.properties.get("Node name for S&R", default)


def _date(pattern: str, now: datetime) -> str:
    parts = {"d": now.day, "M": now.month, "h": now.hour, "m": now.minute, "s": now.second}

    def replace(found: re.Match[str]) -> str:
        sign = found[0]
        if sign[0] == "y":
            return {"yyyy": f"{now.year:04}", "yy": f"{now.year:04}"[2:]}.get(sign, sign)
        return f"{parts[sign[0]]:0{len(sign)}}"

    return _DATE.sub(replace, pattern)
