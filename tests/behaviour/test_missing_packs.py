"""The node pack of a missing class, in checks and rejections, by the server's ComfyUI-Manager."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from comfy_client import ComfyApi, ComfyPool, Workflow
from comfy_client.errors import PromptRejected, WorkflowError
from comfy_client.routes.class_packs import ClassPacks
from comfy_client.testing import ComfyServer, ListedPack, Manager3, Manager4, Manager4Legacy
from comfy_client.transport.deadline import Deadline
from comfy_client.transport.http import Http
from tests.helpers.agents import agent_of
from tests.helpers.clients import LIMIT, quickly, until
from tests.helpers.command_line import CommandLine
from tests.helpers.graphs import txt2img
from tests.helpers.scripted import asked

#: The packs of the Manager's list: one of the registry, one of a repository, both with one class.
URL = "https://git.example.com/somebody/my-pack"
REPOSITORY = ListedPack(name="my-pack", url=URL, classes=["Mine", "Both"])
REGISTRY = ListedPack(
    name="registered", url="https://git.example.com/reg", version="1.0.0", classes=["Ours", "Both"]
)
KINDS: dict[str, Callable[..., Any]] = {
    "manager4": Manager4,
    "manager4-legacy": Manager4Legacy,
    "manager3": Manager3,
}


def graph_of(*classes: str, **meta: str) -> dict[str, Any]:
    """A workflow that runs but for nodes of these classes."""
    nodes = {
        f"{at}": {"class_type": name, "inputs": {}, "_meta": meta}
        for at, name in enumerate(classes, 100)
    }
    return {**txt2img(), **nodes}


def with_manager(kind: str = "manager4") -> ComfyServer:
    """A server with a Manager that lists the two packs."""
    return ComfyServer(packs=[KINDS[kind](packs=[REPOSITORY, REGISTRY])])


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def managed() -> Iterator[ComfyServer]:
    with with_manager() as running:
        yield running


@pytest.fixture
def api(managed: ComfyServer) -> Iterator[ComfyApi]:
    with ComfyApi(managed.url) as client:
        yield client


def lists_asked(server: ComfyServer) -> int:
    return len(asked(server, "/v2/customnode/getmappings")) + len(
        asked(server, "/customnode/getmappings")
    )


def hints(api: Any, *classes: str, **meta: str) -> list[str | None]:
    report = Workflow(graph_of(*classes, **meta)).check(api)
    return [one.hint for one in report.errors if one.type == "missing_node_type"]


def test_check_names_the_pack_and_how_to_install_it(kind: str) -> None:
    with with_manager(kind) as server, ComfyApi(server.url) as api:
        report = Workflow(graph_of("Mine", "Ours")).check(api)
        mine, ours = report.errors
        assert mine.to_dict()["pack"] == URL
        assert mine.hint == (
            f"it belongs to the node pack {URL!r}: install it with api.ext.manager.install({URL!r})"
        )
        assert ours.pack == "registered"
        assert "install it with api.ext.manager.install('registered')" in str(report)


def test_a_rejection_names_the_pack_and_how_to_install_it(kind: str) -> None:
    """Of each missing class, though the server names only the first."""
    with with_manager(kind) as server, ComfyApi(server.url) as api:
        with pytest.raises(PromptRejected) as caught:
            api.run(graph_of("Mine", "Ours"))
        assert {one.pack for one in caught.value.problems} == {URL, "registered"}
        assert "install it with api.ext.manager.install('registered')" in str(caught.value)


def test_a_rejection_without_a_reason_names_the_pack(managed: ComfyServer, api: ComfyApi) -> None:
    """Servers of 2024 answer 500 to an unknown class."""
    managed.faults.answer("POST", "/prompt", (500, {}, "Internal Server Error"))
    with pytest.raises(PromptRejected, match=r"api\.ext\.manager\.install") as caught:
        api.run(graph_of("Ours"))
    assert [one.pack for one in caught.value.problems] == ["registered"]


def test_a_run_with_check_names_the_pack(api: ComfyApi) -> None:
    with pytest.raises(WorkflowError, match=r"api\.ext\.manager\.install") as caught:
        api.run(graph_of("Ours"), check=True)
    assert caught.value.problems[0].pack == "registered"


def test_check_with_a_pool_names_the_pack(managed: ComfyServer) -> None:
    """From whichever server has a Manager."""
    with ComfyServer() as other, ComfyPool([other.url, managed.url]) as pool:
        until(lambda: all(one.state == "ready" for one in pool.status().servers))
        assert "'registered'" in str(hints(pool, "Ours"))


def test_the_manager_is_not_asked_unless_a_class_is_missing(
    managed: ComfyServer, api: ComfyApi
) -> None:
    graph = txt2img()
    assert Workflow(graph).check(api).ok
    sampler = next(one for one in graph.values() if one["class_type"] == "KSampler")
    sampler["inputs"]["steps"] = 0
    with pytest.raises(PromptRejected):
        api.run(graph)
    assert not Workflow(graph).check(api).ok
    assert lists_asked(managed) == 0


def test_the_manager_is_asked_once(managed: ComfyServer, api: ComfyApi) -> None:
    """Whichever classes are missing."""
    assert hints(api, "Mine", "Ours")
    assert hints(api, "Both")
    with pytest.raises(PromptRejected):
        api.run(graph_of("Mine"))
    assert lists_asked(managed) == 1


def test_a_server_without_a_manager_is_asked_for_it_once_in_two_dialects() -> None:
    with ComfyServer() as server, ComfyApi(server.url) as api:
        for _ in range(2):
            assert hints(api, "Mine") == ["is a custom node missing, or not loaded?"]
        assert lists_asked(server) == 2


def test_a_new_connection_asks_again(comfy: ComfyServer, http: Http) -> None:
    """The server may have got a Manager when it was restarted."""
    link = 1
    packs = ClassPacks(http, lambda: link)
    assert packs.of(["Mine"], Deadline()) == packs.of(["Mine"], Deadline()) == {}
    assert lists_asked(comfy) == 2
    link = 2
    comfy.on("GET", "/v2/customnode/getmappings", (200, {}, {"some": [["Mine"], {}]}))
    assert packs.of(["Mine"], Deadline()) == {"Mine": ("some",)}


def test_a_manager_that_is_silent_hides_no_error_and_costs_no_time(
    managed: ComfyServer, api: ComfyApi
) -> None:
    """It is not asked again soon, and no wait exceeds the caller's own."""
    managed.faults.delay("GET", "/v2/customnode/getmappings*")
    with quickly(), pytest.raises(WorkflowError, match="the server has no node class 'Mine'"):
        api.run(graph_of("Mine"), check=True, timeout=0.5)
    with quickly(), pytest.raises(PromptRejected, match="the server has no node class 'Mine'"):
        api.run(graph_of("Mine"), timeout=LIMIT)
    assert lists_asked(managed) == 1


