"""Contract tests: what must hold on real servers and on embedded ones.

A test that uses ``comfyui`` or ``api`` runs on an embedded server and, with ``--real``, on a
real one of the newest version; one that uses ``any_comfyui`` or ``any_api`` on embedded servers
and, with ``--real``, on real ones of each version; one that uses ``server`` on some of both.
One that is marked ``real`` runs on those only.  With ``--comfyui`` all run on that one alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from comfy_client.jobs.result import Result
from comfy_client.testing import ComfyServer
from tests.comfyui import DEFAULT, ComfyUI
from tests.helpers.clients import stretched
from tests.helpers.long import few
from tests.helpers.march_2024 import March2024
from tests.helpers.running_comfyui import GIVEN, Running
from tests.helpers.servers import add_test_content
from tests.versions import TESTED, has

#: Embedded servers are told from real ones by this.
EMBEDDED = "embedded-"
# The newest as one of many only with ``--real``: it has tests of its own.
SERVERS = {
    "comfyui": ([f"{EMBEDDED}{DEFAULT}"], [DEFAULT]),
    "any_comfyui": (
        [f"{EMBEDDED}2024-03", f"{EMBEDDED}0.33"],
        [f"{EMBEDDED}{DEFAULT}", *TESTED],
    ),
    "server": (
        few([f"{EMBEDDED}{version}" for version in (DEFAULT, "0.33", "0.28")], 2),
        [DEFAULT, "0.3.52", "2024-03"],
    ),
}

Server = ComfyServer | ComfyUI | Running


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marks = list(metafunc.definition.iter_markers())
    for name, (always, real) in SERVERS.items():
        if name not in metafunc.fixturenames or any(
            mark.name == "parametrize" and mark.args[0] == name for mark in marks
        ):
            continue
        if metafunc.config.getoption("comfyui"):
            always, real = [], [GIVEN]
        is_real = any(mark.name == "real" for mark in marks)
        servers: list[Any] = [] if is_real else [*always]
        # Each worker collects all, of which others would only be left out again.
        if metafunc.config.getoption("real") or not servers:
            kept = [one for one in real if not (is_real and one.startswith(EMBEDDED))]
            servers += [pytest.param(one, marks=pytest.mark.real) for one in kept]
        metafunc.parametrize(name, servers, indirect=True, scope="session")


@contextmanager
def running(version: str) -> Iterator[Server]:
    """A server by its parameter; embedded ones have what real ones for tests have."""
    if version.startswith(EMBEDDED):
        like: Any = version.removeprefix(EMBEDDED)
        with (
            March2024(step_seconds=0.05)
            if like == "2024-03"
            else ComfyServer(version=like, step_seconds=0.05)
        ) as server:
            add_test_content(server)
            yield server
    else:
        with ComfyUI(version=version) as real:
            yield real


@pytest.fixture(autouse=True)
def _skip_what_the_given_one_is_too_old_for(request: pytest.FixtureRequest) -> None:
    """What it does instead is for ``test_versions.py``."""
    mark = request.node.get_closest_marker("needs")
    if mark is not None and request.config.getoption("comfyui"):
        version = request.getfixturevalue("real_comfyui").version
        lacking = [key for key in mark.args if not has(version, key)]
        if lacking:
            pytest.skip(f"ComfyUI {version} has no {', '.join(lacking)}")


def a_while(server: Server, embedded: float = 0.3, real: float = 3.0) -> float:
    """Seconds in which a server, and whoever looks at it, have their turn.

    A real one is a process of its own, and the machine may be busy with others.
    """
    return stretched(embedded if isinstance(server, ComfyServer) else real)


def may_forget(server: Server) -> bool:
    """Whether its cache may be of any kind: a newer server forgets when memory is short.

    One that somebody else has started, they may have told to keep nothing.
    """
    return isinstance(server, Running) or has(server.version, "forgetful cache")


def forgot(server: Server, result: Result, *nodes: str) -> bool:
    """Whether nothing can be said of the cache."""
    return may_forget(server) and not set(nodes) <= set(result.cached_nodes)


@pytest.fixture(scope="session")
def comfyui(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A running server of the newest version."""
    version = getattr(request, "param", DEFAULT)
    if version in (DEFAULT, GIVEN):
        yield request.getfixturevalue("real_comfyui")
    else:
        with running(version) as server:
            yield server


@pytest.fixture(scope="session")
def any_comfyui(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A running server of each version; pytest keeps the tests of one together."""
    if request.param in (DEFAULT, GIVEN):
        yield request.getfixturevalue("real_comfyui")
    else:
        with running(request.param) as server:
            yield server


@pytest.fixture(scope="module")
def crowded(comfyui: Server) -> Iterator[Server]:
    """Another server of that kind: with users, small uploads, and a node pack."""
    if isinstance(comfyui, ComfyServer):
        with ComfyServer(multi_user=True, max_upload_size=1 << 20) as embedded:
            _add_pack(embedded.root)
            yield embedded
    else:
        with_options = comfyui.another("--multi-user", "--max-upload-size", "1")
        _add_pack(with_options.root)
        with with_options as real:
            yield real


def _add_pack(root: Path) -> None:
    """A node pack that brings a workflow, a subgraph and a translation along."""
    pack = root / "custom_nodes" / "a_pack"
    for folder in ("example_workflows", "subgraphs", "locales/en", "scripts/a", "web"):
        (pack / folder).mkdir(parents=True)
    code = 'NODE_CLASS_MAPPINGS = {}\nWEB_DIRECTORY = "./scripts"\n'
    (pack / "__init__.py").write_text(code)
    project = '[project]\nname = "a-pack"\nversion = "1"\n[tool.comfy]\nweb = "web"\n'
    (pack / "pyproject.toml").write_text(project)
    (pack / "scripts" / "a" / "b.js").write_text("// b")
    (pack / "web" / "c.js").write_text("// c")
    (pack / "example_workflows" / "first & best.json").write_text('{"nodes": []}')
    (pack / "subgraphs" / "blur.json").write_text('{"definitions": {}}')
    (pack / "locales" / "en" / "main.json").write_text('{"hello": "world"}')


@pytest.fixture(scope="module")
def other(comfyui: Server) -> Iterator[Server]:
    """Another server of that kind without previews, which may be killed."""
    if isinstance(comfyui, ComfyServer):
        with ComfyServer(previews=False) as embedded:
            add_test_content(embedded)
            yield embedded
    else:
        with comfyui.another("--preview-method", "none") as server:
            yield server
