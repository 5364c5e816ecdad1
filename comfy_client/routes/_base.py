"""What all route groups share."""

from __future__ import annotations

from ..http import Http


class RouteGroup:
    """Methods for one noun of the server; all they share is the HTTP edge."""

    _http: Http
