"""A blocking client for ComfyUI: scripts and notebooks, callbacks, typed answers and errors.

::

    from comfy_client import ComfyApi, Workflow

    with ComfyApi("http://127.0.0.1:8188") as api:
        result = api.run(Workflow.load("txt2img.json"))
        result.images[0].save("out/")
"""

from ._version import __version__
from .client import ComfyApi
from .connection import State
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
    PromptRejected,
    RequestTimeout,
    ServerUnreachable,
    SubmitUncertain,
    TransportError,
    UnexpectedResponse,
    UploadTooLarge,
    WorkflowError,
)
from .jobs import Job
from .outputs import NodeOutput, OutputFile, OutputFrame, Result
from .signals import signal
from .workflow import Node, Workflow

__all__ = [
    "ApiError",
    "AuthenticationError",
    "BasicCredentials",
    "BearerCredentials",
    "ClientClosed",
    "ComfyApi",
    "ComfyError",
    "Conflict",
    "Credentials",
    "EnvCredentials",
    "HeaderCredentials",
    "Job",
    "JobError",
    "JobFailed",
    "JobInterrupted",
    "JobLost",
    "JobTimeout",
    "Node",
    "NodeOutput",
    "NotFound",
    "NotSupported",
    "OutputFile",
    "OutputFrame",
    "PromptRejected",
    "QueryCredentials",
    "RequestTimeout",
    "Result",
    "ServerUnreachable",
    "State",
    "SubmitUncertain",
    "TransportError",
    "UnexpectedResponse",
    "UploadTooLarge",
    "Workflow",
    "WorkflowError",
    "__version__",
    "signal",
]
