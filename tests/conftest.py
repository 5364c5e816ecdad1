"""Lanes and fixtures.

``pytest`` needs no ComfyUI, ``--long`` adds the tests that take long, ``--real`` those on a real
ComfyUI, ``--soak`` those that go on for minutes, ``--index`` those that ask the package index,
``--browser`` those that open ComfyUI's page in Chromium, ``--clients`` those with other people's
clients of ComfyUI.
With ``--long``, hypothesis tries four times as many examples as without.
``--hypothesis-profile=thorough`` tries ten times as many again, new ones in each run.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import gc
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling, WorkStealingScheduling

from tests import comfy_api_proxy, real_manager
from tests.comfyui import DEFAULT, VERSIONS, ComfyUI, cache, python_for, setup
from tests.helpers import standing_clock
from tests.helpers.left_behind import changes_since, state_of_thread
from tests.helpers.running_comfyui import GIVEN, Running, given, tree_of
from tests.versions import TESTED

if TYPE_CHECKING:
    from comfy_client import ComfyApi
    from comfy_client.testing import ComfyServer
    from comfy_client.testing.versions import Version
    from tests.helpers.hosted import Hosted

TESTS = Path(__file__).parent
WORKFLOWS = TESTS / "workflows"
LANES = ("long", "real", "soak", "index", "browser", "clients")
#: One of the older versions in the parameters of a test on a real ComfyUI.
OLDER = re.compile(
    rf"(?<!embedded-)\b(?:{'|'.join(re.escape(one) for one in TESTED if one != DEFAULT)})\b"
)
#: Seconds for a test on a real ComfyUI, which a busy machine takes a minute to start.
REAL_TIMEOUT = 600
#: Seconds that a played prompt waits for what the test does next.
SCRIPT_TIMEOUT = 120

# An example that takes long to make or to try says something of the machine only.  But for those
# of "thorough" they are the same each time, so that whatever they find is found by who changes
# something.
settings.register_profile(
    "long", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("quick", settings.get_profile("long"), max_examples=25)
settings.register_profile(
    "thorough", settings.get_profile("long"), derandomize=False, max_examples=1000
)
settings.load_profile("quick")

# As a terminal has them: a shell that runs the tests in the background has Ctrl-C ignored, and
# nohup the end of the terminal.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Hundreds of processes import the package. Where nothing is to be compiled to stay beside the
# sources, it stays elsewhere.
if sys.dont_write_bytecode:
    sys.dont_write_bytecode, sys.pycache_prefix = False, str(cache() / "bytecode")
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Thousands of servers have a folder each, which takes some disks longer than the tests.
_MEMORY = Path("/dev/shm")
_HAS_ROOM = os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > 4 << 30
if "TMPDIR" not in os.environ and _HAS_ROOM:
    tempfile.tempdir = os.environ["TMPDIR"] = str(_MEMORY)

#: What is set up beside a real ComfyUI, for tests with these words in their ids.
BESIDE = {"real-proxy": comfy_api_proxy.set_up, "real-manager": real_manager.set_up}

#: What only Linux has of all that tests need of POSIX.
_ON_LINUX = {"/proc", "xdg-open"}

standing_clock.install()

# A ComfyUI of whoever runs the tests, and what is sent to it, are none of theirs.
for _name in [name for name in os.environ if name.startswith("COMFYUI_")]:
    del os.environ[_name]
# Nor are files in the user's cache folder, unless a test names another one.
os.environ["COMFYUI_CACHE"] = "off"


@pytest.fixture(autouse=True)
def _timing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """``@pytest.mark.timing(deaf=0.3)``: the times of all clients of a test."""
    times = {}
    for marker in reversed([*request.node.iter_markers("timing")]):  # the closest last
        times |= marker.kwargs
    if times:
        from comfy_client import ComfyApi

        kinds = [ComfyApi]
        for kind in kinds:
            kinds += kind.__subclasses__()
            if "timing" in vars(kind):
                monkeypatch.setattr(kind, "timing", attrs.evolve(kind.timing, **times))


@pytest.fixture(autouse=True, scope="session")
def _longer_default_waits() -> Iterator[None]:
    """Clients and pools wait as long as a busy machine may need, unless a test says how long."""
    from tests.helpers.patches import wait_longer_by_default

    with pytest.MonkeyPatch.context() as patch:
        wait_longer_by_default(patch)
        yield


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="also run the tests that take long")
    parser.addoption("--real", action="store_true", help="also test on a real ComfyUI")
    parser.addoption(
        "--comfyui",
        metavar="PATH_OR_URL",
        help="with --real: the contract tests alone, on the ComfyUI of a source tree or a URL",
    )
    parser.addoption("--soak", action="store_true", help="also run those that go on for minutes")
    parser.addoption("--index", action="store_true", help="also ask the package index")
    parser.addoption("--browser", action="store_true", help="also open ComfyUI's page in Chromium")
    parser.addoption("--clients", action="store_true", help="also run other people's clients")
    parser.addoption(
        "--soak-seconds",
        type=float,
        default=60.0,
        help="with --soak: for how long tests/model plays random schedules",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Before hypothesis, whose option counts for more."""
    # Dask warns of a disk that takes more than a second.
    config.addinivalue_line("filterwarnings", "ignore:Creating scratch directories:UserWarning")
    # asyncio on Windows accepts a connection though its server is being closed, and leaves it.
    left = "ignore:unclosed transport <_ProactorSocketTransport fd=-1>:ResourceWarning"
    config.addinivalue_line("filterwarnings", left)
    if config.getoption("long"):
        settings.load_profile("long")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Most tests wait for something: several at a time; long ones are to be watched."""
    return 0 if config.getoption("soak") or config.getoption("comfyui") else 6


class RealScheduling(LoadFileScheduling):
    """The tests of a file stay on one worker, those on an older ComfyUI with all others on it.

    So each of these, whose start takes a processor for five seconds, starts once or twice.
    """

    def _split_scope(self, nodeid: str) -> str:
        file, _, test = nodeid.partition("::")
        older = OLDER.search(test)
        return older[0] if older else file


def pytest_xdist_make_scheduler(
    config: pytest.Config, log: Producer
) -> RealScheduling | WorkStealingScheduling:
    """Files that wait beside files that compute, and no long one alone at the end."""
    scheduling = RealScheduling if config.getoption("real") else WorkStealingScheduling
    return scheduling(config, log)


def is_for_given(item: pytest.Item) -> bool:
    """Whether a test runs on the server of ``--comfyui``."""
    spec = getattr(item, "callspec", None)
    values = spec.params.values() if spec else ()
    # A NumPy array would compare with it element by element.
    return any(isinstance(value, str) and value == GIVEN for value in values)


def real_version(item: pytest.Item) -> str | None:
    """The version of ComfyUI that a test is for; None of a test that needs no real one."""
    if item.get_closest_marker("real") is None:
        return None
    spec = getattr(item, "callspec", None)
    values = [str(value) for value in spec.params.values()] if spec else []
    if any(value.startswith("embedded-") for value in values):
        return None  # only beside the real ones, but without them
    given = {value.removeprefix("real-") for value in values}
    return next((version for version in VERSIONS if version in given), DEFAULT)


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Iterator[None]:
    """Without a search for garbage, of which there is none: each worker saves a second."""
    gc.disable()
    try:
        _import_tests(session.config)
        return (yield)
    finally:
        gc.enable()


def _import_tests(config: pytest.Config) -> None:
    """Import the tests of all folders, each worker from another on, so that each is compiled once.

    pytest compiles them itself; in a fresh checkout every worker would compile all of them.
    """
    worker = getattr(config, "workerinput", None)
    if worker is not None:
        folders = [config.invocation_params.dir / one for one in config.args if "::" not in one]
        names = sorted(
            ".".join(path.relative_to(TESTS.parent).with_suffix("").parts)
            for folder in folders
            for path in folder.rglob("test_*.py")
            if TESTS in path.parents
        )
        first = len(names) * int(worker["workerid"].removeprefix("gw")) // worker["workercount"]
        for name in names[first:] + names[:first]:
            with contextlib.suppress(Exception):  # which pytest reports
                import_module(name)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    off = {lane for lane in LANES if not config.getoption(lane)}
    if config.getoption("comfyui"):
        off -= {"long"}
    # One look at the markers of an item: each takes all that stand above it.
    markers = {item: {marker.name for marker in item.iter_markers()} for item in items}
    out = {item for item in items if not off.isdisjoint(markers[item])}
    if config.getoption("comfyui"):
        out |= {item for item in items if not is_for_given(item)}
    if out:
        config.hook.pytest_deselected(items=list(out))
    for item in items:
        if "real" in markers[item] and "timeout" not in markers[item]:
            item.add_marker(pytest.mark.timeout(REAL_TIMEOUT))
        if sys.platform != "linux" and (posix := item.get_closest_marker("posix")):
            if os.name != "posix" or posix.args[0] in _ON_LINUX:
                item.add_marker(pytest.mark.skip(reason=f"not on this system: {posix.args[0]}"))
    # A checker of types takes long: at the end, nothing else would be left to do beside it.
    items[:] = sorted(
        (item for item in items if item not in out),
        key=lambda item: item.path.name != "test_typing.py",
    )


def pytest_collection_finish(session: pytest.Session) -> None:
    """Set ComfyUI up before the first test."""
    config = session.config
    if not (config.option.collectonly or hasattr(config, "workerinput")):
        _set_up(config, {version for item in session.items if (version := real_version(item))})
        for part, set_up in BESIDE.items():
            if any(part in item.nodeid for item in session.items):
                _in_sight(config, set_up)


def pytest_xdist_setupnodes(config: pytest.Config) -> None:
    """The same before there are workers; what they will collect is not known yet."""
    if config.getoption("real"):
        _set_up(config, {DEFAULT, *TESTED})
        if config.getoption("comfyui") is None:
            for set_up in BESIDE.values():
                _in_sight(config, set_up)


def _set_up(config: pytest.Config, versions: set[str]) -> None:
    if config.getoption("comfyui") is None:
        for version in sorted(versions):
            _in_sight(config, functools.partial(setup, version))
    elif tree := tree_of(config.getoption("comfyui")):
        _in_sight(config, functools.partial(python_for, tree))


def _in_sight(config: pytest.Config, set_up: Callable[[], object]) -> None:
    """Set up in sight, and outside any test's time limit."""
    capture = config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        set_up()


