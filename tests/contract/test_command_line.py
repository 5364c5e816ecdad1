"""The command line, the same on an embedded and on a real server."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from comfy_client import ComfyApi
from comfy_client.cli.main import main
from comfy_client.testing import ComfyServer
from tests.comfyui import ComfyUI
from tests.conftest import load_workflow
from tests.contract.conftest import a_while, may_forget
from tests.helpers.clients import until
from tests.helpers.command_line import COMMAND, LIMIT, CommandLine, check, lines_of
from tests.helpers.long import few

Server = ComfyServer | ComfyUI


@pytest.fixture
def comfy_client(comfyui: Server, tmp_path: Path) -> CommandLine:
    """The command, for that server, which has nothing to do."""
    with ComfyApi(comfyui.url) as api:
        until(lambda: api.poll_status(LIMIT).queue_remaining == 0)
    return CommandLine(tmp_path, comfyui.url)


@pytest.fixture
def short(tmp_path: Path) -> str:
    """The name of a workflow that makes a small picture; each test has a seed of its own."""
    return saved(tmp_path, "txt2img_tiny", steps=2)


def saved(folder: Path, name: str, **inputs: Any) -> str:
    (folder / f"{name}.json").write_text(json.dumps(load_workflow(name, **inputs)))
    return f"{name}.json"


# -- as it was installed ------------------------------------------------------------------


#: What comes after the name of each command that prints JSON and succeeds.
INSTALLED: dict[str, tuple[object, ...]] = {
    "run": ("{workflow}", "--seed", 1, "--out", "b.png"),
    "sweep": ("{workflow}", "--axis", "KSampler.seed=2,3", "-q"),
    "rerun": ("{prompt_id}", "-q"),
    "inputs": ("{workflow}",),
    "check": ("{workflow}",),
    "convert": ("a.png",),
    "example": (),
    "watch": ("{prompt_id}",),
    "queue": (),
    "history": ("--limit", 2),
    "job": ("{prompt_id}",),
    "download": ("{prompt_id}",),
    "wait": (),
    "info": (),
    "models": ("checkpoints",),
    "nodes": ("KSampler",),
    "upload": ("a.png",),
    "free": (),
    "logs": ("--lines", 1),
    "doctor": (),
    "where": (),
    "api": ("/queue",),
    "object-info": ("KSampler",),
    "schema": (),
}


@pytest.fixture(scope="module")
def before(comfyui: Server) -> tuple[str, bytes]:
    """A prompt that has ended: its id, and its picture."""
    with ComfyApi(comfyui.url) as api:
        result = api.run(load_workflow("txt2img_tiny", steps=2, seed=1), timeout=LIMIT)
        until(lambda: api.get_history(result.prompt_id))  # its record follows the end event
        return result.prompt_id, result.images[0].bytes()


# A real sampler makes a picture of 20 steps, on whatever machine.
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", few(INSTALLED, 2))
def test_a_command_runs_as_it_was_installed(comfy_client, short, before, tmp_path, name):
    """In a process of its own; what it prints is held to the schema."""
    prompt_id, picture = before
    (tmp_path / "a.png").write_bytes(picture)
    words = {"{workflow}": short, "{prompt_id}": prompt_id}
    args = [words.get(str(one), one) for one in INSTALLED[name]]
    ran = comfy_client.installed(name, *args, "--json")
    assert ran.status == 0, ran
    assert lines_of(name, ran) or name == "queue"


@pytest.mark.long
def test_cancelling_what_has_ended_is_status_6_as_it_was_installed(comfy_client, before):
    prompt_id, _ = before
    ran = comfy_client.installed("cancel", prompt_id, "--json")
    assert ran.status == 6
    assert lines_of("cancel", ran) == [{"prompt_id": prompt_id, "cancelled": False}]


@pytest.mark.long
@pytest.mark.timeout(600)
def test_installed_commands_that_print_no_json_run(comfy_client):
    assert "def KSampler(" in comfy_client.installed("stubs").out
    ran = comfy_client.installed("demo", "--host", comfy_client.host, "--size", 64)
    assert ran.status == 0, ran
    assert "--set" in comfy_client.installed("help", "run").out
    assert comfy_client.installed("skill").out.startswith("---\nname: comfy-client\n")


def test_each_command_is_run_as_it_was_installed():
    """Those that serve until they are stopped have tests of their own."""
    others = {"packs", "snapshot", "restart"}  # need a Manager
    others |= {"cancel", "stubs", "demo", "help", "serve", "mcp", "skill"}
    assert INSTALLED.keys() | others == main.commands.keys()


# -- run --------------------------------------------------------------------------------


def test_run_saves_the_files_and_prints_their_paths(comfy_client, short):
    """By a template; the inputs are those of the options."""
    ran = comfy_client(
        *("run", short, "--seed", 11, "--set", "KSampler.steps=2", "--set", "KSampler.cfg=5"),
        *("--out", "pictures/{seed}_{KSampler.steps}_{KSampler.cfg}{ext}"),
    )
    assert ran.status == 0, ran
    assert ran.lines == ["pictures/11_2_5.0.png"]
    assert "1 image, seed 11" in ran.err
    with Image.open(comfy_client.home / ran.lines[0]) as picture:
        assert picture.size == (128, 128)


def test_run_prints_urls_without_out_and_writes_nothing(comfy_client, short):
    """And the id, with --detach, by which all else is found."""
    ran = comfy_client("run", short, "--seed", 12, "-q")
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.startswith(f"{comfy_client.host}/api/view?filename=")
    assert [path.name for path in comfy_client.home.iterdir() if path.suffix == ".png"] == []


def test_run_takes_pictures_files_of_the_page_and_standard_input(comfy_client, short, tmp_path):
    """Whatever ComfyUI saved."""
    [first] = comfy_client.json("run", short, "--seed", 13, "--out", "a.png")
    assert [file["path"] for file in first["files"]] == ["a.png"]
    [again] = comfy_client.json("run", "a.png", "--set", "KSampler.steps=3")
    assert again["seeds"] == first["seeds"]
    ui = load_workflow("txt2img_ui")
    (tmp_path / "ui.json").write_text(json.dumps(ui))
    [page] = comfy_client.json("run", "ui.json", "--seed", "random", "--set", "KSampler.steps=2")
    assert page["files"]
    piped = comfy_client(
        "run", "-", "-q", stdin=json.dumps(load_workflow("txt2img_tiny", seed=14, steps=2))
    )
    assert piped.status == 0, piped


def test_run_uploads_the_files_of_inputs(comfy_client, tmp_path):
    """For the node alone, or for its input."""
    Image.new("RGB", (40, 24), (200, 30, 90)).save(tmp_path / "mine.png")
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "nothing.png"}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }
    (tmp_path / "show.json").write_text(json.dumps(graph))
    for name in ("LoadImage", "1.image"):
        [result] = comfy_client.json(
            "run", "show.json", "--input", f"{name}=mine.png", "--out", "o/"
        )
        with Image.open(comfy_client.home / result["files"][0]["path"]) as picture:
            assert picture.size == (40, 24)
    [sent] = comfy_client.json("upload", "mine.png", "--subfolder", "of_tests")
    assert sent["ref"] == "of_tests/mine.png"
    ran = comfy_client("run", "show.json", "-q", "--set", f"LoadImage.image={sent['ref']}")
    assert ran.status == 0, ran


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--set", "KSampler.stepz=3"], "has no input 'stepz'; nearest: 'steps'"),
        (["--set", "KSamplr.steps=3"], "nearest: 'KSampler'"),
        (["--set", "KSampler.steps=few"], "takes INT, not 'few'"),
        (["--set", "KSampler.sampler_name=eular"], "nearest: euler"),
        (["--set", "KSampler.steps"], "write NAME=VALUE"),
        (["--input", "KSampler=x.png"], "has no input for files"),
        (["--seed", "-1"], "random, or a number from 0 on"),
        (["--out", "{sed}.png"], "{sed} is not one of"),
    ],
)
def test_wrong_usage_is_refused_before_anything_runs(comfy_client, short, options, words):
    """With the nearest name; exit status 2."""
    [error] = comfy_client.json("run", short, *options, status=2)
    assert error["code"] == "usage"
    assert words in error["message"]


# -- how it ends ------------------------------------------------------------------------


def test_a_workflow_that_is_refused_is_status_4(comfy_client, tmp_path):
    """By the server, or by --check before that."""
    name = saved(tmp_path, "txt2img_tiny", ckpt_name="missing.ckpt")
    [refused] = comfy_client.json("run", name, status=4)
    assert refused["code"] == "prompt_rejected"
    assert "missing.ckpt" in refused["message"]
    [checked] = comfy_client.json("run", name, "--check", status=4)
    assert checked["code"] == "workflow_error"
    found = comfy_client("check", name)
    assert found.status == 4
    assert "missing.ckpt" in found.out
    [report] = comfy_client.json("check", name, status=4)
    assert not report["ok"]


def test_a_node_that_fails_is_status_5(comfy_client, tmp_path):
    """In words with what it raised."""
    name = saved(tmp_path, "failing_runtime")
    [error] = comfy_client.json("run", name, status=5)
    assert error["code"] == "job_failed"
    assert comfy_client("run", name).status == 5
    [job] = comfy_client.json("job", error["prompt_id"])
    assert job["status"] == "failed"
    [waited] = comfy_client.json("job", error["prompt_id"], "--wait", status=5)
    assert waited["code"] == "job_failed"


def test_a_prompt_that_nobody_knows_is_status_6(comfy_client):
    """Whatever is asked of it."""
    unknown = "00000000-0000-4000-8000-000000000000"
    for command in ("job", "watch", "download"):
        [error] = comfy_client.json(command, unknown, status=6)
        assert error["code"] == "job_not_found"
    [line] = comfy_client.json("cancel", unknown, status=6)
    assert line == {"prompt_id": unknown, "cancelled": False}


def test_a_timeout_is_status_7_and_the_prompt_goes_on(comfy_client, comfyui, tmp_path):
    """Until somebody cancels it."""
    name = saved(tmp_path, "sleep", seconds=60.0)
    [error] = comfy_client.json("run", name, "--timeout", a_while(comfyui, 2.0, 5.0), status=7)
    assert error["code"] == "job_timeout"
    assert error["prompt_id"] in error["hint"]
    [line] = comfy_client.json("cancel", error["prompt_id"])
    assert line["cancelled"]


def test_ctrl_c_cancels_the_prompt_and_is_status_130(comfy_client, comfyui, tmp_path):
    """And says so."""
    name = saved(tmp_path, "sleep", seconds=30.0)
    with comfy_client.started("run", name, "--json") as process, ComfyApi(comfyui.url) as api:
        [item] = until(lambda: api.get_queue().running)
        time.sleep(a_while(comfyui, 0.0, 2.0))  # a prompt that is about to begin heeds nothing
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=LIMIT)
        assert process.returncode == 130, err
        assert json.loads(out)["code"] == "stopped"
        assert f"Cancelling prompt {item.prompt_id}" in err
        assert "It was cancelled." in err
        until(lambda: item.prompt_id not in api.get_queue())


# -- prompts ----------------------------------------------------------------------------


def test_a_prompt_is_found_again_by_its_id(comfy_client, short):
    """In the history, in words and as JSON; and its files are fetched."""
    started = comfy_client("run", short, "--seed", 21, "--detach")
    assert started.status == 0, started
    prompt_id = started.out.strip()
    [result] = comfy_client.json("job", prompt_id, "--wait", "--out", "waited.png")
    assert result["files"][0]["path"] == "waited.png"
    [error] = comfy_client.json("job", prompt_id, "--wait", "--out", "{sed}.png", status=2)
    assert "{sed} is not one of" in error["message"]
    status, url = comfy_client("job", prompt_id).lines
    assert status.startswith("succeeded")
    assert result["files"][0]["filename"] in url
    [told] = comfy_client.json("job", prompt_id[:8])
    assert told["result"]["seeds"] == result["seeds"]
    entries = comfy_client.json("history", "--limit", 3)
    [mine] = [entry for entry in entries if entry["prompt_id"] == prompt_id]
    assert mine["mine"]
    assert mine["files"][0]["filename"] == result["files"][0]["filename"]
    assert prompt_id in comfy_client("history", "--limit", 3).out
    [fetched] = comfy_client.json("download", prompt_id, "--out", "got/{seed}{ext}")
    assert fetched["files"][0]["path"] == "got/21.png"
    assert comfy_client("watch", prompt_id).out.startswith(f"{comfy_client.host}/api/view")


def test_the_queue_is_listed_and_what_is_mine_is_cancelled(comfy_client, comfyui, tmp_path):
    """Others' prompts stay."""
    assert comfy_client("queue").out == "The queue is empty.\n"
    mine = saved(tmp_path, "sleep", seconds=60.0)
    with ComfyApi(comfyui.url) as api:
        theirs = api.submit(load_workflow("sleep", seconds=59.0))
        first = comfy_client.json("run", mine, "--detach")[0]["prompt_id"]
        rows = comfy_client.json("queue")
        assert {row["prompt_id"]: row["mine"] for row in rows} == {
            theirs.prompt_id: False,
            first: True,
        }
        assert [row["position"] for row in rows] == [0, 1]
        text = comfy_client("queue").out
        assert f"{first}*" in text
        cancelled = comfy_client.json("cancel", "--all-mine")
        assert cancelled == [{"prompt_id": first, "cancelled": True}]
        assert theirs.prompt_id in api.get_queue()
        assert comfy_client("cancel", theirs.prompt_id).out == f"{theirs.prompt_id} cancelled\n"
        until(lambda: api.poll_status(LIMIT).queue_remaining == 0)


