"""Twenty servers and two thousand jobs of a second: the pool keeps all of them busy."""

from __future__ import annotations

import gc
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from comfy_client import ComfyPool
from tests.helpers.pools import pooled

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]

SERVERS, COUNT, SECONDS = 20, 2000, 1.0
#: Jobs after which all that there is once has been made.
WARM = 400
MIB = 2**20

#: In a process of its own: what they cost is no memory of the pool's.
SERVING = f"""
import sys, time
from comfy_client.testing import ComfyServer

class Lasts:
    INPUT_TYPES = classmethod(lambda cls: {{"required": {{"number": ("INT", {{}})}}}})
    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True

    def run(self, number):
        time.sleep({SECONDS})
        return {{"ui": {{"text": [str(number)]}}}}

servers = [ComfyServer() for _ in range({SERVERS})]
for server in servers:
    server.add_node(Lasts)
    server.start()
print(*(server.url for server in servers), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def urls() -> Iterator[list[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", SERVING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        try:
            yield process.stdout.readline().split()
        finally:
            process.stdin.close()


def memory() -> float:
    """What this process has, in MiB."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB


def test_twenty_servers_run_two_thousand_jobs(urls: list[str]) -> None:
    def graphs() -> Iterator[dict[str, object]]:
        for number in itertools.count():
            yield {"1": {"class_type": "Lasts", "inputs": {"number": number}}}

    pool: ComfyPool
    with pooled(urls) as pool:
        results = pool.map(itertools.islice(graphs(), COUNT), ordered=False)
        began = time.monotonic()
        numbers = [int(next(results).texts[0]) for _ in range(WARM)]
        before = memory()
        numbers += [int(result.texts[0]) for result in results]
        took = time.monotonic() - began
        grown = memory() - before
        done = [one.done for one in pool.status().servers]
    ideal = COUNT * SECONDS / SERVERS
    print(f"{took:.1f} s, {ideal / took:.1%} of ideal; {grown:+.1f} MiB; {min(done)}-{max(done)}")
    assert sorted(numbers) == list(range(COUNT))
    assert min(done) >= 0.9 * COUNT / SERVERS
    assert grown < 10
