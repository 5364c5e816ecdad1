"""Execute workflows: read them, submit them, and wait for them or find them again.

:class:`Parts` are the parts of a client, which its methods hand to these functions.  Waits for free
VRAM, and retries after running out of it, are here too.
"""

from __future__ import annotations

import contextlib
import logging
import math
import sys
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, Final, TypeVar

import attrs

from .. import models
from ..errors import (
    ClientClosed,
    ComfyError,
    JobFailed,
    JobNotFound,
    JobTimeout,
    NotSupported,
    PromptRejected,
    RequestTimeout,
    VramTimeout,
    printable,
)
from ..events import ErrorEvent
from ..locks import check_may_wait
from ..log_records import Tags, prompt_facts
from ..reading import reading_until
from ..routes import Routes
from ..routes.definitions import NodeDefinitions
from ..routes.prompts import (
    PromptOptions,
    check_before_upload,
    make_prompt,
    post_prompt,
    with_files_sent,
)
from ..showing.screen import is_watched, surface
from ..signals import Receivers
from ..timing import Timing
from ..transport.deadline import Backoff, Deadline, limited_silence
from ..transport.failures import is_away
from ..transport.http import MAX_TRANSFER, Http, segment
from ..transport.websocket import Connection
from ..values import is_uuid
from ..workflow.address import Inputs
from ..workflow.edit import AnyWorkflow, Workflow, as_workflow, graph_of, with_inputs
from ..workflow.graph import files_in
from ..workflow.seeds import draw_wanted, wants_seeds
from .handle import SLICE, Limits
from .job import Callbacks, Job, OnInterrupt, cancelling, wait_and_show, wait_for_one
from .lookup import spellings
from .poller import Poller
from .result import Result
from .submit import attach, submit, when_free
from .tracker import Tracker
from .wait_bars import Count, shown_count, surface_of

if TYPE_CHECKING:
    from ..stats import ClientStats

log: logging.Logger = logging.getLogger("comfy_client")

AnyJob = TypeVar("AnyJob", bound=Job)

#: Seconds between two checks of the memory: the first pause, and the longest one.
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 1.0
#: Names of the events that bring previews.
_PREVIEWS: Final = ("b_preview", "b_preview_with_metadata")


@attrs.define(eq=False, repr=False)
class Parts:
    """The parts of a client, in one process: the child of a fork gets new ones.

    No part keeps the client alive, so that a forgotten client is collected.

    Attributes:
        receivers: The receivers of its events.
        tracker: Its prompts that have not ended.
        poller: The thread that asks the server about them.
        definitions: Its cache of node definitions.
        calls: Weak references to the prompts of each ``map`` and ``sweep`` that has not ended.
        connection: Its event socket.
        remembered: What modules above remember of the server for as long, by name, such as which
            node packs it has.
        on_fork: Called in the child of a fork, to end there what modules above have begun.
        heir: The parts that replace these in the child of a fork.
    """

    receivers: Receivers
    tracker: Tracker
    poller: Poller
    definitions: NodeDefinitions
    calls: set[weakref.ref[Any]] = attrs.field(factory=set, init=False)
    connection: Connection = attrs.field(init=False)
    remembered: dict[str, Any] = attrs.field(factory=dict, init=False)
    on_fork: list[Callable[[], object]] = attrs.field(factory=list, init=False)
    heir: Parts | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self.connection = self.tracker.connection

    @property
    def http(self) -> Http:
        """The HTTP layer of the client."""
        return self.tracker.http

    def check_open(self) -> None:
        """Raise :class:`ClientClosed` after ``close()``."""
        if self.tracker.closed:
            raise ClientClosed

    def of_this_process(self) -> Parts:
        """Return these, or in the child of a fork, those that replace them."""
        return self if self.heir is None else self.heir.of_this_process()

    def after_fork(self) -> None:
        """Release what is the parent's in the child of a fork, and end its work there."""
        self.tracker.budget.after_fork()
        self.connection.abandon()
        self.tracker.after_fork()
        for end in self.on_fork:
            end()

    def withdraw(self) -> None:
        """Take back the pending prompts of ``map`` and ``sweep`` calls that have not ended."""
        withdraw(self.calls)

    def stats(self) -> ClientStats:
        """Return the counters of the client."""
        from ..stats import ClientStats  # few programs want them

        tracker, traffic = self.tracker, self.http.traffic
        connections = self.connection.generation
        with tracker.lock:
            prompts = tracker.ledger.sums()
        return ClientStats(
            **prompts,
            requests=traffic.requests,
            connections=connections,
            reconnects=max(0, connections - 1),
            bytes_sent=traffic.sent,
            bytes_received=traffic.received,
            dropped_events=self.receivers.dropped,
        )


