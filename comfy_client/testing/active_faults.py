"""Active faults of a server, and the effects of those that concern messages; argument checks."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import attrs

from .wire import frame

#: Messages that no server should send, as opcode (1 text, 2 binary) and content.
JUNK: tuple[tuple[int, bytes], ...] = (
    (1, b"{no json"),
    (1, b"[1, 2, 3]"),
    (1, b"null"),
    (1, b'"executing"'),
    (1, b"{}"),
    (1, b'{"type": null, "data": {}}'),
    (1, b'{"type": "executing", "data": null}'),
    (1, b'{"type": "progress", "data": [1, 2]}'),
    (1, b'{"type": "executed", "data": {"output": 5, "prompt_id": 7}}'),
    (1, b'{"type": "status", "data": {"status": {"exec_info": null}}}'),
    (1, b"\xff\xfe not UTF-8"),
    (2, b""),
    (2, b"\0"),
    (2, b"\0\0\0"),
    (2, b"\0\0\0\x01"),
    (2, b"\0\0\0\x63 of an unknown kind"),
    (2, b"\0\0\0\x01\0\0\0\x63 in an unknown format"),
    (2, b"\0\0\0\x03\xff\xff\xff\xff a text of no node"),
    (2, b"\0\0\0\x04\xff\xff\xff\xff{}"),
    (2, b"\0\0\0\x04\0\0\0\x02\xff\xff"),
    (2, b"\0\0\0\x04\0\0\0\x02[]"),
)

_DEEPEST = 100  # levels of JSON

_STRANGER = "5f7a1c1e-0000-4000-8000-00000000cafe"
#: Messages about other clients' prompts, and messages of extensions.
FOREIGN: tuple[dict[str, Any], ...] = (
    {"type": "crystools.monitor", "data": {"cpu_utilization": 12.5, "gpus": [{"vram_used": 1}]}},
    {"type": "execution_start", "data": {"prompt_id": _STRANGER}},
    {"type": "executing", "data": {"node": "3", "prompt_id": _STRANGER}},
    {"type": "progress", "data": {"value": 1, "max": 9, "prompt_id": _STRANGER, "node": "3"}},
    {"type": "progress", "data": {"value": 2, "max": 9}},
    {"type": "executing", "data": {"node": "3"}},
    {"type": "executed", "data": {"node": "9", "output": {"images": []}, "prompt_id": _STRANGER}},
    {"type": "execution_error", "data": {"prompt_id": _STRANGER, "exception_message": "theirs"}},
    {"type": "execution_interrupted", "data": {"prompt_id": _STRANGER}},
    {"type": "execution_success", "data": {"prompt_id": _STRANGER}},
    {"type": "executing", "data": {"node": None, "prompt_id": _STRANGER}},
    {"type": "some.extension", "data": None},
    {"type": "some.extension", "data": ["a", "list"]},
    {"type": "crystools.monitor", "data": None},
)


@attrs.define(eq=False)
class Fault:
    """A fault that a test has activated on an embedded server.

    It is active until its ``with`` block ends, :meth:`end` is called, or it has occurred as often
    as it may.

    Attributes:
        name: The name of the method that made it, such as ``"cut"``.
        hits: How many requests, messages, pings or nodes it affected, or how often a script was
            played.  Other prompts, and open sockets, are not counted.
    """

    name: str
    hits: int = attrs.field(default=0, init=False)
    _all: ActiveFaults = attrs.field(repr=False)

    def __enter__(self) -> Fault:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    @property
    def active(self) -> bool:
        """Whether the fault is active: neither ended nor used up."""
        return self in self._all.find(self.name)

    def end(self) -> None:
        """End the fault and undo its effect; repeated calls do nothing."""
        self._all.end(self)


@attrs.define(eq=False)
class ActiveFault(Fault):
    """A fault with the settings that the server needs to apply it."""

    #: Details for the kind of fault.
    settings: Any = attrs.field(repr=False)
    times: int | None = attrs.field(repr=False)
    undo: Callable[[], object] | None = attrs.field(repr=False)
    #: Another one for each fault of this process.
    number: int = attrs.field(factory=itertools.count(1).__next__, init=False, repr=False)


class ActiveFaults:
    """The active faults of a server; any thread may call the methods."""

    def __init__(self, flush: Callable[[], None]) -> None:
        #: Waits until pending messages are sent, before something changes.
        self._flush = flush
        self._lock = threading.Lock()  # guards the list below
        self._faults: list[ActiveFault] = []

    def add(
        self,
        name: str,
        settings: Any = None,
        *,
        times: int | None = None,
        undo: Callable[[], object] | None = None,
    ) -> ActiveFault:
        """Add a fault, which is active immediately, and return it."""
        if times is not None:
            check_count("times", times, 1)
        if name in _ABOUT_MESSAGES:
            self._flush()
        fault = ActiveFault(name, self, settings, times, undo)
        with self._lock:
            self._faults.insert(0, fault)
        return fault

    def end(self, fault: Fault) -> None:
        """End a fault and undo its effect; do nothing if it has been ended already."""
        if fault.name in _ABOUT_MESSAGES:
            self._flush()
        with self._lock:
            ended = [each for each in self._faults if each is fault]
            self._faults = [each for each in self._faults if each is not fault]
        for each in ended:
            if each.undo:
                each.undo()

    def find(self, *names: str) -> list[ActiveFault]:
        """Return the active faults with these names, or all without names; the newest first."""
        with self._lock:
            faults = self._faults if not names else [f for f in self._faults if f.name in names]
            return [one for one in faults if one.times is None or one.hits < one.times]

    def first(self, name: str) -> ActiveFault | None:
        """Return the newest active fault with this name, or None."""
        return next(iter(self.find(name)), None)

    def lasts(self, fault: Fault | None) -> bool:
        """Return whether a fault has not been ended, even if it is used up."""
        with self._lock:
            return fault in self._faults

    def clear(self, *names: str) -> None:
        """End the faults with these names, or all faults if no names are given."""
        with self._lock:
            faults = [fault for fault in self._faults if not names or fault.name in names]
        for fault in faults:
            fault.end()

    def restore(self, faults: Sequence[ActiveFault]) -> None:
        """End all faults but these, the newest first; they have not occurred yet then."""
        with self._lock:
            others = [fault for fault in self._faults if fault not in faults]
            self._faults = [*faults]
            for fault in faults:
                fault.hits = 0
                if fault.name == "withhold":
                    fault.settings[1].clear()
        for fault in others:
            if fault.undo:
                fault.undo()

    # -- about messages -----------------------------------------------------------------

    def keep_back(self, event: str | int, data: Any, client_id: str | None) -> bool:
        """Drop or hold back a message if a fault selects it; return whether that happened."""
        for fault in self.find("lose", "withhold"):
            chosen, kept = fault.settings
            if any(_is_meant(one, event, data) for one in chosen):
                fault.hits += 1
                if kept is not None:
                    kept.append((event, data, client_id))
                return True
        return False

    def take_intruders(self) -> list[str | bytes]:
        """Return the extra messages that faults send before the next one: text, or raw frames."""
        found: list[str | bytes] = []
        for fault in self.find("junk", "foreign_traffic"):
            if fault.name == "junk":
                found.append(frame(*JUNK[fault.hits % len(JUNK)]))
            else:
                found.append(json.dumps(FOREIGN[fault.hits % len(FOREIGN)]))
            fault.hits += 1
        return found

    def framing(self) -> tuple[int, float]:
        """Return the number of frames per message, and the pause in its middle in seconds."""
        parts, pause = self.first("fragments"), self.first("pause_in_frames")
        return parts.settings if parts else 1, pause.settings if pause else 0.0


#: Faults that end with the sockets, the thread or the server that they affect.
OF_ONE_LIFE = ("deaf", "go_dark", "freeze", "crash")
_ABOUT_MESSAGES = ("lose", "withhold", "junk", "foreign_traffic", "fragments", "pause_in_frames")


def _is_meant(
    chosen: str | Callable[[str | int, Any], object], event: str | int, data: Any
) -> bool:
    """Return whether a name or a function given to :meth:`Faults.lose` selects a message."""
    if callable(chosen):
        return bool(chosen(event, data))
    is_end = event == "executing" and isinstance(data, dict) and data.get("node") is None
    name = "binary" if isinstance(event, int) else "executing null" if is_end else event
    return fnmatchcase(name, chosen)


# -- checks of the arguments of faults, traps and scripts --------------------------------


def check_count(name: str, value: Any, least: int = 0, most: int | None = None) -> int:
    """Return the value unchanged; raise ValueError unless it is a whole number in the range."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name} must be a whole number, not {value!r}")
    if value < least or (most is not None and value > most):
        limit = f"{least} or more" if most is None else f"{least} to {most}"
        raise ValueError(f"{name} must be {limit}, not {value}")
    return value


