"""The doctor on hosted servers: what it asks without cost, and what it says is proved."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from comfy_client import ClientClosed, CloudApi, DoctorReport, HostedApi
from comfy_client.testing import ComfyServer, hosted_error
from tests.helpers.command_line import CommandLine
from tests.helpers.doctor import blamed, failing, states

KEY = "a-key-of-42-letters"
UNKNOWN = "00000000-0000-4000-8000-000000000000"
#: Checks that warn of a machine that is slow, as one that tests may be.
SLOW = ("name", "http")


def examined(server: ComfyServer, key: str = KEY, **options: Any) -> DoctorReport:
    """Return the report of a client that was never initialised."""
    is_cloud = server.gateway.place == "cloud"
    api = (CloudApi if is_cloud else HostedApi)(base_url=server.url, api_key=key)
    try:
        return api.doctor(**{"timeout": 300.0, **options})
    finally:
        api.close()


@pytest.fixture(params=["proxy", "serverless", "cloud"])
def server(request: pytest.FixtureRequest) -> Iterator[ComfyServer]:
    with ComfyServer(hosted=request.param, credentials=KEY) as running:
        yield running


@pytest.fixture
def proxy() -> Iterator[ComfyServer]:
    with ComfyServer(hosted="proxy", credentials=KEY) as running:
        yield running


def test_each_place_is_fine_and_nothing_runs(server: ComfyServer) -> None:
    report = examined(server)
    is_cloud = server.gateway.place == "cloud"
    assert report.ok
    assert states(report, *SLOW) == ({"jobs": "warning"} if is_cloud else {})
    assert ("v1" in [check.name for check in report]) == is_cloud
    assert server.ran == []
    assert KEY not in str(report) + repr(report) + json.dumps(report.to_dict())


def test_each_place_says_what_it_proved(server: ComfyServer) -> None:
    report = examined(server)
    proved = report["proved"].found
    assert "the key is accepted" in proved
    labels = {"proxy": "labels may be a text", "serverless": "labels may be texts by name"}
    place = server.gateway.place
    assert ("labels may be" in proved) == (place != "cloud")
    assert labels.get(place, "it lists no jobs") in proved
    assert ("older API answers /features" in proved) == (place == "cloud")
    assert ("references to assets are resolved" in proved) == (place != "serverless")
    assert ("by their names only" in proved) == (place == "serverless")
    words = {"proxy": "a proxy", "serverless": "no proxy", "cloud": "Comfy Cloud"}
    assert words[place] in report["place"].found


def test_doctor_runs_a_hosted_job_if_asked_to(server: ComfyServer) -> None:
    report = examined(server, run=True)
    assert report["run"].state == "ok"
    assert "bytes read" in report["run"].found
    assert len(server.ran) == 1
    assert "a job runs" in report["proved"].found


def test_a_wrong_key_is_blamed(server: ComfyServer) -> None:
    report = examined(server, "another-key-of-mine")
    assert failing(report) == ["key"]
    assert "api" in blamed(report, "key")
    assert "the key is wrong" in report["key"].advice
    assert "another-key-of-mine" not in str(report)
    assert "accepted" not in report["proved"].found


def test_a_missing_key_is_asked_for(proxy: ComfyServer) -> None:
    report = examined(proxy, "")
    assert failing(report) == ["key"]
    assert "api_key=" in report["key"].advice


def test_a_comfyui_itself_is_no_hosted_server() -> None:
    with ComfyServer() as server:
        api = HostedApi(server.url, "")
        report = api.doctor()
        api.close()
    assert failing(report) == ["api"]
    assert "use ComfyApi" in report["api"].advice
    assert "no key" not in report["proved"].found


def test_a_proxy_without_its_comfyui_is_reported(proxy: ComfyServer) -> None:
    with proxy.gateway.trap(upstream="down"):
        report = examined(proxy)
    assert failing(report) == ["api"]
    assert "upstream_unreachable" in report["api"].found
    assert "start ComfyUI" in report["api"].advice


def test_a_port_that_refuses_is_reported(refused: str) -> None:
    api = HostedApi(refused, "")
    report = api.doctor()
    api.close()
    assert failing(report) == ["port"]
    assert "key" in blamed(report, "port")


def test_a_server_without_streams_lists_and_labels_is_reported(server: ComfyServer) -> None:
    with server.gateway.trap(events=False, job_list="none", labels="none"):
        report = examined(server)
    assert report.ok
    assert states(report, *SLOW) == {"jobs": "warning", "streams": "warning"}
    assert "the mark in the workflow" in report["labels"].found
    assert "it lists no jobs and it has no event streams" in report["proved"].found


def test_an_older_api_that_fails_is_no_failure() -> None:
    with ComfyServer(hosted="cloud", credentials=KEY) as server:
        with server.faults.answer("GET", "/queue", (500, {}, {"code": "x", "message": "no"})):
            report = examined(server)
        assert report.ok
        assert report["v1"].state == "warning"
        assert "/queue fails (500)" in report["v1"].found


def test_a_server_that_takes_a_workflow_without_nodes_is_reported(proxy: ComfyServer) -> None:
    taken = {"id": UNKNOWN, "status": "queued"}
    with proxy.faults.answer("POST", "/v2/jobs", (201, {}, taken)):
        report = examined(proxy)
    assert failing(report) == ["labels", "references"]


def test_an_odd_answer_about_references_says_nothing(proxy: ComfyServer) -> None:
    with proxy.faults.answer("POST", "/v2/jobs", hosted_error("queue_full")):
        report = examined(proxy)
    assert report["references"].state == "unknown"
    assert "429, queue_full" in report["references"].found


def test_a_closed_client_examines_nothing(proxy: ComfyServer) -> None:
    api = HostedApi(proxy.url, KEY)
    api.close()
    with pytest.raises(ClientClosed):
        api.doctor()


def test_the_command_prints_it_and_writes_a_report(proxy: ComfyServer, tmp_path: Path) -> None:
    command = CommandLine(tmp_path, variables={"COMFY_BASE_URL": proxy.url, "COMFY_API_KEY": KEY})
    ended = command("doctor", "--timeout", 300)
    assert (ended.status, "proved" in ended.out) == (0, True)
    [report] = command.json("doctor", "--timeout", 300)
    assert report["ok"]
    assert command("doctor", "--report", "bug.txt", "--timeout", 300).status == 0
    written = (tmp_path / "bug.txt").read_text()
    assert "proved" in written
    assert KEY not in written
    assert command("doctor", COMFY_API_KEY="wrong").status == 1


def test_comfy_cloud_without_a_key_has_a_report(tmp_path: Path) -> None:
    """It says which step fails, and what to do; no request is sent."""
    command = CommandLine(tmp_path)
    ended = command("doctor", "--hosted", "--report", "bug.txt")
    assert ended.status == 1
    assert "FAILED   key          Comfy Cloud needs a key, and none is set" in ended.out
    assert "-> give --token-file FILE, or set COMFY_API_KEY" in ended.out
    written = (tmp_path / "bug.txt").read_text()
    assert ended.out.strip() in written
    assert "\nblake3 " in written
    [report] = command.json("doctor", "--host", "https://cloud.comfy.org", status=1)
    assert [check["state"] for check in report["checks"]] == ["failed"]


def test_a_client_without_a_socket_has_no_word_about_one(proxy: ComfyServer) -> None:
    assert examined(proxy)["client"].found == "it waits for no jobs"