def withdraw(calls: set[weakref.ref[Any]]) -> None:
    """Take back the pending prompts of these calls of ``map`` and ``sweep``."""
    for known in calls.copy():  # another thread may begin or forget a call
        prompts = known()
        if prompts is not None:
            prompts.withdraw()


@attrs.frozen(eq=False, repr=False)
class ServerDefinitions:
    """A source of a server's node definitions for a workflow, until a deadline."""

    routes: Routes
    definitions: NodeDefinitions
    deadline: Deadline = attrs.field(factory=Deadline)

    def node_definitions(
        self, classes: Collection[str] | None = None, *, refresh: bool = False
    ) -> Mapping[str, Any]:
        """Return the definitions of ``classes``, or of all node classes if None."""
        return self.definitions.get(classes, refresh=refresh, deadline=self.deadline)

    def node_names(self, *, for_a_hint: bool = False) -> Collection[str]:
        """Return the names of all node classes; for a hint, none if that would take long."""
        return self.definitions.names(self.deadline, for_a_hint=for_a_hint)

    def packs_of_classes(self, classes: Collection[str]) -> Mapping[str, tuple[str, ...]]:
        """Return the node packs that have classes, by class, as far as a Manager knows them."""
        return self.definitions.packs.of(classes, self.deadline)

    def get_node_replacements(self) -> Mapping[str, Any]:
        """Return the replacements of removed node classes."""
        return self.routes.get_node_replacements()

    def open_image(self, info: str) -> BinaryIO:
        """Open a file of the server by its URL."""
        return self.routes.open_image(info, timeout=self.deadline.left(MAX_TRANSFER))


def _read(
    routes: Routes,
    parts: Parts,
    workflow: AnyWorkflow,
    inputs: Inputs | None,
    options: PromptOptions,
    *,
    check: bool,
    strict: bool,
    deadline: Deadline,
    waits: bool = True,
) -> Workflow:
    """Prepare a workflow for submission.

    Set its inputs, check it if ``check``, and upload its files.  With ``waits``, wait for a server
    that takes no requests at the moment.
    """
    source = ServerDefinitions(routes, parts.definitions, deadline)
    try:
        with contextlib.nullcontext() if math.isinf(deadline.at) else reading_until(deadline.at):
            known = as_workflow(workflow, source)
            known = known if inputs is None else with_inputs(known, inputs)
        if check:
            targets = options.get("partial_execution_targets")
            known.check(source, targets=targets).raise_for_errors()
        if not files_in(graph_of(known)):
            return known
        check_before_upload(parts.http, known, strict=strict, **options)
        send_files = partial(with_files_sent, routes, known, deadline)
        return when_free(parts.poller, deadline, send_files) if waits else send_files()
    except ComfyError as exc:
        parts.receivers.publish(ErrorEvent(name="queue_error", error=exc))
        raise


def run_workflow(
    routes: Routes,
    parts: Parts,
    workflow: AnyWorkflow,
    inputs: Inputs | None,
    options: PromptOptions,
    callbacks: Callbacks,
    limits: Limits,
    *,
    on_interrupt: OnInterrupt,
    progress: bool | None,
    strict: bool,
    check: bool,
    resubmit: bool,
    retry_oom: bool,
) -> Result:
    """Submit a workflow and wait for its result, within limits."""
    screen = surface(False if progress is None and callbacks else progress)
    parts.check_open()
    workflow = _read(
        routes,
        parts,
        workflow,
        inputs,
        options,
        check=check,
        strict=strict,
        deadline=limits.deadline,
    )
    shows_previews = callbacks.on_preview is not None or screen == "notebook"

    def attempt(workflow: Workflow) -> Result:
        check_may_wait()  # before it is submitted
        with cancelling(on_interrupt) as submitted:
            job = submit(
                routes,
                parts.poller,
                workflow,
                keep_events=bool(callbacks),
                wants_previews=shows_previews or parts.receivers.listens(_PREVIEWS),
                deadline=limits.deadline,
                begun=submitted.append,
                strict=strict,
                resubmit=resubmit,
                **options,
            )
            return wait_and_show(job, limits, screen, callbacks, on_interrupt=on_interrupt)

    if not retry_oom:
        return attempt(workflow)
    timing, tags = parts.poller.timing, options.get("tags")
    return run_again_after_oom(lambda: routes, timing, limits, attempt, workflow, tags)


