"""ComfyUI-Manager by ``api.ext.manager``: Manager 4, its legacy page, and Manager 3."""

from __future__ import annotations

import re
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from comfy_client import ComfyApi
from comfy_client.errors import (
    AuthenticationError,
    ManagerRefused,
    NotFound,
    NotSupported,
    TaskFailed,
    TaskTimeout,
)
from comfy_client.ext.manager import Manager, packs_with
from comfy_client.models.packs import KnownPack
from comfy_client.testing import ComfyServer
from comfy_client.typescript import MANAGER
from tests.helpers.bare import post
from tests.helpers.clients import LIMIT, until, until_connected
from tests.helpers.interrupts import press_ctrl_c_in_a_call
from tests.helpers.managers import KINDS, MINE, MODEL, TINY, URL, Hasty

#: The Managers that want whole entries of their lists.
OLD = ("manager4-legacy", "manager3")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server(kind: str) -> Iterator[ComfyServer]:
    pack = KINDS[kind](packs=[MINE], models=[TINY], reboot_seconds=1)
    with ComfyServer(packs=[pack], speed=1000) as running:
        yield running
        # The tasks of others stay.
        assert not [request for request in running.requests if request.path.endswith("/reset")]


@pytest.fixture
def api(server: ComfyServer) -> Iterator[ComfyApi]:
    with Hasty(server.url) as client:
        yield client


@pytest.fixture
def manager(api: ComfyApi) -> Manager:
    return api.ext.manager


def test_the_manager_is_found_by_asking(manager: Manager, kind: str) -> None:
    assert manager.dialect == kind
    assert manager.version.startswith("V3" if kind == "manager3" else "V4")


def test_a_server_without_a_manager_says_how_to_get_one() -> None:
    with (
        ComfyServer() as server,
        Hasty(server.url) as api,
        pytest.raises(NotSupported, match=r"pip install comfyui-manager.*--enable-manager"),
    ):
        api.ext.manager.installed()


def test_the_pack_of_a_class_is_installed_and_there_after_a_reboot(
    api: ComfyApi, manager: Manager
) -> None:
    found = manager.pack_of("Mine")
    assert found is not None
    assert found.id == URL
    pack = manager.install(found).result(timeout=60)
    assert pack is not None
    assert (pack.id, pack.enabled, pack.is_git) == ("my-pack", True, True)
    assert "Mine" not in api.node_names()
    manager.reboot(wait=60)
    assert "Mine" in api.node_names()
    assert manager.installed()["my-pack"] == pack


def test_a_pack_is_disabled_enabled_updated_and_removed(manager: Manager) -> None:
    manager.install(URL).result(timeout=60)
    off = manager.disable("my-pack").result(timeout=60)
    assert off is not None
    assert not off.enabled
    on = manager.enable(off).result(timeout=60)
    assert on is not None
    assert on.enabled
    updated = manager.update("my-pack").result(timeout=60)
    assert updated is not None
    assert manager.uninstall(updated).result(timeout=60) is None
    assert manager.installed() == {}


def test_work_on_a_pack_that_is_not_installed_is_refused_before_the_server_is_asked(
    manager: Manager, server: ComfyServer
) -> None:
    for work in (manager.disable, manager.enable, manager.uninstall, manager.update, manager.fix):
        with pytest.raises(NotFound, match="no-such-pack"):
            work("no-such-pack")
    assert not [r for r in server.requests if r.method == "POST"]


@pytest.mark.parametrize("kind", ["manager4", "manager3"])
def test_an_unknown_pack_is_an_error_of_the_task(manager: Manager) -> None:
    task = manager.install("no-such-pack")
    with pytest.raises(TaskFailed, match="no-such-pack"):
        task.result(timeout=60)
    assert task.state == "failed"


def test_a_repository_that_the_lists_lack_is_refused_before_the_manager_is_asked(
    manager: Manager, server: ComfyServer
) -> None:
    """The Manager would install the listed one of that name."""
    for url in ("https://git.example.com/no-such-pack", "https://u:SECRET@evil.example/my-pack"):
        with pytest.raises(NotFound, match=r"lists lack the repository .*install_git") as caught:
            manager.install(url)
        assert "SECRET" not in str(caught.value)
    assert str(caught.value).endswith(f"install_git; the nearest known packs are: {URL}")
    assert not [r for r in server.requests if r.method == "POST"]
    written = f"{URL.replace('git.example', 'GIT.example')}.git/"
    assert manager.install(written).result(timeout=60) is not None


