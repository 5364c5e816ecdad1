"""``ComfyApi``: the client of one server, with all methods; their work is done elsewhere."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sys
import uuid
import weakref
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, Self, Unpack, overload

import blinker

from .attributes import KnownAttributes
from .errors import ComfyError
from .interrupts import in_full
from .locks import check_may_wait
from .overloads import typed_events, typed_on, typed_wait_for
from .redaction import sealed, sealed_workflow
from .routes import Routes
from .routes.prompts import SubmitOptions, seal
from .settings import ClientSettings
from .timing import Timing
from .transport.deadline import Deadline
from .transport.http import MAX_JSON
from .workflow.edit import as_workflow

if TYPE_CHECKING:
    import requests

    from . import models
    from .batch.row import SweepRow
    from .batch.rows import Sweep
    from .batch.runner import OneServer
    from .credentials import AnyCredentials
    from .doctor.report import DoctorReport
    from .events import Event, JobEvent, PreviewEvent, Progress
    from .ext import Extensions
    from .jobs.execute import Parts
    from .jobs.job import Job, OnInterrupt
    from .jobs.result import NodeOutput, Result
    from .log_records import AnyLog
    from .models import Device, SystemStats
    from .recording.recorder import Recorder
    from .routes import TrackerHooks
    from .routes.prompts import PromptOptions
    from .stats import ClientStats
    from .transport.websocket import State
    from .workflow import Node
    from .workflow.address import Inputs
    from .workflow.build import Link
    from .workflow.edit import AnyWorkflow

log: logging.Logger = logging.getLogger("comfy_client")

_clients: weakref.WeakSet[ComfyApi] = weakref.WeakSet()


class ComfyApi(KnownAttributes, Routes):
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
            ``None``: what ``COMFYUI_HOST`` says, else ``http://127.0.0.1:8188``; and without
            ``credentials`` a bearer token in ``COMFYUI_TOKEN``, else ``user:password`` in
            ``COMFYUI_LOGIN``.  The ``repr`` of the client names the variables.
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
        proxies: Proxies by scheme, as in requests; ``None``: from the environment; ``{}``: none.
            Loopback addresses bypass the proxy.
        headers: Further headers of every request and of the handshake.  For secrets use
            ``HeaderCredentials`` instead.
        session: Your own :class:`requests.Session` (adapters, cookies, auth); you close it.
            Its adapter may retry, but no POST that the server may have received.  With an
            adapter that is not an ``HTTPAdapter``, a slow answer may take longer than ``timeout``.
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
            of jobs that have not ended.  All definitions of a server with thousands of node
            classes may have any number of bytes: there, the limit applies to each class, and ten
            times as much to the memory of all that a call returns.
        definition_cache: Where node definitions are kept for later processes: the path of a
            folder, ``True`` for ``comfy-client/nodes`` in the user's cache folder or the folder
            in ``COMFYUI_CACHE`` (``off``: none), or ``False`` for nowhere.  See *Large
            installations* in the guide.

    Attributes:
        timing: All times that it waits for; a subclass may set its own.
        parts: The parts of the client, for pools and other modules of this package.  Programs
            should not use them: they may change in any version.

    Raises:
        ValueError: ``host``, ``timeout`` or ``max_json`` make no sense, or ``session`` would
            repeat a POST; ``TypeError`` for credentials.
        OSError: ``record`` cannot be written, or exists already (``FileExistsError``).
    """

    timing: Timing = Timing()
    parts: Parts
    _made: tuple[Parts, TrackerHooks, list[Callable[[], None]]]

    def __init__(
        self,
        host: str | None = None,
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
        definition_cache: bool | str | os.PathLike[str] = True,
    ) -> None:
        if client_id is not None and not isinstance(client_id, str):
            raise TypeError(
                "client_id must be a string; a port goes into host, as in 'gpu-box:8188'"
            )
        if client_id == "":
            raise ValueError("client_id is empty; None makes one")
        settings = ClientSettings(
            host=host,
            credentials=credentials,
            user=user,
            timeout=timeout,
            verify=verify,
            cert=cert,
            proxies=proxies,
            headers=headers,
            session=session,
            transport=transport,
            namespace=namespace,
            max_json=max_json,
            definition_cache=definition_cache,
        )
        self._begin(settings, client_id, record)

    def _begin(
        self,
        settings: ClientSettings,
        client_id: str | None,
        record: str | os.PathLike[str] | None,
    ) -> None:
        """Make what requests need; prompts and events get their parts when they are used."""
        self._settings = settings
        self._edge = http = settings.make_http(self.timing)
        super().__init__(http)
        self._wanted_id = client_id
        self._recorder = None if record is None else _recorder(record, http.log)
        http.record(self._recorder)
        self._finalizer = self._finalize()
        _clients.add(self)

    def _finalize(self) -> weakref.finalize[Any, Any]:
        """Release all when the client is collected, or at exit; nothing may refer to the client."""
        #: What ends its threads, once it has some.
        self._endings: list[Callable[[], None]] = []
        close = [] if self._recorder is None else [self._recorder.close]
        shutdown = self._edge.endpoint.shutdown()
        return weakref.finalize(self, _shut_down, self._endings, shutdown, *close)

    if not TYPE_CHECKING:  # or any name would pass a type checker

        def __getattr__(self, name: str) -> Any:
            """Make the parts when they are first used; any other attribute is missing."""
            return self._make_parts() if name == "parts" else super().__getattr__(name)

    def _make_parts(self, former: Parts | None = None) -> Parts:
        """Make the parts that belong to one process, and only now import what they need.

        In the child of a fork, ``former`` are those of the parent.
        """
        if "_made" not in vars(self):
            from .parts import endings_of, hooks_of, make_parts  # a third of the time of an import

            client_id = self._wanted_id or self.generate_id()
            made = make_parts(
                self, self._settings, self._edge, client_id, self.timing, self._recorder, former
            )
            made.tracker.closed = not self._edge.is_open
            # In one step, which nothing interrupts; and without a lock, which a fork could leave
            # held: of two threads, the first one's are used.
            vars(self).setdefault("_made", (made, hooks_of(made.poller), endings_of(made)))
        parts, self._hooks, self._endings[:] = self._made
        self.parts = parts  # the last: until then, the next use does all this again
        if not self._edge.is_open:
            self.close()  # as it was called before there were any
        return parts

    # -- life ----------------------------------------------------------------------------

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
            ValueError: ``timeout`` is negative or ``nan``; TypeError: it is not a number.
            ClientClosed: After :meth:`close`, or if it is called meanwhile.
        """
        from .connecting import connect

        connect(self, self.parts, timeout)
        return self

    def wait_until_ready(self, timeout: float | None = None) -> SystemStats:
        """Wait until the server can run prompts, and return its versions and memory.

        ``GET /prompt`` and ``GET /system_stats``, until both answer; then the WebSocket, unless
        ``transport="poll"``.  For a server that was just started, or whose machine is: it waits
        longer than :meth:`init`, which ``with`` calls and which treats a web page as an error.

        Example::

            from comfy_client import ComfyApi

            api = ComfyApi("http://127.0.0.1:8188")
            print(api.wait_until_ready(timeout=300).comfyui_version)
            with api:
                print(api.poll_status().queue_remaining)

        Args:
            timeout: Seconds; ``None``: no limit.  Until then, it retries what mends itself:
                connection refused, no answer, no name server, a proxy's 502 to 504 and 520 to
                527, the statuses 202, 408, 425 and 429, and a web page that reloads itself or
                says that something is loading or starting.  Whatever else fails immediately: 401,
                403, an unknown host, a TLS failure, another program.

        Raises:
            ServerUnreachable: No connection, unknown host, or a TLS failure.
            AuthenticationError: 401 or 403, over HTTP or in the socket's handshake.
            UnexpectedResponse: The answer is not from a ComfyUI.
            RequestTimeout: Connected, but no answer in time; or HTTP works, but the socket did
                not connect in time.
            ApiError: One of the statuses above, at the end.
            ClientClosed: After :meth:`close`, or if it is called meanwhile.
        """
        from .connecting import wait_until_ready

        return wait_until_ready(self, self.parts, timeout)

    @staticmethod
    def generate_id() -> str:
        """Return a new random id, a canonical UUID."""
        return str(uuid.uuid4())

    @property
    def client_id(self) -> str:
        """The id that routes the server's events to this client."""
        return self.parts.connection.client_id

    @property
    def state(self) -> State:
        """The state of the event thread and its WebSocket; ``POLLING``: it has none."""
        return self.parts.connection.state

    @property
    def connected(self) -> bool:
        """Whether the WebSocket is connected."""
        return self.state.value == "connected"

    @property
    def dropped_events(self) -> int:
        """The number of events dropped because receivers, iterators or callbacks were too slow.

        Events of jobs count, too (``job.events()``, ``run(on_preview=...)``).  These are previews
        and progress that newer ones replaced, and events beyond the limits: 10,000 for each
        receiver or iterator, and 192 MiB, or three times ``max_json``, for all.
        """
        return self.parts.receivers.dropped

    def stats(self) -> ClientStats:
        """Return the counters of this client since it was made; sends no request.

        They count prompts (submitted, succeeded, failed, ...), requests, connections and bytes.
        The child of a fork begins anew.  The guide (``monitoring.rst``) shows how to give them to
        Prometheus.
        """
        return self.parts.stats()

    def close(self) -> None:
        """Release all resources immediately: from any thread or callback, any number of times.

        In other threads, waiting for jobs, requests and transfers ends in :class:`ClientClosed`
        (during a name lookup or while connecting, as soon as that is done).  Prompts keep
        running.  The pending prompts of a :meth:`map` or :meth:`sweep` that has not ended are
        deleted from the queue first (5 seconds at most).

        Results outlive it: their files can still be read, saved and shown, as long as the server
        has them.
        """
        parts: Parts | None = vars(self).get("parts")  # without them, no prompt was sent
        steps: list[Callable[[], object]] = [self._edge.close]
        if parts is not None:
            parts.tracker.closed = True
            steps = [
                parts.withdraw,
                parts.connection.stop,
                parts.tracker.close,
                parts.receivers.close,
                *steps,
                partial(parts.connection.join, 0.3),
            ]
        if self._recorder is not None:
            steps.append(self._recorder.close)
        in_full(steps)
        if parts is None and "parts" in vars(self):
            self.close()  # as another thread has made them meanwhile
        self._finalizer.detach()  # if interrupted before, it finishes the work

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
                # So that receivers get auth_error and the like.
                self.parts.receivers.flush(self.timing.flush)
        finally:
            self.close()

    def __repr__(self) -> str:
        said = " and ".join(self._settings.variables)
        return f"<{type(self).__name__} {self.host} {self.state.value}{said and f', from {said}'}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickle, (
            type(self),
            self._settings.for_pickle(),
            self._edge.identity.has_secrets,
            self._settings.left_behind(),
        )

    def __copy__(self) -> ComfyApi:
        return type(self)(**self._settings.arguments())

    def __deepcopy__(self, memo: object) -> Self:
        return self  # its connections cannot be copied, like those of a module or a thread

    @staticmethod
    def _after_fork_of_all() -> None:
        for api in list(_clients):
            api._after_fork()

    def _after_fork(self) -> None:
        """Start afresh in the child of a fork: the id, socket and jobs belong to the parent."""
        self._finalizer.detach()
        vars(self).pop("parts", None)
        made = vars(self).pop("_made", None)
        parts: Parts | None = None if made is None else made[0]
        if parts is not None:
            parts.after_fork()
        if self._recorder is not None:
            self._recorder.abandon()
            self._recorder = None
        self._edge.after_fork()
        self._wanted_id = None
        self._finalizer = self._finalize()
        if parts is not None:
            parts.receivers.reset()
            self._make_parts(parts)
            if parts.tracker.closed:
                self.close()

    # -- run workflows -------------------------------------------------------------------

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
        """Run a workflow, and return its outputs: :meth:`submit`, then :meth:`Job.result`.

        These two explain the arguments that are not below.  Callbacks are called in this thread.
        ``GET /history/{prompt_id}`` replaces events that did not come.

        Example::

            from comfy_client import ComfyApi

            with ComfyApi("http://127.0.0.1:8188") as api:
                result = api.run("txt2img.json", timeout=300, on_progress=print)
                print(result.images[0].filename)

        Args:
            workflow: A :class:`Workflow`, or what :meth:`Workflow.load` reads.
            inputs: Other values for this run, as for :meth:`Workflow.set`.
            timeout: Seconds for everything; ``None``: no limit.  A submission without an answer
                is then looked up for two more.
            retry_oom: Whether to run once more, within ``timeout``, if a node runs out of memory
                (:attr:`JobFailed.is_oom`), after :meth:`free_memory`: with the same seeds and a new
                id.  A second error has the first as its cause.
            progress: As for :meth:`Job.result`.  ``None``: also with a short ``timeout``, and as
                lines without tqdm (in the log, if it takes INFO); but not with a callback.

        Raises:
            ComfyError: As :meth:`submit` and :meth:`Job.result`.
            RequestTimeout: Time ran out over definitions or uploads, before the submission.
            JobTimeout: Time ran out later; the prompt keeps running.
        """
        from .jobs.execute import run_workflow
        from .jobs.handle import Limits
        from .jobs.job import Callbacks

        seal(options, self.run)
        workflow, inputs = sealed_workflow(workflow), sealed(inputs)
        limits = Limits(timeout, stall_timeout)
        callbacks = Callbacks(
            on_event, on_progress, on_preview, on_start, on_output, on_queue, every
        )
        return run_workflow(
            self,
            self.parts,
            workflow,
            inputs,
            options,
            callbacks,
            limits,
            on_interrupt=on_interrupt,
            progress=progress,
            strict=strict,
            check=check,
            resubmit=resubmit,
            retry_oom=retry_oom,
        )

    def pixels(
        self,
        source: Link[Any] | AnyWorkflow,
        node: Node | str | int | None = None,
        *,
        slot: int | None = None,
        inputs: Inputs | None = None,
        timeout: float | None = None,
        progress: bool | None = None,
    ) -> Result:
        """Run the nodes for one output, and return its pictures, without a node that saves them.

        It adds a ``PreviewImage``, whose files are temporary, and sends only the nodes before it.
        A mask is turned into a picture, and a latent is decoded with the VAE of the workflow.

        Example::

            from comfy_client import ComfyApi, Graph

            with ComfyApi("http://127.0.0.1:8188") as api:
                g = Graph(api)
                picture = g.ImageInvert(g.EmptyImage(64, 64))
                api.pixels(picture).image.save("out/")
                api.pixels("txt2img.json", "VAEDecode").image.save("out/")

        Args:
            source: A node of a :class:`Graph` or one of its outputs; or a workflow, as for
                :meth:`submit`.
            node: The node of the workflow, by id, title or class; ``None`` for a link.
            slot: Which of its outputs, from 0; ``None``: the output of the link, else the first
                that is a picture.
            inputs: As for :meth:`submit`.
            timeout: As for :meth:`run`.
            progress: As for :meth:`run`.

        Raises:
            WorkflowError: No such node; its output is neither an IMAGE nor a MASK nor a LATENT; a
                latent in a workflow with no VAE, or several.
            TypeError: A link with a node, or a workflow without one.
            ComfyError: As :meth:`run`.
        """
        from .workflow.pixels import previewing  # few programs do

        source = sealed_workflow(source)
        self.parts.check_open()
        workflow = previewing(source, node, slot, self)
        return self.run(workflow, inputs, timeout=timeout, progress=progress)

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

        ``POST /prompt``.  Errors of the run are raised by ``job.result()``.  Callbacks are called
        in the delivery thread, in turn with the receivers of signals, which a slow callback delays.
        An exception in one is logged, and later events still come.  ``job.result()`` waits
        for all calls, five seconds at most.

        Example::

            from comfy_client import ComfyApi

            with ComfyApi("http://127.0.0.1:8188") as api:
                job = api.submit("txt2img.json")
                print(job.prompt_id, job.status)
                result = job.result(timeout=300)

        Args:
            workflow: A :class:`Workflow`, or what :meth:`Workflow.load` reads.  A ``seed`` or
                ``noise_seed`` that is ``"random"`` or -1 is drawn: see :attr:`Result.seeds`.
            inputs: Other values for this run, as for :meth:`Workflow.set`.
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
            on_event: Called with each event of the prompt, or of a custom node whose data has its
                ``prompt_id``.
            on_progress: Called with its ``progress`` events only.
            on_preview: Called with its previews only.
            on_start: Called once with the :class:`Job`, when it begins to run.
            on_output: Called with a node's id and :class:`NodeOutput` once it is there, or at the
                end if no event tells (``SaveImageWebsocket``; cached ones before August 2024).
            on_queue: Called with the number of prompts before it (0: it is next) at each change.
            every: The fewest seconds between two calls of ``on_progress``, and of ``on_preview``,
                with the newest event; ``None`` or 0: all, as images of ``SaveImageWebsocket`` are.
            options: See :class:`PromptOptions`.

        Raises:
            PromptRejected: The server refused the workflow; the error says why.
            WorkflowError: A wrong name in ``inputs``, a graph that cannot be sent, or an error
                found by ``check``.
            SubmitUncertain: The submission got no answer, and the prompt was not found.
            UploadTooLarge: As :meth:`upload_image`, whose other errors come, too.
            ServerUnreachable: The server is down; nothing was submitted.
        """
        from .jobs.execute import submit_workflow
        from .jobs.job import Callbacks, deliver

        seal(options, self.submit)
        workflow, inputs = sealed_workflow(workflow), sealed(inputs)
        callbacks = Callbacks(
            on_event, on_progress, on_preview, on_start, on_output, on_queue, every
        )
        receivers = self.parts.receivers
        return submit_workflow(
            self,
            self.parts,
            workflow,
            inputs,
            options,
            prompt_id=prompt_id,
            strict=strict,
            check=check,
            resubmit=resubmit,
            wants_previews=on_preview is not None,
            begun=(lambda job: deliver(receivers, callbacks, job)()) if callbacks else None,
        )

    def job(
        self, prompt_id: str, workflow: AnyWorkflow | None = None, *, must_exist: bool = False
    ) -> Job:
        """Attach to a prompt by its id, such as after a crash or restart, and return its job.

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
            must_exist: Whether to raise immediately if the server has no such prompt, in place of a
                job that is lost some seconds later.  A prompt that this client is submitting
                exists.

        Raises:
            JobNotFound: With ``must_exist``: it is in neither.
            ComfyError: With ``must_exist``: the server did not answer, or refused.
        """
        from .jobs.execute import attach_job

        return attach_job(self, self.parts, prompt_id, workflow, must_exist=must_exist)

    def as_completed(
        self, jobs: Iterable[Job], timeout: float | None = None, *, progress: bool | None = None
    ) -> Iterator[Job]:
        """Yield jobs as they end, each once; as :func:`concurrent.futures.as_completed`.

        It sends no request, and raises no error of a job: ``job.result()`` or
        ``job.exception()`` say how it ended.  Ctrl-C ends it; the prompts keep running.

        Args:
            jobs: Jobs of :meth:`submit` and :meth:`job`, of other clients too; also a dict with
                jobs as keys.
            timeout: Seconds from this call to the last end; ``None``: no limit; 0: yield only
                the jobs that have ended.
            progress: Whether to show how many have ended: as for :meth:`Job.result`.

        Raises:
            JobTimeout: Some jobs have not ended within ``timeout``; the message says how many.
                They keep running, and another call yields them.
            TypeError: An item is not a job; :meth:`job` makes one from a ``prompt_id``.
        """
        from .jobs.execute import as_completed

        return as_completed(jobs, timeout, progress)

    def queue_prompt(
        self,
        number: float | None,
        workflow: AnyWorkflow,
        *,
        prompt_id: str | None = None,
        **options: Unpack[PromptOptions],
    ) -> models.QueuedPrompt:
        """Put a workflow into the queue, and return immediately.  ``POST /prompt``.

        :meth:`run` does this and waits.  The request is never repeated: if no answer comes, the
        prompt may be in the queue nevertheless.

        Args:
            number: The priority, lower runs first; ``None`` and 0 append the prompt, -1 puts it
                at the front.
            workflow: As for :meth:`submit`.
            prompt_id: Your own id, a canonical UUID.  Servers before 0.3.45 ignore it: read
                the id from the answer.  ``None``: the server chooses.
            options: See :class:`PromptOptions`.

        Raises:
            PromptRejected: The server refused; the message says why in words.
            WorkflowError: The graph cannot be sent: NaN, UI format, a link to a missing node.
                If such a link concerns only some of the outputs, the rest is sent, and
                ``node_errors`` of the answer names the ones that were left out.
            TypeError: ``extra_data`` or ``workflow_ui`` holds what JSON cannot represent, or does
                not have the form that servers need; the message names the place.
            UploadTooLarge: The body, or a file of an input, exceeds the server's limit.
        """
        from .jobs.execute import queue_workflow

        seal(options, self.queue_prompt)
        workflow = sealed_workflow(workflow)
        return queue_workflow(
            self, self.parts, workflow, options, number=number, prompt_id=prompt_id
        )

    def append_prompt(
        self,
        workflow: AnyWorkflow,
        *,
        prompt_id: str | None = None,
        **options: Unpack[PromptOptions],
    ) -> models.QueuedPrompt:
        """Call :meth:`queue_prompt` without a number, to append the prompt.  ``POST /prompt``."""
        seal(options, self.append_prompt)
        workflow = sealed_workflow(workflow)
        return self.queue_prompt(None, workflow, prompt_id=prompt_id, **options)

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
        patience: float | None = None,
        progress: bool | None = None,
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
        patience: float | None = None,
        progress: bool | None = None,
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
        patience: float | None = None,
        progress: bool | None = None,
        **options: Unpack[SubmitOptions],
    ) -> Generator[Result | ComfyError, None, None]:
        """Run many workflows, and yield results while more are submitted.

        Nothing is submitted before the first ``next``.  Iterables may be infinite or block: a
        thread reads all but containers.  Once the server has accepted a prompt, outages are waited
        for, and nothing is sent twice: a prompt goes on, or is :class:`JobLost`.

        If it ends early, pending prompts are deleted, and the running one runs on; what a blocking
        iterable returns later is lost.  ``results`` of the exception has what had ended.

        Example::

            from comfy_client import ComfyApi

            with ComfyApi("http://127.0.0.1:8188") as api:
                seeds = [{"KSampler.seed": seed} for seed in range(3)]
                for result in api.map("txt2img.json", seeds):
                    result.images[0].save("out/")

        Args:
            workflows: Workflows, or with ``params`` one.
            params: For each prompt the inputs that differ, as for :meth:`Workflow.set`.
            in_flight: The most prompts that wait, run, or have a result not yet yielded.
            ordered: Whether in the order of the workflows, not as they end.
            on_error: ``"raise"`` a prompt's error in its place, or ``"keep"``: yield it.
            timeout: Seconds for each prompt since its submission or the last end; ``None``: no
                limit.  Then it is cancelled: :class:`JobTimeout`.
            stall_timeout: Seconds without news of the prompt, or while it is pending, of any.
            patience: Seconds for one outage; ``None``: no limit.
            progress: As for :meth:`Job.result`.
            options: As for :meth:`submit`.

        Raises:
            TypeError: One workflow without ``params``, or several with them; ValueError: an
                argument makes no sense; OSError: no such file.
            ServerUnreachable: No first answer, or an outage beyond ``patience``.
            ComfyError: As :meth:`run`, but no :class:`SubmitUncertain`.
        """
        from .batch.map_loop import check_in_flight, run_map, with_previews  # few scripts run many
        from .jobs.execute import ServerDefinitions

        seal(options, self.map, SubmitOptions)
        self.parts.check_open()
        check_may_wait()
        check_in_flight(in_flight)
        server = self._server(timeout, stall_timeout, patience)
        sent_with = with_previews(options, progress)
        return run_map(
            server.prompts,
            partial(server.send, sent_with),
            workflows,
            params,
            definitions=ServerDefinitions(self, self.parts.definitions, Deadline.after(timeout)),
            most=lambda: in_flight,
            ordered=ordered,
            on_error=on_error,
            progress=progress,
            delay=self.timing.show,
            resubmit=partial(server.resubmit, sent_with),
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
        patience: float | None = None,
        on_row: Callable[[SweepRow], object] | None = None,
        progress: bool | None = None,
        strict: bool = False,
        **options: Unpack[PromptOptions],
    ) -> Sweep:
        """Run a workflow with all combinations of some values, and wait.

        The order costs the server the least.  :meth:`map` explains outages, an
        early end (here, the exception has ``rows``), and the arguments that are not below.

        With a ``journal``, the same call resumes after any interruption: what has ended comes from
        the file, and only what the server has lost is submitted again, three times at most.  Points
        are known by their graphs, so grid and workflow may change.  Secrets and images of
        ``SaveImageWebsocket`` are not in it.

        Example::

            from comfy_client import ComfyApi

            with ComfyApi("http://127.0.0.1:8188") as api:
                for row in api.sweep("txt2img.json", {"KSampler.cfg": [4, 8]}):
                    print(row.params, row.error or row.seconds)

        Args:
            workflow: A :class:`Workflow`, or what :meth:`Workflow.load` reads.
            grid: Values by input, as for :meth:`Workflow.set`.
            journal: The path of an SQLite file; ``None``: no journal.
            retry_failed: Whether to run failed rows of the journal again, not only refused ones.
            timeout: As for :meth:`map`.  If a prompt cannot be sent in it, all that are not sent
                end in :class:`JobTimeout`; the next call with the journal sends them.
            on_row: Called in this thread with each row as it ends; its exception ends the sweep.
            progress: As for :meth:`run`; a notebook shows all rows.

        Returns:
            The rows in the order of the grid; ``row.error`` says why one failed.

        Raises:
            WorkflowError: A wrong name, or a value that cannot be sent; nothing was submitted.
            PromptRejected: The server refuses the first prompt for a reason that all share.
            ValueError: An argument makes no sense, or the file is no good journal.
            OSError: The journal cannot be used; BlockingIOError: another process has it.
            ComfyError: As for :meth:`map`, or the server refuses the client.
        """
        from .batch.sweep import run_sweep  # few scripts run many
        from .jobs.execute import ServerDefinitions

        seal(options, self.sweep)
        workflow = sealed_workflow(workflow)
        self.parts.check_open()
        check_may_wait()
        source = ServerDefinitions(self, self.parts.definitions, Deadline.after(timeout))
        workflow = as_workflow(workflow, source)
        server = self._server(timeout, stall_timeout, patience)
        return run_sweep(
            lambda _: server,
            workflow,
            grid,
            in_flight=in_flight,
            journal=journal,
            retry_failed=retry_failed,
            on_row=on_row,
            progress=progress,
            options={"strict": strict, **options},
        )

    def _server(
        self, timeout: float | None, stall_timeout: float | None, patience: float | None
    ) -> OneServer:
        """Return what runs the prompts of one call of ``map`` or ``sweep``."""
        from .batch.runner import OneServer

        server = OneServer(
            self, self.parts, timeout=timeout, stall_timeout=stall_timeout, patience=patience
        )
        self.parts.calls.add(weakref.ref(server.prompts, self.parts.calls.discard))
        return server

    # -- events --------------------------------------------------------------------------

    @typed_on
    def on(
        self, name: str, callback: Callable[[Any], object], *, once: bool = False
    ) -> Callable[[], None]:
        """Call ``callback(event)`` for each event of that name; starts the event thread.

        The client holds a strong reference to the callback.  Callbacks run in the delivery
        thread, one after the other.

        Example::

            from comfy_client import ComfyApi

            with ComfyApi("http://127.0.0.1:8188") as api:
                off = api.on("progress", lambda event: print(event.value, "/", event.max))
                api.run("txt2img.json")
                off()

        Args:
            name: The name of an event, also of a custom node's; ``all`` for every event.
            callback: Called with one event.
            once: Whether to call it for the first event only.

        Returns:
            A function that unsubscribes the callback.

        Raises:
            TypeError: The callback cannot be called with one event, or is a coroutine function.
            ClientClosed: After :meth:`close`.
        """
        from . import subscriptions

        return subscriptions.call_back(self.parts, name, callback, once=once)

    def off(self, name: str, callback: Callable[[Any], object]) -> bool:
        """Unsubscribe a callback of :meth:`on`; return False if it was not subscribed."""
        return self.parts.receivers.off(name, callback)

    @typed_wait_for
    def wait_for(
        self,
        name: str,
        predicate: Callable[[Any], object] | None = None,
        timeout: float | None = None,
    ) -> Event:
        """Wait for an event of that name that satisfies the predicate, if any, and return it.

        After ``timeout`` seconds it raises ``TimeoutError``; ``None``: no limit.  Only events
        after this call count.  Raises :class:`ClientClosed` if the client is closed, and
        ``TypeError`` for a predicate that cannot be called.
        """
        from . import subscriptions

        return subscriptions.wait_for_event(self.parts, name, predicate, timeout)

    @typed_events
    def events(self, name: str = "all") -> Iterator[Any]:
        """Yield all events with this name from now on, until the client is closed.

        Events wait for a slow loop: of many previews and progress events of a node, only the
        newest is kept.  At most 10,000 events wait, and 192 MiB for all loops and receivers
        together; beyond that the oldest are dropped, end events of this client's prompts last.
        ``dropped_events`` counts them.
        """
        from . import subscriptions

        return subscriptions.iterate(self, self.parts, name)

    def subscribe_logs(self, enabled: bool = True) -> None:
        """Receive the server's terminal output as ``logs`` and ``terminal`` events, or no more.

        ``PATCH /internal/logs/subscribe``, since November 2024.  Renewed after each
        reconnect.  On failure ``terminal_subscription_error`` fires too.

        Raises:
            NotSupported: The server is older.
            TransportError: There is no socket for these events.
        """
        from . import subscriptions

        subscriptions.subscribe_logs(self.parts, enabled=enabled)

    # -- the server ----------------------------------------------------------------------

    @property
    def ext(self) -> Extensions:
        """The extensions of node packs, such as ``api.ext.monitor``: how busy the machine is."""
        from .ext import Extensions  # few programs use it

        return Extensions(self, self.parts)

    def node_definitions(
        self, classes: Collection[str] | None = None, *, refresh: bool = False
    ) -> Mapping[str, Any]:
        """Return the definitions of node classes as JSON, by class; the client caches them.

        ``GET /object_info/{class}`` for each of up to 256 classes that it does not know yet,
        several at a time; else ``GET /object_info`` (half a megabyte to hundreds of megabytes).
        A file serves later processes, see ``definition_cache`` of the client.  It forgets them
        when its event socket connects anew, since the server may have been restarted with other
        node packs, and those of a workflow that the server refuses.  Choices of files are as old
        as the definitions: ``refresh`` shows models that were added since.  Several threads may
        ask; one request serves them all.

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
            UnexpectedResponse: A class has more than ``max_json`` bytes, all take more than ten
                times as much memory, or they are no definitions.
            ApiError: The server refused; :class:`TransportError`: no answer, or not in time.
            ClientClosed: After :meth:`close`.
        """
        self.parts.check_open()
        return self.parts.definitions.get(classes, refresh=refresh, deadline=Deadline())

    def iter_node_definitions(
        self, *, refresh: bool = False
    ) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield the name and the definition of every node class, each as it arrives.

        ``GET /object_info``.  A server with thousands of classes answers with hundreds of
        megabytes in memory; here, memory holds one class at a time, and whatever you keep.  Of
        small answers, the client keeps all for :meth:`node_definitions`.

        Example::

            from comfy_client import ComfyApi

            with ComfyApi("http://127.0.0.1:8188") as api:
                savers = [name for name, one in api.iter_node_definitions() if one["output_node"]]

        Args:
            refresh: Ask the server even for what the client knows.

        Raises:
            UnexpectedResponse: A class has more than ``max_json`` bytes, or they are no
                definitions.
            ApiError: The server refused; :class:`TransportError`: no answer, or not in time.
            ClientClosed: After :meth:`close`.
        """
        self.parts.check_open()
        yield from self.parts.definitions.each(refresh=refresh, deadline=Deadline())

    def node_names(self, *, for_a_hint: bool = False) -> Collection[str]:
        """Return the names of all node classes; the client caches them.

        ``GET /object_info``, read as by :meth:`iter_node_definitions`: a long answer takes long,
        but no memory.

        Args:
            for_a_hint: Whether the names only serve a hint, such as the nearest to a wrong one.
                An answer of more than some megabytes is then not read to its end, and there are
                no names.

        Raises:
            ComfyError: As for :meth:`iter_node_definitions`.
        """
        self.parts.check_open()
        return self.parts.definitions.names(Deadline(), for_a_hint=for_a_hint)

    def packs_of_classes(self, classes: Collection[str]) -> Mapping[str, tuple[str, ...]]:
        """Return the ids of the node packs that have classes, by class, the likeliest first.

        ``GET /v2/customnode/getmappings`` or ``/customnode/getmappings`` of ComfyUI-Manager, whose
        answer the client keeps for ten minutes.  For hints, as in :meth:`Workflow.check`: there
        are none without a Manager, or if it does not answer within five seconds.  For more about
        the packs, see :meth:`api.ext.manager.packs_of <comfy_client.ext.manager.Manager.packs_of>`.

        Args:
            classes: The names of the classes, such as those that the server lacks; 1,000 at most
                are looked up.

        Raises:
            ClientClosed: After :meth:`close`.
        """
        self.parts.check_open()
        return self.parts.definitions.packs.of(classes, Deadline())

    def wait_for_vram(
        self, nbytes: int, timeout: float | None = None, *, device: int | None = None
    ) -> Device:
        """Wait until ``nbytes`` of a device's memory are free, and return the device.

        ``GET /system_stats``, repeated until then; once, if the memory is free already.  Memory
        that torch has reserved and does not use counts as free.  This method frees nothing (call
        :meth:`free_memory` before) and reserves nothing: another prompt may take the memory.

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
                0.23 report no other.

        Raises:
            VramTimeout: Not in time; the error says how much was free at last.
            NotSupported: The server computes on the CPU, or does not report its memory.
            ValueError: The device has less in all, or there is no such device.
            ApiError: The server refused.
            ClientClosed: After :meth:`close`, or if it is called meanwhile.
        """
        self.parts.check_open()
        from .jobs.execute import wait_for_vram

        return wait_for_vram(self, self.parts.poller, nbytes, device, timeout)

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
        from .doctor.context import Client  # slow to import, and rarely needed
        from .doctor.examine import examine
        from .transport.dial import plan_for

        self.parts.check_open()
        client = Client(
            self.parts.http,
            self.parts.connection,
            self.client_id,
            plan=None if self._settings.transport == "poll" else partial(plan_for, self.parts.http),
            status_at=lambda: self.parts.tracker.monitor.status_at,
            outstanding=len(self.parts.tracker.outstanding),
            dropped_events=self.dropped_events,
            watch=self.timing.watch,
        )
        return examine(client, run=run, timeout=timeout)


