"""The queue of prompts, and the history of those that have ended."""

from __future__ import annotations

import copy
import heapq
import threading
from collections.abc import Callable
from typing import Any

#: number, prompt_id, graph, extra_data, outputs to execute, secrets of extra_data.  As in ComfyUI a
#: tuple, which decides the order, and the crash on equal ids.
Item = tuple[float, str, dict[str, Any], dict[str, Any], list[str], dict[str, Any]]

_HISTORY_LIMIT = 10_000


class PromptQueue:
    """The pending, running and ended prompts of a server; any thread may call the methods."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        # Guards everything.  Re-entrant, as `changed` asks for remaining().
        self._news = threading.Condition(threading.RLock())
        self._pending: list[Item] = []
        self._running: Item | None = None
        self._history: dict[str, Any] = {}
        self._flags: dict[str, Any] = {}
        self._closed = False

    def put(self, item: Item) -> None:
        """Add a prompt; if its number and id are taken, raise TypeError but add it nevertheless."""
        with self._news:
            heapq.heappush(self._pending, item)
            self._changed()
            self._news.notify()

    def get(self, starting: Callable[[], object] = bool) -> Item | None:
        """Wait for the next prompt, mark it as running and return it.

        ``starting`` is called just before anybody can see that it runs.
        Return None if a flag is set while no prompt is pending, or the queue is closed.
        """
        with self._news:
            self._news.wait_for(lambda: self._pending or self._flags or self._closed)
            if self._closed or not self._pending:
                return None
            item = heapq.heappop(self._pending)
            starting()
            # The executor changes its copy; queue and history show what was sent.
            self._running = copy.deepcopy(item)
            self._changed()
            return item

    def done(self, result: dict[str, Any] | None) -> None:
        """End the running prompt; without a result, history does not record it."""
        with self._news:
            item, self._running = self._running, None
            if item is None:
                return
            if result is not None:
                self._remember(item, result)
            self._changed()

    def _remember(self, item: Item, result: dict[str, Any]) -> None:
        if len(self._history) > _HISTORY_LIMIT:
            del self._history[next(iter(self._history))]
        self._history[item[1]] = {"prompt": item[:5], **result}

    def settle(self, prompt_id: str, result: dict[str, Any]) -> None:
        """End a prompt with a result, whether it is running, pending or unknown."""
        with self._news:
            running = [self._running] if self._running else []
            known = (item for item in (*running, *self._pending) if item[1] == prompt_id)
            item: Item = next(known, (0, prompt_id, {}, {}, [], {}))
            if item is self._running:
                self._running = None
            elif item in self._pending:
                self._pending.remove(item)
                heapq.heapify(self._pending)
            self._remember(item, result)
            self._changed()

    def lose(self) -> str | None:
        """Drop all prompts without a message; return the id of the running one, or None."""
        with self._news:
            self._pending.clear()
            item, self._running = self._running, None
            return item[1] if item else None

    def shown(self) -> dict[str, list[Any]]:
        """Return the answer to ``GET /queue``."""
        with self._news:
            running = [self._running[:5]] if self._running else []
            return {
                "queue_running": running,
                "queue_pending": [item[:5] for item in self._pending],
            }

    @property
    def running_id(self) -> str | None:
        """The id of the running prompt, or None."""
        with self._news:
            return self._running[1] if self._running else None

    def remaining(self) -> int:
        """Return the number of pending and running prompts."""
        with self._news:
            return len(self._pending) + (self._running is not None)

    def clear(self) -> None:
        """Drop all pending prompts."""
        with self._news:
            self._pending.clear()
            self._changed()

    def delete(self, prompt_id: Any) -> bool:
        """Drop the first pending prompt with this id; return False if there is none."""
        with self._news:
            for index, item in enumerate(self._pending):
                if item[1] == prompt_id:
                    del self._pending[index]
                    heapq.heapify(self._pending)
                    if not self._pending:
                        self._changed()  # clients get two messages for the last one
                    self._changed()
                    return True
        return False

    def history(self, max_items: int | None = None, offset: int = -1) -> dict[str, Any]:
        """Return the history, or a part of it, by prompt id; the oldest prompt comes first.

        A part has up to ``max_items`` prompts, from ``offset`` on or, without that, the last ones.
        """
        with self._news:
            if offset < 0 and max_items is not None:
                offset = len(self._history) - max_items
            end = None if max_items is None else max(offset, 0) + max(max_items, 1)
            return dict(list(self._history.items())[max(offset, 0) : end])

    def entry(self, prompt_id: str) -> dict[str, Any]:
        """Return a dict with one prompt's history entry by its id, or an empty dict."""
        with self._news:
            found = self._history.get(prompt_id)
            return {} if found is None else {prompt_id: found}

    def forget(self, prompt_id: Any = None) -> None:
        """Drop one prompt from the history, or all prompts if ``prompt_id`` is None."""
        with self._news:
            if prompt_id is None:
                self._history.clear()
            else:
                self._history.pop(prompt_id, None)

    def flag(self, name: str, value: Any) -> None:
        """Set a flag for the worker, which reads it while no prompt is running."""
        with self._news:
            self._flags[name] = value
            self._news.notify()

    def take_flags(self) -> dict[str, Any]:
        """Return the flags that :meth:`flag` has set, and clear them."""
        with self._news:
            flags, self._flags = self._flags, {}
            return flags

    def close(self) -> None:
        """Stop handing out prompts, and wake the worker if it is waiting for one."""
        with self._news:
            self._closed = True
            self._news.notify()

    @property
    def closed(self) -> bool:
        """Whether the queue was closed."""
        return self._closed
