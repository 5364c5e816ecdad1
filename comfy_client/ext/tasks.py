"""Tasks of the Manager as futures, and the thread that watches them."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, Literal

import attrs

from .. import runtime
from ..errors import (
    ApiError,
    ClientClosed,
    ComfyError,
    NotFound,
    NotSupported,
    ServerUnreachable,
    TaskTimeout,
    TransportError,
    UnexpectedResponse,
)
from ..locks import check_may_wait, shared_lock
from ..models.packs import InstalledPack
from ..signals import call_in_thread
from ..timing import Timing
from ..transport.deadline import LONGEST, Deadline
from ..transport.failures import is_away
from .dialects import ManagerRoutes, Work, WorkQueue, results_in
from .task_outcomes import DONE, TaskEvidence, outcome, since, stopped

#: What the Manager can be asked for.
_KINDS: Final = (
    *("install", "uninstall", "enable", "disable", "update", "fix"),
    *("install-model", "install-git", "install-pip", "update-comfyui"),
)
#: Work on what may have an ``@`` in its name.
_UNVERSIONED: Final = ("install-model", "install-pip")
#: How a task ended.
_Ended = InstalledPack | ComfyError | None


@attrs.define(eq=False)
class _WatchedTask:
    """A task that has not ended, and what is known of it.

    Attributes:
        task: The future of its user.
        work: What the Manager was asked for.
        evidence: What it has told since.
        is_found: Whether it was not sent by this client, but found again by its id.
        is_sent: Whether the request for it has ended.
        failing_at: Since when the answers about it are no use; None: they are.
    """

    task: Task
    work: Work
    evidence: TaskEvidence
    is_found: bool = False
    is_sent: bool = False
    failing_at: float | None = None


class Task(Future["InstalledPack | None"]):
    """Work of the Manager: a :class:`concurrent.futures.Future` of the pack, as it is afterwards.

    The result is ``None`` where there is no pack: after ``uninstall``, ``install_model``,
    ``install_pip`` and ``update_comfyui``.  The Manager cannot stop its work, so ``cancel()``
    returns False.  ``wait`` and ``as_completed`` of :mod:`concurrent.futures` work with it, and
    ``asyncio.wrap_future``.  Callbacks of ``add_done_callback`` run in a thread of their own, and
    may wait for other tasks.

    Attributes:
        id: The id of the task; ``api.ext.manager.task(id)`` finds it again, also in another
            process and after a restart of the server.
        kind: ``install``, ``uninstall``, ``enable``, ``disable``, ``update``, ``fix``,
            ``install-model``, ``install-git``, ``install-pip`` or ``update-comfyui``.
        name: The pack's id, the folder of a repository, the file name of a model, or the names of
            Python packages; empty for ComfyUI itself.
        owner: The client, which its tasks keep open.
    """

    id: str
    kind: str
    name: str
    owner: object

    def __init__(self, work: Work, owner: object) -> None:
        super().__init__()
        self.id = work.id
        self.kind = work.kind
        self.name = work.name
        self.owner = owner
        self.set_running_or_notify_cancel()

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("a task cannot be pickled: pass its id, and call api.ext.manager.task(id)")

    def __repr__(self) -> str:
        return f"<Task {self.kind} {self.name}: {self.state}>"

    @property
    def state(self) -> Literal["running", "done", "failed"]:
        """Whether it waits or runs, is done, or has failed."""
        if not self.done():
            return "running"
        return "done" if self.exception() is None else "failed"

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the task has ended; return False if it has not after ``timeout`` seconds."""
        try:
            self.exception(timeout)
        except TaskTimeout:
            return False
        return True

    def result(self, timeout: float | None = None) -> InstalledPack | None:
        """Wait until the task has ended, and return the pack as it is now, or None.

        Args:
            timeout: Seconds; ``None``: no limit.

        Raises:
            TaskTimeout: The task has not ended in time; it goes on.
            ManagerRefused: The security settings of the Manager forbid it.
            TaskFailed: The Manager could not do it, or what it did does not show on the server.
            ComfyError: The server cannot be asked any more, such as after 401.
            ClientClosed: The client was closed; the Manager goes on.
        """
        self.exception(timeout)
        return super().result(0)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait as :meth:`result` does, and return its error, or None."""
        deadline = Deadline.after(timeout)
        check_may_wait()
        while not runtime.in_slices(self._is_over, deadline.left(LONGEST)):
            if deadline.expired:
                raise TaskTimeout(
                    f"{self.kind} {self.name}: not done within {timeout or 0:g} s; "
                    "the Manager goes on",
                    task_id=self.id,
                )
        return super().exception(0)

    def _is_over(self, seconds: float) -> bool:
        return bool(futures.wait([self], seconds).done)


def new_id(kind: str, name: str, version: str | None = None) -> str:
    """Return the id of a new task, which has all that :func:`parts_of` reads."""
    at = f"@{version}" if version else ""
    return f"{kind}:{uuid.uuid4().hex[:12]}:{name}{at}"


def parts_of(task_id: str) -> tuple[str, str, str | None]:
    """Return the kind, the name and the version in an id, or raise ValueError.

    The version is the one to install, or the one before an update; None: the id has none.
    """
    kind, _, rest = task_id.partition(":")
    unique, colon, name = rest.partition(":")
    if not (kind in _KINDS and unique and colon):
        raise ValueError(f"not the id of a task: {task_id!r:.100}")
    if kind in _UNVERSIONED:
        return kind, name, None
    name, _, version = name.partition("@")
    return kind, name, version or None


class TaskWatcher:
    """Asks the Manager about tasks that have not ended, in a thread that ends with them.

    ``_lock`` guards the watched tasks and the thread; no request is made while it is held.

    Args:
        dialect: Returns the Manager's routes; if true is given, asks anew which Manager there is.
        has_model: Returns whether the server lists a model file.
        subscribe: Registers a callback for the Manager's events; returns what unregisters it.
        timing: How long the Manager may take.
    """

    def __init__(
        self,
        dialect: Callable[[bool], ManagerRoutes],
        has_model: Callable[[Work], bool],
        subscribe: Callable[[Callable[[Any], object]], Callable[[], None]],
        timing: Timing,
    ) -> None:
        self._dialect = dialect
        self._has_model = has_model
        self._subscribe = subscribe
        self._timing = timing
        self._lock = shared_lock()
        self._wake = runtime.Event()
        self._watched: dict[str, _WatchedTask] = {}
        self._is_running = False

    def watch(self, task: Task, work: Work, send: Callable[[], object] | None = None) -> Task:
        """Return a task that ends when the work has; ``send`` asks the Manager for it.

        Events are received from before that on, as they may come before the answer.  If there is no
        answer, the Manager may have the task: what it tells later decides.
        """
        watch = _WatchedTask(task, work, TaskEvidence(self._timing), is_found=send is None)
        known = self._add(watch)
        if known is not watch:
            return known.task
        try:
            if send is not None:
                send()
        except BaseException as exc:
            if not _may_have_arrived(exc):
                self._remove(watch)
                raise
        self._has_sent(watch)
        return task

    def watch_answer(self, task: Task, work: Work, do: Callable[[], object]) -> Task:
        """Return a task for a request that the Manager answers only when the work is over.

        A thread of its own waits for the answer, which is the task's result.
        """
        watch = self._add(_WatchedTask(task, work, TaskEvidence(self._timing)))
        _begin(self._do, watch, do)
        return task

    def _do(self, watch: _WatchedTask, do: Callable[[], object]) -> None:
        try:
            do()
            watch.evidence.result = DONE
        except Exception as exc:  # noqa: BLE001 - the task ends in it, whatever it is
            if not _may_have_arrived(exc):
                if self._remove(watch):
                    watch.task.set_exception(exc)
                return
        self._has_sent(watch)

    def _add(self, watch: _WatchedTask) -> _WatchedTask:
        """Watch a task, unless one of its id is watched; return the one that is watched."""
        with self._lock:
            if not self._is_running:
                unsubscribe = self._subscribe(self._note)
                _begin(self._run, unsubscribe)
                self._is_running = True
            return self._watched.setdefault(watch.work.id, watch)

    def _remove(self, watch: _WatchedTask) -> bool:
        """Watch a task no longer; return whether it was watched."""
        with self._lock:
            return self._watched.pop(watch.work.id, None) is not None

    def _has_sent(self, watch: _WatchedTask) -> None:
        watch.is_sent = True
        self._wake.set()

    def after_fork(self) -> None:
        """End the tasks in the child of a fork, which lacks the thread."""
        self._lock = shared_lock()  # the old one may stay held
        watched, self._watched = self._watched, {}
        for watch in watched.values():
            Future.__init__(watch.task)  # its lock may stay held; its callbacks are the parent's
            watch.task.set_exception(ClientClosed("the task belongs to the parent process"))

    def _note(self, event: Any) -> None:
        """Take the results out of an event of the Manager, and look at the tasks soon."""
        results = results_in(event.data)
        with self._lock:
            for id, watch in self._watched.items():
                # Manager 3 names an update of ComfyUI so, whoever began it.
                name = "comfyui" if watch.work.kind == "update-comfyui" else id
                if (result := results.get(name)) is not None:
                    watch.evidence.result = result
        self._wake.set()

    def _run(self, unsubscribe: Callable[[], None]) -> None:
        """Look at the tasks until all have ended."""
        try:
            while (watched := self._waiting()) is not None:
                if watched:
                    self._look(watched)
                self._wake.wait(self._timing.task)
                self._wake.clear()
        finally:
            unsubscribe()

    def _waiting(self) -> list[_WatchedTask] | None:
        """Return the tasks that were sent; None if there are none at all, and the thread ends."""
        with self._lock:
            if not self._watched:
                self._is_running = False
                return None
            return [watch for watch in self._watched.values() if watch.is_sent]

    def _look(self, watched: list[_WatchedTask]) -> None:
        """Ask the Manager about tasks, and end those that have ended."""
        with self._about(watched):
            dialect = self._dialect(any(watch.failing_at is not None for watch in watched))
            queue = dialect.queue()  # first: a task that leaves it later has its result by then
            is_idle = not (queue.waiting or queue.running)
            has_own = not is_idle and dialect.has_own()
            self._look_at_each(watched, dialect, queue, has_own=has_own)

    def _look_at_each(
        self,
        watched: list[_WatchedTask],
        dialect: ManagerRoutes,
        queue: WorkQueue,
        *,
        has_own: bool,
    ) -> None:
        """Ask for results that no event has told, and do what follows from the evidence.

        The Manager does its tasks in their order, so while it works, those behind one without a
        result need not be asked for.
        """
        now = runtime.monotonic()
        waiting: list[_WatchedTask] = []
        ended: list[_WatchedTask] = []
        is_behind = needs_start = False
        for watch in watched:
            with self._about([watch]):
                evidence = watch.evidence
                if evidence.result is None and not (is_behind and not watch.is_found):
                    evidence.result = dialect.result(watch.work)
                    is_behind |= evidence.result is None and not watch.is_found and has_own
                step = evidence.step(queue, now, may_have_it=has_own or watch.is_found)
                if step == "dead":
                    self._end(watch, stopped(watch.work))
                elif step == "end":
                    ended.append(watch)
                else:
                    needs_start |= step == "start"
                    waiting.append(watch)
        with self._about(waiting):
            if needs_start:
                dialect.start()
            for watch in waiting:
                watch.failing_at = None
        with self._about(ended):
            installed = dialect.installed() if ended else {}
            for watch in ended:
                with self._about([watch]):
                    self._end(watch, self._outcome(watch, installed))

    @contextmanager
    def _about(self, watched: list[_WatchedTask]) -> Iterator[None]:
        """Context manager: an error ends the tasks that it is about, unless it may pass."""
        try:
            yield
        except Exception as exc:  # noqa: BLE001 - the tasks end in it, whatever it is
            for watch in watched:
                self._note_error(watch, exc)

    def _note_error(self, watch: _WatchedTask, exc: Exception) -> None:
        if isinstance(exc, ComfyError) and is_away(exc):
            watch.failing_at = None
            return
        now = runtime.monotonic()
        watch.failing_at = since(watch.failing_at, now)
        if not _may_pass(exc) or now - watch.failing_at > self._timing.task_routes:
            self._end(watch, copy.copy(exc))  # each has a traceback of its own

    def _outcome(self, watch: _WatchedTask, installed: Mapping[str, InstalledPack]) -> _Ended:
        work = watch.work
        has_model = work.kind == "install-model" and self._has_model(work)
        return outcome(work, watch.evidence.result, installed, has_model)

    def _end(self, watch: _WatchedTask, value: InstalledPack | Exception | None) -> None:
        """Watch a task no longer, and end it, which calls its callbacks."""
        if not self._remove(watch):
            return
        if isinstance(value, Exception):
            call_in_thread(partial(watch.task.set_exception, value))
        else:
            call_in_thread(partial(watch.task.set_result, value))


def _begin(target: Callable[..., None], *args: object) -> None:
    """Run a function in a thread of its own."""
    runtime.Thread(target=target, args=args, name="comfy-tasks", daemon=True).start()


def _may_pass(exc: Exception) -> bool:
    """Return whether an error may be over soon: a restarted server lacks routes for a while."""
    if isinstance(exc, ApiError) and exc.status >= 500:
        return True
    passing = isinstance(exc, NotFound | NotSupported | UnexpectedResponse)
    return passing or (isinstance(exc, ComfyError) and exc.retryable)


def _may_have_arrived(exc: BaseException) -> bool:
    """Return whether the Manager may have got a request that ended in an error."""
    return isinstance(exc, TransportError) and not isinstance(exc, ServerUnreachable)
