"""Tasks of ComfyUI-Manager on servers that die, are silent or refuse, and of clients that close."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import gc
import json
import pickle
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest
from aiohttp import web

from comfy_client import ComfyApi, HostedApi
from comfy_client.errors import (
    ApiError,
    AuthenticationError,
    ClientClosed,
    ComfyError,
    JobLost,
    NotFound,
    NotSupported,
    RequestTimeout,
    ServerUnreachable,
    TaskFailed,
    TaskTimeout,
    TransportError,
    UnexpectedResponse,
)
from comfy_client.ext import Manager, Task
from comfy_client.testing import (
    Answer,
    ComfyServer,
    ListedPack,
    Manager3,
    Manager4,
    Manager4Legacy,
    Request,
)
from comfy_client.testing.packs.manager3 import Manager3Pack
from comfy_client.testing.packs.pack import PackRoutes
from tests.helpers.clients import LIMIT, until
from tests.helpers.graphs import picture
from tests.helpers.managers import KINDS, MINE, MODEL, TINY, URL, Hasty
from tests.helpers.processes import in_child

STATUS = "/v2/manager/queue/status"
CALLS: dict[str, Callable[[Manager], object]] = {
    "version": lambda manager: manager.version,
    "dialect": lambda manager: manager.dialect,
    "installed": lambda manager: manager.installed(),
    "mappings": lambda manager: manager.mappings(),
    "pack_of": lambda manager: manager.pack_of("Mine"),
    "failed_imports": lambda manager: manager.failed_imports(),
    "comfyui_versions": lambda manager: manager.comfyui_versions(),
    "channels": lambda manager: manager.channels(),
    "settings": lambda manager: manager.settings(),
    "set": lambda manager: manager.set(db_mode="local"),
    "install": lambda manager: manager.install(URL),
    "uninstall": lambda manager: manager.uninstall("my-pack"),
    "update_all": lambda manager: manager.update_all(),
    "install_model": lambda manager: manager.install_model(MODEL, "loras"),
    "install_git": lambda manager: manager.install_git(URL),
    "install_pip": lambda manager: manager.install_pip("rich"),
    "update_comfyui": lambda manager: manager.update_comfyui(),
    "task": lambda manager: manager.task("install:0123456789ab:my-pack"),
    "snapshots": lambda manager: manager.snapshots.list(),
    "reboot": lambda manager: manager.reboot(),
}


class Hastier(Hasty):
    """Does not wait long until the Manager's answers are of use again, either."""

    timing = attrs.evolve(Hasty.timing, task_routes=0.2)


@pytest.fixture
def pack() -> Manager4:
    return Manager4(packs=[MINE], models=[TINY], reboot_seconds=1)


@pytest.fixture
def server(pack: Manager4) -> Iterator[ComfyServer]:
    with ComfyServer(packs=[pack], speed=1000) as running:
        yield running


@pytest.fixture
def api(server: ComfyServer) -> Iterator[Hasty]:
    with Hasty(server.url, timeout=(5, 5)) as client:
        yield client


@pytest.fixture
def manager(api: Hasty) -> Manager:
    return api.ext.manager


@pytest.fixture
def waiting(server: ComfyServer, manager: Manager) -> Task:
    """A task that runs while the clock of its server stands."""
    server.pause()
    return manager.install(URL)


# -- servers that die or restart ---------------------------------------------------------


def test_a_task_of_a_server_that_was_killed_tells_what_is_installed_when_it_is_back(
    server: ComfyServer, waiting: Task
) -> None:
    server.kill()
    assert not waiting.wait(0.2)
    server.resume()
    server.start()
    with pytest.raises(TaskFailed, match="has forgotten this task, but the pack is not installed"):
        waiting.result(LIMIT)


def test_a_task_that_was_done_before_its_server_died_has_its_pack(
    server: ComfyServer, pack: Manager4, waiting: Task
) -> None:
    with server.faults.bad_gateway(path=f"{STATUS}*"):
        server.resume()
        server.until(lambda: pack.installed)
        server.kill()
    server.start()
    found = waiting.result(LIMIT)
    assert found is not None
    assert found.id == "my-pack"


def test_a_task_without_an_answer_to_its_request_is_followed(
    server: ComfyServer, manager: Manager
) -> None:
    with server.faults.cut("POST", "/v2/manager/queue/task", ran=True, times=1):
        task = manager.install(URL)
        assert task.result(LIMIT) is not None


