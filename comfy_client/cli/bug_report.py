"""The file that ``doctor --report`` writes for a bug report, without secrets."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

from ..doctor.context import Redactor
from ..doctor.network_checks import version_of
from ..errors import ComfyError, NotSupported, printable
from ..replacing import remove
from .exits import message_of
from .profiles import load_config

if TYPE_CHECKING:
    from ..client import ComfyApi
    from ..doctor.report import DoctorReport
    from ..events import LogEntry
    from .server_options import ServerOptions

#: How many minutes of the server's log a report has, and the most lines of any log.
MINUTES: Final = 10
MAX_LINES: Final = 2000
_LOGGER: Final = logging.getLogger("comfy_client")
_FORMAT: Final = logging.Formatter("%(asctime)s.%(msecs)03d %(levelname)s %(message)s", "%H:%M:%S")
_EXTRAS: Final = (
    *("click", "tqdm", "Pillow", "numpy", "ipython", "aiohttp", "distributed", "blake3", "mcp"),
)
_VARIABLES: Final = ("COMFY", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT")
_VARIABLES_OF_REQUESTS: Final = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_HEAD: Final = (
    "Bug report of comfy_client.  It has no credentials, and workflows only in a recording.\n"
    "Read it before you send it: a log may say more than you want to tell."
)


@contextmanager
def kept_log() -> Iterator[deque[str]]:
    """Context manager: yield the latest lines that the library logs meanwhile, at all levels."""
    lines: deque[str] = deque(maxlen=MAX_LINES)
    handler, level = _Keeper(lines), _LOGGER.level
    handler.setFormatter(_FORMAT)
    _LOGGER.addHandler(handler)
    _LOGGER.setLevel(logging.DEBUG)
    try:
        yield lines
    finally:
        _LOGGER.removeHandler(handler)
        _LOGGER.setLevel(level)


class _Keeper(logging.Handler):
    """A log handler that adds the lines of each record to a deque."""

    def __init__(self, lines: deque[str]) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.extend(printable(self.format(record)).splitlines())


def report_of(api: ComfyApi, report: DoctorReport, given: ServerOptions, log: Iterable[str]) -> str:
    """Return the text of a bug report, which includes the server's log if it can be read."""
    redact = Redactor(api.parts.http, _client_id(api))
    parts = {
        **_findings(report),
        "Settings": "\n".join(redact.foreign(line) for line in _settings(given)),
        "Log of this command": "\n".join(map(redact.foreign, log)),
        f"Log of the server, its last {MINUTES} minutes": _server_log(api, report, redact),
    }
    return _joined(parts)


def report_without_client(report: DoctorReport, given: ServerOptions) -> str:
    """Return the text of a bug report for a server of which no client can be made."""
    return _joined({**_findings(report), "Settings": "\n".join(_settings(given))})


def _findings(report: DoctorReport) -> dict[str, str]:
    extras = "\n".join(f"{name} {version_of(name)}" for name in _EXTRAS)
    return {"Doctor": str(report), "Extras": extras}


def _joined(parts: Mapping[str, str]) -> str:
    return "\n\n".join([_HEAD, *(section(title, text) for title, text in parts.items())]) + "\n"


def _client_id(api: ComfyApi) -> str:
    try:
        return api.client_id
    except NotSupported:  # a hosted server
        return ""


def section(title: str, text: str) -> str:
    """Return a section of a bug report: its title, and the text below."""
    return f"== {title} ==\n\n{text or 'nothing'}"


def write(path: Path, text: str) -> None:
    """Write a report to a file that only its owner can read, in place of any older file."""
    remove(path)
    number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(number, "w", encoding="utf-8") as file:
        file.write(text)


def _settings(given: ServerOptions) -> Iterator[str]:
    """Yield the names of options and variables that are set, without their values."""
    fields = (name for name, value in attrs.asdict(given).items() if value)
    options = ["--" + name.removesuffix("s").replace("_", "-") for name in fields]  # hosts: --host
    yield f"options: {' '.join(options) or 'none'}"
    known = (name for name in os.environ if name.upper().startswith(_VARIABLES))
    names = sorted({*known, *(name for name in _VARIABLES_OF_REQUESTS if name in os.environ)})
    yield f"environment: {' '.join(names) or 'none'}"
    config = load_config()
    there = f"{len(config.profiles)} profiles" if config.path.exists() else "not there"
    yield f"config file: {config.path}, {there}"


def _server_log(api: ComfyApi, report: DoctorReport, redact: Redactor) -> str:
    if any(check.name == "http" and check.state != "ok" for check in report):
        return "not asked for, as the server does not answer"
    try:
        entries = _latest(api.get_raw_logs().entries)
    except ComfyError as exc:
        return redact.foreign(message_of(exc))
    lines = (line for entry in entries for line in entry.text.splitlines() if line.strip())
    return "\n".join(map(redact.foreign, deque(lines, MAX_LINES)))


def _latest(entries: Iterable[LogEntry]) -> list[LogEntry]:
    """Return the log entries of the minutes before the latest one; all if one has no time."""
    entries = list(entries)
    try:
        times = [datetime.fromisoformat(entry.time or "") for entry in entries]
        earliest = max(times, default=datetime.min) - timedelta(minutes=MINUTES)
        return [entry for entry, at in zip(entries, times, strict=True) if at >= earliest]
    except (ValueError, TypeError, OverflowError):  # no times, or some with a zone
        return entries
