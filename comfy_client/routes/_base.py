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
    #: Whether a prompt is known to have ended just now: the server tells that by an event
    #: first, and writes the record then.
    _awaits_record: Callable[[str], bool] = staticmethod(lambda prompt_id: False)
    #: Called once the server has deleted the records of these prompts; ``None``: of all.
    _records_deleted: Callable[[Iterable[str] | None], object] = staticmethod(lambda ids: None)
    #: Called before the server is asked to remove these prompts from its queue (``None``: all),
    #: or to stop them as well.  Each returns what is called once the server has done so.
    _removing: Callable[[Iterable[str] | None], Callable[[], object]] = staticmethod(
        lambda ids: lambda: None
    )
    _stopping: Callable[[Iterable[str]], Callable[[], object]] = staticmethod(
        lambda ids: lambda: None
    )


def facts_of(exc: ApiError) -> dict[str, Any]:
    """Return the facts about the answer of an error, for another error with a better message."""
    return {"method": exc.method, "path": exc.path, "status": exc.status, "body": exc.body}


def read_by_name(http: Http, answer: object, read: Callable[[Any], T]) -> T:
    """Return ``read(answer)`` for an answer by names; its error hides a secret that is a name."""
    try:
        return read(answer)
    except UnexpectedResponse:
        secrets = http.identity.secrets()
    named = answer.items() if isinstance(answer, dict) else ()
    return read({secrets.hide_name(name): value for name, value in named} if named else answer)
