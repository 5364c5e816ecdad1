"""What a notebook shows of an error: the lines of its user and the sentence."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import traceback
from pathlib import Path

import nbformat
import pytest

from comfy_client import ComfyApi, ServerUnreachable
from comfy_client.testing import ComfyServer
from comfy_client.tracebacks import rendered, users
from tests.comfyui import free_port
from tests.helpers.kernels import execute

#: Runs cells in an IPython, and prints what each of them has printed.
NOTEBOOK = """
import contextlib, io, json, sys
from IPython.core.history import HistoryManager
from IPython.core.interactiveshell import InteractiveShell

HistoryManager.enabled = False
shell = InteractiveShell.instance(colors="nocolor")
printed = []
for cell in json.load(sys.stdin):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        shell.run_cell(cell)
    printed.append(out.getvalue())
print(json.dumps(printed))
"""

WORKFLOW = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 7},
    },
    "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
}
SETUP = f"""
import logging, signal, sys, threading, time
from comfy_client import ComfyApi, Workflow
workflow = Workflow({WORKFLOW})
api = ComfyApi(%r)

def modules():
    frame = sys._current_frames()[threading.main_thread().ident]
    while frame is not None:
        yield frame.f_globals.get("__name__") or ""
        frame = frame.f_back

def interrupt():
    while not any(name.startswith("comfy_client.") for name in modules()):
        time.sleep(0.01)
    time.sleep(0.2)
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    else:  # as the console of Windows does it
        signal.raise_signal(signal.SIGINT)
"""
WRONG = 'first = 1\nsecond = 2\napi.run({"1": {"class_type": "Nope", "inputs": {}}})\nafter = 3'
#: However long the call takes to begin on a busy machine.
INTERRUPT = "threading.Thread(target=interrupt).start()"
#: A cell that fails, and words of the sentence that it ends in.
CELLS = {
    "rejected": (WRONG, "node 1 (Nope)"),
    "unreachable": ("ComfyApi('{refused}').get_queue()", "connection refused"),
    "wrong name": ('\n\ndef edit():\n    workflow["KSampler"]["seed"] = 1\nedit()', "KSampler"),
    "no such file": ("Workflow.load('txt2img.json')", "no such workflow file: 'txt2img.json'"),
    "no file to send": ("api.upload_image('photo.png')", "no such file to upload: 'photo.png'"),
    "misspelt keyword": (
        "api.run(workflow, progres=True)",
        "TypeError: run() got an unexpected keyword argument 'progres'; nearest: 'progress'",
    ),
    "misspelt keyword of map": (
        "api.map([workflow], strikt=True)",
        "TypeError: map() got an unexpected keyword argument 'strikt'; nearest: 'strict'",
    ),
    "wrong type": ("ComfyApi(timeout='ten')", "TypeError: timeout must be more than 0 seconds"),
    "wrong value": ("api.run(workflow, timeout=-1)", "ValueError: a timeout must be 0 or more"),
    "no such method": ("api.queuePrompt", "AttributeError: 'ComfyApi' object has no attribute"),
    "no such folder": ("workflow.save('/dev/null/a.json')", "Error: [Errno"),
    "the user's own": (
        "def prompts():\n    yield 1 / 0\n\nlist(api.map(prompts()))",
        "----> 2     yield 1 / 0",
    ),
    "in a magic": ("%time workflow['Save']", "WorkflowError: no node"),
    "in a file": ("%run -n {file}", "no such workflow file: 'x.json'"),
    "stopped": (f"{INTERRUPT}\napi.run(workflow)", "KeyboardInterrupt"),
    "stopped while it asks": (f"{INTERRUPT}\napi.get_queue()", "KeyboardInterrupt"),
    "stopped reading": (f"{INTERRUPT}\nfor event in api.events():\n    pass", "KeyboardInterrupt"),
}
#: A defect of the library: where it should raise an error of its own, an operation fails.
DEFECT = """
from comfy_client.workflow import load
load.os = None
try:
    Workflow.load("x.json")
finally:
    load.os = __import__("os")
"""
ASKED = "error = sys.last_value\nprint(type(error.__cause__).__name__, bool(error.__traceback__))"
DEBUG = "logging.getLogger('comfy_client').setLevel(logging.DEBUG)"


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the notebook shows of each cell."""
    script = tmp_path_factory.mktemp("scripts") / "script.py"
    script.write_text("from comfy_client import Workflow\nWorkflow.load('x.json')\n")
    with ComfyServer() as server, server.faults.hang_worker():
        server.faults.delay("GET", "/queue", 30)
        cells = [SETUP % server.url, *(cell for cell, _ in CELLS.values())]
        cells += [CELLS["unreachable"][0], ASKED]
        cells += [CELLS["no such file"][0], "%tb", "%tb Verbose", DEFECT]
        cells += [DEBUG, WRONG, CELLS["wrong type"][0]]
        refused = f"127.0.0.1:{free_port()}"
        cells = [
            cell.replace("{file}", script.as_posix()).replace("{refused}", refused)
            for cell in cells
        ]
        run = subprocess.run(
            [sys.executable, "-W", "error", "-c", NOTEBOOK],
            input=json.dumps(cells),
            capture_output=True,
            text=True,
            timeout=240,
            check=True,
        )
    printed = [text.replace(os.sep, "/") for text in json.loads(run.stdout)]
    assert printed[0] == ""
    more = ["again", "asked", "wrong", "%tb", "%tb Verbose", "defect"]
    more += ["debug", "whole", "whole, of Python"]
    return dict(zip([*CELLS, *more], printed[1:], strict=True))


