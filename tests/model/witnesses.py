"""A client's jobs between two witnesses, the socket and HTTP, both of which the test moves.

:class:`Scene` has the real ``Tracker`` and ``Poller``, and what submits, attaches and cancels; a
little server; and no thread.  Its methods are what may happen.  :meth:`Scene.check` says what has
to be true whatever happens, :meth:`Scene.finish` that all ends once nothing more goes wrong.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal

import attrs

from comfy_client.errors import (
    ApiError,
    ComfyError,
    JobFailed,
    JobInterrupted,
    JobLost,
    NotSupported,
    UnexpectedResponse,
)
from comfy_client.event_queue import Budget
from comfy_client.events import ConnectionEvent, Event, JobEvent
from comfy_client.jobs.execute import check_existence
from comfy_client.jobs.job import Job
from comfy_client.jobs.outcomes import status_of
from comfy_client.jobs.poller import MAX_REFUSALS, Poller
from comfy_client.jobs.submit import attach, submit
from comfy_client.jobs.tracker import Tracker
from comfy_client.log_records import ServerLog
from comfy_client.routes import Routes, TrackerHooks
from comfy_client.timing import Timing
from comfy_client.transport.decode import decode_text
from comfy_client.transport.websocket import EventHandler, State
from comfy_client.workflow import Workflow
from tests.helpers.scripted import GRAPH

from .little_server import VERSIONS, Fate, Fault, LittleHttp, LittleServer, Run, Socket
from .one_thread import Stage, Thread

WORKFLOW = Workflow(GRAPH)
#: Seconds within which a job ends after its prompt has, if nothing goes wrong.
BOUND = 90.0

#: What others do at the n-th point from the one before.
Meanwhile = Sequence[tuple[int, str]]


class Line:
    """The event socket as the client knows it: stands for ``Connection``."""

    failed_for_good = False
    is_receiving = False

    def __init__(self, handler: EventHandler, stage: Stage) -> None:
        self.handler = handler
        self.client_id = "client"
        self.state = State.IDLE
        self.generation = 0
        self.error: Exception | None = None
        self.socket: Socket | None = None
        self.wants_redial = False
        self.redials = 0
        self.log = ServerLog("http://gpu:8188")
        self._stage = stage
        self._received_at = 0.0

    @property
    def quiet_for(self) -> float:
        return float("inf") if self.socket is None else self._stage.now - self._received_at

    def start(self) -> None:
        pass

    def nudge(self) -> None:
        pass

    def redial(self, reason: str) -> None:
        self.wants_redial = self.state is State.CONNECTED
        self.redials += 1

    def wait_settled(self, timeout: float, *, or_failed: bool) -> State:
        self._stage.check_free("a wait for the socket")
        self._stage.point()
        return self.state

    # -- in the event thread -----------------------------------------------------------------

    def dial(self, server: LittleServer) -> None:
        self.socket = server.connect(self.client_id)
        self.state = State.CONNECTING

    def hear(self, unread: str | None = None) -> bool:
        """Take the next message, which cannot be read if it is of that type; False: none came."""
        if self.socket is None or not self.socket.inbox:
            return False
        message = self.socket.inbox.popleft()
        self._received_at = self._stage.now
        if self.state is not State.CONNECTED:
            self.state = State.CONNECTED
            self.generation += 1
            name = "connected" if self.generation == 1 else "reconnected"
            self.handler.connection_changed(ConnectionEvent(name=name))
        if message["type"] == unread:
            self.handler.skipped()
            return True
        for event in decode_text(json.dumps(message).encode()):
            self.handler.handle(event)
        return True

    def end(self, *, new_id: str | None = None) -> None:
        """The socket has ended; ``new_id``: as the server does not let the client id in again."""
        was_connected = self.state is State.CONNECTED
        self.socket, self.wants_redial = None, False
        if new_id is not None:
            self.client_id = new_id
            self.handler.client_id_changed()
        self.state = State.WAITING
        if was_connected:
            self.handler.connection_changed(ConnectionEvent(name="disconnected"))


class Ears:
    """What is put into the queue of the delivery thread: stands for ``Receivers``."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.told: list[Event] = []
        self.later: deque[Callable[[], object]] = deque()

    def publish(self, event: Event) -> None:
        self.told.append(event)
        self._stage.point()

    def flush(self, timeout: float) -> None:
        self._stage.check_free("a wait for receivers")

    def hand(self, to: object, call: Callable[[], float], event: Event | None = None) -> None:
        self.later.append(call)


