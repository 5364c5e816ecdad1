"""A real ComfyUI behind the doors that people have: proxies, TLS, passwords, users, IPv6."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from comfy_client import (
    ApiError,
    AuthenticationError,
    BasicCredentials,
    BearerCredentials,
    ComfyApi,
    JobFailed,
    QueryCredentials,
    ServerUnreachable,
    State,
    UnexpectedResponse,
    UploadTooLarge,
)
from comfy_client.timing import Timing
from tests.comfyui import ComfyUI
from tests.helpers.clients import until
from tests.helpers.doors import ForwardProxy, Nginx, certificates, names_lead_to

pytestmark = pytest.mark.real

Load = Callable[..., dict[str, Any]]

USERS = {"users": "me:{PLAIN}secret"}
BASIC = "auth_basic comfy; auth_basic_user_file users;"
# Forwards plain requests only: no Upgrade header reaches the server.
NO_UPGRADE = "location / { proxy_pass http://127.0.0.1:{upstream}; }"


class Eager(ComfyApi):
    """Pings and dials often."""

    timing = Timing(ping=0.4, cap=0.2)


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``ca.pem``, ``server.pem`` and ``client.pem``."""
    return certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def shared(comfyui: ComfyUI) -> Iterator[ComfyUI]:
    """A server with ``--multi-user``, on both loopback addresses."""
    with comfyui.another("--multi-user", "--listen", "127.0.0.1,::1") as server:
        yield server


@pytest.fixture
def forward(monkeypatch: pytest.MonkeyPatch) -> Iterator[ForwardProxy]:
    """A forward proxy that the environment names, with a password."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with ForwardProxy() as proxy:
        for name in ("HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, f"http://walker:by@{proxy.address}")
        yield proxy


def passes(api: ComfyApi, workflow: Load) -> None:
    """Requests, the socket, an upload and a download all get through."""
    name = api.upload_image(b"any bytes", "door.bin", overwrite=True).filename
    assert api.get_image({"filename": name, "type": "input"}) == b"any bytes"
    names: list[str] = []
    result = api.run(workflow("image_ops"), timeout=60, on_event=lambda e: names.append(e.name))
    assert api.connected
    assert {"execution_start", "execution_success"} <= set(names)
    assert result.images[0].bytes().startswith(b"\x89PNG")


# -- TLS --------------------------------------------------------------------------------


def test_a_private_ca_holds_for_http_socket_and_files(
    comfyui: ComfyUI, papers: Path, workflow: Load
) -> None:
    """``verify=path`` is all that it takes."""
    with (
        Nginx(comfyui.port, certificates=papers) as door,
        ComfyApi(door.url, verify=papers / "ca.pem") as api,
    ):
        passes(api, workflow)


def test_an_unknown_ca_is_an_error_at_once_with_what_to_do(comfyui: ComfyUI, papers: Path) -> None:
    """TLS does not mend by waiting."""
    with (
        Nginx(comfyui.port, certificates=papers) as door,
        pytest.raises(ServerUnreachable, match=r"TLS failed .*verify='ca.pem'") as caught,
        ComfyApi(door.url),
    ):
        pass
    assert not caught.value.retryable


@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
def test_verify_false_trusts_anyone(comfyui: ComfyUI, papers: Path, workflow: Load) -> None:
    """On HTTP and socket alike."""
    with (
        Nginx(comfyui.port, certificates=papers) as door,
        ComfyApi(door.url, verify=False) as api,
    ):
        passes(api, workflow)


def test_a_client_certificate_goes_on_http_and_socket(
    comfyui: ComfyUI, papers: Path, workflow: Load
) -> None:
    """Without it the error says what the proxy wanted."""
    server = f"ssl_client_certificate {papers}/ca.pem; ssl_verify_client on;"
    ca, mine = papers / "ca.pem", str(papers / "client.pem")
    with Nginx(comfyui.port, server, certificates=papers) as door:
        with ComfyApi(door.url, verify=ca, cert=mine) as api:
            passes(api, workflow)
        with (
            pytest.raises(ApiError, match="No required SSL certificate was sent"),
            ComfyApi(door.url, verify=ca),
        ):
            pass


def test_plain_http_to_a_tls_port_is_reported(comfyui: ComfyUI, papers: Path) -> None:
    """nginx answers 400 with a page."""
    with (
        Nginx(comfyui.port, certificates=papers) as door,
        pytest.raises(UnexpectedResponse, match="use https:// in host"),
        ComfyApi(door.url.replace("https", "http")),
    ):
        pass


# -- passwords --------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["tuple", "class", "host", "callable"])
def test_basic_auth_opens_http_socket_and_files(comfyui: ComfyUI, workflow: Load, way: str) -> None:
    """However the password is given."""
    with Nginx(comfyui.port, BASIC, files=USERS) as door:
        mine = ("me", "secret")
        ways: dict[str, Any] = {"tuple": mine, "class": BasicCredentials(*mine)}
        ways |= {"callable": lambda: mine, "host": None}
        host = door.url.replace("//", "//me:secret@") if way == "host" else door.url
        with ComfyApi(host, credentials=ways[way]) as api:
            passes(api, workflow)
            assert "secret" not in repr(api)


@pytest.mark.parametrize(
    ("given", "said"), [(None, "wants credentials"), (("me", "wrong"), "refused the credentials")]
)
def test_a_wrong_or_missing_password_is_an_error_at_once(
    comfyui: ComfyUI, given: tuple[str, str] | None, said: str
) -> None:
    """``auth_error`` fires, and :class:`AuthenticationError` says which it is."""
    with (
        Nginx(comfyui.port, BASIC, files=USERS) as door,
        pytest.raises(AuthenticationError, match=f"401.*{said}") as caught,
        ComfyApi(door.url, credentials=given),
    ):
        pass
    assert caught.value.status == 401
    assert "wrong" not in str(caught.value)


def test_a_password_for_the_socket_alone_is_an_error(comfyui: ComfyUI) -> None:
    """The handshake's 401 is no "no WebSocket here": init fails with it."""
    server = (
        f"location /ws {{ {BASIC} include forward.conf; }} location / {{ include forward.conf; }}"
    )
    with (
        Nginx(comfyui.port, server, files=USERS) as door,
        pytest.raises(AuthenticationError, match=r"the socket .*401; pass credentials"),
        ComfyApi(door.url),
    ):
        pass


