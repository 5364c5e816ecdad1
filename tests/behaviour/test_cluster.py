"""Workflows on a cluster of Dask: each worker has its server, and nothing runs twice."""

from __future__ import annotations

import contextlib
import os
import pickle
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import dask
import pytest
from distributed import Client, LocalCluster, Worker

from comfy_client import (
    ClientClosed,
    ComfyApi,
    EnvCredentials,
    JobFailed,
    JobLost,
    JobTimeout,
    NoComfyPlugin,
    OutputsTooLarge,
    PromptRejected,
    ServerUnreachable,
    Throttled,
    UnexpectedResponse,
)
from comfy_client.distributed import ComfyPlugin, TaskResult, run_workflow
from comfy_client.distributed.notes import Attempt, WorkerServer
from comfy_client.distributed.plugin import Clients
from comfy_client.distributed.task import find_prompt
from comfy_client.testing import ComfyServer, Request
from comfy_client.transport.deadline import Deadline
from tests.comfyui import ComfyUI
from tests.conftest import load_workflow
from tests.helpers.clients import LIMIT, quickly, until
from tests.helpers.gates import GATES, Gated, Gates, Hold, held, saves, shows
from tests.helpers.graphs import txt2img
from tests.helpers.long import few
from tests.helpers.scripted import QUEUE_ROUTES

#: On machines that are busy, a process of Dask takes long to start.
START = 60.0
#: How often a task may lose its worker; and when a worker that starts again, and has not come back
#: by then, is given up for good.
ALWAYS_AGAIN = {
    "distributed.scheduler.allowed-failures": 50,
    "distributed.deploy.lost-worker-timeout": "1 hour",
}

pytestmark = [pytest.mark.timing(look_up=0.5), pytest.mark.timeout(600)]


@pytest.fixture
def servers(gate: Gates) -> Iterator[list[ComfyServer]]:
    made = [ComfyServer() for _ in range(2)]
    for server in made:
        server.add_node(Hold)
        server.add_node(Gated)
        server.start()
    yield made
    gate.end()
    for server in made:
        server.stop()


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    """Two workers in this process."""
    with LocalCluster(
        n_workers=2, threads_per_worker=2, processes=False, dashboard_address=":0"
    ) as running:
        yield running


@pytest.fixture
def client(cluster: LocalCluster, servers: list[ComfyServer]) -> Iterator[Client]:
    """A client of these, each with a server."""
    with Client(cluster) as connected:
        connected.register_plugin(ComfyPlugin([server.url for server in servers]))
        yield connected


def runs(servers: list[ComfyServer]) -> list[str | None]:
    """The mark of each prompt that has begun to run, as the servers say."""
    return [ran.mark for server in servers for ran in server.ran]


def check_each_ran_once(servers: list[ComfyServer], results: list[TaskResult]) -> None:
    """And nothing else did."""
    assert sorted(map(str, runs(servers))) == sorted(result.prompt_id for result in results)


def where_it_runs(servers: list[ComfyServer]) -> int:
    """The number of the server that runs something, as soon as one does."""

    def busy() -> list[int]:
        return [n for n, one in enumerate(servers) if one.ran and one.ran[-1].status is None]

    until(busy, LIMIT)
    return busy()[0]


def status_of(client: Client, worker: str) -> str:
    """Whether the scheduler gives tasks to a worker: ``running`` or ``paused``."""
    known = client.scheduler_info()["workers"]  # none, when Dask itself asks in between
    return str(known[worker]["status"]) if worker in known else "unknown"


def worker_of(client: Client, server: ComfyServer | ComfyUI) -> str:
    """The address of the worker that has a server."""

    def url(dask_worker: Worker) -> str | None:
        plugin = dask_worker.plugins["comfy-client"]
        assert isinstance(plugin, ComfyPlugin)
        return plugin.url

    found: dict[str, str] = client.run(url)
    return next(address for address, its in found.items() if its == server.url)


# -- results ---------------------------------------------------------------------------------


def test_each_worker_has_a_server_of_its_own_and_one_connection(
    client: Client, servers: list[ComfyServer]
) -> None:
    """And its results are references, which a client elsewhere opens."""
    futures = client.map(run_workflow, [saves(color) for color in range(12)])
    results: list[TaskResult] = client.gather(futures)
    check_each_ran_once(servers, results)
    assert {result.host for result in results} == {server.url for server in servers}
    assert [len(server.handshakes) for server in servers] == [1, 1]
    for result in results:
        assert len(pickle.dumps(result)) < 1000
        assert not result.attached
        assert result.seconds is not None
        [file] = result.files
        assert file.data is None
        assert file.url is not None
        assert file.url.startswith(result.host)
        with ComfyApi(result.host) as api, file.open(api) as content:
            assert content.read().startswith(b"\x89PNG")


def test_files_come_with_the_result_if_they_are_wanted(
    client: Client, servers: list[ComfyServer], tmp_path: Any
) -> None:
    """Up to a size; what is too large stays on the server, where the error says."""
    future = client.submit(run_workflow, saves(), outputs="bytes")
    result: TaskResult = future.result(LIMIT)
    [file] = result.files
    assert file.save(tmp_path).read_bytes() == file.data == file.open().read()
    with ComfyApi(result.host) as api:
        assert api.get_image(file) == file.data
    too_small = client.submit(run_workflow, saves(), outputs="bytes", max_bytes=20)
    error = too_small.exception(LIMIT)
    assert isinstance(error, OutputsTooLarge)
    assert 'outputs="references"' in str(error)
    with ComfyApi(str(error).rpartition(" on ")[2]) as api:
        [image] = api.job(error.prompt_id).result(LIMIT).images
        assert image.bytes() == file.data


