"""Other clients of ComfyUI, each in an environment of its own, and how fast the quick ones are."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import venv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy_client
from tests.comfyui import cache

from .measure import Round, Row, estimate, interleave, median_of, pooled, ratio_of
from .rows import Bench, graphs, reference_runs

DRIVERS = Path(__file__).with_name("drivers.py")
#: Seconds for pip, and for a client to be imported and connected.
INSTALL, READY = 300, 60


@dataclass(frozen=True)
class Rival:
    """A client, or one way to use it."""

    driver: str  #: The function of drivers.py.
    packages: tuple[str, ...] = ()  #: What to install; (): it is this library.
    mode: str = ""

    @property
    def name(self) -> str:
        """With its version."""
        if not self.packages:
            return "**comfy_client**"
        names = " + ".join(each.replace("==", " ") for each in self.packages)
        return f"{names}, {self.mode}" if self.mode else names


OURS = Rival("comfy_client")
RIVALS = (
    Rival("comfy_api_simplified", ("comfy-api-simplified==1.6.0",)),
    Rival("comfykit_http", ("comfykit==0.1.12",), "http"),
    Rival("comfykit_websocket", ("comfykit==0.1.12",), "ws"),
    Rival("comfyapi", ("comfyapi==2.0.1",)),
    Rival("comfyui_utils", ("comfyui-utils==0.0.1",)),
    Rival("pycomfy", ("pycomfy==0.4.0",)),
    Rival("comfy_headless", ("comfy-headless==3.1.1",)),
    Rival("comfy_toolkit", ("comfy-toolkit[ws]==0.1.0",)),
    Rival("comfyui_xy", ("comfyui-xy==0.3.0",), "default"),
    Rival("comfyui_xy_strict", ("comfyui-xy==0.3.0",), "strict"),
    Rival("comfyui_workflow_client", ("comfyui-workflow-client==0.1.0",)),
    Rival("comfyui_async_api_tool", ("comfyui-async-api-tool==0.1.0",)),
    Rival("comfyui_autograph", ("comfyui-autograph==2.3.0",), "poll"),
    Rival("comfyui_autograph_events", ("comfyui-autograph==2.3.0",), "events"),
    Rival("comfyflow", ("comfyflow==0.1.0",)),
    Rival("comfy_catapult", ("comfy-catapult==3.0.0",)),
    Rival("comfy_sdk", ("comfy-sdk==0.5.0", "comfy-api-proxy==0.1.6")),
    Rival("", ("comfyui-pyclient==0.1.3",)),  # for a newer Python
    Rival("", ("rucomfyui",)),  # of another language
)
#: Those that do not poll, and so are worth a measurement of milliseconds.
QUICK = tuple(r for r in RIVALS if r.driver in {"comfy_api_simplified", "comfy_toolkit", "pycomfy"})


class CannotInstall(Exception):
    """The first that pip says about it."""


def environment(rival: Rival) -> Path:
    """The Python of an environment with this client, made once per machine."""
    if not rival.packages:
        return Path(sys.executable)
    folder = cache() / "rivals" / "+".join(rival.packages)
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    done = folder / "done"
    if not done.exists():
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        install = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        try:
            subprocess.run(
                [*install, *rival.packages],
                check=True,
                capture_output=True,
                text=True,
                timeout=INSTALL,
            )
        except subprocess.CalledProcessError as error:
            first = error.stderr.strip().partition("\n")[0]
            raise CannotInstall(first.removeprefix("ERROR: ")) from None
        except subprocess.TimeoutExpired:
            raise CannotInstall(f"pip needed more than {INSTALL} s") from None
        done.touch()
    return python


class Process:
    """A client in a process of its own: graphs go in, answers come out."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process = process
        self._log = log
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, name="answers")
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put("")

    def send(self, some: Sequence[dict[str, Any]]) -> None:
        """Run these, one after the other."""
        assert self._process.stdin is not None
        print(*map(json.dumps, some), sep="\n", file=self._process.stdin, flush=True)

    def answer(self, end: float) -> dict[str, Any] | None:
        """The next answer (see drivers.py); None: none until the monotonic clock says `end`."""
        try:
            line = self._answers.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            return None
        if not line:
            text = self._log.read_text(errors="replace")
            return {"kind": "exit", "text": text, "told": text, "pictures": []}
        found: dict[str, Any] = json.loads(line)
        return found

    def end(self) -> None:
        """With all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with self._process:
            self._reader.join()


@contextlib.contextmanager
def running(rival: Rival, url: str) -> Iterator[Process]:
    """This client, connected to `url`."""
    with tempfile.TemporaryDirectory(prefix="comfy-bench-") as folder:
        log = Path(folder) / "log"
        env = {**os.environ, "PYTHONIOENCODING": "utf-8", "TMPDIR": folder}
        if not rival.packages:
            env["PYTHONPATH"] = str(Path(comfy_client.__file__).parents[1])
        else:
            env.pop("PYTHONPATH", None)
        with log.open("w") as errors:
            process = Process(
                subprocess.Popen(
                    [environment(rival), DRIVERS, rival.driver, url],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                    cwd=folder,  # some leave files where they stand
                    env=env,
                    start_new_session=True,
                ),
                log,
            )
        try:
            ready = process.answer(time.monotonic() + READY)
            if ready is None:
                raise RuntimeError(f"{rival.name} is not ready after {READY} s")
            if ready:
                raise RuntimeError(f"{rival.name} does not start:\n{ready['text']}")
            yield process
        finally:
            process.end()


# -- speed ------------------------------------------------------------------------------


def rivals(bench: Bench) -> list[Row]:
    """One line per quick rival that the package index still has."""
    block = 8
    rows = []
    for rival in QUICK:
        failed = 0

        def theirs(rival: Rival = rival) -> list[float]:
            nonlocal failed
            with running(rival, bench.url) as process:
                process.send(graphs(block + 1))
                end = time.monotonic() + 60
                _, *found = [process.answer(end) for _ in range(block + 1)]
            seconds = [a["seconds"] for a in found if a and a["pictures"]]
            failed += block - len(seconds)
            return seconds

        rounds = interleave(
            bench.rounds(block),
            {"reference": lambda: reference_runs(bench.url, block), "rival": theirs},
        )
        rounds = [each for each in rounds if each["rival"]]
        if not rounds:
            print(f"{rival.name}: none of {failed} runs succeeded", file=sys.stderr)
            continue
        rows.append(
            Row(
                f"trivial prompt by {' '.join(rival.packages)}",
                estimate(rounds, ratio_of("rival", "reference")),
                "x",
                None,
                len(pooled(rounds, "rival")),
                note=f"{failed} runs failed; mean {_mean(rounds):.2f} x",
            )
        )
    return rows


def _mean(rounds: Sequence[Round]) -> float:
    return statistics.fmean(pooled(rounds, "rival")) / median_of("reference")(rounds)
