"""The embedded server itself; that it is like ComfyUI is shown by the contract tests."""

from __future__ import annotations

import base64
import io
import json
import os
import ssl
import struct
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import requests
import trustme
import websocket
from PIL import Image

import comfy_client
from comfy_client import ComfyApi
from comfy_client.credentials import BasicCredentials, BearerCredentials
from comfy_client.errors import (
    AuthenticationError,
    JobFailed,
    JobInterrupted,
    PromptRejected,
    UploadTooLarge,
)
from comfy_client.testing import (
    ComfyServer,
    ProgressBar,
    check_interrupted,
    send_event,
    send_text,
)
from comfy_client.testing.steps import PromptHooks
from tests.helpers.clients import until

LIMIT = 30.0
STATUSES = "pending, in_progress, completed, failed"
TROUBLE = "500 Internal Server Error\n\nServer got itself in trouble"


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def canvas(color: int = 0, **inputs: Any) -> dict[str, Any]:
    return node("EmptyImage", **{"width": 8, "height": 8, "batch_size": 1, "color": color} | inputs)


def picture(color: int = 0, prefix: str = "a") -> dict[str, Any]:
    return {"1": canvas(color), "9": node("SaveImage", images=["1", 0], filename_prefix=prefix)}


def txt2img(seed: int = 1, text: str = "a lighthouse", **inputs: Any) -> dict[str, Any]:
    sampling = {"steps": 3, "cfg": 7.0, "sampler_name": "euler", "scheduler": "normal"}
    links = {"model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0]}
    sampling |= {"denoise": 1.0, "seed": seed, "latent_image": ["5", 0], **links, **inputs}
    return {
        "3": node("KSampler", **sampling),
        "4": node("CheckpointLoaderSimple", ckpt_name="simulated.safetensors"),
        "5": node("EmptyLatentImage", width=128, height=64, batch_size=1),
        "6": node("CLIPTextEncode", text=text, clip=["4", 1]),
        "7": node("CLIPTextEncode", text="blurry", clip=["4", 1]),
        "8": node("VAEDecode", samples=["3", 0], vae=["4", 2]),
        "9": node("SaveImage", images=["8", 0], filename_prefix="t"),
    }


def png(color: tuple[int, ...] = (1, 2, 3), size: tuple[int, int] = (8, 8)) -> bytes:
    file = io.BytesIO()
    Image.new("RGBA" if len(color) == 4 else "RGB", size, color).save(file, "PNG")
    return file.getvalue()


class Socket:
    """A bare event socket."""

    def __init__(self, server: ComfyServer, client_id: str = "") -> None:
        url = f"{server.url.replace('http', 'ws', 1)}/ws?clientId={client_id}"
        self.ws = websocket.create_connection(url, LIMIT, suppress_origin=True)

    def __enter__(self) -> Socket:
        return self

    def __exit__(self, *_: object) -> None:
        self.ws.close()

    def next(self) -> Any:
        """The next message: a dict, or bytes."""
        message = self.ws.recv()
        return message if isinstance(message, bytes) else json.loads(message)

    def until(self, event: str) -> list[Any]:
        """All messages up to an event."""
        heard = []
        while not heard or not isinstance(heard[-1], dict) or heard[-1]["type"] != event:
            heard.append(self.next())
        return heard


@pytest.fixture(scope="module")
def server() -> Iterator[ComfyServer]:
    with ComfyServer() as running:
        yield running


@pytest.fixture
def api(server: ComfyServer) -> Iterator[ComfyApi]:
    with ComfyApi(server.url) as client:
        yield client


def ask(server: ComfyServer, method: str, path: str, **options: Any) -> requests.Response:
    return requests.request(method, f"{server.url}{path}", timeout=LIMIT, **options)


# -- life -------------------------------------------------------------------------------


def test_a_server_is_there_and_runs_a_workflow():
    """From nothing to a file."""
    with ComfyServer() as server, ComfyApi(server.url) as api:
        [image] = api.run(picture(0x102030), timeout=LIMIT).images
        assert Image.open(io.BytesIO(image.bytes())).getpixel((0, 0)) == (16, 32, 48)


def test_stopping_ends_what_runs_and_closes_all_sockets():
    """At once, though the prompt would take ten minutes."""
    server = ComfyServer(step_seconds=0.05).start()
    with Socket(server, "me") as events:
        body = {"prompt": txt2img(steps=10000), "client_id": "me"}
        assert ask(server, "POST", "/prompt", json=body).status_code == 200
        events.until("progress")
        start = time.monotonic()
        server.stop()
        assert time.monotonic() - start < 5
        with pytest.raises((websocket.WebSocketException, OSError)):
            events.until("no such event")
    server.stop()


def test_a_restart_keeps_files_and_port_but_neither_queue_nor_history(server):
    """As a ComfyUI that was started again, whose temporary files are gone."""
    with ComfyServer() as server, ComfyApi(server.url) as api:
        api.run(picture(), timeout=LIMIT)
        api.upload_image(png(), "kept.png")
        api.upload_image(png(), "lost.png", type="temp")
        url = server.url
        server.restart()
        assert server.url == url
        assert api.get_histories() == {}
        assert api.get_image({"filename": "a_00001_.png"}).startswith(b"\x89PNG")
        assert (server.root / "input" / "kept.png").exists()
        assert not (server.root / "temp" / "lost.png").exists()
        [image] = api.run(picture(), timeout=LIMIT).images
        assert image.filename == "a_00002_.png"


def test_a_server_can_be_started_again():
    """It begins anew; twice at once is an error, as is to ask where it is when it is not."""
    server = ComfyServer()
    for ask_for in (lambda: server.url, lambda: server.root, lambda: server.port):
        with pytest.raises(RuntimeError, match="does not run"):
            ask_for()
    with server:
        root = server.root
        with pytest.raises(RuntimeError, match="already running at http://127"):
            server.start()
    assert "stopped" in repr(server)
    with server:
        assert server.root != root
        assert server.url in repr(server)


def test_each_use_of_a_server_raises_its_own_errors_only():
    """Not those of the one before."""

    def wrong(request: Any) -> Any:
        return 1 / 0

    def use(times: int) -> None:
        with server:
            for _ in range(times):
                server.faults.answer("GET", "/queue", wrong, times=1)
                with pytest.raises(requests.ConnectionError):
                    ask(server, "GET", "/queue")
            assert ask(server, "GET", "/queue").status_code == 200

    server = ComfyServer()
    with pytest.raises(ZeroDivisionError):
        use(1)
    use(0)


def test_a_missing_extra_is_told_with_the_way_to_get_it():
    """And the package alone can be imported without it."""
    code = "import sys; sys.modules[{!r}] = None; import comfy_client.testing as t; t.ComfyServer"
    for name in ("aiohttp", "PIL"):
        run = subprocess.run([sys.executable, "-c", code.format(name)], capture_output=True)
        told = f"(extra [testing]) needs {name}: pip install aiohttp Pillow"
        assert told.encode() in run.stderr
    code = "import sys, comfy_client.testing; sys.exit('aiohttp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# -- doors ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.mark.parametrize("as_paths", [True, False])
def test_https_and_wss(authority, tmp_path, as_paths):
    """From a context or from files; certificates are checked by the client."""
    issued = authority.issue_cert("127.0.0.1")
    ca, chain = tmp_path / "ca.pem", tmp_path / "cert.pem"
    authority.cert_pem.write_to_path(ca)
    key = tmp_path / "key.pem"
    issued.private_key_pem.write_to_path(key)
    chain.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    tls: Any = (chain, key)
    if not as_paths:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(chain, key)
    with ComfyServer(tls=tls) as server:
        assert server.url.startswith("https://")
        with ComfyApi(server.url, verify=str(ca)) as api:
            assert len(api.run(picture(), timeout=LIMIT).images) == 1


@pytest.mark.parametrize(
    ("wanted", "right", "wrong"),
    [
        (("me", "p:w"), BasicCredentials("me", "p:w"), BasicCredentials("me", "pw")),
        ("token", BearerCredentials("token"), BearerCredentials("other")),
    ],
    ids=["basic", "bearer"],
)
def test_credentials_are_asked_for_everywhere(wanted, right, wrong):
    """By HTTP and at the socket; others get a 401 with a challenge."""
    with ComfyServer(credentials=wanted) as server:
        with ComfyApi(server.url, credentials=right) as api:
            assert len(api.run(picture(), timeout=LIMIT).images) == 1
        with (
            pytest.raises(AuthenticationError),
            ComfyApi(server.url, credentials=wrong) as stranger,
        ):
            stranger.get_queue()
        for headers in ({}, {"Authorization": "Basic ?"}, {"Authorization": "nonsense"}):
            for path in ("/queue", "/ws", "/nope"):
                refused = ask(server, "GET", path, headers=headers)
                assert refused.status_code == 401
                assert "ComfyUI" in refused.headers["WWW-Authenticate"]
        with pytest.raises(websocket.WebSocketBadStatusException, match="401"):
            Socket(server)


def test_a_server_below_a_prefix():
    """Everything is there, and nothing beside it."""
    with ComfyServer(prefix="/deep/comfy") as server:
        assert server.url.endswith("/deep/comfy")
        with ComfyApi(server.url) as api:
            assert len(api.run(picture(), timeout=LIMIT).images) == 1
            assert api.get_logs()
        beside = server.url.removesuffix("/deep/comfy")
        assert requests.get(f"{beside}/queue", timeout=LIMIT).status_code == 404


def test_a_body_that_is_too_large_is_told_with_the_limit():
    """For uploads and prompts alike."""
    with ComfyServer(max_upload_size=1000) as server:
        answer = ask(server, "POST", "/prompt", data=b" " * 1001)
        assert answer.status_code == 413
        # How it goes on is up to the version of aiohttp.
        assert answer.text.startswith("Maximum request body size 1000 exceeded")
        with ComfyApi(server.url) as api:
            assert api.get_features().max_upload_size == 1000
            with pytest.raises(UploadTooLarge):
                api.upload_image(bytes(2000), "a.bin")


# -- HTTP -------------------------------------------------------------------------------


def test_what_is_not_there_is_said_as_the_real_server_says_it(server):
    """404 to GET, 405 to the rest, 500 to nonsense; by type and text."""
    gone = ask(server, "GET", "/api/nope")
    assert (gone.status_code, gone.content) == (404, b"")
    assert gone.headers["Content-Type"] == "application/octet-stream"
    other = ask(server, "POST", "/nope")
    assert (other.status_code, other.text) == (405, "405: Method Not Allowed")
    assert other.headers["Allow"] == "GET,HEAD"
    assert ask(server, "OPTIONS", "/nope").status_code == 200
    unknown = ask(server, "GET", "/models/nope")
    assert (unknown.status_code, "Content-Type" in unknown.headers) == (404, False)
    assert ask(server, "GET", "/internal/nope").text == "404: Not Found"
    for path, data in (("/prompt", b"{"), ("/queue", b""), ("/history", b'{"delete": 5}')):
        trouble = ask(server, "POST", path, data=data)
        assert (trouble.status_code, trouble.text) == (500, TROUBLE)
    assert ask(server, "POST", "/interrupt", data=b"").status_code == 200
    assert ask(server, "POST", "/prompt", data=b"[]").json()["error"]["type"] == "no_prompt"


@pytest.fixture(scope="module")
def anybodys() -> Iterator[ComfyServer]:
    """One that lets in whom ComfyUI lets in."""
    with ComfyServer(allowed_hosts=["*"]) as running:
        yield running


@pytest.mark.parametrize(
    ("origin", "host", "status"),
    [
        ("http://{here}", None, 200),
        ("http://127.0.0.1", None, 200),
        ("null", None, 200),
        ("http://127.0.0.1:9", None, 403),
        ("http://localhost:{port}", None, 403),
        ("http://evil.test", None, 403),
        ("http://evil.test", "example.org", 200),
        ("http://LOCALHOST", "localhost:5", 200),
    ],
)
def test_pages_of_other_sites_are_refused_as_by_comfyui(anybodys, origin, host, status):
    """When the server is addressed as this machine; see test_safety.py for more."""
    here = f"127.0.0.1:{anybodys.port}"
    headers = {"Origin": origin.format(here=here, port=anybodys.port), "Host": host or here}
    assert ask(anybodys, "GET", "/prompt", headers=headers).status_code == status
    assert ask(anybodys, "OPTIONS", "/prompt", headers=headers).status_code == status


def test_files_are_sent_in_parts_and_only_when_changed(server, api):
    """Range, 416, ETag."""
    name = f"{uuid.uuid4()}.png"
    api.upload_image(data := png(), name)
    path = f"/view?type=input&filename={name}"
    whole = ask(server, "GET", path)
    assert whole.content == data
    assert whole.headers["Content-Disposition"] == f'filename="{name}"'
    part = ask(server, "GET", path, headers={"Range": "bytes=2-5"})
    assert (part.status_code, part.content) == (206, data[2:6])
    outside = ask(server, "GET", path, headers={"Range": "bytes=9999-"})
    assert outside.status_code == 416
    assert outside.headers["Content-Range"] == f"bytes */{len(data)}"
    same = ask(server, "GET", path, headers={"If-None-Match": whole.headers["ETag"]})
    assert (same.status_code, same.content) == (304, b"")


def test_a_prompt_of_a_taken_number_and_id_is_queued_with_a_500(server):
    """ComfyUI's own trap: the queue compares the graphs."""
    with Socket(server, "busy") as events:
        busy = {"prompt": txt2img(seed=5, steps=10000), "client_id": "busy"}
        ask(server, "POST", "/prompt", json=busy)
        events.until("progress")
        body = {"prompt": picture(), "prompt_id": "twice", "number": 7}
        answers = [ask(server, "POST", "/prompt", json=body) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200, 500]
        queue = ask(server, "GET", "/queue").json()
        assert [item[1] for item in queue["queue_pending"]] == ["twice", "twice"]
        ask(server, "POST", "/queue", json={"delete": ["twice"]})
        assert len(ask(server, "GET", "/queue").json()["queue_pending"]) == 1
        ask(server, "POST", "/queue", json={"clear": True})
        ask(server, "POST", "/interrupt")
        events.until("execution_interrupted")


def test_what_waits_is_a_heap(server):
    """Not sorted: its first is the next, and clients must sort the rest."""
    with Socket(server, "busy") as events:
        busy = {"prompt": txt2img(seed=6, steps=10000), "client_id": "busy"}
        ask(server, "POST", "/prompt", json=busy)
        events.until("progress")
        for number in (1005, 1001, 1009, 1002):
            ask(server, "POST", "/prompt", json={"prompt": picture(), "number": number})
        pending = ask(server, "GET", "/queue").json()["queue_pending"]
        assert [item[0] for item in pending] == [1001.0, 1002.0, 1009.0, 1005.0]
        assert all(len(item) == 5 for item in pending)
        ask(server, "POST", "/queue", json={"clear": True})
        ask(server, "POST", "/interrupt")
        events.until("execution_interrupted")


# -- the event socket -------------------------------------------------------------------


def test_closing_the_old_of_two_sockets_mutes_the_new_one(server):
    """ComfyUI's own trap: the route is deleted by id."""
    old, new = Socket(server, "same"), Socket(server, "same")
    with new:
        assert old.next()["data"]["sid"] == new.next()["data"]["sid"] == "same"
        ask(server, "POST", "/queue", json={"clear": True})
        assert new.next()["type"] == "status"
        old.ws.close()
        ask(server, "POST", "/queue", json={"clear": True})
        new.ws.settimeout(0.3)
        with pytest.raises(websocket.WebSocketTimeoutException):
            new.next()


def test_a_client_without_an_id_is_given_one(server):
    """32 hexadecimal digits."""
    with Socket(server) as events:
        assert len(bytes.fromhex(events.next()["data"]["sid"])) == 16


def test_features_are_told_to_a_first_message_only(server):
    """What is no JSON object does not count as one."""
    hello = json.dumps({"type": "feature_flags", "data": {}})
    with Socket(server) as events:
        events.next()
        for message in ("{", "[]", hello, hello):
            events.ws.send(message)
        assert events.next()["type"] == "feature_flags"
        ask(server, "POST", "/queue", json={"clear": True})
        assert events.next()["type"] == "status"
    with Socket(server) as events:
        events.next()
        for message in ('{"type": "x"}', hello):
            events.ws.send(message)
        events.ws.ping()
        ask(server, "POST", "/queue", json={"clear": True})
        assert events.next()["type"] == "status"


@pytest.mark.parametrize("asks", [True, False])
def test_previews_come_with_metadata_to_those_who_ask(server, asks):
    """Before their progress then, and else after it."""
    client_id = uuid.uuid4().hex
    with Socket(server, client_id) as events:
        flags = {"supports_preview_metadata": True} if asks else {}
        events.ws.send(json.dumps({"type": "feature_flags", "data": flags}))
        events.until("feature_flags")
        prompt = txt2img(seed=int(asks) + 50)
        answer = ask(server, "POST", "/prompt", json={"prompt": prompt, "client_id": client_id})
        heard = events.until("execution_success")
    frames = [message for message in heard if isinstance(message, bytes)]
    assert len(frames) == 3
    names = ["frame" if isinstance(m, bytes) else m["type"] for m in heard]
    first = names.index("frame")
    if asks:
        assert names[first - 1 : first + 2] == ["progress_state", "frame", "progress"]
        kind, size = struct.unpack_from(">II", frames[0])
        metadata = json.loads(frames[0][8 : 8 + size])
        assert (kind, metadata["node_id"], metadata["image_type"]) == (4, "3", "image/jpeg")
        assert metadata["prompt_id"] == answer.json()["prompt_id"]
        image = frames[0][8 + size :]
    else:
        assert names[first - 1] == "progress"
        assert frames[0][:8] == struct.pack(">II", 1, 1)
        image = frames[0][8:]
    assert Image.open(io.BytesIO(image)).format == "JPEG"


def test_a_server_without_previews_sends_none():
    """As ComfyUI by default."""
    with ComfyServer(previews=False) as server, ComfyApi(server.url) as api:
        seen: list[Any] = []
        api.run(txt2img(), timeout=LIMIT, on_preview=seen.append)
        assert seen == []


def test_new_lines_of_the_log_are_sent_to_those_who_subscribed(server):
    """Until they do no more."""
    with Socket(server, "reader") as events:
        events.next()
        for enabled in (True, False):
            body = {"clientId": "reader", "enabled": enabled}
            assert ask(server, "PATCH", "/internal/logs/subscribe", json=body).ok
            ask(server, "POST", "/prompt", json={"prompt": {}})
            if enabled:
                logs = events.until("logs")[-1]["data"]
                assert "got prompt" in logs["entries"][0]["m"]
        ask(server, "POST", "/queue", json={"clear": True})
        heard = events.until("status")
        assert sum("got prompt" in str(message) for message in heard) == 0
        assert "invalid prompt" in ask(server, "GET", "/internal/logs").json()


# -- nodes of the server ----------------------------------------------------------------


def test_pixels_are_those_of_the_real_server(api):
    """Which cuts floats off to bytes, so that a negative can be one too dark."""
    negative = {
        "1": canvas(0x414243, batch_size=2),
        "2": node("ImageInvert", image=["1", 0]),
        "3": node("ImageInvert", image=["2", 0]),
        "8": node("PreviewImage", images=["3", 0]),
        "9": node("PreviewImage", images=["2", 0]),
    }
    result = api.run(negative, timeout=LIMIT)
    [dark, again] = [Image.open(io.BytesIO(f.bytes())) for f in result["9"].images]
    assert dark.getpixel((3, 3)) == again.getpixel((3, 3)) == (189, 189, 187)
    assert Image.open(io.BytesIO(result["8"].images[0].bytes())).getpixel((3, 3)) == (65, 65, 67)
    assert dark.info.keys() >= {"prompt"}


def test_pictures_are_cropped_scaled_batched_and_blended(api):
    """With the sizes and values that the arithmetic gives."""
    graph = {
        "1": canvas(0x800000, width=10, height=6),
        "2": canvas(0x004000, width=4, height=4),
        "3": node("ImageCrop", image=["1", 0], width=8, height=8, x=4, y=1),
        "4": node(
            "ImageScale",
            image=["1", 0],
            upscale_method="nearest-exact",
            width=0,
            height=3,
            crop="disabled",
        ),
        "5": node("ImageScaleBy", image=["1", 0], upscale_method="lanczos", scale_by=2.0),
        "6": node("ImageBatch", image1=["1", 0], image2=["2", 0]),
        "7": node(
            "ImageBlend", image1=["1", 0], image2=["2", 0], blend_factor=0.5, blend_mode="screen"
        ),
    }
    for source in "34567":
        graph[f"p{source}"] = node("PreviewImage", images=[source, 0])
    result = api.run(graph, timeout=LIMIT)
    sizes = {
        source: [Image.open(io.BytesIO(f.bytes())).size for f in result[f"p{source}"].images]
        for source in "34567"
    }
    assert sizes == {
        "3": [(6, 5)],
        "4": [(5, 3)],
        "5": [(20, 12)],
        "6": [(10, 6), (10, 6)],
        "7": [(10, 6)],
    }
    [blended] = result["p7"].images
    assert Image.open(io.BytesIO(blended.bytes())).getpixel((5, 3)) == (128, 31, 0)


def test_pictures_are_loaded_with_their_alpha(api, server):
    """As mask: 1 where nothing is."""
    seen: list[Any] = []

    @server.add_node
    class Masks:
        RETURN_TYPES = ()
        FUNCTION = "run"
        OUTPUT_NODE = True

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:
            return {"required": {"mask": ("MASK",)}}

        def run(self, mask: Any) -> dict[str, Any]:
            seen.append((mask[0].size, round(mask[0].getpixel((0, 0)), 3)))
            return {}

    api.upload_image(png((255, 128, 0, 51)), "alpha.png")
    api.upload_image(png((255, 128, 0)), "opaque.png")
    graph = {
        "1": node("LoadImage", image="alpha.png"),
        "2": node("LoadImage", image="opaque.png [input]"),
        "3": node("LoadImageMask", image="alpha.png", channel="green"),
        "4": node("LoadImageMask", image="alpha.png", channel="alpha"),
        "5": node("Masks", mask=["1", 1]),
        "6": node("Masks", mask=["2", 1]),
        "7": node("Masks", mask=["3", 0]),
        "8": node("Masks", mask=["4", 0]),
    }
    api.run(graph, timeout=LIMIT)
    wanted = [((8, 8), 0.8), ((8, 8), 0.8), ((8, 8), 0.502), ((64, 64), 0.0)]
    assert sorted(seen) == sorted(wanted)
    with pytest.raises(PromptRejected, match=r"gone\.png"):
        api.run({"5": graph["5"], "1": node("LoadImage", image="gone.png")}, timeout=LIMIT)


def transparent(mode: str, kind: str = "PNG") -> bytes:
    """Of one colour, which is the transparent one."""
    file = io.BytesIO()
    picture = Image.new("RGB", (8, 8), (255, 128, 0))
    if mode == "P":
        picture.quantize(2).save(file, kind, transparency=0)
    else:
        picture.save(file, kind, transparency=(255, 128, 0))
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "mask"),
    [
        (transparent("P"), ((8, 8), 1.0)),
        (transparent("P", "GIF"), ((8, 8), 1.0)),
        (transparent("RGB"), ((64, 64), 0.0)),
    ],
    ids=["palette", "GIF", "RGB"],
)
def test_pictures_with_a_transparent_colour_have_three_channels(server, api, data, mask):
    """A mask comes of a palette only."""
    seen: list[Any] = []

    class See(Base):
        INPUTS: ClassVar[dict[str, Any]] = {"mask": ("MASK",), "image": ("IMAGE",)}
        OUTPUT_NODE = True

        def run(self, mask: Any, image: Any) -> Any:
            seen.append((mask[0].size, mask[0].getpixel((0, 0)), image[0].mode))
            return {}

    (server.root / "input" / "a.png").write_bytes(data)
    server.add_node(See)
    load = node("LoadImage", image="a.png")
    see = node("See", mask=["1", 1], image=["1", 0])
    api.run({"1": load, "2": see}, timeout=LIMIT)
    assert seen == [(*mask, "RGB")]


