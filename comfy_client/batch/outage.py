"""The absence of a server, and how long ``map`` and ``sweep`` of its client wait for it."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable

import attrs

from .. import runtime
from ..errors import ComfyError, ServerUnreachable, Throttled
from ..interrupts import causes
from ..jobs.handle import SLICE
from ..jobs.poller import Poller
from ..transport.deadline import Backoff, Deadline, check_timeout
from ..transport.failures import is_away
from ..values import T


@attrs.define(eq=False)
class Outage:
    """Tracks whether the server of a ``map`` or ``sweep`` call is away, and for how long.

    An outage begins with a request that fails, and ends with one that succeeds, or with a socket
    that connects.  Prompts that are yet to be sent and prompts in progress share it.

    Attributes:
        poller: The poller of the client.
        patience: Seconds after which waiting ends in :class:`ServerUnreachable`; ``None``: never.
    """

    poller: Poller
    patience: float | None = None
    _begun: float = attrs.field(default=0.0, init=False)  # when the call began
    _since: float | None = attrs.field(default=None, init=False)
    _connections: int = attrs.field(default=0, init=False)  # the socket's count when it began
    _pauses: Backoff = attrs.field(init=False)  # between two requests
    _ask_at: float = attrs.field(default=0.0, init=False)

    def __attrs_post_init__(self) -> None:
        check_timeout(self.patience)
        self._begun = runtime.monotonic()
        self._pauses = self._backoff()

    def _backoff(self) -> Backoff:
        timing = self.poller.timing
        return Backoff(timing.retry, timing.retry_cap, factor=1.6, jitter=0.0)

    @property
    def seconds(self) -> float:
        """Seconds that the outage has lasted; 0 if there is none."""
        return 0.0 if self._since is None else runtime.monotonic() - self._since

    @property
    def silent_for(self) -> float:
        """Seconds for which the server has answered nothing that was asked; 0 if it has.

        What was asked before the call does not count.
        """
        silence = self.poller.tracker.http.silence
        return 0.0 if silence is None else runtime.monotonic() - max(silence.since, self._begun)

    def is_over_after(self, seconds: float) -> bool:
        """Return whether nothing more can be sent, as the server was away for ``seconds``.

        Ask the server first, unless a request has just failed.
        """
        tracker, timing = self.poller.tracker, self.poller.timing
        if max(self.seconds, self.silent_for) < seconds:
            return False
        silence = tracker.http.silence
        if silence is None or runtime.monotonic() - silence.latest >= timing.retry_cap:
            with contextlib.suppress(ComfyError):
                tracker.routes().poll_status(timing.question)
        return tracker.http.silence is not None

    @property
    def words(self) -> str:
        """A description of the outage in a few words; empty if there is none."""
        seconds = self.seconds
        return f"server away for {seconds:.0f} s" if seconds else ""

    def patiently(
        self,
        ask: Callable[[], T],
        is_waited_for: Callable[[Exception], bool],
        deadline: Deadline,
        late: Callable[[ComfyError], ComfyError],
        tick: Callable[[], float] | None,
    ) -> T:
        """Call ``ask`` until it succeeds; repeat it after errors that satisfy ``is_waited_for``.

        At the deadline, raise the error that ``late`` makes from the last one.  ``tick`` is
        called during the wait, and returns the seconds until its next call.

        Raises:
            ServerUnreachable: The server has been away for longer than ``patience``.
        """
        pauses = self._backoff()
        while True:
            pause = pauses.next()
            try:
                answer = ask()
            except ComfyError as exc:
                if not is_waited_for(exc):
                    raise
                self._note_failure(exc)
                if isinstance(exc, Throttled):
                    pause = max(pause, exc.retry_after or 0.0)
                if deadline.expired:
                    raise late(exc) from exc
            else:
                self._since = None
                return answer
            self._wait(Deadline.after(min(pause, self._left(), deadline.left())), tick)

    def look(self) -> None:
        """Check whether the server has gone away or come back, while prompts are in progress.

        Raises:
            ServerUnreachable: It has been away for longer than ``patience``.
        """
        tracker, trouble = self.poller.tracker, self.poller.trouble
        if tracker.link is not None:
            self._since = None
        if tracker.link is not None or (
            self._since is None and (trouble is None or not is_away(trouble))
        ):
            self._ask_at = 0.0
            self._pauses.reset()
            return
        now = runtime.monotonic()
        if now < self._ask_at:
            return
        try:
            tracker.routes().poll_status(self.poller.timing.question)
        except ComfyError as exc:
            if is_away(exc):
                self._note_failure(exc)
                self._ask_at = now + min(self._pauses.next(), self._left())
                return
        self._since = None  # any answer will do
        self._ask_at = now + self._pauses.next()  # the next request will show what is wrong

    def begin_before(self, seconds: float) -> None:
        """Note that an outage began ``seconds`` ago, unless one has or the socket is connected."""
        tracker = self.poller.tracker
        if self._since is None and tracker.link is None:
            self._since = runtime.monotonic() - seconds
            self._connections = tracker.connection.generation

    def _note_failure(self, exc: ComfyError) -> None:
        """Record a request without an answer; raise ServerUnreachable once patience has run out."""
        tracker = self.poller.tracker
        if self._since is None:
            tracker.log.warning("waiting for the server to come back: %s", exc)
        if self._since is None or tracker.connection.generation != self._connections:
            # If the socket has connected since, the server was back in between.
            self._since, self._connections = runtime.monotonic(), tracker.connection.generation
        if self._left() <= 0:
            url = tracker.http.address.http_url
            raise ServerUnreachable(
                f"{url} has been away for {self.seconds:.3g} s (patience: {self.patience:g} s): "
                f"{exc}",
                retryable=not tracker.outstanding,  # their prompts may still run
            ) from exc

    def _left(self) -> float:
        return float("inf") if self.patience is None else self.patience - self.seconds

    def _wait(self, deadline: Deadline, tick: Callable[[], float] | None) -> None:
        wake = self.poller.tracker.wake
        while not deadline.expired:
            longest = SLICE if tick is None else min(SLICE, tick())
            if wake.wait_stopped(deadline.left(longest)):
                return


def got_nothing(exc: Exception) -> bool:
    """Return whether the server certainly received nothing of a request, and may come back.

    An unknown host name counts as a network fault, as the name was known before.
    """
    return isinstance(exc, ServerUnreachable) and (exc.retryable or _is_of_names(exc))


def is_full(exc: Exception) -> bool:
    """Return whether a server refused a prompt only because it has too much to do (429)."""
    return isinstance(exc, Throttled)


def went_away(exc: Exception) -> bool:
    """Return whether a request failed because the server is away, so that a retry may succeed."""
    return is_away(exc) and (not isinstance(exc, ServerUnreachable) or got_nothing(exc))


def _is_of_names(exc: Exception) -> bool:
    return any(isinstance(cause, socket.gaierror) for cause in causes(exc))
