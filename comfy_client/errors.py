"""All errors of comfy_client, and its warning; the import of libraries that may be missing.

There are two families with different remedies: a :class:`TransportError` means that no usable
answer came, an :class:`ApiError` that the server refused.  A :class:`JobError` is about one prompt.
Wrong arguments raise ``TypeError`` or ``ValueError``, a missing local file ``FileNotFoundError``,
as everywhere in Python.  All errors can be pickled, and none carries a credential.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Final, Self

from .to_dict import AsDict, code_of
from .tracebacks import rendered

#: Characters that control a terminal, or change the direction of text.
_OBEYED: Final = (  # compiled on first use
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    """Return a text, which may quote a server, with its control characters escaped."""
    if text.isascii() and text.isprintable():
        return text
    return re.sub(_OBEYED, lambda found: ascii(found[0])[1:-1], text.replace("\r\n", "\n"))


def is_for_another(status: int) -> bool:
    """Return whether a status is a proxy's report that the server behind it is away."""
    return status in (502, 503, 504) or 520 <= status <= 527


class ComfyError(AsDict, Exception):
    """The base class of all errors of this library.

    Messages are safe to print in a terminal.

    Attributes:
        rows: The rows that had ended, as a :class:`Sweep`, if the error ended a sweep; else empty.
        retryable: Whether the same call, unchanged, will probably succeed later, and does no harm.
            False if a prompt may be in the queue or run, which the call would submit once more.
    """

    _in_dict: ClassVar[tuple[str, ...]] = ("code", "message", "hint", "retryable")
    _not_in_dict: ClassVar[tuple[str, ...]] = ("rows", "body")
    _hint: str | None = None

    rows: Sequence[Any] = ()
    retryable: bool = False

    def __init__(self, message: str = "") -> None:
        super().__init__(printable(message))

    @property
    def code(self) -> str:
        """The name of the class in snake_case, such as ``"job_failed"``.

        Codes are stable: programs may compare them.  A subclass of yours keeps the code.
        """
        ours: Any = next(kind for kind in type(self).__mro__ if kind.__module__ == __name__)
        return code_of(ours)

    @property
    def message(self) -> str:
        """The same as ``str(error)``."""
        return str(self)

    @property
    def hint(self) -> str | None:
        """Advice on the error in one sentence, or None."""
        return self._hint

    def _render_traceback_(self) -> list[str]:
        """Return the traceback for IPython: the user's own lines, and the message."""
        return rendered(self)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by message and attributes, whatever the signature of ``__init__``."""
        return _rebuild, (type(self), str(self), self.__dict__.copy())

    def __copy__(self) -> Self:
        """Return a copy without a traceback, even where Dask pickles exceptions with theirs."""
        rebuild, parts = self.__reduce__()[:2]
        copied: Self = rebuild(*parts)
        return copied


def _rebuild(cls: type[ComfyError], message: str, attributes: dict[str, Any]) -> ComfyError:
    error = cls.__new__(cls, message)
    Exception.__init__(error, message)
    for name, value in attributes.items():
        setattr(error, name, value)
    return error


class _AboutAnswer(ComfyError):
    """The base class of errors about an answer: its ``method``, ``path``, ``status``, ``body``."""

    method: str
    path: str
    status: int
    body: Any

    def __init__(
        self, message: str, *, method: str = "", path: str = "", status: int = 0, body: Any = None
    ) -> None:
        super().__init__(message)
        self.method = method
        self.path = path
        self.status = status
        self.body = body


# -- no usable answer -------------------------------------------------------------------


class TransportError(ComfyError):
    """The request got no usable answer; the server may or may not have acted."""

    _hint = "Call again; api.doctor() examines the connection."
    retryable = True


class ServerUnreachable(TransportError):
    """The server cannot be reached: check the host, start the server, correct TLS or the proxy.

    It is not ``retryable`` if waiting does not help (unknown host, TLS).

    Attributes:
        refused: Whether its machine refused the connection: nothing listens on the port.
    """

    refused: bool = False

    def __init__(self, message: str, *, retryable: bool = True, refused: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable
        self.refused = refused

    @property
    def hint(self) -> str:
        """Advice on the error, in one sentence."""
        first = "Start the server, or check" if self.retryable else "Check"
        return f"{first} the host, TLS and the proxy; api.doctor() says what is wrong."


class RequestTimeout(TransportError, TimeoutError):
    """The server was reached, but no complete answer came in time."""

    _hint = "Raise the timeout, or call again when the server is less busy."


class SubmitUncertain(TransportError):
    """``POST /prompt`` got no answer, and the prompt was not found: the server may have it or not.

    Look for it in the queue and the history before you submit again.

    Attributes:
        prompt_id: The id of the prompt that may have been submitted.
    """

    prompt_id: str
    _hint = "Look for the prompt with api.job(prompt_id) before you submit it again."
    retryable = False

    def __init__(self, message: str, *, prompt_id: str) -> None:
        super().__init__(message)
        self.prompt_id = prompt_id


# -- refusals ---------------------------------------------------------------------------


class ApiError(_AboutAnswer):
    """The server refused a request.

    Attributes:
        method: The method of the request; empty: none was sent.
        path: The path of the request; empty: none was sent.
        status: The HTTP status of the answer; 0: no request was sent.
        body: The JSON of the answer, or the beginning of its text; ``None``: empty.
        reason: The server's own code of the error, such as ``"idempotency_key_reuse"`` of Comfy API
            v2; ``None``: it gave none.
    """

    reason: str | None

    def __init__(
        self,
        message: str,
        *,
        method: str = "",
        path: str = "",
        status: int = 0,
        body: Any = None,
        reason: str | None = None,
    ) -> None:
        super().__init__(message, method=method, path=path, status=status, body=body)
        self.reason = reason
        may_have_acted = self.method == "POST" and self.path.endswith("/prompt")
        is_late = self.status == 408 or is_for_another(self.status)
        self.retryable: bool = self.status in (425, 429) or (is_late and not may_have_acted)

    @property
    def hint(self) -> str | None:
        """Advice on the error in one sentence, or None."""
        return "Call again later: the server is busy or away." if self.retryable else self._hint


class AuthenticationError(ApiError):
    """401 or 403: the message says which one, and what the server usually means by it.

    With ``status`` 0, no request was sent, as there were no credentials: a variable is not set, or
    a callable failed.
    """

    _hint = "Check the credentials; after a 403, check the headers Origin and Host as well."


class NotFound(ApiError):
    """404: the server has the route, but not what you asked for."""

    _hint = "Check the name: the server does not have it, or no longer."


class NotSupported(ApiError):
    """404 on GET, else 405: this server is too old for the route, or is not a ComfyUI.

    The message says since which ComfyUI the route exists.  With ``status`` 0, the server lacks
    something else: it would stop another prompt (``cancel``), has no VRAM (``wait_for_vram``), or
    lacks a node pack (``ext``).
    """

    _hint = "Check the path and the method.  An older server lacks newer routes: then update it."

    @property
    def hint(self) -> str | None:
        """Advice; None with ``status`` 0, as the message says what the server lacks."""
        return self._hint if self.status else None


class Conflict(ApiError):
    """409: a file of that name exists already.

    Some servers would overwrite it; the client checks before it writes.
    """

    _hint = "Choose another name, or pass overwrite=True."


class UploadTooLarge(ApiError):
    """413: the body is larger than the server, or a proxy in front of it, accepts.

    Attributes:
        size: How many bytes were sent; ``None``: unknown.
        limit: How many bytes are allowed; ``None``: unknown.
    """

    size: int | None
    limit: int | None
    _hint = "Send a smaller file, or raise the limit of the server or of the proxy."

    def __init__(
        self, message: str, *, size: int | None = None, limit: int | None = None, **kw: Any
    ) -> None:
        super().__init__(message, **kw)
        self.size = size
        self.limit = limit


class PaymentRequired(ApiError):
    """402: the account of a hosted ComfyUI has too few credits; nothing was queued.

    Add credits to the account, or use another key; the same call fails until then.
    """

    _hint = "Add credits to the account, or use the key of another one."


class Throttled(ApiError):
    """429: the server takes no more requests, jobs or event streams at the moment.

    Nothing was queued, so the same call is safe: make it again after ``retry_after`` seconds.  The
    calls that run workflows do so themselves, as long as they have time.

    Attributes:
        retry_after: Seconds to wait, as the server says; ``None``: it does not say.
    """

    retry_after: float | None
    retryable: bool = True

    def __init__(self, message: str, *, retry_after: float | None = None, **kw: Any) -> None:
        super().__init__(message, **kw)
        self.retry_after = retry_after
        self.retryable = True

    @property
    def hint(self) -> str:
        """Advice on the error, in one sentence."""
        if self.retry_after is None:
            return "Call again later: the server has too much to do."
        return f"Call again in {self.retry_after:g} s, as the server says."


class PromptRejected(ApiError):
    """The workflow did not pass the server's validation: ``POST /prompt`` answered 400.

    Servers before May 2024 answer 500 to an unknown class.  With ``strict``, this error is also
    raised for an accepted prompt (200) with some invalid outputs.  The message explains ``error``
    and ``node_errors`` in words.

    Attributes:
        error: The server's summary: ``type``, ``message``, ``details``; empty: there is none.
        node_errors: What is wrong with each node, by node id; empty: no node is to blame.
        problems: The problems in the message, each a ``Problem`` as from :meth:`Workflow.check`.
    """

    error: dict[str, Any]
    node_errors: dict[str, Any]
    problems: tuple[Any, ...]
    _hint = "Correct the workflow: the message and problems say what is wrong."

    def __init__(
        self,
        message: str,
        *,
        error: Mapping[str, Any] | None = None,
        node_errors: Mapping[str, Any] | None = None,
        problems: tuple[Any, ...] = (),
        **kw: Any,
    ) -> None:
        super().__init__(message, **kw)
        self.problems = problems
        self.error = dict(error or {})
        self.node_errors = dict(node_errors or {})


class UnexpectedResponse(_AboutAnswer):
    """An answer that is not ComfyUI's: a login page, a redirect, another program, or too large.

    Attributes:
        method: The method of the request; empty: unknown.
        path: The path of the request; empty: unknown.
        status: The HTTP status of the answer; 0: unknown.
        body: The beginning of the answer's text; ``None``: unknown.
    """

    _hint = "Check the host: a login page, a proxy or another program may have answered."


# -- about one prompt -------------------------------------------------------------------


class JobError(ComfyError):
    """The base class of all errors about one prompt.

    Attributes:
        prompt_id: The id of the prompt.
    """

    prompt_id: str

    def __init__(self, message: str, *, prompt_id: str) -> None:
        super().__init__(message)
        self.prompt_id = prompt_id


#: Classes of out-of-memory exceptions: of torch, Python, NumPy, Comfy Cloud.
_OUT_OF_MEMORY: Final = frozenset(
    {"OutOfMemoryError", "OOM_EXCEPTION", "MemoryError", "_ArrayMemoryError", "OOMError"}
)
#: Messages of a plain RuntimeError from CUDA, HIP, MPS, XPU, the CPU, DirectML and cuBLAS.
_SAY_OUT_OF_MEMORY: Final = (
    *("out of memory", "out_of_memory", "out_of_device_memory", "out_of_host_memory"),
    *("allocation on device", "not enough memory", "not enough gpu video memory", "_alloc_failed"),
)


class JobFailed(JobError):
    """A node raised an exception on the server.

    Attributes:
        node_id: The id of the node; ``None``: unknown.
        title: The title of the node; ``None``: unknown.
        class_type: The class of the node; ``None``: unknown.
        exception_type: The class of the exception, such as ``"ValueError"``; ``None``: unknown.
        exception_message: The message of the exception; ``None``: unknown.
        traceback: The traceback as text, with paths of the server.
        inputs: The inputs of the node in the workflow.
    """

    _in_dict = ("is_oom",)

    node_id: str | None
    title: str | None
    class_type: str | None
    exception_type: str | None
    exception_message: str | None
    traceback: str
    inputs: dict[str, Any]

    def __init__(
        self,
        message: str,
        *,
        prompt_id: str,
        node_id: str | None = None,
        title: str | None = None,
        class_type: str | None = None,
        exception_type: str | None = None,
        exception_message: str | None = None,
        traceback: str = "",
        inputs: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message, prompt_id=prompt_id)
        self.node_id = node_id
        self.title = title
        self.class_type = class_type
        self.exception_type = exception_type
        self.exception_message = exception_message
        self.traceback = traceback
        self.inputs = dict(inputs or {})

    @property
    def hint(self) -> str:
        """Advice on the error, in one sentence."""
        if self.is_oom:
            return (
                "Make a smaller picture; on a ComfyUI of your own, "
                "api.free_memory(unload_models=True) may help, too."
            )
        return "The server works, but a node raised an error: see exception_message and traceback."

    @property
    def is_oom(self) -> bool:
        """Whether the node ran out of memory: use a smaller image, or free memory."""
        kind = (self.exception_type or "").rpartition(".")[2]
        text = (self.exception_message or "").lower()
        return kind in _OUT_OF_MEMORY or any(words in text for words in _SAY_OUT_OF_MEMORY)


class JobInterrupted(JobError):
    """Someone stopped the prompt while it ran, or this client cancelled it while pending.

    Attributes:
        node_id: The id of the node that was running; ``None``: none was.
    """

    node_id: str | None

    def __init__(self, message: str, *, prompt_id: str, node_id: str | None = None) -> None:
        super().__init__(message, prompt_id=prompt_id)
        self.node_id = node_id


_POOLS: Final = (
    "A pool made with on_lost='retry' runs it again; map(..., on_error='keep') goes on without it."
)


class JobLost(JobError):
    """The queue and the history lack the prompt: it was deleted, or the server was restarted.

    Not ``retryable`` if a pool's server has not answered for too long, as it may have run the
    prompt, or may still run it.
    """

    retryable: bool = True

    def __init__(self, message: str, *, prompt_id: str, retryable: bool = True) -> None:
        super().__init__(message, prompt_id=prompt_id)
        self.retryable = retryable

    @property
    def hint(self) -> str:
        """Advice on the error, in one sentence."""
        if self.retryable:
            first = "Submit it again: the server was restarted, or the prompt was deleted."
        else:
            first = "Look for it when the server is back, before you submit it again."
        return f"{first} {_POOLS}"


class JobNotFound(JobError):
    """``api.job(prompt_id, must_exist=True)`` found no such prompt, in neither queue nor history.

    History is lost when a server restarts, and keeps about 10,000 prompts.
    """

    _hint = "Check the id and the host; submit the prompt again if it is still wanted."


class OutputsTooLarge(JobError):
    """The outputs need more memory than the limit; the message says what to do.

    A client has 192 MiB for all its jobs that have not ended, or three times ``max_json`` if that
    is more.  Images of ``SaveImageWebsocket`` and the reports of nodes count; files on the server
    do not.  The prompt keeps running.

    The result of a Dask task has a limit of ``max_bytes`` for files: see
    :func:`comfy_client.distributed.run_workflow`.  In this case, the prompt has run.
    """

    _hint = "Leave files on the server, or raise the limit: the message says how."


class JobTimeout(JobError, TimeoutError):
    """The caller's time ran out, but the prompt keeps running: wait again, or cancel it.

    Only prompts of :meth:`ComfyApi.map` and :meth:`ComfyApi.sweep` are cancelled; the message says
    so.  With several prompts (:meth:`ComfyApi.as_completed`), ``prompt_id`` is that of the first.

    Attributes:
        stalled: True if ``stall_timeout`` ran out, as no news of the prompt came for that long.
        silent_for: Seconds for which the server had not answered, so that the prompt may be lost;
            ``None``: it had answered recently.
    """

    stalled: bool
    silent_for: float | None
    _hint = "Wait again, by job.result() or api.job(prompt_id), or cancel it: it may still run."

    def __init__(
        self,
        message: str,
        *,
        prompt_id: str,
        stalled: bool = False,
        silent_for: float | None = None,
    ) -> None:
        super().__init__(message, prompt_id=prompt_id)
        self.stalled = stalled
        self.silent_for = silent_for


class VramTimeout(ComfyError, TimeoutError):
    """Too little device memory became free in time: see :meth:`ComfyApi.wait_for_vram`.

    Call :meth:`ComfyApi.free_memory`, or wait for the prompts and programs that use it.

    Attributes:
        wanted: How many bytes were wanted.
        free: How many bytes were free at last; ``None``: the server did not answer.
        device: The name of the device; ``None``: as for ``free``.
    """

    wanted: int
    free: int | None
    device: str | None
    _hint = "Call api.free_memory(unload_models=True), or wait until other work frees it."
    retryable = True

    def __init__(
        self, message: str, *, wanted: int, free: int | None = None, device: str | None = None
    ) -> None:
        super().__init__(message)
        self.wanted = wanted
        self.free = free
        self.device = device


# -- local errors -----------------------------------------------------------------------


class ManagerRefused(ComfyError):
    """The Manager's security settings forbid the work: the message says what to set, and where.

    Attributes:
        kind: The work, such as ``"install"`` or ``"fix"``.
        name: The pack or the file; empty: the work is about neither.
    """

    kind: str
    name: str
    _hint = "Change the Manager's settings on the server as the message says, and restart it."

    def __init__(self, message: str, *, kind: str, name: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.name = name


class TaskFailed(ComfyError):
    """The Manager could not do its work, or says that it did and the server shows otherwise.

    Attributes:
        task_id: The id of the task.
        kind: The work, such as ``"install"``.
        name: The pack or the file; empty: the work is about neither.
    """

    task_id: str
    kind: str
    name: str
    _hint = "Read the message and the terminal of the server (api.get_logs())."

    def __init__(self, message: str, *, task_id: str, kind: str, name: str) -> None:
        super().__init__(message)
        self.task_id = task_id
        self.kind = kind
        self.name = name


class TaskTimeout(ComfyError, TimeoutError):
    """The caller's time ran out, but the Manager keeps working: wait again.

    Attributes:
        task_id: The id of the task; ``api.ext.manager.task(task_id)`` finds it again.
    """

    task_id: str
    _hint = "Wait again with task.result(timeout), or find the task by its id later."

    def __init__(self, message: str, *, task_id: str) -> None:
        super().__init__(message)
        self.task_id = task_id


class WorkflowError(ComfyError):
    """The workflow itself is wrong: unknown name, UI format, bad link, NaN.

    Attributes:
        candidates: Names that would have worked, nearest first.
        problems: Each a ``Problem``, if a check found them (:meth:`CheckReport.raise_for_errors`,
            ``run(check=True)``); else empty.
    """

    candidates: tuple[str, ...]
    problems: tuple[Any, ...]

    def __init__(
        self, message: str, *, candidates: tuple[str, ...] = (), problems: tuple[Any, ...] = ()
    ) -> None:
        super().__init__(message)
        self.candidates = candidates
        self.problems = problems

    @property
    def hint(self) -> str | None:
        """Advice in one sentence; None if the message says it all."""
        if len(self.problems) > 1:
            return "Correct the workflow: problems lists all that is wrong."
        if not self.candidates:
            return None
        names = [printable(reprlib.repr(one)) for one in self.candidates[:3]]
        if len(names) == 1:
            return f"Did you mean {names[0]}?"
        return f"Names that work: {', '.join(names)}."


class ConversionWarning(AsDict, UserWarning):
    """Part of a workflow in UI format that only the frontend can handle, or that does not fit.

    Attributes:
        kind: ``"not_installed"`` (the server lacks the class), ``"browser"`` (the frontend or an
            extension does it in the browser), ``"value"``, ``"link"`` or ``"dynamic_prompt"``.
        node_id: The id of the node in the graph; ``None``: it is about the whole workflow.
        class_type: The class of the node; ``None``: as for ``node_id``.
        title: The title of the node; ``None``: as for ``node_id``.
        input: The name of the input; ``None``: it is about no particular input.
    """

    _in_dict: ClassVar[tuple[str, ...]] = ("message",)

    kind: str
    node_id: str | None
    class_type: str | None
    title: str | None
    input: str | None

    def __init__(
        self,
        message: str,
        *,
        kind: str = "",
        node_id: str | None = None,
        class_type: str | None = None,
        title: str | None = None,
        input: str | None = None,
    ) -> None:
        super().__init__(printable(message))
        self.kind = kind
        self.node_id = node_id
        self.class_type = class_type
        self.title = title
        self.input = input

    @property
    def message(self) -> str:
        """The same as ``str(warning)``."""
        return str(self)


class MissingExtra(ComfyError, ImportError):
    """An optional library is not installed; the message says how to install it.

    Attributes:
        extra: The extra of this package that installs it, such as ``"image"``; empty: none does.
        name: The module that could not be imported; ``None``: unknown.
    """

    extra: str
    name: str | None

    def __init__(self, message: str, *, extra: str, name: str | None = None) -> None:
        super().__init__(message)
        self.extra = extra
        self.name = name

    @property
    def hint(self) -> str | None:
        """Advice in one sentence; None if the message says it all."""
        return f'Run: pip install "comfy-client-blocking[{self.extra}]"' if self.extra else None

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the error with the attributes of ImportError, too."""
        return _rebuild, (type(self), str(self), {**self.__dict__, "name": self.name})


