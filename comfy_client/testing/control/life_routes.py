"""Routes for the health of a server, and for its end and restart."""

from __future__ import annotations

import contextlib
import threading
from datetime import UTC, datetime
from typing import Any

from ..._version import __version__
from ..active_faults import check_seconds
from .controlled import ControlCall, ControlledServer, ControlRoutes

_LONGEST = 3600.0  # seconds that a killed server may be away


class Life:
    """The times of a server's life: when its control began, and when it comes back."""

    def __init__(self, server: ControlledServer) -> None:
        self._server = server
        self._started_at = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._comeback: threading.Timer | None = None
        self._lock = threading.Lock()  # guards the timer

    def routes(self) -> ControlRoutes:
        """Return the routes."""
        return (
            ("GET", "/health", self._health),
            ("POST", "/restart", self._restart),
            ("POST", "/kill", self._kill),
            ("POST", "/reset", self._reset),
            ("POST", "/start", self._start),
        )

    def close(self) -> None:
        """Cancel the comeback of a killed server."""
        with self._lock:
            if self._comeback is not None:
                self._comeback.cancel()
            self._comeback = None

    def _health(self, server: ControlledServer, call: ControlCall) -> tuple[int, Any]:
        queue = None
        with contextlib.suppress(RuntimeError):  # it is not running
            queue = {"running": len(server.running), "pending": len(server.pending)}
        return 503 if queue is None else 200, {
            "status": "stopped" if queue is None else "ready",
            "url": server.url,
            "imitates": server.version,
            "version": __version__,
            "started_at": self._started_at,
            "queue": queue,
            "faults": len(server.faults.active()),
            "speed": server.speed,
            "paused": server.paused,
        }

    def _restart(self, server: ControlledServer, call: ControlCall) -> tuple[int, Any]:
        call.fields(())
        self.close()
        server.restart()
        return 200, {"status": "ready", "url": server.url}

    def _reset(self, server: ControlledServer, call: ControlCall) -> tuple[int, Any]:
        keep = call.fields(("keep",)).get("keep")
        errors = [*server.errors]
        try:
            server.reset(() if keep is None else keep)
        except BaseException as exc:
            if not any(exc is error for error in errors):
                raise
        told = [f"{type(error).__name__}: {error}" for error in errors]
        return 200, {"status": "ready", "url": server.url, "errors": told}

    def _start(self, server: ControlledServer, call: ControlCall) -> tuple[int, Any]:
        call.fields(())
        self.close()
        server.start()
        return 200, {"status": "ready", "url": server.url}

    def _kill(self, server: ControlledServer, call: ControlCall) -> tuple[int, Any]:
        seconds = call.fields(("seconds",)).get("seconds")
        if seconds is not None and check_seconds(seconds) > _LONGEST:
            raise ValueError(f"seconds are {_LONGEST:.0f} at most, not {seconds}")
        self.close()
        server.kill()
        if seconds is not None:
            with self._lock:
                self._comeback = threading.Timer(seconds, self._come_back)
                self._comeback.daemon = True
                self._comeback.start()
        return 200, {"status": "stopped", "url": server.url}

    def _come_back(self) -> None:
        with contextlib.suppress(RuntimeError):  # somebody else has started it
            self._server.start()
