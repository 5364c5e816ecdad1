"""A grid of prompts, :meth:`ComfyApi.sweep`: in the best order, and to be carried on.

The server keeps what the nodes of the last prompt gave, so from one prompt to the next a
single value changes, and what feeds the most nodes changes the least.

With a journal each prompt has an id that follows from the journal's own, from its graph and
from how often that was tried.  It is on the disk before the prompt is sent, and its end as soon
as it is known: what any crash leaves open, the server can be asked.
"""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final

import attrs

from ..errors import (
    ApiError,
    ClientClosed,
    ComfyError,
    JobError,
    JobFailed,
    JobInterrupted,
    JobLost,
    JobTimeout,
    OutputsTooLarge,
    PromptRejected,
    UploadTooLarge,
    WorkflowError,
)
from ..jobs.job import Job, state_of
from ..jobs.output import OutputFrame
from ..jobs.poller import Poller
from ..jobs.result import Result, make_result
from ..jobs.running import Running
from ..jobs.submit import attach
from ..models import HistoryEntry, QueueItem
from ..recording.secrets import Secrets
from ..routes.prompts import EXTRA_DATA_KEY, AnyWorkflow
from ..showing.screen import Surface, surface
from ..transport.deadline import Deadline, limited_silence
from ..workflow.files import files_in
from ..workflow.graph import shorten
from ..workflow.seeds import put_drawn, seeds_of, wants_seeds
from .grid import Grid
from .journal import Journal, Key, Record
from .map import ATTEMPTS, Window, check_in_flight, is_about_one, patiently, went_away
from .row import SweepRow
from .rows import Sweep
from .watching import watched

log: logging.Logger = logging.getLogger("comfy_client")


def run_sweep(
    window: Window,
    workflow: AnyWorkflow,
    axes: Mapping[str, Iterable[Any]],
    *,
    in_flight: int,
    journal: str | os.PathLike[str] | None,
    retry_failed: bool,
    on_row: Callable[[SweepRow], object] | None,
    progress: bool | None,
    options: Mapping[str, Any],
) -> Sweep:
    """See :meth:`ComfyApi.sweep`."""
    check_in_flight(in_flight)
    grid = Grid(workflow, axes)
    screen = surface(progress)
    if screen == "notebook":
        options = {"preview_method": "auto", **options}
    sweeper = _Sweeper(grid, window, in_flight, on_row, options, screen)
    if journal is None:
        return sweeper.run()
    with Journal(journal, window.client.host) as file:
        sweeper.carry_on(file, retry_failed)
        return sweeper.run()


@attrs.frozen
class _Flight:
    """A prompt that is under way."""

    point: int
    begun: float | None = None  #: Monotonic; ``None``: another process submitted it.