def test_values_pass_through_primitives_and_are_shown(api):
    """Converted as the server converts them."""
    graph = {
        "1": node("PrimitiveInt", value="7"),
        "2": node("PrimitiveFloat", value=1),
        "3": node("PrimitiveStringMultiline", value="a\nb"),
        "4": node("PrimitiveBoolean", value=True),
    }
    for source in "1234":
        graph[f"p{source}"] = node("PreviewAny", source=[source, 0])
    result = api.run(graph, timeout=LIMIT)
    assert [result[f"p{source}"].texts[0] for source in "1234"] == ["7", "1.0", "a\nb", "True"]


def test_the_simulated_picture_follows_seed_and_prompt_and_says_what_it_is(api):
    """The same twice; another for another seed or prompt."""

    def drawn(**options: Any) -> bytes:
        [image] = api.run(txt2img(**options), timeout=LIMIT).images
        return Image.open(io.BytesIO(image.bytes())).tobytes()

    first = drawn(seed=7)
    assert len({first, drawn(seed=8), drawn(seed=7, text="a tower")}) == 3
    api.free_memory(free_memory=True)
    assert drawn(seed=7, steps=4) == first
    for name in ("CheckpointLoaderSimple", "CLIPTextEncode", "KSampler", "VAEDecode"):
        assert api.get_node_defs(name)[name].description.startswith("Simulated")
    assert "simulated" in api.get_system_stats().devices[0].name


