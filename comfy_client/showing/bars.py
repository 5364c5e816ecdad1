"""Progress bars: in a terminal, below the cell of a notebook, as lines of a log."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import select
import shutil
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol, TextIO

import attrs

from .html import Bundle, bundle, data_url, escape, image, meter, short_line
from .screen import Surface, cell
from .thumbnails import sniffed, thumbnail

log: logging.Logger = logging.getLogger("comfy_client")

#: After a drawing, wait this many times as long as it took, up to ``_LONGEST``.
_SHARE: Final = 50
#: The longest time between two drawings, in seconds.
_LONGEST: Final = 2.0
#: The largest preview that is shown unscaled, in bytes.
_MOST_PREVIEW: Final = 128 << 10
#: The width of the text in columns, at most and at least, and of a bar without text and times.
_WIDTH: Final = 40
_LEAST: Final = 10
_REST: Final = 16
#: A terminal with fewer columns gets fewer words.
_NARROW: Final = 60
#: The most lines below a bar on a terminal.
_MOST_NOTES: Final = 4


@attrs.frozen
class Preview:
    """An encoded picture of unfinished work."""

    data: bytes | memoryview


@attrs.frozen
class Moment:
    """The progress of a run at one moment.

    Attributes:
        fraction: How much of the run is done, from 0 to 1; ``None``: unknown.
        text: What is being done.
        elapsed: Seconds since the run began.
        left: About how many seconds are left; ``None``: unknown.
        preview: The latest preview; ``None``: there is none.
        phase: The phase of the run, such as ``waiting``; :class:`LogBar` shows each change of it.
        ended: How the run ended, in a few words; empty until then.
        notes: Lines below the bar, such as one for each server.
    """

    fraction: float | None
    text: str = ""
    elapsed: float = 0.0
    left: float | None = None
    preview: Preview | None = None
    phase: str = "running"
    ended: str = ""
    notes: tuple[str, ...] = ()

    @property
    def times(self) -> str:
        """The elapsed time and, if known, the remaining time, such as ``0:12, about 0:08 left``."""
        if self.left is None or self.ended:
            return clock(self.elapsed)
        return f"{clock(self.elapsed)}, about {clock(math.ceil(self.left))} left"


class Bar(Protocol):
    """A progress bar, which shows one :class:`Moment` of a run after another.

    Attributes:
        period: Seconds between two updates; ``math.inf``: only the outcome is shown.
    """

    period: float

    def show(self, moment: Moment) -> None:
        """Show the progress of the run at a moment."""

    def clear(self) -> None:
        """Clear the bar, so that other output can be written to the screen."""

    def end(self, moment: Moment, outcome: Bundle | None) -> None:
        """Finish the bar; a notebook shows ``outcome`` in its place."""


class Ticker:
    """Updates a bar, first after ``delay`` seconds, then at intervals that keep drawing cheap."""

    def __init__(self, bar: Bar, moment: Callable[[], Moment], delay: float) -> None:
        self._bar = bar
        self._moment = moment
        self._latest: Moment | None = None
        self._due = time.monotonic() + max(delay, 0.0 if bar.period < math.inf else math.inf)

    def tick(self) -> float:
        """Update the bar if it is due; return the seconds until the next update."""
        before = time.monotonic()
        if before < self._due:
            return self._due - before
        is_first, self._latest = self._latest is None, self._moment()
        self._bar.show(self._latest)
        now = time.monotonic()
        cost = 0.0 if is_first else now - before  # the first one has imported what draws
        self._due = now + min(_LONGEST, max(self._bar.period, _SHARE * cost))
        return self._due - now

    def redraw(self) -> None:
        """Show the bar again after it was cleared, if it has been shown."""
        shown = self._latest
        self.tick()
        if shown is not None and shown is self._latest:
            self._bar.show(shown)


def clock(seconds: float) -> str:
    """Format seconds as ``0:07``, ``12:30`` or ``1:02:03``."""
    whole = int(min(max(0.0, seconds), 359_999)) if math.isfinite(seconds) else 0
    hours, rest = divmod(whole, 3600)
    minutes, rest = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def make_bar(surface: Surface, name: str, delay: float, **facts: object) -> Bar:
    """Make the bar for a kind of screen; log lines begin with ``name`` and carry ``facts``.

    Log lines leave out a run that ends within ``delay`` seconds.  While a thread draws a bar in a
    terminal or below a cell, further bars of that thread, such as one for a wait in a callback,
    show their outcome only.
    """
    takes_screen = surface in ("notebook", "terminal")
    bar = GuardedBar(_bar(surface, name, delay, facts), is_inner=takes_screen and _is_drawing())
    if takes_screen and bar.period < math.inf:
        _own.bar, _own.cell = weakref.ref(bar), cell()
    return bar


class _Own(threading.local):
    """The bar that the current thread draws, and the notebook cell below which it appears."""

    bar: Callable[[], GuardedBar | None] = staticmethod(lambda: None)
    cell: object = None


_own: Final = _Own()


def _is_drawing() -> bool:
    """Return whether this thread is drawing an unfinished bar below the running cell."""
    bar = _own.bar()
    return bar is not None and not bar.has_ended and _own.cell == cell()


class GuardedBar:
    """A wrapper around a bar: if drawing fails, the run goes on, and the bar shows nothing more."""

    def __init__(self, bar: Bar, *, is_inner: bool = False) -> None:
        self.period: float = math.inf if is_inner else bar.period
        self.has_ended: bool = False
        self._bar: Bar | None = bar

    def show(self, moment: Moment) -> None:
        """Show the progress, unless this is an inner bar, which shows only its outcome."""
        if self.period < math.inf:
            self._do(lambda bar: bar.show(moment))

    def clear(self) -> None:
        """Clear the bar, so that other output can be written to the screen."""
        self._do(lambda bar: bar.clear())

    def end(self, moment: Moment, outcome: Bundle | None) -> None:
        """Finish the bar."""
        self.has_ended = True
        self._do(lambda bar: bar.end(moment, outcome))

    def _do(self, action: Callable[[Bar], None]) -> None:
        if self._bar is None:
            return
        try:
            action(self._bar)
        except Exception as exc:  # noqa: BLE001  # the terminal or notebook may be gone
            self._bar = None
            log.debug("nothing more is shown: %r", exc)


def _bar(surface: Surface, name: str, delay: float, facts: Mapping[str, object]) -> Bar:
    if surface == "notebook":
        return NotebookBar()
    if surface == "terminal":
        return TerminalBar()
    if surface == "lines":
        return LogBar(_print, delay)
    return LogBar(lambda text: log.info("%s: %s", name, text, extra=facts), delay)


class TerminalBar:
    """A line on stderr that tqdm updates, and lines below it for the notes."""

    period: float = 0.1

    def __init__(self) -> None:
        self._width = 0
        self._bar: Any = None
        self._below: list[Any] = []

    def show(self, moment: Moment) -> None:
        """Draw the bar."""
        if self._bar is None:
            meter = "  " if moment.fraction is None else "  {percentage:3.0f}%|{bar}| "
            self._bar = _tqdm(f"{{desc}}{meter}{{unit}}")
        columns = _columns()
        times = moment.times if columns >= _NARROW else moment.times.replace("about ", "")
        room = max(_LEAST, min(_WIDTH, columns - _REST - len(times)))
        self._bar.n = round(moment.fraction or 0.0, 3)
        text = _short(moment.ended or moment.text, room)
        self._width = min(room, max(self._width, len(text)))  # keeps the bar in its column
        self._bar.set_description_str(text.ljust(self._width), refresh=False)
        self._bar.unit = times
        with contextlib.suppress(OSError, ValueError):  # the terminal is gone
            self._bar.refresh()
            self._note(moment.notes, columns - 1)

    def _note(self, notes: tuple[str, ...], room: int) -> None:
        """Draw the notes in lines below the bar, if there are any."""
        if len(notes) > _MOST_NOTES:
            notes = (*notes[: _MOST_NOTES - 1], f"and {len(notes) - _MOST_NOTES + 1} more")
        while len(self._below) < len(notes):
            self._below.append(_tqdm("{desc}", leave=False))
        for at, line in enumerate(self._below):
            text = _short(notes[at], room) if at < len(notes) else ""
            line.set_description_str(text, refresh=False)
            line.refresh()

    def clear(self) -> None:
        """Clear the lines; the next update draws them again."""
        with contextlib.suppress(OSError, ValueError):
            for line in (*reversed(self._below), *filter(None, [self._bar])):
                line.clear()

    def end(self, moment: Moment, outcome: Bundle | None) -> None:
        """Draw the final state and leave it on the screen, if the bar was shown at all."""
        if self._bar is not None:
            with contextlib.suppress(OSError, ValueError):
                while self._below:
                    self._below.pop().close()
            self.show(attrs.evolve(moment, notes=()))
            with contextlib.suppress(OSError, ValueError):
                self._bar.close()


def _tqdm(bar_format: str, *, leave: bool = True) -> Any:
    from tqdm import tqdm

    class Still(tqdm):  # type: ignore[misc]  # tqdm has no types
        monitor_interval = 0  # tqdm starts no thread of its own

        def __del__(self) -> None:
            """Do nothing, as tqdm would write to the screen whenever the object is collected."""

    columns, lines = (None, None) if _has_size() else shutil.get_terminal_size()
    made = Still(
        total=1.0,
        file=sys.stderr,
        leave=leave,
        delay=1.0,  # so that no empty bar flashes
        ncols=columns,
        nrows=lines,
        dynamic_ncols=columns is None,
        bar_format=bar_format,
    )
    made.delay = 0.0
    return made


def _short(text: str, most: int) -> str:
    return short_line(_encodable(text[: 2 * most + 1]), most)


def _encodable(text: str) -> str:
    """Escape the letters that the encoding of stderr lacks, as a program may have set it."""
    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _columns() -> int:
    """Return the width of the terminal in columns, determined as tqdm does it."""
    try:
        columns = os.get_terminal_size(sys.stderr.fileno()).columns
    except (AttributeError, OSError, ValueError):  # not a file
        columns = 0
    return columns or shutil.get_terminal_size().columns


def _has_size() -> bool:
    """Return whether the terminal has a width; False for 0 columns, as in ``docker run -t``."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except (AttributeError, OSError, ValueError):  # not a file, so tqdm decides
        return True


