"""Execution times of a sweep's rows, by the clocks of the servers."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

from .. import runtime
from ..errors import ComfyError, JobFailed, JobInterrupted, NotSupported
from ..jobs.job import Job
from ..models import HistoryEntry
from ..transport.deadline import Deadline, limited_silence
from .row import SweepRow
from .runner import Runner

log: logging.Logger = logging.getLogger("comfy_client")


def execution_time(runner: Runner, host: str, job: Job) -> float | None:
    """Return how many seconds a job ran, by the server's clock; None if it does not say in time."""
    took, client = job.handle.state.took, runner.clients.get(host)
    if took is not None or client is None:
        return took
    try:
        with limited_silence(runner.poller.timing.row):  # the journal waits for this
            entry = client.get_history(job.prompt_id)
    except NotSupported:  # a hosted server
        return job.handle.state.elapsed(runtime.monotonic())
    except ComfyError as exc:
        extra = {**job.handle.state.named, "server": host}
        log.debug("no times for prompt %s: %s", job.prompt_id, exc, extra=extra)
        return None
    return None if entry is None else _ran_for(entry)


def late_times(runner: Runner, rows: Iterable[SweepRow]) -> Iterator[tuple[SweepRow, float]]:
    """Yield rows without an execution time, each with the time that its server reports now."""
    missing = [
        row
        for row in rows
        if (row.result is not None or isinstance(row.error, JobFailed | JobInterrupted))
        and row.seconds is None
        and not row.from_journal
    ]
    poller, silent = runner.poller, set[str | None]()  # servers that report no times
    deadline = Deadline.after(poller.timing.rows)
    while missing and (left := deadline.left()) > 0:
        row = missing.pop(0)
        client = runner.clients.get(row.host or "")
        if client is None or row.host in silent:
            continue
        try:
            with limited_silence(left):
                entry = client.get_history(row.prompt_id)
        except ComfyError as exc:
            extra = {"server": row.host}
            log.debug("no times for prompt %s: %s", row.prompt_id, exc, extra=extra)
            silent.add(row.host)
            continue
        if entry is None:
            missing.append(row)
            poller.tracker.wake.wait_stopped(0.05)
            continue
        seconds = _ran_for(entry)
        if seconds is None:
            silent.add(row.host)
        else:
            yield row, seconds


def _ran_for(entry: HistoryEntry) -> float | None:
    started, ended = entry.started, entry.ended
    return None if started is None or ended is None else ended - started
