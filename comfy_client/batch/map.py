"""Many prompts, one after the other: :meth:`ComfyApi.map`, and what a sweep shares with it."""

from __future__ import annotations

import logging
import uuid
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final, Literal, TypeVar, cast

import attrs

from .. import runtime
from ..errors import (
    ApiError,
    ClientClosed,
    ComfyError,
    JobError,
    JobLost,
    JobTimeout,
    PromptRejected,
    SubmitUncertain,
    UploadTooLarge,
    WorkflowError,
)
from ..jobs.cancel import removing
from ..jobs.job import SLICE, Job, news_at, wait_for_one
from ..jobs.poller import Poller
from ..jobs.result import Result
from ..jobs.running import Running
from ..routes.inputs import with_files_sent
from ..routes.prompts import AnyWorkflow, PromptOptions
from ..sealing import sealed
from ..transport.deadline import Deadline, check_timeout
from ..workflow import Workflow
from ..workflow.edit import as_workflow, with_inputs
from ..workflow.load import is_source
from .outage import Outage, got_nothing, went_away
from .source import Source
from .window import Due, Wait, Window

log: logging.Logger = logging.getLogger("comfy_client")

#: How often a prompt is submitted when the server forgets it.
ATTEMPTS: Final = 3

T = TypeVar("T")

_ABOUT_ONE: Final = (JobError, PromptRejected, WorkflowError, UploadTooLarge, SubmitUncertain)


class SubmitOptions(PromptOptions, total=False):
    """Options of :meth:`ComfyApi.submit` and :meth:`ComfyApi.map`.

    Attributes:
        strict: See :meth:`ComfyApi.submit`.
        resubmit: See :meth:`ComfyApi.submit`.
    """

    strict: bool
    resubmit: bool


# -- map ------------------------------------------------------------------------------------


def run_map(
    window: ClientWindow,
    workflows: Iterable[AnyWorkflow] | AnyWorkflow,
    params: Iterable[Mapping[str, Any]] | None,
    *,
    in_flight: int,
    ordered: bool,
    on_error: Literal["raise", "keep"],
    options: Mapping[str, Any],
) -> Generator[Result | ComfyError, None, None]:
    """See :meth:`ComfyApi.map`.  Wrong arguments are raised at once."""
    check_in_flight(in_flight)
    if on_error not in ("raise", "keep"):
        raise ValueError(f"on_error is 'raise' or 'keep', not {on_error!r}")

    if params is None:
        if isinstance(workflows, Workflow) or is_source(workflows):
            raise TypeError("one workflow needs params=[{'KSampler.seed': 7}, ...]")
        source = Source(cast("Iterable[Any]", workflows))
        make: Callable[[Any], AnyWorkflow] = partial(as_workflow, definitions=window.client)
    else:
        source = Source(params, sealed)  # frames hold them
        make = partial(with_inputs, Workflow(workflows, window.client))  # type: ignore[arg-type]  # raises for what is none
    return _stream(window, source, make, in_flight, ordered, on_error == "keep", options)


def _stream(
    window: ClientWindow,
    source: Source,
    make: Callable[[Any], AnyWorkflow],
    in_flight: int,
    ordered: bool,
    keep: bool,
    options: Mapping[str, Any],
) -> Generator[Result | ComfyError, None, None]:
    failure: Exception | None = None  # raised when its turn has come: results before it are had
    outcome: Result | ComfyError | None = None
    window.source = source
    try:
        while True:
            while failure is None and len(window) < in_flight and source.has_next():
                failure = _submit_next(window, source, make, keep, options)
            if window.is_closed:  # by close() in another thread
                raise ClientClosed
            if not window:
                if failure is not None:
                    raise failure
                if source.is_over:
                    return
                source.wait((), SLICE)
                continue
            end = window.look(ordered=ordered, wait=source.wait)
            if end is None:
                continue
            prompt_id, outcome = end
            if isinstance(outcome, JobLost) and window.submit_again(prompt_id, outcome, options):
                continue
            if window.pop(prompt_id) is None:  # close() in another thread has taken it back
                raise ClientClosed
            if isinstance(outcome, ComfyError) and not (keep and is_about_one(outcome)):
                raise outcome
            yield outcome
    except KeyboardInterrupt:
        window.say_what_runs()
        raise
    finally:
        failure = outcome = end = None  # an error, its traceback and this frame make no circle
        window.withdraw()