def submit_workflow(
    routes: Routes,
    parts: Parts,
    workflow: AnyWorkflow,
    inputs: Inputs | None,
    options: PromptOptions,
    *,
    prompt_id: str | None,
    strict: bool,
    check: bool,
    resubmit: bool,
    wants_previews: bool = False,
    begun: Callable[[Job], object] | None = None,
    deadline: Deadline = Deadline(),  # noqa: B008  # it is frozen
    waits: bool = True,
) -> Job:
    """Submit a workflow by the deadline.

    ``begun`` is called with the job before anything is sent.  With ``waits``, wait for a server
    that takes no requests at the moment.
    """
    parts.check_open()
    if prompt_id is not None and not is_uuid(prompt_id):
        raise ValueError(
            f"prompt_id must be a canonical UUID, as str(uuid.uuid4()) returns it: {prompt_id!r}"
        )
    wants_previews = wants_previews or ("IPython" in sys.modules and is_watched())
    try:
        if prompt_id is not None:  # a user's own, so others may know it
            parts.tracker.announced.add(prompt_id)
        workflow = _read(
            routes,
            parts,
            workflow,
            inputs,
            options,
            check=check,
            strict=strict,
            deadline=deadline,
            waits=waits,
        )
        return submit(
            routes,
            parts.poller,
            workflow,
            prompt_id=prompt_id,
            wants_previews=wants_previews or parts.receivers.listens(_PREVIEWS),
            begun=begun,
            deadline=deadline,
            strict=strict,
            resubmit=resubmit,
            waits=waits,
            **options,
        )
    finally:
        if prompt_id is not None:
            parts.tracker.announced.discard(prompt_id)


def queue_workflow(
    routes: Routes,
    parts: Parts,
    workflow: AnyWorkflow,
    options: PromptOptions,
    *,
    number: float | None,
    prompt_id: str | None,
) -> models.QueuedPrompt:
    """Submit a workflow by one ``POST /prompt``, without a job that follows the prompt."""
    try:
        source = ServerDefinitions(routes, parts.definitions)
        workflow = as_workflow(workflow, source)
        if files_in(graph_of(workflow)):
            check_before_upload(parts.http, workflow, **options)
            workflow = with_files_sent(routes, workflow, Deadline())
        prompt = make_prompt(
            parts.http,
            workflow,
            client_id=parts.connection.client_id,
            number=number,
            prompt_id=prompt_id,
            wants_previews=parts.receivers.listens(_PREVIEWS),
            **options,
        )
        try:
            queued = post_prompt(parts.http, prompt.body, parts.definitions)
        except PromptRejected as exc:
            from ..routes.refusals import blame_what_was_left_out

            blame_what_was_left_out(exc, prompt.graph, prompt.left_out)
            raise
        return attrs.evolve(queued, node_errors={**prompt.left_out, **queued.node_errors})
    except ComfyError as exc:
        parts.receivers.publish(ErrorEvent(name="queue_error", error=exc))
        raise


# -- prompts that were submitted before --------------------------------------------------


def attach_job(
    routes: Routes,
    parts: Parts,
    prompt_id: str,
    workflow: AnyWorkflow | None,
    *,
    must_exist: bool = False,
    tags: Tags | None = None,
    waits: bool = True,
) -> Job:
    """Return a job for a prompt that this or any other client has submitted.

    With ``waits``, the server is given a moment to say how the prompt is doing.
    """
    parts.check_open()
    source = ServerDefinitions(routes, parts.definitions)
    known = None if workflow is None else as_workflow(workflow, source)
    graph = {} if known is None else known.to_dict()
    if wants_seeds(graph) or files_in(graph):
        graph = {}  # the server's graph has the drawn seeds and the names of files
    names = {} if known is None else known.output_names
    if must_exist:
        check_existence(parts.poller, prompt_id)
    poller = parts.poller
    return attach(routes, poller, prompt_id, graph, output_names=names, tags=tags, waits=waits)


