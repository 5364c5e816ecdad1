"""Answers of the server, and the typed error for each refusal."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import attrs

from .. import runtime
from ..errors import (
    ApiError,
    AuthenticationError,
    ComfyError,
    Conflict,
    NotFound,
    NotSupported,
    Throttled,
    UnexpectedResponse,
    UploadTooLarge,
    is_for_another,
)
from ..values import text
from .failures import REFUSED

#: The most characters of a server's text that are quoted.
_MAX_QUOTED: Final = 200
#: The most characters of a text that an error keeps, and that patterns search.
_KEPT = 2000
#: The most bytes of an answer that an error decodes.
_READ = 1 << 20
#: The most quotation marks and commas in an answer that an error decodes, as each text is searched
#: for each spelling of each secret.
_MAX_QUOTES = 20_000
_MAX_COMMAS = 100_000
#: Bytes that are searched for secrets before the text is shortened, so that no secret is cut in
#: two; more than any spelling of a secret has.
_BEGINNING = 1 << 17
#: Answers of servers with TLS to plain HTTP: nginx, Apache, and servers written in Go.
_WANTS_TLS: Final = (
    r"plain HTTP (request was sent )?to (an )?(HTTPS|SSL)|HTTP request to an HTTPS server"
)


def _as_it_is(value: Any) -> Any:
    return value


@attrs.frozen
class Response:
    """A complete answer of the server.

    Attributes:
        method: The method of the request.
        path: The path of the request.
        status: The HTTP status.
        headers: The headers; names are case-insensitive.
        content: The body.
        url: The URL without its query.
        redact: A function that removes the client's secrets from a text, or from all texts in a
            JSON value.
    """

    method: str
    path: str
    status: int
    headers: Mapping[str, str] = attrs.field(repr=False)
    content: bytes = attrs.field(repr=False)
    url: str = attrs.field(default="", repr=False)
    redact: Callable[[Any], Any] = attrs.field(default=_as_it_is, repr=False, eq=False)

    def __reduce__(self) -> tuple[Any, ...]:
        # Leave out ``redact``, which knows the secrets.
        facts = (self.method, self.path, self.status, self.headers, self.content, self.url)
        return Response, facts

    @property
    def text(self) -> str:
        """The body as text."""
        return self.content.decode("utf-8", "replace")

    @property
    def kind(self) -> str:
        """The content type in lower case, without its parameters; empty if there is none."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def is_page(self) -> bool:
        """Whether the body is an HTML page, such as a login page or a proxy's error page."""
        return "html" in self.kind

    def json(self) -> Any:
        """Return the decoded body; raise :class:`UnexpectedResponse` if it is not JSON."""
        try:
            return json.loads(self.content)
        except (ValueError, RecursionError):
            pass  # the error below must not have this one as its context
        raise unexpected(self, "JSON")

    @property
    def start(self) -> str:
        """The beginning of the body as text, without the client's secrets or parts of them."""
        text: str = self.redact(self.content[:_BEGINNING].decode("utf-8", "replace"))
        return text[:_KEPT]

    @property
    def words(self) -> str:
        """The beginning of the body as text, unredacted, for pattern searches."""
        return self.content[:_KEPT].decode("utf-8", "replace")

    @property
    def _is_light(self) -> bool:
        """Whether the body is quick to decode and to search for secrets."""
        content = self.content
        return (
            len(content) <= _READ
            and content.count(b'"') <= _MAX_QUOTES
            and content.count(b",") <= _MAX_COMMAS
        )

    def facts(self) -> dict[str, Any]:
        """Return the parts of the answer that errors keep.

        ``body`` is decoded if it is JSON of up to 1 MiB, without tens of thousands of texts;
        otherwise it is the beginning of the text.
        """
        body: Any = self.start or None
        if "json" in self.kind and self._is_light:
            with suppress(ValueError, RecursionError):
                # Decode first, as a weak secret may be a keyword of JSON, or a number.
                body = self.redact(json.loads(self.content))
        return {"method": self.method, "path": self.path, "status": self.status, "body": body}


class Chunks:
    """A choice about the chunks of a download, which counts once the first one is read.

    Attributes:
        are_views: Whether all are views of one buffer, and each is valid until the next one.
    """

    are_views: bool = False


@attrs.define(eq=False)
class Download:
    """The body of an answer while it arrives: iterate over its chunks.

    If the connection breaks, the rest is requested, provided that the file is certainly the same;
    otherwise the iteration ends in a :class:`TransportError`.

    Attributes:
        status: The HTTP status.
        headers: The headers; names are case-insensitive.
        length: The size in bytes; ``None`` if the server did not say.
        kind: The choice between ``bytes`` and :meth:`views`.
    """

    status: int
    headers: Mapping[str, str] = attrs.field(repr=False)
    length: int | None
    _chunks: Iterator[Any] = attrs.field(repr=False)
    kind: Chunks = attrs.field(factory=Chunks, repr=False, kw_only=True)

    def __iter__(self) -> Iterator[bytes]:
        """Yield chunks of up to 512 KiB."""
        return self._chunks

    def views(self) -> Iterator[bytes | memoryview]:
        """Yield chunks of up to 1 MiB, of which each is valid only until the next one.

        This is quicker where every chunk is used at once, such as written to a file.
        """
        self.kind.are_views = True
        return self._chunks


