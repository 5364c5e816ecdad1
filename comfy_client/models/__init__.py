"""Immutable classes for the server's answers, in modules named after their subjects.

Fields that this library does not know stay in ``raw``; a value that the server did not send is
``None``.  The modules are imported when their names are first used: few scripts need many.

Modules:
    prompts: The receipt of a prompt, and the number of prompts.
    queue: Prompts that wait or run.
    history: Prompts that have ended.
    jobs: Jobs of the jobs API.
    nodes: Node classes.
    files: Uploaded files, and files of models.
    users: Users and their files.
    system: The server itself.
    packs: Node packs, as ComfyUI-Manager tells of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..events import LogEntry
    from .files import ModelFile, ModelFolder, UploadedImage
    from .history import Histories, HistoryEntry, HistoryStatus
    from .jobs import JobInfo, JobPage
    from .nodes import (
        GlobalSubgraph,
        NodeDef,
        NodeDefs,
        NodeReplacement,
        SamplerInfo,
        combo_options,
    )
    from .packs import ComfyUIVersions, ImportFailure, InstalledPack, KnownModel, KnownPack
    from .prompts import QueuedPrompt, QueueStatus
    from .queue import Queue, QueueItem
    from .system import Device, Features, MonitoredGpu, PingResult, RawLogs, SystemStats
    from .users import UserConfig, UserDataEntry, UserDataInfo

__all__ = [
    "ComfyUIVersions",
    "Device",
    "Features",
    "GlobalSubgraph",
    "Histories",
    "HistoryEntry",
    "HistoryStatus",
    "ImportFailure",
    "InstalledPack",
    "JobInfo",
    "JobPage",
    "KnownModel",
    "KnownPack",
    "LogEntry",
    "ModelFile",
    "ModelFolder",
    "MonitoredGpu",
    "NodeDef",
    "NodeDefs",
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

#: The modules that most scripts need come first.
_MODULES = ("prompts", "queue", "history", "system", "nodes", "files", "jobs", "users", "packs")


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
