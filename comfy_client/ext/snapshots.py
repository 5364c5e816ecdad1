"""Snapshots of the Manager: which packs and Python packages a server has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..errors import ApiError, NotFound, TaskFailed
from ..values import mapping, texts
from ..workflow.graph import brief, shorten
from .dialects import Manager3Routes, ManagerRoutes
from .task_outcomes import refusal


class Snapshots:
    """The snapshots that the Manager keeps, as files on the server."""

    def __init__(self, dialect: Callable[[], ManagerRoutes]) -> None:
        self._dialect = dialect

    def list(self) -> list[str]:
        """Return the names of all snapshots.

        ``GET /v2/snapshot/getlist``; Manager 3: ``/snapshot/getlist``.
        """
        found = mapping(self._dialect().get("/snapshot/getlist"), "GET /snapshot/getlist")
        return texts(found.get("items"), "GET /snapshot/getlist: items")

    def current(self) -> Mapping[str, Any]:
        """Return what a snapshot would contain now: packs, and Python packages (``pips``).

        ``GET /v2/snapshot/get_current``; Manager 3: ``/snapshot/get_current``.
        """
        return mapping(self._dialect().get("/snapshot/get_current"), "GET /snapshot/get_current")

    def save(self) -> str:
        """Save a snapshot, and return its name.

        ``POST /v2/snapshot/save``; Manager 3: ``/snapshot/save``.

        Raises:
            TaskFailed: The server lists no snapshot afterwards.
        """
        before = set(self.list())
        self._dialect().post("/snapshot/save")
        after = self.list()
        new = [name for name in after if name not in before]
        if not after:
            said = "save a snapshot: the Manager says that it is done, but lists none"
            raise TaskFailed(said, task_id="", kind="snapshot", name="")
        return max(new or after)  # two within one second have one name

    def restore(self, name: str) -> None:
        """Have the packs of a snapshot installed at the next start: call ``reboot()`` then.

        Packs that it lacks are disabled.  Nobody is told if it fails, as where packs of the
        registry are to be downloaded without a network: look at ``manager.installed()`` then.

        ``POST /v2/snapshot/restore``; Manager 3: ``/snapshot/restore``.

        Raises:
            NotFound: There is no snapshot of that name.
            ManagerRefused: The security settings forbid it.
        """
        self._change("restore", name)

    def remove(self, name: str) -> None:
        """Delete a snapshot; raises as :meth:`restore` does.

        ``POST /v2/snapshot/remove``; Manager 3: ``/snapshot/remove``.
        """
        self._change("remove", name)

    def _change(self, what: str, name: str) -> None:
        names = self.list()  # the server says of any name that it was removed
        if name not in names:
            there = shorten(", ".join(sorted(names, reverse=True)), 1000) or "none"
            raise NotFound(f"{what}: no snapshot {brief(name)}; there are: {there}")
        dialect = self._dialect()
        target = {"target": name}
        try:
            if isinstance(dialect, Manager3Routes):
                dialect.post(f"/snapshot/{what}", json=target)
            else:
                dialect.post(f"/snapshot/{what}", params=target)
            return
        except ApiError as exc:
            if exc.status != 403:
                raise
        raise refusal(f"{what} the snapshot", name)
