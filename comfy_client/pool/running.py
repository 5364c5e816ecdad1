"""The methods of a pool that run workflows, one at a time."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import uuid
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, BinaryIO, Final, Self, TypedDict, Unpack, cast

import attrs

from .. import runtime
from ..errors import ComfyError, WorkflowError
from ..events import JobEvent, PreviewEvent, Progress
from ..jobs.callbacks import Callbacks
from ..jobs.job import Job, Limits, OnInterrupt, cancel_in_time, cancelling, routes_of
from ..jobs.pooled import PooledJob, keep_events
from ..jobs.result import NodeOutput, Result
from ..jobs.submit import time_left
from ..jobs.watching import wait_watched
from ..redaction import sealed
from ..routes.prompts import AnyWorkflow, PromptOptions, check_names, seal
from ..showing.screen import Surface, surface
from ..transport.deadline import LONGEST, limited_silence, read_timeout
from ..values import is_real
from ..workflow.address import Inputs
from ..workflow.edit import Workflow, as_workflow, graph_of, with_inputs
from ..workflow.file_inputs import files_in
from .needs import merge_definitions, models_of, needs_of
from .refusals import out_of_reach
from .schedule import Waiting
from .servers import AnyServer, Servers
from .state import Entry, OnLost

log: logging.Logger = logging.getLogger("comfy_client")

#: Seconds in which a server answers, if there is one.
_READY: Final = 10.0


@attrs.frozen
class Terms:
    """The terms of a job: its caller, its priority, and the servers to which it may go."""

    caller: Hashable
    priority: float
    include: frozenset[str] | None
    exclude: frozenset[str]


class Sending(TypedDict):
    """Options to submit a job with to the chosen server."""

    strict: bool
    check: bool
    resubmit: bool
    wants_previews: bool
    options: PromptOptions


def sending_of(options: Mapping[str, Any]) -> Sending:
    """Return the submit options for one job of a batch."""
    rest = cast("PromptOptions", {**options})
    # map and sweep take all options together; these two are no PromptOptions, and are taken out.
    strict: bool = rest.pop("strict", False)  # type: ignore[typeddict-item]
    resubmit: bool = rest.pop("resubmit", False)  # type: ignore[typeddict-item]
    check_names(rest)
    return {
        "strict": strict,
        "check": False,
        "resubmit": resubmit,
        "wants_previews": False,
        "options": rest,
    }


@attrs.frozen
class _Attempts:
    """The attempts at running a workflow: options, limits, and the jobs so far."""

    terms: Terms
    sending: Sending
    limits: Limits
    screen: Surface
    callbacks: Callbacks
    on_interrupt: OnInterrupt
    jobs: list[PooledJob] = attrs.field(factory=list, init=False)


@contextlib.contextmanager
def _cancelled_if_interrupted() -> Iterator[list[PooledJob]]:
    """Context manager: cancel jobs whose submission is interrupted before a caller has them."""
    jobs: list[PooledJob] = []
    try:
        yield jobs
    except BaseException as exc:
        for job in jobs if not isinstance(exc, ComfyError) else ():
            _cancel(job)
        raise


def _cancel(job: PooledJob) -> None:
    """Cancel a job that nobody else can cancel."""
    log.warning("cancelling prompt %s: its submission was interrupted", job.prompt_id)
    said: list[bool] = []
    try:
        said = cancel_in_time([job])
    finally:  # a second Ctrl-C, too
        if not said:
            where = f" on {job.server}" if job.server else ""
            log.warning("prompt %s may keep running%s", job.prompt_id, where)


class Running(Servers):
    """The part of a pool that runs workflows."""

    _numbers: itertools.count[int]
    _patience: float
    _on_lost: OnLost

    def init(self, timeout: float | None = _READY) -> Self:
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
            ServerUnreachable: No server of the pool has ever answered, or all that can run it
                refuse us, or are unknown.
            ValueError: ``include`` or ``exclude`` name a server that is not in the pool, or leave
                none.
            TypeError: It is no workflow, or there is no option of that name.
            ClientClosed: After :meth:`shutdown`.
        """
        seal(options)
        check_names(options)
        inputs = sealed(inputs)
        callbacks = Callbacks(
            on_event, on_progress, on_preview, on_start, on_output, on_queue, every
        )
        terms = self._terms(runtime.get_ident(), priority, include, exclude)
        previews = on_preview is not None
        sending = Sending(
            strict=strict, check=check, resubmit=resubmit, wants_previews=previews, options=options
        )
        workflow = self._read(workflow)  # whose keys no frame shows
        workflow = self._read(workflow, inputs)
        with _cancelled_if_interrupted() as jobs:
            return self._submit(workflow, callbacks, terms, sending, jobs.append)

    def run(
        self,
        workflow: AnyWorkflow,
        inputs: Inputs | None = None,
        *,
        timeout: float | None = None,
        stall_timeout: float | None = None,
        priority: float = 0,
        include: Iterable[AnyServer] | None = None,
        exclude: Iterable[AnyServer] = (),
        strict: bool = False,
        check: bool = False,
        resubmit: bool = False,
        on_interrupt: OnInterrupt = "leave",
        on_event: Callable[[JobEvent], object] | None = None,
        on_progress: Callable[[Progress], object] | None = None,
        on_preview: Callable[[PreviewEvent], object] | None = None,
        on_start: Callable[[Job], object] | None = None,
        on_output: Callable[[str, NodeOutput], object] | None = None,
        on_queue: Callable[[int], object] | None = None,
        every: float | None = None,
        retry_oom: bool = False,
        progress: bool | None = None,
        **options: Unpack[PromptOptions],
    ) -> Result:
        """Have a workflow run by one of the servers, and return its outputs.

        As :meth:`ComfyApi.run`, with the same options.  If time runs out, or after Ctrl-C, a job
        that still waits for a server is taken back: it will not run.

        Args:
            workflow: As for :meth:`ComfyApi.run`.
            inputs: As for :meth:`ComfyApi.run`.
            timeout: Seconds for everything, waiting for a server included; ``None``: no limit.
            stall_timeout: Seconds without any news of the prompt; ``None``: no limit.  While it
                waits, it is news when another job goes to a server.
            priority: As for :meth:`submit`.
            include: As for :meth:`submit`.
            exclude: As for :meth:`submit`.
            strict: As for :meth:`ComfyApi.submit`.
            check: As for :meth:`ComfyApi.submit`, on the server that is chosen.
            resubmit: As for :meth:`ComfyApi.submit`.
            on_interrupt: As for :meth:`ComfyApi.run`.
            on_event: As for :meth:`ComfyApi.run`, as are all callbacks: called in this thread.
            on_progress: As ``on_event``.
            on_preview: As ``on_event``.
            on_start: As ``on_event``; ``job.server`` says where it runs.
            on_output: As ``on_event``.
            on_queue: As ``on_event``; places in the queue of the server.
            every: As for :meth:`ComfyApi.run`.
            retry_oom: If a node runs out of memory, have that server free its own, and run the
                workflow once more, as :meth:`ComfyApi.run` does; on any server that can take it.
            progress: As for :meth:`ComfyApi.run`.
            options: See :class:`PromptOptions`.

        Raises:
            ServerUnreachable: No server of the pool has ever answered.
            WorkflowError: As for :meth:`submit`.
            ValueError: As for :meth:`submit`, or a timeout makes no sense.
            TypeError: As for :meth:`submit`.
            ClientClosed: After :meth:`shutdown`.
            ComfyError: As :meth:`ComfyApi.run`.
        """
        seal(options)
        check_names(options)
        limits = Limits(timeout, stall_timeout)
        callbacks = Callbacks(
            on_event, on_progress, on_preview, on_start, on_output, on_queue, every
        )
        screen = surface(False if progress is None and callbacks else progress)
        previews = on_preview is not None or screen == "notebook"
        inputs = sealed(inputs)
        terms = self._terms(runtime.get_ident(), priority, include, exclude)
        sending = Sending(
            strict=strict, check=check, resubmit=resubmit, wants_previews=previews, options=options
        )
        how = _Attempts(terms, sending, limits, screen, callbacks, on_interrupt)
        with limited_silence(time_left(limits.deadline, LONGEST)):
            workflow = self._read(workflow)  # whose keys no frame shows
        workflow = self._read(workflow, inputs)
        return self._run_twice(how, workflow) if retry_oom else self._run_once(how, workflow)

    def _run_twice(self, how: _Attempts, workflow: Workflow) -> Result:
        """Run a workflow, and once more if a node runs out of memory."""
        from ..jobs.memory import run_again_after_oom  # few programs want it

        return run_again_after_oom(
            lambda: routes_of(how.jobs[-1]),
            self._any_client().timing,
            how.limits,
            partial(self._run_once, how),
            workflow,
        )

    def _run_once(self, how: _Attempts, workflow: Workflow) -> Result:
        """Run the workflow once; a job that still waits when the call is given up will not run."""

        def begin(job: PooledJob) -> None:
            how.jobs.append(job)
            to_cancel.append(job)
            if how.callbacks:
                keep_events(job)

        limits, on_interrupt = how.limits, how.on_interrupt
        with cancelling(on_interrupt) as to_cancel:
            ready_in = limits.left(_READY)
            try:
                with limited_silence(time_left(limits.deadline, LONGEST)):
                    job = self._submit(
                        workflow, Callbacks(), how.terms, how.sending, begin, ready_in=ready_in
                    )
                return wait_watched(
                    job, limits, how.screen, how.callbacks, on_interrupt=on_interrupt
                )
            except BaseException as exc:  # as an alarm, too
                for job in how.jobs[-1:]:
                    if job.status == "waiting" and self._dispatcher.withdraw(job):
                        exc.add_note("no server had it: it was taken back, and will not run")
                raise

    def _submit(
        self,
        workflow: Workflow,
        callbacks: Callbacks,
        terms: Terms,
        sending: Sending,
        begun: Callable[[PooledJob], object],
        *,
        ready_in: float = _READY,
    ) -> PooledJob:
        """Have it wait for a server.

        ``begun`` gets the job before any server does, to end it if Ctrl-C interrupts this.
        """
        dispatcher = self._dispatcher
        self._connect(ready_in)
        graph = graph_of(workflow)
        known = {} if files_in(graph) else graph
        job = PooledJob(self._any_client(), str(uuid.uuid4()), known, dispatcher)
        needs = needs_of(graph)
        waiting = Waiting(
            job,
            next(self._numbers),
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
        except WorkflowError:  # a model file may have come since
            dispatcher.refresh(read_timeout.get())
            dispatcher.submit(entry)
        if dispatcher.waits_for_away(job):  # or it has come to one that is there
            dispatcher.refresh(read_timeout.get())
            dispatcher.warn_of_wait(job)
        return job

    def _connect(self, timeout: float = _READY) -> None:
        """Connect the servers, unless that was done already."""
        if self._dispatcher.state.closed or not self._dispatcher.state.was_ready:
            self.init(timeout)

    def node_definitions(
        self, classes: Collection[str] | None = None, *, refresh: bool = False
    ) -> Mapping[str, Any]:
        """Definitions of node classes as JSON, by class, of all servers that are ready.

        Of a class that several have, it is the definition of the first, with the choices of all,
        such as their model files.  So ``Workflow.load("saved.json", pool)`` and
        ``workflow.check(pool)`` know what any of them knows.

        Args:
            classes: As for :meth:`ComfyApi.node_definitions`.
            refresh: As for :meth:`ComfyApi.node_definitions`.

        Raises:
            ServerUnreachable: No server of the pool has ever answered, or it has none.
            ClientClosed: After :meth:`shutdown`.
            ComfyError: As :meth:`ComfyApi.node_definitions`, if it fails on all servers.
        """
        self._connect(min(_READY, read_timeout.get()))
        if not self._dispatcher.members:
            raise out_of_reach({})
        found: list[Mapping[str, Any]] = []
        errors: list[ComfyError] = []
        for api in self._ready_clients():
            try:
                found.append(api.node_definitions(classes, refresh=refresh))
            except ComfyError as exc:
                errors.append(exc)
        if errors and not found:
            raise errors[0]
        return merge_definitions(found)

    def open_image(self, info: str) -> BinaryIO:
        """Open a file of one of the servers by its URL: see :meth:`ComfyApi.open_image`.

        Raises:
            ValueError: The URL belongs to none of the servers.
            ComfyError: As :meth:`ComfyApi.open_image`.
        """
        for api in self.servers:
            with contextlib.suppress(ValueError):
                return api.open_image(info)
        raise ValueError("the URL is no file of a server of the pool")  # it may have a password

    def _read(self, workflow: AnyWorkflow, inputs: Inputs | None = None) -> Workflow:
        """Return a copy of the workflow with these inputs; a pool takes no function."""
        if callable(workflow) and not isinstance(workflow, Workflow | Job):
            raise TypeError(f"a pool executes workflows, not functions: {workflow!r:.80}")
        known = as_workflow(workflow, self)
        return known.copy() if inputs is None else with_inputs(known, inputs)

    def _terms(
        self,
        caller: Hashable,
        priority: float,
        include: Iterable[AnyServer] | None,
        exclude: Iterable[AnyServer],
    ) -> Terms:
        if not is_real(priority) or math.isnan(priority):
            raise ValueError(f"priority is a number, not {priority!r:.80}")
        names = self._dispatcher.members.keys()
        only = None if include is None else self._names(include, "include")
        but = self._names(exclude, "exclude")
        if names and not (names if only is None else only) - but:
            raise ValueError("include and exclude leave no server of the pool")
        return Terms(caller, priority, only, but)
