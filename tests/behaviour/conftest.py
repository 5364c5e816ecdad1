"""Servers and clients of them, without proxies of the machine that tests."""

from __future__ import annotations

import contextlib
import functools
import gc
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from comfy_client import ComfyApi
from comfy_client.testing import ComfyServer
from comfy_client.transport.http import Http
from comfy_client.transport.websocket import State
from tests.helpers.clients import FAST, Fast, Quick, client, connected
from tests.helpers.connections import Make, Owner, connection_of
from tests.helpers.doors import certificates
from tests.helpers.gates import GATES, Gated, Gates, Hold
from tests.helpers.http import (
    answers,
    opened,
    raw_server,
)
from tests.helpers.notebooks import Notebook
from tests.helpers.sweeps import Record, add_recorded_nodes


@pytest.fixture
def http(comfy: ComfyServer) -> Iterator[Http]:
    """An edge to the comfy."""
    with opened(comfy.url) as edge:
        yield edge


@pytest.fixture(autouse=True)
def _no_proxies_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def look_up(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Any]], None]:
    """Has names looked up by a function instead of the system: ``look_up(function)``."""
    return functools.partial(monkeypatch.setattr, socket, "getaddrinfo")


@pytest.fixture(scope="session")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="session")
def bundle(ca: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls") / "ca.pem"
    ca.cert_pem.write_to_path(str(path))
    return path


@pytest.fixture(scope="session")
def secure(ca: trustme.CA) -> Iterator[str]:
    """A ComfyUI behind https, with a certificate for 127.0.0.1 and gpu.test."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("127.0.0.1", "gpu.test").configure_cert(context)
    with raw_server(answers((200, {}, {"exec_info": {}})), context) as port:
        yield f"https://127.0.0.1:{port}"


@pytest.fixture(scope="session")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``ca.pem`` and ``server.pem``."""
    return certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def server(comfy: ComfyServer) -> ComfyServer:
    """An embedded server."""
    return comfy


@pytest.fixture(scope="module")
def shared() -> Iterator[ComfyServer]:
    """An embedded server for all tests of a file that leave it as it was."""
    with ComfyServer(allowed_hosts=["*"]) as running:
        yield running


@pytest.fixture
def api(server: ComfyServer) -> Iterator[ComfyApi]:
    """A client of the embedded server."""
    with ComfyApi(server.url) as client:
        yield client


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Notebook:
    """A kernel that displays what the client shows below its cell."""
    return Notebook(monkeypatch)


@pytest.fixture
def prompts_wait(comfy: ComfyServer) -> None:
    """Prompts, whatever they are, run until they are told to end."""
    comfy.script()


@pytest.fixture
def record(server: ComfyServer) -> Record:
    """What the nodes of ``tests.helpers.sweeps`` do on the server."""
    return add_recorded_nodes(server)


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """Where the journal of a sweep is to be."""
    return tmp_path / "sweep.db"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where to record."""
    return tmp_path / "run.jsonl"


@pytest.fixture
def refused() -> Iterator[str]:
    """The URL of a port where nobody listens, and nobody else can."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def black_hole() -> Iterator[str]:
    """The URL of a port that answers no SYN."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):  # a full backlog drops what comes next
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes an owner and its connection; ends them, and looks for what they left open."""
    made = []

    def factory(url: str, *, start: bool = True, **kw: Any) -> Any:
        owner = Owner(url, kw.pop("headers", None))
        link = connection_of(owner, **{"timing": FAST, **kw})
        made.append((owner, link))
        if start:
            link.start()
        return owner, link

    yield factory
    for _, link in made:
        link.stop()
        link.join(30)
        assert link.state is State.CLOSED
    gc.collect()  # a socket left open is a warning, and warnings are errors


@pytest.fixture
def gate() -> Iterator[Gates]:
    """What prompts with ``held(name)`` and ``shows(waits=True)`` wait for."""
    yield GATES
    GATES.end()


@pytest.fixture
def comfy(comfy: ComfyServer, comfy_version: object, gate: Gates) -> ComfyServer:
    """An embedded server that has the nodes with gates.

    ``comfy_version`` is named here, as pytest 8 does not find it behind a fixture of this name.
    """
    comfy.add_node(Hold)
    comfy.add_node(Gated)
    return comfy


@pytest.fixture
def fast(comfy: ComfyServer) -> Iterator[Fast]:
    """A client that asks and connects again soon."""
    with client(comfy) as api:
        yield api


@pytest.fixture
def clients(servers: list[ComfyServer]) -> Iterator[list[Fast]]:
    """A client of each server, for a pool."""
    made = [Fast(server.url) for server in servers]
    yield made
    for api in made:
        api.close()


@pytest.fixture
def quick(comfy: ComfyServer) -> Iterator[Quick]:
    """A client with no patience, which has heard all greetings."""
    with connected(comfy, Quick) as api:
        yield api
