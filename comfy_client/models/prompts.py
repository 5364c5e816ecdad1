"""Answers about prompts: the receipt of one, and the number in the queue."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from ..errors import UnexpectedResponse
from ..to_dict import AsDict
from ..values import Id, build, mapping


@attrs.frozen
class QueueStatus(AsDict):
    """The length of the queue, from ``GET /prompt``.

    Attributes:
        queue_remaining: How many prompts of all clients are pending or running.
        raw: The JSON object as received.
    """

    queue_remaining: int
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False, eq=False)

    @classmethod
    def from_json(cls, data: object) -> QueueStatus:
        """Read ``{"exec_info": {"queue_remaining": 0}}``; a negative number is an error."""
        status = build(cls, mapping(data, "QueueStatus").get("exec_info"))
        if status.queue_remaining < 0:
            raise UnexpectedResponse(f"QueueStatus: queue_remaining is {status.queue_remaining}")
        return status


@attrs.frozen
class QueuedPrompt(AsDict):
    """The server's receipt for a prompt, from ``POST /prompt``.

    Attributes:
        prompt_id: The id of the prompt.
        number: Its priority in the queue; lower numbers run first.  ``None`` if the server did not
            say.
        node_errors: Why some outputs will *not* run, by node id; empty: all run.  A server accepts
            a prompt if at least one output is valid.
        raw: The JSON object as received.
    """

    prompt_id: Id
    number: float | None = None
    node_errors: Mapping[str, Any] = attrs.field(factory=dict)
    raw: Mapping[str, Any] = attrs.field(factory=dict, repr=False, eq=False)

    @classmethod
    def from_json(cls, data: object) -> QueuedPrompt:
        """Parse the answer; early servers send ``node_errors`` as an empty list."""
        made = build(cls, data)
        if made.prompt_id != made.raw["prompt_id"]:  # a cleaned id would name another prompt
            raise UnexpectedResponse("QueuedPrompt: its prompt_id is not an id")
        return made
