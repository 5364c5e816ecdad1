"""Each contradiction and trap of the surfaces of Comfy API v2, asked with plain requests."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import requests

from comfy_client.testing import PROMPT_ID, ComfyServer, Finish, HostedTraps, hosted_error
from comfy_client.testing.hosted.traps import CLOUD, PROXY, SERVERLESS
from tests.helpers.clients import LIMIT, until
from tests.helpers.hosted_requests import (
    Frame,
    code,
    ended,
    frames,
    get,
    run,
    stream,
    submit,
    upload,
)
from tests.helpers.records import graph

#: A step of a script: the job is said to have ended well.
SUCCESS = {"type": "execution_success", "data": {"prompt_id": PROMPT_ID}}


@pytest.fixture
def server() -> Iterator[ComfyServer]:
    """A proxy before ComfyUI 0.3.75."""
    with ComfyServer(hosted="proxy", version="0.3.75") as running:
        yield running


@pytest.fixture
def newer() -> Iterator[ComfyServer]:
    """A proxy before a ComfyUI that can cancel."""
    with ComfyServer(hosted="proxy", version="0.28") as running:
        yield running


@pytest.fixture
def serverless() -> Iterator[ComfyServer]:
    with ComfyServer(hosted="serverless") as running:
        yield running


@pytest.fixture
def cloud() -> Iterator[ComfyServer]:
    with ComfyServer(hosted="cloud", credentials="key") as running:
        yield running


def cancel(server: ComfyServer, job_id: str) -> Any:
    return requests.post(f"{server.url}/api/v2/jobs/{job_id}/cancel", timeout=60).json()


def status(server: ComfyServer, job_id: str) -> Any:
    return get(server, f"/jobs/{job_id}").json()["status"]


@contextmanager
def running_job(server: ComfyServer) -> Iterator[str]:
    """A job that runs as long as the block lasts."""
    with server.faults.hang_worker():
        job_id = submit(server).json()["id"]
        until(lambda: status(server, job_id) == "running")
        yield job_id


@contextmanager
def opened(server: ComfyServer, job_id: str) -> Iterator[Iterator[Frame]]:
    """The frames of a job's events as they come."""
    with get(server, f"/jobs/{job_id}/events", stream=True) as answer:
        yield frames(answer)


def names(found: list[Frame]) -> list[str]:
    return [name for name, _ in found if name not in ("progress", "preview")]


# -- waiting ----------------------------------------------------------------------------


def test_every_second_job_is_falsely_expired_for_two_looks(server: ComfyServer) -> None:
    def looks() -> list[Any]:
        job_id = submit(server).json()["id"]
        until(lambda: job_id in server.history)
        return [status(server, job_id) for _ in range(3)]

    with server.gateway.trap(false_expired=2, false_expired_looks=2):
        seen = [looks() for _ in range(4)]
    good, bad = ["succeeded"] * 3, ["expired", "expired", "succeeded"]
    assert seen == [good, bad, good, bad]


def test_a_new_job_is_unknown_for_some_looks(server: ComfyServer) -> None:
    with server.gateway.trap(unknown_looks=2):
        job_id = submit(server).json()["id"]
        assert [get(server, f"/jobs/{job_id}").status_code for _ in range(3)] == [404, 404, 200]


# -- cancel -----------------------------------------------------------------------------


def test_a_cancel_before_comfyui_0_26_lies(server: ComfyServer) -> None:
    with running_job(server) as first:
        second = submit(server).json()["id"]
        assert cancel(server, first)["status"] == "canceling"
        assert cancel(server, second)["status"] == "queued"
        assert cancel(server, first)["status"] == "canceling"
    assert ended(server, first)["status"] == "succeeded"
    assert ended(server, second)["status"] == "succeeded"
    assert cancel(server, first)["status"] == "succeeded"


