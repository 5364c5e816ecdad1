"""Advice on errors for the command line: other commands, with the options for the same server."""

from __future__ import annotations

from typing import Any, Final

import click

from ..errors import (
    AuthenticationError,
    ComfyError,
    Conflict,
    JobFailed,
    JobLost,
    JobNotFound,
    JobTimeout,
    MissingExtra,
    PromptRejected,
    RequestTimeout,
    SubmitUncertain,
    TransportError,
    UnexpectedResponse,
    VramTimeout,
)
from .exits import Mistake, StillRunning, Unsaved, exit_of, message_of
from .known_servers import KnownServer, known_server

#: Advice; the first matching class counts.  Names in braces are those of :func:`_commands`.
_HINTS: Final[tuple[tuple[type[BaseException], str], ...]] = (
    (
        AuthenticationError,
        "--login-file or --token-file, or COMFYUI_LOGIN or COMFYUI_TOKEN in the environment",
    ),
    (PromptRejected, "{check} lists everything that is wrong with a workflow"),
    (JobTimeout, "{wait}; or {cancel}"),
    (JobLost, "run it again: the server was restarted, or the prompt was deleted"),
    (JobNotFound, "{history} lists what the server knows"),
    (JobFailed, "{traceback}; or {logs}"),
    (VramTimeout, "{queue} shows what may use the memory"),
    (SubmitUncertain, "{queue} and history show whether it arrived"),
    (RequestTimeout, "try again when the server is less busy, or raise --request-timeout"),
    (TransportError, "{doctor} finds out why; --host names another server"),
    (UnexpectedResponse, "{doctor} finds out what answers there"),
    (Conflict, "another name, or --overwrite"),
)
#: Other advice on hosted servers, which lack some of these commands.
_ON_HOSTED: Final[tuple[tuple[type[BaseException], str], ...]] = (
    (AuthenticationError, "--token-file with another key, or COMFY_API_KEY in the environment"),
    (
        PromptRejected,
        "comfy-client check --definitions FILE lists everything that is wrong with a workflow",
    ),
    (JobLost, "{job} looks for it again"),
    (JobNotFound, "check the ID, and that this server had the job"),
    (JobFailed, "{traceback}"),
    (SubmitUncertain, "{job} looks for it, by its id and its mark"),
    *_HINTS,
)
_LOST: Final = "when that server is back, {job} says what became of it"
#: The variable with the key of a hosted server.
_HOSTED_KEY: Final = "COMFY_API_KEY"


def hint_of(error: BaseException, host: str | None = None) -> str | None:
    """Return advice that an error's message does not contain, or None.

    ``host`` names the server of the error, if the command has several.
    """
    if isinstance(error, Mistake | Unsaved):
        return error.hint
    if isinstance(error, AuthenticationError) and _HOSTED_KEY in str(error):
        return None  # the message has the advice
    if isinstance(error, MissingExtra):
        return None  # the message has the command
    server = known_server(error.server if isinstance(error, StillRunning) else host)
    if isinstance(error, JobFailed) and error.is_oom:
        advice = "use a smaller picture"
        return advice if server.is_hosted else f"{advice}, or {server.command('free')}"
    hints = _ON_HOSTED if server.is_hosted else _HINTS
    hint = next((hint for kind, hint in hints if isinstance(error, kind)), None)
    if isinstance(error, JobLost) and not (error.retryable or server.is_hosted):
        hint = _LOST
    if hint is None:
        return error.hint if isinstance(error, ComfyError) else None
    return hint.format(**_commands(server, getattr(error, "prompt_id", "")))


def _commands(server: KnownServer, prompt_id: str) -> dict[str, str]:
    """Return all commands that advice may name, by their names in it."""
    plain = ("check", "history", "logs", "queue", "doctor")
    return {
        **{name: server.command(name) for name in plain},
        "job": server.command("job", id=prompt_id),
        "wait": server.command("job", "--wait", id=prompt_id),
        "traceback": server.command("job", "--traceback", id=prompt_id),
        "cancel": server.command("cancel", id=prompt_id),
    }


def error_object(error: BaseException, host: str | None = None) -> dict[str, Any]:
    """Return the JSON object for an error: ``code``, ``message``, ``hint``, ``exit`` and more."""
    facts = error.to_dict() if isinstance(error, ComfyError) else {"code": _code_of(error)}
    hint = hint_of(error, host)
    return {**facts, "message": message_of(error), "hint": hint, "exit": int(exit_of(error))}


def _code_of(error: BaseException) -> str:
    match error:
        case Mistake() | click.UsageError():
            return "usage"
        case KeyboardInterrupt() | click.Abort():
            return "stopped"
        case ModuleNotFoundError():
            return "missing_extra"
        case TimeoutError():
            return "timeout"
        case OSError() | Unsaved():
            return "os_error"
    return "error"