def test_one_module_writes_texts_into_pictures():
    """That of workflow metadata; Pillow is not asked to."""
    package = Path(comfy_client.__file__).parent
    words = ("PngInfo", "pnginfo=", "add_text(", 'b"tEXt"')
    found = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if any(word in path.read_text(encoding="utf-8") for word in words)
    }
    assert found == {"workflow/metadata.py"}


def test_names_of_files_are_filled_in_counted_and_kept_inside(api):
    """By prefix and folder."""
    names = []
    for color in (1, 2):
        [image] = api.run(picture(color, "dir/%width%x%height%"), timeout=LIMIT).images
        names.append((image.subfolder, image.filename))
    assert names == [("dir", "8x8_00001_.png"), ("dir", "8x8_00002_.png")]
    with pytest.raises(JobFailed, match="outside"):
        api.run(picture(3, "../../out"), timeout=LIMIT)


# -- nodes of the user's ----------------------------------------------------------------


class Base:
    RETURN_TYPES: tuple[str, ...] = ("STRING",)
    FUNCTION = "run"
    INPUTS: ClassVar[Any] = {"text": ("STRING", {"default": ""})}

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": cls.INPUTS}

    def run(self, **inputs: Any) -> Any:
        return ("",)


class SaveText(Base):
    """PreviewAny, which the oldest servers lack."""

    RETURN_TYPES: tuple[str, ...] = ()
    OUTPUT_NODE = True

    def run(self, text: str) -> Any:
        return {"ui": {"text": [text]}}


