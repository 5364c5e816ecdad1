"""What ``run`` and ``map`` of a pool take: as those of one client, over several servers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, ClassVar

import attrs
import pytest

from comfy_client import (
    ComfyPool,
    JobFailed,
    JobTimeout,
    PooledJob,
    PromptRejected,
    ServerUnreachable,
    Workflow,
    WorkflowError,
)
from comfy_client.pool.dispatcher import Dispatcher
from comfy_client.pool.server_thread import ServerThread
from comfy_client.testing import ComfyServer
from tests.helpers.clients import FAST, LIMIT, Fast, quickly, until
from tests.helpers.gates import GATES, Gated, Hold, held, saves, shows
from tests.helpers.interrupts import fail_next_start, press_ctrl_c
from tests.helpers.pools import marks, pooled, until_each_runs
from tests.helpers.scripted import stops


class Hungry:
    """Takes more memory than there is, as often as it is told."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {"seed": ("INT", {})}})
    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True
    seeds: ClassVar[list[int]] = []
    fails: ClassVar[int] = 0

    def run(self, seed: int) -> dict[str, Any]:
        Hungry.seeds.append(seed)
        if len(Hungry.seeds) <= Hungry.fails:
            raise type("OutOfMemoryError", (RuntimeError,), {})("Allocation on device")
        return {"ui": {"text": ["fed"]}}


HUNGRY = {"1": {"class_type": "Hungry", "inputs": {"seed": "random"}}}


@pytest.fixture
def servers() -> Iterator[list[ComfyServer]]:
    """Two of them; their nodes wait for gates."""
    Hungry.seeds, Hungry.fails = [], 1
    with ComfyServer() as one, ComfyServer() as two:
        for server in (one, two):
            for node in (Gated, Hold, Hungry):
                server.add_node(node)
        yield [one, two]
        GATES.end()


def pressed_once(condition: Any) -> threading.Thread:
    """A thread that presses Ctrl-C when something has come true."""

    def press() -> None:
        until(condition)
        press_ctrl_c()

    thread = threading.Thread(target=press)
    thread.start()
    return thread


# -- run --------------------------------------------------------------------------------------


def test_callbacks_are_called_in_the_thread_that_runs(servers, clients) -> None:
    seen: list[tuple[str, Any]] = []
    threads: set[int] = set()

    def note(name: str) -> Any:
        def called(*values: Any) -> None:
            threads.add(threading.get_ident())
            seen.append((name, values[0]))

        return called

    workflow = Workflow.example()
    names = ("event", "progress", "preview", "start", "output")
    with pooled(clients) as pool:
        result = pool.run(workflow, timeout=LIMIT, **{f"on_{name}": note(name) for name in names})
    by_name = {name: [value for one, value in seen if one == name] for name in names}
    assert threads == {threading.get_ident()}
    assert by_name["event"][0].name == "execution_start"
    assert [event.is_end for event in by_name["event"]].count(True) == 1
    assert by_name["progress"][-1].value == by_name["progress"][-1].max
    assert by_name["preview"]
    assert by_name["output"] == [node for node, output in result.nodes.items() if output.images]
    [job] = by_name["start"]
    assert isinstance(job, PooledJob)
    assert job.server in {server.url for server in servers}


def test_a_run_that_still_waits_when_time_runs_out_will_not_run(servers, clients) -> None:
    with pooled(clients, in_flight=1) as pool:
        running = [pool.submit(shows(waits=True)) for _ in servers]
        until_each_runs(*servers)
        with pytest.raises(JobTimeout, match=r"within 0.1 s \(waiting for a server, 0 b") as caught:
            pool.run(shows(), timeout=0.1)
        assert str(caught.value).endswith("no server has it yet")
        assert caught.value.__notes__ == ["no server had it: it was taken back, and will not run"]
        assert pool.status().waiting == 0
        GATES.set()
        assert all(job.result(LIMIT) for job in running)
    assert caught.value.prompt_id not in marks(*servers)


def test_a_job_that_waits_when_a_timeout_ends_goes_on(servers, clients) -> None:
    with pooled(clients, in_flight=1) as pool:
        running = [pool.submit(shows(waits=True)) for _ in servers]
        until_each_runs(*servers)
        job = pool.submit(shows())
        with pytest.raises(JobTimeout, match="no server has it yet"):
            job.result(0.1)
        GATES.set()
        assert job.result(LIMIT).texts == ("x",)
        assert all(one.result(LIMIT) for one in running)


