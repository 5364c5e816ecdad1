"""Definitions of node classes: asked for as rarely as possible, and never older than the socket."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from comfy_client import ComfyApi
from comfy_client.errors import ApiError, ClientClosed, UnexpectedResponse, WorkflowError
from comfy_client.routes.definitions import NodeDefinitions
from comfy_client.testing import ComfyServer
from comfy_client.transport.deadline import Deadline
from comfy_client.workflow.definition_source import as_mapping
from tests.helpers.clients import LIMIT, Quick, exception_of
from tests.helpers.ctrl_c import each_interrupt
from tests.helpers.scripted import asked

INFO = "/object_info"


def named(count: int) -> list[str]:
    """Classes that no server has."""
    return [f"NoSuch{n}" for n in range(count)]


def test_few_classes_are_asked_for_one_by_one_and_once(comfy: ComfyServer, fast: ComfyApi) -> None:
    """Also those that the server lacks, which are not in the answer."""
    wanted = ["KSampler", "SaveImage", "NoSuchNode", "KSampler"]
    found = fast.node_definitions(wanted)
    assert list(found) == ["KSampler", "SaveImage"]
    assert found["KSampler"] == fast.get_node_defs("KSampler")["KSampler"].raw
    before = asked(comfy, INFO)
    assert fast.node_definitions(wanted) == found
    assert asked(comfy, INFO) == before
    assert fast.node_definitions(["LoadImage"]).keys() == {"LoadImage"}
    assert len(asked(comfy, INFO)) == len(before) + 1


def test_as_many_classes_as_a_workflow_has_are_asked_for_one_by_one(
    comfy: ComfyServer, fast: ComfyApi
) -> None:
    """Several at a time."""
    assert fast.node_definitions(["KSampler", *named(99)]).keys() == {"KSampler"}
    paths = [request.path for request in asked(comfy, INFO)]
    assert sorted(paths) == sorted(f"{INFO}/{name}" for name in ["KSampler", *named(99)])


def test_many_classes_are_one_request(comfy: ComfyServer, fast: ComfyApi) -> None:
    """So are all; after it nothing more needs to be asked."""
    assert fast.node_definitions(["KSampler", *named(256)]).keys() == {"KSampler"}
    everything = fast.node_definitions()
    assert fast.node_definitions(named(100)) == {}
    assert {"KSampler", "SaveImage", "LoadImage"} <= everything.keys()
    assert [request.path for request in asked(comfy, INFO)] == [INFO]


@pytest.mark.parametrize("limits", [{"kept": 6000}, {"most_kept": 3}])
def test_definitions_asked_for_one_by_one_are_bounded(
    comfy: ComfyServer, fast: ComfyApi, limits: dict[str, int]
) -> None:
    """In memory, and in number; the latest stay."""
    cache = NodeDefinitions(fast.parts.http, lambda: None, **limits)

    def get(name: str) -> None:
        assert cache.get([name], refresh=False, deadline=Deadline()).keys() == {name}

    names = ["KSampler", "SaveImage", "LoadImage", "EmptyImage", "EmptyLatentImage"]
    for name in names:
        get(name)
    assert len(asked(comfy, INFO)) == 5
    get(names[-1])
    assert len(asked(comfy, INFO)) == 5
    get(names[0])
    assert len(asked(comfy, INFO)) == 6


def test_a_class_that_is_known_is_in_the_answer_though_others_displace_it(
    comfy: ComfyServer, fast: ComfyApi
) -> None:
    """What is kept has a limit, which the other classes of one question may pass."""
    for limits, other in (({"most_kept": 0}, "SaveImage"), ({}, "x" * 10_000)):
        cache = NodeDefinitions(fast.parts.http, lambda: None, **limits)
        cache.get(["KSampler"], refresh=False, deadline=Deadline())
        found = cache.get(["KSampler", other], refresh=False, deadline=Deadline())
        assert "KSampler" in found


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_fails_lacks_no_class(
    comfy: ComfyServer, fast: ComfyApi, status: int
) -> None:
    """The error says what is wrong; where it may mend, not all classes are asked for instead."""
    fast.init()
    with comfy.faults.answer("GET", f"{INFO}*", (status, {}, b"")):
        error = exception_of(lambda: fast.node_definitions(["KSampler", "SaveImage"]))
    assert isinstance(error, ApiError)
    assert error.status == status
    assert (INFO in {request.path for request in asked(comfy, INFO)}) == (status == 500)


@pytest.mark.parametrize("name", ["", ".", "..", "x" * 10_000])
def test_a_name_that_fits_no_url_is_looked_for_among_all(
    comfy: ComfyServer, fast: ComfyApi, name: str
) -> None:
    assert fast.node_definitions([name]) == {}
    assert [request.path for request in asked(comfy, INFO)] == [INFO]


def test_refresh_asks_again(comfy: ComfyServer, fast: ComfyApi) -> None:
    """For the classes named, or for all; choices of files are up to date then."""
    fast.node_definitions()

    def images(**options: Any) -> list[str]:
        found = fast.node_definitions(["LoadImage"], **options)["LoadImage"]
        choices: list[str] = found["input"]["required"]["image"][0]
        return choices

    (comfy.root / "input" / "new.png").write_bytes(b"")
    assert "new.png" not in images()
    assert "new.png" in images(refresh=True)
    assert "new.png" in images()
    assert len(asked(comfy, INFO)) == 2
    fast.node_definitions(refresh=True)
    assert [request.path for request in asked(comfy, INFO)][2:] == [INFO]


def test_a_new_connection_forgets_them(comfy: ComfyServer) -> None:
    """The server may have been restarted with other node packs."""
    with Quick(comfy.url) as api:
        assert api.node_definitions(["New"]) == {}

        class New:
            RETURN_TYPES = ()
            FUNCTION = "run"

            @classmethod
            def INPUT_TYPES(cls) -> dict[str, Any]:
                return {"required": {}}

            def run(self) -> None:
                pass

        comfy.add_node(New)
        comfy.restart()
        comfy.until(lambda: api.node_definitions(["New"]).keys() == {"New"}, LIMIT)


def test_threads_that_ask_at_once_share_one_request(comfy: ComfyServer, fast: ComfyApi) -> None:
    go = threading.Barrier(8)

    def ask(_: int) -> Any:
        go.wait(LIMIT)
        return fast.node_definitions()

    with comfy.faults.delay("GET", INFO, 0.3), ThreadPoolExecutor(8) as threads:
        first, *others = threads.map(ask, range(8))
    assert all(other == first for other in others)
    assert len(asked(comfy, INFO)) == 1


def test_a_class_that_fails_alone_is_as_in_all(comfy: ComfyServer, fast: ComfyApi) -> None:
    """A server leaves a class that fails out of all, and answers 500 when asked for it."""
    comfy.on("GET", f"{INFO}/Broken", (500, {}, b"500: Internal Server Error"))
    assert fast.node_definitions(["Broken", "KSampler"]).keys() == {"KSampler"}


@pytest.mark.parametrize("answer", [[], None, 5, "text"])
def test_malformed_definitions_are_a_typed_error(
    comfy: ComfyServer, fast: ComfyApi, answer: Any
) -> None:
    comfy.on("GET", f"{INFO}*", (200, {}, answer))
    with pytest.raises(UnexpectedResponse):
        fast.node_definitions(["KSampler"])
    with pytest.raises(UnexpectedResponse):
        fast.node_definitions()


def test_an_error_is_not_remembered(comfy: ComfyServer, fast: ComfyApi) -> None:
    with comfy.faults.answer("GET", f"{INFO}*", (503, {}, b"")), pytest.raises(ApiError):
        fast.node_definitions(["KSampler"])
    assert fast.node_definitions(["KSampler"])


def test_a_text_is_no_list_of_classes(fast: ComfyApi) -> None:
    with pytest.raises(TypeError, match="list"):
        fast.node_definitions("KSampler")


def test_a_closed_client_has_none(comfy: ComfyServer) -> None:
    api = ComfyApi(comfy.url)
    api.close()
    with pytest.raises(ClientClosed):
        api.node_definitions()


# -- what the workflow room takes for definitions -----------------------------------------


def test_a_client_a_dict_and_models_are_sources(comfy: ComfyServer, fast: ComfyApi) -> None:
    """All give the same JSON."""
    wanted = ["KSampler", "NoSuchNode"]
    raw = fast.fetch_api(INFO).json()
    expected = {"KSampler": raw["KSampler"]}
    assert as_mapping(fast, wanted) == expected
    assert as_mapping(raw, wanted) == expected
    assert as_mapping(fast.get_node_defs(), wanted) == expected
    assert as_mapping(raw) == as_mapping(fast) == raw


def test_values_without_node_definitions_are_refused() -> None:
    with pytest.raises(WorkflowError, match="GET /object_info"):
        as_mapping(5)  # type: ignore[arg-type]

    class Odd:
        def node_definitions(self, classes: Any = None, *, refresh: bool = False) -> Any:
            return [1]

    with pytest.raises(WorkflowError, match="list"):
        as_mapping(Odd())
    assert as_mapping({"A": 5, "B": {}}) == {"B": {}}


def test_a_request_that_ctrl_c_interrupted_does_not_block_other_threads(fast: ComfyApi) -> None:
    """Not even while a notebook keeps the error."""
    call = partial(fast.node_definitions, ["KSampler"])
    assert call()
    kept = []
    for error in each_interrupt(call):
        kept.append(error)
        assert exception_of(call) is None
    assert kept
