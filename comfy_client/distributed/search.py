"""Search for a prompt that another worker may have sent."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import attrs

from ..client import ComfyApi
from ..errors import ClientClosed, ComfyError, JobLost, JobNotFound, JobTimeout
from ..jobs.job import Job
from ..jobs.outcomes import lost_error
from ..transport.deadline import Deadline
from .clients import Clients
from .notes import Attempt, WorkerServer

log: logging.Logger = logging.getLogger("comfy_client")

#: Seconds between two requests.
_PAUSE: Final = 0.5
#: Servers asked at the same time.
_AT_ONCE: Final = 8


@attrs.frozen
class Found:
    """A prompt, and the client that found it."""

    job: Job
    api: ComfyApi
    place: WorkerServer


def find_prompt(
    own: Clients,
    attempt: Attempt,
    places: Mapping[str, WorkerServer],
    *,
    patience: float,
    deadline: Deadline,
    check: Callable[[], None],
) -> Found | None:
    """Find the server that has a prompt; return None if no server has it.

    The server to which it may have been sent must deny having it twice, some seconds apart, as the
    submission may have been on its way when its worker was lost.  All other servers are asked once,
    if there is time.  Between two requests, ``check`` may raise to end the search.

    Raises:
        JobLost: The server that may have it has not answered for ``patience`` seconds.
        JobTimeout: The deadline came before that server said whether it has it.
    """
    noted = places.get(attempt.place)
    rest = [place for place in places.values() if place != noted]
    until, is_first = Deadline.after(patience), True
    sure: Deadline | None = None
    while True:
        try:
            found = _ask(own, noted, attempt)
            sure = sure or Deadline.after(ComfyApi.timing.look_up)
        except ClientClosed:
            raise
        except ComfyError as exc:
            found, sure = None, None
            log.warning("prompt %s may be there, but %s", attempt.prompt_id, exc)
            if until.expired:
                raise _lost(attempt, noted, exc) from exc
        if found is None and is_first:
            soon = min(until, deadline)
            found, is_first = ask_all(own, rest, attempt, soon), False
        if found is not None or (sure is not None and sure.expired):
            return found
        if deadline.expired:
            raise JobTimeout(
                f"could not find out in time what became of prompt {attempt.prompt_id}: another "
                "worker, which was lost, may have sent it",
                prompt_id=attempt.prompt_id,
            )
        own.check_open()
        check()
        time.sleep(deadline.left(_PAUSE))


def _ask(own: Clients, place: WorkerServer | None, attempt: Attempt) -> Found | None:
    """Ask one server for a prompt; return None if it does not have it."""
    if place is None:
        said = "the scheduler has forgotten who sent it"
        raise JobNotFound(said, prompt_id=attempt.prompt_id)
    api = own.looking(place, attempt.client_id or own.client_id)
    try:
        return Found(api.job(attempt.prompt_id, must_exist=True), api, place)
    except JobNotFound:
        api.close()
        return None
    except BaseException:
        api.close()
        raise


def ask_all(
    own: Clients, some: Sequence[WorkerServer], attempt: Attempt, deadline: Deadline
) -> Found | None:
    """Ask several servers for a prompt in parallel; return the first one found, or None.

    Many of them may be gone with their workers, and be slow to time out.
    """

    def ask(place: WorkerServer) -> Found | None:
        if deadline.expired:
            return None
        try:
            return _ask(own, place, attempt)
        except ComfyError as exc:
            said, extra = "%s was not asked for prompt %s: %s", {"server": place.url}
            log.debug(said, place.url, attempt.prompt_id, exc, extra=extra)
            return None

    with ThreadPoolExecutor(_AT_ONCE) as threads:
        answers = [found for found in threads.map(ask, some) if found is not None]
    for found in answers[1:]:
        found.api.close()
    return answers[0] if answers else None


def _lost(attempt: Attempt, noted: WorkerServer | None, exc: ComfyError) -> JobLost:
    where = "an unknown server" if noted is None else noted.url
    return lost_error(
        attempt.prompt_id,
        f"lost: a worker that was lost may have sent it to {where}, which cannot be asked "
        f'(on_lost="retry" runs it again): {exc}',
    )
