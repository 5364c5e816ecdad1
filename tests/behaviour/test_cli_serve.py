"""``comfy-client serve`` for programs in any language: what it has, says and runs."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import requests

from comfy_client import ComfyApi, Workflow
from comfy_client.testing import ComfyServer
from tests.helpers.clients import until
from tests.helpers.command_line import COMMAND, LIMIT, CommandLine, check, open_terminal
from tests.helpers.graphs import picture
from tests.helpers.long import few

#: Makes the terminal that is given as a descriptor that of this process, and runs a command.
ON_TERMINAL = """
import fcntl, os, signal, sys, termios
signal.signal(signal.SIGINT, signal.default_int_handler)
fcntl.ioctl(int(sys.argv[1]), termios.TIOCSCTTY, 0)
for number in (0, 1, 2):
    os.dup2(int(sys.argv[1]), number)
os.execv(sys.argv[2], sys.argv[2:])
"""
POSIX = pytest.mark.posix("signals between processes")
TALKING = """
print("imported")
class Talking:
    RETURN_TYPES, FUNCTION, OUTPUT_NODE = (), "run", True
    @classmethod
    def INPUT_TYPES(cls):
        print("asked")
        return {}
    def run(self):
        print("run", flush=True)
        return {"ui": {"text": ["done"]}}
NODE_CLASS_MAPPINGS = {"Talking": Talking}
"""


@pytest.fixture
def command_line(tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path)


@contextmanager
def serving(
    command_line: CommandLine, *options: object, **variables: str
) -> Iterator[tuple[dict[str, Any], subprocess.Popen[str]]]:
    """A server's ready line, held to the schema, and its process."""
    with command_line.started("serve", "--json", "--port", 0, *options, **variables) as process:
        yield next_line(process), process


