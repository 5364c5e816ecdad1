"""The search for a prompt on its server, by its id or by the client's mark."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs

from .. import models
from ..routes import Routes
from ..routes.prompts import EXTRA_DATA_KEY
from ..routes.queue import without_workflow
from ..transport.deadline import LONGEST, Deadline
from ..transport.http import Http, segment
from ..transport.pieces import Each
from ..values import mapping

if TYPE_CHECKING:
    _Record: TypeAlias = models.QueueItem | models.HistoryEntry
    #: A function that returns the records in a decoded answer.
    _Read: TypeAlias = Callable[[Any], Sequence[_Record]]

#: By the id that a client chose for a prompt: the server's id, or again the client's if the
#: server's is unknown; ``None``: the prompt was never sent, as far as is known.
KnownIds = Mapping[str, str | None]


@attrs.frozen(eq=False, repr=False)
class EarlierPrompts:
    """The prompts of an earlier process, as their server knows them.

    Attributes:
        records: The server's records; they may include those of other clients.
        doubts: Why the server cannot tell whether it has a prompt, by the client's id.
    """

    records: Sequence[models.QueueItem | models.HistoryEntry]
    doubts: Mapping[str, str] = attrs.field(factory=dict)


def spellings(prompt_id: str) -> tuple[str, ...]:
    """Return an id as given and, if that differs, as a canonical UUID.

    Servers from 0.25 on accept only canonical ids; older servers keep any id unchanged.
    """
    try:
        canonical = str(uuid.UUID(prompt_id))
    except ValueError:
        return (prompt_id,)
    # No route accepts an id in braces.
    given = () if "{" in prompt_id else (prompt_id,)
    return tuple(dict.fromkeys((*given, canonical)))


def find(http: Http, prompt_id: str, client_id: str, deadline: Deadline) -> str | None:
    """Return the id under which a server has a prompt, found by ``prompt_id`` or its mark, or None.

    The mark counts only if the id itself is not found, and only with the submission's
    ``client_id``, as anybody can see a mark and send it with another prompt.
    """
    ids = spellings(prompt_id)

    # Keep no records in variables during the next request, as they contain others' texts.
    def ask(
        route: str, read: _Read, each: Each | None = None, **params: int
    ) -> tuple[str | None, str | None]:
        left = max(0.1, deadline.left(LONGEST))
        records = read(http.json("GET", route, each=each, params=params, timeout=left))
        return _named(records, ids), _marked(records, ids, client_id)

    # Drop other clients' workflows, which may be many and large.
    named, marked = ask("/queue", _waiting, partial(without_workflow, frozenset(ids)))
    for one in () if named else ids:
        there, said = ask(f"/history/{segment(one)}", _records)
        named, marked = named or there, marked or said
    if not (named or marked):
        named, marked = ask("/history", _records, max_items=64)
    return named or marked


def find_earlier(routes: Routes, known_ids: KnownIds) -> EarlierPrompts:
    """Return the records of the queue, and those of the history that may be of earlier prompts."""
    queue = routes.get_queue()
    records: list[_Record] = [*queue.running, *queue.pending]
    if routes.get_features():
        others = [id for own, id in known_ids.items() if id is not None and id != own]
        records += filter(None, map(routes.get_history, others))
    else:  # servers before 0.3.45 chose the ids
        records += routes.get_histories(None).values()
    return EarlierPrompts(records)


def _waiting(found: object) -> list[models.QueueItem]:
    queue = models.Queue.from_json(found)
    return [*queue.running, *queue.pending]


def _records(found: object) -> list[models.HistoryEntry]:
    """Return the history entries whose key is their own prompt id; skip all others."""
    records = (
        (key, models.HistoryEntry.from_json(entry))
        for key, entry in mapping(found, "history").items()
    )
    return [entry for key, entry in records if entry.prompt_id == key]


def _named(records: Sequence[_Record], ids: Sequence[str]) -> str | None:
    """Return the first of these ids that belongs to a record, or None."""
    own = {record.prompt_id for record in records}
    return next((one for one in ids if one in own), None)


def _marked(records: Sequence[_Record], ids: Sequence[str], client_id: str) -> str | None:
    """Return the id of the record that the client marked with one of these ids, or None."""
    for one in ids:
        for record in records:
            if is_marked(record, one, client_id):
                return record.prompt_id
    return None


def is_marked(record: _Record, prompt_id: str, client_id: str) -> bool:
    """Return whether the client with this id submitted a record's prompt as ``prompt_id``."""
    extra = record.extra_data
    return extra.get(EXTRA_DATA_KEY) == prompt_id and extra.get("client_id") == client_id
