"""Memory that a server can have us use: counted in bytes, with a maximum for all of it.

Each client has one :class:`Budget`, shared by all that hold something until it is taken: the
queues of receivers and iterators, and jobs that have not ended.  What is merely remembered
stands in a :class:`Newest`.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any, Final, Generic, Protocol, TypeVar

V = TypeVar("V")

#: Bytes that anything takes, however small it is: an event and its place in a queue, the id of
#: a node and its place in a set.
LEAST: Final = 600
#: Bytes from which something counts once, however many hold it; less counts for each of them.
LARGE: Final = 1 << 14


class Holder(Protocol):
    """A holder of bytes."""

    nbytes: int  #: About how many bytes it holds, alone or with others.
    own: int  #: How many of these have no :class:`Charge`.

    def give_way(self, nbytes: int, rank: int) -> int:
        """Release up to ``nbytes`` of what has this rank, 0 to 2; return how many were released."""
        raise NotImplementedError


class Charge:
    """The bytes of something large, which count once, as long as this object is kept."""

    __slots__ = ("__weakref__", "_body", "_budget", "fixed", "nbytes")

    def __init__(self, budget: Budget, body: object, nbytes: int) -> None:
        self._budget = budget
        self._body = body  # so that its id, by which this is found, stays its own
        self.nbytes: int = nbytes
        #: Whether a :class:`Share` has it, so that nobody gains by dropping it.
        self.fixed: bool = False
        budget.used += nbytes

    def __del__(self) -> None:
        self._budget.used -= self.nbytes


class Budget:
    """Bytes that its holders may hold together, at most; it keeps none of them alive."""

    def __init__(self, most: int) -> None:
        self.most = most
        #: By all.  Each holder adds and takes away, without a lock: ``+=`` of a number is not
        #: interrupted.  What the collector takes is taken away by the next count.
        self.used: int = 0
        self.dropped = 0  #: Events that its holders have dropped although somebody wanted them.
        self._is_ours: weakref.WeakMethod[Callable[[str | None], bool]] | None = None
        self._holders: dict[int, weakref.ref[Holder]] = {}
        self._charges: weakref.WeakValueDictionary[int, Charge] = weakref.WeakValueDictionary()

    def prefer(self, is_ours: Callable[[str | None], bool]) -> None:
        """Set the method, held weakly, that tells our own prompts, whose data matter more."""
        self._is_ours = weakref.WeakMethod(is_ours)

    def is_ours(self, prompt_id: str | None) -> bool:
        """Return whether a prompt is one of ours; True while no method can tell."""
        is_ours = None if self._is_ours is None else self._is_ours()
        return is_ours is None or is_ours(prompt_id)

    def join(self, holder: Holder) -> None:
        """Count a holder's bytes from now on, until it is collected."""
        key = id(holder)
        self._holders[key] = weakref.ref(holder, partial(_leave, self._holders, key))

    def after_fork(self) -> None:
        """Forget all holders, in the child of a fork: some of their locks may stay held for ever.

        Some holders live on, in frames of these threads.  Those that are used again join again.
        """
        self._holders.clear()
        self.used = sum(charge.nbytes for charge in list(self._charges.values()))

    def charge(self, body: object, nbytes: int) -> Charge:
        """Return the charge for :data:`LARGE` bytes or more; all holders of one body share it."""
        found = self._charges.get(id(body))
        if found is None:  # if two threads come here at once, it counts twice
            found = self._charges[id(body)] = Charge(self, body, nbytes)
        return found

    def relieve(self) -> bool:
        """Have what matters least give way, to seven eighths: not for each event again.

        The holders of most bytes come first.  Return whether all fits now.
        """
        holders = [one for ref in list(self._holders.values()) if (one := ref()) is not None]
        charges = [ref() for ref in self._charges.valuerefs()]
        large = sum(charge.nbytes for charge in charges if charge is not None)
        del charges
        self.used = large + sum(one.own for one in holders)
        fixed = sum(one.nbytes for one in holders if isinstance(one, Share))
        if self.used > self.most >= fixed:
            goal = max(self.most // 8 * 7, fixed + (self.most - fixed) // 2)
            holders.sort(key=lambda one: one.nbytes, reverse=True)
            for rank in range(3):
                # Again, as what one lets go of may be held by others.
                while self.used > goal and self._give_way(holders, goal, rank):
                    pass
        return self.used <= self.most

    def _give_way(self, holders: Sequence[Holder], goal: int, rank: int) -> int:
        gone = 0
        for one in holders:
            if self.used > goal:
                gone += one.give_way(self.used - goal, rank)
        return gone


def _leave(holders: dict[int, Any], key: int, _: object) -> None:
    holders.pop(key, None)


class Share:
    """A holder's share of a budget, by purpose; it does not give way."""

    def __init__(self, budget: Budget) -> None:
        self.nbytes: int = 0
        self.own: int = 0
        self._budget = budget
        self._sizes: dict[Hashable, int] = {}
        self._charges: dict[Hashable, Charge] = {}
        budget.join(self)

    def keep(self, key: Hashable, nbytes: int, body: object = None) -> None:
        """Charge ``nbytes`` for a key, in place of what it had.

        ``body`` is the object with these bytes, if others may hold it, too.
        """
        if self._charges:
            self._uncharge(key)
        if body is not None and nbytes >= LARGE:
            charge = self._charges[key] = self._budget.charge(body, nbytes)
            charge.fixed = True
            self.nbytes += charge.nbytes
            nbytes = 0
        more = nbytes - self._sizes.get(key, 0)
        self._sizes[key] = nbytes
        self.nbytes += more
        self.own += more
        self._budget.used += more

    def _uncharge(self, key: Hashable) -> None:
        charge = self._charges.pop(key, None)
        if charge is not None:
            charge.fixed = False
            self.nbytes -= charge.nbytes

    def give_way(self, nbytes: int, rank: int) -> int:
        """Free nothing: a job's data must stay."""
        return 0

    def free(self) -> None:
        """Release everything."""
        for key in list(self._charges):
            self._uncharge(key)
        self._budget.used -= self.own
        self.nbytes = self.own = 0
        self._sizes.clear()


class Newest(Generic[V]):
    """A dict of the newest entries, bounded in number and in bytes.

    Not guarded: its owner has a lock for it.
    """

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self.clear()

    def clear(self) -> None:
        """Forget all."""
        self._known: dict[Hashable, tuple[V, int]] = {}
        self._last = 0  # entry without a key
        self.nbytes: int = 0  #: About what all of it takes.
        self.forgotten: int = 0  #: Entries that made room for newer ones.

    def put(self, key: Hashable, value: V, nbytes: int = 0) -> None:
        """Remember a value, and forget the oldest ones."""
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
        """Return what was put there last, if it is still known."""
        found = self._known.get(key)
        return None if found is None else found[0]

    def values(self) -> list[V]:
        """Return all values, oldest first."""
        return [value for value, _ in list(self._known.values())]

    def __contains__(self, key: object) -> bool:
        return key in self._known

    def __len__(self) -> int:
        return len(self._known)
