"""The search for the jobs that an earlier process submitted over Comfy API v2."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from .. import models
from ..errors import NotFound
from ..jobs.lookup import EarlierPrompts, KnownIds
from ..routes.prompts import EXTRA_DATA_KEY
from ..transport.deadline import Deadline
from .routes import HostedRoutes
from .sending import Submission
from .translation import has_mark, unmarked


def find_earlier(
    routes: HostedRoutes, submission: Submission, known_ids: KnownIds, ended: Collection[str]
) -> EarlierPrompts:
    """Find the jobs of an earlier process by their ids, or else by the keys of their submissions.

    A job counts only if its workflow has the mark of its key, as an id may belong to a stranger's
    job.  ``ended`` are the ids of some jobs that had ended: a server that was not restarted still
    knows them.
    """
    ids = {key: id for key, id in known_ids.items() if id is not None and id != key}
    doubts = dict.fromkeys(ids, "the server does not tell which workflow it ran")
    listed = submission.labelled(_limit(routes))
    for key, id in known_ids.items():
        if id is None and key in listed:  # the journal may have lost it
            ids[key] = listed[key]
        elif id == key:
            found, is_complete = submission.look(key, _limit(routes))
            if found is not None:
                ids[key] = found
            elif not is_complete:
                doubts[key] = "the server does not list it"
            elif not submission.has_kept([*ended, *ids.values()], _limit(routes)):
                doubts[key] = "a proxy that was restarted may have forgotten it"
    return EarlierPrompts([*_records(routes, ids)], doubts)


def _records(routes: HostedRoutes, ids: dict[str, str]) -> Iterator[models.QueueItem]:
    """Yield a record of each job whose workflow has the mark of its key; ``ids`` are by key."""
    for key, id in ids.items():
        try:
            graph = routes.workflow(id)
        except NotFound:
            continue
        if has_mark(graph, key):
            yield models.QueueItem(None, id, unmarked(graph), {EXTRA_DATA_KEY: key})


def _limit(routes: HostedRoutes) -> Deadline:
    return Deadline.after(routes.http.total_timeout)
