"""A grid of prompts, :meth:`ComfyApi.sweep`: in the best order, and to be carried on.

The server keeps what the nodes of the last prompt gave, so from one prompt to the next a
single value changes, and what feeds the most nodes changes the least.

With a journal each prompt has an id that follows from the journal's own and its place in the
grid.  It is on the disk before the prompt is sent, and its end as soon as it is known: what
any crash leaves open, the server can be asked.
"""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

import attrs

from .deadline import patient
from .errors import (
    ApiError,
    ComfyError,
    JobError,
    JobFailed,
    JobInterrupted,
    JobLost,
    PromptRejected,
    SubmitUncertain,
    UploadTooLarge,
    WorkflowError,
)
from .job import Job
from .journal import Journal
from .many import (
    Window,
    check_in_flight,
    first_done,
    is_about_one,
    say_what_runs,
    submit_patiently,
    withdraw,
)
from .models import HistoryEntry, QueueItem
from .outputs import OutputFrame, Result, make_result
from .redaction import Secrets
from .routes.prompts import MARK, AnyWorkflow
from .submission import LOOK_UP
from .workflow.graph import seeds_of
from .workflow.grid import Grid

if TYPE_CHECKING:
    from .client import ComfyApi

log = logging.getLogger("comfy_client")

#: How often a point of a grid is submitted when the server forgets it.
ATTEMPTS: Final = 3
#: Seconds that the history may take to show an end that was told.
TIMES_GRACE: Final = 1.0

_KIND: Final = "sweep of comfy_client"
_VERSION: Final = 1


@attrs.frozen(eq=False)
class SweepRow:
    """One point of a grid, and what became of it: either a result or an error."""

    index: int  #: Its place in the grid.
    params: Mapping[str, Any]  #: Its values, by the names that the grid has.
    prompt_id: str
    result: Result | None = None
    #: ``JobFailed``, ``PromptRejected`` and whatever else concerns one prompt only.
    error: ComfyError | None = None
    #: From the submission to the end, the wait in the queue included.  ``None``: it was not
    #: submitted, or a process submitted it that saw no end of it.
    seconds: float | None = None
    #: Of these, how long it ran, by the server's clock.  ``None`` before July 2024, and when the
    #: server did not say soon.
    execution_seconds: float | None = None
    cached: int | None = None  #: Nodes that did not run again; ``None`` with an error.
    from_journal: bool = False  #: Its end was known already when the sweep began.


class Sweep(tuple[SweepRow, ...]):
    """The rows of a sweep, in the order of the grid."""

    __slots__ = ()

    def __repr__(self) -> str:
        failed = sum(row.error is not None for row in self)
        return f"<Sweep of {len(self)} rows, {failed} of them with an error>"

    def table(self) -> list[dict[str, Any]]:
        """A flat dict for each row, for ``csv.DictWriter`` or ``pandas.DataFrame``.

        The parameters by name, then ``files`` (their names on the server), ``seconds``,
        ``execution_seconds``, ``cached``, ``prompt_id`` and ``error`` (a text, or ``None``).
        """
        return [
            {
                **row.params,
                "files": [file.filename for file in row.result.files] if row.result else [],
                "seconds": row.seconds,
                "execution_seconds": row.execution_seconds,
                "cached": row.cached,
                "prompt_id": row.prompt_id,
                "error": None if row.error is None else str(row.error),
            }
            for row in self
        ]


