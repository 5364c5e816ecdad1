"""Waits for a server that takes no more requests at the moment (429)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ..errors import ClientClosed, Throttled
from ..transport.backoff import Backoff
from ..transport.deadline import Deadline
from .handle import SLICE
from .poller import Poller

T = TypeVar("T")


def when_free(poller: Poller, deadline: Deadline, ask: Callable[[], T]) -> T:
    """Call ``ask``, which sends requests; call it again while the server answers 429.

    Between two calls, wait for as long as the server says, and no longer than its client waits for
    a busy server.

    Raises:
        Throttled: The time is up, or the server wants a longer wait than there is time.
    """
    timing, log = poller.timing, poller.tracker.log
    pauses = Backoff(timing.retry, timing.retry_cap, factor=1.6, jitter=0.3)
    until: Deadline | None = None
    while True:
        try:
            return ask()
        except Throttled as exc:
            if until is None:
                until = poller.free_by(deadline)
                log.warning("waiting until the server takes more requests: %s", exc)
            pause = max(pauses.next(), exc.retry_after or 0.0)
            if pause >= until.left():
                raise
        over = Deadline.after(pause)
        while not over.expired:  # in slices, as Windows ignores Ctrl-C in a wait
            if poller.tracker.wake.wait_stopped(over.left(SLICE)):
                raise ClientClosed
