"""What the embedded server bears: many of it, many clients, and wrong arguments."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import pytest
import requests
import websocket

from comfy_client import ComfyApi
from comfy_client.errors import JobInterrupted, PromptRejected
from comfy_client.testing import ComfyServer, check_interrupted
from tests.conftest import load_workflow
from tests.helpers.bare import all_end, server_threads
from tests.helpers.clients import until

LIMIT = 60.0
CLIENTS, PROMPTS = 20, 50


def open_files() -> set[str]:
    """By number; nothing where the system does not tell."""
    listed = Path("/proc/self/fd")
    return {entry.name for entry in listed.iterdir()} if listed.exists() else set()


def folders() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob(f"comfy-server-{os.getpid()}-*"))


# -- many -------------------------------------------------------------------------------


def test_fifty_stopped_servers_leave_nothing_behind():
    """No thread, port, open file or folder; each was there in time, and was used."""
    starts: list[float] = []

    def once() -> tuple[Path, int]:
        begun = time.monotonic()
        with ComfyServer() as server:
            starts.append(time.monotonic() - begun)
            ws = websocket.create_connection(f"ws://127.0.0.1:{server.port}/ws", LIMIT)
            assert "status" in ws.recv()
            ws.close()
            assert requests.get(f"{server.url}/queue", timeout=LIMIT).status_code == 200
            return server.root, server.port

    once()
    threads, files = set(threading.enumerate()), open_files()
    for root, port in [once() for _ in range(50)]:
        assert not root.exists()
        with contextlib.closing(socket.socket()) as free:
            free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            free.bind(("127.0.0.1", port))
    until(lambda: set(threading.enumerate()) <= threads)
    assert len(open_files()) <= len(files) + 1  # the one that lists them
    assert min(starts) < 0.5  # measured 0.01


def test_a_process_that_does_not_stop_its_server_leaves_no_folder():
    """Nor does a fork of it, which ends before, take that away."""
    code = """
import os, sys
from comfy_client.testing import ComfyServer
server = ComfyServer().start()
if not os.fork():
    sys.exit()
