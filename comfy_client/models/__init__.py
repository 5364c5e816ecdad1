"""Answers of the server as frozen values, named after the same nouns as the routes.

Fields that this library does not know stay in ``raw``; what a server did not say is ``None``.
"""

from __future__ import annotations

from .files import UploadedImage
from .history import HistoryEntry, HistoryStatus
from .jobs import JobInfo, JobPage
from .models import ModelFile, ModelFolder
from .nodes import GlobalSubgraph, NodeDef, SamplerInfo, combo_options
from .queue import Queue, QueuedPrompt, QueueItem, QueueStatus
from .system import Device, Features, LogEntry, PingResult, RawLogs, SystemStats
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