def test_a_cancel_works_before_a_newer_comfyui(newer: ComfyServer) -> None:
    with running_job(newer) as first:
        second = submit(newer).json()["id"]
        assert cancel(newer, second)["status"] == "expired"
        assert cancel(newer, first)["status"] == "canceling"
    assert ended(newer, first)["status"] == "canceled"
    assert status(newer, second) == "expired"
    assert [ran.prompt_id for ran in newer.ran] == [first]
    with newer.gateway.trap(cancel_lies=True), running_job(newer) as third:
        cancel(newer, third)
    assert ended(newer, third)["status"] == "succeeded"


def test_a_waiting_job_that_is_cancelled_elsewhere_is_canceled(serverless: ComfyServer) -> None:
    with running_job(serverless):
        second = submit(serverless).json()["id"]
        assert cancel(serverless, second)["status"] == "canceled"
    assert status(serverless, second) == "canceled"


# -- submit -----------------------------------------------------------------------------


def test_the_answer_is_lost_behind_the_proxy(server: ComfyServer) -> None:
    with server.gateway.trap(upstream="lost"):
        assert code(submit(server, key="k")) == (503, "upstream_unreachable")
    until(lambda: server.history)
    assert get(server, "/jobs").json()["jobs"] == []
    assert code(submit(server, key="k")) == (422, "idempotency_key_reuse")
    assert len(server.ran) == 1


def test_the_answer_is_lost_before_the_proxy(server: ComfyServer) -> None:
    with server.faults.cut("POST", "/v2/jobs", ran=True, times=1):
        with pytest.raises(requests.ConnectionError):
            submit(server, key="k")
        assert code(submit(server, key="k")) == (422, "idempotency_key_reuse")
    (job,) = get(server, "/jobs").json()["jobs"]
    assert ended(server, job["id"])["status"] == "succeeded"


def test_the_answer_comes_late_or_is_an_error_page(server: ComfyServer) -> None:
    with server.faults.delay("POST", "/v2/jobs", ran=True), pytest.raises(requests.ReadTimeout):
        requests.post(f"{server.url}/api/v2/jobs", json={"workflow": graph()}, timeout=(60, 0.1))
    until(lambda: len(get(server, "/jobs").json()["jobs"]) == 1)
    with server.faults.bad_gateway(method="POST", path="/v2/jobs"):
        answer = submit(server)
        assert (answer.status_code, "<h1>" in answer.text) == (502, True)
    with server.faults.bad_gateway(method="GET", path="/v2/jobs/*", times=1):
        assert get(server, "/jobs/x").status_code == 502
        assert get(server, "/jobs/x").status_code == 404


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("queue_full", 429),
        ("rate_limited", 429),
        ("deployment_not_ready", 429),
        ("insufficient_credits", 402),
        ("deployment_stopped", 422),
        ("forbidden", 403),
    ],
)
def test_a_submission_is_refused(server: ComfyServer, name: str, expected: int) -> None:
    with server.faults.answer("POST", "/v2/jobs", hosted_error(name), times=1):
        answer = submit(server, key="k")
        assert code(answer) == (expected, name)
        assert ("Retry-After" in answer.headers) == (expected == 429)
        assert submit(server, key="k").status_code == 201


def test_a_refusal_needs_a_known_code_or_a_status() -> None:
    assert hosted_error("odd", status=418)[0] == 418
    assert hosted_error("rate_limited", retry_after=2)[1] == {"Retry-After": "2"}
    with pytest.raises(ValueError, match="unknown code 'odd': there are invalid_request"):
        hosted_error("odd")


# -- labels -----------------------------------------------------------------------------


def test_the_proxy_takes_a_text_as_label(server: ComfyServer) -> None:
    assert submit(server, metadata="mine").json()["metadata"] == "mine"
    assert get(server, "/jobs").json()["jobs"][0]["metadata"] == "mine"
    assert code(submit(server, metadata={"a": "b"})) == (422, "invalid_request")
    assert code(submit(server, metadata="x" * 1025)) == (422, "invalid_request")