def test_a_task_whose_request_was_lost_ends_while_the_manager_works_for_others(
    server: ComfyServer, manager: Manager
) -> None:
    with Hasty(server.url) as other:
        server.pause()
        theirs = other.ext.manager.install("example-styles")
        with server.faults.cut("POST", "/v2/manager/queue/task", ran=False, times=1):
            lost = manager.install(URL)
        found = manager.task(theirs.id)
        with pytest.raises(TaskFailed, match="has forgotten this task"):
            lost.result(LIMIT)
        assert not found.done()
        server.resume()
        assert found.result(LIMIT) is not None


def test_a_server_without_its_manager_after_a_restart_is_an_error_in_the_end(
    server: ComfyServer, api: Hasty, waiting: Task
) -> None:
    with (
        server.faults.missing("*", "/v2/*"),
        Hastier(server.url) as other,
        pytest.raises(NotSupported, match="no ComfyUI-Manager"),
    ):
        other.ext.manager.task(waiting.id)
    with Hastier(server.url) as other:
        task = other.ext.manager.task(waiting.id)
        with server.faults.missing("*", "/v2/*"), pytest.raises((NotSupported, NotFound)):
            task.result(LIMIT)
    server.resume()
    assert waiting.result(LIMIT) is not None


# -- servers that are silent or refuse ---------------------------------------------------


def test_a_silent_server_ends_no_task_and_no_wait_beyond_its_time(
    server: ComfyServer, waiting: Task
) -> None:
    with server.faults.freeze():
        with pytest.raises(TaskTimeout):
            waiting.result(0.2)
        assert waiting.state == "running"
    server.resume()
    assert waiting.result(LIMIT) is not None


def test_a_silent_server_is_no_task(server: ComfyServer) -> None:
    with (
        Hasty(server.url, timeout=(0.2, 0.2)) as api,
        server.faults.freeze(),
        pytest.raises(RequestTimeout),
    ):
        api.ext.manager.install(URL)


def test_a_refusal_ends_all_tasks(server: ComfyServer, manager: Manager) -> None:
    server.pause()
    tasks = [manager.install(URL), manager.install("example-styles")]
    with server.faults.bad_gateway(401, path="/v2/*"):
        for task in tasks:
            with pytest.raises(AuthenticationError):
                task.result(LIMIT)
            assert task.state == "failed"
        assert tasks[0].exception() is not tasks[1].exception()
    server.resume()
    for task in tasks:
        assert manager.task(task.id).result(LIMIT) is not None


@pytest.mark.parametrize("status", [500, 503])
def test_an_error_of_the_server_or_its_proxy_ends_no_task_at_once(
    server: ComfyServer, waiting: Task, status: int
) -> None:
    with server.faults.bad_gateway(status, path="/v2/*") as fault:
        until(lambda: fault.hits > 2 or waiting.done())
        assert not waiting.done()
    server.resume()
    assert waiting.result(LIMIT) is not None


def test_an_error_of_the_server_that_stays_ends_all_tasks(server: ComfyServer) -> None:
    server.pause()
    with Hastier(server.url) as api:
        tasks = [api.ext.manager.install(URL), api.ext.manager.install("example-styles")]
        with server.faults.bad_gateway(500, path="/v2/manager/queue/*"):
            for task in tasks:
                with pytest.raises(ApiError) as caught:
                    task.result(LIMIT)
                assert caught.value.status == 500


@pytest.mark.parametrize("status", [400, 500])
def test_an_error_about_one_task_ends_only_that(
    server: ComfyServer, manager: Manager, status: int
) -> None:
    server.pause()
    ids = [manager.install(name).id for name in (URL, "example-styles")]

    def history(request: Request) -> Answer:
        if request.query["ui_id"] == ids[1]:
            return status, {}, "no"
        return 200, {}, {"history": {}}

    with Hastier(server.url) as other:
        going, failing = map(other.ext.manager.task, ids)
        with server.faults.answer("GET", "/v2/manager/queue/history", history):
            with pytest.raises(ApiError) as caught:
                failing.result(LIMIT)
            assert caught.value.status == status
            assert not going.done()
        server.resume()
        assert going.result(LIMIT) is not None


