"""What counts as a secret, and how it is found again."""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from collections.abc import Callable
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from comfy_client.recording.secrets import MAX_WORDS, Secrets
from comfy_client.redaction import Sealed, is_secret_name, sealed_workflow
from comfy_client.workflow.graph import check_graph

SECRET = 'hünter2 "geheim"/&'


@pytest.fixture
def secrets() -> Secrets:
    """That know one word."""
    made = Secrets()
    made.add([SECRET])
    return made


@pytest.mark.parametrize(
    "name",
    ["api_key", "API-KEY", "apiKey", "comfy_api_key", "auth_token_comfy_org", "password", "x.pwd"],
)
def test_names_that_say_so_are_secret(name: str) -> None:
    """In any spelling."""
    assert is_secret_name(name)


@pytest.mark.parametrize("name", ["seed", "text", "max_tokens", "keyword", "tokenizer", "key"])
def test_names_that_resemble_a_secret_are_not_secret(name: str) -> None:
    """Some only resemble one; ``key`` is one in a query."""
    assert not is_secret_name(name)
    assert is_secret_name(name, in_query=True) is (name == "key")


def test_a_word_is_hidden_in_all_its_spellings(secrets: Secrets) -> None:
    """As in a URL, in JSON, in Python's text."""
    for text in (
        SECRET,
        quote(SECRET),
        quote(SECRET, safe=""),
        json.dumps(SECRET),
        json.dumps({"a": SECRET}, ensure_ascii=False),
        repr(SECRET),
    ):
        hidden = secrets.hide_text(f"before {text} after")
        assert "geheim" not in hidden
        assert hidden.startswith("before ")
        assert hidden.endswith(" after")
        assert secrets.may_be_in(json.dumps({"x": text}))


def test_json_keeps_its_form(secrets: Secrets) -> None:
    """Lists, numbers, names stay; a key that is a secret does not."""
    value = {"a": [1, True, None, {"token": SECRET, "seed": 5}], SECRET: "x", "api_key": ["4", 0]}
    assert secrets.hide(value) == {
        "a": [1, True, None, {"token": "***", "seed": 5}],
        "***": "x",
        "api_key": ["4", 0],
    }
    assert secrets.hide({"a": ["x", {"b": 1}]}, all_texts=True) == {"a": ["***", {"b": 1}]}


def test_the_key_of_a_socket_is_secret() -> None:
    """With it another one could take its place: of the first ``status``, say, and in texts."""
    said = {"type": "status", "data": {"sid": "me", "credential_key": "k-12345678"}}
    secrets = Secrets()
    secrets.add_named([said])
    assert secrets.hide(said)["data"] == {"sid": "me", "credential_key": "***"}
    assert secrets.hide_text("again with k-12345678") == "again with ***"
    text = json.dumps({"credential_key": "another-one", "X-Comfy-Credential-Key": "a-third"})
    assert "another" not in Secrets().hide_text(text)
    assert "third" not in Secrets().hide_text(text)


def test_values_below_a_secret_name_are_secret() -> None:
    """But a list beside it, which may be a link to a node, is not."""
    value = {"credentials": {"user": "somebody", "deep": [{"x": "hf_12345678"}]}, "token": ["4", 0]}
    secrets = Secrets()
    secrets.add_named([value])
    assert secrets.hide(value) == {
        "credentials": {"user": "***", "deep": [{"x": "***"}]},
        "token": ["4", 0],
    }
    assert secrets.hide_text("sent hf_12345678 by somebody") == "sent *** by ***"


def test_bytes_keep_their_length(secrets: Secrets) -> None:
    """So a frame or a picture keeps its form."""
    data = b"\x89PNG" + SECRET.encode() + b"\x00"
    hidden = secrets.hide_bytes(data)
    assert len(hidden) == len(data)
    assert b"geheim" not in hidden