class NoComfyPlugin(ComfyError, RuntimeError):
    """A Dask worker has no ComfyUI: ``client.register_plugin(ComfyPlugin(hosts))``.

    A scheduler that is started again has forgotten the plugin.  Or the plugin found no server for
    the worker, as the message says.  Nothing was sent.
    """

    _hint = "Register a ComfyPlugin with the Dask client, and submit the task again."


class ClientClosed(ComfyError):
    """The client was used after ``close()``: make a new ``ComfyApi``.

    Results can still be shown and saved: each file comes over a connection of its own then.
    """

    _hint = "Make a new client; results can still be shown and saved."

    def __init__(
        self,
        message: str = "this ComfyApi is closed; make a new one (its results can still be saved)",
    ) -> None:
        super().__init__(message)


@contextmanager
def needs_extra(extra: str, what: str) -> Iterator[None]:
    """Context manager: turn a failing import into :class:`MissingExtra`.

    ::

        with needs_extra("image", "a Pillow image"):
            from PIL import Image

    Args:
        extra: The name of the extra in ``setup.cfg``, without brackets.
        what: The feature that needs it, with which the message begins: ``"result.grid()"``.
    """
    try:
        yield
    except ImportError as exc:
        raise MissingExtra(
            f"{what} needs {exc.name or 'a library'}, of the extra [{extra}]: "
            f'pip install "comfy-client-blocking[{extra}]" ({exc})',
            extra=extra,
            name=exc.name,
        ) from exc