@pytest.fixture(autouse=True, scope="module")
def _nothing_old_to_collect() -> None:
    """What tests collect is theirs: looking through all modules and definitions takes long."""
    with warnings.catch_warnings():
        # A Ctrl-C of a test before may have come in the middle of urllib3's connect, which leaves
        # its socket to the collector.  That is no fault of the module that comes next.
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _no_state_left_behind() -> Iterator[None]:
    """The client has left nothing to the main thread, on which a later test would fail.

    A Ctrl-C could leave a deadline or a lock there.
    """
    before = state_of_thread()
    yield
    left = changes_since(before)
    assert not left, f"left behind: {left}"


@pytest.fixture(autouse=True)
def _no_thread_left_behind() -> Iterator[None]:
    """Every thread of ours that a test started ends soon after it."""
    before = set(threading.enumerate())
    yield
    end = time.monotonic() + 30
    ours = [t for t in threading.enumerate() if t.name.startswith("comfy-") and t not in before]
    for thread in ours:
        # A Ctrl-C in the middle of ``start`` leaves a thread that begins in a moment, or never.
        while thread.ident is None and time.monotonic() < end - 25:
            time.sleep(0.01)
        if thread.ident is not None:
            thread.join(max(0.0, end - time.monotonic()))
    left = [thread.name for thread in ours if thread.is_alive()]
    assert not left, f"threads left behind: {left}"


