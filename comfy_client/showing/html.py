"""Pieces of HTML with inline styles only, as some notebooks remove other styles.

Every function escapes the texts it is given.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from typing import Final

#: The forms of a value for IPython: texts by MIME type.
Bundle = dict[str, str]

#: The most characters of one text.
MOST_TEXT: Final = 2000
#: MIME types allowed in a notebook.
PLAYABLE: Final = frozenset(
    {
        "image/png",
        "image/jpeg",
        "image/webp",
        "image/gif",
        "video/mp4",
        "video/webm",
        "audio/flac",
        "audio/mpeg",
        "audio/ogg",
        "audio/wav",
        "audio/mp4",
    }
)
#: The font of texts, and the colours of moods, which are readable on light and dark pages.
FONT: Final = "font:12px/1.5 system-ui,sans-serif"
_DIM: Final = "opacity:.7"
#: Classes that make MathJax 2 and 3 ignore "$...$".
_NO_FORMULAS: Final = "tex2jax_ignore mathjax_ignore"
COLOURS: Final = {"good": "#2e8b57", "bad": "#d9483b", "doubtful": "#b8860b", "": "inherit"}


def bundle(text: str, markup: str) -> Bundle:
    """Return the text and HTML of a value by MIME type; protect dollar signs from MathJax."""
    whole = f'<div class="{_NO_FORMULAS}" style="{FONT}">{markup}</div>'
    return {"text/plain": text, "text/html": whole}


def short_line(text: str, most: int = MOST_TEXT) -> str:
    """Shorten a text to one line without control characters."""
    shown = "".join(char if char.isprintable() else " " for char in text[: 2 * most])
    shown = " ".join(shown.split())
    return shown if len(shown) <= most and len(text) <= 2 * most else f"{shown[: most - 3]}..."


def escape(text: object, most: int = MOST_TEXT) -> str:
    """Escape a text as one line of HTML."""
    return html.escape(short_line(str(text), most))


def paragraph(text: str) -> str:
    """Return a text as HTML with its line breaks, in a box that scrolls."""
    shown = text if len(text) <= MOST_TEXT else f"{text[: MOST_TEXT - 3]}..."
    shown = "".join(char if char.isprintable() or char in "\n\t" else " " for char in shown)
    return (
        '<pre style="margin:4px 0;padding:6px 8px;max-height:16em;max-width:60em;overflow:auto;'
        f'white-space:pre-wrap;border:1px solid rgba(128,128,128,.3)">{html.escape(shown)}</pre>'
    )


def remark(text: str, mood: str = "") -> str:
    """Return a text as HTML on a line of its own."""
    colour = f"color:{COLOURS[mood]}" if mood else _DIM
    return f'<div style="{colour}">{escape(text)}</div>'


def link(url: str | None, markup: str) -> str:
    """Wrap HTML in a link; return it unchanged if the URL is not http or https, or is too long."""
    if url is None or not url.startswith(("http://", "https://")) or len(url) > MOST_TEXT:
        return markup
    href = html.escape(url, quote=True)
    return f'<a href="{href}" target="_blank" rel="noopener noreferrer">{markup}</a>'


def data_url(mime: str, data: bytes | memoryview) -> str | None:
    """Return a data URL for a picture, video or sound; None if browsers do not play the type."""
    if mime not in PLAYABLE:
        return None
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


def image(source: str, size: tuple[int, int] | None = None, most: int = 256) -> str:
    """Return an ``<img>`` for a :func:`data_url`, no wider than the cell; sizes in CSS pixels."""
    stated = "" if size is None else f' width="{size[0]}" height="{size[1]}"'
    fit = "height:auto" if size else f"max-height:{most}px"
    style = f"display:block;margin:0;max-width:min({most}px,100%);{fit}"
    return f'<img src="{source}"{stated} style="{style}" alt="">'


def player(kind: str, source: str) -> str:
    """Return a player for the video or sound of a :func:`data_url`."""
    if kind == "audio":
        return f'<audio controls preload="metadata" src="{source}" style="width:256px"></audio>'
    style = "display:block;min-width:160px;max-width:256px;max-height:256px"
    return f'<video controls loop muted preload="metadata" src="{source}" style="{style}"></video>'


def card(picture: str, lines: Iterable[str], width: int = 256) -> str:
    """Return a picture with lines of text below it; ``picture`` and ``lines`` are HTML."""
    below = "".join(f"<div>{line}</div>" for line in lines)
    return (
        '<figure style="display:inline-block;vertical-align:top;margin:0 10px 10px 0;'
        f'max-width:min({width}px,100%);overflow-wrap:anywhere">{picture}'
        f'<figcaption style="{FONT};margin-top:2px">{below}</figcaption></figure>'
    )


def failure(text: str, width: int) -> str:
    """Return an HTML box that takes the place of a picture and says why there is none."""
    return (
        f'<div style="box-sizing:border-box;width:{width}px;min-height:{width // 2}px;padding:6px;'
        f'border:1px solid {COLOURS["bad"]};color:{COLOURS["bad"]};overflow-wrap:anywhere">'
        f"{escape(text, 200)}</div>"
    )


def sheet(
    columns: Sequence[str], lines: Sequence[str], cells: Sequence[Sequence[str]], width: int
) -> str:
    """Return an HTML table of pictures with labels; ``cells`` are HTML, one sequence per row."""
    style = f"text-align:left;vertical-align:top;padding:4px 8px 4px 0;max-width:{width}px"
    row = '<tr style="background:none;border:none">'
    corner = f'<th style="{style}"></th>' if lines else ""
    head = "".join(f'<th style="{style}">{escape(label, 200)}</th>' for label in columns)
    parts = [f"{row}{corner}{head}</tr>"] if columns else []
    for at, line in enumerate(cells):
        label = f'<th style="{style}">{escape(lines[at], 200)}</th>' if lines else ""
        body = "".join(f'<td style="{style}">{cell}</td>' for cell in line)
        parts.append(f"{row}{label}{body}</tr>")
    table = f'<table style="border-collapse:collapse;{FONT}">{"".join(parts)}</table>'
    return f'<div style="overflow-x:auto">{table}</div>'


def meter(fraction: float, mood: str = "") -> str:
    """Return an HTML progress bar that is filled up to ``fraction``."""
    percent = 100 * min(max(0.0, fraction), 1.0)
    colour = {"": "#3b82f6", "good": "#2e8b57", "over": "#808080"}.get(mood, COLOURS["bad"])
    return (
        '<div style="width:256px;height:6px;margin:4px 0;border-radius:3px;overflow:hidden;'
        'background:rgba(128,128,128,.3)">'
        f'<div style="width:{percent:.1f}%;height:100%;background:{colour}"></div></div>'
    )
