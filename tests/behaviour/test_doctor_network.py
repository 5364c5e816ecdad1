"""The doctor on the way to a server: names, ports, TLS, proxies, credentials."""

from __future__ import annotations

import contextlib
import pickle
import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme

from comfy_client import (
    BearerCredentials,
    ComfyApi,
    EnvCredentials,
)
from comfy_client.testing import ComfyServer
from comfy_client.transport.sockets import new_socket
from tests.helpers.clients import LIMIT
from tests.helpers.doctor import ask, blamed, failing, states
from tests.helpers.doors import ForwardProxy

# -- the way there -------------------------------------------------------------------------

LookUp = Callable[[Callable[..., Any]], None]


def test_an_unknown_name_is_the_one_failure() -> None:
    """What needs it is not tried, and told in one line."""
    report = ask("no-such-name.invalid")
    assert failing(report) == ["name"]
    assert "no name server" in report["name"].found
    assert blamed(report, "name")[:3] == ["port", "tls", "http"]
    assert str(report).count("no-such-name") == 2  # the address, and the failure
    assert "websocket" in str(report).splitlines()[-2] + str(report).splitlines()[-1]


def test_a_name_server_that_hangs_is_not_waited_for(look_up: LookUp) -> None:
    """No lookup can be ended from outside, so it is left behind."""
    hangs = threading.Event()
    look_up(lambda *a, **k: hangs.wait(60))
    begun = time.monotonic()
    report = ask("gpu-box", timeout=0.5)
    assert time.monotonic() - begun < LIMIT
    hangs.set()
    assert failing(report) == ["name"]


def test_a_port_that_nobody_has_is_refused(refused: str) -> None:
    """With the ports that ComfyUI usually has."""
    report = ask(refused)
    assert failing(report) == ["port"]
    assert "refuses" in report["port"].found
    assert "start ComfyUI" in report["port"].advice


@pytest.mark.parametrize(("listens", "asked"), [("::1", "127.0.0.1"), ("127.0.0.1", "[::1]")])
def test_a_listener_on_the_other_loopback_is_found(listens: str, asked: str) -> None:
    """And the address that works is the advice."""
    with ComfyServer(host=listens) as server:
        report = ask(f"{asked}:{server.port}")
        assert failing(report) == ["port"]
        assert f"give {server.url} as host" in report["port"].advice
        server.until(lambda: server.connections and not server.open_connections)


@pytest.mark.posix("addresses of localhost in the order of the system")
def test_localhost_that_means_a_dead_loopback_first_is_a_warning(
    server: ComfyServer, look_up: LookUp
) -> None:
    """It works, and loses time with each connection."""
    real = socket.getaddrinfo

    def both(host: str, *args: Any, **kw: Any) -> Any:
        if host != "localhost":
            return real(host, *args, **kw)
        return real("::1", *args, **kw) + real("127.0.0.1", *args, **kw)

    look_up(both)
    report = ask(f"localhost:{server.port}")
    assert states(report) == {"port": "warning"}
    assert "127.0.0.1" in report["port"].advice


@pytest.mark.parametrize(
    ("elsewhere", "error", "words"),
    [
        ("", ConnectionRefusedError, "--listen"),
        ("127.0.0.1", ConnectionRefusedError, "if that is this machine, give 127.0.0.1:8188"),
        ("", TimeoutError, "firewall"),
    ],
)
def test_a_refusal_by_another_machine_suggests_listen(
    monkeypatch: pytest.MonkeyPatch, elsewhere: str, error: type[OSError], words: str
) -> None:
    """Without it a ComfyUI is for its own machine only."""

    def connect(_: socket.socket, address: Any) -> None:
        if address[0] != elsewhere:
            raise error

    with new_socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        monkeypatch.setattr(type(sock), "connect", connect)
    report = ask("192.0.2.1")
    assert failing(report) == ["port"]
    assert words in report["port"].advice


