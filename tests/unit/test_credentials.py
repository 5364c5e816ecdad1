"""Credentials of every kind, and what must not be seen of them."""

from __future__ import annotations

import base64
import pickle
import warnings
from typing import Any

import pytest

from comfy_client.credentials import (
    BasicCredentials,
    BearerCredentials,
    EnvCredentials,
    HeaderCredentials,
    QueryCredentials,
)
from comfy_client.errors import AuthenticationError
from comfy_client.recording.secrets import Secrets
from comfy_client.transport.identity import (
    NOTHING,
    Applied,
    Endpoint,
    Identity,
    apply_credentials,
    check_credentials,
    warned,
)
from comfy_client.transport.url import parse_host

SECRET = "hunter2-geheim"


def basic(pair: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}


class Own:
    def headers(self) -> dict[str, str]:
        return {"X-Own": SECRET}

    def query(self) -> dict[str, str]:
        return {"own": SECRET}


@pytest.mark.parametrize(
    ("given", "headers", "query"),
    [
        (None, {}, {}),
        (("me", SECRET), basic(f"me:{SECRET}"), {}),
        (BasicCredentials("mé", "pässword"), basic("mé:pässword"), {}),
        (BearerCredentials(SECRET), {"Authorization": f"Bearer {SECRET}"}, {}),
        (HeaderCredentials({"X-API-Key": SECRET}), {"X-API-Key": SECRET}, {}),
        (QueryCredentials("token", SECRET), {}, {"token": SECRET}),
        (Own(), {"X-Own": SECRET}, {"own": SECRET}),
        (lambda: ("me", "x"), basic("me:x"), {}),
        (lambda: BearerCredentials("x"), {"Authorization": "Bearer x"}, {}),
        (lambda: None, {}, {}),
    ],
)
def test_each_kind_comes_to_headers_and_query(given: Any, headers: Any, query: Any) -> None:
    """The same for HTTP and for the socket."""
    assert apply_credentials(given) == Applied(headers, query)


@pytest.mark.parametrize(
    ("kind", "value", "headers", "query"),
    [
        ("bearer", SECRET, {"Authorization": f"Bearer {SECRET}"}, {}),
        ("basic", f"me:{SECRET}:x", basic(f"me:{SECRET}:x"), {}),
        ("header", SECRET, {"X-Key": SECRET}, {}),
        ("query", SECRET, {}, {"X-Key": SECRET}),
    ],
)
def test_the_environment_is_read_at_each_use(
    monkeypatch: pytest.MonkeyPatch, kind: str, value: str, headers: Any, query: Any
) -> None:
    """So a new value counts without a new client."""
    named = EnvCredentials("COMFY_TEST_TOKEN", kind, "X-Key")
    monkeypatch.setenv("COMFY_TEST_TOKEN", "an:older")
    assert apply_credentials(named) != Applied(headers, query)
    monkeypatch.setenv("COMFY_TEST_TOKEN", value)
    assert apply_credentials(named) == Applied(headers, query)


