"""Pausing of a worker whose ComfyUI is away.

The scheduler gives a paused worker no tasks.  Only the scheduler knows of the pause; the worker
itself keeps running.  So tasks that it has already, and that find no server, return to the
scheduler immediately.  And its memory monitor, which resumes paused workers, leaves it alone.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

from distributed import Worker
from distributed.core import Status

from ..errors import ClientClosed
from ..transport.failures import is_away
from . import notes
from .clients import Clients

log: logging.Logger = logging.getLogger("comfy_client")

#: Seconds between two checks, and for an answer of a busy server.
_PAUSE: Final = 1.0
_ANSWER: Final = 10.0
#: How many checks of an absent server come between two questions to the scheduler.
_REST: Final = 5


async def pause_while_away(worker: Worker, clients: Clients, every: float = _PAUSE) -> None:
    """Pause the worker while its server is away and another worker's server is not.

    If all servers are away, no worker is paused: tasks wait for their servers, and fail.  ``every``
    is the number of seconds between two checks.
    """
    noted: bool | None = None
    checks = 0
    try:
        while not clients.closed:
            try:
                away = not await asyncio.to_thread(_is_there, clients)
                if away is not noted:
                    await notes.report_away(worker, clients.place, away)
                    noted, checks = away, 0
                pause = clients.turns_away
                if away and checks % _REST == 0:
                    pause = bool(await notes.others(worker))
                _pause(worker, clients, away and pause)
                checks += 1
            except (OSError, TimeoutError) as exc:
                extra = {"server": clients.url}
                log.warning("cannot tell whether %s is up: %r", clients.url, exc, extra=extra)
            await asyncio.sleep(every)
    finally:
        _pause(worker, clients, False)


def _is_there(clients: Clients) -> bool:
    """Return whether the worker's server answers, even with a refusal.

    Once the clients are closed, return True.
    """
    try:
        api = clients.own()
    except ClientClosed:
        return True
    if api.connected:
        return True
    error = api.ping(_ANSWER).error
    return error is None or not is_away(error)


def _pause(worker: Worker, clients: Clients, pause: bool) -> None:
    """Tell the scheduler to pause or resume a worker.

    Each call repeats a pause, as the worker's memory monitor may have ended it.
    """
    if pause or clients.turns_away:
        status = Status.paused if pause else worker.status
        if status in (Status.running, Status.paused):  # and not about to close
            now = f"comfy-client-{time.time()}"
            message = {"op": "worker-status-change", "status": status.name, "stimulus_id": now}
            worker.batched_send(message)
    if pause and not clients.turns_away:
        said, extra = "%s is away: its worker takes no tasks until it is back", clients.url
        log.warning(said, clients.url, extra={"server": extra})
    elif clients.turns_away and not pause:
        extra = clients.url
        log.info("the worker of %s takes tasks again", clients.url, extra={"server": extra})
    clients.turns_away = pause
