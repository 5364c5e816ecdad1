"""``ComfyApi``: everything one server can do, in one object.  Wiring only."""

from __future__ import annotations

import copy
import functools
import logging
import math
import os
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, Self, Unpack, overload

import attrs
import blinker

from . import models
from .budget import Budget
from .credentials import AnyCredentials, BasicCredentials, EnvCredentials
from .errors import (
    AuthenticationError,
    ClientClosed,
    ComfyError,
    PromptRejected,
    ServerUnreachable,
    TransportError,
)
from .events import (
    ErrorEvent,
    Event,
    JobEvent,
    PreviewEvent,
    Progress,
)
from .jobs import tracker as jobs_module
from .jobs.job import FLUSH, SLICE, Job, Limits, OnInterrupt, cancelling, wait, wait_for_one
from .jobs.result import Result
from .jobs.tracker import PREVIEWS, Jobs
from .routes import Routes
from .routes.prompts import (
    AnyWorkflow,
    PromptOptions,
    blame_what_was_left_out,
    make_prompt,
    post_prompt,
    seal,
)
from .sealing import sealed, sealed_headers
from .signals import Receivers
from .subscriptions import Subscriptions
from .threads import in_full
from .timing import Timing
from .transport.dial import plan_for, speaks_tls
from .transport.failures import is_away
from .transport.http import MAX_JSON, Answer, Http, Params
from .transport.url import parse_host
from .transport.websocket import Connection, State
from .workflow.edit import as_workflow, load_graph

if TYPE_CHECKING:
    import requests

    from .batch.map import SubmitOptions, Window
    from .batch.sweep import Sweep, SweepRow
    from .doctor.report import DoctorReport
    from .recording.recorder import Recorder

log: logging.Logger = logging.getLogger("comfy_client")

#: Seconds between the first two attempts of ``init``; they grow.
FIRST_PAUSE: Final = 0.1

_clients: weakref.WeakSet[ComfyApi] = weakref.WeakSet()


