"""What a client announces, and helpers to look at its connections."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import stat
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import attrs
import blinker

from comfy_client import ComfyApi, Job
from comfy_client.testing import ComfyServer
from comfy_client.timing import Timing

T = TypeVar("T")
Client = TypeVar("Client", bound=ComfyApi)

#: Patience that makes faults quick to see.
FAST = Timing(
    dial=2.0,
    ping=0.2,
    dead=2.0,
    poll=0.1,
    pause=0.05,
    cap=0.3,
    settle=2.0,
    silence=0.3,
    silence_cap=0.6,
    job_poll_cap=0.2,
    history=1.0,
    lost=0.2,
    question_pause=0.1,
)
LIMIT = 60.0  # seconds that anything may take on a busy machine


class Quick(ComfyApi):
    """Has no patience at all."""

    timing = FAST


class Fast(ComfyApi):
    """The same, but slow to believe that a connection is dead."""

    timing = attrs.evolve(FAST, dial=10.0, ping=8.0, dead=90.0)


class Impatient(ComfyApi):
    """Reconnects soon."""

    timing = Timing(pause=0.05, cap=0.5)


def client(server: ComfyServer, cls: type[Client] = Fast, **kw: Any) -> Client:
    """A client with signals of its own."""
    return cls(server.url, namespace=blinker.Namespace(), **kw)


@contextlib.contextmanager
def connected(server: ComfyServer, cls: type[Client]) -> Iterator[Client]:
    """A client that has heard the greetings; its sockets are gone at the end."""
    api = cls(server.url)
    heard = Heard(api)
    with api:
        until(lambda: heard("feature_flags"))  # the last that a server says unasked
        heard.forget()
        yield api
    until(lambda: not open_sockets(server.port))


def until_connected(server: ComfyServer, api: ComfyApi, count: int) -> None:
    """Wait for the connection of this number."""
    server.until(lambda: len(server.hellos) >= count and api.connected, LIMIT)


def flush(api: ComfyApi) -> None:
    """Wait until receivers have had what has happened."""
    api.parts.receivers.flush(LIMIT)


class Heard:
    """Every event of a client from now on, in order; starts nothing."""

    def __init__(self, api: ComfyApi) -> None:
        self.events: list[Any] = []
        flush(api)  # what happened before may still be on its way
        self.forget = api.parts.receivers.on("all", self.events.append, once=False)

    def __call__(self, *names: str) -> list[Any]:
        return [event for event in list(self.events) if event.name in names]

    def names(self, *names: str) -> list[str]:
        return [event.name for event in self(*names)]

    def ends(self, prompt_id: str | None = None) -> list[Any]:
        """The end events, of one prompt or of all."""
        ends = [event for event in list(self.events) if event.is_end]
        return [event for event in ends if prompt_id in (None, event.prompt_id)]

    def end(self, prompt_id: str) -> Any:
        """The one end event of a prompt."""
        [event] = self.ends(prompt_id)
        return event

    @property
    def links(self) -> list[str]:
        """The names of what happened to the connection after it was made, without the attempts.

        The event of the first connection comes a moment after it, for some tests too late.
        """
        kept = ("reconnected", "disconnected", "websocket_unavailable")
        return [event.name for event in self.events if event.name in kept]


class Requests(Counter[str]):
    """Counts what a client asks over HTTP from now on, by path."""

    def __init__(self, api: ComfyApi) -> None:
        super().__init__()
        session = api.parts.http.endpoint.session
        send = session.send

        def counted(request: Any, **kw: Any) -> Any:
            self[request.url.partition("/api")[2].partition("?")[0]] += 1
            return send(request, **kw)

        session.send = counted  # type: ignore[method-assign]


def paths_asked(server: ComfyServer, doing: Callable[[], object]) -> list[str]:
    """What is asked for over HTTP meanwhile."""
    before = len(server.requests)
    doing()
    return [r.path for r in server.requests[before:] if r.path != "/ws"]


@contextlib.contextmanager
def quickly(seconds: float = LIMIT) -> Iterator[None]:
    """Fail if the block takes longer, by as much as the machine is busy.

    What it would wait for by mistake must last much longer: a busy machine takes its time.
    """
    start = time.monotonic()
    yield
    assert time.monotonic() - start < stretched(seconds)


def quick_once(doing: Callable[[], object], seconds: float) -> None:
    """Call it until one of five calls takes less; a busy machine delays some, a defect all."""
    took = []
    for _ in range(5):
        start = time.monotonic()
        doing()
        took.append(time.monotonic() - start)
        if took[-1] < seconds:
            return
    raise AssertionError(f"took {took} s")


def outstanding(api: ComfyApi) -> list[Any]:
    """The jobs that have not ended."""
    return [one.waiters[0].job for one in api.parts.tracker.outstanding]


def goes_on(job: Job) -> bool:
    """Whether a job runs two steps later, at each of which it heeds an interrupt."""
    step = job.progress.step or 0
    until(lambda: job.done() or (job.progress.step or 0) > step + 1)
    return not job.done()


def stretched(seconds: float) -> float:
    """Seconds that something may take, up to four times as many on a machine that is busy now.

    The tests themselves load each processor with two processes.
    """
    if not hasattr(os, "getloadavg"):  # as on Windows
        return seconds * 4.0
    return seconds * min(4.0, max(1.0, os.getloadavg()[0] / (2 * (os.cpu_count() or 1))))


def until(found: Callable[[], T], timeout: float = 60.0) -> T:
    """Wait until something is true, and return it; AssertionError after `timeout` seconds.

    A busy machine has longer, see :func:`stretched`.
    """
    start = time.monotonic()
    while not (value := found()):
        took = time.monotonic() - start
        assert took < stretched(timeout), f"did not come true within {took:.0f} s"
        time.sleep(0.01)
    return value


def _peer(sock: socket.socket) -> tuple[Any, ...]:
    try:
        return tuple(sock.getpeername())
    except OSError:  # closed, or not connected
        return ()


def open_sockets(port: int, *, collect: bool = True) -> list[int]:
    """The open files of this process that are connected to a port of this machine.

    ``collect``: those that nobody has any more are closed first, by the collector.
    """
    if collect:
        gc.collect()
    found = []
    if not os.path.isdir("/dev/fd"):  # Windows: at least those that Python objects have
        found = [one for one in gc.get_objects() if isinstance(one, socket.socket)]
        return [one.fileno() for one in found if _peer(one)[1:2] == (port,)]
    for file in map(int, os.listdir("/dev/fd")):
        with contextlib.suppress(OSError):  # it is closed by now, or not connected
            if stat.S_ISSOCK(os.fstat(file).st_mode):
                with socket.socket(fileno=os.dup(file)) as sock:
                    found += [file] if sock.getpeername()[1:2] == (port,) else []
    return found


def threads() -> list[threading.Thread]:
    """The threads of all clients."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("comfy-")]


def exception_of(call: Callable[[], object], timeout: float = LIMIT) -> BaseException | None:
    """What a call in a thread of its own raises; it must end in time."""
    caught: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as exc:
            caught.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(timeout)
    assert not thread.is_alive()
    return caught[0] if caught else None
