"""Search for a prompt that another worker may have sent."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import attrs

from ..client import ComfyApi
from ..errors import ClientClosed, ComfyError, JobLost, JobNotFound, JobTimeout
from ..jobs.job import Job
from ..jobs.outcomes import lost_error
from ..transport.deadline import Deadline
from .clients import Clients
from .notes import Attempt, Submitter

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


def find_prompt(
    own: Clients,
    attempt: Attempt,
    others: Sequence[Submitter],
    *,
    patience: float,
    deadline: Deadline,
) -> Found | None:
    """Find the server that has a prompt; return None if no server has it.

    The server to which it may have been sent must deny having it twice, some seconds apart, as the
    submission may have been on its way when its worker was lost.  All other servers are asked once,
    if there is time.

    Raises:
        JobLost: The server that may have it has not answered for ``patience`` seconds.
        JobTimeout: The deadline came before that server said whether it has it.
    """
    noted = next((one for one in others if one.client_id == attempt.client_id), None)
    rest = {(one.url, one.machine): one for one in others}
    if noted is not None:
        del rest[noted.url, noted.machine]
    until, is_first = Deadline.after(patience), True
    sure: Deadline | None = None
    while True:
        try:
            found = _ask(own, noted, attempt.prompt_id)
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
            found, is_first = _ask_all(own, list(rest.values()), attempt.prompt_id, soon), False
        if found is not None or (sure is not None and sure.expired):
            return found
        if deadline.expired:
            raise JobTimeout(
                f"could not find out in time what became of prompt {attempt.prompt_id}: another "
                "worker, which was lost, may have sent it",
                prompt_id=attempt.prompt_id,
            )
        own.check_open()
        time.sleep(deadline.left(_PAUSE))


def _ask(own: Clients, one: Submitter | None, prompt_id: str) -> Found | None:
    """Ask one server for a prompt; return None if it does not have it."""
    if one is None:
        raise JobNotFound("the scheduler has forgotten who sent it", prompt_id=prompt_id)
    api = own.of(one)
    try:
        return Found(api.job(prompt_id, must_exist=True), api)
    except JobNotFound:
        api.close()
        return None
    except BaseException:
        api.close()
        raise


def _ask_all(
    own: Clients, some: Sequence[Submitter], prompt_id: str, deadline: Deadline
) -> Found | None:
    """Ask several servers for a prompt in parallel; return the first one found, or None.

    Many of them may be gone with their workers, and be slow to time out.
    """

    def ask(one: Submitter) -> Found | None:
        if deadline.expired:
            return None
        try:
            return _ask(own, one, prompt_id)
        except ComfyError as exc:
            said, extra = "%s was not asked for prompt %s: %s", {"server": one.url}
            log.debug(said, one.url, prompt_id, exc, extra=extra)
            return None

    with ThreadPoolExecutor(_AT_ONCE) as threads:
        answers = [found for found in threads.map(ask, some) if found is not None]
    for found in answers[1:]:
        found.api.close()
    return answers[0] if answers else None


def _lost(attempt: Attempt, noted: Submitter | None, exc: ComfyError) -> JobLost:
    where = "an unknown server" if noted is None else noted.url
    return lost_error(
        attempt.prompt_id,
        f"lost: a worker that was lost may have sent it to {where}, which cannot be asked "
        f'(on_lost="retry" runs it again): {exc}',
    )
