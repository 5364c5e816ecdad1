"""A deterministic scheduler: simulated threads that run one at a time, on simulated time.

While :meth:`Kernel.run` runs, ``comfy_client.runtime`` is the kernel's.  A thread is a greenlet.
It goes on until it waits for something; at each lock, clock reading and request another one may
come first.  The order follows from the seed, and time passes only while all of them wait.
"""

from __future__ import annotations

import concurrent.futures
import concurrent.futures._base as futures
import contextlib
import heapq
import itertools
import logging
import math
import queue
import random
import signal
import traceback
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, Final, Generic, TypeVar

from greenlet import GreenletExit, getcurrent, greenlet

from comfy_client import runtime
from tests.model.owned import here, replaced

T = TypeVar("T")

#: What the clock says first.
START: Final = 1000.0
#: Seconds that reading the clock takes, so that a loop that only reads it comes to an end.
_READING: Final = 1e-6


class Deadlock(AssertionError):
    """All threads wait, and none for a time."""


class TooLong(AssertionError):
    """The main thread has not ended within its limits."""


class Kernel:
    """One world with its own time.

    Args:
        seed: What decides on the order in which threads run.
        preempt: How often another thread may run where none waits: from 0 to 1.
        steps: How often threads may take turns, at most.
        seconds: How much simulated time may pass, at most.

    Attributes:
        random: Whoever draws from it, makes the run depend on the seed.
        failures: Exceptions that ended threads other than the main one.
        is_over: Whether :meth:`run` has ended; nothing of it may touch the world any more.
    """

    def __init__(
        self, seed: int, *, preempt: float = 0.05, steps: int = 200_000, seconds: float = 1e6
    ) -> None:
        self.random = random.Random(seed)
        self.worked = 0.0  #: Seconds that a processor has worked for the client.
        self.failures: list[BaseException] = []
        self.is_over = False
        self._preempt = preempt
        self._steps = steps
        self._longest = START + seconds
        self._now = START
        self._count = itertools.count(1)
        self._ready: list[_Thread] = []
        self._timers: list[tuple[float, int, _Thread, int]] = []
        self._hub: greenlet = getcurrent()
        self._current: _Thread | None = None
        self._threads: dict[_Thread, None] = {}  # that have started and not ended
        self._main: _Thread | None = None
        self._handlers: dict[int, Any] = {signal.SIGINT: self._heed}
        self._killed: list[_Thread] = []  # which stand still, so that nothing in them is tidied up

    # -- for tests -------------------------------------------------------------------------

    def run(self, main: Callable[[], T]) -> T:
        """Run ``main`` as the main thread; threads that are left when it returns are ended.

        Raises:
            Deadlock: All threads wait for each other.
            TooLong: It goes on for ever, or for too long.
            BaseException: What ended ``main``, or else the first other thread that raised.
        """
        result: list[T] = []
        self._hub = getcurrent()
        self._main = thread = self.spawn(lambda: result.append(main()), "main")
        with self._installed():
            try:
                while thread in self._threads:
                    self._next().switch()
            finally:
                self._end()
        if thread.failure is not None:
            raise thread.failure
        if self.failures:
            raise self.failures[0]
        return result[0]

    def now(self) -> float:
        """Return the simulated time, in seconds."""
        return self._now

    def sleep(self, seconds: float) -> None:
        """Have the present thread wait."""
        self.block(self._now + max(0.0, seconds))

    def pause(self) -> None:
        """Let another thread run, perhaps."""
        if self._current is None or self.is_over:
            return
        if self.random.random() < self._preempt:
            self._ready.append(self._current)
            self._switch()

    def spawn(self, function: Callable[[], object], name: str = "thread") -> _Thread:
        """Start a thread."""
        thread = _Thread(self, target=function, name=name)
        thread.start()
        return thread

    def interrupt(self, exc: BaseException) -> None:
        """Raise an exception in the main thread, as a handler of a signal does."""
        main = self._main
        if main is not None and main in self._threads and main.pending is None:
            main.pending = exc
            self.wake(main)

    def kill(self, is_meant: Callable[[str], bool]) -> None:
        """End threads, by their names, as when their process is killed.

        No code of theirs runs any more, and what they hold stays held; not even this call
        returns to one of them.
        """
        for thread in [one for one in self._threads if is_meant(one.name)]:
            del self._threads[thread]
            self._killed.append(thread)
            thread.is_blocked, thread.turn = False, thread.turn + 1
            if thread in self._ready:
                self._ready.remove(thread)
        if self._current in self._killed:
            self._next().switch()

    def held_locks(self) -> list[_RLock]:
        """Return the re-entrant locks that the present thread holds."""
        return [] if self._current is None else list(self._current.held)

    def living(self) -> list[str]:
        """Return the names of threads that have not ended, the main one excepted."""
        return [thread.name for thread in self._threads if thread is not self._main]

    # -- for locks ---------------------------------------------------------------------------

    @property
    def current(self) -> _Thread:
        """The thread that runs."""
        assert self._current is not None
        return self._current

    def block(self, until: float = math.inf) -> bool:
        """Wait until :meth:`wake` is called for the present thread; False once time is up."""
        if self.is_over:
            raise GreenletExit
        thread = self.current
        thread.is_woken = False
        thread.turn += 1
        if until < math.inf:
            heapq.heappush(self._timers, (until, next(self._count), thread, thread.turn))
        thread.is_blocked = True
        self._switch()
        return thread.is_woken

    def wake(self, thread: _Thread) -> None:
        """End the wait of a thread."""
        if thread.is_blocked:
            thread.is_blocked, thread.is_woken = False, True
            self._ready.append(thread)

    def _switch(self) -> None:
        """Go on with another thread; return when it is this one's turn again."""
        thread, following = self.current, self._next()
        if following is not thread:
            following.greenlet.switch()
        self._current = thread
        if self.is_over:
            raise GreenletExit
        if thread.pending is not None and not thread.is_signalled:
            thread.is_signalled = True
            self._handlers[signal.SIGINT](signal.SIGINT, None)

    def _heed(self, _number: int, _frame: object) -> None:
        """Be the handler of the signal, unless the client sets its own."""
        main = self._main
        if main is not None and main.pending is not None:
            exc, main.pending, main.is_signalled = main.pending, None, False
            raise exc

    def _set_handler(self, number: int, handler: object) -> object:
        former, self._handlers[number] = self._handlers[number], handler
        return former

    def _next(self) -> _Thread:
        """Choose who runs next; let time pass if all wait."""
        self._steps -= 1
        ready = self._ready
        if self._steps < 0 or (not ready and not self._advance()):
            kind = TooLong if self._steps < 0 else Deadlock
            self._give_up(kind)
        index = 0 if len(ready) == 1 else self.random.randrange(len(ready))
        ready[index], ready[-1] = ready[-1], ready[index]
        return ready.pop()

    def _advance(self) -> bool:
        """Let time pass until a thread is due; False if none will ever be."""
        timers, ready = self._timers, self._ready
        while timers and (not ready or timers[0][0] <= self._now):
            at, _, thread, turn = heapq.heappop(timers)
            if thread.is_blocked and thread.turn == turn:
                self._now = max(self._now, at)
                thread.is_blocked = False
                ready.append(thread)
        if self._now > self._longest:
            self._steps = -1
            self._give_up(TooLong)
        return bool(ready)

    def _give_up(self, kind: type[AssertionError]) -> None:
        """Raise in the main thread, with the stacks of all."""
        stacks = []
        for thread in self._threads:
            frame = thread.greenlet.gr_frame
            where = traceback.format_stack(frame)[-6:-1] if frame is not None else []
            stacks.append(f"{thread.name}:\n{''.join(where)}")
        exc = kind(f"at {self._now - START:.3f} s\n" + "\n".join(stacks))
        if self._main is not None:
            self._main.failure = exc
        self._hub.throw(exc)

    def _ended(self, thread: _Thread) -> None:
        self._threads.pop(thread, None)
        for waiter in thread.joining:
            self.wake(waiter)

    def _end(self) -> None:
        """End all threads; what they hold is let go."""
        self.is_over = True
        for thread in [*self._threads, *self._killed]:
            self._current = thread
            with contextlib.suppress(BaseException):
                thread.greenlet.throw(GreenletExit)
        self._threads.clear()
        self._current = None

    @contextlib.contextmanager
    def _installed(self) -> Iterator[None]:
        """Have the client take clocks, locks and threads from here."""
        mine: dict[str, Any] = {
            "monotonic": self._monotonic,
            "wall_time": lambda: 1.7e9 + self._now,
            "thread_time": lambda: self.worked,
            "sleep": self.sleep,
            "Thread": self._bound(_Thread),
            "current_thread": lambda: self._current,
            "main_thread": lambda: self._main,
            "get_ident": lambda: self.current.ident,
            "get_handler": self._handlers.get,
            "set_handler": self._set_handler,
            "Lock": self._bound(_Lock),
            "RLock": self._bound(_RLock),
            "Condition": self._bound(_Condition),
            "Event": self._bound(_Event),
            "SimpleQueue": self._bound(_SimpleQueue),
            "ThreadPoolExecutor": self._bound(_Executor),
        }
        used = ("Lock", "RLock", "Condition", "Event", "Thread")
        threading = {name: here(mine[name], getattr(runtime, name)) for name in used}
        theirs, uuid4, state = vars(futures)["threading"], uuid.uuid4, random.getstate()
        disabled = logging.root.manager.disable
        draw = here(lambda: uuid.UUID(int=self.random.getrandbits(128), version=4), uuid4)
        with replaced(mine):
            try:
                vars(futures)["threading"] = SimpleNamespace(**threading)
                uuid.uuid4 = draw
                random.seed(self.random.getrandbits(32))  # pauses that grow, with jitter
                logging.disable()
                yield
            finally:
                vars(futures)["threading"] = theirs
                uuid.uuid4 = uuid4
                random.setstate(state)
                logging.disable(disabled)

    def _bound(self, kind: Callable[..., T]) -> Callable[..., T]:
        def make(*args: Any, **kwargs: Any) -> T:
            return kind(self, *args, **kwargs)

        return make

    def _monotonic(self) -> float:
        self._now += _READING
        self.pause()
        return self._now