def test_a_model_that_cannot_be_looked_for_ends_no_other_task(
    server: ComfyServer, manager: Manager
) -> None:
    server.pause()
    model = manager.install_model(MODEL, "loras")
    going = manager.install(URL)
    with server.faults.bad_gateway(401, path="/models/*"):
        server.resume()
        with pytest.raises(AuthenticationError):
            model.result(LIMIT)
        assert going.result(LIMIT) is not None


def test_an_entry_of_the_history_without_a_result_is_a_failure(
    server: ComfyServer, waiting: Task
) -> None:
    entry = {"history": {"ui_id": waiting.id, "kind": "install"}}
    with (
        server.faults.answer("GET", "/v2/manager/queue/history*", (200, {}, entry)),
        pytest.raises(TaskFailed, match="the Manager says: no reason"),
    ):
        waiting.result(LIMIT)


ONCE: dict[str, tuple[int, dict[str, str], str]] = {
    "throttled": (429, {}, "slow down"),
    "late": (408, {}, "too late"),
    "a page": (200, {"Content-Type": "text/html"}, "<html>starting</html>"),
}


@pytest.mark.parametrize("name", ONCE)
def test_an_answer_that_may_pass_ends_no_task(
    server: ComfyServer, waiting: Task, name: str
) -> None:
    with server.faults.answer("GET", f"{STATUS}*", ONCE[name], times=3) as fault:
        until(lambda: fault.hits == 3 or waiting.done())
        assert not waiting.done()
    server.resume()
    assert waiting.result(LIMIT) is not None


@pytest.mark.parametrize("status", [403, 429, 500])
@pytest.mark.parametrize("kind", ["manager4", "manager3"])
def test_a_task_that_is_queued_is_watched_though_the_worker_did_not_start(
    kind: str, status: int
) -> None:
    with (
        ComfyServer(packs=[KINDS[kind](packs=[MINE])], speed=1000) as server,
        Hasty(server.url) as api,
        server.faults.answer("POST", "*/manager/queue/start", (status, {}, "no"), times=1) as fault,
    ):
        task = api.ext.manager.install(URL)
        assert task.result(LIMIT) is not None
        assert fault.hits == 1


def test_updates_of_all_go_on_behind_a_request_that_fails(
    server: ComfyServer, manager: Manager
) -> None:
    for pack in (URL, "example-styles"):
        manager.install(pack).result(LIMIT)
    with server.faults.answer("POST", "/v2/manager/queue/task", (500, {}, "no"), times=1):
        failed, done = manager.update_all()
    assert isinstance(failed.exception(LIMIT), ApiError)
    assert done.result(LIMIT) is not None


def test_a_page_in_place_of_an_answer_is_no_manager(server: ComfyServer, manager: Manager) -> None:
    with server.faults.login_page(), pytest.raises((NotSupported, UnexpectedResponse)):
        manager.installed()


# -- work that is answered when it is over -----------------------------------------------


@pytest.fixture
def legacy() -> Iterator[ComfyServer]:
    pack = Manager4Legacy(packs=[MINE], allow_git_url=True, allow_pip=True, reboot_seconds=1)
    with ComfyServer(packs=[pack], speed=1000) as running:
        yield running


GIT = "/v2/customnode/install/git_url"
PIP = "/v2/customnode/install/pip"


def test_a_repository_that_is_said_to_be_there_and_is_not_has_failed(legacy: ComfyServer) -> None:
    with (
        Hasty(legacy.url) as api,
        legacy.faults.answer("POST", GIT, (200, {}, None)),
        pytest.raises(TaskFailed, match="says 'success', but the pack is not installed"),
    ):
        api.ext.manager.install_git(URL).result(LIMIT)


def test_a_repository_that_cannot_be_cloned_has_failed(legacy: ComfyServer) -> None:
    with Hasty(legacy.url) as api, legacy.faults.answer("POST", GIT, (400, {}, None)):
        task = api.ext.manager.install_git(URL)
        with pytest.raises(TaskFailed, match="the Manager could not do it") as caught:
            task.result(LIMIT)
    assert caught.value.task_id == task.id


@pytest.mark.parametrize("ran", [True, False])
def test_a_repository_without_an_answer_is_looked_for_among_the_installed(
    legacy: ComfyServer, ran: bool
) -> None:
    with Hasty(legacy.url) as api, legacy.faults.cut("POST", GIT, ran=ran, times=1):
        task = api.ext.manager.install_git(URL)
        if ran:
            assert task.result(LIMIT) is not None
        else:
            with pytest.raises(TaskFailed, match="has forgotten this task"):
                task.result(LIMIT)


