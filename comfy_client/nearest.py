"""Suggestions for misspelt names."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from heapq import nlargest
from itertools import islice

#: Limits of :func:`nearest`: the least similarity, the greatest distance from the nearest name, the
#: characters of a name, and how many names are looked at, compared roughly, and compared in full.
_NEAR = 0.6
_FURTHER = 2.5
_COMPARED = 100
_LOOKED_AT = 100_000
_MOST_ROUGHLY = 2000
_MOST_IN_FULL = 20
#: From how many characters on a name may have a second slip of the finger.
_LONG = 12


def nearest(name: str, names: Iterable[str], limit: int = 5) -> tuple[str, ...]:
    """Return the names that are similar to ``name``, nearest first, ignoring case.

    Names that are much less similar than the nearest one are left out.

    A server may have any number of names, of any length, and a comparison takes up to the cube of
    their length.  So of the first 100,000 names, up to 2,000 of similar length are compared
    roughly, those with the same beginning first; and the nearest 20 of these in full, by their
    first 100 characters.
    """
    from difflib import SequenceMatcher  # for mistakes only

    wanted = name[:_COMPARED].lower()
    alike: dict[str, str] = {}
    others: dict[str, str] = {}
    for other in islice(names, _LOOKED_AT):
        key = other[:_COMPARED].lower()
        # Twice the shared characters, divided by the length of both.
        if 2 * min(len(key), len(wanted)) >= _NEAR * (len(key) + len(wanted)):
            group = alike if key.startswith(wanted[:3]) else others
            if len(group) < _MOST_ROUGHLY:
                group[key] = other
    found = dict(islice({**alike, **others}.items(), _MOST_ROUGHLY))
    matcher = SequenceMatcher()
    matcher.set_seq2(wanted)

    def near(keys: Iterable[str], ratio: Callable[[], float], most: int) -> list[tuple[float, str]]:
        scored = []
        for key in keys:
            matcher.set_seq1(key)
            score = ratio()
            if score >= _NEAR:
                scored.append((score, key))
        return nlargest(most, scored)

    roughly = [key for _, key in near(found, matcher.quick_ratio, _MOST_IN_FULL)]
    nearest_ones = near(roughly, matcher.ratio, limit)
    furthest = max((_FURTHER * (1 - score) for score, _ in nearest_ones[:1]), default=0)
    return tuple(found[key] for score, key in nearest_ones if 1 - score <= furthest)


def misspelt(name: str, names: Iterable[str], limit: int = 5) -> tuple[str, ...]:
    """Return the names of which ``name`` is a typing mistake, nearest first, ignoring case.

    One character is wrong, missing, added, or swapped with the next one; in a long name, two are.
    """
    most = 2 if len(name) >= _LONG else 1
    found = nearest(name, names, limit)
    return tuple(one for one in found if _slips(name.lower(), one.lower(), most) <= most)


def _slips(one: str, other: str, most: int) -> int:
    """Return how many characters differ, as typing mistakes; more than ``most`` are not counted."""
    if abs(len(one) - len(other)) > most or max(len(one), len(other)) > _COMPARED:
        return most + 1
    last: list[int] = []
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, left in enumerate(one, 1):
        last, before, row = before, row, [i]
        for j, right in enumerate(other, 1):
            least = min(row[-1] + 1, before[j] + 1, before[j - 1] + (left != right))
            if i > 1 and j > 1 and left == other[j - 2] and one[i - 2] == right:
                least = min(least, last[j - 2] + 1)
            row.append(least)
    return row[-1]
