"""The plug-in for pytest, as a project downstream meets it."""

from __future__ import annotations

import configparser
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

import comfy_client
from tests.conftest import load_workflow
from tests.guide import blocks
from tests.helpers.records import graph

ROOT = Path(__file__).parents[2]
PACKAGE = Path(comfy_client.__file__).parent
# What must not be there before a fixture is used.
HEAVY = ("comfy_client", "requests", "websocket", "blinker", "aiohttp", "PIL")

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One with the package installed; from a checkout, what an installation adds is added."""
    places = [str(PACKAGE.parent)]
    found = importlib.util.find_spec("pytest_comfy_client")
    if found is None or not Path(found.origin or "").is_relative_to(PACKAGE.parent):
        site = tmp_path_factory.mktemp("site")
        config = configparser.ConfigParser()
        config.read(ROOT / "setup.cfg")
        name, _, folder = config["options"]["package_dir"].split("\n")[-1].partition(" = ")
        shutil.copytree(ROOT / folder, site / name)
        info = site / "comfy_client_blocking-0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Name: comfy-client-blocking\nVersion: 0\n")
        entries = config["options.entry_points"]
        (info / "entry_points.txt").write_text(
            "\n".join(f"[{group}]{lines}" for group, lines in entries.items())
        )
        places.append(str(site))
    return {**os.environ, "PYTHONPATH": os.pathsep.join(places)}


@pytest.fixture
def run(tmp_path: Path, environment: dict[str, str]) -> Run:
    """pytest on a project of one file.

    With our plug-in alone, since those of this project take longer to import than all else; or
    with those that pytest finds.
    """

    def run(code: str, *options: str, is_found: bool = False) -> subprocess.CompletedProcess[str]:
        (tmp_path / "test_it.py").write_text(code)
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:asyncio",
            *options,
        ]
        alone = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": "pytest_comfy_client"}
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment if is_found else environment | alone,
            timeout=300,
        )

    return run


def test_a_test_downstream_is_three_lines(run: Run, tmp_path: Path) -> None:
    """The guide's own, in a project of its own."""
    found = [b.code for b in blocks() if b.page == "testing"]
    [code] = [code for code in found if re.search(r"^def test_", code, re.MULTILINE)]
    assert len(code[code.index("def test_") :].strip().splitlines()) == 3
    [checkpoint] = re.findall(r"checkpoints/([\w.]+)", code)
    graph = load_workflow("txt2img_tiny", ckpt_name=checkpoint)
    (tmp_path / "txt2img.json").write_text(json.dumps(graph))
    done = run(code, "--strict-markers", "-W", "error")
    assert "1 passed" in done.stdout, done.stdout


def test_the_plugin_imports_nothing_until_a_fixture_is_used(run: Run) -> None:
    """So the plug-in, which pytest finds by itself, costs nothing where it is not used."""
    code = f"""
import sys

def test_before():
    assert "pytest_comfy_client" in sys.modules
    assert not sys.modules.keys() & {set(HEAVY)}

def test_then(comfy_api):
    assert set({HEAVY}) - {{"PIL"}} <= sys.modules.keys()
"""
    done = run(code, is_found=True)
    assert "2 passed" in done.stdout, done.stdout


def test_a_missing_extra_fails_only_what_uses_the_fixture(run: Run) -> None:
    """With one line that says what to install."""
    code = """
import sys

sys.modules["aiohttp"] = None

def test_without():
    pass

def test_with(comfy_api):
    pass
"""
    done = run(code)
    assert "1 passed, 1 error" in done.stdout
    told = (
        'comfy_client.testing needs aiohttp: pip install "comfy-client-blocking[testing]", '
        'or in a checkout: pip install ".[testing]"'
    )
    assert re.search(rf"^{re.escape(told)}$", done.stdout, re.MULTILINE), done.stdout
    assert "Traceback" not in done.stdout
    assert "plugin" not in done.stdout


def test_each_test_has_a_fresh_server_and_a_client_that_is_connected(run: Run) -> None:
    """Which is closed, and the server stopped, after it."""
    code = """
import pytest

seen = []
GRAPH = {
    "1": {"class_type": "EmptyImage",
          "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 1}},
    "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
}

@pytest.mark.parametrize("number", range(2))
def test_it(comfy_server, comfy_api, number):
    assert comfy_api.host == comfy_server.url
    assert comfy_api.connected
    assert not comfy_api.get_histories()
    assert comfy_api.run(GRAPH, timeout=30).images
    seen.append((comfy_server, comfy_api))

def test_after():
    for server, api in seen:
        assert "stopped" in repr(server)
        assert api.state.value == "closed"
"""
    done = run(code, "-W", "error")
    assert "3 passed" in done.stdout, done.stdout


