"""An embedded server on a developer's machine, and who has no business there.

What it does on purpose otherwise than ComfyUI is listed in the guide; each has a test here.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests
import websocket

from comfy_client import ComfyApi
from comfy_client.errors import JobFailed
from comfy_client.testing import ComfyServer
from tests.contract.test_differential import multipart
from tests.helpers.clients import until
from tests.helpers.graphs import canvas, node, png

LIMIT = 60.0


@pytest.fixture(scope="module", params=["0.3.75", "0.33"])
def server(request: pytest.FixtureRequest) -> Iterator[ComfyServer]:
    with ComfyServer(version=request.param) as running:
        yield running


@pytest.fixture
def outside(server: ComfyServer, tmp_path: Path) -> Path:
    """A folder that is not the server's, with a picture in it."""
    (tmp_path / "secret.png").write_bytes(png())
    return tmp_path


def asked(
    server: ComfyServer,
    path: str = "/prompt",
    headers: dict[str, str] | None = None,
    *,
    method: str = "GET",
    body: bytes | None = None,
) -> tuple[int, bytes]:
    """Status and body; the path goes out as it is."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=LIMIT)
    with contextlib.closing(connection):
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()


def dialled(server: ComfyServer, *headers: str) -> int:
    """The status of a handshake with these headers."""
    lines = [
        "GET /ws HTTP/1.1",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
        *headers,
    ]
    return said(server, *lines)


def said(server: ComfyServer, *lines: str) -> int:
    """The status of the answer to a request of just these lines."""
    with socket.create_connection(("127.0.0.1", server.port), LIMIT) as sock:
        sock.sendall("\r\n".join([*lines, "", ""]).encode())
        return int(sock.recv(12).split()[1])


# -- what is not there ------------------------------------------------------------------


def test_there_is_a_page_in_the_place_of_the_editor(server: ComfyServer):
    """Which says so."""
    assert b"An embedded ComfyUI, without its frontend" in asked(server, "/")[1]


def test_no_class_is_replaced_by_a_newer_one(server: ComfyServer):
    """Though the newest server lists which could be."""
    graph = {"1": {**node("T2IAdapterLoader", t2i_adapter_name="a"), "_meta": {"title": "t"}}}
    body = json.dumps({"prompt": graph}).encode()
    error = json.loads(asked(server, method="POST", body=body)[1])["error"]
    named = error["extra_info"].get("class_type") or error["message"]
    assert "T2IAdapterLoader" in named


# -- names ------------------------------------------------------------------------------

OURS = (
    *("localhost", "127.0.0.1", "127.9.8.7", "[::1]", "LocalHost", "localhost."),
    *("localhost:5", "127.0.0.1:80", "[::1]:8188"),
)
STRANGE = (
    *("evil.example", "evil.example:<port>", "127.0.0.1.evil.example", "localhost.evil.example"),
    *("evil.example.", "0.0.0.0:<port>", "10.0.0.5", "[::]:80", "[fe80::1]", "[::ffff:10.0.0.5]"),
    *("127.0.0.1@evil.example", "evil.example#@127.0.0.1", "localhost:x", "127.0.0.1:1:2"),
    *("[::1", "::1", "", " ", "local host", "2130706433", "0x7f.0.0.1", "\u2139ocalhost"),
)


@pytest.mark.parametrize("host", OURS)
def test_a_server_on_loopback_answers_to_the_names_of_loopback(server: ComfyServer, host: str):
    """With any port: a tunnel or a container has another."""
    assert asked(server, headers={"Host": host})[0] == 200
    assert dialled(server, f"Host: {host}") == 101


@pytest.mark.parametrize("host", STRANGE)
def test_foreign_host_names_are_refused_on_all_routes(server: ComfyServer, host: str):
    """A page can have its own name lead here; on every route, and to the socket."""
    host = host.replace("<port>", str(server.port))
    lines = f"Host: {host}", f"Origin: http://{host}"
    for path in ("/prompt", "/api/queue", "/", "/internal/logs", "/view?filename=a", "/nope"):
        assert said(server, f"GET {path} HTTP/1.1", lines[0]) in (400, 403)
        assert said(server, f"GET {path} HTTP/1.1", *lines) in (400, 403)
    assert dialled(server, lines[0]) in (400, 403)
    assert dialled(server, *lines) in (400, 403)


def test_a_second_name_makes_no_first_one_good(server: ComfyServer):
    """Whichever of the two a proxy has looked at."""
    for names in (("localhost", "evil.example"), ("evil.example", "localhost")):
        lines = [f"Host: {name}" for name in names]
        assert said(server, "GET /prompt HTTP/1.1", *lines) in (400, 403)
        assert dialled(server, *lines) in (400, 403)


def test_a_request_without_a_name_comes_from_no_browser(server: ComfyServer):
    """And is answered, as by ComfyUI."""
    assert said(server, "GET /prompt HTTP/1.0") == 200


def test_a_stranger_sees_neither_faults_nor_handlers_nor_replays(server: ComfyServer):
    """They answer in the server's place, and would tell what is in a recording."""
    with server.on("*", "*", (200, {}, "a secret")):
        status, body = asked(server, headers={"Host": "evil.example"})
        assert status == 403
        assert b"secret" not in body
        assert b"allowed_hosts" in body
        assert asked(server)[1] == b"a secret"


