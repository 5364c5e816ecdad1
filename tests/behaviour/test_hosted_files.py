"""Files of Comfy API v2: whole or not at all, and no secret goes where it does not belong."""

from __future__ import annotations

import io
import logging
import os
import pickle
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from PIL import Image

from comfy_client import HostedApi, OutputFile
from comfy_client.credentials import BearerCredentials
from comfy_client.errors import (
    ApiError,
    AuthenticationError,
    ClientClosed,
    ComfyError,
    NotFound,
    NotSupported,
    ServerUnreachable,
    Throttled,
    TransportError,
    UnexpectedResponse,
)
from comfy_client.hosted.dialect import HOSTED
from comfy_client.hosted.files import AssetFiles
from comfy_client.hosted.models import HostedOutput
from comfy_client.hosted.routes import HostedRoutes
from comfy_client.testing import ComfyServer
from comfy_client.transport.http import Http
from tests.helpers.clients import LIMIT, quickly
from tests.helpers.graphs import picture
from tests.helpers.hashes import hash_of, install, uninstall
from tests.helpers.http import PAGE, SECRET, answers, head_of, opened, raw_server, texts

KIB = 1 << 10
CONTENT = os.urandom(300 * KIB)
#: What a client sends to anybody.
HARMLESS = {"Host", "User-Agent", "Accept", "Accept-Encoding", "Range"}
TOKEN = BearerCredentials(SECRET)


@pytest.fixture
def hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is installed."""
    install(monkeypatch)


def connected(url: str, **options: Any) -> Any:
    options.setdefault("headers", {"X-Private": SECRET})
    return opened(url, dialect=HOSTED, credentials=TOKEN, **options)


@pytest.fixture
def site() -> Iterator[ComfyServer]:
    """The server of the API, whose answers each test sets."""
    with ComfyServer() as server:
        yield server


@pytest.fixture
def storage() -> Iterator[ComfyServer]:
    """Another server, on another port."""
    with ComfyServer() as server:
        server.on("GET", "/bucket/a.png", (200, {"Content-Type": "image/png"}, CONTENT))
        yield server


@pytest.fixture
def files(site: ComfyServer) -> Iterator[AssetFiles]:
    with connected(site.url) as http:
        yield AssetFiles(http)


def output(**fields: Any) -> dict[str, Any]:
    return {
        "name": "a.png",
        "type": "image",
        "size_bytes": 0,
        "hash": None,
        "id": "asset-1",
    } | fields


def output_file(files: AssetFiles, **fields: Any) -> OutputFile:
    """An output as a result has it."""
    raw = HostedOutput.from_json(output(**fields)).to_comfyui()
    place = {name: raw[name] for name in ("filename", "subfolder", "type")}
    return OutputFile(**place, raw=raw, files=files)


def in_seconds(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def opened_whole(file: OutputFile) -> bytes:
    with file.open() as stream:
        return stream.read()


READS: dict[str, Callable[[OutputFile, Path], bytes]] = {
    "save": lambda file, path: file.save(path / "b.png").read_bytes(),
    "bytes": lambda file, path: file.bytes(),
    "stream": lambda file, path: b"".join(chunks_of(file)),
    "open": lambda file, path: opened_whole(file),
}


def chunks_of(file: OutputFile) -> list[bytes]:
    with file.stream() as download:
        return list(download)


# -- where it is read ----------------------------------------------------------------------


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("place", ["proxy", "serverless", "cloud"])
def test_an_output_is_read_on_every_surface(place: Any, read: str, tmp_path: Path) -> None:
    """Storage of the embedded server refuses any header that was meant for the surface alone."""
    with ComfyServer(hosted=place, credentials=SECRET) as server, connected(server.url) as http:
        asset = HostedRoutes(http).upload(CONTENT, "a.bin")
        file = output_file(AssetFiles(http), **asset.raw)
        assert READS[read](file, tmp_path) == CONTENT
        assert file.exists()
        HostedRoutes(http).delete(asset.id)
        if place == "proxy":
            assert not file.exists()


def test_a_path_is_resolved_against_the_host_alone(site: ComfyServer) -> None:
    """Not against the base, whose path a gateway has added."""
    site.on("GET", "/api/v2/assets/asset-1/content", (200, {}, CONTENT))
    with connected(f"{site.url}/mounted/here") as http:
        found = AssetFiles(http).get_image(output(url="/api/v2/assets/asset-1/content"))
    assert found == CONTENT
    assert site.requests[-1].headers["Authorization"] == f"Bearer {SECRET}"


def test_a_url_that_a_gateway_does_not_know_is_no_end(site: ComfyServer) -> None:
    """A proxy behind a gateway makes URLs from Host, without the gateway's path."""
    site.on("GET", "/mounted/api/v2/assets/asset-1", (404, {}, None))
    site.on("GET", "/mounted/api/v2/assets/asset-1/content", (200, {}, CONTENT))
    with connected(f"{site.url}/mounted") as http:
        files = AssetFiles(http)
        url = f"{site.url}/api/v2/assets/asset-1/content"
        assert files.get_image(output(url=url)) == CONTENT


