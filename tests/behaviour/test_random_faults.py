r"""Random faults at random moments against jobs of every kind.

The oracle is the server's own record of what it was sent, what ran and how that ended.  A round
is many jobs of several clients and threads; what is done and what goes wrong is drawn from one
seed, which is printed and stands in each failure.  Threads make no two runs quite the same, so
a defect may want a few repetitions.

``COMFY_FAULT_SEED``      of the only round, or of the first one under ``--soak``
``COMFY_SOAK_MINUTES``    for how long ``--soak`` plays rounds of 200 jobs; 20

    COMFY_SOAK_MINUTES=30 COMFY_FAULT_SEED=1 \
        python -m pytest --soak -s tests/behaviour/test_random_faults.py
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import random
import signal
import sys
import threading
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import attrs
import blinker
import pytest

from comfy_client import ComfyApi, Job
from comfy_client.errors import (
    ClientClosed,
    ComfyError,
    JobError,
    JobFailed,
    JobInterrupted,
    JobLost,
    JobTimeout,
    SubmitUncertain,
)
from comfy_client.jobs.output import OutputFrame
from comfy_client.jobs.result import Result
from comfy_client.testing import ComfyServer
from comfy_client.timing import Timing
from tests.helpers.clients import open_sockets, outstanding
from tests.helpers.random_faults import (
    ERROR,
    HANG,
    INTERRUPTED,
    SUCCESS,
    TASK,
    Fact,
    Operator,
    Task,
    Trouble,
    Work,
    plan,
    recorded,
)

WORKERS = 8


@attrs.define
class Attempt:
    """What one submission came to."""

    task: Task
    name: str
    clients: list[ComfyApi]  #: Who had it.
    outcome: Any = None
    prompt_id: str | None = None
    begun: float = attrs.field(factory=time.monotonic)
    over: float = 0.0
    told: list[list[Any]] = attrs.field(factory=list)  #: By ``events()``.
    attached: Any = None  #: The outcome of the one who attached to it, and when that was.
    early: Any = None  #: The same of one who asked for it before, and since when.
    again: Any = None  #: What the same client says after the end.
    was_uncertain: bool = False
    why: str = ""


class Alarm(TimeoutError):
    """What a signal handler of the user's raises."""

    rang = False


@contextlib.contextmanager
def alarms() -> Iterator[None]:
    """Whoever handled them before does so again."""
    before = signal.getsignal(signal.SIGALRM)
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def ringing(alarm: Alarm, seconds: float) -> Iterator[None]:
    """Raises it after so many seconds, wherever the main thread is, until the end of the block."""

    def ring(*_: object) -> NoReturn:
        alarm.rang = True
        raise alarm

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_IGN)


def _outcome(wait: Callable[[], Result]) -> Any:
    try:
        return wait()
    except ComfyError as exc:
        return exc


#: The prompt of somebody else, of which a fault tells.
FOREIGN = "5f7a1c1e-0000-4000-8000-00000000cafe"