def shown(api: ComfyApi, name: str, **inputs: Any) -> Any:
    """What a node hands on, as PreviewAny shows it."""
    graph = {"1": node(name, **inputs), "2": node("PreviewAny", source=["1", 0])}
    return api.run(graph, timeout=LIMIT)["2"].texts


def test_a_node_of_your_own_works_with_pictures(server, api):
    """It gets Pillow images, and may return them."""

    @server.add_node
    class Mirror(Base):
        RETURN_TYPES = ("IMAGE",)
        INPUTS: ClassVar[Any] = {"image": ("IMAGE",)}

        def run(self, image: Any) -> Any:
            assert [one.mode for one in image] == ["RGB"]
            return ([one.resize((2, 3)) for one in image],)

    graph = {"1": canvas(0x0A0B0C), "2": node("Mirror", image=["1", 0])}
    graph["9"] = node("SaveImage", images=["2", 0], filename_prefix="mine")
    [image] = api.run(graph, timeout=LIMIT).images
    assert Image.open(io.BytesIO(image.bytes())).size == (2, 3)
    definition = api.get_node_defs("Mirror")["Mirror"]
    assert definition.raw["input_order"] == {"required": ["image"]}
    assert definition.output == ("IMAGE",)


def test_a_node_of_your_own_reports_its_progress_and_is_interrupted(server, api):
    """Texts, events of any name, progress; an interrupt ends it at the next tick."""

    @server.add_node
    class Slow(Base):
        def run(self, text: str) -> Any:
            send_text(text)
            send_event("my.event", {"text": text})
            bar = ProgressBar(10_000)
            while True:
                bar.update(1)
                time.sleep(0.01)

    got: list[Any] = []
    api.on("my.event", got.append)
    graph = {"1": node("Slow", text="hello"), "2": node("PreviewAny", source=["1", 0])}
    seen: list[Any] = []
    api.on("all", seen.append)
    job = api.submit(graph)
    until(lambda: "progress" in [event.name for event in seen])
    api.interrupt(job.prompt_id)
    with pytest.raises(JobInterrupted):
        job.result(LIMIT)
    assert [event.text for event in seen if event.name == "progress_text"] == ["hello"]
    assert [event.data for event in got] == [{"text": "hello"}]


def test_a_node_of_your_own_without_progress_can_be_interrupted(server, api):
    """If it looks."""

    @server.add_node
    class Quiet(Base):
        def run(self, text: str) -> Any:
            while True:
                check_interrupted()
                time.sleep(0.01)

    job = api.submit({"1": node("Quiet", text=""), "2": node("PreviewAny", source=["1", 0])})
    until(lambda: api.get_queue().running)
    api.interrupt(job.prompt_id)
    with pytest.raises(JobInterrupted):
        job.result(LIMIT)


def test_a_node_of_your_own_is_asked_whether_it_changed(server, api):
    """By value; one that never equals itself runs each time."""
    runs: list[str] = []
    changed: list[Any] = [1]

    @server.add_node
    class Changing(Base):
        @classmethod
        def IS_CHANGED(cls, text: str) -> Any:
            return changed[0]

        def run(self, text: str) -> Any:
            runs.append(text)
            return (text,)

    for value, count in ((1, 1), (1, 1), (2, 2), (float("nan"), 3), (float("nan"), 4)):
        changed[0] = value
        assert shown(api, "Changing", text="x") == ("x",)
        assert len(runs) == count


