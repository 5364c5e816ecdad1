"""The methods of a client that run many prompts."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Generator, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

from ..errors import ComfyError
from ..jobs.result import Result
from ..jobs.running import Running
from ..locks import check_may_wait
from ..routes.prompts import AnyWorkflow, PromptOptions, seal
from ..workflow.edit import as_workflow

if TYPE_CHECKING:
    from .in_flight import InFlight
    from .map_loop import SubmitOptions
    from .row import SweepRow
    from .rows import Sweep
    from .runner import OneServer


class Batches(Running):
    """The part of a client that runs many workflows."""

    #: Prompts of ``map`` and ``sweep``, which keep this object, and not the other way round.
    _windows: set[weakref.ref[InFlight]]

    def _server(
        self, timeout: float | None, stall_timeout: float | None, patience: float | None
    ) -> OneServer:
        from .runner import OneServer  # not what every script waits for

        server = OneServer(
            self, self.parts.poller, timeout=timeout, stall_timeout=stall_timeout, patience=patience
        )
        self._windows.add(weakref.ref(server.prompts, self._windows.discard))
        return server

    @overload
    def map(
        self,
        workflows: Iterable[AnyWorkflow] | AnyWorkflow,
        params: Iterable[Mapping[str, Any]] | None = None,
        *,
        in_flight: int = 4,
        ordered: bool = True,
        on_error: Literal["raise"] = "raise",
        timeout: float | None = None,
        stall_timeout: float | None = None,
        patience: float | None = None,
        **options: Unpack[SubmitOptions],
    ) -> Generator[Result, None, None]: ...

    @overload
    def map(
        self,
        workflows: Iterable[AnyWorkflow] | AnyWorkflow,
        params: Iterable[Mapping[str, Any]] | None = None,
        *,
        in_flight: int = 4,
        ordered: bool = True,
        on_error: Literal["keep"],
        timeout: float | None = None,
        stall_timeout: float | None = None,
        patience: float | None = None,
        **options: Unpack[SubmitOptions],
    ) -> Generator[Result | ComfyError, None, None]: ...

    def map(
        self,
        workflows: Iterable[AnyWorkflow] | AnyWorkflow,
        params: Iterable[Mapping[str, Any]] | None = None,
        *,
        in_flight: int = 4,
        ordered: bool = True,
        on_error: Literal["raise", "keep"] = "raise",
        timeout: float | None = None,
        stall_timeout: float | None = None,
        patience: float | None = None,
        **options: Unpack[SubmitOptions],
    ) -> Generator[Result | ComfyError, None, None]:
        """Run many workflows, and yield their results while more are submitted.

        Nothing is submitted before the first ``next``.  At most ``in_flight`` workflows are
        taken whose results you have not had: infinite iterables are fine, other clients get
        their turn in the queue, and little is left there if something breaks.  A thread of its own
        iterates any iterable but a list, a tuple, a ``range`` or another built-in container, so
        that results are yielded while ``next`` of it blocks, as with ``iter(queue.get, None)``.

        If it ends early (``break``, ``close()`` of it or of the client, Ctrl-C, an error, the
        end of the script), its pending prompts are deleted from the queue; the running one
        keeps running.  An item that the iterable is about to return then is lost.

        Once the server has accepted a prompt, outages are waited for, as long as ``patience`` and
        ``timeout`` allow: connection refused, a proxy's 502 to 504, an unknown host.  Prompts that
        reached the server are attached again, and those that surely did not are submitted again.
        A prompt that the server lost in a restart is :class:`JobLost`.

        Example::

            from comfy_client import ComfyApi

            with ComfyApi("http://127.0.0.1:8188") as api:
                seeds = [{"KSampler.seed": seed} for seed in range(3)]
                for result in api.map("txt2img.json", seeds):
                    result.images[0].save("out/")

        Args:
            workflows: Several workflows, or with ``params`` a single one.  What is bound to the
                thread that made it, such as a cursor of :mod:`sqlite3`, goes into a list first.
            params: The inputs that differ, for each prompt: ``{"KSampler.seed": 7}``, the node
                by id, title or class.  Each is applied to a copy.
            in_flight: How many of its prompts are in the queue, the running one included.
            ordered: Whether to yield in the order of the workflows, or as they end.
            on_error: ``"raise"`` the error of a prompt, or ``"keep"``: yield the exception in
                its place.  Other errors (of the server itself, of your iterable, a missing file)
                are raised in any case, and end the submission.  Results of earlier prompts are
                always yielded first.
            timeout: Seconds for each prompt, from its submission, or from the end of the last
                prompt of this call: waiting for prompts of this call does not count, waiting for
                those of other clients does.  After that it is a :class:`JobTimeout`, and the
                prompt is cancelled (5 seconds at most; if it has ended by then, its end counts).
                During an outage it counts on, also for the prompt that is about to be sent.
                ``None``: no limit.
            stall_timeout: The same for seconds without any news: of the prompt, or, while it is
                pending, of any prompt of this call.  During an outage there is no news.
            patience: Seconds that the server may be away in one piece, once it has accepted a
                prompt; then :class:`ServerUnreachable`.  ``None``: no limit; 0: an outage ends it
                at once.  A submission that got no answer is looked up for 10 seconds in any case.
                Prompts that it has keep running, or are lost if it was restarted.
            options: As for :meth:`submit`.

        Raises:
            TypeError: One workflow without ``params``, or several with them.
            ValueError: ``in_flight``, ``on_error`` or a timeout make no sense.
            OSError: The file of the workflow cannot be read.  These three are raised at once.
            ServerUnreachable: The server does not answer the first request, or was away for longer
                than ``patience``, also if errors are kept.
            ComfyError: As :meth:`run`, while it yields; but no :class:`SubmitUncertain`, since it
                waits until the server shows whether it has such a prompt.
        """
        from .map_loop import check_in_flight, run_map

        seal(options)
        self.parts.check_open()
        check_may_wait()
        check_in_flight(in_flight)
        server = self._server(timeout, stall_timeout, patience)
        return run_map(
            server.prompts,
            partial(server.send, options),
            workflows,
            params,
            definitions=self,
            most=lambda: in_flight,
            ordered=ordered,
            on_error=on_error,
            resubmit=partial(server.resubmit, options),
        )

    def sweep(
        self,
        workflow: AnyWorkflow,
        grid: Mapping[str, Iterable[Any]],
        *,
        in_flight: int = 4,
        journal: str | os.PathLike[str] | None = None,
        retry_failed: bool = False,
        timeout: float | None = None,
        stall_timeout: float | None = None,
        patience: float | None = None,
        on_row: Callable[[SweepRow], object] | None = None,
        progress: bool | None = None,
        strict: bool = False,
        **options: Unpack[PromptOptions],
    ) -> Sweep:
        """Run a workflow with all combinations of some values, and wait for all of them.

        They run in the order that costs the server the least: one value changes from each
        prompt to the next, and inputs that feed many nodes change rarely.  The rows are in the
        order of the grid; the last input varies fastest.

        With a ``journal`` (an SQLite file that only its owner can read, without keys and without
        values of the grid), the same call resumes after any interruption: rows that have ended
        come from the file, and prompts that are in the queue or have ended since are attached by
        their ids.  None runs twice, unless the server lost it (a restart, a cleared queue or
        history) or received it after the client stopped looking for it (no answer for five
        seconds and more): then it has no result, and is submitted again, three times at most.
        Points are identified by their graphs, so you may change grid and workflow: values that
        have run before do not run again.  Points of one grid with equal graphs all run.  The
        journal does not store images of ``SaveImageWebsocket``.  Files of rows that ran on
        another ``host`` are not fetched (``ValueError``).

        If it ends early (Ctrl-C, an error), its pending prompts are deleted from the queue and
        the running one keeps running; the exception has the rows that had ended as ``rows``, a
        :class:`Sweep`.  It waits for outages of the server, as :meth:`map` does: as long as
        ``patience`` and ``timeout`` allow.
        One warning in the log says how many rows have an error.

        Example::

            from comfy_client import ComfyApi

            with ComfyApi("http://127.0.0.1:8188") as api:
                rows = api.sweep("txt2img.json", {"KSampler.seed": [1, 2], "KSampler.cfg": [4, 8]})
                for row in rows:
                    print(row.params, row.error or row.seconds)

        Args:
            workflow: As for :meth:`run`.
            grid: Values by input, ``{"KSampler.seed": range(8)}``, the node by id, title or
                class.
            in_flight: How many of its prompts are in the queue, the running one included.
            journal: The path of a file, which is created if missing; ``None``: no journal.
            retry_failed: Whether to run rows again that failed, according to the journal.  Those
                that the server refused did not run, and are submitted again in any case.
            timeout: Seconds for each prompt, as for :meth:`map`; the row's error is
                :class:`JobTimeout`.  If a prompt cannot be sent in that time, as the server is
                away, all that have not been sent end so, and the next call with the same journal
                sends them.
            stall_timeout: Seconds without any news, as for :meth:`map`.
            patience: Seconds that the server may be away in one piece, as for :meth:`map`; then
                :class:`ServerUnreachable`, whose ``rows`` has those that had ended.  ``None``: no
                limit.
            on_row: Called with each row as it ends, in this thread.  With a journal, it is
                called once for each row over all calls: first with rows of earlier calls that it
                has not had.  An exception in it ends the sweep.  It gets a row again next time
                if it raised, or if the process was killed before the journal noted its return.
            progress: Whether to show how many rows have ended, how many of them failed, and about
                how long it still takes: as for :meth:`run`, but also with ``on_row``.  A notebook
                shows a sheet of the rows at the end.
            strict: As for :meth:`submit`.
            options: See :class:`PromptOptions`.

        Returns:
            The rows.  The error of a single prompt is in its ``row.error``.

        Raises:
            WorkflowError: An unknown or ambiguous name, or a value that cannot be sent; raised
                before anything is submitted.
            PromptRejected: The server refuses the first prompt for a reason that does not depend
                on the grid (such as a missing model): it would refuse all.
            ValueError: An input without values, or twice; a timeout makes no sense; the file is
                damaged or no journal, and is not changed.
            BlockingIOError: Another process uses the journal.
            OSError: The journal cannot be read or written, for example on a full disk; call
                again when there is room.
            ServerUnreachable: The server does not answer the first request, or was away for longer
                than ``patience``.  With a journal, call again once it is back.
            ComfyError: The server refuses us, or is no ComfyUI.
        """
        from .sweep import run_sweep

        seal(options)
        self.parts.check_open()
        check_may_wait()
        workflow = as_workflow(workflow, self)
        server = self._server(timeout, stall_timeout, patience)
        return run_sweep(
            lambda _: server,
            workflow,
            grid,
            in_flight=in_flight,
            journal=journal,
            retry_failed=retry_failed,
            on_row=on_row,
            progress=progress,
            options={"strict": strict, **options},
        )


def withdraw(windows: set[weakref.ref[InFlight]]) -> None:
    """Take back the prompts that wait."""
    for known in windows.copy():  # another thread may begin one, or forget it
        window = known()
        if window is not None:
            window.withdraw()