def issued(folder: Path, *names: str, **kw: Any) -> tuple[Path, Path]:
    """A CA's certificate, and a server's."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(folder / "ca.pem")
    certificate = ca.issue_cert(*names, **kw)
    certificate.private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
    return folder / "ca.pem", folder / "server.pem"


def test_an_address_that_does_not_answer_is_reported_after_a_while(black_hole: str) -> None:
    """A firewall that drops what it does not like."""
    report = ask(black_hole, timeout=4.0)
    assert failing(report) == ["port"]
    assert "does not answer within" in report["port"].found


# -- TLS -----------------------------------------------------------------------------------


def test_a_certificate_of_a_known_ca_is_fine(papers: Path) -> None:
    """For HTTP and the socket alike."""
    pem = papers / "server.pem"
    with ComfyServer(tls=(pem, pem)) as server:
        report = ask(server.url, run=True, verify=papers / "ca.pem")
    assert states(report) == {}
    assert "TLSv1" in report["tls"].found
    assert "days" in report["tls"].found
    assert "'ca.pem'" in report["tls"].found


def test_an_unknown_ca_is_reported_with_what_to_pass(papers: Path) -> None:
    """And which CAs were trusted."""
    pem = papers / "server.pem"
    with ComfyServer(tls=(pem, pem)) as server:
        report = ask(server.url)
    assert failing(report) == ["tls"]
    assert "certifi" in report["tls"].found
    assert "verify=" in report["tls"].advice
    assert "http" in blamed(report, "tls")


@pytest.mark.parametrize(
    ("names", "times", "state", "words"),
    [
        (["127.0.0.1"], {"not_after": datetime(2001, 1, 1, tzinfo=UTC)}, "failed", "expired"),
        (["other.example"], {}, "failed", "another"),
        (["127.0.0.1"], {"not_after": datetime.now(UTC) + timedelta(days=3)}, "warning", "renewed"),
    ],
)
def test_a_bad_certificate_is_reported_by_what_is_wrong(
    tmp_path: Path, names: list[str], times: dict[str, Any], state: str, words: str
) -> None:
    """Expired, or soon, or of another name."""
    if "not_after" in times:
        times = {"not_before": times["not_after"] - timedelta(days=9), **times}
    ca, pem = issued(tmp_path, *names, **times)
    with ComfyServer(tls=(pem, pem)) as server:
        report = ask(server.url, verify=ca)
    assert report["tls"].state == state
    assert words in report["tls"].advice


@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
def test_no_verification_is_a_warning(papers: Path) -> None:
    """It works, with whoever stands between."""
    pem = papers / "server.pem"
    with ComfyServer(tls=(pem, pem)) as server:
        report = ask(server.url, verify=False)
    assert states(report) == {"tls": "warning"}


def test_https_to_a_plain_server_and_http_to_a_secure_one(
    server: ComfyServer, papers: Path
) -> None:
    """The wrong scheme is named."""
    report = ask(server.url.replace("http:", "https:"))
    assert failing(report) == ["tls"]
    assert "http://" in report["tls"].found
    pem = papers / "server.pem"
    with ComfyServer(tls=(pem, pem)) as secure:
        report = ask(secure.url.replace("https:", "http:"))
    assert failing(report) == ["http"]
    assert "use https://" in report["http"].advice
    with ComfyServer() as other:
        said = "<title>400 The plain HTTP request was sent to HTTPS port</title>"
        other.on("*", "*", (400, {"Content-Type": "text/html"}, said))
        report = ask(other.url)
        assert failing(report) == ["comfyui"]
        assert "use https://" in report["comfyui"].advice
        other.on("*", "*", lambda request: None)  # hangs up, and takes no handshake either
        report = ask(other.url)
        assert failing(report) == ["http"]
        assert "https" not in report["http"].advice


def test_a_missing_ca_bundle_is_reported_without_its_folder(tmp_path: Path) -> None:
    """Whose name may be a person's."""
    listener = socket.create_server(("127.0.0.1", 0))
    with listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        report = ask(url, verify=str(Path.home() / "private" / "ca.pem"))
    assert failing(report) == ["tls"]
    assert "no CA bundle" in report["tls"].found
    assert str(Path.home()) not in str(report)


