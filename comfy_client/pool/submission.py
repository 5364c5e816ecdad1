"""Submission of workflows to a pool, which runs them on any server that can run them."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable

from ..errors import ComfyError, WorkflowError
from ..jobs.execute import run_again_after_oom
from ..jobs.handle import Limits
from ..jobs.job import Callbacks, Job, OnInterrupt, cancel_in_time, cancelling, wait_and_show
from ..jobs.poller import time_left
from ..jobs.result import Result
from ..reading import reading_until
from ..routes.prompts import AnyWorkflow
from ..showing.screen import Surface
from ..transport.deadline import LONGEST, limited_silence, read_timeout
from ..workflow.address import Inputs
from ..workflow.definition_source import DefinitionSource
from ..workflow.edit import Workflow, as_workflow, graph_of, with_inputs
from ..workflow.graph import files_in
from .membership import READY, Sending, Servers, Terms, connect_once
from .needs import models_of, needs_of
from .pool_state import Entry
from .pooled_job import PooledHandle, PooledJob
from .schedule import Waiting

log: logging.Logger = logging.getLogger("comfy_client")


def read_workflow(
    workflow: AnyWorkflow, definitions: DefinitionSource, inputs: Inputs | None = None
) -> Workflow:
    """Return a copy of a workflow with these inputs; raise TypeError for a function."""
    if callable(workflow) and not isinstance(workflow, Workflow | Job):
        raise TypeError(f"a pool executes workflows, not functions: {workflow!r:.80}")
    known = as_workflow(workflow, definitions)
    return known.copy() if inputs is None else with_inputs(known, inputs)


def submit(
    servers: Servers, workflow: Workflow, callbacks: Callbacks, terms: Terms, sending: Sending
) -> PooledJob:
    """Queue a workflow in the pool, and return its job; cancel it if the call is interrupted."""
    jobs: list[PooledJob] = []
    try:
        return enqueue(servers, workflow, callbacks, terms, sending, jobs.append)
    except BaseException as exc:
        for job in jobs if not isinstance(exc, ComfyError) else ():
            _cancel(job)
        raise


def _cancel(job: PooledJob) -> None:
    """Cancel the job of an interrupted submission, which its user never got."""
    extra = {**job.handle.state.named, "server": job.server}
    said_why = "cancelling prompt %s: its submission was interrupted"
    log.warning(said_why, job.prompt_id, extra=extra)
    said: list[bool] = []
    try:
        said = cancel_in_time([job])
    finally:  # a second Ctrl-C, too
        if not said:
            where = f" on {job.server}" if job.server else ""
            log.warning("prompt %s may keep running%s", job.prompt_id, where, extra=extra)


def enqueue(
    servers: Servers,
    workflow: Workflow,
    callbacks: Callbacks,
    terms: Terms,
    sending: Sending,
    begun: Callable[[PooledJob], object],
    *,
    ready_in: float = READY,
) -> PooledJob:
    """Queue a workflow until a server is chosen for it, and return its job.

    ``begun`` is called with the job before any server has it, so that the caller can end the job if
    Ctrl-C interrupts this call.
    """
    dispatcher = servers.dispatcher
    connect_once(dispatcher, ready_in)
    graph = graph_of(workflow)
    known = {} if files_in(graph) else graph
    client, prompt_id = servers.any_client(), str(uuid.uuid4())
    handle = PooledHandle(client, client.parts.poller, prompt_id, known, dispatcher)
    handle.state.tags = sending["options"].get("tags") or {}
    job = PooledJob(handle)
    needs = needs_of(graph)
    waiting = Waiting(
        job,
        next(servers.numbers),
        priority=terms.priority,
        caller=terms.caller,
        needs=needs,
        model=models_of(needs),
        include=terms.include,
        exclude=terms.exclude,
    )
    entry = Entry(job, workflow, waiting, callbacks, sending)
    begun(job)
    try:
        dispatcher.submit(entry)
    except WorkflowError:  # a model file may have been added since
        dispatcher.refresh(read_timeout.get())
        dispatcher.submit(entry)
    if dispatcher.waits_for_away(job):  # or a server that answers may have got the file
        dispatcher.refresh(read_timeout.get())
        dispatcher.warn_of_wait(job)
    return job


def run(
    servers: Servers,
    workflow: AnyWorkflow,
    definitions: DefinitionSource,
    inputs: Inputs | None,
    callbacks: Callbacks,
    terms: Terms,
    sending: Sending,
    limits: Limits,
    screen: Surface,
    *,
    on_interrupt: OnInterrupt,
    retry_oom: bool,
) -> Result:
    """Run a workflow on one of the servers, and return its result.

    If the call ends early, a job that still waits for a server is taken back.
    """
    with limited_silence(time_left(limits.deadline, LONGEST)):
        workflow = read_workflow(workflow, definitions)  # whose keys no frame shows
    with reading_until(limits.deadline.at):
        workflow = read_workflow(workflow, definitions, inputs)
    jobs: list[PooledJob] = []

    def attempt(workflow: Workflow) -> Result:
        with cancelling(on_interrupt) as to_cancel:

            def begin(job: PooledJob) -> None:
                jobs.append(job)
                to_cancel.append(job)
                if callbacks:
                    job.handle.events.keep_all()

            ready_in = limits.left(READY)
            try:
                with limited_silence(time_left(limits.deadline, LONGEST)):
                    job = enqueue(
                        servers, workflow, Callbacks(), terms, sending, begin, ready_in=ready_in
                    )
                return wait_and_show(job, limits, screen, callbacks, on_interrupt=on_interrupt)
            except BaseException as exc:  # includes an alarm
                for job in jobs[-1:]:
                    if job.status == "waiting" and servers.dispatcher.withdraw(job):
                        exc.add_note("no server had it: it was taken back, and will not run")
                    else:
                        servers.dispatcher.recall(job)  # nobody waits for it any more
                raise

    if not retry_oom:
        return attempt(workflow)
    timing, tags = servers.any_client().timing, sending["options"].get("tags")
    return run_again_after_oom(
        lambda: jobs[-1].handle.routes, timing, limits, attempt, workflow, tags
    )
