"""The wires between simulated clients and servers: an adapter of requests, and a line for events.

Inside of ``with Network(kernel)``, each :class:`ComfyApi` finds the servers of that network, by
their hosts, and nothing else.  What is sent takes simulated time, and :class:`Trouble` befalls it:
failures are the exceptions that requests, urllib3 and websocket-client raise.
"""

from __future__ import annotations

import contextlib
import io
import math
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, Protocol
from unittest import mock
from urllib.parse import parse_qs, urlsplit

import attrs
import requests
from requests.adapters import BaseAdapter
from urllib3 import HTTPResponse
from urllib3.exceptions import (
    ConnectTimeoutError,
    NewConnectionError,
    ProtocolError,
    ReadTimeoutError,
)

from comfy_client import ComfyApi, runtime
from comfy_client.errors import (
    AuthenticationError,
    ServerUnreachable,
    TransportError,
)
from comfy_client.transport import connections, identity, websocket
from comfy_client.transport.dial import DialPlan, Lost, NoWebSocket
from comfy_client.transport.frames import CLOSE, PONG, TEXT
from tests.model.kernel import START, Kernel
from tests.model.schedule import Fault
from tests.model.server import Answer, Server, Taken

#: Seconds; what happens in them does so at once, so that threads meet.
_TICK: Final = 0.005
_PAGE: Final = b"<html><title>Welcome</title><body>Please log in.</body></html>"


@attrs.frozen
class Trouble:
    """What befalls requests, and attempts to connect a socket, between two moments.

    Attributes:
        kind: ``lose`` the request without a word, or ``cut`` it off before it arrives; ``drop``
            the answer, or break it off in the middle (``half``); answer ``slow``, or take the
            request ``late``; ``refuse`` it with a status, answer with a page (``nonsense``), or as
            a ``proxy`` that got no answer in time (504), while the server did; ``vanish``:
            no connection comes about.
        until: When it is over.
        route: Which requests: a part of ``POST /prompt`` or ``GET /ws``; empty: all.
        value: A status, or seconds.
    """

    kind: str
    until: float
    route: str = ""
    value: float = 0.0


class Host(Protocol):
    """A server as the wires know it."""

    takes_time: bool
    host: str
    life: int
    is_down: bool
    frozen_until: float

    @property
    def taken(self) -> list[Taken]:
        """All prompts that it ever took."""

    def wait_thawed(self) -> None:
        """Wait while it stands still."""


#: What may go wrong: what a :class:`Trouble` is, or what happens to a server or its sockets.
FAULTS: Final = (
    *("lose", "cut", "drop", "half", "slow", "late", "refuse", "nonsense", "proxy", "vanish"),
    *("kill", "freeze", "break", "close", "expel", "deafen", "garble", "repeat", "lag"),
)