def test_images_that_are_on_no_server_count_whatever_outputs_says(client: Client) -> None:
    graph = load_workflow("txt2img_websocket", ckpt_name="simulated.safetensors")
    error = client.submit(run_workflow, graph, max_bytes=20).exception(LIMIT)
    assert isinstance(error, OutputsTooLarge)
    assert str(error).endswith("raise it, or use SaveImage instead of SaveImageWebsocket")
    wrong = client.submit(run_workflow, saves(), max_bytes="64 MiB")
    with pytest.raises(ValueError, match="max_bytes must be a number of bytes"):
        wrong.result(LIMIT)


def test_time_runs_out_for_files_and_for_a_submission_without_an_answer(
    client: Client, servers: list[ComfyServer]
) -> None:
    """A retry asks for the files again."""
    slow = [server.faults.drip("GET", "/view", pause=1.0) for server in servers]
    future = client.submit(run_workflow, saves(), outputs="bytes", timeout=0.5)
    while isinstance(error := future.exception(LIMIT), JobTimeout) and "files" not in str(error):
        future.retry()  # on a busy machine
    assert isinstance(error, JobTimeout)
    for fault in slow:
        fault.end()
    future.retry()
    while future.exception(LIMIT) is not None:
        future.retry()
    result: TaskResult = future.result(LIMIT)
    assert result.attached
    check_each_ran_once(servers, [result])
    for server in servers:
        server.faults.delay("POST", "/prompt", None)
    late = client.submit(run_workflow, shows("late"), timeout=0.5)
    assert isinstance(late.exception(LIMIT), JobTimeout)


def test_the_clients_of_workers_have_the_max_json_of_the_plugin(
    cluster: LocalCluster, comfy: ComfyServer
) -> None:
    """It limits the definition of each class of a file in UI format."""
    node = {"id": 1, "type": "KSampler", "inputs": [], "outputs": []}
    saved = {"nodes": [node], "links": [], "version": 0.4}
    with Client(cluster) as client:
        client.register_plugin(ComfyPlugin(comfy.url, max_json=1000))
        error = client.submit(run_workflow, saved).exception(LIMIT)
        assert isinstance(error, UnexpectedResponse)
        assert "max_json=2000 allows twice as much" in str(error)


def test_errors_come_with_their_attributes(client: Client, servers: list[ComfyServer]) -> None:
    """As without Dask."""
    with pytest.raises(PromptRejected) as caught:
        client.submit(run_workflow, {"1": {"class_type": "Nobody", "inputs": {}}}).result(LIMIT)
    assert caught.value.status == 400
    assert caught.value.problems


