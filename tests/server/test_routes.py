"""What the embedded server answers; that it is like ComfyUI is shown by the contract tests."""

from __future__ import annotations

import io
import json
import struct
import uuid
from typing import Any

import pytest
import websocket
from PIL import Image

from comfy_client import ComfyApi
from comfy_client.testing import (
    ComfyServer,
)
from tests.helpers.bare import (
    LIMIT,
    Socket,
    ask,
)
from tests.helpers.graphs import picture, png, txt2img

TROUBLE = "500 Internal Server Error\n\nServer got itself in trouble"


# -- HTTP -------------------------------------------------------------------------------


def test_missing_routes_and_bad_bodies_have_the_statuses_of_the_real_server(server):
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
def test_pages_of_other_sites_are_refused_as_by_comfyui(open_to_all, origin, host, status):
    """When the server is addressed as this machine; see test_safety.py for more."""
    here = f"127.0.0.1:{open_to_all.port}"
    headers = {"Origin": origin.format(here=here, port=open_to_all.port), "Host": host or here}
    assert ask(open_to_all, "GET", "/prompt", headers=headers).status_code == status
    assert ask(open_to_all, "OPTIONS", "/prompt", headers=headers).status_code == status


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
        twice = str(uuid.uuid4())
        body = {"prompt": picture(), "prompt_id": twice, "number": 7}
        answers = [ask(server, "POST", "/prompt", json=body) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200, 500]
        queue = ask(server, "GET", "/queue").json()
        assert [item[1] for item in queue["queue_pending"]] == [twice, twice]
        ask(server, "POST", "/queue", json={"delete": [twice]})
        assert len(ask(server, "GET", "/queue").json()["queue_pending"]) == 1
        ask(server, "POST", "/queue", json={"clear": True})
        ask(server, "POST", "/interrupt")
        events.until("execution_interrupted")


def test_the_pending_queue_is_a_heap(server):
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


def test_feature_flags_answer_a_first_message_only(server):
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
    """As ComfyUI by default; a newer one sends them to those who ask."""
    with ComfyServer(version="0.3.75", previews=False) as server, ComfyApi(server.url) as api:
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