def test_a_file_that_is_no_certificate_is_reported_by_its_argument(
    server: ComfyServer, papers: Path
) -> None:
    """A key, or the file of something else."""
    url = server.url.replace("http:", "https:")
    for options in ({"verify": __file__}, {"verify": papers / "ca.pem", "cert": __file__}):
        report = ask(url, **options)
        assert failing(report) == ["tls"]
        assert "verify= or cert= cannot be read" in report["tls"].found


# -- who lets us in ------------------------------------------------------------------------


def test_401_says_what_was_sent_and_what_is_asked_for() -> None:
    """Nothing, the wrong thing, the wrong kind."""
    with ComfyServer(credentials=("me", "right")) as server:
        none = ask(server.url)
        wrong = ask(server.url, credentials=("me", "wrong one"))
        kind = ask(server.url, credentials=BearerCredentials("a token"))
    for report in (none, wrong, kind):
        assert failing(report) == ["auth"]
        assert "it asks for Basic" in report["auth"].found
        assert "websocket" in blamed(report, "auth")
    assert "no credentials were sent" in none["auth"].found
    assert "Authorization" in wrong["auth"].found
    assert "wrong" in wrong["auth"].advice


def test_credentials_that_a_pickle_lost_are_missed() -> None:
    """The 401 that follows is explained before it comes."""
    with ComfyServer(credentials=("me", "right")) as server:
        api = pickle.loads(pickle.dumps(ComfyApi(server.url, credentials=("me", "right"))))
        report = api.doctor()
        api.close()
    assert report["credentials"].state == "warning"
    assert "pickle" in report["credentials"].advice


def test_credentials_that_cannot_be_had_are_the_one_failure(
    server: ComfyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unset variable, a callable that raises, one that never returns."""
    monkeypatch.delenv("COMFYUI_TOKEN", raising=False)
    unset = ask(server.url, credentials=EnvCredentials("COMFYUI_TOKEN"))
    assert "COMFYUI_TOKEN is not set" in unset["credentials"].found

    def broken() -> None:
        raise RuntimeError("the vault is shut: hunter2hunter2")

    raising = ask(server.url, credentials=broken)
    hangs = threading.Event()

    def waits() -> None:
        hangs.wait(30)

    waiting = ask(server.url, credentials=waits, timeout=1)
    hangs.set()
    for report in (unset, raising, waiting):
        assert failing(report) == ["credentials"]
        assert "hunter2" not in str(report)


def test_a_403_is_a_login_layer_unless_an_origin_was_sent(server: ComfyServer) -> None:
    """ComfyUI's own 403 means that Origin and Host differ."""
    report = ask(server.url, headers={"Origin": "http://elsewhere.example"})
    assert failing(report) == ["auth"]
    assert "Origin" in report["auth"].advice
    with server.faults.login_page(403):
        report = ask(server.url)
    assert failing(report) == ["auth"]
    assert "login layer" in report["auth"].advice


def test_credentials_that_anybody_on_the_way_can_read_are_a_warning(
    server: ComfyServer, look_up: LookUp
) -> None:
    """Over plain HTTP to another machine."""
    real = socket.getaddrinfo
    look_up(lambda host, *args, **kw: real("127.0.0.1", *args, **kw))
    with pytest.warns(UserWarning, match="unencrypted"):
        report = ask(f"gpu-box:{server.port}", credentials=("me", "hunter2"))
    assert states(report) == {"credentials": "warning"}
    assert "use https" in report["credentials"].advice


def test_an_origin_among_the_headers_is_one_too_many(server: ComfyServer) -> None:
    """The server compares it with Host; scripts need none."""
    report = ask(server.url, headers={"Origin": server.url})
    assert states(report) == {"origin": "warning"}
    assert "leave it out" in report["origin"].advice


def test_a_proxy_that_rewrites_host_is_reported_and_does_not_matter(server: ComfyServer) -> None:
    """This client sends no Origin, but browsers do."""

    def strict(request: Any) -> Any:
        refused = any(name.lower() == "origin" for name in request.headers)
        return (403, {}, b"") if refused else (200, {}, {"exec_info": {"queue_remaining": 0}})

    with server.faults.answer("GET", "/prompt", strict):
        report = ask(server.url)
    assert states(report, "clock") == {"origin": "warning"}
    assert "Host" in report["origin"].advice


# -- what answers there --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((200, {"Content-Type": "text/html"}, "<title>Log in</title>"), "login page"),
        ((302, {"Location": "/login"}, ""), "login page"),
        ((301, {"Location": "https://127.0.0.1/prompt"}, ""), "use https://"),
        ((307, {"Location": "//[broken"}, ""), "login page"),
        ((200, {"Content-Type": "application/json"}, b'{"models": []}'), "another program"),
        ((200, {"Content-Type": "application/json"}, b"{"), "another program"),
        ((204, {}, b""), "another program"),
        ((404, {"Content-Type": "text/html"}, "nothing here"), "path below"),
        ((405, {}, b""), "path below"),
        ((502, {"Content-Type": "text/html"}, "<h1>Bad Gateway</h1>"), "start ComfyUI"),
        ((500, {}, b"trouble"), "log"),
    ],
)
def test_doctor_names_the_program_that_is_no_comfyui(
    server: ComfyServer, answer: Any, words: str
) -> None:
    """A page, a redirect, another program, a proxy without a server behind it."""
    with server.faults.answer("*", "*", answer):
        report = ask(server.url)
    assert failing(report) == ["comfyui"]
    assert words in report["comfyui"].advice
    assert "websocket" in blamed(report, "comfyui")


