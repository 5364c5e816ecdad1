"""A row of a sweep."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from ..errors import ComfyError
from ..jobs.result import Result
from ..redaction import is_secret_value, sealed
from ..showing.cells import Shown
from ..to_dict import AsDict
from ..workflow.graph import brief, shorten

#: The most characters of values in a ``repr`` or label.
_MOST_TEXT: Final = 200


def _to_milliseconds(seconds: float | None) -> float | None:
    """Round seconds to what clocks of servers tell."""
    return round(seconds, 3) if isinstance(seconds, float) else seconds


@attrs.frozen(eq=False, repr=False)
class SweepRow(Shown, AsDict):
    """A point of a grid, with its result or its error.

    Attributes:
        index: The position in the grid, from 0.
        params: The values of this point, by the names in the grid.
        prompt_id: The id of the prompt.
        result: The outputs; ``None`` with an error.
        error: Why this prompt has no result: ``JobFailed``, ``JobTimeout``, ``PromptRejected``,
            ...; ``None`` with a result.
        seconds: How many seconds it ran, by the server's clock.  It once included the wait in the
            queue, as ``waited`` does now.  ``None`` on servers before July 2024, and if the server
            did not say in time.
        waited: How many seconds it took from the submission to the end, waiting in the queue
            included.  ``None``: it was not submitted, or another process submitted it and did not
            see its end.
        cached: How many nodes did not run again; ``None`` with an error.
        from_journal: Whether it had ended before this call of ``sweep``.
        host: The URL of the server that it was sent to; ``None``: it was not sent.
    """

    index: int
    params: Mapping[str, Any]
    prompt_id: str
    result: Result | None = None
    error: ComfyError | None = None
    seconds: float | None = attrs.field(default=None, converter=_to_milliseconds)
    waited: float | None = attrs.field(default=None, converter=_to_milliseconds)
    cached: int | None = None
    from_journal: bool = False
    host: str | None = None

    def __repr__(self) -> str:
        values = "".join(f", {label}" for label in labels(self.params))
        if self.error is not None:
            end = f": {type(self.error).__name__}"
        else:
            end = "" if self.result is None else f": {repr(self.result)[1:-1]}"
        return f"<SweepRow {self.index}{shorten(values, _MOST_TEXT)}{end}>"

    def _html(self) -> str:
        from ..showing.html import remark

        values = remark(", ".join(labels(self.params)))
        if self.error is not None:
            return values + remark(f"{type(self.error).__name__}: {self.error}", "bad")
        return values + ("" if self.result is None else self.result.gallery())


def labels(params: Mapping[str, Any], names: Iterable[str] | None = None) -> list[str]:
    """Return the names of inputs with their values, such as ``cfg 4.0``; hide secret values.

    A node is named only if several inputs have the same name.

    Args:
        params: The values of a point.
        names: Which of the inputs; ``None``: all.
    """
    short = Counter(map(_last_name, params))
    return [
        f"{_last_name(name) if short[_last_name(name)] == 1 else whole_name(name)} "
        f"{_in_words(_last_name(name), params.get(name))}"
        for name in (params if names is None else names)
    ]


def whole_name(name: str | tuple[str, ...]) -> str:
    """Return the full name of an input, with its node, as one text."""
    return name if isinstance(name, str) else ".".join(map(str, name))


def _last_name(name: str | tuple[str, ...]) -> str:
    return whole_name(name).rpartition(".")[2]


def _in_words(name: str, value: object) -> str:
    if is_secret_value(name, value):
        return "***"
    return str(value)[:_MOST_TEXT] if isinstance(value, str | Path) else brief(sealed(value))