def test_no_secret_is_in_the_pickle_of_a_task_a_result_or_an_error(
    cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The workers read it from their environment."""
    monkeypatch.setenv("GPU_TOKEN", "s3cret")
    with ComfyServer(credentials="s3cret") as server, Client(cluster) as client:
        plugin = ComfyPlugin(server.url, credentials=EnvCredentials("GPU_TOKEN"))
        client.register_plugin(plugin)
        result = client.submit(run_workflow, saves()).result(LIMIT)
        failed = client.submit(run_workflow, {"1": {"class_type": "Nobody", "inputs": {}}})
        error = failed.exception(LIMIT)
        assert isinstance(error, PromptRejected)
        notes = client.get_metadata(["comfy-client"])
        for value in (plugin, (run_workflow, saves()), result, error, notes):
            assert b"s3cret" not in pickle.dumps(value)


def test_without_hosts_the_environment_of_a_worker_names_its_server(
    cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its credentials."""
    with ComfyServer(credentials="s3cret") as server, Client(cluster) as client:
        monkeypatch.setenv("COMFYUI_HOST", server.url)
        monkeypatch.setenv("COMFYUI_TOKEN", "s3cret")
        client.register_plugin(ComfyPlugin())
        assert client.submit(run_workflow, saves()).result(LIMIT).host == server.url


def test_the_host_in_the_environment_of_a_worker_may_have_a_password(
    cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for a client; nobody else gets it."""
    with ComfyServer(credentials=("ann", "s3cret")) as server, Client(cluster) as client:
        monkeypatch.setenv("COMFYUI_HOST", server.url.replace("://", "://ann:s3cret@"))
        client.register_plugin(ComfyPlugin())
        result = client.submit(run_workflow, saves()).result(LIMIT)
        assert result.host == server.url
        for value in (result, client.get_metadata(["comfy-client"])):
            assert b"s3cret" not in pickle.dumps(value)


def test_credentials_from_the_environment_go_to_their_server_only(
    comfy: ComfyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When that is asked for the prompt of a worker that was lost."""
    monkeypatch.setenv("COMFYUI_TOKEN", "s3cret")
    own = "http://gpu.example:8188"
    token = EnvCredentials("COMFYUI_TOKEN")
    for credentials, is_sent in (({own: token}, False), ({"": token}, True)):
        clients = Clients(own, credentials=credentials, user=None, verify=True)
        api = clients.looking(WorkerServer(comfy.url, ""), "an-id")
        assert api.ping()
        assert ("Authorization" in comfy.requests[-1].headers) is is_sent
        clients.close()
        with pytest.raises(ClientClosed):
            api.get_queue()


def test_a_loopback_address_of_another_machine_is_not_asked_on_this_one(comfy: ComfyServer) -> None:
    """Another server may be there."""
    clients = Clients(comfy.url, credentials={}, user=None, verify=True)
    elsewhere = WorkerServer(comfy.url, "another-machine")
    with pytest.raises(ServerUnreachable, match="on another-machine"):
        clients.looking(elsewhere, "an-id")
    assert clients.looking(clients.place, "an-id").ping()
    clients.close()


@pytest.mark.timing(look_up=0.5, question=3.0)
def test_servers_of_workers_that_are_gone_take_no_longer_than_there_is_time(
    comfy: ComfyServer,
) -> None:
    """Those that do not answer, that is; there may be many."""
    with ComfyServer() as silent:
        silent.faults.delay("GET", "*", None)
        clients = Clients(comfy.url, credentials={}, user=None, verify=True)
        gone = [WorkerServer(f"{silent.url}/{n}", "") for n in range(800)]
        places = {place.id: place for place in [clients.place, *gone]}
        attempt = Attempt(0, "own", "7b0c6e0e-6d3e-5b0a-9c7e-1f3a8f6f4d52", clients.place.id)
        with quickly(240):  # to ask all would take longer
            assert not find_prompt(
                clients,
                attempt,
                places,
                patience=0.5,
                deadline=Deadline.after(None),
                check=clients.check_open,
            )
        clients.close()


def test_a_worker_without_the_plugin_or_without_a_server_says_so(
    cluster: LocalCluster, caplog: pytest.LogCaptureFixture
) -> None:
    """And a thread that is no worker's."""
    with pytest.raises(RuntimeError, match=r"client\.submit"):
        run_workflow(saves())
    with Client(cluster) as client:
        with pytest.raises(NoComfyPlugin, match="register_plugin"):
            client.submit(run_workflow, saves()).result(LIMIT)
        with pytest.raises(ValueError, match="has no server for the worker"):
            client.register_plugin(ComfyPlugin({"nobody": "http://gpu:8188"}))
        with pytest.raises(NoComfyPlugin, match="has no ComfyUI: hosts has no server for"):
            client.submit(run_workflow, saves(), pure=False).result(LIMIT)


# -- which prompt is whose -------------------------------------------------------------------


def test_tasks_of_the_same_key_do_not_share_a_prompt_of_another_workflow(
    client: Client, servers: list[ComfyServer]
) -> None:
    """A user chooses keys, and chooses one twice."""
    first = client.submit(run_workflow, shows("a"), key="mine").result(LIMIT)
    until(lambda: not client.futures, LIMIT)
    second = client.submit(run_workflow, shows("b"), key="mine").result(LIMIT)
    assert (first.texts, second.texts) == (("a",), ("b",))
    check_each_ran_once(servers, [first, second])


def test_a_lost_dask_result_is_not_rendered_again(
    client: Client, servers: list[ComfyServer]
) -> None:
    """As when Dask has lost the result; ``pure=False`` makes another task of it."""
    first = client.submit(run_workflow, saves()).result(LIMIT)
    until(lambda: not client.futures, LIMIT)
    again = client.submit(run_workflow, saves()).result(LIMIT)
    assert again.attached
    assert again.prompt_id == first.prompt_id
    assert again.files == first.files
    check_each_ran_once(servers, [first])
    other = client.submit(run_workflow, saves(), pure=False).result(LIMIT)
    check_each_ran_once(servers, [first, other])


def test_a_server_that_chooses_its_own_ids_is_asked_for_our_mark(
    client: Client, servers: list[ComfyServer]
) -> None:
    """As all did before 0.3.45."""
    for server in servers:
        server.faults.other_prompt_ids()
    first = client.submit(run_workflow, saves()).result(LIMIT)
    until(lambda: not client.futures, LIMIT)
    again = client.submit(run_workflow, saves()).result(LIMIT)
    assert again.attached
    assert again.prompt_id == first.prompt_id
    assert len(runs(servers)) == 1


# -- errors and retries ----------------------------------------------------------------------


def test_a_task_that_failed_renders_again_when_dask_retries_it(
    client: Client, servers: list[ComfyServer]
) -> None:
    """The error of the last one is what the future has."""

    class Fails:
        """Raises."""

        RETURN_TYPES = ()
        FUNCTION = "run"
        OUTPUT_NODE = True
        INPUT_TYPES = classmethod(lambda cls: {"required": {}})

        def run(self) -> None:
            raise ValueError("always")

    for server in servers:
        server.add_node(Fails)
    future = client.submit(run_workflow, {"1": {"class_type": "Fails", "inputs": {}}}, retries=2)
    error = future.exception(LIMIT)
    assert isinstance(error, JobFailed)
    assert error.exception_message is not None
    assert "always" in error.exception_message
    assert len(set(runs(servers))) == len(runs(servers)) == 3


def test_after_a_timeout_a_retry_waits_for_the_same_prompt(
    client: Client, servers: list[ComfyServer], gate: Gates
) -> None:
    future = client.submit(run_workflow, held("late"), timeout=0.5)
    assert isinstance(future.exception(LIMIT), JobTimeout)
    where_it_runs(servers)
    gate("late").set()
    future.retry()
    while future.exception(LIMIT) is not None:  # a busy machine may take longer to find it
        future.retry()
    result: TaskResult = future.result(LIMIT)
    assert result.attached
    check_each_ran_once(servers, [result])


def test_servers_that_are_all_down_are_an_error_that_a_retry_overcomes(
    client: Client, servers: list[ComfyServer]
) -> None:
    """Nothing was sent to any, so nobody asks them; none of the workers is paused for good."""
    for server in servers:
        server.kill()
    futures = client.map(run_workflow, [saves(color) for color in range(6)], patience=1.0)
    for future in futures:
        assert isinstance(future.exception(LIMIT), ServerUnreachable)
    servers[0].start()
    down = worker_of(client, servers[1])
    until(lambda: status_of(client, down) == "paused", LIMIT)
    for future in futures:
        future.retry()
    results: list[TaskResult] = client.gather(futures)
    assert {result.host for result in results} == {servers[0].url}
    check_each_ran_once(servers, results)


def test_a_task_for_the_worker_of_a_server_that_is_down_waits_for_it(
    client: Client, servers: list[ComfyServer]
) -> None:
    """As Dask has it of a worker that is not there; it is sent once."""
    servers[0].kill()
    down = worker_of(client, servers[0])
    until(lambda: status_of(client, down) == "paused", LIMIT)
    future = client.submit(run_workflow, saves(), workers=[down], patience=0.5)
    assert client.submit(run_workflow, saves(7), patience=5.0).result(LIMIT)
    assert not future.done()
    servers[0].start()
    result: TaskResult = future.result(LIMIT)
    assert (result.host, result.attached) == (servers[0].url, False)
    assert [ran.prompt_id for ran in servers[0].ran] == [result.prompt_id]
    until(lambda: status_of(client, down) == "running", LIMIT)


def test_a_server_that_has_refused_a_prompt_is_not_asked_for_it(
    client: Client, servers: list[ComfyServer]
) -> None:
    """Whatever becomes of it."""
    graph = {"1": {"class_type": "Nobody", "inputs": {}}}
    for server in servers:
        worker = worker_of(client, server)
        future = client.submit(run_workflow, graph, key="mine", workers=[worker])
        assert isinstance(future.exception(LIMIT), PromptRejected)
        server.kill()
        del future
        until(lambda: not client.futures, LIMIT)


def test_a_server_that_goes_away_with_a_prompt_is_lost_after_a_while(
    client: Client, servers: list[ComfyServer]
) -> None:
    """Its worker does not wait for ever."""
    future = client.submit(run_workflow, held("a"), patience=3.0)
    at = where_it_runs(servers)
    servers[at].kill()
    error = future.exception(LIMIT)
    assert isinstance(error, JobLost)
    assert f"{servers[at].url} has not answered" in str(error)
    assert not error.retryable  # it may have run it


class Sick:
    """Fails, as on a graphics card with an error."""

    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"gate": ("STRING", {})}}

    def run(self, gate: str) -> dict[str, Any]:
        raise RuntimeError("CUDA error")


