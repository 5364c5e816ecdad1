"""Many workflows on the server of one client: the bodies of its ``map`` and ``sweep``."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Generator, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from ..errors import ComfyError
from ..jobs.execute import Parts, ServerDefinitions
from ..jobs.result import Result
from ..locks import check_may_wait
from ..routes import Routes
from ..routes.prompts import AnyWorkflow
from ..transport.deadline import Deadline
from ..workflow.edit import as_workflow

if TYPE_CHECKING:
    from .in_flight import InFlight
    from .row import SweepRow
    from .rows import Sweep
    from .runner import OneServer


def map_workflows(
    routes: Routes,
    parts: Parts,
    workflows: Iterable[AnyWorkflow] | AnyWorkflow,
    params: Iterable[Mapping[str, Any]] | None,
    options: Mapping[str, Any],
    *,
    in_flight: int,
    ordered: bool,
    on_error: Literal["raise", "keep"],
    timeout: float | None,
    stall_timeout: float | None,
    patience: float | None,
    progress: bool | None,
) -> Generator[Result | ComfyError, None, None]:
    """Run many workflows, and yield their results or errors while more are submitted."""
    from .map_loop import check_in_flight, run_map, with_previews  # few scripts run many

    parts.check_open()
    check_may_wait()
    check_in_flight(in_flight)
    server = _server(routes, parts, timeout, stall_timeout, patience)
    options = with_previews(options, progress)
    return run_map(
        server.prompts,
        partial(server.send, options),
        workflows,
        params,
        definitions=ServerDefinitions(routes, parts.definitions, Deadline.after(timeout)),
        most=lambda: in_flight,
        ordered=ordered,
        on_error=on_error,
        progress=progress,
        delay=parts.poller.timing.show,
        resubmit=partial(server.resubmit, options),
    )


def sweep_grid(
    routes: Routes,
    parts: Parts,
    workflow: AnyWorkflow,
    grid: Mapping[str, Iterable[Any]],
    options: Mapping[str, Any],
    *,
    in_flight: int,
    journal: str | os.PathLike[str] | None,
    retry_failed: bool,
    timeout: float | None,
    stall_timeout: float | None,
    patience: float | None,
    on_row: Callable[[SweepRow], object] | None,
    progress: bool | None,
) -> Sweep:
    """Run a workflow with all combinations of the values in ``grid``, and return the rows."""
    from .sweep import run_sweep  # few scripts run many

    parts.check_open()
    check_may_wait()
    source = ServerDefinitions(routes, parts.definitions, Deadline.after(timeout))
    workflow = as_workflow(workflow, source)
    server = _server(routes, parts, timeout, stall_timeout, patience)
    return run_sweep(
        lambda _: server,
        workflow,
        grid,
        in_flight=in_flight,
        journal=journal,
        retry_failed=retry_failed,
        on_row=on_row,
        progress=progress,
        options=options,
    )


def _server(
    routes: Routes,
    parts: Parts,
    timeout: float | None,
    stall_timeout: float | None,
    patience: float | None,
) -> OneServer:
    from .runner import OneServer

    server = OneServer(
        routes,
        parts,
        timeout=timeout,
        stall_timeout=stall_timeout,
        patience=patience,
    )
    parts.calls.add(weakref.ref(server.prompts, parts.calls.discard))
    return server


def withdraw(calls: set[weakref.ref[InFlight]]) -> None:
    """Take back the pending prompts of ``map`` and ``sweep`` calls that have not ended."""
    for known in calls.copy():  # another thread may begin or forget a call
        prompts = known()
        if prompts is not None:
            prompts.withdraw()
