"""What a program pays for: what it does not use is not imported."""

from __future__ import annotations

import contextlib
import os
import pkgutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest

import comfy_client
from comfy_client import ClientClosed, ComfyApi
from comfy_client.testing import ComfyServer
from comfy_client.transport.websocket import State
from tests.helpers.ctrl_c import handled, points_of
from tests.helpers.long import few

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


#: What prompts and events need, and no request.
FIRST_USE = ("event_queue", "events", "jobs", "parts", "signals", "transport.websocket")
#: A client is made.
MAKE = "import comfy_client; comfy_client.ComfyApi()"
#: A client runs a prompt, reads its picture, and hears all events.
RUN = """
from comfy_client import ComfyApi
from comfy_client.timing import Timing
class Patient(ComfyApi):
    timing = Timing(show=600.0)  # a busy machine is no reason to draw a bar
size = {"width": 16, "height": 16, "batch_size": 1, "color": 0}
nodes = {
    "1": {"class_type": "EmptyImage", "inputs": size},
    "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
}
with Patient(sys.argv[1]) as api:
    api.on("all", lambda event: None)
    api.run(nodes).images[0].bytes()
"""
#: Notes what each thread imports.
NOTING = """
import sys, threading

class Noting:
    def find_spec(self, name, path=None, target=None):
        noted.append((threading.current_thread().name, name))

noted = []
sys.meta_path.insert(0, Noting())
"""
#: The classes of ours that attrs has built.
BUILT = """
built = {
    item
    for name, module in list(sys.modules.items())
    if name.startswith("comfy_client")
    for item in vars(module).values()
    if isinstance(item, type)
    and item.__module__.startswith("comfy_client")
    and "__attrs_attrs__" in vars(item)
}
"""


def said_by(code: str, *args: str) -> list[str]:
    """The words that a program prints."""
    command = [sys.executable, "-c", f"import sys\n{code}", *args]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return run.stdout.split()


def loaded_by(code: str, *args: str, names: tuple[str, ...] = SELDOM) -> set[str]:
    """Which of these a program loads."""
    loaded = said_by(f"{code}\nprint(*sys.modules)", *args)
    return {name for name in names if f"comfy_client.{name}" in loaded}


def test_a_new_client_loads_nothing_that_few_programs_use() -> None:
    assert loaded_by(MAKE) == set()


def test_a_new_client_loads_nothing_for_prompts_and_events() -> None:
    """The first of these does, in its own thread; requests do without."""
    assert loaded_by(MAKE, names=FIRST_USE) == set()
    assert "websocket" not in said_by(f"{MAKE}\nprint(*sys.modules)")
    use = "import comfy_client; comfy_client.ComfyApi().on('status', print)"
    assert loaded_by(use, names=FIRST_USE) == set(FIRST_USE)


def test_an_import_has_a_budget_of_modules_and_of_attrs_classes() -> None:
    """Each module takes 0.2 ms, and each class 0.3 ms, as attrs compiles its methods."""
    modules = "sum(name.startswith('comfy_client') for name in sys.modules)"
    count, built = map(int, said_by(f"{MAKE}\n{BUILT}\nprint({modules}, len(built))"))
    assert 0 < count <= 62
    assert 0 < built <= 11


def test_the_event_thread_imports_nothing() -> None:
    """It would hold up events meanwhile: whoever starts it has imported what it needs."""
    with ComfyServer() as server:
        code = f"{NOTING}\n{RUN}\nprint(*(f'{{thread}}:{{name}}' for thread, name in noted))"
        noted = [word.split(":") for word in said_by(code, server.url)]
    assert [name for thread, name in noted if thread == "comfy-events"] == []
    assert ["MainThread", "comfy_client.events"] in noted


def test_a_run_and_its_picture_load_nothing_more_of_it() -> None:
    with ComfyServer() as server:
        assert loaded_by(RUN, server.url) == set()


def test_of_two_threads_that_use_a_new_client_both_get_the_same_parts() -> None:
    """No lock is held while modules are imported, as a fork might leave it held."""
    faster: list[Any] = []

    class Overtaken(ComfyApi):
        @staticmethod
        def generate_id() -> str:
            if not faster:
                faster.append(None)  # the other thread comes here, too
                with ThreadPoolExecutor() as pool:
                    faster[0] = pool.submit(lambda: api.parts).result()
            return ComfyApi.generate_id()

    api = Overtaken()
    assert api.parts is faster[0]
    assert api.parts is faster[0]


def test_ctrl_c_in_the_first_use_of_a_client_leaves_no_half_of_its_parts() -> None:
    """The next use makes the rest: what routes ask of prompts, and what ends its threads."""
    points = points_of(lambda: ComfyApi().parts)
    for at in range(1, points + 1):
        api = ComfyApi()
        with handled(), contextlib.suppress(KeyboardInterrupt):
            points_of(lambda api=api: api.parts, at, partial(signal.raise_signal, signal.SIGINT))
        connection = api.parts.connection
        assert api._hooks.awaits_record == api.parts.poller.awaits_record
        del api
        assert connection.state is State.CLOSED


CLOSE = """
import comfy_client, sys
class Holder:
    def __init__(self):
        self.api = comfy_client.ComfyApi()
    def __del__(self):
        self.api.close()
        print("closed")
holder = Holder()
"""


def test_closing_a_client_that_was_not_used_loads_nothing() -> None:
    """Nor could it when the interpreter ends, as an object of a module may do it then."""
    code = f"{MAKE.replace('ComfyApi()', 'ComfyApi().close()')}"
    assert loaded_by(code, names=FIRST_USE) == set()
    assert said_by(CLOSE) == ["closed"]


def test_a_client_that_was_closed_before_its_first_use_stays_closed() -> None:
    api = ComfyApi()
    api.close()
    with pytest.raises(ClientClosed):
        api.init()
    assert api.parts.tracker.closed
    assert api.state is State.CLOSED


def test_a_client_that_is_closed_during_its_first_use_is_closed() -> None:
    """Whether its parts were there for the thread that closed it, or not."""

    class Closed(ComfyApi):
        @staticmethod
        def generate_id() -> str:
            with ThreadPoolExecutor() as pool:
                pool.submit(api.close).result()
            return ComfyApi.generate_id()

    api = Closed()
    assert api.parts.tracker.closed
    assert api.state is State.CLOSED


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


@pytest.mark.parametrize(
    "modules", few([["comfy_client"], MODULES], 1), ids=["the package", "all of it"]
)
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


@pytest.mark.posix("/proc")
def test_side_effects_of_an_import_are_detected(tmp_path: Path) -> None:
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