def _recorder(path: str | os.PathLike[str], log: AnyLog) -> Recorder:
    from .recording.recorder import Recorder  # most clients do not need it

    return Recorder(path, log=log)


def _shut_down(endings: list[Callable[[], None]], *actions: Callable[[], None]) -> None:
    in_full([*endings, *actions])


def _unpickle(
    cls: type[ComfyApi],
    config: dict[str, Any],
    left_behind: bool,
    dropped_arguments: tuple[str, ...] = (),
) -> ComfyApi:
    api = cls(**config)
    api.parts.http.left_behind = left_behind
    if dropped_arguments:
        _warn_of_pickle(api.host, dropped_arguments)
    return api


@functools.lru_cache(100)
def _warn_of_pickle(host: str, dropped_arguments: tuple[str, ...]) -> None:
    """Warn, once, of arguments that a pickle lacks, as many results may hold the same client."""
    log.warning(
        "the client of %s was unpickled without its %s: make one with them here, and name "
        "credentials with EnvCredentials, which can be pickled",
        host,
        ", ".join(dropped_arguments),
        extra={"server": host},
    )


def _before_fork() -> None:
    """Wait for other threads to finish importing, which they could not do in a forked child."""
    for name in list(sys.modules):
        if name.startswith(f"{__package__}."):
            with contextlib.suppress(Exception):  # the importing thread gets it, too
                import_module(name)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=ComfyApi._after_fork_of_all)
