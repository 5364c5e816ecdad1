"""Which of the requests that a server has received fit, and the nearest of those that do not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from fnmatch import fnmatchcase
from typing import Any, Final

import attrs

from .active_faults import check_count, check_depth
from .wire import Request

#: A number of requests: exactly so many, or ``{"min": ..., "max": ...}``, of which one may lack.
RequestCount = int | Mapping[str, int]

_NEAREST: Final = 3  # requests that a failed verification shows
_COMPARED: Final = 200  # the last requests, among which these are sought
_SHOWN: Final = 300  # characters of a body in a message
_ABSENT: Final = object()


@attrs.frozen
class WantedRequest:
    """The requests that fit: ``*`` in method and path stands for any part.

    Attributes:
        method: The method.
        path: The path, which also fits below ``/api``.
        body: What the JSON of the body contains; ``None``: anything.
        text: What a text input of the prompt contains; ``None``: anything.
    """

    method: str = "*"
    path: str = "*"
    body: Any = None
    text: str | None = None

    def meets(self, request: Request) -> bool:
        """Return whether method and path fit."""
        path = request.full_path if self.path.startswith("/api") else request.path
        return fnmatchcase(request.method, self.method.upper()) and fnmatchcase(path, self.path)

    def fits(self, request: Request) -> bool:
        """Return whether the whole request fits."""
        return self.meets(request) and self._content(request) == 1.0

    def nearness(self, request: Request) -> float:
        """Return how much of a request fits: 0 to 3."""
        score = float(fnmatchcase(request.method, self.method.upper()))
        path = request.path[:200]
        score += fnmatchcase(path, self.path) or SequenceMatcher(None, path, self.path).ratio()
        return score + self._content(request)

    def _content(self, request: Request) -> float:
        """Return how much of the body fits: 0 to 1."""
        if self.body is None and self.text is None:
            return 1.0
        content = _json_of(request)
        shares = [] if self.body is None else [share(content, self.body)]
        if self.text is not None:
            wanted = _words(self.text)
            found = [_words(text) for text in prompt_texts(content)]
            has_some = max((len(set(wanted.split()) & set(t.split())) for t in found), default=0)
            is_in = any(wanted in text for text in found)
            shares.append(1.0 if is_in else min(0.9, has_some / (len(wanted.split()) or 1)))
        return _mean(shares)


@attrs.frozen
class Verification:
    """The requests that fit, and whether there are as many as wanted.

    Attributes:
        fitting: Those that fit, oldest first.
        expected: How many were wanted, in words.
        is_right: Whether there are as many.
        nearest: If not, up to three of those that fit, or else that come nearest.
    """

    fitting: Sequence[Request]
    expected: str
    is_right: bool
    nearest: Sequence[Request]

    def message(self) -> str:
        """Return what is wrong, with the nearest requests."""
        lines = [self.summary(), *map(_line, self.nearest)]
        return "\n  ".join(lines) if self.nearest else f"{lines[0]}: there was no request at all"

    def summary(self) -> str:
        """Return what is wrong, in a line."""
        return f"{len(self.fitting)} requests fit, not {self.expected}"


def find(
    received: Sequence[Request], wanted: WantedRequest, count: RequestCount | None
) -> Verification:
    """Return which of the requests fit; without a count, there must be one or more.

    Raises:
        ValueError: The count is invalid.
    """
    least, most = _bounds(count)
    fitting = [one for one in received if wanted.fits(one)]
    limits = f"{least} or more" if most is None else f"{least} to {most}"
    expected = str(least) if least == most else limits
    if least <= len(fitting) and (most is None or len(fitting) <= most):
        return Verification(fitting, expected, True, ())
    others = fitting or sorted(received[-_COMPARED:], key=wanted.nearness, reverse=True)
    return Verification(fitting, expected, False, others[:_NEAREST])


def wanted_of(method: Any, path: Any, body: Any, text: Any) -> WantedRequest:
    """Return which requests are wanted; raise ValueError for values of another type."""
    for name, value in (("method", method), ("path", path)):
        if not isinstance(value, str):
            raise ValueError(f"{name} must be a string, not {value!r:.100}")
    if not isinstance(text, str | None):
        raise ValueError(f"text_contains must be a string, not {text!r:.100}")
    check_depth("body_contains", body)
    return WantedRequest(method, path, body, text)


def _bounds(count: RequestCount | None) -> tuple[int, int | None]:
    """Return the least and the greatest number of requests; None: any number."""
    if count is None:
        return 1, None
    if isinstance(count, int):
        return check_count("count", count), count
    if not isinstance(count, Mapping) or not count.keys() <= {"min", "max"}:
        raise ValueError('count must be a number, or {"min": ..., "max": ...}')
    least, most = check_count("min", count.get("min", 0)), count.get("max")
    return least, None if most is None else check_count("max", most, least)


def prompt_texts(body: Any) -> Iterator[str]:
    """Yield the texts among the inputs of a submitted prompt."""
    graph = body.get("prompt") if isinstance(body, dict) else None
    for node in graph.values() if isinstance(graph, dict) else ():
        inputs = node.get("inputs") if isinstance(node, dict) else None
        values = inputs.values() if isinstance(inputs, dict) else ()
        yield from (value for value in values if isinstance(value, str))


def _words(text: str) -> str:
    return " ".join(text.casefold().split())


def share(value: Any, part: Any) -> float:
    """Return how much of a part a JSON value contains: 0 to 1.

    An object contains one with fewer members; lists are of the same length.
    """
    if isinstance(part, Mapping) and isinstance(value, dict):
        return _mean([share(value.get(key, _ABSENT), one) for key, one in part.items()])
    if isinstance(part, list) and isinstance(value, list) and len(part) == len(value):
        return _mean([share(a, b) for a, b in zip(value, part, strict=True)])
    are_equal = value == part and isinstance(value, bool) == isinstance(part, bool)
    return float(are_equal)


def _mean(shares: Sequence[float]) -> float:
    return sum(shares) / len(shares) if shares else 1.0


def _json_of(request: Request) -> Any:
    """Return the JSON of a request's body; what no JSON equals if it has none."""
    try:
        return request.json()
    except (ValueError, RecursionError):
        return _ABSENT


def _line(request: Request) -> str:
    body = request.body[:_SHOWN].decode("utf-8", "replace")
    more = f" and {len(request.body) - _SHOWN} bytes more" if len(request.body) > _SHOWN else ""
    return f"{request.method} {request.target[:200]} {body}{more}".rstrip()
