"""Colors of statuses on a terminal; click leaves them out of pipes and files."""

from __future__ import annotations

import os
from typing import Final

import click

#: The color of each status; others have none.
_COLORS: Final = {
    "succeeded": "green",
    "failed": "red",
    "lost": "red",
    "interrupted": "yellow",
    "gone": "yellow",
    "running": "cyan",
}


def colored(text: str, status: str, word: str | None = None) -> str:
    """Color the first ``word`` in a text as its status, or the first ``status`` itself.

    The text stays as it is if the environment has ``NO_COLOR`` or a dumb terminal.
    """
    color = _COLORS.get(status)
    if color is None or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    word = word or status
    before, found, after = text.partition(word)
    return f"{before}{click.style(found, fg=color)}{after}" if found else text
