"""Memory that a server can have us use: counted in bytes, with a maximum for all of it.

Each client has one :class:`Budget`, which all share that hold something until somebody takes
it: the queues of receivers and iterators, and jobs that have not ended.  What is merely
remembered stands in a :class:`Newest`.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Hashable
from functools import partial
from typing import Any, Final, Generic, Protocol, TypeVar

V = TypeVar("V")

#: Bytes that anything takes, however small it is: an event and its place in a queue, the id of
#: a node and its place in a set.
LEAST: Final = 600


class Holder(Protocol):
    """Who holds something."""

    nbytes: int  #: About how much.

    def give_way(self, nbytes: int, rank: int) -> None:
        """Let go of so many bytes of what matters so much, from 0 to 2, if it can."""


class Budget:
    """Bytes that its holders may hold together, at most; it keeps none of them alive."""

    def __init__(self, most: int) -> None:
        self.most = most
        #: By all.  Each holder adds and takes away, without a lock: ``+=`` of a number is not
        #: interrupted.  What the collector takes is taken away by the next count.
        self.used = 0
        self._holders: dict[int, weakref.ref[Holder]] = {}

    def join(self, holder: Holder) -> None:
        """It holds something from now on, until it is collected."""
        key = id(holder)
        self._holders[key] = weakref.ref(holder, partial(_leave, self._holders, key))

    def relieve(self) -> bool:
        """Have what matters least give way, to seven eighths: not for each event again.

        Of those who hold such, who holds most is first.  Whether all fits now.
        """
        holders = [one for ref in list(self._holders.values()) if (one := ref()) is not None]
        self.used = sum(one.nbytes for one in holders)
        fixed = sum(one.nbytes for one in holders if isinstance(one, Share))
        if self.used > self.most >= fixed:
            goal = max(self.most // 8 * 7, fixed + (self.most - fixed) // 2)
            holders.sort(key=lambda one: one.nbytes, reverse=True)
            for rank, one in itertools.product(range(3), holders):
                if self.used <= goal:
                    break
                one.give_way(self.used - goal, rank)
        return self.used <= self.most


def _leave(holders: dict[int, Any], key: int, _: object) -> None:
    holders.pop(key, None)


class Share:
    """What one holder keeps of a budget, by what it is for; it does not give way."""

    def __init__(self, budget: Budget) -> None:
        self.nbytes = 0
        self._budget = budget
        self._sizes: dict[Hashable, int] = {}
        budget.join(self)

    def keep(self, key: Hashable, nbytes: int) -> None:
        """So many bytes for this, in place of what it had."""
        more = nbytes - self._sizes.get(key, 0)
        self._sizes[key] = nbytes
        self.nbytes += more
        self._budget.used += more

    def add(self, key: Hashable, nbytes: int) -> None:
        """So many bytes more for this."""
        self.keep(key, self._sizes.get(key, 0) + nbytes)

    def give_way(self, nbytes: int, rank: int) -> None:
        """It cannot."""

    def free(self) -> None:
        """It keeps nothing any more."""
        self._budget.used -= self.nbytes
        self.nbytes = 0
        self._sizes.clear()


class Newest(Generic[V]):
    """What came last, by key: up to so many entries, and so many bytes of them.

    Not guarded: whoever has one has a lock for it, too.
    """

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self.clear()

    def clear(self) -> None:
        """Forget all."""
        self._known: dict[Hashable, tuple[V, int]] = {}
        self._last = 0  # entry without a key
        self.nbytes = 0  #: About what all of it takes.
        self.forgotten = 0  #: Entries that made room for newer ones.

    def put(self, key: Hashable, value: V, nbytes: int = 0) -> None:
        """Remember it, and forget what is oldest."""
        self.pop(key)
        nbytes += LEAST
        self._known[key] = value, nbytes
        self.nbytes += nbytes
        while len(self._known) > self._most or self.nbytes > self._most_bytes:
            self.pop(next(iter(self._known)))
            self.forgotten += 1

    def append(self, value: V, nbytes: int = 0) -> None:
        """Remember something that has no key."""
        self._last += 1
        self.put(self._last, value, nbytes)

    def pop(self, key: Hashable) -> None:
        """Forget it, if it is known."""
        found = self._known.pop(key, None)
        if found is not None:
            self.nbytes -= found[1]

    def get(self, key: Hashable) -> V | None:
        """What was put there last; ``None``: nothing that is known yet."""
        found = self._known.get(key)
        return None if found is None else found[0]

    def values(self) -> list[V]:
        """All of it, oldest first."""
        return [value for value, _ in list(self._known.values())]

    def __contains__(self, key: object) -> bool:
        return key in self._known

    def __len__(self) -> int:
        return len(self._known)
