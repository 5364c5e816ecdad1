"""The command and the doctor at the real proxy and at the embedded one."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest
from PIL import Image

from comfy_client import HostedApi
from tests.helpers.command_line import CommandLine
from tests.helpers.graphs import node
from tests.helpers.hosted import Hosted, picture


@pytest.fixture
def name() -> str:
    """A file name that no other test uses."""
    return f"command_{uuid.uuid4().hex[:12]}"


@pytest.fixture
def comfy_client(hosted: Hosted, tmp_path: Path, name: str) -> CommandLine:
    """The command for a proxy, in a folder with a workflow."""
    (tmp_path / "w.json").write_text(json.dumps(picture(name)))
    (tmp_path / "slow.json").write_text(json.dumps(picture(name, 3.0)))
    return CommandLine(tmp_path, variables={"COMFY_BASE_URL": hosted.url})


def test_a_workflow_runs_and_its_files_are_saved(
    comfy_client: CommandLine, hosted: Hosted, name: str
) -> None:
    assert comfy_client("run", "w.json", "--out", "out/").out == f"out/{name}_00001_.png\n"
    assert (comfy_client.home / "out" / f"{name}_00001_.png").stat().st_size
    assert hosted.runs(name) == 1


def test_a_detached_job_is_watched_shown_and_downloaded(
    comfy_client: CommandLine, hosted: Hosted, name: str
) -> None:
    job_id = comfy_client("run", "slow.json", "--detach").out.strip()
    *events, result = comfy_client.json("watch", job_id)
    assert [event["name"] for event in events][-1] == "execution_success"
    assert result["files"][0]["filename"] == f"{name}_00001_.png"
    assert comfy_client("job", job_id[:13], "--wait").status == 0
    assert comfy_client("download", job_id, "--out", "got/").out == f"got/{name}_00001_.png\n"
    assert comfy_client("cancel", job_id).status == 6
    assert hosted.runs(name) == 1


def test_a_job_runs_again_by_its_id(comfy_client: CommandLine, hosted: Hosted, name: str) -> None:
    [ran] = comfy_client.json("run", "w.json")
    color = ("--set", "1.color=77")
    [again] = comfy_client.json("rerun", ran["prompt_id"], *color)
    assert again["prompt_id"] != ran["prompt_id"]
    assert hosted.runs(name) == 2


def test_rows_of_a_sweep_run_and_are_saved(
    comfy_client: CommandLine, hosted: Hosted, name: str
) -> None:
    args = ("w.json", "--axis", "1.color=1..4", "--out", "out/", "--journal", "rows.db")
    assert comfy_client("sweep", *args).status == 0
    assert comfy_client("sweep", *args).status == 0  # all rows are there
    assert len(list((comfy_client.home / "out").iterdir())) == 4
    assert hosted.runs(name) == 4


def test_an_uploaded_file_is_the_value_of_an_input(
    comfy_client: CommandLine, hosted: Hosted, name: str
) -> None:
    Image.new("RGB", (16, 8), "teal").save(comfy_client.home / f"{name}.png")
    graph = {
        "1": node("LoadImage", image="other.png"),
        "9": node("SaveImage", images=["1", 0], filename_prefix=name),
    }
    (comfy_client.home / "load.json").write_text(json.dumps(graph))
    ref = comfy_client("upload", f"{name}.png").out.strip()
    assert comfy_client("run", "load.json", "--set", f"1.image={ref}").status == 0
    with_file = ("run", "load.json", "--input", f"1.image={name}.png", "--set")
    assert comfy_client(*with_file, f"9.filename_prefix=two_{name}").status == 0
    assert hosted.runs(name) == 1
    assert hosted.runs(f"two_{name}") == 1


def test_a_rejected_workflow_is_status_4(comfy_client: CommandLine) -> None:
    (comfy_client.home / "bad.json").write_text(json.dumps({"1": node("NoSuchNode")}))
    [error] = comfy_client.json("run", "bad.json", status=4)
    assert error["code"] == "prompt_rejected"


def test_the_doctor_finds_a_proxy_and_runs_a_job(hosted: Hosted) -> None:
    api = HostedApi(hosted.url, "")
    try:
        report = api.doctor(run=True, timeout=300)
    finally:
        api.close()
    assert report.ok, report
    assert "a proxy" in report["place"].found
    for claim in ("lists jobs", "labels may be a text", "event streams", "a job runs"):
        assert claim in report["proved"].found
