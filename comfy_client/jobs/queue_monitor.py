"""Who runs and who waits: what the server says of its queue, asked for as seldom as will do.

``GET /queue`` carries everybody's graphs, so it is the last resort.  Servers from 0.6 on list
the same without them; and each change of the queue is broadcast as a ``status`` (and shows in
the number that is polled while there is no socket), so without one since the last look, that
look holds for some seconds yet.
"""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import attrs

from .. import models
from ..errors import ApiError, AuthenticationError, UnexpectedResponse
from ..models._base import mapping
from ..routes.prompts import MARK
from ..transport.failures import is_away
from ..transport.http import segment
from ..transport.websocket import State

if TYPE_CHECKING:
    from ..client import ComfyApi

log: logging.Logger = logging.getLogger("comfy_client")

#: Seconds for which a look holds as long as nothing says that the queue changed: a socket that
#: is deaf says nothing.
LOOK_AGAIN: Final = 7.0

#: A look that took so many seconds of the processor is not repeated before this many times as
#: many have passed: while a queue of megabytes is decoded, no other thread runs.
LONG: Final = 0.3
REST: Final = 30.0

#: Seconds of silence after which a question has failed: the connection that it took may be
#: dead and not know it, and the next one takes another.
PATIENCE: Final = 5.0

#: How the jobs API calls what is over.
_ENDED: Final = ("completed", "failed", "cancelled")

#: The first ComfyUI whose ``POST /interrupt`` heeds a prompt_id.
_HEEDS_ID: Final = (0, 3, 57)


@attrs.frozen
class Standing:
    """The queue at one moment, in its order."""

    running: tuple[str, ...]
    pending: tuple[str, ...]
    #: Workflows by prompt_id, where the answer had them.
    graphs: Mapping[str, Mapping[str, Any]] = attrs.field(factory=dict)
    departed: int = 0  #: How many had left the queue before, by the client's count.

    @cached_property
    def _places(self) -> Mapping[str, int]:
        """A queue may be long, and each of a thousand jobs asks for its place in it."""
        return {one: place for place, one in enumerate((*self.running, *self.pending))}

    def place(self, prompt_id: str) -> float:
        """Its place in the queue, what runs included; infinite when it is not in it."""
        return self._places.get(prompt_id, float("inf"))

    def __contains__(self, prompt_id: str) -> bool:
        return prompt_id in self._places

    def ahead(self, prompt_id: str) -> int | None:
        """How many are before one that waits; ``None``: it runs."""
        place = self._places[prompt_id]
        return None if place < len(self.running) else place

    def first_of(self, prompt_ids: Collection[str]) -> str | None:
        """Which of these ends before the others."""
        ours = (one for one in (*self.running, *self.pending) if one in prompt_ids)
        return next(ours, None)


class Lookout:
    """Takes the looks of one client, and remembers the last."""

    def __init__(self) -> None:
        # What was seen, and who would have told of a change: which socket, or the polls.
        self._last: tuple[Standing, State, int] | None = None
        self.at: float = float("-inf")  #: When the last look was begun.
        self.spared_until: float = float("-inf")  #: No other one before, since it took long.
        self.status_at: float = float("-inf")  #: When the server told its number last.
        self.remaining: int | None = None  #: Prompts that run or wait, as it said then.
        self.departed = 0  #: How many prompts left the queue, of whomever ...
        self.advanced_at: float = float("-inf")  #: ... and when one did last.
        self._lists_jobs = True  # until the server says that it has no jobs API

    def count(self, remaining: int | None) -> None:
        """The server says how many run or wait."""
        self.status_at = time.monotonic()
        gone = (self.remaining or 0) - (remaining or 0)
        if gone > 0:
            self.departed += gone
            self.advanced_at = self.status_at
        self.remaining = remaining

    def look(self, api: ComfyApi, *, graphs: bool) -> Standing:
        """``GET /api/jobs``, ComfyUI 0.6; else, and for the graphs, ``GET /queue``."""
        at, departed, spent = time.monotonic(), self.departed, time.thread_time()
        state, generation = api._connection.state, api._connection.generation
        standing = self._listed(api) if self._lists_jobs and not graphs else None
        if standing is None:
            queue = api.get_queue()
            standing = Standing(
                running=tuple(item.prompt_id for item in queue.running),
                pending=tuple(item.prompt_id for item in queue.pending),
                graphs={item.prompt_id: item.workflow for item in (*queue.running, *queue.pending)},
            )
        standing = attrs.evolve(standing, departed=departed)
        took = time.thread_time() - spent  # a busy machine or a slow line is no large queue
        self.spared_until = at + REST * took if took >= LONG else at
        # Without everybody's graphs, which may take more than all the rest of a client.
        kept = attrs.evolve(standing, graphs={}) if standing.graphs else standing
        self._last, self.at = (kept, state, generation), at
        return standing

    def forget(self) -> None:
        """The queue has changed, by our own hand."""
        self._last = None

    def spared(self) -> Standing | None:
        """The last look, when the next one is to wait: it takes long."""
        is_spared = self._last is not None and time.monotonic() < self.spared_until
        return self._last[0] if self._last is not None and is_spared else None

    def _listed(self, api: ComfyApi) -> Standing | None:
        try:
            page = api.get_jobs(("pending", "in_progress"))
        except (ApiError, UnexpectedResponse) as exc:
            if is_away(exc) or isinstance(exc, AuthenticationError):
                raise
            log.debug("no jobs API: %s", exc)  # or one that fails where the queue may not
            self._lists_jobs = False
            return None
        if page.has_more:  # unasked: what is not on it may be there all the same
            log.debug("the jobs API lists %d jobs only", len(page.jobs))
            self._lists_jobs = False
            return None
        running = [job for job in page.jobs if job.status == "in_progress"]
        # What is in a state that nobody knows is there all the same.
        waiting = [job for job in page.jobs if job.status not in ("in_progress", *_ENDED)]
        waiting.sort(key=_place)
        return Standing(
            running=tuple(job.id for job in running), pending=tuple(job.id for job in waiting)
        )

    def still_holds(self, api: ComfyApi) -> Standing | None:
        """The last look, if as far as socket or polls tell nothing has changed since."""
        last = self._last  # once: forget() may come from another thread
        if last is None:
            return None
        standing, state, generation = last
        age = time.monotonic() - self.at
        connection = api._connection
        is_told = connection.state in (State.CONNECTED, State.POLLING)
        is_same = (connection.state, connection.generation) == (state, generation)
        holds = is_told and is_same and age < LOOK_AGAIN and self.status_at < self.at
        return standing if holds else None


