"""ComfyUI-Manager 4 as a pack of the embedded server; what was recorded is in another file."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest
import requests

from comfy_client.testing import ComfyServer, ListedModel, ListedPack, Manager4, declare_node
from comfy_client.testing.packs.manager import TaskWorker
from comfy_client.testing.packs.manager4_params import task_of
from comfy_client.testing.packs.manager4_queue import TaskQueue
from comfy_client.testing.packs.manager_security import ActionNeed, SecurityLevel, allows
from tests.helpers.bare import get, post
from tests.helpers.clients import until

INSTALL = {"version": "unknown", "selected_version": "unknown", "mode": "cache"}
MINE = ListedPack(
    name="my-pack",
    url="https://git.example.com/my-pack",
    classes={"Mine": {"output": ["INT"], "input": {"required": {"a": ["INT"]}}}},
    update="newer",
)


@pytest.fixture
def manager() -> Manager4:
    return Manager4(packs=[MINE], reboot_seconds=60)


@pytest.fixture
def server(manager: Manager4) -> Iterator[ComfyServer]:
    with ComfyServer(packs=[manager], speed=1000) as running:
        yield running


def work(server: ComfyServer, kind: str, **params: Any) -> str:
    """The result of a task."""
    ui_id = add(server, kind, **params)

    def result() -> Any:
        if idle(server):  # at first, or because the last worker was closing down
            start(server)
        asked = get(server, "/v2/manager/queue/history", params={"ui_id": ui_id})
        return asked.json()["history"].get("result")

    return str(until(result))


def add(server: ComfyServer, kind: str, **params: Any) -> str:
    """The id of a new task, which waits."""
    ui_id = f"{kind} {params}"
    body = {"ui_id": ui_id, "client_id": "me", "kind": kind, "params": params}
    assert post(server, "/v2/manager/queue/task", body).status_code == 200
    return ui_id


def start(server: ComfyServer) -> None:
    assert post(server, "/v2/manager/queue/start", None).status_code in (200, 201)


def install(server: ComfyServer, name: str) -> str:
    return work(server, "install", id=name, channel="default", **INSTALL)


def classes(server: ComfyServer) -> set[str]:
    return {*get(server, "/object_info").json()}


def idle(server: ComfyServer) -> bool:
    return not get(server, "/v2/manager/queue/status").json()["is_processing"]


@pytest.mark.parametrize(
    ("version", "flags"),
    [
        ("0.3.75", {"supports_csrf_post": True}),
        ("0.33", {"supports_v4": True, "supports_csrf_post": True}),
    ],
)
def test_features_say_less_of_manager_4_beside_an_old_comfyui(version: Any, flags: object) -> None:
    with ComfyServer(version=version, packs=["manager4"]) as server:
        assert get(server, "/features").json()["extension"]["manager"] == flags
        assert get(server, "/v2/manager/version").text == "V4.3"


def test_an_installed_pack_has_its_classes_after_the_reboot(
    server: ComfyServer, manager: Manager4
) -> None:
    assert install(server, "my-pack") == "success"
    assert manager.installed == {"my-pack": True}
    assert get(server, "/v2/customnode/installed?mode=imported").json() == {}
    assert "Mine" not in classes(server)
    with pytest.raises(requests.ConnectionError):
        post(server, "/v2/manager/reboot", None)
    until(lambda: is_up(server))
    assert "Mine" in classes(server)
    assert get(server, "/v2/customnode/installed?mode=imported").json().keys() == {"my-pack"}
    assert get(server, "/v2/manager/queue/history").json() == {"history": {}}
    assert len(get(server, "/v2/manager/queue/history_list").json()["ids"]) <= 1


def is_up(server: ComfyServer) -> bool:
    try:
        return get(server, "/prompt").status_code == 200
    except requests.ConnectionError:
        return False


def test_a_disabled_pack_and_one_that_fails_to_import_bring_no_classes() -> None:
    manager = Manager4(packs=[MINE], installed=["my-pack", "example-broken"])
    with ComfyServer(packs=[manager], speed=1000) as server:
        assert "Mine" in classes(server)
        assert "ExampleBroken" not in classes(server)
        url = {"url": "https://git.example.com/example-broken"}
        told = post(server, "/v2/customnode/import_fail_info", url).json()
        assert "No module named 'example_library'" in told["msg"]
        assert work(server, "disable", node_name="my-pack", is_unknown=True) == "success"
        server.restart()
        assert "Mine" not in classes(server)
        assert manager.installed == {"my-pack": False, "example-broken": True}


def test_reset_uninstalls_what_came_later_and_a_user_s_class_stays(
    server: ComfyServer, manager: Manager4
) -> None:
    server.add_node(declare_node("Mine", {"output": ["STRING"]}))
    server.mark_start()
    install(server, "my-pack")
    server.restart()
    assert get(server, "/object_info/Mine").json()["Mine"]["output"] == ["STRING"]
    server.reset(keep=["nodes"])
    assert get(server, "/object_info/Mine").json()["Mine"]["output"] == ["STRING"]
    server.reset()
    assert manager.installed == {}
    assert get(server, "/v2/customnode/installed?mode=imported").json() == {}
    install(server, "my-pack")
    server.reset(keep=["nodes"])
    assert manager.installed == {"my-pack": True}
    assert get(server, "/v2/customnode/installed?mode=imported").json() == {}


def test_classes_of_packs_stay_when_one_of_a_user_is_removed() -> None:
    manager = Manager4(packs=[MINE], installed=["my-pack"])
    with ComfyServer(packs=[manager]) as server:
        server.add_node(declare_node("Other"))
        server.remove_node("Other")
        assert "Mine" in classes(server)


def test_a_class_without_a_definition_takes_any_inputs_and_its_outputs_fit() -> None:
    odd = ListedPack(name="odd", url="https://git.example.com/odd", classes=["Odd"])
    graph = {
        "1": {"class_type": "Odd", "inputs": {"text": "x", "number": 5}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 1], "filename_prefix": "a"}},
    }
    with ComfyServer(packs=[Manager4(packs=[odd], installed=["odd"])]) as server:
        assert get(server, "/object_info/Odd").json()["Odd"]["python_module"] == "custom_nodes.odd"
        answer = post(server, "/prompt", {"prompt": graph})
        assert answer.json()["node_errors"] == {}
        path = f"/history/{answer.json()['prompt_id']}"
        [run] = until(lambda: get(server, path).json()).values()
        assert run["outputs"]["2"]["images"]


def test_a_snapshot_is_restored_at_the_next_start(server: ComfyServer, manager: Manager4) -> None:
    post(server, "/v2/snapshot/save", None)
    [name] = get(server, "/v2/snapshot/getlist").json()["items"]
    install(server, "my-pack")
    told = get(server, "/v2/snapshot/get_current").json()["git_custom_nodes"]
    assert [pack["disabled"] for pack in told.values()] == [False]
    post(server, f"/v2/snapshot/restore?target={name}", None)
    assert manager.installed == {"my-pack": True}
    server.restart()
    assert manager.installed == {"my-pack": False}
    post(server, f"/v2/snapshot/remove?target={name}", None)
    assert get(server, "/v2/snapshot/getlist").json() == {"items": []}


def test_an_update_brings_the_newer_version_once(server: ComfyServer) -> None:
    install(server, "my-pack")
    assert work(server, "update", node_name="my-pack", node_ver="unknown") == "success"
    assert get(server, "/v2/customnode/installed").json()["my-pack"]["ver"] == "newer"
    assert work(server, "update", node_name="my-pack", node_ver="x") == "skip"


def test_the_history_by_pages_begins_with_the_oldest(server: ComfyServer) -> None:
    install(server, "my-pack")
    work(server, "disable", node_name="my-pack", is_unknown=True)
    pages = [
        get(server, f"/v2/manager/queue/history?max_items=1&offset={at}").json()["history"]
        for at in range(3)
    ]
    kinds = [[item["kind"] for item in page.values()] for page in pages]
    assert kinds == [["install"], ["disable"], []]


def test_a_batch_counts_its_operations(server: ComfyServer) -> None:
    for name in ("my-pack", "no-such-pack"):
        add(server, "install", id=name, channel="default", **INSTALL)
    start(server)
    until(lambda: idle(server))
    ids = get(server, "/v2/manager/queue/history_list").json()["ids"]
    batches = [get(server, f"/v2/manager/queue/history?id={one}").json() for one in ids]
    assert sum(batch["total_operations"] for batch in batches) == 2
    assert sum(batch["failed_operations"] for batch in batches) == 1


def test_a_registry_pack_is_installed_and_enabled_only_if_the_registry_answers() -> None:
    latest = {"version": "latest", "selected_version": "latest", "mode": "cache"}
    for online, told in ((True, "success"), (False, "Cannot resolve install target: ")):
        manager = Manager4(online=online)
        with ComfyServer(packs=[manager], speed=1000) as server:
            done = work(server, "install", id="example-styles", channel="default", **latest)
            assert done.startswith(told)
            assert manager.installed == ({"example-styles": True} if online else {})
            work(server, "disable", node_name="example-styles", is_unknown=False)
            assert work(server, "enable", cnr_id="example-styles") == "success"
            assert manager.installed == ({"example-styles": True} if online else {})


# -- models -----------------------------------------------------------------------------


def model(**params: Any) -> dict[str, Any]:
    url = "https://models.example.com/a.safetensors"
    return {"name": "A", "type": "lora", "url": url, "filename": "a.safetensors", **params}


@pytest.mark.parametrize(
    ("path", "folder"), [("default", "loras"), ("loras/XL", "loras"), ("vae", "vae")]
)
def test_a_model_goes_into_its_folder(server: ComfyServer, path: str, folder: str) -> None:
    assert work(server, "install-model", **model(save_path=path)) == "success"
    assert any("a.safetensors" in name for name in get(server, f"/models/{folder}").json())


def test_loaders_offer_an_installed_model_at_once(server: ComfyServer) -> None:
    assert work(server, "install-model", **model(save_path="default", type="checkpoint"))
    name = "CheckpointLoaderSimple"
    inputs = get(server, f"/object_info/{name}").json()[name]["input"]["required"]
    assert "a.safetensors" in inputs["ckpt_name"][0]


@pytest.mark.parametrize("path", ["../custom_nodes", "/tmp", "loras\0"])
def test_a_model_does_not_leave_the_folder_of_models(server: ComfyServer, path: str) -> None:
    told = work(server, "install-model", **model(save_path=path))
    assert told == f"Model installation error: {model()['url']}"


def test_a_model_that_is_there_stays_as_it_is(server: ComfyServer) -> None:
    file = server.root / "models" / "loras" / "a.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"weights")
    assert work(server, "install-model", **model(save_path="loras")) == "success"
    assert file.read_bytes() == b"weights"


def test_a_model_without_save_path_kills_the_worker(server: ComfyServer) -> None:
    """The result tells; the next task waits for another start."""
    add(server, "install-model", **model())
    add(server, "enable", cnr_id="x")
    start(server)
    until(lambda: idle(server))
    assert get(server, "/v2/manager/queue/status").json()["pending_count"] == 1
    [item] = get(server, "/v2/manager/queue/history").json()["history"].values()
    assert "TypeError" in item["result"]
    assert install(server, "my-pack") == "success"


# -- the worker -------------------------------------------------------------------------


@pytest.mark.parametrize("params", [None, [], "x", 5, {"mode": [], "is_stable": "yes"}])
def test_parameters_of_no_kind_are_refused(server: ComfyServer, params: object) -> None:
    body = {"ui_id": "1", "client_id": "me", "kind": "install", "params": params}
    answer = post(server, "/v2/manager/queue/task", body)
    assert (answer.status_code, answer.text[:17]) == (400, "Invalid task data")


@pytest.mark.parametrize(
    "wrong", [{"ui_id": []}, {"client_id": 5}, {"url": None}, {"filename": {}, "mode": "local"}]
)
def test_a_model_with_values_of_other_types_is_refused(server: ComfyServer, wrong: Any) -> None:
    body = {"ui_id": "1", "client_id": "me", **model(save_path="loras"), **wrong}
    assert post(server, "/v2/manager/queue/install_model", body).status_code == 400
    assert get(server, "/v2/manager/queue/status").json()["pending_count"] == 0


def test_a_thousand_tasks_wait_at_most() -> None:
    packs = [ListedPack(name=f"pack{at}", url=f"https://a.example.com/{at}") for at in range(1001)]
    manager = Manager4(packs=packs, installed=[pack.name for pack in packs])
    with ComfyServer(packs=[manager]) as server:
        path = "/v2/manager/queue/update_all?client_id=me&ui_id=1"
        answer = post(server, path, None)
        assert (answer.status_code, "1,000 tasks" in answer.text) == (503, True)
        assert get(server, "/v2/manager/queue/status").json()["pending_count"] == 1000


def test_a_task_of_a_megabyte_is_refused(server: ComfyServer) -> None:
    body = {"ui_id": "1", "client_id": "me", "kind": "enable", "params": {"cnr_id": "x" * 2**20}}
    assert post(server, "/v2/manager/queue/task", body).status_code == 413


class Parts:
    """A server for a queue of tasks, which keeps what is sent; simulated time does not pass."""

    def __init__(self, *, is_connected: bool = True) -> None:
        self.sent: list[Any] = []
        self.clock = SimpleNamespace(pauses=self.pauses, local=lambda: datetime(2026, 12, 1))
        ids = SimpleNamespace(new=lambda _: SimpleNamespace(hex="0123456789"))
        self.state = SimpleNamespace(
            options=SimpleNamespace(clock=self.clock, ids=ids),
            send=self.send,
            sockets=SimpleNamespace(is_connected=lambda _: is_connected),
        )

    def pauses(self, seconds: float) -> Iterator[float]:
        yield 0.001

    def send(self, event: str, data: Any, client_id: str | None = None) -> None:
        self.sent.append((event, data.get("ui_id", data.get("status"))))

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)


def queue_of(parts: Any, do: Callable[[Any], str]) -> TaskQueue:
    return TaskQueue(parts, TaskWorker(), {}, do, dict, 0.0)


def test_the_newest_thousand_results_are_kept_and_told_to_connected_clients_alone() -> None:
    parts = Parts(is_connected=False)
    queue = queue_of(parts, lambda task: "success")

    async def work() -> None:
        for name in ("a", "b"):
            for at in range(1000 if name == "a" else 2):
                queue.add(task_of(f"{name}{at}", "me", "enable", {"cnr_id": "x"}))
            await queue.process()

    asyncio.run(work())
    assert [*queue.history][:1] == ["a2"]
    assert [*queue.history][-2:] == ["b0", "b1"]
    assert parts.sent == [("cm-queue-status", "all-done")] * 2


def test_an_error_in_a_task_ends_the_worker_alone() -> None:
    """It is the result of the task; the next worker does the rest."""

    def do(task: Any) -> str:
        if task.ui_id == "bad":
            raise LookupError("no such thing")
        return "success"

    parts, worker = Parts(), TaskWorker(lives=True)
    queue = TaskQueue(cast(Any, parts), worker, {}, do, dict, 0.0)

    async def both() -> None:
        for ui_id in ("bad", "good"):
            queue.add(task_of(ui_id, "me", "enable", {"cnr_id": "x"}))
        await worker.work(queue.process)
        told = queue.status(None)
        assert (told["is_processing"], told["in_progress_count"]) == (False, 0)
        assert (told["pending_count"], told["done_count"]) == (1, 1)
        await worker.work(queue.process)

    asyncio.run(both())
    results = [item["result"] for item in queue.history.values()]
    assert results == ["Exception: LookupError: no such thing", "success"]


def test_a_task_that_comes_while_the_worker_closes_down_is_stranded() -> None:
    """``start`` answers 201 then, as there still is a worker; the next one does the task."""
    done: list[str] = []

    class Closing(Parts):
        async def sleep(self, seconds: float) -> None:
            if seconds == 0.5 and len(done) == 1:
                queue.add(task_of("late", "me", "enable", {"cnr_id": "x"}))

    def do(task: Any) -> str:
        done.append(task.ui_id)
        return "success"

    parts = Closing()
    queue = queue_of(parts, do)

    async def both() -> None:
        queue.add(task_of("first", "me", "enable", {"cnr_id": "x"}))
        await queue.process()
        assert queue.status(None)["pending_count"] == 1
        assert done == ["first"]
        await queue.process()

    asyncio.run(both())
    assert done == ["first", "late"]
    assert queue.history["late"]["batch_id"] is None
    assert [told for event, told in parts.sent if event == "cm-queue-status"] == ["all-done"] * 2


# -- security ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "need", "local", "public"),
    [
        ("strong", "none", True, True),
        ("strong", "middle", False, False),
        ("normal", "middle", True, True),
        ("normal", "middle+", True, False),
        ("normal", "high+", False, False),
        ("normal-", "high+", True, False),
        ("weak", "high+", True, False),
    ],
)
def test_a_security_level_allows_less_to_others(
    level: SecurityLevel, need: ActionNeed, local: bool, public: bool
) -> None:
    found = [allows(level, need, is_local=is_local) for is_local in (True, False)]
    assert found == [local, public]


def test_at_level_strong_little_is_done() -> None:
    with ComfyServer(packs=[Manager4(security_level="strong")], speed=1000) as server:
        assert install(server, "example-upscalers") == "failed"
        assert work(server, "uninstall", node_name="x", is_unknown=True) == "failed"
        assert work(server, "install-model", **model(save_path="default")) == "failed"
        assert work(server, "enable", cnr_id="x") == "success"
        for path in ("/manager/reboot", "/manager/db_mode", "/snapshot/remove?target=x"):
            answer = post(server, f"/v2{path}", {"value": "local"})
            assert (answer.status_code, answer.text) == (403, "")


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda: Manager4(security_level="none"), "security_level must be one of"),
        (lambda: Manager4(installed=["x"]), "'x' is installed, but not in packs"),
        (lambda: Manager4(seconds=-1), "0 or more"),
        (lambda: Manager4(disabled=["x"]), "'x' is installed, but not in packs"),
        (lambda: ListedPack(name="../a", url="b"), "name is a folder"),
        (
            lambda: ListedPack(
                name="a", url="b", classes={"C": {"input": 1}}, import_error="no library"
            ),
            "definition of C",
        ),
    ],
)
def test_a_wrong_manager_is_refused(wrong: Callable[[], Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        wrong()


@pytest.mark.parametrize(
    ("kind", "wrong", "told"),
    [
        (ListedPack, {"name": "a", "url": "b", "classes": "Mine"}, "a list of names"),
        (ListedPack, {"name": "a", "url": "b", "classes": [1]}, "by 1"),
        (ListedPack, {"name": "a", "url": "b", "classes": {"A": []}}, r"not \[\] by 'A'"),
        (ListedPack, {"name": 5, "url": "b"}, "name is a text"),
        (ListedPack, {"name": "a", "url": "b", "version": 1}, "version"),
        (ListedModel, {"filename": "a", "url": None}, "url is a text"),
        (Manager4, {"installed": "x"}, "installed is a list"),
        (Manager4, {"packs": ["x"]}, "packs is a list of ListedPack"),
    ],
)
def test_arguments_of_other_types_are_refused(kind: Any, wrong: Any, told: str) -> None:
    with pytest.raises(TypeError, match=told):
        kind(**wrong)
