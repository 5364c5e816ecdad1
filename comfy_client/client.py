"""``ComfyApi``: everything one server can do, in one object.  Wiring only."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sys
import uuid
import weakref
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, Self

import blinker

from . import subscriptions
from .batch.batches import Batches, withdraw
from .budget import Budget
from .connecting import connect, wait_until_ready
from .errors import ComfyError
from .events import Event
from .interrupts import in_full
from .jobs.cancel import removing
from .jobs.parts import Parts
from .jobs.poller import Poller
from .jobs.tracker import Tracker
from .overloads import typed_events, typed_on, typed_wait_for
from .routes.definitions import NodeDefinitions
from .settings import ClientSettings
from .signals import Receivers
from .timing import Timing
from .transport.dial import plan_for
from .transport.http import MAX_JSON
from .transport.websocket import Connection, State

if TYPE_CHECKING:
    import requests

    from .credentials import AnyCredentials
    from .doctor.report import DoctorReport
    from .models import SystemStats
    from .recording.recorder import Recorder
    from .stats import ClientStats

log: logging.Logger = logging.getLogger("comfy_client")

_clients: weakref.WeakSet[ComfyApi] = weakref.WeakSet()


class ComfyApi(Batches):
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
        timing: All times that it waits for; a subclass may set its own.
        parts: What pools and other modules of this package use of a client.  Programs should not:
            it may change in any version.

    Raises:
        ValueError: ``host``, ``timeout`` or ``max_json`` make no sense, or ``session`` would
            repeat a POST; ``TypeError`` for credentials.
        OSError: ``record`` cannot be written, or exists already (``FileExistsError``).
    """

    timing: Timing = Timing()
    parts: Parts

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
    ) -> None:
        if client_id is not None and not isinstance(client_id, str):
            raise TypeError("client_id is a text; a port goes into host, as in 'gpu-box:8188'")
        if client_id == "":
            raise ValueError("client_id is empty; None makes one")
        self._settings = ClientSettings(
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
        )
        super().__init__(self._settings.make_http(self.timing))
        #: Of what waits for receivers, and of what jobs are left.
        self._budget = Budget(3 * max(MAX_JSON, max_json))
        self._receivers = Receivers(self, namespace, self._budget)
        self._recorder = None if record is None else _recorder(record)
        self._http.record(self._recorder)
        self._set_up(client_id or self.generate_id())
        _clients.add(self)

    def _set_up(self, client_id: str) -> None:
        """Make what belongs to one process; again in the child of a fork."""
        self._windows = set()
        self._tracker = Tracker(
            self,
            self._http,
            self._receivers,
            self._budget,
            self.timing,
            lambda handler: Connection(
                handler,
                partial(plan_for, self._http),
                client_id,
                poll_only=self._settings.transport == "poll",
                timing=self.timing,
                recorder=self._recorder,
                max_frame=2 * self._http.max_json if self._http.max_json > MAX_JSON else None,
            ),
        )
        self._poller = Poller(self._tracker)
        self._definitions = NodeDefinitions(self._http, partial(getattr, self._tracker, "link"))
        self.parts = Parts(self._receivers, self._tracker, self._poller, self._definitions)
        self._connection = self._tracker.connection
        self._awaits_record = self._poller.awaits_record
        self._records_deleted = self._poller.records_deleted
        self._removing = partial(removing, self._poller)
        self._stopping = partial(removing, self._poller, running=True)
        # Collected or at exit: nothing in here may refer to this object.
        self._finalizer = weakref.finalize(
            self,
            _shut_down,
            partial(withdraw, self._windows),  # at exit, when there are still some
            self._connection.stop,
            partial(self._tracker.wake.set, stop=True),
            self._receivers.shutdown(),
            self._http.endpoint.shutdown(),
            *([] if self._recorder is None else [self._recorder.close]),
        )

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
            ValueError: ``timeout`` is negative or ``nan``; TypeError: it is no number.
            ClientClosed: After :meth:`close`, or if it is called meanwhile.
        """
        connect(self, self.parts, timeout)
        return self

    def wait_until_ready(self, timeout: float | None = None) -> SystemStats:
        """Wait until the server can run prompts, and return its versions and memory.

        ``GET /prompt`` and ``GET /system_stats``, until both answer; then the WebSocket, unless
        ``transport="poll"``.  For a server that was just started, or whose machine is: it waits
        longer than :meth:`init`, which ``with`` calls and which takes a page for an error.

        Example::

            from comfy_client import ComfyApi

            api = ComfyApi("http://127.0.0.1:8188")
            print(api.wait_until_ready(timeout=300).comfyui_version)
            with api:
                print(api.poll_status().queue_remaining)

        Args:
            timeout: Seconds; ``None``: no limit.  Until then, it retries what mends itself:
                connection refused, no answer, no name server, a proxy's 502 to 504 and 520 to
                527, the statuses 202, 408, 425 and 429, and a page that loads itself again or
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
        return wait_until_ready(self, self.parts, timeout)

    @staticmethod
    def generate_id() -> str:
        """Return a new random id, a canonical UUID."""
        return str(uuid.uuid4())

    @property
    def client_id(self) -> str:
        """The id that routes the server's events to this client."""
        return self._connection.client_id

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
        """The number of events dropped because receivers, iterators or callbacks were too slow.

        Events of jobs count, too (``job.events()``, ``run(on_preview=...)``).  These are previews
        and progress that newer ones replaced, and events beyond the limits: 10,000 for each
        receiver or iterator, and 192 MiB, or three times ``max_json``, for all.
        """
        return self._receivers.dropped

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
        """
        self.parts.closed = True
        steps: list[Callable[[], object]] = [
            partial(withdraw, self._windows),
            self._connection.stop,
            self._tracker.close,
            self._receivers.close,
            self._http.close,
            lambda: self._connection.join(0.3),
        ]
        if self._recorder is not None:
            steps.append(self._recorder.close)
        in_full(steps)
        self._finalizer.detach()  # not after Ctrl-C: then it does what is left

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
                self._receivers.flush(
                    self.timing.flush
                )  # so that receivers get auth_error and the like
        finally:
            self.close()

    def __repr__(self) -> str:
        said = " and ".join(self._settings.variables)
        return f"<ComfyApi {self.host} {self.state.value}{said and f', from {said}'}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickle, (
            type(self),
            self._settings.for_pickle(),
            self._http.identity.has_secrets,
            self._settings.left_behind(),
        )

    if not TYPE_CHECKING:  # or any name would pass a type checker

        def __getattr__(self, name: str) -> Any:
            """Raise AttributeError with the Python name for one of the TypeScript clients."""
            if hasattr(type(self), name):  # a property raised it, and does so again
                return object.__getattribute__(self, name)
            from .typescript import about_client  # for mistakes only

            text = about_client(name, type(self))
            raise AttributeError(text, name=name, obj=self)

    def __copy__(self) -> ComfyApi:
        return type(self)(**self._settings.arguments())

    def __deepcopy__(self, memo: object) -> Self:
        return self  # as of a module or a thread: there is no second one of its connections

    def _check_open(self) -> None:
        self.parts.check_open()

    def _after_fork(self) -> None:
        """Begin anew in the child of a fork: the parent keeps its id, socket, pool and jobs."""
        was_closed = self.parts.closed
        self._finalizer.detach()
        self._budget.after_fork()
        self._connection.abandon()
        if self._recorder is not None:
            self._recorder.abandon()
            self._recorder = None
        self._tracker.after_fork()
        self._http.after_fork()
        self._receivers.reset()
        self._set_up(self.generate_id())
        if was_closed:
            self.close()

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
        return subscriptions.call_back(self.parts, name, callback, once=once)

    def off(self, name: str, callback: Callable[[Any], object]) -> bool:
        """Unsubscribe a callback of :meth:`on`; False if it was not subscribed."""
        return self.parts.receivers.off(name, callback)

    @typed_wait_for
    def wait_for(
        self,
        name: str,
        predicate: Callable[[Any], object] | None = None,
        timeout: float | None = None,
    ) -> Event:
        """Block until an event of that name comes (and ``predicate(event)`` is true).

        After ``timeout`` seconds it raises ``TimeoutError``; ``None``: no limit.  Only events
        after this call count.  Raises :class:`ClientClosed` if the client is closed, and
        ``TypeError`` for a predicate that cannot be called.
        """
        return subscriptions.wait_for_event(self.parts, name, predicate, timeout)

    @typed_events
    def events(self, name: str = "all") -> Iterator[Any]:
        """Yield all events of that name from now on; ends when the client is closed.

        Events wait for a slow loop: of many previews and progress events of a node, only the
        newest is kept.  At most 10,000 events wait, and 192 MiB for all loops and receivers
        together; beyond that the oldest are dropped, end events of our prompts last.
        ``dropped_events`` counts them.
        """
        return subscriptions.iterate(self, self.parts, name)

    def subscribe_logs(self, enabled: bool = True) -> None:
        """Get the server's terminal output as ``logs`` and ``terminal`` events, or stop that.

        ``PATCH /internal/logs/subscribe``, since November 2024.  Renewed after each
        reconnect.  On failure ``terminal_subscription_error`` fires too.

        Raises:
            NotSupported: The server is older.
            TransportError: There is no socket for these events.
        """
        subscriptions.subscribe_logs(self.parts, enabled=enabled)

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
            plan=None if self._settings.transport == "poll" else partial(plan_for, self._http),
            status_at=lambda: self._tracker.monitor.status_at,
            outstanding=len(self._tracker.outstanding),
            dropped_events=self.dropped_events,
            watch=self.timing.watch,
        )
        return examine(client, run=run, timeout=timeout)


def _recorder(path: str | os.PathLike[str]) -> Recorder:
    from .recording.recorder import Recorder  # most clients do without

    return Recorder(path)


def _shut_down(*actions: Callable[[], None]) -> None:
    for action in actions:
        action()


def _unpickle(
    cls: type[ComfyApi],
    config: dict[str, Any],
    left_behind: bool,
    dropped_arguments: tuple[str, ...] = (),
) -> ComfyApi:
    api = cls(**config)
    api._http.left_behind = left_behind
    if dropped_arguments:
        _warn_of_pickle(api.host, dropped_arguments)
    return api


@functools.lru_cache(100)
def _warn_of_pickle(host: str, dropped_arguments: tuple[str, ...]) -> None:
    """Warn of a pickle, once per process: many results may come, which hold their client."""
    log.warning(
        "the client of %s was unpickled without its %s: make one with them here, and name "
        "credentials with EnvCredentials, which can be pickled",
        host,
        ", ".join(dropped_arguments),
    )


def _before_fork() -> None:
    """Wait for what other threads import: in the child, these imports would never end."""
    for name in list(sys.modules):
        if name.startswith(f"{__package__}."):
            with contextlib.suppress(Exception):  # that thread gets it, too
                import_module(name)


def _after_fork() -> None:
    for api in list(_clients):
        api._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork)
