"""One client in many threads."""

from __future__ import annotations

import threading

import pytest

from comfy_client import ComfyApi
from comfy_client.testing import ComfyServer
from tests.helpers.clients import (
    LIMIT,
    exception_of,
)
from tests.helpers.scripted import (
    END,
    GRAPH,
    WELL,
    check,
)

pytestmark = pytest.mark.usefixtures("prompts_wait")


def test_one_client_serves_many_threads(comfy: ComfyServer) -> None:
    """Getters, jobs and receivers at once."""
    comfy.script(*END)
    with ComfyApi(comfy.url) as api:

        def work() -> None:
            for _ in range(3):
                api.on("status", print)()
                api.get_queue()
                api.run(GRAPH, timeout=30)

        caught: list[BaseException | None] = []
        workers = [
            threading.Thread(target=lambda: caught.append(exception_of(work, 60))) for _ in range(6)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(60)
        assert caught == [None] * 6
        assert len(comfy.handshakes) == 1


@pytest.mark.timing(linger=0.1)
def test_the_thread_that_asks_ends_when_there_is_nothing_to_ask(comfy, fast):
    """And comes back with the next job."""

    def running():
        return [t for t in threading.enumerate() if t.name == "comfy-jobs"]

    comfy.script(*WELL)
    for _ in range(2):
        check(fast.run(GRAPH, timeout=LIMIT))
        comfy.until(lambda: not running(), LIMIT)
