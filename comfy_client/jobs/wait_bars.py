"""Show progress while waiting.

There is a bar for one job, a bar for many jobs, and a display that a thread updates after its cell
has ended.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Final, Literal, Protocol

import attrs

from .. import runtime
from ..errors import JobFailed, JobTimeout
from ..events import PreviewEvent
from ..showing.screen import Surface, surface
from .handle import JobHandle, Limits
from .outcomes import keeps_running
from .result import Result

if TYPE_CHECKING:
    from ..showing.bars import Bar, Moment, Preview
    from ..showing.html import Bundle

log: logging.Logger = logging.getLogger("comfy_client")

#: The most seconds for showing the result of a run, within its timeout.
_LONGEST_SHOWING: Final = 10.0
#: Waits of up to this many seconds are taken for polling in a loop, and show nothing unless
#: ``progress`` is set.
_SHORT_WAIT: Final = 10.0

#: Called again and again during a wait; returns the seconds until its next call.
Tick = Callable[[], float]


def surface_of(progress: bool | None, timeout: float | None) -> Surface:
    """Return where to show the progress of a wait.

    By default, only a notebook or a terminal shows it, and only if the wait is not short.
    """
    if progress is None and timeout is not None and timeout <= _SHORT_WAIT:
        return "none"
    return surface(progress, unasked_lines=False)


# -- one job -----------------------------------------------------------------------------


def watched(
    handle: JobHandle,
    limits: Limits,
    surface: Surface,
    wait: Callable[[Tick | None], Result],
    *,
    on_interrupt: Literal["leave", "cancel"],
    is_busy: bool = False,
) -> Result:
    """Call ``wait``, and show the progress of the job on the screen meanwhile.

    ``is_busy``: ``wait`` runs callbacks, so call it without first waiting to see whether the job
    ends soon.
    """
    if surface == "none":
        return wait(None)
    begun, show = runtime.monotonic(), handle.timing.show
    delay = show
    if surface != "notebook" and not is_busy and show > 0:
        if handle.ends_within(limits, show):
            return wait(None)
        delay = 0.0
    from ..showing.bars import Ticker, make_bar  # slow to import

    prompt_id = handle.state.prompt_id
    server = handle.poller.tracker.http.address.http_url
    facts = {**handle.state.named, "prompt_event": "progress", "server": server}
    bar = make_bar(surface, f"prompt {prompt_id}", show, **facts)
    watch = _Watch(bar, handle, surface, begun)
    try:
        result = wait(Ticker(bar, watch.moment, delay).tick)
    except BaseException as exc:
        watch.fail(exc, on_interrupt)
        raise
    try:
        watch.succeed(result, limits.deadline.left(_LONGEST_SHOWING))
    except KeyboardInterrupt as exc:
        exc.add_note(f"the prompt had ended: api.job({prompt_id!r}).result() has its result")
        raise
    return result


def _made(outcome: Callable[[], Bundle]) -> Bundle | None:
    """Return the representations of an outcome; log a failure of this, and return None."""
    try:
        return outcome()
    except Exception as exc:  # noqa: BLE001  # such as no more threads, with which to fetch files
        log.debug("the outcome cannot be shown: %r", exc)
        return None


class _Watch:
    """The progress bar of a job."""

    def __init__(self, bar: Bar, handle: JobHandle, surface: Surface, begun: float) -> None:
        self._is_notebook = surface == "notebook"
        self._is_log = surface == "log"
        self._bar = bar
        self._handle = handle
        self._begun = begun
        self._previews = _Previews(handle if self._is_notebook else None)

    def succeed(self, result: Result, seconds: float) -> None:
        """Show the outputs in place of the bar, if that is possible within ``seconds``."""
        from ..showing.cells import render_outcome

        show = partial(render_outcome, result, lambda: result.gallery(seconds))
        self._end("done", _made(show) if self._is_notebook else None)

    def fail(self, error: BaseException, on_interrupt: str) -> None:
        """Leave the bar and show how the wait ended; the exception gives the reason."""
        if isinstance(error, KeyboardInterrupt):
            # The log says how to attach to it again.
            self._end("; ".join(["stopped", *self._runs_on()][: 1 + (on_interrupt == "leave")]))
        elif isinstance(error, JobTimeout):
            self._end("; ".join(["not ended in time", *self._runs_on()]))
        else:
            self._end(_how_it_failed(self._handle.status, error))

    def _runs_on(self) -> list[str]:
        is_left = not self._handle.is_done and self._handle.status != "waiting"
        return [keeps_running("it", self._handle.silent_for())] if is_left else []

    def _end(self, text: str, outcome: Bundle | None = None) -> None:
        # The end of each prompt is in the log.
        if not (self._is_log and self._handle.is_done):
            self._bar.end(self.moment(text), outcome)

    def moment(self, ended: str = "") -> Moment:
        """Return the current state of the bar."""
        return _moment(self._handle, self._begun, self._previews.latest(), ended)


def _how_it_failed(status: str, error: BaseException | None) -> str:
    """Return how a job ended in a few words: ``failed in KSampler``."""
    where = (error.title or error.class_type) if isinstance(error, JobFailed) else None
    return f"{status} in {where}" if where else status


def _moment(handle: JobHandle, begun: float, preview: Preview | None, ended: str = "") -> Moment:
    from ..showing.bars import Moment

    progress, (phase, text) = handle.progress, _doing(handle)
    waited = runtime.monotonic() - begun
    return Moment(
        progress.fraction,
        "" if ended else text,
        elapsed=waited if progress.elapsed is None else progress.elapsed,
        left=progress.left,
        preview=preview,
        phase=phase,
        ended=ended,
        notes=() if ended else handle.notes(),
    )


def _doing(handle: JobHandle) -> tuple[str, str]:
    """Return the phase of a job, and its step, such as ``KSampler 12/20``, or else its status."""
    progress, status = handle.progress, handle.status
    silence, ahead = handle.silent_for(), handle.queue_position
    if silence is not None and not handle.is_done:
        return "silent", f"no answer for {silence:.0f} s"
    if handle.is_cancelling:
        return "cancelling", "cancelling"
    if ahead and status in ("pending", "waiting"):
        return "waiting", f"waiting, {ahead} ahead"
    if progress.title is None:
        return "running", status
    if progress.step is None or not progress.steps:
        return "running", progress.title
    return "running", f"{progress.title} {progress.step:g}/{progress.steps:g}"


class _Previews:
    """The latest preview of a job; until it has one, the latest preview of the earlier job."""

    def __init__(self, handle: JobHandle | None, earlier: _Previews | None = None) -> None:
        self._ask: Callable[[], PreviewEvent | None] = lambda: None
        if handle is not None:
            self._ask = handle.latest_previews()
        self._preview: Preview | None = None if earlier is None else earlier.latest()

    def latest(self) -> Preview | None:
        """Return the latest preview, or None if there has been none."""
        from ..showing.bars import Preview

        event = self._ask()
        if event is not None:
            self._preview = Preview(event.view)
        return self._preview


# -- a job below a cell ------------------------------------------------------------------


def go_on_drawing(handle: JobHandle) -> None:
    """Display a job below the cell, and start a thread that updates it until the job ends.

    The thread does not keep the job alive.
    """
    from ..showing.bars import GuardedBar, NotebookBar

    begun, previews, bar = runtime.monotonic(), _Previews(handle), GuardedBar(NotebookBar())
    bar.show(_moment(handle, begun, None))
    job = weakref.proxy(handle)
    ended = runtime.Event()
    handle.when_ended(ended.set)
    # The thread does not inherit the cell's context, as a frontend may drop updates sent on behalf
    # of an earlier cell.
    thread = runtime.Thread(
        target=_draw,
        args=(bar, lambda: _moment(job, begun, previews.latest()), ended, partial(_end, job)),
        name="comfy-display",
        daemon=True,
    )
    thread.start()


def _draw(
    bar: Bar,
    moment: Callable[[], Moment],
    ended: runtime.Event,
    end: Callable[[], tuple[str, Bundle | None]],
) -> None:
    """Update the display of a job until it ends or is garbage-collected."""
    from ..showing.bars import Moment, Ticker

    try:
        ticker = Ticker(bar, moment, bar.period)
        while not ended.wait(ticker.tick()):
            pass
        how, outcome = end()
        bar.end(attrs.evolve(moment(), ended=how, notes=()), outcome)
    except ReferenceError:
        bar.end(Moment(None, ended="not followed any more, as nobody has the job"), None)
    except Exception as exc:  # noqa: BLE001  # nobody waits for this thread
        log.debug("nothing more is shown: %r", exc)


def _end(handle: JobHandle) -> tuple[str, Bundle | None]:
    """Return how a job ended in words, and the representations of its result or None."""
    from ..showing.html import bundle

    value = handle.ending.value
    if isinstance(value, Result):
        return "done", bundle(repr(value), value.gallery())
    return f"{handle.status}: {value}", None


# -- many jobs ---------------------------------------------------------------------------


class WatchedJob(Protocol):
    """The part of a job that the bar of many jobs needs."""

    handle: JobHandle


@attrs.frozen(eq=False, repr=False, kw_only=True)
class Count:
    """The jobs of one call, for a bar that counts them.

    Attributes:
        total: How many jobs there will be; ``None``: unknown.
        ended: Returns how many jobs have ended, and how many of the ended ones failed.
        running: Returns the jobs that have not ended.
        trouble: Returns why all jobs are held up, in a few words; empty if none are.
        notes: Returns lines for below the bar.
    """

    total: int | None
    ended: Callable[[], tuple[int, int]]
    running: Callable[[], Iterable[WatchedJob]]
    trouble: Callable[[], str] = lambda: ""
    notes: Callable[[], tuple[str, ...]] = lambda: ()


@attrs.frozen(eq=False, repr=False)
class Screen:
    """Functions that keep the display of a call with many jobs up to date.

    Attributes:
        tick: Called again and again during waits; ``None``: nothing is shown.
        make_room: Called before somebody else writes on the screen.
        redraw: Called after somebody else has written on the screen.
        end: Called at the end, with what replaces the bar in a notebook.
    """

    tick: Tick | None = None
    make_room: Callable[[], None] = lambda: None
    redraw: Callable[[], None] = lambda: None
    end: Callable[[Callable[[], Bundle] | None], None] = lambda _: None

    def within(self, seconds: float) -> float:
        """Return ``seconds``, or the seconds until the next tick if that is sooner."""
        return seconds if self.tick is None else min(seconds, self.tick())


@contextmanager
def shown_count(surface: Surface, name: str, delay: float, count: Count) -> Iterator[Screen]:
    """Context manager: show a bar with the number of jobs, and at the end how the call ended.

    A call that ends within ``delay`` seconds is not shown.
    """
    if surface == "none":
        yield Screen()
        return
    from ..showing.bars import Ticker, make_bar  # not imported by programs without a screen

    bar = make_bar(surface, name, delay)
    watch = _CountWatch(bar, count, is_notebook=surface == "notebook")
    ticker = Ticker(bar, watch.moment, delay)
    try:
        redraw = ticker.redraw if surface == "terminal" else lambda: None
        yield Screen(ticker.tick, bar.clear, redraw, watch.succeed)
    except BaseException as exc:
        is_left = isinstance(exc, KeyboardInterrupt | GeneratorExit)
        bar.end(watch.moment("stopped" if is_left else type(exc).__name__), None)
        raise


class _CountWatch:
    """The progress bar of many jobs."""

    def __init__(self, bar: Bar, count: Count, *, is_notebook: bool) -> None:
        self._bar = bar
        self._count = count
        self._is_notebook = is_notebook
        self._begun = runtime.monotonic()
        self._before, _ = count.ended()  # jobs that an earlier call has ended
        self._watched: WatchedJob | None = None
        self._previews = _Previews(None)

    def succeed(self, outcome: Callable[[], Bundle] | None) -> None:
        """Show that all jobs have ended, and their outputs where that is possible."""
        made = _made(outcome) if outcome is not None and self._is_notebook else None
        self._bar.end(self.moment("done"), made)

    def moment(self, ended: str = "") -> Moment:
        """Return the state of the bar, such as ``12 of 500, 3 failed``.

        Its fraction includes the progress of running jobs.
        """
        from ..showing.bars import Moment

        count, jobs = self._count, list(self._count.running())
        total, (number, failed) = count.total, count.ended()
        if self._is_notebook:
            self._look(jobs)
        done = number + sum(job.handle.progress.fraction for job in jobs)
        elapsed = runtime.monotonic() - self._begun
        left = None
        # The first prompt may have loaded a model, and says too little about the others.
        if total is not None and number > self._before:
            left = elapsed / (done - self._before) * max(0.0, total - done)
        counted = f"{number} done" if total is None else f"{number} of {total}"
        counted += f", {failed} failed" if failed else ""
        trouble = "" if ended else count.trouble()
        return Moment(
            None if total is None else min(1.0, done / max(1, total)),
            f"{counted}, {trouble}" if trouble else counted,
            elapsed=elapsed,
            left=left,
            preview=None if ended else self._previews.latest(),  # it is not the picture
            ended=f"{counted}: {ended}" if ended else "",
            notes=() if ended else count.notes(),
        )

    def _look(self, jobs: list[WatchedJob]) -> None:
        """Watch the previews of the first running job."""
        running = next((job for job in jobs if job.handle.status == "running"), None)
        if running is not None and running is not self._watched:
            self._watched, self._previews = running, _Previews(running.handle, self._previews)
