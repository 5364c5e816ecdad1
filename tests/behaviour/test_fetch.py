"""Files that are fetched from a URL: only when asked, within limits, without our logins."""

from __future__ import annotations

import io
import socket
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from comfy_client import (
    ComfyApi,
    RequestTimeout,
    TransportError,
    UnexpectedResponse,
    Upload,
    Workflow,
)
from comfy_client.testing import ComfyServer, drip
from comfy_client.transport.deadline import Deadline
from comfy_client.transport.fetch import fetch
from tests.helpers.clients import LIMIT, client, quickly
from tests.helpers.http import HTML, PAGE, SECRET, head_of, raw_server, texts

MIB = 1 << 20
GRAPH: dict[str, Any] = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
}


@pytest.fixture
def site() -> Any:
    """Another server, which has a picture."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(file, "PNG")
    with ComfyServer() as server:
        server.on("GET", "/a.png", (200, {"Content-Type": "image/png"}, file.getvalue()))
        yield server


def test_a_url_is_fetched_when_it_is_asked_for(
    comfy: ComfyServer, fast: ComfyApi, site: ComfyServer
) -> None:
    """Named by its content; for a workflow once, however often that is submitted."""
    url = f"{site.url}/a.png?size=big"
    with pytest.raises(ValueError, match="fetch=True"):
        fast.upload_image(url)
    assert not site.requests
    name = fast.upload_image(url, fetch=True).name
    assert (comfy.root / "input" / name).read_bytes().startswith(b"\x89PNG")
    workflow = Workflow(GRAPH)
    workflow["1"]["image"] = Upload(url, fetch=True)
    for _ in range(3):
        result = fast.run(workflow, timeout=LIMIT)
        assert result.graph["1"]["inputs"]["image"] == name
    assert [one.query for one in site.requests] == [{"size": "big"}] * 2


def test_fetch_sends_no_login_header_or_cookie_of_ours(
    comfy: ComfyServer, site: ComfyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No login, no header, no cookie; nor what a .netrc has for the host."""
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine 127.0.0.1 login me password {SECRET}\n")
    monkeypatch.setenv("NETRC", str(netrc))
    site.on("GET", "/moved", (302, {"Location": "/a.png", "Set-Cookie": f"a={SECRET}"}, None))
    with client(comfy, credentials=("me", SECRET), headers={"X-Key": SECRET}, user="me") as api:
        api.upload_image(f"{site.url}/moved", fetch=True)
    for request in site.requests:
        assert request.headers.keys() <= {"Host", "User-Agent", "Accept", "Accept-Encoding"}


def test_a_login_in_the_url_is_for_its_host_alone(fast: ComfyApi, site: ComfyServer) -> None:
    """A redirect does not carry it on, and no message shows it."""
    with ComfyServer() as other:
        other.on("GET", "/x", (302, {"Location": f"{site.url}/a.png"}, None))
        other.on("GET", "/y", (404, {}, None))
        with_login = other.url.replace("//", f"//me:{SECRET}@")
        fast.upload_image(f"{with_login}/x", fetch=True)
        assert other.requests[0].headers["Authorization"].startswith("Basic ")
        assert "Authorization" not in site.requests[0].headers
        with pytest.raises(UnexpectedResponse, match=f"GET {other.url}/y: 404") as caught:
            fast.upload_image(f"{with_login}/y?token={SECRET}", fetch=True)
    assert SECRET not in texts(caught.value)


@pytest.mark.parametrize(
    ("answer", "error", "told"),
    [
        ((404, {}, None), UnexpectedResponse, "404"),
        ((200, HTML, PAGE), UnexpectedResponse, "a web page rather than a file"),
        ((302, {"Location": "/x"}, None), UnexpectedResponse, "more than 5 redirects"),
        ((302, {"Location": "file:///etc/passwd"}, None), UnexpectedResponse, "invalid URL"),
        ((302, {"Location": "http://["}, None), UnexpectedResponse, "invalid URL"),
    ],
)
def test_answers_that_are_no_file_are_refused_by_fetch(
    fast: ComfyApi,
    site: ComfyServer,
    answer: Any,
    error: type[Exception],
    told: str,
) -> None:
    """Nor are redirects followed for ever; nothing is uploaded then."""
    site.on("GET", "/x", answer)
    with quickly(), pytest.raises(error, match=told):
        fast.upload_image(f"{site.url}/x", fetch=True)


@pytest.mark.parametrize(
    ("answer", "seconds", "error", "told"),
    [
        ((200, {}, b"x" * (MIB + 1)), LIMIT, UnexpectedResponse, "more than 1 MiB"),
        (drip((200, {}, b"x" * 900), pause=0.5), 0.5, RequestTimeout, "in time"),
    ],
)
def test_fetch_has_limits_of_size_and_time(
    site: ComfyServer, answer: Any, seconds: float, error: type[Exception], told: str
) -> None:
    """Of size and time."""
    site.on("GET", "/x", answer)
    with quickly(), pytest.raises(error, match=told):
        fetch(f"{site.url}/x", io.BytesIO(), Deadline.after(seconds), most=MIB)


def test_a_site_that_is_not_there_is_an_error_about_it(fast: ComfyApi, site: ComfyServer) -> None:
    """And none about the ComfyUI; also if the connection ends amid the file."""

    def cut(connection: socket.socket) -> None:
        head_of(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")

    with raw_server(cut) as port, pytest.raises(TransportError) as caught:
        fast.upload_image(f"http://127.0.0.1:{port}/a.png", fetch=True)
    assert type(caught.value) is TransportError
    url = site.url
    site.stop()
    with pytest.raises(TransportError, match=f"{url}/a.png: connection refused$") as caught:
        fast.upload_image(f"{url}/a.png", fetch=True)
    assert type(caught.value) is TransportError
