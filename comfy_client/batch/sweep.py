"""The loop of :meth:`ComfyApi.sweep`, which runs a grid of prompts and resumes after a crash.

The server caches the outputs of the last prompt's nodes.  So a single value changes from one
prompt to the next, and the inputs that feed the most nodes change the least.

With a journal, the id of each prompt is computed from the journal's own id, the graph and the
number of tries.  The id is written to the disk before the prompt is sent, and the prompt's end as
soon as it is known.  So the server can be asked about everything that a crash leaves open.

Execution times of rows are by the clocks of the servers.
"""

from __future__ import annotations

import logging
import os
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import attrs

from .. import runtime
from ..errors import (
    ClientClosed,
    ComfyError,
    JobError,
    JobFailed,
    JobInterrupted,
    JobLost,
    JobTimeout,
    NotSupported,
    SubmitUncertain,
)
from ..interrupts import was_stopped
from ..jobs.job import Job
from ..jobs.outcomes import lost_error
from ..jobs.result import Result
from ..jobs.wait_bars import Count, shown_count
from ..log_records import AnyLog, prompt_facts
from ..models import HistoryEntry
from ..recording.secrets import Secrets
from ..showing.screen import Surface, surface
from ..transport.deadline import Deadline, limited_silence
from ..workflow.edit import AnyWorkflow
from ..workflow.graph import shorten
from .grid import Grid, Split
from .journal import Journal, Key, Record
from .map_loop import ATTEMPTS, InFlight, check_in_flight, is_about_one, with_previews
from .row import REFUSALS, SweepRow, error_record, result_record, row_of
from .rows import Sweep
from .runner import EarlierPrompt, Flight, Runner, Verdict

log: logging.Logger = logging.getLogger("comfy_client")


def run_sweep(
    make_runner: Callable[[Grid], Runner],
    workflow: AnyWorkflow,
    axes: Mapping[str, Iterable[Any]],
    *,
    in_flight: int | None,
    journal: str | os.PathLike[str] | None,
    retry_failed: bool,
    on_row: Callable[[SweepRow], object] | None,
    progress: bool | None,
    options: Mapping[str, Any],
) -> Sweep:
    """Run a sweep: see :meth:`ComfyApi.sweep`.

    If ``in_flight`` is None, the runner decides how many prompts are in progress at a time.
    """
    if in_flight is not None:
        check_in_flight(in_flight)
    grid = Grid(workflow, axes)
    options = with_previews(options, progress)
    sweeper = _Sweeper(grid, make_runner(grid), in_flight, on_row, options, surface(progress))
    if journal is None:
        return sweeper.run()
    with Journal(journal) as file:
        sweeper.carry_on(file, retry_failed)
        return sweeper.run()


def _count(prompts: InFlight, rows: Mapping[int, SweepRow], total: int) -> Count:
    """Return the counts that the progress bar of a sweep shows."""

    def ended() -> tuple[int, int]:
        return len(rows), sum(row.error is not None for row in list(rows.values()))

    return Count(
        total=total,
        ended=ended,
        running=lambda: [*prompts.jobs.values()],
        trouble=lambda: prompts.trouble,
        notes=prompts.notes,
    )


def _outcome(rows: Sweep) -> dict[str, str]:
    from ..showing.cells import render_outcome  # for notebooks only

    return render_outcome(rows, rows.gallery)


def _shows_error(rows: Sweep) -> bool:
    """Return whether a notebook has drawn a row that failed."""
    from ..showing.cells import is_full, was_shown

    if not was_shown(rows) or is_full():
        return False
    from .sheet import MOST_ROWS  # for notebooks only

    return any(row.error is not None for row in rows[:MOST_ROWS])


def _log_ended(log: AnyLog, count: int, of: int) -> None:
    log.warning(
        "%d of %d rows had ended; the exception has them as its rows; with a journal= the same "
        "call would carry on",
        count,
        of,
    )


def _log_failures(log: AnyLog, rows: Sweep, secrets: Secrets) -> None:
    """Log how many rows failed, as the caller may not check them, and why, unless that is shown."""
    errors = [row.error for row in rows if row.error is not None]
    if errors:
        kinds = Counter(type(error).__name__ for error in errors)
        log.warning(
            "%d of %d rows failed: %s%s",
            len(errors),
            len(rows),
            ", ".join(f"{number} {kind}" for kind, number in kinds.most_common()),
            ""
            if _shows_error(rows)
            else f"; the first: {shorten(secrets.hide_text(str(errors[0])), 300)}",
        )


