"""Standard output: the bytes of a file, and pipes that nobody reads; and ``--open``."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from comfy_client import ComfyApi
from comfy_client.cli.printing import has_display, open_first, safe_streams
from comfy_client.jobs.result import make_result
from comfy_client.testing import ComfyServer
from tests.conftest import load_workflow
from tests.helpers.clients import until
from tests.helpers.command_line import COMMAND, LIMIT, CommandLine, open_terminal
from tests.helpers.long import few

NOWHERE = "http://127.0.0.1:1"


@pytest.fixture(scope="module")
def server() -> Iterator[ComfyServer]:
    with ComfyServer(step_seconds=0) as server:
        yield server


@pytest.fixture
def comfy_client(tmp_path: Path, server: ComfyServer) -> CommandLine:
    """The command, in a folder with a workflow."""
    graph = load_workflow("txt2img_tiny", ckpt_name="simulated.safetensors", steps=1)
    (tmp_path / "w.json").write_text(json.dumps(graph))
    return CommandLine(tmp_path, server.url)


def bytes_of(comfy_client: CommandLine, *args: str) -> bytes:
    """Return the bytes that a successful command writes to standard output."""
    env = {**os.environ, "HOME": str(comfy_client.home), "COMFYUI_HOST": str(comfy_client.host)}
    ran = subprocess.run(
        [COMMAND, *args], capture_output=True, env=env, cwd=comfy_client.home, timeout=LIMIT
    )
    assert ran.returncode == 0, ran
    return ran.stdout


def test_the_only_file_goes_to_standard_output(comfy_client):
    """By run, job --wait and download, which print nothing else there."""
    [result] = comfy_client.json("run", "w.json", "--out", "a.png")
    content = (comfy_client.home / "a.png").read_bytes()
    for args in (
        ("run", "w.json", "--out", "-"),  # the server takes it from its cache
        ("job", result["prompt_id"], "--wait", "--out", "-"),
        ("download", result["prompt_id"], "--out", "-"),
    ):
        assert bytes_of(comfy_client, *args) == content


def test_standard_output_takes_no_more_than_one_file(comfy_client):
    """The error names the files, and how to download them."""
    graph = load_workflow("txt2img_tiny", ckpt_name="simulated.safetensors", steps=1, batch_size=2)
    (comfy_client.home / "two.json").write_text(json.dumps(graph))
    ran = comfy_client("run", "two.json", "--out", "-")
    assert (ran.status, ran.out) == (1, "")
    assert "writes one file, and the prompt has 2: " in ran.err
    assert "Try: comfy-client download " in ran.err


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["run", "w.json", "--out", "-", "--json"], "--out - or --json, not both"),
        (["download", "x", "--out", "-", "--json"], "--out - or --json, not both"),
        (["job", "x", "y", "--wait", "--out", "-"], "for one ID"),
        (["job", "x", "--open"], "--open needs --wait"),
        (["run", "w.json", "--detach", "--open"], "nothing for --open yet"),
    ],
)
def test_impossible_options_are_refused_before_anything_runs(comfy_client, args, words):
    """The exit status is 2."""
    ran = comfy_client(*args, "--host", NOWHERE)
    assert ran.status == 2
    assert words in ran.out + ran.err


@pytest.mark.posix("terminals as files")
def test_a_picture_is_not_written_to_a_terminal(comfy_client):
    """The command is refused before anything runs."""
    here, there = open_terminal()
    ran = subprocess.run(
        [COMMAND, "run", "w.json", "--out", "-", "--host", NOWHERE],
        stdout=there,
        stderr=subprocess.PIPE,
        cwd=comfy_client.home,
        timeout=LIMIT,
    )
    os.close(there)
    os.close(here)
    assert ran.returncode == 2
    assert b"a terminal shows no pictures" in ran.stderr


@pytest.mark.parametrize(
    "command", few(["run w.json --out -", "nodes", "where", "api /object_info"], 2)
)
def test_a_pipe_that_nobody_reads_is_status_141(comfy_client, command):
    """Shells have this status for a program that SIGPIPE ended; nothing is printed."""
    here, there = os.pipe()
    os.close(here)
    env = {**os.environ, "HOME": str(comfy_client.home), "COMFYUI_HOST": str(comfy_client.host)}
    ran = subprocess.run(
        [COMMAND, *command.split()],
        stdout=there,
        stderr=subprocess.PIPE,
        env={**env, "COMFY_PROGRESS": "0"},
        cwd=comfy_client.home,
        timeout=LIMIT,
    )
    os.close(there)
    assert ran.returncode == 141, ran
    assert b"Traceback" not in ran.stderr
    assert b"Exception ignored" not in ran.stderr


@pytest.mark.parametrize("charset", ["cp1252", "cp437", "latin-1", "ascii"])
def test_letters_that_an_encoding_lacks_are_escaped(comfy_client, charset):
    """In texts of the user, names of files and tables; nothing else about the command changes."""
    fox = "\u72d0\U0001f98a"
    graph = json.loads((comfy_client.home / "w.json").read_text())
    for node in graph.values():
        node["_meta"] = {"title": fox}
        if "filename_prefix" in node["inputs"]:
            node["inputs"]["filename_prefix"] = fox
    (comfy_client.home / "fox.json").write_text(json.dumps(graph), encoding="utf-8")
    coded = attrs.evolve(comfy_client, charset=charset)
    # Click writes UTF-8 for ASCII.
    shown = "\ufffd" * 7 if charset == "ascii" else r"\u72d0\U0001f98a"
    for args in (
        ("run", "fox.json", "--out", "pictures/"),
        ("inputs", "fox.json"),
        ("history",),
        ("sweep", "fox.json", "--axis", "KSampler.seed=1..2", "--csv", f"{fox}.csv"),
    ):
        ran = coded(*args)
        assert ran.status == 0, ran
        assert shown in ran.out + ran.err, ran


@pytest.mark.parametrize("command", ["history", "doctor"])
def test_an_escaped_letter_in_a_pipe(comfy_client, command):
    """As with the code pages of Windows."""
    ran = comfy_client.installed(command, PYTHONIOENCODING="cp437:strict")
    assert ran.status == 0, ran


@pytest.mark.skipif(not hasattr(select, "epoll"), reason="only Linux has a file that fails so")
@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_pipe_that_nobody_reads_is_broken_on_windows_too(name, monkeypatch):
    """Writing to it is EINVAL there, as it is for this file."""
    with (
        select.epoll() as poll,
        open(poll.fileno(), "w", encoding="cp1252", closefd=False) as pipe,
        monkeypatch.context() as patched,
    ):
        patched.setattr(sys, name, pipe)
        with pytest.raises(BrokenPipeError), safe_streams("win32"):
            print("\u72d0", file=getattr(sys, name), flush=True)
        assert getattr(sys, name) is pipe
        assert pipe.errors == "strict"


# -- --open -----------------------------------------------------------------------------


@pytest.mark.posix("xdg-open")
def test_the_desktop_opens_a_picture(comfy_client):
    """The saved file, or its URL."""
    opener = comfy_client.home / "bin" / "xdg-open"
    opener.parent.mkdir()
    opener.write_text('#!/bin/sh\necho "$1" > "$0.now"; env > "$0.env"; mv "$0.now" "$0.seen"\n')
    opener.chmod(0o755)
    seen = opener.with_name("xdg-open.seen")
    path = f"{opener.parent}{os.pathsep}{os.environ['PATH']}"
    desktop = {"PATH": path, "DISPLAY": ":0", "SSH_CONNECTION": "", "SSH_TTY": ""}
    desktop |= {"COMFY_API_KEY": "hunter2", "COMFYUI_NOTHING": "hunter2"}
    ran = comfy_client.installed("run", "w.json", "--out", "pictures/", "--open", **desktop)
    assert ran.status == 0, ran
    until(seen.exists, LIMIT)
    environment = opener.with_name("xdg-open.env").read_text()
    assert "DISPLAY" in environment
    assert "hunter2" not in environment  # no program of the desktop needs our keys
    assert seen.read_text() == f"{comfy_client.home / ran.lines[0]}\n"
    seen.unlink()
    ran = comfy_client.installed("run", "w.json", "--open", **desktop)
    until(seen.exists, LIMIT)
    assert seen.read_text() == ran.out


@pytest.mark.posix("programs that open files")
def test_without_a_display_or_opener_a_note_says_so(comfy_client):
    """Over SSH, for example."""
    ran = comfy_client("run", "w.json", "-q", "--open", SSH_CONNECTION="1 2 3 4")
    assert ran.status == 0
    assert ran.err == f"There is no display here to open {ran.out}"
    bare = {"PATH": str(comfy_client.home), "DISPLAY": ":0", "SSH_CONNECTION": "", "SSH_TTY": ""}
    ran = comfy_client("run", "w.json", "-q", "--open", **bare)
    assert ran.status == 0
    assert ran.err.startswith(f"Nothing opens {ran.out.strip()}: ")


def test_only_pictures_videos_and_sounds_are_opened(server, capsys):
    """A server cannot make the desktop start a program."""
    files = [{"filename": "run.desktop", "subfolder": "", "type": "output"}]
    with ComfyApi(server.url) as api:
        open_first(make_result("id", {}, {"1": {"images": files}}, files=api), [])
    assert capsys.readouterr().err == "There is no picture, video or sound to open.\n"


@pytest.mark.parametrize(
    ("environment", "platform", "expected"),
    [
        ({"DISPLAY": ":0"}, "linux", True),
        ({"WAYLAND_DISPLAY": "wayland-0"}, "linux", True),
        ({}, "linux", False),
        ({"DISPLAY": ":10", "SSH_CONNECTION": "1 2 3 4"}, "linux", False),
        ({}, "darwin", True),
        ({"SSH_TTY": "/dev/ttys0"}, "darwin", False),
        ({}, "win32", True),
    ],
)
def test_a_desktop_is_recognised_by_its_environment(environment, platform, expected):
    """An SSH session is not a desktop."""
    assert has_display(environment, platform) is expected
