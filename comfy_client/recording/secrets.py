"""Redaction of errors, logs and recordings: secret words, and values of secret names.

A *word* is secret because it was sent as a secret: a credential, a cookie, the password of a proxy,
an API key in a prompt.  It is hidden wherever it occurs.  A *name* such as ``api_key`` makes its
value secret, whoever sent it.  User names in paths of home folders, and the folders of ComfyUI and
Python in tracebacks, are hidden too.

A word is found as it is, and as it is spelled in a URL, JSON and base64.  Other spellings are not
hidden: only a server that knows the word can produce them.

A *weak* word, such as ``1234`` or ``node``, may also be part of a longer number or name, which is
not secret.  So it is hidden only where it stands alone.
"""

from __future__ import annotations

import base64
import binascii
import functools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, quote, quote_plus, unquote

from ..locks import shared_lock
from ..redaction import MAX_CACHED, MAX_DEPTH, is_secret_name, is_secret_value

STARS: Final = "***"

#: The fewest letters of a word that is hidden; shorter ones occur anywhere.
MIN_SECRET: Final = 4
#: The fewest letters for a value to be hidden elsewhere, too, if only its name makes it secret, or
#: if it comes from a header with a neutral name.
MIN_NAMED: Final = 8
#: The most words that are kept; the oldest are dropped, such as expired tokens.
MAX_WORDS: Final = 500
#: The most letters of all these words, except pinned ones; each has some ten spellings.
MAX_LETTERS: Final = 1 << 17
#: Lower-case texts, one of which is in everything that a pattern below matches.
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
    "signature=",
    "sig=",
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
    # Of a signed link, which is as good as a login while it is valid.
    (re.compile(r"(?i)([?&][\w-]{0,40}sig(?:nature)?=)[^&\s\"'<>]+"), r"\1***"),
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
#: Folders of ComfyUI that are remembered; a server may send any number of paths.
_FOLDERS: Final = 10

#: Headers that hold nothing secret.
_PLAIN_HEADERS = frozenset(
    {
        "accept",
        "accept-encoding",
        "accept-language",
        "cache-control",
        "comfy-user",
        "connection",
        "content-length",
        "content-type",
        "forwarded",
        "host",
        "idempotency-key",
        "if-modified-since",
        "if-none-match",
        "if-range",
        "origin",
        "pragma",
        "range",
        "referer",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
    }
)
_SCHEMES = frozenset({"basic", "bearer", "digest", "negotiate", "token", "apikey"})
_AGENTS = ("comfy-client/", "python-requests/")


