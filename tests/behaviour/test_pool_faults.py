"""Servers of a pool that fail at random: each job ends as on its server, and none runs twice.

The oracle is the servers' own record, as in ``test_random_faults.py``, whose faults these are: one
after the other on each of three servers, which moreover leave the pool and come back.

``COMFY_FAULT_SEED``      of the first round
``COMFY_SOAK_MINUTES``    for how long ``--soak`` plays rounds; 20

    COMFY_SOAK_MINUTES=30 COMFY_FAULT_SEED=1 \
        python -m pytest --soak -s tests/behaviour/test_pool_faults.py
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from typing import Any

import attrs
import blinker
import pytest

from comfy_client import ComfyApi, ComfyPool, Job
from comfy_client.errors import (
    ComfyError,
    JobError,
    JobFailed,
    JobInterrupted,
    JobLost,
    JobTimeout,
)
from comfy_client.jobs.result import Result
from comfy_client.testing import ComfyServer
from tests.helpers.clients import FAST, until
from tests.helpers.random_faults import (
    ERROR,
    HANG,
    INTERRUPTED,
    SUCCESS,
    TASK,
    Fact,
    Fault,
    Operator,
    Task,
    Trouble,
    Work,
    plan,
    recorded,
)

SERVERS = 3
WORKERS = 8
#: Seconds of peace after a job's end within which it must be known.
GRACE = 20.0
#: Faults after which nobody can say what became of a prompt, or for how long.
BLINDING = ("login page", "wrong type", "queue refused", "no history", "late history")


def _answers(*answers: Any) -> Fault:
    return lambda faults, rng, _: faults.answer("POST", "/prompt", rng.choice(answers))


REJECTION = {"error": {"type": "invalid_prompt", "message": "no", "details": ""}}
#: What a sick server does: most of it runs nothing, but for the last.
SICK: dict[str, tuple[int, Fault]] = {
    "refusals": (8, _answers((500, {}, ""), (429, {"Retry-After": "1"}, ""), (404, {}, ""))),
    "too large": (2, lambda faults, rng, seconds: faults.too_large("/prompt")),
    "rejections": (6, _answers((400, {}, {**REJECTION, "node_errors": {}}))),
    "garbage": (6, _answers((200, {}, "<html>"), (200, {}, b'{"prompt_id": '), (200, {}, {}))),
    "no id": (4, lambda faults, *_: faults.rewrite("POST", "/prompt", lambda _: {"number": 1})),
}


class Pool(ComfyPool):
    """A suspect does not rest for long, so that it is tried again and again."""

    intervals = attrs.evolve(ComfyPool.intervals, rest=0.1, longest_rest=0.5, ask_again=0.5)


class Quick(ComfyApi):
    """Does not look long for a submission that got no answer."""

    timing = attrs.evolve(
        FAST, dial=1.5, ping=0.3, dead=1.5, lost=0.4, question=1.5, look_up=3.0, history=1.5
    )


@attrs.define
class Attempt:
    """What one job came to."""

    task: Task
    outcome: Any = None
    begun: float = attrs.field(factory=time.monotonic)
    over: float = 0.0
    server: str | None = None
    told: list[Any] | None = None  #: By events, or to callbacks.
    was_cancelled: bool = False


class Round:
    """Many jobs under one seed."""

    def __init__(self, seed: int, count: int, on_lost: Any, *, sick: bool = False) -> None:
        self.rng = random.Random(seed)
        self.count = count
        self.on_lost = on_lost
        self.more = SICK if sick else {}
        self.options: dict[str, Any] = {"on_lost": on_lost}
        if sick:
            self.options["on_failed"] = self.rng.choice(("raise", "move"))
        self.attempts: list[Attempt] = []
        self.wrong: list[str] = []
        self.troubles: dict[str, Trouble] = {}

    def run(self) -> None:
        """Play it; what was wrong is in ``wrong``."""
        begun = time.monotonic()
        with recorded() as self.record, contextlib.ExitStack() as stack:
            servers = [stack.enter_context(self._server()) for _ in range(SERVERS)]
            clients = [stack.enter_context(self._client(server)) for server in servers]
            self.tasks = plan(self.rng, SERVERS, self.count)
            with Pool(clients, patience=20.0, **self.options) as self.pool:
                with contextlib.ExitStack() as harm:
                    for number, server in enumerate(servers):
                        harm.enter_context(Operator(server, self.tasks))
                        # That one is about the whole process.
                        without = ("no names",) if number else ()
                        rng = random.Random(self.rng.random())
                        trouble = Trouble(server, rng, 0.8, without=without, more=self.more)
                        self.troubles[server.url] = harm.enter_context(trouble)
                    harm.enter_context(self._coming_and_going(clients))
                    self._work()
                self._check_pool()
            self.wrong += [
                f"trouble: {exc!r}" for one in self.troubles.values() for exc in one.errors
            ]
        for attempt in self.attempts:
            problems = [*self._verdict(attempt), *self._numbers(attempt)]
            if problems:
                fact = self.record.of(f"{attempt.task.number}.0")
                self.wrong.append(
                    f"{attempt.task}: {'; '.join(problems)}\n    servers: {fact}\n    "
                    f"pool: {attempt.outcome!r} of {attempt.server}, {attempt.begun:.2f} to "
                    f"{attempt.over:.2f}; {self._met(attempt)}"
                )
        kinds = Counter(type(attempt.outcome).__name__ for attempt in self.attempts)
        faults = sum(len(one.log) for one in self.troubles.values())
        print(f"{time.monotonic() - begun:.1f} s, {faults} faults, {dict(kinds)}", flush=True)

    def _server(self) -> ComfyServer:
        server = ComfyServer(version=self.rng.choice(("0.3.75", "0.28", "0.33")))
        server.add_node(Work)
        return server

    def _client(self, server: ComfyServer) -> Quick:
        transport: Any = self.rng.choice(("auto", "auto", "poll"))
        space = blinker.Namespace()
        return Quick(server.url, timeout=(2.0, 5.0), namespace=space, transport=transport)

    @contextlib.contextmanager
    def _coming_and_going(self, clients: list[Quick]) -> Iterator[None]:
        """In here, one server after the other leaves the pool for a moment."""
        rng, end = random.Random(self.rng.random()), threading.Event()

        def work() -> None:
            while not end.wait(rng.uniform(0.2, 1.5)):
                client = rng.choice(clients)
                self.pool.remove(client)
                end.wait(rng.uniform(0.0, 1.0))
                self.pool.add(client)

        thread = threading.Thread(target=work, name="coming and going")
        thread.start()
        try:
            yield
        finally:
            end.set()
            thread.join()

    def _work(self) -> None:
        todo = list(reversed(self.tasks))

        def work() -> None:
            while todo:
                with contextlib.suppress(IndexError):
                    attempt = Attempt(todo.pop())
                    self.attempts.append(attempt)
                    try:
                        self._do(attempt)
                    except Exception:
                        self.wrong.append(f"{attempt.task}: {traceback.format_exc()}")

        workers = [threading.Thread(target=work, daemon=True) for _ in range(WORKERS)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(3 * HANG)
            if worker.is_alive():
                self.wrong.append("a worker hangs")

    def _do(self, attempt: Attempt) -> None:
        task = attempt.task
        told: list[Any] = []
        options: dict[str, Any] = {"extra_data": {TASK: f"{task.number}.0"}}
        options["resubmit"] = task.way == "resubmit"
        if task.way in ("run", "attach"):
            attempt.told = told
            options["on_event"] = told.append
        try:
            if task.way == "run":
                attempt.outcome = self.pool.run(task.graph(), timeout=HANG, **options)
                return
            job = self.pool.submit(task.graph(), **options)
            if task.way == "events":
                attempt.told = told
                told += job.events()
            elif task.way == "cancel":
                self._cancel(attempt, job)
            try:
                attempt.outcome = job.result(HANG)
            finally:
                attempt.server = job.server
        except ComfyError as exc:
            attempt.outcome = exc
        finally:
            attempt.over = time.monotonic()

    def _cancel(self, attempt: Attempt, job: Job) -> None:
        time.sleep(attempt.task.after)
        attempt.was_cancelled = True
        while not job.done():
            try:
                job.cancel()
                return
            except ComfyError:
                time.sleep(0.05)

    # -- the verdict on the verdicts -----------------------------------------------------------

    def _check_pool(self) -> None:
        status = self.pool.status()
        counted = status.done, status.failed
        done = sum(isinstance(attempt.outcome, Result) for attempt in self.attempts)
        if counted != (done, len(self.attempts) - done):
            self.wrong.append(f"{done} of {len(self.attempts)} were done, but counted: {status}")
        if status.waiting or status.running or any(one.own for one in status.servers):
            self.wrong.append(f"something is left: {status}")
        with contextlib.suppress(AssertionError):
            until(lambda: all(one.state == "ready" for one in self.pool.status().servers), 20.0)
        if any(one.state != "ready" for one in self.pool.status().servers):
            self.wrong.append(f"in peace not all are ready: {self.pool.status()}")

    def _met(self, attempt: Attempt) -> str:
        """What went wrong meanwhile."""
        return "; ".join(
            f"{url}: {one.between(attempt.begun, attempt.over)}"
            for url, one in self.troubles.items()
        )

    def _verdict(self, attempt: Attempt) -> Iterator[str]:
        task, outcome = attempt.task, attempt.outcome
        fact = self.record.of(f"{task.number}.0")
        is_gone = fact.gone_at < attempt.over
        if isinstance(outcome, Result):
            if SUCCESS not in fact.ends:
                yield "a result of what did not succeed"
            elif outcome.texts != (task.text,) and (outcome.complete or outcome.texts):
                yield f"another's result: {outcome.texts}"
        elif isinstance(outcome, JobFailed):
            if ERROR not in fact.ends:
                yield "failed, and did not"
            elif (outcome.exception_message or "").strip() != task.text:
                yield "another's failure"
        elif isinstance(outcome, JobInterrupted):
            never_ran = attempt.was_cancelled and (is_gone or not fact.puts)
            if INTERRUPTED not in fact.ends and not never_ran:
                yield "interrupted, and was not"
        elif isinstance(outcome, JobLost):
            if not (is_gone or not fact.puts or self._was(attempt, *BLINDING)):
                yield "lost, and the server knows it"
        elif isinstance(outcome, JobTimeout):
            yield "hangs"
        elif not isinstance(outcome, ComfyError):
            yield "has not ended"
        elif fact.puts and not is_gone:  # after which it was refused elsewhere
            yield "an error, and a server has it"

    def _was(self, attempt: Attempt, *faults: str) -> bool:
        met = self._met(attempt)
        return any(fault in met for fault in faults)

    def _numbers(self, attempt: Attempt) -> Iterator[str]:
        fact: Fact = self.record.of(f"{attempt.task.number}.0")
        may_repeat = attempt.task.way == "resubmit" or self.on_lost == "retry"
        # What only waited on a server that went away moves, as may what failed.
        may_repeat |= fact.gone_at < attempt.over or (bool(self.more) and ERROR in fact.ends)
        if fact.puts > (9 if may_repeat else 1):
            yield f"submitted {fact.puts} times"
        if fact.ends.count(SUCCESS) > 1 and not may_repeat:
            yield f"ran {fact.ends.count(SUCCESS)} times"
        had = isinstance(attempt.outcome, Result | JobError)
        if had and fact.puts == 1 and attempt.server in self.troubles:
            late = self.troubles[attempt.server].free(
                max(fact.over_at, attempt.begun), attempt.over
            )
            if late > GRACE:
                yield f"known {late:.1f} s of peace late"
        if attempt.told is not None and had:
            ends = [event for event in attempt.told if event.is_end]
            if ends != attempt.told[-1:] and len(ends) != 1:
                yield f"told of {[event.name for event in attempt.told]}"
            elif not ends or ends[0].name != _name_of(attempt.outcome):
                yield f"told of {[event.name for event in ends]}"


def _name_of(outcome: Any) -> str:
    by_class = {JobFailed: ERROR, JobInterrupted: INTERRUPTED, JobLost: "job_lost"}
    return by_class.get(type(outcome), SUCCESS)


def _play(seed: int, count: int, on_lost: Any, *, sick: bool = False) -> None:
    print(f"COMFY_FAULT_SEED={seed} on_lost={on_lost} sick={sick}", flush=True)
    one = Round(seed, count, on_lost, sick=sick)
    one.run()
    assert not one.wrong, f"seed {seed}, {on_lost}: {len(one.wrong)} wrong\n" + "\n".join(
        one.wrong[:10]
    )


def _seed() -> int:
    return int(os.environ.get("COMFY_FAULT_SEED", "20261126"))


@pytest.mark.long
@pytest.mark.parametrize("on_lost", ["raise", "retry"])
def test_jobs_of_a_pool_under_random_faults(on_lost: str) -> None:
    """None hangs, is lost, runs twice unasked, or ends in another way than on its server."""
    _play(_seed(), 60, on_lost)


@pytest.mark.long
@pytest.mark.parametrize("on_lost", ["raise", "retry"])
def test_jobs_of_a_pool_of_servers_that_are_sick_now_and_then(on_lost: str) -> None:
    """The same, though they also refuse, reject and garble."""
    _play(_seed(), 60, on_lost, sick=True)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_rounds_of_jobs_of_a_pool_under_random_faults() -> None:
    """For as long as one likes."""
    end = time.monotonic() + 60.0 * float(os.environ.get("COMFY_SOAK_MINUTES", "20"))
    wrong: list[str] = []
    for seed in itertools.count(_seed()):
        if time.monotonic() > end:
            break
        try:
            _play(seed, 100, "retry" if seed % 2 else "raise", sick=seed % 4 > 1)
        except AssertionError as exc:
            print(exc, flush=True)
            wrong.append(str(exc))
    assert not wrong, "\n".join(wrong)
