"""``check`` of many files and folders, for continuous integration."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import yaml

from comfy_client.testing import ComfyServer
from tests.conftest import load_workflow
from tests.helpers import actions
from tests.helpers.command_line import COMMAND, LIMIT, CommandLine
from tests.helpers.conformance import definitions, pair

OFFLINE = ("--definitions", "object_info.json", "--host", "http://127.0.0.1:9")
#: A definition, and a workflow for it; the text may be anything, the number must be less than 10.
NODE: dict[str, Any] = {
    "input": {"required": {"text": ["STRING", {}], "number": ["INT", {"min": 0, "max": 9}]}},
    "output": [],
    "output_name": [],
    "output_is_list": [],
    "output_node": True,
    "name": "Show",
    "display_name": "Show",
    "category": "",
    "python_module": "nodes",
}


def graph(number: int = 1, title: str = "Mine", class_type: str = "Show") -> dict[str, Any]:
    inputs = {"text": "a", "number": number}
    return {"7": {"class_type": class_type, "inputs": inputs, "_meta": {"title": title}}}


@pytest.fixture
def comfy_client(tmp_path: Path) -> CommandLine:
    """The command, in a folder with definitions, and with a good and a bad workflow."""
    put(tmp_path / "object_info.json", {"Show": NODE})
    put(tmp_path / "good.json", graph())
    put(tmp_path / "bad.json", graph(10))
    return CommandLine(tmp_path)


def put(path: Path, content: Any) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    text = content if isinstance(content, str) else json.dumps(content, indent=2)
    path.write_text(text, encoding="utf-8")
    return path


def picture(path: Path, prompt: Any = None) -> Path:
    """A PNG file as ComfyUI saves it, with or without its prompt."""
    from PIL import Image, PngImagePlugin

    info = PngImagePlugin.PngInfo()
    if prompt is not None:
        info.add_text("prompt", json.dumps(prompt))
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.new("RGB", (8, 8)).save(path, pnginfo=info)
    return path


def test_a_fault_is_a_line_with_file_line_node_and_input(comfy_client):
    """After the files that come before it, in the order in which they were given."""
    ended = comfy_client("check", "bad.json", "good.json", "./bad.json", *OFFLINE)
    assert ended.status == 4
    assert ended.lines == [
        "bad.json:6: error: node 7 'Mine' (Show): number = 10 is too big; it takes INT (0 to 9)",
        "2 workflows: 1 error",
    ]
    assert ended.err == ""


def test_a_single_file_has_no_number_of_files(comfy_client):
    assert comfy_client("check", "good.json", *OFFLINE).lines == ["no problems"]
    assert comfy_client("check", "bad.json", *OFFLINE).lines[-1] == "1 error"


def test_files_after_an_unreadable_one_are_checked(comfy_client):
    """The worst status counts: 4 before 2."""
    home = comfy_client.home
    put(home / "broken.json", '{\n"7": {\n<<<<<<< HEAD\n}}')
    put(home / "package.json", {"name": "x"})
    put(home / "list.json", [1, 2])
    picture(home / "plain.png")
    names = ("broken.json", "missing.json", "package.json", "list.json", "plain.png")
    ended = comfy_client("check", *names, "good.json", *OFFLINE)
    assert ended.status == 2
    assert ended.lines == ["1 workflow: 5 unreadable"]
    errors = [line for line in ended.err.splitlines() if line.startswith("Error: ")]
    assert [name for name in names if not any(name in line for line in errors)] == []
    assert "broken.json, line 3, column 1" in ended.err
    assert comfy_client("check", *names, "bad.json", *OFFLINE).status == 4


def test_json_has_a_report_or_an_error_for_each_file(comfy_client):
    found = comfy_client.json("check", "bad.json", "missing.json", "good.json", *OFFLINE, status=4)
    assert [one["file"] for one in found] == ["bad.json", "missing.json", "good.json"]
    assert [one.get("ok") for one in found] == [False, None, True]
    assert (found[1]["code"], found[1]["exit"]) == ("usage", 2)


def test_a_folder_is_searched_for_json_and_for_pictures_with_a_workflow(comfy_client):
    """Sorted, its own files first; JSON of others is skipped with a note, pictures without one."""
    flows = comfy_client.home / "flows"
    picture(flows / "a.png", graph(11))
    picture(flows / "plain.png")
    put(flows / "b.json", graph(12))
    put(flows / "B.JSON", graph(13))
    put(flows / "below" / "c.json", graph(14))
    put(flows / "package.json", {"name": "x", "version": 1})
    put(flows / "d3.json", {"nodes": [{"id": "a", "type": "b"}], "links": [{"source": "a"}]})
    put(flows / "notes.txt", "{")
    for hidden in (".git", "node_modules"):
        put(flows / hidden / "d.json", "{")
    put(flows / ".hidden.json", "{")
    ended = comfy_client("check", "flows", *OFFLINE)
    assert ended.status == 4
    where = [line.partition(": ")[0] for line in ended.lines]
    below = os.path.join("flows", "below", "c.json")
    names = (f"flows{os.sep}B.JSON:6", f"flows{os.sep}a.png", f"flows{os.sep}b.json:6")
    assert where == [*names, f"{below}:6", "4 workflows"]
    assert ended.lines[-1].endswith("4 errors; 3 without a workflow skipped")
    [first, *_] = comfy_client("check", ".", *OFFLINE).lines
    assert first.startswith("bad.json:6: ")
    notes = ended.err.splitlines()
    assert len(notes) == 2
    assert all(line.startswith("skipped, as it is no workflow: flows") for line in notes)


def test_damaged_files_of_a_folder_are_no_workflows_of_others(comfy_client):
    """They may be ours: broken JSON, no class, a pointer of Git LFS, a cut picture."""
    flows = comfy_client.home / "flows"
    put(flows / "broken.json", "{")
    put(flows / "classless.json", {"1": {"inputs": {}}})
    put(flows / "pointer.png", "version https://git-lfs.github.com/spec/v1\n")
    whole = picture(flows / "cut.png", graph()).read_bytes()
    (flows / "cut.png").write_bytes(whole[:60])
    ended = comfy_client("check", "flows", *OFFLINE)
    assert ended.status == 2
    assert ended.lines == ["0 workflows: 4 unreadable"]


@pytest.mark.parametrize("name", ["a.json", "a.png", "a.latent"])
def test_a_pointer_of_git_lfs_says_how_to_fetch_the_file(comfy_client, name):
    """In place of JSON or of a picture."""
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    put(comfy_client.home / name, pointer)
    ended = comfy_client("check", name, *OFFLINE)
    assert ended.status == 2
    assert f"{name}: a pointer of Git LFS; git lfs pull fetches the file itself" in ended.err


@pytest.mark.parametrize(
    "foreign",
    [
        {"name": "x"},
        {"Show": NODE},
        {"nodes": [{"id": "a", "type": "b"}], "links": [{"source": "a"}]},
    ],
)
def test_json_of_others_that_is_named_is_said_to_be_no_workflow(comfy_client, foreign):
    """It is an error then, and not skipped as in a folder."""
    put(comfy_client.home / "foreign.json", foreign)
    ended = comfy_client("check", "foreign.json", *OFFLINE)
    assert ended.status == 2
    assert "foreign.json: no workflow of ComfyUI: " in ended.err


def test_a_folder_without_a_workflow_is_an_error(comfy_client):
    """Else a job with a wrong folder would be green; a folder that was checked before is not."""
    put(comfy_client.home / "empty" / "package.json", {"name": "x"})
    ended = comfy_client("check", "empty", "good.json", *OFFLINE)
    assert ended.status == 2
    assert "empty: no workflow in this folder" in ended.err
    put(comfy_client.home / "flows" / "a.json", graph())
    ended = comfy_client("check", "flows", f"flows{os.sep}", *OFFLINE)
    assert (ended.status, ended.lines) == (0, ["1 workflow: no problems"])


@pytest.mark.posix("pipes with a name")
def test_a_pipe_in_a_folder_is_not_opened(comfy_client):
    put(comfy_client.home / "flows" / "a.json", graph())
    os.mkfifo(comfy_client.home / "flows" / "b.json")
    assert comfy_client("check", "flows", *OFFLINE).status == 0


def test_warnings_of_a_conversion_name_their_file(comfy_client):
    """As lines like others, though two files have the same one; they are no errors."""
    home = comfy_client.home
    put(home / "object_info.json", definitions("0.28.1"))
    ui, _ = pair("crafted145_autogrow_math")
    node = next(one for one in ui["nodes"] if one["type"] == "PrimitiveInt")
    node["widgets_values"] = [None, "fixed"]
    for name in ("a.json", "b.json"):
        put(home / name, ui)
    ended = comfy_client("check", "a.json", "b.json", *OFFLINE)
    warned = [line.partition(":")[0] for line in ended.lines if ": warning: " in line]
    assert Counter(warned)["a.json"] == Counter(warned)["b.json"] > 0
    assert ended.err == ""
    [first, *_] = comfy_client("check", "a.json", "--json", *OFFLINE).err.splitlines()
    assert first.startswith("Warning: a.json: node ")


# -- for GitHub ---------------------------------------------------------------------------


def annotations(text: str) -> list[tuple[str, dict[str, str], str]]:
    """The commands in the log of a job, as GitHub reads them."""
    found = []
    for line in text.splitlines():
        if line.startswith("::"):
            head, _, said = line[2:].partition("::")
            kind, _, properties = head.partition(" ")
            each = dict(one.split("=", 1) for one in properties.split(","))
            found.append((kind, {k: unquote(v) for k, v in each.items()}, unquote(said)))
    return found


def test_github_gets_a_command_for_each_fault_that_no_file_can_forge(comfy_client):
    """Commas, colons and percent signs in names, and line ends in titles, are escaped."""
    home = comfy_client.home
    name = "100%25,line=1::x.json" if os.name == "posix" else "100%25,line=1.json"
    put(home / name, graph(10, "Mine\n::stop-commands::x\r%0A"))
    put(home / "broken.json", "{\n")
    ended = comfy_client("check", name, "broken.json", "--format", "github", *OFFLINE)
    assert ended.status == 4
    first, second = annotations(ended.out)
    assert first[:2] == ("error", {"file": name, "line": "6"})
    assert first[2].startswith(f"{name}:6: node 7 'Mine")
    assert second[:2] == ("error", {"file": "broken.json", "line": "2"})
    assert second[2].startswith("broken.json:2: line 2, column 1: not valid JSON")
    assert len(ended.lines) == 3


def test_no_file_of_others_gives_github_a_command(comfy_client):
    """Nor do many faults of a file with such a name; a command may stand within a line, too."""
    flows = comfy_client.home / "flows"
    put(flows / "package.json", {"name": "##[add-mask]e"})
    many = {str(at): graph(10, "##[add-mask]e")["7"] for at in range(120)}
    name = "::stop-commands::x.json" if os.name == "posix" else "x.json"
    put(comfy_client.home / name, many)
    put(flows / "good.json", graph())
    names = ("flows", name)
    ended = comfy_client("check", *names, "--format", "github", *OFFLINE)
    *lines, last = ended.lines
    assert all(line.startswith("::error file=") for line in lines)
    assert last.startswith(f"{len(names)} workflow")
    assert "add-mask" in ended.err
    assert "##[" not in ended.err


def test_github_gets_paths_from_the_folder_of_the_repository(comfy_client):
    """Wherever in it the command runs."""
    where = {"GITHUB_WORKSPACE": str(comfy_client.home.parent)}
    ended = comfy_client("check", "bad.json", "--format", "github", *OFFLINE, **where)
    [(_, properties, _)] = annotations(ended.out)
    assert properties["file"] == f"{comfy_client.home.name}/bad.json"


def test_github_and_json_together_are_wrong_usage(comfy_client):
    assert comfy_client("check", "good.json", "--format", "github", "--json").status == 2


@pytest.mark.posix("bash")
@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_the_action_checks_the_files_of_its_lines(comfy_client):
    """Names with spaces or that look like options, and options of the command."""
    home = comfy_client.home
    actions.installed(home, "check-workflows")
    put(home / "my flows" / "a.json", graph(10))
    put(home / "-b.json", graph(11))
    files = {"FILES": "my flows\n\n-b.json\n", "DEFINITIONS": "object_info.json"}
    ran = actions.run(home, "check-workflows", "check", files)
    assert ran.returncode == 4, ran
    found = [properties["file"] for _, properties, _ in annotations(ran.stdout)]
    assert found == ["my flows/a.json", "-b.json"]
    with ComfyServer() as server:
        put(home / "c.json", load_workflow("txt2img_tiny", ckpt_name="simulated.safetensors"))
        inputs = {"FILES": "c.json", "OPTIONS": f"--host {server.url} --no-cache"}
        ran = actions.run(home, "check-workflows", "check", inputs)
    assert (ran.returncode, ran.stdout) == (0, "no problems\n"), ran


# -- for pre-commit -----------------------------------------------------------------------

ROOT = Path(__file__).parents[2]


def test_the_hook_of_pre_commit_runs_this_command() -> None:
    """Once for all files; it installs what the extra does."""
    [hook] = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text("utf-8"))
    assert (hook["entry"], hook["language"]) == ("comfy-client check", "python")
    assert hook["require_serial"] is True
    setup = (ROOT / "setup.cfg").read_text("utf-8")
    extra = setup.partition("\ncli =\n")[2].partition("\nimage =")[0]
    assert hook["additional_dependencies"] == [
        one.replace(" ", "") for one in extra.split("\n    ")
    ]


# -- many files, and their end --------------------------------------------------------------


def test_a_server_is_asked_for_a_class_twice_at_most(tmp_path):
    """However many files lack the same model or have the same unknown class."""
    with ComfyServer() as server:
        command = CommandLine(tmp_path, server.url)
        unknown = {"1": {"class_type": "Nowhere", "inputs": {}}}
        for number in range(8):
            wrong = load_workflow("txt2img_tiny", ckpt_name=f"{number}.safetensors")
            put(
                tmp_path / "flows" / f"{number}.json", {**wrong, **unknown} if number % 2 else wrong
            )
        assert command("check", "flows", "--no-cache").status == 4
        asked = Counter(request.path for request in server.requests)
    assert asked["/object_info/CheckpointLoaderSimple"] == 2
    assert max(asked.values()) == 2, asked
    assert asked["/node_replacements"] == 1


def test_a_server_that_is_down_ends_the_check(comfy_client):
    """At the first file that needs it."""
    found = comfy_client.json("check", "good.json", "bad.json", *OFFLINE[2:], status=3)
    assert [one["code"] for one in found] == ["server_unreachable"]


def test_a_file_has_a_hundred_lines_at_most(comfy_client):
    """And its number of faults; those of JSON are bounded as all of it is."""
    many = {str(at): graph(10)["7"] for at in range(250)}
    put(comfy_client.home / "many.json", many)
    ended = comfy_client("check", "many.json", "bad.json", *OFFLINE)
    assert len(ended.lines) == 103
    assert ended.lines[100] == "many.json: error: ... (250 problems in all)"
    assert ended.lines[-1] == "2 workflows: 251 errors"


@pytest.mark.posix("SIGINT, and pipes that end")
def test_ctrl_c_and_a_closed_pipe_end_it_at_once(comfy_client):
    """130 and 141, without a traceback, in the middle of the files."""
    flows = comfy_client.home / "flows"
    many = {str(at): graph(10)["7"] for at in range(100)}
    for number in range(100):
        put(flows / f"{number}.json", many)  # more lines than a pipe holds
    with comfy_client.started("check", "flows", *OFFLINE) as process:
        assert process.stdout.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=LIMIT)
    assert (process.returncode, err) == (130, "")
    assert "workflows: " not in out
    script = f"set -o pipefail; {COMMAND} check flows {' '.join(OFFLINE)} | head -1"
    ran = subprocess.run(
        ["bash", "-c", script], cwd=flows.parent, capture_output=True, text=True, timeout=LIMIT
    )
    assert (ran.returncode, ran.stderr, ran.stdout.count("\n")) == (141, "", 1)
