"""Other clients of ComfyUI, on request: the trivial prompt, in environments of their own."""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from .measure import Round, Row, estimate, interleave, median_of, pooled, ratio_of
from .rows import Bench, graphs, reference_runs

#: Runs graphs one after the other; seconds of each, ``None`` for one that failed.
Run = Callable[[list[dict[str, Any]]], list[float | None]]

#: What to install, and the code that makes ``run(graph)``, which gives a picture.
RIVALS = {
    "comfy-api-simplified": (
        ("comfy-api-simplified==1.6.0",),
        """
from comfy_api_simplified import ComfyApiWrapper
api = ComfyApiWrapper(url)
def run(graph):
    (picture,) = api.queue_and_wait_images(graph, "Save").values()
    return picture
""",
    ),
    "comfy-toolkit": (
        ("comfy-toolkit[ws]==0.1.0",),
        """
from comfy_toolkit import ComfyClient
client = ComfyClient(url)
def run(graph):
    (image,) = client.submit_and_track(graph)["images"]
    return client.download(image)
""",
    ),
    "pycomfy": (
        ("pycomfy==0.4.0",),
        """
import logging
from pycomfy import ComfyAPI
from pycomfy.workflow import Workflow
logging.disable()
api = ComfyAPI(url)
api.connect()
def run(graph):
    (picture,) = Workflow(client=api, workflow_data=graph).execute()
    return picture
""",
    ),
}

# Reads a list of graphs, answers a list of seconds; null for a run that failed.
_DRIVER = """
import json, sys, time
out, sys.stdout = sys.stdout, sys.stderr
for line in sys.stdin:
    seconds = []
    for graph in json.loads(line):
        start = time.perf_counter()
        try:
            run(graph)
            seconds.append(time.perf_counter() - start)
        except Exception:
            seconds.append(None)
    print(json.dumps(seconds), file=out, flush=True)
"""


def rivals(bench: Bench) -> list[Row]:
    """One line per rival that the package index still has."""
    block = 8
    rows = []
    with tempfile.TemporaryDirectory(prefix="comfy-bench-") as folder:
        for name, (packages, code) in RIVALS.items():
            python = _environment(Path(folder) / name, packages)
            failed = 0

            def theirs(python: Path = python, code: str = code) -> list[float]:
                nonlocal failed
                with _process(python, code, bench.url) as run:
                    _, *seconds = run(graphs(block + 1))
                failed += seconds.count(None)
                return [value for value in seconds if value is not None]

            rounds = interleave(
                bench.rounds(block),
                {"reference": lambda: reference_runs(bench.url, block), "rival": theirs},
            )
            rounds = [each for each in rounds if each["rival"]]
            if not rounds:
                print(f"{name}: none of {failed} runs succeeded", file=sys.stderr)
                continue
            rows.append(
                Row(
                    f"trivial prompt by {' '.join(packages)}",
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


def _environment(folder: Path, packages: tuple[str, ...]) -> Path:
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    install = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    subprocess.run([*install, *packages], check=True)
    return python


@contextlib.contextmanager
def _process(python: Path, code: str, url: str) -> Iterator[Run]:
    script = f"url = {url!r}\n{code}\n{_DRIVER}"
    with subprocess.Popen(
        [python, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        lines, answers = process.stdin, process.stdout

        def run(some: list[dict[str, Any]]) -> list[float | None]:
            print(json.dumps(some), file=lines, flush=True)
            found: list[float | None] = json.loads(answers.readline())
            return found

        yield run
        lines.close()
