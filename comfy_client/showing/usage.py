"""How busy a machine is: as a line of text, and as meters that a notebook updates in place."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

import attrs

from .bars import InPlace
from .html import Bundle, bundle, escape, meter, remark, short_line

log: logging.Logger = logging.getLogger("comfy_client")

#: The most characters of a text, however large the numbers in it.
_MOST: Final = 40
#: From here on, in percent, a meter is red.
_FULL: Final = 95.0
_NAME: Final = '<div style="display:inline-block;width:8em">'


@attrs.frozen
class Usage:
    """How much of something is used.

    Attributes:
        name: What is used, such as ``memory``.
        text: How much of it, such as ``4.0 of 16.0 GiB``.
        percent: The same in percent; ``None``: unknown.
    """

    name: str
    text: str
    percent: float | None


def usages(figures: Mapping[str, Any]) -> Iterator[Usage]:
    """Yield what is known of a machine, from the ``to_dict()`` of a ``MonitorEvent``."""
    yield from _busy("CPU", figures.get("cpu_utilization"))
    yield from _filled("memory", figures, "ram")
    yield from _filled("disk", figures, "disk")
    for gpu in figures.get("gpus") or ():
        yield from _busy(f"GPU {gpu['index']}", gpu["utilization"], gpu["temperature"])
        yield from _filled(f"GPU {gpu['index']} memory", gpu, "vram")


def usage_line(figures: Mapping[str, Any]) -> str:
    """Return what is known of a machine as one line of text."""
    return ", ".join(f"{one.name} {one.text}" for one in usages(figures)) or "nothing is measured"


def _busy(name: str, percent: float | None, degrees: float | None = None) -> Iterator[Usage]:
    facts = [] if percent is None else [f"{percent:.0f} %"]
    facts += [] if degrees is None else [f"{degrees:.0f} °C"]
    if facts:
        yield Usage(name, short_line(" ".join(facts), _MOST), percent)


def _filled(name: str, figures: Mapping[str, Any], key: str) -> Iterator[Usage]:
    used, total = figures.get(f"{key}_used"), figures.get(f"{key}_total")
    percent = figures.get(f"{key}_used_percent")
    if used is not None:
        text = f"{used / 2**30:.1f}{'' if total is None else f' of {total / 2**30:.1f}'} GiB"
        yield Usage(name, short_line(text, _MOST), percent)
    elif percent is not None:
        yield Usage(name, short_line(f"{percent:.0f} %", _MOST), percent)


class UsageView:
    """How busy a machine is, below a cell of a notebook; each update replaces the one before."""

    def __init__(self, server: str, period: float = 0.25) -> None:
        """Make a view of a server; ``period`` is the fewest seconds between two drawings.

        Others choose how often figures come.
        """
        self._server = server
        self._period = period
        self._place = InPlace()
        self._due = 0.0
        self._shown = self._drawn(remark("no figures yet"), "no figures yet")

    def display(self) -> None:
        """Show the latest figures below the running cell, which gets all later ones."""
        place = InPlace()
        place.put(self._shown)
        self._place = place

    def say(self, text: str) -> None:
        """Show a sentence instead of figures, below the running cell."""
        InPlace().put(self._drawn(remark(text, "bad"), short_line(text)))

    def update(self, figures: Mapping[str, Any]) -> None:
        """Show figures, as of :func:`usages`, unless the last ones have just been drawn."""
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + self._period
        rows = "".join(map(_row, usages(figures)))
        at = time.strftime("%H:%M:%S")
        self._shown = self._drawn(f"{rows}{remark(at)}", f"{usage_line(figures)} ({at})")
        try:
            self._place.put(self._shown)
        except Exception as exc:  # noqa: BLE001  # the notebook may be gone
            log.debug("the use of a machine is not shown: %r", exc)

    def _drawn(self, markup: str, text: str) -> Bundle:
        server = short_line(self._server, 200)
        return bundle(f"{server}: {text}", f"<div>{escape(server)}</div>{markup}")


def _row(usage: Usage) -> str:
    bar = ""
    if usage.percent is not None:
        mood = "bad" if usage.percent >= _FULL else ""
        bar = meter(usage.percent / 100, mood)
    return f"{_NAME}{escape(usage.name)}</div>{escape(usage.text)}{bar}"
