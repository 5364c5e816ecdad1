"""Clients in several processes."""

from __future__ import annotations

import contextlib
import multiprocessing
import sys
import threading
from collections.abc import Iterator
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader

import pytest
import requests

import comfy_client
from comfy_client import (
    ClientClosed,
    ComfyApi,
    Event,
    State,
)
from comfy_client.testing import ComfyServer
from tests.comfyui import ComfyUI
from tests.helpers.clients import LIMIT, Heard, until
from tests.helpers.processes import in_child
from tests.helpers.scripted import END, GRAPH, START

pytestmark = [pytest.mark.usefixtures("prompts_wait"), pytest.mark.posix("fork")]


@pytest.fixture
def quiet_fork() -> Iterator[None]:
    """Newer Pythons warn of forks beside threads, which is what is tested."""
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        yield


@pytest.mark.usefixtures("quiet_fork")
def test_after_a_fork_both_work(comfy: ComfyServer) -> None:
    """The child has an id and a socket of its own; the parent's outlive the child."""
    with ComfyApi(comfy.url) as api:
        heard = Heard(api)
        api.on("progress", print)
        gate = threading.Event()
        comfy.script(gate, *END)
        job = api.submit(GRAPH)
        parent = api.client_id

        def work() -> object:
            child = api.client_id
            assert child != parent
            assert api.state is State.IDLE
            api.get_queue()
            with pytest.raises(ClientClosed):
                job.result(60)
            api.init()
            assert api.connected
            assert api.submit(GRAPH).prompt_id != job.prompt_id
            api.close()
            return child

        answer = in_child(work)
        assert len(answer) == 36, answer
        assert answer != parent
        comfy.until(lambda: comfy.hellos == [parent, answer])
        gate.set()
        job.result(60)
        comfy.until(lambda: len(comfy.history) == 2)
        assert api.client_id == parent
        assert api.connected
        assert heard.links == []
        assert len(comfy.handshakes) == 2


@pytest.mark.usefixtures("quiet_fork")
def test_a_client_that_is_first_used_after_a_fork_has_another_id_in_each_process(
    comfy: ComfyServer,
) -> None:
    """Also if its user chose one."""
    api = ComfyApi(comfy.url, client_id="chosen")

    def work() -> object:
        with api:
            assert api.connected
            return api.client_id

    with contextlib.closing(api):
        assert len(in_child(work)) == 36
        assert api.client_id == "chosen"


@pytest.mark.usefixtures("quiet_fork")
def test_callbacks_of_a_job_are_called_in_its_own_process(comfy: ComfyServer) -> None:
    """Not in the child, where the job has ended."""
    with ComfyApi(comfy.url) as api:
        begun, gate = threading.Event(), threading.Event()
        comfy.script(START, gate, *END)
        calls: list[Event] = []
        job = api.submit(
            GRAPH, on_event=calls.append, on_start=lambda _: begun.set(), on_queue=print, every=1
        )
        assert begun.wait(60)

        def work() -> object:
            seen = len(calls)
            assert isinstance(job.exception(60), ClientClosed)
            api.init()
            api.submit(GRAPH, on_event=print, on_queue=print)
            return len(calls) - seen

        assert in_child(work) == "0"
        gate.set()
        job.result(60)
        assert [event.is_end for event in calls].count(True) == 1


@pytest.mark.long
@pytest.mark.usefixtures("quiet_fork")
def test_forking_in_the_middle_of_traffic_never_hangs_the_child(comfy: ComfyServer) -> None:
    """Whatever lock another thread of the parent holds at that moment."""
    stop = threading.Event()

    def chatter() -> None:
        while not stop.is_set():
            comfy.push_status()
            api.get_queue()

    with ComfyApi(comfy.url) as api:
        api.on("status", lambda event: None)
        busy = threading.Thread(target=chatter)
        busy.start()
        try:
            for _ in range(8):
                assert in_child(lambda: api.init(LIMIT).get_queue().pending) == "()"
        finally:
            stop.set()
            busy.join()
        assert api.connected


