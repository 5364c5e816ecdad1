"""Progress bars: in a terminal, below the cell of a notebook, as lines of a log."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import select
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol, TextIO

import attrs

from .html import Bundle, bundle, data_url, escape, image, meter, short_line
from .screen import Surface
from .thumbnails import sniffed, thumbnail

log: logging.Logger = logging.getLogger("comfy_client")

#: Drawing takes at most this fraction of the time: one part in so many.
_SHARE: Final = 50
#: The longest time between two drawings, in seconds.
_LONGEST: Final = 2.0
#: The largest preview that is shown unscaled, in bytes.
_MOST_PREVIEW: Final = 128 << 10
#: The width of the text in columns.
_WIDTH: Final = 40


@attrs.frozen
class Preview:
    """An encoded picture of unfinished work."""

    data: bytes | memoryview


@attrs.frozen
class Moment:
    """The progress of a run at one moment.

    Attributes:
        fraction: From 0 to 1.
        text: What is being done.
        elapsed: Seconds since it began.
        left: About how many seconds are left; ``None``: unknown.
        preview: The latest preview; ``None``: there is none.
        ended: How it ended, in a word; empty: it goes on.
    """

    fraction: float
    text: str = ""
    elapsed: float = 0.0
    left: float | None = None
    preview: Preview | None = None
    ended: str = ""

    @property
    def times(self) -> str:
        """Elapsed and remaining time, such as ``0:12, about 0:08 left``."""
        if self.left is None or self.ended:
            return clock(self.elapsed)
        return f"{clock(self.elapsed)}, about {clock(math.ceil(self.left))} left"


class Bar(Protocol):
    """Display of moments, in the thread that waits.

    Attributes:
        period: Seconds between two moments.
    """

    period: float

    def show(self, moment: Moment) -> None:
        """Show the progress."""

    def clear(self) -> None:
        """Clear the bar before somebody else writes to the screen."""

    def end(self, moment: Moment, outcome: Bundle | None) -> None:
        """Finish the bar; a notebook shows ``outcome`` in its place."""


class Ticker:
    """Updates a bar, from ``delay`` seconds on, and not so often that drawing takes too long."""

    def __init__(self, bar: Bar, moment: Callable[[], Moment], delay: float) -> None:
        self._bar = bar
        self._moment = moment
        self._due = time.monotonic() + delay

    def tick(self) -> float:
        """Update the bar if it is due; return the seconds until the next update."""
        before = time.monotonic()
        if before < self._due:
            return self._due - before
        self._bar.show(self._moment())
        now = time.monotonic()
        self._due = now + min(_LONGEST, max(self._bar.period, _SHARE * (now - before)))
        return self._due - now


def clock(seconds: float) -> str:
    """Format seconds as ``0:07``, ``12:30`` or ``1:02:03``."""
    whole = int(min(max(0.0, seconds), 359_999)) if math.isfinite(seconds) else 0
    hours, rest = divmod(whole, 3600)
    minutes, rest = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def make_bar(surface: Surface, name: str, delay: float, **facts: object) -> Bar:
    """Make a bar for a surface; log lines begin with ``name`` and carry ``facts``.

    Log lines leave out a run that ends within ``delay`` seconds.
    """
    return _Guarded(_bar(surface, name, delay, facts))


class _Guarded:
    """A bar that shows nothing more after an error of its own, which must not end the run."""

    def __init__(self, bar: Bar) -> None:
        self.period = bar.period
        self._bar: Bar | None = bar

    def show(self, moment: Moment) -> None:
        """Show the progress."""
        self._do(lambda bar: bar.show(moment))

    def clear(self) -> None:
        """Clear the bar before somebody else writes to the screen."""
        self._do(lambda bar: bar.clear())

    def end(self, moment: Moment, outcome: Bundle | None) -> None:
        """Finish the bar."""
        self._do(lambda bar: bar.end(moment, outcome))

    def _do(self, action: Callable[[Bar], None]) -> None:
        if self._bar is None:
            return
        try:
            action(self._bar)
        except Exception as exc:  # noqa: BLE001  # of a terminal or a notebook, which may be gone
            self._bar = None
            log.debug("nothing more is shown: %r", exc)


def _bar(surface: Surface, name: str, delay: float, facts: Mapping[str, object]) -> Bar:
    if surface == "notebook":
        return NotebookBar()
    if surface == "terminal":
        return TerminalBar()
    if surface == "lines":
        return Lines(_print, delay)
    return Lines(lambda text: log.info("%s: %s", name, text, extra=facts), delay)


class TerminalBar:
    """A line on stderr that tqdm updates."""

    period: float = 0.1

    def __init__(self) -> None:
        self._width = 0
        self._bar: Any = None

    def show(self, moment: Moment) -> None:
        """Draw the bar."""
        if self._bar is None:
            self._bar = _tqdm()
        self._bar.n = round(moment.fraction, 3)
        text = short_line(moment.ended or moment.text, _WIDTH)
        self._width = max(self._width, len(text))  # keeps the bar in its column
        self._bar.set_description_str(text.ljust(self._width), refresh=False)
        self._bar.unit = moment.times
        with contextlib.suppress(OSError, ValueError):  # the terminal is gone
            self._bar.refresh()

    def clear(self) -> None:
        """Clear the line; the next update draws it again."""
        if self._bar is not None:
            with contextlib.suppress(OSError, ValueError):
                self._bar.clear()

    def end(self, moment: Moment, outcome: Bundle | None) -> None:
        """Draw the last state and leave it, if the bar was shown at all."""
        if self._bar is not None:
            self.show(moment)
            with contextlib.suppress(OSError, ValueError):
                self._bar.close()


def _tqdm() -> Any:
    from tqdm import tqdm

    class Still(tqdm):  # type: ignore[misc]  # tqdm has no types
        monitor_interval = 0  # tqdm starts no thread of its own

    columns, lines = (None, None) if _has_size() else shutil.get_terminal_size()
    return Still(
        total=1.0,
        file=sys.stderr,
        ncols=columns,
        nrows=lines,
        dynamic_ncols=columns is None,
        bar_format="{desc}  {percentage:3.0f}%|{bar}| {unit}",
    )


def _has_size() -> bool:
    """Return False for a terminal of 0 columns, as in ``docker run -t``."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except (AttributeError, OSError, ValueError):  # not a file, so tqdm decides
        return True