@pytest.fixture(scope="session")
def real_comfyui(request: pytest.FixtureRequest) -> Iterator[ComfyUI | Running]:
    """A running real ComfyUI; a test that stops it starts it again."""
    wanted = request.config.getoption("comfyui")
    with given(wanted) if wanted else ComfyUI() as server:
        yield server


@pytest.fixture(scope="session")
def comfyui(real_comfyui: ComfyUI | Running) -> ComfyUI | Running:
    """The same; the contract tests have another one by this name."""
    return real_comfyui


@pytest.fixture(
    scope="session", params=["embedded-proxy", pytest.param("real-proxy", marks=pytest.mark.real)]
)
def hosted(request: pytest.FixtureRequest) -> Iterator[Hosted]:
    """A place of Comfy API v2: an embedded one and, with ``--real``, the real proxy.

    The tests of a session share it, and leave it running.
    """
    from tests.helpers.hosted import before, embedded

    if request.param == "embedded-proxy":
        # The real ones that the tests set up are before a ComfyUI of that version.
        with embedded(version=DEFAULT) as place:
            yield place
    else:
        with before(request.getfixturevalue("real_comfyui")) as place:
            yield place


@pytest.fixture
def api(comfyui: ComfyUI) -> Iterator[ComfyApi]:
    """A client of the real ComfyUI, closed after the test."""
    from comfy_client import ComfyApi

    with ComfyApi(comfyui.url) as client:
        yield client