class Cord:
    """What a client thinks to be a socket: whoever shuts it ends the wait of another thread."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.changed: Any = None  #: A condition, once somebody waits.
        self.is_shut = False

    def sleep(self, seconds: float) -> None:
        """Let time pass; ``OSError`` once it is shut."""
        if seconds < 0.05:
            self._kernel.sleep(seconds)
        elif not self.is_shut:
            self.changed = self.changed or runtime.Condition()
            with self.changed:
                self.changed.wait_for(lambda: self.is_shut, seconds)
        if self.is_shut:
            raise ConnectionAbortedError("shut by another thread")

    def shutdown(self, how: int = 0) -> None:
        """End the wait, and all later ones."""
        self.is_shut = True
        if self.changed is not None:
            with self.changed:
                self.changed.notify_all()

    close = shutdown


def _tick(moment: float) -> float:
    """The next tick: what happens in it, happens at once."""
    return math.ceil(moment / _TICK) * _TICK


def _shut(sock: Any) -> None:
    sock.shutdown()


class Network:
    """All wires of one simulation.

    Attributes:
        servers: By host.
        troubles: By host, those that are not over.
        lag: Seconds that a request or its answer takes at most.
        socket_lag: Seconds that a message of an event socket takes at most.
        violations: What the client did that it must not.
        doubled: The names of streams that were read while another one of that name was.
    """

    def __init__(self, kernel: Kernel, *servers: Host, lag: float = 0.01) -> None:
        self.kernel = kernel
        self.servers: dict[str, Any] = {}  # as a Host, and what faults need
        self.troubles: dict[str, list[Trouble]] = {}
        self.lag = self.socket_lag = lag
        self.violations: list[str] = []
        self.doubled: list[str] = []
        self.reading: list[Stream] = []
        self._stack = contextlib.ExitStack()
        for server in servers:
            self.add(server)

    def add(self, server: Host) -> Host:
        """Have clients find a server."""
        self.servers[server.host] = server
        self.troubles[server.host] = []
        return server

    def play(self, faults: Sequence[Fault]) -> None:
        """Have faults happen; in a simulated thread."""
        hosts = [*self.servers]
        for fault in sorted(faults, key=lambda fault: fault.at):
            self.wait_until(fault.at)
            self.befall(self.servers[hosts[fault.server]], fault)

    def befall(self, server: Any, fault: Fault) -> None:
        """Have a fault begin, and end in its time."""
        kind, until = fault.kind, self.kernel.now() + fault.lasts
        if kind == "kill":
            server.kill()
            self._later(fault.lasts, server.revive)
        elif kind == "freeze":
            server.freeze(fault.lasts)
        elif kind == "break":
            for peer in server.peers:
                peer.end(None)
        elif kind == "close":
            server.close(int(fault.value))
        elif kind == "expel":
            server.expel()
        elif kind == "deafen":
            server.deafen()
        elif kind == "garble":
            for peer in server.peers:
                peer.garble()
        elif kind == "repeat":
            server.says_twice = True
            self._later(fault.lasts, partial(setattr, server, "says_twice", False))
        elif kind == "lag":
            self.socket_lag = fault.value
            self._later(fault.lasts, partial(setattr, self, "socket_lag", self.lag))
        else:
            trouble = Trouble(kind, until, fault.route, fault.value)
            self.troubles[server.host].append(trouble)

    def _later(self, seconds: float, act: Callable[[], None]) -> None:
        def wait() -> None:
            self.kernel.sleep(seconds)
            act()

        self.kernel.spawn(wait, "the end of a fault")

    def __enter__(self) -> Network:
        patches = (
            (identity, "new_session", self._session),
            (connections, "shut", _shut),
            (websocket, "shut", _shut),
            (websocket, "dial", self._dial),
        )
        for module, name, value in patches:
            self._stack.enter_context(mock.patch.object(module, name, value))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _session(self) -> requests.Session:
        session = _Session()
        session.adapters.clear()
        session.mount("http://", Adapter(self))
        return session

    def check_unlocked(self, what: str) -> None:
        """Note if a lock of the client is held while it waits, or calls its user."""
        if not self.kernel.is_over and self.kernel.held_locks():
            where = "".join(traceback.format_stack(limit=8))
            self.violations.append(f"{what} while a lock is held:\n{where}")

    def travel(self, cord: Cord | None = None) -> None:
        """Take the time of one way."""
        seconds = self.arrival(self.lag) - self.kernel.now()
        self.kernel.sleep(seconds) if cord is None else cord.sleep(seconds)

    def arrival(self, lag: float) -> float:
        """When something arrives that is sent now."""
        return _tick(self.kernel.now() + self.kernel.random.random() * lag)

    def wait_until(self, moment: float) -> None:
        """Wait, in seconds from the start, for something to happen."""
        self.kernel.sleep(_tick(START + moment) - self.kernel.now())

    def trouble(self, host: str, request: str) -> Trouble | None:
        """What befalls a request that is sent now."""
        known = self.troubles[host]
        if not known:
            return None
        now = self.kernel.now()
        self.troubles[host] = known = [one for one in known if one.until > now]
        return next((one for one in known if one.route in request), None)

    # -- the event socket ------------------------------------------------------------------

    def _dial(
        self, plan: DialPlan, timeout: float, hold: Callable[[Any], None], *, max_frame: int | None
    ) -> Line:
        self.check_unlocked("a socket is dialled")
        parts = urlsplit(plan.url)
        server = self.servers[parts.netloc]
        cord = Cord(self.kernel)
        hold(cord)
        client_id = parse_qs(parts.query)["clientId"][0]
        try:
            self._shake_hands(server, cord, plan.shown, timeout)
        except OSError as exc:
            raise TransportError(f"{plan.shown}: cut") from exc
        line = Line(self, server, client_id, cord)
        server.connect(line)
        return line

    def _shake_hands(self, server: Server, cord: Cord, url: str, timeout: float) -> None:
        self.travel(cord)
        trouble = self.trouble(server.host, "GET /ws")
        kind = trouble.kind if trouble else ""
        if kind == "vanish":
            cord.sleep(timeout)
            raise ServerUnreachable(f"{url}: no connection within {timeout:g} s")
        if server.is_down:
            raise ServerUnreachable(f"{url}: connection refused")
        stands_still = server.frozen_until - self.kernel.now()
        if kind == "lose" or stands_still >= timeout:
            cord.sleep(timeout)
            raise TransportError(f"{url}: the handshake was not answered in time")
        if stands_still > 0:
            cord.sleep(stands_still)
        if trouble is not None and kind == "refuse":
            status = int(trouble.value) or 500
            if status in (401, 403):
                raise AuthenticationError(f"{url}: {status}", method="GET", status=status)
            kind_of_error = TransportError if status >= 500 else NoWebSocket
            raise kind_of_error(f"{url}: HTTP {status}")
        if kind in ("cut", "drop", "half", "proxy"):
            raise TransportError(f"{url}: the connection was closed")
        if kind == "nonsense":
            raise NoWebSocket(f"{url}: HTTP 200 instead of a WebSocket")
        self.travel(cord)
        if server.is_down:
            raise TransportError(f"{url}: the connection was closed")


class Line:
    """An open event socket: the client's end, as ``Connection`` uses it, and the server's."""

    is_within = False

    def __init__(self, network: Network, server: Server, client_id: str, cord: Cord) -> None:
        self.client_id = client_id
        self.received_at = network.kernel.now()
        self._is_garbled = False  # the next message cannot be read
        self._network = network
        self._kernel = network.kernel
        self._server = server
        self._cord = cord
        self._changed = cord.changed = runtime.Condition()
        # Moments of arrival, with opcode and data; ``None`` for the end without a word.
        self._coming: deque[tuple[float, tuple[int, bytes] | None]] = deque()
        self._here: deque[tuple[int, bytes]] = deque()
        self._is_over = False

    # -- the server's end ------------------------------------------------------------------

    def deliver(self, text: str) -> None:
        """Send a message to the client."""
        if self._is_garbled:
            self._is_garbled, text = False, text[: len(text) // 2]
        self._put((TEXT, text.encode()))

    def end(self, code: int | None) -> None:
        """End the socket, with that code of a close frame or without one."""
        if code is not None:
            self._put((CLOSE, code.to_bytes(2, "big")))
        self._put(None)

    def garble(self) -> None:
        """Make the next message one that cannot be read."""
        self._is_garbled = True

    def _put(self, frame: tuple[int, bytes] | None, after: float = 0.0) -> None:
        at = self._network.arrival(self._network.socket_lag) + after
        if self._coming:
            at = max(at, self._coming[-1][0])
        self._coming.append((at, frame))
        with self._changed:
            self._changed.notify_all()

    # -- the client's end ------------------------------------------------------------------

    def receive(self) -> tuple[int, bytes] | None:
        """Opcode and payload of the next frame, if one has come."""
        return self._here.popleft() if self._here else None

    def wait(self, seconds: float) -> bool:
        """Wait once for more frames; False: none came."""
        self._network.check_unlocked("the socket is read")
        deadline = self._kernel.now() + seconds
        with self._changed:
            while True:
                now = self._kernel.now()
                if self._cord.is_shut or self._is_over:
                    raise Lost("the socket ended: shut")
                if self._coming and self._coming[0][0] <= now:
                    return self._arrive(now)
                if now >= deadline:
                    return False
                soon = min(deadline, self._coming[0][0]) if self._coming else deadline
                self._changed.wait(soon - now)

    def _arrive(self, now: float) -> bool:
        self.received_at = now
        while self._coming and self._coming[0][0] <= now:
            frame = self._coming.popleft()[1]
            if frame is None:
                self._is_over = True
                if not self._here:
                    raise Lost("the socket ended: connection reset by peer")
                break
            self._here.append(frame)
        return True

    def send(self, text: str) -> None:
        """One message, to which the server has nothing to say."""
        self._check()

    def ping(self) -> None:
        """Ask the server for a pong."""
        self._check()
        if self in self._server.peers:
            stands_still = max(0.0, self._server.frozen_until - self._kernel.now())
            self._put((PONG, b""), stands_still)

    def pong(self, data: bytes) -> None:
        """Answer a ping, of which a ComfyUI sends none."""

    def _check(self) -> None:
        self._network.check_unlocked("the socket is written")
        if self._cord.is_shut or self._is_over:
            raise Lost("the socket ended: broken pipe")

    def close(self, *, politely: bool = True) -> None:
        """End it; ``politely``: wait a little until the server has noticed."""
        self._network.check_unlocked("the socket is closed")
        if self._is_over and self not in self._server.peers:
            return
        left = self._server.frozen_until - self._kernel.now()
        if politely and left < 0.5 and not self._is_over:
            self._kernel.sleep(max(0.0, left))
            self._network.travel()
            self._server.disconnect(self)
        else:
            self._kernel.spawn(self._notice, "the end of a socket")
            if politely and not self._is_over:
                self._kernel.sleep(0.5)

    def _notice(self) -> None:
        """Have the server notice the end, late if it stands still or the line is bad."""
        self._kernel.sleep(3 * self._kernel.random.random() ** 4)
        self._server.wait_thawed()
        self._server.disconnect(self)


class Stream:
    """The body of an answer that comes in pieces; the server's end, and that of urllib3.

    Attributes:
        name: What it is about.
        closed: Whether its client reads no more.
    """

    def __init__(self, network: Network, name: str) -> None:
        self.name = name
        self.closed = False
        self._network = network
        self._kernel = network.kernel
        self._cord = Cord(network.kernel)
        self._changed: Any = None
        self._timeout = math.inf
        # Moments of arrival, with bytes; empty at the end, ``None`` at a break.
        self._coming: deque[tuple[float, bytes | None]] = deque()

    # -- the server's end ------------------------------------------------------------------

    def put(self, data: bytes) -> None:
        """Send a piece; raises ``OSError`` if nobody reads any more."""
        if self.closed or self._cord.is_shut:
            raise ConnectionResetError(104, "Connection reset by peer")
        self._add(data)

    def end(self, code: int | None = None, *, well: bool = False, within: float = 0.0) -> None:
        """End it: ``well``, or by a break, which may come a little later."""
        self._add(b"" if well else None, within * self._kernel.random.random())

    def _add(self, data: bytes | None, after: float = 0.0) -> None:
        at = self._network.arrival(self._network.socket_lag) + after
        if self._coming and not after:
            at = max(at, self._coming[-1][0])
        while self._coming and self._coming[-1][0] > at:
            self._coming.pop()  # cut off
        self._coming.append((at, data))
        if self._changed is not None:
            with self._changed:
                self._changed.notify_all()

    # -- the client's end ------------------------------------------------------------------

    def begin(self, cord: Cord, timeout: float) -> None:
        """Have whoever shuts this cord end it, and a silence of so many seconds."""
        reading = self._network.reading
        self._network.doubled += [one.name for one in reading if one.name == self.name]
        reading.append(self)
        self._cord, self._timeout = cord, timeout
        self._changed = cord.changed = cord.changed or runtime.Condition()

    def read1(self, most: int = -1) -> bytes:
        """Return what has come; wait for the first piece."""
        self._network.check_unlocked("a stream is read")
        until = self._kernel.now() + self._timeout
        with self._changed:
            while not self._cord.is_shut and not self.closed:
                now = self._kernel.now()
                if self._coming and self._coming[0][0] <= now:
                    return self._take()
                if now >= until:
                    raise TimeoutError("timed out")
                at = min(until, self._coming[0][0]) if self._coming else until
                self._changed.wait(min(at - now, 60.0))
        raise ConnectionResetError(104, "Connection reset by peer")

    def _take(self) -> bytes:
        data = self._coming[0][1]
        if data is None:
            raise ConnectionResetError(104, "Connection reset by peer")
        if data:
            self._coming.popleft()
        return data

    read = read1

    def close(self) -> None:
        """Read no more; the server notices when it sends something."""
        self.closed = True
        if self in self._network.reading:
            self._network.reading.remove(self)

    def flush(self) -> None:
        """Do nothing, as a file that is only read."""


class _Session(requests.Session):
    """Without what requests does for each answer: the one of the client does without it, too."""

    def send(self, request: requests.PreparedRequest, **kw: Any) -> requests.Response:
        return self.get_adapter(request.url or "").send(request, **kw)


class Adapter(BaseAdapter):
    """Sends requests to simulated servers."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self._network = network
        self._kernel = network.kernel

    def close(self) -> None:
        """Nothing is kept."""

    def send(  # type: ignore[override]  # positional in requests, keywords in the client
        self, request: requests.PreparedRequest, *, timeout: tuple[float, float], **_: Any
    ) -> requests.Response:
        """Hand a request to the server, and what it says to the client."""
        network, kernel = self._network, self._kernel
        network.check_unlocked("a request is sent")
        url = urlsplit(request.url or "")
        server, method = network.servers[url.netloc], request.method or ""
        exchange = connections.current.get()
        cord = Cord(kernel)
        try:
            if exchange is not None:
                exchange.use(cord)  # type: ignore[arg-type]  # as much of a socket as it needs
            network.travel(cord)
            what = f"{method} {url.path}"
            way = Way(network, server, cord, timeout, network.trouble(server.host, what))
            body: Any = request.body or b""
            headers: Any = request.headers
            answer, length = way.answer(
                lambda: server.handle(method, url.path, url.query, body, headers)
            )
            network.travel(cord)
        except ConnectionAbortedError as exc:  # the client is being closed
            raise requests.ConnectionError(ProtocolError("Connection aborted.", exc)) from exc
        return _response(request, answer, length)


