"""The server's routes, one noun a module; :class:`ComfyApi` inherits all groups."""

from __future__ import annotations

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
    "SystemRoutes",
    "UserDataRoutes",
    "UserRoutes",
]
