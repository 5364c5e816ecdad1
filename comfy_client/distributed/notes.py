"""Notes that the scheduler keeps on each task: its prompt, and the server that may have it.

A note is written before the prompt is sent, so a task without a note has sent nothing to any
server since the scheduler was started.  Notes last as long as the scheduler: Dask may lose a result
long after it was made.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final, Literal

import attrs
from dask.tokenize import tokenize
from distributed import Worker
from distributed.utils import sync

from ..values import T
from ..workflow.edit import Workflow

#: The key of all our metadata at the scheduler.
_ROOT: Final = "comfy-client"
_NAMESPACE: Final = uuid.UUID("6f0c9b0e-6d3e-5b0a-9c7e-1f3a8f6f4d52")
#: Seconds for the scheduler to answer.
_SECONDS: Final = 60.0
#: The client id of an attempt that was not sent.
_NOBODY: Final = "-"
#: The states of tasks, at the scheduler, whose result nobody wants.
_UNWANTED: Final = frozenset({None, "released", "forgotten"})

#: What is known of an attempt that was sent: nothing more; its prompt is being cancelled, as nobody
#: wants it; or its server did not answer for as long as the task was willing to wait.
Remark = Literal["", "unwanted", "silent"]


@attrs.frozen
class WorkerServer:
    """A server, as workers reach it.

    Attributes:
        url: The URL of the server.
        machine: The only machine that reaches the server by that URL; empty: all do.
    """

    url: str
    machine: str

    @property
    def id(self) -> str:
        """A short id, the same in every process."""
        return hashlib.sha256(f"{self.url}\n{self.machine}".encode()).hexdigest()[:12]


@attrs.frozen
class Attempt:
    """A prompt made for a task.

    Attributes:
        number: How many earlier attempts ended without a result, or were lost.
        client_id: The id of the client that sent it, or is about to; ``None``: it was not sent.
        prompt_id: The id of the prompt, which is the same in every worker.
        place: The id of the server to which it was sent; empty: it was not sent.
        remark: What else is known of it.
    """

    number: int
    client_id: str | None
    prompt_id: str
    place: str = ""
    remark: Remark = ""


class Notes:
    """The notes on one task.

    Args:
        worker: The worker that asks.
        key: The key of the task.
        digest: The digest of its workflow, as two tasks may have the same key, one after the other.
    """

    def __init__(self, worker: Worker, key: object, digest: str) -> None:
        self._worker = worker
        self._base = uuid.uuid5(_NAMESPACE, f"{key!r}\n{digest}")
        self._keys = [_ROOT, "tasks", str(self._base)]

    def read(self) -> Attempt:
        """Read the latest attempt from the scheduler."""
        said = _call(self._worker, "get_metadata", keys=self._keys, default=f"0 {_NOBODY}")
        number, client_id, place, remark, *_ = [*str(said).split(" "), "", ""]
        if client_id == _NOBODY:
            return self._attempt(int(number), None)
        known: Any = remark
        return self._attempt(int(number), client_id, place, known)

    def note_sending(self, attempt: Attempt, client_id: str, place: WorkerServer) -> None:
        """Note that the prompt is about to be sent, or is on its server."""
        self._write(attempt.number, client_id, place.id)

    def note_not_sent(self, attempt: Attempt) -> None:
        """Note that the server certainly does not have the prompt."""
        self._write(attempt.number, _NOBODY)

    def note_remark(self, attempt: Attempt, remark: Remark) -> None:
        """Note what else is known of an attempt that was sent."""
        if attempt.client_id is not None:
            self._write(attempt.number, attempt.client_id, attempt.place, remark)

    def note_end(self, attempt: Attempt) -> Attempt:
        """Note that the attempt failed or was lost; return the next one."""
        self._write(attempt.number + 1, _NOBODY)
        return self._attempt(attempt.number + 1, None)

    def _attempt(
        self, number: int, client_id: str | None, place: str = "", remark: Remark = ""
    ) -> Attempt:
        return Attempt(number, client_id, str(uuid.uuid5(self._base, str(number))), place, remark)

    def _write(self, number: int, *words: str) -> None:
        note = " ".join([str(number), *words]).rstrip()
        _call(self._worker, "set_metadata", keys=self._keys, value=note)


def is_unwanted(worker: Worker, key: object) -> bool:
    """Return whether the scheduler says that nobody wants the result of a task.

    A task that is to run on another worker is wanted.
    """
    return _call(worker, "get_task_status", keys=[key])[key] in _UNWANTED


async def report_away(worker: Worker, place: WorkerServer, away: bool) -> None:
    """Tell the other workers whether this worker's server is away (event loop only)."""
    await worker.scheduler.set_metadata(keys=[_ROOT, "away", place.id], value=away)


