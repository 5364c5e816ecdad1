"""What has come to the server of ``comfy-client serve``: lines of JSON, and when it may end."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any, TextIO

from ..values import T
from .exits import Mistake
from .printing import emit

if TYPE_CHECKING:
    from ..testing import ComfyServer, Ran, Request


class Watch:
    """The requests and prompts of a server since the last look, and how long it has been idle."""

    def __init__(
        self, server: ComfyServer, *, lines: TextIO | None, idle_timeout: float | None
    ) -> None:
        self._server = server
        #: Where a look prints what is new.
        self._lines = lines
        self._idle_timeout = idle_timeout
        self._used_at = time.monotonic()
        #: The last request and prompt that were seen; the lists may have lost older ones.
        self._request: Any = None
        self._prompt: Any = None
        #: Prompts that have not ended.
        self._running: list[Ran] = []

    def is_over(self) -> bool:
        """Print what is new, and return whether nobody has used the server for too long.

        A prompt in the queue and an open socket count as use.
        """
        requests = _since(self._server.requests, self._request)
        prompts = _since(self._server.ran, self._prompt)
        self._request = requests[-1] if requests else self._request
        self._prompt = prompts[-1] if prompts else self._prompt
        if self._lines is not None:
            lines = [*map(_request_line, requests), *self._prompt_lines(prompts)]
            for line in lines:
                emit(line, self._lines)
        return self._is_idle(bool(requests))

    def _prompt_lines(self, begun: Sequence[Ran]) -> list[dict[str, Any]]:
        self._running += begun
        told = [(prompt, prompt.status) for prompt in self._running]
        self._running = [prompt for prompt, status in told if status is None]
        ended = [_prompt_line(prompt, status) for prompt, status in told if status is not None]
        return [*(_prompt_line(prompt, None) for prompt in begun), *ended]

    def _is_idle(self, has_requests: bool) -> bool:
        if self._idle_timeout is None:
            return False
        server, now, is_used = self._server, time.monotonic(), has_requests
        with contextlib.suppress(RuntimeError):  # its control has killed it
            is_used = bool(is_used or server.sockets or server.running or server.pending)
        if is_used:
            self._used_at = now
        return now - self._used_at >= self._idle_timeout


def _request_line(request: Request) -> dict[str, Any]:
    facts = {"method": request.method, "path": request.target, "bytes": len(request.body)}
    return {"event": "request", **facts}


def _prompt_line(prompt: Ran, status: str | None) -> dict[str, Any]:
    return {
        "event": "prompt",
        "prompt_id": prompt.prompt_id,
        "client_id": prompt.client_id,
        "status": status,
    }


def _since(kept: Sequence[T], last: T | None) -> list[T]:
    """Return the items of a list that another thread appends to which come after ``last``."""
    return list(takewhile(lambda one: one is not last, reversed([*kept])))[::-1]


def parent_has_ended() -> Callable[[], bool]:
    """Return a function that says whether the parent of this process has ended.

    Raises Mistake on Windows, where processes have no parent that could be asked for.
    """
    if sys.platform == "win32":
        raise Mistake("--with-parent needs a system that tells of parents, which Windows does not")
    parent = os.getppid()
    return lambda: os.getppid() != parent