class Lines:
    """Progress as one line for each 10 %."""

    period: float = 0.5

    def __init__(self, write: Callable[[str], object], delay: float) -> None:
        self._write = write
        self._delay = delay
        self._tenths = 0

    def show(self, moment: Moment) -> None:
        """Write a line for each new tenth."""
        tenths = int(min(max(0.0, moment.fraction), 1.0) * 10 + 1e-9)
        if tenths > self._tenths and not moment.ended:
            self._tenths = tenths
            what = f", {short_line(moment.text, _WIDTH)}" if moment.text else ""
            self._write(f"{tenths * 10} %{what}, {moment.times}")

    def clear(self) -> None:
        """Do nothing: lines need no clearing."""

    def end(self, moment: Moment, outcome: Bundle | None) -> None:
        """Write how the run ended, unless it was very short."""
        if self._tenths or moment.elapsed >= self._delay:
            self._write(f"{short_line(moment.ended, 200)}, {moment.times}")


def _print(text: str) -> None:
    if sys.stderr is None:  # as in pythonw
        return
    with contextlib.suppress(OSError, ValueError):
        if _has_room(sys.stderr):
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()


def _has_room(stream: TextIO) -> bool:
    """Return False for a full pipe, to which a write would block."""
    try:
        return bool(select.select([], [stream], [], 0)[1])
    except (OSError, TypeError, ValueError):  # not a file; on Windows, not a socket
        return True


class NotebookBar:
    """A bar and a preview below the cell, replaced by the result at the end.

    This is a single updated display without widgets, so it works in every kind of notebook, and the
    file keeps only what was shown last.
    """

    period: float = 0.25

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, moment: Moment) -> None:
        """Show the bar below the latest preview."""
        self._put(_bar_bundle(moment))

    def clear(self) -> None:
        """Do nothing: output goes below the bar."""

    def end(self, moment: Moment, outcome: Bundle | None) -> None:
        """Replace the bar by the outcome; without one, say how the run ended."""
        if outcome is not None and (self._handle is not None or "text/html" in outcome):
            self._put(outcome)
        elif self._handle is not None:
            self._put(_bar_bundle(moment))

    def _put(self, bundle: Bundle) -> None:
        from IPython import display

        if self._handle is None:
            self._handle = display.DisplayHandle()
            self._handle.display(bundle, raw=True)
        else:
            self._handle.update(bundle, raw=True)


def _bar_bundle(moment: Moment) -> Bundle:
    percent = f"{100 * min(max(0.0, moment.fraction), 1.0):.0f} %"
    what = moment.ended or moment.text
    mood = "" if not moment.ended else "good" if moment.fraction >= 1 else "bad"
    below = f"{percent}, {moment.times}"
    return bundle(
        f"{short_line(what, 200)} {below}",
        f"{_picture(moment.preview)}{meter(moment.fraction, mood)}"
        f'<div>{escape(what, 200)}</div><div style="opacity:.7">{below}</div>',
    )


def _picture(preview: Preview | None) -> str:
    """Return a preview as HTML, as a thumbnail if it is large; empty without a preview."""
    if preview is None:
        return ""
    mime = sniffed(preview.data)
    if mime is None or len(preview.data) > _MOST_PREVIEW:
        return thumbnail(preview.data) or ""
    return image(data_url(mime, preview.data) or "")
