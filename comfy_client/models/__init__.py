"""Answers of the server as frozen values, named after the same nouns as the routes.

``files``, ``history``, ``jobs``, ``models``, ``nodes``, ``prompts``, ``queue``, ``system``,
``users``
    The classes; ``_base`` builds them from JSON.

Fields that this library does not know stay in ``raw``; a value that the server did not send is
``None``.  The modules are imported when their names are first used: few scripts need many.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..events import LogEntry
    from .files import UploadedImage
    from .history import HistoryEntry, HistoryStatus
    from .jobs import JobInfo, JobPage
    from .models import ModelFile, ModelFolder
    from .nodes import GlobalSubgraph, NodeDef, NodeReplacement, SamplerInfo, combo_options
    from .prompts import QueuedPrompt, QueueStatus
    from .queue import Queue, QueueItem
    from .system import Device, Features, PingResult, RawLogs, SystemStats
    from .users import UserConfig, UserDataEntry, UserDataInfo

__all__ = [
    "Device",
    "Features",
    "GlobalSubgraph",
    "HistoryEntry",
    "HistoryStatus",
    "JobInfo",
    "JobPage",
    "LogEntry",
    "ModelFile",
    "ModelFolder",
    "NodeDef",
    "NodeReplacement",
    "PingResult",
    "Queue",
    "QueueItem",
    "QueueStatus",
    "QueuedPrompt",
    "RawLogs",
    "SamplerInfo",
    "SystemStats",
    "UploadedImage",
    "UserConfig",
    "UserDataEntry",
    "UserDataInfo",
    "combo_options",
]

#: What most scripts want comes first.
_MODULES = ("prompts", "queue", "history", "system", "nodes", "files", "jobs", "models", "users")


if not TYPE_CHECKING:  # or any name would pass a type checker

    def __getattr__(name: str) -> Any:
        if name in __all__:
            for module in _MODULES:
                found = vars(import_module(f".{module}", __name__))
                if name in found:
                    globals()[name] = found[name]
                    return found[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