@pytest.mark.parametrize(
    ("status", "body"),
    [
        *((status, "no") for status in (400, 403, 500, 502)),
        *((200, body) for body in ("<html>", "[]", '{"a": [["Mine"', '{"a": 5, "b": [7, null]}')),
    ],
)
def test_an_answer_of_another_shape_hides_no_error(
    managed: ComfyServer, api: ComfyApi, status: int, body: str
) -> None:
    managed.faults.answer("GET", "/v2/customnode/getmappings*", (status, {}, body))
    assert hints(api, "Mine") == ["is a custom node missing, or not loaded?"]


def test_an_id_that_no_pack_can_have_is_not_shown(managed: ComfyServer, api: ComfyApi) -> None:
    """Somebody might type what a hint says."""
    listed = {name: [["Mine"], {}] for name in ("a; rm -rf /", "--yes", "a\nb", "x" * 300)}
    managed.faults.answer("GET", "/v2/customnode/getmappings*", (200, {}, listed))
    assert hints(api, "Mine") == ["is a custom node missing, or not loaded?"]


def test_the_url_of_a_pack_may_have_a_port_but_no_login(
    managed: ComfyServer, api: ComfyApi
) -> None:
    url = "http://127.0.0.1:8080/my-pack.git"
    listed = {one: [["Mine"], {}] for one in (url, "https://user@example.com/my-pack")}
    managed.faults.answer("GET", "/v2/customnode/getmappings*", (200, {}, listed))
    assert api.packs_of_classes(["Mine"]) == {"Mine": (url,)}


def test_a_class_is_found_by_the_pattern_of_a_pack(managed: ComfyServer, api: ComfyApi) -> None:
    listed = {"some": [[], {"nodename_pattern": r" \(some\)$"}]}
    managed.faults.answer("GET", "/v2/customnode/getmappings*", (200, {}, listed))
    assert "'some'" in str(hints(api, "Mine (some)"))
    assert hints(api, "Mine") == ["is a custom node missing, or not loaded?"]


