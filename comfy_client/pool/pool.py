"""``ComfyPool``: several servers that are used as one executor."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Self, Unpack, get_args, overload

from .. import runtime
from ..attributes import KnownAttributes
from ..batch.map_loop import check_in_flight, run_map, with_previews
from ..batch.runner import NOT_SENT
from ..client import ComfyApi
from ..errors import ComfyError
from ..events import JobEvent, PreviewEvent, Progress
from ..jobs.execute import AnyJob, as_completed, run_again_after_oom
from ..jobs.handle import Limits
from ..jobs.job import Callbacks, Job, OnInterrupt, cancelling, wait_and_show
from ..jobs.outcomes import OnFailed, OnLost
from ..jobs.poller import time_left
from ..jobs.result import NodeOutput, Result
from ..reading import reading_until
from ..redaction import sealed, sealed_workflow
from ..routes.prompts import PromptOptions, SubmitOptions, seal
from ..showing.cells import ShownAsTable
from ..showing.screen import is_watched, surface
from ..signals import Receivers, is_callback
from ..transport.deadline import LONGEST, check_patience, limited_silence
from ..workflow.address import Inputs
from ..workflow.edit import AnyWorkflow, Workflow
from . import membership, submission
from .dispatcher import Dispatcher
from .membership import (
    SPARE,
    AnyServer,
    Sending,
    Servers,
    check_servers,
    name_of,
    prompts_of_call,
    sending_of,
    terms_of,
)
from .pool_state import (
    POOL_EVENTS,
    Policy,
    PoolState,
    PoolStatus,
    PoolTiming,
    Tries,
    status_table,
)
from .pooled_job import PooledJob
from .schedule import Mode
from .submission import PoolRunner, enqueue, read_workflow

if TYPE_CHECKING:
    from ..batch.row import SweepRow
    from ..batch.rows import Sweep
    from ..showing.tables import Table


class ComfyPool(KnownAttributes, ShownAsTable, Executor):
    """A pool of ComfyUI servers: a :class:`concurrent.futures.Executor` that runs workflows.

    A job waits in the pool until a server is chosen for it, so that none is bound to a server that
    turns out to be slow, or goes away.  It goes only to servers that have its node classes and
    model files (as their node definitions say, which are read when a server is connected).  Files
    of its inputs are uploaded to the server that is chosen.  Those who submit (threads, and calls
    of :meth:`map`) take turns, and a job that no server can take now holds up nobody.

    As long as one server is well, the work gets done.  A server that goes away gets no new jobs
    until it is back.  What it refused, certainly never got, or had not begun, goes to others.  What
    it may have run is looked up when it is back, and is lost if it does not come back in time:
    ``on_lost="retry"`` runs it again.  A server that fails job after job while others do not is
    suspect: it gets one job at a time, and rests in between.  With ``on_failed="move"``, what it
    failed before that is run by others, too.

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
        mode: ``"shortest"``: to the shortest queue, other clients' prompts included, and among
            equals to the server that ran the same models last.  ``"round_robin"``: to each in turn.
            ``"first_free"``: to the first, in your order, that has nothing to do.
        weights: How fast the servers are, compared to each other; ``None``: all the same.  Among
            servers with room for a job (``in_flight``), one of weight 2 gets twice as many.
        in_flight: How many jobs a server has at a time, at most; with 2, the next one is there when
            one ends.
        patience: How many seconds a server may be away, or silent with an open connection, until
            its jobs are not waited for any more.
            Those that only waited there go to other servers; those that had begun are lost.
        on_lost: What becomes of jobs that are lost, by a server that is away or was restarted:
            ``"raise"`` :class:`JobLost`, or ``"retry"``: run them again, and three times at most
            in all.  Some may then run twice.  A job that three servers did not survive is lost
            in any case.
        on_failed: What becomes of a job that fails: ``"raise"`` its :class:`JobFailed`, or
            ``"move"``: run it once more, on another server, whose end counts.  A job that fails on
            a server that is suspect (see :meth:`status`) always moves.

    Attributes:
        intervals: How long the pool waits; a subclass may set its own.
        tries: How often jobs may run, move and fail; a subclass may set its own.

    Raises:
        ValueError: There are no servers, or a server is given twice; ``mode``, ``weights``,
            ``in_flight``, ``patience``, ``on_lost`` or ``on_failed`` make no sense.
        TypeError: A server is neither a URL nor a client; ``weights`` is not a list, or
            ``patience`` is not a number.
    """

    intervals: PoolTiming = PoolTiming()
    tries: Tries = Tries()

    def __init__(
        self,
        servers: Iterable[AnyServer],
        mode: Mode = "shortest",
        *,
        weights: Sequence[float] | None = None,
        in_flight: int = 2,
        patience: float = 120.0,
        on_lost: OnLost = "raise",
        on_failed: OnFailed = "raise",
    ) -> None:
        given = check_servers(servers, weights)
        _check(in_flight, patience, on_lost, on_failed)
        self._receivers = Receivers(self, None)
        policy = Policy(patience, on_lost, on_failed, self.intervals, self.tries)
        self._dispatcher = Dispatcher(PoolState.new(mode, policy), self._receivers)
        weakref.finalize(self._dispatcher, self._receivers.shutdown())
        membership.register(self._dispatcher)
        self._servers = Servers(self._dispatcher, in_flight)
        for server, weight in given:
            self.add(server, weight=weight)

    # -- life ----------------------------------------------------------------------------

    def init(self, timeout: float | None = 10.0) -> Self:
        """Connect to all servers, wait until one is ready, and return the pool.

        Further servers become ready as they answer.  ``with`` and the first :meth:`submit` call
        this method.

        Args:
            timeout: Seconds; ``None``: no limit.  It fails earlier if no server will ever answer.

        Raises:
            ServerUnreachable: No server answers, or all refuse us; the message says why.
            ClientClosed: After :meth:`shutdown`.
        """
        membership.connect(self._dispatcher, timeout)
        return self

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Stop accepting jobs, and close the pool's own clients once all jobs have ended.

        Jobs that no server of the pool can run, since those that could were removed, end now.

        Args:
            wait: Whether to wait until all jobs have ended.  If only servers that are away can run
                what is left, the log says so.
            cancel_futures: Whether to cancel the jobs that wait for a server.  Those that run are
                waited for, but if their server is silent, for some 10 seconds only: then they end
                with :class:`JobLost`.
        """
        membership.shut_down(self._dispatcher, wait=wait, cancel=cancel_futures)

    def __enter__(self) -> Self:
        try:
            return self.init()
        except BaseException:
            self.shutdown(wait=False, cancel_futures=True)
            raise

    def __exit__(self, _: object, exc: BaseException | None, __: object) -> None:
        """Wait for all jobs to end; after an exception, cancel the jobs that are not running yet.

        Cancelling takes 5 seconds at most.  A Ctrl-C during the wait cancels them, too.
        """
        try:
            if exc is None:
                self.shutdown()
                return
        except BaseException:
            membership.leave(self._dispatcher)
            raise
        membership.leave(self._dispatcher)

    def __repr__(self) -> str:
        members = list(self._dispatcher.members.items())
        names = (name if one.error is None else f"{name} (down)" for name, one in members)
        return f"<ComfyPool {', '.join(names) or 'without servers'}>"

    def _table(self) -> Table:
        return status_table(self.status())

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError(
            "a pool cannot be pickled: make one in each process, or see comfy_client.distributed"
        )

    # -- run workflows -------------------------------------------------------------------

    def submit(  # type: ignore[override]  # it executes workflows, not functions
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
        """Queue a workflow to run on one of the servers, and return its :class:`Job` immediately.

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
            WorkflowError: It is not a workflow, or no server has the node classes and model files
                that it needs; the message says what each server lacks.
            ServerUnreachable: No server of the pool has ever answered, or all that can run it
                refuse us, or are unknown.
            ValueError: ``include`` or ``exclude`` name a server that is not in the pool, or leave
                none.
            TypeError: It is not a workflow, or there is no option of that name.
            ClientClosed: After :meth:`shutdown`.
        """
        seal(options, self.submit)
        workflow = sealed_workflow(workflow)
        inputs = sealed(inputs)
        callbacks = Callbacks(
            on_event, on_progress, on_preview, on_start, on_output, on_queue, every
        )
        terms = terms_of(self._servers, runtime.get_ident(), priority, include, exclude)
        previews = on_preview is not None or is_watched()
        sending = Sending(
            strict=strict, check=check, resubmit=resubmit, wants_previews=previews, options=options
        )
        workflow = read_workflow(workflow, self)  # whose keys no frame shows
        workflow = read_workflow(workflow, self, inputs)
        return submission.submit(self._servers, workflow, callbacks, terms, sending)

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
        """Run a workflow on one of the servers, and return its outputs.

        As :meth:`ComfyApi.run`, with the same options.  If time runs out, or after Ctrl-C, a job
        that still waits for a server is taken back: it will not run.

        Args:
            workflow: As for :meth:`ComfyApi.submit`.
            inputs: As for :meth:`ComfyApi.submit`.
            timeout: Seconds for everything, waiting for a server included; ``None``: no limit.
            stall_timeout: Seconds without any news of the prompt; ``None``: no limit.  While it
                waits, it is news when another job goes to a server.
            priority: As for :meth:`submit`.
            include: As for :meth:`submit`.
            exclude: As for :meth:`submit`.
            strict: As for :meth:`ComfyApi.submit`.
            check: As for :meth:`ComfyApi.submit`, on the server that is chosen.
            resubmit: As for :meth:`ComfyApi.submit`.
            on_interrupt: As for :meth:`Job.result`.
            on_event: As for :meth:`ComfyApi.submit`, as are all callbacks; called in this thread.
            on_progress: As ``on_event``.
            on_preview: As ``on_event``.
            on_start: As ``on_event``; ``job.server`` says where it runs.
            on_output: As ``on_event``.
            on_queue: As ``on_event``; places in the queue of the server.
            every: As for :meth:`ComfyApi.submit`.
            retry_oom: Whether, if a node runs out of memory, to tell its server to free memory and
                run the workflow once more, as :meth:`ComfyApi.run` does, but on any server.
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
        seal(options, self.run)
        workflow = sealed_workflow(workflow)
        limits = Limits(timeout, stall_timeout)
        callbacks = Callbacks(
            on_event, on_progress, on_preview, on_start, on_output, on_queue, every
        )
        screen = surface(False if progress is None and callbacks else progress)
        previews = on_preview is not None or screen == "notebook"
        inputs = sealed(inputs)
        servers, dispatcher = self._servers, self._dispatcher
        terms = terms_of(servers, runtime.get_ident(), priority, include, exclude)
        sending = Sending(
            strict=strict, check=check, resubmit=resubmit, wants_previews=previews, options=options
        )
        with limited_silence(time_left(limits.deadline, LONGEST)):
            workflow = read_workflow(workflow, self)  # whose keys no frame shows
        with reading_until(limits.deadline.at):
            workflow = read_workflow(workflow, self, inputs)
        jobs: list[PooledJob] = []

        def attempt(workflow: Workflow) -> Result:
            with cancelling(on_interrupt) as to_cancel:

                def begin(job: PooledJob) -> None:
                    jobs.append(job)
                    to_cancel.append(job)
                    if callbacks:
                        job.handle.events.keep_all()

                ready_in = limits.deadline.left(dispatcher.timing.ready)
                try:
                    with limited_silence(time_left(limits.deadline, LONGEST)):
                        job = enqueue(
                            servers, workflow, Callbacks(), terms, sending, begin, ready_in=ready_in
                        )
                    return wait_and_show(job, limits, screen, callbacks, on_interrupt=on_interrupt)
                except BaseException as exc:  # includes an alarm
                    for job in jobs[-1:]:
                        if job.status == "waiting" and dispatcher.withdraw(job):
                            exc.add_note("no server had it: it was taken back, and will not run")
                        else:
                            dispatcher.recall(job)  # nobody waits for it any more
                    raise

        if not retry_oom:
            return attempt(workflow)
        timing, tags = servers.any_client().timing, sending["options"].get("tags")
        return run_again_after_oom(
            lambda: jobs[-1].handle.routes, timing, limits, attempt, workflow, tags
        )

    @overload  # type: ignore[override]  # of workflows, not functions
    def map(
        self,
        workflows: Iterable[AnyWorkflow] | AnyWorkflow,
        params: Iterable[Mapping[str, Any]] | None = None,
        *,
        in_flight: int | None = None,
        ordered: bool = True,
        on_error: Literal["raise"] = "raise",
        timeout: float | None = None,
        stall_timeout: float | None = None,
        priority: float = 0,
        include: Iterable[AnyServer] | None = None,
        exclude: Iterable[AnyServer] = (),
        progress: bool | None = None,
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
        timeout: float | None = None,
        stall_timeout: float | None = None,
        priority: float = 0,
        include: Iterable[AnyServer] | None = None,
        exclude: Iterable[AnyServer] = (),
        progress: bool | None = None,
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
        timeout: float | None = None,
        stall_timeout: float | None = None,
        priority: float = 0,
        include: Iterable[AnyServer] | None = None,
        exclude: Iterable[AnyServer] = (),
        progress: bool | None = None,
        **options: Unpack[SubmitOptions],
    ) -> Generator[Result | ComfyError, None, None]:
        """Run many workflows, and yield their results while more are submitted.

        The ``on_failed`` and ``on_lost`` of the pool decide on prompts whose server fails, refuses
        them or goes away: see :class:`ComfyPool`.

        Nothing is submitted before the first ``next``.  Infinite iterables are fine, and so are
        blocking ones: as for :meth:`ComfyApi.map`, a separate thread iterates them.  If the call
        ends early (``break``, ``close()``, Ctrl-C, an error), its jobs that do not run yet are
        cancelled (5 seconds at most); those that run keep running.

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
            timeout: Seconds for each prompt, from when it is sent to a server, or from the end of
                the last prompt of this call there: waiting for prompts of this call does not count,
                waiting for those of others does.  While it waits for a server, the seconds count
                from its submission to the pool, or from the last end on any server.  After that
                it is a :class:`JobTimeout`, and the prompt is cancelled (5 seconds at most; if it
                has ended by then, its end counts).  If all servers that can run it are silent, it
                times out with the prompts before it, and so does each prompt that follows, until
                one of the servers answers again.  ``None``: no limit.
            stall_timeout: The same for seconds without any news: of the prompt, or, until it runs,
                of any prompt of this call on its server.  During an outage there is no news.
            priority: As for :meth:`submit`.
            include: As for :meth:`submit`.
            exclude: As for :meth:`submit`.
            progress: As for :meth:`ComfyApi.map`; below the bar are the servers, each with its
                state and how many jobs it has.
            options: See :class:`SubmitOptions`.

        Raises:
            TypeError: One workflow without ``params``, or several with them; or there is no option
                of that name.
            ValueError: ``in_flight``, ``on_error``, a timeout or ``priority`` make no sense;
                ``include`` or ``exclude`` name a server that is not in the pool.
            OSError: The file of the workflow cannot be read.  These three are raised immediately.
            ComfyError: As :meth:`run`, while it yields; but no :class:`SubmitUncertain`, since the
                pool waits until the server shows whether it has such a prompt.
        """
        seal(options, self.map, SubmitOptions)
        servers, dispatcher = self._servers, self._dispatcher
        terms = terms_of(servers, object(), priority, include, exclude)  # takes its own turn
        if in_flight is not None:
            check_in_flight(in_flight)
        sending = sending_of(with_previews(options, progress))
        prompts = prompts_of_call(dispatcher, timeout, stall_timeout, forsaken=True)

        def submit_one(key: str, item: Any) -> None:
            workflow, begun = read_workflow(item, self), partial(prompts.put, key)
            try:
                enqueue(servers, workflow, Callbacks(), terms, sending, begun)
            except NOT_SENT:
                job = prompts.get(key)
                if not (isinstance(job, PooledJob) and dispatcher.has(job)):
                    prompts.drop(key)
                raise

        results = run_map(
            prompts,
            submit_one,
            workflows,
            params,
            definitions=self,
            most=(lambda: SPARE * dispatcher.room()) if in_flight is None else (lambda: in_flight),
            ordered=ordered,
            on_error=on_error,
            progress=progress,
            delay=servers.any_client().timing.show,
        )
        if prompts.items is not None:
            dispatcher.sources.add(prompts.items)
        return results

    def sweep(
        self,
        workflow: AnyWorkflow,
        grid: Mapping[str, Iterable[Any]],
        *,
        in_flight: int | None = None,
        journal: str | os.PathLike[str] | None = None,
        retry_failed: bool = False,
        timeout: float | None = None,
        stall_timeout: float | None = None,
        on_row: Callable[[SweepRow], object] | None = None,
        progress: bool | None = None,
        priority: float = 0,
        include: Iterable[AnyServer] | None = None,
        exclude: Iterable[AnyServer] = (),
        strict: bool = False,
        **options: Unpack[PromptOptions],
    ) -> Sweep:
        """Run a workflow with all combinations of the values in ``grid``, and return the rows.

        As :meth:`ComfyApi.sweep`, on all servers.  Each server gets a part of the grid in which as
        little as possible changes from one prompt to the next: different models go to different
        servers, for example.  A server that has done its part takes over half of what another one
        has left.  ``row.host`` says where a row ran.

        The ``journal`` knows which server has which prompt, before that server gets it.  The same
        call asks that server after any interruption.  While it does not answer, it is not known
        whether it has run the prompt.  After the ``patience`` of the pool, others run the points
        that only waited there; the error of the row of one that had begun is :class:`JobLost`, and
        the next call asks again.  With ``on_lost="retry"``, another server runs it.  The same
        holds, immediately, for a server that is not in the pool, refuses to say, or whose client
        was closed.  A prompt that its server has forgotten runs again in any case, three times at
        most, unless two servers have died while they ran it.

        A point that a server refuses, or fails with ``on_failed="move"``, goes to another
        server; its row has the last error.

        Example::

            from comfy_client import ComfyPool

            with ComfyPool(["http://127.0.0.1:8188", "http://127.0.0.1:8189"]) as pool:
                rows = pool.sweep("txt2img.json", {"KSampler.seed": [1, 2], "KSampler.cfg": [4, 8]})
                for row in rows:
                    print(row.params, row.host, row.error or row.seconds)

        Args:
            workflow: As for :meth:`ComfyApi.sweep`.
            grid: As for :meth:`ComfyApi.sweep`.
            in_flight: How many of its jobs there are at a time; ``None``: twice as many as all
                servers take.
            journal: As for :meth:`ComfyApi.sweep`; also one that a sweep on a single server began.
            retry_failed: As for :meth:`ComfyApi.sweep`.
            timeout: Seconds for each prompt, as for :meth:`map`; the row's error is
                :class:`JobTimeout`.
            stall_timeout: Seconds without any news, as for :meth:`map`.
            on_row: As for :meth:`ComfyApi.sweep`.
            progress: As for :meth:`ComfyApi.sweep`.
            priority: As for :meth:`submit`.
            include: As for :meth:`submit`.
            exclude: As for :meth:`submit`.
            strict: As for :meth:`ComfyApi.submit`.
            options: See :class:`PromptOptions`.

        Returns:
            The rows, in the order of the grid.  The error of a single prompt is in its
            ``row.error``.

        Raises:
            WorkflowError: As for :meth:`ComfyApi.sweep`; or no server has the node classes and
                model files that any point needs.  If only some points cannot be run, it is the
                error of their rows.
            PromptRejected: As for :meth:`ComfyApi.sweep`.
            ValueError: As for :meth:`ComfyApi.sweep` and :meth:`submit`.
            TypeError: As for :meth:`ComfyApi.sweep` and :meth:`submit`.
            BlockingIOError: Another process uses the journal.
            OSError: The journal cannot be read or written.
            ServerUnreachable: No server of the pool has ever answered; or none that may have what
                is left ever will (an unknown host, 401).
            AuthenticationError: All servers that can run what is left refuse us.
            ClientClosed: After :meth:`shutdown`.
        """
        from ..batch.sweep import run_sweep  # few programs do

        seal(options, self.sweep)
        workflow = sealed_workflow(workflow)
        servers, dispatcher = self._servers, self._dispatcher
        terms = terms_of(servers, object(), priority, include, exclude)
        workflow = read_workflow(workflow, self)
        prompts = prompts_of_call(dispatcher, timeout, stall_timeout, forsaken=False)
        make_runner = partial(PoolRunner, prompts=prompts, servers=servers, terms=terms)
        membership.connect_once(dispatcher)
        return run_sweep(
            make_runner,
            workflow,
            grid,
            in_flight=in_flight,
            journal=journal,
            retry_failed=retry_failed,
            on_row=on_row,
            progress=progress,
            options={"strict": strict, **options},
        )

    def as_completed(
        self, jobs: Iterable[AnyJob], timeout: float | None = None, *, progress: bool | None = None
    ) -> Iterator[AnyJob]:
        """Yield jobs as they end, each once: see :meth:`ComfyApi.as_completed`."""
        return as_completed(jobs, timeout, progress)

    # -- the servers ---------------------------------------------------------------------

    def add(self, server: AnyServer, *, weight: float = 1.0) -> None:
        """Add a server to the pool, even while jobs are running.

        Args:
            server: A URL, or a client.
            weight: How fast it is, compared to the other servers.

        Raises:
            ValueError: It is in the pool already, or ``weight`` is not above 0.
            TypeError: It is neither a URL nor a client.
            ClientClosed: After :meth:`shutdown`.
        """
        self._servers.add(server, weight)

    def remove(self, server: AnyServer, *, gone: bool = False) -> None:
        """Remove a server from the pool: it finishes the jobs that it has, and gets no new ones.

        Args:
            server: The client or URL of the server.
            gone: Whether the server has been taken away and will not come back, such as a spot
                machine.  Its jobs are free now, without waiting for ``patience``: those that only
                waited there move, and ``on_lost`` decides about those that may have run.  A server
                that was removed before can be declared gone later.  One that still answers is told
                to cancel its prompts, but may run one of them twice.

        Raises:
            ValueError: It is not in the pool.
        """
        self._dispatcher.remove(name_of(server), gone=gone)

    @property
    def servers(self) -> tuple[ComfyApi, ...]:
        """The clients of the pool's servers, in the order in which they were added."""
        return self._servers.clients

    def status(self) -> PoolStatus:
        """Return the status of each server, and how many jobs are waiting, running and ended.

        No request is sent.  ``print`` shows a table; so does a notebook.  A server is *suspect* if
        three jobs in a row have failed on it, or were refused, while others do not fail: it gets
        one job at a time, and rests in between, until one succeeds.
        """
        return self._dispatcher.status()

    def on(self, name: str, callback: Callable[[Any, Any], object]) -> Callable[[], None]:
        """Register ``callback(sender, event)`` to be called for each event of the given name.

        Events of the pool itself have the pool as their sender, and are :class:`PoolEvent`:
        ``added`` and ``removed``, of servers; ``ready``: a server answers, and takes jobs;
        ``suspect``: it fails job after job while others do not; ``well``: no longer suspect;
        ``have_job``: one more waits; ``idle``: all have ended.  Any other name is for events
        of its clients, as in :meth:`ComfyApi.on`, with the client as the sender.  That includes
        clients that are added later, and removed ones until their jobs have ended.

        Args:
            name: The name of an event.
            callback: Called in a delivery thread, one after the other.  The pool keeps it.

        Returns:
            A function that unsubscribes the callback.

        Raises:
            TypeError: The callback cannot be called with a sender and an event.
        """
        if not is_callback(callback, 2):
            raise TypeError(
                f"a callback must be a plain function of a sender and an event: {callback!r}"
            )
        if name in POOL_EVENTS:
            return self._receivers.on(name, partial(callback, self), once=False)
        return self._servers.relay(name, callback)

    def node_definitions(
        self, classes: Collection[str] | None = None, *, refresh: bool = False
    ) -> Mapping[str, Any]:
        """Return the definitions of the given node classes, or of all, from the ready servers.

        They are JSON, by class.  If several servers have a class, its definition is from the first
        of them, with the choices of all, such as their model files.  So
        ``Workflow.load("saved.json", pool)`` and ``workflow.check(pool)`` know what any of them
        knows.

        Args:
            classes: As for :meth:`ComfyApi.node_definitions`.
            refresh: As for :meth:`ComfyApi.node_definitions`.

        Raises:
            ServerUnreachable: No server of the pool has ever answered, or it has none.
            ClientClosed: After :meth:`shutdown`.
            ComfyError: As :meth:`ComfyApi.node_definitions`, if it fails on all servers.
        """
        return self._servers.node_definitions(classes, refresh=refresh)

    def node_names(self, *, for_a_hint: bool = False) -> Collection[str]:
        """Return the names of the node classes of all ready servers.

        Args:
            for_a_hint: As for :meth:`ComfyApi.node_names`.

        Raises:
            ClientClosed: After :meth:`shutdown`.
        """
        return self._servers.node_names(for_a_hint=for_a_hint)

    def packs_of_classes(self, classes: Collection[str]) -> Mapping[str, tuple[str, ...]]:
        """Return the node packs that have classes, from the first ready server that knows any.

        Args:
            classes: As for :meth:`ComfyApi.packs_of_classes`.

        Raises:
            ClientClosed: After :meth:`shutdown`.
        """
        return self._servers.packs_of_classes(classes)

    def open_image(self, info: str) -> BinaryIO:
        """Open a file of one of the servers by its URL: see :meth:`ComfyApi.open_image`.

        Raises:
            ValueError: The URL belongs to none of the servers.
            ComfyError: As :meth:`ComfyApi.open_image`.
        """
        return self._servers.open_image(info)


def _check(in_flight: int, patience: float, on_lost: OnLost, on_failed: OnFailed) -> None:
    """Raise TypeError or ValueError for options that make no sense."""
    if not isinstance(in_flight, int) or in_flight < 1:
        raise ValueError(f"in_flight must be a number of jobs, 1 or more, not {in_flight!r}")
    if on_lost not in get_args(OnLost):
        raise ValueError(f"on_lost must be 'raise' or 'retry', not {on_lost!r}")
    if on_failed not in get_args(OnFailed):
        raise ValueError(f"on_failed must be 'raise' or 'move', not {on_failed!r}")
    check_patience(patience)