def test_a_deployment_takes_a_map_and_finds_it(serverless: ComfyServer) -> None:
    jobs = [submit(serverless, metadata={"n": str(n)}).json()["id"] for n in range(3)]
    found = get(serverless, "/jobs", params={"metadata[n]": "1"}).json()
    (record,) = found["jobs"]
    assert (record["id"], record["metadata"]) == (jobs[1], {"n": "1"})
    assert {"create_time", "update_time", "status"} < record.keys()
    assert "outputs" not in record
    for wrong in ("text", {"a b": "c"}, {"a": "x" * 257}, {str(n): "" for n in range(17)}):
        assert code(submit(serverless, metadata=wrong)) == (422, "metadata_invalid")
    with serverless.gateway.trap(labels="dropped"):
        assert "metadata" not in submit(serverless, metadata={"n": "4"}).json()


def test_a_deployment_lists_pages(serverless: ComfyServer) -> None:
    jobs = [submit(serverless).json()["id"] for _ in range(3)]
    first = get(serverless, "/jobs", params={"limit": 2}).json()
    second = get(serverless, "/jobs", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    listed = [job["id"] for page in (first, second) for job in page["jobs"]]
    assert (listed, "next_cursor" in second) == (jobs[::-1], False)
    assert code(get(serverless, "/jobs?cursor=x")) == (400, "invalid_cursor")
    many = "&".join(f"metadata[{n}]=x" for n in range(4))
    assert code(get(serverless, f"/jobs?{many}")) == (400, "invalid_metadata_filter")


def test_cloud_takes_no_label_and_has_no_list(cloud: ComfyServer) -> None:
    key = {"Authorization": "Bearer key"}
    body = {"workflow": graph(), "metadata": {"a": "b"}}
    answer = requests.post(f"{cloud.url}/api/v2/jobs", json=body, headers=key, timeout=60)
    assert code(answer) == (422, "metadata_not_supported")
    assert code(get(cloud, "/jobs", headers=key)) == (501, "not_implemented")


# -- events -----------------------------------------------------------------------------


def test_failed_jobs_have_their_outputs_after_the_status(server: ComfyServer) -> None:
    broken = graph() | {
        "3": {"class_type": "LoadImage", "inputs": {"image": "broken.png"}},
        "4": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "x"}},
    }
    (server.root / "input/broken.png").write_bytes(b"no picture")
    hang = server.faults.hang_worker()
    job_id = submit(server, broken).json()["id"]
    with opened(server, job_id) as seen:
        assert next(seen)[0] == "status"
        hang.end()
        rest = [frame for frame in seen if frame[0] != "progress"]
    assert rest[0] == ("status", {"status": "failed"})
    assert names(rest[1:]) == ["output"]
    error = ended(server, job_id)["error"]
    assert (error["class_type"], error["traceback"]) == ("LoadImage", None)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("failed", ["output", "status"]), ("always", ["status", "output"])],
)
def test_outputs_come_before_or_after_the_status(
    server: ComfyServer, mode: Any, expected: list[str]
) -> None:
    with server.gateway.trap(outputs_after_status=mode):
        hang = server.faults.hang_worker()
        with opened(server, submit(server).json()["id"]) as seen:
            next(seen)
            hang.end()
            assert names(list(seen)) == expected


def test_a_job_that_waited_is_never_said_to_run(server: ComfyServer) -> None:
    assert waiting(server) == [("queued", 1), ("succeeded", None)]


def test_a_deployment_reports_each_status(serverless: ComfyServer) -> None:
    seen = waiting(serverless)
    assert seen[0] == ("queued", 1)
    assert seen[-2:] == [("running", None), ("succeeded", None)]


def waiting(server: ComfyServer) -> list[tuple[str, int | None]]:
    """The statuses in the events of a job that waited first."""
    first, second = threading.Event(), threading.Event()
    server.script(first, Finish())
    submit(server)
    until(lambda: server.running)
    server.script(second, SUCCESS, Finish())
    job_id = submit(server).json()["id"]
    with opened(server, job_id) as seen:
        statuses = [next(seen)]
        first.set()
        until(lambda: status(server, job_id) == "running")
        if server.gateway.traps.every_status:
            statuses.append(next(seen))
        second.set()
        statuses += [frame for frame in seen if frame[0] == "status"]
    return [(data["status"], data.get("queue_position")) for _, data in statuses]


