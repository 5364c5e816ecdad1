"""A client of Comfy API v2 against a model of its surfaces, in thousands of schedules.

Whatever befalls the client, the surface, and the ComfyUI behind it:

* No submission runs twice.
* Each job ends once, as ComfyUI knows it, with its outputs; within :data:`BOUND` once all is well.
* What succeeded is not called lost, unless nobody could be asked for as long as ``patience``.
* ``SubmitUncertain`` has a reason: an answer did not come, and nothing could be found, nor sent.
* ``cancel()`` says what became of the job, which then ends as it said.
* A job has one event stream at a time.
* No lock is held while user code or I/O runs, and no thread is left after ``close()``.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import attrs
import pytest

from comfy_client import HostedApi, Result
from comfy_client.errors import (
    ApiError,
    AuthenticationError,
    ClientClosed,
    ComfyError,
    JobFailed,
    JobInterrupted,
    JobLost,
    JobTimeout,
    NotSupported,
    PromptRejected,
    ServerUnreachable,
    SubmitUncertain,
    TransportError,
    UnexpectedResponse,
)
from comfy_client.events import EndEvent, Event, Executed, ExecutionStart, JobEvent
from tests.helpers.long import few
from tests.model.hosted import ApiProxy, Service
from tests.model.kernel import START, Kernel
from tests.model.plain_client import Done, PlainApi
from tests.model.schedule import FOR_GOOD, Act, Fault, data, near, replayable
from tests.model.server import Server, Taken, graph_of
from tests.model.wire import Network, Trouble

#: Seconds within which a job ends, once it has ended at ComfyUI and all is well.
BOUND: Final = 60.0
#: Seconds by which the end of a user's time may be told late.
LATE: Final = 6.0
#: Seconds after which nobody waits any more, whatever stays broken.
LIMIT: Final = 3000.0
#: Seconds for which all must have been well until a client has to know.
CALM: Final = 3.0
#: Default lane: so many plans, in so many tests.
PLANS, BLOCKS = 600, 20
SURFACES: Final = ("proxy", "proxy", "proxy", "state", "serverless", "old", "cloud")

ENDS: Final = {
    JobFailed: {"execution_error"},
    JobInterrupted: {"execution_interrupted", "deleted"},
}


@data
class Submission:
    """One submission, by a thread of its own.

    Attributes:
        at: When, in seconds.
        how: ``submit``, ``run``, ``follow`` (submit, and read its events), or ``map``: with all
            others of that kind, two at a time.
        seconds: How long it runs; for the rest see ``server.graph_of``.
        timeout: For how long its user waits; 0: without limit.
    """

    at: float = 0.0
    how: str = "submit"
    seconds: float = 0.5
    ticks: int = 1
    fails: bool = False
    cached: bool = False
    refused: bool = False
    timeout: float = 0.0


@data
class HostedPlan:
    """One simulation of a client on one surface; of its faults, server 1 is ComfyUI.

    Attributes:
        surface: ``proxy``, ``state`` (a proxy that forgets nothing), or a kind of ``Service``.
        version: That of ComfyUI.
        shy: For how long a service does not find new jobs.
        has_events: Whether a service has event streams.
        patience: That of the client.
        refused: Of which prompts all questions are refused with 403, once their ids are known.
    """

    seed: int
    preempt: float = 0.1
    surface: str = "proxy"
    version: str = "0.28.1"
    shy: float = 0.0
    has_events: bool = True
    patience: float = 40.0
    prompts: tuple[Submission, ...] = ()
    acts: tuple[Act, ...] = ()
    faults: tuple[Fault, ...] = ()
    refused: tuple[int, ...] = ()

    @property
    def calm(self) -> float:
        """When the last fault is over."""
        return max((fault.over for fault in self.faults), default=0.0)


# -- drawn ----------------------------------------------------------------------------------

#: How often each kind of fault is drawn: of a surface, of ComfyUI, and of that of a service.
_WEIGHTS: Final = (
    "lose 3, cut 3, drop 5, half 2, slow 2, late 3, refuse 3, nonsense 2, proxy 3, vanish 1, "
    "kill 5, freeze 3, break 4, lag 2"
)
_UPSTREAM: Final = "cut 2, drop 5, slow 2, lose 1, kill 3, freeze 3, break 2, deafen 2"
_SERVICE: Final = "freeze 1, slow 1"
_ROUTES: Final = ("", "", "GET", "POST", "POST /api/v2/jobs", "GET /api/v2/jobs", "/events")
_UPSTREAM_ROUTES: Final = ("", "POST /prompt", "POST /prompt", "GET /history", "GET /queue")
_STATUSES: Final = (401, 403, 408, 429, 500, 502, 502, 503, 503)


def drawn(seed: int) -> HostedPlan:
    """Return the plan of a number."""
    rng = random.Random(seed)
    surface = rng.choice(SURFACES)
    prompts = tuple(_submission(rng) for _ in range(rng.choice((1, 1, 2, 2, 3))))
    faults = [_fault(rng, surface, prompts) for _ in range(rng.choice((0, 1, 1, 2, 2, 3)))]
    acts = tuple(_act(rng, prompts) for _ in range(rng.choice((0, 0, 1, 1, 2))))
    return HostedPlan(
        seed=seed,
        preempt=rng.choice((0.02, 0.1, 0.5)),
        surface=surface,
        version=rng.choice(("0.28.1", "0.3.75")),
        shy=rng.choice((0.0, 0.0, 1.0, 4.0)),
        has_events=rng.random() < 0.7,
        patience=rng.choice((40.0, 40.0, 10.0)),
        prompts=prompts,
        acts=acts,
        faults=tuple(faults),
    )


def _submission(rng: random.Random) -> Submission:
    return Submission(
        at=round(6.0 * rng.random() ** 2, 2),
        how=rng.choice(("submit", "submit", "run", "follow", "map")),
        seconds=round(rng.choice((0.01, 0.05, 0.5, 2.0, 8.0)) * rng.uniform(0.5, 1.5), 2),
        ticks=rng.choice((1, 1, 3, 30)),
        fails=rng.random() < 0.15,
        cached=rng.random() < 0.15,
        refused=rng.random() < 0.05,
        timeout=rng.choice((0.0, 0.0, 0.0, 0.0, 3.0, 30.0)),
    )


def _act(rng: random.Random, prompts: tuple[Submission, ...]) -> Act:
    number = rng.randrange(len(prompts))
    at = max(prompts[number].at, near(rng, (prompts[number],)))  # type: ignore[arg-type]
    return Act(at=at, what=rng.choice(("cancel", "cancel", "attach", "close")), prompt=number)


def _fault(rng: random.Random, surface: str, prompts: tuple[Submission, ...]) -> Fault:
    is_behind = rng.random() < 0.35
    weights = _WEIGHTS
    if is_behind:
        weights = _UPSTREAM if surface in ("proxy", "state") else _SERVICE
    kinds = [one.split() for one in weights.split(", ")]
    kind = rng.choices([one for one, _ in kinds], [int(weight) for _, weight in kinds])[0]
    lasts = round(rng.choice((0.2, 1.0, 5.0, 20.0, 70.0)) * rng.uniform(0.5, 1.5), 2)
    value = 0.0
    if kind in ("slow", "late"):
        value = rng.choice((0.5, 3.0, 14.0))
    elif kind == "refuse":
        value = rng.choice(_STATUSES)
        lasts = FOR_GOOD if rng.random() < 0.08 else lasts
    elif kind == "lag":
        value = rng.choice((0.05, 0.3, 3.0))
    return Fault(
        at=near(rng, prompts),  # type: ignore[arg-type]
        kind=kind,
        lasts=lasts,
        route=rng.choice(_UPSTREAM_ROUTES if is_behind else _ROUTES),
        value=value,
        server=int(is_behind),
    )


# -- played ---------------------------------------------------------------------------------


@attrs.define(eq=False)
class Wait:
    """What a user waits for, and how it ended."""

    prompt: int
    began: float
    asked_at: float = 0.0  #: When the time of its user began.
    job: Any = None
    outcome: Any = None
    ended_at: float = 0.0


def is_told_once(event: JobEvent) -> bool:
    """Whether an event is of a kind that comes once for a job or node."""
    return isinstance(event, ExecutionStart | Executed)


Connect = Callable[[Network, str, HostedPlan], Any]


class World:
    """A plan as it is played."""

    def __init__(self, kernel: Kernel, plan: HostedPlan, connect: Connect) -> None:
        self.kernel = kernel
        self.plan = plan
        self.comfy = Server(kernel, version=plan.version)
        self.network = Network(kernel)
        self.surface = self._surface()
        self.network.add(self.surface)
        self.network.add(self.comfy)
        self.connect = connect
        self.api: Any = None
        self.jobs: dict[int, Any] = {}
        self.known_at: dict[int, float] = {}  # when their ids were known
        self.waits: list[Wait] = []
        self.cancels: list[tuple[int, float, Any]] = []
        self.tried: set[int] = set()  # to cancel
        self.closed_at = math.inf
        self.mapped_at = 0.0
        self.error: Wait | None = None  # which ended a map
        self.told: Counter[tuple[str | None, str]] = Counter()
        self.heard: list[JobEvent] = []

    def _surface(self) -> ApiProxy:
        plan, network = self.plan, self.network
        if plan.surface in ("proxy", "state"):
            return ApiProxy(network, self.comfy, has_state=plan.surface == "state")
        return Service(network, self.comfy, plan.surface, shy=plan.shy, has_events=plan.has_events)

    def play(self) -> None:
        """Have everything happen, and check what came of it."""
        plan, kernel = self.plan, self.kernel
        with self.network:
            self.api = self.connect(self.network, self.surface.host, plan)
            if not isinstance(self.api, PlainApi):
                self.api.on("all", self.hear)
            kernel.spawn(lambda: self.network.play(plan.faults), "faults")
            for number in plan.refused:
                kernel.spawn(lambda n=number: self.refuse(n), f"refusals {number}")
            users = [
                *(kernel.spawn(lambda n=n: self.user(n), f"prompt {n}") for n in self.single),
                kernel.spawn(self.map, "map"),
                *(kernel.spawn(lambda act=act: self.act(act), act.what) for act in plan.acts),
            ]
            for user in users:
                user.join(LIMIT)
            if kernel.failures:
                raise kernel.failures[0]
            stuck = [user.name for user in users if user.is_alive()]
            assert not stuck, f"no end: {stuck} still wait at {self.now - START:.1f} s"
            kernel.sleep(30.0)  # what is late has come, and what runs has ended
            self.check()
            self.api.close()
            kernel.sleep(5.0)
            left = [name for name in kernel.living() if name.startswith("comfy-")]
            assert not left or isinstance(self.api, PlainApi), f"threads left: {left}"
        assert not self.network.violations, "locks: " + self.network.violations[0]

    def refuse(self, number: int) -> None:
        """Refuse all questions about one job, and about no other."""
        while not (taken := self.taken(number)) or number not in self.known_at:
            self.kernel.sleep(0.01)
        trouble = Trouble("refuse", math.inf, f"GET /api/v2/jobs/{taken[0].prompt_id}", 403)
        self.network.troubles[self.surface.host].append(trouble)

    @property
    def now(self) -> float:
        return self.kernel.now()

    @property
    def single(self) -> list[int]:
        """The numbers of submissions with a thread of their own."""
        is_plain = isinstance(self.api, PlainApi)
        prompts = enumerate(self.plan.prompts)
        return [number for number, one in prompts if one.how != "map" or is_plain]

    def map(self) -> None:
        """Run all other submissions in one call."""
        numbers = [n for n, _ in enumerate(self.plan.prompts) if n not in self.single]
        if not numbers:
            return
        self.network.wait_until(self.plan.prompts[numbers[0]].at)
        began, left = self.now, iter(numbers)
        try:
            graphs = [self.graph(number) for number in numbers]
            for outcome in self.api.map(graphs, in_flight=2, on_error="keep", progress=False):
                wait = Wait(next(left), began, outcome=outcome, ended_at=self.now)
                self.waits.append(wait)
        except ComfyError as exc:
            self.error = Wait(0, began, outcome=exc, ended_at=self.now)
        self.mapped_at = self.now

    def hear(self, event: Event) -> None:
        """Note what receivers are told."""
        self.network.check_unlocked("a receiver is called")
        if isinstance(event, JobEvent):
            self.heard.append(event)
        if isinstance(event, EndEvent) and event.is_end:
            self.told[event.prompt_id, event.name] += 1

    def user(self, number: int) -> None:
        """Submit a prompt, and wait for its end."""
        self.network.wait_until(self.plan.prompts[number].at)
        self.wait(number, self.submit)

    def submit(self, wait: Wait) -> Any:
        """Return the result of a prompt."""
        prompt, api, graph = self.plan.prompts[wait.prompt], self.api, self.graph(wait.prompt)
        if prompt.how == "run" and not isinstance(api, PlainApi):
            return api.run(graph, progress=False, timeout=prompt.timeout or None)
        wait.job = self.jobs[wait.prompt] = job = api.submit(graph)
        self.known_at[wait.prompt] = self.now
        if prompt.how == "follow" and not isinstance(api, PlainApi):
            ends = [event for event in job.events() if event.is_end]
            assert len(ends) <= 1, "one end event: an iterator yields two"
        wait.asked_at = self.now
        return job.result(prompt.timeout or None)

    def graph(self, number: int) -> dict[str, Any]:
        """Return the workflow of a submission."""
        does = ("seconds", "ticks", "fails", "cached", "refused")
        graph = graph_of(**{name: getattr(self.plan.prompts[number], name) for name in does})
        graph["1"]["inputs"]["tag"] = number
        return graph

    def act(self, act: Act) -> None:
        """Do something to a prompt."""
        self.network.wait_until(act.at)
        while act.prompt not in self.jobs and not any(
            one.prompt == act.prompt and one.ended_at for one in self.waits
        ):
            if self.mapped_at and act.prompt not in self.single:
                break
            self.kernel.sleep(0.05)
        job = self.jobs.get(act.prompt)
        if act.what == "close":
            self.closed_at = self.now
            self.api.close()
        elif act.what == "attach" and job is not None:
            self.wait(act.prompt, lambda wait: self.attach(wait, job).result())
        elif act.what == "cancel" and job is not None:
            self.tried.add(act.prompt)
            outcome: Any
            try:
                outcome = job.cancel()
            except ComfyError as exc:
                outcome = exc
            self.cancels.append((act.prompt, self.now, outcome))

    def attach(self, wait: Wait, job: Any) -> Any:
        """Return another job of the same prompt."""
        wait.job = self.api.job(job.prompt_id)
        return wait.job

    def wait(self, number: int, get: Callable[[Wait], Any]) -> None:
        """Wait for an end, and note it."""
        wait = Wait(number, self.now)
        self.waits.append(wait)
        try:
            wait.outcome = get(wait)
        except ComfyError as exc:
            wait.outcome = exc
        wait.ended_at = self.now

    # -- what must be ----------------------------------------------------------------------

    def taken(self, number: int) -> list[Taken]:
        """The prompts that ComfyUI took for a submission."""
        return [t for t in self.comfy.taken if t.graph["1"]["inputs"]["tag"] == number]

    def ends(self, taken: list[Taken]) -> set[str]:
        """What may be known of the ends of prompts."""
        is_kept = isinstance(self.surface, Service)
        gone = {"forgotten" for one in taken if not (is_kept or self.comfy.has(one.prompt_id))}
        return {one.end for one in taken} | ({"forgotten"} if gone else set())

    def check(self) -> None:
        """Check all that must be."""
        for number in range(len(self.plan.prompts)):
            assert len(self.taken(number)) <= 1 or self.was_unlucky(number), "once: taken twice"
        assert not self.network.doubled, f"streams: two at a time of {self.network.doubled}"
        for wait in self.waits:
            self.check_end(wait)
        if self.error is not None:
            self.check_map_error(self.error)
        for number, at, outcome in self.cancels:
            self.check_cancel(number, at, outcome)
        if self.closed_at == math.inf and not isinstance(self.api, PlainApi):
            self.check_events()

    def was_unlucky(self, number: int) -> bool:
        """Whether the proxy forgot all between the client's look and its second try."""
        key = next(key for key, tag in self.surface.keys if tag == number)
        asked = self.surface.asked
        tries = [i for i, one in enumerate(asked) if one[1:] == ("POST /api/v2/jobs", key)]
        if len(tries) < 2:
            return False
        before = [one for one in asked[: tries[-1]] if one[1] == "GET /api/v2/jobs"]
        return bool(before) and before[-1][0] < asked[tries[-1]][0]

    def check_end(self, wait: Wait) -> None:
        """It ended as ComfyUI knows, and in time."""
        outcome, taken = wait.outcome, self.taken(wait.prompt)
        prompt, ends = self.plan.prompts[wait.prompt], self.ends(taken)
        if isinstance(outcome, ClientClosed):
            assert self.closed_at < math.inf, "right end: closed by nobody"
        elif isinstance(outcome, JobTimeout):
            assert prompt.timeout, f"right end: {outcome!r} without a timeout"
            late = wait.ended_at - (wait.asked_at or wait.began) - prompt.timeout
            most = LATE + (10.0 if isinstance(self.api, PlainApi) else 0.0)  # one request of it
            assert late <= most, f"bound: {late:.1f} s late: {outcome!r}"
        elif isinstance(outcome, Done | Result):
            assert "execution_success" in ends, f"right end: {outcome!r}, but {ends}"
            names = [image.filename for image in outcome.images]
            assert names == [f"{taken[0].prompt_id}.png"], f"outputs: {names}"
        elif isinstance(outcome, JobFailed | JobInterrupted):
            right = set(ENDS[type(outcome)])
            if wait.prompt in self.tried and isinstance(outcome, JobInterrupted):
                right.add("forgotten")
            assert ends & right, f"right end: {outcome!r}, but {ends}"
        elif isinstance(outcome, JobLost):
            is_right = "forgotten" in ends or self.was_away(wait)  # only we delete
            assert is_right, f"still there: {outcome!r}, but {ends}"
            told = [said for number, _, said in self.cancels if number == wait.prompt]
            is_right = True not in told or isinstance(self.api, PlainApi)  # whose jobs are several
            assert is_right, f"right end: {outcome!r}, but it was cancelled"
        elif isinstance(outcome, SubmitUncertain):
            self.check_uncertain(wait, taken)
        elif isinstance(outcome, PromptRejected):
            assert prompt.refused, f"right end: {outcome!r}"
            assert not taken, f"once: {outcome!r}, but it was taken"
        else:
            self.check_refusal(wait, taken)
        if not isinstance(outcome, ClientClosed | JobTimeout):
            self.check_bound(wait, taken)
        if prompt.how == "run" and prompt.timeout and not isinstance(self.api, PlainApi):
            late = wait.ended_at - wait.began - prompt.timeout
            assert late <= LATE, f"bound: {late:.1f} s late: {outcome!r}"

    def check_refusal(self, wait: Wait, taken: list[Taken]) -> None:
        """It was refused, or nobody was there."""
        exc = wait.outcome
        if wait.prompt in self.plan.refused:
            assert exc.status == 403, f"right end: {exc!r} without a reason"
            return
        is_about_job = wait.job is not None or "/api/v2/jobs/" in str(exc)
        if is_about_job and not isinstance(exc, AuthenticationError):
            assert self.was_away(wait), f"still there: {exc!r}"
            return
        assert self.explains(exc, wait.began), f"right end: {exc!r} without a reason"
        if not is_about_job:
            is_sure = isinstance(exc, ServerUnreachable) or not isinstance(exc, TransportError)
            assert is_sure, f"right end: {exc!r} does not say whether it was taken"
            assert not taken, f"once: {exc!r}, but it was taken"

    def check_map_error(self, wait: Wait) -> None:
        """A map ended early as its client was closed, or nobody was there for long enough."""
        exc = wait.outcome
        if isinstance(exc, ClientClosed):
            assert self.closed_at < math.inf, "right end: closed by nobody"
        elif "/api/v2/jobs/" in str(exc) and not isinstance(exc, AuthenticationError):
            assert self.was_away(wait), f"still there: {exc!r}"
        else:
            assert self.explains(exc, wait.began), f"right end: {exc!r} of a map without a reason"

    def check_uncertain(self, wait: Wait, taken: list[Taken]) -> None:
        """Nobody can know, or could for long enough."""
        exc, surface, prompt = wait.outcome, self.surface, self.plan.prompts[wait.prompt]
        assert self.faults_since(wait.began), f"right end: {exc!r} without a reason"
        time_was_short = prompt.how == "run" and 0 < prompt.timeout <= 14.0
        is_over = wait.ended_at - wait.began >= self.plan.patience  # in the middle of a request
        calm_since = max(wait.began, wait.ended_at - (14.0 if is_over else CALM))
        if self.faults_since(calm_since) or time_was_short:
            return
        for one in taken:
            known = surface.memory.jobs.get(one.prompt_id, {"created_at": self.now})
            is_found = surface.lists and known["created_at"] < calm_since - self.plan.shy
            assert not is_found, f"found: {exc!r}, but it is in the list"
        key = next((key for key, tag in surface.keys if tag == wait.prompt), "")
        is_free = not (taken or prompt.refused or key in surface.memory.keys)
        older = [job for n, job in self.jobs.items() if self.known_at[n] < wait.began]
        remembers = any(job.prompt_id in surface.memory.jobs for job in older)
        assert not (is_free and remembers), f"sent again: {exc!r}, but it was not"

    def check_cancel(self, number: int, at: float, outcome: Any) -> None:
        """It says what became of the job."""
        taken = self.taken(number)
        ends = self.ends(taken)
        stopped = {one.end for one in taken if one.end and one.ended_at <= at} & ENDS[
            JobInterrupted
        ]
        if outcome is True:
            is_right = ends & {*ENDS[JobInterrupted], "forgotten"}
            assert is_right, f"cancel: it says that it did, but {ends}"
        elif outcome is False:
            has_ended = self.closed_at <= at or any(one.end for one in taken)
            assert has_ended, "cancel: it says that it had ended"
        elif isinstance(outcome, NotSupported):
            is_able = self.comfy.version.has_jobs or isinstance(self.surface, Service)
            assert not (is_able and stopped), f"cancel: {outcome!r}, but {ends}"
        elif isinstance(outcome, JobTimeout):
            is_late = any(one.end and one.ended_at < at - 2.0 for one in taken)
            is_right = not is_late or self.faults_since(at - 60.0)
            assert is_right, f"cancel: {outcome!r}, but {ends}"
        elif isinstance(outcome, ClientClosed):
            assert self.closed_at < math.inf, "cancel: closed by nobody"
        else:
            assert self.faults_since(at - 60.0), f"cancel: {outcome!r} without a reason"

    def check_bound(self, wait: Wait, taken: list[Taken]) -> None:
        """It did not take long, once it had ended and all was well."""
        if any(fault.stays for fault in self.plan.faults):
            return
        if wait.prompt not in self.single:
            taken = self.comfy.taken  # one after the other
        known = [START + self.plan.calm, wait.began, *(one.ended_at for one in taken)]
        late = wait.ended_at - max(known)
        assert late <= BOUND, f"bound: {late:.1f} s late: {wait.outcome!r}"

    def check_events(self) -> None:
        """Receivers had one end event of each job, the last of all, and each other event once."""
        attaches = any(act.what == "attach" for act in self.plan.acts)  # which tells it again
        for number, job in self.jobs.items():
            heard = [one for one in self.heard if one.prompt_id == job.prompt_id]
            end = next((n for n, one in enumerate(heard) if one.is_end), len(heard))
            late = [one.name for one in heard[end + 1 :]]
            assert attaches or not late, f"the last event: {late} after the end"
            said = Counter(
                (one.name, getattr(one, "node", None)) for one in heard if is_told_once(one)
            )
            assert attaches or not said or max(said.values()) == 1, f"each event once: {said}"
            told = {name: n for (key, name), n in self.told.items() if key == job.prompt_id}
            waits = [one for one in self.waits if one.prompt == number]
            if not all(isinstance(one.outcome, JobTimeout) for one in waits):
                assert sum(told.values()) == 1, f"one end event: {told}"
            assert sum(told.values()) <= 1, f"one end event: {told}"
        outstanding = self.api.stats().outstanding
        timeouts = [one for one in self.waits if isinstance(one.outcome, JobTimeout)]
        assert outstanding <= len(timeouts), f"one end: {outstanding} are outstanding"

    # -- what explains it ------------------------------------------------------------------

    def faults_since(self, since: float) -> list[Fault]:
        """The faults that were not over at a moment, or soon before it."""
        return [fault for fault in self.plan.faults if START + fault.over + 1.0 >= since]

    def explains(self, exc: Any, since: float) -> bool:
        """Whether a fault since then explains an error."""
        faults = self.faults_since(since)
        if isinstance(exc, UnexpectedResponse):
            return any(fault.kind in ("nonsense", "half") for fault in faults)
        if isinstance(exc, ApiError):
            given = {fault.value or 500 for fault in faults if fault.kind == "refuse"}
            return exc.status in given or (exc.status == 504 and bool(faults))
        return bool(faults)

    def was_away(self, wait: Wait) -> bool:
        """Whether something was wrong, without a pause, for as long as the client is patient."""
        begins = wait.ended_at
        for fault in sorted(self.plan.faults, key=lambda fault: -fault.at):
            at, over = START + fault.at, START + fault.over + 15.0
            if fault.kind not in ("break", "deafen", "lag") and at < begins <= over:
                begins = at
        return wait.ended_at - begins >= self.plan.patience - 6.0


