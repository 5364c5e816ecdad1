"""A TCP proxy for links that break: between a client and any server on this machine."""

from __future__ import annotations

import contextlib
import queue
import socket
import struct
import threading
import time

LIMIT = 60.0
_PIECE = 2048  # bytes that go at once


class Proxy:
    """Passes bytes on in both directions; a context manager.

    ``count`` connections so far, with the bytes ``sent`` by clients and ``received``; ``delay``
    seconds on each way, where each connection carries ``rate`` bytes a second at most (``None``:
    as it comes); ``cut()`` ends all of them and ``dark()`` lets nothing through any more
    (connections stay open) until ``light()``.
    ``dark(old_only=True)`` silences those that are there, and new ones work.
    ``away()`` cuts them and ends each new one at once, until ``back()``.
    """

    def __init__(self, port: int, *, delay: float = 0.0, rate: float | None = None) -> None:
        self.count = 0
        self.sent: list[int] = []  # by the client, piece by piece
        self.received: list[int] = []
        self.delay = delay
        self.rate = rate
        self._target = ("127.0.0.1", port)
        self._away = False
        self._lit = threading.Event()  # for connections from now on
        self._lit.set()
        self._darkened: list[threading.Event] = []
        self._lock = threading.Lock()  # guards the set
        self._sockets: set[socket.socket] = set()
        self._accepting = threading.Thread(target=self._accept, name="proxy", daemon=True)
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Proxy:
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join(LIMIT)  # nothing new from here on
        self.light()
        self.cut()
        for thread in self._threads:
            thread.join(LIMIT)

    def cut(self, *, reset: bool = True) -> None:
        """End all open connections, with a RST or with a FIN."""
        with self._lock:
            sockets, self._sockets = self._sockets, set()
        for end in sockets:
            with contextlib.suppress(OSError):
                if reset:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.shutdown(socket.SHUT_RDWR)

    def dark(self, *, old_only: bool = False) -> None:
        """Let nothing through, and tell nobody."""
        self._lit.clear()
        if old_only:
            self._darkened.append(self._lit)
            self._lit = threading.Event()
            self._lit.set()

    def light(self) -> None:
        """Let through what waits, and what comes."""
        for lit in (*self._darkened, self._lit):
            lit.set()

    def away(self) -> None:
        """Be as a server that does not run."""
        self._away = True
        self.cut()

    def back(self) -> None:
        """Let connections through again."""
        self._away = False

    def _spawn(self, work, *args) -> None:
        thread = threading.Thread(target=work, args=args, name="proxy", daemon=True)
        thread.start()
        self._threads.append(thread)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self.count += 1
            lit = self._lit
            if self._away:
                near.close()
                continue
            try:
                far = socket.create_connection(self._target, LIMIT)
            except OSError:
                near.close()  # nobody there: to the client it is a link that ends at once
                continue
            far.settimeout(None)
            left = threading.Semaphore(0)
            with self._lock:
                self._sockets |= {near, far}
            for source, target, passed in (
                (near, far, self.sent),
                (far, near, self.received),
            ):
                target.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                waiting: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
                self._spawn(self._read, source, waiting, passed)
                self._spawn(self._write, target, waiting, lit, left)
            self._spawn(self._close, near, far, left)

    def _read(self, source, waiting, passed) -> None:
        data = b"-"
        while data:
            try:
                data = source.recv(65536)
            except OSError:
                data = b""
            passed.append(len(data))
            waiting.put((time.monotonic() + self.delay, data))

    def _write(self, target, waiting, lit, left) -> None:
        with contextlib.suppress(OSError):
            while True:
                due, data = waiting.get()
                time.sleep(max(0.0, due - time.monotonic()))
                lit.wait()
                if not data:
                    target.shutdown(socket.SHUT_WR)
                    break
                size = _PIECE if self.rate else len(data)
                for at in range(0, len(data), size):
                    target.sendall(data[at : at + size])
                    if self.rate:
                        time.sleep(size / self.rate)
        left.release()

    def _close(self, near, far, left) -> None:
        left.acquire()
        left.acquire()
        with self._lock:
            self._sockets -= {near, far}
        near.close()
        far.close()
