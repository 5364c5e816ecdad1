"""Extensions that node packs give a server: ``api.ext``.

Modules:
    monitor: :class:`Monitor`, for Crystools.
    node_pack: The routes of a pack, the question whether the server has them, and the error if
        it lacks them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..attributes import KnownAttributes
from ..jobs.execute import Parts
from ..routes import Routes
from .monitor import Monitor

if TYPE_CHECKING:
    from .manager import Manager

__all__ = ["Extensions", "Monitor"]


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
        from .manager import Manager

        return Manager(self._owner, self._parts)
