"""Random lives of a server: prompts, pauses, faults, scripts, crashes, and resets in between.

A seed decides what happens; when the worker does its part is up to the machine.
"""

from __future__ import annotations

import contextlib
import random
import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest
import requests

from comfy_client.testing import PROMPT_ID, ComfyServer, Fail, Finish
from tests.helpers.bare import LIMIT, post, submit
from tests.helpers.graphs import picture, txt2img

CLOCK = "2026-12-01T09:30:00Z"
FIRST_ID = str(uuid.uuid5(uuid.NAMESPACE_OID, "1"))
QUICK = 0.02  # seconds for what may be in vain

Action = Callable[[ComfyServer, random.Random], object]


def sampling(server: ComfyServer, order: random.Random) -> None:
    post(server, "/prompt", {"prompt": txt2img(steps=order.choice([2, 1000])), "client_id": "me"})


def small(server: ComfyServer, order: random.Random) -> None:
    post(server, "/prompt", {"prompt": picture(order.randrange(3)), "client_id": "me"})


def pause(server: ComfyServer, order: random.Random) -> None:
    with contextlib.suppress(TimeoutError):
        server.pause(QUICK)


def step(server: ComfyServer, order: random.Random) -> None:
    with contextlib.suppress(TimeoutError):
        server.step(order.randrange(1, 4), timeout=QUICK) if server.paused else None


def resume(server: ComfyServer, order: random.Random) -> None:
    server.resume()


def speed(server: ComfyServer, order: random.Random) -> None:
    server.speed = order.choice([0.5, 1e3, 1e9])


def interrupt(server: ComfyServer, order: random.Random) -> None:
    post(server, "/interrupt", {})


def wait(server: ComfyServer, order: random.Random) -> None:
    with contextlib.suppress(AssertionError):
        server.until(lambda: not (server.running or server.pending), QUICK)


def restart(server: ComfyServer, order: random.Random) -> None:
    server.restart()


def death(server: ComfyServer, order: random.Random) -> None:
    server.kill()
    if order.random() < 0.5:  # else a reset starts it
        server.start()
    else:
        reset(server, order)


def death_later(server: ComfyServer, order: random.Random) -> None:
    """It comes at some time during what follows, or a reset prevents it."""
    server.faults.crash(order.choice([0, 0.001]))
    reset(server, order)


def script(server: ComfyServer, order: random.Random) -> None:
    start = {"type": "execution_start", "data": {"prompt_id": PROMPT_ID}}
    end = order.choice([Finish(), Fail("no"), threading.Event(), 3600.0])
    server.script(start, 0.001, end, times=order.choice([1, None]))


def lost(server: ComfyServer, order: random.Random) -> None:
    server.forget()


def sockets(server: ComfyServer, order: random.Random) -> None:
    server.faults.drop()


def fault(server: ComfyServer, order: random.Random) -> None:
    faults = server.faults
    order.choice(
        [
            faults.hang_worker,
            faults.late_history,
            faults.no_history,
            faults.withhold,
            faults.junk,
            faults.forget_interrupts,
            lambda: faults.slow_node("SaveImage", 3600),
            lambda: faults.node_fails("KSampler", times=1),
        ]
    )()


def frozen(server: ComfyServer, order: random.Random) -> None:
    server.faults.freeze()
    order.choice([restart, reset, death])(server, order)


def clear(server: ComfyServer, order: random.Random) -> None:
    server.faults.clear()


def reset(server: ComfyServer, order: random.Random) -> None:
    server.reset()


def check_new(server: ComfyServer) -> None:
    """It is empty, and the next prompt is the first one, at the first time of day."""
    assert (server.running, server.pending, server.history, server.ran) == ([], [], {}, [])
    assert (server.paused, server.speed, server.faults.active()) == (False, 1.0, [])
    with server.faults.hang_worker():
        assert submit(server) == FIRST_ID
        server.until(lambda: server.running, LIMIT)
        number, _, _, extra_data, _ = server.running[0]
    assert number == 0
    assert extra_data["create_time"] == datetime.fromisoformat(CLOCK).timestamp() * 1000 + 1
    server.until(lambda: server.history, LIMIT)


ACTIONS: tuple[Action, ...] = (
    *(sampling, small, sampling, small, pause, step, step, resume, speed, interrupt, wait, wait),
    *(restart, death, death_later, script, lost, sockets, fault, fault, frozen, clear),
    *(reset, reset),
)


@pytest.fixture
def failures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What threads have raised."""
    found: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", found.append)
    return found


@pytest.fixture
def server() -> Iterator[ComfyServer]:
    with ComfyServer(clock=CLOCK, ids="counter", lead=0.002, step_seconds=0.002) as running:
        yield running


def act(server: ComfyServer, order: random.Random) -> None:
    """Act without care for others, who may have killed or reset the server meanwhile."""
    for action in order.choices(ACTIONS, k=12):
        with contextlib.suppress(RuntimeError, AssertionError, requests.RequestException):
            action(server, order)


def ours() -> list[str]:
    return sorted(t.name for t in threading.enumerate() if t.name.startswith("ComfyServer"))


@pytest.mark.parametrize("seed", range(8))
def test_a_reset_leads_back_to_the_start_from_anywhere(
    server: ComfyServer, failures: list[Any], seed: int
) -> None:
    """With the two threads of before, and none that has failed."""
    order = random.Random(seed)
    before = ours()
    for _ in range(4):
        for action in order.choices(ACTIONS, k=8):
            action(server, order)
        server.reset()
        check_new(server)
        assert ours() == before
    assert failures == []


@pytest.mark.parametrize("seed", range(3))
def test_a_reset_leads_back_to_the_start_whatever_several_threads_did(
    server: ComfyServer, failures: list[Any], seed: int
) -> None:
    before = ours()
    actors = [
        threading.Thread(target=act, args=(server, random.Random(f"{seed} {number}")))
        for number in range(3)
    ]
    for actor in actors:
        actor.start()
    for actor in actors:
        actor.join(LIMIT)
    server.reset()
    check_new(server)
    assert ours() == before
    assert failures == []
