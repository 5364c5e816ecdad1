"""The server's routes, in a module for each resource; :class:`Routes` combines them all.

Modules:
    prompts: Submission of prompts.
    queue: The queue.
    history: The history.
    jobs_api: The jobs API of newer servers.
    nodes: Node classes, and what node packs provide.
    models: Files of models.
    files: Uploads and downloads.
    users: Users and their settings.
    userdata: Files that the server keeps for a user.
    system: Versions, memory, logs and folders.
    uploads: Sends a file, unless the server has it already.
    definitions: Keeps node definitions while they are certain to be current; on disk, too.
    class_packs: The node packs that have a node class, for hints.
    refusals: Errors for refused workflows.
    _base: Parts that several of these modules share.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..redaction import sealed, sealed_headers
from ..transport.http import Http, Params
from ..transport.response import Response
from ._base import TrackerHooks
from .files import FileInfo, FileRef, FileRoutes
from .history import HistoryRoutes
from .jobs_api import JobRoutes
from .models import ModelRoutes
from .nodes import NodeRoutes
from .prompts import PromptRoutes
from .queue import QueueRoutes
from .system import SystemRoutes
from .userdata import UserDataRoutes
from .users import UserRoutes

__all__ = [
    "FileInfo",
    "FileRef",
    "FileRoutes",
    "HistoryRoutes",
    "JobRoutes",
    "ModelRoutes",
    "NodeRoutes",
    "PromptRoutes",
    "QueueRoutes",
    "Routes",
    "SystemRoutes",
    "TrackerHooks",
    "UserDataRoutes",
    "UserRoutes",
]


class Routes(
    PromptRoutes,
    QueueRoutes,
    HistoryRoutes,
    JobRoutes,
    NodeRoutes,
    ModelRoutes,
    FileRoutes,
    UserRoutes,
    UserDataRoutes,
    SystemRoutes,
):
    """All routes of one server, over one ``Http``."""

    def __init__(self, http: Http) -> None:
        self._http = http
        self._hooks = TrackerHooks()
        self._sent = {}

    @property
    def host(self) -> str:
        """The server's URL, without credentials."""
        return self._http.address.http_url

    def fetch_api(
        self,
        route: str,
        method: str = "GET",
        *,
        params: Params | None = None,
        json: Any = None,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> Response:
        """Request any route, such as one of a custom node: ``api.fetch_api("/manager/version")``.

        It uses the client's credentials, limits and errors.  The answer has ``json()``, ``text``,
        ``content``, ``status`` and ``headers``.

        Args:
            route: The path, which begins with ``/``, without query.  If the server has ``/api``,
                the path is below it, except ``/internal/...`` and ``/api/...``.
            method: The HTTP method.  If the connection breaks, only ``GET`` and ``HEAD`` are
                repeated.
            params: The query, by name or as pairs; values of ``None`` are left out.  A name with
                several values, as in ``{"tags": ["a", "b"]}``, is repeated.
            json: A body to send as JSON; ``None``: none.
            data: A body as bytes, instead of ``json``.
            headers: Further headers of this request.
            timeout: Seconds for the whole answer; ``None``: the client's.

        Raises:
            ValueError: The route does not begin with ``/``, or ``timeout`` is less than 0.
            ApiError: Any status from 400 on; its subclasses say which.
            UnexpectedResponse: A redirect, a part (206) without a ``Range`` in ``headers``, or an
                answer of more than 1 GiB.
            TransportError: No answer, or not in time.
        """
        json, params = sealed(json), sealed(params)  # sealed, as tracebacks show local variables
        headers = None if headers is None else sealed_headers(headers)
        kw: dict[str, Any] = {} if json is None else {"json": json}
        if not (isinstance(route, str) and route.startswith("/")):
            raise ValueError(f"a route begins with '/': {route!r}")
        return self._http.request(
            method, route, params=params, data=data, headers=headers, timeout=timeout, **kw
        )
