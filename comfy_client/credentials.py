"""Credentials for a server, or for the proxy in front of it.

ComfyUI itself has no passwords; proxies and plug-ins do.  Credentials are sent with every HTTP
request, the WebSocket handshake and downloads, to the configured origin only, and never appear
in a ``repr``, a log, an error or a pickle.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Mapping
from typing import Protocol, TypeAlias, runtime_checkable

import attrs

from .errors import AuthenticationError


@runtime_checkable
class Credentials(Protocol):
    """An object that provides headers and query parameters to send."""

    def headers(self) -> Mapping[str, str]:
        """Return headers for each request and for the handshake."""

    def query(self) -> Mapping[str, str]:
        """Return query parameters for each request and for the handshake."""


class _HeadersOnly:
    __slots__ = ()

    def query(self) -> Mapping[str, str]:
        """Return no query parameters."""
        return {}


@attrs.frozen
class BasicCredentials(_HeadersOnly):
    """User name and password, as UTF-8.  A plain ``(username, password)`` means the same.

    A user name with a colon is a ``ValueError``, since the colon would end it.

    Attributes:
        username: The user name.
        password: The password.
    """

    username: str = attrs.field()
    password: str = attrs.field(repr=False)

    @username.validator
    def _has_no_colon(self, _: object, value: str) -> None:
        if ":" in value:
            raise ValueError("a user name cannot contain a colon: the password begins after it")

    def headers(self) -> Mapping[str, str]:
        """Return ``Authorization: Basic ...``."""
        pair = f"{self.username}:{self.password}".encode()
        return {"Authorization": "Basic " + base64.b64encode(pair).decode("ascii")}


@attrs.frozen
class BearerCredentials(_HeadersOnly):
    """A token sent as ``Authorization: Bearer ...``.

    Attributes:
        token: The token.
    """

    token: str = attrs.field(repr=False)

    def headers(self) -> Mapping[str, str]:
        """Return ``Authorization: Bearer ...``."""
        return {"Authorization": f"Bearer {self.token}"}


@attrs.frozen
class HeaderCredentials(_HeadersOnly):
    """Secret headers of your own, such as ``{"X-API-Key": "..."}``.

    Attributes:
        values: The value of each header, by its name.
    """

    values: Mapping[str, str] = attrs.field(repr=False)

    def headers(self) -> Mapping[str, str]:
        """Return the headers as given."""
        return self.values


@attrs.frozen
class QueryCredentials:
    """A query parameter, such as ``?token=...``, for each request and for the handshake.

    Attributes:
        name: The name of the parameter.
        value: The value of the parameter.
    """

    name: str
    value: str = attrs.field(repr=False)

    def headers(self) -> Mapping[str, str]:
        """Return no headers."""
        return {}

    def query(self) -> Mapping[str, str]:
        """Return the parameter."""
        return {self.name: self.value}


@attrs.frozen
class EnvCredentials:
    """Credentials from an environment variable; only the name of the variable is stored.

    This is the only kind that is pickled with a client.  The variable is read before each
    WebSocket connection and again after a 401; if it is not set, an ``AuthenticationError`` is
    raised.

    Attributes:
        variable: The name of the environment variable.
        kind: How its value is sent: ``"bearer"``, ``"basic"`` (the value is ``user:password``),
            ``"header"`` or ``"query"``.
        key: The name of the header or query parameter; unused for ``"bearer"`` and ``"basic"``.
    """

    variable: str
    kind: str = attrs.field(
        default="bearer", validator=attrs.validators.in_(["bearer", "basic", "header", "query"])
    )
    key: str = "X-API-Key"

    def _read(self) -> Credentials:
        value = os.environ.get(self.variable)
        if not value:
            raise AuthenticationError(f"the environment variable {self.variable} is not set")
        if self.kind == "basic":
            username, colon, password = value.partition(":")
            if not colon:
                raise AuthenticationError(f"{self.variable} does not hold user:password")
            return BasicCredentials(username, password)
        if self.kind == "header":
            return HeaderCredentials({self.key: value.strip()})
        if self.kind == "query":
            return QueryCredentials(self.key, value)
        return BearerCredentials(value.strip())  # a value from a file may end with its line

    def headers(self) -> Mapping[str, str]:
        """Return the headers for the current value of the variable."""
        return self._read().headers()

    def query(self) -> Mapping[str, str]:
        """Return the query parameters for the current value of the variable."""
        return self._read().query()


#: Types for ``ComfyApi(credentials=...)``.  A callable is called at each dial of the socket
#: and again after a 401, and may return any of the others.
AnyCredentials: TypeAlias = (
    Credentials | tuple[str, str] | Callable[[], "Credentials | tuple[str, str] | None"]
)
