"""A blocking client for ComfyUI: scripts and notebooks, callbacks, typed answers and errors.

::

    from comfy_client import ComfyApi, Workflow

    with ComfyApi("http://127.0.0.1:8188") as api:
        result = api.run(Workflow.load("txt2img.json"))
        result.images[0].save("out/")

The guide is in the folder ``guide`` of this package; ``start.rst`` is its first page.

Glossary:
    attach: Follow a prompt that was submitted before, by its id (``api.job``).  Events of an
        *attached* prompt may go to another client, or to an older client id of this one; its end
        then comes over HTTP.
    backoff: Growing, random pauses between attempts.
    buffer: The memory for events that wait, and for outputs of unfinished jobs.
    callback: A function that ``api.on`` or ``api.run`` calls with an event; see *receiver*.
    client id: The id by which the server chooses the socket for the events of a prompt.
    combo: An input with a list of choices.
    deadline: The moment at which something is given up; a *timeout* is the seconds until then.
    deaf: Said of a socket that is open but gets no events, as the server sends them elsewhere.
    delivery thread: The thread that calls receivers and callbacks, one after the other.
    embedded server: ``comfy_client.testing.ComfyServer``, a ComfyUI in your own process.
    end event: The one event of each prompt that has ``is_end``.
    event: One message of the server as a typed object, or news of the client's connection.
    event thread: The thread that reads the socket, updates jobs and fills the queues of readers.
        It never waits for a receiver, for a lock that is held for long, or for an answer while
        there is a socket.
    frontend: ComfyUI in the browser.
    generation: The number of a connected socket (also *link*); a prompt is *followed* while the
        socket that was connected at its submission lasts.
    history: The server's records of prompts that have ended.
    job: A submitted prompt as its user sees it: a future of its result.
    journal: The file in which ``sweep`` records its rows.
    lost: Said of a prompt that two checks, some seconds apart, found neither in the queue nor in
        the history.  (``JobLost`` may also mean that a server refuses to tell.)
    mark: The client's id of a prompt in its ``extra_data``, by which it is found if the server
        chose another id.
    node: A step of a workflow, by its id in the graph; its *class* is its type in ComfyUI.
    output: A result of a node: a file on the server, a picture of the socket (frame), a text.
    preview: A small picture of a sampler's unfinished work.
    prompt: A workflow that was submitted, as ComfyUI calls it.
    queue: Prompts that run or wait.
    read timeout: How long a read from the network may wait for data.
    receiver: A function that is connected to a blinker *signal*.
    recovered: Said of an event that was learned over HTTP, since the socket did not deliver it.
    sealed: Said of a secret text whose ``repr`` shows nothing.
    snapshot: The state of the queue at one moment.
    subscription: One reader's queue of events.
    tracked: Said of a prompt that has not ended and whose end the client waits for.
    UI format: A workflow as the *frontend* saves it; *API format* is the server's own.
    workflow: The graph of nodes, in API format unless it says UI format.

Modules:
    client: :class:`ComfyApi`.
    hosted: :class:`HostedApi` and :class:`CloudApi`, for Comfy API v2.
    pool: :class:`ComfyPool`, several servers as one.
    batch: ``map`` and ``sweep``: many prompts.
    jobs: The prompts of a client, from submission to result.
    routes: The server's routes, in a module for each resource.
    models: Immutable classes for the server's answers.
    transport: HTTP and the WebSocket.
    workflow: Load, edit, build, check and convert workflows.
    ext: What node packs add to a server: ``api.ext``.
    doctor: ``api.doctor()``.
    recording: Recordings of traffic, and redaction of secrets.
    showing: Progress bars, and values as HTML.
    distributed: Workflows on a cluster of Dask.
    testing: The embedded server.
    mcp: Workflows as tools for agents.
    cli: The command line.
    aio: Events and results for ``asyncio``.
    connecting: Waits until the server answers and the socket is up.
    parts: The parts of a client that prompts and events need, made when they are first used.
    settings: The arguments of a client, kept for copies and pickles.
    subscriptions: ``on``, ``events`` and ``wait_for``.
    overloads: Overloads of these methods by the event's name.
    signals: Receivers, and the thread that calls them.
    event_queue: Queues of events, one for each reader, and the memory limit for events and outputs.
    events: One class for each event.
    errors: All errors.
    credentials: Basic, bearer and other credentials.
    upload: Files to upload.
    replacing: Replacing and removing of files, as far as Windows lets us.
    reading: Reading of local files by a deadline, and copies of streams.
    pictures: Pictures in memory, encoded as files.
    timing: All times that a client waits.
    log_records: Attributes of log records: the server, and the tags of a prompt.
    stats: Counters of a client.
    values: Checked reading of JSON, and models of it.
    to_dict: Conversion of values to JSON.
    since: The ComfyUI version that introduced each route.
    typescript: Hints for names of the TypeScript client.
    attributes: Errors for attributes that clients, pools and jobs lack.
    nearest: Suggestions for misspelt names.
    interrupts: Calls that the user interrupts, and what must not stay half done then.
    tracebacks: Errors as notebooks show them, without the client's own frames.
    redaction: Text whose ``repr`` shows nothing.
    locks: Locks shared with the user's threads, and bounded waits.
    runtime: Clocks, locks and threads, which tests may replace.
    user_folder: Folders of the user, as for settings.
"""

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from .batch.row import SweepRow
    from .batch.rows import Sweep
    from .client import ComfyApi
    from .credentials import (
        BasicCredentials,
        BearerCredentials,
        Credentials,
        EnvCredentials,
        HeaderCredentials,
        QueryCredentials,
    )
    from .doctor.report import DoctorCheck, DoctorReport
    from .errors import (
        ApiError,
        AuthenticationError,
        ClientClosed,
        ComfyError,
        Conflict,
        ConversionWarning,
        JobError,
        JobFailed,
        JobInterrupted,
        JobLost,
        JobNotFound,
        JobTimeout,
        ManagerRefused,
        MissingExtra,
        NoComfyPlugin,
        NotFound,
        NotSupported,
        OutputsTooLarge,
        PaymentRequired,
        PromptRejected,
        RequestTimeout,
        ServerUnreachable,
        SubmitUncertain,
        TaskFailed,
        TaskTimeout,
        Throttled,
        TransportError,
        UnexpectedResponse,
        UploadTooLarge,
        VramTimeout,
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
        GpuUsage,
        JobEvent,
        JobLostEvent,
        LogEntry,
        LogsEvent,
        MonitorEvent,
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
    from .hosted.api import CloudApi, HostedApi
    from .jobs.describe import JobProgress
    from .jobs.job import Job
    from .jobs.output import Output, OutputFile, OutputFrame
    from .jobs.result import NodeOutput, Result
    from .pool.pool import ComfyPool
    from .pool.pool_state import PoolEvent, PoolStatus, ServerStatus
    from .pool.pooled_job import PooledJob
    from .routes.prompts import PromptOptions
    from .signals import signal as signal
    from .stats import ClientStats
    from .timing import Timing
    from .transport.websocket import State
    from .upload import Upload
    from .workflow import Node, Workflow
    from .workflow.build import Graph, GraphNode, Link
    from .workflow.check import CheckReport
    from .workflow.model_files import MissingModel
    from .workflow.problems import Problem
    from .workflow.settable import SettableInput
    from .workflow.template import Template

#: The modules that define the public names, the most used ones first.  Each is imported when a
#: name is looked up in it.
_MODULES = (
    ".client",
    ".errors",
    ".events",
    ".signals",
    ".jobs.job",
    ".jobs.result",
    ".jobs.output",
    ".jobs.describe",
    ".workflow",
    ".routes.prompts",
    ".timing",
    ".transport.websocket",
    ".credentials",
    ".upload",
    ".stats",
    ".batch.row",
    ".batch.rows",
    ".doctor.report",
    ".workflow.check",
    ".workflow.problems",
    ".workflow.model_files",
    ".workflow.settable",
    ".workflow.template",
    ".workflow.build",
    ".pool.pool",
    ".pool.pool_state",
    ".pool.pooled_job",
    ".hosted.api",
)

#: Not in ``__all__``, as ``import *`` would replace the standard module of this name.
_BY_NAME = ("signal",)

__all__ = [
    "ApiError",
    "AuthenticationError",
    "BasicCredentials",
    "BearerCredentials",
    "CheckReport",
    "ClientClosed",
    "ClientStats",
    "CloudApi",
    "ComfyApi",
    "ComfyError",
    "ComfyPool",
    "Conflict",
    "ConnectionEvent",
    "ConversionWarning",
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
    "GpuUsage",
    "Graph",
    "GraphNode",
    "HeaderCredentials",
    "HostedApi",
    "Job",
    "JobError",
    "JobEvent",
    "JobFailed",
    "JobInterrupted",
    "JobLost",
    "JobLostEvent",
    "JobNotFound",
    "JobProgress",
    "JobTimeout",
    "Link",
    "LogEntry",
    "LogsEvent",
    "ManagerRefused",
    "MissingExtra",
    "MissingModel",
    "MonitorEvent",
    "NoComfyPlugin",
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
    "PaymentRequired",
    "PoolEvent",
    "PoolStatus",
    "PooledJob",
    "PreviewEvent",
    "Problem",
    "Progress",
    "ProgressState",
    "ProgressText",
    "PromptOptions",
    "PromptRejected",
    "QueryCredentials",
    "RequestTimeout",
    "Result",
    "ServerStatus",
    "ServerUnreachable",
    "SettableInput",
    "State",
    "StatusEvent",
    "SubmitUncertain",
    "Sweep",
    "SweepRow",
    "TaskFailed",
    "TaskTimeout",
    "Template",
    "TerminalEvent",
    "Throttled",
    "Timing",
    "TransportError",
    "UnexpectedResponse",
    "UnknownEvent",
    "Upload",
    "UploadTooLarge",
    "VramTimeout",
    "Workflow",
    "WorkflowError",
    "__version__",
]


if not TYPE_CHECKING:  # or any name would pass a type checker

    def __getattr__(name: str) -> Any:
        """Import a public name when it is first used."""
        if name in __all__ or name in _BY_NAME:
            homes = (vars(import_module(home, __name__)) for home in _MODULES)
            globals()[name] = found = next(home[name] for home in homes if name in home)
            return found
        if name.startswith("_"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if find_spec(f"{__name__}.{name}") is not None:
            return import_module(f".{name}", __name__)  # comfy_client.models
        from .typescript import missing_name  # for mistakes only

        raise missing_name(name)


def __dir__() -> list[str]:
    """List all names, including those that are not imported yet."""
    return sorted({*globals(), *__all__, *_BY_NAME})


if "IPython" in sys.modules:
    from .tracebacks import shorten_in_notebook

    shorten_in_notebook()