def test_an_id_is_enough(site: ComfyServer, files: AssetFiles) -> None:
    """And a URL alone, if it lasts."""
    site.on("GET", "/api/v2/assets/asset-1/content", (200, {}, CONTENT))
    assert files.get_image({"name": "a.png", "id": "asset-1"}) == CONTENT
    assert files.get_image({"url": f"{site.url}/api/v2/assets/asset-1/content"}) == CONTENT


@pytest.mark.parametrize(
    "url",
    [
        "ftp://127.0.0.1/a",
        "http://",
        "http://me:pw@127.0.0.1:1/a",
        "http://127.0.0.1:99999/a",
        "http://127.0.0.1/a b",
        "http://127.0.0.1/a\r\nX-Header: 1",
        "http://exa mple/a",
        "//",
        "***",
        "x" * 10_000,
        7,
        ["http://127.0.0.1/a"],
    ],
)
def test_a_url_that_leads_nowhere_is_not_followed(
    site: ComfyServer, files: AssetFiles, url: Any
) -> None:
    """The id leads to the content instead."""
    site.on("GET", "/api/v2/assets/asset-1", (404, {}, None))
    site.on("GET", "/api/v2/assets/asset-1/content", (200, {}, CONTENT))
    assert files.get_image(output(url=url)) == CONTENT


@pytest.mark.parametrize("info", [{}, {"name": "a.png"}, {"url": "ftp://x/y z"}, {"id": ".."}])
def test_a_file_without_an_asset_is_refused_at_once(
    files: AssetFiles, info: dict[str, Any]
) -> None:
    """No request is sent."""
    for ask in (files.get_image, files.has_image, files.get_path_image, files.open_image):
        with pytest.raises(ValueError, match="no file of this server"):
            ask(info)
    for wrong in (None, 7, "a.png"):
        with pytest.raises((TypeError, ValueError)):
            files.open_image(wrong)  # type: ignore[arg-type]


# -- links that expire ---------------------------------------------------------------------


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_stale_link_is_renewed_once(
    site: ComfyServer, storage: ComfyServer, files: AssetFiles, status: int
) -> None:
    """By the asset, which has a fresh one."""
    storage.on("GET", "/old", (status, {"Content-Type": "application/xml"}, "<Error/>"))
    fresh = {"id": "asset-1", "url": f"{storage.url}/bucket/a.png?sig=2"}
    site.on("GET", "/api/v2/assets/asset-1", (200, {}, fresh))
    assert files.get_image(output(url=f"{storage.url}/old?sig=1")) == CONTENT
    assert len(site.requests) == 1


