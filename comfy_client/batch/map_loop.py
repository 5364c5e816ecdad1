"""The loop of ``map``, for clients and pools, and the prompts of one call of it or of ``sweep``."""

from __future__ import annotations

import logging
import math
import uuid
import weakref
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sized
from functools import partial
from typing import Any, Final, Literal, cast

import attrs

from .. import runtime
from ..errors import (
    ApiError,
    ClientClosed,
    ComfyError,
    JobError,
    JobInterrupted,
    JobLost,
    JobTimeout,
    PromptRejected,
    SubmitUncertain,
    UploadTooLarge,
    WorkflowError,
)
from ..interrupts import in_full, interruption, was_stopped
from ..jobs.gallery import gallery
from ..jobs.handle import SLICE
from ..jobs.job import Job, cancel_in_time, wait_for_one
from ..jobs.result import Result
from ..jobs.wait_bars import Count, shown_count, surface_of
from ..reading import reading_until
from ..redaction import sealed, sealed_workflow
from ..showing.cells import show_lists
from ..showing.html import remark
from ..showing.screen import Surface
from ..transport.deadline import check_timeout
from ..workflow import Workflow
from ..workflow.definition_source import Definitions
from ..workflow.edit import AnyWorkflow, with_inputs
from ..workflow.load import is_source
from .items import Items
from .outage import Outage

#: Waits until one of the jobs has ended or something else happens, up to a number of seconds.
Wait = Callable[[Collection[Job], float], object]
#: Deletes prompts from the queues of their servers, unless they run; returns the deleted ones.
#: Maps the keys of prompts to their jobs; a prompt that is still being sent has none.
TakeBack = Callable[[Mapping[str, Job | None]], Iterable[str]]