def check_existence(poller: Poller, prompt_id: str) -> None:
    """Raise :class:`JobNotFound` if neither this client nor the server knows a prompt with this id.

    The queue is requested first: a prompt that has just left it is then in the history, and one
    that is not in it yet was not accepted.
    """
    segment(prompt_id)
    tracker = poller.tracker
    deadline = Deadline.after(tracker.http.total_timeout)
    ids = spellings(prompt_id)

    def is_known() -> bool:
        return any(_is_known(tracker, tracker.renamed.get(name) or name) for name in ids)

    while not (is_known() or tracker.announced.isdisjoint(ids)):
        if tracker.wake.wait_stopped(0.01):
            raise ClientClosed
        if deadline.expired:
            raise RequestTimeout(f"prompt {prompt_id} has been about to be submitted for too long")
    if is_known():
        return
    with limited_silence(poller.timing.question):
        client_id = tracker.posted_as.get(ids[0]) or tracker.connection.client_id
        found = poller.search(prompt_id, client_id, deadline)
    if found is None and not is_known():
        raise JobNotFound(
            f"prompt {prompt_id} is in no queue and no history of {tracker.http.address.http_url}: "
            "it was never submitted there, or deleted, or the server was restarted",
            prompt_id=prompt_id,
        )


def _is_known(tracker: Tracker, prompt_id: str) -> bool:
    """Return whether this client submitted a prompt, or the server has reported it."""
    prompt, ending = tracker.get(prompt_id), tracker.ended.get(prompt_id)
    if prompt is None:
        return ending is not None and ending.has_record
    state = prompt.state
    is_seen = state.ahead is not None or state.running_since is not None
    return not state.attached or is_seen or state.end_event is not None


# -- several jobs ------------------------------------------------------------------------


def as_completed(
    jobs: Iterable[AnyJob], timeout: float | None, progress: bool | None
) -> Iterator[AnyJob]:
    """Yield jobs as they end: see :meth:`ComfyApi.as_completed`."""
    waited_for = dict.fromkeys(jobs)
    for job in waited_for:
        if not isinstance(job, Job):
            raise TypeError(f"as_completed takes jobs, as submit and job return them: {job!r:.80}")
    return _as_completed(waited_for, Limits(timeout), progress)


def _as_completed(
    jobs: dict[AnyJob, None], limits: Limits, progress: bool | None
) -> Iterator[AnyJob]:
    """Yield jobs as they end, without shared locks that an alarm could leave held."""
    total, failed = len(jobs), 0
    if not jobs:
        return

    def ended() -> tuple[int, int]:
        there = [job.status for job in jobs if job.done()]
        bad = len(there) - there.count("succeeded")
        return total - len(jobs) + len(there), failed + bad

    some = next(iter(jobs)).handle
    count = Count(
        total=total,
        ended=ended,
        running=lambda: [job for job in jobs if not job.done()],
        notes=some.notes,
    )
    where, delay = surface_of(progress, limits.timeout), some.timing.show
    try:
        with shown_count(where, "as_completed", delay, count) as screen:
            while jobs:
                left = limits.deadline.left(SLICE)
                if not wait_for_one(jobs, screen.within(left)):
                    if left <= 0:
                        raise _not_in_time(jobs, total, limits)
                    continue
                done = [job for job in jobs if job.done()]
                failed += sum(job.status != "succeeded" for job in done)
                for job in done:
                    del jobs[job]
                screen.make_room()
                yield from done
                screen.redraw()
            screen.end(None)
    except KeyboardInterrupt:
        for job in jobs:
            if job.status == "running":
                job.handle.warn_that_it_runs()
        raise


def _not_in_time(jobs: Iterable[Job], total: int, limits: Limits) -> JobTimeout:
    """Return the error for jobs that have not ended within the timeout."""
    left = list(jobs)
    silence = max((job.handle.silent_for() or 0.0 for job in left), default=0.0) or None
    runs = f"keep running, {left[0].prompt_id} among them"
    if silence is not None:
        runs += f", unless their server is gone, as one has not answered for {silence:.0f} s"
    return JobTimeout(
        f"{len(left)} of {total} prompts have not ended within {limits.timeout:g} s and "
        f"{runs}: wait again, or attach by api.job(prompt_id)",
        prompt_id=left[0].prompt_id,
        silent_for=silence,
    )


# -- the memory of the server ------------------------------------------------------------