def _place(job: models.JobInfo) -> float:
    """What cannot be compared comes last."""
    return job.priority if isinstance(job.priority, int | float) else float("inf")


def spellings(prompt_id: str) -> tuple[str, ...]:
    """An id as it was given, and as a canonical UUID if it is another form of one.

    Servers from 0.25 on take no other than canonical ones; those before keep any as they are.
    """
    try:
        canonical = str(uuid.UUID(prompt_id))
    except ValueError:
        return (prompt_id,)
    # No route has a place for one in braces.
    given = () if "{" in prompt_id else (prompt_id,)
    return tuple(dict.fromkeys((*given, canonical)))


def find(api: ComfyApi, prompt_id: str, client_id: str, end: float) -> str | None:
    """The id under which a server has our prompt: ours, or its own with our mark.

    The mark counts where the id itself is nowhere, and beside the ``client_id`` of the
    submission: anybody can see it, and send it with a prompt of theirs.  Asks until the moment
    ``end`` of the monotonic clock.
    """

    def ask(route: str, **params: int) -> Any:
        left = max(0.1, end - time.monotonic())
        return api._http.json("GET", route, params=params, timeout=left)

    # No records in variables while the next answer is waited for: others' words stand in them.
    ids = spellings(prompt_id)
    named, marked = _matches(_waiting(ask("/queue")), ids, client_id)
    for one in () if named else ids:
        there, said = _matches(_records(ask(f"/history/{segment(one)}")), ids, client_id)
        named, marked = named or there, marked or said
    if not (named or marked):
        named, marked = _matches(_records(ask("/history", max_items=64)), ids, client_id)
    return named or marked


_Record = models.QueueItem | models.HistoryEntry


def _matches(
    records: Sequence[_Record], ids: Sequence[str], client_id: str
) -> tuple[str | None, str | None]:
    """What these records have by one of the ids, and what by the mark of it."""
    return _named(records, ids), _marked(records, ids, client_id)


def _waiting(found: object) -> list[models.QueueItem]:
    queue = models.Queue.from_json(found)
    return [*queue.running, *queue.pending]


def _records(found: object) -> list[models.HistoryEntry]:
    """Those that are about the prompt by whose id they are kept."""
    records = (
        (key, models.HistoryEntry.from_json(entry))
        for key, entry in mapping(found, "history").items()
    )
    return [entry for key, entry in records if entry.prompt_id == key]


def _named(records: Sequence[_Record], ids: Sequence[str]) -> str | None:
    """The first of these ids that a record has as its own."""
    own = {record.prompt_id for record in records}
    return next((one for one in ids if one in own), None)


def _marked(records: Sequence[_Record], ids: Sequence[str], client_id: str) -> str | None:
    """The id of the record that has one of these as the mark of that client."""
    for one in ids:
        for record in records:
            if is_marked(record, one, client_id):
                return record.prompt_id
    return None


def is_marked(record: _Record, prompt_id: str, client_id: str) -> bool:
    """Whether that client has sent it, by this id of its own."""
    extra = record.extra_data
    return extra.get(MARK) == prompt_id and extra.get("client_id") == client_id


def heeds_id(api: ComfyApi) -> bool:
    """Whether the server's interrupt stops one prompt only; only its version tells."""
    version = api.get_system_stats().comfyui_version or ""
    parts = re.findall(r"\d{1,9}", version[:100], re.ASCII)
    return tuple(map(int, parts[:3])) >= _HEEDS_ID