def play(plan: HostedPlan, connect: Connect | None = None) -> World:
    """Play a plan; AssertionError if something is not as it must be."""
    kernel = Kernel(plan.seed, preempt=plan.preempt)
    world = World(kernel, plan, connect or hosted)
    kernel.run(world.play)
    return world


def hosted(network: Network, host: str, plan: HostedPlan) -> Any:
    """Return the client that is tested."""
    return HostedApi(f"http://{host}", timeout=(5.0, 10.0), patience=plan.patience)


#: What seeds seldom draw, with the ends that there must be.
RARE: Final = {
    "a restart between a lost answer and the second try": (
        HostedPlan(
            seed=1,
            prompts=(Submission(), Submission(at=2.0)),
            faults=(
                Fault(at=1.9, kind="drop", lasts=0.3, route="POST"),
                Fault(at=2.05, kind="kill", lasts=1.0),
            ),
        ),
        (Result, SubmitUncertain),
    ),
    "a list that shows a job late, whose key is known": (
        HostedPlan(
            seed=1,
            surface="serverless",
            shy=4.0,
            prompts=(Submission(), Submission(at=2.0, seconds=2.0)),
            faults=(Fault(at=1.9, kind="drop", lasts=0.3, route="POST"),),
        ),
        (Result, Result),
    ),
    "a first submission that is cut off once the server has refused its label": (
        HostedPlan(
            seed=1,
            surface="serverless",
            prompts=(Submission(),),
            faults=(Fault(at=0.035, kind="cut", lasts=0.2, route="POST"),),
        ),
        (Result,),
    ),
    "a job that waits, and is cancelled": (
        HostedPlan(
            seed=1,
            prompts=(Submission(seconds=5.0), Submission(at=0.5)),
            acts=(Act(at=1.0, what="cancel", prompt=1),),
        ),
        (Result, JobInterrupted),
    ),
    "a job that waits, and cannot be cancelled": (
        HostedPlan(
            seed=1,
            version="0.3.75",
            prompts=(Submission(seconds=5.0), Submission(at=0.5)),
            acts=(Act(at=1.0, what="cancel", prompt=1),),
        ),
        (Result, Result),
    ),
    "a proxy that is restarted without state while a job runs": (
        HostedPlan(
            seed=1,
            prompts=(Submission(seconds=8.0),),
            faults=(Fault(at=2.0, kind="kill", lasts=2.0),),
        ),
        (Result,),
    ),
    "a ComfyUI that stands still for half a minute": (
        HostedPlan(
            seed=1,
            prompts=(Submission(seconds=8.0),),
            faults=(Fault(at=2.0, kind="freeze", lasts=30.0, server=1),),
        ),
        (Result,),
    ),
    "a ComfyUI that is restarted": (
        HostedPlan(
            seed=1,
            prompts=(Submission(seconds=8.0),),
            faults=(Fault(at=2.0, kind="kill", lasts=5.0, server=1),),
        ),
        (JobLost,),
    ),
}