def test_a_bearer_token_opens_the_door(comfyui: ComfyUI, workflow: Load) -> None:
    """As a map of tokens in nginx."""
    http = 'map $http_authorization $stranger { default 1; "Bearer t0ken" ""; }'
    with Nginx(comfyui.port, "if ($stranger) { return 401; }", http=http) as door:
        with ComfyApi(door.url, credentials=BearerCredentials("t0ken")) as api:
            passes(api, workflow)
        with (
            pytest.raises(AuthenticationError),
            ComfyApi(door.url, credentials=BearerCredentials("old")),
        ):
            pass


def test_a_token_in_the_query_opens_the_door(comfyui: ComfyUI, workflow: Load) -> None:
    """It is on every request and on the handshake, and in no message."""
    with Nginx(comfyui.port, "if ($arg_token != s3cret) { return 403; }") as door:
        with ComfyApi(door.url, credentials=QueryCredentials("token", "s3cret")) as api:
            passes(api, workflow)
        with (
            pytest.raises(AuthenticationError, match="403") as caught,
            ComfyApi(door.url, credentials=QueryCredentials("token", "w0rd")),
        ):
            pass
        assert "w0rd" not in str(caught.value)


def test_a_login_in_a_given_session_goes_on_the_handshake(comfyui: ComfyUI, workflow: Load) -> None:
    """A page that sets a cookie, as login pages do."""
    server = (
        'location /login { add_header Set-Cookie "login=yes; Path=/"; return 200; }'
        "location / { if ($cookie_login != yes) { return 401; } include forward.conf; }"
    )
    with Nginx(comfyui.port, server) as door, requests.Session() as session:
        with pytest.raises(AuthenticationError), ComfyApi(door.url, session=session):
            pass
        session.post(f"{door.url}/login", data={"password": "secret"}, timeout=60)
        with ComfyApi(door.url, session=session) as api:
            passes(api, workflow)


def test_a_sticky_cookie_binds_the_socket_to_the_same_server(
    comfyui: ComfyUI, workflow: Load
) -> None:
    """What a load balancer sets on the first answer comes back on the handshake."""
    server = (
        'location / { add_header Set-Cookie "route=b; Path=/"; include forward.conf; }'
        "location /ws { if ($cookie_route != b) { return 503; } include forward.conf; }"
    )
    with Nginx(comfyui.port, server) as door, ComfyApi(door.url) as api:
        passes(api, workflow)