class _Sweeper:
    """One sweep while it runs."""

    def __init__(
        self,
        grid: Grid,
        window: Window,
        in_flight: int,
        on_row: Callable[[SweepRow], object] | None,
        options: Mapping[str, Any],
        screen: Surface,
    ) -> None:
        self._client = window.client
        self._poller = window.poller
        self._grid = grid
        self._window = window
        self._in_flight = in_flight
        self._on_row = on_row
        self._options = options
        self._surface = screen
        self._make_room: Callable[[], None] = lambda: None  # on the screen, for others
        self._id = uuid.uuid4()
        self._journal: Journal | None = None
        self._keys: list[Key] = []  # of the points, with a journal
        self._recovery: _Recovery | None = None
        self._tries: Counter[int] = Counter()  # submissions of a point, in all processes
        self._withdrawn: dict[int, str] = {}  # by an earlier call: deleted, unless they ran
        self._told: set[int] = set()  # points that on_row has had
        self._lost: Counter[int] = Counter()  # of these forgotten by the server, in this one
        self._rows: dict[int, SweepRow] = {}
        self._todo = deque(grid.order())
        self._flights: dict[str, _Flight] = {}  # of the prompts in the window
        self._was_accepted = False  # the server has taken a prompt of this call
        self._secrets = Secrets()
        varied = [{axis.input: value} for axis in grid.axes for value in axis.values]
        self._secrets.add_named([grid.workflow(0).to_dict(), varied, options])

    def run(self) -> Sweep:
        try:
            with watched(self._surface, self._window, self._rows, len(self._grid)) as screen:
                self._make_room = screen.make_room
                self._run_all()
                rows = self._ended()
                screen.end(rows)
        except BaseException as exc:
            vars(exc)["rows"] = self._ended()
            if isinstance(exc, KeyboardInterrupt):
                self._say_what_ended()
                self._window.say_what_runs()
            raise
        finally:
            self._take_back()
        self._sum_up([row.error for row in rows if row.error is not None])
        return rows

    def _run_all(self) -> None:
        for point in sorted(self._rows.keys() - self._told):
            self._tell(self._rows[point])
        while self._todo or self._window:
            while self._todo and len(self._window) < self._in_flight:
                self._start(self._todo.popleft())
            if self._window:
                self._end(*self._window.next_end())
        self._ask_times_again()

    def _ended(self) -> Sweep:
        return Sweep(self._rows[point] for point in sorted(self._rows))

    def _say_what_ended(self) -> None:
        if self._journal is None:
            log.warning(
                "%d of %d rows had ended; the exception has them as its rows; with a journal= the "
                "same call would carry on",
                len(self._rows),
                len(self._grid),
            )

    def _take_back(self) -> None:
        self._window.withdraw()
        for prompt_id in self._window.withdrawn:
            if prompt_id in self._flights:
                self._write_withdrawn(self._flights[prompt_id].point)

    def _sum_up(self, errors: list[ComfyError]) -> None:
        """Whoever does not look at the rows is to know."""
        if errors:
            kinds = Counter(type(error).__name__ for error in errors)
            log.warning(
                "%d of %d rows failed: %s; the first: %s",
                len(errors),
                len(self._grid),
                ", ".join(f"{number} {kind}" for kind, number in kinds.most_common()),
                shorten(self._secrets.hide_text(str(errors[0])), 300),
            )

    # -- a journal that was begun before --------------------------------------------------

    def carry_on(self, journal: Journal, retry_failed: bool) -> None:
        """Take from a journal what has ended, and what is under way."""
        self._journal = journal
        self._id = journal.id
        self._keys = self._all_keys()
        if journal.is_new:
            return
        records = journal.records(frozenset(self._keys))
        open_points: dict[int, Record] = {}
        try:
            for point, key in enumerate(self._keys):
                if key in records:
                    self._restore(point, records[key], open_points, retry_failed)
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            raise ValueError(f"{journal.path} is damaged: {exc!r}") from None
        elsewhere = Counter(records[self._keys[point]].host for point in self._rows)
        del elsewhere[self._client.host]
        for host, number in elsewhere.items():
            log.warning(
                "%d of the rows in %s ran on %s; their files are not fetched from %s",
                number,
                journal.path,
                host,
                self._client.host,
            )
        self._todo = deque(point for point in self._todo if point not in self._rows)
        if not self._todo:
            return
        self._recovery = _Recovery(
            self._client,
            self._poller,
            {
                *(record.prompt_id for record in open_points.values()),
                *self._withdrawn.values(),
                *(self._next_id(point) for point in self._todo),
            },
        )
        self._window.is_patient = True
        for point, record in open_points.items():
            self._todo.remove(point)
            # One that was sent a moment ago may be on its way yet.
            age = time.time() - record.sent_at
            look_up = self._poller.timing.look_up
            lost_delay = None if age > look_up else look_up
            found = self._recovery.queued.get(record.prompt_id, record.prompt_id)
            self._attach(point, found, lost_delay=lost_delay)

    def _all_keys(self) -> list[Key]:
        """Of points with equal graphs, the first has the first row, and so on."""
        targets = self._options.get("partial_execution_targets")
        what = "" if targets is None else "".join(f" {name}" for name in sorted(map(str, targets)))
        seen: Counter[str] = Counter()
        keys = []
        for point in range(len(self._grid)):
            digest = self._grid.digest(point) + what
            seen[digest] += 1
            keys.append((digest, seen[digest]))
        return keys

    def _restore(
        self, point: int, record: Record, open_points: dict[int, Record], retry_failed: bool
    ) -> None:
        self._tries[point] = record.tries
        if record.result is None and record.error is None:
            if record.withdrawn:
                self._withdrawn[point] = record.prompt_id
            else:
                open_points[point] = record
            return
        if record.error is not None and (retry_failed or record.error["kind"] in _REFUSALS):
            return  # what was refused never ran
        self._rows[point] = self._row_of(point, record)
        if record.told:
            self._told.add(point)

    # -- one point ------------------------------------------------------------------------

    def _next_id(self, point: int) -> str:
        tries = self._tries[point] + 1
        if self._journal is None:
            return str(uuid.uuid5(self._id, f"{point}/{tries}"))
        digest, occurrence = self._keys[point]
        return str(uuid.uuid5(self._id, f"{digest}/{occurrence}/{tries}"))

    def _start(self, point: int) -> None:
        withdrawn = self._withdrawn.pop(point, None)
        if self._recovery and withdrawn and (ran := self._recovery.find(withdrawn)):
            self._attach(point, ran)
            return
        prompt_id = self._next_id(point)
        self._tries[point] += 1
        if self._journal is not None:
            self._journal.sent(self._keys[point], prompt_id, self._tries[point], time.time())
        known = self._recovery and self._recovery.find(prompt_id)
        if known:
            self._attach(point, known)
            return
        self._flights[prompt_id] = _Flight(point, time.monotonic())
        try:
            job = self._window.submit(prompt_id, self._grid.workflow(point), self._options)
        except ComfyError as exc:
            del self._flights[prompt_id]
            if not is_about_one(exc):
                self._write_withdrawn(point)  # it did not arrive
                raise
            row = SweepRow(point, self._grid.params(point), prompt_id, error=exc)
            if not self._was_accepted and not self._grid.may_cause(exc):
                self._write_end(row)
                exc.add_note("it is about no input of the grid, so the sweep ends here")
                raise
            self._settle(row)
            return
        self._was_accepted = True
        if self._journal is not None and job.prompt_id != prompt_id:  # a server before 0.3.45
            self._journal.accepted(self._keys[point], job.prompt_id)

    def _attach(self, point: int, prompt_id: str, *, lost_delay: float | None = None) -> None:
        self._flights[prompt_id] = _Flight(point)
        workflow = self._grid.workflow(point)
        graph = workflow.to_dict()
        if wants_seeds(graph) or files_in(graph):
            graph = {}  # the server's has those that were drawn, and the names of files
        names = workflow.output_names
        client, poller = self._client, self._poller
        job = attach(client, poller, prompt_id, graph, output_names=names, lost_delay=lost_delay)
        self._window.put(prompt_id, job)

    def _end(self, prompt_id: str, outcome: Result | ComfyError) -> None:
        if isinstance(outcome, ComfyError) and not is_about_one(outcome):
            raise outcome
        job = self._window.pop(prompt_id)
        if not isinstance(job, Job):  # close() in another thread has taken it back
            raise ClientClosed
        flight = self._flights.pop(prompt_id)
        point = flight.point
        # What an earlier call in this process has taken back, ends as interrupted.
        is_gone = isinstance(outcome, JobLost) or (
            isinstance(outcome, JobInterrupted) and state_of(job).cancelled
        )
        if is_gone and self._lost[point] < ATTEMPTS - 1:
            log.warning("%s; submitting it again", outcome)
            self._lost[point] += 1
            self._todo.appendleft(point)
            return
        result = outcome if isinstance(outcome, Result) else None
        ended = state_of(job).ended_at or time.monotonic()
        has_end = not (is_gone or isinstance(outcome, JobTimeout))
        self._settle(
            SweepRow(
                point,
                self._grid.params(point),
                job.prompt_id,
                result=result,
                error=None if isinstance(outcome, Result) else outcome,
                seconds=None if flight.begun is None else ended - flight.begun,
                execution_seconds=self._execution_seconds(job) if has_end else None,
                cached=None if result is None else len(result.cached_nodes),
            )
        )

    def _execution_seconds(self, job: Job) -> float | None:
        """By the server's clock; the record is written a moment after the end is told."""
        took = state_of(job).took
        if took is not None:
            return took
        try:
            with limited_silence(self._poller.timing.row):  # its end is to be written down
                entry = self._client.get_history(job.prompt_id)
        except ComfyError as exc:
            log.debug("no times of prompt %s: %s", job.prompt_id, exc)
            return None
        return None if entry is None else _ran_for(entry)

    def _settle(self, row: SweepRow) -> None:
        self._write_end(row)
        self._rows[row.index] = row
        self._tell(row)

    def _tell(self, row: SweepRow) -> None:
        if self._on_row is not None:
            self._make_room()
            self._on_row(row)
            if self._journal is not None:
                self._journal.told(self._keys[row.index])

    def _ask_times_again(self) -> None:
        """A busy server may write its history later than a row can wait for it."""
        missing = [
            row
            for row in self._rows.values()
            if (row.result is not None or isinstance(row.error, JobFailed | JobInterrupted))
            and row.execution_seconds is None
            and not row.from_journal
        ]
        deadline = Deadline.after(self._poller.timing.rows)
        while missing and (left := deadline.left()) > 0:
            row = missing.pop(0)
            try:
                with limited_silence(left):
                    entry = self._client.get_history(row.prompt_id)
            except ComfyError as exc:
                log.debug("no times of prompt %s: %s", row.prompt_id, exc)
                return
            if entry is None:
                missing.append(row)
                self._poller.tracker.wake.wait_stopped(0.05)
                continue
            seconds = _ran_for(entry)
            if seconds is None:
                return  # a server that tells none
            self._rows[row.index] = attrs.evolve(row, execution_seconds=seconds)
            if self._journal is not None:
                self._journal.ran(self._keys[row.index], seconds)

    # -- rows of the journal ----------------------------------------------------------------

    def _write_end(self, row: SweepRow) -> None:
        """The params are left out: they are in the grid, and may be anybody's secrets."""
        if self._journal is None:
            return
        self._poller.tracker.http.identity.add_secrets_to(
            self._secrets
        )  # now: they may have changed
        self._journal.ended(
            self._keys[row.index],
            row.prompt_id,
            seconds=row.seconds,
            execution_seconds=row.execution_seconds,
            result=None if row.result is None else self._result_record(row.index, row.result),
            error=None if row.error is None else _error_record(row.error, self._secrets.hide_text),
        )

    def _write_withdrawn(self, point: int) -> None:
        if self._journal is None:
            return
        try:
            self._journal.withdrawn(self._keys[point])
        except OSError as exc:  # the error that is on its way says more
            log.warning("the next call will look for prompts that never came: %s", exc)

    def _result_record(self, point: int, result: Result) -> dict[str, Any]:
        said = {
            "outputs": {node.node_id: node.raw for node in result.nodes.values()},
            "node_errors": result.node_errors,
        }
        given = seeds_of(self._grid.workflow(point).to_dict())
        drawn = {key: seed for key, seed in result.seeds.items() if given.get(key) != seed}
        facts = {
            "cached_nodes": result.cached_nodes,
            "fully_cached": result.fully_cached,
            # Pictures that came over the socket are in no file.
            "complete": result.complete
            and not any(isinstance(file, OutputFrame) for file in result.files),
        }
        seeds = {"seeds": drawn} if drawn else {}  # values of the grid stay out
        return {**_each_text(said, self._words_hidden), **facts, **seeds}

    def _row_of(self, point: int, record: Record) -> SweepRow:
        row = SweepRow(
            point,
            self._grid.params(point),
            record.prompt_id,
            seconds=record.seconds,
            execution_seconds=record.execution_seconds,
            from_journal=True,
        )
        if record.error is not None:
            return attrs.evolve(row, error=_error_of(record.error, record.prompt_id))
        facts = dict(record.result or {})
        facts["cached_nodes"] = tuple(facts["cached_nodes"])
        workflow = self._grid.workflow(point)
        graph = workflow.to_dict()
        outputs, drawn = facts.pop("outputs"), facts.pop("seeds", {})
        put_drawn(graph, drawn)
        # By the same names another server has other pictures.
        files = self._client if record.host == self._client.host else None
        names = workflow.output_names
        result = make_result(
            record.prompt_id,
            graph,
            outputs,
            files=files,
            output_names=names,
            seeds=seeds_of(graph) | drawn,
            seconds=record.execution_seconds,
            **facts,
        )
        return attrs.evolve(row, result=result, cached=len(result.cached_nodes))

    def _words_hidden(self, text: str) -> str:
        """What came out is to stay what it is, so here nothing is guessed."""
        data = text.encode("utf-8", "surrogatepass")
        return self._secrets.hide_bytes(data).decode("utf-8", "surrogatepass")


