"""How a prompt goes on, shown to whoever waits for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import attrs

from ..events import PreviewEvent
from ..showing.screen import Surface
from .job import Callbacks, Job, Limits, OnInterrupt, wait
from .result import Result

if TYPE_CHECKING:
    from ..showing.bars import Bar, Moment, Preview

#: Of the time, so much may go into drawing: one part in as many.
_SHARE: Final = 50
#: Seconds after which it is drawn in any case.
_LONGEST: Final = 2.0


def wait_watched(
    job: Job, limits: Limits, surface: Surface, callbacks: Callbacks, *, on_interrupt: OnInterrupt
) -> Result:
    """:func:`wait`, with a bar on the screen."""
    if surface == "none":
        return wait(job, limits, callbacks)
    from ..showing.bars import make_bar  # a program without a screen does without

    watch = _Watch(make_bar(surface, f"prompt {job.prompt_id}"), job, surface == "notebook")
    if watch.shows_previews:
        callbacks = attrs.evolve(callbacks, on_preview=watch.seeing(callbacks.on_preview))
    try:
        result = wait(job, limits, callbacks, watch.tick)
    except BaseException as exc:
        watch.fail(exc, on_interrupt)
        raise
    watch.succeed(result)
    return result


class _Watch:
    """Draws a job on a bar, in the thread that waits, and no more often than is worth it."""

    def __init__(self, bar: Bar, job: Job, shows_previews: bool) -> None:
        self.shows_previews = shows_previews
        self._bar = bar
        self._job = job
        self._begun = self._due = time.monotonic()
        self._preview: Preview | None = None

    def seeing(
        self, callback: Callable[[PreviewEvent], object] | None
    ) -> Callable[[PreviewEvent], object]:
        """A callback that keeps the latest preview for when it is drawn, and calls another."""
        from ..showing.bars import Preview

        def see(event: PreviewEvent) -> None:
            if not event.final:
                self._preview = Preview(event.view)
            if callback is not None:
                callback(event)

        return see

    def tick(self) -> float:
        """Draw it if it is time; in how many seconds it will be."""
        before = time.monotonic()
        if before < self._due:
            return self._due - before
        self._bar.show(self._moment())
        now = time.monotonic()
        self._due = now + min(_LONGEST, max(self._bar.period, _SHARE * (now - before)))
        return self._due - now

    def succeed(self, result: Result) -> None:
        """Show what came out, where that is possible."""
        outcome = None
        if self.shows_previews:
            from ..showing.cells import is_full, note_shown
            from ..showing.html import bundle

            if not is_full():
                outcome = bundle(repr(result), result.gallery())
                note_shown(result)
        self._bar.end(self._moment("done"), outcome)

    def fail(self, error: BaseException, on_interrupt: OnInterrupt) -> None:
        """Leave what was there, and say how it ended."""
        if isinstance(error, KeyboardInterrupt):
            runs_on = on_interrupt == "leave" and not self._job.done()
            how = f"stopped; it keeps running: api.job({self._job.prompt_id!r})"
            self._bar.end(self._moment(how if runs_on else "stopped"), None)
        else:
            self._bar.end(self._moment(f"{self._job.status}: {error}"), None)

    def _moment(self, ended: str = "") -> Moment:
        from ..showing.bars import Moment

        progress = self._job.progress
        waited = time.monotonic() - self._begun
        return Moment(
            progress.fraction,
            "" if ended else _doing(self._job),
            elapsed=waited if progress.elapsed is None else progress.elapsed,
            left=progress.left,
            preview=self._preview,
            ended=ended,
        )


def _doing(job: Job) -> str:
    """``KSampler 12/20``, or for what it waits."""
    progress = job.progress
    if progress.title is None:
        ahead = job.queue_position
        return f"waiting, {ahead} ahead" if ahead and job.status == "pending" else job.status
    if progress.step is None or not progress.steps:
        return progress.title
    return f"{progress.title} {progress.step:g}/{progress.steps:g}"
