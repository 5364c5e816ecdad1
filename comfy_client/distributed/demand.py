"""Whether somebody still wants the result of a task.

Dask cannot stop the thread of a task.  When the last future of a task is cancelled or released, or
its client is gone, it marks the task as cancelled, and drops what the thread returns.
"""

from __future__ import annotations

from typing import Final

import attrs
from distributed import Worker

from .. import runtime
from ..jobs.job import Job
from . import notes
from .clients import Clients

#: Seconds during which the same call may be submitted again after it was cancelled.
_GRACE: Final = 1.0
#: Seconds for which a running prompt waits until those behind it are out of the queue.
_ORDER: Final = 0.5


@attrs.define(eq=False)
class Demand:
    """The demand for the result of one task.

    Attributes:
        worker: The worker that runs the task.
        key: The key of the task.
        is_left: Whether its prompt is to run on when nobody wants the result.
    """

    worker: Worker
    key: object
    is_left: bool
    _since: float | None = None

    def is_gone(self, *, waited: float = _GRACE) -> bool:
        """Return whether the task has been cancelled for ``waited`` seconds."""
        if self.is_left or not _is_cancelled(self.worker, self.key):
            self._since = None
            return False
        now = runtime.monotonic()
        self._since = self._since or now
        return now - self._since >= waited

    def may_cancel(self, clients: Clients, job: Job) -> bool:
        """Return whether the prompt is to be cancelled now.

        A running prompt comes last, as the next one would begin in its place.
        """
        if not self.is_gone():
            return False
        behind = job.handle.has_begun and any(
            not (one.done() or one.handle.has_begun) and _is_cancelled(self.worker, key)
            for key, one in list(clients.jobs.items())
        )
        return not behind or self.is_gone(waited=_GRACE + _ORDER)

    def is_wanted_elsewhere(self) -> bool:
        """Return whether the task is to run on another worker, which will look for its prompt."""
        return not notes.is_unwanted(self.worker, self.key)


def _is_cancelled(worker: Worker, key: object) -> bool:
    task = worker.state.tasks.get(key)  # type: ignore[call-overload]  # keys have no one type
    return task is not None and task.state == "cancelled"
