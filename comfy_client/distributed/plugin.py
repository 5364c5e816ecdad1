"""The plugin that gives each Dask worker its own ComfyUI, and pauses the worker without it.

The scheduler gives a paused worker no tasks.  Only the scheduler knows of the pause; the worker
itself keeps running.  So tasks that it has already, and that find no server, return to the
scheduler immediately.  And its memory monitor, which resumes paused workers, leaves it alone.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import re
import threading
import time
import uuid
import weakref
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from string import Formatter
from typing import Any, Final, Literal, TypeAlias

import attrs
from distributed import Semaphore, Worker, get_worker
from distributed.comm.addressing import get_address_host
from distributed.core import Status
from distributed.diagnostics.plugin import WorkerPlugin

from ..client import ComfyApi
from ..credentials import AnyCredentials, BasicCredentials, EnvCredentials
from ..errors import ClientClosed, ComfyError, NoComfyPlugin, ServerUnreachable
from ..jobs.job import Job
from ..settings import DEFAULT_HOST, HOST_VARIABLE, environment_credentials
from ..transport.deadline import Deadline, limited_silence
from ..transport.failures import is_away
from ..transport.http import MAX_JSON, number_of_bytes
from ..transport.url import parse_host
from . import notes
from .notes import WorkerServer

#: A template or one URL, URLs by worker, a list of URLs to share, or None for the environment of
#: each worker.
Hosts: TypeAlias = str | Mapping[str, str] | Sequence[str] | None

#: The fields of a template.
FIELDS: Final = ("n", "name", "host")


@attrs.frozen
class WorkerName:
    """The name and address of a Dask worker.

    Attributes:
        name: The name of the worker.
        address: The address of the worker, such as ``tcp://10.0.0.7:34567``.
        host: The host in the address.
    """

    name: str
    address: str
    host: str

    @property
    def number(self) -> str:
        """The last number in the worker's name, such as 7 in ``gpu-7``.

        Raises ``ValueError`` if there is none.
        """
        found: list[str] = re.findall(r"\d+", self.name)
        if not found or self.name == self.address:
            raise ValueError(
                f"{{n}} is the number in a worker's name, and {self.name!r} has none: name the "
                "workers, or use {host}, or a mapping"
            )
        return found[-1]


def checked(hosts: Hosts) -> Hosts:
    """Check ``hosts`` and return it in a form that can be pickled.

    Raises ``ValueError`` if it is invalid or contains a password.
    """
    if hosts is None:
        return None
    if isinstance(hosts, str):
        _check_template(hosts)
        return hosts
    if isinstance(hosts, Mapping):
        found = {str(worker): url for worker, url in hosts.items()}
        urls: Iterable[str] = found.values()
    elif isinstance(hosts, Iterable):
        urls = found = list(hosts)  # type: ignore[assignment]  # of another kind
    else:
        kind = type(hosts).__name__
        raise TypeError(f"hosts must be URLs in a string, a list or a mapping, not {kind}")
    if not found:
        raise ValueError("hosts is empty; None takes the URL from the environment of each worker")
    for url in urls:
        _check(url)
    return found


def host_for(hosts: str | Mapping[str, str], worker: WorkerName) -> str:
    """Return the URL of a worker's server, from a template or a mapping.

    Raises ``ValueError`` if there is none.
    """
    if isinstance(hosts, str):
        values = {"name": worker.name, "host": worker.host}
        if any(name == "n" for _, name, _, _ in Formatter().parse(hosts)):
            values["n"] = worker.number
        return hosts.format_map(values)
    for name in (worker.name, worker.address, worker.host):
        if name in hosts:
            return hosts[name]
    raise ValueError(f"hosts has no server for the worker {worker.name!r} at {worker.address}")


def least_taken(hosts: Sequence[str], taken: Iterable[str]) -> str:
    """Return the URL in ``hosts`` that occurs least in ``taken``; of several, the first."""
    counts = Counter(taken)
    return min(hosts, key=lambda url: counts[url])


def _check_template(template: str) -> None:
    try:
        names = [name for _, name, _, _ in Formatter().parse(template) if name is not None]
    except ValueError as exc:
        raise ValueError(f"hosts is not a template: {exc}") from None
    for name in names:
        if name not in FIELDS:
            known = ", ".join(f"{{{field}}}" for field in FIELDS)
            raise ValueError(f"hosts: {{{name}}} is not one of {known}")
    _check(template.format_map(dict.fromkeys(FIELDS, "1")))


def _check(url: object) -> None:
    if not isinstance(url, str):
        raise TypeError(f"hosts must have URLs, which are strings, not a {type(url).__name__}")
    _, userinfo = parse_host(url)
    if userinfo is not None:
        raise ValueError(
            "hosts would be sent with a password in it: name the credentials by a variable of "
            "the workers, credentials=EnvCredentials('COMFYUI_TOKEN')"
        )


@attrs.define(eq=False, repr=False)
class Clients:
    """A worker's clients: one for each server that gets its prompts, and more to find prompts.

    Prompts go to the worker's own server, and to another one only if the own one refuses or fails
    them.

    Args:
        url: The URL of the worker's own server.
        credentials: Credentials by the URL of their server; those for any other server are under an
            empty string.
        user: As for :class:`ComfyApi`.
        verify: As for :class:`ComfyApi`.
        max_json: As for :class:`ComfyApi`.

    Attributes:
        url: The URL of the worker's own server.
        client_id: The id of the worker's own client.
        closed: Whether the worker has ended.
        turns_away: Whether other workers should take the prompts that are not sent yet, as only
            this worker's server is away.
        jobs: The jobs for which tasks of this worker wait, by the key of the task.
    """

    url: str
    _credentials: Mapping[str, AnyCredentials | None] = attrs.field(kw_only=True)
    _user: str | None = attrs.field(kw_only=True)
    _verify: bool | str = attrs.field(kw_only=True)
    _max_json: int = attrs.field(default=MAX_JSON, kw_only=True)
    client_id: str = attrs.field(factory=lambda: str(uuid.uuid4()), init=False)
    closed: bool = attrs.field(default=False, init=False)
    turns_away: bool = attrs.field(default=False, init=False)
    jobs: dict[object, Job] = attrs.field(factory=dict, init=False)
    _submitting: dict[str, ComfyApi] = attrs.field(factory=dict, init=False)
    _looking: weakref.WeakSet[ComfyApi] = attrs.field(factory=weakref.WeakSet, init=False)
    # Guards the two collections above, and closed.
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False)

    @property
    def place(self) -> WorkerServer:
        """The worker's own server."""
        return self.place_of(self.url)

    def place_of(self, url: str) -> WorkerServer:
        """Return the server that this machine reaches by a URL."""
        return WorkerServer(url, platform.node() if parse_host(url)[0].is_loopback else "")

    def check_open(self) -> None:
        """Raise :class:`ClientClosed` if the worker has ended."""
        if self.closed:
            raise ClientClosed

    def own(self) -> ComfyApi:
        """Return the client of the worker's own server."""
        return self.at(self.url)

    def at(self, url: str) -> ComfyApi:
        """Return the client that sends prompts to a server, made on first use."""
        with self._lock:
            self.check_open()
            if url not in self._submitting:
                self._submitting[url] = self._make(url, self.id_at(url), "auto")
            return self._submitting[url]

    def id_at(self, url: str) -> str:
        """Return the id of the client that sends prompts to a server."""
        if url == self.url:
            return self.client_id
        return str(uuid.uuid5(uuid.UUID(self.client_id), url))

    def reaches(self, place: WorkerServer) -> bool:
        """Return whether this machine can reach a server."""
        return place.machine in ("", platform.node())

    def looking(self, place: WorkerServer, client_id: str) -> ComfyApi:
        """Make a client that looks for prompts of another worker's client; it opens no socket.

        Raises:
            ServerUnreachable: Only the machine of that worker reaches the server.
        """
        if not self.reaches(place):
            raise ServerUnreachable(
                f"{place.url} is a server on {place.machine}, and is asked from there only"
            )
        with self._lock:
            self.check_open()
            api = self._make(place.url, client_id, "poll")
            self._looking.add(api)
            return api

    def close(self) -> None:
        """Close all clients; calls that wait for a prompt raise :class:`ClientClosed`."""
        with self._lock:
            self.closed = True
            clients = [*self._looking, *self._submitting.values()]
        for api in clients:
            api.close()

    def _make(self, url: str, client_id: str, transport: Literal["auto", "poll"]) -> ComfyApi:
        found = self._credentials
        return ComfyApi(
            url,
            client_id,
            credentials=found.get(url, found.get("")),
            user=self._user,
            verify=self._verify,
            transport=transport,
            max_json=self._max_json,
        )


