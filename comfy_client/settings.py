"""The arguments of a client, for copies, and without secrets for pickles."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import attrs

from .routes.definitions import DefinitionFile, NodeDefinitions
from .timing import Timing
from .transport.http import Http
from .transport.url import Address, parse_host
from .user_folder import user_folder

if TYPE_CHECKING:
    import requests

    from .credentials import AnyCredentials, EnvCredentials
    from .jobs.poller import Poller
    from .jobs.tracker import Tracker

#: The URL of a ComfyUI that was started without options on this machine.
DEFAULT_HOST: Final = "http://127.0.0.1:8188"
#: The environment variables for a client that is given no server and no credentials.
HOST_VARIABLE: Final = "COMFYUI_HOST"
#: The environment variable for the folder with node definitions, and what says that there is none.
CACHE_VARIABLE: Final = "COMFYUI_CACHE"
NO_CACHE: Final = ("0", "off", "no", "false")
#: The kind of credentials in each variable; the first one that is set is used.
SECRET_VARIABLES: Final = {"COMFYUI_TOKEN": "bearer", "COMFYUI_LOGIN": "basic"}


@attrs.define(repr=False, eq=False, kw_only=True)
class ClientSettings:
    """The arguments of :class:`ComfyApi`; the ``repr`` shows none of them, as some are secret."""

    host: str | None
    credentials: AnyCredentials | None
    user: str | None
    timeout: float | tuple[float, float]
    verify: bool | str | os.PathLike[str]
    cert: str | tuple[str, str] | None
    proxies: Mapping[str, str | None] | None
    headers: Mapping[str, str] | None
    session: requests.Session | None
    transport: Literal["auto", "poll"]
    namespace: Any  # blinker's Namespace, or None
    max_json: int
    definition_cache: bool | str | os.PathLike[str] = False
    address: Address = attrs.field(init=False)
    #: The folder for node definitions on disk; None: they are not kept there.
    cache_folder: Path | None = attrs.field(init=False)
    #: The environment variables that were used.
    variables: tuple[str, ...] = attrs.field(init=False, default=())

    def __attrs_post_init__(self) -> None:
        given = self.host
        self.address, userinfo = _address_in_environment() if given is None else parse_host(given)
        self.host = self.address.http_url
        if given is None:
            if self.credentials is None and userinfo is None:
                self.credentials = environment_credentials()
            read = getattr(self.credentials, "variable", None)  # EnvCredentials have it
            names = (HOST_VARIABLE, *([read] if read else []))
            self.variables = tuple(name for name in names if os.environ.get(name))
        if userinfo is not None:
            if self.credentials is not None:
                raise ValueError("credentials are both in host and in credentials=; give one")
            from .credentials import BasicCredentials

            self.credentials = BasicCredentials(*userinfo)
        if self.transport not in ("auto", "poll"):
            raise ValueError("transport must be 'auto' or 'poll'")
        self.headers = dict(self.headers or {})
        self.cache_folder = _cache_folder(self.definition_cache)

    def make_http(self, timing: Timing) -> Http:
        """Make the :class:`Http` of a client with these settings."""
        return Http(self.address, **self.http_options(timing))

    def http_options(self, timing: Timing) -> dict[str, Any]:
        """Return the keyword arguments for the :class:`Http` of a client."""
        return {
            "credentials": self.credentials,
            "user": self.user,
            "timeout": self.timeout,
            "verify": self.verify,
            "cert": self.cert,
            "proxies": self.proxies,
            "headers": self.headers,
            "session": self.session,
            "max_json": self.max_json,
            "stale": timing.stale,
            "resume": timing.resume,
            "show": timing.show,
        }

    def make_definitions(self, tracker: Tracker) -> NodeDefinitions:
        """Make the part of a client that keeps node definitions."""
        file = None
        if self.cache_folder is not None:
            file = DefinitionFile(self.cache_folder, f"{self.address.http_url}\n{self.user or ''}")
        return NodeDefinitions(tracker.http, lambda: tracker.link, file)

    def make_poller(self, tracker: Tracker, definitions: NodeDefinitions) -> Poller:
        """Make the part of a client that talks to the server about prompts."""
        from .jobs.poller import Poller

        return Poller(tracker, definitions)

    def arguments(self) -> dict[str, Any]:
        """Return the arguments for a copy of the client."""
        fields = (field.name for field in attrs.fields(type(self)) if field.init)
        return {name: getattr(self, name) for name in fields}

    def for_pickle(self) -> dict[str, Any]:
        """Return the arguments for a pickle, without secrets."""
        from .credentials import EnvCredentials

        credentials, proxies, verify = self.credentials, self.proxies, self.verify
        return {
            "host": self.host,
            "credentials": credentials if isinstance(credentials, EnvCredentials) else None,
            "user": self.user,
            "timeout": self.timeout,
            "verify": os.fspath(verify) if isinstance(verify, os.PathLike) else verify,
            "cert": self.cert,
            "proxies": None if proxies is None else _without_passwords(proxies),
            "transport": self.transport,
            "max_json": self.max_json,
            "definition_cache": self.definition_cache,
        }

    def left_behind(self) -> tuple[str, ...]:
        """Return the names of the arguments that a pickle lacks, wholly or in part."""
        carried, proxies = ClientSettings.for_pickle(self), self.proxies
        stays = {
            "credentials": self.credentials is not None and carried["credentials"] is None,
            "proxies": proxies is not None and carried["proxies"] != dict(proxies),
            "headers": bool(self.headers),
            "session": self.session is not None,
            "namespace": self.namespace is not None,
        }
        return tuple(name for name, is_left in stays.items() if is_left)


def _cache_folder(given: bool | str | os.PathLike[str] | None) -> Path | None:
    """Return the folder for node definitions on disk; None: they are not kept there."""
    if given is None or given is False or given == "":
        return None
    if given is not True:
        return Path(given).expanduser()
    said = os.environ.get(CACHE_VARIABLE, "")
    if said.lower() in NO_CACHE:
        return None
    if said:
        return Path(said).expanduser()
    return user_folder("cache") / "comfy-client" / "nodes"


def environment_credentials() -> EnvCredentials | None:
    """Return credentials from ``COMFYUI_TOKEN``, or else ``COMFYUI_LOGIN``; None if unset."""
    found = next((name for name in SECRET_VARIABLES if os.environ.get(name)), None)
    if found is None:
        return None
    from .credentials import EnvCredentials

    return EnvCredentials(found, SECRET_VARIABLES[found])


def _address_in_environment() -> tuple[Address, tuple[str, str] | None]:
    try:
        return parse_host(os.environ.get(HOST_VARIABLE) or DEFAULT_HOST)
    except ValueError as exc:
        raise ValueError(f"{HOST_VARIABLE}: {exc}") from None


def _without_passwords(proxies: Mapping[str, str | None]) -> dict[str, str | None]:
    return {scheme: url for scheme, url in proxies.items() if not url or "@" not in url}
