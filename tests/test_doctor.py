"""The doctor: each thing that it looks at, made to fail on purpose."""

from __future__ import annotations

import _thread
import contextlib
import pickle
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from comfy_client import (
    BasicCredentials,
    BearerCredentials,
    ClientClosed,
    ComfyApi,
    DoctorReport,
    EnvCredentials,
    HeaderCredentials,
    QueryCredentials,
    State,
    Timing,
)
from comfy_client.cli.commands import main
from comfy_client.doctor import network
from comfy_client.doctor.examine import CHECKS
from comfy_client.doctor.redactor import Redactor
from comfy_client.errors import ServerUnreachable
from comfy_client.testing import ComfyServer
from comfy_client.testing.http import Request, encode, upgrade
from tests.comfyui import ComfyUI, free_port
from tests.conftest import examples
from tests.helpers.doors import ForwardProxy, Nginx, certificates
from tests.versions import has

#: What a check needs does not have to be told again.
ALL = [check.name for check in CHECKS]
TRIVIAL = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 7},
    },
    "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
}


@pytest.fixture(autouse=True)
def _no_proxies_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def server() -> Iterator[ComfyServer]:
    """A server to oneself."""
    with ComfyServer(allowed_hosts=["*"]) as running:
        yield running


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``ca.pem`` and ``server.pem``."""
    return certificates(tmp_path_factory.mktemp("certificates"))


class Impatient(ComfyApi):
    """Watches a queue only for a moment."""

    timing = Timing(watch=0.02)


def ask(host: str, *, run: bool = False, timeout: float = 30.0, **options: Any) -> DoctorReport:
    """The report of a client that was never initialised."""
    api = Impatient(host, **options)
    try:
        return api.doctor(run, timeout=timeout)
    finally:
        api.close()


def states(report: DoctorReport, *but: str) -> dict[str, str]:
    """What is not fine, by name."""
    return {c.name: c.state for c in report if c.state != "ok" and c.name not in but}


def failing(report: DoctorReport) -> list[str]:
    """The names of what failed."""
    assert not report.ok
    return [check.name for check in report if check.state == "failed"]


def blamed(report: DoctorReport, name: str) -> list[str]:
    """What was not looked at, since another check failed."""
    return [check.name for check in report if check.because == name]


# -- a server that is well --------------------------------------------------------------


def test_all_is_fine_on_a_server_that_is(server: ComfyServer) -> None:
    """Every check is made, and none complains."""
    report = ask(server.url, run=True)
    assert report.ok
    assert states(report) == {}
    assert [check.name for check in report] == ALL
    for event in ("execution_start", "executed", "execution_success"):
        assert event in report["run"].found
    assert "ComfyUI 0.3.75" in report["version"].found


def test_without_run_nothing_changes_on_the_server_and_no_big_route_is_asked(
    server: ComfyServer,
) -> None:
    """Only GETs of small routes, each once or twice."""
    report = ask(server.url)
    assert [check.name for check in report] == [name for name in ALL if name != "run"]
    asked = [(r.method, r.path.removeprefix("/api")) for r in server.requests]
    small = {"/prompt", "/system_stats", "/features", "/users", "/ws"}
    assert {method for method, _ in asked} == {"GET"}
    assert {path for _, path in asked if not path.startswith("/jobs/")} == small
    assert len(asked) <= 8
    assert not server.ran


def test_with_run_it_asks_the_history_of_its_own_prompt_only(server: ComfyServer) -> None:
    """Others' graphs are nobody's business."""
    ask(server.url, run=True)
    (ran,) = server.ran
    paths = {r.path.removeprefix("/api") for r in server.requests}
    assert f"/history/{ran.prompt_id}" in paths
    assert not paths & {"/history", "/object_info", "/queue"}


def test_nothing_is_left_open(server: ComfyServer) -> None:
    """After close() the server has not a single connection of it."""
    ask(server.url, run=True)
    server.until(lambda: server.open_connections == 0)
    assert not [t for t in threading.enumerate() if t.name.startswith("comfy-doctor")]


def test_the_clients_own_socket_is_left_alone(server: ComfyServer) -> None:
    """The second socket has an id of its own, and the first goes on."""
    gone: list[Any] = []
    with ComfyApi(server.url) as api:
        api.on("disconnected", gone.append)
        report = api.doctor(run=True)
        assert report.ok
        assert "connected" in report["client"].found
        assert api.connected
        assert len(server.hellos) == 2
        assert len(set(server.hellos)) == 2
        assert api.run(TRIVIAL, timeout=30).prompt_id
    assert not gone


def test_it_works_after_an_init_that_failed() -> None:
    """Which is when people need it."""
    api = ComfyApi(f"127.0.0.1:{free_port()}")
    with pytest.raises(ServerUnreachable):
        api.init(timeout=0.1)
    assert failing(api.doctor()) == ["port"]
    api.close()


@pytest.mark.parametrize(
    "options", [{"credentials": ("me", "a secret")}, {"prefix": "/comfy/ui"}, {"version": "new"}]
)
def test_passwords_prefixes_and_new_servers_are_no_obstacle(options: dict[str, Any]) -> None:
    """All is fine there too."""
    with ComfyServer(**options) as server:
        given = {k: v for k, v in options.items() if k == "credentials"}
        report = ask(server.url, run=True, **given)
    assert states(report) == {}


def test_a_report_is_a_value(server: ComfyServer) -> None:
    """It can be iterated over, asked by name, pickled and printed, in a notebook too."""
    report = ask(server.url)
    assert report
    assert {check.name for check in report} == {check.name for check in report.checks}
    assert report["port"] in list(report)
    with pytest.raises(KeyError, match="teeth"):
        report["teeth"]
    assert str(pickle.loads(pickle.dumps(report))) == str(report) == repr(report)
    text = str(report)
    for word in ("comfy_client 0.", "Python 3.", "requests 2.", "websocket-client 1.", "UTC"):
        assert word in text
    assert max(map(len, text.splitlines())) <= 110


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_a_timeout_that_is_none_is_refused(timeout: float) -> None:
    """It is in seconds."""
    with pytest.raises(ValueError, match="seconds"):
        ask("127.0.0.1", timeout=timeout)


def test_a_closed_client_is_no_patient() -> None:
    """As for every other method."""
    api = ComfyApi("127.0.0.1:9")
    api.close()
    with pytest.raises(ClientClosed):
        api.doctor()


# -- the way there ----------------------------------------------------------------------


def test_an_unknown_name_is_the_one_failure() -> None:
    """What needs it is not tried, and told in one line."""
    report = ask("no-such-name.invalid")
    assert failing(report) == ["name"]
    assert "no name server" in report["name"].found
    assert blamed(report, "name")[:3] == ["port", "tls", "http"]
    assert str(report).count("no-such-name") == 2  # the address, and the failure
    assert "websocket" in str(report).splitlines()[-2] + str(report).splitlines()[-1]


def test_a_name_server_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """No lookup can be ended from outside, so it is left behind."""
    hangs = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: hangs.wait(30))
    begun = time.monotonic()
    report = ask("gpu-box", timeout=0.5)
    hangs.set()
    assert time.monotonic() - begun < 5
    assert failing(report) == ["name"]


def test_a_port_that_nobody_has_is_refused() -> None:
    """With the ports that ComfyUI usually has."""
    report = ask(f"127.0.0.1:{free_port()}")
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


def test_localhost_that_means_a_dead_loopback_first_is_a_warning(
    server: ComfyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It works, and loses time with each connection."""
    real = socket.getaddrinfo

    def both(host: str, *args: Any, **kw: Any) -> Any:
        if host != "localhost":
            return real(host, *args, **kw)
        return real("::1", *args, **kw) + real("127.0.0.1", *args, **kw)

    monkeypatch.setattr(socket, "getaddrinfo", both)
    report = ask(f"localhost:{server.port}")
    assert states(report) == {"port": "warning"}
    assert "127.0.0.1" in report["port"].advice