def run_sweep(
    api: ComfyApi,
    workflow: AnyWorkflow,
    axes: Mapping[str, Iterable[Any]],
    *,
    in_flight: int,
    journal: str | os.PathLike[str] | None,
    retry_failed: bool,
    on_row: Callable[[SweepRow], object] | None,
    options: Mapping[str, Any],
) -> Sweep:
    """See :meth:`ComfyApi.sweep`."""
    check_in_flight(in_flight)
    grid = Grid(workflow, axes)
    sweeper = _Sweeper(api, grid, in_flight, on_row, options)
    if journal is None:
        return sweeper.run()
    head = {
        "journal": _KIND,
        "version": _VERSION,
        "id": str(uuid.uuid4()),
        "digest": grid.digest(),
        "points": len(grid),
        "host": api.host,
    }
    with Journal(journal, head) as file:
        sweeper.carry_on(file, head, retry_failed)
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
        api: ComfyApi,
        grid: Grid,
        in_flight: int,
        on_row: Callable[[SweepRow], object] | None,
        options: Mapping[str, Any],
    ) -> None:
        self._api = api
        self._grid = grid
        self._in_flight = in_flight
        self._on_row = on_row
        self._options = options
        self._id = uuid.uuid4()
        self._journal: Journal | None = None
        self._recovery: _Recovery | None = None
        self._tries: Counter[int] = Counter()  # submissions of a point, in all processes
        self._withdrawn: dict[int, str] = {}  # by an earlier call: deleted, unless they ran
        self._told: set[int] = set()  # points that on_row has had
        self._sent_at: dict[int, float] = {}  # by the clock on the wall, as processes share it
        self._lost: Counter[int] = Counter()  # of these forgotten by the server, in this one
        self._rows: dict[int, SweepRow] = {}
        self._todo = deque(grid.order())
        self._window: Window = {}
        self._flights: dict[str, _Flight] = {}  # of the same prompts
        self._is_patient = False  # the server has answered once
        self._secrets = Secrets()
        varied = [{axis.input: value} for axis in grid.axes for value in axis.values]
        self._secrets.add_named([grid.workflow(0).to_dict(), varied, options])

    def run(self) -> Sweep:
        try:
            for point in sorted(self._rows.keys() - self._told):
                self._tell(self._rows[point])
            while self._todo or self._window:
                while self._todo and len(self._window) < self._in_flight:
                    self._start(self._todo.popleft())
                if self._window:
                    self._end(first_done(self._window))
        except KeyboardInterrupt:
            if self._journal is None:
                log.warning(
                    "%d of %d rows had ended; with a journal= the same call would carry on",
                    len(self._rows),
                    len(self._grid),
                )
            say_what_runs(self._window)
            raise
        finally:
            for prompt_id in withdraw(self._api, self._window):
                point = self._flights[prompt_id].point
                self._write({"point": point, "withdrawn": prompt_id})
        return Sweep(self._rows[point] for point in range(len(self._grid)))

    # -- a journal that was begun before --------------------------------------------------

    def carry_on(self, journal: Journal, head: Mapping[str, Any], retry_failed: bool) -> None:
        """Take from a journal what has ended, and what is under way."""
        self._journal = journal
        then = journal.head
        if then.get("journal") != _KIND or then.get("version") != _VERSION:
            raise ValueError(f"{journal.path} is no journal of a sweep, or of a newer version")
        if then.get("digest") != head["digest"]:
            raise ValueError(
                f"{journal.path} is the journal of another sweep: workflow or grid have changed; "
                "give another file, or remove this one to begin anew"
            )
        if then.get("host") != head["host"]:
            log.warning(
                "%s was begun on %s; %s knows nothing of what ran there",
                journal.path,
                then.get("host"),
                head["host"],
            )
        open_ids: dict[int, str] = {}
        try:
            self._id = uuid.UUID(then["id"])
            for record in journal.records:
                self._restore(record, open_ids, retry_failed)
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            raise ValueError(f"{journal.path} is damaged: {exc!r}") from exc
        if then["id"] == head["id"]:
            return
        self._todo = deque(point for point in self._todo if point not in self._rows)
        if not self._todo:
            return
        next_ids = (self._next_id(point) for point in self._todo)
        self._recovery = _Recovery(
            self._api, {*open_ids.values(), *self._withdrawn.values(), *next_ids}
        )
        self._is_patient = True
        for point, prompt_id in open_ids.items():
            self._todo.remove(point)
            # One that was sent a moment ago may be on its way yet.
            age = time.time() - self._sent_at.get(point, 0.0)
            lost_apart = None if age > LOOK_UP else LOOK_UP
            found = self._recovery.queued.get(prompt_id, prompt_id)
            self._take_up(point, found, lost_apart=lost_apart)

    def _restore(
        self, record: Mapping[str, Any], open_ids: dict[int, str], retry_failed: bool
    ) -> None:
        point = record["point"]
        if type(point) is not int or not 0 <= point < len(self._grid):
            raise ValueError(f"there is no point {point!r}")
        if "told" in record:
            self._told.add(point)
            return
        if "withdrawn" in record:
            self._withdrawn[point] = str(record["withdrawn"])
            open_ids.pop(point, None)
            return
        if "result" in record or "error" in record:
            open_ids.pop(point, None)
            if "result" in record or not retry_failed:
                self._rows[point] = self._row_of(record)
            return
        if "sent" in record:
            self._tries[point] += 1
            self._sent_at[point] = float(record.get("at", 0.0))
            self._rows.pop(point, None)
            self._told.discard(point)
            self._withdrawn.pop(point, None)
        open_ids[point] = str(record.get("sent") or record["accepted"])

    # -- one point ------------------------------------------------------------------------

    def _next_id(self, point: int) -> str:
        return str(uuid.uuid5(self._id, f"{point}/{self._tries[point] + 1}"))

    def _start(self, point: int) -> None:
        withdrawn = self._withdrawn.pop(point, None)
        if self._recovery and withdrawn and (ran := self._recovery.find(withdrawn)):
            self._take_up(point, ran)
            return
        prompt_id = self._next_id(point)
        self._tries[point] += 1
        self._write({"point": point, "sent": prompt_id, "at": time.time()})
        known = self._recovery and self._recovery.find(prompt_id)
        if known:
            self._take_up(point, known)
            return
        self._flights[prompt_id] = _Flight(point, time.monotonic())
        self._window[prompt_id] = None  # Ctrl-C may come while it is sent
        try:
            job = submit_patiently(
                self._api,
                self._grid.workflow(point),
                patient=self._is_patient,
                prompt_id=prompt_id,
                **self._options,
            )
        except SubmitUncertain:  # ends when the server can tell
            self._window[prompt_id] = self._api.job(prompt_id, self._grid.workflow(point))
            return
        except ComfyError as exc:
            del self._window[prompt_id]  # it did not arrive
            if not is_about_one(exc):
                raise
            del self._flights[prompt_id]
            self._settle(SweepRow(point, self._grid.params(point), prompt_id, error=exc))
            return
        self._window[prompt_id] = job
        self._is_patient = True
        if job.prompt_id != prompt_id:  # a server before 0.3.45
            self._write({"point": point, "accepted": job.prompt_id})

    def _take_up(self, point: int, prompt_id: str, *, lost_apart: float | None = None) -> None:
        self._flights[prompt_id] = _Flight(point)
        graph = self._grid.workflow(point).to_dict()
        self._window[prompt_id] = self._api._jobs.take_up(prompt_id, graph, lost_apart=lost_apart)

    def _end(self, prompt_id: str) -> None:
        job = self._window[prompt_id]
        assert isinstance(job, Job)  # noqa: S101  errors are not kept here
        error = job.exception()
        if not (error is None or (isinstance(error, ComfyError) and is_about_one(error))):
            raise error
        flight = self._flights.pop(prompt_id)
        del self._window[prompt_id]
        point = flight.point
        # What an earlier call in this process has taken back, ends as interrupted.
        is_gone = isinstance(error, JobLost) or (
            isinstance(error, JobInterrupted) and job._known.cancelled
        )
        if is_gone and self._lost[point] < ATTEMPTS - 1:
            log.warning("%s; submitting it again", error)
            self._lost[point] += 1
            self._todo.appendleft(point)
            return
        result = job.result() if error is None else None
        ended = job._known.ended_at or time.monotonic()
        self._settle(
            SweepRow(
                point,
                self._grid.params(point),
                job.prompt_id,
                result=result,
                error=error,
                seconds=None if flight.begun is None else ended - flight.begun,
                execution_seconds=None if is_gone else _execution_seconds(self._api, job),
                cached=None if result is None else len(result.cached_nodes),
            )
        )

    def _settle(self, row: SweepRow) -> None:
        self._write(self._record_of(row))
        self._rows[row.index] = row
        self._tell(row)

    def _tell(self, row: SweepRow) -> None:
        if self._on_row is not None:
            self._on_row(row)
            self._write({"point": row.index, "told": True})

    # -- lines of the journal ---------------------------------------------------------------

    def _write(self, record: Mapping[str, Any]) -> None:
        if self._journal is not None:
            self._journal.write(record)

    def _record_of(self, row: SweepRow) -> dict[str, Any]:
        """The params are left out: they are in the grid, and may be anybody's secrets."""
        self._api._http.tell_secrets(self._secrets)  # now: they may have changed
        record = {
            "point": row.index,
            "prompt_id": row.prompt_id,
            "seconds": row.seconds,
            "execution_seconds": row.execution_seconds,
        }
        if row.error is not None:
            return {**record, "error": self._secrets.hide(_error_record(row.error))}
        result = row.result or Result()
        said = {
            "outputs": {node.node_id: node.raw for node in result},
            "node_errors": result.node_errors,
        }
        facts = {
            "cached_nodes": result.cached_nodes,
            "fully_cached": result.fully_cached,
            # Pictures that came over the socket are in no file.
            "complete": result.complete
            and not any(isinstance(file, OutputFrame) for file in result.files),
        }
        return {**record, "result": {**_each_text(said, self._words_hidden), **facts}}

    def _row_of(self, record: Mapping[str, Any]) -> SweepRow:
        point, prompt_id = record["point"], str(record["prompt_id"])
        row = SweepRow(
            point,
            self._grid.params(point),
            prompt_id,
            seconds=record["seconds"],
            execution_seconds=record["execution_seconds"],
            from_journal=True,
        )
        if "error" in record:
            return attrs.evolve(row, error=_error_of(record["error"], prompt_id))
        facts = dict(record["result"])
        facts["cached_nodes"] = tuple(facts["cached_nodes"])
        graph = self._grid.workflow(point).to_dict()
        outputs, seeds = facts.pop("outputs"), seeds_of(graph)
        result = make_result(prompt_id, graph, outputs, files=self._api, seeds=seeds, **facts)
        return attrs.evolve(row, result=result, cached=len(result.cached_nodes))

    def _words_hidden(self, text: str) -> str:
        """Names of files must stay what they are, so here nothing is guessed."""
        data = text.encode("utf-8", "surrogatepass")
        return self._secrets.hide_bytes(data).decode("utf-8", "surrogatepass")


