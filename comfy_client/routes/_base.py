"""Parts that several modules of routes share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import attrs

from ..errors import ApiError, UnexpectedResponse
from ..transport.http import Http
from ..values import T

#: Seconds between two requests for a record that is about to be written.
RECORD_PAUSE: Final = 0.02


@attrs.frozen(eq=False, repr=False)
class TrackerHooks:
    """Functions through which the routes ask the tracker about prompts and tell it of changes.

    Attributes:
        awaits_record: Returns whether a prompt has just ended, so that its record is still to be
            written: the server sends the event first.
        records_deleted: Called once the server has deleted the records of these prompts; ``None``
            means all.
        removing: Called before the server is asked to remove these prompts (``None`` means all)
            from its queue; returns a function to call once that is done.
        stopping: Called before the server is asked to stop these prompts or remove them from its
            queue; returns a function to call once that is done.
    """

    awaits_record: Callable[[str], bool] = lambda prompt_id: False
    records_deleted: Callable[[Iterable[str] | None], object] = lambda ids: None
    removing: Callable[[Iterable[str] | None], Callable[[], object]] = lambda ids: lambda: None
    stopping: Callable[[Iterable[str]], Callable[[], object]] = lambda ids: lambda: None


def facts_of(exc: ApiError) -> dict[str, Any]:
    """Return the facts about the answer in an error, as arguments for another error."""
    return {name: getattr(exc, name) for name in ("method", "path", "status", "body", "reason")}


def read_by_name(http: Http, answer: object, read: Callable[[Any], T]) -> T:
    """Return ``read(answer)``; if that fails, hide the secrets among the keys in its error."""
    try:
        return read(answer)
    except UnexpectedResponse:
        secrets = http.identity.secrets()
    named = answer.items() if isinstance(answer, dict) else ()
    return read({secrets.hide_name(name): value for name, value in named} if named else answer)
