"""``HostedApi``: the client of a hosted ComfyUI, over Comfy API v2."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final, NoReturn

import attrs

from .. import models
from ..client import ComfyApi
from ..credentials import BearerCredentials, EnvCredentials
from ..errors import NotFound, NotSupported
from ..jobs.poller import Poller
from ..jobs.tracker import Tracker
from ..routes import Routes
from ..routes.definitions import NodeDefinitions
from ..settings import ClientSettings
from ..timing import Timing
from ..transport.deadline import check_patience
from ..transport.http import MAX_JSON, Http
from ..transport.url import parse_host
from .assets import KnownAssets
from .dialect import HOSTED, reason_for
from .files import AssetFiles
from .job_poller import HostedPoller
from .older_api import CLOUD_V1, CloudHttp, JobSearch, v1_credentials
from .routes import HostedRoutes
from .sending import LabelForm, Submission
from .servers import CLOUD, is_cloud, is_serverless, key_after_pickle, key_for, server_of

if TYPE_CHECKING:
    import blinker
    import requests

    from ..doctor.report import DoctorReport


@attrs.define(repr=False, eq=False, kw_only=True)
class HostedSettings(ClientSettings):
    """The arguments of :class:`HostedApi`; the ``repr`` shows none, as some are secret."""

    patience: float
    allow_insecure: bool
    search_v1: bool
    allow_private_storage: bool
    is_cloud: bool  #: Whether the server is Comfy Cloud, which has an older API, too.
    assets: KnownAssets = attrs.field(init=False, factory=KnownAssets)

    def make_http(self, timing: Timing) -> Http:
        """Make the :class:`Http` of a client; on Comfy Cloud, it speaks both of the APIs there."""
        # No variable holds the options, as a traceback would show the key in them.
        if not self.is_cloud:
            return Http(self.address, **self.http_options(timing), dialect=HOSTED)
        made = CloudHttp(self.address, **self.http_options(timing), dialect=HOSTED)
        made.v1 = Http(
            self.address,
            **{
                **self.http_options(timing),
                "credentials": v1_credentials(self.credentials),
                "dialect": CLOUD_V1,
            },
        )
        return made

    def make_poller(self, tracker: Tracker, definitions: NodeDefinitions) -> Poller:
        """Make the part of a client that talks to the server about jobs."""
        form: LabelForm = "text"
        if self.is_cloud:
            form = "none"
        elif is_serverless(self.address):
            form = "mapping"
        routes, search = HostedRoutes(tracker.http), None
        if self.search_v1 and isinstance(tracker.http, CloudHttp):
            search = JobSearch(tracker.http.v1, routes)
        submission = Submission(
            routes,
            form,
            remembers=form != "text",
            search=search,
            name_of=self.assets.name_of,
        )
        return HostedPoller(tracker, routes, submission, self.patience)

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of :class:`HostedApi` for a copy of the client."""
        held = self.credentials
        key = held.token if isinstance(held, BearerCredentials) else held
        return self._renamed(super().arguments(), key)

    def for_pickle(self) -> dict[str, Any]:
        """Return the arguments of :class:`HostedApi` for a pickle, which has no secrets.

        In place of a key, they name the environment variable to read it from: ``COMFY_API_KEY`` for
        a key that was given as text, if the variable is meant for this server there.
        """
        own = ("patience", "allow_insecure", "search_v1", "allow_private_storage")
        held = self.credentials
        key = key_after_pickle(self.address) if isinstance(held, BearerCredentials) else held
        given = {**super().for_pickle(), **{name: getattr(self, name) for name in own}}
        return self._renamed(given, key)

    def left_behind(self) -> tuple[str, ...]:
        """Return the names of the arguments that a pickle lacks, wholly or in part."""
        return tuple("api_key" if name == "credentials" else name for name in super().left_behind())

    def _renamed(self, given: dict[str, Any], key: object) -> dict[str, Any]:
        """Convert arguments of :class:`ComfyApi` to those of :class:`HostedApi`, with a key."""
        left_out = ("host", "credentials", "user", "transport", "is_cloud", "definition_cache")
        kept = {name: value for name, value in given.items() if name not in left_out}
        return {**kept, "base_url": self.host, "api_key": "" if key is None else key}


#: The id of a job that no server has, to find out whether a server answers.
_NOBODY: Final = "00000000-0000-0000-0000-000000000000"