class Round:
    """Many jobs under one seed."""

    def __init__(
        self, seed: int, count: int, longest: float, grace: float, clients: type[ComfyApi]
    ) -> None:
        self.seed = seed
        self.count = count
        self.grace = grace  # seconds of peace after a job's end within which it must be known
        self.rng = random.Random(seed)
        self.version = self.rng.choice(("0.3.75", "0.28", "0.33"))
        self.longest = longest
        self.make = clients
        self.attempts: list[Attempt] = []
        self.wrong: list[str] = []
        self.lost_workers: list[str] = []
        self.ends: dict[int, list[Any]] = {}
        self.latest = 0.0

    def run(self) -> None:
        with recorded() as self.record:
            server = ComfyServer(version=self.version)
            server.add_node(Work)
            with server, contextlib.ExitStack() as stack:
                self.server, self.port, self.root = server, server.port, server.root
                self.clients = [stack.enter_context(one) for one in self._clients()]
                for number, client in enumerate(self.clients):
                    self.ends[number] = []
                    client.on("all", self._hear(number))
                self.tasks = plan(self.rng, len(self.clients), self.count)
                begun = time.monotonic()
                with Operator(server, self.tasks), Trouble(server, self.rng, self.longest) as t:
                    self.trouble = t
                    self._work()
                self.seconds = time.monotonic() - begun
                with contextlib.suppress(AssertionError):  # what nobody waits for may go on
                    server.until(lambda: server._running().queue.running_id is None)
                self.wrong += [f"trouble: {exc!r}" for exc in t.errors]
                for number, client in enumerate(self.clients):
                    if outstanding(client):
                        self.wrong.append(f"outstanding: {outstanding(client)}")
                    client.parts.receivers.flush(5.0)
                    stats = client.stats()
                    ended = stats.submitted + stats.attached
                    told = len({event.prompt_id for event in self.ends[number]} - {FOREIGN})
                    if stats.outstanding or ended != told:
                        self.wrong.append(f"{told} prompts had an end, but counted are {stats}")
                self._judge()
                self.requests = len(server.requests)
                self.looks = sum(r.path == "/queue" for r in server.requests)

    def _clients(self) -> list[ComfyApi]:
        def make(**kw: Any) -> ComfyApi:
            url, space = self.server.url, blinker.Namespace()
            return self.make(url, timeout=(2.0, 5.0), namespace=space, **kw)

        return [make(), make(), make(transport="poll")]

    def _hear(self, number: int) -> Callable[[Any], None]:
        def hear(event: Any) -> None:
            if event.is_end:
                self.ends[number].append(event)

        return hear

    def _work(self) -> None:
        mine = [task for task in reversed(self.tasks) if task.way == "alarm"]
        theirs = [task for task in reversed(self.tasks) if task.way != "alarm"]

        def work(todo: list[Task]) -> None:
            while todo:
                with contextlib.suppress(IndexError):
                    task = todo.pop()
                    try:
                        self._do(task)
                    except Exception:
                        self.wrong.append(f"{task}: {traceback.format_exc()}")

        workers = [
            threading.Thread(target=work, args=(theirs,), name="worker", daemon=True)
            for _ in range(WORKERS)
        ]
        for worker in workers:
            worker.start()
        with alarms():
            work(mine)
        for worker in workers:
            worker.join(3 * HANG)
            if worker.is_alive():
                frame = sys._current_frames().get(worker.ident or 0)
                self.lost_workers.append("".join(traceback.format_stack(frame)))

    def _do(self, task: Task) -> None:
        """As a patient user: what surely did not reach the server is submitted again."""
        for count in range(1000):
            attempt = Attempt(task, f"{task.number}.{count}", [self.clients[task.client]])
            self.attempts.append(attempt)
            attempt.outcome = _outcome(lambda a=attempt: self._try(a))
            attempt.over = time.monotonic()
            if isinstance(attempt.outcome, Result | JobError) or attempt.was_uncertain:
                return
            time.sleep(0.05)

    def _try(self, attempt: Attempt) -> Result:
        task = attempt.task
        api = attempt.clients[0]
        options: dict[str, Any] = {"extra_data": {TASK: attempt.name}}
        options["resubmit"] = task.way == "resubmit"
        if task.way == "alarm":
            return self._interrupted_wait(attempt, api, options)
        if task.way == "run":
            told: list[Any] = []
            attempt.told.append(told)
            try:
                result = api.run(task.graph(), timeout=HANG, on_event=told.append, **options)
            except (JobError, SubmitUncertain) as exc:
                attempt.prompt_id = exc.prompt_id
                if isinstance(exc, SubmitUncertain):
                    attempt.told.clear()
                    return self._look_again(attempt, api, exc)
                raise
            attempt.prompt_id = result.prompt_id
            return result
        prompt_id = str(uuid.uuid4())
        with self._asked_early(attempt, prompt_id):
            try:
                job = api.submit(task.graph(), prompt_id=prompt_id, **options)
            except SubmitUncertain as exc:
                return self._look_again(attempt, api, exc)
            return self._follow(attempt, job)

    @contextlib.contextmanager
    def _asked_early(self, attempt: Attempt, prompt_id: str) -> Iterator[None]:
        """Another client knows the id from elsewhere, perhaps before the server does."""
        if attempt.task.way != "ask early":
            yield
            return
        other, since = self.clients[attempt.task.other], time.monotonic()

        def ask() -> None:
            outcome = _outcome(lambda: other.job(prompt_id).result(HANG))
            attempt.early = outcome, time.monotonic(), since

        asking = threading.Thread(target=ask, name="early", daemon=True)
        asking.start()
        try:
            yield
        finally:
            asking.join(2 * HANG)

    def _interrupted_wait(self, attempt: Attempt, api: ComfyApi, options: Any) -> Result:
        """An alarm ends submission or wait, as itself; then the prompt is attached by its id."""
        prompt_id = attempt.prompt_id = str(uuid.uuid4())
        alarm = Alarm(attempt.name)
        job = None
        was_heard = False
        try:
            with ringing(alarm, attempt.task.after):
                job = api.submit(attempt.task.graph(), prompt_id=prompt_id, **options)
                job.result(HANG)
        except SubmitUncertain:
            attempt.was_uncertain = True
        except Alarm as exc:
            was_heard = True
            if exc is not alarm or exc.__cause__ is not None:
                self.wrong.append(f"{attempt.task}: another alarm: {exc!r} of {exc.__cause__!r}")
            attempt.was_uncertain = job is None  # it may never have been sent
        if alarm.rang and not was_heard:
            self.wrong.append(f"{attempt.task}: its alarm was swallowed")
        job = job or api.job(prompt_id)
        try:
            return job.result(HANG)
        finally:
            attempt.prompt_id = job.prompt_id

    def _look_again(self, attempt: Attempt, api: ComfyApi, exc: SubmitUncertain) -> Result:
        """It may have arrived all the same: the job finds out."""
        attempt.was_uncertain = True
        job = api.job(exc.prompt_id)
        try:
            return job.result(HANG)
        finally:
            attempt.prompt_id = job.prompt_id

    def _follow(self, attempt: Attempt, job: Job) -> Result:
        task = attempt.task
        other = None
        attempt.prompt_id = job.prompt_id
        if task.way == "events":
            told: list[Any] = []
            attempt.told.append(told)
            told += job.events()
        elif task.way == "attach":
            attempt.clients.append(self.clients[task.other])
            time.sleep(task.after / 4)
            other = self.clients[task.other].job(job.prompt_id)
        elif task.way == "cancel":
            time.sleep(task.after)
            while not job.done():
                try:
                    job.cancel()
                    break
                except ClientClosed:
                    raise
                except ComfyError:
                    time.sleep(0.05)
        mine = _outcome(lambda: job.result(HANG))
        attempt.over = time.monotonic()
        attempt.why = job.why()
        attempt.prompt_id = job.prompt_id
        if task.way == "ask again":
            attempt.again = _outcome(
                lambda: self.clients[task.client].job(job.prompt_id).result(HANG)
            )
        if other is not None:
            attempt.attached = _outcome(lambda: other.result(HANG)), time.monotonic()
        if isinstance(mine, ComfyError):
            raise mine
        return mine

    # -- the verdict on the verdicts -------------------------------------------------------

    def _judge(self) -> None:
        self.wrong += [f"a worker hangs:\n{stack}" for stack in self.lost_workers]
        for attempt in self.attempts:
            fact = self.record.of(attempt.name)
            problems = [*self._verdict(attempt, fact, attempt.outcome, attempt.over)]
            if attempt.attached is not None:
                found = self._verdict(attempt, fact, *attempt.attached)
                problems += [f"attached, {attempt.attached[0]!r}: {problem}" for problem in found]
            if attempt.early is not None:
                outcome, known_at, since = attempt.early
                # Who asks for what is not there yet is told so.
                if not (isinstance(outcome, JobLost) and fact.put_at > since):
                    found = self._verdict(attempt, fact, outcome, known_at)
                    problems += [f"asked early, {outcome!r}: {problem}" for problem in found]
            if attempt.again is not None and type(attempt.again) is not type(attempt.outcome):
                problems.append(f"told again as {attempt.again!r}")
            problems += self._numbers(attempt, fact)
            if problems:
                what = self.trouble.between(attempt.begun, attempt.over)
                self.wrong.append(
                    f"{attempt.task} as {attempt.name}, prompt {attempt.prompt_id}: "
                    f"{'; '.join(problems)}\n    server: {fact}\n    client: {attempt.outcome!r}, "
                    f"{attempt.why}\n    from {attempt.begun:.2f} to {attempt.over:.2f}: {what}"
                )
        for name, fact in self.record.facts.items():
            task = self.tasks[int(name.partition(".")[0])]
            meant = task.kind == "interrupted" or task.way == "cancel"
            if INTERRUPTED in fact.ends and not meant:
                self.wrong.append(f"{name} was interrupted, and nobody wanted that")

    def _verdict(
        self, attempt: Attempt, fact: Fact, outcome: Any, known_at: float
    ) -> Iterator[str]:
        task = attempt.task
        is_gone = fact.gone_at < known_at
        if isinstance(outcome, Result):
            if SUCCESS not in fact.ends:
                yield "a result of what did not succeed"
            elif outcome.texts != (task.text,) and (outcome.complete or outcome.texts):
                yield f"another's result: {outcome.texts}"
            elif task.kind == "pictures":
                yield from self._pictures(attempt, outcome)
            elif not (
                outcome.complete or is_gone or self._was(attempt, "late history", "worker hangs")
            ):
                yield "said to be incomplete"
        elif isinstance(outcome, JobFailed):
            if ERROR not in fact.ends:
                yield "failed, and did not"
            elif (outcome.exception_message or "").strip() != task.text:
                yield "another's failure"
        elif isinstance(outcome, JobInterrupted):
            if INTERRUPTED not in fact.ends and not (task.way == "cancel" and is_gone):
                yield "interrupted, and was not"
        elif isinstance(outcome, JobLost):
            never_came = attempt.was_uncertain and not fact.puts
            if not (is_gone or never_came or self._was(attempt, "login page")):
                yield "lost, and the server knows it"
        elif isinstance(outcome, JobTimeout):
            yield "hangs"
        elif fact.puts:
            yield "an error, and the server has it"

    def _pictures(self, attempt: Attempt, result: Result) -> Iterator[str]:
        frames = [item for item in result.files if isinstance(item, OutputFrame)]
        if self._was(attempt, "junk"):  # some of which are pictures
            return
        if result.complete and len(frames) != 2:
            yield f"{len(frames)} of 2 pictures, and said to be complete"

    def _was(self, attempt: Attempt, *faults: str) -> bool:
        met = self.trouble.between(attempt.begun, attempt.over)
        return any(fault in met for fault in faults)

    def _numbers(self, attempt: Attempt, fact: Fact) -> Iterator[str]:
        most = 3 if attempt.task.way == "resubmit" else 1
        if fact.puts > most:
            yield f"submitted {fact.puts} times"
        had = isinstance(attempt.outcome, Result | JobError)
        if had and fact.puts and most == 1:
            since = max(fact.over_at, attempt.begun)
            late = self.trouble.free(since, attempt.over)
            self.latest = max(self.latest, late)
            if late > self.grace:
                yield f"known {late:.1f} s of peace late"
        for told in attempt.told:
            if had and ([e for e in told if e.is_end] != told[-1:] or not told):
                yield f"events() gave {[e.name for e in told]}"
            strangers = {e.prompt_id for e in told if hasattr(e, "prompt_id")}
            if strangers - {attempt.prompt_id}:
                yield f"events() gave those of {strangers}"
        for client in attempt.clients if had and not attempt.was_uncertain else ():
            mine = self.ends[self.clients.index(client)]
            names = [e.name for e in mine if e.prompt_id == attempt.prompt_id]
            if len(names) != 1:
                yield f"client {self.clients.index(client)} had the ends {names}"
            elif client is attempt.clients[0] and names[0] != _name_of(attempt.outcome):
                yield f"{names[0]} was told of {attempt.outcome!r}"

    @property
    def figures(self) -> str:
        kinds = Counter(type(a.outcome).__name__ for a in self.attempts)
        told = ", ".join(f"{count} {name}" for name, count in kinds.most_common())
        return (
            f"seed {self.seed}: ComfyUI {self.version}, {len(self.attempts)} submissions in "
            f"{self.seconds:.1f} s with {len(self.trouble.log)} faults, {self.requests} requests "
            f"({self.looks} of the whole queue), {self.latest:.1f} s of peace from an end to its "
            f"verdict at most; {told}"
        )


