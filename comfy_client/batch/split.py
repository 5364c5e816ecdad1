"""Assignment of the points of a grid to servers.  Pure.

The points stand in an order in which each changes little of the one before it.  Each server has
a run of them, from one end of which it takes the next; a server with none left takes over the
rear part of the longest run.  So slow servers end with a few of them, fast ones with many.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

#: How much has to run again for the second of two points after the first.
Cost = Callable[[int, int], int]


#: Whether a server can run a point.
Fits = Callable[[str, int], bool]


class Split:
    """The points that have not begun, each with the server that is to have it.

    Args:
        points: The points in their best order.
        weights: How fast each server is, compared to the others, by its name.
        cost: What has to run again at a point, after another one: where that is much, a run is
            best cut.
    """

    def __init__(self, points: Sequence[int], weights: Mapping[str, float], cost: Cost) -> None:
        self._cost = cost
        self._runs: dict[str, list[int]] = {}
        rest, left, name = list(points), sum(weights.values()), ""
        for name, weight in weights.items():
            at = _cut(rest, weight / left, cost)
            self._runs[name], rest = rest[:at], rest[at:]
            left = max(left - weight, weight)
        self._runs.setdefault(name, []).extend(rest)  # what rounding has left, or all

    def __len__(self) -> int:
        return sum(map(len, self._runs.values()))

    def __iter__(self) -> Iterator[int]:
        return (point for run in self._runs.values() for point in run)

    def take(self, name: str, fits: Fits, *, may_steal: bool = True) -> int | None:
        """Take the next point of a server; ``None``: there is none that it can run.

        ``may_steal``: whether one that has done its own takes over some of another.
        """
        own = self._runs.setdefault(name, [])
        found = self._first(own, name, fits)
        if found is None and may_steal:
            self._take_over(name, fits)
            found = self._first(own, name, fits)
        return None if found is None else own.pop(found)

    def put_back(self, point: int, name: str) -> None:
        """Put a point back as the next one of a server."""
        self._runs.setdefault(name, []).insert(0, point)

    def drop(self, points: Collection[int]) -> None:
        """Drop points that are not to run."""
        for name, run in self._runs.items():
            self._runs[name] = [point for point in run if point not in points]

    @staticmethod
    def _first(run: list[int], name: str, fits: Fits) -> int | None:
        return next((at for at, point in enumerate(run) if fits(name, point)), None)

    def _take_over(self, name: str, fits: Fits) -> None:
        """Take over the rear half of the longest other run."""
        found = [
            (other, [point for point in run if fits(name, point)])
            for other, run in self._runs.items()
            if other != name
        ]
        if not found:
            return
        other, points = max(found, key=lambda one: len(one[1]))
        taken = points[_cut(points, 0.5, self._cost) :]
        gone = frozenset(taken)
        self._runs[other] = [point for point in self._runs[other] if point not in gone]
        self._runs[name] += taken


def _cut(points: Sequence[int], share: float, cost: Cost) -> int:
    """Return where to cut a run at about this share, between points that differ most."""
    ideal = min(len(points), int(len(points) * share))
    slack = min(ideal, len(points) - ideal) // 4
    near = range(max(1, ideal - slack), min(len(points) - 1, ideal + slack) + 1)
    return max(
        near,
        key=lambda at: (cost(points[at - 1], points[at]), -abs(at - ideal)),
        default=ideal,
    )
