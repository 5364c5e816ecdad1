"""Recordings hold no secret."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from comfy_client import (
    BearerCredentials,
    ComfyApi,
    ComfyError,
    EnvCredentials,
    HeaderCredentials,
    JobFailed,
    QueryCredentials,
)
from comfy_client.recording.recorder import MAX_BODY
from comfy_client.testing import ComfyServer, Request
from tests.conftest import examples
from tests.helpers.clients import Quick, until
from tests.helpers.records import graph, rows, so_far, texts

SECRET = "hunter2-geheim"


def assert_nowhere(secret: str, path: Path) -> None:
    """Neither as it is nor in any of its disguises."""
    raw = path.read_text(encoding="ascii")
    found = [text for row in rows(path) for text in texts(row)]
    pair = base64.b64encode(f"me:{secret}".encode()).decode()
    for word in (secret, pair, requests.utils.quote(secret, safe=""), json.dumps(secret)[1:-1]):
        assert word not in raw
        assert not [text for text in found if word in text], word


def echo(server: ComfyServer, request: Request) -> tuple[int, dict[str, str], Any]:
    """The worst server: it repeats all that it got, in every way."""
    said: dict[str, Any] = {
        "target": request.target,
        "query": dict(request.query),
        "headers": dict(request.headers),
        "body": request.body.decode("utf-8", "replace"),
    }
    authorization = request.headers.get("Authorization", "")
    if authorization.startswith("Basic "):
        said["pair"] = base64.b64decode(authorization[6:]).decode("utf-8", "replace")
    for name in ("me", "api_key"):
        said[name] = list(said["headers"].values())
    text = json.dumps(said)
    picture = b"\x89PNG\r\n\x1a\n" + repr(said).encode()
    for link in server.sockets:
        server.push({"type": "logs", "data": said}, to=link.client_id)
        server.push_binary(bytes(3) + b"\1" + bytes(3) + b"\1" + picture, to=link.client_id)
    headers = {"ETag": text.encode("ascii", "replace").decode().replace("\n", "")}
    if request.path.endswith("picture"):
        return 200, {"Content-Type": "image/png", **headers}, picture
    if request.path.endswith("page"):
        return 403, {"Content-Type": "text/html"}, f"<p>{text}</p>"
    return 200, headers, said


def session(**settings: Any) -> requests.Session:
    """A Session of the user's own."""
    made = requests.Session()
    for name, value in settings.items():
        setattr(made, name, value)
    return made


#: Where a user may put a secret into the making of a client.
PLACES: dict[str, Callable[[str], dict[str, Any]]] = {
    "pair": lambda s: {"credentials": ("me", s)},
    "bearer": lambda s: {"credentials": BearerCredentials(s)},
    "header": lambda s: {"credentials": HeaderCredentials({"X-Key": s})},
    "query": lambda s: {"credentials": QueryCredentials("k", s)},
    "callable": lambda s: {"credentials": lambda: ("me", s)},
    "environment": lambda s: {"credentials": EnvCredentials("COMFY_TEST_TOKEN", "query", "k")},
    "headers": lambda s: {"headers": {"X-Any": s}},
    "agent": lambda s: {"headers": {"User-Agent": s}},
    "cookie header": lambda s: {"headers": {"Cookie": f"a=b; session={s}"}},
    "session auth": lambda s: {"session": session(auth=("me", s))},
    "session headers": lambda s: {"session": session(headers={"X-Any": s})},
    "session params": lambda s: {"session": session(params={"any": s})},
}

in_headers = st.text(
    st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=";, "),
    min_size=8,
    max_size=24,
).filter(lambda s: len(set(s)) > 4 and any(c.isalpha() for c in s))

anything = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=8, max_size=24).filter(
    lambda s: len(set(s)) > 4 and any(c.isalpha() for c in s) and s == s.strip() and " " not in s
)

numbers = count()