class LogBar:
    """A progress bar that writes lines of text, one for each 10 % and each change of phase."""

    period: float = 0.5

    def __init__(self, write: Callable[[str], object], delay: float) -> None:
        self._write = write
        self._delay = delay
        self._tenths = 0
        self._phase = "running"
        self._is_shown = False

    def show(self, moment: Moment) -> None:
        """Write a line if another tenth of the run is done, or its phase has changed."""
        tenths = int(min(max(0.0, moment.fraction or 0.0), 1.0) * 10 + 1e-9)
        is_further, is_other = tenths > self._tenths, moment.phase != self._phase
        if not (is_further or is_other) or moment.ended:
            return
        self._tenths, self._phase, self._is_shown = max(tenths, self._tenths), moment.phase, True
        text = short_line(moment.text, _WIDTH)
        done = f"{tenths * 10} %" if is_further else ""
        self._write(", ".join(filter(None, [done, text, moment.times])))

    def clear(self) -> None:
        """Do nothing: lines need no clearing."""

    def end(self, moment: Moment, outcome: Bundle | None) -> None:
        """Write how the run ended, unless it took less than the delay and no line was written."""
        if self._is_shown or moment.elapsed >= self._delay:
            self._write(f"{short_line(moment.ended, 200)}, {moment.times}")


