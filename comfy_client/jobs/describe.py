"""The progress of a prompt, in numbers and in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs

from .. import runtime
from ..to_dict import AsDict
from ..transport.websocket import State
from ..workflow import class_of, title_of
from .outcomes import JobStatus
from .poller import Poller
from .progress import NodeTimes, fraction_of, seconds_left
from .result import Result
from .state import PromptState
from .tracker import Order, Tracker

#: How many seconds after the last news an answer must come to be named: it had no news.
_RECENT: Final = 1.0


@attrs.frozen
class JobProgress(AsDict):
    """The progress of a prompt.

    Attributes:
        fraction: From 0 to 1; it never falls, and is 1 only for a success.  Nodes count by their
            samplers' steps, and by how long they took in earlier runs of this client.
        node_id: The id of the node that is running; ``None``: no node is, or it is unknown.
        title: The title of that node, or its class if it has no title.
        step: How many steps that node has done; ``None`` if it does not report steps.
        steps: How many steps that node has; ``None`` if it does not report steps.
        elapsed: Seconds since the prompt started to run; ``None``: it has not started, or its
            start is not known.
        left: An estimate of the seconds that are left, from earlier runs of its nodes in this
            client and the pace of its steps; ``None``: not known yet.
    """

    fraction: float
    node_id: str | None = None
    title: str | None = None
    step: float | None = None
    steps: float | None = None
    elapsed: float | None = None
    left: float | None = None


@attrs.frozen(eq=False)
class JobSnapshot(AsDict):
    """A snapshot of a prompt's known state, for ``job.to_dict()``.

    Attributes:
        prompt_id: The id of the prompt on the server.
        status: The status of the prompt, as far as the client knows.
        why: One sentence on what it is waiting for, or how it ended.
        queue_position: The most prompts that can be ahead of it; 0: it is running, or next.
            ``None``: unknown, or it has ended.
        progress: Its progress.
        node_errors: Why some outputs do not run, by node id; empty: all run.
        result: Its result; ``None``: it has not succeeded.
        error: Its error; ``None``: it has a result, or has not ended.
    """

    prompt_id: str
    status: JobStatus
    why: str
    queue_position: int | None
    progress: JobProgress
    node_errors: Mapping[str, Any]
    result: Result | None
    error: BaseException | None


def progress_of(state: PromptState, times: NodeTimes) -> JobProgress:
    """Return the progress of a prompt that has not ended."""
    node_id, last = state.node, state.step
    step = last if last is not None and last.node == node_id else None
    ran_for = elapsed(state)
    return JobProgress(
        fraction_of(state, times),
        node_id=node_id,
        title=title_of(state.graph, node_id) or class_of(state.graph, node_id),
        step=None if step is None else step.value,
        steps=None if step is None else step.max,
        elapsed=ran_for,
        left=None if ran_for is None else seconds_left(state, times, runtime.monotonic(), ran_for),
    )


def elapsed(state: PromptState) -> float | None:
    """Return how many seconds a prompt has run so far or, if ended, in all; None if unknown."""
    return state.elapsed(runtime.monotonic())


def queue_position(state: PromptState, tracker: Tracker) -> int | None:
    """Return the highest possible number of prompts ahead of a prompt; None if unknown."""
    if state.running_since is not None:
        return 0
    before, behind = _order(tracker).around(state.number)
    is_heard = tracker.link is not None and not state.attached
    most = max(before, (tracker.monitor.remaining or 0) - 1 - behind) if is_heard else None
    at_most = min((n for n in (state.ahead, most) if n is not None), default=None)
    # A prompt of this client may have gone to the front after the snapshot of the queue.
    return None if at_most is None else max(before, at_most)


def _order(tracker: Tracker) -> Order:
    """Return the order of the client's prompts in the queue, cached until it may have changed."""
    ledger = tracker.ledger
    if ledger.order.changes != ledger.changes:
        ledger.order = Order.of(tracker.outstanding, ledger.changes)
    return ledger.order


def why(state: PromptState, status: str, poller: Poller) -> str:
    """Describe in one sentence the state of an unfinished prompt and the age of the last news."""
    tracker = poller.tracker
    now = runtime.monotonic()
    words = [status if state.end_event is None else f"{status}, its record is awaited"]
    if status == "pending":
        ahead = queue_position(state, tracker)
        if ahead is not None:
            words[0] += f", {ahead} ahead" if ahead else ", next in the queue"
        other = _order(tracker).running
        if other is not None:
            words.append(f"running: {_node(other.state, tracker)}")
        elif ahead:
            words.append("running: another prompt")
    elif status == "running":
        words[0] += f": {_node(state, tracker)}"
        if state.running_since is not None and not state.lacks_events:
            words[0] += f", for {max(0.0, now - state.running_since):.0f} s"
    quiet = max(0.0, now - state.news_at)  # news may have come since
    news = (
        f"last news {quiet:.1f} s ago by {state.news_by}"
        if state.news_by
        else f"no news for {quiet:.1f} s"
    )
    return "; ".join([*words, news + _link(state, poller)])


def _node(state: PromptState, tracker: Tracker) -> str:
    progress = progress_of(state, tracker.times)
    is_heard = not state.lacks_events or state.submitter == tracker.connection.client_id
    nowhere = "no node yet" if is_heard else "no progress, as another client submitted it"
    text = progress.title or (f"node {progress.node_id}" if progress.node_id else nowhere)
    if progress.step is not None and progress.steps:
        text += f" {progress.step:g}/{progress.steps:g}"
    return text


def _link(state: PromptState, poller: Poller) -> str:
    connection = poller.tracker.connection
    if poller.trouble is not None and poller.troubled_at >= state.posted_at:
        return f"; the server does not answer ({poller.trouble})"
    if connection.state is not State.CONNECTED:
        if poller.answered_at - state.news_at < _RECENT:
            return poller.without_socket
        seconds = runtime.monotonic() - poller.answered_at
        return f", the server answered {seconds:.1f} s ago{poller.without_socket}"
    again = connection.generation - 1
    if again < 1:
        return ""
    return ", reconnected once" if again == 1 else f", reconnected {again} times"
