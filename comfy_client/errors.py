"""Every exception that comfy_client raises on its own account.

Two families with different remedies: a :class:`TransportError` means that no usable
answer came, an :class:`ApiError` means that the server answered "no".  A
:class:`JobError` is about one prompt.  Wrong arguments raise ``TypeError`` or
``ValueError``, a missing local file ``FileNotFoundError``, as everywhere in Python.
All of them can be pickled, and none carries a credential.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

#: Characters that a terminal obeys, or that turn the direction of what stands behind them.
_OBEYED: Final = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    """A text that a terminal shows as it is: a server's words may stand in it."""
    if text.isascii() and text.isprintable():
        return text
    return _OBEYED.sub(lambda found: ascii(found[0])[1:-1], text.replace("\r\n", "\n"))


class ComfyError(Exception):
    """Base of all errors of this library.  No terminal obeys anything in their messages."""

    def __init__(self, message: str = "") -> None:
        super().__init__(printable(message))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by message and attributes, whatever the signature of ``__init__``."""
        return _rebuild, (type(self), str(self), self.__dict__.copy())


def _rebuild(cls: type[ComfyError], message: str, attributes: dict[str, Any]) -> ComfyError:
    error = cls.__new__(cls, message)
    Exception.__init__(error, message)
    error.__dict__.update(attributes)
    return error


class _AboutAnswer(ComfyError):
    """About an answer: ``method``, ``path``, ``status`` and ``body``."""

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
    """No usable answer came; the server may or may not have acted."""


class ServerUnreachable(TransportError):
    """Could not connect: check the host, start the server, mend TLS or the proxy.

    ``retryable`` is false for what will not mend by waiting (unknown name, TLS).
    """

    def __init__(self, message: str, *, retryable: bool = True) -> None:
        super().__init__(message)
        self.retryable = retryable


class RequestTimeout(TransportError, TimeoutError):
    """Connected, but no complete answer came in time."""


class SubmitUncertain(TransportError):
    """``POST /prompt`` got no answer, and looking the prompt up did not tell.

    Look for ``prompt_id`` in the queue and the history before you submit again.
    """

    def __init__(self, message: str, *, prompt_id: str) -> None:
        super().__init__(message)
        self.prompt_id = prompt_id


# -- the server said no -----------------------------------------------------------------


class ApiError(_AboutAnswer):
    """The server refused.  ``method``, ``path``, ``status`` and ``body`` say what and how.

    ``body`` is the decoded JSON, or the first part of the text, or ``None``.
    """


class AuthenticationError(ApiError):
    """401 or 403: the message says which, and what the server usually means by it.

    Without a ``status``: the credentials cannot be had (a variable that is not set, a callable
    that failed), and nothing was asked.
    """


class NotFound(ApiError):
    """404: the server has the route, but not the thing that was asked for."""


class NotSupported(ApiError):
    """404 on GET or 405 otherwise: this server is too old for the route, or it is none.

    The message says which ComfyUI has it.  Without a ``status``: it was not asked, since it
    would do something else (``cancel``).
    """


class Conflict(ApiError):
    """409: a file of that name exists already; a server without that answer was asked first."""


class UploadTooLarge(ApiError):
    """413: the body is larger than the server, or a proxy before it, accepts.

    ``size`` is what was sent and ``limit`` what is allowed, in bytes; ``None``: not known.
    """

    def __init__(
        self, message: str, *, size: int | None = None, limit: int | None = None, **kw: Any
    ) -> None:
        super().__init__(message, **kw)
        self.size = size
        self.limit = limit


class PromptRejected(ApiError):
    """The workflow did not pass the server's validation: ``POST /prompt`` answered 400.

    Also 500 for an unknown class, before May 2024; and 200, of a part of it, with ``strict``.

    ``error`` is the server's summary (``type``, ``message``, ``details``), ``node_errors``
    what is wrong by node id.  The message tells both in words.
    """

    def __init__(
        self,
        message: str,
        *,
        error: Mapping[str, Any] | None = None,
        node_errors: Mapping[str, Any] | None = None,
        **kw: Any,
    ) -> None:
        super().__init__(message, **kw)
        self.error: dict[str, Any] = dict(error or {})
        self.node_errors: dict[str, Any] = dict(node_errors or {})


class UnexpectedResponse(_AboutAnswer):
    """Answered, but not as a ComfyUI does: login page, redirect, wrong port, too big.

    ``method``, ``path``, ``status`` say which request; ``body`` is the start of the text.
    """


# -- about one prompt -------------------------------------------------------------------


class JobError(ComfyError):
    """About one prompt: ``prompt_id``."""

    def __init__(self, message: str, *, prompt_id: str) -> None:
        super().__init__(message)
        self.prompt_id = prompt_id


class JobFailed(JobError):
    """A node raised on the server.

    ``node_id``, ``title`` and ``class_type`` name the node, ``exception_type``,
    ``exception_message`` and ``traceback`` (text, with paths of the server) say what
    happened, ``inputs`` what the workflow gave the node.  ``is_oom``: it ran out of memory.
    """

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
        self.inputs: dict[str, Any] = dict(inputs or {})

    @property
    def is_oom(self) -> bool:
        """Whether the node ran out of memory: use a smaller picture, or free memory."""
        kind = (self.exception_type or "").rpartition(".")[2]
        text = (self.exception_message or "").lower()
        return kind in {"OutOfMemoryError", "OOM_EXCEPTION", "MemoryError"} or (
            "out of memory" in text or "allocation on device" in text
        )


class JobInterrupted(JobError):
    """Someone stopped the prompt while it ran, or we cancelled it while it waited.

    ``node_id``: the node it had reached, if any.
    """

    def __init__(self, message: str, *, prompt_id: str, node_id: str | None = None) -> None:
        super().__init__(message, prompt_id=prompt_id)
        self.node_id = node_id


class JobLost(JobError):
    """In no queue and no history: the server was restarted, or the prompt was deleted."""


class OutputsTooLarge(JobError):
    """It left more than a client keeps in memory of all its jobs that have not ended.

    That is 192 MiB, or three times ``max_json`` if that is more.  Pictures of
    ``SaveImageWebsocket`` count, and what nodes report; files on the server do not.  The
    prompt goes on.
    """


class JobTimeout(JobError, TimeoutError):
    """The caller's time ran out.  The prompt goes on: wait again, or cancel it.

    One of :meth:`ComfyApi.map` or :meth:`ComfyApi.sweep` was cancelled, as the message says.

    ``stalled``: it was ``stall_timeout`` that ran out, since no news of the prompt came.
    """

    def __init__(self, message: str, *, prompt_id: str, stalled: bool = False) -> None:
        super().__init__(message, prompt_id=prompt_id)
        self.stalled = stalled


# -- on our side ------------------------------------------------------------------------


class WorkflowError(ComfyError):
    """The graph in our hands is wrong: unknown name, UI format, bad link, NaN.

    ``candidates`` are names that would have worked, nearest first.
    """

    def __init__(self, message: str, *, candidates: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.candidates = candidates


class ClientClosed(ComfyError):
    """The client was used after ``close()``: make a new ``ComfyApi``.

    Files of a result are fetched through the client that got it: save them before it ends.
    """

    def __init__(
        self,
        message: str = "this ComfyApi is closed; make a new one (and save results before the end)",
    ) -> None:
        super().__init__(message)
