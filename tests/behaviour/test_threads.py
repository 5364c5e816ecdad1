"""One client in many threads."""

from __future__ import annotations

import threading

import pytest

from tests.helpers.clients import (
    LIMIT,
)
from tests.helpers.scripted import (
    GRAPH,
    WELL,
    check,
)

pytestmark = pytest.mark.usefixtures("prompts_wait")


@pytest.mark.timing(linger=0.1)
def test_the_thread_that_asks_ends_when_there_is_nothing_to_ask(comfy, fast):
    """And comes back with the next job."""

    def running():
        return [t for t in threading.enumerate() if t.name == "comfy-jobs"]

    comfy.script(*WELL)
    for _ in range(2):
        check(fast.run(GRAPH, timeout=LIMIT))
        comfy.until(lambda: not running(), LIMIT)