class _Thread:
    """A thread, as ``threading.Thread``."""

    def __init__(
        self,
        kernel: Kernel,
        group: None = None,
        target: Callable[..., object] | None = None,
        name: str = "thread",
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        *,
        daemon: bool | None = None,
    ) -> None:
        self.kernel = kernel
        self.name = name
        self.daemon = daemon
        self.ident: int | None = None
        self.held: dict[_RLock, None] = {}
        self.joining: list[_Thread] = []
        self.failure: BaseException | None = None
        self.pending: BaseException | None = None
        self.is_signalled = False
        self.is_blocked = self.is_woken = False
        self.turn = 0
        self._call = (target, args, kwargs or {})
        self.greenlet = greenlet(self._run)

    def start(self) -> None:
        kernel = self.kernel
        if kernel.is_over:
            raise RuntimeError("can't start new thread")
        if self.ident is not None:
            raise RuntimeError("threads can only be started once")
        self.ident = next(kernel._count)
        self.greenlet.parent = kernel._hub
        kernel._threads[self] = None
        kernel._ready.append(self)
        kernel.pause()

    def switch(self) -> None:
        self.greenlet.switch()

    def is_alive(self) -> bool:
        return self in self.kernel._threads

    def join(self, timeout: float | None = None) -> None:
        if self is self.kernel.current or self.ident is None:
            raise RuntimeError("cannot join this thread")
        if self.is_alive():
            self.joining.append(self.kernel.current)
            self.kernel.block(_until(self.kernel, timeout))

    def _run(self) -> None:
        kernel = self.kernel
        kernel._current = self
        target, args, kwargs = self._call
        del self._call
        try:
            if target is not None and not kernel.is_over:
                target(*args, **kwargs)
        except GreenletExit:
            pass
        except BaseException as exc:
            self.failure = exc
            if self is not kernel._main:
                kernel.failures.append(exc)
        finally:
            kernel._ended(self)


