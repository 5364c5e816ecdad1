"""Where the jobs of a pool go: decisions on its state alone, without a thread or a request."""

from __future__ import annotations

import random
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
from comfy_client.jobs.job import Callbacks
from comfy_client.jobs.prompt import Ending
from comfy_client.pool import availability, moving
from comfy_client.pool.availability import has_ended, mark_down
from comfy_client.pool.dispatcher import Dispatcher
from comfy_client.pool.pool_state import Entry, Member, Policy, PoolState, PoolTiming, Tries
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
    def make(on_lost: Any = "raise", on_failed: Any = "raise", in_flight: int = 2) -> PoolState:
        state = PoolState.new(
            "round_robin", Policy(60.0, on_lost, on_failed, PoolTiming(), Tries())
        )
        for name in (A, B):
            monitor = Known(remaining=0, status_at=0.0)
            parts = Known(poller=Known(tracker=Known(monitor=monitor)))
            api: Any = Known(state=State.CONNECTED, parts=parts)
            member = Member(api, Server(name, ready=True, most=in_flight), is_own=False)
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


@pytest.mark.parametrize("of_sweep", [False, True])
def test_servers_for_a_job_are_those_that_can_run_it_and_the_one_that_has_it(
    make: Callable[..., PoolState], of_sweep: bool
) -> None:
    """The prompts of a call time out together if all of them are silent."""
    state = make()
    state.members[B].server.has = lambda needs: not needs
    job: Any = PooledPrompt()
    for needs, names in ((frozenset({"K"}), [A]), (frozenset(), [A, B])):
        waiting = Waiting(job, 0, needs=needs, include=frozenset({A}) if of_sweep else None)
        entry = Entry(job, Known(), waiting, Callbacks(), {}, has_other=of_sweep)  # type: ignore[arg-type]
        assert [one.name for one in availability.servers_for(state, entry)] == names
        entry.has_other = False
        if of_sweep:
            assert [one.name for one in availability.servers_for(state, entry)] == [A]
    entry, _ = sent(state)
    availability.remove_member(state, A, NOW)
    assert {one.name for one in availability.servers_for(state, entry)} == {A, B}


def end_of(state: PoolState) -> Any:
    """The outcome of the only job that has ended."""
    assert not state.entries
    ((_, outcome, _),) = state.ends
    return outcome


def facts_of_lines(state: PoolState) -> list[Any]:
    """The attributes of the log lines that are to be written."""
    return [one.extra for one in state.log_lines]


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


class Fleet:
    """Servers that die of some jobs, and are restarted; ends are told late, or never if they die.

    Args:
        state: The state of a pool.
        poison: The numbers of the jobs that kill their server when they begin.
        jobs: The number of all jobs.
    """

    def __init__(self, state: PoolState, poison: set[int], jobs: int) -> None:
        self.state = state
        self.poison = poison
        self.deaths = 0
        self.untold: dict[Member, Entry] = {}  # what each has ended last
        self.entries: list[Entry] = []
        for number in range(jobs):
            job: Any = PooledPrompt()
            waiting = Waiting(job, number)
            self.entries.append(Entry(job, Known(), waiting, Callbacks(), {}))  # type: ignore[arg-type]
            moving.admit(state, self.entries[-1])

    def step(self, member: Member) -> None:
        """Let a server run its next job, and tell the end of the one before."""
        assign(self.state)
        while member.inbox:
            entry = member.inbox.popleft()
            assert not (member.in_flight and entry.waiting.runs_alone)
            entry.started, member.in_flight[entry] = True, None
            entry.inner = Prompt()  # type: ignore[assignment]
        told = self.untold.pop(member, None)
        there = [entry for entry in member.in_flight if entry is not told]
        if there and self.entries.index(there[0]) in self.poison:
            self._die(member)
            return
        if told is not None:
            told.inner.handle.status = "succeeded"  # type: ignore[union-attr]
            moving.handle_end(self.state, told, told.inner, Ending("succeeded", dict), NOW)  # type: ignore[arg-type]
        if there:
            self.untold[member] = there[0]

    def _die(self, member: Member) -> None:
        self.deaths += 1
        availability.mark_down(self.state, member, None, NOW)
        for entry in list(member.in_flight):
            error = JobLost("lost", prompt_id="p")
            entry.inner.end, entry.inner.handle.status = error, "lost"  # type: ignore[union-attr]
            moving.handle_end(self.state, entry, entry.inner, error, NOW)  # type: ignore[arg-type]
        availability.mark_ready(self.state, member, None, NOW)

    def lost(self) -> tuple[set[int], list[str]]:
        """The numbers of the jobs that were lost, and what is said of those that kill."""
        numbers = {entry.job: number for number, entry in enumerate(self.entries)}
        lost = {
            numbers[job]: str(end) for job, end, _ in self.state.ends if isinstance(end, JobLost)
        }
        return set(lost), [words for number, words in lost.items() if number in self.poison]


