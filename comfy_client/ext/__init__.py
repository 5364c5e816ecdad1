"""Extensions that node packs give a server: ``api.ext``.

Modules:
    manager: :class:`Manager`, for ComfyUI-Manager.
    snapshots: :class:`Snapshots`, those of the Manager.
    tasks: :class:`Task`, work of the Manager, and the thread that watches its tasks.
    task_outcomes: Decisions about tasks, from what the Manager tells and what is installed.
    dialects: The routes of the versions of the Manager.
    monitor: :class:`Monitor`, for Crystools.
    node_pack: The routes of a pack, the question whether the server has them, and the error if
        it lacks them.
"""

from __future__ import annotations

from ..attributes import KnownAttributes
from ..jobs.execute import Parts
from ..routes import Routes
from .manager import Manager
from .monitor import Monitor
from .snapshots import Snapshots
from .tasks import Task

__all__ = ["Extensions", "Manager", "Monitor", "Snapshots", "Task"]


class Extensions(KnownAttributes):
    """The extensions that node packs give a server, as ``api.ext``.

    Nothing is asked of the server until a method is called.  If the server lacks the pack, the
    method raises :class:`NotSupported`, which says how to get it.
    """

    def __init__(self, owner: Routes, parts: Parts) -> None:
        self._owner = owner
        self._parts = parts

    @property
    def monitor(self) -> Monitor:
        """How busy the machine of the server is, by the node pack Crystools."""
        return Monitor(self._owner, self._parts)

    @property
    def manager(self) -> Manager:
        """Node packs, models and the life of the server, by ComfyUI-Manager."""
        return Manager(self._owner, self._parts)
