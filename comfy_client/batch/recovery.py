"""The search for an earlier process's prompts on their server."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs

from ..jobs.job import Job
from ..jobs.poller import Poller
from ..jobs.submit import attach
from ..log_records import Tags
from ..models import HistoryEntry, QueueItem
from ..routes import Routes
from ..routes.prompts import EXTRA_DATA_KEY
from ..transport.deadline import Deadline
from ..values import is_shallow
from ..workflow import Workflow
from ..workflow.graph import files_in, is_upload
from ..workflow.seeds import NAMES, is_wanted, wants_seeds
from .grid import canonical


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
    """

    def __init__(self, client: Routes, poller: Poller, sought: Mapping[str, Sought]) -> None:
        self._client = client
        self._poller = poller
        self._sought = sought
        self._ids: dict[str, str] = {}  # the server's ids by ours
        if poller.has_queue:
            self._read_records()

    def _read_records(self) -> None:
        """Note the ids of prompts that the server has, in its queue or under ids that it chose."""
        client, sought = self._client, self._sought
        queue = client.get_queue()
        records: list[QueueItem | HistoryEntry] = [*queue.running, *queue.pending]
        if client.get_features():
            records += _entries(client, sought)
        else:  # servers before 0.3.45 chose the ids
            records += client.get_histories(None).values()
        for record in records:
            mark = record.extra_data.get(EXTRA_DATA_KEY)
            if isinstance(mark, str) and mark in sought and sought[mark].is_there(mark, record):
                self._ids[mark] = record.prompt_id
        for record in records:  # an id takes precedence over a mark
            if record.prompt_id in sought:
                self._ids[record.prompt_id] = record.prompt_id

    def find(self, prompt_id: str) -> str | None:
        """Return the id under which the server has a prompt, or None."""
        if prompt_id in self._ids:
            return self._ids[prompt_id]
        if self._poller.has_queue:
            return prompt_id if self._client.get_history(prompt_id) else None
        sought = self._sought.get(prompt_id)
        other = None if sought is None else sought.other_id(prompt_id)
        for one in filter(None, (other, prompt_id)):
            found = self._poller.search(one, "", Deadline())
            if found is not None:
                self._ids[prompt_id] = found
                return found
        return None

    def attach(
        self, prompt_id: str, workflow: Workflow, lost_delay: float | None, tags: Tags | None
    ) -> Job:
        """Attach to a prompt that an earlier process submitted, and return its job."""
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


def _entries(client: Routes, sought: Mapping[str, Sought]) -> Iterable[HistoryEntry]:
    """Return the history entries of the prompts whose ids the server chose, as far as known."""
    others = [other for ours, one in sought.items() if (other := one.other_id(ours)) is not None]
    return filter(None, map(client.get_history, others))


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
