"""Output of commands: results on stdout as text or JSON lines, everything else on stderr.

Files and URLs, too: the options ``--output`` and ``--open``.  Tables are whole in pipes and files,
and as wide as the window on a terminal.
"""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import json
import logging
import os
import shutil
import subprocess
import sys
import time
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

import click

from ..values import is_uuid
from .decorators import Decorator
from .exits import (
    STOPPED,
    Exit,
    HintedError,
    Mistake,
    SilentExit,
    error_object,
    exit_of,
    harmless,
    hint_of,
    in_commands,
    message_of,
)

if TYPE_CHECKING:
    from ..jobs.result import Result

#: The color of each status; other statuses have none.
_COLORS: Final = {
    "succeeded": "green",
    "failed": "red",
    "lost": "red",
    "interrupted": "yellow",
    "gone": "yellow",
    "running": "cyan",
}


def colored(text: str, status: str, word: str | None = None) -> str:
    """Return a text whose first ``word``, by default the status, has the color of the status.

    The text is unchanged if the status has no color, ``NO_COLOR`` is set, or the terminal is dumb.
    """
    color = _COLORS.get(status)
    if color is None or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    word = word or status
    before, found, after = text.partition(word)
    return f"{before}{click.style(found, fg=color)}{after}" if found else text


def say(text: str, status: str = "") -> None:
    """Print one line on stdout, with spaces for control characters, and a status in its color."""
    click.echo(colored(harmless(text).rstrip(), status))


def note(text: str, status: str = "", word: str | None = None) -> None:
    """Print one line for the user on stderr, with a word in the color of a status."""
    click.echo(colored(harmless(text).rstrip(), status, word), err=True)


def emit(found: Any, out: TextIO | None = None) -> None:
    """Print an object as a line of JSON, by default on stdout, and flush it."""
    out = out or sys.stdout
    click.echo(json.dumps(found, default=str), out)
    out.flush()


def report(error: BaseException, as_json: bool, server: str | None = None) -> Exit:
    """Print an error as text on stderr, or as JSON; return its exit status.

    ``server`` names the server of the error, if the command has several; JSON contains it then.
    """
    if isinstance(error, SilentExit):  # everything is printed already
        return error.status
    facts = {} if server is None else {"server": server}
    if as_json and _try_to_emit({**error_object(error, server), **facts}):
        return exit_of(error)
    if isinstance(error, click.UsageError):
        error.show()
    elif not isinstance(error, STOPPED):  # needs no message
        status = "interrupted" if exit_of(error) is Exit.STOPPED else "failed"
        said = message_of(error)
        if server is not None and server.rpartition("//")[2] not in said:
            said = f"{server}: {said}"
        click.echo(colored(f"Error: {_lines(said)}", status, "Error:"), err=True)
        hint = hint_of(error, server)
        if hint:
            note(f"Try: {hint}")  # it may name an id that the server made
    return exit_of(error)


@contextlib.contextmanager
def safe_streams(platform: str = sys.platform) -> Iterator[None]:
    r"""Context manager: no letter and no closed pipe ends a command with an error of its own.

    Letters that the encoding of stdout or stderr lacks are written as ``\u4e2d``.  A pipe that
    nobody reads raises BrokenPipeError on Windows, too.
    """
    with contextlib.ExitStack() as stack:
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if platform == "win32" and _is_file(stream):
                stack.callback(setattr, sys, name, stream)
                stream = _pipe_of(stream)
                setattr(sys, name, stream)
                stack.callback(_close, stream)
            if isinstance(stream, io.TextIOWrapper) and _refuses_letters(stream):
                stack.callback(_set_errors, stream, stream.errors or "strict")
                _set_errors(stream, "backslashreplace")
        yield


class _Pipe(io.FileIO):
    """A pipe of Windows, where writing is "invalid" once nobody reads it."""

    def write(self, data: Any) -> int:
        """Write bytes; raise BrokenPipeError if nobody reads them."""
        try:
            return super().write(data)
        except OSError as exc:
            if exc.errno == errno.EINVAL:
                raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)) from None
            raise


def _is_file(stream: TextIO | None) -> bool:  # None: as in pythonw
    """Return whether a stream is a file or a pipe, and no terminal."""
    try:
        return stream is not None and stream.fileno() >= 0 and not stream.isatty()
    except (AttributeError, OSError, ValueError):  # another object, or a closed stream
        return False