def test_a_node_of_your_own_checks_its_inputs(server, api):
    """And what it says is in the refusal."""

    @server.add_node
    class Strict(Base):
        @classmethod
        def VALIDATE_INPUTS(cls, text: str) -> bool | str:
            return text == "yes" or f"{text} is not yes"

        def run(self, text: str) -> Any:
            return (text,)

    assert shown(api, "Strict", text="yes") == ("yes",)
    with pytest.raises(PromptRejected, match="no is not yes"):
        shown(api, "Strict", text="no")


def test_lists_coroutines_and_hidden_inputs_work_as_in_comfyui(server, api):
    """Each of a list is a call, unless the node wants the list."""

    @server.add_node
    class Words(Base):
        OUTPUT_IS_LIST = (True,)

        def run(self, text: str) -> Any:
            return (text.split(),)

    @server.add_node
    class Upper(Base):
        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:
            hidden = {"me": "UNIQUE_ID", "graph": "PROMPT"}
            return {"required": cls.INPUTS, "hidden": hidden}

        async def run(self, text: str, me: str, graph: Any) -> Any:
            return (f"{text.upper()} {me} {len(graph)}",)

    @server.add_node
    class Joined(Base):
        INPUT_IS_LIST = True

        def run(self, text: list[str]) -> Any:
            return (", ".join(text),)

    graph = {
        "1": node("Words", text="a b c"),
        "2": node("Upper", text=["1", 0]),
        "3": node("Joined", text=["2", 0]),
        "8": node("PreviewAny", source=["2", 0]),
        "9": node("PreviewAny", source=["3", 0]),
    }
    result = api.run(graph, timeout=LIMIT)
    assert result["8"].texts == ("A 2 5", "B 2 5", "C 2 5")
    assert result["9"].texts == ("A 2 5, B 2 5, C 2 5",)


def test_what_json_cannot_carry_is_a_failure_of_its_node(server, api):
    """Whoever asked for it; the next prompt runs, and history can be read."""

    @server.add_node
    class Odd(Base):
        OUTPUT_NODE = True

        def run(self, text: str) -> Any:
            return {"ui": {"text": [object()]}}

    graph = {"1": node("Odd", text="")}
    with pytest.raises(JobFailed, match="not JSON serializable"):
        api.run(graph, timeout=LIMIT)
    prompt_id = ask(server, "POST", "/prompt", json={"prompt": graph}).json()["prompt_id"]
    until(lambda: prompt_id in server.history)
    assert ask(server, "GET", f"/history/{prompt_id}").status_code == 200
    assert shown(api, "PrimitiveString", value="x") == ("x",)


def test_a_message_that_cannot_be_sent_is_kept_as_an_error(server, api):
    """The next ones are sent."""

    @server.add_node
    class Odd(Base):
        def run(self, text: str) -> Any:
            send_event("odd", object())
            return (text,)

    seen: list[Any] = []
    api.on("executed", seen.append)
    assert shown(api, "Odd", text="x") == ("x",)
    assert len(seen) == 1
    [error] = server.errors
    assert "not JSON serializable" in str(error)
    server.errors.clear()


def test_a_class_in_the_place_of_another_is_run(server, api):
    """Though the workflow is the same."""

    def says(words: str) -> Any:
        return type("Says", (Base,), {"run": lambda self, text: (words,)})

    server.add_node(SaveText)
    for words in ("one", "two"):
        server.add_node(says(words))
        graph = {"1": node("Says", text=""), "2": node("SaveText", text=["1", 0])}
        assert api.run(graph, timeout=LIMIT).texts == (words,)


def test_a_class_can_be_added_while_the_others_are_listed(server):
    """Here by one of them."""

    added: list[str] = []

    @server.add_node
    class Parent(Base):
        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:
            added.append(f"Child {len(added)}")
            server.add_node(Base, added[-1])
            return {"required": cls.INPUTS}

    assert "Parent" in ask(server, "GET", "/object_info").json()
    assert set(added) < ask(server, "GET", "/object_info").json().keys() | {added[-1]}


def test_a_class_that_falls_over_costs_its_prompt_only(server, api):
    """Not the worker, nor the definitions of the others."""
    fine = ["MainThread", "ComfyServer"]

    @server.add_node
    class Moody(Base):
        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:
            if threading.current_thread().name not in fine:
                raise ValueError("not today")
            return {"required": cls.INPUTS}

    with pytest.raises(JobFailed, match="not today"):
        shown(api, "Moody", text="x")
    fine.clear()
    assert "Moody" not in api.get_node_defs()
    assert shown(api, "PrimitiveString", value="on") == ("on",)


@pytest.mark.parametrize("end", [pytest.fail, pytest.skip, sys.exit])
def test_what_is_no_exception_fails_its_prompt_and_is_kept(server, api, end):
    """Also out of IS_CHANGED; the next prompt runs."""

    class Ending(Base):
        def run(self, text: str) -> Any:
            end("wrong picture")

    class Asking(Ending):
        @classmethod
        def IS_CHANGED(cls, text: str) -> Any:
            end("wrong picture")

    for cls in (SaveText, Ending, Asking):
        server.add_node(cls)
    for name in ("Ending", "Asking"):
        graph = {"1": node(name, text=""), "2": node("SaveText", text=["1", 0])}
        with pytest.raises(JobFailed, match="wrong picture"):
            api.run(graph, timeout=LIMIT)
        assert api.run(picture(), timeout=LIMIT).images
        [error] = server.errors
        assert str(error) == "wrong picture"
        server.errors.clear()


class Mute(Exception):
    """Has no text."""

    def __str__(self) -> str:
        raise ValueError


def test_an_error_or_an_input_without_a_text_is_told_all_the_same(server, api):
    """By its class; as of any node, it is nothing for the end of the test."""

    class Failing(Base):
        def run(self, text: str) -> Any:
            raise Mute

    class Giving(Base):
        def run(self, text: str) -> Any:
            return (Mute(),)

    for cls in (SaveText, Failing, Giving):
        server.add_node(cls)
    graph = {
        "1": node("Giving", text=""),
        "2": node("Failing", text=["1", 0]),
        "3": node("SaveText", text=["2", 0]),
    }
    with pytest.raises(JobFailed) as failed:
        api.run(graph, timeout=LIMIT)
    told = "<Mute whose text fails with ValueError>"
    assert failed.value.exception_message.strip() == told
    assert failed.value.inputs == {"text": [told]}
    assert api.run(picture(), timeout=LIMIT).images
    assert server.errors == []


def test_what_is_no_exception_in_a_check_is_kept(server, api):
    """The request is answered, and so is the next."""

    @server.add_node
    class Checking(Base):
        OUTPUT_NODE = True

        @classmethod
        def VALIDATE_INPUTS(cls, text: str) -> Any:
            sys.exit(text)

    body = {"prompt": {"1": node("Checking", text="a")}}
    assert ask(server, "POST", "/prompt", json=body).status_code == 500
    with server.on("POST", "/prompt", server.answer):
        body["prompt"]["1"]["inputs"]["text"] = "b"
        assert ask(server, "POST", "/prompt", json=body).status_code == 500
    assert [str(error) for error in server.errors] == ["a", "b"]
    assert {type(error) for error in server.errors} == {SystemExit}
    server.errors.clear()
    assert api.run(picture(), timeout=LIMIT).images


def test_a_fault_of_the_worker_itself_costs_its_prompt_only(server, api, monkeypatch):
    """Whatever it is, the test hears of it."""
    monkeypatch.setattr(PromptHooks, "keeps_history", property(lambda self: 1 / 0))
    ask(server, "POST", "/prompt", json={"prompt": picture()})
    server.until(lambda: server.errors, LIMIT)
    monkeypatch.undo()
    assert [type(error) for error in server.errors] == [ZeroDivisionError]
    server.errors.clear()
    assert api.run(picture(), timeout=LIMIT).images


