"""Functions for running nodes: progress, previews, texts, events, and interrupts."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, Final, Protocol

from .folders import Folders
from .server_clock import ServerClock

#: Format ("JPEG" or "PNG"), Pillow image, and the box in pixels that it is fitted into.
PreviewTuple = tuple[str, Any, int | None]

#: Pixels of the longer side of a preview.
PREVIEW_SIZE: Final = 512
#: As in ComfyUI 0.28: the seconds and the fraction of progress between two updates.
_UPDATE_INTERVAL: Final = 0.1
_PART: Final = 0.005


class Interrupted(Exception):
    """The running node was interrupted."""


class ExecutionBlocker:
    """An output of a node that keeps the nodes after it from running.

    The prompt keeps running and succeeds.

    Attributes:
        message: The text sent to the client in an ``execution_error`` of type
            ``ExecutionBlocked``; ``None``: nothing is sent.
    """

    def __init__(self, message: str | None = None) -> None:
        self.message = message


class NodeContext(Protocol):
    """The running prompt, as its nodes see it.

    Attributes:
        folders: The folders of the server's files.
        fewer_progress: Whether progress between the first and the last step may be left out.
        clock: The clock of the server.
    """

    fewer_progress: bool
    clock: ServerClock

    @property
    def folders(self) -> Folders:
        """The folders of the server's files."""

    def check_interrupted(self) -> None:
        """Raise :class:`Interrupted` if the running prompt was interrupted."""

    def progress(self, value: float, total: float, preview: PreviewTuple | None) -> None:
        """Report the progress of the running node."""

    def show_progress(
        self, value: float, total: float, preview: PreviewTuple | None, node_id: str | None = None
    ) -> bool:
        """Report the progress of a node without ``progress``; return whether a preview went out."""

    def wants_previews(self, default: bool) -> bool:
        """Return whether to send previews: the prompt's own choice, or else ``default``."""

    def send_event(self, event: str, data: Any) -> None:
        """Send an event to all clients."""

    def send_text(self, text: str) -> None:
        """Send a text to the prompt's client as the progress of the running node."""


#: The prompt that runs in this thread.
context: ContextVar[NodeContext] = ContextVar("the prompt that runs in this thread")


class ProgressBar:
    """The progress bar of the running node, whose updates are sent to the client.

    It works like ``comfy.utils.ProgressBar``.  An update is sent as ``progress``,
    ``progress_state`` and, if there is one, a preview.  Each update raises :class:`Interrupted` if
    the prompt was interrupted, which ends the node.  Since ``version="0.28"``, an update is sent
    if it is the first or the last one, has a preview, or comes 0.1 seconds and 0.5 % after the one
    before it.

    Attributes:
        total: The number of steps.
        current: The number of steps that are done.
    """

    def __init__(self, total: float) -> None:
        self.total: float = total
        self.current: float = 0
        self._sent: tuple[float, float] | None = None  # the last update: when, and its value

    def update(self, value: float) -> None:
        """Report that some more steps are done."""
        self.update_absolute(self.current + value)

    def update_absolute(
        self, value: float, total: float | None = None, preview: PreviewTuple | None = None
    ) -> None:
        """Report how many steps are done and, if given, a new total and a preview."""
        self.total = self.total if total is None else total
        self.current = min(value, self.total)
        run = context.get()
        run.check_interrupted()
        if self._sent is not None:
            run.clock.stand(run.check_interrupted)
        if preview is None and run.fewer_progress and self._may_wait(run.clock):
            return
        run.progress(self.current, self.total, preview)
        self._sent = run.clock.seconds(), self.current

    def _may_wait(self, clock: ServerClock) -> bool:
        if self._sent is None or self.current >= self.total or clock.paused:
            return False
        then, value = self._sent
        is_soon = clock.seconds() - then < _UPDATE_INTERVAL
        return is_soon or self.current - value < _PART * self.total


def check_interrupted() -> None:
    """Raise :class:`Interrupted` if the running prompt was interrupted; for slow nodes."""
    context.get().check_interrupted()


def wait(seconds: float) -> None:
    """Let a node take some seconds; raise :class:`Interrupted` if the prompt is interrupted."""
    run = context.get()
    run.clock.wait(seconds, run.check_interrupted)


def wants_previews(default: bool) -> bool:
    """Return whether to send previews: the prompt's own choice if allowed, else ``default``."""
    return context.get().wants_previews(default)


def send_event(event: str, data: Any) -> None:
    """Send an event of any name and JSON data to all clients, from a running node."""
    context.get().send_event(event, data)


def send_text(text: str) -> None:
    """Send a text to the prompt's client as the progress of the running node."""
    context.get().send_text(text)