# -- paths, limits, pauses --------------------------------------------------------------


def test_a_path_prefix_is_before_every_route(comfyui: ComfyUI, workflow: Load) -> None:
    """Requests, socket, files, and the URLs that are given out."""
    server = (
        "location /comfy/ { proxy_pass http://127.0.0.1:{upstream}/;"
        "proxy_set_header Host $http_host; include upgrade.conf; }"
    )
    with Nginx(comfyui.port, server) as door:
        for host in (f"{door.url}/comfy/", f"{door.url}/comfy"):
            with ComfyApi(host) as api:
                passes(api, workflow)
                url = api.get_path_image({"filename": "testbed.png", "type": "input"})
                assert requests.get(url, timeout=60).content.startswith(b"\x89PNG")
        assert all(" /comfy/" in line for line in door.requests("api"))


def test_a_socket_that_the_proxy_ends_when_quiet_loses_no_job(
    comfyui: ComfyUI, workflow: Load
) -> None:
    """A proxy with less patience than our pings: reconnects, and the job ends right."""
    with Nginx(comfyui.port, "proxy_read_timeout 1s;") as door, ComfyApi(door.url) as api:
        events: list[Any] = []
        api.on("all", events.append)
        result = api.run(workflow("sleep", seconds=4.0, ticks=1), timeout=60)
        assert result.texts == ("slept",)
        until(lambda: "reconnected" in [event.name for event in events])
        assert [event.name for event in events].count("execution_success") == 1


def test_pings_keep_a_quiet_socket_open(comfyui: ComfyUI, workflow: Load) -> None:
    """A proxy with more patience than our pings never sees a quiet socket."""
    with Nginx(comfyui.port, "proxy_read_timeout 6s;") as door, Eager(door.url) as api:
        events: list[Any] = []
        api.on("all", events.append)
        api.run(workflow("sleep", seconds=13.0, ticks=1), timeout=60)
        assert "disconnected" not in [event.name for event in events]


@pytest.mark.soak
@pytest.mark.timeout(180)
def test_ten_seconds_of_patience_are_enough(comfyui: ComfyUI, workflow: Load) -> None:
    """With our own defaults: a job that is silent for 25 s, and no reconnect."""
    with Nginx(comfyui.port, "proxy_read_timeout 10s;") as door, ComfyApi(door.url) as api:
        events: list[Any] = []
        api.on("all", events.append)
        result = api.run(workflow("sleep", seconds=25.0, ticks=1), timeout=100)
        assert result.texts == ("slept",)
        assert "disconnected" not in [event.name for event in events]


def test_the_default_ping_is_more_frequent_than_any_common_patience() -> None:
    """Ten seconds are the shortest that proxies are known to be set to."""
    assert ComfyApi.timing.ping < 10


def test_a_body_limit_of_the_proxy_is_an_error(comfyui: ComfyUI, workflow: Load) -> None:
    """413 as HTML, for an upload that the proxy does not read, and for a prompt."""
    graph = workflow("sleep", text="x" * (2 << 20), seconds=0.0)
    with Nginx(comfyui.port, "client_max_body_size 1m;") as door, ComfyApi(door.url) as api:
        for size in (2 << 20, 40 << 20):
            with pytest.raises(UploadTooLarge, match="body limit of the proxy") as caught:
                api.upload_image(bytes(size), "big.bin")
            assert caught.value.status == 413
            assert (caught.value.size or 0) >= size
        with pytest.raises(UploadTooLarge):
            api.run(graph, timeout=60)
        with pytest.raises(UploadTooLarge):
            api.queue_prompt(None, graph)
        passes(api, workflow)


def test_large_files_pass_a_proxy_that_buffers_and_compresses(
    comfyui: ComfyUI, tmp_path: Path
) -> None:
    """What goes up and comes down is the same, byte for byte."""
    content = os.urandom(1 << 20) * 30
    server = "client_max_body_size 0; gzip on; gzip_types *; gzip_proxied any; gzip_min_length 1;"
    with Nginx(comfyui.port, server) as door, ComfyApi(door.url) as api:
        up = api.upload_image(content, "large.bin", overwrite=True)
        path = api.download_image({"filename": up.filename, "type": "input"}, tmp_path / "large")
        assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(content).digest()
        assert "SaveImage" in api.get_node_defs()