def test_a_node_that_no_output_needs_may_be_anything(api):
    """Nobody looks at it."""
    loose = {"1": node("PreviewAny", source="on"), "2": {"class_type": "EmptyImage"}}
    assert api.run(loose, timeout=LIMIT).texts == ("on",)


def test_a_class_that_is_no_node_is_refused_in_words():
    """When it is added, and before the server runs, too."""
    server = ComfyServer()
    with pytest.raises(TypeError, match=r"Empty is no node class: .*INPUT_TYPES"):
        server.add_node(type("Empty", (), {}))
    with pytest.raises(TypeError, match=r"Odd is no node class: .*walk"):
        server.add_node(type("Odd", (Base,), {"FUNCTION": "walk"}))
    server.add_node(type("Fine", (Base,), {}), "Another name")
    with server, ComfyApi(server.url) as api:
        assert shown(api, "Another name", text="") == ("",)


# -- other versions ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def newer() -> Iterator[ComfyServer]:
    with ComfyServer(version="0.8", previews=False) as running:
        yield running


def test_a_newer_server_says_so(newer, server):
    """Version, system and features; an unknown one is refused."""
    with ComfyApi(newer.url) as api:
        stats = api.get_system_stats()
        assert (stats.comfyui_version, stats.os) == ("0.8.0", sys.platform)
        assert api.get_features()["extension"] == {"manager": {"supports_v4": True}}
    with pytest.raises(ValueError, match=r"one of 0\.3\.75, 0\.8, new, not '9'"):
        ComfyServer(version="9")  # type: ignore[arg-type]
    for url, status in ((newer.url, 404), (server.url, 404)):
        assert requests.get(f"{url}/jobs", timeout=LIMIT).status_code == status
    assert ask(newer, "POST", "/api/jobs/cancel", json={}).status_code == 405


def test_a_newer_server_lists_jobs(newer):
    """What runs, waits, has ended well or badly; as pages."""
    with ComfyApi(newer.url) as api:
        good = api.run(picture(), timeout=LIMIT, workflow_ui={"id": "wf", "nodes": []})
        with pytest.raises(JobFailed) as failed:
            api.run(picture(prefix="../out"), timeout=LIMIT)
        running = api.submit(txt2img(steps=10000))
        until(lambda: api.get_queue().running)
        waiting = api.submit(picture(1))
        until(lambda: api.get_queue().pending)
        page = api.get_jobs()
        assert [(job.id, job.status) for job in page.jobs] == [
            (waiting.prompt_id, "pending"),
            (running.prompt_id, "in_progress"),
            (failed.value.prompt_id, "failed"),
            (good.prompt_id, "completed"),
        ]
        assert page.total == 4
        page = api.get_jobs(["pending", "failed"], limit=1, sort_order="asc")
        assert [job.id for job in page.jobs] == [failed.value.prompt_id]
        assert page.has_more
        longest = api.get_jobs(["completed", "failed"], sort_by="execution_duration")
        assert len(longest.jobs) == 2
        assert [job.id for job in api.get_jobs(workflow_id="wf").jobs] == [good.prompt_id]
        job = api.get_job(good.prompt_id)
        assert (job.outputs_count, job.workflow_id) == (1, "wf")
        assert job.preview_output["nodeId"] == "9"
        assert job.execution_status.completed
        assert job.workflow["prompt"].keys() == picture().keys()
        assert api.get_job(failed.value.prompt_id).execution_error["node_id"] == "9"
        api.clear_queue()
        api.interrupt()
        with pytest.raises(JobInterrupted):
            running.result(LIMIT)
        stopped = until(lambda: api.get_job(running.prompt_id).execution_status and True)
        assert stopped
        job = api.get_job(running.prompt_id)
        assert (job.status, job.execution_error) == ("failed", None)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        (
            "status=bogus",
            "Invalid status value(s): bogus. Valid values: pending, in_progress, completed, failed",
        ),
        ("sort_by=bogus", "sort_by must be 'created_at' or 'execution_duration'"),
        ("sort_order=up", "sort_order must be 'asc' or 'desc'"),
        ("limit=x", "limit must be an integer"),
        ("limit=0", "limit must be a positive integer"),
        ("limit=-1", "limit must be a positive integer"),
        ("offset=x", "offset must be an integer"),
    ],
)
def test_a_newer_server_refuses_what_it_cannot_list(newer, query, words):
    """In words."""
    answer = ask(newer, "GET", f"/api/jobs?{query}")
    assert (answer.status_code, answer.json()) == (400, {"error": words})
    gone = ask(newer, "GET", "/api/jobs/unknown")
    assert (gone.status_code, gone.json()) == (404, {"error": "Job not found"})


@pytest.mark.parametrize(
    "query",
    [
        "offset=-1",
        "status=COMPLETED,Failed",
        "sort_by=Created_At",
        "sort_order=DESC",
        "workflow_id=",
    ],
)
def test_a_newer_server_lists_what_is_asked_for_in_any_case(newer, query):
    """Nor does it mind an offset that is none."""
    with ComfyApi(newer.url) as api:
        run = api.run(picture(7), timeout=LIMIT)
    answer = ask(newer, "GET", f"/api/jobs?{query}")
    assert answer.status_code == 200
    assert run.prompt_id in [job["id"] for job in answer.json()["jobs"]]
    assert answer.json()["pagination"]["offset"] == 0


@pytest.mark.parametrize("version", ["0.8", "new"])
def test_jobs_count_files_and_the_newest_ones_show_texts(version):
    """Pictures come before texts, and what is kept before what is temporary."""
    texts = {"1": node("PreviewAny", source="x" * 2000)}
    mixed = {**picture(), "2": node("PreviewAny", source="y"), "3": canvas(1)}
    mixed["4"] = node("PreviewImage", images=["3", 0])
    is_newest = version == "new"
    with ComfyServer(version=version) as server, ComfyApi(server.url) as api:
        ids = [api.run(graph, timeout=LIMIT).prompt_id for graph in (texts, mixed)]
        assert all(api.get_history(one) for one in ids)  # the last record may be on its way
        listed = {job["id"]: job for job in ask(server, "GET", "/api/jobs").json()["jobs"]}
        text, both = (listed[one] for one in ids)
    assert (text["outputs_count"], both["outputs_count"]) == (0, 2)
    excerpt = {"content": "x" * 1024, "truncated": True, "nodeId": "1", "mediaType": "text"}
    assert text.get("preview_output") == (excerpt if is_newest else None)
    assert (both["preview_output"]["nodeId"], both["preview_output"]["type"]) == ("9", "output")


@pytest.mark.parametrize(
    ("output", "version", "count", "shown"),
    [
        ({"latents": [{"filename": "a.latent"}]}, "new", 1, None),
        ({"files": [{"filename": "a.glb"}]}, "0.8", 1, "a.glb"),
        ({"files": [{"filename": "a.usdz"}]}, "0.8", 1, None),
        ({"files": [{"filename": "a.TXT", "type": "output"}]}, "new", 1, "a.TXT"),
        ({"gifs": [{"filename": "a", "format": "video/mp4"}]}, "0.8", 1, "a"),
        (
            {"text": [{"filename": "b.txt"}], "images": [{"filename": "a.png"}]},
            "new",
            2,
            "a.png",
        ),
        ({"images": [{"filename": "a.png"}], "animated": [True]}, "new", 1, "a.png"),
        ({"images": None, "text": [5]}, "new", 0, None),
    ],
    ids=str,
)
def test_a_job_is_stood_for_by_what_can_be_shown(output, version, count, shown):
    """By kind, format or ending; all files count."""
    with ComfyServer(version=version) as server:
        server.finish("a", {"9": output})
        [job] = ask(server, "GET", "/api/jobs").json()["jobs"]
    assert job["outputs_count"] == count
    assert job.get("preview_output", {}).get("filename") == shown