@pytest.mark.parametrize(("left", "asked"), [(-1.0, ["/bucket/a.png"]), (3600.0, ["/old"])])
def test_a_link_that_has_expired_is_not_asked(
    site: ComfyServer, storage: ComfyServer, files: AssetFiles, left: float, asked: list[str]
) -> None:
    """The server says until when it is valid."""
    storage.on("GET", "/old", (200, {}, CONTENT))
    fresh = {"id": "asset-1", "url": f"{storage.url}/bucket/a.png?sig=2"}
    site.on("GET", "/api/v2/assets/asset-1", (200, {}, fresh))
    url = f"{storage.url}/old"
    assert files.get_image(output(url=url, url_expires_at=in_seconds(left))) == CONTENT
    assert [request.path for request in storage.requests] == asked


def test_a_file_that_is_gone_is_not_found(site: ComfyServer, files: AssetFiles) -> None:
    """A restarted proxy has forgotten all links; the error names the file."""
    body = {"error": {"code": "not_found", "message": "Unknown asset id.", "details": None}}
    for path in ("/api/v2/assets/asset-1", "/api/v2/assets/asset-1/content"):
        site.on("GET", path, (404, {}, body))
    given = output(url=f"{site.url}/api/v2/assets/asset-1/content")
    with pytest.raises(NotFound, match=r"a\.png") as caught:
        files.get_image(given)
    assert caught.value.reason == "not_found"
    assert not files.has_image(given)


def test_an_output_that_was_deleted_is_asked_for_once(site: ComfyServer, files: AssetFiles) -> None:
    """The server says that retrying cannot help."""
    body = {"error": {"code": "output_unavailable", "message": "gone", "details": None}}
    site.on("GET", "/api/v2/assets/asset-1/content", (404, {}, body))
    with pytest.raises(NotFound, match="gone"):
        files.get_image(output(url=f"{site.url}/api/v2/assets/asset-1/content"))
    assert len(site.requests) == 1


def test_a_url_that_leads_nowhere_is_all_that_there_is(files: AssetFiles) -> None:
    """Nothing is sent; nor is the URL shown."""
    info = {"url": f"ftp://storage.example/a?sig={SECRET}"}
    with pytest.raises(UnexpectedResponse, match="leads nowhere") as caught:
        files.get_image(info)
    assert SECRET not in texts(caught.value)
    with pytest.raises(ValueError, match="leads nowhere"):
        files.get_path_image(info)


@pytest.mark.parametrize(
    ("status", "kind", "retryable"),
    [
        (304, UnexpectedResponse, False),
        (400, ApiError, False),
        (429, Throttled, True),
        (503, ApiError, True),
    ],
)
def test_error_answers_of_storage_are_no_file(
    storage: ComfyServer, files: AssetFiles, status: int, kind: type[ComfyError], retryable: bool
) -> None:
    """With the message, but not with the XML, which repeats the request."""
    xml = {"Content-Type": "application/xml"}
    storage.on("GET", "/x", (status, xml, b"" if status == 304 else b"<Error>echo</Error>"))
    with pytest.raises(kind, match=f"/x: {status}") as caught:
        files.get_image({"url": f"{storage.url}/x"})
    assert caught.value.retryable is retryable
    assert "echo" not in str(caught.value)


# -- secrets -------------------------------------------------------------------------------


def test_storage_gets_nothing_of_ours(
    site: ComfyServer, storage: ComfyServer, files: AssetFiles, tmp_path: Path, monkeypatch: Any
) -> None:
    """No login, no header, no cookie, nor what a .netrc has for the host; by no way of reading."""
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine 127.0.0.1 login me password {SECRET}\n")
    monkeypatch.setenv("NETRC", str(netrc))
    site.on("GET", "/api/v2/assets/asset-1", (404, {"Set-Cookie": f"a={SECRET}; Path=/"}, None))
    content = "/api/v2/assets/asset-1/content"
    site.on("GET", content, (302, {"Location": f"{storage.url}/bucket/a.png"}, None))
    direct = output_file(files, url=f"{storage.url}/bucket/a.png?sig={SECRET}")
    through = output_file(files, url=f"{site.url}{content}")
    for file in (direct, through):
        for read in READS.values():
            assert read(file, tmp_path) == CONTENT
        assert file.exists()
    assert len(storage.requests) == 10
    for request in storage.requests:
        assert request.headers.keys() <= HARMLESS
    for request in site.requests:
        assert request.headers["Authorization"] == f"Bearer {SECRET}"