def test_texts_without_secrets_stay_as_they_are(secrets: Secrets) -> None:
    """Whatever else they hold."""
    for text in ("a photo of a key", "basic information", "1 token", "a/b.png", "", "x@y"):
        assert secrets.hide_text(text) == text


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("Authorization: Basic bWU6c2VjcmV0", "Authorization: Basic ***"),
        ('{"authorization": "Bearer abcdefgh"}', '{"authorization": "Bearer ***"}'),
        ("curl -H 'bearer abcdefgh.x'", "curl -H 'bearer ***'"),
        ("https://me:word@host/", "https://***@host/"),
        ("?a=1&token=abcdef&b=2", "?a=1&token=***&b=2"),
        ("OPENAI_API_KEY=sk-1234567", "OPENAI_API_KEY=***"),
        ("/home/alice/x", "/home/USER/x"),
        ("C:\\Users\\Alice Doe\\x", "C:\\Users\\USER\\x"),
    ],
)
def test_texts_that_look_like_a_secret_are_hidden(text: str, hidden: str) -> None:
    """Though nobody said that it is secret."""
    assert Secrets().hide_text(text) == hidden


# -- weak ones: they may be a part of a longer word, or of a number -------------------------

WEAK = ["1234", "0000", "node", "Error", "a_b_c", "12345678901"]
CONTEXTS = [
    "{}",
    "password {}.",
    "http://me:{}@host/",
    "/a?x={}&y=1",
    '{{"password": "{}"}}',
    "line\\n{}\\tend",
    "line\n{}\nend",
    "%20{}%0A",
    "a%3D{}",
    "<b>{}</b>",
    "密码{}错误",
    "({}), -{}, +{}",
]


@pytest.mark.parametrize("word", WEAK)
@pytest.mark.parametrize("context", CONTEXTS)
def test_a_weak_word_is_hidden_where_it_stands_alone(word: str, context: str) -> None:
    """Whatever is before and behind it."""
    secrets = Secrets()
    secrets.add([word])
    text = context.replace("{{", "{").replace("}}", "}").replace("{}", word)
    assert word not in secrets.hide_words(text)
    assert secrets.hide_words(f"{text} 1") != f"{text} 1"
    assert word not in json.dumps(secrets.hide({"message": text}))
    assert word not in json.dumps(secrets.hide_words_in([text]))


@pytest.mark.parametrize("word", ["correct-horse", "p4ssword", "1234567890123456", "7" * 40])
@pytest.mark.parametrize("context", ["{}", "key{}", "{}_1", "9{}9", "0.{}", "\\x{}", "{}{}"])
def test_any_other_word_is_hidden_wherever_it_is(word: str, context: str) -> None:
    """It is too long to stand there by chance."""
    secrets = Secrets()
    secrets.add([word])
    text = context.replace("{}", word)
    assert word not in secrets.hide_words(text)
    assert word not in json.dumps(secrets.hide({"message": text}))
    assert word.encode() not in secrets.hide_bytes(text.encode())


@given(st.sampled_from(WEAK), st.integers() | st.floats(allow_nan=False, width=32))
@example("1234", 123456)
@example("1234", 0.1234)
@example("1234", 1234.5)
@example("0000", 100000)
def test_a_number_is_a_fact_unless_it_is_the_secret_itself(word: str, number: float) -> None:
    """Hidden in part it would be another one."""
    secrets = Secrets()
    secrets.add([word])
    for shown in (str(number), f"{word}{abs(number)}", f"1{word}2", f"2.{word}5"):
        text = f"width = {shown} is more than 100% of it\\n"
        if shown.lstrip("-") != word and word.isdigit():
            assert secrets.hide_words(text) == text


@given(st.sampled_from(WEAK), st.data())
def test_a_name_is_a_fact_unless_it_is_the_secret_itself(word: str, data: st.DataObject) -> None:
    """And the secret itself is nowhere left, whatever is around it."""
    letters = st.text("ab_Z9 .-:/%&\\\n\"'=", max_size=4)
    pieces = data.draw(st.lists(letters | st.just(word), max_size=8))
    secrets = Secrets()
    secrets.add([word])
    hidden = secrets.hide_words("".join(pieces))
    if not word.isdigit():  # a part of a decimal number is no secret
        assert word not in re.split(r"[^A-Za-z0-9_]", hidden)
    name = f"x{word}_00001_"
    assert secrets.hide_words(f"no file {name}.png") == f"no file {name}.png"


def test_a_weak_word_in_bytes_is_hidden_where_it_stands_alone() -> None:
    """As in the texts of a picture, whose numbers are facts."""
    secrets = Secrets()
    secrets.add(["1234"])
    assert (
        secrets.hide_bytes(b'{"seed": 123456, "key": "1234"}') == b'{"seed": 123456, "key": "****"}'
    )
    assert secrets.hide_bytes(b"\\n1234\xff 0.1234") == b"\\n****\xff 0.1234"


