"""A signal at many moments of a command: status 130, no traceback, and no prompt left behind.

The moments are spread over the calls that the command makes, so they hit imports, finalizers and
requests alike, however busy the machine is.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from comfy_client import ComfyApi
from comfy_client.testing import ComfyServer
from tests.comfyui import ComfyUI
from tests.conftest import load_workflow
from tests.helpers.clients import until
from tests.helpers.command_line import LIMIT
from tests.helpers.long import few

Server = ComfyServer | ComfyUI

#: Signals itself at the call of this number, or if that does not come, when told to on stdin.
#: Counts from the first moment on that is the package's: where the signals have a handler.
START = """
import os, signal, sys, threading
from pathlib import Path
number, at, told = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
sys.argv[1:] = sys.argv[4:]
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, signal.SIG_DFL)
once, count = threading.Lock(), 0

def press():
    if once.acquire(blocking=False):
        told.write_text(str(count))
        signal.pthread_kill(threading.main_thread().ident, number)

def look(frame, event, arg):
    global count
    count += event in ("call", "c_return")
    if count == at:
        press()

threading.Thread(target=lambda: os.read(0, 1) and press(), daemon=True).start()
from comfy_client.__main__ import main
from comfy_client.cli import stop_signals
end_at_once = stop_signals.end_at_once
stop_signals.end_at_once = lambda: (end_at_once(), sys.setprofile(look))
main()
"""


@contextlib.contextmanager
def started(folder: Path, url: str, number: int, at: int) -> Iterator[subprocess.Popen[str]]:
    """A run that sends itself a signal at a given moment; it ends with the block at the latest."""
    run = ("run", "sleep.json", "--out", "pictures/", "--host", url)
    with subprocess.Popen(
        [sys.executable, "-c", START, str(int(number)), str(at), "told", *run],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HOME": str(folder), "COMFY_PROGRESS": ""},
        cwd=folder,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def is_idle(api: ComfyApi, is_cancelled: bool) -> bool:
    """Return whether nothing is left in the queue.

    A server that was just beginning the prompt may have forgotten the interrupt, which it
    acknowledged; it is sent again then.
    """
    if is_cancelled and api.get_queue().running:
        api.interrupt()
    return api.poll_status(LIMIT).queue_remaining == 0


def stop_at(folder: Path, server: Server, number: int, at: int) -> int:
    """Stop a run at a moment, check the promises, and return the number of calls before it."""
    with ComfyApi(server.url) as api, started(folder, server.url, number, at) as process:
        until(lambda: process.poll() is not None or api.get_queue().running)
        out, err = process.communicate("\n", timeout=LIMIT)
        said = f"signal {number} at call {at}: {err}"
        assert (process.returncode, out) == (130, ""), said
        assert "Traceback" not in err, said
        assert "Exception ignored" not in err, said
        assert not (folder / "pictures").exists(), said
        until(lambda: is_idle(api, "It was cancelled." in err))
    return int((folder / "told").read_text())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One with a workflow that runs until it is stopped."""
    (tmp_path / "sleep.json").write_text(json.dumps(load_workflow("sleep", seconds=600.0)))
    return tmp_path


@functools.cache
def calls_of_a_run() -> list[int]:
    """The number of calls before a prompt runs, once it is known."""
    return []


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("third", few(range(3), 1))
@pytest.mark.parametrize(
    ("number", "few", "many"), [(signal.SIGINT, 12, 60), (signal.SIGTERM, 4, 20)]
)
def test_a_signal_at_any_moment_is_status_130_and_leaves_nothing(
    comfyui, folder, number, few, many, third
):
    """From the first call of the package on; later moments come while the prompt runs."""
    known = calls_of_a_run()
    if not known:
        known.append(stop_at(folder, comfyui, number, -1))
    tries = few if isinstance(comfyui, ComfyServer) else many
    for nth in range(third, tries, 3):
        stop_at(folder, comfyui, number, 1 + nth * known[0] // (tries - 1))
