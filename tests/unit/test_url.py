"""Hosts in every form that people type them, and the values of a query."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfy_client.transport.http import query
from comfy_client.transport.url import Address, parse_host


@pytest.mark.parametrize(
    ("host", "http_url", "ws_url"),
    [
        ("http://127.0.0.1:8188", "http://127.0.0.1:8188", "ws://127.0.0.1:8188"),
        ("gpu-box", "http://gpu-box:8188", "ws://gpu-box:8188"),
        ("http:8188", "http://http:8188", "ws://http:8188"),
        ("http-1:8188", "http://http-1:8188", "ws://http-1:8188"),
        ("ws://gpu-box:8188/ws", "http://gpu-box:8188", "ws://gpu-box:8188"),
        ("ws://x:8188/ws?clientId=a-b", "http://x:8188", "ws://x:8188"),
        ("wss://x/comfy/ws/", "https://x/comfy", "wss://x/comfy"),
        ("http://x/ws", "http://x/ws", "ws://x/ws"),
        ("gpu_box:8000", "http://gpu_box:8000", "ws://gpu_box:8000"),
        ("  gpu-box:1/ \n", "http://gpu-box:1", "ws://gpu-box:1"),
        (":8188", "http://127.0.0.1:8188", "ws://127.0.0.1:8188"),
        ("8000", "http://127.0.0.1:8000", "ws://127.0.0.1:8000"),
        ("::1", "http://[::1]:8188", "ws://[::1]:8188"),
        ("[::1]:8000", "http://[::1]:8000", "ws://[::1]:8000"),
        ("http://GPU.Example.org", "http://gpu.example.org", "ws://gpu.example.org"),
        ("http://x:80/", "http://x", "ws://x"),
        ("https://x", "https://x", "wss://x"),
        ("https://x:443/comfy/", "https://x/comfy", "wss://x/comfy"),
        ("HTTPS://x:8188//a//b/", "https://x:8188/a/b", "wss://x:8188/a/b"),
        ("ws://x:8188", "http://x:8188", "ws://x:8188"),
        ("wss://x/comfy", "https://x/comfy", "wss://x/comfy"),
        ("gpu-box/comfy", "http://gpu-box:8188/comfy", "ws://gpu-box:8188/comfy"),
        ("http://x/a b/%C3%BC", "http://x/a%20b/%C3%BC", "ws://x/a%20b/%C3%BC"),
        ("0.0.0.0:8188", "http://127.0.0.1:8188", "ws://127.0.0.1:8188"),
        ("[::]:8188", "http://127.0.0.1:8188", "ws://127.0.0.1:8188"),
        ("münchen:8188", "http://xn--mnchen-3ya:8188", "ws://xn--mnchen-3ya:8188"),
        ("GRÖSSE.de:1", "http://xn--grsse-kua.de:1", "ws://xn--grsse-kua.de:1"),
        # IDNA 2008, as browsers and requests have it: fass.de belongs to somebody else.
        ("faß.de:1", "http://xn--fa-hia.de:1", "ws://xn--fa-hia.de:1"),
    ],
)
def test_hosts_become_urls(host: str, http_url: str, ws_url: str) -> None:
    """Scheme and port have defaults, a path is kept, https gives wss."""
    address, userinfo = parse_host(host)
    assert (address.http_url, address.ws_url) == (http_url, ws_url)
    assert userinfo is None


@pytest.mark.parametrize(
    ("host", "pair", "http_url"),
    [
        ("user:pass@host", ("user", "pass"), "http://host:8188"),
        ("https://user:pass@host/comfy", ("user", "pass"), "https://host/comfy"),
        ("us%40er:p%3Aw%2F@host:1", ("us@er", "p:w/"), "http://host:1"),
        ("user:p:w@host", ("user", "p:w"), "http://host:8188"),
        ("user:p@ss@host", ("user", "p@ss"), "http://host:8188"),
        ("user:p[a]s@[::1]:1", ("user", "p[a]s"), "http://[::1]:1"),
        ("user@host", ("user", ""), "http://host:8188"),
        (":pass@host", ("", "pass"), "http://host:8188"),
        ("@host", ("", ""), "http://host:8188"),
    ],
)
def test_userinfo_is_taken_out(host: str, pair: tuple[str, str], http_url: str) -> None:
    """Decoded, and in no URL."""
    address, userinfo = parse_host(host)
    assert userinfo == pair
    assert address.http_url == http_url


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("", "host must be a string"),
        ("   ", "host must be a string"),
        (None, "host must be a string"),
        (8188, "host must be a string"),
        ("http://", "names no server"),
        ("http:///comfy", "names no server"),
        ("http:/gpu-box", "a scheme ends with ://"),
        ("HTTPS:/gpu-box/comfy", "a scheme ends with ://"),
        ("http:gpu-box", "a scheme ends with ://"),
        ("http//gpu-box", "a scheme ends with ://"),
        ("ws:", "a scheme ends with ://"),
        ("http://http://gpu-box", "a scheme ends with ://"),
        ("me:secret@http:/gpu-box", "a scheme ends with ://"),
        ("gpu box", "names no server"),
        ("gpu\nbox", "names no server"),
        ("host:0", "names no server"),
        ("host:99999", "port"),
        ("host:http", "port"),
        ("host:80:90", "port"),
        ("a..b", "name:port"),
        ("x" * 64, "name:port"),
        ("ü" * 64, "name:port"),
        ("\u2603\ufe0f:1", "name:port"),
        ("[nonsense]:1", "name:port"),
        ("ftp://host", "scheme must be http or https"),
        ("http://host/?token=hunter2", "QueryCredentials"),
        ("http://host/#hunter2", "leave out"),
        ("user:hun/ter2@host", "percent-encode"),
        ("user:hun?ter2@host", "percent-encode"),
        ("user:12/hunter2@host", "percent-encode"),
    ],
)
def test_bad_hosts_are_refused_in_one_line(host: str, words: str) -> None:
    """``ValueError``, which says what to do."""
    with pytest.raises(ValueError, match="host") as caught:
        parse_host(host)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("tail", ["@host:port", "@ho st", "@", "@host?x", "@[zz]", "@a..b", "/@"])
@given(password=st.text(alphabet=st.sampled_from("aZ9:/?#@[]%\u2100 \\"), min_size=1))
def test_errors_never_repeat_a_password(tail: str, password: str) -> None:
    """Whatever signs stand in it."""
    secret = f"Zq7{password}Qz8"
    try:
        address, pair = parse_host(f"user:{secret}{tail}")
        shown = address.http_url
    except ValueError as exc:
        pair = None
        shown = str(exc)
    assert "Zq7" not in shown
    assert "Qz8" not in shown
    assert pair is None or "Zq7" in pair[1]


@given(st.text())
def test_any_text_is_an_address_or_a_value_error(text: str) -> None:
    """And an address parses to itself."""
    try:
        address, _ = parse_host(text)
    except ValueError:
        return
    assert parse_host(address.http_url) == (address, None)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("localhost.", True),
        ("app.localhost", True),
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("0.0.0.0", True),
        ("192.168.0.1", False),
        ("mylocalhost", False),
        ("localhost.example.org", False),
    ],
)
def test_localhost_is_recognised(host: str, loopback: bool) -> None:
    """By name and by number."""
    assert parse_host(host)[0].is_loopback is loopback


def test_the_implied_port_is_left_out() -> None:
    """As browsers and the Host header do."""
    assert Address("http", "x", 443).netloc == "x:443"
    assert Address("https", "x", 443).netloc == "x"


@pytest.mark.parametrize(("text", "sent"), [("max", "max"), ("the most", "the%20most")])
def test_a_value_of_a_query_is_what_str_makes_of_it(text: str, sent: str) -> None:
    """Whatever ``format()`` makes of it, and whether it has to be encoded or not."""

    class Named(float):
        def __str__(self) -> str:
            return text

        def __format__(self, _: str) -> str:
            return "1.0"

    assert query({"limit": Named(1)}) == f"?limit={sent}"


def test_slashes_of_a_query_are_encoded() -> None:
    """In names and values, whatever else they have."""
    assert query({"a/b": "c//d", "e": "/f g/"}) == "?a%2Fb=c%2F%2Fd&e=%2Ff%20g%2F"
