"""The methods of a client that submit prompts and wait for them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final, Unpack

import attrs

from .. import models
from ..errors import ComfyError, PromptRejected
from ..events import ErrorEvent, JobEvent, PreviewEvent, Progress
from ..locks import check_may_wait
from ..recording.secrets import Secrets
from ..routes.inputs import with_files_sent
from ..routes.prompts import (
    AnyWorkflow,
    PromptOptions,
    make_prompt,
    post_prompt,
    seal,
)
from ..sealing import sealed
from ..showing.screen import Surface, surface
from ..transport.deadline import Deadline
from ..workflow.address import Inputs
from ..workflow.edit import Workflow, as_workflow
from .callbacks import Callbacks, deliver, wait
from .existence import announced
from .job import Job, Limits, OnInterrupt, cancelling
from .poller import Poller
from .result import NodeOutput, Result
from .submit import submit
from .waiting import Waiting

#: Names under which pictures come of what is being made.
PREVIEWS: Final = ("b_preview", "b_preview_with_metadata")


class Running(Waiting):
    """The part of a client that runs workflows."""

    def _wants_previews(self) -> bool:
        return self._receivers.listens(*PREVIEWS)

    def run(
        self,
        workflow: AnyWorkflow,
        inputs: Inputs | None = None,
        *,
        timeout: float | None = None,
        stall_timeout: float | None = None,
        strict: bool = False,
        check: bool = False,
        resubmit: bool = False,
        on_interrupt: OnInterrupt = "leave",
        on_event: Callable[[JobEvent], object] | None = None,
        on_progress: Callable[[Progress], object] | None = None,
        on_preview: Callable[[PreviewEvent], object] | None = None,
        on_start: Callable[[Job], object] | None = None,
        on_output: Callable[[str, NodeOutput], object] | None = None,
        on_queue: Callable[[int], object] | None = None,
        every: float | None = None,
        retry_oom: bool = False,
        progress: bool | None = None,
        **options: Unpack[PromptOptions],
    ) -> Result:
        """Run a workflow and return its outputs: :meth:`submit` and :meth:`Job.result`.

        ``POST /prompt``, events, and ``GET /history/{prompt_id}`` where events have gaps.  It
        returns after receivers have had all events of the prompt (unless they take more than 5
        seconds, or more than is left of ``timeout``).

        Example::

            from comfy_client import ComfyApi

            with ComfyApi("http://127.0.0.1:8188") as api:
                result = api.run("txt2img.json", timeout=300, on_progress=print)
                print(result.images[0].filename)

        Args:
            workflow: A :class:`Workflow`, or what :meth:`Workflow.load` reads: a dict, JSON
                text, the path of a JSON file or of a saved image, a job, a result, ...  For an
                input ``seed`` or ``noise_seed`` that is ``"random"`` or -1, a seed is drawn,
                which is in :attr:`Result.seeds`.
            inputs: Other values for this run, ``{"KSampler.seed": 7}``, as
                :meth:`Workflow.set`; your workflow is not changed.
            timeout: Seconds for everything; ``None``: no limit.  If the submission got no
                answer by then, the client looks the prompt up for two more seconds.
            stall_timeout: Seconds without any news of the prompt; ``None``: no limit.  Loading a
                model, or another client's long prompt before it, can be minutes without news.
            strict: As for :meth:`submit`.
            check: As for :meth:`submit`.
            resubmit: As for :meth:`submit`.
            on_interrupt: On Ctrl-C, return at once and let the prompt run (``"leave"``), or
                cancel it first (``"cancel"``, 5 seconds at most).
            on_event: Called with every event of this prompt, in this thread; also with events of
                custom nodes whose data has its ``prompt_id``.
            on_progress: Called with its ``progress`` events only.
            on_preview: Called with its previews only.
            on_start: Called once with the :class:`Job`, when the prompt begins to run.
            on_output: Called with the id of a node and its :class:`NodeOutput`, as soon as it is
                there, from the cache too.  Outputs that no event brings (images of
                ``SaveImageWebsocket``, those in the cache of servers before August 2024) come at
                the end.
            on_queue: Called with how many prompts are before it, as that changes, until it begins:
                0 if it is next.  Not at all if it begins at once.
            every: Seconds between two calls of ``on_progress``, and of ``on_preview``, at the
                least: the newest is kept meanwhile, and the last one comes in any case.
                ``None``: each is called.  Images of ``SaveImageWebsocket`` always are.
            retry_oom: If a node runs out of memory (:attr:`JobFailed.is_oom`), have the server
                unload its models and caches (:meth:`free_memory`), and run the workflow once more,
                with the same seeds, under a new id; ``timeout`` is for both.  If that fails, its
                error has the first one as its cause.
            progress: Whether to show how far it is.  A notebook shows a bar, the preview, and at
                the end what came out; a terminal with tqdm (extra ``[progress]``) shows a bar,
                and anything else gets a line for each 10 %, both on stderr.  ``None``: it is shown
                unless you passed a callback, called from another thread than the main one, or have
                ``COMFY_PROGRESS=0`` in the environment; if the log's level is INFO, the log gets
                the lines, unless ``COMFY_PROGRESS`` is 1.
            options: See :class:`PromptOptions`.

        Raises:
            PromptRejected: The server refused the workflow.
            JobFailed: A node raised an exception, which the error describes.
            JobInterrupted: Someone stopped the prompt.
            JobLost: The server was restarted, or the prompt was deleted.
            JobTimeout: Time ran out, or no news came; the prompt keeps running.
            RequestTimeout: Time ran out before node definitions came, which ``check`` and files
                in UI format need, or before a file of an input was uploaded.
            UploadTooLarge: A file of an input exceeds the server's limit; other errors of
                :meth:`upload_image` for it.
            SubmitUncertain: The submission got no answer, and the prompt could not be found.
            WorkflowError: The graph cannot be sent, a name in ``inputs`` is wrong, or ``check``
                found an error.
        """
        seal(options)
        limits = Limits(timeout, stall_timeout)
        callbacks = Callbacks(
            on_event, on_progress, on_preview, on_start, on_output, on_queue, every
        )
        screen = surface(False if progress is None and callbacks else progress)
        self._check_open()
        inputs = sealed(inputs)
        workflow = self._read(workflow, inputs, options, check=check, deadline=limits.deadline)
        attempt = partial(
            self._attempt,
            limits=limits,
            screen=screen,
            callbacks=callbacks,
            on_interrupt=on_interrupt,
            strict=strict,
            resubmit=resubmit,
            **options,
        )
        if not retry_oom:
            return attempt(workflow)
        from .memory import run_again_after_oom  # few programs want it

        return run_again_after_oom(lambda: self, self._poller.timing, limits, attempt, workflow)

    def _attempt(
        self,
        workflow: Workflow,
        *,
        limits: Limits,
        screen: Surface,
        callbacks: Callbacks,
        on_interrupt: OnInterrupt,
        strict: bool,
        resubmit: bool,
        **options: Unpack[PromptOptions],
    ) -> Result:
        check_may_wait()  # before it is submitted
        wants_previews = callbacks.on_preview is not None or screen == "notebook"
        with cancelling(on_interrupt) as to_cancel:
            job = submit(
                self,
                self._poller,
                workflow,
                keep_events=bool(callbacks),
                wants_previews=wants_previews or self._wants_previews(),
                deadline=limits.deadline,
                begun=to_cancel.append,
                strict=strict,
                resubmit=resubmit,
                **options,
            )
            if screen == "none":
                return wait(job, limits, callbacks)
            from .watching import wait_watched  # most programs show nothing

            return wait_watched(job, limits, screen, callbacks, on_interrupt=on_interrupt)

    def submit(
        self,
        workflow: AnyWorkflow,
        inputs: Inputs | None = None,
        *,
        prompt_id: str | None = None,
        strict: bool = False,
        check: bool = False,
        resubmit: bool = False,
        on_event: Callable[[JobEvent], object] | None = None,
        on_progress: Callable[[Progress], object] | None = None,
        on_preview: Callable[[PreviewEvent], object] | None = None,
        on_start: Callable[[Job], object] | None = None,
        on_output: Callable[[str, NodeOutput], object] | None = None,
        on_queue: Callable[[int], object] | None = None,
        every: float | None = None,
        **options: Unpack[PromptOptions],
    ) -> Job:
        """Put a workflow into the queue and return its :class:`Job`, a Future.

        ``POST /prompt``.  Errors of the submission are raised here, as in :meth:`run`; errors
        of the run by ``job.result()``.

        Example::

            from comfy_client import ComfyApi

            with ComfyApi("http://127.0.0.1:8188") as api:
                job = api.submit("txt2img.json")
                print(job.prompt_id, job.status)
                result = job.result(timeout=300)

        Args:
            workflow: As for :meth:`run`.
            inputs: As for :meth:`run`.
            prompt_id: Your own id, a canonical UUID never used before, if you must store it
                before the submission.  ``None``: a new one.  Servers before 0.3.45 choose
                another, which is ``job.prompt_id``; :meth:`job` finds the prompt by yours too.
            strict: If only a part of the workflow would run, cancel it and raise
                :class:`PromptRejected` (:class:`WorkflowError` for a link to a missing node,
                which is never sent).  Otherwise this is a warning, and in ``job.node_errors``.
            check: Check the workflow first (:meth:`Workflow.check`), and send nothing if there is
                an error: :class:`WorkflowError`, whose ``problems`` has all of them.
            resubmit: Send a submission again (at most twice, under the same id) that got no
                answer and cannot be found on the server, instead of raising
                :class:`SubmitUncertain`.  If the server is down, it first waits for it, for the
                client's ``timeout``.  If the first submission was merely late, it runs twice.
            on_event: As for :meth:`run`, but called in the delivery thread, one after the other
                with the receivers of signals: a slow one delays those.  One that raises is logged,
                and called again.  ``job.result()`` returns after all calls, as for receivers.
            on_progress: As ``on_event``.
            on_preview: As ``on_event``.
            on_start: As ``on_event``.
            on_output: As ``on_event``.
            on_queue: As ``on_event``.
            every: As for :meth:`run`.
            options: See :class:`PromptOptions`.
        """
        seal(options)
        callbacks = Callbacks(
            on_event, on_progress, on_preview, on_start, on_output, on_queue, every
        )
        self._check_open()
        inputs = sealed(inputs)

        def begin(job: Job) -> None:
            if callbacks:
                deliver(self._receivers, callbacks, job)()

        with announced(self._poller.tracker, prompt_id):
            workflow = self._read(workflow, inputs, options, check=check, deadline=Deadline())
            return submit(
                self,
                self._poller,
                workflow,
                prompt_id=prompt_id,
                wants_previews=callbacks.on_preview is not None or self._wants_previews(),
                begun=begin,
                strict=strict,
                resubmit=resubmit,
                **options,
            )

    def queue_prompt(
        self,
        number: float | None,
        workflow: AnyWorkflow,
        *,
        prompt_id: str | None = None,
        **options: Unpack[PromptOptions],
    ) -> models.QueuedPrompt:
        """Put a workflow into the queue, and return at once.  ``POST /prompt``.

        :meth:`run` does this and waits.  The request is never repeated: if no answer comes, the
        prompt may be in the queue nevertheless.

        Args:
            number: The priority, lower runs first; ``None`` and 0 append the prompt, -1 puts it
                at the front.
            workflow: As for :meth:`run`.
            prompt_id: Your own id, a canonical UUID.  Servers before 0.3.45 ignore it: read
                the id from the answer.  ``None``: the server chooses.
            options: See :class:`PromptOptions`.

        Raises:
            PromptRejected: The server refused; the message says why in words.
            WorkflowError: The graph cannot be sent: NaN, editor format, a link to a missing node.
                If such a link concerns only some of the outputs, the others are sent, and
                ``node_errors`` of the answer names the ones that were left out.
            TypeError: ``extra_data`` or ``workflow_ui`` holds what JSON cannot represent, or does
                not have the form that servers need; the message names the place.
            UploadTooLarge: The body, or a file of an input, exceeds the server's limit.
        """
        seal(options)
        try:
            workflow = with_files_sent(self, as_workflow(workflow, self), Deadline())
            prompt = make_prompt(
                self._http,
                workflow,
                client_id=self._poller.tracker.connection.client_id,
                number=number,
                prompt_id=prompt_id,
                wants_previews=self._wants_previews(),
                **options,
            )
            try:
                queued = post_prompt(self._http, prompt.body)
            except PromptRejected as exc:
                from ..routes.refusals import blame_what_was_left_out

                blame_what_was_left_out(exc, prompt.graph, prompt.left_out)
                raise
            return attrs.evolve(queued, node_errors={**prompt.left_out, **queued.node_errors})
        except ComfyError as exc:
            self._receivers.publish(ErrorEvent(name="queue_error", error=exc))
            raise

    def append_prompt(
        self,
        workflow: AnyWorkflow,
        *,
        prompt_id: str | None = None,
        **options: Unpack[PromptOptions],
    ) -> models.QueuedPrompt:
        """:meth:`queue_prompt` at the end of the queue.  ``POST /prompt``."""
        seal(options)
        return self.queue_prompt(None, workflow, prompt_id=prompt_id, **options)


def submit_begun(
    client: Running,
    workflow: AnyWorkflow,
    *,
    prompt_id: str,
    wants_previews: bool,
    strict: bool,
    check: bool,
    resubmit: bool,
    begun: Callable[[Job], object],
    options: PromptOptions,
) -> Job:
    """Submit as :meth:`Running.submit` does; ``begun`` gets the job before anything is sent."""
    client._check_open()
    with announced(client._poller.tracker, prompt_id):
        workflow = client._read(workflow, None, options, check=check, deadline=Deadline())
        return submit(
            client,
            client._poller,
            workflow,
            prompt_id=prompt_id,
            wants_previews=wants_previews or client._wants_previews(),
            begun=begun,
            strict=strict,
            resubmit=resubmit,
            **options,
        )


def poller_of(client: Running) -> Poller:
    """Return the poller of a client."""
    return client._poller


def add_secrets_of(client: Running, secrets: Secrets) -> None:
    """Add the credentials of a client to the secrets."""
    client._http.identity.add_secrets_to(secrets)
