"""The methods of a pool that run many workflows."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from typing import Any, Literal, Unpack, overload

from ..batch.map import SubmitOptions
from ..errors import ComfyError
from ..jobs.callbacks import Callbacks
from ..jobs.result import Result
from ..routes.prompts import AnyWorkflow, seal
from .map import run_map
from .running import Running, Sending
from .servers import AnyServer


class Batches(Running):
    """Runs many workflows."""

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

        Nothing is submitted before the first ``next``.  Infinite iterables are fine.  If it ends
        early (``break``, ``close()``, Ctrl-C, an error), its jobs that do not run yet are
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
            TypeError: One workflow without ``params``, or several with them.
            ValueError: ``in_flight``, ``on_error``, a timeout or ``priority`` make no sense;
                ``include`` or ``exclude`` name a server that is not in the pool.
            OSError: The file of the workflow cannot be read.  These three are raised at once.
            ComfyError: As :meth:`run`, while it yields; but no :class:`SubmitUncertain`, since the
                pool waits until the server shows whether it has such a prompt.
        """
        seal(options)
        terms = self._terms(object(), priority, include, exclude)  # each call takes its turn
        sending = _sending(options)
        return run_map(
            lambda workflow: self._submit(self._read(workflow), Callbacks(), terms, sending),
            self._dispatcher.room,
            workflows,
            params,
            definitions=self._any_client(),
            in_flight=in_flight,
            ordered=ordered,
            on_error=on_error,
            timeout=timeout,
            stall_timeout=stall_timeout,
        )


def _sending(options: SubmitOptions) -> Sending:
    rest = options.copy()
    strict, resubmit = rest.pop("strict", False), rest.pop("resubmit", False)
    return {
        "strict": strict,
        "check": False,
        "resubmit": resubmit,
        "wants_previews": False,
        "options": rest,
    }