def test_a_task_is_a_future(manager: Manager) -> None:
    ended: list[Any] = []
    task = manager.install(URL)
    task.add_done_callback(ended.append)
    assert task.wait(timeout=60)
    assert not task.cancel()
    assert task.done()
    assert task.state == "done"
    until(lambda: ended == [task])


def test_a_wait_ends_with_the_callers_time(server: ComfyServer, manager: Manager) -> None:
    server.pause()
    task = manager.install(URL)
    assert not task.wait(0)
    with pytest.raises(TaskTimeout) as caught:
        task.result(timeout=0.01)
    assert caught.value.task_id == task.id
    server.resume()
    assert task.result(timeout=60) is not None


@pytest.mark.posix("signals to one thread")
def test_a_ctrl_c_that_comes_just_before_a_wait_ends_it(
    server: ComfyServer, manager: Manager
) -> None:
    """As one in another thread: Python notes it, and the system does not wake the main thread."""
    server.pause()
    task = manager.install(URL)
    at: list[float] = []

    def press() -> None:
        at.append(time.monotonic())
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    thread = press_ctrl_c_in_a_call(press=press)
    with pytest.raises(KeyboardInterrupt):
        task.result(2 * LIMIT)
    assert time.monotonic() - at[0] < LIMIT
    thread.join()


def test_the_wait_for_our_own_reboot_does_not_ask_whether_the_server_runs(
    server: ComfyServer, manager: Manager, caplog: pytest.LogCaptureFixture
) -> None:
    server.speed = 1e-6  # so that it stays away
    with ThreadPoolExecutor(1) as pool:
        rebooted = pool.submit(manager.reboot, wait=60)
        until(lambda: re.search(r"waiting up to .* for the server to restart", caplog.text))
        server.speed = 1000
        rebooted.result(60)
    assert "is ComfyUI running" not in caplog.text


def test_a_task_is_found_again_after_a_reboot_and_in_another_client(
    server: ComfyServer, manager: Manager
) -> None:
    task = manager.install(URL)
    pack = task.result(timeout=60)
    manager.reboot(wait=60)
    with Hasty(server.url) as other:
        assert other.ext.manager.task(task.id).result(timeout=60) == pack


def test_a_forgotten_task_of_a_pack_that_is_not_there_has_failed(manager: Manager) -> None:
    task = manager.task("install:0123456789ab:my-pack")
    with pytest.raises(TaskFailed, match="has forgotten this task, but the pack is not installed"):
        task.result(timeout=60)


@pytest.mark.parametrize("kind", ["manager4"])
def test_tasks_behind_an_incomplete_one_of_somebody_else_are_done(
    server: ComfyServer, manager: Manager
) -> None:
    """It kills the worker of the real server."""
    poison = {"ui_id": "1", "client_id": "other", "kind": "install", "params": {"id": "my-pack"}}
    server.pause()
    post(server, "/v2/manager/queue/task", poison)
    task = manager.install(URL)
    server.resume()
    assert task.result(timeout=60) is not None


def test_success_of_work_that_does_not_show_is_an_error(
    server: ComfyServer, manager: Manager
) -> None:
    manager.install(URL).result(timeout=60)
    there = manager.installed()["my-pack"].raw
    with (
        server.faults.rewrite("GET", "*/customnode/installed", lambda _: {"my-pack": there}),
        pytest.raises(TaskFailed, match="says 'success', but the pack is still enabled"),
    ):
        manager.disable("my-pack").result(timeout=60)


def test_a_model_is_downloaded(api: ComfyApi, manager: Manager) -> None:
    manager.install_model(MODEL, "loras").result(timeout=60)
    assert "tiny.safetensors" in api.get_models("loras")


