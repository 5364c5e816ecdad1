"""The server itself: versions, memory, logs, folders."""

from __future__ import annotations

from functools import partial
from reprlib import repr as brief
from typing import Any, Final, Literal

from .. import models, runtime
from ..errors import NotFound, NotSupported, UnexpectedResponse
from ..transport.deadline import Deadline
from ..transport.http import SMALL, Http, segment
from ..values import text, texts, texts_by_name
from ._base import facts_of, read_by_name

#: Seconds between two checks of the memory that is being freed.
_VRAM_INTERVAL: Final = 0.1
#: Seconds until the request is repeated, the first time and after that.  ComfyUI notes the request
#: and wakes its worker.  If the worker is collecting garbage after a prompt, which can take
#: seconds, it misses this and sleeps until the next prompt.
_FIRST_REPEATS: Final = (0.2, 0.4)
_REPEAT_INTERVAL: Final = 1.0


class SystemRoutes:
    """Routes for the server itself: its versions, memory, logs and folders.

    ComfyUI says that programs should not depend on the ``/internal`` routes.
    """

    _http: Http

    def get_system_stats(self) -> models.SystemStats:
        """Return the server's versions, memory and devices (``GET /system_stats``)."""
        return models.SystemStats.from_json(
            self._http.json("GET", "/system_stats", max_bytes=SMALL)
        )

    def get_features(self) -> models.Features:
        """Return the feature flags of the server.

        ``GET /features``, since ComfyUI 0.3.45; empty before.
        """
        try:
            found = self._http.json("GET", "/features", max_bytes=SMALL)
        except (NotFound, NotSupported) as exc:
            if not exc.status:  # no older server, but another API
                raise
            return models.Features()
        return models.Features.from_json(found)

    def free_memory(
        self, unload_models: bool = False, free_memory: bool = False, *, wait: float = 0.0
    ) -> None:
        """Ask the server to free memory after the prompt that is running.

        ``POST /free``, since January 2024.  The server answers immediately, and frees the memory a
        moment later: a prompt that you submit right then may run before that.

        Args:
            unload_models: Unload the models from the device's memory.
            free_memory: Also drop the cached outputs of nodes, and the models; the next prompt
                computes everything again.
            wait: The most seconds to wait until the free memory of the main device has grown and
                is stable (``GET /system_stats``).  It does not grow if there is nothing to free,
                and is not measured on a CPU.  The request is repeated meanwhile, since a server
                that has just run a prompt may defer the first one until after the next prompt.
                0: do not wait.
        """
        deadline = Deadline.after(wait)
        body = {"unload_models": unload_models, "free_memory": free_memory}
        before = last = self._vram() if wait else 0
        self._http.send_command("POST", "/free", json=body)
        if not wait:
            return
        for pause in _FIRST_REPEATS:
            runtime.sleep(deadline.left(pause))
            self._http.send_command("POST", "/free", json=body)
        again = Deadline.after(_REPEAT_INTERVAL)
        while not deadline.expired:
            runtime.sleep(deadline.left(_VRAM_INTERVAL))
            if again.expired:
                self._http.send_command("POST", "/free", json=body)
                again = Deadline.after(_REPEAT_INTERVAL)
            now = self._vram()
            if before < now <= last:
                return
            last = now

    def _vram(self) -> int:
        """Return the free memory of the main device in bytes; 0 if it is a CPU or unknown."""
        devices = self.get_system_stats().devices
        device = devices[0] if devices and devices[0].type != "cpu" else None
        return 0 if device is None else device.vram_free or 0

    def get_logs(self) -> str:
        """Return the latest terminal output as text, each entry with its time.

        ``GET /internal/logs``, since August 2024; :class:`NotSupported` before.
        """
        said = self._internal("logs")
        logs = text(said)
        if logs is None:
            said = self._http.identity.hide(said)
            raise UnexpectedResponse(f"GET /internal/logs: expected text, got {brief(said)}")
        return logs

    def get_raw_logs(self) -> models.RawLogs:
        """Return the latest 300 pieces of terminal output, and the size of the terminal.

        ``GET /internal/logs/raw``, since November 2024; :class:`NotSupported` before.
        """
        return models.RawLogs.from_json(self._internal("logs/raw"))

    def get_folder_paths(self) -> dict[str, list[str]]:
        """Return the folders of each kind of model on the server.

        ``GET /internal/folder_paths``, since September 2024; :class:`NotSupported` before.
        """
        read = partial(texts_by_name, what="GET /internal/folder_paths")
        return read_by_name(self._http, self._internal("folder_paths"), read)

    def get_internal_files(self, type: Literal["output", "input", "temp"]) -> list[str]:
        """Return the names of the files in a folder, newest first, without subfolders.

        ``GET /internal/files/{type}``, since ComfyUI 0.3.15; :class:`NotSupported` before.
        """
        found = self._internal(f"files/{segment(type)}")
        # Since ComfyUI 0.20, each name is followed by its folder.
        return [
            name.removesuffix(f" [{type}]") for name in texts(found, "GET /internal/files/{type}")
        ]

    def _internal(self, route: str) -> Any:
        try:
            return self._http.json("GET", f"/internal/{route}")
        except NotFound as exc:
            # Wherever the route exists, so do all its folders.
            from ..since import who_has  # only for errors

            has_it = who_has("GET", f"/internal/{route}")
            newer = f"; {has_it} has it" if has_it else ""
            raise NotSupported(
                f"{exc} (this server has no /internal/{route}{newer})",
                **facts_of(exc),
            ) from None
