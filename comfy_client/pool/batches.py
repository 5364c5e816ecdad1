"""The methods of a pool that run many workflows."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from typing import Any, Literal, Unpack, overload

from ..batch.map import SubmitOptions
from ..errors import ComfyError
from ..jobs.callbacks import Callbacks
from ..jobs.job import Job
from ..jobs.result import Result
from ..routes.prompts import AnyWorkflow, seal
from .map import run_map
from .running import Running
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
