"""The server's routes, one noun a module; :class:`Routes` has them all."""

from __future__ import annotations

from ..transport.http import Http
from ._base import RouteGroup
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
    "RouteGroup",
    "Routes",
    "SystemRoutes",
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