@pytest.mark.parametrize("name", CELLS)
def test_a_notebook_shows_the_users_lines_and_the_sentence(
    shown: dict[str, str], name: str
) -> None:
    """In at most 15 lines, and none of the library's own."""
    text = shown[name]
    lines = text.strip().splitlines()
    assert len(lines) <= 15, text
    marks = ("---->", "File <timed eval>:1")  # before IPython 9.1, %time has no lines of code
    assert any(line.startswith(marks) for line in lines), text
    assert "comfy_client/" not in text
    assert CELLS[name][1] in text


def test_the_cause_stays_and_takes_one_line(shown: dict[str, str]) -> None:
    """The exception has it, and all of its traceback."""
    assert "Caused by ConnectionRefusedError: " in shown["again"]
    assert shown["asked"] == "ConnectionRefusedError True\n"


@pytest.mark.parametrize("name", ["rejected", "wrong name"])
def test_a_cause_that_says_the_same_is_none(shown: dict[str, str], name: str) -> None:
    """Each sentence once."""
    assert "Caused by" not in shown[name]
    assert "exception" not in shown[name]


@pytest.mark.parametrize("name", ["whole", "whole, of Python", "%tb Verbose"])
def test_a_notebook_shows_whole_tracebacks_if_asked_to(shown: dict[str, str], name: str) -> None:
    """By the level of the logger, or by IPython's own mode."""
    assert "comfy_client/" in shown[name]


def test_tb_shows_the_same_again(shown: dict[str, str]) -> None:
    assert shown["%tb"] == shown["wrong"]


def test_a_defect_of_the_library_is_shown_in_full(shown: dict[str, str]) -> None:
    """What failed there is no mistake of the user."""
    assert "comfy_client/workflow/load.py" in shown["defect"]
    assert "AttributeError" in shown["defect"]


def test_the_traceback_itself_is_never_cut(refused: str) -> None:
    """Only what a notebook prints is."""
    with (
        contextlib.closing(ComfyApi(refused)) as api,
        pytest.raises(ServerUnreachable) as caught,
    ):
        api.get_queue()
    whole, shown = (
        [frame.f_globals["__name__"] for frame, _ in traceback.walk_tb(frames)]
        for frames in (caught.tb, users(caught.tb))
    )
    assert "comfy_client.transport.http" in whole
    assert shown == [__name__]


def test_an_error_that_was_shown_is_as_before() -> None:
    """Its notes, too; the line for the cause is none of them."""
    error = ServerUnreachable("away")
    error.add_note("a note")
    error.__cause__ = OSError("the cable")
    for _ in range(2):
        assert "".join(rendered(error)).count("Caused by OSError: the cable") == 1
    assert error.__notes__ == ["a note"]
    assert isinstance(error.__cause__, OSError)


def test_frames_of_callbacks_stay() -> None:
    """They are the user's, though we have called them."""
    with ComfyServer() as server, ComfyApi(server.url) as api:

        def fail(event: object) -> None:
            raise ValueError("mine")

        with pytest.raises(ValueError, match="mine") as caught:
            api.run(WORKFLOW, on_event=fail, timeout=20)
    functions = [frame.f_code.co_name for frame, _ in traceback.walk_tb(users(caught.tb))]
    assert functions == ["test_frames_of_callbacks_stay", "fail"]


@pytest.mark.posix("sockets that are files")
def test_a_kernel_sends_short_tracebacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To Jupyter, VS Code and whatever else shows notebooks."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    cells = ["from comfy_client import ComfyApi, Workflow", *(cell for cell, _ in PLAIN)]
    notebook = nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, cells)))
    execute(notebook, allow_errors=True)
    for cell, (_, words) in zip(notebook.cells[1:], PLAIN, strict=True):
        [error] = [output for output in cell.outputs if output.output_type == "error"]
        text = re.sub(r"\x1b\[[\d;]*m", "", "\n".join(error.traceback))
        assert len(text.splitlines()) <= 10, text
        assert words in text
        assert "comfy_client/" not in text


PLAIN = [CELLS[name] for name in ("no such file", "wrong type")]