def next_line(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    text = process.stdout.readline()
    assert text, process.communicate(timeout=LIMIT)
    line: dict[str, Any] = json.loads(text)
    check("serve", line)
    return line


def program(code: str) -> tuple[str, str, str, str]:
    """The words that run Python code below ``serve``."""
    return "--", sys.executable, "-c", textwrap.dedent(code)


# -- what it says -----------------------------------------------------------------------


def test_the_ready_line_has_what_a_program_needs(command_line: CommandLine) -> None:
    with serving(command_line) as (ready, process):
        assert ready["event"] == "ready"
        assert ready["pid"] == process.pid
        assert ready["url"] == f"http://127.0.0.1:{ready['port']}"
        assert ready["control"] is None
        assert Path(ready["root"], "input").is_dir()
        assert requests.get(f"{ready['url']}/queue", timeout=LIMIT).status_code == 200


def test_each_request_and_prompt_is_a_line(command_line: CommandLine) -> None:
    with serving(command_line) as (ready, process), ComfyApi(ready["url"]) as api:
        job = api.submit(Workflow.example())
        job.result(LIMIT)
        lines = [next_line(process)]
        while lines[-1].get("status") != "success":
            lines.append(next_line(process))
    begun, ended = (line for line in lines if line["event"] == "prompt")
    assert (begun["prompt_id"], begun["status"]) == (job.prompt_id, None)
    assert ended == {**begun, "status": "success"}
    [post] = (line for line in lines if line.get("method") == "POST")
    assert post["path"].endswith("/prompt")
    assert post["bytes"] > 100


def test_prints_of_nodes_are_no_lines_on_stdout(command_line: CommandLine) -> None:
    path = command_line.home / "talking.py"
    path.write_text(TALKING)
    with serving(command_line, "--nodes", path) as (ready, process):
        with ComfyApi(ready["url"]) as api:
            assert api.run({"1": {"class_type": "Talking", "inputs": {}}}).texts == ("done",)
        process.terminate()
        out, err = process.communicate(timeout=LIMIT)
    assert {json.loads(line)["event"] for line in out.splitlines()} <= {"request", "prompt"}
    assert {"imported", "asked", "run"} <= {*err.split()}


def test_prints_of_nodes_do_not_mix_with_those_of_a_program(command_line: CommandLine) -> None:
    path = command_line.home / "talking.py"
    path.write_text(TALKING)
    code = """
        import json, os, urllib.request
        graph = {"prompt": {"1": {"class_type": "Talking", "inputs": {}}}}
        url, control = os.environ["COMFYUI_HOST"], os.environ["COMFYUI_CONTROL"]
        urllib.request.urlopen(url + "/prompt", json.dumps(graph).encode())
        ended = 0
        while not ended:
            prompts = json.load(urllib.request.urlopen(control + "/prompts"))["prompts"]
            ended = sum(one["status"] == "success" for one in prompts)
        print("mine")
    """
    options = ("serve", "--port", 0, "--control", "--nodes", path)
    ended = command_line.installed(*options, *program(code))
    assert (ended.status, ended.out) == (0, "mine\n"), ended
    assert "run" in ended.err.split()


def test_an_address_of_all_networks_is_told_as_one_that_clients_reach(
    command_line: CommandLine,
) -> None:
    with serving(command_line, "--host", "0.0.0.0") as (ready, _):
        assert ready["url"] == f"http://127.0.0.1:{ready['port']}"
        answer = requests.get(
            f"{ready['url']}/queue", headers={"Host": "comfyui:8188"}, timeout=LIMIT
        )
        assert answer.status_code == 200


def test_a_file_holds_the_port_while_the_server_runs(command_line: CommandLine) -> None:
    path = command_line.home / "new" / "port"
    with serving(command_line, "--port-file", path) as (ready, process):
        assert path.read_text() == f"{ready['port']}\n"
        assert [*path.parent.iterdir()] == [path]
        process.terminate()
        process.wait(LIMIT)
    assert not path.exists() or sys.platform == "win32"


# -- its options ------------------------------------------------------------------------


def test_options_stand_in_the_environment(command_line: CommandLine) -> None:
    variables = {
        "COMFY_SERVE_PORT": "0",
        "COMFY_SERVE_JSON": "1",
        "COMFY_SERVE_NO_PREVIEWS": "true",
        "COMFY_SERVE_CHECKPOINT": "a.safetensors b.safetensors",
        "COMFY_SERVE_PREFIX": "/comfy",
    }
    with command_line.started("serve", **variables) as process:
        ready = next_line(process)
        assert ready["url"].endswith("/comfy")
        with ComfyApi(ready["url"]) as api:
            assert {"a.safetensors", "b.safetensors"} <= {*api.get_models("checkpoints")}


def test_the_server_has_the_files_of_its_options(command_line: CommandLine) -> None:
    home = command_line.home
    (home / "mine").mkdir()
    (home / "mine" / "cat.png").write_bytes(b"no picture")
    options = ("--checkpoint", "x/sd15.safetensors", "--model", "loras/detail.safetensors")
    options += ("--input", home / "mine", "--output", home / "made", "--root", home / "root")
    for _ in range(2):  # a folder is used again
        with serving(command_line, *options) as (ready, process), ComfyApi(ready["url"]) as api:
            assert Path(ready["root"]) == (home / "root").resolve()
            assert "x/sd15.safetensors" in api.get_models("checkpoints")
            assert list(api.get_models("loras")) == ["detail.safetensors"]
            note = api.get_view_metadata("checkpoints", "x/sd15.safetensors")
            assert note == {"simulated": "this file contains no weights"}
            assert (
                requests.get(
                    f"{ready['url']}/view?filename=cat.png&type=input", timeout=LIMIT
                ).content
                == b"no picture"
            )
            assert api.run(Workflow.example(), timeout=LIMIT).images[0].bytes()
            process.terminate()
            process.wait(LIMIT)
    assert len([*(home / "made").glob("*.png")]) == 2
    assert (home / "root/models/loras/detail.safetensors").exists()
    assert [one.name for one in (home / "mine").iterdir()] == ["cat.png"]


def test_workflows_of_any_class_run_on_it(command_line: CommandLine) -> None:
    graph = {
        "1": {"class_type": "VAELoader", "inputs": {"vae_name": "any.safetensors"}},
        "2": {"class_type": "SomebodysNode", "inputs": {"vae": ["1", 0]}},
        "3": {
            "class_type": "SaveImage",
            "inputs": {"images": ["2", 0], "filename_prefix": "a"},
        },
    }
    options = ("--object-info", "0.28.1", "--any-node", "--node-seconds", "VAELoader=0.01")
    with serving(command_line, *options) as (ready, _), ComfyApi(ready["url"]) as api:
        assert api.run(graph, timeout=LIMIT).images
        assert api.get_system_stats().comfyui_version == "0.28.1"


def test_times_and_ids_are_the_same_in_each_run(command_line: CommandLine) -> None:
    graph = Workflow.example().to_dict()
    options = ("--speed", "1e9", "--lead", "3600", "--step-seconds", "60", "--ids", "counter")
    clock = ("--clock", "2026-12-01T00:00:00Z")
    with serving(command_line, *options, *clock) as (ready, _):
        url = ready["url"]
        answer = requests.post(f"{url}/prompt", json={"prompt": graph}, timeout=LIMIT).json()
        assert answer["prompt_id"] == str(uuid.uuid5(uuid.NAMESPACE_OID, "1"))
        until(lambda: requests.get(f"{url}/history", timeout=LIMIT).json())
        [entry] = requests.get(f"{url}/history", timeout=LIMIT).json().values()
    start = datetime(2026, 12, 1, 1, tzinfo=UTC).timestamp()
    assert 0 < entry["status"]["messages"][0][1]["timestamp"] / 1000 - start < 1


def test_faults_are_active_from_the_start(command_line: CommandLine) -> None:
    fault = "bad_gateway(503, path=/queue, times=1)"
    with serving(command_line, "--fault", fault, "--fault", "no_history") as (ready, _):
        statuses = [
            requests.get(f"{ready['url']}/queue", timeout=LIMIT).status_code for _ in range(2)
        ]
    assert statuses == [503, 200]


def test_pages_of_named_origins_may_use_it(command_line: CommandLine) -> None:
    page = command_line.home / "page"
    page.mkdir()
    (page / "index.html").write_text("a page")
    options = ("--cors", "http://localhost:5173", "--frontend", page, "--setting", "A.b=true")
    with serving(command_line, *options) as (ready, _):
        assert requests.get(ready["url"], timeout=LIMIT).text == "a page"
        settings = requests.get(f"{ready['url']}/settings", timeout=LIMIT).json()
        assert settings == {"A.b": True}
        for origin, status in (("http://localhost:5173", 200), ("http://evil.example", 403)):
            answer = requests.get(
                f"{ready['url']}/queue", headers={"Origin": origin}, timeout=LIMIT
            )
            assert answer.status_code == status


def test_programs_control_it_with_a_token(command_line: CommandLine) -> None:
    options = ("--control", "--control-token-env", "ITS_TOKEN")
    with serving(command_line, *options, ITS_TOKEN="a-token") as (ready, _):
        health = f"{ready['control']}/health"
        assert requests.get(health, timeout=LIMIT).status_code == 401
        headers = {"Authorization": "Bearer a-token"}
        answer = requests.get(health, headers=headers, timeout=LIMIT).json()
        assert answer["url"] == ready["url"]


@pytest.mark.long
def test_five_servers_run_side_by_side(tmp_path: Path) -> None:
    """Each with ports, files, prompts and faults of its own."""
    with contextlib.ExitStack() as stack:
        processes = []
        for name in "abcde":
            (tmp_path / name).mkdir()
            options = ("--json", "--port", 0, "--control", "--root", tmp_path / name / "root")
            started = CommandLine(tmp_path / name).started("serve", *options)
            processes.append(stack.enter_context(started))
        ready = [next_line(process) for process in processes]
        assert all(len({each[key] for each in ready}) == 5 for key in ("port", "control", "root"))
        for number, each in enumerate(ready):
            with ComfyApi(each["url"]) as api:
                for _ in range(number + 1):
                    api.run(picture(color=number))
        for number, each in enumerate(ready):
            listed = requests.get(f"{each['control']}/prompts", timeout=LIMIT).json()
            assert listed["count"] == number + 1
            assert len([*Path(each["root"], "output").iterdir()]) == 1
        assert requests.post(f"{ready[0]['control']}/kill", timeout=LIMIT).status_code == 200
        up = [requests.get(f"{each['control']}/health", timeout=LIMIT).ok for each in ready]
        assert up == [False, True, True, True, True]
        requests.post(f"{ready[1]['control']}/reset", timeout=LIMIT)
        left = [len([*Path(each["root"], "output").iterdir()]) for each in ready]
        assert left == [1, 0, 1, 1, 1]


def test_a_recording_is_repeated(command_line: CommandLine) -> None:
    path = command_line.home / "recorded.jsonl"
    with ComfyServer() as server, ComfyApi(server.url, record=path) as api:
        expected = api.run(Workflow.example(), timeout=LIMIT).images[0].bytes()
    with serving(command_line, "--replay", path) as (ready, _), ComfyApi(ready["url"]) as api:
        assert api.run(Workflow.example(), timeout=LIMIT).images[0].bytes() == expected


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--fault", "cutt(POST, /prompt)"], "no 'cutt'; nearest: cut"),
        (["--fault", "cut(POST)"], "cut: missing a required argument: 'path'"),
        (["--fault", "bad_gateway(503, tims=1)"], "unexpected keyword argument 'tims'"),
        (["--fault", "delay(GET, /queue, soon)"], "delay: "),
        (["--fault", "rewrite(GET, /queue, a)"], "needs a function"),
        (["--fault", "?"], "write NAME"),
        (["--fault", "cut(method=POST, /prompt)"], "after an argument with a name"),
        (["--model", "detail.safetensors"], "write FOLDER/NAME"),
        (["--model", "lora/a.safetensors"], "a folder of models is one of checkpoints, "),
        (["--model", "loras/../../a.ckpt"], "not the name of a file below loras: '../../a.ckpt'"),
        (["--checkpoint", "../../../a"], "not the name of a file below checkpoints"),
        (["--checkpoint", ""], "not the name of a file below checkpoints"),
        (["--checkpoint", "sd15"], "'sd15' has none of .bin, .ckpt, "),
        (["--max-upload-size", "big"], "not a number of bytes"),
        (["--setting", "dark"], "write NAME=VALUE"),
        (["--node-seconds", "VAELoader=soon"], "seconds are a number, 0 or more"),
        (["--node-seconds", "VAELoader=-1"], "seconds are a number, 0 or more"),
        (["--object-info", "0.28"], "no file '0.28'; the versions are 0.3.75, 0.28.1, 0.33.0"),
        (["--object-info", "."], "no file '.'"),
        (["--object-info", "no.json"], "no.json contains no JSON"),
        (["--object-info", "list.json"], "must contain an object of node definitions"),
        (["--prefix", "comfy"], "a prefix looks like '/comfy'"),
        (["--allowed-host", "a/b"], "a host looks like"),
        (["--cors", "evil"], "an origin looks like"),
        (["--clock", "yesterday"], "clock must be like"),
        (["--frontend", "."], "has no index.html"),
        (["--tls-certfile", "no.json"], "no certificate and key in no.json"),
        (["--tls-certfile", "missing.pem"], "no certificate and key in missing.pem"),
        (["--port-file", ""], "--port-file: "),
        (["--port-file", "no.json/port"], "--port-file: "),
        (["--nodes", "missing.py"], "--nodes: missing.py: there is no such file"),
        (["--replay", "missing.jsonl"], "No such file or directory: 'missing.jsonl'"),
        (["--replay", "no.json"], "so this is not a recording"),
        (["--replay", "."], "Is a directory"),
        (["--pace", "1"], "--pace is for --replay"),
        (["--replay", "r.jsonl", "--checkpoint", "a"], "leave out --checkpoint"),
        (["--control-port", "0"], "--control-port is for --control"),
        (["--control-token-env", "X"], "--control-token-env is for --control"),
        (["--control", "--control-token-env", "MISSING"], "MISSING does not hold a token"),
        (["--", "no-such-program"], "no program 'no-such-program'"),
    ],
)
def test_options_that_cannot_be_used_are_wrong_usage(
    command_line: CommandLine, options: list[str], words: str
) -> None:
    """Before anything is printed on stdout; the error is a line, below that on the usage if any."""
    (command_line.home / "no.json").write_text("no JSON")
    (command_line.home / "list.json").write_text("[]")
    ended = command_line("serve", "--port", 0, *options)
    assert ended.status == 2, ended
    *usage, error = ended.err.splitlines()
    assert words in error
    assert error.startswith("Error: ")
    assert not usage or (usage[0].startswith("Usage: ") and len(usage) == 3)
    assert ended.out == ""