class Wake:
    """What wakes the thread that asks: stands for ``WakeUp``."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.is_set = False
        self.stopped = False

    def set(self, *, stop: bool = False) -> None:
        self.is_set = True
        self.stopped = self.stopped or stop

    def wait_stopped(self, seconds: float) -> bool:
        return self._stage.wait(lambda: self.stopped, seconds)


class Client(Routes):
    """What ``ComfyApi`` makes of the rooms below it."""

    def __init__(self, server: LittleServer, stage: Stage) -> None:
        http = LittleHttp(server, stage)
        super().__init__(http)
        self.ears = Ears(stage)
        self.tracker = Tracker(
            self,
            http,
            self.ears,  # type: ignore[arg-type]
            Budget(1 << 28),
            Timing(),
            lambda handler: Line(handler, stage),  # type: ignore[arg-type, return-value]
        )
        self.line: Line = self.tracker.connection  # type: ignore[assignment]
        self.wake = self.tracker.wake = Wake(stage)  # type: ignore[assignment]
        self.poller = Poller(self.tracker, NoDefinitions())  # type: ignore[arg-type]
        self._hooks = TrackerHooks(
            awaits_record=self.poller.awaits_record,
            records_deleted=self.poller.records_deleted,
            removing=self.poller.stops.removing,
            stopping=partial(self.poller.stops.removing, running=True),
        )


class NoDefinitions:
    """The definitions of a server that lists none: for them, the client asks in further threads."""

    def get(self, *_: object, **__: object) -> Any:
        """Raise the error of the server."""
        raise NotSupported("no such route", method="GET", path="/object_info", status=404)

    def drop(self, *_: object) -> None:
        """Do nothing."""


class _LockCheck(logging.Handler):
    """A handler of logs is somebody's code."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(logging.INFO)
        self._stage = stage

    def emit(self, record: logging.LogRecord) -> None:
        self._stage.check_free(f"the log line {record.msg!r}")


@attrs.define(eq=False)
class Mine:
    """A job of ours, and what was done with it."""

    job: Job
    prompt_id: str  # by which it was submitted, or attached to
    since: int  # how many events receivers had heard when it began
    raised: BaseException | None = None  # by its submission
    was_cancelled: bool = False
    reposts: bool = False