def unexpected(answer: Response, due: str) -> UnexpectedResponse:
    """Return the error for an answer that is not the expected ``due``, such as "JSON"."""
    start = " ".join(answer.start.split())[:_MAX_QUOTED]
    guess = "a login page, or another program on this port" if answer.is_page else "no ComfyUI"
    facts = answer.facts() | {"body": answer.start}
    return UnexpectedResponse(
        f"{answer.method} {answer.url}: expected {due}, got "
        f"{answer.kind[:80] or 'no content type'} ({guess}): {start!r}",
        **facts,
    )


def unusable(answer: Response, why: str) -> UnexpectedResponse:
    """Return the error for an answer that cannot be used, without showing its content."""
    return UnexpectedResponse(
        f"{answer.method} {answer.url}: {why}",
        method=answer.method,
        path=answer.path,
        status=answer.status,
    )


def route_is_missing(answer: Response) -> bool:
    """Return whether an answer means that the route is missing, rather than the requested item.

    ComfyUI's route for static files handles every unknown path.  It answers 405 to all methods but
    GET, and a 404 with a content type; the 404 of a real route has none, or JSON or plain text.
    With aiohttp before 3.10, the answer has aiohttp's own words.
    """
    if answer.status in (405, 501):
        return True
    by_catch_all = answer.kind == "application/octet-stream"
    return answer.status == 404 and (by_catch_all or answer.content == b"404: Not Found")


def wants_tls(answer: Response) -> bool:
    """Return whether an answer says that the server expects TLS."""
    return answer.status in (400, 497) and bool(re.search(_WANTS_TLS, answer.words, re.IGNORECASE))


class Asker(NamedTuple):
    """Facts about the client for advice in errors.

    Attributes:
        base: The URL below which the routes are.
        user: The user that the request named.
        has_credentials: Whether the client has credentials.
        left_behind: Whether credentials were lost in a pickle.
        is_foreign: Whether the server is known not to be ComfyUI.
    """

    base: str
    user: str | None
    has_credentials: bool
    left_behind: bool
    is_foreign: bool


def refusal(answer: Response, size: int | None, asker: Asker) -> ComfyError:
    """Return ComfyUI's error for a status of 300 or more; ``size`` is the size of the request."""
    error = _refusal(answer, size, answer.url.removeprefix(asker.base))
    stranger = f"the user {asker.user!r} is not known to it (see create_user)"
    if not asker.user:
        stranger = "it keeps users (--multi-user): give user=... (see create_user)"
    if answer.status == 401:
        given = "refused the credentials" if asker.has_credentials else "wants credentials"
        advice = "pass credentials=..."
        if asker.left_behind:
            advice = "a pickle leaves them out: name them with EnvCredentials"
        elif asker.user or _is_of_users(answer.path):
            advice += f", or {stranger}"
        message = f"{error}, the server or a proxy before it {given}; {advice}"
        return AuthenticationError(message, **answer.facts())
    if answer.status == 500 and _is_of_users(answer.path):
        error.add_note(f"or {stranger}")
    if asker.is_foreign and (answer.status == 404 or route_is_missing(answer)):
        return UnexpectedResponse(
            f"{error}. There is no /prompt either, so this is not ComfyUI: another program on "
            "this port (HostedApi is the client of Comfy API v2), or host lacks the path below "
            "which a proxy has it",
            **answer.facts(),
        )
    return error


#: The longest time in seconds that a server may ask to wait; a longer one counts as this.
MOST_RETRY_AFTER: Final = 3600.0