@pytest.mark.parametrize("on_lost", ["raise", "retry"])
@pytest.mark.parametrize("seed", range(12))
def test_a_job_that_kills_its_server_is_lost_after_three_deaths(make, on_lost, seed) -> None:
    """Each takes one other job with it at most, and none that may run again."""
    chance = random.Random(seed)
    poison = set(chance.sample(range(60), 4))
    fleet = Fleet(make(on_lost=on_lost, in_flight=chance.choice([1, 2, 3])), poison, 60)
    members = list(fleet.state.members.values())
    for _ in range(2000):
        fleet.step(chance.choice(members))
    assert not fleet.state.entries
    lost, words = fleet.lost()
    assert fleet.deaths <= 12
    assert poison <= lost
    if on_lost == "retry":
        assert lost == poison
        assert fleet.deaths == 12
        assert all("its server died 3 times" in one for one in words)
    else:
        assert len(lost - poison) <= 4


def test_only_a_server_that_refuses_connections_for_a_while_has_ended(make) -> None:
    """One that is silent may be cut off; a proxy that is down says nothing of the server."""
    state = make()
    member, refuses = state.members[A], ServerUnreachable("refused", refused=True)
    limit = state.policy.timing.refused

    def ended(*errors: Exception | None) -> bool:
        member.refused_since = None
        for n, error in enumerate(errors):
            mark_down(state, member, error, NOW + n)
        return has_ended(state, member, NOW + limit + 1.5)

    assert ended(refuses)
    assert ended(refuses, None, refuses)
    assert not ended(None)
    assert not ended(ServerUnreachable("no route"))
    assert not ended(refuses, ServerUnreachable("no route"))
    assert not ended(refuses, ServerUnreachable("no route"), refuses)


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


@pytest.mark.parametrize("is_swept", [False, True])
def test_a_prompt_that_fails_while_its_pool_is_shut_down_ends_a_job_but_no_point(
    make, is_swept
) -> None:
    """The next call of the sweep has another server run it."""
    state, error = make(on_failed="move"), JobFailed("failed", prompt_id="p")
    entry, _ = sent(state, Prompt(error, has_begun=True), is_swept=is_swept, has_other=is_swept)
    moving.recall(state, entry.job)
    moving.handle_end(state, entry, entry.inner, entry.inner.end, NOW)
    assert end_of(state) is error
    assert entry.goes_on is is_swept


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
    assert moving.withdraw(state, entry.job, if_unsent=False) is None
    assert entry.cancelled
    assert not state.ends
    moving.handle_unsent(state, member, entry, ServerUnreachable("gone"), NOW)
    assert isinstance(end_of(state), JobInterrupted)
    assert not moving.withdraw(state, entry.job, if_unsent=False)


def test_the_late_end_of_a_prompt_that_runs_again_elsewhere_ends_nothing(make) -> None:
    """Its server, which was frozen, thaws, and cancels it since nobody wants it any more."""
    state = make(on_lost="retry")
    old = Prompt(has_begun=True)
    entry, _ = sent(state, old)
    moving.handle_loss(state, entry, JobLost("lost", prompt_id="p"), None, NOW)
    assert assign(state) == [B]
    other = state.members[B]
    other.in_flight[other.inbox.popleft()] = None
    entry.started, entry.inner = True, Prompt()
    moving.handle_end(state, entry, old, JobInterrupted("cancelled", prompt_id="p"), NOW)
    assert entry.job in state.entries
    assert not state.ends


@pytest.mark.parametrize("is_sent", [False, True])
def test_the_place_of_a_job_that_is_cancelled_is_free_again(make, is_sent) -> None:
    """Whether its server was only chosen, or has refused it since."""
    state = make()
    member = state.members[A]
    if is_sent:
        entry, _ = sent(state)
    else:
        job: Any = PooledPrompt()
        entry = Entry(job, Known(), Waiting(job, 0), Callbacks(), {})  # type: ignore[arg-type]
        moving.admit(state, entry)
        assert assign(state) == [A]
    assert member.server.own == 1
    moving.withdraw(state, entry.job, if_unsent=False)
    if is_sent:
        moving.handle_unsent(state, member, entry, ServerUnreachable("gone"), NOW)
    assert member.server.own == 0


def test_a_server_that_is_back_does_not_go_on_resting(make: Callable[..., PoolState]) -> None:
    """A restart may have repaired it; it stays suspect until a job succeeds."""
    state = make()
    member = state.members[A]
    for number in range(10):
        state.health.record_failure(A, number, "broken", [A, B], NOW)
    availability.update_suspects(state, NOW)
    assert (member.server.is_suspect, member.server.is_resting) == (True, True)
    mark_down(state, member, ServerUnreachable("refused"), NOW)
    availability.mark_ready(state, member, None, NOW)
    assert (member.server.is_suspect, member.server.is_resting) == (True, False)
