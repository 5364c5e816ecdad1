"""What all route groups share."""

from __future__ import annotations

import posixpath

from ..http import Http


class RouteGroup:
    """Methods for one noun of the server; all they share is the HTTP edge."""

    _http: Http


def leads_out(path: str) -> bool:
    """Whether a path below one of the server's folders would leave it."""
    plain = posixpath.normpath(path.replace("\\", "/")) if path else ""
    return plain.startswith(("../", "/")) or plain == ".."