class Well(Sick):
    """The same node on a server that is well; it waits for its gate."""

    def run(self, gate: str) -> dict[str, Any]:
        if gate:
            GATES.wait(gate)
        return {"ui": {"text": ["well"]}}


def renders(gate: str = "") -> dict[str, Any]:
    return {"1": {"class_type": "Node", "inputs": {"gate": gate}}}


@pytest.fixture
def sick(servers: list[ComfyServer]) -> ComfyServer:
    """One of the servers fails what the other one runs."""
    servers[0].add_node(Sick, "Node")
    servers[1].add_node(Well, "Node")
    return servers[0]


def test_a_prompt_that_failed_runs_once_on_another_server_if_it_may(
    client: Client, servers: list[ComfyServer], sick: ComfyServer
) -> None:
    """No retry of Dask is spent."""
    workers = [worker_of(client, sick)]
    stays = client.submit(run_workflow, renders(), workers=workers, pure=False)
    assert isinstance(stays.exception(LIMIT), JobFailed)
    assert not servers[1].ran
    graphs = [renders() for _ in range(4)]
    moves = client.map(run_workflow, graphs, workers=workers, on_failed="move", pure=False)
    results: list[TaskResult] = client.gather(moves)
    assert {(result.host, result.texts) for result in results} == {(servers[1].url, ("well",))}
    assert sorted(runs(servers[1:]), key=str) == sorted(result.prompt_id for result in results)
    assert len(set(runs(servers))) == len(runs(servers)) == 1 + 2 * 4


def test_a_prompt_that_fails_on_two_servers_has_failed(
    client: Client, servers: list[ComfyServer]
) -> None:
    """It is its own fault, as far as anybody knows."""
    for server in servers:
        server.add_node(Sick, "Node")
    future = client.submit(run_workflow, renders(), on_failed="move")
    assert isinstance(future.exception(LIMIT), JobFailed)
    assert [len(server.ran) for server in servers] == [1, 1]


def test_a_prompt_that_cannot_move_has_failed(cluster: LocalCluster) -> None:
    """Where no other worker has another server."""
    with ComfyServer() as server, Client(cluster) as client:
        server.add_node(Sick, "Node")
        client.register_plugin(ComfyPlugin(server.url))
        future = client.submit(run_workflow, renders(), on_failed="move")
        assert isinstance(future.exception(LIMIT), JobFailed)
        assert len(server.ran) == 1
        wrong = client.submit(run_workflow, renders(), on_failed="retry")
        with pytest.raises(ValueError, match="on_failed must be 'raise' or 'move'"):
            wrong.result(LIMIT)