@pytest.mark.parametrize(
    "listed",
    [
        {"some": [["Mine"] * 200_000, {}]},
        {f"some-{at}": [[], {"nodename_pattern": f"x|{at}$"}] for at in range(3000)},
    ],
    ids=["a class many times", "many patterns"],
)
def test_a_list_of_a_hostile_server_takes_no_time(
    managed: ComfyServer, api: ComfyApi, listed: dict[str, Any]
) -> None:
    managed.faults.answer("GET", "/v2/customnode/getmappings*", (200, {}, listed))
    with quickly():
        api.packs_of_classes([f"Mine{at}" for at in range(3000)] + ["Mine"])


def test_a_class_of_comfyui_itself_belongs_to_no_pack(managed: ComfyServer, api: ComfyApi) -> None:
    """Packs that copy it have it, too."""
    url = "https://github.com/comfyanonymous/ComfyUI"
    listed = {name: [["NewNode"], {}] for name in ("a-copy", url)}
    managed.faults.answer("GET", "/v2/customnode/getmappings*", (200, {}, listed))
    [hint] = hints(api, "NewNode")
    assert str(hint).startswith("it is one of ComfyUI's own: ")
    [hint] = hints(api, "NewNode", cnr_id="comfy-core")
    assert str(hint).startswith("the file counts it among ComfyUI's own: ")
    [hint] = hints(api, "NewNode", cnr_id="original")
    assert str(hint).startswith("it belongs to the node pack 'original' (or to 'a-copy'): ")


def test_the_pack_that_the_workflow_names_comes_first(api: ComfyApi) -> None:
    [hint] = hints(api, "Both", cnr_id="registered")
    assert hint == (
        f"it belongs to the node pack 'registered' (or to {URL!r}): install it with "
        "api.ext.manager.install('registered')"
    )
    [hint] = hints(api, "Both", aux_id="Somebody/My-Pack")
    assert f"it belongs to the node pack {URL!r} (or to 'registered')" in str(hint)


def test_the_command_line_names_the_command_that_installs_the_pack(
    managed: ComfyServer, tmp_path: Path
) -> None:
    """For the server that was asked; also in JSON."""
    (tmp_path / "w.json").write_text(json.dumps(graph_of("Mine")))
    comfy_client, line = CommandLine(tmp_path), f"comfy-client packs install {URL}"
    host = ("--host", managed.url)
    ended = comfy_client("check", "w.json", *host)
    assert f"install it with {line} --host {managed.url}" in ended.out
    [report] = comfy_client.json("check", "w.json", *host, status=4)
    ended = comfy_client("run", "w.json", *host)
    assert f"install it with {line} --host {managed.url}" in ended.err
    [error] = comfy_client.json("run", "w.json", *host, status=4)
    for [problem] in (report["problems"], error["problems"]):
        assert problem["pack"] == URL
        assert line in problem["hint"]
        assert "api.ext" not in problem["hint"]


def test_check_of_several_files_names_the_pack_of_each(
    managed: ComfyServer, tmp_path: Path
) -> None:
    """The Manager is asked once for all of them."""
    (tmp_path / "a.json").write_text(json.dumps(graph_of("Mine")))
    (tmp_path / "b.json").write_text(json.dumps(graph_of("Ours")))
    comfy_client = CommandLine(tmp_path, managed.url)
    ended = comfy_client("check", "a.json", "b.json")
    assert ended.status == 4
    for name, pack in (("a.json", URL), ("b.json", "registered")):
        [line] = [one for one in ended.lines if one.startswith(name)]
        assert f"install it with comfy-client packs install {pack}" in line
    assert lists_asked(managed) == 1


def test_agents_are_told_the_pack_of_a_missing_class(managed: ComfyServer, tmp_path: Path) -> None:
    """By the tool ``inputs``, and by the refusal of ``run``."""
    with agent_of(managed.url, tmp_path) as agent:
        for answer in (
            agent("inputs", workflow=graph_of("Ours")),
            agent("run", workflow=graph_of("Ours")),
        ):
            [problem] = answer.data["problems"]
            assert problem["text"].endswith("it belongs to the node pack 'registered': install it")
            assert "api.ext" not in str(answer.facts)
