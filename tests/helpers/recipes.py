"""The recipes of the guide, as a user copies them: into a folder, with a workflow beside them."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.request import urlopen

from comfy_client.testing import ComfyServer, ProgressBar, check_interrupted
from tests.guide import blocks

ADDRESS: Final = "http://127.0.0.1:8188"
PAGES_OF_RECIPES: Final = ("service", "service-recipes", "asyncio")

#: What a process of a service is made of, as it says itself at ``/figures``.
FIGURES = """
import asyncio, gc, os, threading
from comfy_client import Job
from comfy_client.event_queue import EventQueue
from app import app

@app.get("/figures")
async def figures() -> dict[str, object]:
    gc.collect()
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    return {
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "files": len(os.listdir("/proc/self/fd")) - 1,
        "memory": pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
        "tasks": len(asyncio.all_tasks()),
        "jobs": sum(isinstance(one, Job) for one in gc.get_referrers(Job)),
        "queues": sum(isinstance(one, EventQueue) for one in gc.get_referrers(EventQueue)),
    }
"""


class Words:
    """Stands for the node that reads the prompt."""

    INPUT_TYPES = classmethod(lambda cls: {"required": {"text": ("STRING", {})}})
    RETURN_TYPES = ("STRING",)
    FUNCTION = "run"

    def run(self, text: str) -> tuple[str]:
        return (text,)


class Paint:
    """Stands for a sampler: so many steps.  ``forever`` ends when somebody cancels; ``fail``."""

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        steps = {"default": 5, "min": 1, "max": 10_000}
        return {
            "required": {
                "image": ("IMAGE",),
                "words": ("STRING", {"forceInput": True}),
                "seed": ("INT", {"default": 0, "min": 0, "max": 2**64 - 1}),
                "steps": ("INT", steps),
                "seconds": ("FLOAT", {"default": 0.005, "min": 0, "max": 10.0}),
            }
        }

    def run(self, image: Any, words: str, seed: int, steps: int, seconds: float) -> tuple[Any]:
        if words == "fail":
            raise ValueError("no such mill")
        total = 10_000 if words == "forever" else steps
        bar = ProgressBar(total)
        for step in range(total):
            time.sleep(seconds)
            check_interrupted()
            bar.update_absolute(step + 1, total, ("JPEG", image[0], 64))
        return (image,)


def painting(steps: int = 5, seconds: float = 0.005) -> dict[str, Any]:
    """A workflow with the nodes that the recipes address; some prompts are commands."""
    size = {"width": 64, "height": 64, "batch_size": 1, "color": 255}
    return {
        "1": {"class_type": "EmptyImage", "inputs": size},
        "2": {
            "class_type": "Words",
            "inputs": {"text": "a mill"},
            "_meta": {"title": "Positive prompt"},
        },
        "3": {
            "class_type": "Paint",
            "inputs": {
                "image": ["1", 0],
                "words": ["2", 0],
                "seed": 1,
                "steps": steps,
                "seconds": seconds,
            },
            "_meta": {"title": "Sampler"},
        },
        "9": {
            "class_type": "SaveImage",
            "inputs": {"images": ["3", 0], "filename_prefix": "painting"},
        },
    }


def add_painter(server: ComfyServer) -> ComfyServer:
    """Have it run :func:`painting`."""
    server.add_node(Words)
    server.add_node(Paint)
    return server


def codes(section: str) -> list[str]:
    """The blocks of a section of the pages on services."""
    return [
        block.code
        for block in blocks()
        if block.page in PAGES_OF_RECIPES and block.section == section
    ]


def recipe(section: str, url: str, which: int = -1) -> str:
    """A block of a section, by default the last one, for the server at ``url``."""
    code = codes(section)[which]
    assert ADDRESS in code
    return code.replace(ADDRESS, url)


class Service:
    """A web service in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], url: str, log: list[str]) -> None:
        self.process = process
        self.url = url
        self.log = log

    def figures(self) -> dict[str, Any]:
        """What it is made of now."""
        with urlopen(f"{self.url}/figures", timeout=30) as answer:
            figures: dict[str, Any] = json.load(answer)
            return figures


@contextmanager
def served(folder: Path, code: str, workflow: dict[str, Any]) -> Iterator[Service]:
    """``uvicorn app:app`` in a folder with these two; no line of its log is of a traceback."""
    (folder / "app.py").write_text(code, encoding="utf-8")
    (folder / "figures.py").write_text(FIGURES, encoding="utf-8")
    (folder / "txt2img.json").write_text(json.dumps(workflow), encoding="utf-8")
    command = [sys.executable, "-m", "uvicorn", "figures:app", "--port", "0", "--no-access-log"]
    process = subprocess.Popen(
        command, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    assert process.stderr is not None
    log: list[str] = []
    try:
        for line in process.stderr:
            log.append(line)
            if "running on" in line:
                break
        else:
            raise AssertionError("".join(log))
        url = line.partition("running on ")[2].split()[0]
        reader = threading.Thread(target=log.extend, args=(process.stderr,))
        reader.start()
        yield Service(process, url, log)
        process.terminate()
        process.wait(60)
        reader.join()
        assert "Traceback" not in "".join(log), "".join(log)
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def written(folder: Path, code: str, workflow: dict[str, Any]) -> Path:
    """A recipe as a file, with the workflow beside it."""
    (folder / "txt2img.json").write_text(json.dumps(workflow), encoding="utf-8")
    path = folder / "recipe.py"
    path.write_text(code, encoding="utf-8")
    return path