def test_a_stream_breaks_after_some_frames(server: ComfyServer) -> None:
    job_id = run(server)["id"]
    with server.gateway.trap(cut_stream_after=1), opened(server, job_id) as seen:
        assert next(seen) == ("status", {"status": "succeeded"})
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            next(seen)
    assert names(stream(server, job_id)) == ["status", "output"]


def test_a_second_stream_starves_the_first(server: ComfyServer) -> None:
    hang = server.faults.hang_worker()
    job_id = submit(server).json()["id"]
    with opened(server, job_id) as first:
        next(first)
        with opened(server, job_id) as second:
            next(second)
            hang.end()
            assert names(list(second)) == ["output", "status"]
        with server.gateway.trap(keepalive=0.05):
            assert names(list(first))[-3:] == ["comment", "status", "output"]


def test_too_many_streams_are_refused(server: ComfyServer) -> None:
    with running_job(server) as job_id, server.gateway.trap(max_streams=1, keepalive=0.05):
        with opened(server, job_id) as seen:
            next(seen)
            answer = get(server, f"/jobs/{job_id}/events")
            assert code(answer) == (429, "too_many_streams")
            assert answer.headers["Retry-After"] == "5"

        def is_free() -> bool:
            with get(server, f"/jobs/{job_id}/events", stream=True) as answer:
                return answer.status_code == 200

        until(is_free)


def test_a_place_without_events(server: ComfyServer) -> None:
    with server.gateway.trap(events=False):
        job_id = run(server)["id"]
        assert code(get(server, f"/jobs/{job_id}/events")) == (501, "not_implemented")


@pytest.mark.parametrize(("early", "expected"), [(True, "running"), (False, "succeeded")])
def test_a_stream_ends_before_history_has_the_job(
    server: ComfyServer, early: bool, expected: str
) -> None:
    start, finish = threading.Event(), threading.Event()
    server.script(start, SUCCESS, finish, Finish())
    with server.gateway.trap(early_end=early):
        job_id = submit(server).json()["id"]
        until(lambda: status(server, job_id) == "running")
        with opened(server, job_id) as seen:
            assert [next(seen)[0], next(seen)[0]] == ["status", "progress"]
            start.set()
            if not early:
                finish.set()
            assert [*seen] == [("status", {"status": expected})]
        finish.set()


def test_a_stream_comments_while_it_is_quiet(server: ComfyServer) -> None:
    with (
        running_job(server) as job_id,
        server.gateway.trap(keepalive=0.02),
        opened(server, job_id) as seen,
    ):
        found = [next(seen)[0] for _ in range(4)]
    assert found == ["status", "progress", "comment", "comment"]


# -- files ------------------------------------------------------------------------------


def test_sizes_and_hashes_are_true_or_not(server: ComfyServer, serverless: ComfyServer) -> None:
    (false,) = run(server)["outputs"]
    (true,) = run(serverless)["outputs"]
    assert (false["size_bytes"], false["hash"], len(false["id"]) > 100) == (0, None, True)
    content = requests.get(true["url"], timeout=60).content
    assert (true["size_bytes"], len(true["id"])) == (len(content), 36)
    assert true["hash"].startswith("blake3:")
    assert get(serverless, f"/assets/{true['id']}").json()["hash"] == true["hash"]


def test_storage_refuses_headers_of_a_client(serverless: ComfyServer) -> None:
    (output,) = run(serverless)["outputs"]
    assert output["url"].startswith(serverless.gateway.storage_url)
    assert requests.get(output["url"], timeout=60).content.startswith(b"\x89PNG")
    for name in ("Authorization", "X-API-Key", "Idempotency-Key", "Cookie", "X-Own"):
        answer = requests.get(output["url"], headers={name: "x"}, timeout=60)
        assert (answer.status_code, name.lower() in answer.text) == (400, True)
        assert serverless.gateway.storage_requests[-1].headers[name] == "x"
    path = f"/assets/{output['id']}/content"
    answer = get(serverless, path, allow_redirects=False)
    assert (answer.status_code, answer.content) == (302, b"")
    assert requests.get(answer.headers["Location"], timeout=60).ok
    assert len(serverless.gateway.storage_requests) == 7


