"""The command line: what a newcomer types first."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme
from click.testing import Result
from PIL import Image

import comfy_client
from comfy_client import AuthenticationError, ComfyApi, HostedApi
from comfy_client.cli.main import main
from comfy_client.testing import ComfyServer
from tests.comfyui import ComfyUI
from tests.conftest import load_workflow
from tests.helpers.clients import until
from tests.helpers.command_line import open_terminal, runner
from tests.helpers.long import few

LIMIT = 60.0  # seconds for what should take a moment
PACKAGE = Path(comfy_client.__file__).parent
# Ctrl-C as a terminal has it, also where the tests themselves run in the background.
START = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):  # nohup, under which the tests may run, ignores it
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
{first}
from comfy_client.__main__ import main
main()
"""


#: For the first line of ``START``: what is over soon shows no bar.
SLOW = """
from comfy_client.testing import ComfyServer
ComfyServer.__init__.__kwdefaults__["step_seconds"] = 0.1
"""


def invoke(*args: object) -> Result:
    return runner().invoke(main, [str(arg) for arg in args])


def error_of(run: Result, status: int = 1) -> str:
    """The line that an error is; another may say what to do."""
    assert run.exit_code == status, run.output
    lines = [line for line in run.stderr.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1, run.stderr
    return lines[0]


@contextlib.contextmanager
def started(*args: object, first: str = "", **options: Any) -> Iterator[subprocess.Popen[str]]:
    """The command in a process of its own, which does not outlive the block."""
    env = {"PYTHONPATH": str(PACKAGE.parent), "PYTHONUNBUFFERED": "1"}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    options["env"] = {**os.environ, **env, **options.get("env", {})}
    command = [sys.executable, "-c", START.format(first=first), *map(str, args)]
    with subprocess.Popen(command, text=True, **options) as process:
        try:
            yield process
        finally:
            process.terminate()  # so that a server may remove its files
            try:
                process.wait(LIMIT)
            except subprocess.TimeoutExpired:
                process.kill()


def line_with(process: subprocess.Popen[str], words: str) -> str:
    """The next line of its output with these words."""
    assert process.stdout is not None
    return next(line for line in process.stdout if words in line)


def error_line_with(process: subprocess.Popen[str], words: str) -> str:
    """The next line on stderr with these words."""
    assert process.stderr is not None
    return next(line for line in process.stderr if words in line)


def code_in(output: str) -> str:
    """The Python that the demo shows."""
    lines = output.partition("The same in Python:")[2].splitlines()
    return textwrap.dedent("\n".join(line for line in lines if line.startswith("    ") or not line))


@pytest.fixture(autouse=True)
def _no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have some."""
    for name in ("COMFYUI_LOGIN", "COMFYUI_TOKEN"):
        monkeypatch.delenv(name, raising=False)


# -- demo -------------------------------------------------------------------------------


def test_the_demo_makes_a_picture_and_a_preview_and_says_that_they_are_simulated(tmp_path):
    """With no server at hand."""
    run = invoke("demo", "--output", tmp_path / "new" / "folder", "--seed", 7)
    assert run.exit_code == 0, run.output
    picture = tmp_path / "new" / "folder" / "comfy-client-demo.png"
    preview = picture.with_name("comfy-client-demo-preview.jpg")
    assert f"picture: {picture}\npreview: {preview}\n" in run.output
    assert "simulated" in run.output.splitlines()[0]
    assert "done, 0:0" in run.stderr
    with Image.open(picture) as image, Image.open(preview) as small:
        assert image.size == (512, 512)
        assert small.size == (512, 512)
        assert "seed" in image.info["prompt"]


def test_the_help_of_the_demo_says_what_it_does_without_a_server_and_without_time():
    text = " ".join(invoke("demo", "--help").output.split())
    assert "The server. Default: an embedded one." in text
    assert "How long to wait; then the prompt is cancelled." in text


def test_the_code_that_the_demo_shows_makes_the_same_picture(tmp_path, monkeypatch):
    """As it stands."""
    run = invoke("demo", "--output", tmp_path, "--prompt", "a \"tower\"\n of 'bricks'")
    monkeypatch.chdir(tmp_path)
    exec(compile(code_in(run.output), "the demo's code", "exec"), {})
    first, second = (
        Image.open(io.BytesIO(path.read_bytes())).tobytes()
        for path in (tmp_path / "comfy-client-demo.png", tmp_path / "comfy-client-demo_00001_.png")
    )
    assert first == second


def test_each_demo_has_a_seed_and_files_of_its_own(tmp_path):
    """Nothing is written over."""
    for _ in range(2):
        assert invoke("demo", "--output", tmp_path).exit_code == 0
    assert {path.name for path in tmp_path.iterdir()} == {
        "comfy-client-demo.png",
        "comfy-client-demo-preview.jpg",
        "comfy-client-demo (1).png",
        "comfy-client-demo (1)-preview.jpg",
    }
    first, second = (path.read_bytes() for path in tmp_path.glob("*.png"))
    assert first != second


@pytest.mark.parametrize(
    ("login", "in_file"), [("me:pass word", False), ("", True), ("me:wrong", True)]
)
def test_a_login_comes_from_a_file_or_the_environment_and_is_not_shown(
    tmp_path, monkeypatch, login, in_file
):
    """And the checkpoint is one that the server has."""
    monkeypatch.setenv("COMFYUI_LOGIN", login)
    with ComfyServer(credentials=("me", "pass word"), prefix="/comfy") as server:
        folder = server.root / "models" / "checkpoints"
        (folder / "a.safetensors").touch()
        (tmp_path / "login").write_text("me:pass word\n")
        more = ["--login-file", tmp_path / "login"] if in_file else []
        run = invoke("demo", "--host", server.url, "--output", tmp_path, *more)
        assert run.exit_code == 0, run.output
        assert "checkpoint: a.safetensors\n" in run.output
        assert "simulated" not in run.output
        assert "pass" not in run.output
        assert 'EnvCredentials("COMFYUI_LOGIN", "basic")' in run.output
        monkeypatch.setenv("COMFYUI_LOGIN", "me:pass word")
        monkeypatch.chdir(tmp_path)
        exec(compile(code_in(run.output), "the demo's code", "exec"), {})
    assert (tmp_path / "comfy-client-demo_00001_.png").exists()


def test_a_token_comes_from_the_environment(tmp_path, monkeypatch):
    """As a bearer token."""
    monkeypatch.setenv("COMFYUI_TOKEN", "secret")
    with ComfyServer(credentials="secret", version="0.3.75", previews=False) as server:
        run = invoke("demo", "--host", server.url, "--output", tmp_path)
    assert run.exit_code == 0, run.output
    assert "secret" not in run.output.replace("secret =", "").replace("=secret", "")
    assert "preview: none came" in run.output


def test_a_refusal_by_the_server_is_one_line(tmp_path):
    """Not a traceback."""
    with ComfyServer(credentials="secret") as server:
        assert "401" in error_of(invoke("demo", "--host", server.url, "--output", tmp_path), 8)
    with ComfyServer() as server:
        demo = ("demo", "--host", server.url, "--output", tmp_path)
        told = error_of(invoke(*demo, "--checkpoint", "b\x1b[31m.ckpt"), 2)
        assert told.endswith("has no checkpoint b [31m.ckpt; it has 'simulated.safetensors'")
        for file in (server.root / "models" / "checkpoints").iterdir():
            file.unlink()
        assert "has no checkpoint: put one into" in error_of(invoke(*demo))
    assert "names no server" in error_of(invoke("demo", "--host", "a b", "--output", tmp_path), 2)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_an_error_before_anything_runs(tmp_path):
    """In one line."""
    (tmp_path / "file").touch()
    told = error_of(invoke("demo", "--output", tmp_path / "file" / "folder"), 2)
    assert told == f"Error: --output: Not a directory: '{tmp_path / 'file' / 'folder'}'"


def test_a_folder_that_cannot_be_written_is_reported_before_anything_runs(tmp_path, monkeypatch):
    """A read-only file system, for example; root may write to any other folder."""
    monkeypatch.setattr("os.access", lambda path, *_: path != tmp_path)
    with ComfyServer() as server:
        told = error_of(invoke("demo", "--host", server.url, "--output", tmp_path), 2)
        assert told == f"Error: --output: {str(tmp_path)!r} is a folder that you may not write to"
        assert not server.requests


def test_a_prompt_that_takes_too_long_is_cancelled(tmp_path):
    """And leaves nothing in the queue."""
    with ComfyServer(step_seconds=0.5) as server, ComfyApi(server.url) as api:
        demo = ("demo", "--host", server.url, "--output", tmp_path, "--timeout", 1)
        assert error_of(invoke(*demo), 7) == "Error: no picture within 1 s; it was cancelled"
        until(lambda: api.poll_status(LIMIT).queue_remaining == 0)
        [entry] = api.get_histories().values()
        assert not entry.outputs


@pytest.mark.posix("signals between processes")
@pytest.mark.parametrize(
    ("waits", "number"),
    few([(True, signal.SIGINT), (False, signal.SIGTERM), (False, signal.SIGINT)], 2),
)
def test_a_signal_cancels_what_was_queued_and_is_quiet(tmp_path, waits, number):
    """By Ctrl-C or SIGTERM, whether it runs or waits; what others have queued goes on."""
    with ComfyServer(step_seconds=0.2) as server, ComfyApi(server.url) as api:
        if waits:
            other = load_workflow("txt2img_tiny", steps=1000, ckpt_name="simulated.safetensors")
            job = api.submit(other)
            until(lambda: api.get_queue().running)
        with started("demo", "--host", server.url, "--output", tmp_path) as process:
            if waits:
                line_with(process, "prompts ahead in the queue: 1")
                until(lambda: api.get_queue().pending)
            else:
                error_line_with(process, "0 %")  # 10 %, or what a busy machine comes to see first
            process.send_signal(number)
            _, errors = process.communicate(timeout=LIMIT)
        assert process.returncode == 130
        assert "Cancelling prompt" in errors
        assert "Traceback" not in errors
        if waits:
            queue = api.get_queue()
            assert [item.prompt_id for item in queue.running] == [job.prompt_id]
            assert not queue.pending
            api.interrupt(job.prompt_id)
        until(lambda: api.poll_status(LIMIT).queue_remaining == 0)
    assert not list(tmp_path.iterdir())


@pytest.mark.posix("signals between processes")
@pytest.mark.parametrize("name", few(["SIGTERM", "SIGHUP"], 1))
def test_a_demo_stopped_by_a_signal_leaves_nothing(tmp_path, name):
    """No files of its server."""
    slow = "from comfy_client.testing import ComfyServer as C; C.__init__.__kwdefaults__"
    first = f"{slow}['step_seconds'] = 30.0"
    options = {"cwd": tmp_path, "env": {"TMPDIR": str(tmp_path)}}
    with started("demo", first=first, **options) as process:
        line_with(process, "checkpoint: ")
        process.send_signal(signal.Signals[name])
        _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert not list(tmp_path.iterdir())


@pytest.mark.posix("signals between processes")
def test_an_ignored_sighup_does_not_end_serve(tmp_path):
    """A command below nohup outlives its terminal."""
    first = "signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    with started("serve", "--port", 0, first=first, env={"TMPDIR": str(tmp_path)}) as process:
        url = url_in(line_with(process, "http"))
        process.send_signal(signal.SIGHUP)
        with ComfyApi(url) as api:
            assert api.get_queue().pending == ()
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT) == 0


@pytest.mark.posix("terminals")
def test_on_a_terminal_the_progress_is_one_line(tmp_path):
    """Written over at each step."""
    here, there = open_terminal(24, 100)
    with (
        open(here, "rb", buffering=0) as terminal,
        started("demo", "--output", tmp_path, stderr=there, first=SLOW) as process,
    ):
        os.close(there)
        shown = bytearray()
        with contextlib.suppress(OSError):  # Linux's way to say that the other end is closed
            while data := terminal.read(4096):
                shown += data
        assert process.wait(LIMIT) == 0
    [line] = [line for line in shown.decode().split("\r\n") if "%" in line]
    assert line.count("\r") > 2
    assert "100%" in line.rpartition("\r")[2]


@pytest.mark.real
def test_the_demo_works_on_real_servers(any_comfyui: ComfyUI, tmp_path, monkeypatch):
    """With a true sampler; and so does the code that it shows."""
    options = ("--size", 128, "--timeout", 300)
    run = invoke("demo", "--host", any_comfyui.url, "--output", tmp_path, *options)
    assert run.exit_code == 0, run.output
    assert "checkpoint: tiny.ckpt\n" in run.output
    assert "%" in run.stderr
    with Image.open(tmp_path / "comfy-client-demo.png") as picture:
        assert picture.size == (128, 128)
    assert (tmp_path / "comfy-client-demo-preview.jpg").stat().st_size > 500
    monkeypatch.chdir(tmp_path)
    exec(compile(code_in(run.output), "the demo's code", "exec"), {})


# -- serve ------------------------------------------------------------------------------


def url_in(line: str) -> str:
    assert re.fullmatch(r"https?://\S+\n", line), "it stands alone"
    return line.rstrip()


def test_the_help_of_a_server_lists_the_versions_that_it_can_be_like():
    """As the class has them."""
    assert "[0.3.75|0.28|0.33]" in "".join(invoke("serve", "--help").output.split())


@pytest.mark.posix("signals between processes")
@pytest.mark.parametrize("name", few(["SIGINT", "SIGTERM", "SIGHUP"], 1))
def test_serve_runs_until_a_signal(tmp_path, name):
    """By Ctrl-C, by SIGTERM or when its terminal goes; of its files nothing is left."""
    files = tmp_path / "files"
    files.mkdir()
    with started("serve", "--port", 0, env={"TMPDIR": str(files)}) as process:
        with ComfyApi(url_in(line_with(process, "http"))) as api:
            graph = load_workflow("txt2img_tiny", ckpt_name="simulated.safetensors")
            assert api.run(graph, timeout=LIMIT).images[0].bytes()
        assert list(files.iterdir())
        process.send_signal(signal.Signals[name])
        assert process.communicate(timeout=LIMIT)[1] == ""
    assert process.returncode == 0
    assert not list(files.iterdir())


@pytest.mark.posix("signals between processes")
def test_a_server_ends_by_a_signal_that_another_thread_of_it_gets():
    """As happens to one that comes just before the main thread goes to sleep."""
    first = """
from comfy_client.testing import ComfyServer
start = ComfyServer.start
ComfyServer.start = lambda self: (
    start(self), signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
)[0]
"""
    with started("serve", "--port", 0, first=first) as process:
        line_with(process, "Ctrl-C")
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=LIMIT)[1] == ""
    assert process.returncode == 0


@pytest.mark.posix("signals between processes")
def test_serve_stopped_while_it_starts_leaves_nothing(tmp_path):
    """As by a supervisor that thinks better of it."""
    first = """
import os
from comfy_client.testing import ComfyServer
start = ComfyServer.start
ComfyServer.start = lambda self: (start(self), os.kill(os.getpid(), signal.SIGTERM))[0]
"""
    with started("serve", "--port", 0, first=first, env={"TMPDIR": str(tmp_path)}) as process:
        assert process.communicate(timeout=LIMIT)[1] == ""
    assert process.returncode == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("from_file", few([True, False], 1))
def test_the_options_of_a_server_are_those_of_the_class(tmp_path, from_file):
    """A login comes from a file or a variable, never from the command line."""
    authority, ca, pem = trustme.CA(), tmp_path / "ca.pem", tmp_path / "server.pem"
    authority.cert_pem.write_to_path(ca)
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(pem)
    login = tmp_path / "login"
    login.write_text("me:a:word\n")
    options = ["--port", 0, "--prefix", "/comfy", "--multi-user", "--no-previews"]
    options += ["--version", "0.28", "--step-seconds", 0, "--tls-certfile", pem]
    options += ["--allowed-host", "comfy.example"]
    options += ["--login-file", login] if from_file else ["--login-env", "ITS_LOGIN"]
    with started("serve", *options, env={"ITS_LOGIN": "me:a:word"}) as process:
        url = url_in(line_with(process, "http"))
        assert url.startswith("https://")
        assert url.endswith("/comfy")
        with ComfyApi(url, credentials=("me", "a:word"), verify=ca, user="default") as api:
            assert api.get_user_config().users is not None
            assert api.get_jobs().jobs == ()
            seen: list[object] = []
            graph = load_workflow("txt2img_tiny", ckpt_name="simulated.safetensors")
            api.run(graph, timeout=LIMIT, on_preview=seen.append, preview_method="none")
            assert not seen
        for host, status in (("comfy.example", 200), ("evil.example", 403)):
            ask = {"auth": ("me", "a:word"), "verify": ca, "timeout": LIMIT}
            answer = requests.get(f"{url}/prompt", headers={"Host": host}, **ask)
            assert answer.status_code == status


def test_the_server_plays_a_hosted_one() -> None:
    options = ["--port", 0, "--hosted", "serverless", "--login-env", "ITS_KEY"]
    with started("serve", *options, env={"ITS_KEY": " a-key "}) as process:
        url = url_in(line_with(process, "http"))
        with HostedApi(url, "a-key") as api:
            assert api.hosted.jobs().jobs == ()
        with pytest.raises(AuthenticationError):
            HostedApi(url, "another").init(LIMIT)
        line_with(process, "need --hosted")


def test_options_that_serve_cannot_use_are_one_line(tmp_path, monkeypatch):
    """With the name of what is wrong."""
    broken = tmp_path / "broken.pem"
    broken.write_text("nothing")
    monkeypatch.setenv("ITS_LOGIN", "no colon")
    with ComfyServer() as server:
        told = error_of(invoke("serve", "--port", server.port))
        assert f"cannot listen on 127.0.0.1:{server.port}: " in told
    for options, words in (
        (["--step-seconds", "inf"], "is not a finite number"),
        (["--tls-certfile", broken], "no certificate and key in"),
        (["--tls-keyfile", broken], "give both"),
        (["--allowed-host", "a b"], "a host looks like 'comfy.example'"),
        (["--prefix", "comfy"], "a prefix looks like '/comfy'"),
        (["--login-env", "ITS_LOGIN"], "the variable ITS_LOGIN does not hold user:password"),
        (["--login-file", broken], "the first line of the file does not hold user:password"),
        (["--hosted", "proxy", "--login-env", "MISSING"], "MISSING does not hold a key"),
        (["--login-env", "ITS_LOGIN", "--login-file", broken], "not both"),
        (["--host", "no such name.invalid"], "cannot listen on no such name.invalid:8188"),
    ):
        run = invoke("serve", *options)
        told = error_of(run, run.exit_code)
        assert run.exit_code in (1, 2)
        assert words in told
        assert "no colon" not in told


@pytest.mark.parametrize(
    "options", [["--port", 70000], ["--step-seconds", -1], ["--version", "1"], ["--nothing"]]
)
def test_wrong_options_show_how_the_command_is_used(options):
    """Exit status 2, as usual."""
    run = invoke("serve", *options)
    assert run.exit_code == 2
    assert run.stderr.startswith("Usage: ")


# -- what is missing --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "args", "extra"),
    [
        ("click", ["--help"], "cli"),
        ("aiohttp", ["demo"], "testing"),
        ("PIL", ["serve", "--port", "0"], "testing"),
    ],
)
def test_a_missing_extra_is_one_line_that_says_what_to_type(tmp_path, module, args, extra):
    """From an index and in a checkout."""
    first = f"sys.modules[{module!r}] = None"
    with started(*args, first=first, cwd=tmp_path) as process:
        _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 1
    [line] = errors.splitlines()
    assert line.endswith(
        f' needs {module}: pip install "comfy-client-blocking[{extra}]", '
        f'or in a checkout: pip install ".[{extra}]"'
    )


def test_python_m_is_the_same_command(tmp_path):
    """With the same name in its help."""
    command = [sys.executable, "-m", "comfy_client", "--version"]
    env = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    run = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path)
    assert run.stdout == f"comfy-client, version {comfy_client.__version__}\n"


# -- stubs --------------------------------------------------------------------------------


def test_stubs_writes_a_module_with_the_nodes_of_a_server(tmp_path: Path) -> None:
    """To a file that it replaces, or to standard output; the Graph of it is ours."""
    path = tmp_path / "comfy_nodes.py"
    path.write_text("old")
    login = tmp_path / "login"
    login.write_text("user:secret")
    with ComfyServer(credentials=("user", "secret")) as server:
        given = ("--host", server.url, "--login-file", login)
        done = invoke("stubs", *given, "-o", path)
        shown = invoke("stubs", *given)
        assert "401" in error_of(invoke("stubs", "--host", server.url), 8)
    assert done.exit_code == 0, done.output
    assert done.stderr.endswith(f"node classes: {path}\n")
    assert shown.stdout == path.read_text()
    assert "secret" not in shown.stdout
    assert "def KSampler(" in shown.stdout
    names: dict[str, Any] = {}
    exec(shown.stdout, names)
    assert names["Graph"] is comfy_client.Graph
