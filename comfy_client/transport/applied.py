"""What credentials come to, which is asked before each dial; and what may stand in a header."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from ..errors import AuthenticationError
from ..interrupts import interruption
from ..sealing import sealed_headers

if TYPE_CHECKING:
    from ..credentials import AnyCredentials

Answered = TypeVar("Answered")


class Applied(NamedTuple):
    """Headers and query of credentials, at one moment."""

    headers: Mapping[str, str]
    query: Mapping[str, str]

    def __repr__(self) -> str:
        return "Applied(...)"  # secrets stand in it


NOTHING = Applied({}, {})


def check(credentials: object) -> None:
    """Raise ``TypeError`` if the value is no kind of credentials; call nothing of it."""
    if credentials is None:
        return
    from ..credentials import Credentials  # many servers want none

    if isinstance(credentials, tuple):
        if len(credentials) != 2 or not all(isinstance(part, str) for part in credentials):
            raise TypeError("credentials given as a tuple are (username, password)")
    elif not (isinstance(credentials, Credentials) or callable(credentials)):
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
    from ..credentials import BasicCredentials, Credentials

    if isinstance(credentials, tuple):
        credentials = BasicCredentials(*credentials)
    if isinstance(credentials, Credentials):
        # Sealed, for some tools that show the variables of a frame look into any tuple.
        applied = Applied(
            sealed_headers(dict(_ask(credentials.headers, "headers() of the credentials"))),
            sealed_headers(dict(_ask(credentials.query, "query() of the credentials"))),
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
    """Raise ``ValueError``, without the value, for a header that cannot be sent."""
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
