"""Redaction of live clients' secrets in the logs of libraries and in logged tracebacks.

urllib3 logs URLs with their query, and unreadable headers of a server; websocket-client logs the
whole handshake.
"""

from __future__ import annotations

import functools
import logging
import traceback
import weakref
from typing import Final

from ..errors import printable
from ..locks import shared_lock
from .failures import one_line
from .identity import Identity

_OURS = "comfy_client"
#: Libraries that log requests and answers.
_LOGGERS = ("requests", "urllib3", "websocket")


def hide_in_logs(identity: Identity) -> None:
    """Hide the secrets of a client in logs, from now on and as long as the client exists."""
    _filter.add(identity)
    _watch_loggers()


def after_fork() -> None:
    """Renew the lock in the child of a fork, as a thread of the parent may have held it."""
    _filter.renew()


@functools.cache
def _watch_loggers() -> None:
    """Add the filter to all loggers once; libraries make theirs on import."""
    known = [name for name in list(logging.root.manager.loggerDict) if name.startswith(_LOGGERS)]
    for name in (*known, "websocket", _OURS):
        logging.getLogger(name).addFilter(_filter)


def _without_breaks(arg: object) -> object:
    """Escape line breaks in a logged value, so that a server cannot forge log lines."""
    if isinstance(arg, BaseException):
        return one_line(str(arg))
    if isinstance(arg, str) and not arg.isprintable():
        return printable(arg).replace("\n", "\\n").replace("\t", "\\t")
    return arg


def _indented(said: str, exc: BaseException | None) -> str:
    """Indent the further lines of messages in a traceback, so that none looks like a log line."""
    seen: set[int] = set()
    while exc is not None and id(exc) not in seen:
        seen.add(id(exc))
        for words in (exc, *getattr(exc, "__notes__", ())):
            text = str(words).strip()
            said = said.replace(text, text.replace("\n", "\n    ")) if "\n" in text else said
        exc = exc.__cause__ or exc.__context__
    return said


class _Filter(logging.Filter):
    """A filter that hides secrets in libraries' records and tracebacks, and escapes line breaks."""

    def __init__(self) -> None:
        super().__init__()
        self.renew()
        self._identities: weakref.WeakSet[Identity] = weakref.WeakSet()

    def renew(self) -> None:
        """Make a new lock."""
        self._lock = shared_lock()  # guards the set of identities

    def add(self, identity: Identity) -> None:
        """Add a client's secrets."""
        with self._lock:
            self._identities.add(identity)

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            self._hide(record)
        except Exception as exc:  # noqa: BLE001  # a log is no reason to fail
            record.msg, record.args = f"a record that cannot be formatted: {type(exc).__name__}", ()
            record.exc_info = None
        if record.name == _OURS:  # for formatters that name them: not every record has both
            vars(record).setdefault("server", None)
            vars(record).setdefault("tags", {})
        return True

    def _hide(self, record: logging.LogRecord) -> None:
        if record.name != _OURS:
            said = record.getMessage()
            shown = one_line(self._hidden(said))
            if shown != said:
                record.msg, record.args = shown, ()
        else:
            if isinstance(record.args, tuple):
                record.args = tuple(map(_without_breaks, record.args))
            said = record.getMessage()
            shown = printable(said)  # other records contain a server's ids and names
            if shown != said:
                record.msg, record.args = shown, ()
        if record.exc_info and record.exc_info[1] is not None:
            said = "".join(traceback.format_exception(record.exc_info[1])).rstrip()
            shown = printable(self._hidden(_indented(said, record.exc_info[1])))
            if shown != said:
                record.exc_info, record.exc_text = None, shown

    def _hidden(self, text: str) -> str:
        with self._lock:
            identities = list(self._identities)
        for identity in identities:
            text = identity.secrets().hide_words(text)
        return text


_filter: Final = _Filter()
