"""Answers of the server as frozen values, named after the same nouns as the routes.

Fields that this library does not know stay in ``raw``; a value that the server did not send is
``None``.  Each module is imported when one of its names is first used: few scripts need many.
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
    from .queue import Queue, QueuedPrompt, QueueItem, QueueStatus
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

_MODULES = {
    "files": "UploadedImage",
    "history": "HistoryEntry HistoryStatus",
    "jobs": "JobInfo JobPage",
    "models": "ModelFile ModelFolder",
    "nodes": "GlobalSubgraph NodeDef NodeReplacement SamplerInfo combo_options",
    "queue": "Queue QueuedPrompt QueueItem QueueStatus",
    "system": "Device Features LogEntry PingResult RawLogs SystemStats",
    "users": "UserConfig UserDataEntry UserDataInfo",
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f".{module}", __name__), name)
    return found


def __dir__() -> list[str]:
    return __all__