@pytest.mark.parametrize("what", RARE)
def test_schedules_of_a_hosted_client_that_seeds_seldom_draw(what: str) -> None:
    plan, ends = RARE[what]
    outcomes = {wait.prompt: wait.outcome for wait in play(plan).waits}
    assert [type(outcomes[number]) for number in sorted(outcomes)] == [*ends]


@pytest.mark.parametrize("seed", few(range(8), 2))
def test_a_job_whose_questions_are_refused_ends_no_other(seed: int) -> None:
    """Those that are asked about in one pass, without streams."""
    plan = HostedPlan(
        seed=seed,
        surface="serverless",
        has_events=False,
        prompts=(Submission(seconds=4.0),) * 12,
        refused=(seed,),
    )
    with replayable(plan):
        waits = sorted(play(plan).waits, key=lambda wait: wait.prompt)
        right = [AuthenticationError if n == seed else Result for n in range(12)]
        assert [type(wait.outcome) for wait in waits] == right


@pytest.mark.parametrize("block", few(range(BLOCKS), 4))
def test_jobs_of_a_hosted_client_end_once_in_any_schedule(block: int) -> None:
    for seed in range(block, PLANS, BLOCKS):
        plan = drawn(seed)
        with replayable(plan):
            play(plan)


# -- the witnesses ----------------------------------------------------------------------------


