"""Comfy Cloud's older API, which is read beside Comfy API v2."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from comfy_client import (
    AuthenticationError,
    CloudApi,
    HostedApi,
    NotFound,
    NotSupported,
    SubmitUncertain,
    Workflow,
)
from comfy_client.hosted.older_api import READ, is_read
from comfy_client.hosted.servers import CLOUD
from comfy_client.testing import ComfyServer, hosted_error
from tests.conftest import WORKFLOWS, load_workflow
from tests.helpers.clients import until
from tests.helpers.records import graph

KEY = "a-key-of-42-letters"


@pytest.fixture
def server() -> Iterator[ComfyServer]:
    with ComfyServer(hosted="cloud", credentials=KEY) as running:
        (running.root / "models/checkpoints/tiny.ckpt").touch()
        yield running


@pytest.fixture
def api(server: ComfyServer) -> Iterator[CloudApi]:
    with CloudApi(KEY, base_url=server.url) as client:
        yield client


def asked(server: ComfyServer) -> list[tuple[str, str]]:
    """Return the requests to the older API."""
    return [
        (one.method, one.path)
        for one in server.requests
        if not one.path.removeprefix("/api").startswith("/v2/")
    ]


def test_nodes_and_models_are_those_of_the_older_api(server: ComfyServer, api: CloudApi) -> None:
    assert "KSampler" in api.node_definitions()
    assert api.get_checkpoints()
    assert "tiny.ckpt" in api.get_models("checkpoints")
    assert any(folder.name == "checkpoints" for folder in api.get_model_folders())
    assert api.get_system_stats().raw["cloud_version"]
    assert api.get_features() is not None
    assert api.wait_until_ready(timeout=60).devices
    assert {method for method, _ in asked(server)} == {"GET"}


def test_a_workflow_is_checked_and_converted(api: CloudApi) -> None:
    found = Workflow.load(load_workflow("txt2img_tiny", ckpt_name="gone.safetensors")).check(api)
    assert any("gone.safetensors" in str(problem) for problem in found)
    workflow = Workflow.load(WORKFLOWS / "txt2img_ui.json", api)
    assert workflow.find(class_type="KSampler")


def test_jobs_and_queue_have_the_jobs_of_both_apis(server: ComfyServer, api: CloudApi) -> None:
    with server.faults.hang_worker():
        first, second = api.submit(graph()), api.submit(graph())
        until(lambda: api.v1.get_queue().running)
        queue = api.v1.get_queue()
        assert [item.prompt_id for item in queue.running] == [first.prompt_id]
        assert queue.pending[0].workflow
        assert queue.pending[0].prompt_id == second.prompt_id
        assert [item.prompt_id for item in api.get_queue().pending] == [second.prompt_id]
    second.result(timeout=60)
    in_milliseconds = api.v1.get_job(first.prompt_id)
    with server.gateway.trap(v1_seconds=True):
        in_seconds = api.v1.get_job(first.prompt_id)
        assert {job.id for job in api.v1.get_jobs().jobs} == {first.prompt_id, second.prompt_id}
    assert in_seconds.create_time == in_milliseconds.create_time
    assert in_seconds.create_time is not None
    assert 1e9 < in_seconds.create_time < 1e10


def test_changing_calls_of_the_v1_api_are_refused(server: ComfyServer, api: CloudApi) -> None:
    v1 = api.v1
    calls: list[Any] = [
        lambda: v1.cancel_job(str(uuid.uuid4())),
        lambda: v1.cancel_jobs(str(uuid.uuid4())),
        v1.interrupt,
        v1.clear_queue,
        v1.free_memory,
        v1.get_histories,
        lambda: v1.fetch_api("/object_info", "POST"),
        lambda: v1.fetch_api("/api/v2/jobs"),
        lambda: v1.fetch_api("/userdata"),
        lambda: v1.fetch_api("/prompt", "POST", json={"prompt": graph()}),
        lambda: api.fetch_api("/queue", "POST", json={"clear": True}),
    ]
    for call in calls:
        with pytest.raises(NotSupported):
            call()
    assert asked(server) == []


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "HEAD"])
def test_only_get_is_read(method: str) -> None:
    assert not any(is_read(method, route) for route in READ)


@pytest.mark.parametrize(
    "route",
    ["/jobs/a/cancel", "/jobs/", "/api/v2/jobs", "/prompt", "/models/a/b", "/api/api/queue", "/"],
)
def test_routes_beside_the_list_are_not_read(route: str) -> None:
    assert not is_read("GET", route)


def test_each_api_gets_the_key_in_its_own_header(server: ComfyServer, api: CloudApi) -> None:
    api.node_definitions(["KSampler"])
    api.run(graph(), timeout=60)
    for request in server.requests:
        names = {name.lower() for name in request.headers}
        is_v2 = request.path.removeprefix("/api").startswith("/v2/")
        assert ("authorization" in names, "x-api-key" in names) == (is_v2, not is_v2)


def test_errors_hide_the_key(server: ComfyServer) -> None:
    with pytest.raises(AuthenticationError, match="COMFY_API_KEY") as caught:
        CloudApi("another-key", base_url=server.url).node_definitions()
    assert "another-key" not in str(caught.value)
    with CloudApi(KEY, base_url=server.url) as api, pytest.raises(NotFound):
        api.v1.get_models("no-such-folder")


def test_a_recording_has_both_apis_and_no_key(server: ComfyServer, tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    with CloudApi(KEY, base_url=server.url, record=path) as api:
        api.get_features()
        api.run(graph(), timeout=60)
    recorded = path.read_text()
    assert "/api/features" in recorded
    assert "/api/v2/jobs" in recorded
    assert KEY not in recorded
    assert all(json.loads(line) for line in recorded.splitlines())


def test_a_closed_client_sends_nothing(server: ComfyServer, api: CloudApi) -> None:
    v1 = api.v1
    api.close()
    with pytest.raises(Exception, match="closed"):
        v1.get_features()


def test_servers_other_than_comfy_cloud_have_no_v1_api() -> None:
    for url in ("http://127.0.0.1:8189", "https://mine.run.comfy.app"):
        with pytest.raises(NotSupported, match="only Comfy Cloud"):
            _ = HostedApi(url, "k").v1
    assert HostedApi(CLOUD, "k").v1.host == CLOUD


def test_a_lost_submission_is_found_in_the_job_list_if_that_is_switched_on(
    server: ComfyServer,
) -> None:
    with CloudApi(KEY, base_url=server.url, search_v1=True, patience=60) as api:
        api.run(graph(), timeout=60)
        with server.faults.cut("POST", "/v2/jobs", ran=True, times=1):
            job = api.submit(graph())
        assert job.result(timeout=60).images
    assert len(server.ran) == 2


def test_a_lost_submission_is_uncertain_without_that_search(server: ComfyServer) -> None:
    with (
        CloudApi(KEY, base_url=server.url, patience=60) as api,
        server.faults.cut("POST", "/v2/jobs", ran=True, times=1),
        pytest.raises(SubmitUncertain),
    ):
        api.submit(graph())
    until(lambda: len(server.ran) == 1)


def test_a_job_that_never_arrived_is_submitted_once(server: ComfyServer) -> None:
    with (
        CloudApi(KEY, base_url=server.url, search_v1=True) as api,
        server.faults.answer("POST", "/v2/jobs", hosted_error("upstream_error"), times=1),
    ):
        assert api.run(graph(), timeout=60).images
    assert len(server.ran) == 1