def test_a_redirect_back_to_us_carries_nothing(site: ComfyServer, files: AssetFiles) -> None:
    """Never across a redirect, wherever that leads."""
    site.on("GET", "/api/v2/assets/asset-1/content", (302, {"Location": "/elsewhere"}, None))
    site.on("GET", "/elsewhere", (200, {}, CONTENT))
    assert files.get_image({"id": "asset-1"}) == CONTENT
    assert site.requests[-1].headers.keys() <= HARMLESS


@pytest.mark.parametrize("other", ["localhost", "[::1]"])
def test_a_different_name_of_our_host_is_another_server(site: ComfyServer, other: str) -> None:
    """Scheme, host and port have to be the same."""
    with connected(site.url) as http, raw_server(answers((200, {}, b"x"))) as port:
        url = f"http://{other}:{port}/a"
        reached: list[str] = []

        def look_up(host: Any, *args: Any, **kw: Any) -> Any:
            reached.append(host)
            return real("127.0.0.1", *args, **kw)

        real = socket.getaddrinfo
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(socket, "getaddrinfo", look_up)
            assert AssetFiles(http).get_image({"url": url}) == b"x"
        assert reached == [other.strip("[]")]


@pytest.mark.parametrize("name", ["X-Amz-Signature", "t"])
def test_a_signed_link_is_in_no_error_log_or_repr(
    storage: ComfyServer, files: AssetFiles, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """Whatever the storage answers, whoever logs, and whatever it calls the signature."""
    caplog.set_level(logging.DEBUG)
    signature = "s1gn4ture-of-a-link-7f3a"
    url = f"{storage.url}/refused?{name}={signature}&name=a"
    echo = f"<Error><SignatureProvided>{signature}</SignatureProvided></Error>"
    storage.on("GET", "/refused", (403, {"Content-Type": "application/xml"}, echo))
    with pytest.raises(AuthenticationError) as caught:
        files.get_image({"url": url})
    assert signature not in texts(caught.value)
    storage.on("GET", "/moved", (302, {"Location": f"ftp://x/?{name}={signature}"}, None))
    with pytest.raises(UnexpectedResponse) as moved:
        files.get_image({"url": f"{storage.url}/moved?{name}={signature}"})
    assert signature not in texts(moved.value)
    storage.on("GET", "/page", (200, {"Content-Type": "text/html"}, f"{PAGE}{signature}"))
    with pytest.raises(UnexpectedResponse) as page:
        files.get_image({"url": f"{storage.url}/page?{name}={signature}"})
    assert signature not in texts(page.value)
    file = output_file(files, url=url)
    shown = [
        repr(file),
        repr(file.raw),
        str(file.to_dict()),
        file.url,
        repr(pickle.dumps(file.raw)),
    ]
    assert signature not in "".join([*shown, caplog.text])


def test_the_client_stays_secret_after_a_link_was_read(
    site: ComfyServer, storage: ComfyServer, files: AssetFiles
) -> None:
    """The own server still gets the credentials, and an error hides them."""
    files.get_image({"url": f"{storage.url}/bucket/a.png"})
    site.on("GET", "/api/v2/assets/asset-1/content", (403, {}, f"no: {SECRET}"))
    site.on("GET", "/api/v2/assets/asset-1", (404, {}, None))
    with pytest.raises(AuthenticationError) as caught:
        files.get_image({"id": "asset-1"})
    assert SECRET not in texts(caught.value)


def test_a_recording_has_no_signed_link_and_keeps_the_key_of_a_job(tmp_path: Path) -> None:
    """A link is as good as a login; the key is an id, by which a job is found again."""
    target = tmp_path / "record.jsonl"
    with ComfyServer(hosted="serverless", credentials=SECRET) as server:
        with HostedApi(server.url, SECRET, record=target) as api:
            file = api.run(picture(), timeout=LIMIT).images[0]
            assert file.bytes().startswith(b"\x89PNG")
        [request] = server.gateway.storage_requests
        key = next(r for r in server.requests if r.method == "POST").headers["Idempotency-Key"]
    recorded = target.read_text()
    assert request.query["signature"] not in recorded
    assert "&signature=***" in recorded
    assert key in recorded
    assert SECRET not in recorded


# -- redirects -----------------------------------------------------------------------------


def test_redirects_have_an_end(storage: ComfyServer, files: AssetFiles) -> None:
    """Five are followed, and no more."""
    for number in range(9):
        target = f"/{number + 1}" if number != 4 else "/bucket/a.png"
        storage.on("GET", f"/{number}", (307, {"Location": target}, None))
    assert files.get_image({"url": f"{storage.url}/0"}) == CONTENT
    storage.on("GET", "/loop", (302, {"Location": "/loop"}, None))
    with pytest.raises(UnexpectedResponse, match="more than 5 redirects"):
        files.get_image({"url": f"{storage.url}/loop"})
    assert [request.path for request in storage.requests].count("/loop") == 6


@pytest.mark.parametrize(
    "location", ["", "ftp://x/y", "http://", "javascript:alert(1)", "http://a:b"]
)
def test_a_redirect_to_nowhere_says_so(
    storage: ComfyServer, files: AssetFiles, location: str
) -> None:
    """Its target is not shown."""
    storage.on("GET", "/x", (302, {"Location": location} if location else {}, None))
    with pytest.raises(UnexpectedResponse, match="a redirect to nowhere, or from https to http"):
        files.get_image({"url": f"{storage.url}/x"})


def test_storage_behind_tls_is_trusted_as_the_server_is(
    site: ComfyServer, storage: ComfyServer, ca: trustme.CA, bundle: Path
) -> None:
    """By the same certificates; and no redirect leads from there to http."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    there = {"Location": f"{storage.url}/bucket/a.png"}
    with (
        raw_server(answers((200, {"Content-Type": "image/png"}, CONTENT)), context) as port,
        raw_server(answers((302, there, None)), context) as down,
    ):
        with connected(site.url, verify=bundle) as http:
            files = AssetFiles(http)
            assert files.get_image({"url": f"https://127.0.0.1:{port}/a"}) == CONTENT
            with pytest.raises(UnexpectedResponse, match="from https to http"):
                files.get_image({"url": f"https://127.0.0.1:{down}/a"})
        with connected(site.url) as http, pytest.raises(ServerUnreachable, match="TLS failed"):
            AssetFiles(http).get_image({"url": f"https://127.0.0.1:{port}/a"})
    assert not storage.requests


# -- interrupted downloads -----------------------------------------------------------------


def ranged(content: bytes, *cuts: int, bad: int = 416) -> Callable[[Any], Any]:
    """A handler that sends ranges, without ETag and Last-Modified.

    Its first answers are cut after so many bytes.
    """
    left = list(cuts)

    def handler(request: Any) -> Any:
        wanted = request.headers.get("Range", "bytes=0-")
        start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if start >= len(content):
            return bad, {}, None
        headers = {"Content-Type": "image/png", "Content-Length": str(len(content) - start)}
        status = 200
        if "Range" in request.headers:
            said = f"bytes {start}-{len(content) - 1}/{len(content)}"
            status, headers["Content-Range"] = 206, said
        if not left:
            return status, headers, content[start:]
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        body = content[start : start + left.pop(0)]
        request.socket.sendall(f"HTTP/1.1 {status} OK\r\n{head}\r\n".encode() + body)
        return None

    return handler


@pytest.mark.parametrize("read", READS)
def test_a_download_that_is_cut_goes_on(
    storage: ComfyServer, files: AssetFiles, tmp_path: Path, read: str
) -> None:
    """From a little before the cut, so that what has arrived can be compared."""
    storage.on("GET", "/bucket/a.png", ranged(CONTENT, 100 * KIB, 90 * KIB, 0))
    file = output_file(files, url=f"{storage.url}/bucket/a.png")
    assert READS[read](file, tmp_path) == CONTENT
    ranges = [request.headers.get("Range") for request in storage.requests]
    assert ranges == [None, *(f"bytes={start * KIB}-" for start in (36, 62, 62))]


def test_a_download_that_is_cut_at_once_goes_on(storage: ComfyServer, files: AssetFiles) -> None:
    """There is nothing to compare then but the size."""
    storage.on("GET", "/bucket/a.png", ranged(CONTENT, 0, 10))
    assert files.get_image({"url": f"{storage.url}/bucket/a.png"}) == CONTENT
    ranges = [request.headers.get("Range") for request in storage.requests]
    assert ranges == [None] * 3


@pytest.mark.parametrize("status", [416, 502])
def test_a_range_that_is_refused_starts_over(
    storage: ComfyServer, files: AssetFiles, status: int
) -> None:
    """The proxy says 502 where HTTP has 416; what arrived before is not given twice."""
    send = ranged(CONTENT, 100 * KIB)

    def handler(request: Any) -> Any:
        if "Range" in request.headers:
            return status, {}, {"error": {"code": "upstream_error", "message": "no"}}
        return send(request)

    storage.on("GET", "/bucket/a.png", handler)
    assert files.get_image({"url": f"{storage.url}/bucket/a.png"}) == CONTENT
    assert len(storage.requests) == 3


@pytest.mark.parametrize(
    "other", [CONTENT[::-1], CONTENT[:-1], CONTENT + b"x"], ids=["as long", "shorter", "longer"]
)
@pytest.mark.parametrize("has_ranges", [True, False])
def test_a_file_that_changed_meanwhile_is_not_mixed(
    storage: ComfyServer, files: AssetFiles, tmp_path: Path, other: bytes, has_ranges: bool
) -> None:
    """Whether or not it has the same size; no file appears."""
    first, then = ranged(CONTENT, 100 * KIB), ranged(other)
    asked: list[object] = []

    def handler(request: Any) -> Any:
        asked.append(request)
        if len(asked) == 1:
            return first(request)
        return then(request) if has_ranges else (200, {"Content-Type": "image/png"}, other)

    storage.on("GET", "/bucket/a.png", handler)
    file = output_file(files, url=f"{storage.url}/bucket/a.png")
    with pytest.raises(TransportError, match=f"changed after {100 * KIB} bytes"):
        file.save(tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_a_link_that_expires_during_a_download_is_renewed(
    site: ComfyServer, storage: ComfyServer, files: AssetFiles
) -> None:
    """The rest comes from the fresh one."""
    send, asked = ranged(CONTENT, 100 * KIB), []

    def once(request: Any) -> Any:
        asked.append(request)
        return send(request) if len(asked) == 1 else (403, {}, None)

    storage.on("GET", "/old", once)
    storage.on("GET", "/new", ranged(CONTENT))
    fresh = {"id": "asset-1", "url": f"{storage.url}/new"}
    site.on("GET", "/api/v2/assets/asset-1", (200, {}, fresh))
    assert files.get_image(output(url=f"{storage.url}/old")) == CONTENT
    assert [request.path for request in storage.requests] == ["/old", "/old", "/new"]


def test_a_file_can_be_read_at_any_place(storage: ComfyServer, files: AssetFiles) -> None:
    """Forwards and back, since an asset never changes."""
    storage.on("GET", "/bucket/a.png", ranged(CONTENT, bad=502))
    with files.open_image({"url": f"{storage.url}/bucket/a.png"}) as file:
        for start in (290 * KIB, 5, 280 * KIB, 0):
            file.seek(start)
            assert file.read(100) == CONTENT[start : start + 100]
        file.seek(0, os.SEEK_END)
        assert file.read() == b""


def test_a_hosted_picture_carries_its_workflow(storage: ComfyServer, files: AssetFiles) -> None:
    """Read from the file, as for any other output."""
    from PIL.PngImagePlugin import PngInfo

    info, target = PngInfo(), io.BytesIO()
    info.add_text("prompt", '{"1": {"class_type": "SaveImage", "inputs": {}}}')
    Image.new("RGB", (8, 8)).save(target, "PNG", pnginfo=info)
    storage.on("GET", "/b.png", (200, {"Content-Type": "image/png"}, target.getvalue()))
    file = output_file(files, url=f"{storage.url}/b.png")
    assert file.workflow()["1"].class_type == "SaveImage"
    assert file.pil().size == (8, 8)


# -- size and hash -------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, None, "12", -3, len(CONTENT)])
def test_a_size_is_compared_where_it_is_known(
    storage: ComfyServer, files: AssetFiles, size: Any
) -> None:
    """The proxy says 0 of every output."""
    assert files.get_image({"url": f"{storage.url}/bucket/a.png", "size_bytes": size}) == CONTENT


@pytest.mark.parametrize(
    ("size", "words"), [(7, "more than 7 bytes"), (10**9, f"{300 * KIB} bytes")]
)
def test_a_file_of_another_size_is_not_kept(
    storage: ComfyServer, files: AssetFiles, tmp_path: Path, size: int, words: str
) -> None:
    """Shorter or longer than the server said."""
    info = output(url=f"{storage.url}/bucket/a.png", size_bytes=size)
    with pytest.raises(TransportError, match=words):
        files.download_image(info, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("hashes")
def test_a_hash_is_compared_where_it_is_known(
    storage: ComfyServer, files: AssetFiles, tmp_path: Path
) -> None:
    """Hashes of other kinds say nothing to us."""
    url = f"{storage.url}/bucket/a.png"
    for fits in (
        hash_of(CONTENT),
        hash_of(CONTENT).upper().replace("BLAKE3", "blake3"),
        "md5:1",
        None,
        5,
    ):
        assert files.get_image({"url": url, "hash": fits}) == CONTENT
    with pytest.raises(TransportError, match="other bytes arrived than its hash says"):
        files.download_image({"url": url, "hash": hash_of(b"x")}, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_without_the_extra_no_hash_is_compared(
    storage: ComfyServer, files: AssetFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library is wanted for uploads, and no download fails without it."""
    uninstall(monkeypatch)
    url = f"{storage.url}/bucket/a.png"
    assert files.get_image({"url": url, "hash": hash_of(b"x")}) == CONTENT


def test_a_web_page_is_no_file(storage: ComfyServer, files: AssetFiles) -> None:
    """Such as the login page of a gateway."""
    storage.on("GET", "/bucket/a.png", (200, {"Content-Type": "text/html"}, PAGE))
    with pytest.raises(UnexpectedResponse, match="expected a file"):
        files.get_image({"url": f"{storage.url}/bucket/a.png"})


# -- names, limits and the end of a client ---------------------------------------------------


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "..", "a\\..\\b.png"])
def test_a_name_leads_out_of_no_folder(
    storage: ComfyServer, files: AssetFiles, tmp_path: Path, name: str
) -> None:
    """Whatever the server calls the file."""
    info = output(name=name, url=f"{storage.url}/bucket/a.png")
    path = files.download_image(info, f"{tmp_path}/")
    assert path.parent == tmp_path
    assert path.read_bytes() == CONTENT