def test_a_prompt_may_choose_its_previews_on_newer_servers(newer, server):
    """On others they come as the server was told."""
    for where, method, count in (
        (newer, "none", 0),
        (newer, "auto", 3),
        (newer, "default", 0),
        (newer, "bogus", 0),
        (server, "none", 3),
    ):
        with ComfyApi(where.url) as api:
            seen: list[Any] = []
            api.run(
                txt2img(seed=uuid.uuid4().int % 2**32),
                timeout=LIMIT,
                preview_method=method,
                on_preview=seen.append,
            )
            assert len(seen) == count


def test_a_newer_server_checks_the_choices_of_combo_inputs(newer):
    """Which an older one does not."""
    blend = node(
        "ImageBlend", image1=["1", 0], image2=["1", 0], blend_factor=0.5, blend_mode="bogus"
    )
    graph = {"1": canvas(), "2": blend, "3": node("PreviewImage", images=["2", 0])}
    with ComfyApi(newer.url) as api, pytest.raises(PromptRejected, match="blend_mode"):
        api.run(graph, timeout=LIMIT)


@pytest.fixture(scope="module")
def newest() -> Iterator[ComfyServer]:
    with ComfyServer(version="new") as running:
        yield running


def test_the_newest_server_takes_only_uuids(newest, server):
    """Canonical ones; null is none, which others take for a name."""
    for prompt_id in ("mine", str(uuid.uuid4()).upper(), f"urn:uuid:{uuid.uuid4()}", 7):
        body = {"prompt": picture(), "prompt_id": prompt_id}
        answer = ask(newest, "POST", "/prompt", json=body)
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert error["type"] == "invalid_prompt_id"
        assert error["message"] == "prompt_id must be a valid UUID"
    error = ask(newest, "POST", "/prompt", json={"prompt_id": "mine"}).json()["error"]
    assert error["type"] == "no_prompt"
    mine = str(uuid.uuid4())
    answer = ask(newest, "POST", "/prompt", json={"prompt": picture(), "prompt_id": mine})
    assert answer.json()["prompt_id"] == mine
    answer = ask(newest, "POST", "/prompt", json={"prompt": picture(), "prompt_id": None})
    assert str(uuid.UUID(answer.json()["prompt_id"])) == answer.json()["prompt_id"]
    answer = ask(server, "POST", "/prompt", json={"prompt": picture(), "prompt_id": None})
    assert answer.json()["prompt_id"] == "None"


def test_the_newest_server_keeps_where_a_prompt_comes_from(newest, server):
    """From a header, unless the request says so itself."""
    header = {"Comfy-Usage-Source": "a tool"}
    for where, extra, kept in (
        (newest, {}, "a tool"),
        (newest, {"comfy_usage_source": "mine"}, "mine"),
        (server, {}, None),
    ):
        body = {"prompt": picture(), "extra_data": extra}
        prompt_id = ask(where, "POST", "/prompt", json=body, headers=header).json()["prompt_id"]
        where.until(lambda where=where, one=prompt_id: one in where.history, LIMIT)
        assert where.history[prompt_id]["prompt"][3].get("comfy_usage_source") == kept


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        (b"{", {"error": "Request body must be valid JSON"}),
        (b"{}", {"error": "job_ids must be a list"}),
        (b"[]", {"error": "job_ids must be a list"}),
        (b'{"job_ids": "ab"}', {"error": "job_ids must be a list"}),
        (
            b'{"job_ids": ["ab", 5, null]}',
            {"error": "job_ids contains invalid id(s)", "invalid_ids": ["ab", "5", "None"]},
        ),
    ],
)
def test_the_newest_server_says_what_it_cannot_cancel(newest, body, answer):
    """In upstream's words."""
    headers = {"Content-Type": "application/json"}
    told = ask(newest, "POST", "/api/jobs/cancel", data=body, headers=headers)
    assert (told.status_code, told.json()) == (400, answer)


def test_the_newest_server_cancels_jobs_by_id(newest):
    """What runs and what waits; what it stopped was cancelled, not failed."""
    with ComfyApi(newest.url) as api:
        running = api.submit(txt2img(steps=10000))
        until(lambda: api.get_queue().running)
        waiting = [api.submit(picture(number)) for number in range(3)]
        until(lambda: len(api.get_queue().pending) == 3)
        assert api.get_job(waiting[0].prompt_id).workflow is None
        assert api.cancel_job(waiting[0].prompt_id)
        assert not api.cancel_job(waiting[0].prompt_id)
        assert api.cancel_jobs(*(job.prompt_id for job in waiting))
        assert not api.get_queue().pending
        refused = ask(newest, "POST", "/api/jobs/cancel", json={"job_ids": ["x"]})
        assert (refused.status_code, refused.json()["invalid_ids"]) == (400, ["x"])
        assert api.cancel_job(running.prompt_id)
        with pytest.raises(JobInterrupted):
            running.result(LIMIT)
        until(lambda: api.get_job(running.prompt_id).status == "cancelled")
        assert running.prompt_id in [job.id for job in api.get_jobs("cancelled").jobs]
        assert api.get_job(running.prompt_id).workflow["prompt"]["3"]["inputs"]["steps"] == 10000
    gone = ask(newest, "POST", f"/api/jobs/{uuid.uuid4()}/cancel")
    assert (gone.status_code, gone.json()) == (200, {"cancelled": False})


@pytest.mark.parametrize(("version", "told"), [("0.3.75", False), ("new", True)])
def test_a_cached_run_of_nobody_has_outputs_in_history_on_the_newest_server(version, told):
    """Others leave them out."""
    with ComfyServer(version=version) as server:
        for number in range(2):
            answer = ask(server, "POST", "/prompt", json={"prompt": picture(), "number": number})
            path = f"/history/{answer.json()['prompt_id']}"
            until(lambda path=path: ask(server, "GET", path).json())
        [entry] = ask(server, "GET", path).json().values()
        assert entry["status"]["status_str"] == "success"
        assert bool(entry["outputs"]) == told


def test_the_newest_server_has_other_words_and_refuses_other_sites(newest, server, anybodys):
    """``missing_node_type``, and a 403 to what a browser calls cross-site, whoever may ask."""
    graph = {"1": node("Unknown")}
    for where, word in ((newest, "missing_node_type"), (server, "invalid_prompt")):
        error = ask(where, "POST", "/prompt", json={"prompt": graph}).json()["error"]
        assert error["type"] == word
    headers = {"Sec-Fetch-Site": "cross-site"}
    assert ask(anybodys, "GET", "/prompt", headers=headers).status_code == 200
    with ComfyServer(version="new", allowed_hosts=["*"]) as open_to_all:
        assert ask(open_to_all, "GET", "/prompt", headers=headers).status_code == 403
    assert ask(newest, "GET", "/node_replacements").json()["ImageBatch"]
    assert ask(server, "GET", "/node_replacements").status_code == 404


def test_a_refusal_of_an_unknown_class_says_which_there_are(server, api):
    """And how to have one more; a node of one's own among them."""

    class Mine:
        RETURN_TYPES = ()
        FUNCTION = "run"

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:
            return {}

        def run(self) -> tuple[()]:
            return ()

    server.add_node(Mine)
    with pytest.raises(PromptRejected, match=r"no node class 'VAELoader'") as caught:
        api.run({"1": node("VAELoader")}, timeout=LIMIT)
    assert "custom node" not in str(caught.value)
    for words in ("embedded server", "CheckpointLoaderSimple", "Mine", "server.add_node"):
        assert words in str(caught.value)


