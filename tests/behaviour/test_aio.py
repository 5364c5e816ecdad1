"""``comfy_client.aio``: jobs and events in an event loop, without a thread for them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import logging
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from comfy_client import ClientClosed, ComfyApi, Event, Job, JobFailed, JobInterrupted, aio
from comfy_client.event_queue import HIGH_WATER, EventQueue
from comfy_client.testing import ComfyServer, Request
from tests.helpers.clients import LIMIT, Heard, threads, until
from tests.helpers.gates import Gates, held, saves, until_it_runs
from tests.helpers.scripted import END, FAILED, GRAPH, START, SUCCESS, WELL, say, stops


async def soon(found: Callable[[], object]) -> None:
    """Wait until something is true, while the event loop runs."""
    async with asyncio.timeout(LIMIT):
        while not found():
            await asyncio.sleep(0.005)


async def collected(job: Job) -> list[str]:
    return [event.name async for event in aio.events(job)]


async def stopped(task: asyncio.Task[Any]) -> None:
    """Cancel it, once it has begun, and have the event loop forget it."""
    await asyncio.sleep(0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    del task
    await asyncio.sleep(0)


def queues() -> int:
    """How many queues of events there are."""
    # Not gc.get_objects(), which also holds tuples that other threads are about to fill.
    return sum(isinstance(item, EventQueue) for item in gc.get_referrers(EventQueue))


def check_threads() -> None:
    """Of the client there are the event thread and the one that asks, and no more."""
    names = Counter(thread.name for thread in threads())
    assert names.keys() <= {"comfy-events", "comfy-jobs"}
    assert max(names.values()) == 1


# -- a job -----------------------------------------------------------------------------------


def test_the_events_are_those_of_the_job_and_cost_no_thread(
    comfy: ComfyServer, fast: ComfyApi
) -> None:
    """From the submission to the end; for whoever comes later, its end only."""
    gate = threading.Event()
    comfy.script(START, gate, *WELL[1:])

    async def main() -> None:
        jobs = [fast.submit(GRAPH) for _ in range(5)]
        readers = [asyncio.create_task(collected(job)) for job in jobs]
        results = [asyncio.create_task(aio.result(job)) for job in jobs]
        await soon(lambda: comfy.running)
        check_threads()
        gate.set()
        for names in await asyncio.gather(*readers):
            assert (names[0], names[-1]) == ("execution_start", "execution_success")
            assert {"executing", "executed"} <= set(names)
        for job, result in zip(jobs, await asyncio.gather(*results), strict=True):
            assert result is job.result(0)
            assert await collected(job) == ["execution_success"]
        check_threads()

    asyncio.run(main())


def test_a_failure_is_the_last_event_and_what_the_result_raises(
    comfy: ComfyServer, fast: ComfyApi
) -> None:
    """As without asyncio."""
    comfy.script(START, FAILED, *END)

    async def main() -> None:
        job = fast.submit(GRAPH)
        assert (await collected(job))[-1] == "execution_error"
        with pytest.raises(JobFailed):
            await aio.result(job)

    asyncio.run(main())


def test_a_job_is_a_future_for_asyncio_too(comfy: ComfyServer, fast: ComfyApi) -> None:
    """By what the standard library has; to cancel that cancels the prompt, in the event loop."""

    async def main() -> None:
        assert (await asyncio.wrap_future(fast.submit(saves()))).images
        job = fast.submit(held("a"))
        await soon(lambda: comfy.running)
        await stopped(asyncio.create_task(wrapped(job)))
        with pytest.raises(JobInterrupted):
            await aio.result(job)

    async def wrapped(job: Job) -> None:
        await asyncio.wrap_future(job)

    asyncio.run(main())


@pytest.mark.usefixtures("prompts_wait")
def test_a_closed_client_ends_every_wait(comfy: ComfyServer, fast: ComfyApi) -> None:
    """Those for a job, which then has no end event, and those for events of the client."""

    async def main() -> None:
        job = fast.submit(GRAPH)
        reader = asyncio.create_task(collected(job))
        result = asyncio.create_task(aio.result(job))
        every = asyncio.create_task(anext(aio.events(fast, "logs"), None))
        await asyncio.sleep(0)
        await asyncio.to_thread(fast.close)
        assert "execution_success" not in await reader
        with pytest.raises(ClientClosed):
            await result
        assert await every is None
        with pytest.raises(ClientClosed):
            aio.events(fast)

    asyncio.run(main())


def test_events_of_a_client_are_those_of_the_name(comfy: ComfyServer, fast: ComfyApi) -> None:
    """Or all of them."""

    async def main() -> None:
        every, ends = aio.events(fast), aio.events(fast, "execution_success")
        job = await asyncio.to_thread(fast.submit, saves())
        assert (await anext(ends)).name == "execution_success"
        names = set()
        async for event in every:
            names.add(event.name)
            if event.is_end:
                break
        assert names >= {"status", "execution_start", "executed"}
        assert (await aio.result(job)).images

    asyncio.run(main())


# -- who leaves, and who is slow ----------------------------------------------------------------


@pytest.mark.parametrize("source", ["job", "client"])
def test_leaving_an_async_for_loop_leaves_nothing_behind(
    source: str, comfy: ComfyServer, fast: ComfyApi, gate: Gates
) -> None:
    """By ``break``, by cancellation, or before the first event; without the collector."""

    async def main() -> None:
        job = fast.submit(held("a"))
        until_it_runs(comfy)
        job.events()  # takes the queue that is kept for the first
        of = (lambda: aio.events(job)) if source == "job" else (lambda: aio.events(fast))

        async def first() -> None:
            async for _ in of():
                break

        async def forever() -> None:
            async for _ in of():
                await asyncio.sleep(3600)

        before = queues()
        of()
        comfy.push_status()
        tasks = [asyncio.create_task(forever()) for _ in range(5)]
        await asyncio.sleep(0)
        assert queues() == before + 5
        while tasks:
            await stopped(tasks.pop())
        # The thread that brings an event holds the queue a moment longer.
        await soon(lambda: queues() == before)
        if source == "client":
            leaver = asyncio.create_task(first())
            await asyncio.sleep(0)
            comfy.push_status()
            await leaver
            await soon(lambda: queues() == before)
        gate("a").set()
        assert (await aio.result(job)).images

    gc.collect()
    gc.disable()
    try:
        asyncio.run(main())
    finally:
        gc.enable()


@pytest.mark.parametrize("source", ["job", "client"])
def test_aclose_ends_a_subscription_that_a_variable_holds(
    source: str, comfy: ComfyServer, fast: ComfyApi, gate: Gates
) -> None:
    """And a loop that waits for the next event."""

    async def main() -> None:
        job = fast.submit(held("a"))
        until_it_runs(comfy)
        job.events()  # takes the queue that is kept for the first
        before = queues()
        stream = aio.events(job) if source == "job" else aio.events(fast, "logs")
        assert queues() == before + 1

        async def all_of_them() -> None:
            async for _ in stream:
                pass

        waiting = asyncio.create_task(all_of_them())
        await asyncio.sleep(0)
        await stream.aclose()
        await waiting
        await stream.aclose()
        assert queues() == before
        gate("a").set()
        assert (await aio.result(job)).images

    asyncio.run(main())


def test_events_in_another_event_loop_raise_immediately(comfy: ComfyServer, fast: ComfyApi) -> None:
    """They do not wait for ever, and the job and its end event are kept."""
    gate = threading.Event()
    comfy.script(START, gate, *WELL[1:])
    job = fast.submit(GRAPH)

    async def made() -> aio.EventStream:
        return aio.events(job)

    async def used() -> None:
        with pytest.raises(RuntimeError, match="the event loop in which events"):
            await anext(stream)
        await stream.aclose()

    stream = asyncio.run(made())
    asyncio.run(used())
    gate.set()
    assert asyncio.run(collected(job))[-1] == "execution_success"


def test_an_error_says_that_there_is_no_asyncio_event_loop(
    comfy: ComfyServer, fast: ComfyApi
) -> None:
    """Trio, for example, runs coroutines without an event loop of asyncio."""
    comfy.script(*WELL)
    job = fast.submit(GRAPH)
    with pytest.raises(RuntimeError, match="for asyncio only"):
        aio.events(job)
    with pytest.raises(RuntimeError, match="for asyncio only"):
        aio.result(job).send(None)
    job.result()


def test_events_are_those_of_a_job_or_a_client() -> None:
    """And of nothing else."""

    async def main() -> None:
        with pytest.raises(TypeError, match="a job or a ComfyApi"):
            aio.events("x")  # type: ignore[call-overload]

    asyncio.run(main())


def test_a_timeout_around_the_next_event_loses_none(comfy: ComfyServer, fast: ComfyApi) -> None:
    """The same iterator goes on."""
    gate = threading.Event()
    comfy.script(START, gate, SUCCESS, *END)

    async def main() -> None:
        events = aio.events(fast.submit(GRAPH))
        names = [(await anext(events)).name]
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(events), 0.01)
        gate.set()
        names += [event.name async for event in events]
        assert (names[0], names[-1]) == ("execution_start", "execution_success")
        assert [event async for event in events] == []

    asyncio.run(main())


def test_a_loop_that_is_busy_gets_the_newest_and_is_called_once(
    comfy: ComfyServer, fast: ComfyApi
) -> None:
    """Whatever comes meanwhile: 3000 steps are neither 3000 events nor 3000 calls."""
    steps = [say("progress", value=step, max=3000, node="1") for step in range(1, 3001)]
    gate = threading.Event()
    comfy.script(START, gate, *steps, SUCCESS, *END)
    heard = Heard(fast)

    async def main() -> None:
        job = fast.submit(GRAPH)
        events = aio.events(job)
        assert (await anext(events)).name == "execution_start"
        calls = itertools.count()
        loop = asyncio.get_running_loop()
        call = loop.call_soon_threadsafe

        def counted(*args: Any) -> Any:
            next(calls)
            return call(*args)

        loop.call_soon_threadsafe = counted  # type: ignore[method-assign]
        gate.set()
        until(lambda: heard.ends(job.prompt_id))  # and the event loop has no chance
        assert next(calls) == 1
        kept: list[Event] = [event async for event in events]
        values = [event.value for event in kept if event.name == "progress"]  # type: ignore[attr-defined]
        assert values[-1] == 3000
        assert len(values) <= HIGH_WATER
        assert kept[-1].name == "execution_success"

    asyncio.run(main())


def test_an_event_loop_that_is_over_disturbs_no_job(
    comfy: ComfyServer, fast: ComfyApi, caplog: pytest.LogCaptureFixture
) -> None:
    """Its iterator may be kept; the job ends all the same, without a word in the log."""
    gate = threading.Event()
    comfy.script(START, gate, SUCCESS, *END)

    async def main() -> tuple[Job, Any]:
        job = fast.submit(GRAPH)
        return job, aio.events(job)

    with caplog.at_level(logging.WARNING):
        job, events = asyncio.run(main())
        gate.set()
        job.result(LIMIT)
    assert not caplog.records
    del events


# -- cancelled ------------------------------------------------------------------------------


def test_a_wait_that_is_cancelled_leaves_the_prompt_and_says_so(
    comfy: ComfyServer, fast: ComfyApi, gate: Gates, caplog: pytest.LogCaptureFixture
) -> None:
    """In a line of the log, with the id; another wait goes on."""

    async def main() -> None:
        job = fast.submit(held("a"))
        other = asyncio.create_task(aio.result(job))
        waiting = asyncio.create_task(aio.result(job))
        await soon(lambda: comfy.running)
        await stopped(waiting)
        (message,) = caplog.messages
        assert f"api.job({job.prompt_id!r})" in message
        gate("a").set()
        assert (await other).images

    asyncio.run(main())


def interrupting_late(comfy: ComfyServer) -> threading.Event:
    """The server interrupts no prompt before this event is set."""
    answered = threading.Event()

    def late(request: Request) -> Any:
        assert answered.wait(LIMIT)
        return comfy.answer(request)

    comfy.on("POST", "/jobs/*/cancel", late)
    return answered


def test_a_wait_that_is_cancelled_can_cancel_the_prompt_while_the_loop_runs(
    comfy: ComfyServer, fast: ComfyApi
) -> None:
    """A timeout then means that the server has been told."""

    async def main() -> None:
        job = fast.submit(held("a"))
        until_it_runs(comfy)
        answered = interrupting_late(comfy)
        waiting = asyncio.create_task(aio.result(job, on_cancel="cancel"))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.sleep(0.05)  # the loop runs
        assert not waiting.done()
        answered.set()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        with pytest.raises(JobInterrupted):
            await aio.result(job)

    asyncio.run(main())


def test_a_wait_that_is_cancelled_twice_does_not_wait_for_the_server(
    comfy: ComfyServer, fast: ComfyApi
) -> None:
    """Which is told all the same."""

    async def main() -> Job:
        job = fast.submit(held("a"))
        until_it_runs(comfy)
        answered = interrupting_late(comfy)
        waiting = asyncio.create_task(aio.result(job, on_cancel="cancel"))
        await asyncio.sleep(0)
        waiting.cancel()
        await soon(lambda: stops(comfy))
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert not job.done()
        answered.set()
        return job

    job = asyncio.run(main())
    with pytest.raises(JobInterrupted):
        job.result(LIMIT)


def test_on_cancel_is_leave_or_cancel(fast: ComfyApi, gate: Gates) -> None:
    """Said before anything is waited for."""
    job = fast.submit(held("a"))
    with pytest.raises(ValueError, match="'leave' or 'cancel', not 'kill'"):
        asyncio.run(aio.result(job, on_cancel="kill"))  # type: ignore[arg-type]
    gate("a").set()
    job.result(LIMIT)