def test_a_file_that_exists_is_numbered_or_skipped(
    storage: ComfyServer, files: AssetFiles, tmp_path: Path
) -> None:
    """As for every other server."""
    info = output(url=f"{storage.url}/bucket/a.png")
    names = [files.download_image(info, f"{tmp_path}/").name for _ in range(2)]
    assert names == ["a.png", "a (1).png"]
    sent = len(storage.requests)
    files.download_image(info, f"{tmp_path}/", if_exists="skip")
    assert len(storage.requests) == sent


def test_previews_and_channels_are_not_supported(files: AssetFiles) -> None:
    """Before any request."""
    for name in ("get_image", "stream_image", "get_path_image"):
        for option in ({"preview": "webp"}, {"channel": "rgb"}):
            with pytest.raises(NotSupported, match="without preview or channel"):
                getattr(files, name)({"id": "asset-1"}, **option)
    with pytest.raises(NotSupported, match="adds no mask"):
        files.upload_mask(b"x", {"id": "asset-1"})


def test_the_url_of_a_file_has_no_secret(site: ComfyServer, files: AssetFiles) -> None:
    """With an id it lasts; a signed one loses its signature."""
    assert files.get_path_image(output()) == f"{site.url}/api/v2/assets/asset-1/content"
    assert (
        files.get_path_image({"url": "https://storage.example/a?sig=1"})
        == "https://storage.example/a"
    )
    with pytest.raises(ValueError, match="does not last"):
        files.open_image(f"{site.url}/api/v2/assets/asset-1/content")


