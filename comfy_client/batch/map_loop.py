"""The loop of ``map``, for clients and pools."""

from __future__ import annotations

import logging
import math
import uuid
import weakref
from collections.abc import Callable, Generator, Iterable, Mapping, Sized
from functools import partial
from typing import Any, Final, Literal, cast

from .. import runtime
from ..errors import (
    ApiError,
    ClientClosed,
    ComfyError,
    JobError,
    JobLost,
    PromptRejected,
    SubmitUncertain,
    UploadTooLarge,
    WorkflowError,
)
from ..interrupts import interruption
from ..jobs.handle import SLICE
from ..jobs.result import Result
from ..jobs.waiting import Count, shown_count, surface_of
from ..reading import reading_until
from ..redaction import sealed, sealed_workflow
from ..routes.prompts import AnyWorkflow
from ..showing.cells import show_lists
from ..showing.screen import Surface
from ..workflow import Workflow
from ..workflow.definition_source import Definitions
from ..workflow.edit import with_inputs
from ..workflow.load import is_source
from .in_flight import InFlight
from .items import Items
from .result_list import are_results, result_gallery

log: logging.Logger = logging.getLogger("comfy_client")

_HAD_ENDED: Final = "prompts that had ended: %d; the exception has their results as its results"
#: How often a prompt is submitted in all if the server forgets it.
ATTEMPTS: Final = 3

#: Submits a prompt under a key.  The prompt is in flight before it is sent, and is removed if it
#: certainly was not sent.
Submit = Callable[[str, Any], object]
#: Submits a lost prompt again, in its place, if it certainly never arrived; returns whether it was.
Resubmit = Callable[[str, JobLost], bool]

#: Errors that concern a single prompt.
_ABOUT_ONE: Final = (JobError, PromptRejected, WorkflowError, UploadTooLarge, SubmitUncertain)


def is_about_one(error: BaseException) -> bool:
    """Return whether an error concerns a single prompt and says nothing about the next."""
    # A server may crash on a graph that its validation does not understand.
    stumbled = isinstance(error, ApiError) and error.status == 500
    return stumbled or isinstance(error, _ABOUT_ONE)


def check_in_flight(in_flight: int) -> None:
    """Raise ValueError unless ``in_flight`` is a whole number, 1 or more."""
    if not isinstance(in_flight, int) or in_flight < 1:
        raise ValueError(f"in_flight must be a number of prompts, 1 or more, not {in_flight!r}")


def run_map(
    prompts: InFlight,
    submit: Submit,
    workflows: Iterable[AnyWorkflow] | AnyWorkflow,
    params: Iterable[Mapping[str, Any]] | None,
    *,
    definitions: Definitions,
    most: Callable[[], int],
    ordered: bool,
    on_error: Literal["raise", "keep"],
    progress: bool | None,
    delay: float,
    resubmit: Resubmit | None = None,
) -> Generator[Result | ComfyError, None, None]:
    """Run many workflows, ``most()`` at a time: see :meth:`ComfyApi.map`.

    Errors in the arguments are raised immediately.
    """
    if on_error not in ("raise", "keep"):
        raise ValueError(f"on_error must be 'raise' or 'keep', not {on_error!r}")
    if params is None:
        if isinstance(workflows, Workflow) or is_source(workflows):
            raise TypeError("one workflow needs params=[{'KSampler.seed': 7}, ...]")
        _check_iterable("workflows", workflows)
        items = Items(cast("Iterable[Any]", workflows), sealed_workflow)
    else:
        if isinstance(params, Mapping):
            raise TypeError(
                "params is a list with a dict for each run, such as [{'KSampler.seed': 7}, ...]; "
                "sweep() runs all combinations of a dict of lists"
            )
        _check_iterable("params", params)
        items = Items(params, sealed)  # sealed, as tracebacks show the frames that hold them
        make = partial(with_inputs, Workflow(workflows, definitions))  # type: ignore[arg-type]  # Workflow checks the type
        submit = partial(_make_and_submit, make, submit, prompts.timeout)
    prompts.items = items
    show_lists(are_results, result_gallery)
    tally = _Tally(prompts, _length(workflows if params is None else params))
    keep = on_error == "keep"
    outcomes = _outcomes(prompts, submit, items, most, resubmit, ordered=ordered, keep=keep)
    return _stream(prompts, outcomes, tally, partial(surface_of, progress, None), delay)


def with_previews(options: Mapping[str, Any], progress: bool | None) -> Mapping[str, Any]:
    """Return the options, with previews turned on if a progress bar in a notebook shows them."""
    is_shown = surface_of(progress, None) == "notebook"
    return {"preview_method": "auto", **options} if is_shown else options


def _length(items: object) -> int | None:
    """Return the number of items, or None if it is unknown before the iteration."""
    try:
        return len(items) if isinstance(items, Sized) else None
    except Exception:  # noqa: BLE001  # an error of the user's code must not come from the bar
        return None