@attrs.define(eq=False)
class InFlight:
    """The prompts of one call that are in progress, in the order of their submission.

    One thread works with them; another one may :meth:`withdraw` them when the client is closed.
    Each has a key, usually its id.

    Attributes:
        take_back: Called with the prompts that are left at the end.
        timeout: Seconds for each prompt; ``None``: no limit.
        stall_timeout: Seconds without any news; ``None``: no limit.
        server_of: Returns the server that has a job; ``None`` if none has, or there is only one.
        outage: The absence or the silence of the only server; ``None`` in a pool, which looks
            after its servers.
        silent_for: Returns the seconds for which no server of a pool that can run a job has
            answered anything; 0 if one has.
        longest: The most seconds that a thread waits while another one withdraws the prompts.
        notes: Returns lines for below the bar, such as one for each server.
        tick: Called again and again during a wait; returns the seconds until its next call.
        items: The source of the prompts, which is closed with them.
        earlier: The keys of prompts that another process sent.  Their time limits start once a
            server says that it has them.
        withdrawn: The keys of prompts that were deleted from a queue.
        is_closed: Whether the prompts were withdrawn.
    """

    take_back: TakeBack
    timeout: float | None = attrs.field(default=None, kw_only=True)
    stall_timeout: float | None = attrs.field(default=None, kw_only=True)
    server_of: Callable[[Job], str | None] = attrs.field(default=lambda _: None, kw_only=True)
    outage: Outage | None = attrs.field(default=None, kw_only=True)
    silent_for: Callable[[Job], float] = attrs.field(default=lambda _: 0.0, kw_only=True)
    longest: float = attrs.field(default=5.0, kw_only=True)
    notes: Callable[[], tuple[str, ...]] = attrs.field(default=tuple, kw_only=True)
    tick: Callable[[], float] | None = attrs.field(default=None, init=False)
    items: Items | None = attrs.field(default=None, init=False)
    earlier: set[str] = attrs.field(factory=set, init=False)
    withdrawn: list[str] = attrs.field(factory=list, init=False)
    is_closed: bool = attrs.field(default=False, init=False)
    #: The job of each key, or the error of its submission, or ``None`` while it is being sent.
    _entries: dict[str, Job | ComfyError | None] = attrs.field(factory=dict, init=False)
    _since: dict[str, float] = attrs.field(factory=dict, init=False)
    #: When a cancel last got no answer in time, by server; ``None``: the only server.
    _unheard: dict[str | None, float] = attrs.field(factory=dict, init=False)
    #: The keys of prompts whose end lets no other one run: no server had them, or it is silent.
    _in_vain: set[str] = attrs.field(factory=set, init=False)
    #: When a prompt last ended on each server, and under the key ``None`` on any server.
    _ends: dict[str | None, float] = attrs.field(factory=dict, init=False)
    #: Held by the first thread that withdraws.  Others wait, or they might close its connection.
    _withdrawal: runtime.Lock = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        check_timeout(self.timeout, self.stall_timeout)
        self._withdrawal = runtime.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    @property
    def jobs(self) -> dict[str, Job]:
        """The jobs in progress by key, without prompts that are still being sent."""
        return {key: entry for key, entry in self._entries.copy().items() if isinstance(entry, Job)}

    @property
    def trouble(self) -> str:
        """The reason for a delay of all jobs, in a few words; empty if there is none."""
        return "" if self.outage is None else self.outage.words

    def count_ended(self) -> tuple[int, int]:
        """Return the number of prompts that have ended, and the number that failed."""
        entries = [entry for entry in self._entries.copy().values() if _is_over(entry)]
        well = (isinstance(one, Job) and one.handle.status == "succeeded" for one in entries)
        return len(entries), len(entries) - sum(well)

    def results(self) -> list[Result]:
        """Return the results of the prompts that have succeeded."""
        jobs = (job for job in self.jobs.values() if job.done())
        return [result for job in jobs if (result := job.handle.result) is not None]

    def get(self, key: str) -> Job | ComfyError | None:
        """Return a prompt's job or the error of its submission, or None if there is neither."""
        return self._entries.get(key)

    def begin(self, key: str) -> None:
        """Add a prompt before it is sent, so that it is known if the request is interrupted."""
        self._entries[key] = None

    def put(self, key: str, entry: Job | ComfyError, since: float | None = None) -> None:
        """Set the job of a prompt, or the error of its submission.

        Its time limit starts at ``since``, on the monotonic clock; ``None``: now.
        """
        self._entries[key] = entry
        self._since[key] = runtime.monotonic() if since is None else since

    def rename(self, key: str, new: str) -> None:
        """Give a prompt a new key, under which it is about to be sent again."""
        renamed = {new if one == key else one: entry for one, entry in self._entries.items()}
        self._entries = {**renamed, new: None}
        self._since.pop(key, None)

    def pop(self, key: str) -> Job | ComfyError | None:
        """Remove a prompt whose end was handled; return its job or error, or None.

        Until then, an interrupted call must find it here.
        """
        entry = self._entries.get(key)
        server = self.server_of(entry) if isinstance(entry, Job) else None
        # What is refused by a silent server, without being sent, lets no other one run, either.
        if key not in self._in_vain and not (self.outage and self._is_silent(None)):
            self._ends[server] = self._ends[None] = runtime.monotonic()
        return self.drop(key)

    def drop(self, key: str) -> Job | ComfyError | None:
        """Remove a prompt without counting it as ended; return its job or error, or None."""
        self._since.pop(key, None)
        self._in_vain.discard(key)
        return self._entries.pop(key, None)

    def withdraw(self) -> None:
        """Delete pending prompts from the queues of servers; running prompts keep running.

        If another thread is already doing so, wait for it.
        """
        is_first = self._withdrawal.acquire(blocking=False)
        try:
            in_full([self._take_back_all, *([] if self.items is None else [self.items.close])])
        finally:
            acquire = self._withdrawal.acquire
            if is_first or runtime.in_slices(lambda left: acquire(timeout=left), self.longest):
                self._withdrawal.release()

    def _take_back_all(self) -> None:
        self.is_closed = True  # before the prompts are removed
        entries, self._entries = self._entries, {}
        left = {
            key: entry
            for key, entry in entries.items()
            if entry is None or (isinstance(entry, Job) and not entry.done())  # it may have arrived
        }
        if left:
            self.withdrawn.extend(self.take_back(left))

    def say_what_runs(self) -> None:
        """Log how to re-attach to prompts that keep running when the user stops the call."""
        for job in self.jobs.values():
            if job.status == "running":
                job.handle.warn_that_it_runs()

    # -- waiting -------------------------------------------------------------------------

    def look(
        self, *, ordered: bool = False, wait: Wait = wait_for_one
    ) -> tuple[str, Result | ComfyError] | None:
        """Wait briefly for a prompt to end; return its key and outcome, or None.

        With ``ordered``, only the first prompt counts.

        Raises:
            ClientClosed: Another thread has withdrawn the prompts.
            ServerUnreachable: The only server has been away for too long.
        """
        entries = self._entries.copy()  # close() in another thread may empty the original
        if not entries:
            raise ClientClosed
        if ordered:
            first = next(iter(entries))
            entries = {first: entries[first]}
        longest = SLICE if self.tick is None else min(SLICE, self.tick())
        ended = [key for key, entry in entries.items() if _is_over(entry)]
        if ended:  # results first, as an error may end the call
            key = next((key for key in ended if _has_result(entries[key])), ended[0])
            return key, _outcome(entries[key])
        jobs = {entry: key for key, entry in entries.items() if isinstance(entry, Job)}
        due = [one for job, key in jobs.items() for one in self._due(key, job)]
        now = runtime.monotonic()
        over = [one for one in due if one.at <= now]
        if over:
            # If several are due, take the running one: the others may still get their turn.
            first_up = next((one for one in over if one.job.status == "running"), over[0])
            key = jobs[first_up.job]
            return key, self._give_up(key, first_up)
        wait(jobs, min([longest, *(one.at - now for one in due)]))
        if self.outage is not None:
            self.outage.look()
        return None

    def _due(self, key: str, job: Job) -> Iterator[_Due]:
        """Yield the moments at which the wait for a prompt times out.

        Prompts of one call wait for each other: the time limit of a prompt starts again when
        another one ends on its server, and news of any prompt of the call there counts.  While no
        server has the prompt, the ends and the news of all servers count.  Once a cancel got no
        answer, no limit starts again while all servers that can run the prompt are silent, so all
        such prompts end together.
        """
        if key in self.earlier and job.status == "waiting":
            return
        server = self.server_of(job)
        ended_at = self._ends.get(server, 0.0)
        if self.timeout is not None:
            state = job.handle.state
            # The time of an attached prompt began when it was sent, if this process sent it.
            was_sent = state.attached and key not in self.earlier
            posted_at = 0.0 if was_sent else state.posted_at or state.news_at
            began = max(self._since[key], posted_at)
            since = max(min(began, self._heard_at(job)), ended_at)
            what = f"prompt {job.prompt_id} has not ended within {self.timeout:g} s"
            yield _Due(since + self.timeout, job, what)
        if self.stall_timeout is not None:
            others = self.jobs.values() if job.status != "running" else ()
            there = (one for one in others if server is None or self.server_of(one) == server)
            latest = max(ended_at, *(one.handle.news_at() for one in (job, *there)))
            what = f"no news of prompt {job.prompt_id} for {self.stall_timeout:g} s"
            yield _Due(latest + self.stall_timeout, job, what, stalled=True)

    def _heard_at(self, job: Job) -> float:
        """Return when a server that can run a job was last heard, if all such servers are silent.

        Infinity if one is not, or each cancel has got an answer.
        """
        silence = self.silent_for(job) if self._unheard else 0.0
        return runtime.monotonic() - silence if silence else math.inf

    def _is_silent(self, job: Job | None) -> bool:
        """Return whether a job's server has answered nothing since a cancel got no answer."""
        server = None if job is None else self.server_of(job)
        unheard_at = self._unheard.get(server)
        if unheard_at is None:
            return False
        if self.outage is not None:
            return bool(self.outage.silent_for)
        # A prompt that no server has is taken back without a request.
        if job is None or server is None:
            return False
        return job.handle.answered_at() <= unheard_at

    def _give_up(self, key: str, due: _Due) -> Result | ComfyError:
        """Cancel a job whose time is up, unless its server is silent.

        Return the error, or the outcome if the job has just ended.
        """
        job, why, server = due.job, due.job.why(), self.server_of(due.job)
        said: list[bool] = []
        if not self._is_silent(job):
            said = cancel_in_time([job])
            if said or job.done():
                self._unheard.pop(server, None)
            else:
                self._unheard[server] = runtime.monotonic()
        if job.done() and (said == [False] or not isinstance(job.exception(), JobInterrupted)):
            return _outcome(job)
        if not (said or job.done()) or (server is None and self.outage is None):
            self._in_vain.add(key)
        if said == [True] or job.done():
            what = "it was cancelled"
        elif not said:
            what = "it could not be cancelled, and may keep running"
        else:
            what = "the server knows nothing of it any more"
        words = f"{due.what} ({why}); {what}"
        return JobTimeout(words, prompt_id=job.prompt_id, stalled=due.stalled)


