"""Pausing of a Dask worker, without Dask: what the scheduler is asked and told."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from distributed.core import Status

from comfy_client import ServerUnreachable
from comfy_client.distributed.notes import WorkerServer
from comfy_client.distributed.plugin import Clients, pause_while_away

OTHER = WorkerServer("http://other:8188", "")


class Scheduler:
    """Counts its questions; another worker is there, with a server that is not away."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        known = {"clients": {"tcp://other": OTHER.id}, "servers": {OTHER.id: [OTHER.url, ""]}}
        self._known: dict[str, dict[str, Any]] = known

    async def ncores(self) -> dict[str, int]:
        self.asked["ncores"] += 1
        return {"tcp://own": 2, "tcp://other": 2}

    async def get_metadata(self, keys: list[str], default: Any) -> Any:
        return self._known.get(keys[1], default)

    async def set_metadata(self, keys: list[str], value: Any) -> None:
        self._known.setdefault(keys[1], {})[keys[2]] = value


class Down(Clients):
    """The server is away for so many checks; then the worker ends."""

    def __init__(self, checks: int) -> None:
        super().__init__("http://own:8188", credentials={}, user=None, verify=True)
        self.left = checks

    def own(self) -> Any:
        self.left -= 1
        self.closed = self.left <= 0
        return self

    connected = False

    def ping(self, _: float) -> Any:
        class Answer:
            error = ServerUnreachable("refused")

        return Answer


class AnyWorker:
    """A worker that notes what it tells the scheduler."""

    address = "tcp://own"
    status = Status.running

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.told: list[str] = []

    def batched_send(self, message: dict[str, Any]) -> None:
        self.told.append(message["status"])


@pytest.mark.parametrize(("checks", "asked"), [(1, 1), (5, 1), (6, 2), (20, 4)])
def test_a_worker_of_an_absent_server_asks_the_scheduler_seldom(checks: int, asked: int) -> None:
    """Only for addresses; it repeats the pause at each check."""
    clients = Down(checks)
    worker: Any = AnyWorker(Scheduler())
    asyncio.run(pause_while_away(worker, clients, every=0.0))
    assert worker.scheduler.asked == {"ncores": asked}
    assert worker.told == ["paused"] * checks + ["running"]
