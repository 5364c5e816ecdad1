"""Placeholders in file names, such as ``%KSampler.seed%`` and ``%date:yyyy-MM-dd%``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

from ...errors import WorkflowError
from .open_nodes import OpenNode, Slot
from .widgets import MISSING, text_of

#: The classes in whose ``filename_prefix`` the frontend replaces placeholders.
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
#: The most characters of all replacements: a file may repeat a long value.
_MOST: Final = 1_000_000
_PATTERN: Final = re.compile(r"%([^%]+)%")
_UNSAFE: Final = re.compile(r'[/?<>\\:*|"\x00-\x1f\x7f]')
_DATE: Final = re.compile(r"dd?|MM?|hh?|mm?|ss?|yyy?y?")


class Placeholders:
    """The values for placeholders in file names: the nodes that they can name, and the time."""

    def __init__(self, nodes: Iterable[OpenNode], now: datetime) -> None:
        self._aliases: dict[object, OpenNode] = {}
        self._titles: dict[str, OpenNode] = {}
        self._now = now
        self._left = _MOST
        self._slots: dict[OpenNode, dict[str, Slot]] = {}
        for node in nodes:
            self._titles.setdefault(node.title, node)
            alias = _alias(node)
            if isinstance(alias, str):
                self._aliases.setdefault(alias, node)

    def fill_in(self, text: str) -> str:
        """Replace the placeholders in a text with values of widgets or the date; keep unknown ones.

        Raises:
            WorkflowError: All replacements together are too long.
        """
        return _PATTERN.sub(self._replace, text)

    def _replace(self, found: re.Match[str]) -> str:
        name, *rest = found[1].split(".")
        if not rest and name.startswith("date:"):
            return _date(name.removeprefix("date:"), self._now)
        value = self._value(name, rest[0]) if len(rest) == 1 else MISSING
        if value is MISSING:
            return found[0]
        text = text_of(value)
        self._left -= len(text)
        if self._left < 0:
            raise WorkflowError("the values to fill into file names are too long")
        return _UNSAFE.sub("_", text)

    def _value(self, name: str, widget: str) -> Any:
        node = self._aliases.get(name) or self._titles.get(name)
        if node is None:
            return MISSING
        found = node.widget(widget)
        if found is None:  # an instance shows widgets of inner nodes
            if node not in self._slots:
                self._slots[node] = {each.name: each for each in reversed(node.inputs)}
            slot = self._slots[node].get(widget)
            return slot.value if slot is not None and slot.promoted else MISSING
        return "" if found.value is MISSING else found.value


def _alias(node: OpenNode) -> object:
    """Return the name by which placeholders find a node, or None if only its title can be used.

    A node without a name of its own has the name of its class, unless it saves files.
    """
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
