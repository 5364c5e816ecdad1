"""Servers of a pool that fail at random: each job ends, and none runs twice unasked."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import attrs
import pytest

from comfy_client import ComfyPool, JobLost
from comfy_client.testing import ComfyServer
from tests.helpers.clients import FAST, Quick

COUNT = 60
LIMIT = 60.0


class Brisk(Quick):
    """Does not look long for a submission that got no answer."""

    timing = attrs.evolve(FAST, look_up=1.0, look_up_sure=0.3)


class Brief:
    """Takes a moment, and shows its number."""

    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"number": ("INT", {}), "seconds": ("FLOAT", {})}}

    def run(self, number: int, seconds: float) -> dict[str, Any]:
        time.sleep(seconds)
        return {"ui": {"text": [str(number)]}}


@pytest.fixture
def servers() -> Iterator[list[ComfyServer]]:
    made = [ComfyServer() for _ in range(3)]
    for server in made:
        server.add_node(Brief)
        server.start()
    yield made
    for server in made:
        server.stop()


def trouble(servers: list[ComfyServer], rng: random.Random, end: threading.Event) -> None:
    """Kill, restart and disturb them, one after the other."""
    while not end.wait(rng.uniform(0.05, 0.3)):
        server = rng.choice(servers)
        match rng.choice(["kill", "restart", "hang up", "cut", "gateway"]):
            case "kill":
                server.kill()
                end.wait(rng.uniform(0.05, 0.5))
                server.start()
            case "restart":
                server.restart()
            case "hang up":
                server.faults.drop()
            case "cut":
                server.faults.cut("POST", "/prompt", ran=True, times=1)
            case _:
                server.faults.bad_gateway(times=2)


@pytest.mark.parametrize("on_lost", ["raise", "retry"])
@pytest.mark.parametrize("seed", range(2))
def test_each_job_ends_and_none_runs_twice_unasked(
    servers: list[ComfyServer], seed: int, on_lost: Any
) -> None:
    """What the servers themselves have begun to run is the judge."""
    rng, end = random.Random(seed), threading.Event()
    clients = [Brisk(server.url) for server in servers]
    with ComfyPool(clients, on_lost=on_lost, patience=5.0) as pool:
        thread = threading.Thread(target=trouble, args=(servers, rng, end))
        thread.start()
        try:
            jobs = [pool.submit(brief(n, rng.uniform(0, 0.05))) for n in range(COUNT)]
            errors = {job: job.exception(LIMIT) for job in jobs}
        finally:
            end.set()
            thread.join()
    for client in clients:
        client.close()
    ran = Counter(run.mark for server in servers for run in server.ran)
    assert max(ran.values()) == 1  # under each id; one that runs again has a new one
    for number, (job, error) in enumerate(errors.items()):
        if error is None:
            assert job.result().texts == (str(number),)
            assert ran[job.prompt_id] == 1
        else:
            assert isinstance(error, JobLost)
    if on_lost == "raise":
        assert ran.keys() <= {job.prompt_id for job in jobs}
    assert all(job.done() for job in jobs)


def brief(number: int, seconds: float) -> dict[str, Any]:
    return {"1": {"class_type": "Brief", "inputs": {"number": number, "seconds": seconds}}}