class _Sweeper:
    """A running sweep."""

    def __init__(
        self,
        grid: Grid,
        runner: Runner,
        in_flight: int | None,
        on_row: Callable[[SweepRow], object] | None,
        options: Mapping[str, Any],
        screen: Surface,
    ) -> None:
        self._grid = grid
        self._runner = runner
        self._prompts = runner.prompts
        self._in_flight = in_flight
        self._on_row = on_row
        self._options = options
        self._surface = screen
        self._make_room: Callable[[], None] = lambda: None  # clears the bar for other output
        self._id = uuid.uuid4()
        self._journal: Journal | None = None
        self._keys: list[Key] = []  # the points' keys in the journal, if there is one
        self._tries: Counter[int] = Counter()  # by point; counts those of other processes, too
        self._open: dict[int, Record] = {}  # earlier prompts that may run, or have run
        self._withdrawn: dict[int, Record] = {}  # earlier prompts, deleted unless they ran
        self._sought: dict[str, EarlierPrompt] = {}  # all prompts of earlier calls, by id
        self._told: set[int] = set()  # points whose rows on_row has received
        self._lost: Counter[int] = Counter()  # how many prompts of each point were forgotten
        self._rows: dict[int, SweepRow] = {}
        self._todo = Split((), {}, grid.cost)
        self._flights: dict[str, Flight] = {}  # the prompts in flight, by their keys
        self._was_accepted = False  # a server has taken a prompt of this call
        self._secrets = Secrets()
        varied = [{axis.input: value} for axis in grid.axes for value in axis.values]
        self._secrets.add_named([grid.workflow(0).to_dict(), varied, options])

    def run(self) -> Sweep:
        try:
            show = self._runner.poller.timing.show
            count = _count(self._prompts, self._rows, len(self._grid))
            with shown_count(self._surface, "sweep", show, count) as screen:
                self._make_room, self._prompts.tick = screen.make_room, screen.tick
                self._run_all()
                rows = self._ended_rows()
                screen.end(partial(_outcome, rows))
        except BaseException as exc:
            vars(exc)["rows"] = self._ended_rows()
            if was_stopped(exc):
                if self._journal is None:
                    _log_ended(self._runner.log, len(self._rows), len(self._grid))
                self._prompts.say_what_runs()
            raise
        finally:
            self._take_back()
        _log_failures(self._runner.log, rows, self._secrets)
        return rows

    def _run_all(self) -> None:
        for point in sorted(self._rows.keys() - self._told):
            self._tell(self._rows[point])
        order = [point for point in self._grid.order() if point not in self._rows]
        todo = [point for point in order if point not in self._open]
        self._todo = Split(todo, self._runner.weights, self._grid.cost)
        self._refuse_impossible()
        for point in order:
            if point in self._open:
                self._look_up(point, self._open[point])
        while self._todo or self._prompts:
            self._fill()
            if not self._prompts:
                self._refuse_impossible()
                if self._todo:
                    self._runner.pause()
            elif (end := self._prompts.look()) is not None:
                self._end(*end)
        self._ask_for_late_times()

    def _fill(self) -> None:
        """Give each free server its next point."""
        for prompt_id in self._runner.recall(needed=not self._todo):
            self._put_back(prompt_id)
        while (found := self._choose()) is not None and self._start(*found):
            pass

    def _choose(self) -> tuple[int, str] | None:
        if self._in_flight is not None and len(self._prompts) >= self._in_flight:
            return None
        return self._runner.choose(self._todo)

    def _put_back(self, prompt_id: str) -> None:
        """Put the point of a prompt that certainly never ran back among the points to run."""
        self._prompts.drop(prompt_id)
        flight = self._flights.pop(prompt_id)
        if flight.begun is not None:
            self._note_return(flight.point)
        self._todo.put_back(flight.point, flight.host)

    def _move(self, prompt_id: str, error: ComfyError, *, keeps_id: bool) -> None:
        """Let a server run a prompt's point, under a new id unless the prompt never ran."""
        if not isinstance(error, JobError):
            self._put_back(prompt_id)
            return
        self._prompts.pop(prompt_id)
        flight = self._flights.pop(prompt_id)
        self._todo.put_back(flight.point, flight.host)
        self._tries[flight.point] -= keeps_id

    def _ended_rows(self) -> Sweep:
        return Sweep(self._rows[point] for point in sorted(self._rows))

    def _take_back(self) -> None:
        self._prompts.withdraw()
        for prompt_id in self._prompts.withdrawn:
            if prompt_id in self._flights:
                self._note_withdrawal(self._flights[prompt_id].point)

    # -- a journal that was begun before --------------------------------------------------

    def carry_on(self, journal: Journal, retry_failed: bool) -> None:
        """Take ended rows from a journal, and look for prompts that it lists as in progress."""
        self._journal = journal
        self._id = journal.id
        self._keys = _keys_of(self._grid, self._options)
        if journal.is_new:
            return
        records = journal.records(frozenset(self._keys))
        try:
            for point, key in enumerate(self._keys):
                if key in records:
                    self._restore(point, records[key], retry_failed)
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            raise ValueError(f"{journal.path} is damaged: {exc!r}") from None
        _warn_of_other_hosts(self._rows.values(), self._runner, journal.path)
        rest = [point for point in range(len(self._grid)) if point not in self._rows]
        if rest:
            makers = {self._next_id(point): partial(self._grid.workflow, point) for point in rest}
            next_ones = {ours: EarlierPrompt(make) for ours, make in makers.items()}
            self._runner.recover({**next_ones, **self._sought}, self._rows.values())

    def _restore(self, point: int, record: Record, retry_failed: bool) -> None:
        self._tries[point] = record.tries
        if record.result is None and record.error is None:
            if record.host:
                can_ask = self._home(record.host) is not None
                ours = _id_of(self._id, self._keys[point], record.tries)
                make = partial(self._grid.workflow, point)
                self._sought[ours] = EarlierPrompt(make, record.prompt_id)
                record = attrs.evolve(record, prompt_id=ours)
                (self._withdrawn if record.withdrawn and can_ask else self._open)[point] = record
            return
        if record.error is not None and (retry_failed or record.error["kind"] in REFUSALS):
            return  # a refused prompt never ran
        row = SweepRow(point, self._grid.params(point), record.prompt_id)
        files = self._runner.clients.get(record.host)
        self._rows[point] = row_of(row, record, self._grid.workflow(point), files)
        if record.told:
            self._told.add(point)

    def _home(self, host: str) -> str | None:
        """Return the server to ask for prompts that were sent to ``host``, if there is one."""
        return host if host in self._runner.clients else self._runner.fallback_host

    def _look_up(self, point: int, record: Record) -> None:
        """Look for a prompt that, according to the journal, was sent and has not ended."""
        home = self._home(record.host)
        if home is not None:
            # A prompt that was just sent may still be on its way.
            look_up = self._runner.poller.timing.look_up
            lost_delay = None if runtime.wall_time() - record.sent_at > look_up else look_up
            self._attach(Flight(record.prompt_id, point, home), lost_delay)
        elif self._runner.reruns:
            self._todo.put_back(point, record.host)
        else:
            why = f"lost: {record.host} may have run it, and is not in the pool"
            error = lost_error(record.prompt_id, why)
            row = self._error_row(point, record.prompt_id, error, record.host)
            self._settle(row, is_known=False)

    # -- one point ------------------------------------------------------------------------

    def _next_id(self, point: int) -> str:
        tries = self._tries[point] + 1
        if self._journal is None:
            return str(uuid.uuid5(self._id, f"{point}/{tries}"))
        return _id_of(self._id, self._keys[point], tries)

    def _start(self, point: int, host: str) -> bool:
        """Submit a point, or attach to its earlier prompt; return whether more can be sent now."""
        try:
            return self._attach_earlier(point) or self._submit(point, host)
        except JobTimeout as exc:  # the server is away; go back to the prompts in flight
            self._settle(self._error_row(point, exc.prompt_id, exc, host), is_known=False)
            return False

    def _attach_earlier(self, point: int) -> bool:
        """Attach to a point's prompt from an earlier call; return whether a server has one."""
        withdrawn = self._withdrawn.pop(point, None)
        if withdrawn is not None and self._attach_found(point, withdrawn.prompt_id, withdrawn.host):
            return True
        return self._journal is not None and self._attach_found(point, self._next_id(point))

    def _submit(self, point: int, host: str) -> bool:
        """Submit a point; return False if its server cannot have it."""
        prompt_id = self._next_id(point)
        flight = Flight(prompt_id, point, host, self._tries[point] + 1)
        self._flights[prompt_id] = flight
        workflow = self._grid.workflow(point)
        try:
            job = self._runner.submit(flight, workflow, self._options, self._note_sent)
        except ComfyError as exc:
            del self._flights[prompt_id]
            if isinstance(exc, JobTimeout):
                self._note_return(point)
                raise
            if not is_about_one(exc):
                self._note_withdrawal(point)  # the prompt did not arrive
                raise
            self._settle_refusal(flight, exc)
            return True
        if job is None:
            del self._flights[prompt_id]
            self._todo.put_back(point, host)
            return False
        self._was_accepted |= job.handle.state.accepted_at is not None
        if self._journal is not None and job.prompt_id != prompt_id:  # a server before 0.3.45
            self._journal.note_id(self._keys[point], job.prompt_id)
        return True

    def _note_sent(self, flight: Flight) -> None:
        """Record that a prompt is about to be sent; any thread may call this."""
        if self._journal is not None:
            key = self._keys[flight.point]
            now = runtime.wall_time()
            self._journal.note_sent(key, flight.host, flight.prompt_id, flight.tries, now)
        self._tries[flight.point] = flight.tries
        flight.begun = runtime.monotonic()

    def _attach_found(self, point: int, prompt_id: str, home: str | None = None) -> bool:
        """Attach to a prompt if a server has it; return whether one has."""
        found = self._runner.find(prompt_id, home)
        if found is None:
            return False
        host, known = found
        if home is None:
            self._note_sent(Flight(prompt_id, point, host, self._tries[point] + 1))
        self._attach(Flight(known, point, host, was_taken_back=home is not None))
        return True

    def _attach(self, flight: Flight, lost_delay: float | None = None) -> None:
        self._flights[flight.prompt_id] = flight
        workflow, options = self._grid.workflow(flight.point), self._options
        self._runner.attach(flight, workflow, options, lost_delay)

    def _settle_refusal(self, flight: Flight, error: ComfyError) -> None:
        """Settle the row of a refused prompt, or raise the error if each point would get it."""
        row = self._error_row(flight.point, flight.prompt_id, error, flight.host)
        if not self._was_accepted and not self._grid.may_cause(error):
            self._note_end(row)
            error.add_note("no input of the grid is the cause, so the sweep ends here")
            raise error
        self._settle(row)

    def _refuse_impossible(self) -> None:
        refused = self._runner.find_impossible(self._todo)
        final = [error for error in refused.values() if not isinstance(error, JobTimeout)]
        if final and len(final) == len(self._grid):
            raise final[0]
        self._todo.drop(refused.keys())
        for point, error in refused.items():
            row = self._error_row(point, self._next_id(point), error)
            if isinstance(error, JobTimeout):
                error.prompt_id = row.prompt_id
            self._settle(row, is_known=not isinstance(error, JobTimeout))

    def _end(self, prompt_id: str, outcome: Result | ComfyError) -> None:
        flight = self._flights[prompt_id]
        verdict = self._runner.judge(flight, outcome)
        if verdict.moves and isinstance(outcome, ComfyError):
            self._move(prompt_id, outcome, keeps_id=verdict.keeps_id)
            return
        refusal = None if isinstance(outcome, Result | JobError) else outcome
        may_have_run = _may_have_run(flight, self._prompts.get(prompt_id), refusal)
        if refusal is not None and not is_about_one(refusal):
            if not verdict.may_move:
                raise refusal
            if not may_have_run:
                self._put_back(prompt_id)
                return
        entry = self._prompts.pop(prompt_id)
        if entry is None:  # close() in another thread has taken it back
            raise ClientClosed
        del self._flights[prompt_id]
        if isinstance(refusal, SubmitUncertain) or (refusal is not None and not may_have_run):
            self._settle_refusal(flight, refusal)
            return
        if refusal is not None:
            why = f"lost: {flight.host} may have run it, and cannot be asked: {refusal}"
            outcome = lost_error(prompt_id, why)
        if isinstance(outcome, JobInterrupted) and flight.tries and flight.begun is None:
            self._todo.put_back(flight.point, flight.host)  # the pool is being shut down
            return
        self._conclude(flight, entry, outcome, verdict, is_known=not may_have_run)

    def _conclude(
        self,
        flight: Flight,
        entry: Job | ComfyError,
        outcome: Result | ComfyError,
        verdict: Verdict,
        *,
        is_known: bool,
    ) -> None:
        """Settle the row of a prompt that a server had, or submit its point again.

        ``is_known`` is true if the server reported how the prompt ended.
        """
        self._was_accepted = True
        job = entry if isinstance(entry, Job) else None
        # A prompt that an earlier call in this process took back ends as "interrupted".
        was_taken_back = flight.was_taken_back or (job is not None and job.handle.state.cancelled)
        is_gone = isinstance(outcome, JobLost) or (
            isinstance(outcome, JobInterrupted) and was_taken_back
        )
        was_forgotten = is_known and (not isinstance(outcome, JobLost) or verdict.was_forgotten)
        point = flight.point
        may_run = self._lost[point] < ATTEMPTS - 1 and not verdict.is_poison
        if is_gone and may_run and (was_forgotten or self._runner.reruns):
            named = prompt_facts(flight.prompt_id, self._options.get("tags"))
            log.warning("%s; submitting it again", outcome, extra={**named, "server": flight.host})
            self._lost[point] += 1
            if not was_forgotten:
                verdict.cancel()
            self._todo.put_back(point, flight.host)
            return
        has_end = not (is_gone or isinstance(outcome, JobTimeout))
        took = (
            execution_time(self._runner, flight.host, job) if has_end and job is not None else None
        )
        row = _row_of(flight, self._grid.params(point), job, outcome, took)
        self._settle(row, is_known=was_forgotten)

    def _error_row(
        self, point: int, prompt_id: str, error: ComfyError, host: str | None = None
    ) -> SweepRow:
        return SweepRow(point, self._grid.params(point), prompt_id, error=error, host=host)

    def _settle(self, row: SweepRow, *, is_known: bool = True) -> None:
        """Record a row that has ended; unless ``is_known``, the next call asks about it again."""
        if is_known:
            self._note_end(row)
        self._rows[row.index] = row
        self._tell(row)

    def _tell(self, row: SweepRow) -> None:
        if self._on_row is not None:
            self._make_room()
            self._on_row(row)
            if self._journal is not None:
                self._journal.note_told(self._keys[row.index])

    def _ask_for_late_times(self) -> None:
        for row, seconds in late_times(self._runner, self._rows.values()):
            self._rows[row.index] = attrs.evolve(row, seconds=seconds)
            if self._journal is not None:
                self._journal.note_seconds(self._keys[row.index], seconds)

    # -- notes in the journal ---------------------------------------------------------------

    def _note_end(self, row: SweepRow) -> None:
        """Write the end of a row to the journal, without its params, which may be secrets."""
        if self._journal is None:
            return
        self._runner.add_secrets_to(self._secrets)  # now, as they may have changed
        workflow, secrets = self._grid.workflow(row.index), self._secrets
        self._journal.note_end(
            self._keys[row.index],
            row.host or "",
            row.prompt_id,
            seconds=row.waited,
            execution_seconds=row.seconds,
            result=None if row.result is None else result_record(row.result, workflow, secrets),
            error=None if row.error is None else error_record(row.error, secrets.hide_text),
        )

    def _note_return(self, point: int) -> None:
        if self._journal is not None:
            self._journal.note_return(self._keys[point])

    def _note_withdrawal(self, point: int) -> None:
        try:
            if self._journal is not None:
                self._journal.note_withdrawal(self._keys[point])
        except OSError as exc:  # the error that ended the sweep matters more
            self._runner.log.warning(
                "the next call will look for prompts that never arrived: %s", exc
            )