class Secrets:
    """The words that are known to be secret.

    Any thread may call the methods.
    """

    def __init__(self) -> None:
        self._lock = shared_lock()  # guards what follows; a finalizer may come in between
        #: Credentials, which words from a server never displace; and all other words.
        self._pinned: dict[str, None] = {}
        self._known: dict[str, None] = {}
        self._wanted_now: _Found | None = None  #: The words to look for, compiled on first use.
        self._folders: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<Secrets {len(self._pinned) + len(self._known)}>"

    def after_fork(self) -> None:
        """Replace the lock in the child of a fork; a thread of the parent may hold the old one."""
        self._lock = shared_lock()

    # -- collecting ----------------------------------------------------------------------

    def add(
        self, words: Iterable[str], shortest: int = MIN_SECRET, *, pinned: bool = False
    ) -> None:
        """Add words to hide; words that are not ``pinned`` never displace those that are."""
        new = [word for word in words if len(word) >= shortest]
        if not new:
            return
        with self._lock:
            to = self._pinned if pinned else self._known
            is_new = False
            for word in new:
                if not pinned and word in self._pinned:
                    continue
                is_new |= word not in to
                to.pop(word, None)
                to[word] = None  # the latest, also when it was known before
            letters = 0 if pinned else sum(map(len, to))
            while len(to) > MAX_WORDS or (letters > MAX_LETTERS and len(to) > 1):
                oldest = next(iter(to))
                letters -= len(oldest)
                del to[oldest]
            if is_new:
                self._wanted_now = None

    @property
    def _wanted(self) -> _Found:
        found = self._wanted_now
        if found is None:
            with self._lock:
                found = self._wanted_now = _Found.of([*self._pinned, *self._known])
        return found

    def add_headers(
        self,
        headers: Mapping[str, str | bytes],
        *,
        pinned: bool = False,
        are_credentials: bool = False,
        named_only: bool = False,
    ) -> None:
        """Add the credentials in the headers of a request or handshake.

        Any header may hold some.  Unless ``are_credentials``, the value of a header with a neutral
        name is hidden as a whole if its length and letters show that it is no common word;
        ``named_only`` leaves such values out.
        """
        for name, given in headers.items():
            value = given.decode("utf-8", "replace") if isinstance(given, bytes) else given
            if name.lower() in _PLAIN_HEADERS or value.startswith(_AGENTS):
                continue
            if are_credentials or is_secret_name(name) or _begins_with_scheme(value):
                self.add(_words_of_header(name, value), pinned=pinned)
            elif not named_only and not value.isalpha():
                self.add([value.strip()], MIN_NAMED, pinned=pinned)

    def add_query(self, query: str) -> None:
        """Add all values in a query string that is sent with every request."""
        self.add((value for _, value in parse_qsl(query)), pinned=True)

    def add_url(self, url: str) -> None:
        """Add the password in a proxy's URL, or the user name if there is no password."""
        # Not by urlsplit, which raises for something that is not a URL.
        name, _, password = url.rpartition("@")[0].rpartition("//")[2].partition(":")
        # Some proxies take the token for a name, and nothing for a password.
        words = [password, unquote(password)] if password else [name, unquote(name)]
        pair = f"{unquote(name)}:{unquote(password)}".encode()
        if name:
            words.append(base64.b64encode(pair).decode())
        self.add(words, pinned=True)

    def add_named(self, value: Any, *, pinned: bool = False) -> None:
        """Add the texts in a JSON value that are secret because of their names."""
        self.add(_named(value), MIN_NAMED, pinned=pinned)

    def add_auth(self, auth: object) -> None:
        """Add the secrets in the ``auth`` of a Session: of a pair, or of an object's attributes."""
        if isinstance(auth, tuple):
            words = [each for each in auth[1:] if isinstance(each, str)]
        else:
            fields = getattr(auth, "__dict__", {})
            words = [*_named({n: v for n, v in fields.items() if isinstance(v, str | Mapping)})]
        self.add(words, pinned=True)

    # -- hiding --------------------------------------------------------------------------

    def may_be_in(self, text: str) -> bool:
        """Return whether :meth:`hide` might find anything in a text or JSON, by a quick test."""
        small = text.lower()
        return (
            "\\" in text  # as in JSON within JSON
            or any(word in text for word in (*self._wanted.texts, *self._wanted.weak))
            or any(folder in text for folder in self._folders)
            or any(sign in small for sign in _SIGNS)
        )

    def hide_words(self, text: str, shortest: int = MIN_SECRET) -> str:
        """Hide the known words of at least ``shortest`` letters in a text."""
        sought = self._wanted
        for spelling in sought.texts:
            if spelling in text and len(spelling) >= shortest:
                text = text.replace(spelling, STARS)
        for word in sought.weak:
            if word in text and len(word) >= shortest:
                text = _alone(word).sub(rf"\g<before>{STARS}", text)
        return text

    def hide_name(self, name: str) -> str:
        """Hide the known words in a name or id, except short ones, which the protocol may use."""
        return self.hide_words(name, MIN_NAMED)

    def hide_words_in(self, value: Any) -> Any:
        """Hide the known words in all texts of a JSON value, and in the keys of its objects."""
        if isinstance(value, str):
            return self.hide_words(value)
        if isinstance(value, Mapping):
            return {
                self.hide_name(key) if isinstance(key, str) else key: self.hide_words_in(each)
                for key, each in value.items()
            }
        if isinstance(value, list | tuple):
            return [self.hide_words_in(each) for each in value]
        return value

    def hide_text(self, text: str) -> str:
        """Hide all secrets in a text."""
        text = self.hide_words(text)
        small = text.lower()
        has_sign = any(sign in small for sign in _SIGNS)
        if has_sign:
            text = _PATH.sub(self._hide_path, text)
        for folder in self._folders:
            text = text.replace(folder, "COMFY")
        if has_sign:
            for pattern, instead in _PATTERNS:
                text = pattern.sub(instead, text)
        return text

    def _hide_path(self, match: re.Match[str]) -> str:
        """Return a path, shortened if it is inside Python's folders.

        If the path reveals ComfyUI's folder, remember that folder, so that it is hidden.
        """
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
        """Replace the known words in binary data with stars of the same length."""
        for word in self._wanted.data:
            if word in data:
                data = data.replace(word, b"*" * len(word))
        for weak in self._wanted.weak:
            if weak.encode() in data:
                alone = re.compile(_alone(weak).pattern.encode())
                stars = rb"\g<before>" + b"*" * len(weak)
                data = alone.sub(stars, data)
        return data

    def hide(self, value: Any, *, all_texts: bool = False, depth: int = 0) -> Any:
        """Hide the secrets in a JSON value; with ``all_texts``, hide every text in it.

        Raises ``RecursionError`` if it is nested too deeply.
        """
        if isinstance(value, str):
            return STARS if all_texts and value else self.hide_text(value)
        if depth > MAX_DEPTH:
            raise RecursionError("nested too deeply")
        if isinstance(value, Mapping):
            return {
                self.hide_name(key): self.hide(
                    each, all_texts=all_texts or is_secret_value(key, each), depth=depth + 1
                )
                for key, each in value.items()
            }
        if isinstance(value, list):
            return [self.hide(each, all_texts=all_texts, depth=depth + 1) for each in value]
        return value

    def hide_query(self, query: str) -> str:
        """Hide the secrets in the query string of a URL."""
        pairs = []
        for pair in query.split("&") if query else ():
            name, sign, value = pair.partition("=")
            if sign and is_secret_name(unquote(name), in_query=True):
                value = STARS
            pairs.append(self.hide_text(name) + sign + self.hide_text(value))
        return "&".join(pairs)


