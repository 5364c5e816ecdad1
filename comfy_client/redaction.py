"""What may not be written down: words that are secret, and names whose values are.

A *word* is known to be secret since it was sent as one: a credential, a cookie, the password
of a proxy, an API key in a prompt.  It is hidden wherever it occurs.  A *name* such as
``api_key`` tells that its value is secret, whoever sent it.  User names in the paths of home
folders, and the folders of ComfyUI and of Python in tracebacks, are left out too.
"""

from __future__ import annotations

import base64
import binascii
import functools
import html
import json
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl, quote, quote_plus, unquote

STARS: Final = "***"

#: The same rule as for what errors show: what is shorter tells nothing and occurs anywhere.
SHORTEST: Final = 4
#: A value that only its name makes secret is hidden elsewhere from this length on.
SHORTEST_NAMED: Final = 8
#: Words that are remembered; of tokens that change, the latest.
MOST_WORDS: Final = 500

#: Levels of a JSON value that are looked through.
DEEPEST: Final = 200

#: Ends of names, without anything but letters and digits, whose values are secret.
_ENDS = (
    "accesskey",
    "authkey",
    "authorization",
    "bearer",
    "cookie",
    "credential",
    "credentialkey",
    "credentials",
    "jwt",
    "licensekey",
    "passphrase",
    "passwd",
    "password",
    "privatekey",
    "pwd",
    "secret",
    "secretkey",
    "sessionid",
    "token",
)
_PARTS = ("apikey", "authtoken", "comfyorg")
#: In a query also these.
_IN_QUERY = frozenset({"auth", "code", "key", "pass", "sig", "signature"})

#: Without one of these, in small letters, no pattern below can match.
_SIGNS = (
    "key",
    "token",
    "secret",
    "passw",
    "passp",
    "pwd",
    "authorization",
    "bearer",
    "cookie",
    "credential",
    "jwt",
    "sessionid",
    "@",
    "/home/",
    "/users/",
    "\\users\\",
    "site-packages",
    "execution.py",
    "main.py",
    "/lib/python",
)
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(//)[^/\s\"'@]+@"), r"\1***@"),
    (re.compile(r"(?i)\b(authorization\W{1,4}(?:basic |bearer |digest )?)[^\s\"',;]+"), r"\1***"),
    (re.compile(r"(?i)\b(bearer\s+)[\w.~+/=-]{8,}"), r"\1***"),
    (
        re.compile(
            r"(?i)((?:(?:api|credential)[_-]?key|token|secret|passw(?:or)?d|passphrase|cookie)\w{0,30}"
            r"[\"']?\s{0,5}[=:]\s{0,5}[\"']?)[^\s\"'&,;]{4,}"
        ),
        r"\1***",
    ),
    (
        re.compile(
            r"(?i)((?:^|[/\\])(?:home|users)[/\\]+)(?:[^/\\\"':\n]+(?=[/\\])|[^/\\\s\"':]+)"
        ),
        r"\1USER",
    ),
)
_PATH = re.compile(r"(?:\b[A-Za-z]:)?[/\\][^\"'\n:]+")
_SOURCE = re.compile(r"[/\\](?:execution|main)\.py$")
_FOLDERS = 10

#: Headers that hold nothing secret, unless the user put it there under their name.
_PLAIN_HEADERS = frozenset(
    {
        "accept",
        "accept-encoding",
        "comfy-user",
        "connection",
        "content-length",
        "content-type",
        "host",
        "if-none-match",
        "if-range",
        "range",
    }
)
_SCHEMES = frozenset({"basic", "bearer", "digest", "negotiate", "token", "apikey"})
_AGENTS = ("comfy-client/", "python-requests/")


@functools.lru_cache(4096)
def is_secret_name(name: str, *, in_query: bool = False) -> bool:
    """Whether the value under such a name is secret."""
    bare = re.sub(r"[^a-z0-9]", "", name.lower())
    return (
        bare.endswith(_ENDS)
        or any(part in bare for part in _PARTS)
        or (in_query and bare in _IN_QUERY)
    )


