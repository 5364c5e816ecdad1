"""Bars for large files that are sent or received."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

from .. import runtime
from ..interrupts import was_stopped
from .screen import surface

if TYPE_CHECKING:
    from .bars import Bar, Moment, Ticker

#: The size of the smallest file with a bar, in bytes.
LARGE: Final = 8_000_000

#: Called with the number of bytes that were moved, and the size of the file; ``None``: unknown.
OnMoved: TypeAlias = Callable[[int, int | None], None]
Chunk = TypeVar("Chunk", bound=Sized)


@contextmanager
def shown_transfer(verb: str, name: str, delay: float = 0.4) -> Iterator[OnMoved]:
    """Context manager: yield a function to call during a transfer, which draws a bar.

    Only large files have a bar, in the main thread of a notebook or a terminal, if the transfer
    takes longer than ``delay`` seconds.
    """
    transfer = _Transfer(f"{verb} {name}", delay)
    try:
        yield transfer.move
    except BaseException as exc:
        transfer.end("stopped" if was_stopped(exc) else type(exc).__name__)
        raise
    transfer.end("done")


def told(chunks: Iterable[Chunk], size: int | None, on_moved: OnMoved) -> Iterator[Chunk]:
    """Yield the chunks of a file; after each, call ``on_moved`` with the number of bytes so far."""
    moved = 0
    for chunk in chunks:
        yield chunk
        moved += len(chunk)
        on_moved(moved, size)


class _Transfer:
    """The progress bar for the transfer of one file."""

    def __init__(self, what: str, delay: float) -> None:
        self._what = what
        self._delay = delay
        self._begun = runtime.monotonic()
        self._moved = self._size = 0
        self._bar: Bar | None = None
        self._ticker: Ticker | None = None

    def move(self, moved: int, size: int | None) -> None:
        """Draw the bar if it is due; the first call with a size decides whether there is one."""
        self._moved = moved
        if size and not self._size:
            self._size = size
            where = surface(None, unasked_lines=False) if size > LARGE else "none"
            if where != "none":
                from .bars import Ticker, make_bar  # slow to import

                self._bar = make_bar(where, self._what, self._delay)
                self._ticker = Ticker(self._bar, self._moment, self._delay)
        if self._ticker is not None:
            self._ticker.tick()

    def end(self, how: str) -> None:
        """Finish the bar, if there is one."""
        if self._bar is not None:
            self._bar.end(self._moment(how), None)

    def _moment(self, ended: str = "") -> Moment:
        from .bars import Moment

        elapsed = runtime.monotonic() - self._begun
        fraction = min(1.0, self._moved / self._size)
        left = elapsed / fraction * (1 - fraction) if fraction else None
        done, size = round(self._moved / 1e6), round(self._size / 1e6)
        text = f"{self._what}, {done} of {size} MB"
        return Moment(
            fraction,
            text,
            elapsed=elapsed,
            left=left,
            ended=f"{text}: {ended}" if ended else "",
        )
