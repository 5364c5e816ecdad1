"""Credentials for a server, or for the proxy in front of it.

ComfyUI itself has no passwords; proxies and plug-ins do.  Credentials are sent with every HTTP
request, the WebSocket handshake and downloads, to the configured origin only, and never appear
in a ``repr``, a log, an error or a pickle.
"""

from __future__ import annotations

import base64
import os
import re
import sys
from collections.abc import Callable, Mapping
from typing import Final, Protocol, TypeAlias, TypeVar, runtime_checkable

import attrs

from .errors import AuthenticationError
from .interrupts import interruption

Answered = TypeVar("Answered")

#: The environment variables of whoever names no server, and no credentials.
HOST_VARIABLE: Final = "COMFYUI_HOST"
#: How the value of each is sent, the first one that is set.
SECRET_VARIABLES: Final = {"COMFYUI_TOKEN": "bearer", "COMFYUI_LOGIN": "basic"}


@runtime_checkable
class Credentials(Protocol):
    """Anything that provides headers and query parameters to send."""

    def headers(self) -> Mapping[str, str]:
        """Headers for each request and for the handshake."""

    def query(self) -> Mapping[str, str]:
        """Query parameters for each request and for the handshake."""


class _HeadersOnly:
    __slots__ = ()

    def query(self) -> Mapping[str, str]:
        """Nothing."""
        return {}


@attrs.frozen
class BasicCredentials(_HeadersOnly):
    """User name and password, as UTF-8.  A plain ``(username, password)`` means the same.

    A user name with a colon is a ``ValueError``, since the server would end it there.

    Attributes:
        username: The user name.
        password: The password.
    """

    username: str = attrs.field()
    password: str = attrs.field(repr=False)

    @username.validator
    def _has_no_colon(self, _: object, value: str) -> None:
        if ":" in value:
            raise ValueError("a user name cannot hold a colon: the password begins behind it")

    def headers(self) -> Mapping[str, str]:
        """``Authorization: Basic ...``."""
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
        """``Authorization: Bearer ...``."""
        return {"Authorization": f"Bearer {self.token}"}


@attrs.frozen
class HeaderCredentials(_HeadersOnly):
    """Secret headers of your own, such as ``{"X-API-Key": "..."}``.

    Attributes:
        values: The value of each header, by its name.
    """

    values: Mapping[str, str] = attrs.field(repr=False)

    def headers(self) -> Mapping[str, str]:
        """The headers as given."""
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
        """Nothing."""
        return {}

    def query(self) -> Mapping[str, str]:
        """The parameter."""
        return {self.name: self.value}


@attrs.frozen
class EnvCredentials:
    """Credentials from an environment variable; only the name of the variable is stored.

    This is the only kind that is pickled with a client.  The variable is read before each
    WebSocket connection and again after a 401; if it is not set, that is an
    ``AuthenticationError``.

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
            username, _, password = value.partition(":")
            return BasicCredentials(username, password)
        if self.kind == "header":
            return HeaderCredentials({self.key: value})
        if self.kind == "query":
            return QueryCredentials(self.key, value)
        return BearerCredentials(value)

    def headers(self) -> Mapping[str, str]:
        """What the variable says now."""
        return self._read().headers()

    def query(self) -> Mapping[str, str]:
        """What the variable says now."""
        return self._read().query()


def environment_credentials() -> EnvCredentials | None:
    """A token in ``COMFYUI_TOKEN``, else ``user:password`` in ``COMFYUI_LOGIN``, else none."""
    found = next((name for name in SECRET_VARIABLES if os.environ.get(name)), None)
    return None if found is None else EnvCredentials(found, SECRET_VARIABLES[found])


#: What ``ComfyApi(credentials=...)`` takes.  A callable is asked at each dial of the socket
#: and again after a 401, and may answer with any of the others.
AnyCredentials: TypeAlias = (
    Credentials | tuple[str, str] | Callable[[], "Credentials | tuple[str, str] | None"]
)


@attrs.frozen
class Applied:
    """What credentials came to, at one moment."""

    headers: Mapping[str, str] = attrs.field(repr=False)
    query: Mapping[str, str] = attrs.field(repr=False)


NOTHING = Applied({}, {})


def check(credentials: object) -> None:
    """``TypeError`` when this is no kind of credentials; asks none of them anything."""
    if isinstance(credentials, tuple):
        if len(credentials) != 2 or not all(isinstance(part, str) for part in credentials):
            raise TypeError("credentials given as a tuple are (username, password)")
    elif not (credentials is None or isinstance(credentials, Credentials) or callable(credentials)):
        raise TypeError(
            "credentials are a (username, password) tuple, one of the ...Credentials classes, "
            f"or a callable that gives one; not {type(credentials).__name__}"
        )


def apply(credentials: AnyCredentials | None) -> Applied:
    """Headers and query parameters to send now.

    Raises :class:`AuthenticationError` when they cannot be had, ``TypeError`` when what
    is given (or what a callable answered) is no kind of credentials.
    """
    check(credentials)
    if credentials is None:
        return NOTHING
    if isinstance(credentials, tuple):
        credentials = BasicCredentials(*credentials)
    if isinstance(credentials, Credentials):
        applied = Applied(
            dict(_ask(credentials.headers, "headers() of the credentials")),
            dict(_ask(credentials.query, "query() of the credentials")),
        )
        check_headers(applied.headers, "the credentials'")
        return applied
    answer = _ask(credentials, "the credentials callable")
    if callable(answer) and not isinstance(answer, Credentials):
        raise TypeError("the credentials callable answered with another callable")
    return apply(answer)


def _ask(source: Callable[[], Answered], what: str) -> Answered:
    outer = sys.exception()
    try:
        return source()
    except AuthenticationError:
        raise  # says already what is missing
    except Exception as exc:  # somebody's code, which may well ask another server
        if interruption(exc, outer) is not None:
            raise
        raise AuthenticationError(f"{what} raised {type(exc).__name__}") from exc


def check_headers(headers: Mapping[str, str], whose: str) -> None:
    """``ValueError`` for what cannot stand in a header; the value stays out of the message."""
    for name, value in headers.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(f"{whose} headers are texts")
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
            raise ValueError(f"{whose} header names hold a sign that no name may hold")
        # A line break would end the header, and so begin another.
        if not re.fullmatch(r"(?! )[\t\x20-\x7e\xa0-\xff]*(?<! )", value):
            raise ValueError(
                f"{whose} {name} header holds a control sign, a letter that headers cannot "
                "carry, or a space at an end"
            )


def as_sent(headers: Mapping[str, str | bytes] | Mapping[str, str]) -> dict[str, str | bytes]:
    """Headers as a server reads them, in UTF-8; requests would send texts in Latin-1."""
    return {
        name: value.encode() if isinstance(value, str) and not value.isascii() else value
        for name, value in headers.items()
    }
