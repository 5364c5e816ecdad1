"""Notes that the scheduler keeps on each task: its prompt, and the server that may have it.

A note is written before the prompt is sent, so a task without a note has sent nothing to any
server.  Notes last as long as the scheduler: Dask may lose a result long after it was made.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final, TypeVar

import attrs
from dask.tokenize import tokenize
from distributed import Worker
from distributed.utils import sync

from ..workflow.edit import Workflow

#: The key of all our metadata at the scheduler.
_ROOT: Final = "comfy-client"
_NAMESPACE: Final = uuid.UUID("6f0c9b0e-6d3e-5b0a-9c7e-1f3a8f6f4d52")
#: Seconds for the scheduler to answer.
_SECONDS: Final = 60.0
#: The client id of an attempt that was not sent.
_NOBODY: Final = "-"

T = TypeVar("T")


@attrs.frozen
class Submitter:
    """The client of a worker, as other workers need to know it.

    Attributes:
        client_id: The id of the client.
        url: The URL of its server.
        machine: The only machine that reaches the server by that URL; empty: all do.
        worker: The address of the worker.
    """

    client_id: str
    url: str
    machine: str
    worker: str


@attrs.frozen
class Attempt:
    """A prompt made for a task.

    Attributes:
        number: How many earlier attempts ended without a result, or were lost.
        client_id: The id of the client that sent it, or is about to; ``None``: it was not sent.
        prompt_id: The id of the prompt, which is the same in every worker.
    """

    number: int
    client_id: str | None
    prompt_id: str


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
        number, _, client_id = str(said).partition(" ")
        return self._attempt(int(number), None if client_id == _NOBODY else client_id)

    def note_sending(self, attempt: Attempt, client_id: str) -> None:
        """Note that the prompt is about to be sent."""
        self._write(attempt.number, client_id)

    def note_not_sent(self, attempt: Attempt) -> None:
        """Note that the server certainly does not have the prompt."""
        self._write(attempt.number, _NOBODY)

    def note_end(self, attempt: Attempt) -> Attempt:
        """Note that the attempt failed or was lost; return the next one."""
        self._write(attempt.number + 1, _NOBODY)
        return self._attempt(attempt.number + 1, None)

    def _attempt(self, number: int, client_id: str | None) -> Attempt:
        prompt_id = uuid.uuid5(self._base, str(number))
        return Attempt(number, client_id, str(prompt_id))

    def _write(self, number: int, client_id: str) -> None:
        _call(self._worker, "set_metadata", keys=self._keys, value=f"{number} {client_id}")


async def report_away(worker: Worker, away: bool) -> None:
    """Tell the other workers whether this worker's server is away (event loop only)."""
    await worker.scheduler.set_metadata(keys=[_ROOT, "away", worker.address], value=away)


async def others(worker: Worker) -> list[Submitter]:
    """Return the clients of other workers whose servers are not away (event loop only)."""
    alive = (await worker.scheduler.identity())["workers"].keys() - {worker.address}
    away = await worker.scheduler.get_metadata(keys=[_ROOT, "away"], default={})
    newest = {one.worker: one for one in await known(worker)}
    return [newest[one] for one in alive & newest.keys() if not away.get(one)]


def submitters(worker: Worker) -> list[Submitter]:
    """Read the clients of all workers, past and present, from the scheduler."""
    return _read(_call(worker, "get_metadata", keys=[_ROOT, "clients"], default={}))


async def known(worker: Worker) -> list[Submitter]:
    """Return the clients of all workers from the scheduler (event loop only)."""
    return _read(await worker.scheduler.get_metadata(keys=[_ROOT, "clients"], default={}))


async def introduce(worker: Worker, one: Submitter) -> None:
    """Register the client of this worker with the scheduler (event loop only)."""
    value = [one.url, one.machine, one.worker]
    keys = [_ROOT, "clients", one.client_id]
    await worker.scheduler.set_metadata(keys=keys, value=value)


def in_loop(worker: Worker, ask: Callable[..., Awaitable[T]], *arguments: Any) -> T:
    """Run a coroutine in the worker's event loop, from a task's thread, and return its result."""
    return sync(worker.loop, ask, *arguments, callback_timeout=_SECONDS)


def digest_of(workflow: object, inputs: Mapping[Any, Any] | None) -> str:
    """Return a digest of a workflow and its inputs, the same in every process."""
    source = workflow.to_dict() if isinstance(workflow, Workflow) else workflow
    items = None if inputs is None else [[name, value] for name, value in inputs.items()]
    text = json.dumps([source, items], sort_keys=True, default=_of_object)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _of_object(value: object) -> str:
    """Return Dask's token for an object that is not JSON, such as a file or an array."""
    return tokenize(value)


def _read(clients: Mapping[str, Any]) -> list[Submitter]:
    return [Submitter(client_id, *facts) for client_id, facts in clients.items()]


def _call(worker: Worker, name: str, **arguments: Any) -> Any:
    """Call a method of the scheduler from the thread of a task, and return its answer."""
    return in_loop(worker, partial(getattr(worker.scheduler, name), **arguments))