def _row_of(
    flight: Flight,
    params: Mapping[str, Any],
    job: Job | None,
    outcome: Result | ComfyError,
    took: float | None,
) -> SweepRow:
    """Return the row of a prompt that a server had; ``took`` is its execution time in seconds."""
    result = outcome if isinstance(outcome, Result) else None
    ended = (None if job is None else job.handle.state.ended_at) or runtime.monotonic()
    return SweepRow(
        flight.point,
        params,
        flight.prompt_id if job is None else job.prompt_id,
        result=result,
        error=None if isinstance(outcome, Result) else outcome,
        seconds=took,
        waited=None if flight.begun is None else ended - flight.begun,
        cached=None if result is None else len(result.cached_nodes),
        host=flight.host,
    )


def _may_have_run(flight: Flight, entry: Job | ComfyError | None, error: ComfyError | None) -> bool:
    """Return whether a prompt that ended with this error may have run on a server."""
    if error is None:
        return False
    if not flight.tries:  # an earlier call sent it
        return True
    if not isinstance(entry, Job):
        return False
    state = entry.handle.state
    is_on_the_way = isinstance(error, ClientClosed) and state.posted_at > 0
    return state.accepted_at is not None or is_on_the_way


def _id_of(journal: uuid.UUID, key: Key, tries: int) -> str:
    """Compute the id of a prompt, as an id stored in a stranger's journal could name any prompt."""
    digest, occurrence = key
    return str(uuid.uuid5(journal, f"{digest}/{occurrence}/{tries}"))


