"""State shared by the doctor's checks: client, deadline, second event socket, redaction."""

from __future__ import annotations

import contextlib
import getpass
import math
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any, Final, TypeVar
from urllib.parse import unquote

import attrs

from .. import models
from ..errors import ComfyError, ServerUnreachable
from ..event_queue import Newest
from ..events import Event, JobEvent
from ..recording.secrets import STARS, Secrets
from ..transport.deadline import Deadline
from ..transport.decode import decode_binary, decode_text
from ..transport.dial import DialPlan, OpenSocket
from ..transport.frames import BINARY, PONG, TEXT
from ..transport.http import Http
from ..transport.response import Response
from ..transport.sockets import shut
from ..transport.websocket import Connection

Model = TypeVar("Model")

#: The most bytes of an answer.
MAX_ANSWER: Final = 1 << 20
#: The most events of a socket that are kept, and their bytes.
MAX_EVENTS: Final = 1000
MAX_EVENT_BYTES: Final = 16 << 20


@attrs.frozen
class Client:
    """The client that is examined.

    Attributes:
        http: The part of the client that sends HTTP requests.
        connection: The client's event socket.
        client_id: The client id, which the report does not show.
        outstanding: How many jobs of the client have not ended.
        dropped_events: How many events were dropped because receivers were too slow.
        plan: Returns how to open an event socket with a given client id; ``None``: the client uses
            no event socket.
        status_at: Returns when the server last sent the length of its queue, by
            ``time.monotonic``.
        watch: How many seconds to watch a queue that is not empty, to see whether it moves.
    """

    http: Http
    connection: Connection
    client_id: str
    outstanding: int
    dropped_events: int
    plan: Callable[[str], DialPlan] | None = None
    status_at: Callable[[], float] = lambda: -math.inf
    watch: float = 0.0


class Sockets:
    """The open sockets of a check, which another thread can close to end a wait."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the list
        self._open: list[socket.socket] | None = []  # None: closed for good

    def hold(self, sock: socket.socket) -> None:
        """Add a socket for :meth:`cut` to close; close it and raise if time has already run out."""
        with self._lock:
            if self._open is None:
                sock.close()
                raise ServerUnreachable("time ran out")
            self._open.append(sock)

    def cut(self, *, for_good: bool = False) -> None:
        """Close every open socket; with ``for_good``, also close each one that is added later."""
        with self._lock:
            sockets, self._open = self._open or [], None if for_good else []
        for sock in sockets:
            shut(sock)
            with contextlib.suppress(OSError):
                sock.close()


class EventReader:
    """A second event socket, and the most recent events that it received."""

    def __init__(self, line: OpenSocket) -> None:
        self.line = line
        self.events: Newest[Event] = Newest(MAX_EVENTS, MAX_EVENT_BYTES)
        self.pongs: int = 0

    def read_until(self, done: Callable[[], bool], seconds: float) -> bool:
        """Read messages until ``done()`` is true; return False if time runs out first."""
        deadline = Deadline.after(seconds)
        while not done():
            message = self.line.read(deadline.left())
            if message is None:
                return False
            opcode, data = message
            self.pongs += opcode == PONG
            if opcode in (TEXT, BINARY):
                decode = decode_text if opcode == TEXT else decode_binary
                for event in decode(data):
                    self.events.append(event, event.nbytes)
        return True

    def has(self, kind: type[Event]) -> bool:
        """Return whether an event of this class was received."""
        return any(isinstance(event, kind) for event in self.events.values())

    def of(self, prompt_id: str) -> list[JobEvent]:
        """Return the events of a prompt, oldest first."""
        ours = (event for event in self.events.values() if isinstance(event, JobEvent))
        return [event for event in ours if event.prompt_id == prompt_id]


class Redactor:
    """A redactor of texts, which hides known secrets, the server's path and the user's name."""

    def __init__(self, http: Http, client_id: str) -> None:
        self._http = http
        self._secrets = Secrets()  # grows: a callable may return other credentials each time
        self._secrets.add([client_id])
        prefix = http.address.prefix
        self._paths = [way for way in dict.fromkeys((prefix, unquote(prefix))) if way]
        self._home = os.path.expanduser("~")
        self._login = ""
        with contextlib.suppress(OSError, KeyError, ImportError):
            self._login = getpass.getuser()

    def __call__(self, text: str) -> str:
        """Put a text of this library on one line; hide the server's path, and the user's name.

        Secret words stay: as the rest of the text is known, a gap would give them away.
        """
        for path in self._paths:
            text = text.replace(path, f"/{STARS}")
        if len(self._home) > 1:
            text = text.replace(self._home, "~")
        if self._login:
            text = re.sub(rf"(?<=[/\\]){re.escape(self._login)}(?=[/\\'\"]|$)", STARS, text)
        return "".join(sign if sign.isprintable() else "?" for sign in " ".join(text.split()))

    def foreign(self, text: object) -> str:
        """Put a text from elsewhere on one line; hide known secrets, paths and the user's name."""
        self._http.identity.add_words_to(self._secrets)
        return self(self._secrets.hide_text(str(text)))