def test_more_names_may_be_allowed():
    """Of a proxy before it, or all; then pages of that name may ask, too."""
    page = {"Host": "comfy.example", "Origin": "https://comfy.example"}
    with ComfyServer(allowed_hosts=["Comfy.Example", "10.0.0.5"]) as server:
        assert asked(server, headers=page)[0] == 200
        assert asked(server, headers={"Host": "10.0.0.5:80"})[0] == 200
        assert asked(server)[0] == 200
        assert asked(server, headers={"Host": "evil.example"})[0] == 403
        evil = {**page, "Origin": "http://evil.example"}
        assert asked(server, headers=evil)[0] == 403
    with ComfyServer(allowed_hosts=["*"]) as server:
        for headers in ({"Host": "evil.example"}, {"Origin": "null"}, page):
            assert asked(server, headers=headers)[0] == 200


def test_a_server_that_listens_for_others_answers_to_any_name():
    """Who they are, and what they call it, it cannot know; unless it is told."""
    with ComfyServer(host="0.0.0.0") as server:
        assert asked(server, headers={"Host": "comfy.example"})[0] == 200
        assert asked(server, headers={"Origin": "null"})[0] == 403
    with ComfyServer(host="0.0.0.0", allowed_hosts=["comfy.example"]) as server:
        assert asked(server, headers={"Host": "comfy.example"})[0] == 200
        assert asked(server, headers={"Host": "evil.example"})[0] == 403


@pytest.mark.parametrize(
    ("hosts", "error"),
    [("comfy.example", TypeError), (5, TypeError), ([5], ValueError), (["a b"], ValueError)],
    ids=str,
)
def test_wrong_allowed_hosts_are_one_clear_error(hosts: Any, error: type[Exception]):
    """A text would be a list of letters."""
    with pytest.raises(error, match=r"allowed_hosts|a host looks like"):
        ComfyServer(allowed_hosts=hosts)


# -- pages ------------------------------------------------------------------------------

PAGES = (
    {"Origin": "null"},
    {"Origin": "NULL"},
    {"Origin": "file://"},
    {"Origin": ""},
    {"Origin": "http://[::1"},
    {"Origin": "http://evil.example"},
    {"Origin": "http://localhost:<port>"},
    {"Origin": "http://127.0.0.1:9"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "Cross-Site"},
    {"Origin": "http://127.0.0.1:<port>", "Sec-Fetch-Site": "cross-site"},
)


@pytest.mark.parametrize("headers", PAGES, ids=str)
def test_no_page_of_another_site_may_ask(server: ComfyServer, headers: dict[str, str]):
    """Nor one that hides where it comes from, such as a frame in a sandbox."""
    headers = {key: text.replace("<port>", str(server.port)) for key, text in headers.items()}
    assert asked(server, headers=headers)[0] == 403
    body = json.dumps({"prompt": {}}).encode()
    assert asked(server, headers=headers, method="POST", body=body)[0] == 403
    assert asked(server, headers=headers, method="OPTIONS")[0] == 403
    lines = [f"{key}: {text}" for key, text in headers.items()]
    assert dialled(server, f"Host: 127.0.0.1:{server.port}", *lines) == 403


