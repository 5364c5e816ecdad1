"""Exit statuses of commands, error messages as text or JSON, and advice on errors.

Advice names other commands, with the options for the same server.  Every command that is printed
comes from :func:`line` or :meth:`KnownServer.command`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import Any, ClassVar, Final, NamedTuple

import click

from ..errors import (
    ApiError,
    AuthenticationError,
    ComfyError,
    Conflict,
    JobFailed,
    JobInterrupted,
    JobLost,
    JobNotFound,
    JobTimeout,
    ManagerRefused,
    MissingExtra,
    PromptRejected,
    RequestTimeout,
    SubmitUncertain,
    TaskFailed,
    TaskTimeout,
    TransportError,
    UnexpectedResponse,
    VramTimeout,
    WorkflowError,
)

#: The key of the servers in click's ``meta``, which a command shares with its group.
_KEY: Final = "comfy_client.servers"
#: Words that no shell changes, and the characters that end or escape single quotes.
_PLAIN: Final = re.compile(r"[A-Za-z0-9@+:,./_-]+")
_SPECIAL: Final = re.compile(r"(['\\]+)")
#: Words that neither cmd.exe nor PowerShell changes, and characters that one of them heeds within
#: double quotes.  PowerShell takes curly quotes for straight ones.
_PLAIN_ON_WINDOWS: Final = re.compile(r"[A-Za-z0-9+:._/\\-]+")
_UNSAFE_ON_WINDOWS: Final = re.compile(r'["\u201c-\u201e%$`]')
#: What stands for a word that cannot be written for both.
_LEFT_OUT: Final = "..."


class KnownServer(NamedTuple):
    """A server of a command.

    Attributes:
        options: The options that name it, after a space: `` --host gpu``; empty: none are needed.
        is_hosted: Whether it is a hosted ComfyUI, which lacks some commands.
        takes_partner_key: Whether its nodes may have the key in ``COMFY_API_KEY``.
    """

    options: str = ""
    is_hosted: bool = False
    takes_partner_key: bool = False

    def command(self, name: str, *options: str, id: str | None = None) -> str:
        """Return a command of ``comfy-client`` for this server, as it is typed into a shell.

        ``id`` may be any text of others: it is neither an option nor anything that a shell obeys.
        """
        if id is None or not id.startswith("-"):
            words = [name, *([] if id is None else [id]), *options]
            return line("comfy-client", *words) + self.options
        return f"{line('comfy-client', name, *options)}{self.options} {line('--', id)}"


def line(*words: str, platform: str = sys.platform) -> str:
    """Return words as one line for a shell: sh, bash, zsh or fish; on Windows cmd.exe, PowerShell.

    Backslashes stand in double quotes, since fish reads them in single ones, too.  On Windows,
    ``...`` stands for a word that no quotes protect from both shells.
    """
    return " ".join(map(_quoted_on_windows if platform == "win32" else _quoted, words))


def _quoted_on_windows(word: str) -> str:
    if _PLAIN_ON_WINDOWS.fullmatch(word):
        return word
    if _UNSAFE_ON_WINDOWS.search(word):
        return _LEFT_OUT
    ending = word[len(word.rstrip("\\")) :]  # programs read \" as a quote
    return f'"{word}{ending}"'


def _quoted(word: str) -> str:
    if _PLAIN.fullmatch(word):
        return word
    return "".join(_part(part) for part in filter(None, _SPECIAL.split(word))) or "''"


def _part(part: str) -> str:
    if not _SPECIAL.fullmatch(part):
        return f"'{part}'"
    escaped = part.replace("\\", "\\\\")
    return f'"{escaped}"'


def remember(
    host: str,
    options: Mapping[str, Any],
    *,
    is_hosted: bool,
    takes_partner_key: bool = False,
) -> None:
    """Keep the options that name a server until the command ends.

    ``options`` are values by the names of the options; those without a value are left out.  A
    host is written as the server's URL, and a file that can be read only once as ``FILE``.
    """
    context = click.get_current_context(silent=True)
    if context is None:
        return
    words = []
    for name, value in options.items():
        if value is True:
            words.append(f"--{name}")
        elif value:
            is_read_once = value == "-" or str(value).startswith("/dev/")
            words += [
                f"--{name}",
                host if name == "host" else "FILE" if is_read_once else str(value),
            ]
    text = f" {line(*words)}" if words else ""
    context.meta.setdefault(_KEY, {})[host] = KnownServer(text, is_hosted, takes_partner_key)


def known_server(host: str | None = None) -> KnownServer:
    """Return the server of the command with this URL; None stands for the only one.

    If the command has several servers and none is named, no option helps.
    """
    context = click.get_current_context(silent=True)
    servers: Mapping[str, KnownServer] = {} if context is None else context.meta.get(_KEY, {})
    if host is not None:
        return servers.get(host, KnownServer(f" {line('--host', host)}"))
    if len(servers) == 1:
        return next(iter(servers.values()))
    return KnownServer(is_hosted=any(one.is_hosted for one in servers.values()))


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


class HintedError(click.ClickException):
    """An error with advice.

    Attributes:
        hint: Advice that the message lacks; ``None``: there is none.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class Mistake(HintedError):
    """A mistake in the command line or in a file that it names."""

    exit_code: ClassVar[int] = Exit.USAGE


class Unsaved(HintedError):
    """A prompt has run, but its files could not be saved."""

    exit_code: ClassVar[int] = Exit.ERROR


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


#: The errors of a command that was stopped: by a signal, or by the user at a question.
STOPPED: Final = (KeyboardInterrupt, click.Abort)

