"""Tables of routes: method, path, and a function of what it serves from and the request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

from aiohttp import web

_Source = TypeVar("_Source")
Routes = Sequence[tuple[str, str, Callable[[_Source, web.Request], Awaitable[web.StreamResponse]]]]


def add_routes(table: web.RouteTableDef, source: _Source, routes: Routes[_Source]) -> None:
    """Add routes that serve from this source."""
    for method, path, handler in routes:
        table.route(method, path)(partial(handler, source))
