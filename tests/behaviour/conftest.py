"""An HTTP layer without proxies of the machine that tests."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from comfy_client.testing import ComfyServer
from comfy_client.transport.http import Http
from tests.helpers.http import (
    answers,
    opened,
    raw_server,
)


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
