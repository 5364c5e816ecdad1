"""Many prompts, one after the other: :meth:`ComfyApi.map`, and what a sweep shares with it."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent import futures
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from .errors import (
    ApiError,
    ComfyError,
    JobError,
    PromptRejected,
    ServerUnreachable,
    SubmitUncertain,
    UploadTooLarge,
    WorkflowError,
)
from .job import LAST_WORD, SLICE, Job
from .outputs import Result
from .routes.prompts import AnyWorkflow, PromptOptions
from .workflow import Workflow
from .workflow.grid import with_params

if TYPE_CHECKING:
    from .client import ComfyApi

log = logging.getLogger("comfy_client")

#: Seconds between attempts to reach a server that has gone away; they grow.
RETRY_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 5.0

_ABOUT_ONE: Final = (JobError, PromptRejected, WorkflowError, UploadTooLarge, SubmitUncertain)

#: By prompt_id what was submitted, or why it was not; ``None`` while that is under way.
Window: TypeAlias = dict[str, Job | ComfyError | None]


class SubmitOptions(PromptOptions, total=False):
    """What :meth:`ComfyApi.submit` takes."""

    strict: bool
    resubmit: bool


def run_map(
    api: ComfyApi,
    workflows: Iterable[AnyWorkflow] | AnyWorkflow,
    params: Iterable[Mapping[str, Any]] | None,
    *,
    in_flight: int,
    ordered: bool,
    on_error: Literal["raise", "keep"],
    options: Mapping[str, Any],
) -> Generator[Result | ComfyError, None, None]:
    """See :meth:`ComfyApi.map`.  Wrong arguments are told at once, the rest on the way."""
    check_in_flight(in_flight)
    if on_error not in ("raise", "keep"):
        raise ValueError(f"on_error is 'raise' or 'keep', not {on_error!r}")

    if params is None:
        if isinstance(workflows, Workflow | Mapping | str | bytes | os.PathLike):
            raise TypeError("one workflow needs params=[{'KSampler.seed': 7}, ...]")
        made: Iterable[Any] = workflows
        make: Callable[[Any], AnyWorkflow] = _itself
    else:
        made = params
        make = partial(with_params, Workflow(workflows))  # type: ignore[arg-type]  # it tells
    return _stream(api, iter(made), make, in_flight, ordered, on_error == "keep", options)


def _itself(workflow: AnyWorkflow) -> AnyWorkflow:
    return workflow


def _stream(
    api: ComfyApi,
    items: Iterator[Any],
    make: Callable[[Any], AnyWorkflow],
    in_flight: int,
    ordered: bool,
    keep: bool,
    options: Mapping[str, Any],
) -> Generator[Result | ComfyError, None, None]:
    window: Window = {}  # taken from the items, and not yet given out
    has_more, patient = True, False
    failure: Exception | None = None  # of whoever gives the items
    try:
        while True:
            while has_more and len(window) < in_flight:
                try:
                    item = next(items)
                except StopIteration:
                    has_more = False
                    break
                except Exception as exc:  # noqa: BLE001  raised when its turn has come
                    has_more, failure = False, exc
                    break
                prompt_id = api.generate_id()
                try:
                    workflow = make(item)
                    window[prompt_id] = None  # Ctrl-C may come while it is sent
                    window[prompt_id] = submit_patiently(
                        api, workflow, patient=patient, prompt_id=prompt_id, **options
                    )
                    patient = True
                except ComfyError as exc:
                    window[prompt_id] = exc
                    has_more = keep and is_about_one(exc)
            if not window:
                if failure is not None:
                    raise failure
                return
            prompt_id = next(iter(window)) if ordered else first_done(window)
            outcome = _outcome(window[prompt_id], keep)
            del window[prompt_id]  # not before: Ctrl-C may come while it waits
            yield outcome
    except KeyboardInterrupt:
        say_what_runs(window)
        raise
    finally:
        withdraw(api, window)


def _outcome(entry: Job | ComfyError | None, keep: bool) -> Result | ComfyError:
    error: BaseException | None = entry if isinstance(entry, ComfyError) else None
    if isinstance(entry, Job):
        error = entry.exception()
        if error is None:
            return entry.result()
    if keep and isinstance(error, ComfyError) and is_about_one(error):
        return error
    raise error or AssertionError("it was sent by now")


def is_about_one(error: BaseException) -> bool:
    """Whether it went wrong with one prompt, and says nothing about the next."""
    # A server may stumble over a graph that its check does not understand.
    stumbled = isinstance(error, ApiError) and error.status == 500
    return stumbled or isinstance(error, _ABOUT_ONE)


def check_in_flight(in_flight: int) -> None:
    """ValueError for what is no number of prompts."""
    if not isinstance(in_flight, int) or in_flight < 1:
        raise ValueError(f"in_flight is a number of prompts, 1 or more, not {in_flight!r}")


def submit_patiently(api: ComfyApi, workflow: AnyWorkflow, *, patient: bool, **options: Any) -> Job:
    """Submit; if patient, wait for a server that has gone away: surely it got nothing."""
    pause = RETRY_PAUSE
    while True:
        try:
            return api.submit(workflow, **options)
        except ServerUnreachable as exc:
            if not (patient and exc.retryable):
                raise
            if pause == RETRY_PAUSE:
                log.warning("waiting for the server to come back: %s", exc)
        end = time.monotonic() + pause
        while time.monotonic() < end and not api._jobs.pause(min(pause, SLICE)):
            pass
        pause = min(LONGEST_PAUSE, pause * 1.6)


def first_done(window: Window) -> str:
    """Wait until one of them is over, and say which."""
    jobs = {entry: prompt_id for prompt_id, entry in window.items() if isinstance(entry, Job)}
    for prompt_id, entry in window.items():
        if isinstance(entry, ComfyError) or (entry is not None and entry.done()):
            return prompt_id
    while True:
        done = futures.wait(jobs, SLICE, futures.FIRST_COMPLETED).done
        if done:
            return next(prompt_id for job, prompt_id in jobs.items() if job in done)


def say_what_runs(window: Window) -> None:
    """Of those that Ctrl-C leaves going, how to come back to them."""
    for entry in window.values():
        if isinstance(entry, Job) and entry.status == "running":
            entry._say_that_it_goes_on()


def withdraw(api: ComfyApi, window: Window) -> list[str]:
    """Take back what still waits in the queue; what runs, goes on.  Both, as in the window."""
    left: dict[str, Job | None] = {}
    for prompt_id, entry in window.items():
        if isinstance(entry, Job) and not entry.done():
            left[prompt_id] = entry
        elif entry is None or isinstance(entry, SubmitUncertain):  # maybe it is there
            left[prompt_id] = None
    if not left:
        return []
    ids = [prompt_id if job is None else job.prompt_id for prompt_id, job in left.items()]
    try:
        api._http.order("POST", "/queue", json={"delete": ids}, timeout=LAST_WORD)
    except ComfyError as exc:
        log.warning("prompts may stay in the queue, %s: %s", ", ".join(ids), exc)
        return []
    api._jobs.withdrawn([job for job in left.values() if job is not None])
    return list(left)