def test_a_prompt_that_has_moved_is_found_when_its_worker_is_lost(
    client: Client, servers: list[ComfyServer], sick: ComfyServer, gate: Gates
) -> None:
    """It runs on a server of which the next worker knows."""
    address = worker_of(client, sick)
    future = client.submit(
        run_workflow, renders("a"), workers=[address], allow_other_workers=True, on_failed="move"
    )
    until(lambda: servers[1].ran, LIMIT)
    client.retire_workers([address])
    gate("a").set()
    result: TaskResult = future.result(LIMIT)
    assert (result.host, result.attached) == (servers[1].url, True)
    assert [len(server.ran) for server in servers] == [1, 1]


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(None, id="it lacks a node class"),
        pytest.param((500, {}, {"error": "disk full"}), id="500"),
        pytest.param((429, {}, {"error": "busy"}), id="429"),
        pytest.param((200, {"Content-Type": "text/html"}, "<html>"), id="a page"),
    ],
)
def test_a_prompt_that_a_server_refuses_runs_on_another_one(
    client: Client, servers: list[ComfyServer], answer: Any
) -> None:
    """It has not run, so it moves without being asked to."""
    servers[1].add_node(Well, "Node")
    if answer is not None:
        servers[0].add_node(Well, "Node")
        servers[0].on("POST", "/prompt", answer)
    result: TaskResult = client.submit(
        run_workflow, renders(), workers=[worker_of(client, servers[0])]
    ).result(LIMIT)
    assert result.host == servers[1].url
    check_each_ran_once(servers, [result])


# -- workers that go -------------------------------------------------------------------------


def test_a_worker_that_is_retired_leaves_its_prompts_to_the_others(
    client: Client, servers: list[ComfyServer], gate: Gates
) -> None:
    future = client.submit(run_workflow, held("a"))
    at = where_it_runs(servers)
    client.retire_workers([worker_of(client, servers[at])])
    gate("a").set()
    result: TaskResult = future.result(LIMIT)
    assert (result.host, result.attached) == (servers[at].url, True)
    check_each_ran_once(servers, [result])


def test_tasks_go_on_when_another_plugin_takes_the_place_of_the_first(
    client: Client, servers: list[ComfyServer], gate: Gates
) -> None:
    """With their prompts."""
    future = client.submit(run_workflow, held("a"))
    where_it_runs(servers)
    client.register_plugin(ComfyPlugin([server.url for server in reversed(servers)]))
    gate("a").set()
    result: TaskResult = future.result(LIMIT)
    assert result.attached
    check_each_ran_once(servers, [result])


@pytest.mark.parametrize("on_lost", ["raise", "retry"])
def test_a_server_that_may_have_it_and_does_not_answer_is_lost(
    client: Client, servers: list[ComfyServer], gate: Gates, on_lost: Any
) -> None:
    """An error, or another run on the server of another worker."""
    future = client.submit(run_workflow, held("a"), on_lost=on_lost, patience=3.0)
    at = where_it_runs(servers)
    servers[at].kill()
    client.retire_workers([worker_of(client, servers[at])])
    if on_lost == "raise":
        error = future.exception(LIMIT)
        assert isinstance(error, JobLost)
        assert servers[at].url in str(error)
        assert len(runs(servers)) == 1
        return
    until(lambda: servers[1 - at].ran, LIMIT)
    gate("a").set()
    result = future.result(LIMIT)
    assert (result.host, result.attached) == (servers[1 - at].url, False)
    assert len(set(runs(servers))) == len(runs(servers)) == 2


def test_a_server_that_has_forgotten_it_runs_it_again(
    client: Client, servers: list[ComfyServer], gate: Gates
) -> None:
    """It was restarted, and says so."""
    future = client.submit(run_workflow, held("a"), patience=LIMIT)
    at = where_it_runs(servers)
    servers[at].kill()
    client.retire_workers([worker_of(client, servers[at])])
    gate("a").set()
    servers[at].start()
    assert not future.result(LIMIT).attached


# -- what nobody wants any more --------------------------------------------------------------


def remaining(servers: list[ComfyServer]) -> list[int]:
    """How many prompts each server has in its queue, with the one that runs."""
    found = []
    for server in servers:
        with ComfyApi(server.url, transport="poll") as api:
            found.append(api.poll_status(LIMIT).queue_remaining)
    return found


@pytest.mark.parametrize("how", few(["cancel", "release", "the client goes"], 1))
def test_prompts_that_nobody_wants_are_stopped_and_those_behind_them_never_begin(
    client: Client, cluster: LocalCluster, servers: list[ComfyServer], gate: Gates, how: str
) -> None:
    """Then the servers are free for others."""
    with Client(cluster) as other:
        futures = other.map(run_workflow, [held("a") for _ in range(6)], pure=False)
        until(lambda: remaining(servers) == [2, 2], LIMIT)
        until(lambda: len(runs(servers)) == 2, LIMIT)
        if how == "cancel":
            other.cancel(futures)
        elif how == "release":
            del futures
    until(lambda: remaining(servers) == [0, 0], LIMIT)
    assert len(runs(servers)) == 2
    until(lambda: [ran.status for one in servers for ran in one.ran] == ["error", "error"], LIMIT)
    next_ones = client.map(run_workflow, [saves(color) for color in range(4)])
    assert not any(result.attached for result in client.gather(next_ones))


def test_prompts_that_nobody_wants_run_on_if_their_task_says_so(
    client: Client, servers: list[ComfyServer], gate: Gates
) -> None:
    """A client that comes back has their results."""
    future = client.submit(run_workflow, held("a"), on_release="leave")
    stopped = client.submit(run_workflow, held("b"))
    until(lambda: len(runs(servers)) == 2, LIMIT)
    client.cancel([future, stopped])
    until(lambda: sum(remaining(servers)) == 1, LIMIT)
    again = client.submit(run_workflow, held("a"), on_release="leave")
    gate("a").set()
    result: TaskResult = again.result(LIMIT)
    assert runs(servers).count(result.prompt_id) == 1
    wrong = client.submit(run_workflow, saves(), on_release="keep")
    with pytest.raises(ValueError, match="on_release must be 'cancel' or 'leave'"):
        wrong.result(LIMIT)


