"""Pictures of a notebook: JupyterLab runs its cells in a headless Chromium."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

#: Seconds for JupyterLab to start, and for a cell to end.
TIMEOUT = 120
#: CSS pixels; each has this many pixels of the picture, squared.
WIDTH, HEIGHT, SHARPNESS = 930, 2000, 1.6
#: Pixels of a cell at the left and above that show whether it is selected.
_LEFT, _TOP = 12, 3
#: Which cell is selected says nothing.
_STYLE = """
.jp-Cell.jp-mod-active { border-color: transparent !important; }
.jp-Collapser, .jp-cell-toolbar { visibility: hidden !important; }
"""


class Notebook:
    """A notebook whose cells ran, but for those that are still to end."""

    def __init__(self, page: Page) -> None:
        self._page = page

    def wait(self, cell: int, pattern: str) -> None:
        """Wait until the output of a cell matches a regular expression of JavaScript."""
        self._page.wait_for_function(
            "([cell, pattern]) => RegExp(pattern).test("
            "document.querySelectorAll('.jp-CodeCell')[cell]?.innerText)",
            arg=[cell, pattern],
            polling=50,
            timeout=TIMEOUT * 1000,
        )

    def wait_for_end(self, cell: int) -> None:
        """Wait until a cell has ended."""
        self.wait(cell, r"^\s*\[\d+\]")
        self._page.wait_for_timeout(1000)  # pictures are decoded, and the layout is calm

    def picture(self, first: int, last: int) -> bytes:
        """Return a PNG of these cells."""
        cells = self._page.locator(".jp-CodeCell")
        boxes = [cells.nth(at).bounding_box() for at in (first, last)]
        x = min(box["x"] for box in boxes if box) + _LEFT
        y = min(box["y"] for box in boxes if box) + _TOP
        right = max(box["x"] + box["width"] for box in boxes if box)
        bottom = max(box["y"] + box["height"] for box in boxes if box)
        clip = {"x": x, "y": y, "width": right - x, "height": bottom - y}
        return self._page.screenshot(clip=clip)


@contextmanager
def running(cells: list[str], folder: Path, *, dark: bool) -> Iterator[Notebook]:
    """Start to run the cells of a notebook in a folder, in which the package is imported."""
    _settings(folder, dark=dark)
    _write(folder / "n.ipynb", cells)
    with _jupyter(folder) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page(
            viewport={"width": WIDTH, "height": HEIGHT}, device_scale_factor=SHARPNESS
        )
        page.goto(f"{url}/doc/tree/n.ipynb")
        page.locator(".jp-CodeCell").nth(len(cells) - 1).wait_for(timeout=TIMEOUT * 1000)
        page.add_style_tag(content=_STYLE)
        page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for()
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.locator('li[data-command="runmenu:run-all"]').click()
        yield Notebook(page)
        browser.close()


def _settings(folder: Path, *, dark: bool) -> None:
    """Write JupyterLab's theme, its silence, and a kernel that is this Python."""
    lab = folder / "config/lab/user-settings/@jupyterlab/apputils-extension"
    lab.mkdir(parents=True)
    theme = {"theme": "JupyterLab Dark" if dark else "JupyterLab Light"}
    lab.joinpath("themes.jupyterlab-settings").write_text(json.dumps(theme))
    silence = {"fetchNews": "false", "checkForUpdates": False}
    lab.joinpath("notification.jupyterlab-settings").write_text(json.dumps(silence))
    kernel = folder / "data/kernels/python3"
    kernel.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": argv, "display_name": "Python 3", "language": "python"}
    kernel.joinpath("kernel.json").write_text(json.dumps(spec))


def _write(path: Path, cells: list[str]) -> None:
    code = [
        {
            "cell_type": "code",
            "execution_count": None,
            "id": f"cell-{at}",
            "metadata": {},
            "outputs": [],
            "source": source,
        }
        for at, source in enumerate(cells)
    ]
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    notebook = {"cells": code, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(notebook))


@contextmanager
def _jupyter(folder: Path) -> Iterator[str]:
    """Run JupyterLab in a folder."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = {
        "ServerApp.token": "",
        "ServerApp.password": "",
        "ServerApp.root_dir": str(folder),
        "ServerApp.port": str(port),
    }
    command = [sys.executable, "-m", "jupyterlab", "--allow-root", "--no-browser"]
    command += [f"--{name}={value}" for name, value in options.items()]
    env = {
        **os.environ,
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTER_DATA_DIR": str(folder / "data"),
        "PYTHONPATH": os.getcwd(),
    }
    with open(folder / "log", "wb") as log:
        server = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    try:
        _wait_for(f"http://127.0.0.1:{port}/api")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(TIMEOUT)


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + TIMEOUT
    while True:
        try:
            urllib.request.urlopen(url).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return
