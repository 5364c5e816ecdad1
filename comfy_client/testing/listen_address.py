"""The address of a server, and its port, which stays reserved while the server is down."""

from __future__ import annotations

import socket
import ssl

import attrs


class ReservedPort:
    """A port of a server that starts and stops; it stays the same after a crash."""

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        #: The port that the server listens on, or last listened on; 0 before the first time.
        self.number: int = port
        self._wanted = port
        self._reserved: socket.socket | None = None
        self._is_bound = False

    @property
    def is_reserved(self) -> bool:
        """Whether the port is reserved for the next start, and refuses connections until then."""
        return self._reserved is not None

    def listen(self, *, again: bool = False) -> socket.socket:
        """Return a socket that listens on the port.

        The port is that of the last time if it was reserved, or if ``again`` is true.

        Raises:
            OSError: The address is in use, or does not belong to this machine.
        """
        port = self.number if again or self.is_reserved else self._wanted
        if self._is_bound and _is_exclusive():  # else the port is never free for other programs
            self.release()
            self.reserve()  # in case of an error
        listener = _listen(self.host, port)
        self.release()
        self.number = listener.getsockname()[1]
        return listener

    def reserve(self) -> None:
        """Make the socket that, once bound, reserves the port while connections are refused."""
        self._reserved = _socket(self.host)

    def refuse(self) -> None:
        """Bind a reserved port, which then refuses connections; nothing may listen there."""
        if self._reserved is not None and not self._is_bound:
            self._reserved.bind((self.host, self.number))
            self._is_bound = True

    def release(self) -> None:
        """Give up a reserved port; the next :meth:`listen` uses the port first asked for."""
        reserved, self._reserved, self._is_bound = self._reserved, None, False
        if reserved is not None:
            reserved.close()


@attrs.frozen
class ListenAddress:
    """The address of a server: port, encryption, and the prefix of all paths."""

    port: ReservedPort
    tls: ssl.SSLContext | None = None
    prefix: str = ""

    @property
    def url(self) -> str:
        """The URL of the address, with the prefix."""
        scheme, host = "https" if self.tls else "http", self.port.host
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.port.number}{self.prefix}"


def _listen(host: str, port: int) -> socket.socket:
    listener = _socket(host)
    try:
        if listener.family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((host, port))
        listener.listen(128)
    except BaseException as exc:
        listener.close()
        if not isinstance(exc, OSError):  # such as a port that is no number of one
            raise
        raise OSError(exc.errno, f"cannot listen on {host}:{port}: {exc.strerror or exc}") from exc
    return listener


def _socket(host: str) -> socket.socket:
    """Return a socket that can be bound soon after another one, but not beside one that listens."""
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    option = "SO_EXCLUSIVEADDRUSE" if _is_exclusive() else "SO_REUSEADDR"
    made.setsockopt(socket.SOL_SOCKET, getattr(socket, option), 1)
    return made


def _is_exclusive() -> bool:
    """Return whether the system is Windows, where SO_REUSEADDR would let two programs listen."""
    return hasattr(socket, "SO_EXCLUSIVEADDRUSE")