def wait_for_vram(
    routes: Routes, poller: Poller, nbytes: int, device: int | None, timeout: float | None
) -> models.Device:
    """Implement :meth:`ComfyApi.wait_for_vram`."""
    if not isinstance(nbytes, int) or isinstance(nbytes, bool):
        raise TypeError(f"VRAM must be a whole number of bytes, not {nbytes!r:.80}")
    if nbytes < 0:
        raise ValueError("VRAM must be 0 or more bytes")
    deadline = Deadline.after(timeout)
    pauses = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE, factor=1.6, jitter=0.0)
    while True:
        found: models.Device | None = None
        trouble: ComfyError | None = None
        try:
            with limited_silence(max(_FIRST_PAUSE, deadline.left(poller.timing.question))):
                found = _device(routes.get_system_stats().devices, device)
        except ComfyError as exc:
            if not is_away(exc):
                raise
            trouble = exc
        if found is not None:
            _check_size(found, nbytes)
            if (found.vram_free or 0) >= nbytes:
                return found
        if deadline.expired:
            raise _timed_out(found, nbytes, timeout) from trouble
        if poller.tracker.wake.wait_stopped(deadline.left(pauses.next())):
            raise ClientClosed


def _device(devices: Sequence[models.Device], index: int | None) -> models.Device:
    """Return a device by index (None: the main one); raise unless its free VRAM is known."""
    if index is None:
        found = devices[0] if devices else None
    else:
        found = next((one for one in devices if (one.index or 0) == index), None)
    if found is not None and found.type != "cpu" and found.vram_free is not None:
        return found
    if found is None and devices:
        known = ", ".join(str(one.index or 0) for one in devices)
        raise ValueError(f"the server has no device {index}; it has: {known}")
    is_cpu = found is not None and found.type == "cpu"
    why = "it computes on the CPU" if is_cpu else "it does not say how much it has"
    raise NotSupported(f"this server has no VRAM to wait for: {why}", path="/system_stats")


def _check_size(device: models.Device, nbytes: int) -> None:
    if device.vram_total is not None and nbytes > device.vram_total:
        raise ValueError(
            f"{_name(device)} has {_gib(device.vram_total)} of VRAM in all, so {_gib(nbytes)} will "
            "never be free"
        )


def _timed_out(device: models.Device | None, nbytes: int, timeout: float | None) -> VramTimeout:
    free = None if device is None else device.vram_free
    if device is None or free is None:
        what = "the server did not answer"
    else:
        what = f"{_name(device)} has {_gib(free)} free"
    return VramTimeout(
        f"waited {timeout or 0:g} s for {_gib(nbytes)} of free VRAM, and {what}: call free_memory, "
        "or wait for the prompts that run",
        wanted=nbytes,
        free=free,
        device=None if device is None else device.name,
    )


def _name(device: models.Device) -> str:
    return printable(device.name[:100])


def _gib(nbytes: int) -> str:
    return f"{min(nbytes, 1 << 80) / 2**30:.2f} GiB"  # the number may be anything


def run_again_after_oom(
    server: Callable[[], Routes],
    timing: Timing,
    limits: Limits,
    attempt: Callable[[Workflow], Result],
    workflow: Workflow,
    tags: Tags | None = None,
) -> Result:
    """Run a workflow, and once more with freed memory if a node runs out of memory.

    ``server`` returns the routes of the server that had the last attempt.  ``tags`` are those of
    the prompt, for the log.
    """
    workflow = workflow.copy()
    draw_wanted(graph_of(workflow))  # so that both attempts have the same seeds
    try:
        return attempt(workflow)
    except JobFailed as exc:
        if not exc.is_oom:
            raise
        failed = exc
    try:
        _free_all(server(), timing, failed, limits, tags or {})
        try:
            return attempt(workflow)
        except ComfyError as exc:
            raise exc from failed
    finally:
        del failed  # an error, its traceback and this frame make no circle


def _free_all(
    routes: Routes, timing: Timing, failed: JobFailed, limits: Limits, tags: Tags
) -> None:
    """Free the server's memory; raise the job's failure if that fails or the time is up."""
    log.warning(
        "prompt %s ran out of memory (%s); the server frees its memory, and it runs once more",
        failed.prompt_id,
        str(failed).partition("\n")[0],
        extra={**prompt_facts(failed.prompt_id, tags), "server": routes.host},
    )
    try:
        with limited_silence(max(_FIRST_PAUSE, limits.deadline.left(timing.question))):
            freed = limits.deadline.left(timing.freed)
            routes.free_memory(unload_models=True, free_memory=True, wait=freed)
    except ClientClosed:
        raise
    except ComfyError as exc:
        failed.add_note(f"not tried again, since its memory could not be freed: {exc}")
        raise failed from exc
    if limits.deadline.left(1.0) <= 0:
        failed.add_note("not tried again, since the timeout has passed")
        raise failed