def _until(kernel: Kernel, timeout: float | None) -> float:
    return math.inf if timeout is None or timeout < 0 else kernel.now() + timeout


class _Lock:
    """A lock, as ``threading.Lock``: any thread may release it."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._is_locked = False
        self._waiting: deque[_Thread] = deque()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        kernel = self._kernel
        if kernel.is_over:
            return True
        kernel.pause()
        until = _until(kernel, timeout)
        while self._is_locked:
            if not blocking or kernel.now() >= until:
                return False
            me = kernel.current
            self._waiting.append(me)
            try:
                kernel.block(until)
            finally:
                self._waiting.remove(me)
        self._is_locked = True
        return True

    def release(self) -> None:
        if self._kernel.is_over:
            return
        if not self._is_locked:
            raise RuntimeError("release unlocked lock")
        self._is_locked = False
        for thread in self._waiting:
            self._kernel.wake(thread)

    def locked(self) -> bool:
        return self._is_locked

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *args: object) -> None:
        self.release()


class _RLock:
    """A re-entrant lock, as ``threading.RLock``."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._owner: _Thread | None = None
        self._depth = 0
        self._waiting: deque[_Thread] = deque()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        kernel = self._kernel
        if kernel.is_over:
            return True
        me = kernel.current
        if self._owner is me:
            self._depth += 1
            return True
        kernel.pause()
        until = _until(kernel, timeout)
        while self._owner is not None:
            if not blocking or kernel.now() >= until:
                return False
            self._waiting.append(me)
            try:
                kernel.block(until)
            finally:
                self._waiting.remove(me)
        self._owner, self._depth = me, 1
        me.held[self] = None
        return True

    def release(self) -> None:
        if self._kernel.is_over:
            return
        if self._owner is not self._kernel.current:
            raise RuntimeError("cannot release un-acquired lock")
        self._depth -= 1
        if not self._depth:
            self._let_go()

    def _let_go(self) -> None:
        assert self._owner is not None
        self._owner.held.pop(self, None)
        self._owner = None
        for thread in self._waiting:
            self._kernel.wake(thread)

    def _is_owned(self) -> bool:
        kernel = self._kernel
        return not kernel.is_over and self._owner is kernel._current is not None

    def _release_save(self) -> int:
        depth, self._depth = self._depth, 0
        self._let_go()
        return depth

    def _acquire_restore(self, depth: int) -> None:
        if self.acquire():
            self._depth = depth

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *args: object) -> None:
        self.release()