@attrs.frozen
class _Due:
    """The moment at which the wait for a job's end, or for news of it, times out."""

    at: float
    job: Job
    what: str  #: The complaint for the error message when the moment has passed.
    stalled: bool = False


def _is_over(entry: Job | ComfyError | None) -> bool:
    return isinstance(entry, ComfyError) or (entry is not None and entry.done())


def _has_result(entry: Job | ComfyError | None) -> bool:
    return isinstance(entry, Job) and entry.exception() is None


def _outcome(entry: Job | ComfyError | None) -> Result | ComfyError:
    """Return the result or error of a prompt that has ended; raise an error of another kind."""
    error = entry.exception() if isinstance(entry, Job) else entry
    if isinstance(entry, Job) and error is None:
        return entry.result()
    if isinstance(error, ComfyError):
        return error
    raise error or AssertionError("it was sent by now")


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
        if was_stopped(exc):
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
            raise  # an unrelated error, which interrupts the call, is raised immediately
        prompts.drop(key)  # for example, a file cannot be read
        if not (isinstance(exc, ComfyError) and keep and is_about_one(exc)):
            return exc
        prompts.put(key, exc)
    return None


#: The most errors that are shown.
_MOST_ERRORS: Final = 12


def are_results(values: list[Any]) -> bool:
    """Return whether a list has results, and else only errors of prompts.

    The first other element decides, and no element is asked for anything: a list may be long, or
    its elements lazy.
    """
    types = map(type, values)
    return all(issubclass(one, Result | ComfyError) for one in types) and any(
        issubclass(type(one), Result) for one in values
    )


def result_gallery(values: list[Any]) -> str:
    """Return the pictures and texts of results, then the errors, as HTML."""
    results = [one for one in values if isinstance(one, Result)]
    errors = [one for one in values if isinstance(one, ComfyError)]
    files = [file for one in results for file in one.files]
    texts = [text for one in results for text in one.texts]
    facts = [f"{len(results)} result{'' if len(results) == 1 else 's'}"]
    facts += [f"{len(errors)} failed"] if errors else []
    failed = (remark(f"{type(one).__name__}: {one}", "bad") for one in errors[:_MOST_ERRORS])
    return gallery(files, texts, facts=facts) + "".join(failed)