def _keys_of(grid: Grid, options: Mapping[str, Any]) -> list[Key]:
    """Return the journal keys of all points; equal graphs are numbered in order."""
    targets = options.get("partial_execution_targets")
    what = "" if targets is None else "".join(f" {name}" for name in sorted(map(str, targets)))
    seen: Counter[str] = Counter()
    keys = []
    for point in range(len(grid)):
        digest = grid.digest(point) + what
        seen[digest] += 1
        keys.append((digest, seen[digest]))
    return keys


def _warn_of_other_hosts(rows: Iterable[SweepRow], runner: Runner, path: Path) -> None:
    ours = runner.clients.keys()
    for host, number in Counter(row.host for row in rows).items():
        if host not in ours:
            runner.log.warning(
                "%d of the rows in %s ran on %s; their files are not fetched from %s",
                number,
                path,
                host,
                ", ".join(ours),
            )


def execution_time(runner: Runner, host: str, job: Job) -> float | None:
    """Return how many seconds a job ran, by the server's clock; None if it does not say in time."""
    took, client = job.handle.state.took, runner.clients.get(host)
    if took is not None or client is None:
        return took
    try:
        with limited_silence(runner.poller.timing.row):  # the journal waits for this
            entry = client.get_history(job.prompt_id)
    except NotSupported:  # a hosted server
        return job.handle.state.elapsed(runtime.monotonic())
    except ComfyError as exc:
        extra = {**job.handle.state.named, "server": host}
        log.debug("no times for prompt %s: %s", job.prompt_id, exc, extra=extra)
        return None
    return None if entry is None else _ran_for(entry)