def test_a_run_that_a_server_has_when_time_runs_out_keeps_running(servers, clients) -> None:
    with pooled(clients) as pool:
        with pytest.raises(
            JobTimeout, match=r"on http://\S+\). The prompt keeps running"
        ) as caught:
            pool.run(shows(waits=True), timeout=3.0)
        assert not hasattr(caught.value, "__notes__")
        GATES.set()
    assert marks(*servers) == [caught.value.prompt_id]


@pytest.mark.parametrize("on_interrupt", ["leave", "cancel"])
def test_ctrl_c_takes_back_a_run_that_waits(servers, clients, on_interrupt) -> None:
    with pooled(clients, in_flight=1) as pool:
        running = [pool.submit(shows(waits=True)) for _ in servers]
        until_each_runs(*servers)
        thread = pressed_once(lambda: pool.status().waiting == 1)
        with pytest.raises(KeyboardInterrupt):
            pool.run(shows(), on_interrupt=on_interrupt)
        thread.join(LIMIT)
        assert pool.status().waiting == 0
        GATES.set()
        assert all(job.result(LIMIT) for job in running)
    assert len(marks(*servers)) == 2


@pytest.mark.timing(cancel_timeout=LIMIT)
def test_ctrl_c_cancels_a_run_if_that_is_wished(servers, clients) -> None:
    with pooled(clients[:1]) as pool:
        thread = pressed_once(lambda: servers[0].running)
        with pytest.raises(KeyboardInterrupt):
            pool.run(shows(waits=True), on_interrupt="cancel")
        thread.join(LIMIT)
        until(lambda: pool.status().failed == 1)
    until(lambda: [ran.status for ran in servers[0].ran] == ["error"])


@pytest.mark.timing(cancel_timeout=LIMIT)
def test_ctrl_c_while_a_run_is_sent_cancels_it_before_it_is_raised(servers, clients) -> None:
    """The process may end at once."""
    with pooled(clients[:1]) as pool, servers[0].faults.delay("POST", "/prompt", 0.5, ran=True):
        thread = pressed_once(lambda: servers[0].running)
        with pytest.raises(KeyboardInterrupt):
            pool.run(shows(waits=True), on_interrupt="cancel")
        assert stops(servers[0])
        thread.join(LIMIT)
        until(lambda: [ran.status for ran in servers[0].ran] == ["error"])


def test_a_timeout_is_for_the_first_connection_too(clients) -> None:
    """Even if the workflow cannot be read without one."""
    node = {"id": 1, "type": "Gated", "widgets_values": ["r", False], "mode": 0}
    saved: dict[str, Any] = {"nodes": [{**node, "inputs": [], "outputs": []}], "links": []}
    pool = ComfyPool(["http://127.0.0.1:1"])
    with quickly(LIMIT / 2), pytest.raises(ServerUnreachable):
        pool.run(saved, timeout=0.2)
    pool.shutdown()


def test_a_moving_queue_keeps_a_waiting_run_from_stalling(servers, clients) -> None:
    """It comes to its turn, however long that takes; if nothing moves, it is given up."""
    with pooled(clients[:1], in_flight=1) as pool:
        jobs = [pool.submit(held(f"gate {n}")) for n in range(5)]

        def open_gates() -> None:
            for n, job in enumerate(jobs):
                until(lambda job=job: job.status == "running")
                threading.Event().wait(0.8)
                GATES(f"gate {n}").set()

        thread = threading.Thread(target=open_gates)
        thread.start()
        assert pool.run(shows(), stall_timeout=3.8).texts == ("x",)
        thread.join(LIMIT)
        busy = pool.submit(shows(waits=True))
        until(lambda: busy.status == "running")
        with pytest.raises(
            JobTimeout, match=r"no news of prompt .* no server has it yet"
        ) as caught:
            pool.run(shows(), stall_timeout=0.3)
        assert caught.value.stalled
        GATES.set()


@pytest.mark.timing(freed=0.1)
def test_retry_oom_of_a_pool_runs_again_once_the_server_is_free(servers, clients) -> None:
    """With the same seeds, on whichever server."""
    with pooled(clients) as pool:
        assert pool.run(HUNGRY, retry_oom=True, timeout=LIMIT).texts == ("fed",)
        assert len(set(Hungry.seeds)) == 1
        assert pool.status().failed == 1
    freed = [
        bool([request for request in server.requests if request.path == "/free"])
        for server in servers
    ]
    failed = ["error" in [ran.status for ran in server.ran] for server in servers]
    assert freed == failed
    Hungry.seeds, Hungry.fails = [], 2
    with pooled(clients) as pool, pytest.raises(JobFailed) as caught:
        pool.run(HUNGRY, retry_oom=True, timeout=LIMIT)
    assert isinstance(caught.value.__cause__, JobFailed)