def test_a_signed_url_expires_and_cannot_be_forged(serverless: ComfyServer) -> None:
    with serverless.gateway.trap(url_seconds=0):
        job = run(serverless)
    (output,) = job["outputs"]
    answer = requests.get(output["url"], timeout=60)
    assert (answer.status_code, "expired" in answer.text) == (403, True)
    later = str(time.time() + 1000)
    forged = output["url"].replace(output["url"].split("expires=")[1].split("&")[0], later)
    assert requests.get(forged, timeout=60).status_code == 403
    (fresh,) = get(serverless, f"/jobs/{job['id']}").json()["outputs"]
    assert requests.get(fresh["url"], timeout=60).ok


@pytest.mark.parametrize("given", ["bytes=999999-", "bytes=0-1,3-4", "rubbish"])
def test_a_range_that_is_not_there(
    server: ComfyServer, serverless: ComfyServer, given: str
) -> None:
    for place, expected in ((server, 502), (serverless, 416)):
        (output,) = run(place)["outputs"]
        answer = requests.get(output["url"], headers={"Range": given}, timeout=60)
        assert answer.status_code == expected


def test_a_part_of_a_file(server: ComfyServer, serverless: ComfyServer) -> None:
    for place in (server, serverless):
        (output,) = run(place)["outputs"]
        whole = requests.get(output["url"], timeout=60).content
        for given, part in (
            ("bytes=5-9", whole[5:10]),
            ("bytes=5-", whole[5:]),
            ("bytes=-5", whole[-5:]),
            ("bytes=0-99999", whole),
        ):
            answer = requests.get(output["url"], headers={"Range": given}, timeout=60)
            assert (answer.status_code, answer.content) == (206, part)


def test_urls_are_relative(server: ComfyServer) -> None:
    with server.gateway.trap(relative_urls=True):
        job = run(server)
    assert job["urls"]["self"] == f"/api/v2/jobs/{job['id']}"
    assert requests.get(f"{server.url}{job['outputs'][0]['url']}", timeout=60).ok


def test_a_prefix_is_in_all_urls() -> None:
    with ComfyServer(hosted="proxy", prefix="/mount/point") as server:
        job = run(server)
        assert job["urls"]["self"] == f"{server.url}/api/v2/jobs/{job['id']}"
        assert requests.get(job["outputs"][0]["url"], timeout=60).ok
        with server.gateway.trap(relative_urls=True):
            job = get(server, f"/jobs/{job['id']}").json()
            assert job["urls"]["self"].startswith("/mount/point/api/v2/jobs/")


@pytest.mark.parametrize("place", ["proxy", "serverless", "cloud"])
@pytest.mark.parametrize("shared", [True, False])
def test_known_bytes_get_the_first_record_or_one_of_their_own(place: Any, shared: bool) -> None:
    """The first one, unless the trap is set."""
    trap = {} if shared else {"shares_records": False}
    with ComfyServer(hosted=place) as server, server.gateway.trap(**trap):
        first, second = (upload(server, name).json() for name in ("a.png", "b.png"))
        assert (first["id"] == second["id"]) == shared
        assert (second["created_new"], second["file_path"]) == (
            (False, "a.png") if shared else (True, "b.png")
        )
        body = {"hash": first["hash"]}
        answer = requests.post(f"{server.url}/api/v2/assets/from-hash", json=body, timeout=60)
        assert answer.status_code == (200 if shared else 201)


@pytest.mark.parametrize("place", ["proxy", "serverless", "cloud"])
def test_a_stream_that_comes_late_has_the_outputs(place: Any) -> None:
    """Before the status at the end, but after it on the proxy."""
    with ComfyServer(hosted=place) as server:
        seen = [name for name, _ in stream(server, run(server)["id"])]
    assert seen == (["status", "output"] if place == "proxy" else ["output", "status"])