log: logging.Logger = logging.getLogger("comfy_client")

#: Seconds between two checks, and for an answer of a busy server.
_INTERVAL: Final = 1.0
_ANSWER: Final = 10.0
#: How many checks of an absent server come between two questions to the scheduler.
_REST: Final = 5


async def pause_while_away(worker: Worker, clients: Clients, every: float = _INTERVAL) -> None:
    """Pause the worker while its server is away and another worker's server is not.

    If all servers are away, no worker is paused: tasks wait for their servers, and fail.  ``every``
    is the number of seconds between two checks.
    """
    noted: bool | None = None
    checks = 0
    try:
        while not clients.closed:
            try:
                away = not await asyncio.to_thread(_is_there, clients)
                if away is not noted:
                    await notes.report_away(worker, clients.place, away)
                    noted, checks = away, 0
                pause = clients.turns_away
                if away and checks % _REST == 0:
                    pause = bool(await notes.others(worker))
                _pause(worker, clients, away and pause)
                checks += 1
            except (OSError, TimeoutError) as exc:
                extra = {"server": clients.url}
                log.warning("cannot tell whether %s is up: %r", clients.url, exc, extra=extra)
            await asyncio.sleep(every)
    finally:
        _pause(worker, clients, False)


def _is_there(clients: Clients) -> bool:
    """Return whether the worker's server answers, even with a refusal.

    Once the clients are closed, return True.
    """
    try:
        api = clients.own()
    except ClientClosed:
        return True
    if api.connected:
        return True
    error = api.ping(_ANSWER).error
    return error is None or not is_away(error)