class ComfyApi(Routes, Subscriptions):
    """A blocking client of one ComfyUI server.

    Creating a client does no I/O; :meth:`init` (or ``with``) connects.  All methods may be
    called from several threads.  After ``os.fork``, the child has an id and connections of its
    own.  ``copy.copy`` makes a client with the same configuration, which does not record;
    ``copy.deepcopy``, of a result too, keeps the same client.  A pickle contains the
    configuration without secrets, and without ``headers``, ``session`` and ``namespace``; a
    warning names them when it is loaded.

    Example::

        from comfy_client import ComfyApi, Workflow

        with ComfyApi("http://127.0.0.1:8188") as api:
            result = api.run(Workflow.load("txt2img.json"))
            result.images[0].save("out/")

    Args:
        host: ``gpu-box:8188``, ``https://example.org/comfy/``, ``user:pass@host``, ...
            Without a scheme it is http, without scheme and port the port is 8188.
        client_id: Routes the server's events to this client; never share one between two.
            ``None``: a new UUID.  If the server rejects it (closes the next socket with code
            1008), the client continues with a new one.
        credentials: ``(username, password)``, one of the ``...Credentials`` classes, or a
            callable that returns one, which is called before each WebSocket connection and
            again after a 401.
        user: Your id on a server with ``--multi-user``, as :meth:`create_user` returns it
            (header ``Comfy-User``).
        timeout: Seconds to connect, and for the whole answer to a request; one number means
            both.  File transfers have an hour, or their own ``timeout``, and end earlier if no
            data moves for this many seconds.
        verify: TLS: ``True`` for public CAs, the path of a CA bundle, or ``False``.  The same
            for HTTP and the socket.
        cert: The client certificate: a path, or (certificate, key).
        proxies: By scheme, as in requests; ``None``: from the environment; ``{}``: none.
            Loopback addresses bypass the proxy.
        headers: Further headers of every request and of the handshake.  For secrets use
            ``HeaderCredentials`` instead.
        session: Your own :class:`requests.Session` (adapters, cookies, auth); you close it.
            Its adapter may retry, but no POST that the server may have received.  With an
            adapter that is no ``HTTPAdapter``, a slow answer may take longer than ``timeout``.
        transport: ``"auto"``, or ``"poll"`` to never open a WebSocket.
        namespace: The namespace of the documented signals; ``None``: blinker's default one.
        record: The path of a new file that records, without secrets, the requests, answers and
            messages of this client, for ``ComfyServer.replay``; see
            :mod:`comfy_client.recording.recorder`.  Pickles and children of a fork do not record.
        max_json: The largest answer that is decoded, in bytes: node definitions, queue,
            history, lists.  A larger one, or one that would need more than 10 times as much
            memory, is an :class:`UnexpectedResponse`.  The limit of small answers (counts,
            receipts, features) and of refusals is 1 MiB.  A value above the default also raises
            other limits: twice as much for a message of the socket, also for a text and its size
            in memory, and three times as much for all events that wait for receivers and outputs
            of jobs that have not ended.

    Attributes:
        timing: The times of the event thread; a subclass may set its own.

    Raises:
        ValueError: ``host``, ``timeout`` or ``max_json`` make no sense, or ``session`` would
            repeat a POST; ``TypeError`` for credentials.
        OSError: ``record`` cannot be written, or exists already (``FileExistsError``).
    """

    timing: Timing = Timing()

    def __init__(
        self,
        host: str = "http://127.0.0.1:8188",
        client_id: str | None = None,
        *,
        credentials: AnyCredentials | None = None,
        user: str | None = None,
        timeout: float | tuple[float, float] = (5.0, 60.0),
        verify: bool | str | os.PathLike[str] = True,
        cert: str | tuple[str, str] | None = None,
        proxies: Mapping[str, str | None] | None = None,
        headers: Mapping[str, str] | None = None,
        session: requests.Session | None = None,
        transport: Literal["auto", "poll"] = "auto",
        namespace: blinker.Namespace | None = None,
        record: str | os.PathLike[str] | None = None,
        max_json: int = MAX_JSON,
    ) -> None:
        address, userinfo = parse_host(host)
        if userinfo is not None:
            if credentials is not None:
                raise ValueError("credentials stand both in host and in credentials=; give one")
            credentials = BasicCredentials(*userinfo)
        if transport not in ("auto", "poll"):
            raise ValueError("transport is 'auto' or 'poll'")
        if client_id is not None and not isinstance(client_id, str):
            raise TypeError("client_id is a text; a port goes into host, as in 'gpu-box:8188'")
        if client_id == "":
            raise ValueError("client_id is empty; None makes one")
        self._transport = transport
        http = Http(
            address,
            credentials=credentials,
            user=user,
            timeout=timeout,
            verify=verify,
            cert=cert,
            proxies=proxies,
            headers=headers,
            session=session,
            max_json=max_json,
        )
        super().__init__(http)
        # What a pickle carries; a secret is in none of it.
        self._config: dict[str, Any] = {
            "host": address.http_url,
            "credentials": credentials if isinstance(credentials, EnvCredentials) else None,
            "user": user,
            "timeout": timeout,
            "verify": os.fspath(verify) if isinstance(verify, os.PathLike) else verify,
            "cert": cert,
            "proxies": None if proxies is None else _without_passwords(proxies),
            "transport": transport,
            "max_json": max_json,
        }
        self._stays_behind = tuple(
            name
            for name, stays in {
                "credentials": credentials is not None and self._config["credentials"] is None,
                "proxies": proxies is not None and self._config["proxies"] != dict(proxies),
                "headers": bool(headers),
                "session": session is not None,
                "namespace": namespace is not None,
            }.items()
            if stays
        )
        kind, sent = type(self), dict(headers or {})
        # It holds secrets, so it is nothing that shows them; and it does not hold this object.
        self._like_this: Callable[[], ComfyApi] = lambda: kind(
            address.http_url,
            credentials=credentials,
            user=user,
            timeout=timeout,
            verify=verify,
            cert=cert,
            proxies=proxies,
            headers=sent,
            session=session,
            transport=transport,
            namespace=namespace,
            max_json=max_json,
        )
        #: Of what waits for receivers, and of what jobs are left.
        self._budget = Budget(3 * max(MAX_JSON, max_json))
        self._receivers = Receivers(self, namespace, self._budget)
        self._recorder = None if record is None else _recorder(record)
        self._http.record(self._recorder)
        self._closed = False
        self._set_up(client_id or self.generate_id())
        _clients.add(self)

    def _set_up(self, client_id: str) -> None:
        """What belongs to one process; made anew in the child of a fork."""
        self._jobs = Jobs(self)
        self._connection = Connection(
            self._jobs,
            partial(plan_for, self._http),
            client_id,
            poll_only=self._transport == "poll",
            timing=self.timing,
            recorder=self._recorder,
            max_frame=2 * self._http.max_json if self._http.max_json > MAX_JSON else None,
        )
        self._awaits_record = self._jobs.awaits_record
        # Prompts of map() and sweep(), which keep this object, and not the other way round.
        self._windows: set[weakref.ref[Window]] = set()
        # Collected or at exit: nothing in here may refer to this object.
        self._finalizer = weakref.finalize(
            self,
            _shut_down,
            partial(_withdraw, self._windows),  # at exit, when there are still some
            self._connection.stop,
            self._jobs.shutdown(),
            self._receivers.shutdown(),
            self._http.endpoint.shutdown(),
            *([] if self._recorder is None else [self._recorder.close]),
        )

    # -- life ----------------------------------------------------------------------------

    @staticmethod
    def generate_id() -> str:
        """A new random id, a canonical UUID."""
        return str(uuid.uuid4())

    @property
    def client_id(self) -> str:
        """The id that routes the server's events to this client."""
        return self._connection.client_id

    @property
    def host(self) -> str:
        """The server's URL, without credentials."""
        return self._http.address.http_url

    @property
    def state(self) -> State:
        """The state of the event thread."""
        return self._connection.state

    @property
    def connected(self) -> bool:
        """Whether the WebSocket is connected."""
        return self._connection.state is State.CONNECTED

    @property
    def dropped_events(self) -> int:
        """How many events were dropped since receivers, iterators or callbacks were too slow.

        Those of jobs count, too (``job.events()``, ``run(on_preview=...)``).  These are previews
        and progress that newer ones replaced, and events beyond the limits: 10,000 for each
        receiver or iterator, and 192 MiB, or three times ``max_json``, for all.
        """
        return self._receivers.dropped

    def init(self, timeout: float | None = 10.0) -> Self:
        """Connect, and return the client itself.

        Waits until the server answers and the socket is connected.  If there is HTTP but no
        WebSocket, ``websocket_unavailable`` fires and the client asks the queue over HTTP.

        Args:
            timeout: Seconds; ``None``: no limit.  Until then, it retries while the server is
                starting (connection refused, or a proxy's 502 to 504, 520 to 527); permanent
                errors fail immediately.

        Raises:
            ServerUnreachable: No connection, unknown host, or a TLS failure.
            AuthenticationError: 401 or 403, over HTTP or in the socket's handshake.
            UnexpectedResponse: The answer is not from a ComfyUI.
            RequestTimeout: Connected, but no answer in time.
            ValueError: ``timeout`` is negative or ``nan``; TypeError: it is no number.
            ClientClosed: After :meth:`close`, or if it is called meanwhile.
        """
        deadline = Limits(timeout).deadline or math.inf
        pause = FIRST_PAUSE
        while True:
            self._check_open()
            left = max(0.05, deadline - time.monotonic())
            try:
                self._test_credentials(min(left, self._http.total_timeout))
                break
            except ComfyError as exc:
                self._check_open()
                if pause == FIRST_PAUSE and self._is_for_tls(exc, deadline):
                    exc = ServerUnreachable(
                        f"{self.host}: speaks TLS, not plain http; use https:// in host",
                        retryable=False,
                    )
                if not _may_mend(exc) or time.monotonic() + pause >= deadline:
                    self._receivers.publish(ErrorEvent(name="connection_error", error=exc))
                    raise exc
                if pause == FIRST_PAUSE:  # whoever waits wants to know for what
                    patience = "" if timeout is None else f"{timeout:g} s "
                    log.warning("waiting %sfor the server to come up: %s", patience, exc)
                log.debug("not up yet: %s", exc)
            self._jobs.pause(pause)
            pause = min(1.0, pause * 1.6)
        self._connection.retry()
        left = max(0.05, deadline - time.monotonic())
        state = self._connection.wait_settled(left, first_verdict=False)
        self._check_open()
        error = self._connection.error
        if self._connection.is_hopeless and error is not None:
            self._receivers.publish(ErrorEvent(name="connection_error", error=error))
            # A copy: the thread keeps its own, and must not hold this frame through it.
            raise copy.copy(error) from error.__cause__
        if state not in (State.CONNECTED, State.POLLING):
            log.warning("HTTP works, but the event socket is not up yet (%s)", error or "slow")
        return self

    def _is_for_tls(self, exc: ComfyError, deadline: float) -> bool:
        """Whether a server that cut us short wants https; asked for a second at most."""
        address = self._http.address
        if type(exc) is not TransportError or address.scheme != "http":
            return False
        left = min(1.0, self._http.connect_timeout, max(0.05, deadline - time.monotonic()))
        return speaks_tls(address, self._http.endpoint.proxy, left, lambda _: None)

    def close(self) -> None:
        """Release all resources immediately: from any thread or callback, any number of times.

        In other threads, waiting for jobs, requests and transfers ends in :class:`ClientClosed`
        (during a name lookup or while connecting, as soon as that is done).  Prompts keep
        running.  The pending prompts of a :meth:`map` or :meth:`sweep` that has not ended are
        deleted from the queue first (5 seconds at most).
        """
        self._closed = True
        steps: list[Callable[[], object]] = [
            partial(_withdraw, self._windows),
            self._connection.stop,
            self._jobs.close,
            self._receivers.close,
            self._http.close,
            self._finalizer.detach,
            lambda: self._connection.join(0.3),
        ]
        if self._recorder is not None:
            steps.append(self._recorder.close)
        in_full(steps)

    def __enter__(self) -> Self:
        try:
            return self.init()
        except BaseException as exc:
            self._leave(exc)
            raise

    def __exit__(self, _: object, exc: BaseException | None, __: object) -> None:
        self._leave(exc)

    def _leave(self, exc: BaseException | None) -> None:
        try:
            if isinstance(exc, ComfyError):
                self._receivers.flush(FLUSH)  # so that receivers get auth_error and the like
        finally:
            self.close()

    def __repr__(self) -> str:
        return f"<ComfyApi {self.host} {self.state.value}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickle, (
            type(self),
            self._config,
            self._http.identity.has_secrets,
            self._stays_behind,
        )

    def __copy__(self) -> ComfyApi:
        return self._like_this()

    def __deepcopy__(self, memo: object) -> Self:
        return self  # as of a module or a thread: there is no second one of its connections

    def _check_open(self) -> None:
        if self._closed:
            raise ClientClosed

    def _after_fork(self) -> None:
        """In the child: the parent keeps its id, its socket, its pool and its jobs."""
        was_closed = self._closed
        self._finalizer.detach()
        self._budget.after_fork()
        self._connection.abandon()
        if self._recorder is not None:
            self._recorder.abandon()
            self._recorder = None
        self._jobs.orphan()
        self._http.after_fork()
        self._receivers.reset()
        self._closed = False
        self._set_up(self.generate_id())
        if was_closed:
            self.close()

    # -- running -------------------------------------------------------------------------

    def run(
        self,
        workflow: AnyWorkflow,
        *,
        timeout: float | None = None,
        stall_timeout: float | None = None,
        strict: bool = False,
        resubmit: bool = False,
        on_interrupt: OnInterrupt = "leave",
        on_event: Callable[[JobEvent], object] | None = None,
        on_progress: Callable[[Progress], object] | None = None,
        on_preview: Callable[[PreviewEvent], object] | None = None,
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
            workflow: In API format: a :class:`Workflow`, a dict, JSON text, or a file's path.
            timeout: Seconds for everything; ``None``: no limit.  If the submission got no
                answer by then, the client looks the prompt up for two more seconds.
            stall_timeout: Seconds without any news of the prompt; ``None``: no limit.  Loading a
                model, or another client's long prompt before it, can be minutes without news.
            strict: As for :meth:`submit`.
            resubmit: As for :meth:`submit`.
            on_interrupt: On Ctrl-C, return at once and let the prompt run (``"leave"``), or
                cancel it first (``"cancel"``, 5 seconds at most).
            on_event: Called with every event of this prompt, in this thread; also with events of
                custom nodes whose data has its ``prompt_id``.
            on_progress: Called with its ``progress`` events only.
            on_preview: Called with its previews only.
            options: See :class:`PromptOptions`.

        Raises:
            PromptRejected: The server refused the workflow.
            JobFailed: A node raised an exception, which the error describes.
            JobInterrupted: Someone stopped the prompt.
            JobLost: The server was restarted, or the prompt was deleted.
            JobTimeout: Time ran out, or no news came; the prompt keeps running.
            SubmitUncertain: The submission got no answer, and the prompt could not be found.
            WorkflowError: The graph cannot be sent.
        """
        seal(options)
        limits = Limits(timeout, stall_timeout)
        for callback in (on_event, on_progress, on_preview):
            if callback is not None and not callable(callback):
                raise TypeError(f"a callback is called with one event: {callback!r}")
        tapped = bool(on_event or on_progress or on_preview)
        self._check_open()
        workflow = as_workflow(workflow)
        with cancelling(on_interrupt) as to_cancel:
            job = self._jobs.submit(
                workflow,
                tapped=tapped,
                wants_previews=on_preview is not None,
                deadline=limits.deadline,
                strict=strict,
                resubmit=resubmit,
                begun=to_cancel.append,
                **options,
            )
            if not tapped:
                return job._outcome(limits)
            return wait(
                job,
                limits,
                on_event=on_event,
                on_progress=on_progress,
                on_preview=on_preview,
            )

    def submit(
        self,
        workflow: AnyWorkflow,
        *,
        prompt_id: str | None = None,
        strict: bool = False,
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
            workflow: In API format.
            prompt_id: Your own id, a canonical UUID never used before, if you must store it
                before the submission.  ``None``: a new one.  Servers before 0.3.45 choose
                another, which is ``job.prompt_id``; :meth:`job` finds the prompt by yours too.
            strict: If only a part of the workflow would run, cancel it and raise
                :class:`PromptRejected` (:class:`WorkflowError` for a link to a missing node,
                which is never sent).  Otherwise this is a warning, and in ``job.node_errors``.
            resubmit: Send a submission again (at most twice, under the same id) that got no
                answer and cannot be found on the server, instead of raising
                :class:`SubmitUncertain`.  If the server is down, it first waits for it, for the
                client's ``timeout``.  If the first submission was merely late, it runs twice.
            options: See :class:`PromptOptions`.
        """
        seal(options)
        self._check_open()
        workflow = as_workflow(workflow)
        return self._jobs.submit(
            workflow, prompt_id=prompt_id, strict=strict, resubmit=resubmit, **options
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
            workflow: In API format.
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
            UploadTooLarge: The body exceeds the server's limit.
        """
        seal(options)
        try:
            workflow = as_workflow(workflow)
            prompt = make_prompt(
                self._http,
                workflow,
                client_id=self.client_id,
                number=number,
                prompt_id=prompt_id,
                wants_previews=self._receivers.listens(*PREVIEWS),
                **options,
            )
            try:
                queued = post_prompt(self._http, prompt.body)
            except PromptRejected as exc:
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
        return self._jobs.take_up(prompt_id, {} if workflow is None else load_graph(workflow))

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

    @overload
    def map(
        self,
        workflows: Iterable[AnyWorkflow] | AnyWorkflow,
        params: Iterable[Mapping[str, Any]] | None = None,
        *,
        in_flight: int = 4,
        ordered: bool = True,
        on_error: Literal["raise"] = "raise",
        timeout: float | None = None,
        stall_timeout: float | None = None,
        **options: Unpack[SubmitOptions],
    ) -> Generator[Result, None, None]: ...

    @overload
    def map(
        self,
        workflows: Iterable[AnyWorkflow] | AnyWorkflow,
        params: Iterable[Mapping[str, Any]] | None = None,
        *,
        in_flight: int = 4,
        ordered: bool = True,
        on_error: Literal["keep"],
        timeout: float | None = None,
        stall_timeout: float | None = None,
        **options: Unpack[SubmitOptions],
    ) -> Generator[Result | ComfyError, None, None]: ...

    def map(
        self,
        workflows: Iterable[AnyWorkflow] | AnyWorkflow,
        params: Iterable[Mapping[str, Any]] | None = None,
        *,
        in_flight: int = 4,
        ordered: bool = True,
        on_error: Literal["raise", "keep"] = "raise",
        timeout: float | None = None,
        stall_timeout: float | None = None,
        **options: Unpack[SubmitOptions],
    ) -> Generator[Result | ComfyError, None, None]:
        """Run many workflows, and yield their results while more are submitted.

        Nothing is submitted before the first ``next``.  At most ``in_flight`` workflows are
        taken whose results you have not had: infinite iterables are fine, other clients get
        their turn in the queue, and little is left there if something breaks.

        If it ends early (``break``, ``close()`` of it or of the client, Ctrl-C, an error, the
        end of the script), its pending prompts are deleted from the queue; the running one
        keeps running.

        Once the server has accepted a prompt, outages are waited for: connection refused, a
        proxy's 502 to 504, an unknown host for a while.  Prompts that reached the server are
        attached again, and those that surely did not are submitted again.  A prompt that the
        server lost in a restart is :class:`JobLost`.

        Example::

            from comfy_client import ComfyApi

            with ComfyApi("http://127.0.0.1:8188") as api:
                seeds = [{"KSampler.seed": seed} for seed in range(3)]
                for result in api.map("txt2img.json", seeds):
                    result.images[0].save("out/")

        Args:
            workflows: Several workflows, or with ``params`` a single one.
            params: The inputs that differ, for each prompt: ``{"KSampler.seed": 7}``, the node
                by id, title or class.  Each is applied to a copy.
            in_flight: How many of its prompts are in the queue, the running one included.
            ordered: Whether to yield in the order of the workflows, or as they end.
            on_error: ``"raise"`` the error of a prompt, or ``"keep"``: yield the exception in
                its place.  Other errors (of the server itself, of your iterable, a missing file)
                are raised in any case, and end the submission.  Results of earlier prompts are
                always yielded first.
            timeout: Seconds for each prompt, from its submission, or from the end of the last
                prompt of this call: waiting for prompts of this call does not count, waiting for
                those of other clients does.  After that it is a :class:`JobTimeout`, and the
                prompt is cancelled (5 seconds at most; if it has ended by then, its end counts).
                ``None``: no limit.
            stall_timeout: The same for seconds without any news: of the prompt, or, while it is
                pending, of any prompt of this call.  During an outage there is no news.
            options: As for :meth:`submit`.

        Raises:
            TypeError: One workflow without ``params``, or several with them.
            ValueError: ``in_flight``, ``on_error`` or a timeout make no sense.
            OSError: The file of the workflow cannot be read.  These three are raised at once.
            ComfyError: As :meth:`run`, while it yields; but no :class:`SubmitUncertain`, since it
                waits until the server shows whether it has such a prompt.
        """
        from .batch.map import run_map  # as the next: not what every script waits for

        seal(options)
        self._check_open()
        return run_map(
            self,
            workflows,
            params,
            in_flight=in_flight,
            ordered=ordered,
            on_error=on_error,
            timeout=timeout,
            stall_timeout=stall_timeout,
            options=options,
        )

    def sweep(
        self,
        workflow: AnyWorkflow,
        grid: Mapping[str, Iterable[Any]],
        *,
        in_flight: int = 4,
        journal: str | os.PathLike[str] | None = None,
        retry_failed: bool = False,
        timeout: float | None = None,
        stall_timeout: float | None = None,
        on_row: Callable[[SweepRow], object] | None = None,
        strict: bool = False,
        **options: Unpack[PromptOptions],
    ) -> Sweep:
        """Run a workflow with all combinations of some values, and wait for all of them.

        They run in the order that costs the server the least: one value changes from each
        prompt to the next, and inputs that feed many nodes change rarely.  The rows are in the
        order of the grid; the last input varies fastest.

        With a ``journal`` (an SQLite file that only its owner can read, without keys and without
        values of the grid), the same call resumes after any interruption: rows that have ended
        come from the file, and prompts that are in the queue or have ended since are attached by
        their ids.  None runs twice, unless the server lost it (a restart, a cleared queue or
        history) or received it after the client stopped looking for it (no answer for five
        seconds and more): then it has no result, and is submitted again, three times at most.
        Points are identified by their graphs, so you may change grid and workflow: values that
        have run before do not run again.  Points of one grid with equal graphs all run.  The
        journal does not store images of ``SaveImageWebsocket``.  Files of rows that ran on
        another ``host`` are not fetched (``ValueError``).

        If it ends early (Ctrl-C, an error), its pending prompts are deleted from the queue and
        the running one keeps running.  It waits for outages of the server, as :meth:`map` does.
        One warning in the log says how many rows have an error.

        Example::

            from comfy_client import ComfyApi

            with ComfyApi("http://127.0.0.1:8188") as api:
                rows = api.sweep("txt2img.json", {"KSampler.seed": [1, 2], "KSampler.cfg": [4, 8]})
                for row in rows:
                    print(row.params, row.error or row.seconds)

        Args:
            workflow: In API format.
            grid: Values by input, ``{"KSampler.seed": range(8)}``, the node by id, title or
                class.
            in_flight: How many of its prompts are in the queue, the running one included.
            journal: The path of a file, which is created if missing; ``None``: no journal.
            retry_failed: Whether to run rows again that failed, according to the journal.  Those
                that the server refused did not run, and are submitted again in any case.
            timeout: Seconds for each prompt, as for :meth:`map`; the row's error is
                :class:`JobTimeout`.
            stall_timeout: Seconds without any news, as for :meth:`map`.
            on_row: Called with each row as it ends, in this thread.  With a journal, it is
                called once for each row over all calls: first with rows of earlier calls that it
                has not had.  An exception in it ends the sweep.  It gets a row again next time
                if it raised, or if the process was killed before the journal noted its return.
            strict: As for :meth:`submit`.
            options: See :class:`PromptOptions`.

        Returns:
            The rows.  The error of a single prompt is in its ``row.error``.

        Raises:
            WorkflowError: An unknown or ambiguous name, or a value that cannot be sent; raised
                before anything is submitted.
            PromptRejected: The server refuses the first prompt for a reason that does not depend
                on the grid (such as a missing model): it would refuse all.
            ValueError: An input without values, or twice; a timeout makes no sense; the file is
                damaged or no journal, and is not changed.
            BlockingIOError: Another process uses the journal.
            OSError: The journal cannot be read or written, for example on a full disk; call
                again when there is room.
            ComfyError: The server cannot be reached, refuses us, or is no ComfyUI.
        """
        from .batch.sweep import run_sweep

        seal(options)
        self._check_open()
        workflow = as_workflow(workflow)
        return run_sweep(
            self,
            workflow,
            grid,
            in_flight=in_flight,
            journal=journal,
            retry_failed=retry_failed,
            timeout=timeout,
            stall_timeout=stall_timeout,
            on_row=on_row,
            options={"strict": strict, **options},
        )

    # -- events --------------------------------------------------------------------------

    def subscribe_logs(self, enabled: bool = True) -> None:
        """Get the server's terminal output as ``logs`` and ``terminal`` events, or stop that.

        ``PATCH /internal/logs/subscribe``, since November 2024.  Renewed after each
        reconnect.  On failure ``terminal_subscription_error`` fires too.

        Raises:
            NotSupported: The server is older.
            TransportError: There is no socket for these events.
        """
        self._check_open()
        self._connection.start()
        # The server forgets the subscription of an id that has no socket.
        state = self._connection.wait_settled(jobs_module.SETTLE, first_verdict=False)
        try:
            if enabled and state is not State.CONNECTED:
                raise TransportError("logs come over the event socket, and there is none")
            _subscribe_logs(self._http, self.client_id, enabled)
        except ComfyError as exc:
            self._receivers.publish(ErrorEvent(name="terminal_subscription_error", error=exc))
            raise
        # It may not hold this object.
        renew = partial(_renew_logs, self._http, self._receivers.publish)
        self._connection.on_reconnect = renew if enabled else None

    # -- anything else -------------------------------------------------------------------

    def doctor(self, run: bool = False, *, timeout: float = 30.0) -> DoctorReport:
        """Diagnose the connection step by step: proxy, DNS, port, TLS, HTTP, WebSocket, ...

        ``print(api.doctor())`` shows each check, its finding and what to do; the text holds no
        secret and is safe for a bug report.  It works before ``init`` and after a failed one,
        and does not touch the client's own socket (it opens a second one for a moment).  It asks
        small routes (``GET /prompt``, ``/system_stats``, ``/features``, ``/users``), and changes
        nothing on the server.

        Args:
            run: Whether to run a trivial prompt too, EmptyImage to PreviewImage; it leaves an
                image of 16 x 16 pixels among the server's temporary files.
            timeout: Seconds for everything.  Most reports take well under one second.  A name
                server or a credentials callable that never returns keeps a thread busy.

        Raises:
            ClientClosed: After :meth:`close`.  Findings are in the report, never raised.
        """
        from .doctor.context import Client  # takes a while to import, and is wanted rarely
        from .doctor.examine import examine

        self._check_open()
        client = Client(
            self._http,
            self._connection,
            self.client_id,
            plan=None if self._transport == "poll" else partial(plan_for, self._http),
            status_at=lambda: self._jobs.lookout.status_at,
            outstanding=len(self._jobs.outstanding),
            dropped_events=self.dropped_events,
            watch=self.timing.watch,
        )
        return examine(client, run=run, timeout=timeout)

    def fetch_api(
        self,
        route: str,
        method: str = "GET",
        *,
        params: Params | None = None,
        json: Any = None,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> Answer:
        """Request any route, such as one of a custom node: ``api.fetch_api("/manager/version")``.

        It uses the client's credentials, limits and errors.  The answer has ``json()``, ``text``,
        ``content``, ``status`` and ``headers``.

        Args:
            route: The path, which begins with ``/``, without query.  If the server has ``/api``,
                the path is below it, except ``/internal/...`` and ``/api/...``.
            method: The HTTP method.  If the connection breaks, only ``GET`` and ``HEAD`` are
                repeated.
            params: The query, by name or as pairs; values of ``None`` are left out.  A name with
                several values, as in ``{"tags": ["a", "b"]}``, is repeated.
            json: A body to send as JSON; ``None``: none.
            data: A body as bytes, instead of ``json``.
            headers: Further headers of this request.
            timeout: Seconds for the whole answer; ``None``: the client's.

        Raises:
            ValueError: The route does not begin with ``/``, or ``timeout`` is less than 0.
            ApiError: Any status from 400 on; its subclasses say which.
            UnexpectedResponse: A redirect, a part (206) without a ``Range`` in ``headers``, or an
                answer of more than 1 GiB.
            TransportError: No answer, or not in time.
        """
        json, params = sealed(json), sealed(params)  # for frames, which show what they hold
        headers = None if headers is None else sealed_headers(headers)
        kw: dict[str, Any] = {} if json is None else {"json": json}
        return self._fetch_api(
            method, route, params=params, data=data, headers=headers, timeout=timeout, **kw
        )

    def _fetch_api(self, method: str, route: str, **kw: Any) -> Answer:
        if not route.startswith("/"):
            raise ValueError(f"a route begins with '/': {route!r}")
        return self._http.request(method, route, **kw)

    def _test_credentials(self, timeout: float | None = None) -> None:
        """Have the server let us in; fires ``auth_success`` or ``auth_error``, and raises."""
        try:
            self.poll_status(self._http.total_timeout if timeout is None else timeout)
        except AuthenticationError as exc:
            self._receivers.publish(ErrorEvent(name="auth_error", error=exc))
            raise
        if self._http.identity.credentials is not None:
            self._receivers.publish(ErrorEvent(name="auth_success"))


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


def _recorder(path: str | os.PathLike[str]) -> Recorder:
    from .recording.recorder import Recorder  # most clients do without

    return Recorder(path)


def _may_mend(exc: ComfyError) -> bool:
    """Whether a server that answers so may merely be starting."""
    return exc.retryable if isinstance(exc, ServerUnreachable) else is_away(exc)


def _without_passwords(proxies: Mapping[str, str | None]) -> dict[str, str | None]:
    """Proxies for a pickle: one with a password in it stays behind."""
    return {scheme: url for scheme, url in proxies.items() if not url or "@" not in url}


def _withdraw(windows: set[weakref.ref[Window]]) -> None:
    for known in windows.copy():  # another thread may begin one, or forget it
        window = known()
        if window is not None:
            window.withdraw()


def _shut_down(*actions: Callable[[], None]) -> None:
    for action in actions:
        action()


def _subscribe_logs(http: Http, client_id: str, enabled: bool) -> None:
    wanted = {"clientId": client_id, "enabled": enabled}
    http.send_command("PATCH", "/internal/logs/subscribe", json=wanted)


def _renew_logs(http: Http, publish: Callable[[Event], None], client_id: str) -> None:
    """In a thread of its own, for a request is not for the one that reads the socket."""

    def renew() -> None:
        try:
            _subscribe_logs(http, client_id, True)
        except ComfyError as exc:
            publish(ErrorEvent(name="terminal_subscription_error", error=exc))

    threading.Thread(target=renew, name="comfy-logs", daemon=True).start()


def _unpickle(
    cls: type[ComfyApi],
    config: dict[str, Any],
    left_behind: bool,
    stays_behind: tuple[str, ...] = (),
) -> ComfyApi:
    api = cls(**config)
    api._http.left_behind = left_behind
    if stays_behind:
        _warn_of_pickle(api.host, stays_behind)
    return api


@functools.lru_cache(100)
def _warn_of_pickle(host: str, stays_behind: tuple[str, ...]) -> None:
    """Once per process: results hold their client, and many of them may come."""
    log.warning(
        "the client of %s comes out of a pickle without its %s: make one with them here, and name "
        "credentials with EnvCredentials, which travel",
        host,
        ", ".join(stays_behind),
    )


def _after_fork() -> None:
    for api in list(_clients):
        api._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