def _pipe_of(stream: TextIO) -> io.TextIOWrapper:
    raw = io.BufferedWriter(_Pipe(stream.fileno(), "wb", closefd=False))
    return io.TextIOWrapper(raw, stream.encoding, stream.errors, line_buffering=True)


def _close(stream: TextIO) -> None:
    with contextlib.suppress(OSError):  # a closed pipe
        stream.close()


def _refuses_letters(stream: io.TextIOWrapper) -> bool:
    is_utf8 = stream.encoding.lower().replace("-", "") == "utf8"
    return stream.errors == "strict" or (stream.errors == "surrogateescape" and not is_utf8)


def _set_errors(stream: io.TextIOWrapper, errors: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # a closed pipe, or a closed stream
        stream.reconfigure(errors=errors)


def end_stdout() -> Exit:
    """Keep Python from writing the rest to a closed pipe; return the status of ``SIGPIPE``."""
    with contextlib.suppress(OSError):  # not a file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return Exit.PIPE


def _try_to_emit(found: Any) -> bool:
    """Print an object as JSON; return False if stdout cannot be written, as on a full disk."""
    try:
        emit(found)
    except BrokenPipeError:
        return True
    except OSError:
        return False
    return True


def _lines(text: str) -> str:
    return "\n".join(filter(None, (harmless(line).strip() for line in text.splitlines())))


#: The logger of the library.
_LOGGER: Final = logging.getLogger("comfy_client")
#: The formats of log lines for ``-v``, and for ``-vv``, which names servers.
_TIMED: Final = logging.Formatter("%(asctime)s.%(msecs)03d %(message)s", "%H:%M:%S")
_WITH_SERVER: Final = logging.Formatter(
    "%(asctime)s.%(msecs)03d %(server)s %(message)s", "%H:%M:%S", defaults={"server": "-"}
)


@contextlib.contextmanager
def plain_logs() -> Iterator[None]:
    """Context manager: print the library's warnings as lines on stderr; see :func:`log_more`."""
    handler, level = _PlainLogs(logging.WARNING), _LOGGER.level
    _LOGGER.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            # Users of --insecure know that.
            warnings.filterwarnings("ignore", "Unverified HTTPS request")
            yield
    finally:
        _LOGGER.removeHandler(handler)
        _LOGGER.setLevel(level)


def log_more(times: int) -> None:
    """Within :func:`plain_logs`, print INFO records, too, or DEBUG records if ``times`` is over 1.

    Elsewhere, or if ``times`` is 0, do nothing.
    """
    handlers = [one for one in _LOGGER.handlers if isinstance(one, _PlainLogs)]
    if times and handlers:
        level, form = (logging.INFO, _TIMED) if times == 1 else (logging.DEBUG, _WITH_SERVER)
        _LOGGER.setLevel(level)
        for handler in handlers:
            handler.setLevel(level)
            handler.setFormatter(form)


class _PlainLogs(logging.Handler):
    """A log handler that prints lines on stderr without control characters."""

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(BrokenPipeError), _above_bars():
            for line in in_commands(self.format(record)).splitlines():
                note(line)


def _above_bars() -> contextlib.AbstractContextManager[None]:
    """Context manager: clear the progress bars of a terminal, and draw them again at the end."""
    tqdm = sys.modules.get("tqdm")
    # Without a bar, leave tqdm's lock alone: the main thread may have been stopped with it.
    if tqdm is None or not getattr(tqdm.tqdm, "_instances", None):
        return contextlib.nullcontext()
    bars: contextlib.AbstractContextManager[None] = tqdm.tqdm.external_write_mode(sys.stderr)
    return bars


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    with contextlib.suppress(BrokenPipeError):
        note(f"Warning: {message}")


def ago(timestamp: float | None) -> str:
    """Format the age of a Unix timestamp, such as ``12 s`` or ``3 min``; ``-`` for None."""
    if timestamp is None:
        return "-"
    passed = max(0.0, time.time() - timestamp)
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if passed >= size:
            return f"{passed / size:.0f} {unit}"
    return f"{passed:.0f} s"


def gib(size: int | None) -> str:
    """Format a number of bytes as ``7.9 GiB``; ``-`` for None."""
    return "-" if size is None else f"{size / 2**30:.1f} GiB"


yes_option: Decorator = click.option("-y", "--yes", is_flag=True, help="Do not ask.")


def confirm(question: str, yes: bool, otherwise: str = "nothing was changed") -> None:
    """Ask a question in a terminal; raise HintedError, which says ``otherwise``, after a no.

    Without a terminal, raise Mistake unless ``--yes`` was given.
    """
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise Mistake(f"without a terminal to ask in, this needs --yes: {question}")
    if not click.confirm(question, err=True):
        raise HintedError(f"the answer was no: {otherwise}")


def command(
    *examples: str, name: str | None = None, settings: Mapping[str, Any] | None = None
) -> Callable[[Callable[..., Any]], click.Command]:
    """Make a function a command, whose help ends with examples.

    ``settings`` are those of its context.
    """
    listed = "\n".join(["\b", "Examples:", *(f"  {line}" for line in examples)])
    return click.command(name, epilog=listed, context_settings=dict(settings or {}))


def group(*examples: str) -> Callable[[Callable[..., Any]], click.Group]:
    """Make a function a group of commands, which also runs without one of them."""
    listed = "\n".join(["\b", "Examples:", *(f"  {line}" for line in examples)])
    return click.group(epilog=listed, invoke_without_command=True)


output_option: Decorator = click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    callback=lambda _ctx, _param, name: None if name in (None, "-") else Path(name),
    help="The file to write.  Default: standard output, as with -.",
)