class _Condition:
    """A condition, as ``threading.Condition``."""

    def __init__(self, kernel: Kernel, lock: _RLock | None = None) -> None:
        self._kernel = kernel
        self._lock = _RLock(kernel) if lock is None else lock
        self._waiting: deque[_Thread] = deque()
        self.acquire = self._lock.acquire
        self.release = self._lock.release
        self._is_owned = self._lock._is_owned

    def __enter__(self) -> bool:
        return self._lock.acquire()

    def __exit__(self, *args: object) -> None:
        self._lock.release()

    def wait(self, timeout: float | None = None) -> bool:
        kernel = self._kernel
        if kernel.is_over:
            raise GreenletExit
        if not self._lock._is_owned():
            raise RuntimeError("cannot wait on un-acquired lock")
        me = kernel.current
        self._waiting.append(me)
        depth = self._lock._release_save()
        try:
            return kernel.block(_until(kernel, timeout))
        finally:
            with contextlib.suppress(ValueError):
                self._waiting.remove(me)
            self._lock._acquire_restore(depth)

    def wait_for(self, predicate: Callable[[], T], timeout: float | None = None) -> T:
        until = _until(self._kernel, timeout)
        result = predicate()
        while not result:
            left = until - self._kernel.now()
            if left <= 0:
                break
            self.wait(None if left == math.inf else left)
            result = predicate()
        return result

    def notify(self, n: int = 1) -> None:
        if self._kernel.is_over:
            return
        if not self._lock._is_owned():
            raise RuntimeError("cannot notify on un-acquired lock")
        for _ in range(min(n, len(self._waiting))):
            self._kernel.wake(self._waiting.popleft())

    def notify_all(self) -> None:
        self.notify(len(self._waiting))


class _Event:
    """An event, as ``threading.Event``."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._is_set = False
        self._waiting: list[_Thread] = []

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        for thread in self._waiting:
            self._kernel.wake(thread)
        self._kernel.pause()

    def clear(self) -> None:
        self._is_set = False

    def wait(self, timeout: float | None = None) -> bool:
        kernel = self._kernel
        if kernel.is_over:
            raise GreenletExit
        until = _until(kernel, timeout)
        kernel.pause()
        while not self._is_set and kernel.now() < until:
            me = kernel.current
            self._waiting.append(me)
            try:
                kernel.block(until)
            finally:
                self._waiting.remove(me)
        return self._is_set


class _SimpleQueue(Generic[T]):
    """A queue, as ``queue.SimpleQueue``."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._items: deque[T] = deque()
        self._filled = _Event(kernel)

    def put(self, item: T) -> None:
        self._items.append(item)
        self._filled.set()

    def get(self, block: bool = True, timeout: float | None = None) -> T:
        until = _until(self._kernel, timeout)
        while not self._items:
            left = until - self._kernel.now()
            if not block or left <= 0:
                raise queue.Empty
            self._filled.clear()
            self._filled.wait(None if left == math.inf else left)
        return self._items.popleft()

    def get_nowait(self) -> T:
        return self.get(block=False)

    def empty(self) -> bool:
        return not self._items

    def qsize(self) -> int:
        return len(self._items)


class _Executor(concurrent.futures.Executor):
    """Threads that work side by side, as ``concurrent.futures.ThreadPoolExecutor``."""

    def __init__(self, kernel: Kernel, max_workers: int | None = None) -> None:
        self._kernel = kernel
        self._threads: list[_Thread] = []

    def submit(  # type: ignore[override]
        self, fn: Callable[..., T], /, *args: Any, **kwargs: Any
    ) -> concurrent.futures.Future[T]:
        future: concurrent.futures.Future[T] = concurrent.futures.Future()

        def work() -> None:
            try:
                future.set_result(fn(*args, **kwargs))
            except Exception as exc:
                future.set_exception(exc)

        self._threads.append(self._kernel.spawn(work, "executor"))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        for thread in self._threads if wait else ():
            thread.join()
