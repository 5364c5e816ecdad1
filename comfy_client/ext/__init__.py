"""Extensions that node packs give a server: ``api.ext``.

Modules:
    manager: :class:`Manager`, for ComfyUI-Manager.
    snapshots: :class:`Snapshots`, those of the Manager.
    tasks: :class:`Task`, work of the Manager, and the thread that watches its tasks.
    task_outcomes: Decisions about tasks, from what the Manager tells and what is installed.
    dialects: The routes of the versions of the Manager.
    pack_names: Names of packs, repositories and files of models.
    plan: :class:`Plan`, of what a workflow lacks on a server.
    providing: The work of such a plan.
    monitor: :class:`Monitor`, for Crystools.
    node_pack: The routes of a pack, the question whether the server has them, and the error if
        it lacks them.
"""

from __future__ import annotations

from collections.abc import Callable

from ..attributes import KnownAttributes
from ..jobs.execute import Parts
from ..routes import Routes
from ..workflow import Workflow
from .manager import Manager
from .monitor import Monitor
from .plan import Obstacle, Plan, PlannedModel, PlannedPack
from .providing import Consent, ProvideStep, Providing, provide
from .snapshots import Snapshots
from .tasks import Task

__all__ = [
    "Extensions",
    "Manager",
    "Monitor",
    "Obstacle",
    "Plan",
    "PlannedModel",
    "PlannedPack",
    "ProvideStep",
    "Snapshots",
    "Task",
]


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

    def plan(self, workflow: Workflow) -> Plan:
        """Return what a workflow lacks on the server, and what :meth:`provide` would do about it.

        Nothing is changed but the workflow: see :meth:`Workflow.read_rest`.
        """
        return Providing(self._owner, self._parts, workflow).plan()

    def provide(
        self,
        workflow: Workflow,
        *,
        yes: Consent = False,
        on_progress: Callable[[ProvideStep], object] | None = None,
        timeout: float | None = None,
    ) -> Plan:
        """Have the server get what a workflow lacks: see :meth:`Workflow.provide`."""
        return provide(
            self._owner,
            self._parts,
            workflow,
            yes=yes,
            on_progress=on_progress,
            timeout=timeout,
        )
