"""The dispatcher of a pool assigns its jobs to its servers.

The thread that asks for a change makes it, under the pool's lock, and publishes it afterwards.  No
signal handler comes in between, so a Ctrl-C leaves nothing half done.
"""

from __future__ import annotations

import logging
import queue
import weakref
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Generic, TypeVar

from .. import runtime
from ..batch.items import Items
from ..errors import ClientClosed
from ..interrupts import in_full, undivided, was_started
from ..jobs.job import Job, deliver
from ..locks import check_may_wait, shared_lock
from ..signals import Receivers
from ..values import T
from . import availability, moving
from .availability import awaited_servers, explain_wait, waits_for_away, waits_in_vain
from .needs import Offer
from .pool_state import Entry, LogLine, Member, PoolState, PoolStatus, PoolTiming
from .pooled_job import PooledJob
from .server_thread import ServerThread, ask_all

log: logging.Logger = logging.getLogger("comfy_client")

Owner = TypeVar("Owner")
_Calls = list[Callable[[], object]]


class Worker(Generic[Owner]):
    """A thread that calls queued functions with its owner, one after the other.

    The thread keeps the owner alive only during a call, and ends once the owner is gone.

    Args:
        owner: The object with which each queued function is called.
        tick: Called every ``pause`` seconds.
        pause: The pause between two calls of ``tick``.
        finish: Called whenever the queue is empty; returns whether the thread is to end.
    """

    def __init__(
        self,
        owner: Owner,
        tick: Callable[[Owner], object],
        pause: float,
        finish: Callable[[Owner], bool],
    ) -> None:
        self._args = weakref.ref(owner), tick, pause, finish
        self.reset()

    def reset(self) -> None:
        """Forget the thread and its queue; in the child of a fork, the thread does not exist."""
        self._todo: runtime.SimpleQueue[Callable[[Owner], object]] = runtime.SimpleQueue()
        self._thread: runtime.Thread | None = None

    @property
    def is_started(self) -> bool:
        """Whether the thread has been started; it may have ended since."""
        return was_started(self._thread)

    def start(self) -> None:
        """Start the thread."""
        self._thread = runtime.Thread(
            target=_work, args=(self._todo, *self._args), name="comfy-pool-dispatcher", daemon=True
        )
        self._thread.start()

    def put(self, call: Callable[[Owner], object]) -> None:
        """Queue a function to be called with the owner."""
        self._todo.put(call)


def _work(
    todo: runtime.SimpleQueue[Callable[[Owner], object]],
    ref: weakref.ref[Owner],
    tick: Callable[[Owner], object],
    pause: float,
    finish: Callable[[Owner], bool],
) -> None:
    due = runtime.monotonic()
    while True:
        left = due - runtime.monotonic()
        call = tick
        if left > 0:
            try:
                call = todo.get(timeout=left)
            except queue.Empty:
                left = 0.0
        if left <= 0:
            due = runtime.monotonic() + pause
        owner = ref()
        if owner is None:
            return
        try:
            call(owner)
            if todo.empty() and finish(owner):
                return
        except Exception:
            log.exception("the pool could not do one step")  # a defect; the next one may work
        del owner, call