def _name_of(outcome: Any) -> str:
    by_class = {JobFailed: ERROR, JobInterrupted: INTERRUPTED, JobLost: "job_lost"}
    return by_class.get(type(outcome), SUCCESS)


class Quick(ComfyApi):
    """Its times make rounds short; the real ones are in force in every fourth round of a soak."""

    timing = Timing(
        dial=1.5,
        ping=0.3,
        dead=1.5,
        poll=0.2,
        pause=0.05,
        cap=0.4,
        silence=0.5,
        silence_cap=1.5,
        job_poll_cap=0.4,
        lost=0.4,
        question_pause=0.1,
        history=1.5,
        settle=1.5,
        deaf=1.0,
        redial=4.0,
        follow=3.0,
        look_up=3.0,
        question=1.5,
    )


def _open_files() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


def _play(seed: int, count: int, *, patient: bool = False) -> Round:
    print(f"COMFY_FAULT_SEED={seed}{' (real patience)' if patient else ''}", flush=True)
    before = _open_files()
    longest, grace, clients = (4.0, 30.0, ComfyApi) if patient else (0.8, 20.0, Quick)
    one = Round(seed, count, longest, grace, clients)
    one.run()
    print(one.figures, flush=True)
    port_is_quiet = not open_sockets(one.port)
    assert not one.wrong, f"seed {seed}: {len(one.wrong)} wrong\n" + "\n".join(one.wrong[:10])
    assert port_is_quiet, f"seed {seed}: sockets left behind"
    assert not one.root.exists(), f"seed {seed}: the server's folder left behind"
    assert _open_files() <= before, f"seed {seed}: files left behind"
    return one


def _seed() -> int:
    return int(os.environ.get("COMFY_FAULT_SEED", "20261125"))


@pytest.mark.long
@pytest.mark.timeout(method="thread")  # its own would ring instead of ours
def test_jobs_under_random_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    """None hangs, is lost, runs twice, or ends in another way than on the server."""
    _play(_seed(), 80)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_rounds_of_two_hundred_jobs_under_random_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    """For as long as one likes; every fourth round with real patience."""
    end = time.monotonic() + 60.0 * float(os.environ.get("COMFY_SOAK_MINUTES", "20"))
    rounds: list[Round] = []
    wrong: list[str] = []
    for seed in itertools.count(_seed()):
        if time.monotonic() > end:
            break
        try:
            rounds.append(_play(seed, 200, patient=seed % 4 == 3))
        except AssertionError as exc:
            print(exc, flush=True)
            wrong.append(str(exc))
    submissions = sum(len(one.attempts) for one in rounds)
    faults = sum(len(one.trouble.log) for one in rounds)
    print(f"{len(rounds)} rounds, {submissions} submissions, {faults} faults; {len(wrong)} wrong")
    assert not wrong, "\n".join(wrong)