@pytest.mark.parametrize(
    ("elsewhere", "said", "words"),
    [
        ("", "refuses", "--listen"),
        ("127.0.0.1", "refuses", "if that is this machine, give 127.0.0.1:8188"),
        ("", "does not answer within 3.0 s", "firewall"),
    ],
)
def test_another_machine_that_refuses_lacks_listen(
    monkeypatch: pytest.MonkeyPatch, elsewhere: str, said: str, words: str
) -> None:
    """Without it a ComfyUI is for its own machine only."""

    def refusal(family: Any, address: Any, most: float) -> str:
        return "" if address[0] == elsewhere else said

    monkeypatch.setattr(network, "refusal", refusal)
    report = ask("192.0.2.1")
    assert failing(report) == ["port"]
    assert words in report["port"].advice


# -- TLS --------------------------------------------------------------------------------


def issued(folder: Path, *names: str, **kw: Any) -> tuple[Path, Path]:
    """A CA's certificate, and a server's."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(folder / "ca.pem")
    certificate = ca.issue_cert(*names, **kw)
    certificate.private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
    return folder / "ca.pem", folder / "server.pem"


def test_a_certificate_of_a_known_ca_is_fine(papers: Path) -> None:
    """For HTTP and the socket alike."""
    pem = papers / "server.pem"
    with ComfyServer(tls=(pem, pem)) as server:
        report = ask(server.url, run=True, verify=papers / "ca.pem")
    assert states(report) == {}
    assert "TLSv1" in report["tls"].found
    assert "days" in report["tls"].found
    assert "'ca.pem'" in report["tls"].found


def test_an_unknown_ca_is_told_with_what_to_pass(papers: Path) -> None:
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
def test_a_bad_certificate_is_told_by_what_is_wrong(
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


def test_a_ca_bundle_that_is_not_there_is_told_without_its_folder(tmp_path: Path) -> None:
    """Whose name may be a person's."""
    listener = socket.create_server(("127.0.0.1", 0))
    with listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        report = ask(url, verify=str(Path.home() / "private" / "ca.pem"))
    assert failing(report) == ["tls"]
    assert "no CA bundle" in report["tls"].found
    assert str(Path.home()) not in str(report)