def throttled(answer: Response) -> Throttled:
    """Return the error for an answer with status 429, from any server and any proxy."""
    facts = answer.facts()
    body = facts["body"]
    said = "" if "xml" in answer.kind else reason_of(answer, body)  # XML repeats the request
    return Throttled(
        f"{answer.method} {answer.url}: 429, too many requests{said}",
        retry_after=retry_after(answer.headers),
        reason=code_of(body),
        **facts,
    )


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds to wait by the header ``Retry-After``; None if it is missing or invalid.

    The header may have a date; one in the past gives 0.  At most, it is :data:`MOST_RETRY_AFTER`.
    """
    given = headers.get("retry-after", "").strip()[:100]
    if re.fullmatch(r"[0-9]{1,15}(\.[0-9]{1,15})?", given):
        return min(float(given), MOST_RETRY_AFTER)
    from email.utils import parsedate_to_datetime  # few servers send dates

    try:
        until = parsedate_to_datetime(given)
        left = (
            until if until.tzinfo else until.replace(tzinfo=UTC)
        ).timestamp() - runtime.wall_time()
    except (ValueError, OverflowError, TypeError):
        return None
    return min(max(0.0, left), MOST_RETRY_AFTER)


def code_of(body: object) -> str | None:
    """Return the code in the JSON body of an error, which is at ``error.code``, or None."""
    error = body.get("error") if isinstance(body, Mapping) else None
    return text(error.get("code"), 100) if isinstance(error, Mapping) else None


class Dialect(NamedTuple):
    """The facts by which the transport adapts to an API; the defaults are those of ComfyUI.

    Attributes:
        refusal: Returns the typed error for an answer with a status of 300 or more.
        check_route: Raises an error for a method and route that the API lacks, so that no request
            is sent; ``None``: any route may be requested.
        has_api_prefix: Whether routes are below ``/api``; ``None``: the first answers show it.
        refused: Advice for a connection that is refused.
    """

    refusal: Callable[[Response, int | None, Asker], ComfyError] = refusal
    check_route: Callable[[str, str], None] | None = None
    has_api_prefix: bool | None = None
    refused: str = REFUSED


#: ComfyUI's own API.
COMFYUI: Final = Dialect()


def _is_of_users(path: str) -> bool:
    """Return whether a route depends on the user."""
    return "/settings" in path or "/userdata" in path


def _refusal(answer: Response, size: int | None, route: str) -> ComfyError:
    status = answer.status
    facts = answer.facts()
    what = f"{answer.method} {answer.url}"
    reason = reason_of(answer, facts["body"])
    if status < 400:
        return UnexpectedResponse(f"{what}: {about_redirect(answer)}", **facts)
    if wants_tls(answer):
        return UnexpectedResponse(f"{what}: {status}{reason}; use https:// in host", **facts)
    if status == 401:
        return AuthenticationError(f"{what}: 401{reason}", **facts)
    if status == 403:
        return AuthenticationError(
            f"{what}: 403 forbidden{reason}. ComfyUI says so when a request's Origin differs "
            "from its Host (an Origin among headers=, or a proxy that rewrites Host); otherwise "
            "it comes from a login layer before it",
            **facts,
        )
    if route_is_missing(answer):
        from ..since import who_has  # for errors

        has_it = who_has(answer.method, route)
        newer = f"; {has_it} has it" if has_it else ""
        return NotSupported(f"{what}: this server has no such route ({status}){newer}", **facts)
    if status == 404:
        return NotFound(f"{what}: not found{reason}", **facts)
    if status == 409:
        return Conflict(f"{what}: conflict{reason}", **facts)
    if status == 413:
        return _too_large(answer, size, what, facts)
    if status == 500 and "Server got itself in trouble" in answer.words:
        return ApiError(f"{what}: 500, the server failed on an argument; its log says why", **facts)
    if is_for_another(status) and "json" not in answer.kind:  # ComfyUI's own words are JSON
        reason += ". A proxy says this when the server behind it does not answer"
    return ApiError(f"{what}: {status}{reason}", **facts)


def _too_large(
    answer: Response, size: int | None, what: str, facts: dict[str, Any]
) -> UploadTooLarge:
    found = re.search(r"body size (\d{1,18})\S{0,99} exceeded", answer.words)
    limit = int(found[1]) if found else None
    return UploadTooLarge(
        f"{what}: {size or 'too many'} bytes are more than "
        f"{f'the {limit} that ComfyUI accepts' if limit else 'a proxy accepts'}; raise "
        f"{'--max-upload-size' if limit else 'the body limit of the proxy'} or send less",
        size=size,
        limit=limit,
        **facts,
    )


def about_redirect(answer: Response) -> str:
    """Return an explanation of a redirect, without the query of its target."""
    target = answer.headers.get("location", "")
    try:
        to, here = urlsplit(target), urlsplit(answer.url)
        shown = f"{to.scheme}://{to.netloc.rpartition('@')[2]}" if to.netloc else ""
        shown = answer.redact(shown + to.path)[:_MAX_QUOTED]
        if to.hostname == here.hostname and to.scheme not in ("", here.scheme):
            return f"{answer.status}, redirected to {shown}; use {to.scheme}:// in host"
    except ValueError:
        shown = "something that is not a URL"
    return (
        f"{answer.status}, redirected to {shown or 'nowhere'}, which is not followed: "
        "a login page, or not the address of the ComfyUI"
    )


def reason_of(answer: Response, body: Any) -> str:
    """Return the message in the body of a refusal, after a colon; empty if there is none."""
    if isinstance(body, dict):
        body = body.get("error", body)
        if isinstance(body, dict):
            body = body.get("message", body)
    if answer.is_page:  # a proxy's message is in the title
        title = re.search(r"<title>(?:\d+ )?([^<]*)</title>", str(body), re.IGNORECASE)
        body = title and title[1]
    said = " ".join(str(body or "").split()).removeprefix(f"{answer.status}: ")
    return f": {said[:_MAX_QUOTED]}" if said else ""