def _check_iterable(name: str, value: object) -> None:
    if not isinstance(value, Iterable):
        raise TypeError(f"{name} must be a list or another iterable, not {value!r:.80}")


def _make_and_submit(
    make: Callable[[Any], Workflow], submit: Submit, limit: float | None, key: str, item: Any
) -> None:
    in_time = reading_until(math.inf if limit is None else runtime.monotonic() + limit)
    with in_time:  # ``make`` reads open files
        workflow = make(item)
    submit(key, workflow)


class _Tally:
    """Counts the outcomes of a ``map`` call, and knows the yielded results that still exist."""

    def __init__(self, prompts: InFlight, total: int | None) -> None:
        self._prompts = prompts
        self._number = self._failed = 0
        self._given: weakref.WeakValueDictionary[int, Result] = weakref.WeakValueDictionary()
        self.count: Count = Count(
            total=total,
            ended=self._ended,
            running=lambda: [job for job in prompts.jobs.values() if not job.done()],
            trouble=lambda: prompts.trouble,
            notes=prompts.notes,
        )

    def add(self, outcome: Result | ComfyError) -> None:
        """Count an outcome that is about to be yielded."""
        if isinstance(outcome, Result):
            self._given[self._number] = outcome
        else:
            self._failed += 1
        self._number += 1

    def _ended(self) -> tuple[int, int]:
        number, failed = self._prompts.count_ended()
        return self._number + number, self._failed + failed

    def results(self) -> list[Result]:
        """Return the results that the caller still refers to, and the results in flight."""
        return [*self._given.values(), *self._prompts.results()]


def _stream(
    prompts: InFlight,
    outcomes: Generator[Result | ComfyError, None, None],
    tally: _Tally,
    where: Callable[[], Surface],
    delay: float,
) -> Generator[Result | ComfyError, None, None]:
    """Yield outcomes, and show a progress bar; at the end, take back the pending prompts."""
    outcome: Result | ComfyError | None = None
    try:
        with shown_count(where(), "map", delay, tally.count) as screen:
            prompts.tick = screen.tick
            for outcome in outcomes:
                tally.add(outcome)
                screen.make_room()
                yield outcome
                screen.redraw()
            screen.end(None)
    except GeneratorExit:
        raise
    except BaseException as exc:
        vars(exc)["results"] = results = tally.results()
        if isinstance(exc, KeyboardInterrupt):
            prompts.say_what_runs()
            if results:
                log.warning(_HAD_ENDED, len(results))
        raise
    finally:
        outcome = None  # breaks the cycle of an error, its traceback and this frame
        prompts.withdraw()


def _outcomes(
    prompts: InFlight,
    submit: Submit,
    items: Items,
    most: Callable[[], int],
    resubmit: Resubmit | None,
    *,
    ordered: bool,
    keep: bool,
) -> Generator[Result | ComfyError, None, None]:
    failure: Exception | None = None  # raised in its turn, after earlier results
    outcome: Result | ComfyError | None = None
    try:
        while True:
            # A requested item is taken, even if the server has gone away since.
            while (
                failure is None and (items.is_ready or len(prompts) < most()) and items.has_next()
            ):
                failure = _submit_next(prompts, submit, items, keep=keep)
            if prompts.is_closed:  # another thread called close()
                raise ClientClosed
            if not prompts:
                if failure is not None:
                    raise failure
                if items.is_over:
                    return
                items.wait((), SLICE if prompts.tick is None else min(SLICE, prompts.tick()))
                continue
            end = prompts.look(ordered=ordered, wait=items.wait)
            if end is None:
                continue
            key, outcome = end
            if resubmit is not None and isinstance(outcome, JobLost) and resubmit(key, outcome):
                continue
            if prompts.pop(key) is None:  # close() in another thread has taken it back
                raise ClientClosed
            if isinstance(outcome, ComfyError) and not (keep and is_about_one(outcome)):
                raise outcome
            yield outcome
    finally:
        failure = outcome = end = None  # breaks the cycle of an error, its traceback and this frame


def _submit_next(
    prompts: InFlight, submit: Submit, items: Items, *, keep: bool
) -> Exception | None:
    """Submit the item that has arrived; return the error that ends the submission, if any."""
    try:
        item = items.take()
    except Exception as exc:  # noqa: BLE001  # the loop raises it in its turn
        return exc
    key = str(uuid.uuid4())
    try:
        submit(key, item)
    except Exception as exc:
        if interruption(exc) is not None or (key in prompts and not isinstance(exc, OSError)):
            raise  # an unrelated error, such as an alarm's, is raised immediately
        prompts.drop(key)  # for example, a file cannot be read
        if not (isinstance(exc, ComfyError) and keep and is_about_one(exc)):
            return exc
        prompts.put(key, exc)
    return None