def _print(text: str) -> None:
    if sys.stderr is None:  # as in pythonw
        return
    with contextlib.suppress(OSError, ValueError):
        if _has_room(sys.stderr):
            sys.stderr.write(f"{_encodable(text)}\n")
            sys.stderr.flush()


def _has_room(stream: TextIO) -> bool:
    """Return whether a stream can be written to without blocking; False for a full pipe."""
    try:
        return bool(select.select([], [stream], [], 0)[1])
    except (OSError, TypeError, ValueError):  # not a file; on Windows, not a socket
        return True


class InPlace:
    """A display below the cell in which each value replaces the one before."""

    def __init__(self) -> None:
        self._handle: Any = None

    @property
    def is_shown(self) -> bool:
        """Whether anything is displayed."""
        return self._handle is not None

    def put(self, bundle: Bundle) -> None:
        """Display a value: the first one below the running cell."""
        from IPython import display

        if self._handle is None:
            self._handle = display.DisplayHandle()
            self._handle.display(bundle, raw=True)
        else:
            self._handle.update(bundle, raw=True)


class NotebookBar:
    """A bar and a preview below the cell, replaced by the result at the end.

    This is a single updated display without widgets, so it works in every kind of notebook, and the
    file keeps only what was shown last.
    """

    period: float = 0.25

    def __init__(self) -> None:
        self._place = InPlace()

    def show(self, moment: Moment) -> None:
        """Show the bar below the latest preview."""
        self._place.put(_bar_bundle(moment))

    def clear(self) -> None:
        """Do nothing: output goes below the bar."""

    def end(self, moment: Moment, outcome: Bundle | None) -> None:
        """Replace the bar with the outcome; without one, say in the bar how the run ended."""
        if outcome is not None and (self._place.is_shown or "text/html" in outcome):
            self._place.put(outcome)
        elif self._place.is_shown:
            self._place.put(_bar_bundle(moment))


def _bar_bundle(moment: Moment) -> Bundle:
    fraction, what = moment.fraction, moment.ended or moment.text
    below, bar = moment.times, ""
    if fraction is not None:
        mood = "" if not moment.ended else "good" if fraction >= 1 else "bad"
        below = f"{100 * min(max(0.0, fraction), 1.0):.0f} %, {below}"
        bar = meter(fraction, mood)
    notes = "".join(f'<div style="opacity:.7">{escape(note, 200)}</div>' for note in moment.notes)
    return bundle(
        "; ".join([f"{short_line(what, 200)} {below}", *moment.notes]),
        f"{_picture(moment.preview)}{bar}"
        f'<div>{escape(what, 200)}</div><div style="opacity:.7">{below}</div>{notes}',
    )


def _picture(preview: Preview | None) -> str:
    """Return a preview as HTML, as a thumbnail if it is large; empty without a preview."""
    if preview is None:
        return ""
    mime = sniffed(preview.data)
    if mime is None or len(preview.data) > _MOST_PREVIEW:
        return thumbnail(preview.data) or ""
    return image(data_url(mime, preview.data) or "")
