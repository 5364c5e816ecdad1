"""TLS: whom to trust, and certificates of our own."""

from __future__ import annotations

import contextlib
import socket
import ssl
import warnings
from pathlib import Path

import pytest
import requests
import trustme

from comfy_client import ComfyApi
from comfy_client.errors import (
    ServerUnreachable,
    TransportError,
    UnexpectedResponse,
)
from comfy_client.testing import ComfyServer
from comfy_client.transport.url import parse_host
from tests.helpers.clients import quickly
from tests.helpers.http import (
    HTML,
    answers,
    head_of,
    opened,
    raw_server,
)


def test_an_unknown_ca_is_refused_with_advice(secure: str) -> None:
    """It will not mend by waiting; the advice is the right one."""
    with opened(secure) as http, pytest.raises(ServerUnreachable, match="verify=") as caught:
        http.json("GET", "/prompt")
    assert not caught.value.retryable
    assert "TLS failed" in str(caught.value)


def test_verify_environment_or_session_decides_which_tls_is_trusted(
    secure: str, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By path, by environment, by the Session, or not verified at all; the socket likewise."""
    for verify in (bundle, str(bundle)):
        with opened(secure, verify=verify) as http:
            assert http.json("GET", "/prompt") == {"exec_info": {}}
            assert http.endpoint.ssl_context.verify_mode is ssl.CERT_REQUIRED
            assert len(http.endpoint.ssl_context.get_ca_certs()) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # urllib3 says that this is unsafe
        with opened(secure, verify=False) as http:
            assert http.json("GET", "/prompt") == {"exec_info": {}}
            assert http.endpoint.ssl_context.verify_mode is ssl.CERT_NONE
    with requests.Session() as session:
        session.verify = str(bundle)
        with opened(secure, session=session) as http:
            assert http.json("GET", "/prompt") == {"exec_info": {}}
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
    with opened(secure) as http:
        assert http.json("GET", "/prompt") == {"exec_info": {}}


def test_a_certificate_for_another_name_is_refused(bundle: Path, ca: trustme.CA) -> None:
    """Even when the CA is trusted."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("gpu.test").configure_cert(context)
    with (
        raw_server(answers((200, {}, {})), context) as port,
        opened(f"https://127.0.0.1:{port}", verify=bundle) as http,
        pytest.raises(ServerUnreachable, match="TLS failed"),
    ):
        http.json("GET", "/prompt")


def test_a_cut_in_the_tls_handshake_is_a_cut() -> None:
    """No fault of certificates: a proxy that starts anew ends its connections so."""

    def serve(connection: socket.socket) -> None:
        connection.recv(65536)

    with raw_server(serve) as port, opened(f"https://127.0.0.1:{port}") as http:
        with pytest.raises(TransportError, match="cut") as caught:
            http.request("GET", "/prompt")
        assert type(caught.value) is TransportError


def test_client_certificates_are_shown(ca: trustme.CA, bundle: Path, tmp_path: Path) -> None:
    """A server that asks for one."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    ca.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    mine = ca.issue_cert("me@example.org")
    both, certificate, key = (str(tmp_path / n) for n in ("both.pem", "cert.pem", "key.pem"))
    mine.private_key_and_cert_chain_pem.write_to_path(both)
    mine.cert_chain_pems[0].write_to_path(certificate)
    mine.private_key_pem.write_to_path(key)
    with raw_server(answers((200, {}, {"ok": 1})), context) as port:
        host = f"https://127.0.0.1:{port}"
        for cert in (both, (certificate, key)):
            with opened(host, verify=bundle, cert=cert) as http:
                assert http.json("GET", "/prompt") == {"ok": 1}
                assert isinstance(http.endpoint.ssl_context, ssl.SSLContext)
        with opened(host, verify=bundle) as http, pytest.raises(TransportError):
            http.json("GET", "/prompt")


def test_certificates_and_credentials_go_to_no_other_server(papers: Path) -> None:
    """What stores files for a server may be anybody's."""
    storage, _ = parse_host("https://storage.example")
    certificate = str(papers / "client.pem")
    with opened("https://here.example", cert=certificate, credentials=("me", "secret")) as http:
        there = http.endpoint.elsewhere(storage)
        assert http.endpoint.cert == certificate
        assert there.cert is None
        assert there.session.auth is None
        assert "Authorization" not in there.session.headers


def test_a_missing_bundle_or_certificate_is_named(
    secure: str, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``FileNotFoundError``, not a failure of the connection."""
    with (
        opened(secure, verify="/no/ca.pem") as http,
        pytest.raises(FileNotFoundError, match="/no/"),
    ):
        http.json("GET", "/prompt")
    with (
        opened(secure, verify=bundle, cert=("/no/cert.pem", "/no/key.pem")) as http,
        pytest.raises(FileNotFoundError, match="cert="),
    ):
        http.json("GET", "/prompt")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/no/env.pem")
    with opened(secure) as http, pytest.raises(FileNotFoundError, match="REQUESTS_CA_BUNDLE"):
        http.json("GET", "/prompt")


def test_https_to_a_plain_port_says_use_http(comfy: ComfyServer) -> None:
    """And plain http to an https port hints at https."""
    with (
        opened(comfy.url.replace("http:", "https:")) as http,
        pytest.raises(ServerUnreachable, match="use http:// in host"),
    ):
        http.json("GET", "/prompt")


@pytest.mark.parametrize(
    "says",
    [
        "<html><title>400 The plain HTTP request was sent to HTTPS port</title></html>",
        "Reason: You're speaking plain HTTP to an SSL-enabled server port.",
        "Client sent an HTTP request to an HTTPS server.\n",
    ],
    ids=["nginx", "Apache", "Go"],
)
def test_a_server_that_says_it_wants_https_is_understood(comfy: ComfyServer, says: str) -> None:
    """In words of our own, and at once."""
    comfy.on("*", "*", (400, HTML, says))
    with (
        contextlib.closing(ComfyApi(comfy.url)) as api,
        pytest.raises(UnexpectedResponse, match="use https:// in host"),
    ):
        api.init()


@pytest.mark.parametrize("says", ["nothing", "an alert"])
def test_init_finds_out_that_a_server_which_hangs_up_wants_https(ca: trustme.CA, says: str) -> None:
    """As ComfyUI with a certificate does; one that merely hangs up is waited for."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("127.0.0.1").configure_cert(context)

    def handle(connection: socket.socket) -> None:
        if connection.recv(1, socket.MSG_PEEK) != b"\x16":  # no ClientHello
            connection.recv(65536)
            return
        if says == "an alert":  # as who wants a certificate of ours
            connection.recv(65536)
            connection.sendall(b"\x15\x03\x03\x00\x02\x02\x28")
            return
        with context.wrap_socket(connection, server_side=True) as secured:
            secured.recv(1)

    with raw_server(handle) as port, contextlib.closing(ComfyApi(f"127.0.0.1:{port}")) as api:
        with quickly(), pytest.raises(ServerUnreachable, match="use https:// in host") as caught:
            api.init(timeout=60)
        assert not caught.value.retryable
    with (
        raw_server(lambda c: head_of(c)) as port,
        contextlib.closing(ComfyApi(f"127.0.0.1:{port}")) as api,
        pytest.raises(TransportError, match="cut"),
    ):
        api.init(timeout=4.0)


def test_plain_http_to_an_https_port_is_a_typed_error(secure: str) -> None:
    """What arrives is no HTTP, or nothing."""
    with (
        opened(secure.replace("https:", "http:")) as http,
        pytest.raises((UnexpectedResponse, TransportError)),
    ):
        http.json("GET", "/prompt", timeout=5)
