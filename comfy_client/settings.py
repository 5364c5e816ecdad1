"""What a client is made with: for its copies, and without secrets for its pickles."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import attrs

from .timing import Timing
from .transport.http import Http
from .transport.url import Address, parse_host

if TYPE_CHECKING:
    import requests

    from .credentials import AnyCredentials


@attrs.define(repr=False, eq=False, kw_only=True)
class ClientSettings:
    """The arguments of :class:`ComfyApi`; it holds secrets, so it shows nothing."""

    host: str
    credentials: AnyCredentials | None
    user: str | None
    timeout: float | tuple[float, float]
    verify: bool | str | os.PathLike[str]
    cert: str | tuple[str, str] | None
    proxies: Mapping[str, str | None] | None
    headers: Mapping[str, str] | None
    session: requests.Session | None
    transport: Literal["auto", "poll"]
    namespace: Any  # of blinker, or None
    max_json: int
    address: Address = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.address, userinfo = parse_host(self.host)
        self.host = self.address.http_url
        if userinfo is not None:
            if self.credentials is not None:
                raise ValueError("credentials stand both in host and in credentials=; give one")
            from .credentials import BasicCredentials

            self.credentials = BasicCredentials(*userinfo)
        if self.transport not in ("auto", "poll"):
            raise ValueError("transport is 'auto' or 'poll'")
        self.headers = dict(self.headers or {})

    def make_http(self, timing: Timing) -> Http:
        """The HTTP side of a client."""
        return Http(
            self.address,
            credentials=self.credentials,
            user=self.user,
            timeout=self.timeout,
            verify=self.verify,
            cert=self.cert,
            proxies=self.proxies,
            headers=self.headers,
            session=self.session,
            max_json=self.max_json,
            stale=timing.stale,
            resume=timing.resume,
        )

    def arguments(self) -> dict[str, Any]:
        """For another client of the same kind."""
        fields = (field.name for field in attrs.fields(type(self)) if field.init)
        return {name: getattr(self, name) for name in fields}

    def for_pickle(self) -> dict[str, Any]:
        """The arguments that a pickle carries; a secret is in none of them."""
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
        }

    def left_behind(self) -> tuple[str, ...]:
        """The names of arguments that a pickle does not carry, or not whole."""
        carried, proxies = self.for_pickle(), self.proxies
        stays = {
            "credentials": self.credentials is not None and carried["credentials"] is None,
            "proxies": proxies is not None and carried["proxies"] != dict(proxies),
            "headers": bool(self.headers),
            "session": self.session is not None,
            "namespace": self.namespace is not None,
        }
        return tuple(name for name, is_left in stays.items() if is_left)


def _without_passwords(proxies: Mapping[str, str | None]) -> dict[str, str | None]:
    return {scheme: url for scheme, url in proxies.items() if not url or "@" not in url}
