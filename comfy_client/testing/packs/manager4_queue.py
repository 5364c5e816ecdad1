"""The queue of Manager 4: its worker, the history, and the batches that are kept as files."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

from .installed import SKIP, SUCCESS
from .manager import MOST, MOST_BATCHES, TaskWorker, check_room, remember
from .manager4_params import ManagerTask
from .pack import PackServer

_WAIT: Final = 4.0  # simulated seconds that the worker waits for more
_CLOSING: Final = 0.5  # simulated seconds of its end, in which it takes no task


class TaskQueue:
    """The tasks of one process of the server, and what has become of them."""

    def __init__(
        self,
        server: PackServer,
        worker: TaskWorker,
        batches: dict[str, dict[str, Any]],
        work: Callable[[ManagerTask], str],
        installed: Callable[[], Mapping[str, Any]],
        seconds: float,
    ) -> None:
        """Make an empty queue.

        Args:
            server: The server.
            worker: What does the tasks.
            batches: The batches that are kept as files, the oldest first.
            work: What does a task, and returns its result.  An exception kills the worker; there
                is another when ``queue/start`` is sent.
            installed: What tells of the installed packs.
            seconds: How many simulated seconds a task takes.
        """
        self._server = server
        self._worker = worker
        self._batches = batches
        self._work = work
        self._installed = installed
        self._seconds = seconds
        self._pending: list[ManagerTask] = []
        self._running: ManagerTask | None = None
        self.history: dict[str, dict[str, Any]] = {}
        self._batch: dict[str, Any] | None = None
        self._news = asyncio.Event()

    def add(self, task: ManagerTask) -> None:
        """Add a task, and begin a batch if there is none.

        Raises:
            HTTPServiceUnavailable: Too many tasks wait.
        """
        check_room(len(self._pending) + 1)
        if self._batch is None:
            now = self._now()
            number = self._server.state.options.ids.new("batch").hex[:8]
            batch_id = f"batch_{now:%Y%m%d_%H%M%S}_{number}"
            self._batch = {
                "batch_id": batch_id,
                "start_time": str(now),
                "state_before": self._snapshot(),
                "operations": [],
            }
        self._pending.append(task)
        self._news.set()

    def forget_pending(self) -> None:
        """Forget the tasks that have not begun."""
        self._pending.clear()

    def status(self, client_id: str | None) -> dict[str, Any]:
        """Return the state of the queue, or of one client's tasks."""

        def is_own(one: str) -> bool:
            return client_id in (None, one)

        pending = sum(is_own(task.client_id) for task in self._pending)
        running = int(self._running is not None and is_own(self._running.client_id))
        told = {
            "total_count": pending + running,
            "done_count": sum(is_own(one["client_id"]) for one in self.history.values()),
            "in_progress_count": running,
            "pending_count": pending,
            "is_processing": self._worker.lives if client_id is None else bool(running),
        }
        return told if client_id is None else {"client_id": client_id, **told}

    # -- worker -------------------------------------------------------------------------

    async def process(self) -> None:
        """Do all tasks, and wait for more, until none comes or one kills the worker."""
        while await self._has_task():
            task = self._pending.pop(0)
            self._running = task
            self._tell("cm-task-started", task)
            await self._server.sleep(self._seconds)
            if not self._do(task):
                return
        await self._server.sleep(_CLOSING)
        self._end_batch()
        self._server.state.send("cm-queue-status", {"status": "all-done"})

    async def _has_task(self) -> bool:
        for pause in self._server.state.options.clock.pauses(_WAIT):
            if self._pending:
                return True
            self._news.clear()
            try:
                await asyncio.wait_for(self._news.wait(), pause)
            except TimeoutError:
                continue
        return bool(self._pending)

    def _do(self, task: ManagerTask) -> bool:
        """Do a task; return whether the worker lives on."""
        try:
            result = self._work(task) if task.is_complete else task.death()
            lives = task.is_complete
        except Exception as exc:  # noqa: BLE001  it is the result, and ends the worker alone
            result, lives = f"Exception: {type(exc).__name__}: {exc}", False
        self._running = None
        good = result in (SUCCESS, SKIP)
        now = self._now().isoformat()
        status = {
            "status_str": result if good else "error",
            "completed": True,
            "messages": [] if good else [result],
        }
        item = {
            **task.told(),
            "timestamp": now,
            "result": result,
            "status": status,
            "batch_id": self._batch["batch_id"] if self._batch else None,
            "end_time": now,
        }
        remember(self.history, task.ui_id, item, MOST)
        if self._batch is not None:
            operations = self._batch["operations"]
            operations.append(_operation(task, result, status, now))
            del operations[:-MOST]
        self._tell("cm-task-completed", task, result=result, status=status, timestamp=now)
        return lives

    def _tell(self, event: str, task: ManagerTask, **more: Any) -> None:
        """Send an event of a task to its client, with all that the Manager knows."""
        if not self._server.state.sockets.is_connected(task.client_id):
            return
        state = {
            "history": {**self.history},
            "running_queue": [self._running.told()] if self._running else [],
            "pending_queue": [one.told() for one in self._pending],
            "installed_packs": self._installed(),
        }
        told = {"ui_id": task.ui_id, "kind": task.kind, "timestamp": self._now().isoformat()}
        self._server.state.send(event, {**told, **more, "state": state}, task.client_id)

    def _end_batch(self) -> None:
        batch, self._batch = self._batch, None
        if batch is None:
            return
        done = [one["result"] for one in batch["operations"]]
        counts = {name: done.count(name) for name in ("success", "error", "skip")}
        kept = {
            **batch,
            "end_time": str(self._now()),
            "state_after": self._snapshot(),
            "total_operations": len(done),
            "successful_operations": counts["success"],
            "failed_operations": counts["error"],
            "skipped_operations": counts["skip"],
        }
        remember(self._batches, batch["batch_id"], kept, MOST_BATCHES)

    def _snapshot(self) -> dict[str, Any]:
        """Return what a batch keeps of the installed packs."""
        packs = self._installed()
        nodes = {
            key.partition("@")[0]: {
                "name": key.partition("@")[0],
                "version": pack["ver"],
                "install_method": "cnr" if pack["cnr_id"] else "git",
                "enabled": pack["enabled"],
            }
            for key, pack in packs.items()
        }
        return {"snapshot_time": str(self._now()), "installed_nodes": nodes}

    def _now(self) -> Any:
        return self._server.state.options.clock.local()


def _operation(task: ManagerTask, result: str, status: Any, now: str) -> dict[str, Any]:
    """Return what a batch keeps of a task."""
    params = task.params
    target = params.get("id") or params.get("node_name") or params.get("cnr_id")
    return {
        "operation_id": task.ui_id,
        "operation_type": task.kind,
        "target": target or params.get("filename"),
        "result": status["status_str"],
        "error_message": None if status["status_str"] != "error" else result,
        "end_time": now,
        "client_id": task.client_id,
    }
