"""The methods of a pool that run many workflows."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

from ..batch.map_loop import SubmitOptions
from ..errors import ComfyError
from ..jobs.callbacks import Callbacks
from ..jobs.result import Result
from ..routes.prompts import AnyWorkflow, PromptOptions, check_names, seal
from .running import Running, sending_of
from .servers import AnyServer
from .taking_back import run_pool_map, sweep_prompts

if TYPE_CHECKING:
    from ..batch.row import SweepRow
    from ..batch.rows import Sweep


class Batches(Running):
    """The part of a pool that runs many workflows."""

    @overload
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
        **options: Unpack[SubmitOptions],
    ) -> Generator[Result | ComfyError, None, None]:
        """Run many workflows, and yield their results while more are submitted.

        What becomes of prompts whose server fails, refuses them or goes away, the ``on_failed`` and
        ``on_lost`` of the pool say: see :class:`ComfyPool`.

        Nothing is submitted before the first ``next``.  Infinite iterables are fine, and so are
        those that block: as for :meth:`ComfyApi.map`, a thread of its own iterates them.  If it
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
            timeout: Seconds for each prompt, from when a server has it, or from the end of the last
                prompt of this call there: waiting for prompts of this call does not count, waiting
                for those of others does.  While it waits for a server, the ends on all servers
                count.  After that it is a :class:`JobTimeout`, and the prompt is cancelled (5
                seconds at most; if it has ended by then, its end counts).  ``None``: no limit.
            stall_timeout: The same for seconds without any news: of the prompt, or, until it runs,
                of any prompt of this call on its server.  During an outage there is no news.
            priority: As for :meth:`submit`.
            include: As for :meth:`submit`.
            exclude: As for :meth:`submit`.
            options: See :class:`SubmitOptions`.

        Raises:
            TypeError: One workflow without ``params``, or several with them; or there is no option
                of that name.
            ValueError: ``in_flight``, ``on_error``, a timeout or ``priority`` make no sense;
                ``include`` or ``exclude`` name a server that is not in the pool.
            OSError: The file of the workflow cannot be read.  These three are raised at once.
            ComfyError: As :meth:`run`, while it yields; but no :class:`SubmitUncertain`, since the
                pool waits until the server shows whether it has such a prompt.
        """
        seal(options)
        terms = self._terms(object(), priority, include, exclude)  # each call takes its turn
        sending = sending_of(options)
        return run_pool_map(
            lambda item, begun: self._submit(self._read(item), Callbacks(), terms, sending, begun),
            self._dispatcher,
            workflows,
            params,
            definitions=self,
            in_flight=in_flight,
            ordered=ordered,
            on_error=on_error,
            timeout=timeout,
            stall_timeout=stall_timeout,
        )

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
        """Run a workflow with all combinations of some values, and wait for all of them.

        As :meth:`ComfyApi.sweep`, on all servers.  Each server gets a part of the grid in which as
        little as possible changes from one prompt to the next: different models go to different
        servers, for example.  A server that has done its part takes over half of what another one
        has left.  ``row.host`` says where a row ran.

        The ``journal`` knows which server has which prompt, before that server gets it.  The same
        call asks that server after any interruption.  While it does not answer, it is not known
        whether it has run the prompt.  After the ``patience`` of the pool, others run the points
        that only waited there; the error of the row of one that had begun is :class:`JobLost`, and
        the next call asks again.  With ``on_lost="retry"``, another server runs it.  The same
        holds, at once, for a server that is not in the pool, refuses to say, or whose client was
        closed.  A prompt that its server has forgotten runs again in any case, three times at most,
        unless two servers have died while they ran it.

        A point that a server refuses, or fails with ``on_failed="move"``, goes to another one; the
        error of its row is the last one.

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
                model files that any point needs.  A point that no server can run, while others
                can be run, has it as the error of its row.
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
        from ..batch.sweep import run_sweep
        from .sweep_servers import PoolRunner

        seal(options)
        check_names(options)
        terms = self._terms(object(), priority, include, exclude)
        workflow = self._read(workflow)
        make_runner = partial(
            PoolRunner,
            prompts=sweep_prompts(self._dispatcher, timeout, stall_timeout),
            dispatcher=self._dispatcher,
            terms=terms,
            numbers=self._numbers,
            patience=self._patience,
            reruns=self._on_lost == "retry",
        )
        self._connect()
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