def write(text: str, output: Path | None, what: str) -> None:
    """Write a text to a file and say so on stderr, or to standard output."""
    if output is None:
        click.echo(text, nl=not text.endswith("\n"))
    else:
        save([text.encode()], output, what)


def save(pieces: Iterable[bytes], output: Path, what: str) -> None:
    """Write a file atomically, and print its path on stderr."""
    from ..transport.local_files import write_atomically

    written = write_atomically(output, pieces, if_exists="overwrite", through=True)
    note(f"{what}: {written}")


def to_stdout(pieces: Iterable[bytes | memoryview]) -> None:
    """Write bytes to standard output as they are."""
    for piece in pieces:
        sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()


def is_terminal() -> bool:
    """Return whether standard output is a terminal."""
    return sys.stdout.isatty()


#: The kinds of files that are opened; others could make this machine run a program.
_OPENED: Final = frozenset({"image", "video", "audio"})

open_option: Decorator = click.option(
    "--open",
    "is_opened",
    is_flag=True,
    help="Open the first picture, video or sound, as saved here or by its URL.",
)


def open_first(result: Result, paths: list[Path]) -> None:
    """Open the first picture, video or sound of a result; print failures on stderr.

    Saved files come before previews.  ``paths`` are the local copies; if empty, a URL is opened.
    """
    targets = map(os.path.abspath, paths) if paths else (item.url for item in result.files)
    shown = [
        (item.type == "temp", target)
        for item, target in zip(result.files, targets, strict=True)
        if item.media in _OPENED and target is not None
    ]
    if shown:
        _open(min(shown, key=lambda one: one[0])[1])  # saved files before previews
    else:
        note("There is no picture, video or sound to open.")


def _open(target: str) -> None:
    if not has_display(os.environ):
        note(f"There is no display here to open {target}")
        return
    try:
        if sys.platform == "win32":
            os.startfile(target)  # noqa: S606  # the desktop's opener
        else:
            _start("open" if sys.platform == "darwin" else "xdg-open", target)
    except OSError as exc:
        note(f"Nothing opens {target}: {exc.strerror}")


def _start(opener: str, target: str) -> None:
    """Start the opener in its own session, so that the end of the command does not end the viewer.

    The viewer gets none of the variables for ComfyUI, as they hold keys and passwords.
    """
    quiet = subprocess.DEVNULL
    kept = {name: value for name, value in os.environ.items() if not name.startswith("COMFY")}
    subprocess.Popen(  # noqa: S603  # no shell, and a file or a URL
        [opener, target], stdin=quiet, stdout=quiet, stderr=quiet, env=kept, start_new_session=True
    )