def _pause(worker: Worker, clients: Clients, pause: bool) -> None:
    """Tell the scheduler to pause or resume a worker.

    Each call repeats a pause, as the worker's memory monitor may have ended it.
    """
    if pause or clients.turns_away:
        status = Status.paused if pause else worker.status
        if status in (Status.running, Status.paused):  # and not about to close
            now = f"comfy-client-{time.time()}"
            message = {"op": "worker-status-change", "status": status.name, "stimulus_id": now}
            worker.batched_send(message)
    if pause and not clients.turns_away:
        said, extra = "%s is away: its worker takes no tasks until it is back", clients.url
        log.warning(said, clients.url, extra={"server": extra})
    elif clients.turns_away and not pause:
        extra = clients.url
        log.info("the worker of %s takes tasks again", clients.url, extra={"server": extra})
    clients.turns_away = pause


#: The name of the plugin at a worker.
NAME: Final = "comfy-client"
#: Seconds for a plugin to choose a server.
_SETUP: Final = 60.0
#: Seconds for a server to say whether it has prompts.
_EMPTY: Final = 2.0
#: Seconds during which a plugin may be replaced by another.
_REPLACED: Final = 1.0


class ComfyPlugin(WorkerPlugin):
    """A plugin that gives each Dask worker a ComfyUI: its address, credentials, and one client.

    Register it before tasks are submitted; workers that join later, or are restarted, get it too.
    A second plugin replaces the first.

    The plugin checks every second whether the ComfyUI is up.  While it is away, and that of another
    worker is not, the scheduler treats the worker as paused and gives it no tasks.

    Example::

        from dask.distributed import Client, LocalCluster
        from comfy_client.distributed import ComfyPlugin

        with (
            LocalCluster(n_workers=2, processes=False, dashboard_address=":0") as cluster,
            Client(cluster) as client,
        ):
            client.register_plugin(ComfyPlugin("http://gpu-{n}:8188"))

    Args:
        hosts: Where the servers are:

            * a template for all workers, ``"http://gpu-{n}:8188"``: ``{name}`` is the name of the
              worker, ``{n}`` the last number in that, ``{host}`` the host of its address;
            * a mapping from the name, the address or the host of a worker to a URL;
            * a list of URLs, of which each worker takes one.  If there are more workers, several
              share one;
            * ``None``: ``COMFYUI_HOST`` in the environment of each worker, and the credentials
              there, as :class:`ComfyApi` reads them; they are sent to that server only.
        credentials: The environment variable from which workers read the credentials for every
            server, or one variable for each URL.  ``None``: no credentials, unless ``hosts`` is
            ``None``, too.
        user: As for :class:`ComfyApi`.
        verify: As for :class:`ComfyApi`; a path is one on the workers' machines.
        max_json: As for :class:`ComfyApi`.

    Attributes:
        name: The plugin's name at a worker.

    Raises:
        TypeError: ``credentials`` is not an :class:`EnvCredentials`: secrets would be sent to the
            scheduler and pickled.  Or ``max_json`` is not a whole number.
        ValueError: ``hosts`` or ``max_json`` makes no sense, or ``hosts`` has a password in it.
    """

    name: str = NAME

    def __init__(
        self,
        hosts: Hosts = None,
        *,
        credentials: EnvCredentials | Mapping[str, EnvCredentials] | None = None,
        user: str | None = None,
        verify: bool | str | os.PathLike[str] = True,
        max_json: int = MAX_JSON,
    ) -> None:
        self._hosts = checked(hosts)
        self._credentials = _checked(credentials)
        self._user = user
        self._verify = verify if isinstance(verify, bool) else os.fspath(verify)
        self._max_json = number_of_bytes("max_json", max_json)
        # Set at a worker; not pickled.
        self._clients: Clients | None = None
        self._error: str | None = None
        self._watch: asyncio.Task[None] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        given: dict[str, Any] = {
            "credentials": self._credentials,
            "user": self._user,
            "verify": self._verify,
            "max_json": self._max_json,
        }
        return partial(ComfyPlugin, **given), (self._hosts,)

    def __repr__(self) -> str:
        where = self.url or self._hosts or f"{HOST_VARIABLE} of each worker"
        return f"<ComfyPlugin {where}>"

    @property
    def url(self) -> str | None:
        """The URL of the worker's server; None if it has none, or outside of a worker."""
        return None if self._clients is None else self._clients.url

    async def setup(self, worker: Worker) -> None:
        """Choose a server for the worker; Dask calls this."""
        try:
            self._clients = await self._chosen(worker)
            self._watch = asyncio.create_task(pause_while_away(worker, self._clients))
        except BaseException as exc:
            self._error = str(exc) or repr(exc)
            raise

    async def _chosen(self, worker: Worker) -> Clients:
        place = WorkerName(str(worker.name), worker.address, get_address_host(worker.address))
        # One worker at a time, so that each sees the earlier choices.
        async with Semaphore(name=NAME, scheduler_rpc=worker.scheduler, loop=worker.loop):
            if self._hosts is None:
                given = os.environ.get(HOST_VARIABLE) or DEFAULT_HOST
            elif isinstance(self._hosts, str | Mapping):
                given = host_for(self._hosts, place)
            else:
                given = await _free(worker, self._hosts)
            address, login = parse_host(given)
            url = address.http_url
            credentials = self._credentials_for(url)
            if login is not None:  # from the environment, or it would have been refused
                credentials = {**credentials, url: BasicCredentials(*login)}
            clients = Clients(
                url,
                credentials=credentials,
                user=self._user,
                verify=self._verify,
                max_json=self._max_json,
            )
            is_new = await notes.introduce(worker, clients.place)
        if is_new and await asyncio.to_thread(_is_empty, clients):
            await notes.note_empty(worker, clients.place)
        return clients

    async def teardown(self, worker: Worker) -> None:
        """Close the worker's clients; waiting tasks run again elsewhere.  Dask calls this."""
        if self._clients is not None:
            self._clients.close()
        if self._watch is not None:
            self._watch.cancel()

    def _credentials_for(self, url: str) -> Mapping[str, AnyCredentials | None]:
        """Return credentials by URL; those from the environment are for the server ``url`` only."""
        if isinstance(self._credentials, Mapping):
            return self._credentials
        if self._credentials is None and self._hosts is None:
            return {url: environment_credentials()}
        return {"": self._credentials}