def test_packages_without_an_answer_are_not_said_to_be_there(legacy: ComfyServer) -> None:
    with (
        Hasty(legacy.url) as api,
        legacy.faults.cut("POST", PIP, ran=True, times=1),
        pytest.raises(TaskFailed, match="unknown whether it was done"),
    ):
        api.ext.manager.install_pip("rich").result(LIMIT)


def test_closing_a_client_ends_a_task_that_waits_for_its_answer(legacy: ComfyServer) -> None:
    with Hasty(legacy.url) as api, legacy.faults.delay("POST", GIT, 1e6) as fault:
        task = api.ext.manager.install_git(URL)
        assert api.ext.manager.task(task.id) is task
        until(lambda: fault.hits == 1)
        api.close()
        with pytest.raises(ClientClosed):
            task.result(LIMIT)


@pytest.mark.parametrize("status", [200, 400, 403])
def test_logins_in_the_urls_of_repositories_and_packages_are_shown_nowhere(
    legacy: ComfyServer, status: int
) -> None:
    secret = "https://me:s3cret@git.example.com/private.git"
    said = []
    with (
        Hasty(legacy.url) as api,
        legacy.faults.answer("POST", GIT, (status, {}, None)),
        legacy.faults.answer("POST", PIP, (status, {}, None)),
    ):
        manager = api.ext.manager
        for task in (manager.install_git(secret), manager.install_pip(f"git+{secret}", "rich")):
            error = task.exception(LIMIT)
            assert (error is None) is (status == 200 and task.kind == "install-pip")
            told = error.to_dict() if isinstance(error, ComfyError) else ""
            said.append(f"{task!r} {task.id} {task.name} {error} {error!r} {told}")
    assert "s3cret" not in str(said)
    assert "install-pip git+https://***@git.example.com/private.git rich" in said[1]


# -- clients -----------------------------------------------------------------------------


def test_closing_a_client_ends_its_tasks_and_the_manager_goes_on(
    server: ComfyServer, pack: Manager4, api: Hasty, waiting: Task
) -> None:
    api.close()
    with pytest.raises(ClientClosed):
        waiting.result(LIMIT)
    server.resume()
    server.until(lambda: pack.installed == {"my-pack": True})


@pytest.mark.parametrize("name", [*CALLS, "available"])
def test_a_closed_client_asks_no_manager(server: ComfyServer, name: str) -> None:
    api = ComfyApi(server.url)
    manager = api.ext.manager
    api.close()
    with pytest.raises(ClientClosed):
        CALLS.get(name, lambda manager: manager.available())(manager)


@pytest.mark.parametrize("name", CALLS)
def test_a_hosted_server_has_no_manager(server: ComfyServer, name: str) -> None:
    """It says so without a request, as for other routes of ComfyUI."""
    api = HostedApi(api_key="key", base_url=server.url, allow_insecure=True)
    with contextlib.closing(api):
        with pytest.raises(NotSupported, match="it has no ComfyUI-Manager"):
            CALLS[name](api.ext.manager)
        assert not api.ext.manager.available()
    assert not server.requests


@pytest.mark.posix("fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_after_a_fork_tasks_stay_the_parents_and_the_child_begins_its_own(
    server: ComfyServer, manager: Manager, waiting: Task
) -> None:
    def resume() -> None:
        server.until(lambda: len(posted_tasks(server)) == 2)
        server.resume()

    def work() -> object:
        assert isinstance(waiting.exception(LIMIT), ClientClosed)
        found = manager.install("example-styles").result(LIMIT)
        return found and found.id

    resumer = threading.Thread(target=resume)
    resumer.start()
    assert in_child(work) == "example-styles"
    resumer.join()
    found = waiting.result(LIMIT)
    assert found is not None
    assert found.id == "my-pack"
    assert len({task["client_id"] for task in posted_tasks(server)}) == 2


def posted_tasks(server: ComfyServer) -> list[Any]:
    """The tasks that clients have sent to Manager 4."""
    return [json.loads(one.body) for one in server.requests if one.path.endswith("/queue/task")]