def test_a_marker_passes_options_to_the_server(run: Run) -> None:
    """They add up, the nearest one counts, and it is known to --strict-markers."""
    code = """
import pytest

pytestmark = pytest.mark.comfy_server(version="0.28", prefix="/far")

def test_of_the_module(comfy_server):
    assert comfy_server.version == "0.28"

@pytest.mark.comfy_server(prefix="/near")
class TestIt:
    def test_of_the_class(self, comfy_server, comfy_api):
        assert comfy_server.version == "0.28"
        assert comfy_api.host.endswith("/near")

    @pytest.mark.comfy_server(version="0.33", credentials="secret")
    def test_of_its_own(self, comfy_server, comfy_api):
        assert comfy_server.version == "0.33"
        assert comfy_api.host.endswith("/near")
        assert comfy_api.get_queue().pending == ()
"""
    done = run(code, "--strict-markers")
    assert "3 passed" in done.stdout, done.stdout


def test_the_client_of_a_test_gets_past_the_door_of_its_server(run: Run, tmp_path: Path) -> None:
    """With the credentials and the certificate that the marker names."""
    authority = trustme.CA()
    issued, pem = authority.issue_cert("127.0.0.1"), tmp_path / "server.pem"
    issued.private_key_and_cert_chain_pem.write_to_path(pem)
    authority.cert_pem.write_to_path(pem, append=True)
    code = f"""
import pytest

@pytest.mark.comfy_server(credentials=("user", "pass:word"))
def test_a_pair(comfy_api):
    assert comfy_api.get_queue().pending == ()

@pytest.mark.comfy_server(credentials="token")
def test_a_token(comfy_api):
    assert comfy_api.get_queue().pending == ()

@pytest.mark.comfy_server(hosted="proxy", credentials="secret")
def test_a_hosted_server(comfy_api):
    assert type(comfy_api).__name__ == "HostedApi"
    assert comfy_api.run({graph()}, timeout=30).images

@pytest.mark.comfy_server(tls=({str(pem)!r}, {str(pem)!r}))
def test_a_certificate(comfy_api):
    assert comfy_api.connected
    assert comfy_api.host.startswith("https://")
"""
    done = run(code, "-W", "error")
    assert "4 passed" in done.stdout, done.stdout


def test_every_package_is_installed() -> None:
    """The list of setup.cfg names all there are; the plug-in stands under another name."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    named = config["options"]["packages"].split()
    folders = {path.parent.relative_to(PACKAGE.parent) for path in PACKAGE.rglob("__init__.py")}
    found = {".".join(folder.parts) for folder in folders} - {"comfy_client.testing.plugin"}
    assert set(named) == {*found, "pytest_comfy_client"}


def test_fixtures_and_marker_are_listed(run: Run) -> None:
    """With what they are."""
    listed = run("", "--fixtures", "--markers").stdout + run("", "--fixtures").stdout
    assert "@pytest.mark.comfy_server(**options): " in listed
    for name in ("comfy_server", "comfy_api"):
        assert re.search(rf"^{name} .*\n    Yield a ", listed, re.MULTILINE)


#: Tests that fail by an error of the library, and one that fails by its own.
FAILING = """
import comfy_client.workflow.load as load
from comfy_client import ComfyApi, Workflow

def test_file():
    Workflow.load("txt2img.json")

def test_keyword():
    ComfyApi().run({}, progres=True)

def test_value():
    ComfyApi(timeout="ten")

def test_attribute():
    ComfyApi().queuePrompt

def test_unreachable():
    ComfyApi("127.0.0.1:1").get_queue()

def test_folder(tmp_path):
    (tmp_path / "file").touch()
    Workflow({}).save(tmp_path / "file" / "x.json")

def test_callback():
    def names():
        yield 1 / 0

    list(ComfyApi().map(names()))

def test_defect(monkeypatch):
    monkeypatch.setattr(load, "os", None)
    Workflow.load("txt2img.json")
"""


@pytest.fixture
def failures(run: Run) -> Callable[..., dict[str, str]]:
    def failures(*options: str) -> dict[str, str]:
        """What pytest shows of each failing test, by its name."""
        parts = re.split(r"^_+ test_(\w+) _+$", run(FAILING, *options).stdout, flags=re.MULTILINE)
        return dict(zip(parts[1::2], parts[2::2], strict=True))

    return failures


def test_a_failing_test_ends_at_its_own_line(failures: Callable[..., dict[str, str]]) -> None:
    """With the sentence; a defect of the library is shown in full."""
    shown = failures()
    assert "load.py" in shown.pop("defect")
    last = {
        "file": "no such workflow file: 'txt2img.json'",
        "keyword": "run() got an unexpected keyword argument 'progres'",
        "value": "timeout must be more than 0 seconds",
        "attribute": "has no attribute 'queuePrompt'",
        "unreachable": "connection refused",
        "folder": "x.json",
        "callback": "ZeroDivisionError",
    }
    assert shown.keys() == last.keys()
    for name, text in shown.items():
        assert "comfy_client/" not in text, text
        assert "pathlib" not in text, text
        assert last[name] in text
        assert len(re.findall(r"^test_it.py:\d+", text, re.MULTILINE)) == 1 + (name == "callback")


def test_an_option_shows_all(failures: Callable[..., dict[str, str]]) -> None:
    """One of pytest's own, or that the plug-in is not wanted."""
    for option in ("--full-trace", "-pno:comfy_client_tracebacks"):
        assert "load.py" in failures(option, "-k", "test_file")["file"]
