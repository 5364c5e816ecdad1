"""Comfy API v2 as the embedded server plays it, asked with plain requests."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme

from comfy_client.testing import (
    Answer,
    ComfyServer,
    Finish,
    HostedTraps,
    Request,
    hosted_error,
)
from tests.conftest import load_workflow
from tests.helpers.clients import until
from tests.helpers.hosted_requests import code, ended, frames, get, run, stream, submit, upload
from tests.helpers.records import graph


@pytest.fixture
def server() -> Iterator[ComfyServer]:
    """A proxy before ComfyUI 0.3.75."""
    with ComfyServer(hosted="proxy") as running:
        yield running


def test_a_job_from_submit_to_content(server: ComfyServer) -> None:
    answer = submit(server)
    job = answer.json()
    assert (answer.status_code, job["status"], job["queue_position"]) == (201, "queued", None)
    job = ended(server, job["id"])
    assert job["status"] == "succeeded"
    (output,) = job["outputs"]
    assert (output["size_bytes"], output["hash"], output["type"]) == (0, None, "image")
    content = requests.get(output["url"], timeout=60)
    assert content.content.startswith(b"\x89PNG")
    assert content.headers["Accept-Ranges"] == "bytes"
    assert get(server, f"/jobs/{job['id']}/workflow").json() == {
        "workflow": graph(),
        "format": "api",
    }
    assert [one["id"] for one in get(server, "/jobs").json()["jobs"]] == [job["id"]]
    assert server.ran[0].prompt_id == job["id"]
    assert requests.get(f"{server.comfyui_url}/history", timeout=60).json().keys() == {job["id"]}


def test_a_key_is_used_once_and_freed_by_a_refusal(server: ComfyServer) -> None:
    assert code(submit(server, {}, key="a")) == (422, "invalid_workflow")
    assert submit(server, key="a").status_code == 201
    assert code(submit(server, key="a")) == (422, "idempotency_key_reuse")
    assert code(submit(server, key="")) == (400, "invalid_request")
    with server.gateway.trap(upstream="down"):
        assert code(submit(server, key="b")) == (503, "upstream_unreachable")
    assert code(submit(server, key="b")) == (422, "idempotency_key_reuse")


def test_only_one_of_five_submissions_at_once_with_one_key_is_taken(server: ComfyServer) -> None:
    found: list[int] = []
    threads = [
        threading.Thread(target=lambda: found.append(submit(server, key="k").status_code))
        for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [201, 422, 422, 422, 422]


def test_the_events_of_a_job_end_with_outputs_and_status(server: ComfyServer) -> None:
    go_on = server.faults.hang_worker().end
    job_id = submit(server).json()["id"]
    until(lambda: get(server, f"/jobs/{job_id}").json()["status"] == "running")
    with get(server, f"/jobs/{job_id}/events", stream=True) as answer:
        seen = frames(answer)
        assert next(seen) == ("status", {"status": "running"})
        assert next(seen)[0] == "progress"
        go_on()
        rest = list(seen)
    assert [name for name, _ in rest if name != "progress"] == ["output", "status"]
    assert rest[-1] == ("status", {"status": "succeeded"})
    assert [name for name, _ in stream(server, job_id)] == ["status", "output"]


def test_a_token_is_required_everywhere_but_for_health() -> None:
    with ComfyServer(hosted="proxy", credentials="secret") as server:
        assert code(get(server, "/jobs")) == (401, "unauthorized")
        assert code(get(server, "/nonsense")) == (401, "unauthorized")
        assert get(server, "/health").status_code == 200
        headers = {"Authorization": "bearer secret"}
        assert get(server, "/jobs", headers=headers).json() == {"jobs": [], "truncated": False}
        assert code(get(server, "/jobs", headers={"Authorization": "Bearer x"}))[0] == 401
        assert requests.get(f"{server.comfyui_url}/queue", timeout=60).ok


def test_the_proxy_can_die_alone_and_forgets(server: ComfyServer) -> None:
    job = run(server, key="k")
    url = job["outputs"][0]["url"]
    server.gateway.kill()
    with pytest.raises(requests.ConnectionError):
        get(server, "/jobs")
    server.gateway.start()
    assert get(server, "/jobs").json()["jobs"] == []
    assert get(server, f"/jobs/{job['id']}").json()["status"] == "succeeded"
    assert code(get(server, f"/jobs/{job['id']}/workflow")) == (404, "not_found")
    assert code(requests.get(url, timeout=60)) == (404, "not_found")
    assert submit(server, key="k").status_code == 201


def test_a_proxy_with_state_remembers() -> None:
    with ComfyServer(hosted="proxy", traps=HostedTraps(keeps_state=True)) as server:
        job = run(server, key="k")
        server.gateway.restart()
        assert get(server, f"/jobs/{job['id']}/workflow").ok
        assert requests.get(job["outputs"][0]["url"], timeout=60).ok
        assert code(submit(server, key="k")) == (422, "idempotency_key_reuse")


def test_a_model_is_uploaded_and_used() -> None:
    header = b'{"__metadata__": {}}'
    data = len(header).to_bytes(8, "little") + header
    traps = HostedTraps(places_models=True)
    with ComfyServer(hosted="proxy", traps=traps) as server:
        made = upload(server, "models/checkpoints/sub/new.safetensors", data).json()
        assert made["file_path"] == "sub/new.safetensors"
        assert (server.root / "models/checkpoints/sub/new.safetensors").read_bytes() == data
        assert requests.get(made["url"], timeout=60).content == data
        workflow: Any = load_workflow("txt2img_tiny")
        asset = {"__type": "core/ASSET", "info": {"id": made["id"]}}
        workflow["4"]["inputs"]["ckpt_name"] = asset
        assert run(server, workflow=workflow)["status"] == "succeeded"
        assert code(upload(server, "loras/x.safetensors", b"no"))[0] == 422


def test_hosted_files_outside_the_servers_folders_are_not_served(tmp_path: Path) -> None:
    outside = tmp_path / "secret.png"
    outside.write_bytes(b"secret")
    with ComfyServer(hosted="proxy", traps=HostedTraps(places_models=True)) as server:
        (server.root / "models/loras/link").symlink_to(tmp_path)
        header = b'{"__metadata__": {"a": "b"}}'
        data = len(header).to_bytes(8, "little") + header
        assert upload(server, "models/loras/link/x.safetensors", data).status_code == 422
        for name in ("../x.png", "/x.png", "input/../../x.png", "\\x.png", "a/b/c.png"):
            assert upload(server, name, b"x").status_code == 422
        (server.root / "output/link").symlink_to(tmp_path)
        file = {"filename": "secret.png", "subfolder": "link", "type": "output"}
        server.script(Finish({"outputs": {"1": {"images": [file]}}, "status": {}}))
        (output,) = run(server)["outputs"]
        assert code(requests.get(output["url"], timeout=60)) == (404, "output_unavailable")
        assert [path.name for path in tmp_path.iterdir()] == ["secret.png"]


def test_foreign_host_and_origin_headers_are_refused(server: ComfyServer) -> None:
    answer = get(server, "/health", headers={"Host": "evil.example"})
    assert (answer.status_code, "evil.example" in answer.text) == (403, True)
    answer = get(server, "/health", headers={"Origin": "https://evil.example"})
    assert code(answer) == (403, "forbidden_origin")
    with ComfyServer(hosted="proxy", allowed_hosts=["proxy.example"]) as other:
        assert get(other, "/health", headers={"Host": "proxy.example"}).ok


@pytest.mark.parametrize("place", ["proxy", "serverless", "cloud"])
@pytest.mark.parametrize(
    "origin", ["null", "NULL", "file://", "data:", "", "x", "http://[::1", "http://127.0.0.1:x"]
)
def test_a_page_without_a_host_is_refused(place: Any, origin: str) -> None:
    """Such as one from a file, or in a sandbox: it could queue jobs."""
    with ComfyServer(hosted=place) as server:
        url, body = f"{server.url}/api/v2/jobs", {"workflow": graph()}
        answer = requests.post(url, json=body, headers={"Origin": origin}, timeout=60)
        assert code(answer) == (403, "forbidden_origin")
        own = requests.post(url, json=body, headers={"Origin": server.url}, timeout=60)
        assert own.status_code == 201


def test_values_that_nothing_can_be_done_with_are_refused(server: ComfyServer) -> None:
    """They cause no failure of the server."""
    url = f"{server.url}/api/v2"
    asset = upload(server, "a.png", b"x").json()["id"]
    deep, long = "[" * 100_000, "9" * 6_000
    lone = json.dumps({"hash": "x", "path": "/\ud800", "file_path": "\ud800", "workflow": {}})
    ask = partial(requests.request, timeout=60)
    for path in ("jobs", "assets/from-hash", "assets/from-path"):
        for body in (deep, f'{{"workflow": {deep[:300]}{"]" * 300}}}', lone, b"\xff"):
            assert ask("POST", f"{url}/{path}", data=body).status_code in (400, 422), (path, body)
        charset = {"Content-Type": "text/plain; charset=nothing"}
        assert ask("POST", f"{url}/{path}", data="{}", headers=charset).status_code in (400, 422)
    nul = ask("POST", f"{url}/assets/from-path", json={"path": "/a\0b"})
    assert 400 <= nul.status_code < 500
    parts = {"data": {"file_path": b"\xed\xa0\x80.png"}, "files": {"file": ("a", b"x")}}
    assert ask("POST", f"{url}/assets", **parts).status_code == 400
    for wanted in (f"bytes=0-{long}", f"bytes={long}-", f"bytes=-{long}"):
        found = ask("GET", f"{url}/assets/{asset}/content", headers={"Range": wanted})
        assert found.status_code in (416, 502), wanted
    with ComfyServer(hosted="serverless") as other:
        found = ask("GET", f"{other.url}/api/v2/jobs?cursor={long}")
        assert code(found) == (400, "invalid_cursor")


def test_a_file_of_the_machine_becomes_an_asset_if_comfyui_could_read_it(tmp_path: Path) -> None:
    """With ``--comfyui-base-dir``; only below the folders of inputs and outputs."""
    with ComfyServer(hosted="proxy", traps=HostedTraps(places_models=True)) as server:

        def ask(path: Any) -> requests.Response:
            url = f"{server.url}/api/v2/assets/from-path"
            return requests.post(url, json={"path": path}, timeout=60)

        inside, outside = server.root / "input/sub/a.png", tmp_path / "b.png"
        inside.parent.mkdir()
        for path in (inside, outside, server.root / "other.txt"):
            path.write_bytes(b"some bytes")
        made = ask(str(inside))
        assert (made.status_code, made.json()["file_path"]) == (201, "input/sub/a.png")
        assert (made.json()["size_bytes"], made.json()["hash"][:7]) == (10, "blake3:")
        again = ask(str(inside))
        assert (again.status_code, again.json()["id"]) == (200, made.json()["id"])
        content = get(server, f"/assets/{made.json()['id']}/content").content
        assert content == b"some bytes"
        assert code(ask(str(server.root / "missing"))) == (404, "blob_not_found")
        for refused in (str(outside), str(server.root / "other.txt"), "", None):
            assert ask(refused).status_code == 422, refused


def test_a_surface_over_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    pem = tmp_path / "server.pem"
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_and_cert_chain_pem.write_to_path(pem)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    options: Any = {"tls": (pem, pem), "credentials": "token"}
    with ComfyServer(hosted="serverless", **options) as server:
        key = {"Authorization": "Bearer token"}
        body = {"workflow": graph()}
        url, trusted = f"{server.url}/api/v2/jobs", str(tmp_path / "ca.pem")
        made = requests.post(url, json=body, headers=key, verify=trusted, timeout=60).json()
        assert made["urls"]["self"].startswith("https://127.0.0.1:")
        until(lambda: server.history)
        job = requests.get(made["urls"]["self"], headers=key, verify=trusted, timeout=60).json()
        assert requests.get(job["outputs"][0]["url"], timeout=60).ok


def test_requests_are_recorded_and_answered_by_handlers(server: ComfyServer) -> None:
    @server.on("GET", "/v2/jobs/*")
    def late(request: Request) -> Answer:
        status, headers, body = server.answer(request)
        return status, headers, {**body, "late": True}

    job_id = submit(server).json()["id"]
    until(lambda: job_id in server.history)
    assert get(server, f"/jobs/{job_id}").json()["late"]
    server.off("GET", "/v2/jobs/*")
    assert "late" not in get(server, f"/jobs/{job_id}").json()
    assert server.requests[0].path == "/v2/jobs"
    with server.faults.cut("GET", "/v2/assets/*", sent=10, times=1):
        url = get(server, f"/jobs/{job_id}").json()["outputs"][0]["url"]
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            requests.get(url, timeout=60)


def test_refusals_are_faults(server: ComfyServer) -> None:
    with server.faults.answer("POST", "/v2/jobs", hosted_error("queue_full"), times=1):
        answer = submit(server)
        assert (code(answer), answer.headers["Retry-After"]) == ((429, "queue_full"), "5")
        assert submit(server).status_code == 201