class _Found(NamedTuple):
    """Words to search for, longest first."""

    texts: tuple[str, ...]  #: The words in all their spellings; weak ones only as they are.
    weak: frozenset[str]
    data: tuple[bytes, ...]

    @classmethod
    def of(cls, words: list[str]) -> _Found:
        spelled: set[str] = set()
        for word in words:
            look = _spellings if len(word) <= MAX_CACHED else _spellings.__wrapped__
            spelled |= look(word)
        weak = frozenset(filter(_WEAK.fullmatch, words))
        texts = tuple(sorted(spelled - weak, key=len, reverse=True))
        data = tuple(text.encode("utf-8", "surrogatepass") for text in texts)
        return cls(texts, weak, data)


#: Words that may be part of another word or number.  A number of more digits is hardly part of
#: another one by chance, but a token.
_WEAK = re.compile(rf"[A-Za-z0-9_]{{{MIN_SECRET},{MIN_NAMED - 1}}}|[0-9]{{{MIN_NAMED},15}}")
#: The text that may precede a word that stands alone, such as an escaped character.
_BEFORE = r"(?P<before>(?<![A-Za-z0-9_])|\\[abfnrtv]|%[0-9A-Fa-f]{2})"


@functools.lru_cache(2 * MAX_WORDS)
def _alone(word: str) -> re.Pattern[str]:
    """Return a pattern that finds a weak word on its own, not within a longer word or number."""
    is_number = word.isdigit()
    before, after = (r"(?<![0-9]\.)", r"(?!\.[0-9])") if is_number else ("", "")
    return re.compile(f"{before}{_BEFORE}{word}(?![A-Za-z0-9_]){after}")


@functools.lru_cache(2 * MAX_WORDS)
def _spellings(word: str) -> frozenset[str]:
    """Return the spellings of a word: as it is, and in a URL, JSON, a Python literal and base64."""
    plain = word.encode("utf-8", "surrogatepass")
    quoted = [quote(plain), quote(plain, safe=""), quote_plus(plain)]
    found = {
        word,
        *quoted,
        *(_PERCENT.sub(lambda found: found[0].lower(), each) for each in quoted),
        json.dumps(word)[1:-1],
        json.dumps(word, ensure_ascii=False)[1:-1],
        repr(word)[1:-1],
    }
    for encoded in (base64.b64encode(plain), base64.urlsafe_b64encode(plain)):
        bare = encoded.decode().rstrip("=")
        # Without its last letter, into which what follows would reach.
        found |= {encoded.decode(), bare, bare[:-1] if len(plain) % 3 else bare}
    return frozenset(each for each in found if len(each) >= MIN_SECRET)


_PERCENT = re.compile("%[0-9A-F]{2}")


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


def _begins_with_scheme(value: str) -> bool:
    scheme, sign, _ = value.partition(" ")
    return bool(sign) and scheme.lower() in _SCHEMES


def _named(value: Any, is_secret: bool = False) -> Iterator[str]:
    if isinstance(value, str):
        if is_secret:
            yield value
    elif isinstance(value, Mapping):
        for name, each in value.items():
            yield from _named(each, is_secret or is_secret_value(name, each))
    elif isinstance(value, list):
        for each in value:
            yield from _named(each, is_secret)