def test_a_server_that_speaks_no_http_fails_the_http_check() -> None:
    """Such as an SSH server, or a database."""
    listener = socket.create_server(("127.0.0.1", 0))

    def greet() -> None:
        with contextlib.suppress(OSError):
            while True:
                client = listener.accept()[0]
                with client:
                    client.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")

    threading.Thread(target=greet, daemon=True).start()
    with listener:
        report = ask(f"127.0.0.1:{listener.getsockname()[1]}")
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
    assert failing(report) == ["http"]


def test_a_server_that_is_dark_ends_within_the_timeout(server: ComfyServer) -> None:
    """It accepts, and never answers, or drips."""
    for fault in (server.faults.freeze, lambda: server.faults.drip("GET", "/prompt")):
        begun = time.monotonic()
        with fault():
            report = ask(server.url, timeout=5.0)
        assert time.monotonic() - begun < LIMIT
        assert failing(report) == ["http"]
        assert "hangs" in report["http"].advice


# -- proxies -------------------------------------------------------------------------------


def test_a_proxy_of_the_environment_is_named_without_its_password(
    server: ComfyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For HTTP and the socket, both of which go through it."""
    with ForwardProxy() as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://walker:b%40swing@{proxy.address}")
        report = ask(f"http://comfy.example:{server.port}", run=True)
        assert states(report) == {}
        found = report["proxy"].found
        assert proxy.address in found
        assert "HTTP_PROXY" in found
        assert "with a password" in found
        for secret in ("walker", "swing"):
            assert secret not in str(report)
        proxy.refuses_tunnels = True
        report = ask(f"http://comfy.example:{server.port}")
        assert failing(report) == ["websocket"]
    report = ask(f"http://comfy.example:{server.port}")
    assert failing(report) == ["port"]
    assert "proxy" in report["port"].advice


def test_no_proxy_stands_before_localhost(
    server: ComfyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the environment says; and NO_PROXY is named where it decides."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    report = ask(server.url)
    assert report.ok
    assert "loopback" in report["proxy"].found
    monkeypatch.setenv("NO_PROXY", "no-such-name.invalid")
    report = ask("no-such-name.invalid")
    assert "none" in report["proxy"].found
    assert "NO_PROXY" in report["proxy"].found


def test_a_proxy_that_the_socket_cannot_take_is_reported() -> None:
    """And something that is not a URL fails, without being shown."""
    report = ask("gpu.invalid", proxies={"http": "socks5://me:hunter2@127.0.0.1:9"})
    assert report["proxy"].state == "warning"
    assert "poll" in report["proxy"].advice
    for broken in ("http://me:hunter2@:99999", "http://", "http://[hunter2"):
        report = ask("gpu.invalid", proxies={"http": broken})
        assert failing(report)[0] == "proxy"
        assert "hunter2" not in str(report)