@pytest.mark.parametrize("value", [None, ""])
def test_a_variable_that_is_not_set_is_named(
    monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    """An ``AuthenticationError`` that says which."""
    monkeypatch.delenv("COMFY_TEST_TOKEN", raising=False)
    if value is not None:
        monkeypatch.setenv("COMFY_TEST_TOKEN", value)
    with pytest.raises(AuthenticationError, match="COMFY_TEST_TOKEN is not set"):
        apply_credentials(EnvCredentials("COMFY_TEST_TOKEN"))


def test_a_kind_that_does_not_exist_is_refused() -> None:
    """At once, not at the first request."""
    with pytest.raises(ValueError, match="kind"):
        EnvCredentials("COMFY_TEST_TOKEN", "digest")


@pytest.mark.parametrize("given", [("a",), ("a", "b", "c"), ("a", 1), "user:pass", 5, ["a", "b"]])
def test_wrong_credentials_are_a_type_error_without_their_value(given: Any) -> None:
    """The message names the kind, never the value."""
    for function in (check_credentials, apply_credentials):
        with pytest.raises(TypeError) as caught:
            function(given)
        assert "pass'" not in str(caught.value)
        assert "user:pass" not in str(caught.value)


def test_a_user_name_with_a_colon_is_refused() -> None:
    """The server would take what follows for the beginning of the password."""
    for given in (
        lambda: BasicCredentials("a:b", SECRET),
        lambda: apply_credentials(("a:b", SECRET)),
    ):
        with pytest.raises(ValueError, match="colon") as caught:
            given()
        assert SECRET not in str(caught.value)
    assert apply_credentials(("a", f"b:{SECRET}")).headers == basic(f"a:b:{SECRET}")


def test_a_callable_is_asked_each_time() -> None:
    """``check_credentials`` does not ask it."""
    answers = iter([BearerCredentials("one"), BearerCredentials("two")])

    def ask() -> BearerCredentials:
        return next(answers)

    check_credentials(ask)
    assert [apply_credentials(ask).headers["Authorization"] for _ in "12"] == [
        "Bearer one",
        "Bearer two",
    ]


def test_a_credentials_callable_that_fails_is_reported_by_its_kind() -> None:
    """By the kind of its error, not by its text."""

    def fail() -> BearerCredentials:
        raise KeyError(SECRET)

    with pytest.raises(AuthenticationError) as caught:
        apply_credentials(fail)
    assert "KeyError" in str(caught.value)
    assert SECRET not in str(caught.value)

    class Failing(BearerCredentials):
        headers = query = staticmethod(fail)

    with pytest.raises(AuthenticationError, match="raised KeyError") as caught:
        apply_credentials(Failing("x"))
    assert SECRET not in str(caught.value)
    with pytest.raises(TypeError, match="another callable"):
        apply_credentials(lambda: fail)
    with pytest.raises(TypeError):
        apply_credentials(lambda: SECRET)  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize(
    "value", ["a\r\nX: y", "a\nb", "a\0b", "tab\x01", "typo\u2026graphic", " front", "end "]
)
def test_a_secret_that_no_header_can_carry_is_refused_and_not_shown(value: str) -> None:
    """A line break would begin another header."""
    for given in (BearerCredentials(SECRET + value), HeaderCredentials({"X": SECRET + value})):
        if value == " front":
            continue
        with pytest.raises(ValueError, match="header") as caught:
            apply_credentials(given)
        assert SECRET not in repr(caught.value)
    with pytest.raises(ValueError, match="name"):
        apply_credentials(HeaderCredentials({"X\r\nY": SECRET}))
    with pytest.raises(TypeError, match="must be strings"):
        apply_credentials(HeaderCredentials({"X": 5}))  # type: ignore[dict-item]


@pytest.mark.parametrize("given", [BearerCredentials(SECRET + "\n"), Own()])
def test_no_frame_shows_a_secret(given: Any) -> None:
    """Nor an element of what it holds: some tools that show variables look into any tuple."""
    warned.clear()  # so that it says what goes unencrypted
    identity = Identity(Endpoint(parse_host("http://gpu-box:8188")[0]), credentials=given)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises((ValueError, UserWarning)) as caught:
            identity.refresh()
    for step in caught.traceback[1:]:
        for name, value in step.locals.items():
            held = [*value] if isinstance(value, tuple) else ()
            assert SECRET not in repr((value, held)), f"{step.name}: {name}"


@pytest.mark.parametrize(
    "given",
    [
        BasicCredentials("me", SECRET),
        BearerCredentials(SECRET),
        HeaderCredentials({"X-API-Key": SECRET}),
        QueryCredentials("token", SECRET),
        Applied({"X": SECRET}, {"y": SECRET}),
    ],
)
def test_no_repr_shows_a_secret(given: object) -> None:
    """Nor does ``str``."""
    assert SECRET not in repr(given) + str(given)


def test_only_a_name_travels_in_a_pickle() -> None:
    """``EnvCredentials`` hold nothing else."""
    data = pickle.dumps(EnvCredentials("COMFY_TEST_TOKEN", "basic"))
    assert pickle.loads(data) == EnvCredentials("COMFY_TEST_TOKEN", "basic")


def test_redaction_covers_values_as_they_are_sent() -> None:
    """Header values, tokens plain and percent-encoded; not words that say nothing."""

    def redact(applied: Applied, text: str) -> str:
        secrets = Secrets()
        secrets.add_headers(applied.headers)
        secrets.add(applied.query.values())
        return secrets.hide_words(text)

    applied = apply_credentials(BasicCredentials("me", SECRET))
    sent = applied.headers["Authorization"]
    assert redact(applied, f"Basic auth: {sent}!") == "Basic auth: ***!"
    assert redact(applied, f"me:{SECRET} {sent.split()[1]}") == "me:*** ***"
    applied = apply_credentials(QueryCredentials("t", "a b/c&d"))
    assert redact(applied, "t=a%20b/c%26d t=a+b%2Fc%26d a b/c&d") == "t=*** t=*** ***"
    assert redact(NOTHING, "as it is") == "as it is"


def test_a_variable_that_holds_no_login_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Instead of a 401 of the server."""
    monkeypatch.setenv("COMFY_TEST_TOKEN", SECRET)
    with pytest.raises(AuthenticationError, match="COMFY_TEST_TOKEN does not hold") as caught:
        EnvCredentials("COMFY_TEST_TOKEN", "basic").headers()
    assert SECRET not in str(caught.value)
