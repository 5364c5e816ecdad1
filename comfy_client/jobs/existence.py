"""Whether there is a prompt by an id."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ..errors import ClientClosed, JobNotFound, RequestTimeout
from ..transport.deadline import Deadline, limited_silence
from ..transport.http import segment
from .lookup import find, spellings
from .poller import Poller
from .tracker import Tracker


@contextlib.contextmanager
def announced(tracker: Tracker, prompt_id: str | None) -> Iterator[None]:
    """Context manager: announce the id that a user gave to a prompt, while it is submitted."""
    if prompt_id is None:
        yield  # nobody knows it yet
        return
    tracker.announced.add(prompt_id)
    try:
        yield
    finally:
        tracker.announced.discard(prompt_id)


def check_existence(poller: Poller, prompt_id: str) -> None:
    """Raise :class:`JobNotFound` if neither this client nor the server knows a prompt by this id.

    The server is asked for its queue first: what is not in it any more is in the history by then,
    and what is not yet in it was not accepted.
    """
    segment(prompt_id)
    tracker = poller.tracker
    deadline = Deadline.after(tracker.http.total_timeout)
    ids = spellings(prompt_id)

    def is_known() -> bool:
        return any(_is_known(tracker, tracker.renamed.get(one) or one) for one in ids)

    while not (is_known() or tracker.announced.isdisjoint(ids)):
        if tracker.wake.wait_stopped(0.01):
            raise ClientClosed
        if deadline.expired:
            raise RequestTimeout(f"prompt {prompt_id} is about to be submitted for too long")
    if is_known():
        return
    with limited_silence(poller.timing.question):
        client_id = tracker.posted_as.get(ids[0]) or tracker.connection.client_id
        found = find(tracker.http, prompt_id, client_id, deadline)
    if found is None and not is_known():
        raise JobNotFound(
            f"prompt {prompt_id} is in no queue and no history of {tracker.http.address.http_url}: "
            "it was never submitted there, or deleted, or the server was restarted",
            prompt_id=prompt_id,
        )


def _is_known(tracker: Tracker, prompt_id: str) -> bool:
    """Return whether we have submitted it, or the server has told of it."""
    one, ending = tracker.get(prompt_id), tracker.ended.get(prompt_id)
    if one is None:
        return ending is not None and ending.has_record
    state = one.state
    is_seen = state.ahead is not None or state.running_since is not None
    return not state.attached or is_seen or state.end_event is not None