def test_while_a_long_job_is_examined_others_are_answered(server: ComfyServer) -> None:
    """Its node holds up the validation until another request has been answered."""
    entered, answered = threading.Event(), threading.Event()

    class Slow:
        RETURN_TYPES = ()
        OUTPUT_NODE = True
        FUNCTION = "run"

        @classmethod
        def INPUT_TYPES(cls) -> Any:
            return {"required": {"text": ("STRING", {})}}

        @classmethod
        def VALIDATE_INPUTS(cls, text: str) -> bool:
            entered.set()
            return answered.wait(LIMIT)

        def run(self, text: str) -> tuple[()]:
            return ()

    server.add_node(Slow)
    workflow = {"1": {"class_type": "Slow", "inputs": {"text": "x" * 300_000}}}
    with ThreadPoolExecutor(1) as thread:
        submitted = thread.submit(submit, server, workflow)
        assert entered.wait(LIMIT)
        try:
            assert get(server, "/health").status_code == 200
        finally:
            answered.set()
        assert submitted.result(LIMIT).status_code == 201


# -- the ComfyUI behind -----------------------------------------------------------------


def test_a_comfyui_that_is_down(server: ComfyServer) -> None:
    job = run(server)
    with server.gateway.trap(upstream="down"):
        for path in (f"/jobs/{job['id']}", "/jobs", f"/jobs/{job['id']}/events"):
            assert code(get(server, path)) == (503, "upstream_unreachable")
        assert code(requests.get(job["outputs"][0]["url"], timeout=60)) == (500, "upstream_error")
        assert get(server, "/health").json()["status"] == "healthy"
        assert get(server, f"/jobs/{job['id']}/workflow").ok


def test_a_comfyui_that_never_answers(server: ComfyServer) -> None:
    job_id = run(server)["id"]
    with server.gateway.trap(upstream="dark"):
        with pytest.raises(requests.ReadTimeout):
            requests.get(f"{server.url}/api/v2/jobs/{job_id}", timeout=(60, 0.1))
        assert get(server, "/health").ok
    assert get(server, f"/jobs/{job_id}").ok


def test_a_stream_ends_without_a_status_when_comfyui_goes(server: ComfyServer) -> None:
    with running_job(server) as job_id, opened(server, job_id) as seen:
        assert next(seen)[0] == "status"
        with server.gateway.trap(upstream="down"):
            assert [name for name, _ in seen if name != "progress"] == []


def test_a_comfyui_that_was_restarted_has_forgotten(server: ComfyServer) -> None:
    with server.faults.hang_worker():
        job_id = submit(server).json()["id"]
        until(lambda: server.running)
        server.forget()
        assert status(server, job_id) == "expired"


def test_a_job_runs_on_while_the_proxy_is_away(server: ComfyServer) -> None:
    with running_job(server) as job_id:
        server.gateway.kill()
        assert repr(server.gateway) == "<Gateway proxy stopped>"
    until(lambda: job_id in server.history)
    server.gateway.start()
    assert status(server, job_id) == "succeeded"
    assert len(server.ran) == 1


def test_a_stream_breaks_when_the_proxy_dies(server: ComfyServer) -> None:
    with running_job(server) as job_id, opened(server, job_id) as seen:
        next(seen)
        server.gateway.restart()
        with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
            list(seen)


def test_the_whole_server_can_die_and_keeps_its_ports(server: ComfyServer) -> None:
    ports = server.url, server.comfyui_url, server.gateway.storage_url
    server.kill()
    for url in ports:
        with pytest.raises(requests.ConnectionError):
            requests.get(url, timeout=60)
    server.start()
    assert (server.url, server.comfyui_url, server.gateway.storage_url) == ports
    assert run(server)["status"] == "succeeded"
    server.restart()
    assert get(server, "/jobs").json()["jobs"] == []
    server.gateway.kill()
    server.kill()
    server.restart()
    assert (server.url, server.comfyui_url, server.gateway.storage_url) == ports


# -- Cloud's older API ------------------------------------------------------------------


