"""The progress bar of a sweep, with the newest preview."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import attrs

from .. import runtime
from ..events import PreviewEvent
from ..jobs.job import Job
from ..showing.screen import Surface
from .in_flight import InFlight
from .row import SweepRow
from .rows import Sweep

if TYPE_CHECKING:
    from ..showing.bars import Bar, Moment, Preview


@attrs.frozen
class Screen:
    """Callbacks of a running sweep for the screen."""

    make_room: Callable[[], None]  #: Called before other code writes on the screen.
    end: Callable[[Sweep], None]  #: Called when all rows have ended.


@contextmanager
def shown_progress(
    surface: Surface, delay: float, prompts: InFlight, rows: Mapping[int, SweepRow], total: int
) -> Iterator[Screen]:
    """Context manager: show a bar with the number of rows, and at the end how the sweep ended.

    A sweep that ends within ``delay`` seconds is not shown.
    """
    if surface == "none":
        yield Screen(lambda: None, lambda _: None)
        return
    from ..showing.bars import Ticker, make_bar  # a program without a screen needs none

    bar = make_bar(surface, "sweep", delay)
    watch = _SweepBar(bar, prompts, rows, total, shows_previews=surface == "notebook")
    prompts.tick = Ticker(bar, watch.moment, delay).tick
    try:
        yield Screen(bar.clear, watch.succeed)
    except BaseException as exc:
        bar.end(watch.moment("stopped" if isinstance(exc, KeyboardInterrupt) else str(exc)), None)
        raise
    finally:
        prompts.tick = None


class _SweepBar:
    """The bar of a sweep."""

    def __init__(
        self,
        bar: Bar,
        prompts: InFlight,
        rows: Mapping[int, SweepRow],
        total: int,
        *,
        shows_previews: bool,
    ) -> None:
        self._bar = bar
        self._prompts = prompts
        self._rows = rows
        self._total = total
        self._shows_previews = shows_previews
        self._begun = runtime.monotonic()
        self._before = len(rows)  # the number of rows from earlier calls
        self._preview: Preview | None = None
        self._watched: Job | None = None
        self._latest: Callable[[], PreviewEvent | None] = lambda: None

    def succeed(self, rows: Sweep) -> None:
        """Show that all rows have ended, and the gallery, where that is possible."""
        from ..showing.cells import render_outcome

        outcome = render_outcome(rows, rows.gallery) if self._shows_previews else None
        self._bar.end(self.moment("done"), outcome)

    def moment(self, ended: str = "") -> Moment:
        """Return the state of the bar, ``12/500, 3 failed``; running prompts count in part."""
        from ..showing.bars import Moment

        jobs = list(self._prompts.jobs.values())
        if self._shows_previews:
            self._look(jobs)
        rows = list(self._rows.values())
        failed = sum(row.error is not None for row in rows)
        done = len(rows) + sum(job.progress.fraction for job in jobs)
        elapsed = runtime.monotonic() - self._begun
        new = done - self._before
        # The first prompt may have loaded a model, and is no measure for the others.
        left = elapsed / new * (self._total - done) if len(rows) > self._before else None
        counted = f"{len(rows)}/{self._total}{f', {failed} failed' if failed else ''}"
        trouble = "" if ended else self._prompts.trouble
        return Moment(
            min(1.0, done / max(1, self._total)),
            f"{counted}, {trouble}" if trouble else counted,
            elapsed=elapsed,
            left=left,
            preview=self._preview,
            ended=f"{counted}: {ended}" if ended else "",
        )

    def _look(self, jobs: list[Job]) -> None:
        """Take the latest preview of the running job."""
        from ..showing.bars import Preview

        running = next((job for job in jobs if job.status == "running"), None)
        if running is not None and running is not self._watched:
            self._watched, self._latest = running, running.handle.latest_previews()
        event = self._latest()
        if event is not None:
            self._preview = Preview(event.view)