def test_requests_of_the_same_origin_and_of_programs_are_allowed(server: ComfyServer):
    """As may who says nothing at all."""
    own = f"http://127.0.0.1:{server.port}"
    for headers in (
        {"Origin": own},
        {"Origin": own, "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
        {},
    ):
        assert asked(server, headers=headers)[0] == 200
    ws = websocket.create_connection(f"{server.url.replace('http', 'ws')}/ws", origin=own)
    ws.close()


# -- files ------------------------------------------------------------------------------

DOTS = "../" * 12


def ways_to(target: Path, base: Path) -> list[str]:
    """Names for a file outside of a folder."""
    relative = os.path.relpath(target, base)
    return [
        str(target),
        f"/{target}",
        relative,
        f"./{relative}",
        f"sub/../{relative}",
        DOTS + str(target).lstrip("/"),
        quote(relative, safe=""),
        quote(quote(relative, safe=""), safe=""),
        relative.replace("/", "\\"),
        f"{relative}\0.png",
        "link/secret.png",
        "link.png",
    ]


@pytest.fixture
def linked(server: ComfyServer, outside: Path) -> Iterator[None]:
    """Links in the server's folders that lead out."""
    folders = [
        server.root / name
        for name in (
            "input",
            "output",
            "temp",
            "user/default",
            "models/checkpoints",
            "models/loras",
        )
    ]
    for folder in folders:
        (folder / "link").symlink_to(outside)
        (folder / "link.png").symlink_to(outside / "secret.png")
        (folder / "sub").mkdir()
    yield
    for folder in folders:
        (folder / "link").unlink()
        (folder / "link.png").unlink()
        (folder / "sub").rmdir()


@pytest.mark.usefixtures("linked")
def test_no_file_outside_is_read_by_any_route(server: ComfyServer, outside: Path):
    """Whichever way it is named; each answer is an error, and has no byte of the file."""
    target = outside / "secret.png"
    (outside / "model.safetensors").write_bytes(b"\2\0\0\0\0\0\0\0{}")
    paths = []
    for base in ("input", "output", "temp"):
        for name in ways_to(target, server.root / base):
            query = quote(name, safe="")
            folder, _, last = name.rpartition("/")
            paths += [
                f"/view?filename={query}&type={base}",
                f"/view?filename={query}%20[{base}]",
                f"/view?filename={query}&type={base}&preview=webp",
                f"/view?filename={quote(last)}&subfolder={quote(folder, safe='')}&type={base}",
            ]
    for name in ways_to(target, server.root / "models/checkpoints"):
        stem = name.removesuffix(".png")
        for index in ("0", "-1", "1"):
            for one in (name, stem):
                paths.append(
                    f"/experiment/models/preview/checkpoints/{index}/{quote(one, safe='')}"
                )
        paths.append(f"/view_metadata/checkpoints?filename={quote(stem)}.safetensors")
    paths += [
        "/view_metadata/checkpoints?filename=link/model.safetensors",
        "/view_metadata/..%2F..?filename=a.safetensors",
    ]
    for name in ways_to(target, server.root / "user/default"):
        paths.append(f"/userdata/{quote(name, safe='')}")
    for name in ways_to(target, server.root / "web"):
        paths += [f"/{quote(name)}", f"/extensions/{quote(name)}"]
        paths.append(f"/extensions/core/{quote(name, safe='')}")
        paths.append(f"/extensions/{quote(os.path.dirname(name), safe='')}/secret.png")
    secret = target.read_bytes()
    for path in paths:
        status, body = asked(server, path)
        assert status >= 400, path
        assert secret not in body, path
    for path in ("/userdata?dir=link", "/userdata?dir=.&recurse=true&full_info=true"):
        assert b"secret.png" not in asked(server, path)[1]


@pytest.mark.usefixtures("linked")
@pytest.mark.parametrize("class_type", ["LoadImage", "LoadImageMask"])
def test_no_workflow_loads_a_picture_from_outside(
    server: ComfyServer, outside: Path, class_type: str
):
    """In the workflow it is refused; in what a node expands into, it fails."""
    target = outside / "secret.png"
    more = {} if class_type == "LoadImage" else {"channel": "red"}
    for name in ways_to(target, server.root / "input"):
        if "\0" in name:
            continue
        graph = {"1": node(class_type, image=name, **more)}
        graph["2"] = node("PreviewAny", source=["1", 0])
        answer = requests.post(f"{server.url}/prompt", json={"prompt": graph}, timeout=LIMIT)
        assert answer.status_code == 400, name
        assert "Invalid image file" in answer.text

    class Inner:
        RETURN_TYPES = ("*",)
        FUNCTION = "run"

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:
            return {"required": {}, "hidden": {"own": "UNIQUE_ID"}}

        def run(self, own: str) -> dict[str, Any]:
            inner = f"{own}.1"
            loader = node(class_type, image=str(target), **more)
            return {"expand": {inner: loader}, "result": ([inner, 0],)}

    server.add_node(Inner)
    graph = {"1": node("Inner"), "2": node("PreviewAny", source=["1", 0])}
    with ComfyApi(server.url) as api, pytest.raises(JobFailed, match="Invalid image file"):
        api.run(graph, timeout=LIMIT)


@pytest.mark.usefixtures("linked")
def test_uploads_and_user_data_write_nothing_outside_the_root(server: ComfyServer, outside: Path):
    """By uploads, masks, user data and workflows."""
    before = tree(outside), tree(server.root.parent, server.root.name)
    up = os.path.relpath(outside, server.root / "input")
    inside = f"{os.path.relpath(server.root / 'input', outside / 'new')}/a.png"
    for fields, name in (
        ({"subfolder": f"{up}/new"}, inside),  # where the folder is not that of the file
        ({"subfolder": str(outside / "new")}, str(server.root / "input" / "a.png")),
        ({"subfolder": str(outside)}, "a.png"),
        ({"subfolder": up}, "a.png"),
        ({"subfolder": "link"}, "a.png"),
        ({"subfolder": "link/new"}, "a.png"),
        ({}, f"{up}/a.png"),
        ({}, str(outside / "a.png")),
        ({"overwrite": "true"}, "link.png"),
        ({"overwrite": "true"}, "link/a.png"),
        ({"subfolder": "a\0b"}, "a.png"),
    ):
        for path in ("/upload/image", "/upload/mask"):
            given = {**fields, "original_ref": json.dumps({"filename": "link.png"})}
            body, headers = multipart(given, png(), name)
            asked(server, path, headers, method="POST", body=body)
    for name in ways_to(outside / "new.txt", server.root / "user/default"):
        escaped = quote(name.replace("secret", "new"), safe="")
        asked(server, f"/userdata/{escaped}", method="POST", body=b"x")
        asked(server, f"/userdata/{escaped}", method="DELETE")
        asked(server, "/userdata/a.txt", method="POST", body=b"x")
        asked(server, f"/userdata/a.txt/move/{escaped}", method="POST")
    for prefix in (f"{up}/a", str(outside / "a"), "link/a", "link/new/a"):
        graph = {"1": canvas(), "2": node("SaveImage", images=["1", 0], filename_prefix=prefix)}
        body = json.dumps({"prompt": graph}).encode()
        prompt_id = json.loads(asked(server, method="POST", body=body)[1])["prompt_id"]
        until(lambda one=prompt_id: one in server.history)
        assert server.history[prompt_id]["status"]["status_str"] == "error"
    assert before == (tree(outside), tree(server.root.parent, server.root.name))


def tree(folder: Path, name: str = "") -> Any:
    """What is in a folder; beside one of a name only the names that belong to it."""
    if name:
        return sorted(path.name for path in folder.iterdir() if name in path.name)
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def test_a_pack_of_nodes_shows_nothing_outside_of_it(server: ComfyServer, tmp_path: Path):
    """It may be a link itself, but neither links in it nor what it calls its folder lead out."""
    pack, other = tmp_path / "pack", tmp_path / "other"
    for folder in ("example_workflows", "subgraphs", "locales/en", "web"):
        (pack / folder).mkdir(parents=True)
        (pack / folder / "good.json").write_text('{"good": 1}')
    other.mkdir()
    (other / "secret.json").write_text('{"secret": 1}')
    (other / "secret.js").write_text("secret")
    for folder in ("example_workflows", "subgraphs", "locales/en", "web"):
        (pack / folder / "bad.json").symlink_to(other / "secret.json")
    (pack / "web" / "bad.js").symlink_to(other / "secret.js")
    (pack / "web" / "good.js").write_text("good")
    (pack / "__init__.py").write_text('WEB_DIRECTORY = "web"')
    project = f"[project]\nname = 'astray'\n[tool.comfy]\nweb = '{other}'\n"
    (pack / "pyproject.toml").write_text(project)
    (server.root / "custom_nodes" / "pack").symlink_to(pack)
    assert asked(server, "/api/workflow_templates/pack/good.json")[0] == 200
    assert asked(server, "/extensions/pack/good.js") == (200, b"good")
    ids = list(json.loads(asked(server, "/global_subgraphs")[1]))
    assert len(ids) == 1
    paths = ["/workflow_templates", "/i18n", "/extensions", f"/global_subgraphs/{ids[0]}"]
    paths += [
        "/extensions/pack/bad.js",
        "/extensions/pack/bad.json",
        "/extensions/astray/secret.js",
    ]
    for path in (*paths, "/api/workflow_templates/pack/bad.json"):
        assert b"secret" not in asked(server, path)[1], path
    (server.root / "custom_nodes" / "pack").unlink()


def test_names_as_on_windows_are_plain_names(server: ComfyServer):
    """On a system where they are; the file lies in the folder all the same."""
    for name in ("..\\..\\a.png", "C:\\a.png", "a.png:stream", "CON.png"):
        body, headers = multipart({}, png(), name.replace("\\", "\\\\"))
        assert asked(server, "/upload/image", headers, method="POST", body=body)[0] in (200, 400)
    assert all(path.parent == server.root / "input" for path in (server.root / "input").iterdir())
    assert not (server.root.parent / "a.png").exists()


def test_a_folder_that_is_a_link_itself_is_used(tmp_path: Path):
    """Who puts it there wants it so."""
    (tmp_path / "a.png").write_bytes(png())
    with ComfyServer() as server:
        (server.root / "input").rmdir()
        (server.root / "input").symlink_to(tmp_path)
        assert asked(server, "/view?filename=a.png&type=input")[0] == 200