@pytest.mark.parametrize("place", PLACES)
@settings(max_examples=examples(5), deadline=None, suppress_health_check=list(HealthCheck))
@given(secret=in_headers)
def test_a_secret_of_the_client_is_nowhere(
    server: ComfyServer, tmp_path: Path, usual: str, place: str, secret: str
) -> None:
    """Even if the server repeats all that it is sent, over HTTP and on the socket."""
    assume(secret not in usual)
    path = tmp_path / f"{next(numbers)}.jsonl"
    with (
        pytest.MonkeyPatch.context() as patch,
        server.on("*", "/echo*", lambda request: echo(server, request)),
    ):
        patch.setenv("COMFY_TEST_TOKEN", secret)
        with ComfyApi(server.url, record=path, **PLACES[place](secret)) as api:
            for route in ("/echo", "/echo/picture"):
                api.fetch_api(route)
            with pytest.raises(ComfyError):
                api.fetch_api("/echo/page")
            until(lambda: sum(row["kind"] == "binary" for row in so_far(path)) == 3)
    assert_nowhere(secret, path)
    assert "***" in path.read_text()


def tell(server: ComfyServer, path: Path, secret: str, name: str) -> None:
    """Send a secret in extra data, in a node's input, in a body, a query."""
    with (
        server.on("*", "/echo*", lambda request: echo(server, request)),
        ComfyApi(server.url, record=path) as api,
    ):
        extra = {"auth_token_comfy_org": secret + "1", "deep": [{name: secret + "2"}]}
        options: dict[str, Any] = {"extra_data": extra, "comfy_api_key": secret}
        result = api.run(graph(3, api_key=secret + "3"), **options)
        api.get_history(result.prompt_id)
        api.get_queue()
        result.images[0].bytes()
        api.fetch_api("/echo", params={name: secret})
        api.fetch_api("/echo", "POST", json={"a": [{name: secret}]})
        api.fetch_api("/echo", "POST", data=f'{{"{name}": "x"}}'.encode())
        until(lambda: sum(row["kind"] == "binary" for row in so_far(path)) >= 3)


@pytest.fixture
def usual(server: ComfyServer, tmp_path: Path) -> str:
    """A recording with another secret: what stands in it stands in every one."""
    path = tmp_path / "usual.jsonl"
    tell(server, path, SECRET, "api_key")
    return path.read_text(encoding="ascii")


@settings(max_examples=examples(12), deadline=None, suppress_health_check=list(HealthCheck))
@given(secret=anything, name=st.sampled_from(["api_key", "X-Auth-Token", "clientSecret"]))
def test_a_secret_in_a_request_is_nowhere(
    server: ComfyServer, tmp_path: Path, usual: str, secret: str, name: str
) -> None:
    """It is known by its name."""
    assume(secret not in usual)
    path = tmp_path / f"{next(numbers)}.jsonl"
    tell(server, path, secret, name)
    assert_nowhere(secret, path)


def test_a_secret_in_a_request_that_is_too_long_to_keep_is_known_all_the_same(
    server: ComfyServer, path: Path
) -> None:
    """The server may repeat it in an answer that is short."""
    told = server.on("POST", "/tell", (200, {}, {"said": f"you have the key {SECRET}"}))
    with told, ComfyApi(server.url, record=path) as api:
        body = {"filler": "x" * MAX_BODY, "api_key": SECRET}
        assert SECRET in api.fetch_api("/tell", "POST", json=body).text
    (row,) = [row for row in rows(path) if row.get("path") == "/api/tell"]
    assert row["response"] == {"said": "you have the key ***"}
    assert_nowhere(SECRET, path)