class _SlowModule(MetaPathFinder, Loader):
    """A module whose import waits."""

    name = "comfy_client.slow"

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go_on = threading.Event()

    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        return spec_from_loader(name, self) if name == self.name else None

    def exec_module(self, module: object) -> None:
        self.begun.set()
        self.go_on.wait(60)


@pytest.mark.usefixtures("quiet_fork")
def test_a_fork_waits_for_an_import_of_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules are imported when they are needed, and their locks cannot be had in the child."""
    slow = _SlowModule()
    monkeypatch.setattr(sys, "meta_path", [slow, *sys.meta_path])
    importing = threading.Thread(target=import_module, args=(slow.name,))
    importing.start()
    try:
        assert slow.begun.wait(60)
        threading.Timer(0.2, slow.go_on.set).start()
        assert in_child(lambda: import_module(slow.name).__name__) == slow.name
    finally:
        importing.join()
        sys.modules.pop(slow.name, None)
        vars(comfy_client).pop("slow", None)


@pytest.mark.usefixtures("quiet_fork")
def test_a_closed_client_is_closed_in_the_child(comfy: ComfyServer) -> None:
    """And one that was never used can be."""
    closed, fresh = ComfyApi(comfy.url), ComfyApi(comfy.url)
    closed.close()
    assert in_child(closed.get_queue).startswith("ClientClosed")
    assert in_child(lambda: closed.on("status", print)).startswith("ClientClosed")
    assert in_child(lambda: fresh.get_queue().pending) == "()"
    fresh.close()


@pytest.mark.usefixtures("quiet_fork")
def test_a_fork_shares_no_connection_of_a_given_session(comfy: ComfyServer) -> None:
    """Both ask at the same time over what was one pool, and get their own answers."""
    with (
        requests.Session() as session,
        contextlib.closing(ComfyApi(comfy.url, session=session)) as api,
    ):
        api.get_queue()
        before = comfy.connections
        assert in_child(lambda: api.get_queue().pending) == "()"
        assert comfy.connections == before + 1
        api.get_queue()
        assert comfy.connections == before + 1


@pytest.mark.usefixtures("quiet_fork")
def test_a_fork_waits_for_no_lock_of_a_given_session(comfy: ComfyServer) -> None:
    """Which a thread of the parent held at that moment, and nobody gives back in the child."""
    held, done = threading.Event(), threading.Event()
    with (
        requests.Session() as session,
        contextlib.closing(ComfyApi(comfy.url, session=session)) as api,
    ):
        api.get_queue()

        def hold() -> None:
            with session.get_adapter(comfy.url).poolmanager.pools.lock:  # type: ignore[attr-defined]
                held.set()
                done.wait(120)

        holder = threading.Thread(target=hold)
        holder.start()
        try:
            assert held.wait(60)
            assert in_child(lambda: api.get_queue().pending) == "()"
        finally:
            done.set()
            holder.join()


def _ask(api: ComfyApi) -> tuple[str, int]:
    with api:
        return api.client_id, api.poll_status(30).queue_remaining


@pytest.mark.usefixtures("quiet_fork")
def test_a_pool_of_processes_may_be_given_a_client(comfy: ComfyServer) -> None:
    """By pickle, with an id of its own each."""
    with ComfyApi(comfy.url) as api:
        with multiprocessing.get_context("fork").Pool(2) as pool:
            answers = pool.map(_ask, [api, api])
            pool.close()
            pool.join()
        assert [left for _, left in answers] == [0, 0]
        assert len({api.client_id, *(client_id for client_id, _ in answers)}) == 3
        assert api.connected


@pytest.mark.real
@pytest.mark.usefixtures("quiet_fork")
def test_a_fork_beside_the_real_server(comfyui: ComfyUI) -> None:
    """Parent and child each with a socket of their own."""
    with ComfyApi(comfyui.url) as api:
        heard = Heard(api)
        assert in_child(lambda: api.init(LIMIT).connected) == "True"
        until(lambda: not api.poll_status(30).queue_remaining)
        assert api.connected
        assert heard.links == []