class Secrets:
    """The words that are known to be secret; grows, and may be asked from any thread."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # guards adding; a finalizer may come in between
        self._known: dict[str, None] = {}
        self._spellings: tuple[str, ...] = ()  # longest first
        self._bytes: tuple[bytes, ...] = ()
        self._seen: set[tuple[str, str]] = set()  # headers that were looked at
        self._folders: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<Secrets {len(self._known)}>"

    # -- learning ------------------------------------------------------------------------

    def add(self, words: Iterable[str], shortest: int = SHORTEST) -> None:
        """Hide these from now on."""
        new = [word for word in words if len(word) >= shortest and word not in self._known]
        if not new:
            return
        with self._lock:
            known = dict.fromkeys([*self._known, *new][-MOST_WORDS:])
            found = {spelling for word in known for spelling in _spellings(word)}
            self._spellings = tuple(sorted(found, key=len, reverse=True))
            self._bytes = tuple(word.encode("utf-8", "surrogatepass") for word in self._spellings)
            self._known = known

    def add_headers(self, headers: Mapping[str, str | bytes]) -> None:
        """What a request or a handshake brings along to prove who we are."""
        for name, given in headers.items():
            value = given.decode("utf-8", "replace") if isinstance(given, bytes) else given
            if name.lower() in _PLAIN_HEADERS or (name, value) in self._seen:
                continue
            if len(self._seen) < MOST_WORDS:
                self._seen.add((name, value))
            if not value.startswith(_AGENTS):
                self.add(_words_of_header(name, value))

    def add_query(self, query: str) -> None:
        """Parameters that go on every request."""
        self.add(value for _, value in parse_qsl(query))

    def add_url(self, url: str) -> None:
        """The password in the URL of a proxy."""
        # Not by urlsplit, which raises for what is no URL.
        name, _, password = url.rpartition("@")[0].rpartition("//")[2].partition(":")
        # Some proxies take the token for a name, and nothing for a password.
        words = [password, unquote(password)] if password else [name, unquote(name)]
        pair = f"{unquote(name)}:{unquote(password)}".encode()
        if name:
            words.append(base64.b64encode(pair).decode())
        self.add(words)

    def add_named(self, value: Any) -> None:
        """Values in JSON of ours whose names make them secret."""
        self.add(_named(value), SHORTEST_NAMED)

    # -- hiding --------------------------------------------------------------------------

    def may_be_in(self, text: str) -> bool:
        """Quick: whether :meth:`hide` could find anything in a text, or in JSON."""
        small = text.lower()
        return (
            "\\" in text  # in JSON an escape may spell any letter
            or any(word in text for word in (*self._spellings, *self._folders))
            or any(sign in small for sign in _SIGNS)
        )

    def hide_words(self, text: str) -> str:
        """A text of ours without the words that are known."""
        for word in self._spellings:
            if word in text:
                text = text.replace(word, STARS)
        return text

    def hide_words_in(self, value: Any) -> Any:
        """A JSON value, in whose texts the known words are hidden; names and numbers stay."""
        if isinstance(value, str):
            return self.hide_words(value)
        if isinstance(value, Mapping):
            return {key: self.hide_words_in(each) for key, each in value.items()}
        if isinstance(value, list):
            return [self.hide_words_in(each) for each in value]
        return value

    def hide_text(self, text: str) -> str:
        """``text`` without its secrets."""
        text = self.hide_words(text)
        small = text.lower()
        if any(sign in small for sign in _SIGNS):
            text = _PATH.sub(self._hide_path, text)
        for folder in self._folders:
            text = text.replace(folder, "COMFY")
        if any(sign in small for sign in _SIGNS):
            for pattern, instead in _PATTERNS:
                text = pattern.sub(instead, text)
        return text

    def _hide_path(self, match: re.Match[str]) -> str:
        """Python's own folders; and ComfyUI's, which a traceback gives away, is known now."""
        path = match[0]
        for part, instead in (("site-packages", "VENV/"), ("/lib/python", "PYTHON")):
            at = path.find(part)
            if at > 0:
                return instead + path[at:]
        source = _SOURCE.search(path)
        if source is not None and source.start() > 1 and len(self._folders) < _FOLDERS:
            folder = path[: source.start()]
            if folder not in self._folders:
                self._folders = (*self._folders, folder)
        return path

    def hide_bytes(self, data: bytes) -> bytes:
        """As long as before; the words only: what is no text has no patterns."""
        for word in self._bytes:
            if word in data:
                data = data.replace(word, b"*" * len(word))
        return data

    def hide(self, value: Any, *, all_texts: bool = False, depth: int = 0) -> Any:
        """A JSON value without its secrets; ``all_texts``: without any text at all.

        Raises ``RecursionError`` for one that is nested too deeply.
        """
        if isinstance(value, str):
            return STARS if all_texts and value else self.hide_text(value)
        if depth > DEEPEST:
            raise RecursionError("nested too deeply")
        if isinstance(value, Mapping):
            return {
                self._hide_key(key): self.hide(
                    each, all_texts=all_texts or _is_secret(key, each), depth=depth + 1
                )
                for key, each in value.items()
            }
        if isinstance(value, list):
            return [self.hide(each, all_texts=all_texts, depth=depth + 1) for each in value]
        if isinstance(value, int | float) and str(value) in self._spellings:
            return STARS
        return value

    def _hide_key(self, key: str) -> str:
        # A short word may be one that the protocol uses too.
        for word in self._spellings:
            if len(word) >= SHORTEST_NAMED and word in key:
                key = key.replace(word, STARS)
        return key

    def hide_query(self, query: str) -> str:
        """The part of a URL behind ``?``."""
        pairs = []
        for pair in query.split("&") if query else ():
            name, sign, value = pair.partition("=")
            if sign and is_secret_name(unquote(name), in_query=True):
                value = STARS
            pairs.append(self.hide_text(name) + sign + self.hide_text(value))
        return "&".join(pairs)


def _spellings(word: str) -> Iterator[str]:
    """How a word may look in a URL, a page, or JSON within a text."""
    yield word
    yield quote(word)
    yield quote(word, safe="")
    yield quote_plus(word)
    yield html.escape(word)
    yield json.dumps(word)[1:-1]
    yield json.dumps(word, ensure_ascii=False)[1:-1]
    yield repr(word)[1:-1]


def _words_of_header(name: str, value: str) -> Iterator[str]:
    if name.lower() == "cookie":
        for pair in value.split(";"):
            yield pair.partition("=")[2].strip()
        return
    yield value.strip()
    scheme, _, rest = value.partition(" ")
    yield from (word for word in value.split() if word.lower() not in _SCHEMES)
    if scheme.lower() == "basic":
        try:
            pair = base64.b64decode(rest, validate=True).decode("utf-8")
        except (binascii.Error, UnicodeDecodeError):
            return
        yield pair.partition(":")[2] or pair


def _is_secret(name: str, value: Any) -> bool:
    """Whether all texts in a value are secret, by its name; a list may be a link to a node."""
    return not isinstance(value, list) and is_secret_name(str(name))


def _named(value: Any, is_secret: bool = False) -> Iterator[str]:
    if isinstance(value, str):
        if is_secret:
            yield value
    elif isinstance(value, Mapping):
        for name, each in value.items():
            yield from _named(each, is_secret or _is_secret(name, each))
    elif isinstance(value, list):
        for each in value:
            yield from _named(each, is_secret)
