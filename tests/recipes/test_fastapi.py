"""The FastAPI recipe: events are streamed, whoever leaves cancels, and nothing is left behind.

``--soak`` has 50 clients render 200 prompts, three times, and prints the figures (``-s``).
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from comfy_client import ComfyApi, JobInterrupted
from comfy_client.testing import ComfyServer
from comfy_client.transport.connections import POOL_SIZE
from tests.comfyui import ComfyUI
from tests.conftest import load_workflow
from tests.helpers.clients import LIMIT, until
from tests.helpers.recipes import Service, painting, recipe, served


@pytest.fixture
def service(comfy: ComfyServer, tmp_path: Path) -> Iterator[Service]:
    with served(tmp_path, recipe("FastAPI", comfy.url), painting()) as running:
        yield running


Sent = tuple[str, Any]


async def stream(web: aiohttp.ClientSession, prompt: str) -> AsyncIterator[Sent]:
    """The events that a render sends."""
    async with web.post("/render", json={"prompt": prompt}) as answer:
        assert answer.status == 200, await answer.text()
        assert answer.content_type == "text/event-stream"
        name = ""
        async for line in answer.content:
            field, _, value = line.decode().rstrip("\n").partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                yield name, json.loads(value)


def at(service: Service) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        service.url,
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=300),
        read_bufsize=1 << 20,
    )


def test_a_render_streams_how_far_it_is_and_then_where_its_picture_is(service: Service) -> None:
    """Whose bytes it serves."""

    async def main() -> None:
        async with at(service) as web:
            sent = [event async for event in stream(web, "a mill")]
            assert {name for name, _ in sent} == {"submitted", "progress", "preview", "done"}
            fractions = [data["fraction"] for name, data in sent if name == "progress"]
            assert fractions == sorted(fractions)
            assert sent[0][0] == "submitted"
            name, [path] = sent[-1]
            assert name == "done"
            async with web.get(path) as picture:
                assert (await picture.read()).startswith(b"\x89PNG")
            async with web.get(path[:-1] + "7") as picture:
                assert picture.status == 404

    asyncio.run(main())


def test_errors_are_answers_and_events(service: Service, comfy: ComfyServer) -> None:
    """A prompt that nobody knows, a failure while it runs, a server that is gone."""

    async def main() -> None:
        async with at(service) as web:
            async with web.get("/pictures/00000000-0000-4000-8000-000000000000/0") as answer:
                assert answer.status == 404
            async with web.post("/render", json={"prompt": 5 * 2000 * "x"}) as answer:
                assert answer.status == 422
            events = stream(web, "forever")
            assert (await anext(events))[0] == "submitted"
            await asyncio.to_thread(comfy.until, lambda: comfy.running, LIMIT)
            await asyncio.to_thread(interrupt, comfy)
            *_, last = [event async for event in events]
            assert last == ("failed", {"code": "job_interrupted", "retryable": False})
            comfy.stop()
            async with web.post("/render", json={"prompt": "a mill"}) as answer:
                assert answer.status == 503
                assert await answer.json() == {"code": "server_unreachable", "retryable": True}

    asyncio.run(main())


def interrupt(comfy: ComfyServer) -> None:
    """Somebody else does."""
    with ComfyApi(comfy.url) as api:
        api.interrupt()


async def visit(web: aiohttp.ClientSession, chance: random.Random, ends: Counter[str]) -> None:
    """Render one picture, or leave at some moment: before an answer, pending, or running."""
    leaves_at = chance.choice([None, None, "request", "submitted", "progress"])
    if leaves_at is None:
        *_, (name, paths) = [event async for event in stream(web, "a mill")]
        async with web.get(paths[0]) as picture:
            assert (await picture.read()).startswith(b"\x89PNG")
        ends[name] += 1
    elif leaves_at == "request":
        asking = asyncio.create_task(anext(stream(web, "forever")))
        await asyncio.sleep(chance.uniform(0, 0.02))
        asking.cancel()
        ends["left"] += 1
    else:
        events = stream(web, "forever")
        async for name, _ in events:
            if name == leaves_at:
                break
        await events.aclose()  # type: ignore[attr-defined]
        ends["left"] += 1


async def crowd(service: Service, clients: int, renders: int, seed: int) -> Counter[str]:
    """So many clients at once, of which each renders so many pictures."""
    ends: Counter[str] = Counter()

    async def one(number: int) -> None:
        chance = random.Random(f"{seed} {number}")
        async with at(service) as web:
            for _ in range(renders):
                await visit(web, chance, ends)

    async with asyncio.timeout(240), asyncio.TaskGroup() as tasks:
        for number in range(clients):
            tasks.create_task(one(number))
    return ends


def at_rest(service: Service, first: dict[str, Any]) -> dict[str, Any] | None:
    """Its figures, once it has no more jobs and tasks than at first; ``None``: not yet."""
    figures = service.figures()
    is_at_rest = figures["jobs"] == 0 and figures["tasks"] <= first["tasks"]
    return figures if is_at_rest else None


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("clients", "renders"),
    [pytest.param(10, 2, marks=pytest.mark.long), pytest.param(50, 4, marks=pytest.mark.soak)],
    ids=["ten clients", "fifty clients"],
)
def test_a_crowd_that_comes_and_goes_leaves_nothing(
    service: Service, comfy: ComfyServer, clients: int, renders: int
) -> None:
    """Jobs of those who leave would run for ever: that the queue gets empty proves their cancels.

    No task and no job is left, no thread and no queue of events more than after the first time;
    memory is flat, and open files are at most the connections that the client keeps.
    """
    seen, done = [], 0
    first = service.figures()
    for rounds in range(4):
        start = time.monotonic()
        ends = asyncio.run(crowd(service, clients, renders, rounds))
        assert ends["done"] + ends["left"] == clients * renders
        done += ends["done"]
        comfy.until(lambda: not (comfy.running or comfy.pending), LIMIT)
        figures = until(lambda: at_rest(service, first), LIMIT)
        seen.append({**figures, "threads": Counter(figures["threads"])})
        print(f"\n{clients} clients, {dict(ends)}, {time.monotonic() - start:.1f} s: {seen[-1]}")
    assert sum(ran.status == "success" for ran in comfy.ran) == done
    warm, *later = seen
    for figures in later:
        pool = figures["threads"].pop("AnyIO worker thread")  # of FastAPI
        assert pool <= 2 * clients  # one submits, one cancels
        assert set(figures["threads"]) <= {"MainThread", "comfy-events", "comfy-jobs"}
        assert set(figures["threads"].values()) == {1}
        assert figures["files"] <= first["files"] + POOL_SIZE + 8
        assert figures["queues"] == warm["queues"]
        assert figures["memory"] <= warm["memory"] + 16  # 6 MiB after 800 prompts, 10 after 4800


@pytest.mark.real
def test_on_a_real_server_one_who_stays_gets_a_picture_and_one_who_leaves_cancels(
    comfyui: ComfyUI, tmp_path: Path
) -> None:
    """The true sampler sends progress, and is interrupted in the middle."""
    workflow = load_workflow("txt2img_tiny", steps=60)

    async def main(service: Service) -> str:
        async with at(service) as web:
            sent = [event async for event in stream(web, "a mill")]
            assert {name for name, _ in sent} >= {"submitted", "progress", "done"}
            async with web.get(sent[-1][1][0]) as picture:
                assert (await picture.read()).startswith(b"\x89PNG")
            events = stream(web, "a lighthouse")
            _, prompt_id = await anext(events)
            async for name, _ in events:
                if name == "progress":
                    break
            await events.aclose()  # type: ignore[attr-defined]
            return str(prompt_id)

    with served(tmp_path, recipe("FastAPI", comfyui.url), workflow) as service:
        prompt_id = asyncio.run(main(service))
        with ComfyApi(comfyui.url) as api, pytest.raises(JobInterrupted):
            api.job(prompt_id).result(LIMIT)