def test_a_task_that_is_cancelled_and_wanted_by_another_worker_keeps_its_prompt(
    client: Client, cluster: LocalCluster, servers: list[ComfyServer], gate: Gates
) -> None:
    """That worker waits for it, and the first one does not."""
    first, second = (worker_of(client, server) for server in servers)
    with Client(cluster) as other:
        future = other.submit(run_workflow, held("a"), key="mine", workers=[first])
        until(lambda: servers[0].ran, LIMIT)
        assert not future.done()
    again = client.submit(run_workflow, held("a"), key="mine", workers=[second])

    def tasks(dask_worker: Worker) -> list[str]:
        return [task.state for key, task in dask_worker.state.tasks.items() if key == "mine"]

    until(lambda: client.run(tasks) == {first: [], second: ["executing"]}, LIMIT)
    gate("a").set()
    result: TaskResult = again.result(LIMIT)
    assert (result.host, result.attached) == (servers[0].url, True)
    check_each_ran_once(servers, [result])


@pytest.mark.parametrize("note", ["{number} {client} {place} unwanted", "{next} -"])
def test_a_task_whose_prompt_another_worker_has_just_cancelled_runs_again(
    client: Client, servers: list[ComfyServer], gate: Gates, note: str
) -> None:
    """As nobody wanted it then; no retry is spent."""
    future = client.submit(run_workflow, held("a"))
    at = where_it_runs(servers)
    [(task, said)] = client.get_metadata(["comfy-client", "tasks"]).items()
    number, sender, place = said.split()
    words = note.format(number=number, client=sender, place=place, next=int(number) + 1)
    client.set_metadata(["comfy-client", "tasks", task], words)
    with ComfyApi(servers[at].url) as api:
        api.interrupt()
    until(lambda: len(runs(servers)) == 2, LIMIT)
    gate("a").set()
    result: TaskResult = future.result(LIMIT)
    assert runs(servers).count(result.prompt_id) == 1


def test_a_cancellation_that_a_server_refuses_is_sent_again(
    client: Client, servers: list[ComfyServer], gate: Gates
) -> None:
    future = client.submit(run_workflow, held("a"))
    at = where_it_runs(servers)
    sent = len(servers[at].requests)
    refuses = servers[at].faults.bad_gateway()
    client.cancel(future)
    until(lambda: sum(seen.method == "POST" for seen in servers[at].requests[sent:]) > 1, LIMIT)
    refuses.end()
    until(lambda: remaining(servers) == [0, 0], LIMIT)


def test_a_task_that_is_cancelled_before_it_sends_its_prompt_sends_none(
    client: Client, servers: list[ComfyServer]
) -> None:
    """Its thread is free for the next one."""

    def tasks(dask_worker: Worker) -> int:
        return len(dask_worker.state.tasks)

    for server in servers:
        server.faults.bad_gateway()
    futures = client.map(run_workflow, [saves(color) for color in range(4)], patience=600.0)
    until(lambda: [*client.run(tasks).values()] == [2, 2], LIMIT)
    client.cancel(futures)
    until(lambda: [*client.run(tasks).values()] == [0, 0], LIMIT)
    for server in servers:
        server.faults.clear()
    following = client.map(run_workflow, [saves(color) for color in range(4, 8)])
    check_each_ran_once(servers, client.gather(following))


def test_a_prompt_that_is_found_when_nobody_wants_it_any_more_is_stopped(
    client: Client, servers: list[ComfyServer]
) -> None:
    """Its task was still searching for it as it was cancelled."""
    future = client.submit(run_workflow, shows(waits=True), key="mine", on_release="leave")
    number = where_it_runs(servers)
    client.cancel([future])
    until(lambda: not client.futures, LIMIT)

    def searched() -> int:
        paths = [one.path for one in servers[number].requests]
        return sum(path in QUEUE_ROUTES or path.startswith("/history") for path in paths)

    with servers[number].faults.bad_gateway():
        before = searched()
        future = client.submit(run_workflow, shows(waits=True), key="mine", patience=600.0)
        until(lambda: searched() > before, LIMIT)
        client.cancel([future])
        until(lambda: not client.futures, LIMIT)
        before = searched()
        until(lambda: searched() > before + 1, LIMIT)
    until(lambda: servers[number].ran[-1].status == "error", LIMIT)
    assert len(runs(servers)) == 1


@pytest.mark.parametrize("busy", [1, 2])
def test_a_task_waits_while_servers_take_no_prompts_at_the_moment(
    client: Client, servers: list[ComfyServer], busy: int
) -> None:
    """Another worker's server takes it at once, if it can."""
    answer = (429, {"Retry-After": "1"}, {"error": "slow down"})
    faults = [one.faults.answer("POST", "/prompt", answer, times=2) for one in servers[:busy]]
    future = client.submit(run_workflow, saves(1), workers=[worker_of(client, servers[0])])
    check_each_ran_once(servers, [future.result(LIMIT)])
    assert [fault.hits for fault in faults] == [1 if busy == 1 else 2] * busy


