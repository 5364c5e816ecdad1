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
        listener = _listen(self.host, self.number if again or self.is_reserved else self._wanted)
        self.release()
        self.number = listener.getsockname()[1]
        return listener

    def reserve(self) -> None:
        """Make the socket that, once bound, reserves the port while connections are refused."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        reserved = socket.socket(family, socket.SOCK_STREAM)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reserved = reserved

    def refuse(self) -> None:
        """Bind a reserved port, which then refuses connections; nothing may listen there."""
        if self._reserved is not None and not self._reserved.getsockname()[1]:
            self._reserved.bind((self.host, self.number))

    def release(self) -> None:
        """Give up a reserved port; the next :meth:`listen` uses the port first asked for."""
        reserved, self._reserved = self._reserved, None
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
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as exc:
        text = f"cannot listen on {host}:{port}: {exc.strerror or exc}"
        raise OSError(exc.errno, text) from exc
