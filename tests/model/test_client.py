"""The client against the model of a server, in thousands of schedules.

Each schedule has a few prompts, what is done to them, and faults.  Whatever happens:

* A prompt is taken at most once, unless the server forgot it or took it late.
* Each job ends once, by the end that the server knows, with its outputs or ``complete=False``.
* Nothing ends while the server still has it, and receivers get one end event.
* Once faults cease, each job ends within :data:`BOUND` seconds.
* A client goes on afterwards, and hears events again.
* No lock is held while user code or I/O runs, and no thread is left after ``close()``.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import attrs
import pytest

from comfy_client import ComfyApi, Job, Result, State, Timing
from comfy_client.errors import (
    ApiError,
    ClientClosed,
    ComfyError,
    JobFailed,
    JobInterrupted,
    JobLost,
    NotSupported,
    PromptRejected,
    ServerUnreachable,
    SubmitUncertain,
    TransportError,
    UnexpectedResponse,
)
from comfy_client.events import EndEvent, Event
from comfy_client.transport.failures import is_away
from tests.helpers.long import few
from tests.model.kernel import START, Kernel
from tests.model.schedule import Act, Fault, Prompt, Schedule, make, replayable
from tests.model.server import LONG, Server, Taken, graph_of
from tests.model.wire import Network, connect

#: Seconds within which a job ends, once its prompt has ended and faults have ceased.
BOUND: Final = 40.0
#: Seconds for which a client uses an old list of a server whose list takes long to read.
REST: Final = Timing().slow_queue_rest * LONG
#: Seconds after which nobody waits any more, whatever stays broken.
LIMIT: Final = 5000.0
#: Default lane: so many schedules, in so many tests.
SCHEDULES, BLOCKS = 2000, 40

#: What the server calls the end that a job reports so.
ENDS = {
    Result: {"execution_success"},
    JobFailed: {"execution_error"},
    JobInterrupted: {"execution_interrupted", "deleted"},
}
EVENT_OF = {
    Result: "execution_success",
    JobFailed: "execution_error",
    JobInterrupted: "execution_interrupted",
}


@attrs.define(eq=False)
class Wait:
    """One job, or one submission, of a user, and how it ended."""

    prompt: int
    client: int
    is_own: bool  #: Whether this client submitted it.
    began: float
    job: Job | None = None
    outcome: Any = None
    ended_at: float = 0.0

    @property
    def error(self) -> ComfyError | None:
        return self.outcome if isinstance(self.outcome, ComfyError) else None


class World:
    """A schedule as it is played."""

    def __init__(self, kernel: Kernel, schedule: Schedule) -> None:
        self.kernel = kernel
        self.schedule = schedule
        self.server = Server(kernel, version=schedule.version)
        self.server.is_busy, self.server.is_long = schedule.busy, schedule.long
        self.network = Network(kernel, self.server)
        self.apis: list[ComfyApi] = []
        self.waits: list[Wait] = []
        self.jobs: dict[int, Job] = {}  # by prompt, the newest
        self.ids = [f"00000000-0000-4000-8000-{n:012d}" for n in range(len(schedule.prompts))]
        self.begun: set[int] = set()
        self.own: dict[int, Job] = {}  # by prompt, once it is submitted
        self.closed: set[int] = set()
        self.cancelled: set[int] = set()  # by their own client, which was told so
        self.tried: set[int] = set()  # of which nobody knows whether they were cancelled
        self.ends: list[Counter[tuple[str | None, str]]] = []  # events, by client
        self.late = 0.0

    # -- what happens ----------------------------------------------------------------------

    def play(self) -> None:
        """Have everything happen, and check what came of it."""
        schedule, kernel = self.schedule, self.kernel
        with self.network, contextlib.ExitStack() as clients:
            clients.callback(lambda: [api.close() for api in self.apis])
            for number in range(schedule.clients):
                self.connect(f"client-{number}", polls=schedule.polls and not number)
            kernel.spawn(lambda: self.network.play(schedule.faults), "faults")
            users = [
                *(kernel.spawn(self.user(n, one), f"prompt {n}") for n, one in self.numbered()),
                *(kernel.spawn(self.actor(act), act.what) for act in schedule.acts),
            ]
            for user in users:
                user.join(LIMIT)
            stuck = [user.name for user in users if user.is_alive()]
            assert not stuck, f"no end: {stuck} still wait at {kernel.now() - START:.1f} s"
            self.check_ends()
            if schedule.goes_on:
                kernel.sleep(max(0.0, START + schedule.calm - self.now))
                kernel.sleep(70.0)  # no deaf socket is dialled again before
                for client in {*range(len(self.apis))} - self.closed:
                    self.go_on(self.apis[client])
            clients.close()
            kernel.sleep(5.0)
            left = [name for name in kernel.living() if name.startswith("comfy-")]
            assert not left, f"threads left: {left}"
        assert not self.network.violations, "locks: " + self.network.violations[0]

    def connect(self, name: str, *, polls: bool = False) -> ComfyApi:
        api = connect(self.server, name, transport="poll" if polls else "auto")
        seen: Counter[tuple[str | None, str]] = Counter()

        def hear(event: Event) -> None:
            self.network.check_unlocked("a receiver is called")
            if isinstance(event, EndEvent) and event.is_end:
                seen[event.prompt_id, event.name] += 1

        api.on("all", hear)
        self.apis.append(api)
        self.ends.append(seen)
        return api

    def numbered(self) -> list[tuple[int, Prompt]]:
        return list(enumerate(self.schedule.prompts))

    def user(self, number: int, prompt: Prompt) -> Callable[[], None]:
        """Somebody who submits a prompt, and waits for its end."""

        def act() -> None:
            self.network.wait_until(prompt.at)
            self.begun.add(number)
            self.wait(Wait(number, prompt.client, True, self.now), self.submit)

        return act

    def submit(self, wait: Wait) -> Any:
        prompt, api = self.schedule.prompts[wait.prompt], self.apis[wait.client]
        does = ("seconds", "ticks", "fails", "cached", "refused", "partly")
        graph = graph_of(**{name: getattr(prompt, name) for name in does})
        graph["1"]["inputs"]["tag"] = wait.prompt
        if prompt.how == "run":
            return api.run(graph, resubmit=prompt.resubmit, progress=False, on_event=self.hear)
        prompt_id = self.ids[wait.prompt]
        wait.job = job = api.submit(graph, prompt_id=prompt_id, resubmit=prompt.resubmit)
        self.jobs[wait.prompt] = self.own[wait.prompt] = job
        if prompt.how == "follow":
            events = [event for event in job.events() if event.is_end]
            assert len(events) <= 1, "one end: an iterator yields two end events"
        return job.result()

    def hear(self, event: Event) -> None:
        self.network.check_unlocked("a callback is called")

    def actor(self, act: Act) -> Callable[[], None]:
        """Somebody who does something to a prompt."""

        def do() -> None:
            self.network.wait_until(act.at)
            if act.prompt >= len(self.ids):
                return
            while act.prompt not in self.begun:
                self.kernel.sleep(0.1)
            try:
                self.do(act)
            except ComfyError as exc:
                refused = isinstance(exc, ApiError) and not is_away(exc)
                if refused or isinstance(exc, ServerUnreachable):  # nothing was done
                    self.tried.discard(act.prompt)
                self.check_failure(exc, START + act.at)

        return do

    def do(self, act: Act) -> None:
        api, job = self.apis[act.client], self.jobs.get(act.prompt)
        prompt_id = self.ids[act.prompt] if job is None else job.prompt_id
        if self.schedule.prompts[act.prompt].how == "run":
            prompt_id = next((one.prompt_id for one in self.taken(act.prompt)), prompt_id)
        if act.what == "close":
            self.closed.add(act.client)
            api.close()
        elif act.what == "attach" and (job or self.taken(act.prompt)):
            self.wait(
                Wait(act.prompt, act.client, False, self.now),
                lambda wait: self.attach(api, prompt_id, act.prompt).result(),
            )
        elif act.what == "again":
            self.closed.add(act.client)
            api.close()
            again = self.connect(f"client-{act.client}")
            if self.schedule.prompts[act.prompt].how != "run":
                prompt_id = self.ids[act.prompt]
            elif self.taken(act.prompt):
                prompt_id = self.taken(act.prompt)[0].prompt_id
            else:
                return  # nobody knows its id
            self.wait(
                Wait(act.prompt, self.apis.index(again), False, self.now),
                lambda wait: self.attach(again, prompt_id, act.prompt).result(),
            )
        elif act.what == "cancel" and job is not None:
            self.tried.add(act.prompt)
            was_there = job.cancel(force=True)
            self.tried.discard(act.prompt)
            if was_there and job is self.own.get(act.prompt):
                self.cancelled.add(act.prompt)
        elif act.what == "delete":
            api.delete_from_queue(prompt_id)
        elif act.what == "interrupt":
            api.interrupt(prompt_id)
        elif act.what == "clear":
            api.clear_queue()

    def attach(self, api: ComfyApi, prompt_id: str, number: int) -> Job:
        self.jobs[number] = job = api.job(prompt_id)  # for whoever wants to cancel it
        return job

    def go_on(self, api: ComfyApi) -> None:
        """All is well again: a prompt runs, and its events come."""
        graph = graph_of(15.0)
        graph["1"]["inputs"]["tag"] = -1
        result = api.run(graph, progress=False)
        assert result.complete, f"goes on: {result!r}"
        is_heard = self.server.hears(api.client_id) or api.client_id in self.server.banned
        assert is_heard or api.state is State.POLLING, f"goes on: {api!r} is deaf"

    def wait(self, wait: Wait, get: Callable[[Wait], Any]) -> None:
        self.waits.append(wait)
        try:
            wait.outcome = get(wait)
        except ComfyError as exc:
            wait.outcome = exc
        wait.ended_at = self.now
        self.check_end(wait)

    # -- what must be ----------------------------------------------------------------------

    @property
    def now(self) -> float:
        return self.kernel.now()

    def taken(self, number: int) -> list[Taken]:
        """The prompts that the server took for a submission."""
        return [t for t in self.server.taken if t.graph["1"]["inputs"]["tag"] == number]

    def explains(self, exc: Exception, since: float) -> bool:
        """Whether something was wrong since that moment of which this error may come."""
        faults = [fault for fault in self.schedule.faults if START + fault.over + 1.0 >= since]
        kinds = {fault.kind for fault in faults}
        if not self.server.version.has_api and isinstance(exc, NotSupported):
            return bool(faults)  # its routes could not be found
        if isinstance(exc, UnexpectedResponse):
            return bool(kinds & {"nonsense", "half"}) or exc.status in (404, 405)
        if isinstance(exc, ApiError) and not is_away(exc):
            given = [fault.value or 500 for fault in faults if fault.kind == "refuse"]
            return exc.status in given
        return bool(faults)

    def may_be_removed(self, wait: Wait) -> bool:
        """Whether its client may have had the server remove it from the queue."""
        acts = [act for act in self.schedule.acts if act.client == wait.client]
        return wait.prompt in self.tried or any(act.what in ("delete", "clear") for act in acts)

    def check_failure(self, exc: ComfyError, since: float) -> None:
        """A call fails only if there is a reason."""
        if isinstance(exc, ClientClosed):
            assert self.closed, "right end: closed by nobody"
        elif not isinstance(exc, NotSupported):
            assert self.explains(exc, since), f"right end: {exc!r} without a reason"

    def check_end(self, wait: Wait) -> None:
        """It ended as the server knows, and not before."""
        outcome, taken = wait.outcome, self.taken(wait.prompt)
        prompt = self.schedule.prompts[wait.prompt]
        if isinstance(outcome, ClientClosed):
            assert wait.client in self.closed, "right end: closed by nobody"
            return
        if isinstance(outcome, PromptRejected):
            assert prompt.refused, f"right end: {outcome!r}"
            assert not taken, f"once: {outcome!r}, but it was taken"
            return
        kind = next((kind for kind in ENDS if isinstance(outcome, kind)), None)
        if kind is not Result and self.is_submission(wait, outcome):
            self.check_submission(wait, taken)
            return
        refusal = isinstance(outcome, ApiError | UnexpectedResponse)
        if kind is not None:
            ends, is_over = {one.end for one in taken}, any(one.end for one in taken)
            if kind is JobInterrupted and self.may_be_removed(wait):
                ends.add("deleted")  # whether it was there any more, nobody can tell
                is_over = is_over or not taken
            assert is_over, f"still there: {outcome!r}"
            assert ends & ENDS[kind], f"right end: {outcome!r}, but {ends}"
            if kind is Result:
                self.check_outputs(outcome, taken)
        elif isinstance(outcome, JobLost) and "out of reach" not in str(outcome):
            soon = wait.ended_at - 3.0  # it may have come after the client has looked
            there = [one for one in taken if one.at < soon and self.server.has(one.prompt_id)]
            # An old server is searched by the mark, which counts for its own client only.
            is_named = self.apis[wait.client].client_id == f"client-{prompt.client}"
            is_known = self.server.version.takes_ids or (is_named and not self.server.banned)
            assert not there or not is_known, f"still there: {outcome!r}, {there}"
            if wait.prompt in self.cancelled and wait.client == prompt.client:
                ends = {one.end for one in taken}
                assert ends != {"deleted"}, f"right end: {outcome!r}, but it was cancelled"
        elif not isinstance(outcome, JobLost):
            assert refusal, f"right end: {outcome!r}"
            assert not is_away(outcome), f"right end: {outcome!r}, which is no refusal"
            assert self.explains(outcome, wait.began), f"right end: {outcome!r} without a reason"
        self.check_bound(wait, taken)

    def is_submission(self, wait: Wait, exc: ComfyError) -> bool:
        """Whether it is the submission that failed, and not the job."""
        if isinstance(exc, JobFailed | JobInterrupted | JobLost):
            return False
        if isinstance(exc, ApiError | UnexpectedResponse):
            return bool(exc.path) and exc.path.endswith("/prompt") and exc.method == "POST"
        prompt = self.schedule.prompts[wait.prompt]
        return wait.client == prompt.client and wait.prompt not in self.own

    def check_submission(self, wait: Wait, taken: list[Taken]) -> None:
        """A submission failed: nothing was taken, or nobody knows."""
        exc = wait.outcome
        assert self.explains(exc, wait.began), f"right end: {exc!r} without a reason"
        if isinstance(exc, SubmitUncertain):
            return
        is_sure = isinstance(exc, ServerUnreachable) or not isinstance(exc, TransportError)
        assert is_sure, f"right end: {exc!r} does not say whether it was taken"
        if isinstance(exc, UnexpectedResponse):
            return  # a page instead of an answer: it says nothing
        assert not taken, f"once: {exc!r}, but it was taken"

    def check_outputs(self, result: Result, taken: list[Taken]) -> None:
        names = {image.filename for image in result.images}
        right = [{f"{one.prompt_id}.png"} for one in taken if one.end == "execution_success"]
        is_whole = result.complete or bool(self.schedule.faults)
        assert is_whole, f"outputs: {result!r} is not complete without a reason"
        assert names in right or not result.complete, f"outputs: {names}, not {right}"

    def check_bound(self, wait: Wait, taken: list[Taken]) -> None:
        """It did not take long, once it had ended and all was well."""
        if any(fault.stays for fault in self.schedule.faults):
            return  # it has to end, as all do
        known = [START + self.schedule.calm, wait.began, *(one.ended_at for one in taken)]
        late = wait.ended_at - max(known)
        self.late = max(self.late, late)
        most = BOUND + (8 * REST if self.schedule.long else 0.0)
        assert late <= most, f"bound: {late:.1f} s late: {wait.outcome!r}"

    def check_ends(self) -> None:
        for number, prompt in self.numbered():
            self.check_once(prompt, self.taken(number))
        for client, api in enumerate(self.apis):
            outstanding = api.stats().outstanding
            assert not outstanding, f"once: {outstanding} are outstanding"
            if client in self.closed:
                continue
            for number, _ in self.numbered():
                self.check_events(client, number)
            self.check_counts(client)

    def check_once(self, prompt: Prompt, taken: list[Taken]) -> None:
        """It was taken once, unless it may have been lost before."""
        for before, again in itertools.pairwise(taken):
            assert prompt.resubmit, "once: taken twice"
            is_gone = before.end == "deleted" or before.life < again.life
            assert is_gone or before.is_late, "once: taken twice"

    def check_counts(self, client: int) -> None:
        """Each prompt was counted once, as submitted here or as attached to."""
        stats = self.apis[client].stats()
        if stats.unknown:
            return  # a prompt that the server refused to tell of is attached to as a new one
        waits = [one for one in self.waits if one.client == client]
        known = {
            one.prompt for one in waits if not one.error or not self.is_submission(one, one.error)
        }
        counted = stats.submitted + stats.attached
        assert counted == len(known), f"counts: {stats}, not {len(known)}"
        own = [one for one in waits if one.is_own and one.error]
        failed = [one for one in own if self.is_submission(one, one.error)]
        assert stats.refused == len(failed), f"counts: {stats}, not {len(failed)} refused"

    def check_events(self, client: int, number: int) -> None:
        """Receivers had one end event of each prompt, and it was the right one."""
        waits = [one for one in self.waits if (one.client, one.prompt) == (client, number)]
        ids = {one.prompt_id for one in self.taken(number)} | {self.ids[number]}
        told = {key: n for key, n in self.ends[client].items() if key[0] in ids}
        failed = [one for one in waits if one.error and self.is_submission(one, one.error)]
        if not waits or (failed and not self.server.version.takes_ids):
            return  # what came of it was a stranger's, as far as the client knows
        # What a server calls by an id of its own may be a stranger's when its end comes first.
        is_known = self.server.version.takes_ids or all(one.is_own for one in waits)
        assert max(told.values(), default=0) <= (1 if is_known else 2), f"one end event: {told}"
        most = len(self.taken(number) or [1]) if is_known else 2
        assert len(told) <= most, f"one end event: {told}"
        ended = [one for one in waits if one not in failed and one.outcome is not None]
        if ended:
            names = {name for _, name in told}
            right = {self.event_of(one.outcome) for one in ended}
            assert names, f"one end event: none, not {right}"
            is_right = names <= right if is_known else names & right
            assert is_right, f"one end event: {names}, not {right}"

    def event_of(self, outcome: Any) -> str:
        """The event that tells an end; ``job_lost`` is also that of one out of reach."""
        return next((EVENT_OF[kind] for kind in EVENT_OF if isinstance(outcome, kind)), "job_lost")


def play(schedule: Schedule) -> World:
    """Play a schedule; AssertionError if something is not as it must be."""
    kernel = Kernel(schedule.seed, preempt=schedule.preempt)
    world = World(kernel, schedule)
    kernel.run(world.play)
    return world


@pytest.mark.parametrize("block", few(range(BLOCKS), 7))
def test_every_schedule_ends_as_it_must(block: int) -> None:
    for seed in range(block, SCHEDULES, BLOCKS):
        schedule = make(seed)
        with replayable(schedule):
            play(schedule)


RARE = {
    "a job of another client, where a login page is in the way for good": Schedule(
        seed=1,
        clients=2,
        busy=True,
        prompts=(Prompt(seconds=3.0),),
        acts=(Act(at=1.0, what="attach", client=1),),
        faults=(Fault(at=0.5, kind="refuse", lasts=1e4, route="/api", value=401),),
    ),
    "a prompt that waits, and is newer than the list that took long to read": Schedule(
        seed=271,
        clients=2,
        long=True,
        prompts=(Prompt(seconds=10.67), Prompt(at=1.98, client=1)),
        acts=(Act(at=0.0, what="attach", client=1),),
    ),
    "a server that is away for minutes": Schedule(
        seed=1,
        polls=True,
        prompts=(Prompt(seconds=2.0),),
        faults=(Fault(at=1.0, kind="cut", lasts=300.0),),
    ),
    "a submission without an answer, and no look-up for it": Schedule(
        seed=1,
        version="0.3.40",
        prompts=(Prompt(resubmit=True),),
        faults=(
            Fault(at=0.0, kind="drop", lasts=0.3, route="POST"),
            Fault(at=0.0, kind="cut", lasts=120.0, route="GET /api"),
        ),
    ),
    "a cancellation that is refused, and then the prompt is lost": Schedule(
        seed=1,
        prompts=(Prompt(seconds=8.0), Prompt(at=0.5)),
        acts=(Act(at=1.0, what="cancel", prompt=1),),
        faults=(
            Fault(at=0.9, kind="refuse", lasts=0.5, route="POST", value=403),
            Fault(at=3.0, kind="kill", lasts=1.0),
        ),
    ),
}


@pytest.mark.parametrize("what", RARE)
def test_schedules_of_a_client_that_seeds_seldom_draw(what: str) -> None:
    play(RARE[what])
