"""Many prompts, a few at a time: :meth:`ComfyPool.map`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Final, Literal, cast

import attrs

from .. import runtime
from ..batch.map import check_in_flight, delete_pending, is_about_one
from ..batch.source import Source
from ..batch.window import Due, Wait, next_end
from ..errors import ComfyError
from ..interrupts import in_full, interruption
from ..jobs.job import SLICE, Job, news_at, state_of, warn_that_it_runs
from ..jobs.pooled import PooledJob, poller_of_job, prompt_of
from ..jobs.result import Result
from ..routes.prompts import AnyWorkflow
from ..sealing import sealed
from ..transport.deadline import Deadline, check_timeout
from ..workflow import Workflow
from ..workflow.definition_source import Definitions
from ..workflow.edit import with_inputs
from ..workflow.load import is_source
from .dispatcher import Dispatcher

#: Submits one of them; its second argument is called with the job before that.
Submit = Callable[[Any, Callable[[PooledJob], object]], PooledJob]
#: Those whose results nobody has had, by number; what could not be submitted has an error.
_Jobs = dict[int, PooledJob | ComfyError]

_SOME: Final = 2  # as many wait as servers have, so that none is ever idle
#: Seconds in which all is taken back, what is being sent included.
_LONGEST: Final = 5.0
#: Seconds that what is being sent holds up the rest; and between two looks.
_SOON: Final = 0.5
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
        source = Source(cast("Iterable[Any]", workflows))
        make: Callable[[Any], Any] = _itself
    else:
        source = Source(params, sealed)  # frames hold them
        make = partial(with_inputs, Workflow(workflows, definitions))  # type: ignore[arg-type]  # raises for what is none
    most = (lambda: _SOME * dispatcher.room()) if in_flight is None else (lambda: in_flight)
    patience = Patience(timeout, stall_timeout)
    jobs: _Jobs = {}
    dispatcher.sources.add(source)
    return _stream(
        jobs,
        lambda item, begun: submit(make(item), begun),
        partial(_leave, dispatcher, jobs),
        most,
        source,
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
    forsake(dispatcher, ours)


def _stream(
    jobs: _Jobs,
    submit: Submit,
    leave: Callable[[], object],
    most: Callable[[], int],
    source: Source,
    patience: Patience,
    *,
    ordered: bool,
    keep: bool,
) -> Generator[Result | ComfyError, None, None]:
    numbers = itertools.count()
    failure: Exception | None = None  # raised when its turn has come: results before it are had
    outcome: Result | ComfyError | None = None
    try:
        while True:
            # What was asked for is taken, though a server with room for it has gone away since.
            while failure is None and (source.is_ready or len(jobs) < most()) and source.has_next():
                failure = _submit_next(jobs, submit, source, next(numbers), keep=keep)
            if not jobs:
                if failure is not None:
                    raise failure
                if source.is_over:
                    return
                source.wait((), SLICE)
                continue
            end = _next_end(jobs, patience, source.wait, ordered=ordered)
            if end is None:
                continue
            key, outcome = end
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
        failure = outcome = end = None  # an error, its traceback and this frame make no circle
        in_full([leave, source.close])


def _submit_next(
    jobs: _Jobs, submit: Submit, source: Source, number: int, *, keep: bool
) -> Exception | None:
    """Submit the next one, which is there; the error that ends the submission, if any."""
    try:
        item = source.take()
    except Exception as exc:  # noqa: BLE001  # raised in its turn
        return exc
    try:
        submit(item, partial(jobs.__setitem__, number))
    except Exception as exc:  # raised in its turn
        if interruption(exc) is not None:
            raise  # to its owner at once; the pool may have the job, or not
        jobs.pop(number, None)  # the pool does not have it
        if not (isinstance(exc, ComfyError) and keep and is_about_one(exc)):
            return exc
        jobs[number] = exc
    return None


def _next_end(
    jobs: _Jobs, patience: Patience, wait: Wait, *, ordered: bool
) -> tuple[int, Result | ComfyError] | None:
    """Wait briefly for the end of the first job, or of any; return its key and its outcome."""
    waited_for = dict(itertools.islice(jobs.items(), 1)) if ordered else jobs
    all_jobs = [job for job in jobs.values() if isinstance(job, PooledJob)]
    return next_end(waited_for, lambda key, _: patience.due(jobs[key], all_jobs), wait=wait)


@attrs.define
class Patience:
    """Limits on how long each prompt of a call may take, and be without news."""

    timeout: float | None
    stall_timeout: float | None
    #: When the last of this call ended on each server; ``None``: anywhere.
    _ends: dict[str | None, float] = attrs.field(factory=dict, init=False)

    def ended(self, job: PooledJob | ComfyError) -> None:
        """Note that a job has ended, whose result is about to be yielded."""
        server = job.server if isinstance(job, PooledJob) else None
        self._ends[server] = self._ends[None] = runtime.monotonic()

    def due(self, job: PooledJob | ComfyError, jobs: Iterable[PooledJob]) -> Iterator[Due]:
        """Yield the moments at which the wait for a job is over.

        Jobs of one call wait for each other: the time of one begins when another ends on its
        server, and news of any of them there counts.  As long as no server has the job, the ends
        and the news of all servers count.
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

    It takes 5 seconds at most.

    Returns:
        Those that were on a server; one that is on its way yet may get there later.
    """
    left = [job for job in jobs if not job.done() and not dispatcher.recall(job)]
    left = list(filter(dispatcher.has, left))  # Ctrl-C may have come before it was submitted
    deadline = Deadline.after(_LONGEST)
    taken: list[PooledJob] = []

    def take(there: list[PooledJob]) -> None:
        """Take back what a server has at once, and then what was on its way."""
        for until in (Deadline.after(_SOON), deadline):
            while any(map(_is_on_the_way, there)) and not until.expired:
                runtime.sleep(_LOOK)
            if deadline.expired:
                return
            for some in _by_server(job for job in there if prompt_of(job) is not None):
                ids = [job.prompt_id for job in some]
                if delete_pending(poller_of_job(some[0]), ids, deadline.left()):
                    taken.extend(itertools.filterfalse(_is_on_the_way, some))
            there = list(filter(_is_on_the_way, there))
            if not there:
                return

    servers = _by_server(left)
    try:  # all at once, since one that does not answer takes its time
        with runtime.ThreadPoolExecutor(max(1, len(servers))) as threads:
            list(threads.map(take, servers))
    except RuntimeError:  # no more threads, as when Python ends
        list(map(take, servers))
    return taken


def forsake(dispatcher: Dispatcher, jobs: Iterable[PooledJob]) -> None:
    """Move none of these jobs again; cancel those being sent, once their server has them."""
    for job in jobs:
        if not job.done():
            dispatcher.withdraw(job)


def _by_server(jobs: Iterable[PooledJob]) -> list[list[PooledJob]]:
    """Group the jobs that have not ended by server."""
    found: dict[str | None, list[PooledJob]] = {}
    for job in jobs:
        if not job.done():
            found.setdefault(job.server, []).append(job)
    return list(found.values())


def _is_on_the_way(job: PooledJob) -> bool:
    """Return whether it is being sent."""
    return not job.done() and state_of(job).accepted_at is None