#: The first matching class counts.
_STATUS: Final[tuple[tuple[type[BaseException], Exit], ...]] = (
    (AuthenticationError, Exit.UNAUTHORISED),
    (ManagerRefused, Exit.UNAUTHORISED),
    (PromptRejected, Exit.REJECTED),
    (WorkflowError, Exit.REJECTED),
    (JobFailed, Exit.FAILED),
    (TaskFailed, Exit.FAILED),
    (JobLost, Exit.LOST),
    (JobNotFound, Exit.LOST),
    (SubmitUncertain, Exit.LOST),
    (JobInterrupted, Exit.STOPPED),
    *((kind, Exit.STOPPED) for kind in STOPPED),
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
    (r", or by install_git", ""),
    (r"set\(\.\.\., force=True\) replaces the link by a value", "set the input of that node"),
)

#: Advice for Python to wait for a prompt, which names the server if there are several.
_ATTACH: Final = (
    r"(?:(?<=on )(\S+): )?attach to it by api\.job\(('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")\)"
)

#: Advice for Python to install a node pack, whose id or URL has no quotes.
_INSTALL: Final = r"api\.ext\.manager\.install\('([^'\\]+)'\)"


def in_commands(text: str) -> str:
    """Replace advice for Python in a message with advice for the command line."""
    text = re.sub(_ATTACH, _attach, text)
    text = re.sub(
        _INSTALL, lambda found: known_server().command("packs", "install", found[1]), text
    )
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
    if isinstance(error, STOPPED):
        return "stopped by Ctrl-C, SIGTERM or SIGHUP"
    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, JobTimeout):
        from ..jobs.outcomes import keeps_running

        what = "brought no news in time" if error.stalled else "has not ended in time"
        return f"prompt {error.prompt_id} {what}; {keeps_running('it', error.silent_for)}"
    if isinstance(error, ComfyError):
        return in_commands(str(error))  # printable; may have several lines
    return one_line(re.sub(r"^\[Errno -?\d+\] ", "", str(error))) or type(error).__name__


def one_line(text: str) -> str:
    """Put a text on one line, with spaces for control characters."""
    return " ".join(harmless(text).split())


def harmless(text: str) -> str:
    """Replace control characters with spaces."""
    return "".join(c if c.isprintable() else " " for c in text)


#: Advice; the first matching class counts.  Names in braces are those of :func:`_commands`.
_HINTS: Final[tuple[tuple[type[BaseException], str], ...]] = (
    (
        AuthenticationError,
        "--login-file or --token-file, or COMFYUI_LOGIN or COMFYUI_TOKEN in the environment",
    ),
    (PromptRejected, "{check} lists everything that is wrong with a workflow"),
    (JobTimeout, "{wait}; or {cancel}"),
    (TaskTimeout, "{task}"),
    (TaskFailed, "{logs} shows what the server said"),
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


#: Advice for a workflow with node classes of packs that the Manager knows.
_PROVIDE: Final = "{provide} has the server get what a workflow lacks; {check} lists all of it"
#: The names of packs, of which one may be wrong.
_NAMES: Final = "a pack is an id of the registry, or a URL in the Manager's list"


def hint_of(error: BaseException, host: str | None = None) -> str | None:
    """Return advice that an error's message does not contain, or None.

    ``host`` names the server of the error, if the command has several.
    """
    if isinstance(error, HintedError):
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
    if isinstance(error, TaskFailed) and error.kind == "install":
        hint = f"{_NAMES}; {hint}"
    if _can_provide(error):
        hint = _PROVIDE
    if hint is None:
        return error.hint if isinstance(error, ComfyError) else None
    return hint.format(**_commands(server, error))


def _can_provide(error: BaseException) -> bool:
    """Return whether a workflow lacks a node class of a pack that the server's Manager knows."""
    problems = error.problems if isinstance(error, PromptRejected | WorkflowError) else ()
    return any(re.search(_INSTALL, problem.hint or "") for problem in problems)


def _commands(server: KnownServer, error: BaseException) -> dict[str, str]:
    """Return all commands that advice may name, by their names in it."""
    prompt_id, task_id = getattr(error, "prompt_id", ""), getattr(error, "task_id", "")
    plain = ("check", "history", "logs", "queue", "doctor")
    return {
        **{name: server.command(name) for name in plain},
        "provide": server.command("run", "--provide"),
        "job": server.command("job", id=prompt_id),
        "wait": server.command("job", "--wait", id=prompt_id),
        "traceback": server.command("job", "--traceback", id=prompt_id),
        "cancel": server.command("cancel", id=prompt_id),
        "task": server.command("packs", "wait", task_id),
    }


def error_object(error: BaseException, host: str | None = None) -> dict[str, Any]:
    """Return the JSON object for an error: ``code``, ``message``, ``hint``, ``exit`` and more."""
    facts: dict[str, Any]
    facts = error.to_dict() if isinstance(error, ComfyError) else {"code": _code_of(error)}
    for problem in facts.get("problems") or ():
        problem["hint"] = problem["hint"] and in_commands(problem["hint"])
    hint = hint_of(error, host)
    return {**facts, "message": message_of(error), "hint": hint, "exit": int(exit_of(error))}


def _code_of(error: BaseException) -> str:
    match error:
        case Mistake() | click.UsageError():
            return "usage"
        case _ if isinstance(error, STOPPED):
            return "stopped"
        case ModuleNotFoundError():
            return "missing_extra"
        case TimeoutError():
            return "timeout"
        case OSError() | Unsaved():
            return "os_error"
    return "error"