def test_api_keys_in_the_servers_queue_are_hidden_by_their_name(
    server: ComfyServer, path: Path
) -> None:
    """Servers before 0.3.65 show the keys of others to everyone."""
    extra = {"api_key_comfy_org": SECRET, "x": {"auth_token_comfy_org": SECRET}}
    queue = {"queue_running": [[0, "id", {}, extra, []]], "queue_pending": []}
    with (
        server.on("GET", "/queue", (200, {}, queue)),
        server.on("GET", "/history*", (200, {}, {"id": {"prompt": queue["queue_running"][0]}})),
        ComfyApi(server.url, record=path) as api,
    ):
        api.get_queue()
        api.get_histories()
        server.push({"type": "status", "data": {"extra": extra}}, to=api.client_id)
        until(lambda: so_far(path)[-1]["kind"] == "json")
    assert_nowhere(SECRET, path)


def test_settings_that_may_be_secret_are_hidden(server: ComfyServer, path: Path) -> None:
    """All texts of extensions; of ComfyUI's own, those with a name that says so."""
    with ComfyApi(server.url, record=path) as api:
        api.store_settings({"Some.Node.Login": SECRET, "Comfy.Locale": "de"})
        api.store_setting("Comfy.Server.ApiKey", SECRET)
        api.store_setting("Other", {"deep": [SECRET]})
        assert api.get_settings()["Some.Node.Login"] == SECRET
        assert api.get_setting("Comfy.Server.ApiKey") == SECRET
    assert_nowhere(SECRET, path)
    found = [r for r in rows(path) if r.get("path") == "/api/settings" and r["method"] == "GET"]
    assert found[0]["response"]["Comfy.Locale"] == "de"


def test_all_settings_are_hidden_where_a_server_sends_no_names(
    server: ComfyServer, path: Path
) -> None:
    """None says that it is no secret."""
    with (
        server.on("GET", "/settings", (200, {}, ["de", SECRET])),
        ComfyApi(server.url, record=path) as api,
    ):
        api.fetch_api("/settings")
    assert_nowhere(SECRET, path)


def test_a_secret_in_the_metadata_of_a_picture_is_hidden(server: ComfyServer, path: Path) -> None:
    """The picture stays as it is."""
    picture = b"\xff\xd8\xff\xe0" + bytes(300)
    metadata = json.dumps({"node_id": "3", "api_key": SECRET}).encode()
    data = (4).to_bytes(4, "big") + len(metadata).to_bytes(4, "big") + metadata + picture
    with ComfyApi(server.url, record=path) as api:
        server.push_binary(data, to=api.client_id)
        until(lambda: [row for row in so_far(path) if row["kind"] == "binary"])
    assert_nowhere(SECRET, path)
    [row] = [row for row in rows(path) if row["kind"] == "binary"]
    assert row["metadata"] == {"node_id": "3", "api_key": "***"}
    kept = base64.b64decode(row["data_b64"])
    assert SECRET.encode() not in kept
    assert kept.endswith(picture)
    size = int.from_bytes(kept[4:8], "big")
    assert json.loads(kept[8 : 8 + size]) == row["metadata"]


def test_the_password_of_a_proxy_is_nowhere(server: ComfyServer, path: Path) -> None:
    """Nor the header that it becomes, when the proxy repeats it."""
    proxy = server.url.replace("//", f"//me:{SECRET}@")
    with (
        server.on("*", "*", lambda request: echo(server, request)),
        contextlib.closing(
            ComfyApi("http://comfy.example:8188", record=path, proxies={"http": proxy})
        ) as api,
    ):
        api.fetch_api("/echo")
    pair = base64.b64encode(f"me:{SECRET}".encode()).decode()
    assert pair in str([dict(request.headers) for request in server.requests])
    assert_nowhere(SECRET, path)


def test_userinfo_in_the_url_of_the_server_is_nowhere(server: ComfyServer, path: Path) -> None:
    """Nor in what the server says about itself."""
    url = server.url.replace("//", f"//me:{SECRET}@")
    with (
        server.on("GET", "/echo", lambda request: (200, {}, {"url": url, "other": "//a:bc@d/"})),
        ComfyApi(url, record=path) as api,
    ):
        api.fetch_api("/echo")
    assert_nowhere(SECRET, path)
    assert "a:bc@" not in path.read_text()