# -- who lets us in ---------------------------------------------------------------------


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
    monkeypatch.delenv("COMFY_TOKEN", raising=False)
    unset = ask(server.url, credentials=EnvCredentials("COMFY_TOKEN"))
    assert "COMFY_TOKEN is not set" in unset["credentials"].found

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


def test_a_proxy_that_rewrites_host_is_told_and_does_not_matter(server: ComfyServer) -> None:
    """This client sends no Origin, but browsers do."""

    def strict(request: Any) -> Any:
        refused = any(name.lower() == "origin" for name in request.headers)
        return (403, {}, b"") if refused else (200, {}, {"exec_info": {"queue_remaining": 0}})

    with server.faults.answer("GET", "/prompt", strict):
        report = ask(server.url)
    assert states(report, "clock") == {"origin": "warning"}
    assert "Host" in report["origin"].advice


# -- what answers there -----------------------------------------------------------------


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
def test_what_is_no_comfyui_is_told_by_what_it_is(
    server: ComfyServer, answer: Any, words: str
) -> None:
    """A page, a redirect, another program, a proxy without a server behind it."""
    with server.faults.answer("*", "*", answer):
        report = ask(server.url)
    assert failing(report) == ["comfyui"]
    assert words in report["comfyui"].advice
    assert "websocket" in blamed(report, "comfyui")


def test_what_speaks_no_http_fails_as_http() -> None:
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
            report = ask(server.url, timeout=1)
        assert time.monotonic() - begun < 6
        assert failing(report) == ["http"]
        assert "hangs" in report["http"].advice


# -- the socket -------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 404, 200, 502, 301])
def test_http_without_websocket_is_told_as_such(server: ComfyServer, status: int) -> None:
    """A proxy that does not pass upgrades on."""
    with server.faults.refuse_sockets(status):
        report = ask(server.url, run=True)
    assert failing(report) == ["websocket"]
    assert blamed(report, "websocket") == ["greeting", "echo"]
    assert "Upgrade" in report["websocket"].advice
    assert "succeeded" in report["run"].found
    assert "nothing" in report["run"].found


@pytest.mark.parametrize("status", [401, 403])
def test_a_socket_that_is_not_let_in_though_http_is(server: ComfyServer, status: int) -> None:
    """The login layer treats /ws in another way."""
    with server.faults.refuse_sockets(status):
        report = ask(server.url)
    assert failing(report) == ["websocket"]
    assert str(status) in report["websocket"].found


