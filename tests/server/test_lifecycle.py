"""Start, stop, restart; TLS, credentials, prefix."""

from __future__ import annotations

import base64
import io
import os
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme
import websocket
from PIL import Image

from comfy_client import ComfyApi
from comfy_client.credentials import BasicCredentials, BearerCredentials
from comfy_client.errors import (
    AuthenticationError,
    UploadTooLarge,
)
from comfy_client.testing import (
    ComfyServer,
)
from tests.helpers.bare import (
    LIMIT,
    Socket,
    all_end,
    ask,
    server_threads,
)
from tests.helpers.graphs import picture, png, txt2img

# -- life -------------------------------------------------------------------------------


def test_a_server_is_there_and_runs_a_workflow():
    """From nothing to a file."""
    with ComfyServer() as server, ComfyApi(server.url) as api:
        [image] = api.run(picture(0x102030), timeout=LIMIT).images
        assert Image.open(io.BytesIO(image.bytes())).getpixel((0, 0)) == (16, 32, 48)


def test_stopping_ends_what_runs_and_closes_all_sockets():
    """At once, though the prompt would take ten minutes."""
    before = server_threads()
    server = ComfyServer(step_seconds=0.05).start()
    with Socket(server, "me") as events:
        body = {"prompt": txt2img(steps=10000), "client_id": "me"}
        assert ask(server, "POST", "/prompt", json=body).status_code == 200
        events.until("progress")
        with all_end(server_threads() - before):
            server.stop()
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
        with pytest.raises(RuntimeError, match="is not running"):
            ask_for()
    with server:
        root = server.root
        with pytest.raises(RuntimeError, match="already running at http://127"):
            server.start()
    assert "stopped" in repr(server)
    with server:
        assert server.root != root
        assert server.url in repr(server)


def test_a_folder_of_the_user_is_used_and_kept(tmp_path: Path) -> None:
    """It is made if it is missing, and another server has its files."""
    server = ComfyServer(root=tmp_path / "new" / "root")
    for _ in range(2):
        with server:
            assert server.root == (tmp_path / "new" / "root").resolve()
            (server.root / "models/loras/a.safetensors").touch()
    with ComfyServer(root=os.fspath(tmp_path / "new" / "root")) as other:
        answer = requests.get(f"{other.url}/models/loras", timeout=LIMIT)
    assert answer.json() == ["a.safetensors"]


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


def test_a_missing_extra_is_an_error_with_the_command_to_install_it():
    """And the package alone can be imported without it."""
    code = "import sys; sys.modules[{!r}] = None; import comfy_client.testing as t; t.ComfyServer"
    for name in ("aiohttp", "PIL"):
        run = subprocess.run([sys.executable, "-c", code.format(name)], capture_output=True)
        told = f'testing needs {name}: pip install "comfy-client-blocking[testing]", or in '
        assert told.encode() in run.stderr
    code = "import sys, comfy_client.testing; sys.exit('aiohttp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# -- TLS, credentials, a prefix --------------------------------------------------------


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


def test_a_form_that_is_too_large_is_refused_however_it_arrives():
    """Some releases of aiohttp do not count the head of a form."""
    head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    with ComfyServer(max_upload_size=1000) as server:
        for sizes in ([990, 10, 5000], [950, 5050], [6000]):
            pieces = iter([head, *map(bytes, sizes), b"\r\n--x--\r\n"])
            answer = ask(server, "POST", "/upload/image", data=pieces, headers=headers)
            assert answer.status_code == 413


def test_a_body_that_is_too_large_is_refused_with_the_limit():
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


# -- credentials and folders ------------------------------------------------------------


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
