"""ComfyUI-Manager 3, and Manager 4 with its old page; what was recorded is in another file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
import pytest
import requests

from comfy_client.testing import ComfyServer, ListedModel, ListedPack, Manager3, Manager4Legacy
from comfy_client.testing.packs.fake_packs import OfferedPack
from comfy_client.testing.packs.manager4_legacy import LegacyPack
from tests.helpers.bare import Socket, get, post

URL = "https://git.example.com/my-pack"
MINE = ListedPack(name="my-pack", url=URL, classes=["Mine"], update="newer")
MODEL = ListedModel(filename="a.safetensors", url="https://models.example.com/a", save_path="loras")
ASKED = {"id": "my-pack", "version": "unknown", "files": [URL], "mode": "cache", "ui_id": "1"}
FILE = {
    "base": MODEL.base,
    "filename": MODEL.filename,
    "save_path": MODEL.save_path,
    "type": MODEL.type,
    "ui_id": "2",
    "url": MODEL.url,
}


@pytest.fixture
def manager3() -> Iterator[ComfyServer]:
    with ComfyServer(packs=[Manager3(packs=[MINE], models=[MODEL])], speed=1000) as running:
        yield running


@pytest.fixture
def legacy() -> Iterator[ComfyServer]:
    made = Manager4Legacy(packs=[MINE], models=[MODEL])
    with ComfyServer(packs=[made], speed=1000) as running:
        yield running


def installed(server: ComfyServer) -> Any:
    [pack] = server.packs.values()
    assert isinstance(pack, Manager3 | Manager4Legacy)
    return pack.installed


def work(server: ComfyServer, kind: str, body: Any) -> Any:
    """What Manager 3 tells at the end of work."""
    with Socket(server) as events:
        assert post(server, f"/manager/queue/{kind}", body).status_code == 200
        assert post(server, "/manager/queue/start", None).status_code == 200
        return until_status(events, "done")


def batch(server: ComfyServer, **body: Any) -> Any:
    """What the old page of Manager 4 tells at the end of a batch."""
    with Socket(server) as events:
        assert post(server, "/v2/manager/queue/batch", body).json() == {"failed": []}
        told = until_status(events, "batch-done")
        until_status(events, "all-done")
        return told


def until_status(events: Socket, status: str) -> Any:
    while True:
        data = events.until("cm-queue-status")[-1]["data"]
        if data["status"] == status:
            return data


@pytest.mark.parametrize("name", ["manager3", "manager4-legacy"])
def test_old_managers_are_packs_by_name(name: str) -> None:
    prefix = "" if name == "manager3" else "/v2"
    with ComfyServer(packs=[name]) as server:
        answer = get(server, f"{prefix}/customnode/getlist?mode=local").json()
        assert answer["channel"] == "local"
        assert {pack["state"] for pack in answer["node_packs"].values()} == {"not-installed"}


def test_manager_3_installs_updates_and_brings_classes_after_a_restart(
    manager3: ComfyServer,
) -> None:
    assert work(manager3, "install", ASKED)["nodepack_result"] == {"1": "success"}
    assert work(manager3, "update_all", None)["nodepack_result"] == {"my-pack": "success"}
    manager3.restart()
    assert "Mine" in get(manager3, "/object_info").json()
    work(manager3, "disable", ASKED)
    assert installed(manager3) == {"my-pack": False}
    manager3.reset()
    assert installed(manager3) == {}


def test_manager_3_installs_models_of_its_list(manager3: ComfyServer) -> None:
    assert work(manager3, "install_model", FILE)["model_result"] == {"2": "success"}
    assert "a.safetensors" in get(manager3, "/models/loras").json()
    models = get(manager3, "/externalmodel/getlist?mode=local").json()["models"]
    assert [one["installed"] for one in models if one["url"] == MODEL.url] == ["True"]
    other = {**FILE, "url": "https://models.example.com/other"}
    assert post(manager3, "/manager/queue/install_model", other).status_code == 400


def test_manager_3_takes_snapshots_by_the_body(manager3: ComfyServer) -> None:
    post(manager3, "/snapshot/save", None)
    [name] = get(manager3, "/snapshot/getlist").json()["items"]
    assert post(manager3, f"/snapshot/remove?target={name}", None).status_code == 400
    assert post(manager3, "/snapshot/restore", {"target": name}).status_code == 200
    assert post(manager3, "/snapshot/remove", {"target": name}).status_code == 200
    assert get(manager3, "/snapshot/getlist").json() == {"items": []}


def test_a_batch_holds_packs_and_models(legacy: ComfyServer) -> None:
    told = batch(legacy, install=[ASKED], install_model=[FILE], batch_id="b")
    assert (told["nodepack_result"], told["model_result"]) == ({"1": "success"}, {"2": "success"})
    assert get(legacy, "/v2/manager/queue/history?id=b").json()["done_count"] == 2
    assert batch(legacy, reinstall=[ASKED])["nodepack_result"] == {"1": "success"}
    assert batch(legacy, update_all="local")["nodepack_result"] == {"my-pack": "success"}
    assert installed(legacy) == {"my-pack": True}


def test_a_batch_refuses_a_model_that_is_not_in_the_list(legacy: ComfyServer) -> None:
    """As the real one does (4.3), which names it by an id that its own page does not send."""
    other = {**FILE, "id": "other", "url": "https://models.example.com/other"}
    told = post(legacy, "/v2/manager/queue/batch", {"install_model": [other]}).json()
    assert told == {"failed": ["other"]}


def test_the_rest_of_the_batches_is_counted(legacy: ComfyServer) -> None:
    legacy.pause()
    with Socket(legacy) as events:
        for name in ("a", "b"):
            post(legacy, "/v2/manager/queue/batch", {"disable": [ASKED], "batch_id": name})
        assert get(legacy, "/v2/manager/queue/status").json()["total_count"] == 2
        legacy.resume()
        told = [until_status(events, "batch-done")["remaining_batch_count"] for _ in "ab"]
    assert told == [2, 1]


def test_a_security_level_refuses_packs_of_a_batch_and_of_manager_3() -> None:
    with ComfyServer(packs=[Manager4Legacy(security_level="strong")]) as server:
        body = {"install": [ASKED], "disable": [ASKED], "fix": [ASKED]}
        told = post(server, "/v2/manager/queue/batch", body).json()
        assert told == {"failed": ["my-pack", "my-pack"]}
    with ComfyServer(packs=[Manager3(security_level="strong")]) as server:
        assert post(server, "/manager/queue/install", ASKED).status_code == 403
        assert post(server, "/manager/queue/disable", ASKED).status_code == 200


@pytest.mark.parametrize("body", [None, [], {}, {"version": "unknown", "files": []}])
def test_wrong_packs_fail_before_the_worker_has_them(manager3: ComfyServer, body: Any) -> None:
    for kind in ("install", "disable", "reinstall"):
        assert post(manager3, f"/manager/queue/{kind}", body).status_code == 500
    assert get(manager3, "/manager/queue/status").json()["total_count"] == 0
    with ComfyServer(packs=["manager4-legacy"], speed=1000) as server:
        answer = post(server, "/v2/manager/queue/batch", {"disable": [body], "install_model": [{}]})
        assert answer.status_code == 500
        assert get(server, "/v2/manager/queue/status").json()["is_processing"] is False


class Failing(frozenset[str]):
    """Addresses of which nobody can say whether they can be reached."""

    def __contains__(self, address: object) -> bool:
        raise RuntimeError


def test_an_error_in_work_is_its_result_and_the_worker_goes_on() -> None:
    made = Manager4Legacy(packs=[MINE], models=[MODEL]).pack
    assert isinstance(made, LegacyPack)
    failing = LegacyPack(attrs.evolve(made.options, unreachable=Failing()))
    with ComfyServer(packs=[OfferedPack(failing)], speed=1000) as server:
        told = batch(server, disable=[ASKED], install_model=[FILE])
        assert told["model_result"]["2"].startswith("Exception: ('install_model', ")
        assert told["nodepack_result"] == {"1": "success"}
        assert batch(server, disable=[ASKED])["nodepack_result"] == {"1": "success"}


def test_old_managers_take_a_thousand_tasks_at_most(legacy: ComfyServer) -> None:
    body = {"disable": [ASKED] * 1001}
    assert post(legacy, "/v2/manager/queue/batch", body).status_code == 503
    assert batch(legacy, disable=[ASKED])["done_count"] == 1
    packs = [ListedPack(name=f"pack{at}", url=f"https://a.example.com/{at}") for at in range(1001)]
    manager = Manager3(packs=packs, installed=[pack.name for pack in packs])
    with ComfyServer(packs=[manager]) as server:
        assert post(server, "/manager/queue/update_all", None).status_code == 503
        assert get(server, "/manager/queue/status").json()["total_count"] == 0


@pytest.mark.parametrize("url", ["https://git.example.com/other.git", "file:///other"])
def test_a_repository_is_installed_by_its_url_if_that_is_allowed(url: str) -> None:
    with ComfyServer(packs=[Manager3(allow_git_url=True, allow_pip=True)]) as server:
        status = post_text(server, "/customnode/install/git_url", url)
        assert (status, installed(server)) == (
            (200, {"other": True}) if url.startswith("https") else (400, {})
        )
        assert post(server, "/customnode/install/pip", {"packages": "x"}).status_code == 200


def post_text(server: ComfyServer, path: str, text: str) -> int:
    """The status of the answer to a body that is no JSON."""
    return requests.post(server.url + path, data=text, timeout=30).status_code
