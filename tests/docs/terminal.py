"""Pictures of a terminal: a command runs in one, and its screen becomes an SVG."""

from __future__ import annotations

import fcntl
import html
import os
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Mapping
from itertools import groupby

import pyte

COLUMNS, ROWS = 100, 60
#: Seconds after which a command is given up.
TIMEOUT = 60
#: The size of a character, and the space around the text.
WIDTH, HEIGHT, MARGIN = 8, 19, 16
BACKGROUND, FOREGROUND = "#16181d", "#d7dae0"
COLORS = {
    "red": "#ff7b72",
    "green": "#7ee787",
    "brown": "#e3b341",
    "blue": "#79c0ff",
    "cyan": "#56d4dd",
    "magenta": "#d2a8ff",
}

Screen = list[list[pyte.screens.Char]]


def screen_of(
    command: list[str], env: Mapping[str, str], folder: str, until: str | None = None
) -> Screen:
    """Run a command, and return its screen at its end, or once a line matches ``until``.

    A command that is not at its end is interrupted.
    """
    screen = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.ByteStream(screen)
    ours, its = os.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    process = subprocess.Popen(
        command, stdin=its, stdout=its, stderr=its, env=env, cwd=folder, start_new_session=True
    )
    os.close(its)
    seen: Screen = []
    deadline = time.monotonic() + TIMEOUT
    while data := _read(ours, deadline):
        stream.feed(data)
        if until and re.search(until, "\n".join(screen.display)):
            seen = _lines(screen)
            process.send_signal(signal.SIGINT)
            until = None
    os.close(ours)
    process.wait(TIMEOUT)
    assert until is None, f"no line matches {until}:\n" + "\n".join(screen.display).rstrip()
    return seen or _lines(screen)


def _read(fd: int, deadline: float) -> bytes:
    """Return what a command wrote, or nothing at its end."""
    if not select.select([fd], [], [], max(0, deadline - time.monotonic()))[0]:
        raise TimeoutError("the command has not ended")
    try:
        return os.read(fd, 1 << 16)
    except OSError:  # the end of a terminal
        return b""


def _lines(screen: pyte.Screen) -> Screen:
    """Return the characters of the lines, without the empty ones at the end."""
    lines = [[screen.buffer[y][x] for x in range(COLUMNS)] for y in range(ROWS)]
    while lines and not "".join(char.data for char in lines[-1]).strip():
        lines.pop()
    return lines


def svg(parts: list[tuple[str, Screen]]) -> str:
    """Return a picture of commands, each with its screen below it."""
    body, y = [], MARGIN
    for command, screen in parts:
        for line in f"$ {command}".splitlines():
            y += HEIGHT
            body.append(_text(len(line) - len(line.lstrip()), y, line.strip(), bold=True))
        for line in screen:
            y += HEIGHT
            body += _runs(line, y)
        y += HEIGHT // 2
    width, height = COLUMNS * WIDTH + 2 * MARGIN, y + MARGIN
    size = f'width="{width}" height="{height}"'
    font = "font-family=\"ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace\""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {width} {height}">'
    area = f'<rect width="100%" height="100%" rx="8" fill="{BACKGROUND}"/>'
    texts = f'<g {font} font-size="13" xml:space="preserve">'
    return "\n".join([head, area, texts, *body, "</g>", "</svg>", ""])


def _runs(line: list[pyte.screens.Char], y: int) -> Iterator[str]:
    """Yield the pieces of a line that have one color."""
    x = 0
    for (color, bold), chars in groupby(line, key=lambda char: (char.fg, char.bold)):
        text = "".join(char.data for char in chars)
        fill = COLORS.get(color, FOREGROUND)
        for piece in re.finditer(r"█+|[^\s█]+(?: [^\s█]+)*", text):  # a bar, a column of a table
            draw = _bar if piece[0][0] == "█" else _text
            yield draw(x + piece.start(), y, piece[0], fill, bold=bold)
        x += len(text)


def _text(x: int, y: int, text: str, fill: str = FOREGROUND, *, bold: bool) -> str:
    """Return a text whose width depends on no font."""
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{MARGIN + x * WIDTH}" y="{y}" textLength="{len(text) * WIDTH}" '
        f'fill="{fill}"{weight}>{html.escape(text)}</text>'
    )


def _bar(x: int, y: int, text: str, fill: str, *, bold: bool) -> str:
    """Return a row of full blocks, between which fonts leave gaps."""
    return (
        f'<rect x="{MARGIN + x * WIDTH}" y="{y - HEIGHT + 6}" width="{len(text) * WIDTH}" '
        f'height="{HEIGHT - 4}" fill="{fill}"/>'
    )
