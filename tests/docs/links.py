"""Dead links and unreachable pages of the finished site."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from posixpath import dirname, join, normpath
from urllib.parse import unquote, urlsplit

_LINK = re.compile(r'\s(?:href|src)="([^"]*)"')
_ANCHOR = re.compile(r'\s(?:id|name)="([^"]*)"')
#: Pages that Sphinx fills when they are opened, or that lead anywhere.
_MADE_BY_SPHINX = {"search.html", "genindex.html", "py-modindex.html"}


def mistakes(site: Path) -> list[str]:
    """Return a line for each dead link, and for each page that no link leads to."""
    pages = {path.relative_to(site).as_posix(): path for path in site.rglob("*.html")}
    texts = {name: path.read_text(encoding="utf-8") for name, path in sorted(pages.items())}
    anchors = {name: set(_ANCHOR.findall(text)) for name, text in texts.items()}
    found = []
    leads: dict[str, set[str]] = {name: set() for name in texts}
    for name, text in texts.items():
        for link, target, anchor in internal(name, text):
            leads[name].add(target)
            if not site.joinpath(target).is_file():
                found.append(f"{name}: no file for the link {link}")
            elif anchor and target in anchors and anchor not in anchors[target]:
                found.append(f"{name}: no anchor for the link {link}")
    reached, todo = {"index.html"}, ["index.html"]
    while todo:
        new = leads[todo.pop()] & leads.keys() - reached
        reached |= new
        todo += new
    unreached = leads.keys() - reached - _MADE_BY_SPHINX
    return [*found, *(f"{name}: no link leads to this page" for name in sorted(unreached))]


def internal(page: str, text: str) -> Iterator[tuple[str, str, str]]:
    """Yield the links of a page to the site itself: as written, the file, and the anchor."""
    for link in dict.fromkeys(_LINK.findall(text)):
        parts = urlsplit(link)
        if not (parts.scheme or parts.netloc):
            path = unquote(parts.path)
            target = normpath(join(dirname(page), path)) if path else page
            yield link, target, unquote(parts.fragment)
