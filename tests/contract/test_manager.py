"""ComfyUI-Manager 4 with either page, embedded and real: the same work, and the same ends.

The real ones run in a real ComfyUI without a network; packs are cloned from this machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
import requests

from comfy_client import ComfyApi
from comfy_client.errors import JobLost, ManagerRefused, NotFound
from comfy_client.ext import Manager, Task
from comfy_client.testing import ComfyServer, ListedPack, Manager4, Manager4Legacy
from tests.helpers.clients import Heard, until
from tests.helpers.git_server import git_repositories
from tests.helpers.managers import Hasty
from tests.helpers.servers import add_test_content
from tests.real_manager import ManagedComfyUI

#: The packs of the list, with the class of each; the last one fails to import.
PACK, NEW, BROKEN = "contract-pack", "contract-new", "contract-broken"
CLASSES = {PACK: "ContractPack", NEW: "ContractNew", BROKEN: "ContractBroken"}
#: A pack of the registry, which is installed from the start.
REGISTERED = "contract-registered"
LIMIT = 120.0

DEFINITION = {"input": {"required": {"a": ["INT", {}]}}, "output": [], "output_node": True}
NODE = """\
class Node:
    RETURN_TYPES, FUNCTION, CATEGORY, OUTPUT_NODE = (), "run", "tests", True

    @classmethod
    def INPUT_TYPES(cls):
        return {{"required": {{"a": ("INT", {{}})}}}}

    def run(self, a):
        return {{}}