def test_a_handshake_that_is_not_answered_ends_within_the_timeout(server: ComfyServer) -> None:
    """As does all the rest."""
    begun = time.monotonic()
    with server.faults.stall_handshakes():
        report = ask(server.url, timeout=1.5)
    assert time.monotonic() - begun < 7
    assert "websocket" in failing(report)


def test_a_deaf_socket_is_open_and_fails(server: ComfyServer) -> None:
    """No greeting comes."""

    def silent(request: Request) -> None:
        request.socket.sendall(encode(upgrade(request)))
        while request.socket.recv(1024):
            pass

    with server.faults.answer("GET", "/ws", silent):
        report = ask(server.url, timeout=1.5)
    assert failing(report)[0] == "greeting"
    assert "deaf" in report["greeting"].found


def test_a_socket_that_greets_and_answers_nothing_is_deaf_too(server: ComfyServer) -> None:
    """Pings are answered by the transport, messages by the server."""
    with server.faults.lose("feature_flags"):
        report = ask(server.url, timeout=1.5)
    assert failing(report) == ["echo"]
    assert "deaf" in report["echo"].found


def test_a_ping_that_is_not_answered_fails(server: ComfyServer) -> None:
    """What we send does not arrive."""
    with server.faults.swallow_pings():
        report = ask(server.url, timeout=1.5)
    assert "echo" in failing(report)


def test_a_prompt_without_its_events_tells_a_deaf_socket(server: ComfyServer) -> None:
    """History knows how it ended; nothing came by socket."""
    with server.faults.lose("exec*", "progress*"):
        report = ask(server.url, run=True)
    assert failing(report) == ["run"]
    assert "succeeded" in report["run"].found
    assert "deaf" in report["run"].advice


def test_the_clients_own_deaf_socket_is_found_by_a_run(server: ComfyServer) -> None:
    """Beside the doctor's, which hears."""
    with ComfyApi(server.url) as api, server.faults.deaf():
        report = api.doctor(run=True)
        assert report["run"].state == "ok"
        assert report["client"].state == "warning"
        assert "client_id" in report["client"].advice


def test_the_clients_own_socket_that_is_down_is_told(server: ComfyServer) -> None:
    """With its last failure, and that a fresh one works."""
    api = ComfyApi(server.url)
    with server.faults.refuse_sockets(404):
        api.init(timeout=10)
        server.until(lambda: api.state in (State.POLLING, State.WAITING), 20)
    report = api.doctor()
    api.close()
    if report["client"].state != "ok":  # unless it has dialled again just now
        assert "a fresh socket works now" in report["client"].advice
    assert report.ok


def test_no_socket_is_opened_by_who_wants_none(server: ComfyServer) -> None:
    """``transport="poll"`` means never."""
    report = ask(server.url, run=True, transport="poll")
    assert report.ok
    assert not server.handshakes
    assert states(report) == dict.fromkeys(("websocket", "greeting", "echo"), "unknown")


# -- what the server is and has ---------------------------------------------------------


def test_previews_are_off_on_or_for_each_prompt_to_choose() -> None:
    """By the command line of the server, which it tells; else nobody knows."""
    with ComfyServer(previews=False) as server:
        report = ask(server.url)
        assert states(report) == {"previews": "warning"}
        assert "--preview-method auto" in report["previews"].advice
        with server.faults.rewrite("GET", "/system_stats", without_argv):
            assert ask(server.url)["previews"].state == "unknown"
    with ComfyServer() as server:
        assert "name their node" in ask(server.url)["previews"].found
    with ComfyServer(version="0.8", previews=False) as server:
        assert "chooses" in ask(server.url)["previews"].found


def without_argv(stats: Any) -> Any:
    return {**stats, "system": {k: v for k, v in stats["system"].items() if k != "argv"}}


def test_an_old_server_is_told_with_what_it_lacks(server: ComfyServer) -> None:
    """By what it answers; no version is compared."""
    for route in ("/features", "/jobs/*"):
        server.faults.missing("*", route)
    report = ask(server.url)
    assert "0.3.45" in report["version"].advice
    assert "jobs API" in report["version"].advice
    assert report["upload"].state == "unknown"
    server.faults.missing("GET", "/system_stats")
    report = ask(server.url)
    assert report.ok
    assert {report[name].state for name in ("version", "memory", "previews")} == {"unknown"}