def test_a_task_keeps_its_client_until_it_has_ended(server: ComfyServer, pack: Manager4) -> None:
    server.pause()
    api = Hasty(server.url)
    task = api.ext.manager.install(URL)
    known = weakref.ref(api)
    del api
    gc.collect()
    assert known() is not None
    server.resume()
    task.result(LIMIT)
    del task
    until(lambda: gc.collect() >= 0 and known() is None)


def test_callbacks_run_in_a_thread_of_the_client(waiting: Task, server: ComfyServer) -> None:
    threads: list[str] = []
    waiting.add_done_callback(lambda _: threads.append(threading.current_thread().name))
    waiting.add_done_callback(lambda _: 1 / 0)  # is logged
    server.resume()
    waiting.result(LIMIT)
    until(lambda: threads == ["comfy-callbacks"])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # of the exit
def test_a_callback_that_exits_or_waits_for_another_task_holds_up_none(
    waiting: Task, server: ComfyServer, manager: Manager
) -> None:
    others: list[Any] = []
    waiting.add_done_callback(lambda _: others.append(manager.disable("my-pack").result(LIMIT)))
    waiting.add_done_callback(lambda _: sys.exit("enough"))
    server.resume()
    waiting.result(LIMIT)
    until(lambda: others)
    assert not others[0].enabled
    assert manager.enable("my-pack").result(LIMIT) is not None


def test_tasks_are_futures_for_others(waiting: Task, server: ComfyServer) -> None:
    server.resume()

    async def ask() -> Any:
        return await asyncio.wrap_future(waiting)

    assert asyncio.run(ask()).id == "my-pack"
    assert concurrent.futures.wait([waiting], LIMIT).done == {waiting}
    assert [*concurrent.futures.as_completed([waiting], LIMIT)] == [waiting]


def test_a_task_cannot_be_pickled_and_says_what_to_pass(waiting: Task) -> None:
    with pytest.raises(TypeError, match="pass its id"):
        pickle.dumps(waiting)
    assert repr(waiting) == "<Task install my-pack: running>"


def test_a_running_task_is_one_object_however_often_it_is_asked_for(
    manager: Manager, waiting: Task
) -> None:
    assert manager.task(waiting.id) is waiting


def test_an_id_of_another_program_is_no_task(manager: Manager) -> None:
    for id in ("7b3d1e", "a:b:c", "install-model:a:../b"):
        with pytest.raises(ValueError, match=r"not the id of a task|must be a path"):
            manager.task(id)


def test_secrets_in_the_url_of_a_model_are_in_no_error() -> None:
    url = "https://example.com/a.bin?token=s3cret"
    with (
        ComfyServer(packs=[Manager4(unreachable=[url])], speed=1000) as server,
        Hasty(server.url) as api,
    ):
        task = api.ext.manager.install_model(url, "loras")
        with pytest.raises(TaskFailed, match=r"example\.com") as caught:
            task.result(LIMIT)
    said = f"{task!r} {task.id} {task.name} {caught.value} {caught.value.to_dict()}"
    assert "s3cret" not in said


def test_a_list_of_thousands_of_packs_is_read(server: ComfyServer, manager: Manager) -> None:
    """The real one has 5,600 entries."""
    packs = {
        f"https://git.example.com/{n}": [[f"Class{n}"], {"title_aux": f"{n}"}] for n in range(6000)
    }
    with server.faults.answer("GET", "/v2/customnode/getmappings*", (200, {}, packs)):
        assert len(manager.mappings()) == 6000
        found = manager.pack_of("Class5999")
    assert found is not None
    assert (found.id, found.title) == ("https://git.example.com/5999", "5999")


def test_an_entry_whose_url_nobody_can_read_is_left_out_of_the_list(
    server: ComfyServer, manager: Manager
) -> None:
    packs = {"https://[bad/pack": [["Mine"], {}], "good": [["Mine"], {}], "": [["Mine"], {}]}
    with server.faults.answer("GET", "/v2/customnode/getmappings*", (200, {}, packs)):
        assert [one.id for one in manager.packs_of("Mine")] == ["good"]


def test_a_list_beyond_the_limit_of_an_answer_is_an_error(server: ComfyServer) -> None:
    packs = {"https://git.example.com/1": [["Class" * 10_000], {}]}
    with (
        Hasty(server.url, max_json=20_000) as api,
        server.faults.answer("GET", "/v2/customnode/getmappings*", (200, {}, packs)),
        pytest.raises(UnexpectedResponse),
    ):
        api.ext.manager.mappings()