def test_several_errors_of_one_node_come_in_the_order_of_its_definition(server):
    """ComfyUI has another at each start, so nobody can rely on the first one there."""
    inputs = {"color": -1, "batch_size": 0, "height": "tall", "width": 0}
    graph = {"1": node("EmptyImage", **inputs), "2": node("PreviewImage", images=["1", 0])}
    answer = ask(server, "POST", "/prompt", json={"prompt": graph})
    errors = answer.json()["node_errors"]["1"]["errors"]
    names = [error["extra_info"]["input_name"] for error in errors]
    assert names == ["width", "height", "batch_size", "color"]


def test_a_message_that_cannot_be_sent_is_lost_alone_and_told_at_the_end():
    """ComfyUI ends over it."""

    def use() -> None:
        with ComfyServer() as server:
            ask(server, "POST", "/prompt", json={"prompt": picture(), "client_id": [1]})
            until(lambda: server.history)
            assert ask(server, "GET", "/prompt").status_code == 200

    with pytest.raises(TypeError, match="unhashable"):
        use()


def test_a_node_that_returns_its_batch_and_no_tuple_does_not_pass_for_a_right_one(server, api):
    """As on ComfyUI: its first picture is taken for a batch, of which most nodes cannot work."""

    class Bare:
        RETURN_TYPES = ("IMAGE",)
        FUNCTION = "run"

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:
            return {"required": {"image": ("IMAGE",)}}

        def run(self, image: Any) -> Any:
            return image

    server.add_node(Bare)
    graph = {"1": canvas(width=6), "2": node("Bare", image=["1", 0])}
    saved = {"9": node("SaveImage", images=["2", 0], filename_prefix="bare")}
    rows = api.run({**graph, **saved}, timeout=LIMIT).images
    opened = [Image.open(io.BytesIO(row.bytes())) for row in rows]
    assert [(row.mode, row.size) for row in opened] == [("L", (3, 6))] * 8
    crop = node("ImageCrop", image=["2", 0], width=1, height=1, x=0, y=0)
    shown = {"3": crop, "9": node("PreviewImage", images=["3", 0])}
    with pytest.raises(JobFailed, match="returns a tuple"):
        api.run({**graph, **shown}, timeout=LIMIT)


def test_what_a_class_says_of_itself_stands_in_its_definition(server):
    """As of ComfyUI's own: only what it says."""

    class Told:
        RETURN_TYPES = ("INT",)
        FUNCTION = "run"
        OUTPUT_TOOLTIPS = ("How many.",)
        DEPRECATED = True
        EXPERIMENTAL = True
        API_NODE = False
        RELATIVE_PYTHON_MODULE = "custom_nodes.mine"

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:
            return {}

        def run(self) -> tuple[int]:
            return (1,)

    class Silent(Told):
        DEPRECATED = EXPERIMENTAL = False

    keys = ("output_tooltips", "deprecated", "experimental", "api_node", "python_module")
    for cls, words in (
        (Told, (["How many."], True, True, False, "custom_nodes.mine")),
        (Silent, (["How many."], None, None, False, "custom_nodes.mine")),
    ):
        server.add_node(cls)
        definition = ask(server, "GET", f"/object_info/{cls.__name__}").json()[cls.__name__]
        assert tuple(definition.get(key) for key in keys) == words


def test_files_of_the_user_outlive_a_restart():
    """Also where they took the place of ours."""
    with ComfyServer() as server:
        (server.root / "web" / "index.html").write_text("an editor")
        (server.root / "models" / "configs" / "v1-inference.yaml").unlink()
        server.restart()
        assert ask(server, "GET", "/").text == "an editor"
        assert len(ask(server, "GET", "/models/configs").json()) == 10


@pytest.mark.parametrize("extra", [None, [], {"workflow": None}, {"workflow": "text"}], ids=str)
def test_one_odd_prompt_spoils_the_list_of_jobs_of_the_newest_server(extra):
    """For everybody, until it leaves the history; as recorded."""
    with ComfyServer(version="new") as server:

        def job(path: str) -> int:
            return ask(server, "GET", f"/api/jobs{path}").status_code

        good, odd = (
            ask(server, "POST", "/prompt", json={"prompt": picture(), "extra_data": data}).json()
            for data in ({"extra_pnginfo": {}}, {"extra_pnginfo": extra})
        )
        until(lambda: odd["prompt_id"] in server.history)
        assert [job(""), job(f"/{odd['prompt_id']}")] == [500, 500]
        assert [job("?status=pending"), job(f"/{good['prompt_id']}")] == [200, 200]
        ask(server, "POST", "/history", json={"delete": [odd["prompt_id"]]})
        assert job("") == 200


def test_the_newest_server_shows_what_nodes_in_the_middle_show_also_when_they_are_cached():
    """Then after the others, and to history without a client, too."""

    class Middle:
        RETURN_TYPES = ("IMAGE",)
        FUNCTION = "run"
        HAS_INTERMEDIATE_OUTPUT = True

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:
            return {"required": {"image": ("IMAGE",)}}

        def run(self, image: Any) -> dict[str, Any]:
            return {"ui": {"text": ["seen"]}, "result": (image,)}

    last = node("SaveImage", images=["2", 0], filename_prefix="m")
    graph = {"1": canvas(), "2": node("Middle", image=["1", 0]), "3": last}
    with ComfyServer(version="new") as server:
        server.add_node(Middle)
        with Socket(server, "a") as socket:
            for order in (["2", "3"], ["3", "2"]):
                body = {"prompt": graph, "client_id": "a"}
                ask(server, "POST", "/prompt", json=body)
                heard = socket.until("execution_success")
                executed = [one["data"]["node"] for one in heard if one["type"] == "executed"]
                assert executed == order
        ask(server, "POST", "/prompt", json={"prompt": graph})
        server.until(lambda: len(server.history) == 3)
        assert [list(entry["outputs"]) for entry in server.history.values()] == [
            ["2", "3"],
            ["3", "2"],
            ["3", "2"],
        ]
        definition = ask(server, "GET", "/object_info/Middle").json()["Middle"]
        assert (definition["has_intermediate_output"], definition["is_input_list"]) == (True, False)


def test_the_newest_server_has_files_saved_that_could_run_scripts(newest):
    """And says of all that they are what they are called; names of files tell their folder."""
    for name, shown in (("a.svg", False), ("a.html", False), ("a.png", True)):
        ask(newest, "POST", "/upload/image", files={"image": (name, png())})
        answer = ask(newest, "GET", "/view", params={"filename": name, "type": "input"})
        mark = "" if shown else "attachment; "
        assert answer.headers["Content-Disposition"] == f'{mark}filename="{name}"'
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "a.svg [input]" in ask(newest, "GET", "/internal/files/input").json()
    ask(newest, "POST", "/userdata/user.css", data=b"a {}")
    assert "Content-Disposition" not in ask(newest, "GET", "/userdata/user.css").headers


# -- load -------------------------------------------------------------------------------


def test_basic_credentials_are_what_browsers_send():
    """A pair, in base64."""
    with ComfyServer(credentials=("a", "ä")) as server:
        value = base64.b64encode("a:ä".encode()).decode()
        headers = {"Authorization": f"basic {value}"}
        assert ask(server, "GET", "/queue", headers=headers).status_code == 200


def test_the_folder_is_laid_out_as_comfyuis(server):
    """So that files can be put there by hand."""
    for name in ("input", "output", "temp", "user", "models/checkpoints", "models/loras"):
        assert (server.root / name).is_dir()
    assert os.access(server.root / "models" / "checkpoints" / "simulated.safetensors", os.R_OK)
