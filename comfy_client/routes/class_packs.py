"""The node packs that have a node class, as ComfyUI-Manager on the server lists them.

They serve hints about missing classes: no failure of the Manager is an error, and none takes long.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import islice
from typing import Final

import attrs

from .. import runtime
from ..errors import ComfyError, NotFound, NotSupported
from ..models.packs import KnownPack, packs_with
from ..transport.deadline import Deadline
from ..transport.http import Http

#: The routes of Manager 4 and of Manager 3.
_ROUTES: Final = ("/v2/customnode/getmappings", "/customnode/getmappings")
#: Seconds within which the Manager must answer.
MOST_SECONDS: Final = 5.0
#: Seconds for which its answer serves, and after which it is asked again if it gave none.
_MAX_AGE: Final = 600.0
_PAUSE: Final = 60.0
#: The most packs and names of classes that are read; the real lists have 5,600 and 50,000.
_MOST_PACKS: Final = 20_000
_MOST_CLASSES: Final = 200_000
#: The most packs with a pattern; the regular expressions of all fit into Python's cache.
_MOST_PATTERNS: Final = 250
#: The most classes that are looked up at once.
_MOST_ASKED: Final = 1000
#: The most packs that are kept for a class, and that are returned for it.
_MOST_KEPT: Final = 50
_MOST_OF_CLASS: Final = 5
#: What a hint may name: an id of the registry, or the URL of a repository or file.
_ID: Final = re.compile(
    r"(https?://[A-Za-z0-9.-]{1,200}(:\d{1,5})?/)?[A-Za-z0-9][A-Za-z0-9._~/@+-]{0,199}"
)


@attrs.frozen
class _ListedPacks:
    """The list of a Manager, as it was at a time."""

    until: float
    link: int | None
    by_class: Mapping[str, list[str]] = attrs.field(factory=dict)
    with_patterns: Collection[KnownPack] = ()


class ClassPacks:
    """The packs that have a class; the Manager's list is kept for ten minutes.

    A change of ``link``, the number of the connected socket, ends that sooner: a server that was
    restarted may have got a Manager.
    """

    def __init__(self, http: Http, link: Callable[[], int | None]) -> None:
        self._http = http
        self._link = link
        self._listed: _ListedPacks | None = None  # replaced as a whole, by any thread

    def of(self, classes: Collection[str], deadline: Deadline) -> dict[str, tuple[str, ...]]:
        """Return the ids of the packs that have each of the classes, if there are any.

        There are none without a Manager, if it does not answer within five seconds, or after the
        deadline.
        """
        listed = self._now(deadline) if classes else None
        if listed is None:
            return {}
        found = {name: _ids(name, listed) for name in islice(classes, _MOST_ASKED)}
        return {name: tuple(ids[:_MOST_OF_CLASS]) for name, ids in found.items() if ids}

    def _now(self, deadline: Deadline) -> _ListedPacks | None:
        """Return what is listed; ask the server unless it was asked a short time ago."""
        listed, link, now = self._listed, self._link(), runtime.monotonic()
        if listed is not None and now < listed.until and listed.link == link:
            return listed
        left = deadline.left(MOST_SECONDS)
        if not left:
            return None
        try:
            listed = self._asked(Deadline.after(left), now, link)
        except (ComfyError, TimeoutError):
            listed = _ListedPacks(now + _PAUSE, link)
        self._listed = listed
        return listed

    def _asked(self, deadline: Deadline, now: float, link: int | None) -> _ListedPacks:
        for route in _ROUTES:
            by_class: dict[str, list[str]] = {}
            with_patterns: list[KnownPack] = []
            try:
                for pack in self._packs(route, deadline):
                    for name in pack.classes:
                        ids = by_class.setdefault(name, [])
                        if len(ids) < _MOST_KEPT:
                            ids.append(pack.id)
                    if pack.pattern and len(with_patterns) < _MOST_PATTERNS:
                        with_patterns.append(attrs.evolve(pack, classes=(), raw=None))
                    if len(by_class) > _MOST_CLASSES:
                        break
            except (NotFound, NotSupported):
                continue
            return _ListedPacks(now + _MAX_AGE, link, by_class, with_patterns)
        return _ListedPacks(now + _MAX_AGE, link)  # no Manager

    def _packs(self, route: str, deadline: Deadline) -> Iterator[KnownPack]:
        """Yield the packs of a list that a hint may name."""
        params = {"mode": "cache"}
        answer = self._http.members(route, deadline=deadline, most=MOST_SECONDS, params=params)
        for count, member in enumerate(answer):
            if count >= _MOST_PACKS:
                return
            if _ID.fullmatch(member.name):
                yield KnownPack.from_json(member.name, member.value)


def _ids(class_type: str, listed: _ListedPacks) -> list[str]:
    """Return the packs that have a class: those that name it, ids of the registry first."""
    named = sorted(listed.by_class.get(class_type, ()), key=lambda id: "://" in id)
    fitting = (pack.id for pack in packs_with(class_type, listed.with_patterns))
    return [*dict.fromkeys((*named, *fitting))]
