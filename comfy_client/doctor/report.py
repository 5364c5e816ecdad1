"""``api.doctor()``: what is between a client and its server, one look after the other.

Each check (see :mod:`comfy_client.doctor.checks`) has a limit of its own in time, and runs in a
thread that is waited for so long: a lookup of a name cannot be ended from outside.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import platform
import re
import ssl
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import unquote

import attrs

from .. import credentials as creds
from .._version import __version__
from ..recording.secrets import STARS, Secrets
from .checks import CheckState, Found, Visit, version_of

if TYPE_CHECKING:
    from ..client import ComfyApi

#: Seconds that one check may take, but for those that name their own limit.
_LIMIT: Final = 10.0


# -- what it tells ----------------------------------------------------------------------


@attrs.frozen
class DoctorCheck:
    """One check of :meth:`ComfyApi.doctor`.  All texts are one line each, without secrets.

    Attributes:
        name: The name of the check, such as ``port`` or ``tls``.
        state: ``ok``, ``warning`` (it works, but see the advice), ``failed``, or ``unknown`` (this
            could not be determined).
        found: What the check found.
        advice: What to do about it; empty: nothing.
        because: The name of the failed check that prevented this one; empty: this check was made.
        seconds: How many seconds the check took.
    """

    name: str
    state: CheckState
    found: str
    advice: str = ""
    because: str = ""
    seconds: float = attrs.field(default=0.0, eq=False)


@attrs.frozen(repr=False)
class DoctorReport:
    """The findings of :meth:`ComfyApi.doctor`: print it, iterate over it, or use ``report["tls"]``.

    It is true in a condition if no check failed.  Its text is safe for a bug report: it contains no
    credentials, no user name, no path of the server's address and nothing of a workflow.

    Attributes:
        checks: The checks, in the order in which they were made.
        host: Scheme, name and port of the server.
        started: When it began, in UTC.
        seconds: How many seconds all checks took.
        versions: The versions of this library, Python, the platform and dependencies, by name.
    """

    checks: tuple[DoctorCheck, ...]
    host: str
    started: datetime
    seconds: float
    versions: Mapping[str, str]

    @property
    def ok(self) -> bool:
        """Whether no check failed; warnings do not count."""
        return all(check.state != "failed" for check in self.checks)

    def __bool__(self) -> bool:
        """:attr:`ok`."""
        return self.ok

    def __iter__(self) -> Iterator[DoctorCheck]:
        """The checks, in the order in which they were made."""
        return iter(self.checks)

    def __getitem__(self, name: str) -> DoctorCheck:
        """A check by its name; ``KeyError`` if there is none."""
        for check in self.checks:
            if check.name == name:
                return check
        raise KeyError(name)

    def __repr__(self) -> str:
        return str(self)  # a notebook shows it

    def __str__(self) -> str:
        counted = Counter(check.state for check in self.checks if not check.because)
        skipped = sum(1 for check in self.checks if check.because)
        head = (
            f"{counted['failed']} failed, {counted['warning']} to look at, {counted['ok']} fine"
            + (f", {counted['unknown']} cannot be told" if counted["unknown"] else "")
            + (f", {skipped} not looked at" if skipped else "")
        )
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        lines = [
            f"comfy_client doctor: {head}",
            f"{self.host}, {self.started:%Y-%m-%d %H:%M:%S} UTC, {self.seconds:.1f} s",
            *_hanging("", versions),
            "",
        ]
        for check in self.checks:
            if not check.because:
                label = check.state.upper() if check.state == "failed" else check.state
                lines += _hanging(f"{label:<8} {check.name:<12} ", check.found)
                if check.advice:
                    lines += _hanging(" " * 20 + "-> ", check.advice)
        for cause in dict.fromkeys(check.because for check in self.checks if check.because):
            names = [check.name for check in self.checks if check.because == cause]
            what = f"since {cause!r} has to work first: {', '.join(names)}"
            lines += _hanging(f"{'-':<8} {'not made':<12} ", what)
        return "\n".join(lines)


def _hanging(label: str, text: str) -> list[str]:
    return textwrap.wrap(
        text,
        98,
        initial_indent=label,
        subsequent_indent=" " * len(label),
        break_on_hyphens=False,
        break_long_words=False,
    )


# -- what is not shown ------------------------------------------------------------------


class Redactor:
    """Takes out of a text what nobody else should read."""

    def __init__(self, api: ComfyApi) -> None:
        self._api = api
        self._secrets = Secrets()  # grows: a callable may give other credentials each time
        self._home = os.path.expanduser("~")
        self._login = ""
        with contextlib.suppress(OSError, KeyError, ImportError):
            self._login = getpass.getuser()

    def __call__(self, text: str) -> str:
        """One line, without names of people.

        Words that are secret stay: hidden in a text that is known they would be told.
        """
        prefix = self._api._http.address.prefix
        for way in (prefix, unquote(prefix)):
            if way:
                text = text.replace(way, f"/{STARS}")
        if len(self._home) > 1:
            text = text.replace(self._home, "~")
        if self._login:
            name = re.escape(self._login)
            text = re.sub(rf"(?<=[/\\]){name}(?=[/\\'\"]|$)", STARS, text)
        return "".join(sign if sign.isprintable() else "?" for sign in " ".join(text.split()))

    def told(self, text: object) -> str:
        """The same of what others wrote, and without secrets."""
        self._learn()
        return self(self._secrets.hide_text(str(text)))

    def _learn(self) -> None:
        """Whatever was given to the client, or stands in the environment, that may be secret."""
        http = self._api._http
        http.tell_secrets(self._secrets)
        self._secrets.add_headers(http._given_headers)
        session = http._session
        words = [self._api.client_id, http._user or ""]
        for holder in (session.auth, http.credentials):
            values = holder if isinstance(holder, tuple) else _fields(holder)
            words += [value for value in values if isinstance(value, str)]
        if isinstance(http.credentials, creds.EnvCredentials):
            value = os.environ.get(http.credentials.variable, "")
            words += [value, *value.split(":", 1)]
        words += [str(cookie.value) for cookie in session.cookies]
        if http._template is not None:  # else nothing was sent yet
            self._secrets.add_headers(http._template.headers)
        proxies = [*(http._proxies or {}).values(), *session.proxies.values()]
        proxies += [value for name, value in os.environ.items() if name.lower().endswith("_proxy")]
        for proxy in filter(None, proxies):
            userinfo = proxy.rpartition("@")[0].rpartition("//")[2]
            pair = (userinfo, *userinfo.split(":", 1))
            words += [*pair, *map(unquote, pair)]
        self._secrets.add(words)


def _fields(holder: object) -> Iterable[object]:
    if isinstance(holder, creds.EnvCredentials):
        return ()  # the name of a variable, which is told
    names = getattr(type(holder), "__attrs_attrs__", ())
    values = [getattr(holder, field.name, None) for field in names]
    values += getattr(holder, "__dict__", {}).values()
    nested = [value.values() for value in values if isinstance(value, Mapping)]
    return [*values, *(inner for inners in nested for inner in inners)]


# -- all of it -------------------------------------------------------------------------


class _Step(NamedTuple):
    name: str
    needs: tuple[str, ...]
    check: Callable[[Visit], Found]
    limit: float = _LIMIT


_STEPS = (
    _Step("proxy", (), Visit.proxy),
    _Step("name", ("proxy",), Visit.name, 5.0),
    _Step("port", ("name",), Visit.port),
    _Step("tls", ("port",), Visit.tls),
    _Step("credentials", (), Visit.credentials),
    _Step("http", ("tls", "credentials"), Visit.answers),
    _Step("clock", ("http",), Visit.clock),
    _Step("auth", ("http",), Visit.auth),
    _Step("comfyui", ("auth",), Visit.comfyui),
    _Step("origin", ("comfyui",), Visit.origin),
    _Step("version", ("comfyui",), Visit.version),
    _Step("features", ("comfyui",), Visit.told),
    _Step("websocket", ("comfyui",), Visit.websocket),
    _Step("greeting", ("websocket",), Visit.greeting),
    _Step("echo", ("greeting",), Visit.echo, 5.0),
    _Step("previews", ("comfyui",), Visit.previews),
    _Step("upload", ("comfyui",), Visit.upload),
    _Step("memory", ("comfyui",), Visit.memory),
    _Step("user", ("comfyui",), Visit.user),
    _Step("queue", ("comfyui",), Visit.queue),
    _Step("run", ("comfyui",), Visit.run, float("inf")),
    _Step("client", (), Visit.client),
)


def examine(api: ComfyApi, *, run: bool, timeout: float) -> DoctorReport:
    """See :meth:`ComfyApi.doctor`."""
    if not timeout > 0:
        raise ValueError("timeout is in seconds, more than 0")
    api._check_open()
    started = datetime.now(UTC)
    visit = Visit(api, Redactor(api), timeout)
    made: dict[str, DoctorCheck] = {}
    try:
        for step in _STEPS:
            if step.name != "run" or run:
                made[step.name] = _make(visit, step, made)
    finally:
        visit.finish()
    address = api._http.address
    return DoctorReport(
        checks=tuple(made.values()),
        host=f"{address.scheme}://{address.netloc}{'/***' if address.prefix else ''}",
        started=started,
        seconds=time.monotonic() - visit.started,
        versions=_versions(),
    )


def _make(visit: Visit, step: _Step, made: Mapping[str, DoctorCheck]) -> DoctorCheck:
    for need in step.needs:
        before = made[need]
        if before.state in ("failed", "unknown"):
            cause = before.because or need
            return DoctorCheck(step.name, "unknown", f"not made: {cause!r} first", because=cause)
    if time.monotonic() >= visit.end:
        text, advice = "not made: the time was over", "give the doctor a longer timeout"
        return DoctorCheck(step.name, "unknown", text, advice)
    begun = time.monotonic()
    state, found, advice = visit.look(step.name, step.check, step.limit)
    seconds = time.monotonic() - begun
    found, advice = visit.redact(found), visit.redact(advice)
    return DoctorCheck(step.name, state, found, advice, seconds=seconds)


def _versions() -> dict[str, str]:
    libraries = ("requests", "urllib3", "certifi", "websocket-client", "attrs", "blinker")
    return {
        "comfy_client": __version__,
        "Python": platform.python_version(),
        "platform": platform.platform(),
        "OpenSSL": ssl.OPENSSL_VERSION.removeprefix("OpenSSL ").partition(" ")[0],
        **{name: version_of(name) for name in libraries},
    }