def test_cloud_reads_by_its_older_api(cloud: ComfyServer) -> None:
    def ask(path: str, **headers: str) -> requests.Response:
        return requests.get(f"{cloud.url}/api{path}", headers=headers, timeout=60)

    key = {"X-API-Key": "key"}
    assert ask("/object_info", **key).json().keys() >= {"KSampler", "SaveImage"}
    assert ask("/object_info/KSampler", **key).json().keys() == {"KSampler"}
    assert "checkpoints" in ask("/models", **key).json()
    assert ask("/models/checkpoints", **key).json() == ["simulated.safetensors"]
    assert ask("/system_stats", **key).json()["system"]["cloud_version"]
    assert "supports_preview_metadata" in ask("/features", **key).json()
    refused = ask("/object_info", Authorization="Bearer key")
    assert (refused.status_code, refused.json()["code"]) == (401, "unauthorized")
    assert ask("/jobs/x", **key).json() == {"code": "not_found", "message": "Job not found"}
    answer = requests.post(f"{cloud.url}/api/prompt", headers=key, json={}, timeout=60)
    assert answer.status_code == 404


def test_cloud_swaps_fields_of_the_queue_and_may_count_seconds(cloud: ComfyServer) -> None:
    key = {"X-API-Key": "key"}
    bearer = {"Authorization": "Bearer key"}
    url = f"{cloud.url}/api"
    with cloud.faults.hang_worker():
        body = {"workflow": graph()}
        job_id = requests.post(f"{url}/v2/jobs", json=body, headers=bearer, timeout=60).json()["id"]
        until(lambda: cloud.running)
        queue = requests.get(f"{url}/queue", headers=key, timeout=60).json()
        ((_, listed, _, outputs, extra),) = queue["queue_running"]
        assert (listed, outputs, [*extra]) == (job_id, ["2"], ["create_time"])
    until(lambda: job_id in cloud.history)
    (job,) = requests.get(f"{url}/jobs", headers=key, timeout=60).json()["jobs"]
    with cloud.gateway.trap(v1_seconds=True):
        (in_seconds,) = requests.get(f"{url}/jobs", headers=key, timeout=60).json()["jobs"]
        one = requests.get(f"{url}/jobs/{job_id}", headers=key, timeout=60).json()
    assert in_seconds["create_time"] == one["create_time"] == job["create_time"] / 1000


# -- options ----------------------------------------------------------------------------


def test_the_traps_of_the_places() -> None:
    assert HostedTraps() == PROXY
    assert (SERVERLESS.labels, CLOUD.labels, CLOUD.job_list) == ("map", "none", "none")
    with ComfyServer(hosted="proxy", traps=HostedTraps(labels="none")) as server:
        assert server.gateway.traps.labels == "none"
        with server.gateway.trap(labels="map", events=False):
            assert not server.gateway.traps.events
        assert server.gateway.traps == HostedTraps(labels="none")


@pytest.mark.parametrize(
    "wrong",
    [
        {"labels": "x"},
        {"bad_range": 400},
        {"upstream": None},
        {"false_expired": -1},
        {"cut_stream_after": 1.5},
        {"keepalive": -1},
    ],
)
def test_a_wrong_trap_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        HostedTraps(**wrong)


def test_a_surface_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match="hosted must be one of proxy, serverless, cloud, not 'x'"):
        ComfyServer(hosted="x")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="traps must be HostedTraps, not 5"):
        ComfyServer(hosted="proxy", traps=5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="traps are for a hosted server"):
        ComfyServer(traps=PROXY)
    with pytest.raises(ValueError, match="takes a token, not a pair"):
        ComfyServer(hosted="proxy", credentials=("user", "password"))
    with ComfyServer() as server, pytest.raises(RuntimeError, match="the server is not hosted"):
        server.gateway.kill()


def test_a_surface_is_up_or_not() -> None:
    server = ComfyServer(hosted="proxy")
    with pytest.raises(RuntimeError, match="not running"):
        server.gateway.kill()
    with server:
        with pytest.raises(RuntimeError, match="already running at http"):
            server.gateway.start()
        server.gateway.kill()
        with pytest.raises(RuntimeError, match="the surface is not running"):
            server.gateway.kill()
    with pytest.raises(RuntimeError, match="not running"):
        _ = server.gateway.storage_url