async def others(worker: Worker) -> list[WorkerServer]:
    """Return the servers of other workers that are not away (event loop only)."""
    away = await worker.scheduler.get_metadata(keys=[_ROOT, "away"], default={})
    there = {place.id: place for place in await taken(worker)}
    return [place for place_id, place in there.items() if not away.get(place_id)]


async def taken(worker: Worker) -> list[WorkerServer]:
    """Return the server of each other worker that is there (event loop only)."""
    there = await worker.scheduler.ncores()  # the shortest answer that has all addresses
    clients = await worker.scheduler.get_metadata(keys=[_ROOT, "clients"], default={})
    known = await _places(worker)
    return [
        known[place_id]
        for address, place_id in clients.items()
        if address in there and address != worker.address
    ]


async def older(worker: Worker, own: WorkerServer) -> list[WorkerServer]:
    """Return the servers that may have prompts of an earlier scheduler (event loop only).

    Those that are away are not among them, except the worker's own.
    """
    empty = await worker.scheduler.get_metadata(keys=[_ROOT, "empty"], default={})
    there = {place.id: place for place in [own, *await others(worker)]}
    return [place for place_id, place in there.items() if not empty.get(place_id)]


def places(worker: Worker) -> dict[str, WorkerServer]:
    """Return the servers of all workers, past and present, by their ids."""
    return in_loop(worker, _places, worker)


async def _places(worker: Worker) -> dict[str, WorkerServer]:
    known = await worker.scheduler.get_metadata(keys=[_ROOT, "servers"], default={})
    return {place_id: WorkerServer(*facts) for place_id, facts in known.items()}


async def introduce(worker: Worker, place: WorkerServer) -> bool:
    """Register the worker and its server with the scheduler; forget workers that have left.

    Return whether the scheduler did not know that server.  Event loop only, and one worker at a
    time.
    """
    there = await worker.scheduler.ncores()
    workers = await worker.scheduler.get_metadata(keys=[_ROOT, "clients"], default={})
    kept = {address: place_id for address, place_id in workers.items() if address in there}
    is_new = place.id not in await _places(worker)
    facts = [place.url, place.machine]
    # First, as other workers look up the servers of all clients.
    await worker.scheduler.set_metadata(keys=[_ROOT, "servers", place.id], value=facts)
    known = {**kept, worker.address: place.id}
    await worker.scheduler.set_metadata(keys=[_ROOT, "clients"], value=known)
    return is_new


async def note_empty(worker: Worker, place: WorkerServer) -> None:
    """Note that a server had no prompts when the scheduler first knew it (event loop only)."""
    await worker.scheduler.set_metadata(keys=[_ROOT, "empty", place.id], value=True)


def in_loop(worker: Worker, ask: Callable[..., Awaitable[T]], *arguments: Any) -> T:
    """Run a coroutine in the worker's event loop, from a task's thread, and return its result."""
    return sync(worker.loop, ask, *arguments, callback_timeout=_SECONDS)


def digest_of(workflow: object, inputs: Mapping[Any, Any] | None) -> str:
    """Return a digest of a workflow and its inputs, the same in every process."""
    source = workflow.to_dict() if isinstance(workflow, Workflow) else workflow
    items = None if inputs is None else [[name, value] for name, value in inputs.items()]
    text = json.dumps([source, items], sort_keys=True, default=tokenize)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _call(worker: Worker, name: str, **arguments: Any) -> Any:
    """Call a method of the scheduler from the thread of a task, and return its answer."""
    return in_loop(worker, partial(getattr(worker.scheduler, name), **arguments))
