"""A server of 2,700 node classes with 102 MiB of definitions works like any other."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from comfy_client import ComfyApi, ComfyPool, Workflow
from comfy_client.errors import PromptRejected, UnexpectedResponse, WorkflowError
from comfy_client.routes.definitions import DefinitionFile, NodeDefinitions
from comfy_client.transport.deadline import Deadline
from tests.helpers.clients import LIMIT
from tests.helpers.large_server import (
    FILES,
    LargeServer,
    OtherProcess,
    in_another_process,
    large_server,
    name_of,
    workflow,
)

MIB = 1 << 20
#: Reads all definitions, and prints how much memory that took.
_STREAM = """
import json, resource, sys
from comfy_client import ComfyApi
with ComfyApi(sys.argv[1], transport="poll", definition_cache=False) as api:
    api.node_definitions(["Class0001"])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    savers = [name for name, one in api.iter_node_definitions() if one["output_node"]]
    names = api.node_names()
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([len(names), savers, (after - before) * 1024]))
"""


@pytest.fixture(scope="module")
def huge() -> Iterator[OtherProcess]:
    with in_another_process() as server:
        yield server


@pytest.fixture
def server(huge: OtherProcess) -> OtherProcess:
    huge.asked_for("")
    return huge


@pytest.fixture
def small() -> Iterator[LargeServer]:
    """Of the same kind, for questions that need no size."""
    with large_server(60, FILES[:50]) as server:
        yield server


@contextmanager
def memory(most: int) -> Iterator[None]:
    """The objects of this process take no more than this at any time."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


def client(
    server: LargeServer | OtherProcess, cache: Path | bool = False, **options: Any
) -> ComfyApi:
    return ComfyApi(server.url, definition_cache=cache, transport="poll", **options)


# -- what a workflow needs -----------------------------------------------------------------


def test_a_workflow_is_checked_by_its_own_classes(server: OtherProcess) -> None:
    """They are asked for one by one; so little memory is needed."""
    with client(server) as api, memory(40 * MIB):
        assert Workflow(workflow(40)).check(api)
    assert sorted(server.asked_for("/object_info")) == [
        f"/object_info/{name_of(number)}" for number in range(40)
    ]


def test_a_saved_file_is_converted_by_its_own_classes(server: OtherProcess) -> None:
    node = {"id": 1, "type": name_of(0), "widgets_values": [FILES[3], 0.5], "mode": 0}
    saved = {"nodes": [node], "links": [], "version": 0.4, "last_node_id": 1, "last_link_id": 0}
    with client(server) as api:
        loaded = Workflow.load(json.dumps(saved), api)
    assert loaded["1"].inputs == {"model": FILES[3], "strength": 0.5}
    assert server.asked_for("/object_info") == [f"/object_info/{name_of(0)}"]


def test_a_class_that_is_missing_costs_one_look(server: OtherProcess) -> None:
    """The nearest names are a hint only, for which hundreds of megabytes are not read."""
    graph = workflow(2)
    graph["1"]["class_type"] = "Clas0001"
    with client(server) as api:
        for _ in range(3):
            report = Workflow(graph).check(api)
            assert [one.type for one in report.errors] == ["missing_node_type"]
    assert server.asked_for("/object_info").count("/object_info") == 1


def test_refusals_for_a_missing_class_read_the_definitions_once(small: LargeServer) -> None:
    graph = workflow(2)
    graph["1"]["class_type"] = "Clas0001"
    with client(small) as api:
        for _ in range(3):
            with pytest.raises(PromptRejected, match="Class0001"):
                api.run(graph, timeout=LIMIT)
    assert small.asked_for("/object_info") == ["/object_info"]


def test_a_refusal_by_a_large_server_does_not_read_them_to_their_end(server: OtherProcess) -> None:
    graph = workflow(2)
    graph["1"]["class_type"] = "Clas0001"
    with client(server) as api:
        for _ in range(2):
            with pytest.raises(PromptRejected, match="Clas0001"):
                api.run(graph, timeout=LIMIT)
        assert api.stats().bytes_received < 40 * MIB
    assert server.asked_for("/object_info") == ["/object_info"]