@pytest.mark.timing(show=0.0)
def test_a_run_shows_how_far_it_is(clients, capfd) -> None:
    with pooled(clients) as pool:
        pool.run(shows(), timeout=LIMIT, progress=True)
        pool.run(shows("b"), timeout=LIMIT, progress=False)
        pool.run(shows("c"), timeout=LIMIT, on_event=lambda event: None)
    out, err = capfd.readouterr()
    assert out == ""
    assert err.splitlines()[-1].startswith("done, 0:0")
    assert err.count("done") == 1


def test_a_run_may_check_first_and_be_strict(servers, clients) -> None:
    partly = {**shows(), "2": {"class_type": "Gated", "inputs": {"text": ["9", 0]}}}
    with pooled(clients) as pool:
        for options in ({"check": True}, {"strict": True}):
            with pytest.raises((WorkflowError, PromptRejected), match="9"):
                pool.run(partly, timeout=LIMIT, **options)
        assert pool.run(partly, timeout=LIMIT, priority=1).texts == ("x",)


def test_a_workflow_that_the_page_saved_is_read_with_what_all_servers_know(
    servers, clients
) -> None:
    """Whether or not the first of them is there, and before the pool is connected."""
    node = {"id": 1, "type": "Rare", "widgets_values": ["r", False], "mode": 0}
    saved: dict[str, Any] = {"nodes": [{**node, "inputs": [], "outputs": []}], "links": []}
    servers[1].add_node(type("Rare", (Gated,), {}), "Rare")
    with pooled(clients) as pool:
        assert pool.run(saved, timeout=LIMIT).texts == ("r",)
        [result] = pool.map(saved, [{"Rare.text": "s"}])
        assert result.texts == ("s",)
        assert pool.node_definitions(["Rare", "Gated", "None"]).keys() == {"Rare", "Gated"}
        assert Workflow(saved, pool).check(pool).ok
    servers[0].kill()
    pool = ComfyPool([server.url for server in servers])
    assert pool.run(saved, timeout=LIMIT).texts == ("r",)
    pool.shutdown()


def test_a_picture_is_opened_on_the_server_that_has_it(servers, clients) -> None:
    with pooled(clients) as pool:
        result = pool.run(saves(), include=[clients[1]], timeout=LIMIT)
        assert pool.run(str(result.images[0].url), timeout=LIMIT).images
        with pytest.raises(ValueError, match="is not a file on a server of the pool") as caught:
            pool.open_image("http://user:secret@gpu-box:8188/view?filename=a.png")
        assert "secret" not in str(caught.value)


# -- map --------------------------------------------------------------------------------------


def test_a_pooled_job_that_waits_for_a_server_ends_at_its_timeout(servers, clients) -> None:
    with pooled(clients[:1], in_flight=1) as pool:
        busy = pool.submit(shows(waits=True))
        until_each_runs(servers[0])
        with pytest.raises(JobTimeout, match=r"within 0.3 s \(waiting for a server.*was cancelled"):
            next(pool.map([shows()], timeout=0.3))
        GATES.set()
        assert busy.result(LIMIT)
    assert marks(servers[0]) == [busy.prompt_id]


def test_ctrl_c_in_a_map_leaves_what_runs_and_says_so(servers, clients, caplog) -> None:
    with pooled(clients) as pool:
        workflows = (shows(f"t{n}", waits=True) for n in range(20))
        begun: list[str] = []  # as the pool knows it: what it takes to be pending, is cancelled
        pool.on("execution_start", lambda sender, event: begun.append(event.prompt_id))
        thread = pressed_once(lambda: pool.status().waiting and len(begun) == 2)
        with pytest.raises(KeyboardInterrupt):
            next(pool.map(workflows))
        thread.join(LIMIT)
        assert pool.status().waiting == 0
        ran = marks(*servers)
        assert len(ran) == 2
        for prompt_id in ran:
            assert f"prompt {prompt_id} keeps running" in caplog.text
        GATES.set()
    assert marks(*servers) == ran


def test_a_map_that_ends_early_asks_all_servers_at_once(servers) -> None:
    """One that does not answer holds up no other."""

    class Patient(Fast):
        timing = attrs.evolve(FAST, cancel_timeout=2 * LIMIT)

    with (
        Patient(servers[0].url) as one,
        Patient(servers[1].url) as two,
        pooled([one, two]) as pool,
    ):
        found = pool.map([shows("a"), *(shows(waits=True) for _ in range(9))])
        assert next(found).texts == ("a",)
        until(lambda: all(len(api.get_queue().pending) == 1 for api in (one, two)))
        held = [server.faults.delay("POST", "/queue", None) for server in servers]
        thread = threading.Thread(target=found.close)
        thread.start()
        for server in servers:
            until(lambda s=server: ("POST", "/queue") in [(r.method, r.path) for r in s.requests])
        for fault in held:
            fault.end()
        thread.join(LIMIT)
        GATES.set()
    assert len(marks(*servers)) == 3


