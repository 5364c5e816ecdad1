"""The terms of a job of a pool, and the options of its submission."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from typing import Any, TypedDict, cast

import attrs

from ..routes.prompts import PromptOptions
from ..values import is_real
from .membership import AnyServer, Servers


@attrs.frozen
class Terms:
    """The terms of a job: its caller, its priority, and the servers to which it may go."""

    caller: Hashable
    priority: float
    include: frozenset[str] | None
    exclude: frozenset[str]


class Sending(TypedDict):
    """The options with which a job is submitted to the chosen server."""

    strict: bool
    check: bool
    resubmit: bool
    wants_previews: bool
    options: PromptOptions


def terms_of(
    servers: Servers,
    caller: Hashable,
    priority: float,
    include: Iterable[AnyServer] | None,
    exclude: Iterable[AnyServer],
) -> Terms:
    """Check a job's priority and servers, and return its terms."""
    if not is_real(priority) or math.isnan(priority):
        raise ValueError(f"priority must be a number, not {priority!r:.80}")
    names = servers.dispatcher.members.keys()
    only = None if include is None else servers.names(include, "include")
    but = servers.names(exclude, "exclude")
    if names and not (names if only is None else only) - but:
        raise ValueError("include and exclude leave no server of the pool")
    return Terms(caller, priority, only, but)


def sending_of(options: Mapping[str, Any]) -> Sending:
    """Return the submission options for each job of a ``map`` or ``sweep`` call."""
    rest = cast("PromptOptions", {**options})
    # map and sweep take all options together; these two are not in PromptOptions.
    strict: bool = rest.pop("strict", False)  # type: ignore[typeddict-item]
    resubmit: bool = rest.pop("resubmit", False)  # type: ignore[typeddict-item]
    return {
        "strict": strict,
        "check": False,
        "resubmit": resubmit,
        "wants_previews": False,
        "options": rest,
    }