def check_seconds(value: float, subject: str = "seconds are") -> float:
    """Return the value unchanged; raise ValueError unless it is a number that a wait can take."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise ValueError(f"{subject} 0 or more, not {shown(value)}")
    if value > threading.TIMEOUT_MAX:
        raise ValueError(f"{subject} {threading.TIMEOUT_MAX:.0f} at most, not {shown(value)}")
    return value


def shown(value: object) -> str:
    """Return the beginning of a value's ``repr()``, for an error."""
    try:
        return f"{value!r:.100}"
    except ValueError:  # Python writes no more than some thousand digits
        return "a number of very many digits"


def check_header(name: Any, value: Any) -> None:
    """Raise ValueError unless name and value are strings that can form one header line."""
    texts = isinstance(name, str) and isinstance(value, str)
    if not texts or not name or {"\r", "\n", "\0"} & set(name + value):
        raise ValueError(f"a header is a name and a string of one line, not {name!r}: {value!r}")


def check_depth(name: str, value: Any) -> None:
    """Raise ValueError if a JSON value is nested more deeply than is sensible."""
    level: list[Any] = [[value]]
    for _ in range(_DEEPEST + 1):
        parts = [one.values() if isinstance(one, Mapping) else one for one in level]
        level = [one for each in parts for one in each if isinstance(one, Mapping | list)]
        if not level:
            return
    raise ValueError(f"{name} is nested more than {_DEEPEST} levels deep")


def jsonable(name: str, value: Any) -> Any:
    """Return a value after a round trip through JSON; raise ValueError if that is impossible."""
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError, RecursionError) as exc:
        raise ValueError(f"{name}: {exc}") from None
