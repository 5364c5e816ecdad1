"""A cache of the server's node definitions, kept while they are certain to be current."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from .. import runtime
from ..errors import ApiError, RequestTimeout, UnexpectedResponse
from ..locks import shared_lock
from ..transport.deadline import Deadline
from ..transport.http import SMALL, Http, segment
from ..values import mapping

#: Seconds for all definitions: the server reads its model folders for them, and these may lie
#: on slow network drives.
ALL: Final = 300.0
#: The most classes that are requested one by one, and the most of those that are kept, each of up
#: to 1 MiB.  Beyond that, one answer with all classes takes less time and memory.
_FEW: Final = 16
_MOST: Final = 64
#: The most characters of a name that goes into a URL.
_MAX_NAME: Final = 200
_NO_NAMES: Final = ("", ".", "..")
#: Seconds between two checks of whether another thread still asks: Ctrl-C may have stopped it.
_LOOK: Final = 1.0


class NodeDefinitions:
    """Cache of a server's node definitions.

    A change of ``link``, the number of the connected socket, empties it, as the server may have
    been restarted with other node packs.
    """

    def __init__(self, http: Http, link: Callable[[], int | None]) -> None:
        self._http = http
        self._link = link
        self._lock = shared_lock()  # guards everything below
        self._changed = runtime.Condition(self._lock)  # within ``with self._lock`` only
        self._asking: int | None = None  # the thread that asks the server
        self._of_link: int | None = None
        self._forget()

    def _forget(self) -> None:
        self._known: dict[str, Any] = {}
        self._absent: set[str] = set()
        self._is_all = False

    def get(
        self, classes: Collection[str] | None, *, refresh: bool, deadline: Deadline
    ) -> dict[str, Any]:
        """Return the definitions of ``classes`` (None: all), by name; unknown ones are left out.

        One thread asks at a time; other threads wait for its answer.
        """
        if isinstance(classes, str):
            raise TypeError(f"classes is a list of names, such as [{classes!r:.80}]")

        def find() -> dict[str, Any]:
            self._forget_old()
            missing = None if classes is None else self._missing(classes, refresh=refresh)
            if missing is None:
                if refresh or not self._is_all:
                    self._get_all(deadline)
            elif self._are_few(missing):
                self._get_each(missing, deadline)
            else:
                self._get_all(deadline)
            if classes is None:
                return dict(self._known)
            return {name: self._known[name] for name in classes if name in self._known}

        return self._alone(find, deadline)

    def _alone(self, work: Callable[[], dict[str, Any]], deadline: Deadline) -> dict[str, Any]:
        """Call ``work`` while no other thread does; a signal handler in this thread may.

        This is not a context manager, as a Ctrl-C at the start of one would leave it entered.
        """
        me, is_first = runtime.get_ident(), False
        try:
            with self._lock:
                while self._asking not in (None, me):
                    if deadline.expired:
                        raise RequestTimeout("another thread still waits for GET /object_info")
                    self._changed.wait(deadline.left(_LOOK))
                if self._asking is None:
                    is_first, self._asking = True, me
            return work()
        finally:
            if is_first:
                self._asking = None  # before a Ctrl-C can come
                with self._lock:
                    self._changed.notify_all()

    def _forget_old(self) -> None:
        link = self._link()
        if link is not None and link != self._of_link:
            self._forget()
            self._of_link = link

    def _missing(self, classes: Collection[str], *, refresh: bool) -> list[str]:
        if refresh:
            return list(dict.fromkeys(classes))
        if self._is_all:
            return []
        return [n for n in dict.fromkeys(classes) if n not in self._known and n not in self._absent]

    def _are_few(self, missing: list[str]) -> bool:
        """Return whether to request classes one by one: they are few, and a URL can name them."""
        in_all = 0 if self._is_all else len({*self._known, *self._absent, *missing})
        return (
            len(missing) <= _FEW
            and in_all <= _MOST
            and all(len(n) <= _MAX_NAME and n not in _NO_NAMES and "/" not in n for n in missing)
        )

    def _get_all(self, deadline: Deadline) -> None:
        self._forget()  # first, so that memory never holds both answers
        self._known = self._ask("/object_info", ALL, deadline)
        self._is_all = True

    def _get_each(self, names: list[str], deadline: Deadline) -> None:
        for name in names:
            route, most = f"/object_info/{segment(name)}", self._http.total_timeout
            try:
                found = self._ask(route, most, deadline, max_bytes=SMALL)
            except (ApiError, UnexpectedResponse):
                # The answer is too large, or the class fails (500); the full answer leaves it out.
                return self._get_all(deadline)
            if name in found:
                self._known[name] = found[name]
                self._absent.discard(name)
            else:
                self._known.pop(name, None)
                self._absent.add(name)
        return None

    def _ask(
        self, route: str, most: float, deadline: Deadline, max_bytes: int | None = None
    ) -> dict[str, Any]:
        left = max(0.05, deadline.left(most))
        return _definitions(self._http.json("GET", route, timeout=left, max_bytes=max_bytes))


def _definitions(found: Any) -> dict[str, Any]:
    named = mapping(found, "GET /object_info")
    return {name: one for name, one in named.items() if isinstance(one, Mapping)}
