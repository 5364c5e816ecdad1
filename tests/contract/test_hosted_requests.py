"""Hundreds of odd requests: the embedded proxy answers as the real one does.

The real one stands before an embedded ComfyUI, so that only the proxy can make a difference.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest
import requests

from comfy_client.testing import ComfyServer
from tests.comfy_api_proxy import ComfyApiProxy
from tests.helpers.clients import until
from tests.helpers.records import graph

pytestmark = pytest.mark.real

#: What differs between two servers.
TOKENS = (
    (r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", "UUID"),
    (r"eyJ[\w=-]+\.[\w-]+", "TOKEN"),
    (r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00", "TIME"),
    (r"blake3:[0-9a-f]{64}", "HASH"),
)
OTHER_HEADERS = ("date", "server", "content-length")
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH")
PATHS = (
    *("/api/v2/jobs", "/api/v2/health", "/api/v2/assets", "/api/v2/assets/from-hash"),
    *("/api/v2/assets/from-path", "/api/v2/assets/by-hash/x", "/", "/api/v2/", "/api/v2", "/api"),
    *("/api/v2/jobs/", "/queue", "/api/queue", "/api/v2/jobs/x/y", "/ws"),
    *(f"/api/v2/jobs/JOB{end}" for end in ("", "/workflow", "/cancel", "/events", "/x")),
    *(f"/api/v2/assets/OUTPUT{end}" for end in ("/content", "/x")),
)
QUERIES = (
    *("limit=", "limit=1.5", "limit=%201", "limit=-1", "limit=100", "limit=1&limit=2", "limit=١"),
    *("status=", "status=,", "status=succeeded,", "status=SUCCEEDED", "status=%20succeeded%20"),
    *("status=canceling", "status=succeeded&status=failed", "status=a,b"),
    *("cursor=", "metadata=x", "offset=x"),
)
NAMED = "11111111-2222-4333-8444-555555555555"
IDS = (
    *(f"%7B{NAMED}%7D", NAMED.replace("-", ""), "ABCDEF01-2222-4333-8444-555555555555"),
    *(f"urn:uuid:{NAMED}", "..", "%2e%2e", "a%2Fb", "a?b", "%00", "%ff", "x" * 300, "1234"),
    *("eyJqIjoxfQ.x", "eyJqIjoxfQ.", "a.b.c", ".", "a.", "..a", "%ff.a", "é.é"),
)
RANGES = (
    *(
        "bytes=0-",
        "bytes=0-0",
        "bytes=1-0",
        "bytes=-1",
        "bytes=-0",
        "bytes=-99999",
        "bytes=0-99999",
    ),
    *("bytes= 0-5", "Bytes=0-5", "bytes=0-5,", "bytes=,0-5", "bytes", "bytes=", "bytes=a-b"),
    *("items=0-5", "bytes=99999-", "bytes=0-1,2-3", "", "bytes=-", "bytes=0-5 "),
)
BODIES = (
    *("null", "1", '"x"', "[]", "[1]", "{}", "true", '{"workflow":null}', '{"workflow":"x"}'),
    '{"workflow":{"nodes":[],"links":[]}}',
    '{"workflow":{"nodes":{},"links":[]}}',
    '{"workflow":{"nodes":[]}}',
    '{"workflow":{"1":null}}',
    '{"workflow":{"1":{}}}',
    '{"workflow":{"1":{"class_type":"SaveImage"}}}',
    '{"workflow":{"1":{"class_type":1,"inputs":{}}}}',
    '{"workflow":{"1":[]}}',
    '{"workflow":{"a":{"class_type":"SaveImage","inputs":{"images":["b",0]}}}}',
    *('{"workflow":{}}', '{"workflow":{"1":"x"}}', "\xff\xfe", '{"workflow":{}} x', "NaN", ""),
    '{"workflow":{"1":{"class_type":"EmptyImage","inputs":{"width":NaN}}}}',
)
METADATA: tuple[Any, ...] = (None, "", 1, [], {}, "é" * 512, "é" * 513)
EXTRA_DATA: tuple[Any, ...] = (None, [], {}, {"client_id": "x"})
#: Fields besides the workflow.
FIELDS: tuple[dict[str, Any], ...] = (
    *({"metadata": value} for value in METADATA),
    *({"priority": value} for value in (None, True, 1.0, 10**6, 10**6 + 1, -(10**6), "x")),
    *({"extra_data": value} for value in EXTRA_DATA),
    *({"extra_data": {"api_key_comfy_org": value}} for value in ("x", 1, None)),
    *({name: value} for name in ("webhook_url", "inputs") for value in (None, "", 0)),
    *({"prompt": 1}, {"metadata": "x", "priority": "y"}, {"metadata": 1, "extra_data": []}),
)
KEYS = ("a" * 255, "a" * 256, "é", "a b", "0", "a", "")
FILE_PATHS = (
    *(
        "a.png",
        "input/a.png",
        "input/sub/a.png",
        "input",
        "input/",
        "models",
        "models/",
        "models/x",
    ),
    *("loras/x.safetensors", "models/loras/x.safetensors", "models/loras"),
    "checkpoints/x.ckpt",
    *("./a.png", "a/./b.png", "input/./b.png", "input//b.png", "//a", "a//b", "..", "a/..", "..."),
    *("a b.png", "é.png", "a\\b.png", "C:\\x", "output/a.png", "temp/x.png", "x" * 300, ".hidden"),
    *("a.png/", "input/a.png/", "  a.png  ", "models/input/x.png", "models/models/loras/x", ""),
)
REFERENCES: tuple[Any, ...] = ({"id": 1}, {"id": "x"}, {"hash": "x"}, {"hash": 1}, [], "", None, {})
PAGES: tuple[dict[str, str], ...] = (
    # Not null, an empty one or one without a host: the embedded server refuses these.
    *({"Origin": value} for value in ("http://localhost", "http://127.0.0.1")),
    *({"Origin": value} for value in ("https://evil.example", "http://127.0.0.1:1")),
    *({"Sec-Fetch-Site": value} for value in ("cross-site", "same-site")),
)


@attrs.frozen
class Proxy:
    """A proxy, its ComfyUI, and a job that has ended."""

    url: str
    comfyui: str
    job: str
    output: str

    def ask(self, method: str, path: str, **options: Any) -> Any:
        """What it answers, without what differs between two servers."""
        path = path.replace("JOB", self.job).replace("OUTPUT", self.output)
        answer = requests.request(
            method, self.url + path, timeout=60, allow_redirects=False, **options
        )
        try:
            body = json.dumps(answer.json(), sort_keys=True)
        except ValueError:
            body = answer.text
        headers = {name.lower(): value for name, value in answer.headers.items()}
        kept = {name: value for name, value in headers.items() if name not in OTHER_HEADERS}
        return answer.status_code, self._plain(body), self._plain(json.dumps(kept, sort_keys=True))

    @property
    def is_busy(self) -> bool:
        """Whether its ComfyUI has work."""
        queue = requests.get(f"{self.comfyui}/queue", timeout=60).json()
        return bool(queue["queue_running"] or queue["queue_pending"])

    def _plain(self, text: str) -> str:
        for url, word in ((self.url, "PROXY"), (self.comfyui, "COMFYUI")):
            text = text.replace(url, word).replace(url.partition("//")[2], word)
        for pattern, word in TOKENS:
            text = re.sub(pattern, word, text)
        return text


def proxy(url: str, comfyui: str) -> Proxy:
    """A proxy whose first job has ended."""
    jobs = f"{url}/api/v2/jobs"
    job = requests.post(jobs, json={"workflow": graph()}, timeout=60).json()["id"]
    found: list[Any] = []

    def has_ended() -> bool:
        found.append(requests.get(f"{jobs}/{job}", timeout=60).json())
        return bool(found[-1]["outputs"])

    until(has_ended)
    return Proxy(url, comfyui, job, found[-1]["outputs"][0]["id"])


@pytest.fixture(scope="module", params=["0.3.75", "0.33"])
def both(request: pytest.FixtureRequest) -> Iterator[tuple[Proxy, Proxy]]:
    """The real proxy before an embedded ComfyUI, and the embedded one."""
    version = request.param
    with (
        ComfyServer(version=version) as behind,
        ComfyApiProxy(behind.url) as real,
        ComfyServer(version=version, hosted="proxy") as embedded,
    ):
        yield proxy(real.url, behind.url), proxy(embedded.url, embedded.comfyui_url)


def same(both: tuple[Proxy, Proxy], method: str, path: str, **options: Any) -> str | None:
    """Say how two answers differ; None if they do not."""
    real, ours = (one.ask(method, path, **options) for one in both)
    return None if real == ours else f"{method} {path} {options}\n  real {real}\n  ours {ours}"


Ask = Callable[[tuple[Proxy, Proxy]], Iterator[str | None]]


def routes(both: tuple[Proxy, Proxy]) -> Iterator[str | None]:
    for path in PATHS:
        for method in METHODS:
            yield same(both, method, path)
    for query in QUERIES:
        yield same(both, "GET", f"/api/v2/jobs?{query}")


def ids(both: tuple[Proxy, Proxy]) -> Iterator[str | None]:
    for one in IDS:
        for end in ("", "/workflow", "/events"):
            yield same(both, "GET", f"/api/v2/jobs/{one}{end}")
        yield same(both, "POST", f"/api/v2/jobs/{one}/cancel")
        for end in ("", "/content"):
            yield same(both, "GET", f"/api/v2/assets/{one}{end}")
        yield same(both, "DELETE", f"/api/v2/assets/{one}")
        yield same(both, "HEAD", f"/api/v2/assets/by-hash/{one}")


def ranges(both: tuple[Proxy, Proxy]) -> Iterator[str | None]:
    for one in RANGES:
        for method in ("GET", "HEAD"):
            path = "/api/v2/assets/OUTPUT/content"
            yield same(both, method, path, headers={"Range": one})


def bodies(both: tuple[Proxy, Proxy]) -> Iterator[str | None]:
    for body in BODIES:
        data = body.encode("latin-1")
        for kind in ("application/json", "text/html; charset=utf-16", ""):
            yield same(both, "POST", "/api/v2/jobs", data=data, headers={"Content-Type": kind})
        for end in ("from-hash", "from-path"):
            yield same(both, "POST", f"/api/v2/assets/{end}", data=data)


def fields(both: tuple[Proxy, Proxy]) -> Iterator[str | None]:
    for more in FIELDS:
        yield same(both, "POST", "/api/v2/jobs", json={"workflow": graph(), **more})
    for key in KEYS:
        headers = {"Idempotency-Key": key.encode()}
        for workflow in ({}, 1, {"1": None}, graph(), graph()):
            yield same(both, "POST", "/api/v2/jobs", json={"workflow": workflow}, headers=headers)


def uploads(both: tuple[Proxy, Proxy]) -> Iterator[str | None]:
    def upload(*parts: tuple[str, str], kind: str | None = "image/png") -> str | None:
        file = ("f.png", json.dumps([parts, kind]).encode(), kind)
        files = [("file", file), *((name, (None, value)) for name, value in parts)]
        return same(both, "POST", "/api/v2/assets", files=files)

    for path in FILE_PATHS:
        yield upload(("file_path", path))
    yield upload()
    yield upload(("file_path", "x.png"), kind=None)
    for name in ("content_type", "expected_hash", "tags", "expires_in", "file_path"):
        for value in ("", "x", "60"):
            yield upload(("file_path", "y.png"), (name, value))
    head = b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\nabc'
    for data in (head, head + b"\r\n--x--\r\n", b"junk", b""):
        for kind in ("multipart/form-data; boundary=x", "multipart/form-data", "multipart/mixed"):
            yield same(both, "POST", "/api/v2/assets", data=data, headers={"Content-Type": kind})
    yield same(both, "POST", "/api/v2/assets", json={})


def references(both: tuple[Proxy, Proxy]) -> Iterator[str | None]:
    for info in REFERENCES:
        workflow = {
            "1": {"class_type": "LoadImage", "inputs": {"image": _asset(info)}},
            "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
        }
        yield same(both, "POST", "/api/v2/jobs", json={"workflow": workflow})
    nested = {"1": {"__type": "core/ASSET"}, "2": [_asset({"id": "a"}), _asset({"id": "b"})]}
    yield same(both, "POST", "/api/v2/jobs", json={"workflow": nested})


def _asset(info: Any) -> dict[str, Any]:
    return {"__type": "core/ASSET", "info": info}


def pages(both: tuple[Proxy, Proxy]) -> Iterator[str | None]:
    for headers in PAGES:
        yield same(both, "GET", "/api/v2/health", headers=headers)
        yield same(both, "OPTIONS", "/api/v2/jobs", headers=headers)


@pytest.mark.parametrize(
    "ask",
    [routes, ids, ranges, bodies, fields, uploads, references, pages],
    ids=lambda function: function.__name__,
)
def test_real_and_embedded_proxy_answer_alike(both: tuple[Proxy, Proxy], ask: Ask) -> None:
    until(lambda: not any(one.is_busy for one in both))
    found = list(ask(both))
    assert found
    assert not [one for one in found if one]