@pytest.mark.parametrize("kind", OLD)
def test_a_model_that_the_list_lacks_is_refused_before_the_manager_is_asked(
    manager: Manager, server: ComfyServer
) -> None:
    with pytest.raises(NotFound, match="models of its own list only"):
        manager.install_model("https://models.example.com/other.safetensors", "loras")
    assert not [r for r in server.requests if r.method == "POST"]


@pytest.mark.parametrize("kind", OLD)
def test_the_newest_commit_of_a_registered_pack_is_asked_for_with_its_repository(
    manager: Manager, server: ComfyServer
) -> None:
    """The security settings of the Manager allow only what its lists have."""
    pack = manager.install("example-styles", "nightly").result(timeout=60)
    assert pack is not None
    assert pack.is_git
    [asked] = [one for one in server.requests if b"example-styles" in one.body]
    assert b'"repository":"https://git.example.com/example-styles"' in asked.body


def test_snapshots_are_saved_listed_and_removed(manager: Manager) -> None:
    name = manager.snapshots.save()
    assert name in manager.snapshots.list()
    assert "pips" in manager.snapshots.current()
    manager.snapshots.remove(name)
    assert name not in manager.snapshots.list()
    with pytest.raises(NotFound):
        manager.snapshots.restore(name)


def test_a_saved_snapshot_that_no_list_has_is_an_error(
    server: ComfyServer, manager: Manager
) -> None:
    with (
        server.faults.rewrite("GET", "*/snapshot/getlist", lambda _: {"items": []}),
        pytest.raises(TaskFailed, match="lists none"),
    ):
        manager.snapshots.save()


def test_the_error_for_an_unknown_snapshot_names_the_newest_of_many(
    server: ComfyServer, manager: Manager
) -> None:
    many = [f"{year}-01-01_snapshot" for year in range(1000, 4000)]
    with (
        server.faults.rewrite("GET", "*/snapshot/getlist", lambda _: {"items": many}),
        pytest.raises(NotFound, match="no snapshot 'mine'; there are: 3999-01-01") as caught,
    ):
        manager.snapshots.remove("mine")
    assert len(str(caught.value)) < 1200


def test_settings_are_read_and_changed(manager: Manager) -> None:
    before = manager.settings()
    assert before.keys() == {"db_mode", "update_policy", "channel"}
    manager.set(db_mode="local", channel="dev")
    assert manager.settings() == {**before, "db_mode": "local", "channel": "dev"}
    assert "dev" in manager.channels()


@pytest.mark.parametrize("kind", KINDS)
def test_a_refusal_by_the_security_level_says_what_to_set(kind: str) -> None:
    pack = KINDS[kind](packs=[MINE], security_level="strong")
    with ComfyServer(packs=[pack], speed=1000) as server, Hasty(server.url) as api:
        with pytest.raises(ManagerRefused, match="security_level") as caught:
            api.ext.manager.install(URL).result(timeout=60)
        assert (caught.value.kind, caught.value.name) == ("install", "my-pack")
        with pytest.raises(ManagerRefused, match="restart") as caught:
            api.ext.manager.reboot()
        assert caught.value.kind == "reboot"


def test_a_manager_is_asked_for_once_for_each_connection(
    server: ComfyServer, api: ComfyApi, manager: Manager
) -> None:
    assert manager.available()
    asked = len(versions_asked(server))
    manager.installed()
    assert api.ext.manager.available()
    assert len(versions_asked(server)) == asked
    server.faults.drop()  # as of a server that restarts
    until_connected(server, api, 2)
    assert manager.available()
    assert len(versions_asked(server)) == 2 * asked
    with ComfyServer() as other, ComfyApi(other.url) as without:
        assert not without.ext.manager.available()


def versions_asked(server: ComfyServer) -> list[Any]:
    return [one for one in server.requests if one.path.endswith("/manager/version")]


def test_all_enabled_packs_are_updated(manager: Manager) -> None:
    manager.install(URL).result(timeout=60)
    manager.install("https://git.example.com/example-upscalers").result(timeout=60)
    manager.disable("example-upscalers").result(timeout=60)
    tasks = manager.update_all()
    assert [task.name for task in tasks] == ["my-pack"]
    updated = tasks[0].result(timeout=60)
    assert updated is not None
    assert updated.ver == "newer"


