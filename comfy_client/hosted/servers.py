"""Addresses of hosted servers, and the key for each: from arguments, or from the environment."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import Final

import attrs

from ..credentials import BearerCredentials, EnvCredentials
from ..errors import AuthenticationError
from ..transport.url import Address, is_same_origin, parse_host

#: Comfy Cloud, which is the default server.
CLOUD: Final = "https://cloud.comfy.org"
#: The environment variables for the server and the key, as the official client reads them.
URL_VARIABLE: Final = "COMFY_BASE_URL"
KEY_VARIABLE: Final = "COMFY_API_KEY"
#: Endings of the names of servers that are serverless deployments.
_SERVERLESS: Final = (".run.comfy.app", ".platformapi.comfy.org")


def server_of(base_url: str | None) -> tuple[str, tuple[str, ...]]:
    """Return the URL of the server, and the environment variables from which it was read.

    Raises ``ValueError`` for anything but an http(s) URL without a login.
    """
    given = base_url
    variables: tuple[str, ...] = ()
    if given is None:
        said = os.environ.get(URL_VARIABLE, "").strip()
        given, variables = said or CLOUD, (URL_VARIABLE,) if said else ()
    named = ", ".join(variables) or "base_url"
    try:
        address, login = parse_host(given.strip())
    except ValueError as exc:
        raise ValueError(f"{named}: {exc}") from None
    if login is not None:
        raise ValueError(f"{named} has a login; pass api_key=..., or set {KEY_VARIABLE}, instead")
    return address.http_url.removesuffix("/api/v2"), variables


def key_for(
    address: Address, api_key: str | EnvCredentials | None, *, allow_insecure: bool
) -> BearerCredentials | EnvCredentials | None:
    """Return the credentials for ``api_key``, or else ``COMFY_API_KEY``; None if there is no key.

    An empty key means none, whatever the environment says.  A warning says that the key of the
    environment is not for this server: see :func:`takes_environment_key`.

    Raises:
        AuthenticationError: The server is Comfy Cloud, and there is no key.
        ValueError: The key cannot be sent in a header, or must not be sent over plain http to
            another machine.
    """
    if isinstance(api_key, EnvCredentials):
        if api_key.kind != "bearer":
            raise ValueError("api_key: EnvCredentials must be of the kind 'bearer'")
        found: BearerCredentials | EnvCredentials | None = api_key
    elif api_key is None:
        found = _key_of_environment(address)
    elif not isinstance(api_key, str):
        raise TypeError(f"api_key must be a string, not a {type(api_key).__name__}")
    else:
        given = _checked(api_key, "api_key")
        found = BearerCredentials(given) if given else None
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


@attrs.frozen
class KeyOfEnvironment(EnvCredentials):
    """The key in ``COMFY_API_KEY``, for a client whose pickle had to leave its own key out.

    Attributes:
        url: The URL of the client's server, for which the variable must be meant.
    """

    variable: str = KEY_VARIABLE
    url: str = attrs.field(default=CLOUD, kw_only=True)

    def headers(self) -> Mapping[str, str]:
        """Return the headers for the key; raise AuthenticationError if it is for another server."""
        found = EnvCredentials.headers(self)
        if not takes_environment_key(parse_host(self.url)[0]):
            raise AuthenticationError(
                f"{KEY_VARIABLE} is not sent to {self.url}: it is for {whose_environment_key()}; "
                f"name this server in {URL_VARIABLE}"
            )
        return found


def key_after_pickle(address: Address) -> EnvCredentials:
    """Return what stands for a key in the pickle of a client, which does not contain it."""
    if is_comfys_own(address):
        return EnvCredentials(KEY_VARIABLE)
    return KeyOfEnvironment(url=address.http_url)


def takes_environment_key(address: Address) -> bool:
    """Return whether the key in ``COMFY_API_KEY`` is meant for a server.

    It is for the server that ``COMFY_BASE_URL`` names; without that, for those of Comfy.
    """
    named = os.environ.get(URL_VARIABLE, "").strip()
    if not named:
        return is_comfys_own(address)
    try:
        return is_same_origin(parse_host(named)[0], address)
    except ValueError:
        return False


def whose_environment_key() -> str:
    """Return in words for which server the key in ``COMFY_API_KEY`` is."""
    is_named = os.environ.get(URL_VARIABLE, "").strip()
    return f"the server that {URL_VARIABLE} names" if is_named else "Comfy Cloud"


def _key_of_environment(address: Address) -> EnvCredentials | None:
    held = os.environ.get(KEY_VARIABLE, "").strip()
    if held and not takes_environment_key(address):
        warnings.warn(
            f"{KEY_VARIABLE} is not sent to {address.http_url}: it is for "
            f"{whose_environment_key()}; pass api_key=EnvCredentials({KEY_VARIABLE!r}) if this "
            "server may have it",
            UserWarning,
            stacklevel=4,
        )
        return None
    return EnvCredentials(KEY_VARIABLE) if _checked(held, KEY_VARIABLE) else None


def _checked(key: str, source: str) -> str:
    """Return a key without surrounding white space; raise ValueError if a header cannot have it."""
    found = key.strip()
    if not found.isascii() or any(c.isspace() or not c.isprintable() for c in found):
        raise ValueError(f"{source} is no key: it has white space or other characters inside")
    return found


def is_cloud(address: Address) -> bool:
    """Return whether an address is that of Comfy Cloud."""
    return address.http_url == CLOUD


def is_serverless(address: Address) -> bool:
    """Return whether an address is that of a serverless deployment of Comfy."""
    return f".{address.host}".endswith(_SERVERLESS)


def is_comfys_own(address: Address) -> bool:
    """Return whether an address alone shows that its server speaks Comfy API v2."""
    return is_cloud(address) or is_serverless(address)
