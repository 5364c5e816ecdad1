"""``to_dict()`` of what a server's runs bring: all of it is as the JSON Schema says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from comfy_client import (
    ComfyApi,
    ComfyError,
    Event,
    JobFailed,
    JobTimeout,
    PromptRejected,
    Result,
    TransportError,
    Workflow,
)
from comfy_client.testing import ComfyServer
from tests.conftest import load_workflow
from tests.helpers.clients import until
from tests.json_schema import check, check_to_dict


class Fail:
    """Raises."""

    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # ComfyUI's name
        return {"required": {"message": ("STRING", {})}}

    def run(self, message: str) -> tuple[()]:
        raise RuntimeError(message)


FAILS: dict[str, Any] = {"1": {"class_type": "Fail", "inputs": {"message": "no such luck"}}}


@pytest.fixture
def server() -> Iterator[ComfyServer]:
    with ComfyServer(step_seconds=0.001) as server:
        (server.root / "models/checkpoints/tiny.ckpt").touch()
        server.add_node(Fail)
        yield server


@pytest.mark.parametrize("name", ["txt2img_tiny", "txt2img_websocket", "fails"])
def test_every_event_of_a_run_and_its_job(api: ComfyApi, name: str) -> None:
    """From the submission to the end."""
    seen: list[Event] = []
    api.on("all", seen.append)
    job = api.submit(FAILS if name == "fails" else load_workflow(name))
    for _ in job.events():
        check_to_dict_of_job(job.to_dict())
    until(lambda: [one for one in seen if one.is_end])  # receivers have it a moment later
    told = [check_to_dict(event) for event in seen]
    assert [one for one in told if one["is_end"] and one["prompt_id"] == job.prompt_id]
    found = check_to_dict_of_job(job.to_dict())
    assert found["status"] == job.status
    assert (found["result"] is None) is (name == "fails")
    assert (found["error"] is None) is (name != "fails")


def check_to_dict_of_job(found: dict[str, Any]) -> dict[str, Any]:
    check(json.loads(json.dumps(found)), "Job")
    for part, name in (("result", "Result"), ("error", "JobFailed"), ("progress", "JobProgress")):
        if found[part] is not None:
            check(found[part], name)
    return found


def test_a_result_names_its_files_twice_by_order_and_by_node(api: ComfyApi) -> None:
    """With what a page needs to show them: the URL, the kind, the seed."""
    result = api.run(load_workflow("txt2img_tiny"))
    found = check_to_dict(result)
    [file] = found["files"]
    assert [each["files"] for each in found["outputs"].values()] == [[file]]
    assert (file["url"], file["media"]) == (result.image.url, "image")
    assert (file["seed"], file["path"]) == (result.image.seed, None)
    for output in result:
        check(output.to_dict(), "OutputFile")


def test_a_picture_in_memory_has_its_size_and_type(api: ComfyApi) -> None:
    result = api.run(load_workflow("txt2img_websocket"))
    file = check_to_dict(result)["files"][0]
    check(file, "OutputFrame")
    assert (file["size"], file["mime"], file["url"]) == (
        len(result.images[0].bytes()),
        "image/png",
        None,
    )


def test_to_dict_works_after_the_client_is_closed(server: ComfyServer) -> None:
    """A result, a job and an error are told after ``close()``."""
    with ComfyApi(server.url) as api:
        job = api.submit(load_workflow("txt2img_tiny"))
        result: Result = job.result()
        before = result.to_dict()
    assert result.to_dict() == before == job.to_dict()["result"]


def test_answers_of_the_server(api: ComfyApi) -> None:
    """Each model, as a real run leaves it."""
    job = api.submit(load_workflow("txt2img_tiny"))
    job.result()
    entry = api.get_history(job.prompt_id)
    for answer in (
        entry,
        api.get_queue(),
        api.poll_status(),
        api.get_system_stats(),
        api.ping(),
        *api.get_node_defs("KSampler").values(),
        api.get_sampler_info(),
        api.get_raw_logs(),
        api.get_user_config(),
        api.append_prompt(load_workflow("txt2img_tiny")),
        api.upload_image(b"a", "a.png"),
        *api.get_model_files("checkpoints"),
        *api.get_model_folders(),
    ):
        check_to_dict(answer)


def test_the_queue_shows_neither_graphs_nor_keys(server: ComfyServer, api: ComfyApi) -> None:
    server.faults.hang_worker()
    api.submit(load_workflow("txt2img_tiny"), comfy_api_key="comfyui-secret")
    queue = api.get_queue()
    assert len(queue.running) + len(queue.pending) == 1
    text = json.dumps(check_to_dict(queue))
    assert "KSampler" not in text
    assert "comfyui-secret" not in text


def test_reports(api: ComfyApi) -> None:
    """Of the doctor, and of a check with an error in it."""
    found = check_to_dict(api.doctor())
    assert found["ok"] is True
    workflow = Workflow.load(load_workflow("txt2img_tiny"))
    workflow["KSampler"]["steps"] = 0
    report = workflow.check(api)
    found = check_to_dict(report)
    assert (found["ok"], found["problems"][0]) == (False, report.problems[0].to_dict())
    check_to_dict(report.problems[0])


def test_rows_of_a_sweep(api: ComfyApi) -> None:
    """With a result, and with an error."""
    grid = {"KSampler.steps": [1, 0]}
    for row in api.sweep(load_workflow("txt2img_tiny"), grid):
        found = check_to_dict(row)
        assert found["params"] == row.params
        assert (found["error"] is None) is (row.params["KSampler.steps"] == 1)


def failure(api: ComfyApi, server: ComfyServer, kind: type[ComfyError]) -> ComfyError:
    graph = FAILS if kind is JobFailed else load_workflow("txt2img_tiny")
    if kind is PromptRejected:
        graph["3"]["inputs"]["steps"] = 0
    if kind is JobTimeout:
        server.faults.hang_worker()
    with pytest.raises(kind) as caught:
        api.run(graph, timeout=1.5 if kind is JobTimeout else 20)
    return caught.value


@pytest.mark.parametrize("kind", [PromptRejected, JobFailed, JobTimeout])
def test_errors_of_a_run(api: ComfyApi, server: ComfyServer, kind: type[ComfyError]) -> None:
    """With a hint; none is worth another try."""
    error = failure(api, server, kind)
    found = check_to_dict(error)
    assert found["message"] == str(error)
    assert found["hint"]
    assert found["retryable"] is False


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_busy_server_is_worth_another_try(
    api: ComfyApi, server: ComfyServer, status: int
) -> None:
    """One that failed is not."""
    server.faults.bad_gateway(status, path="/queue")
    with pytest.raises(ComfyError) as caught:
        api.get_queue()
    assert check_to_dict(caught.value)["retryable"] is (status != 500)


@pytest.mark.parametrize("fault", ["cut", "bad_gateway"])
def test_a_submission_that_may_have_arrived_is_not_worth_another_try(
    api: ComfyApi, server: ComfyServer, fault: str
) -> None:
    """It would run twice; a question that got no answer is asked again."""
    if fault == "cut":
        server.faults.cut("POST", "/prompt", ran=True)
        server.faults.cut("GET", "/queue")
    else:
        server.faults.bad_gateway(method="*", path="*")
    with pytest.raises(ComfyError) as caught:
        api.queue_prompt(None, load_workflow("txt2img_tiny"))
    assert not caught.value.retryable
    with pytest.raises(ComfyError) as caught:
        api.get_queue()
    assert caught.value.retryable


def test_a_server_that_is_down_is_worth_another_try_and_a_wrong_name_is_not() -> None:
    for host, retryable in (("http://127.0.0.1:9", True), ("http://no-such-host.invalid", False)):
        api = ComfyApi(host, timeout=5)
        with pytest.raises(TransportError) as caught:
            api.get_queue()
        assert caught.value.retryable is retryable
        assert "host" in (caught.value.hint or "")
        api.close()
