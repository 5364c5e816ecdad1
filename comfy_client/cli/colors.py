"""Colors of statuses on a terminal; click leaves them out of pipes and files."""

from __future__ import annotations

import os
from typing import Final

import click

#: The color of each status; other statuses have none.
_COLORS: Final = {
    "succeeded": "green",
    "failed": "red",
    "lost": "red",
    "interrupted": "yellow",
    "gone": "yellow",
    "running": "cyan",
}


def colored(text: str, status: str, word: str | None = None) -> str:
    """Return a text whose first ``word``, by default the status, has the color of the status.

    The text is unchanged if the status has no color, ``NO_COLOR`` is set, or the terminal is dumb.
    """
    color = _COLORS.get(status)
    if color is None or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    word = word or status
    before, found, after = text.partition(word)
    return f"{before}{click.style(found, fg=color)}{after}" if found else text
