"""The arguments of a client of Comfy API v2."""

from __future__ import annotations

from typing import Any

import attrs

from ..credentials import BearerCredentials
from ..jobs.poller import Poller
from ..jobs.tracker import Tracker
from ..routes.definitions import NodeDefinitions
from ..settings import ClientSettings
from ..timing import Timing
from ..transport.http import Http
from .assets import KnownAssets
from .dialect import HOSTED
from .job_poller import HostedPoller
from .older_api import CLOUD_V1, CloudHttp, JobSearch, v1_credentials
from .routes import HostedRoutes
from .sending import LabelForm, Submission
from .servers import is_serverless, key_after_pickle


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
