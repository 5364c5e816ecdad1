"""The files that commands write: where they may go, and what is said when they cannot."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from comfy_client import ComfyApi
from comfy_client.testing import ComfyServer
from tests.conftest import load_workflow
from tests.helpers.clients import until
from tests.helpers.command_line import LIMIT, CommandLine
from tests.helpers.patches import fill_disk

NOWHERE = "http://127.0.0.1:1"


@pytest.fixture(scope="module")
def server() -> Iterator[ComfyServer]:
    """One for all tests here."""
    with ComfyServer() as found:
        yield found


@pytest.fixture
def comfy_client(server, tmp_path: Path) -> CommandLine:
    """The command for it, in a folder with a workflow."""
    graph = load_workflow("txt2img_tiny", ckpt_name="simulated.safetensors")
    (tmp_path / "w.json").write_text(json.dumps(graph))
    return CommandLine(tmp_path, server.url)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    "command", [["convert", "w.json"], ["example"], ["example", "--notebook"], ["stubs"]]
)
def test_a_dash_is_standard_output_where_one_file_is_written(comfy_client, command):
    """And no file of that name."""
    ended = comfy_client(*command, "-o", "-")
    assert (ended.status, ended.out) == (0, comfy_client(*command).out)
    assert not (comfy_client.home / "-").exists()


def test_example_writes_a_notebook(comfy_client: CommandLine) -> None:
    """The one that the tests run; it is JSON anyway."""
    ended = comfy_client("example", "--notebook", "-o", "try.ipynb")
    assert ended.status == 0
    notebook = json.loads((comfy_client.home / "try.ipynb").read_text("utf-8"))
    assert notebook["nbformat"] == 4
    assert any("api.run(wf)" in "".join(cell["source"]) for cell in notebook["cells"])
    refused = comfy_client("example", "--notebook", "--json")
    assert refused.status == 2
    assert "--notebook or --json, not both" in refused.out


@pytest.mark.parametrize(
    "command",
    [
        ["sweep", "w.json", "--axis", "KSampler.seed=1", option, "-"]
        for option in ("--out", "--csv", "--sheet", "--journal")
    ],
)
def test_a_dash_is_wrong_where_files_are_saved(comfy_client, command):
    """Before anything runs."""
    ended = comfy_client(*command, "--host", NOWHERE)
    assert ended.status == 2
    assert "./-" in ended.err


@pytest.mark.posix("pipes with names")
def test_a_command_writes_into_a_pipe(comfy_client, monkeypatch):
    """Its reader gets the file, though nobody may make files beside it."""
    monkeypatch.setattr("os.access", lambda path, *_: not Path(path).is_dir())
    pipe = comfy_client.home / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert comfy_client("convert", "w.json", "-o", pipe).status == 0
        assert json.loads(os.read(reader, 1 << 16))
        sweep = ("sweep", "w.json", "--axis", "KSampler.seed=1", "--csv", pipe)
        assert comfy_client(*sweep).status == 0
        assert os.read(reader, 1 << 16).startswith(b"KSampler.seed,")
    finally:
        os.close(reader)
    assert pipe.is_fifo()


# -- what cannot be saved ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "out"),
    [
        ("--out", "w.json"),
        ("--out", "w.json/"),
        ("--out", "w.json/x/{seed}{ext}"),
        ("--out", "w.json/fox.png"),
        ("--csv", "w.json/rows.csv"),
        ("--sheet", "w.json/sheet.png"),
    ],
)
def test_a_folder_that_cannot_be_made_is_a_mistake_before_anything_runs(comfy_client, option, out):
    """And no prompt has been sent."""
    commands = [["sweep", "w.json", "--axis", "KSampler.seed=1"]]
    if option == "--out":
        commands += [["run", "w.json", "-q"], ["download", "x"]]
    with ComfyApi(comfy_client.host) as api:
        before = len(api.get_histories())
        for command in commands:
            ended = comfy_client(*command, option, out)
            assert ended.status == 2, ended
            assert option in ended.err
        assert len(api.get_histories()) == before


def test_a_folder_that_nobody_may_write_to_is_a_mistake(comfy_client, monkeypatch):
    """Also the one that is there."""
    monkeypatch.setattr("os.access", lambda path, *_: not Path(path).is_dir())
    ended = comfy_client("run", "w.json", "-q", "--out", ".")
    assert ended.status == 2
    assert "you may not write to" in ended.err


def test_files_that_a_server_does_not_give_after_the_run_have_a_way_on(comfy_client, server):
    """The same; the exit status is that of the fault."""
    with server.faults.answer("GET", "/view", (403, {}, {"error": "no"})):
        ended = comfy_client("run", "w.json", "-q", "--out", "o/")
    assert ended.status == 8
    told = "The prompt has run, but its files are not saved: comfy-client download "
    assert told in ended.err
    prompt_id = ended.err.partition(told)[2].split()[0]
    assert comfy_client("download", prompt_id, "--out", "o/").status == 0


def test_upload_prints_the_names_that_loaders_take(comfy_client):
    """A line for each file."""
    (comfy_client.home / "a.txt").write_text("x")
    assert comfy_client("upload", "a.txt", "w.json").lines == ["a.txt", "w.json"]
    assert comfy_client("upload", "a.txt", "--subfolder", "mine").lines == ["mine/a.txt"]


def test_files_that_cannot_be_saved_after_the_run_can_be_had_by_its_id(comfy_client, monkeypatch):
    """The prompt has run: its files can be had by its id."""

    fill_disk(monkeypatch)
    ended = comfy_client("run", "w.json", "-q", "--out", "o/")
    assert ended.status == 1
    assert "No space left on device" in ended.err
    assert "Try: comfy-client download " in ended.err
    [error] = comfy_client.json("run", "w.json", "-q", "--out", "o/", status=1)
    assert (error["code"], "download" in error["hint"]) == ("os_error", True)
    ended = comfy_client("sweep", "w.json", "--axis", "KSampler.seed=1,2", "-q", "--out", "o/")
    assert ended.status == 1
    assert "Try: comfy-client download " in ended.err


@pytest.mark.parametrize(
    ("args", "status"),
    [
        (["run", "refused.json"], 4),
        (["sweep", "refused.json", "--axis", "1.text=a,b"], 4),
        (["download", "00000000-0000-4000-8000-000000000000"], 6),
    ],
)
def test_a_new_folder_that_stays_empty_goes_again(comfy_client, args, status):
    """One that was there stays."""
    graph = {"1": {"class_type": "Nothing", "inputs": {"text": "x"}}}
    (comfy_client.home / "refused.json").write_text(json.dumps(graph))
    (comfy_client.home / "old").mkdir()
    for out in ("new/folder/{seed}{ext}", "old/new/", "old/"):
        assert comfy_client(*args, "--out", out).status == status
    assert not (comfy_client.home / "new").exists()
    assert names(comfy_client.home / "old") == []


# -- rows of an earlier call ------------------------------------------------------------------


@pytest.mark.parametrize("out", ["o/", "o/{seed}{ext}", "o/fox.png"])
def test_rows_of_an_earlier_call_are_saved_once_they_are_to_be(comfy_client, out):
    """Those that are there stay as they are."""
    sweep = ("sweep", "w.json", "-q", "--journal", "rows.db", "--axis")
    assert comfy_client(*sweep, "KSampler.seed=1,2").status == 0
    folder = comfy_client.home / "o"
    ended = comfy_client(*sweep, "KSampler.seed=1..3", "--out", out)
    assert ended.status == 0, ended
    assert len(names(folder)) == 3
    assert all(str(Path("o", name)) in ended.out for name in names(folder))
    assert comfy_client(*sweep, "KSampler.seed=1..3", "--out", out).lines == sorted(ended.lines)
    assert len(names(folder)) == 3
    shutil.rmtree(folder)
    assert comfy_client(*sweep, "KSampler.seed=1..3", "--out", out).status == 0
    assert len(names(folder)) == 3


def test_rows_of_an_earlier_call_that_cannot_be_saved_are_named(comfy_client):
    """Those of another server, for example; the exit status says it, too."""
    sweep = ("sweep", "w.json", "-q", "--journal", "rows.db", "--axis", "KSampler.seed=1,2")
    assert comfy_client(*sweep).status == 0
    with ComfyServer() as other:
        ended = comfy_client(*sweep, "--out", "o/", "--host", other.url)
        *rows, error = comfy_client.json(*sweep, "--out", "o/", "--host", other.url, status=1)
    assert ended.status == 1
    assert "row 0 is of an earlier call, and not saved" in ended.err
    assert "Try: comfy-client download" in ended.err
    assert (len(ended.lines), len(rows), error["exit"]) == (2, 2, 1)


# -- the end of a sweep -----------------------------------------------------------------------


@pytest.mark.parametrize("journal", [[], ["--journal", "rows.db"]])
def test_a_sweep_that_ends_by_an_error_leaves_no_prompt_that_nobody_knows_of(
    comfy_client, monkeypatch, journal
):
    """It is cancelled, or the journal knows it."""

    fill_disk(monkeypatch)
    with ComfyServer(step_seconds=0.1) as server, ComfyApi(server.url) as api:
        sweep = ("sweep", "w.json", "--axis", "KSampler.seed=1..9", "-q", "--host", server.url)
        ended = comfy_client(*sweep, "--out", "o/", *journal)
        assert ended.status == 1
        queue = api.get_queue()
        assert not queue.pending
        if journal:
            assert "keeps running; the same command will have its row" in ended.err
        else:
            assert "Cancelling prompt" in ended.err
            until(lambda: not api.get_queue().running)
        api.interrupt()


def test_a_sweep_whose_reader_has_gone_cancels_its_prompts(comfy_client):
    """As of ``head -1``."""
    with ComfyServer(step_seconds=0.2) as server, ComfyApi(server.url) as api:
        sweep = ("sweep", "w.json", "--axis", "KSampler.seed=1..99", "-q", "--host", server.url)
        with comfy_client.started(*sweep) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.close()
            assert process.wait(LIMIT) == 141
            assert "Cancelling prompt" in process.stderr.read()
        until(lambda: not api.get_queue().running and not api.get_queue().pending)
        assert len(api.get_histories()) < 99
