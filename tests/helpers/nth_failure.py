"""Make the n-th system call of a client fail, once, for all n.

As SQLite tests itself: a fault counts the calls of one thread and has the n-th of them fail.
:func:`for_every_n` tries each n in turn, until a run makes fewer calls than that.  What counts is
what the client calls: sockets, files of one folder, SQLite, or the functions that make an answer.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import itertools
import os
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Final

import attrs
import pytest

from comfy_client import runtime

#: Seconds that a call may take on a busy machine; one that takes longer hangs.
LIMIT: Final = 60.0
#: The thread of :func:`outcome_of`.
CALLER: Final = "caller"

Raise = Callable[[], BaseException]
#: What an operation raises, by its name; ``"*"``: any other.
Kind = Mapping[str, Raise]


@attrs.define(eq=False)
class Fault:
    """Has the n-th call of a thread fail; threads of one name count together.

    Attributes:
        thread: The name of the thread.
        number: Which of its calls fails, from 1.
        kind: What it raises.
        seldom: Whether calls count, too, that hardly ever fail.
        failed: The operation that failed; ``None``: there were fewer calls than that.
    """

    thread: str
    number: int
    kind: Kind = attrs.field(repr=False)
    seldom: bool = False
    failed: str | None = None
    _calls: int = 0
    _lock: Any = attrs.field(factory=threading.Lock, repr=False)

    def count(self, operation: str) -> None:
        """Count a call, and raise if it is the one that fails."""
        if threading.current_thread().name != self.thread:
            return
        with self._lock:  # guards the number of calls
            self._calls += 1
            if self._calls != self.number:
                return
            self.failed = operation
        raise (self.kind.get(operation) or self.kind["*"])()


#: Arms a fault, for as long as it is entered.
Arm = Callable[[Fault], AbstractContextManager[None]]


def for_every_n(
    thread: str,
    kinds: Sequence[Kind],
    once: Callable[[Fault], None],
    *,
    step: int = 1,
    seldom: bool = False,
) -> list[str]:
    """Call ``once`` with a fault for each n, the kinds in turn; which operations have failed.

    Ends with the first n that is not reached.  ``step``: the distance from one n to the next;
    ``seldom``: as of :class:`Fault`.
    """
    failed = []
    for turn, number in enumerate(itertools.count(1, step)):
        fault = Fault(thread, number, kinds[turn % len(kinds)], seldom)
        try:
            once(fault)
        except BaseException as exc:
            exc.add_note(f"with {fault}")
            raise
        if fault.failed is None:
            return failed
        failed.append(fault.failed)
    raise AssertionError("numbers do not end")


def outcome_of(call: Callable[[], Any]) -> Any:
    """What a call in a thread of its own returns, or the exception that it raises."""
    outcomes: list[Any] = []

    def run() -> None:
        try:
            outcomes.append(call())
        except BaseException as exc:  # judged by the test
            outcomes.append(exc)

    thread = threading.Thread(target=run, name=CALLER, daemon=True)
    thread.start()
    thread.join(LIMIT)
    assert not thread.is_alive(), f"hangs for {LIMIT:g} s"
    return outcomes.pop()


def _of(number: int, kind: type[OSError] = OSError) -> Raise:
    return lambda: kind(number, os.strerror(number))


# -- sockets ------------------------------------------------------------------------------

SOCKETS: Final[Sequence[Kind]] = (
    {
        "getaddrinfo": lambda: socket.gaierror(socket.EAI_AGAIN, "try again"),
        "connect": _of(errno.ECONNREFUSED),
        "recv_into": _of(errno.ECONNRESET),
        "recv": _of(errno.ECONNRESET),
        "sendall": _of(errno.EPIPE),
        "send": _of(errno.EPIPE),
        "*": _of(errno.ENOTCONN),
    },
    {
        "getaddrinfo": lambda: socket.gaierror(socket.EAI_NONAME, "unknown"),
        "socket": _of(errno.EMFILE),
        "connect": _of(errno.ENETUNREACH),
        "recv_into": lambda: TimeoutError("timed out"),
        "recv": lambda: TimeoutError("timed out"),
        "sendall": lambda: TimeoutError("timed out"),
        "send": lambda: TimeoutError("timed out"),
        "*": _of(errno.EINVAL),
    },
    {
        "getaddrinfo": lambda: socket.gaierror(socket.EAI_MEMORY, "no memory"),
        "connect": _of(errno.ETIMEDOUT),
        "sendall": _of(errno.ECONNRESET),
        "send": _of(errno.ECONNRESET),
        "*": _of(errno.ENOBUFS),
    },
    {"connect": _of(errno.EACCES), "*": _of(errno.EIO)},
)

_OF_SOCKETS: Final = ("connect", "send", "sendall", "recv", "recv_into")
#: These fail if another thread has closed the socket.
_SELDOM: Final = ("settimeout", "setsockopt")


@contextlib.contextmanager
def failing_sockets(fault: Fault) -> Iterator[None]:
    """Fail in what is done with any socket; one that fails to close is closed all the same."""
    shutdown = socket.socket.shutdown

    def of_socket(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(sock: socket.socket, *args: Any) -> Any:
            try:
                fault.count(name)
            except ConnectionError:  # as of the system: that is the end of the connection
                with contextlib.suppress(OSError):
                    shutdown(sock, socket.SHUT_RDWR)
                raise
            return call(sock, *args)

        return counted

    with pytest.MonkeyPatch.context() as patch:
        if runtime.SLICED:  # connects in steps
            connect_ex = of_socket("connect", socket.socket.connect_ex)
            patch.setattr(socket.socket, "connect_ex", _returning_errors(connect_ex))
        for name in (*_OF_SOCKETS, *(_SELDOM if fault.seldom else ())):
            patch.setattr(socket.socket, name, of_socket(name, getattr(socket.socket, name)))
        patch.setattr(socket.socket, "__init__", _before(fault, "socket", socket.socket.__init__))
        # Where close() of a socket and of its last file end up.
        close = socket.socket._real_close  # type: ignore[attr-defined]
        patch.setattr(socket.socket, "_real_close", _after(fault, "close", close))
        patch.setattr(socket, "getaddrinfo", _before(fault, "getaddrinfo", socket.getaddrinfo))
        yield


def _returning_errors(call: Callable[..., int]) -> Callable[..., int]:
    def returned(*args: Any) -> int:
        try:
            return call(*args)
        except OSError as exc:
            return exc.errno or errno.EIO

    return returned


def _before(fault: Fault, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    def counted(*args: Any, **kw: Any) -> Any:
        fault.count(name)
        return call(*args, **kw)

    return counted


def _after(fault: Fault, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    def counted(*args: Any, **kw: Any) -> Any:
        done = call(*args, **kw)
        try:
            fault.count(name)
        except BaseException:
            del done  # the traceback would keep a cursor, and that keeps a lock
            raise
        return done

    return counted


# -- files --------------------------------------------------------------------------------

FILES: Final[Sequence[Kind]] = (
    {"open": _of(errno.EMFILE), "write": _of(errno.ENOSPC), "*": _of(errno.EIO)},
    {"*": _of(errno.EACCES)},
    {"open": _of(errno.ENOSPC), "mkdir": _of(errno.EROFS), "*": _of(errno.ENOMEM)},
)

_OF_PATHS: Final = ("stat", "lstat", "replace", "rename", "link", "unlink", "mkdir", "scandir")
_OF_DESCRIPTORS: Final = ("fsync", "fstat", "pread", "dup")


def failing_files(folder: Path) -> Arm:
    """Fail in what is done with files in a folder, and with the folder."""
    return lambda fault: _failing_files(fault, os.fspath(folder))


@contextlib.contextmanager
def _failing_files(fault: Fault, folder: str) -> Iterator[None]:
    descriptors: set[int] = set()  # of files in the folder
    owned: set[int] = set()  # of these, the ones that only os.close() closes

    def is_inside(path: Any) -> bool:
        return isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith(folder)

    def of_path(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(path: Any, *args: Any, **kw: Any) -> Any:
            if is_inside(path):
                fault.count(name)
            return call(path, *args, **kw)

        return counted

    def of_descriptor(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(descriptor: int, *args: Any, **kw: Any) -> Any:
            if descriptor in descriptors:
                fault.count(name)
            made = call(descriptor, *args, **kw)
            if name == "dup" and descriptor in descriptors:
                descriptors.add(made)
                owned.add(made)
            return made

        return counted

    class Raw(io.FileIO):
        """A file that is written."""

        def write(self, data: Any, /) -> int:
            fault.count("write")
            return super().write(data) or 0

        def close(self) -> None:
            if not self.closed:
                super().close()
                fault.count("close")

    os_open, os_close, io_open = os.open, os.close, io.open

    def open_descriptor(path: Any, *args: Any, **kw: Any) -> int:
        if not is_inside(path):
            return os_open(path, *args, **kw)
        fault.count("open")
        descriptor = os_open(path, *args, **kw)
        descriptors.add(descriptor)
        owned.add(descriptor)
        return descriptor

    def close_descriptor(descriptor: int) -> None:
        os_close(descriptor)  # Linux closes it, whatever it says
        if descriptor in owned:
            descriptors.discard(descriptor)
            owned.discard(descriptor)
            fault.count("close")

    def open_file(file: Any, mode: str = "r", buffering: int = -1, *args: Any, **kw: Any) -> Any:
        if not is_inside(file):
            return io_open(file, mode, buffering, *args, **kw)
        fault.count("open")
        if "b" in mode and buffering and mode.strip("b") in ("w", "x", "a"):
            return io.BufferedWriter(Raw(file, mode.strip("b")))
        opened = io_open(file, mode, buffering, *args, **kw)
        descriptors.add(opened.fileno())
        return opened

    with pytest.MonkeyPatch.context() as patch:
        for name in _OF_PATHS:
            patch.setattr(os, name, of_path(name, getattr(os, name)))
        for name in filter(partial(hasattr, os), _OF_DESCRIPTORS):  # Windows has no pread
            patch.setattr(os, name, of_descriptor(name, getattr(os, name)))
        patch.setattr(os, "open", open_descriptor)
        patch.setattr(os, "close", close_descriptor)
        patch.setattr(io, "open", open_file)
        patch.setattr(builtins, "open", open_file)
        yield
    assert not owned, "descriptors are left open"


# -- SQLite -------------------------------------------------------------------------------


def _sqlite(code: int, text: str) -> Raise:
    def made() -> BaseException:
        error = sqlite3.OperationalError(text)
        error.sqlite_errorcode = code
        return error

    return made


DATABASES: Final[Sequence[Kind]] = (
    {"*": _sqlite(sqlite3.SQLITE_IOERR, "disk I/O error")},
    {"*": _sqlite(sqlite3.SQLITE_FULL, "database or disk is full")},
    {"*": _sqlite(sqlite3.SQLITE_BUSY, "database is locked")},
    {"*": _sqlite(sqlite3.SQLITE_CANTOPEN, "unable to open database file")},
    {"*": _of(errno.EIO)},
    {"*": MemoryError},
)


def failing_databases(*, done: bool) -> Arm:
    """Fail in what is done with a database; ``done``: after it was done."""
    return lambda fault: _failing_databases(fault, _after if done else _before)


@contextlib.contextmanager
def _failing_databases(fault: Fault, wrapped: Callable[..., Any]) -> Iterator[None]:
    opened: list[sqlite3.Connection] = []

    class Connection(sqlite3.Connection):
        def __init__(self, *args: Any, **kw: Any) -> None:
            super().__init__(*args, **kw)
            opened.append(self)

        execute = wrapped(fault, "execute", sqlite3.Connection.execute)
        executescript = wrapped(fault, "executescript", sqlite3.Connection.executescript)
        close = _after(fault, "close", sqlite3.Connection.close)

    connect = sqlite3.connect

    def counted(*args: Any, **kw: Any) -> sqlite3.Connection:
        fault.count("connect")
        return connect(*args, factory=Connection, **kw)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite3, "connect", counted)
        yield
    assert not [one for one in opened if _is_open(one)], "connections are left open"


def _is_open(connection: sqlite3.Connection) -> bool:
    with contextlib.suppress(sqlite3.ProgrammingError):
        return connection.total_changes >= 0
    return False


# -- memory -------------------------------------------------------------------------------

MEMORY: Final[Sequence[Kind]] = ({"*": MemoryError},)

#: Modules that make nothing but answers and what is made of them.
_MODULES: Final = (
    "comfy_client.models",
    "comfy_client.transport.decode",
    "comfy_client.transport.frames",
    "comfy_client.transport.response",
    "comfy_client.values",
    "comfy_client.jobs.output",
    "comfy_client.jobs.result",
    "comfy_client.transport.http",
    "json",
)
#: Functions of C that make what an answer is made of.
_BUILT_IN: Final = frozenset(("bytearray", "decode", "getvalue", "join", "loads", "read1", "write"))


@contextlib.contextmanager
def failing_memory(fault: Fault) -> Iterator[None]:
    """Fail in any call by which an answer, or a part of one, is made.

    Only threads that are started in here.
    """

    def hook(frame: FrameType, event: str, arg: object) -> None:
        name = frame.f_code.co_name if event == "call" else getattr(arg, "__name__", "")
        if event == "call" or (event == "c_call" and name in _BUILT_IN):
            module = frame.f_globals.get("__name__", "")
            if module.startswith(_MODULES) and not name.startswith("<"):
                fault.count(f"{module}.{name}")

    before = threading.getprofile()
    threading.setprofile(hook)
    try:
        yield
    finally:
        threading.setprofile(before)