def test_scarce_memory_is_a_warning(server: ComfyServer) -> None:
    """With how to free some."""

    def scarce(stats: Any) -> Any:
        return {**stats, "devices": [{**stats["devices"][0], "vram_free": 1 << 20}]}

    with server.faults.rewrite("GET", "/system_stats", scarce):
        report = ask(server.url)
    assert states(report) == {"memory": "warning"}
    assert "free_memory" in report["memory"].advice


def test_users_are_asked_for_only_where_the_server_keeps_them(server: ComfyServer) -> None:
    """None given, an unknown one, a known one."""
    assert report_of_user(server, None) == "ok"
    with ComfyServer(multi_user=True) as shared:
        with ComfyApi(shared.url) as api:
            known = api.create_user("somebody")
        assert report_of_user(shared, None) == "warning"
        assert report_of_user(shared, "nobody-we-know") == "failed"
        assert report_of_user(shared, known) == "ok"


def report_of_user(server: ComfyServer, user: str | None) -> str:
    report = ask(server.url, user=user)
    assert "somebody" not in str(report)
    return report["user"].state


def test_a_queue_that_does_not_move_is_a_warning_and_the_run_is_taken_back(
    server: ComfyServer,
) -> None:
    """A worker that died leaves HTTP alive."""
    with server.faults.hang_worker(), Impatient(server.url) as api:
        api.submit(TRIVIAL)
        server.until(lambda: api.get_queue().running)
        report = api.doctor(run=True, timeout=6)  # in which a busy machine answers
        assert report["queue"].state == report["run"].state == "warning"
        assert "1 prompt of" in report["queue"].found
        assert not api.get_queue().pending


def test_clocks_that_differ_are_a_warning(server: ComfyServer) -> None:
    """By the Date of an answer."""
    old = {"Date": "Tue, 01 Jan 2019 00:00:00 GMT"}
    answer = (200, old, {"exec_info": {"queue_remaining": 0}})
    with server.faults.answer("GET", "/prompt", answer):
        report = ask(server.url)
    assert report["clock"].state == "warning"


def test_a_post_that_a_proxy_refuses_is_told_by_the_run(server: ComfyServer) -> None:
    """GET may pass while POST does not."""
    with server.faults.answer("POST", "/prompt", (403, {}, b"")):
        report = ask(server.url, run=True)
    assert failing(report) == ["run"]
    with server.faults.answer("POST", "/prompt", (400, {}, {"error": "no"})):
        report = ask(server.url, run=True)
    assert "EmptyImage" in report["run"].found


def test_junk_and_foreign_traffic_do_not_disturb(server: ComfyServer) -> None:
    """The socket brings what it likes."""
    with server.faults.junk(), server.faults.foreign_traffic():
        assert states(ask(server.url, run=True)) == {}


