"""What runs in a worker of Dask."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import wait
from contextlib import closing
from functools import partial
from typing import Final, Literal, get_args

import attrs
from distributed import Reschedule, Worker

from ..client import ComfyApi
from ..errors import (
    ClientClosed,
    JobFailed,
    JobInterrupted,
    JobLost,
    JobTimeout,
    RequestTimeout,
    SubmitUncertain,
)
from ..jobs.job import Job
from ..jobs.submit import time_left
from ..routes.prompts import AnyWorkflow
from ..sealing import sealed
from ..transport.deadline import LONGEST, Deadline, check_timeout, limited_silence
from ..workflow.address import Inputs
from .clients import Clients
from .notes import Attempt, Notes, digest_of, submitters
from .plugin import here
from .results import TaskResult, task_result
from .search import find_prompt

log: logging.Logger = logging.getLogger("comfy_client")

#: What comes back of files.
OutputKind = Literal["references", "bytes"]
#: What becomes of a prompt of which nobody can say whether it ran.
OnLost = Literal["raise", "retry"]

#: How often a prompt runs, if it is lost each time.
ATTEMPTS: Final = 3
#: Bytes that come back from one task.
MAX_BYTES: Final = 64 << 20
#: Seconds between two looks at a server that runs a prompt.
_LOOK: Final = 1.0


def run_workflow(
    workflow: AnyWorkflow,
    inputs: Inputs | None = None,
    *,
    timeout: float | None = None,
    outputs: OutputKind = "references",
    on_lost: OnLost = "raise",
    patience: float = 60.0,
    max_bytes: int = MAX_BYTES,
) -> TaskResult:
    """Run a workflow on the ComfyUI of the Dask worker that calls this, and wait for its end.

    It is for ``client.submit`` and ``client.map``, on a cluster with a :class:`ComfyPlugin`.  If
    the worker is lost, Dask runs the task again elsewhere.  The scheduler knows to which server its
    prompt may have been sent: that one is asked for it, and all others, and the prompt that runs,
    or has run, is found.  It is rendered again only if that server does not have it.

    The same holds when Dask runs a task again whose result it has lost, and for another task with
    the same key and workflow, while the scheduler lives.  ``client.submit(..., pure=False)`` gives
    each task a key of its own.

    With ``retries=``, a task runs again after an error.  It renders again after
    :class:`JobFailed` and :class:`JobInterrupted`; after :class:`JobTimeout`, it waits for the same
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
        workflow: As for :meth:`ComfyApi.run`.  A path is one of the worker's machine: pass
            ``Workflow.load(path)``.
        inputs: As for :meth:`ComfyApi.run`.
        timeout: Seconds for everything, of each run of the task; ``None``: no limit.  If the
            submission got no answer by then, the prompt is looked up for ten more seconds.
        outputs: ``"references"``: files stay on their server; ``"bytes"``: they come with the
            result.  Images of ``SaveImageWebsocket``, which are on no server, come in any case.
        on_lost: What becomes of a prompt that a server has forgotten, or that it may have while it
            does not answer: ``"raise"`` :class:`JobLost`, or ``"retry"``: it runs again, and three
            times at most in all.  It may then run twice.
        patience: How many seconds the server of the worker, or another one that may have the
            prompt, can be away.
        max_bytes: How many bytes of files may come with the result.

    Raises:
        JobTimeout: Time ran out; the prompt keeps running, or its files have not come.
        JobLost: See ``on_lost``.
        ServerUnreachable: The server of the worker is away, and does not have the prompt.
        OutputsTooLarge: The files have more than ``max_bytes``.  They are on the server that the
            message names, except images of ``SaveImageWebsocket``, which are lost.
        RuntimeError: It was called outside of a worker, or the worker has no :class:`ComfyPlugin`,
            or no server.

    Other errors are those of :meth:`ComfyApi.run`.  All of them pass through Dask with their
    attributes.
    """
    for name, value, known in (("outputs", outputs, OutputKind), ("on_lost", on_lost, OnLost)):
        if value not in get_args(known):
            words = " or ".join(map(repr, get_args(known)))
            raise ValueError(f"{name} is {words}, not {value!r:.80}")
    if not isinstance(max_bytes, int) or max_bytes < 0:
        raise ValueError(f"max_bytes is a number of bytes, 0 or more, not {max_bytes!r:.80}")
    check_timeout(timeout, patience)
    workflow, inputs = sealed(workflow), sealed(inputs)  # frames hold them
    worker, clients = here()
    deadline = Deadline.after(timeout)
    notes = Notes(worker, worker.get_current_task(), digest_of(workflow, inputs))
    with_bytes = outputs == "bytes"
    collect = partial(task_result, with_bytes=with_bytes, max_bytes=max_bytes, deadline=deadline)
    task = _Task(worker, clients, notes, workflow, inputs, deadline, patience, collect)
    try:
        for _ in range(ATTEMPTS - 1):
            try:
                return task.run()
            except JobLost as exc:
                if on_lost == "raise":
                    raise
                log.warning("%s; running it again", exc)
                notes.is_over(notes.read())
        return task.run()
    except ClientClosed:
        if clients.closed:
            raise Reschedule from None  # the worker ends; another one finds the prompt
        raise


@attrs.frozen(repr=False, eq=False)
class _Task:
    """One run of a task."""

    worker: Worker
    clients: Clients
    notes: Notes
    workflow: AnyWorkflow
    inputs: Inputs | None
    deadline: Deadline
    patience: float
    collect: Callable[..., TaskResult]

    def run(self) -> TaskResult:
        """Take the prompt up that a run before this one has sent, or send it."""
        attempt = self.notes.read()
        if attempt.client_id is not None:
            found = find_prompt(
                self.clients,
                attempt,
                submitters(self.worker),
                patience=self.patience,
                deadline=self.deadline,
            )
            if found is not None:
                log.info("found prompt %s on %s", found.job.prompt_id, found.api.host)
                with closing(found.api):
                    return self._end(attempt, found.job, found.api, attached=True)
            attempt = self.notes.is_over(attempt)
        api = self.clients.own()
        if not api.connected:
            api.init(self.deadline.left(self.patience))
        return self._end(attempt, self._submit(api, attempt), api, attached=False)

    def _submit(self, api: ComfyApi, attempt: Attempt) -> Job:
        self.notes.sends(attempt, self.clients.client_id)
        try:
            with limited_silence(time_left(self.deadline, LONGEST)):
                return api.submit(self.workflow, self.inputs, prompt_id=attempt.prompt_id)
        except SubmitUncertain:
            return api.job(attempt.prompt_id)  # it may appear yet
        except ClientClosed:
            raise
        except Exception:
            self.notes.was_not_sent(attempt)
            raise

    def _end(self, attempt: Attempt, job: Job, api: ComfyApi, *, attached: bool) -> TaskResult:
        self._await(job, api)
        try:
            result = job.result(0)
        except (JobFailed, JobInterrupted):
            self.notes.is_over(attempt)  # retries= of Dask has it run again
            raise
        if attached and not result.complete:
            self.notes.is_over(attempt)
            raise JobLost(
                f"prompt {job.prompt_id} has run, but images of it went to the socket of a worker "
                "that was lost",
                prompt_id=job.prompt_id,
            )
        try:
            return self.collect(result, api.host, attached=attached)
        except RequestTimeout as exc:
            if not self.deadline.expired:
                raise
            raise JobTimeout(
                f"prompt {job.prompt_id} has run, but its files have not come in time: a retry of "
                "the task asks for them again",
                prompt_id=job.prompt_id,
            ) from exc

    def _await(self, job: Job, api: ComfyApi) -> None:
        """Wait for its end, and look now and then whether its server is there."""
        until = Deadline.after(self.patience)
        while not job.done() and not self.deadline.expired:
            wait([job], self.deadline.left(_LOOK))
            if job.done() or api.connected or api.ping():
                until = Deadline.after(self.patience)
            elif until.expired:
                raise JobLost(
                    f"prompt {job.prompt_id} was sent to {api.host}, which has not answered for "
                    f"{self.patience:g} s",
                    prompt_id=job.prompt_id,
                )
        if not job.done():
            raise JobTimeout(
                f"prompt {job.prompt_id} has not ended in time ({job.why()}). It keeps running on "
                f"{api.host}: a retry of the task waits for it",
                prompt_id=job.prompt_id,
            )