def test_models_may_be_in_folders_of_other_names(command_line: CommandLine) -> None:
    options = ("--model", "clip/a.safetensors", "--model", "unet/b.safetensors")
    with serving(command_line, *options) as (ready, _), ComfyApi(ready["url"]) as api:
        assert list(api.get_models("text_encoders")) == ["a.safetensors"]
        assert list(api.get_models("diffusion_models")) == ["b.safetensors"]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("PORT", "abc", "'--port': 'abc'"),
        ("CONTROL", "maybe", "'--control': 'maybe'"),
        ("FAULT", "cutt", "no 'cutt'"),
        ("MODEL", "loras/a.safetensors detail", "'detail': write FOLDER/NAME"),
        ("CLOCK", "yesterday", "clock must be like"),
    ],
)
def test_wrong_variables_are_wrong_usage(
    command_line: CommandLine, name: str, value: str, words: str
) -> None:
    variables = {"COMFY_SERVE_PORT": "0", f"COMFY_SERVE_{name}": value}
    ended = command_line("serve", **variables)
    assert (ended.status, ended.out) == (2, ""), ended
    assert words in ended.err.splitlines()[-1]


def test_a_folder_of_outputs_does_not_hide_another(command_line: CommandLine) -> None:
    (command_line.home / "root/output").mkdir(parents=True)
    (command_line.home / "root/output/old.png").touch()
    ended = command_line("serve", "--port", 0, "--root", "root", "--output", "made")
    assert ended.status == 2
    assert "has files in" in ended.err
    assert (command_line.home / "root/output/old.png").exists()