def test_results_outlive_the_client(
    site: ComfyServer, storage: ComfyServer, http_of: Callable[[], Http], tmp_path: Path
) -> None:
    """The client's own routes end, those of its results last, at both servers."""
    http = http_of()
    files = AssetFiles(http)
    site.on("GET", "/api/v2/assets/asset-1/content", (200, {}, CONTENT))
    outputs = [output_file(files), output_file(files, url=f"{storage.url}/bucket/a.png")]
    http.close()
    with pytest.raises(ClientClosed):
        files.get_image(output())
    for file in outputs:
        for read in READS.values():
            assert read(file, tmp_path) == CONTENT


@pytest.fixture
def http_of(site: ComfyServer) -> Iterator[Callable[[], Http]]:
    with connected(site.url) as http:
        yield lambda: http


@pytest.mark.parametrize("where", ["own", "storage"])
def test_close_ends_a_download_of_another_thread(
    site: ComfyServer, files: AssetFiles, http_of: Any, where: str
) -> None:
    """At storage too; it is not tried again."""
    begun = threading.Event()

    def stall(connection: socket.socket) -> None:
        head_of(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 10)
        begun.set()
        while connection.recv(4096):
            pass

    http = http_of()
    with raw_server(stall) as port:
        base = f"http://127.0.0.1:{port}"
        if where == "own":
            with connected(base) as own:
                ends_by_close(own, {"id": "asset-1"}, begun)
        else:
            ends_by_close(http, {"url": f"{base}/a"}, begun)


def ends_by_close(http: Http, info: dict[str, Any], begun: threading.Event) -> None:
    caught: list[BaseException] = []

    def read() -> None:
        try:
            AssetFiles(http).get_image(info)
        except BaseException as exc:
            caught.append(exc)

    thread = threading.Thread(target=read)
    thread.start()
    assert begun.wait(LIMIT)
    http.close()
    with quickly():
        thread.join(LIMIT)
    assert [type(exc) for exc in caught] == [ClientClosed]


def test_a_file_in_memory_has_a_limit(storage: ComfyServer, http_of: Callable[[], Http]) -> None:
    """Larger ones are streamed."""
    files = AssetFiles(http_of(), most=1000)
    info = {"url": f"{storage.url}/bucket/a.png"}
    with pytest.raises(UnexpectedResponse, match="exceeds the 1000 bytes"):
        files.get_image(info)
    with files.stream_image(info) as download:
        assert b"".join(download) == CONTENT