def _submit_next(
    window: ClientWindow,
    source: Source,
    make: Callable[[Any], AnyWorkflow],
    keep: bool,
    options: Mapping[str, Any],
) -> Exception | None:
    """Submit the next prompt, which is there; the error that ends the submission, if any."""
    try:
        item = source.take()
    except Exception as exc:  # noqa: BLE001  # raised by the caller, in its turn
        return exc
    prompt_id = str(uuid.uuid4())
    try:
        item = make(item)
        window.submit(prompt_id, item, options)
    except Exception as exc:
        if prompt_id in window:  # not ours, but an alarm's, say: to its owner at once
            raise
        if not (isinstance(exc, ComfyError) and keep and is_about_one(exc)):
            return exc
        window.put(prompt_id, exc)
    return None


def is_about_one(error: BaseException) -> bool:
    """Return whether it went wrong with one prompt, and says nothing about the next."""
    # A server may stumble over a graph that its check does not understand.
    stumbled = isinstance(error, ApiError) and error.status == 500
    return stumbled or isinstance(error, _ABOUT_ONE)


def check_in_flight(in_flight: int) -> None:
    """Raise ValueError for what is no number of prompts."""
    if not isinstance(in_flight, int) or in_flight < 1:
        raise ValueError(f"in_flight is a number of prompts, 1 or more, not {in_flight!r}")


# -- prompts that are under way ---------------------------------------------------------------

#: What :meth:`ComfyApi.submit` raises.  Anything else is somebody else's, such as an alarm's,
#: and may come when the prompt is there already.
_SAID_NO: Final = (ComfyError, TypeError, ValueError)


