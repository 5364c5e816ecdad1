"""The clients of one Dask worker."""

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
from ..jobs.job import Job
from ..transport.http import MAX_JSON
from ..transport.url import parse_host
from .notes import WorkerServer


class Clients:
    """A worker's clients: one for each server that gets its prompts, and more to find prompts.

    Prompts go to the worker's own server, and to another one only if the own one refuses or fails
    them.

    Args:
        url: The URL of the worker's own server.
        credentials: Credentials by the URL of their server; those for any other server are under an
            empty string.
        user: As for :class:`ComfyApi`.
        verify: As for :class:`ComfyApi`.
        max_json: As for :class:`ComfyApi`.

    Attributes:
        url: The URL of the worker's own server.
        client_id: The id of the worker's own client.
        closed: Whether the worker has ended.
        turns_away: Whether other workers should take the prompts that are not sent yet, as only
            this worker's server is away.
        jobs: The jobs for which tasks of this worker wait, by the key of the task.
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
        self.turns_away: bool = False
        self.jobs: dict[object, Job] = {}
        self._credentials = credentials
        self._user = user
        self._verify = verify
        self._max_json = max_json
        self._submitting: dict[str, ComfyApi] = {}
        self._looking: weakref.WeakSet[ComfyApi] = weakref.WeakSet()
        self._lock = threading.Lock()  # guards the two collections above, and closed

    @property
    def place(self) -> WorkerServer:
        """The worker's own server."""
        return self.place_of(self.url)

    def place_of(self, url: str) -> WorkerServer:
        """Return the server that this machine reaches by a URL."""
        return WorkerServer(url, platform.node() if parse_host(url)[0].is_loopback else "")

    def check_open(self) -> None:
        """Raise :class:`ClientClosed` if the worker has ended."""
        if self.closed:
            raise ClientClosed

    def own(self) -> ComfyApi:
        """Return the client of the worker's own server."""
        return self.at(self.url)

    def at(self, url: str) -> ComfyApi:
        """Return the client that sends prompts to a server, made on first use."""
        with self._lock:
            self.check_open()
            if url not in self._submitting:
                self._submitting[url] = self._make(url, self.id_at(url), "auto")
            return self._submitting[url]

    def id_at(self, url: str) -> str:
        """Return the id of the client that sends prompts to a server."""
        if url == self.url:
            return self.client_id
        return str(uuid.uuid5(uuid.UUID(self.client_id), url))

    def reaches(self, place: WorkerServer) -> bool:
        """Return whether this machine can reach a server."""
        return place.machine in ("", platform.node())

    def looking(self, place: WorkerServer, client_id: str) -> ComfyApi:
        """Make a client that looks for prompts of another worker's client; it opens no socket.

        Raises:
            ServerUnreachable: Only the machine of that worker reaches the server.
        """
        if not self.reaches(place):
            raise ServerUnreachable(
                f"{place.url} is a server on {place.machine}, and is asked from there only"
            )
        with self._lock:
            self.check_open()
            api = self._make(place.url, client_id, "poll")
            self._looking.add(api)
            return api

    def close(self) -> None:
        """Close all clients; calls that wait for a prompt raise :class:`ClientClosed`."""
        with self._lock:
            self.closed = True
            clients = [*self._looking, *self._submitting.values()]
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
