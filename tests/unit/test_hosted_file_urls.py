"""Where the URLs of files lead: never from https to http, never to a login, never by a mistake."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfy_client.hosted.file_urls import FileAddress, place_of, redirected
from comfy_client.hosted.files import AssetFile
from comfy_client.transport.url import parse_host

HTTPS, _ = parse_host("https://gate.example/mounted/api")
HTTP, _ = parse_host("http://127.0.0.1:8189")


@pytest.mark.parametrize(
    ("url", "base", "path"),
    [
        ("/api/v2/x", "https://gate.example", "/api/v2/x"),  # not below the path of the base
        ("a/b", "https://gate.example", "/a/b"),
        ("https://gate.example:443/x", "https://gate.example", "/x"),
        ("https://GATE.example/x", "https://gate.example", "/x"),
        ("https://other.example/x;y?q#f", "https://other.example", "/x;y"),
        ("//other.example/x", "https://other.example", "/x"),
        ("https://other.example:8443/", "https://other.example:8443", "/"),
    ],
)
def test_a_url_leads_to_a_place(url: str, base: str, path: str) -> None:
    """Absolute, or relative to scheme and host of the base."""
    place = place_of(url, HTTPS)
    assert place is not None
    assert (place.address.http_url, place.path) == (base, path)


@pytest.mark.parametrize(
    "url",
    [
        "http://gate.example/x",
        "http://other.example/x",
        "https://me@gate.example/x",
        "https://me:secret@gate.example/x",
        "ftp://gate.example/x",
        "file:///etc/passwd",
        "data:text/plain,x/y",
        "https://",
        "https:///x",
        "https:gate.example/x",
        "//",
        "https://[::1/x",
        "https://gate.example:0/x",
        "https://gate.example:99999/x",
        "https://gate.example/a b",
        "https://gate.example\\@other.example/x",
        "https://gate.example/\n",
        "https://größe.example/x",
        "",
        None,
        5,
    ],
)
def test_a_url_leads_nowhere(url: object) -> None:
    """The base speaks https, and so must the place."""
    assert place_of(url, HTTPS) is None


@given(st.text() | st.from_regex(r"(https?:)?//[^/]{0,20}(/.{0,20})?"))
def test_any_text_is_a_place_or_none(url: str) -> None:
    """A server may send anything."""
    for base in (HTTP, HTTPS):
        place = place_of(url, base)
        if place is not None:
            assert place.address.scheme in ("https", base.scheme)
            assert place.path.startswith("/")
            assert (place.path + place.query).isascii()
            assert (place.path + place.query).isprintable()


def test_a_redirect_is_relative_to_where_it_came_from() -> None:
    """And may go from http to https, but not back."""
    start = FileAddress(HTTP, "/a/b", "")
    assert redirected("c?d=1", start) == FileAddress(HTTP, "/a/c", "d=1")
    secure = redirected("https://storage.example/x", start)
    assert secure is not None
    assert redirected("/y", secure) == FileAddress(secure.address, "/y", "")
    assert redirected("http://storage.example/x", secure) is None
    assert redirected("http://127.0.0.1:8189/", secure) is None


def test_a_signature_is_in_no_repr() -> None:
    """Frames of a traceback show the values of variables."""
    url = "https://other.example/x?sig=secret"
    place, file = place_of(url, HTTPS), AssetFile.of({"url": url})
    assert place is not None
    assert place.query == "sig=secret"
    assert "secret" not in repr(place)
    assert "secret" not in repr([place.query, file.url])
