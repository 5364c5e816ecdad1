"""Progress of a prompt on the screen."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import attrs

from .. import runtime
from ..errors import JobTimeout
from ..events import PreviewEvent
from ..showing import screen
from ..showing.screen import Surface
from .callbacks import Callbacks, wait
from .handle import Limits
from .job import Job, OnInterrupt
from .result import Result

if TYPE_CHECKING:
    from ..showing.bars import Bar, Moment, Preview
    from ..showing.html import Bundle

log: logging.Logger = logging.getLogger("comfy_client")

#: Seconds that showing the result of a run may take, within its timeout.
PATIENCE: Final = 10.0


def wait_watched(
    job: Job, limits: Limits, surface: Surface, callbacks: Callbacks, *, on_interrupt: OnInterrupt
) -> Result:
    """Wait as :func:`wait` does, with a bar on the screen."""
    if surface == "none":
        return wait(job, limits, callbacks)
    begun, delay = runtime.monotonic(), None
    if surface != "notebook" and not callbacks and screen.DELAY > 0:
        if job.handle.ends_within(limits, screen.DELAY):
            return wait(job, limits)
        delay = 0.0
    from ..showing.bars import Ticker, make_bar  # what is over in a moment does without

    facts = {"prompt_id": job.prompt_id, "prompt_event": "progress"}
    bar = make_bar(surface, f"prompt {job.prompt_id}", **facts)
    watch = _Watch(bar, job, surface, begun)
    if watch.shows_previews:
        callbacks = attrs.evolve(callbacks, on_preview=watch.seeing(callbacks.on_preview))
    try:
        result = wait(job, limits, callbacks, Ticker(bar, watch.moment, delay).tick)
    except BaseException as exc:
        watch.fail(exc, on_interrupt)
        raise
    try:
        watch.succeed(result, limits.left(PATIENCE))
    except KeyboardInterrupt as exc:
        exc.add_note(f"the prompt had ended: api.job({job.prompt_id!r}).result() has its result")
        raise
    except Exception as exc:  # noqa: BLE001  # the result is there, whatever shows it
        log.debug("the result cannot be shown: %r", exc)
    return result


class _Watch:
    """The bar of a job."""

    def __init__(self, bar: Bar, job: Job, surface: Surface, begun: float) -> None:
        self.shows_previews = surface == "notebook"
        self._is_log = surface == "log"
        self._bar = bar
        self._job = job
        self._begun = begun
        self._preview: Preview | None = None

    def seeing(
        self, callback: Callable[[PreviewEvent], object] | None
    ) -> Callable[[PreviewEvent], object]:
        """Return a callback that keeps the latest preview to draw, and calls another."""
        from ..showing.bars import Preview

        def see(event: PreviewEvent) -> None:
            if not event.final:
                self._preview = Preview(event.view)
            if callback is not None:
                callback(event)

        return see

    def succeed(self, result: Result, seconds: float) -> None:
        """Show what came out, where that is possible in so many seconds."""
        from ..showing.cells import render_outcome

        outcome = (
            render_outcome(result, lambda: result.gallery(seconds)) if self.shows_previews else None
        )
        self._end("done", outcome)

    def fail(self, error: BaseException, on_interrupt: OnInterrupt) -> None:
        """Leave what was there, and say how it ended."""
        if isinstance(error, KeyboardInterrupt):
            # The log says how to come back to it.
            self._end("stopped" + self._runs_on() * (on_interrupt == "leave"))
        elif isinstance(error, JobTimeout):  # whose message follows
            self._end("not ended in time" + self._runs_on())
        else:
            self._end(f"{self._job.status}: {error}")

    def _runs_on(self) -> str:
        is_left = not self._job.done() and self._job.status != "waiting"
        return "; it keeps running" if is_left else ""

    def _end(self, text: str, outcome: Bundle | None = None) -> None:
        if not (self._is_log and self._job.done()):  # the end of each prompt is in the log
            self._bar.end(self.moment(text), outcome)

    def moment(self, ended: str = "") -> Moment:
        """Return how far the job is, or how it ended."""
        from ..showing.bars import Moment

        progress = self._job.progress
        waited = runtime.monotonic() - self._begun
        return Moment(
            progress.fraction,
            "" if ended else _doing(self._job),
            elapsed=waited if progress.elapsed is None else progress.elapsed,
            left=progress.left,
            preview=self._preview,
            ended=ended,
        )


def _doing(job: Job) -> str:
    """Return what a job does, ``KSampler 12/20``, or for what it waits."""
    progress = job.progress
    if progress.title is None:
        ahead = job.queue_position
        return f"waiting, {ahead} ahead" if ahead and job.status == "pending" else job.status
    if progress.step is None or not progress.steps:
        return progress.title
    return f"{progress.title} {progress.step:g}/{progress.steps:g}"
