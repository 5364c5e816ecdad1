"""The parts of a running hosted surface, which its routes share."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable

import attrs
from aiohttp import web

from ..server_state import ServerState
from .memory import AssetRecord, Memory, StoredFile
from .traps import HostedTraps, Place
from .v2_errors import Refusal

_POLL = 0.01  # seconds between two looks at a ComfyUI that does not answer


@attrs.define(eq=False)
class HostedState:
    """A hosted surface, and the ComfyUI behind it."""

    place: Place
    memory: Memory
    comfy: ServerState
    prefix: str
    token: str | None
    #: The URL of ComfyUI, as the surface reports it.
    upstream_url: str
    storage_url: str
    _traps: Callable[[], HostedTraps]
    #: The number of open event streams.
    streams: int = 0

    @property
    def traps(self) -> HostedTraps:
        """The traps that are set now."""
        return self._traps()

    def base(self, request: web.Request) -> str:
        """Return the beginning of the URLs in the answer to a request."""
        if self.traps.relative_urls:
            return self.prefix
        return f"{request.scheme}://{request.host}{self.prefix}"

    async def reach(
        self,
        request: web.Request,
        code: str = "upstream_unreachable",
        message: str | None = None,
    ) -> None:
        """Wait until the ComfyUI behind the surface answers; raise Refusal if it is unreachable.

        Raises:
            ConnectionResetError: The client has disconnected before ComfyUI answers.
        """
        while self.traps.upstream == "dark":
            if request.transport is None or request.transport.is_closing():
                raise ConnectionResetError("the client has left")
            await asyncio.sleep(_POLL)
        if self.traps.upstream == "down":
            raise Refusal(code, message)

    def file_of(self, asset_id: str) -> StoredFile | None:
        """Return the file of an asset or an output by its id, or None."""
        asset: AssetRecord | None = self.memory.assets.get(asset_id)
        return asset.ref if asset else self.memory.output(asset_id)


def job_id_of(request: web.Request) -> str:
    """Return the job id in a request's path; raise Refusal if it is not a UUID."""
    job_id = request.match_info["id"]
    try:
        uuid.UUID(job_id)
    except ValueError:
        raise no_job(job_id) from None
    return job_id


def no_job(job_id: str) -> Refusal:
    """Return the refusal for a job that the surface does not know."""
    return Refusal("not_found", f"No job {job_id}.")