NODE_CLASS_MAPPINGS = {{"{name}": Node}}
"""
IMPORT_ERROR = "No module named 'contract_library'"

EMBEDDED = {"manager4": Manager4, "manager4-legacy": Manager4Legacy}
#: Both have those of the new page first, so that pytest sorts them alike.
NEW_PAGE: list[Any] = [
    "embedded-manager4",
    pytest.param("real-manager4", marks=pytest.mark.real),
]
PLACES: list[Any] = [
    *NEW_PAGE,
    "embedded-manager4-legacy",
    pytest.param("real-manager4-legacy", marks=pytest.mark.real),
]
only_new_page = pytest.mark.parametrize("place", NEW_PAGE, indirect=True, scope="module")


@attrs.frozen
class Place:
    """A server with a Manager, and what is around it.

    Attributes:
        kind: What the Manager is.
        server: The server.
        url: Where the repositories are.
        change: Adds a commit to the repository of a pack.
    """

    kind: str
    server: ComfyServer | ManagedComfyUI
    url: str
    change: Callable[[], object]

    def client(self) -> ComfyApi:
        """A client, which waits long only for a real server."""
        return (Hasty if isinstance(self.server, ComfyServer) else ComfyApi)(self.server.url)

    def url_of(self, name: str) -> str:
        return f"{self.url}/{name}"


@contextmanager
def embedded(kind: str) -> Iterator[Place]:
    url = "https://git.example.com"
    packs = [
        ListedPack(
            name=name,
            url=f"{url}/{name}",
            classes={CLASSES[name]: DEFINITION},
            import_error=IMPORT_ERROR if name == BROKEN else "",
            update="a newer commit",
        )
        for name in CLASSES
    ]
    packs.append(ListedPack(name=REGISTERED, url=f"{url}/{REGISTERED}", version="1.0.0"))
    manager = EMBEDDED[kind](
        packs=packs, installed=[REGISTERED], online=False, seconds=0.01, reboot_seconds=0.1
    )
    with ComfyServer(packs=[manager], step_seconds=0.05) as server:
        add_test_content(server)
        yield Place(kind, server, url, lambda: None)


@contextmanager
def real(kind: str, folder: Path) -> Iterator[Place]:
    with git_repositories(folder) as repositories:
        for name, cls in CLASSES.items():
            code = "import contract_library\n" if name == BROKEN else NODE.format(name=cls)
            repositories.commit(name, {"__init__.py": code})
        packs = {f"{repositories.url}/{name}": [cls] for name, cls in CLASSES.items()}
        server = ManagedComfyUI(packs, legacy_page=kind.endswith("legacy"))
        server.add_registered(REGISTERED, "1.0.0")
        with server:
            changes = iter(range(1000))
            yield Place(
                kind,
                server,
                repositories.url,
                lambda: repositories.commit(PACK, {"more.py": f"# {next(changes)}\n"}),
            )


@pytest.fixture(scope="module", params=PLACES)
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    where, _, kind = request.param.partition("-")
    folder = tmp_path_factory.mktemp("git")
    with embedded(kind) if where == "embedded" else real(kind, folder / "repositories") as found:
        yield found


@pytest.fixture
def api(place: Place) -> Iterator[ComfyApi]:
    with place.client() as client:
        yield client


@pytest.fixture
def manager(api: ComfyApi) -> Manager:
    return api.ext.manager


@pytest.fixture
def pack(place: Place, manager: Manager) -> Iterator[str]:
    """The id of a pack that is installed for one test."""
    done(manager.install(place.url_of(PACK)))
    yield PACK
    if PACK in manager.installed():
        done(manager.uninstall(PACK))


def done(task: Task) -> Any:
    return task.result(timeout=LIMIT)


# -- work ---------------------------------------------------------------------------------


def test_a_manager_is_found_with_its_page(place: Place, manager: Manager) -> None:
    assert (manager.dialect, manager.version) == (place.kind, "V4.3")


def test_the_pack_of_a_class_is_installed(place: Place, manager: Manager) -> None:
    found = manager.pack_of(CLASSES[PACK])
    assert found is not None
    assert found.id == place.url_of(PACK)
    pack = done(manager.install(found))
    assert (pack.id, pack.enabled, pack.is_git, pack.aux_id) == (PACK, True, True, PACK)
    assert len(pack.ver) == 40
    assert manager.installed()[PACK] == pack
    assert PACK not in manager.installed(at_start=True)
    done(manager.uninstall(pack))


def test_a_pack_is_disabled_and_enabled(manager: Manager, pack: str) -> None:
    before = manager.installed()[pack]
    off = done(manager.disable(pack))
    assert (off.id, off.enabled) == (pack, False)
    assert done(manager.enable(off)) == before


def test_a_disabled_pack_is_enabled_by_installing_it(
    place: Place, manager: Manager, pack: str
) -> None:
    done(manager.disable(pack))
    assert done(manager.install(place.url_of(pack))).enabled


def test_a_pack_is_updated_to_a_new_commit(place: Place, manager: Manager, pack: str) -> None:
    before = manager.installed()[pack].ver
    place.change()
    after = done(manager.update(pack)).ver
    assert after != before
    assert done(manager.update(pack)).ver == after


def test_a_refused_repair_says_what_to_set(manager: Manager, pack: str) -> None:
    with pytest.raises(ManagerRefused, match=r"security_level = normal- .*config\.ini"):
        done(manager.fix(pack))


def test_an_uninstalled_pack_is_gone(manager: Manager, pack: str) -> None:
    assert done(manager.uninstall(pack)) is None
    assert pack not in manager.installed()
    with pytest.raises(NotFound, match=pack):
        manager.disable(pack)


def test_a_repository_that_no_list_has_is_not_asked_for(
    place: Place, manager: Manager, pack: str
) -> None:
    """In place of one of a listed name, the Manager would install the listed one."""
    for url in (place.url_of("contract-unknown"), f"https://other.example.com/{pack}"):
        with pytest.raises(NotFound, match="lists lack the repository"):
            manager.install(url)


def test_a_pack_of_the_registry_is_enabled_without_a_network(manager: Manager) -> None:
    """Manager 4 has a task for that, which does nothing then, and says that it did."""
    assert manager.installed()[REGISTERED].ver == "1.0.0"
    off = done(manager.disable(REGISTERED))
    assert (off.id, off.enabled, off.ver) == (REGISTERED, False, "1.0.0")
    assert done(manager.enable(REGISTERED)).enabled


def test_a_snapshot_is_saved_listed_and_removed(place: Place, manager: Manager, pack: str) -> None:
    current = manager.snapshots.current()["git_custom_nodes"]
    assert current[place.url_of(pack)]["hash"] == manager.installed()[pack].ver
    name = manager.snapshots.save()
    assert name in manager.snapshots.list()
    manager.snapshots.remove(name)
    assert name not in manager.snapshots.list()
    with pytest.raises(NotFound):
        manager.snapshots.remove(name)


@only_new_page
def test_a_task_behind_one_that_kills_the_worker_is_done(place: Place, manager: Manager) -> None:
    """An incomplete task of somebody else does so."""
    poison = {"ui_id": "1", "client_id": "other", "kind": "install", "params": {"id": "x"}}
    url = f"{place.server.url}/v2/manager/queue/task"
    assert requests.post(url, json=poison, timeout=LIMIT).status_code == 200
    assert done(manager.install(place.url_of(PACK))).enabled
    done(manager.uninstall(PACK))


@only_new_page
def test_events_of_a_task_go_to_its_client_alone(
    place: Place, api: ComfyApi, manager: Manager, pack: str, workflow: Callable[..., Any]
) -> None:
    with place.client() as other:
        heard, elsewhere = Heard(api), Heard(other.init(LIMIT))
        task = manager.update(pack)
        done(task)
        until(lambda: heard("cm-task-completed"))
        assert {event.data["ui_id"] for event in heard("cm-task-completed")} == {task.id}
        api.submit(workflow("sleep", seconds=0.0, ticks=1)).result(LIMIT)
        # Everybody is told of this prompt, later than of the task.
        until(lambda: any(event.queue_remaining for event in elsewhere("status")))
        assert not elsewhere("cm-task-completed", "cm-task-started")


# -- reboot -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rebooted(place: Place, workflow: Callable[..., Any]) -> Iterator[SimpleNamespace]:
    """What a client has after a reboot, in which two new packs take effect.

    A snapshot is to be restored, too, which has a pack that is gone.
    """
    with place.client() as api:
        manager = api.ext.manager
        task = manager.install(place.url_of(NEW))
        pack = done(task)
        for name in (BROKEN, PACK):
            done(manager.install(place.url_of(name)))
        manager.snapshots.restore(manager.snapshots.save())
        done(manager.uninstall(PACK))
        job = api.submit(workflow("sleep", seconds=600.0, ticks=10_000))
        until(lambda: job.prompt_id in {item.prompt_id for item in api.get_queue().running})
        before = command_line(place)
        manager.reboot(wait=300)
        yield SimpleNamespace(
            api=api, manager=manager, task=task, pack=pack, job=job, command_line=before
        )


def command_line(place: Place) -> bytes:
    """The program of a real server with its arguments; of an embedded one, nothing."""
    if isinstance(place.server, ComfyServer):
        return b""
    return Path(f"/proc/{place.server.pid}/cmdline").read_bytes()


@pytest.mark.posix("/proc")
@pytest.mark.parametrize("place", NEW_PAGE[1:], indirect=True, scope="module")
def test_the_real_process_replaces_itself_at_a_reboot(
    place: Place, rebooted: SimpleNamespace
) -> None:
    """So it dies with the tests then, too: the launcher of tests/comfyui.py sees to that."""
    assert isinstance(place.server, ManagedComfyUI)
    assert place.server.log_text().count("Starting server") == 2
    assert command_line(place) == rebooted.command_line


@only_new_page
def test_a_job_that_ran_at_a_reboot_is_lost(rebooted: SimpleNamespace) -> None:
    assert isinstance(rebooted.job.exception(LIMIT), JobLost)


@only_new_page
def test_a_workflow_with_a_new_class_runs_after_a_reboot(rebooted: SimpleNamespace) -> None:
    assert CLASSES[NEW] in rebooted.api.node_names()
    node = {"class_type": CLASSES[NEW], "inputs": {"a": 1}}
    assert rebooted.api.submit({"1": node}).result(LIMIT).prompt_id


@only_new_page
def test_a_failed_import_is_told_after_a_reboot(rebooted: SimpleNamespace) -> None:
    (failed,) = rebooted.manager.failed_imports()
    assert failed.id == BROKEN
    assert IMPORT_ERROR in failed.message


@only_new_page
def test_a_task_is_found_again_after_a_reboot(place: Place, rebooted: SimpleNamespace) -> None:
    with place.client() as other:
        assert done(other.ext.manager.task(rebooted.task.id)) == rebooted.pack


@only_new_page
def test_the_packs_at_the_start_are_told_anew_after_a_reboot(rebooted: SimpleNamespace) -> None:
    assert rebooted.manager.installed(at_start=True).keys() >= {NEW, BROKEN}


@only_new_page
def test_a_snapshot_with_packs_of_the_registry_is_not_restored_without_a_network(
    rebooted: SimpleNamespace,
) -> None:
    """Nobody is told."""
    assert PACK not in rebooted.manager.installed(at_start=True)
