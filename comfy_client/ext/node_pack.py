"""The routes of a node pack, which a server may lack."""

from __future__ import annotations

from typing import Any

import attrs

from ..errors import NotFound, NotSupported
from ..jobs.execute import Parts
from ..routes import Routes
from ..transport.http import SMALL


@attrs.frozen(eq=False, repr=False)
class NodePack:
    """The routes of a node pack, and the question whether the server has them.

    Attributes:
        owner: The client, which would be closed if nobody referred to it.
        parts: Its parts.
        pack: The name of the pack.
        how_to_get: What a person does to get it.
        probe: A route to ``GET`` that only a server with the pack has.  Feature flags do not tell:
            which ones there are depends on the versions of ComfyUI and the pack.
    """

    owner: Routes
    parts: Parts
    pack: str
    how_to_get: str
    probe: str

    def exist(self) -> bool:
        """Return whether the server has the pack; ask only once for each connection of the socket.

        A server that was restarted may have got the pack.
        """
        self.parts.check_open()
        link, remembered = self.parts.tracker.link, self.parts.remembered
        known_link, is_there = remembered.get(self.pack, (None, False))
        if link is not None and link == known_link:
            return bool(is_there)
        try:
            self.parts.http.json("GET", self.probe, max_bytes=SMALL)
            is_there = True
        except (NotFound, NotSupported):
            is_there = False
        remembered[self.pack] = link, is_there
        return is_there

    def get(self, route: str) -> Any:
        """Return the JSON answer of ``GET``; raise :class:`NotSupported` without the pack."""
        self.parts.check_open()
        try:
            return self.parts.http.json("GET", route, max_bytes=SMALL)
        except NotSupported as exc:
            raise self._explained(exc) from None

    def command(self, method: str, route: str, json: Any = None) -> None:
        """Send a request with an empty answer; raise :class:`NotSupported` without the pack."""
        self.parts.check_open()
        try:
            self.parts.http.send_command(method, route, json=json)
        except NotSupported as exc:
            raise self._explained(exc) from None

    def _explained(self, exc: NotSupported) -> NotSupported:
        """Return the error for a missing route: the given one if the pack is there nevertheless."""
        if not exc.status:  # no request was sent, as this is not ComfyUI's own API
            return exc
        self.parts.remembered.pop(self.pack, None)
        if self.exist():
            return exc
        said = f"{self.owner.host} lacks the node pack {self.pack}: {self.how_to_get}"
        return NotSupported(said, method=exc.method, path=exc.path)
