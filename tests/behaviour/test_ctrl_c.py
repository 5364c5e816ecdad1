"""Ctrl-C at random moments of calls: nothing runs twice, nothing is left, and all goes on.

``COMFY_CTRL_C_SEED``   chooses other moments
``COMFY_CTRL_C_TRIES``  how many of each call; -1: all of them
``COMFY_CTRL_C``        ``everywhere``: in libraries, too (see ``tests.helpers.ctrl_c``)
``--soak``              tries ten times as many
"""

from __future__ import annotations

import contextlib
import gc
import os
import random
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import attrs
import pytest

from comfy_client import ComfyApi, ComfyPool
from comfy_client.batch.journal import Journal
from comfy_client.cli.results import folder_for
from comfy_client.testing import ComfyServer
from comfy_client.transport.connections import current
from comfy_client.transport.deadline import Deadline
from comfy_client.transport.http import Http
from tests.helpers.clients import (
    LIMIT,
    exception_of,
    open_sockets,
    outstanding,
    threads,
    until,
)
from tests.helpers.ctrl_c import (
    ALARM,
    Moment,
    Runs,
    at_each_point,
    handled,
    interrupted,
    noted,
    points_of,
)
from tests.helpers.long import but
from tests.helpers.pools import pooled

SEED = os.environ.get("COMFY_CTRL_C_SEED", "0")
#: A submission that Ctrl-C has cut off is soon taken for lost.
pytestmark = pytest.mark.timing(look_up=1.0, look_up_sure=0.5)
#: Interrupts of each call.
TRIES = int(os.environ.get("COMFY_CTRL_C_TRIES", "25"))


@attrs.define
class World:
    """Two servers, a client of the first, and a pool of both."""

    servers: list[ComfyServer]
    api: ComfyApi
    pool: ComfyPool
    runs: Runs
    folder: Path

    @property
    def urls(self) -> list[str]:
        """The addresses of the servers."""
        return [server.url for server in self.servers]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    runs = Runs()
    with ComfyServer() as one, ComfyServer() as two, handled():
        for server in (one, two):
            runs.add_to(server)
        with ComfyApi(one.url) as api, pooled([one.url, two.url]) as pool:
            yield World([one, two], api, pool, runs, tmp_path)
        gc.collect()  # errors held clients
        until(lambda: not threads(), LIMIT)
        for server in (one, two):
            server.until(lambda server=server: not server.open_connections, LIMIT)


def with_client(world: World, name: str) -> None:
    with ComfyApi(world.urls[0]) as api:
        api.on("executed", lambda event: None)
        api.run(noted(name), timeout=LIMIT)


def with_pool(world: World, name: str) -> None:
    with ComfyPool(world.urls) as pool:
        pool.run(noted(name), timeout=LIMIT)


def graphs(name: str) -> list[dict[str, object]]:
    return [noted(f"{name}.{number}") for number in range(3)]


def swept(runner: ComfyApi | ComfyPool, world: World, name: str) -> None:
    grid = {"Noted.text": [f"{name}.{number}" for number in range(3)]}
    rows = runner.sweep(noted(""), grid, journal=world.folder / f"{name}.journal")
    assert all(row.result for row in rows)


CALLS: dict[str, Callable[[World, str], object]] = {
    "run": lambda w, name: w.api.run(noted(name), timeout=LIMIT),
    "run, cancel": lambda w, name: w.api.run(noted(name), timeout=LIMIT, on_interrupt="cancel"),
    "events": lambda w, name: list(w.api.submit(noted(name)).events()),
    "map": lambda w, name: list(w.api.map(graphs(name), in_flight=2)),
    "sweep": lambda w, name: swept(w.api, w, name),
    "client": with_client,
    "pool run": lambda w, name: w.pool.run(noted(name), timeout=LIMIT),
    "pool map": lambda w, name: list(w.pool.map(graphs(name), ordered=False)),
    "pool sweep": lambda w, name: swept(w.pool, w, name),
    "pool": with_pool,
}


def moments(points: int, name: str, tries: int) -> Iterator[Moment]:
    """Yield random moments of a call with so many points; a negative number means each point."""
    choose = random.Random(f"{SEED} {name}")
    at = range(1, points + 1) if tries < 0 else (choose.randint(1, points) for _ in range(tries))
    for point in at:
        yield Moment(point, choose.choice([signal.SIGINT, signal.SIGINT, ALARM]))


def has_all(server: ComfyServer) -> bool:
    """Return whether a server has read what was sent on connections that are closed by now."""
    return server.open_connections <= len(open_sockets(server.port))


@pytest.mark.parametrize("name", but(CALLS, "map", "pool", "pool map", "pool sweep", "sweep"))
def test_ctrl_c_at_random_moments(world: World, name: str, request: pytest.FixtureRequest) -> None:
    """It comes out at once, nothing runs twice, and client and pool go on."""
    tries = TRIES * 10 if request.config.getoption("soak") else TRIES
    with handled():  # again, as old releases of pytest have a hook for each phase of a test
        interrupt(world, name, tries)