class HostedApi(AssetFiles, ComfyApi):
    """A blocking client of a hosted ComfyUI: Comfy Cloud, a serverless deployment, or a proxy.

    It speaks Comfy API v2 (``/api/v2``): each prompt is a *job* there.  :meth:`run`,
    :meth:`submit`, :meth:`map`, :meth:`sweep`, :meth:`job` and their jobs, results and errors are
    those of :class:`ComfyApi`.  What Comfy API v2 lacks raises :class:`NotSupported`: the queue,
    node definitions, ``interrupt``, user data, the client id, preview methods, ...  Comfy Cloud
    also has an older API with node definitions, models and the queue: see :attr:`v1`.  The guide
    (``hosted.rst``) lists the differences.

    Example::

        from comfy_client import HostedApi

        with HostedApi("http://127.0.0.1:8189") as api:
            result = api.run("txt2img.json", timeout=300)
            result.images[0].save("out/")

    Args:
        base_url: The URL of the server, without ``/api/v2``.  ``None``: the value of
            ``COMFY_BASE_URL``, else Comfy Cloud.
        api_key: The key, sent as ``Authorization: Bearer ...`` to that server alone, or
            ``EnvCredentials`` with the name of another variable.  ``""``: no key.  ``None``: the
            value of ``COMFY_API_KEY`` for the server that ``COMFY_BASE_URL`` names or, without
            that, for servers of Comfy; no key, and a warning, for any other server.
        timeout: As for :class:`ComfyApi`.
        patience: Seconds to wait for a usable answer about a job, or to a submission, before the
            call fails; also :meth:`map` and :meth:`sweep`, whatever their own ``patience``.
        verify: As for :class:`ComfyApi`.
        cert: As for :class:`ComfyApi`.
        proxies: As for :class:`ComfyApi`.
        headers: As for :class:`ComfyApi`.
        session: As for :class:`ComfyApi`.
        namespace: As for :class:`ComfyApi`.
        record: As for :class:`ComfyApi`.
        max_json: As for :class:`ComfyApi`.
        allow_insecure: Whether a key may be sent over plain http to another machine.
        search_v1: Whether to look in the job list of Comfy Cloud's older API for a job whose
            submission got no answer.
        allow_private_storage: Whether the server may name a storage at any address for its files.
            By default, that must be public, the server's own host, or of the same kind as that:
            this machine, or a private network.  Its own redirects count as its word; those of a
            storage lead to public addresses only.

    Raises:
        AuthenticationError: Comfy Cloud needs a key, and there is none.
        ValueError: ``base_url``, ``api_key``, ``timeout`` or ``patience`` is invalid, or the key
            would be sent unencrypted to another machine.
    """

    _is_cloud: ClassVar[bool] = False
    timing: Timing = Timing(poll=30.0, job_poll=0.0005, job_poll_cap=1.0)

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | EnvCredentials | None = None,
        *,
        timeout: float | tuple[float, float] = (5.0, 60.0),
        patience: float = 40.0,
        verify: bool | str | os.PathLike[str] = True,
        cert: str | tuple[str, str] | None = None,
        proxies: Mapping[str, str | None] | None = None,
        headers: Mapping[str, str] | None = None,
        session: requests.Session | None = None,
        namespace: blinker.Namespace | None = None,
        record: str | os.PathLike[str] | None = None,
        max_json: int = MAX_JSON,
        allow_insecure: bool = False,
        search_v1: bool = False,
        allow_private_storage: bool = False,
    ) -> None:
        check_patience(patience)
        host, variables = server_of(base_url)
        address, _ = parse_host(host)
        credentials = key_for(address, api_key, allow_insecure=allow_insecure)
        settings = HostedSettings(
            host=host,
            credentials=credentials,
            user=None,
            timeout=timeout,
            verify=verify,
            cert=cert,
            proxies=proxies,
            headers=headers,
            session=session,
            transport="poll",
            namespace=namespace,
            max_json=max_json,
            patience=patience,
            allow_insecure=allow_insecure,
            search_v1=search_v1,
            allow_private_storage=allow_private_storage,
            is_cloud=self._is_cloud or is_cloud(address),
        )
        settings.variables = variables
        self._begin(settings, None, record)
        AssetFiles.__init__(
            self,
            self.parts.http,
            known=settings.assets,
            allow_private_storage=allow_private_storage,
        )

    # -- what differs ----------------------------------------------------------------------

    @property
    def hosted(self) -> HostedRoutes:
        """The routes of Comfy API v2, which return jobs and assets as the server describes them."""
        return HostedRoutes(self.parts.http)

    @property
    def v1(self) -> Routes:
        """The routes of Comfy Cloud's older API, for reading only: nodes, models, jobs, queue, ...

        ``GET /api/object_info``, ``/api/models``, ``/api/experiment/models``, ``/api/jobs``,
        ``/api/queue``, ``/api/features`` and ``/api/system_stats``, with the key in ``X-API-Key``.
        All other routes raise :class:`NotSupported`, before any request.  On Comfy Cloud, the
        client itself uses the routes above, so that :meth:`node_definitions` and lists of models
        work.  The two specifications of this API contradict each other; the client accepts both.

        Raises:
            NotSupported: The server is not Comfy Cloud.
        """
        http = self.parts.http
        if not isinstance(http, CloudHttp):
            raise NotSupported("only Comfy Cloud has an older API, beside Comfy API v2")
        return Routes(http.v1)

    @property
    def client_id(self) -> NoReturn:
        """Not supported, as each job has its own event stream; raises :class:`NotSupported`."""
        raise NotSupported("Comfy API v2 has no client id: each job has its own event stream")

    def poll_status(self, timeout: float = 1.0) -> models.QueueStatus:
        """Check that the server answers, and return how many jobs of this client have not ended.

        ``GET /api/v2/jobs/{id}`` is sent for a job that does not exist, as Comfy API v2 does not
        report the length of the queue.
        """
        with contextlib.suppress(NotFound):
            self.hosted.job(_NOBODY, timeout=timeout)
        return models.QueueStatus(len(self.parts.tracker.outstanding))

    def wait_until_ready(self, timeout: float | None = None) -> models.SystemStats:
        """Wait until the server answers: see :meth:`ComfyApi.wait_until_ready`.

        Only Comfy Cloud reports versions and memory; for any other server, these are ``None``.
        """
        return super().wait_until_ready(timeout)

    def subscribe_logs(self, enabled: bool = True) -> NoReturn:
        """Raise :class:`NotSupported`: Comfy API v2 does not show the server's log."""
        raise NotSupported(reason_for("/internal/logs"))

    def doctor(self, run: bool = False, *, timeout: float = 30.0) -> DoctorReport:
        """Diagnose the connection, and find out what the server supports.

        It requests a job that does not exist and its events, one job of the list, and an unknown
        hash, and posts workflows without outputs, which are refused; on Comfy Cloud, it also reads
        the older API.  Without ``run``, no job is run, and nothing costs anything.  The check
        ``proved`` lists what the server was seen to do.  See also :meth:`ComfyApi.doctor`.

        Args:
            run: Whether to run a trivial job too, EmptyImage to SaveImage, which may cost
                something; it leaves an image of 16 x 16 pixels.
            timeout: As for :meth:`ComfyApi.doctor`.

        Raises:
            ClientClosed: After :meth:`close`.  Findings are in the report, never raised.
        """
        from ..doctor.context import Client  # slow to import, and rarely needed
        from ..doctor.examine import examine
        from .hosted_checks import HostedChecks

        def work(graph: Mapping[str, Any], seconds: float) -> int:
            result = self.run(graph, timeout=seconds, progress=False)
            return sum(len(file.bytes()) for file in result.files)

        http, tracker = self.parts.http, self.parts.tracker
        http.check_open()
        client = Client(
            http,
            self.parts.connection,
            self.parts.connection.client_id,
            outstanding=len(tracker.outstanding),
            dropped_events=self.dropped_events,
        )
        checks = HostedChecks(work, is_cloud=isinstance(http, CloudHttp)).checks()
        return examine(client, run=run, timeout=timeout, checks=checks)

    def cancel_job(self, prompt_id: str) -> bool:
        """Request the cancellation of a job; return False if it has succeeded or failed.

        ``POST /api/v2/jobs/{id}/cancel``.  False also if the server does not know the job.  The
        method does not wait for the end: see :meth:`Job.cancel`.
        """
        try:
            return self.hosted.cancel(prompt_id).status not in ("succeeded", "failed")
        except NotFound:
            return False


class CloudApi(HostedApi):
    """A blocking client of Comfy Cloud: a :class:`HostedApi` with that address.

    ::

        api = CloudApi()  # the key is in COMFY_API_KEY

    Args:
        api_key: The key, as for :class:`HostedApi`; ``None``: the value of ``COMFY_API_KEY``.
        options: As for :class:`HostedApi`.

    Raises:
        AuthenticationError: There is no key.
    """

    _is_cloud: ClassVar[bool] = True

    def __init__(self, api_key: str | EnvCredentials | None = None, **options: Any) -> None:
        options.setdefault("base_url", CLOUD)
        super().__init__(api_key=api_key, **options)