class _Recovery:
    """What the server knows of the prompts of an earlier process.

    Whatever a journal has lost, nothing runs twice: each prompt is looked for before it is
    sent.  What was in neither the queue at the beginning nor the history later, never came.
    """

    def __init__(self, api: ComfyApi, prompt_ids: Collection[str]) -> None:
        self._api = api
        queue = api.get_queue()
        records: list[QueueItem | HistoryEntry] = [*queue.running, *queue.pending]
        if not api.get_features():  # before 0.3.45 servers chose the ids
            records += api.get_histories(None).values()
        #: The server's ids by ours.
        self.queued: dict[str, str] = {}
        for record in records:
            for name in (record.prompt_id, record.extra_data.get(MARK)):
                if isinstance(name, str) and name in prompt_ids:
                    self.queued[name] = record.prompt_id

    def find(self, prompt_id: str) -> str | None:
        """Under which id the server has it, if it has it."""
        if prompt_id in self.queued:
            return self.queued[prompt_id]
        return prompt_id if self._api.get_history(prompt_id) else None


def _execution_seconds(api: ComfyApi, job: Job) -> float | None:
    """By the server's clock; history is written a moment after the end is told."""
    if job._known.took is not None:
        return job._known.took
    deadline = time.monotonic() + TIMES_GRACE
    while True:
        try:
            with patient(TIMES_GRACE):  # its end is known, and is to be written down
                entry = api.get_history(job.prompt_id)
        except ComfyError as exc:
            log.debug("no times of prompt %s: %s", job.prompt_id, exc)
            return None
        if entry is not None:
            started, ended = entry.started, entry.ended
            return None if started is None or ended is None else ended - started
        if time.monotonic() > deadline:
            return None
        time.sleep(0.02)


# -- errors and JSON ----------------------------------------------------------------------

_JOB_ERRORS: Final = {kind.__name__: kind for kind in (JobFailed, JobInterrupted, JobLost)}
_REFUSALS: Final = {
    kind.__name__: kind for kind in (ApiError, PromptRejected, WorkflowError, UploadTooLarge)
}


def _error_record(error: ComfyError) -> dict[str, Any]:
    """Message and what names the place; what the node was given stays out."""
    facts = {
        name: value
        for name, value in vars(error).items()
        if isinstance(error, JobError) and name != "prompt_id" and isinstance(value, str | None)
    }
    return {"kind": type(error).__name__, "message": str(error), "facts": facts}


def _error_of(record: Mapping[str, Any], prompt_id: str) -> ComfyError:
    kind, message = record["kind"], record["message"]
    if kind in _REFUSALS:
        return _REFUSALS[kind](message)
    return _JOB_ERRORS.get(kind, JobError)(message, prompt_id=prompt_id, **record["facts"])


def _each_text(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {name: _each_text(each, change) for name, each in value.items()}
    if isinstance(value, list):
        return [_each_text(each, change) for each in value]
    return value