# -- all of them ---------------------------------------------------------------------------


@pytest.mark.long
def test_all_definitions_are_read_as_a_stream(server: OtherProcess) -> None:
    """Memory holds one class, and what the caller keeps."""
    ran = subprocess.run(
        [sys.executable, "-c", _STREAM, server.url], capture_output=True, text=True, check=True
    )
    count, savers, more = json.loads(ran.stdout)
    assert (count, savers) == (2700, [name_of(0)])
    assert more < 150 * MIB
    assert server.asked_for("/object_info") == ["/object_info/Class0001", "/object_info"]


def test_definitions_that_a_caller_keeps_are_bounded(small: LargeServer) -> None:
    """In memory, by ``max_json``; the bytes do not count."""
    with client(small, max_json=10_000) as api:
        for call in (
            api.get_node_defs,
            api.node_definitions,
            lambda: api.node_definitions([name_of(n) for n in range(60)]),
        ):
            with pytest.raises(UnexpectedResponse, match="max_json=20000 allows twice as much"):
                call()
        assert len([*api.iter_node_definitions()]) == 60
    with client(small, max_json=50_000) as api:
        assert len(api.node_definitions()) == len(api.get_node_defs()) == 60


@pytest.mark.soak
def test_all_definitions_of_a_large_server_fit_by_default(server: OtherProcess) -> None:
    with client(server) as api:
        assert len(api.node_definitions()) == 2700


def test_a_class_may_have_as_many_bytes_as_max_json(small: LargeServer) -> None:
    with (
        client(small, max_json=1000) as api,
        pytest.raises(UnexpectedResponse, match="max_json=2000 allows twice as much"),
    ):
        api.get_node_defs(name_of(1))


@pytest.mark.soak
def test_a_pool_of_large_servers_knows_what_they_have(server: OtherProcess) -> None:
    """It reads their definitions as a stream, and keeps the names of model files."""
    pool = ComfyPool([server.url])
    try:
        pool.init(6 * LIMIT)
        with pytest.raises(WorkflowError, match="NoSuch"):
            pool.run({"1": {"class_type": "NoSuch", "inputs": {}}}, timeout=LIMIT)
    finally:
        pool.shutdown()


# -- the file for the next process ---------------------------------------------------------


def classes_asked(server: OtherProcess) -> list[str]:
    return server.asked_for("/object_info/")


def checked(server: LargeServer, cache: Path, graph: dict[str, Any] | None = None) -> bool:
    """What a process of its own would find."""
    server.asked.clear()
    with client(server, cache) as api:
        return Workflow(graph or workflow(20)).check(api).ok


def test_the_next_client_asks_for_no_class_again(small: LargeServer, tmp_path: Path) -> None:
    assert checked(small, tmp_path)
    assert len(classes_asked(small)) == 20
    assert checked(small, tmp_path)
    assert small.asked_for("/internal") == ["/internal/logs/raw"]
    assert classes_asked(small) == []
    assert checked(small, tmp_path, workflow(30))
    assert len(classes_asked(small)) == 10


def test_a_restarted_server_is_asked_again(small: LargeServer, tmp_path: Path) -> None:
    checked(small, tmp_path)
    small.restart()
    assert checked(small, tmp_path)
    assert len(classes_asked(small)) == 20


def test_a_server_without_a_log_is_asked_again(small: LargeServer, tmp_path: Path) -> None:
    small.log.clear()
    for _ in range(2):
        assert checked(small, tmp_path)
        assert len(classes_asked(small)) == 20
    assert [*tmp_path.iterdir()] == []


def test_definition_files_are_kept_apart_by_user(small: LargeServer, tmp_path: Path) -> None:
    checked(small, tmp_path)
    small.asked.clear()
    with client(small, tmp_path, user="u1") as api:
        assert Workflow(workflow(20)).check(api)
    assert len(classes_asked(small)) == 20


def test_a_check_does_not_find_fault_by_old_definitions(small: LargeServer, tmp_path: Path) -> None:
    """It asks anew before it says so, and what it learns is kept."""
    graph = workflow(20)
    checked(small, tmp_path)
    small.files = [*small.files, "new.safetensors"]
    graph["5"]["inputs"]["model"] = "new.safetensors"
    assert checked(small, tmp_path, graph)
    assert len(classes_asked(small)) == 20
    assert checked(small, tmp_path, graph)
    assert classes_asked(small) == []


