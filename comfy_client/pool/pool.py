"""``ComfyPool``: several servers as one executor."""

from __future__ import annotations

import itertools
import math
import os
import threading
import uuid
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, Final, Literal, Self, Unpack, get_args, overload

from ..batch.map import SubmitOptions
from ..client import ComfyApi
from ..errors import ClientClosed, ComfyError, WorkflowError
from ..events import JobEvent, PreviewEvent, Progress
from ..jobs.callbacks import Callbacks
from ..jobs.job import Job, OnInterrupt
from ..jobs.pooled import PooledJob
from ..jobs.result import NodeOutput, Result
from ..jobs.waiting import AnyJob, as_completed
from ..routes.prompts import AnyWorkflow, PromptOptions, seal
from ..sealing import sealed
from ..signals import Receivers
from ..transport.deadline import Deadline, check_timeout
from ..values import is_real
from ..workflow.address import Inputs
from ..workflow.edit import Workflow, as_workflow, graph_of, with_inputs
from ..workflow.files import files_in
from .dispatcher import Dispatcher, OnLost
from .map import run_map
from .member import Entry
from .needs import models_of, needs_of
from .refusals import is_hopeless, out_of_reach
from .schedule import Mode, Waiting
from .servers import AnyServer, Servers

#: Longest wait in one piece, in seconds, so that Ctrl-C works on every system.
_SLICE: Final = 0.5

_dispatchers: weakref.WeakSet[Dispatcher] = weakref.WeakSet()