def test_the_words_are_bounded() -> None:
    """Of tokens that change, the latest count."""
    secrets = Secrets()
    for start in range(0, MAX_WORDS + 200, 200):
        secrets.add(f"token-{number:06}-x" for number in range(start, start + 200))
    assert secrets.hide_text("token-000000-x") == "token-000000-x"
    assert secrets.hide_text(f"token-{MAX_WORDS:06}-x") == "***"


@pytest.mark.parametrize(
    "text",
    [
        "/" * 200_000 + "site-packages token main.py @",
        "token" * 40_000,
        "/home" + "/" * 200_000,
        "//a" * 70_000 + "@",
        "bearer" + " " * 200_000,
        "\\users\\" * 30_000,
    ],
)
def test_no_text_takes_long(text: str) -> None:
    """A server may send what it likes: time grows with its length, not faster."""
    start = time.thread_time()
    Secrets().hide_text(text)
    assert time.thread_time() - start < 5


def test_words_of_two_threads_are_added_one_after_the_other(secrets: Secrets) -> None:
    """The second waits, or the tables could change while they are gone through."""
    waited = []

    class Word(str):
        """Looks at what another thread can do while it is added."""

        def __hash__(self) -> int:
            if not waited:
                waited.append(True)
                other = threading.Thread(target=secrets.add, args=(["another-secret"],))
                other.start()
                other.join(0.2)
                waited[:] = [other.is_alive()]
            return super().__hash__()

    secrets.add([Word("the-first-secret")])
    assert waited == [True]


@pytest.mark.parametrize("login", ["me:{}", "{}", "{}:"])
def test_the_login_in_the_url_of_a_proxy_is_hidden_as_it_is_sent(login: str) -> None:
    """Encoded as in the URL, decoded, and in the header that proxies get."""
    secrets = Secrets()
    encoded = quote(SECRET, safe="")
    secrets.add_url(f"http://{login.format(encoded)}@proxy:3128")
    pair = login.format(SECRET)
    header = base64.b64encode((pair if ":" in pair else f"{pair}:").encode()).decode()
    for said in (SECRET, encoded, header):
        assert secrets.hide_text(f"not {said} here") == "not *** here"


def test_no_number_of_other_words_pushes_out_a_credential() -> None:
    """A server may send as many as it likes."""
    secrets = Secrets()
    secrets.add(["the-password"], pinned=True)
    secrets.add(f"another-word-{number}" for number in range(2 * MAX_WORDS))
    assert secrets.hide_text("not the-password") == "not ***"


def test_a_workflow_without_secrets_is_not_copied() -> None:
    """Nearly no workflow has one, and a copy takes time for each of its nodes."""
    graph = {"1": {"class_type": "Text", "inputs": {"text": "a fox", "link": ["2", 0], "n": 1.5}}}
    assert sealed_workflow(graph) is graph


@pytest.mark.parametrize(
    "around",
    [
        lambda secret: secret,
        lambda secret: {"1": {"class_type": "Text", "inputs": secret}},
        lambda secret: {"1": {"inputs": {"texts": ["a", {"deep": [secret]}]}}},
        lambda secret: [None, None, MappingProxyType({"1": {"inputs": secret}})],
    ],
    ids=["bare", "an input", "in lists", "a record"],
)
def test_a_secret_is_sealed_in_a_copy_of_the_workflow(around: Callable[[Any], Any]) -> None:
    """Wherever its name is; the caller's own workflow stays as it is."""
    graph = around({"api_key": "the-secret", "text": "a fox"})
    safe = sealed_workflow(graph)
    assert "the-secret" in repr(graph)
    assert "the-secret" not in repr(safe)
    assert "a fox" in repr(safe)
    assert safe == around({"api_key": Sealed("the-secret"), "text": "a fox"})


class Impostor(str):
    """A text that equals a name, and prints as another one, as a member of an ``Enum`` does."""

    def __str__(self) -> str:
        return "field"


def test_secret_names_are_known_by_their_value_not_by_what_they_print() -> None:
    for name in (Impostor("api_key"), "api_key"):  # the first one is not remembered as harmless
        graph = check_graph({"1": {"class_type": "A", "inputs": {name: "the-secret"}}})
        assert "the-secret" not in repr(graph)
