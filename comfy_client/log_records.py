"""The attributes of log records: the server that they are about, and the caller's tags."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, MutableMapping
from typing import Any, Final

from .errors import printable

#: The logger itself, for records about several servers or none, or the log of a client.
AnyLog = logging.Logger | logging.LoggerAdapter[logging.Logger]

#: A value of ``tags=``.
Tag = str | int | float | bool
#: The tags of a prompt.
Tags = Mapping[str, Tag]

#: The most tags of a prompt, and the most characters of a name and of a value.
MAX_TAGS: Final = 16
MAX_NAME: Final = 64
MAX_VALUE: Final = 512


class ServerLog(logging.LoggerAdapter[logging.Logger]):
    """The logger ``comfy_client``, with the URL of a server as ``server`` of each record."""

    def __init__(self, server: str) -> None:
        super().__init__(logging.getLogger("comfy_client"), {"server": server})

    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        """Add the server to the attributes of a record."""
        kwargs["extra"] = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        return msg, kwargs


def prompt_facts(prompt_id: str, tags: Tags | None) -> dict[str, Any]:
    """Return the attributes that each log record about a prompt has."""
    # A server may use any text as an id.
    return {"prompt_id": printable(prompt_id), "tags": {**(tags or {})}}


def checked_tags(tags: Any) -> Tags:
    """Return a copy of a caller's tags; raise TypeError or ValueError if they are not valid."""
    if not isinstance(tags, Mapping):
        raise TypeError(f"tags must be a mapping of names to values, not {tags!r:.80}")
    if len(tags) > MAX_TAGS:
        raise ValueError(f"tags has {len(tags)} entries; a prompt has at most {MAX_TAGS}")
    for name, value in tags.items():
        _check(name, value)
    return {**tags}


def _check(name: Any, value: Any) -> None:
    if not isinstance(name, str):
        raise TypeError(f"the name of a tag must be a string, not {name!r:.80}")
    if not 0 < len(name) <= MAX_NAME:
        raise ValueError(f"the name of a tag must have 1 to {MAX_NAME} characters: {name!r:.80}")
    if not isinstance(value, Tag):
        raise TypeError(f"tags[{name!r}] must be a str, int, float or bool, not {value!r:.80}")
    if isinstance(value, str) and len(value) > MAX_VALUE:
        raise ValueError(f"tags[{name!r}] has more than {MAX_VALUE} characters")
    if isinstance(value, int) and value.bit_length() > 64:
        raise ValueError(f"tags[{name!r}] needs more than 64 bits")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"tags[{name!r}] must be finite, not {value}")
