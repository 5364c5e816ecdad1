"""Many prompts, a few at a time: :meth:`ComfyPool.map`."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Final, Literal, cast

from ..batch.map import check_in_flight, is_about_one
from ..errors import ComfyError
from ..jobs.job import SLICE, Job, wait_for_one
from ..jobs.result import Result
from ..routes.prompts import AnyWorkflow
from ..sealing import sealed
from ..workflow import Workflow
from ..workflow.edit import with_inputs
from ..workflow.load import is_source

#: Submits one of them.
Submit = Callable[[Any], Job]

_SOME: Final = 2  # as many wait as servers have, so that none is ever idle


def run_map(
    submit: Submit,
    room: Callable[[], int],
    workflows: Iterable[AnyWorkflow] | AnyWorkflow,
    params: Iterable[Mapping[str, Any]] | None,
    *,
    in_flight: int | None,
    ordered: bool,
    on_error: Literal["raise", "keep"],
) -> Generator[Result | ComfyError, None, None]:
    """See :meth:`ComfyPool.map`.  Wrong arguments are raised at once."""
    if in_flight is not None:
        check_in_flight(in_flight)
    if on_error not in ("raise", "keep"):
        raise ValueError(f"on_error is 'raise' or 'keep', not {on_error!r}")
    if params is None:
        if isinstance(workflows, Workflow) or is_source(workflows):
            raise TypeError("one workflow needs params=[{'KSampler.seed': 7}, ...]")
        items = iter(cast("Iterable[Any]", workflows))
        make: Callable[[Any], Any] = _itself
    else:
        items = map(sealed, params)  # frames hold them
        make = partial(with_inputs, Workflow(workflows))  # type: ignore[arg-type]  # raises for what is none
    most = (lambda: _SOME * room()) if in_flight is None else (lambda: in_flight)
    return _stream(lambda item: submit(make(item)), most, items, ordered, on_error == "keep")


def _itself(item: Any) -> Any:
    return item


def _stream(
    submit: Submit, most: Callable[[], int], items: Iterator[Any], ordered: bool, keep: bool
) -> Generator[Result | ComfyError, None, None]:
    #: Those whose results nobody has had; what could not be submitted stands in its place.
    jobs: dict[object, Job | Exception] = {}
    failure: Exception | None = None  # raised when its turn has come: results before it are had
    has_more = True
    try:
        while True:
            while has_more and len(jobs) < most():
                try:
                    item = next(items)
                    job = submit(item)
                    jobs[job] = job
                except StopIteration:
                    has_more = False
                except Exception as exc:  # noqa: BLE001  # raised in its turn
                    if keep and is_about_one(exc):
                        jobs[object()] = exc
                    else:
                        has_more, failure = False, exc
            if not jobs:
                if failure is not None:
                    raise failure
                return
            key = _next_end(jobs, ordered=ordered)
            outcome = _outcome(jobs[key])
            del jobs[key]
            if isinstance(outcome, Result) or (
                keep and isinstance(outcome, ComfyError) and is_about_one(outcome)
            ):
                yield outcome
            else:
                raise outcome
    finally:
        failure = None  # an error, its traceback and this frame make no circle
        _withdraw([job for job in jobs.values() if isinstance(job, Job) and not job.done()])


def _next_end(jobs: Mapping[object, Job | Exception], *, ordered: bool) -> object:
    """Wait until the first one is over, or whichever is."""
    keys = [next(iter(jobs))] if ordered else list(jobs)
    while True:
        for key in keys:
            job = jobs[key]
            if not isinstance(job, Job) or job.done():
                return key
        wait_for_one([job for key in keys if isinstance(job := jobs[key], Job)], SLICE)


def _outcome(job: Job | Exception) -> Result | Exception:
    if not isinstance(job, Job):
        return job
    error = job.exception()
    if error is None:
        return job.result()
    if isinstance(error, Exception):
        return error
    raise error


def _withdraw(jobs: list[Job]) -> None:
    """Take back what does not run yet; what runs keeps running."""
    for job in jobs:
        try:
            if job.status in ("waiting", "pending"):
                job.cancel()
        except ComfyError:
            pass  # a server that is away; what it has stays in its queue