# -- when it ends -----------------------------------------------------------------------


def test_an_unused_server_ends_by_itself(command_line: CommandLine) -> None:
    """Not while a client has a socket."""
    with serving(command_line, "--idle-timeout", "0.3") as (ready, process):
        with ComfyApi(ready["url"]), pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.8)
        assert process.wait(LIMIT) == 0


@POSIX
def test_a_server_ends_with_its_parent(command_line: CommandLine) -> None:
    code = """
        import os, subprocess, sys
        command = [sys.executable, "-m", "comfy_client", "serve", "--port", "0"]
        with open(sys.argv[1], "w") as out:
            process = subprocess.Popen([*command, "--with-parent"], stdout=out)
        while not os.path.getsize(sys.argv[1]):
            pass
        print(process.pid)
    """
    url = command_line.home / "url"
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(url)],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=True,
    )
    until(lambda: not is_running(int(ran.stdout)))
    assert url.read_text().startswith("http://127.0.0.1:")


def is_running(pid: int) -> bool:
    """Whether a process has not ended; one whose parent did not ask counts as ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# -- a program beside it ----------------------------------------------------------------


def test_a_program_finds_the_server_and_its_status_is_that_of_serve(
    command_line: CommandLine,
) -> None:
    code = """
        import os, sys, urllib.request
        url = os.environ["COMFYUI_HOST"]
        print(urllib.request.urlopen(url + "/queue").status, *sys.argv[1:])
        print(urllib.request.urlopen(os.environ["COMFYUI_CONTROL"] + "/health").status)
        sys.exit(7)
    """
    ended = command_line.installed(
        "serve", "--port", 0, "--control", *program(code), "-x", "--json"
    )
    assert ended.status == 7, ended
    assert ended.lines == ["200 -x --json", "200"]
    assert re.fullmatch(r"An embedded ComfyUI runs at http://127\.0\.0\.1:\d+\n", ended.err)


@pytest.mark.parametrize(
    ("options", "variables"),
    [
        ([], {"COMFYUI_LOGIN": "me:a:word"}),
        (["--hosted", "proxy"], {"COMFY_API_KEY": "me:a:word", "COMFY_BASE_URL": "http"}),
    ],
    ids=["login", "key"],
)
def test_a_program_may_use_a_server_with_a_login(
    command_line: CommandLine, options: list[str], variables: dict[str, str]
) -> None:
    code = "import json, os; print(json.dumps({**os.environ}))"
    login = ("--login-env", "ITS_LOGIN")
    ended = command_line.installed(
        "serve", "--port", 0, *login, *options, *program(code), ITS_LOGIN="me:a:word"
    )
    found = json.loads(ended.out)
    assert {name: found[name][: len(value)] for name, value in variables.items()} == variables


@POSIX
@pytest.mark.parametrize("name", few(["SIGTERM", "SIGINT", "SIGHUP"], 2))
def test_a_program_gets_the_signals_and_may_take_its_time(
    command_line: CommandLine, name: str
) -> None:
    """Once each, as it is no program of a terminal."""
    code = f"""
        import signal, sys, time, urllib.request, os
        got = []
        signal.signal(signal.{name}, lambda *_: got.append(1))
        print("ready", flush=True)
        while not got:
            time.sleep(0.01)
        time.sleep(0.3)
        print(urllib.request.urlopen(os.environ["COMFYUI_HOST"] + "/queue").status, len(got))
        sys.exit(9)
    """
    with command_line.started("serve", "--port", 0, *program(code)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.Signals[name])
        out, err = process.communicate(timeout=LIMIT)
    assert (process.returncode, out) == (9, "200 1\n"), err


@POSIX
def test_a_program_that_a_signal_ends_has_the_status_of_shells(
    command_line: CommandLine,
) -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    ended = command_line.installed("serve", "--port", 0, *program(code))
    assert ended.status == 128 + 9, ended


@pytest.mark.posix("terminals")
def test_ctrl_c_on_a_terminal_reaches_a_program_once(command_line: CommandLine) -> None:
    """It gets the terminal's own, and no second one, by which many programs stop at once."""
    code = """
        import signal, sys, time
        got = []
        signal.signal(signal.SIGINT, lambda *_: got.append(1))
        print("ready", flush=True)
        while not got:
            time.sleep(0.01)
        time.sleep(0.3)
        print("got", len(got))
    """
    words = ["serve", "--port", "0", *program(code)]
    here, there = open_terminal()
    with (
        open(here, "r+b", buffering=0) as terminal,
        subprocess.Popen(
            [sys.executable, "-c", ON_TERMINAL, str(there), COMMAND, *words],
            pass_fds=[there],
            start_new_session=True,
            cwd=command_line.home,
        ) as process,
    ):
        os.close(there)
        shown = b""
        with contextlib.suppress(OSError):  # Linux's way to say that the other end is closed
            while data := terminal.read(4096):
                shown += data
                if shown.endswith(b"ready\r\n"):
                    terminal.write(b"\x03")
        assert process.wait(LIMIT) == 0
    assert b"got 1\r\n" in shown


def test_a_server_that_cannot_start_runs_no_program(command_line: CommandLine) -> None:
    with ComfyServer() as server:
        ended = command_line.installed("serve", "--port", server.port, *program("print(1)"))
    assert ended.status == 1
    assert ended.out == ""
    assert "cannot listen on" in ended.err