# -- doors that do not let a socket through ---------------------------------------------


def test_without_websocket_polling_carries_runs_and_events(
    comfyui: ComfyUI, workflow: Load
) -> None:
    """Each job has its one end event, and ``status`` keeps coming."""
    with (
        Nginx(comfyui.port, NO_UPGRADE) as door,
        ComfyApi(door.url) as api,
    ):
        assert api.state is State.POLLING
        events: list[Any] = []
        api.on("all", events.append)
        result = api.run(workflow("image_ops"), timeout=60)
        assert result.images[0].bytes().startswith(b"\x89PNG")
        with pytest.raises(JobFailed, match="failed as told") as caught:
            api.run(workflow("fail"), timeout=60)
        assert caught.value.class_type == "TestFail"
        job = api.submit(workflow("sleep", seconds=60.0))
        busy = api.wait_for("status", lambda e: e.queue_remaining, timeout=30)
        assert busy.queue_remaining == 1
        until(lambda: api.interrupt() or job.done())  # about to begin, it would not heed it
        with pytest.raises(Exception, match="interrupted"):
            job.result(60)
        ends = [e for e in events if e.name.startswith("execution_")]
        assert [e.name for e in ends] == [
            "execution_success",
            "execution_error",
            "execution_interrupted",
        ]
        assert all(e.recovered for e in ends)


@pytest.mark.timing(silence=20.0, deaf=20.0)  # for which it sleeps when there is nothing to do
def test_without_websocket_a_quick_prompt_is_noticed_quickly(
    comfyui: ComfyUI, workflow: Load
) -> None:
    """The thread that asks may be asleep when a prompt is submitted: it is woken."""
    with Nginx(comfyui.port, NO_UPGRADE) as door, ComfyApi(door.url) as api:
        start = time.monotonic()
        for _ in range(6):
            api.run(workflow("sleep", seconds=0.0, ticks=1), timeout=60)
        assert time.monotonic() - start < 95  # not 20 for each but the first


def test_a_missing_websocket_is_published_once(comfyui: ComfyUI) -> None:
    """``websocket_unavailable``, however often it is tried."""
    with Nginx(comfyui.port, NO_UPGRADE) as door:
        api = Eager(door.url)
        told: list[Any] = []
        api.on("websocket_unavailable", told.append)
        with api:
            until(lambda: told and len(door.requests("GET /ws")) > 4)
        assert len(told) == 1
        assert "HTTP 400" in str(told[0].error)


# -- doors that lead elsewhere ----------------------------------------------------------


def test_a_redirect_to_https_names_https(comfyui: ComfyUI, papers: Path) -> None:
    """It is not followed: credentials would have gone over the open line already."""
    with (
        Nginx(comfyui.port, "return 301 https://$host$request_uri;") as door,
        pytest.raises(UnexpectedResponse, match=r"301.* use https:// in host"),
        ComfyApi(door.url),
    ):
        pass


def test_a_redirect_to_a_login_page_is_an_error_and_not_followed(
    comfyui: ComfyUI, workflow: Load
) -> None:
    """302 to a page: no POST becomes a GET, and none is sent twice."""
    server = (
        "location = /api/prompt { if ($request_method = POST) { return 302 /login; }"
        "include forward.conf; } location /login { return 200 hello; }"
        "location = /api/queue { return 302 https://login.example/?next=queue; }"
        "location / { include forward.conf; }"
    )
    with Nginx(comfyui.port, server) as door, ComfyApi(door.url) as api:
        with pytest.raises(UnexpectedResponse, match=r"redirected to \S+/login, .*not followed"):
            api.run(workflow("sleep", seconds=0.0), timeout=60)
        with pytest.raises(UnexpectedResponse, match=r"https://login.example/.*login page"):
            api.get_queue()
        assert door.requests("/login") == []
        assert len(door.requests("POST /api/prompt 302")) == 1


def test_a_login_page_in_place_of_the_answer_is_an_error(comfyui: ComfyUI) -> None:
    """200 and HTML, as single-page logins do."""
    server = 'location / { default_type text/html; return 200 "<h1>Log in</h1>"; }'
    with (
        Nginx(comfyui.port, server) as door,
        pytest.raises(UnexpectedResponse, match="login page"),
        ComfyApi(door.url),
    ):
        pass