class Dispatcher:
    """Gives the jobs of a pool to its servers, connects these, and publishes what happened.

    While the lock is held, no request is sent and no user code runs.

    Attributes:
        state: The state of the pool, which other objects only read.
        members: The servers by name, in the order in which they were added.
        sources: The items of ``map`` calls that have not ended, which are closed with the pool.
    """

    def __init__(self, state: PoolState, receivers: Receivers) -> None:
        self.state: PoolState = state
        self.members: Mapping[str, Member] = state.members
        self.sources: weakref.WeakSet[Items] = weakref.WeakSet()
        self._receivers = receivers
        self._threads: dict[Member, ServerThread] = {}  # those of leaving servers, too
        self._worker = Worker(self, Dispatcher.tick, self.timing.tick, Dispatcher.stop_if_done)
        self._make_lock()

    def _make_lock(self) -> None:
        # Guards the state.  Taken before the locks of queues.  Re-entrant: a signal handler may ask
        # for a change while the interrupted code reads the state.  That code iterates over copies.
        self._lock = shared_lock()
        self._changed = runtime.Condition(self._lock)

    def has_lock(self) -> bool:
        """Return whether this thread holds the lock, as in a signal handler that interrupted it."""
        try:
            self._changed.notify(0)  # wakes nobody, but raises if this thread has no lock
        except RuntimeError:
            return False
        return True

    def _change(self, change: Callable[[float], T]) -> T:
        """Call ``change`` with the time, assign jobs and publish news: in full, or not at all."""
        if not self.has_lock():
            check_may_wait()
        to_log: _Calls = []
        try:
            return undivided(partial(self._make, change, to_log))
        finally:
            in_full(to_log)

    def _make(self, change: Callable[[float], T], to_log: _Calls) -> T:
        """Make a change; in the main thread, the caller logs later, as Ctrl-C may end that."""
        state = self.state
        with self._lock:
            now = runtime.monotonic()
            answer = change(now)
            while (found := state.schedule.assign_next()) is not None:
                moving.assign(state, found, now)
            for member in availability.dismiss_members(state):
                self._worker.put(partial(_stop, self._threads.pop(member)))
            calls, lines = self._take_news()
            self._changed.notify_all()
        if calls or lines:
            here = lines
            if runtime.current_thread() is runtime.main_thread():
                to_log += lines
                here = []
            in_full([*calls, *here, self._mark_published])
        return answer

    def _take_news(self) -> tuple[_Calls, _Calls]:
        """Take the news that is due; return calls that publish it, and calls that log it."""
        state = self.state
        calls: _Calls = [partial(job.handle.end, end, event) for job, end, event in state.ends]
        calls += [partial(self._receivers.publish, event) for event in state.events]
        lines: _Calls = [partial(_log, line) for line in state.log_lines]
        state.ends, state.events, state.log_lines = [], [], []
        state.publishing += bool(calls or lines)
        return calls, lines

    def _mark_published(self) -> None:
        with self._lock:
            self.state.publishing -= 1
            self._changed.notify_all()

    # -- questions -----------------------------------------------------------------------------

    @property
    def timing(self) -> PoolTiming:
        """The times of the pool."""
        return self.state.policy.timing

    @property
    def moved_at(self) -> float:
        """The time when a server was last chosen for a job."""
        return self.state.moved_at

    @property
    def all_members(self) -> list[Member]:
        """The pool's servers, and those that were removed and still have jobs."""
        with self._lock:
            return self.state.all_members

    def check_open(self) -> None:
        """Raise :class:`ClientClosed` if the pool accepts no more jobs."""
        if self.state.is_parents:
            raise ClientClosed(
                "this ComfyPool belongs to the parent process; make one in this process"
            )
        if self.state.closed:
            raise ClientClosed("this ComfyPool is shut down; make a new one")

    def has(self, job: PooledJob) -> bool:
        """Return whether a job was submitted and has not ended."""
        with self._lock:
            return job in self.state.entries

    def jobs(self) -> list[PooledJob]:
        """Return the jobs that have not ended."""
        with self._lock:
            return list(self.state.entries)

    def waiting(self) -> list[PooledJob]:
        """Return the jobs whose submission to a server has not begun yet."""
        with self._lock:
            return [entry.job for entry in list(self.state.entries.values()) if not entry.started]

    def position(self, job: PooledJob) -> int | None:
        """Return the maximum number of waiting jobs ahead of a job; None if it is not waiting."""
        with self._lock:
            return self.state.schedule.position(job)

    def why(self, job: PooledJob) -> str:
        """Describe in a sentence what a job waits for."""
        with self._lock:
            return explain_wait(self.state, job)

    def waits_for_away(self, job: PooledJob) -> bool:
        """Return whether a job is waiting, and all servers that can run it are out of reach."""
        with self._lock:
            entry = self.state.entries.get(job)
            return entry is not None and waits_for_away(self.state, entry)

    def may_come(self, member: Member) -> bool:
        """Return whether a server is ready or may be soon."""
        return availability.may_come(self.state, member, runtime.monotonic())

    def silent_for(self, job: Job) -> float:
        """Return for how many seconds no server that can run a job has answered; 0 if one has."""
        with self._lock:
            entry = self.state.entries.get(job) if isinstance(job, PooledJob) else None
            able = [] if entry is None else availability.servers_for(self.state, entry)
        return min((member.silent_for for member in able), default=0.0)

    def room(self) -> int:
        """Return how many jobs all servers together may have at a time, at least 1."""
        with self._lock:
            return max(1, sum(member.server.most for member in list(self.members.values())))

    def status(self) -> PoolStatus:
        """Return the status of the pool."""
        with self._lock:
            return self.state.status()

    def notes(self) -> tuple[str, ...]:
        """Return a line of text for each server, to be shown below a progress bar."""
        return self.status().lines()

    def wait(self, until: Callable[[], bool], seconds: float) -> bool:
        """Wait until ``until()`` is true or the state changes; return whether it is true then."""
        check_may_wait()
        with self._lock:
            return until() or (bool(self._changed.wait(seconds)) and until())

    def flush(self, seconds: float) -> None:
        """Wait up to ``seconds`` seconds until callbacks have handled all events so far."""
        self._receivers.flush(seconds)

    # -- warnings ------------------------------------------------------------------------------

    def warn_of_waiting(self) -> None:
        """Log a warning, once, if waiting jobs will not run as the pool was not shut down."""
        state = self.state
        waiting = sum(not entry.started for entry in state.entries.values())
        if waiting and not state.has_warned:
            state.has_warned = True
            log.warning("a ComfyPool was not shut down; jobs that will not run: %d", waiting)

    def __del__(self) -> None:
        if "state" in vars(self):  # Ctrl-C may have interrupted __init__
            self.warn_of_waiting()

    def warn_of_away(self) -> None:
        """Log a warning, once, if all remaining jobs wait for servers that are away."""
        state = self.state
        with self._lock:
            left, away = len(state.entries), awaited_servers(state)
            if not away or state.has_warned_of_away:
                return
            state.has_warned_of_away = True
        words = "a ComfyPool waits for servers that are away; jobs that only they can run: %d (%s)"
        log.warning(words, left, f"{', '.join(sorted(away)):.200}")

    def warn_of_silence(self) -> None:
        """Log a warning, once, if a server that has jobs seems not to answer."""
        state = self.state
        with self._lock:
            found = (
                None if state.has_warned_of_silence else waits_in_vain(state, runtime.monotonic())
            )
            if found is None:
                return
            state.has_warned_of_silence = True
        member, entry, silence = found
        most = availability.patience_for(state, entry)
        words = (
            "a ComfyPool waits for prompt %s on %s, which has been silent for %.0f s; "
            "it gives the prompt up after %g s"
        )
        named = {**entry.job.handle.state.named, "server": member.name}
        log.warning(words, entry.job.prompt_id, member.name, silence, most, extra=named)

    def warn_of_wait(self, job: PooledJob) -> None:
        """Log a warning if a job waits for servers that are away; only once until one is back."""
        state = self.state
        with self._lock:
            entry = state.entries.get(job)
            if entry is None or not waits_for_away(state, entry):
                return
            able = state.schedule.able(entry.waiting)
            if able in state.warned_of:
                return
            state.warned_of.add(able)
            why = explain_wait(state, job)
        log.warning("prompt %s is %s", job.prompt_id, why, extra=job.handle.state.named)

    # -- servers -------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the threads of the pool and of its servers; repeated calls do nothing."""
        if not self._worker.is_started:
            undivided(self._start)

    def _start(self) -> None:
        with self._lock:
            if not self._worker.is_started:
                for thread in self._threads.values():
                    thread.start()
                self._worker.start()

    def add(self, member: Member) -> None:
        """Add a server; raise ValueError if the pool has it already."""
        self._change(partial(self._add, member))

    def _add(self, member: Member, now: float) -> None:
        self.check_open()
        availability.add_member(self.state, member, now)
        on_status = partial(_ask_to_look, self._worker, weakref.ref(member))
        thread = ServerThread(member, self, self.timing, on_status)
        self._threads[member] = thread
        if self._worker.is_started:
            try:
                thread.start()
            except RuntimeError:  # no more threads on this machine
                availability.remove_member(self.state, member.name, now)
                raise

    def remove(self, name: str, *, gone: bool = False) -> None:
        """Remove a server; raise ValueError if the pool lacks it.

        It still finishes its jobs.  If it is ``gone``, they are lost now.
        """
        self._change(partial(self._remove, name, gone))

    def _remove(self, name: str, gone: bool, now: float) -> None:
        remove = moving.lose_member if gone else availability.remove_member
        remove(self.state, name, now)
        moving.give_up_impossible(self.state)

    def refresh(self, most: float) -> None:
        """Ask all ready servers for their node definitions, without holding the lock.

        They are asked in parallel, except those asked a moment ago.  For servers that do not
        answer within ``most`` seconds, the last definitions count.
        """
        limit = min(most, self.timing.definitions)
        with self._lock:
            threads = [one for one in self._threads.values() if one.member.server.ready]
        ask_all([one for one in threads if self.begin_asking(one.member)], limit)

    def look(self, member: Member) -> None:
        """Update the number of other clients' prompts in a server's queue, which has changed."""
        self._change(partial(availability.count_others, self.state, member))

    def tick(self) -> None:
        """Check all servers, and give up jobs whose servers stay away for too long."""
        self._change(self._tick)

    def _tick(self, now: float) -> None:
        state = self.state
        for member in state.all_members:
            availability.check_member(state, member, now)
            for entry in moving.lose_jobs(state, member, now):
                self._worker.put(partial(_end_sending, entry))
            if availability.is_in_doubt(state, member, now):
                member.is_asked = True
                self._worker.put(partial(_ask_if_there, self._threads[member]))
        availability.update_suspects(state, now)
        moving.give_up_refused(state, now)

    # -- news from the threads of servers --------------------------------------------------------

    def mark_ready(self, member: Member, offer: Offer | None) -> None:
        """Have a server that answers take jobs; ``offer`` is None if its classes are unknown.

        Jobs that no server can run fail now.
        """

        def mark(now: float) -> None:
            if not member.leaving:
                availability.mark_ready(self.state, member, offer, now)
                moving.give_up_impossible(self.state, on_trust=True)

        self._change(mark)

    def begin_asking(self, member: Member) -> bool:
        """Note that a server is asked for definitions; return False if it was asked just now."""
        with self._lock:
            now = runtime.monotonic()
            if now - member.asked_at < self.timing.ask_again:
                return False
            member.asked_at = now
            return True

    def set_offer(self, member: Member, offer: Offer | None) -> None:
        """Set the node classes and models of a server."""
        self._change(lambda _: availability.set_offer(self.state, member, offer))

    def mark_unreachable(self, member: Member, error: Exception) -> None:
        """Give a server that does not answer no more jobs, and take back those not sent."""

        def mark(now: float) -> None:
            if not (member.was_ready or member.error or member.leaving):
                words = "%s does not answer, and gets no jobs until it does: %s"
                self.state.warn(words, member.name, error, server=member.name)
            availability.mark_down(self.state, member, error, now)

        self._change(mark)

    def mark_silent(self, member: Member, error: Exception) -> None:
        """Note that a server that has been silent does not answer over HTTP, either."""
        if self._change(partial(availability.mark_silent, self.state, member, error)):
            member.api.parts.connection.redial("it was open, but the server was silent")

    def mark_answering(self, member: Member) -> None:
        """Note that a removed server without a socket answers."""

        def mark(_: float) -> None:
            member.error = member.down_since = member.refused_since = None

        self._change(mark)

    def take(self, member: Member) -> Entry | None:
        """Take the next job from a server's inbox; return None if there is none."""
        with self._lock:
            if not member.inbox:
                return None
            entry = member.inbox.popleft()
            entry.started = True
            member.in_flight[entry] = None
            member.busy_since = runtime.monotonic()
            return entry

    def mark_submitted(self, member: Member, entry: Entry, inner: Job) -> None:
        """Follow a job that a server has, or may have, to its end.

        If it was cancelled meanwhile, have its server stop it.
        """

        def mark(_: float) -> None:
            entry.inner = inner
            member.clear_pending()

        self._change(mark)
        inner.handle.when_ended(partial(_ask_to_end, self._worker, entry, inner))
        if entry.cancelled:
            member.unwanted.append(inner)
            if entry.forced:
                member.forced.add(inner)
            member.wake()

    def mark_unsent(self, member: Member, entry: Entry, error: Exception) -> None:
        """Note that a server certainly does not have a job."""
        self._change(partial(moving.handle_unsent, self.state, member, entry, error))

    def end(self, entry: Entry, inner: Job) -> None:
        """Handle the end of a job's prompt on its server."""
        is_success = inner.handle.status == "succeeded"
        # An error is made here, without the lock; a result is made by the first call for it.
        outcome = inner.handle.ending if is_success else inner.exception(0) or ClientClosed()
        self._change(partial(moving.handle_end, self.state, entry, inner, outcome))

    # -- jobs ----------------------------------------------------------------------------------

    def submit(self, entry: Entry) -> None:
        """Queue a job, which waits until a server is chosen.

        After a Ctrl-C or an alarm the pool may have the job: the caller withdraws it.
        """
        self._change(partial(self._submit, entry))

    def _submit(self, entry: Entry, _: float) -> None:
        self.check_open()
        moving.check_can_run(self.state, entry.waiting)
        if entry.callbacks:
            entry.look = deliver(self._receivers, entry.callbacks, entry.job)
        moving.admit(self.state, entry)

    def withdraw(
        self, job: PooledJob, *, if_unsent: bool = False, force: bool = False
    ) -> bool | None:
        """End a job unless a server has it; return True if it certainly will not run.

        Return None if it is being sent: it is cancelled as soon as its server has it, if it still
        runs.  A job that a server already has keeps running, but is not run again if it is lost.

        Args:
            job: The job.
            if_unsent: Leave a job alone that is being sent, instead of cancelling it on its server.
            force: As for :meth:`Job.cancel`, if it is being sent.
        """
        return self._change(lambda _: self._withdraw(job, if_unsent=if_unsent, force=force))

    def _withdraw(self, job: PooledJob, *, if_unsent: bool, force: bool) -> bool | None:
        said = moving.withdraw(self.state, job, if_unsent=if_unsent, force=force)
        if said is None:
            self._end_unsent(job)
        return said

    def _end_unsent(self, *jobs: PooledJob) -> None:
        for job in jobs:
            entry = self.state.entries.get(job)
            if entry is not None and not job.handle.state.posted_at:
                self._worker.put(partial(_end_sending, entry))

    def end_unsent(self, jobs: Iterable[PooledJob]) -> None:
        """End the submissions of jobs whose prompts are not sent yet, such as uploads."""
        self._change(lambda _: self._end_unsent(*jobs))

    def recall(self, job: PooledJob) -> bool:
        """End a job if it was not sent, else keep it on its server; return whether it was ended."""
        return self._change(lambda _: moving.recall(self.state, job))

    # -- the whole -----------------------------------------------------------------------------

    def close(self) -> None:
        """Stop accepting jobs and servers, and end waiting jobs that no server can run."""
        self._change(self._close)

    def _close(self, _: float) -> None:
        self.state.closed = True
        moving.give_up_impossible(self.state)

    def stop_if_done(self) -> bool:
        """Stop the pool if it is closed and has no more jobs; return whether it was stopped."""
        if self.state.closed and self.state.is_idle:
            self.stop()
            return True
        return False

    def stop(self) -> None:
        """Stop the servers' threads, close the pool's own clients, and deliver the last events."""
        with self._lock:
            self.state.closed = True
            threads = list(self._threads.values())
        self._worker.put(_nothing)  # the thread looks, and ends
        for source in list(self.sources):
            source.close()
        for thread in threads:
            thread.stop()
        self.flush(self.timing.flush)
        self._receivers.close()

    def after_fork(self) -> None:
        """Reset the pool in the child of a fork, and give up all jobs: they are the parent's."""
        state = self.state
        state.is_parents = state.is_parents or self._worker.is_started
        self._make_lock()
        self._worker.reset()
        self._receivers.reset()
        for thread in self._threads.values():
            thread.reset()
        state.closed = state.closed or state.is_parents
        moving.abandon_jobs(state)


