"""Pools of servers whose nodes wait, and what these servers have begun to run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import attrs

from comfy_client import ComfyPool
from comfy_client.testing import ComfyServer
from tests.helpers.clients import LIMIT, until


class AsksAgain(ComfyPool):
    """Asks servers for their definitions as often as it likes."""

    intervals = attrs.evolve(ComfyPool.intervals, ask_again=0.0)


@contextlib.contextmanager
def pooled(*args: Any, cls: type[ComfyPool] = ComfyPool, **options: Any) -> Iterator[ComfyPool]:
    """A pool of which all servers are ready."""
    with cls(*args, **options) as pool:
        until(lambda: all(one.state == "ready" for one in pool.status().servers))
        yield pool


def marks(*servers: ComfyServer) -> list[str | None]:
    """What they have begun to run, by the ids of the jobs."""
    return [ran.mark for server in servers for ran in server.ran]


def until_each_runs(*servers: ComfyServer) -> None:
    """Wait until each of them runs a prompt."""
    for server in servers:
        server.until(lambda server=server: server.ran and server.running, LIMIT)
