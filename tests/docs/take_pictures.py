"""Take the pictures of the site: ``python -m tests.docs.take_pictures [KIND...]``.

They show this version of the package with the embedded server.  Take them again at each release,
and look at them.  This needs Chromium (``chromium`` on PATH), DejaVu's fonts, and
``pip install ".[all]" docutils jupyterlab playwright pyte``; nothing else needs any of it.
A kind is ``terminal``, ``notebook`` or ``sheet``.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from comfy_client import ComfyApi, Workflow
from comfy_client.testing import ComfyServer
from tests.docs import notebook, terminal
from tests.docs.pages import FOLDER

#: ComfyUI's own port, since commands without ``--host`` go there.
PORT = 8188


# -- terminal -----------------------------------------------------------------------------


#: What ``comfy-client`` runs; the doctor does not tell which system this machine has.
PROGRAM = """\
import platform
platform.platform = platform.system
from comfy_client.__main__ import main
main()"""


class Terminal:
    """A folder with a workflow, in which commands run."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._env = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.getcwd(),
            "HOME": folder,
            "TERM": "xterm-256color",
            "LANG": "C.UTF-8",
        }

    def __call__(self, arguments: str, until: str | None = None) -> tuple[str, terminal.Screen]:
        """Run ``comfy-client``, and return what its user types and sees."""
        words = arguments.replace("\\\n", "").split()
        command = [sys.executable, "-c", PROGRAM, *words]
        screen = terminal.screen_of(command, self._env, self._folder, until)
        return f"comfy-client {arguments}", screen


def run(shell: Terminal) -> str:
    command = "run txt2img.json --set KSampler.steps=20 --seed 7 --out pictures/"
    return terminal.svg([shell("check txt2img.json"), shell(command, r"1[4-9]/20")])


def sweep(shell: Terminal) -> str:
    command = """\
sweep txt2img.json --axis KSampler.seed=1..3 --axis KSampler.cfg=4,7.5 \\
    --out grid/ --sheet sheet.png"""
    return terminal.svg([shell(command)])


def doctor(shell: Terminal) -> str:
    return terminal.svg([shell("doctor --run")])


def queue(shell: Terminal) -> str:
    with ComfyApi(f"http://127.0.0.1:{PORT}") as api:
        jobs = [api.submit(Workflow.example(), {"KSampler.seed": seed}) for seed in range(3)]
        next(event for event in jobs[0].events() if event.name == "progress")
        seen = [shell("queue"), shell(f"cancel {jobs[1].prompt_id[:8]}"), shell("queue")]
        for job in jobs:
            job.cancel()
    return terminal.svg(seen)


def take_terminal() -> Iterator[tuple[str, bytes]]:
    for take, step_seconds in ((run, 0.1), (sweep, 0.02), (doctor, 0.02), (queue, 1.0)):
        with (
            tempfile.TemporaryDirectory() as folder,
            ComfyServer(PORT, step_seconds=step_seconds),
        ):
            Workflow.example().save(Path(folder, "txt2img.json"))
            yield f"terminal-{take.__name__}.svg", take(Terminal(folder)).encode()


# -- notebook -----------------------------------------------------------------------------

CELLS = [
    """\
from comfy_client import ComfyApi, Workflow
from comfy_client.testing import ComfyServer
server = ComfyServer(step_seconds=0.2).start()
api = ComfyApi(server.url)""",
    """\
workflow = Workflow.example()
workflow["Positive prompt"]["text"] = "a mill in the fog"
result = api.run(workflow)""",
    """\
result = api.run(workflow, {"EmptyLatentImage.batch_size": 2, "KSampler.seed": 8})""",
    """\
grid = {"KSampler.cfg": [4.0, 7.5], "KSampler.seed": range(4)}
rows = api.sweep(workflow, grid)""",
    """\
api.run(workflow, {"KSampler.sampler_name": "eulr", "KSampler.steps": 0})""",
]


def take_notebook() -> Iterator[tuple[str, bytes]]:
    for theme in ("", "-dark"):
        with (
            tempfile.TemporaryDirectory() as folder,
            notebook.running(CELLS, Path(folder), dark=bool(theme)) as book,
        ):
            book.wait(1, r"Sampler 1[4-9]/20")
            yield f"notebook{theme}.png", book.picture(0, 1)
            for cell, name in ((2, "gallery"), (3, "sweep"), (4, "error")):
                book.wait_for_end(cell)
                yield f"notebook-{name}{theme}.webp", book.picture(cell, cell)


# -- contact sheet ------------------------------------------------------------------------


def take_sheet() -> Iterator[tuple[str, bytes]]:
    grid = {"KSampler.cfg": [4.0, 5.5, 7.0], "KSampler.seed": range(5)}
    with ComfyServer(step_seconds=0.001) as server, ComfyApi(server.url) as api:
        rows = api.sweep(Workflow.example(), grid, progress=False)
        for theme, background in (("", "white"), ("-dark", "#111")):
            sheet = rows.grid(rows="cfg", cols="seed", size=192, background=background)
            yield f"sheet{theme}.webp", _png(sheet)


# -- files --------------------------------------------------------------------------------


def _png(image: Image.Image) -> bytes:
    data = io.BytesIO()
    image.save(data, "png")
    return data.getvalue()


def save(name: str, data: bytes) -> Path:
    """Save a picture, as small as its kind of file allows."""
    path = FOLDER / name
    if path.suffix == ".svg":
        path.write_bytes(data)
        return path
    image = Image.open(io.BytesIO(data)).convert("RGB")
    if name == "notebook.png":  # which the README shows
        image = image.quantize(128)
        image.save(path, optimize=True)
    else:
        path = path.with_suffix(".webp")
        image.save(path, quality=85, method=6)
    return path


KINDS = {"terminal": take_terminal, "notebook": take_notebook, "sheet": take_sheet}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.docs.take_pictures",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(KINDS)}; else all")
    for kind in parser.parse_args().kinds or KINDS:
        for name, data in KINDS[kind]():
            path = save(name, data)
            print(f"{path.stat().st_size:7,} {path.name}")


if __name__ == "__main__":
    main()