@attrs.frozen
class Way:
    """The way of one request, and what befalls it."""

    network: Network
    server: Host
    cord: Cord
    timeout: tuple[float, float]
    trouble: Trouble | None

    def answer(self, handle: Callable[[], Answer]) -> tuple[Answer, int | None]:
        """What the server says, and the length that it announces, if the rest is cut off."""
        server, kernel, trouble = self.server, self.network.kernel, self.trouble
        kind, value = (trouble.kind, trouble.value) if trouble else ("", 0.0)
        if kind == "vanish":
            self.cord.sleep(self.timeout[0])
            raise _raised(requests.ConnectTimeout(ConnectTimeoutError()))
        if server.is_down:
            refused = ConnectionRefusedError(111, "Connection refused")
            error = NewConnectionError(None, "refused")  # type: ignore[arg-type]  # no pool
            raise _raised(requests.ConnectionError(error), refused)
        if kind == "refuse":
            status = int(value) or 500
            return Answer(status, "text/plain", f"{status}: no".encode()), None
        if kind == "nonsense":
            return Answer(200, "text/html", _PAGE), None
        if kind == "cut":
            raise _cut()
        if kind == "lose":
            raise self._no_answer(self.timeout[1])
        life, left = server.life, self.timeout[1]
        late = self._stands_still() + (value if kind == "late" else 0.0)
        while late:
            if late >= left:
                kernel.spawn(partial(self._take_late, handle, late), "a late request")
                raise self._no_answer(left)
            self.cord.sleep(late)
            left -= late
            late = self._stands_still()
        if server.life != life or server.is_down:
            raise _cut()
        answer = self._in_time(handle) if server.takes_time else handle()
        if kind == "slow":
            if value >= self.timeout[1]:
                raise self._no_answer(self.timeout[1])
            self.cord.sleep(value)
        if isinstance(answer.body, Stream):
            answer.body.begin(self.cord, self.timeout[1])
            if kind in ("drop", "proxy") or server.life != life:
                answer.body.close()
            elif kind == "half":
                answer.body.end(within=0.2)
        if server.life != life or kind == "drop":
            raise _cut()
        if kind == "proxy":
            return Answer(504, "text/html", b"<title>504 Gateway Time-out</title>"), None
        if kind == "half" and isinstance(answer.body, bytes):
            return answer._replace(body=answer.body[: len(answer.body) // 2]), len(answer.body)
        return answer, None

    def _in_time(self, handle: Callable[[], Answer]) -> Answer:
        """Have the server answer in a thread of its own, for as long as the client waits."""
        answers: list[Answer] = []
        changed = self.cord.changed = self.cord.changed or runtime.Condition()
        is_heard = True

        def take() -> None:
            answer = handle()
            if not is_heard and isinstance(answer.body, Stream):
                answer.body.close()
            with changed:
                answers.append(answer)
                changed.notify_all()

        thread = self.network.kernel.spawn(take, "a request")
        until = self.network.kernel.now() + self.timeout[1]
        with changed:
            while not (answers or self.cord.is_shut or not thread.is_alive()):
                left = until - self.network.kernel.now()
                if left <= 0:
                    break
                changed.wait(min(left, 1.0))
        if answers and not self.cord.is_shut:
            return answers[0]
        is_heard = False
        if self.cord.is_shut:
            raise ConnectionAbortedError("shut by another thread")
        raise _timed_out() if thread.is_alive() else _cut()

    def _take_late(self, handle: Callable[[], Answer], seconds: float) -> None:
        """Have the server take a request of which its client has heard nothing."""
        life = self.server.life
        self.network.kernel.sleep(seconds)
        self.server.wait_thawed()
        if self.server.life == life and not self.server.is_down:
            count = len(self.server.taken)
            answer = handle()
            if isinstance(answer.body, Stream):
                answer.body.close()
            for one in self.server.taken[count:]:
                one.is_late = True

    def _stands_still(self) -> float:
        """For how many seconds the server does nothing."""
        return max(0.0, self.server.frozen_until - self.network.kernel.now())

    def _no_answer(self, seconds: float) -> Exception:
        self.cord.sleep(seconds)
        return _timed_out()


def _timed_out() -> Exception:
    error = ReadTimeoutError(None, "", "Read timed out.")  # type: ignore[arg-type]  # no pool
    return _raised(requests.ReadTimeout(error), TimeoutError("timed out"))


def _cut() -> Exception:
    reset = ConnectionResetError(104, "Connection reset by peer")
    return _raised(requests.ConnectionError(ProtocolError("Connection aborted.", reset)))


def _raised(exc: Exception, cause: Exception | None = None) -> Exception:
    exc.__cause__ = cause
    return exc


def _response(
    request: requests.PreparedRequest, answer: Answer, length: int | None
) -> requests.Response:
    status, kind, body, headers = answer[0], answer[1], answer[2], {**answer.headers}
    if isinstance(body, Stream):
        headers["Transfer-Encoding"] = "chunked"
    else:
        headers["Content-Length"] = str(len(body) if length is None else length)
        body = io.BytesIO(body)
    if kind:
        headers["Content-Type"] = kind
    response = requests.Response()
    response.raw = HTTPResponse(body, headers=headers, status=status, preload_content=False)
    response.status_code = status
    response.headers = response.raw.headers  # type: ignore[assignment]  # as those of requests
    response.url, response.request = request.url or "", request
    return response


def connect(server: Server, client_id: str | None = None, **settings: Any) -> ComfyApi:
    """A client of a server, within its network."""
    return ComfyApi(f"http://{server.host}", client_id, **settings)