# -- reboot ------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["disable", "uninstall", "update", "failed_imports"])
def test_manager_3_without_a_network_is_reminded_of_its_packs_after_a_reboot(way: str) -> None:
    """Seen live: until somebody asks for its list, it finds none, and calls that a success."""
    broken = attrs.evolve(MINE, import_error="No module named 'mine'")
    registered = ListedPack(name="registered", url=f"{URL}-too", version="1.0.0")
    packs = Manager3(
        packs=[broken, registered], installed=["registered"], online=False, reboot_seconds=0.1
    )
    with ComfyServer(packs=[packs], speed=1000) as server, Hasty(server.url) as api:
        manager = api.ext.manager
        manager.install(URL).result(60)
        manager.reboot(wait=60)
        if way == "failed_imports":
            assert [failed.id for failed in manager.failed_imports()] == ["my-pack"]
        elif way == "update":
            assert manager.update("my-pack").result(60).ver == MINE.update
        else:
            for name in ("my-pack", "registered"):
                getattr(manager, way)(name).result(60)
            assert not [pack for pack in manager.installed().values() if pack.enabled]


@pytest.mark.parametrize("transport", ["auto", "poll"])
def test_definitions_are_asked_for_anew_after_a_reboot(
    server: ComfyServer, pack: Manager4, transport: Any
) -> None:
    with Hasty(server.url, transport=transport) as api:
        assert "Mine" not in api.node_names()
        api.ext.manager.install(URL).result(LIMIT)
        api.ext.manager.reboot(wait=LIMIT)
        assert "Mine" in api.node_names()


def test_prompts_are_lost_by_a_reboot_with_the_reason(server: ComfyServer, api: Hasty) -> None:
    server.faults.slow_node("EmptyImage", 1e6)
    job = api.submit(picture())
    until(lambda: job.status == "running")
    api.ext.manager.reboot(wait=LIMIT)
    with pytest.raises(JobLost, match="this client restarted the server"):
        job.result(LIMIT)


def test_a_restart_that_did_not_happen_is_no_reason_for_a_lost_prompt(
    server: ComfyServer, api: Hasty
) -> None:
    server.faults.slow_node("EmptyImage", 1e6)
    job = api.submit(picture())
    until(lambda: job.status == "running")
    with (
        server.faults.answer("POST", "/v2/manager/reboot", (200, {}, None)),
        pytest.raises(TaskFailed, match="goes on answering"),
    ):
        api.ext.manager.reboot(wait=0.3)
    server.kill()
    server.start()
    with pytest.raises(JobLost, match="the server was restarted, the prompt was deleted, or"):
        job.result(LIMIT)


def test_an_update_before_a_restart_shows_by_another_version(
    server: ComfyServer, manager: Manager
) -> None:
    manager.install(URL).result(LIMIT)
    tasks = [manager.update("my-pack"), manager.update("my-pack")]
    updated = tasks[0].result(LIMIT)
    tasks.append(manager.update("my-pack"))  # there is nothing newer
    for task in tasks:
        assert task.result(LIMIT) == updated
    manager.reboot(wait=LIMIT)
    with Hasty(server.url) as other:
        assert other.ext.manager.task(tasks[0].id).result(LIMIT) == updated
        with pytest.raises(TaskFailed, match="there was no newer one, or it was not updated"):
            other.ext.manager.task(tasks[2].id).result(LIMIT)


def test_a_reboot_that_is_not_waited_for_returns_at_once(
    server: ComfyServer, pack: Manager4, manager: Manager
) -> None:
    manager.install(URL).result(LIMIT)
    manager.reboot(wait=0)
    until(lambda: "my-pack" in installed_at_start(manager))


def test_without_a_socket_such_a_reboot_forgets_definitions(server: ComfyServer) -> None:
    with Hasty(server.url, transport="poll") as api:
        assert "Mine" not in api.node_names()
        api.ext.manager.install(URL).result(LIMIT)
        api.ext.manager.reboot(wait=0)
        until(lambda: "my-pack" in installed_at_start(api.ext.manager))
        assert "Mine" in api.node_names()


