"""Waiting for tasks of ComfyUI-Manager at a terminal."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

import attrs

from .. import runtime
from ..errors import ComfyError, NotFound, TaskFailed, TaskTimeout
from .exits import Exit, Mistake, known_server, message_of
from .printing import emit, note, report, say
from .server_options import ServerOptions

if TYPE_CHECKING:
    from ..ext.tasks import Task

#: What is said of a task that is done, by its kind.
_DONE: Final = {
    "install": "installed",
    "uninstall": "removed",
    "enable": "enabled",
    "disable": "disabled",
    "update": "up to date:",  # also if there was nothing newer
    "fix": "fixed",
}


def finish(
    given: ServerOptions,
    starts: Iterable[Callable[[], Task]],
    timeout: float | None,
    quiet: bool,
    nearest: Callable[[str], Sequence[str]] | None = None,
) -> list[Exit]:
    """Start tasks, wait for all, and print how each ended; return their exit statuses.

    Ctrl-C and ``timeout`` (in seconds; None: no limit) end only the waiting.  ``nearest`` returns
    known names like the one of a task that has failed.
    """
    tasks: list[Task] = []
    statuses: list[Exit] = []
    end = None if timeout is None else time.monotonic() + timeout
    try:
        for start in starts:
            try:
                tasks.append(start())
            except (NotFound, ValueError) as exc:  # a name that is wrong
                statuses.append(report(Mistake(message_of(exc)), given.json))
            except ComfyError as exc:
                statuses.append(report(exc, given.json))
        with _shown(len(tasks), quiet) as shown:
            for task in _ended(tasks, end, shown):
                shown.clear()
                statuses.append(_print_end(given, task, timeout, nearest))
    except KeyboardInterrupt:
        if going := [task.id for task in tasks if not task.done()]:
            line = known_server().command("packs", "wait", *going)
            note(f"The Manager goes on; {line} waits for it.")
        raise
    return statuses


def _ended(tasks: Sequence[Task], end: float | None, shown: _Progress) -> Iterator[Task]:
    """Yield tasks as they end; once the time is over, those that have not ended."""
    from concurrent.futures import FIRST_COMPLETED, wait

    pending = set(tasks)
    while pending:
        shown.show([task for task in tasks if task in pending])
        left = runtime.SLICE if end is None else end - time.monotonic()
        if left <= 0:
            break
        done, _ = wait(pending, min(left, runtime.SLICE), FIRST_COMPLETED)
        yield from (task for task in tasks if task in done)
        pending -= done
    yield from (task for task in tasks if task in pending)


def _print_end(
    given: ServerOptions,
    task: Task,
    timeout: float | None,
    nearest: Callable[[str], Sequence[str]] | None,
) -> Exit:
    """Print how a task ended, or that it goes on; return its exit status."""
    try:
        pack = task.result(0)
    except TaskTimeout:
        text = f"{_about(task)}: not done within {timeout:g} s; the Manager goes on"
        return report(TaskTimeout(text, task_id=task.id), given.json)
    except TaskFailed as exc:
        names = [] if nearest is None else _names_like(task.name, nearest)
        if not names:
            return report(exc, given.json)
        text = f"{exc}; the nearest known packs are: {', '.join(names)}"
        told = TaskFailed(text, task_id=exc.task_id, kind=exc.kind, name=exc.name)
        return report(told, given.json)
    except ComfyError as exc:
        return report(exc, given.json)
    if given.json:
        facts = {"task": task.id, "kind": task.kind, "name": task.name}
        emit({**facts, "pack": None if pack is None else pack.to_dict()})
    else:
        version = f" {pack.ver}" if pack is not None and pack.ver else ""
        say(f"{_DONE.get(task.kind, f'{task.kind} done:')} {task.name}{version}")
    return Exit.DONE


def _names_like(name: str, nearest: Callable[[str], Sequence[str]]) -> Sequence[str]:
    """Return known names; none if the Manager does not tell, as that hides no error."""
    try:
        return nearest(name)
    except ComfyError:
        return ()


def _about(task: Task) -> str:
    """Return what a task does, in the words of the commands."""
    return f"{'remove' if task.kind == 'uninstall' else task.kind} {task.name}"


class _Progress:
    """Silent progress, as with ``--quiet``; the base of the others."""

    def show(self, pending: Sequence[Task]) -> None:
        """Show the tasks that have not ended."""

    def clear(self) -> None:
        """Make room for a line."""

    def end(self, how: str) -> None:
        """Show how the wait ended."""


class _Lines(_Progress):
    """A line on stderr for each task."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def show(self, pending: Sequence[Task]) -> None:
        """Print a line for each new task."""
        for task in pending:
            if task.id not in self._told:
                self._told.add(task.id)
                note(f"{_about(task)} ...")


class _TaskBar(_Progress):
    """A bar in a terminal."""

    def __init__(self, total: int) -> None:
        from ..showing.bars import Moment, make_bar

        self._total, self._began = total, time.monotonic()
        self._bar = make_bar("terminal", "packs", 0.0)
        self._last = Moment(0.0)

    def show(self, pending: Sequence[Task]) -> None:
        """Draw how many tasks have ended, and what the first of the others is."""
        first = _about(pending[0]) if pending else ""
        more = f" and {len(pending) - 1} more" if len(pending) > 1 else ""
        fraction = 1 - len(pending) / self._total
        elapsed = time.monotonic() - self._began
        self._last = attrs.evolve(self._last, fraction=fraction, text=first + more, elapsed=elapsed)
        self._bar.show(self._last)

    def clear(self) -> None:
        """Clear the bar; it is drawn again soon."""
        self._bar.clear()

    def end(self, how: str) -> None:
        """Draw the bar for the last time."""
        self._bar.end(attrs.evolve(self._last, ended=how), None)


@contextlib.contextmanager
def _shown(total: int, quiet: bool) -> Iterator[_Progress]:
    """Context manager: show tasks as a bar in a terminal, else as lines."""
    from ..showing.screen import surface

    kind = "none" if quiet or not total else surface(None)
    shown = _Progress() if kind == "none" else _TaskBar(total) if kind == "terminal" else _Lines()
    try:
        yield shown
    except BaseException:
        shown.end("stopped")
        raise
    shown.show(())
    shown.end("ended")
