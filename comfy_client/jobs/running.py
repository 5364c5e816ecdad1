"""The methods of a client that submit prompts and wait for them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, BinaryIO, Final, Unpack

import attrs

from .. import models
from ..errors import ComfyError, PromptRejected
from ..events import ErrorEvent, JobEvent, PreviewEvent, Progress
from ..routes import Routes
from ..routes.definitions import NodeDefinitions
from ..routes.inputs import with_files_sent
from ..routes.prompts import (
    AnyWorkflow,
    PromptOptions,
    make_prompt,
    post_prompt,
    seal,
)
from ..sealing import sealed
from ..showing.screen import surface
from ..signals import Receivers
from ..transport.deadline import Deadline
from ..transport.http import MAX_TRANSFER
from ..workflow.address import Inputs
from ..workflow.edit import Workflow, as_workflow, with_inputs
from ..workflow.files import files_in
from ..workflow.seeds import wants_seeds
from .job import SLICE, Callbacks, Job, Limits, OnInterrupt, cancelling, wait_for_one
from .poller import Poller
from .result import Result
from .submit import attach, submit
from .watching import wait_watched

#: Names under which pictures come of what is being made.
PREVIEWS: Final = ("b_preview", "b_preview_with_metadata")


@attrs.frozen(eq=False)
class _Source:
    """What a workflow may ask the server until a deadline."""

    routes: Routes
    definitions: NodeDefinitions
    deadline: Deadline

    def node_definitions(
        self, classes: Collection[str] | None = None, *, refresh: bool = False
    ) -> Mapping[str, Any]:
        return self.definitions.get(classes, refresh=refresh, deadline=self.deadline)

    def get_node_replacements(self) -> Mapping[str, Any]:
        return self.routes.get_node_replacements()

    def open_image(self, info: str) -> BinaryIO:
        return self.routes.open_image(info, timeout=self.deadline.left(MAX_TRANSFER))


class Running(Routes):
    """Runs workflows, and knows their jobs."""

    _poller: Poller
    _receivers: Receivers
    _definitions: NodeDefinitions

    def _check_open(self) -> None:
        """Raises :class:`ClientClosed` after ``close()``."""
        raise NotImplementedError

    @property
    def host(self) -> str:
        """The server's URL, without credentials."""
        return self._http.address.http_url

    def node_definitions(
        self, classes: Collection[str] | None = None, *, refresh: bool = False
    ) -> Mapping[str, Any]:
        """Definitions of node classes as JSON, by class; the client keeps them.

        ``GET /object_info/{class}`` for each of up to 16 classes that it does not know yet,
        else ``GET /object_info`` (half a megabyte to tens of megabytes; up to ``max_json``).  It
        forgets them when its event socket connects anew, since the server may have been
        restarted with other node packs.  Choices of files are as old as the definitions:
        ``refresh`` shows models that were added since.  Threads may ask at once; one request
        serves them all.

        Example::

            from comfy_client import ComfyApi

            with ComfyApi("http://127.0.0.1:8188") as api:
                sampler = api.node_definitions(["KSampler"])["KSampler"]
                print(sampler["input"]["required"]["steps"])

        Args:
            classes: The classes that you need; those that the server lacks are not in the
                answer.  ``None``: all.
            refresh: Ask the server again for these classes.

        Returns:
            A new dict; do not change the definitions in it, which the client keeps.

        Raises:
            TypeError: ``classes`` is a ``str``.
            UnexpectedResponse: More than ``max_json`` bytes, or no definitions.
            ApiError: The server refused; :class:`TransportError`: no answer, or not in time.
            ClientClosed: After :meth:`close`.
        """
        if isinstance(classes, str):
            raise TypeError(f"classes is a list of names, such as [{classes!r:.80}]")
        self._check_open()
        return self._definitions.get(classes, refresh=refresh, deadline=Deadline())

    def _read(
        self,
        workflow: AnyWorkflow,
        inputs: Inputs | None,
        options: PromptOptions,
        *,
        check: bool,
        deadline: Deadline,
    ) -> Workflow:
        """The workflow to submit, with its files sent; ``check``: if there is no error in it."""
        source = _Source(self, self._definitions, deadline)
        try:
            known = as_workflow(workflow, source)
            known = known if inputs is None else with_inputs(known, inputs)
            if check:
                targets = options.get("partial_execution_targets")
                known.check(source, targets=targets).raise_for_errors()
            return with_files_sent(self, known, deadline)
        except ComfyError as exc:
            self._receivers.publish(ErrorEvent(name="queue_error", error=exc))
            raise

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
            progress: Whether to show how far it is.  ``None``: ``COMFY_PROGRESS`` (0 or 1) in
                the environment decides; without it, a notebook shows a bar, the preview, and at
                the end what came out, and a terminal with tqdm (extra ``[progress]``) shows a
                bar on stderr, unless you passed a callback or called from another thread than
                the main one.  Everywhere else, ``True`` writes a line for each 10 %, and
                ``None`` logs these lines as INFO.
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
        callbacks = Callbacks(on_event, on_progress, on_preview)
        screen = surface(False if progress is None and callbacks else progress)
        self._check_open()
        inputs = sealed(inputs)
        workflow = self._read(workflow, inputs, options, check=check, deadline=limits.deadline)
        with cancelling(on_interrupt) as to_cancel:
            job = submit(
                self,
                self._poller,
                workflow,
                keep_events=bool(callbacks),
                wants_previews=bool(on_preview) or screen == "notebook" or self._wants_previews(),
                deadline=limits.deadline,
                strict=strict,
                resubmit=resubmit,
                begun=to_cancel.append,
                **options,
            )
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
            options: See :class:`PromptOptions`.
        """
        seal(options)
        self._check_open()
        inputs = sealed(inputs)
        workflow = self._read(workflow, inputs, options, check=check, deadline=Deadline())
        return submit(
            self,
            self._poller,
            workflow,
            prompt_id=prompt_id,
            wants_previews=self._wants_previews(),
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

    def job(self, prompt_id: str, workflow: AnyWorkflow | None = None) -> Job:
        """Attach to a prompt by its id: in another process, after a crash or restart.

        Asks ``GET /queue`` and ``GET /history/{prompt_id}``, once before it returns (a few
        seconds at most; without an answer the status is ``unknown``), then in the background.
        The job ends in its result, in its error, or in :class:`JobLost` if the server knows it
        neither in the queue nor in the history.  Its events go only to the client that submitted
        it, unless this one has the same ``client_id``; without them, changes of the queue show
        its end.

        An end that this client has seen is final (it remembers the last thousand).  While
        anybody holds the job of this prompt, that job is returned; later, an error is the same
        as before, and the result of a success is read from the history again.

        Args:
            prompt_id: As in ``job.prompt_id``, or as given to :meth:`submit`; a UUID in any
                form.  Servers before ComfyUI 0.3.45 choose ids themselves; there, your own id
                finds only prompts that this ``client_id`` has submitted.
            workflow: The submitted workflow, for the titles of nodes; ``None``: the server's.
        """
        self._check_open()
        known = None if workflow is None else as_workflow(workflow, self)
        graph = {} if known is None else known.to_dict()
        if wants_seeds(graph) or files_in(graph):
            graph = {}  # the server's has those that were drawn, and the names of files
        names = {} if known is None else known.output_names
        return attach(self, self._poller, prompt_id, graph, output_names=names)

    def as_completed(self, jobs: Iterable[Job], timeout: float | None = None) -> Iterator[Job]:
        """Yield jobs as they end, each once; as :func:`concurrent.futures.as_completed`.

        It sends no request, and raises no error of a job: ``job.result()`` or
        ``job.exception()`` say how it ended.

        Args:
            jobs: Jobs of :meth:`submit` and :meth:`job`, of other clients too; also a dict with
                jobs as keys.
            timeout: Seconds from this call to the last end; ``None``: no limit; 0: yield only
                the jobs that have ended.

        Raises:
            TimeoutError: Some jobs have not ended within ``timeout``; they keep running, and
                another call yields them.
            TypeError: An item is no job; :meth:`job` makes one from a ``prompt_id``.
        """
        waited_for = set(jobs)
        for job in waited_for:
            if not isinstance(job, Job):
                raise TypeError(
                    f"as_completed takes jobs, as submit and job return them: {job!r:.80}"
                )
        return _as_completed(waited_for, Limits(timeout))


def _as_completed(jobs: set[Job], limits: Limits) -> Iterator[Job]:
    """As that of concurrent.futures, but an alarm in it harms no other thread."""
    count = len(jobs)
    while jobs:
        left = limits.left(SLICE)
        if wait_for_one(jobs, left):
            done = [job for job in jobs if job.done()]
            jobs.difference_update(done)
            yield from done
        elif left <= 0:
            raise TimeoutError(
                f"{len(jobs)} of {count} prompts have not ended within {limits.timeout:g} s"
            )