class _Recovery:
    """What the server knows of the prompts of an earlier process.

    Whatever a journal has lost, nothing runs twice: each prompt is looked for before it is
    sent.  What was in neither the queue at the beginning nor the history later, never came.
    """

    def __init__(self, client: Running, poller: Poller, prompt_ids: Collection[str]) -> None:
        self._client = client
        self._poller = poller
        queue = client.get_queue()
        records: list[QueueItem | HistoryEntry] = [*queue.running, *queue.pending]
        #: The server's ids by ours.
        self.queued: dict[str, str] = {}
        if not client.get_features():  # before 0.3.45 servers chose the ids
            records += client.get_histories(None).values()
            # Whose they are, the client_id beside the mark would tell; it was another process's.
            for record in records:
                mark = record.extra_data.get(EXTRA_DATA_KEY)
                if isinstance(mark, str) and mark in prompt_ids:
                    self.queued[mark] = record.prompt_id
        for record in records:  # which counts more
            if record.prompt_id in prompt_ids:
                self.queued[record.prompt_id] = record.prompt_id

    def find(self, prompt_id: str) -> str | None:
        """Under which id the server has it, if it has it."""
        if prompt_id in self.queued:
            return self.queued[prompt_id]
        entry = patiently(self._poller, lambda: self._client.get_history(prompt_id), went_away)
        return prompt_id if entry else None


