"""The event loop of a server, for the other threads of the process."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")
_FREEZE_TIMEOUT = 10.0  # seconds that the loop gets to reach its block


class ServerLoop:
    """Runs what other threads ask for in the server's thread."""

    def __init__(self) -> None:
        self.is_stopping = False
        #: Set when the server is to end; for the loop itself.
        self.ended = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thaws: set[threading.Event] = set()

    def begin(self) -> asyncio.AbstractEventLoop:
        """Called in the loop, once."""
        self._loop = asyncio.get_running_loop()
        return self._loop

    def stop(self) -> None:
        """End the loop soon, also a frozen one."""
        self.is_stopping = True
        for thaw in list(self._thaws):
            thaw.set()
        self.later(self.ended.set)

    @property
    def is_frozen(self) -> bool:
        """Whether the loop is blocked."""
        return bool(self._thaws)

    def later(self, callback: Callable[..., object], *args: Any) -> None:
        """Call it in the loop, and do not wait; nothing if the loop has ended."""
        with contextlib.suppress(RuntimeError):
            if self._loop is not None:
                self._loop.call_soon_threadsafe(callback, *args)

    def wait(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        """Run it in the loop, and wait; RuntimeError if the server stops meanwhile."""
        if self._loop is None or self._loop.is_closed() or self._thaws:
            coroutine.close()
            raise RuntimeError("the server is frozen" if self._thaws else "the server has stopped")
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        while True:
            try:
                return future.result(0.1)
            except TimeoutError:
                if self.is_stopping:
                    raise RuntimeError("the server has stopped") from None

    def call(self, function: Callable[..., object], *args: Any) -> None:
        """Call it in the loop, and wait."""

        async def calling() -> None:
            function(*args)

        self.wait(calling())

    def freeze(self) -> Callable[[], None]:
        """Block the loop; returns a function that unblocks it."""
        thaw, frozen = threading.Event(), threading.Event()

        def sleep() -> None:
            frozen.set()
            thaw.wait()

        self.later(sleep)
        if not self._thaws:  # else its turn comes when the other ends
            frozen.wait(_FREEZE_TIMEOUT)
        self._thaws.add(thaw)

        def wake() -> None:
            self._thaws.discard(thaw)
            thaw.set()

        return wake


async def let_others_run() -> None:
    """Let all other tasks of the loop run, and those that follow from them."""
    for _ in range(4):
        await asyncio.sleep(0)