def test_a_rewritten_host_is_no_matter_since_no_origin_is_sent(
    comfyui: ComfyUI, workflow: Load
) -> None:
    """ComfyUI refuses where Origin and Host differ; an Origin of one's own shows it."""
    server = (
        "location / { proxy_pass http://127.0.0.1:{upstream};"
        "proxy_set_header Host 127.0.0.1:{upstream}; include upgrade.conf; }"
    )
    with Nginx(comfyui.port, server) as door:
        with ComfyApi(door.url) as api:
            passes(api, workflow)
        with (
            pytest.raises(AuthenticationError, match=r"403 .*Origin differs from its Host"),
            ComfyApi(door.url, headers={"Origin": "https://pictures.example"}),
        ):
            pass


# -- forward proxies --------------------------------------------------------------------


def test_localhost_is_never_reached_through_a_proxy(
    comfyui: ComfyUI, forward: ForwardProxy, workflow: Load
) -> None:
    """Neither by address nor by name."""
    for host in (comfyui.url, f"localhost:{comfyui.port}"):
        with ComfyApi(host) as api:
            passes(api, workflow)
    assert forward.asked == []


def test_http_and_socket_take_the_proxy_of_the_environment(
    comfyui: ComfyUI, forward: ForwardProxy, workflow: Load
) -> None:
    """Both by name, with the proxy's password for the proxy alone."""
    with (
        Nginx(comfyui.port) as door,
        ComfyApi(f"comfy.example:{door.port}") as api,
    ):
        passes(api, workflow)
        told = door.requests()
    asked = {(item.method, item.target) for item in forward.asked}
    assert ("CONNECT", f"comfy.example:{door.port}") in asked
    assert ("POST", f"http://comfy.example:{door.port}/api/prompt") in asked
    assert {item.authorization for item in forward.asked} == {"Basic d2Fsa2VyOmJ5"}
    assert told
    assert all(line.endswith("proxy-authorization=-") for line in told)


def test_https_goes_through_a_tunnel_with_nothing_to_read(
    comfyui: ComfyUI, forward: ForwardProxy, papers: Path, workflow: Load
) -> None:
    """The server's password is inside of it, the proxy's password is not."""
    with Nginx(comfyui.port, BASIC, files=USERS, certificates=papers) as door:
        host = f"https://comfy.example:{door.port}"
        with ComfyApi(host, credentials=("me", "secret"), verify=papers / "ca.pem") as api:
            passes(api, workflow)
        assert all(line.endswith("proxy-authorization=-") for line in door.requests())
    assert {(a.method, a.target) for a in forward.asked} == {
        ("CONNECT", f"comfy.example:{door.port}")
    }
    assert {item.authorization for item in forward.asked} == {"Basic d2Fsa2VyOmJ5"}


def test_no_proxy_is_honoured_by_both(
    comfyui: ComfyUI, forward: ForwardProxy, monkeypatch: pytest.MonkeyPatch, workflow: Load
) -> None:
    """``NO_PROXY=example`` covers the names below it; ``proxies={}`` covers all."""
    with names_lead_to("127.0.0.1"):
        with ComfyApi(f"comfy.example:{comfyui.port}", proxies={}) as api:
            passes(api, workflow)
        monkeypatch.setenv("NO_PROXY", "example")
        with ComfyApi(f"comfy.example:{comfyui.port}") as api:
            passes(api, workflow)
    assert forward.asked == []


def test_a_proxy_that_tunnels_nothing_leaves_polling(
    comfyui: ComfyUI, forward: ForwardProxy, workflow: Load
) -> None:
    """Company proxies often refuse CONNECT to odd ports; HTTP passes."""
    forward.refuses_tunnels = True
    with ComfyApi(f"comfy.example:{comfyui.port}") as api:
        assert api.state is State.POLLING
        assert "proxy" in str(api.parts.connection.error)
        assert api.run(workflow("image_ops"), timeout=60).images


def test_a_proxy_that_tunnels_nothing_is_an_error_for_https(forward: ForwardProxy) -> None:
    """There is no other way in, and waiting does not mend it."""
    forward.refuses_tunnels = True
    with (
        pytest.raises(ServerUnreachable, match=r"the proxy on the way .*403") as caught,
        ComfyApi("https://comfy.example"),
    ):
        pass
    assert not caught.value.retryable
    assert len(forward.asked) == 1
    assert "walker" not in str(caught.value)