def late_times(runner: Runner, rows: Iterable[SweepRow]) -> Iterator[tuple[SweepRow, float]]:
    """Yield rows without an execution time, each with the time that its server reports now."""
    missing = [
        row
        for row in rows
        if (row.result is not None or isinstance(row.error, JobFailed | JobInterrupted))
        and row.seconds is None
        and not row.from_journal
    ]
    poller, silent = runner.poller, set[str | None]()  # servers that report no times
    deadline = Deadline.after(poller.timing.rows)
    while missing and (left := deadline.left()) > 0:
        row = missing.pop(0)
        client = runner.clients.get(row.host or "")
        if client is None or row.host in silent:
            continue
        try:
            with limited_silence(left):
                entry = client.get_history(row.prompt_id)
        except ComfyError as exc:
            extra = {"server": row.host}
            log.debug("no times for prompt %s: %s", row.prompt_id, exc, extra=extra)
            silent.add(row.host)
            continue
        if entry is None:
            missing.append(row)
            poller.tracker.wake.wait_stopped(0.05)
            continue
        seconds = _ran_for(entry)
        if seconds is None:
            silent.add(row.host)
        else:
            yield row, seconds


def _ran_for(entry: HistoryEntry) -> float | None:
    started, ended = entry.started, entry.ended
    return None if started is None or ended is None else ended - started