def here() -> tuple[Worker, Clients]:
    """Return the worker that runs this task, and its clients.

    Raises:
        RuntimeError: This is not a task.
        NoComfyPlugin: The worker has no plugin or no server.
    """
    try:
        worker = get_worker()
    except ValueError:
        raise RuntimeError(
            "run_workflow is for tasks of Dask: client.submit(run_workflow, workflow)"
        ) from None
    until, missing = Deadline.after(_SETUP), Deadline.after(_REPLACED)
    while True:
        plugin = worker.plugins.get(NAME)
        if isinstance(plugin, ComfyPlugin):
            if plugin._clients is not None:
                return worker, plugin._clients
            if plugin._error is not None or until.expired:
                raise NoComfyPlugin(f"this worker has no ComfyUI: {plugin._error or 'no answer'}")
        elif missing.expired:
            raise NoComfyPlugin(
                "this worker has no ComfyPlugin, or its scheduler was started again and has "
                "forgotten it: client.register_plugin(ComfyPlugin(hosts))"
            )
        time.sleep(0.05)


def url_of(host: str) -> str:
    """Return the URL that a client uses for a host, such as ``gpu-box``."""
    return parse_host(host)[0].http_url


async def _free(worker: Worker, hosts: Sequence[str]) -> str:
    """Return the URL in ``hosts`` that the fewest other workers use; of several, the first."""
    return least_taken(list(map(url_of, hosts)), [place.url for place in await notes.taken(worker)])


def _is_empty(clients: Clients) -> bool:
    """Return whether the worker's server certainly has no prompts, ended or not."""
    try:
        with limited_silence(_EMPTY):
            api = clients.own()
            return not api.poll_status(_EMPTY).queue_remaining and not api.get_histories(1)
    except ComfyError:
        return False


def _checked(
    credentials: EnvCredentials | Mapping[str, EnvCredentials] | None,
) -> EnvCredentials | Mapping[str, EnvCredentials] | None:
    """Check credentials and return them in a form that can be pickled.

    Raises ``TypeError`` for credentials that may hold a secret themselves.
    """
    if credentials is None or isinstance(credentials, EnvCredentials):
        return credentials
    given = credentials if isinstance(credentials, Mapping) else {"": credentials}
    for one in given.values():
        if not isinstance(one, EnvCredentials):
            raise TypeError(
                "credentials name a variable of the workers, EnvCredentials('COMFYUI_TOKEN'): "
                f"a {type(one).__name__} would be pickled and sent with its secret"
            )
    return {url_of(host): one for host, one in given.items()}
