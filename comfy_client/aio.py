"""Waiting for jobs and iterating over events with asyncio, without extra threads.

The client itself blocks; call methods that send requests, such as ``api.submit`` and
``job.cancel``, with ``asyncio.to_thread``.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Generator
from typing import overload

from . import subscriptions
from .client import ComfyApi
from .events import Event
from .jobs.job import Job, OnInterrupt, cancel_in_time
from .jobs.result import Result

__all__ = ["EventStream", "events", "result"]


class _Bell:
    """Wakes a coroutine from any thread, with one call to the event loop at a time."""

    def __init__(self) -> None:
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:
            raise RuntimeError(
                "no running event loop: comfy_client.aio is for asyncio only; elsewhere, as with "
                "trio, call job.result() in a thread"
            ) from None
        self._event = asyncio.Event()
        self._has_rung = False

    def ring(self) -> None:
        if not self._has_rung:
            self._has_rung = True
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._event.set)

    def check_loop(self) -> None:
        """Raise RuntimeError unless the running event loop is the one that the bell belongs to."""
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError(
                "these events belong to the event loop in which events() was called; call it again "
                "in this one"
            )

    async def wait(self) -> None:
        await self._event.wait()
        self._event.clear()
        self._has_rung = False  # before the reader looks at the events


class EventStream(AsyncIterator[Event]):
    """The asynchronous iterator over events that :func:`events` returns."""

    # Not a generator, so that a reader that is cancelled in ``anext`` can continue later.

    def __init__(self, bell: _Bell, found: Generator[Event | None]) -> None:
        self._bell = bell
        self._found = found

    async def aclose(self) -> None:
        """End the subscription now, and with it a loop over the events; idempotent."""
        self._found.close()
        self._bell.ring()

    async def __anext__(self) -> Event:
        self._bell.check_loop()
        for event in self._found:
            if event is not None:
                return event
            await self._bell.wait()
        raise StopAsyncIteration


@overload
def events(source: Job) -> EventStream: ...
@overload
def events(source: ComfyApi, name: str = "all") -> EventStream: ...


def events(source: Job | ComfyApi, name: str = "all") -> EventStream:
    """Iterate over the events of a job, or over those of a client from now on.

    A job's events are the same as from :meth:`Job.events`, and end with the job; a client's are the
    same as from :meth:`ComfyApi.events`, until the client is closed.  Events wait for a slow loop,
    within the limits of :meth:`ComfyApi.events`: only the newest preview and progress of each node
    are kept.
    The subscription ends with the iterator, at ``break`` and any other end of ``async for``.  If a
    variable holds the iterator, call ``aclose()``, or use ``contextlib.aclosing``.  The prompt
    keeps running.  A timeout around ``anext(...)`` loses no event.

    Example::

        import asyncio

        from comfy_client import ComfyApi, aio

        async def main(api: ComfyApi) -> None:
            job = await asyncio.to_thread(api.submit, "txt2img.json")
            async for event in aio.events(job):
                print(event.name, job.progress.fraction)
            print((await aio.result(job)).images)

        with ComfyApi("http://127.0.0.1:8188") as api:
            asyncio.run(main(api))

    Args:
        source: A job, or a ``ComfyApi``.
        name: The name of a client's events, as in :meth:`ComfyApi.on`; ``all``: all of them.

    Raises:
        ClientClosed: The client is closed.
        RuntimeError: No event loop of asyncio is running, as under trio; or the stream is iterated
            in another event loop than the one in which it was made.
        TypeError: ``source`` is neither a job nor a client.
    """
    if not isinstance(source, Job | ComfyApi):
        raise TypeError(f"events() takes a job or a ComfyApi, not {source!r:.80}")
    bell = _Bell()
    if isinstance(source, Job):
        return EventStream(bell, source.handle.poll(bell.ring))
    return EventStream(bell, subscriptions.poll(source, source.parts, name, bell.ring))


async def result(job: Job, *, on_cancel: OnInterrupt = "leave") -> Result:
    """Wait for a job to end, and return its result.

    ``await asyncio.wrap_future(job)`` does that, too.  But if its task is cancelled, it calls
    ``job.cancel()``, whose requests block the whole event loop until the server has answered.

    To set a limit, use ``asyncio.timeout``.  Unlike :meth:`Job.result`, this function does not wait
    for receivers of signals.

    Args:
        job: The job.
        on_cancel: If the waiting task is cancelled (as by a timeout), let the prompt run and log a
            warning with its id (``"leave"``), or cancel the prompt first (``"cancel"``).
            Cancelling takes 5 seconds at most, in a thread; a second cancellation of the task
            ends the wait for it.

    Raises:
        JobError: As :meth:`Job.result`, but there is no ``JobTimeout``.
        RuntimeError: No event loop of asyncio is running, as under trio.
        ValueError: ``on_cancel`` is neither of the two.
    """
    if on_cancel not in ("leave", "cancel"):
        raise ValueError(f"on_cancel must be 'leave' or 'cancel', not {on_cancel!r}")
    bell = _Bell()
    try:
        with job.handle.at_end(bell.ring):
            while not job.done():
                await bell.wait()
    except asyncio.CancelledError:
        if on_cancel == "cancel":
            await asyncio.to_thread(cancel_in_time, [job])
        elif not job.done():
            job.handle.warn_that_it_runs()
        raise
    return job.result(0)
