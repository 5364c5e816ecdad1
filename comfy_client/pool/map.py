"""Many prompts, a few at a time: :meth:`ComfyPool.map`."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, Literal, cast

import attrs

from ..batch.map import check_in_flight, delete_pending, is_about_one
from ..batch.window import Due, first_end
from ..errors import ComfyError
from ..interrupts import interruption
from ..jobs.job import Job, news_at, state_of, warn_that_it_runs
from ..jobs.pooled import PooledJob, poller_of_job, prompt_of
from ..jobs.result import Result
from ..routes.prompts import AnyWorkflow
from ..sealing import sealed
from ..transport.deadline import Deadline, check_timeout
from ..workflow import Workflow
from ..workflow.definitions import Definitions
from ..workflow.edit import with_inputs
from ..workflow.load import is_source
from .dispatcher import Dispatcher

#: Submits one of them; its second argument is called with the job before that.
Submit = Callable[[Any, Callable[[PooledJob], object]], PooledJob]
#: Those whose results nobody has had, by number; what could not be submitted has an error.
_Jobs = dict[int, PooledJob | ComfyError]

_SOME: Final = 2  # as many wait as servers have, so that none is ever idle
#: Seconds in which what is being sent arrives, if it is to be taken back; and between two looks.
_ON_THE_WAY: Final = 5.0
_LOOK: Final = 0.01


def run_map(
    submit: Submit,
    dispatcher: Dispatcher,
    workflows: Iterable[AnyWorkflow] | AnyWorkflow,
    params: Iterable[Mapping[str, Any]] | None,
    *,
    definitions: Definitions,
    in_flight: int | None,
    ordered: bool,
    on_error: Literal["raise", "keep"],
    timeout: float | None,
    stall_timeout: float | None,
) -> Generator[Result | ComfyError, None, None]:
    """See :meth:`ComfyPool.map`.  Wrong arguments are raised at once."""
    if in_flight is not None:
        check_in_flight(in_flight)
    if on_error not in ("raise", "keep"):
        raise ValueError(f"on_error is 'raise' or 'keep', not {on_error!r}")
    check_timeout(timeout, stall_timeout)
    if params is None:
        if isinstance(workflows, Workflow) or is_source(workflows):
            raise TypeError("one workflow needs params=[{'KSampler.seed': 7}, ...]")
        items = iter(cast("Iterable[Any]", workflows))
        make: Callable[[Any], Any] = _itself
    else:
        items = map(sealed, params)  # frames hold them
        make = partial(with_inputs, Workflow(workflows, definitions))  # type: ignore[arg-type]  # raises for what is none
    most = (lambda: _SOME * dispatcher.room()) if in_flight is None else (lambda: in_flight)
    patience = Patience(timeout, stall_timeout)
    jobs: _Jobs = {}
    return _stream(
        jobs,
        lambda item, begun: submit(make(item), begun),
        partial(_leave, dispatcher, jobs),
        most,
        items,
        patience,
        ordered=ordered,
        keep=on_error == "keep",
    )


def _itself(item: Any) -> Any:
    return item


def _leave(dispatcher: Dispatcher, jobs: _Jobs) -> None:
    """Take back what does not run yet."""
    ours = [job for job in jobs.values() if isinstance(job, PooledJob)]
    take_back(dispatcher, ours)
    for job in filter(_is_on_the_way, ours):
        dispatcher.withdraw(job)  # it is cancelled as soon as its server can be told


def _stream(
    jobs: _Jobs,
    submit: Submit,
    leave: Callable[[], object],
    most: Callable[[], int],
    items: Iterator[Any],
    patience: Patience,
    *,
    ordered: bool,
    keep: bool,
) -> Generator[Result | ComfyError, None, None]:
    numbers = itertools.count()
    failure: Exception | None = None  # raised when its turn has come: results before it are had
    outcome: Result | ComfyError | None = None
    has_more = True
    try:
        while True:
            while has_more and len(jobs) < most():
                has_more, failure = _submit_next(jobs, submit, items, next(numbers), keep=keep)
            if not jobs:
                if failure is not None:
                    raise failure
                return
            key, outcome = _next_end(jobs, patience, ordered=ordered)
            patience.ended(jobs.pop(key))
            if isinstance(outcome, ComfyError) and not (keep and is_about_one(outcome)):
                raise outcome
            yield outcome
    except KeyboardInterrupt:
        for job in jobs.values():
            if isinstance(job, Job) and job.status == "running":
                warn_that_it_runs(job)
        raise
    finally:
        failure = outcome = None  # an error, its traceback and this frame make no circle
        leave()


def _submit_next(
    jobs: _Jobs, submit: Submit, items: Iterator[Any], number: int, *, keep: bool
) -> tuple[bool, Exception | None]:
    """Submit one more; whether there may be others, and the error that ends the call."""
    try:
        submit(next(items), partial(jobs.__setitem__, number))
    except StopIteration:
        return False, None
    except Exception as exc:  # raised in its turn
        if interruption(exc) is not None:
            raise  # to its owner at once; the pool may have the job, or not
        jobs.pop(number, None)  # the pool does not have it
        if not (isinstance(exc, ComfyError) and keep and is_about_one(exc)):
            return False, exc
        jobs[number] = exc
    return True, None


def _next_end(jobs: _Jobs, patience: Patience, *, ordered: bool) -> tuple[int, Result | ComfyError]:
    """Wait until the first one is over, or whichever is; which one, and what became of it."""
    waited_for = dict(itertools.islice(jobs.items(), 1)) if ordered else jobs
    all_jobs = [job for job in jobs.values() if isinstance(job, PooledJob)]
    return first_end(waited_for, lambda key, _: patience.due(jobs[key], all_jobs))


@attrs.define
class Patience:
    """How long each prompt of a call may take, and be without news."""

    timeout: float | None
    stall_timeout: float | None
    #: When the last of this call ended on each server; ``None``: anywhere.
    _ends: dict[str | None, float] = attrs.field(factory=dict, init=False)

    def ended(self, job: PooledJob | ComfyError) -> None:
        """One has ended, and its result is about to be had."""
        server = job.server if isinstance(job, PooledJob) else None
        self._ends[server] = self._ends[None] = time.monotonic()

    def due(self, job: PooledJob | ComfyError, jobs: Iterable[PooledJob]) -> Iterator[Due]:
        """When one has waited for long enough.

        It waits for others of this call, which is no fault of its own: its time begins when one
        of them ends on its server, and news of any of them there will do.  As long as no server
        has it, those of all servers count.
        """
        if not isinstance(job, PooledJob):
            return
        server, state = job.server, state_of(job)
        ended_at = self._ends.get(server, 0.0)
        if self.timeout is not None:
            since = max(state.posted_at or state.news_at, ended_at)
            what = f"prompt {job.prompt_id} has not ended within {self.timeout:g} s"
            yield Due(since + self.timeout, job, what)
        if self.stall_timeout is not None:
            others = jobs if job.status != "running" else ()
            there = [one for one in others if server is None or one.server == server]
            latest = max(ended_at, *(news_at(one) for one in (job, *there)))
            what = f"no news of prompt {job.prompt_id} for {self.stall_timeout:g} s"
            yield Due(latest + self.stall_timeout, job, what, stalled=True)


def take_back(dispatcher: Dispatcher, jobs: Iterable[PooledJob]) -> list[PooledJob]:
    """Take back what waits in the pool, and what is pending on a server; what runs keeps running.

    Returns:
        Those that were on a server; one that is on its way yet may get there later.
    """
    left = [job for job in jobs if not job.done() and not dispatcher.withdraw(job, if_unsent=True)]
    left = list(filter(dispatcher.has, left))  # Ctrl-C may have come before it was submitted
    deadline = Deadline.after(_ON_THE_WAY)
    while any(map(_is_on_the_way, left)) and not deadline.expired:
        time.sleep(_LOOK)
    by_server: dict[str | None, list[PooledJob]] = {}
    for job in left:
        if not job.done() and prompt_of(job) is not None:
            by_server.setdefault(job.server, []).append(job)
    taken: list[PooledJob] = []

    def take(there: list[PooledJob]) -> None:
        if delete_pending(poller_of_job(there[0]), [job.prompt_id for job in there]):
            taken.extend(itertools.filterfalse(_is_on_the_way, there))

    try:  # all at once, since one that does not answer takes its time
        with ThreadPoolExecutor(max(1, len(by_server))) as threads:
            list(threads.map(take, by_server.values()))
    except RuntimeError:  # no more threads, as when Python ends
        list(map(take, by_server.values()))
    return taken


def _is_on_the_way(job: PooledJob) -> bool:
    """Whether it is being sent."""
    return not job.done() and state_of(job).accepted_at is None
