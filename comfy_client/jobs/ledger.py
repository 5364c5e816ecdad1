"""Counters and log lines of our prompts: each is counted once.

The lines are ``INFO`` of the logger ``comfy_client``; the guide (``monitoring.rst``) lists their
facts.  A log handler is the user's code and may be slow: it runs in the thread that submits, or in
the one that calls receivers, never in the thread of the socket or while a lock is held.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from .. import runtime
from ..errors import ComfyError, printable
from ..events import ConnectionEvent
from ..locks import shared_lock
from ..signals import Receivers
from .order import Order
from .outcomes import JobStatus
from .prompt import Ending, TrackedPrompt
from .result import Result
from .state import Counted, JobState

log: logging.Logger = logging.getLogger("comfy_client")

#: Characters of an error in a line of the log.
_SHOWN: Final = 500


_ENDS: Final = ("succeeded", "failed", "interrupted", "lost", "unknown")


class Ledger:
    """The counts and lines of one client's prompts.

    What counts is called with the tracker's lock held, what logs without.
    """

    def __init__(self, receivers: Receivers) -> None:
        self._receivers = receivers
        self._lock = shared_lock()  # guards that a start is logged once
        self.counts: Counter[str] = Counter()
        self.changes: int = 0  #: How often the prompts that have not ended, or run, were others.
        self.order: Order = Order.of((), self.changes)  #: Of them, when somebody asked last.

    # -- counting, with the lock -----------------------------------------------------------

    def count(self, state: JobState, kind: Counted) -> None:
        """Count a prompt as submitted or attached, once."""
        if state.counted is None:
            state.counted = kind
            self.counts[kind] += 1
            self.changes += 1

    def count_end(self, state: JobState, status: JobStatus) -> None:
        """Count the end of a prompt, maybe before its submission was answered."""
        self.count(state, "submitted")
        if state.counted != "before":
            self.counts[status] += 1
        self.changes += 1

    def uncount(self, state: JobState) -> None:
        """Take a prompt out of the counts, as it is the same as another."""
        if state.counted is not None:
            self.counts[state.counted] -= 1
        self.changes += 1
        state.counted = "before"

    def sums(self) -> dict[str, int]:
        """Return the counters as keyword arguments of ``ClientStats``."""
        counts = self.counts
        ends = {end: counts[end] for end in _ENDS}
        begun = {name: counts[name] for name in ("submitted", "refused", "attached")}
        left = counts["submitted"] + counts["attached"] - sum(ends.values())
        return {**begun, **ends, "outstanding": left}

    # -- logging, without the lock -----------------------------------------------------------

    def log_submitted(self, state: JobState) -> None:
        """Log a submission, in the thread that submits, and the start if it came already."""
        if log.isEnabledFor(logging.INFO):
            _write(state.prompt_id, "submitted", "submitted", number=state.number)
        self.log_start(state)

    def log_start(self, state: JobState) -> None:
        """Log the start of a prompt, once, if it has begun to run."""
        if state.start_logged or state.running_since is None or state.accepted_at is None:
            return
        with self._lock:
            if state.start_logged:
                return
            state.start_logged = True
            self.changes += 1
        if log.isEnabledFor(logging.INFO):
            waited = None if state.attached else state.running_since - state.posted_at
            words = "" if waited is None else f", {waited:.1f} s after its submission"
            self._later(_write, state.prompt_id, "started", f"started{words}", waited=waited)

    def settle(self, one: TrackedPrompt, ending: Ending) -> None:
        """Log how a prompt ended, unless only the client did, and end all waits for it."""
        if log.isEnabledFor(logging.INFO) and not ending.is_of_client:
            seconds = one.state.elapsed(runtime.monotonic())
            self._later(_write_end, one.state.prompt_id, ending, seconds)
        one.settle(ending)

    def _later(self, write: Callable[..., None], *args: Any, **facts: Any) -> None:
        """Log in the thread that calls receivers, when its turn comes."""

        def call() -> float:
            write(*args, **facts)
            return self.tick()

        self._receivers.hand(self, call)

    def tick(self) -> float:
        """Return infinity: nothing is due later."""
        return math.inf


def log_connection(event: ConnectionEvent, host: str, waiting: int) -> None:
    """Log that the socket came or went while prompts are outstanding."""
    if event.name == "disconnected":
        log.warning(
            "%s: %s, with %d prompts outstanding; reconnecting, asking over HTTP meanwhile",
            host,
            event.error,
            waiting,
        )
    elif event.name == "reconnected":
        log.warning("%s: connected again", host)


def _write(prompt_id: str, step: str, words: str, **facts: Any) -> None:
    log.info("prompt %s: %s", prompt_id, words, extra={**_ids(prompt_id, step), **facts})


def _write_end(prompt_id: str, ending: Ending, seconds: float | None) -> None:
    end, status = ending.value, ending.status
    after = "" if seconds is None else f" after {seconds:.1f} s"
    facts: dict[str, Any] = {**_ids(prompt_id, "ended"), "status": status, "seconds": seconds}
    if isinstance(end, Result):
        cached, pictures = len(end.cached_nodes), len(end.images)
        facts |= {"cached_nodes": cached, "pictures": pictures}
        words = f"{_counted(cached, 'node')} cached, {_counted(pictures, 'picture')}"
        log.info("prompt %s: %s%s, %s", prompt_id, status, after, words, extra=facts)
        return
    facts["error_code"] = end.code if isinstance(end, ComfyError) else None
    said = f"{end!s:.{_SHOWN}}".partition("\n")[0]
    log.info("prompt %s: %s%s: %s", prompt_id, status, after, said, extra=facts)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _ids(prompt_id: str, step: str) -> dict[str, Any]:
    # A server may choose any text as an id.
    return {"prompt_id": printable(prompt_id), "prompt_event": step}