@attrs.define(eq=False)
class ClientWindow(Window):
    """The prompts of one client that a call of ``map`` or ``sweep`` waits for.

    Another thread may :meth:`withdraw` what is in it when the client ends, which knows it weakly
    for that.
    """

    client: Running
    poller: Poller
    windows: set[weakref.ref[ClientWindow]]  #: Of this client, each as long as it is kept.
    patience: float | None = attrs.field(default=None, kw_only=True)  #: See :class:`Outage`.
    is_patient: bool = False  #: The server has answered once: if it goes away, it is waited for.
    outage: Outage = attrs.field(init=False)
    source: Source | None = attrs.field(default=None, init=False)  #: Let go of at the end.
    is_closed: bool = attrs.field(default=False, init=False)  #: Its prompts were withdrawn.
    #: Held by the thread that withdraws first: others wait, lest they close its connection.
    _withdrawal: runtime.Lock = attrs.field(init=False)
    #: Submissions without an answer, and how often each was tried.
    _unsure: dict[str, tuple[AnyWorkflow, int]] = attrs.field(factory=dict, init=False)
    _since: dict[str, float] = attrs.field(factory=dict, init=False)
    _ended_at: float = attrs.field(default=float("-inf"), init=False)  # the last one that ended

    def __attrs_post_init__(self) -> None:
        Window.__attrs_post_init__(self)
        check_timeout(self.patience)
        self.outage = Outage(self.poller, self.patience)
        self._withdrawal = runtime.Lock()
        self.windows.add(weakref.ref(self, self.windows.discard))

    def submit(
        self, prompt_id: str, workflow: AnyWorkflow, options: Mapping[str, Any], *, tries: int = 1
    ) -> Job:
        """Submit one more; one without an answer is in it, too, until the server can say more."""
        self._entries[prompt_id] = None  # Ctrl-C may come while it is sent
        try:
            job = self._submitted(prompt_id, workflow, options)
        except SubmitUncertain as exc:
            log.warning("%s; waiting until the server can tell", exc)
            self._unsure[prompt_id] = workflow, tries
            self.outage.was_silent(self.poller.timing.look_up)
            job = self.client.job(prompt_id, workflow)
        except _SAID_NO:
            self._entries.pop(prompt_id, None)  # it did not arrive
            raise
        self.is_patient = True
        self.put(prompt_id, job)
        return job

    def _submitted(self, prompt_id: str, workflow: AnyWorkflow, options: Mapping[str, Any]) -> Job:
        def submit() -> Job:
            return self.client.submit(workflow, prompt_id=prompt_id, **options)

        if not self.is_patient:
            return submit()
        patiently = partial(self.patiently, prompt_id, Deadline.after(self.limit))
        if isinstance(workflow, Workflow):  # a file that was cut may be sent again
            send_files = partial(with_files_sent, self.client, workflow, Deadline())
            workflow = patiently(send_files, went_away)
        return patiently(submit, got_nothing)

    @property
    def trouble(self) -> str:
        """Say for how long the server has been away; empty: it is there."""
        seconds = self.outage.seconds
        return f"server away for {seconds:.0f} s" if seconds else ""

    @property
    def limit(self) -> float | None:
        """Seconds that a prompt may wait for a server that is away, to be sent."""
        return min((n for n in (self.timeout, self.stall_timeout) if n is not None), default=None)

    def patiently(
        self,
        prompt_id: str,
        deadline: Deadline,
        ask: Callable[[], T],
        is_waited_for: Callable[[Exception], bool],
    ) -> T:
        """Ask on behalf of a prompt that is not sent yet, and wait for a server that is away.

        Raises:
            JobTimeout: The deadline has passed.
            ServerUnreachable: The server has been away for longer than ``patience``.
        """

        def late(exc: ComfyError) -> ComfyError:
            return self.late(prompt_id, str(exc))

        return self.outage.patiently(ask, is_waited_for, deadline, late, self.tick)

    def late(self, prompt_id: str, why: str) -> JobTimeout:
        """Return the error of a prompt that could not be sent in time."""
        words = f"the prompt was not sent within {self.limit:g} s: {why}"
        return JobTimeout(words, prompt_id=prompt_id, stalled=self.limit != self.timeout)

    def look(
        self, *, ordered: bool = False, wait: Wait = wait_for_one
    ) -> tuple[str, Result | ComfyError] | None:
        """Look as any window does; raise ``ServerUnreachable`` once the server is away too long."""
        end = Window.look(self, ordered=ordered, wait=wait)
        if end is None:
            self.outage.look()
        return end

    def submit_again(self, prompt_id: str, error: JobLost, options: Mapping[str, Any]) -> bool:
        """Return whether it never came, and has its place again under another id."""
        workflow, tries = self._unsure.pop(prompt_id, (None, ATTEMPTS))
        if workflow is None or tries >= ATTEMPTS:
            return False
        log.warning("%s; submitting it again", error)
        again = str(uuid.uuid4())
        others = {name: entry for name, entry in self._entries.items() if name != prompt_id}
        self._entries = {again: None, **others}
        try:
            self.submit(again, workflow, options, tries=tries + 1)
        except ComfyError as exc:
            self._entries = {again: exc, **self._entries}
        return True

    def put(self, prompt_id: str, entry: Job | ComfyError) -> None:
        """Have a prompt in it that was submitted before, or why one was not."""
        Window.put(self, prompt_id, entry)
        self._since[prompt_id] = runtime.monotonic()

    def pop(self, prompt_id: str) -> Job | ComfyError | None:
        """Remove a prompt whose end is known; not before, since Ctrl-C may come."""
        self._ended_at = runtime.monotonic()
        self._since.pop(prompt_id, None)
        self._unsure.pop(prompt_id, None)
        return Window.pop(self, prompt_id)

    def _due(self, prompt_id: str, job: Job) -> Iterator[Due]:
        """Yield the moments at which the wait for a prompt is over.

        Prompts of one call wait for each other: the time of one begins when another ends, and
        news of any of them counts.
        """
        if self.timeout is not None:
            since = max(self._since.get(prompt_id, 0.0), self._ended_at)
            what = f"prompt {job.prompt_id} has not ended within {self.timeout:g} s"
            yield Due(since + self.timeout, job, what)
        if self.stall_timeout is not None:
            jobs = [job, *(self.jobs if job.status != "running" else ())]
            latest = max(self._ended_at, *(news_at(one) for one in jobs))
            what = f"no news of prompt {job.prompt_id} for {self.stall_timeout:g} s"
            yield Due(latest + self.stall_timeout, job, what, stalled=True)

    def withdraw(self) -> None:
        """Delete from the queue what is pending there; what runs keeps running.

        A call while another thread does so waits for that thread (5 seconds at most).
        """
        is_first = self._withdrawal.acquire(blocking=False)
        try:
            self._delete_all()
        finally:
            if is_first or self._withdrawal.acquire(timeout=self.poller.timing.cancel_timeout):
                self._withdrawal.release()

    def _delete_all(self) -> None:
        self.is_closed = True  # before it is empty
        entries, self._entries = self._entries, {}
        left: dict[str, Job | None] = {}
        for prompt_id, entry in entries.items():
            if isinstance(entry, Job) and not entry.done():
                left[prompt_id] = entry
            elif entry is None:  # maybe it is there
                left[prompt_id] = None
        ids = [prompt_id if job is None else job.prompt_id for prompt_id, job in left.items()]
        try:
            if ids and delete_pending(self.poller, ids):
                self.withdrawn.extend(left)
        finally:
            if self.source is not None:
                self.source.close()


def delete_pending(
    poller: Poller, prompt_ids: Sequence[str], seconds: float = float("inf")
) -> bool:
    """Delete pending prompts from the queue; return whether the server has done so in time."""
    removed = removing(poller, prompt_ids)
    try:
        timeout = min(seconds, poller.timing.cancel_timeout)
        http = poller.tracker.http
        http.send_command("POST", "/queue", json={"delete": prompt_ids}, timeout=timeout)
    except ComfyError as exc:
        log.warning("prompts may stay in the queue, %s: %s", ", ".join(prompt_ids), exc)
        return False
    removed()
    return True