def _ran_for(entry: HistoryEntry) -> float | None:
    started, ended = entry.started, entry.ended
    return None if started is None or ended is None else ended - started


# -- errors and JSON ----------------------------------------------------------------------

_JOB_ERRORS: Final = {
    kind.__name__: kind
    for kind in (JobFailed, JobInterrupted, JobLost, JobTimeout, OutputsTooLarge)
}
#: Of the submission: nothing ran.
_REFUSALS: Final = {
    kind.__name__ for kind in (ApiError, PromptRejected, WorkflowError, UploadTooLarge)
}
#: Facts of an error that are names of the protocol, and no text.
_NAMES: Final = {"node_id", "class_type", "exception_type"}
#: What a file of an output is found by.
_FILE: Final = {"filename", "subfolder", "type"}


def _error_record(error: ComfyError, hide: Callable[[str], str]) -> dict[str, Any]:
    """Message and what names the place; what the node was given stays out."""
    facts: dict[str, Any] = {
        name: hide(value) if isinstance(value, str) and name not in _NAMES else value
        for name, value in vars(error).items()
        if isinstance(error, JobError) and name != "prompt_id" and isinstance(value, str | None)
    }
    if isinstance(error, JobTimeout):
        facts["stalled"] = error.stalled
    return {"kind": type(error).__name__, "message": hide(str(error)), "facts": facts}


def _error_of(record: Mapping[str, Any], prompt_id: str) -> ComfyError:
    kind = _JOB_ERRORS.get(record["kind"], JobError)
    return kind(record["message"], prompt_id=prompt_id, **record["facts"])


def _each_text(value: Any, change: Callable[[str], str]) -> Any:
    """Names of files stay what they are."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        kept = _FILE if isinstance(value.get("filename"), str) else ()
        return {
            name: each if name in kept else _each_text(each, change) for name, each in value.items()
        }
    if isinstance(value, list):
        return [_each_text(each, change) for each in value]
    return value
