"""Exit statuses of commands, and error messages as text or JSON."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import IntEnum
from typing import ClassVar, Final

import click

from ..errors import (
    ApiError,
    AuthenticationError,
    ComfyError,
    JobFailed,
    JobInterrupted,
    JobLost,
    JobNotFound,
    JobTimeout,
    PromptRejected,
    SubmitUncertain,
    TransportError,
    UnexpectedResponse,
    WorkflowError,
)
from .known_servers import known_server


class Exit(IntEnum):
    """The exit statuses of all commands."""

    DONE = 0
    ERROR = 1
    USAGE = 2
    UNREACHABLE = 3
    REJECTED = 4
    FAILED = 5
    LOST = 6
    TIMEOUT = 7
    UNAUTHORISED = 8
    STOPPED = 130
    PIPE = 141


class Mistake(click.ClickException):
    """A mistake in the command line or in a file that it names.

    Attributes:
        hint: Advice that the message lacks; ``None``: there is none.
    """

    exit_code: ClassVar[int] = Exit.USAGE

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class Unsaved(click.ClickException):
    """A prompt has run, but its files could not be saved."""

    exit_code: ClassVar[int] = Exit.ERROR

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class StillRunning(JobTimeout):
    """A timeout of a prompt that keeps running on one of several servers."""

    server: str

    def __init__(self, error: JobTimeout, server: str) -> None:
        super().__init__(
            str(error),
            prompt_id=error.prompt_id,
            stalled=error.stalled,
            silent_for=error.silent_for,
        )
        self.server = server


class SilentExit(click.ClickException):
    """A silent exit with a status: the command has already printed everything."""

    def __init__(self, status: Exit) -> None:
        super().__init__("")
        self.status = status


#: The first matching class counts.
_STATUS: Final[tuple[tuple[type[BaseException], Exit], ...]] = (
    (AuthenticationError, Exit.UNAUTHORISED),
    (PromptRejected, Exit.REJECTED),
    (WorkflowError, Exit.REJECTED),
    (JobFailed, Exit.FAILED),
    (JobLost, Exit.LOST),
    (JobNotFound, Exit.LOST),
    (SubmitUncertain, Exit.LOST),
    (JobInterrupted, Exit.STOPPED),
    (KeyboardInterrupt, Exit.STOPPED),
    (click.Abort, Exit.STOPPED),
    (JobTimeout, Exit.TIMEOUT),
    (TimeoutError, Exit.TIMEOUT),
    (TransportError, Exit.UNREACHABLE),
    (UnexpectedResponse, Exit.UNREACHABLE),
)

#: Patterns of advice for Python, and the advice for the command line that replaces it.
_IN_COMMANDS: Final = (
    (r"; pass credentials=\.\.\.", ""),
    (r"pass api_key=\.\.\., or set COMFY_API_KEY", "give --token-file FILE, or set COMFY_API_KEY"),
    (r"pass base_url=\.\.\., or set COMFY_BASE_URL", "give --host URL, or set COMFY_BASE_URL"),
    (r"with job\(id\)", "with comfy-client job ID"),
    (r"with run\(\) or submit\(\)", "with comfy-client run"),
    (r"with job\.cancel\(\)", "with comfy-client cancel ID"),
    (r"or pass allow_insecure=True", "or give --insecure"),
    (r"pass allow_private_storage=True", "give --private-storage"),
    (r"if it is a ComfyUI itself, use ComfyApi", "if it is a ComfyUI itself, it needs no --hosted"),
    (r"\(HostedApi is the client of Comfy API v2\)", "(one with Comfy API v2 needs --hosted)"),
    (r"max_json=(\d+)", r"--max-json \1"),
    (r"pass verify='ca\.pem'", "pass --ca FILE"),
    (r"or verify=False", "or --insecure"),
    (r"check https, verify= and cert=", "check https and --ca"),
    (r"give user=\.\.\. \(see create_user\)", "give --user ID"),
    (r"the exception has them .* carry on", "with --journal the same command goes on"),
    (r"set\(\.\.\., force=True\) replaces the link by a value", "set the input of that node"),
)

#: Advice for Python to wait for a prompt, which names the server if there are several.
_ATTACH: Final = (
    r"(?:(?<=on )(\S+): )?attach to it by api\.job\(('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")\)"
)


def in_commands(text: str) -> str:
    """Replace advice for Python in a message with advice for the command line."""
    text = re.sub(_ATTACH, _attach, text)
    for pattern, words in _IN_COMMANDS:
        text = re.sub(pattern, words, text)
    return text


def _attach(found: re.Match[str]) -> str:
    host, shown = found.groups()
    where = "" if host is None else f"{host}: "
    prompt_id = re.sub(r"\\(.)", r"\1", shown[1:-1])  # all that the repr of an id escapes
    return where + known_server(host).command("job", "--wait", id=prompt_id)


def exit_of(error: BaseException) -> Exit:
    """Return the exit status for an error."""
    if isinstance(error, SilentExit):
        return error.status
    if isinstance(error, click.ClickException):
        return Exit(error.exit_code)
    if isinstance(error, ApiError) and error.retryable:  # a proxy's 502, or 429
        return Exit.UNREACHABLE
    return next((status for kind, status in _STATUS if isinstance(error, kind)), Exit.ERROR)


def worst(statuses: Iterable[Exit]) -> Exit:
    """Return the highest status, with STOPPED below all other errors; DONE if there are none."""
    return max(
        statuses,
        key=lambda status: 0.5 if status is Exit.STOPPED else float(status),
        default=Exit.DONE,
    )


def message_of(error: BaseException) -> str:
    """Return an error's message without control characters."""
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return "stopped by Ctrl-C, SIGTERM or SIGHUP"
    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, JobTimeout):
        from ..jobs.outcomes import keeps_running

        what = "brought no news in time" if error.stalled else "has not ended in time"
        return f"prompt {error.prompt_id} {what}; {keeps_running('it', error.silent_for)}"
    if isinstance(error, ComfyError):
        return in_commands(str(error))  # printable; may have several lines
    return one_line(re.sub(r"^\[Errno \d+\] ", "", str(error))) or type(error).__name__


def one_line(text: str) -> str:
    """Put a text on one line, with spaces for control characters."""
    return " ".join(harmless(text).split())


def harmless(text: str) -> str:
    """Replace control characters with spaces."""
    return "".join(c if c.isprintable() else " " for c in text)