def test_ctrl_c_leaves_at_once() -> None:
    """Whatever a check is waiting for; here for one who accepts, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        api = ComfyApi(f"127.0.0.1:{silent.getsockname()[1]}")
        timer = threading.Timer(0.3, _thread.interrupt_main)
        timer.start()
        begun = time.monotonic()
        with contextlib.closing(api), pytest.raises(KeyboardInterrupt):
            api.doctor()
        assert time.monotonic() - begun < 5
        timer.join()


@pytest.mark.parametrize(("asked", "status", "words"), [("", 0, "run  "), ("0", 1, "FAILED")])
def test_the_command_prints_the_report(
    server: ComfyServer, asked: str, status: int, words: str
) -> None:
    """And its exit status tells whether anything failed."""
    host = server.url if not asked else f"127.0.0.1:{free_port()}"
    done = CliRunner().invoke(main, ["doctor", "--run", "--host", host, "--timeout", "20"])
    assert done.exit_code == status
    assert words in done.output
    assert "comfy_client doctor: " in done.output


# -- proxies ----------------------------------------------------------------------------


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


def test_no_proxy_stands_before_the_own_machine(
    server: ComfyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the environment says; and NO_PROXY is named where it decides."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    report = ask(server.url)
    assert report.ok
    assert "own machine" in report["proxy"].found
    monkeypatch.setenv("NO_PROXY", "no-such-name.invalid")
    report = ask("no-such-name.invalid")
    assert "none" in report["proxy"].found
    assert "NO_PROXY" in report["proxy"].found


def test_a_proxy_that_the_socket_cannot_take_is_told() -> None:
    """And what is no URL fails, without being shown."""
    report = ask("gpu.invalid", proxies={"http": "socks5://me:hunter2@127.0.0.1:9"})
    assert report["proxy"].state == "warning"
    assert "poll" in report["proxy"].advice
    for broken in ("http://me:hunter2@:99999", "http://", "http://[hunter2"):
        report = ask("gpu.invalid", proxies={"http": broken})
        assert failing(report)[0] == "proxy"
        assert "hunter2" not in str(report)


# -- it never raises, and tells no secret -----------------------------------------------


@pytest.fixture(scope="module")
def shared() -> Iterator[ComfyServer]:
    """A server for many examples."""
    with ComfyServer() as running:
        yield running


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
    ),
    max_leaves=8,
)
FACTS = {
    "/system_stats": ("system", "devices", "comfyui_version", "argv", "ram_free", "name"),
    "/features": ("supports_preview_metadata", "max_upload_size"),
    "/users": ("users", "storage"),
    "/prompt": ("exec_info", "queue_remaining"),
}


@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_it_never_raises_for_what_a_server_says(shared: ComfyServer, data: st.DataObject) -> None:
    """Any JSON in the place of any answer makes a report."""
    shared.faults.clear()
    for route, names in FACTS.items():
        if data.draw(st.booleans()):
            inner = st.dictionaries(st.sampled_from(names), JSON, max_size=3)
            body = st.dictionaries(
                st.sampled_from(names), JSON | inner | st.lists(inner), max_size=3
            )
            shared.faults.answer("GET", route, (200, {}, data.draw(body | JSON)))
    report = ask(shared.url, timeout=20)
    shared.faults.clear()
    assert str(report)
    assert "defect" not in str(report)


@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    status=st.sampled_from([200, 200, 201, 204, 299, 302, 400, 401, 403, 404, 407, 418, 500, 503]),
    kind=st.sampled_from(["", "application/json", "text/html", "text/plain; charset=klingon"]),
    body=st.binary(max_size=40) | JSON,
    route=st.sampled_from(["/prompt", "/ws", "/features", "/system_stats", "/users", "*"]),
)
def test_it_never_raises_for_how_a_server_says_it(
    shared: ComfyServer, status: int, kind: str, body: Any, route: str
) -> None:
    """Any status, any type, any bytes."""
    headers = {"Content-Type": kind} if kind else {}
    with shared.faults.answer("*", route, (status, headers, body)):
        report = ask(shared.url, run=True, timeout=20)
    assert "defect" not in str(report)


SECRETS = st.text(
    st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=":@/?#[]%,\\"),
    min_size=6,
    max_size=20,
).map(lambda text: f"S3{text}")


@settings(max_examples=examples(100), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), secrets=st.lists(SECRETS, min_size=11, max_size=11, unique=True))
def test_a_secret_is_nowhere_in_the_text_wherever_it_stood(
    shared: ComfyServer, data: st.DataObject, secrets: list[str]
) -> None:
    """Though the server repeats whatever it was sent, and more, in each place that is shown."""
    one, two, header, given_, cookie, name, password, param, client_id, *proxy = secrets
    kinds: list[Any] = [
        (one, two),
        BasicCredentials(one, two),
        HeaderCredentials({"X-Key": one, "X-More": f"{two} {one}"}),
        lambda: HeaderCredentials({"Authorization": f"Bearer {one}", "X-More": two}),
        QueryCredentials("token", one),
    ]
    session = requests.Session()
    session.headers["X-Session"] = header
    session.cookies.set("sid", cookie)
    session.auth = (name, password)
    session.params = {"p": param}
    is_refused = data.draw(st.booleans())
    kind = data.draw(st.sampled_from(kinds))
    known = [secret for secret in secrets if secret != two or kind is not kinds[-1]]

    def repeats(request: Request) -> Any:
        told = " ".join([request.target, *request.headers.values(), *known])
        if is_refused:
            return 401, {"WWW-Authenticate": told, "Server": told}, told
        system = {"comfyui_version": told, "os": told, "argv": ["--preview-method", told]}
        answers = {
            "/prompt": {"exec_info": {"queue_remaining": 0}},
            "/system_stats": {"system": system, "devices": [{"name": told}]},
            "/features": dict.fromkeys(known, 1),
            "/users": {"users": dict.fromkeys(known, "")},
        }
        return 200, {"Server": told}, answers.get(request.path, {})

    with session, shared.faults.answer("*", "*", repeats):
        report = ask(
            shared.url,
            client_id=client_id,
            credentials=kind,
            user=one,
            headers={"X-Given": given_},
            session=session,
            proxies={"http": f"http://{proxy[0]}:{proxy[1]}@127.0.0.1:9"},
        )
    told = str(report) + repr(report.checks)
    assert not [secret for secret in secrets if secret in told or secret[:5] in told]
    assert "***" in told


def test_a_password_that_is_a_word_of_ours_is_not_told_by_stars(server: ComfyServer) -> None:
    """Who knows the text would read it from what is hidden there."""
    report = ask(server.url, credentials=("server", "proxy"), run=True)
    assert states(report) == {}
    assert "***" not in str(report)


def test_names_of_people_are_no_part_of_it(
    server: ComfyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in paths, nor in the path of the server's address."""
    monkeypatch.setenv("HOME", "/home/alice")
    monkeypatch.setattr("getpass.getuser", lambda: "alice")
    verify = "/home/alice/own/ca.pem"
    for path in (verify, "/data/alice/ca.pem"):
        with contextlib.closing(ComfyApi("https://127.0.0.1:9", verify=path)) as api:
            redact = Redactor(api._http, api.client_id)
            assert "alice" not in redact(f"no file {path!r}, nor /mnt/alice")
    with ComfyServer(prefix="/user/alice/proxy") as prefixed:
        report = ask(prefixed.url, run=True)
    assert states(report) == {}
    assert "alice" not in str(report)
    assert report.host.endswith("/***")


