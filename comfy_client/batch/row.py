"""A row of a sweep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from ..errors import ComfyError
from ..jobs.result import Result
from ..to_dict import AsDict


@attrs.frozen(eq=False)
class SweepRow(AsDict):
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
        from_journal: True if it had ended before this call of ``sweep``.
        host: The URL of the server that it was sent to; ``None``: it was not sent.
    """

    index: int
    params: Mapping[str, Any]
    prompt_id: str
    result: Result | None = None
    error: ComfyError | None = None
    seconds: float | None = None
    waited: float | None = None
    cached: int | None = None
    from_journal: bool = False
    host: str | None = None
