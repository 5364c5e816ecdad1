"""A pool of real servers, one of which is killed while it works, and started again.

The files in the servers' output folders say what has run: they stay when a server forgets.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from comfy_client import ComfyApi, ComfyPool, JobLost, Result, SweepRow
from tests.comfyui import ComfyUI
from tests.conftest import load_workflow
from tests.helpers.clients import until

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

LIMIT = 300.0
IN_FLIGHT = 2


@pytest.fixture
def servers(request: pytest.FixtureRequest) -> Iterator[list[ComfyUI]]:
    """As many as the test asks for, of the version that others are tested with."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(ComfyUI()) for _ in range(request.param)]


def sampled(number: int, steps: int = 4) -> dict[str, Any]:
    """A picture that a sampler makes, in a file that tells its number."""
    return load_workflow("txt2img_tiny", seed=number, steps=steps, filename_prefix=f"job{number}")


def files_made(servers: Iterable[ComfyUI]) -> Counter[int]:
    """How often each picture was made, by its number."""
    names = (path.name for server in servers for path in Path(server.root, "output").glob("*.png"))
    return Counter(int(found[1]) for name in names if (found := re.match(r"job(\d+)_", name)))


@pytest.mark.parametrize(
    ("servers", "count"),
    [(2, 24), pytest.param(3, 200, marks=pytest.mark.soak)],
    indirect=["servers"],
)
def test_all_servers_share_the_work(servers: list[ComfyUI], count: int) -> None:
    """The pool adds little to what the servers themselves need."""
    for number, server in enumerate(servers, count):  # so that each has loaded its model
        with ComfyApi(server.url) as api:
            api.run(sampled(number), timeout=LIMIT)
    with ComfyPool(server.url for server in servers) as pool:
        began = time.monotonic()
        jobs = [pool.submit(sampled(number)) for number in range(count)]
        results = [job.result(LIMIT) for job in jobs]
        took = time.monotonic() - began
        status = pool.status()
    work = sum(result.seconds or 0.0 for result in results)
    print(f"{count} jobs on {len(servers)}: {took:.1f} s, ideal {work / len(servers):.1f} s")
    assert files_made(servers) == Counter(range(count + len(servers)))
    # In numbers, not in seconds: their speed is the machine's.
    assert min(one.done for one in status.servers) >= count // len(servers) // 2


@pytest.mark.parametrize("on_lost", ["raise", "retry"])
@pytest.mark.parametrize(
    ("servers", "count"),
    [(2, 24), pytest.param(3, 200, marks=pytest.mark.soak)],
    indirect=["servers"],
)
def test_a_server_that_is_killed_in_mid_run_and_started_again(
    servers: list[ComfyUI], count: int, on_lost: Any
) -> None:
    """What it may have run is lost or runs again, as was asked; the rest runs once."""
    victim = servers[0]
    with ComfyPool((s.url for s in servers), in_flight=IN_FLIGHT, on_lost=on_lost) as pool:
        jobs = [pool.submit(sampled(number, steps=8)) for number in range(count)]
        first = next(pool.as_completed(jobs, LIMIT))
        victim.kill()
        on_victim = [job for job in jobs if job.server == victim.url and not job.done()]
        victim.start()
        outcomes = [job.exception(LIMIT) or job.result() for job in jobs]
        until(lambda: [one for one in pool.status().servers if one.state != "ready"] == [], LIMIT)
        later = [pool.submit(sampled(count + number)) for number in range(count // 2)]
        again = [job.result(LIMIT) and job.server for job in later]
    assert first.done()
    assert on_victim
    assert set(again) == {server.url for server in servers}  # it works again
    made = files_made(servers)
    lost = [number for number, one in enumerate(outcomes) if not isinstance(one, Result)]
    assert all(isinstance(outcomes[number], JobLost) for number in lost)
    assert len(lost) <= (IN_FLIGHT if on_lost == "raise" else 0)
    for number, job in enumerate(jobs):
        most = 2 if on_lost == "retry" and job in on_victim else 1
        assert (0 if number in lost else 1) <= made[number] <= most


@pytest.mark.parametrize(
    ("servers", "count"),
    [(3, 12), pytest.param(3, 200, marks=pytest.mark.soak)],
    indirect=["servers"],
)
def test_work_is_done_although_one_server_is_sick_and_one_is_killed(
    servers: list[ComfyUI], count: int
) -> None:
    """Each picture is made once, but for what the killed server was making."""
    sick, victim, _ = servers
    Path(sick.root, "output").touch()  # no folder: each prompt fails when it saves its picture
    options: dict[str, Any] = {"on_lost": "retry", "on_failed": "move"}
    with ComfyPool((server.url for server in servers), in_flight=IN_FLIGHT, **options) as pool:
        until(lambda: all(one.state == "ready" for one in pool.status().servers), LIMIT)
        jobs = [pool.submit(sampled(number, steps=8)) for number in range(count)]
        until(lambda: any(job.done() and job.server == victim.url for job in jobs), LIMIT)
        victim.kill()
        running = [
            number
            for number, job in enumerate(jobs)
            if job.server == victim.url and job.status == "running"
        ]
        victim.start()
        errors = [job.exception(LIMIT) for job in jobs]
        status = pool.status()
    print(status, running)
    assert errors == [None] * count
    assert (status.done, status.failed) == (count, 0)
    assert status.servers[0].done == 0
    made = files_made(servers)
    assert sorted(made) == list(range(count))
    assert {number for number, times in made.items() if times > 1} <= set(running)


@pytest.mark.parametrize("servers", [2], indirect=True)
def test_a_sweep_that_ctrl_c_ends_makes_the_rest_when_it_is_called_again(
    servers: list[ComfyUI], tmp_path: Path
) -> None:
    """Each picture once."""

    def press_ctrl_c(row: SweepRow) -> None:
        told.append(row)
        if len(told) == 5:
            raise KeyboardInterrupt

    told: list[SweepRow] = []
    grid = {"KSampler.seed": range(8), "KSampler.cfg": [4.0, 7.0]}
    options: dict[str, Any] = {"journal": tmp_path / "night.db", "timeout": LIMIT}
    with ComfyPool(server.url for server in servers) as pool:
        with pytest.raises(KeyboardInterrupt):
            pool.sweep(sampled(0), grid, on_row=press_ctrl_c, **options)
        before = sum(files_made(servers).values())
        rows = pool.sweep(sampled(0), grid, **options)
    assert 5 <= before < 16
    assert [row.error for row in rows] == [None] * 16
    assert {row.host for row in rows} == {server.url for server in servers}
    assert files_made(servers) == Counter({0: 16})
    assert len({(row.host, row.result.images[0].filename) for row in rows if row.result}) == 16
