"""The base of all route groups."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

from ..errors import ApiError, UnexpectedResponse
from ..transport.http import Http

T = TypeVar("T")

#: Seconds between two requests for a record that is about to be written.
RECORD_PAUSE: Final = 0.02


class RouteGroup:
    """Methods for one noun of the server; they share only the HTTP layer."""

    _http: Http
    #: Returns whether a prompt has just ended, so that its record is still to be written: the
    #: server sends the event first.
    _awaits_record: Callable[[str], bool] = staticmethod(lambda prompt_id: False)
    #: Called once the server has deleted the records of these prompts; ``None`` means all.
    _records_deleted: Callable[[Iterable[str] | None], object] = staticmethod(lambda ids: None)
    #: Called before the server is asked to remove these prompts (``None`` means all) from its
    #: queue, or to stop them as well.  Each returns a function to call once that is done.
    _removing: Callable[[Iterable[str] | None], Callable[[], object]] = staticmethod(
        lambda ids: lambda: None
    )
    _stopping: Callable[[Iterable[str]], Callable[[], object]] = staticmethod(
        lambda ids: lambda: None
    )


def facts_of(exc: ApiError) -> dict[str, Any]:
    """Return an error's facts about the server's answer, for another error."""
    return {"method": exc.method, "path": exc.path, "status": exc.status, "body": exc.body}


def read_by_name(http: Http, answer: object, read: Callable[[Any], T]) -> T:
    """Return ``read(answer)``; if that fails, hide secrets among the names in its error."""
    try:
        return read(answer)
    except UnexpectedResponse:
        secrets = http.identity.secrets()
    named = answer.items() if isinstance(answer, dict) else ()
    return read({secrets.hide_name(name): value for name, value in named} if named else answer)