os.wait()
assert server.root.exists()
print(server.root)
"""
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=True)
    assert done.stderr == ""
    assert not Path(done.stdout.strip()).exists()


def test_a_server_that_cannot_start_leaves_nothing_behind(tmp_path):
    """Neither a thread nor a folder, whatever was wrong."""
    with ComfyServer() as server:
        threads, before = set(threading.enumerate()), folders()
        with pytest.raises(OSError, match="cannot listen"):
            ComfyServer(server.port).start()
        with pytest.raises(ValueError, match="no certificate"):
            ComfyServer(tls=(tmp_path / "a", tmp_path / "b")).start()
        until(lambda: set(threading.enumerate()) <= threads)
        assert folders() == before


class Counted:
    """Shows a text, and counts how often it was run with it."""

    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True
    runs: ClassVar[Counter[str]] = Counter()

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"text": ("STRING", {})}}

    def run(self, text: str) -> dict[str, Any]:
        self.runs[text] += 1
        return {"ui": {"text": [text]}}


@pytest.mark.long
def test_twenty_clients_at_once_lose_none_of_a_thousand_prompts():
    """Each runs once, by the node's count and the server's, and each client has its own results."""
    Counted.runs.clear()

    def work(number: int) -> list[str]:
        texts = [f"client {number}, prompt {index}" for index in range(PROMPTS)]
        with ComfyApi(server.url) as api:
            jobs = [
                api.submit({"1": {"class_type": "Counted", "inputs": {"text": text}}})
                for text in texts
            ]
            results = [job.result(LIMIT) for job in jobs]
        assert [result.texts for result in results] == [(text,) for text in texts]
        return [result.prompt_id for result in results]

    with ComfyServer() as server:
        server.add_node(Counted)
        with ThreadPoolExecutor(CLIENTS) as pool:
            ids = [one for of_client in pool.map(work, range(CLIENTS)) for one in of_client]
        history = requests.get(f"{server.url}/history", timeout=LIMIT).json()
        assert Counter(ran.prompt_id for ran in server.ran) == Counter(ids)
    assert len(set(ids)) == CLIENTS * PROMPTS
    assert set(history) == set(ids)
    assert {entry["status"]["status_str"] for entry in history.values()} == {"success"}
    assert len(Counted.runs) == CLIENTS * PROMPTS
    assert set(Counted.runs.values()) == {1}


def test_of_eight_starts_at_once_one_succeeds():
    """And one server is there, of which nothing is left when it stops."""
    server, before = ComfyServer(), set(threading.enumerate())
    ready = threading.Barrier(8)

    def starts() -> bool:
        ready.wait(LIMIT)
        try:
            return bool(server.start())
        except RuntimeError:
            return False

    with ThreadPoolExecutor(8) as pool:
        started = list(pool.map(lambda _: starts(), range(8)))
    server.stop()
    assert started.count(True) == 1
    until(lambda: set(threading.enumerate()) <= before)


def test_a_node_cannot_hold_up_the_end_by_wanting_it_too():
    """Who stops a server waits for its nodes, not the other way round."""
    runs, told = threading.Event(), list[str]()

    class Ending(Counted):
        def run(self, text: str) -> dict[str, Any]:
            runs.set()
            with contextlib.suppress(Exception):
                while not time.sleep(0.01):
                    check_interrupted()
            try:
                server.stop()
            except RuntimeError as exc:
                told.append(str(exc))
            return {}

    with ComfyServer() as server:
        server.add_node(Ending)
        graph = {"1": {"class_type": "Ending", "inputs": {"text": ""}}}
        requests.post(f"{server.url}/prompt", json={"prompt": graph}, timeout=LIMIT)
        assert runs.wait(LIMIT)
    assert told == ["another thread stops or resets the server"]  # before that one gave up


def test_a_slow_sampler_notices_that_it_is_to_end():
    """In the middle of a step: when the prompt is interrupted, and when the server stops."""
    before = server_threads()
    with ComfyServer(step_seconds=300) as server, ComfyApi(server.url) as api:
        graph = load_workflow("txt2img_tiny", ckpt_name="simulated.safetensors")
        job = api.submit(graph)
        server.until(lambda: server.ran, LIMIT)
        job.cancel()
        with pytest.raises(JobInterrupted):
            job.result(LIMIT)
        api.submit(graph)
        server.until(lambda: len(server.ran) == 2, LIMIT)
        with all_end(server_threads() - before):
            server.stop()


# -- wrong arguments --------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[ComfyServer]:
    with ComfyServer() as running:
        yield running


def test_an_address_that_cannot_be_listened_on_is_one_clear_error(server):
    """A port in use, an address that is not ours."""
    in_use = rf"cannot listen on 127\.0\.0\.1:{server.port}: .*in use; port 0 takes a free one"
    with pytest.raises(OSError, match=in_use):
        ComfyServer(server.port).start()
    with pytest.raises(OSError, match=r"cannot listen on 192\.0\.2\.1:0"):
        ComfyServer(host="192.0.2.1").start()


def test_files_that_are_no_certificate_are_one_clear_error(tmp_path):
    """With their names."""
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate")
    with pytest.raises(ValueError, match=r"no certificate and key in .*broken\.pem and"):
        ComfyServer(tls=(broken, broken))
    with pytest.raises(ValueError, match=r"gone\.pem.*No such file"):
        ComfyServer(tls=(tmp_path / "gone.pem", broken))


WRONG = [
    ({"prefix": "comfy"}, ValueError, "a prefix looks like '/comfy', not 'comfy'"),
    ({"prefix": "/comfy/"}, ValueError, "a prefix looks like '/comfy', not '/comfy/'"),
    ({"prefix": "/"}, ValueError, "a prefix looks like '/comfy', not '/'"),
    *(
        ({"prefix": prefix}, ValueError, "a prefix looks like '/comfy', not ")
        for prefix in ("/a b", "/\u00fc", "/a%20b", "/a//b", "/{x}", "/{", "/a?b", "/a#b", "/a/..")
    ),
    ({"prefix": None}, TypeError, "prefix must be a string, not None"),
    ({"host": 127}, TypeError, "host must be a string, not 127"),
    ({"host": ""}, ValueError, "host must be a name or an address to listen on, not ''"),
    (
        {"host": "\u00fc" * 70},
        ValueError,
        "host must be a name or an address to listen on, not '\u00fc",
    ),
    ({"host": "a\0"}, ValueError, "host must be a name or an address to listen on, not "),
    ({"port": -1}, ValueError, "port must be from 0 to 65535, not -1"),
    ({"port": 65536}, ValueError, "port must be from 0 to 65535, not 65536"),
    ({"port": "80"}, TypeError, "port must be a whole number, not '80'"),
    ({"port": True}, TypeError, "port must be a whole number, not True"),
    ({"max_upload_size": -1}, ValueError, "max_upload_size must be 0 or more, not -1"),
    ({"max_upload_size": 1.5}, TypeError, "max_upload_size must be a whole number, not 1.5"),
    ({"step_seconds": -0.1}, ValueError, "step_seconds must be 0 or more, not -0.1"),
    ({"step_seconds": float("nan")}, ValueError, "step_seconds must be 0 or more, not nan"),
    ({"step_seconds": float("inf")}, ValueError, "step_seconds must be finite, not inf"),
    ({"step_seconds": 10**400}, ValueError, "step_seconds must be 9223372036 at most, not 1000"),
    ({"node_seconds": {"A": 10**400}}, ValueError, "node_seconds['A'] must be 9223372036 at most"),
    ({"step_seconds": "fast"}, TypeError, "step_seconds must be a number, not 'fast'"),
    ({"version": "0.1"}, ValueError, "version must be one of 0.3.75, 0.28, 0.33, not '0.1'"),
    (
        {"version": "new"},
        ValueError,
        "version must be one of 0.3.75, 0.28, 0.33, not 'new'; '0.28' has taken its place",
    ),
    ({"version": [28]}, ValueError, "version must be one of 0.3.75, 0.28, 0.33, not [28]"),
    (
        {"tls": "cert.pem"},
        TypeError,
        "tls must be an SSL context, or the paths of certificate and key",
    ),
    ({"tls": (None, None)}, TypeError, "tls must be an SSL context, or the paths of"),
    ({"tls": ("a", "b", "c")}, TypeError, "tls must be an SSL context, or the paths of"),
    ({"credentials": 5}, TypeError, "credentials must be a pair of user and password, or a token"),
    ({"credentials": ("u",)}, TypeError, "credentials must be a pair of user and password"),
    ({"credentials": ("u", 5)}, TypeError, "credentials must be a pair of user and password"),
]


@pytest.mark.parametrize(("options", "error", "words"), WRONG, ids=str)
def test_a_wrong_argument_is_one_clear_error(options, error, words):
    """Before anything starts."""
    with pytest.raises(error) as caught:
        ComfyServer(**options)
    assert str(caught.value).startswith(words)


def test_a_server_that_could_not_be_made_can_be_shown():
    """As in a traceback, which has the object half made."""
    server = ComfyServer.__new__(ComfyServer)
    with pytest.raises(ValueError, match="version must be one of"):
        server.__init__(version="x")  # type: ignore[misc]
    assert repr(server) == "<ComfyServer stopped>"


@pytest.mark.parametrize("prefix", ["/a", "/a/b-c_d.e~f", "/.hidden/9"])
def test_a_prefix_is_a_path_of_plain_characters(prefix):
    """And works as it is."""
    with ComfyServer(prefix=prefix) as server:
        assert server.url.endswith(prefix)
        assert requests.get(f"{server.url}/queue", timeout=LIMIT).status_code == 200


def test_wrong_credentials_are_not_shown():
    """They may be a secret, in a place where it does not belong."""
    with pytest.raises(TypeError) as caught:
        ComfyServer(credentials=["user", "hidden"])
    assert "hidden" not in str(caught.value)


def test_a_given_ssl_context_is_taken_as_it_is():
    """Nothing of it is looked at before a client comes."""
    assert ComfyServer(tls=ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))


@pytest.mark.parametrize(
    ("cls", "name"), [("EmptyImage", None), (Counted(), None), (None, "a"), (Counted, 5)]
)
def test_a_node_that_is_no_class_is_one_clear_error(server, cls, name):
    """Or one whose name is no text."""
    with pytest.raises(TypeError, match="a node must be a class, and its name a string"):
        server.add_node(cls, name)


@pytest.mark.parametrize(
    ("class_type", "inputs", "words"),
    [
        ("EmptyImage", {"width": -1}, "width.*-1"),
        ("EmptyImage", {"height": 0}, "height.*0"),
        ("EmptyImage", {"batch_size": -3}, "batch_size.*-3"),
        ("EmptyImage", {"width": "wide"}, "width.*wide"),
        ("ImageScaleBy", {"scale_by": -0.5}, "scale_by.*-0.5"),
    ],
)
def test_sizes_that_cannot_be_are_refused_in_words(server, class_type, inputs, words):
    """As the real server refuses them, before anything runs."""
    size = {"width": 8, "height": 8, "batch_size": 1, "color": 0}
    graph: dict[str, Any] = {"1": {"class_type": "EmptyImage", "inputs": size}}
    scale = {"image": ["1", 0], "upscale_method": "area", "scale_by": 1.0}
    graph["2"] = {"class_type": "ImageScaleBy", "inputs": scale}
    graph["3"] = {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}}
    place = "1" if class_type == "EmptyImage" else "2"
    graph[place]["inputs"] |= inputs
    with ComfyApi(server.url) as api, pytest.raises(PromptRejected, match=words):
        api.run(graph, timeout=LIMIT)