def installed_at_start(manager: Manager) -> Any:
    """What the server that runs now has imported; nothing while it is away."""
    try:
        return manager.installed(at_start=True)
    except (ServerUnreachable, TransportError):
        return ()


def test_a_server_that_is_away_for_too_long_is_an_error_and_may_be_back_later() -> None:
    pack = Manager4(reboot_seconds=1000)
    with ComfyServer(packs=[pack], speed=1000) as server, Hasty(server.url) as api:
        with pytest.raises(ServerUnreachable):
            api.ext.manager.reboot(wait=0.3)
        api.wait_until_ready(LIMIT)
        assert api.ext.manager.available()


def test_a_server_that_is_away_already_is_not_restarted(
    server: ComfyServer, manager: Manager
) -> None:
    assert manager.available()
    server.stop()
    with pytest.raises(ServerUnreachable):
        manager.reboot()


def test_a_server_that_goes_on_answering_was_not_restarted(
    server: ComfyServer, manager: Manager
) -> None:
    with (
        server.faults.answer("POST", "/v2/manager/reboot", (200, {}, None)),
        pytest.raises(TaskFailed, match="goes on answering"),
    ):
        manager.reboot(wait=0.3)


def test_a_restart_of_which_only_a_proxy_has_told_is_checked(
    server: ComfyServer, manager: Manager, caplog: pytest.LogCaptureFixture
) -> None:
    """It says the same of a server that ends, and of one that it did not reach."""
    with server.faults.bad_gateway(path="/v2/manager/reboot") as fault:
        with pytest.raises(TaskFailed, match="goes on answering"):
            manager.reboot(wait=0.3)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            rebooted = pool.submit(manager.reboot, wait=LIMIT)
            until(lambda: fault.hits == 2)
            server.kill()
            until(lambda: "for the server to restart" in caplog.text)
            server.start()
            rebooted.result(LIMIT)


# -- other Managers ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_results_are_known_without_an_event_socket(kind: str) -> None:
    """By the history, or by what is installed."""
    pack = KINDS[kind](packs=[MINE], models=[TINY])
    with (
        ComfyServer(packs=[pack], speed=1000) as server,
        Hasty(server.url, transport="poll") as api,
    ):
        manager = api.ext.manager
        assert manager.install(URL).result(LIMIT) is not None
        manager.install_model(MODEL, "loras").result(LIMIT)
        with pytest.raises(TaskFailed):
            manager.install("nowhere").result(LIMIT)


#: What Manager 3 did by GET before April 2026, with values in the query.
BY_GET = (
    *("/manager/queue/start", "/manager/reboot", "/manager/db_mode"),
    *("/snapshot/save", "/snapshot/remove", "/snapshot/restore"),
)


class OldManager3Pack(Manager3Pack):
    """What plays Manager 3 as it was before April 2026."""

    def routes(self) -> PackRoutes:
        """Return the routes."""
        now = super().routes()
        kept = [one for one in now if one[0] == "GET" or one[1] not in BY_GET]
        names = {path for _, path, _ in kept}
        return [
            *kept,
            *(("GET", path, do) for _, path, do in now if path in BY_GET and path not in names),
        ]

    async def snapshot_target(self, request: web.Request) -> Any:
        """Return the name of the snapshot in the query."""
        return request.query.get("target")


class OldManager3(Manager3):
    """Manager 3 as it was before April 2026."""

    _kind = OldManager3Pack


def test_older_releases_of_manager_3_are_asked_by_get() -> None:
    pack = OldManager3(packs=[MINE], reboot_seconds=1)
    with ComfyServer(packs=[pack], speed=1000) as server, Hasty(server.url) as api:
        manager = api.ext.manager
        assert manager.install(URL).result(LIMIT) is not None
        name = manager.snapshots.save()
        manager.snapshots.restore(name)
        manager.snapshots.remove(name)
        assert manager.snapshots.list() == []
        manager.set(db_mode="local")
        last = server.requests[-1]
        assert (last.method, last.path, last.query) == (
            "GET",
            "/manager/db_mode",
            {"value": "local"},
        )
        manager.reboot(wait=LIMIT)
        assert "Mine" in api.node_names()
        with server.faults.cut("GET", "/manager/reboot"):
            manager.reboot(wait=0)
        asked = [one.method for one in server.requests if one.path == "/manager/reboot"]
        assert asked == ["POST", "GET"] * 2
