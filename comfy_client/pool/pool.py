"""``ComfyPool``: several servers as one executor."""

from __future__ import annotations

import atexit
import itertools
import os
import weakref
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any, Final, Self, get_args

from ..client import ComfyApi
from ..jobs.execute import AnyJob, as_completed
from ..signals import Receivers
from ..transport.deadline import Deadline
from ..values import is_real
from .batches import Batches
from .dispatcher import Dispatcher
from .refusals import is_hopeless, out_of_reach
from .schedule import Mode
from .servers import AnyServer
from .state import Intervals, OnFailed, OnLost, Policy, PoolState
from .taking_back import forsake, take_back

#: Longest wait in one piece, in seconds, so that Ctrl-C works on every system.
_SLICE: Final = 0.5

_dispatchers: weakref.WeakSet[Dispatcher] = weakref.WeakSet()


class ComfyPool(Batches, Executor):  # type: ignore[misc]  # what it executes are workflows
    """Several ComfyUI servers as one: a :class:`concurrent.futures.Executor` of workflows.

    A job waits in the pool until a server is chosen for it, so that none is bound to a server that
    turns out to be slow, or goes away.  It goes only to servers that have its node classes and
    model files (as their node definitions say, which are read when a server is connected).  Files
    of its inputs are uploaded to the server that is chosen.  Those who submit (threads, and calls
    of :meth:`map`) take turns, and a job that no server can take now holds up nobody.

    As long as one server is well, the work gets done.  A server that goes away gets no new jobs
    until it is back.  What it refused, surely never got, or had not begun, goes to others.  What it
    may have run is looked up when it is back, and is lost if it does not come back in time:
    ``on_lost="retry"`` runs it again.  A server that fails job after job while others do not is
    suspect: it gets one job at a time, and rests in between.  With ``on_failed="move"``, what it
    failed before that is run by others, too.

    Example::

        from comfy_client import ComfyPool

        with ComfyPool(["http://127.0.0.1:8188", "http://127.0.0.1:8189"]) as pool:
            jobs = [pool.submit("txt2img.json", {"KSampler.seed": seed}) for seed in range(4)]
            for job in pool.as_completed(jobs):
                print(job.server, job.result().images)
            print(pool.status())

    Args:
        servers: URLs, or clients: :class:`ComfyApi`.  The pool connects clients, and does not close
            them; those that it makes of URLs it closes.
        mode: ``"shortest"``: to the shortest queue, prompts of others included; of several, to the
            server that ran the same models last.  ``"round_robin"``: to each in turn.
            ``"first_free"``: to the first, in your order, that has nothing to do.
        weights: How fast the servers are, compared to each other; ``None``: all the same.  Of those
            that have room for a job (``in_flight``), one of weight 2 gets twice as many.
        in_flight: How many jobs a server has at a time, at most; with 2, the next one is there when
            one ends.
        patience: How many seconds a server may be away until its jobs are not waited for any more.
            Those that only waited there go to other servers; those that had begun are lost.
        on_lost: What becomes of jobs that are lost, by a server that is away or was restarted:
            ``"raise"`` :class:`JobLost`, or ``"retry"``: run them again, and three times at most
            in all.  Some may then run twice.  A job that two servers did not survive is lost in
            any case.
        on_failed: What becomes of a job that fails: ``"raise"`` its :class:`JobFailed`, or
            ``"move"``: run it once more, on another server, whose end counts.  A job that fails on
            a server that is suspect (see :meth:`status`) always moves.

    Attributes:
        intervals: The times that it waits for; a subclass may set its own.

    Raises:
        ValueError: There are no servers, or one twice; ``mode``, ``weights``, ``in_flight``,
            ``patience``, ``on_lost`` or ``on_failed`` make no sense.
        TypeError: A server is neither a URL nor a client; ``weights`` is no list, or ``patience``
            no number.
    """

    intervals: Intervals = Intervals()

    def __init__(
        self,
        servers: Iterable[AnyServer],
        mode: Mode = "shortest",
        *,
        weights: Sequence[float] | None = None,
        in_flight: int = 2,
        patience: float = 120.0,
        on_lost: OnLost = "raise",
        on_failed: OnFailed = "raise",
    ) -> None:
        given = _servers(servers, weights)
        _check(in_flight, patience, on_lost, on_failed)
        self._in_flight = in_flight
        self._patience = patience
        self._on_lost = on_lost
        self._numbers = itertools.count()
        self._receivers = Receivers(self, None)
        policy = Policy(patience, on_lost, on_failed, self.intervals)
        self._dispatcher = Dispatcher(PoolState.new(mode, policy), self._receivers)
        weakref.finalize(self._dispatcher, self._receivers.shutdown())
        self._relayed = {}
        _dispatchers.add(self._dispatcher)
        self._first = None
        for server, weight in zip(given, weights or [1.0] * len(given), strict=True):
            self.add(server, weight=weight)

    # -- life ----------------------------------------------------------------------------

    def init(self, timeout: float | None = 10.0) -> Self:
        """Connect all servers, wait until one is ready, and return the pool itself.

        The others are ready as soon as they answer.  ``with`` does this, and the first
        :meth:`submit`.

        Args:
            timeout: Seconds; ``None``: no limit.  It fails earlier if no server will ever answer.

        Raises:
            ServerUnreachable: No server answers, or all refuse us; the message says why.
            ClientClosed: After :meth:`shutdown`.
        """
        deadline = Deadline.after(timeout)
        dispatcher = self._dispatcher
        dispatcher.check_open()
        dispatcher.start()

        def is_settled() -> bool:
            members = dispatcher.members
            return dispatcher.state.was_ready or dispatcher.state.closed or is_hopeless(members)

        while not dispatcher.wait(is_settled, deadline.left(_SLICE)):
            if deadline.expired:
                break
        dispatcher.check_open()
        if not dispatcher.state.was_ready:
            raise out_of_reach(dispatcher.members)
        return self

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more jobs, and close the clients that the pool made once all have ended.

        Jobs that no server of the pool can run, since those that could were removed, end now.

        Args:
            wait: Whether to wait until all jobs have ended.  If only servers that are away can run
                what is left, the log says so.
            cancel_futures: Whether to cancel the jobs that wait for a server.
        """
        dispatcher = self._dispatcher
        dispatcher.close()
        if cancel_futures:
            for job in dispatcher.waiting():
                dispatcher.withdraw(job)
        while wait and not dispatcher.wait(lambda: dispatcher.state.is_idle, _SLICE):
            dispatcher.warn_of_away()
        if dispatcher.state.is_idle:
            dispatcher.stop()

    def __enter__(self) -> Self:
        try:
            return self.init()
        except BaseException:
            self.shutdown(wait=False, cancel_futures=True)
            raise

    def __exit__(self, _: object, exc: BaseException | None, __: object) -> None:
        """Wait for all jobs; after an exception, take back those that do not run yet, and leave.

        That takes 5 seconds at most.  A Ctrl-C that ends the wait does the same.
        """
        try:
            if exc is None:
                self.shutdown()
                return
        except BaseException:
            self._leave()
            raise
        self._leave()

    def _leave(self) -> None:
        """Cancel what waits, and delete what is pending on servers; what runs keeps running."""
        self._dispatcher.close()
        try:
            jobs = self._dispatcher.jobs()
            take_back(self._dispatcher, jobs)
            forsake(self._dispatcher, jobs)
        finally:
            self.shutdown(wait=False, cancel_futures=True)

    def __repr__(self) -> str:
        members = list(self._dispatcher.members.items())
        names = (name if one.error is None else f"{name} (down)" for name, one in members)
        return f"<ComfyPool {', '.join(names) or 'without servers'}>"

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError(
            "a pool cannot be pickled: make one in each process, or see comfy_client.distributed"
        )

    if not TYPE_CHECKING:  # or any name would pass a type checker

        def __getattr__(self, name: str) -> Any:
            """Raise AttributeError with the Python name for one of the TypeScript pool."""
            if hasattr(type(self), name):  # a property raised it, and does so again
                return object.__getattribute__(self, name)
            from ..typescript import about_pool  # for mistakes only

            raise AttributeError(about_pool(name, type(self)), name=name, obj=self)

    def as_completed(
        self, jobs: Iterable[AnyJob], timeout: float | None = None
    ) -> Iterator[AnyJob]:
        """Yield jobs as they end, each once: see :meth:`ComfyApi.as_completed`."""
        return as_completed(jobs, timeout)


def _servers(servers: Iterable[AnyServer], weights: Sequence[float] | None) -> list[AnyServer]:
    """Return the servers that were passed, one weight for each; else TypeError or ValueError."""
    if isinstance(servers, str | ComfyApi) or not isinstance(servers, Iterable):
        raise TypeError("servers is a list of URLs or clients; for one, use ComfyApi")
    given = list(servers)
    if not given:
        raise ValueError("a pool needs a server: ComfyPool(['http://127.0.0.1:8188', ...])")
    if not isinstance(weights, Sequence | None):
        raise TypeError(f"weights is a list of numbers, one per server, not {weights!r:.80}")
    if weights is not None and len(weights) != len(given):
        raise ValueError(f"weights has {len(weights)} numbers for {len(given)} servers")
    return given


def _check(in_flight: int, patience: float, on_lost: OnLost, on_failed: OnFailed) -> None:
    """Raise TypeError or ValueError for options that make no sense."""
    if not isinstance(in_flight, int) or in_flight < 1:
        raise ValueError(f"in_flight is a number of jobs, 1 or more, not {in_flight!r}")
    if on_lost not in get_args(OnLost):
        raise ValueError(f"on_lost is 'raise' or 'retry', not {on_lost!r}")
    if on_failed not in get_args(OnFailed):
        raise ValueError(f"on_failed is 'raise' or 'move', not {on_failed!r}")
    if not is_real(patience):
        raise TypeError(f"patience is a number of seconds, not {patience!r:.80}")
    if not patience >= 0:
        raise ValueError(f"patience is a number of seconds, 0 or more, not {patience!r}")


def _after_fork() -> None:
    for dispatcher in list(_dispatchers):
        dispatcher.after_fork()


def _at_exit() -> None:
    for dispatcher in list(_dispatchers):
        dispatcher.warn_of_waiting()


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