@pytest.mark.parametrize("level", ["normal", "weak"])
def test_a_pack_is_repaired_where_the_security_level_allows_it(kind: str, level: Any) -> None:
    pack = KINDS[kind](packs=[MINE], installed=["my-pack"], security_level=level)
    with ComfyServer(packs=[pack], speed=1000) as server, Hasty(server.url) as api:
        if level == "weak" or kind == "manager3":
            assert fixed(api) is not None
        else:
            with pytest.raises(ManagerRefused, match="set security_level = normal- if"):
                fixed(api)


def fixed(api: ComfyApi) -> Any:
    return api.ext.manager.fix("my-pack").result(timeout=60)


def test_comfyui_is_updated_and_its_versions_are_listed_from_a_git_repository_only(
    manager: Manager,
) -> None:
    """The embedded server is none; what a real one answered is in the recordings."""
    said = r"not installed with git \(git clone\).*; update it in the way"
    with pytest.raises(NotSupported, match=said) as caught:
        manager.comfyui_versions()
    assert caught.value.hint is None
    with pytest.raises(TaskFailed, match=said):
        manager.update_comfyui().result(timeout=60)


def test_the_versions_of_comfyui_are_those_that_the_manager_lists(
    manager: Manager, server: ComfyServer, kind: str
) -> None:
    told = {"versions": ["nightly", "v0.3.75", 7], "current": "v0.3.75"}
    prefix = "" if kind == "manager3" else "/v2"
    server.on("GET", f"{prefix}/comfyui_manager/comfyui_versions", (200, {}, told))
    found = manager.comfyui_versions()
    assert (found.versions, found.current) == (("nightly", "v0.3.75"), "v0.3.75")


def test_an_empty_install_is_an_error_before_anything_is_sent(manager: Manager) -> None:
    with pytest.raises(ValueError, match="not the URL of a repository"):
        manager.install_git("https://git.example.com/")
    with pytest.raises(ValueError, match="no package is given"):
        manager.install_pip()


def test_a_manager_shows_its_server(manager: Manager, server: ComfyServer) -> None:
    assert repr(manager) == f"<Manager of {server.url}>"


def test_versions_of_comfyui_that_a_login_hides_are_not_about_git(
    manager: Manager, server: ComfyServer
) -> None:
    route = "*/comfyui_manager/comfyui_versions"
    with server.faults.answer("GET", route, (401, {}, None)), pytest.raises(AuthenticationError):
        manager.comfyui_versions()


@pytest.mark.parametrize("kind", OLD)
def test_managers_that_know_no_versions_of_comfyui_take_none(manager: Manager) -> None:
    with pytest.raises(NotSupported, match=r"update_comfyui\(version=...\): only Manager 4"):
        manager.update_comfyui("v0.3.0")


@pytest.mark.parametrize("allows", [True, False])
def test_any_repository_and_packages_are_installed_where_that_is_allowed(
    kind: str, allows: bool
) -> None:
    pack = KINDS[kind](allow_git_url=allows, allow_pip=allows)
    with ComfyServer(packs=[pack], speed=1000) as server, Hasty(server.url) as api:
        manager = api.ext.manager
        if kind == "manager4":
            with pytest.raises(NotSupported, match="--enable-manager-legacy-ui"):
                manager.install_git(URL)
            with pytest.raises(NotSupported, match="--enable-manager-legacy-ui"):
                manager.install_pip("rich")
        elif allows:
            task = manager.install_git(f"{URL}.git")
            found = task.result(timeout=60)
            assert found is not None
            assert (found.id, task.kind, task.name) == ("my-pack", "install-git", "my-pack")
            assert manager.task(task.id).result(timeout=60) == found
            assert manager.install_pip("rich", "attrs").result(timeout=60) is None
            [asked] = [one for one in server.requests if one.path.endswith("/install/pip")]
            assert asked.body == b"rich attrs"
        else:
            with pytest.raises(ManagerRefused, match="set allow_git_url_install = true"):
                manager.install_git(URL).result(timeout=60)
            with pytest.raises(ManagerRefused, match="set allow_pip_install = true"):
                manager.install_pip("rich").result(timeout=60)


