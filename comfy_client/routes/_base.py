"""What all route groups share."""

from __future__ import annotations

import posixpath
from typing import Final

from ..http import Http

#: Seconds between two looks for a record that is to come.
RECORD_PAUSE: Final = 0.02


class RouteGroup:
    """Methods for one noun of the server; all they share is the HTTP edge."""

    _http: Http

    def _awaits_record(self, prompt_id: str) -> bool:
        """Whether a prompt is known to have ended just now: the server tells that by an event
        first, and writes the record then."""
        return False


def leads_out(path: str) -> bool:
    """Whether a path below one of the server's folders would leave it."""
    plain = posixpath.normpath(path.replace("\\", "/")) if path else ""
    return plain.startswith(("../", "/")) or plain == ".."