def _log(line: LogLine) -> None:
    log.log(line.level, line.text, *line.args, extra={**line.extra})


def _nothing(_: Dispatcher) -> None:
    """Do nothing; queued to wake the pool's thread."""


def _stop(server: ServerThread, _: Dispatcher) -> None:
    """Stop the thread of a removed server, in a new thread, as stopping takes a while."""
    thread = runtime.Thread(target=server.stop, name="comfy-pool-leaving", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # no more threads on this machine
        server.stop()


def _end_sending(entry: Entry, _: Dispatcher) -> None:
    """End the submission of a job that is in progress; its server's thread says how far it got."""
    if (sending := entry.sending) is not None:
        sending.end()


def _ask_if_there(server: ServerThread, _: Dispatcher) -> None:
    """Ask a silent server whether it is there, in a new thread: its own may be waiting for it."""
    thread = runtime.Thread(target=server.ask_if_there, name="comfy-pool-silence", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # no more threads on this machine
        server.member.is_asked = False


def _ask_to_end(worker: Worker[Dispatcher], entry: Entry, inner: Job) -> None:
    worker.put(lambda dispatcher: dispatcher.end(entry, inner))


def _ask_to_look(worker: Worker[Dispatcher], ref: weakref.ref[Member], _: object) -> None:
    member = ref()
    if member is not None:
        worker.put(lambda dispatcher: dispatcher.look(member))