def test_a_given_proxy_is_for_both(
    comfyui: ComfyUI, forward: ForwardProxy, monkeypatch: pytest.MonkeyPatch, workflow: Load
) -> None:
    """``proxies=``, whatever the environment says."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    given = {"http": f"http://{forward.address}"}
    with ComfyApi(f"comfy.example:{comfyui.port}", proxies=given) as api:
        passes(api, workflow)
    assert {item.method for item in forward.asked} == {"CONNECT", "GET", "POST"}
    assert {item.authorization for item in forward.asked} == {""}


def test_a_proxy_that_is_away_is_named(
    monkeypatch: pytest.MonkeyPatch, forward: ForwardProxy
) -> None:
    """Not "is ComfyUI running?"."""
    forward.__exit__()
    api = ComfyApi("comfy.example")
    with pytest.raises(ServerUnreachable, match=r"the proxy on the way .*refused") as caught:
        api.init(timeout=3)
    api.close()
    assert "walker" not in str(caught.value)


# -- users ------------------------------------------------------------------------------


@pytest.mark.needs("list_user_data_v2")
def test_each_user_has_settings_and_files_of_their_own(shared: ComfyUI, workflow: Load) -> None:
    """``user=`` is the id that ``create_user`` gives."""
    with ComfyApi(shared.url) as anyone:
        ids = [anyone.create_user(name) for name in ("ann", "bob")]
        assert set(ids) <= set(anyone.get_user_config().users or ())
    apis = [ComfyApi(shared.url, user=user) for user in ids]
    for api, user in zip(apis, ids, strict=True):
        api.store_setting("Comfy.Door", user)
        api.store_user_data("note.txt", user.encode())
    for api, user in zip(apis, ids, strict=True):
        with api:
            assert api.get_setting("Comfy.Door") == user
            assert api.get_user_data("note.txt") == user.encode()
            passes(api, workflow)


@pytest.mark.needs("list_user_data_v2")
def test_an_unknown_user_is_named_in_the_error(shared: ComfyUI) -> None:
    """Settings answer 401, user data 500 or 400; both errors name the user."""
    with ComfyApi(shared.url, user="nobody") as api:
        with pytest.raises(AuthenticationError, match="the user 'nobody' is not known"):
            api.get_settings()
        for call in (lambda: api.list_user_data("x"), lambda: api.store_user_data("x", b"x")):
            with pytest.raises(ApiError) as caught:
                call()
            assert "the user 'nobody' is not known" in str(caught.value.__notes__)


# -- addresses --------------------------------------------------------------------------


def test_an_ipv6_address_is_a_host(shared: ComfyUI, workflow: Load) -> None:
    """In brackets."""
    with ComfyApi(f"[::1]:{shared.port}") as api:
        passes(api, workflow)


@pytest.mark.parametrize("order", [("::1", "127.0.0.1"), ("127.0.0.1", "::1")])
@pytest.mark.parametrize("listens_on", ["127.0.0.1", "[::1]"])
def test_localhost_finds_the_server_on_either_address(
    comfyui: ComfyUI, workflow: Load, listens_on: str, order: tuple[str, str]
) -> None:
    """Whichever the name leads to first, for HTTP and socket."""
    with (
        Nginx(comfyui.port, host=listens_on) as door,
        names_lead_to(*order),
        ComfyApi(f"localhost:{door.port}") as api,
    ):
        passes(api, workflow)


# -- many -------------------------------------------------------------------------------


def test_fifty_clients_live_in_one_process(comfyui: ComfyUI, workflow: Load) -> None:
    """Each has its socket and its job; closed, they leave no thread and no socket."""
    before = set(threading.enumerate())
    apis = [ComfyApi(comfyui.url) for _ in range(50)]
    with ThreadPoolExecutor(50) as pool:
        list(pool.map(lambda api: api.init(timeout=60), apis))
        assert all(api.connected for api in apis)
        graph = workflow("sleep", seconds=0.01, ticks=1)
        results = list(pool.map(lambda api: api.run(graph, timeout=60), apis))
        assert [result.texts for result in results] == [("slept",)] * 50
        assert len({result.prompt_id for result in results}) == 50
        list(pool.map(ComfyApi.close, apis))
    for thread in set(threading.enumerate()) - before:
        thread.join(60)
    assert set(threading.enumerate()) <= before
