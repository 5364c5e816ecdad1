"""Where the jobs of a pool go: decisions on its state alone, without a thread or a request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from comfy_client.errors import (
    AuthenticationError,
    JobFailed,
    JobInterrupted,
    JobLost,
    PromptRejected,
    ServerUnreachable,
)
from comfy_client.jobs.callbacks import Callbacks
from comfy_client.pool import moving
from comfy_client.pool.dispatcher import Dispatcher
from comfy_client.pool.pool_state import Entry, Intervals, LogLine, Member, Policy, PoolState
from comfy_client.pool.schedule import Server, Waiting
from comfy_client.transport.websocket import State

NOW = 100.0
A, B = "http://a", "http://b"


class Known:
    """What is known of a prompt, or of a client; other names give None."""

    def __init__(self, **known: Any) -> None:
        vars(self).update(known)

    def __getattr__(self, _: str) -> None:
        return None


#: The attributes of log records about a prompt.
NAMED = {"prompt_id": "p", "tags": {"tenant": "a"}}


class Prompt:
    """A prompt on a server, as its job."""

    def __init__(self, end: Any = None, *, has_begun: bool = False, **state: Any) -> None:
        self.prompt_id = "p"
        self.end = end
        result = None if isinstance(end, Exception) else end
        state = Known(**{"generation": 1, "named": NAMED, **state})
        self.handle = Known(state=state, result=result, has_begun=has_begun, was_cut_off=False)

    def done(self) -> bool:
        return self.end is not None

    def exception(self, _: float) -> Any:
        return self.end if isinstance(self.end, Exception) else None


class PooledPrompt:
    """A job of a pool, which notes how it is moved."""

    def __init__(self) -> None:
        self.prompt_id = "p"
        self.left: list[str] = []
        state = Known(named=NAMED)
        self.handle = Known(state=state, leave=self.leave, refuse=lambda: None)

    def leave(self, prompt_id: str = "") -> None:
        self.left.append(prompt_id)


@pytest.fixture
def make() -> Callable[..., PoolState]:
    def make(on_lost: Any = "raise", on_failed: Any = "raise") -> PoolState:
        state = PoolState.new("round_robin", Policy(60.0, on_lost, on_failed, Intervals()))
        for name in (A, B):
            monitor = Known(remaining=0, status_at=0.0)
            parts = Known(poller=Known(tracker=Known(monitor=monitor)))
            api: Any = Known(state=State.CONNECTED, parts=parts)
            member = Member(api, Server(name, ready=True), is_own=False)
            state.schedule.add_server(member.server)
            state.members[name] = member
        return state

    return make


def sent(state: PoolState, prompt: Prompt | None = None, **known: Any) -> tuple[Entry, Member]:
    """A job that was sent to the first server, which has this prompt, if any."""
    job: Any = PooledPrompt()
    entry = Entry(job, Known(), Waiting(job, 0), Callbacks(), {}, **known)  # type: ignore[arg-type]
    moving.admit(state, entry)
    assign(state)
    member = state.members[A]
    assert member.inbox.popleft() is entry
    entry.started, member.in_flight[entry] = True, None
    entry.inner = prompt  # type: ignore[assignment]
    return entry, member


def assign(state: PoolState) -> list[str]:
    """Give out what waits; return the servers that get it."""
    found = list(iter(state.schedule.assign_next, None))
    for one in found:
        moving.assign(state, one, NOW)
    return [one.server.name for one in found]


def end_of(state: PoolState) -> Any:
    """The outcome of the only job that has ended."""
    assert not state.entries
    ((_, outcome, _),) = state.ends
    return outcome


def facts_of_lines(state: PoolState) -> list[Any]:
    """The attributes of the log lines that are to be written."""
    return [one.extra for one in state.news if isinstance(one, LogLine)]


@pytest.mark.parametrize(
    "error", [ServerUnreachable("gone"), AuthenticationError("no", status=401)]
)
def test_a_job_that_a_server_surely_never_got_moves_without_cost(make, error) -> None:
    """The server gets no more until it is back."""
    state = make()
    entry, member = sent(state)
    moving.handle_unsent(state, member, entry, error, NOW)
    assert assign(state) == [B]
    assert (entry.tries, member.server.ready, member.server.own) == (1, False, 0)
    assert not state.ends
    assert facts_of_lines(state) == [{**NAMED, "server": A}]


def test_a_job_that_all_servers_reject_ends_in_the_rejection(make) -> None:
    """Each of them stays ready: the job may be to blame."""
    state, error = make(), PromptRejected("no", status=400)
    entry, member = sent(state)
    moving.handle_unsent(state, member, entry, error, NOW)
    assert assign(state) == [B]
    other = state.members[B]
    entry = other.inbox.popleft()
    other.in_flight[entry] = None
    moving.handle_unsent(state, other, entry, error, NOW)
    assert end_of(state) is error
    assert member.server.ready
    assert other.server.ready


@pytest.mark.parametrize("on_lost", ["raise", "retry"])
def test_a_lost_job_that_ran_runs_again_only_if_its_user_wants_that(make, on_lost) -> None:
    """Three times in all."""
    state, error = make(on_lost=on_lost), JobLost("lost", prompt_id="p")
    prompt = Prompt(error, has_begun=True)
    entry, _ = sent(state, prompt)
    runs = 1
    while True:
        moving.handle_end(state, entry, entry.inner, entry.inner.end, NOW)
        if not state.entries:
            break
        runs += 1
        (host,) = assign(state)
        state.members[host].in_flight[state.members[host].inbox.popleft()] = None
        entry.inner = prompt
    assert end_of(state) is error
    assert runs == (3 if on_lost == "retry" else 1)
    assert [facts["tags"] for facts in facts_of_lines(state)] == [NAMED["tags"]] * (runs - 1)


@pytest.mark.parametrize("stays", [False, True])
def test_a_lost_job_that_had_not_begun_moves_unless_its_user_has_left(make, stays) -> None:
    state = make()
    entry, _ = sent(state, Prompt(JobLost("lost", prompt_id="p")))
    entry.was_away = True
    if stays:
        assert not moving.recall(state, entry.job)
    moving.handle_end(state, entry, entry.inner, entry.inner.end, NOW)
    assert assign(state) == ([] if stays else [B])
    assert len(state.ends) == stays
    assert entry.tries == 1
    assert facts_of_lines(state) == ([] if stays else [{**NAMED, "server": A}])


def test_a_job_that_two_servers_did_not_survive_runs_nowhere_else(make) -> None:
    state = make(on_lost="retry")
    entry, _ = sent(state, Prompt(JobLost("lost", prompt_id="p"), has_begun=True))
    entry.died, entry.was_first = frozenset({B}), True
    moving.handle_end(state, entry, entry.inner, entry.inner.end, NOW)
    assert "two servers died" in str(end_of(state))


@pytest.mark.parametrize("on_failed", ["raise", "move"])
def test_a_failed_job_moves_once_if_its_user_wants_that(make, on_failed) -> None:
    state, error = make(on_failed=on_failed), JobFailed("failed", prompt_id="p")
    entry, _ = sent(state, Prompt(error, has_begun=True))
    moving.handle_end(state, entry, entry.inner, entry.inner.end, NOW)
    if on_failed == "move":
        assert facts_of_lines(state) == [{**NAMED, "server": A}]
        assert assign(state) == [B]
        other = state.members[B]
        other.in_flight[other.inbox.popleft()] = None
        entry.inner = Prompt(error, has_begun=True)
        moving.handle_end(state, entry, entry.inner, entry.inner.end, NOW)
    assert end_of(state) is error


def test_the_error_of_a_failed_job_is_made_without_the_lock(make) -> None:
    """It takes time: it is redacted, and it tells what the server said."""
    state, error = make(), JobFailed("failed", prompt_id="p")
    receivers: Any = Known(publish=lambda event: None)
    dispatcher = Dispatcher(state, receivers)
    locked: list[bool] = []

    class Failed(Prompt):
        def exception(self, _: float) -> Any:
            locked.append(dispatcher.has_lock())
            return error

    entry, _ = sent(state, Failed(error, has_begun=True))
    ends: list[Any] = []
    entry.job.handle.end = lambda *end: ends.append(end)
    dispatcher.end(entry, entry.inner)
    assert ends == [(error, None)]
    assert locked
    assert not any(locked)


def test_a_job_that_waits_is_ended_and_one_that_is_sent_is_cancelled_there(make) -> None:
    state = make()
    entry, member = sent(state)
    assert moving.withdraw(state, entry.job, if_unsent=False)
    assert entry.cancelled
    assert not state.ends
    moving.handle_unsent(state, member, entry, ServerUnreachable("gone"), NOW)
    assert isinstance(end_of(state), JobInterrupted)
    assert not moving.withdraw(state, entry.job, if_unsent=False)
