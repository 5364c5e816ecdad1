"""Recordings of what a client and its server exchanged, as files that are safe to share.

JSON lines, one for each thing that happened, in the order in which the client saw it:

=========  ===========================================================================
``kind``   more
=========  ===========================================================================
``note``   ``text``; the first one names the client and the ``format``.  With ``refused``:
           a dial of the socket that failed, and its HTTP status or ``null``
``open``   ``ch``, the socket (``ws1``, ``ws2``, ...), and its ``client_id``
``sent``   ``ch``, ``msg``: what the client sent
``json``   ``ch``, ``msg``; or ``text``, if it was not JSON
``binary`` ``ch``, ``len``, ``head_b64`` (64 bytes), what the bytes mean (``event``, ``name``,
           ``header_hex``, ``image_type`` or ``metadata``, ``body``), and ``data_b64``: all of it
``closed`` ``ch``, ``code`` or ``null``, ``by`` (``"server"``: also by a link that broke)
``http``   ``method``, ``path`` (below the host that the client was given), ``request``,
           ``status``, ``response``, ``content_type``, ``len``; ``begun``: the ``t`` at which
           it was sent; ``asked`` and ``headers``: the headers of both, without secrets;
           ``body_b64``: a body that is not text.
           ``status`` is ``null`` when no answer came.  ``short``: not all of its body did,
           ``announced`` bytes if that was said; ``"cut"``: it ended too soon; ``"left"``: the
           client read no further.  ``error`` says why.  ``as_text``: JSON by its type, but
           ``response`` is text, since it is short or not JSON
=========  ===========================================================================

``t`` is in seconds since the recording began.  If a body or frame has more than
:data:`MAX_BODY` bytes, or comes after :data:`MAX_BODIES` bytes of others, only its ``len``,
``sha256`` and ``head_b64`` are recorded; for uploaded files, only name and length.  At
:data:`MAX_FILE` bytes the recording ends.  The file contains workflows, prompts and pictures.
It contains no secrets (see :mod:`comfy_client.recording.secrets`), and only a few headers, which
hold none.  In binary data, stars of the same length replace a secret, so a picture with a secret
in its metadata has a wrong checksum there.

Each line is passed to the operating system before the client continues, so a crash loses at most
the line that was being written.  If writing fails, the recording ends and the client keeps running.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Mapping
from typing import Any, Final, Protocol
from urllib.parse import parse_qsl, unquote

from .._version import __version__
from ..locks import shared_lock
from ..log_records import AnyLog
from ..redaction import is_secret_name
from .secrets import MIN_NAMED, Secrets

log: logging.Logger = logging.getLogger("comfy_client")

#: The most bytes of a body or frame that is recorded whole.
MAX_BODY: Final = 4 << 20
#: The most bytes of all bodies and frames that are recorded whole.
MAX_BODIES: Final = 256 << 20
#: The most bytes of the file; escaped text takes up to six times its length.
MAX_FILE: Final = 2 << 30
#: The version of the format, which the first line names.
FORMAT: Final = 1

_HEAD = 64
_NAMES = {
    1: "PREVIEW_IMAGE",
    2: "UNENCODED_PREVIEW_IMAGE",
    3: "TEXT",
    4: "PREVIEW_IMAGE_WITH_METADATA",
}
_SENT_HEADERS = frozenset({"range", "if-none-match", "if-range"})
#: The headers of an answer that are recorded, besides its content type.
KEPT_HEADERS: Final = (
    "etag",
    "content-range",
    "accept-ranges",
    "content-disposition",
    "last-modified",
)


class Described(Protocol):
    """A request body that is described instead of recorded, such as a form with a file."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """The facts that are recorded in place of the body."""


class Recorder:
    """The writer of one recording.

    Any thread may call the methods; they never raise. ``path`` must not exist: a recording is
    evidence, so nothing is overwritten or appended to. The constructor raises ``OSError`` if the
    file cannot be created or written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        max_bodies: int = MAX_BODIES,
        max_file: int = MAX_FILE,
        log: AnyLog = log,
    ) -> None:
        self.path: str = os.fspath(path)
        self._log = log
        self._max_bodies = max_bodies
        self._max_file = max_file
        self.secrets: Secrets = Secrets()
        # Guards the file.  Re-entrant: a finalizer may close it in any thread, at any moment.
        self._lock = shared_lock()
        self._fd: int | None = None
        self._begun = time.monotonic()
        self._length = 0
        self._body_bytes = 0
        self._sockets = 0  # opened so far; the last is the only one that may be open
        self._open: str | None = None
        self._code: int | None = None
        try:
            # Open neither an existing file nor the target of a link.
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
            for name in ("O_CLOEXEC", "O_BINARY"):  # missing on some systems
                flags |= getattr(os, name, 0)
            self._fd = os.open(self.path, flags, 0o600)
            text = f"recorded by comfy_client {__version__}"
            self._put("note", f'"text": {_json(text)}, "format": {FORMAT}')
        except OSError as exc:
            self._close()
            why, kind, number = exc.strerror or str(exc), type(exc), exc.errno
            # Windows denies access to a folder.
            if isinstance(exc, FileExistsError) or os.path.isdir(self.path):
                why = "it exists already, and a recording needs a new file"
                kind, number = FileExistsError, errno.EEXIST
            raise kind(number, f"cannot record there: {why}", self.path) from None

    # -- life ----------------------------------------------------------------------------

    def close(self) -> None:
        """End the recording; repeated calls do nothing."""
        with self._lock:
            if self._open is not None:
                self.closed("client")
            self._close()

    def abandon(self) -> None:
        """Close the file in the child of a fork, without the lock, which the parent may hold."""
        self._close()

    def _close(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            with contextlib.suppress(OSError):
                os.close(fd)

    def _write(self, kind: str, rest: str) -> None:
        try:
            self._put(kind, rest)
        except OSError as exc:
            self._log.warning("the recording %s ends here: %s", self.path, exc.strerror or exc)

    def _put(self, kind: str, rest: str) -> None:
        with self._lock:
            if self._fd is None:
                return
            now = time.monotonic() - self._begun
            line = f'{{"t": {now:.6f}, "kind": "{kind}", {rest}}}\n'.encode("ascii")
            if self._length + len(line) > self._max_file:
                self._close()
                raise OSError(errno.EFBIG, "it has reached its maximum size")
            try:
                written = 0
                while written < len(line):
                    written += os.write(self._fd, line[written:] if written else line)
                self._length += written
            except OSError:
                with contextlib.suppress(OSError):  # remove the partial line
                    os.ftruncate(self._fd, self._length)
                self._close()
                raise

    # -- the socket ----------------------------------------------------------------------

    def opened(self, url: str) -> None:
        """Record that a socket was opened at a URL, which contains the client id."""
        client_id = dict(parse_qsl(url.partition("?")[2])).get("clientId", "")
        self._sockets += 1
        self._open, self._code = f"ws{self._sockets}", None
        self._write("open", f'"ch": "{self._open}", "client_id": {self._hidden_json(client_id)}')

    def refused(self, error: Exception) -> None:
        """Record that opening a socket failed, with the HTTP status if there was one."""
        text = str(error)
        status = getattr(error, "status", None)
        if status is None:  # other errors have the status in their message only
            found = re.search(r"(?:answered|seen HTTP|HTTP) (\d{3})\b", text)
            status = int(found[1]) if found else None
        text = f"no socket: {type(error).__name__}: {text}"
        self._write("note", f'"text": {self._hidden_json(text)}, "refused": {_json(status)}')

    def sent(self, text: str) -> None:
        """Record a message that the client sent on the socket."""
        self._write("sent", f'"ch": "{self._open}", "msg": {self._raw_json(text)}')

    def ending(self, code: int) -> None:
        """Remember the code of the server's close frame, for :meth:`closed`."""
        self._code = code

    def closed(self, by: str) -> None:
        """Record that ``"client"`` or ``"server"`` closed the socket."""
        with self._lock:
            ch, self._open = self._open, None
            if ch is not None:
                self._write("closed", f'"ch": "{ch}", "code": {_json(self._code)}, "by": "{by}"')

    def frame(self, is_text: bool, data: bytes | memoryview) -> None:
        """Record a message that the server sent on the socket."""
        if self._fd is None:
            return
        if len(data) > MAX_BODY or (is_text and not self._claim_bytes(len(data))):
            noted = _json(_summary(data, self.secrets))[1:-1]
            self._write("json" if is_text else "binary", f'"ch": "{self._open}", {noted}')
        elif is_text:
            text = str(data, "utf-8", "replace")
            message = self._raw_json(text)
            what = f'"msg": {message}' if message else f'"text": {self._hidden_json(text)}'
            self._write("json", f'"ch": "{self._open}", {what}')
        else:
            self._write("binary", f'"ch": "{self._open}", {self._binary(data)}')

    def _binary(self, data: bytes | memoryview) -> str:
        frame = self.secrets.hide_bytes(bytes(data))
        kind = int.from_bytes(frame[:4], "big")
        facts: dict[str, Any] = {"event": kind, "name": _NAMES.get(kind, "")}
        body = 8
        if kind in (3, 4) and len(frame) >= 8:
            size = int.from_bytes(frame[4:8], "big")
            frame, facts, size = self._hidden(frame, kind, size, facts)
            body = 8 + size
            facts["header_hex"] = frame[:8].hex()
        else:
            facts["header_hex"] = frame[:8].hex()
            facts["image_type"] = int.from_bytes(frame[4:8], "big")
        start = frame[body : body + 8]
        facts["body"] = (
            "JPEG" if start.startswith(b"\xff\xd8") else "PNG" if start[1:4] == b"PNG" else None
        )
        facts |= {"len": len(frame), "head_b64": _base64(frame[:_HEAD])}
        kept = f', "data_b64": "{_base64(frame)}"' if self._claim_bytes(len(frame)) else ""
        return _json(facts)[1:-1] + kept

    def _hidden(
        self, frame: bytes, kind: int, size: int, facts: dict[str, Any]
    ) -> tuple[bytes, dict[str, Any], int]:
        """Hide secrets in the text of a binary frame.

        Return the frame, the facts about it, and the length of its node id or metadata.
        """
        head, rest = frame[8 : 8 + size], frame[8 + size :]
        if kind == 3:
            text = rest.decode("utf-8", "replace")
            hidden = self.secrets.hide_text(text)
            return (frame if hidden == text else frame[: 8 + size] + hidden.encode()), facts, size
        try:
            metadata = json.loads(head)
            hidden = self.secrets.hide(metadata)
        except (ValueError, RecursionError):
            return frame, facts, size
        if hidden != metadata:
            head = _json(hidden).encode()
            frame = frame[:4] + len(head).to_bytes(4, "big") + head + rest
        return frame, facts | {"metadata_len": len(head), "metadata": hidden}, len(head)

    # -- HTTP ----------------------------------------------------------------------------

    def exchange(self, request: Any, host: str) -> ExchangeRecord:
        """Start recording a ``requests.PreparedRequest`` that is about to be sent."""
        return ExchangeRecord(self, request, request.url.removeprefix(host))

    def finish(self, exchange: ExchangeRecord) -> None:
        """Write an exchange to the file, unless the recording has ended."""
        if self._fd is not None:
            self._write("http", exchange.line(self._claim_bytes(exchange.len)))

    def _claim_bytes(self, size: int) -> bool:
        with self._lock:
            self._body_bytes += size
            return self._body_bytes <= self._max_bodies

    @property
    def elapsed(self) -> float:
        """Seconds since the recording began."""
        return time.monotonic() - self._begun

    # -- values --------------------------------------------------------------------------

    def _raw_json(self, text: str) -> str:
        """Return JSON text on one line with its secrets hidden, or ``""`` if it is not JSON."""
        try:
            value = json.loads(text)
            if text.isascii() and text.isprintable() and not self.secrets.may_be_in(text):
                return text  # the fast path: this is called hundreds of times a second
            return self._hidden_json(value)
        except (ValueError, RecursionError):
            return ""

    def _hidden_json(self, value: Any) -> str:
        return _json(self.secrets.hide(value))


class ExchangeRecord:
    """A request and its answer, while they are being recorded."""

    def __init__(self, recorder: Recorder, request: Any, target: str) -> None:
        self._recorder = recorder
        self._secrets = secrets = recorder.secrets
        self._begun = recorder.elapsed
        self._method: str = request.method
        self._route, _, query = target.partition("?")
        # Add them now: the socket may repeat them before the answer comes.
        secrets.add_headers(request.headers, are_credentials=True)  # any value may be a secret
        named = [v for name, v in parse_qsl(query) if is_secret_name(name, in_query=True)]
        secrets.add(named, MIN_NAMED)
        self._request = self._sent(request.body)
        hidden = secrets.hide_query(query)
        self._path = secrets.hide_text(self._route) + (f"?{hidden}" if hidden else "")
        self._asked = {
            name.lower(): value
            for name, value in request.headers.items()
            if name.lower() in _SENT_HEADERS
        }
        self._status: int | None = None
        self._headers: Mapping[str, str] = {}
        self._error: str | None = None
        self._digest = hashlib.sha256()
        self._content = bytearray()
        self._ended = False
        self.len: int = 0  #: Bytes of the answer's body so far.

    def answered(self, status: int, headers: Mapping[str, str], raw: Any) -> Any:
        """Record the head of the answer; return the object from which to read the body."""
        self._status, self._headers = status, headers
        return _RecordedBody(raw, self)

    def failed(self, error: BaseException) -> None:
        """Record the error that cut off the answer, or that came in place of any answer."""
        self._error = type(error).__name__
        if self._status is None:
            self.finish()

    def feed(self, chunk: bytes) -> None:
        """Record a chunk of the body; an empty one is the end.

        Of a body over ``MAX_BODY``, only the head is kept; length and digest are of all of it.
        """
        self._ended = self._ended or not chunk
        self.len += len(chunk)
        self._digest.update(chunk)
        if self.len <= MAX_BODY:
            self._content += chunk
        else:  # a secret may begin within the head and end after it
            self._content += chunk[: _HEAD + 4096]
            del self._content[_HEAD + 4096 :]

    def finish(self) -> None:
        """Write the exchange to the recording; called when the exchange has ended."""
        self._recorder.finish(self)

    def line(self, keeps: bool) -> str:
        """Return the exchange as JSON without the outer braces; ``keeps`` includes the body."""
        facts: dict[str, Any] = {
            "method": self._method,
            "path": self._path,
            "request": self._request,
            "status": self._status,
        }
        if self._status is not None:
            facts |= self._answer(keeps)
        if self._error is not None:
            facts["error"] = self._error
        if self._asked:
            facts["asked"] = self._secrets.hide(self._asked)
        return _json(facts | {"begun": round(self._begun, 6)})[1:-1]

    def _answer(self, keeps: bool) -> dict[str, Any]:
        headers = self._headers
        kind = headers.get("content-type")
        facts: dict[str, Any] = {
            "response": None,
            "content_type": kind and self._secrets.hide_text(kind),
            "len": self.len,
        }
        kept = {name: headers[name] for name in KEPT_HEADERS if name in headers}
        if kept:
            facts["headers"] = self._secrets.hide(kept)
        due = headers.get("content-length", "")
        known = due.isdecimal() and len(due) < 20 and "content-encoding" not in headers
        if known and self.len < int(due):
            facts["announced"] = int(due)
        if self._is_short(int(due) if known else None):
            facts["short"] = "cut" if self._ended or self._error else "left"
        content = bytes(self._content)
        if self.len > MAX_BODY or not keeps:
            head = self._secrets.hide_bytes(content)[:_HEAD]
            facts |= {"sha256": self._digest.hexdigest(), "head_b64": _base64(head)}
        elif content:
            facts |= self._body(content, kind or "", whole="short" not in facts)
        return facts

    def _is_short(self, due: int | None) -> bool:
        if self._method == "HEAD" or self._status in (204, 304):
            return False
        if due is None:
            return not self._ended
        return self.len < due

    def _body(self, content: bytes, kind: str, *, whole: bool) -> dict[str, Any]:
        try:
            text = content.decode("utf-8", "strict" if whole else "ignore")
        except UnicodeDecodeError:
            text = ""
        if "json" in kind and whole:
            with contextlib.suppress(ValueError, RecursionError):
                return {"response": self._hidden(json.loads(content))}
        if not text or "\0" in text or kind.startswith(("image/", "video/", "audio/")):
            return {"body_b64": _base64(self._secrets.hide_bytes(content))}
        said: dict[str, Any] = {"response": self._secrets.hide_text(text)}
        return said | {"as_text": True} if "json" in kind else said

    def _sent(self, body: bytes | str | Described | None) -> Any:
        if body is None:
            return None
        if not isinstance(body, bytes | str):
            return self._hidden(body.facts)
        data = body.encode("utf-8", "replace") if isinstance(body, str) else bytes(body)
        with contextlib.suppress(UnicodeDecodeError):
            text = data.decode()
            is_whole = len(data) <= MAX_BODY
            try:
                value = json.loads(text)
                self._secrets.add_named(value)  # also in a long body: the server may repeat it
                if is_whole:
                    return self._hidden(value)
            except (ValueError, RecursionError):
                self._secrets.add_named(dict(parse_qsl(text[: MAX_BODY >> 6])))  # perhaps a form
                if is_whole:
                    return self._secrets.hide_text(text)
        return _summary(data, self._secrets)

    def _hidden(self, value: Any) -> Any:
        hide = self._secrets.hide
        route, _, name = self._route.removeprefix("/api").removeprefix("/").partition("/")
        if route != "settings":
            return hide(value)
        # Extensions keep API keys there, under any name.
        if name:
            return hide(value, all_texts=_may_be_secret(unquote(name)))
        if not isinstance(value, Mapping):
            return hide(value, all_texts=True)
        hide_name = self._secrets.hide_name
        return {
            hide_name(key): hide(each, all_texts=_may_be_secret(key)) for key, each in value.items()
        }


class _RecordedBody:
    """The body of an answer, recorded while it is read."""

    def __init__(self, raw: Any, exchange: ExchangeRecord) -> None:
        self._raw = raw
        self._exchange: ExchangeRecord | None = exchange

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)

    def read1(self, *args: Any, **kw: Any) -> bytes:
        """Read from the body, and record the bytes."""
        exchange = self._exchange
        try:
            chunk: bytes = self._raw.read1(*args, **kw)
        except Exception as exc:
            if exchange is not None:
                exchange.failed(exc)
            raise
        if exchange is not None:
            exchange.feed(chunk)
        return chunk

    def close(self) -> None:
        """Close the body, which ends the exchange."""
        self._raw.close()
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.finish()


def _may_be_secret(setting: str) -> bool:
    return not setting.startswith("Comfy.") or is_secret_name(setting)


def _summary(data: bytes | memoryview, secrets: Secrets) -> dict[str, Any]:
    """Return the length, digest and beginning of data that is too large to record."""
    # A secret may begin within the head and end after it.
    head = secrets.hide_bytes(bytes(data[: _HEAD + 4096]))[:_HEAD]
    return {"len": len(data), "sha256": hashlib.sha256(data).hexdigest(), "head_b64": _base64(head)}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


_json = json.JSONEncoder(ensure_ascii=True).encode
