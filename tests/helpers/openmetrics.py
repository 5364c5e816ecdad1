"""A strict reader of OpenMetrics text, for what the guide's recipe writes.

It refuses what the reference parser of Prometheus refuses: names that clash, counters without
``_total``, samples outside of their family, histograms that are not cumulative, no end mark.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Final

import attrs

#: The suffixes of the samples of a family, by its type.
SUFFIXES: Final = {
    "counter": ("_total",),
    "gauge": ("",),
    "histogram": ("_bucket", "_count", "_sum"),
}
_NAME: Final = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_LABEL: Final = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*"'
_SAMPLE: Final = re.compile(rf"({_NAME})(?:\{{({_LABEL}(?:,{_LABEL})*)\}})? (\S+)")

Labels = frozenset[tuple[str, str]]


@attrs.define
class Family:
    """A metric, with its samples by suffix and labels."""

    name: str
    kind: str
    text: str = ""
    samples: dict[tuple[str, Labels], float] = attrs.field(factory=dict)


def read(text: str) -> dict[str, Family]:
    """Return the families of a page by name; raise ValueError for one that is not OpenMetrics."""
    *lines, mark, end = text.split("\n")
    if (mark, end) != ("# EOF", ""):
        raise ValueError("no end mark")
    families: dict[str, Family] = {}
    taken: set[str] = set()
    family = Family("", "gauge")
    for line in lines:
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            names = {name, *(name + suffix for suffix in SUFFIXES[kind])}
            if not re.fullmatch(_NAME, name) or name.endswith("_total") or names & taken:
                raise ValueError(f"a wrong or clashing name: {name}")
            taken |= names
            family = families[name] = Family(name, kind)
        elif line.startswith("# HELP "):
            _, _, name, family.text = line.split(" ", 3)
            if name != family.name:
                raise ValueError(f"a help of another family: {line}")
        else:
            _add(family, line)
    for each in families.values():
        if each.kind == "histogram":
            _check_buckets(each)
    return families


def _add(family: Family, line: str) -> None:
    found = _SAMPLE.fullmatch(line)
    if found is None:
        raise ValueError(f"no sample: {line!r}")
    suffix = found[1].removeprefix(family.name)
    if not found[1].startswith(family.name) or suffix not in SUFFIXES[family.kind]:
        raise ValueError(f"a sample outside of its family: {line}")
    pairs = re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', found[2] or "")
    key = suffix, frozenset(pairs)
    if len(key[1]) != len(pairs) or key in family.samples:
        raise ValueError(f"twice: {line}")
    family.samples[key] = float(found[3])
    if family.kind != "gauge" and not family.samples[key] >= 0:
        raise ValueError(f"a negative count: {line}")


def _check_buckets(family: Family) -> None:
    buckets: dict[Labels, dict[float, float]] = defaultdict(dict)
    for (suffix, labels), value in family.samples.items():
        if suffix == "_bucket":
            limit = dict(labels)["le"]
            buckets[labels - {("le", limit)}][float(limit)] = value
    for labels, counts in buckets.items():
        if list(counts) != sorted(counts) or list(counts.values()) != sorted(counts.values()):
            raise ValueError(f"buckets of {family.name} are not cumulative")
        if counts[float("inf")] != family.samples["_count", labels]:
            raise ValueError(f"the count of {family.name} is not that of all buckets")
