"""The tables: how often each route and each kind of message was compared, and what differs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from comfy_client.testing.files import FILE_ROUTES, PACK_ROUTES, USER_ROUTES
from comfy_client.testing.prompt_routes import JOB_ROUTES, PROMPT_ROUTES
from comfy_client.testing.server_routes import (
    ASSET_ROUTES,
    CATALOGUE_ROUTES,
    INTERNAL_ROUTES,
    NEWER_CATALOGUE_ROUTES,
    SYSTEM_ROUTES,
)
from comfy_client.testing.versions import Version

from .player import RECORDED, Finding, names, play

DATA = Path(__file__).with_name("fidelity.json")
PAGE = Path(__file__).parents[2] / "comfy_client" / "guide" / "fidelity.rst"
VERSIONS: tuple[str, ...] = get_args(Version)
#: By version, recording, and route or message: how many were compared, of how many only the kinds
#: of values, and where they differ.
Results = Mapping[str, Mapping[str, Mapping[str, Any]]]

_OLD = (*PROMPT_ROUTES, *CATALOGUE_ROUTES, *SYSTEM_ROUTES, *FILE_ROUTES, *USER_ROUTES, *PACK_ROUTES)
_INTERNAL = [(method, f"/internal{path}") for method, path, _ in INTERNAL_ROUTES]
_JOBS = (*JOB_ROUTES, *NEWER_CATALOGUE_ROUTES)
_ASSETS = [(method, path) for method, path, _ in ASSET_ROUTES]
#: All routes; those that are found first have no variable in the place of a name.
ROUTES = [*((method, path) for method, path, _ in (*_OLD, *_JOBS)), *_INTERNAL, *_ASSETS]
_OTHER = "any other path"
_WIDTH = 110  # of a line of the list


def route_of(line: str) -> str:
    """The route of a request: method and path of the table, or that there is none."""
    method, _, target = line.partition(" ")
    path = target.partition("?")[0]
    for one in (path, path.removeprefix("/api")):
        for known, template in sorted(ROUTES, key=lambda route: route[1].count("{")):
            pattern = re.sub(r"\{\w+\}", "[^/]+", _shown(template))
            if method == known and re.fullmatch(pattern, one):
                return f"{method} {_shown(template)}"
    return _OTHER


def _shown(template: str) -> str:
    return re.sub(r"\{(\w+):(?:[^{}]|\{[^{}]*\})*\}", r"{\1}", template)


def in_words(difference: str) -> str:
    """A difference as the guide shows it."""
    path, _, told = difference.partition(": real ")
    real, _, own = told.partition("\n")
    path = re.sub(r"<id \d+>", "ID", path)
    path = re.sub(r"\.[0-9a-f]{64}", ".HASH", re.sub(r"\[\d+\]", "[]", path)).lstrip(".")
    return f"{path}: {_short(real)}, here {_short(own.strip().removeprefix('embedded '))}"


def _short(text: str) -> str:
    text = re.sub(r"<id \d+>", "ID", re.sub(r"\\+n", " ", text))
    return "none" if text == '"(none)"' else text if len(text) <= 40 else f"{text[:37]}..."


def summed(findings: Iterable[Finding]) -> dict[str, Any]:
    """What was found in one recording, by route and message."""
    found: dict[str, Any] = {}
    for one in findings:
        is_message = one.subject.startswith("message ")
        subject = one.subject if is_message else route_of(one.subject)
        row = found.setdefault(subject, {"compared": 0})
        row["compared"] += 1
        if one.by:
            row["in kind"] = row.get("in kind", 0) + 1
        if one.differences:
            row["unlike"] = row.get("unlike", 0) + 1
            told = sorted({in_words(text) for text in one.differences})
            row["how"] = sorted({*row.get("how", ()), *told[:3]})
    return dict(sorted(found.items()))


def results() -> dict[str, Any]:
    """Play all recordings to all versions."""

    return {
        version: {name: summed(play(version, name)) for name in names(RECORDED[version])}
        for version in VERSIONS
    }


def read() -> Results:
    """What was kept."""
    kept: Results = json.loads(DATA.read_text("utf-8"))
    return kept


def write(found: Results) -> None:
    """Keep results, and show them in the guide."""
    lines = json.dumps(found, indent=1, sort_keys=True).splitlines()
    DATA.write_text("\n".join(lines) + "\n", "utf-8")
    start, _, rest = PAGE.read_text("utf-8").partition(_BEGIN)
    end = rest[rest.index(_END) :]
    PAGE.write_text(f"{start}{_BEGIN}{rst(found)}{end}", "utf-8")


_BEGIN = ".. Made by python -m tests.fidelity --write\n\n"
_END = "\n.. The end of what was made\n"


# -- the page ---------------------------------------------------------------------------


def _total(found: Results, version: str, subject: str) -> dict[str, Any]:
    rows = [one[subject] for one in found[version].values() if subject in one]
    total: dict[str, Any] = {
        key: sum(row.get(key, 0) for row in rows) for key in ("compared", "in kind", "unlike")
    }
    return {**total, "how": sorted({text for row in rows for text in row.get("how", ())})}


def _cell(total: Mapping[str, Any]) -> str:
    compared, unlike = total["compared"], total["unlike"]
    if not compared:
        return "none"
    text = f"{compared - unlike} of {compared}" if unlike else f"{compared}"
    kinds = total["in kind"]
    if kinds == compared:
        return f"{text} in kind"
    return f"{text} ({kinds} in kind)" if kinds else text


def _table(head: str, rows: list[list[str]]) -> Iterator[str]:
    lines = [[head, *VERSIONS], *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = "  ".join("=" * width for width in widths)
    yield rule
    for number, line in enumerate(lines):
        yield "  ".join(map(str.ljust, line, widths)).rstrip()
        if number == 0:
            yield rule
    yield rule


def rst(found: Results) -> str:
    """The tables as the guide shows them."""
    subjects = sorted(
        {subject for one in found.values() for rows in one.values() for subject in rows}
    )
    routes = [f"{method} {_shown(path)}" for method, path in ROUTES] + [_OTHER]
    routes = list(dict.fromkeys(routes))
    messages = [subject for subject in subjects if subject.startswith("message ")]
    lines = []
    for head, every in (("route", routes), ("message", messages)):
        rows = [
            [f"``{one.removeprefix('message ')}``" if one != _OTHER else one]
            + [_cell(_total(found, version, one)) for version in VERSIONS]
            for one in every
        ]
        lines += [*_table(head, rows), ""]
    lines += ["What differs:", ""]
    for subject in [*routes, *messages]:
        for versions, told in _differences(found, subject):
            lines += _item(f"``{subject}`` ({', '.join(versions)})", told)
    return "\n".join(lines)


def _differences(found: Results, subject: str) -> Iterator[tuple[list[str], list[str]]]:
    """What differs in which versions."""
    by_words: dict[tuple[str, ...], list[str]] = {}
    for version in VERSIONS:
        told = tuple(_total(found, version, subject)["how"])
        if told:
            by_words.setdefault(told, []).append(version)
    for words, versions in by_words.items():
        yield versions, list(words)


def _item(head: str, told: list[str]) -> Iterator[str]:
    yield f"* {head}:"
    yield ""
    for one in told[:4]:
        yield f"  * ``{one.replace('`', '')[:_WIDTH]}``"
    if len(told) > 4:
        yield f"  * and {len(told) - 4} more"
    yield ""
