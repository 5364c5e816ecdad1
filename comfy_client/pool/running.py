"""The methods of a pool that run workflows, one at a time."""

from __future__ import annotations

import itertools
import math
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self, Unpack

from ..errors import WorkflowError
from ..events import JobEvent, PreviewEvent, Progress
from ..jobs.callbacks import Callbacks
from ..jobs.job import Job, OnInterrupt
from ..jobs.pooled import PooledJob
from ..jobs.result import NodeOutput, Result
from ..routes.prompts import AnyWorkflow, PromptOptions, seal
from ..sealing import sealed
from ..values import is_real
from ..workflow.address import Inputs
from ..workflow.edit import Workflow, as_workflow, graph_of, with_inputs
from ..workflow.files import files_in
from .member import Entry
from .needs import models_of, needs_of
from .schedule import Waiting
from .servers import AnyServer, Servers


class Running(Servers):
    """Runs workflows."""

    _numbers: itertools.count[int]

    def init(self, timeout: float | None = 10.0) -> Self:
        """Connect all servers, and wait until one is ready."""
        raise NotImplementedError

    def submit(
        self,
        workflow: AnyWorkflow,
        inputs: Inputs | None = None,
        *,
        priority: float = 0,
        include: Iterable[AnyServer] | None = None,
        exclude: Iterable[AnyServer] = (),
        strict: bool = False,
        check: bool = False,
        resubmit: bool = False,
        on_event: Callable[[JobEvent], object] | None = None,
        on_progress: Callable[[Progress], object] | None = None,
        on_preview: Callable[[PreviewEvent], object] | None = None,
        on_start: Callable[[Job], object] | None = None,
        on_output: Callable[[str, NodeOutput], object] | None = None,
        on_queue: Callable[[int], object] | None = None,
        every: float | None = None,
        **options: Unpack[PromptOptions],
    ) -> PooledJob:
        """Have a workflow run by one of the servers, and return its :class:`Job` at once.

        The job is ``waiting`` until a server has been chosen; ``job.server`` says which.  Errors of
        the submission, such as :class:`PromptRejected`, are raised by ``job.result()``.

        Args:
            workflow: As for :meth:`ComfyApi.submit`; you may change it afterwards.
            inputs: As for :meth:`ComfyApi.submit`.
            priority: Jobs with a higher one go first, whoever submits them.
            include: The only servers that it may go to; ``None``: any.
            exclude: Servers that it may not go to.
            strict: As for :meth:`ComfyApi.submit`.
            check: As for :meth:`ComfyApi.submit`, on the server that is chosen.
            resubmit: As for :meth:`ComfyApi.submit`.
            on_event: As for :meth:`ComfyApi.submit`, as are all callbacks.
            on_progress: As ``on_event``.
            on_preview: As ``on_event``.
            on_start: As ``on_event``.
            on_output: As ``on_event``.
            on_queue: As ``on_event``; places in the queue of the server.
            every: As for :meth:`ComfyApi.submit`.
            options: See :class:`PromptOptions`.

        Raises:
            WorkflowError: It is no workflow, or no server has the node classes and model files that
                it needs; the message says what each server lacks.
            ServerUnreachable: No server of the pool has ever answered.
            ValueError: ``include`` or ``exclude`` name a server that is not in the pool, or leave
                none.
            ClientClosed: After :meth:`shutdown`.
        """
        seal(options)
        inputs = sealed(inputs)
        callbacks = Callbacks(
            on_event, on_progress, on_preview, on_start, on_output, on_queue, every
        )
        workflow = self._read(workflow)
        return self._submit(
            workflow,
            inputs,
            callbacks,
            caller=threading.get_ident(),
            priority=priority,
            include=include,
            exclude=exclude,
            options={"strict": strict, "check": check, "resubmit": resubmit, "options": options},
        )

    def _read(self, workflow: AnyWorkflow) -> Workflow:
        """The workflow, whose keys no frame shows."""
        if callable(workflow) and not isinstance(workflow, Workflow | Job):
            raise TypeError(f"a pool executes workflows, not functions: {workflow!r:.80}")
        return as_workflow(workflow, self._any_client())

    def _submit(
        self,
        workflow: Workflow,
        inputs: Inputs | None,
        callbacks: Callbacks,
        *,
        caller: object,
        priority: float,
        include: Iterable[AnyServer] | None,
        exclude: Iterable[AnyServer],
        options: Mapping[str, Any],
    ) -> PooledJob:
        if not is_real(priority) or math.isnan(priority):
            raise ValueError(f"priority is a number, not {priority!r:.80}")
        wanted = None if include is None else self._names(include, "include")
        unwanted = self._names(exclude, "exclude")
        dispatcher = self._dispatcher
        if dispatcher.closed or not dispatcher.was_ready:
            self.init()
        api = self._any_client()
        known = workflow.copy() if inputs is None else with_inputs(workflow, inputs)
        graph = graph_of(known)
        job = PooledJob(api, str(uuid.uuid4()), {} if files_in(graph) else graph, self._dispatcher)
        needs = needs_of(graph)
        waiting = Waiting(
            job,
            next(self._numbers),
            priority=priority,
            caller=caller,
            needs=needs,
            model=models_of(needs),
            include=wanted,
            exclude=unwanted,
        )
        entry = Entry(job, known, waiting, callbacks, options)
        try:
            dispatcher.submit(entry)
        except WorkflowError:  # a model file may have come since
            dispatcher.refresh()
            dispatcher.submit(entry)
        return job

    def run(
        self,
        workflow: AnyWorkflow,
        inputs: Inputs | None = None,
        *,
        timeout: float | None = None,
        stall_timeout: float | None = None,
        on_interrupt: OnInterrupt = "leave",
        **options: Any,
    ) -> Result:
        """Run a workflow and return its outputs: :meth:`submit` and :meth:`Job.result`.

        Args:
            workflow: As for :meth:`submit`.
            inputs: As for :meth:`submit`.
            timeout: As for :meth:`Job.result`.
            stall_timeout: As for :meth:`Job.result`.
            on_interrupt: As for :meth:`Job.result`.
            options: As for :meth:`submit`.

        Raises:
            ComfyError: As :meth:`submit` and :meth:`Job.result`.
        """
        inputs = sealed(inputs)
        workflow = self._read(workflow)
        job = self.submit(workflow, inputs, **options)
        return job.result(timeout, stall_timeout=stall_timeout, on_interrupt=on_interrupt)
