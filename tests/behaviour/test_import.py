"""What a program pays for: what it does not use is not imported."""

from __future__ import annotations

import os
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest

import comfy_client
from comfy_client.testing import ComfyServer

#: Rooms and modules for which few programs have a use.
SELDOM = (
    "batch.map_loop",
    "batch.sweep",
    "credentials",
    "doctor",
    "jobs.describe",
    "jobs.gallery",
    "jobs.names",
    "models.files",
    "models.history",
    "models.queue",
    "models.system",
    "nearest",
    "pictures",
    "recording.recorder",
    "showing.bars",
    "showing.html",
    "transport.multipart",
    "typescript",
    "upload",
    "workflow.check",
    "workflow.convert",
    "workflow.explain",
    "workflow.loras",
    "workflow.ui_format",
)


def loaded_by(code: str) -> set[str]:
    """Which of these a program loads."""
    line = f"{code}; import sys; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=True)
    return {name for name in SELDOM if f"comfy_client.{name}" in run.stdout.split()}


def test_a_new_client_loads_nothing_that_few_programs_use() -> None:
    assert loaded_by("import comfy_client; comfy_client.ComfyApi()") == set()


def test_a_run_and_its_picture_load_nothing_more_of_it() -> None:
    with ComfyServer() as server:
        code = f"""if True:
            from comfy_client import ComfyApi
            size = {{"width": 16, "height": 16, "batch_size": 1, "color": 0}}
            nodes = {{
                "1": {{"class_type": "EmptyImage", "inputs": size}},
                "2": {{"class_type": "PreviewImage", "inputs": {{"images": ["1", 0]}}}},
            }}
            with ComfyApi({server.url!r}) as api:
                api.run(nodes).images[0].bytes()
        """
        assert loaded_by(f"exec({code!r})") == set()


def test_names_of_the_package_are_there_when_they_are_asked_for() -> None:
    """Those that are not loaded yet, too; and no others."""
    code = "import comfy_client as c; [getattr(c, name) for name in c.__all__]; c.BasicCredentials"
    assert "credentials" in loaded_by(code)


def test_attrs_inspects_no_class() -> None:
    """A class as a converter takes a tenth of the import: its signature is tokenized."""
    assert not isinstance(attrs.fields(comfy_client.Result).files.converter, type)


#: But for what runs a program, is imported by pytest alone, or stands on Dask, which starts
#: threads when it is imported (those of NumPy).
MODULES = sorted(
    name
    for _, name, _ in pkgutil.walk_packages(comfy_client.__path__, "comfy_client.")
    if not name.endswith("__main__")
    and not name.startswith(("comfy_client.testing.plugin", "comfy_client.distributed"))
)

WATCHED = """
import importlib, os, sys, threading

# urllib3 binds a socket for a moment, to see whether there is IPv6.
WATCHED = ("socket.connect", "socket.get", "subprocess.", "os.fork", "signal.")

def audit(event, args):
    if event.startswith(WATCHED):
        print("did", event)

def fds():
    here = "/proc/self/fd"
    found = {int(name) for name in os.listdir(here)} if os.path.isdir(here) else set()
    return {fd for fd in found if os.path.exists(f"{here}/{fd}")}  # not that of the list

before = fds(), os.environ.copy()
sys.addaudithook(audit)
for name in sys.argv[1:]:
    importlib.import_module(name)
if fds() != before[0]:
    print("opened", *(os.readlink(f"/proc/self/fd/{fd}") for fd in fds() - before[0]))
if threading.enumerate() != [threading.main_thread()]:
    print("threads", *threading.enumerate())
if os.path.isdir("/proc/self/task") and len(os.listdir("/proc/self/task")) != 1:
    print("threads of the system", len(os.listdir("/proc/self/task")))
if os.environ != before[1]:
    print("changed the environment")
"""


def done_by(*modules: str) -> str:
    """What imports of these do beside importing."""
    command = [sys.executable, "-c", WATCHED, *modules]
    path = {"PYTHONPATH": str(Path(comfy_client.__file__).parents[1])}
    # Pillow 10 imports NumPy, which would start threads of its own.
    quiet = {"OPENBLAS_NUM_THREADS": "1"}
    run = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **path, **quiet}
    )
    return run.stdout + run.stderr


@pytest.mark.parametrize("modules", [["comfy_client"], MODULES], ids=["the package", "all of it"])
def test_an_import_starts_no_thread_and_opens_nothing(modules: list[str]) -> None:
    """So a process may be forked or frozen after it."""
    assert len(modules) in (1, len(MODULES))
    assert done_by(*modules) == ""


def test_dask_is_imported_by_what_stands_on_it_only() -> None:
    """It takes longer than all else."""
    code = f"import importlib, sys; [importlib.import_module(n) for n in {MODULES}]"
    code += "; print({'dask', 'distributed'} & {*sys.modules})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"


def test_a_cluster_without_dask_says_what_to_install() -> None:
    code = "import sys; sys.modules['distributed'] = None; import comfy_client.distributed"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert 'pip install "comfy-client-blocking[dask]"' in run.stderr.splitlines()[-1]


def test_what_an_import_might_do_is_seen(tmp_path: Path) -> None:
    """The test above would fail for a module that does."""
    (tmp_path / "busy.py").write_text(
        "import socket, threading\n"
        "kept = socket.socket(), open(__file__), socket.getaddrinfo('127.0.0.1', 80)\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    )
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{WATCHED}"
    run = subprocess.run([sys.executable, "-c", code, "busy"], capture_output=True, text=True)
    found = {line.split()[0] for line in run.stdout.splitlines()}
    assert found >= {"did", "opened", "threads"}


def test_importing_all_names_leaves_the_standard_modules_as_they_are() -> None:
    """``signal`` is imported by its name."""
    names: dict[str, Any] = {}
    exec("from comfy_client import *\nfrom comfy_client import signal as by_name", names)
    assert not names.keys() & sys.stdlib_module_names
    assert names["ComfyApi"] is comfy_client.ComfyApi
    assert names["by_name"] is comfy_client.signal
    assert "signal" in dir(comfy_client)
