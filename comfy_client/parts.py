"""Making the parts of a client that its prompts and events need.

A client imports this module, and so most of the package, when it first needs them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from .event_queue import Budget
from .jobs.execute import Parts, withdraw
from .jobs.poller import Poller
from .jobs.tracker import Tracker
from .routes import Routes, TrackerHooks
from .settings import ClientSettings
from .signals import Receivers
from .timing import Timing
from .transport.dial import plan_for
from .transport.http import MAX_JSON, Http
from .transport.websocket import Connection

if TYPE_CHECKING:
    from .recording.recorder import Recorder


def make_parts(
    owner: Routes,
    settings: ClientSettings,
    http: Http,
    client_id: str,
    timing: Timing,
    recorder: Recorder | None,
    former: Parts | None,
) -> Parts:
    """Make the parts of a client, its owner; they start no thread.

    In the child of a fork, ``former`` are those of the parent, whose receivers stay.
    """
    if former is None:
        # Limits the events that wait for receivers, and the outputs that ended jobs keep.
        budget = Budget(3 * max(MAX_JSON, settings.max_json))
        receivers = Receivers(owner, settings.namespace, budget, http.log)
    else:
        budget, receivers = former.tracker.budget, former.receivers
    tracker = Tracker(
        owner,
        http,
        receivers,
        budget,
        timing,
        lambda handler: Connection(
            handler,
            partial(plan_for, http),
            client_id,
            poll_only=settings.transport == "poll",
            timing=timing,
            recorder=recorder,
            max_frame=2 * http.max_json if http.max_json > MAX_JSON else None,
            log=http.log,
        ),
    )
    definitions = settings.make_definitions(tracker)
    parts = Parts(receivers, tracker, settings.make_poller(tracker, definitions), definitions)
    if former is not None:
        former.heir = parts
    return parts


def hooks_of(poller: Poller) -> TrackerHooks:
    """Return the functions by which the routes of a client ask about its prompts."""
    removing = poller.stops.removing
    return TrackerHooks(
        awaits_record=poller.awaits_record,
        records_deleted=poller.records_deleted,
        removing=removing,
        stopping=partial(removing, running=True),
    )


def endings_of(parts: Parts) -> list[Callable[[], None]]:
    """Return what ends the threads of a client; nothing in it refers to the client.

    So it refers to no tracker: jobs that have not ended are there, and keep their client.
    """
    return [
        partial(withdraw, parts.calls),  # at exit, when there are still some
        parts.connection.stop,
        partial(parts.tracker.wake.set, stop=True),
        parts.receivers.shutdown(),
    ]