def test_watch_prints_changes_of_the_queue_until_ctrl_c(comfy_client, comfyui, tmp_path):
    """A line for each change, in words or as JSON."""
    with comfy_client.started("watch", "--json") as process, ComfyApi(comfyui.url) as api:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        assert first["name"] == "connected"
        job = api.submit(load_workflow("sleep", seconds=a_while(comfyui, 1.5, 5.0)))
        seen = []
        for line in process.stdout:
            found = json.loads(line)
            if found.get("prompt_id") == job.prompt_id:
                seen.append(found["status"])
                if found["status"] == "succeeded":
                    break
        assert seen[-2:] == ["running", "succeeded"]
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=LIMIT)
        assert process.returncode == 130
        assert json.loads(out.splitlines()[-1])["code"] == "stopped"


def follow(process: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    """Return the lines of ``watch --json`` about prompts, once it is connected."""
    assert process.stdout is not None
    lines = map(json.loads, process.stdout)
    assert any(line["name"] == "connected" for line in lines)
    return (line for line in lines if line["name"] == "queue")


@pytest.mark.long
def test_watch_shows_every_prompt_however_short(any_comfyui, tmp_path):
    """Prompts that fail within milliseconds, with node and message, and cached ones."""
    command = CommandLine(tmp_path, any_comfyui.url)
    with command.started("watch", "--json") as process, ComfyApi(any_comfyui.url) as api:
        told = follow(process)
        cached = load_workflow("txt2img_tiny", steps=1)
        jobs = [api.submit(load_workflow("fail")) for _ in range(50)]
        jobs += [api.submit(cached) for _ in range(3)]
        ids = [job.prompt_id for job in jobs]
        ours = (line for line in _ends(told) if line["prompt_id"] in ids)
        ended = list(itertools.islice(ours, len(jobs)))
        assert [line["prompt_id"] for line in ended] == ids
        for line in ended[:50]:
            check("watch", line)
            assert line["status"] == "failed"
            assert (line["node_id"], line["class_type"]) == ("2", "TestFail")
            assert "failed as told" in line["error"]
        assert [line["status"] for line in ended[50:]] == ["succeeded"] * 3
        assert jobs[-1].result(LIMIT).fully_cached or may_forget(any_comfyui)


def _ends(told: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    return (line for line in told if line["status"] not in ("pending", "running"))


@pytest.mark.long
def test_watch_misses_nothing_that_comes_after_a_restart(other, tmp_path):
    """Although the new history does not contain the old prompts."""
    command = CommandLine(tmp_path, other.url)
    with command.started("watch", "--json") as process, ComfyApi(other.url) as api:
        told = _ends(follow(process))
        for _ in range(2):
            jobs = [api.submit(load_workflow("fail")) for _ in range(10)]
            ended = [line["prompt_id"] for line in itertools.islice(told, len(jobs))]
            assert ended == [job.prompt_id for job in jobs]
            other.restart()
            api.wait_until_ready(LIMIT)


def test_watch_with_an_id_is_its_events_and_its_result(comfy_client, short):
    """The end event is there though another process submitted the prompt."""
    prompt_id = comfy_client("run", short, "--seed", 22, "--detach").out.strip()
    *events, result = comfy_client.json("watch", prompt_id)
    assert events[-1]["is_end"]
    assert result["prompt_id"] == prompt_id


@pytest.mark.long
def test_a_detached_prompt_has_progress_where_it_is_waited_for(comfy_client, comfyui, tmp_path):
    """Another command waits as well, and says that it shows none."""
    endless = saved(tmp_path, "txt2img_tiny", steps=10_000)
    prompt_id = comfy_client("run", endless, "--seed", 23, "--detach").out.strip()
    with ComfyApi(comfyui.url) as api:
        until(lambda: api.get_queue().running)
        assert "another client" not in comfy_client("job", prompt_id).out
        with comfy_client.started("watch", prompt_id, "--json") as process:
            assert process.stdout is not None
            lines = map(json.loads, process.stdout)
            assert any(line.get("name") == "progress" for line in lines)
            second = comfy_client("job", prompt_id, "--wait", "--timeout", 0.5)
            assert second.status == 7
            assert "No progress is shown, as when another command" in second.err
            assert "as another client submitted it" in comfy_client("job", prompt_id).out
            assert api.job(prompt_id).cancel()
            assert any(line.get("name") == "execution_interrupted" for line in lines)
            assert process.wait(LIMIT) == 130
        assert comfy_client("job", prompt_id, "--wait").status == 130
    assert not list(tmp_path.rglob("*.lock"))


# -- sweep ------------------------------------------------------------------------------


def test_sweep_prints_a_line_for_each_row_and_remembers_them(comfy_client, short):
    """With files, a table and a sheet; a second call runs nothing again."""
    axes = ("--axis", "KSampler.seed=31..32", "--axis", "KSampler.steps=1,2", "--journal", "j.db")
    files = ("--out", "rows/{seed}_{steps}{ext}", "--csv", "rows.csv", "--sheet", "sheet.png")
    rows = comfy_client.json("sweep", short, *axes, *files)
    assert sorted(row["index"] for row in rows) == [0, 1, 2, 3]
    assert {row["result"]["files"][0]["path"] for row in rows} == {
        f"rows/{seed}_{steps}.png" for seed in (31, 32) for steps in (1, 2)
    }
    assert len((comfy_client.home / "rows.csv").read_text().splitlines()) == 5
    with Image.open(comfy_client.home / "sheet.png") as sheet:
        assert sheet.width > 100
    again = comfy_client.json("sweep", short, *axes)
    assert all(row["from_journal"] for row in again)
    text = comfy_client("sweep", short, "--axis", "KSampler.seed=31").out
    assert text.startswith("0 KSampler.seed=31: ")


def test_a_sweep_with_rows_that_fail_is_status_5(comfy_client, tmp_path):
    """The others are there."""
    graph = load_workflow("failing_runtime")
    (tmp_path / "bad.json").write_text(json.dumps(graph))
    node, field = next(
        (node_id, name)
        for node_id, node in graph.items()
        for name, value in node["inputs"].items()
        if isinstance(value, str)
    )
    ran = comfy_client("sweep", "bad.json", "--axis", f"{node}.{field}=a,b", "--json")
    assert ran.status == 5, ran
    assert [json.loads(line)["error"]["code"] for line in ran.lines] == ["job_failed"] * 2


# -- workflows and the server -----------------------------------------------------------


def test_convert_writes_the_api_format(comfy_client, tmp_path):
    """Of what the page saved, as JSON or as Python."""
    (tmp_path / "ui.json").write_text(json.dumps(load_workflow("txt2img_ui")))
    ended = comfy_client("convert", "ui.json", "-o", "api.json")
    assert ended.status == 0, ended
    api = json.loads((tmp_path / "api.json").read_text())
    [line] = comfy_client.json("convert", "ui.json")
    assert line == api
    assert comfy_client.json("convert", "api.json", COMFYUI_HOST="http://127.0.0.1:1") == [api]
    python = comfy_client("convert", "ui.json", "--python")
    compile(python.out, "it", "exec")
    assert comfy_client("check", "api.json").out.endswith("no problems\n")


def test_info_prints_versions_memory_models_and_nodes(comfy_client, comfyui):
    """Versions, memory, models, nodes."""
    [info] = comfy_client.json("info")
    assert info["host"] == comfyui.url
    assert info["devices"][0]["vram_total"]
    assert "ComfyUI   0." in comfy_client("info").out
    assert {"folder": "checkpoints"} in comfy_client.json("models")
    assert {"folder": "checkpoints", "name": "tiny.ckpt"} in comfy_client.json(
        "models", "checkpoints"
    )
    [error] = comfy_client.json("models", "checkpoint", status=2)
    assert "checkpoints" in error["message"]
    [node] = comfy_client.json("nodes", "KSampler")
    assert "euler" in node["inputs"]["sampler_name"]["choices"]
    assert "steps" in comfy_client("nodes", "KSampler").out
    assert "KSampler" in [
        node["class_type"] for node in comfy_client.json("nodes", "--search", "sampl")
    ]
    assert comfy_client("nodes", "--search", "KSampler").lines[0].startswith("CLASS")
    [error] = comfy_client.json("nodes", "KSamplr", status=2)
    assert "KSampler" in error["message"]


def test_memory_is_freed(comfy_client):
    """That of a CPU is nothing to wait for."""
    [free] = comfy_client.json("free")
    assert free["vram_free"] > 2**20
    assert " free" in comfy_client("free", "--models-only").out
    [error] = comfy_client.json("free", "--wait-vram", 0.001, status=1)
    assert error["code"] == "not_supported"


@pytest.mark.long
def test_the_logs_are_shown_and_followed(comfy_client, comfyui):
    """What is there, then what comes."""
    with ComfyApi(comfyui.url) as api:
        api.run(load_workflow("txt2img_tiny", seed=41, steps=1))
        assert len(comfy_client.json("logs", "--lines", 1)) == 1
        assert "got prompt" in comfy_client("logs").out
        with comfy_client.started("logs", "--follow", "--lines", 1) as process:
            assert process.stdout is not None
            process.stdout.readline()  # it has subscribed by then
            api.run(load_workflow("txt2img_tiny", seed=42, steps=1))
            assert any("got prompt" in line for line in process.stdout)
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=LIMIT)
            assert process.returncode == 130


def test_the_doctor_and_the_stubs_know_the_server(comfy_client, tmp_path):
    """As in Python."""
    [report] = comfy_client.json("doctor")
    assert report["host"] == comfy_client.host
    assert "comfy_client doctor: 0 failed" in comfy_client("doctor").out
    ended = comfy_client("stubs", "-o", "nodes.py")
    assert ended.status == 0, ended
    assert "def KSampler(" in (tmp_path / "nodes.py").read_text()


def test_the_beginning_of_an_id_is_enough_unless_it_is_that_of_several(comfy_client, comfyui):
    """Of those that wait, too."""
    with ComfyApi(comfyui.url) as api:
        start = api.generate_id()[:-1]
        ids = (f"{start}1", f"{start}2")
        for prompt_id in ids:
            api.submit(load_workflow("sleep", seconds=60.0), prompt_id=prompt_id)
        [error] = comfy_client.json("job", start[:8], status=2)
        assert all(prompt_id in error["message"] for prompt_id in ids)
        [error] = comfy_client.json("job", start[:3], status=2)
        assert "too short for an ID: give 4 characters or more" in error["message"]
        [job] = comfy_client.json("job", ids[1])
        assert job["prompt_id"] == ids[1]
        cancelled = comfy_client.json("cancel", *ids)
        assert [one["cancelled"] for one in cancelled] == [True, True]
        [error] = comfy_client.json("job", "none", status=6)
        assert error["prompt_id"] == "none"


# -- cancelling several -------------------------------------------------------------------


@pytest.mark.parametrize("by", ["ids", "--all-mine", "--all"])
def test_no_waiting_prompt_begins_while_several_are_cancelled(comfy_client, comfyui, tmp_path, by):
    """One request removes the waiting prompts; the running one is stopped last."""
    with ComfyApi(comfyui.url) as api:
        api.clear_history()
        ids = []
        for seconds in range(60, 65):
            name = saved(tmp_path, "sleep", seconds=float(seconds))
            ids.append(comfy_client("run", name, "--detach").out.strip())
        until(lambda: [item.prompt_id for item in api.get_queue().running] == ids[:1])
        time.sleep(a_while(comfyui, 0.0, 2.0))  # a prompt that is about to begin heeds nothing
        options = {"ids": ids, "--all-mine": ["--all-mine"], "--all": ["--all", "--yes"]}[by]
        cancelled = comfy_client.json("cancel", *options)
        assert [line["prompt_id"] for line in cancelled] == [*ids[1:], ids[0]]
        assert all(line["cancelled"] for line in cancelled)
        # A busy server may have forgotten the interrupt of a prompt that was about to begin.
        until(lambda: api.poll_status(LIMIT).queue_remaining == 0 or api.interrupt(ids[0]))
        until(lambda: api.get_history(ids[0]) is not None)
        assert list(api.get_histories()) == ids[:1]


# -- in a container -----------------------------------------------------------------------

#: Runs commands twice: as whoever runs the tests, so that all is imported, and then as somebody
#: without rights, without a home and without a folder to write to.
CONTAINER = """
import json, os, sys, time
from click.testing import CliRunner
from comfy_client.cli.main import main

graph = sys.stdin.read()

def run(*args, **env):
    ended = CliRunner().invoke(main, args, input=graph, env=env, catch_exceptions=False)
    return {"status": ended.exit_code, "out": ended.stdout, "err": ended.stderr}

def all_commands(**env):
    detached = run("run", "-", "--detach", **env)
    queue = run("queue", "--json", **env)
    mine = run("cancel", "--all-mine", **env)
    while run("queue", "--json", **env)["out"]:  # a prompt that is about to begin heeds nothing
        run("cancel", detached["out"].strip(), **env)
        time.sleep(0.1)
    again = run("cancel", "--all-mine", **env)
    return {"detached": detached, "queue": queue, "mine": mine, "again": again}

all_commands()
os.chdir("/")
os.environ["HOME"] = "/dev/null/home"
if os.geteuid() == 0:
    del os.environ["HOME"]
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
found = [all_commands(), all_commands(COMFYUI_INSTALLATION_ID="nightly/42")]
print(json.dumps(found))
"""


@pytest.mark.long
@pytest.mark.posix("users with numbers")
def test_in_a_container_all_mine_works_by_a_variable_or_says_why_not(comfy_client, tmp_path):
    """User 65534 has no home and no writable folder; unless run as root, only HOME is missing."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("COMFY", "XDG_"))}
    ran = subprocess.run(
        [sys.executable, "-c", CONTAINER],
        input=json.dumps(load_workflow("sleep", seconds=60.0)),
        capture_output=True,
        text=True,
        env={**environment, "HOME": str(tmp_path), "COMFYUI_HOST": comfy_client.host},
        timeout=5 * LIMIT,
    )
    assert ran.returncode == 0, ran.stderr
    without, with_id = json.loads(ran.stdout)
    assert without["detached"]["status"] == 0, without
    assert "cancel --all-mine will not find it" in without["detached"]["err"]
    assert not json.loads(without["queue"]["out"])["mine"]
    for refused in (without["mine"], without["again"]):
        assert refused["status"] == 1, refused
        assert refused["out"] == ""
        assert "set COMFYUI_INSTALLATION_ID" in refused["err"]
    prompt_id = with_id["detached"]["out"].strip()
    assert with_id["detached"]["err"] == ""
    assert json.loads(with_id["queue"]["out"])["mine"]
    assert with_id["mine"] == {"status": 0, "out": f"{prompt_id} cancelled\n", "err": ""}
    nothing = {"status": 0, "out": "", "err": "Nothing of yours is in the queue.\n"}
    assert with_id["again"] == nothing


# -- any route ----------------------------------------------------------------------------


def test_definitions_are_saved_for_commands_that_take_them(comfy_client, short):
    """All of them, or those of some classes; ``check`` then asks no server."""
    saved_all = comfy_client("object-info", "-o", "nodes.json")
    assert (saved_all.status, saved_all.out) == (0, "")
    assert " node classes: nodes.json" in saved_all.err
    checked = comfy_client(
        "check", short, "--definitions", "nodes.json", "--host", "http://127.0.0.1:1"
    )
    assert checked.status == 0, checked
    [some] = comfy_client.json("object-info", "KSampler", "VAEDecode")
    assert [*some] == ["KSampler", "VAEDecode"]
    assert (
        some["KSampler"] == json.loads((comfy_client.home / "nodes.json").read_text())["KSampler"]
    )
    [error] = comfy_client.json("object-info", "KSamplr", status=2)
    assert "nearest: KSampler" in error["message"]


@pytest.mark.long
def test_any_route_can_be_requested(comfy_client, comfyui, short):
    """With fields, a body or a query; the answer is printed unchanged, or saved."""
    [queue] = comfy_client.json("api", "/queue")
    assert queue == {"queue_running": [], "queue_pending": []}
    assert comfy_client.json("api", "GET", "/api/queue") == [queue]
    [one] = comfy_client.json("api", "/history", "--field", "max_items=1")
    assert json.loads(comfy_client("api", "/history?max_items=1").out) == one
    assert comfy_client("api", "POST", "/free", "--field", "unload_models=true").status == 0
    [result] = comfy_client.json("run", short, "--seed", 41, "--out", "a.png")
    name = result["files"][0]["filename"]
    path = f"/view?filename={name}&type=output&subfolder={result['files'][0]['subfolder']}"
    got = comfy_client("api", path, "-o", "b.png")
    assert (got.status, got.out) == (0, "")
    content = (comfy_client.home / "a.png").read_bytes()
    assert (comfy_client.home / "b.png").read_bytes() == content
    piped = subprocess.run(
        [COMMAND, "api", path, "--host", comfyui.url], capture_output=True, check=True
    )
    assert piped.stdout == content
    emptied = comfy_client("api", "POST", "/queue", "--data", '{"clear": true}')
    assert (emptied.status, emptied.out) == (0, "")
