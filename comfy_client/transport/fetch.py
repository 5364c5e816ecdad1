"""Downloads from any URL, within limits and without the client's credentials."""

from __future__ import annotations

import os
from typing import BinaryIO, Final
from urllib.parse import urljoin, urlsplit

import requests
from requests.utils import get_environ_proxies

from ..errors import RequestTimeout, TransportError, UnexpectedResponse
from ..interrupts import causes
from ..upload import without_secrets
from .connections import Transfer, current, new_session, reading
from .deadline import Deadline
from .failures import FAILURES, explain

#: The most bytes of a downloaded file, and the most seconds.
MAX_FETCH: Final = 256 << 20
FETCH_TIMEOUT: Final = 120.0
#: The most redirects.
MAX_REDIRECTS: Final = 5
#: Seconds to connect, and that the server may be silent.
_SILENCE: Final = 15.0
_CHUNK: Final = 1 << 16


def fetch(url: str, into: BinaryIO, deadline: Deadline, most: int = MAX_FETCH) -> None:
    """Download a URL into a file, up to ``most`` bytes.

    The client's headers, cookies and credentials are not sent.  A login in the URL is sent to its
    own host only.  Proxies come from the environment.

    Raises:
        UnexpectedResponse: A status other than 200, a web page, a larger file, or more than
            :data:`MAX_REDIRECTS` redirects.
        TransportError: No answer, or only a part of one; :class:`RequestTimeout`: not in time.
    """
    deadline = Deadline.after(deadline.left(FETCH_TIMEOUT))
    for _ in range(MAX_REDIRECTS + 1):
        target = _store_or_redirect(url, into, deadline, most)
        if target is None:
            return
        url = target
    raise UnexpectedResponse(f"GET {without_secrets(url)}: more than {MAX_REDIRECTS} redirects")


def _store_or_redirect(url: str, into: BinaryIO, deadline: Deadline, most: int) -> str | None:
    """Store the file at a URL and return None, or return the URL to which it redirects."""
    shown = without_secrets(url)
    transfer, before = Transfer(deadline, read_timeout=_SILENCE), current.get()
    try:
        current.set(transfer)  # inside the try, so that it is undone in any case
        with new_session() as session:  # a new one for each host, as it has one pool
            session.trust_env = False  # ignores a login in .netrc
            left = deadline.require(_SILENCE)
            request = session.prepare_request(requests.Request("GET", url))
            with session.send(
                request,
                stream=True,
                timeout=(left, left),
                verify=os.environ.get("REQUESTS_CA_BUNDLE") or True,
                cert=None,
                proxies=get_environ_proxies(url),
                allow_redirects=False,
            ) as answer:
                if answer.is_redirect:
                    return _redirected(url, answer.headers["location"])
                _store(answer, shown, into, deadline, most)
                return None
    except FAILURES as exc:
        raise _explained(exc, shown, deadline) from None
    except ValueError:
        raise TransportError(f"GET {shown}: no such URL") from None
    finally:
        current.set(before)


def _explained(exc: Exception, shown: str, deadline: Deadline) -> Exception:
    if deadline.expired or isinstance(exc, (requests.Timeout, TimeoutError)):
        return RequestTimeout(f"GET {shown}: no complete answer in time")
    if any(isinstance(cause, ConnectionRefusedError) for cause in causes(exc)):
        return TransportError(f"{shown}: connection refused")  # without advice about ComfyUI
    return TransportError(str(explain(exc, f"GET {shown}", shown)))


def _redirected(url: str, location: str) -> str:
    try:
        target = urljoin(url, location)
        scheme = urlsplit(target).scheme
    except ValueError:
        target = scheme = ""
    if scheme != "https" and not scheme == "http" == urlsplit(url).scheme.lower():
        raise UnexpectedResponse(
            f"GET {without_secrets(url)}: a redirect to an invalid URL, or from https to http"
        )
    return target


def _store(
    answer: requests.Response, shown: str, into: BinaryIO, deadline: Deadline, most: int
) -> None:
    what = f"GET {shown}"
    if answer.status_code != 200:
        raise UnexpectedResponse(f"{what}: {answer.status_code}", status=answer.status_code)
    if "html" in answer.headers.get("content-type", ""):
        raise UnexpectedResponse(f"{what}: a web page rather than a file", status=200)
    size, length = 0, answer.headers.get("content-length", "")
    most_read, unpack = reading(answer.headers, _CHUNK)
    while chunk := answer.raw.read1(most_read, decode_content=unpack):
        size += into.write(chunk)
        if size > most:
            raise UnexpectedResponse(f"{what}: more than {most >> 20} MiB", status=200)
        deadline.require()
    encoded = "content-encoding" in answer.headers
    if not encoded and length.isdecimal() and length[:20] != str(size):
        raise TransportError(f"{what}: cut after {size} of {length} bytes")
