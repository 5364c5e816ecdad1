"""The methods of a client that wait: for jobs that were submitted, and for the server's memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

from ..errors import JobTimeout
from ..routes.prompts import AnyWorkflow
from ..workflow.edit import as_workflow
from ..workflow.file_inputs import files_in
from ..workflow.seeds import wants_seeds
from .job import SLICE, Job, Limits, wait_for_one
from .poller import Poller
from .reading import Reading
from .submit import attach

if TYPE_CHECKING:
    from ..models import Device

AnyJob = TypeVar("AnyJob", bound=Job)


class Waiting(Reading):
    """The part of a client that finds jobs again, and waits."""

    _poller: Poller

    def job(
        self, prompt_id: str, workflow: AnyWorkflow | None = None, *, must_exist: bool = False
    ) -> Job:
        """Attach to a prompt by its id: in another process, after a crash or restart.

        Asks ``GET /queue`` and ``GET /history/{prompt_id}``, once before it returns (a few
        seconds at most; without an answer the status is ``unknown``), then in the background.
        The job ends in its result, in its error, or in :class:`JobLost` if the server knows it
        neither in the queue nor in the history.  Its events go only to the client that submitted
        it, unless this one has the same ``client_id``; without them, changes of the queue show
        its end.

        An end that this client has seen is final (it remembers the last thousand).  While
        the job of this prompt is still in use, that job is returned; later, an error is the same
        as before, and the result of a success is read from the history again.

        Args:
            prompt_id: As in ``job.prompt_id``, or as given to :meth:`submit`; a UUID in any
                form.  Servers before ComfyUI 0.3.45 choose ids themselves; there, your own id
                finds only prompts that this ``client_id`` has submitted.
            workflow: The submitted workflow, for the titles of nodes; ``None``: the server's.
            must_exist: Whether to raise at once if the server has no such prompt, in place of a
                job that is lost some seconds later.  A prompt that this client is submitting
                exists.

        Raises:
            JobNotFound: With ``must_exist``: it is in neither.
            ComfyError: With ``must_exist``: the server did not answer, or refused.
        """
        self._check_open()
        known = None if workflow is None else as_workflow(workflow, self)
        graph = {} if known is None else known.to_dict()
        if wants_seeds(graph) or files_in(graph):
            graph = {}  # the server's has those that were drawn, and the names of files
        names = {} if known is None else known.output_names
        if must_exist:
            from .existence import check_existence

            check_existence(self._poller, prompt_id)
        return attach(self, self._poller, prompt_id, graph, output_names=names)

    def as_completed(self, jobs: Iterable[Job], timeout: float | None = None) -> Iterator[Job]:
        """Yield jobs as they end, each once; as :func:`concurrent.futures.as_completed`.

        It sends no request, and raises no error of a job: ``job.result()`` or
        ``job.exception()`` say how it ended.  Ctrl-C ends it; the prompts keep running.

        Args:
            jobs: Jobs of :meth:`submit` and :meth:`job`, of other clients too; also a dict with
                jobs as keys.
            timeout: Seconds from this call to the last end; ``None``: no limit; 0: yield only
                the jobs that have ended.

        Raises:
            JobTimeout: Some jobs have not ended within ``timeout``; the message says how many.
                They keep running, and another call yields them.
            TypeError: An item is no job; :meth:`job` makes one from a ``prompt_id``.
        """
        return as_completed(jobs, timeout)

    def wait_for_vram(
        self, nbytes: int, timeout: float | None = None, *, device: int | None = None
    ) -> Device:
        """Wait until so much memory of a device is free, and return the device.

        ``GET /system_stats``, again and again; once, if it is free already.  What torch has
        reserved and does not use counts as free.  It has nothing freed: call
        :meth:`free_memory` before, and nothing keeps it free: another prompt may take it.

        Example::

            from comfy_client import ComfyApi, NotSupported

            with ComfyApi("http://127.0.0.1:8188") as api:
                api.free_memory(unload_models=True, free_memory=True, wait=1)
                try:
                    print(api.wait_for_vram(8 * 2**30, timeout=60).vram_free)
                except NotSupported:
                    print("this server computes on the CPU")

        Args:
            nbytes: How many bytes.
            timeout: Seconds; ``None``: no limit; 0: ask once.  Outages of the server are waited
                for.
            device: The ``index`` of the device; ``None``: the main one.  Servers before ComfyUI
                0.23 tell of no other.

        Raises:
            VramTimeout: Not in time; it says how much was free at last.
            NotSupported: The server computes on the CPU, or does not tell.
            ValueError: The device has less in all, or there is no such device.
            ApiError: The server refused.
            ClientClosed: After :meth:`close`, or if it is called meanwhile.
        """
        from .memory import wait_for_vram  # few programs do

        self._check_open()
        return wait_for_vram(self, self._poller, nbytes, device, timeout)


def as_completed(jobs: Iterable[AnyJob], timeout: float | None) -> Iterator[AnyJob]:
    """See :meth:`Waiting.as_completed`."""
    waited_for = dict.fromkeys(jobs)
    for job in waited_for:
        if not isinstance(job, Job):
            raise TypeError(f"as_completed takes jobs, as submit and job return them: {job!r:.80}")
    return _as_completed(waited_for, Limits(timeout))


def _as_completed(jobs: dict[AnyJob, None], limits: Limits) -> Iterator[AnyJob]:
    """Yield jobs as concurrent.futures does; an alarm in here harms no other thread."""
    count = len(jobs)
    while jobs:
        left = limits.left(SLICE)
        if wait_for_one(jobs, left):
            done = [job for job in jobs if job.done()]
            for job in done:
                del jobs[job]
            yield from done
        elif left <= 0:
            first = next(iter(jobs)).prompt_id
            raise JobTimeout(
                f"{len(jobs)} of {count} prompts have not ended within {limits.timeout:g} s and "
                f"keep running, {first} among them: wait again, or attach by api.job(prompt_id)",
                prompt_id=first,
            )
