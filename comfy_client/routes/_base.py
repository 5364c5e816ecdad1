"""The base of all route groups."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar, cast

from ..errors import ApiError, UnexpectedResponse
from ..transport.failures import bare, one_line
from ..transport.http import Http

#: Seconds between two requests for a record that is about to be written.
RECORD_PAUSE: Final = 0.02


Method = TypeVar("Method", bound=Callable[..., Any])


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

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if RouteGroup in cls.__bases__:
            for name, method in [*vars(cls).items()]:
                # Options may hold a key, and one more frame would show it.
                has_options = inspect.isfunction(method) and (
                    method.__code__.co_flags & inspect.CO_VARKEYWORDS
                )
                if inspect.isfunction(method) and not has_options and not name.startswith("_"):
                    setattr(cls, name, without_answers(method))


def without_answers(method: Method) -> Method:
    """Keep the answer, which may repeat a secret, out of :class:`UnexpectedResponse`.

    Neither its message nor the variables of its frames show it.
    """

    @functools.wraps(method)
    def asking(self: RouteGroup, *args: Any, **named: Any) -> Any:
        try:
            return method(self, *args, **named)
        except UnexpectedResponse as exc:
            raise redacted(exc, self._http) from None

    return cast(Method, asking)


def redacted(exc: UnexpectedResponse, http: Http) -> UnexpectedResponse:
    """Hide secrets that an answer repeats in an error, and strip the frames that hold it."""
    exc.args = (one_line(http.identity.secrets().hide_name(str(exc))),)
    return bare(exc)


def facts_of(exc: ApiError) -> dict[str, Any]:
    """Return an error's facts about the answer, for an error with a better message."""
    return {"method": exc.method, "path": exc.path, "status": exc.status, "body": exc.body}
