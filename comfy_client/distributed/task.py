"""Tasks that run a prompt on the ComfyUI of a Dask worker, while somebody wants the result.

Dask cannot stop the thread of a task.  When the last future of a task is cancelled or released, or
its client is gone, it marks the task as cancelled, and drops what the thread returns.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from typing import Final, Literal, get_args

import attrs
from distributed import Reschedule, Worker

from .. import runtime
from ..client import ComfyApi
from ..errors import (
    ApiError,
    ClientClosed,
    ComfyError,
    JobFailed,
    JobInterrupted,
    JobLost,
    JobNotFound,
    JobTimeout,
    RequestTimeout,
    SubmitUncertain,
    Throttled,
    TransportError,
    UnexpectedResponse,
)
from ..jobs.execute import submit_workflow
from ..jobs.job import Job
from ..jobs.outcomes import OnFailed, OnLost, keeps_running, lost_error
from ..jobs.poller import time_left
from ..redaction import sealed
from ..transport.deadline import LONGEST, Backoff, Deadline, check_timeout, limited_silence
from ..transport.failures import is_away
from ..workflow.address import Inputs
from ..workflow.edit import AnyWorkflow
from . import notes
from .notes import Attempt, Notes, WorkerServer, digest_of, in_loop, older, others, places
from .plugin import Clients, here
from .task_result import TaskResult, task_result

#: Seconds during which the same call may be submitted again after it was cancelled.
_GRACE: Final = 1.0
#: Seconds for which a running prompt waits until those behind it are out of the queue.
_ORDER: Final = 0.5


@attrs.define(eq=False)
class Demand:
    """The demand for the result of one task.

    Attributes:
        worker: The worker that runs the task.
        key: The key of the task.
        is_left: Whether its prompt is to run on when nobody wants the result.
    """

    worker: Worker
    key: object
    is_left: bool
    _since: float | None = None

    def is_gone(self, *, waited: float = _GRACE) -> bool:
        """Return whether the task has been cancelled for ``waited`` seconds."""
        if self.is_left or not _is_cancelled(self.worker, self.key):
            self._since = None
            return False
        now = runtime.monotonic()
        self._since = self._since or now
        return now - self._since >= waited

    def may_cancel(self, clients: Clients, job: Job) -> bool:
        """Return whether the prompt is to be cancelled now.

        A running prompt comes last, as the next one would begin in its place.
        """
        if not self.is_gone():
            return False
        behind = job.handle.has_begun and any(
            not (one.done() or one.handle.has_begun) and _is_cancelled(self.worker, key)
            for key, one in list(clients.jobs.items())
        )
        return not behind or self.is_gone(waited=_GRACE + _ORDER)

    def is_wanted_elsewhere(self) -> bool:
        """Return whether the task is to run on another worker, which will look for its prompt."""
        return not notes.is_unwanted(self.worker, self.key)


def _is_cancelled(worker: Worker, key: object) -> bool:
    task = worker.state.tasks.get(key)  # type: ignore[call-overload]  # keys have no one type
    return task is not None and task.state == "cancelled"


log: logging.Logger = logging.getLogger("comfy_client")

#: Servers asked at the same time.
_AT_ONCE: Final = 8


@attrs.frozen
class Found:
    """A prompt, and the client that found it."""

    job: Job
    api: ComfyApi
    place: WorkerServer


def find_prompt(
    own: Clients,
    attempt: Attempt,
    places: Mapping[str, WorkerServer],
    *,
    patience: float,
    deadline: Deadline,
    check: Callable[[], None],
) -> Found | None:
    """Find the server that has a prompt; return None if no server has it.

    The server to which it may have been sent must deny having it twice, some seconds apart, as the
    submission may have been on its way when its worker was lost.  All other servers are asked once,
    if there is time.  Between two requests, ``check`` may raise to end the search.

    Raises:
        JobLost: The server that may have it has not answered for ``patience`` seconds.
        JobTimeout: The deadline came before that server said whether it has it.
    """
    noted = places.get(attempt.place)
    rest = [place for place in places.values() if place != noted]
    until, is_first = Deadline.after(patience), True
    sure: Deadline | None = None
    while True:
        try:
            found = _ask(own, noted, attempt)
            sure = sure or Deadline.after(ComfyApi.timing.look_up)
        except ClientClosed:
            raise
        except ComfyError as exc:
            found, sure = None, None
            log.warning("prompt %s may be there, but %s", attempt.prompt_id, exc)
            if until.expired:
                raise _lost(attempt, noted, exc) from exc
        if found is None and is_first:
            found, is_first = ask_all(own, rest, attempt, min(until, deadline)), False
        if found is not None or (sure is not None and sure.expired):
            return found
        if deadline.expired:
            raise JobTimeout(
                f"could not find out in time what became of prompt {attempt.prompt_id}: another "
                "worker, which was lost, may have sent it",
                prompt_id=attempt.prompt_id,
            )
        own.check_open()
        check()
        time.sleep(deadline.left(_RETRY_INTERVAL))


def _ask(own: Clients, place: WorkerServer | None, attempt: Attempt) -> Found | None:
    """Ask one server for a prompt; return None if it does not have it."""
    if place is None:
        raise JobNotFound("the scheduler has forgotten who sent it", prompt_id=attempt.prompt_id)
    api = own.looking(place, attempt.client_id or own.client_id)
    try:
        return Found(api.job(attempt.prompt_id, must_exist=True), api, place)
    except JobNotFound:
        api.close()
        return None
    except BaseException:
        api.close()
        raise


def ask_all(
    own: Clients, some: Sequence[WorkerServer], attempt: Attempt, deadline: Deadline
) -> Found | None:
    """Ask several servers for a prompt in parallel; return the first one found, or None.

    Many of them may be gone with their workers, and be slow to time out.
    """

    def ask(place: WorkerServer) -> Found | None:
        if deadline.expired:
            return None
        try:
            return _ask(own, place, attempt)
        except ComfyError as exc:
            said, extra = "%s was not asked for prompt %s: %s", {"server": place.url}
            log.debug(said, place.url, attempt.prompt_id, exc, extra=extra)
            return None

    with ThreadPoolExecutor(_AT_ONCE) as threads:
        answers = [found for found in threads.map(ask, some) if found is not None]
    for found in answers[1:]:
        found.api.close()
    return answers[0] if answers else None


def _lost(attempt: Attempt, noted: WorkerServer | None, exc: ComfyError) -> JobLost:
    where = "an unknown server" if noted is None else noted.url
    return lost_error(
        attempt.prompt_id,
        f"lost: a worker that was lost may have sent it to {where}, which cannot be asked "
        f'(on_lost="retry" runs it again): {exc}',
    )


#: The form in which files are returned.
OutputKind = Literal["references", "bytes"]

#: What to do with a prompt whose result nobody wants any more.
OnRelease = Literal["cancel", "leave"]

#: How often a prompt runs at most if it is lost each time.
ATTEMPTS: Final = 3
#: The most bytes of files in one result.
MAX_BYTES: Final = 64 << 20
#: Seconds between two checks of a server that runs a prompt, and between two of whether somebody
#: still wants its result.
_SERVER_INTERVAL: Final = 1.0
_HOLDER_INTERVAL: Final = 0.25
#: Seconds between two attempts to reach a server.
_RETRY_INTERVAL: Final = 0.5
#: The longest of the pauses before the servers are asked again that were too busy.
_LONGEST_PAUSE: Final = 15.0
#: Seconds for an answer, and for another worker's server to be reachable.
_ANSWER: Final = 5.0


def run_workflow(
    workflow: AnyWorkflow,
    inputs: Inputs | None = None,
    *,
    timeout: float | None = None,
    outputs: OutputKind = "references",
    on_lost: OnLost = "raise",
    on_failed: OnFailed = "raise",
    on_release: OnRelease = "cancel",
    patience: float = 60.0,
    max_bytes: int = MAX_BYTES,
) -> TaskResult:
    """Run a workflow on the ComfyUI of the Dask worker that calls this, and return its result.

    Use it with ``client.submit`` and ``client.map``, on a cluster with a :class:`ComfyPlugin`.  If
    the worker is lost, Dask runs the task again elsewhere.  The scheduler knows to which server the
    prompt may have been sent.  The new worker asks that server and all others for the prompt, and
    renders it again only if that server does not have it.

    The same holds when Dask runs a task again whose result it has lost, and for another task with
    the same key and workflow, while the scheduler lives.  ``client.submit(..., pure=False)`` gives
    each task a key of its own.

    A worker whose server is away gets no tasks until it is back.  Tasks that it has not sent yet go
    to other workers, which costs no retry.  A prompt that the server refuses has not run, so it is
    sent to the server of another worker.  While a server takes no prompts at the moment (429), and
    no other takes it, the task waits and asks again: for as long as the server says, within
    ``timeout``, or without one within a minute.  If the pause would be longer, the error is
    :class:`Throttled`, or that of a server that refused the prompt.

    With ``retries=``, a task runs again after an error.  After :class:`JobFailed` and
    :class:`JobInterrupted`, it renders again; after :class:`JobTimeout`, it waits for the same
    prompt.

    Example::

        from dask.distributed import Client, LocalCluster
        from comfy_client import Workflow
        from comfy_client.distributed import ComfyPlugin, run_workflow

        with (
            LocalCluster(n_workers=1, processes=False, dashboard_address=":0") as cluster,
            Client(cluster) as client,
        ):
            client.register_plugin(ComfyPlugin(["http://127.0.0.1:8188"]))
            future = client.submit(run_workflow, Workflow.load("txt2img.json"), retries=2)
            print(future.result().files)

    Args:
        workflow: As for :meth:`ComfyApi.submit`.  A path is one of the worker's machine: pass
            ``Workflow.load(path)``.
        inputs: As for :meth:`ComfyApi.submit`.
        timeout: Seconds for everything, of each run of the task; ``None``: no limit.  If the
            submission got no answer by then, the prompt is looked up for ten more seconds.
        outputs: ``"references"`` leaves files on their server; ``"bytes"`` returns them with the
            result.  Images of ``SaveImageWebsocket``, which are on no server, are always returned.
        on_lost: What to do with a prompt that a server has forgotten, or that a silent server may
            have: ``"raise"`` :class:`JobLost`, or ``"retry"``: run it again, up to three times in
            all.  It may then run twice.
        on_failed: What to do with a prompt that failed: ``"raise"`` :class:`JobFailed`, or
            ``"move"``: run it once more on the server of another worker, if that accepts it.
        on_release: What to do with a prompt when nobody wants its result any more, since its
            futures were cancelled or released, or their client is gone: ``"cancel"`` it, within two
            seconds, or ``"leave"`` it to run, for a client that makes the same call again.
        patience: How many seconds to wait for a silent server that may have the prompt, and for
            the worker's own server if all other servers are away as well.  A retry of the task does
            not wait again for a server that was silent for that long.
        max_bytes: How many bytes of files may be returned with the result.

    Raises:
        JobTimeout: Time ran out; the prompt keeps running, or its files have not arrived.
        JobLost: See ``on_lost``.
        ServerUnreachable: All servers are away, and none has the prompt.
        Throttled: No server takes the prompt in time (429).
        OutputsTooLarge: The files have more than ``max_bytes``.  They are on the server that the
            message names, except images of ``SaveImageWebsocket``, which are lost.
        NoComfyPlugin: The worker has no :class:`ComfyPlugin`, or that found no server.
        RuntimeError: It was called outside a worker.

    Other errors are those of :meth:`ComfyApi.run`.  All errors keep their attributes on their way
    through Dask.
    """
    for name, value, known in (
        ("outputs", outputs, OutputKind),
        ("on_lost", on_lost, OnLost),
        ("on_failed", on_failed, OnFailed),
        ("on_release", on_release, OnRelease),
    ):
        if value not in get_args(known):
            words = " or ".join(map(repr, get_args(known)))
            raise ValueError(f"{name} must be {words}, not {value!r:.80}")
    if not isinstance(max_bytes, int) or max_bytes < 0:
        raise ValueError(f"max_bytes must be a number of bytes, 0 or more, not {max_bytes!r:.80}")
    check_timeout(timeout, patience)
    workflow, inputs = sealed(workflow), sealed(inputs)  # tracebacks show local variables
    worker, clients = here()
    deadline = Deadline.after(timeout)
    key = worker.get_current_task()
    demand = Demand(worker, key, on_release == "leave")
    notes = Notes(worker, key, digest_of(workflow, inputs))
    with_bytes = outputs == "bytes"
    collect = partial(task_result, with_bytes=with_bytes, max_bytes=max_bytes, deadline=deadline)
    moves = on_failed == "move"
    task = _Task(
        worker, clients, demand, notes, workflow, inputs, deadline, patience, moves, collect
    )
    try:
        for _ in range(ATTEMPTS - 1):
            try:
                return task.run()
            except JobLost as exc:
                if on_lost == "raise":
                    raise
                log.warning("%s; running it again", exc)
                notes.note_end(notes.read())
        return task.run()
    except ClientClosed:
        if clients.closed:
            raise Reschedule from None  # the worker ends; another worker finds the prompt
        raise


@attrs.frozen
class _SentPrompt:
    """A prompt on a server, and the client that waits for it."""

    attempt: Attempt
    job: Job
    api: ComfyApi


@attrs.frozen(repr=False, eq=False)
class _Task:
    """A single run of a task; if its prompt fails, it may run once more on another server."""

    worker: Worker
    clients: Clients
    demand: Demand
    notes: Notes
    workflow: AnyWorkflow
    inputs: Inputs | None
    deadline: Deadline
    patience: float
    moves: bool
    collect: Callable[..., TaskResult]

    def run(self) -> TaskResult:
        """Run the prompt; if it fails and may move, run it once more on another server."""
        found = self._found(self.notes.read())
        attached = found is not None
        sent = found or self._send()
        try:
            return self._end(sent, attached=attached)
        except JobFailed as exc:
            if not self.moves:
                raise
            said, extra = "%s; it runs once more, on the server of another worker", sent.api.host
            log.warning(said, exc, extra={"server": extra})
            failed = exc
        finally:
            if attached:
                sent.api.close()
        return self._end(self._send(besides=sent.api.host, error=failed), attached=False)

    def _found(self, attempt: Attempt) -> _SentPrompt | None:
        """Find the prompt that an earlier run of the task sent, or return None."""
        if attempt.client_id is None:
            return self._found_older(attempt)
        try:
            found = find_prompt(
                self.clients,
                attempt,
                places(self.worker),
                patience=0.0 if attempt.remark == "silent" else self.patience,
                deadline=self.deadline,
                check=partial(self._check_wanted, _ANSWER),  # what is found is cancelled
            )
        except JobLost:
            self.notes.note_remark(attempt, "silent")
            raise
        if found is None:
            self.notes.note_end(attempt)
            return None
        return self._attached(attempt, found)

    def _found_older(self, attempt: Attempt) -> _SentPrompt | None:
        """Find the prompt that the same task sent when another scheduler was there, or return None.

        The scheduler may have been started again.  Attempts that came to nothing are passed over.
        """
        there = in_loop(self.worker, older, self.worker, self.clients.place)
        while there:
            found = ask_all(self.clients, there, attempt, self.deadline)
            if found is None:
                break
            if _is_of_use(found.job):
                self.notes.note_sending(attempt, self.clients.client_id, found.place)
                return self._attached(attempt, found)
            found.api.close()
            attempt = self.notes.note_end(attempt)
        return None

    def _attached(self, attempt: Attempt, found: Found) -> _SentPrompt:
        host = found.api.host
        log.info("found prompt %s on %s", found.job.prompt_id, host, extra={"server": host})
        return _SentPrompt(attempt, found.job, found.api)

    def _servers(self, refused: Collection[str]) -> Iterator[ComfyApi]:
        """Yield the worker's own server, then the servers of other workers in random order.

        Those whose URL is in ``refused`` are left out.
        """
        own = self.clients.own()
        if own.host not in refused:
            yield own
        there = in_loop(self.worker, others, self.worker)
        urls = {place.url for place in there if self.clients.reaches(place)}
        for url in random.sample(sorted(urls), len(urls)):
            if url != own.host and url not in refused:
                yield self.clients.at(url)

    def _send(self, *, besides: str = "", error: Exception | None = None) -> _SentPrompt:
        """Send the prompt to the first server that accepts it; wait while one is too busy (429).

        If all servers refuse, raise ``error``, or without one the first refusal.
        """
        attempt, refused = self.notes.read(), {besides}
        until = self.clients.own().parts.poller.free_by(self.deadline)
        pauses = Backoff(_RETRY_INTERVAL, _LONGEST_PAUSE, factor=1.6, jitter=0.3)
        while True:
            busy: list[Throttled] = []
            for api in self._servers(refused):
                try:
                    return _SentPrompt(attempt, self._submit_when_there(api, attempt), api)
                except (ApiError, TransportError, UnexpectedResponse) as exc:
                    said, extra = "%s does not take prompt %s: %s", {"server": api.host}
                    log.warning(said, api.host, attempt.prompt_id, exc, extra=extra)
                    if isinstance(exc, Throttled):
                        busy.append(exc)
                    else:
                        refused.add(api.host)
                        error = error or exc
            if not busy:
                raise error or RuntimeError("no server was asked")
            pause = max(pauses.next(), min(one.retry_after or 0.0 for one in busy))
            if pause >= until.left():
                raise error or busy[0]
            over = Deadline.after(pause)
            while not over.expired:
                self._check_wanted()
                time.sleep(over.left(_HOLDER_INTERVAL))

    def _submit_when_there(self, api: ComfyApi, attempt: Attempt) -> Job:
        """Wait for the server, then submit; reschedule if other workers can run the task."""
        is_own = api is self.clients.own()
        patience = self.patience if is_own else min(self.patience, _ANSWER)
        until = Deadline.after(self.deadline.left(patience))
        while True:
            self._check_wanted()
            try:
                if not api.connected:
                    if (error := api.ping(max(1.0, until.left(_ANSWER))).error) is not None:
                        raise error
                    api.init(until.left(LONGEST))
                return self._submit(api, attempt)
            except (ApiError, TransportError) as exc:
                if not is_away(exc):
                    raise
                if is_own and self.clients.turns_away:
                    raise Reschedule from None
                if until.expired or not exc.retryable:
                    raise
                time.sleep(until.left(_RETRY_INTERVAL))

    def _submit(self, api: ComfyApi, attempt: Attempt) -> Job:
        place = self.clients.place_of(api.host)
        self.notes.note_sending(attempt, self.clients.id_at(api.host), place)
        try:
            with limited_silence(time_left(self.deadline, LONGEST)):
                return submit_workflow(
                    api,
                    api.parts,
                    self.workflow,
                    self.inputs,
                    {},
                    prompt_id=attempt.prompt_id,
                    strict=False,
                    check=False,
                    resubmit=False,
                    deadline=self.deadline,
                    waits=False,  # another worker's server may take it
                )
        except SubmitUncertain:
            return api.job(attempt.prompt_id)  # may appear later
        except ClientClosed:
            raise
        except Exception:
            self.notes.note_not_sent(attempt)
            raise

    def _end(self, sent: _SentPrompt, *, attached: bool) -> TaskResult:
        """Wait for the end of a prompt, and return its result."""
        attempt, job, api = sent.attempt, sent.job, sent.api
        self.clients.jobs[self.demand.key] = job
        try:
            self._await(attempt, job, api)
        finally:
            del self.clients.jobs[self.demand.key]
        try:
            result = job.result(0)
        except (JobInterrupted, JobLost):
            self._check_not_withdrawn(attempt)
            if job.handle.status == "interrupted":
                self.notes.note_end(attempt)
            raise
        except JobFailed:
            self.notes.note_end(attempt)  # Dask may run the task again, with retries=
            raise
        if attached and not result.complete:
            self.notes.note_end(attempt)
            why = "lost: it has run, but images of it went to the socket of a worker that was lost"
            raise lost_error(job.prompt_id, why, retryable=True)
        try:
            return self.collect(result, api.host, attached=attached)
        except RequestTimeout as exc:
            if not self.deadline.expired:
                raise
            raise JobTimeout(
                f"prompt {job.prompt_id} has run, but its files have not arrived in time: a retry "
                "of the task asks for them again",
                prompt_id=job.prompt_id,
            ) from exc

    def _await(self, attempt: Attempt, job: Job, api: ComfyApi) -> None:
        """Wait for a prompt's end; raise JobLost if its server is away too long, or JobTimeout."""
        until, look = Deadline.after(self.patience), Deadline.after(_SERVER_INTERVAL)
        while not job.done() and not self.deadline.expired:
            wait([job], self.deadline.left(_HOLDER_INTERVAL))
            if self.demand.may_cancel(self.clients, job):
                self._withdraw(attempt, job)
            if job.done() or not look.expired:
                continue
            look = Deadline.after(_SERVER_INTERVAL)
            if api.connected or api.ping():
                until = Deadline.after(self.patience)
            elif until.expired:
                self.notes.note_remark(self.notes.read(), "silent")
                why = f"lost: {api.host} has not answered for {self.patience:g} s"
                raise lost_error(job.prompt_id, f"{why}, and may have run it")
        if not job.done():
            silence = job.handle.silent_for()
            raise JobTimeout(
                f"prompt {job.prompt_id} has not ended in time ({job.why()}); "
                f"{keeps_running('it', silence)} on {api.host}: a retry of the task waits for it",
                prompt_id=job.prompt_id,
                silent_for=silence,
            )

    # -- what nobody wants ---------------------------------------------------------------------

    def _check_wanted(self, waited: float = 0.0) -> None:
        """End the task if it was cancelled ``waited`` seconds ago, and has not sent its prompt.

        If the same call has been submitted again meanwhile, Dask runs it again.
        """
        if self.demand.is_gone(waited=waited):
            raise Reschedule

    def _withdraw(self, attempt: Attempt, job: Job) -> None:
        """Cancel a prompt whose result nobody wants, and end the task.

        A task that runs the prompt on another worker finds a note of it.  If the server cannot be
        told now, return; the next look tries again.
        """
        if self.demand.is_wanted_elsewhere():
            raise Reschedule
        noted = self.notes.read()
        if noted.number == attempt.number:
            self.notes.note_remark(noted, "unwanted")
        try:
            is_cancelled = job.cancel()
        except ComfyError as exc:
            log.debug("prompt %s, which nobody wants, runs on: %s", job.prompt_id, exc)
            return
        if is_cancelled and noted.number == attempt.number:
            self.notes.note_end(attempt)
        wait([job], _ANSWER)  # a server may forget an interrupt, which is sent again then
        raise Reschedule

    def _check_not_withdrawn(self, attempt: Attempt) -> None:
        """Run the task again if another worker has cancelled its prompt, when nobody wanted it."""
        noted = self.notes.read()
        if noted.number == attempt.number and noted.remark == "unwanted":
            self.notes.note_end(noted)
            raise Reschedule
        if noted.number > attempt.number:
            raise Reschedule


def _is_of_use(job: Job) -> bool:
    """Return whether a prompt runs, or waits, or has a result."""
    return not job.done() or (job.exception(0) is None and job.result(0).complete)
