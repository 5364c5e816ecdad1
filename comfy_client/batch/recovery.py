"""The search for prompts that an earlier process submitted for a sweep.

When a sweep is run again after its process died, its journal (``journal.py``) lists the prompts
that were sent.  Those that the server still knows are followed, not sent twice.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import attrs

from ..errors import JobLost, SubmitUncertain
from ..jobs.job import Job
from ..jobs.poller import Poller
from ..jobs.submit import attach
from ..log_records import Tags
from ..models import HistoryEntry, QueueItem
from ..routes import Routes
from ..routes.prompts import EXTRA_DATA_KEY
from ..values import is_shallow
from ..workflow import Workflow
from ..workflow.graph import files_in, is_upload
from ..workflow.seeds import NAMES, is_wanted, wants_seeds
from .grid import canonical


class NeverArrived(JobLost):
    """The server never got an earlier process's prompt, so it may be sent again under its id."""


def never_arrived(poller: Poller, job: object, outcome: object) -> bool:
    """Return whether a lost prompt never arrived, so that it may be sent again under its id."""
    if isinstance(outcome, NeverArrived):
        return True
    if not isinstance(outcome, JobLost) or not isinstance(job, Job) or poller.finds_lost_prompts:
        return False
    return job.handle.state.search_by_mark  # its submission never got an answer


@attrs.frozen
class Sought:
    """A prompt that an earlier process may have submitted, and how to recognize it."""

    workflow: Callable[[], Workflow]  #: Makes the workflow that was submitted.
    #: The id in the journal.  If the server chose it, the prompt must have our mark, as the
    #: journal may come from a stranger, and the prompt may belong to somebody else.
    known_as: str | None = None

    def other_id(self, ours: str) -> str | None:
        """Return the id that the server chose in place of ``ours``, or None if none is known."""
        return None if self.known_as == ours else self.known_as

    def is_there(self, ours: str, record: QueueItem | HistoryEntry) -> bool:
        """Return whether a server's record marked with the id ``ours`` belongs to this prompt.

        Anybody can read and send such marks, but nobody can choose the ids on servers that assign
        their own.  If the process was killed before it learned the id, the graphs must agree.
        """
        other = self.other_id(ours)
        if other is not None:
            return record.prompt_id == other
        return _is_part(record.workflow, self.workflow().to_dict())


class Recovery:
    """The search for an earlier process's prompts on one server.

    Even if a journal has lost entries, nothing runs twice: each prompt is sought before it is sent.
    A prompt that was neither in the queue at the start nor in the history later never arrived.

    Args:
        client: The client of the server.
        poller: Its poller.
        sought: The prompts to look for, by the id that the earlier process chose.
        ended: The ids of prompts in the journal that had ended on this server.
    """

    def __init__(
        self,
        client: Routes,
        poller: Poller,
        sought: Mapping[str, Sought],
        ended: Collection[str] = (),
    ) -> None:
        self._client = client
        self._poller = poller
        self._ids: dict[str, str] = {}  # the server's ids by ours
        known_ids = {ours: one.known_as for ours, one in sought.items()}
        found = poller.find_earlier(known_ids, ended)
        self._doubts = found.doubts
        records = found.records
        for record in records:
            mark = record.extra_data.get(EXTRA_DATA_KEY)
            if isinstance(mark, str) and mark in sought and sought[mark].is_there(mark, record):
                self._ids[mark] = record.prompt_id
        for record in records:  # an id takes precedence over a mark
            if record.prompt_id in sought:
                self._ids[record.prompt_id] = record.prompt_id

    def find(self, prompt_id: str) -> str | None:
        """Return the server's id of a prompt, or None; ``prompt_id`` if the server cannot tell."""
        if prompt_id in self._ids or prompt_id in self._doubts:
            return self._ids.get(prompt_id, prompt_id)
        return prompt_id if self._poller.has_record(prompt_id) else None

    def attach(
        self, prompt_id: str, workflow: Workflow, lost_delay: float | None, tags: Tags | None
    ) -> Job:
        """Attach to a prompt that an earlier process submitted, and return its job.

        Raises:
            SubmitUncertain: The server cannot tell whether it has the prompt.
            NeverArrived: It never got the prompt.
        """
        if prompt_id not in self._ids and prompt_id not in self._ids.values():
            if (why := self._doubts.get(prompt_id)) is not None:
                raise SubmitUncertain(
                    f"an earlier process may have submitted prompt {prompt_id}, and {why}; it may "
                    f"run.  Its Idempotency-Key and the mark in its workflow are {prompt_id}",
                    prompt_id=prompt_id,
                )
            is_open = self._poller.tracker.get(prompt_id) is not None  # in this process
            if not (self._poller.finds_lost_prompts or is_open):
                raise NeverArrived(f"prompt {prompt_id} never arrived", prompt_id=prompt_id)
        return attach(
            self._client,
            self._poller,
            self._ids.get(prompt_id, prompt_id),
            known_graph(workflow),
            output_names=workflow.output_names,
            lost_delay=lost_delay,
            tags=tags,
        )


def known_graph(workflow: Workflow) -> Mapping[str, Any]:
    """Return the graph that was submitted; empty if it has seeds or files that are unknown here."""
    graph = workflow.to_dict()
    return {} if wants_seeds(graph) or files_in(graph) else graph


def _is_part(sent: Mapping[str, Any], graph: Mapping[str, Any]) -> bool:
    """Return whether the graph ``sent`` is the workflow ``graph`` or a part of it."""
    return (
        bool(sent)
        and is_shallow(sent)
        and all(
            node_id in graph
            and _known(node, graph[node_id]) == _known(graph[node_id], graph[node_id])
            for node_id, node in sent.items()
        )
    )


def _known(node: Any, ours: Mapping[str, Any]) -> str:
    """Return a node as text, without drawn seeds and uploaded files; empty if it is malformed."""
    if not isinstance(node, Mapping) or not isinstance(node.get("inputs"), Mapping):
        return ""
    left_out = {
        name
        for name, value in ours["inputs"].items()
        if is_upload(value) or (name in NAMES and is_wanted(value))
    }
    kept = {name: value for name, value in node["inputs"].items() if name not in left_out}
    return canonical({**node, "inputs": kept})