class ComfyPool(Servers, Executor):
    """Several ComfyUI servers as one: a :class:`concurrent.futures.Executor` of workflows.

    A job waits in the pool until a server is chosen for it, so that none is bound to a server that
    turns out to be slow, or goes away.  It goes only to servers that have its node classes and
    model files (as their node definitions say, which are read when a server is connected).  Files
    of its inputs are uploaded to the server that is chosen.  Those who submit (threads, and calls
    of :meth:`map`) take turns, and a job that no server can take now holds up nobody.

    A server that goes away gets no new jobs until it is back.  Jobs that it surely never got go to
    others; those that it may have run are looked up when it is back.  Nothing runs twice, unless
    you ask for it by ``on_lost="retry"``.

    Example::

        from comfy_client import ComfyPool

        with ComfyPool(["http://127.0.0.1:8188", "http://127.0.0.1:8189"]) as pool:
            jobs = [pool.submit("txt2img.json", {"KSampler.seed": seed}) for seed in range(4)]
            for job in pool.as_completed(jobs):
                print(job.server, job.result().images)
            print(pool.status())

    Args:
        servers: URLs, or clients: :class:`ComfyApi`.  The pool connects clients, and does not close
            them; those that it makes of URLs it closes.
        mode: ``"shortest"``: to the shortest queue, prompts of others included; of several, to the
            server that ran the same models last.  ``"round_robin"``: to each in turn.
            ``"first_free"``: to the first, in your order, that has nothing to do.
        weights: How fast the servers are, compared to each other; ``None``: all the same.  A server
            of weight 2 gets twice as many jobs.
        in_flight: How many jobs a server has at a time, at most; with 2, the next one is there when
            one ends.
        patience: How many seconds a server may be away until the jobs that it may have run are
            lost.
        on_lost: What becomes of these, and of those that a restarted server has forgotten:
            ``"raise"`` :class:`JobLost`, or ``"retry"``: run them again, and three times at most
            in all.  Some may then run twice.

    Raises:
        ValueError: There are no servers, or one twice; ``mode``, ``weights``, ``in_flight``,
            ``patience`` or ``on_lost`` make no sense.
        TypeError: A server is neither a URL nor a client.
    """

    def __init__(
        self,
        servers: Iterable[AnyServer],
        mode: Mode = "shortest",
        *,
        weights: Sequence[float] | None = None,
        in_flight: int = 2,
        patience: float = 120.0,
        on_lost: OnLost = "raise",
    ) -> None:
        if isinstance(servers, str | ComfyApi):
            raise TypeError("servers is a list of URLs or clients; for one, use ComfyApi")
        given = list(servers)
        if not given:
            raise ValueError("a pool needs a server: ComfyPool(['http://127.0.0.1:8188', ...])")
        if weights is not None and len(weights) != len(given):
            raise ValueError(f"weights has {len(weights)} numbers for {len(given)} servers")
        if not isinstance(in_flight, int) or in_flight < 1:
            raise ValueError(f"in_flight is a number of jobs, 1 or more, not {in_flight!r}")
        if on_lost not in get_args(OnLost):
            raise ValueError(f"on_lost is 'raise' or 'retry', not {on_lost!r}")
        check_timeout(patience)
        self._in_flight = in_flight
        self._numbers = itertools.count()
        self._receivers = Receivers(self, None)
        self._dispatcher = Dispatcher(mode, self._receivers, patience=patience, on_lost=on_lost)
        weakref.finalize(self._dispatcher, self._receivers.shutdown())
        self._relayed = {}
        _dispatchers.add(self._dispatcher)
        self._first = None
        for server, weight in zip(given, weights or [1.0] * len(given), strict=True):
            self.add(server, weight=weight)

    # -- life ----------------------------------------------------------------------------

    def init(self, timeout: float | None = 10.0) -> Self:
        """Connect all servers, wait until one is ready, and return the pool itself.

        The others are ready as soon as they answer.  ``with`` does this, and the first
        :meth:`submit`.

        Args:
            timeout: Seconds; ``None``: no limit.  It fails earlier if no server will ever answer.

        Raises:
            ServerUnreachable: No server answers, or all refuse us; the message says why.
            ClientClosed: After :meth:`shutdown`.
        """
        deadline = Deadline.after(timeout)
        dispatcher = self._dispatcher
        if dispatcher.closed:
            raise ClientClosed("this ComfyPool is shut down; make a new one")
        dispatcher.start()

        def is_settled() -> bool:
            members = dispatcher.members
            return dispatcher.was_ready or dispatcher.closed or is_hopeless(members)

        while not dispatcher.wait(is_settled, deadline.left(_SLICE)):
            if deadline.expired:
                break
        if not dispatcher.was_ready:
            raise out_of_reach(dispatcher.members)
        return self

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more jobs, and close the clients that the pool made once all have ended.

        Args:
            wait: Whether to wait until all jobs have ended.
            cancel_futures: Whether to cancel the jobs that wait for a server.
        """
        dispatcher = self._dispatcher
        dispatcher.closed = True
        if cancel_futures:
            for job in dispatcher.waiting():
                dispatcher.withdraw(job)
        while wait and not dispatcher.wait(lambda: dispatcher.is_idle, _SLICE):
            pass
        if dispatcher.is_idle:
            dispatcher.stop()

    def __enter__(self) -> Self:
        try:
            return self.init()
        except BaseException:
            self.shutdown(wait=False, cancel_futures=True)
            raise

    def __exit__(self, _: object, exc: BaseException | None, __: object) -> None:
        """Wait for all jobs; after an exception, cancel those that wait, and leave at once."""
        self.shutdown(wait=exc is None, cancel_futures=exc is not None)

    def __repr__(self) -> str:
        return f"<ComfyPool {', '.join(self._dispatcher.members) or 'without servers'}>"

    # -- jobs ----------------------------------------------------------------------------

    def submit(  # type: ignore[override]  # a workflow is what it executes
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

    @overload  # type: ignore[override]  # workflows are what it executes
    def map(
        self,
        workflows: Iterable[AnyWorkflow] | AnyWorkflow,
        params: Iterable[Mapping[str, Any]] | None = None,
        *,
        in_flight: int | None = None,
        ordered: bool = True,
        on_error: Literal["raise"] = "raise",
        priority: float = 0,
        include: Iterable[AnyServer] | None = None,
        exclude: Iterable[AnyServer] = (),
        **options: Unpack[SubmitOptions],
    ) -> Generator[Result, None, None]: ...

    @overload
    def map(
        self,
        workflows: Iterable[AnyWorkflow] | AnyWorkflow,
        params: Iterable[Mapping[str, Any]] | None = None,
        *,
        in_flight: int | None = None,
        ordered: bool = True,
        on_error: Literal["keep"],
        priority: float = 0,
        include: Iterable[AnyServer] | None = None,
        exclude: Iterable[AnyServer] = (),
        **options: Unpack[SubmitOptions],
    ) -> Generator[Result | ComfyError, None, None]: ...

    def map(
        self,
        workflows: Iterable[AnyWorkflow] | AnyWorkflow,
        params: Iterable[Mapping[str, Any]] | None = None,
        *,
        in_flight: int | None = None,
        ordered: bool = True,
        on_error: Literal["raise", "keep"] = "raise",
        priority: float = 0,
        include: Iterable[AnyServer] | None = None,
        exclude: Iterable[AnyServer] = (),
        **options: Unpack[SubmitOptions],
    ) -> Generator[Result | ComfyError, None, None]:
        """Run many workflows, and yield their results while more are submitted.

        Nothing is submitted before the first ``next``.  Infinite iterables are fine.  If it ends
        early (``break``, ``close()``, Ctrl-C, an error), its jobs that do not run yet are
        cancelled.

        Example::

            from comfy_client import ComfyPool

            with ComfyPool(["http://127.0.0.1:8188", "http://127.0.0.1:8189"]) as pool:
                seeds = [{"KSampler.seed": seed} for seed in range(8)]
                for result in pool.map("txt2img.json", seeds):
                    result.images[0].save("out/")

        Args:
            workflows: Several workflows, or with ``params`` a single one.
            params: The inputs that differ, for each prompt: ``{"KSampler.seed": 7}``.
            in_flight: How many of its jobs there are at a time; ``None``: twice as many as all
                servers take.
            ordered: Whether to yield in the order of the workflows, or as they end.
            on_error: ``"raise"`` the error of a prompt, or ``"keep"``: yield the exception in its
                place.
            priority: As for :meth:`submit`.
            include: As for :meth:`submit`.
            exclude: As for :meth:`submit`.
            options: As for :meth:`submit`.

        Raises:
            TypeError: One workflow without ``params``, or several with them.
            ValueError: ``in_flight`` or ``on_error`` make no sense.  Both are raised at once.
            ComfyError: As :meth:`submit` and :meth:`Job.result`, while it yields.
        """
        seal(options)
        caller = object()  # each call takes its turn
        rest: dict[str, Any] = dict(options)
        sent = {
            "strict": rest.pop("strict", False),
            "check": False,
            "resubmit": rest.pop("resubmit", False),
            "options": rest,
        }

        def submit(workflow: AnyWorkflow) -> Job:
            return self._submit(
                self._read(workflow),
                None,
                Callbacks(),
                caller=caller,
                priority=priority,
                include=include,
                exclude=exclude,
                options=sent,
            )

        return run_map(
            submit,
            self._dispatcher.room,
            workflows,
            params,
            in_flight=in_flight,
            ordered=ordered,
            on_error=on_error,
        )

    def as_completed(
        self, jobs: Iterable[AnyJob], timeout: float | None = None
    ) -> Iterator[AnyJob]:
        """Yield jobs as they end, each once: see :meth:`ComfyApi.as_completed`."""
        return as_completed(jobs, timeout)


def _after_fork() -> None:
    for dispatcher in list(_dispatchers):
        dispatcher.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