def plain(flaw: str = "") -> Connect:
    """Return what makes a plain client."""
    return lambda _, host, plan: PlainApi(host, patience=plan.patience, flaw=flaw)


#: What a client may do wrong, what is said of it, and a plan that shows it.
FLAWS: Final = {
    "a new key for each try": (
        "taken twice",
        HostedPlan(
            seed=65,
            prompts=(Submission(at=0.5), Submission()),
            faults=(Fault(at=0.146, kind="drop", lasts=2.54),),
        ),
    ),
    "a key is used again after a restart": (
        "taken twice",
        HostedPlan(
            seed=454,
            prompts=(Submission(at=2.6),),
            faults=(
                Fault(at=2.324, kind="drop", lasts=72.89),
                Fault(at=3.586, kind="kill"),
            ),
        ),
    ),
    "the first expired counts": (
        "still there",
        HostedPlan(seed=18, prompts=(Submission(seconds=0.03),)),
    ),
    "the first 404 counts": (
        "still there",
        HostedPlan(
            seed=1072,
            surface="cloud",
            shy=4.0,
            prompts=(Submission(at=5.85),),
            faults=(Fault(at=5.853, kind="slow", lasts=18.8, route="GET /api/v2/jobs", value=3.0),),
        ),
    ),
    "the first bad answer counts": (
        "still there",
        HostedPlan(
            seed=1,
            prompts=(Submission(seconds=2.0),),
            faults=(Fault(at=1.0, kind="refuse", lasts=1.0, value=502),),
        ),
    ),
    "no search by label": (
        "in the list",
        HostedPlan(
            seed=112,
            prompts=(Submission(at=3.34),),
            faults=(Fault(at=2.322, kind="drop", lasts=16.67),),
        ),
    ),
    "a cancellation is believed": (
        "says that it did",
        HostedPlan(
            seed=1,
            version="0.3.75",
            prompts=(Submission(seconds=2.0),),
            acts=(Act(at=0.94, what="cancel"),),
        ),
    ),
    "the end of a stream is success": (
        "outputs",
        HostedPlan(
            seed=1, prompts=(Submission(seconds=3.0),), faults=(Fault(at=1.0, kind="break"),)
        ),
    ),
}


def test_a_plain_client_keeps_all_promises() -> None:
    for seed in range(100):
        plan = drawn(seed)
        with replayable(plan):
            play(plan, plain())


@pytest.mark.parametrize("flaw", FLAWS)
def test_a_flaw_is_noticed(flaw: str) -> None:
    words, plan = FLAWS[flaw]
    play(plan, plain())
    with pytest.raises(AssertionError, match=words):
        play(plan, plain(flaw))