# -- the real one -----------------------------------------------------------------------


@pytest.mark.real
def test_every_real_version_is_well(any_comfyui: ComfyUI) -> None:
    """What the servers of 2024 do not tell cannot be told; all else is fine."""
    report = ask(any_comfyui.url, run=True)
    assert report.ok
    untold = {"previews", "upload"} if any_comfyui.version.startswith("2024") else set()
    assert {name for name, state in states(report).items() if state == "unknown"} <= untold
    assert "executed" in report["run"].found


@pytest.mark.real
def test_a_real_one_behind_nginx(comfyui: ComfyUI, papers: Path) -> None:
    """Well, without upgrade, with a rewritten Host, with a password, with nothing behind."""
    users = {"users": "me:{PLAIN}secret"}
    basic = "auth_basic comfy; auth_basic_user_file users;"
    plain = "location / { proxy_pass http://127.0.0.1:{upstream}; }"
    with Nginx(comfyui.port, certificates=papers) as door:
        report = ask(door.url, run=True, verify=papers / "ca.pem")
        assert states(report) == {}
        assert "nginx" in report["http"].found
        assert "client" not in failing(ask(door.url))
    with Nginx(comfyui.port, plain) as door:
        report = ask(door.url, run=True)
        assert states(report, "origin") == {
            "websocket": "failed",
            "greeting": "unknown",
            "echo": "unknown",
        }
        assert report["origin"].state == "warning"
        assert "succeeded" in report["run"].found
    with Nginx(comfyui.port, basic, files=users) as door:
        assert failing(ask(door.url)) == ["auth"]
        assert states(ask(door.url, run=True, credentials=("me", "secret"))) == {}
    with Nginx(free_port()) as door:
        report = ask(door.url)
        assert failing(report) == ["comfyui"]
        assert "502" in report["comfyui"].found


@pytest.mark.real
def test_a_real_one_with_users_and_previews_off() -> None:
    """As the command line of the server has it."""
    with ComfyUI("--multi-user", "--preview-method", "none") as server:
        report = ask(server.url, user="nobody-we-know")
        assert failing(report) == ["user"]
        # Newer ones make previews for each prompt that wants some.
        per_prompt = has(server.version, "preview method")
        assert report["previews"].state == ("ok" if per_prompt else "warning")