class CheckContext:
    """The input of every check, and the results that earlier checks leave for later ones.

    Checks run one after the other, each in its own thread.
    """

    answer: Response  #: The answer to ``GET /prompt``, for checks that depend on ``http``.

    def __init__(self, client: Client, redact: Redactor, timeout: float) -> None:
        self.client = client
        self.http: Http = client.http
        self.redact = redact
        self.client_id: str = str(uuid.uuid4())  # two sockets with one id would disturb each other
        self.started: float = time.monotonic()
        self.last: Deadline = Deadline.after(timeout)
        # Ends earlier, so that a check that waits can still report what it waited for.
        self.end: Deadline = Deadline.after(0.95 * timeout)
        self.check_end: Deadline = self.end
        self.sockets: Sockets = Sockets()
        self.reader: EventReader | None = None
        self.addresses: list[tuple[socket.AddressFamily, Any]] = []
        self.remaining = 0  #: Prompts in the queue, as the server said.
        self.stats: models.SystemStats | None = None
        self.features: models.Features = models.Features()
        self.has_jobs = False  #: Whether the server has the jobs API.
        self.own_was_deaf = False  #: Whether the client's own socket missed a prompt's events.

    @property
    def left(self) -> float:
        """Seconds that are left for the current check, always above 0."""
        return max(0.05, self.check_end.left())

    def finish(self) -> None:
        """Close all sockets."""
        if self.reader is not None:
            self.reader.line.close()
        self.sockets.cut(for_good=True)

    def get(self, route: str, **kw: Any) -> Response:
        """Send a GET request; return the answer, of limited size, whatever its status."""
        return self.http.request(
            "GET", route, timeout=self.left, allow=range(300, 600), max_bytes=MAX_ANSWER, **kw
        )

    def ask(self, route: str, model: Callable[[Any], Model]) -> Model | None:
        """Send a GET request; return its answer as a model, or None if it fails or does not fit."""
        answer = self.get(route)
        return decode_model(answer, model) if answer.status == 200 else None

    def post(self, route: str, body: object, timeout: float) -> Response:
        """Send a POST request with a JSON body; return the answer, whatever its status."""
        return self.http.request(
            "POST", route, json=body, timeout=timeout, allow=range(300, 600), max_bytes=MAX_ANSWER
        )

    def read_until(self, done: Callable[[], bool], seconds: float) -> bool:
        """Read the event socket until ``done()`` is true; return False if time runs out first.

        Without a socket, return ``done()`` immediately.
        """
        if self.reader is None:
            return done()
        return self.reader.read_until(done, min(seconds, self.left))

    def brief(self, value: object, most: int = 60) -> str:
        """Hide secrets in a value from the server, and shorten it to ``most`` characters."""
        return self.redact.foreign(value)[:most]


def decode_model(answer: Response, model: Callable[[Any], Model]) -> Model | None:
    """Decode an answer as a model; return None if it does not fit."""
    with contextlib.suppress(ComfyError):  # its text would quote the answer
        return model(answer.json())
    return None


def in_ms(seconds: float) -> str:
    """Format a duration in seconds as a text such as ``1.2 s`` or ``340 ms``."""
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"
