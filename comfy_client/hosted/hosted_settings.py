"""The arguments of a client of Comfy API v2, and what the environment says instead."""

from __future__ import annotations

import os
from typing import Any, Final

import attrs

from ..credentials import BearerCredentials, EnvCredentials
from ..errors import AuthenticationError
from ..jobs.poller import Poller
from ..jobs.tracker import Tracker
from ..settings import ClientSettings
from ..timing import Timing
from ..transport.http import Http
from ..transport.url import Address, parse_host
from .dialect import HOSTED
from .job_poller import HostedPoller
from .routes import HostedRoutes
from .sending import LabelForm, Submission

#: Comfy Cloud, which is the default server.
CLOUD: Final = "https://cloud.comfy.org"
#: The environment variables for the server and the key, as the official client reads them.
URL_VARIABLE: Final = "COMFY_BASE_URL"
KEY_VARIABLE: Final = "COMFY_API_KEY"
#: Endings of the names of servers that are serverless deployments.
_SERVERLESS: Final = (".run.comfy.app", "platformapi.comfy.org")


@attrs.define(repr=False, eq=False, kw_only=True)
class HostedSettings(ClientSettings):
    """The arguments of :class:`HostedApi`; the ``repr`` shows none, as some are secret."""

    patience: float
    allow_insecure: bool
    search_v1: bool

    def make_http(self, timing: Timing) -> Http:
        """Make the :class:`Http` of a client, which speaks Comfy API v2."""
        return Http(
            self.address,
            credentials=self.credentials,
            timeout=self.timeout,
            verify=self.verify,
            cert=self.cert,
            proxies=self.proxies,
            headers=self.headers,
            session=self.session,
            max_json=self.max_json,
            stale=timing.stale,
            resume=timing.resume,
            show=timing.show,
            dialect=HOSTED,
        )

    def make_poller(self, tracker: Tracker) -> Poller:
        """Make the part of a client that talks to the server about jobs."""
        form: LabelForm = "text"
        if is_cloud(self.address):
            form = "none"
        elif is_serverless(self.address):
            form = "mapping"
        routes = HostedRoutes(tracker.http)
        submission = Submission(routes, form, remembers=form != "text", search=None)
        return HostedPoller(tracker, routes, submission, self.patience)

    def arguments(self) -> dict[str, Any]:
        """Return the arguments for a copy of the client."""
        return self._renamed(super().arguments())

    def for_pickle(self) -> dict[str, Any]:
        """Return the arguments for a pickle, without secrets."""
        own = {"patience": self.patience, "allow_insecure": self.allow_insecure}
        return self._renamed({**super().for_pickle(), **own, "search_v1": self.search_v1})

    def left_behind(self) -> tuple[str, ...]:
        """Return the names of the arguments that a pickle lacks, wholly or in part."""
        return tuple("api_key" if name == "credentials" else name for name in super().left_behind())

    def _renamed(self, given: dict[str, Any]) -> dict[str, Any]:
        """Return arguments of :class:`ComfyApi` as those of :class:`HostedApi`."""
        left_out = ("host", "credentials", "user", "transport")
        kept = {name: value for name, value in given.items() if name not in left_out}
        credentials = given["credentials"]
        key = credentials.token if isinstance(credentials, BearerCredentials) else None
        return {**kept, "base_url": self.host, "api_key": key}


def server_of(base_url: str | None) -> tuple[str, tuple[str, ...]]:
    """Return the URL of the server, and the environment variables that were read for it.

    Raises ``ValueError`` for anything but an http(s) URL.
    """
    given = base_url
    variables: tuple[str, ...] = ()
    if given is None:
        said = os.environ.get(URL_VARIABLE, "").strip()
        given, variables = said or CLOUD, (URL_VARIABLE,) if said else ()
    try:
        address, login = parse_host(given)
    except ValueError as exc:
        raise ValueError(f"{', '.join(variables) or 'base_url'}: {exc}") from None
    if login is not None:
        raise ValueError("base_url has a login; pass api_key=... instead")
    return address.http_url, variables


def key_for(
    address: Address, api_key: str | None, *, allow_insecure: bool
) -> BearerCredentials | EnvCredentials | None:
    """Return the credentials for a key, or else for ``COMFY_API_KEY``; None: there is no key.

    Raises:
        AuthenticationError: Comfy Cloud needs a key.
        ValueError: A key must not be sent over plain http to another machine.
    """
    found: BearerCredentials | EnvCredentials | None = None
    if api_key is not None and api_key.strip():
        found = BearerCredentials(api_key.strip())
    elif os.environ.get(KEY_VARIABLE, "").strip():
        found = EnvCredentials(KEY_VARIABLE)
    if found is None and is_cloud(address):
        raise AuthenticationError(
            f"Comfy Cloud needs a key: pass api_key=..., or set {KEY_VARIABLE}; for another "
            f"server, pass base_url=..., or set {URL_VARIABLE}"
        )
    is_exposed = address.scheme == "http" and not address.is_loopback
    if found is not None and is_exposed and not allow_insecure:
        raise ValueError(
            f"the key would go unencrypted to {address.http_url}: use https://, or pass "
            "allow_insecure=True"
        )
    return found


def is_cloud(address: Address) -> bool:
    """Return whether an address is that of Comfy Cloud."""
    return address.http_url == CLOUD


def is_serverless(address: Address) -> bool:
    """Return whether an address is that of a serverless deployment of Comfy."""
    return f".{address.host}".endswith(_SERVERLESS)