def test_a_task_without_time_to_wait_for_a_busy_server_says_so(
    client: Client, servers: list[ComfyServer]
) -> None:
    for server in servers:
        server.faults.answer("POST", "/prompt", (429, {"Retry-After": "60"}, "slow down"))
    error = client.submit(run_workflow, saves(1), timeout=5.0).exception(LIMIT)
    assert isinstance(error, Throttled)
    assert error.retry_after == 60.0


# -- a scheduler that is started again -------------------------------------------------------


def two_workers() -> LocalCluster:
    """A scheduler and two workers in this process."""
    return LocalCluster(n_workers=2, threads_per_worker=2, processes=False, dashboard_address=":0")


def test_a_scheduler_that_is_started_again_renders_nothing_that_the_servers_have(
    servers: list[ComfyServer], gate: Gates
) -> None:
    """What has run, what runs and what waits is found; what failed runs again."""
    for server in servers:
        server.add_node(Sick, "Node")
    plugin = ComfyPlugin([server.url for server in servers])
    ended = {"saves": saves(), "shows": shows("a"), "fails": renders()}
    runs_on = {name: held("a") for name in ("one", "two", "three")}

    def submitted(client: Client, graphs: dict[str, Any]) -> list[Any]:
        return [
            client.submit(run_workflow, graph, key=key, on_release="leave")
            for key, graph in graphs.items()
        ]

    with two_workers() as cluster:
        client = Client(cluster)
        client.register_plugin(plugin)
        first = submitted(client, ended)
        results: list[TaskResult] = client.gather(first[:2])
        assert isinstance(first[2].exception(LIMIT), JobFailed)
        futures = submitted(client, runs_on)
        until(lambda: sum(remaining(servers)) == len(futures), LIMIT)
    with contextlib.suppress(Exception):
        client.close()  # its scheduler is gone
    for server in servers:
        server.add_node(Well, "Node")
    gate("a").set()
    with two_workers() as cluster, Client(cluster) as client:
        client.register_plugin(plugin)
        again: list[TaskResult] = client.gather(submitted(client, {**ended, **runs_on}))
    assert [one.attached for one in again] == [True, True, False, True, True, True]
    assert [one.prompt_id for one in again[:2]] == [one.prompt_id for one in results]
    assert len(runs(servers)) == len(set(runs(servers))) == len(again) + 1


def test_servers_that_had_no_prompts_are_not_asked_for_any_from_before(
    client: Client, servers: list[ComfyServer]
) -> None:
    """The first task of a new cluster costs no question for each server."""
    client.gather(client.map(run_workflow, [saves(color) for color in range(4)]))
    asked = [seen.path for server in servers for seen in server.requests]
    assert not any("/history/" in path for path in asked)


def test_the_scheduler_forgets_workers_that_have_left(
    client: Client, cluster: LocalCluster, servers: list[ComfyServer]
) -> None:
    """It keeps servers, which new workers have, too."""
    first = client.submit(run_workflow, saves(), key="mine").result(LIMIT)
    for _ in range(2):
        cluster.scale(1)
        until(lambda: len(client.scheduler_info()["workers"]) == 1, LIMIT)
        cluster.scale(2)
        client.wait_for_workers(2, timeout=START)
        until(lambda: len(client.run(lambda dask_worker: dask_worker.plugins)) == 2, LIMIT)

    def noted() -> set[str]:
        return {*client.get_metadata(["comfy-client", "clients"])}

    until(lambda: noted() == {*client.scheduler_info()["workers"]}, LIMIT)
    assert len(client.get_metadata(["comfy-client", "servers"])) == 2
    until(lambda: not client.futures, LIMIT)
    again = client.submit(run_workflow, saves(), key="mine").result(LIMIT)
    assert (again.prompt_id, again.attached) == (first.prompt_id, True)


def test_a_retry_does_not_wait_again_for_a_server_that_was_silent_too_long(
    client: Client, servers: list[ComfyServer]
) -> None:
    """It asks once: the server may be back."""
    future = client.submit(run_workflow, held("a"), key="mine", patience=1.0)
    at = where_it_runs(servers)
    servers[at].kill()
    assert isinstance(future.exception(LIMIT), JobLost)
    for patience in (600.0, 601.0):
        del future
        until(lambda: not client.futures, LIMIT)
        future = client.submit(run_workflow, held("a"), key="mine", patience=patience)
        assert isinstance(future.exception(LIMIT), JobLost)
    assert len(runs(servers)) == 1


# -- processes -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def processes() -> Iterator[LocalCluster]:
    """Two workers in processes of their own, which are started again if they die."""
    with (
        dask.config.set(ALWAYS_AGAIN),
        LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address=":0") as running,
    ):
        yield running


@pytest.fixture
def elsewhere(processes: LocalCluster, servers: list[ComfyServer]) -> Iterator[Client]:
    with Client(processes) as connected:
        connected.wait_for_workers(2, timeout=START)
        connected.register_plugin(ComfyPlugin([server.url for server in servers]))
        yield connected


def kill_the_worker_of(client: Client, server: ComfyServer | ComfyUI) -> None:
    address = worker_of(client, server)
    [pid] = client.run(os.getpid, workers=[address]).values()
    os.kill(pid, signal.SIGKILL)


def test_a_worker_process_that_is_killed_costs_no_result_and_nothing_runs_twice(
    elsewhere: Client, servers: list[ComfyServer], gate: Gates
) -> None:
    """The servers' own records are the judge."""
    futures = elsewhere.map(run_workflow, [held(f"{n}") for n in range(8)])
    until(lambda: all(server.ran for server in servers), LIMIT)
    kill_the_worker_of(elsewhere, servers[0])
    for n in range(8):
        gate(f"{n}").set()
    results: list[TaskResult] = elsewhere.gather(futures)
    assert all(len(result.files) == 1 for result in results)
    assert any(result.attached for result in results)
    check_each_ran_once(servers, results)