def interrupt(world: World, name: str, tries: int) -> None:
    call = CALLS[name]
    call(world, "first")  # imports what is imported late
    points = points_of(partial(call, world, "second"))
    names: list[str] = []
    came = 0
    for moment in moments(points, name, tries):
        names.append(f"t{len(names)}")
        came += interrupted(partial(call, world, names[-1]), moment)
        assert current.get() is None, moment
        # In another thread: no lock is left with this one.
        assert exception_of(partial(world.api.fetch_api, "/prompt")) is None, moment
    assert came
    for server in world.servers:
        until(partial(has_all, server), LIMIT)
    if "sweep" in name:
        for each in names:
            call(world, each)
    until(lambda: not outstanding(world.api), LIMIT)
    until(lambda: world.pool.status().running == world.pool.status().waiting == 0, LIMIT)
    assert exception_of(lambda: world.api.run(noted("last"), timeout=LIMIT)) is None
    assert exception_of(lambda: world.pool.run(noted("very last"), timeout=LIMIT)) is None
    assert {text: count for text, count in Counter(world.runs.texts).items() if count > 1} == {}


def test_an_alarm_at_any_moment_of_a_request_comes_out_of_it(world: World) -> None:
    """As the error that the handler raised, not as one of the client's own timeouts."""
    call = partial(world.api.poll_status, LIMIT)
    call()  # imports what is imported late
    points = points_of(call)
    came = 0
    for at in range(1, points + 1):
        came += interrupted(call, Moment(at, ALARM))
        # Otherwise a given Session's next request would have the deadline of this one.
        assert current.get() is None, at
    assert came
    assert exception_of(call) is None


@pytest.mark.long
def test_ctrl_c_while_a_connection_goes_back_leaves_it_to_its_next_user(
    comfy: ComfyServer, http: Http
) -> None:
    """At each moment, two other downloads begin and read their own files afterwards."""
    for name in "ab":
        (comfy.root / "output" / name).write_text(name)
    downloads = contextlib.ExitStack()
    bodies: list[Iterator[bytes]] = []

    def begin() -> None:
        for name in "ab":
            # Not download(), which would ask for the rest of an answer that is cut off.
            file = http.download_once(
                "/view", params={"filename": name}, deadline=Deadline.after(LIMIT)
            )
            bodies.append(iter(downloads.enter_context(file)))

    def interrupt() -> None:
        begin()
        signal.raise_signal(signal.SIGINT)

    call = partial(http.json, "GET", "/prompt")
    call()  # imports what is imported late
    with handled():
        for at in range(1, points_of(call, everywhere=True) + 1):
            with downloads:
                with contextlib.suppress(KeyboardInterrupt):
                    points_of(call, at, interrupt, everywhere=True)
                begin()  # one connection may have gone back twice
                assert [b"".join(body) for body in bodies] == [b"a", b"b"] * (len(bodies) // 2)
                bodies.clear()


@pytest.mark.parametrize("kept", [True, False], ids=["kept connection", "new connection"])
def test_ctrl_c_at_each_moment_of_an_exchange_leaves_no_answer_to_the_next(
    comfy: ComfyServer, http: Http, kept: bool
) -> None:
    """A connection on which one may still come is closed, in libraries too."""
    comfy.on("*", "/echo/*", lambda r: (200, {}, {"path": r.path}))
    asked = iter(range(1_000_000))

    def ask() -> None:
        path = f"/echo/{next(asked)}"
        method = "POST" if kept else "GET"
        assert http.json(method, path, json={}) == {"path": path}

    def prepare() -> None:
        if not kept:
            http.endpoint.drop_kept()

    ask()  # imports what is imported late
    prepare()
    with handled():
        for at in range(1, points_of(ask, everywhere=True) + 1):
            prepare()
            with contextlib.suppress(KeyboardInterrupt):
                points_of(ask, at, partial(signal.raise_signal, signal.SIGINT), everywhere=True)
            assert current.get() is None, at
            assert not http.busy, at
            ask()
        assert len(open_sockets(int(comfy.url.rpartition(":")[2]))) == 1


def test_ctrl_c_while_a_command_makes_its_folder_leaves_none(tmp_path: Path) -> None:
    """Ctrl-C comes at each moment until the folder is made."""
    made: list[bool] = []

    def work() -> None:
        made.clear()
        with contextlib.suppress(KeyboardInterrupt), folder_for(tmp_path / "a" / "b", "--out"):
            made.append(True)
        assert not (tmp_path / "a").exists()

    at_each_point(work, lambda: made or signal.raise_signal(signal.SIGINT))


def test_ctrl_c_while_a_journal_is_opened_leaves_it_to_the_next_sweep(tmp_path: Path) -> None:
    """At each of its moments."""

    def work(name: str) -> None:
        Journal(tmp_path / name).close()

    points = points_of(partial(work, "first"))
    with handled():
        for moment in moments(points, "journal", -1):
            interrupted(partial(work, f"{moment.at}.journal"), moment)
        gc.collect()  # as soon as an error that holds the journal is gone
        for point in range(1, points + 1):
            work(f"{point}.journal")
