"""A blocking client for ComfyUI: scripts and notebooks, callbacks, typed answers and errors.

::

    from comfy_client import ComfyApi, Workflow

    with ComfyApi("http://127.0.0.1:8188") as api:
        result = api.run(Workflow.load("txt2img.json"))
        result.images[0].save("out/")

The guide is in the folder ``guide`` of this package; ``start.rst`` is its first page.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__
from .client import ComfyApi
from .credentials import (
    BasicCredentials,
    BearerCredentials,
    Credentials,
    EnvCredentials,
    HeaderCredentials,
    QueryCredentials,
)
from .errors import (
    ApiError,
    AuthenticationError,
    ClientClosed,
    ComfyError,
    Conflict,
    JobError,
    JobFailed,
    JobInterrupted,
    JobLost,
    JobTimeout,
    NotFound,
    NotSupported,
    OutputsTooLarge,
    PromptRejected,
    RequestTimeout,
    ServerUnreachable,
    SubmitUncertain,
    TransportError,
    UnexpectedResponse,
    UploadTooLarge,
    WorkflowError,
)
from .events import (
    ConnectionEvent,
    EndEvent,
    ErrorEvent,
    Event,
    Executed,
    Executing,
    ExecutionCached,
    ExecutionError,
    ExecutionInterrupted,
    ExecutionStart,
    ExecutionSuccess,
    FeatureFlags,
    JobEvent,
    JobLostEvent,
    LogEntry,
    LogsEvent,
    NodeProgress,
    NotificationEvent,
    PreviewEvent,
    Progress,
    ProgressState,
    ProgressText,
    StatusEvent,
    TerminalEvent,
    UnknownEvent,
)
from .jobs.describe import JobProgress
from .jobs.job import Job
from .jobs.result import NodeOutput, Output, OutputFile, OutputFrame, Result
from .routes.prompts import PromptOptions
from .signals import signal
from .timing import Timing
from .transport.websocket import State
from .workflow import Node, Workflow

if TYPE_CHECKING:
    from .batch.sweep import Sweep, SweepRow
    from .doctor.report import DoctorCheck, DoctorReport

__all__ = [
    "ApiError",
    "AuthenticationError",
    "BasicCredentials",
    "BearerCredentials",
    "ClientClosed",
    "ComfyApi",
    "ComfyError",
    "Conflict",
    "ConnectionEvent",
    "Credentials",
    "DoctorCheck",
    "DoctorReport",
    "EndEvent",
    "EnvCredentials",
    "ErrorEvent",
    "Event",
    "Executed",
    "Executing",
    "ExecutionCached",
    "ExecutionError",
    "ExecutionInterrupted",
    "ExecutionStart",
    "ExecutionSuccess",
    "FeatureFlags",
    "HeaderCredentials",
    "Job",
    "JobError",
    "JobEvent",
    "JobFailed",
    "JobInterrupted",
    "JobLost",
    "JobLostEvent",
    "JobProgress",
    "JobTimeout",
    "LogEntry",
    "LogsEvent",
    "Node",
    "NodeOutput",
    "NodeProgress",
    "NotFound",
    "NotSupported",
    "NotificationEvent",
    "Output",
    "OutputFile",
    "OutputFrame",
    "OutputsTooLarge",
    "PreviewEvent",
    "Progress",
    "ProgressState",
    "ProgressText",
    "PromptOptions",
    "PromptRejected",
    "QueryCredentials",
    "RequestTimeout",
    "Result",
    "ServerUnreachable",
    "State",
    "StatusEvent",
    "SubmitUncertain",
    "Sweep",
    "SweepRow",
    "TerminalEvent",
    "Timing",
    "TransportError",
    "UnexpectedResponse",
    "UnknownEvent",
    "UploadTooLarge",
    "Workflow",
    "WorkflowError",
    "__version__",
    "signal",
]


#: What takes a while to import, and is wanted rarely.
_LATE = {
    "DoctorCheck": ".doctor.report",
    "DoctorReport": ".doctor.report",
    "Sweep": ".batch.sweep",
    "SweepRow": ".batch.sweep",
}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LATE[name], __name__), name)