@pytest.mark.long
@pytest.mark.parametrize("when", ["from the start", "in the middle"])
def test_a_worker_whose_server_is_away_takes_no_tasks_until_it_is_back(
    gate: Gates, when: str
) -> None:
    """However long they take: no task fails, and no retry is spent, for there is none."""
    servers = [ComfyServer() for _ in range(3)]
    with (
        dask.config.set(ALWAYS_AGAIN),
        LocalCluster(n_workers=3, threads_per_worker=2, dashboard_address=":0") as cluster,
        Client(cluster) as client,
        contextlib.ExitStack() as stack,
    ):
        for server in servers:
            server.add_node(Hold)
            stack.enter_context(server)
        stack.callback(gate.end)
        client.wait_for_workers(3, timeout=START)
        client.register_plugin(ComfyPlugin([server.url for server in servers]))
        address, away = worker_of(client, servers[0]), servers[0]
        if when == "from the start":
            away.kill()
        graphs = [held("a") for _ in range(40)]
        futures = client.map(run_workflow, graphs, pure=False, patience=3.0, on_lost="retry")
        until(lambda: all(server.ran for server in servers if server is not away), LIMIT)
        if when == "in the middle":
            until(lambda: away.ran, LIMIT)
            away.kill()
        until(lambda: status_of(client, address) == "paused", LIMIT)
        assert not any(future.done() for future in futures)
        gate("a").set()
        results: list[TaskResult] = client.gather(futures)
        assert {result.host for result in results} == {server.url for server in servers[1:]}
        check_each_ran_once(servers[1:], results)
        away.start()
        back = client.submit(run_workflow, saves(), workers=[address], patience=5.0)
        assert back.result(LIMIT).host == away.url


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(6))
def test_workers_that_are_killed_at_random_cost_no_result_and_nothing_runs_twice(
    elsewhere: Client, seed: int
) -> None:
    """Again and again, until all tasks have ended."""
    rng = random.Random(seed)
    servers = [ComfyServer(step_seconds=0.05) for _ in range(2)]
    with servers[0], servers[1]:
        elsewhere.register_plugin(ComfyPlugin([server.url for server in servers]))
        graphs = [txt2img(seed, steps=rng.randint(2, 12)) for seed in range(60)]
        futures = elsewhere.map(run_workflow, graphs, pure=False)  # other seeds have the same
        for _ in range(6):
            elsewhere.wait_for_workers(2, timeout=START)
            time.sleep(rng.uniform(1.0, 3.0))
            os.kill(rng.choice([*elsewhere.run(os.getpid).values()]), signal.SIGKILL)
        results: list[TaskResult] = elsewhere.gather(futures)
        check_each_ran_once(servers, results)


@pytest.mark.long
def test_a_submission_that_outlives_its_worker_on_the_way_runs_once(
    elsewhere: Client, servers: list[ComfyServer]
) -> None:
    """It gets there some seconds after another worker has begun to look for it."""
    sent: list[tuple[ComfyServer, Request]] = []

    def hold(server: ComfyServer) -> Callable[[Request], None]:
        def handler(request: Request) -> None:
            sent.append((server, request))
            threading.Event().wait(LIMIT)

        return handler

    for server in servers:
        server.on("POST", "/prompt", hold(server))
    future = elsewhere.submit(run_workflow, saves(), retries=0)
    until(lambda: sent, LIMIT)
    server, request = sent[0]
    kill_the_worker_of(elsewhere, server)
    until(lambda: any("/history/" in seen.path for seen in server.requests), LIMIT)
    server.off("POST", "/prompt")
    server.answer(request)
    result = future.result(LIMIT)
    assert (result.attached, len(sent)) == (True, 1)
    check_each_ran_once(servers, [result])


@pytest.mark.real
@pytest.mark.timeout(600)
def test_two_real_servers_run_each_prompt_once_though_a_worker_is_killed(
    processes: LocalCluster, comfyui: ComfyUI
) -> None:
    """With true sampling; what each has in its history is the judge."""
    with (
        comfyui.another() as other,
        Client(processes) as client,
        ComfyApi(comfyui.url) as first,
        ComfyApi(other.url) as second,
    ):
        first.clear_history()

        def done() -> list[str]:
            return [*first.get_histories(None), *second.get_histories(None)]

        client.wait_for_workers(2, timeout=START)
        client.register_plugin(ComfyPlugin([comfyui.url, other.url]))
        graphs = [load_workflow("txt2img_tiny", seed=seed, steps=5) for seed in range(12)]
        futures = client.map(run_workflow, graphs)
        until(lambda: first.get_histories(None) and second.get_histories(None), 120.0)
        before = len(done())
        kill_the_worker_of(client, comfyui)
        results: list[TaskResult] = client.gather(futures)
        print(f"killed after {before} of 12; {sum(one.attached for one in results)} attached")
        assert before < 12
        assert any(one.attached for one in results)
        until(lambda: len(done()) >= 12)  # a record may lag the end event
        assert sorted(done()) == sorted(one.prompt_id for one in results)
        clients = {api.host: api for api in (first, second)}
        for one in results:
            with one.files[0].open(clients[one.host]) as content:
                assert content.read().startswith(b"\x89PNG")
