"""The clients of one worker."""

from __future__ import annotations

import platform
import threading
import uuid
import weakref
from collections.abc import Mapping
from typing import Literal

from ..client import ComfyApi
from ..credentials import AnyCredentials
from ..errors import ClientClosed, ServerUnreachable
from ..transport.http import MAX_JSON
from ..transport.url import parse_host
from .notes import Submitter


class Clients:
    """One client of the worker's own server, and short-lived ones that look for lost prompts.

    Args:
        url: The server.
        credentials: Of each server, by its URL; by an empty text, of any other.
        user: As for :class:`ComfyApi`.
        verify: As for :class:`ComfyApi`.
        max_json: As for :class:`ComfyApi`.

    Attributes:
        url: The server.
        client_id: The id of the worker's own client.
        closed: Whether the worker has ended.
    """

    def __init__(
        self,
        url: str,
        *,
        credentials: Mapping[str, AnyCredentials | None],
        user: str | None,
        verify: bool | str,
        max_json: int = MAX_JSON,
    ) -> None:
        self.url = url
        self.client_id: str = str(uuid.uuid4())
        self.closed: bool = False
        self._credentials = credentials
        self._user = user
        self._verify = verify
        self._max_json = max_json
        self._own: ComfyApi | None = None
        self._others: weakref.WeakSet[ComfyApi] = weakref.WeakSet()
        self._lock = threading.Lock()  # guards these two, and closed

    @property
    def machine(self) -> str:
        """The only machine that reaches the server by its URL; empty: all do."""
        return platform.node() if parse_host(self.url)[0].is_loopback else ""

    def check_open(self) -> None:
        """Raises :class:`ClientClosed` once the worker has ended."""
        if self.closed:
            raise ClientClosed

    def own(self) -> ComfyApi:
        """The client of the worker's own server, which is made when it is first wanted."""
        with self._lock:
            self.check_open()
            if self._own is None:
                self._own = self._make(self.url, self.client_id, "auto")
            return self._own

    def of(self, other: Submitter) -> ComfyApi:
        """A client that finds what the one of another worker has sent; it opens no socket.

        Raises:
            ServerUnreachable: Only the machine of that worker reaches the server.
        """
        if other.machine not in ("", platform.node()):
            raise ServerUnreachable(
                f"{other.url} is a server on {other.machine}, and is asked from there only"
            )
        with self._lock:
            self.check_open()
            api = self._make(other.url, other.client_id, "poll")
            self._others.add(api)
            return api

    def close(self) -> None:
        """Close all of them; who waits with one gets :class:`ClientClosed`."""
        with self._lock:
            self.closed = True
            clients = [*self._others, *([] if self._own is None else [self._own])]
        for api in clients:
            api.close()

    def _make(self, url: str, client_id: str, transport: Literal["auto", "poll"]) -> ComfyApi:
        found = self._credentials
        return ComfyApi(
            url,
            client_id,
            credentials=found.get(url, found.get("")),
            user=self._user,
            verify=self._verify,
            transport=transport,
            max_json=self._max_json,
        )