class Scene:
    """One client, its jobs, others, and a server."""

    def __init__(self, stage: Stage, version: str = "0.3.75", *, lively: bool = False) -> None:
        self.stage = stage
        self.server = LittleServer(VERSIONS[version])
        self.client = Client(self.server, stage)
        self.tracker, self.poller = self.client.tracker, self.client.poller
        self.line, self.ears = self.client.line, self.client.ears
        self.mine: list[Mine] = []
        self.lively = lively  # the server goes on while somebody waits
        self._events = Thread(stage, name="events")
        self._busy: set[str] = set()  # actors that are in the middle of something
        self._plan: deque[tuple[int, str]] = deque()
        self._asks_at = 0.0  # when the thread that asks wakes up by itself
        self._holds = False  # the event thread stops before its next verdict
        self._verdict: Callable[[], None] | None = None  # there it stands
        self._end = self.tracker.end
        self.tracker.end = self._end_or_hold  # type: ignore[method-assign]
        self._submissions = self._others = 0
        stage.at_point, stage.idle = self._at_point, self._idle

    @classmethod
    @contextlib.contextmanager
    def opened(cls, version: str = "0.3.75", *, lively: bool = False) -> Iterator[Scene]:
        """A scene that owns the time, and the log, in here."""
        log, stage = logging.getLogger("comfy_client"), Stage()
        handler, before = _LockCheck(stage), (log.level, log.propagate)
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False
        try:
            with stage.owning_time():
                yield cls(stage, version, lively=lively)
        finally:
            log.removeHandler(handler)
            log.setLevel(before[0])
            log.propagate = before[1]

    # -- who acts ----------------------------------------------------------------------------

    def act(self, actor: str, act: Callable[[], object], meanwhile: Meanwhile = ()) -> None:
        """Have somebody act, and others at points in between; what is left of them, after it."""
        self._plan.extend(meanwhile)
        self._alone(actor, act)
        while self._plan:
            self.do(self._plan.popleft()[1])
        while self.ears.later:
            self.ears.later.popleft()()

    def _alone(self, actor: str, act: Callable[[], object]) -> None:
        """A thread is not two: nothing happens if it is in the middle of something."""
        if actor in self._busy or (actor == "events" and self._verdict is not None):
            return
        self._busy.add(actor)
        try:
            with self.stage.acting(self._thread_of(actor)):
                act()
        finally:
            self._busy.remove(actor)

    def _thread_of(self, actor: str) -> Thread:
        if actor == "events":
            return self._events
        asking = [one for one in self.stage.started if one.name == "comfy-jobs"]
        if actor == "asking" and asking:
            return asking[-1]
        return Thread(self.stage, name=actor)

    def _at_point(self) -> None:
        while self._plan and self._plan[0][0] <= 0:
            self.do(self._plan.popleft()[1])
        if self._plan:
            count, what = self._plan.popleft()
            self._plan.appendleft((count - 1, what))

    def do(self, what: str) -> None:
        """One of the small things that others do."""
        match what:
            case "step":
                self.server.step()
            case "hear":
                self._alone("events", self.line.hear)
            case "flow":
                self._flow()
            case "cut":
                self._alone("events", self._cut)
            case "dial":
                self._alone("events", self._dial)
            case "ask":
                self._ask()
            case "arrive":
                self.server.arrive()
            case "attach":
                self._alone("another user", partial(self._attach, -1, by_mark=False, checked=False))
            case "cancel":
                self._alone("another user", partial(self._cancel, -1, force=True))
            case _:
                raise ValueError(what)

    #: What :meth:`do` knows.
    SMALL = ("step", "hear", "flow", "cut", "dial", "ask", "arrive", "attach", "cancel")

    def _flow(self) -> None:
        self.server.step()
        self._hear_all()

    def _hear_all(self) -> None:
        def hear() -> None:
            while self.line.hear():
                pass

        self._alone("events", hear)

    def _idle(self, until: float) -> None:
        """Somebody waits: the others need not."""
        if self.lively:
            self._flow()
        asks_at = self.stage.now if self.client.wake.is_set else self._asks_at
        if asks_at < until and self._may_ask():
            self.stage.pass_until(asks_at)
            self._ask()
        else:
            self.stage.pass_until(min(until, self.stage.now + 1.0) if self.lively else until)

    def _may_ask(self) -> bool:
        is_there = any(one.name == "comfy-jobs" for one in self.stage.started)
        return is_there and "asking" not in self._busy

    def _ask(self) -> None:
        """The thread that asks does what is due."""
        if not self._may_ask():
            return
        self.client.wake.is_set = False

        def tick() -> None:
            delay = self.poller.tick()
            if delay is None:
                self.stage.started.clear()
            else:
                self._asks_at = self.stage.now + delay

        self._alone("asking", tick)

    def _end_or_hold(self, one: Any, outcome: Any) -> None:
        if self._holds and self.stage.current() is self._events:
            self._holds = False
            self._verdict = partial(self._end, one, outcome)
        else:
            self._end(one, outcome)

    # -- what our user does ------------------------------------------------------------------

    def submit(
        self,
        fate: Fate = "ok",
        fault: Fault | Literal["late", "ctrl-c", "ctrl-c unheard", "ctrl-c late"] | None = None,
        *,
        resubmit: bool = False,
        meanwhile: Meanwhile = (),
    ) -> None:
        """Submit a prompt; ``fault``: what becomes of its POST."""
        self._submissions += 1
        prompt_id = f"00000000-0000-4000-8000-{self._submissions:012}"

        def begun(job: Job) -> None:
            self.mine.append(Mine(job, prompt_id, len(self.ears.told), reposts=resubmit))

        def act() -> None:
            self.server.fate, self.server.post_fault = fate, fault
            try:
                submit(
                    self.client,
                    self.poller,
                    WORKFLOW,
                    prompt_id=prompt_id,
                    resubmit=resubmit,
                    begun=begun,
                )
            except (ComfyError, KeyboardInterrupt) as exc:
                mine = next(one for one in self.mine if one.prompt_id == prompt_id)
                mine.raised = exc

        self.act("user", act, meanwhile)

    def attach(
        self,
        which: int = -1,
        *,
        by_mark: bool = False,
        checked: bool = True,
        meanwhile: Meanwhile = (),
    ) -> None:
        """``api.job(id)`` of a prompt that the server has, or had, whoever sent it."""
        act = partial(self._attach, which, by_mark=by_mark, checked=checked)
        self.act("user", act, meanwhile)

    def _attach(self, which: int, *, by_mark: bool, checked: bool) -> None:
        if not self.server.runs:
            return
        run = self.server.runs[which % len(self.server.runs)]
        prompt_id = run.mark if by_mark and run.mark is not None else run.id
        since = len(self.ears.told)
        with contextlib.suppress(ComfyError):
            if checked:
                check_existence(self.poller, prompt_id)
            job = attach(self.client, self.poller, prompt_id, {})
            if all(one.job is not job for one in self.mine):
                self.mine.append(Mine(job, prompt_id, since))

    def cancel(self, which: int = -1, *, force: bool = False, meanwhile: Meanwhile = ()) -> None:
        """Cancel one of our jobs."""
        self.act("user", partial(self._cancel, which, force=force), meanwhile)

    def _cancel(self, which: int, *, force: bool) -> None:
        if self.mine:
            mine = self.mine[which % len(self.mine)]
            mine.was_cancelled = True
            with contextlib.suppress(ComfyError):
                mine.job.cancel(force=force)
            run = self.run_of(mine)
            if run is not None:
                run.was_cancelled = True

    def drop_jobs(self) -> None:
        """Keep no job that has ended."""
        self.mine = [one for one in self.mine if not one.job.done()]

    # -- what the server and others do -------------------------------------------------------

    def steps(self, count: int = 1) -> None:
        """The server goes on, and what it says is on its way."""
        for _ in range(count):
            self.server.step()

    def flow(self, count: int = 1, *, unread: str | None = None, meanwhile: Meanwhile = ()) -> None:
        """The server goes on, and is heard; messages of the type ``unread`` cannot be read."""

        def act() -> None:
            for _ in range(count):
                self.server.step()
                while self.line.hear(unread):
                    pass

        self.act("events", act, meanwhile)

    def say_again(self, kind: str | None = None) -> None:
        """What the server said last, it says again; or another end, after one that was heard."""
        if self.server.said_last is None:
            return
        run, said, data = self.server.said_last
        events = [event for event in self.ears.told if isinstance(event, JobEvent)]
        if kind is None or any(event.is_end and event.prompt_id == run.id for event in events):
            self.server.say(run, kind or said, **(data if kind is None else {}))

    def blink(self, steps: int = 1, *, notices: bool = True) -> None:
        """The socket is cut, and while there is none the server goes on."""
        self.cut(notices=notices)
        self.steps(steps)
        self.dial()

    def submit_foreign(self, fate: Fate = "ok") -> None:
        """Another client submits a prompt."""
        self._others += 1
        self.server.take(f"client {self._others} of others", None, fate)

    def delete_by_others(self, which: int = -1) -> None:
        """Another client takes a prompt out of the queue."""
        if self.server.pending:
            self.server.delete(self.server.pending[which % len(self.server.pending)].id)

    def restart(self) -> None:
        """The server dies, and comes back with nothing."""
        self.server.restart()
        self.act("events", self._cut)

    def refuse(self, *faults: Fault) -> None:
        """The next requests fail so."""
        self.server.faults.extend(faults)

    # -- the event thread --------------------------------------------------------------------

    def hear(self, count: int = 1, *, unread: str | None = None, meanwhile: Meanwhile = ()) -> None:
        """Hear what is on its way."""

        def act() -> None:
            for _ in range(count):
                self.line.hear(unread)

        self.act("events", act, meanwhile)

    def cut(self, *, notices: bool = True, meanwhile: Meanwhile = ()) -> None:
        """The socket is cut; what is on its way is lost."""
        self.act("events", partial(self._cut, notices=notices), meanwhile)

    def _cut(self, *, notices: bool = True, new_id: str | None = None) -> None:
        if self.line.socket is not None:
            self.server.disconnect(self.line.client_id, notices=notices)
            self.line.end(new_id=new_id)

    def dial(self, *, meanwhile: Meanwhile = ()) -> None:
        """There is a socket again."""
        self.act("events", self._dial, meanwhile)

    def _dial(self) -> None:
        if self.line.socket is None:
            self.line.dial(self.server)
            self.line.hear()

    def notice(self) -> None:
        """The server notices the end of an old socket, and the present one goes deaf."""
        self.server.notice()

    def renew(self, *, meanwhile: Meanwhile = ()) -> None:
        """The server closes the socket by 1008, and the client goes on by another id."""
        new_id = f"client, renewed {self.line.generation}"
        self.act("events", partial(self._cut, new_id=new_id), meanwhile)

    @property
    def is_holding(self) -> bool:
        """Whether the event thread stops, or has stopped, before a verdict."""
        return self._holds or self._verdict is not None

    def hold_verdict(self) -> None:
        """The event thread stops before it writes down its next verdict."""
        self._holds = True

    def let_go(self) -> None:
        """It goes on."""
        self._holds = False
        verdict, self._verdict = self._verdict, None
        if verdict is not None:
            self.act("events", verdict)

    # -- the thread that asks, and time ------------------------------------------------------

    def ask(self, *, meanwhile: Meanwhile = ()) -> None:
        """The thread that asks does what is due."""
        self._plan.extend(meanwhile)
        self._ask()
        self.act("nobody", lambda: None)

    def wait(self, seconds: float = 1.0, *, asleep: bool = False) -> None:
        """Time passes; ``asleep``: and the thread that asks gets no processor."""
        if asleep:
            self.stage.pass_until(self.stage.now + seconds)
        else:
            self.act("user", partial(self.stage.sleep, seconds))
        if self.line.wants_redial:
            self.act("events", self._cut)
            self.dial()

    # -- what has to be true -----------------------------------------------------------------

    def run_of(self, mine: Mine) -> Run | None:
        """The prompt that a job is about, as the server knows it."""
        ids = {mine.job.prompt_id, mine.prompt_id}
        found = [run for run in self.server.runs if run.id in ids or run.mark in ids]
        return found[-1] if found else None

    def check(self) -> None:
        """Whatever happens, this holds."""
        assert not self.stage.held
        marks = Counter(run.mark for run in self.server.runs if run.mark and not run.is_forgotten)
        assert max(marks.values(), default=0) <= 1, "a prompt was submitted twice"
        posts = Counter(self.server.posts)
        for mine in self.mine:
            assert mine.reposts or posts[mine.prompt_id] <= 1, "a POST was repeated"
            self._check_told(mine)
            if mine.job.done():
                self._check_end(mine)
        self._check_counts()

    def _ends_told(self, mine: Mine, since: int = 0) -> list[str]:
        ids = {mine.job.prompt_id, mine.prompt_id}
        events = [event for event in self.ears.told[since:] if isinstance(event, JobEvent)]
        return [event.name for event in events if event.is_end and event.prompt_id in ids]

    def _check_told(self, mine: Mine) -> None:
        told = self._ends_told(mine, mine.since)
        assert len(told) <= 1, f"ends of one prompt: {told}"

    def _check_end(self, mine: Mine) -> None:
        error = mine.job.exception(0)
        run, told = self.run_of(mine), self._ends_told(mine)[-1:]
        if mine.raised is not None and type(error) is type(mine.raised):
            return
        event = {
            "succeeded": "execution_success",
            "failed": "execution_error",
            "interrupted": "execution_interrupted",
        }.get(status_of(error), "job_lost")
        # Whoever was told that it is out of reach, is told nothing more.
        was_given_up = told == ["job_lost"] and self.server.refused >= MAX_REFUSALS
        assert told == [event] or was_given_up, f"ended in {error!r}, receivers heard {told}"
        own = [each for each in mine.job.events() if each.is_end]
        assert [each.name for each in own] == [event], f"its own events have {own}"
        if error is None:
            assert run is not None, "a result of what was never there"
            assert run.end == "success", f"a result of what is {run}"
            result = mine.job.result(0)
            is_there = "9" in result.nodes
            assert is_there or not result.complete, "no outputs, and nobody says so"
            was_hindered = self.server.refused >= MAX_REFUSALS or run.is_forgotten
            assert result.complete or was_hindered, "incomplete without a reason"
        elif isinstance(error, JobFailed):
            assert run is not None, "failed, and was never there"
            assert run.end == "error", f"failed, and is {run}"
        elif isinstance(error, JobInterrupted):
            if run is None:
                assert mine.was_cancelled, "interrupted, and was never there"
                return
            is_by_us = run.was_cancelled and run.is_forgotten and not mine.job.handle.state.started
            assert run.end == "interrupted" or is_by_us, f"interrupted, and is {run}"
        elif isinstance(error, JobLost):
            assert run is None or run.is_forgotten, f"lost, and is {run}"
        else:
            assert isinstance(error, ApiError | UnexpectedResponse), f"ended in {error!r}"
            assert self.server.refused >= MAX_REFUSALS, f"given up at once: {error!r}"

    def _check_counts(self) -> None:
        sums = self.tracker.ledger.sums()
        assert min(sums.values()) >= 0, sums
        open_ones = [one for one in self.tracker.outstanding if one.state.counted is not None]
        new = [one for one in open_ones if one.state.counted != "before"]
        assert sums["outstanding"] == len(new), (sums, len(new))

    # -- the end of it all -------------------------------------------------------------------

    def finish(self, *, dials: bool = True) -> None:
        """Nothing more goes wrong: each job ends, in time; ``dials``: there is a socket again."""
        self.let_go()
        self.server.arrive()
        self._give_up_on_refusals()
        self.server.faults.clear()
        if dials:
            self.dial()
        while self.server.is_busy:
            self._flow()
        end = self.stage.now + BOUND
        while self.stage.now < end and not all(one.job.done() for one in self.mine):
            self.wait(1.0)
            self._hear_all()
        self.check()
        for mine in self.mine:
            assert mine.job.done(), f"no end of {mine.job.prompt_id}: {mine.job.why()}"
        assert not self.tracker.outstanding

    def _give_up_on_refusals(self) -> None:
        """A login page that stays ends whoever has no other witness."""
        if not self.server.refused:
            return
        for _ in range(40):
            self.server.faults.clear()
            self.refuse(*["401"] * 50)
            self.wait(10.0)
            self._hear_all()
        for mine in self.mine:
            assert mine.job.done() or not mine.job.handle.state.attached, "waited for, for ever"