def test_packs_that_fail_to_import_are_told_with_their_tracebacks(manager: Manager) -> None:
    manager.install("https://git.example.com/example-broken").result(timeout=60)
    manager.install(URL).result(timeout=60)
    assert manager.failed_imports() == []
    manager.reboot(wait=60)
    [failure] = manager.failed_imports()
    assert failure.id == "example-broken"
    assert "No module named 'example_library'" in failure.message


def test_a_refused_change_of_a_snapshot_says_what_to_set(kind: str) -> None:
    pack = KINDS[kind](packs=[MINE], security_level="strong")
    with ComfyServer(packs=[pack], speed=1000) as server, Hasty(server.url) as api:
        snapshots = api.ext.manager.snapshots
        name = snapshots.save()
        for change in (snapshots.restore, snapshots.remove):
            with pytest.raises(ManagerRefused, match=r"the snapshot.*set security_level"):
                change(name)
        assert name in snapshots.list()


def test_a_pattern_finds_a_class_that_no_pack_names_unless_it_may_be_slow_or_wrong() -> None:
    named = KnownPack("named", classes=("My Node",))
    fitting = KnownPack("fitting", pattern=r" Node$")
    slow = [r"No+de", r"|\\+", "(|)" * 20 + "Node"]
    packs = [KnownPack("none", pattern=one) for one in (*slow, "[Node")]
    packs += [fitting, named]
    assert packs_with("My Node", packs) == [named, fitting]
    assert packs_with("Other", packs) == []


@pytest.mark.parametrize(
    ("url", "folder", "filename", "said"),
    [
        (MODEL, "", None, "folder= must be a path below"),
        (MODEL, "../x", None, "folder= must be a path below"),
        (MODEL, None, None, "folder= must be a string"),
        (MODEL, "loras", "../../evil.safetensors", "filename= must be a path below"),
        ("ftp://u:SECRET@models.example.com/a.safetensors", "loras", None, "url= must have http"),
        ("https://u:SECRET@models.example.com/?token=SECRET", "loras", None, "give filename="),
    ],
)
def test_a_model_without_a_place_is_refused_without_secrets(
    url: str, folder: Any, filename: str | None, said: str
) -> None:
    with pytest.raises((ValueError, TypeError), match=said) as caught:
        ComfyApi().ext.manager.install_model(url, folder, filename)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("folder", ["clip", "unet"])
@pytest.mark.parametrize("kind", ["manager4"])
def test_a_model_in_a_folder_of_an_old_name_is_found_where_the_server_lists_it(
    manager: Manager, folder: str
) -> None:
    assert manager.install_model(MODEL, folder).result(timeout=60) is None


@pytest.mark.parametrize("pack", [None, "", " ", 7])
def test_a_name_that_is_no_pack_is_refused(pack: Any) -> None:
    manager = ComfyApi().ext.manager
    for work in (manager.install, manager.disable):
        with pytest.raises((ValueError, TypeError), match=r"pack is .*an id, a URL"):
            work(pack)


def test_without_a_socket_a_restart_with_another_manager_is_noticed(kind: str) -> None:
    other = "manager3" if kind == "manager4" else "manager4"
    with (
        ComfyServer(packs=[kind], speed=1000) as server,
        Hasty(server.url, transport="poll") as api,
    ):
        manager = api.ext.manager
        assert manager.dialect == kind
        port = server.port
        server.stop()
        with ComfyServer(packs=[other], speed=1000, port=port):
            assert manager.dialect == other
            manager.install("example-styles").result(timeout=60)
        with ComfyServer(port=port):
            assert not manager.available()
            with pytest.raises(NotSupported, match="pip install comfyui-manager"):
                manager.installed()


@pytest.mark.parametrize("name", MANAGER)
def test_names_of_the_reference_are_answered_with_the_python_way(name: str) -> None:
    api = ComfyApi()
    with pytest.raises(AttributeError, match=re.escape(f"; the Python way: {MANAGER[name]}")):
        getattr(api.ext.manager, name)
    for told in re.findall(r"api\.ext\.manager\.(\w+)", MANAGER[name]):
        assert hasattr(Manager, told)
