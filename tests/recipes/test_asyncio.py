"""The first recipe of the page on services: many waits in one event loop, each of which may end."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

from comfy_client import ComfyApi
from comfy_client.testing import ComfyServer
from tests.helpers.clients import LIMIT
from tests.recipes.conftest import Load

SECTION = "From asyncio"


def threads() -> list[str]:
    """The names of those that neither ``to_thread`` keeps nor a client for all jobs."""
    names = (one.name for one in threading.enumerate())
    return [name for name in names if not name.startswith(("asyncio_", "comfy-jobs"))]


def test_many_wait_at_once_without_threads(comfy: ComfyServer, load: Load) -> None:
    """No more than for one; all get their pictures."""
    names = load(SECTION)
    assert len([*Path("out").iterdir()]) == 2
    comfy.ran.clear()

    async def waiting(number: int) -> list[str]:
        """The threads when so many prompts are in the queue."""
        wanted = lambda: len(comfy.running) + len(comfy.pending) == number  # noqa: E731
        await asyncio.to_thread(comfy.until, wanted, LIMIT)
        return threads()

    async def main() -> None:
        with comfy.faults.hang_worker():
            tasks = [asyncio.create_task(names["render"](api, "a mill"))]
            alone = await waiting(1)
            tasks += [asyncio.create_task(names["render"](api, "a mill")) for _ in range(20)]
            assert sorted(await waiting(21)) == sorted(alone)
        assert all(result.images for result in await asyncio.gather(*tasks))

    with ComfyApi(comfy.url) as api:
        asyncio.run(main())
    assert len(comfy.ran) == 21


def test_a_cancelled_task_cancels_its_prompt(comfy: ComfyServer, load: Load) -> None:
    """And no other one."""
    names = load(SECTION)
    comfy.ran.clear()

    async def main() -> None:
        leaving = asyncio.create_task(names["render"](api, "forever"))
        coroutine: Any = leaving.get_coro()
        async with asyncio.timeout(LIMIT):
            while "job" not in coroutine.cr_frame.f_locals:  # the prompt is being sent
                await asyncio.sleep(0.01)
        await asyncio.to_thread(comfy.until, lambda: comfy.running, LIMIT)
        staying = asyncio.create_task(names["render"](api, "a mill"))
        await asyncio.to_thread(comfy.until, lambda: comfy.pending, LIMIT)
        leaving.cancel()
        assert (await staying).images
        assert leaving.cancelled()

    with ComfyApi(comfy.url) as api:
        asyncio.run(main())
    assert [ran.status == "success" for ran in comfy.ran] == [False, True]