@pytest.fixture(scope="session", params=TESTED)
def any_comfyui(request: pytest.FixtureRequest) -> Iterator[ComfyUI]:
    """A running real ComfyUI of each tested version; pytest keeps the tests of one together."""
    if request.param == DEFAULT:
        yield request.getfixturevalue("comfyui")
    else:
        with ComfyUI(version=request.param) as server:
            yield server


@pytest.fixture
def any_api(any_comfyui: ComfyUI) -> Iterator[ComfyApi]:
    """A client of the real ComfyUI of each tested version, closed after the test."""
    from comfy_client import ComfyApi

    with ComfyApi(any_comfyui.url) as client:
        yield client


@pytest.fixture
def comfy_version() -> Version | None:
    """The version of ``comfy``, for tests to be parametrised with; None: the default."""
    return None


@pytest.fixture
def comfy(comfy_version: Version | None) -> Iterator[ComfyServer]:
    """An embedded server, by whatever name it is asked.

    Its scripts wait as long as a test may take on a busy machine.
    """
    from comfy_client.testing import ComfyServer

    with ComfyServer(allowed_hosts=["*"], version=comfy_version) as server:
        server.script = functools.partial(server.script, timeout=SCRIPT_TIMEOUT)  # type: ignore[method-assign]
        yield server


@pytest.fixture(scope="session")
def workflow() -> Callable[..., dict[str, Any]]:
    """Reads a workflow: ``workflow("txt2img_tiny", seed=5)``."""
    return load_workflow


def examples(usual: int) -> int:
    """How many examples hypothesis tries: `usual` with ``--long``, else a quarter of them."""
    return max(1, usual * settings().max_examples // 100)


def load_workflow(name: str, **inputs: Any) -> dict[str, Any]:
    """A fresh copy of ``workflows/<name>.json``, with `inputs` set wherever they occur."""
    graph: dict[str, Any] = json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))
    for key, value in inputs.items():
        nodes = [n for n in graph.values() if key in n["inputs"]]
        if not nodes:
            raise KeyError(f"no node of {name} has an input {key!r}")
        for node in nodes:
            node["inputs"][key] = copy.deepcopy(value)
    return graph
