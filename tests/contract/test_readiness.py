"""Whether a server is ready: it starts, and has memory."""

from __future__ import annotations

import contextlib
import threading

import pytest

from comfy_client import ComfyApi, NotSupported
from tests.contract.conftest import Server, a_while
from tests.contract.test_runs import picture

LIMIT = 300.0


def test_a_server_that_starts_is_waited_for(other: Server) -> None:
    """Until it runs prompts."""
    with contextlib.closing(ComfyApi(other.url)) as api:
        assert api.wait_until_ready(LIMIT).devices
        other.kill()
        assert not api.ping()
        start = threading.Thread(target=other.start)
        start.start()
        stats = api.wait_until_ready(LIMIT)
        assert stats.ram_total
        assert api.run(picture(), timeout=LIMIT).images
        start.join()


def test_a_server_on_a_cpu_has_no_vram_to_wait_for(any_api: ComfyApi) -> None:
    """It is told at once."""
    with pytest.raises(NotSupported, match="on the CPU"):
        any_api.wait_for_vram(1 << 30)


def test_memory_that_is_to_be_freed_can_be_waited_for(
    any_api: ComfyApi, any_comfyui: Server
) -> None:
    """The next prompt computes everything again."""
    graph = picture()
    for _ in range(2):
        any_api.run(graph, timeout=LIMIT)
        any_api.free_memory(free_memory=True, wait=a_while(any_comfyui, 3.0, 10.0))
        assert any_api.run(graph, timeout=LIMIT).cached_nodes == ()