def test_a_map_takes_back_what_waits_where_there_are_no_more_threads(
    servers, clients, monkeypatch
) -> None:
    """As in a thread that outlives the main one, while Python ends."""
    with pooled(clients, in_flight=2) as pool:
        found = pool.map([shows("a"), *(shows(waits=True) for _ in range(9))])
        assert next(found).texts == ("a",)
        until_each_runs(*servers)
        until(lambda: all(len(server.pending) == 1 for server in servers))
        fail_next_start(monkeypatch, RuntimeError("can't start new thread"), "ThreadPoolExecutor")
        found.close()
        assert not any(server.pending for server in servers)
        GATES.set()


def test_a_server_is_not_added_where_there_are_no_more_threads(
    servers, clients, monkeypatch
) -> None:
    """Its jobs would wait for a thread that it does not have.  It can be added later."""
    with pooled(clients[:1]) as pool:
        fail_next_start(monkeypatch, RuntimeError("can't start new thread"), "comfy-pool")
        with pytest.raises(RuntimeError, match="new thread"):
            pool.add(clients[1])
        assert pool.servers == (clients[0],)
        until(lambda: len(pool.status().servers) == 1)
        pool.add(servers[1].url)
        until(lambda: all(one.state == "ready" for one in pool.status().servers))
        assert len(pool.status().servers) == 2


def test_a_defect_of_ours_in_one_step_of_a_pool_holds_up_no_job(
    servers, clients, monkeypatch, caplog
) -> None:
    """It is logged, and the next step works."""

    def break_once(kind: type, name: str) -> None:
        step, defects = getattr(kind, name), [ZeroDivisionError()]

        def broken(own: Any) -> Any:
            if defects:
                raise defects.pop()
            return step(own)

        monkeypatch.setattr(kind, name, broken)

    break_once(Dispatcher, "tick")
    break_once(ServerThread, "work")
    with pooled(clients) as pool:
        assert pool.submit(shows("a")).result(LIMIT).texts == ("a",)
    told = [one.exc_info[0] for one in caplog.records if one.exc_info]
    assert told == [ZeroDivisionError] * 2


def test_a_server_that_takes_nothing_holds_up_the_end_of_a_map_once(servers) -> None:
    """Five seconds are for all of it: for what is on its way there, and for taking it back."""

    class Patient(Fast):
        timing = attrs.evolve(FAST, cancel_timeout=10 * LIMIT)

    with Patient(servers[0].url) as one, Patient(servers[1].url) as two, pooled([one, two]) as pool:
        held = [servers[1].faults.delay("POST", path, None) for path in ("/prompt", "/queue")]
        found = pool.map([shows("a")] * 9, ordered=False)
        assert next(found).texts == ("a",)
        until(lambda: any(request.path == "/prompt" for request in servers[1].requests))
        thread = threading.Thread(target=found.close)
        thread.start()
        thread.join(LIMIT)
        assert not thread.is_alive()
        for fault in held:
            fault.end()


def test_wrong_arguments_of_a_pooled_map_are_refused_at_once(clients) -> None:
    with pooled(clients) as pool:
        for wrong, words in (
            ({"timeout": -1}, "a timeout must be 0 or more seconds"),
            ({"stall_timeout": float("nan")}, "a timeout must be 0 or more seconds"),
            ({"priority": float("nan")}, "priority must be a number"),
            ({"include": ["gpu-box"]}, "include: http://gpu-box:8188 is not in the pool"),
            ({"in_flight": 0}, "1 or more"),
            ({"on_error": "ignore"}, "on_error must be 'raise' or 'keep'"),
        ):
            with pytest.raises(ValueError, match=words):
                pool.map([shows()], **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["submit", "run", "map", "sweep"])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("prompt_id", r"it is one of ComfyApi.queue_prompt\(\)"),
        ("fron", "nearest: 'front'"),
    ],
)
def test_options_that_there_are_not_are_refused_before_anything_is_sent(
    clients, method, name, words
) -> None:
    """A pool makes the ids of its prompts itself."""
    more: dict[str, Any] = {"map": {"params": [{}]}, "sweep": {"grid": {"1.text": ["x"]}}}
    with (
        ComfyPool(clients) as pool,
        pytest.raises(
            TypeError, match=rf"{method}\(\) got an unexpected keyword argument '{name}'; {words}"
        ),
    ):
        getattr(pool, method)(shows(), **more.get(method, {}), **{name: "x"})
    assert pool.status().failed == 0