def test_a_class_that_is_gone_from_the_file_is_no_problem(
    small: LargeServer, tmp_path: Path
) -> None:
    """The file never says that a class is missing."""
    graph = workflow(20)
    graph["5"]["class_type"] = "Later"
    assert not checked(small, tmp_path, graph)
    small.classes["Later"] = 1
    assert checked(small, tmp_path, graph)


def test_definitions_of_a_rejected_prompt_are_forgotten(small: LargeServer, tmp_path: Path) -> None:
    """Its definitions may be those of another time."""
    checked(small, tmp_path)
    with client(small, tmp_path) as api, pytest.raises(PromptRejected):
        api.run(workflow(20), timeout=LIMIT)
    checked(small, tmp_path)
    assert classes_asked(small) == [f"/object_info/{name_of(19)}"]


def test_names_are_kept_of_a_large_server(small: LargeServer, tmp_path: Path) -> None:
    """So the next process has a hint without hundreds of megabytes."""
    with client(small) as api:
        file = DefinitionFile(tmp_path, f"{small.url}\n")
        large = NodeDefinitions(api.parts.http, lambda: None, file, kept=1000)
        for _ in range(2):
            assert len([*large.names(Deadline())]) == 60
    assert small.asked_for("/object_info") == ["/object_info"]
    small.asked.clear()
    with client(small, tmp_path) as api:
        graph = workflow(1)
        graph["0"]["class_type"] = "Clas0001"
        (problem,) = Workflow(graph).check(api).errors
        assert "Class0001" in problem.candidates
    assert small.asked_for("/object_info") == ["/object_info/Clas0001"]


def test_names_that_were_read_are_not_read_again(small: LargeServer) -> None:
    with client(small) as api:
        large = NodeDefinitions(api.parts.http, lambda: None, kept=1000)
        for _ in range(2):
            assert len([*large.names(Deadline())]) == 60
        assert len(large.get([""], refresh=False, deadline=Deadline())) == 0
        assert len(large.get(["", name_of(1)], refresh=False, deadline=Deadline())) == 1
    assert small.asked_for("/object_info")[0] == "/object_info"


def test_a_stream_that_a_restart_overtakes_is_not_kept(small: LargeServer) -> None:
    """It may be of the server before the restart."""
    link = 1
    with client(small) as api:
        kept = NodeDefinitions(api.parts.http, lambda: link)
        stream = kept.each(refresh=False, deadline=Deadline())
        next(stream)
        link = 2
        kept.get([name_of(1)], refresh=False, deadline=Deadline())
        assert len([*stream]) == 59
        kept.get([name_of(2)], refresh=False, deadline=Deadline())
    assert small.asked_for("/object_info/") == [f"/object_info/{name_of(n)}" for n in (1, 2)]


def test_a_recording_has_no_terminal_output(small: LargeServer, tmp_path: Path) -> None:
    """It would be in the recording, which people send to others."""
    with client(small, tmp_path / "cache", record=tmp_path / "r.jsonl") as api:
        assert Workflow(workflow(20)).check(api)
    assert "/internal/logs/raw" not in small.asked


@pytest.mark.parametrize("off", ["0", "off", "No"])
def test_the_file_can_be_left_out(
    small: LargeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, off: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("COMFYUI_CACHE", off)
    for cache in (True, False):
        with client(small, cache) as api:
            assert Workflow(workflow(20)).check(api)
    assert [*tmp_path.iterdir()] == []
    assert "/internal/logs/raw" not in small.asked


def test_the_file_is_in_the_users_cache_folder_or_where_the_environment_says(
    small: LargeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COMFYUI_CACHE", str(tmp_path / "there"))
    for name in ("there", "home/comfy-client/nodes"):
        api = client(small, True)
        monkeypatch.delenv("COMFYUI_CACHE", raising=False)  # it was read when the client was made
        with api:
            assert Workflow(workflow(20)).check(api)
        assert len([*(tmp_path / name).iterdir()]) == 1