def has_display(environment: Mapping[str, str], platform: str = sys.platform) -> bool:
    """Return whether the environment looks like a desktop's, and not like an SSH session's."""
    if environment.get("SSH_CONNECTION") or environment.get("SSH_TTY"):
        return False
    if platform in ("darwin", "win32"):
        return True
    return bool(environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY"))


# -- tables -----------------------------------------------------------------------------

#: The characters of a UUID at least, and of a whole one.
_SHORT_ID: Final = 8
_UUID: Final = 36
#: The fewest characters of a column that is cut: ``succeeded`` stays whole.
_FEWEST: Final = 9
#: The mark after an id of this installation; see ``queue``.
_MINE: Final = "*"
_GAP: Final = "  "
_CUT: Final = "..."


def table(rows: Sequence[Sequence[object]], head: Sequence[str], *, is_short: bool = True) -> None:
    """Print rows as aligned columns below a heading; cells below ``STATUS`` are colored.

    On a terminal, UUIDs below ``ID`` are abbreviated if ``is_short``, and the widest columns are
    cut so that no row is broken, the first one last.  If that leaves less than 9 characters of one,
    the last columns are left out.  Ids are neither cut nor left out.
    """
    cells = [[harmless(str(cell)) for cell in row] for row in rows]
    columns = [list(column) for column in zip(head, *cells, strict=True)]
    if is_terminal():
        if is_short:
            columns = [_abbreviated(each) if each[0] == "ID" else each for each in columns]
        columns = _fitting(columns, shutil.get_terminal_size().columns)
    padded = [[*_padded(column)] for column in columns]
    for row in zip(*padded, strict=True):
        click.echo(_GAP.join(row).rstrip())


def _padded(column: Sequence[str]) -> Iterator[str]:
    """Yield the cells of a column, all as wide as the widest one."""
    width = max(map(_width, column))
    for cell in column:
        shown = cell + " " * (width - _width(cell))
        yield colored(shown, cell) if column[0] == "STATUS" else shown


def _fitting(columns: list[list[str]], room: int) -> list[list[str]]:
    """Return the columns, shortened to a number of characters in a row; ids stay as they are."""
    heads = [column[0] for column in columns]
    fewest = heads.index("ID") + 1 if "ID" in heads else 1
    natural = [max(map(_width, column)) for column in columns]
    least = [
        width if head == "ID" else min(_FEWEST, width)
        for head, width in zip(heads, natural, strict=True)
    ]
    shown = len(columns)
    while shown > fewest and _row(least[:shown], shown < len(columns)) > room:
        shown -= 1
    widths = [
        max(low, min(width, room)) for low, width in zip(least, natural[:shown], strict=False)
    ]
    while _row(widths, shown < len(columns)) > room and (
        loose := [at for at, width in enumerate(widths) if width > least[at]]
    ):
        widths[max(loose, key=lambda at: (at > 0, widths[at]))] -= 1
    cut = [
        [_cut(cell, width) for cell in column]
        for column, width in zip(columns, widths, strict=False)
    ]
    rest = [] if shown == len(columns) else [[_CUT, *itertools.repeat("", len(columns[0]) - 1)]]
    return [*cut, *rest]


def _row(widths: Sequence[int], is_cut: bool) -> int:
    """Return the width of a row, with the mark of columns that are left out."""
    widths = [*widths, len(_CUT)] if is_cut else widths
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def _abbreviated(column: Sequence[str]) -> list[str]:
    """Return a column of ids with UUIDs as short as commands understand them, and all different.

    Another id stays whole, as all of it may be the beginning of one more.
    """
    head, *marked = column
    ids = {each.removesuffix(_MINE) for each in marked}
    length = next(n for n in range(_SHORT_ID, _UUID + 1) if len({*_begun(ids, n)}) == len(ids))
    shown = _begun((each.removesuffix(_MINE) for each in marked), length)
    return [
        head,
        *(f"{one}{_MINE * each.endswith(_MINE)}" for one, each in zip(shown, marked, strict=True)),
    ]


def _begun(ids: Iterable[str], length: int) -> Iterator[str]:
    """Yield the beginnings of UUIDs, and other ids as they are."""
    return (each[:length] if is_uuid(each) else each for each in ids)


def _cut(text: str, width: int) -> str:
    """Return the beginning of a text, with dots if something is left out."""
    if _width(text) <= width:
        return text
    room = width - len(_CUT)
    widths = itertools.accumulate(map(_width, text))
    kept = sum(1 for _ in itertools.takewhile(lambda taken: taken <= room, widths))
    return f"{text[:kept]}{_CUT}"


def _width(text: str) -> int:
    """Return how many columns of a terminal a text takes; East Asian wide characters take two."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1
        for char in text
    )