def test_cookies_are_hidden(server: ComfyServer, path: Path) -> None:
    """That which the server sets, and that which a Session brings."""
    own = session()
    own.cookies.set("id", SECRET + "-mine")
    with (
        server.on("*", "/echo*", lambda request: echo(server, request)),
        server.on("GET", "/login", (200, {"Set-Cookie": f"id2={SECRET}; Path=/"}, {})),
        ComfyApi(server.url, record=path, session=own) as api,
    ):
        api.fetch_api("/login")
        assert SECRET in api.fetch_api("/echo").text
        assert SECRET + "-mine" in api.fetch_api("/echo").text
    own.close()
    assert_nowhere(SECRET, path)


def test_credentials_that_change_are_all_hidden(path: Path) -> None:
    """The old one is secret too."""
    answers = count()

    def ask() -> BearerCredentials:
        return BearerCredentials(f"{SECRET}-{next(answers)}")

    with ComfyServer() as server:
        server.on("*", "/echo*", lambda request: echo(server, request))
        with Quick(server.url, record=path, credentials=ask) as api:
            api.fetch_api("/echo")
            server.faults.drop()
            until(lambda: sum(row["kind"] == "open" for row in so_far(path)) == 2)
            api.fetch_api("/echo")
    assert next(answers) > 2
    assert_nowhere(SECRET, path)


def test_paths_of_machines_are_as_in_the_transcripts(server: ComfyServer, path: Path) -> None:
    """Who works on a machine, and where ComfyUI lies on it, is nobody's business."""
    traceback = [
        '  File "/home/alice/dev/ComfyUI/execution.py", line 1, in f',
        '  File "/home/alice/dev/ComfyUI/custom_nodes/x.py", line 1, in f',
        '  File "/srv/venv/lib/python3.11/site-packages/torch/x.py", line 1',
        '  File "/usr/local/py/lib/python3.11/json/decoder.py", line 1',
        '  File "C:\\Users\\Alice Doe\\ComfyUI\\nodes.py", line 1',
    ]
    error = {"prompt_id": "x", "traceback": traceback}
    with ComfyApi(server.url, record=path) as api:
        server.push({"type": "execution_error", "data": error}, to=api.client_id)
        until(lambda: "execution_error" in path.read_text())
    row = next(row for row in rows(path) if row.get("msg", {}).get("type") == "execution_error")
    assert row["msg"]["data"]["traceback"] == [
        '  File "COMFY/execution.py", line 1, in f',
        '  File "COMFY/custom_nodes/x.py", line 1, in f',
        '  File "VENV/site-packages/torch/x.py", line 1',
        '  File "PYTHON/lib/python3.11/json/decoder.py", line 1',
        '  File "C:\\Users\\USER\\ComfyUI\\nodes.py", line 1',
    ]


def test_a_failure_keeps_its_traceback_otherwise(server: ComfyServer, path: Path) -> None:
    """It is what a bug report is about."""
    broken = graph(4)
    broken["1"]["inputs"]["color"] = 4

    class Broken:
        """Fails."""

        RETURN_TYPES = ()
        FUNCTION = "run"
        OUTPUT_NODE = True
        CATEGORY = "test"

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:
            return {"required": {}}

        def run(self) -> tuple[()]:
            raise RuntimeError("broken on purpose")

    server.add_node(Broken)
    with ComfyApi(server.url, record=path) as api, pytest.raises(JobFailed, match="on purpose"):
        api.run({"1": {"class_type": "Broken", "inputs": {}}})
    row = next(row for row in rows(path) if row.get("msg", {}).get("type") == "execution_error")
    assert row["msg"]["data"]["exception_message"].strip() == "broken on purpose"
    assert any("raise RuntimeError" in line for line in row["msg"]["data"]["traceback"])
