"""A hosted server's clients read no file from where the server has no business."""

from __future__ import annotations

import pickle
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import attrs
import pytest

from comfy_client import HostedApi, UnexpectedResponse
from comfy_client.hosted.dialect import HOSTED
from comfy_client.hosted.files import AssetFiles
from comfy_client.testing import ComfyServer
from tests.helpers.clients import LIMIT
from tests.helpers.http import answers, head_of, opened, raw_server, texts

#: A name that only this process knows, for a server that is not called one of this machine.
NAME = "gpu-box.example"
SIGNED = "sig=a-signature-that-nobody-may-see"


@attrs.define
class Inside:
    """A program of this machine that no server may read, with the bytes that it was sent."""

    port: int
    received: list[bytes] = attrs.field(factory=list)
    ended: threading.Semaphore = attrs.field(factory=lambda: threading.Semaphore(0))


@pytest.fixture
def inside() -> Iterator[Inside]:
    found = Inside(0)

    def handle(connection: socket.socket) -> None:
        try:
            data = connection.recv(65536)
            found.received.append(data)
            if data:
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\ninside")
        finally:
            found.ended.release()

    with raw_server(handle) as found.port:
        yield found


@pytest.fixture
def leads_here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names below ``.example`` lead to this machine; a list of those that were looked up."""
    real, asked = socket.getaddrinfo, []

    def look_up(host: Any, *args: Any, **kw: Any) -> Any:
        asked.append(host)
        here = isinstance(host, str) and host.endswith(".example")
        return real("127.0.0.1" if here else host, *args, **kw)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return asked


@pytest.fixture
def site() -> Iterator[ComfyServer]:
    with ComfyServer(allowed_hosts=[NAME]) as server:
        yield server


def named(site: ComfyServer) -> str:
    return site.url.replace("127.0.0.1", NAME)


def reads(http: Any, url: str, **options: Any) -> bytes:
    info = {"name": "a.png", "id": "asset-1", "url": url}
    return AssetFiles(http, **options).get_image(info)


SPELLINGS = [
    "127.0.0.1",
    "localhost",
    "2130706433",
    "0177.0.0.1",
    "0.0.0.0",
    "rebound.example",
]


@pytest.mark.parametrize("way", ["url", "redirect"])
@pytest.mark.parametrize("host", SPELLINGS)
@pytest.mark.usefixtures("leads_here")
def test_a_server_cannot_make_its_client_read_this_machine(
    site: ComfyServer, inside: Inside, host: str, way: str
) -> None:
    """The peer decides, not the name: it is refused before a byte of a request is sent."""
    url = f"http://{host}:{inside.port}/latest/meta-data?{SIGNED}"
    if way == "redirect":
        site.on("GET", "/api/v2/assets/asset-1/content", (302, {"Location": url}, None))
        url = "/api/v2/assets/asset-1/content"
    with opened(named(site), dialect=HOSTED) as http:
        with pytest.raises(UnexpectedResponse, match="this machine") as caught:
            reads(http, url)
        assert "allow_private_storage=True" in str(caught.value)
        assert str(inside.port) in str(caught.value)
        assert SIGNED not in texts(caught.value)
    assert inside.ended.acquire(timeout=LIMIT)
    assert inside.received == [b""]


@pytest.mark.usefixtures("leads_here")
def test_every_way_to_read_a_file_refuses(site: ComfyServer, inside: Inside, tmp_path: Any) -> None:
    """Downloads, streams, remote files, and an output that becomes an input."""
    info = {"name": "a.png", "id": "asset-1", "url": f"http://127.0.0.1:{inside.port}/"}
    with closing(HostedApi(named(site), "")) as api:
        for read in (
            lambda: api.get_image(info),
            lambda: api.has_image(info),
            lambda: api.download_image(info, tmp_path / "a.png"),
            lambda: api.open_image(info).read(1),
        ):
            with pytest.raises(UnexpectedResponse, match="this machine"):
                read()
    assert not any(inside.received)


@pytest.mark.usefixtures("leads_here")
def test_private_storage_is_read_if_the_user_allows_it(site: ComfyServer, inside: Inside) -> None:
    """Also by copies of the client, and by what a pickle of it makes."""
    info = {"name": "a.png", "url": f"http://127.0.0.1:{inside.port}/"}
    with closing(HostedApi(named(site), "", allow_private_storage=True)) as api:
        assert api.get_image(info) == b"inside"
        with closing(pickle.loads(pickle.dumps(api))) as twin:
            assert twin.get_image(info) == b"inside"


@pytest.mark.usefixtures("leads_here")
def test_the_host_of_a_server_has_its_storage_on_any_port(
    site: ComfyServer, inside: Inside
) -> None:
    """The server's peer is asked for if none is known, as after a pickle."""
    url = f"http://{NAME.upper()}:{inside.port}/"
    with opened(named(site), dialect=HOSTED) as http:
        assert reads(http, url) == b"inside"
        assert [request.path for request in site.requests] == ["/v2/jobs"]
        assert reads(http, url) == b"inside"
        assert len(site.requests) == 1


def test_a_storage_redirects_to_its_own_host_or_to_public_addresses(inside: Inside) -> None:
    """Never to another private one, whatever the user allows its server."""
    with socket.create_server(("127.0.0.2", 0)) as other, ComfyServer() as site:
        other.settimeout(LIMIT)
        far = (302, {"Location": f"http://127.0.0.2:{other.getsockname()[1]}/"}, "")
        near = (302, {"Location": f"http://localhost:{inside.port}/"}, "")
        with (
            raw_server(answers(far)) as away,
            raw_server(answers(near)) as here,
            opened(site.url, dialect=HOSTED) as http,
        ):
            for allow in (False, True):
                with pytest.raises(UnexpectedResponse, match=r"redirects to 127\.0\.0\.2"):
                    reads(http, f"http://127.0.0.1:{away}/", allow_private_storage=allow)
                with other.accept()[0] as connection:
                    assert connection.recv(1) == b""
            assert reads(http, f"http://127.0.0.1:{here}/") == b"inside"


@pytest.mark.parametrize(
    ("host", "is_fine"),
    [("storage.example", True), ("169.254.169.254", False), ("0xa9fea9fe", False), ("nas", False)],
)
def test_a_proxy_is_asked_for_no_private_storage(
    monkeypatch: pytest.MonkeyPatch, host: str, is_fine: bool
) -> None:
    """The client judges what is written, and leaves names of the internet to the proxy."""
    seen: list[bytes] = []

    def handle(connection: socket.socket) -> None:
        seen.append(head_of(connection).partition(b"\r\n")[0])
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nproxy")

    with raw_server(handle) as port:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        with opened(f"http://{NAME}", dialect=HOSTED) as http:
            if is_fine:
                assert reads(http, f"http://{host}/a") == b"proxy"
            else:
                with pytest.raises(UnexpectedResponse, match="not sent"):
                    reads(http, f"http://{host}/a")
    assert len(seen) == is_fine
